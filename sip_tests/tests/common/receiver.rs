//! A receiver of callbacks: takes what it is told to take, and checks every signature by itself.

use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// What a receiver does with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// 200.
    Take,
    /// 500.
    Refuse,
    /// Closes the connection without a word.
    Hang,
}

/// One callback that came.
#[derive(Debug, Clone)]
pub struct Callback {
    /// What was done with it.
    pub mood: Mood,
    /// All of its parameters.
    pub parameters: BTreeMap<String, String>,
    /// Its signatures are those of the token.
    pub signed: bool,
    /// `X-Maskline-Event-UUID`.
    pub uuid: String,
    /// GET or POST.
    pub method: String,
    /// Another one of the same session had not been answered yet.
    pub overlaps: bool,
    /// The request as it came.
    pub raw: String,
}

impl Callback {
    /// A parameter.
    pub fn get(&self, name: &str) -> &str {
        self.parameters.get(name).map_or("", String::as_str)
    }

    /// `SequenceNumber`.
    pub fn sequence(&self) -> u64 {
        self.get("SequenceNumber").parse().unwrap()
    }
}

/// Listens until it is dropped.
pub struct Receiver {
    /// Its URL, which has a query of its own.
    pub url: String,
    seen: Arc<Seen>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Receiver {
    /// `mood` is asked with the number of each request, from 0. Requests are signed with `token`.
    pub async fn start(token: &str, mood: fn(usize) -> Mood) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/cb?app=1&x=a%20b", listener.local_addr().unwrap());
        let seen = Arc::new(Seen::default());
        let (all, token) = (Arc::clone(&seen), token.to_owned());
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, token.clone(), mood, Arc::clone(&all)));
            }
        });
        Self { url, seen, task }
    }

    /// All that came so far, in order.
    pub fn came(&self) -> Vec<Callback> {
        self.seen.came.lock().unwrap().clone()
    }

    /// The names of the events of a session that were taken, in order.
    pub fn taken(&self, session: &str) -> Vec<String> {
        let came = self.came();
        let of = |callback: &&Callback| callback.mood == Mood::Take && callback.get("SessionUUID") == session;
        came.iter().filter(of).map(|callback| callback.get("EventName").to_owned()).collect()
    }
}

/// In the order of each session: the first attempt of one follows the success of the one before, and nothing is sent
/// while another one is under way.
pub fn assert_in_order(came: &[Callback]) {
    let mut last: BTreeMap<&str, (u64, bool)> = BTreeMap::new();
    for callback in came {
        let name = callback.get("EventName");
        assert!(!callback.overlaps, "{name} comes while another one is under way");
        let (sequence, success) = last.entry(callback.get("SessionUUID")).or_insert((0, true));
        match callback.sequence().cmp(sequence) {
            std::cmp::Ordering::Greater => {
                assert!(*success, "{name} begins before {sequence} was taken");
                (*sequence, *success) = (callback.sequence(), callback.mood == Mood::Take);
            }
            std::cmp::Ordering::Equal => *success |= callback.mood == Mood::Take,
            std::cmp::Ordering::Less => panic!("{name} comes back"),
        }
    }
}

/// What has come and what is not answered yet.
#[derive(Default)]
struct Seen {
    came: Mutex<Vec<Callback>>,
    /// Sessions.
    open: Mutex<BTreeSet<String>>,
}

/// Requests of one connection, one after the other.
async fn serve(stream: TcpStream, token: String, mood: fn(usize) -> Mood, seen: Arc<Seen>) -> Option<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut head = vec![];
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await.ok()? == 0 {
                return None;
            }
            if line == "\r\n" {
                break;
            }
            head.push(line.trim_end().to_owned());
        }
        let header = |name: &str| {
            head.iter().find_map(|line| {
                let (found, value) = line.split_once(':')?;
                found.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
            })
        };
        let length = header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.ok()?;
        let body = String::from_utf8(body).unwrap();
        let mut first = head[0].split(' ');
        let (method, target) = (first.next()?.to_owned(), first.next()?.to_owned());
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let base = format!("http://{}{path}", header("host")?);
        let (query, form) = (pairs(query), pairs(&body));
        let nonce = header("x-plivo-signature-v3-nonce").unwrap_or_default();
        let text = text(&method, &base, &query, &form, &nonce);
        let wanted = super::base64(&hmac(token.as_bytes(), text.as_bytes()));
        let signed = nonce.len() == 20
            && ["x-plivo-signature-v3", "x-plivo-signature-ma-v3"]
                .iter()
                .all(|name| header(name).as_deref() == Some(wanted.as_str()));
        let parameters: BTreeMap<String, String> = query.into_iter().chain(form).collect();
        let session = parameters.get("SessionUUID").cloned().unwrap_or_default();
        let mood = {
            let overlaps = !seen.open.lock().unwrap().insert(session.clone());
            let mut came = seen.came.lock().unwrap();
            let mood = mood(came.len());
            let uuid = header("x-maskline-event-uuid").unwrap_or_default();
            let raw = format!("{}\n\n{body}\n", head.join("\n"));
            came.push(Callback { mood, parameters, signed, uuid, method, overlaps, raw });
            mood
        };
        // Long enough for another one to come in between, if there is one.
        tokio::time::sleep(Duration::from_millis(2)).await;
        seen.open.lock().unwrap().remove(&session);
        let answer = match mood {
            Mood::Take => "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            Mood::Refuse => "HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n",
            Mood::Hang => return None,
        };
        stream.write_all(answer.as_bytes()).await.ok()?;
    }
}

/// What is signed, in the words of the reference.
fn text(
    method: &str,
    base: &str,
    query: &[(String, String)],
    form: &[(String, String)],
    nonce: &str,
) -> String {
    let (mut query, mut form) = (query.to_vec(), form.to_vec());
    query.sort();
    form.sort();
    let query: Vec<_> = query.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let query = query.join("&");
    let form: String = form.into_iter().map(|(name, value)| name + &value).collect();
    match (method, query.is_empty()) {
        ("GET", _) => format!("{base}?{query}.{nonce}"),
        (_, true) => format!("{base}?{form}.{nonce}"),
        (_, false) => format!("{base}?{query}.{form}.{nonce}"),
    }
}

fn pairs(text: &str) -> Vec<(String, String)> {
    let split = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decoded(name), decoded(value))
    };
    text.split('&').filter(|pair| !pair.is_empty()).map(split).collect()
}

fn decoded(text: &str) -> String {
    let mut bytes = vec![];
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let hex = [rest.next().unwrap(), rest.next().unwrap()];
                u8::from_str_radix(std::str::from_utf8(&hex).unwrap(), 16).unwrap()
            }
            other => other,
        });
    }
    String::from_utf8(bytes).unwrap()
}

/// HMAC-SHA256 (RFC 2104) with a key that is no longer than a block.
fn hmac(key: &[u8], text: &[u8]) -> Vec<u8> {
    let padded = |with: u8| -> Vec<u8> {
        let mut block = [0; 64];
        block[..key.len()].copy_from_slice(key);
        block.iter().map(|byte| byte ^ with).collect()
    };
    let inner = Sha256::digest([padded(0x36), text.to_vec()].concat());
    Sha256::digest([padded(0x5c), inner.to_vec()].concat()).to_vec()
}

//! The real service in this process, on loopback ports of its own, and its REST API.

// Each test file uses a part of this.
#![allow(dead_code, unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::disallowed_methods)]

use maskline::config::Config;
use maskline::service::Service;
use serde_json::{Value, json};
use sip_tests::phone::Phone;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Everything that is waited for comes within this time, on the slowest machine.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Parties of the sessions that tests make, and a number that no session knows.
pub const FIRST: &str = "+12025550142";
/// See [`FIRST`].
pub const SECOND: &str = "+12025550143";
/// See [`FIRST`].
pub const STRANGER: &str = "+12025550177";

/// A service under test. Dropping it removes its folder.
pub struct Server {
    /// The service itself.
    pub service: Service,
    /// Its UDP listener.
    pub sip: SocketAddr,
    /// Its TCP listener.
    pub sip_tcp: SocketAddr,
    /// Database and recordings.
    pub folder: PathBuf,
    auth_id: String,
    auth_token: String,
}

/// What a server is configured with beside the fixture's own lines.
pub struct Setup {
    /// Lines of `[sip]`.
    pub sip: &'static str,
    /// Lines of `[media]`.
    pub media: &'static str,
    /// Lines of the one trunk.
    pub trunk: &'static str,
    /// How many virtual numbers there are, from +12025550100 on.
    pub numbers: usize,
    /// Lines of every number.
    pub number: &'static str,
}

impl Default for Setup {
    fn default() -> Self {
        Self { sip: "", media: "", trunk: "", numbers: 1, number: "" }
    }
}

impl Server {
    /// A service whose one trunk sends B-legs to `callee`.
    pub async fn start(callee: &Phone) -> Self {
        Self::with(callee.address(), Setup::default()).await
    }

    /// The same with settings.
    pub async fn with(gateway: SocketAddr, setup: Setup) -> Self {
        let folder = std::env::temp_dir().join(format!("maskline-test-{:016x}", rand::random::<u64>()));
        let path = folder.display();
        let Setup { sip, media, trunk, numbers, number } = setup;
        let numbers: String = (0..numbers)
            .map(|n| format!("[[numbers]]\nnumber = \"+120255501{n:02}\"\ntrunk = \"carrier\"\n{number}\n"))
            .collect();
        let text = format!(
            "[sip]\nlisten = [\"udp://127.0.0.1:0\", \"tcp://127.0.0.1:0\"]\n{sip}\n[media]\n{media}\n\
             [http]\nlisten = \"127.0.0.1:0\"\n[store]\nurl = \"sqlite://{path}/maskline.db\"\n\
             [recordings]\ndirectory = \"{path}/recordings\"\n\
             [[trunks]]\nname = \"carrier\"\ngateways = [\"sip:{gateway};transport=udp\"]\n\
             allow = [\"127.0.0.0/8\"]\n{trunk}\n{numbers}"
        );
        let config =
            Config::read(&text, std::iter::empty()).unwrap_or_else(|errors| panic!("{errors}\n{text}"));
        let service = Service::start(&config).await.unwrap();
        let of = |wanted| {
            service
                .sip()
                .into_iter()
                .find(|(protocol, _)| *protocol == wanted)
                .map(|(_, address)| address)
                .unwrap()
        };
        let (sip, sip_tcp) =
            (of(maskline::sip::transport::Protocol::Udp), of(maskline::sip::transport::Protocol::Tcp));
        let account = service.new_account().unwrap();
        let (auth_id, auth_token) = (account.auth_id.clone(), account.auth_token.clone());
        Self { service, sip, sip_tcp, folder, auth_id, auth_token }
    }

    /// A session between [`FIRST`] and [`SECOND`], with further parameters. Returns the answer.
    pub async fn session(&self, more: Value) -> Value {
        let mut body = json!({ "first_party": FIRST, "second_party": SECOND });
        for (key, value) in more.as_object().into_iter().flatten() {
            body[key] = value.clone();
        }
        let (status, answer) = self.api("POST", "Masking/Session/", Some(&body)).await;
        assert_eq!(status, 201, "{answer}");
        answer
    }

    /// The session's virtual number.
    pub fn number(session: &Value) -> String {
        session["virtual_number"].as_str().unwrap().to_owned()
    }

    /// A request below `/v1/Account/{auth_id}/`.
    pub async fn api(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        let (status, text) = self.http(method, &format!("/v1/Account/{}/{path}", self.auth_id), body).await;
        (status, serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    /// Any request.
    pub async fn http(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, String) {
        let body = body.map(ToString::to_string).unwrap_or_default();
        let token = base64(format!("{}:{}", self.auth_id, self.auth_token).as_bytes());
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nAuthorization: Basic {token}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            self.service.http(),
            body.len()
        );
        let mut stream = TcpStream::connect(self.service.http()).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    /// Waits until a recording is filed that is not among `known`; returns its folder.
    pub async fn recording(&self, known: &[PathBuf]) -> PathBuf {
        until("a recording is filed", || {
            folders(&self.folder.join("recordings"))
                .into_iter()
                .find(|folder| !known.contains(folder) && folder.join("call.json").exists())
        })
        .await
    }

    /// Waits until no call is live and every record is stored.
    pub async fn settled(&self) {
        let shell = self.service.shell();
        until("every call has ended and is stored", || {
            (shell.live_calls() == 0 && shell.unsettled_calls() == 0).then_some(())
        })
        .await;
    }

    /// The interactions of a session, as the API shows them.
    pub async fn interactions(&self, session: &Value) -> Vec<Value> {
        let uuid = session["session_uuid"].as_str().unwrap();
        let (_, answer) = self.api("GET", &format!("Masking/Session/{uuid}/"), None).await;
        answer["response"]["interaction"].as_array().cloned().unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Every folder of a call below the recordings directory.
pub fn folders(directory: &Path) -> Vec<PathBuf> {
    let mut folders = vec![directory.to_owned()];
    for _ in ["year", "month", "day", "interaction"] {
        let children = |folder: &PathBuf| {
            std::fs::read_dir(folder)
                .into_iter()
                .flatten()
                .flatten()
                .map(|entry| entry.path())
                .collect::<Vec<_>>()
        };
        folders = folders.iter().flat_map(children).filter(|path| path.is_dir()).collect();
    }
    folders
}

/// Looks again and again until `find` finds something; fails after [`PATIENCE`].
pub async fn until<T>(what: &str, find: impl Fn() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(found) = find() {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let value =
            chunk.iter().fold(0u32, |value, byte| (value << 8) | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let digit = ALPHABET[(value >> (18 - 6 * place)) as usize & 63];
            text.push(if place <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

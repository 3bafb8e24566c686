//! Mutated SIP messages against the running service, by UDP and TCP: it neither exits nor hangs, OPTIONS is answered
//! within a second throughout, and memory stays where it was.
//!
//! What is mutated: the torture messages of RFC 4475 and 5118, and what was said in a real call, whose dialogs are up.
//! Everything follows from five seeds. `MUTATIONS=1000000 cargo test -p sip_tests --test mutations -- --nocapture` sends
//! that many messages, a fifth from each seed.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests may panic like tests")]

mod common;
#[path = "fuzz/mutate.rs"]
mod mutate;

use common::child::{Process, configure, serve_if_child};
use common::{FIRST, PATIENCE, SECOND, Setup, base64};
use maskline::sip::wire::{Frame, Framer};
use mutate::Mutator;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use sip_tests::clock;
use sip_tests::phone::{CallOptions, IncomingCall, OutgoingCall, Phone};
use sip_tests::sdp::SdpOptions;
use sip_tests::transcript::{Direction, Kind};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};

const SEEDS: [u64; 5] = [1, 2, 3, 4, 5];
/// Messages when nothing else is said.
const FEW: usize = 20_000;
/// Every so many messages it is asked whether the service is there.
const BATCH: usize = 40;
/// Largest batch by UDP, in bytes: what the smallest receive buffer of a system holds.
const BATCH_BYTES: usize = 80_000;
/// Of so many batches one goes by TCP.
const BY_TCP: usize = 5;
/// What OPTIONS may take, lost datagrams and repeats included.
const ANSWER: Duration = Duration::from_secs(1);
/// A build without optimisation on a machine that does other things as well may stand still for a moment.
const LENIENCE: u32 = 3;
/// And not for so long, whatever else runs.
const STANDSTILL: Duration = Duration::from_secs(15);
/// API requests for so many SIP messages.
const REQUESTS: usize = 10;
/// How many ended connections are kept, so that what they said is read before they are cut.
const LINGERING: usize = 64;
/// What memory may grow by after the first fifth, beside what calls that linger take, in KiB.
const GROWTH: u64 = 48 * 1024;

/// The service, in the process that the test starts; nothing in any other.
#[test]
fn child() {
    serve_if_child();
}

fn messages() -> usize {
    std::env::var("MUTATIONS").ok().map_or(FEW, |text| text.parse().expect("MUTATIONS is a number"))
}

fn torture() -> Vec<Vec<u8>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("torture");
    let mut paths: Vec<_> = ["rfc4475", "rfc5118"]
        .iter()
        .flat_map(|rfc| std::fs::read_dir(folder.join(rfc)).unwrap())
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

/// What a phone has sent by SIP so far.
fn said(phone: &Phone) -> Vec<Vec<u8>> {
    let sent =
        |entry: &sip_tests::transcript::Entry| entry.kind == Kind::Sip && entry.direction == Direction::Sent;
    phone
        .transcript()
        .entries()
        .iter()
        .filter(|entry| sent(entry))
        .map(|entry| entry.bytes.to_vec())
        .collect()
}

/// A message with one changed byte. Every second time it is of a call of its own, and mostly of a caller whom nobody
/// knows, so that it is neither taken for a repetition nor rings.
fn nearly_right(random: &mut StdRng, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut message = seeds[random.random_range(0..seeds.len())].clone();
    if random.random_bool(0.5) {
        let mut text = String::from_utf8_lossy(&message).into_owned();
        let token = format!("{:016x}", random.random::<u64>());
        for name in ["Call-ID: ", "i: ", "Call-ID:"] {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
            if let Some(id) = line.filter(|id| !id.is_empty()) {
                text = text.replace(&id, &token);
                break;
            }
        }
        text = text.replace("branch=z9hG4bK", &format!("branch=z9hG4bK{token}"));
        if random.random_ratio(49, 50) {
            text = text.replace(FIRST, "+12025550199").replace(SECOND, "+12025550198");
        }
        message = text.into_bytes();
    }
    let place = random.random_range(0..message.len());
    match random.random_range(0..4) {
        0 => drop(message.remove(place)),
        1 => message.insert(place, random.random()),
        2 => message[place] ^= 1 << random.random_range(0..8),
        _ => {}
    }
    message
}

/// Asks by OPTIONS until an answer comes; repeats as RFC 3261 §17.1.2.2 has it.
struct Watch {
    socket: UdpSocket,
    service: SocketAddr,
    asked: u64,
    worst: Duration,
    /// What the service worked for in the time of the worst answer: little, if the machine was busy with other things.
    worked: Duration,
    /// The longest of the times that an answer took and that the service worked for meanwhile.
    busiest: Duration,
    /// After which message that was.
    at: usize,
}

impl Watch {
    async fn ask(&mut self, service: &Process, sent: usize) {
        let worked = service.processor_time();
        let took = self.answer().await;
        let worked = service.processor_time() - worked;
        self.busiest = self.busiest.max(took.min(worked));
        if took > self.worst {
            (self.worst, self.worked, self.at) = (took, worked, sent);
        }
    }

    async fn answer(&mut self) -> Duration {
        self.asked += 1;
        let (number, own) = (self.asked, self.socket.local_addr().unwrap());
        let text = format!(
            "OPTIONS sip:{service} SIP/2.0\r\nVia: SIP/2.0/UDP {own};branch=z9hG4bKwatch{number};rport\r\n\
             From: <sip:watch@{own}>;tag=w\r\nTo: <sip:{service}>\r\nCall-ID: watch{number}\r\nCSeq: 1 OPTIONS\r\n\
             Max-Forwards: 70\r\nContent-Length: 0\r\n\r\n",
            service = self.service,
        );
        let wanted = format!("Call-ID: watch{number}\r\n");
        let began = clock::now();
        let mut buffer = vec![0; 4000];
        let answered = async {
            loop {
                self.socket.send_to(text.as_bytes(), self.service).await.unwrap();
                let answer = async {
                    loop {
                        let (length, _) = self.socket.recv_from(&mut buffer).await.unwrap();
                        let answer = String::from_utf8_lossy(&buffer[..length]);
                        if answer.starts_with("SIP/2.0 200") && answer.contains(&wanted) {
                            return;
                        }
                    }
                };
                if tokio::time::timeout(Duration::from_millis(250), answer).await.is_ok() {
                    return;
                }
            }
        };
        // It is measured first and judged at the end, so that a machine that stands still for a moment is told from a
        // service that does.
        tokio::time::timeout(PATIENCE, answered).await.expect("the service hangs: no answer to OPTIONS");
        clock::now() - began
    }
}

/// Connections, one after the other, from addresses in turn.
struct Streams {
    service: SocketAddr,
    opened: u64,
    ended: VecDeque<TcpStream>,
}

impl Streams {
    /// Sends a batch as one stream after the other: whatever breaks a stream ends it.
    async fn send(&mut self, batch: &[Vec<u8>]) {
        let mut stream: Option<TcpStream> = None;
        for message in batch {
            let open = match stream.take() {
                Some(open) => open,
                None => self.open().await,
            };
            let mut open = open;
            // The service may have closed it already.
            let written = open.write_all(message).await;
            // What its own framer makes of it tells whether the stream goes on.
            let goes_on = written.is_ok() && is_whole(message);
            if goes_on { stream = Some(open) } else { self.end(open).await }
        }
        if let Some(open) = stream {
            self.end(open).await;
        }
    }

    async fn open(&mut self) -> TcpStream {
        self.opened += 1;
        let source = u8::try_from(100 + self.opened % 100).unwrap();
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from(([127, 0, 0, source], 0))).unwrap();
        tokio::time::timeout(PATIENCE, socket.connect(self.service)).await.unwrap().unwrap()
    }

    /// Says that nothing more comes. Cut is the connection later, when everything that it said has been read.
    async fn end(&mut self, mut stream: TcpStream) {
        let _ = stream.shutdown().await;
        self.ended.push_back(stream);
        if self.ended.len() > LINGERING {
            let oldest = self.ended.pop_front().unwrap();
            // No TIME_WAIT: there are more connections than ports.
            let _ = oldest.set_zero_linger();
        }
    }
}

/// Nothing but whole messages and keep-alives, as the framer of the service sees it.
fn is_whole(mut bytes: &[u8]) -> bool {
    let mut framer = Framer::new();
    while !bytes.is_empty() {
        match framer.frame(bytes) {
            Frame::Message { length } | Frame::KeepAlive { length, .. } if length > 0 => {
                let Some(rest) = bytes.get(length..) else { return false };
                bytes = rest;
            }
            _ => return false,
        }
    }
    true
}

/// A call of one party that is up: its dialogs are what half of the mutated messages are about.
async fn talk(
    service: &Process,
    number: &str,
    (caller, from): (&Phone, &str),
    (callee, to): (&Phone, &str),
) -> (OutgoingCall, IncomingCall) {
    let call = caller.call(service.sip, number, CallOptions::from(from)).await.unwrap();
    // Some of the mutated messages ring as well.
    let incoming = loop {
        let incoming = callee.next_call(PATIENCE).await.unwrap();
        if incoming.request().uri().unwrap().contains(to) {
            break incoming;
        }
    };
    incoming.ring().await.unwrap();
    incoming.answer(SdpOptions::default()).await.unwrap();
    call.answered(PATIENCE).await.unwrap();
    incoming.wait_ack(PATIENCE).await.unwrap();
    (call, incoming)
}

#[tokio::test(flavor = "multi_thread")]
async fn mutated_messages_neither_end_nor_hang_the_service() {
    let total = messages();
    let (caller, callee) = (common::phone("caller").await, common::phone("callee").await);
    let folder = std::env::temp_dir().join(format!("maskline-mutations-{:016x}", rand::random::<u64>()));
    let config = configure(&folder, callee.address());
    let mut service = Process::start(&config).await;
    let body = json!({ "first_party": FIRST, "second_party": SECOND, "record": false });
    let (status, session) = service.api("POST", "Masking/Session/", Some(&body)).await;
    assert_eq!(status, 201, "{session}");
    let number = session["virtual_number"].as_str().unwrap().to_owned();
    // What both sides say in a call that ended, and in one that is still up.
    let (call, incoming) = talk(&service, &number, (&caller, FIRST), (&callee, SECOND)).await;
    assert_eq!(call.reinvite(Some("sendonly"), PATIENCE).await.unwrap().status(), Some(200));
    assert_eq!(call.update(None, PATIENCE).await.unwrap().status(), Some(200));
    call.info_dtmf('5', 100, PATIENCE).await.unwrap();
    call.hang_up().await.unwrap();
    incoming.wait_bye(PATIENCE).await.unwrap();
    let (_call, _incoming) = talk(&service, &number, (&caller, FIRST), (&callee, SECOND)).await;
    let seeds = [torture(), said(&caller), said(&callee)].concat();

    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let attacker = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut watch = Watch {
        socket,
        service: service.sip,
        asked: 0,
        worst: Duration::ZERO,
        worked: Duration::ZERO,
        busiest: Duration::ZERO,
        at: 0,
    };
    let mut streams = Streams { service: service.sip_tcp, opened: 0, ended: VecDeque::new() };
    let (mut sent, mut by_tcp, mut batches) = (0, 0, 0usize);
    let mut memory = vec![];
    let began = clock::now();
    for seed in SEEDS {
        let (mut mutator, mut random) = (Mutator::new(seed), StdRng::seed_from_u64(seed));
        let end = sent + total.div_ceil(SEEDS.len());
        while sent < end {
            let (mut batch, mut bytes) = (vec![], 0);
            while batch.len() < BATCH.min(end - sent) && bytes < BATCH_BYTES {
                // Half of them are so damaged that few can be read, half are all but right.
                let message = match sent % 2 + batch.len() % 2 {
                    1 => mutator.next(&seeds),
                    _ => nearly_right(&mut random, &seeds),
                };
                bytes += message.len();
                batch.push(message);
            }
            batches += 1;
            if batches.is_multiple_of(BY_TCP) {
                streams.send(&batch).await;
                by_tcp += batch.len();
            } else {
                for message in &batch {
                    // What is too large for a datagram is not sent; the network would not carry it either.
                    let _ = attacker.send_to(message, service.sip).await;
                }
            }
            sent += batch.len();
            watch.ask(&service, sent).await;
            if batches.is_multiple_of(64) {
                assert!(service.is_alive(), "the service has exited: seed {seed}, before message {sent}");
                memory.push((sent, service.memory()));
            }
        }
        assert!(service.is_alive(), "the service has exited: seed {seed}");
        memory.push((sent, service.memory()));
        let tasks = service.metric("maskline_call_tasks").await;
        println!("{sent} messages: {} MiB, {tasks} calls linger", service.memory() / 1024);
    }

    let panics = service.metric("maskline_sip_panics_total").await
        + service.metric("maskline_internal_errors_total").await;
    let received = service.metric("maskline_sip_received_total").await;
    let malformed = service.metric("maskline_sip_malformed_total").await;
    let calls = service.metric("maskline_calls_total").await;
    let before = memory.iter().find(|(at, _)| *at >= sent / 5).unwrap().1;
    let most = memory.iter().map(|(_, kib)| *kib).max().unwrap();
    println!(
        "{sent} messages ({by_tcp} by TCP in {} connections) in {:.0} s: {received} received, {malformed} malformed, \
         {calls} calls; OPTIONS {} times, at most {:?} (after message {}, {:?} of processor time); memory {} MiB after a fifth, {} MiB at most, {} MiB at the \
         end; {} descriptors",
        streams.opened,
        (clock::now() - began).as_secs_f64(),
        watch.asked,
        watch.worst,
        watch.at,
        watch.worked,
        before / 1024,
        most / 1024,
        memory.last().unwrap().1 / 1024,
        service.descriptors(),
    );
    assert_eq!(panics, 0.0, "a message met a bug");
    // What the service takes for itself counts; what others take of the machine does not, within reason.
    assert!(watch.busiest <= ANSWER * LENIENCE, "OPTIONS took {:?} of work", watch.busiest);
    assert!(watch.worst <= STANDSTILL, "OPTIONS took {:?}", watch.worst);
    // A short run ends while its first calls still linger, which is no leak.
    let lingering = service.metric("maskline_call_tasks").await;
    let allowed = before + GROWTH + lingering as u64 * 16;
    assert!(most <= allowed, "memory grew from {before} to {most} KiB with {lingering} calls");
    // Most of it really arrived.
    assert!(received >= sent as f64 * 0.6, "{received} of {sent} were received");

    // It takes calls as before. This one goes the other way, so that it is told from all that still ring.
    let (call, incoming) = talk(&service, &number, (&caller, SECOND), (&callee, FIRST)).await;
    call.hang_up().await.unwrap();
    incoming.wait_bye(PATIENCE).await.unwrap();
    service.kill().await;
    std::fs::remove_dir_all(&folder).unwrap();
}

/// Good requests: method, path below the account, content type, body.
fn requests(session: &str) -> Vec<(&'static str, String, &'static str, String)> {
    let (json, form) = ("application/json", "application/x-www-form-urlencoded");
    let create = json!({
        "first_party": FIRST, "second_party": SECOND, "session_expiry": 3600, "call_time_limit": 600, "record": true,
        "callback_url": "https://example.com/cb?x=1", "is_pin_authentication_required": true,
        "first_party_pin": "4711", "second_party_pin": "0815", "pin_retry": 2, "pin_retry_wait": 5,
        "pin_prompt_play": "https://example.com/a.wav", "ring_timeout": 45, "subaccount": null, "geomatch": false,
    });
    let list = "Masking/Session/?limit=20&offset=0&status=active&created_time__gte=2026-01-01%2000:00:00";
    let call = "Call/?limit=3&call_direction=inbound&end_time__gt=2026-01-01&subaccount=";
    vec![
        ("POST", "Masking/Session/".into(), json, create.to_string()),
        (
            "POST",
            "Masking/Session/".into(),
            form,
            "first_party=%2B12025550142&second_party=919876543210&record=0".into(),
        ),
        (
            "POST",
            format!("Masking/Session/{session}/"),
            json,
            r#"{"session_expiry": 0, "record": "false"}"#.into(),
        ),
        ("GET", list.into(), json, String::new()),
        ("GET", format!("Masking/Session/{session}/"), json, String::new()),
        ("DELETE", format!("Masking/Session/{session}/?hangup=true"), json, String::new()),
        ("GET", call.into(), json, String::new()),
        (
            "POST",
            "Number/".into(),
            "text/csv",
            "number,trunk\n+12025550161,carrier\n\"+12025550162\",carrier\n".into(),
        ),
        ("POST", "Number/".into(), json, r#"{"number": "+12025550163", "trunk": "carrier"}"#.into()),
        ("POST", "Subaccount/".into(), json, r#"{"name": "one", "enabled": true}"#.into()),
        ("POST", "Event/Replay/".into(), json, format!(r#"{{"session_uuid": "{session}"}}"#)),
        ("GET", "Recording/?call_uuid=&limit=1".into(), json, String::new()),
    ]
}

/// Mutated requests to the API: each gets an answer, and none of them says that the fault is ours.
#[tokio::test(flavor = "multi_thread")]
async fn mutated_api_requests_get_an_answer_that_is_no_500() {
    let setup = Setup { http: "requests_per_5_seconds = 1000000", ..Setup::default() };
    let pair = common::talk::Pair::with(setup).await;
    let session = pair.server.session(json!({})).await;
    let seeds = requests(session["session_uuid"].as_str().unwrap());
    let (http, id, token) = pair.server.door();
    let credentials = base64(format!("{id}:{token}").as_bytes());
    let (mut random, mut statuses) =
        (StdRng::seed_from_u64(7), std::collections::BTreeMap::<u16, usize>::new());
    let mut mutator = Mutator::new(7);
    let bodies: Vec<Vec<u8>> = seeds.iter().map(|seed| seed.3.clone().into_bytes()).collect();
    for number in 0..messages() / REQUESTS {
        let (method, path, kind, body) = &seeds[random.random_range(0..seeds.len())];
        let whole_head = random.random_bool(0.7);
        let body = match random.random_range(0..3) {
            0 => mutator.next(&bodies),
            1 if !body.is_empty() => nearly_right(&mut random, &[body.clone().into_bytes()]),
            _ => body.clone().into_bytes(),
        };
        let mut head = format!(
            "{method} /v1/Account/{id}/{path} HTTP/1.1\r\nHost: {http}\r\nAuthorization: Basic {credentials}\r\n\
             Content-Type: {kind}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        if !whole_head {
            head = nearly_right(&mut random, &[head]);
        }
        let mut stream = TcpStream::connect(http).await.unwrap();
        // It may be refused before all of it is written.
        let _ = stream.write_all(&[head.as_slice(), &body].concat()).await;
        if !whole_head {
            // Or it would wait for the rest, as long as a head may take.
            let _ = stream.shutdown().await;
        }
        let mut answer = vec![];
        let reading = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
        assert!(reading.is_ok(), "request {number} hangs: {}", String::from_utf8_lossy(&head));
        let text = String::from_utf8_lossy(&answer);
        let status: u16 = text.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        *statuses.entry(status).or_default() += 1;
        // A broken head may be met with silence; a whole one, whatever follows it, may not.
        assert!(
            status != 0 || !whole_head,
            "request {number} gets no answer: {}",
            String::from_utf8_lossy(&head)
        );
        assert!(status < 500 || status == 501 || status == 505, "request {number}: {text}");
        assert!(!text.contains(&token), "request {number}: the answer shows the token");
    }
    println!("{statuses:?}");
    assert!(statuses.keys().any(|status| *status == 201) && statuses.keys().any(|status| *status == 400));
    assert_eq!(pair.server.http("GET", "/healthz", None).await.0, 200);
}

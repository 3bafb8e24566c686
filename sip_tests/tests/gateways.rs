//! A trunk's gateways: names that DNS leads from, targets that are dead, full or late, and what the operator is told of
//! them. No call is lost to a gateway while another one lives.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests may panic like tests")]

mod common;

use common::{FIRST, PATIENCE, Scene, Server, Setup, phone, until_asked};
use maskline::clock;
use maskline::trunk::dns::{Asking, Dns, DnsError};
use maskline::trunk::resolve::{Answer, Naptr, Question, Srv};
use serde_json::{Value, json};
use sip_tests::message::Message;
use sip_tests::phone::{CallOptions, Phone, PhoneConfig};
use sip_tests::sdp::SdpOptions;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::UdpSocket;

/// A gateway that says only what a test lets it say.
struct Silent {
    socket: UdpSocket,
    address: SocketAddr,
    server: Mutex<Option<SocketAddr>>,
}

impl Silent {
    async fn bind() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        Self { socket, address, server: Mutex::default() }
    }

    /// The next request of that method; repeated ones of others are passed over.
    async fn next(&self, method: &str) -> Message {
        let reading = async {
            let mut buffer = vec![0; 65_536];
            loop {
                let (length, from) = self.socket.recv_from(&mut buffer).await.unwrap();
                *self.server.lock().unwrap() = Some(from);
                let message = Message::read(&buffer[..length]).unwrap();
                if message.is(method) {
                    return message;
                }
            }
        };
        tokio::time::timeout(PATIENCE, reading).await.unwrap_or_else(|_| panic!("no {method}"))
    }

    async fn say(&self, request: &Message, status: &str, body: &str) {
        let header = |name: &str| request.header(name).unwrap().to_owned();
        let contact = self.address;
        let text = format!(
            "SIP/2.0 {status}\r\nVia: {}\r\nFrom: {}\r\nTo: {};tag=late\r\nCall-ID: {}\r\nCSeq: {}\r\n\
             Contact: <sip:{contact}>\r\nContent-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{body}",
            header("Via"),
            header("From"),
            header("To"),
            header("Call-ID"),
            header("CSeq"),
            body.len()
        );
        let server = self.server.lock().unwrap().unwrap();
        self.socket.send_to(text.as_bytes(), server).await.unwrap();
    }
}

const SDP: &str =
    "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 40000 RTP/AVP 0\r\n";

/// A server with these gateways, in this order, the last of which is a phone's.
async fn scene(gateways: Vec<String>, callee: Phone, setup: Setup) -> Scene {
    let server = Server::with(callee.address(), Setup { gateways, ..setup }).await;
    let session = server.session(json!({ "record": false })).await;
    let number = Server::number(&session);
    let caller = phone("caller").await;
    Scene { server, caller, callee, session, number }
}

fn uri(address: SocketAddr) -> String {
    format!("sip:{address};transport=udp")
}

/// What `/trunks` says of the target at this address.
async fn target(server: &Server, address: SocketAddr) -> Value {
    let (status, text) = server.http("GET", "/trunks", None).await;
    assert_eq!(status, 200, "{text}");
    let view: Value = serde_json::from_str(&text).unwrap();
    let gateways = view[0]["gateways"].as_array().unwrap();
    let targets = gateways.iter().flat_map(|gateway| gateway["targets"].as_array().unwrap());
    let wanted = format!(":{address}");
    let found = targets.clone().find(|target| target["target"].as_str().unwrap().ends_with(&wanted));
    found.unwrap_or_else(|| panic!("{address} is not in {text}")).clone()
}

/// A call that is answered by the scene's callee, and ended.
async fn call_through(scene: &Scene) {
    let (call, incoming) = scene.dial().await;
    incoming.ring().await.unwrap();
    incoming.answer(SdpOptions::default()).await.unwrap();
    call.answered(PATIENCE).await.unwrap();
    incoming.wait_ack(PATIENCE).await.unwrap();
    call.hang_up().await.unwrap();
    incoming.wait_bye(PATIENCE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_says_nothing_costs_one_call_two_seconds_and_the_next_nothing() {
    let dead = Silent::bind().await;
    let callee = phone("callee").await;
    let scene = scene(vec![uri(dead.address), uri(callee.address())], callee, Setup::default()).await;
    assert_eq!(target(&scene.server, dead.address).await["state"], "unknown");
    call_through(&scene).await;
    let down = target(&scene.server, dead.address).await;
    assert_eq!((&down["state"], &down["reason"]), (&json!("down"), &json!("no answer")));
    assert_eq!(target(&scene.server, scene.callee.address()).await["state"], "up");
    let (_, second) = scene.server.last_legs(&scene.session).await;
    assert_eq!(second["attempt"], 2);
    // The next call goes straight to the one that lives: the dead one gets no INVITE.
    call_through(&scene).await;
    let (_, second) = scene.server.last_legs(&scene.session).await;
    assert_eq!(second["attempt"], 1);
    let first = dead.next("INVITE").await;
    let mut buffer = [0; 2048];
    while let Ok(length) = dead.socket.try_recv(&mut buffer) {
        let repeated = Message::read(&buffer[..length]).unwrap();
        assert_eq!(repeated.call_id(), first.call_id(), "only the first call tried it");
    }
    let (_, metrics) = scene.server.http("GET", "/metrics", None).await;
    let line = format!("maskline_gateway_up{{trunk=\"carrier\",gateway=\"{}\"}} 0", uri(dead.address));
    assert!(metrics.contains(&line), "{line} is not in {metrics}");
    scene.no_faults().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_where_nothing_listens_is_left_for_the_next() {
    // Bound and let go: the system answers for it by ICMP, and on TCP by a reset.
    for transport in ["udp", "tcp"] {
        let free = Silent::bind().await.address;
        let callee = phone("callee").await;
        let gateways = vec![format!("sip:{free};transport={transport}"), uri(callee.address())];
        let scene = scene(gateways, callee, Setup::default()).await;
        call_through(&scene).await;
        let down = target(&scene.server, free).await;
        let reason = if transport == "udp" { "no answer" } else { "transport error" };
        assert_eq!((&down["state"], &down["reason"]), (&json!("down"), &json!(reason)));
        scene.no_faults().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_asks_for_time_by_retry_after_gets_it() {
    let full = phone("full").await;
    let callee = phone("callee").await;
    let gateways = vec![uri(full.address()), uri(callee.address())];
    let scene = scene(gateways, callee, Setup::default()).await;
    let call = scene.caller.call(scene.server.sip, &scene.number, CallOptions::from(FIRST)).await.unwrap();
    let refused = full.next_call(PATIENCE).await.unwrap();
    let headers = [("Retry-After".to_owned(), "600 (busy);duration=3600".to_owned())];
    refused.reject(503, None, &headers, None).await.unwrap();
    let incoming = scene.callee.next_call(PATIENCE).await.unwrap();
    incoming.ring().await.unwrap();
    incoming.answer(SdpOptions::default()).await.unwrap();
    call.answered(PATIENCE).await.unwrap();
    call.hang_up().await.unwrap();
    let down = target(&scene.server, full.address()).await;
    assert_eq!((&down["state"], &down["reason"]), (&json!("down"), &json!("503")));
    assert!((590..=600).contains(&down["retry_in_seconds"].as_u64().unwrap()), "{down}");
    let before = full.received().len();
    call_through(&scene).await;
    assert_eq!(full.received().len(), before, "it is left in peace");
    scene.no_faults().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_503_is_remembered_and_costs_no_later_call_its_first_choice() {
    let full = phone("full").await;
    let callee = phone("callee").await;
    let gateways = vec![uri(full.address()), uri(callee.address())];
    let scene = scene(gateways, callee, Setup::default()).await;
    for _ in 0..2 {
        let call =
            scene.caller.call(scene.server.sip, &scene.number, CallOptions::from(FIRST)).await.unwrap();
        full.next_call(PATIENCE).await.unwrap().reject(503, None, &[], None).await.unwrap();
        let incoming = scene.callee.next_call(PATIENCE).await.unwrap();
        incoming.reject(486, None, &[], None).await.unwrap();
        assert_eq!(call.final_status(PATIENCE).await.unwrap().status(), Some(486));
    }
    let view = target(&scene.server, full.address()).await;
    assert_eq!((&view["state"], &view["last_fault"]), (&json!("up"), &json!("503")));
    scene.no_faults().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_gateway_says_after_it_was_left_gets_cancel() {
    let late = Silent::bind().await;
    let callee = phone("callee").await;
    let scene = scene(vec![uri(late.address), uri(callee.address())], callee, Setup::default()).await;
    let (call, incoming) = scene.dial().await;
    let invite = late.next("INVITE").await;
    late.say(&invite, "180 Ringing", "").await;
    let cancel = late.next("CANCEL").await;
    assert_eq!(cancel.call_id(), invite.call_id());
    assert_eq!(cancel.header("Via"), invite.header("Via"), "RFC 3261 §9.1: the same branch");
    late.say(&cancel, "200 OK", "").await;
    late.say(&invite, "487 Request Terminated", "").await;
    late.next("ACK").await;
    incoming.answer(SdpOptions::default()).await.unwrap();
    call.answered(PATIENCE).await.unwrap();
    assert_eq!(
        call.statuses().iter().filter(|status| **status == 180).count(),
        0,
        "the caller hears of one only"
    );
    call.hang_up().await.unwrap();
    incoming.wait_bye(PATIENCE).await.unwrap();
    scene.no_faults().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_answer_of_a_gateway_that_was_left_gets_ack_and_bye() {
    let late = Silent::bind().await;
    let callee = phone("callee").await;
    let scene = scene(vec![uri(late.address), uri(callee.address())], callee, Setup::default()).await;
    let (call, incoming) = scene.dial().await;
    incoming.ring().await.unwrap();
    incoming.answer(SdpOptions::default()).await.unwrap();
    call.answered(PATIENCE).await.unwrap();
    let invite = late.next("INVITE").await;
    late.say(&invite, "200 OK", SDP).await;
    let ack = late.next("ACK").await;
    assert_eq!((ack.call_id(), ack.cseq().0), (invite.call_id(), invite.cseq().0));
    let bye = late.next("BYE").await;
    assert!(bye.header("To").unwrap().ends_with(";tag=late"));
    late.say(&bye, "200 OK", "").await;
    // The call itself does not notice.
    scene.both_hear(&call, &incoming).await;
    call.hang_up().await.unwrap();
    incoming.wait_bye(PATIENCE).await.unwrap();
    scene.no_faults().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_said_trying_is_not_left() {
    let slow = Silent::bind().await;
    let spare = phone("spare").await;
    let address = spare.address();
    let scene = scene(vec![uri(slow.address), uri(address)], spare, Setup::default()).await;
    let call = scene.caller.call(scene.server.sip, &scene.number, CallOptions::from(FIRST)).await.unwrap();
    let invite = slow.next("INVITE").await;
    slow.say(&invite, "100 Trying", "").await;
    // Well after the two seconds that a silent one gets.
    tokio::time::sleep(Duration::from_millis(2600)).await;
    slow.say(&invite, "486 Busy Here", "").await;
    assert_eq!(call.final_status(PATIENCE).await.unwrap().status(), Some(486));
    assert!(scene.callee.received().is_empty());
    scene.no_faults().await;
}

/// `ring_timeout` bounds all attempts together.
#[tokio::test(flavor = "multi_thread")]
async fn dead_gateways_do_not_outlast_the_ring_timeout() {
    let dead = [Silent::bind().await, Silent::bind().await, Silent::bind().await, Silent::bind().await];
    let callee = phone("callee").await;
    let gateways = dead.iter().map(|gateway| uri(gateway.address)).collect();
    let server = Server::with(callee.address(), Setup { gateways, ..Setup::default() }).await;
    let session = server.session(json!({ "record": false, "ring_timeout": 5 })).await;
    let caller = phone("caller").await;
    let call = caller.call(server.sip, &Server::number(&session), CallOptions::from(FIRST)).await.unwrap();
    assert_eq!(call.final_status(PATIENCE).await.unwrap().status(), Some(480));
    assert_eq!(target(&server, dead[0].address).await["reason"], "no answer");
    // Two seconds each: the time of the last one would begin after the end.
    let tried = dead.iter().filter(|gateway| gateway.socket.try_recv(&mut [0; 2048]).is_ok()).count();
    assert!((2..4).contains(&tried), "{tried} gateways were tried in five seconds");
}

/// By OPTIONS the service knows of a dead gateway before the first call, and when it lives again.
#[tokio::test(flavor = "multi_thread")]
async fn options_find_out_what_no_call_has_to() {
    let dead = Silent::bind().await;
    let callee = phone("callee").await;
    let gateways = vec![uri(dead.address), uri(callee.address())];
    let scene = scene(gateways, callee, Setup { trunk: "options_seconds = 1", ..Setup::default() }).await;
    let is = async |address, state: &str| {
        until_asked(state, async || (target(&scene.server, address).await["state"] == state).then_some(()))
            .await;
    };
    is(scene.callee.address(), "up").await;
    is(dead.address, "down").await;
    assert_eq!(target(&scene.server, dead.address).await["reason"], "no answer");
    let asked = scene.callee.received().into_iter().find(|message| message.is("OPTIONS")).unwrap();
    assert_eq!(asked.uri(), Some(uri(scene.callee.address()).as_str()));
    assert!(!asked.text().contains("2025550"), "nobody's number: {}", asked.text());
    call_through(&scene).await;
    let (_, second) = scene.server.last_legs(&scene.session).await;
    assert_eq!(second["attempt"], 1, "nobody waits for the dead one");
    let options = dead.next("OPTIONS").await;
    dead.say(&options, "405 Method Not Allowed", "").await;
    // That one may have been given up; the next ones are answered at once.
    for _ in 0..2 {
        let options = dead.next("OPTIONS").await;
        dead.say(&options, "404 Not Found", "").await;
    }
    is(dead.address, "up").await;
    loop {
        let options = dead.next("OPTIONS").await;
        dead.say(&options, "503 Service Unavailable", "").await;
        if target(&scene.server, dead.address).await["reason"] == "503" {
            break;
        }
    }
    scene.no_faults().await;
}

/// What leaves by a trunk counts among its calls, whichever trunk the callers come in by.
#[tokio::test(flavor = "multi_thread")]
async fn a_trunk_carries_no_more_legs_that_leave_than_it_takes() {
    let callee = phone("callee").await;
    let trunk = format!(
        "[[trunks]]\nname = \"narrow\"\ngateways = [\"{}\"]\nallow = [\"127.0.0.9/32\"]\nmax_calls = 1\n\
         [[numbers]]\nnumber = \"+12025550199\"\ntrunk = \"narrow\"",
        uri(callee.address())
    );
    let trunk: &'static str = Box::leak(trunk.into_boxed_str());
    let setup = Setup { trunk, numbers: 0, ..Setup::default() };
    let scene = scene(vec![uri(callee.address())], callee, setup).await;
    for _ in 0..3 {
        // A callee who is busy, and one who talks: both places are given back.
        let (busy, rung) = scene.dial().await;
        rung.reject(486, None, &[], None).await.unwrap();
        assert_eq!(busy.final_status(PATIENCE).await.unwrap().status(), Some(486));
        let live = || scene.server.service.shell().live_calls();
        common::until("room", || (live() == 0).then_some(())).await;
        let (call, incoming) = scene.talk().await;
        let invites = || scene.callee.received().iter().filter(|message| message.is("INVITE")).count();
        let before = invites();
        let options = CallOptions::from(FIRST);
        let over = scene.caller.call(scene.server.sip, &scene.number, options).await.unwrap();
        let refusal = over.final_status(PATIENCE).await.unwrap();
        assert_eq!((refusal.status(), refusal.header("Retry-After")), (Some(503), Some("10")));
        assert_eq!(invites(), before, "it never left");
        scene.both_hear(&call, &incoming).await;
        scene.hang_up(&call, &incoming).await;
        scene.server.settled().await;
    }
    scene.no_faults().await;
}

/// What leaves by a trunk keeps to its calls per second, by waiting; whoever would wait too long is refused.
#[tokio::test(flavor = "multi_thread")]
async fn calls_that_leave_wait_for_their_turn() {
    // They come in by one trunk and leave by another, which takes two per second.
    let callee = phone("callee").await;
    let trunk = format!(
        "[[trunks]]\nname = \"slow\"\ngateways = [\"{}\"]\nallow = [\"127.0.0.9/32\"]\nmax_calls_per_second = 2\n\
         [[numbers]]\nnumber = \"+12025550199\"\ntrunk = \"slow\"",
        uri(callee.address())
    );
    let trunk: &'static str = Box::leak(trunk.into_boxed_str());
    let setup = Setup { trunk, numbers: 0, ..Setup::default() };
    let scene = scene(vec![uri(callee.address())], callee, setup).await;
    assert_eq!(scene.number, "+12025550199");
    let mut calls = vec![];
    for _ in 0..8 {
        let options = CallOptions::from(FIRST);
        calls.push(scene.caller.call(scene.server.sip, &scene.number, options).await.unwrap());
    }
    let (mut rung, mut refused) = (vec![], 0);
    for call in &calls {
        // Each of them rings or is refused; nobody is forgotten.
        let first = call.wait_for(|status| status == 180 || status == 503, PATIENCE);
        let ring = async {
            loop {
                let incoming = scene.callee.next_call(PATIENCE).await.unwrap();
                // First, because whoever sees the 180 may let go of this before it goes on.
                rung.push(clock::now());
                incoming.ring().await.unwrap();
            }
        };
        let status = tokio::select! {
            first = first => first.unwrap().status(),
            () = ring => None,
        };
        refused += usize::from(status == Some(503));
    }
    assert!(refused >= 1 && rung.len() >= 4, "{} rang, {refused} were refused", rung.len());
    assert_eq!(refused + rung.len(), 8);
    for call in &calls {
        if !call.statuses().contains(&503) {
            call.cancel().await.unwrap();
            assert_eq!(call.final_status(PATIENCE).await.unwrap().status(), Some(487));
        }
    }
    scene.no_faults().await;
}

/// Records of a test's own.
#[derive(Default)]
struct Zone {
    records: Mutex<BTreeMap<Question, (Answer, Duration)>>,
    /// Every question fails from now on.
    broken: std::sync::atomic::AtomicBool,
    asked: std::sync::atomic::AtomicUsize,
}

impl Zone {
    fn has(&self, question: Question, answer: Answer) {
        self.records.lock().unwrap().insert(question, (answer, Duration::ZERO));
    }

    fn address(&self, name: &str, ip: &str) {
        let ip: IpAddr = ip.parse().unwrap();
        self.has(Question::Addresses(name.to_owned()), Answer::Addresses(vec![ip]));
    }

    /// SRV records: priority, port, target.
    fn srv(&self, name: &str, records: &[(u16, u16, &str)]) {
        let record = |&(priority, port, target): &(u16, u16, &str)| Srv {
            priority,
            weight: 0,
            port,
            target: target.to_owned(),
        };
        self.has(Question::Srv(name.to_owned()), Answer::Srv(records.iter().map(record).collect()));
    }
}

/// Shares a zone with the service.
struct Shared(Arc<Zone>);

impl Dns for Shared {
    fn ask(&self, question: Question) -> Asking<'_> {
        use std::sync::atomic::Ordering;
        Box::pin(async move {
            self.0.asked.fetch_add(1, Ordering::SeqCst);
            if self.0.broken.load(Ordering::SeqCst) {
                return Err(DnsError::TimedOut);
            }
            let known = self.0.records.lock().unwrap().get(&question).cloned();
            Ok(known.unwrap_or(match question {
                Question::Naptr(_) => (Answer::Naptr(vec![]), Duration::ZERO),
                Question::Srv(_) => (Answer::Srv(vec![]), Duration::ZERO),
                Question::Addresses(_) => (Answer::Addresses(vec![]), Duration::ZERO),
            }))
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn naptr_and_srv_lead_a_call_to_its_targets_in_their_order() {
    let zone = Arc::new(Zone::default());
    let dead = Silent::bind().await;
    let callee = phone("callee").await;
    let naptr = Naptr {
        order: 10,
        preference: 10,
        flags: "s".to_owned(),
        service: "SIP+D2U".to_owned(),
        has_regexp: false,
        replacement: "_sip._udp.carrier.test".to_owned(),
    };
    zone.has(Question::Naptr("carrier.test".to_owned()), Answer::Naptr(vec![naptr]));
    zone.srv(
        "_sip._udp.carrier.test",
        &[(20, callee.address().port(), "b.carrier.test"), (10, dead.address.port(), "a.carrier.test")],
    );
    zone.address("a.carrier.test", "127.0.0.1");
    zone.address("b.carrier.test", "127.0.0.1");
    let dns: Arc<dyn Dns> = Arc::new(Shared(Arc::clone(&zone)));
    let setup = Setup { dns: Some(dns), ..Setup::default() };
    let scene = scene(vec!["sip:carrier.test".to_owned()], callee, setup).await;
    let (call, incoming) = scene.dial().await;
    assert!(
        incoming.request().uri().unwrap().contains("@carrier.test;"),
        "the Request-URI names the domain: {:?}",
        incoming.request().uri()
    );
    incoming.ring().await.unwrap();
    incoming.answer(SdpOptions::default()).await.unwrap();
    call.answered(PATIENCE).await.unwrap();
    call.hang_up().await.unwrap();
    incoming.wait_bye(PATIENCE).await.unwrap();
    assert_eq!(target(&scene.server, dead.address).await["reason"], "no answer");
    // DNS dies: what it said last stays in use.
    zone.broken.store(true, std::sync::atomic::Ordering::SeqCst);
    let asked = zone.asked.load(std::sync::atomic::Ordering::SeqCst);
    until_asked("a look-up fails", async || {
        let (_, text) = scene.server.http("GET", "/trunks", None).await;
        let view: Value = serde_json::from_str(&text).unwrap();
        (view[0]["gateways"][0]["stale"] == true).then_some(())
    })
    .await;
    assert!(zone.asked.load(std::sync::atomic::Ordering::SeqCst) > asked);
    call_through(&scene).await;
    scene.no_faults().await;
}

/// The address of a gateway given by name is nobody's who may call in, and yet it is heard.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_known_by_name_alone_is_heard_and_may_not_call_in() {
    let zone = Arc::new(Zone::default());
    zone.address("carrier.test", "127.0.0.2");
    let dns: Arc<dyn Dns> = Arc::new(Shared(zone));
    let callee = Phone::bind(PhoneConfig::named("callee").at("127.0.0.2:0".parse().unwrap())).await.unwrap();
    let gateways = vec![format!("sip:carrier.test:{};transport=udp", callee.address().port())];
    let setup = Setup { dns: Some(dns), allow: "127.0.0.1/32", ..Setup::default() };
    let scene = scene(gateways, callee, setup).await;
    call_through(&scene).await;
    let call = scene.callee.call(scene.server.sip, &scene.number, CallOptions::from(FIRST)).await.unwrap();
    until_asked("its INVITE is counted", async || {
        (scene.server.metric("maskline_sip_invites_refused_source_total").await >= 1.0).then_some(())
    })
    .await;
    assert!(call.received().is_empty(), "silence");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_of_the_system_is_enough() {
    let callee = phone("callee").await;
    let gateways = vec![format!("sip:localhost:{};transport=udp", callee.address().port())];
    let scene = scene(gateways, callee, Setup::default()).await;
    call_through(&scene).await;
    scene.no_faults().await;
}

/// `maskline trunk-check` against real gateways: one that takes the test call, one that is not there.
#[tokio::test(flavor = "multi_thread")]
async fn the_check_of_a_trunk_says_what_works_and_what_to_do() {
    let callee = phone("callee").await;
    let free = Silent::bind().await.address;
    let gateways = [uri(callee.address()), format!("sip:{free};transport=tcp"), "sip:nobody.test".to_owned()];
    let text = format!(
        "[sip]\nlisten = [\"udp://127.0.0.1:0\", \"tcp://127.0.0.1:0\"]\n[[trunks]]\nname = \"carrier\"\n\
         gateways = {gateways:?}\nallow = [\"127.0.0.1\"]\n[[numbers]]\nnumber = \"+12025550100\"\n"
    );
    let config = maskline::config::Config::read(&text, std::iter::empty()).unwrap();
    let trunk = config.trunks.get("carrier").unwrap();
    let number = maskline::number::E164::parse(FIRST);
    let mut out = vec![];
    let dns: Arc<dyn Dns> = Arc::new(Shared(Arc::default()));
    let checking = maskline::trunk_check::check(&config, trunk, number, dns, &mut out);
    let answering = async {
        let incoming = callee.next_call(PATIENCE).await.unwrap();
        incoming.ring().await.unwrap();
        incoming.answer(SdpOptions::default()).await.unwrap();
        incoming.wait_ack(PATIENCE).await.unwrap();
        incoming.wait_bye(PATIENCE).await.unwrap();
    };
    let (faults, ()) = tokio::join!(checking, answering);
    let report = String::from_utf8(out).unwrap();
    for line in [
        "OPTIONS was answered 200",
        "cannot be reached",
        "DNS: _sip._udp.nobody.test has no SRV record",
        "nobody.test leads nowhere",
        "the called side says 180",
        "it was answered, with Pcmu",
        "packets of audio came",
    ] {
        assert!(report.contains(line), "{line} is missing in\n{report}");
    }
    assert_eq!(faults, 2, "{report}");
    assert!(!report.contains("5550142"), "the number that is called is printed nowhere:\n{report}");
    assert_eq!(callee.faults().await, Vec::<String>::new());
}

/// A call that comes in over IPv6 and leaves over IPv4, and the other way round: each side's SDP and Contact are of its
/// own family.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_crosses_from_one_address_family_to_the_other() {
    let v6: SocketAddr = "[::1]:0".parse().unwrap();
    let v4: SocketAddr = "127.0.0.1:0".parse().unwrap();
    for (from, to) in [(v6, v4), (v4, v6)] {
        let callee = Phone::bind(PhoneConfig::named("callee").at(to)).await.unwrap();
        let caller = Phone::bind(PhoneConfig::named("caller").at(from)).await.unwrap();
        let setup = Setup {
            gateways: vec![uri(callee.address())],
            allow: "::1\", \"127.0.0.1",
            listen: &["udp://[::1]:0"],
            ..Setup::default()
        };
        let server = Server::with(callee.address(), setup).await;
        let session = server.session(json!({ "record": false })).await;
        let listener = |family: SocketAddr| {
            let udp = maskline::sip::transport::Protocol::Udp;
            let of_family = |at: &SocketAddr| at.is_ipv6() == family.is_ipv6();
            server.service.sip().into_iter().find(|(kind, at)| *kind == udp && of_family(at)).unwrap().1
        };
        let number = Server::number(&session);
        let host = if from.is_ipv6() { "[::1]" } else { "127.0.0.1" };
        let options = CallOptions {
            from_host: Some(host.to_owned()),
            to: Some(format!("<sip:{number}@{host}>")),
            ..CallOptions::from(FIRST)
        };
        let call = caller.call(listener(from), &number, options).await.unwrap();
        let incoming = callee.next_call(PATIENCE).await.unwrap();
        incoming.ring().await.unwrap();
        incoming.answer(SdpOptions::default()).await.unwrap();
        let answer = call.answered(PATIENCE).await.unwrap();
        incoming.wait_ack(PATIENCE).await.unwrap();
        for (message, family) in [(&answer, from), (incoming.request(), to)] {
            let (line, other) =
                if family.is_ipv6() { ("IN IP6 ::1", "IP4") } else { ("IN IP4 127.0.0.1", "IP6") };
            let sdp = String::from_utf8_lossy(message.sdp().unwrap()).into_owned();
            assert!(sdp.contains(line) && !sdp.contains(other), "{sdp}");
            let contact = message.header("Contact").unwrap();
            assert!(contact.contains(&format!("@{}", listener(family))), "{contact}");
        }
        for media in [call.media(), incoming.media()] {
            media.wait_packets(media.received_count() + 15, PATIENCE).await.unwrap();
        }
        call.hang_up().await.unwrap();
        incoming.wait_bye(PATIENCE).await.unwrap();
        assert_eq!((caller.faults().await, callee.faults().await), (vec![], vec![]));
        server.settled().await;
    }
}

//! Attacks over real sockets: RTP from strangers around a whole call, PINs guessed by telephone, answers that somebody
//! wants sent to somebody else, and a bug that one call meets.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests may panic like tests")]

mod common;

use common::child::{Process, configure, serve_if_child};
use common::talk::{Pair, compare, dialled, hang_up, more_packets, more_sent, wav};
use common::{FIRST, PATIENCE, SECOND, STRANGER, Scene, Server, Setup, until, until_asked};
use media::Codec;
use serde_json::{Value, json};
use sip_tests::audio::{self, Voice, speech};
use sip_tests::g711;
use sip_tests::message::Message;
use sip_tests::patterns::Pattern;
use sip_tests::phone::{CallOptions, OutgoingCall, PhoneConfig};
use sip_tests::rtp::{Packet, TelephoneEvent};
use sip_tests::sdp::SdpOptions;
use sip_tests::stream::{Idle, MediaOptions, MediaSession};
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// The service of [`the_limits_of_wrong_pins_hold_over_a_kill`], in the process that it starts; nothing in any other.
#[test]
fn child() {
    serve_if_child();
}

/// A range of RTP ports above the system's ephemeral ones.
fn ports(pairs: u16) -> (u16, u16, &'static str) {
    let first = 61_000 + 2 * rand::random_range(0..2000u16);
    let last = first + 2 * (pairs - 1);
    (first, last, format!("ports = [{first}, {last}]").leak())
}

/// Sends RTP, RTCP and forged digits at every port of a range, from two strangers, until it is told to stop.
struct Spray {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: std::thread::JoinHandle<[UdpSocket; 2]>,
}

/// What a spray plays: a tone that nobody else does.
fn forged_audio() -> Vec<u8> {
    g711::encode_all(Codec::Pcmu, &audio::tone(1000.0, 20, 16_000.0))
}

impl Spray {
    /// Some 8,000 packets a second on the whole range, as far as the machine goes.
    fn start(first: u16, last: u16) -> Self {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&sent));
        let thread = std::thread::spawn(move || {
            let strangers = ["127.0.0.1:0", "127.0.0.2:0"].map(|address| UdpSocket::bind(address).unwrap());
            let audio = forged_audio();
            let mut number = 0u16;
            while !stopped.load(Ordering::Relaxed) {
                for port in first..=last + 1 {
                    number = number.wrapping_add(1);
                    let packet = match (port % 2, number % 5) {
                        (1, _) => vec![0x81, 203, 0, 1, 0, 0, 0, 1],
                        (_, 0) => vec![0xff; 40],
                        (_, 1) => key(number),
                        _ => rtp(0, number, audio.clone()),
                    };
                    let to = SocketAddr::from(([127, 0, 0, 1], port));
                    // A port on which nobody listens any more answers by ICMP: that is no failure of the attack.
                    let _ = strangers[usize::from(number % 2)].send_to(&packet, to);
                    count.fetch_add(1, Ordering::Relaxed);
                    if number.is_multiple_of(8) {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                }
            }
            strangers
        });
        Self { stop, sent, thread }
    }

    /// Waits until so many more are out.
    async fn goes_on(&self, packets: u64) {
        let wanted = self.sent.load(Ordering::Relaxed) + packets;
        until("the spray goes on", || (self.sent.load(Ordering::Relaxed) >= wanted).then_some(())).await;
    }

    /// Stops, and checks that no stranger ever got a byte.
    fn got_nothing(self) {
        self.stop.store(true, Ordering::Relaxed);
        for socket in self.thread.join().unwrap() {
            socket.set_nonblocking(true).unwrap();
            let answer = socket.recv(&mut [0; 2000]).map_err(|error| error.kind());
            assert_eq!(answer, Err(std::io::ErrorKind::WouldBlock), "a stranger got an answer");
        }
    }
}

fn rtp(payload_type: u8, number: u16, payload: Vec<u8>) -> Vec<u8> {
    let timestamp = u32::from(number) * 160;
    Packet { payload_type, sequence: number, timestamp, ssrc: 0x5757_5757, payload, ..Packet::default() }
        .encode()
}

/// One of the keys 4711 as a whole telephone-event.
fn key(number: u16) -> Vec<u8> {
    let event = [4, 7, 1, 1][usize::from(number / 5 % 4)];
    let event = TelephoneEvent { event, end: true, volume: 10, duration: 800 };
    rtp(101, number, event.encode().to_vec())
}

/// Nothing of the spray was passed on.
fn is_clean(media: &MediaSession) {
    let audio = forged_audio();
    let injected = media.received_packets().iter().filter(|got| got.packet.payload == audio).count();
    assert_eq!((injected, media.received_keys().as_str()), (0, ""), "foreign packets were relayed");
    let heard = media.received_audio();
    assert!(heard.windows(160).step_by(160).all(|window| !audio::has_tone(window, 1000.0)));
}

/// Before the call, while it is looked up and rings, with early media, during the talk, while it ends, and after it.
#[tokio::test(flavor = "multi_thread")]
async fn a_spray_before_during_and_after_a_call_is_neither_heard_nor_answered() {
    let (first, last, media) = ports(4);
    let pair = Pair::with(Setup { media, ..Setup::default() }).await;
    let session = pair.server.session(json!({})).await;
    let spray = Spray::start(first, last);
    spray.goes_on(500).await;

    let call = pair.dial(&session, CallOptions::from(FIRST)).await;
    let incoming = pair.rung().await;
    spray.goes_on(500).await;
    incoming.ring().await.unwrap();
    call.ringing(PATIENCE).await.unwrap();
    spray.goes_on(500).await;
    incoming.progress_with_sdp(SdpOptions::default()).await.unwrap();
    more_packets(call.media(), 25).await;
    incoming.answer(SdpOptions::default()).await.unwrap();
    call.answered(PATIENCE).await.unwrap();
    incoming.wait_ack(PATIENCE).await.unwrap();
    let (low, high) = (speech(Voice::Low, 1, 1500), speech(Voice::High, 2, 1500));
    tokio::join!(call.media().play(&low), incoming.media().play(&high));
    more_sent(call.media(), 10).await;
    hang_up(&call, &incoming).await;
    spray.goes_on(500).await;
    pair.server.settled().await;
    spray.goes_on(500).await;
    spray.got_nothing();

    for (sent, received) in [(call.media(), incoming.media()), (incoming.media(), call.media())] {
        is_clean(received);
        let found = compare(&sent.sent_audio(), &received.received_audio());
        assert!(found.is_same(), "{found:?}");
        let server = received.remote().unwrap().rtp;
        assert!((first..=last).contains(&server.port()), "the spray was on the call's own ports");
    }
    let folder = pair.server.recording(&[]).await;
    for (file, side) in [("a-leg.wav", call.media()), ("b-leg.wav", incoming.media())] {
        let found = compare(&side.sent_audio(), &wav(&folder, file));
        assert!(found.is_same(), "{file}: {found:?}");
    }
}

/// The right PIN, typed by somebody else than the caller, opens nothing.
#[tokio::test(flavor = "multi_thread")]
async fn keys_of_a_stranger_are_no_entry() {
    let (first, last, media) = ports(4);
    let pair = Pair::with(Setup { media, ..Setup::default() }).await;
    let pins = json!({
        "record": false, "is_pin_authentication_required": true, "first_party_pin": "4711",
        "second_party_pin": "0815", "pin_retry": 0,
    });
    let session = pair.server.session(pins).await;
    let call = pair.dial(&session, CallOptions::from(STRANGER)).await;
    call.answered(PATIENCE).await.unwrap();
    more_packets(call.media(), 5).await;
    let spray = Spray::start(first, last);
    spray.goes_on(3000).await;
    // Nothing of that was kept: his own entry is the first one, and wrong.
    call.media().dtmf("1234", Pattern::Clean).await;
    call.wait_bye(PATIENCE).await.unwrap();
    spray.got_nothing();
    assert!(pair.callee.received().is_empty(), "somebody was rung");
    // The same keys from the caller's own address count.
    let call = pair.dial(&session, CallOptions::from("+12025550178")).await;
    call.answered(PATIENCE).await.unwrap();
    more_packets(call.media(), 5).await;
    call.media().dtmf("4711", Pattern::Clean).await;
    assert_eq!(dialled(&pair.rung().await), SECOND);
    call.bye().await.unwrap();
}

fn pin_session() -> Value {
    json!({
        "record": false, "is_pin_authentication_required": true, "first_party_pin": "4711",
        "second_party_pin": "0815", "pin_retry": 0,
    })
}

/// A caller who says nothing: two hundred of them would be most of the work.
fn silent(from: &str) -> CallOptions {
    let media = MediaOptions { idle: Idle::Nothing, rtcp_interval: None, ..MediaOptions::default() };
    CallOptions { media: Some(media), ..CallOptions::from(from) }
}

/// Types by INFO, as fast as the service takes it.
async fn type_at_once(call: &OutgoingCall, keys: &str) {
    call.answered(PATIENCE).await.unwrap();
    for key in keys.chars() {
        assert_eq!(call.info_dtmf(key, 100, PATIENCE).await.unwrap().status(), Some(200));
    }
}

/// How often the service has told the application that an entry was wrong.
async fn told_wrong(pair: &Pair, session: &Value) -> usize {
    let uuid = session["session_uuid"].as_str().unwrap();
    let (status, answer) = pair.server.api("GET", &format!("Event/?session_uuid={uuid}&limit=1"), None).await;
    assert_eq!(status, 200, "{answer}");
    usize::try_from(answer["response"]["meta"]["total_count"].as_u64().unwrap()).unwrap()
}

/// What the database has counted in each bucket, the most first. Whose they are it does not say.
async fn counted(server: &Server) -> Vec<i64> {
    use sqlx::{Connection, SqliteConnection};
    let url = format!("sqlite://{}/maskline.db", server.folder.display());
    let mut database = SqliteConnection::connect(&url).await.unwrap();
    sqlx::query_scalar("SELECT wrong FROM guesses ORDER BY wrong DESC")
        .fetch_all(&mut database)
        .await
        .unwrap()
}

/// Fifty callers, two hundred calls, one PIN session: 60 a day on the number with pauses after 20, ten for each caller.
#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_guesses_by_telephone_stay_within_the_limits() {
    let setup = Setup { http: "requests_per_5_seconds = 5000", ..Setup::default() };
    let pair = Pair::with(setup).await;
    // Where events go does not matter here: that they are kept is enough.
    let mut more = pin_session();
    more["callback_url"] = json!("http://192.0.2.1:9/");
    let session = pair.server.session(more).await;
    let began = maskline::clock::now();
    // The first guesser alone makes twelve calls; the others share the rest.
    let mut guesses: Vec<(String, String)> =
        (0..12).map(|n| ("+12025557700".to_owned(), format!("{n:04}"))).collect();
    guesses.extend((12..200).map(|n| (format!("+120255577{:02}", 1 + n % 49), format!("{n:04}"))));
    let mut made = 0;
    for wave in guesses.chunks(20) {
        let mut calls = vec![];
        for (from, _) in wave {
            calls.push(pair.dial(&session, silent(from)).await);
        }
        let typing = calls.iter().zip(wave).map(|(call, (_, keys))| type_at_once(call, keys));
        for typed in typing {
            typed.await;
        }
        made += wave.len();
        until_asked("every entry is judged or not", async || {
            (told_wrong(&pair, &session).await >= made).then_some(())
        })
        .await;
        for call in &calls {
            call.bye().await.unwrap();
        }
    }
    assert!(pair.callee.received().is_empty(), "somebody was rung");

    let minutes = i64::try_from((maskline::clock::now() - began).as_secs() / 60).unwrap();
    let counted = counted(&pair.server).await;
    let (on_number, of_callers) = counted.split_first().unwrap();
    // The 21st is judged, and then one a minute at most.
    assert!((20..=21 + minutes).contains(on_number), "{counted:?}");
    assert_eq!(of_callers[0], 10, "the first guesser had ten of his twelve judged: {counted:?}");
    assert_eq!(of_callers.iter().sum::<i64>(), *on_number, "a refused entry counts nowhere: {counted:?}");

    // Even the right PIN of somebody new is wrong now, and a known caller notices nothing.
    let call = pair.dial(&session, silent("+12025557799")).await;
    type_at_once(&call, "4711").await;
    call.wait_bye(PATIENCE).await.unwrap();
    assert!(pair.callee.received().is_empty(), "somebody was rung");
    let (call, incoming) = pair.talk(&session).await;
    hang_up(&call, &incoming).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limits_of_wrong_pins_hold_over_a_kill() {
    let (callee, caller) = (common::phone("callee").await, common::phone("caller").await);
    let folder = std::env::temp_dir().join(format!("maskline-guesses-{:016x}", rand::random::<u64>()));
    let config = configure(&folder, callee.address());
    let service = Process::start(&config).await;
    let mut body = pin_session();
    (body["first_party"], body["second_party"]) = (json!(FIRST), json!(SECOND));
    let (status, session) = service.api("POST", "Masking/Session/", Some(&body)).await;
    assert_eq!(status, 201, "{session}");
    let number = Server::number(&session);
    let dial = async |sip, from: &str| caller.call(sip, &number, silent(from)).await.unwrap();

    // Ten wrong ones at once, each heard to the end.
    let mut calls = vec![];
    for n in 0..10 {
        let call = dial(service.sip, STRANGER).await;
        type_at_once(&call, &format!("100{n}")).await;
        calls.push(call);
    }
    for call in &calls {
        call.wait_bye(PATIENCE).await.unwrap();
    }
    service.kill().await;

    let service = Process::start(&config).await;
    let call = dial(service.sip, STRANGER).await;
    type_at_once(&call, "4711").await;
    call.wait_bye(PATIENCE).await.unwrap();
    assert!(callee.received().is_empty(), "the eleventh entry of the day was judged");
    // Another one is judged, and a party needs no PIN.
    let call = dial(service.sip, "+12025550178").await;
    type_at_once(&call, "4711").await;
    assert_eq!(dialled(&callee.next_call(PATIENCE).await.unwrap()), SECOND);
    call.bye().await.unwrap();
    let call = dial(service.sip, FIRST).await;
    assert_eq!(dialled(&callee.next_call(PATIENCE).await.unwrap()), SECOND);
    call.cancel().await.unwrap();
    call.final_status(PATIENCE).await.unwrap();
    service.terminate().await;
    std::fs::remove_dir_all(&folder).unwrap();
}

/// RFC 3261 §18.2.2 lets Via say where an answer goes; here it goes to where the request came from.
#[tokio::test(flavor = "multi_thread")]
async fn answers_go_to_the_source_and_to_nobody_else() {
    let scene = Scene::new().await;
    // Whoever is named somewhere in the message.
    let victims: Vec<UdpSocket> =
        (0..4).map(|n| UdpSocket::bind(format!("127.0.0.{}:0", 90 + n)).unwrap()).collect();
    victims.iter().for_each(|victim| victim.set_nonblocking(true).unwrap());
    let at = |n: usize| victims[n].local_addr().unwrap();
    let source = UdpSocket::bind("127.0.0.89:0").unwrap();
    source.set_nonblocking(true).unwrap();
    let source = tokio::net::UdpSocket::from_std(source).unwrap();
    // With a session, without one, unreadable, of no call, of no method.
    let bodies = [
        ("INVITE", format!("sip:{}@{}", scene.number, scene.server.sip), "1 INVITE"),
        ("INVITE", format!("sip:+12025550199@{}", scene.server.sip), "1 INVITE"),
        ("INVITE", format!("sip:{}@{}", scene.number, scene.server.sip), "nonsense"),
        ("BYE", format!("sip:x@{}", scene.server.sip), "1 BYE"),
        ("OPTIONS", format!("sip:{}", scene.server.sip), "1 OPTIONS"),
        ("REFER", format!("sip:x@{}", scene.server.sip), "1 REFER"),
    ];
    for (index, (method, uri, cseq)) in bodies.iter().enumerate() {
        let text = format!(
            "{method} {uri} SIP/2.0\r\n\
             Via: SIP/2.0/UDP {sent_by};branch=z9hG4bKthird{index};maddr={maddr};received={received};rport\r\n\
             From: <sip:{STRANGER}@{from}>;tag=1\r\nTo: <sip:x@{from}>\r\nCall-ID: third{index}\r\nCSeq: {cseq}\r\n\
             Contact: <sip:x@{from}>\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n",
            sent_by = at(0),
            maddr = at(1).ip(),
            received = at(2).ip(),
            from = at(3),
        );
        source.send_to(text.as_bytes(), scene.server.sip).await.unwrap();
        let mut buffer = vec![0; 4000];
        let (mut bytes, mut answers) = (0, vec![]);
        // The final answer; in between a 100 may come.
        while answers.last().is_none_or(|status| *status < 200) {
            let received =
                tokio::time::timeout(PATIENCE, source.recv_from(&mut buffer)).await.unwrap().unwrap();
            assert_eq!(received.1, scene.server.sip);
            let answer = Message::read(&buffer[..received.0]).unwrap();
            if answer.call_id() == format!("third{index}") {
                bytes += received.0;
                answers.push(answer.status().unwrap());
            }
        }
        assert!(bytes < 2 * text.len(), "{method}: {bytes} bytes for {}", text.len());
    }
    for victim in &victims {
        let got = victim.recv(&mut [0; 2000]).map_err(|error| error.kind());
        assert_eq!(got, Err(std::io::ErrorKind::WouldBlock), "{:?}", victim.local_addr());
    }
}

/// A bug in the machine of one call: that call is hung up on both sides and leaves its record; the others hear nothing
/// of it.
#[cfg(debug_assertions)]
#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_one_call_ends_that_call_only() {
    // With two bugs in a row it cannot even be hung up in order.
    for bugs in [1, 2] {
        let setup = Setup { numbers: 2, ..Setup::default() };
        let scene = Scene::with(PhoneConfig::named("caller"), PhoneConfig::named("callee"), setup).await;
        let shell = scene.server.service.shell();
        let (other, other_incoming) = scene.talk().await;
        let (call, incoming) = scene.talk().await;
        let uuid = scene.session["session_uuid"].as_str().unwrap().parse().unwrap();
        let hit = until_asked("both calls are in the database", async || {
            let calls = shell.store.interactions(uuid).await.unwrap();
            let whole = calls.len() == 2 && calls.iter().all(|call| call.legs.len() == 2);
            // The latest comes last.
            whole.then(|| calls[1].uuid)
        })
        .await;
        let errors = scene.server.metric("maskline_internal_errors_total").await;

        shell.faults.order(hit, bugs);
        // Any event will do.
        let asked = call.request("OPTIONS", &[], None, PATIENCE);
        if bugs == 1 {
            let (asked, by_caller, by_callee) =
                tokio::join!(asked, call.wait_bye(PATIENCE), incoming.wait_bye(PATIENCE));
            drop((asked, by_caller.unwrap(), by_callee.unwrap()));
        } else {
            // Nobody answers this one; later tries find no call.
            assert_eq!(asked.await.unwrap().status(), Some(481));
        }
        until("only the other call is left", || (shell.live_calls() == 1).then_some(())).await;
        until("its record is stored", || (shell.unsettled_calls() == 1).then_some(())).await;
        assert!(scene.server.metric("maskline_internal_errors_total").await >= errors + f64::from(bugs));
        let calls = shell.store.interactions(uuid).await.unwrap();
        let record = calls.iter().find(|call| call.uuid == hit).unwrap();
        assert!(record.ended_at.is_some() && record.legs.len() == 2, "{record:?}");
        for leg in &record.legs {
            assert_eq!(leg.hangup_cause_name.as_deref(), Some("Internal Error"), "{leg:?}");
            assert!(leg.ended_at.is_some() && leg.answered_at.is_some(), "{leg:?}");
        }
        // Its ports are free, the other call is whole, and so is the next one.
        until("its ports rest", || (shell.engine.statistics().ports_in_use == 2).then_some(())).await;
        scene.both_hear(&other, &other_incoming).await;
        let (next, next_incoming) = scene.talk().await;
        scene.both_hear(&next, &next_incoming).await;
        hang_up(&next, &next_incoming).await;
        hang_up(&other, &other_incoming).await;
        scene.server.settled().await;
    }
}

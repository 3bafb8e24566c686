//! What else could let something through: a call over TCP, an offer that comes late, a stranger who comes by a PIN and
//! hears prompts, and what is told to applications: the owner's own, another session's, another account's.

// Parts of one test.
#![allow(unreachable_pub)]

use crate::calls::{ACCOUNTS, Scene};
use crate::common::receiver::{Mood, Receiver};
use crate::common::{PATIENCE, Server, until};
use crate::dialog::Dialog;
use crate::party::{Party, Side};
use maskline::clock;
use maskline::masking::guessing::Bucket;
use maskline::number::{Did, E164};
use maskline::store::Verdict;
use serde_json::json;
use sip_tests::leak::disguise::Disguise;
use sip_tests::leak::{Finder, Marks};
use sip_tests::patterns::Pattern;
use sip_tests::sdp::LocalMedia;
use sip_tests::transcript::{Entry, Kind, leaks_in};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// A session that strangers reach by a PIN.
#[derive(Debug, Clone)]
pub struct PinSession {
    /// Its virtual number.
    pub number: String,
    /// Neither the stranger nor the callee is this one, for whom the stranger comes.
    pub absent: String,
    pub pins: [String; 2],
}

impl PinSession {
    /// What only the owner may know.
    pub fn marks(&self) -> Marks {
        Marks::default().number(&self.absent).id(&self.pins[0]).id(&self.pins[1])
    }
}

/// The offer is ours, in the 200, and the answer comes in the ACK, marked like everything else.
pub async fn late_offer(scene: &mut Scene) {
    let mut options = scene.invite();
    options.sdp = None;
    // What the ledger has of the offer that is not sent is said in the answer.
    let (call, incoming) = scene.dial(options).await;
    let (calling, called) = (scene.party(Side::Caller), scene.party(Side::Callee));
    let ringing = scene.reply(180, "{s}-late");
    incoming.respond(ringing).await.unwrap();
    call.ringing(PATIENCE).await.unwrap();
    scene.caller.lose_acks(u32::MAX).await.unwrap();
    let (sdp, ok) = (scene.ledger.sdp(&called), scene.reply(200, "{s}-late"));
    incoming.respond_with_sdp(sdp, ok).await.unwrap();
    let ok = call.answered(PATIENCE).await.unwrap();
    let invite = scene.sent("caller", |m| m.is("INVITE"));
    let answer =
        LocalMedia::new(call.media().address(), scene.ledger.sdp(&calling), 78).answer(ok.sdp().unwrap());
    let body = Some(("application/sdp".to_owned(), answer.unwrap()));
    let (sip, caller) = (scene.sip(), scene.caller.clone());
    let mut of_caller = Dialog::of_caller(&mut scene.ledger, (&calling, &caller), sip, &invite, &ok);
    of_caller.send(&mut scene.ledger, "ACK", invite.cseq().0, body);
    incoming.wait_ack(PATIENCE).await.unwrap();
    incoming.media().wait_packets(10, PATIENCE).await.unwrap();
    // Once more in the dialog, from either side: an offer of ours in each answer.
    let sent = scene.sent("callee", |m| m.status() == Some(200) && m.cseq().1 == "INVITE");
    let callee = scene.callee.clone();
    let mut of_callee =
        Dialog::of_callee(&mut scene.ledger, (&called, &callee), sip, incoming.request(), &sent);
    of_callee.bye(&mut scene.ledger).await;
    call.wait_bye(PATIENCE).await.unwrap();
}

/// Serves prompts, whose files say whose they are, and keeps what it is asked with.
pub struct Prompts {
    base: String,
    asked: Arc<Mutex<Vec<u8>>>,
}

impl Prompts {
    async fn serve(parties: [&Party; 2]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(vec![]));
        let (seen, file) = (Arc::clone(&asked), prompt(parties));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = vec![];
                while !request.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = stream.read_u8().await else { break };
                    request.push(byte);
                }
                seen.lock().unwrap().extend(request);
                let head = format!(
                    "HTTP/1.1 200 OK\r\nContent-Type: audio/wav\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                    file.len()
                );
                let _ = stream.write_all(&[head.as_bytes(), &file].concat()).await;
                let _ = stream.shutdown().await;
            }
        });
        Self { base, asked }
    }

    pub fn asked(&self) -> String {
        String::from_utf8_lossy(&self.asked.lock().unwrap()).into_owned()
    }
}

/// 200 ms of a tone; a title, a comment and something behind the end that name both parties.
fn prompt(parties: [&Party; 2]) -> Vec<u8> {
    let chunk = |kind: &[u8], content: &[u8]| {
        let mut chunk = [kind, &u32::try_from(content.len()).unwrap().to_le_bytes(), content].concat();
        chunk.resize(chunk.len().next_multiple_of(2), 0);
        chunk
    };
    let words: String =
        parties.iter().map(|party| format!("{} {} {}. ", party.number, party.stem, party.lan)).collect();
    let list =
        [b"INFO".as_slice(), &chunk(b"INAM", words.as_bytes()), &chunk(b"ICMT", words.as_bytes())].concat();
    let sound: Vec<u8> =
        (0..1600i32).flat_map(|n| ((n % 20 - 10) * 800).to_le_bytes()[..2].to_vec()).collect();
    let format = b"\x01\0\x01\0\x40\x1f\0\0\x80\x3e\0\0\x02\0\x10\0";
    let chunks =
        [b"WAVE".to_vec(), chunk(b"fmt ", format), chunk(b"LIST", &list), chunk(b"data", &sound)].concat();
    [chunk(b"RIFF", &chunks), words.into_bytes()].concat()
}

/// A stranger types the PIN of somebody who is not there, hears prompts, and talks with the callee.
pub async fn pin_call(scene: &mut Scene, seed: u64) -> Prompts {
    let (calling, called) = (scene.party(Side::Caller), scene.party(Side::Callee));
    let prompts = Prompts::serve([&calling, &called]).await;
    let absent = Party::drawn(Side::Caller, seed + 5_000_000, false).number;
    let pin = |of: &str| format!("{of}{:08}", 10_000_019 + (seed * 7919) % 80_000_000);
    let pins = [pin("73"), pin("51")];
    let url = |name: &str| format!("{}/{name}.wav", prompts.base);
    let session = scene
        .server
        .session(json!({
            "first_party": format!("+{absent}"), "second_party": format!("+{}", called.number), "geomatch": false,
            "is_pin_authentication_required": true, "first_party_pin": pins[0], "second_party_pin": pins[1],
            "pin_prompt_play": url("prompt"), "incorrect_pin_play": url("incorrect"), "pin_retry": 0,
            "first_party_play_url": url("first"), "second_party_play_url": url("second"),
            "callback_url": scene.told.url, "recording_callback_url": scene.told.url,
        }))
        .await;
    for name in ["prompt", "incorrect", "first", "second"] {
        let library = &scene.server.service.shell().prompts;
        until(name, || prompts.asked().contains(name).then_some(())).await;
        until(name, || library.find("", &url(name))).await;
    }
    let number = Server::number(&session);
    scene.pin = Some(PinSession { number: number.clone(), absent, pins: pins.clone() });
    let usual = std::mem::replace(&mut scene.number, number);
    let options = scene.invite();
    let (sip, caller) = (scene.sip(), scene.caller.clone());
    let call = caller.call(sip, &scene.number, options).await.unwrap();
    scene.number = usual;
    scene.caller.lose_acks(u32::MAX).await.unwrap();
    let ok = call.answered(PATIENCE).await.unwrap();
    let invite = scene.sent("caller", |m| m.is("INVITE"));
    let mut of_caller = Dialog::of_caller(&mut scene.ledger, (&calling, &caller), sip, &invite, &ok);
    of_caller.send(&mut scene.ledger, "ACK", invite.cseq().0, None);
    call.media().wait_packets(5, PATIENCE).await.unwrap();
    // Half of it in INFO, which says more than a key, half in telephone-events.
    let (half, rest) = pins[0].split_at(5);
    for key in half.chars() {
        let template = format!("Signal={key}\r\nDuration=100\r\nX={{s}} {{n}}\r\n");
        let body = scene.ledger.text(40, &calling, &template).into_bytes();
        let body = Some(("application/dtmf-relay".to_owned(), body));
        assert_eq!(of_caller.ask(&mut scene.ledger, "INFO", body).await.status(), Some(200));
    }
    call.media().dtmf(rest, Pattern::Clean).await;

    let incoming = scene.callee.next_call(PATIENCE).await.unwrap();
    for (status, tag) in [(180, "{s}-pin"), (183, "{s}-pin")] {
        let reply = scene.reply(status, tag);
        incoming.respond(reply).await.unwrap();
    }
    let (sdp, ok) = (scene.ledger.sdp(&called), scene.reply(200, "{s}-pin"));
    incoming.respond_with_sdp(sdp, ok).await.unwrap();
    incoming.wait_ack(PATIENCE).await.unwrap();
    for media in [call.media(), incoming.media()] {
        let heard = media.received_count();
        media.wait_packets(heard + 30, PATIENCE).await.unwrap();
    }
    of_caller.bye(&mut scene.ledger).await;
    incoming.wait_bye(PATIENCE).await.unwrap();
    call.media().stop();
    incoming.media().stop();
    prompts
}

/// What applications are told beside the owner's: of another session of the same account, in which the caller guesses,
/// and of another account's. Returns who was told and what, every byte of it.
pub async fn told_to_others(scene: &Scene) -> Vec<(String, String)> {
    let caller = E164::parse(&scene.party(Side::Caller).number).unwrap();
    let (http, [owner, other]) = (scene.server.service.http(), ACCOUNTS);
    let number = json!({ "number": "+12025550188", "trunk": "carrier" });
    let path = format!("/v1/Account/{}/Number/", other.0);
    let (status, text) = Server::ask(http, other, "POST", &path, Some(&number)).await;
    assert_eq!(status, 201, "{text}");
    let mut waiting = vec![];
    for (name, account) in [("another session", owner), ("another account", other)] {
        let receiver = Receiver::start(account.1, |_| Mood::Take).await;
        let body = json!({
            "first_party": "+12125550101", "second_party": "+12125550102", "geomatch": false,
            "is_pin_authentication_required": true, "generate_pin": true,
            "callback_url": receiver.url, "recording_callback_url": receiver.url,
        });
        let path = format!("/v1/Account/{}/Masking/Session/", account.0);
        let (status, text) = Server::ask(http, account, "POST", &path, Some(&body)).await;
        assert_eq!(status, 201, "{text}");
        let session: serde_json::Value = serde_json::from_str(&text).unwrap();
        let did = Did::parse(&Server::number(&session)).unwrap();
        let buckets = vec![Bucket::Caller(caller.clone()), Bucket::Number { did, pin_sessions: 1 }];
        let store = &scene.server.service.shell().store;
        while store.count_guess(buckets.clone(), clock::wall_now()).await.unwrap() == Verdict::Judge {}
        let uuid = session["session_uuid"].as_str().unwrap().to_owned();
        let soon = json!({ "session_expiry": 1 });
        let (status, _) = Server::ask(http, account, "POST", &format!("{path}{uuid}/"), Some(&soon)).await;
        assert_eq!(status, 200);
        waiting.push((name, receiver, uuid));
    }
    let mut told = vec![];
    for (name, receiver, uuid) in waiting {
        until("it is told of the guesser and of its end", || {
            (receiver.taken(&uuid) == ["SessionPinLockedOut", "SessionTimeout"]).then_some(())
        })
        .await;
        let raw: String = receiver.came().into_iter().map(|callback| callback.raw).collect();
        told.push((format!("told to {name}"), raw));
    }
    // The owner is told of both parties, by number alone.
    let raw: String = scene.told.came().into_iter().map(|callback| callback.raw).collect();
    for side in Side::BOTH {
        let party = scene.party(side);
        assert!(raw.contains(&party.number), "the owner knows the {}", party.name());
        let found = Finder::new(&Marks { numbers: vec![party.forward.clone()], ..party.marks() })
            .find(raw.as_bytes());
        assert!(found.is_empty(), "of the {} to the owner: {found:?}", party.name());
    }
    if let Some(pin) = &scene.pin {
        assert!(raw.contains("SessionPinAuthenticationStatus"));
        assert!(!pin.pins.iter().any(|pin| raw.contains(pin)), "the owner is told no PIN");
    }
    told
}

/// Name, where, to whom, how the message begins, what is put into it, whose marks must find it.
type Slip<'a> = (&'a str, &'a Scene, Side, &'a str, Vec<u8>, Marks);

/// Deliberate leaks in what the further calls brought: each is put into a copy of the last message of its kind that a
/// phone received there. Returns those that are not found.
pub fn missed(scene: &Scene, by_tcp: &Scene) -> (usize, Vec<String>) {
    let pin = scene.pin.clone().unwrap();
    let mark = |disguise: Disguise, number: &str| disguise.apply(number, 1).unwrap();
    let calling = scene.party(Side::Caller);
    let (called, tcp_calling) = (scene.party(Side::Callee), by_tcp.party(Side::Caller));
    #[rustfmt::skip]
    let slips: [Slip<'_>; 6] = [
        ("caller's number in the BYE over TCP", by_tcp, Side::Callee, "BYE ", mark(Disguise::National, &tcp_calling.number), tcp_calling.marks()),
        ("caller's device in the INVITE over TCP", by_tcp, Side::Callee, "INVITE ", tcp_calling.uuid.clone().into_bytes(), tcp_calling.marks()),
        ("callee's number in the 200 with our offer", scene, Side::Caller, "SIP/2.0 200", mark(Disguise::Base64, &called.number), called.marks()),
        ("stranger's number in the INVITE behind the PIN", scene, Side::Callee, "INVITE ", mark(Disguise::Percent, &calling.number), calling.marks()),
        ("the PIN in the INVITE behind it", scene, Side::Callee, "INVITE ", mark(Disguise::Hex, &pin.pins[0]), pin.marks()),
        ("who was meant, in an answer to the stranger", scene, Side::Caller, "SIP/2.0 200", mark(Disguise::Spaced, &pin.absent), pin.marks()),
    ];
    let mut missed = vec![];
    for (name, scene, to, begin, text, marks) in &slips {
        let received = scene.transcript.received_by(to.name());
        let honest = received
            .iter()
            .rfind(|entry| entry.kind == Kind::Sip && entry.bytes.starts_with(begin.as_bytes()));
        let honest = honest.unwrap_or_else(|| panic!("{name}: no {begin}")).clone();
        let finder = Finder::new(marks);
        assert_eq!(leaks_in(&honest, &finder), [], "{name}, before it was put in");
        let end = honest.bytes.iter().position(|byte| *byte == b'\n').unwrap() + 1;
        let (start, rest) = honest.bytes.split_at(end);
        let bytes = [start, b"X-Slip: ", text, b"\r\n", rest].concat();
        if leaks_in(&Entry { bytes, ..honest.clone() }, &finder).is_empty() {
            missed.push((*name).to_owned());
        }
    }
    (slips.len(), missed)
}

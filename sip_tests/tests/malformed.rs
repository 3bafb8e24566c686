//! What cannot be read is answered with our own words where RFC 3261 asks for an answer, else met with
//! silence; and the service goes on.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests may panic like tests")]

mod common;

use common::{FIRST, PATIENCE, Scene, until};
use sip_tests::message::Message;
use sip_tests::phone::CallOptions;

/// What every request but the odd one begins with, and what an INVITE ends with.
const HEAD: &str = "Via: {via}\r\nTo: <sip:h>\r\nFrom: <sip:a@h>;tag=1\r\nCall-ID: {id}\r\n";
const INVITE: &str = "CSeq: 1 INVITE\r\nMax-Forwards: 70\r\nContact: <sip:a@127.0.0.1>\r\n\
     Content-Length: 0\r\n\r\n";

/// What is wrong, the message, and the status of its answer; `None`: silence.
#[rustfmt::skip]
const TABLE: &[(&str, &str, Option<u16>)] = &[
    ("no From",
     "INVITE {did} SIP/2.0\r\nVia: {via}\r\nTo: <sip:secret@h>\r\nCall-ID: {id}\r\nCSeq: 1 INVITE\r\n\r\n", Some(400)),
    ("no CSeq", "INVITE {did} SIP/2.0\r\n{head}\r\n", Some(400)),
    ("two Call-IDs", "OPTIONS sip:h SIP/2.0\r\n{head}Call-ID: other\r\nCSeq: 1 OPTIONS\r\n\r\n", Some(400)),
    ("CSeq of another method", "OPTIONS sip:h SIP/2.0\r\n{head}CSeq: 1 INVITE\r\n\r\n", Some(400)),
    ("CSeq out of range", "OPTIONS sip:h SIP/2.0\r\n{head}CSeq: 4294967296 OPTIONS\r\n\r\n", Some(400)),
    ("a body too short",
     "OPTIONS sip:h SIP/2.0\r\n{head}CSeq: 1 OPTIONS\r\nContent-Length: 999\r\n\r\nv=0", Some(400)),
    ("headers in the Request-URI", "INVITE {did}?From=sip:secret@h SIP/2.0\r\n{head}{invite}", Some(400)),
    ("a Request-URI in angle brackets", "INVITE <{did}> SIP/2.0\r\n{head}{invite}", Some(400)),
    ("no Contact", "INVITE {did} SIP/2.0\r\n{head}CSeq: 1 INVITE\r\nMax-Forwards: 70\r\n\r\n", Some(400)),
    ("another version", "INVITE {did} SIP/7.0\r\n{head}{invite}", Some(505)),
    ("no Via",
     "INVITE {did} SIP/2.0\r\nTo: <sip:h>\r\nFrom: <sip:a@h>;tag=1\r\nCall-ID: {id}\r\n{invite}", None),
    ("an ACK without From",
     "ACK {did} SIP/2.0\r\nVia: {via}\r\nTo: <sip:h>\r\nCall-ID: {id}\r\nCSeq: 1 ACK\r\n\r\n", None),
    ("a response without From",
     "SIP/2.0 200 OK\r\nVia: {via}\r\nTo: <sip:h>;tag=2\r\nCall-ID: {id}\r\n{invite}", None),
    ("a response of nobody's", "SIP/2.0 200 OK\r\n{head}{invite}", None),
    ("no SIP at all",
     "GET /something-that-is-long-enough HTTP/1.1\r\nHost: www.example.com\r\nAccept: */*\r\n\r\n", None),
    ("a keep-alive", "\r\n\r\n", None),
    ("nothing", "", None),
];

/// `text` with its placeholders filled in.
fn filled(text: &str, via: &str, id: &str) -> String {
    let whole = text.replace("{head}", HEAD).replace("{invite}", INVITE);
    whole.replace("{via}", via).replace("{id}", id).replace("{did}", "sip:+12025550100@h")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_gets_our_own_words_or_silence() {
    let scene = Scene::new().await;
    let before = scene.server.metric("maskline_sip_malformed_total").await;
    for (index, (what, text, status)) in TABLE.iter().enumerate() {
        let id = format!("malformed{index}");
        let via = format!("SIP/2.0/UDP {};branch=z9hG4bK{id};rport", scene.caller.address());
        scene.caller.send_raw(scene.server.sip, filled(text, &via, &id).as_bytes());
        if let Some(status) = *status {
            let is = |m: &Message| m.call_id() == id;
            let answer = scene.caller.wait_received(what, PATIENCE, is).await.unwrap();
            assert_eq!(answer.status(), Some(status), "{what}");
            assert_eq!(answer.header("Via").unwrap().matches("branch=").count(), 1);
            assert!(answer.body().is_empty());
            assert!(!answer.phrase().unwrap().contains("secret"));
        }
    }
    // Answered last, because it was asked last on the same socket.
    let options = CallOptions { sdp: None, ..CallOptions::from("monitor") };
    let alive = scene.caller.request(scene.server.sip, "OPTIONS", "", options, None, PATIENCE).await.unwrap();
    assert_eq!(alive.status(), Some(200));
    for (index, (what, ..)) in TABLE.iter().enumerate().filter(|(_, row)| row.2.is_none()) {
        let id = format!("malformed{index}");
        assert!(!scene.caller.received().iter().any(|m| m.call_id() == id), "{what}");
    }
    assert!(scene.callee.received().is_empty());
    assert!(scene.server.metric("maskline_sip_malformed_total").await > before);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_is_refused_or_dropped() {
    let scene = Scene::new().await;
    let via = format!("SIP/2.0/UDP {};branch=z9hG4bKlarge;rport", scene.caller.address());
    let rest = filled("{head}{invite}", &via, "large");
    let filler = "x".repeat(20_000);
    let text = format!("INVITE sip:+12025550100@h SIP/2.0\r\nSubject: {filler}\r\n{rest}");
    scene.caller.send_raw(scene.server.sip, text.as_bytes());
    let long_uri =
        format!("OPTIONS sip:{}@h SIP/2.0\r\n{}", "x".repeat(4_000), rest.replace("INVITE", "OPTIONS"));
    scene.caller.send_raw(scene.server.sip, long_uri.as_bytes());
    let is = |m: &Message| m.status() == Some(414);
    scene.caller.wait_received("414", PATIENCE, is).await.unwrap();
    assert!(scene.callee.received().is_empty());
    let many: String = (0..400).map(|n| format!("X-{n}: y\r\n")).collect();
    let text = format!("INVITE sip:+12025550100@h SIP/2.0\r\n{many}{rest}");
    scene.caller.send_raw(scene.server.sip, text.as_bytes());
    let (call, incoming) = scene.talk().await;
    scene.both_hear(&call, &incoming).await;
    call.hang_up().await.unwrap();
    incoming.wait_bye(PATIENCE).await.unwrap();
}

/// Noise inside a call, from either side, is not the end of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_outlives_noise() {
    let scene = Scene::new().await;
    let (call, incoming) = scene.talk().await;
    let mut noise = 1u64;
    for side in [&scene.caller, &scene.callee] {
        for length in [1, 11, 40, 300, 2000] {
            let bytes: Vec<u8> = (0..length)
                .map(|_| {
                    noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    noise.to_be_bytes()[0]
                })
                .collect();
            side.send_raw(scene.server.sip, &bytes);
            call.media().send_raw(&bytes);
            incoming.media().send_raw(&bytes);
        }
        // The call's own INVITE, cut at many places.
        let sent = side.transcript().entries();
        let longest =
            sent.iter().filter(|e| e.kind == sip_tests::transcript::Kind::Sip).max_by_key(|e| e.bytes.len());
        let bytes = &longest.unwrap().bytes;
        for end in (0..bytes.len()).step_by(17) {
            side.send_raw(scene.server.sip, &bytes[..end]);
        }
    }
    scene.both_hear(&call, &incoming).await;
    assert_eq!((call.end(), incoming.end()), (None, None));
    call.hang_up().await.unwrap();
    incoming.wait_bye(PATIENCE).await.unwrap();
    scene.server.settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_description_that_is_none_gets_400() {
    let scene = Scene::new().await;
    for body in ["v=1\r\n", "nothing", "\0\0\0", "v=0\r\no=-\r\nm=audio\r\n"] {
        let body = Some(("application/sdp".to_owned(), body.as_bytes().to_vec()));
        let options = CallOptions { body, ..CallOptions::from(FIRST) };
        let call = scene.caller.call(scene.server.sip, &scene.number, options).await.unwrap();
        let refusal = call.final_status(PATIENCE).await.unwrap();
        assert!(matches!(refusal.status(), Some(400 | 488)), "{refusal:?}");
    }
    until("all are over", || (scene.server.service.shell().live_calls() == 0).then_some(())).await;
    assert!(scene.callee.received().is_empty());
}

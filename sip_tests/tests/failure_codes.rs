//! What a failure of the B-leg becomes on the A-leg: product.md's table, our own phrase, no body; and which
//! failures send the call to the next gateway.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests may panic like tests")]

mod common;

use common::{FIRST, PATIENCE, Scene, Server, Setup, phone};
use serde_json::json;
use sip_tests::phone::{CallOptions, PhoneConfig};
use sip_tests::sdp::SdpOptions;

const TABLE: &[(&[u16], u16)] = &[
    (&[486], 486),
    (&[487], 487),
    (&[600], 600),
    (&[603], 603),
    (&[404, 408, 410, 480, 484, 604], 480),
    (&[415, 488, 606], 488),
    (&[300, 301, 302, 380, 401, 402, 403, 407, 500, 501, 502, 503, 504, 513], 500),
    (&[400, 406, 420, 482, 483, 485, 493, 580, 607, 699], 500),
];

/// Headers that a refusal may have.
const ALLOWED: &[&str] =
    &["via", "from", "to", "call-id", "cseq", "content-length", "server", "allow", "accept", "reason"];

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_is_mapped_and_nothing_of_it_passes() {
    let scene = Scene::new().await;
    for &(statuses, expected) in TABLE {
        for &status in statuses {
            let (call, incoming) = scene.dial().await;
            let headers = [
                ("Warning", "399 secret.example \"secret words\""),
                ("Retry-After", "77 (secret)"),
                ("Reason", "SIP;cause=480;text=\"secret\""),
                ("Contact", "<sip:secret@secret.example>"),
                ("WWW-Authenticate", "Digest realm=\"secret\", nonce=\"secret\""),
                ("Error-Info", "<sip:secret@secret.example>"),
            ];
            let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
            incoming
                .reject(status, Some("Secret phrase"), &headers, Some(("text/plain", b"secret body")))
                .await
                .unwrap();
            let refusal = call.final_status(PATIENCE).await.unwrap();
            assert_eq!(refusal.status(), Some(expected), "{status}");
            assert!(!refusal.text().to_ascii_lowercase().contains("secret"), "{}", refusal.text());
            assert!(refusal.body().is_empty());
            let names = refusal.header_names();
            assert!(names.iter().all(|name| ALLOWED.contains(&name.as_str())), "{status}: {names:?}");
            let cause = refusal.header("Reason").unwrap();
            let number = cause.strip_prefix("Q.850;cause=").and_then(|number| number.parse::<u8>().ok());
            assert!(number.is_some_and(|number| number <= 127), "a number and no text: {cause}");
            incoming.wait_ack(PATIENCE).await.unwrap();
            let (caller, callee) = scene.server.last_legs(&scene.session).await;
            assert_eq!((&callee["sip_status"], &callee["q850_cause"]), (&json!(status), &json!(null)));
            assert_eq!(caller["q850_cause"], json!(number), "what we said");
        }
    }
    scene.no_faults().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_record_says_why() {
    let scene = Scene::new().await;
    for (status, cause, state) in [
        (486, "Busy Line", "BUSY"),
        (600, "Busy everywhere", "BUSY"),
        (603, "Declined", "REJECTED"),
        (480, "No Answer", "NO_ANSWER"),
        (404, "Invalid Destination Address", "FAILED"),
        (503, "Network congestion from carrier", "FAILED"),
        (302, "Internal server error from carrier", "FAILED"),
    ] {
        let (call, incoming) = scene.dial().await;
        incoming.reject(status, None, &[], None).await.unwrap();
        call.final_status(PATIENCE).await.unwrap();
        let (caller, callee) = scene.server.last_legs(&scene.session).await;
        for leg in [&caller, &callee] {
            assert_eq!((&leg["hangup_cause_name"], &leg["call_state"]), (&cause.into(), &state.into()));
            assert_eq!(leg["hangup_source"], "Callee");
        }
    }
}

/// The Q.850 cause of each leg is the one that crossed the wire: the peer's, else ours.
#[tokio::test(flavor = "multi_thread")]
async fn the_record_has_the_cause_that_was_told_on_each_leg() {
    let scene = Scene::new().await;
    let causes = async || {
        let (caller, callee) = scene.server.last_legs(&scene.session).await;
        (caller["q850_cause"].clone(), callee["q850_cause"].clone())
    };
    for (status, told, ours) in [(503, 34, 42), (486, 17, 17), (480, 20, 19)] {
        let (call, incoming) = scene.dial().await;
        let reason = ("Reason".to_owned(), format!("Q.850;cause={told};text=\"x\""));
        incoming.reject(status, None, &[reason], None).await.unwrap();
        let refusal = call.final_status(PATIENCE).await.unwrap();
        assert_eq!(refusal.header("Reason"), Some(format!("Q.850;cause={ours}").as_str()), "{status}");
        assert_eq!(causes().await, (json!(ours), json!(told)), "{status}");
    }
    let (call, incoming) = scene.talk().await;
    scene.hang_up(&call, &incoming).await;
    assert_eq!(causes().await, (json!(null), json!(16)), "the caller named none, we did");
    let (call, incoming) = scene.talk().await;
    incoming.bye_with(&[("Reason".to_owned(), "Q.850;cause=31".to_owned())]).await.unwrap();
    let bye = call.wait_bye(PATIENCE).await.unwrap();
    assert_eq!(bye.header("Reason"), Some("Q.850;cause=16"));
    assert_eq!(causes().await, (json!(16), json!(31)));
    let (call, incoming) = scene.dial().await;
    call.cancel().await.unwrap();
    incoming.wait_cancel(PATIENCE).await.unwrap();
    call.final_status(PATIENCE).await.unwrap();
    assert_eq!(causes().await, (json!(null), json!(16)));
    scene.no_faults().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_answers_in_time() {
    let (caller, callee) = (phone("caller").await, phone("callee").await);
    let server = Server::start(&callee).await;
    let session = server.session(json!({ "record": false, "ring_timeout": 1 })).await;
    let call = caller.call(server.sip, &Server::number(&session), CallOptions::from(FIRST)).await.unwrap();
    let incoming = callee.next_call(PATIENCE).await.unwrap();
    incoming.ring().await.unwrap();
    assert_eq!(call.final_status(PATIENCE).await.unwrap().status(), Some(480));
    incoming.wait_cancel(PATIENCE).await.unwrap();
    let (first, second) = server.last_legs(&session).await;
    for leg in [first, second] {
        assert_eq!(leg["hangup_cause_name"], "Ring Timeout Reached");
        assert_eq!((&leg["hangup_source"], &leg["call_state"]), (&"Maskline".into(), &"NO_ANSWER".into()));
    }
    assert!(caller.faults().await.is_empty() && callee.faults().await.is_empty());
}

/// A scene whose second gateway is another phone.
async fn two_gateways() -> (Scene, sip_tests::phone::Phone) {
    let spare = phone("spare").await;
    let callee = phone("callee").await;
    let gateways = [callee.address(), spare.address()].map(|at| format!("sip:{at};transport=udp"));
    let server =
        Server::with(callee.address(), Setup { gateways: gateways.to_vec(), ..Setup::default() }).await;
    let session = server.session(json!({ "record": false })).await;
    let number = Server::number(&session);
    let caller = phone("caller").await;
    (Scene { server, caller, callee, session, number }, spare)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_gateway_is_tried_when_the_first_is_full() {
    let (scene, spare) = two_gateways().await;
    for status in [503, 504, 408] {
        let (call, refused) = scene.dial().await;
        refused.reject(status, None, &[], None).await.unwrap();
        let incoming = spare.next_call(PATIENCE).await.unwrap();
        assert_ne!(incoming.request().call_id(), refused.request().call_id());
        incoming.ring().await.unwrap();
        incoming.answer(SdpOptions::default()).await.unwrap();
        call.answered(PATIENCE).await.unwrap();
        call.hang_up().await.unwrap();
        incoming.wait_bye(PATIENCE).await.unwrap();
        let (_, second) = scene.server.last_legs(&scene.session).await;
        assert_eq!((&second["attempt"], &second["call_state"]), (&2.into(), &"ANSWER".into()));
    }
    scene.no_faults().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callee_who_rang_or_refused_is_not_rung_again() {
    let (scene, spare) = two_gateways().await;
    for (rings, status, expected) in [(true, 503, 500), (false, 486, 486), (false, 500, 500)] {
        let (call, incoming) = scene.dial().await;
        if rings {
            incoming.ring().await.unwrap();
            call.ringing(PATIENCE).await.unwrap();
        }
        incoming.reject(status, None, &[], None).await.unwrap();
        assert_eq!(call.final_status(PATIENCE).await.unwrap().status(), Some(expected));
        scene.server.settled().await;
    }
    assert!(spare.received().is_empty());
    scene.no_faults().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_gateway_is_left() {
    let (scene, spare) = two_gateways().await;
    let (call, refused) = scene.dial().await;
    refused.reject(503, None, &[], None).await.unwrap();
    let last = spare.next_call(PATIENCE).await.unwrap();
    last.reject(503, None, &[], None).await.unwrap();
    let refusal = call.final_status(PATIENCE).await.unwrap();
    assert_eq!((refusal.status(), refusal.header("Retry-After")), (Some(500), None));
    scene.no_faults().await;
}

/// 2xx without a description is an answer that nobody can talk by.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_usable_audio_is_acknowledged_and_ended() {
    let scene =
        Scene::with(PhoneConfig::named("caller"), PhoneConfig::named("callee"), Setup::default()).await;
    for body in [
        None,
        Some(
            "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n\
             m=audio 9 RTP/AVP 18\r\n",
        ),
    ] {
        let (call, incoming) = scene.dial().await;
        let mut reply = sip_tests::agent::Reply::status(200);
        reply.body = body.map(|text| ("application/sdp".to_owned(), text.as_bytes().to_vec()));
        incoming.respond(reply).await.unwrap();
        incoming.wait_ack(PATIENCE).await.unwrap();
        incoming.wait_bye(PATIENCE).await.unwrap();
        assert_eq!(call.final_status(PATIENCE).await.unwrap().status(), Some(488));
    }
    scene.no_faults().await;
}

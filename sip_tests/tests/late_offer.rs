//! An INVITE without a description gets our offer in the 200, and its ACK brings the answer (RFC 3261
//! §13.2.1).

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests may panic like tests")]

mod common;

use common::{FIRST, PATIENCE, Scene};
use sip_tests::message::{self, Message};
use sip_tests::phone::CallOptions;
use sip_tests::sdp::{RemoteMedia, SdpOptions};

fn without_offer() -> CallOptions {
    CallOptions { sdp: None, ..CallOptions::from(FIRST) }
}

#[tokio::test(flavor = "multi_thread")]
async fn our_offer_comes_with_the_answer_and_both_hear() {
    let scene = Scene::new().await;
    let (call, incoming) = scene.dial_with(without_offer()).await;
    assert!(incoming.request().sdp().is_some(), "the callee gets an offer in any case");
    incoming.progress_with_sdp(SdpOptions::default()).await.unwrap();
    assert!(call.ringing(PATIENCE).await.unwrap().sdp().is_none(), "no offer goes into a 18x");
    incoming.answer(SdpOptions::default()).await.unwrap();
    let answer = call.answered(PATIENCE).await.unwrap();
    let offer = RemoteMedia::read(answer.sdp().unwrap()).unwrap();
    assert_eq!((offer.payload_types.as_slice(), offer.direction.as_str()), (&[0, 8, 101][..], "sendrecv"));
    assert!(!call.statuses().contains(&183));
    scene.both_hear(&call, &incoming).await;
    scene.hang_up(&call, &incoming).await;
}

/// An ACK of `ok` with this body.
fn ack(invite: &Message, ok: &Message, body: &str) -> Vec<u8> {
    let header = |name: &str, message: &Message| (name.to_owned(), message.header(name).unwrap().to_owned());
    let via = invite.header("Via").unwrap().replace("branch=z9hG4bK", "branch=z9hG4bKack");
    let mut headers = vec![
        ("Via".to_owned(), via),
        ("Max-Forwards".to_owned(), "70".to_owned()),
        header("From", ok),
        header("To", ok),
        header("Call-ID", ok),
        ("CSeq".to_owned(), format!("{} ACK", ok.cseq().0)),
    ];
    if !body.is_empty() {
        headers.push(("Content-Type".to_owned(), "application/sdp".to_owned()));
    }
    let target = message::uri_of(ok.header("Contact").unwrap());
    message::write(&format!("ACK {target} SIP/2.0"), &headers, body.as_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ack_without_a_usable_answer_ends_the_call() {
    let scene = Scene::new().await;
    let refused =
        "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 0 RTP/AVP 0\r\n";
    for body in ["", refused, "no description"] {
        scene.caller.lose_acks(u32::MAX).await.unwrap();
        let (call, incoming) = scene.dial_with(without_offer()).await;
        incoming.answer(SdpOptions::default()).await.unwrap();
        let ok = call.answered(PATIENCE).await.unwrap();
        let sent = scene.caller.transcript().entries().into_iter().rev();
        let invite = sent.filter_map(|e| Message::read(&e.bytes)).find(|m| m.is("INVITE")).unwrap();
        scene.caller.send_raw(scene.server.sip, &ack(&invite, &ok, body));
        call.wait_bye(PATIENCE).await.unwrap();
        incoming.wait_bye(PATIENCE).await.unwrap();
        scene.server.settled().await;
    }
    scene.no_faults().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reinvite_without_offer_gets_ours() {
    let scene = Scene::new().await;
    let (call, incoming) = scene.talk().await;
    for side in [&*call, &*incoming] {
        let ok = side.reinvite(None, PATIENCE).await.unwrap();
        assert_eq!(ok.status(), Some(200));
        assert!(RemoteMedia::read(ok.sdp().unwrap()).unwrap().codec().is_some());
        scene.both_hear(&call, &incoming).await;
    }
    scene.hang_up(&call, &incoming).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_ack_with_the_answer_is_asked_for_again() {
    let scene = Scene::new().await;
    scene.caller.lose_acks(1).await.unwrap();
    let (call, incoming) = scene.dial_with(without_offer()).await;
    incoming.answer(SdpOptions::default()).await.unwrap();
    call.answered(PATIENCE).await.unwrap();
    scene.both_hear(&call, &incoming).await;
    scene.hang_up(&call, &incoming).await;
}

//! The callee's network forks: the caller sees one To tag and one description, and one answer counts
//! (RFC 3261 §13.2.2.4).

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests may panic like tests")]

mod common;

use common::{PATIENCE, Scene};
use sip_tests::agent::Reply;
use sip_tests::sdp::SdpOptions;
use sip_tests::transcript::{Direction, Kind};
use std::collections::BTreeSet;

#[tokio::test(flavor = "multi_thread")]
async fn many_ringing_forks_are_one_to_the_caller() {
    let scene = Scene::new().await;
    let (call, incoming) = scene.dial().await;
    for tag in ["one", "two", "three"] {
        incoming.ring_as(tag).await.unwrap();
    }
    for tag in ["two", "three"] {
        let early = Reply::with_sdp(183).tagged(tag);
        incoming.respond_with_sdp(SdpOptions::default(), early).await.unwrap();
    }
    call.wait_for(|status| status == 183, PATIENCE).await.unwrap();
    // More forks than anybody keeps apart.
    for fork in 0..20 {
        incoming.ring_as(&format!("fork{fork}")).await.unwrap();
    }
    let last = SdpOptions { telephone_event_pt: Some(96), ..SdpOptions::default() };
    incoming.respond_with_sdp(last, Reply::with_sdp(200).tagged("one")).await.unwrap();
    call.answered(PATIENCE).await.unwrap();
    let ack = incoming.wait_ack(PATIENCE).await.unwrap();
    assert_eq!(ack.to_tag(), Some("one"));

    let responses: Vec<_> =
        call.received().into_iter().filter(|m| m.status().is_some_and(|s| s > 100)).collect();
    let tags: BTreeSet<_> = responses.iter().filter_map(|m| m.to_tag()).collect();
    let descriptions: BTreeSet<_> = responses.iter().filter_map(|m| m.sdp()).collect();
    assert_eq!((tags.len(), descriptions.len()), (1, 1), "{tags:?}");
    assert!(!tags.iter().any(|tag| ["one", "two", "three"].contains(tag)));

    scene.both_hear(&call, &incoming).await;
    call.hang_up().await.unwrap();
    assert_eq!(incoming.wait_bye(PATIENCE).await.unwrap().to_tag(), Some("one"));
    scene.no_faults().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_answer_is_acknowledged_and_ended_and_the_call_goes_on() {
    let scene = Scene::new().await;
    let (call, incoming) = scene.dial().await;
    incoming.ring_as("forkone").await.unwrap();
    incoming.ring_as("forktwo").await.unwrap();
    incoming.respond_with_sdp(SdpOptions::default(), Reply::with_sdp(200).tagged("forkone")).await.unwrap();
    call.answered(PATIENCE).await.unwrap();
    incoming.wait_ack(PATIENCE).await.unwrap();

    let first = scene
        .callee
        .transcript()
        .entries()
        .into_iter()
        .find(|e| {
            e.direction == Direction::Sent && e.kind == Kind::Sip && e.bytes.starts_with(b"SIP/2.0 200")
        })
        .unwrap();
    let second = String::from_utf8(first.bytes).unwrap().replace("forkone", "forktwo");
    let of_second = |message: &sip_tests::message::Message, method: &str| {
        message.is(method) && message.to_tag() == Some("forktwo")
    };
    scene.callee.send_raw(first.peer, second.as_bytes());
    let ack =
        scene.callee.wait_received("ACK of the second", PATIENCE, |m| of_second(m, "ACK")).await.unwrap();
    assert_eq!(ack.cseq().0, incoming.request().cseq().0);
    scene.callee.wait_received("BYE of the second", PATIENCE, |m| of_second(m, "BYE")).await.unwrap();

    // The same 2xx once more gets the same ACK, and no second BYE.
    let acks = || scene.callee.received().iter().filter(|m| of_second(m, "ACK")).count();
    let before = acks();
    scene.callee.send_raw(first.peer, second.as_bytes());
    common::until("another ACK", || (acks() > before).then_some(())).await;
    assert_eq!(scene.callee.received().iter().filter(|m| m.is("BYE")).count(), 1);

    assert_eq!(call.end(), None);
    call.hang_up().await.unwrap();
    let of_first = |m: &sip_tests::message::Message| m.is("BYE") && m.to_tag() == Some("forkone");
    scene.callee.wait_received("BYE of the first", PATIENCE, of_first).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn forks_that_answer_after_the_caller_gave_up_are_all_ended() {
    let scene = Scene::new().await;
    let (call, incoming) = scene.dial().await;
    incoming.ring_as("forkone").await.unwrap();
    incoming.ring_as("forktwo").await.unwrap();
    call.ringing(PATIENCE).await.unwrap();
    incoming.keep_when_cancelled().await.unwrap();
    call.cancel().await.unwrap();
    incoming.wait_cancel(PATIENCE).await.unwrap();
    incoming.respond_with_sdp(SdpOptions::default(), Reply::with_sdp(200).tagged("forkone")).await.unwrap();
    incoming.wait_ack(PATIENCE).await.unwrap();
    let sent = scene.callee.transcript().entries().into_iter();
    let first = sent
        .filter(|e| e.direction == Direction::Sent && e.bytes.starts_with(b"SIP/2.0 200"))
        .find(|e| String::from_utf8_lossy(&e.bytes).contains(" INVITE\r\n"))
        .unwrap();
    let second = String::from_utf8(first.bytes).unwrap().replace("forkone", "forktwo");
    scene.callee.send_raw(first.peer, second.as_bytes());
    for tag in ["forkone", "forktwo"] {
        for method in ["ACK", "BYE"] {
            let is = |m: &sip_tests::message::Message| m.is(method) && m.to_tag() == Some(tag);
            scene.callee.wait_received(&format!("{method} of {tag}"), PATIENCE, is).await.unwrap();
        }
    }
    assert_eq!(call.final_status(PATIENCE).await.unwrap().status(), Some(487));
}

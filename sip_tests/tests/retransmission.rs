//! Messages get lost or come twice, and the call is one call all the same (RFC 3261 §17, §13.3.1.4,
//! §13.2.2.4).

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests may panic like tests")]

mod common;

use common::{PATIENCE, Scene, Setup, until};
use sip_tests::message::Message;
use sip_tests::phone::{Lose, PhoneConfig};
use sip_tests::sdp::SdpOptions;
use sip_tests::transcript::Direction;
use std::collections::BTreeSet;

fn losing(name: &str, lost: &[(Direction, &str, u32)]) -> PhoneConfig {
    let mut config = PhoneConfig::named(name);
    for (direction, what, count) in lost {
        let what = (*what).to_owned();
        config.impairment.lose.push(Lose { direction: *direction, what, count: *count });
    }
    config
}

async fn scene(caller: &[(Direction, &str, u32)], callee: &[(Direction, &str, u32)]) -> Scene {
    Scene::with(losing("caller", caller), losing("callee", callee), Setup::default()).await
}

/// How many different messages of that method there are, by branch and CSeq, and how many in all.
fn count(messages: &[Message], method: &str) -> (usize, usize) {
    let of: Vec<_> = messages.iter().filter(|message| message.is(method)).collect();
    let different: BTreeSet<_> = of.iter().map(|m| (m.branch(), m.cseq().0, m.call_id())).collect();
    (different.len(), of.len())
}

const IN: Direction = Direction::Received;
const OUT: Direction = Direction::Sent;

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_doubles_every_message_changes_nothing() {
    let (mut caller, mut callee) = (PhoneConfig::named("caller"), PhoneConfig::named("callee"));
    (caller.impairment.duplicate, callee.impairment.duplicate) = (true, true);
    let scene = Scene::with(caller, callee, Setup::default()).await;
    let (call, incoming) = scene.talk().await;
    assert_eq!(call.reinvite(Some("sendonly"), PATIENCE).await.unwrap().status(), Some(200));
    assert_eq!(call.update(Some("sendrecv"), PATIENCE).await.unwrap().status(), Some(200));
    assert_eq!(call.info_dtmf('1', 100, PATIENCE).await.unwrap().status(), Some(200));
    scene.both_hear(&call, &incoming).await;
    call.hang_up().await.unwrap();
    incoming.wait_bye(PATIENCE).await.unwrap();
    scene.server.settled().await;
    for method in ["INVITE", "BYE"] {
        assert_eq!(count(&scene.callee.received(), method).0, 1, "{method}");
    }
    assert_eq!(scene.server.interactions(&scene.session).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_invite_is_no_second_call() {
    let scene = Scene::new().await;
    let (call, incoming) = scene.dial().await;
    for _ in 0..5 {
        call.repeat_invite().await.unwrap();
    }
    incoming.ring().await.unwrap();
    call.ringing(PATIENCE).await.unwrap();
    let before = call.statuses().len();
    call.repeat_invite().await.unwrap();
    until("the 180 again", || (call.statuses().len() > before).then_some(())).await;
    assert_eq!(call.statuses().last(), Some(&180), "RFC 3261 §17.2.1: the most recent response");
    incoming.answer(SdpOptions::default()).await.unwrap();
    call.answered(PATIENCE).await.unwrap();
    // RFC 6026 §7.1: one that comes late gets nothing.
    call.repeat_invite().await.unwrap();
    scene.both_hear(&call, &incoming).await;
    scene.hang_up(&call, &incoming).await;
    assert_eq!(count(&scene.callee.received(), "INVITE"), (1, 1));
    assert_eq!(call.statuses().iter().filter(|status| **status == 200).count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn our_invite_is_repeated_until_it_is_heard() {
    let scene = scene(&[], &[(IN, "INVITE", 2)]).await;
    let (call, incoming) = scene.talk().await;
    scene.hang_up(&call, &incoming).await;
    assert_eq!(count(&scene.callee.received(), "INVITE").0, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn our_200_is_repeated_until_the_ack_comes() {
    for (caller, losses) in [([(IN, "200 INVITE", 2)], 0), ([(OUT, "ACK", 2)], 2)] {
        let scene = scene(&caller, &[]).await;
        let (call, incoming) = scene.talk().await;
        let answers = || call.statuses().iter().filter(|status| **status == 200).count();
        until("the answers", || (answers() > losses).then_some(())).await;
        let all: BTreeSet<_> = call
            .received()
            .iter()
            .filter(|m| m.status() == Some(200) && m.cseq().1 == "INVITE")
            .map(Message::text)
            .collect();
        assert_eq!(all.len(), 1, "each 200 is the same");
        scene.both_hear(&call, &incoming).await;
        scene.hang_up(&call, &incoming).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_callees_200_is_acknowledged_as_often_as_it_comes() {
    let scene = scene(&[], &[(IN, "ACK", 2)]).await;
    let (call, incoming) = scene.talk().await;
    scene.both_hear(&call, &incoming).await;
    scene.hang_up(&call, &incoming).await;
    assert_eq!(count(&scene.callee.received(), "ACK").0, 1, "each ACK is the same");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_repeated_until_the_ack_comes() {
    let scene = scene(&[(OUT, "ACK", 1)], &[]).await;
    let (call, incoming) = scene.dial().await;
    incoming.reject(486, None, &[], None).await.unwrap();
    let refusals = || call.statuses().iter().filter(|status| **status == 486).count();
    until("the 486 again", || (refusals() >= 2).then_some(())).await;
    scene.no_faults().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_callees_refusal_is_acknowledged_as_often_as_it_comes() {
    let scene = scene(&[], &[(IN, "ACK", 1)]).await;
    let (call, incoming) = scene.dial().await;
    incoming.reject(486, None, &[], None).await.unwrap();
    assert_eq!(call.final_status(PATIENCE).await.unwrap().status(), Some(486));
    incoming.wait_ack(PATIENCE).await.unwrap();
    scene.no_faults().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn byes_are_repeated_and_answered_again() {
    // Ours to the callee, twice lost; the caller's, whose answer is lost.
    let scene = scene(&[(IN, "200 BYE", 1)], &[(IN, "BYE", 2)]).await;
    let (call, incoming) = scene.talk().await;
    scene.hang_up(&call, &incoming).await;
    scene.server.settled().await;
    assert_eq!(count(&scene.callee.received(), "BYE").0, 1);
}

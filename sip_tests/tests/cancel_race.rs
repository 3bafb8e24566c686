//! The caller gives up, before, while and after the callee answers (RFC 3261 §9, §13.3.1.4, §15).

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests may panic like tests")]

mod common;

use common::{FIRST, PATIENCE, Scene, Setup, until};
use sip_tests::agent::End;
use sip_tests::phone::{CallOptions, Lose, PhoneConfig};
use sip_tests::sdp::SdpOptions;
use sip_tests::transcript::Direction;
use std::collections::BTreeSet;

/// A phone on whose way the first `count` messages of this kind get lost.
fn losing(name: &str, direction: Direction, what: &str, count: u32) -> PhoneConfig {
    let mut config = PhoneConfig::named(name);
    config.impairment.lose.push(Lose { direction, what: what.to_owned(), count });
    config
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_gives_up_gets_487_and_the_callee_a_cancel() {
    let scene = Scene::new().await;
    let (call, incoming) = scene.dial().await;
    incoming.ring().await.unwrap();
    call.ringing(PATIENCE).await.unwrap();
    call.cancel().await.unwrap();
    assert_eq!(call.final_status(PATIENCE).await.unwrap().status(), Some(487));
    assert_eq!(call.wait_end(PATIENCE).await.unwrap(), End::CancelSent);

    // RFC 3261 §9.1: what must be the same in CANCEL as in its INVITE.
    let cancel = incoming.wait_cancel(PATIENCE).await.unwrap();
    let invite = incoming.request();
    assert_eq!(cancel.uri(), invite.uri());
    assert_eq!(cancel.branch(), invite.branch());
    assert_eq!(cancel.values("via").len(), 1);
    assert_eq!((cancel.call_id(), cancel.cseq().0), (invite.call_id(), invite.cseq().0));
    assert_eq!((cancel.header("from"), cancel.header("to")), (invite.header("from"), invite.header("to")));
    incoming.wait_ack(PATIENCE).await.unwrap();

    let (first, second) = scene.server.last_legs(&scene.session).await;
    for leg in [&first, &second] {
        assert_eq!(leg["hangup_cause_name"], "Canceled", "{leg}");
        assert_eq!((&leg["hangup_source"], &leg["call_state"]), (&"Caller".into(), &"CANCEL".into()));
        assert_eq!(leg["bill_duration"], 0);
    }
    scene.no_faults().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cancel_waits_for_the_callees_first_provisional_response() {
    let callee = losing("callee", Direction::Sent, "100 INVITE", 1000);
    let scene = Scene::with(PhoneConfig::named("caller"), callee, Setup::default()).await;
    let (call, incoming) = scene.dial().await;
    call.cancel().await.unwrap();
    assert_eq!(call.final_status(PATIENCE).await.unwrap().status(), Some(487));
    assert!(!incoming.received().iter().any(|message| message.is("CANCEL")), "RFC 3261 §9.1");
    incoming.ring().await.unwrap();
    incoming.wait_cancel(PATIENCE).await.unwrap();
    incoming.wait_ack(PATIENCE).await.unwrap();
    scene.no_faults().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cancel_crossing_200_ends_with_ack_and_bye() {
    let scene = Scene::new().await;
    let (call, incoming) = scene.dial().await;
    incoming.ring().await.unwrap();
    call.ringing(PATIENCE).await.unwrap();
    incoming.keep_when_cancelled().await.unwrap();
    call.cancel().await.unwrap();
    incoming.answer_after_cancel(SdpOptions::default(), PATIENCE).await.unwrap();
    incoming.wait_ack(PATIENCE).await.unwrap();
    incoming.wait_bye(PATIENCE).await.unwrap();
    assert_eq!(call.final_status(PATIENCE).await.unwrap().status(), Some(487));
    scene.server.settled().await;
    assert!(!call.statuses().contains(&200), "the caller never hears of the answer");
    scene.no_faults().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_200_that_is_under_way_when_the_caller_cancels_counts() {
    let caller = losing("caller", Direction::Received, "200 INVITE", 1);
    let scene = Scene::with(caller, PhoneConfig::named("callee"), Setup::default()).await;
    let (call, incoming) = scene.dial().await;
    incoming.answer(SdpOptions::default()).await.unwrap();
    incoming.wait_ack(PATIENCE).await.unwrap();
    call.cancel().await.unwrap();
    // RFC 3261 §9.2: CANCEL is answered, and has no effect on an INVITE that is answered.
    let to_cancel = call.wait_response("200 to CANCEL", PATIENCE, |m| m.cseq().1 == "CANCEL").await.unwrap();
    assert_eq!(to_cancel.status(), Some(200));
    call.answered(PATIENCE).await.unwrap();
    incoming.wait_bye(PATIENCE).await.unwrap();
    assert!(!call.statuses().contains(&487));
    let (first, _) = scene.server.last_legs(&scene.session).await;
    assert_eq!(first["hangup_cause_name"], "Normal Hangup");
    scene.no_faults().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_cancel_is_repeated() {
    let callee = losing("callee", Direction::Received, "CANCEL", 1);
    let scene = Scene::with(PhoneConfig::named("caller"), callee, Setup::default()).await;
    let (call, incoming) = scene.dial().await;
    incoming.ring().await.unwrap();
    call.ringing(PATIENCE).await.unwrap();
    call.cancel().await.unwrap();
    call.final_status(PATIENCE).await.unwrap();
    incoming.wait_cancel(PATIENCE).await.unwrap();
    assert_eq!(incoming.wait_end(PATIENCE).await.unwrap(), End::Cancelled);
    scene.no_faults().await;
}

/// The CANCEL meets the look-up, the opening of ports or the dialling, as it happens.
#[tokio::test(flavor = "multi_thread")]
async fn who_gives_up_at_once_leaves_nobody_ringing() {
    let scene = Scene::new().await;
    let mut calls = vec![];
    for _ in 0..20 {
        let options = CallOptions::from(FIRST);
        let call = scene.caller.call(scene.server.sip, &scene.number, options).await.unwrap();
        call.cancel().await.unwrap();
        calls.push(call);
    }
    for call in &calls {
        assert_eq!(call.final_status(PATIENCE).await.unwrap().status(), Some(487));
    }
    scene.server.settled().await;
    until("every INVITE is cancelled", || {
        let branches = |method: &str| -> BTreeSet<String> {
            let received = scene.callee.received();
            let of = received.iter().filter(|m| m.is(method)).filter_map(|m| m.branch());
            of.map(ToOwned::to_owned).collect()
        };
        (branches("INVITE") == branches("CANCEL")).then_some(())
    })
    .await;
    scene.no_faults().await;
}

//! We are full: 503 with Retry-After, from limits of the service and of the trunk, and none once there is
//! room.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests may panic like tests")]

mod common;

use common::{FIRST, PATIENCE, Scene, Setup};
use sip_tests::message::Message;
use sip_tests::phone::{CallOptions, PhoneConfig};

async fn scene(setup: Setup) -> Scene {
    Scene::with(PhoneConfig::named("caller"), PhoneConfig::named("callee"), setup).await
}

async fn refused(scene: &Scene) -> Message {
    let options = CallOptions::from(FIRST);
    let call = scene.caller.call(scene.server.sip, &scene.number, options).await.unwrap();
    call.final_status(PATIENCE).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_over_the_limit_get_503_until_one_ends() {
    for setup in [
        Setup { sip: "max_calls = 2", ..Setup::default() },
        // Both legs are the trunk's; of the second one the A-leg finds room and the B-leg none.
        Setup { trunk: "max_calls = 4", ..Setup::default() },
        Setup { trunk: "max_calls = 5", ..Setup::default() },
    ] {
        let scene = scene(setup).await;
        let (ringing, unanswered) = scene.dial().await;
        let (call, incoming) = scene.talk().await;
        let before = scene.callee.received().len();
        let refusal = refused(&scene).await;
        assert_eq!((refusal.status(), refusal.header("Retry-After")), (Some(503), Some("10")));
        assert_eq!(scene.callee.received().len(), before);
        scene.both_hear(&call, &incoming).await;
        unanswered.reject(486, None, &[], None).await.unwrap();
        ringing.final_status(PATIENCE).await.unwrap();
        common::until("room", || (scene.server.service.shell().live_calls() == 1).then_some(())).await;
        let (next, rung) = scene.dial().await;
        next.cancel().await.unwrap();
        rung.wait_cancel(PATIENCE).await.unwrap();
        scene.hang_up(&call, &incoming).await;
        scene.server.settled().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_come_too_fast_get_503() {
    for setup in [
        Setup { sip: "max_calls_per_second = 2", ..Setup::default() },
        Setup { trunk: "max_calls_per_second = 2", ..Setup::default() },
    ] {
        let scene = scene(setup).await;
        let mut calls = vec![];
        for _ in 0..12 {
            let options = CallOptions::from(FIRST);
            calls.push(scene.caller.call(scene.server.sip, &scene.number, options).await.unwrap());
        }
        let (mut taken, mut full) = (0, 0);
        for call in &calls {
            let first = call.wait_for(|status| status != 100, std::time::Duration::from_millis(1));
            // Whoever is rung is let go again, so that every call has a final answer.
            let _ = first.await;
            call.cancel().await.unwrap();
            match call.final_status(PATIENCE).await.unwrap() {
                refusal if refusal.status() == Some(503) => {
                    assert_eq!(refusal.header("Retry-After"), Some("10"));
                    full += 1;
                }
                cancelled => {
                    assert_eq!(cancelled.status(), Some(487));
                    taken += 1;
                }
            }
        }
        // A burst of two, and one more for every half second that the test took.
        assert!(taken >= 2 && full > 0, "{taken} taken, {full} refused");
        scene.server.settled().await;
        scene.no_faults().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_free_port_gets_503_and_frees_what_was_taken() {
    // Two calls' ports: each call takes two, with their RTCP.
    let base = 10_000 + std::process::id() % 3_000 * 2;
    let media = Box::leak(format!("ports = [{base}, {}]", base + 6).into_boxed_str());
    let scene = scene(Setup { media, ..Setup::default() }).await;
    let first = scene.talk().await;
    let second = scene.talk().await;
    let refusal = refused(&scene).await;
    assert_eq!((refusal.status(), refusal.header("Retry-After")), (Some(503), Some("10")));
    scene.hang_up(&first.0, &first.1).await;
    common::until("the call is over", || (scene.server.service.shell().unsettled_calls() == 1).then_some(()))
        .await;
    let third = scene.talk().await;
    scene.both_hear(&third.0, &third.1).await;
    scene.hang_up(&third.0, &third.1).await;
    scene.hang_up(&second.0, &second.1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn options_tell_whether_calls_are_taken() {
    let scene = scene(Setup::default()).await;
    let ask = || {
        let options = CallOptions { sdp: None, ..CallOptions::from("monitor") };
        scene.caller.request(scene.server.sip, "OPTIONS", "", options, None, PATIENCE)
    };
    let answer = ask().await.unwrap();
    assert_eq!(answer.status(), Some(200));
    for (header, value) in [("Allow", "INVITE"), ("Accept", "application/sdp")] {
        assert!(answer.header(header).unwrap().contains(value));
    }
    scene.server.service.shell().start_draining();
    let answer = ask().await.unwrap();
    assert_eq!((answer.status(), answer.header("Retry-After")), (Some(503), Some("60")));
    let refusal = refused(&scene).await;
    assert_eq!((refusal.status(), refusal.header("Retry-After")), (Some(503), Some("60")));
    scene.no_faults().await;
}

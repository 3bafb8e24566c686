//! What the callee's network plays before the answer, and what of it the caller gets.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests may panic like tests")]

mod common;

use common::{PATIENCE, Scene, Setup};
use sip_tests::message::Message;
use sip_tests::phone::PhoneConfig;
use sip_tests::sdp::SdpOptions;
use std::collections::BTreeSet;

/// The To tags and descriptions of all responses to INVITE beyond 100.
fn shown(messages: &[Message]) -> (BTreeSet<String>, BTreeSet<Vec<u8>>) {
    let responses: Vec<_> = messages
        .iter()
        .filter(|m| m.cseq().1 == "INVITE" && m.status().is_some_and(|status| status > 100))
        .collect();
    (
        responses.iter().filter_map(|m| m.to_tag()).map(ToOwned::to_owned).collect(),
        responses.iter().filter_map(|m| m.sdp()).map(ToOwned::to_owned).collect(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn early_audio_reaches_the_caller_under_one_tag_and_one_description() {
    let scene = Scene::new().await;
    let (call, incoming) = scene.dial().await;
    incoming.ring().await.unwrap();
    assert!(call.ringing(PATIENCE).await.unwrap().sdp().is_none());
    incoming.progress_with_sdp(SdpOptions::default()).await.unwrap();
    let progress = call.wait_for(|status| status == 183, PATIENCE).await.unwrap();
    assert!(progress.sdp().is_some());
    call.media().wait_packets(15, PATIENCE).await.unwrap();
    assert_eq!(incoming.media().received_count(), 0, "the caller does not speak before the answer");
    incoming.ring().await.unwrap();
    incoming.answer(SdpOptions::default()).await.unwrap();
    let answer = call.answered(PATIENCE).await.unwrap();
    assert_eq!(answer.sdp(), progress.sdp(), "RFC 3261 §13.2.1: the answer is the same");
    let (tags, descriptions) = shown(&call.received());
    assert_eq!((tags.len(), descriptions.len()), (1, 1));
    scene.both_hear(&call, &incoming).await;
    scene.hang_up(&call, &incoming).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_description_after_early_media_keeps_what_was_agreed() {
    let scene = Scene::new().await;
    let (call, incoming) = scene.dial().await;
    incoming.progress_with_sdp(SdpOptions::default()).await.unwrap();
    call.wait_for(|status| status == 183, PATIENCE).await.unwrap();
    incoming.respond(sip_tests::agent::Reply::status(200)).await.unwrap();
    call.answered(PATIENCE).await.unwrap();
    scene.both_hear(&call, &incoming).await;
    scene.hang_up(&call, &incoming).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trunk_without_early_media_rings_only() {
    let setup = Setup { trunk: "early_media = false", ..Setup::default() };
    let scene = Scene::with(PhoneConfig::named("caller"), PhoneConfig::named("callee"), setup).await;
    let (call, incoming) = scene.dial().await;
    incoming.progress_with_sdp(SdpOptions::default()).await.unwrap();
    assert!(call.ringing(PATIENCE).await.unwrap().sdp().is_none());
    let early = |media: &sip_tests::stream::MediaSession| media.sent_packets() >= 20;
    // The phone's own progress wakes this: it sends every 20 ms.
    incoming.media().wait(PATIENCE, early).await.unwrap();
    assert_eq!(call.media().received_count(), 0);
    incoming.answer(SdpOptions::default()).await.unwrap();
    call.answered(PATIENCE).await.unwrap();
    assert!(!call.statuses().contains(&183));
    scene.both_hear(&call, &incoming).await;
    scene.hang_up(&call, &incoming).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn early_media_ends_with_a_refusal() {
    let scene = Scene::new().await;
    let (call, incoming) = scene.dial().await;
    incoming.progress_with_sdp(SdpOptions::default()).await.unwrap();
    call.media().wait_packets(5, PATIENCE).await.unwrap();
    incoming.reject(486, None, &[], None).await.unwrap();
    assert_eq!(call.final_status(PATIENCE).await.unwrap().status(), Some(486));
    scene.server.settled().await;
    scene.no_faults().await;
}

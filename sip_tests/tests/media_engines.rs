//! Calls by each way that the service can move packets. Every other test has the one that the kernel allows.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests may panic like tests")]

mod common;

use common::Setup;
use common::talk::{Pair, compare, hang_up, manifest, wav};
use serde_json::json;
use sip_tests::audio::{Voice, speech};

/// Two calls one after another over the same four ports, both recorded.
async fn two_recorded_calls(media: &'static str) {
    let pair = Pair::with(Setup { media, ..Setup::default() }).await;
    let session = pair.server.session(json!({})).await;
    let mut known = vec![];
    for seed in [71, 81] {
        let (call, incoming) = pair.talk(&session).await;
        let (low, high) = (speech(Voice::Low, seed, 600), speech(Voice::High, seed + 1, 600));
        tokio::join!(call.media().play(&low), incoming.media().play(&high));
        hang_up(&call, &incoming).await;
        let folder = pair.server.recording(&known).await;
        for (sent, file) in [(call.media(), "a-leg.wav"), (incoming.media(), "b-leg.wav")] {
            let found = compare(&sent.sent_audio(), &wav(&folder, file));
            assert!(found.is_same(), "{media}: {file}: {found:?}");
        }
        assert_eq!(manifest(&folder)["complete"], true);
        known.push(folder);
    }
    assert_eq!(pair.server.metric("maskline_internal_errors_total").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_heard_and_recorded_by_epoll() {
    two_recorded_calls("engine = \"epoll\"").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_heard_and_recorded_by_what_the_kernel_allows() {
    two_recorded_calls("engine = \"auto\"").await;
}

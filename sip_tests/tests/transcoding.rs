//! Two phones without a common codec: each hears the other in its own.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests may panic like tests")]

mod common;

use common::FIRST;
use common::talk::{Pair, compare, hang_up, more_sent, wav};
use media::Codec;
use serde_json::json;
use sip_tests::audio::{Voice, speech};
use sip_tests::g711;
use sip_tests::phone::CallOptions;
use sip_tests::sdp::SdpOptions;

fn only(codec: Codec) -> SdpOptions {
    SdpOptions { codecs: vec![codec], ..SdpOptions::default() }
}

/// Both speak; what each hears, in which codec, and what is recorded.
async fn each_hears_the_other(a: Codec, b: Codec) {
    let pair = Pair::start().await;
    let session = pair.server.session(json!({})).await;
    let options = CallOptions::from(FIRST).offering(only(a));
    let (call, incoming) = pair.talk_as(&session, options, only(b)).await;
    let (low, high) = (speech(Voice::Low, 7, 2000), speech(Voice::High, 8, 2000));
    tokio::join!(call.media().play(&low), incoming.media().play(&high));
    more_sent(call.media(), 10).await;
    hang_up(&call, &incoming).await;
    let folder = pair.server.recording(&[]).await;
    for (codec, media, sent, file) in
        [(a, call.media(), incoming.media(), "b-leg.wav"), (b, incoming.media(), call.media(), "a-leg.wav")]
    {
        let wanted = g711::payload_type(codec);
        let packets = media.received_packets();
        assert!(packets.iter().all(|packet| packet.packet.payload_type == wanted), "not the agreed codec");
        for (place, heard) in [("on the line", media.received_audio()), (file, wav(&folder, file))] {
            let found = compare(&sent.sent_audio(), &heard);
            assert!(found.is_same() && found.overlap > 16_000, "{place}: {found:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mu_law_and_a_law_are_converted_both_ways() {
    each_hears_the_other(Codec::Pcmu, Codec::Pcma).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_law_and_mu_law_are_converted_both_ways() {
    each_hears_the_other(Codec::Pcma, Codec::Pcmu).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_law_on_both_sides_stays_a_law() {
    each_hears_the_other(Codec::Pcma, Codec::Pcma).await;
}

//! Two phones without a common codec: each hears the other in its own. And two with G.722: nobody converts.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests may panic like tests")]

mod common;

use common::talk::{Pair, compare, hang_up, more_packets, more_sent};
use common::{FIRST, PATIENCE, STRANGER, Setup};
use media::Codec;
use serde_json::json;
use sip_tests::audio::{Comparison, Voice, speech};
use sip_tests::g711;
use sip_tests::patterns::Pattern;
use sip_tests::phone::CallOptions;
use sip_tests::sdp::{RemoteMedia, SdpOptions};
use sip_tests::transcript::{Direction, Entry, Kind};
use std::path::Path;

fn only(codec: Codec) -> SdpOptions {
    SdpOptions { codecs: vec![codec], ..SdpOptions::default() }
}

/// A file's audio at 8000 Hz: above that, what lies between 4 and 8 kHz is filtered out (a half-band of 31 taps).
fn at_8000(folder: &Path, name: &str, expected_rate: u32) -> Vec<i16> {
    let (rate, samples) = sip_tests::wav::read(&folder.join(name)).unwrap();
    assert_eq!(rate, expected_rate, "{name}");
    if rate == 8000 {
        return samples;
    }
    let weight = |offset: i32| {
        let x = f64::from(offset) / 2.0;
        let window = 0.5 + 0.5 * (std::f64::consts::PI * f64::from(offset) / 16.0).cos();
        if offset == 0 {
            0.5
        } else {
            0.5 * window * (std::f64::consts::PI * x).sin() / (std::f64::consts::PI * x)
        }
    };
    let weights: Vec<f64> = (-15..=15).map(weight).collect();
    let padded = [vec![0; 15], samples, vec![0; 15]].concat();
    let filtered = padded.windows(31).step_by(2);
    let sum = |window: &[i16]| window.iter().zip(&weights).map(|(s, w)| f64::from(*s) * w).sum::<f64>();
    filtered.map(|window| sum(window) as i16).collect()
}

/// The same audio after any two codings; those of G.722 keep the sound rather than the wave.
fn is_alike(found: &Comparison, with_g722: bool) -> bool {
    found.is_same() || (with_g722 && found.correlation > 0.94 && found.worst_segment > 0.8)
}

/// Both speak; what each hears, in which codec, and what is recorded at which rate.
async fn each_hears_the_other(a: Codec, b: Codec) {
    let setup = Setup { trunk: "codecs = [\"G722\", \"PCMU\", \"PCMA\"]", ..Setup::default() };
    let pair = Pair::with(setup).await;
    let session = pair.server.session(json!({})).await;
    let options = CallOptions::from(FIRST).offering(only(a));
    let (call, incoming) = pair.talk_as(&session, options, only(b)).await;
    let (low, high) = (speech(Voice::Low, 7, 2000), speech(Voice::High, 8, 2000));
    tokio::join!(call.media().play(&low), incoming.media().play(&high));
    more_sent(call.media(), 10).await;
    hang_up(&call, &incoming).await;
    let folder = pair.server.recording(&[]).await;
    let rate = if a.is_wideband() && b.is_wideband() { 16_000 } else { 8000 };
    let with_g722 = a.is_wideband() || b.is_wideband();
    for (codec, media, sent, file) in
        [(a, call.media(), incoming.media(), "b-leg.wav"), (b, incoming.media(), call.media(), "a-leg.wav")]
    {
        let wanted = g711::payload_type(codec);
        let packets = media.received_packets();
        assert!(packets.iter().all(|packet| packet.packet.payload_type == wanted), "not the agreed codec");
        for (place, heard) in [("on the line", media.received_audio()), (file, at_8000(&folder, file, rate))]
        {
            let found = compare(&sent.sent_audio(), &heard);
            assert!(is_alike(&found, with_g722) && found.overlap > 16_000, "{a:?} {b:?} {place}: {found:?}");
        }
    }
    let recording = pair.server.delivered(&folder).await;
    assert!(
        recording["recording_duration_ms"].as_str().unwrap().parse::<f64>().unwrap() > 2000.0,
        "{recording}"
    );
    if (a, b) == (Codec::G722, Codec::G722) {
        let sent = |entry: &&Entry| entry.kind == Kind::Rtp && entry.direction == Direction::Sent;
        let heard = |entry: &&Entry| entry.kind == Kind::Rtp && entry.direction == Direction::Received;
        let payloads = |entries: &[Entry], which: &dyn Fn(&&Entry) -> bool| -> Vec<Vec<u8>> {
            entries.iter().filter(|entry| which(entry)).map(|entry| entry.bytes[12..].to_vec()).collect()
        };
        let (at_a, at_b) = (pair.caller.transcript().entries(), pair.callee.transcript().entries());
        let said = payloads(&at_a, &sent);
        let alike = payloads(&at_b, &heard).into_iter().filter(|payload| said.contains(payload)).count();
        assert!(alike > 90, "{alike} packets of A reached B as they were");
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

#[tokio::test(flavor = "multi_thread")]
async fn g722_on_both_sides_passes_as_it_is_and_is_recorded_at_16_khz() {
    each_hears_the_other(Codec::G722, Codec::G722).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn g722_on_one_side_is_converted_and_recorded_at_8_khz() {
    each_hears_the_other(Codec::G722, Codec::Pcmu).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn g722_on_the_other_side_is_converted_as_well() {
    each_hears_the_other(Codec::Pcma, Codec::G722).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn g722_is_offered_by_a_trunk_that_has_it_and_prompts_and_pin_work_in_it() {
    let setup = Setup { trunk: "codecs = [\"G722\", \"PCMU\"]", ..Setup::default() };
    let pair = Pair::with(setup).await;
    let session = pair
        .server
        .session(json!({
            "record": false,
            "is_pin_authentication_required": true,
            "first_party_pin": "4711",
            "second_party_pin": "0815",
        }))
        .await;
    let call = pair.dial(&session, CallOptions::from(STRANGER).offering(only(Codec::G722))).await;
    call.answered(PATIENCE).await.unwrap();
    more_packets(call.media(), 100).await;
    let prompt = call.media().received_audio();
    assert!(sip_tests::audio::level(&prompt) > 200.0, "the prompt is heard");
    call.media().dtmf("4711", Pattern::Clean).await;
    let incoming = pair.rung().await;
    let offer = incoming.request().sdp().unwrap();
    let formats = RemoteMedia::read(offer).unwrap().payload_types;
    assert_eq!(formats, [9, 0, 101], "what the caller speaks goes first");
    incoming.answer(only(Codec::Pcmu)).await.unwrap();
    incoming.wait_ack(PATIENCE).await.unwrap();
    more_packets(incoming.media(), 10).await;
    incoming.media().play(&speech(Voice::High, 8, 500)).await;
    call.media().play(&speech(Voice::Low, 7, 500)).await;
    incoming.media().dtmf("5", Pattern::Clean).await;
    call.media().wait(PATIENCE, |media| media.received_keys() == "5").await.unwrap();
    hang_up(&call, &incoming).await;
}

//! Encrypted audio (RFC 3711) with keys in the SDP (RFC 4568): what a trunk's `srtp` allows, what is heard at both
//! ends and in the files, and what a wrong tag does: nothing.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests may panic like tests")]

mod common;

use common::talk::{Pair, compare, hang_up, heard, more_packets, more_sent, wav};
use common::{FIRST, PATIENCE, STRANGER, Setup};
use media::srtp::Suite;
use serde_json::{Value, json};
use sip_tests::audio::{Voice, speech};
use sip_tests::patterns::Pattern;
use sip_tests::phone::CallOptions;
use sip_tests::rtp::Packet;
use sip_tests::sdp::{RemoteMedia, SdpOptions};
use sip_tests::stream::{Idle, MediaSession};
use sip_tests::transcript::{Direction, Entry, Kind};

const OPTIONAL: Setup = with_trunk("srtp = \"optional\"");
const REQUIRED: Setup = with_trunk("srtp = \"required\"");

const fn with_trunk(trunk: &'static str) -> Setup {
    Setup {
        sip: "",
        tls: None,
        listen: &[],
        dns: None,
        media: "",
        http: "",
        recordings: None,
        trunk,
        numbers: 1,
        number: "",
        gateways: vec![],
        allow: "127.0.0.0/8",
        accounts: &[],
    }
}

/// RFC 8643: the profile of plain RTP, and a key.
fn best_effort(suite: Suite, number: u8) -> SdpOptions {
    SdpOptions { profile: "RTP/AVP", ..SdpOptions::encrypted(suite, number) }
}

/// Both speak; what each hears and what is recorded, and how long the packets of each are.
async fn each_hears_the_other(setup: Setup, offer: SdpOptions, answer: SdpOptions, lengths: [usize; 2]) {
    let pair = Pair::with(setup).await;
    let session = pair.server.session(json!({})).await;
    let encrypted = [offer.key.is_some(), answer.key.is_some()];
    let (call, incoming) = pair.talk_as(&session, CallOptions::from(FIRST).offering(offer), answer).await;
    assert_eq!([call.media().is_encrypted(), incoming.media().is_encrypted()], encrypted);
    let (low, high) = (speech(Voice::Low, 7, 2000), speech(Voice::High, 8, 2000));
    tokio::join!(call.media().play(&low), incoming.media().play(&high));
    more_sent(call.media(), 10).await;
    hang_up(&call, &incoming).await;
    let folder = pair.server.recording(&[]).await;
    for (media, sent, file) in
        [(call.media(), incoming.media(), "b-leg.wav"), (incoming.media(), call.media(), "a-leg.wav")]
    {
        for (place, samples) in [("on the line", media.received_audio()), (file, wav(&folder, file))] {
            let found = compare(&sent.sent_audio(), &samples);
            assert!(found.is_same() && found.overlap > 16_000, "{place}: {found:?}");
        }
        assert_eq!(media.rejected(), 0);
    }
    for (phone, length) in [(&pair.caller, lengths[0]), (&pair.callee, lengths[1])] {
        let packets: Vec<_> =
            phone.transcript().entries().into_iter().filter(|e| e.kind == Kind::Rtp).collect();
        assert!(
            packets.len() > 100 && packets.iter().all(|entry| entry.bytes.len() == length),
            "{}",
            phone.name()
        );
    }
    let keys: Vec<_> = [call.media(), incoming.media()].map(|media| media.remote().unwrap().crypto).concat();
    for (place, key) in keys.iter().enumerate() {
        assert!(
            keys.iter().skip(place + 1).all(|other| other.keying != key.keying),
            "a key of ours is used once"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encrypted_caller_and_a_plain_callee_hear_each_other() {
    let offer = SdpOptions::encrypted(Suite::Aes128Sha80, 1);
    each_hears_the_other(OPTIONAL, offer, SdpOptions::default(), [182, 172]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_caller_and_an_encrypted_callee_of_another_codec_hear_each_other() {
    let answer = SdpOptions { codecs: vec![media::Codec::Pcma], ..best_effort(Suite::Aes128Sha32, 2) };
    each_hears_the_other(OPTIONAL, SdpOptions::pcmu(), answer, [172, 176]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_leg_has_its_own_suite_and_keys() {
    let offer = best_effort(Suite::Aes256Sha80, 1);
    let answer = SdpOptions::encrypted(Suite::Aes128Sha32, 2);
    each_hears_the_other(REQUIRED, offer, answer, [182, 176]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn required_means_required_for_both_parties() {
    let pair = Pair::with(REQUIRED).await;
    let session = pair.server.session(json!({ "record": false })).await;
    // A caller who offers none.
    let call = pair.dial(&session, CallOptions::from(FIRST)).await;
    assert_eq!(call.final_status(PATIENCE).await.unwrap().status(), Some(488));
    // A callee who answers without; he is hung up on, and the caller hears the same as of any refused media.
    let offer = SdpOptions::encrypted(Suite::Aes128Sha80, 1);
    let call = pair.dial(&session, CallOptions::from(FIRST).offering(offer)).await;
    let incoming = pair.rung().await;
    let theirs = RemoteMedia::read(incoming.request().sdp().unwrap()).unwrap();
    assert_eq!(theirs.profile, "RTP/SAVP");
    let suites: Vec<&str> = theirs.crypto.iter().map(|line| line.suite.as_str()).collect();
    assert_eq!(suites, ["AES_CM_128_HMAC_SHA1_80", "AES_256_CM_HMAC_SHA1_80", "AES_CM_128_HMAC_SHA1_32"]);
    incoming.answer(SdpOptions::default()).await.unwrap();
    incoming.wait_bye(PATIENCE).await.unwrap();
    assert_eq!(call.final_status(PATIENCE).await.unwrap().status(), Some(488));
    assert_eq!(incoming.media().received_count(), 0, "no audio, not even in plain");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trunk_without_srtp_takes_no_encrypted_stream_and_offers_no_key() {
    let pair = Pair::start().await;
    let session = pair.server.session(json!({ "record": false })).await;
    let options = CallOptions::from(FIRST).offering(SdpOptions::encrypted(Suite::Aes128Sha80, 1));
    let call = pair.dial(&session, options).await;
    assert_eq!(call.final_status(PATIENCE).await.unwrap().status(), Some(488));
    let options = CallOptions::from(FIRST).offering(best_effort(Suite::Aes128Sha80, 1));
    let (call, incoming) = pair.talk_as(&session, options, SdpOptions::default()).await;
    assert!(!call.media().is_encrypted() && incoming.media().remote().unwrap().crypto.is_empty());
    hang_up(&call, &incoming).await;
}

/// Packets that the phone has heard so far, without those of silence.
fn voices(media: &MediaSession) -> usize {
    let voice = |packet: &Packet| packet.payload.iter().any(|code| *code != 0xff);
    media.received_packets().iter().filter(|received| voice(&received.packet)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_tag_goes_nowhere() {
    let pair = Pair::with(OPTIONAL).await;
    let session = pair.server.session(json!({})).await;
    let options = CallOptions::from(FIRST).offering(SdpOptions::encrypted(Suite::Aes128Sha80, 1));
    let (call, incoming) = pair.talk_as(&session, options, SdpOptions::default()).await;
    call.media().set_idle(Idle::Silence);
    let before = incoming.media().received_packets().last().unwrap().packet.clone();
    // From the right address and port, with right numbers: plain, with a tag of zeros, and an old packet again.
    let sent = |entry: &Entry| entry.kind == Kind::Rtp && entry.direction == Direction::Sent;
    let old = pair.caller.transcript().entries().into_iter().rfind(sent).unwrap().bytes;
    for number in 0..50u16 {
        let forged = Packet {
            payload_type: 0,
            sequence: before.sequence.wrapping_add(1000 + number),
            timestamp: before.timestamp.wrapping_add(160 * u32::from(number)),
            ssrc: call.media().ssrc(),
            payload: vec![0x20; 160],
            ..Packet::default()
        };
        let mut wire = forged.encode();
        call.media().send_raw(&wire);
        wire.extend([0; 10]);
        call.media().send_raw(&wire);
        call.media().send_raw(&old);
        call.media().send_raw_rtcp(&[0x81, 203, 0, 1, 0, 0, 0, 0]);
    }
    more_packets(incoming.media(), 25).await;
    assert_eq!(voices(incoming.media()), 0, "nothing of it was relayed");
    let low = speech(Voice::Low, 7, 1000);
    call.media().play(&low).await;
    more_packets(incoming.media(), 10).await;
    heard("what the caller says goes on", &low, incoming.media());
    hang_up(&call, &incoming).await;
    let folder = pair.server.recording(&[]).await;
    let found = compare(&call.media().sent_audio(), &wav(&folder, "a-leg.wav"));
    assert!(found.is_same(), "nothing of it was recorded: {found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn prompts_and_pin_work_under_encryption() {
    let pair = Pair::with(REQUIRED).await;
    let session: Value = pair
        .server
        .session(json!({
            "record": false,
            "is_pin_authentication_required": true,
            "first_party_pin": "4711",
            "second_party_pin": "0815",
        }))
        .await;
    let offer = SdpOptions::encrypted(Suite::Aes128Sha80, 1);
    let call = pair.dial(&session, CallOptions::from(STRANGER).offering(offer)).await;
    call.answered(PATIENCE).await.unwrap();
    more_packets(call.media(), 30).await;
    call.media().dtmf("4711", Pattern::Clean).await;
    let incoming = pair.rung().await;
    incoming.answer(SdpOptions::encrypted(Suite::Aes256Sha80, 2)).await.unwrap();
    incoming.wait_ack(PATIENCE).await.unwrap();
    more_packets(incoming.media(), 10).await;
    let (low, high) = (speech(Voice::Low, 7, 1000), speech(Voice::High, 8, 1000));
    tokio::join!(call.media().play(&low), incoming.media().play(&high));
    more_packets(incoming.media(), 5).await;
    more_packets(call.media(), 5).await;
    heard("the caller", &low, incoming.media());
    heard("the callee", &high, call.media());
    incoming.media().dtmf("5", Pattern::Clean).await;
    call.media().wait(PATIENCE, |media| media.received_keys() == "5").await.unwrap();
    assert_eq!(incoming.media().received_keys(), "", "no digit of the PIN");
    hang_up(&call, &incoming).await;
}

//! What a call leaves on the disk: two files on one timeline, and a manifest.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests may panic like tests")]

mod common;

use common::talk::{Pair, compare, find, hang_up, length_of, manifest, more_packets, more_sent, wav};
use common::{FIRST, PATIENCE, SECOND, STRANGER, Setup, folders, until};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sip_tests::audio::{self, Voice, speech};
use sip_tests::leak::{self, Marks};
use sip_tests::message::Message;
use sip_tests::patterns::Pattern;
use sip_tests::phone::{CallOptions, PhoneConfig, WaitError};
use sip_tests::rtp::Packet;
use sip_tests::sdp::SdpOptions;
use sip_tests::stream::Idle;
use sip_tests::transcript::{Direction, Entry, Kind, Transcript};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

/// How far a file may be from what it is measured by.
const TOLERANCE_MS: f64 = 20.0;

fn milliseconds(length: Duration) -> f64 {
    length.as_secs_f64() * 1000.0
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn a_length_ms(folder: &Path) -> usize {
    wav(folder, "a-leg.wav").len() / 8
}

/// The gaps of a leg as a manifest lists them.
fn gaps(manifest: &Value, leg: usize) -> Vec<(usize, usize)> {
    serde_json::from_value(manifest["legs"][leg]["gaps"].clone()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recording_is_two_playable_files_of_one_length_and_a_manifest() {
    let pair = Pair::start().await;
    let session = pair.server.session(json!({})).await;
    let directory = pair.server.folder.join("recordings");
    let (call, incoming) = pair.talk(&session).await;
    let (low, high) = (speech(Voice::Low, 71, 2000), speech(Voice::High, 72, 2000));
    let reading = async {
        let folder = until("both files exist", || {
            let folder = folders(&directory).pop()?;
            ["a-leg.wav", "b-leg.wav"].iter().all(|name| folder.join(name).exists()).then_some(folder)
        })
        .await;
        let mut before = (0, 0);
        for _ in 0..8 {
            more_sent(call.media(), 12).await;
            let now = (wav(&folder, "a-leg.wav").len(), wav(&folder, "b-leg.wav").len());
            assert!(now.0 >= before.0 && now.1 >= before.1, "{before:?} {now:?}");
            before = now;
            assert!(!folder.join("call.json").exists(), "it is still being written");
        }
        assert!(before.0 > 4000 && before.1 > 4000, "after two seconds the files hold {before:?} samples");
        folder
    };
    let ((), (), folder) = tokio::join!(call.media().play(&low), incoming.media().play(&high), reading);
    // A phone with voice activity detection sends nothing for a second.
    call.media().set_idle(Idle::Nothing);
    more_packets(call.media(), 50).await;
    call.media().set_idle(Idle::Silence);
    more_packets(incoming.media(), 25).await;
    hang_up(&call, &incoming).await;

    assert_eq!(pair.server.recording(&[]).await, folder);
    let records = pair.records(&session).await;
    let [record] = records.as_slice() else { panic!("{records:?}") };
    let delivered = pair.server.delivered(&folder).await;
    let manifest = manifest(&folder);
    let (a, b) = (wav(&folder, "a-leg.wav"), wav(&folder, "b-leg.wav"));
    assert_eq!(a.len(), b.len());
    let length = length_of(record);
    let apart = (a.len() as f64 / 8.0 - milliseconds(length)).abs();
    assert!(apart <= TOLERANCE_MS, "{apart} ms from the call's length of {length:?}");
    for (samples, sent, file) in [(&a, call.media(), "a-leg.wav"), (&b, incoming.media(), "b-leg.wav")] {
        let found = compare(&sent.sent_audio(), samples);
        assert!(found.is_same(), "{file}: {found:?}");
    }

    let keys: Vec<&String> = manifest.as_object().unwrap().keys().collect();
    let expected = [
        "interaction_uuid",
        "started_at",
        "sample_rate_hz",
        "samples",
        "duration_ms",
        "complete",
        "legs",
        "mixed",
    ];
    assert_eq!(keys, expected);
    let mixed = std::fs::read(folder.join("call.mp3")).unwrap();
    let digest: String = Sha256::digest(&mixed).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(
        manifest["mixed"],
        json!({ "file": "call.mp3", "channels": 1, "bytes": mixed.len(), "sha256": digest })
    );
    assert_eq!(delivered["sha256"], digest);
    assert_eq!(delivered["recording_duration_ms"], format!("{}.00000", a_length_ms(&folder)));
    assert_eq!(manifest["interaction_uuid"], folder.file_name().unwrap().to_str().unwrap());
    assert_eq!(manifest["interaction_uuid"], record.uuid.to_string());
    assert_eq!((&manifest["sample_rate_hz"], &manifest["complete"]), (&json!(8000), &json!(true)));
    assert_eq!((&manifest["samples"], &manifest["duration_ms"]), (&json!(a.len()), &json!(a.len() / 8)));
    let started: i64 = {
        let text = manifest["started_at"].as_str().unwrap();
        let moment = record.legs[0].answered_at.unwrap();
        // The same moment as the answer, as text of the same kind.
        assert_eq!(text.split('.').next(), moment.to_string().split('.').next());
        moment.as_millisecond()
    };
    assert!(started > 0);
    for (index, (leg, file)) in [("a", "a-leg.wav"), ("b", "b-leg.wav")].into_iter().enumerate() {
        let told = &manifest["legs"][index];
        assert_eq!((&told["leg"], &told["file"]), (&json!(leg), &json!(file)));
        let side = if leg == "a" { media::Side::A } else { media::Side::B };
        let row = record.legs.iter().find(|row| row.opened.side == side).unwrap();
        assert_eq!(told["leg_uuid"], row.opened.leg.to_string());
        let digest = Sha256::digest(std::fs::read(folder.join(file)).unwrap());
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(told["sha256"], digest);
    }
    let silent: Vec<_> = gaps(&manifest, 0).into_iter().filter(|(_, count)| *count > 6000).collect();
    let [(start, count)] = silent.as_slice() else { panic!("{manifest}") };
    assert!((7_000..14_000).contains(count) && *start > 15_000, "{manifest}");
    assert!(a[*start..start + count].iter().all(|sample| *sample == 0));
    assert!(gaps(&manifest, 1).iter().all(|(_, count)| *count < 1600), "{manifest}");

    let stored = record.recording.as_ref().unwrap();
    assert_eq!(directory.join(&stored.directory), folder);
    assert_eq!((stored.samples, stored.complete), (a.len() as u64, true));

    for name in ["a-leg.wav", "b-leg.wav", "call.json", "call.mp3"] {
        assert_eq!(mode(&folder.join(name)), 0o640, "{name}");
    }
    let mut part = folder.as_path();
    while part != directory {
        assert_eq!(mode(part), 0o750, "{}", part.display());
        part = part.parent().unwrap();
    }
    let left: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 4, "{left:?}");

    let number = common::Server::number(&session);
    let marks = Marks::default().number(FIRST).number(SECOND).number(&number);
    let text = format!("{} {manifest}", folder.display());
    assert_eq!(leak::find(text.as_bytes(), &marks), []);
    for file in ["a-leg.wav", "b-leg.wav"] {
        let bytes = std::fs::read(folder.join(file)).unwrap();
        for digits in [&FIRST[2..], &SECOND[2..], &number[2..]] {
            assert!(!bytes.windows(digits.len()).any(|window| window == digits.as_bytes()), "{file}");
        }
    }
}

/// When the phone's click left it. A packet may leave late but never early, so the earliest one tells the beat.
fn click_at(entries: &[Entry], phone: &str) -> Duration {
    let packets: Vec<(Duration, Packet)> = entries
        .iter()
        .filter(|entry| {
            &*entry.phone == phone && entry.kind == Kind::Rtp && entry.direction == Direction::Sent
        })
        .filter_map(|entry| Some((entry.at, Packet::decode(&entry.bytes)?)))
        .collect();
    let first = packets[0].1.timestamp;
    let after =
        |packet: &Packet| Duration::from_micros(125 * u64::from(packet.timestamp.wrapping_sub(first)));
    let beat = packets.iter().map(|(at, packet)| at.saturating_sub(after(packet))).min().unwrap();
    let (packet, offset) = packets
        .iter()
        .find_map(|(_, packet)| {
            let samples = sip_tests::g711::decode_all(media::Codec::Pcmu, &packet.payload);
            Some((packet, samples.iter().position(|sample| *sample > 16_000)?))
        })
        .unwrap();
    beat + after(packet) + Duration::from_micros(125 * offset as u64)
}

fn moment(entries: &[Entry], phone: &str, direction: Direction) -> Duration {
    let answer = |entry: &&Entry| {
        &*entry.phone == phone
            && entry.direction == direction
            && Message::read(&entry.bytes)
                .is_some_and(|message| message.status() == Some(200) && message.cseq().1 == "INVITE")
    };
    entries.iter().filter(|entry| entry.kind == Kind::Sip).find(answer).unwrap().at
}

#[tokio::test(flavor = "multi_thread")]
async fn both_files_are_aligned_to_the_bridge_and_to_each_other() {
    let transcript = Transcript::new();
    let phone = |name| PhoneConfig::named(name).recorded_in(&transcript);
    let pair = Pair::between(phone("caller"), phone("callee"), Setup::default()).await;
    let session = pair.server.session(json!({})).await;
    let (call, incoming) = pair.talk(&session).await;
    more_sent(call.media(), 25).await;
    let click = audio::tone(1000.0, 5, 30_000.0);
    call.media().send_audio(&click);
    incoming.media().send_audio(&click);
    more_sent(call.media(), 25).await;
    hang_up(&call, &incoming).await;
    let folder = pair.server.recording(&[]).await;
    let entries = transcript.entries();
    // The bridge lies between the callee's 200 and the caller's.
    let earliest = milliseconds(moment(&entries, "callee", Direction::Sent));
    let latest = milliseconds(moment(&entries, "caller", Direction::Received));
    let mut late = vec![];
    for (file, phone) in [("a-leg.wav", "caller"), ("b-leg.wav", "callee")] {
        let found = wav(&folder, file).iter().position(|sample| *sample > 16_000).unwrap() as f64 / 8.0;
        let said = milliseconds(click_at(&entries, phone));
        let (least, most) = (said - latest - TOLERANCE_MS, said - earliest + TOLERANCE_MS);
        assert!((least..most).contains(&found), "{file}: the click is at {found}, not in {least}..{most} ms");
        late.push(found - said);
    }
    let apart = (late[0] - late[1]).abs();
    assert!(apart <= TOLERANCE_MS, "the files are {apart} ms apart");
    eprintln!("bridge within {:.1} ms, files {apart:.1} ms apart", latest - earliest);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_without_record_leaves_no_folder() {
    let pair = Pair::start().await;
    let session = pair.server.session(json!({ "record": false })).await;
    let (call, incoming) = pair.talk(&session).await;
    more_packets(call.media(), 10).await;
    hang_up(&call, &incoming).await;
    let records = pair.records(&session).await;
    assert_eq!((records.len(), &records[0].recording), (1, &None));
    assert_eq!(folders(&pair.server.folder.join("recordings")), [] as [std::path::PathBuf; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn early_media_is_heard_and_not_recorded() {
    let pair = Pair::start().await;
    let session = pair.server.session(json!({})).await;
    let call = pair.dial(&session, CallOptions::from(FIRST)).await;
    let incoming = pair.rung().await;
    incoming.progress_with_sdp(SdpOptions::default()).await.unwrap();
    call.wait_for(|status| status == 183, PATIENCE).await.unwrap();
    let tone = audio::tone(440.0, 600, 12_000.0);
    incoming.media().play(&tone).await;
    more_packets(call.media(), 5).await;
    assert!(find(&tone[..4000], &call.media().received_audio()).is_some(), "the caller hears early media");
    incoming.answer(SdpOptions::default()).await.unwrap();
    call.answered(PATIENCE).await.unwrap();
    more_packets(incoming.media(), 25).await;
    hang_up(&call, &incoming).await;
    let folder = pair.server.recording(&[]).await;
    let records = pair.records(&session).await;
    let samples = wav(&folder, "b-leg.wav");
    assert!((samples.len() as f64 / 8.0 - milliseconds(length_of(&records[0]))).abs() <= TOLERANCE_MS);
    assert!(audio::tone_level(&samples, 440.0) < 50.0, "{}", audio::tone_level(&samples, 440.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pin_stage_is_not_recorded() {
    let pair = Pair::start().await;
    let session = pair
        .server
        .session(json!({
            "is_pin_authentication_required": true,
            "first_party_pin": "4711",
            "second_party_pin": "0815",
        }))
        .await;
    let call = pair.dial(&session, CallOptions::from(STRANGER)).await;
    call.answered(PATIENCE).await.unwrap();
    let muttered = speech(Voice::Low, 81, 600);
    call.media().play(&muttered).await;
    call.media().dtmf("4711", Pattern::Clean).await;
    let incoming = pair.rung().await;
    let ringing = speech(Voice::Low, 82, 600);
    call.media().play(&ringing).await;
    incoming.answer(SdpOptions::default()).await.unwrap();
    more_packets(incoming.media(), 5).await;
    let said = speech(Voice::Low, 83, 600);
    call.media().play(&said).await;
    more_packets(incoming.media(), 5).await;
    hang_up(&call, &incoming).await;
    let folder = pair.server.recording(&[]).await;
    let samples = wav(&folder, "a-leg.wav");
    assert!(find(&said, &samples).is_some());
    for (stage, audio) in [("the PIN stage", &muttered), ("the ringing", &ringing)] {
        assert_eq!(find(audio, &samples), None, "{stage} is in the recording");
        let heard = incoming.media().received_audio();
        assert_eq!(find(audio, &heard), None, "the callee heard {stage}");
    }
    let records = pair.records(&session).await;
    let callee = records[0].legs.iter().find(|leg| leg.opened.side == media::Side::B).unwrap();
    let talked = callee.ended_at.unwrap().duration_since(callee.answered_at.unwrap());
    let apart = (talked.as_secs_f64() * 1000.0 - samples.len() as f64 / 8.0).abs();
    assert!(apart <= TOLERANCE_MS, "{apart} ms from the time since the callee's answer");
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_of_both_ends_a_call_and_of_one_does_not() {
    let pair = Pair::with(Setup { media: "silence_seconds = 3", ..Setup::default() }).await;
    let session = pair.server.session(json!({})).await;
    let (call, incoming) = pair.talk(&session).await;
    call.media().stop();
    // Whoever still speaks may stand still for nearly three seconds, with the whole machine.
    let goes_on = incoming.wait_end(Duration::from_secs(5)).await;
    assert!(matches!(goes_on, Err(WaitError::TimedOut { .. })), "one party listens: {goes_on:?}");
    incoming.media().stop();
    let (a, b) = tokio::join!(call.wait_bye(PATIENCE), incoming.wait_bye(PATIENCE));
    assert!(a.is_ok() && b.is_ok());
    let folder = pair.server.recording(&[]).await;
    let records = pair.records(&session).await;
    for leg in &records[0].legs {
        assert_eq!(leg.hangup_cause_name.as_deref(), Some("Media Timeout"));
    }
    let apart = wav(&folder, "a-leg.wav").len() as f64 / 8.0 - milliseconds(length_of(&records[0]));
    assert!(apart.abs() <= TOLERANCE_MS, "{apart}");
}

#[tokio::test(flavor = "multi_thread")]
async fn hold_suspends_the_watch_for_silence() {
    let pair = Pair::with(Setup { media: "silence_seconds = 1", ..Setup::default() }).await;
    let session = pair.server.session(json!({ "record": false })).await;
    let (call, incoming) = pair.talk(&session).await;
    assert_eq!(call.reinvite(Some("sendonly"), PATIENCE).await.unwrap().status(), Some(200));
    call.media().stop();
    incoming.media().stop();
    let goes_on = call.wait_end(Duration::from_millis(2200)).await;
    assert!(matches!(goes_on, Err(WaitError::TimedOut { .. })), "{goes_on:?}");
    assert_eq!(call.reinvite(Some("sendrecv"), PATIENCE).await.unwrap().status(), Some(200));
    call.media().stop();
    incoming.wait_bye(PATIENCE).await.unwrap();
    call.wait_bye(PATIENCE).await.unwrap();
}

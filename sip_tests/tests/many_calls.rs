//! Many calls at once, with audio both ways and recording. `MANY_CALLS=100 MANY_SECONDS=60` is the full measure.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests may panic like tests")]

mod common;

use common::talk::{Pair, compare, dialled, length_of, wav};
use common::{Setup, until};
use serde_json::json;
use sip_tests::audio::{Voice, speech};
use sip_tests::phone::{Call, CallOptions, IncomingCall, OutgoingCall, PhoneConfig};
use sip_tests::sdp::SdpOptions;
use sip_tests::transcript::Transcript;
use std::collections::BTreeMap;
use std::time::Duration;

/// Everything takes longer when there is much of it.
const PATIENCE: Duration = Duration::from_secs(60);

fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Relayed packets that `to` misses between the first and the last one that it got, and those at the beginning
/// or the end.
fn lost(from: &Call, to: &Call) -> (usize, usize) {
    let received = to.media().received_packets();
    let holes = received
        .windows(2)
        .map(|pair| usize::from(pair[1].packet.sequence.wrapping_sub(pair[0].packet.sequence)).abs_diff(1))
        .sum();
    let sent = usize::try_from(from.media().sent_packets()).unwrap();
    (holes, sent - received.len())
}

/// What both sides of a call say: the same two voices in each, but each call begins at another word. Making sound
/// takes longer than sending it, so it is made before the first call.
struct Voices {
    low: Vec<i16>,
    high: Vec<i16>,
    calls: usize,
}

impl Voices {
    fn new(seconds: usize, calls: usize) -> Self {
        let length = u32::try_from(seconds * 1000).unwrap();
        Self { low: speech(Voice::Low, 1, length), high: speech(Voice::High, 2, length), calls }
    }

    fn of(&self, number: usize) -> [Vec<i16>; 2] {
        [&self.low, &self.high].map(|voice| {
            let mut voice = voice.clone();
            let step = voice.len() / self.calls;
            voice.rotate_left(step * number);
            voice
        })
    }
}

/// Both speak to the end, and each has heard the last word when the caller hangs up.
async fn talk([low, high]: [Vec<i16>; 2], call: &OutgoingCall, incoming: &IncomingCall) {
    tokio::join!(call.media().play(&low), incoming.media().play(&high));
    // A little silence at the end, so that nothing is cut off.
    common::talk::more_sent(call.media(), 10).await;
    call.media().stop();
    incoming.media().stop();
    let all = usize::try_from(call.media().sent_packets()).unwrap();
    let _ = incoming.media().wait_packets(all, Duration::from_millis(500)).await;
    call.bye().await.unwrap();
    incoming.wait_bye(PATIENCE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_packet_is_lost_and_every_recording_is_what_was_said() {
    let (count, seconds) = (setting("MANY_CALLS", 20), setting("MANY_SECONDS", 8));
    let transcript = Transcript::without_audio();
    let phone = |name| PhoneConfig::named(name).recorded_in(&transcript);
    let setup = Setup { http: "requests_per_5_seconds = 5000", ..Setup::default() };
    let pair = Pair::between(phone("caller"), phone("callee"), setup).await;
    let voices = Voices::new(seconds, count);
    let mut sessions = vec![];
    for number in 0..count {
        let (first, second) = (format!("+1202556{number:04}"), format!("+1202557{number:04}"));
        let parties = json!({ "first_party": first, "second_party": second });
        sessions.push((first, second, pair.server.session(parties).await));
    }
    let mut callers = BTreeMap::new();
    for (first, second, session) in &sessions {
        callers.insert(second.clone(), pair.dial(session, CallOptions::from(first)).await);
    }
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..count {
        let incoming = pair.callee.next_call(PATIENCE).await.unwrap();
        let call = callers.remove(&dialled(&incoming)).unwrap();
        let said = voices.of(number);
        calls.spawn(async move {
            incoming.answer(SdpOptions::default()).await.unwrap();
            call.answered(PATIENCE).await.unwrap();
            incoming.wait_ack(PATIENCE).await.unwrap();
            talk(said, &call, &incoming).await;
            (dialled(&incoming), call, incoming)
        });
    }
    let mut ended = BTreeMap::new();
    while let Some(call) = calls.join_next().await {
        let (party, call, incoming) = call.unwrap();
        ended.insert(party, (call, incoming));
    }
    let shell = pair.server.service.shell();
    until("every call is stored", || (shell.unsettled_calls() == 0).then_some(())).await;
    let engine = shell.engine.statistics();
    assert_eq!((engine.overrun, engine.unsent), (0, 0), "{engine:?}");

    let (mut worst_length, mut worst_segment, mut early, mut packets) = (0.0f64, 1.0f64, 0, 0);
    for (_, party, session) in &sessions {
        let (call, incoming) = &ended[party];
        assert_eq!(lost(call, incoming), (0, 0), "{party}: from the caller to the callee");
        let (holes, outside) = lost(incoming, call);
        assert_eq!(holes, 0, "{party}: from the callee to the caller");
        // Of what the callee said before the caller was connected nothing is owed.
        early = early.max(outside);
        packets += call.media().received_count() + incoming.media().received_count();

        let records = pair.records(session).await;
        let recording = records[0].recording.as_ref().unwrap();
        assert!(recording.complete);
        let folder = pair.server.folder.join("recordings").join(&recording.directory);
        let length = length_of(&records[0]).as_secs_f64() * 1000.0;
        for (file, sent, heard) in [("a-leg.wav", &**call, &**incoming), ("b-leg.wav", &**incoming, &**call)]
        {
            let samples = wav(&folder, file);
            worst_length = worst_length.max((samples.len() as f64 / 8.0 - length).abs());
            for (place, audio) in [(file, samples), ("the line", heard.media().received_audio())] {
                let found = compare(&sent.media().sent_audio(), &audio);
                assert!(found.is_same(), "{party}, {place}: {found:?}");
                // Another call's audio is the same sound at another time.
                assert!(found.lag.unsigned_abs() < 2000, "{party}, {place}: {found:?}");
                assert!(found.overlap + 8000 > seconds * 8000, "{party}, {place}: {found:?}");
                worst_segment = worst_segment.min(found.worst_segment);
            }
        }
    }
    eprintln!(
        "{count} calls of {seconds} s: {packets} packets relayed, none lost (at most {early} came before the \
         bridge); files at most {worst_length:.1} ms from the call's length; worst correlation of 200 ms \
         {worst_segment:.4}"
    );
    assert!(worst_length <= 20.0, "a file is {worst_length} ms away from its call's length");
    assert!(early <= 10, "{early} packets of a callee were not relayed");
    assert!(pair.callee.faults().await.is_empty() && pair.caller.faults().await.is_empty());
}

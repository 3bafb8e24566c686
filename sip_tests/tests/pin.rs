//! The PIN stage: a caller whom no session knows types digits and reaches a party, or does not.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests may panic like tests")]

mod common;

use common::talk::{Pair, built_in, dialled, find, hang_up, heard, more_packets, more_sent, tones, wav};
use common::{FIRST, PATIENCE, SECOND, STRANGER, Setup, until};
use maskline::prompts::BuiltIn;
use media::Codec;
use serde_json::{Value, json};
use sip_tests::audio;
use sip_tests::patterns::Pattern;
use sip_tests::phone::{CallOptions, OutgoingCall};
use sip_tests::sdp::SdpOptions;
use sip_tests::stream::{MediaSession, ReceivedPacket};
use std::collections::BTreeMap;
use std::time::Duration;

/// Reaches the second party; the doubled digit is what a careless detector takes for one key.
const FIRST_PIN: &str = "4407";
/// Reaches the first party.
const SECOND_PIN: &str = "9115";
const WRONG: &str = "0000";

#[allow(clippy::needless_pass_by_value)] // Literals, for the most part.
fn with_pins(more: Value) -> Value {
    let mut body = json!({
        "record": false,
        "is_pin_authentication_required": true,
        "first_party_pin": FIRST_PIN,
        "second_party_pin": SECOND_PIN,
        "pin_retry": 0,
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        body[key] = value.clone();
    }
    body
}

/// A service with a session that takes strangers, and a stranger's call that has been answered.
async fn stage(more: Value) -> (Pair, Value, OutgoingCall) {
    let pair = Pair::start().await;
    let session = pair.server.session(with_pins(more)).await;
    let call = strangers_call(&pair, &session).await;
    (pair, session, call)
}

async fn strangers_call(pair: &Pair, session: &Value) -> OutgoingCall {
    let call = pair.dial(session, CallOptions::from(STRANGER)).await;
    call.answered(PATIENCE).await.unwrap();
    call
}

fn nobody_rang(pair: &Pair) {
    assert_eq!(pair.callee.received().len(), 0, "the callee heard something of it");
}

/// The party that is rung, answers, and hears somebody.
async fn answered_by(pair: &Pair) -> String {
    let incoming = pair.rung().await;
    incoming.answer(SdpOptions::default()).await.unwrap();
    more_packets(incoming.media(), 5).await;
    assert_eq!(incoming.media().received_keys(), "", "a digit of the PIN reached the other party");
    incoming.bye().await.unwrap();
    dialled(&incoming)
}

/// Silences between packets that are longer than `length`, as (end of what came before, length).
fn pauses(packets: &[ReceivedPacket], length: Duration) -> Vec<(Duration, Duration)> {
    packets
        .windows(2)
        .map(|pair| (pair[0].at, pair[1].at - pair[0].at))
        .filter(|(_, pause)| *pause > length)
        .collect()
}

async fn hears_to_the_end(what: &[i16], media: &MediaSession) {
    let packets = what.len().div_ceil(160);
    media.wait_packets(packets, PATIENCE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn twelve_of_twelve_arrival_patterns_give_the_right_pin_and_ring_the_right_party() {
    let pair = Pair::with(Setup { numbers: 12, ..Setup::default() }).await;
    let prompt = built_in(BuiltIn::EnterPin);
    let mut callers = vec![];
    let mut expected = BTreeMap::new();
    for (index, pattern) in Pattern::ALL.into_iter().enumerate() {
        let (first, second) =
            (format!("+1202555{:04}", 2000 + index), format!("+1202555{:04}", 3000 + index));
        let parties = json!({ "first_party": first, "second_party": second });
        let session = pair.server.session(with_pins(parties)).await;
        let payload_type = [101, 96, 127][index % 3];
        let offer = SdpOptions { telephone_event_pt: Some(payload_type), ..SdpOptions::default() };
        let caller = if index % 4 == 0 { CallOptions::anonymous() } else { CallOptions::from(STRANGER) };
        let call = pair.dial(&session, caller.offering(offer)).await;
        let (pin, party) = if index % 2 == 0 { (FIRST_PIN, second) } else { (SECOND_PIN, first) };
        assert!(expected.insert(party, (pattern, payload_type)).is_none());
        let prompt = prompt.clone();
        callers.push(tokio::spawn(async move {
            call.answered(PATIENCE).await.unwrap();
            let announced = call.media().remote().unwrap().telephone_event_pt;
            assert_eq!(announced, Some(payload_type), "{pattern:?}");
            if pattern.waits_for_prompt() {
                hears_to_the_end(&prompt, call.media()).await;
            }
            call.media().dtmf(pin, pattern).await;
            call
        }));
    }
    let mut answered = vec![];
    while !expected.is_empty() {
        let incoming = match pair.callee.next_call(PATIENCE).await {
            Ok(incoming) => incoming,
            Err(error) => panic!("{error}; these rang nobody: {expected:?}"),
        };
        let (party, (pattern, _)) = expected.remove_entry(&dialled(&incoming)).unwrap();
        // At once: the last key may still be held down, and none of it is for this party.
        incoming.answer(SdpOptions::default()).await.unwrap();
        answered.push((pattern, party, incoming));
    }
    for caller in callers {
        let call = caller.await.unwrap();
        more_packets(call.media(), 5).await;
        call.bye().await.unwrap();
    }
    for (pattern, _, incoming) in answered {
        incoming.wait_bye(PATIENCE).await.unwrap();
        assert!(incoming.media().received_count() >= 5, "{pattern:?}: the caller was not heard");
        assert_eq!(incoming.media().received_keys(), "", "{pattern:?}: a digit passed");
    }
    assert!(pair.callee.faults().await.is_empty() && pair.caller.faults().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_pins_end_after_one_plus_pin_retry_entries() {
    let (pair, session, call) = stage(json!({ "pin_retry": 1, "pin_retry_wait": 5 })).await;
    for entry in 0..2 {
        // The prompt is played again after each pause.
        let pause = Duration::from_secs(3);
        let again = |media: &MediaSession| pauses(&media.received_packets(), pause).len() == entry;
        call.media().wait(PATIENCE, again).await.unwrap();
        more_packets(call.media(), 5).await;
        call.media().dtmf(WRONG, Pattern::Clean).await;
    }
    call.wait_bye(PATIENCE).await.unwrap();
    nobody_rang(&pair);
    let packets = call.media().received_packets();
    let all: Vec<_> = pauses(&packets, Duration::from_secs(3));
    assert_eq!(all.len(), 1, "one pause of pin_retry_wait: {all:?}");
    // Five seconds, and not twice as long.
    assert!(all.iter().all(|(_, pause)| (4.0..9.0).contains(&pause.as_secs_f64())), "{all:?}");
    // Of the two parts each ends with the message, the last one with the goodbye behind it.
    let mut rest = packets.as_slice();
    let ends = all.iter().map(|(end, _)| *end).chain([packets.last().unwrap().at]);
    for (entry, end) in ends.enumerate() {
        let (part, after) =
            rest.split_at(rest.iter().position(|packet| packet.at > end).unwrap_or(rest.len()));
        rest = after;
        let part = sip_tests::stream::place(part);
        assert!(find(&built_in(BuiltIn::WrongPin), &part).is_some(), "entry {entry}");
        assert_eq!(find(&built_in(BuiltIn::Goodbye), &part).is_some(), entry == 1, "entry {entry}");
    }
    let records = pair.records(&session).await;
    // The stranger's call belongs to no session: nobody was meant.
    assert!(records.is_empty());
    let (_, calls) = pair.server.api("GET", "Call/", None).await;
    let legs = calls["objects"].as_array().unwrap();
    assert_eq!(legs.len(), 1, "{calls}");
    assert_eq!(
        (&legs[0]["hangup_cause_code"], &legs[0]["hangup_source"]),
        (&json!(3030), &json!("Maskline"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn who_types_nothing_hears_prompt_message_and_goodbye() {
    let (pair, _, call) = stage(json!({})).await;
    call.wait_bye(PATIENCE).await.unwrap();
    nobody_rang(&pair);
    let media = call.media();
    let prompt = built_in(BuiltIn::EnterPin);
    let begins = heard("the prompt", &prompt, media);
    let wrong = heard("the message", &built_in(BuiltIn::WrongPin), media);
    let goodbye = heard("the goodbye", &built_in(BuiltIn::Goodbye), media);
    assert!(begins < 400, "{begins}");
    let waited = (wrong - begins - prompt.len()) / 8;
    assert!((9_900..14_000).contains(&waited), "10 s for the first digit, not {waited} ms");
    assert!(goodbye > wrong);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hash_key_ends_an_entry_at_once_and_five_seconds_without_a_digit_do() {
    let pair = Pair::start().await;
    let session = pair.server.session(with_pins(json!({}))).await;
    let entry = async |keys, at_least, at_most| {
        let call = strangers_call(&pair, &session).await;
        more_packets(call.media(), 5).await;
        call.media().dtmf(keys, Pattern::Clean).await;
        call.wait_bye(PATIENCE).await.unwrap();
        // The prompt stops at the first digit; what is heard next is the message.
        let pauses = pauses(&call.media().received_packets(), Duration::from_millis(200));
        let pause = pauses.iter().map(|(_, pause)| pause.as_secs_f64()).fold(0.0, f64::max);
        assert!((at_least..at_most).contains(&pause), "{keys}: {pause} s");
        heard("the message", &built_in(BuiltIn::WrongPin), call.media());
        assert!(find(&built_in(BuiltIn::EnterPin), &call.media().received_audio()).is_none(), "barge-in");
    };
    tokio::join!(entry("44#", 0.3, 4.5), entry("44", 4.8, 9.0));
    nobody_rang(&pair);
}

#[tokio::test(flavor = "multi_thread")]
async fn digits_typed_during_message_and_pause_are_judged_after_it() {
    let (pair, _, call) = stage(json!({ "pin_retry": 1 })).await;
    call.media().dtmf(WRONG, Pattern::Clean).await;
    let (first, second) = FIRST_PIN.split_at(2);
    // The message plays, then the pause begins: two digits in each.
    let message = call.media().received_count() + built_in(BuiltIn::WrongPin).len() / 160;
    call.media().dtmf(first, Pattern::Clean).await;
    call.media().wait_packets(message - 12, PATIENCE).await.unwrap();
    more_sent(call.media(), 25).await;
    let before = call.media().received_packets().last().unwrap().at;
    call.media().dtmf(second, Pattern::Clean).await;
    assert_eq!(answered_by(&pair).await, SECOND);
    let after = call.media().received_packets();
    let next = after.iter().find(|packet| packet.at > before).unwrap().at - before;
    assert!((4.0..9.0).contains(&next.as_secs_f64()), "nothing is played before the pause is over: {next:?}");
    call.wait_bye(PATIENCE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_party_that_must_type_its_pin_may_type_its_own_only() {
    let pair = Pair::start().await;
    let session =
        pair.server.session(with_pins(json!({ "force_pin_authentication": true, "pin_retry": 1 }))).await;
    let typing = async |caller, own, others| {
        let call = pair.dial(&session, CallOptions::from(caller)).await;
        call.answered(PATIENCE).await.unwrap();
        call.media().dtmf(others, Pattern::Clean).await;
        more_packets(call.media(), 5).await;
        call.media().dtmf(own, Pattern::Clean).await;
        call.wait_bye(PATIENCE).await.unwrap();
        heard("the message", &built_in(BuiltIn::WrongPin), call.media());
    };
    let answering = async || [answered_by(&pair).await, answered_by(&pair).await];
    let ((), (), mut reached) = tokio::join!(
        typing(FIRST, FIRST_PIN, SECOND_PIN),
        typing(SECOND, SECOND_PIN, FIRST_PIN),
        answering()
    );
    reached.sort();
    assert_eq!(reached, [FIRST, SECOND]);
    let invites = pair.callee.received().iter().filter(|message| message.is("INVITE")).count();
    assert_eq!(invites, 2, "the other party's PIN rang nobody");
    assert_eq!(pair.records(&session).await.len(), 2);
}

/// Where message, goodbye and end are in what a caller heard after typing, and how the call ended.
fn last_words(call: &OutgoingCall) -> ([usize; 3], Vec<u16>, Option<String>) {
    let packets = call.media().received_packets();
    let pause = pauses(&packets, Duration::from_millis(200))[0].0;
    let after: Vec<_> = packets.into_iter().filter(|packet| packet.at > pause).collect();
    let bye = call.received().into_iter().find(|message| message.is("BYE")).unwrap();
    let audio = sip_tests::stream::place(&after);
    let parts = [BuiltIn::WrongPin, BuiltIn::Goodbye].map(|which| find(&built_in(which), &audio).unwrap());
    let [message, goodbye] = parts;
    ([message, goodbye, audio.len()], call.statuses(), bye.header("Reason").map(str::to_owned))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_ends_during_the_stage_sounds_like_a_wrong_pin() {
    let pair = Pair::with(Setup { numbers: 3, ..Setup::default() }).await;
    let wrong = pair.server.session(with_pins(json!({}))).await;
    let deleted = pair.server.session(with_pins(json!({}))).await;
    let expired = pair.server.session(with_pins(json!({ "session_expiry": 4 }))).await;
    let calls = [
        strangers_call(&pair, &wrong).await,
        strangers_call(&pair, &deleted).await,
        strangers_call(&pair, &expired).await,
    ];
    let path = |session: &Value| format!("Masking/Session/{}/", session["session_uuid"].as_str().unwrap());
    assert_eq!(pair.server.api("DELETE", &path(&deleted), None).await.0, 200);
    loop {
        let (_, answer) = pair.server.api("GET", &path(&expired), None).await;
        if answer["response"]["status"] == "expired" {
            break;
        }
    }
    for (call, pin) in calls.iter().zip([WRONG, FIRST_PIN, FIRST_PIN]) {
        assert_eq!(call.end(), None, "the stage goes on when the session ends");
        call.media().dtmf(pin, Pattern::Clean).await;
    }
    for call in &calls {
        call.wait_bye(PATIENCE).await.unwrap();
    }
    nobody_rang(&pair);
    let [wrong, others @ ..] = calls.each_ref().map(last_words);
    for other in others {
        assert_eq!((&wrong.1, &wrong.2), (&other.1, &other.2));
        for (one, two) in wrong.0.iter().zip(other.0) {
            assert!(one.abs_diff(two) <= 800, "the calls last alike: {:?} {:?}", wrong.0, other.0);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_hangs_up_in_the_stage_leaves_nothing() {
    let (pair, _, call) = stage(json!({})).await;
    more_packets(call.media(), 5).await;
    call.hang_up().await.unwrap();
    pair.server.settled().await;
    until("its ports rest", || {
        (pair.server.service.shell().engine.statistics().ports_in_use == 0).then_some(())
    })
    .await;
    nobody_rang(&pair);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_without_telephone_event_types_its_pin_by_tones_that_nobody_else_hears() {
    let pair = Pair::start().await;
    let session = pair.server.session(with_pins(json!({ "record": true }))).await;
    let without_events =
        |codecs: Vec<Codec>| SdpOptions { telephone_event_pt: None, codecs, ..SdpOptions::default() };
    let offer = without_events(vec![Codec::Pcmu]);
    let call = pair.dial(&session, CallOptions::from(STRANGER).offering(offer)).await;
    call.answered(PATIENCE).await.unwrap();
    assert_eq!(call.media().remote().unwrap().telephone_event_pt, None);
    more_packets(call.media(), 5).await;
    // Each key 80 ms, the last one held for a second: the call goes on while it sounds.
    let mut typed = vec![];
    for (index, key) in FIRST_PIN.chars().enumerate() {
        let length = if index == 3 { 1000 } else { 80 };
        typed.extend(audio::dtmf_tone(key, length).unwrap());
        typed.extend(audio::silence(80));
    }
    call.media().send_audio(&typed);
    let incoming = pair.rung().await;
    assert_eq!(dialled(&incoming), SECOND, "the first party's PIN leads to the second party");
    incoming.answer(SdpOptions::default()).await.unwrap();
    call.media().finished().await;
    let words = audio::speech(audio::Voice::Low, 5, 2000);
    call.media().play(&words).await;
    more_packets(incoming.media(), 10).await;
    hang_up(&call, &incoming).await;
    let heard = incoming.media().received_audio();
    assert_eq!(tones(&heard), [], "the called party hears the PIN, or what is left of it");
    assert!(find(&words, &heard).is_some(), "what the caller says after it is heard");
    let folder = pair.server.recording(&[]).await;
    assert_eq!(tones(&wav(&folder, "a-leg.wav")), [], "the recording holds it");
    let records = pair.records(&session).await;
    let quality = records[0].legs.iter().find(|leg| leg.opened.side == media::Side::A).unwrap();
    let quality = quality.quality.as_ref().unwrap();
    assert_eq!(quality.codec.as_deref(), Some("PCMU"));
    assert!(quality.mos.unwrap().hundredths() > 300, "{quality:?}");
}

//! Keys after the bridge (RFC 4733): they pass both ways, as each leg wants them.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests may panic like tests")]

mod common;

use common::talk::{Pair, hang_up, more_sent, tones};
use common::{FIRST, PATIENCE};
use serde_json::json;
use sip_tests::patterns::Pattern;
use sip_tests::phone::{Call, CallOptions};
use sip_tests::sdp::SdpOptions;

const KEYS: &str = "1*9#";

fn events(payload_type: Option<u8>) -> SdpOptions {
    SdpOptions { telephone_event_pt: payload_type, ..SdpOptions::default() }
}

/// Types at one phone and checks what the other one gets: each key once, in the payload type that it announced.
async fn passes(from: &Call, to: &Call, pattern: Pattern, announced: u8, length_ms: u32) {
    let before = to.media().received_digits().len();
    from.media().dtmf(KEYS, pattern).await;
    let all = before + KEYS.len();
    to.media()
        .wait(PATIENCE, |media| {
            let digits = media.received_digits();
            digits.len() >= all && digits.iter().all(|digit| digit.ended)
        })
        .await
        .unwrap();
    // Whatever would come twice has come by now.
    more_sent(from.media(), 10).await;
    let digits = to.media().received_digits();
    let keys: String = digits.iter().skip(before).map(|digit| digit.key).collect();
    assert_eq!(keys, KEYS, "{pattern:?}");
    for digit in digits.iter().skip(before) {
        assert_eq!(digit.payload_type, announced, "{pattern:?}");
        assert_eq!(digit.duration_ms, length_ms, "{pattern:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_pass_both_ways_in_the_payload_type_that_each_phone_announced() {
    let pair = Pair::start().await;
    let session = pair.server.session(json!({ "record": false })).await;
    let of_callers = |announced| CallOptions::from(FIRST).offering(events(Some(announced)));
    for (a, b) in [(101, 96), (96, 127), (127, 101)] {
        let (call, incoming) = pair.talk_as(&session, of_callers(a), events(Some(b))).await;
        tokio::join!(
            passes(&call, &incoming, Pattern::Clean, b, 100),
            passes(&incoming, &call, Pattern::Clean, a, 100)
        );
        hang_up(&call, &incoming).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_pass_whole_however_they_arrive() {
    let pair = Pair::start().await;
    let session = pair.server.session(json!({ "record": false })).await;
    let offer = CallOptions::from(FIRST).offering(events(Some(101)));
    let (call, incoming) = pair.talk_as(&session, offer, events(Some(96))).await;
    // What a network loses or turns round is not ours to invent; the key itself and its length are told.
    for (pattern, length) in [
        (Pattern::FirstLost, 100),
        (Pattern::EndsButOneLost, 100),
        (Pattern::NoMarker, 100),
        (Pattern::Doubled, 100),
        (Pattern::Shuffled, 100),
        (Pattern::Short, 40),
        (Pattern::Interleaved, 100),
    ] {
        passes(&call, &incoming, pattern, 96, length).await;
    }
    hang_up(&call, &incoming).await;
}

/// One of the phones knows no telephone-event.
async fn sounds(a: Option<u8>, b: Option<u8>) {
    let pair = Pair::start().await;
    let session = pair.server.session(json!({ "record": false })).await;
    let offer = CallOptions::from(FIRST).offering(events(a));
    let (call, incoming) = pair.talk_as(&session, offer, events(b)).await;
    let (from, to): (&Call, &Call) = if a.is_some() { (&call, &incoming) } else { (&incoming, &call) };
    from.media().dtmf("159#", Pattern::Clean).await;
    from.media().dtmf("8", Pattern::Held).await;
    more_sent(from.media(), 25).await;
    hang_up(&call, &incoming).await;
    let heard = tones(&to.media().received_audio());
    let keys: String = heard.iter().map(|(key, _)| key).collect();
    assert_eq!(keys, "159#8", "{heard:?}");
    for ((key, length), expected) in heard.into_iter().zip([100, 100, 100, 100, 2000]) {
        assert!(length.abs_diff(expected) <= 30, "{key}: {length} ms instead of {expected}");
    }
    assert_eq!(to.media().received_keys(), "", "a telephone-event that was not agreed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_called_phone_without_telephone_event_hears_tones_of_the_same_length() {
    sounds(Some(101), None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_calling_phone_without_telephone_event_hears_tones_of_the_same_length() {
    sounds(None, Some(101)).await;
}

/// RFC 2976's keys, as some carriers send them: each one reaches the other phone as a telephone-event, or as a tone.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_by_info_reaches_the_other_phone_as_an_event() {
    let pair = Pair::start().await;
    let session = pair.server.session(json!({ "record": false })).await;
    let of_caller = CallOptions::from(FIRST).offering(events(Some(101)));
    let (call, incoming) = pair.talk_as(&session, of_caller, events(Some(96))).await;
    let sides: [(&Call, &Call, u8); 2] = [(&call, &incoming, 96), (&incoming, &call, 101)];
    for (from, to, announced) in sides {
        for (kind, body) in
            [("application/dtmf-relay", "Signal=5\r\nDuration=160\r\n"), ("application/dtmf", "#")]
        {
            let answer = from.request("INFO", &[], Some((kind, body.as_bytes())), PATIENCE).await.unwrap();
            assert_eq!(answer.status(), Some(200), "{kind}");
        }
        to.media()
            .wait(PATIENCE, |media| {
                let digits = media.received_digits();
                digits.len() == 2 && digits.iter().all(|digit| digit.ended)
            })
            .await
            .unwrap();
        let digits = to.media().received_digits();
        let told: Vec<_> =
            digits.iter().map(|digit| (digit.key, digit.payload_type, digit.duration_ms)).collect();
        assert_eq!(told, [('5', announced, 100), ('#', announced, 100)]);
    }
    hang_up(&call, &incoming).await;
}

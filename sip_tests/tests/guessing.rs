//! Strangers who guess PINs run into limits over all their calls (product.md, "Guessing"): from then on even the
//! right PIN sounds wrong. Nobody else waits for that.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests may panic like tests")]

mod common;

use common::talk::{Pair, dialled, hang_up, more_packets};
use common::{FIRST, PATIENCE, SECOND, STRANGER, Server};
use maskline::clock;
use maskline::masking::guessing::{Bucket, CALLER_LIMIT};
use maskline::masking::session::PartyRole;
use maskline::number::{Did, E164};
use maskline::store::Verdict;
use serde_json::{Value, json};
use sip_tests::patterns::Pattern;
use sip_tests::phone::{CallOptions, OutgoingCall};
use sip_tests::sdp::SdpOptions;

const OTHER_STRANGER: &str = "+12025550178";

async fn pin_session(pair: &Pair, force: bool) -> Value {
    let pins = json!({
        "record": false, "is_pin_authentication_required": true, "first_party_pin": "4711",
        "second_party_pin": "0815", "pin_retry": 0, "force_pin_authentication": force,
    });
    pair.server.session(pins).await
}

/// Uses up what `bucket` allows.
async fn fill(pair: &Pair, bucket: Bucket) {
    let store = &pair.server.service.shell().store;
    let mut judged = 0;
    while store.count_guess(vec![bucket.clone()], clock::wall_now()).await.unwrap() == Verdict::Judge {
        judged += 1;
    }
    assert!(judged > 0 && judged <= CALLER_LIMIT.max(bucket.limit()));
}

/// Calls and types the first party's PIN.
async fn type_pin(pair: &Pair, session: &Value, from: &str) -> OutgoingCall {
    let call = pair.dial(session, CallOptions::from(from)).await;
    call.answered(PATIENCE).await.unwrap();
    more_packets(call.media(), 10).await;
    call.media().dtmf("4711", Pattern::Clean).await;
    call
}

async fn is_connected(pair: &Pair, call: &OutgoingCall) {
    let incoming = pair.rung().await;
    assert_eq!(dialled(&incoming), SECOND);
    incoming.answer(SdpOptions::default()).await.unwrap();
    incoming.wait_ack(PATIENCE).await.unwrap();
    more_packets(call.media(), 3).await;
    hang_up(call, &incoming).await;
}

async fn is_told_that_it_is_wrong(pair: &Pair, call: &OutgoingCall) {
    let rung_before = pair.callee.received().len();
    call.wait_bye(PATIENCE).await.unwrap();
    assert_eq!(pair.callee.received().len(), rung_before, "nobody was rung");
}

fn number(session: &Value) -> Did {
    Did::parse(&Server::number(session)).unwrap()
}

/// Whom the account was told of, once for each lock-out.
async fn locked_out(pair: &Pair) -> Vec<(String, Value)> {
    let (_, answer) = pair.server.api("GET", "Event/", None).await;
    let events = answer["response"]["objects"].as_array().unwrap();
    let of = |event: &&Value| event["event_name"] == "SessionPinLockedOut";
    let about = |event: &Value| {
        assert_eq!((&event["parameters"]["From"], &event["parameters"]["To"]), (&json!(""), &json!("")));
        (event["parameters"]["LockedOut"].as_str().unwrap().to_owned(), event["session_uuid"].clone())
    };
    events.iter().filter(of).map(about).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_guessed_too_often_is_not_judged_any_more_and_others_are() {
    let pair = Pair::start().await;
    let session = pin_session(&pair, false).await;
    fill(&pair, Bucket::Caller(E164::parse(STRANGER).unwrap())).await;
    for _ in 0..2 {
        let call = type_pin(&pair, &session, STRANGER).await;
        is_told_that_it_is_wrong(&pair, &call).await;
    }
    // The session has no URL, so the event is the account's: one, however often he tries.
    assert_eq!(locked_out(&pair).await, [("caller".to_owned(), Value::Null)]);
    // Another stranger, and who needs no PIN.
    let call = type_pin(&pair, &session, OTHER_STRANGER).await;
    is_connected(&pair, &call).await;
    let (call, incoming) = pair.talk(&session).await;
    hang_up(&call, &incoming).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_under_attack_takes_no_stranger_but_its_parties() {
    let pair = Pair::start().await;
    let session = pin_session(&pair, false).await;
    // The pause after the first third.
    fill(&pair, Bucket::Number { did: number(&session), pin_sessions: 1 }).await;
    let call = type_pin(&pair, &session, OTHER_STRANGER).await;
    is_told_that_it_is_wrong(&pair, &call).await;
    assert_eq!(locked_out(&pair).await, [("strangers".to_owned(), Value::Null)]);
    let (call, incoming) = pair.talk(&session).await;
    hang_up(&call, &incoming).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forced_pin_has_limits_of_its_own() {
    let pair = Pair::start().await;
    let session = pin_session(&pair, true).await;
    let uuid = session["session_uuid"].as_str().unwrap().parse().unwrap();
    fill(&pair, Bucket::Number { did: number(&session), pin_sessions: 1 }).await;
    fill(&pair, Bucket::Forced(uuid, PartyRole::Second)).await;
    let call = type_pin(&pair, &session, FIRST).await;
    is_connected(&pair, &call).await;
    // Right ones are given back: they never add up.
    for _ in 0..3 {
        let call = type_pin(&pair, &session, FIRST).await;
        is_connected(&pair, &call).await;
    }
    fill(&pair, Bucket::Forced(uuid, PartyRole::First)).await;
    let call = type_pin(&pair, &session, FIRST).await;
    is_told_that_it_is_wrong(&pair, &call).await;
}

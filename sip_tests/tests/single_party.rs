//! A session that knows one party: whoever calls reaches it, and it calls back the one that it talked with last.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests may panic like tests")]

mod common;

use common::talk::{Pair, built_in, dialled, hang_up, heard};
use common::{FIRST, PATIENCE, SECOND, STRANGER};
use maskline::prompts::BuiltIn;
use serde_json::{Value, json};
use sip_tests::phone::CallOptions;
use sip_tests::sdp::SdpOptions;

const OTHER: &str = "+12025550178";

async fn session(pair: &Pair) -> Value {
    let body = json!({
        "first_party": FIRST, "second_party": "", "create_session_with_single_party": true, "record": false
    });
    pair.server.session(body).await
}

/// A call that is answered: who is rung for whom.
async fn talk(pair: &Pair, session: &Value, options: CallOptions, reaches: &str) {
    let call = pair.dial(session, options).await;
    let incoming = pair.rung().await;
    assert_eq!(dialled(&incoming), reaches);
    let from = incoming.request().header("From").unwrap();
    assert!(from.starts_with(&format!("<sip:{}@", common::Server::number(session))), "{from}");
    incoming.answer(SdpOptions::default()).await.unwrap();
    call.answered(PATIENCE).await.unwrap();
    incoming.wait_ack(PATIENCE).await.unwrap();
    hang_up(&call, &incoming).await;
    // The record is what the next call goes by.
    pair.server.settled().await;
}

/// The known party calls and is told that nobody can be reached.
async fn in_vain(pair: &Pair, session: &Value) {
    let call = pair.dial(session, CallOptions::from(FIRST)).await;
    call.answered(PATIENCE).await.unwrap();
    call.wait_bye(PATIENCE).await.unwrap();
    heard("that nobody can be reached", &built_in(BuiltIn::NotReached), call.media());
    pair.server.settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_known_party_is_connected_to_whoever_it_talked_with_last() {
    let pair = Pair::start().await;
    let session = session(&pair).await;
    in_vain(&pair, &session).await;
    talk(&pair, &session, CallOptions::from(STRANGER), FIRST).await;
    talk(&pair, &session, CallOptions::from(FIRST), STRANGER).await;

    let call = pair.dial(&session, CallOptions::from(OTHER)).await;
    let incoming = pair.rung().await;
    incoming.reject(486, None, &[], None).await.unwrap();
    call.final_status(PATIENCE).await.unwrap();
    pair.server.settled().await;
    talk(&pair, &session, CallOptions::from(FIRST), STRANGER).await;

    talk(&pair, &session, CallOptions::from(OTHER), FIRST).await;
    talk(&pair, &session, CallOptions::from(FIRST), OTHER).await;
    // Nobody else is rung in the place of somebody without a number.
    talk(&pair, &session, CallOptions::anonymous(), FIRST).await;
    in_vain(&pair, &session).await;

    let uuid = session["session_uuid"].as_str().unwrap();
    let (status, answer) = pair
        .server
        .api("POST", &format!("Masking/Session/{uuid}/"), Some(&json!({ "second_party": SECOND })))
        .await;
    assert_eq!(status, 200, "{answer}");
    talk(&pair, &session, CallOptions::from(FIRST), SECOND).await;
    talk(&pair, &session, CallOptions::from(SECOND), FIRST).await;
    assert_eq!((pair.caller.faults().await, pair.callee.faults().await), (vec![], vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_record_of_a_call_back_names_both_ends() {
    let pair = Pair::start().await;
    let session = session(&pair).await;
    talk(&pair, &session, CallOptions::from(STRANGER), FIRST).await;
    talk(&pair, &session, CallOptions::from(FIRST), STRANGER).await;
    let (first, second) = pair.server.last_legs(&session).await;
    assert_eq!(first["from_number"], FIRST.trim_start_matches('+'));
    assert_eq!(second["to_number"], STRANGER.trim_start_matches('+'));
}

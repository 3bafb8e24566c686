//! What was told, and what was given up, is told again when its owner asks for it.

use crate::common::receiver::{Mood, Receiver, assert_in_order};
use crate::common::{FIRST, Server, phone, until, until_asked};
use crate::fields::assert_complete;
use crate::{server, talk, uuid};
use maskline::clock;
use maskline::store::{Attempt, Lease, Stream};
use serde_json::{Value, json};
use std::time::Duration;

/// The session's one event, once it is so far.
async fn event(server: &Server, session: &str, state: &str) -> Value {
    let path = format!("Event/?session_uuid={session}&state={state}");
    until_asked(state, async || {
        let (_, answer) = server.api("GET", &path, None).await;
        answer["response"]["objects"].as_array().and_then(|events| events.first().cloned())
    })
    .await
}

async fn replay(server: &Server, event: &Value) -> u16 {
    let path = format!("Event/{}/Replay/", event["event_uuid"].as_str().unwrap());
    server.api("POST", &path, None).await.0
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivered_event_comes_again_as_it_was() {
    let callee = phone("callee").await;
    let server = server(&callee).await;
    let receiver = Receiver::start(&server.door().2, |_| Mood::Take).await;
    let session = server.session(json!({ "callback_url": receiver.url, "session_expiry": 1 })).await;
    let delivered = event(&server, &uuid(&session), "delivered").await;
    assert_eq!((&delivered["attempts"], &delivered["last_status"]), (&json!(1), &json!(200)));
    assert_eq!(replay(&server, &delivered).await, 200);
    until("it comes again", || (receiver.came().len() == 2).then_some(())).await;
    let came = receiver.came();
    came.iter().for_each(assert_complete);
    assert_eq!(came[0].parameters, came[1].parameters, "SequenceNumber and time too");
    assert!(came.iter().all(|one| delivered["event_uuid"] == one.uuid.as_str()));
    let again = event(&server, &uuid(&session), "delivered").await;
    assert_eq!(again["attempts"], 1, "since the replay");
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_come_in_order_once_their_receiver_is_mended() {
    let (caller, callee) = (phone("caller").await, phone("callee").await);
    let server = server(&callee).await;
    let broken = Receiver::start(&server.door().2, |_| Mood::Refuse).await;
    let mended = Receiver::start(&server.door().2, |_| Mood::Take).await;
    let session = server.session(json!({ "callback_url": broken.url, "record": false })).await;
    let session_uuid = uuid(&session);
    talk(&caller, &callee, &server, &session, FIRST).await;
    server.settled().await;
    until("an attempt fails", || (!broken.came().is_empty()).then_some(())).await;
    // A day later they are given up. The courier is the one who does so: here in its place, a day ahead of it.
    let store = &server.service.shell().store;
    let stream = Stream { session: session_uuid.parse().unwrap(), channel: "call".into() };
    let tomorrow = clock::wall_now() + Duration::from_secs(24 * 3600 + 60);
    let lease = Lease { owner: stream.session, until: tomorrow + Duration::from_secs(60) };
    let mut next = store.claim_stream(stream.clone(), lease, tomorrow).await.unwrap();
    assert!(next.is_some());
    while let Some(event) = next {
        let attempt = Attempt::Failed { status: Some(500), reason: "given up", retry_at: None };
        next = store.settle_event(stream.clone(), lease, event.uuid, attempt, tomorrow).await.unwrap();
    }
    let path = format!("Event/?session_uuid={session_uuid}");
    let (_, answer) = server.api("GET", &path, None).await;
    let events = answer["response"]["objects"].as_array().unwrap().clone();
    let dead = |event: &Value| event["state"] == "dead" && event["last_failure"] == "given up";
    assert!(events.len() == 6 && events.iter().all(dead), "{events:?}");

    // The application mends its URL and asks for what it has missed.
    let path = format!("Masking/Session/{session_uuid}/");
    let (status, _) = server.api("POST", &path, Some(&json!({ "callback_url": mended.url }))).await;
    assert_eq!(status, 200);
    let body = json!({ "session_uuid": session_uuid });
    let (status, answer) = server.api("POST", "Event/Replay/", Some(&body)).await;
    assert_eq!((status, &answer["count"]), (200, &json!(6)));
    until("all have come", || (mended.taken(&session_uuid).len() == 6).then_some(())).await;
    let came = mended.came();
    assert_eq!(came.iter().map(|one| one.sequence()).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
    came.iter().for_each(assert_complete);
    assert_in_order(&came);
    let mut uuids: Vec<&str> = came.iter().map(|one| one.uuid.as_str()).collect();
    uuids.reverse();
    assert_eq!(uuids, events.iter().map(|event| event["event_uuid"].as_str().unwrap()).collect::<Vec<_>>());
    assert_eq!(server.api("POST", "Event/Replay/", Some(&body)).await.1["count"], 0);
}

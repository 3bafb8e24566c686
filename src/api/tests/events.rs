//! The Event resource: what was told, what waits, and how it is told again.

use super::*;
use crate::callbacks::event::{CallEvent, Happening, PinStatus, Subject};
use crate::store::{Attempt, Lease, Note, StoredEvent, Stream};

const URL: &str = "https://app.example/cb";

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(START + second).unwrap()
}

/// A session that wants to be told, and the names of two things that happened in it.
async fn told(service: &Service, parties: Value) -> (Uuid, Stream) {
    let uuid = service.session(with(parties, json!({"callback_url": URL}))).await;
    let uuid = Uuid::parse_str(&uuid).unwrap();
    let session = service.store.find_session(ID, uuid).await.unwrap().unwrap();
    let subject = Subject::of(&session);
    let event = |happening| CallEvent {
        interaction: Some(Uuid::nil()),
        from: session.first_party.clone(),
        to: session.second_party.clone(),
        virtual_number: Some(session.virtual_number.clone()),
        ..CallEvent::new(uuid, 0, &subject, happening, at(10))
    };
    note(service, vec![event(Happening::Answered(PartyRole::First)), event(Happening::SecondPartyRings)])
        .await;
    (uuid, Stream { session: uuid, channel: "call".into() })
}

async fn note(service: &Service, events: Vec<CallEvent>) {
    service.store.note(events.into_iter().map(|event| Note::Event(Box::new(event))).collect()).unwrap();
    // The writer has one queue: what is answered after it is stored after it.
    service.store.heartbeat(at(0)).await.unwrap();
}

fn lease() -> Lease {
    Lease { owner: Uuid::from_u128(1), until: at(1000) }
}

async fn claimed(service: &Service, stream: &Stream) -> StoredEvent {
    service.store.claim_stream(stream.clone(), lease(), at(20)).await.unwrap().unwrap()
}

/// An attempt at `event`; the one after it.
async fn settled(
    service: &Service,
    stream: &Stream,
    event: &StoredEvent,
    attempt: Attempt,
) -> Option<StoredEvent> {
    service.store.settle_event(stream.clone(), lease(), event.uuid, attempt, at(21)).await.unwrap()
}

const TAKEN: Attempt = Attempt::Delivered { status: 204 };
const GIVEN_UP: Attempt = Attempt::Failed { status: Some(503), reason: "no", retry_at: None };

async fn listed(service: &Service, query: &str) -> Vec<String> {
    let answer = service.get(&format!("Event/?{query}")).await;
    assert_eq!(answer.status, 200, "{query}: {}", answer.body);
    let response = &answer.body["response"];
    let objects = response["objects"].as_array().unwrap();
    assert!(response["meta"]["total_count"].as_u64().unwrap() >= objects.len() as u64);
    let line = |event: &Value| {
        let name = event["event_name"].as_str().unwrap().trim_start_matches("Session");
        format!("{} {name} {}", event["sequence_number"], event["state"].as_str().unwrap())
    };
    objects.iter().map(line).collect()
}

async fn post(service: &Service, path: &str, body: Value) -> (u16, Value) {
    let answer = service.call(Method::POST, path, body).await;
    (answer.status, answer.body)
}

#[tokio::test]
async fn an_event_shows_what_is_sent_and_how_far_it_is() {
    let service = Service::start(1).await;
    at_start(async {
        let (session, stream) = told(&service, pair()).await;
        let event = claimed(&service, &stream).await;
        let retry_at = Some(at(30));
        let failed = Attempt::Failed { status: Some(500), reason: "it did not want to", retry_at };
        assert_eq!(settled(&service, &stream, &event, failed).await, None);
        let (uuid, path) = (event.uuid, format!("Event/{}/", event.uuid));
        let read = service.get(&path).await;
        assert_eq!(read.status, 200);
        let wanted = json!({
            "event_uuid": uuid, "event_name": "SessionFirstPartyAnswer", "session_uuid": session,
            "sequence_number": 1, "event_time": "2024-02-01 06:28:25 +0000 UTC", "state": "pending",
            "attempts": 1, "last_attempt_time": "2024-02-01 06:28:36 +0000 UTC", "settled_time": null,
            "last_status": 500, "last_failure": "it did not want to", "callback_url": URL,
            "callback_method": "POST",
            "parameters": {
                "EventName": "SessionFirstPartyAnswer", "EventTimestamp": "2024-02-01 06:28:25 +0000 UTC",
                "SessionUUID": session, "From": "12125550001", "To": "12125550002",
                "VirtualNumber": "12025550100", "SequenceNumber": "1",
            },
            "resource_uri": format!("/v1/Account/{ID}/Event/{uuid}/"),
        });
        assert_eq!(read.body["response"].to_string(), wanted.to_string());
        let list = service.get(&format!("Event/?session_uuid={session}")).await.body;
        assert_eq!(list["response"]["objects"][1], wanted);
    })
    .await;
}

#[tokio::test]
async fn a_delivered_event_and_a_dead_letter_are_sent_again() {
    let service = Service::start(1).await;
    at_start(async {
        let (_, stream) = told(&service, pair()).await;
        let first = claimed(&service, &stream).await;
        let replay = format!("Event/{}/Replay/", first.uuid);
        let answer = service.call(Method::POST, &replay, Value::Null).await;
        let waits = "Only an event that was delivered or given up can be sent again.";
        assert_eq!((answer.status, answer.error()), (400, waits));
        let second = settled(&service, &stream, &first, GIVEN_UP).await.unwrap();
        assert_eq!(settled(&service, &stream, &second, TAKEN).await, None);
        assert_eq!(listed(&service, "").await, ["2 SecondPartyRing delivered", "1 FirstPartyAnswer dead"]);
        for event in [&first, &second] {
            let (status, body) = post(&service, &format!("Event/{}/Replay", event.uuid), Value::Null).await;
            assert_eq!(
                (status, &body["message"], &body["count"]),
                (200, &json!("Event replayed"), &json!(1))
            );
            let (status, _) = post(&service, &format!("Event/{}/Replay/", event.uuid), json!({})).await;
            assert_eq!(status, 400, "it waits already");
        }
        assert_eq!(listed(&service, "state=pending").await.len(), 2);
        // The same events, with the same numbers, in order.
        let again = claimed(&service, &stream).await;
        assert_eq!((again.uuid, again.sequence, again.attempts), (first.uuid, 1, 0));
        assert_eq!(again.sent("https://h"), first.sent("https://h"));
        let last = settled(&service, &stream, &again, TAKEN).await.unwrap();
        assert_eq!((last.uuid, last.sequence), (second.uuid, 2));
        assert_eq!(settled(&service, &stream, &last, TAKEN).await, None);
        assert_eq!(listed(&service, "state=delivered").await.len(), 2);
    })
    .await;
}

#[tokio::test]
async fn dead_letters_are_sent_again_all_at_once_or_those_of_a_session() {
    let service = Service::start(2).await;
    at_start(async {
        let other = json!({"first_party": "12125550003", "second_party": "12125550004"});
        let mut sessions = vec![];
        for parties in [pair(), other] {
            let (session, stream) = told(&service, parties).await;
            let first = claimed(&service, &stream).await;
            let second = settled(&service, &stream, &first, GIVEN_UP).await.unwrap();
            assert_eq!(settled(&service, &stream, &second, GIVEN_UP).await, None);
            sessions.push(session);
        }
        assert_eq!(listed(&service, "state=dead").await.len(), 4);
        let all = async |body: Value| {
            let (status, answer) = post(&service, "Event/Replay/", body).await;
            (status, answer["count"].clone())
        };
        assert_eq!(all(json!({"session_uuid": sessions[0]})).await, (200, json!(2)));
        assert_eq!(all(json!({"session_uuid": sessions[0]})).await, (200, json!(0)));
        assert_eq!(all(json!({})).await, (200, json!(2)));
        assert_eq!(all(json!({"session_uuid": "x"})).await.0, 400);
        assert_eq!(listed(&service, "state=pending").await.len(), 4);
    })
    .await;
}

#[tokio::test]
async fn events_are_their_owners_alone() {
    let service = Service::start(1).await;
    at_start(async {
        let (session, stream) = told(&service, pair()).await;
        let event = claimed(&service, &stream).await;
        settled(&service, &stream, &event, GIVEN_UP).await.unwrap();
        let other = async |method: Method, account: &str, rest: &str| {
            let path = format!("/v1/Account/{account}/{rest}");
            service.raw(method, &path, Some(basic(OTHER, "other")), "").await
        };
        for (method, rest) in [
            (Method::GET, format!("Event/{}/", event.uuid)),
            (Method::POST, format!("Event/{}/Replay/", event.uuid)),
            (Method::GET, "Event/no-uuid/".to_owned()),
        ] {
            let answer = other(method.clone(), OTHER, &rest).await;
            assert_eq!((answer.status, answer.error()), (404, "Event not found."), "{rest}");
            assert_eq!(other(method, ID, &rest).await.status, 401, "{rest}");
        }
        for query in [String::new(), format!("?session_uuid={session}")] {
            let answer = other(Method::GET, OTHER, &format!("Event/{query}")).await;
            assert_eq!(answer.body["response"]["objects"], json!([]));
        }
        let answer = other(Method::POST, OTHER, "Event/Replay/").await;
        assert_eq!((answer.status, &answer.body["count"]), (200, &json!(0)));
        assert_eq!(listed(&service, "state=dead").await.len(), 1, "it is still dead");
    })
    .await;
}

#[tokio::test]
async fn an_event_that_no_session_is_meant_by_is_kept_and_sent_nowhere() {
    let service = Service::start(1).await;
    at_start(async {
        let happening = Happening::Pin { status: PinStatus::Failed, retries: 0 };
        let event = CallEvent::new(Uuid::nil(), 0, &Subject::account(ID.into()), happening, at(5));
        note(&service, vec![event.clone()]).await;
        assert_eq!(listed(&service, "state=kept").await, ["0 PinAuthenticationStatus kept"]);
        let shown = service.get(&format!("Event/{}/", event.uuid)).await.body["response"].clone();
        for (name, value) in
            [("session_uuid", json!(null)), ("callback_url", json!("")), ("settled_time", json!(null))]
        {
            assert_eq!(shown[name], value, "{name}");
        }
        assert_eq!(shown["parameters"].get("SequenceNumber"), None);
        assert_eq!(post(&service, &format!("Event/{}/Replay/", event.uuid), Value::Null).await.0, 400);
        assert_eq!(post(&service, "Event/Replay/", json!({})).await.1["count"], 0);
        let answer = service.get("Event/?state=lost").await;
        let text = "Invalid parameter. state allowed values are pending, delivered, dead or kept.";
        assert_eq!((answer.status, answer.error()), (400, text));
    })
    .await;
}

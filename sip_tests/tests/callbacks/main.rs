//! Callbacks: what a receiver is told of calls and sessions, and that it is told all of it, whatever fails.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests may panic like tests")]

#[path = "../common/mod.rs"]
mod common;

mod fields;
mod replay;

use common::child::{AUTH_TOKEN, Process, configure, serve_if_child};
use common::receiver::{Callback, Mood, Receiver, assert_in_order};
use common::talk::more_packets;
use common::{FIRST, PATIENCE, SECOND, STRANGER, Server, Setup, phone, until, until_asked};
use serde_json::{Value, json};
use sip_tests::patterns::Pattern;
use sip_tests::phone::{CallOptions, Phone, PhoneConfig};
use sip_tests::sdp::SdpOptions;
use std::collections::BTreeSet;
use std::time::Duration;

/// The service of the test below, in the process that it starts; nothing in any other.
#[test]
fn child() {
    serve_if_child();
}

async fn server(callee: &Phone) -> Server {
    let http = "fetch_allow = [\"127.0.0.0/8\"]";
    Server::with(callee.address(), Setup { http, numbers: 2, ..Setup::default() }).await
}

fn uuid(session: &Value) -> String {
    session["session_uuid"].as_str().unwrap().to_owned()
}

/// One call of FIRST that is answered by the other side and hung up by the caller.
async fn talk(caller: &Phone, callee: &Phone, server: &Server, session: &Value, from: &str) {
    let number = Server::number(session);
    let call = caller.call(server.sip, &number, CallOptions::from(from)).await.unwrap();
    let incoming = callee.next_call(PATIENCE).await.unwrap();
    incoming.ring().await.unwrap();
    call.ringing(PATIENCE).await.unwrap();
    incoming.answer(SdpOptions::default()).await.unwrap();
    call.answered(PATIENCE).await.unwrap();
    incoming.wait_ack(PATIENCE).await.unwrap();
    more_packets(call.media(), 3).await;
    call.hang_up().await.unwrap();
    incoming.wait_bye(PATIENCE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_told_in_order_with_both_numbers_and_the_role_of_each_party() {
    let (caller, callee) = (phone("caller").await, phone("callee").await);
    let server = server(&callee).await;
    let receiver = Receiver::start(&server.door().2, |_| Mood::Take).await;
    let session =
        server.session(json!({ "callback_url": receiver.url, "recording_callback_url": receiver.url })).await;
    let told = async |last: &str, times: usize| {
        until("the last event", || {
            let names = receiver.taken(&uuid(&session));
            (names.iter().filter(|name| *name == last).count() == times).then_some(names)
        })
        .await
    };
    let without_recording = |names: Vec<String>| -> Vec<String> {
        names.into_iter().filter(|name| !name.contains("RecordingCompleted")).collect()
    };
    talk(&caller, &callee, &server, &session, FIRST).await;
    assert_eq!(
        without_recording(told("SessionPartiesHangup", 1).await),
        [
            "SessionSecondPartyRing",
            "SessionFirstPartyAnswer",
            "SessionSecondPartyAnswer",
            "SessionRecordingInitiated",
            "SessionFirstPartyHangup",
            "SessionSecondPartyHangup",
            "SessionPartiesHangup",
        ]
    );
    let came = receiver.came();
    assert!(came.iter().all(|callback| callback.signed), "a signature is wrong");
    for callback in &came {
        assert_eq!((callback.get("From"), callback.get("To")), (&FIRST[1..], &SECOND[1..]));
        assert_eq!(callback.get("VirtualNumber"), &Server::number(&session)[1..]);
        assert!(callback.get("EventTimestamp").ends_with(" +0000 UTC"), "{callback:?}");
    }
    let hangup = came.iter().find(|one| one.get("EventName") == "SessionFirstPartyHangup").unwrap();
    for (name, value) in [
        ("Amount", "0"),
        ("BilledDuration", "60"),
        ("PlivoHangupCause", "Normal Hangup"),
        ("PlivoHangupCauseCode", "4000"),
    ] {
        assert_eq!(hangup.get(name), value, "{name}");
    }

    // The other way round: first and second are roles; of the first party's ringing nothing is told.
    let earlier = receiver.taken(&uuid(&session)).len();
    talk(&caller, &callee, &server, &session, SECOND).await;
    let names = told("SessionPartiesHangup", 2).await.split_off(earlier);
    assert_eq!(
        without_recording(names),
        [
            "SessionSecondPartyAnswer",
            "SessionFirstPartyAnswer",
            "SessionRecordingInitiated",
            "SessionSecondPartyHangup",
            "SessionFirstPartyHangup",
            "SessionPartiesHangup",
        ]
    );
    let sequence: Vec<u64> = receiver.came().iter().map(Callback::sequence).collect();
    assert!(sequence.is_sorted(), "{sequence:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pins_are_told_by_get_and_an_answer_follows_the_right_one() {
    let (caller, callee) = (phone("caller").await, phone("callee").await);
    let server = server(&callee).await;
    let receiver = Receiver::start(&server.door().2, |_| Mood::Take).await;
    let session = server
        .session(json!({
            "record": false, "callback_url": receiver.url, "callback_method": "GET", "pin_retry": 1,
            "is_pin_authentication_required": true, "first_party_pin": "4407", "second_party_pin": "9115",
        }))
        .await;
    let number = Server::number(&session);
    let call = caller.call(server.sip, &number, CallOptions::from(STRANGER)).await.unwrap();
    call.answered(PATIENCE).await.unwrap();
    call.media().dtmf("0000", Pattern::ALL[0]).await;
    let told = async |name: &str| {
        until(name, || receiver.came().into_iter().rfind(|callback| callback.get("EventName") == name)).await
    };
    let failed = told("SessionPinAuthenticationStatus").await;
    assert_eq!((failed.get("PinAuthenticationStatus"), failed.get("PinRetryCounter")), ("failed", "0"));
    assert_eq!((failed.get("From"), failed.get("To")), (&STRANGER[1..], ""));
    // Typed while nobody listens; it is judged when the next prompt is due.
    call.media().dtmf("4407", Pattern::ALL[0]).await;
    let incoming = callee.next_call(PATIENCE).await.unwrap();
    incoming.ring().await.unwrap();
    incoming.answer(SdpOptions::default()).await.unwrap();
    incoming.wait_ack(PATIENCE).await.unwrap();
    call.hang_up().await.unwrap();
    incoming.wait_bye(PATIENCE).await.unwrap();
    told("SessionPartiesHangup").await;
    assert_eq!(
        receiver.taken(&uuid(&session)),
        [
            "SessionPinAuthenticationStatus",
            "SessionPinAuthenticationStatus",
            "SessionFirstPartyAnswer",
            "SessionSecondPartyRing",
            "SessionSecondPartyAnswer",
            "SessionFirstPartyHangup",
            "SessionSecondPartyHangup",
            "SessionPartiesHangup",
        ]
    );
    let came = receiver.came();
    assert_eq!((came[1].get("PinAuthenticationStatus"), came[1].get("PinRetryCounter")), ("success", "1"));
    assert_eq!((came[1].get("From"), came[1].get("To")), (&STRANGER[1..], &SECOND[1..]));
    assert!(came.iter().all(|callback| callback.signed && callback.get("app") == "1"), "{came:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_is_not_there_delays_nobody_else() {
    let callee = phone("callee").await;
    let server = server(&callee).await;
    let receiver = Receiver::start(&server.door().2, |_| Mood::Take).await;
    // Nobody listens there; and a redirect would not be followed anyway.
    let gone = server.session(json!({ "callback_url": "http://127.0.0.1:9/cb", "session_expiry": 1 })).await;
    let good = json!({
        "callback_url": receiver.url, "session_expiry": 1,
        "first_party": "+12025550190", "second_party": "+12025550191",
    });
    let good = server.session(good).await;
    until("the good receiver is told", || (receiver.taken(&uuid(&good)) == ["SessionTimeout"]).then_some(()))
        .await;
    let path = format!("Event/?session_uuid={}", uuid(&gone));
    let event = until_asked("the other one was tried", async || {
        let (_, answer) = server.api("GET", &path, None).await;
        let event = answer["response"]["objects"][0].clone();
        (event["attempts"].as_u64() > Some(0)).then_some(event)
    })
    .await;
    assert_eq!((&event["state"], &event["last_status"]), (&json!("pending"), &Value::Null), "{event}");
    assert_eq!(event["last_failure"], "no connection to the receiver");
    let (status, _) =
        server.api("POST", &format!("Event/{}/Replay/", event["event_uuid"].as_str().unwrap()), None).await;
    assert_eq!(status, 400, "it still waits");
    let (_, answer) = server.api("POST", "Event/Replay/", Some(&json!({}))).await;
    assert_eq!(answer["count"], 0);
}

/// All events that the service knows of.
async fn listed(service: &Process, filter: &str) -> Vec<Value> {
    let mut events: Vec<Value> = vec![];
    loop {
        let (status, answer) =
            service.api("GET", &format!("Event/?offset={}{filter}", events.len()), None).await;
        assert_eq!(status, 200, "{answer}");
        let page = answer["response"]["objects"].as_array().unwrap().clone();
        if page.is_empty() {
            return events;
        }
        events.extend(page);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_event_arrives_in_order_although_half_fails_and_the_service_is_killed_20_times() {
    const KILLS: usize = 20;
    let callee = Phone::bind(PhoneConfig::named("callee")).await.unwrap();
    let caller = Phone::bind(PhoneConfig::named("caller")).await.unwrap();
    let folder = std::env::temp_dir().join(format!("maskline-callbacks-{:016x}", rand::random::<u64>()));
    let config = configure(&folder, callee.address());
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("[http]\n", "[http]\nfetch_allow = [\"127.0.0.0/8\"]\n")).unwrap();
    let receiver = Receiver::start(AUTH_TOKEN, |number| match number % 4 {
        1 => Mood::Refuse,
        3 => Mood::Hang,
        _ => Mood::Take,
    })
    .await;

    let mut sessions = BTreeSet::new();
    for round in 0..KILLS {
        let service = Process::start(&config).await;
        let first = format!("+1202555{:04}", 2000 + round);
        let body = json!({
            "first_party": first, "second_party": format!("+1202555{:04}", 3000 + round),
            "record": false, "callback_url": receiver.url, "session_expiry": 3,
        });
        let (status, session) = service.api("POST", "Masking/Session/", Some(&body)).await;
        assert_eq!(status, 201, "{session}");
        sessions.insert(uuid(&session));
        let options = CallOptions::from(&first);
        let call = caller.call(service.sip, &Server::number(&session), options).await.unwrap();
        let incoming = callee.next_call(PATIENCE).await.unwrap();
        incoming.ring().await.unwrap();
        incoming.answer(SdpOptions::default()).await.unwrap();
        call.answered(PATIENCE).await.unwrap();
        match round % 4 {
            // The answer may be stored by now, or not.
            0 => {}
            1 => drop(call.hang_up().await),
            // Until the delivery is under way.
            _ => {
                let known = receiver.came().len();
                until("a callback comes", || (receiver.came().len() > known).then_some(())).await;
            }
        }
        service.kill().await;
        call.media().stop();
        incoming.media().stop();
    }

    let service = Process::start(&config).await;
    let deadline = maskline::clock::now() + Duration::from_secs(90);
    let mut events;
    loop {
        events = listed(&service, "").await;
        let of = |name: &str| events.iter().filter(|event| event["event_name"] == name).count();
        let settled = events.iter().all(|event| event["state"] == "delivered");
        if settled && of("SessionTimeout") == KILLS {
            break;
        }
        assert!(maskline::clock::now() < deadline, "{events:#?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let came = receiver.came();
    assert!(came.iter().all(|callback| callback.signed), "a signature is wrong");
    assert!(
        came.iter().filter(|callback| callback.mood != Mood::Take).count() * 3 > came.len(),
        "half fails"
    );

    // Every event that the service has ever known was taken at least once.
    let taken: BTreeSet<(String, u64)> = came
        .iter()
        .filter(|callback| callback.mood == Mood::Take)
        .map(|callback| (callback.get("SessionUUID").to_owned(), callback.sequence()))
        .collect();
    for event in &events {
        let key = (uuid(event), event["sequence_number"].as_u64().unwrap());
        assert!(taken.contains(&key), "{event}");
    }
    assert_eq!(sessions, taken.iter().map(|(session, _)| session.clone()).collect());
    assert_in_order(&came);
    // A call whose process was killed has an end like any other.
    let ends = events.iter().filter(|event| event["event_name"] == "SessionPartiesHangup").count();
    assert!(ends >= KILLS / 2, "{ends} of {KILLS}");
    service.terminate().await;
    std::fs::remove_dir_all(&folder).unwrap();
}

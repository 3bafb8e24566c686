//! Two processes on one PostgreSQL: what is made by one serves calls on the other at once, and calls of a process that
//! dies get their records closed by the one that lives. Without a PostgreSQL it says so and does nothing.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests may panic like tests")]

mod common;

use common::child::{AUTH_TOKEN, Process, configure, serve_if_child};
use common::receiver::{Mood, Receiver, assert_in_order};
use common::talk::more_packets;
use common::{FIRST, PATIENCE, SECOND, until_asked};
use serde_json::{Value, json};
use sip_tests::phone::{CallOptions, IncomingCall, OutgoingCall, Phone, PhoneConfig};
use sip_tests::sdp::SdpOptions;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use std::path::{Path, PathBuf};

/// Where a PostgreSQL is on which tests may make databases; `sip_tests/with_postgres` sets it.
const VARIABLE: &str = "MASKLINE_TEST_POSTGRES";

/// A service of the test below, in a process that it starts; nothing in any other.
#[test]
fn child() {
    serve_if_child();
}

/// A database of this test's own: its URL.
async fn database() -> Option<String> {
    let Ok(server) = std::env::var(VARIABLE) else {
        eprintln!("{VARIABLE} is not set: two processes on PostgreSQL are not tested");
        return None;
    };
    let name = format!("maskline_{:016x}", rand::random::<u64>());
    let mut connection = PgConnection::connect(&server).await.unwrap();
    connection.execute(AssertSqlSafe(format!("CREATE DATABASE {name}"))).await.unwrap();
    let (address, query) = server.split_once('?').unwrap_or((&server, ""));
    Some(format!("{}/{name}?{query}", address.rsplit_once('/').unwrap().0))
}

/// The configuration of one of the processes.
fn node(folder: &Path, name: &str, ports: &str, database: &str, gateway: &Phone) -> PathBuf {
    let file = configure(&folder.join(name), gateway.address());
    let text = std::fs::read_to_string(&file).unwrap();
    let (before, rest) = text.split_once("url = \"").unwrap();
    let (_, after) = rest.split_once('"').unwrap();
    // Both must have the same key.
    let store = format!("url = \"{database}\"\nkey_file = \"{}\"", folder.join("maskline.key").display());
    // Callbacks go to receivers on loopback.
    let before = before.replace("[http]\n", "[http]\nfetch_allow = [\"127.0.0.0/8\"]\n");
    std::fs::write(&file, format!("[media]\nports = {ports}\n{before}{store}{after}")).unwrap();
    file
}

async fn talk(caller: &Phone, callee: &Phone, by: &Process, number: &str) -> (OutgoingCall, IncomingCall) {
    let call = caller.call(by.sip, number, CallOptions::from(FIRST)).await.unwrap();
    let incoming = callee.next_call(PATIENCE).await.unwrap();
    incoming.answer(SdpOptions::default()).await.unwrap();
    call.answered(PATIENCE).await.unwrap();
    more_packets(call.media(), 3).await;
    (call, incoming)
}

async fn session(node: &Process) -> Value {
    let parties = json!({ "first_party": FIRST, "second_party": SECOND, "record": false });
    let (status, session) = node.api("POST", "Masking/Session/", Some(&parties)).await;
    assert_eq!(status, 201, "{session}");
    session
}

/// The account's legs, as this process shows them.
async fn legs(node: &Process) -> Vec<Value> {
    let (status, answer) = node.api("GET", "Call/", None).await;
    assert_eq!(status, 200, "{answer}");
    answer["objects"].as_array().unwrap().clone()
}

/// Waits until there are so many legs and all have an end.
async fn all_ended(node: &Process, count: usize) -> Vec<Value> {
    until_asked("every leg has its end", async || {
        let legs = legs(node).await;
        (legs.len() == count && legs.iter().all(|leg| !leg["end_time"].is_null())).then_some(legs)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_made_on_one_node_serves_calls_on_the_other() {
    let Some(database) = database().await else { return };
    let callee = Phone::bind(PhoneConfig::named("callee")).await.unwrap();
    let caller = Phone::bind(PhoneConfig::named("caller")).await.unwrap();
    let folder = std::env::temp_dir().join(format!("maskline-nodes-{:016x}", rand::random::<u64>()));
    let one = Process::start(&node(&folder, "one", "[16384, 18382]", &database, &callee)).await;
    let two = Process::start(&node(&folder, "two", "[18384, 20382]", &database, &callee)).await;

    // Made on either, used on either, at once, and gone at once.
    for (made_on, called_on) in [(&one, &two), (&two, &one), (&one, &one)] {
        let session = session(made_on).await;
        let number = session["virtual_number"].as_str().unwrap();
        let (call, incoming) = talk(&caller, &callee, called_on, number).await;
        call.bye().await.unwrap();
        incoming.wait_bye(PATIENCE).await.unwrap();
        let path = format!("Masking/Session/{}/", session["session_uuid"].as_str().unwrap());
        assert_eq!(made_on.api("DELETE", &path, None).await.0 / 100, 2);
        let call = caller.call(called_on.sip, number, CallOptions::from(FIRST)).await.unwrap();
        assert_eq!(call.final_status(PATIENCE).await.unwrap().status(), Some(404));
    }
    // Three calls of two legs, and three that nobody took.
    all_ended(&one, 9).await;

    // The second one dies in the middle of a call, which the first one closes.
    let session = session(&one).await;
    let (call, incoming) = talk(&caller, &callee, &two, session["virtual_number"].as_str().unwrap()).await;
    until_asked("the call is recorded", async || (legs(&one).await.len() == 11).then_some(())).await;
    two.kill().await;
    call.media().stop();
    incoming.media().stop();
    let legs = all_ended(&one, 11).await;
    let orphans = legs.iter().filter(|leg| leg.to_string().contains("process ended")).count();
    assert_eq!(orphans, 2, "{legs:?}");
    one.terminate().await;
    let _ = std::fs::remove_dir_all(&folder);
}

/// All events of a session, as this process shows them, oldest first.
async fn events(node: &Process, session: &str) -> Vec<Value> {
    let (status, answer) = node.api("GET", &format!("Event/?session_uuid={session}"), None).await;
    assert_eq!(status, 200, "{answer}");
    let mut events = answer["response"]["objects"].as_array().unwrap().clone();
    events.sort_by_key(|event| event["sequence_number"].as_u64());
    events
}

#[tokio::test(flavor = "multi_thread")]
async fn what_two_nodes_have_to_tell_comes_in_order_and_from_one_at_a_time() {
    const SESSIONS: usize = 6;
    let Some(database) = database().await else { return };
    let callee = Phone::bind(PhoneConfig::named("callee")).await.unwrap();
    let caller = Phone::bind(PhoneConfig::named("caller")).await.unwrap();
    let folder = std::env::temp_dir().join(format!("maskline-nodes-{:016x}", rand::random::<u64>()));
    let one = Process::start(&node(&folder, "one", "[20384, 22382]", &database, &callee)).await;
    let two = Process::start(&node(&folder, "two", "[22384, 24382]", &database, &callee)).await;
    let receiver = Receiver::start(AUTH_TOKEN, |number| match number % 7 {
        1 => Mood::Refuse,
        3 => Mood::Hang,
        _ => Mood::Take,
    })
    .await;

    // Each session has a call on either node at the same time, and an end that either may notice.
    let mut sessions = vec![];
    for index in 0..SESSIONS {
        let (made_on, other) = if index % 2 == 0 { (&one, &two) } else { (&two, &one) };
        let body = json!({
            "first_party": FIRST, "second_party": SECOND, "record": false, "callback_url": receiver.url,
            "session_expiry": 600,
        });
        let (status, session) = made_on.api("POST", "Masking/Session/", Some(&body)).await;
        assert_eq!(status, 201, "{session}");
        let number = session["virtual_number"].as_str().unwrap();
        let (first, rung) = talk(&caller, &callee, made_on, number).await;
        let (second, rung_too) = talk(&caller, &callee, other, number).await;
        for (call, incoming) in [(first, rung), (second, rung_too)] {
            call.bye().await.unwrap();
            incoming.wait_bye(PATIENCE).await.unwrap();
        }
        let uuid = session["session_uuid"].as_str().unwrap().to_owned();
        let path = format!("Masking/Session/{uuid}/");
        let (status, _) = other.api("POST", &path, Some(&json!({ "session_expiry": 1 }))).await;
        assert_eq!(status, 200);
        until_asked("it is over", async || {
            (made_on.api("GET", &path, None).await.1["response"]["status"] == "expired").then_some(())
        })
        .await;
        sessions.push(uuid);
    }

    // Two calls of an answer of each party and three ends, and the session's own end.
    const EVENTS: usize = 2 * 5 + 1;
    for uuid in &sessions {
        let shown = until_asked("all is told", async || {
            let events = events(&one, uuid).await;
            let is_told = |event: &Value| event["state"] == "delivered";
            (events.len() == EVENTS && events.iter().all(is_told)).then_some(events)
        })
        .await;
        let numbers: Vec<_> = shown.iter().map(|event| event["sequence_number"].as_u64().unwrap()).collect();
        assert_eq!(numbers, (1..=EVENTS as u64).collect::<Vec<_>>(), "one count for both nodes");
        assert_eq!(shown, events(&two, uuid).await, "both show the same");
        let taken = receiver.taken(uuid);
        let names: Vec<_> = shown.iter().map(|event| event["event_name"].as_str().unwrap()).collect();
        let mut rest = taken.iter();
        assert!(names.iter().all(|name| rest.any(|taken| taken == name)), "{names:?} in {taken:?}");
    }
    let came = receiver.came();
    assert!(came.iter().all(|callback| callback.signed), "a signature is wrong");
    assert!(came.len() > SESSIONS * EVENTS, "some were refused");
    assert_in_order(&came);
    one.terminate().await;
    two.terminate().await;
    let _ = std::fs::remove_dir_all(&folder);
}

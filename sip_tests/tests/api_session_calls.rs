//! What the API tells of a session's calls, while they live and afterwards, and how it ends them.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests may panic like tests")]

mod common;

use common::talk::{Pair, hang_up, wav};
use common::{FIRST, PATIENCE, SECOND, STRANGER, Scene, Server, phone, until};
use serde_json::{Value, json};
use sip_tests::agent::End;
use sip_tests::audio::{Voice, speech};
use sip_tests::phone::CallOptions;
use sip_tests::sdp::SdpOptions;
use std::collections::BTreeSet;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

fn digits(number: &str) -> &str {
    number.trim_start_matches('+')
}

async fn status(server: &Server, session: &Value) -> String {
    let path = format!("Masking/Session/{}/", session["session_uuid"].as_str().unwrap());
    let (status, answer) = server.api("GET", &path, None).await;
    assert_eq!(status, 200, "{answer}");
    answer["response"]["status"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_calls_records_are_there_when_it_is_over() {
    let scene = Scene::new().await;
    let (server, number) = (&scene.server, digits(&scene.number));
    for caller_hangs_up in [true, false] {
        let (call, incoming) = scene.talk().await;
        scene.both_hear(&call, &incoming).await;
        if caller_hangs_up {
            call.hang_up().await.unwrap();
            incoming.wait_bye(PATIENCE).await.unwrap();
        } else {
            incoming.hang_up().await.unwrap();
            call.wait_bye(PATIENCE).await.unwrap();
        }
        let (first, second) = server.last_legs(&scene.session).await;
        let source = if caller_hangs_up { "Caller" } else { "Callee" };
        for leg in [&first, &second] {
            assert_eq!(
                (&leg["hangup_cause_name"], &leg["hangup_cause_code"]),
                (&json!("Normal Hangup"), &json!(4000))
            );
            assert_eq!((&leg["hangup_source"], &leg["call_state"]), (&json!(source), &json!("ANSWER")));
            assert_eq!(leg["session_uuid"], scene.session["session_uuid"]);
            assert!(leg["bill_duration"].as_u64().unwrap() >= 1);
            assert!(
                leg["packets_received"].as_u64().unwrap() > 0 && leg["packets_sent"].as_u64().unwrap() > 0
            );
            for time in ["initiation_time", "ringing_time", "answer_time", "end_time"] {
                assert!(leg[time].is_string(), "{time}: {leg}");
            }
        }
        assert_eq!((&first["from_number"], &first["to_number"]), (&json!(digits(FIRST)), &json!(number)));
        assert_eq!((&second["from_number"], &second["to_number"]), (&json!(number), &json!(digits(SECOND))));
        assert_eq!(
            (&first["call_direction"], &second["call_direction"]),
            (&json!("inbound"), &json!("outbound"))
        );
        assert_eq!(first["interaction_uuid"], second["interaction_uuid"]);
        assert_eq!(second["parent_call_uuid"], first["call_uuid"]);
    }
    let (_, listed) = server.api("GET", "Call/?limit=20", None).await;
    assert_eq!(listed["objects"].as_array().unwrap().len(), 4);
    for nobody in ["Call/00000000-0000-4000-8000-000000000000/", "Call/nonsense/"] {
        assert_eq!(server.api("GET", nobody, None).await.0, 404);
    }
    scene.no_faults().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_shows_that_a_call_is_up() {
    let scene = Scene::new().await;
    assert_eq!(status(&scene.server, &scene.session).await, "active");
    let (call, incoming) = scene.talk().await;
    common::until_asked("the call shows", async || {
        (status(&scene.server, &scene.session).await == "in-progress").then_some(())
    })
    .await;
    scene.hang_up(&call, &incoming).await;
    scene.server.settled().await;
    assert_eq!(status(&scene.server, &scene.session).await, "active");
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_a_session_with_hangup_ends_its_calls_and_no_other() {
    let scene = Scene::new().await;
    let server = &scene.server;
    let other = server
        .session(json!({ "first_party": STRANGER, "second_party": "+12025550178", "record": false }))
        .await;
    let number = Server::number(&other);
    let other_call = scene.caller.call(server.sip, &number, CallOptions::from(STRANGER)).await.unwrap();
    let other_incoming = scene.callee.next_call(PATIENCE).await.unwrap();
    other_incoming.answer(SdpOptions::default()).await.unwrap();
    other_call.answered(PATIENCE).await.unwrap();

    let (call, incoming) = scene.talk().await;
    let (ringing, rung) = scene.dial().await;
    rung.ring().await.unwrap();
    ringing.ringing(PATIENCE).await.unwrap();
    let uuid = scene.session["session_uuid"].as_str().unwrap();
    let path = format!("Masking/Session/{uuid}/?hangup=true");
    assert_eq!(server.api("DELETE", &path, None).await.0, 200);
    call.wait_bye(PATIENCE).await.unwrap();
    incoming.wait_bye(PATIENCE).await.unwrap();
    rung.wait_cancel(PATIENCE).await.unwrap();
    assert!(matches!(ringing.wait_end(PATIENCE).await.unwrap(), End::Refused(480 | 487)));
    until("one call is left", || (server.service.shell().live_calls() == 1).then_some(())).await;
    assert_eq!(other_call.end(), None);
    other_call.hang_up().await.unwrap();
    other_incoming.wait_bye(PATIENCE).await.unwrap();

    let (first, second) = server.last_legs(&scene.session).await;
    for leg in [first, second] {
        assert_eq!(
            (&leg["hangup_cause_name"], &leg["hangup_source"]),
            (&json!("Scheduled Hangup"), &json!("Maskline"))
        );
    }
    assert_eq!(status(server, &scene.session).await, "expired");
    scene.no_faults().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_ends_at_its_time_limit() {
    let (caller, callee) = (phone("caller").await, phone("callee").await);
    let server = Server::start(&callee).await;
    let session = server.session(json!({ "record": false, "call_time_limit": 1 })).await;
    let call = caller.call(server.sip, &Server::number(&session), CallOptions::from(FIRST)).await.unwrap();
    let incoming = callee.next_call(PATIENCE).await.unwrap();
    incoming.answer(SdpOptions::default()).await.unwrap();
    call.answered(PATIENCE).await.unwrap();
    call.wait_bye(PATIENCE).await.unwrap();
    incoming.wait_bye(PATIENCE).await.unwrap();
    let (first, second) = server.last_legs(&session).await;
    for leg in [first, second] {
        assert_eq!(leg["hangup_cause_name"], "Scheduled Hangup");
        assert_eq!(leg["hangup_source"], "Maskline");
        // In seconds begun, and the machine may be busy.
        assert!((1..=3).contains(&leg["bill_duration"].as_u64().unwrap()), "{leg}");
    }
    assert!(caller.faults().await.is_empty() && callee.faults().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_the_session_holds_for_the_next_call() {
    let scene = Scene::new().await;
    let uuid = scene.session["session_uuid"].as_str().unwrap();
    let body = json!({ "ring_timeout": 1 });
    let (status, answer) = scene.server.api("POST", &format!("Masking/Session/{uuid}/"), Some(&body)).await;
    assert_eq!(status, 200, "{answer}");
    let (call, incoming) = scene.dial().await;
    incoming.ring().await.unwrap();
    assert_eq!(call.final_status(PATIENCE).await.unwrap().status(), Some(480));
    incoming.wait_cancel(PATIENCE).await.unwrap();
}

/// A request to a URL of ours: status, head and body.
async fn fetch(server: &Server, url: &str, range: Option<&str>) -> (u16, String, Vec<u8>) {
    let (address, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    assert_eq!(address, server.service.http().to_string());
    let (_, user, password) = server.door();
    let token = common::base64(format!("{user}:{password}").as_bytes());
    let range = range.map(|range| format!("Range: {range}\r\n")).unwrap_or_default();
    let request = format!(
        "GET /{path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Basic {token}\r\n{range}Connection: close\r\n\r\n"
    );
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = vec![];
    stream.read_to_end(&mut answer).await.unwrap();
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap();
    let head = String::from_utf8(answer[..end].to_vec()).unwrap().to_ascii_lowercase();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), head, answer[end + 4..].to_vec())
}

/// Every URL and path of ours in an answer.
fn urls(value: &Value, base: &str, found: &mut Vec<String>) {
    match value {
        Value::String(text) if text.starts_with(base) => found.push(text.clone()),
        Value::String(text) if text.starts_with("/v1/") => found.push(format!("{base}{text}")),
        Value::Array(values) => values.iter().for_each(|value| urls(value, base, found)),
        Value::Object(fields) => fields.values().for_each(|value| urls(value, base, found)),
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_url_that_is_handed_out_can_be_fetched() {
    for (format, kind) in [("mp3", "audio/mpeg"), ("wav", "audio/wav")] {
        let pair = Pair::start().await;
        let server = &pair.server;
        let session = server.session(json!({ "record_file_format": format })).await;
        let (call, incoming) = pair.talk(&session).await;
        let (low, high) = (speech(Voice::Low, 81, 2000), speech(Voice::High, 82, 2000));
        tokio::join!(call.media().play(&low), incoming.media().play(&high));
        hang_up(&call, &incoming).await;
        let folder = server.recording(&[]).await;
        let recording = server.delivered(&folder).await;
        assert_eq!(recording["recording_format"], format);

        let base = format!("http://{}", server.service.http());
        let uuid = session["session_uuid"].as_str().unwrap();
        let (_, answer) = server.api("GET", &format!("Masking/Session/{uuid}/"), None).await;
        let (_, listed) = server.api("GET", "Masking/Session/", None).await;
        let mut waiting = vec![];
        urls(&answer, &base, &mut waiting);
        assert_eq!(waiting.len(), 3, "two legs and a recording: {answer}");
        urls(&listed, &base, &mut waiting);
        let (mut seen, mut sounds) = (BTreeSet::new(), vec![]);
        while let Some(url) = waiting.pop() {
            if !seen.insert(url.clone()) {
                continue;
            }
            let (status, head, body) = fetch(server, &url, None).await;
            assert_eq!(status, 200, "{url}: {head}");
            match serde_json::from_slice(&body) {
                Ok(answer) => urls(&answer, &base, &mut waiting),
                Err(_) => sounds.push((url, head, body)),
            }
        }
        assert_eq!(sounds.len(), 3, "the call and each leg");
        for (url, head, body) in sounds {
            let (file, kind) = match url.rsplit('/').next().unwrap() {
                leg @ ("a-leg.wav" | "b-leg.wav") => (leg.to_owned(), "audio/wav"),
                _ => (format!("call.{format}"), kind),
            };
            assert!(head.contains(&format!("content-type: {kind}")), "{head}");
            assert!(body == std::fs::read(folder.join(&file)).unwrap(), "{file}");
            let (status, head, part) = fetch(server, &url, Some("bytes=100-299")).await;
            assert_eq!((status, &part[..]), (206, &body[100..300]), "{head}");
        }
        // The mix holds both voices.
        if format == "wav" {
            let mixed = wav(&folder, "call.wav");
            let (a, b) = (wav(&folder, "a-leg.wav"), wav(&folder, "b-leg.wav"));
            let sum: Vec<i16> = a.iter().zip(&b).map(|(a, b)| a.saturating_add(*b)).collect();
            assert!(mixed == sum);
        }

        // Deleted, it is neither shown nor fetched nor on the disk.
        let id = recording["recording_id"].as_str().unwrap();
        assert_eq!(server.api("DELETE", &format!("Recording/{id}/"), None).await.0, 204);
        assert_eq!(fetch(server, recording["recording_url"].as_str().unwrap(), None).await.0, 404);
        until("the folder is gone", || (!folder.exists()).then_some(())).await;
        let interactions = server.interactions(&session).await;
        assert_eq!(interactions[0].get("recording_resource_url"), None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_a_live_call_hangs_up_both_its_legs() {
    let scene = Scene::new().await;
    let server = &scene.server;
    let (call, incoming) = scene.talk().await;
    let live = common::until_asked("both legs are live", async || {
        let (status, answer) = server.api("GET", "Call/?status=live", None).await;
        assert_eq!(status, 200, "{answer}");
        let calls = answer["calls"].as_array().unwrap().clone();
        (calls.len() == 2).then_some(calls)
    })
    .await;
    let uuid = live[0].as_str().unwrap();
    let shown = common::until_asked("the leg is in progress", async || {
        let (_, shown) = server.api("GET", &format!("Call/{uuid}/?status=live"), None).await;
        (shown["call_status"] == "in-progress").then_some(shown)
    })
    .await;
    assert_eq!(shown["call_uuid"], uuid);
    assert_eq!(server.api("DELETE", &format!("Call/{uuid}/"), None).await.0, 204);
    call.wait_bye(PATIENCE).await.unwrap();
    incoming.wait_bye(PATIENCE).await.unwrap();
    let (first, second) = server.last_legs(&scene.session).await;
    for leg in [first, second] {
        assert_eq!(leg["hangup_source"], "Maskline");
    }
    assert_eq!(server.api("DELETE", &format!("Call/{uuid}/"), None).await.0, 404);
    let (_, answer) = server.api("GET", "Call/?status=live", None).await;
    assert_eq!(answer["calls"], json!([]));
    scene.no_faults().await;
}

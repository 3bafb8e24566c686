//! The Call and the Recording resource.

use super::*;
use crate::masking::session::RecordFormat;
use crate::store::{Delivered, NewRecording, RecordingDone};
use axum::http::HeaderMap;

/// A recording of the session's call, ready to be fetched, with these bytes as its files.
async fn record(service: &Service, call: Uuid, session: Uuid, second: i64, format: RecordFormat) -> Uuid {
    let leg = service.store.find_leg(ID, call).await.unwrap().unwrap();
    let uuid = leg.opened.interaction;
    let place = std::fs::read_to_string(service.directory.join("recordings/.maskline")).unwrap();
    let directory = format!("2024/02/01/{uuid}");
    let folder = service.directory.join("recordings").join(&directory);
    std::fs::create_dir_all(&folder).unwrap();
    for file in ["call.mp3", "call.wav", "a-leg.wav", "b-leg.wav"] {
        std::fs::write(folder.join(file), format!("0123456789 {file}")).unwrap();
    }
    let at = Timestamp::from_second(START + second).unwrap();
    let new = NewRecording {
        interaction: uuid,
        account: Some(ID.into()),
        session: Some(session),
        call: Some(call),
        place: place.trim().into(),
        directory,
        format,
        added_at: at,
        started_at: Some(at),
        samples: 60_480,
        sample_rate_hz: 8000,
        complete: true,
    };
    service.store.add_recording(new).await.unwrap();
    uuid
}

async fn deliver(service: &Service, uuid: Uuid, format: RecordFormat) {
    let delivered = Delivered { format, samples: 60_480, complete: true, bytes: 19, sha256: "ab".repeat(32) };
    let done = RecordingDone {
        interaction: uuid,
        delivered: Some(delivered),
        at: Timestamp::UNIX_EPOCH,
        base: String::new(),
    };
    assert!(service.store.recording_done(done).await.unwrap().is_some());
}

/// Fetches something that is no JSON.
async fn fetch(service: &Service, rest: &str, range: Option<&str>) -> (u16, HeaderMap, String) {
    let mut request = Request::builder()
        .uri(format!("/v1/Account/{ID}/{rest}"))
        .header(header::AUTHORIZATION, basic(ID, TOKEN));
    if let Some(range) = range {
        request = request.header(header::RANGE, range);
    }
    let response = service.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    let (head, body) = response.into_parts();
    let bytes = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    (head.status.as_u16(), head.headers, String::from_utf8_lossy(&bytes).into_owned())
}

#[tokio::test]
async fn a_recording_is_shown_once_it_can_be_fetched() {
    let service = Service::start(1).await;
    at_start(async {
        let session = service.session(pair()).await;
        let session_uuid = Uuid::parse_str(&session).unwrap();
        let (call, _) = make_call(&service, &session, true).await;
        let uuid = record(&service, call, session_uuid, 20, RecordFormat::Mp3).await;
        let shown = async || {
            let answer = service.get(&format!("Masking/Session/{session}/")).await;
            answer.body["response"]["interaction"][0]["recording_resource_url"].clone()
        };
        for path in [
            format!("Recording/{uuid}/"),
            format!("Recording/{uuid}.mp3"),
            format!("Recording/{uuid}/a-leg.wav"),
        ] {
            let answer = service.get(&path).await;
            assert_eq!((answer.status, answer.error()), (404, "Recording not found."), "{path}");
        }
        assert_eq!(shown().await, Value::Null);
        deliver(&service, uuid, RecordFormat::Mp3).await;
        let base = format!("http://masking.example:8080/v1/Account/{ID}/Recording/{uuid}");
        assert_eq!(shown().await, json!(format!("{base}/")));
        let answer = service.get(&format!("Recording/{uuid}/")).await;
        assert_eq!(answer.status, 200);
        let mut body = answer.body.clone();
        body.as_object_mut().unwrap().shift_remove("api_id");
        let expected = json!({
            "add_time": "2024-02-01 06:28:35.000000+00:00",
            "call_uuid": call.to_string(),
            "conference_name": "",
            "from_number": "12125550002",
            "monthly_recording_storage_amount": 0,
            "recording_duration_ms": "7560.00000",
            "recording_end_ms": format!("{}560.00000", START + 27),
            "recording_format": "mp3",
            "recording_id": uuid.to_string(),
            "recording_start_ms": format!("{}000.00000", START + 20),
            "recording_storage_duration": 0,
            "recording_storage_rate": 0,
            "recording_type": "call",
            "recording_url": format!("{base}.mp3"),
            "resource_uri": format!("/v1/Account/{ID}/Recording/{uuid}/"),
            "rounded_recording_duration": 60,
            "to_number": "12025550100",
            "complete": true,
            "legs": [format!("{base}/a-leg.wav"), format!("{base}/b-leg.wav")],
            "session_uuid": session,
            "sha256": "ab".repeat(32),
        });
        assert_eq!(body.to_string(), expected.to_string());
        let other = format!("/v1/Account/{OTHER}/Recording/{uuid}");
        for end in ["/", ".mp3", "/a-leg.wav"] {
            let answer =
                service.raw(Method::GET, &format!("{other}{end}"), Some(basic(OTHER, "other")), "").await;
            assert_eq!(answer.status, 404, "{end}");
            let answer = service.raw(Method::GET, &format!("{other}{end}"), None, "").await;
            assert_eq!(answer.status, 401, "{end}");
        }
    })
    .await;
}

#[tokio::test]
async fn sound_is_sent_whole_or_in_ranges_and_only_what_there_is() {
    let service = Service::start(1).await;
    let session = service.session(pair()).await;
    let (call, _) = make_call(&service, &session, true).await;
    let uuid = record(&service, call, Uuid::parse_str(&session).unwrap(), 20, RecordFormat::Mp3).await;
    deliver(&service, uuid, RecordFormat::Mp3).await;
    for (file, name, kind) in [
        (format!("{uuid}.mp3"), "call.mp3", "audio/mpeg"),
        (format!("{uuid}.MP3"), "call.mp3", "audio/mpeg"),
        (format!("{uuid}/a-leg.wav"), "a-leg.wav", "audio/wav"),
        (format!("{uuid}/b-leg.wav"), "b-leg.wav", "audio/wav"),
    ] {
        let path = format!("Recording/{file}");
        let content = format!("0123456789 {name}");
        let (status, headers, body) = fetch(&service, &path, None).await;
        assert_eq!((status, &body), (200, &content), "{path}");
        assert_eq!(headers[header::CONTENT_TYPE], kind);
        assert_eq!(headers[header::ACCEPT_RANGES], "bytes");
        assert_eq!(headers[header::CONTENT_LENGTH], content.len().to_string());
        assert_eq!(headers[header::CACHE_CONTROL], "private, no-cache");
        // RFC 9110 §14.2.
        let (status, headers, body) = fetch(&service, &path, Some("bytes=2-4")).await;
        assert_eq!((status, body.as_str()), (206, "234"));
        assert_eq!(headers[header::CONTENT_RANGE], format!("bytes 2-4/{}", content.len()));
        assert_eq!(headers[header::CONTENT_TYPE], kind);
        assert_eq!(fetch(&service, &path, Some("bytes=-3")).await.2, content[content.len() - 3..]);
        let (status, headers, _) = fetch(&service, &path, Some("bytes=500-")).await;
        let range = format!("bytes */{}", content.len());
        assert_eq!((status, headers[header::CONTENT_RANGE].to_str().unwrap()), (416, range.as_str()));
    }
    for path in [
        format!("Recording/{uuid}.wav"),
        format!("Recording/{uuid}.json"),
        format!("Recording/{uuid}/call.json"),
        format!("Recording/{uuid}/call.mp3"),
        format!("Recording/{uuid}/..%2f..%2f..%2f..%2fm.db"),
        format!("Recording/{uuid}/%2e%2e"),
        "Recording/..%2f..%2fm.db".to_owned(),
        "Recording/nonsense/".to_owned(),
        "Recording/.mp3".to_owned(),
        "Recording/nonsense.mp3".to_owned(),
        "Recording/nonsense/a-leg.wav".to_owned(),
    ] {
        let answer = service.get(&path).await;
        assert_eq!((answer.status, answer.error()), (404, "Recording not found."), "{path}");
    }
    // A link is not followed.
    let file = service.directory.join(format!("recordings/2024/02/01/{uuid}/call.mp3"));
    std::fs::remove_file(&file).unwrap();
    std::os::unix::fs::symlink(service.directory.join("m.db"), &file).unwrap();
    assert_eq!(service.get(&format!("Recording/{uuid}.mp3")).await.status, 404);
}

#[tokio::test]
async fn recordings_are_listed_newest_first_and_filtered() {
    let service = Service::start(2).await;
    at_start(async {
        let sessions = [service.session(pair()).await, service.session(pair()).await];
        let mut made = vec![];
        for (index, session) in [0, 0, 1].into_iter().map(|index| &sessions[index]).enumerate() {
            let (call, callee) = make_call(&service, session, true).await;
            let session = Uuid::parse_str(session).unwrap();
            let second = 100 * i64::try_from(index).unwrap();
            let uuid = record(&service, call, session, second, RecordFormat::Wav).await;
            deliver(&service, uuid, RecordFormat::Wav).await;
            made.push((uuid.to_string(), callee));
        }
        let list = async |query: &str| {
            let answer = service.get(&format!("Recording/?{query}")).await;
            assert_eq!(answer.status, 200, "{}", answer.body);
            let found = answer.body["objects"].as_array().unwrap().clone();
            let place = |one: &Value| made.iter().position(|(uuid, _)| one["recording_id"] == *uuid.as_str());
            found.iter().map(|one| place(one).unwrap().to_string()).collect::<String>()
        };
        assert_eq!(list("").await, "210");
        assert_eq!(list("limit=1&offset=1").await, "1");
        assert_eq!(list(&format!("session_uuid={}", sessions[0])).await, "10");
        assert_eq!(list(&format!("session={}", sessions[1])).await, "2");
        assert_eq!(list(&format!("call_uuid={}", made[1].1)).await, "1", "by either leg");
        assert_eq!(list("session_uuid=nonsense").await, "");
        assert_eq!(list("add_time__gt=2024-02-01+06:28:15").await, "21");
        assert_eq!(list("add_time__lte=2024-02-01+06:29:55").await, "10");
        assert_eq!(list("add_time=2024-02-01+06:28:15").await, "0");
        assert_eq!(list("from_number=%2B12125550002").await, "210");
        assert_eq!(list("from_number=12125550009").await, "");
        assert_eq!(list("to_number=12025550100").await, "10");
        assert_eq!(list("subaccount=SAAAAAAAAAAAAAAAAAAA").await, "");
        assert_eq!(list("unheard_of=1").await, "210");
        let answer = service.get("Recording/?limit=2").await.body;
        assert_eq!(answer["meta"]["total_count"], 3);
        assert_eq!(answer["meta"]["next"], format!("/v1/Account/{ID}/Recording/?limit=2&offset=2"));
        let answer = service.get("Recording/?add_time=yesterday").await;
        assert_eq!(answer.status, 400);
    })
    .await;
}

#[tokio::test]
async fn a_deleted_recording_is_gone_at_once() {
    let service = Service::start(1).await;
    let session = service.session(pair()).await;
    let (call, _) = make_call(&service, &session, true).await;
    let uuid = record(&service, call, Uuid::parse_str(&session).unwrap(), 20, RecordFormat::Wav).await;
    let path = format!("Recording/{uuid}/");
    let delete = async |user: &str, token: &str| {
        let path = format!("/v1/Account/{user}/{path}");
        let answer = service.raw(Method::DELETE, &path, Some(basic(user, token)), "").await;
        (answer.status, answer.body)
    };
    assert_eq!(delete(ID, TOKEN).await.0, 404, "it is not there yet");
    deliver(&service, uuid, RecordFormat::Wav).await;
    assert_eq!(fetch(&service, &format!("Recording/{uuid}.wav"), None).await.0, 200);
    assert_eq!(delete(OTHER, "other").await.0, 404);
    assert_eq!(delete(ID, TOKEN).await, (204, Value::String(String::new())));
    assert_eq!(delete(ID, TOKEN).await.0, 404);
    for path in [path.clone(), format!("Recording/{uuid}.wav"), format!("Recording/{uuid}/a-leg.wav")] {
        assert_eq!(service.get(&path).await.status, 404, "{path}");
    }
    assert_eq!(service.get("Recording/").await.body["objects"], json!([]));
    let shown = service.get(&format!("Masking/Session/{session}/")).await.body["response"].clone();
    assert_eq!(shown["interaction"][0]["recording_resource_url"], Value::Null);
    assert_eq!(service.get("Recording/x.y.z").await.status, 404);
}

#[tokio::test]
async fn calls_are_filtered() {
    let service = Service::start(1).await;
    at_start(async {
        let session = service.session(pair()).await;
        // Per call: the caller's leg of 20 s, a failed attempt, and a called party's leg of 9 s.
        let (a, b) = make_call(&service, &session, true).await;
        let list = async |query: &str| {
            let answer = service.get(&format!("Call/?{query}")).await;
            assert_eq!(answer.status, 200, "{query}: {}", answer.body);
            let found = answer.body["objects"].as_array().unwrap().clone();
            assert_eq!(answer.body["meta"]["total_count"], found.len(), "{query}");
            let mut names: Vec<_> = found
                .iter()
                .map(|leg| match leg["call_uuid"].as_str().unwrap() {
                    uuid if uuid == a.to_string() => "a",
                    uuid if uuid == b.to_string() => "b",
                    _ => "f",
                })
                .collect();
            names.sort_unstable();
            names.concat()
        };
        for (query, expected) in [
            ("", "abf"),
            ("call_direction=inbound", "a"),
            ("call_direction=Outbound", "bf"),
            ("from_number=%2B12125550002", "a"),
            ("from_number=12025550100", "bf"),
            ("to_number=12025550100", "a"),
            ("to_number=12125550001", "bf"),
            ("from_number=12125550001", ""),
            ("bill_duration=9", "b"),
            ("bill_duration__gt=9", "a"),
            ("bill_duration__gte=9", "ab"),
            ("bill_duration__lt=9", "f"),
            ("bill_duration__lte=20&bill_duration__gt=0", "ab"),
            ("hangup_cause_code=4000", "ab"),
            ("hangup_cause_code=5000", "f"),
            ("hangup_source=caller", "abf"),
            ("hangup_source=Callee", ""),
            ("end_time__gt=2024-02-01+06:28:44", "a"),
            ("end_time__lte=2024-02-01+06:28:44", "bf"),
            ("end_time=2024-02-01+06:28:44", "b"),
            ("answer_time__gte=2024-02-01+06:28:35", "ab"),
            ("initiation_time__lt=2024-02-01+06:28:25", ""),
            ("subaccount=SAAAAAAAAAAAAAAAAAAA", ""),
            ("unheard_of=x", "abf"),
        ] {
            assert_eq!(list(query).await, expected, "{query}");
        }
        assert_eq!(list(&format!("parent_call_uuid={a}")).await, "bf");
        assert_eq!(list(&format!("parent_call_uuid={b}")).await, "", "a called party's leg leads to none");
        assert_eq!(list(&format!("session_uuid={session}")).await, "abf");
        assert_eq!(list("session_uuid=nonsense").await, "");
        for (query, text) in [
            (
                "call_direction=up",
                "Invalid parameter. call_direction allowed values are inbound or outbound.",
            ),
            ("bill_duration=x", "Invalid parameter. bill_duration must be a whole number."),
            ("status=dead", "Invalid parameter. status allowed values are live or queued."),
        ] {
            let answer = service.get(&format!("Call/?{query}")).await;
            assert_eq!((answer.status, answer.error()), (400, text));
        }
        // Without a bound on a time the list reaches back for a week.
        move_to(8 * 86_400);
        assert_eq!(list("").await, "");
        assert_eq!(list("end_time__gt=2024-01-01+00:00").await, "abf");
        assert_eq!(list(&format!("session_uuid={session}")).await, "abf");
    })
    .await;
}

#[tokio::test]
async fn live_calls_are_listed_shown_and_hung_up() {
    let service = Service::start(1).await;
    at_start(async {
        let session = service.session(pair()).await;
        let (ended, _) = make_call(&service, &session, true).await;
        let (live, _) = make_call(&service, &session, false).await;
        let list = service.get("Call/?status=live&limit=20&offset=0").await;
        assert_eq!((list.status, &list.body["calls"]), (200, &json!([live.to_string()])));
        assert_eq!(list.body.as_object().unwrap().len(), 2);
        assert_eq!(service.get("Call/?status=live&offset=1").await.body["calls"], json!([]));
        assert_eq!(service.get("Call/?status=queued").await.body["calls"], json!([]));
        let path = format!("/v1/Account/{OTHER}/Call/?status=live");
        let other = service.raw(Method::GET, &path, Some(basic(OTHER, "other")), "").await;
        assert_eq!(other.body["calls"], json!([]));

        let mut shown = service.get(&format!("Call/{live}/?status=live")).await.body;
        shown.as_object_mut().unwrap().shift_remove("api_id");
        let expected = json!({
            "call_status": "initiated", "call_uuid": live.to_string(), "caller_name": "",
            "direction": "inbound", "from": "12125550002", "request_uuid": live.to_string(),
            "session_start": "2024-02-01 06:28:25.000000", "to": "12025550100",
        });
        assert_eq!(shown.to_string(), expected.to_string());
        assert_eq!(service.get(&format!("Call/{ended}/?status=live")).await.status, 404);
        assert_eq!(service.get(&format!("Call/{live}/")).await.body["call_state"], "INITIATED");

        let delete = async |user: &str, token: &str, uuid: &str| {
            let path = format!("/v1/Account/{user}/Call/{uuid}/");
            service.raw(Method::DELETE, &path, Some(basic(user, token)), "{}").await.status
        };
        for (user, token, uuid) in [
            (OTHER, "other", live.to_string()),
            (ID, TOKEN, ended.to_string()),
            (ID, TOKEN, Uuid::new_v4().to_string()),
            (ID, TOKEN, "nonsense".to_owned()),
        ] {
            assert_eq!(delete(user, token, &uuid).await, 404);
        }
        assert!(service.calls.ended.lock().unwrap().is_empty());
        assert_eq!(delete(ID, TOKEN, &live.to_string()).await, 204);
        let interaction = service.store.find_leg(ID, live).await.unwrap().unwrap().opened.interaction;
        assert_eq!(*service.calls.ended.lock().unwrap(), [interaction]);
    })
    .await;
}

#[tokio::test]
async fn each_leg_is_a_call_resource() {
    let service = Service::start(1).await;
    at_start(async {
        let uuid = service.session(pair()).await;
        let (a, b) = make_call(&service, &uuid, true).await;
        let call = service.get(&format!("Call/{b}/")).await;
        assert_eq!(call.status, 200);
        for (name, value) in [
            ("call_uuid", json!(b.to_string())),
            ("parent_call_uuid", json!(a.to_string())),
            ("session_uuid", json!(uuid)),
            ("call_direction", json!("outbound")),
            ("call_state", json!("ANSWER")),
            ("from_number", json!("12025550100")),
            ("to_number", json!("12125550001")),
            ("virtual_number", json!("12025550100")),
            ("initiation_time", json!("2024-02-01 06:28:25+00:00")),
            ("answer_time", json!("2024-02-01 06:28:35+00:00")),
            ("end_time", json!("2024-02-01 06:28:44+00:00")),
            ("call_duration", json!(9)),
            ("bill_duration", json!(9)),
            ("billed_duration", json!(60)),
            ("hangup_cause_name", json!("Normal Hangup")),
            ("hangup_cause_code", json!(4000)),
            ("hangup_source", json!("Caller")),
            ("total_amount", json!("0.00000")),
            ("attempt", json!(2)),
            ("resource_uri", json!(format!("/v1/Account/{ID}/Call/{b}/"))),
        ] {
            assert_eq!(call.body[name], value, "{name}");
        }
        let caller = service.get(&format!("Call/{a}")).await.body;
        assert_eq!(
            (
                &caller["call_direction"],
                &caller["from_number"],
                &caller["to_number"],
                &caller["parent_call_uuid"]
            ),
            (&json!("inbound"), &json!("12125550002"), &json!("12025550100"), &Value::Null)
        );
        let list = service.get("Call/?limit=2").await.body;
        assert_eq!((list["objects"].as_array().unwrap().len(), &list["meta"]["total_count"]), (2, &json!(3)));
        let answer = service.get(&format!("Call/{}/", Uuid::new_v4())).await;
        assert_eq!((answer.status, answer.error()), (404, "Call not found."));
        let path = format!("/v1/Account/{OTHER}/Call/{a}/");
        assert_eq!(service.raw(Method::GET, &path, Some(basic(OTHER, "other")), "").await.status, 404);
    })
    .await;
}

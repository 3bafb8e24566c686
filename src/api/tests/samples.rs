//! The answers that are published with Plivo's SDKs, value by value: the same request at the same moment gives the same
//! answer here, but for ids, hosts, and what we decided otherwise (`plivo-api.md` §11: nothing is charged).

use super::*;

/// The session object of the newest samples, all of it, in their order. `expected` replaces what differs.
fn session(expected: &Value) -> Value {
    let mut session = json!({
        "first_party": "917708772011", "second_party": "919976106830", "virtual_number": "916361728680",
        "status": "active", "initiate_call_to_first_party": false, "session_uuid": "",
        "callback_url": "", "callback_method": "POST", "created_time": "", "modified_time": "",
        "expiry_time": "", "duration": 1800, "amount": 0, "call_time_limit": 14400, "ring_timeout": 45,
        "first_party_play_url": "", "second_party_play_url": "", "record": false,
        "record_file_format": "mp3", "recording_callback_url": "", "recording_callback_method": "POST",
        "interaction": null, "total_call_amount": 0, "total_call_count": 0, "total_call_billed_duration": 0,
        "total_session_amount": 0, "last_interaction_time": "", "unknown_caller_play": "",
        "is_pin_authentication_required": false, "generate_pin": null, "generate_pin_length": null,
        "first_party_pin": null, "second_party_pin": null, "pin_prompt_play": null, "pin_retry": null,
        "pin_retry_wait": null, "incorrect_pin_play": null, "create_session_with_single_party": null,
        "virtual_number_cooloff_period": 0, "force_pin_authentication": false,
    });
    for (name, value) in expected.as_object().unwrap() {
        *session.get_mut(name).unwrap_or_else(|| panic!("{name} is no attribute")) = value.clone();
    }
    session
}

/// Moves the clock to a moment of a sample.
fn go_to(time: &str) {
    let at: Timestamp = format!("{}Z", time.replace(' ', "T")).parse().unwrap();
    move_to(at.as_second() - START);
}

fn shown(time: &str) -> String {
    format!("{time} +0000 UTC")
}

fn merged(base: &Value, more: &Value) -> Value {
    with(base.clone(), more.clone())
}

/// A service with the number of the samples, and the parameters that all of them need here.
async fn service() -> Service {
    let service = Service::start(0).await;
    let did = Did::parse("916361728680").unwrap();
    let number =
        VirtualNumberConfig { did, trunk: "local".into(), account: None, no_session: NoSession::Reject };
    service.store.sync_numbers(&[number]).await.unwrap();
    service
}

fn parties() -> Value {
    json!({
        "first_party": "917708772011", "second_party": "+919976106830", "record": false, "geomatch": false,
        "session_expiry": 1800,
    })
}

/// Asks as the sample was asked, at its moment, and compares every byte but the ids'.
async fn compare(service: &Service, created: &str, parameters: &Value, expected: &Value) -> String {
    go_to(created);
    let answer = service.create(merged(&parties(), parameters)).await;
    assert_eq!(answer.status, 201, "{}", answer.body);
    let uuid = answer.body["session_uuid"].as_str().unwrap().to_owned();
    let duration = parameters["session_expiry"].as_i64().unwrap_or(1800);
    let ends: Timestamp = format!("{}Z", created.replace(' ', "T")).parse().unwrap();
    let ends = ends + jiff::SignedDuration::from_secs(duration);
    let times = json!({
        "session_uuid": uuid, "created_time": shown(created), "modified_time": shown(created),
        "expiry_time": ends.strftime("%Y-%m-%d %H:%M:%S +0000 UTC").to_string(), "duration": duration,
    });
    let session = session(&merged(&times, expected));
    let whole = json!({
        "api_id": answer.body["api_id"], "session_uuid": uuid, "virtual_number": "+916361728680",
        "message": "Session created", "session": session,
    });
    assert_eq!(answer.body.to_string(), whole.to_string());
    let read = service.get(&format!("Masking/Session/{uuid}/")).await;
    let whole = json!({"api_id": read.body["api_id"], "response": session});
    assert_eq!((read.status, read.body.to_string()), (200, whole.to_string()));
    // A list's keys are sorted, and each object says where it is.
    let list = service
        .get(&format!("Masking/Session/?first_party={}", session["first_party"].as_str().unwrap()))
        .await;
    let mut listed = session.clone();
    listed["resource_uri"] = format!("/v1/Account/{ID}/Masking/Session/{uuid}/").into();
    listed.sort_all_objects();
    let listed = listed.to_string();
    let objects = list.body["response"]["objects"].as_array().unwrap();
    assert_eq!(objects.iter().map(Value::to_string).filter(|object| *object == listed).count(), 1);
    uuid
}

#[tokio::test]
async fn each_published_create_and_read() {
    let service = service().await;
    let url = |name: &str| format!("https://s3.example.com/{name}");
    let rows = [
        // Nothing but two parties (May 2024).
        ("2024-05-23 10:44:46", json!({}), json!({})),
        // All that was known in 2023, and in May 2024 with a message for strangers.
        (
            "2024-05-29 04:47:18",
            json!({
                "session_expiry": 6000, "callback_url": url("cb"), "callback_method": "GET",
                "initiate_call_to_first_party": true, "ring_timeout": 120,
                "first_party_play_url": url("first.mp3"), "second_party_play_url": url("second.mp3"),
                "recording_callback_url": url("rec"), "recording_callback_method": "GET",
                "unknown_caller_play": url("unknown.mp3"), "is_pin_authentication_required": false,
            }),
            json!({
                "callback_url": url("cb"), "callback_method": "GET", "initiate_call_to_first_party": true,
                "ring_timeout": 120, "first_party_play_url": url("first.mp3"),
                "second_party_play_url": url("second.mp3"), "recording_callback_url": url("rec"),
                "recording_callback_method": "GET", "unknown_caller_play": url("unknown.mp3"),
            }),
        ),
        // With PINs (the documentation's own example).
        (
            "2024-05-30 03:32:12",
            json!({
                "is_pin_authentication_required": true, "first_party_pin": "1234", "second_party_pin": "5678",
                "pin_prompt_play": url("prompt.mp3"), "pin_retry": 2, "pin_retry_wait": 7,
                "incorrect_pin_play": url("incorrect.mp3"),
            }),
            json!({
                "is_pin_authentication_required": true, "generate_pin": false, "generate_pin_length": 4,
                "first_party_pin": "1234", "second_party_pin": "5678", "pin_prompt_play": url("prompt.mp3"),
                "pin_retry": 2, "pin_retry_wait": 7, "incorrect_pin_play": url("incorrect.mp3"),
            }),
        ),
        // What came in September 2024.
        (
            "2024-09-10 12:00:00",
            json!({
                "second_party": "", "create_session_with_single_party": true,
                "virtual_number_cooloff_period": 3500, "is_pin_authentication_required": true,
                "first_party_pin": "1234", "second_party_pin": "5678", "force_pin_authentication": true,
            }),
            json!({
                "second_party": "", "create_session_with_single_party": true,
                "virtual_number_cooloff_period": 3500, "is_pin_authentication_required": true,
                "generate_pin": false, "generate_pin_length": 4, "first_party_pin": "1234",
                "second_party_pin": "5678", "pin_prompt_play": "", "pin_retry": 1, "pin_retry_wait": 5,
                "incorrect_pin_play": "", "force_pin_authentication": true,
            }),
        ),
    ];
    at_start(async {
        for (created, parameters, expected) in rows {
            let uuid = compare(&service, created, &parameters, &expected).await;
            let path = format!("Masking/Session/{uuid}/");
            service.call(Method::DELETE, &path, Value::Null).await;
        }
    })
    .await;
}

#[tokio::test]
async fn each_published_update_has_its_arithmetic() {
    let service = service().await;
    at_start(async {
        for (created, updated, session_expiry, expiry, duration) in [
            ("2023-06-30 06:51:11", "2023-06-30 08:32:53", 600, "2023-06-30 08:42:53", 6702),
            ("2023-07-04 06:41:19", "2023-07-04 06:52:03", 600, "2023-07-04 07:02:03", 1244),
            ("2023-07-04 10:29:02", "2023-07-04 11:01:53", 600, "2023-07-04 11:11:53", 2571),
            ("2023-07-05 10:25:40", "2023-07-05 11:03:23", 600, "2023-07-05 11:13:23", 2863),
            ("2024-05-29 04:47:18", "2024-05-29 05:23:53", 16_400, "2024-05-29 09:57:13", 18_595),
        ] {
            let long = json!({"session_expiry": 6200});
            let uuid = compare(&service, created, &long, &json!({})).await;
            go_to(updated);
            let path = format!("Masking/Session/{uuid}/");
            let change = json!({"session_expiry": session_expiry, "call_time_limit": 600});
            let answer = service.call(Method::POST, &path, change).await;
            let session = session(&json!({
                "session_uuid": uuid, "created_time": shown(created), "modified_time": shown(updated),
                "expiry_time": shown(expiry), "duration": duration, "call_time_limit": 600,
            }));
            let whole =
                json!({"api_id": answer.body["api_id"], "message": "Session updated", "session": session});
            assert_eq!((answer.status, answer.body.to_string()), (200, whole.to_string()));
            go_to(expiry);
            let read = service.get(&path).await.body["response"].clone();
            assert_eq!((&read["status"], &read["duration"]), (&json!("expired"), &json!(duration)));
        }
    })
    .await;
}

#[tokio::test]
async fn the_published_delete_keeps_the_planned_length_and_shows_the_moment() {
    let service = service().await;
    at_start(async {
        let created = "2023-06-30 06:39:06";
        let uuid = compare(&service, created, &json!({"session_expiry": 6000}), &json!({})).await;
        go_to("2023-06-30 06:39:16");
        let path = format!("Masking/Session/{uuid}/");
        let deleted = service.call(Method::DELETE, &path, json!({})).await;
        let whole = json!({"api_id": deleted.body["api_id"], "message": "Session expired"});
        assert_eq!((deleted.status, deleted.body.to_string()), (200, whole.to_string()));
        let again = service.call(Method::DELETE, &path, json!({})).await;
        let whole = json!({"api_id": again.body["api_id"], "error": "Session already expired"});
        assert_eq!((again.status, again.body.to_string()), (400, whole.to_string()));
        let read = service.get(&path).await.body["response"].clone();
        let expected = session(&json!({
            "status": "expired", "session_uuid": uuid, "created_time": shown(created),
            "modified_time": shown("2023-06-30 06:39:16"), "expiry_time": shown("2023-06-30 06:39:16"),
            "duration": 6000,
        }));
        assert_eq!(read.to_string(), expected.to_string());
    })
    .await;
}

#[tokio::test]
async fn a_list_without_a_session_and_one_of_three_pages() {
    let service = Service::start(3).await;
    at_start(async {
        let empty = service.get("Masking/Session/").await;
        let meta = json!({"limit": 20, "next": null, "offset": 0, "previous": null, "total_count": 0});
        let whole = json!({"api_id": empty.body["api_id"], "response": {"meta": meta, "objects": []}});
        assert_eq!((empty.status, empty.body.to_string()), (200, whole.to_string()));
        for _ in 0..3 {
            service.session(pair()).await;
        }
        let page = service.get("Masking/Session/?limit=1&offset=1").await.body["response"]["meta"].clone();
        let path = format!("/v1/Account/{ID}/Masking/Session/");
        let meta = json!({
            "limit": 1, "next": format!("{path}?limit=1&offset=2"), "offset": 1,
            "previous": format!("{path}?limit=1&offset=0"), "total_count": 3,
        });
        assert_eq!(page.to_string(), meta.to_string());
    })
    .await;
}

#[tokio::test]
async fn each_refusal_is_an_api_id_and_a_text() {
    let service = Service::start(1).await;
    let uuid = service.session(pair()).await;
    let ended = service.session(json!({"first_party": "12125550003", "second_party": "12125550004"})).await;
    service.call(Method::DELETE, &format!("Masking/Session/{ended}/"), Value::Null).await;
    let (collection, item) = ("Masking/Session/".to_owned(), format!("Masking/Session/{uuid}/"));
    let nobody = format!("Masking/Session/{}/", Uuid::nil());
    let indian = with(pair(), json!({"first_party": "+919876543210"}));
    let in_india = "No compatible virtual numbers found for country code IN. Please check the number masking \
                    reserved virtual numbers pool";
    let invalid = |text: &str| format!("Invalid parameter. {text}");
    let url = format!("https://h/{}", "x".repeat(1000));
    let rows = [
        // The texts that are published (§7), and where none is, ours in the same manner.
        (
            Method::POST,
            &collection,
            json!({}),
            400,
            "Mandatory parameter missing. first_party must be present.".into(),
        ),
        (
            Method::POST,
            &collection,
            with(pair(), json!({"first_party": "x"})),
            400,
            invalid("first_party is not a valid phone number."),
        ),
        (
            Method::POST,
            &collection,
            with(pair(), json!({"second_party": "x"})),
            400,
            invalid("second_party is not a valid phone number."),
        ),
        (
            Method::POST,
            &collection,
            with(pair(), json!({"session_expiry": 86401})),
            400,
            invalid("session_expiry is outside the allowed range."),
        ),
        (
            Method::POST,
            &collection,
            with(pair(), json!({"call_time_limit": 86401})),
            400,
            invalid("call_time_limit is outside the allowed range."),
        ),
        (
            Method::POST,
            &collection,
            with(pair(), json!({"record": "x"})),
            400,
            invalid("record allowed values are true or false."),
        ),
        (
            Method::POST,
            &collection,
            with(pair(), json!({"record_file_format": "x"})),
            400,
            invalid("record_file_format allowed values are mp3 or wav."),
        ),
        (
            Method::POST,
            &collection,
            with(pair(), json!({"recording_callback_url": "x"})),
            400,
            invalid("recording_callback_url should be a valid URL."),
        ),
        (
            Method::POST,
            &collection,
            with(pair(), json!({"recording_callback_url": url})),
            400,
            invalid("recording_callback_url should be under 1000 characters."),
        ),
        (Method::POST, &collection, pair(), 400, "Number pool exhausted or not available.".into()),
        (Method::POST, &collection, indian, 404, in_india.into()),
        (Method::GET, &nobody, Value::Null, 404, "Session not found.".into()),
        (
            Method::DELETE,
            &format!("Masking/Session/{ended}/"),
            Value::Null,
            400,
            "Session already expired".into(),
        ),
        (
            Method::POST,
            &item,
            json!({"pin_retry": 3}),
            400,
            invalid("pin_retry cannot be changed after the session was created."),
        ),
        (Method::PUT, &collection, pair(), 405, "Method not allowed.".into()),
        (
            Method::GET,
            &"Masking/Nothing/".to_owned(),
            Value::Null,
            404,
            "There is nothing at this path.".into(),
        ),
    ];
    for (method, path, body, status, text) in rows {
        let answer = service.call(method.clone(), path, body).await;
        assert_eq!(
            (answer.status, shape_of(&answer.body)),
            (status, vec!["api_id", "error"]),
            "{method} {path}"
        );
        // Ours go on to say what is allowed.
        assert!(answer.error().starts_with(&text), "{method} {path}: {}", answer.error());
    }
    let path = format!("/v1/Account/{ID}/Masking/Session/");
    for (who, status) in [(None, 401), (Some(basic(ID, "wrong")), 401), (Some(basic(OTHER, "other")), 401)] {
        let answer = service.raw(Method::GET, &path, who, "").await;
        assert_eq!((answer.status, shape_of(&answer.body)), (status, vec!["api_id", "error"]));
    }
}

fn shape_of(body: &Value) -> Vec<&str> {
    body.as_object().unwrap().keys().map(String::as_str).collect()
}

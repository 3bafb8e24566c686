//! Sessions: made, read, changed, ended.

use super::*;

#[tokio::test]
async fn a_create_answers_in_the_services_shape_with_our_defaults() {
    let service = Service::start(1).await;
    let answer = at_start(service.create(pair())).await;
    assert_eq!(answer.status, 201);
    let keys: Vec<_> = answer.body.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, ["api_id", "session_uuid", "virtual_number", "message", "session"]);
    assert_eq!(
        (&answer.body["virtual_number"], &answer.body["message"]),
        (&json!("+12025550100"), &json!("Session created"))
    );
    let uuid = answer.body["session_uuid"].clone();
    let time = "2024-02-01 06:28:15 +0000 UTC";
    let expected = json!({
        "first_party": "12125550001", "second_party": "12125550002", "virtual_number": "12025550100",
        "status": "active", "initiate_call_to_first_party": false, "session_uuid": uuid,
        "callback_url": "", "callback_method": "POST", "created_time": time, "modified_time": time,
        "expiry_time": "2024-02-01 07:28:15 +0000 UTC", "duration": 3600, "amount": 0,
        "call_time_limit": 14400, "ring_timeout": 45, "first_party_play_url": "", "second_party_play_url": "",
        "record": true, "record_file_format": "mp3", "recording_callback_url": "",
        "recording_callback_method": "POST", "interaction": null, "total_call_amount": 0,
        "total_call_count": 0, "total_call_billed_duration": 0, "total_session_amount": 0,
        "last_interaction_time": "", "unknown_caller_play": "", "is_pin_authentication_required": false,
        "generate_pin": null, "generate_pin_length": null, "first_party_pin": null, "second_party_pin": null,
        "pin_prompt_play": null, "pin_retry": null, "pin_retry_wait": null, "incorrect_pin_play": null,
        "create_session_with_single_party": null, "virtual_number_cooloff_period": 0,
        "force_pin_authentication": false,
    });
    assert_eq!(answer.body["session"].to_string(), expected.to_string(), "keys in the order of the samples");
    let read = at_start(service.get(&format!("Masking/Session/{}/", uuid.as_str().unwrap()))).await;
    assert_eq!((read.status, &read.body["response"]), (200, &expected));
}

#[tokio::test]
async fn only_the_accounts_own_credentials_open_its_paths() {
    let service = Service::start(1).await;
    let path = format!("/v1/Account/{ID}/Masking/Session/");
    for authorization in [
        None,
        Some(basic(ID, "wrong")),
        Some(basic(ID, "")),
        Some(basic("", TOKEN)),
        Some(basic(OTHER, "other")),
        Some(basic(OTHER, TOKEN)),
        Some(format!("Bearer {TOKEN}")),
        Some("Basic".to_owned()),
        Some("Basic !!!".to_owned()),
        Some(format!("Basic {}", BASE64.encode(b"no colon"))),
    ] {
        for method in [Method::GET, Method::POST] {
            let answer = service.raw(method, &path, authorization.clone(), pair().to_string()).await;
            assert_eq!((answer.status, answer.body["api_id"].is_string()), (401, true), "{authorization:?}");
            assert!(answer.error().starts_with("Authentication failed"), "{}", answer.error());
        }
    }
    let lower = basic(ID, TOKEN).replace("Basic", "basic");
    assert_eq!(service.raw(Method::GET, &path, Some(lower), "").await.status, 200);
    let other = format!("/v1/Account/{OTHER}/Masking/Session/");
    let uuid = service.session(pair()).await;
    let answer = service.raw(Method::GET, &format!("{other}{uuid}/"), Some(basic(OTHER, "other")), "").await;
    assert_eq!((answer.status, answer.error()), (404, "Session not found."), "another account's session");
}

#[tokio::test]
async fn paths_come_with_and_without_slashes() {
    let service = Service::start(1).await;
    assert_eq!(service.call(Method::POST, "Masking/Session", pair()).await.status, 201);
    let listed = service.get("Masking/Session?limit=1").await;
    let uuid = listed.body["response"]["objects"][0]["session_uuid"].as_str().unwrap().to_owned();
    for path in [
        format!("Masking/Session/{uuid}"),
        format!("Masking/Session/{uuid}/"),
        format!("Masking/Session//{uuid}/"),
    ] {
        assert_eq!(service.get(&path).await.status, 200, "{path}");
    }
    for path in ["Masking/Session/no-uuid/", "Masking/Session/c28b77d4-21e7-43bd-9447-04bfee92e651/"] {
        let answer = service.get(path).await;
        assert_eq!((answer.status, answer.error()), (404, "Session not found."), "{path}");
    }
    assert_eq!(service.get("Masking/Elsewhere/").await.status, 404);
    for (method, path) in
        [(Method::PUT, "Masking/Session/"), (Method::PATCH, "Call/"), (Method::DELETE, "Masking/Session/")]
    {
        let answer = service.call(method, path, json!({})).await;
        assert_eq!((answer.status, answer.error()), (405, "Method not allowed."), "{path}");
    }
}

#[tokio::test]
async fn an_update_changes_what_may_change_and_names_what_may_not() {
    let service = Service::start(1).await;
    at_start(async {
        let uuid = service.session(with(pair(), json!({"unknown_caller_play": "http://a/u.mp3"}))).await;
        let path = format!("Masking/Session/{uuid}/");
        let update = async |body: Value| service.call(Method::POST, &path, body).await;
        move_to(12);
        let answer = update(json!({
            "session_uuid": uuid, "session_expiry": "600", "call_time_limit": 60, "ring_timeout": 30,
            "record": false, "record_file_format": "wav", "callback_url": "https://a/cb", "callback_method": "GET",
            "recording_callback_url": "https://a/r", "recording_callback_method": "GET",
            "first_party_play_url": "https://a/1.mp3", "second_party_play_url": "https://a/2.mp3",
            "geomatch": true, "first_party": "+12125550001", "create_session_with_single_party": false,
        })).await;
        assert_eq!((answer.status, &answer.body["message"]), (200, &json!("Session updated")), "{}", answer.body);
        let session = &answer.body["session"];
        for (name, value) in [
            ("duration", json!(612)),
            ("expiry_time", json!("2024-02-01 06:38:27 +0000 UTC")),
            ("modified_time", json!("2024-02-01 06:28:27 +0000 UTC")),
            ("call_time_limit", json!(60)),
            ("ring_timeout", json!(30)),
            ("record", json!(false)),
            ("record_file_format", json!("wav")),
            ("callback_url", json!("https://a/cb")),
            ("callback_method", json!("GET")),
            ("recording_callback_url", json!("https://a/r")),
            ("recording_callback_method", json!("GET")),
            ("first_party_play_url", json!("https://a/1.mp3")),
            ("second_party_play_url", json!("https://a/2.mp3")),
        ] {
            assert_eq!(session[name], value, "{name}");
        }
        let before = service.get(&path).await.body["response"].clone();
        assert_eq!(update(json!({"session_expiry": 0, "call_time_limit": 0, "callback_url": ""})).await.body["session"]["duration"], 612);
        for (name, value) in [
            ("first_party", json!("12125550009")),
            ("second_party", json!("12125550009")),
            ("initiate_call_to_first_party", json!(true)),
            ("is_pin_authentication_required", json!(true)),
            ("generate_pin", json!(true)),
            ("generate_pin_length", json!(5)),
            ("first_party_pin", json!("1234")),
            ("pin_prompt_play", json!("http://a/p.mp3")),
            ("pin_retry", json!(2)),
            ("pin_retry_wait", json!(6)),
            ("incorrect_pin_play", json!("http://a/i.mp3")),
            ("unknown_caller_play", json!("http://a/other.mp3")),
            ("force_pin_authentication", json!(true)),
            ("geo_match", json!(false)),
            ("subaccount", json!("SAXXXXXXXXXXXXXXXXXX")),
            ("virtual_number_cooloff_period", json!(60)),
            ("create_session_with_single_party", json!(true)),
        ] {
            let answer = update(json!({name: value, "ring_timeout": 99})).await;
            let named = name.replace("geo_match", "geomatch");
            let text = format!("Invalid parameter. {named} cannot be changed after the session was created.");
            assert_eq!((answer.status, answer.error()), (400, text.as_str()));
        }
        let mut after = service.get(&path).await.body["response"].clone();
        after["modified_time"] = before["modified_time"].clone();
        assert_eq!(after, before, "a refused update changes nothing");
        assert_eq!(update(json!({"ring_timeout": 9999})).await.status, 400);
        assert_eq!(service.call(Method::POST, &format!("Masking/Session/{}/", Uuid::new_v4()), json!({})).await.status, 404);
    }).await;
}

#[tokio::test]
async fn a_deleted_session_stays_readable_as_expired() {
    let service = Service::start(1).await;
    at_start(async {
        let uuid = service.session(with(pair(), json!({"session_expiry": 6000}))).await;
        let path = format!("Masking/Session/{uuid}/");
        move_to(10);
        let answer = service.call(Method::DELETE, &path, json!({"session_uuid": uuid})).await;
        assert_eq!((answer.status, &answer.body["message"]), (200, &json!("Session expired")));
        let session = service.get(&path).await.body["response"].clone();
        assert_eq!(
            (&session["status"], &session["duration"], &session["expiry_time"]),
            (&json!("expired"), &json!(6000), &json!("2024-02-01 06:28:25 +0000 UTC"))
        );
        for method in [Method::DELETE, Method::POST] {
            let answer = service.call(method, &path, json!({"ring_timeout": 5})).await;
            assert_eq!((answer.status, answer.error()), (400, "Session already expired"));
        }
        assert_eq!(service.create(pair()).await.status, 201, "its number is free again");
        assert!(service.calls.ended.lock().unwrap().is_empty(), "live calls go on");
    })
    .await;
}

#[tokio::test]
async fn only_a_create_that_says_so_calls_the_first_party() {
    let service = Service::start(2).await;
    at_start(async {
        service.session(pair()).await;
        assert!(service.calls.initiated.lock().unwrap().is_empty());
        let created = service.create(with(pair(), json!({"initiate_call_to_first_party": "true"}))).await;
        assert_eq!(
            (created.status, &created.body["session"]["initiate_call_to_first_party"]),
            (201, &json!(true))
        );
        let uuid = Uuid::parse_str(created.body["session_uuid"].as_str().unwrap()).unwrap();
        assert_eq!(*service.calls.initiated.lock().unwrap(), [uuid]);
        assert_eq!(
            service.create(with(pair(), json!({"initiate_call_to_first_party": true}))).await.status,
            400
        );
        assert_eq!(service.calls.initiated.lock().unwrap().len(), 1, "without a number nobody is called");
    })
    .await;
}

#[tokio::test]
async fn delete_with_hangup_ends_its_calls_even_when_it_had_expired() {
    let service = Service::start(1).await;
    at_start(async {
        let uuid = service.session(pair()).await;
        let path = format!("Masking/Session/{uuid}/?hangup=true");
        assert_eq!(service.call(Method::DELETE, &path, json!({})).await.status, 200);
        assert_eq!(service.call(Method::DELETE, &path, json!({})).await.status, 400);
        let uuid = Uuid::parse_str(&uuid).unwrap();
        assert_eq!(*service.calls.ended.lock().unwrap(), [uuid, uuid]);
        let stranger = format!("/v1/Account/{OTHER}/Masking/Session/{uuid}/?hangup=true");
        let answer = service.raw(Method::DELETE, &stranger, Some(basic(OTHER, "other")), "").await;
        assert_eq!(
            (answer.status, service.calls.ended.lock().unwrap().len()),
            (404, 2),
            "another account's calls"
        );
    })
    .await;
}

#[tokio::test]
async fn a_session_expires_by_time_alone() {
    let service = Service::start(1).await;
    at_start(async {
        let uuid = service.session(with(pair(), json!({"session_expiry": 60}))).await;
        let status = async || {
            service.get(&format!("Masking/Session/{uuid}/")).await.body["response"]["status"].clone()
        };
        move_to(59);
        assert_eq!(status().await, "active");
        let answer = service.create(pair()).await;
        assert_eq!((answer.status, answer.error()), (400, "Number pool exhausted or not available."));
        move_to(60);
        assert_eq!(status().await, "expired");
        assert_eq!(service.create(pair()).await.status, 201);
    })
    .await;
}

#[tokio::test]
async fn geomatch_without_a_number_of_that_country_is_404() {
    let service = Service::start(1).await;
    let body = json!({"first_party": "919876543210", "second_party": "12125550002"});
    let answer = service.create(body.clone()).await;
    assert_eq!(answer.status, 404);
    assert_eq!(
        answer.error(),
        "No compatible virtual numbers found for country code IN. Please check the number masking reserved \
         virtual numbers pool"
    );
    assert_eq!(service.create(with(body, json!({"geomatch": false}))).await.status, 201);
}

#[tokio::test]
async fn generated_pins_are_shown_and_do_not_collide() {
    let service = Service::start(2).await;
    let mut pins = std::collections::BTreeMap::<String, Vec<String>>::new();
    for index in 0..12 {
        let body = json!({
            "first_party": format!("1212555{:04}", index), "second_party": format!("1313555{:04}", index),
            "is_pin_authentication_required": true, "generate_pin": true, "generate_pin_length": 4 + index % 2,
        });
        let answer = service.create(body).await;
        assert_eq!(answer.status, 201, "{}", answer.body);
        let session = &answer.body["session"];
        let number = session["virtual_number"].as_str().unwrap().to_owned();
        for name in ["first_party_pin", "second_party_pin"] {
            let pin = session[name].as_str().unwrap().to_owned();
            assert_eq!(pin.len(), 4 + index % 2);
            let others = pins.entry(number.clone()).or_default();
            assert!(others.iter().all(|other| !other.starts_with(&pin) && !pin.starts_with(other.as_str())));
            others.push(pin);
        }
        assert_eq!(
            (&session["generate_pin"], &session["generate_pin_length"]),
            (&json!(true), &json!(4 + index % 2))
        );
    }
    let spread: Vec<_> = pins.values().map(Vec::len).collect();
    assert_eq!(spread, [12, 12], "each goes to the number with the fewest");
}

#[tokio::test]
async fn a_single_party_session_needs_one_party_and_can_be_filled_in() {
    let service = Service::start(2).await;
    let single =
        json!({"create_session_with_single_party": true, "first_party": "12125550001", "second_party": ""});
    let answer = service.create(single.clone()).await;
    assert_eq!(answer.status, 201, "{}", answer.body);
    assert_eq!(answer.body["session"]["second_party"], "");
    assert_eq!(answer.body["session"]["create_session_with_single_party"], true);
    let path = format!("Masking/Session/{}/", answer.body["session_uuid"].as_str().unwrap());
    let other = with(single, json!({"first_party": "12125550007"}));
    assert_eq!(service.create(other).await.body["virtual_number"], "+12025550101", "one per number");
    let fill = async |party: &str| service.call(Method::POST, &path, json!({"second_party": party})).await;
    assert_eq!(
        fill("12125550001").await.error(),
        "Invalid parameter. second_party must be another number than first_party."
    );
    assert_eq!(
        fill("12025550100").await.error(),
        "Invalid parameter. second_party must not be one of the virtual numbers."
    );
    assert_eq!(fill("12125550005").await.body["session"]["second_party"], "12125550005");
    assert_eq!(
        fill("12125550006").await.error(),
        "Invalid parameter. second_party cannot be changed after the session was created."
    );
    let one_pin = json!({
        "create_session_with_single_party": true, "first_party": "12125550031",
        "is_pin_authentication_required": true, "second_party_pin": "123456",
    });
    let session = service.create(one_pin).await.body["session"].clone();
    assert_eq!(
        (&session["second_party_pin"], &session["generate_pin"]),
        (&json!("123456"), &json!(false)),
        "{session}"
    );
    assert_eq!(session["first_party_pin"].as_str().unwrap().len(), 6, "the other is drawn");
}

#[tokio::test]
async fn a_session_shows_its_calls() {
    let service = Service::start(1).await;
    at_start(async {
        let uuid = service.session(pair()).await;
        let (a, b) = make_call(&service, &uuid, true).await;
        let session = service.get(&format!("Masking/Session/{uuid}/")).await.body["response"].clone();
        let base = format!("http://masking.example:8080/v1/Account/{ID}/Call");
        assert_eq!(session["interaction"], json!([{
            "start_time": "2024-02-01 06:28:25 +0000 UTC", "end_time": "2024-02-01 06:28:55 +0000 UTC",
            "first_party_resource_url": format!("{base}/{b}"), "second_party_resource_url": format!("{base}/{a}"),
            "type": "call", "call_billed_duration": 120, "total_call_count": 2, "duration": 29,
        }]));
        for (name, value) in [
            ("status", json!("active")),
            ("total_call_count", json!(2)),
            ("total_call_billed_duration", json!(120)),
            ("last_interaction_time", json!("2024-02-01 06:28:55 +0000 UTC")),
        ] {
            assert_eq!(session[name], value, "{name}");
        }
        make_call(&service, &uuid, false).await;
        let session = service.get(&format!("Masking/Session/{uuid}/")).await.body["response"].clone();
        assert_eq!((&session["status"], &session["total_call_count"]), (&json!("in-progress"), &json!(3)));
        let listed = service.get("Masking/Session/?status=in-progress").await;
        assert_eq!(listed.body["response"]["meta"]["total_count"], 1);
    }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_creates_of_one_pair_get_as_many_sessions_as_there_are_numbers() {
    let service = Arc::new(Service::start(7).await);
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let service = service.clone();
        tasks.spawn(async move { service.create(pair()).await });
    }
    let mut numbers = std::collections::BTreeSet::new();
    while let Some(answer) = tasks.join_next().await {
        let answer = answer.unwrap();
        match answer.status {
            201 => assert!(numbers.insert(answer.body["virtual_number"].as_str().unwrap().to_owned())),
            status => assert_eq!((status, answer.error()), (400, "Number pool exhausted or not available.")),
        }
    }
    assert_eq!(numbers.len(), 7);
}

#[tokio::test]
async fn a_fixed_parameter_may_be_repeated_with_its_present_value() {
    let service = Service::start(1).await;
    let fixed = json!({
        "first_party": "+12125550001", "second_party": "+12125550002", "is_pin_authentication_required": true,
        "first_party_pin": "1234", "second_party_pin": "5678", "pin_prompt_play": "https://a/p.mp3", "pin_retry": 2,
        "pin_retry_wait": 7, "incorrect_pin_play": "https://a/i.mp3", "unknown_caller_play": "https://a/u.mp3",
        "force_pin_authentication": true, "geomatch": true, "virtual_number_cooloff_period": 60,
        "create_session_with_single_party": true, "initiate_call_to_first_party": false, "generate_pin": false,
        "subaccount": "",
    });
    let uuid = service.session(fixed.clone()).await;
    let path = format!("Masking/Session/{uuid}/");
    let answer = service.call(Method::POST, &path, fixed).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    for (name, value) in [
        ("first_party", json!("12125550003")),
        ("second_party", json!("12125550003")),
        ("is_pin_authentication_required", json!(false)),
        ("first_party_pin", json!("4321")),
        ("second_party_pin", json!("4321")),
        ("pin_prompt_play", json!("https://a/other.mp3")),
        ("pin_retry", json!(0)),
        ("pin_retry_wait", json!(8)),
        ("incorrect_pin_play", json!("https://a/other.mp3")),
        ("force_pin_authentication", json!(false)),
        ("generate_pin_length", json!(9)),
        ("virtual_number_cooloff_period", json!(61)),
        ("create_session_with_single_party", json!(false)),
    ] {
        let answer = service.call(Method::POST, &path, json!({name: value})).await;
        let text = format!("Invalid parameter. {name} cannot be changed after the session was created.");
        assert_eq!((answer.status, answer.error()), (400, text.as_str()));
    }
}

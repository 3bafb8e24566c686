//! What is read of a create: leniently, and named when it cannot be.

use super::*;

#[tokio::test]
async fn what_sdks_send_for_nothing_is_nothing() {
    let service = Service::start(1).await;
    let sent = with(
        pair(),
        json!({
            "session_expiry": 0, "call_time_limit": 0, "ring_timeout": "0", "virtual_number_cooloff_period": 0,
            "create_session_with_single_Party": false, "callback_url": "", "record_file_format": null,
            "mode": "voice", "unheard_of": {"deep": [1]}, "generate_pin": null, "pin_retry_wait": 0,
        }),
    );
    let answer = service.create(sent).await;
    assert_eq!(answer.status, 201, "{}", answer.body);
    let session = &answer.body["session"];
    for (name, value) in [
        ("duration", json!(3600)),
        ("call_time_limit", json!(14400)),
        ("ring_timeout", json!(45)),
        ("virtual_number_cooloff_period", json!(0)),
        ("create_session_with_single_party", json!(false)),
        ("record_file_format", json!("mp3")),
    ] {
        assert_eq!(session[name], value, "{name}");
    }
}

#[tokio::test]
async fn strings_serve_as_numbers_and_booleans_and_names_in_any_case() {
    let service = Service::start(1).await;
    let sent = json!({
        "First_Party": 12125550001_u64, "SECOND_PARTY": " +1 (212) 555-0002 ", "session_expiry": "600",
        "call_time_limit": "1440", "record": "False", "geo_match": "false", "record_file_format": "WAV",
        "callback_method": "get", "is_pin_authentication": "true", "first_party_pin": 1234,
        "second_party_pin": "0056", "pin_retry": "0", "pin_retry_wait": "7", "force_pin_authentication": true,
    });
    let answer = service.create(sent).await;
    assert_eq!(answer.status, 201, "{}", answer.body);
    let session = &answer.body["session"];
    for (name, value) in [
        ("first_party", json!("12125550001")),
        ("second_party", json!("12125550002")),
        ("duration", json!(600)),
        ("call_time_limit", json!(1440)),
        ("record", json!(false)),
        ("record_file_format", json!("wav")),
        ("callback_method", json!("GET")),
        ("is_pin_authentication_required", json!(true)),
        ("generate_pin", json!(false)),
        ("first_party_pin", json!("1234")),
        ("second_party_pin", json!("0056")),
        ("pin_prompt_play", json!("")),
        ("pin_retry", json!(0)),
        ("pin_retry_wait", json!(7)),
        ("force_pin_authentication", json!(true)),
    ] {
        assert_eq!(session[name], value, "{name}");
    }
}

#[tokio::test]
async fn a_bad_parameter_is_named_with_what_is_allowed() {
    let service = Service::start(1).await;
    let pin = json!({"is_pin_authentication_required": true});
    let rows = [
        (json!({}), "Mandatory parameter missing. first_party must be present."),
        (json!({"first_party": "12125550001"}), "Mandatory parameter missing. second_party must be present."),
        (
            json!({"first_party": "", "second_party": "12125550001"}),
            "Mandatory parameter missing. first_party must be present.",
        ),
        (
            json!({"create_session_with_single_party": true}),
            "Mandatory parameter missing. first_party or second_party must be present.",
        ),
        (
            with(pair(), json!({"first_party": "abc"})),
            "Invalid parameter. first_party is not a valid phone number.",
        ),
        (
            with(pair(), json!({"second_party": ["1"]})),
            "Invalid parameter. second_party is not a valid phone number.",
        ),
        (
            with(pair(), json!({"second_party": "+1 212 555 0001"})),
            "Invalid parameter. second_party must be another number than first_party.",
        ),
        (
            with(pair(), json!({"first_party": "12025550100"})),
            "Invalid parameter. first_party must not be one of the virtual numbers.",
        ),
        (
            with(pair(), json!({"second_party": "12025550100"})),
            "Invalid parameter. second_party must not be one of the virtual numbers.",
        ),
        (
            with(pair(), json!({"session_expiry": 86401})),
            "Invalid parameter. session_expiry is outside the allowed range. Allowed: 1 to 86400 seconds.",
        ),
        (
            with(pair(), json!({"session_expiry": -1})),
            "Invalid parameter. session_expiry is outside the allowed range.",
        ),
        (
            with(pair(), json!({"session_expiry": "soon"})),
            "Invalid parameter. session_expiry must be a whole number.",
        ),
        (
            with(pair(), json!({"call_time_limit": 86401})),
            "Invalid parameter. call_time_limit is outside the allowed range.",
        ),
        (
            with(pair(), json!({"ring_timeout": 601})),
            "Invalid parameter. ring_timeout is outside the allowed range. Allowed: 1 to 600 seconds.",
        ),
        (
            with(pair(), json!({"virtual_number_cooloff_period": 3601})),
            "Invalid parameter. virtual_number_cooloff_period is outside the allowed range. Allowed: 1 to 3600 seconds.",
        ),
        (
            with(pair(), json!({"record": "perhaps"})),
            "Invalid parameter. record allowed values are true or false.",
        ),
        (
            with(pair(), json!({"record_file_format": "ogg"})),
            "Invalid parameter. record_file_format allowed values are mp3 or wav.",
        ),
        (
            with(pair(), json!({"recording_callback_url": "nowhere"})),
            "Invalid parameter. recording_callback_url should be a valid URL.",
        ),
        (
            with(pair(), json!({"recording_callback_url": format!("http://a/{}", "x".repeat(1000))})),
            "Invalid parameter. recording_callback_url should be under 1000 characters.",
        ),
        (
            with(pair(), json!({"callback_method": "PUT"})),
            "Invalid parameter. callback_method allowed values are GET or POST.",
        ),
        (
            json!({
                "first_party": "12125550001", "create_session_with_single_party": true,
                "initiate_call_to_first_party": true,
            }),
            "Invalid parameter. initiate_call_to_first_party is allowed only with both parties.",
        ),
        (
            with(pair(), json!({"force_pin_authentication": true})),
            "Invalid parameter. force_pin_authentication is allowed only with is_pin_authentication_required.",
        ),
        (with(pair(), pin.clone()), "Mandatory parameter missing. first_party_pin must be present."),
        (
            with(pair(), with(pin.clone(), json!({"first_party_pin": "1234"}))),
            "Mandatory parameter missing. second_party_pin must be present.",
        ),
        (
            with(pair(), with(pin.clone(), json!({"first_party_pin": "123", "second_party_pin": "4567"}))),
            "Invalid parameter. first_party_pin is not a valid PIN. Allowed: 4 to 15 digits.",
        ),
        (
            with(pair(), with(pin.clone(), json!({"first_party_pin": "1234", "second_party_pin": "1234"}))),
            "Invalid parameter. second_party_pin must differ from first_party_pin",
        ),
        (
            with(pair(), with(pin.clone(), json!({"first_party_pin": "1234", "second_party_pin": "12345"}))),
            "Invalid parameter. second_party_pin must differ from first_party_pin, and neither may begin",
        ),
        (
            with(pair(), with(pin.clone(), json!({"generate_pin": true, "generate_pin_length": 3}))),
            "Invalid parameter. generate_pin_length is outside the allowed range. Allowed: 4 to 15.",
        ),
        (
            with(pair(), with(pin.clone(), json!({"generate_pin": true, "pin_retry": 6}))),
            "Invalid parameter. pin_retry is outside the allowed range. Allowed: 0 to 5.",
        ),
        (
            with(pair(), with(pin, json!({"generate_pin": true, "pin_retry_wait": 4}))),
            "Invalid parameter. pin_retry_wait is outside the allowed range. Allowed: 5 to 10 seconds.",
        ),
    ];
    for (body, text) in rows {
        let answer = service.create(body.clone()).await;
        assert_eq!(answer.status, 400, "{body}");
        assert!(answer.error().starts_with(text), "{body}\n got: {}", answer.error());
    }
    assert_eq!(service.get("Masking/Session/").await.body["response"]["meta"]["total_count"], 0);
}

#[tokio::test]
async fn bodies_that_cannot_be_read_get_json_errors() {
    let service = Service::start(1).await;
    let path = format!("/v1/Account/{ID}/Masking/Session/");
    let post = async |body: String| service.raw(Method::POST, &path, Some(basic(ID, TOKEN)), body).await;
    for (body, status, text) in [
        ("{\"first_party\":".to_owned(), 400, "The body is not valid JSON: line 1"),
        ("first_party=1&second_party=2".to_owned(), 400, "The body is not valid JSON: line 1"),
        ("[]".to_owned(), 400, "The body must be a JSON object"),
        ("[".repeat(1000), 400, "The body is not valid JSON"),
        (String::new(), 400, "Mandatory parameter missing. first_party"),
        (
            format!("{{\"a\": \"{}\"}}", "x".repeat(65_536)),
            413,
            "The body is too large. Allowed: 65536 bytes.",
        ),
    ] {
        let answer = post(body).await;
        assert_eq!(answer.status, status, "{}", answer.body);
        assert!(answer.error().starts_with(text), "{}", answer.error());
        assert!(answer.body["api_id"].is_string());
    }
}

#[test]
fn no_error_text_repeats_what_was_sent() {
    let params =
        params::Params::parse(br#"{"first_party": "49170secret", "second_party": "12125550002"}"#).unwrap();
    let error = session_body::new_session(params, ID, |_: &E164| false).unwrap_err();
    assert!(!error.text.contains("secret") && !error.text.contains("49170"), "{}", error.text);
    let params = params::Params::parse(
        br#"{"first_party": "12125550001", "second_party": "12125550002", "is_pin_authentication_required": true,
             "first_party_pin": "99x9", "second_party_pin": "1234"}"#,
    );
    let error = session_body::new_session(params.unwrap(), ID, |_: &E164| false).unwrap_err();
    assert!(!error.text.contains("99x9"), "{}", error.text);
}

//! Answers beside the samples that are published with Plivo's SDKs: the same keys, in the same order, of the same
//! types. The lists are the samples' keys (2024, the newest), with `s`tring, `i`nteger, `b`oolean, `n`ull and
//! `a`rray.

use super::*;

/// Create, read and update.
const SESSION: &str = "first_party s, second_party s, virtual_number s, status s, initiate_call_to_first_party b, \
    session_uuid s, callback_url s, callback_method s, created_time s, modified_time s, expiry_time s, duration i, \
    amount i, call_time_limit i, ring_timeout i, first_party_play_url s, second_party_play_url s, record b, \
    record_file_format s, recording_callback_url s, recording_callback_method s, interaction INTERACTION, \
    total_call_amount i, total_call_count i, total_call_billed_duration i, total_session_amount i, \
    last_interaction_time s, unknown_caller_play s, is_pin_authentication_required b";
const NO_PIN: &str = "generate_pin n, generate_pin_length n, first_party_pin n, second_party_pin n, pin_prompt_play n, \
    pin_retry n, pin_retry_wait n, incorrect_pin_play n";
const PIN: &str = "generate_pin b, generate_pin_length i, first_party_pin s, second_party_pin s, pin_prompt_play s, \
    pin_retry i, pin_retry_wait i, incorrect_pin_play s";
/// What came with September 2024.
const LATEST: &str =
    "create_session_with_single_party SINGLE, virtual_number_cooloff_period i, force_pin_authentication b";
/// The amount that the samples have in it is absent when it is 0.
const INTERACTION: &str = "start_time s, end_time s, first_party_resource_url s, second_party_resource_url s, type s, \
    call_billed_duration i, total_call_count i, duration i";
const META: &str = "limit i, next n, offset i, previous n, total_count i";

fn shape(object: &Value) -> Vec<String> {
    let kind = |value: &Value| match value {
        Value::Null => "n",
        Value::Bool(_) => "b",
        Value::Number(number) if number.is_u64() => "i",
        Value::Number(_) => "f",
        Value::String(_) => "s",
        Value::Array(_) => "a",
        Value::Object(_) => "o",
    };
    let fields = object.as_object().unwrap_or_else(|| panic!("{object} is no object"));
    fields.iter().map(|(key, value)| format!("{key} {}", kind(value))).collect()
}

fn keys(list: &str) -> Vec<String> {
    list.split(", ").map(|entry| entry.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

fn session_shape(pin: &str, interaction: &str, single: &str) -> Vec<String> {
    keys(&format!("{SESSION}, {pin}, {LATEST}").replace("INTERACTION", interaction).replace("SINGLE", single))
}

fn sorted(mut keys: Vec<String>) -> Vec<String> {
    keys.sort();
    keys
}

#[tokio::test]
async fn answers_have_the_samples_keys_in_their_order_and_of_their_types() {
    let service = Service::start(2).await;
    at_start(async {
        let created = service.create(pair()).await.body;
        assert_eq!(
            shape(&created),
            keys("api_id s, session_uuid s, virtual_number s, message s, session o")
        );
        assert_eq!(shape(&created["session"]), session_shape(NO_PIN, "n", "n"));
        let uuid = created["session_uuid"].as_str().unwrap();
        let path = format!("Masking/Session/{uuid}/");
        let read = service.get(&path).await.body;
        assert_eq!(shape(&read), keys("api_id s, response o"));
        assert_eq!(shape(&read["response"]), session_shape(NO_PIN, "n", "n"));
        let updated = service.call(Method::POST, &path, json!({"ring_timeout": 60})).await.body;
        assert_eq!(shape(&updated), keys("api_id s, message s, session o"));
        assert_eq!(shape(&updated["session"]), session_shape(NO_PIN, "n", "n"));

        make_call(&service, uuid, true).await;
        let read = service.get(&path).await.body;
        assert_eq!(shape(&read["response"]), session_shape(NO_PIN, "a", "n"));
        assert_eq!(shape(&read["response"]["interaction"][0]), keys(INTERACTION));
        let listed = service.get("Masking/Session/").await.body;
        assert_eq!(shape(&listed), keys("api_id s, response o"));
        assert_eq!(shape(&listed["response"]), keys("meta o, objects a"));
        assert_eq!(shape(&listed["response"]["meta"]), keys(META));
        let object = &listed["response"]["objects"][0];
        let mut all = session_shape(NO_PIN, "a", "n");
        all.push("resource_uri s".to_owned());
        assert_eq!(shape(object), sorted(all), "a list sorts");
        assert_eq!(shape(&object["interaction"][0]), sorted(keys(INTERACTION)));
        assert_eq!(object["resource_uri"], format!("/v1/Account/{ID}/Masking/Session/{uuid}/"));

        let deleted = service.call(Method::DELETE, &path, json!({})).await.body;
        assert_eq!(shape(&deleted), keys("api_id s, message s"));
        let refused = service.call(Method::DELETE, &path, json!({})).await.body;
        assert_eq!(shape(&refused), keys("api_id s, error s"));

        let pin = json!({
            "is_pin_authentication_required": true, "generate_pin": true, "create_session_with_single_party": true,
        });
        let created = service.create(with(pair(), pin)).await.body;
        assert_eq!(shape(&created["session"]), session_shape(PIN, "n", "b"));
    })
    .await;
}

#[tokio::test]
async fn a_call_that_only_one_leg_had_lacks_the_others_url_and_what_is_0() {
    let service = Service::start(1).await;
    at_start(async {
        let uuid = service.session(pair()).await;
        let id = Uuid::parse_str(&uuid).unwrap();
        let session = service.store.find_session(ID, id).await.unwrap().unwrap();
        let at = |second: i64| Timestamp::from_second(START + second).unwrap();
        let opened = LegOpened {
            interaction: Uuid::new_v4(),
            leg: Uuid::new_v4(),
            session: Some(id),
            account: Some(ID.into()),
            side: Side::A,
            attempt: 1,
            virtual_number: Some(session.virtual_number.clone()),
            party: session.first_party.clone(),
            role: Some(PartyRole::First),
            trunk: "local".into(),
            started_at: at(1),
        };
        service.store.open_leg(opened.clone()).await.unwrap();
        let path = format!("Masking/Session/{uuid}/");
        let running = service.get(&path).await.body["response"].clone();
        assert_eq!(running["interaction"][0]["end_time"], "", "it goes on");
        assert_eq!((&running["status"], &running["last_interaction_time"]), (&json!("in-progress"), &json!("")));
        let leg = LegCdr {
            opened: opened.clone(),
            ringing_at: None,
            answered_at: None,
            ended_at: at(9),
            hangup_cause_name: "Canceled",
            hangup_cause_code: 1000,
            hangup_source: "Caller",
            sip_status: Some(487),
            q850_cause: Some(16),
            packets_received: 0,
            packets_sent: 0,
            packets_lost: 0,
            jitter: 0,
            quality: None,
        };
        let cdr = Cdr {
            interaction: opened.interaction,
            session: Some(id),
            virtual_number: Some(session.virtual_number.clone()),
            started_at: at(1),
            ended_at: at(9),
            recording: None,
            legs: vec![leg],
            events: vec![],
        };
        service.store.close_call(cdr).await.unwrap();
        let session = service.get(&path).await.body["response"].clone();
        assert_eq!(
            session["interaction"],
            json!([{
                "start_time": "2024-02-01 06:28:16 +0000 UTC", "end_time": "2024-02-01 06:28:24 +0000 UTC",
                "first_party_resource_url": format!("http://masking.example:8080/v1/Account/{ID}/Call/{}", opened.leg),
                "type": "call", "total_call_count": 1, "duration": 0,
            }])
        );
        assert_eq!((&session["total_call_count"], &session["total_call_billed_duration"]), (&json!(1), &json!(0)));
    })
    .await;
}

#[tokio::test]
async fn a_recorded_call_names_no_recording_before_it_can_be_fetched() {
    let service = Service::start(1).await;
    at_start(async {
        let uuid = service.session(pair()).await;
        let id = Uuid::parse_str(&uuid).unwrap();
        let session = service.store.find_session(ID, id).await.unwrap().unwrap();
        make_call(&service, &uuid, true).await;
        let interaction = service.store.interactions(id).await.unwrap().remove(0);
        let cdr = Cdr {
            interaction: interaction.uuid,
            session: Some(id),
            virtual_number: Some(session.virtual_number.clone()),
            started_at: interaction.started_at,
            ended_at: interaction.ended_at.unwrap(),
            recording: Some(crate::store::RecordingRow {
                directory: "2024/02/01/x".into(),
                samples: 8000,
                complete: true,
            }),
            legs: vec![],
            events: vec![],
        };
        service.store.close_call(cdr).await.unwrap();
        let shown = service.get(&format!("Masking/Session/{uuid}/")).await.body["response"].clone();
        // Its file is still to be made: a URL that cannot be fetched is not handed out.
        assert_eq!(shown["interaction"][0].get("recording_resource_url"), None);
    })
    .await;
}

#[tokio::test]
async fn the_planned_length_is_that_of_the_exact_times() {
    let service = Service::start(1).await;
    let uuid = service.session(pair()).await;
    let uuid = Uuid::parse_str(&uuid).unwrap();
    let mut session = service.store.find_session(ID, uuid).await.unwrap().unwrap();
    let at = |text: &str| text.parse::<Timestamp>().unwrap();
    // One of the samples: created, changed with 600, and planned for 612 s, although the seconds differ by 613.
    session.created_at = at("2023-07-05T10:53:32.81Z");
    session.expires_at = at("2023-07-05T11:03:45.106117Z");
    let object = session_view::SessionObject::of(&session, &[], "", session.created_at);
    let shown = serde_json::to_value(object).unwrap();
    assert_eq!(
        (&shown["duration"], &shown["expiry_time"]),
        (&json!(612), &json!("2023-07-05 11:03:45 +0000 UTC"))
    );
}

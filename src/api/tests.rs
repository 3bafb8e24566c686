//! The API through its router, on a store of its own. The clock is a value that each test moves.

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::AtomicI64;

use axum::body::Body;
use axum::http::Method;
use data_encoding::BASE64;
use media::Side;
use serde_json::{Value, json};
use tower::ServiceExt;

mod description;
mod shapes;

use super::*;
use crate::masking::session::PartyRole;
use crate::number::{Did, E164};
use crate::store::{Cdr, LegCdr, LegOpened, NoSession, VirtualNumberConfig};

const ID: &str = "MAAAAAAAAAAAAAAAAAAA";
const OTHER: &str = "MABBBBBBBBBBBBBBBBBB";
const TOKEN: &str = "token-of-the-account";
const START: i64 = 1_706_768_895; // 2024-02-01 06:28:15

tokio::task_local! {
    static CLOCK: AtomicI64;
}

mod recordings;

#[derive(Default)]
struct Calls {
    ended: Mutex<Vec<Uuid>>,
    initiated: Mutex<Vec<Uuid>>,
}

impl CallControl for Calls {
    fn hang_up_session(&self, session: Uuid) {
        self.ended.lock().unwrap().push(session);
    }

    fn initiate_call(&self, session: MaskingSession) {
        self.initiated.lock().unwrap().push(session.uuid);
    }

    fn hang_up_call(&self, interaction: Uuid) -> bool {
        self.ended.lock().unwrap().push(interaction);
        true
    }
}

struct Service {
    router: Router,
    store: Store,
    calls: Arc<Calls>,
    readiness: Readiness,
    directory: PathBuf,
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

struct Answer {
    status: u16,
    body: Value,
}

impl Answer {
    fn error(&self) -> &str {
        self.body["error"].as_str().unwrap_or("no error text")
    }
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", BASE64.encode(format!("{user}:{password}").as_bytes()))
}

impl Service {
    async fn start(numbers: usize) -> Self {
        let directory = std::env::temp_dir().join(format!("maskline-api-{}", Uuid::new_v4()));
        let store = Store::open(&format!("sqlite://{}/m.db", directory.display())).await.unwrap();
        let accounts = [(ID.to_owned(), TOKEN.to_owned()), (OTHER.to_owned(), "other".to_owned())];
        store.ensure_account(&accounts, Timestamp::UNIX_EPOCH).await.unwrap();
        let numbers: Vec<_> = (0..numbers)
            .map(|index| VirtualNumberConfig {
                did: Did::parse(&format!("1202555{:04}", 100 + index)).unwrap(),
                trunk: "local".into(),
                account: None,
                no_session: NoSession::Reject,
            })
            .collect();
        store.sync_numbers(&numbers).await.unwrap();
        let (calls, readiness) = (Arc::new(Calls::default()), Readiness::default());
        let now = || {
            let second = CLOCK.try_with(|clock| clock.load(Ordering::Relaxed)).unwrap_or(START);
            Timestamp::from_second(second).unwrap()
        };
        let opened = crate::recording::Recordings::open(store.clone(), &directory.join("recordings")).await;
        let recordings = Some(opened.unwrap().0);
        let state = ApiState {
            now,
            recordings,
            ..ApiState::new(store.clone(), readiness.clone(), calls.clone(), None)
        };
        Self { router: router(state), store, calls, readiness, directory }
    }

    async fn raw(
        &self,
        method: Method,
        path: &str,
        authorization: Option<String>,
        body: impl Into<Body>,
    ) -> Answer {
        let mut request =
            Request::builder().method(method).uri(path).header(header::HOST, "masking.example:8080");
        if let Some(authorization) = authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let response = self.router.clone().oneshot(request.body(body.into()).unwrap()).await.unwrap();
        let status = response.status().as_u16();
        let bytes = axum::body::to_bytes(response.into_body(), 4 << 20).await.unwrap();
        let text = Value::String(String::from_utf8_lossy(&bytes).into_owned());
        Answer { status, body: serde_json::from_slice(&bytes).unwrap_or(text) }
    }

    async fn call(&self, method: Method, rest: &str, body: Value) -> Answer {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let answer =
            self.raw(method, &format!("/v1/Account/{ID}/{rest}"), Some(basic(ID, TOKEN)), body).await;
        assert!(
            answer.body["api_id"].as_str().is_some_and(|id| Uuid::parse_str(id).is_ok()),
            "{}",
            answer.body
        );
        answer
    }

    async fn create(&self, body: Value) -> Answer {
        self.call(Method::POST, "Masking/Session/", body).await
    }

    async fn get(&self, rest: &str) -> Answer {
        self.call(Method::GET, rest, Value::Null).await
    }

    async fn session(&self, body: Value) -> String {
        let answer = self.create(body).await;
        assert_eq!(answer.status, 201, "{}", answer.body);
        answer.body["session_uuid"].as_str().unwrap().to_owned()
    }
}

/// Runs `test` with a clock at [`START`].
async fn at_start<T>(test: impl Future<Output = T>) -> T {
    CLOCK.scope(AtomicI64::new(START), test).await
}

fn move_to(second: i64) {
    CLOCK.with(|clock| clock.store(START + second, Ordering::Relaxed));
}

fn pair() -> Value {
    json!({"first_party": "+12125550001", "second_party": "12125550002"})
}

fn with(mut base: Value, more: Value) -> Value {
    let Value::Object(more) = more else { panic!("{more} is no object") };
    base.as_object_mut().unwrap().extend(more);
    base
}

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
        "sub_account": "SAXXXXXXXXXXXXXXXXXX",
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
        ("subaccount", json!("SAXXXXXXXXXXXXXXXXXX")),
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
async fn lists_filter_and_page() {
    let service = Service::start(2).await;
    at_start(async {
        for index in 0..5 {
            move_to(60 * index);
            let parties = json!({
                "first_party": format!("1212555{index:04}"), "second_party": format!("1313555{index:04}"),
                "session_expiry": 100 * (index + 1),
            });
            service.session(parties).await;
        }
        move_to(300);
        let list = async |query: &str| {
            let answer = service.get(&format!("Masking/Session/?{query}")).await;
            assert_eq!(answer.status, 200, "{query}: {}", answer.body);
            let objects = answer.body["response"]["objects"].as_array().unwrap().clone();
            let parties: Vec<_> = objects
                .iter()
                .map(|object| {
                    object["first_party"].as_str().unwrap().trim_start_matches("1212555000").to_owned()
                })
                .collect();
            parties.concat()
        };
        for (query, expected) in [
            ("", "43210"),
            ("first_party=%2B12125550003", "3"),
            ("second_party=13135550002&status=all", "2"),
            ("virtual_number=12025550101", ""),
            ("status=active", "432"),
            ("status=expired", "10"),
            ("status=in-progress", ""),
            ("status=active&first_party=12125550000", ""),
            ("created_time__gt=2024-02-01+06:29:15", "432"),
            ("created_time__gte=2024-02-01%2006:29:15", "4321"),
            ("created_time__lt=2024-02-01 06:29:15".replace(' ', "+").as_str(), "0"),
            ("created_time__lte=2024-02-01+06:29:15", "10"),
            ("created_time=2024-02-01+06:29:15", "1"),
            ("created_times=2024-02-01+06:29:15.000000", "1"),
            ("created_time_gte=2024-02-01+06:31", "43"),
            ("expiry_time__lte=2024-02-01+06:32:35", "10"),
            ("duration=300", "2"),
            ("durations=300", "2"),
            ("duration__gt=300", "43"),
            ("duration__lt=300&duration__gte=200", "1"),
            ("unknown=1&limit=2", "43"),
            ("limit=2&offset=3", "10"),
            ("offset=5", ""),
        ] {
            assert_eq!(list(query).await, expected, "{query}");
        }
        let answer = service.get("Masking/Session/?limit=2&offset=2&status=all").await;
        let response = &answer.body["response"];
        assert_eq!(
            response["meta"],
            json!({
                "limit": 2,
                "next": format!("/v1/Account/{ID}/Masking/Session/?limit=2&offset=4&status=all"),
                "offset": 2,
                "previous": format!("/v1/Account/{ID}/Masking/Session/?limit=2&offset=0&status=all"),
                "total_count": 5,
            })
        );
        let object = &response["objects"][0];
        let uri = format!("/v1/Account/{ID}/Masking/Session/{}/", object["session_uuid"].as_str().unwrap());
        assert_eq!(object["resource_uri"], uri);
        let whole = service.get("Masking/Session/").await;
        assert_eq!(
            whole.body["response"]["meta"],
            json!({"limit": 20, "next": null, "offset": 0, "previous": null, "total_count": 5})
        );
        for (query, text) in [
            ("limit=21", "Invalid parameter. limit is outside the allowed range. Allowed: 1 to 20."),
            ("limit=0", "Invalid parameter. limit is outside the allowed range."),
            ("offset=-1", "Invalid parameter. offset is outside the allowed range."),
            (
                "status=gone",
                "Invalid parameter. status allowed values are active, in-progress, expired or all.",
            ),
            (
                "created_time__gt=yesterday",
                "Invalid parameter. created_time__gt is not a valid time. Allowed: YYYY-MM-DD",
            ),
            ("duration=long", "Invalid parameter. duration must be a whole number."),
        ] {
            let answer = service.get(&format!("Masking/Session/?{query}")).await;
            assert_eq!(answer.status, 400, "{query}");
            assert!(answer.error().starts_with(text), "{query}: {}", answer.error());
        }
        move_to(8 * 86_400);
        assert_eq!(list("").await, "", "without bounds the last seven days");
        assert_eq!(list("created_time__gte=2024-01-01+00:00").await, "43210");
    })
    .await;
}

async fn make_call(service: &Service, uuid: &str, ended: bool) -> (Uuid, Uuid) {
    let session = service.store.find_session(ID, Uuid::parse_str(uuid).unwrap()).await.unwrap().unwrap();
    let at = |second: i64| Timestamp::from_second(START + second).unwrap();
    let interaction = Uuid::new_v4();
    let opened = |side, attempt, role| LegOpened {
        interaction,
        leg: Uuid::new_v4(),
        session: Some(session.uuid),
        account: Some(ID.into()),
        side,
        attempt,
        virtual_number: Some(session.virtual_number.clone()),
        party: session.party(role).cloned(),
        role: Some(role),
        trunk: "local".into(),
        started_at: at(10),
    };
    let a = opened(Side::A, 0, PartyRole::Second);
    let b = [opened(Side::B, 1, PartyRole::First), opened(Side::B, 2, PartyRole::First)];
    service.store.open_leg(a.clone()).await.unwrap();
    let (a_uuid, b_uuid) = (a.leg, b[1].leg);
    if ended {
        let closed =
            |opened: LegOpened, answered: Option<i64>, end: i64, cause: (&'static str, u16)| LegCdr {
                opened,
                ringing_at: None,
                answered_at: answered.map(at),
                ended_at: at(end),
                hangup_cause_name: cause.0,
                hangup_cause_code: cause.1,
                hangup_source: "Caller",
                sip_status: None,
                packets_received: 5,
                packets_sent: 6,
                packets_lost: 0,
                jitter: 0,
            };
        let [failed, good] = b;
        let normal = ("Normal Hangup", 4000);
        let legs = vec![
            closed(a, Some(20), 40, normal),
            closed(failed, None, 12, ("Network Error", 5000)),
            closed(good, Some(20), 29, normal),
        ];
        let cdr = Cdr {
            interaction,
            session: Some(session.uuid),
            virtual_number: Some(session.virtual_number.clone()),
            started_at: at(10),
            ended_at: at(40),
            recording: None,
            legs,
            events: vec![],
        };
        service.store.close_call(cdr).await.unwrap();
    }
    (a_uuid, b_uuid)
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

#[tokio::test]
async fn health_needs_no_credentials_and_readiness_follows_calls_and_database() {
    let service = Service::start(1).await;
    let status = async |path: &str| service.raw(Method::GET, path, None, "").await.status;
    assert_eq!(
        (status("/healthz").await, status("/readyz").await, status("/metrics").await),
        (200, 503, 200)
    );
    service.readiness.set(true);
    assert_eq!(status("/readyz").await, 200);
    service.store.close().await;
    assert_eq!((status("/healthz").await, status("/readyz").await), (200, 503));
    let answer = service.create(pair()).await;
    assert_eq!((answer.status, answer.error()), (500, "Internal server error."));
}

#[tokio::test]
async fn metrics_show_what_was_recorded() {
    let service = Service::start(0).await;
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    metrics::with_local_recorder(&recorder, || metrics::counter!("maskline_test_total").increment(3));
    let calls: Arc<dyn CallControl> = service.calls.clone();
    let state = ApiState::new(service.store.clone(), Readiness::default(), calls, Some(handle));
    let request = Request::builder().uri("/metrics").body(Body::empty()).unwrap();
    let response = router(state).oneshot(request).await.unwrap();
    let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
    assert!(String::from_utf8_lossy(&bytes).contains("maskline_test_total 3"));
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

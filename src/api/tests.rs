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

mod accounts;
mod bodies;
mod creates;
mod description;
mod events;
mod limits;
mod lists;
mod numbers;
mod samples;
mod sessions;
mod shapes;

use super::*;
use crate::masking::session::PartyRole;
use crate::number::{Did, E164};
use crate::store::{Cdr, LegCdr, LegOpened, NoSession, NumberChange, VirtualNumberConfig};

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
        let url = format!("sqlite://{}/m.db", directory.display());
        let store = Store::open_with_key(&url, crate::store::SealKey::draw()).await.unwrap();
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
        let trunks = Arc::new(["local".to_owned(), "carrier".to_owned()]);
        let gateway = crate::trunk::Gateway::parse("sip:198.51.100.9").unwrap();
        let forwarding = Forwarding::new([&gateway], ["sip:+12025550199@203.0.113.5"]);
        let opened = crate::recording::Recordings::open(store.clone(), &directory.join("recordings")).await;
        let recordings = Some(opened.unwrap().0);
        let state = ApiState {
            now,
            trunks,
            forwarding,
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
                q850_cause: Some(16),
                packets_received: 5,
                packets_sent: 6,
                packets_lost: 0,
                jitter: 0,
                quality: None,
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

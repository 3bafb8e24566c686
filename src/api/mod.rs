//! The REST API in Plivo's manner, and the health and metrics pages beside it.
//!
//! | path | does |
//! | --- | --- |
//! | `/v1/Account/{auth_id}/Masking/Session/` | POST creates, GET lists |
//! | `/v1/Account/{auth_id}/Masking/Session/{uuid}/` | GET reads, POST updates, DELETE ends (`?hangup=true`: its calls too) |
//! | `/v1/Account/{auth_id}/Call/` | GET lists legs; `?status=live`: the uuids of those that live |
//! | `…/Call/{uuid}/` | GET reads a leg, DELETE hangs up its call |
//! | `/v1/Account/{auth_id}/Recording/` | GET lists recordings |
//! | `…/Recording/{uuid}/` | GET reads, DELETE removes one |
//! | `…/Recording/{uuid}.mp3`, `.wav`; `…/{uuid}/a-leg.wav`, `b-leg.wav` | the sound |
//! | `/v1/Account/{auth_id}/Number/` and `…/Number/{number}/` | virtual numbers, also as CSV |
//! | `/v1/Account/{auth_id}/Subaccount/` and `…/Subaccount/{subauth_id}/` | sub-accounts |
//! | `/v1/Account/{auth_id}/Token/`, `…/Subaccount/{subauth_id}/Token/` | POST makes a new token |
//! | `/v1/Account/{auth_id}/Event/`, `…/Event/{uuid}/`, `…/Event/{uuid}/Replay/`, `…/Event/Replay/` | GET lists and reads what applications are told, POST tells it again |
//! | `/healthz`, `/readyz`, `/metrics`, `/trunks` | for the operator, without credentials |
//! | `/openapi.json`, `/docs/` | this API described, for programs and for people; without credentials |
//!
//! Paths may lack their last slash and may have one twice, because SDKs send them so. Every answer is JSON with
//! an `api_id`, errors included; whatever the client can cause is a 4xx, because SDKs repeat a request after a
//! 5xx. No answer and no log line repeats a value that was sent.

mod auth;
mod calls;
mod error;
mod events;
mod idempotency;
mod limit;
mod list;
mod numbers;
mod numbers_csv;
mod openapi;
mod params;
mod recordings;
mod serve;
mod session_body;
mod session_schema;
mod session_view;
mod sessions;
mod subaccounts;
mod time;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::extract::{Request, State};
use axum::http::{StatusCode, Uri, header};
use axum::middleware::{Next, from_fn, map_request};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use jiff::Timestamp;
use metrics_exporter_prometheus::PrometheusHandle;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::clock;
use crate::masking::session::MaskingSession;
use crate::prompts::PromptLibrary;
use crate::recording::Recordings;
use crate::store::Store;
use crate::trunk::forward::Forwarding;
use crate::trunk::gateways::{Gateways, TrunkView};
use error::ApiError;

pub use limit::Limiter;
pub(crate) use serve::CONNECTIONS;
pub use serve::serve;

/// What the API can do to calls.
pub trait CallControl: Send + Sync + 'static {
    /// Hangs up every live call of the session. Does not wait for it.
    fn hang_up_session(&self, session: Uuid);

    /// Hangs up one live call, both legs. False when this process has none of that interaction uuid. Does not
    /// wait for it.
    fn hang_up_call(&self, interaction: Uuid) -> bool;
    /// Calls the session's first party and then connects the second one. Does not wait for it.
    fn initiate_call(&self, session: MaskingSession);
}

/// Whether new calls are taken. Clones share it; it begins as not ready.
#[derive(Debug, Clone, Default)]
pub struct Readiness(Arc<AtomicBool>);

impl Readiness {
    /// Says whether new calls are taken from now on.
    pub fn set(&self, accepting: bool) {
        self.0.store(accepting, Ordering::Release);
    }

    /// Whether new calls are taken.
    #[must_use]
    pub fn is_accepting(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// What every request may use.
#[derive(Clone)]
pub struct ApiState {
    /// Accounts, sessions and call records.
    pub store: Store,
    /// What `/readyz` says.
    pub readiness: Readiness,
    /// The calls.
    pub calls: Arc<dyn CallControl>,
    /// What sessions name by URL is fetched when they are made, long before the first caller waits for it.
    pub prompts: PromptLibrary,
    /// Their files; `None`: none can be fetched.
    pub recordings: Option<Recordings>,
    /// Who may ask how often.
    pub limiter: Arc<Limiter>,
    /// The names of the trunks that can dial: numbers may name one of these.
    pub trunks: Arc<[String]>,
    /// Where numbers may forward calls to.
    pub forwarding: Forwarding,
    /// What `/metrics` shows; `None`: nothing.
    pub metrics: Option<PrometheusHandle>,
    /// What `/trunks` shows; `None`: nothing.
    pub gateways: Option<Arc<Gateways>>,
    /// How this API is reached from outside (`https://masking.example.com`), for the URLs in answers; `None`:
    /// `http://` and the request's own `Host`.
    pub base_url: Option<String>,
    /// Wall time.
    pub now: fn() -> Timestamp,
}

impl ApiState {
    /// With the system's clock, without prompts by URL, and with URLs as the request names its host.
    #[must_use]
    pub fn new(
        store: Store,
        readiness: Readiness,
        calls: Arc<dyn CallControl>,
        metrics: Option<PrometheusHandle>,
    ) -> Self {
        Self {
            store,
            readiness,
            calls,
            prompts: PromptLibrary::default(),
            recordings: None,
            limiter: Arc::default(),
            trunks: Arc::new([]),
            forwarding: Forwarding::default(),
            metrics,
            gateways: None,
            base_url: None,
            now: clock::wall_now,
        }
    }
}

/// The whole HTTP surface.
pub fn router(state: ApiState) -> Router {
    let (routes, description) = openapi::described()
        .merge(sessions::routes())
        .merge(calls::routes())
        .merge(recordings::routes())
        .merge(subaccounts::routes())
        .merge(numbers::routes())
        .merge(events::routes())
        .routes(routes!(healthz))
        .routes(routes!(readyz))
        .routes(routes!(show_metrics))
        .routes(routes!(show_trunks))
        .split_for_parts();
    let routes = routes
        .merge(openapi::pages(description))
        .fallback(|| async { ApiError::not_found("There is nothing at this path.") })
        .method_not_allowed_fallback(|| async { ApiError::method_not_allowed() })
        .with_state(state);
    // The paths are brought into one form before the routes are tried.
    Router::new()
        .fallback_service(routes)
        .layer(map_request(normalise))
        .layer(from_fn(serve::guard))
        .layer(from_fn(count))
}

/// Takes double slashes and the last one out of the path. The browsable description keeps its own: its links are
/// relative to them.
#[allow(clippy::unused_async)] // axum wants a future.
async fn normalise(mut request: Request) -> Request {
    let path = request.uri().path();
    if path.starts_with("/docs") {
        return request;
    }
    if path.contains("//") || (path.len() > 1 && path.ends_with('/')) {
        let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
        let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
        if let Ok(uri) = Uri::try_from(format!("/{}{query}", segments.join("/"))) {
            *request.uri_mut() = uri;
        }
    }
    request
}

async fn count(request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    let class = match response.status().as_u16() {
        200..=299 => "2xx",
        400..=499 => "4xx",
        500..=599 => "5xx",
        _ => "other",
    };
    metrics::counter!("maskline_api_requests_total", "status" => class).increment(1);
    response
}

/// Whether the process answers
#[utoipa::path(
    get,
    path = "/healthz",
    tag = "Operation",
    security(()),
    responses((status = 200, description = "It does.", body = String, content_type = "text/plain"))
)]
#[allow(clippy::unused_async)] // axum wants a future.
async fn healthz() -> &'static str {
    "ok\n"
}

/// Whether new calls are taken
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "Operation",
    security(()),
    responses(
        (status = 200, description = "They are.", body = String, content_type = "text/plain"),
        (status = 503, description = "They are not, and why.", body = String, content_type = "text/plain")
    )
)]
async fn readyz(State(state): State<ApiState>) -> (StatusCode, &'static str) {
    if !state.readiness.is_accepting() {
        return (StatusCode::SERVICE_UNAVAILABLE, "takes no new calls\n");
    }
    match state.store.ping().await {
        Ok(()) => (StatusCode::OK, "ready\n"),
        Err(error) => {
            tracing::warn!(%error, "not ready");
            (StatusCode::SERVICE_UNAVAILABLE, "the database does not answer\n")
        }
    }
}

/// Figures in Prometheus' text format
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "Operation",
    security(()),
    responses((status = 200, description = "The figures.", body = String, content_type = "text/plain"))
)]
#[allow(clippy::unused_async)] // axum wants a future.
async fn show_metrics(State(state): State<ApiState>) -> Response {
    let text = state.metrics.as_ref().map(PrometheusHandle::render).unwrap_or_default();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

/// Which gateways take calls, and why others do not
///
/// What this node knows, from its calls and, where `trunks[].options_seconds` says so, by OPTIONS.
#[utoipa::path(
    get,
    path = "/trunks",
    tag = "Operation",
    security(()),
    responses((status = 200, description = "Every trunk, gateway and target.", body = Vec<TrunkView>))
)]
#[allow(clippy::unused_async)] // axum wants a future.
async fn show_trunks(State(state): State<ApiState>) -> Json<Vec<TrunkView>> {
    Json(state.gateways.map(|gateways| gateways.view()).unwrap_or_default())
}

#[cfg(test)]
mod tests;

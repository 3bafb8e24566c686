//! The Event resource, ours: what applications were told or are still to be told, and how to tell them again.
//!
//! An event shows the parties' real numbers, as its callback does: it is its owner's.

use axum::body::Body;
use axum::extract::{FromRequestParts, Path, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::Response;
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::ApiState;
use super::auth::Tenant;
use super::error::{ApiError, Refusals, answer};
use super::list::{Meta, Page, query_of};
use super::params::Params;
use super::session_schema::AccountPath;
use super::sessions::base_url;
use super::time::go_style;
use crate::store::{EventFilter, EventState, StoredEvent};

/// The resource's paths.
pub(super) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(replay_dead))
        .routes(routes!(read))
        .routes(routes!(replay))
}

#[derive(Serialize, ToSchema)]
struct EventObject {
    event_uuid: Uuid,
    /// What `EventName` says.
    event_name: String,
    /// Null: no one session is meant, and the event is only kept for the account.
    session_uuid: Option<Uuid>,
    /// Its place among the events of its session, from 1; 0 without a session.
    sequence_number: u64,
    event_time: String,
    #[schema(inline)]
    state: Progress,
    /// Attempts to deliver it, since it was replayed last.
    attempts: u32,
    last_attempt_time: Option<String>,
    /// When it was delivered or given up.
    settled_time: Option<String>,
    /// The receiver's last answer.
    last_status: Option<u16>,
    /// What was wrong with the last attempt.
    last_failure: Option<String>,
    /// Empty: it is sent nowhere.
    callback_url: String,
    callback_method: &'static str,
    /// What is sent, by name.
    #[schema(value_type = std::collections::HashMap<String, String>)]
    parameters: Map<String, Value>,
    resource_uri: String,
}

/// How far an event is.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Progress {
    /// It waits for its turn or for the next attempt.
    Pending,
    /// The receiver has taken it.
    Delivered,
    /// It was given up after a day; it can be replayed.
    Dead,
    /// It is the account's and is sent nowhere.
    Kept,
}

impl From<EventState> for Progress {
    fn from(state: EventState) -> Self {
        match state {
            EventState::Pending => Self::Pending,
            EventState::Delivered => Self::Delivered,
            EventState::Dead => Self::Dead,
            EventState::Kept => Self::Kept,
        }
    }
}

impl EventObject {
    fn of(event: StoredEvent, base: &str) -> Self {
        let sent = if event.url.is_empty() { event.parameters.clone() } else { event.sent(base) };
        Self {
            event_uuid: event.uuid,
            event_name: event.name,
            session_uuid: event.session,
            sequence_number: event.sequence,
            event_time: go_style(event.happened_at),
            state: event.state.into(),
            attempts: event.attempts,
            last_attempt_time: event.tried_at.map(go_style),
            settled_time: event.settled_at.filter(|_| event.state != EventState::Kept).map(go_style),
            last_status: event.http_status,
            last_failure: event.failure,
            callback_url: event.url,
            callback_method: event.method.as_str(),
            parameters: sent.into_iter().map(|(name, value)| (name, value.into())).collect(),
            resource_uri: format!("/v1/Account/{}/Event/{}/", event.account, event.uuid),
        }
    }
}

#[derive(Serialize, ToSchema)]
struct EventRead {
    api_id: Uuid,
    response: EventObject,
}

#[derive(Serialize, ToSchema)]
struct EventPage {
    meta: Meta,
    objects: Vec<EventObject>,
}

#[derive(Serialize, ToSchema)]
struct EventsListed {
    api_id: Uuid,
    response: EventPage,
}

#[derive(Serialize, ToSchema)]
struct Replayed {
    api_id: Uuid,
    message: &'static str,
    /// How many events are sent again. At most 500 at a time: repeat it until this is 0.
    count: u64,
}

/// Which events are replayed.
#[derive(ToSchema)]
#[allow(dead_code)] // For `/openapi.json`.
struct ReplayWish {
    /// Those of this session only.
    #[schema(nullable = false)]
    session_uuid: Option<Uuid>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[allow(dead_code)] // For `/openapi.json`.
struct EventPath {
    /// The account's auth id.
    auth_id: String,
    /// The event's uuid.
    event_uuid: Uuid,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code)] // For `/openapi.json`.
struct EventQuery {
    /// Events of this session only.
    #[param(nullable = false)]
    session_uuid: Option<Uuid>,
    /// `pending`, `delivered`, `dead` or `kept`.
    #[param(nullable = false)]
    state: Option<String>,
    #[param(minimum = 1, maximum = 20, default = 20, nullable = false)]
    limit: Option<u32>,
    #[param(minimum = 0, default = 0, nullable = false)]
    offset: Option<i64>,
}

/// The uuid in the path. What is no uuid names nothing.
struct Item(Option<Uuid>);

impl FromRequestParts<ApiState> for Item {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, ApiError> {
        let path = Path::<(String, String)>::from_request_parts(parts, state).await;
        Ok(Self(path.ok().and_then(|Path((_, uuid))| Uuid::parse_str(&uuid).ok())))
    }
}

fn unknown() -> ApiError {
    ApiError::not_found("Event not found.")
}

fn session_of(params: &Params) -> Result<Option<Uuid>, ApiError> {
    let invalid = || ApiError::invalid("session_uuid", "is not a valid uuid.");
    let text = params.text("session_uuid")?;
    text.map(|text| Uuid::parse_str(&text).map_err(|_| invalid())).transpose()
}

/// List events
///
/// Newest first. Delivered events are kept for 7 days, all others that wait for nothing for 30.
#[utoipa::path(
    get,
    path = "/v1/Account/{auth_id}/Event",
    tag = "Events",
    operation_id = "listEvents",
    params(AccountPath, EventQuery),
    responses((status = 200, description = "One page of the list.", body = EventsListed), Refusals)
)]
async fn list(
    State(state): State<ApiState>,
    tenant: Tenant,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let query = query_of(&uri)?;
    let params = Params::from_query(query.clone());
    let page = Page::read(&params)?;
    let wanted = params.text("state")?.map(|text| {
        EventState::parse(&text)
            .ok_or_else(|| ApiError::invalid("state", "allowed values are pending, delivered, dead or kept."))
    });
    let filter = EventFilter {
        subaccount: tenant.subaccount,
        session: session_of(&params)?,
        state: wanted.transpose()?,
    };
    let (events, total) = state.store.list_events(&tenant.account, &filter, page.limit, page.offset).await?;
    let meta = page.meta(&uri, &query, total);
    let base = base_url(&state, &headers);
    let objects = events.into_iter().map(|event| EventObject::of(event, &base)).collect();
    let response = EventPage { meta, objects };
    Ok(answer(StatusCode::OK, &EventsListed { api_id: Uuid::new_v4(), response }))
}

/// Read an event
#[utoipa::path(
    get,
    path = "/v1/Account/{auth_id}/Event/{event_uuid}",
    tag = "Events",
    operation_id = "readEvent",
    params(EventPath),
    responses((status = 200, description = "The event.", body = EventRead), Refusals)
)]
async fn read(
    State(state): State<ApiState>,
    tenant: Tenant,
    Item(uuid): Item,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let uuid = uuid.ok_or_else(unknown)?;
    let event = state.store.find_event(&tenant.account, tenant.subaccount.as_deref(), uuid).await?;
    let response = EventObject::of(event.ok_or_else(unknown)?, &base_url(&state, &headers));
    Ok(answer(StatusCode::OK, &EventRead { api_id: Uuid::new_v4(), response }))
}

/// Send an event again
///
/// Whether it was delivered or given up; to the URL that its session has now. One that still waits, and one that is
/// sent nowhere, is refused with 400.
#[utoipa::path(
    post,
    path = "/v1/Account/{auth_id}/Event/{event_uuid}/Replay",
    tag = "Events",
    operation_id = "replayEvent",
    params(EventPath),
    responses((status = 200, description = "It is sent again.", body = Replayed), Refusals)
)]
async fn replay(
    State(state): State<ApiState>,
    tenant: Tenant,
    Item(uuid): Item,
) -> Result<Response, ApiError> {
    let uuid = uuid.ok_or_else(unknown)?;
    let sub = tenant.subaccount.as_deref();
    if !state.store.replay_event(&tenant.account, sub, uuid, (state.now)()).await? {
        state.store.find_event(&tenant.account, sub, uuid).await?.ok_or_else(unknown)?;
        return Err(ApiError::bad("Only an event that was delivered or given up can be sent again."));
    }
    let done = Replayed { api_id: Uuid::new_v4(), message: "Event replayed", count: 1 };
    Ok(answer(StatusCode::OK, &done))
}

/// Send events again that were given up
///
/// Those of the account, or of one session; of more than 10,000 the oldest: ask again until none is left.
#[utoipa::path(
    post,
    path = "/v1/Account/{auth_id}/Event/Replay",
    tag = "Events",
    operation_id = "replayEvents",
    params(AccountPath),
    request_body = ReplayWish,
    responses((status = 200, description = "They are sent again.", body = Replayed), Refusals)
)]
async fn replay_dead(
    State(state): State<ApiState>,
    tenant: Tenant,
    body: Body,
) -> Result<Response, ApiError> {
    let params = Params::read(body).await?;
    let of = EventFilter { subaccount: tenant.subaccount, session: session_of(&params)?, state: None };
    let count = state.store.replay_dead_events(&tenant.account, of, (state.now)()).await?;
    let done = Replayed { api_id: Uuid::new_v4(), message: "Events replayed", count };
    Ok(answer(StatusCode::OK, &done))
}

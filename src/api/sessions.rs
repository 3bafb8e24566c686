//! The Masking Session resource.

use axum::body::Body;
use axum::extract::{FromRequestParts, Path, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::Response;
use serde_json::{Value, json};
use uuid::Uuid;

use super::ApiState;
use super::auth::Tenant;
use super::error::{ApiError, reply};
use super::list::{Page, query_of, session_filter};
use super::params::Params;
use super::session_body::{new_session, session_update};
use super::session_view::{session_object, session_uri};
use crate::masking::session::MaskingSession;

/// The uuid at the end of the path. What is no uuid names nothing.
pub(super) struct Item(pub(super) Option<Uuid>);

impl FromRequestParts<ApiState> for Item {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, ApiError> {
        let path = Path::<(String, String)>::from_request_parts(parts, state).await;
        Ok(Self(path.ok().and_then(|Path((_, uuid))| Uuid::parse_str(&uuid).ok())))
    }
}

/// What stands before the paths in URLs of answers.
pub(super) fn base_url(state: &ApiState, headers: &HeaderMap) -> String {
    if let Some(base) = &state.base_url {
        return base.trim_end_matches('/').to_owned();
    }
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let clean = host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b));
    if host.is_empty() || !clean { String::new() } else { format!("http://{host}") }
}

async fn show(state: &ApiState, headers: &HeaderMap, session: &MaskingSession) -> Result<Value, ApiError> {
    let calls = state.store.interactions(session.uuid).await?;
    Ok(Value::Object(session_object(session, &calls, &base_url(state, headers), (state.now)())))
}

/// Has everything fetched that the session's callers will be told: none of them ever waits for it.
fn prefetch(state: &ApiState, session: &MaskingSession) {
    let messages =
        [&session.unknown_caller_play, &session.first_party_play_url, &session.second_party_play_url];
    let pin = session.pin.iter().flat_map(|pin| [&pin.prompt_play, &pin.incorrect_play]);
    messages.into_iter().chain(pin).for_each(|url| state.prompts.prefetch(url));
}

pub(super) async fn create(
    State(state): State<ApiState>,
    tenant: Tenant,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let params = Params::read(body).await?;
    let wanted = new_session(params, &tenant.account, |party| state.store.virtual_number(party).is_some())?;
    let now = (state.now)();
    let session = state.store.create_session(wanted, now).await??;
    prefetch(&state, &session);
    let object = session_object(&session, &[], &base_url(&state, &headers), now);
    Ok(reply(
        StatusCode::CREATED,
        [
            ("session_uuid", session.uuid.to_string().into()),
            ("virtual_number", session.virtual_number.to_string().into()),
            ("message", "Session created".into()),
            ("session", Value::Object(object)),
        ],
    ))
}

pub(super) async fn read(
    State(state): State<ApiState>,
    tenant: Tenant,
    Item(uuid): Item,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let session = find(&state, &tenant, uuid).await?;
    Ok(reply(StatusCode::OK, [("response", show(&state, &headers, &session).await?)]))
}

pub(super) async fn update(
    State(state): State<ApiState>,
    tenant: Tenant,
    Item(uuid): Item,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let params = Params::read(body).await?;
    let present = find(&state, &tenant, uuid).await?;
    let now = (state.now)();
    if !present.is_active(now) {
        return Err(crate::store::ChangeRefusal::Expired.into());
    }
    let update = session_update(params, &present, |party| state.store.virtual_number(party).is_some())?;
    let session = state.store.update_session(&tenant.account, present.uuid, update, now).await??;
    prefetch(&state, &session);
    Ok(reply(
        StatusCode::OK,
        [("message", "Session updated".into()), ("session", show(&state, &headers, &session).await?)],
    ))
}

pub(super) async fn expire(
    State(state): State<ApiState>,
    tenant: Tenant,
    Item(uuid): Item,
    uri: Uri,
) -> Result<Response, ApiError> {
    let hang_up = Params::from_query(query_of(&uri)?).flag("hangup")?.unwrap_or(false);
    let session = find(&state, &tenant, uuid).await?;
    let ended = state.store.expire_session(&tenant.account, session.uuid, (state.now)()).await?;
    // Also when it had expired before: the calls of an expired session go on.
    if hang_up {
        state.calls.hang_up_session(session.uuid);
    }
    ended?;
    Ok(reply(StatusCode::OK, [("message", "Session expired".into())]))
}

pub(super) async fn list(
    State(state): State<ApiState>,
    tenant: Tenant,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let query = query_of(&uri)?;
    let params = Params::from_query(query.clone());
    let page = Page::read(&params)?;
    let now = (state.now)();
    let filter = session_filter(params, now)?;
    let found = state.store.list_sessions(&tenant.account, &filter, page.limit, page.offset, now).await?;
    let base = base_url(&state, &headers);
    let mut objects = Vec::with_capacity(found.sessions.len());
    for session in &found.sessions {
        let calls = state.store.interactions(session.uuid).await?;
        let mut object = session_object(session, &calls, &base, now);
        object.insert("resource_uri".to_owned(), session_uri(session).into());
        objects.push(Value::Object(object));
    }
    let meta = page.meta(&uri, &query, found.total);
    Ok(reply(StatusCode::OK, [("response", json!({ "meta": meta, "objects": objects }))]))
}

async fn find(state: &ApiState, tenant: &Tenant, uuid: Option<Uuid>) -> Result<MaskingSession, ApiError> {
    let uuid = uuid.ok_or_else(ApiError::no_session)?;
    state.store.find_session(&tenant.account, uuid).await?.ok_or_else(ApiError::no_session)
}

//! The Masking Session resource.

use axum::body::Body;
use axum::extract::{FromRequestParts, Path, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::Response;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::ApiState;
use super::auth::Tenant;
use super::error::{ApiError, KeyRefusals, Refusals, answer};
use super::idempotency;
use super::list::{Meta, Page, query_of, session_filter};
use super::params::Params;
use super::session_body::{new_session, session_update};
use super::session_schema::{AccountPath, ExpireQuery, ListQuery, SessionCreate, SessionPath, SessionUpdate};
use super::session_view::SessionObject;
use crate::masking::session::MaskingSession;
use crate::store::Creation;

/// The resource's paths.
pub(super) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(create, list)).routes(routes!(read, update, expire))
}

#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SessionCreated {
    api_id: Uuid,
    session_uuid: Uuid,
    /// What both parties dial, with `+`.
    #[schema(pattern = r"^\+[0-9]{7,15}$")]
    virtual_number: String,
    /// `Session created`.
    message: &'static str,
    session: SessionObject,
}

#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SessionRead {
    api_id: Uuid,
    response: SessionObject,
}

#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SessionUpdated {
    api_id: Uuid,
    /// `Session updated`.
    message: &'static str,
    session: SessionObject,
}

#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SessionExpired {
    api_id: Uuid,
    /// `Session expired`.
    message: &'static str,
}

#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SessionsListed {
    api_id: Uuid,
    #[schema(inline)]
    response: SessionList,
}

#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SessionList {
    meta: Meta,
    /// Newest first; the keys of each are sorted.
    #[schema(value_type = Vec<SessionObject>)]
    objects: Vec<Value>,
}

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

async fn show(
    state: &ApiState,
    headers: &HeaderMap,
    session: &MaskingSession,
) -> Result<SessionObject, ApiError> {
    let calls = state.store.interactions(session.uuid).await?;
    Ok(SessionObject::of(session, &calls, &base_url(state, headers), (state.now)()))
}

/// Has everything fetched that the session's callers will be told: none of them ever waits for it.
fn prefetch(state: &ApiState, session: &MaskingSession) {
    let messages =
        [&session.unknown_caller_play, &session.first_party_play_url, &session.second_party_play_url];
    let pin = session.pin.iter().flat_map(|pin| [&pin.prompt_play, &pin.incorrect_play]);
    messages.into_iter().chain(pin).for_each(|url| state.prompts.prefetch(&session.account, url));
}

/// Make a session
///
/// Gives the session a virtual number: whoever of the two parties dials it reaches the other one, until the session
/// ends. Numbers and booleans are also read from strings, names in any case; null, `""` and 0 for a duration mean
/// "not given"; unknown parameters are ignored. With a sub-account, by the parameter or by its own credentials, one of
/// the sub-account's virtual numbers is taken, else one of those that no sub-account has.
///
/// With an `Idempotency-Key` the same request within 24 hours answers the same session, and another request with this
/// key is refused with 422; what was refused may be repeated.
#[utoipa::path(
    post,
    path = "/v1/Account/{auth_id}/Masking/Session",
    tag = "Masking",
    operation_id = "createMaskingSession",
    params(
        AccountPath,
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 255 printable characters.")
    ),
    request_body = SessionCreate,
    responses(
        (status = 201, description = "The session, with its virtual number.", body = SessionCreated),
        KeyRefusals,
        Refusals
    )
)]
async fn create(
    State(state): State<ApiState>,
    tenant: Tenant,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let params = Params::read(body).await?;
    let key = idempotency::key(&headers, &tenant, &params)?;
    let mut wanted =
        new_session(params, &tenant.account, |party| state.store.virtual_number(party).is_some())?;
    wanted.subaccount = tenant.subaccount_of_new(&state, wanted.subaccount)?;
    let now = (state.now)();
    let session = match state.store.create_session_once(wanted, key, now).await?? {
        Creation::Mismatch => return Err(ApiError::key_reused()),
        Creation::Again(session) => session,
        Creation::New(session) => {
            prefetch(&state, &session);
            if session.initiate_call_to_first_party {
                state.calls.initiate_call(session.clone());
            }
            session
        }
    };
    let created = SessionCreated {
        api_id: Uuid::new_v4(),
        session_uuid: session.uuid,
        virtual_number: session.virtual_number.to_string(),
        message: "Session created",
        session: show(&state, &headers, &session).await?,
    };
    Ok(answer(StatusCode::CREATED, &created))
}

/// Read a session
///
/// Ended sessions stay readable.
#[utoipa::path(
    get,
    path = "/v1/Account/{auth_id}/Masking/Session/{session_uuid}",
    tag = "Masking",
    operation_id = "readMaskingSession",
    params(SessionPath),
    responses((status = 200, description = "The session.", body = SessionRead), Refusals)
)]
async fn read(
    State(state): State<ApiState>,
    tenant: Tenant,
    Item(uuid): Item,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let session = find(&state, &tenant, uuid).await?;
    let response = show(&state, &headers, &session).await?;
    Ok(answer(StatusCode::OK, &SessionRead { api_id: Uuid::new_v4(), response }))
}

/// Change a session
///
/// What is not given stays. `session_expiry` counts from now. The other parameters of a create are fixed: given with
/// their present value they are accepted, with another one they are refused.
#[utoipa::path(
    post,
    path = "/v1/Account/{auth_id}/Masking/Session/{session_uuid}",
    tag = "Masking",
    operation_id = "updateMaskingSession",
    params(SessionPath),
    request_body = SessionUpdate,
    responses((status = 200, description = "The session as it is now.", body = SessionUpdated), Refusals)
)]
async fn update(
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
    let session = show(&state, &headers, &session).await?;
    Ok(answer(
        StatusCode::OK,
        &SessionUpdated { api_id: Uuid::new_v4(), message: "Session updated", session },
    ))
}

/// End a session
///
/// Its calls go on, unless `hangup` is true. A session that has ended already is refused with 400.
#[utoipa::path(
    delete,
    path = "/v1/Account/{auth_id}/Masking/Session/{session_uuid}",
    tag = "Masking",
    operation_id = "expireMaskingSession",
    params(SessionPath, ExpireQuery),
    responses((status = 200, description = "It has ended.", body = SessionExpired), Refusals)
)]
async fn expire(
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
    Ok(answer(StatusCode::OK, &SessionExpired { api_id: Uuid::new_v4(), message: "Session expired" }))
}

/// List sessions
///
/// Newest first; every filter that is given must fit. Without a filter on `created_time` or `expiry_time` the list
/// has what existed within the last seven days; a range of either reaches back at most 30 days from its end, or from
/// now if that is earlier.
#[utoipa::path(
    get,
    path = "/v1/Account/{auth_id}/Masking/Session",
    tag = "Masking",
    operation_id = "listMaskingSessions",
    params(AccountPath, ListQuery),
    responses((status = 200, description = "One page of the list.", body = SessionsListed), Refusals)
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
    let now = (state.now)();
    let mut filter = session_filter(params, now)?;
    filter.subaccount = tenant.narrow(filter.subaccount);
    let found = state.store.list_sessions(&tenant.account, &filter, page.limit, page.offset, now).await?;
    let base = base_url(&state, &headers);
    let mut objects = Vec::with_capacity(found.sessions.len());
    for session in &found.sessions {
        let calls = state.store.interactions(session.uuid).await?;
        objects.push(SessionObject::of(session, &calls, &base, now).listed(session));
    }
    let response = SessionList { meta: page.meta(&uri, &query, found.total), objects };
    Ok(answer(StatusCode::OK, &SessionsListed { api_id: Uuid::new_v4(), response }))
}

async fn find(state: &ApiState, tenant: &Tenant, uuid: Option<Uuid>) -> Result<MaskingSession, ApiError> {
    let uuid = uuid.ok_or_else(ApiError::no_session)?;
    let found = state.store.find_session(&tenant.account, uuid).await?;
    found.filter(|session| tenant.may_see(session.subaccount.as_deref())).ok_or_else(ApiError::no_session)
}

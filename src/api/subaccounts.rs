//! The Account, Subaccount and Token resources: credentials, in Plivo's manner.
//!
//! A sub-account's own credentials open none of this but the sub-account's own object. A token is shown to who has the
//! main account's credentials, as Plivo does: a client that checks the signatures of callbacks needs it.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequestParts, Path, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::ApiState;
use super::auth::{Owner, Tenant};
use super::error::{ApiError, OwnerRefusals, Refusals, answer};
use super::list::{Meta, Page, query_of};
use super::params::Params;
use super::session_schema::AccountPath;
use super::time::go_style;
use crate::store::{AccountRefusal, Secret, Subaccount};

/// Plivo's limit.
const MAX_NAME: usize = 60;
const DEFAULT_GRACE: Duration = Duration::from_secs(86_400);
const MAX_GRACE_S: i64 = 30 * 86_400;

/// The resources' paths.
pub(super) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(read_account))
        .routes(routes!(change_token))
        .routes(routes!(create, list))
        .routes(routes!(read, update, delete))
        .routes(routes!(change_subaccount_token))
}

#[derive(Serialize, ToSchema)]
struct AccountObject {
    api_id: Uuid,
    /// `standard`, or `subaccount` with a sub-account's credentials.
    account_type: &'static str,
    auth_id: String,
    /// When it was first seen by this service.
    created: String,
    /// False while its credentials open nothing.
    enabled: bool,
    name: String,
    resource_uri: String,
    /// `configuration`: its token stands there and cannot be changed here; or `store`.
    source: &'static str,
}

#[derive(Serialize, ToSchema)]
struct SubaccountObject {
    #[serde(skip_serializing_if = "Option::is_none")]
    api_id: Option<Uuid>,
    /// Path of its account.
    account: String,
    auth_id: String,
    /// Null when only its hash is known: a new one mends that.
    auth_token: Option<String>,
    /// `YYYY-MM-DD`
    created: String,
    enabled: bool,
    /// `YYYY-MM-DD`
    modified: Option<String>,
    name: String,
    resource_uri: String,
}

#[derive(Serialize, ToSchema)]
struct SubaccountList {
    api_id: Uuid,
    meta: Meta,
    objects: Vec<SubaccountObject>,
}

#[derive(Serialize, ToSchema)]
struct CredentialsMade {
    api_id: Uuid,
    auth_id: String,
    auth_token: String,
    message: &'static str,
}

#[derive(Serialize, ToSchema)]
struct TokenChanged {
    api_id: Uuid,
    auth_id: String,
    auth_token: String,
    message: &'static str,
    /// Until then the old token is good as well.
    old_token_valid_until: String,
}

#[derive(Serialize, ToSchema)]
struct Changed {
    api_id: Uuid,
    message: &'static str,
}

/// What a create or an update of a sub-account takes.
#[derive(ToSchema)]
#[allow(dead_code)] // For `/openapi.json`.
struct SubaccountWish {
    /// Required in a create.
    #[schema(min_length = 1, max_length = 60)]
    name: Option<String>,
    /// Whether its credentials open anything.
    #[schema(default = false)]
    enabled: Option<bool>,
}

/// What a change of a token takes.
#[derive(ToSchema)]
#[allow(dead_code)] // For `/openapi.json`.
struct TokenWish {
    /// How long the old token stays good, in seconds; 0: not at all.
    #[schema(minimum = 0, maximum = 2592000, default = 86400)]
    grace_period: Option<i64>,
}

impl SubaccountObject {
    fn of(state: &ApiState, sub: Subaccount, api_id: Option<Uuid>) -> Self {
        Self {
            api_id,
            account: format!("/v1/Account/{}/", sub.account),
            auth_token: state.store.auth_token(&sub.auth_id).map(|token| token.reveal().to_owned()),
            created: date(sub.created_at),
            enabled: sub.enabled,
            modified: sub.modified_at.map(date),
            resource_uri: format!("/v1/Account/{}/Subaccount/{}/", sub.account, sub.auth_id),
            auth_id: sub.auth_id,
            name: sub.name,
        }
    }
}

fn date(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d").to_string()
}

/// The sub-account at the end of the path.
struct Named(String);

impl FromRequestParts<ApiState> for Named {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, ApiError> {
        let path = Path::<(String, String)>::from_request_parts(parts, state).await;
        path.map(|Path((_, auth_id))| Self(auth_id)).map_err(|_| AccountRefusal::NotFound.into())
    }
}

/// Read the account
///
/// With a sub-account's credentials: the sub-account.
#[utoipa::path(
    get,
    path = "/v1/Account/{auth_id}",
    tag = "Accounts",
    operation_id = "readAccount",
    params(AccountPath),
    responses((status = 200, description = "The account.", body = AccountObject), Refusals)
)]
#[allow(clippy::unused_async)] // axum wants a future.
async fn read_account(State(state): State<ApiState>, tenant: Tenant) -> Result<Response, ApiError> {
    let api_id = Uuid::new_v4();
    let object = match &tenant.subaccount {
        Some(auth_id) => {
            // Deleted in this very moment, it is as unknown as if it had been before.
            let sub = state.store.subaccount(&tenant.account, auth_id).ok_or_else(ApiError::unauthorized)?;
            AccountObject {
                api_id,
                account_type: "subaccount",
                created: go_style(sub.created_at),
                enabled: sub.enabled,
                resource_uri: format!("/v1/Account/{auth_id}/"),
                auth_id: sub.auth_id,
                name: sub.name,
                source: "store",
            }
        }
        None => {
            let account = state.store.account(&tenant.account).ok_or_else(ApiError::unauthorized)?;
            AccountObject {
                api_id,
                account_type: "standard",
                created: go_style(account.created_at),
                enabled: true,
                name: String::new(),
                resource_uri: format!("/v1/Account/{}/", account.auth_id),
                auth_id: account.auth_id,
                source: if account.configured { "configuration" } else { "store" },
            }
        }
    };
    Ok(answer(StatusCode::OK, &object))
}

/// Make a new token for the account
///
/// The old one stays good for a while, so that clients can be moved one by one. Callbacks are signed with the new one
/// at once. The token of an account of the configuration cannot be changed here.
#[utoipa::path(
    post,
    path = "/v1/Account/{auth_id}/Token",
    tag = "Accounts",
    operation_id = "changeToken",
    params(AccountPath),
    request_body = TokenWish,
    responses((status = 201, description = "The new token.", body = TokenChanged), OwnerRefusals, Refusals)
)]
async fn change_token(State(state): State<ApiState>, owner: Owner, body: Body) -> Result<Response, ApiError> {
    let grace = grace(&Params::read(body).await?)?;
    let now = (state.now)();
    let token = state.store.rotate_token(&owner.account, None, grace, now).await??;
    Ok(token_changed(owner.account, &token, grace, now))
}

/// Make a new token for a sub-account
///
/// As for the account itself.
#[utoipa::path(
    post,
    path = "/v1/Account/{auth_id}/Subaccount/{subauth_id}/Token",
    tag = "Accounts",
    operation_id = "changeSubaccountToken",
    params(
        AccountPath,
        ("subauth_id" = String, Path, description = "The sub-account's auth id.")
    ),
    request_body = TokenWish,
    responses((status = 201, description = "The new token.", body = TokenChanged), OwnerRefusals, Refusals)
)]
async fn change_subaccount_token(
    State(state): State<ApiState>,
    owner: Owner,
    Named(auth_id): Named,
    body: Body,
) -> Result<Response, ApiError> {
    let grace = grace(&Params::read(body).await?)?;
    let now = (state.now)();
    let token = state.store.rotate_token(&owner.account, Some(&auth_id), grace, now).await??;
    Ok(token_changed(auth_id, &token, grace, now))
}

fn grace(params: &Params) -> Result<Duration, ApiError> {
    let given = params.integer("grace_period", 0..=MAX_GRACE_S)?;
    Ok(given.map_or(DEFAULT_GRACE, |seconds| Duration::from_secs(seconds.unsigned_abs())))
}

fn token_changed(auth_id: String, token: &Secret, grace: Duration, now: Timestamp) -> Response {
    let until = now.checked_add(grace).unwrap_or(Timestamp::MAX);
    let changed = TokenChanged {
        api_id: Uuid::new_v4(),
        auth_id,
        auth_token: token.reveal().to_owned(),
        message: "changed",
        old_token_valid_until: go_style(until),
    };
    answer(StatusCode::CREATED, &changed)
}

/// Make a sub-account
///
/// It has credentials of its own, with which its sessions, calls, recordings and virtual numbers can be seen and
/// made, and nothing else.
#[utoipa::path(
    post,
    path = "/v1/Account/{auth_id}/Subaccount",
    tag = "Accounts",
    operation_id = "createSubaccount",
    params(AccountPath),
    request_body = SubaccountWish,
    responses((status = 201, description = "Its credentials.", body = CredentialsMade), OwnerRefusals, Refusals)
)]
async fn create(State(state): State<ApiState>, owner: Owner, body: Body) -> Result<Response, ApiError> {
    let params = Params::read(body).await?;
    let name = name(&params)?.ok_or_else(|| ApiError::missing("name"))?;
    let enabled = params.flag("enabled")?.unwrap_or(false);
    let (sub, token) = state.store.create_subaccount(&owner.account, name, enabled, (state.now)()).await??;
    let made = CredentialsMade {
        api_id: Uuid::new_v4(),
        auth_id: sub.auth_id,
        auth_token: token.reveal().to_owned(),
        message: "created",
    };
    Ok(answer(StatusCode::CREATED, &made))
}

fn name(params: &Params) -> Result<Option<String>, ApiError> {
    let name = params.text("name")?;
    if name.as_ref().is_some_and(|name| name.chars().count() > MAX_NAME || name.chars().any(char::is_control))
    {
        return Err(ApiError::invalid("name", "must have 1 to 60 printable characters."));
    }
    Ok(name)
}

/// List sub-accounts
///
/// Newest first.
#[utoipa::path(
    get,
    path = "/v1/Account/{auth_id}/Subaccount",
    tag = "Accounts",
    operation_id = "listSubaccounts",
    params(
        AccountPath,
        ("limit" = Option<u32>, Query, description = "1 to 20; default 20."),
        ("offset" = Option<u64>, Query, description = "How many to skip; default 0.")
    ),
    responses((status = 200, description = "One page of the list.", body = SubaccountList), OwnerRefusals, Refusals)
)]
#[allow(clippy::unused_async)] // axum wants a future.
async fn list(State(state): State<ApiState>, owner: Owner, uri: Uri) -> Result<Response, ApiError> {
    let query = query_of(&uri)?;
    let page = Page::read(&Params::from_query(query.clone()))?;
    let all = state.store.subaccounts(&owner.account);
    let total = u64::try_from(all.len()).unwrap_or(u64::MAX);
    let objects = page.of(all).map(|sub| SubaccountObject::of(&state, sub, None)).collect();
    let meta = page.meta(&uri, &query, total);
    Ok(answer(StatusCode::OK, &SubaccountList { api_id: Uuid::new_v4(), meta, objects }))
}

/// Read a sub-account
#[utoipa::path(
    get,
    path = "/v1/Account/{auth_id}/Subaccount/{subauth_id}",
    tag = "Accounts",
    operation_id = "readSubaccount",
    params(
        AccountPath,
        ("subauth_id" = String, Path, description = "The sub-account's auth id.")
    ),
    responses((status = 200, description = "The sub-account.", body = SubaccountObject), OwnerRefusals, Refusals)
)]
#[allow(clippy::unused_async)] // axum wants a future.
async fn read(
    State(state): State<ApiState>,
    owner: Owner,
    Named(auth_id): Named,
) -> Result<Response, ApiError> {
    let sub = state.store.subaccount(&owner.account, &auth_id).ok_or(AccountRefusal::NotFound)?;
    let object = SubaccountObject::of(&state, sub, Some(Uuid::new_v4()));
    Ok(answer(StatusCode::OK, &object))
}

/// Change a sub-account
///
/// What is not given stays. While it is not enabled its credentials open nothing and no session can be made for it;
/// its sessions go on.
#[utoipa::path(
    post,
    path = "/v1/Account/{auth_id}/Subaccount/{subauth_id}",
    tag = "Accounts",
    operation_id = "updateSubaccount",
    params(
        AccountPath,
        ("subauth_id" = String, Path, description = "The sub-account's auth id.")
    ),
    request_body = SubaccountWish,
    responses((status = 202, description = "It is changed.", body = Changed), OwnerRefusals, Refusals)
)]
async fn update(
    State(state): State<ApiState>,
    owner: Owner,
    Named(auth_id): Named,
    body: Body,
) -> Result<Response, ApiError> {
    let params = Params::read(body).await?;
    let (name, enabled) = (name(&params)?, params.flag("enabled")?);
    state.store.update_subaccount(&owner.account, &auth_id, name, enabled, (state.now)()).await??;
    Ok(answer(StatusCode::ACCEPTED, &Changed { api_id: Uuid::new_v4(), message: "changed" }))
}

/// Delete a sub-account
///
/// Its credentials open nothing any more; its sessions, calls and recordings stay the account's.
#[utoipa::path(
    delete,
    path = "/v1/Account/{auth_id}/Subaccount/{subauth_id}",
    tag = "Accounts",
    operation_id = "deleteSubaccount",
    params(
        AccountPath,
        ("subauth_id" = String, Path, description = "The sub-account's auth id.")
    ),
    responses((status = 204, description = "It is gone."), OwnerRefusals, Refusals)
)]
async fn delete(
    State(state): State<ApiState>,
    owner: Owner,
    Named(auth_id): Named,
) -> Result<Response, ApiError> {
    state.store.delete_subaccount(&owner.account, &auth_id).await??;
    Ok(StatusCode::NO_CONTENT.into_response())
}

//! The Number resource: the account's virtual numbers.
//!
//! Those of the configuration are shown, and can be made to drain; all else about them is changed where they stand.
//! Those that are added here come after them in the order of first fit. A sub-account's credentials see its own.

use axum::body::{Body, to_bytes};
use axum::extract::{FromRequestParts, Path, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::ApiState;
use super::auth::{Owner, Tenant};
use super::error::{ApiError, OwnerRefusals, Refusals, answer};
use super::list::{Meta, Page, query_of};
use super::numbers_csv::{self, BadLines};
use super::params::Params;
use super::serve::LARGEST_BODY;
use super::session_schema::AccountPath;
use crate::number::{Did, E164};
use crate::store::{NewNumber, NoSession, NumberChange, NumberEntry, NumberRefusal};
use crate::trunk::forward::{Forwarding, NoForward};

const CSV: &str = "text/csv; charset=utf-8; header=present";

/// The resource's paths.
pub(super) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(add, list)).routes(routes!(read, update, remove))
}

#[derive(Serialize, ToSchema)]
struct NumberObject {
    /// In E.164 form without `+`.
    number: String,
    /// Two letters of ISO 3166.
    country: Option<String>,
    /// What a call gets that no session takes: `reject`, `play:URL` or `sip:…`.
    no_session: String,
    resource_uri: String,
    /// `configuration` or `api`.
    source: &'static str,
    /// `active`, or `draining`: it takes no new session.
    state: &'static str,
    /// The sub-account whose sessions it takes; null: those of the account itself.
    subaccount: Option<String>,
    /// The trunk that calls leave by.
    trunk: String,
}

#[derive(Serialize, ToSchema)]
struct NumberRead {
    api_id: Uuid,
    /// How many active sessions are on it.
    active_sessions: u64,
    #[serde(flatten)]
    number: NumberObject,
}

#[derive(Serialize, ToSchema)]
struct NumberList {
    api_id: Uuid,
    meta: Meta,
    objects: Vec<NumberObject>,
}

#[derive(Serialize, ToSchema)]
struct NumberChanged {
    api_id: Uuid,
    message: &'static str,
    number: NumberObject,
}

#[derive(Serialize, ToSchema)]
struct NumbersImported {
    api_id: Uuid,
    message: &'static str,
    /// How many lines the file had.
    count: usize,
}

/// What a number is added with; an update takes the same but `number`.
#[derive(ToSchema)]
#[allow(dead_code)] // For `/openapi.json`.
struct NumberWish {
    /// With country code; `+` may stand before it.
    number: Option<String>,
    /// The name of a trunk of the configuration; may be left out when there is only one.
    trunk: Option<String>,
    /// A sub-account of the account. In an update the account's own auth id takes it back.
    subaccount: Option<String>,
    /// `reject`, `play:URL`, or `sip:USER@HOST`: a user (a word, never a number) at a gateway of the configuration's
    /// trunks, or a URI that its numbers name.
    #[schema(default = "reject")]
    no_session: Option<String>,
    /// `active` or `draining`.
    #[schema(default = "active")]
    state: Option<String>,
}

pub(super) fn state_of(entry: &NumberEntry) -> &'static str {
    if entry.draining { "draining" } else { "active" }
}

pub(super) fn source_of(entry: &NumberEntry) -> &'static str {
    if entry.configured { "configuration" } else { "api" }
}

impl NumberObject {
    fn of(entry: NumberEntry) -> Self {
        let (account, digits) = (&entry.number.account, entry.number.did.digits());
        Self {
            number: digits.to_owned(),
            no_session: entry.number.no_session.to_written(),
            resource_uri: format!("/v1/Account/{account}/Number/{digits}/"),
            source: source_of(&entry),
            state: state_of(&entry),
            country: entry.country,
            subaccount: entry.subaccount,
            trunk: entry.number.trunk,
        }
    }
}

/// Reads the fields of numbers, of a body or of a file.
pub(super) struct Reader<'a> {
    account: &'a str,
    trunks: &'a [String],
    forwarding: &'a Forwarding,
}

impl<'a> Reader<'a> {
    fn new(state: &'a ApiState, owner: &'a Owner) -> Self {
        Self { account: &owner.account, trunks: &state.trunks, forwarding: &state.forwarding }
    }

    pub(super) fn did(&self, given: Option<&str>) -> Result<Did, ApiError> {
        let given = given.ok_or_else(|| ApiError::missing("number"))?;
        // No country code begins with 0: such a number is a national one (ITU-T E.164 §6).
        let number = E164::parse(given).filter(|number| !number.digits().starts_with('0'));
        number.and_then(|number| Did::parse(number.digits())).ok_or_else(|| {
            ApiError::invalid(
                "number",
                "is not a valid phone number. Allowed: 7 to 15 digits with the country code.",
            )
        })
    }

    pub(super) fn trunk(&self, given: Option<&str>) -> Result<String, ApiError> {
        match (given, self.trunks) {
            (None, [only]) => Ok(only.clone()),
            (None, _) => Err(ApiError::missing("trunk")),
            (Some(name), trunks) if trunks.iter().any(|known| known == name) => Ok(name.to_owned()),
            (Some(_), _) => {
                Err(ApiError::invalid("trunk", "is no trunk of the configuration that has gateways."))
            }
        }
    }

    /// `None`: not given. The account's own id means no sub-account.
    pub(super) fn subaccount(&self, given: Option<&str>) -> Option<Option<String>> {
        given.map(|auth_id| (auth_id != self.account).then(|| auth_id.to_owned()))
    }

    /// `present`: what the number has already, which is no change.
    pub(super) fn no_session(
        &self,
        given: Option<&str>,
        present: Option<&NoSession>,
    ) -> Result<Option<NoSession>, ApiError> {
        let Some(given) = given else { return Ok(None) };
        let parsed = crate::config::NoSession::parse(given).ok_or_else(|| {
            ApiError::invalid(
                "no_session",
                "allowed values are reject, play:URL (http or https) or sip:[USER@]HOST[:PORT][;transport=udp|tcp].",
            )
        })?;
        let wanted = Some(NoSession::from(&parsed)).filter(|wanted| Some(wanted) != present);
        if let Some(NoSession::Sip(uri)) = &wanted {
            let refused = |refusal: NoForward| ApiError::invalid("no_session", &refusal.to_string());
            self.forwarding.check(uri).map_err(refused)?;
        }
        Ok(wanted)
    }

    pub(super) fn draining(&self, given: Option<&str>) -> Result<Option<bool>, ApiError> {
        match given.map(str::to_ascii_lowercase).as_deref() {
            None => Ok(None),
            Some("active") => Ok(Some(false)),
            Some("draining") => Ok(Some(true)),
            Some(_) => Err(ApiError::invalid("state", "allowed values are active or draining.")),
        }
    }
}

/// The number at the end of the path. What is none names nothing.
struct Named(Did);

impl FromRequestParts<ApiState> for Named {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, ApiError> {
        let path = Path::<(String, String)>::from_request_parts(parts, state).await;
        let did = path.ok().and_then(|Path((_, number))| Did::parse(&number));
        did.map(Self).ok_or_else(|| NumberRefusal::NotFound.into())
    }
}

fn find(state: &ApiState, tenant: &Tenant, did: &Did) -> Result<NumberEntry, ApiError> {
    let found = state.store.number(&tenant.account, did);
    let visible = found.filter(|entry| tenant.may_see(entry.subaccount.as_deref()));
    visible.ok_or_else(|| NumberRefusal::NotFound.into())
}

/// What strangers hear is fetched long before the first of them waits for it.
fn prefetch(state: &ApiState, owner: &Owner, no_session: Option<&NoSession>) {
    if let Some(NoSession::Play(url)) = no_session {
        state.prompts.prefetch(&owner.account, url);
    }
}

fn changed(
    state: &ApiState,
    account: &str,
    did: &Did,
    status: StatusCode,
    message: &'static str,
) -> Result<Response, ApiError> {
    let entry = state.store.number(account, did).ok_or(NumberRefusal::NotFound)?;
    let number = NumberObject::of(entry);
    Ok(answer(status, &NumberChanged { api_id: Uuid::new_v4(), message, number }))
}

/// Add a virtual number, or many
///
/// As `text/csv` many numbers at once: the first line names the columns (`number`, `trunk`, `subaccount`,
/// `no_session`, `state`; `source` and `country` are not read). Numbers that are there already are changed to what
/// the file says. Either the whole file is taken or, when one line is not allowed, nothing of it; the error names
/// every such line.
#[utoipa::path(
    post,
    path = "/v1/Account/{auth_id}/Number",
    tag = "Numbers",
    operation_id = "addNumber",
    params(AccountPath),
    request_body(content((NumberWish = "application/json"), (String = "text/csv"))),
    responses(
        (status = 201, description = "The number, as it is now.", body = NumberChanged),
        (status = 200, description = "The file is taken.", body = NumbersImported),
        OwnerRefusals,
        Refusals
    )
)]
async fn add(
    State(state): State<ApiState>,
    owner: Owner,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("text/csv") {
        return import(&state, &owner, body).await;
    }
    let mut params = Params::read(body).await?;
    params.alias("numbers", "number");
    params.alias("sub_account", "subaccount");
    let reader = Reader::new(&state, &owner);
    let text = |name| params.text(name);
    let number = NewNumber {
        did: reader.did(text("number")?.as_deref())?,
        trunk: reader.trunk(text("trunk")?.as_deref())?,
        subaccount: reader.subaccount(text("subaccount")?.as_deref()).flatten(),
        no_session: reader.no_session(text("no_session")?.as_deref(), None)?.unwrap_or(NoSession::Reject),
        draining: reader.draining(text("state")?.as_deref())?.unwrap_or(false),
    };
    let did = number.did.clone();
    prefetch(&state, &owner, Some(&number.no_session));
    state.store.add_number(&owner.account, number, (state.now)()).await??;
    changed(&state, &owner.account, &did, StatusCode::CREATED, "created")
}

async fn import(state: &ApiState, owner: &Owner, body: Body) -> Result<Response, ApiError> {
    let limit = usize::try_from(LARGEST_BODY).unwrap_or(usize::MAX);
    let bytes = to_bytes(body, limit).await.map_err(|_| ApiError::too_large())?;
    let (lines, numbers): (Vec<u64>, Vec<NewNumber>) =
        numbers_csv::read(&bytes, &Reader::new(state, owner))?.into_iter().unzip();
    let messages: Vec<_> = numbers.iter().map(|number| number.no_session.clone()).collect();
    let refused = state.store.import_numbers(&owner.account, numbers, (state.now)()).await?;
    let mut bad = BadLines::default();
    for (index, refusal) in refused {
        bad.add(lines.get(index).copied().unwrap_or_default(), refusal.words());
    }
    bad.check()?;
    messages.iter().for_each(|message| prefetch(state, owner, Some(message)));
    let done = NumbersImported { api_id: Uuid::new_v4(), message: "imported", count: lines.len() };
    Ok(answer(StatusCode::OK, &done))
}

/// List virtual numbers
///
/// In the order of first fit; every filter that is given must fit. As CSV (`Accept: text/csv` or `format=csv`) the
/// list is whole.
#[utoipa::path(
    get,
    path = "/v1/Account/{auth_id}/Number",
    tag = "Numbers",
    operation_id = "listNumbers",
    params(
        AccountPath,
        ("subaccount" = Option<String>, Query, description = "Only numbers of this sub-account."),
        ("trunk" = Option<String>, Query, description = "Only numbers of this trunk."),
        ("state" = Option<String>, Query, description = "`active` or `draining`."),
        ("format" = Option<String>, Query, description = "`csv` or `json`."),
        ("limit" = Option<u32>, Query, description = "1 to 20; default 20."),
        ("offset" = Option<u64>, Query, description = "How many to skip; default 0.")
    ),
    responses((
        status = 200, description = "One page of the list, or the whole list as CSV.",
        content((NumberList = "application/json"), (String = "text/csv"))
    ), Refusals)
)]
#[allow(clippy::unused_async)] // axum wants a future.
async fn list(
    State(state): State<ApiState>,
    tenant: Tenant,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let query = query_of(&uri)?;
    let mut params = Params::from_query(query.clone());
    params.alias("sub_account", "subaccount");
    let page = Page::read(&params)?;
    let (subaccount, trunk) = (params.text("subaccount")?, params.text("trunk")?);
    let draining = match params.text("state")?.map(|state| state.to_ascii_lowercase()).as_deref() {
        None => None,
        Some("active") => Some(false),
        Some("draining") => Some(true),
        Some(_) => return Err(ApiError::invalid("state", "allowed values are active or draining.")),
    };
    let accepts_csv = headers
        .get_all(header::ACCEPT)
        .iter()
        .any(|accept| accept.to_str().is_ok_and(|accept| accept.to_ascii_lowercase().contains("text/csv")));
    let as_csv = match params.text("format")?.map(|format| format.to_ascii_lowercase()).as_deref() {
        None => accepts_csv,
        Some("csv") => true,
        Some("json") => false,
        Some(_) => return Err(ApiError::invalid("format", "allowed values are csv or json.")),
    };
    let mut numbers = state.store.numbers(&tenant.account);
    numbers.retain(|entry| {
        tenant.may_see(entry.subaccount.as_deref())
            && subaccount.as_ref().is_none_or(|wanted| entry.subaccount.as_ref() == Some(wanted))
            && trunk.as_ref().is_none_or(|wanted| entry.number.trunk == *wanted)
            && draining.is_none_or(|wanted| entry.draining == wanted)
    });
    if as_csv {
        return Ok(([(header::CONTENT_TYPE, CSV)], numbers_csv::write(&numbers)).into_response());
    }
    let total = u64::try_from(numbers.len()).unwrap_or(u64::MAX);
    let objects = page.of(numbers).map(NumberObject::of).collect();
    let meta = page.meta(&uri, &query, total);
    Ok(answer(StatusCode::OK, &NumberList { api_id: Uuid::new_v4(), meta, objects }))
}

/// Read a virtual number
#[utoipa::path(
    get,
    path = "/v1/Account/{auth_id}/Number/{number}",
    tag = "Numbers",
    operation_id = "readNumber",
    params(
        AccountPath,
        ("number" = String, Path, description = "The number, with or without `+`.")
    ),
    responses((status = 200, description = "The number.", body = NumberRead), Refusals)
)]
async fn read(
    State(state): State<ApiState>,
    tenant: Tenant,
    Named(did): Named,
) -> Result<Response, ApiError> {
    let entry = find(&state, &tenant, &did)?;
    let active_sessions = state.store.active_sessions_on(&did, (state.now)()).await?;
    let number = NumberObject::of(entry);
    let object = NumberRead { api_id: Uuid::new_v4(), active_sessions, number };
    Ok(answer(StatusCode::OK, &object))
}

/// Change a virtual number
///
/// What is not given stays. Of a number of the configuration only `state` may be changed; that outlives a restart.
#[utoipa::path(
    post,
    path = "/v1/Account/{auth_id}/Number/{number}",
    tag = "Numbers",
    operation_id = "updateNumber",
    params(
        AccountPath,
        ("number" = String, Path, description = "The number, with or without `+`.")
    ),
    request_body = NumberWish,
    responses((status = 202, description = "The number, as it is now.", body = NumberChanged), OwnerRefusals, Refusals)
)]
async fn update(
    State(state): State<ApiState>,
    owner: Owner,
    Named(did): Named,
    body: Body,
) -> Result<Response, ApiError> {
    let mut params = Params::read(body).await?;
    params.alias("sub_account", "subaccount");
    let present = state.store.number(&owner.account, &did).ok_or(NumberRefusal::NotFound)?;
    let reader = Reader::new(&state, &owner);
    let text = |name| params.text(name);
    let trunk = text("trunk")?.filter(|name| *name != present.number.trunk);
    let change = NumberChange {
        // What has its present value is no change: a configured number may come back whole.
        trunk: trunk.map(|name| reader.trunk(Some(&name))).transpose()?,
        subaccount: reader
            .subaccount(text("subaccount")?.as_deref())
            .filter(|subaccount| *subaccount != present.subaccount),
        no_session: reader.no_session(text("no_session")?.as_deref(), Some(&present.number.no_session))?,
        draining: reader.draining(text("state")?.as_deref())?,
    };
    prefetch(&state, &owner, change.no_session.as_ref());
    state.store.change_number(&owner.account, &did, change).await??;
    changed(&state, &owner.account, &did, StatusCode::ACCEPTED, "changed")
}

/// Remove a virtual number
///
/// Refused while active sessions are on it, unless `force` is true: then they stay, and no call reaches them.
#[utoipa::path(
    delete,
    path = "/v1/Account/{auth_id}/Number/{number}",
    tag = "Numbers",
    operation_id = "removeNumber",
    params(
        AccountPath,
        ("number" = String, Path, description = "The number, with or without `+`."),
        ("force" = Option<bool>, Query, description = "Also while active sessions are on it.")
    ),
    responses((status = 204, description = "It is gone."), OwnerRefusals, Refusals)
)]
async fn remove(
    State(state): State<ApiState>,
    owner: Owner,
    Named(did): Named,
    uri: Uri,
) -> Result<Response, ApiError> {
    let force = Params::from_query(query_of(&uri)?).flag("force")?.unwrap_or(false);
    state.store.remove_number(&owner.account, &did, force, (state.now)()).await??;
    Ok(StatusCode::NO_CONTENT.into_response())
}

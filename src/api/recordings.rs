//! The Recording resource, in Plivo's shape, and its sound.
//!
//! A recording has the uuid of its interaction. It is shown from the moment on at which its file can be fetched,
//! and no more once it is deleted.

use axum::body::Body;
use axum::extract::{FromRequestParts, RawPathParams, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use serde::Serialize;
use tower_http::services::ServeFile;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::ApiState;
use super::auth::Tenant;
use super::calls::number;
use super::error::{ApiError, Refusals, answer};
use super::list::{Meta, Page, query_of, time_range};
use super::params::Params;
use super::session_schema::AccountPath;
use super::sessions::base_url;
use crate::masking::session::RecordFormat;
use crate::number::{Did, E164};
use crate::recording::RecordingFile;
use crate::store::{Recording as Stored, RecordingFilter, RecordingState};

/// Seconds of a day.
const DAY_S: i64 = 86_400;

pub(super) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(read, delete)).routes(routes!(leg))
}

/// What the path says behind `Recording`; empty where it says nothing.
pub(super) struct Names {
    recording: String,
    leg: String,
}

impl FromRequestParts<ApiState> for Names {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, ApiError> {
        let path = RawPathParams::from_request_parts(parts, state).await.map_err(|_| unknown())?;
        let named = |wanted: &str| {
            let found = path.iter().find(|(name, _)| *name == wanted);
            found.map(|(_, value)| value.to_owned()).unwrap_or_default()
        };
        Ok(Self { recording: named("recording"), leg: named("leg") })
    }
}

/// A recorded call.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Recording {
    /// Different for each request; in lists it stands beside the objects.
    #[serde(skip_serializing_if = "Option::is_none")]
    api_id: Option<Uuid>,
    /// When it was added.
    #[schema(example = "2026-11-22 01:17:49.050872+00:00")]
    add_time: String,
    /// The caller's leg.
    call_uuid: Option<Uuid>,
    /// Always empty.
    conference_name: &'static str,
    /// Who called; empty when it is not known.
    from_number: String,
    /// Storage costs nothing here.
    monthly_recording_storage_amount: u32,
    /// Milliseconds of sound.
    #[schema(example = "7560.00000")]
    recording_duration_ms: String,
    /// Milliseconds since 1970; null when it is not known.
    recording_end_ms: Option<String>,
    /// `mp3` or `wav`.
    #[schema(example = "mp3")]
    recording_format: &'static str,
    /// Its uuid, which is that of its interaction.
    recording_id: Uuid,
    /// Milliseconds since 1970; null when it is not known.
    recording_start_ms: Option<String>,
    /// Days since it was added.
    recording_storage_duration: i64,
    /// Storage costs nothing here.
    recording_storage_rate: u32,
    /// `call`.
    recording_type: &'static str,
    /// Where the sound is.
    recording_url: String,
    /// Where this object is.
    resource_uri: String,
    /// Whole minutes of sound, in seconds.
    rounded_recording_duration: u64,
    /// The virtual number that was dialled.
    to_number: String,
    /// False when something of it was lost.
    complete: bool,
    /// What each party said.
    legs: [String; 2],
    /// The masking session.
    session_uuid: Option<Uuid>,
    /// Of the sound's file.
    sha256: Option<String>,
}

/// A page of recordings.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RecordingPage {
    api_id: Uuid,
    meta: Meta,
    objects: Vec<Recording>,
}

/// Lists recordings, newest first.
///
/// `add_time` also takes the suffixes `__gt`, `__gte`, `__lt` and `__lte`.
#[utoipa::path(
    get,
    path = "/v1/Account/{auth_id}/Recording",
    operation_id = "listRecordings",
    tag = "Recording",
    params(
        AccountPath,
        ("subaccount" = Option<String>, Query, description = "Sessions of this sub-account only"),
        ("session_uuid" = Option<String>, Query, description = "Calls of this session only"),
        ("call_uuid" = Option<String>, Query, description = "The call of this leg"),
        ("from_number" = Option<String>, Query, description = "Who called"),
        ("to_number" = Option<String>, Query, description = "The virtual number that was dialled"),
        ("add_time" = Option<String>, Query, description = "YYYY-MM-DD HH:MM[:ss[.uuuuuu]], UTC"),
        ("limit" = Option<String>, Query, description = "1 to 20, by default 20"),
        ("offset" = Option<String>, Query, description = "How many to leave out"),
    ),
    responses((status = 200, description = "A page of recordings.", body = RecordingPage), Refusals),
)]
pub(super) async fn list(
    State(state): State<ApiState>,
    tenant: Tenant,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let query = query_of(&uri)?;
    let mut params = Params::from_query(query.clone());
    params.alias("sub_account", "subaccount");
    params.alias("session", "session_uuid");
    let page = Page::read(&params)?;
    let (found, total) = match filter(&params, &tenant)? {
        Some(filter) => {
            state.store.list_recordings(&tenant.account, &filter, page.limit, page.offset).await?
        }
        None => (vec![], 0),
    };
    let (base, now) = (base_url(&state, &headers), (state.now)());
    let recordings = RecordingPage {
        api_id: Uuid::new_v4(),
        meta: page.meta(&uri, &query, total),
        objects: found.iter().map(|one| Recording::of(one, &tenant.account, &base, now, None)).collect(),
    };
    Ok(answer(StatusCode::OK, &recordings))
}

/// Reads one recording, or its sound: `{uuid}` is the object, `{uuid}.mp3` or `{uuid}.wav` the file that its
/// `recording_url` names.
#[utoipa::path(
    get,
    path = "/v1/Account/{auth_id}/Recording/{recording}",
    operation_id = "readRecording",
    tag = "Recording",
    params(
        AccountPath,
        ("recording" = String, Path, description = "Its uuid; with `.mp3` or `.wav` behind it: its sound"),
        ("Range" = Option<String>, Header, description = "Of the sound: RFC 9110 §14"),
    ),
    responses(
        (
            status = 200,
            description = "The recording, or its sound.",
            content((Recording = "application/json"), (Vec<u8> = "audio/mpeg"), (Vec<u8> = "audio/wav"))
        ),
        (status = 206, description = "The range that was asked for."),
        (status = 304, description = "It is as it was."),
        (status = 412, description = "It is not as it was."),
        (status = 416, description = "There is nothing in that range."),
        Refusals,
    ),
)]
pub(super) async fn read(
    State(state): State<ApiState>,
    tenant: Tenant,
    names: Names,
    request: Request,
) -> Result<Response, ApiError> {
    let (uuid, format) = match names.recording.rsplit_once('.') {
        None => (names.recording.as_str(), None),
        Some((uuid, extension)) => (uuid, Some(RecordFormat::parse(extension).ok_or_else(unknown)?)),
    };
    let stored = find(&state, &tenant, uuid).await?;
    if let Some(format) = format {
        return sound(&state, &stored, RecordingFile::Mixed(format), request).await;
    }
    if stored.state != RecordingState::Ready {
        return Err(unknown());
    }
    let base = base_url(&state, request.headers());
    let recording = Recording::of(&stored, &tenant.account, &base, (state.now)(), Some(Uuid::new_v4()));
    Ok(answer(StatusCode::OK, &recording))
}

/// Removes a recording with all its files.
#[utoipa::path(
    delete,
    path = "/v1/Account/{auth_id}/Recording/{recording}",
    operation_id = "deleteRecording",
    tag = "Recording",
    params(
        AccountPath,
        ("recording" = String, Path, description = "Its uuid"),
    ),
    responses(
        (status = 204, description = "It is deleted."),
        Refusals,
    ),
)]
pub(super) async fn delete(
    State(state): State<ApiState>,
    tenant: Tenant,
    names: Names,
) -> Result<Response, ApiError> {
    let uuid = Uuid::parse_str(&names.recording).map_err(|_| unknown())?;
    if !state
        .store
        .delete_recording(&tenant.account, tenant.subaccount.as_deref(), uuid, (state.now)())
        .await?
    {
        return Err(unknown());
    }
    if let Some(recordings) = &state.recordings {
        recordings.wake();
    }
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// What one party said: `a-leg.wav` is the caller, `b-leg.wav` the called party.
#[utoipa::path(
    get,
    path = "/v1/Account/{auth_id}/Recording/{recording}/{leg}",
    operation_id = "readLegRecording",
    tag = "Recording",
    params(
        AccountPath,
        ("recording" = String, Path, description = "Its uuid"),
        ("leg" = String, Path, description = "`a-leg.wav` or `b-leg.wav`"),
        ("Range" = Option<String>, Header, description = "RFC 9110 §14"),
    ),
    responses(
        (status = 200, description = "The sound.", body = Vec<u8>, content_type = "audio/wav"),
        (status = 206, description = "The range that was asked for."),
        (status = 304, description = "It is as it was."),
        (status = 412, description = "It is not as it was."),
        (status = 416, description = "There is nothing in that range."),
        Refusals,
    ),
)]
pub(super) async fn leg(
    State(state): State<ApiState>,
    tenant: Tenant,
    names: Names,
    request: Request,
) -> Result<Response, ApiError> {
    let file = match names.leg.as_str() {
        media::recorder::A_LEG => RecordingFile::CallerLeg,
        media::recorder::B_LEG => RecordingFile::CalleeLeg,
        _ => return Err(unknown()),
    };
    let stored = find(&state, &tenant, &names.recording).await?;
    sound(&state, &stored, file, request).await
}

fn unknown() -> ApiError {
    ApiError::not_found("Recording not found.")
}

async fn find(state: &ApiState, tenant: &Tenant, uuid: &str) -> Result<Stored, ApiError> {
    let uuid = Uuid::parse_str(uuid).map_err(|_| unknown())?;
    state.store.find_recording(&tenant.account, tenant.subaccount.as_deref(), uuid).await?.ok_or_else(unknown)
}

/// `None`: nothing can fit.
fn filter(params: &Params, tenant: &Tenant) -> Result<Option<RecordingFilter>, ApiError> {
    let mut filter = RecordingFilter {
        subaccount: tenant.narrow(params.text("subaccount")?),
        session: None,
        call: None,
        from_number: number(params, "from_number")?,
        to_number: number(params, "to_number")?,
        added: time_range(params, "add_time")?,
    };
    for (name, field) in [("session_uuid", &mut filter.session), ("call_uuid", &mut filter.call)] {
        let Some(text) = params.text(name)? else { continue };
        // What is no uuid names nothing.
        let Ok(uuid) = Uuid::parse_str(&text) else { return Ok(None) };
        *field = Some(uuid);
    }
    Ok(Some(filter))
}

/// Sends a file, or the part of it that is asked for, piece by piece.
async fn sound(
    state: &ApiState,
    stored: &Stored,
    file: RecordingFile,
    request: Request,
) -> Result<Response, ApiError> {
    let recordings = state.recordings.as_ref().ok_or_else(unknown)?;
    let path = recordings.path(stored, file).await?.ok_or_else(unknown)?;
    // Of the request it reads nothing but the method and the conditions.
    let served = ServeFile::new(path).try_call(request).await;
    let mut response = served.map_err(|_| unknown())?.map(Body::new);
    // Between the look at the file and its opening it may have been deleted.
    if response.status() == StatusCode::NOT_FOUND {
        return Err(unknown());
    }
    let kind = match file {
        RecordingFile::Mixed(RecordFormat::Mp3) => "audio/mpeg",
        _ => "audio/wav",
    };
    let has_content = matches!(response.status(), StatusCode::OK | StatusCode::PARTIAL_CONTENT);
    if has_content {
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    }
    // What two people said to each other is for nobody's cache.
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    Ok(response)
}

impl Recording {
    fn of(stored: &Stored, account: &str, base: &str, now: Timestamp, api_id: Option<Uuid>) -> Self {
        let new = &stored.new;
        let uuid = new.interaction;
        let duration_ms = stored.duration_ms();
        let start_ms = new.started_at.map(Timestamp::as_millisecond);
        let in_ms = |at: i64| format!("{at}.00000");
        let length = i64::try_from(duration_ms).unwrap_or(i64::MAX);
        let uri = format!("/v1/Account/{account}/Recording/{uuid}");
        let age_s = now.as_second().saturating_sub(new.added_at.as_second()).max(0);
        Self {
            api_id,
            add_time: new.added_at.strftime("%Y-%m-%d %H:%M:%S%.6f+00:00").to_string(),
            call_uuid: new.call,
            conference_name: "",
            from_number: stored.caller.as_ref().map(E164::digits).unwrap_or_default().to_owned(),
            monthly_recording_storage_amount: 0,
            recording_duration_ms: format!("{duration_ms}.00000"),
            recording_end_ms: start_ms.map(|start| in_ms(start.saturating_add(length))),
            recording_format: new.format.as_str(),
            recording_id: uuid,
            recording_start_ms: start_ms.map(in_ms),
            recording_storage_duration: age_s / DAY_S,
            recording_storage_rate: 0,
            recording_type: "call",
            recording_url: format!("{base}{uri}.{}", new.format.as_str()),
            resource_uri: format!("{uri}/"),
            rounded_recording_duration: duration_ms.div_ceil(60_000).saturating_mul(60),
            to_number: stored.virtual_number.as_ref().map(Did::digits).unwrap_or_default().to_owned(),
            complete: new.complete,
            legs: [media::recorder::A_LEG, media::recorder::B_LEG].map(|leg| format!("{base}{uri}/{leg}")),
            session_uuid: new.session,
            sha256: stored.sha256.clone(),
        }
    }
}

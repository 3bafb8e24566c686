//! The Call resource: one leg of a call, with the fields of Plivo's.
//!
//! A leg that lives is also a live call: `?status=live` lists and shows those in another form, and DELETE hangs
//! up. A call is hung up as a whole, whichever of its legs is named.

use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use media::Side;
use media::quality::Mos;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::ApiState;
use super::auth::Tenant;
use super::error::{ApiError, Refusals, answer};
use super::list::{Meta, OPERATORS, Page, WINDOW_S, comparison, query_of, time_range};
use super::params::Params;
use super::session_schema::AccountPath;
use super::session_view::talk_s;
use super::sessions::Item;
use super::time::call_style;
use crate::number::{Did, E164};
use crate::store::{LegFilter, LegQuality, LegRow, TimeRange};
use jiff::Timestamp;

pub(super) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(read, hang_up))
}

/// One leg of a call.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Call {
    /// Different for each request; in lists it stands beside the objects.
    #[serde(skip_serializing_if = "Option::is_none")]
    api_id: Option<Uuid>,
    /// When it was answered; null: never.
    answer_time: Option<String>,
    /// Seconds begun between answer and end.
    bill_duration: u64,
    /// The same in whole minutes, in seconds.
    billed_duration: u64,
    /// `inbound`: the leg of a party that called us; `outbound`: of one that we called.
    #[schema(example = "inbound")]
    call_direction: &'static str,
    /// Seconds begun between answer and end.
    call_duration: u64,
    /// What became of it.
    #[schema(example = "ANSWER")]
    call_state: &'static str,
    /// Its own uuid.
    call_uuid: Uuid,
    /// Always null.
    conference_uuid: Option<Uuid>,
    /// Null while it goes on.
    end_time: Option<String>,
    /// Who calls on this leg: a party or the virtual number; empty when it is not known.
    from_number: String,
    /// Plivo's code of the cause.
    hangup_cause_code: Option<u16>,
    /// Plivo's name of the cause.
    hangup_cause_name: Option<String>,
    /// Who ended it.
    #[schema(example = "Caller")]
    hangup_source: Option<String>,
    /// When the INVITE came or went.
    initiation_time: String,
    /// The caller's leg of the same call, for the called party's.
    parent_call_uuid: Option<Uuid>,
    /// Where this object is.
    resource_uri: String,
    /// Carriers' attestation is not looked at.
    stir_verification: &'static str,
    /// Who is called on this leg.
    to_number: String,
    /// Calls cost nothing here.
    #[schema(example = "0.00000")]
    total_amount: &'static str,
    /// Calls cost nothing here.
    #[schema(example = "0.00000")]
    total_rate: &'static str,
    /// Both legs of a call have the same; it names the recording too.
    interaction_uuid: Uuid,
    /// The masking session, when one took the call.
    session_uuid: Option<Uuid>,
    /// What was dialled.
    virtual_number: String,
    /// When it rang.
    ringing_time: Option<String>,
    /// The final SIP answer.
    sip_status: Option<u16>,
    /// The Q.850 cause in the Reason header that ended it: the peer's, else ours.
    q850_cause: Option<u16>,
    /// 0: it came in; 1 for the first gateway that was tried, and so on.
    attempt: u8,
    /// The trunk that the leg used.
    trunk: String,
    /// RTP packets that came from the peer.
    packets_received: u64,
    /// RTP packets that went to the peer.
    packets_sent: u64,
    /// RTP packets that never came.
    packets_lost: u64,
    /// Interarrival jitter at the end in RTP timestamp units.
    jitter: u32,
    /// How the leg sounded; null while it goes on and for a leg without packets.
    quality: Option<Quality>,
}

/// How a leg sounded.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Quality {
    /// The codec that was agreed on last.
    #[schema(example = "PCMU")]
    codec: Option<String>,
    /// Mean opinion score by the E-model of what came from the peer, 1 to 4.5.
    #[schema(example = 4.38)]
    mos: Option<f64>,
    /// The same of what the peer heard, by its last RTCP report.
    remote_mos: Option<f64>,
    /// RTP packets that were to come.
    packets_expected: u64,
    /// RTP packets that came a second time.
    packets_repeated: u64,
    /// RTP packets that came after a later one.
    packets_reordered: u64,
    /// Runs of lost packets, whatever their length.
    loss_bursts: u64,
    /// The longest of them in packets.
    longest_loss: u64,
    /// Mean jitter.
    mean_jitter_ms: f64,
    /// The highest jitter.
    max_jitter_ms: f64,
    /// Packets that the peer missed, by its last RTCP report.
    remote_packets_lost: Option<i32>,
    /// Jitter at the peer, by its last RTCP report.
    remote_jitter_ms: Option<f64>,
    /// The last round trip between Maskline and the peer.
    round_trip_ms: Option<f64>,
    /// The longest one.
    max_round_trip_ms: Option<f64>,
    /// Times when the peer owed audio and sent none for ten seconds.
    silences: u32,
    /// Times when the peer heard nothing of the other party, which heard it.
    unheard: u32,
}

impl Quality {
    fn of(quality: &LegQuality) -> Self {
        // Of times that were stored in µs, as a JSON number.
        let ms = |micros: u64| micros as f64 / 1000.0;
        Self {
            codec: quality.codec.as_ref().map(|codec| codec.clone().into_owned()),
            mos: quality.mos.map(Mos::value),
            remote_mos: quality.remote_mos.map(Mos::value),
            packets_expected: quality.expected,
            packets_repeated: quality.repeated,
            packets_reordered: quality.reordered,
            loss_bursts: quality.loss_runs,
            longest_loss: quality.longest_loss,
            mean_jitter_ms: ms(quality.mean_jitter),
            max_jitter_ms: ms(quality.max_jitter),
            remote_packets_lost: quality.remote_lost,
            remote_jitter_ms: quality.remote_jitter.map(ms),
            round_trip_ms: quality.round_trip.map(ms),
            max_round_trip_ms: quality.max_round_trip.map(ms),
            silences: quality.silences,
            unheard: quality.unheard,
        }
    }
}

/// A leg that lives.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LiveCall {
    /// Different for each request.
    api_id: Uuid,
    /// `initiated`, `ringing` or `in-progress`.
    #[schema(example = "in-progress")]
    call_status: &'static str,
    /// Its own uuid.
    call_uuid: Uuid,
    /// Always empty.
    caller_name: String,
    /// `inbound` or `outbound`.
    direction: &'static str,
    /// Who calls on this leg.
    from: String,
    /// The same as `call_uuid`.
    request_uuid: Uuid,
    /// When the INVITE came or went.
    #[schema(example = "2026-11-22 01:17:49.050872")]
    session_start: String,
    /// Who is called on this leg.
    to: String,
}

/// A page of legs.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CallPage {
    api_id: Uuid,
    meta: Meta,
    objects: Vec<Call>,
}

/// The uuids of legs that live.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LiveCalls {
    api_id: Uuid,
    calls: Vec<Uuid>,
}

/// What a list answers.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[allow(dead_code)] // For `/openapi.json`.
pub(super) enum CallList {
    Page(CallPage),
    Live(LiveCalls),
}

/// What an item answers.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[allow(dead_code, clippy::large_enum_variant)] // For `/openapi.json`.
pub(super) enum CallItem {
    Call(Call),
    Live(LiveCall),
}

/// Lists legs, newest first.
///
/// Without a bound on a time it lists those of the last seven days. Times and `bill_duration` also take the
/// suffixes `__gt`, `__gte`, `__lt` and `__lte`. With `status=live` the answer holds the uuids of legs that live.
#[utoipa::path(
    get,
    path = "/v1/Account/{auth_id}/Call",
    operation_id = "listCalls",
    tag = "Call",
    params(
        AccountPath,
        ("status" = Option<String>, Query, description = "`live`: legs that live; `queued`: none, always"),
        ("subaccount" = Option<String>, Query, description = "Sessions of this sub-account only"),
        ("session_uuid" = Option<String>, Query, description = "Calls of this session only"),
        ("call_direction" = Option<String>, Query, description = "`inbound` or `outbound`"),
        ("from_number" = Option<String>, Query, description = "Who calls"),
        ("to_number" = Option<String>, Query, description = "Who is called"),
        ("parent_call_uuid" = Option<String>, Query, description = "Legs that this one led to"),
        ("bill_duration" = Option<String>, Query, description = "Seconds begun since the answer"),
        ("hangup_cause_code" = Option<String>, Query, description = "Why it ended"),
        ("hangup_source" = Option<String>, Query, description = "Who ended it"),
        ("initiation_time" = Option<String>, Query, description = "YYYY-MM-DD HH:MM[:ss[.uuuuuu]], UTC"),
        ("answer_time" = Option<String>, Query, description = "YYYY-MM-DD HH:MM[:ss[.uuuuuu]], UTC"),
        ("end_time" = Option<String>, Query, description = "YYYY-MM-DD HH:MM[:ss[.uuuuuu]], UTC"),
        ("limit" = Option<String>, Query, description = "1 to 20, by default 20"),
        ("offset" = Option<String>, Query, description = "How many to leave out"),
    ),
    responses((status = 200, description = "Legs, or the uuids of those that live.", body = CallList), Refusals),
)]
pub(super) async fn list(
    State(state): State<ApiState>,
    tenant: Tenant,
    uri: Uri,
) -> Result<Response, ApiError> {
    let query = query_of(&uri)?;
    let mut params = Params::from_query(query.clone());
    params.alias("sub_account", "subaccount");
    let page = Page::read(&params)?;
    let subaccount = tenant.narrow(params.text("subaccount")?);
    match status(&params)? {
        None => {}
        Some(Status::Queued) => return Ok(live(vec![])),
        Some(Status::Live) => {
            let calls = state
                .store
                .live_legs(&tenant.account, subaccount.as_deref(), page.limit, page.offset)
                .await?;
            return Ok(live(calls));
        }
    }
    let (legs, total) = match filter(&params, subaccount, (state.now)())? {
        Some(filter) => state.store.find_legs(&tenant.account, &filter, page.limit, page.offset).await?,
        None => (vec![], 0),
    };
    let calls = CallPage {
        api_id: Uuid::new_v4(),
        meta: page.meta(&uri, &query, total),
        objects: legs.iter().map(|leg| Call::of(leg, &tenant.account, None)).collect(),
    };
    Ok(answer(StatusCode::OK, &calls))
}

fn live(calls: Vec<Uuid>) -> Response {
    answer(StatusCode::OK, &LiveCalls { api_id: Uuid::new_v4(), calls })
}

/// Reads one leg; with `status=live` one that lives, in the form of a live call.
#[utoipa::path(
    get,
    path = "/v1/Account/{auth_id}/Call/{uuid}",
    operation_id = "readCall",
    tag = "Call",
    params(
        AccountPath,
        ("uuid" = String, Path, description = "The leg's uuid"),
        ("status" = Option<String>, Query, description = "`live`: as a live call; 404 when it has ended"),
    ),
    responses(
        (status = 200, description = "The leg.", body = CallItem),
        Refusals,
    ),
)]
pub(super) async fn read(
    State(state): State<ApiState>,
    tenant: Tenant,
    Item(uuid): Item,
    uri: Uri,
) -> Result<Response, ApiError> {
    let status = status(&Params::from_query(query_of(&uri)?))?;
    let leg = find(&state, &tenant, uuid).await?;
    match status {
        None => {
            let call = Call::of(&leg, &tenant.account, Some(Uuid::new_v4()));
            Ok(answer(StatusCode::OK, &call))
        }
        Some(Status::Live) if leg.ended_at.is_none() => Ok(answer(StatusCode::OK, &LiveCall::of(&leg))),
        Some(Status::Live | Status::Queued) => Err(unknown()),
    }
}

/// Hangs up the call that the leg belongs to, both legs. Does not wait for it.
#[utoipa::path(
    delete,
    path = "/v1/Account/{auth_id}/Call/{uuid}",
    operation_id = "hangUpCall",
    tag = "Call",
    params(
        AccountPath,
        ("uuid" = String, Path, description = "The leg's uuid"),
    ),
    responses(
        (status = 204, description = "It is being hung up."),
        Refusals,
    ),
)]
pub(super) async fn hang_up(
    State(state): State<ApiState>,
    tenant: Tenant,
    Item(uuid): Item,
) -> Result<Response, ApiError> {
    let leg = find(&state, &tenant, uuid).await?;
    if leg.ended_at.is_some() || !state.calls.hang_up_call(leg.opened.interaction) {
        return Err(unknown());
    }
    Ok(StatusCode::NO_CONTENT.into_response())
}

fn unknown() -> ApiError {
    ApiError::not_found("Call not found.")
}

async fn find(state: &ApiState, tenant: &Tenant, uuid: Option<Uuid>) -> Result<LegRow, ApiError> {
    let uuid = uuid.ok_or_else(unknown)?;
    state.store.leg_of(&tenant.account, tenant.subaccount.as_deref(), uuid).await?.ok_or_else(unknown)
}

#[derive(Clone, Copy)]
enum Status {
    Live,
    Queued,
}

fn status(params: &Params) -> Result<Option<Status>, ApiError> {
    match params.text("status")?.map(|status| status.to_ascii_lowercase()).as_deref() {
        None => Ok(None),
        Some("live") => Ok(Some(Status::Live)),
        Some("queued") => Ok(Some(Status::Queued)),
        Some(_) => Err(ApiError::invalid("status", "allowed values are live or queued.")),
    }
}

/// `None`: nothing can fit.
fn filter(
    params: &Params,
    subaccount: Option<String>,
    now: Timestamp,
) -> Result<Option<LegFilter>, ApiError> {
    let direction = match params.text("call_direction")?.map(|text| text.to_ascii_lowercase()).as_deref() {
        None => None,
        Some("inbound") => Some("inbound"),
        Some("outbound") => Some("outbound"),
        Some(_) => {
            return Err(ApiError::invalid("call_direction", "allowed values are inbound or outbound."));
        }
    };
    let mut filter = LegFilter {
        subaccount,
        session: None,
        parent: None,
        direction,
        from_number: number(params, "from_number")?,
        to_number: number(params, "to_number")?,
        hangup_cause_code: params.integer("hangup_cause_code", 0..=i64::MAX)?,
        hangup_source: params.text("hangup_source")?,
        talk_s: seconds_range(params, "bill_duration")?,
        started: time_range(params, "initiation_time")?,
        answered: time_range(params, "answer_time")?,
        ended: time_range(params, "end_time")?,
    };
    for (name, field) in [("session_uuid", &mut filter.session), ("parent_call_uuid", &mut filter.parent)] {
        let Some(text) = params.text(name)? else { continue };
        // What is no uuid names nothing.
        let Ok(uuid) = Uuid::parse_str(&text) else { return Ok(None) };
        *field = Some(uuid);
    }
    let unbounded =
        [filter.started, filter.answered, filter.ended].iter().all(|range| *range == TimeRange::default());
    if unbounded && filter.session.is_none() && filter.parent.is_none() {
        filter.started.from = Timestamp::from_second(now.as_second().saturating_sub(WINDOW_S)).ok();
    }
    Ok(Some(filter))
}

/// The digits of a number: a party's or a virtual one's.
pub(super) fn number(params: &Params, name: &str) -> Result<Option<String>, ApiError> {
    Ok(params.party(name)?.map(|number| number.digits().to_owned()))
}

fn seconds_range(params: &Params, name: &str) -> Result<(Option<i64>, Option<i64>), ApiError> {
    let (mut low, mut high) = (None::<i64>, None::<i64>);
    for operator in OPERATORS {
        let Some(seconds) = params.integer(&comparison(name, operator), 0..=i64::MAX / 2)? else { continue };
        let (at_least, at_most) = match operator {
            "gt" => (Some(seconds + 1), None),
            "gte" => (Some(seconds), None),
            "lt" => (None, Some(seconds - 1)),
            "lte" => (None, Some(seconds)),
            _ => (Some(seconds), Some(seconds)),
        };
        low = low.max(at_least); // `None` is the least of all.
        high = [high, at_most].into_iter().flatten().min();
    }
    Ok((low, high))
}

struct Ends {
    from: String,
    to: String,
    direction: &'static str,
}

fn ends(leg: &LegRow) -> Ends {
    let opened = &leg.opened;
    let number = opened.virtual_number.as_ref().map(Did::digits).unwrap_or_default().to_owned();
    let party = opened.party.as_ref().map(E164::digits).unwrap_or_default().to_owned();
    // The first party of a call that we placed was called, too.
    match (opened.side, opened.attempt) {
        (Side::A, 0) => Ends { from: party, to: number, direction: "inbound" },
        (Side::A | Side::B, _) => Ends { from: number, to: party, direction: "outbound" },
    }
}

impl LiveCall {
    fn of(leg: &LegRow) -> Self {
        let Ends { from, to, direction } = ends(leg);
        Self {
            api_id: Uuid::new_v4(),
            call_status: match (leg.answered_at, leg.ringing_at) {
                (Some(_), _) => "in-progress",
                (None, Some(_)) => "ringing",
                (None, None) => "initiated",
            },
            call_uuid: leg.opened.leg,
            caller_name: String::new(),
            direction,
            from,
            request_uuid: leg.opened.leg,
            session_start: leg.opened.started_at.strftime("%Y-%m-%d %H:%M:%S%.6f").to_string(),
            to,
        }
    }
}

impl Call {
    fn of(leg: &LegRow, account: &str, api_id: Option<Uuid>) -> Self {
        let opened = &leg.opened;
        let Ends { from, to, direction } = ends(leg);
        let talk = talk_s(leg);
        Self {
            api_id,
            answer_time: leg.answered_at.map(call_style),
            bill_duration: talk,
            billed_duration: talk.div_ceil(60).saturating_mul(60),
            call_direction: direction,
            call_duration: talk,
            call_state: call_state(leg),
            call_uuid: opened.leg,
            conference_uuid: None,
            end_time: leg.ended_at.map(call_style),
            from_number: from,
            hangup_cause_code: leg.hangup_cause_code,
            hangup_cause_name: leg.hangup_cause_name.clone(),
            hangup_source: leg.hangup_source.clone(),
            initiation_time: call_style(opened.started_at),
            parent_call_uuid: leg.parent,
            resource_uri: format!("/v1/Account/{account}/Call/{}/", opened.leg),
            stir_verification: "Not Applicable",
            to_number: to,
            total_amount: "0.00000",
            total_rate: "0.00000",
            interaction_uuid: opened.interaction,
            session_uuid: opened.session,
            virtual_number: opened.virtual_number.as_ref().map(Did::digits).unwrap_or_default().to_owned(),
            ringing_time: leg.ringing_at.map(call_style),
            sip_status: leg.sip_status,
            q850_cause: leg.q850_cause,
            attempt: opened.attempt,
            trunk: opened.trunk.clone(),
            packets_received: leg.packets_received,
            packets_sent: leg.packets_sent,
            packets_lost: leg.packets_lost,
            jitter: leg.jitter,
            quality: leg.quality.as_ref().map(Quality::of),
        }
    }
}

fn call_state(leg: &LegRow) -> &'static str {
    match (leg.ended_at, leg.answered_at, leg.hangup_cause_code) {
        (None, Some(_), _) => "IN_PROGRESS",
        (None, None, _) if leg.ringing_at.is_some() => "RINGING",
        (None, None, _) => "INITIATED",
        (Some(_), Some(_), _) => "ANSWER",
        (Some(_), None, Some(1000)) => "CANCEL",
        (Some(_), None, Some(3000 | 6010)) => "NO_ANSWER",
        (Some(_), None, Some(3010 | 3100)) => "BUSY",
        (Some(_), None, Some(3020 | 3110)) => "REJECTED",
        (Some(_), None, _) => "FAILED",
    }
}

//! The Call resource: one leg of a call, with the fields of Plivo's.

use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use media::Side;
use serde_json::{Map, Value, json};

use super::ApiState;
use super::auth::Tenant;
use super::error::{ApiError, reply, reply_flat};
use super::list::{Page, query_of};
use super::params::Params;
use super::session_view::{into_map, talk_s};
use super::sessions::Item;
use super::time::call_style;
use crate::number::{Did, E164};
use crate::store::LegRow;

pub(super) async fn read(
    State(state): State<ApiState>,
    tenant: Tenant,
    Item(uuid): Item,
) -> Result<Response, ApiError> {
    let unknown = || ApiError::not_found("Call not found.");
    let uuid = uuid.ok_or_else(unknown)?;
    let leg = state.store.find_leg(&tenant.account, uuid).await?.ok_or_else(unknown)?;
    Ok(reply_flat(StatusCode::OK, call_object(&leg, &tenant.account)))
}

pub(super) async fn list(
    State(state): State<ApiState>,
    tenant: Tenant,
    uri: Uri,
) -> Result<Response, ApiError> {
    let query = query_of(&uri)?;
    let page = Page::read(&Params::from_query(query.clone()))?;
    let (legs, total) = state.store.list_legs(&tenant.account, page.limit, page.offset).await?;
    let objects: Vec<Value> =
        legs.iter().map(|leg| Value::Object(call_object(leg, &tenant.account))).collect();
    Ok(reply(StatusCode::OK, [("meta", page.meta(&uri, &query, total).into()), ("objects", objects.into())]))
}

fn call_object(leg: &LegRow, account: &str) -> Map<String, Value> {
    let opened = &leg.opened;
    let number = opened.virtual_number.as_ref().map(Did::digits).unwrap_or_default();
    let party = opened.party.as_ref().map(E164::digits).unwrap_or_default();
    // The first party of a call that we placed was called, too.
    let (from, to, direction) = match (opened.side, opened.attempt) {
        (Side::A, 0) => (party, number, "inbound"),
        (Side::A | Side::B, _) => (number, party, "outbound"),
    };
    let talk = talk_s(leg);
    into_map(json!({
        "answer_time": leg.answered_at.map(call_style),
        "bill_duration": talk,
        "billed_duration": talk.div_ceil(60).saturating_mul(60),
        "call_direction": direction,
        "call_duration": talk,
        "call_state": call_state(leg),
        "call_uuid": opened.leg.to_string(),
        "conference_uuid": null,
        "end_time": leg.ended_at.map(call_style),
        "from_number": from,
        "hangup_cause_code": leg.hangup_cause_code,
        "hangup_cause_name": leg.hangup_cause_name,
        "hangup_source": leg.hangup_source,
        "initiation_time": call_style(opened.started_at),
        "interaction_uuid": opened.interaction.to_string(),
        "parent_call_uuid": leg.parent.map(|uuid| uuid.to_string()),
        "resource_uri": format!("/v1/Account/{account}/Call/{}/", opened.leg),
        "ringing_time": leg.ringing_at.map(call_style),
        "session_uuid": opened.session.map(|uuid| uuid.to_string()),
        "sip_status": leg.sip_status,
        "attempt": opened.attempt,
        "trunk": opened.trunk,
        "to_number": to,
        "total_amount": "0.00000",
        "total_rate": "0.00000",
        "virtual_number": number,
        "packets_received": leg.packets_received,
        "packets_sent": leg.packets_sent,
        "packets_lost": leg.packets_lost,
        "jitter": leg.jitter,
    }))
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

//! The session and interaction objects of answers (`plivo-api.md` §4, §5), keys in the order of the samples.

use std::time::Duration;

use jiff::Timestamp;
use media::Side;
use serde_json::{Map, Value, json};

use super::time::go_style;
use crate::masking::session::{MaskingSession, PartyRole};
use crate::number::E164;
use crate::store::{InteractionRow, LegRow};

/// The most calls that one session object lists, the latest; its totals count all that were read.
const MAX_INTERACTIONS: usize = 200;

/// Where a session is found, relative to the host.
pub(super) fn session_uri(session: &MaskingSession) -> String {
    format!("/v1/Account/{}/Masking/Session/{}/", session.account, session.uuid)
}

/// A session as the API shows it. `base` goes before the paths of call URLs.
pub(super) fn session_object(
    session: &MaskingSession,
    calls: &[InteractionRow],
    base: &str,
    now: Timestamp,
) -> Map<String, Value> {
    let pin = session.pin.as_ref();
    let interactions: Vec<Value> = calls
        .iter()
        .skip(calls.len().saturating_sub(MAX_INTERACTIONS))
        .map(|call| Value::Object(interaction_object(session, call, base)))
        .collect();
    let last = calls.iter().filter_map(|call| call.ended_at).max();
    let planned_s = session.expires_at.as_second().saturating_sub(session.created_at.as_second());
    let object = json!({
        "first_party": digits(session.first_party.as_ref()),
        "second_party": digits(session.second_party.as_ref()),
        "virtual_number": session.virtual_number.digits(),
        "status": status(session, calls, now),
        "initiate_call_to_first_party": session.initiate_call_to_first_party,
        "session_uuid": session.uuid.to_string(),
        "callback_url": session.callback_url,
        "callback_method": session.callback_method.as_str(),
        "created_time": go_style(session.created_at),
        "modified_time": go_style(session.modified_at),
        "expiry_time": go_style(session.ends_at()),
        "duration": planned_s,
        "amount": 0,
        "call_time_limit": session.call_time_limit.as_secs(),
        "ring_timeout": session.ring_timeout.as_secs(),
        "first_party_play_url": session.first_party_play_url,
        "second_party_play_url": session.second_party_play_url,
        "record": session.record,
        "record_file_format": session.record_file_format.as_str(),
        "recording_callback_url": session.recording_callback_url,
        "recording_callback_method": session.recording_callback_method.as_str(),
        "interaction": if interactions.is_empty() { Value::Null } else { Value::Array(interactions) },
        "total_call_amount": 0,
        "total_call_count": calls.iter().map(|call| shown_legs(call).len()).sum::<usize>(),
        "total_call_billed_duration": calls.iter().map(billed_s).sum::<u64>(),
        "total_session_amount": 0,
        "last_interaction_time": last.map(go_style).unwrap_or_default(),
        "unknown_caller_play": session.unknown_caller_play,
        "is_pin_authentication_required": pin.is_some(),
        "generate_pin": pin.map(|pin| pin.generated),
        "generate_pin_length": pin.map(|pin| pin.generate_length),
        "first_party_pin": pin.map(|pin| pin.first_party_pin.digits()),
        "second_party_pin": pin.map(|pin| pin.second_party_pin.digits()),
        "pin_prompt_play": pin.map(|pin| pin.prompt_play.as_str()),
        "pin_retry": pin.map(|pin| pin.retry),
        "pin_retry_wait": pin.map(|pin| pin.retry_wait.as_secs()),
        "incorrect_pin_play": pin.map(|pin| pin.incorrect_play.as_str()),
        "create_session_with_single_party": session.single_party,
        "virtual_number_cooloff_period": session.cooloff.as_secs(),
        "force_pin_authentication": pin.is_some_and(|pin| pin.force),
    });
    let mut object = into_map(object);
    if let Some(subaccount) = &session.subaccount {
        object.insert("subaccount".to_owned(), subaccount.as_str().into());
    }
    object
}

/// The fields of a JSON object.
pub(super) fn into_map(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

fn digits(party: Option<&E164>) -> &str {
    party.map(E164::digits).unwrap_or_default()
}

fn status(session: &MaskingSession, calls: &[InteractionRow], now: Timestamp) -> &'static str {
    if !session.is_active(now) {
        "expired"
    } else if calls.iter().any(|call| call.ended_at.is_none()) {
        "in-progress"
    } else {
        "active"
    }
}

fn interaction_object(session: &MaskingSession, call: &InteractionRow, base: &str) -> Map<String, Value> {
    let legs = shown_legs(call);
    let mut object = Map::new();
    let mut put = |name: &str, value: Value| drop(object.insert(name.to_owned(), value));
    put("start_time", go_style(call.started_at).into());
    put("end_time", call.ended_at.map(go_style).unwrap_or_default().into());
    for (name, role) in
        [("first_party_resource_url", PartyRole::First), ("second_party_resource_url", PartyRole::Second)]
    {
        // A leg that was never started has no key, as in the service's own samples.
        if let Some(leg) = legs.iter().find(|leg| leg.opened.role == Some(role)) {
            put(name, format!("{base}/v1/Account/{}/Call/{}", session.account, leg.opened.leg).into());
        }
    }
    // Absent until it can be fetched, and from its deletion on.
    if call.recording_ready {
        put(
            "recording_resource_url",
            format!("{base}/v1/Account/{}/Recording/{}/", session.account, call.uuid).into(),
        );
    }
    put("type", "call".into());
    put("total_call_count", legs.len().into());
    let billed = billed_s(call);
    if billed > 0 {
        put("call_billed_duration", billed.into());
    }
    put("duration", duration_s(call).into());
    object
}

/// The legs that count: of each side the last attempt.
fn shown_legs(call: &InteractionRow) -> Vec<&LegRow> {
    let last =
        |side| call.legs.iter().filter(|leg| leg.opened.side == side).max_by_key(|leg| leg.opened.attempt);
    [last(Side::A), last(Side::B)].into_iter().flatten().collect()
}

/// How long a leg was up, in seconds begun; 0 while it goes on and when it was never answered.
pub(super) fn talk_s(leg: &LegRow) -> u64 {
    let (Some(answered), Some(ended)) = (leg.answered_at, leg.ended_at) else { return 0 };
    let length = Duration::try_from(ended.duration_since(answered)).unwrap_or_default();
    length.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX)
}

/// The sum over its legs.
fn duration_s(call: &InteractionRow) -> u64 {
    shown_legs(call).into_iter().map(talk_s).sum()
}

/// In minutes begun.
fn billed_s(call: &InteractionRow) -> u64 {
    duration_s(call).div_ceil(60).saturating_mul(60)
}

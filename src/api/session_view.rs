//! The session and interaction objects of answers (`plivo-api.md` §4, §5), keys in the order of the samples.
//!
//! These types are both what is written and what `/openapi.json` says of it.

use jiff::Timestamp;
use media::Side;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use super::time::go_style;
use crate::masking::session::{MaskingSession, PartyRole};
use crate::number::E164;
use crate::store::{InteractionRow, LegRow};

/// The most calls that one session object lists, the latest; its totals count all that were read.
const MAX_INTERACTIONS: usize = 200;

/// A masking session. Times are `YYYY-MM-DD HH:MM:SS +0000 UTC`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Session)]
#[serde(deny_unknown_fields)]
pub(super) struct SessionObject {
    /// Without `+`; empty while a single-party session does not know this party.
    #[schema(pattern = "^([0-9]{7,15})?$")]
    first_party: String,
    /// Without `+`; empty while a single-party session does not know this party.
    #[schema(pattern = "^([0-9]{7,15})?$")]
    second_party: String,
    /// Without `+`.
    #[schema(pattern = "^[0-9]{7,15}$")]
    virtual_number: String,
    status: Status,
    initiate_call_to_first_party: bool,
    session_uuid: Uuid,
    /// Empty: none.
    callback_url: String,
    #[schema(pattern = "^(GET|POST)$")]
    callback_method: &'static str,
    created_time: Time,
    modified_time: Time,
    /// When it ends; of a deleted session the moment of deletion.
    expiry_time: Time,
    /// The planned length in whole seconds; a deletion does not shorten it.
    duration: i64,
    /// Always 0: nothing is charged here.
    amount: u8,
    /// In seconds.
    call_time_limit: u64,
    /// In seconds.
    ring_timeout: u64,
    /// Empty: none.
    first_party_play_url: String,
    /// Empty: none.
    second_party_play_url: String,
    record: bool,
    #[schema(pattern = "^(mp3|wav)$")]
    record_file_format: &'static str,
    /// Empty: none.
    recording_callback_url: String,
    #[schema(pattern = "^(GET|POST)$")]
    recording_callback_method: &'static str,
    /// Its latest calls, at most 200; null before the first.
    #[schema(required)]
    interaction: Option<Vec<InteractionObject>>,
    /// Always 0: nothing is charged here.
    total_call_amount: u8,
    /// Legs, at most two for each call.
    total_call_count: usize,
    /// In seconds: each answered leg in minutes begun.
    total_call_billed_duration: u64,
    /// Always 0: nothing is charged here.
    total_session_amount: u8,
    /// The end of the latest call; empty before the first.
    last_interaction_time: TimeOrNone,
    /// Empty: none.
    unknown_caller_play: String,
    is_pin_authentication_required: bool,
    /// Null without PIN authentication, like all of the PIN's attributes.
    #[schema(required)]
    generate_pin: Option<bool>,
    #[schema(required)]
    generate_pin_length: Option<u8>,
    #[schema(required, pattern = "^[0-9]{4,15}$")]
    first_party_pin: Option<String>,
    #[schema(required, pattern = "^[0-9]{4,15}$")]
    second_party_pin: Option<String>,
    #[schema(required)]
    pin_prompt_play: Option<String>,
    #[schema(required)]
    pin_retry: Option<u8>,
    /// In seconds.
    #[schema(required)]
    pin_retry_wait: Option<u64>,
    #[schema(required)]
    incorrect_pin_play: Option<String>,
    /// Null when it was not given.
    #[schema(required)]
    create_session_with_single_party: Option<bool>,
    /// In seconds.
    virtual_number_cooloff_period: u64,
    force_pin_authentication: bool,
    /// Only where one was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    subaccount: Option<String>,
    /// Only in lists: its path.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    resource_uri: Option<String>,
}

/// A moment, UTC.
#[derive(Debug, Serialize, ToSchema)]
#[schema(pattern = r"^[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2} \+0000 UTC$")]
#[schema(example = "2024-02-01 06:28:15 +0000 UTC")]
struct Time(String);

/// A moment, UTC; empty if there is none.
#[derive(Debug, Serialize, ToSchema)]
#[schema(pattern = r"^([0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2} \+0000 UTC)?$")]
struct TimeOrNone(String);

impl From<Timestamp> for Time {
    fn from(at: Timestamp) -> Self {
        Self(go_style(at))
    }
}

impl From<Option<Timestamp>> for TimeOrNone {
    fn from(at: Option<Timestamp>) -> Self {
        Self(at.map(go_style).unwrap_or_default())
    }
}

/// `in-progress`: active, and at least one call is going on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = SessionStatus)]
#[serde(rename_all = "kebab-case")]
enum Status {
    Active,
    InProgress,
    Expired,
}

/// One call of a session: at most two legs, whoever called.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Interaction)]
#[serde(deny_unknown_fields)]
pub(super) struct InteractionObject {
    start_time: Time,
    /// Empty while the call goes on.
    end_time: TimeOrNone,
    /// The Call resource of this party's leg; absent when it was never started.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    first_party_resource_url: Option<String>,
    /// The Call resource of this party's leg; absent when it was never started.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    second_party_resource_url: Option<String>,
    /// Always `call`.
    r#type: &'static str,
    /// In seconds: each answered leg in minutes begun; absent when that is 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    call_billed_duration: Option<u64>,
    /// The Recording resource; absent when nothing was recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    recording_resource_url: Option<String>,
    /// Legs.
    total_call_count: usize,
    /// The seconds that the legs were up, added.
    duration: u64,
}

impl SessionObject {
    /// The session as the API shows it. `base` goes before the paths of URLs.
    pub(super) fn of(session: &MaskingSession, calls: &[InteractionRow], base: &str, now: Timestamp) -> Self {
        let pin = session.pin.as_ref();
        let interactions: Vec<_> = calls
            .iter()
            .skip(calls.len().saturating_sub(MAX_INTERACTIONS))
            .map(|call| InteractionObject::of(session, call, base))
            .collect();
        let last = calls.iter().filter_map(|call| call.ended_at).max();
        let planned_us =
            session.expires_at.as_microsecond().saturating_sub(session.created_at.as_microsecond());
        Self {
            first_party: digits(session.first_party.as_ref()),
            second_party: digits(session.second_party.as_ref()),
            virtual_number: session.virtual_number.digits().to_owned(),
            status: status(session, calls, now),
            initiate_call_to_first_party: session.initiate_call_to_first_party,
            session_uuid: session.uuid,
            callback_url: session.callback_url.clone(),
            callback_method: session.callback_method.as_str(),
            created_time: session.created_at.into(),
            modified_time: session.modified_at.into(),
            expiry_time: session.ends_at().into(),
            // As in the samples, of the exact times: it can be one less than what the shown ones give.
            duration: planned_us / 1_000_000,
            amount: 0,
            call_time_limit: session.call_time_limit.as_secs(),
            ring_timeout: session.ring_timeout.as_secs(),
            first_party_play_url: session.first_party_play_url.clone(),
            second_party_play_url: session.second_party_play_url.clone(),
            record: session.record,
            record_file_format: session.record_file_format.as_str(),
            recording_callback_url: session.recording_callback_url.clone(),
            recording_callback_method: session.recording_callback_method.as_str(),
            interaction: (!interactions.is_empty()).then_some(interactions),
            total_call_amount: 0,
            total_call_count: calls.iter().map(|call| shown_legs(call).len()).sum(),
            total_call_billed_duration: calls.iter().map(billed_s).sum(),
            total_session_amount: 0,
            last_interaction_time: last.into(),
            unknown_caller_play: session.unknown_caller_play.clone(),
            is_pin_authentication_required: pin.is_some(),
            generate_pin: pin.map(|pin| pin.generated),
            generate_pin_length: pin.map(|pin| pin.generate_length),
            first_party_pin: pin.map(|pin| pin.first_party_pin.digits().to_owned()),
            second_party_pin: pin.map(|pin| pin.second_party_pin.digits().to_owned()),
            pin_prompt_play: pin.map(|pin| pin.prompt_play.clone()),
            pin_retry: pin.map(|pin| pin.retry),
            pin_retry_wait: pin.map(|pin| pin.retry_wait.as_secs()),
            incorrect_pin_play: pin.map(|pin| pin.incorrect_play.clone()),
            create_session_with_single_party: session.single_party,
            virtual_number_cooloff_period: session.cooloff.as_secs(),
            force_pin_authentication: pin.is_some_and(|pin| pin.force),
            subaccount: session.subaccount.clone(),
            resource_uri: None,
        }
    }

    /// As an element of a list: with its path, and with its keys sorted, in the interactions too, as the
    /// service's own lists have them.
    pub(super) fn listed(mut self, session: &MaskingSession) -> Value {
        self.resource_uri =
            Some(format!("/v1/Account/{}/Masking/Session/{}/", session.account, session.uuid));
        let mut object = serde_json::to_value(self).unwrap_or_default();
        object.sort_all_objects();
        object
    }
}

fn digits(party: Option<&E164>) -> String {
    party.map(E164::digits).unwrap_or_default().to_owned()
}

fn status(session: &MaskingSession, calls: &[InteractionRow], now: Timestamp) -> Status {
    if !session.is_active(now) {
        Status::Expired
    } else if calls.iter().any(|call| call.ended_at.is_none()) {
        Status::InProgress
    } else {
        Status::Active
    }
}

impl InteractionObject {
    fn of(session: &MaskingSession, call: &InteractionRow, base: &str) -> Self {
        let legs = shown_legs(call);
        let account = format!("{base}/v1/Account/{}", session.account);
        let leg_url = |role| {
            let leg = legs.iter().find(|leg| leg.opened.role == Some(role))?;
            Some(format!("{account}/Call/{}", leg.opened.leg))
        };
        let billed = billed_s(call);
        Self {
            start_time: call.started_at.into(),
            end_time: call.ended_at.into(),
            first_party_resource_url: leg_url(PartyRole::First),
            second_party_resource_url: leg_url(PartyRole::Second),
            r#type: "call",
            call_billed_duration: (billed > 0).then_some(billed),
            // A call has one recording, which has the call's uuid: absent until it can be fetched, and from its
            // deletion on.
            recording_resource_url: call
                .recording_ready
                .then(|| format!("{account}/Recording/{}/", call.uuid)),
            total_call_count: legs.len(),
            duration: legs.into_iter().map(talk_s).sum(),
        }
    }
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
    let length = std::time::Duration::try_from(ended.duration_since(answered)).unwrap_or_default();
    length.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX)
}

/// Each leg in minutes begun, as its Call resource has it, added.
fn billed_s(call: &InteractionRow) -> u64 {
    shown_legs(call).into_iter().map(|leg| talk_s(leg).div_ceil(60).saturating_mul(60)).sum()
}

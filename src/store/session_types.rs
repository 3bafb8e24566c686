//! What is asked of the sessions' store: new sessions, changes and lists.

use std::time::Duration;

use jiff::Timestamp;

use crate::masking::session::{HttpMethod, MaskingSession, Pin, RecordFormat};
use crate::number::{Did, E164};

/// A session as it is asked for.
#[derive(Debug, Clone)]
pub struct NewSession {
    /// See [`MaskingSession::account`].
    pub account: String,
    /// See [`MaskingSession::subaccount`].
    pub subaccount: Option<String>,
    /// At least one party is given.
    pub first_party: Option<E164>,
    /// At least one party is given.
    pub second_party: Option<E164>,
    /// Its planned life.
    pub expiry: Duration,
    /// See [`MaskingSession::call_time_limit`]; whole seconds.
    pub call_time_limit: Duration,
    /// See [`MaskingSession::ring_timeout`]; whole seconds.
    pub ring_timeout: Duration,
    /// See [`MaskingSession::record`].
    pub record: bool,
    /// See [`MaskingSession::record_file_format`].
    pub record_file_format: RecordFormat,
    /// See [`MaskingSession::recording_callback_url`].
    pub recording_callback_url: String,
    /// See [`MaskingSession::recording_callback_method`].
    pub recording_callback_method: HttpMethod,
    /// See [`MaskingSession::callback_url`].
    pub callback_url: String,
    /// See [`MaskingSession::callback_method`].
    pub callback_method: HttpMethod,
    /// See [`MaskingSession::initiate_call_to_first_party`].
    pub initiate_call_to_first_party: bool,
    /// See [`MaskingSession::first_party_play_url`].
    pub first_party_play_url: String,
    /// See [`MaskingSession::second_party_play_url`].
    pub second_party_play_url: String,
    /// Present when PIN authentication is wanted.
    pub pin: Option<NewPin>,
    /// See [`MaskingSession::unknown_caller_play`].
    pub unknown_caller_play: String,
    /// See [`MaskingSession::geomatch`].
    pub geomatch: bool,
    /// See [`MaskingSession::single_party`].
    pub single_party: Option<bool>,
    /// See [`MaskingSession::cooloff`]; whole seconds.
    pub cooloff: Duration,
}

/// The PIN stage as it is asked for.
#[derive(Debug, Clone)]
pub struct NewPin {
    /// `None`: drawn.
    pub first_party_pin: Option<Pin>,
    /// `None`: drawn.
    pub second_party_pin: Option<Pin>,
    /// Digits of a drawn PIN, 4–15.
    pub generate_length: u8,
    /// See [`PinSettings::generated`].
    pub generated: bool,
    /// See [`PinSettings::prompt_play`].
    pub prompt_play: String,
    /// See [`PinSettings::retry`].
    pub retry: u8,
    /// See [`PinSettings::retry_wait`]; whole seconds.
    pub retry_wait: Duration,
    /// See [`PinSettings::incorrect_play`].
    pub incorrect_play: String,
    /// See [`PinSettings::force`].
    pub force: bool,
}

/// What may be changed later; `None` leaves it.
#[derive(Debug, Clone, Default)]
pub struct SessionUpdate {
    /// The new end, counted from the update.
    pub expiry: Option<Duration>,
    /// See [`MaskingSession::call_time_limit`].
    pub call_time_limit: Option<Duration>,
    /// See [`MaskingSession::ring_timeout`].
    pub ring_timeout: Option<Duration>,
    /// See [`MaskingSession::record`].
    pub record: Option<bool>,
    /// See [`MaskingSession::record_file_format`].
    pub record_file_format: Option<RecordFormat>,
    /// See [`MaskingSession::recording_callback_url`].
    pub recording_callback_url: Option<String>,
    /// See [`MaskingSession::recording_callback_method`].
    pub recording_callback_method: Option<HttpMethod>,
    /// See [`MaskingSession::callback_url`].
    pub callback_url: Option<String>,
    /// See [`MaskingSession::callback_method`].
    pub callback_method: Option<HttpMethod>,
    /// See [`MaskingSession::first_party_play_url`].
    pub first_party_play_url: Option<String>,
    /// See [`MaskingSession::second_party_play_url`].
    pub second_party_play_url: Option<String>,
    /// Single-party sessions only, while a party is missing.
    pub first_party: Option<E164>,
    /// Single-party sessions only, while a party is missing.
    pub second_party: Option<E164>,
}

/// Why a session is not changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChangeRefusal {
    /// The account has no such session.
    #[error("no such session")]
    NotFound,
    /// It has expired or was deleted.
    #[error("the session has ended")]
    Expired,
    /// The parties of this session are fixed.
    #[error("the parties are fixed")]
    PartiesFixed,
    /// Both parties would be the same.
    #[error("both parties are the same")]
    SameParty,
    /// A party is in another active session on the same virtual number.
    #[error("a party is in another session on this number")]
    PartyBusy,
}

/// Which sessions a list is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SessionState {
    /// All.
    #[default]
    Any,
    /// Neither expired nor deleted.
    Active,
    /// Active, with a call going on.
    InProgress,
    /// Expired or deleted.
    Expired,
}

/// A half-open range of time: from the first moment, up to and without the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TimeRange {
    /// `None`: from the beginning.
    pub from: Option<Timestamp>,
    /// `None`: without end.
    pub until: Option<Timestamp>,
}

/// Everything that must be true of a listed session.
#[derive(Debug, Clone, Default)]
pub struct SessionFilter {
    /// Its first party.
    pub first_party: Option<E164>,
    /// Its second party.
    pub second_party: Option<E164>,
    /// Its number.
    pub virtual_number: Option<Did>,
    /// Its sub-account.
    pub subaccount: Option<String>,
    /// Its state.
    pub state: SessionState,
    /// When it was created.
    pub created: TimeRange,
    /// When it ends or ended.
    pub ends: TimeRange,
    /// Its planned length in whole seconds, both ends included.
    pub duration_s: (Option<i64>, Option<i64>),
}

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionPage {
    /// Newest first.
    pub sessions: Vec<MaskingSession>,
    /// How many sessions the filter fits in all.
    pub total: u64,
}

//! What is told to an application: the events of `callback_url` and `recording_callback_url`, as typed values, and
//! the parameters that they are sent with.
//!
//! "First party" is always the role in the session, whoever called. An event carries the parties' real numbers,
//! because the owner of the session is the one who may know them; they do not print themselves.

use crate::masking::guessing::{Guesser, LockOut};
use crate::masking::session::{MaskingSession, PartyRole, RecordFormat};
use crate::number::{Did, E164};
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::time::Duration;
use uuid::Uuid;

/// The most events of one call: all that a call can bring about, with room to spare.
pub const MAX_CALL_EVENTS: usize = 64;

/// One thing that happened, and to whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallEvent {
    /// Says whether two reports are of the same event: a report may be repeated.
    pub uuid: Uuid,
    /// What happened.
    pub happening: Happening,
    /// The account that owns the session.
    pub account: String,
    /// `None`: no one session is meant, and the event is only kept for the account.
    pub session: Option<Uuid>,
    /// The call, if one is meant.
    pub interaction: Option<Uuid>,
    /// When it happened.
    pub at: Timestamp,
    /// The caller's number, if a call is meant and shows one.
    pub from: Option<E164>,
    /// The called party's number, once it is known.
    pub to: Option<E164>,
    /// The session's number, or the dialled one.
    pub virtual_number: Option<Did>,
}

/// What can happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happening {
    /// The leg of the party in this role was answered.
    Answered(PartyRole),
    /// The second party's phone rings. Of the first party's ringing nothing is told.
    SecondPartyRings,
    /// The leg of the party in this role ended.
    HungUp(PartyRole, Ending),
    /// The call is over.
    CallOver(Ending),
    /// A PIN was typed, or was not needed.
    Pin {
        /// How it went.
        status: PinStatus,
        /// Entries before this one in the same call.
        retries: u8,
    },
    /// Somebody guesses: entries are not judged for a while.
    PinLockedOut(LockOut),
    /// The session expired.
    SessionExpired,
    /// Both parties talk, and the recording began.
    RecordingInitiated,
    /// A recording was wanted and could not be made, or not wholly.
    RecordingFailed,
    /// The recording can be fetched.
    RecordingCompleted(Box<RecordingFacts>),
    /// What the session names by this parameter could not be had; the built-in prompt, or nothing, was played.
    PromptUnavailable(&'static str),
}

/// How a PIN entry went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PinStatus {
    /// A right PIN.
    Success,
    /// A wrong one, or none.
    Failed,
    /// A party of the session called from its own number, and was asked for none.
    AuthorizedCaller,
}

/// How long something lasted and why it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    /// Seconds since the answer, begun ones whole; 0 without an answer.
    pub talk_s: u64,
    /// The same in whole minutes, in seconds.
    pub billed_s: u64,
    /// Plivo's name of the cause.
    pub cause: Cow<'static, str>,
    /// Plivo's code of the cause.
    pub code: u16,
}

/// What is told of a recording that can be fetched. Its uuid is that of its interaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordingFacts {
    /// The interaction that was recorded.
    pub interaction: Uuid,
    /// Where the audio is; a path below `/v1` gets `http.public_url` in front when it is sent.
    pub url: String,
    /// Where the API describes it; in the same form.
    pub resource_url: String,
    /// Its length.
    pub duration: Duration,
    /// When it began.
    pub started_at: Timestamp,
    /// What it is delivered as.
    pub format: RecordFormat,
}

/// Whose events these are, and which of them are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// The account.
    pub account: String,
    /// `None`: the account itself.
    pub session: Option<Uuid>,
    /// The session has a `callback_url`.
    pub calls: bool,
    /// The session has a `recording_callback_url`.
    pub recordings: bool,
}

impl Subject {
    /// A session's. What it had no URL for when the call began is not collected.
    #[must_use]
    pub fn of(session: &MaskingSession) -> Self {
        Self {
            account: session.account.clone(),
            session: Some(session.uuid),
            calls: !session.callback_url.is_empty(),
            recordings: !session.recording_callback_url.is_empty(),
        }
    }

    /// An account's: kept for its owner to read.
    #[must_use]
    pub fn account(account: String) -> Self {
        Self { account, session: None, calls: true, recordings: true }
    }

    /// Whether anybody wants to know of it.
    #[must_use]
    pub fn wants(&self, happening: &Happening) -> bool {
        if happening.is_of_recording() { self.recordings } else { self.calls }
    }
}

/// A leg at its end, as far as its event needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndedLeg {
    /// Whose leg it is.
    pub role: PartyRole,
    /// Its 200.
    pub answered_at: Option<Timestamp>,
    /// Its end.
    pub ended_at: Timestamp,
    /// Plivo's name of the cause.
    pub cause: Cow<'static, str>,
    /// Plivo's code of the cause.
    pub code: u16,
    /// Its party was the one who ended the call.
    pub left_first: bool,
}

/// The events of a call's end in their natural order: who left first, the other one, the call.
#[must_use]
pub fn end_of_call(legs: impl IntoIterator<Item = EndedLeg>) -> Vec<(Happening, Timestamp)> {
    let mut legs: Vec<_> = legs.into_iter().collect();
    legs.sort_by_key(|leg| (leg.ended_at, !leg.left_first));
    let Some(first) = legs.first() else { return vec![] };
    let (cause, code) = (first.cause.clone(), first.code);
    let over_at = legs.iter().map(|leg| leg.ended_at).max().unwrap_or(first.ended_at);
    let (mut talk_s, mut billed_s) = (0u64, 0u64);
    let mut events = Vec::with_capacity(legs.len() + 1);
    for leg in legs {
        let talk = talk_s_between(leg.answered_at, leg.ended_at);
        let billed = talk.div_ceil(60).saturating_mul(60);
        (talk_s, billed_s) = (talk_s.saturating_add(talk), billed_s.saturating_add(billed));
        let ending = Ending { talk_s: talk, billed_s: billed, cause: leg.cause, code: leg.code };
        events.push((Happening::HungUp(leg.role, ending), leg.ended_at));
    }
    events.push((Happening::CallOver(Ending { talk_s, billed_s, cause, code }), over_at));
    events
}

/// Seconds begun between answer and end.
fn talk_s_between(answered: Option<Timestamp>, ended: Timestamp) -> u64 {
    let Some(answered) = answered else { return 0 };
    let length = Duration::try_from(ended.duration_since(answered)).unwrap_or_default();
    length.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX)
}

impl Happening {
    /// `EventName`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Answered(PartyRole::First) => "SessionFirstPartyAnswer",
            Self::Answered(PartyRole::Second) => "SessionSecondPartyAnswer",
            Self::SecondPartyRings => "SessionSecondPartyRing",
            Self::HungUp(PartyRole::First, _) => "SessionFirstPartyHangup",
            Self::HungUp(PartyRole::Second, _) => "SessionSecondPartyHangup",
            Self::CallOver(_) => "SessionPartiesHangup",
            Self::Pin { .. } => "SessionPinAuthenticationStatus",
            Self::PinLockedOut(_) => "SessionPinLockedOut",
            Self::SessionExpired => "SessionTimeout",
            Self::RecordingInitiated => "SessionRecordingInitiated",
            Self::RecordingFailed => "SessionRecordingFailed",
            Self::RecordingCompleted(_) => "SessionRecordingCompleted",
            Self::PromptUnavailable(_) => "SessionPromptUnavailable",
        }
    }

    /// It goes to `recording_callback_url`.
    #[must_use]
    pub fn is_of_recording(&self) -> bool {
        matches!(self, Self::RecordingInitiated | Self::RecordingFailed | Self::RecordingCompleted(_))
    }
}

impl CallEvent {
    /// An event that is known by what it belongs to (an interaction, or a session), its name, and how many of that
    /// name came before it.
    #[must_use]
    pub fn new(anchor: Uuid, earlier: usize, subject: &Subject, happening: Happening, at: Timestamp) -> Self {
        let mut hash = Sha256::new();
        hash.update(anchor.as_bytes());
        hash.update(happening.name());
        hash.update(earlier.to_be_bytes());
        let digest = hash.finalize();
        let bytes = digest.first_chunk::<16>().copied().unwrap_or_default();
        Self {
            // A custom one, version 8 (RFC 9562 §5.8).
            uuid: uuid::Builder::from_custom_bytes(bytes).into_uuid(),
            happening,
            account: subject.account.clone(),
            session: subject.session,
            interaction: None,
            at,
            from: None,
            to: None,
            virtual_number: None,
        }
    }

    /// All that is sent, but for `SequenceNumber`, which the store gives.
    #[must_use]
    pub fn parameters(&self) -> Vec<(String, String)> {
        let digits = |number: Option<&E164>| number.map(E164::digits).unwrap_or_default().to_owned();
        let uuid = |uuid: Option<Uuid>| uuid.map(|uuid| uuid.to_string()).unwrap_or_default();
        let number = self.virtual_number.as_ref().map(Did::digits).unwrap_or_default();
        let mut all = vec![
            ("EventName", self.happening.name().to_owned()),
            ("EventTimestamp", timestamp(self.at)),
            ("SessionUUID", uuid(self.session)),
            ("From", digits(self.from.as_ref())),
            ("To", digits(self.to.as_ref())),
            ("VirtualNumber", number.to_owned()),
        ];
        let recording = |interaction| ("RecordingUUID", uuid(interaction));
        match &self.happening {
            Happening::HungUp(_, ending) | Happening::CallOver(ending) => all.extend([
                ("Amount", "0".to_owned()),
                ("BilledDuration", ending.billed_s.to_string()),
                ("Duration", ending.talk_s.to_string()),
                ("PlivoHangupCause", ending.cause.clone().into_owned()),
                ("PlivoHangupCauseCode", ending.code.to_string()),
            ]),
            Happening::Pin { status, retries } => all.extend([
                ("PinAuthenticationStatus", status.name().to_owned()),
                ("PinRetryCounter", retries.to_string()),
            ]),
            Happening::PinLockedOut(lock_out) => all.extend([
                ("LockedOut", guesser(lock_out.guesser).to_owned()),
                ("LockedOutUntil", timestamp(lock_out.until)),
                ("WrongEntries", lock_out.wrong.to_string()),
            ]),
            Happening::RecordingInitiated | Happening::RecordingFailed => {
                all.push(recording(self.interaction))
            }
            Happening::RecordingCompleted(facts) => {
                let length = jiff::SignedDuration::try_from(facts.duration).unwrap_or_default();
                let ended_at = facts.started_at.checked_add(length).unwrap_or(facts.started_at);
                all.extend([
                    recording(Some(facts.interaction)),
                    ("RecordingURL", facts.url.clone()),
                    ("RecordingResourceURL", facts.resource_url.clone()),
                    ("RecordingDuration", facts.duration.as_millis().div_ceil(1000).to_string()),
                    ("RecordingStartTime", timestamp(facts.started_at)),
                    ("RecordingEndTime", timestamp(ended_at)),
                    ("RecordingFormat", format!(".{}", facts.format.as_str())),
                ]);
            }
            Happening::PromptUnavailable(parameter) => all.push(("Prompt", (*parameter).to_owned())),
            Happening::Answered(_) | Happening::SecondPartyRings | Happening::SessionExpired => {}
        }
        all.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

impl PinStatus {
    /// As it is sent.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failed => "failed",
            Self::AuthorizedCaller => "AuthorizedCaller",
        }
    }
}

/// As it is sent.
fn guesser(who: Guesser) -> &'static str {
    match who {
        Guesser::Caller => "caller",
        Guesser::Anonymous => "anonymous",
        Guesser::Strangers => "strangers",
        Guesser::Party => "party",
    }
}

/// UTC, in the form of the session object's times.
fn timestamp(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%S +0000 UTC").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_706_768_895 + second).unwrap()
    }

    fn leg(role: PartyRole, answered: Option<i64>, ended: i64, left_first: bool) -> EndedLeg {
        EndedLeg {
            role,
            answered_at: answered.map(at),
            ended_at: at(ended),
            cause: "Normal Hangup".into(),
            code: 4000,
            left_first,
        }
    }

    fn names(events: &[(Happening, Timestamp)]) -> Vec<&'static str> {
        events.iter().map(|(happening, _)| happening.name()).collect()
    }

    #[test]
    fn who_left_first_comes_first_and_the_call_last() {
        let (first, second) = (PartyRole::First, PartyRole::Second);
        for (legs, wanted) in [
            ([leg(first, Some(0), 9, true), leg(second, Some(0), 9, false)], ["First", "Second"]),
            ([leg(first, Some(0), 9, false), leg(second, Some(0), 9, true)], ["Second", "First"]),
            ([leg(first, Some(0), 9, true), leg(second, None, 8, false)], ["Second", "First"]),
        ] {
            let events = end_of_call(legs);
            let [one, other] = wanted;
            assert_eq!(
                names(&events),
                [
                    format!("Session{one}PartyHangup").as_str(),
                    format!("Session{other}PartyHangup").as_str(),
                    "SessionPartiesHangup"
                ]
            );
        }
        assert_eq!(end_of_call([]), []);
    }

    #[test]
    fn seconds_begun_are_whole_and_minutes_begun_are_billed_per_answered_leg() {
        let events =
            end_of_call([leg(PartyRole::First, Some(0), 61, true), leg(PartyRole::Second, None, 61, false)]);
        let seconds: Vec<_> = events
            .iter()
            .filter_map(|(happening, _)| match happening {
                Happening::HungUp(_, ending) | Happening::CallOver(ending) => {
                    Some((ending.talk_s, ending.billed_s))
                }
                _ => None,
            })
            .collect();
        assert_eq!(seconds, [(61, 120), (0, 0), (61, 120)]);
    }

    #[test]
    fn the_parameters_are_those_of_the_reference() {
        let subject =
            Subject { account: "MA".into(), session: Some(Uuid::nil()), calls: true, recordings: true };
        let interaction = Uuid::from_u128(7);
        let sent = |happening| {
            let mut event = CallEvent::new(interaction, 0, &subject, happening, at(0));
            event.from = E164::parse("917708772011");
            event.virtual_number = Did::parse("+912269947011");
            event.interaction = Some(interaction);
            event.parameters()
        };
        let of = |parameters: &[(String, String)], wanted: &str| {
            parameters.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.clone())
        };
        let answer = sent(Happening::Answered(PartyRole::First));
        assert_eq!(
            answer.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect::<Vec<_>>(),
            [
                ("EventName", "SessionFirstPartyAnswer"),
                ("EventTimestamp", "2024-02-01 06:28:15 +0000 UTC"),
                ("SessionUUID", "00000000-0000-0000-0000-000000000000"),
                ("From", "917708772011"),
                ("To", ""),
                ("VirtualNumber", "912269947011"),
            ]
        );
        let pin = sent(Happening::Pin { status: PinStatus::AuthorizedCaller, retries: 0 });
        assert_eq!(of(&pin, "PinAuthenticationStatus").as_deref(), Some("AuthorizedCaller"));
        assert_eq!(of(&pin, "PinRetryCounter").as_deref(), Some("0"));
        let lock_out = LockOut { guesser: Guesser::Strangers, wrong: 20, until: at(60), is_full: false };
        let locked_out = sent(Happening::PinLockedOut(lock_out));
        for (name, value) in [
            ("EventName", "SessionPinLockedOut"),
            ("LockedOut", "strangers"),
            ("LockedOutUntil", "2024-02-01 06:29:15 +0000 UTC"),
            ("WrongEntries", "20"),
        ] {
            assert_eq!(of(&locked_out, name).as_deref(), Some(value), "{name}");
        }
        let facts = RecordingFacts {
            interaction,
            url: "https://h/Recording/x.mp3".into(),
            resource_url: "https://h/Recording/x/".into(),
            duration: Duration::from_millis(2001),
            started_at: at(0),
            format: RecordFormat::Mp3,
        };
        let recording = sent(Happening::RecordingCompleted(Box::new(facts)));
        for (name, value) in [
            ("RecordingUUID", "00000000-0000-0000-0000-000000000007"),
            ("RecordingURL", "https://h/Recording/x.mp3"),
            ("RecordingResourceURL", "https://h/Recording/x/"),
            ("RecordingDuration", "3"),
            ("RecordingStartTime", "2024-02-01 06:28:15 +0000 UTC"),
            ("RecordingEndTime", "2024-02-01 06:28:17 +0000 UTC"),
            ("RecordingFormat", ".mp3"),
        ] {
            assert_eq!(of(&recording, name).as_deref(), Some(value), "{name}");
        }
    }

    #[test]
    fn a_repeated_report_is_the_same_event_and_another_one_is_not() {
        let subject = Subject::account("MA".into());
        let event = |anchor, earlier, happening| {
            CallEvent::new(Uuid::from_u128(anchor), earlier, &subject, happening, at(0)).uuid
        };
        let one = event(1, 0, Happening::RecordingInitiated);
        assert_eq!(one, event(1, 0, Happening::RecordingInitiated));
        assert_ne!(one, event(1, 0, Happening::RecordingFailed));
        assert_ne!(one, event(1, 1, Happening::RecordingInitiated));
        assert_ne!(one, event(2, 0, Happening::RecordingInitiated));
    }

    #[test]
    fn an_event_does_not_print_a_number() {
        let subject = Subject::account("MA".into());
        let mut event = CallEvent::new(Uuid::nil(), 0, &subject, Happening::SessionExpired, at(0));
        event.from = E164::parse("917708772011");
        assert!(!format!("{event:?}").contains("7708"));
    }
}

//! The masking session: a virtual number, tied to its parties until it ends.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use subtle::ConstantTimeEq;
use uuid::Uuid;
use zeroize::Zeroize;

use crate::number::{Did, E164};

/// The fewest digits that a PIN has.
pub const MIN_PIN_DIGITS: u8 = 4;
/// The most digits that a PIN has.
pub const MAX_PIN_DIGITS: u8 = 15;

/// One masking session, as it was created and last updated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MaskingSession {
    /// Names the session in the API.
    pub uuid: Uuid,
    /// Auth id of the account that owns it.
    pub account: String,
    /// Auth id of the sub-account that it was made for.
    pub subaccount: Option<String>,
    /// What both parties dial and see; fixed for the life of the session.
    pub virtual_number: Did,
    /// `None` only in a single-party session that does not know this party yet.
    pub first_party: Option<E164>,
    /// `None` only in a single-party session that does not know this party yet.
    pub second_party: Option<E164>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it was last changed; the creation counts.
    pub modified_at: Timestamp,
    /// When it ends, unless it is deleted earlier. A deletion leaves this as it was planned.
    pub expires_at: Timestamp,
    /// When it was deleted.
    pub ended_at: Option<Timestamp>,
    /// How long each leg may last, from its answer.
    pub call_time_limit: Duration,
    /// How long each leg may ring.
    pub ring_timeout: Duration,
    /// Whether its calls are recorded.
    pub record: bool,
    /// The form in which the mixed recording is delivered.
    pub record_file_format: RecordFormat,
    /// Where recording events go; empty: nowhere.
    pub recording_callback_url: String,
    /// How recording events are sent.
    pub recording_callback_method: HttpMethod,
    /// Where call events go; empty: nowhere.
    pub callback_url: String,
    /// How call events are sent.
    pub callback_method: HttpMethod,
    /// Whether its creation was to place a call to the first party.
    pub initiate_call_to_first_party: bool,
    /// Played to the first party before it is connected; empty: nothing.
    pub first_party_play_url: String,
    /// Played to the second party before it is connected; empty: nothing.
    pub second_party_play_url: String,
    /// Present when PIN authentication is on.
    pub pin: Option<PinSettings>,
    /// Played to a stranger whom no session takes; empty: nothing.
    pub unknown_caller_play: String,
    /// Whether its virtual number had to be of the (first) party's country.
    pub geomatch: bool,
    /// `create_session_with_single_party` as it was given, if it was.
    pub single_party: Option<bool>,
    /// How long its virtual number rests after its end, for everybody.
    pub cooloff: Duration,
}

impl MaskingSession {
    /// Neither deleted nor expired at `now`, whatever a clean-up job has or has not done.
    #[must_use]
    pub fn is_active(&self, now: Timestamp) -> bool {
        self.ended_at.is_none() && self.expires_at > now
    }

    /// The moment at which it ended or will end.
    #[must_use]
    pub fn ends_at(&self) -> Timestamp {
        self.ended_at.map_or(self.expires_at, |ended| ended.min(self.expires_at))
    }

    /// The number of the party in `role`.
    #[must_use]
    pub fn party(&self, role: PartyRole) -> Option<&E164> {
        match role {
            PartyRole::First => self.first_party.as_ref(),
            PartyRole::Second => self.second_party.as_ref(),
        }
    }

    /// Which party `number` is.
    #[must_use]
    pub fn role_of(&self, number: &E164) -> Option<PartyRole> {
        [PartyRole::First, PartyRole::Second].into_iter().find(|role| self.party(*role) == Some(number))
    }

    /// One of its parties is not known yet.
    #[must_use]
    pub fn is_incomplete(&self) -> bool {
        self.first_party.is_none() || self.second_party.is_none()
    }

    /// A single-party session without PIN whose other party is not known yet: whoever dials is connected.
    #[must_use]
    pub fn takes_anyone(&self) -> bool {
        self.pin.is_none() && self.is_incomplete()
    }

    /// Whether a caller who is no party can be connected by it, with a PIN or without.
    #[must_use]
    pub fn takes_strangers(&self) -> bool {
        self.pin.is_some() || self.takes_anyone()
    }
}

/// The PIN stage of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinSettings {
    /// Whoever enters it is the first party and reaches the second.
    pub first_party_pin: Pin,
    /// Whoever enters it is the second party and reaches the first.
    pub second_party_pin: Pin,
    /// URL of the prompt; empty: the built-in one.
    pub prompt_play: String,
    /// Further entries after the first, 0–5.
    pub retry: u8,
    /// Pause between an entry that failed and the next prompt, 5–10 s.
    pub retry_wait: Duration,
    /// URL of what a wrong entry is answered with; empty: the built-in one.
    pub incorrect_play: String,
    /// Even a registered caller must enter his own PIN first.
    pub force: bool,
    /// The PINs were drawn by us.
    pub generated: bool,
    /// How many digits a drawn PIN has, 4–15.
    pub generate_length: u8,
}

impl PinSettings {
    /// The PIN of the party in `role`.
    #[must_use]
    pub fn of(&self, role: PartyRole) -> &Pin {
        match role {
            PartyRole::First => &self.first_party_pin,
            PartyRole::Second => &self.second_party_pin,
        }
    }
}

/// A PIN of 4 to 15 digits. It does not print itself, compares in constant time and is wiped when dropped.
#[derive(Clone)]
pub struct Pin {
    /// The digits in ASCII; what follows them is zero.
    digits: [u8; MAX_PIN_DIGITS as usize],
    length: u8,
}

impl Pin {
    /// Reads 4 to 15 ASCII digits, nothing else.
    #[must_use]
    pub fn parse(input: &str) -> Option<Self> {
        let length = u8::try_from(input.len()).ok()?;
        let valid =
            (MIN_PIN_DIGITS..=MAX_PIN_DIGITS).contains(&length) && input.bytes().all(|b| b.is_ascii_digit());
        let mut digits = [0; MAX_PIN_DIGITS as usize];
        digits.get_mut(..input.len())?.copy_from_slice(input.as_bytes());
        valid.then_some(Self { digits, length })
    }

    /// The digits. Every call is a place where they can leave: the store, the API and the PIN stage.
    #[must_use]
    pub fn digits(&self) -> &str {
        self.digits.get(..self.len()).and_then(|digits| std::str::from_utf8(digits).ok()).unwrap_or_default()
    }

    /// How many digits it has.
    #[must_use]
    #[allow(clippy::len_without_is_empty)] // A PIN is never empty.
    pub fn len(&self) -> usize {
        usize::from(self.length)
    }
}

impl PartialEq for Pin {
    /// Takes the same time wherever the two differ, their lengths included.
    fn eq(&self, other: &Self) -> bool {
        self.digits.ct_eq(&other.digits).into()
    }
}

impl Eq for Pin {}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pin(…)")
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.digits.zeroize();
        self.length.zeroize();
    }
}

/// A party's place in its session; it says nothing about who called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PartyRole {
    /// `first_party` of the API.
    First,
    /// `second_party` of the API.
    Second,
}

impl PartyRole {
    /// The one that a party in this role talks to.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::First => Self::Second,
            Self::Second => Self::First,
        }
    }
}

/// What the mixed recording is delivered as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordFormat {
    /// `mp3`, the default.
    Mp3,
    /// `wav`.
    Wav,
}

impl RecordFormat {
    /// The word of the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mp3 => "mp3",
            Self::Wav => "wav",
        }
    }

    /// Reads the word of the API, in any case.
    #[must_use]
    pub fn parse(input: &str) -> Option<Self> {
        [Self::Mp3, Self::Wav].into_iter().find(|format| input.eq_ignore_ascii_case(format.as_str()))
    }
}

/// How a callback is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HttpMethod {
    /// Parameters in the query string.
    Get,
    /// Parameters as a form, the default.
    Post,
}

impl HttpMethod {
    /// The word of the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
        }
    }

    /// Reads the word of the API, in any case.
    #[must_use]
    pub fn parse(input: &str) -> Option<Self> {
        [Self::Get, Self::Post].into_iter().find(|method| input.eq_ignore_ascii_case(method.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_has_4_to_15_ascii_digits() {
        for valid in ["0000", "1234", "123456789012345"] {
            let pin = Pin::parse(valid).unwrap();
            assert_eq!((pin.digits(), pin.len()), (valid, valid.len()));
        }
        for invalid in ["", "123", "1234567890123456", "12a4", "12 4", "+1234", "１２３４", "-1234"] {
            assert!(Pin::parse(invalid).is_none(), "{invalid}");
        }
    }

    #[test]
    fn pins_are_equal_when_all_their_digits_are() {
        let pin = |digits| Pin::parse(digits).unwrap();
        assert_eq!(pin("1234"), pin("1234"));
        for other in ["1235", "12345", "0234", "12340"] {
            assert_ne!(pin("1234"), pin(other), "{other}");
        }
    }

    #[test]
    fn a_pin_does_not_print_itself() {
        assert_eq!(format!("{:?}", Pin::parse("8642").unwrap()), "Pin(…)");
    }
}

//! Session timers (RFC 4028): what a message asks for, what is answered, and the clock of one session.
//!
//! Pure values. Who refreshes is said in every message anew, in the words of that message: `uac` is whoever sent the
//! request. A session ends in silence when one of its ends has vanished; a refresh is how each learns that the other
//! is still there. Nothing here sends or builds a message.

use super::message::Head;
use std::time::{Duration, Instant};

/// The least that anybody may ask for, in seconds (RFC 4028 §5).
pub const LEAST_SECONDS: u32 = 90;
/// The most that is taken at its word, in seconds: a week.
const MOST_SECONDS: u32 = 604_800;
/// Whoever does not refresh ends the session so long before it expires, or a third of it (RFC 4028 §10).
const MARGIN: Duration = Duration::from_secs(32);

/// Who sends the refreshes, in the words of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refresher {
    /// Whoever sent that request.
    Uac,
    /// Whoever answered it.
    Uas,
}

impl Refresher {
    /// As the header's parameter says it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Uac => "uac",
            Self::Uas => "uas",
        }
    }
}

/// A Session-Expires header (RFC 4028 §4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionExpires {
    /// At most a week, perhaps less than is allowed.
    pub seconds: u32,
    /// As far as it is said.
    pub refresher: Option<Refresher>,
}

impl SessionExpires {
    /// `1800;refresher=uac`; `None` for what does not begin with a number.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(';');
        let seconds = seconds(parts.next()?)?;
        let refresher = parts.find_map(|parameter| {
            let (name, value) = parameter.split_once('=')?;
            let value = value.trim();
            match name.trim().eq_ignore_ascii_case("refresher") {
                true if value.eq_ignore_ascii_case("uac") => Some(Refresher::Uac),
                true if value.eq_ignore_ascii_case("uas") => Some(Refresher::Uas),
                _ => None,
            }
        });
        Some(Self { seconds, refresher })
    }
}

fn seconds(text: &str) -> Option<u32> {
    let text = text.trim();
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    // More digits than a number has are more than is taken.
    digits.then(|| text.parse().unwrap_or(MOST_SECONDS).min(MOST_SECONDS))
}

/// What one message says of session timers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish {
    /// Session-Expires.
    pub expires: Option<SessionExpires>,
    /// Min-SE, in seconds; what it is without the header is the least there is.
    pub min_se: u32,
    /// `Supported` or `Require` names `timer`.
    pub supported: bool,
}

impl Wish {
    /// Reads it.
    #[must_use]
    pub fn of(head: &Head) -> Self {
        let is_timer = |tag: &String| tag.eq_ignore_ascii_case("timer");
        Self {
            expires: head.header("Session-Expires").and_then(|text| SessionExpires::parse(&text)),
            min_se: min_se(head).unwrap_or(LEAST_SECONDS),
            supported: head.tokens("Supported").iter().any(is_timer)
                || head.tokens("Require").iter().any(is_timer),
        }
    }

    /// The answer of a UAS (RFC 4028 §9) that itself wants `own` seconds, or has them now; `refresher` is who
    /// refreshes now, in the words of this request.
    ///
    /// # Errors
    /// [`TooSmall`]: the answer is 422.
    pub fn answer(&self, own: Option<u32>, refresher: Option<Refresher>) -> Result<Option<Agreed>, TooSmall> {
        let asked = match self.expires {
            Some(asked) if asked.seconds < LEAST_SECONDS && self.supported => return Err(TooSmall),
            // Some proxy asks for it; whoever sent the request could do nothing with a 422 (RFC 4028 §9).
            asked => asked.filter(|asked| asked.seconds >= LEAST_SECONDS),
        };
        // RFC 4028 §9: it may be lowered, but not below Min-SE, and never raised.
        let least = self.min_se.max(LEAST_SECONDS);
        let seconds = match (asked, own) {
            (Some(asked), Some(own)) => asked.seconds.min(own.max(least)),
            (Some(asked), None) => asked.seconds,
            (None, Some(own)) => own.max(least),
            (None, None) => return Ok(None),
        };
        // RFC 4028 §9, table 2.
        let refresher = match (self.supported, asked.and_then(|asked| asked.refresher)) {
            (false, _) => Refresher::Uas,
            (true, Some(said)) => said,
            (true, None) => refresher.unwrap_or(Refresher::Uac),
        };
        Ok(Some(Agreed { seconds, refresher, required: self.supported }))
    }
}

/// Min-SE in seconds, as far as the message has one.
#[must_use]
pub fn min_se(head: &Head) -> Option<u32> {
    let text = head.header("Min-SE")?;
    seconds(text.split(';').next().unwrap_or_default()).map(|seconds| seconds.max(LEAST_SECONDS))
}

/// Less than is allowed was asked for: 422 with [`LEAST_SECONDS`] as Min-SE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooSmall;

/// What a 2xx of ours says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Agreed {
    /// The session interval.
    pub seconds: u32,
    /// Who refreshes.
    pub refresher: Refresher,
    /// The peer has session timers: `Require: timer` goes with it.
    pub required: bool,
}

/// What a 2xx to a request of ours comes to: the interval, and whether we refresh. `None`: no timer runs, from now on
/// (RFC 4028 §7.2).
#[must_use]
pub fn granted(head: &Head) -> Option<(u32, bool)> {
    let expires = SessionExpires::parse(&head.header("Session-Expires")?)?;
    // Without a word the peer does not mean to refresh.
    let we_refresh = expires.refresher != Some(Refresher::Uas);
    Some((expires.seconds.max(LEAST_SECONDS), we_refresh))
}

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Nothing yet.
    Nothing,
    /// A refresh is to be sent.
    Refresh,
    /// Nobody refreshed: the session is over (RFC 4028 §10).
    Expired,
}

/// The clock of one session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionTimer {
    seconds: u32,
    we_refresh: bool,
    /// `None` when the peer refreshes, or a refresh is under way.
    refresh_at: Option<Instant>,
    over_at: Instant,
}

impl SessionTimer {
    /// A session begins, or has just been refreshed.
    #[must_use]
    pub fn start(seconds: u32, we_refresh: bool, now: Instant) -> Self {
        let interval = Duration::from_secs(seconds.into());
        let margin = if we_refresh { Duration::ZERO } else { MARGIN.min(interval / 3) };
        Self {
            seconds,
            we_refresh,
            // RFC 4028 §10: after half of the interval.
            refresh_at: we_refresh.then_some(now + interval / 2),
            over_at: now + interval.saturating_sub(margin),
        }
    }

    /// The session interval.
    #[must_use]
    pub fn seconds(&self) -> u32 {
        self.seconds
    }

    /// The next refresh asks for so much: what holds now goes on until it is granted.
    pub fn ask_for(&mut self, seconds: u32) {
        self.seconds = seconds;
    }

    /// True when the refreshes are ours to send.
    #[must_use]
    pub fn we_refresh(&self) -> bool {
        self.we_refresh
    }

    /// When [`Self::handle`] has something to say.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.refresh_at.map_or(self.over_at, |at| at.min(self.over_at))
    }

    /// What is due now. A refresh is due once, until [`Self::try_again`].
    pub fn handle(&mut self, now: Instant) -> Due {
        if self.over_at <= now {
            return Due::Expired;
        }
        match self.refresh_at.take_if(|at| *at <= now) {
            Some(_) => Due::Refresh,
            None => Due::Nothing,
        }
    }

    /// The refresh could not be made now: once more at `at`.
    pub fn try_again(&mut self, at: Instant) {
        self.refresh_at = Some(at).filter(|_| self.we_refresh);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    fn wish(expires: Option<&str>, min_se: u32, supported: bool) -> Wish {
        Wish { expires: expires.and_then(SessionExpires::parse), min_se, supported }
    }

    #[test]
    fn rfc4028_4_session_expires_is_read_and_nonsense_is_not() {
        let expires = |seconds, refresher| Some(SessionExpires { seconds, refresher });
        let table = [
            ("1800", expires(1800, None)),
            (" 1800 ; refresher=uac", expires(1800, Some(Refresher::Uac))),
            ("90;Refresher = UAS", expires(90, Some(Refresher::Uas))),
            ("90;x=y;refresher=uas;z", expires(90, Some(Refresher::Uas))),
            ("90;refresher=me", expires(90, None)),
            ("99999999999999999999", expires(MOST_SECONDS, None)),
            ("4294967295", expires(MOST_SECONDS, None)),
            ("-5", None),
            ("+90", None),
            ("", None),
            (";refresher=uac", None),
            ("ninety", None),
        ];
        for (text, expected) in table {
            assert_eq!(SessionExpires::parse(text), expected, "{text}");
        }
    }

    #[test]
    fn rfc4028_9_what_a_uas_answers() {
        use Refresher::{Uac, Uas};
        let agreed = |seconds, refresher, required| Ok(Some(Agreed { seconds, refresher, required }));
        type Row = (&'static str, Wish, Option<u32>, Option<Refresher>, Result<Option<Agreed>, TooSmall>);
        let table: [Row; 15] = [
            ("nobody asks", wish(None, 90, true), None, None, Ok(None)),
            ("table 2: no preference", wish(Some("1800"), 90, true), None, None, agreed(1800, Uac, true)),
            ("table 2: uas", wish(Some("1800;refresher=uas"), 90, true), None, None, agreed(1800, Uas, true)),
            ("table 2: uac", wish(Some("1800;refresher=uac"), 90, true), None, None, agreed(1800, Uac, true)),
            ("table 2: a proxy asks", wish(Some("1800"), 90, false), None, None, agreed(1800, Uas, false)),
            ("it is lowered to ours", wish(Some("1800"), 90, true), Some(600), None, agreed(600, Uac, true)),
            ("but not below Min-SE", wish(Some("1800"), 900, true), Some(600), None, agreed(900, Uac, true)),
            ("and never raised", wish(Some("300"), 90, true), Some(600), None, agreed(300, Uac, true)),
            ("we ask", wish(None, 90, true), Some(600), None, agreed(600, Uac, true)),
            ("we ask somebody without", wish(None, 90, false), Some(600), None, agreed(600, Uas, false)),
            ("we ask, not below Min-SE", wish(None, 700, true), Some(600), None, agreed(700, Uac, true)),
            (
                "the refresher stays",
                wish(Some("600"), 90, true),
                Some(600),
                Some(Uas),
                agreed(600, Uas, true),
            ),
            (
                "unless he says",
                wish(Some("600;refresher=uac"), 90, true),
                None,
                Some(Uas),
                agreed(600, Uac, true),
            ),
            ("too small", wish(Some("89"), 90, true), None, None, Err(TooSmall)),
            ("too small, by a proxy", wish(Some("89"), 90, false), None, None, Ok(None)),
        ];
        for (fact, wish, own, refresher, expected) in table {
            assert_eq!(wish.answer(own, refresher), expected, "{fact}");
        }
    }

    #[test]
    fn rfc4028_10_the_refresher_refreshes_at_half_time_and_the_other_ends_it_before_it_expires() {
        let now = clock::now();
        let at = |seconds| now + Duration::from_secs(seconds);
        let mut ours = SessionTimer::start(1800, true, now);
        assert_eq!((ours.deadline(), ours.handle(at(899))), (at(900), Due::Nothing));
        assert_eq!((ours.handle(at(900)), ours.handle(at(901))), (Due::Refresh, Due::Nothing));
        assert_eq!(ours.deadline(), at(1800));
        ours.try_again(at(904));
        assert_eq!((ours.deadline(), ours.handle(at(904))), (at(904), Due::Refresh));
        assert_eq!(ours.handle(at(1800)), Due::Expired);
        for (seconds, over) in [(1800, 1768), (90, 60)] {
            let mut theirs = SessionTimer::start(seconds, false, now);
            theirs.try_again(at(1));
            assert_eq!((theirs.deadline(), theirs.handle(at(over - 1))), (at(over), Due::Nothing));
            assert_eq!(theirs.handle(at(over)), Due::Expired);
        }
    }
}

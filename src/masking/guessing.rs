//! How many wrong PINs there may be before nobody's entry is judged any more (product.md, "Guessing").
//!
//! Pure: what has been counted and the time in, the verdict out. Three kinds of bucket count wrong entries:
//!
//! | bucket | wrong entries in 24 hours |
//! |---|---|
//! | a caller's number; those without one share a bucket per trunk | 10 |
//! | a virtual number, strangers only | 60 divided by its PIN sessions, at least 6; a growing pause after a third |
//! | a party whose own PIN is forced | 10 |
//!
//! An entry is counted before it is judged, so that any number of calls at once get no more tries than one after
//! the other; a right one is given back. One that is not judged (the bucket is full, or pauses) counts nowhere, and
//! its caller hears what a wrong PIN sounds like. With at most 16 sessions of four digits on a number
//! ([`super::allocate`]) all guessers together hit with a chance under 2 % a day: 6 × 32 / 10,000.
//!
//! The first entry that is not judged is told to the application, and the first one of a bucket that is full:
//! at most two events of a bucket and day.

use crate::number::{Did, E164};
use jiff::Timestamp;
use std::fmt;
use std::time::Duration;
use uuid::Uuid;

use super::session::PartyRole;

/// So long a wrong entry counts: from the first one of a bucket on.
pub const WINDOW: Duration = Duration::from_secs(24 * 3600);
/// Wrong entries of one caller, or of one party whose PIN is forced.
pub const CALLER_LIMIT: u32 = 10;
/// Wrong entries of all strangers on a number with one PIN session; it is shared by the sessions.
const NUMBER_BUDGET: u32 = 60;
/// And so many at least.
const NUMBER_LEAST: u32 = 6;
/// The first and the longest pause of a number.
const FIRST_PAUSE: Duration = Duration::from_secs(60);
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// Whose wrong entries are counted together.
#[derive(Clone, PartialEq, Eq)]
pub enum Bucket {
    /// One caller, whatever he dials.
    Caller(E164),
    /// All callers without a number that come by this trunk.
    Anonymous(String),
    /// All strangers that dial this virtual number.
    Number {
        /// The number.
        did: Did,
        /// How many PIN sessions are on it now, at least 1.
        pin_sessions: u32,
    },
    /// A party that must give its own PIN; strangers do not touch it.
    Forced(Uuid, PartyRole),
}

impl Bucket {
    /// What tells it from every other one. Holds the caller's number for [`Bucket::Caller`]: not for a log, and in
    /// the database only as a mark.
    #[must_use]
    pub fn key(&self) -> String {
        match self {
            Self::Caller(caller) => format!("caller:{}", caller.digits()),
            Self::Anonymous(trunk) => format!("anonymous:{trunk}"),
            Self::Number { did, .. } => format!("number:{}", did.digits()),
            Self::Forced(session, role) => {
                let role = match role {
                    PartyRole::First => "first",
                    PartyRole::Second => "second",
                };
                format!("forced:{session}:{role}")
            }
        }
    }

    /// The most wrong entries within [`WINDOW`].
    #[must_use]
    pub fn limit(&self) -> u32 {
        match self {
            Self::Caller(_) | Self::Anonymous(_) | Self::Forced(..) => CALLER_LIMIT,
            Self::Number { pin_sessions, .. } => {
                NUMBER_BUDGET.checked_div(*pin_sessions).unwrap_or(NUMBER_BUDGET).max(NUMBER_LEAST)
            }
        }
    }

    /// Who is not judged when it is closed.
    #[must_use]
    pub fn guesser(&self) -> Guesser {
        match self {
            Self::Caller(_) => Guesser::Caller,
            Self::Anonymous(_) => Guesser::Anonymous,
            Self::Number { .. } => Guesser::Strangers,
            Self::Forced(..) => Guesser::Party,
        }
    }

    /// How long nobody is judged after wrong entry number `wrong`.
    fn pause_after(&self, wrong: u32) -> Duration {
        let Self::Number { .. } = self else { return Duration::ZERO };
        match wrong.checked_sub(self.limit() / 3) {
            None | Some(0) => Duration::ZERO,
            Some(further) => {
                let doublings = further.saturating_sub(1).min(6);
                (FIRST_PAUSE * 2_u32.saturating_pow(doublings)).min(LONGEST_PAUSE)
            }
        }
    }
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Caller(_) => "Caller(·)",
            Self::Anonymous(_) => "Anonymous",
            Self::Number { .. } => "Number",
            Self::Forced(..) => "Forced",
        })
    }
}

/// Who has given too many wrong PINs, as far as his victim may know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guesser {
    /// One caller.
    Caller,
    /// Callers without a number.
    Anonymous,
    /// Strangers on the virtual number, together.
    Strangers,
    /// Whoever calls from the number of a party whose PIN is forced.
    Party,
}

/// Entries in a bucket are not judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LockOut {
    /// Who is meant.
    pub guesser: Guesser,
    /// Wrong entries that led to it.
    pub wrong: u32,
    /// When the next entry is judged.
    pub until: Timestamp,
    /// The bucket is full: this is no mere pause.
    pub is_full: bool,
}

/// What was counted in a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// The first wrong entry of the window.
    pub since: Timestamp,
    /// The latest one.
    pub latest: Timestamp,
    /// How many.
    pub wrong: u32,
}

impl Tally {
    /// Nothing yet.
    #[must_use]
    pub fn empty(now: Timestamp) -> Self {
        Self { since: now, latest: now, wrong: 0 }
    }

    /// What still counts at `now`.
    #[must_use]
    pub fn at(self, now: Timestamp) -> Self {
        // A clock that was set back must not open the window for ever, nor a future entry close it.
        if now.duration_since(self.since).unsigned_abs() >= WINDOW { Self::empty(now) } else { self }
    }

    /// Whether an entry may be judged now.
    #[must_use]
    pub fn is_open(&self, bucket: &Bucket, now: Timestamp) -> bool {
        self.lock_out(bucket, now).is_none()
    }

    /// Why an entry is not judged now; `None`: it is.
    #[must_use]
    pub fn lock_out(&self, bucket: &Bucket, now: Timestamp) -> Option<LockOut> {
        let (is_full, pause) = (self.wrong >= bucket.limit(), bucket.pause_after(self.wrong));
        let rested = Duration::try_from(now.duration_since(self.latest)).unwrap_or_default();
        if !is_full && rested >= pause {
            return None;
        }
        let (from, length) = if is_full { (self.since, WINDOW) } else { (self.latest, pause) };
        let until = from.checked_add(length).unwrap_or(Timestamp::MAX);
        Some(LockOut { guesser: bucket.guesser(), wrong: self.wrong, until, is_full })
    }

    /// One entry more, counted as wrong until it turns out to be right.
    #[must_use]
    pub fn count(self, now: Timestamp) -> Self {
        Self { latest: now.max(self.latest), wrong: self.wrong.saturating_add(1), ..self }
    }

    /// One that was right.
    #[must_use]
    pub fn forgive(self) -> Self {
        Self { wrong: self.wrong.saturating_sub(1), ..self }
    }
}

/// One entry that counts in several buckets: what they hold afterwards, in the same order.
///
/// # Errors
/// The first bucket that is full or pauses, by its place, with what it holds: the entry is not judged, and counts
/// nowhere.
pub fn count_in_all<'a>(
    buckets: impl IntoIterator<Item = (&'a Bucket, Tally)>,
    now: Timestamp,
) -> Result<Vec<Tally>, (usize, Tally, LockOut)> {
    let count = |(place, (bucket, tally)): (usize, (&Bucket, Tally))| {
        let tally = tally.at(now);
        match tally.lock_out(bucket, now) {
            None => Ok(tally.count(now)),
            Some(lock_out) => Err((place, tally, lock_out)),
        }
    };
    buckets.into_iter().enumerate().map(count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::SignedDuration;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn number(pin_sessions: u32) -> Bucket {
        Bucket::Number { did: Did::parse("12025550100").unwrap(), pin_sessions }
    }

    fn caller() -> Bucket {
        Bucket::Caller(E164::parse("12025550177").unwrap())
    }

    fn after(seconds: i64) -> Timestamp {
        NOW + SignedDuration::from_secs(seconds)
    }

    /// Guesses as fast as it is judged for `duration` seconds, and says how often it was judged.
    fn guess_for(bucket: &Bucket, duration: i64) -> u32 {
        let mut tally = Tally::empty(NOW);
        let mut judged = 0;
        for second in 0..duration {
            tally = tally.at(after(second));
            if tally.is_open(bucket, after(second)) {
                judged += 1;
                tally = tally.count(after(second));
            }
        }
        judged
    }

    #[test]
    fn a_caller_has_ten_wrong_entries_a_day() {
        assert_eq!(guess_for(&caller(), 24 * 3600), 10);
        assert_eq!(guess_for(&caller(), 24 * 3600 + 1), 11, "the next day begins");
    }

    #[test]
    fn a_number_shares_sixty_among_its_pin_sessions_but_never_less_than_six() {
        let table = [(1, 60), (2, 30), (7, 8), (10, 6), (16, 6), (5000, 6), (0, 60)];
        for (sessions, limit) in table {
            assert_eq!(number(sessions).limit(), limit, "{sessions} sessions");
        }
    }

    #[test]
    fn after_a_third_strangers_pause_from_a_minute_to_an_hour() {
        let bucket = number(10);
        let pauses: Vec<_> = (0..=6).map(|wrong| bucket.pause_after(wrong).as_secs() / 60).collect();
        assert_eq!(pauses, [0, 0, 0, 1, 2, 4, 8]);
        assert_eq!(number(1).pause_after(20).as_secs(), 0);
        assert_eq!(number(1).pause_after(59).as_secs(), 3600);
        assert_eq!(caller().pause_after(9), Duration::ZERO);
    }

    #[test]
    fn all_guessers_of_a_day_hit_with_a_chance_below_two_percent() {
        for sessions in 1..=16 {
            let judged = guess_for(&number(sessions), 24 * 3600);
            assert!(judged <= number(sessions).limit());
            let chance = f64::from(judged) * f64::from(2 * sessions) / 10_000.0;
            assert!(chance < 0.02, "{sessions} sessions: {chance}");
        }
    }

    #[test]
    fn a_lock_out_says_whom_it_meets_and_until_when() {
        let tally = |wrong| Tally { since: NOW, latest: after(100), wrong };
        let day = after(24 * 3600);
        for (bucket, wrong, at, expected) in [
            (caller(), 9, 100, None),
            (caller(), 10, 100, Some((Guesser::Caller, day, true))),
            (Bucket::Anonymous("carrier".into()), 10, 100, Some((Guesser::Anonymous, day, true))),
            (Bucket::Forced(Uuid::nil(), PartyRole::First), 11, 100, Some((Guesser::Party, day, true))),
            (number(10), 2, 100, None),
            (number(10), 3, 100, Some((Guesser::Strangers, after(160), false))),
            (number(10), 3, 159, Some((Guesser::Strangers, after(160), false))),
            (number(10), 3, 160, None),
            (number(10), 5, 100, Some((Guesser::Strangers, after(100 + 240), false))),
            (number(10), 6, 9000, Some((Guesser::Strangers, day, true))),
        ] {
            let found = tally(wrong).lock_out(&bucket, after(at));
            let expected =
                expected.map(|(guesser, until, is_full)| LockOut { guesser, wrong, until, is_full });
            assert_eq!(found, expected, "{bucket:?} after {wrong} at {at}");
            assert_eq!(tally(wrong).is_open(&bucket, after(at)), expected.is_none());
        }
    }

    #[test]
    fn a_right_entry_is_given_back() {
        let mut tally = Tally::empty(NOW);
        for second in 0..100 {
            assert!(tally.is_open(&caller(), after(second)));
            tally = tally.count(after(second)).forgive();
        }
        assert_eq!(tally.wrong, 0);
    }

    #[test]
    fn a_clock_that_is_set_back_opens_nothing_and_closes_nothing_for_ever() {
        let full = (0..10).fold(Tally::empty(NOW), |tally, second| tally.count(after(second)));
        assert!(!full.at(after(-3600)).is_open(&caller(), after(-3600)));
        assert!(full.at(after(-48 * 3600)).is_open(&caller(), after(-48 * 3600)));
    }

    #[test]
    fn a_bucket_does_not_print_a_number() {
        assert_eq!(format!("{:?}", caller()), "Caller(·)");
    }
}

//! The PIN stage: prompts, digits and tries (product.md, "The PIN stage").
//!
//! Pure: keys, ends of prompts and time in; what to play and the verdict out. Never says, logs or stores a
//! digit, and wipes what was typed as soon as it is judged.
//!
//! ```text
//! Prompting ──key──▶ Typing ──'#', complete, 5 s──▶ Judging ──right─▶ over
//!     │ prompt over                                   │ wrong
//!     ▼                                               ▼
//! Waiting ──10 s──▶ missing, so wrong             Explaining ──message over──▶ Pausing ──wait──▶ Prompting
//!                                                     │ no try left
//!                                                     ▼
//!                                                 LeaveTaking ──goodbye over──▶ Ended
//! ```

use crate::masking::session::Pin;
use media::Digit;
use std::time::{Duration, Instant};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};
use zeroize::Zeroizing;

/// From the end of the prompt to the first digit.
pub const FIRST_DIGIT: Duration = Duration::from_secs(10);
/// Between digits.
pub const BETWEEN_DIGITS: Duration = Duration::from_secs(5);
/// A prompt that does not report its end within this time counts as ended: no wait without an end.
pub const LONGEST_PROMPT: Duration = Duration::from_secs(60);
/// Keys kept while they cannot be judged; more are dropped.
const MAX_KEPT: usize = 32;
/// The longest PIN.
const MAX_PIN: usize = 15;

/// What is wanted of the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PinAction {
    /// Play the prompt.
    Ask,
    /// Play the wrong-PIN message.
    SayWrong,
    /// Play the goodbye.
    SayGoodbye,
    /// Stop what plays: the caller has begun to type.
    Hush,
    /// An entry is complete; this door is its PIN's, if it is one. The stage is over unless
    /// [`PinCollector::reject`] is told. A wrong entry takes the same way as a right one, so that neither time nor
    /// sound tells which it was.
    Judge(Option<usize>),
    /// No try is left and the goodbye is over.
    Ended,
}

#[derive(Debug)]
enum Stage {
    Prompting { until: Instant },
    Waiting { until: Instant },
    Typing { until: Instant },
    Explaining { until: Instant, last: bool },
    Pausing { until: Instant },
    LeaveTaking { until: Instant },
    Judging,
    Ended,
}

/// Takes digits until they open a door or the tries are used up.
#[derive(Debug)]
pub struct PinCollector {
    doors: Vec<(Pin, bool)>,
    longest: usize,
    retries_left: u8,
    retry_wait: Duration,
    typed: Typed,
    /// Keys that came while nothing can be judged.
    kept: Typed,
    stage: Stage,
    /// Wrong or missing entries so far.
    failed: u8,
}

struct Typed(Zeroizing<Vec<u8>>);

impl std::fmt::Debug for Typed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Typed(·)")
    }
}

impl PinCollector {
    /// `doors`: each PIN, and whether it leads anywhere (one that would ring the caller himself does not).
    /// `retries`: entries after the first. Begins with the prompt.
    #[must_use]
    pub fn new(
        doors: Vec<(Pin, bool)>,
        retries: u8,
        retry_wait: Duration,
        now: Instant,
    ) -> (Self, Vec<PinAction>) {
        let longest = doors.iter().map(|(pin, _)| pin.digits().len()).max().unwrap_or(MAX_PIN).min(MAX_PIN);
        let collector = Self {
            doors,
            longest,
            retries_left: retries,
            retry_wait,
            typed: Typed(Zeroizing::new(Vec::with_capacity(MAX_PIN + 1))),
            kept: Typed(Zeroizing::new(Vec::with_capacity(MAX_KEPT))),
            stage: Stage::Prompting { until: now + LONGEST_PROMPT },
            failed: 0,
        };
        (collector, vec![PinAction::Ask])
    }

    /// Wrong or missing entries so far.
    #[must_use]
    pub fn failed(&self) -> u8 {
        self.failed
    }

    /// When [`Self::on_timeout`] is due.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        match self.stage {
            Stage::Prompting { until }
            | Stage::Waiting { until }
            | Stage::Typing { until }
            | Stage::Explaining { until, .. }
            | Stage::Pausing { until }
            | Stage::LeaveTaking { until } => Some(until),
            Stage::Judging | Stage::Ended => None,
        }
    }

    /// A key was pressed.
    #[must_use]
    pub fn push(&mut self, digit: Digit, now: Instant) -> Vec<PinAction> {
        match self.stage {
            Stage::Prompting { .. } => {
                self.stage = Stage::Typing { until: now + BETWEEN_DIGITS };
                let mut actions = vec![PinAction::Hush];
                actions.extend(self.take(digit, now));
                actions
            }
            Stage::Waiting { .. } | Stage::Typing { .. } => {
                self.stage = Stage::Typing { until: now + BETWEEN_DIGITS };
                self.take(digit, now)
            }
            Stage::Explaining { last: false, .. } | Stage::Pausing { .. } | Stage::Judging => {
                if self.kept.0.len() < MAX_KEPT {
                    self.kept.0.push(digit.event());
                }
                vec![]
            }
            Stage::Explaining { .. } | Stage::LeaveTaking { .. } | Stage::Ended => vec![],
        }
    }

    /// What was played has reached its end.
    #[must_use]
    pub fn on_played(&mut self, now: Instant) -> Vec<PinAction> {
        match self.stage {
            Stage::Prompting { .. } => {
                self.stage = Stage::Waiting { until: now + FIRST_DIGIT };
                vec![]
            }
            Stage::Explaining { last: false, .. } => {
                self.stage = Stage::Pausing { until: now + self.retry_wait };
                vec![]
            }
            Stage::Explaining { last: true, .. } => {
                self.stage = Stage::LeaveTaking { until: now + LONGEST_PROMPT };
                vec![PinAction::SayGoodbye]
            }
            Stage::LeaveTaking { .. } => {
                self.stage = Stage::Ended;
                vec![PinAction::Ended]
            }
            Stage::Waiting { .. }
            | Stage::Typing { .. }
            | Stage::Pausing { .. }
            | Stage::Judging
            | Stage::Ended => vec![],
        }
    }

    /// The deadline has come.
    #[must_use]
    pub fn on_timeout(&mut self, now: Instant) -> Vec<PinAction> {
        if self.deadline().is_none_or(|at| at > now) {
            return vec![];
        }
        match self.stage {
            Stage::Prompting { .. } | Stage::Explaining { .. } | Stage::LeaveTaking { .. } => {
                self.on_played(now)
            }
            Stage::Waiting { .. } | Stage::Typing { .. } => self.judge(now),
            Stage::Pausing { .. } => self.ask_again(now),
            Stage::Judging | Stage::Ended => vec![],
        }
    }

    /// The entry was wrong, or what it opens has ended meanwhile, or nobody may judge it: all the same to the caller.
    #[must_use]
    pub fn reject(&mut self, now: Instant) -> Vec<PinAction> {
        match self.stage {
            Stage::Judging => self.fail(now),
            _ => vec![],
        }
    }

    /// The prompt again; what was typed during the pause is judged now, as if typed into the prompt.
    fn ask_again(&mut self, now: Instant) -> Vec<PinAction> {
        self.stage = Stage::Prompting { until: now + LONGEST_PROMPT };
        let kept = std::mem::take(&mut self.kept.0);
        if kept.is_empty() {
            return vec![PinAction::Ask];
        }
        let mut actions = Vec::new();
        for digit in kept.iter().filter_map(|code| Digit::from_event(*code)) {
            actions.extend(self.push(digit, now));
        }
        // Nothing plays, so there is nothing to hush.
        actions.retain(|action| *action != PinAction::Hush);
        actions
    }

    fn take(&mut self, digit: Digit, now: Instant) -> Vec<PinAction> {
        match digit.key() {
            '#' => self.judge(now),
            // The caller starts over; nothing is judged, so nothing is won by it.
            '*' => {
                self.typed.0.clear();
                vec![]
            }
            key if key.is_ascii_digit() => {
                self.typed.0.push(u8::try_from(key).unwrap_or_default());
                if self.typed.0.len() >= self.longest || self.matching().is_some() {
                    return self.judge(now);
                }
                vec![]
            }
            _ => vec![],
        }
    }

    fn judge(&mut self, now: Instant) -> Vec<PinAction> {
        // Who types nothing guesses nothing: that entry is used up, and counts for no limit over many calls.
        if self.typed.0.is_empty() {
            return self.fail(now);
        }
        let matching = self.matching();
        self.typed.0.clear();
        self.stage = Stage::Judging;
        let leads = |door: &usize| self.doors.get(*door).is_some_and(|(_, leads)| *leads);
        vec![PinAction::Judge(matching.filter(leads))]
    }

    fn fail(&mut self, now: Instant) -> Vec<PinAction> {
        self.failed = self.failed.saturating_add(1);
        let last = self.retries_left == 0;
        self.retries_left = self.retries_left.saturating_sub(1);
        self.stage = Stage::Explaining { until: now + LONGEST_PROMPT, last };
        vec![PinAction::SayWrong]
    }

    /// Which PIN was typed, in a time that depends on the number of PINs and on nothing else: every PIN is
    /// compared over its longest possible length, and the search does not stop at a match.
    fn matching(&self) -> Option<usize> {
        let typed = padded(&self.typed.0);
        let mut found = u32::MAX;
        for (index, (pin, _)) in self.doors.iter().enumerate() {
            let same: Choice = typed.as_slice().ct_eq(padded(pin.digits().as_bytes()).as_slice());
            found = u32::conditional_select(&found, &u32::try_from(index).unwrap_or(u32::MAX), same);
        }
        usize::try_from(found).ok().filter(|_| found != u32::MAX)
    }
}

/// Fixed length, so that comparing tells nothing about lengths; digits are ASCII, so 0 cannot be one.
fn padded(digits: &[u8]) -> Zeroizing<[u8; MAX_PIN + 1]> {
    let mut out = Zeroizing::new([0; MAX_PIN + 1]);
    for (to, from) in out.iter_mut().zip(digits) {
        *to = *from;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collector(pins: &[(&str, bool)], retries: u8) -> (PinCollector, Instant) {
        let now = crate::clock::now();
        let doors = pins.iter().map(|(pin, leads)| (Pin::parse(pin).unwrap(), *leads)).collect();
        let (collector, actions) = PinCollector::new(doors, retries, Duration::from_secs(5), now);
        assert_eq!(actions, [PinAction::Ask]);
        (collector, now)
    }

    /// Types, and has wrong entries rejected.
    fn type_all(collector: &mut PinCollector, keys: &str, now: Instant) -> Vec<PinAction> {
        let typed =
            keys.chars().flat_map(|key| collector.push(Digit::from_char(key).unwrap(), now)).collect();
        judged(collector, typed, now)
    }

    fn judged(collector: &mut PinCollector, actions: Vec<PinAction>, now: Instant) -> Vec<PinAction> {
        let judge = |action| match action {
            PinAction::Judge(None) => collector.reject(now),
            other => vec![other],
        };
        actions.into_iter().flat_map(judge).collect()
    }

    #[test]
    fn a_complete_pin_opens_its_door_without_hash() {
        let (mut pin, now) = collector(&[("1234", true), ("98765", true)], 1);
        assert_eq!(type_all(&mut pin, "98765", now), [PinAction::Hush, PinAction::Judge(Some(1))]);
    }

    #[test]
    fn hash_the_longest_length_and_a_pause_end_an_entry() {
        let (mut pin, now) = collector(&[("1234", true)], 2);
        assert_eq!(type_all(&mut pin, "12#", now), [PinAction::Hush, PinAction::SayWrong], "hash");
        assert!(pin.on_played(now).is_empty());
        let now = pin.deadline().unwrap();
        assert_eq!(pin.on_timeout(now), [PinAction::Ask], "after pin_retry_wait");
        assert_eq!(type_all(&mut pin, "5555", now), [PinAction::Hush, PinAction::SayWrong], "length");
        assert!(pin.on_played(now).is_empty());
        let now = pin.deadline().unwrap();
        assert_eq!(pin.on_timeout(now), [PinAction::Ask]);
        assert_eq!(type_all(&mut pin, "12", now), [PinAction::Hush]);
        let now = pin.deadline().unwrap();
        let late = pin.on_timeout(now);
        assert_eq!(judged(&mut pin, late, now), [PinAction::SayWrong], "five seconds without a digit");
        assert_eq!(pin.on_played(now), [PinAction::SayGoodbye], "1 + 2 entries are used up");
        assert_eq!(pin.on_played(now), [PinAction::Ended]);
        assert_eq!((pin.failed(), pin.deadline()), (3, None));
    }

    #[test]
    fn entries_end_after_one_plus_pin_retry_whatever_is_typed() {
        for retries in 0..=5 {
            let (mut pin, mut now) = collector(&[("1234", true)], retries);
            let mut wrong = 0;
            while let Some(deadline) = pin.deadline() {
                let typed = pin.push(Digit::from_char('9').unwrap(), now);
                let typed = judged(&mut pin, typed, now);
                wrong += typed.iter().filter(|action| **action == PinAction::SayWrong).count();
                now = deadline.max(now);
                let late = pin.on_timeout(now);
                let late = judged(&mut pin, late, now);
                wrong += late.iter().filter(|action| **action == PinAction::SayWrong).count();
            }
            assert_eq!(wrong, 1 + usize::from(retries));
        }
    }

    #[test]
    fn digits_typed_during_the_pause_are_judged_after_it() {
        let (mut pin, now) = collector(&[("1234", true)], 1);
        assert_eq!(type_all(&mut pin, "0000", now), [PinAction::Hush, PinAction::SayWrong]);
        assert!(type_all(&mut pin, "12", now).is_empty(), "during the message");
        assert!(pin.on_played(now).is_empty());
        assert!(type_all(&mut pin, "34", now).is_empty(), "during the pause");
        let after = pin.deadline().unwrap();
        assert_eq!(after, now + Duration::from_secs(5));
        assert_eq!(pin.on_timeout(after), [PinAction::Judge(Some(0))]);
    }

    #[test]
    fn nothing_typed_counts_as_an_entry_ten_seconds_after_the_prompt() {
        let (mut pin, now) = collector(&[("1234", true)], 0);
        assert!(pin.on_played(now).is_empty());
        assert_eq!(pin.deadline(), Some(now + FIRST_DIGIT));
        assert_eq!(pin.on_timeout(now + FIRST_DIGIT), [PinAction::SayWrong]);
    }

    #[test]
    fn a_pin_that_would_ring_the_caller_himself_is_wrong() {
        let (mut pin, now) = collector(&[("1234", true), ("4321", false)], 1);
        assert_eq!(type_all(&mut pin, "4321", now), [PinAction::Hush, PinAction::SayWrong]);
    }

    #[test]
    fn star_starts_over() {
        let (mut pin, now) = collector(&[("1234", true)], 0);
        assert_eq!(type_all(&mut pin, "99*1234", now), [PinAction::Hush, PinAction::Judge(Some(0))]);
    }

    #[test]
    fn a_session_that_ended_meanwhile_is_a_wrong_pin() {
        let (mut pin, now) = collector(&[("1234", true)], 0);
        assert_eq!(type_all(&mut pin, "1234", now), [PinAction::Hush, PinAction::Judge(Some(0))]);
        assert_eq!(pin.reject(now), [PinAction::SayWrong]);
        assert_eq!(pin.on_played(now), [PinAction::SayGoodbye]);
    }

    #[test]
    fn nothing_prints_what_was_typed() {
        let (mut pin, now) = collector(&[("1234", true)], 0);
        let _ = type_all(&mut pin, "123", now);
        let printed = format!("{pin:?}");
        assert!(!printed.contains("123") && !printed.contains("49, 50, 51"), "{printed}");
    }
}

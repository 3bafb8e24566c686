//! Keys that were told by signalling and not in the stream: they go out as telephone-events of our own making
//! (RFC 4733 §2.5.1), one after the other, each of a fixed length.

use crate::Digit;
use crate::dtmf::{EventPacket, EventSender};
use crate::time::{MediaTime, milliseconds};
use std::collections::VecDeque;

/// How long each key is down.
pub(super) const LENGTH: u64 = milliseconds(100);
/// Between two packets of one key.
pub(super) const STEP: u64 = milliseconds(20);
/// Between two keys.
const PAUSE: u64 = milliseconds(40);
/// Packets of one key: its end is told three times.
const PACKETS: u8 = (LENGTH / STEP) as u8 + 2;
/// Keys that wait for those before them.
const MAX_WAITING: usize = 8;

/// The keys of one leg that are being told.
#[derive(Debug, Default)]
pub(super) struct Presses {
    waiting: VecDeque<Digit>,
    current: Option<(Digit, Option<EventSender>)>,
    /// Packets of `current` still to be sent.
    left: u8,
    due: MediaTime,
}

impl Presses {
    /// One more key, unless too many wait.
    pub(super) fn push(&mut self, digit: Digit, now: MediaTime) {
        if !self.is_busy() {
            self.due = self.due.max(now);
        }
        if self.waiting.len() < MAX_WAITING {
            self.waiting.push_back(digit);
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self { due: self.due, ..Self::default() };
    }

    #[inline]
    pub(super) fn is_busy(&self) -> bool {
        self.left > 0 || !self.waiting.is_empty()
    }

    /// When [`Self::turn`] has something to say.
    pub(super) fn due(&self) -> MediaTime {
        if self.is_busy() { self.due } else { MediaTime::NEVER }
    }

    /// Is a packet due now, and is it the first one of a key?
    pub(super) fn turn(&mut self, now: MediaTime) -> Option<bool> {
        if !self.is_busy() || now < self.due {
            return None;
        }
        let begins = self.left == 0;
        if begins {
            self.current = Some((self.waiting.pop_front()?, None));
            self.left = PACKETS;
            // A late engine begins late, and does not send in a burst.
            self.due = now;
        }
        Some(begins)
    }

    /// The packet that is due. `timestamp` is where the key begins, and counts for its first packet only.
    pub(super) fn next(&mut self, timestamp: u32) -> Option<EventPacket> {
        let (digit, sender) = self.current.as_mut()?;
        let sender =
            sender.get_or_insert_with(|| EventSender::new(*digit, timestamp, LENGTH as u32, STEP as u32));
        let packet = sender.next();
        self.left = self.left.saturating_sub(1);
        self.due = self.due.plus(STEP);
        if self.left == 0 {
            self.current = None;
            self.due = self.due.plus(PAUSE);
        }
        packet
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> MediaTime {
        MediaTime::from_samples(milliseconds(ms))
    }

    #[test]
    fn rfc4733_2_5_1_a_key_is_told_at_its_pace_and_its_end_three_times() {
        let mut presses = Presses::default();
        presses.push(Digit::from_char('5').unwrap(), at(1000));
        presses.push(Digit::from_char('#').unwrap(), at(1000));
        let mut told = vec![];
        for ms in 1000..1600 {
            while let Some(begins) = presses.turn(at(ms)) {
                let packet = presses.next(7000 + ms as u32).unwrap();
                assert_eq!(begins, packet.marker);
                told.push((
                    ms,
                    packet.event.event,
                    packet.timestamp,
                    packet.event.duration,
                    packet.event.end,
                ));
            }
        }
        let key = |event, start: u64| {
            let timestamp = 7000 + start as u32;
            let down = (1..=4).map(move |n| (start + 20 * (n - 1), event, timestamp, 160 * n as u16, false));
            let up = (4..=6).map(move |n| (start + 20 * n, event, timestamp, 800, true));
            down.chain(up).collect::<Vec<_>>()
        };
        assert_eq!(told, [key(5, 1000), key(11, 1180)].concat());
        assert_eq!((presses.is_busy(), presses.due()), (false, MediaTime::NEVER));
    }

    #[test]
    fn keys_that_are_too_many_or_late_are_left_out() {
        let mut presses = Presses::default();
        for _ in 0..50 {
            presses.push(Digit::from_char('1').unwrap(), at(0));
        }
        let mut packets = 0;
        for ms in (0..10_000).step_by(5) {
            while presses.turn(at(ms)).is_some() {
                packets += usize::from(presses.next(0).is_some());
            }
        }
        assert_eq!(packets, MAX_WAITING * usize::from(PACKETS));
        presses.push(Digit::from_char('1').unwrap(), at(20_000));
        presses.clear();
        assert_eq!(presses.turn(at(30_000)), None);
    }
}

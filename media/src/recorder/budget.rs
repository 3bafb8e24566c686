//! What a call may take of the room between media thread and writer, and what became of that which found none.
//!
//! Every codec brings 8000 bytes per second, in packets that each cost their record. Who sends more than that for long,
//! or sends it in crumbs, sends nothing that a recording could hold. Pure: time is an argument.

use super::{Loss, Record};
use crate::rtp::{Header, timestamp_delta};
use crate::time::MediaTime;

/// Bytes that a leg gets in 125 µs: what packets of 5 ms need, and more.
const INCOME: u64 = 3;
/// Bytes that a leg may have saved: a network's backlog of four seconds.
const SAVINGS: u64 = 64 * 1024;
/// Losses that are listed one by one before the writer hears of them. A leg's first one always is.
const MAX_LOSSES: usize = 16 * 1024;

/// One leg's account.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Leg {
    left: u64,
    at: MediaTime,
    /// Where its newest loss stands, in the list of this number.
    loss: Option<(u64, usize)>,
}

impl Leg {
    pub(super) fn new(now: MediaTime) -> Self {
        Self { left: SAVINGS, at: now, loss: None }
    }

    /// Takes what a packet with so much payload costs, if there is so much.
    #[inline]
    pub(super) fn may_spend(&mut self, payload: usize, now: MediaTime) -> bool {
        let income = now.since(self.at).saturating_mul(INCOME);
        self.at = now;
        self.left = self.left.saturating_add(income).min(SAVINGS);
        let left = self.left.checked_sub(payload as u64 + size_of::<Record>() as u64);
        self.left = left.unwrap_or(self.left);
        left.is_some()
    }
}

/// What the writer is to be told of.
#[derive(Debug, Default)]
pub(super) struct Losses {
    list: Vec<Loss>,
    /// Of the list; another one begins when it is taken.
    number: u64,
}

impl Losses {
    /// Adds a packet: to the stretch before it when it follows that one, or when there are too many.
    pub(super) fn add(&mut self, leg: &mut Leg, packet: Loss) {
        let place = leg.loss.filter(|(number, _)| *number == self.number).map(|(_, place)| place);
        let full = self.list.len() >= MAX_LOSSES;
        if let Some(before) = place.and_then(|place| self.list.get_mut(place))
            && (follows(&before.last, before.last_samples, &packet.first) || full)
        {
            before.extend(&packet);
            return;
        }
        leg.loss = Some((self.number, self.list.len()));
        self.list.push(packet);
    }

    /// All of them, if there are any.
    pub(super) fn take(&mut self) -> Option<Vec<Loss>> {
        (!self.list.is_empty()).then(|| {
            self.number += 1;
            std::mem::take(&mut self.list)
        })
    }
}

fn follows(before: &Header, samples: u32, header: &Header) -> bool {
    before.ssrc == header.ssrc && header.timestamp == before.timestamp.wrapping_add(samples)
}

impl Loss {
    /// From its first packet to the end of `next`.
    fn extend(&mut self, next: &Self) {
        let reaches = timestamp_delta(next.first.timestamp, self.first.timestamp);
        let reaches = u32::try_from(reaches).ok().filter(|_| self.first.ssrc == next.first.ssrc);
        let reaches = reaches.map(|reaches| reaches.saturating_add(next.samples));
        // Of another stream nothing is known but its length.
        self.samples = reaches.unwrap_or(self.samples.saturating_add(next.samples)).max(self.samples);
        (self.last, self.last_at, self.last_samples) = (next.last, next.last_at, next.last_samples);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Side;
    use crate::recorder::RecordingId;
    use crate::time::milliseconds;

    fn packet(number: u16, ssrc: u32) -> Loss {
        let at = MediaTime::from_samples(u64::from(number) * 160);
        let timestamp = 0xffff_ff00u32.wrapping_add(u32::from(number) * 160);
        let header = Header { marker: false, payload_type: 0, sequence: number, timestamp, ssrc };
        Loss {
            id: RecordingId { number: 0, slot: 0 },
            side: Side::A,
            first_at: at,
            first: header,
            last_at: at,
            last: header,
            last_samples: 160,
            samples: 160,
        }
    }

    #[test]
    fn packets_that_follow_each_other_are_one_loss() {
        let (mut losses, mut leg, mut other) = (Losses::default(), Leg::default(), Leg::default());
        for number in [0, 1, 2, 5, 6] {
            losses.add(&mut leg, packet(number, 1));
            losses.add(&mut other, packet(number, 2));
        }
        let taken = losses.take().unwrap();
        let found: Vec<_> =
            taken.iter().map(|loss| (loss.first.ssrc, loss.first.sequence, loss.samples)).collect();
        assert_eq!(found, [(1, 0, 480), (2, 0, 480), (1, 5, 320), (2, 5, 320)]);
        assert!(losses.take().is_none());
        // A list that has been taken is not added to.
        losses.add(&mut leg, packet(7, 1));
        assert_eq!(losses.take().unwrap().len(), 1);
    }

    #[test]
    fn a_full_list_grows_by_legs_only() {
        let (mut losses, mut leg) = (Losses::default(), Leg::default());
        for number in 0..(MAX_LOSSES + 100) as u16 {
            losses.add(&mut leg, packet(2 * (number % 8000), u32::from(number / 8000)));
        }
        assert_eq!(losses.list.len(), MAX_LOSSES);
        losses.add(&mut Leg::default(), packet(1, 9));
        assert_eq!(losses.take().unwrap().len(), MAX_LOSSES + 1);
    }

    #[test]
    fn real_time_is_always_within_the_budget_and_a_flood_is_not() {
        // Packets of 5, 10, 20 and 60 ms for a minute, after a backlog of two seconds.
        for samples in [40usize, 80, 160, 480] {
            let mut leg = Leg::new(MediaTime::default());
            for number in 0..60 * 8000 / samples as u64 {
                let now = MediaTime::from_samples((number * samples as u64).max(milliseconds(2000)));
                assert!(leg.may_spend(samples, now), "{samples}: {number}");
            }
        }
        // Ten times real time, and crumbs.
        for (payload, every) in [(160, 16), (1, 4)] {
            let mut leg = Leg::new(MediaTime::default());
            let taken =
                (0..20_000).filter(|n| leg.may_spend(payload, MediaTime::from_samples(n * every))).count();
            let most = (SAVINGS + INCOME * 20_000 * every) / (payload as u64 + size_of::<Record>() as u64);
            assert!(taken as u64 <= most && taken < 20_000, "{taken} of {most}");
        }
    }
}

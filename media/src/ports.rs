//! The RTP port allocator: the longest-rested port first.
//!
//! RTP takes an even port and RTCP the odd one above (RFC 3550 §11), so one entry here stands for the pair. A
//! freed port goes to the end of the queue: a late sender's packets then meet a closed port rather than the
//! next call for as long as the range allows. No port is refused only because it rests. Binds no socket and
//! reads no clock.

use crate::time::{MediaTime, samples_in};
use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::time::Duration;

/// The even ports of `range`, ascending; RTCP's odd port may lie one above its end.
pub fn even_ports(range: &RangeInclusive<u16>) -> impl Iterator<Item = u16> + use<> {
    range.clone().filter(|port| port.is_multiple_of(2) && *port != 0)
}

/// All RTP ports that no call uses, in the order in which they will be taken.
#[derive(Debug)]
pub struct PortPool {
    free: VecDeque<Resting>,
    rest: u64,
    taken: usize,
    taken_early: u64,
}

#[derive(Debug, Clone, Copy)]
struct Resting {
    port: u16,
    /// `None`: not used since the start.
    since: Option<MediaTime>,
}

impl PortPool {
    /// `ports` are even; they are taken in their order, which the caller had better shuffle.
    #[must_use]
    pub fn new(ports: impl IntoIterator<Item = u16>, rest: Duration) -> Self {
        let free = ports.into_iter().map(|port| Resting { port, since: None }).collect();
        Self { free, rest: samples_in(rest), taken: 0, taken_early: 0 }
    }

    /// The longest-rested port, which is the caller's until [`Self::free`], [`Self::defer`] or
    /// [`Self::give_back`].
    pub fn take(&mut self, now: MediaTime) -> Option<u16> {
        let Resting { port, since } = self.free.pop_front()?;
        self.taken += 1;
        if since.is_some_and(|since| now.since(since) < self.rest) {
            self.taken_early += 1;
        }
        Some(port)
    }

    /// The call has ended: the port rests from `now`.
    pub fn free(&mut self, port: u16, now: MediaTime) {
        self.free.push_back(Resting { port, since: Some(now) });
        self.taken = self.taken.saturating_sub(1);
    }

    /// Another process holds the port: it is tried again when all others have had their turn.
    pub fn defer(&mut self, port: u16) {
        self.free.push_back(Resting { port, since: None });
        self.taken = self.taken.saturating_sub(1);
    }

    /// The port was taken but not used: it keeps its place.
    pub fn give_back(&mut self, port: u16) {
        self.free.push_front(Resting { port, since: None });
        self.taken = self.taken.saturating_sub(1);
    }

    /// Ports that could be taken now.
    #[must_use]
    pub fn available(&self) -> usize {
        self.free.len()
    }

    /// Ports that calls use.
    #[must_use]
    pub fn in_use(&self) -> usize {
        self.taken
    }

    /// How often a port had to be taken before its rest was over: the range is small for the traffic.
    #[must_use]
    pub fn taken_early(&self) -> u64 {
        self.taken_early
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> MediaTime {
        MediaTime::from_samples(ms * 8)
    }

    fn pool(range: RangeInclusive<u16>) -> PortPool {
        PortPool::new(even_ports(&range), Duration::from_secs(60))
    }

    #[test]
    fn rfc3550_11_only_even_ports_are_for_rtp() {
        assert_eq!(even_ports(&(16_383..=16_388)).collect::<Vec<_>>(), [16_384, 16_386, 16_388]);
        assert_eq!(even_ports(&(65_534..=65_535)).collect::<Vec<_>>(), [65_534]);
        assert_eq!(even_ports(&(0..=2)).collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn the_longest_rested_port_is_taken_first_and_none_is_refused_for_resting() {
        let mut pool = pool(100..=104);
        assert_eq!(
            [pool.take(at(0)), pool.take(at(0)), pool.take(at(0)), pool.take(at(0))],
            [Some(100), Some(102), Some(104), None]
        );
        pool.free(104, at(10));
        pool.free(100, at(20));
        assert_eq!(pool.in_use(), 1);
        assert_eq!([pool.take(at(21)), pool.take(at(21)), pool.take(at(21))], [Some(104), Some(100), None]);
        assert_eq!(pool.taken_early(), 2, "both were taken within their 60 s");
        pool.free(104, at(100));
        assert_eq!(pool.take(at(60_100)), Some(104));
        assert_eq!(pool.taken_early(), 2, "after 60 s a port has rested");
    }

    #[test]
    fn a_port_of_another_process_is_tried_last_and_an_unused_one_keeps_its_place() {
        let mut pool = pool(100..=104);
        let held = pool.take(at(0)).unwrap();
        pool.defer(held);
        let next = pool.take(at(0)).unwrap();
        assert_eq!((held, next), (100, 102));
        pool.give_back(next);
        assert_eq!([pool.take(at(1)), pool.take(at(1)), pool.take(at(1))], [Some(102), Some(104), Some(100)]);
        assert_eq!((pool.in_use(), pool.available()), (3, 0));
    }
}

//! Who takes how much of what all calls share: new calls per second, and places for calls that are not set up yet.
//!
//! Pure: time is an argument. `sip.max_calls_per_second` holds for all sources together, and a source that alone uses
//! all of it is never refused below it: that is what a carrier's one border controller looks like. Sources matter only
//! when there is not enough for all:
//!
//! * When the calls of this second are used up, a source that makes few is let in all the same, up to an eighth more in
//!   all. So a flood from one address, a carrier's loop for example, does not shut out the other carriers.
//! * When three quarters of `sip.max_calls` are taken, a source gets no further call while half of all places are
//!   held by calls of its own that are not set up: unanswered, or answered and not acknowledged. Nobody's callees ring
//!   so much longer than they talk.
//!
//! The memory is fixed: sources share 1024 places, which a secret of this process deals out. A source that has the bad
//! luck to share the place of a flood is treated like it, until the next start.

use crate::trunk::RateLimit;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Places for sources.
const PLACES: usize = 1024;
/// How long a source that made many calls is remembered for it.
const MEMORY: Duration = Duration::from_secs(10);
/// So many unfinished calls of one source are never too many.
const FEW_HALF_OPEN: usize = 64;

/// What all sources share.
#[derive(Debug)]
pub(super) struct Shares {
    rate: RateLimit,
    /// For sources with few calls, when `rate` has run out.
    spare: RateLimit,
    /// Time between two calls of a source that makes few.
    interval: Duration,
    max_calls: usize,
    sources: Vec<Source>,
    secret: RandomState,
}

#[derive(Debug, Clone, Default)]
struct Source {
    /// When its calls so far will have been few.
    few_at: Option<Instant>,
    half_open: usize,
}

/// The place of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place(usize);

impl Shares {
    /// Of so many calls, and so many new ones per second.
    pub(super) fn new(max_calls: usize, per_second: u32) -> Self {
        Self {
            rate: RateLimit::per_second(per_second),
            spare: RateLimit::per_second(per_second / 8),
            interval: Duration::from_secs(1) / (per_second / 16).max(1),
            max_calls,
            sources: vec![Source::default(); PLACES],
            secret: RandomState::new(),
        }
    }

    /// A call that we place ourselves: false when there were enough this second.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        self.rate.take(now)
    }

    /// A call from `source` while `live` calls are up. It counts as not set up until [`Self::set_up`]. `None`: there
    /// is no room for it.
    pub(super) fn take_for(&mut self, source: IpAddr, live: usize, now: Instant) -> Option<Place> {
        let index = usize::try_from(self.secret.hash_one(source.to_canonical()) % PLACES as u64).ok()?;
        let place = self.sources.get_mut(index)?;
        let few = place.makes_few(self.interval, now);
        if live >= self.max_calls - self.max_calls / 4
            && place.half_open >= (self.max_calls / 2).max(FEW_HALF_OPEN)
        {
            return None;
        }
        let taken = self.rate.take(now) || (few && self.spare.take(now));
        if !taken {
            return None;
        }
        place.half_open += 1;
        Some(Place(index))
    }

    /// A call of this source is set up, or over.
    pub(super) fn set_up(&mut self, place: Place) {
        if let Some(source) = self.sources.get_mut(place.0) {
            source.half_open = source.half_open.saturating_sub(1);
        }
    }
}

impl Source {
    /// Counts a call, taken or not, and says whether the ones of late, with a second's worth at once, were few.
    fn makes_few(&mut self, interval: Duration, now: Instant) -> bool {
        let before = self.few_at.map_or(now, |at| at.max(now));
        self.few_at = Some((before + interval).min(now + MEMORY));
        before < now + Duration::from_secs(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    /// Shares in which the sources of a test have places of their own.
    fn shares(max_calls: usize, per_second: u32, sources: u8) -> Shares {
        loop {
            let shares = Shares::new(max_calls, per_second);
            let mut places: Vec<_> =
                (1..=sources).map(|n| shares.secret.hash_one(ip(n)) % PLACES as u64).collect();
            places.sort_unstable();
            places.dedup();
            if places.len() == usize::from(sources) {
                return shares;
            }
        }
    }

    /// What a configured trunk's normal traffic meets: nothing. Its one border controller may use up the whole rate,
    /// in bursts too, with every callee's telephone ringing.
    #[test]
    fn one_source_alone_gets_the_whole_rate() {
        for rate in [1, 2, 50, 500] {
            let (mut shares, start) = (shares(4000, rate, 1), crate::clock::now());
            for call in 0..rate {
                assert!(shares.take_for(ip(1), 2999, start).is_some(), "call {call} of {rate} at once");
            }
            for call in 0..10 * rate {
                let now = start + ms(1000) + Duration::from_secs(1) * call / rate;
                assert!(shares.take_for(ip(1), 2999, now).is_some(), "call {call}, {rate}/s");
            }
        }
    }

    #[test]
    fn a_flood_gets_the_rate_and_no_more() {
        let (mut shares, start) = (shares(1_000_000, 100, 1), crate::clock::now());
        let taken = (0..10_000).filter(|n| shares.take_for(ip(1), 0, start + ms(*n)).is_some()).count();
        assert!((1090..=1110).contains(&taken), "{taken} in ten seconds, and a burst of one");
    }

    #[test]
    fn who_makes_few_calls_is_let_in_during_another_ones_flood() {
        let (mut shares, start) = (shares(1_000_000, 100, 5), crate::clock::now());
        let mut refused = [0; 6];
        for n in 0..20_000_u64 {
            let now = start + ms(n / 2);
            refused[1] += u32::from(shares.take_for(ip(1), 0, now).is_none());
            // Four carriers of three calls a second.
            if n % 667 == 0 {
                for last in 2..=5 {
                    refused[usize::from(last)] += u32::from(shares.take_for(ip(last), 0, now).is_none());
                }
            }
        }
        assert_eq!(refused[2..], [0; 4]);
        assert!(refused[1] > 18_000, "{refused:?}");
    }

    #[test]
    fn the_spare_calls_are_an_eighth_however_many_sources_come() {
        let (mut shares, start) = (shares(1_000_000, 80, 1), crate::clock::now());
        for _ in 0..80 {
            assert!(shares.take_for(ip(1), 0, start).is_some());
        }
        let let_in = (0..=255_u16)
            .filter(|n| shares.take_for(IpAddr::from([198, 51, 100, *n as u8]), 0, start).is_some())
            .count();
        assert_eq!(let_in, 10);
    }

    #[test]
    fn after_a_flood_its_source_is_one_like_others() {
        let (mut shares, start) = (shares(1_000_000, 16, 2), crate::clock::now());
        for n in 0..5000 {
            let _ = shares.take_for(ip(1), 0, start + ms(n));
        }
        let later = start + ms(5000) + MEMORY;
        for _ in 0..16 {
            let _ = shares.take_for(ip(2), 0, later);
        }
        assert!(shares.take_for(ip(1), 0, later).is_some());
    }

    #[test]
    fn calls_that_are_not_set_up_leave_a_quarter_of_all_places_to_other_sources() {
        let (mut shares, start) = (shares(400, 1_000_000, 2), crate::clock::now());
        let mut places = vec![];
        while let Some(place) = shares.take_for(ip(1), places.len(), start) {
            places.push(place);
        }
        assert_eq!(places.len(), 300);
        assert!(shares.take_for(ip(2), 300, start).is_some(), "another source");
        for place in places.drain(..101) {
            shares.set_up(place);
        }
        assert!(shares.take_for(ip(1), 300, start).is_some(), "now most of its calls are set up");
        // A small service has no quarter to spare.
        let mut small = self::shares(2, 1_000_000, 1);
        assert!(small.take_for(ip(1), 0, start).is_some() && small.take_for(ip(1), 1, start).is_some());
    }
}

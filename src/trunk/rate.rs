//! How many calls per second: a token bucket.
//!
//! Pure: time is an argument, and nothing is counted in the background.

use std::time::{Duration, Instant};

/// A token bucket that holds one second's worth: a rest of a second allows a burst of `per_second` at once, and
/// no stretch of `s` seconds ever sees more than `per_second × (s + 1)`.
///
/// One instant is the whole state (the "theoretical arrival time" of ITU-T I.371), so that nothing drifts and no
/// fraction of a token is lost.
#[derive(Debug, Clone)]
pub struct RateLimit {
    /// Time that one token takes to come back.
    interval: Duration,
    /// What an empty bucket takes to be full.
    capacity: Duration,
    /// When the bucket will be full; `None` before the first token is taken.
    full_at: Option<Instant>,
}

impl RateLimit {
    /// A full bucket. A rate of 0 counts as 1: a limit that admits nobody is a switch, not a rate.
    #[must_use]
    pub fn per_second(rate: u32) -> Self {
        Self::per(rate, Duration::from_secs(1))
    }

    /// A full bucket that holds `count` and is full again after `period`. A count of 0 counts as 1.
    #[must_use]
    pub fn per(count: u32, period: Duration) -> Self {
        let count = count.max(1);
        let interval = period / count;
        Self { interval, capacity: interval * count, full_at: None }
    }

    /// Takes one token; false when there is none, which changes nothing. A `now` that lies before an earlier one
    /// is taken as it comes.
    #[must_use]
    pub fn take(&mut self, now: Instant) -> bool {
        let admitted = self.wait(now).is_zero();
        if admitted {
            self.full_at = Some(self.next_full_at(now));
        }
        admitted
    }

    /// Takes one token that may still have to come back: how long its user must wait for it, in the order of asking.
    /// `None`, which changes nothing, when that would be longer than `most`; so no more than `most` times the rate
    /// ever wait.
    #[must_use]
    pub fn reserve(&mut self, now: Instant, most: Duration) -> Option<Duration> {
        let wait = self.wait(now);
        if wait > most {
            return None;
        }
        self.full_at = Some(self.next_full_at(now));
        Some(wait)
    }

    /// How long it takes until there is a token; takes none.
    #[must_use]
    pub fn wait(&self, now: Instant) -> Duration {
        self.next_full_at(now).saturating_duration_since(now).saturating_sub(self.capacity)
    }

    fn next_full_at(&self, now: Instant) -> Instant {
        self.full_at.map_or(now, |at| at.max(now)) + self.interval
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// How many of `tries` at one instant are admitted.
    fn burst(limit: &mut RateLimit, now: Instant, tries: u32) -> usize {
        (0..tries).filter(|_| limit.take(now)).count()
    }

    #[test]
    fn a_burst_of_one_second_passes_and_then_the_rate_holds() {
        let start = Instant::now();
        let mut limit = RateLimit::per_second(2);
        assert_eq!(burst(&mut limit, start, 5), 2);
        assert_eq!(burst(&mut limit, start + Duration::from_millis(499), 5), 0);
        assert_eq!(burst(&mut limit, start + Duration::from_millis(500), 5), 1);
        assert_eq!(burst(&mut limit, start + Duration::from_secs(60), 5), 2);
        assert_eq!(burst(&mut RateLimit::per_second(0), start, 5), 1);
    }

    #[test]
    fn an_empty_bucket_says_how_long_the_next_token_takes() {
        let start = Instant::now();
        let mut limit = RateLimit::per(300, Duration::from_secs(5));
        assert_eq!(limit.wait(start), Duration::ZERO);
        assert_eq!(burst(&mut limit, start, 400), 300);
        let wait = limit.wait(start);
        assert!(wait > Duration::from_millis(16) && wait <= Duration::from_millis(17), "{wait:?}");
        assert!(!limit.take(start + wait - Duration::from_millis(1)) && limit.take(start + wait));
        assert_eq!(burst(&mut limit, start + Duration::from_secs(60), 400), 300);
    }

    #[test]
    fn who_exceeds_the_rate_waits_in_order_and_only_so_many_wait() {
        let start = Instant::now();
        let most = Duration::from_secs(1);
        let mut limit = RateLimit::per_second(4);
        let waits: Vec<_> =
            (0..10).map(|_| limit.reserve(start, most).map(|wait| wait.as_millis())).collect();
        let mut expected = vec![Some(0); 4];
        expected.extend([Some(250), Some(500), Some(750), Some(1000), None, None]);
        assert_eq!(waits, expected);
        // Whoever was turned away took no place.
        let later = start + Duration::from_millis(250);
        assert_eq!(limit.reserve(later, most), Some(most));
        assert_eq!(limit.reserve(later, most), None);
        assert_eq!(limit.reserve(start + Duration::from_secs(60), most), Some(Duration::ZERO));
    }

    proptest! {
        /// However waits fall, what leaves keeps to the rate and keeps its order.
        #[test]
        fn what_waits_keeps_the_rate_and_its_order(
            rate in 1_u32..100,
            gaps in prop::collection::vec(0_u64..2_000_000, 1..300),
        ) {
            let mut limit = RateLimit::per_second(rate);
            let (mut now, mut left) = (Instant::now(), Vec::<Instant>::new());
            for gap in gaps {
                now += Duration::from_micros(gap / u64::from(rate));
                if let Some(wait) = limit.reserve(now, Duration::from_secs(1)) {
                    prop_assert!(left.last().is_none_or(|last| now + wait >= *last));
                    left.push(now + wait);
                }
            }
            for (index, first) in left.iter().enumerate() {
                for (count, last) in left[index..].iter().enumerate() {
                    let seconds = (*last - *first).as_secs_f64();
                    prop_assert!((count as f64) < f64::from(rate) * (seconds + 1.0) + 1e-3);
                }
            }
        }

        /// However the tries fall, no stretch sees more than the rate and one burst; and what comes no faster
        /// than the rate is never refused.
        #[test]
        fn no_stretch_exceeds_the_rate(rate in 1_u32..600, gaps in prop::collection::vec(0_u64..3_000_000, 1..400)) {
            let mut limit = RateLimit::per_second(rate);
            let (mut now, mut admitted) = (Instant::now(), vec![]);
            for gap in gaps {
                now += Duration::from_micros(gap / u64::from(rate));
                if limit.take(now) {
                    admitted.push(now);
                }
            }
            for (index, first) in admitted.iter().enumerate() {
                for (count, last) in admitted[index..].iter().enumerate() {
                    let seconds = (*last - *first).as_secs_f64();
                    prop_assert!((count as f64) < f64::from(rate) * (seconds + 1.0) + 1e-3);
                }
            }
        }

        #[test]
        fn a_steady_stream_of_the_rate_is_never_refused(rate in 1_u32..5000) {
            let mut limit = RateLimit::per_second(rate);
            let start = Instant::now();
            for call in 0..3 * rate {
                prop_assert!(limit.take(start + Duration::from_secs(1) * call / rate));
            }
        }
    }
}

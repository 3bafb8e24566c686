//! Media time: what the pure parts of the media plane take for a clock.
//!
//! One unit serves RTP timestamps, prompts, recordings and timers alike: the sample at 8000 Hz, 125 µs. It
//! never reads a clock; the engine turns the system's monotonic clock into a [`MediaTime`] once per batch of
//! packets.

use std::time::Duration;

/// Samples per second of prompts and tones, and clock of the RTP timestamps of every codec (RFC 3551 §4.5.2, §4.5.14).
pub const SAMPLE_RATE_HZ: u32 = 8000;

/// A moment, in samples at [`SAMPLE_RATE_HZ`] since the engine started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MediaTime(u64);

impl MediaTime {
    /// Later than anything that happens.
    pub const NEVER: Self = Self(u64::MAX);

    /// `samples` after the engine's start.
    #[must_use]
    pub const fn from_samples(samples: u64) -> Self {
        Self(samples)
    }
    /// Samples since the engine's start.
    #[must_use]
    pub const fn samples(self) -> u64 {
        self.0
    }
    /// Samples from `earlier` to here; 0 when `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
    /// The moment `samples` later.
    #[must_use]
    pub const fn plus(self, samples: u64) -> Self {
        Self(self.0.saturating_add(samples))
    }
}

/// A length of time in whole samples, rounded down.
#[must_use]
pub const fn samples_in(duration: Duration) -> u64 {
    duration
        .as_secs()
        .saturating_mul(SAMPLE_RATE_HZ as u64)
        .saturating_add(duration.subsec_nanos() as u64 / 125_000)
}

/// Milliseconds in samples.
#[must_use]
pub const fn milliseconds(ms: u64) -> u64 {
    ms.saturating_mul(SAMPLE_RATE_HZ as u64 / 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_counted_in_samples_of_125_microseconds() {
        assert_eq!(samples_in(Duration::from_millis(20)), 160);
        assert_eq!(samples_in(Duration::from_micros(124)), 0);
        assert_eq!(samples_in(Duration::from_secs(3600)), 28_800_000);
        assert_eq!(milliseconds(20), 160);
    }

    #[test]
    fn time_never_overflows() {
        assert_eq!(MediaTime::NEVER.plus(1), MediaTime::NEVER);
        assert_eq!(MediaTime::from_samples(1).since(MediaTime::from_samples(2)), 0);
    }
}

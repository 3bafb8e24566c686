//! The media plane's only place that asks what time it is: once per batch of packets.

use crate::time::{MediaTime, samples_in};
use std::time::Instant;

/// One reading of the clock, in both of its forms.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    /// For streams, prompts, recordings and timers.
    pub(super) media: MediaTime,
    /// For reception statistics and reports.
    pub(super) instant: Instant,
}

/// The engine's clock; copies agree.
#[derive(Debug, Clone, Copy)]
pub(super) struct MediaClock {
    start: Instant,
}

impl MediaClock {
    #[allow(clippy::disallowed_methods, reason = "the engine is a shell: here time becomes an argument")]
    pub(super) fn start() -> Self {
        Self { start: Instant::now() }
    }

    #[allow(clippy::disallowed_methods, reason = "the engine is a shell: here time becomes an argument")]
    pub(super) fn now(&self) -> Now {
        let instant = Instant::now();
        Now { media: self.at(instant), instant }
    }

    /// `instant` on this clock; the start for what was before it.
    pub(super) fn at(&self, instant: Instant) -> MediaTime {
        MediaTime::from_samples(samples_in(instant.saturating_duration_since(self.start)))
    }

    /// What NTP timestamps count from: uptime, which RFC 3550 §6.4.1 allows and which tells nothing about us.
    pub(super) fn origin(&self) -> Instant {
        self.start
    }
}

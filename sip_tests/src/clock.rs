//! The kit's only place that asks what time it is.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Monotonic time, from tokio's clock.
#[allow(clippy::disallowed_methods)]
#[must_use]
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Wall time since 1970, for the NTP time of RTCP reports.
#[allow(clippy::disallowed_methods)]
#[must_use]
pub fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

//! The only place that asks what time it is.

use std::time::{Duration, Instant};

/// Monotonic time, from tokio's clock, so that `tokio::time::pause` works in tests.
#[allow(clippy::disallowed_methods)]
#[must_use]
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Wall time, for CDR, store and API only; never for a timer.
#[allow(clippy::disallowed_methods)]
#[must_use]
pub fn wall_now() -> jiff::Timestamp {
    jiff::Timestamp::now()
}

/// Sleeps until `deadline`; for ever when there is none.
pub async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// Sleeps for `duration`.
pub async fn sleep(duration: Duration) {
    tokio::time::sleep(duration).await;
}

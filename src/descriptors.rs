//! Open files: how many there may be, and for how many calls that is enough. A call that finds none would fail in the
//! middle; so it is refused before it begins.

use rustix::process::{Resource, getrlimit, setrlimit};
use tracing::warn;

/// RTP and RTCP of both legs, and both files when the call is recorded.
const PER_CALL: u64 = 6;
/// Database, listeners, media threads; what completes and mixes recordings, fetches prompts and delivers callbacks.
const OTHERS: u64 = 256;

/// Lets this process have as many open files as the system allows it, and returns how many.
pub(crate) fn raise_limit() -> u64 {
    let mut limit = getrlimit(Resource::Nofile);
    let before = limit.current;
    limit.current = limit.maximum;
    match setrlimit(Resource::Nofile, limit) {
        Ok(()) => limit.maximum.unwrap_or(u64::MAX),
        Err(error) => {
            warn!("the limit of open files stays as it is: {error}");
            before.unwrap_or(u64::MAX)
        }
    }
}

/// So many calls find room below `limit` when there are so many TCP and HTTP connections. A small limit is shared by halves:
/// connections are refused one by one when there is nothing left, and calls must not be.
pub(crate) fn calls_within(limit: u64, connections: u64) -> u64 {
    let others = OTHERS.saturating_add(connections).min(limit / 2);
    (limit - others) / PER_CALL
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_get_what_others_leave_and_at_least_half() {
        for (limit, connections, calls) in [
            (65_536, 2024, 10_542),
            (20_000, 2024, 2953),
            (1024, 2024, 85),
            (0, 2024, 0),
            (u64::MAX, u64::MAX, u64::MAX / 2 / PER_CALL),
        ] {
            assert_eq!(calls_within(limit, connections), calls, "{limit}");
        }
    }
}

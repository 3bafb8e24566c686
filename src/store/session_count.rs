//! How many sessions a filter fits.
//!
//! An account may have a million sessions in the days that a list shows. How many of them end in an hour is kept
//! beside them (`session_hours`), in the transaction that creates, changes or ends one: whatever depends on
//! nothing but the account and the end is a sum over hours, and only the parts of an hour at both ends are counted.

use std::ops::Range;

use jiff::Timestamp;

use super::row::{Columns, micros};
use super::session_types::{SessionFilter, SessionState, TimeRange};
use super::sql::{Connection, query};
use super::{Store, StoreError};

const HOUR: i64 = 3_600_000_000;
/// Stored times are after 1970; the last hour is far beyond any of them.
const ALL: Range<i64> = 0..(i64::MAX / HOUR) * HOUR;

/// Counts a session whose end is, in microseconds, `after`, and no longer `before`.
pub(super) async fn count_end(
    connection: &mut Connection,
    account: &str,
    before: Option<i64>,
    after: i64,
) -> Result<(), StoreError> {
    let (before, after) = (before.map(|end| end / HOUR), after / HOUR);
    if before == Some(after) {
        return Ok(());
    }
    for (hour, change) in [(before, -1), (Some(after), 1)] {
        let Some(hour) = hour else { continue };
        query(
            "INSERT INTO session_hours (account, hour, sessions) VALUES ($1, $2, $3)
             ON CONFLICT (account, hour) DO UPDATE SET sessions = session_hours.sessions + excluded.sessions",
        )
        .bind(account)
        .bind(hour)
        .bind(change)
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}

/// The ends that the filter allows, in microseconds, when it asks for nothing else.
pub(super) fn ends_only(filter: &SessionFilter, now: Timestamp) -> Option<Range<i64>> {
    // By name, so that a new condition is not forgotten here.
    let SessionFilter {
        first_party: None,
        second_party: None,
        virtual_number: None,
        subaccount: None,
        state,
        created: TimeRange { from: None, until: None },
        ends,
        duration_s: (None, None),
    } = filter
    else {
        return None;
    };
    let mut range = ends.from.map_or(ALL.start, micros)..ends.until.map_or(ALL.end, micros);
    match state {
        SessionState::Any => {}
        SessionState::Active => range.start = range.start.max(micros(now).saturating_add(1)),
        SessionState::Expired => range.end = range.end.min(micros(now).saturating_add(1)),
        SessionState::InProgress => return None,
    }
    Some(range.start.clamp(ALL.start, ALL.end)..range.end.clamp(ALL.start, ALL.end))
}

impl Store {
    /// How many sessions of the account end within the range.
    pub(super) async fn count_ends(&self, account: &str, ends: Range<i64>) -> Result<u64, StoreError> {
        // The whole hours; outside of them, up to an hour on each side, the sessions themselves are counted.
        let first = ends.start.div_euclid(HOUR) + i64::from(ends.start % HOUR > 0);
        let last = ends.end.div_euclid(HOUR);
        let (first, last) = (first.min(last), last);
        let row = query(
            "SELECT CAST((SELECT COALESCE(SUM(sessions), 0) FROM session_hours
                          WHERE account = $1 AND hour >= $2 AND hour < $3)
                 + (SELECT COUNT(*) FROM sessions WHERE account = $1 AND ends_at >= $4 AND ends_at < $5)
                 + (SELECT COUNT(*) FROM sessions WHERE account = $1 AND ends_at >= $6 AND ends_at < $7)
                 AS BIGINT) AS total",
        )
        .bind(account)
        .bind(first)
        .bind(last)
        .bind(ends.start)
        .bind((first * HOUR).min(ends.end))
        .bind((last * HOUR).max(ends.start))
        .bind(ends.end)
        .fetch_one(self.lists())
        .await?;
        row.unsigned("total")
    }
}

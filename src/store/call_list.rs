//! Lists of legs: those that fit a filter, and those that live.

use jiff::Timestamp;
use uuid::Uuid;

use super::calls::{LegRow, leg_columns, leg_row, leg_tables};
use super::row::{Columns, micros};
use super::sql::{Query, query};
use super::{Store, StoreError, TimeRange};

/// Which legs are listed. What is `None` or empty fits every leg.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LegFilter {
    /// Those of sessions of this sub-account.
    pub subaccount: Option<String>,
    /// Those of this session.
    pub session: Option<Uuid>,
    /// The called party's legs of this leg's call.
    pub parent: Option<Uuid>,
    /// `inbound` or `outbound`.
    pub direction: Option<&'static str>,
    /// Digits of the number that calls on this leg.
    pub from_number: Option<String>,
    /// Digits of the number that is called on this leg.
    pub to_number: Option<String>,
    /// Why it ended.
    pub hangup_cause_code: Option<i64>,
    /// Who ended it.
    pub hangup_source: Option<String>,
    /// Least and most seconds begun since the answer.
    pub talk_s: (Option<i64>, Option<i64>),
    /// When the INVITE came or went.
    pub started: TimeRange,
    /// When it was answered.
    pub answered: TimeRange,
    /// When it ended.
    pub ended: TimeRange,
}

// A leg that came in has attempt 0, one that we placed a higher one.
macro_rules! fits {
    () => {
        " WHERE l.account = $1 \
         AND ($2 IS NULL OR EXISTS \
              (SELECT 1 FROM sessions s WHERE s.uuid = l.session AND s.subaccount = $2)) \
         AND ($3 IS NULL OR l.session = $3) \
         AND ($4 IS NULL OR (l.side = 'B' AND l.interaction IN \
              (SELECT p.interaction FROM legs p WHERE p.uuid = $4 AND p.side = 'A'))) \
         AND ($5 IS NULL OR ($5 = 'inbound' AND l.attempt = 0) OR ($5 = 'outbound' AND l.attempt > 0)) \
         AND ($6 IS NULL OR (l.attempt = 0 AND l.party = $6) OR (l.attempt > 0 AND l.virtual_number = $6)) \
         AND ($7 IS NULL OR (l.attempt > 0 AND l.party = $7) OR (l.attempt = 0 AND l.virtual_number = $7)) \
         AND ($8 IS NULL OR l.hangup_cause_code = $8) AND ($9 IS NULL OR LOWER(l.hangup_source) = $9) \
         AND ($10 IS NULL OR COALESCE(((l.ended_at - l.answered_at) / 1000 + 999) / 1000, 0) >= $10) \
         AND ($11 IS NULL OR COALESCE(((l.ended_at - l.answered_at) / 1000 + 999) / 1000, 0) <= $11) \
         AND ($12 IS NULL OR l.started_at >= $12) AND ($13 IS NULL OR l.started_at < $13) \
         AND ($14 IS NULL OR l.answered_at >= $14) AND ($15 IS NULL OR l.answered_at < $15) \
         AND ($16 IS NULL OR l.ended_at >= $16) AND ($17 IS NULL OR l.ended_at < $17)"
    };
}

macro_rules! of_subaccount {
    () => {
        " AND ($2 IS NULL OR EXISTS \
         (SELECT 1 FROM sessions s WHERE s.uuid = l.session AND s.subaccount = $2))"
    };
}

impl Store {
    /// The account's legs that fit, newest first, and how many there are.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn find_legs(
        &self,
        account: &str,
        filter: &LegFilter,
        limit: u32,
        offset: u64,
    ) -> Result<(Vec<LegRow>, u64), StoreError> {
        const LIST: &str = concat!(
            "SELECT ",
            leg_columns!(),
            " FROM",
            leg_tables!(),
            fits!(),
            " ORDER BY l.started_at DESC, l.uuid LIMIT $18 OFFSET $19"
        );
        const COUNT: &str = concat!("SELECT COUNT(*) AS total FROM legs l", fits!());
        let rows = bind(query(LIST), account, filter)
            .bind(i64::from(limit))
            .bind(i64::try_from(offset).unwrap_or(i64::MAX))
            .fetch_all(self.readers())
            .await?;
        let total = bind(query(COUNT), account, filter).fetch_one(self.readers()).await?;
        Ok((rows.iter().map(leg_row).collect::<Result<_, _>>()?, total.unsigned("total")?))
    }

    /// The account's legs that have not ended, newest first.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn live_legs(
        &self,
        account: &str,
        subaccount: Option<&str>,
        limit: u32,
        offset: u64,
    ) -> Result<Vec<Uuid>, StoreError> {
        const LIVE: &str = concat!(
            "SELECT l.uuid FROM legs l WHERE l.ended_at IS NULL AND l.account = $1",
            of_subaccount!(),
            " ORDER BY l.started_at DESC, l.uuid LIMIT $3 OFFSET $4"
        );
        let rows = query(LIVE)
            .bind(account)
            .bind(subaccount)
            .bind(i64::from(limit))
            .bind(i64::try_from(offset).unwrap_or(i64::MAX))
            .fetch_all(self.readers())
            .await?;
        rows.iter().map(|row| row.uuid("uuid")).collect()
    }

    /// The account's leg; of the sub-account's sessions only, when one is given.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn leg_of(
        &self,
        account: &str,
        subaccount: Option<&str>,
        leg: Uuid,
    ) -> Result<Option<LegRow>, StoreError> {
        const FIND: &str = concat!(
            "SELECT ",
            leg_columns!(),
            " FROM",
            leg_tables!(),
            " WHERE l.account = $1",
            of_subaccount!(),
            " AND l.uuid = $3"
        );
        let row = query(FIND)
            .bind(account)
            .bind(subaccount)
            .bind(leg.to_string())
            .fetch_optional(self.readers())
            .await?;
        row.as_ref().map(leg_row).transpose()
    }
}

fn bind<'q>(query: Query<'q>, account: &'q str, filter: &'q LegFilter) -> Query<'q> {
    let at = |time: Option<Timestamp>| time.map(micros);
    query
        .bind(account)
        .bind(&filter.subaccount)
        .bind(filter.session.map(|uuid| uuid.to_string()))
        .bind(filter.parent.map(|uuid| uuid.to_string()))
        .bind(filter.direction)
        .bind(&filter.from_number)
        .bind(&filter.to_number)
        .bind(filter.hangup_cause_code)
        .bind(filter.hangup_source.as_ref().map(|source| source.to_ascii_lowercase()))
        .bind(filter.talk_s.0)
        .bind(filter.talk_s.1)
        .bind(at(filter.started.from))
        .bind(at(filter.started.until))
        .bind(at(filter.answered.from))
        .bind(at(filter.answered.until))
        .bind(at(filter.ended.from))
        .bind(at(filter.ended.until))
}

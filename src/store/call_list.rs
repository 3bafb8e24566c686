//! Lists of legs: those that fit a filter, and those that live.

use jiff::Timestamp;
use uuid::Uuid;

use super::calls::{LegRow, leg_columns, leg_row, leg_tables};
use super::conditions::{Conditions, Span};
use super::hours::{List, Page, Shape};
use super::row::{Columns, micros};
use super::sql::{Query, query};
use super::{Store, StoreError, TimeRange};
use crate::clock;

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

/// A call ends within a day of its beginning, if a little later; and clocks are set. So much further a list by a later
/// time looks back, and so much further ahead.
const LONGEST_CALL: i64 = 2 * 86_400_000_000;
const CLOCK_STEP: i64 = 86_400_000_000;

const SHAPE: Shape = Shape {
    rows: concat!("SELECT ", leg_columns!(), " FROM", leg_tables!()),
    table: "legs l",
    uuid: "l.uuid",
    time: "l.started_at",
    order: "l.started_at DESC, l.uuid",
};

const OF_SUBACCOUNT: &str = "EXISTS (SELECT 1 FROM sessions s WHERE s.uuid = l.session AND s.subaccount = ?)";

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
        self.find_legs_at(account, filter, limit, offset, clock::wall_now()).await
    }

    pub(super) async fn find_legs_at(
        &self,
        account: &str,
        filter: &LegFilter,
        limit: u32,
        offset: u64,
        now: Timestamp,
    ) -> Result<(Vec<LegRow>, u64), StoreError> {
        let page = Page { limit: limit.into(), offset };
        let (rows, total) = if filter.session.is_some() || filter.parent.is_some() {
            self.short_list(SHAPE, legs_of_call(account, filter), page).await?
        } else {
            self.long_list(&legs_of_account(account, filter), page, micros(now)).await?
        };
        Ok((rows.iter().map(leg_row).collect::<Result<_, _>>()?, total))
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
        let rows = live(account, subaccount, limit, offset).fetch_all(self.lists()).await?;
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
            " WHERE l.account = $1 AND ($2 IS NULL OR EXISTS \
             (SELECT 1 FROM sessions s WHERE s.uuid = l.session AND s.subaccount = $2)) AND l.uuid = $3"
        );
        let row = query(FIND).bind(account).bind(subaccount).bind(leg).fetch_optional(self.readers()).await?;
        row.as_ref().map(leg_row).transpose()
    }
}

/// Legs of one session or call: a handful, whatever else is asked. What belongs to a session is known by its calls, so
/// that no leg needs a place in one more index.
pub(super) fn legs_of_call<'q>(account: &'q str, filter: &'q LegFilter) -> Conditions<'q> {
    let mut all = Conditions::default();
    all.and("l.account || '' = ?", Some(account));
    all.and(
        "l.session = ? AND l.interaction IN (SELECT i.uuid FROM interactions i WHERE i.session = ?)",
        filter.session,
    );
    all.and(
        "l.side = 'B' AND l.interaction IN (SELECT p.interaction FROM legs p WHERE p.uuid = ? AND p.side = 'A')",
        filter.parent,
    );
    all.within("+l.started_at", filter.started.into());
    fit(all, filter)
}

/// All others, in the order of their beginning.
pub(super) fn legs_of_account<'q>(account: &'q str, filter: &'q LegFilter) -> List<'q> {
    let mut whole = Conditions::default();
    whole.and("l.account = ?", Some(account));
    let mut within = Span::from(filter.started);
    for later in [Span::from(filter.answered), Span::from(filter.ended)] {
        within.from = within.from.max(later.from.map(|from| from.saturating_sub(LONGEST_CALL)));
        let until = later.until.map(|until| until.saturating_add(CLOCK_STEP));
        within.until = [within.until, until].into_iter().flatten().min();
    }
    List { shape: SHAPE, fit: fit(whole.clone(), filter), whole, within }
}

/// A leg that came in has attempt 0, one that we placed a higher one.
fn fit<'q>(mut all: Conditions<'q>, filter: &'q LegFilter) -> Conditions<'q> {
    const TALK_AT_LEAST: &str = "COALESCE(((l.ended_at - l.answered_at) / 1000 + 999) / 1000, 0) >= ?";
    const TALK_AT_MOST: &str = "COALESCE(((l.ended_at - l.answered_at) / 1000 + 999) / 1000, 0) <= ?";
    all.and(OF_SUBACCOUNT, filter.subaccount.as_deref());
    match filter.direction {
        None => {}
        Some("inbound") => all.also("l.attempt = 0"),
        Some(_) => all.also("l.attempt > 0"),
    }
    all.and(
        "((l.attempt = 0 AND l.party = ?) OR (l.attempt > 0 AND l.virtual_number = ?))",
        filter.from_number.as_deref(),
    );
    all.and(
        "((l.attempt > 0 AND l.party = ?) OR (l.attempt = 0 AND l.virtual_number = ?))",
        filter.to_number.as_deref(),
    );
    all.and("l.hangup_cause_code = ?", filter.hangup_cause_code);
    let source = filter.hangup_source.as_ref().map(|source| source.to_ascii_lowercase());
    all.and("LOWER(l.hangup_source) = ?", source);
    all.and(TALK_AT_LEAST, filter.talk_s.0);
    all.and(TALK_AT_MOST, filter.talk_s.1);
    all.within("l.answered_at", filter.answered.into());
    all.within("l.ended_at", filter.ended.into());
    all
}

pub(super) fn live<'q>(account: &'q str, subaccount: Option<&'q str>, limit: u32, offset: u64) -> Query<'q> {
    let mut fit = Conditions::default();
    fit.and("l.account = ?", Some(account));
    fit.also("l.ended_at IS NULL");
    fit.and(OF_SUBACCOUNT, subaccount);
    let (limit, offset) = (fit.push(i64::from(limit)), fit.push(i64::try_from(offset).unwrap_or(i64::MAX)));
    let sql = format!(
        "SELECT l.uuid FROM legs l WHERE {} ORDER BY l.started_at DESC, l.uuid LIMIT ${limit} OFFSET ${offset}",
        fit.sql()
    );
    fit.statement(sql)
}

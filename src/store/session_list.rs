//! Lists of sessions.
//!
//! A statement is put together of the conditions that a filter has: one statement for all filters, with conditions
//! that may be absent, could use no index.

use jiff::Timestamp;
use sqlx::AssertSqlSafe;

use super::row::{Columns, micros};
use super::session_count::ends_only;
use super::session_row::{columns, session};
use super::session_types::{SessionFilter, SessionPage, SessionState};
use super::sql::{Query, Value, query};
use super::{Store, StoreError};
use crate::number::{Did, E164};

impl Store {
    /// The sessions that fit `filter`, newest first.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn list_sessions(
        &self,
        account: &str,
        filter: &SessionFilter,
        limit: u32,
        offset: u64,
        now: Timestamp,
    ) -> Result<SessionPage, StoreError> {
        let total = match ends_only(filter, now) {
            Some(ends) => self.count_ends(account, ends).await?,
            None => {
                let count = Conditions::new(account, filter, now, Use::Count);
                let count = count.query("SELECT COUNT(*) AS total FROM sessions WHERE ", None);
                count.fetch_one(self.readers()).await?.unsigned("total")?
            }
        };
        // Few are found by what they have in common and sorted; of many the newest are soon met.
        let index = if total <= SORTED { Use::Count } else { Use::Order };
        let page = Conditions::new(account, filter, now, index).query(
            concat!("SELECT ", columns!(), " FROM sessions WHERE "),
            Some((limit, i64::try_from(offset).unwrap_or(i64::MAX))),
        );
        let rows = page.fetch_all(self.readers()).await?;
        Ok(SessionPage { sessions: rows.iter().map(session).collect::<Result<_, _>>()?, total })
    }
}

/// So many sessions are sorted for a page; of more, the newest are looked through.
const SORTED: u64 = 5000;

/// What an index is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    /// The order: what fits is too much to be sorted.
    Order,
    /// What fits.
    Count,
}

/// What must be true of a session, with the values in the order of their `$n`. No value gets into the text.
///
/// SQLite knows nothing of how many rows a condition leaves, so it is told: a condition with a unary plus, or on
/// `account || ''`, chooses no index.
struct Conditions<'q> {
    sql: String,
    values: Vec<Value<'q>>,
}

impl<'q> Conditions<'q> {
    fn new(account: &'q str, filter: &'q SessionFilter, now: Timestamp, index: Use) -> Self {
        // A party or a live call leaves a handful, whatever else is asked; a number or a sub-account few enough.
        let handful = filter.first_party.is_some()
            || filter.second_party.is_some()
            || filter.state == SessionState::InProgress;
        let few = handful || filter.virtual_number.is_some() || filter.subaccount.is_some();
        let mut all = Self { sql: String::new(), values: vec![] };
        all.and(if handful { "account || '' =" } else { "account =" }, Some(account));
        all.and("first_party =", filter.first_party.as_ref().map(E164::digits));
        all.and("second_party =", filter.second_party.as_ref().map(E164::digits));
        all.and(
            if handful { "virtual_number || '' =" } else { "virtual_number =" },
            filter.virtual_number.as_ref().map(Did::digits),
        );
        all.and(if handful { "subaccount || '' =" } else { "subaccount =" }, filter.subaccount.as_deref());
        let [created_from, created_until] =
            if handful { ["+created_at >=", "+created_at <"] } else { ["created_at >=", "created_at <"] };
        all.and(created_from, filter.created.from.map(micros));
        all.and(created_until, filter.created.until.map(micros));
        let plain = index == Use::Count && !few;
        let range = |plus, without| if plain { without } else { plus };
        // A session that was deleted ends at its deletion, so this is all that activity depends on.
        let now = Some(micros(now));
        match filter.state {
            SessionState::Any => {}
            SessionState::Active => all.and(range("+ends_at >", "ends_at >"), now),
            SessionState::Expired => all.and(range("+ends_at <=", "ends_at <="), now),
            SessionState::InProgress => {
                all.and("+ends_at >", now);
                all.sql += " AND uuid IN (SELECT session FROM interactions \
                            WHERE ended_at IS NULL AND session IS NOT NULL)";
            }
        }
        all.and(range("+ends_at >=", "ends_at >="), filter.ends.from.map(micros));
        all.and(range("+ends_at <", "ends_at <"), filter.ends.until.map(micros));
        let [at_least, at_most] = if plain {
            ["(expires_at - created_at) / 1000000 >=", "(expires_at - created_at) / 1000000 <="]
        } else {
            ["+(expires_at - created_at) / 1000000 >=", "+(expires_at - created_at) / 1000000 <="]
        };
        all.and(at_least, filter.duration_s.0);
        all.and(at_most, filter.duration_s.1);
        all
    }

    /// `condition` stands before its value, if there is one.
    fn and(&mut self, condition: &'static str, value: Option<impl Into<Value<'q>>>) {
        let Some(value) = value else { return };
        self.values.push(value.into());
        let and = if self.sql.is_empty() { "" } else { " AND " };
        self.sql += &format!("{and}{condition} ${}", self.values.len());
    }

    /// The whole statement; with limit and offset: newest first.
    fn query(self, what: &'static str, page: Option<(u32, i64)>) -> Query<'q> {
        let Self { mut sql, mut values } = self;
        if let Some((limit, offset)) = page {
            values.extend([i64::from(limit).into(), offset.into()]);
            let (limit, offset) = (values.len() - 1, values.len());
            sql += &format!(" ORDER BY created_at DESC, uuid LIMIT ${limit} OFFSET ${offset}");
        }
        // Only literals of this file and places of values are in it.
        values.into_iter().fold(query(AssertSqlSafe(what.to_owned() + &sql)), Query::bind)
    }
}

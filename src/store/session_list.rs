//! Lists of sessions.
//!
//! A statement is put together of the conditions that a filter has: one statement for all filters, with conditions
//! that may be absent, could use no index.

use jiff::Timestamp;
use sqlx::AssertSqlSafe;

use super::row::{Columns, micros};
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
        let mut page = Conditions::new(account);
        page.add(filter, now, Use::Order);
        let page = page.query(
            concat!("SELECT ", columns!(), " FROM sessions WHERE "),
            Some((limit, i64::try_from(offset).unwrap_or(i64::MAX))),
        );
        let rows = page.fetch_all(self.readers()).await?;
        let mut count = Conditions::new(account);
        count.add(filter, now, Use::Count);
        let count = count.query("SELECT COUNT(*) AS total FROM sessions WHERE ", None);
        let total = count.fetch_one(self.readers()).await?;
        Ok(SessionPage {
            sessions: rows.iter().map(session).collect::<Result<_, _>>()?,
            total: total.unsigned("total")?,
        })
    }
}

/// What an index is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    /// The order of the page. Ranges fit too many sessions to be sorted, so they must not choose the index: the
    /// unary plus keeps them from it.
    Order,
    /// The number of sessions.
    Count,
}

/// What must be true of a session, with the values in the order of their `$n`. No value gets into the text.
struct Conditions<'q> {
    sql: String,
    values: Vec<Value<'q>>,
}

impl<'q> Conditions<'q> {
    fn new(account: &'q str) -> Self {
        Self { sql: "account = $1".to_owned(), values: vec![account.into()] }
    }

    /// `condition` stands before its value, if there is one.
    fn and(&mut self, condition: &'static str, value: Option<impl Into<Value<'q>>>) {
        if let Some(value) = value {
            self.values.push(value.into());
            self.sql += &format!(" AND {condition} ${}", self.values.len());
        }
    }

    fn add(&mut self, filter: &'q SessionFilter, now: Timestamp, index: Use) {
        self.and("first_party =", filter.first_party.as_ref().map(E164::digits));
        self.and("second_party =", filter.second_party.as_ref().map(E164::digits));
        self.and("virtual_number =", filter.virtual_number.as_ref().map(Did::digits));
        self.and("subaccount =", filter.subaccount.as_deref());
        self.and("created_at >=", filter.created.from.map(micros));
        self.and("created_at <", filter.created.until.map(micros));
        let ends = |by_order, by_count| if index == Use::Order { by_order } else { by_count };
        // A session that was deleted ends at its deletion, so this is all that activity depends on.
        let now = Some(micros(now));
        match filter.state {
            SessionState::Any => {}
            SessionState::Active => self.and(ends("+ends_at >", "ends_at >"), now),
            SessionState::Expired => self.and(ends("+ends_at <=", "ends_at <="), now),
            SessionState::InProgress => {
                self.and("ends_at >", now);
                self.sql += " AND uuid IN (SELECT session FROM interactions \
                             WHERE ended_at IS NULL AND session IS NOT NULL)";
            }
        }
        self.and(ends("+ends_at >=", "ends_at >="), filter.ends.from.map(micros));
        self.and(ends("+ends_at <", "ends_at <"), filter.ends.until.map(micros));
        self.and("(expires_at - created_at) / 1000000 >=", filter.duration_s.0);
        self.and("(expires_at - created_at) / 1000000 <=", filter.duration_s.1);
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

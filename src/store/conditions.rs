//! What must be true of the rows of a list.
//!
//! A statement is put together of the conditions that a filter has: one statement for all filters, with conditions
//! that may be absent, could use no index.
//!
//! SQLite knows nothing of how many rows a condition leaves, so it is told: a condition with a unary plus, or on
//! `account || ''`, chooses no index.

use sqlx::AssertSqlSafe;

use super::TimeRange;
use super::row::micros;
use super::sql::{Query, Value, query};

/// From one time, in microseconds, until before another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Span {
    pub(super) from: Option<i64>,
    pub(super) until: Option<i64>,
}

impl From<TimeRange> for Span {
    fn from(range: TimeRange) -> Self {
        Self { from: range.from.map(micros), until: range.until.map(micros) }
    }
}

/// Conditions, with their values in the order of their `$n`. No value gets into the text.
#[derive(Debug, Clone, Default)]
pub(super) struct Conditions<'q> {
    sql: String,
    values: Vec<Value<'q>>,
}

impl<'q> Conditions<'q> {
    /// `condition`, in which each `?` stands for the value; nothing when there is none.
    pub(super) fn and(&mut self, condition: &'static str, value: Option<impl Into<Value<'q>>>) {
        let Some(value) = value else { return };
        let place = format!("${}", self.push(value));
        self.add(&condition.replace('?', &place));
    }

    /// A condition without a value.
    pub(super) fn also(&mut self, condition: &'static str) {
        self.add(condition);
    }

    /// `column` lies within the span.
    pub(super) fn within(&mut self, column: &'static str, span: Span) {
        for (sign, bound) in [(">=", span.from), ("<", span.until)] {
            let Some(bound) = bound else { continue };
            let place = self.push(bound);
            self.add(&format!("{column} {sign} ${place}"));
        }
    }

    fn add(&mut self, condition: &str) {
        if !self.sql.is_empty() {
            self.sql += " AND ";
        }
        self.sql += condition;
    }

    /// Adds a value and says which `$n` it is.
    pub(super) fn push(&mut self, value: impl Into<Value<'q>>) -> usize {
        self.values.push(value.into());
        self.values.len()
    }

    pub(super) fn sql(&self) -> &str {
        &self.sql
    }

    pub(super) fn values(&self) -> &[Value<'q>] {
        &self.values
    }

    /// `sql` with these values. It must be made of literals, of [`Self::sql`] and of places of values only.
    pub(super) fn statement(self, sql: String) -> Query<'q> {
        self.values.into_iter().fold(query(AssertSqlSafe(sql)), Query::bind)
    }
}

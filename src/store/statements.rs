//! Statements of many rows. A statement costs a way to the server and back, and two wake-ups of the thread that asked
//! for it, whatever its rows; so what comes in numbers is asked for and written by few of them.

use super::sql::{Query, query, wide_query};

/// One statement for each of these numbers of rows, so that few texts serve every batch. A statement costs two wake-ups of
/// the thread that asked for it, whatever its rows.
const ROWS: [usize; 6] = [32, 16, 8, 4, 2, 1];

pub(super) struct Statements([Statement; ROWS.len()]);

/// The text for so many rows, with `$n` and with `?` for its values.
struct Statement {
    rows: usize,
    numbered: String,
    plain: String,
}

impl Statements {
    /// `statement` makes the text around `VALUES ($1, …), (…)`, each row `width` values wide.
    pub(super) fn new(width: usize, statement: impl Fn(&str) -> String) -> Self {
        let values = |rows: usize, value: &dyn Fn(usize) -> String| {
            let row =
                |row| (1..=width).map(|column| value(row * width + column)).collect::<Vec<_>>().join(", ");
            let rows: Vec<String> = (0..rows).map(|number| format!("({})", row(number))).collect();
            format!("VALUES {}", rows.join(", "))
        };
        Self(ROWS.map(|rows| Statement {
            rows,
            numbered: statement(&values(rows, &|number| format!("${number}"))),
            plain: statement(&values(rows, &|_| "?".to_owned())),
        }))
    }

    /// An upsert. `always`: columns that the first write gives for good, the key in front; `columns`: those that
    /// a later one may complete.
    pub(super) fn upsert(table: &str, always: &[&str], columns: &[&str]) -> Self {
        let names = [always, columns].concat();
        let key = always.first().copied().unwrap_or_default();
        let updates: Vec<String> = columns
            .iter()
            .map(|name| format!("{name} = COALESCE(excluded.{name}, {table}.{name})"))
            .collect();
        Self::new(names.len(), |values| {
            let (names, updates) = (names.join(", "), updates.join(", "));
            format!("INSERT INTO {table} ({names}) {values} ON CONFLICT ({key}) DO UPDATE SET {updates}")
        })
    }

    /// The statement for the next of `left` rows, and how many it takes.
    pub(super) fn next<'q>(&'static self, left: usize) -> (Query<'q>, usize) {
        let fitting = self.0.iter().find(|statement| statement.rows <= left);
        fitting.map_or((query(""), left), |fit| (wide_query(&fit.numbered, &fit.plain), fit.rows))
    }

    /// The statements for all of `rows`, whose values `bind` gives.
    pub(super) fn all<'q, R>(
        &'static self,
        rows: impl ExactSizeIterator<Item = R>,
        bind: impl Fn(Query<'q>, R) -> Query<'q>,
    ) -> Vec<Query<'q>> {
        let mut rows = rows;
        let mut queries = vec![];
        while rows.len() > 0 {
            let (query, count) = self.next(rows.len());
            queries.push(rows.by_ref().take(count).fold(query, &bind));
        }
        queries
    }
}

//! Long lists: rows of an account in the order of a time, of which there may be a million.
//!
//! A page needs two things that a walk over all rows would give: how many rows there are, and, far from the newest or
//! where few rows fit, where those of the page are. Both are known from how many fit in each hour. What is over for more
//! than an hour hardly changes, so its sum is remembered for a while; the newest hour or two, and the part of an hour at
//! the old end, are counted for every page, in the index.
//!
//! What does change in an old hour is a record that a failing database has held up, the end of a call of hours, a
//! delivery after many tries. A sum counts for a sixtieth of the age of its hour, ten minutes at most: so late a
//! list shows it. What the API itself changes makes its list be counted anew ([`Hours::forget`]). Lists of few rows
//! are counted each time.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::conditions::{Conditions, Span};
use super::row::Columns;
use super::sql::{Query, Row, Value};
use super::{Store, StoreError};

const HOUR: i64 = 3_600_000_000;
/// So many rows of an account, within the time that is listed, are few. Tests have few.
const FEW: i64 = if cfg!(test) { 50 } else { 10_000 };
/// Hours of which the sums are remembered; what is older is counted each time.
const HOURS: i64 = 366 * 24;
/// Hours that one statement counts: no reader is held for long.
const STEP: i64 = 24;
/// Lists of which sums are remembered; when it is one more, the one that was asked for longest ago is forgotten.
const LISTS: usize = 32;
/// How long a sum counts: this part of its hour's age, and no longer than this.
const BELIEVED: i64 = 60;
const LONGEST_BELIEVED: i64 = 600_000_000;

/// Where a list's rows come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Shape {
    /// `SELECT … FROM …`: what a row is read from.
    pub(super) rows: &'static str,
    /// The table that the conditions are about.
    pub(super) table: &'static str,
    pub(super) uuid: &'static str,
    /// The time that the list is in the order of.
    pub(super) time: &'static str,
    /// Newest first, to the last doubt.
    pub(super) order: &'static str,
}

/// What is listed.
#[derive(Debug)]
pub(super) struct List<'q> {
    pub(super) shape: Shape,
    /// Something whose rows lie in an index in the order of the time, with nothing else between them.
    pub(super) whole: Conditions<'q>,
    /// What fits: `whole` and more.
    pub(super) fit: Conditions<'q>,
    pub(super) within: Span,
}

/// Which part of a list is wanted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Page {
    pub(super) limit: u64,
    pub(super) offset: u64,
}

/// A span, and how many rows of the list are in it.
#[derive(Debug, Clone, Copy)]
struct Part {
    span: Span,
    rows: u64,
}

impl<'q> List<'q> {
    fn within(&self, span: Span, of: &Conditions<'q>) -> Conditions<'q> {
        let mut all = of.clone();
        all.within(self.shape.time, span);
        all
    }

    /// Whether there are more than [`FEW`] rows to look at.
    pub(super) fn size(&self) -> Query<'q> {
        let mut whole = self.within(self.within, &self.whole);
        let few = whole.push(FEW + 1);
        let sql = format!(
            "SELECT COUNT(*) AS total FROM (SELECT 1 FROM {} WHERE {} LIMIT ${few}) AS few",
            self.shape.table,
            whole.sql()
        );
        whole.statement(sql)
    }

    pub(super) fn oldest(&self) -> Query<'q> {
        let Shape { table, time, .. } = self.shape;
        let whole = self.whole.clone();
        let sql = format!("SELECT {time} AS at FROM {table} WHERE {} ORDER BY {time} LIMIT 1", whole.sql());
        whole.statement(sql)
    }

    pub(super) fn count(&self, span: Span) -> Query<'q> {
        count(self.shape, self.within(span, &self.fit))
    }

    /// How many fit in each of the hours.
    pub(super) fn sums(&self, hours: Range<i64>) -> Query<'q> {
        let Shape { table, time, .. } = self.shape;
        let mut fit = self.fit.clone();
        let (first, last) = (fit.push(hours.start), fit.push(hours.end));
        let sql = format!(
            "WITH RECURSIVE hours(hour) AS (SELECT CAST(${first} AS BIGINT)
                 UNION ALL SELECT hour + 1 FROM hours WHERE hour + 1 < ${last})
             SELECT hour, (SELECT COUNT(*) FROM {table} WHERE {} AND {time} >= hours.hour * {HOUR}
                 AND {time} < (hours.hour + 1) * {HOUR}) AS total FROM hours",
            fit.sql()
        );
        fit.statement(sql)
    }

    pub(super) fn page(&self, span: Span, page: Page) -> Query<'q> {
        paged(self.shape, self.within(span, &self.fit), page)
    }
}

fn count(shape: Shape, fit: Conditions<'_>) -> Query<'_> {
    let sql = format!("SELECT COUNT(*) AS total FROM {} WHERE {}", shape.table, fit.sql());
    fit.statement(sql)
}

/// The page is found first, so that nothing is read of the rows before it but their place.
pub(super) fn paged(shape: Shape, mut fit: Conditions<'_>, page: Page) -> Query<'_> {
    let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let (limit, offset) = (fit.push(number(page.limit)), fit.push(number(page.offset)));
    let Shape { rows, table, uuid, order, .. } = shape;
    let sql = format!(
        "{rows} WHERE {uuid} IN (SELECT {uuid} FROM {table} WHERE {} ORDER BY {order} LIMIT ${limit} OFFSET ${offset})
         ORDER BY {order}",
        fit.sql()
    );
    fit.statement(sql)
}

impl Store {
    /// A page of what fits, newest first, and how much there is, when some condition leaves few rows whatever else is
    /// asked.
    pub(super) async fn short_list(
        &self,
        shape: Shape,
        fit: Conditions<'_>,
        page: Page,
    ) -> Result<(Vec<Row>, u64), StoreError> {
        let total = count(shape, fit.clone()).fetch_one(self.lists()).await?.unsigned("total")?;
        Ok((paged(shape, fit, page).fetch_all(self.lists()).await?, total))
    }

    /// A page of the list, and how much there is. `now` in microseconds.
    pub(super) async fn long_list(
        &self,
        list: &List<'_>,
        page: Page,
        now: i64,
    ) -> Result<(Vec<Row>, u64), StoreError> {
        let parts = self.parts(list, now).await?;
        let total = parts.iter().map(|part| part.rows).sum();
        let mut rows = vec![];
        for (span, page) in pieces(&parts, page) {
            rows.extend(list.page(span, page).fetch_all(self.lists()).await?);
        }
        Ok((rows, total))
    }

    /// The list cut into pieces, newest first.
    async fn parts(&self, list: &List<'_>, now: i64) -> Result<Vec<Part>, StoreError> {
        let Span { from, until } = list.within;
        let count = async |span| {
            let rows = list.count(span).fetch_one(self.lists()).await?.unsigned("total")?;
            Ok::<_, StoreError>(Part { span, rows })
        };
        let size: i64 = list.size().fetch_one(self.lists()).await?.unsigned("total")?;
        if size <= FEW {
            return Ok(vec![count(list.within).await?]);
        }
        let oldest = match from {
            Some(from) => from,
            None => list.oldest().fetch_one(self.lists()).await?.integer("at")?,
        };
        // The last hour that is over for an hour, and the first one that is listed as a whole.
        let last = (now.div_euclid(HOUR) - 1).min(until.unwrap_or(i64::MAX).div_euclid(HOUR));
        let first = (oldest.div_euclid(HOUR) + i64::from(oldest.rem_euclid(HOUR) > 0)).max(last - HOURS);
        if first >= last {
            return Ok(vec![count(list.within).await?]);
        }
        let mut parts = vec![count(Span { from: Some(last * HOUR), until }).await?];
        for (hour, rows) in self.sums(list, first..last, now).await?.into_iter().rev() {
            let span = Span { from: Some(hour * HOUR), until: Some((hour + 1) * HOUR) };
            parts.push(Part { span, rows });
        }
        parts.push(count(Span { from, until: Some(first * HOUR) }).await?);
        Ok(parts)
    }

    /// How many fit in each of the hours: as it is remembered, or counted.
    async fn sums(
        &self,
        list: &List<'_>,
        hours: Range<i64>,
        now: i64,
    ) -> Result<BTreeMap<i64, u64>, StoreError> {
        let key = Key::of(list);
        let (generation, mut sums) = self.inner.hours.known(&key, &hours, now);
        let mut next = hours.start;
        while let Some(first) = (next..hours.end).find(|hour| !sums.contains_key(hour)) {
            let end = hours.end.min(first + STEP);
            next = (first..end).find(|hour| sums.contains_key(hour)).unwrap_or(end);
            let rows = list.sums(first..next).fetch_all(self.lists()).await?;
            let counted: Vec<(i64, u64)> = rows
                .iter()
                .map(|row| Ok((row.integer("hour")?, row.unsigned("total")?)))
                .collect::<Result<_, StoreError>>()?;
            self.inner.hours.remember(&key, generation, &counted, now);
            sums.extend(counted);
        }
        Ok(sums)
    }
}

/// Where the page's rows are: neighbours are read together, and what lies between is not looked at.
fn pieces(parts: &[Part], page: Page) -> Vec<(Span, Page)> {
    let mut pieces: Vec<(Span, Page)> = vec![];
    let Page { limit: mut wanted, offset: mut skip } = page;
    for part in parts {
        if wanted == 0 {
            break;
        }
        if skip >= part.rows {
            skip -= part.rows;
            continue;
        }
        let taken = (part.rows - skip).min(wanted);
        match pieces.last_mut() {
            Some((span, page)) if span.from.is_some() && span.from == part.span.until => {
                span.from = part.span.from;
                page.limit += taken;
            }
            _ => pieces.push((part.span, Page { limit: taken, offset: skip })),
        }
        (wanted, skip) = (wanted - taken, 0);
    }
    pieces
}

/// Which list: where it comes from, its conditions and their values. What numbers these hold is printed nowhere.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    table: &'static str,
    sql: String,
    values: Vec<Value<'static>>,
}

impl Key {
    fn of(list: &List<'_>) -> Self {
        let values = list.fit.values().iter().cloned().map(Value::into_owned).collect();
        Self { table: list.shape.table, sql: list.fit.sql().to_owned(), values }
    }
}

/// The sums that are remembered.
#[derive(Default)]
pub(super) struct Hours {
    memory: Mutex<Memory>,
}

#[derive(Default)]
struct Memory {
    /// Raised by whatever makes sums wrong: what was counted before is not kept.
    generation: u64,
    lists: HashMap<Key, Sums>,
}

#[derive(Default)]
struct Sums {
    asked_at: i64,
    of_hour: BTreeMap<i64, Sum>,
}

#[derive(Clone, Copy)]
struct Sum {
    rows: u64,
    believed_until: i64,
}

impl Hours {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The sums that still count, and the generation that what is counted now belongs to.
    fn known(&self, key: &Key, hours: &Range<i64>, now: i64) -> (u64, BTreeMap<i64, u64>) {
        let mut memory = self.memory();
        let generation = memory.generation;
        let Some(sums) = memory.lists.get_mut(key) else { return (generation, BTreeMap::new()) };
        sums.asked_at = now;
        // What a list no longer reaches back to.
        sums.of_hour.retain(|hour, _| *hour >= now.div_euclid(HOUR) - HOURS - 2);
        let believed = sums.of_hour.range(hours.clone()).filter(|(_, sum)| now < sum.believed_until);
        (generation, believed.map(|(hour, sum)| (*hour, sum.rows)).collect())
    }

    fn remember(&self, key: &Key, generation: u64, counted: &[(i64, u64)], now: i64) {
        let mut memory = self.memory();
        if memory.generation != generation {
            return;
        }
        if memory.lists.len() >= LISTS && !memory.lists.contains_key(key) {
            let idle = memory.lists.iter().min_by_key(|(_, sums)| sums.asked_at).map(|(key, _)| key.clone());
            idle.and_then(|key| memory.lists.remove(&key));
        }
        let sums = memory.lists.entry(key.clone()).or_default();
        sums.asked_at = now;
        for (hour, rows) in counted {
            let age = now.saturating_sub((hour + 1).saturating_mul(HOUR));
            let believed_until = now.saturating_add((age / BELIEVED).min(LONGEST_BELIEVED));
            sums.of_hour.insert(*hour, Sum { rows: *rows, believed_until });
        }
    }

    /// Something of the lists of this table has changed that may be old. To be said after the commit.
    pub(super) fn forget(&self, table: &str) {
        let mut memory = self.memory();
        memory.generation += 1;
        memory.lists.retain(|key, _| key.table != table);
    }
}

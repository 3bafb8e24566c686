//! Lists of sessions.
//!
//! What is active now may be most of an account's sessions, and the newest. So that those that have ended are listed
//! without a walk past them, they have an index of their own, in the order of the list: each gets into it when somebody
//! notices that it is over (`timeout_told`). Those of the last second or so have not got there yet and are merged in.

use jiff::Timestamp;

use super::conditions::Conditions;
use super::row::{Columns, micros};
use super::session_count::ends_only;
use super::session_row::{columns, session};
use super::session_types::{SessionFilter, SessionPage, SessionState};
use super::sql::Query;
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
        let conditions = |index| conditions(account, filter, now, index);
        let total = match ends_only(filter, now) {
            Some(ends) => self.count_ends(account, ends).await?,
            None => {
                let count = conditions(Use::Count);
                let sql = format!("SELECT COUNT(*) AS total FROM sessions WHERE {}", count.sql());
                count.statement(sql).fetch_one(self.lists()).await?.unsigned("total")?
            }
        };
        let page = Page { limit, offset: i64::try_from(offset).unwrap_or(i64::MAX) };
        // Few are found by what they have in common and sorted; of many the newest are soon met.
        let page = if total <= SORTED {
            paged(conditions(Use::Count), page)
        } else if is_of_the_past(filter, now) {
            merged(conditions(Use::Over), &conditions(Use::Unnoticed), page)
        } else {
            paged(conditions(Use::Order), page)
        };
        let rows = page.fetch_all(self.lists()).await?;
        Ok(SessionPage { sessions: rows.iter().map(session).collect::<Result<_, _>>()?, total })
    }
}

/// So many sessions are sorted for a page; of more, the newest are looked through. Tests have few.
const SORTED: u64 = if cfg!(test) { 50 } else { 5000 };

/// So many sessions from a place on.
#[derive(Debug, Clone, Copy)]
struct Page {
    limit: u32,
    offset: i64,
}

/// What an index is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    /// The order: what fits is too much to be sorted.
    Order,
    /// What fits.
    Count,
    /// The order, of sessions of which it was noticed that they are over.
    Over,
    /// The others that are over, few at any time.
    Unnoticed,
}

/// Whether all that fit have ended.
fn is_of_the_past(filter: &SessionFilter, now: Timestamp) -> bool {
    filter.state == SessionState::Expired || filter.ends.until.is_some_and(|until| until <= now)
}

/// What must be true of a session. A condition that is to choose no index is written as [`Conditions`] says.
fn conditions<'q>(account: &'q str, filter: &'q SessionFilter, now: Timestamp, index: Use) -> Conditions<'q> {
    // A party or a live call leaves a handful, whatever else is asked; a number or a sub-account few enough.
    let handful = filter.first_party.is_some()
        || filter.second_party.is_some()
        || filter.state == SessionState::InProgress;
    let few = handful || filter.virtual_number.is_some() || filter.subaccount.is_some();
    // Something else leaves far less than these do.
    let handful = handful || index == Use::Unnoticed;
    let mut all = Conditions::default();
    all.and(if handful { "account || '' = ?" } else { "account = ?" }, Some(account));
    all.and("first_party = ?", filter.first_party.as_ref().map(E164::digits));
    all.and("second_party = ?", filter.second_party.as_ref().map(E164::digits));
    all.and(
        if handful { "virtual_number || '' = ?" } else { "virtual_number = ?" },
        filter.virtual_number.as_ref().map(Did::digits),
    );
    all.and(if handful { "subaccount || '' = ?" } else { "subaccount = ?" }, filter.subaccount.as_deref());
    all.within(if handful { "+created_at" } else { "created_at" }, filter.created.into());
    let plain = (index == Use::Count && !few) || index == Use::Unnoticed;
    let range = |plus, without| if plain { without } else { plus };
    // A session that was deleted ends at its deletion, so this is all that activity depends on.
    let now = Some(micros(now));
    match filter.state {
        SessionState::Any => {}
        SessionState::Active => all.and(range("+ends_at > ?", "ends_at > ?"), now),
        SessionState::Expired => all.and(range("+ends_at <= ?", "ends_at <= ?"), now),
        SessionState::InProgress => {
            all.and("+ends_at > ?", now);
            all.also(
                "uuid IN (SELECT session FROM interactions WHERE ended_at IS NULL AND session IS NOT NULL)",
            );
        }
    }
    all.within(range("+ends_at", "ends_at"), filter.ends.into());
    match index {
        Use::Order | Use::Count => {}
        Use::Over => all.also("timeout_told = 1"),
        Use::Unnoticed => all.also("timeout_told = 0"),
    }
    let [at_least, at_most] = if plain {
        ["(expires_at - created_at) / 1000000 >= ?", "(expires_at - created_at) / 1000000 <= ?"]
    } else {
        ["+(expires_at - created_at) / 1000000 >= ?", "+(expires_at - created_at) / 1000000 <= ?"]
    };
    all.and(at_least, filter.duration_s.0);
    all.and(at_most, filter.duration_s.1);
    all
}

/// A page of what fits, newest first.
fn paged(mut fit: Conditions<'_>, page: Page) -> Query<'_> {
    let (limit, offset) = (fit.push(i64::from(page.limit)), fit.push(page.offset));
    let sql = format!(
        "SELECT {columns} FROM sessions WHERE {} ORDER BY created_at DESC, uuid LIMIT ${limit} OFFSET ${offset}",
        fit.sql(),
        columns = columns!(),
    );
    fit.statement(sql)
}

/// A page of what fits one or the other of two conditions on the same values.
fn merged<'q>(mut one: Conditions<'q>, other: &Conditions<'q>, page: Page) -> Query<'q> {
    let noticed = one.sql().to_owned();
    let reach = one.push(page.offset.saturating_add(i64::from(page.limit)));
    let (limit, offset) = (one.push(i64::from(page.limit)), one.push(page.offset));
    let newest = |name, conditions| {
        format!(
            "SELECT * FROM (SELECT uuid, created_at FROM sessions WHERE {conditions}
                            ORDER BY created_at DESC, uuid LIMIT ${reach}) AS {name}"
        )
    };
    let sql = format!(
        "SELECT {columns} FROM sessions WHERE uuid IN
             (SELECT uuid FROM ({one} UNION ALL {other}) AS ended
              ORDER BY created_at DESC, uuid LIMIT ${limit} OFFSET ${offset})
         ORDER BY created_at DESC, uuid",
        columns = columns!(),
        one = newest("noticed", noticed.as_str()),
        other = newest("unnoticed", other.sql()),
    );
    one.statement(sql)
}

//! How the API changes the virtual numbers.
//!
//! Every write first checks and then writes, in one transaction that also holds the account's lock, so that a
//! session that is created meanwhile sees either all of it or nothing.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::LazyLock;

use jiff::Timestamp;

use super::numbers::NoSession;
use super::row::{Columns, micros};
use super::sql::{Connection, Query, Row, query};
use super::statements::Statements;
use super::writer::Write;
use super::{Store, StoreError};
use crate::number::Did;

/// The most numbers of one account: all of them are kept in memory.
const MAX_NUMBERS: i64 = 100_000;

/// A number as the API adds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewNumber {
    /// The number.
    pub did: Did,
    /// The trunk that its B-legs leave by. The caller knows that it exists.
    pub trunk: String,
    /// Auth id of the sub-account whose sessions it takes; `None`: those of the account itself.
    pub subaccount: Option<String>,
    /// What a call gets that no session takes.
    pub no_session: NoSession,
    /// It takes no new session.
    pub draining: bool,
}

/// What may be changed of a number; `None` leaves it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NumberChange {
    /// See [`NewNumber::trunk`].
    pub trunk: Option<String>,
    /// See [`NewNumber::subaccount`].
    pub subaccount: Option<Option<String>>,
    /// See [`NewNumber::no_session`].
    pub no_session: Option<NoSession>,
    /// See [`NewNumber::draining`].
    pub draining: Option<bool>,
}

impl NumberChange {
    fn is_of_state_only(&self) -> bool {
        self.trunk.is_none() && self.subaccount.is_none() && self.no_session.is_none()
    }
}

/// Why a number is not added, changed or removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NumberRefusal {
    /// The account has no such number.
    #[error("no such number")]
    NotFound,
    /// It is a virtual number already, whoever has it, or a party of an active session, whosever that is. Which
    /// of these it is would tell one account of another.
    #[error("the number is in use")]
    Taken,
    /// The configuration owns it.
    #[error("the configuration owns the number")]
    Configured,
    /// Active sessions are on it.
    #[error("active sessions are on the number")]
    InUse,
    /// The account has no such sub-account.
    #[error("no such sub-account")]
    UnknownSubaccount,
    /// The account has too many numbers.
    #[error("the account has {MAX_NUMBERS} numbers")]
    TooMany,
}

impl Store {
    /// Adds a number behind all others.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails; the inner [`NumberRefusal`] when it cannot be added.
    pub async fn add_number(
        &self,
        account: &str,
        number: NewNumber,
        now: Timestamp,
    ) -> Result<Result<(), NumberRefusal>, StoreError> {
        let refusals = self.put_numbers(account, vec![number], false, now).await?;
        Ok(refusals.first().map_or(Ok(()), |(_, refusal)| Err(*refusal)))
    }

    /// Adds or changes numbers, so that each is as given: all of them or, when one cannot be, none. Returns the
    /// places in `numbers` of those that cannot be, and why.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn import_numbers(
        &self,
        account: &str,
        numbers: Vec<NewNumber>,
        now: Timestamp,
    ) -> Result<Vec<(usize, NumberRefusal)>, StoreError> {
        self.put_numbers(account, numbers, true, now).await
    }

    async fn put_numbers(
        &self,
        account: &str,
        numbers: Vec<NewNumber>,
        may_exist: bool,
        now: Timestamp,
    ) -> Result<Vec<(usize, NumberRefusal)>, StoreError> {
        let owner = self.owner(account);
        let refusals = self.change_directory(PutNumbers { owner, numbers, may_exist, now }).await?;
        Ok(refusals)
    }

    /// Changes a number.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails; the inner [`NumberRefusal`] when it cannot be changed so.
    pub async fn change_number(
        &self,
        account: &str,
        did: &Did,
        change: NumberChange,
    ) -> Result<Result<(), NumberRefusal>, StoreError> {
        let owner = self.owner(account);
        let done = self.change_directory(ChangeNumber { owner, did: did.clone(), change }).await?;
        Ok(done)
    }

    /// Removes a number. With `force` also when active sessions are on it: they stay, and no call reaches them.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails; the inner [`NumberRefusal`] when it cannot be removed.
    pub async fn remove_number(
        &self,
        account: &str,
        did: &Did,
        force: bool,
        now: Timestamp,
    ) -> Result<Result<(), NumberRefusal>, StoreError> {
        let owner = self.owner(account);
        let done = self.change_directory(RemoveNumber { owner, did: did.clone(), force, now }).await?;
        Ok(done)
    }

    /// How many active sessions are on a number.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn active_sessions_on(&self, did: &Did, now: Timestamp) -> Result<u64, StoreError> {
        let row = query(
            "SELECT COUNT(*) AS total FROM sessions
             WHERE ('n' || virtual_number) = $1 AND ends_at > $2 AND ended_at IS NULL",
        )
        .bind(place_of(did))
        .bind(micros(now))
        .fetch_one(self.readers())
        .await?;
        row.unsigned("total")
    }

    fn owner(&self, account: &str) -> Owner {
        let directory = self.directory();
        let is_first = directory.accounts.first().is_some_and(|first| first.auth_id == account);
        Owner { account: account.to_owned(), is_first }
    }
}

/// The account that asks.
struct Owner {
    account: String,
    /// It owns the numbers that name no account.
    is_first: bool,
}

/// What a row says about its number.
struct Present {
    is_ours: bool,
    by_api: bool,
    trunk: String,
    subaccount: Option<String>,
    no_session: Option<NoSession>,
}

impl Owner {
    /// The number's row, while it is a number of anybody's.
    async fn find(&self, connection: &mut Connection, did: &Did) -> Result<Option<Present>, StoreError> {
        let row = query(
            "SELECT account, by_api, trunk, subaccount, no_session FROM numbers WHERE did = $1 AND active = 1",
        )
        .bind(did.digits())
        .fetch_optional(connection)
        .await?;
        row.map(|row| self.present(&row)).transpose()
    }

    fn present(&self, row: &Row) -> Result<Present, StoreError> {
        let account = row.text_opt("account")?;
        Ok(Present {
            is_ours: account.map_or(self.is_first, |account| account == self.account),
            by_api: row.flag("by_api")?,
            trunk: row.text("trunk")?,
            subaccount: row.text_opt("subaccount")?,
            no_session: NoSession::decode(&row.text("no_session")?),
        })
    }

    async fn has_subaccount(&self, connection: &mut Connection, auth_id: &str) -> Result<bool, StoreError> {
        Ok(!self.subaccounts(connection, &[auth_id].into()).await?.is_empty())
    }

    /// Those of them that are sub-accounts of the account.
    async fn subaccounts(
        &self,
        connection: &mut Connection,
        auth_ids: &BTreeSet<&str>,
    ) -> Result<HashSet<String>, StoreError> {
        let bind = |query: Query<'static>, auth_id: &&str| {
            query.bind((*auth_id).to_owned()).bind(self.account.clone())
        };
        let mut found = HashSet::new();
        for query in SUBACCOUNTS.all(auth_ids.iter(), bind) {
            for row in query.fetch_all(&mut *connection).await? {
                found.insert(row.text("auth_id")?);
            }
        }
        Ok(found)
    }

    /// As [`Self::find`], of many numbers: each by its digits.
    async fn find_all(
        &self,
        connection: &mut Connection,
        numbers: &[NewNumber],
    ) -> Result<HashMap<String, Present>, StoreError> {
        let mut found = HashMap::new();
        for query in PRESENT.all(numbers.iter(), |query, number| query.bind(number.did.digits())) {
            for row in query.fetch_all(&mut *connection).await? {
                found.insert(row.text("did")?, self.present(&row)?);
            }
        }
        Ok(found)
    }

    /// Digits of those numbers that are a party of an active session (calls to it would then come back to us), or that
    /// carry active sessions of another account.
    async fn taken(
        &self,
        connection: &mut Connection,
        numbers: &[&NewNumber],
        now: Timestamp,
    ) -> Result<HashSet<String>, StoreError> {
        let bind = |query: Query<'static>, number: &&NewNumber| {
            query.bind(number.did.digits().to_owned()).bind(micros(now)).bind(self.account.clone())
        };
        let mut taken = HashSet::new();
        for query in TAKEN.all(numbers.iter(), bind) {
            for row in query.fetch_all(&mut *connection).await? {
                taken.insert(row.text("did")?);
            }
        }
        Ok(taken)
    }
}

static SUBACCOUNTS: LazyLock<Statements> = LazyLock::new(|| {
    Statements::new(2, |values| {
        format!(
            "SELECT s.auth_id FROM ({values}) AS asked \
             JOIN subaccounts s ON s.auth_id = asked.column1 AND s.account = asked.column2"
        )
    })
});

static PRESENT: LazyLock<Statements> = LazyLock::new(|| {
    Statements::new(1, |values| {
        format!(
            "SELECT did, account, by_api, trunk, subaccount, no_session FROM numbers \
             WHERE did IN ({values}) AND active = 1"
        )
    })
});

// Each number is looked for in the indexes of the sessions, of which there may be millions.
static TAKEN: LazyLock<Statements> = LazyLock::new(|| {
    Statements::new(3, |values| {
        format!(
            "SELECT asked.column1 AS did FROM ({values}) AS asked \
             WHERE EXISTS (SELECT 1 FROM sessions s WHERE s.first_party = asked.column1 \
                     AND s.ends_at > asked.column2 AND s.ended_at IS NULL) \
                 OR EXISTS (SELECT 1 FROM sessions s WHERE s.second_party = asked.column1 \
                     AND s.ends_at > asked.column2 AND s.ended_at IS NULL) \
                 OR EXISTS (SELECT 1 FROM sessions s WHERE ('n' || s.virtual_number) = ('n' || asked.column1) \
                     AND s.ends_at > asked.column2 AND s.ended_at IS NULL AND s.account <> asked.column3)"
        )
    })
});

/// Changes only what the account may change: a number of its own, or one that nobody has any more. A number that is
/// there keeps its place and its source.
fn upsert(or_unassigned: &str) -> Statements {
    Statements::new(9, |values| {
        format!(
            "INSERT INTO numbers (did, trunk, account, no_session, position, active, subaccount, draining, by_api) \
             {values} ON CONFLICT (did) DO UPDATE SET trunk = excluded.trunk, account = excluded.account, \
                 no_session = excluded.no_session, subaccount = excluded.subaccount, draining = excluded.draining, \
                 position = CASE WHEN numbers.active = 1 THEN numbers.position ELSE excluded.position END, \
                 by_api = CASE WHEN numbers.active = 1 THEN numbers.by_api ELSE 1 END, active = 1 \
             WHERE numbers.active = 0 OR numbers.account = excluded.account {or_unassigned}"
        )
    })
}

static PUT: LazyLock<Statements> = LazyLock::new(|| upsert(""));
/// Of the first account.
static PUT_OF_FIRST: LazyLock<Statements> = LazyLock::new(|| upsert("OR numbers.account IS NULL"));

/// What the index of sessions by number holds.
fn place_of(did: &Did) -> String {
    format!("n{}", did.digits())
}

/// Whether new sessions may still be put on a number.
pub(super) async fn takes_sessions(connection: &mut Connection, did: &Did) -> Result<bool, StoreError> {
    let row = query("SELECT did FROM numbers WHERE did = $1 AND active = 1 AND draining = 0")
        .bind(did.digits())
        .fetch_optional(connection)
        .await?;
    Ok(row.is_some())
}

/// Whether active sessions are on a number.
async fn carries_sessions(
    connection: &mut Connection,
    did: &Did,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let row = query(
        "SELECT uuid FROM sessions
         WHERE ('n' || virtual_number) = $1 AND ends_at > $2 AND ended_at IS NULL LIMIT 1",
    )
    .bind(place_of(did))
    .bind(micros(now))
    .fetch_optional(connection)
    .await?;
    Ok(row.is_some())
}

struct PutNumbers {
    owner: Owner,
    numbers: Vec<NewNumber>,
    /// A number of the account's own is changed, not refused.
    may_exist: bool,
    now: Timestamp,
}

impl Write for PutNumbers {
    type Done = Vec<(usize, NumberRefusal)>;

    fn locks(&self) -> Option<&str> {
        Some(&self.owner.account)
    }

    async fn apply(&mut self, connection: &mut Connection) -> Result<Self::Done, StoreError> {
        let refusals = self.refusals(connection).await?;
        if !refusals.is_empty() {
            return Ok(refusals);
        }
        // Only now is anything written: a refusal must not need a roll-back, which would take others with it.
        let own =
            query("SELECT COUNT(*) AS total FROM numbers WHERE account = $1 AND by_api = 1 AND active = 1")
                .bind(&self.owner.account)
                .fetch_one(&mut *connection)
                .await?
                .integer("total")?;
        if own.saturating_add(i64::try_from(self.numbers.len()).unwrap_or(i64::MAX)) > MAX_NUMBERS {
            return Ok(vec![(0, NumberRefusal::TooMany)]);
        }
        let last = query("SELECT MAX(position) AS last FROM numbers WHERE by_api = 1")
            .fetch_one(&mut *connection)
            .await?
            .integer_opt("last")?;
        self.put(connection, last.unwrap_or(-1)).await?;
        // Done a second time, nobody knowing what became of the first, it finds its own numbers.
        self.may_exist = true;
        Ok(refusals)
    }
}

impl PutNumbers {
    /// The places of those that cannot be, and why.
    async fn refusals(&self, connection: &mut Connection) -> Result<Vec<(usize, NumberRefusal)>, StoreError> {
        let named = self.numbers.iter().filter_map(|number| number.subaccount.as_deref()).collect();
        let subaccounts = self.owner.subaccounts(connection, &named).await?;
        let present = self.owner.find_all(connection, &self.numbers).await?;
        let absent: Vec<_> =
            self.numbers.iter().filter(|number| !present.contains_key(number.did.digits())).collect();
        let taken = self.owner.taken(connection, &absent, self.now).await?;
        let refuse = |number: &NewNumber| {
            if number.subaccount.as_ref().is_some_and(|auth_id| !subaccounts.contains(auth_id)) {
                return Some(NumberRefusal::UnknownSubaccount);
            }
            match present.get(number.did.digits()) {
                Some(present) if !present.is_ours || !self.may_exist => Some(NumberRefusal::Taken),
                Some(present) if present.by_api => None,
                Some(present) => {
                    let same = present.trunk == number.trunk
                        && present.subaccount == number.subaccount
                        && present.no_session.as_ref() == Some(&number.no_session);
                    (!same).then_some(NumberRefusal::Configured)
                }
                None => taken.contains(number.did.digits()).then_some(NumberRefusal::Taken),
            }
        };
        let numbers = self.numbers.iter().enumerate();
        Ok(numbers.filter_map(|(index, number)| Some((index, refuse(number)?))).collect())
    }

    /// Writes them, in the order of their digits, so that two processes with the same numbers never wait for each
    /// other; `last` is the place of the last number so far.
    async fn put(&self, connection: &mut Connection, last: i64) -> Result<(), StoreError> {
        let mut numbers: Vec<_> = (last.saturating_add(1)..).zip(&self.numbers).collect();
        numbers.sort_by_key(|(_, number)| number.did.digits());
        // Of one that is given twice the last word counts, as if they came one after the other.
        numbers.dedup_by(|next, kept| {
            let again = next.1.did == kept.1.did;
            if again {
                *kept = *next;
            }
            again
        });
        let bind = |query: Query<'static>, (position, number): &(i64, &NewNumber)| {
            query
                .bind(number.did.digits().to_owned())
                .bind(number.trunk.clone())
                .bind(self.owner.account.clone())
                .bind(number.no_session.encode())
                .bind(*position)
                .bind(1)
                .bind(number.subaccount.clone())
                .bind(i64::from(number.draining))
                .bind(1)
        };
        let statements = if self.owner.is_first { &PUT_OF_FIRST } else { &PUT };
        let mut written = 0;
        for query in statements.all(numbers.iter(), bind) {
            written += query.execute(&mut *connection).await?;
        }
        // Another account's process was quicker with one of them: they are looked at anew.
        if written < numbers.len() as u64 { Err(StoreError::Overtaken) } else { Ok(()) }
    }
}

struct ChangeNumber {
    owner: Owner,
    did: Did,
    change: NumberChange,
}

impl Write for ChangeNumber {
    type Done = Result<(), NumberRefusal>;

    fn locks(&self) -> Option<&str> {
        Some(&self.owner.account)
    }

    async fn apply(&mut self, connection: &mut Connection) -> Result<Self::Done, StoreError> {
        let Self { owner, did, change } = self;
        let Some(present) = owner.find(connection, did).await?.filter(|present| present.is_ours) else {
            return Ok(Err(NumberRefusal::NotFound));
        };
        if !present.by_api && !change.is_of_state_only() {
            return Ok(Err(NumberRefusal::Configured));
        }
        if let Some(Some(auth_id)) = &change.subaccount
            && !owner.has_subaccount(connection, auth_id).await?
        {
            return Ok(Err(NumberRefusal::UnknownSubaccount));
        }
        let subaccount = change.subaccount.as_ref().unwrap_or(&present.subaccount);
        query(
            "UPDATE numbers SET trunk = COALESCE($2, trunk), subaccount = $3, no_session = COALESCE($4, no_session),
                 draining = COALESCE($5, draining) WHERE did = $1",
        )
        .bind(did.digits())
        .bind(&change.trunk)
        .bind(subaccount)
        .bind(change.no_session.as_ref().map(NoSession::encode))
        .bind(change.draining.map(i64::from))
        .execute(connection)
        .await?;
        Ok(Ok(()))
    }
}

struct RemoveNumber {
    owner: Owner,
    did: Did,
    force: bool,
    now: Timestamp,
}

impl Write for RemoveNumber {
    type Done = Result<(), NumberRefusal>;

    fn locks(&self) -> Option<&str> {
        Some(&self.owner.account)
    }

    async fn apply(&mut self, connection: &mut Connection) -> Result<Self::Done, StoreError> {
        let Self { owner, did, force, now } = self;
        let Some(present) = owner.find(connection, did).await?.filter(|present| present.is_ours) else {
            return Ok(Err(NumberRefusal::NotFound));
        };
        if !present.by_api {
            return Ok(Err(NumberRefusal::Configured));
        }
        if !*force && carries_sessions(connection, did, *now).await? {
            return Ok(Err(NumberRefusal::InUse));
        }
        query("UPDATE numbers SET active = 0, draining = 0 WHERE did = $1")
            .bind(did.digits())
            .execute(connection)
            .await?;
        Ok(Ok(()))
    }
}

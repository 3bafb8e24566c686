//! Masking sessions: creation, change, end and look-up.
//!
//! "Active" is asked of the row and the given moment alone (`ends_at`), never of a clean-up job.

use jiff::Timestamp;
use uuid::Uuid;

use super::allocation::{Create, busy_numbers};
use super::row::{after, micros, stored};
use super::session_row::{Before, columns, save, session};
use super::session_types::{ChangeRefusal, NewSession, SessionUpdate};
use super::sql::{Connection, Pool, query};
use super::writer::Write;
use super::{Store, StoreError};
use crate::ids::IdSource;
use crate::masking::allocate::Refusal;
use crate::masking::session::MaskingSession;
use crate::number::{Did, E164};

/// The most sessions that one call looks at.
const ROUTE_LIMIT: i64 = 5000;

impl Store {
    /// Creates a session with the virtual number that fits best.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails; the inner [`Refusal`] when no number fits.
    pub async fn create_session(
        &self,
        session: NewSession,
        now: Timestamp,
    ) -> Result<Result<MaskingSession, Refusal>, StoreError> {
        self.write(self.creation(session, now)).await
    }

    /// What creates a session.
    pub(super) fn creation(&self, session: NewSession, now: Timestamp) -> Create {
        let (uuid, rng) = (IdSource::from_system().uuid(now), rand::make_rng());
        let (directory, now, again) = (self.directory(), stored(now), false);
        Create { session, uuid, rng, directory, now, again }
    }

    /// The account's session, ended ones included.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn find_session(
        &self,
        account: &str,
        uuid: Uuid,
    ) -> Result<Option<MaskingSession>, StoreError> {
        let row = query(BY_UUID).bind(uuid).bind(account).fetch_optional(self.readers()).await?;
        row.as_ref().map(session).transpose()
    }

    /// Changes an active session.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails; the inner [`ChangeRefusal`] when it cannot be changed.
    pub async fn update_session(
        &self,
        account: &str,
        uuid: Uuid,
        update: SessionUpdate,
        now: Timestamp,
    ) -> Result<Result<MaskingSession, ChangeRefusal>, StoreError> {
        self.write(Update { account: account.to_owned(), uuid, update, now: stored(now) }).await
    }

    /// Ends an active session at `now`. It stays readable.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails; the inner [`ChangeRefusal`] when there is nothing to end.
    pub async fn expire_session(
        &self,
        account: &str,
        uuid: Uuid,
        now: Timestamp,
    ) -> Result<Result<MaskingSession, ChangeRefusal>, StoreError> {
        self.write(Expire { account: account.to_owned(), uuid, now: stored(now) }).await
    }
}

pub(super) const BY_UUID: &str =
    concat!("SELECT ", columns!(), " FROM sessions WHERE uuid = $1 AND account = $2");

/// The active sessions on `dialled` in which `caller` is a party.
pub(super) async fn of_party(
    readers: &Pool,
    dialled: &Did,
    caller: &E164,
    now: Timestamp,
) -> Result<Vec<MaskingSession>, StoreError> {
    const OF_PARTY: &str = concat!(
        "SELECT ",
        columns!(),
        " FROM sessions WHERE first_party = $1 AND virtual_number = $2 AND ends_at > $3 AND ended_at IS NULL \
         UNION ALL SELECT ",
        columns!(),
        " FROM sessions WHERE second_party = $1 AND virtual_number = $2 AND ends_at > $3 AND ended_at IS NULL"
    );
    let rows = query(OF_PARTY)
        .bind(caller.digits())
        .bind(dialled.digits())
        .bind(micros(now))
        .fetch_all(readers)
        .await?;
    rows.iter().map(session).collect()
}

/// The active sessions on `dialled` that take strangers, and the latest of the others that has a message for
/// them.
pub(super) async fn for_strangers(
    readers: &Pool,
    dialled: &Did,
    now: Timestamp,
) -> Result<Vec<MaskingSession>, StoreError> {
    const STRANGERS: &str = concat!(
        "SELECT ",
        columns!(),
        " FROM sessions WHERE virtual_number = $1 AND takes_strangers = 1 AND ends_at > $2 AND ended_at IS NULL \
         ORDER BY created_at, uuid LIMIT $3"
    );
    const MESSAGE: &str = concat!(
        "SELECT ",
        columns!(),
        " FROM sessions WHERE virtual_number = $1 AND unknown_caller_play <> '' AND ends_at > $2 \
         AND ended_at IS NULL AND takes_strangers = 0 ORDER BY created_at DESC, uuid LIMIT 1"
    );
    let mut rows = query(STRANGERS)
        .bind(dialled.digits())
        .bind(micros(now))
        .bind(ROUTE_LIMIT)
        .fetch_all(readers)
        .await?;
    rows.extend(query(MESSAGE).bind(dialled.digits()).bind(micros(now)).fetch_optional(readers).await?);
    rows.iter().map(session).collect()
}

struct Update {
    account: String,
    uuid: Uuid,
    update: SessionUpdate,
    now: Timestamp,
}

impl Write for Update {
    type Done = Result<MaskingSession, ChangeRefusal>;

    fn touched(done: &Self::Done) -> Option<&Did> {
        done.as_ref().ok().map(|session| &session.virtual_number)
    }

    fn locks(&self) -> Option<&str> {
        Some(&self.account)
    }

    async fn apply(&mut self, connection: &mut Connection) -> Result<Self::Done, StoreError> {
        let Self { account, uuid, update, now } = self;
        let (uuid, now) = (*uuid, *now);
        let mut session = match active(connection, account, uuid, now).await? {
            Ok(session) => session,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let before = Before::of(&session);
        if let Err(refusal) = set_parties(connection, &mut session, update, now).await? {
            return Ok(Err(refusal));
        }
        session.modified_at = now;
        if let Some(expiry) = update.expiry {
            session.expires_at = after(now, expiry);
        }
        let set = |place: &mut String, value: &Option<String>| {
            value.iter().for_each(|value| place.clone_from(value))
        };
        set(&mut session.recording_callback_url, &update.recording_callback_url);
        set(&mut session.callback_url, &update.callback_url);
        set(&mut session.first_party_play_url, &update.first_party_play_url);
        set(&mut session.second_party_play_url, &update.second_party_play_url);
        session.call_time_limit = update.call_time_limit.unwrap_or(session.call_time_limit);
        session.ring_timeout = update.ring_timeout.unwrap_or(session.ring_timeout);
        session.record = update.record.unwrap_or(session.record);
        session.record_file_format = update.record_file_format.unwrap_or(session.record_file_format);
        session.recording_callback_method =
            update.recording_callback_method.unwrap_or(session.recording_callback_method);
        session.callback_method = update.callback_method.unwrap_or(session.callback_method);
        save(connection, &session, before).await?;
        Ok(Ok(session))
    }
}

/// Fills in the parties of a single-party session, as long as one is missing.
async fn set_parties(
    connection: &mut Connection,
    session: &mut MaskingSession,
    update: &SessionUpdate,
    now: Timestamp,
) -> Result<Result<(), ChangeRefusal>, StoreError> {
    let differs = |present: &Option<E164>, wanted: &Option<E164>| wanted.is_some() && wanted != present;
    if !differs(&session.first_party, &update.first_party)
        && !differs(&session.second_party, &update.second_party)
    {
        return Ok(Ok(()));
    }
    let incomplete = session.first_party.is_none() || session.second_party.is_none();
    if session.single_party != Some(true) || !incomplete {
        return Ok(Err(ChangeRefusal::PartiesFixed));
    }
    let first = update.first_party.clone().or_else(|| session.first_party.clone());
    let second = update.second_party.clone().or_else(|| session.second_party.clone());
    if first == second {
        return Ok(Err(ChangeRefusal::SameParty));
    }
    let busy = busy_numbers(connection, [first.as_ref(), second.as_ref()], Some(session.uuid), now).await?;
    if busy.contains(session.virtual_number.digits()) {
        return Ok(Err(ChangeRefusal::PartyBusy));
    }
    session.first_party = first;
    session.second_party = second;
    Ok(Ok(()))
}

struct Expire {
    account: String,
    uuid: Uuid,
    now: Timestamp,
}

impl Write for Expire {
    type Done = Result<MaskingSession, ChangeRefusal>;

    fn touched(done: &Self::Done) -> Option<&Did> {
        done.as_ref().ok().map(|session| &session.virtual_number)
    }

    fn locks(&self) -> Option<&str> {
        Some(&self.account)
    }

    async fn apply(&mut self, connection: &mut Connection) -> Result<Self::Done, StoreError> {
        let mut session = match active(connection, &self.account, self.uuid, self.now).await? {
            Ok(session) => session,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let before = Before::of(&session);
        session.modified_at = self.now;
        session.ended_at = Some(self.now);
        save(connection, &session, before).await?;
        Ok(Ok(session))
    }
}

/// The account's session, ended ones included, inside a transaction.
pub(super) async fn by_uuid(
    connection: &mut Connection,
    account: &str,
    uuid: Uuid,
) -> Result<Option<MaskingSession>, StoreError> {
    let row = query(BY_UUID).bind(uuid).bind(account).fetch_optional(connection).await?;
    row.as_ref().map(session).transpose()
}

/// The account's session, if it can still be changed.
async fn active(
    connection: &mut Connection,
    account: &str,
    uuid: Uuid,
    now: Timestamp,
) -> Result<Result<MaskingSession, ChangeRefusal>, StoreError> {
    let row = query(BY_UUID).bind(uuid).bind(account).fetch_optional(connection).await?;
    let Some(row) = row else { return Ok(Err(ChangeRefusal::NotFound)) };
    let session = session(&row)?;
    Ok(if session.is_active(now) { Ok(session) } else { Err(ChangeRefusal::Expired) })
}

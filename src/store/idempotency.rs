//! A create that may come twice makes one session.
//!
//! The key is stored in the transaction that also makes the session, so there is never one without the other.
//! A create that is refused stores nothing: the client may mend it and use its key again.

use std::time::Duration;

use jiff::Timestamp;

use super::allocation::Create;
use super::row::{Columns, duration_micros, micros};
use super::session_types::NewSession;
use super::sql::{Connection, query};
use super::writer::Write;
use super::{Store, StoreError, sessions};
use crate::masking::allocate::Refusal;
use crate::masking::session::MaskingSession;
use crate::number::Did;

/// How long a key is remembered.
const MEMORY: Duration = Duration::from_secs(24 * 3600);

/// What makes two creates the same.
#[derive(Debug, Clone)]
pub struct IdempotencyKey {
    /// Auth id of the account or sub-account whose credentials came: each has keys of its own.
    pub scope: String,
    /// As the client gave it.
    pub key: String,
    /// A hash of what was asked for.
    pub fingerprint: [u8; 32],
}

/// What became of a create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Creation {
    /// A session was made.
    New(MaskingSession),
    /// The session of an earlier create with this key.
    Again(MaskingSession),
    /// The key was used for something else.
    Mismatch,
}

impl Store {
    /// As [`Store::create_session`], once per key and day.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails; the inner [`Refusal`] when no number fits.
    pub async fn create_session_once(
        &self,
        session: NewSession,
        key: Option<IdempotencyKey>,
        now: Timestamp,
    ) -> Result<Result<Creation, Refusal>, StoreError> {
        let Some(key) = key else {
            return Ok(self.create_session(session, now).await?.map(Creation::New));
        };
        self.write(CreateOnce { create: self.creation(session, now), key }).await
    }
}

struct CreateOnce {
    create: Create,
    key: IdempotencyKey,
}

impl Write for CreateOnce {
    type Done = Result<Creation, Refusal>;

    fn touched(done: &Self::Done) -> Option<&Did> {
        match done {
            Ok(Creation::New(session)) => Some(&session.virtual_number),
            _ => None,
        }
    }

    // All creates of an account wait for each other, so two with one key do.
    fn locks(&self) -> Option<&str> {
        self.create.locks()
    }

    async fn apply(&mut self, connection: &mut Connection) -> Result<Self::Done, StoreError> {
        let Self { create, key } = self;
        let now = micros(create.now);
        let oldest = now.saturating_sub(duration_micros(MEMORY));
        let fingerprint = data_encoding::HEXLOWER.encode(&key.fingerprint);
        let earlier = query(
            "SELECT fingerprint, session FROM idempotency_keys WHERE scope = $1 AND key = $2 AND created_at > $3",
        )
        .bind(&key.scope)
        .bind(&key.key)
        .bind(oldest)
        .fetch_optional(&mut *connection)
        .await?;
        if let Some(row) = earlier {
            if row.text("fingerprint")? != fingerprint {
                return Ok(Ok(Creation::Mismatch));
            }
            let account = &create.session.account;
            // Without its session (somebody has cleaned up by hand) the key is worth nothing.
            if let Some(session) = sessions::by_uuid(connection, account, row.uuid("session")?).await? {
                // Its own, when this write is done a second time.
                let own = session.uuid == create.uuid;
                return Ok(Ok(if own { Creation::New(session) } else { Creation::Again(session) }));
            }
        }
        let session = match create.apply(connection).await? {
            Ok(session) => session,
            Err(refusal) => return Ok(Err(refusal)),
        };
        query(
            "INSERT INTO idempotency_keys (scope, key, fingerprint, session, created_at)
             VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (scope, key) DO UPDATE SET fingerprint = excluded.fingerprint,
                 session = excluded.session, created_at = excluded.created_at",
        )
        .bind(&key.scope)
        .bind(&key.key)
        .bind(fingerprint)
        .bind(session.uuid)
        .bind(now)
        .execute(&mut *connection)
        .await?;
        // More go than come, so that the table never holds much more than a day's keys.
        query(
            "DELETE FROM idempotency_keys WHERE (scope, key) IN
                 (SELECT scope, key FROM idempotency_keys WHERE created_at <= $1 ORDER BY created_at LIMIT 8)",
        )
        .bind(oldest)
        .execute(connection)
        .await?;
        Ok(Ok(Creation::New(session)))
    }
}

//! Accounts: the credentials of the API.

use std::fmt;

use jiff::Timestamp;
use rand::RngExt;
use rand::rngs::StdRng;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::row::{Columns, micros};
use super::sql::{Connection, Pool, query};
use super::writer::Write;
use super::{Store, StoreError};

/// Digits and letters of the ids and tokens that are made here.
const ID_ALPHABET: &[u8; 36] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
const TOKEN_ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// The account that the first start makes. It is the only time that its token is known.
#[derive(Clone, PartialEq, Eq)]
pub struct NewAccount {
    /// 20 characters, `MA…`.
    pub auth_id: String,
    /// 40 characters.
    pub auth_token: String,
}

impl fmt::Debug for NewAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewAccount").field("auth_id", &self.auth_id).finish_non_exhaustive()
    }
}

impl NewAccount {
    fn draw(rng: &mut impl RngExt) -> Self {
        let mut draw = |alphabet: &[u8], length: usize| -> String {
            (0..length)
                .filter_map(|_| alphabet.get(rng.random_range(0..alphabet.len())).copied().map(char::from))
                .collect()
        };
        Self { auth_id: format!("MA{}", draw(ID_ALPHABET, 18)), auth_token: draw(TOKEN_ALPHABET, 40) }
    }
}

/// An account that may use the API.
pub(super) struct Account {
    pub(super) auth_id: String,
    token_hash: String,
}

impl Store {
    /// Makes the accounts equal to the configured ones (auth id and token, in order; the first one owns the
    /// virtual numbers that name no account). When none is configured and none was made yet, makes one and
    /// returns it, to be printed once. Configured accounts replace the one that was made, as long as there
    /// are any.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn ensure_account(
        &self,
        configured: &[(String, String)],
        now: Timestamp,
    ) -> Result<Option<NewAccount>, StoreError> {
        let hashed = configured.iter().map(|(auth_id, token)| (auth_id.clone(), hash(token))).collect();
        let fresh = NewAccount::draw(&mut rand::make_rng::<StdRng>());
        self.change_directory(EnsureAccount { configured: hashed, fresh, now }).await
    }

    /// Whether these credentials are an account's. Takes the same time for every wrong token.
    #[must_use]
    pub fn authenticate(&self, auth_id: &str, token: &str) -> bool {
        let given = hash(token);
        let directory = self.directory();
        let account = directory.accounts.iter().find(|account| account.auth_id == auth_id);
        // An unknown auth id costs a comparison as well: with a hash that no token has.
        let stored = account.map_or("", |account| account.token_hash.as_str());
        let equal = given.as_bytes().ct_eq(stored.as_bytes());
        account.is_some() && bool::from(equal)
    }
}

/// A token is random and long, so one round of a fast hash is enough.
fn hash(token: &str) -> String {
    data_encoding::HEXLOWER.encode(&Sha256::digest(token.as_bytes()))
}

/// The active accounts, in order.
pub(super) async fn load(readers: &Pool) -> Result<Vec<Account>, StoreError> {
    let rows = query("SELECT auth_id, token_hash FROM accounts WHERE active = 1 ORDER BY position, auth_id")
        .fetch_all(readers)
        .await?;
    rows.iter()
        .map(|row| Ok(Account { auth_id: row.text("auth_id")?, token_hash: row.text("token_hash")? }))
        .collect()
}

struct EnsureAccount {
    configured: Vec<(String, String)>,
    fresh: NewAccount,
    now: Timestamp,
}

impl Write for EnsureAccount {
    type Done = Option<NewAccount>;

    async fn apply(&mut self, connection: &mut Connection) -> Result<Self::Done, StoreError> {
        let Self { configured, fresh, now } = self;
        // A credential that is no longer configured must not open anything.
        let made_ones = i64::from(configured.is_empty());
        query("UPDATE accounts SET active = CASE WHEN configured = 0 THEN $1 ELSE 0 END")
            .bind(made_ones)
            .execute(&mut *connection)
            .await?;
        for (position, (auth_id, token_hash)) in configured.iter().enumerate() {
            insert(connection, auth_id, token_hash, 1, i64::try_from(position).unwrap_or(i64::MAX), *now)
                .await?;
        }
        let active = query("SELECT auth_id FROM accounts WHERE active = 1 LIMIT 1")
            .fetch_optional(&mut *connection)
            .await?;
        if let Some(active) = active {
            // Its own, when it is done a second time.
            return Ok((active.text("auth_id")? == fresh.auth_id).then(|| fresh.clone()));
        }
        insert(connection, &fresh.auth_id, &hash(&fresh.auth_token), 0, 0, *now).await?;
        Ok(Some(fresh.clone()))
    }
}

async fn insert(
    connection: &mut Connection,
    auth_id: &str,
    token_hash: &str,
    configured: i64,
    position: i64,
    now: Timestamp,
) -> Result<(), StoreError> {
    query(
        "INSERT INTO accounts (auth_id, token_hash, configured, active, position, created_at)
         VALUES ($1, $2, $3, 1, $4, $5)
         ON CONFLICT (auth_id) DO UPDATE SET token_hash = excluded.token_hash, configured = excluded.configured,
             active = 1, position = excluded.position",
    )
    .bind(auth_id)
    .bind(token_hash)
    .bind(configured)
    .bind(position)
    .bind(micros(now))
    .execute(connection)
    .await?;
    Ok(())
}

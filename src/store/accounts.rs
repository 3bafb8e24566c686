//! Accounts and sub-accounts: the credentials of the API.
//!
//! A token is known by its hash when somebody comes with it, and can be read again, where it has to sign, from
//! its sealed form. A configured account's token is never stored: it lives in the configuration and in memory.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use jiff::Timestamp;
use rand::RngExt;
use rand::rngs::StdRng;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use super::row::{Columns, after, micros, stored};
use super::seal::{MarkKey, SealKey, Secret};
use super::sql::{Connection, Pool, Row, query};
use super::writer::Write;
use super::{Store, StoreError};

/// Digits and letters of the ids and tokens that are made here.
const ID_ALPHABET: &[u8; 36] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
const TOKEN_ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
/// The most sub-accounts of one account: all of them are kept in memory.
const MAX_SUBACCOUNTS: i64 = 10_000;
/// Two first starts on one database must not both make an account.
const FIRST_ACCOUNT: &str = "accounts";

/// The account that the first start makes. It is the only time that its token is shown.
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

fn draw(alphabet: &[u8], length: usize) -> String {
    let mut rng = rand::make_rng::<StdRng>();
    (0..length)
        .filter_map(|_| alphabet.get(rng.random_range(0..alphabet.len())).copied().map(char::from))
        .collect()
}

fn draw_id(prefix: &str) -> String {
    format!("{prefix}{}", draw(ID_ALPHABET, 18))
}

fn draw_token() -> Secret {
    Secret::new(draw(TOKEN_ALPHABET, 40))
}

/// Who came with credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Auth id of the account.
    pub account: String,
    /// Auth id of its sub-account, when the credentials were that one's.
    pub subaccount: Option<String>,
}

/// An account, without its token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountInfo {
    /// 20 characters, `MA…`.
    pub auth_id: String,
    /// Whether the configuration owns it.
    pub configured: bool,
    /// When it was first seen here.
    pub created_at: Timestamp,
}

/// A sub-account, without its token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subaccount {
    /// 20 characters, `SA…`.
    pub auth_id: String,
    /// Auth id of its account.
    pub account: String,
    /// What its owner calls it.
    pub name: String,
    /// While it is not, its credentials open nothing and no session can be made for it.
    pub enabled: bool,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub modified_at: Option<Timestamp>,
}

/// Why accounts and sub-accounts are not changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AccountRefusal {
    /// The account has no such sub-account.
    #[error("no such sub-account")]
    NotFound,
    /// The configuration owns its token.
    #[error("the configuration owns the account")]
    Configured,
    /// The sub-account still has virtual numbers.
    #[error("the sub-account has virtual numbers")]
    HasNumbers,
    /// The account has too many sub-accounts.
    #[error("the account has {MAX_SUBACCOUNTS} sub-accounts")]
    TooMany,
}

/// What a token is known by.
struct Credential {
    token_hash: String,
    /// Until its time is over, this one is good as well.
    old: Option<(String, Timestamp)>,
    sealed: Option<String>,
}

impl Credential {
    fn of(row: &Row) -> Result<Self, StoreError> {
        Ok(Self {
            token_hash: row.text("token_hash")?,
            old: row.text_opt("old_token_hash")?.zip(row.time_opt("old_token_until")?),
            sealed: row.text_opt("token_sealed")?,
        })
    }

    /// Compares with both hashes always, so that the time tells nothing.
    fn fits(&self, given: &str, now: Timestamp) -> Choice {
        let same = |hash: &str| given.as_bytes().ct_eq(hash.as_bytes());
        let old = self.old.as_ref().filter(|(_, until)| now < *until);
        same(&self.token_hash) | same(old.map_or("", |(hash, _)| hash))
    }
}

/// An account that may use the API.
pub(super) struct Account {
    pub(super) auth_id: String,
    configured: bool,
    created_at: Timestamp,
    credential: Credential,
}

/// The sub-accounts of all accounts, by their auth ids.
#[derive(Default)]
pub(super) struct Subaccounts(BTreeMap<String, (Subaccount, Credential)>);

/// What makes tokens readable again.
#[derive(Default)]
pub(super) struct Secrets {
    key: Option<SealKey>,
    /// The tokens of configured accounts.
    configured: RwLock<HashMap<String, Secret>>,
}

impl Secrets {
    pub(super) fn new(key: Option<SealKey>) -> Self {
        Self { key, configured: RwLock::default() }
    }

    /// What stands in the database for a text that is only to be found again.
    pub(super) fn mark(&self, text: &str) -> String {
        match &self.key {
            Some(key) => key.marks().mark(text),
            None => MarkKey::known_to_all().mark(text),
        }
    }

    fn seal(&self, auth_id: &str, token: &Secret) -> Option<String> {
        self.key.as_ref().and_then(|key| key.seal(auth_id, token))
    }

    fn open(&self, auth_id: &str, credential: &Credential) -> Option<Secret> {
        let key = self.key.as_ref()?;
        credential.sealed.as_deref().and_then(|sealed| key.open(auth_id, sealed))
    }

    fn of_configured(&self, auth_id: &str) -> Option<Secret> {
        self.configured.read().unwrap_or_else(PoisonError::into_inner).get(auth_id).cloned()
    }
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
        let tokens = configured.iter().map(|(id, token)| (id.clone(), Secret::new(token.clone()))).collect();
        let secrets = &self.inner.secrets;
        *secrets.configured.write().unwrap_or_else(PoisonError::into_inner) = tokens;
        let (auth_id, token) = (draw_id("MA"), draw_token());
        let fresh = Fresh { token_hash: hash(token.reveal()), sealed: secrets.seal(&auth_id, &token) };
        let made = self
            .change_directory(EnsureAccount { configured: hashed, auth_id: auth_id.clone(), fresh, now })
            .await?;
        for account in &self.directory().accounts {
            if self.auth_token(&account.auth_id).is_none() {
                tracing::warn!(
                    account = account.auth_id,
                    "this account's token cannot be read again, so its callbacks cannot be signed; a new \
                     token (POST /v1/Account/{{auth_id}}/Token/) mends it"
                );
            }
        }
        Ok(made.then(|| NewAccount { auth_id, auth_token: token.reveal().to_owned() }))
    }

    /// Whose credentials these are. `None`: nobody's; that takes the same time for every wrong token.
    #[must_use]
    pub fn identify(&self, auth_id: &str, token: &str, now: Timestamp) -> Option<Identity> {
        let given = hash(token);
        let directory = self.directory();
        let accounts = &directory.accounts;
        let main = accounts.iter().find(|account| account.auth_id == auth_id);
        let sub = directory.subaccounts.0.get(auth_id);
        // An unknown auth id costs the comparisons as well: with hashes that no token has.
        let nobody = Credential { token_hash: String::new(), old: None, sealed: None };
        let credential = main.map(|account| &account.credential).or(sub.map(|(_, credential)| credential));
        let fits = bool::from(credential.unwrap_or(&nobody).fits(&given, now));
        match (main, sub) {
            _ if !fits => None,
            (Some(account), _) => Some(Identity { account: account.auth_id.clone(), subaccount: None }),
            (None, Some((sub, _))) => {
                let opens = sub.enabled && accounts.iter().any(|account| account.auth_id == sub.account);
                opens
                    .then(|| Identity { account: sub.account.clone(), subaccount: Some(sub.auth_id.clone()) })
            }
            (None, None) => None,
        }
    }

    /// The token of an account (`MA…`) or of a sub-account (`SA…`), to sign with. `None`: there is no such
    /// account, or its token is known by its hash only; a rotation mends that.
    #[must_use]
    pub fn auth_token(&self, auth_id: &str) -> Option<Secret> {
        let directory = self.directory();
        if let Some((_, credential)) = directory.subaccounts.0.get(auth_id) {
            return self.inner.secrets.open(auth_id, credential);
        }
        let account = directory.accounts.iter().find(|account| account.auth_id == auth_id)?;
        if account.configured {
            return self.inner.secrets.of_configured(auth_id);
        }
        self.inner.secrets.open(auth_id, &account.credential)
    }

    /// The account with this auth id.
    #[must_use]
    pub fn account(&self, auth_id: &str) -> Option<AccountInfo> {
        let directory = self.directory();
        let account = directory.accounts.iter().find(|account| account.auth_id == auth_id)?;
        Some(AccountInfo {
            auth_id: account.auth_id.clone(),
            configured: account.configured,
            created_at: account.created_at,
        })
    }

    /// The account's sub-account.
    #[must_use]
    pub fn subaccount(&self, account: &str, auth_id: &str) -> Option<Subaccount> {
        let directory = self.directory();
        let (found, _) = directory.subaccounts.0.get(auth_id)?;
        (found.account == account).then(|| found.clone())
    }

    /// The account's sub-accounts, newest first.
    #[must_use]
    pub fn subaccounts(&self, account: &str) -> Vec<Subaccount> {
        let directory = self.directory();
        let all = directory.subaccounts.0.values().map(|(sub, _)| sub);
        let mut found: Vec<_> = all.filter(|sub| sub.account == account).cloned().collect();
        found.sort_by(|a, b| b.created_at.cmp(&a.created_at).then_with(|| a.auth_id.cmp(&b.auth_id)));
        found
    }

    /// Makes a sub-account and its token.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails; the inner [`AccountRefusal`] when there are too many.
    pub async fn create_subaccount(
        &self,
        account: &str,
        name: String,
        enabled: bool,
        now: Timestamp,
    ) -> Result<Result<(Subaccount, Secret), AccountRefusal>, StoreError> {
        let (auth_id, token) = (draw_id("SA"), draw_token());
        let sealed = self.inner.secrets.seal(&auth_id, &token);
        let created_at = stored(now);
        let sub =
            Subaccount { auth_id, account: account.to_owned(), name, enabled, created_at, modified_at: None };
        let fresh = Fresh { token_hash: hash(token.reveal()), sealed };
        let done = self.change_directory(CreateSubaccount { sub: sub.clone(), fresh }).await?;
        Ok(done.map(|()| (sub, token)))
    }

    /// Changes name and state of a sub-account; `None` leaves them.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails; the inner [`AccountRefusal`] when there is none.
    pub async fn update_subaccount(
        &self,
        account: &str,
        auth_id: &str,
        name: Option<String>,
        enabled: Option<bool>,
        now: Timestamp,
    ) -> Result<Result<(), AccountRefusal>, StoreError> {
        let (account, auth_id) = (account.to_owned(), auth_id.to_owned());
        let done = self.change_directory(UpdateSubaccount { account, auth_id, name, enabled, now }).await?;
        Ok(done)
    }

    /// Takes a sub-account away. Its sessions stay the account's.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails; the inner [`AccountRefusal`] when there is none, and while
    /// virtual numbers are assigned to it: they would silently become everybody's.
    pub async fn delete_subaccount(
        &self,
        account: &str,
        auth_id: &str,
    ) -> Result<Result<(), AccountRefusal>, StoreError> {
        let done = self
            .change_directory(DeleteSubaccount { account: account.to_owned(), auth_id: auth_id.to_owned() })
            .await?;
        Ok(done)
    }

    /// Makes a new token for an account, or for its sub-account. The old one stays good for `grace`.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails; the inner [`AccountRefusal`] when there is nothing to change or
    /// the configuration owns it.
    pub async fn rotate_token(
        &self,
        account: &str,
        subaccount: Option<&str>,
        grace: Duration,
        now: Timestamp,
    ) -> Result<Result<Secret, AccountRefusal>, StoreError> {
        let token = draw_token();
        let sealed = self.inner.secrets.seal(subaccount.unwrap_or(account), &token);
        let fresh = Fresh { token_hash: hash(token.reveal()), sealed };
        let subaccount = subaccount.map(str::to_owned);
        let until = after(now, grace);
        let done = self
            .change_directory(RotateToken { account: account.to_owned(), subaccount, fresh, until, now })
            .await?;
        Ok(done.map(|()| token))
    }
}

/// A token is random and long, so one round of a fast hash is enough.
fn hash(token: &str) -> String {
    data_encoding::HEXLOWER.encode(&Sha256::digest(token.as_bytes()))
}

/// The active accounts, in order.
pub(super) async fn load(readers: &Pool) -> Result<Vec<Account>, StoreError> {
    let rows = query(
        "SELECT auth_id, token_hash, token_sealed, old_token_hash, old_token_until, configured, created_at
         FROM accounts WHERE active = 1 ORDER BY position, auth_id",
    )
    .fetch_all(readers)
    .await?;
    let account = |row: &Row| {
        Ok(Account {
            auth_id: row.text("auth_id")?,
            configured: row.flag("configured")?,
            created_at: row.time("created_at")?,
            credential: Credential::of(row)?,
        })
    };
    rows.iter().map(account).collect()
}

/// The sub-accounts of all accounts.
pub(super) async fn load_subaccounts(readers: &Pool) -> Result<Subaccounts, StoreError> {
    let rows = query(
        "SELECT auth_id, account, name, enabled, token_hash, token_sealed, old_token_hash, old_token_until,
             created_at, modified_at FROM subaccounts",
    )
    .fetch_all(readers)
    .await?;
    let subaccount = |row: &Row| {
        let sub = Subaccount {
            auth_id: row.text("auth_id")?,
            account: row.text("account")?,
            name: row.text("name")?,
            enabled: row.flag("enabled")?,
            created_at: row.time("created_at")?,
            modified_at: row.time_opt("modified_at")?,
        };
        Ok((sub.auth_id.clone(), (sub, Credential::of(row)?)))
    };
    rows.iter().map(subaccount).collect::<Result<_, StoreError>>().map(Subaccounts)
}

/// What is stored of a new token.
struct Fresh {
    token_hash: String,
    sealed: Option<String>,
}

struct EnsureAccount {
    configured: Vec<(String, String)>,
    auth_id: String,
    fresh: Fresh,
    now: Timestamp,
}

impl Write for EnsureAccount {
    /// Whether an account was made.
    type Done = bool;

    fn locks(&self) -> Option<&str> {
        Some(FIRST_ACCOUNT)
    }

    async fn apply(&mut self, connection: &mut Connection) -> Result<bool, StoreError> {
        let Self { configured, auth_id, fresh, now } = self;
        // A credential that is no longer configured must not open anything.
        let made_ones = i64::from(configured.is_empty());
        query("UPDATE accounts SET active = CASE WHEN configured = 0 THEN $1 ELSE 0 END")
            .bind(made_ones)
            .execute(&mut *connection)
            .await?;
        for (position, (auth_id, token_hash)) in configured.iter().enumerate() {
            let configured = Fresh { token_hash: token_hash.clone(), sealed: None };
            let position = i64::try_from(position).unwrap_or(i64::MAX);
            insert(connection, auth_id, &configured, 1, position, *now).await?;
        }
        let active = query("SELECT auth_id FROM accounts WHERE active = 1 LIMIT 1")
            .fetch_optional(&mut *connection)
            .await?;
        if let Some(active) = active {
            // Its own, when it is done a second time.
            return Ok(active.text("auth_id")? == *auth_id);
        }
        insert(connection, auth_id, fresh, 0, 0, *now).await?;
        Ok(true)
    }
}

/// The configuration's word replaces whatever the row held, a token in its time of grace included.
async fn insert(
    connection: &mut Connection,
    auth_id: &str,
    token: &Fresh,
    configured: i64,
    position: i64,
    now: Timestamp,
) -> Result<(), StoreError> {
    query(
        "INSERT INTO accounts (auth_id, token_hash, configured, active, position, created_at, token_sealed)
         VALUES ($1, $2, $3, 1, $4, $5, $6)
         ON CONFLICT (auth_id) DO UPDATE SET token_hash = excluded.token_hash, configured = excluded.configured,
             active = 1, position = excluded.position, token_sealed = excluded.token_sealed,
             old_token_hash = NULL, old_token_until = NULL",
    )
    .bind(auth_id)
    .bind(&token.token_hash)
    .bind(configured)
    .bind(position)
    .bind(micros(now))
    .bind(&token.sealed)
    .execute(connection)
    .await?;
    Ok(())
}

struct CreateSubaccount {
    sub: Subaccount,
    fresh: Fresh,
}

impl Write for CreateSubaccount {
    type Done = Result<(), AccountRefusal>;

    fn locks(&self) -> Option<&str> {
        Some(&self.sub.account)
    }

    async fn apply(&mut self, connection: &mut Connection) -> Result<Self::Done, StoreError> {
        let Self { sub, fresh } = self;
        let count = query("SELECT COUNT(*) AS total FROM subaccounts WHERE account = $1")
            .bind(&sub.account)
            .fetch_one(&mut *connection)
            .await?;
        if count.integer("total")? >= MAX_SUBACCOUNTS {
            return Ok(Err(AccountRefusal::TooMany));
        }
        query(
            "INSERT INTO subaccounts (auth_id, account, name, enabled, token_hash, token_sealed, created_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (auth_id) DO NOTHING",
        )
        .bind(&sub.auth_id)
        .bind(&sub.account)
        .bind(&sub.name)
        .bind(i64::from(sub.enabled))
        .bind(&fresh.token_hash)
        .bind(&fresh.sealed)
        .bind(micros(sub.created_at))
        .execute(connection)
        .await?;
        Ok(Ok(()))
    }
}

struct UpdateSubaccount {
    account: String,
    auth_id: String,
    name: Option<String>,
    enabled: Option<bool>,
    now: Timestamp,
}

impl Write for UpdateSubaccount {
    type Done = Result<(), AccountRefusal>;

    async fn apply(&mut self, connection: &mut Connection) -> Result<Self::Done, StoreError> {
        let changed = query(
            "UPDATE subaccounts SET name = COALESCE($3, name), enabled = COALESCE($4, enabled), modified_at = $5
             WHERE auth_id = $2 AND account = $1",
        )
        .bind(&self.account)
        .bind(&self.auth_id)
        .bind(&self.name)
        .bind(self.enabled.map(i64::from))
        .bind(micros(self.now))
        .execute(connection)
        .await?;
        Ok(if changed == 0 { Err(AccountRefusal::NotFound) } else { Ok(()) })
    }
}

struct DeleteSubaccount {
    account: String,
    auth_id: String,
}

impl Write for DeleteSubaccount {
    type Done = Result<(), AccountRefusal>;

    fn locks(&self) -> Option<&str> {
        Some(&self.account)
    }

    async fn apply(&mut self, connection: &mut Connection) -> Result<Self::Done, StoreError> {
        let numbers = query("SELECT did FROM numbers WHERE subaccount = $1 AND active = 1 LIMIT 1")
            .bind(&self.auth_id)
            .fetch_optional(&mut *connection)
            .await?;
        let exists = query("SELECT auth_id FROM subaccounts WHERE auth_id = $2 AND account = $1")
            .bind(&self.account)
            .bind(&self.auth_id)
            .fetch_optional(&mut *connection)
            .await?;
        if exists.is_none() {
            return Ok(Err(AccountRefusal::NotFound));
        }
        if numbers.is_some() {
            return Ok(Err(AccountRefusal::HasNumbers));
        }
        query("DELETE FROM subaccounts WHERE auth_id = $1").bind(&self.auth_id).execute(connection).await?;
        Ok(Ok(()))
    }
}

struct RotateToken {
    account: String,
    subaccount: Option<String>,
    fresh: Fresh,
    until: Timestamp,
    now: Timestamp,
}

impl Write for RotateToken {
    type Done = Result<(), AccountRefusal>;

    fn locks(&self) -> Option<&str> {
        Some(&self.account)
    }

    async fn apply(&mut self, connection: &mut Connection) -> Result<Self::Done, StoreError> {
        let Self { account, subaccount, fresh, until, now } = self;
        // Done a second time, nobody knowing what became of the first, it must not take the new token for the old.
        let changed = match subaccount {
            Some(subaccount) => {
                query(
                    "UPDATE subaccounts SET
                         old_token_hash = CASE WHEN token_hash = $4 THEN old_token_hash ELSE token_hash END,
                         old_token_until = $3, token_hash = $4, token_sealed = $5, modified_at = $6
                     WHERE account = $1 AND auth_id = $2",
                )
                .bind(&*account)
                .bind(&*subaccount)
                .bind(micros(*until))
                .bind(&fresh.token_hash)
                .bind(&fresh.sealed)
                .bind(micros(*now))
                .execute(connection)
                .await?
            }
            None => {
                query(
                    "UPDATE accounts SET
                         old_token_hash = CASE WHEN token_hash = $3 THEN old_token_hash ELSE token_hash END,
                         old_token_until = $2, token_hash = $3, token_sealed = $4
                     WHERE auth_id = $1 AND active = 1 AND configured = 0",
                )
                .bind(&*account)
                .bind(micros(*until))
                .bind(&fresh.token_hash)
                .bind(&fresh.sealed)
                .execute(connection)
                .await?
            }
        };
        Ok(match (changed, subaccount) {
            (0, Some(_)) => Err(AccountRefusal::NotFound),
            (0, None) => Err(AccountRefusal::Configured),
            _ => Ok(()),
        })
    }
}

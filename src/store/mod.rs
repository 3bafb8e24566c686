//! The database: accounts, virtual numbers, masking sessions and call records. It is an SQLite file of this
//! process, or a PostgreSQL that several processes share.
//!
//! ```text
//! API, calls ──► bounded queue ──► writer task ──► one transaction per batch ──► SQLite (WAL), or PostgreSQL
//! API, calls ◄── pool of readers ◄────────────────────────────────────────────┤         │ NOTIFY
//! API's lists ◄─ pool of listers ◄────────────────────────────────────────────┘         │
//! accounts, numbers in memory ◄── other processes' changes ◄────────────────────────────┘
//! ```
//!
//! All SQL of the project is in this folder. Every write goes through the one writer task: it takes what is
//! queued, does it in one transaction and answers each caller after the commit, so a write that was answered
//! survives a `kill -9`, and many calls share one commit. What reads and then writes (the allocation of a number)
//! is atomic: nobody else writes to the file (`BEGIN IMMEDIATE`); on PostgreSQL the transaction holds a lock on
//! its account (`Write::locks`).
//!
//! Accounts, sub-accounts and virtual numbers are also kept in memory; who changes them does so by `Store::change_directory`.
//! With SQLite, so are the latest look-ups of calls until a session on that number changes; with PostgreSQL each
//! call asks, because a session that another process has just made serves it at once. Parties' numbers and PINs
//! lie in the rows because the API gives them back; they are in no error and in no log line.

mod accounts;
mod allocation;
mod call_list;
mod call_writes;
mod calls;
mod conditions;
mod guesses;
mod hours;
mod idempotency;
mod nodes;
mod number_loads;
mod number_writes;
mod numbers;
mod outbox;
mod partners;
mod recordings;
mod route_cache;
mod row;
mod seal;
mod session_count;
mod session_list;
mod session_row;
mod session_types;
mod sessions;
mod sql;
mod statements;
mod writer;

use std::fs::{DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use sqlx::ConnectOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::AbortHandle;
use uuid::Uuid;

pub use accounts::{AccountInfo, AccountRefusal, Identity, NewAccount, Subaccount};
pub use call_list::LegFilter;
pub use calls::{Cdr, InteractionRow, LegCdr, LegOpened, LegQuality, LegRow, Note, RecordingRow};
pub use guesses::Verdict;
pub use idempotency::{Creation, IdempotencyKey};
pub use number_writes::{NewNumber, NumberChange, NumberRefusal};
pub use numbers::{NoSession, NumberEntry, Route, VirtualNumber, VirtualNumberConfig};
pub use outbox::{Attempt, EventFilter, EventState, Lease, MIN_TRIES, RecordingReport, StoredEvent, Stream};
pub use recordings::{
    Delivered, NewRecording, RecordedCall, Recording, RecordingDone, RecordingFilter, RecordingState,
};
pub use seal::{SealKey, SealKeyError, Secret};
pub use session_types::{
    ChangeRefusal, NewPin, NewSession, SessionFilter, SessionPage, SessionState, SessionUpdate, TimeRange,
};
pub use sql::server_of;

use accounts::{Account, Secrets, Subaccounts};
use call_writes::CallWrite;
use hours::Hours;
use numbers::PoolNumber;
use route_cache::RouteCache;
use sql::{Options, Pool, query};
use writer::{Queued, Write, Writer};

/// How many writes may wait for the writer task; further callers wait for room.
const QUEUE: usize = 4096;
/// Connections that read what is soon found: calls wait for it.
const READERS: u32 = 4;
/// Connections that read lists, some of which take long: what waits for these holds up no call.
const LISTERS: u32 = 2;
/// SQLite's cache of each connection, in KiB as a negative number. It is for the inner pages of the indexes: the
/// kernel keeps the file in memory once for all connections, and a cache that follows the file would grow with it.
const PAGES: &str = "-2048";
/// How long a connection waits for a lock that another process holds.
const BUSY: Duration = Duration::from_secs(5);

/// The database. Clones share it.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    readers: Pool,
    listers: Pool,
    hours: Hours,
    queue: mpsc::Sender<writer::Order>,
    directory: RwLock<Arc<Directory>>,
    /// One at a time, so that what is kept is what was read last.
    reloading: tokio::sync::Mutex<()>,
    routes: Arc<RouteCache>,
    secrets: Secrets,
    /// This start of this process, among those that share the database.
    node: Arc<str>,
    /// Says that it lives; an SQLite file knows no other process.
    pulse: Option<nodes::Pulse>,
    /// Hears of other processes' changes; there are none of an SQLite file.
    follower: OnceLock<AbortHandle>,
    /// Told after every commit: there may be events to send.
    committed: Arc<Notify>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(follower) = self.follower.get() {
            follower.abort();
        }
    }
}

/// Accounts, sub-accounts and numbers, as they are kept in memory.
#[derive(Default)]
struct Directory {
    /// In order: configured ones as they are configured.
    accounts: Vec<Account>,
    subaccounts: Subaccounts,
    /// In order of first fit.
    numbers: Vec<PoolNumber>,
    /// Digits of the number → its place in `numbers`.
    places: std::collections::HashMap<String, usize>,
}

/// Why the store could not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// `store.url` is none.
    #[error("store.url: allowed are sqlite://PATH and postgres://USER:PASSWORD@HOST:PORT/DATABASE")]
    Url,
    /// `store.url` names no file.
    #[error("store.url names no file; allowed: sqlite://PATH, for example sqlite://data/maskline.db")]
    NoFile,
    /// The file or its directory cannot be made.
    #[error("cannot create {path}: {source}")]
    Create {
        /// Which one.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The database failed.
    #[error("database: {0}")]
    Database(#[from] sqlx::Error),
    /// The schema could not be brought up to date.
    #[error("database schema: {0}")]
    Schema(#[from] sqlx::migrate::MigrateError),
    /// The transaction that a write shared with others failed; nothing of it is stored.
    #[error("database: the transaction could not be committed")]
    NotCommitted,
    /// The store has been closed.
    #[error("the store is closed")]
    Closed,
    /// Another process has changed the same row since it was read; nothing of the transaction is stored.
    #[error("database: another process has changed the same")]
    Overtaken,
    /// A row does not hold what was written.
    #[error("database: column {0} holds a value that cannot be read")]
    Corrupt(&'static str),
}

impl StoreError {
    /// The database has understood and does not want it: repeating it is of no use.
    fn is_refusal(&self) -> bool {
        use sqlx::error::ErrorKind::Other;
        match self {
            Self::Database(sqlx::Error::Database(error)) => {
                !matches!(error.kind(), Other) && !self.is_clash()
            }
            Self::Corrupt(_) => true,
            _ => false,
        }
    }

    /// Two transactions wanted the same rows, and this one had to give way (PostgreSQL: deadlock detected,
    /// serialization failure), or came later with a row that it had looked for in vain: done again, it works.
    fn is_clash(&self) -> bool {
        match self {
            Self::Database(sqlx::Error::Database(error)) => {
                error.is_unique_violation()
                    || error.code().is_some_and(|code| matches!(&*code, "40P01" | "40001"))
            }
            Self::Overtaken => true,
            _ => false,
        }
    }
}

impl Store {
    /// Opens `sqlite://PATH`, makes its directory (mode 0750) and file (mode 0600) where they are missing; or
    /// connects to `postgres://…`. Brings the schema up to date.
    ///
    /// # Errors
    /// [`StoreError`] for another kind of URL, for a database that cannot be made or reached, and for one that
    /// a newer version has written.
    pub async fn open(url: &str) -> Result<Self, StoreError> {
        Self::open_with_key(url, None).await
    }

    /// As [`Self::open`], with the key that seals tokens. Without one a token that is made here cannot be read
    /// again, so callbacks of its account are not signed.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn open_with_key(url: &str, key: Option<SealKey>) -> Result<Self, StoreError> {
        let options = options(url)?;
        options.migrate().await?;
        let readers = options.readers(READERS, BUSY).await?;
        let listers = options.readers(LISTERS, BUSY).await?;
        let (queue, orders) = mpsc::channel(QUEUE);
        let shared = matches!(options, Options::Postgres(_));
        let routes = Arc::new(RouteCache::new(!shared));
        let node = Arc::<str>::from(Uuid::new_v4().to_string());
        let writer = Writer::new(options.clone(), options.connect().await?, node.clone(), routes.clone());
        let committed = writer.committed();
        tokio::spawn(writer::run(writer, orders));
        let (hours, directory, reloading, follower) = Default::default();
        let secrets = Secrets::new(key);
        let pulse = shared.then(|| nodes::Pulse::new(options.clone()));
        let inner = Inner {
            readers,
            listers,
            hours,
            queue,
            directory,
            reloading,
            routes,
            secrets,
            node,
            pulse,
            follower,
            committed,
        };
        let store = Self { inner: Arc::new(inner) };
        store.reload_directory().await?;
        if let Options::Postgres(options) = options {
            let follower = tokio::spawn(nodes::follow_directory(Arc::downgrade(&store.inner), options));
            // It is set here only.
            let _ = store.inner.follower.set(follower.abort_handle());
        }
        Ok(store)
    }

    /// Several processes may use this database at one time.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        matches!(self.inner.readers, Pool::Postgres(_))
    }

    /// Whether the database answers.
    ///
    /// # Errors
    /// [`StoreError`] when it does not.
    pub async fn ping(&self) -> Result<(), StoreError> {
        query("SELECT 1").execute(&self.inner.readers).await?;
        Ok(())
    }

    /// Waits until everything queued is stored and closes the database. Later writes are
    /// [`StoreError::Closed`].
    pub async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.inner.queue.send(writer::Order::Close(done)).await.is_ok() {
            let _ = closed.await;
        }
        if let Some(follower) = self.inner.follower.get() {
            follower.abort();
        }
        if let Some(pulse) = &self.inner.pulse {
            pulse.stop().await;
        }
        tokio::join!(self.inner.readers.close(), self.inner.listers.close());
    }

    /// Ends after the next commit of this process, or at once when there was one since the last call.
    pub async fn committed(&self) {
        self.inner.committed.notified().await;
    }

    fn node(&self) -> &str {
        &self.inner.node
    }

    fn readers(&self) -> &Pool {
        &self.inner.readers
    }

    /// For whatever may take long.
    fn lists(&self) -> &Pool {
        &self.inner.listers
    }

    fn directory(&self) -> Arc<Directory> {
        self.inner.directory.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads accounts, sub-accounts and numbers into memory, whoever has changed them.
    async fn reload_directory(&self) -> Result<(), StoreError> {
        let _one_at_a_time = self.inner.reloading.lock().await;
        let accounts = accounts::load(self.readers()).await?;
        let subaccounts = accounts::load_subaccounts(self.readers()).await?;
        let numbers =
            numbers::load(self.readers(), accounts.first().map(|account| account.auth_id.as_str())).await?;
        let places = numbers
            .iter()
            .enumerate()
            .map(|(place, number)| (number.number.did.digits().to_owned(), place))
            .collect();
        let directory = Arc::new(Directory { accounts, subaccounts, numbers, places });
        *self.inner.directory.write().unwrap_or_else(PoisonError::into_inner) = directory;
        Ok(())
    }

    /// Queues `write` and waits until the transaction that holds it is committed.
    async fn write<W: Write>(&self, write: W) -> Result<W::Done, StoreError> {
        let (reply, done) = oneshot::channel();
        let order =
            writer::Order::Write { write: Box::new(Queued::new(write, reply)), may_wait: W::MAY_WAIT };
        self.inner.queue.send(order).await.map_err(|_| StoreError::Closed)?;
        done.await.map_err(|_| StoreError::Closed)?
    }

    /// Queues what is said about a call that goes on, without waiting for it: the call does not depend on it, and
    /// its close says it again.
    ///
    /// # Errors
    /// [`StoreError::Closed`] when the queue is closed or full.
    fn note_call(&self, write: CallWrite) -> Result<(), StoreError> {
        let (reply, _nobody) = oneshot::channel();
        self.inner.queue.try_send(writer::Order::Call(write, reply)).map_err(|_| StoreError::Closed)
    }

    /// As [`Self::write`], for what is said about calls.
    async fn write_call(&self, write: CallWrite) -> Result<(), StoreError> {
        let (reply, done) = oneshot::channel();
        self.inner.queue.send(writer::Order::Call(write, reply)).await.map_err(|_| StoreError::Closed)?;
        done.await.map_err(|_| StoreError::Closed)?
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Store")
    }
}

fn options(url: &str) -> Result<Options, StoreError> {
    let scheme = |name: &str| url.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name));
    if scheme("postgres:") || scheme("postgresql:") {
        return Options::postgres(url);
    }
    if !scheme("sqlite:") {
        return Err(StoreError::Url);
    }
    let path = url.get("sqlite:".len()..).unwrap_or_default();
    let path = path.strip_prefix("//").unwrap_or(path);
    // Each connection to a database in memory would get one of its own.
    if path.is_empty() || path.starts_with(':') || path.ends_with('/') {
        return Err(StoreError::NoFile);
    }
    create(Path::new(path))?;
    let options = SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Normal)
        .busy_timeout(BUSY)
        .foreign_keys(false)
        .pragma("cache_size", PAGES)
        // The WAL may grow to 16 MB: each checkpoint writes every page once, however often it has changed.
        .pragma("wal_autocheckpoint", "4000")
        .pragma("temp_store", "memory")
        .disable_statement_logging();
    Ok(Options::Sqlite(options))
}

/// SQLite gives its side files (WAL, shared memory) the mode of the database file.
fn create(path: &Path) -> Result<(), StoreError> {
    let fail = |path: &Path, source| StoreError::Create { path: path.to_owned(), source };
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        DirBuilder::new()
            .recursive(true)
            .mode(0o750)
            .create(parent)
            .map_err(|source| fail(parent, source))?;
    }
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path);
    file.map(drop).map_err(|source| fail(path, source))
}

#[cfg(test)]
mod tests;

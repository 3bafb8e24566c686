//! The embedded database: accounts, virtual numbers, masking sessions and call records.
//!
//! ```text
//! API, calls ──► bounded queue ──► writer task ──► one transaction per batch ──► SQLite (WAL)
//! API, calls ◄── pool of readers ◄──────────────────────────────────────────────┘
//! ```
//!
//! All SQL of the project is in this folder. Every write goes through the one writer task: it takes what is
//! queued, does it in one `BEGIN IMMEDIATE` transaction and answers each caller after the commit, so a write
//! that was answered survives a `kill -9`, and many calls share one commit. What reads and then writes (the
//! allocation of a number) is atomic, because nobody else writes.
//!
//! Accounts and virtual numbers change at start only and are also kept in memory, and so are the latest
//! look-ups of calls until a session on that number changes. Parties' numbers and PINs
//! lie in the rows because the API gives them back; they are in no error and in no log line.

mod accounts;
mod allocation;
mod call_list;
mod call_writes;
mod calls;
mod numbers;
mod recordings;
mod route_cache;
mod row;
mod session_row;
mod session_types;
mod sessions;
mod sql;
mod writer;

use std::fs::{DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use sqlx::ConnectOptions;
use sqlx::postgres::PgPoolOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use tokio::sync::{mpsc, oneshot};

pub use accounts::NewAccount;
pub use call_list::LegFilter;
pub use calls::{Cdr, InteractionRow, LegCdr, LegOpened, LegRow, RecordingRow};
pub use numbers::{NoSession, Route, VirtualNumber, VirtualNumberConfig};
pub use recordings::{
    Delivered, NewRecording, RecordedCall, Recording, RecordingDone, RecordingFilter, RecordingState,
};
pub use session_types::{
    ChangeRefusal, NewPin, NewSession, SessionFilter, SessionPage, SessionState, SessionUpdate, TimeRange,
};

use accounts::Account;
use call_writes::CallWrite;
use numbers::PoolNumber;
use route_cache::RouteCache;
use sql::{Connection, Options, Pool, query};
use writer::{Queued, Write, Writer};

/// How many writes may wait for the writer task; further callers wait for room.
const QUEUE: usize = 4096;
/// Connections that read.
const READERS: u32 = 4;
/// How long a connection waits for a lock that another process holds.
const BUSY: Duration = Duration::from_secs(5);

/// The database. Clones share it.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    readers: Pool,
    queue: mpsc::Sender<writer::Order>,
    directory: RwLock<Arc<Directory>>,
    routes: Arc<RouteCache>,
}

/// What changes at start only.
#[derive(Default)]
struct Directory {
    /// In order: configured ones as they are configured.
    accounts: Vec<Account>,
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
    /// A row does not hold what was written.
    #[error("database: column {0} holds a value that cannot be read")]
    Corrupt(&'static str),
}

impl Store {
    /// Opens `sqlite://PATH`, makes its directory (mode 0750) and file (mode 0600) where they are missing, and
    /// brings the schema up to date.
    ///
    /// # Errors
    /// [`StoreError`] for another kind of URL, for a file that cannot be made or read, and for a database that
    /// a newer version has written.
    pub async fn open(url: &str) -> Result<Self, StoreError> {
        let options = options(url)?;
        let mut connection = options.connect().await?;
        let migrations = sqlx::migrate!("src/store/migrations");
        match &mut connection {
            Connection::Sqlite(on) => migrations.run(on).await?,
            Connection::Postgres(on) => migrations.run(on).await?,
        }
        let readers = readers(&options).await?;
        let (queue, orders) = mpsc::channel(QUEUE);
        let routes = Arc::new(RouteCache::new());
        tokio::spawn(writer::run(Writer::new(options, connection, routes.clone()), orders));
        let store = Self { inner: Arc::new(Inner { readers, queue, directory: RwLock::default(), routes }) };
        store.reload_directory().await?;
        Ok(store)
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
        self.inner.readers.close().await;
    }

    fn readers(&self) -> &Pool {
        &self.inner.readers
    }

    fn directory(&self) -> Arc<Directory> {
        self.inner.directory.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn reload_directory(&self) -> Result<(), StoreError> {
        let accounts = accounts::load(self.readers()).await?;
        let numbers =
            numbers::load(self.readers(), accounts.first().map(|account| account.auth_id.as_str())).await?;
        let places = numbers
            .iter()
            .enumerate()
            .map(|(place, number)| (number.number.did.digits().to_owned(), place))
            .collect();
        let directory = Arc::new(Directory { accounts, numbers, places });
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
        .disable_statement_logging();
    Ok(Options::Sqlite(options))
}

async fn readers(options: &Options) -> Result<Pool, StoreError> {
    Ok(match options {
        Options::Sqlite(options) => Pool::Sqlite(
            SqlitePoolOptions::new()
                .max_connections(READERS)
                .min_connections(1)
                .test_before_acquire(false)
                .idle_timeout(None)
                .max_lifetime(None)
                .connect_with(options.clone().pragma("query_only", "1"))
                .await?,
        ),
        Options::Postgres(options) => Pool::Postgres(
            PgPoolOptions::new()
                .max_connections(2 * READERS)
                .min_connections(1)
                .acquire_timeout(BUSY)
                .connect_with(options.clone())
                .await?,
        ),
    })
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

//! One way to speak SQL to both databases, SQLite and PostgreSQL.
//!
//! A statement is written once, with `$1, $2, …`, and uses only what both understand alike; the columns are
//! TEXT, BIGINT, DOUBLE PRECISION and BLOB. What differs (how a transaction begins, locks between processes) has
//! a method here. sqlx's own `Any` would do the same with more surprises: it cannot carry a typed NULL.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};
use sqlx::postgres::{PgArguments, PgConnectOptions, PgConnection, PgPool, PgPoolOptions, PgRow};
use sqlx::sqlite::{
    SqliteArguments, SqliteConnectOptions, SqliteConnection, SqlitePool, SqlitePoolOptions, SqliteRow,
};
use sqlx::{Connection as _, Executor as _, Postgres, Row as _, SqlSafeStr, SqlStr, Sqlite};
use uuid::Uuid;

use super::StoreError;
use super::row::Columns;

/// A value of a statement. NULL has a type too: PostgreSQL wants to know it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Value<'q> {
    Text(Option<Cow<'q, str>>),
    Integer(Option<i64>),
    /// Stored as text, in lower case.
    Uuid(Option<Uuid>),
}

impl Value<'_> {
    pub(super) fn into_owned(self) -> Value<'static> {
        match self {
            Self::Text(text) => Value::Text(text.map(|text| Cow::Owned(text.into_owned()))),
            Self::Integer(number) => Value::Integer(number),
            Self::Uuid(uuid) => Value::Uuid(uuid),
        }
    }
}

impl<'q> From<&'q str> for Value<'q> {
    fn from(text: &'q str) -> Self {
        Self::Text(Some(Cow::Borrowed(text)))
    }
}

impl<'q> From<&'q String> for Value<'q> {
    fn from(text: &'q String) -> Self {
        Self::from(text.as_str())
    }
}

impl From<String> for Value<'_> {
    fn from(text: String) -> Self {
        Self::Text(Some(Cow::Owned(text)))
    }
}

impl<'q> From<Option<&'q str>> for Value<'q> {
    fn from(text: Option<&'q str>) -> Self {
        Self::Text(text.map(Cow::Borrowed))
    }
}

impl<'q> From<&'q Option<String>> for Value<'q> {
    fn from(text: &'q Option<String>) -> Self {
        Self::from(text.as_deref())
    }
}

impl From<Option<String>> for Value<'_> {
    fn from(text: Option<String>) -> Self {
        Self::Text(text.map(Cow::Owned))
    }
}

impl From<i64> for Value<'_> {
    fn from(number: i64) -> Self {
        Self::Integer(Some(number))
    }
}

impl From<Option<i64>> for Value<'_> {
    fn from(number: Option<i64>) -> Self {
        Self::Integer(number)
    }
}

impl From<Uuid> for Value<'_> {
    fn from(uuid: Uuid) -> Self {
        Self::Uuid(Some(uuid))
    }
}

impl From<Option<Uuid>> for Value<'_> {
    fn from(uuid: Option<Uuid>) -> Self {
        Self::Uuid(uuid)
    }
}

/// A statement and its values, in order.
pub(super) struct Query<'q> {
    sql: SqlStr,
    /// The same with a plain `?` for each value.
    plain: Option<&'static str>,
    values: Vec<Value<'q>>,
}

/// A statement with values still to be bound.
pub(super) fn query<'q>(sql: impl SqlSafeStr) -> Query<'q> {
    Query { sql: sql.into_sql_str(), plain: None, values: Vec::new() }
}

/// A statement of very many values, also given with a plain `?` for each: for every `$n` that it binds, SQLite goes
/// through the names of all.
pub(super) fn wide_query<'q>(numbered: &'static str, plain: &'static str) -> Query<'q> {
    Query { plain: Some(plain), ..query(numbered) }
}

impl<'q> Query<'q> {
    /// The value of the next `$n`.
    pub(super) fn bind(mut self, value: impl Into<Value<'q>>) -> Self {
        self.values.push(value.into());
        self
    }

    /// How SQLite would do it.
    #[cfg(test)]
    pub(super) fn plan(self) -> Self {
        let sql = format!("EXPLAIN QUERY PLAN {}", self.sql.as_str());
        Self { sql: sqlx::AssertSqlSafe(sql).into_sql_str(), ..self }
    }

    /// Runs it and returns how many rows it changed.
    pub(super) async fn execute(self, on: impl Source) -> Result<u64, StoreError> {
        Ok(on.execute(self).await?)
    }

    pub(super) async fn fetch_all(self, on: impl Source) -> Result<Vec<Row>, StoreError> {
        Ok(on.fetch_all(self).await?)
    }

    /// The first row, if there is one.
    pub(super) async fn fetch_optional(self, on: impl Source) -> Result<Option<Row>, StoreError> {
        Ok(on.fetch_optional(self).await?)
    }

    /// The first row; an error if there is none.
    pub(super) async fn fetch_one(self, on: impl Source) -> Result<Row, StoreError> {
        on.fetch_optional(self).await?.ok_or(StoreError::Database(sqlx::Error::RowNotFound))
    }

    fn for_sqlite(self) -> sqlx::query::Query<'q, Sqlite, SqliteArguments> {
        let sql = self.plain.map_or(self.sql, SqlSafeStr::into_sql_str);
        self.values.into_iter().fold(sqlx::query(sql), |query, value| match value {
            // What is shared goes over to SQLite's thread without another copy.
            Value::Text(text) => query.bind(text.map(Arc::<str>::from)),
            Value::Integer(number) => query.bind(number),
            Value::Uuid(uuid) => {
                query.bind(uuid.map(|uuid| {
                    Arc::<str>::from(&*uuid.hyphenated().encode_lower(&mut Uuid::encode_buffer()))
                }))
            }
        })
    }

    fn for_postgres(self) -> sqlx::query::Query<'q, Postgres, PgArguments> {
        self.values.into_iter().fold(sqlx::query(self.sql), |query, value| match value {
            // The only character that PostgreSQL cannot store; its refusal would look like a fault of ours.
            Value::Text(text) => query.bind(text.map(|text| match text.contains('\0') {
                true => text.replace('\0', "\u{FFFD}"),
                false => text.into_owned(),
            })),
            Value::Integer(number) => query.bind(number),
            Value::Uuid(uuid) => query.bind(uuid.map(|uuid| uuid.to_string())),
        })
    }
}

/// A row of either database.
#[derive(Debug)]
pub(super) enum Row {
    Sqlite(SqliteRow),
    Postgres(PgRow),
}

// A value of another type than the column's is reported by the column's name alone: sqlx would print it.
impl Columns for Row {
    fn text(&self, column: &'static str) -> Result<String, StoreError> {
        match self {
            Self::Sqlite(row) => row.try_get(column),
            Self::Postgres(row) => row.try_get(column),
        }
        .map_err(|_| StoreError::Corrupt(column))
    }

    fn text_opt(&self, column: &'static str) -> Result<Option<String>, StoreError> {
        match self {
            Self::Sqlite(row) => row.try_get(column),
            Self::Postgres(row) => row.try_get(column),
        }
        .map_err(|_| StoreError::Corrupt(column))
    }

    fn integer_opt(&self, column: &'static str) -> Result<Option<i64>, StoreError> {
        match self {
            Self::Sqlite(row) => row.try_get(column),
            Self::Postgres(row) => row.try_get(column),
        }
        .map_err(|_| StoreError::Corrupt(column))
    }
}

/// Where a statement can be run: a [`Connection`] or a [`Pool`].
pub(super) trait Source: Send {
    fn execute(self, query: Query<'_>) -> impl Future<Output = Result<u64, sqlx::Error>> + Send;
    fn fetch_all(self, query: Query<'_>) -> impl Future<Output = Result<Vec<Row>, sqlx::Error>> + Send;
    fn fetch_optional(
        self,
        query: Query<'_>,
    ) -> impl Future<Output = Result<Option<Row>, sqlx::Error>> + Send;
}

/// One connection to either database.
#[derive(Debug)]
pub(super) enum Connection {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

impl Source for &mut Connection {
    async fn execute(self, query: Query<'_>) -> Result<u64, sqlx::Error> {
        #[cfg(test)]
        counted::statement();
        match self {
            Connection::Sqlite(on) => Ok(query.for_sqlite().execute(on).await?.rows_affected()),
            Connection::Postgres(on) => Ok(query.for_postgres().execute(on).await?.rows_affected()),
        }
    }

    async fn fetch_all(self, query: Query<'_>) -> Result<Vec<Row>, sqlx::Error> {
        #[cfg(test)]
        counted::statement();
        Ok(match self {
            Connection::Sqlite(on) => {
                query.for_sqlite().fetch_all(on).await?.into_iter().map(Row::Sqlite).collect()
            }
            Connection::Postgres(on) => {
                query.for_postgres().fetch_all(on).await?.into_iter().map(Row::Postgres).collect()
            }
        })
    }

    async fn fetch_optional(self, query: Query<'_>) -> Result<Option<Row>, sqlx::Error> {
        #[cfg(test)]
        counted::statement();
        Ok(match self {
            Connection::Sqlite(on) => query.for_sqlite().fetch_optional(on).await?.map(Row::Sqlite),
            Connection::Postgres(on) => query.for_postgres().fetch_optional(on).await?.map(Row::Postgres),
        })
    }
}

impl Connection {
    /// Begins a transaction that writes. SQLite is locked at once: a lock that is asked for after a read is
    /// refused when somebody else has written meanwhile.
    pub(super) async fn begin(&mut self) -> Result<(), sqlx::Error> {
        #[cfg(test)]
        counted::transaction();
        match self {
            Self::Sqlite(on) => on.execute("BEGIN IMMEDIATE").await.map(drop),
            // Not what the database may have as its default: what is read after a lock was waited for must be
            // what its last owner has committed.
            Self::Postgres(on) => on.execute("BEGIN ISOLATION LEVEL READ COMMITTED").await.map(drop),
        }
    }

    pub(super) async fn commit(&mut self) -> Result<(), sqlx::Error> {
        match self {
            Self::Sqlite(on) => on.execute("COMMIT").await.map(drop),
            Self::Postgres(on) => on.execute("COMMIT").await.map(drop),
        }
    }

    pub(super) async fn rollback(&mut self) -> Result<(), sqlx::Error> {
        match self {
            Self::Sqlite(on) => on.execute("ROLLBACK").await.map(drop),
            Self::Postgres(on) => on.execute("ROLLBACK").await.map(drop),
        }
    }

    /// Keeps other processes from writing about the same things until the transaction ends. The keys are taken
    /// in their order, so that two processes never wait for each other. SQLite has one writer anyway.
    pub(super) async fn lock(&mut self, keys: &BTreeSet<i64>) -> Result<(), sqlx::Error> {
        if let Self::Postgres(on) = self {
            for key in keys {
                sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(*key).execute(&mut *on).await?;
            }
        }
        Ok(())
    }

    /// As [`Self::lock`] of one key, without waiting: `false` when another process has it.
    pub(super) async fn try_lock(&mut self, key: i64) -> Result<bool, StoreError> {
        if !self.is_remote() {
            return Ok(true);
        }
        let free = "SELECT CAST(CAST(pg_try_advisory_xact_lock($1) AS INTEGER) AS BIGINT) AS free";
        query(free).bind(key).fetch_one(self).await?.flag("free")
    }

    /// Tells every process that listens to `channel`, when the transaction is committed. An SQLite file has one.
    pub(super) async fn announce(&mut self, channel: &str, message: &str) -> Result<(), sqlx::Error> {
        if let Self::Postgres(on) = self {
            let notify = sqlx::query("SELECT pg_notify($1, $2)");
            notify.bind(channel.to_owned()).bind(message.to_owned()).execute(on).await?;
        }
        Ok(())
    }

    /// Whether it leads to a server, which may vanish.
    pub(super) fn is_remote(&self) -> bool {
        matches!(self, Self::Postgres(_))
    }

    pub(super) async fn close(self) -> Result<(), sqlx::Error> {
        match self {
            Self::Sqlite(on) => on.close().await,
            Self::Postgres(on) => on.close().await,
        }
    }
}

/// What this thread has asked of connections that write: all of one test, whose runtime has one thread.
#[cfg(test)]
pub(super) mod counted {
    use std::cell::Cell;

    thread_local! {
        static COUNTS: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
    }

    pub(super) fn statement() {
        COUNTS.with(|counts| counts.set((counts.get().0 + 1, counts.get().1)));
    }

    pub(super) fn transaction() {
        COUNTS.with(|counts| counts.set((counts.get().0, counts.get().1 + 1)));
    }

    /// Statements and transactions since the last call.
    pub(in crate::store) fn take() -> (usize, usize) {
        COUNTS.with(Cell::take)
    }
}

/// Connections that read, to either database.
#[derive(Debug, Clone)]
pub(super) enum Pool {
    Sqlite(SqlitePool),
    Postgres(PgPool),
}

impl Source for &Pool {
    async fn execute(self, query: Query<'_>) -> Result<u64, sqlx::Error> {
        match self {
            Pool::Sqlite(on) => Ok(query.for_sqlite().execute(on).await?.rows_affected()),
            Pool::Postgres(on) => Ok(query.for_postgres().execute(on).await?.rows_affected()),
        }
    }

    async fn fetch_all(self, query: Query<'_>) -> Result<Vec<Row>, sqlx::Error> {
        Ok(match self {
            Pool::Sqlite(on) => {
                query.for_sqlite().fetch_all(on).await?.into_iter().map(Row::Sqlite).collect()
            }
            Pool::Postgres(on) => {
                query.for_postgres().fetch_all(on).await?.into_iter().map(Row::Postgres).collect()
            }
        })
    }

    async fn fetch_optional(self, query: Query<'_>) -> Result<Option<Row>, sqlx::Error> {
        Ok(match self {
            Pool::Sqlite(on) => query.for_sqlite().fetch_optional(on).await?.map(Row::Sqlite),
            Pool::Postgres(on) => query.for_postgres().fetch_optional(on).await?.map(Row::Postgres),
        })
    }
}

impl Pool {
    pub(super) async fn close(&self) {
        match self {
            Self::Sqlite(pool) => pool.close().await,
            Self::Postgres(pool) => pool.close().await,
        }
    }
}

/// How to reach the database.
#[derive(Debug, Clone)]
pub(super) enum Options {
    Sqlite(SqliteConnectOptions),
    Postgres(PgConnectOptions),
}

impl Options {
    /// Of a `postgres://` URL.
    pub(super) fn postgres(url: &str) -> Result<Self, StoreError> {
        use sqlx::ConnectOptions as _;
        // sqlx would repeat the URL, which may hold a password.
        let options = PgConnectOptions::from_str(url).map_err(|_| StoreError::Url)?;
        Ok(Self::Postgres(options.application_name("maskline").disable_statement_logging()))
    }

    pub(super) async fn connect(&self) -> Result<Connection, sqlx::Error> {
        Ok(match self {
            Self::Sqlite(options) => Connection::Sqlite(SqliteConnection::connect_with(options).await?),
            Self::Postgres(options) => {
                Connection::Postgres(PgConnection::connect_with(&bounded(options)).await?)
            }
        })
    }

    /// Brings the schema up to date, however long that takes.
    pub(super) async fn migrate(&self) -> Result<(), StoreError> {
        let migrations = sqlx::migrate!("src/store/migrations");
        match self {
            Self::Sqlite(options) => {
                let mut on = SqliteConnection::connect_with(options).await?;
                migrations.run(&mut on).await?;
                on.close().await?;
            }
            Self::Postgres(options) => {
                let mut on = PgConnection::connect_with(options).await?;
                migrations.run(&mut on).await?;
                on.close().await?;
            }
        }
        Ok(())
    }

    /// Connections that read.
    pub(super) async fn readers(&self, count: u32, patience: Duration) -> Result<Pool, sqlx::Error> {
        Ok(match self {
            Self::Sqlite(options) => Pool::Sqlite(
                SqlitePoolOptions::new()
                    .max_connections(count)
                    // All from the start: a load must not leave more descriptors behind than it found.
                    .min_connections(count)
                    .test_before_acquire(false)
                    .idle_timeout(None)
                    .max_lifetime(None)
                    .connect_with(options.clone().pragma("query_only", "1"))
                    .await?,
            ),
            // Each is tried before it is used: the server may have been restarted.
            Self::Postgres(options) => Pool::Postgres(
                PgPoolOptions::new()
                    .max_connections(2 * count)
                    .min_connections(1)
                    .acquire_timeout(patience)
                    .connect_with(bounded(options))
                    .await?,
            ),
        })
    }
}

/// Parameters of a `postgres://` URL. sqlx would log any other one, value and all.
const PARAMETERS: [&str; 12] = [
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "application_name",
    "statement-cache-capacity",
];

/// What may be shown of a `postgres://` URL: user, server and database.
///
/// # Errors
/// What is wrong with it, without any of it.
pub fn server_of(url: &str) -> Result<String, &'static str> {
    let query = url.split_once('?').map(|(_, query)| query).unwrap_or_default();
    let names = query.split('&').filter(|part| !part.is_empty()).map(|part| part.split('=').next());
    if !names.flatten().all(|name| PARAMETERS.contains(&name)) {
        return Err("it has a parameter that is not known");
    }
    let options = PgConnectOptions::from_str(url).map_err(|_| "it is no URL of a PostgreSQL database")?;
    let Some(database) = options.get_database() else { return Err("it names no database") };
    let place = match options.get_socket() {
        Some(socket) => socket.display().to_string(),
        None => format!("{}:{}", options.get_host(), options.get_port()),
    };
    Ok(format!("postgres://{}@{place}/{database}", options.get_username()))
}

/// No statement takes for ever, and the locks of a process that vanished in a transaction are let go: by the server,
/// which need not have noticed.
fn bounded(options: &PgConnectOptions) -> PgConnectOptions {
    options.clone().options([
        ("statement_timeout", "20s"),
        ("idle_in_transaction_session_timeout", "10s"),
        ("tcp_user_timeout", "15s"),
    ])
}

/// The lock of an account.
pub(super) fn lock_key(account: &str) -> i64 {
    let hash = <[u8; 32]>::from(Sha256::digest(account.as_bytes()));
    hash.first_chunk().map_or(0, |start| i64::from_be_bytes(*start))
}

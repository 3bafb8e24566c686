//! A database of a test's own, of either kind.

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Once;

use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use uuid::Uuid;

/// Where a PostgreSQL is on which tests may make databases; `sip_tests/with_postgres` sets it.
const VARIABLE: &str = "MASKLINE_TEST_POSTGRES";

/// Makes two tests of each function `async fn name(database: &Database)`: `name::sqlite` and `name::postgres`.
macro_rules! on_both {
    ($test:meta: $($name:ident),+ $(,)?) => {$(
        mod $name {
            #[$test]
            async fn sqlite() {
                super::$name(&super::Database::sqlite()).await;
            }

            #[$test]
            async fn postgres() {
                if let Some(database) = super::Database::postgres().await {
                    super::$name(&database).await;
                    database.remove().await;
                }
            }
        }
    )+};
}

pub(in crate::store) use on_both;

/// A database without any table.
pub(in crate::store) enum Database {
    /// A directory that goes away with the value.
    Sqlite(PathBuf),
    /// The URL of the server's own database, and the name of this one.
    Postgres(String, String),
}

impl Database {
    pub(in crate::store) fn sqlite() -> Self {
        Self::Sqlite(std::env::temp_dir().join(format!("maskline-store-{}", Uuid::new_v4())))
    }

    /// `None`, after saying so, when there is no PostgreSQL.
    pub(in crate::store) async fn postgres() -> Option<Self> {
        let Ok(server) = std::env::var(VARIABLE) else {
            static SAID: Once = Once::new();
            // Past the test harness, which would keep it to itself.
            SAID.call_once(|| {
                let skipped = format!("{VARIABLE} is not set: tests on PostgreSQL are skipped");
                writeln!(std::io::stderr(), "{skipped}").unwrap();
            });
            return None;
        };
        let name = format!("maskline_{}", Uuid::new_v4().simple());
        let database = Self::Postgres(server, name.clone());
        database.admin(format!("CREATE DATABASE {name}")).await;
        Some(database)
    }

    pub(in crate::store) fn url(&self) -> String {
        match self {
            Self::Sqlite(directory) => format!("sqlite://{}/deep/maskline.db", directory.display()),
            Self::Postgres(server, name) => {
                let (address, query) = server.split_once('?').unwrap_or((server, ""));
                format!("{}/{name}?{query}", address.rsplit_once('/').unwrap().0)
            }
        }
    }

    /// The directory of an SQLite file.
    pub(super) fn folder(&self) -> PathBuf {
        let Self::Sqlite(directory) = self else { panic!("not a file") };
        directory.join("deep")
    }

    pub(super) fn is_postgres(&self) -> bool {
        matches!(self, Self::Postgres(..))
    }

    /// Ends every connection to the database, as a server does that is restarted.
    pub(super) async fn cut(&self) {
        let Self::Postgres(_, name) = self else { panic!("not a server") };
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname =";
        self.admin(format!("{end} '{name}'")).await;
    }

    /// A connection that is nobody's.
    pub(super) async fn connect(&self) -> PgConnection {
        PgConnection::connect(&self.url()).await.unwrap()
    }

    /// Whether somebody waits for a lock that another connection holds.
    pub(super) async fn waits(&self) -> bool {
        let Self::Postgres(_, name) = self else { panic!("not a server") };
        let waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = $1";
        sqlx::query(waiting).bind(name).fetch_optional(&mut self.connect().await).await.unwrap().is_some()
    }

    /// Whether new connections are let in.
    pub(super) async fn admit(&self, admitted: bool) {
        let Self::Postgres(_, name) = self else { panic!("not a server") };
        self.admin(format!("ALTER DATABASE {name} WITH ALLOW_CONNECTIONS {admitted}")).await;
    }

    pub(in crate::store) async fn remove(self) {
        if let Self::Postgres(_, name) = &self {
            self.admin(format!("DROP DATABASE {name} WITH (FORCE)")).await;
        }
    }

    async fn admin(&self, statement: String) {
        let Self::Postgres(server, _) = self else { panic!("not a server") };
        let mut connection = PgConnection::connect(server).await.unwrap();
        connection.execute(AssertSqlSafe(statement)).await.unwrap();
        connection.close().await.unwrap();
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if let Self::Sqlite(directory) = self {
            let _ = std::fs::remove_dir_all(directory);
        }
    }
}

//! Several processes on one database: who lives, what the dead have left open, and how one hears what another
//! has changed.
//!
//! A process is a node from its start to its end, named by a uuid. It notes every second that it lives, on a
//! connection that has no other use; a node that has been silent for [`SILENCE`] is dead, and any other one closes
//! the calls that it has left. A node that was only held up loses nothing by it: the close of a call says all of its
//! record again. Times are the nodes' own, so their clocks must agree to a few seconds, as the ends of sessions
//! demand anyway.
//!
//! An SQLite file belongs to one process: there every other node is dead at once, and nobody has to be told of
//! changes.

use std::collections::BTreeSet;
use std::sync::{LazyLock, Weak};
use std::time::Duration;

use jiff::Timestamp;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};

use super::outbox;
use super::row::{Columns, duration_micros, micros};
use super::sql::{Connection, Options, Query, lock_key, query};
use super::statements::Statements;
use super::writer::Write;
use super::{Inner, Store, StoreError};
use crate::clock;

/// A node that has not been heard of for so long is dead.
const SILENCE: Duration = Duration::from_secs(15);
/// The hang-up cause of a leg that was open when its process died, and who hung up.
const ORPHAN_CAUSE: (&str, i64) = ("process ended", 5010);
const ORPHAN_SOURCE: &str = "System";
/// So many calls of a dead process are closed in each transaction.
const ORPHANS: usize = 50;
/// Who closes calls of dead processes has this lock.
const CLOSING: &str = "maskline_closing";

/// What a node is told of, see [`Store::change_directory`].
const CHANNEL: &str = "maskline_directory";
/// When nothing was heard for so long, the connection is tried, and everything is read again in case it was deaf.
const QUIET: Duration = Duration::from_secs(30);
/// How long the connection may take to come up or to answer.
const ANSWER: Duration = Duration::from_secs(5);
/// Between two tries to listen.
const PAUSE: Duration = Duration::from_secs(1);

impl Store {
    /// Notes that this process lives; every second or so, and at the start before its first call. On a database that
    /// processes share, it waits neither for what this one writes nor for what it reads.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn heartbeat(&self, now: Timestamp) -> Result<(), StoreError> {
        let beat = Heartbeat { node: self.node().to_owned(), now };
        match &self.inner.pulse {
            Some(_) if self.inner.queue.is_closed() => Err(StoreError::Closed),
            Some(pulse) => pulse.beat(beat).await,
            None => self.write(beat).await,
        }
    }

    /// Closes the calls that dead processes have left open, each at the process' last heartbeat: some in each
    /// transaction, so that nobody else who writes has to wait for long. Of two processes that do it at once one goes
    /// on. Call it at start, and every few seconds where several processes share the database. Returns how many legs
    /// it closed.
    ///
    /// # Errors
    /// The first [`StoreError`], when the database fails: what is not closed then is left for the next time.
    pub async fn close_orphans(&self, now: Timestamp) -> Result<u64, StoreError> {
        let silent_since = if self.is_shared() {
            micros(now).saturating_sub(duration_micros(SILENCE))
        } else {
            i64::MAX // Whoever had the file before is gone.
        };
        let (mut closed, mut failure) = (0, None);
        for node in self.dead_nodes(silent_since).await? {
            match self.close_node(node, silent_since, now, &mut closed).await {
                Ok(Progress::Elsewhere) => break,
                Ok(Progress::Closed(_) | Progress::Done) => {}
                // What is wrong with this one's calls must not keep the others open.
                Err(error) => drop(failure.get_or_insert(error)),
            }
        }
        failure.map_or(Ok(closed), Err)
    }

    /// Closes what a dead node has left, and says why it stopped; adds to `closed` how many legs.
    async fn close_node(
        &self,
        node: String,
        silent_since: i64,
        now: Timestamp,
        closed: &mut u64,
    ) -> Result<Progress, StoreError> {
        loop {
            let calls = self.calls_left_by(&node).await?;
            let before = *closed;
            for some in calls.chunks(ORPHANS) {
                let write = CloseOrphans { node: node.clone(), calls: some.to_vec(), silent_since, now };
                match self.write(write).await? {
                    Progress::Closed(legs) => *closed += legs,
                    stopped => return Ok(stopped),
                }
            }
            // It may have opened more, or come to life and closed all of them.
            if *closed == before {
                return self.write(CloseOrphans { node, calls: vec![], silent_since, now }).await;
            }
        }
    }

    /// Other processes that have been silent since then: by their heartbeats, or by legs of theirs that are open though
    /// no heartbeat was ever heard.
    async fn dead_nodes(&self, silent_since: i64) -> Result<Vec<String>, StoreError> {
        let rows = query(
            "SELECT node FROM nodes WHERE node <> $1 AND beat_at <= $2
             UNION SELECT node FROM legs WHERE ended_at IS NULL AND node <> $1 AND started_at <= $2
                 AND NOT EXISTS (SELECT 1 FROM nodes n WHERE n.node = legs.node)",
        )
        .bind(self.node())
        .bind(silent_since)
        .fetch_all(self.readers())
        .await?;
        rows.iter().map(|row| row.text("node")).collect()
    }

    /// Looked for once and not for each transaction: no index has the node, every call would pay for it.
    async fn calls_left_by(&self, node: &str) -> Result<Vec<String>, StoreError> {
        let rows = query("SELECT DISTINCT interaction FROM legs WHERE ended_at IS NULL AND node = $1")
            .bind(node)
            .fetch_all(self.readers())
            .await?;
        rows.iter().map(|row| row.text("interaction")).collect()
    }

    /// Does a write that changes accounts or numbers. When it returns, this process sees the change; the others
    /// that share the database are told by the commit itself and see it a moment later.
    pub(super) async fn change_directory<W: Write>(&self, write: W) -> Result<W::Done, StoreError> {
        let done = self.write(Announced { write, node: self.node().to_owned() }).await?;
        self.reload_directory().await?;
        Ok(done)
    }
}

struct Heartbeat {
    node: String,
    now: Timestamp,
}

impl Write for Heartbeat {
    type Done = ();
    const MAY_WAIT: bool = true;

    async fn apply(&mut self, connection: &mut Connection) -> Result<(), StoreError> {
        query(
            "INSERT INTO nodes (node, beat_at) VALUES ($1, $2)
             ON CONFLICT (node) DO UPDATE SET beat_at = excluded.beat_at",
        )
        .bind(&self.node)
        .bind(micros(self.now))
        .execute(connection)
        .await?;
        Ok(())
    }
}

/// The connection that says that this process lives. It is used for nothing else: a node that only waits for its turn
/// must not be taken for dead.
pub(super) struct Pulse {
    options: Options,
    /// `None` before the first heartbeat, and after one that failed.
    connection: tokio::sync::Mutex<Option<Connection>>,
}

impl Pulse {
    pub(super) fn new(options: Options) -> Self {
        Self { options, connection: tokio::sync::Mutex::default() }
    }

    async fn beat(&self, mut beat: Heartbeat) -> Result<(), StoreError> {
        let mut kept = self.connection.lock().await;
        // One that was lost since the last beat is made anew at once.
        if let Some(mut connection) = kept.take()
            && let Ok(Ok(())) = tokio::time::timeout(ANSWER, beat.apply(&mut connection)).await
        {
            *kept = Some(connection);
            return Ok(());
        }
        let anew = async {
            let mut connection = self.options.connect().await?;
            beat.apply(&mut connection).await?;
            Ok(connection)
        };
        let anew = tokio::time::timeout(ANSWER, anew).await;
        *kept = Some(anew.unwrap_or(Err(StoreError::Database(sqlx::Error::PoolTimedOut)))?);
        Ok(())
    }

    /// There is no heartbeat after this.
    pub(super) async fn stop(&self) {
        if let Some(connection) = self.connection.lock().await.take() {
            // The server sees it go in any case.
            let _ = connection.close().await;
        }
    }
}

/// How far the calls of a dead node are closed.
enum Progress {
    /// Another process is about it.
    Elsewhere,
    /// So many legs, and there may be more.
    Closed(u64),
    /// None is left, or the node lives.
    Done,
}

/// Closes some of the calls of a node that has been silent. The node itself is removed with the last of them: until
/// then anybody finds it who has to go on.
struct CloseOrphans {
    node: String,
    /// None: nothing of it was found any more.
    calls: Vec<String>,
    silent_since: i64,
    now: Timestamp,
}

impl Write for CloseOrphans {
    type Done = Progress;

    async fn apply(&mut self, connection: &mut Connection) -> Result<Progress, StoreError> {
        if !connection.try_lock(lock_key(CLOSING)).await? {
            return Ok(Progress::Elsewhere);
        }
        let beat = query("SELECT beat_at FROM nodes WHERE node = $1").bind(&self.node);
        let beat = beat.fetch_optional(&mut *connection).await?;
        let beat = match beat.map(|row| row.integer("beat_at")).transpose()? {
            Some(beat) if beat > self.silent_since => return Ok(Progress::Done),
            Some(beat) => beat.min(micros(self.now)),
            // Of a node without any heartbeat the latest moment that the row itself knows is the best that can be said.
            None => i64::MIN,
        };
        if self.calls.is_empty() {
            self.bury(connection).await?;
            return Ok(Progress::Done);
        }
        let (mut legs, mut interactions) = (0, BTreeSet::new());
        let bind = |query: Query<'static>, call: &String| {
            query.bind(call.clone()).bind(self.node.clone()).bind(beat)
        };
        for query in LEGS.all(self.calls.iter(), bind) {
            for row in query.fetch_all(&mut *connection).await? {
                legs += 1;
                interactions.insert(row.text("interaction")?);
            }
        }
        for query in ENDS.all(interactions.iter(), |query, interaction| query.bind(interaction)) {
            query.execute(&mut *connection).await?;
        }
        outbox::report_orphans(connection, &interactions).await?;
        Ok(Progress::Closed(legs))
    }
}

impl CloseOrphans {
    /// Nobody has to look for this node again; unless it has been heard of just now.
    async fn bury(&self, connection: &mut Connection) -> Result<(), StoreError> {
        query(
            "DELETE FROM nodes WHERE node = $1 AND beat_at <= $2
                 AND NOT EXISTS (SELECT 1 FROM legs WHERE ended_at IS NULL AND node = $1)",
        )
        .bind(&self.node)
        .bind(self.silent_since)
        .execute(connection)
        .await?;
        Ok(())
    }
}

/// The open legs of these calls of that node, at its last heartbeat.
static LEGS: LazyLock<Statements> = LazyLock::new(|| {
    let (cause, code) = ORPHAN_CAUSE;
    Statements::new(3, |values| {
        format!(
            "UPDATE legs SET hangup_cause_name = '{cause}', hangup_cause_code = {code}, \
                 hangup_source = '{ORPHAN_SOURCE}', \
                 ended_at = CASE WHEN COALESCE(answered_at, ringing_at, started_at) > dead.column3 \
                                 THEN COALESCE(answered_at, ringing_at, started_at) ELSE dead.column3 END \
             FROM ({values}) AS dead \
             WHERE legs.interaction = dead.column1 AND legs.node = dead.column2 AND legs.ended_at IS NULL \
             RETURNING legs.interaction AS interaction"
        )
    })
});

/// A call ends with the last of its legs.
static ENDS: LazyLock<Statements> = LazyLock::new(|| {
    Statements::new(1, |values| {
        format!(
            "UPDATE interactions SET ended_at = \
                 (SELECT MAX(l.ended_at) FROM legs l WHERE l.interaction = interactions.uuid) \
             WHERE uuid IN ({values}) AND ended_at IS NULL"
        )
    })
});

/// A write that the other nodes hear of.
struct Announced<W> {
    write: W,
    node: String,
}

impl<W: Write> Write for Announced<W> {
    type Done = W::Done;
    const MAY_WAIT: bool = W::MAY_WAIT;

    fn touched(done: &Self::Done) -> Option<&crate::number::Did> {
        W::touched(done)
    }

    fn locks(&self) -> Option<&str> {
        // Two nodes that start at once must not make two first accounts.
        self.write.locks().or(Some(CHANNEL))
    }

    async fn apply(&mut self, connection: &mut Connection) -> Result<Self::Done, StoreError> {
        let done = self.write.apply(connection).await?;
        connection.announce(CHANNEL, &self.node).await?;
        Ok(done)
    }
}

/// Keeps the accounts and numbers of `store` as they are in the database, until the store is gone.
pub(super) async fn follow_directory(store: Weak<Inner>, options: PgConnectOptions) {
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .idle_timeout(None)
        .max_lifetime(None)
        .acquire_timeout(ANSWER)
        .connect_lazy_with(options);
    loop {
        match listen(&store, &pool).await {
            Ok(()) => return,
            Err(error) => tracing::warn!(%error, "changes by other processes are not heard; trying again"),
        }
        clock::sleep(PAUSE).await;
    }
}

/// `Ok`: the store is gone.
async fn listen(store: &Weak<Inner>, pool: &sqlx::PgPool) -> Result<(), StoreError> {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.listen(CHANNEL).await?;
    // What changed while nobody listened.
    let mut stale = true;
    loop {
        let Some(inner) = store.upgrade() else { return Ok(()) };
        if stale {
            let store = Store { inner };
            store.reload_directory().await?;
        }
        stale = match tokio::time::timeout(QUIET, listener.try_recv()).await {
            // Its own changes a node has seen already.
            Ok(Ok(Some(change))) => {
                store.upgrade().is_some_and(|inner| inner.node.as_ref() != change.payload())
            }
            // The connection was lost and is there again.
            Ok(Ok(None)) => true,
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => {
                let answer = sqlx::query("SELECT 1").execute(&mut listener);
                let answer = tokio::time::timeout(ANSWER, answer).await;
                answer.map_err(|_| sqlx::Error::PoolTimedOut)??;
                true
            }
        };
    }
}

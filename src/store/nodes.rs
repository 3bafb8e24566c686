//! Several processes on one database: who lives, what the dead have left open, and how one hears what another
//! has changed.
//!
//! A process is a node from its start to its end, named by a uuid. It notes every second that it lives; a node
//! that has been silent for [`SILENCE`] is dead, and any other one closes the calls that it has left. A node that
//! was only held up loses nothing by it: the close of a call says all of its record again. Times are the nodes'
//! own, so their clocks must agree to a few seconds, as the ends of sessions demand anyway.
//!
//! An SQLite file belongs to one process: there every other node is dead at once, and nobody has to be told of
//! changes.

use std::sync::Weak;
use std::time::Duration;

use jiff::Timestamp;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};

use super::outbox;
use super::row::{Columns, duration_micros, micros};
use super::sql::{Connection, query};
use super::writer::Write;
use super::{Inner, Store, StoreError};
use crate::clock;

/// A node that has not been heard of for so long is dead.
const SILENCE: Duration = Duration::from_secs(15);
/// The hang-up cause of a leg that was open when its process died, and who hung up.
const ORPHAN_CAUSE: (&str, i64) = ("process ended", 5010);
const ORPHAN_SOURCE: &str = "System";

/// What a node is told of, see [`Store::change_directory`].
const CHANNEL: &str = "maskline_directory";
/// When nothing was heard for so long, the connection is tried, and everything is read again in case it was deaf.
const QUIET: Duration = Duration::from_secs(30);
/// How long the connection may take to come up or to answer.
const ANSWER: Duration = Duration::from_secs(5);
/// Between two tries to listen.
const PAUSE: Duration = Duration::from_secs(1);

impl Store {
    /// Notes that this process lives; every second or so, and at the start before its first call.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn heartbeat(&self, now: Timestamp) -> Result<(), StoreError> {
        self.write(Heartbeat { node: self.node().to_owned(), now }).await
    }

    /// Closes the calls that a dead process has left open, at its last heartbeat. Call it at start, and every few
    /// seconds where several processes share the database. Returns how many legs it closed.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn close_orphans(&self, now: Timestamp) -> Result<u64, StoreError> {
        let silent_since = if self.is_shared() {
            micros(now).saturating_sub(duration_micros(SILENCE))
        } else {
            i64::MAX // Whoever had the file before is gone.
        };
        self.write(CloseOrphans { node: self.node().to_owned(), silent_since, now }).await
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

struct CloseOrphans {
    node: String,
    silent_since: i64,
    now: Timestamp,
}

impl Write for CloseOrphans {
    type Done = u64;
    const MAY_WAIT: bool = true;

    async fn apply(&mut self, connection: &mut Connection) -> Result<u64, StoreError> {
        let dead = query("SELECT node, beat_at FROM nodes WHERE node <> $1 AND beat_at <= $2")
            .bind(&self.node)
            .bind(self.silent_since)
            .fetch_all(&mut *connection)
            .await?;
        // Of a node without any heartbeat the latest moment that the row itself knows is the best that can be said.
        let unheard = query(
            "SELECT DISTINCT node FROM legs WHERE ended_at IS NULL AND node <> $1 AND started_at <= $2
                 AND NOT EXISTS (SELECT 1 FROM nodes n WHERE n.node = legs.node)",
        )
        .bind(&self.node)
        .bind(self.silent_since)
        .fetch_all(&mut *connection)
        .await?;
        let mut closed = 0;
        for row in &dead {
            let (node, beat) = (row.text("node")?, row.integer("beat_at")?);
            closed += close_legs(connection, &node, beat.min(micros(self.now))).await?;
            query("DELETE FROM nodes WHERE node = $1").bind(node).execute(&mut *connection).await?;
        }
        for row in &unheard {
            closed += close_legs(connection, &row.text("node")?, i64::MIN).await?;
        }
        Ok(closed)
    }
}

/// Closes what `node` had open when it was last heard of.
async fn close_legs(connection: &mut Connection, node: &str, beat: i64) -> Result<u64, StoreError> {
    let legs = query(
        "UPDATE legs SET hangup_cause_name = $2, hangup_cause_code = $3, hangup_source = $4,
             ended_at = CASE WHEN COALESCE(answered_at, ringing_at, started_at) > $1
                             THEN COALESCE(answered_at, ringing_at, started_at) ELSE $1 END
         WHERE ended_at IS NULL AND node = $5 RETURNING interaction",
    )
    .bind(beat)
    .bind(ORPHAN_CAUSE.0)
    .bind(ORPHAN_CAUSE.1)
    .bind(ORPHAN_SOURCE)
    .bind(node)
    .fetch_all(&mut *connection)
    .await?;
    for leg in &legs {
        query(
            "UPDATE interactions SET ended_at =
                 (SELECT MAX(l.ended_at) FROM legs l WHERE l.interaction = interactions.uuid)
             WHERE uuid = $1 AND ended_at IS NULL",
        )
        .bind(leg.text("interaction")?)
        .execute(&mut *connection)
        .await?;
    }
    let interactions: Vec<String> =
        legs.iter().map(|leg| leg.text("interaction")).collect::<Result<_, _>>()?;
    outbox::report_orphans(connection, &interactions).await?;
    Ok(u64::try_from(legs.len()).unwrap_or(u64::MAX))
}

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

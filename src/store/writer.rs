//! The one task that writes: group commit over a bounded queue.
//!
//! A batch is one transaction. When a write in it fails, the whole batch is rolled back and each of its writes
//! is done again in a transaction of its own, so one that fails takes no other with it; that is rare, and
//! costs less than a savepoint for every write. The callers hear of their results after the commit, never
//! before.
//!
//! A connection that is lost is made anew, and the batch is done again. Nobody can say what became of a commit
//! that was not answered: so a write may find that it has been done already. While the database stays away, writes
//! fail at once, except the records of calls that are over: those are kept, up to a limit, and repeated.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, oneshot};

use super::StoreError;
use super::call_writes::{CallWrite, CallWrites, Reply};
use super::route_cache::RouteCache;
use super::sql::{Connection, Options, lock_key};
use crate::clock;
use crate::number::Did;

/// The most writes in one transaction: an upper bound on how long the first one waits for the last.
const BATCH: usize = 256;
/// How long call records wait for company, and how long when there is much of it. So much of the latest records
/// a crash may cost.
const GATHER: Duration = Duration::from_millis(20);
const GATHER_BUSY: Duration = Duration::from_millis(100);
/// So many writes within [`GATHER`] are much company.
const BUSY: usize = 4;

/// How long a connection may take to come up. On a server a transaction that takes longer than [`TRANSACTION`] is
/// given up: the server is gone without a word.
const CONNECT: Duration = Duration::from_secs(3);
const TRANSACTION: Duration = Duration::from_secs(30);
/// A batch waits so long for a database that has just gone, which a restart or a fail-over may take. It tries again
/// after this pause, then after twice as much, and so on.
const PATIENCE: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(50);
/// How often a transaction is begun that clashes with another one or whose connection is lost each time: each of several
/// nodes may be restarted in turn.
const TRIES: usize = 4;
/// The database stays away: it is tried no more often than this.
const RETRY: Duration = Duration::from_millis(500);
/// How many records of calls are kept for a database that stays away; each is some two kilobytes.
const KEPT: usize = 20_000;
/// When kept records are tried again.
const REPEAT: Duration = Duration::from_secs(1);

/// Something to be done in the writer's transaction. It may be done twice, the first time in vain.
pub(super) trait Write: Send + 'static {
    /// What its caller gets.
    type Done: Send + 'static;
    /// Its caller does not mind to wait a little, so that more writes share a commit.
    const MAY_WAIT: bool = false;

    /// The virtual number whose sessions it has changed.
    fn touched(_done: &Self::Done) -> Option<&Did> {
        None
    }

    /// Whose writes by other processes must wait until this one is committed: the auth id of an account, for
    /// what reads before it writes.
    fn locks(&self) -> Option<&str> {
        None
    }

    /// Does it.
    fn apply(
        &mut self,
        connection: &mut Connection,
    ) -> impl Future<Output = Result<Self::Done, StoreError>> + Send;
}

/// A write and who waits for it.
pub(super) struct Queued<W: Write> {
    write: W,
    reply: oneshot::Sender<Result<W::Done, StoreError>>,
    /// What came of it, until it is committed.
    result: Option<Result<W::Done, StoreError>>,
}

impl<W: Write> Queued<W> {
    pub(super) fn new(write: W, reply: oneshot::Sender<Result<W::Done, StoreError>>) -> Self {
        Self { write, reply, result: None }
    }
}

/// What the writer task is told.
pub(super) enum Order {
    Write {
        write: Box<dyn Apply>,
        may_wait: bool,
    },
    Call(CallWrite, Reply),
    /// Nothing comes after this.
    Close(oneshot::Sender<()>),
}

impl Order {
    fn may_wait(&self) -> bool {
        match self {
            Self::Write { may_wait, .. } => *may_wait,
            Self::Call(..) => true,
            Self::Close(_) => false,
        }
    }
}

/// A future of a trait object.
pub(super) type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A [`Queued`] write of any kind.
pub(super) trait Apply: Send {
    /// Does it, and says whether it worked.
    fn apply<'a>(&'a mut self, connection: &'a mut Connection) -> BoxFuture<'a, bool>;

    /// What was wrong when it was done last.
    fn error(&self) -> Option<&StoreError>;

    /// See [`Write::locks`].
    fn locks(&self) -> Option<&str>;

    /// Its parts, each of which can be done alone.
    fn split(self: Box<Self>) -> Vec<Box<dyn Apply>>;

    /// The virtual number whose sessions it has changed.
    fn touched(&self) -> Option<&Did>;

    /// Tells the caller what came of it; `false`: it is not stored. Returns what must not get lost.
    fn settle(self: Box<Self>, committed: bool) -> Vec<(CallWrite, Reply)>;
}

impl<W: Write> Apply for Queued<W> {
    fn apply<'a>(&'a mut self, connection: &'a mut Connection) -> BoxFuture<'a, bool> {
        Box::pin(async move {
            let result = self.write.apply(connection).await;
            let worked = result.is_ok();
            self.result = Some(result);
            worked
        })
    }

    fn error(&self) -> Option<&StoreError> {
        self.result.as_ref().and_then(|result| result.as_ref().err())
    }

    fn locks(&self) -> Option<&str> {
        self.write.locks()
    }

    fn split(self: Box<Self>) -> Vec<Box<dyn Apply>> {
        vec![self]
    }

    fn touched(&self) -> Option<&Did> {
        self.result.as_ref().and_then(|result| result.as_ref().ok()).and_then(W::touched)
    }

    fn settle(self: Box<Self>, committed: bool) -> Vec<(CallWrite, Reply)> {
        let result = match self.result {
            Some(Ok(done)) if committed => Ok(done),
            Some(Err(error)) => Err(error),
            _ => Err(StoreError::NotCommitted),
        };
        // A caller that has gone away does not want to know.
        let _ = self.reply.send(result);
        vec![]
    }
}

/// Runs until it is told to close, or until every [`super::Store`] is gone.
pub(super) async fn run(mut writer: Writer, mut orders: mpsc::Receiver<Order>) {
    let mut batch = Vec::with_capacity(BATCH);
    let mut closed = None;
    while closed.is_none() {
        tokio::select! {
            count = orders.recv_many(&mut batch, BATCH) => if count == 0 { break },
            () = clock::sleep_until(writer.repeat_at()) => {}
        }
        gather(&mut batch, &mut orders).await;
        let mut writes = Vec::with_capacity(batch.len());
        let mut calls = Box::new(CallWrites::of(writer.node.clone()));
        for order in batch.drain(..) {
            match order {
                Order::Write { write, .. } => writes.push(write),
                Order::Call(write, reply) => calls.push(write, reply),
                Order::Close(done) => closed = Some(done),
            }
        }
        for (write, reply) in writer.kept_and_due() {
            calls.push(write, reply);
        }
        if !calls.is_empty() {
            writes.push(calls);
        }
        writer.commit(writes).await;
    }
    // Whoever is still queued gets `Closed`, because its reply is dropped with the queue.
    drop(orders);
    writer.last_try().await;
    if let Some(connection) = writer.connection
        && let Err(error) = connection.close().await
    {
        tracing::warn!(%error, "the database did not close cleanly");
    }
    if let Some(done) = closed {
        let _ = done.send(());
    }
}

/// Waits for more, as long as nobody in the batch is in a hurry: a transaction costs as much as many rows.
async fn gather(batch: &mut Vec<Order>, orders: &mut mpsc::Receiver<Order>) {
    let begin = clock::now();
    let mut deadline = begin + GATHER;
    if batch.is_empty() {
        return; // Kept records are due.
    }
    while batch.len() < BATCH && batch.iter().all(Order::may_wait) {
        tokio::select! {
            more = orders.recv_many(batch, BATCH.saturating_sub(batch.len())) => if more == 0 { return },
            () = clock::sleep_until(Some(deadline)) => {
                if batch.len() < BUSY || deadline > begin + GATHER {
                    return;
                }
                deadline = begin + GATHER_BUSY;
            }
        }
    }
}

/// What became of a transaction that is not committed.
enum Failure {
    /// A write failed, and all is rolled back. Its error goes to its caller.
    Refused,
    /// The same, because another process did the like at the same time: [`StoreError::is_clash`].
    Clashed,
    /// The transaction itself failed, or there is no database.
    Lost(sqlx::Error),
}

/// The connection that writes.
pub(super) struct Writer {
    options: Options,
    /// `None` after a transaction could not be brought to an end.
    connection: Option<Connection>,
    /// The database stays away: when it is tried again.
    away_until: Option<Instant>,
    kept: VecDeque<(CallWrite, Reply)>,
    repeat_at: Instant,
    node: Arc<str>,
    routes: Arc<RouteCache>,
    committed: Arc<Notify>,
}

impl Writer {
    pub(super) fn new(
        options: Options,
        connection: Connection,
        node: Arc<str>,
        routes: Arc<RouteCache>,
    ) -> Self {
        let (away_until, kept) = (None, VecDeque::new());
        Self {
            options,
            connection: Some(connection),
            away_until,
            kept,
            repeat_at: clock::now(),
            node,
            routes,
            committed: Arc::default(),
        }
    }

    /// Told after every transaction: there may be something new to read.
    pub(super) fn committed(&self) -> Arc<Notify> {
        self.committed.clone()
    }

    fn repeat_at(&self) -> Option<Instant> {
        (!self.kept.is_empty()).then_some(self.repeat_at)
    }

    /// Some of the kept records, when it is time to try them again.
    fn kept_and_due(&mut self) -> Vec<(CallWrite, Reply)> {
        if clock::now() < self.repeat_at {
            return vec![];
        }
        self.kept.drain(..self.kept.len().min(BATCH)).collect()
    }

    async fn commit(&mut self, mut writes: Vec<Box<dyn Apply>>) {
        if writes.is_empty() {
            return;
        }
        let mut outcome = self.insist(&mut writes).await;
        if outcome.is_ok() {
            writes.into_iter().for_each(|write| drop(write.settle(true)));
            // What is kept beyond one batch follows at once.
            self.repeat_at = clock::now();
            return;
        }
        let mut kept = vec![];
        let mut alone: Vec<_> = writes.into_iter().flat_map(Apply::split).collect();
        let retry = alone.len() > 1;
        for mut write in alone.drain(..) {
            if retry {
                outcome = self.insist(std::slice::from_mut(&mut write)).await;
            }
            kept.extend(write.settle(retry && outcome.is_ok()));
        }
        if let Err(Failure::Lost(error)) = outcome {
            tracing::warn!(%error, "the database does not take what is written");
        }
        self.keep(kept);
    }

    fn keep(&mut self, records: Vec<(CallWrite, Reply)>) {
        if records.is_empty() {
            return;
        }
        metrics::counter!("maskline_call_records_kept_total").increment(records.len() as u64);
        self.repeat_at = clock::now() + REPEAT;
        self.kept.extend(records);
        let over = self.kept.len().saturating_sub(KEPT);
        give_up(self.kept.drain(..over));
    }

    /// Nothing comes after this: what is still kept is stored now or lost.
    async fn last_try(&mut self) {
        while !self.kept.is_empty() {
            let mut calls = Box::new(CallWrites::of(self.node.clone()));
            let before = self.kept.len();
            self.kept.drain(..before.min(BATCH)).for_each(|(write, reply)| calls.push(write, reply));
            self.commit(vec![calls]).await;
            if self.connection.is_none() || self.kept.len() >= before {
                break;
            }
        }
        give_up(self.kept.drain(..));
    }

    /// The connection; a new one when there is none. The first to find the database gone waits for it.
    async fn connect(&mut self) -> Result<Connection, sqlx::Error> {
        if let Some(connection) = self.connection.take() {
            return Ok(connection);
        }
        let begin = clock::now();
        if self.away_until.is_some_and(|until| begin < until) {
            return Err(sqlx::Error::Io(io::ErrorKind::NotConnected.into()));
        }
        let patience = if self.away_until.is_some() { Duration::ZERO } else { PATIENCE };
        let mut pause = PAUSE;
        loop {
            let connected = tokio::time::timeout(CONNECT, self.options.connect()).await;
            let error = match connected.unwrap_or_else(|_| Err(timed_out())) {
                Ok(connection) => {
                    tracing::info!("the database is connected again");
                    self.away_until = None;
                    return Ok(connection);
                }
                Err(error) => error,
            };
            let now = clock::now();
            if now.duration_since(begin) + pause > patience {
                self.away_until = Some(now + RETRY);
                return Err(error);
            }
            clock::sleep(pause).await;
            pause *= 2;
        }
    }

    /// Does the writes in one transaction, again when that clashes with another one or its connection is lost.
    async fn insist(&mut self, writes: &mut [Box<dyn Apply>]) -> Result<(), Failure> {
        let mut outcome = self.transact(writes).await;
        for _ in 1..TRIES {
            let again = match outcome {
                Err(Failure::Clashed) => true,
                Err(Failure::Lost(_)) => self.away_until.is_none(),
                Ok(()) | Err(Failure::Refused) => false,
            };
            if !again {
                break;
            }
            outcome = self.transact(writes).await;
        }
        outcome
    }

    /// Does the writes in one transaction.
    ///
    /// When the disk is full, SQLite itself ends a transaction, and the library then takes the connection to be
    /// inside one for ever. So a connection whose transaction did not end as told is replaced.
    async fn transact(&mut self, writes: &mut [Box<dyn Apply>]) -> Result<(), Failure> {
        let mut connection = self.connect().await.map_err(Failure::Lost)?;
        let limit = connection.is_remote().then(|| clock::now() + TRANSACTION);
        let outcome = tokio::select! {
            outcome = transact(&mut connection, writes) => outcome,
            () = clock::sleep_until(limit) => Err(Failure::Lost(timed_out())),
        };
        if !matches!(outcome, Err(Failure::Lost(_))) {
            self.connection = Some(connection);
        }
        // Also when it failed: nobody can say what is stored after a commit that was not answered.
        writes.iter().filter_map(|write| write.touched()).for_each(|number| self.routes.touch(number));
        self.committed.notify_one();
        outcome
    }
}

async fn transact(connection: &mut Connection, writes: &mut [Box<dyn Apply>]) -> Result<(), Failure> {
    connection.begin().await.map_err(Failure::Lost)?;
    let accounts = writes.iter().filter_map(|write| write.locks());
    connection.lock(&accounts.map(lock_key).collect()).await.map_err(Failure::Lost)?;
    for write in writes {
        if !write.apply(connection).await {
            connection.rollback().await.map_err(Failure::Lost)?;
            let clashed = write.error().is_some_and(StoreError::is_clash);
            return Err(if clashed { Failure::Clashed } else { Failure::Refused });
        }
    }
    connection.commit().await.map_err(Failure::Lost)
}

fn timed_out() -> sqlx::Error {
    sqlx::Error::Io(io::ErrorKind::TimedOut.into())
}

/// More than can be kept, or the end: the records are lost, and who waits is told.
fn give_up(records: impl Iterator<Item = (CallWrite, Reply)>) {
    for (write, reply) in records {
        tracing::error!(interaction = ?write.interaction(), "the record of a call is lost: the database is away");
        let _ = reply.send(Err(StoreError::NotCommitted));
    }
}

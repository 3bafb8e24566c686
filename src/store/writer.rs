//! The one task that writes: group commit over a bounded queue.
//!
//! A batch is one transaction. When a write in it fails, the whole batch is rolled back and each of its writes
//! is done again in a transaction of its own, so one that fails takes no other with it; that is rare, and
//! costs less than a savepoint for every write. The callers hear of their results after the commit, never
//! before.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

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

    /// See [`Write::locks`].
    fn locks(&self) -> Option<&str>;

    /// Its parts, each of which can be done alone.
    fn split(self: Box<Self>) -> Vec<Box<dyn Apply>>;

    /// The virtual number whose sessions it has changed.
    fn touched(&self) -> Option<&Did>;

    /// Tells the caller what came of it; `false`: it is not stored.
    fn settle(self: Box<Self>, committed: bool);
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

    fn locks(&self) -> Option<&str> {
        self.write.locks()
    }

    fn split(self: Box<Self>) -> Vec<Box<dyn Apply>> {
        vec![self]
    }

    fn touched(&self) -> Option<&Did> {
        self.result.as_ref().and_then(|result| result.as_ref().ok()).and_then(W::touched)
    }

    fn settle(self: Box<Self>, committed: bool) {
        let result = match self.result {
            Some(Ok(done)) if committed => Ok(done),
            Some(Err(error)) => Err(error),
            _ => Err(StoreError::NotCommitted),
        };
        // A caller that has gone away does not want to know.
        let _ = self.reply.send(result);
    }
}

/// Runs until it is told to close, or until every [`super::Store`] is gone.
pub(super) async fn run(mut writer: Writer, mut orders: mpsc::Receiver<Order>) {
    let mut batch = Vec::with_capacity(BATCH);
    let mut closed = None;
    while closed.is_none() && orders.recv_many(&mut batch, BATCH).await > 0 {
        gather(&mut batch, &mut orders).await;
        let mut writes = Vec::with_capacity(batch.len());
        let mut calls = Box::<CallWrites>::default();
        for order in batch.drain(..) {
            match order {
                Order::Write { write, .. } => writes.push(write),
                Order::Call(write, reply) => calls.push(write, reply),
                Order::Close(done) => closed = Some(done),
            }
        }
        if !calls.is_empty() {
            writes.push(calls);
        }
        writer.commit(writes).await;
    }
    // Whoever is still queued gets `Closed`, because its reply is dropped with the queue.
    drop(orders);
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

/// The connection that writes.
pub(super) struct Writer {
    options: Options,
    /// `None` after a transaction could not be brought to an end.
    connection: Option<Connection>,
    routes: Arc<RouteCache>,
    committed: Arc<Notify>,
}

impl Writer {
    pub(super) fn new(
        options: Options,
        connection: Connection,
        routes: Arc<RouteCache>,
        committed: Arc<Notify>,
    ) -> Self {
        Self { options, connection: Some(connection), routes, committed }
    }

    async fn commit(&mut self, mut writes: Vec<Box<dyn Apply>>) {
        if writes.is_empty() {
            return;
        }
        let committed = self.transact(&mut writes).await;
        if committed {
            writes.into_iter().for_each(|write| write.settle(true));
            return;
        }
        let mut alone: Vec<_> = writes.into_iter().flat_map(Apply::split).collect();
        let retry = alone.len() > 1;
        for mut write in alone.drain(..) {
            let committed = retry && self.transact(std::slice::from_mut(&mut write)).await;
            write.settle(committed);
        }
    }

    /// Does the writes in one transaction. `false`: nothing of them is stored.
    ///
    /// When the disk is full, SQLite itself ends a transaction, and the library then takes the connection to be
    /// inside one for ever. So a connection whose transaction did not end as told is replaced.
    async fn transact(&mut self, writes: &mut [Box<dyn Apply>]) -> bool {
        let outcome = match self.connection.take() {
            Some(connection) => Ok(connection),
            None => self.options.connect().await,
        };
        let outcome = match outcome {
            Ok(mut connection) => {
                let done = transact(&mut connection, writes).await;
                done.inspect(|_| self.connection = Some(connection))
            }
            Err(error) => Err(error),
        };
        // Also when it failed: nobody can say what is stored after a commit that was not answered.
        writes.iter().filter_map(|write| write.touched()).for_each(|number| self.routes.touch(number));
        self.committed.notify_one();
        outcome.inspect_err(|error| tracing::error!(%error, "a transaction failed")).unwrap_or(false)
    }
}

/// `Ok(false)`: a write failed and all is rolled back. `Err`: the transaction itself failed.
async fn transact(connection: &mut Connection, writes: &mut [Box<dyn Apply>]) -> Result<bool, sqlx::Error> {
    connection.begin().await?;
    let accounts = writes.iter().filter_map(|write| write.locks());
    connection.lock(&accounts.map(lock_key).collect()).await?;
    for write in writes {
        if !write.apply(connection).await {
            // The error goes to the caller of this write.
            connection.rollback().await?;
            return Ok(false);
        }
    }
    connection.commit().await?;
    Ok(true)
}

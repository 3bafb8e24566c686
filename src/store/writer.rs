//! The one task that writes: group commit over a bounded queue.
//!
//! Each write runs in a savepoint of the batch's transaction, so one that fails takes no other with it. The
//! callers hear of their results after the commit, never before.

use std::pin::Pin;

use sqlx::Connection;
use sqlx::sqlite::SqliteConnection;
use tokio::sync::{mpsc, oneshot};

use super::StoreError;

/// The most writes in one transaction: an upper bound on how long the first one waits for the last.
const BATCH: usize = 256;

/// Something to be done in the writer's transaction.
pub(super) trait Write: Send + 'static {
    /// What its caller gets.
    type Done: Send + 'static;

    /// Does it. An error undoes what this write did, and only that.
    fn apply(
        self,
        connection: &mut SqliteConnection,
    ) -> impl Future<Output = Result<Self::Done, StoreError>> + Send;
}

/// A write and who waits for it.
pub(super) struct Queued<W: Write> {
    pub(super) write: W,
    pub(super) reply: oneshot::Sender<Result<W::Done, StoreError>>,
}

/// What the writer task is told.
pub(super) enum Order {
    Write(Box<dyn Apply>),
    /// Nothing comes after this.
    Close(oneshot::Sender<()>),
}

type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A [`Queued`] write of any kind.
pub(super) trait Apply: Send {
    fn apply<'a>(self: Box<Self>, connection: &'a mut SqliteConnection) -> BoxFuture<'a, Applied>;

    /// Tells the caller that nothing was done.
    fn refuse(self: Box<Self>);
}

/// A write that ran, but is not committed yet.
pub(super) struct Applied {
    failed: bool,
    /// Tells the caller; `true`: it is stored.
    settle: Box<dyn FnOnce(bool) + Send>,
}

impl<W: Write> Apply for Queued<W> {
    fn apply<'a>(self: Box<Self>, connection: &'a mut SqliteConnection) -> BoxFuture<'a, Applied> {
        Box::pin(async move {
            let Self { write, reply } = *self;
            let result = write.apply(connection).await;
            let failed = result.is_err();
            let settle = move |committed| {
                // A caller that has gone away does not want to know.
                let _ = reply.send(if committed || failed { result } else { Err(StoreError::NotCommitted) });
            };
            Applied { failed, settle: Box::new(settle) }
        })
    }

    fn refuse(self: Box<Self>) {
        let _ = self.reply.send(Err(StoreError::NotCommitted));
    }
}

/// Runs until it is told to close, or until every [`super::Store`] is gone.
pub(super) async fn run(mut connection: SqliteConnection, mut orders: mpsc::Receiver<Order>) {
    let mut batch = Vec::with_capacity(BATCH);
    let mut closed = None;
    while closed.is_none() && orders.recv_many(&mut batch, BATCH).await > 0 {
        let mut writes = Vec::with_capacity(batch.len());
        for order in batch.drain(..) {
            match order {
                Order::Write(write) => writes.push(write),
                Order::Close(done) => closed = Some(done),
            }
        }
        commit(&mut connection, writes).await;
    }
    // Whoever is still queued gets `Closed`, because its reply is dropped with the queue.
    drop(orders);
    if let Err(error) = connection.close().await {
        tracing::warn!(%error, "the database did not close cleanly");
    }
    if let Some(done) = closed {
        let _ = done.send(());
    }
}

async fn commit(connection: &mut SqliteConnection, writes: Vec<Box<dyn Apply>>) {
    if writes.is_empty() {
        return;
    }
    let mut writes = writes.into_iter();
    let mut applied = Vec::with_capacity(writes.len());
    let committed = match connection.begin_with("BEGIN IMMEDIATE").await {
        Ok(mut transaction) => {
            let mut whole = true;
            for write in writes.by_ref() {
                match in_savepoint(&mut transaction, write).await {
                    Some(result) => applied.push(result),
                    None => {
                        whole = false;
                        break;
                    }
                }
            }
            let end = if whole { transaction.commit().await } else { transaction.rollback().await };
            end.inspect_err(|error| tracing::error!(%error, "a transaction was not committed")).is_ok()
                && whole
        }
        Err(error) => {
            tracing::error!(%error, "a transaction could not be begun");
            false
        }
    };
    for result in applied {
        (result.settle)(committed);
    }
    writes.for_each(Apply::refuse);
}

/// `None`: the transaction is lost (SQLite rolls all of it back when the disk is full, for one), so nothing
/// more may run in it. The caller of this write has been told.
async fn in_savepoint(connection: &mut SqliteConnection, write: Box<dyn Apply>) -> Option<Applied> {
    let Ok(mut savepoint) = connection.begin().await else {
        write.refuse();
        return None;
    };
    let applied = write.apply(&mut savepoint).await;
    let end = if applied.failed { savepoint.rollback().await } else { savepoint.commit().await };
    if let Err(error) = end {
        tracing::error!(%error, "a savepoint was lost");
        (applied.settle)(false);
        return None;
    }
    Some(applied)
}

//! Who owns the tasks of the transport.

use std::mem;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::{JoinError, JoinSet};
use tokio::time;
use tracing::error;

/// What tasks get, beyond their own bound, to notice that they should stop.
const GRACE: Duration = Duration::from_millis(100);

/// All tasks of the transport: none outlives it.
pub(super) struct Tasks {
    running: Mutex<JoinSet<()>>,
    runtime: Handle,
}

impl Tasks {
    /// For tasks on the runtime of the caller, who must be inside one.
    pub(super) fn new() -> Self {
        Self { running: Mutex::default(), runtime: Handle::current() }
    }

    /// Starts a task and forgets those that have ended meanwhile.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(ended) = running.try_join_next() {
            log_bug(ended);
        }
        running.spawn_on(task, &self.runtime);
    }

    /// Waits for all tasks, which have been told to stop, a little longer than `flush`; then aborts them.
    pub(super) async fn finish(&self, flush: Duration) {
        let mut running = mem::take(&mut *self.running.lock().unwrap_or_else(PoisonError::into_inner));
        let all = async {
            while let Some(ended) = running.join_next().await {
                log_bug(ended);
            }
        };
        if time::timeout(flush + GRACE, all).await.is_err() {
            running.shutdown().await;
        }
    }
}

fn log_bug(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        error!(%error, "a task of the SIP transport has died");
    }
}

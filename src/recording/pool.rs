//! A few threads of the lowest priority, for work that may take long: mixing never takes the processor away from
//! a call.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::oneshot;
use tracing::error;

type Work = Box<dyn FnOnce() + Send>;

/// The threads. They end when this is dropped and their work is done.
pub(super) struct Pool {
    work: SyncSender<Work>,
}

impl Pool {
    /// # Errors
    /// The system refuses a thread.
    pub(super) fn start(threads: usize) -> io::Result<Self> {
        let (work, inbox) = sync_channel(threads.max(1) * 4);
        let inbox = Arc::new(Mutex::new(inbox));
        for index in 0..threads.max(1) {
            let inbox = Arc::clone(&inbox);
            std::thread::Builder::new().name(format!("mixer-{index}")).spawn(move || run(&inbox))?;
        }
        Ok(Self { work })
    }

    /// Does `work` on one of the threads. `None`: they are all busy and enough is waiting, or it panicked.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let (reply, done) = oneshot::channel();
        let work = move || {
            // Who asked may have gone away.
            let _ = reply.send(work());
        };
        self.work.try_send(Box::new(work)).ok()?;
        done.await.ok()
    }
}

fn run(inbox: &Mutex<Receiver<Work>>) {
    // On Linux this is the calling thread's own. A system that refuses it mixes at the usual priority.
    let _ = rustix::process::setpriority_process(None, 19);
    loop {
        // A thread that panicked held the lock only while it waited.
        let next = inbox.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(work) = next else { return };
        if catch_unwind(AssertUnwindSafe(work)).is_err() {
            error!("the mixing of a recording panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_ends_its_own_work_only() {
        let pool = Pool::start(1).unwrap();
        assert_eq!(pool.run(|| panic!("as it may happen")).await, None::<()>);
        assert_eq!(pool.run(|| 5).await, Some(5));
    }

    #[tokio::test]
    async fn what_waits_is_bounded() {
        let pool = Pool::start(1).unwrap();
        let (go, gate) = sync_channel::<()>(0);
        let gate = Arc::new(Mutex::new(gate));
        let mut waiting = vec![];
        for _ in 0..50 {
            let gate = Arc::clone(&gate);
            waiting.push(Box::pin(pool.run(move || gate.lock().unwrap().recv().is_err())));
        }
        // Each is handed over when it is first polled.
        let mut refused = 0;
        for work in &mut waiting {
            let polled =
                std::future::poll_fn(|context| std::task::Poll::Ready(work.as_mut().poll(context))).await;
            refused += usize::from(polled == std::task::Poll::Ready(None));
        }
        assert!((45..50).contains(&refused), "{refused}");
        drop(go);
    }
}

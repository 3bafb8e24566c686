//! What a call received, and waiting for it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::WaitError;
use crate::agent::{CallNumber, End};
use crate::message::Message;
use crate::stream::MediaSession;

/// What was received, and whether it goes on.
#[derive(Debug)]
pub(super) struct Log {
    seen: Mutex<(Vec<Message>, Option<End>)>,
    changed: watch::Sender<u64>,
    pub(super) media: OnceLock<MediaSession>,
}

impl Log {
    pub(super) fn new() -> Self {
        Self { seen: Mutex::default(), changed: watch::channel(0).0, media: OnceLock::new() }
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut (Vec<Message>, Option<End>))) {
        change(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.send_modify(|count| *count += 1);
    }

    pub(super) fn look<T>(&self, look: impl FnOnce(&[Message], Option<End>) -> T) -> T {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        look(&seen.0, seen.1)
    }

    pub(super) async fn wait<T>(
        &self,
        phone: &str,
        what: &str,
        timeout: Duration,
        find: impl Fn(&[Message], Option<End>) -> Option<T>,
    ) -> Result<T, WaitError> {
        let mut changed = self.changed.subscribe();
        let waiting = async {
            loop {
                if let Some(found) = self.look(&find) {
                    return Some(found);
                }
                if changed.changed().await.is_err() {
                    return None;
                }
            }
        };
        match tokio::time::timeout(timeout, waiting).await {
            Ok(Some(found)) => Ok(found),
            _ => {
                let seen =
                    self.look(|messages, _| messages.iter().map(|m| m.start_line().to_owned()).collect());
                Err(WaitError::TimedOut {
                    phone: phone.to_owned(),
                    what: what.to_owned(),
                    waited: timeout,
                    seen,
                })
            }
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Logs(Mutex<BTreeMap<CallNumber, Arc<Log>>>);

impl Logs {
    pub(super) fn of(&self, call: CallNumber) -> Arc<Log> {
        let mut logs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        logs.entry(call).or_insert_with(|| Arc::new(Log::new())).clone()
    }
}

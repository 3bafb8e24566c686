//! The task that does what the rows say is to be done: mix, remove, forget what is too old.
//!
//! One step of it is bounded, and so is what runs at one time. It keeps no list of its own: a process that is
//! killed loses nothing but the work of the moment.

use super::manifest::{Filed, Mixed, Names};
use super::mix::{self, Known};
use super::pool::Pool;
use super::{Recordings, place, removal};
use crate::clock;
use crate::store::{Delivered, Recording, RecordingDone, RecordingState, StoreError};
use jiff::{SignedDuration, Timestamp};
use std::collections::HashSet;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::task::{JoinSet, spawn_blocking};
use tracing::{error, info, warn};
use uuid::Uuid;

/// How often it looks whether something has become due.
const POLL: Duration = Duration::from_secs(5);
/// How often it looks for what is too old.
const RETENTION_STEP: Duration = Duration::from_secs(600);
/// How long the first of the failed attempts waits for the next; each further one waits twice as long.
const FIRST_RETRY_S: u64 = 5;
/// The longest wait between two attempts.
const LAST_RETRY_S: u64 = 3600;
/// After so many failed attempts, which take a day, a recording is given up; the legs' files stay.
const MAX_ATTEMPTS: u32 = 34;
/// Threads that mix.
const MAX_THREADS: usize = 2;
/// Jobs that are looked at in one step.
const STEP: u32 = 16;
/// The newest day whose empty folder is removed: on later ones a call may still be about to begin its recording.
const YOUNG: SignedDuration = SignedDuration::from_hours(48);

/// Runs until it is dropped. `retention`: how long recordings are kept; `None` for ever.
pub async fn run(recordings: Recordings, retention: Option<Duration>) {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = (cores / 2).clamp(1, MAX_THREADS);
    let pool = match Pool::start(threads) {
        Ok(pool) => std::sync::Arc::new(pool),
        Err(error) => return error!("recordings are not mixed: {error}"),
    };
    let mut worker = Worker {
        recordings,
        retention,
        threads,
        running: JoinSet::new(),
        busy: HashSet::new(),
        sweep_at: clock::now(),
    };
    loop {
        let step = worker.step(&pool).await;
        if let Err(error) = &step {
            // The database says so where calls need it.
            tracing::debug!(%error, "recordings wait");
        }
        // After a failure it waits its time; a job that has ended is not one to begin again at once.
        let eager = step.is_ok();
        tokio::select! {
            () = worker.recordings.inner.wake.notified(), if eager => {}
            Some(done) = worker.running.join_next() => worker.ended(&done),
            () = clock::sleep(POLL) => {}
        }
    }
}

struct Worker {
    recordings: Recordings,
    retention: Option<Duration>,
    threads: usize,
    running: JoinSet<Uuid>,
    /// What is being done.
    busy: HashSet<Uuid>,
    /// When the next look for what is too old is due.
    sweep_at: Instant,
}

impl Worker {
    async fn step(&mut self, pool: &std::sync::Arc<Pool>) -> Result<(), StoreError> {
        if self.sweep_at <= clock::now() {
            self.sweep().await?;
            self.sweep_at = clock::now() + RETENTION_STEP;
        }
        let inner = &self.recordings.inner;
        let due = inner.store.due_recordings(&inner.place, clock::wall_now(), STEP).await?;
        for recording in due {
            if self.busy.len() >= self.threads {
                break;
            }
            let uuid = recording.new.interaction;
            if self.busy.insert(uuid) {
                let (recordings, pool) = (self.recordings.clone(), std::sync::Arc::clone(pool));
                self.running.spawn(async move {
                    // What could not be stored is due still.
                    if let Err(error) = one(&recordings, &pool, recording).await {
                        warn!(%error, "the outcome of a recording's job is not stored");
                        clock::sleep(POLL).await;
                    }
                    uuid
                });
            }
        }
        Ok(())
    }

    fn ended(&mut self, done: &Result<Uuid, tokio::task::JoinError>) {
        match done {
            Ok(uuid) => drop(self.busy.remove(uuid)),
            // Nobody knows which one it was: what is due is looked at again.
            Err(_) => self.busy.clear(),
        }
    }

    /// Marks what is too old, and removes the folders of days that have become empty.
    async fn sweep(&self) -> Result<(), StoreError> {
        let inner = &self.recordings.inner;
        let (directory, place) = (inner.directory.clone(), inner.place.clone());
        let now = clock::wall_now();
        if let Some(retention) = self.retention {
            let before = SignedDuration::try_from(retention).ok().and_then(|age| now.checked_sub(age).ok());
            let before = before.unwrap_or(Timestamp::MIN);
            let mut expired = 0;
            loop {
                let marked = inner.store.expire_recordings(&place, before, now).await?;
                expired += marked;
                if marked == 0 {
                    break;
                }
            }
            if expired > 0 {
                info!(recordings = expired, "older than recordings.retention_days: they are removed");
            }
        }
        let young = now.checked_sub(YOUNG).unwrap_or(Timestamp::MIN).strftime("%Y/%m/%d").to_string();
        let swept = spawn_blocking(move || {
            place::keep(&directory, &place);
            removal::remove_empty_days(&directory, &young);
        });
        // A panic in there would be ours, and costs an empty folder.
        let _ = swept.await;
        Ok(())
    }
}

/// One job, to its end.
async fn one(recordings: &Recordings, pool: &Pool, recording: Recording) -> Result<(), StoreError> {
    match recording.state {
        RecordingState::Pending => deliver(recordings, pool, recording).await,
        RecordingState::Deleted => remove(recordings, recording).await,
        RecordingState::Ready | RecordingState::Failed | RecordingState::Removed => Ok(()),
    }
}

async fn deliver(recordings: &Recordings, pool: &Pool, recording: Recording) -> Result<(), StoreError> {
    let store = &recordings.inner.store;
    let interaction = recording.new.interaction;
    let outcome = match folder(recordings, &recording) {
        None => Err(io::ErrorKind::InvalidInput.into()),
        Some(folder) => {
            let known = known(recordings, &recording).await?;
            let format = recording.new.format;
            let made = pool.run(move || mix::make(&folder, format, &known)).await;
            // A panic over these files would come again.
            made.unwrap_or_else(|| Err(io::ErrorKind::InvalidData.into()))
        }
    };
    let (at, base) = (clock::wall_now(), recordings.base());
    let done = match outcome {
        Ok((mixed, filed)) => {
            RecordingDone { interaction, delivered: Some(delivered(mixed, &filed)), at, base }
        }
        Err(error) if is_final(&error) || recording.attempts >= MAX_ATTEMPTS => {
            warn!(recording = %interaction, attempts = recording.attempts, "recording cannot be mixed: {error}");
            RecordingDone { interaction, delivered: None, at, base }
        }
        Err(error) => {
            if recording.attempts == 0 {
                warn!(recording = %interaction, "recording is mixed later: {error}");
            }
            return postpone(recordings, &recording).await;
        }
    };
    let outcome = if done.delivered.is_some() { "ready" } else { "failed" };
    if store.recording_done(done).await?.is_some() {
        metrics::counter!("maskline_recordings_total", "outcome" => outcome).increment(1);
    }
    Ok(())
}

/// Files that are not there, or not what they should be, will not be so tomorrow either.
fn is_final(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidData, InvalidInput, NotADirectory, NotFound, Unsupported};
    matches!(error.kind(), InvalidData | InvalidInput | NotADirectory | NotFound | Unsupported)
}

/// What the manifest would say, should it be missing.
async fn known(recordings: &Recordings, recording: &Recording) -> Result<Known, StoreError> {
    let new = &recording.new;
    let call = recordings.inner.store.recorded_call(new.interaction).await?;
    let names = Names {
        interaction: new.interaction,
        a: new.call.or(call.as_ref().and_then(|call| call.a)),
        b: call.as_ref().and_then(|call| call.b),
        started_at: new.started_at.or(call.as_ref().and_then(|call| call.bridged_at)),
        account: new.account.clone(),
        session: new.session,
        format: Some(new.format),
    };
    Ok(Known { names, samples: new.samples, complete: new.complete })
}

fn delivered(mixed: Mixed, filed: &Filed) -> Delivered {
    Delivered {
        format: mixed.format,
        samples: filed.samples,
        complete: filed.complete,
        bytes: mixed.bytes,
        sha256: mixed.sha256,
    }
}

async fn remove(recordings: &Recordings, recording: Recording) -> Result<(), StoreError> {
    let (root, uuid) = (recordings.inner.directory.clone(), recording.new.interaction);
    let directory = recording.new.directory.clone();
    let removed = spawn_blocking(move || removal::remove(&root, &directory, uuid)).await;
    match removed.unwrap_or_else(|_| Err(io::ErrorKind::Other.into())) {
        Ok(()) => {
            metrics::counter!("maskline_recordings_total", "outcome" => "removed").increment(1);
            recordings.inner.store.recording_removed(uuid).await
        }
        Err(error) => {
            warn!(recording = %uuid, "files of a deleted recording cannot be removed yet: {error}");
            postpone(recordings, &recording).await
        }
    }
}

async fn postpone(recordings: &Recordings, recording: &Recording) -> Result<(), StoreError> {
    let wait_s = retry_after_s(recording.attempts);
    let due_at = Timestamp::from_second(clock::wall_now().as_second().saturating_add(wait_s));
    let attempts = recording.attempts.saturating_add(1);
    let due_at = due_at.unwrap_or(Timestamp::MAX);
    recordings.inner.store.postpone_recording(recording.new.interaction, attempts, due_at).await
}

fn retry_after_s(attempts: u32) -> i64 {
    let wait = FIRST_RETRY_S.checked_shl(attempts.min(32)).unwrap_or(LAST_RETRY_S).min(LAST_RETRY_S);
    i64::try_from(wait).unwrap_or(i64::MAX)
}

fn folder(recordings: &Recordings, recording: &Recording) -> Option<PathBuf> {
    let new = &recording.new;
    removal::folder(&recordings.inner.directory, &new.directory, new.interaction)
}

#[cfg(test)]
mod tests;

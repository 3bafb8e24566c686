//! What becomes of a recording after its call.
//!
//! ```text
//! call ends ─► file(): call.json, row `pending` ─► worker ─► pool: mix ─► call.mp3 | call.wav, call.json ─► `ready`
//!                                                    │ fails: again later, at last `failed`
//! DELETE, retention ─► row `deleted` ──────────────► worker ─► folder removed ─► `removed`
//! start ─► repair: folders without a row are completed and filed
//! ```
//!
//! The row comes before the deed whenever something is taken away, and after it whenever something is made; what
//! a crash cuts off is therefore found at the next start and done again. Nothing here runs on a media thread.

pub mod manifest;
mod mix;
#[cfg(feature = "mp3")]
mod mp3;
mod place;
mod pool;
mod removal;
pub mod repair;
pub mod worker;

pub use place::{DirectoryLock, DirectoryTaken};

use crate::masking::session::RecordFormat;
use crate::store::{NewRecording, Recording, RecordingState, Store, StoreError};
use jiff::Timestamp;
use manifest::{ManifestError, Names};
use media::RecordingReport;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use tokio::sync::Notify;
use tokio::task::spawn_blocking;

/// Why a recording is not filed. It is tried again later.
#[derive(Debug, thiserror::Error)]
pub enum FilingError {
    /// `call.json`.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// Its row.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A file of a recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordingFile {
    /// The one that is delivered.
    Mixed(RecordFormat),
    /// What the caller said.
    CallerLeg,
    /// What the called party said.
    CalleeLeg,
}

/// The recordings of this process. Clones share it.
#[derive(Clone)]
pub struct Recordings {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    directory: PathBuf,
    place: String,
    /// There may be something to do.
    wake: Notify,
    /// What stands before the paths in the URLs of events, once it is known.
    base: OnceLock<String>,
}

impl Recordings {
    /// Takes the recordings directory for this process, until the lock is dropped.
    ///
    /// # Errors
    /// [`DirectoryTaken`] when another process has it.
    pub async fn open(store: Store, directory: &Path) -> Result<(Self, DirectoryLock), DirectoryTaken> {
        let (place, lock) = place::claim(directory)?;
        let root = std::path::absolute(directory).unwrap_or_else(|_| directory.to_owned());
        if let Err(error) = store.keep_place(&place, &root.to_string_lossy()).await {
            tracing::warn!(%error, "other processes cannot find this one's recordings");
        }
        let inner = Inner {
            store,
            directory: directory.to_owned(),
            place,
            wake: Notify::new(),
            base: OnceLock::new(),
        };
        Ok((Self { inner: Arc::new(inner) }, lock))
    }

    /// Files a recording whose two files are closed: writes its manifest and its row. Both are tried, whatever
    /// becomes of the other: each can be made from the other one later.
    ///
    /// # Errors
    /// The first thing that failed.
    pub async fn file(
        &self,
        names: Names,
        report: RecordingReport,
        now: Timestamp,
    ) -> Result<(), FilingError> {
        let new = self.new_recording(&names, &report, now);
        count_losses(&report);
        let written = spawn_blocking(move || manifest::write(&names, &report)).await;
        let stored = self.inner.store.add_recording(new).await;
        self.wake();
        written.unwrap_or(Ok(()))?;
        Ok(stored?)
    }

    fn new_recording(&self, names: &Names, report: &RecordingReport, now: Timestamp) -> NewRecording {
        let directory = report.directory.strip_prefix(&self.inner.directory).unwrap_or(&report.directory);
        NewRecording {
            interaction: names.interaction,
            account: names.account.clone(),
            session: names.session,
            call: names.a,
            place: self.inner.place.clone(),
            directory: directory.to_string_lossy().into_owned(),
            format: mix::deliverable(names.format.unwrap_or(RecordFormat::Mp3)),
            added_at: now,
            started_at: names.started_at,
            samples: report.samples,
            sample_rate_hz: report.sample_rate_hz,
            complete: report.complete,
        }
    }

    /// Where a file of a recording is; `None` when there is none to be fetched. The path is made of what this
    /// process has checked, never of what a request says.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn path(
        &self,
        recording: &Recording,
        file: RecordingFile,
    ) -> Result<Option<PathBuf>, StoreError> {
        let name = match (file, recording.state) {
            (RecordingFile::Mixed(format), RecordingState::Ready) if format == recording.new.format => {
                manifest::file_name(format)
            }
            (RecordingFile::CallerLeg, RecordingState::Ready | RecordingState::Failed) => {
                media::recorder::A_LEG
            }
            (RecordingFile::CalleeLeg, RecordingState::Ready | RecordingState::Failed) => {
                media::recorder::B_LEG
            }
            _ => return Ok(None),
        };
        let root = if recording.new.place == self.inner.place {
            Some(self.inner.directory.clone())
        } else {
            self.inner.store.place(&recording.new.place).await?.map(PathBuf::from)
        };
        let folder =
            root.and_then(|root| removal::folder(&root, &recording.new.directory, recording.new.interaction));
        let Some(path) = folder.map(|folder| folder.join(name)) else { return Ok(None) };
        // A link would lead out of the directory.
        let kind = tokio::fs::symlink_metadata(&path).await;
        Ok(kind.is_ok_and(|kind| kind.is_file()).then_some(path))
    }

    /// Says how this process's API is reached, for the URLs in events. Said twice, the first word stands.
    pub fn reached_at(&self, base: String) {
        let _ = self.inner.base.set(base);
    }

    fn base(&self) -> String {
        self.inner.base.get().cloned().unwrap_or_default()
    }

    /// Something is to be done: the worker looks at once.
    pub fn wake(&self) {
        self.inner.wake.notify_one();
    }
}

/// What is listed in the manifest, as figures.
fn count_losses(report: &RecordingReport) {
    for (name, leg) in [("a", &report.a), ("b", &report.b)] {
        let samples: u64 = leg.lost.iter().map(|(_, count)| count).sum();
        let lost_ms = samples.saturating_mul(1000) / u64::from(report.sample_rate_hz.max(1));
        if lost_ms > 0 {
            metrics::counter!("maskline_recording_lost_ms_total", "leg" => name).increment(lost_ms);
        }
    }
    if !report.complete {
        metrics::counter!("maskline_recordings_incomplete_total").increment(1);
    }
}

impl std::fmt::Debug for Recordings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Recordings").field(&self.inner.directory).finish()
    }
}

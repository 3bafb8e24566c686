//! At the start: what an earlier process left. Recordings whose folder has no `call.json` are cut to whole samples,
//! made equally long, and filed; folders that the database does not know get their row.

use super::manifest::{self, Names};
use super::removal::folders;
use super::{Recordings, mix};
use crate::masking::session::RecordFormat;
use crate::store::{NewRecording, RecordedCall, StoreError};
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use tokio::task::spawn_blocking;
use tracing::warn;
use uuid::Uuid;

/// Folders that one start completes, the newest first; the rest waits for the next one.
const MAX_FOLDERS: usize = 100_000;

/// Completes and files every recording that an earlier process has left unfinished. Call it before the first call.
/// Returns how many. A folder that cannot be repaired is logged and left.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn unfinished(recordings: &Recordings) -> Result<usize, StoreError> {
    let root = recordings.inner.directory.clone();
    let days = in_thread(move || days(&root)).await;
    let (mut repaired, mut seen) = (0, 0_usize);
    for day in days {
        let found = {
            let day = day.clone();
            in_thread(move || of_day(&day)).await
        };
        if found.is_empty() {
            continue;
        }
        let name = day.strip_prefix(&recordings.inner.directory).unwrap_or(&day).to_string_lossy();
        let known = recordings.inner.store.recordings_of_day(&recordings.inner.place, &name).await?;
        for folder in unfiled(found, &known) {
            seen += 1;
            if seen > MAX_FOLDERS {
                return Ok(repaired);
            }
            repaired += usize::from(complete(recordings, &name, folder).await?);
        }
    }
    Ok(repaired)
}

/// A folder of a recording.
struct Found {
    uuid: Uuid,
    path: PathBuf,
    has_manifest: bool,
}

/// A row without a manifest is a job already, and one that is deleted is to be removed.
fn unfiled(found: Vec<Found>, known: &HashSet<Uuid>) -> impl Iterator<Item = Found> {
    found.into_iter().filter(|folder| !known.contains(&folder.uuid))
}

/// Gives a folder its manifest and its row. False when it had a manifest, or there is nothing in it.
async fn complete(recordings: &Recordings, day: &str, folder: Found) -> Result<bool, StoreError> {
    let call = recordings.inner.store.recorded_call(folder.uuid).await?;
    let names = names(folder.uuid, call);
    let (path, has_manifest) = (folder.path.clone(), folder.has_manifest);
    let repaired = {
        let names = names.clone();
        spawn_blocking(move || filed(&path, &names, has_manifest)).await
    };
    let filed = match repaired {
        Ok(Ok(Some(filed))) => filed,
        Ok(Ok(None)) | Err(_) => return Ok(false),
        Ok(Err(error)) => {
            warn!(folder = %folder.path.display(), "recording cannot be repaired: {error}");
            return Ok(false);
        }
    };
    let started_at = filed.started_at.or(names.started_at);
    let new = NewRecording {
        interaction: folder.uuid,
        account: names.account,
        session: names.session,
        call: names.a,
        place: recordings.inner.place.clone(),
        directory: format!("{day}/{}", folder.uuid),
        format: mix::deliverable(names.format.unwrap_or(RecordFormat::Mp3)),
        // Its age counts from the call, not from this start.
        added_at: started_at.or_else(|| date(day)).unwrap_or_default(),
        started_at,
        samples: filed.samples,
        sample_rate_hz: filed.sample_rate_hz,
        complete: filed.complete,
    };
    recordings.inner.store.add_recording(new).await?;
    Ok(!has_manifest)
}

fn names(interaction: Uuid, call: Option<RecordedCall>) -> Names {
    let Some(call) = call else { return Names { interaction, ..Names::default() } };
    Names {
        interaction,
        a: call.a,
        b: call.b,
        started_at: call.bridged_at,
        account: call.account,
        session: call.session,
        format: call.format,
    }
}

fn filed(folder: &Path, names: &Names, has_manifest: bool) -> io::Result<Option<manifest::Filed>> {
    if has_manifest {
        match manifest::read(folder) {
            // Damaged: it is made again.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {}
            read => return read.map(Some),
        }
    }
    let Some(report) = media::recorder::repair(folder)? else { return Ok(None) };
    manifest::write(names, &report).map_err(io::Error::other)?;
    manifest::read(folder).map(Some)
}

fn date(day: &str) -> Option<Timestamp> {
    let date: Date = day.replace('/', "-").parse().ok()?;
    Some(date.to_zoned(TimeZone::UTC).ok()?.timestamp())
}

/// Every day that has a folder, the latest first.
fn days(root: &Path) -> Vec<PathBuf> {
    let months = folders(root, 4).into_iter().flat_map(|year| folders(&year, 2));
    let mut days: Vec<_> = months.flat_map(|month| folders(&month, 2)).collect();
    days.reverse();
    days
}

fn of_day(day: &Path) -> Vec<Found> {
    let entries = fs::read_dir(day).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders
        .filter_map(|entry| {
            let uuid = entry.file_name().to_str()?.parse().ok()?;
            let path = entry.path();
            let has_manifest = path.join(manifest::NAME).exists();
            Some(Found { uuid, path, has_manifest })
        })
        .take(MAX_FOLDERS)
        .collect()
}

async fn in_thread<T: Send + 'static>(list: impl FnOnce() -> Vec<T> + Send + 'static) -> Vec<T> {
    spawn_blocking(list).await.unwrap_or_default()
}

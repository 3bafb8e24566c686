//! Which recordings directory this is: an id that lies in it. The database names recordings by it, so that a
//! directory may be moved, and several processes of one database each know their own.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use tracing::warn;
use uuid::Uuid;

/// The file with the id.
const NAME: &str = ".maskline";

/// Another process records into the same directory: each would take the other's live recordings for unfinished.
#[derive(Debug, thiserror::Error)]
#[error("recordings.directory: {0} is used by another process; each needs a directory of its own")]
pub struct DirectoryTaken(PathBuf);

/// Keeps other processes out of a recordings directory until it is dropped.
#[derive(Debug)]
pub struct DirectoryLock(#[expect(dead_code, reason = "held, not read")] Option<File>);

/// Reads the directory's id, or gives it one. A directory that cannot be written has one for this process only:
/// nothing can be recorded into it either.
pub(super) fn claim(directory: &Path) -> Result<(String, DirectoryLock), DirectoryTaken> {
    let (id, file) = match open(directory) {
        Ok((id, file)) => (id, Some(file)),
        Err(error) => {
            warn!(directory = %directory.display(), "recordings cannot be written: {error}");
            (fresh(), None)
        }
    };
    if let Some(file) = &file
        && matches!(file.try_lock(), Err(TryLockError::WouldBlock))
    {
        return Err(DirectoryTaken(directory.to_owned()));
    }
    Ok((id, DirectoryLock(file)))
}

/// Tries again to write down an id that could not be written at the start.
pub(super) fn keep(directory: &Path, id: &str) {
    let path = directory.join(NAME);
    if read(&path).is_none() {
        // As long as it fails, recordings fail too, and say so.
        let _ = write(&path, id);
    }
}

fn open(directory: &Path) -> io::Result<(String, File)> {
    DirBuilder::new().recursive(true).mode(0o750).create(directory)?;
    let path = directory.join(NAME);
    let id = match read(&path) {
        Some(id) => id,
        None => {
            let id = fresh();
            write(&path, &id)?;
            id
        }
    };
    Ok((id, File::open(&path)?))
}

fn fresh() -> String {
    Uuid::new_v4().to_string()
}

fn read(path: &Path) -> Option<String> {
    let id = fs::read_to_string(path).ok()?;
    Uuid::parse_str(id.trim()).ok().map(|id| id.to_string())
}

fn write(path: &Path, id: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o640).open(path)?;
    writeln!(file, "{id}")?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_keeps_its_id_and_has_one_user() {
        let directory = std::env::temp_dir().join(format!("maskline-place-{}", fresh()));
        let (id, lock) = claim(&directory).unwrap();
        assert!(claim(&directory).unwrap_err().to_string().contains("recordings.directory"));
        drop(lock);
        let moved = directory.with_extension("moved");
        fs::rename(&directory, &moved).unwrap();
        assert_eq!(claim(&moved).unwrap().0, id);
        fs::write(moved.join(NAME), "damaged").unwrap();
        assert_ne!(claim(&moved).unwrap().0, id);
        fs::remove_dir_all(&moved).unwrap();
    }

    #[test]
    fn what_could_not_be_written_at_the_start_is_written_later() {
        let directory = std::env::temp_dir().join(format!("maskline-place-{}", fresh()));
        fs::write(&directory, "in the way").unwrap();
        let (id, _lock) = claim(&directory).unwrap();
        keep(&directory, &id);
        fs::remove_file(&directory).unwrap();
        fs::create_dir(&directory).unwrap();
        keep(&directory, &id);
        assert_eq!(claim(&directory).unwrap().0, id);
        fs::remove_dir_all(&directory).unwrap();
    }
}

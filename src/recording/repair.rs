//! After a crash: recordings whose folder has no `call.json` are cut to whole samples, made equally long, and filed.

use super::manifest::{self, Names};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use tracing::warn;
use uuid::Uuid;

/// Folders that are looked at in one start; the rest waits for the next one.
const MAX_FOLDERS: usize = 100_000;

/// Completes every unfinished recording below `directory` (`YYYY/MM/DD/{interaction_uuid}`). Returns how many.
///
/// # Errors
/// What the file system says about the directory itself. A folder that cannot be repaired is logged and left.
pub fn unfinished(directory: &Path) -> io::Result<usize> {
    let mut folders = vec![directory.to_owned()];
    for _ in ["year", "month", "day", "interaction"] {
        folders = folders.iter().flat_map(|folder| children(folder)).take(MAX_FOLDERS).collect();
    }
    let mut repaired = 0;
    for folder in folders.iter().filter(|folder| !folder.join(manifest::NAME).exists()) {
        let name = folder.file_name().and_then(|name| name.to_str());
        let Some(interaction) = name.and_then(|name| name.parse::<Uuid>().ok()) else { continue };
        match media::recorder::repair(folder) {
            Ok(Some(report)) => {
                let names = Names { interaction, ..Names::default() };
                match manifest::write(names, &report) {
                    Ok(()) => repaired += 1,
                    Err(error) => warn!("recording cannot be filed: {error}"),
                }
            }
            Ok(None) => {}
            Err(error) => warn!(folder = %folder.display(), "recording cannot be repaired: {error}"),
        }
    }
    Ok(repaired)
}

fn children(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

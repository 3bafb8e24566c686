//! Removing a recording's files, and nothing else: every step of the path is looked at first, and no link is
//! followed. Blocking.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// Removes the folder of a recording. One that is gone already is removed.
pub(super) fn remove(root: &Path, directory: &str, recording: Uuid) -> io::Result<()> {
    let folder = folder(root, directory, recording).ok_or(io::ErrorKind::InvalidInput)?;
    match guard(root, &folder) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    }
    // The library's own removal opens what it walks through, and unlinks links instead of following them.
    match fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => folder.parent().map_or(Ok(()), super::manifest::sync_folder),
    }
}

/// Where a row says that its folder is. `None` when it says anything but `YYYY/MM/DD/{uuid}`.
pub(super) fn folder(root: &Path, directory: &str, recording: Uuid) -> Option<PathBuf> {
    let mut parts = directory.split('/');
    let (year, month, day) = (parts.next()?, parts.next()?, parts.next()?);
    let number = |text: &str, digits| text.len() == digits && text.bytes().all(|b| b.is_ascii_digit());
    let is_day = number(year, 4) && number(month, 2) && number(day, 2);
    let named = is_day && parts.next()? == recording.to_string() && parts.next().is_none();
    named.then(|| root.join(directory))
}

/// Every folder between the recordings directory and `folder` is a real one.
fn guard(root: &Path, folder: &Path) -> io::Result<()> {
    for part in folder.ancestors().take_while(|part| *part != root) {
        if !fs::symlink_metadata(part)?.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
    }
    Ok(())
}

/// Removes folders of days before `day` (`YYYY/MM/DD`) that are empty, and then those of months and years. Later
/// ones may be about to be filled.
pub(super) fn remove_empty_days(root: &Path, day: &str) {
    let before = |folder: &Path| {
        let path = folder.strip_prefix(root).map(Path::to_string_lossy).unwrap_or_default();
        *path < *day && !day.starts_with(&*path)
    };
    for year in folders(root, 4) {
        for month in folders(&year, 2) {
            folders(&month, 2).iter().filter(|day| before(day)).for_each(|day| remove_if_empty(day));
            if before(&month) {
                remove_if_empty(&month);
            }
        }
        if before(&year) {
            remove_if_empty(&year);
        }
    }
}

fn remove_if_empty(folder: &Path) {
    // The system refuses it when there is something in it.
    let _ = fs::remove_dir(folder);
}

/// The folders in `folder` whose names are so many digits, in order. No links.
pub(super) fn folders(folder: &Path, digits: usize) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter(|entry| {
            let name = entry.file_name();
            let name = name.as_encoded_bytes();
            name.len() == digits && name.iter().all(u8::is_ascii_digit)
        })
        .map(|entry| entry.path())
        .collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    struct Root(PathBuf);

    impl Root {
        fn new() -> Self {
            let path = std::env::temp_dir().join(format!("maskline-removal-{}", Uuid::new_v4()));
            fs::create_dir(&path).unwrap();
            Self(path)
        }

        fn recording(&self, day: &str, uuid: Uuid) -> PathBuf {
            let folder = self.0.join(day).join(uuid.to_string());
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("a-leg.wav"), "sound").unwrap();
            folder
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_removal_takes_one_folder_and_may_be_repeated() {
        let root = Root::new();
        let (one, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let (gone, kept) = (root.recording("2026/01/02", one), root.recording("2026/01/02", other));
        for _ in 0..2 {
            remove(&root.0, &format!("2026/01/02/{one}"), one).unwrap();
            assert!(!gone.exists() && kept.join("a-leg.wav").exists());
        }
    }

    #[test]
    fn a_row_that_names_another_place_removes_nothing() {
        let root = Root::new();
        let uuid = Uuid::from_u128(1);
        let kept = root.recording("2026/01/02", uuid);
        for directory in [
            "",
            "/",
            "..",
            "2026/01/02",
            "2026/01/02/",
            "2026/01/02/..",
            "/etc",
            "2026/01/../../x",
            "2026/01/02/00000000-0000-0000-0000-000000000002",
            "../01/02/00000000-0000-0000-0000-000000000001",
            "2026/01/02/00000000-0000-0000-0000-000000000001/../..",
            "2026/01/02/x/00000000-0000-0000-0000-000000000001",
        ] {
            assert_eq!(
                remove(&root.0, directory, uuid).unwrap_err().kind(),
                io::ErrorKind::InvalidInput,
                "{directory}"
            );
        }
        assert!(kept.exists());
    }

    #[test]
    fn links_are_not_followed() {
        let (root, elsewhere) = (Root::new(), Root::new());
        let uuid = Uuid::from_u128(1);
        let treasure = elsewhere.recording("02", uuid);
        // A day, and a recording, that are links to another place.
        fs::create_dir_all(root.0.join("2026/01")).unwrap();
        symlink(elsewhere.0.join("02"), root.0.join("2026/01/02")).unwrap();
        let error = remove(&root.0, &format!("2026/01/02/{uuid}"), uuid).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotADirectory);
        fs::create_dir_all(root.0.join("2026/01/03")).unwrap();
        symlink(&treasure, root.0.join(format!("2026/01/03/{uuid}"))).unwrap();
        assert!(remove(&root.0, &format!("2026/01/03/{uuid}"), uuid).is_err());
        // A link within a recording goes, what it leads to stays.
        let folder = root.recording("2026/01/04", uuid);
        symlink(&treasure, folder.join("link")).unwrap();
        remove(&root.0, &format!("2026/01/04/{uuid}"), uuid).unwrap();
        assert!(!folder.exists() && treasure.join("a-leg.wav").exists());
    }

    #[test]
    fn empty_days_go_unless_they_are_young() {
        let root = Root::new();
        for day in ["2025/12/31", "2026/01/01", "2026/01/02", "2026/01/03", "2026/02/01", "other/01/01"] {
            fs::create_dir_all(root.0.join(day)).unwrap();
        }
        root.recording("2026/01/01", Uuid::from_u128(1));
        remove_empty_days(&root.0, "2026/01/03");
        let left = |path: &str| root.0.join(path).exists();
        assert!(!left("2025") && !left("2026/01/02"));
        assert!(left("2026/01/01") && left("2026/01/03") && left("2026/02/01") && left("other/01/01"));
    }
}

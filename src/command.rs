//! The commands that start no service: `maskline check` and `maskline drain`; and the file by which the second
//! finds the first command's process.

use crate::config::{self, Checked, Config};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// What a command exits with when the configuration has faults: nothing was started.
pub const FAULTY_CONFIGURATION: u8 = 2;

/// `maskline check`: every fault of the configuration, or what it comes to.
#[must_use]
pub fn check(path: Option<&Path>) -> ExitCode {
    match Config::load(path, config::environment()) {
        Ok(checked) => {
            say(&format!("configuration is valid\n{}", checked.summary()));
            ExitCode::SUCCESS
        }
        Err(faults) => {
            eprintln!("{faults}");
            ExitCode::from(FAULTY_CONFIGURATION)
        }
    }
}

/// `maskline drain`: tells the running service to take no new call, and waits until it has ended.
#[must_use]
pub fn drain(config: &Checked) -> ExitCode {
    let path = config.store.pid_file();
    match drain_process(path, |pid| {
        say(&format!("process {pid} takes no new calls; waiting for live calls to end"))
    }) {
        Ok(()) => {
            say("drained");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn drain_process(path: &Path, on_signal: impl FnOnce(Pid)) -> Result<(), PidFileError> {
    let failed = |source| PidFileError::File { path: path.to_owned(), source };
    let mut file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(PidFileError::NotRunning { path: path.to_owned() });
        }
        opened => opened.map_err(failed)?,
    };
    // Only the lock says that the process lives. A number alone may be anybody's by now.
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => {}
        Ok(()) => return Err(PidFileError::NotRunning { path: path.to_owned() }),
        Err(TryLockError::Error(source)) => return Err(failed(source)),
    }
    let pid = read_pid(&mut file).ok_or_else(|| failed(io::ErrorKind::InvalidData.into()))?;
    kill_process(pid, Signal::TERM).map_err(|errno| failed(errno.into()))?;
    on_signal(pid);
    // The service lets go of its lock when it ends, however it ends.
    file.lock_shared().map_err(failed)
}

fn read_pid(file: &mut File) -> Option<Pid> {
    let mut text = String::new();
    file.take(32).read_to_string(&mut text).ok()?;
    Pid::from_raw(text.trim().parse().ok()?)
}

/// Why the file of the process id is of no use.
#[derive(Debug, thiserror::Error)]
pub enum PidFileError {
    /// Somebody else serves with the same store.
    #[error("{} is held by another maskline: each has an SQLite file (store.url), or with PostgreSQL a \
             recordings.directory, of its own", path.display())]
    Held {
        /// The file.
        path: PathBuf,
    },
    /// There is nothing to drain.
    #[error("no maskline is running with this store ({} is held by nobody)", path.display())]
    NotRunning {
        /// The file.
        path: PathBuf,
    },
    /// The system refuses.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
}

/// The running service's mark beside its store: a locked file with its process id. The lock, not the file,
/// says that the service lives, so nothing has to be cleaned up after a `kill -9`; the file stays.
#[derive(Debug)]
pub struct PidFile {
    _locked: File,
}

impl PidFile {
    /// Takes the mark for this process; it is held until the value is dropped. Directories are made.
    ///
    /// # Errors
    /// [`PidFileError::Held`] when another service has it, [`PidFileError::File`] when the system refuses.
    pub fn claim(path: &Path) -> Result<Self, PidFileError> {
        Self::claim_for(path, std::process::id())
    }

    fn claim_for(path: &Path, pid: u32) -> Result<Self, PidFileError> {
        let failed = |source| PidFileError::File { path: path.to_owned(), source };
        if let Some(directory) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o750).create(directory).map_err(failed)?;
        }
        let mut options = OpenOptions::new();
        // Not truncated before the lock is ours: another service's number may stand there.
        let mut file = options.write(true).create(true).truncate(false).open(path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(PidFileError::Held { path: path.to_owned() }),
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        file.set_len(0).and_then(|()| writeln!(file, "{pid}")).map_err(failed)?;
        Ok(Self { _locked: file })
    }
}

/// Prints for whoever called; that nobody reads is no fault of ours.
fn say(text: &str) {
    let _ = writeln!(io::stdout(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    /// A path of this test's own, in a directory that does not exist yet.
    fn fresh(name: &str) -> PathBuf {
        let directory = std::env::temp_dir().join(format!("maskline-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&directory);
        directory.join("data/maskline.pid")
    }

    fn clean(path: &Path) {
        std::fs::remove_dir_all(path.ancestors().nth(2).unwrap()).unwrap();
    }

    #[test]
    fn one_store_is_for_one_service_at_a_time() {
        let path = fresh("claim");
        let first = PidFile::claim(&path).unwrap();
        assert!(matches!(PidFile::claim(&path), Err(PidFileError::Held { .. })));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
        drop(first);
        PidFile::claim(&path).unwrap();
        clean(&path);
    }

    #[test]
    fn drain_asks_the_process_to_end_and_waits_until_it_let_go() {
        let path = fresh("drain");
        let mut process = Command::new("sleep").arg("600").spawn().unwrap();
        let held = PidFile::claim_for(&path, process.id()).unwrap();
        let (asked, was_asked) = std::sync::mpsc::channel();
        let drained = std::thread::spawn({
            let path = path.clone();
            move || drain_process(&path, |pid| asked.send(pid).unwrap())
        });
        assert_eq!(was_asked.recv().unwrap().as_raw_pid().unsigned_abs(), process.id());
        assert_eq!(process.wait().unwrap().signal(), Some(Signal::TERM.as_raw()));
        assert!(!drained.is_finished(), "the service has not let go yet");
        drop(held);
        drained.join().unwrap().unwrap();
        clean(&path);
    }

    #[test]
    fn a_number_that_nobody_holds_gets_no_signal() {
        let path = fresh("stale");
        assert!(matches!(drain_process(&path, |_| {}), Err(PidFileError::NotRunning { .. })));
        let mut process = Command::new("sleep").arg("600").spawn().unwrap();
        drop(PidFile::claim_for(&path, process.id()).unwrap());
        assert!(matches!(
            drain_process(&path, |_| panic!("a stranger was asked")),
            Err(PidFileError::NotRunning { .. })
        ));
        assert!(process.try_wait().unwrap().is_none(), "the stranger lives");
        process.kill().unwrap();
        process.wait().unwrap();
        clean(&path);
    }
}

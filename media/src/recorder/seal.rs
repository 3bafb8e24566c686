//! The last steps of a recording, and the mending of one that a crash cut off.
//!
//! A file is fitted to its length (whole samples, header, silence at its end), synced and hashed. A sealer
//! may wait for the disk as long as it likes: no call and no other recording waits with it. However many calls end at
//! once, no more files are synced at one time than there are sealers.
//!
//! SHA-256 goes through a file from its first byte, and the first bytes of a WAV file are its length: it cannot be made
//! while the file grows. (A digest of the audio alone could; but nobody's `sha256sum` would find it.) What hashing at
//! the end costs more is one read, as a rule from the system's cache: for an hour of one leg 15 ms of CPU beside the
//! 40 ms of hashing with the processor's own instructions. The hashing itself would otherwise burden the thread that must
//! keep up with live calls. It is done in steps of 64 KiB, at low priority, for as many files at one time as there are
//! sealers.

use super::file::{self, MAX_SAMPLES, header};
use super::{A_LEG, B_LEG, EventSink};
use crate::engine::priority;
use crate::jitter::list;
use crate::time::SAMPLE_RATE_HZ;
use crate::{CallStatistics, LegRecording, MediaEvent, RecordingReport};
use sha2::{Digest, Sha256};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

const HEADER_LENGTH: u64 = file::HEADER_LENGTH as u64;
/// Bytes that are read at once.
const PIECE: usize = 1 << 16;
/// Samples per second that a file of ours may have.
const RATES: [u32; 2] = [SAMPLE_RATE_HZ, 2 * SAMPLE_RATE_HZ];

/// A recording whose files are written and closed.
pub(super) struct Written {
    pub(super) directory: PathBuf,
    pub(super) samples: u64,
    /// Samples per second.
    pub(super) rate: u32,
    pub(super) a: LegRecording,
    pub(super) b: LegRecording,
    pub(super) complete: bool,
    pub(super) events: EventSink,
    pub(super) statistics: CallStatistics,
}

/// Threads that complete finished recordings. Cloning shares them; they end when the last clone is dropped.
#[derive(Debug, Clone)]
pub struct Sealers {
    jobs: Sender<Written>,
}

impl Sealers {
    /// Several threads, because they spend their time waiting for the disk.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub fn start(threads: usize) -> io::Result<Self> {
        let (jobs, inbox) = channel();
        let inbox = Arc::new(Mutex::new(inbox));
        for index in 0..threads.max(1) {
            let inbox = inbox.clone();
            std::thread::Builder::new().name(format!("sealer-{index}")).spawn(move || run(&inbox))?;
        }
        Ok(Self { jobs })
    }

    pub(super) fn seal(&self, written: Written) {
        if let Err(failed) = self.jobs.send(written) {
            // All sealers are gone, which only a panic in each of them explains; the call must still hear of
            // its end.
            failed.0.complete();
        }
    }
}

fn run(inbox: &Mutex<Receiver<Written>>) {
    priority::lower(priority::SEALERS);
    loop {
        // A sealer that panicked held the lock only while it waited.
        let next = inbox.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(written) = next else { return };
        let (events, statistics) = (written.events.clone(), written.statistics);
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| written.complete())).is_err() {
            tracing::error!("a sealer panicked; its recording stays as it is");
            // The call waits for its end; to hear of it twice does no harm.
            events(MediaEvent::RecordingFailed);
            events(MediaEvent::Closed(statistics));
        }
    }
}

impl Written {
    fn complete(self) {
        let Self { directory, samples, rate, a, b, complete, events, statistics } = self;
        let samples = samples.min(MAX_SAMPLES);
        let mut report = RecordingReport { sample_rate_hz: rate, samples, a, b, complete, directory };
        if let Err(error) = report.seal() {
            // What failed while it was written has been told already; its end is the same trouble.
            if report.complete {
                tracing::error!(directory = %report.directory.display(), %error, "recording cannot be completed");
            }
            report.complete = false;
        }
        events(MediaEvent::Recorded(report));
        events(MediaEvent::Closed(statistics));
    }
}

impl RecordingReport {
    /// Fits, syncs and hashes both files; does what it can for the second one when the first one fails.
    fn seal(&mut self) -> io::Result<()> {
        let (directory, samples, rate) = (self.directory.as_path(), self.samples, self.sample_rate_hz);
        let a = self.a.seal(&directory.join(A_LEG), samples, rate);
        let b = self.b.seal(&directory.join(B_LEG), samples, rate);
        self.complete &= a? & b?;
        // The names must survive as well as what they name.
        File::open(directory)?.sync_all()
    }
}

impl LegRecording {
    /// True when nothing was missing at the file's end.
    fn seal(&mut self, path: &Path, samples: u64, rate: u32) -> io::Result<bool> {
        let (kept, sha256) = seal_file(path, samples, rate)?;
        self.sha256 = sha256;
        self.miss_from(kept, samples);
        Ok(kept == samples)
    }

    /// What was not written after `kept` samples is silence up to the end, and lost.
    fn miss_from(&mut self, kept: u64, samples: u64) {
        if kept < samples {
            self.lost.retain(|(start, _)| *start < kept || *start >= samples);
            let beyond = self.lost.pop_if(|(start, _)| *start >= samples);
            list(&mut self.lost, kept, samples - kept);
            self.lost.extend(beyond);
        }
    }
}

/// Mends the files of a recording that a crash cut off, so that both are playable and of equal length. `None`
/// when there is no file. The gaps within are not known any more; what was cut off at one file's end is
/// listed as lost.
///
/// # Errors
/// What the system says, or [`io::ErrorKind::InvalidData`] for a file that is none of ours.
pub fn repair(directory: &Path) -> io::Result<Option<RecordingReport>> {
    let (mut samples, mut rate) = (None, None);
    for name in [A_LEG, B_LEG] {
        match File::open(directory.join(name)) {
            Ok(file) => {
                let (count, found) = samples_in(&file)?;
                samples = samples.max(Some(count));
                rate = rate.or(found);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    let Some(samples) = samples else { return Ok(None) };
    let mut report = RecordingReport {
        directory: directory.to_owned(),
        // A power cut before the first flush leaves neither header nor audio.
        sample_rate_hz: rate.unwrap_or(SAMPLE_RATE_HZ),
        samples,
        a: LegRecording::default(),
        b: LegRecording::default(),
        complete: false,
    };
    report.seal()?;
    report.complete = false;
    Ok(Some(report))
}

/// Fits, syncs and hashes one file; returns how many samples it held before it was padded, and its SHA-256.
fn seal_file(path: &Path, samples: u64, rate: u32) -> io::Result<(u64, String)> {
    let file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o640).open(path)?;
    let (kept, found) = samples_in(&file)?;
    if found.is_some_and(|found| found != rate) {
        // Two legs of different rates are none of ours.
        return Err(io::ErrorKind::InvalidData.into());
    }
    let kept = kept.min(samples);
    let length = HEADER_LENGTH + 2 * samples;
    if file.metadata()?.len() != length {
        // First cut, then grow: what lay behind the last whole sample must not be heard. Growing takes no
        // space on the disk, so it works on a full one.
        file.set_len(HEADER_LENGTH + 2 * kept)?;
        file.set_len(length)?;
    }
    let header = header(samples, rate);
    let mut found = [0; file::HEADER_LENGTH];
    file.read_exact_at(&mut found, 0)?;
    if found != header {
        file.write_all_at(&header, 0)?;
    }
    file.sync_all()?;
    Ok((kept, hash(&file)?))
}

/// Whole samples after the header, as the file's length tells it, and their rate when there is a header.
fn samples_in(file: &File) -> io::Result<(u64, Option<u32>)> {
    let length = file.metadata()?.len();
    let mut rate = None;
    let mut found = [0; file::HEADER_LENGTH];
    if length >= HEADER_LENGTH {
        file.read_exact_at(&mut found, 0)?;
        // A power cut may have left nulls; but a file that says to be something else is not for us to cut.
        if found.starts_with(b"RIFF") {
            let is_ours = |rate: &u32| found.get(8..40) == header(0, *rate).get(8..40);
            rate = Some(RATES.into_iter().find(is_ours).ok_or(io::ErrorKind::InvalidData)?);
        }
    }
    Ok(((length.saturating_sub(HEADER_LENGTH) / 2).min(MAX_SAMPLES), rate))
}

fn hash(file: &File) -> io::Result<String> {
    let (mut hasher, mut piece, mut at) = (Sha256::new(), vec![0; PIECE], 0);
    loop {
        match file.read_at(&mut piece, at) {
            Ok(0) => break,
            Ok(count) => {
                hasher.update(piece.get(..count).unwrap_or_default());
                at += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recorder::testing::{Folder, read};

    fn wav(samples: &[i16]) -> Vec<u8> {
        let mut bytes = header(samples.len() as u64, 8000).to_vec();
        bytes.extend(samples.iter().flat_map(|sample| sample.to_le_bytes()));
        bytes
    }

    #[test]
    fn a_wideband_recording_is_mended_at_its_own_rate() {
        let folder = Folder::new();
        let mut file = header(100, 16_000).to_vec();
        file.extend([1; 200]);
        std::fs::write(folder.path().join(A_LEG), &file).unwrap();
        let report = repair(folder.path()).unwrap().unwrap();
        assert_eq!((report.sample_rate_hz, report.samples), (16_000, 100));
        let other = std::fs::read(folder.path().join(B_LEG)).unwrap();
        assert_eq!(other[..44], header(100, 16_000), "the missing leg gets the same rate");
        std::fs::write(folder.path().join(B_LEG), wav(&[1, 2, 3])).unwrap();
        assert_eq!(repair(folder.path()).unwrap_err().kind(), io::ErrorKind::InvalidData, "two rates");
    }

    #[test]
    fn a_recording_cut_by_a_crash_is_mended() {
        let full: Vec<i16> = (0..1000).collect();
        let mut behind = wav(&full);
        behind[4..8].copy_from_slice(&[9, 0, 0, 0]); // The header was not flushed, and half a sample is left.
        behind[40..44].copy_from_slice(&[9, 0, 0, 0]);
        behind.push(7);
        type Row = (&'static str, Option<Vec<u8>>, Option<Vec<u8>>, [usize; 2]);
        let table: [Row; 5] = [
            ("header behind its data, other leg shorter", Some(behind), Some(wav(&full[..600])), [1000, 600]),
            ("a leg without a file", Some(wav(&full)), None, [1000, 0]),
            ("a leg cut within its header", Some(wav(&full)[..20].to_vec()), Some(wav(&full)), [0, 1000]),
            ("an empty file", Some(vec![]), Some(wav(&full)), [0, 1000]),
            ("both whole", Some(wav(&full)), Some(wav(&full)), [1000, 1000]),
        ];
        for (fact, a, b, kept) in table {
            let folder = Folder::new();
            for (name, bytes) in [(A_LEG, a), (B_LEG, b)] {
                if let Some(bytes) = bytes {
                    std::fs::write(folder.path().join(name), bytes).unwrap();
                }
            }
            let report = repair(folder.path()).unwrap().unwrap();
            assert_eq!((report.samples, report.complete), (1000, false), "{fact}");
            for (name, leg, kept) in [(A_LEG, &report.a, kept[0]), (B_LEG, &report.b, kept[1])] {
                let path = folder.path().join(name);
                let mut expected = full[..kept].to_vec();
                expected.resize(1000, 0);
                assert_eq!(read(&path), expected, "{fact}: {name}");
                let gap = (kept < 1000).then_some((kept as u64, 1000 - kept as u64));
                assert_eq!(leg.lost, gap.into_iter().collect::<Vec<_>>(), "{fact}: {name}");
                let digest = Sha256::digest(std::fs::read(&path).unwrap());
                assert_eq!(leg.sha256, digest.iter().map(|b| format!("{b:02x}")).collect::<String>());
            }
            assert_eq!(
                repair(folder.path()).unwrap().unwrap().samples,
                1000,
                "mending twice changes nothing"
            );
        }
    }

    #[test]
    fn there_is_nothing_to_mend_in_an_empty_folder() {
        let folder = Folder::new();
        assert_eq!(repair(folder.path()).unwrap(), None);
    }

    #[test]
    fn a_file_that_is_not_ours_is_left_alone() {
        let folder = Folder::new();
        let mut stereo = wav(&[1, 2, 3, 4]);
        stereo[22] = 2;
        std::fs::write(folder.path().join(A_LEG), &stereo).unwrap();
        assert_eq!(repair(folder.path()).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(std::fs::read(folder.path().join(A_LEG)).unwrap(), stereo);
    }

    #[test]
    fn losses_at_the_end_are_joined() {
        let mut leg =
            LegRecording { lost: vec![(0, 10), (50, 20), (90, 5), (100, 7)], ..LegRecording::default() };
        leg.miss_from(60, 100);
        assert_eq!(leg.lost, [(0, 10), (50, 50), (100, 7)]);
        leg.miss_from(100, 100);
        assert_eq!(leg.lost, [(0, 10), (50, 50), (100, 7)]);
    }
}

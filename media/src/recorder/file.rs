//! The way to the disk: a WAV file whose audio is written at its own place, whatever became of what lies before it.
//!
//! Audio is collected and written in pieces, behind the header that counts it, so the file never claims more than
//! it holds. What the disk refuses is lost and listed; the next piece goes where it belongs all the same, and the
//! hole before it reads as silence. Nothing is ever written twice.

use crate::jitter::{Stretches, list};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Length of the header of 16-bit mono PCM: RIFF, fmt of 16 bytes, data.
pub(super) const HEADER_LENGTH: usize = 44;
/// What a WAV file of ours may hold: 37 hours, or 18 at 16 000 Hz. Its 2 GiB are within every length field, signed ones
/// of other programs too.
pub(super) const MAX_SAMPLES: u64 = 1 << 30;
/// Audio held back between two flushes: a quarter of a second is 4000 bytes, or 8000 at 16 000 Hz.
const BUFFER: usize = 8192;

/// An open file.
pub(super) trait Storage: Send {
    /// Writes some of `bytes`, as `pwrite` does.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;
}

/// What the recorder asks of the disk. The only other one is that of the tests, which fails when it is told to.
pub(super) trait Disk: Send + Sync {
    /// Makes a folder and those above it.
    fn make_folder(&self, path: &Path) -> io::Result<()>;
    /// Never takes the place of a file that exists.
    fn create(&self, path: &Path) -> io::Result<Box<dyn Storage>>;
}

impl Storage for File {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        FileExt::write_at(self, bytes, offset)
    }
}

/// The one of the system.
pub(super) struct SystemDisk;

impl Disk for SystemDisk {
    fn make_folder(&self, path: &Path) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o750).create(path)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn Storage>> {
        Ok(Box::new(OpenOptions::new().write(true).create_new(true).mode(0o640).open(path)?))
    }
}

/// One leg's file.
pub(super) struct WavFile {
    /// `None` as long as it could not be made.
    storage: Option<Box<dyn Storage>>,
    rate: u32,
    /// Samples before those that wait: written or lost.
    done: u64,
    waiting: Vec<u8>,
    /// Where the last written sample ends, and up to where the header counts.
    reach: u64,
    counted: u64,
    lost: Stretches,
    /// All that any file ever lost, for the figures.
    unwritten: Arc<AtomicU64>,
}

impl WavFile {
    /// A file that is still to be opened.
    pub(super) fn new(rate: u32, unwritten: Arc<AtomicU64>) -> Self {
        let waiting = Vec::with_capacity(BUFFER);
        Self {
            storage: None,
            rate,
            done: 0,
            waiting,
            reach: 0,
            counted: 0,
            lost: Stretches::new(),
            unwritten,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.storage.is_some()
    }

    /// Takes the file, which is empty, and gives it its header.
    pub(super) fn open(&mut self, storage: Box<dyn Storage>) -> io::Result<()> {
        let header = header(self.reach, self.rate);
        let (_, outcome) = write_all(storage.as_ref(), &header, 0);
        self.storage = Some(storage);
        outcome
    }

    /// Adds samples at the end.
    pub(super) fn push(&mut self, samples: &[i16]) -> io::Result<()> {
        let mut outcome = Ok(());
        for piece in samples.chunks(BUFFER / 2) {
            if self.waiting.len() + 2 * piece.len() > BUFFER {
                outcome = outcome.and(self.write_audio());
            }
            self.waiting.extend(piece.iter().flat_map(|sample| sample.to_le_bytes()));
        }
        outcome
    }

    /// Writes what waits. What cannot be written is lost.
    pub(super) fn write_audio(&mut self) -> io::Result<()> {
        let samples = self.waiting.len() as u64 / 2;
        if samples == 0 {
            return Ok(());
        }
        let room = MAX_SAMPLES.saturating_sub(self.done).min(samples);
        let bytes = self.waiting.get(..2 * room as usize).unwrap_or_default();
        let offset = HEADER_LENGTH as u64 + 2 * self.done;
        let (kept, mut outcome) = match &self.storage {
            Some(storage) => write_all(storage.as_ref(), bytes, offset),
            None => (0, Err(io::ErrorKind::NotConnected.into())),
        };
        if let Some(storage) = self.storage.as_ref().filter(|_| kept % 2 == 1) {
            // Half a sample is noise. What has been written takes no further room.
            let _ = storage.write_at(&[0], offset + kept as u64 - 1);
        }
        if room < samples && outcome.is_ok() {
            outcome = Err(io::ErrorKind::FileTooLarge.into());
        }
        let kept = kept as u64 / 2;
        if kept > 0 {
            self.reach = self.done + kept;
        }
        list(&mut self.lost, self.done + kept, samples - kept);
        self.unwritten.fetch_add(samples - kept, Ordering::Relaxed);
        self.done += samples;
        self.waiting.clear();
        outcome
    }

    /// Makes the header count what has been written.
    pub(super) fn write_header(&mut self) -> io::Result<()> {
        let Some(storage) = self.storage.as_ref().filter(|_| self.counted != self.reach) else {
            return Ok(());
        };
        let (_, outcome) = write_all(storage.as_ref(), &header(self.reach, self.rate), 0);
        self.counted = self.reach;
        outcome
    }

    /// Closes the file; where it holds silence because the disk refused what was said.
    pub(super) fn into_lost(self) -> Stretches {
        self.lost
    }
}

/// How many bytes were written, all of them unless there was an error.
fn write_all(storage: &dyn Storage, bytes: &[u8], offset: u64) -> (usize, io::Result<()>) {
    let mut written = 0;
    while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
        match storage.write_at(rest, offset + written as u64) {
            Ok(0) => return (written, Err(io::ErrorKind::WriteZero.into())),
            Ok(count) => written += count.min(rest.len()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (written, Err(error)),
        }
    }
    (written, Ok(()))
}

/// The header of 16-bit mono PCM, byte for byte what hound writes.
pub(super) fn header(samples: u64, rate: u32) -> [u8; HEADER_LENGTH] {
    let bytes = u32::try_from(2 * samples.min(MAX_SAMPLES)).unwrap_or(u32::MAX);
    let mut header = [0; HEADER_LENGTH];
    let fields: [&[u8]; 13] = [
        b"RIFF",
        &bytes.saturating_add(36).to_le_bytes(),
        b"WAVE",
        b"fmt ",
        &16u32.to_le_bytes(),
        &1u16.to_le_bytes(),
        &1u16.to_le_bytes(),
        &rate.to_le_bytes(),
        &rate.saturating_mul(2).to_le_bytes(),
        &2u16.to_le_bytes(),
        &16u16.to_le_bytes(),
        b"data",
        &bytes.to_le_bytes(),
    ];
    for (to, from) in header.iter_mut().zip(fields.into_iter().flatten()) {
        *to = *from;
    }
    header
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recorder::testing::{FaultyDisk, Folder, read};

    fn file(disk: &FaultyDisk, path: &Path, rate: u32) -> WavFile {
        let mut file = WavFile::new(rate, Arc::default());
        file.open(disk.create(path).unwrap()).unwrap();
        file
    }

    #[test]
    fn the_header_is_the_one_that_hound_writes() {
        for (samples, rate) in [(0, 8000), (3, 8000), (0, 16_000), (2, 16_000)] {
            let mut written = io::Cursor::new(vec![]);
            let sample_format = hound::SampleFormat::Int;
            let spec = hound::WavSpec { channels: 1, sample_rate: rate, bits_per_sample: 16, sample_format };
            let mut writer = hound::WavWriter::new(&mut written, spec).unwrap();
            (0..samples).for_each(|sample| writer.write_sample(sample).unwrap());
            writer.finalize().unwrap();
            assert_eq!(written.into_inner()[..HEADER_LENGTH], header(samples as u64, rate));
        }
    }

    #[test]
    fn what_was_written_is_what_is_read_and_playable_after_each_header() {
        let (folder, disk) = (Folder::new(), FaultyDisk::new());
        let path = folder.path().join("x");
        // Short writes change nothing.
        disk.at_most(1000);
        let mut file = file(&disk, &path, 8000);
        let all: Vec<i16> = (0..30_000).map(|n| n as i16).collect();
        let mut at = 0;
        for (turn, length) in [1, 4095, 4096, 9000, 0, 160, 12_648].into_iter().enumerate() {
            file.push(&all[at..at + length]).unwrap();
            at += length;
            if turn % 2 == 0 {
                file.write_audio().unwrap();
                file.write_header().unwrap();
                assert!(read(&path) == all[..at], "playable after {at} samples");
            }
        }
        assert_eq!((at, file.into_lost()), (30_000, vec![]));
    }

    #[test]
    fn what_the_disk_refuses_is_a_hole_of_silence_and_the_rest_lies_in_its_place() {
        let (folder, disk) = (Folder::new(), FaultyDisk::new());
        let path = folder.path().join("x");
        let unwritten = Arc::new(AtomicU64::new(0));
        let mut file = WavFile::new(8000, unwritten.clone());
        file.open(disk.create(&path).unwrap()).unwrap();
        let mut expected = vec![];
        for (piece, room) in [(1i16, None), (2, Some(500)), (3, Some(0)), (4, None), (5, Some(0))] {
            disk.room(room);
            file.push(&[piece; 1000]).unwrap();
            assert_eq!(file.write_audio().is_err(), room.is_some());
            let kept = if room.is_some() { room.unwrap() / 2 } else { 1000 };
            expected.extend((0..1000).map(|n| if n < kept { piece } else { 0 }));
        }
        disk.room(None);
        file.write_header().unwrap();
        // Nothing is claimed that is not there.
        assert!(read(&path) == expected[..4000]);
        assert_eq!(unwritten.load(Ordering::Relaxed), 2750);
        assert_eq!(file.into_lost(), [(1250, 1750), (4000, 1000)]);
    }

    #[test]
    fn a_file_ends_below_every_limit_of_its_length_fields() {
        let (folder, disk) = (Folder::new(), FaultyDisk::new());
        let path = folder.path().join("x");
        let mut file = file(&disk, &path, 8000);
        // As after 37 hours; the hole takes no room.
        file.done = MAX_SAMPLES - 10;
        file.push(&[3; 100]).unwrap();
        assert_eq!(file.write_audio().unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        file.write_header().unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), HEADER_LENGTH as u64 + 2 * MAX_SAMPLES);
        assert_eq!(hound::WavReader::open(&path).unwrap().duration(), 1 << 30);
        file.push(&[3; 100]).unwrap();
        file.write_audio().unwrap_err();
        assert_eq!(file.into_lost(), [(MAX_SAMPLES, 190)]);
    }
}

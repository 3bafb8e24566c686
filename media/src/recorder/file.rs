//! What hound writes through: one write for the audio and one for the header per flush.
//!
//! hound puts its two length fields right by seeking there and back, which through a plain buffer costs eight
//! system calls per flush and file. Here the header is kept in memory. Audio is written before the header
//! that counts it, so the file never claims more than it holds.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

/// Length of the header that hound writes for 16-bit mono PCM: RIFF, fmt of 16 bytes, data.
pub(super) const HEADER_LENGTH: usize = 44;
/// Audio held back between two flushes: a quarter of a second is 4000 bytes.
const BUFFER: usize = 8192;

/// What every file holds, at one of the two rates.
pub(super) const fn spec(sample_rate: u32) -> hound::WavSpec {
    hound::WavSpec { channels: 1, sample_rate, bits_per_sample: 16, sample_format: hound::SampleFormat::Int }
}

/// A WAV file that grows at its end and is rewritten in its header only.
pub(super) struct WavFile {
    file: File,
    header: [u8; HEADER_LENGTH],
    header_changed: bool,
    /// Where the next byte goes.
    position: u64,
    /// Bytes of the file that have been written after its header, and those that have not.
    written: u64,
    audio: Vec<u8>,
}

impl WavFile {
    /// `file` is empty.
    pub(super) fn new(file: File) -> Self {
        Self {
            file,
            header: [0; HEADER_LENGTH],
            header_changed: false,
            position: 0,
            written: 0,
            audio: Vec::with_capacity(BUFFER),
        }
    }

    fn end(&self) -> u64 {
        HEADER_LENGTH as u64 + self.written + self.audio.len() as u64
    }

    fn write_audio(&mut self) -> io::Result<()> {
        if !self.audio.is_empty() {
            self.file.write_all_at(&self.audio, HEADER_LENGTH as u64 + self.written)?;
            self.written += self.audio.len() as u64;
            self.audio.clear();
        }
        Ok(())
    }
}

impl Write for WavFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let at = usize::try_from(self.position).unwrap_or(usize::MAX);
        let at_end = self.position == self.end();
        let count = match self.header.get_mut(at..) {
            Some(header) if !header.is_empty() => {
                let count = bytes.len().min(header.len());
                header.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
                self.header_changed = true;
                count
            }
            _ if !at_end => return Err(io::ErrorKind::Unsupported.into()),
            _ => {
                if self.audio.len().saturating_add(bytes.len()) > BUFFER {
                    self.write_audio()?;
                }
                self.audio.extend_from_slice(bytes);
                bytes.len()
            }
        };
        self.position += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.write_audio()?;
        if std::mem::take(&mut self.header_changed) {
            self.file.write_all_at(&self.header, 0)?;
        }
        Ok(())
    }
}

impl Seek for WavFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let (base, offset) = match to {
            SeekFrom::Start(position) => (position, 0),
            SeekFrom::Current(offset) => (self.position, offset),
            SeekFrom::End(offset) => (self.end(), offset),
        };
        self.position = base.checked_add_signed(offset).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}

impl Drop for WavFile {
    fn drop(&mut self) {
        // As std's BufWriter does: what can be written is; whoever wants to know of errors flushes before.
        let _ = self.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recorder::writer::tests::{Folder, read};

    #[test]
    fn the_file_is_the_one_that_a_plain_buffer_would_make() {
        let folder = Folder::new();
        let (ours, plain) = (folder.path().join("ours"), folder.path().join("plain"));
        let mut writer =
            hound::WavWriter::new(WavFile::new(File::create(&ours).unwrap()), spec(8000)).unwrap();
        let mut other = hound::WavWriter::create(&plain, spec(8000)).unwrap();
        for number in 0..30_000i32 {
            writer.write_sample(number as i16).unwrap();
            other.write_sample(number as i16).unwrap();
            if number % 7001 == 0 {
                writer.flush().unwrap();
                assert_eq!(read(&ours).len() as i32, number + 1, "playable after each flush");
            }
        }
        writer.finalize().unwrap();
        other.finalize().unwrap();
        assert!(std::fs::read(ours).unwrap() == std::fs::read(plain).unwrap());
    }

    #[test]
    fn nothing_but_the_header_is_rewritten() {
        let folder = Folder::new();
        let mut file = WavFile::new(File::create(folder.path().join("x")).unwrap());
        file.write_all(&[0; HEADER_LENGTH + 10]).unwrap();
        file.seek(SeekFrom::Start(HEADER_LENGTH as u64 + 5)).unwrap();
        assert!(file.write(&[1]).is_err());
        assert!(file.seek(SeekFrom::Current(-1000)).is_err());
    }
}

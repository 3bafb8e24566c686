//! MP3 by LAME: mono, at the recording's own rate (MPEG-2.5 at 8 kHz, MPEG-2 at 16 kHz), 32 kbit/s, which is four
//! times less than G.711 takes and does not add to what the telephone has taken from the voice.

use mp3lame_encoder::{
    Bitrate, Builder, Encoder, FlushGap, Mode, MonoPcm, Quality, max_required_buffer_size,
};
use std::io::{self, Seek, SeekFrom, Write};
use std::num::NonZeroU32;

/// An MP3 file that is being written.
pub(super) struct Mp3Writer<W> {
    encoder: Encoder,
    out: W,
    /// What comes out of the encoder.
    buffer: Vec<u8>,
    empty: bool,
}

impl<W: Write + Seek> Mp3Writer<W> {
    pub(super) fn new(out: W, sample_rate_hz: u32) -> io::Result<Self> {
        let encoder = build(sample_rate_hz).ok_or_else(|| io::Error::from(io::ErrorKind::Unsupported))?;
        Ok(Self { encoder, out, buffer: Vec::new(), empty: true })
    }

    pub(super) fn write(&mut self, samples: &[i16]) -> io::Result<()> {
        self.empty &= samples.is_empty();
        self.buffer.clear();
        self.buffer.reserve(max_required_buffer_size(samples.len()));
        self.encoder.encode_to_vec(MonoPcm(samples), &mut self.buffer).map_err(failed)?;
        self.out.write_all(&self.buffer)
    }

    /// Writes what the encoder still holds, and the Info header in front: it tells players the length to the
    /// sample, without the encoder's delay.
    pub(super) fn finish(mut self) -> io::Result<W> {
        if self.empty {
            // Without any sound the encoder complains and makes a file that no player takes.
            self.write(&[0])?;
        }
        self.buffer.clear();
        self.buffer.reserve(max_required_buffer_size(0));
        self.encoder.flush_to_vec::<FlushGap>(&mut self.buffer).map_err(failed)?;
        self.out.write_all(&self.buffer)?;
        self.buffer.clear();
        self.buffer.reserve(self.encoder.lame_tag_size());
        if self.encoder.lame_tag_encode_to_vec(&mut self.buffer).is_some() {
            // The encoder began with an empty frame to make room for it.
            self.out.seek(SeekFrom::Start(0))?;
            self.out.write_all(&self.buffer)?;
        }
        Ok(self.out)
    }
}

fn build(sample_rate_hz: u32) -> Option<Encoder> {
    Builder::new()?
        .with_num_channels(1)
        .and_then(|builder| builder.with_sample_rate(sample_rate_hz))
        .and_then(|builder| builder.with_output_sample_rate(NonZeroU32::new(sample_rate_hz)))
        .and_then(|builder| builder.with_mode(Mode::Mono))
        .and_then(|builder| builder.with_brate(Bitrate::Kbps32))
        .and_then(|builder| builder.with_quality(Quality::Good))
        .and_then(|builder| builder.with_to_write_vbr_tag(true))
        .and_then(Builder::build)
        .ok()
}

fn failed<E>(_: E) -> io::Error {
    io::ErrorKind::InvalidData.into()
}

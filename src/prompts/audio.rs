//! WAV and MP3 of any kind to what the media engine plays: mono, 8000 Hz, 16 bit.
//!
//! The bytes are a stranger's: every size that they claim is bounded before it is believed. Slow by nature (some
//! milliseconds per second of audio), so it never runs on a media thread or in an async task.

use rubato::audioadapter_buffers::owned::InterleavedOwned;
use rubato::{Fft, FixedSync, Resampler, WindowFunction};
use std::io::Cursor;
use std::panic::catch_unwind;
use symphonia::core::codecs::audio::AudioDecoderOptions;
use symphonia::core::errors::Error;
use symphonia::core::formats::probe::Hint;
use symphonia::core::formats::{FormatOptions, TrackType};
use symphonia::core::io::MediaSourceStream;
use symphonia::core::meta::MetadataOptions;

/// Longest audio that is taken, in seconds.
const MAX_SECONDS: usize = 300;
/// What that is at 48 kHz: audio of a higher rate must be shorter, because memory is what counts.
const MAX_FRAMES: usize = MAX_SECONDS * 48_000;
/// The rate of everything that is played.
const RATE_HZ: usize = 8000;

/// Why bytes are no prompt.
#[derive(Debug, thiserror::Error)]
pub enum AudioError {
    /// Neither WAV nor MP3, or a codec in it that is neither PCM, G.711 nor MP3.
    #[error("it is no WAV or MP3 that can be decoded")]
    Unsupported,
    /// It has a rate or a number of channels that no recording has.
    #[error("{rate_hz} Hz with {channels} channels is not supported")]
    Layout {
        /// Claimed rate.
        rate_hz: u32,
        /// Claimed channels.
        channels: usize,
    },
    /// It decodes to nothing.
    #[error("there is no audio in it")]
    Empty,
    /// It is longer than five minutes.
    #[error("it is longer than {MAX_SECONDS} s")]
    TooLong,
}

/// Decodes, mixes to mono and resamples to 8000 Hz.
///
/// # Errors
/// See [`AudioError`].
pub fn decode(bytes: Vec<u8>) -> Result<Vec<i16>, AudioError> {
    // The decoders are not ours, and some damaged files make them panic (a RIFF length that overflows, for one).
    // They keep no state from file to file, so nothing broken outlives the panic.
    let mono = catch_unwind(|| {
        let (mono, rate_hz) = decode_mono(bytes)?;
        if rate_hz == RATE_HZ { Ok(mono) } else { resample(mono, rate_hz) }
    });
    let mono = mono.unwrap_or(Err(AudioError::Unsupported))?;
    #[allow(clippy::cast_possible_truncation)]
    // The cast saturates, which is what a clipped sample should do.
    Ok(mono.into_iter().map(|sample| (sample * 32_768.0).round() as i16).collect())
}

/// The samples, -1 to 1, and their rate.
fn decode_mono(bytes: Vec<u8>) -> Result<(Vec<f32>, usize), AudioError> {
    let unsupported = |_| AudioError::Unsupported;
    let source = MediaSourceStream::new(Box::new(Cursor::new(bytes)), Default::default());
    let (format, metadata) = (FormatOptions::default(), MetadataOptions::default());
    let mut reader =
        symphonia::default::get_probe().probe(&Hint::new(), source, format, metadata).map_err(unsupported)?;
    let track = reader.default_track(TrackType::Audio).ok_or(AudioError::Unsupported)?;
    let parameters = track.codec_params.as_ref().and_then(|p| p.audio()).ok_or(AudioError::Unsupported)?;
    let track_id = track.id;
    let mut decoder = symphonia::default::get_codecs()
        .make_audio_decoder(parameters, &AudioDecoderOptions::default())
        .map_err(unsupported)?;

    let (mut mono, mut interleaved, mut rate) = (vec![], vec![], None);
    // A file that ends in the middle is played as far as it goes.
    while let Ok(Some(packet)) = reader.next_packet() {
        if packet.track_id != track_id {
            continue;
        }
        let buffer = match decoder.decode(&packet) {
            Ok(buffer) => buffer,
            Err(Error::DecodeError(_)) => continue,
            Err(_) => break,
        };
        let (rate_hz, channels) = (buffer.spec().rate(), buffer.spec().channels().count());
        let known = *rate.get_or_insert(rate_hz);
        if !(4000..=192_000).contains(&rate_hz) || !(1..=8).contains(&channels) || known != rate_hz {
            return Err(AudioError::Layout { rate_hz, channels });
        }
        buffer.copy_to_vec_interleaved::<f32>(&mut interleaved);
        mono.extend(
            interleaved.chunks_exact(channels).map(|frame| frame.iter().sum::<f32>() / frame.len() as f32),
        );
        if mono.len() > MAX_FRAMES || mono.len() > MAX_SECONDS * rate_hz as usize {
            return Err(AudioError::TooLong);
        }
    }
    match rate {
        Some(rate_hz) if !mono.is_empty() => Ok((mono, rate_hz as usize)),
        _ => Err(AudioError::Empty),
    }
}

/// Blocks of 4096 frames: the 256 that the library takes by itself cost 14 dB at 3 kHz from 48 kHz.
fn resample(mono: Vec<f32>, rate_hz: usize) -> Result<Vec<f32>, AudioError> {
    let length = mono.len();
    let window = WindowFunction::BlackmanHarris2;
    let resampled = Fft::<f32>::new_custom(rate_hz, RATE_HZ, 4096, 1, 1, window, FixedSync::Input)
        .ok()
        .zip(InterleavedOwned::new_from(mono, 1, length).ok())
        .and_then(|(mut resampler, input)| resampler.process_all(&input, length, None).ok());
    resampled.map(InterleavedOwned::take_data).filter(|samples| !samples.is_empty()).ok_or(AudioError::Empty)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::f32::consts::TAU;

    const MP3: &[u8] = include_bytes!("test_tone.mp3");

    /// One second of a 1 kHz tone of half scale.
    fn wav(rate_hz: u32, channels: u16, bits: u16) -> Vec<u8> {
        let mut bytes = Cursor::new(vec![]);
        let (sample_format, bits_per_sample) = (hound::SampleFormat::Int, bits);
        let spec = hound::WavSpec { channels, sample_rate: rate_hz, bits_per_sample, sample_format };
        let mut writer = hound::WavWriter::new(&mut bytes, spec).unwrap();
        let scale = 2_f32.powi(i32::from(bits) - 2);
        for index in 0..rate_hz {
            let sample = (TAU * 1000.0 * index as f32 / rate_hz as f32).sin() * scale;
            (0..channels).for_each(|_| writer.write_sample(sample as i32).unwrap());
        }
        writer.finalize().unwrap();
        bytes.into_inner()
    }

    /// The same as G.711 µ-law (RIFF format tag 7), which hound does not write.
    fn mu_law_wav() -> Vec<u8> {
        let samples: Vec<u8> = (0..8000)
            .map(|index| {
                let sample = (TAU * index as f32 / 8.0).sin() * 16_384.0;
                let (sign, magnitude) =
                    (if sample < 0.0 { 0x80 } else { 0_u8 }, sample.abs() as u16 / 4 + 33);
                let exponent = (15 - magnitude.leading_zeros()).saturating_sub(5);
                let mantissa = (magnitude >> (exponent + 1)) & 0x0f;
                !(sign | (exponent as u8) << 4 | mantissa as u8)
            })
            .collect();
        let mut bytes = b"RIFF\0\0\0\0WAVEfmt ".to_vec();
        bytes.extend(18_u32.to_le_bytes());
        for field in [7_u16, 1, 8000, 0, 8000, 0, 1, 8, 0] {
            bytes.extend(field.to_le_bytes());
        }
        bytes.extend(b"data");
        bytes.extend(8000_u32.to_le_bytes());
        bytes.extend(samples);
        let riff = (bytes.len() as u32 - 8).to_le_bytes();
        bytes[4..8].copy_from_slice(&riff);
        bytes
    }

    /// The level of one frequency in dB below full scale (Goertzel), without the ends, where filters ring.
    fn level(samples: &[i16], hz: f32) -> f32 {
        let middle = &samples[1000..samples.len() - 1000];
        let step = TAU * hz / 8000.0;
        let (mut real, mut imaginary) = (0.0, 0.0);
        for (index, sample) in middle.iter().enumerate() {
            let angle = step * index as f32;
            real += f32::from(*sample) * angle.cos();
            imaginary += f32::from(*sample) * angle.sin();
        }
        20.0 * (2.0 * real.hypot(imaginary) / middle.len() as f32 / 32_768.0).log10()
    }

    #[test]
    fn a_tone_stays_itself_whatever_it_comes_in() {
        let table = [
            ("8 kHz", wav(8000, 1, 16), -6.0, 0),
            ("16 kHz", wav(16_000, 1, 16), -6.0, 80),
            ("48 kHz stereo", wav(48_000, 2, 16), -6.0, 80),
            ("44.1 kHz of 24 bit", wav(44_100, 2, 24), -6.0, 80),
            ("µ-law", mu_law_wav(), -6.0, 0),
            // ffmpeg measures 24.5 dB RMS in this file; encoders add up to two frames of silence.
            ("MP3", MP3.to_vec(), -21.5, 500),
        ];
        for (name, bytes, expected, tolerance) in table {
            let samples = decode(bytes).unwrap();
            assert!(samples.len().abs_diff(8000) <= tolerance, "{name}: {} samples", samples.len());
            let found = level(&samples, 1000.0);
            assert!((found - expected).abs() < 0.7, "{name}: {found:.2} dB");
            assert!(level(&samples, 2000.0) < expected - 35.0, "{name} is distorted");
        }
    }

    #[test]
    fn what_is_no_audio_is_refused() {
        for (name, bytes) in [
            ("nothing", vec![]),
            ("text", b"<html><body>404 Not Found</body></html>".repeat(50)),
            ("a header alone", wav(8000, 1, 16)[..44].to_vec()),
        ] {
            assert!(decode(bytes).is_err(), "{name}");
        }
        let mut fast = wav(8000, 1, 16);
        fast[24..28].copy_from_slice(&4_000_000_u32.to_le_bytes());
        assert!(matches!(decode(fast), Err(AudioError::Layout { .. })));
    }

    #[test]
    fn five_minutes_are_taken_and_no_more() {
        let silence = |seconds: usize| {
            let mut bytes = wav(8000, 1, 8);
            let length = seconds * 8000;
            bytes.resize(44 + length, 0x80);
            bytes[40..44].copy_from_slice(&(length as u32).to_le_bytes());
            bytes[4..8].copy_from_slice(&(length as u32 + 36).to_le_bytes());
            decode(bytes)
        };
        assert_eq!(silence(300).unwrap().len(), 300 * 8000);
        assert!(matches!(silence(302), Err(AudioError::TooLong)));
    }

    proptest! {
        /// Whatever a server sends, decoding comes to an end, and never to more than five minutes of audio.
        #[test]
        fn damaged_files_end_in_audio_or_an_error(
            which in 0..3_usize,
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..40),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = vec![MP3.to_vec(), wav(16_000, 2, 16), mu_law_wav()].swap_remove(which);
            for (at, value) in damage {
                // The header is where a lie matters: half of the damage goes there.
                let range = if value % 2 == 0 { bytes.len().min(64) } else { bytes.len() };
                let at = at.index(range);
                bytes[at] = value;
            }
            bytes.truncate(cut.index(bytes.len()) + 1);
            if let Ok(samples) = decode(bytes) {
                prop_assert!((1..=MAX_SECONDS * RATE_HZ + 1).contains(&samples.len()));
            }
        }
    }
}

//! G.722 at 64 kbit/s (ITU-T G.722): sixteen thousand samples per second in as many bytes as G.711.
//!
//! RFC 3551 §4.5.2: payload type 9, and an RTP clock of 8000 Hz, so that a byte is 125 µs as in G.711. The codec
//! splits the audio at 4 kHz into two bands with a filter pair of its own; the lower one alone is the audio at 8000 Hz,
//! so a conversion to G.711 leaves out the upper one and needs no other filter. Each direction of a stream has a state,
//! which recovers by itself when packets were lost.

use crate::resample::Upsampler;
use ezk_g722::libg722::{Bitrate, decoder, encoder};
use std::fmt;

/// Samples at 8000 Hz that are encoded at once: 20 ms.
const PIECE: usize = 160;

/// From linear samples to bytes.
pub struct Encoder {
    inner: encoder::Encoder,
    /// For samples at 8000 Hz. The library has a form of its own for them, which writes wrong codes.
    upsampler: Option<Upsampler>,
}

/// From bytes to linear samples.
pub struct Decoder(decoder::Decoder);

impl Encoder {
    /// For samples at 8000 Hz.
    #[must_use]
    pub fn narrow() -> Self {
        Self { upsampler: Some(Upsampler::default()), ..Self::wide() }
    }

    /// For samples at 16 000 Hz, in pairs.
    #[must_use]
    pub fn wide() -> Self {
        Self { inner: encoder::Encoder::new(Bitrate::Mode1_64000, false, false), upsampler: None }
    }

    /// Encodes as many samples as `out` has room for; returns the length of the payload. The codec's library
    /// allocates its result.
    pub fn encode(&mut self, samples: &[i16], out: &mut [u8]) -> usize {
        let Self { inner, upsampler } = self;
        let Some(upsampler) = upsampler else {
            // One sample left over would be refused with a panic.
            return copy(inner.encode(samples.get(..samples.len() & !1).unwrap_or_default()), out);
        };
        let mut wide = [0; 2 * PIECE];
        let pieces = samples.chunks(PIECE).zip(out.chunks_mut(PIECE));
        let encoded = pieces.map(|(samples, out)| {
            let count = upsampler.process(samples, &mut wide);
            copy(inner.encode(wide.get(..count).unwrap_or_default()), out)
        });
        encoded.sum()
    }
}

fn copy<T>(from: Vec<T>, to: &mut [T]) -> usize {
    let count = from.len().min(to.len());
    to.iter_mut().zip(from).for_each(|(to, from)| *to = from);
    count
}

impl Decoder {
    /// To samples at 8000 Hz: one for each byte.
    #[must_use]
    pub fn narrow() -> Self {
        Self(decoder::Decoder::new(Bitrate::Mode1_64000, false, true))
    }

    /// To samples at 16 000 Hz: two for each byte.
    #[must_use]
    pub fn wide() -> Self {
        Self(decoder::Decoder::new(Bitrate::Mode1_64000, false, false))
    }

    /// Decodes as much as `out` has room for; returns the number of samples. The codec's library allocates its
    /// result.
    pub fn decode(&mut self, payload: &[u8], out: &mut [i16]) -> usize {
        copy(self.0.decode(payload), out)
    }
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("g722::Encoder")
    }
}

impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("g722::Decoder")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::f64::consts::TAU;

    fn tone(hz: f64, rate: f64, samples: usize) -> Vec<i16> {
        (0..samples).map(|n| (8000.0 * (TAU * hz * n as f64 / rate).sin()) as i16).collect()
    }

    /// Amplitude of one frequency in the second half of `samples`.
    fn level(samples: &[i16], hz: f64, rate: f64) -> f64 {
        let part = &samples[samples.len() / 2..];
        let (mut re, mut im) = (0.0, 0.0);
        for (n, sample) in part.iter().enumerate() {
            let angle = TAU * hz * n as f64 / rate;
            re += f64::from(*sample) * angle.cos();
            im += f64::from(*sample) * angle.sin();
        }
        2.0 * re.hypot(im) / part.len() as f64
    }

    #[test]
    fn g722_both_bands_survive_and_the_lower_one_is_the_audio_at_8000_hz() {
        let rates = [(true, 16_000.0), (false, 8000.0)];
        let frequencies = [(300.0, true), (1000.0, true), (2500.0, true), (3400.0, true), (5500.0, false)];
        for (hz, is_low) in frequencies {
            for (from_wide, from) in rates {
                for (to_wide, to) in rates {
                    if !is_low && !from_wide {
                        continue;
                    }
                    let said = tone(hz, from, (from / 2.0) as usize);
                    let mut encoder = if from_wide { Encoder::wide() } else { Encoder::narrow() };
                    let mut decoder = if to_wide { Decoder::wide() } else { Decoder::narrow() };
                    let (mut bytes, mut heard) = (vec![0; 4000], vec![0; 8000]);
                    assert_eq!(encoder.encode(&said, &mut bytes), 4000, "half a second, whatever the rate");
                    let count = decoder.decode(&bytes, &mut heard);
                    assert_eq!(count, if to_wide { 8000 } else { 4000 });
                    let fact = format!("{hz} Hz from {from} to {to}");
                    if is_low || to_wide {
                        let kept = level(&heard[..count], hz, to);
                        assert!((7000.0..9000.0).contains(&kept), "{fact}: {kept}");
                    } else {
                        let folded = level(&heard[..count], 8000.0 - hz, to);
                        assert!(folded < 200.0, "{fact}: {folded} is heard where nothing was said");
                    }
                    if is_low && to_wide {
                        let image = level(&heard[..count], 8000.0 - hz, to);
                        assert!(image < 800.0, "{fact}: an image of {image}");
                    }
                }
            }
        }
    }

    #[test]
    fn frames_are_one_stream() {
        let said = tone(1000.0, 8000.0, 800);
        let (mut whole, mut pieces) = (vec![0; 800], vec![0; 800]);
        Encoder::narrow().encode(&said, &mut whole);
        let mut encoder = Encoder::narrow();
        for (samples, out) in said.chunks(160).zip(pieces.chunks_mut(160)) {
            assert_eq!(encoder.encode(samples, out), 160);
        }
        assert_eq!(whole, pieces);
    }

    proptest! {
        /// The arithmetic of the codec bears whatever a peer sends.
        #[test]
        fn any_bytes_are_borne(payload in prop::collection::vec(any::<u8>(), 0..2000)) {
            let mut out = vec![0; 4000];
            prop_assert_eq!(Decoder::wide().decode(&payload, &mut out), payload.len() * 2);
            prop_assert_eq!(Decoder::narrow().decode(&payload, &mut out), payload.len());
            prop_assert_eq!(Decoder::wide().decode(&payload, &mut [0; 10]), (payload.len() * 2).min(10));
        }

        #[test]
        fn any_samples_are_borne(samples in prop::collection::vec(any::<i16>(), 0..2000)) {
            let mut out = vec![0; 2000];
            let even = samples.len() & !1;
            prop_assert_eq!(Encoder::narrow().encode(&samples, &mut out), samples.len());
            prop_assert_eq!(Encoder::wide().encode(&samples, &mut out), even / 2);
        }
    }
}

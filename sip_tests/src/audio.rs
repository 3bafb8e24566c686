//! Sound for calls and its comparison: speech-like voices, tones, correlation, levels. Mono, 8000 Hz, 16 bit.

use std::f64::consts::TAU;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Samples per second of everything here.
pub const RATE_HZ: u32 = 8000;

/// A voice for [`speech`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Voice {
    /// A low voice, about 115 Hz.
    Low,
    /// A high voice, about 210 Hz.
    High,
}

/// Sound that behaves like speech: syllables of 120–280 ms, voiced (harmonics under formants) or unvoiced
/// (noise), with pauses between words. The same seed gives the same samples; different seeds do not correlate.
#[must_use]
pub fn speech(voice: Voice, seed: u64, duration_ms: u32) -> Vec<i16> {
    let mut random = StdRng::seed_from_u64(seed ^ if voice == Voice::Low { 0x4c4f57 } else { 0x48494748 });
    let pitch_hz = if voice == Voice::Low { 115.0 } else { 210.0 };
    let total = duration_ms as usize * 8;
    let mut samples: Vec<i16> = Vec::with_capacity(total);
    let mut phase = 0.0f64;
    let mut noise = 0.0f64;
    while samples.len() < total {
        let length = random.random_range(120..280usize) * 8;
        let voiced = random.random_bool(0.8);
        let formants = [
            random.random_range(300.0..800.0),
            random.random_range(900.0..2200.0),
            random.random_range(2300.0..3000.0),
        ];
        let (begin_hz, end_hz) =
            (pitch_hz * random.random_range(0.85..1.2), pitch_hz * random.random_range(0.8..1.15));
        let loudness = random.random_range(0.5..1.0) * 5200.0;
        let gains: Vec<f64> = (1..=24).map(|n| harmonic_gain(f64::from(n) * pitch_hz, &formants)).collect();
        for i in 0..length {
            let at = i as f64 / length as f64;
            let envelope = (at * TAU / 2.0).sin().powf(0.7);
            phase = (phase + TAU * (begin_hz + (end_hz - begin_hz) * at) / 8000.0) % TAU;
            let sound = if voiced {
                gains.iter().zip(1i32..).map(|(gain, n)| gain * (f64::from(n) * phase).sin()).sum::<f64>()
            } else {
                noise = 0.4 * noise + random.random_range(-1.0..1.0);
                0.35 * noise
            };
            samples.push(clamp(sound * envelope * loudness));
        }
        let pause = if random.random_bool(0.25) {
            random.random_range(80..240usize)
        } else {
            random.random_range(5..30usize)
        };
        samples.extend(std::iter::repeat_n(0, pause * 8));
    }
    samples.truncate(total);
    samples
}

fn harmonic_gain(hz: f64, formants: &[f64; 3]) -> f64 {
    if hz > 3400.0 {
        return 0.0;
    }
    let resonance: f64 =
        formants.iter().zip([1.0, 0.6, 0.35]).map(|(f, g)| g / (1.0 + ((hz - f) / 120.0).powi(2))).sum();
    0.03 + resonance
}

fn clamp(value: f64) -> i16 {
    value.round().clamp(f64::from(i16::MIN), f64::from(i16::MAX)) as i16
}

/// A sine at `amplitude` (full scale 32767).
#[must_use]
pub fn tone(hz: f64, duration_ms: u32, amplitude: f64) -> Vec<i16> {
    (0..duration_ms * 8).map(|i| clamp(amplitude * (TAU * hz * f64::from(i) / 8000.0).sin())).collect()
}

/// Both tones of a key (ITU-T Q.23); `None` when it is no key.
#[must_use]
pub fn dtmf_tone(key: char, duration_ms: u32) -> Option<Vec<i16>> {
    let at = "123A456B789C*0#D".find(key.to_ascii_uppercase())?;
    let low = [697.0, 770.0, 852.0, 941.0].get(at / 4)?;
    let high = [1209.0, 1336.0, 1477.0, 1633.0].get(at % 4)?;
    let (a, b) = (tone(*low, duration_ms, 7000.0), tone(*high, duration_ms, 7000.0));
    Some(a.iter().zip(b).map(|(a, b)| a.saturating_add(b)).collect())
}

/// Nothing at all.
#[must_use]
pub fn silence(duration_ms: u32) -> Vec<i16> {
    vec![0; duration_ms as usize * 8]
}

/// Root mean square, 0–32768.
#[must_use]
pub fn level(samples: &[i16]) -> f64 {
    if samples.is_empty() {
        return 0.0;
    }
    (samples.iter().map(|s| f64::from(*s).powi(2)).sum::<f64>() / samples.len() as f64).sqrt()
}

/// Amplitude of the sine of that frequency in `samples` (Goertzel).
#[must_use]
pub fn tone_level(samples: &[i16], hz: f64) -> f64 {
    if samples.is_empty() {
        return 0.0;
    }
    let factor = 2.0 * (TAU * hz / 8000.0).cos();
    let (mut s1, mut s2) = (0.0, 0.0);
    for sample in samples {
        let s0 = f64::from(*sample) + factor * s1 - s2;
        (s1, s2) = (s0, s1);
    }
    (s1 * s1 + s2 * s2 - factor * s1 * s2).max(0.0).sqrt() * 2.0 / samples.len() as f64
}

/// True when one tone carries most of the energy.
#[must_use]
pub fn has_tone(samples: &[i16], hz: f64) -> bool {
    let amplitude = tone_level(samples, hz);
    amplitude > 50.0 && amplitude / 2.0f64.sqrt() > 0.6 * level(samples)
}

/// The key whose two tones carry most of the energy of `samples`.
#[must_use]
pub fn dtmf_key(samples: &[i16]) -> Option<char> {
    let strongest = |tones: [f64; 4]| {
        let levels: Vec<f64> = tones.iter().map(|hz| tone_level(samples, *hz)).collect();
        let best = (0..4).max_by(|a, b| {
            levels.get(*a).partial_cmp(&levels.get(*b)).unwrap_or(std::cmp::Ordering::Equal)
        })?;
        Some((best, *levels.get(best)?))
    };
    let (row, low) = strongest([697.0, 770.0, 852.0, 941.0])?;
    let (column, high) = strongest([1209.0, 1336.0, 1477.0, 1633.0])?;
    let all = level(samples);
    let enough = low > 200.0 && high > 200.0 && (low * low + high * high) / 2.0 > 0.7 * all * all;
    enough.then(|| "123A456B789C*0#D".chars().nth(row * 4 + column)).flatten()
}

/// Normalised correlation of two signals of the same length, −1 to 1; 0 when one of them is silent.
#[must_use]
pub fn correlation(a: &[i16], b: &[i16]) -> f64 {
    let (mut ab, mut aa, mut bb) = (0.0, 0.0, 0.0);
    for (a, b) in a.iter().zip(b) {
        let (a, b) = (f64::from(*a), f64::from(*b));
        ab += a * b;
        aa += a * a;
        bb += b * b;
    }
    if aa == 0.0 || bb == 0.0 { 0.0 } else { ab / (aa * bb).sqrt() }
}

/// Where `sent` lies in `received`: `(lag, correlation)`, `received[i + lag] ≈ sent[i]`, |lag| ≤ `max_lag`
/// samples. The correlation is over the part where both exist.
#[must_use]
pub fn best_lag(sent: &[i16], received: &[i16], max_lag: usize) -> (isize, f64) {
    let size = (sent.len() + received.len() + 1).next_power_of_two().max(2);
    let mut a = spectrum(sent, size);
    let b = spectrum(received, size);
    for ((ar, ai), (br, bi)) in a.iter_mut().zip(&b) {
        // conj(A) · B: its inverse transform at n is Σ sent[i] · received[i + n].
        (*ar, *ai) = (*ar * br + *ai * bi, *ar * bi - *ai * br);
    }
    transform(&mut a, true);
    // Further apart they do not touch; within this no two lags share a place in the transform.
    let (before, after) = (max_lag.min(sent.len()).cast_signed(), max_lag.min(received.len()).cast_signed());
    let at =
        |lag: isize| a.get(lag.rem_euclid(size.cast_signed()).cast_unsigned()).map_or(0.0, |value| value.0);
    let best = (-before..=after)
        .max_by(|x, y| at(*x).partial_cmp(&at(*y)).unwrap_or(std::cmp::Ordering::Equal))
        .unwrap_or(0);
    let (mine, theirs) = overlap(sent, received, best);
    (best, correlation(mine, theirs))
}

/// The parts of both signals that lie upon each other at `lag`.
#[must_use]
pub fn overlap<'a>(sent: &'a [i16], received: &'a [i16], lag: isize) -> (&'a [i16], &'a [i16]) {
    let shift = lag.unsigned_abs();
    let (mine, theirs) = if lag >= 0 {
        (sent, received.get(shift..).unwrap_or_default())
    } else {
        (sent.get(shift..).unwrap_or_default(), received)
    };
    let length = mine.len().min(theirs.len());
    (mine.get(..length).unwrap_or_default(), theirs.get(..length).unwrap_or_default())
}

/// Correlation of each segment of `segment_ms` at `lag`; `None` where what was sent is nearly silent.
#[must_use]
pub fn segment_correlations(sent: &[i16], received: &[i16], lag: isize, segment_ms: u32) -> Vec<Option<f64>> {
    let (mine, theirs) = overlap(sent, received, lag);
    let length = segment_ms as usize * 8;
    mine.chunks(length)
        .zip(theirs.chunks(length))
        .map(|(a, b)| (level(a) > 60.0).then(|| correlation(a, b)))
        .collect()
}

/// How one recording or stream compares with what was sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// Samples by which the received audio begins later.
    pub lag: isize,
    /// Over everything.
    pub correlation: f64,
    /// The worst audible segment of 200 ms.
    pub worst_segment: f64,
    /// Samples in which both exist.
    pub overlap: usize,
}

impl Comparison {
    /// Finds the lag within `max_lag_ms` and compares.
    #[must_use]
    pub fn of(sent: &[i16], received: &[i16], max_lag_ms: u32) -> Self {
        let (lag, correlation) = best_lag(sent, received, max_lag_ms as usize * 8);
        let segments = segment_correlations(sent, received, lag, 200);
        let worst_segment = segments.into_iter().flatten().fold(1.0, f64::min);
        Self { lag, correlation, worst_segment, overlap: overlap(sent, received, lag).0.len() }
    }

    /// True when the audio is what was sent after at most two G.711 codings: nothing lost, nothing mixed in.
    #[must_use]
    pub fn is_same(&self) -> bool {
        self.correlation > 0.99 && self.worst_segment > 0.95
    }
}

/// `samples` after a codec and back.
#[must_use]
pub fn through(codec: media::Codec, samples: &[i16]) -> Vec<i16> {
    crate::g711::decode_all(codec, &crate::g711::encode_all(codec, samples))
}

fn spectrum(samples: &[i16], size: usize) -> Vec<(f64, f64)> {
    let mut values: Vec<(f64, f64)> = samples.iter().map(|s| (f64::from(*s), 0.0)).collect();
    values.resize(size, (0.0, 0.0));
    transform(&mut values, false);
    values
}

/// Iterative radix-2 FFT; the length is a power of two. Not scaled.
fn transform(values: &mut [(f64, f64)], inverse: bool) {
    let size = values.len();
    let bits = size.trailing_zeros();
    for i in 0..size {
        let j = i.reverse_bits() >> (usize::BITS - bits);
        if i < j {
            values.swap(i, j);
        }
    }
    let mut half = 1;
    while half < size {
        let step = TAU / (2 * half) as f64 * if inverse { 1.0 } else { -1.0 };
        let turns: Vec<(f64, f64)> =
            (0..half).map(|k| (step * k as f64).sin_cos()).map(|(s, c)| (c, s)).collect();
        for block in values.chunks_exact_mut(2 * half) {
            let (low, high) = block.split_at_mut(half);
            for ((a, b), (c, s)) in low.iter_mut().zip(high).zip(&turns) {
                let turned = (b.0 * c - b.1 * s, b.0 * s + b.1 * c);
                *b = (a.0 - turned.0, a.1 - turned.1);
                *a = (a.0 + turned.0, a.1 + turned.1);
            }
        }
        half *= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use media::Codec;

    #[test]
    fn a_voice_is_found_again_after_two_codings_and_a_delay() {
        let sent = speech(Voice::Low, 1, 4000);
        let mut received = silence(137);
        received.extend(through(Codec::Pcma, &through(Codec::Pcmu, &sent)));
        let found = Comparison::of(&sent, &received, 500);
        assert_eq!(found.lag, 137 * 8);
        assert!(found.is_same(), "{found:?}");
        let (lag, _) = best_lag(&received, &sent, 4000);
        assert_eq!(lag, -137 * 8);
        // Also at the end of something much longer.
        let word = &sent[29_000..30_000];
        assert_eq!(best_lag(word, &sent, sent.len()).0, 29_000);
    }

    #[test]
    fn different_voices_and_seeds_do_not_correlate() {
        let one = speech(Voice::Low, 1, 4000);
        for other in [speech(Voice::High, 1, 4000), speech(Voice::Low, 2, 4000)] {
            let (_, correlation) = best_lag(&one, &other, 8000);
            assert!(correlation < 0.3, "{correlation}");
        }
        assert_eq!(one, speech(Voice::Low, 1, 4000));
        assert!(level(&one) > 500.0);
    }

    #[test]
    fn a_lost_packet_or_a_second_voice_is_not_the_same() {
        let sent = speech(Voice::High, 3, 3000);
        let mut hole = through(Codec::Pcmu, &sent);
        let loud = (0..sent.len() - 1600)
            .step_by(800)
            .max_by(|a, b| level(&sent[*a..a + 1600]).total_cmp(&level(&sent[*b..b + 1600])))
            .unwrap();
        hole[loud + 400..loud + 1100].fill(0);
        assert!(!Comparison::of(&sent, &hole, 100).is_same());
        let mixed: Vec<i16> =
            sent.iter().zip(speech(Voice::Low, 9, 3000)).map(|(a, b)| a.saturating_add(b)).collect();
        assert!(!Comparison::of(&sent, &mixed, 100).is_same());
    }

    #[test]
    fn tones_and_keys_are_recognised() {
        assert!(has_tone(&tone(440.0, 200, 8000.0), 440.0));
        assert!(!has_tone(&speech(Voice::Low, 5, 1000), 440.0));
        for key in "0123456789*#ABCD".chars() {
            assert_eq!(dtmf_key(&through(Codec::Pcmu, &dtmf_tone(key, 60).unwrap())), Some(key));
        }
        assert_eq!(dtmf_key(&speech(Voice::High, 5, 1000)), None);
    }
}

//! Tones that we make ourselves: DTMF for a leg without telephone-event, and what a caller hears while he
//! waits.
//!
//! ITU-T Q.23 (DTMF frequencies) and the North American tone plan (ringback, busy, congestion). 8000 Hz, 16
//! bit. Every burst rises and falls over 4 ms, so nothing clicks, not even where a loop begins again. Levels
//! are those of a telephone network, far below full scale.

use crate::{Digit, Prompt};
use std::f64::consts::{PI, TAU};
use std::fmt;
use std::time::Duration;

const SAMPLE_RATE: u32 = 8000;
/// Samples over which a burst rises, and falls.
const RAMP: u32 = 32;
/// Peak of one of a DTMF tone's two frequencies: −10 dBm0, where full scale is +3.14 dBm0.
const DTMF_PEAK: f64 = 7218.0;
/// Peak of one of a call progress tone's two frequencies: −22 dBm0.
const PROGRESS_PEAK: f64 = 1813.0;

/// Sum of two sines with soft ends; `length` `None` has not ended yet.
fn dual(low_hz: f64, high_hz: f64, peak: f64, position: u32, length: Option<u32>) -> i16 {
    let to_end = length.map_or(RAMP, |length| length.saturating_sub(position + 1));
    // Half a cosine from 0 to 1, taken at the nearer end.
    let edge = f64::from(position.min(to_end).min(RAMP)) / f64::from(RAMP);
    let envelope = (1.0 - (PI * edge).cos()) / 2.0;
    let time = f64::from(position) / f64::from(SAMPLE_RATE);
    let sum = (TAU * low_hz * time).sin() + (TAU * high_hz * time).sin();
    (sum * peak * envelope) as i16
}

/// The tone of one key, made piece by piece: it may begin before it is known when the key is released.
#[derive(Clone)]
pub struct DtmfTone {
    low_hz: f64,
    high_hz: f64,
    position: u32,
    length: Option<u32>,
}

impl fmt::Debug for DtmfTone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The frequencies are the digit.
        f.debug_struct("DtmfTone").field("position", &self.position).field("length", &self.length).finish()
    }
}

impl DtmfTone {
    /// The tone of `digit`, from now until [`Self::end_at`] says.
    #[must_use]
    pub fn new(digit: Digit) -> Self {
        let (low_hz, high_hz) = frequencies(digit);
        Self { low_hz, high_hz, position: 0, length: None }
    }

    /// Sets the whole length in samples (8 per millisecond). A tone that is longer already fades at once.
    pub fn end_at(&mut self, length: u32) {
        self.length =
            Some(length.max(self.position.saturating_add(if self.position > 0 { RAMP } else { 0 })));
    }

    /// Samples made so far.
    #[must_use]
    pub fn position(&self) -> u32 {
        self.position
    }

    /// True when nothing is left to be made.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.length.is_some_and(|length| length <= self.position)
    }

    /// Makes the next samples; what lies after the end is silence. Returns how many belong to the tone.
    pub fn fill(&mut self, samples: &mut [i16]) -> usize {
        let mut made = 0;
        for sample in samples {
            if self.is_finished() {
                *sample = 0;
            } else {
                *sample = dual(self.low_hz, self.high_hz, DTMF_PEAK, self.position, self.length);
                self.position = self.position.saturating_add(1);
                made += 1;
            }
        }
        made
    }
}

/// ITU-T Q.23: the row and the column of the key.
fn frequencies(digit: Digit) -> (f64, f64) {
    match digit.key() {
        '1' => (697.0, 1209.0),
        '2' => (697.0, 1336.0),
        '3' => (697.0, 1477.0),
        'A' => (697.0, 1633.0),
        '4' => (770.0, 1209.0),
        '5' => (770.0, 1336.0),
        '6' => (770.0, 1477.0),
        'B' => (770.0, 1633.0),
        '7' => (852.0, 1209.0),
        '8' => (852.0, 1336.0),
        '9' => (852.0, 1477.0),
        'C' => (852.0, 1633.0),
        '*' => (941.0, 1209.0),
        '0' => (941.0, 1336.0),
        '#' => (941.0, 1477.0),
        _ => (941.0, 1633.0),
    }
}

/// The tone of `digit` for exactly `duration`, which is cut at 60 s.
#[must_use]
pub fn dtmf(digit: Digit, duration: Duration) -> Vec<i16> {
    let length = samples_in(duration.min(Duration::from_secs(60)));
    let mut tone = DtmfTone::new(digit);
    tone.end_at(length);
    let mut samples = vec![0; length as usize];
    tone.fill(&mut samples);
    samples
}

/// One cycle of ringback: 440 and 480 Hz for 2 s, then 4 s of silence.
#[must_use]
pub fn ringback() -> Prompt {
    cycle("ringback", 440.0, 480.0, Duration::from_secs(2), Duration::from_secs(4))
}

/// One cycle of busy tone: 480 and 620 Hz, half a second on and off.
#[must_use]
pub fn busy() -> Prompt {
    cycle("busy", 480.0, 620.0, Duration::from_millis(500), Duration::from_millis(500))
}

/// One cycle of congestion tone: 480 and 620 Hz, a quarter of a second on and off.
#[must_use]
pub fn congestion() -> Prompt {
    cycle("congestion", 480.0, 620.0, Duration::from_millis(250), Duration::from_millis(250))
}

fn cycle(name: &str, low_hz: f64, high_hz: f64, on: Duration, off: Duration) -> Prompt {
    let on = samples_in(on);
    let burst = (0..on).map(|position| dual(low_hz, high_hz, PROGRESS_PEAK, position, Some(on)));
    let samples: Vec<i16> = burst.chain((0..samples_in(off)).map(|_| 0)).collect();
    Prompt::new(name, &samples)
}

fn samples_in(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros() * u128::from(SAMPLE_RATE) / 1_000_000).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Power of one frequency (Goertzel), as a share of the whole.
    fn share(samples: &[i16], hz: f64) -> f64 {
        let (mut re, mut im, mut power) = (0.0, 0.0, 0.0);
        for (n, sample) in samples.iter().enumerate() {
            let angle = TAU * hz * n as f64 / f64::from(SAMPLE_RATE);
            let value = f64::from(*sample);
            re += value * angle.cos();
            im += value * angle.sin();
            power += value * value;
        }
        2.0 * (re * re + im * im) / (samples.len() as f64 * power)
    }

    fn largest_step(samples: &[i16]) -> i32 {
        let round = samples.iter().chain(samples.first());
        round.clone().zip(round.skip(1)).map(|(a, b)| (i32::from(*a) - i32::from(*b)).abs()).max().unwrap()
    }

    #[test]
    fn q23_each_key_has_its_two_frequencies() {
        let rows = [697.0, 770.0, 852.0, 941.0];
        let columns = [1209.0, 1336.0, 1477.0, 1633.0];
        for (row, keys) in ["123A", "456B", "789C", "*0#D"].iter().enumerate() {
            for (column, key) in keys.chars().enumerate() {
                let samples = dtmf(Digit::from_char(key).unwrap(), Duration::from_millis(100));
                assert_eq!(samples.len(), 800);
                assert!(share(&samples, rows[row]) > 0.4, "{key}");
                assert!(share(&samples, columns[column]) > 0.4, "{key}");
            }
        }
    }

    #[test]
    fn a_tone_has_its_exact_length_and_soft_ends() {
        for millis in [40, 73, 2000] {
            let samples = dtmf(Digit::from_char('5').unwrap(), Duration::from_millis(millis));
            assert_eq!(samples.len(), millis as usize * 8);
            assert_eq!((samples.first(), samples.last()), (Some(&0), Some(&0)));
            let edge = samples[..4].iter().chain(samples.iter().rev().take(4));
            assert!(edge.map(|s| s.unsigned_abs()).max().unwrap() < 1000);
            assert!(samples.iter().map(|s| s.unsigned_abs()).max().unwrap() > 12_000);
        }
        assert!(dtmf(Digit::from_char('5').unwrap(), Duration::ZERO).is_empty());
    }

    #[test]
    fn a_tone_of_unknown_length_goes_on_until_it_is_told() {
        let mut tone = DtmfTone::new(Digit::from_char('9').unwrap());
        let mut samples = [0; 160];
        assert_eq!(tone.fill(&mut samples), 160);
        assert!(!tone.is_finished());
        tone.end_at(200);
        assert_eq!((tone.fill(&mut samples), tone.position(), tone.is_finished()), (40, 200, true));
        assert!(samples[40..].iter().all(|s| *s == 0));

        let mut late = DtmfTone::new(Digit::from_char('9').unwrap());
        late.fill(&mut samples);
        late.end_at(100);
        assert_eq!(late.fill(&mut samples), RAMP as usize, "what is too long already fades");
    }

    #[test]
    fn call_progress_tones_loop_without_a_click() {
        let table = [
            (ringback(), 440.0, 480.0, 2, 6000),
            (busy(), 480.0, 620.0, 1, 1000),
            (congestion(), 480.0, 620.0, 1, 500),
        ];
        for (prompt, low, high, on, millis) in table {
            let name = prompt.name().to_owned();
            assert_eq!(prompt.duration(), Duration::from_millis(millis), "{name}");
            let burst = &prompt.samples()[..if on == 2 { 16_000 } else { prompt.samples().len() / 2 }];
            assert!(share(burst, low) > 0.45 && share(burst, high) > 0.45, "{name}");
            assert!(prompt.samples()[burst.len()..].iter().all(|s| *s == 0), "{name}");
            // No step is larger than the sines themselves make: 2 × peak × 2π × 620 / 8000.
            assert!(largest_step(prompt.samples()) < 1800, "{name}");
        }
    }
}

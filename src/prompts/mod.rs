//! What callers are told: prompts that ship inside the binary, for sessions that set none.
//!
//! The WAV files beside this one are spoken by a free synthesiser; `deploy/prompts.sh` makes them again. They are
//! decoded once. No prompt ever names a number, a person or a company.

use media::Prompt;
use std::io::Cursor;
use std::sync::Arc;

/// The prompts inside the binary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BuiltIn {
    /// "Please enter your PIN, followed by the hash key."
    EnterPin,
    /// "That PIN is not right."
    WrongPin,
    /// "Sorry, this number cannot connect your call."
    UnknownCaller,
    /// "The person you called cannot be reached right now."
    NotReached,
    /// "Goodbye."
    Goodbye,
}

impl BuiltIn {
    /// All of them, in the order of their declaration.
    pub const ALL: [Self; 5] =
        [Self::EnterPin, Self::WrongPin, Self::UnknownCaller, Self::NotReached, Self::Goodbye];

    /// The prompt's name in logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::EnterPin => "enter_pin",
            Self::WrongPin => "wrong_pin",
            Self::UnknownCaller => "unknown_caller",
            Self::NotReached => "not_reached",
            Self::Goodbye => "goodbye",
        }
    }

    /// The file: mono, 8000 Hz, 16-bit PCM.
    fn wav(self) -> &'static [u8] {
        match self {
            Self::EnterPin => include_bytes!("enter_pin.wav"),
            Self::WrongPin => include_bytes!("wrong_pin.wav"),
            Self::UnknownCaller => include_bytes!("unknown_caller.wav"),
            Self::NotReached => include_bytes!("not_reached.wav"),
            Self::Goodbye => include_bytes!("goodbye.wav"),
        }
    }

    fn decode(self) -> Prompt {
        let samples: Vec<i16> = hound::WavReader::new(Cursor::new(self.wav()))
            .and_then(|reader| reader.into_samples().collect())
            // Invariant: the files are part of the binary, and the test below reads each of them.
            .expect("a built-in prompt is a WAV file");
        Prompt::new(self.name(), &samples)
    }
}

/// All prompts that can be played. Cloning shares it.
#[derive(Debug, Clone)]
pub struct PromptLibrary {
    /// In the order of [`BuiltIn::ALL`].
    built_in: Arc<[Prompt; 5]>,
}

impl Default for PromptLibrary {
    fn default() -> Self {
        Self { built_in: Arc::new(BuiltIn::ALL.map(BuiltIn::decode)) }
    }
}

impl PromptLibrary {
    /// A prompt of the binary; cheap, the samples are shared.
    #[must_use]
    pub fn built_in(&self, which: BuiltIn) -> Prompt {
        let [enter_pin, wrong_pin, unknown_caller, not_reached, goodbye] = &*self.built_in;
        match which {
            BuiltIn::EnterPin => enter_pin,
            BuiltIn::WrongPin => wrong_pin,
            BuiltIn::UnknownCaller => unknown_caller,
            BuiltIn::NotReached => not_reached,
            BuiltIn::Goodbye => goodbye,
        }
        .clone()
    }

    /// The prompt that a session names by URL, or `fallback` when it names none or its audio is not at hand. Never
    /// waits: a caller is on the line.
    #[must_use]
    pub fn for_url(&self, url: &str, fallback: BuiltIn) -> Prompt {
        self.at_hand(url).unwrap_or_else(|| self.built_in(fallback))
    }

    /// The audio of a URL, when it has been fetched.
    #[must_use]
    pub fn at_hand(&self, url: &str) -> Option<Prompt> {
        let _ = url;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn every_built_in_prompt_is_loud_short_speech_of_8_khz_that_neither_clips_nor_clicks() {
        let library = PromptLibrary::default();
        for which in BuiltIn::ALL {
            let name = which.name();
            let spec = hound::WavReader::new(Cursor::new(which.wav())).unwrap().spec();
            assert_eq!((spec.channels, spec.sample_rate, spec.bits_per_sample), (1, 8000, 16), "{name}");
            let prompt = library.built_in(which);
            assert_eq!(prompt.name(), name);
            assert!(
                (Duration::from_millis(500)..Duration::from_secs(5)).contains(&prompt.duration()),
                "{prompt:?}"
            );

            let samples = prompt.samples();
            let peak = samples.iter().map(|s| s.unsigned_abs()).max().unwrap();
            assert!((14_000..18_000).contains(&peak), "{name}: peak {peak} is not about -6 dB");
            let power = samples.iter().map(|s| f64::from(*s).powi(2)).sum::<f64>() / samples.len() as f64;
            let level = 20.0 * (power.sqrt() / 32_768.0).log10();
            assert!((-27.0..-17.0).contains(&level), "{name}: {level:.1} dB is not the loudness of speech");
            assert!(
                samples.first().unwrap().abs() < 64 && samples.last().unwrap().abs() < 64,
                "{name} clicks"
            );
        }
    }

    #[test]
    fn prompts_differ_from_each_other() {
        let library = PromptLibrary::default();
        for (a, b) in BuiltIn::ALL.into_iter().flat_map(|a| BuiltIn::ALL.map(|b| (a, b))) {
            let same = library.built_in(a).samples() == library.built_in(b).samples();
            assert_eq!(same, a == b, "{a:?} and {b:?}");
        }
    }
}

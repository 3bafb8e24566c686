//! What callers are told: prompts that ship inside the binary, and those that sessions name by URL.
//!
//! The WAV files beside this one are spoken by a free synthesiser; `deploy/prompts.sh` makes them again. They are
//! decoded once. No prompt of ours ever names a number, a person or a company.
//!
//! A prompt by URL is fetched ahead of the call, in the background. A caller never waits for one: what is not at hand
//! is replaced by a built-in prompt.

mod audio;
mod cache;
pub(crate) mod fetch;

pub use audio::{AudioError, decode as decode_audio};
pub use fetch::FetchError;

use crate::clock;
use cache::Cache;
use fetch::Fetcher;
use ipnet::IpNet;
use media::Prompt;
use std::io::Cursor;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::{info, warn};

/// Fetches that wait; one more is not begun, and is asked for again by the next call.
const MAX_WAITING: usize = 64;
/// Fetches at one time. Each may hold 60 MB while it decodes.
const MAX_FETCHING: usize = 2;
/// Longest URL that is looked at; the API takes no longer one either.
const MAX_URL: usize = 1000;

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
    cache: Arc<Mutex<Cache>>,
    /// To the loader; `None`: nothing is ever fetched.
    wanted: Option<mpsc::Sender<String>>,
}

impl Default for PromptLibrary {
    /// With the built-in prompts only.
    fn default() -> Self {
        Self { built_in: Arc::new(BuiltIn::ALL.map(BuiltIn::decode)), cache: Arc::default(), wanted: None }
    }
}

impl PromptLibrary {
    /// A library that fetches, and the loader that does it. `fetch_allow`: networks that may be reached although
    /// private or loopback.
    ///
    /// # Errors
    /// [`FetchError::Http`] when TLS cannot be set up.
    pub fn with_loader(fetch_allow: &[IpNet]) -> Result<(Self, PromptLoader), FetchError> {
        let fetcher = Fetcher::new(fetch_allow)?;
        let (sender, wanted) = mpsc::channel(MAX_WAITING);
        let library = Self { wanted: Some(sender), ..Self::default() };
        let loader = PromptLoader { fetcher, wanted, cache: library.cache.clone() };
        Ok((library, loader))
    }

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
    /// waits: a caller is on the line. What is not at hand is fetched for the next caller.
    #[must_use]
    pub fn for_url(&self, url: &str, fallback: BuiltIn) -> Prompt {
        self.find(url).unwrap_or_else(|| self.built_in(fallback))
    }

    /// The prompt at this URL when its audio is at hand; for messages that have no built-in form.
    #[must_use]
    pub fn find(&self, url: &str) -> Option<Prompt> {
        let wanted = self.wanted.as_ref().filter(|_| !url.is_empty() && url.len() <= MAX_URL)?;
        let now = clock::now();
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let (prompt, must_fetch) = cache.find(url, now);
        if must_fetch && wanted.try_send(url.to_owned()).is_err() {
            cache.loaded(url, None, now);
        }
        prompt
    }

    /// Has the prompt fetched if it is not at hand; to be called when a session is made, long before its first call.
    pub fn prefetch(&self, url: &str) {
        let _ = self.find(url);
    }
}

/// Fetches what a [`PromptLibrary`] is asked for and has not. Its owner runs it as a task.
#[derive(Debug)]
pub struct PromptLoader {
    fetcher: Fetcher,
    wanted: mpsc::Receiver<String>,
    cache: Arc<Mutex<Cache>>,
}

impl PromptLoader {
    /// Runs until every clone of the library is dropped. Dropping the future ends all fetches.
    pub async fn run(mut self) {
        let mut fetches = JoinSet::new();
        loop {
            let has_room = fetches.len() < MAX_FETCHING;
            tokio::select! {
                Some(url) = self.wanted.recv(), if has_room => {
                    let fetcher = self.fetcher.clone();
                    fetches.spawn(async move { (fetcher.fetch(&url).await, url) });
                }
                Some(fetched) = fetches.join_next() => {
                    let Ok((result, url)) = fetched else { continue };
                    let result = result.map_err(|error| report(&url, &error));
                    if let Ok(prompt) = &result {
                        info!(?prompt, "prompt fetched");
                    }
                    let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
                    cache.loaded(&url, Some(result), clock::now());
                }
                else => return,
            }
        }
    }
}

/// Of the URL only the host is logged: the rest may hold a token or a number.
fn report(url: &str, error: &FetchError) {
    let host = reqwest::Url::parse(url).ok().and_then(|url| url.host_str().map(str::to_owned));
    warn!(host, error = fetch::causes(error), "prompt not fetched; a built-in one is played instead");
}

/// What a player would hear: tests of what is encoded elsewhere listen with it.
#[cfg(test)]
pub(crate) fn decode_for_test(bytes: Vec<u8>) -> Vec<i16> {
    audio::decode(bytes).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

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
    fn without_a_loader_a_url_plays_the_fallback() {
        let library = PromptLibrary::default();
        assert_eq!(library.for_url("https://example.com/a.wav", BuiltIn::EnterPin).name(), "enter_pin");
        assert_eq!(library.for_url("", BuiltIn::Goodbye).name(), "goodbye");
    }

    #[tokio::test]
    async fn a_url_plays_the_fallback_until_it_is_fetched() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/pin.wav", listener.local_addr().unwrap());
        let (library, loader) = PromptLibrary::with_loader(&["127.0.0.0/8".parse().unwrap()]).unwrap();
        assert_eq!(library.for_url(&url, BuiltIn::EnterPin).name(), "enter_pin");

        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n").await.unwrap();
            stream.write_all(BuiltIn::Goodbye.wav()).await.unwrap();
            stream.shutdown().await.unwrap();
            // The client closes when it has all; a socket closed with unread bytes would reset it.
            let _ = stream.read_to_end(&mut vec![]).await;
        };
        // The loader ends once no library asks any more and the fetch that is under way is done.
        let mut later = library.clone();
        later.wanted = None;
        drop(library);
        tokio::join!(server, loader.run());
        later.wanted = Some(mpsc::channel(1).0);
        let prompt = later.for_url(&url, BuiltIn::EnterPin);
        assert!(prompt.name().starts_with("url-"), "{prompt:?}");
        assert!(prompt.samples() == later.built_in(BuiltIn::Goodbye).samples(), "{prompt:?} is another");
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

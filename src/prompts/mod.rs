//! What callers are told: prompts that ship inside the binary, and those that sessions name by URL.
//!
//! The WAV files beside this one are spoken by a free synthesiser; `deploy/prompts.sh` makes them again. They are
//! decoded once. No prompt of ours ever names a number, a person or a company.
//!
//! A prompt by URL is fetched ahead of the call, in the background. A caller never waits for one: what is not at hand
//! is replaced by a built-in prompt. Nor does one account wait for the slow URLs of another ([`queue`]).

mod audio;
mod cache;
pub(crate) mod fetch;
mod queue;

pub use audio::{AudioError, decode as decode_audio};
pub use fetch::FetchError;

use crate::clock;
use cache::Cache;
use fetch::Fetcher;
use ipnet::IpNet;
use media::Prompt;
use queue::{Job, Queue};
use std::collections::HashMap;
use std::io::Cursor;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc;
use tokio::task::{Id, JoinSet};
use tracing::{info, warn};

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
    stock: Arc<Mutex<Stock>>,
    /// Wakes the loader; `None`: nothing is ever fetched.
    wake: Option<mpsc::Sender<()>>,
}

/// What is at hand, and what is still to be fetched.
#[derive(Debug, Default)]
struct Stock {
    cache: Cache,
    queue: Queue,
}

fn lock(stock: &Mutex<Stock>) -> MutexGuard<'_, Stock> {
    stock.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Default for PromptLibrary {
    /// With the built-in prompts only.
    fn default() -> Self {
        Self { built_in: Arc::new(BuiltIn::ALL.map(BuiltIn::decode)), stock: Arc::default(), wake: None }
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
        let (wake, woken) = mpsc::channel(1);
        let library = Self { wake: Some(wake), ..Self::default() };
        let loader = PromptLoader { fetcher, woken, stock: library.stock.clone(), running: HashMap::new() };
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

    /// The prompt that a session of `account` names by URL, or `fallback` when it names none or its audio is not at
    /// hand. Never waits: a caller is on the line. What is not at hand is fetched for the next caller.
    #[must_use]
    pub fn for_url(&self, account: &str, url: &str, fallback: BuiltIn) -> Prompt {
        self.find(account, url).unwrap_or_else(|| self.built_in(fallback))
    }

    /// The prompt at this URL when its audio is at hand; for messages that have no built-in form.
    #[must_use]
    pub fn find(&self, account: &str, url: &str) -> Option<Prompt> {
        let wake = self.wake.as_ref().filter(|_| !url.is_empty() && url.len() <= MAX_URL)?;
        let now = clock::now();
        let mut stock = lock(&self.stock);
        let (prompt, must_fetch) = stock.cache.find(url, now);
        if must_fetch {
            let job = Job { account: account.to_owned(), host: host_of(url), url: url.to_owned() };
            // What finds no room is asked for again by the next call.
            if let Some(dropped) = stock.queue.push(job) {
                stock.cache.loaded(&dropped, None, now);
            }
            // When it is full the loader is about to look anyway.
            let _ = wake.try_send(());
        }
        prompt
    }

    /// Has the prompt fetched if it is not at hand; to be called when a session is made, long before its first call.
    pub fn prefetch(&self, account: &str, url: &str) {
        let _ = self.find(account, url);
    }
}

/// Fetches what a [`PromptLibrary`] is asked for and has not. Its owner runs it as a task.
#[derive(Debug)]
pub struct PromptLoader {
    fetcher: Fetcher,
    woken: mpsc::Receiver<()>,
    stock: Arc<Mutex<Stock>>,
    /// What each task fetches.
    running: HashMap<Id, Job>,
}

impl PromptLoader {
    /// Runs until every clone of the library is dropped. Dropping the future ends all fetches.
    pub async fn run(mut self) {
        let mut fetches = JoinSet::new();
        let mut is_open = true;
        loop {
            while let Some(job) = self.next() {
                let (fetcher, url) = (self.fetcher.clone(), job.url.clone());
                let task = fetches.spawn(async move { fetcher.fetch(&url).await });
                self.running.insert(task.id(), job);
            }
            tokio::select! {
                woken = self.woken.recv(), if is_open => is_open = woken.is_some(),
                Some(fetched) = fetches.join_next_with_id() => match fetched {
                    Ok((task, result)) => self.done(task, result),
                    Err(error) => self.done(error.id(), Err(FetchError::Decoder)),
                },
                else => return,
            }
        }
    }

    fn next(&self) -> Option<Job> {
        lock(&self.stock).queue.take()
    }

    fn done(&mut self, task: Id, result: Result<Prompt, FetchError>) {
        let Some(job) = self.running.remove(&task) else { return };
        let result = result.map_err(|error| report(&job.host, &error));
        if let Ok(prompt) = &result {
            info!(?prompt, "prompt fetched");
        }
        let mut stock = lock(&self.stock);
        stock.queue.done(&job);
        stock.cache.loaded(&job.url, Some(result), clock::now());
    }
}

/// Empty when the URL is none.
fn host_of(url: &str) -> String {
    let host = reqwest::Url::parse(url).ok().and_then(|url| url.host_str().map(str::to_owned));
    // With a dot at its end it is the same host.
    host.map(|host| host.trim_end_matches('.').to_owned()).unwrap_or_default()
}

/// Of the URL only the host is logged: the rest may hold a token or a number.
fn report(host: &str, error: &FetchError) {
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
        assert_eq!(library.for_url("MA", "https://example.com/a.wav", BuiltIn::EnterPin).name(), "enter_pin");
        assert_eq!(library.for_url("MA", "", BuiltIn::Goodbye).name(), "goodbye");
    }

    #[tokio::test]
    async fn a_url_plays_the_fallback_until_it_is_fetched() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/pin.wav", listener.local_addr().unwrap());
        let (library, loader) = PromptLibrary::with_loader(&["127.0.0.0/8".parse().unwrap()]).unwrap();
        assert_eq!(library.for_url("MA", &url, BuiltIn::EnterPin).name(), "enter_pin");

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
        later.wake = None;
        drop(library);
        tokio::join!(server, loader.run());
        later.wake = Some(mpsc::channel(1).0);
        let prompt = later.for_url("MA", &url, BuiltIn::EnterPin);
        assert!(prompt.name().starts_with("url-"), "{prompt:?}");
        assert!(prompt.samples() == later.built_in(BuiltIn::Goodbye).samples(), "{prompt:?} is another");
    }

    #[tokio::test]
    async fn slow_urls_of_one_account_do_not_keep_another_from_its_prompt() {
        let slow = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.2:0").await.unwrap();
        let url = format!("http://{}/pin.wav", listener.local_addr().unwrap());
        let (library, loader) = PromptLibrary::with_loader(&["127.0.0.0/8".parse().unwrap()]).unwrap();
        for index in 0..2 * queue::MAX_WAITING {
            let address = slow.local_addr().unwrap();
            library.prefetch("loud", &format!("http://{address}/{index}.wav"));
        }
        let loading = tokio::spawn(loader.run());
        // They are connected to and never answered: each has 10 s, and there are hundreds of them.
        let _held = [slow.accept().await.unwrap(), slow.accept().await.unwrap()];
        library.prefetch("quiet", &url);
        let accepted = tokio::time::timeout(Duration::from_secs(60), listener.accept()).await;
        let (mut stream, _) = accepted.expect("it waits for the slow ones").unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n").await.unwrap();
        stream.write_all(BuiltIn::Goodbye.wav()).await.unwrap();
        stream.shutdown().await.unwrap();
        let _ = stream.read_to_end(&mut vec![]).await;
        while library.find("quiet", &url).is_none() {
            tokio::task::yield_now().await;
        }
        loading.abort();
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

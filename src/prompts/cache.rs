//! Which fetched prompts are at hand, and which should be fetched. Pure: no I/O, time is an argument.

use media::Prompt;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Entries at one time, with those that failed.
const MAX_ENTRIES: usize = 1000;
/// Samples of all prompts together: 128 MB.
const MAX_SAMPLES: usize = 64 << 20;
/// After so long a prompt is fetched again, in case its URL serves another by now; the old one plays meanwhile.
const FRESH: Duration = Duration::from_secs(3600);
/// After so long a fetch that failed is tried again.
const RETRY: Duration = Duration::from_secs(60);

#[derive(Debug)]
struct Entry {
    prompt: Option<Prompt>,
    loading: bool,
    /// When it is to be fetched again; meaningless while it is being loaded.
    due: Instant,
    /// Place in the order of use.
    used: u64,
}

/// Prompts by URL. The least recently used goes first.
#[derive(Debug, Default)]
pub(super) struct Cache {
    entries: BTreeMap<String, Entry>,
    uses: u64,
}

impl Cache {
    /// The prompt, when it is at hand; and whether the caller must have it fetched now, and then report it by
    /// [`Self::loaded`].
    pub(super) fn find(&mut self, url: &str, now: Instant) -> (Option<Prompt>, bool) {
        self.uses += 1;
        let used = self.uses;
        if let Some(entry) = self.entries.get_mut(url) {
            entry.used = used;
            let wanted = !entry.loading && entry.due <= now;
            entry.loading |= wanted;
            return (entry.prompt.clone(), wanted);
        }
        if self.entries.len() >= MAX_ENTRIES && !self.evict(None) {
            return (None, false);
        }
        self.entries.insert(url.to_owned(), Entry { prompt: None, loading: true, due: now, used });
        (None, true)
    }

    /// How a fetch ended. A failure keeps what was there; `None` says that it could not even begin.
    pub(super) fn loaded(&mut self, url: &str, result: Option<Result<Prompt, ()>>, now: Instant) {
        let Some(entry) = self.entries.get_mut(url) else { return };
        entry.loading = false;
        match result {
            Some(Ok(prompt)) => {
                entry.prompt = Some(prompt);
                entry.due = now + FRESH;
            }
            Some(Err(())) => entry.due = now + RETRY,
            None => entry.due = now,
        }
        while self.samples() > MAX_SAMPLES && self.evict(Some(url)) {}
    }

    fn samples(&self) -> usize {
        self.entries.values().flat_map(|entry| &entry.prompt).map(|prompt| prompt.samples().len()).sum()
    }

    /// Removes the least recently used entry that nobody is loading; false when there is none.
    fn evict(&mut self, spared: Option<&str>) -> bool {
        let candidates =
            self.entries.iter().filter(|(url, entry)| !entry.loading && Some(url.as_str()) != spared);
        let oldest = candidates.min_by_key(|(_, entry)| entry.used).map(|(url, _)| url.clone());
        oldest.is_some_and(|url| self.entries.remove(&url).is_some())
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod tests {
    use super::*;

    fn prompt(name: &str) -> Prompt {
        Prompt::new(name, &[0; 8000])
    }

    #[test]
    fn a_prompt_is_fetched_once_kept_and_fetched_again_when_it_is_old() {
        let (mut cache, start) = (Cache::default(), Instant::now());
        assert_eq!(cache.find("u", start), (None, true));
        assert_eq!(cache.find("u", start), (None, false), "it is being fetched");
        cache.loaded("u", Some(Ok(prompt("p"))), start);
        assert_eq!(cache.find("u", start), (Some(prompt("p")), false));
        assert_eq!(cache.find("u", start + FRESH), (Some(prompt("p")), true), "the old one plays meanwhile");
        cache.loaded("u", Some(Err(())), start + FRESH);
        assert_eq!(cache.find("u", start + FRESH), (Some(prompt("p")), false), "a failure keeps it");
        assert_eq!(cache.find("u", start + FRESH + RETRY), (Some(prompt("p")), true));
    }

    #[test]
    fn what_failed_is_tried_again_later_and_what_was_not_begun_at_once() {
        let (mut cache, start) = (Cache::default(), Instant::now());
        assert_eq!(cache.find("u", start), (None, true));
        cache.loaded("u", Some(Err(())), start);
        assert_eq!(cache.find("u", start), (None, false));
        assert_eq!(cache.find("u", start + RETRY), (None, true));
        cache.loaded("u", None, start + RETRY);
        assert_eq!(cache.find("u", start + RETRY), (None, true));
    }

    #[test]
    fn the_number_of_entries_is_bounded_and_the_least_used_goes() {
        let (mut cache, start) = (Cache::default(), Instant::now());
        for index in 0..MAX_ENTRIES {
            assert_eq!(cache.find(&index.to_string(), start), (None, true));
        }
        assert_eq!(cache.find("one more", start), (None, false), "all are being fetched: none can go");
        for index in 0..MAX_ENTRIES {
            cache.loaded(&index.to_string(), Some(Ok(prompt("p"))), start);
        }
        assert_eq!(cache.find("0", start).0, Some(prompt("p")));
        assert_eq!(cache.find("one more", start), (None, true));
        assert_eq!(cache.entries.len(), MAX_ENTRIES);
        assert!(cache.entries.contains_key("0") && !cache.entries.contains_key("1"));
    }

    #[test]
    fn memory_is_bounded_and_the_newest_stays() {
        let (mut cache, start) = (Cache::default(), Instant::now());
        let large = Prompt::new("large", &vec![0; MAX_SAMPLES / 2]);
        for url in ["a", "b", "c"] {
            assert!(cache.find(url, start).1);
            cache.loaded(url, Some(Ok(large.clone())), start);
        }
        assert_eq!(cache.entries.keys().collect::<Vec<_>>(), ["b", "c"]);
    }
}

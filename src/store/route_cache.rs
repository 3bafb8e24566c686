//! What the last look-ups of calls found, as long as no session on that number has changed since.
//!
//! A call set-up must not cost a query when its answer is known. Each virtual number has a generation that the
//! writer raises after a commit and before it answers: an entry counts only while its generation is the
//! present one. Whether a session has expired is asked anew each time.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::masking::session::MaskingSession;
use crate::number::{Did, E164};

/// Numbers that share a slot only invalidate each other.
const SLOTS: usize = 1024;
/// The most entries; when they are reached all are dropped, which costs one query each.
const ENTRIES: usize = 8192;

/// The sessions of one look-up.
pub(super) type Found = Arc<Vec<Arc<MaskingSession>>>;

/// The look-ups, by what was asked.
pub(super) struct RouteCache {
    /// Others may change sessions without our writer: nothing is kept.
    off: bool,
    generations: Vec<AtomicU64>,
    parties: Mutex<HashMap<(Did, E164), Entry>>,
    strangers: Mutex<HashMap<Did, Entry>>,
}

struct Entry {
    generation: u64,
    found: Found,
}

impl RouteCache {
    /// `on`: every session is changed by this process.
    pub(super) fn new(on: bool) -> Self {
        let generations = (0..SLOTS).map(|_| AtomicU64::new(0)).collect();
        Self { off: !on, generations, parties: Mutex::default(), strangers: Mutex::default() }
    }

    fn slot(&self, number: &Did) -> Option<&AtomicU64> {
        let mut hasher = DefaultHasher::new();
        number.hash(&mut hasher);
        let slot = usize::try_from(hasher.finish() % SLOTS as u64).unwrap_or_default();
        self.generations.get(slot)
    }

    /// To be read before the query whose result it is kept with.
    pub(super) fn generation(&self, number: &Did) -> u64 {
        self.slot(number).map_or(0, |slot| slot.load(Ordering::Acquire))
    }

    /// Says that a session on `number` has changed.
    pub(super) fn touch(&self, number: &Did) {
        if let Some(slot) = self.slot(number) {
            slot.fetch_add(1, Ordering::AcqRel);
        }
    }

    pub(super) fn of_party(&self, number: &Did, caller: &E164, generation: u64) -> Option<Found> {
        present(lock(&self.parties).get(&(number.clone(), caller.clone())), generation)
    }

    pub(super) fn for_strangers(&self, number: &Did, generation: u64) -> Option<Found> {
        present(lock(&self.strangers).get(number), generation)
    }

    pub(super) fn keep_party(&self, number: &Did, caller: &E164, generation: u64, found: &Found) {
        if self.off {
            return;
        }
        keep(&mut lock(&self.parties), (number.clone(), caller.clone()), generation, found);
    }

    pub(super) fn keep_strangers(&self, number: &Did, generation: u64, found: &Found) {
        if self.off {
            return;
        }
        keep(&mut lock(&self.strangers), number.clone(), generation, found);
    }
}

/// A panic cannot leave a map half changed that is only looked up and inserted into.
fn lock<T>(map: &Mutex<T>) -> MutexGuard<'_, T> {
    map.lock().unwrap_or_else(PoisonError::into_inner)
}

fn present(entry: Option<&Entry>, generation: u64) -> Option<Found> {
    entry.filter(|entry| entry.generation == generation).map(|entry| entry.found.clone())
}

fn keep<K: Hash + Eq>(map: &mut HashMap<K, Entry>, key: K, generation: u64, found: &Found) {
    if map.len() >= ENTRIES {
        map.clear();
    }
    map.insert(key, Entry { generation, found: found.clone() });
}

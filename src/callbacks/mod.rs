//! Callbacks: what happens in a session is told to its `callback_url` and `recording_callback_url`, at least once,
//! in order, signed.
//!
//! ```text
//! Call ── Action::Happened ──┐                            ┌─► receiver of session 1   (one lease, one event
//! CDR ── hang-ups ───────────┤ one transaction  ┌───────┐ │                            at a time, in order)
//! recording ── completed ────┼─────────────────►│ events├─┼─► receiver of session 2
//! sweep ── expired ──────────┘  with the fact   └───────┘ └─► …
//! ```
//!
//! | event | when |
//! | --- | --- |
//! | `SessionPinAuthenticationStatus` | `AuthorizedCaller`: a party calls from its own number and is asked for no PIN; `success`; `failed`, once for each wrong or missing entry. `PinRetryCounter`: the entries before this one |
//! | `SessionFirstPartyAnswer`, `SessionSecondPartyAnswer` | the 200 on that party's leg; for a PIN the caller is answered earlier, but told of once it is known who he is |
//! | `SessionSecondPartyRing` | the first 18x of the second party's phone |
//! | `SessionFirstPartyHangup`, `SessionSecondPartyHangup` | with the call's record, who left first in front |
//! | `SessionPartiesHangup` | after both |
//! | `SessionTimeout` | the session reached its end unasked; not when it is deleted |
//! | `SessionRecordingInitiated`, `…Completed`, `…Failed` | both talk; the file can be fetched; it could not be made, or not wholly |
//! | `SessionPinLockedOut` | ours: somebody guesses, and entries are not judged until `LockedOutUntil`: those of one `caller`, of `anonymous` ones, of all `strangers` on the number, of whoever calls as the `party` whose PIN is forced; once when they must pause and once when the day's `WrongEntries` are used up |
//! | `SessionPromptUnavailable` | ours: what the session names by the parameter `Prompt` was not at hand, and the built-in prompt, or nothing, was played; once per call and parameter |
//!
//! A caller without PIN is answered when the called party answers, so for him the natural order is ring, caller's
//! answer, called party's answer. A failed PIN that may have been meant for several sessions belongs to none of them:
//! it is kept for the account, and so is a lock-out that no one session with a URL is meant by. Other events of a
//! session without a URL are not written. A lock-out names no party: the guesser may be another session's.
//!
//! Any 2xx takes an event. What fails is tried again after 1 s, then twice as long each time up to 10 minutes, with
//! jitter; after a day (and five attempts) it is dead and can be replayed. Behind an event that fails only its own
//! session's wait: a receiver gets [`PER_HOST`] deliveries at a time, one while it fails.
//!
//! Nothing here is ever logged of a URL or of parameters.

mod delivery;
pub mod event;
pub mod signature;

use crate::clock;
use crate::prompts::FetchError;
use crate::store::{Attempt, Lease, MIN_TRIES, Store, StoreError, StoredEvent, Stream};
use delivery::Postman;
use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};
use rand::RngExt;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;
use tokio::task::{Id, JoinSet};
use tracing::warn;
use uuid::Uuid;

/// Deliveries at one time.
const DELIVERIES: usize = 256;
/// Deliveries to one receiver at one time.
pub const PER_HOST: usize = 8;
/// Receivers that are looked at in one pass.
const HOSTS: u32 = 1024;
/// Longer than an attempt and storing how it went, by far.
const LEASE: SignedDuration = SignedDuration::from_secs(30);
/// At least between two passes.
const PASS: Duration = Duration::from_millis(20);
/// At most between two passes: what becomes due by itself, or is another process's, is found by looking.
const LOOK: Duration = Duration::from_millis(500);
/// After a failure of the store.
const RECOVER: Duration = Duration::from_secs(2);
/// Between two looks at sessions that expire.
const EXPIRY_LOOK: Duration = Duration::from_secs(1);
/// Of those looks one in so many also counts what waits, and one in so many removes what is old.
const COUNT_EVERY: u32 = 5;
const PRUNE_EVERY: u32 = 600;
/// The first pause after a failure, and the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// Delivers what lies in the outbox. Its owner runs it as a task; when the future is dropped, all deliveries end.
pub struct Courier {
    store: Store,
    postman: Postman,
    /// Who holds the leases.
    owner: Uuid,
}

/// The deliveries under way. Each task says whether the receiver takes events.
#[derive(Default)]
struct Runs {
    tasks: JoinSet<bool>,
    /// What each task sends, and to whom.
    of_task: HashMap<Id, (String, Stream)>,
    streams: BTreeSet<Stream>,
    receivers: BTreeMap<String, Receiver>,
}

impl Runs {
    fn room(&self, host: &str) -> usize {
        let free = DELIVERIES.saturating_sub(self.tasks.len());
        self.receivers.get(host).map_or(PER_HOST, Receiver::room).min(free)
    }

    fn start(&mut self, host: &str, stream: Stream, sending: impl Future<Output = bool> + Send + 'static) {
        self.receivers.entry(host.to_owned()).or_default().running += 1;
        self.streams.insert(stream.clone());
        let task = self.tasks.spawn(sending);
        self.of_task.insert(task.id(), (host.to_owned(), stream));
    }

    /// Makes room for others where a task has ended.
    fn reap(&mut self) {
        while let Some(ended) = self.tasks.try_join_next_with_id() {
            let (id, worked) = match ended {
                Ok(ended) => ended,
                // It panicked, which is logged; the lease runs out by itself.
                Err(error) => (error.id(), false),
            };
            let Some((host, stream)) = self.of_task.remove(&id) else { continue };
            self.streams.remove(&stream);
            if let Some(receiver) = self.receivers.get_mut(&host) {
                receiver.running = receiver.running.saturating_sub(1);
                receiver.failing = !worked;
            }
        }
        let crowded = self.receivers.len() > usize::try_from(HOSTS).unwrap_or(usize::MAX);
        self.receivers.retain(|_, receiver| receiver.running > 0 || (receiver.failing && !crowded));
    }
}

/// What is known of a receiver while something is under way to it or goes wrong.
#[derive(Debug, Default)]
struct Receiver {
    running: usize,
    failing: bool,
}

impl Receiver {
    fn room(&self) -> usize {
        let limit = if self.failing { 1 } else { PER_HOST };
        limit.saturating_sub(self.running)
    }
}

impl Courier {
    /// `allow`: networks that callback URLs may reach although private or loopback; `base`: how our API is reached
    /// from outside, without the last slash.
    ///
    /// # Errors
    /// [`FetchError::Http`] when TLS cannot be set up.
    pub fn new(store: Store, allow: &[IpNet], base: String) -> Result<Self, FetchError> {
        let postman = Postman::new(allow, store.clone(), base)?;
        Ok(Self { store, postman, owner: Uuid::new_v4() })
    }

    /// Runs until it is dropped.
    pub async fn run(self) {
        tokio::join!(self.deliver(), self.sweep());
    }

    async fn deliver(&self) {
        while let Err(error) = self.store.free_streams().await {
            warn!(%error, "callbacks wait for the database");
            clock::sleep(RECOVER).await;
        }
        let mut runs = Runs::default();
        loop {
            runs.reap();
            if let Err(error) = self.start(&mut runs).await {
                warn!(%error, "callbacks wait for the database");
                clock::sleep(RECOVER).await;
            }
            clock::sleep(PASS).await;
            tokio::select! {
                () = self.store.committed() => {}
                () = clock::sleep(LOOK) => {}
            }
        }
    }

    /// Starts what is due, as far as there is room.
    async fn start(&self, runs: &mut Runs) -> Result<(), StoreError> {
        let now = clock::wall_now();
        if runs.tasks.len() >= DELIVERIES {
            return Ok(());
        }
        for host in self.store.due_hosts(now, HOSTS).await? {
            let room = runs.room(&host);
            if room == 0 {
                continue;
            }
            for stream in self.store.due_streams(&host, now, room).await? {
                if runs.streams.contains(&stream) {
                    continue;
                }
                let (store, postman, owner) = (self.store.clone(), self.postman.clone(), self.owner);
                runs.start(&host, stream.clone(), async move {
                    send_stream(&store, &postman, owner, &stream).await.unwrap_or_else(|error| {
                        // The lease runs out by itself.
                        warn!(%error, "a callback's outcome is not stored; it will be sent again");
                        true
                    })
                });
            }
        }
        Ok(())
    }

    async fn sweep(&self) {
        let mut round = 0u32;
        loop {
            if let Err(error) = self.sweep_once(round).await {
                warn!(%error, "expired sessions wait for the database");
                clock::sleep(RECOVER).await;
            }
            round = round.wrapping_add(1);
            clock::sleep(EXPIRY_LOOK).await;
        }
    }

    async fn sweep_once(&self, round: u32) -> Result<(), StoreError> {
        let now = clock::wall_now();
        while self.store.report_expiries(now).await? > 0 {}
        if round.is_multiple_of(COUNT_EVERY) {
            let pending = self.store.pending_events().await?;
            metrics::gauge!("maskline_callbacks_pending").set(pending as f64);
        }
        if round.is_multiple_of(PRUNE_EVERY) {
            while self.store.prune_events(now).await? {}
        }
        Ok(())
    }
}

/// Sends a stream's events until one fails or none is left. Returns whether the receiver takes them.
async fn send_stream(
    store: &Store,
    postman: &Postman,
    owner: Uuid,
    stream: &Stream,
) -> Result<bool, StoreError> {
    let lease = |now: Timestamp| Lease { owner, until: now.saturating_add(LEASE).unwrap_or(now) };
    let now = clock::wall_now();
    let mut next = store.claim_stream(stream.clone(), lease(now), now).await?;
    let mut worked = true;
    while let Some(event) = next {
        let outcome = postman.deliver(&event).await;
        let now = clock::wall_now();
        worked = outcome.is_ok();
        let attempt = match outcome {
            Ok(status) => Attempt::Delivered { status },
            Err(failure) => {
                let retry_at = retry_at(&event, now, rand::rng().random_range(0.5..=1.0));
                Attempt::Failed { status: failure.status, reason: failure.reason, retry_at }
            }
        };
        count(attempt);
        next = store.settle_event(stream.clone(), lease(now), event.uuid, attempt, now).await?;
    }
    Ok(worked)
}

/// When an event that has failed once more is tried again; `None`: never. `jitter` is a factor up to 1.
fn retry_at(event: &StoredEvent, now: Timestamp, jitter: f64) -> Option<Timestamp> {
    if now >= event.give_up_at && event.attempts.saturating_add(1) >= MIN_TRIES {
        return None;
    }
    let doubled = FIRST_PAUSE.saturating_mul(2u32.saturating_pow(event.attempts.min(16)));
    let pause = doubled.min(LONGEST_PAUSE).mul_f64(jitter.clamp(0.0, 1.0));
    now.checked_add(SignedDuration::try_from(pause).ok()?).ok()
}

fn count(attempt: Attempt) {
    let outcome = match attempt {
        Attempt::Delivered { .. } => "delivered",
        Attempt::Failed { retry_at: Some(_), .. } => "failed",
        Attempt::Failed { retry_at: None, .. } => "dead",
    };
    metrics::counter!("maskline_callbacks_total", "outcome" => outcome).increment(1);
}

#[cfg(test)]
mod tests;

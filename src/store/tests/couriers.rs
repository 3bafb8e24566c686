//! Couriers of several processes on one outbox: whatever receivers refuse and whoever dies, each event is taken at
//! least once, in the order of its session, and no session's events are sent by two at one time.

use std::collections::BTreeMap;
use std::sync::Mutex;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use tokio::sync::RwLock;
use tokio::task::JoinSet;

use super::nodes::processes;
use super::*;
use crate::callbacks::event::{CallEvent, Happening, Subject};
use crate::masking::session::PartyRole;

on_both!(tokio::test(flavor = "multi_thread", worker_threads = 2):
    every_event_is_taken_in_order_and_no_session_is_sent_twice_at_once,
);

const SESSIONS: usize = 8;
/// Of one process in one session.
const EVENTS: u64 = 10;
const PROCESSES: u64 = 2;
const LEASE: i64 = 30;

/// What a receiver sees of one session.
#[derive(Default)]
struct Session {
    /// Who sends to it.
    sender: Option<u64>,
    /// The last number that came, and whether the sender has noted that it was taken.
    last: u64,
    is_settled: bool,
    /// How often each number was taken, and by whose hand.
    taken: BTreeMap<u64, Vec<u64>>,
}

/// Time, which moves between the couriers' rounds only; and the receivers.
struct World {
    second: RwLock<i64>,
    sessions: Mutex<BTreeMap<Uuid, Session>>,
}

enum Outcome {
    Taken,
    Refused,
    /// The courier dies, after the receiver took it or before.
    Died(bool),
}

impl World {
    fn begin(&self, courier: u64, event: &StoredEvent) {
        let mut sessions = self.sessions.lock().unwrap();
        let session = sessions.entry(event.session.unwrap()).or_default();
        assert_eq!(session.sender.replace(courier), None, "two send to one session");
        if event.sequence != session.last || session.last == 0 {
            assert!(session.last == 0 || session.is_settled, "{} is not settled", session.last);
            assert_eq!(event.sequence, session.last + 1, "in order");
        }
        (session.last, session.is_settled) = (event.sequence, false);
    }

    fn end(&self, courier: u64, event: &StoredEvent, was_taken: bool) {
        let mut sessions = self.sessions.lock().unwrap();
        let session = sessions.get_mut(&event.session.unwrap()).unwrap();
        assert_eq!(session.sender.take(), Some(courier));
        if was_taken {
            session.taken.entry(event.sequence).or_default().push(courier);
        }
    }

    /// The courier stores that the event was taken: from now on the next one may come, from anybody.
    fn settle(&self, event: &StoredEvent) {
        let mut sessions = self.sessions.lock().unwrap();
        sessions.get_mut(&event.session.unwrap()).unwrap().is_settled = true;
    }
}

/// One after the other sends what is due, like the service's own; it fails, and dies and is born again.
async fn courier(store: Store, world: std::sync::Arc<World>, name: u64) {
    let mut rng = StdRng::seed_from_u64(name);
    let mut lives = 0;
    loop {
        let second = world.second.read().await;
        let now = at(*second);
        let lease =
            || Lease { owner: Uuid::from_u128((u128::from(name) << 64) + lives), until: at(*second + LEASE) };
        let mut streams = vec![];
        for host in store.due_hosts(now, 9).await.unwrap() {
            streams.extend(store.due_streams(&host, now, SESSIONS).await.unwrap());
        }
        streams.shuffle(&mut rng);
        'life: for stream in streams {
            let mut next = store.claim_stream(stream.clone(), lease(), now).await.unwrap();
            while let Some(event) = next {
                world.begin(name, &event);
                tokio::task::yield_now().await;
                let outcome = match rng.random_range(0..10) {
                    0..6 => Outcome::Taken,
                    6..8 => Outcome::Refused,
                    dice => Outcome::Died(dice == 8),
                };
                world.end(name, &event, matches!(outcome, Outcome::Taken | Outcome::Died(true)));
                let attempt = match outcome {
                    Outcome::Taken => {
                        world.settle(&event);
                        Attempt::Delivered { status: 200 }
                    }
                    Outcome::Refused => {
                        let retry_at = Some(at(*second + rng.random_range(1..5)));
                        Attempt::Failed { status: Some(500), reason: "no", retry_at }
                    }
                    Outcome::Died(_) => {
                        lives += 1;
                        break 'life;
                    }
                };
                next = store.settle_event(stream.clone(), lease(), event.uuid, attempt, now).await.unwrap();
            }
        }
        let is_done = *second > 20 && store.pending_events().await.unwrap() == 0;
        drop(second);
        if is_done {
            return;
        }
        *world.second.write().await += 1;
    }
}

/// What happens in the sessions, from one process; half of it before the couriers begin.
async fn happen(store: &Store, sessions: &[MaskingSession], calls: std::ops::Range<u64>) {
    for call in calls {
        let note = |session: &MaskingSession| {
            let subject = Subject { calls: true, ..Subject::of(session) };
            let interaction = Uuid::new_v4();
            let happening = Happening::Answered(PartyRole::First);
            let event = CallEvent::new(interaction, 0, &subject, happening, at(i64::try_from(call).unwrap()));
            Note::Event(Box::new(event))
        };
        store.note(sessions.iter().map(note).collect()).unwrap();
        all_is_written(store).await;
    }
}

async fn every_event_is_taken_in_order_and_no_session_is_sent_twice_at_once(database: &Database) {
    let mut stores = processes(database, SESSIONS).await;
    // Of an SQLite file there is one process, which may have two tasks.
    stores.resize(2, stores[0].clone());
    let mut sessions = vec![];
    for index in 0..SESSIONS {
        let told =
            NewSession { callback_url: "https://app.example/cb".into(), ..wanted(2 * index, 2 * index + 1) };
        sessions.push(create(&stores[0], told, at(0)).await.unwrap());
    }
    for store in &stores {
        happen(store, &sessions, 0..EVENTS / 2).await;
    }
    let world = std::sync::Arc::new(World { second: RwLock::new(10), sessions: Mutex::default() });
    let mut tasks = JoinSet::new();
    for (name, store) in (1..).zip(&stores) {
        tasks.spawn(courier(store.clone(), world.clone(), name));
        let (store, sessions) = (store.clone(), sessions.clone());
        tasks.spawn(async move { happen(&store, &sessions, EVENTS / 2..EVENTS).await });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    // Whatever came when both had just finished.
    courier(stores[0].clone(), world.clone(), 3).await;
    let seen = std::mem::take(&mut *world.sessions.lock().unwrap());
    assert_eq!(seen.len(), SESSIONS);
    let mut by = BTreeMap::from([(1, 0), (2, 0)]);
    for session in seen.values() {
        assert_eq!(
            session.taken.keys().copied().collect::<Vec<_>>(),
            (1..=EVENTS * PROCESSES).collect::<Vec<_>>()
        );
        session.taken.values().flatten().for_each(|name| *by.entry(*name).or_insert(0) += 1);
    }
    assert!(by[&1] > 0 && by[&2] > 0, "both took part: {by:?}");
    let delivered = EventFilter { state: Some(EventState::Delivered), ..EventFilter::default() };
    let total = stores[1].list_events(ACCOUNT, &delivered, 1, 0).await.unwrap().1;
    assert_eq!(total, EVENTS * PROCESSES * SESSIONS as u64);
}

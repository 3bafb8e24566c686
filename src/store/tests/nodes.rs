//! Several processes on one database, and a database that goes away.

use std::collections::BTreeMap;

use rand::SeedableRng;
use rand::rngs::StdRng;
use sqlx::Connection as _;
use tokio::task::JoinSet;

use super::calls::{cdr, open_call};
use super::events::{event, told};
use super::management::new_number;
use super::*;
use crate::callbacks::event::{CallEvent, Happening};
use crate::clock;
use crate::masking::allocate::prefix_free;
use crate::masking::session::PartyRole;
use crate::store::allocation::Create;
use crate::store::row::Columns as _;
use crate::store::sql::{counted, lock_key};

on_both!(tokio::test:
    a_create_that_is_killed_midway_leaves_nothing,
    what_a_node_left_open_is_closed_when_it_is_silent,
    thousands_of_orphans_are_closed_by_few_statements_in_short_transactions,
);
on_both!(tokio::test(flavor = "multi_thread", worker_threads = 2):
    sixty_four_creates_at_once_give_no_two_sessions_that_a_caller_could_confuse,
);

/// As many processes as may use such a database at one time.
pub(super) async fn processes(database: &Database, numbers_in_pool: usize) -> Vec<Store> {
    let mut stores = vec![store(database, numbers_in_pool).await];
    if database.is_postgres() {
        stores.push(Store::open(&database.url()).await.unwrap());
    }
    stores
}

/// Looks until it is as it should be.
async fn until(what: &str, is: impl AsyncFn() -> bool) {
    let end = clock::now() + Duration::from_secs(20);
    while !is().await {
        assert!(clock::now() < end, "waited in vain: {what}");
        clock::sleep(Duration::from_millis(5)).await;
    }
}

/// No caller and no PIN means two of these sessions, all of them active.
fn assert_unmistakable(sessions: &[MaskingSession]) {
    let mut callers = BTreeMap::new();
    let mut pins: BTreeMap<Did, Vec<Pin>> = BTreeMap::new();
    for session in sessions {
        for role in [PartyRole::First, PartyRole::Second] {
            let key = (session.virtual_number.clone(), session.party(role).cloned());
            assert_eq!(callers.insert(key, session.uuid), None, "a caller means two sessions");
            if let Some(settings) = &session.pin {
                let there = pins.entry(session.virtual_number.clone()).or_default();
                assert!(there.iter().all(|other| prefix_free(other, settings.of(role))));
                there.push(settings.of(role).clone());
            }
        }
    }
    assert!(pins.values().all(|pins| pins.len() <= 2 * 16), "a number is too full");
}

async fn sixty_four_creates_at_once_give_no_two_sessions_that_a_caller_could_confuse(database: &Database) {
    let stores = processes(database, 5).await;
    for round in 0..8 {
        // What was made in the round before has expired, and so has the rest of its PINs.
        let now = at(round * 2 * 24 * 3600);
        let mut tasks = JoinSet::new();
        for index in 0..64 {
            let store = stores[index % stores.len()].clone();
            // Few parties on few numbers: most creates meet another one.
            let session = wanted(index % 7, 7 + index % 5);
            let session = if index % 3 == 0 { with_pins(session, None) } else { session };
            tasks.spawn(async move { create(&store, session, now).await });
        }
        let mut made = vec![];
        while let Some(result) = tasks.join_next().await {
            match result.unwrap() {
                Ok(session) => made.push(session),
                Err(refusal) => assert_eq!(refusal, Refusal::Exhausted),
            }
        }
        // Each of five parties can be in a session on each of five numbers, and nobody twice on one.
        assert!((15..=25).contains(&made.len()), "{} made", made.len());
        assert_unmistakable(&made);
        for (index, session) in made.iter().enumerate() {
            let store = &stores[index % stores.len()];
            let caller = session.first_party.as_ref();
            let route = store.find_route(&session.virtual_number, caller, now).await.unwrap().unwrap();
            assert_eq!(route.sessions, [Arc::new(session.clone())], "every process sees it");
        }
    }
}

async fn a_create_that_is_killed_midway_leaves_nothing(database: &Database) {
    let store = store(database, 1).await;
    for killed_by_server in [false, true] {
        let mut connection = options(&database.url()).unwrap().connect().await.unwrap();
        connection.begin().await.unwrap();
        connection.lock(&[lock_key(ACCOUNT)].into()).await.unwrap();
        let mut midway = Create {
            session: with_pins(wanted(1, 2), Some(("1234", "5678"))),
            uuid: Uuid::new_v4(),
            rng: StdRng::seed_from_u64(1),
            directory: store.directory(),
            now: at(0),
            again: false,
        };
        midway.apply(&mut connection).await.unwrap().unwrap();
        if killed_by_server && database.is_postgres() {
            database.cut().await;
        }
        // No word of farewell, as of a process that is killed.
        drop(connection);
        assert_eq!(store.find_session(ACCOUNT, midway.uuid).await.unwrap(), None);
        // The only number has room for these parties and PINs, and nobody holds a lock.
        let session = create(&store, with_pins(wanted(1, 2), Some(("1234", "5678"))), at(0)).await.unwrap();
        let page = store.list_sessions(ACCOUNT, &SessionFilter::default(), 20, 0, at(0)).await.unwrap();
        assert_eq!((page.total, page.sessions), (1, vec![session.clone()]));
        store.write(Run("DELETE FROM sessions")).await.unwrap();
        store.write(Run("DELETE FROM session_hours")).await.unwrap();
    }
}

async fn what_a_node_left_open_is_closed_when_it_is_silent(database: &Database) {
    let stores = processes(database, 1).await;
    let [one, two] = stores.as_slice() else { return }; // With SQLite there is no other.
    let session = create(one, wanted(1, 2), at(0)).await.unwrap();
    one.heartbeat(at(0)).await.unwrap();
    two.heartbeat(at(0)).await.unwrap();
    let (a, b) = open_call(one, &session, at(5)).await;
    let ended = async |leg| two.find_leg(ACCOUNT, leg).await.unwrap().unwrap().ended_at;
    assert_eq!(two.close_orphans(at(14)).await.unwrap(), 0, "it may be slow");
    one.heartbeat(at(10)).await.unwrap();
    assert_eq!(two.close_orphans(at(24)).await.unwrap(), 0, "it lives");
    assert_eq!(one.close_orphans(at(1000)).await.unwrap(), 0, "nobody closes its own");
    assert_eq!(ended(a.leg).await, None);
    two.heartbeat(at(25)).await.unwrap();
    assert_eq!(two.close_orphans(at(25)).await.unwrap(), 2);
    assert_eq!((ended(a.leg).await, ended(b.leg).await), (Some(at(10)), Some(at(10))), "the last heartbeat");
    // It was only held up: its own word counts.
    one.close_call(cdr(a.clone(), b.clone())).await.unwrap();
    assert_eq!((ended(a.leg).await, ended(b.leg).await), (Some(at(90)), Some(at(89))));
    // A node that died before its first heartbeat.
    let (early, _) = open_call(one, &session, at(100)).await;
    assert_eq!(two.close_orphans(at(114)).await.unwrap(), 0);
    assert_eq!(two.close_orphans(at(115)).await.unwrap(), 2);
    assert_eq!(ended(early.leg).await, Some(at(100)));
}

/// Makes a test of what only a server has.
macro_rules! on_postgres {
    ($($name:ident),+ $(,)?) => {$(
        mod $name {
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn postgres() {
                if let Some(database) = super::Database::postgres().await {
                    super::$name(&database).await;
                    database.remove().await;
                }
            }
        }
    )+};
}

on_postgres!(
    what_one_process_changes_the_other_knows_at_once,
    accounts_and_numbers_are_heard_of_also_after_a_lost_connection,
    two_first_starts_make_one_account,
    a_lost_connection_costs_no_write,
    records_of_calls_outlive_a_database_that_stays_away,
    events_outlive_a_deadlock_with_another_process,
    a_call_that_two_processes_report_at_once_is_told_once_and_recorded,
    two_survivors_close_a_dead_node_once,
    a_node_lives_while_its_writer_waits,
    a_number_that_two_accounts_add_at_once_is_of_the_first,
    files_of_two_accounts_with_the_same_numbers_are_taken_from_one,
);

async fn what_one_process_changes_the_other_knows_at_once(database: &Database) {
    let stores = processes(database, 1).await;
    let [one, two] = stores.as_slice() else { panic!("two processes") };
    let found = async |now| two.find_route(&did(0), Some(&party(1)), now).await.unwrap().unwrap().sessions;
    for round in 0..20 {
        let now = at(round * 10);
        assert_eq!(found(now).await, []);
        let session = create(one, wanted(1, 2), now).await.unwrap();
        assert_eq!(found(now).await, [Arc::new(session.clone())]);
        let update = SessionUpdate { record: Some(false), ..SessionUpdate::default() };
        let update = one.update_session(ACCOUNT, session.uuid, update, at(round * 10 + 1)).await.unwrap();
        assert_eq!(found(at(round * 10 + 1)).await, [Arc::new(update.unwrap())]);
        one.expire_session(ACCOUNT, session.uuid, at(round * 10 + 2)).await.unwrap().unwrap();
    }
}

async fn accounts_and_numbers_are_heard_of_also_after_a_lost_connection(database: &Database) {
    let stores = processes(database, 1).await;
    let [one, two] = stores.as_slice() else { panic!("two processes") };
    let number = did(1);
    let has = async || two.virtual_number(number.as_number()).is_some();
    assert!(!has().await);
    one.sync_numbers(&numbers(2)).await.unwrap();
    until("the number is there", has).await;
    let rotated = [(ACCOUNT.to_owned(), "other".to_owned())];
    one.ensure_account(&rotated, at(1)).await.unwrap();
    until("the token is changed", async || opens(two, ACCOUNT, "other")).await;
    assert!(!opens(two, ACCOUNT, "token"));
    for count in [1, 2, 1] {
        database.cut().await;
        // Whether the other one listens again by now or not.
        one.sync_numbers(&numbers(count)).await.unwrap();
        until("the numbers are as they are", async || has().await == (count == 2)).await;
    }
}

async fn two_first_starts_make_one_account(database: &Database) {
    let (one, two) =
        (Store::open(&database.url()).await.unwrap(), Store::open(&database.url()).await.unwrap());
    let (made, also) = tokio::join!(one.ensure_account(&[], at(0)), two.ensure_account(&[], at(0)));
    let made: Vec<NewAccount> = [made.unwrap(), also.unwrap()].into_iter().flatten().collect();
    let [account] = made.as_slice() else { panic!("{} accounts", made.len()) };
    for store in [one, two] {
        until("both know it", async || opens(&store, &account.auth_id, &account.auth_token)).await;
    }
}

async fn a_lost_connection_costs_no_write(database: &Database) {
    let stores = processes(database, 40).await;
    let mut tasks = JoinSet::new();
    for index in 0..200 {
        let store = stores[index % 2].clone();
        tasks.spawn(async move { create(&store, wanted(index % 11, 11 + index % 13), at(0)).await });
        if index % 60 == 30 {
            database.cut().await;
        }
    }
    let mut made = vec![];
    while let Some(result) = tasks.join_next().await {
        made.push(result.unwrap().unwrap());
    }
    assert_unmistakable(&made);
    let all = stores[0].list_sessions(ACCOUNT, &SessionFilter::default(), 1, 0, at(0)).await;
    // A commit whose answer was lost is neither done twice nor reported as failed. The pool's connections were cut
    // as well: the first look may meet one of them.
    let all = match all {
        Ok(page) => page,
        Err(_) => stores[0].list_sessions(ACCOUNT, &SessionFilter::default(), 1, 0, at(0)).await.unwrap(),
    };
    assert_eq!((made.len(), all.total), (200, 200));
}

async fn records_of_calls_outlive_a_database_that_stays_away(database: &Database) {
    let store = store(database, 1).await;
    let session = create(&store, wanted(1, 2), at(0)).await.unwrap();
    let (a, b) = open_call(&store, &session, at(60)).await;
    let (gone, _) = open_call(&store, &session, at(61)).await;
    database.admit(false).await;
    database.cut().await;
    let begin = clock::now();
    let kept = tokio::spawn({
        let (store, record) = (store.clone(), cdr(a.clone(), b));
        async move { store.close_call(record).await }
    });
    // Nobody waits for this one: its call is long gone.
    let nobody = store.close_call(Cdr { session: None, ..cdr(gone.clone(), gone.clone()) });
    assert!(tokio::time::timeout(Duration::from_millis(10), nobody).await.is_err());
    let error = store.create_session(wanted(3, 4), at(1)).await.unwrap_err();
    assert!(matches!(error, StoreError::NotCommitted), "{error}");
    assert!(store.create_session(wanted(3, 4), at(1)).await.is_err());
    assert!(clock::now() - begin < Duration::from_secs(10), "who cannot be served hears it soon");
    assert!(!kept.is_finished());
    database.admit(true).await;
    kept.await.unwrap().unwrap();
    let ended = async |leg| {
        let row = store.find_leg(ACCOUNT, leg).await.ok()?;
        row.unwrap().ended_at
    };
    until("both records are there", async || {
        (ended(a.leg).await, ended(gone.leg).await) == (Some(at(90)), Some(at(89)))
    })
    .await;
    create(&store, wanted(3, 4), at(1)).await.unwrap();
}

/// The other process wants the rows of two sessions the other way round, until it is the store that has to give way.
async fn events_outlive_a_deadlock_with_another_process(database: &Database) {
    let store = store(database, 2).await;
    let sessions =
        [create(&store, told(1, 2), at(0)).await.unwrap(), create(&store, told(3, 4), at(0)).await.unwrap()];
    let note = |second: i64| {
        let events = sessions.iter().map(|session| {
            let happening = Happening::Answered(PartyRole::First);
            Note::Event(Box::new(event(session, Uuid::new_v4(), happening, second)))
        });
        store.note(events.collect()).unwrap();
    };
    let stored = async |session: Uuid| {
        let filter = EventFilter { session: Some(session), ..EventFilter::default() };
        store.list_events(ACCOUNT, &filter, 20, 0).await.unwrap().1
    };
    note(1);
    until("both have a stream", async || stored(sessions[1].uuid).await == 1).await;
    let mut gave_way = false;
    for round in 2..7 {
        let mut other = database.connect().await;
        let mut other = other.begin().await.unwrap();
        let lock = "SELECT 1 FROM event_streams WHERE session = $1 FOR UPDATE";
        let [first, second] = [0, 1].map(|index: usize| sessions[index].uuid.to_string());
        sqlx::query(lock).bind(second).execute(&mut *other).await.unwrap();
        note(round);
        until("the store waits", async || database.waits().await).await;
        gave_way = sqlx::query(lock).bind(first).execute(&mut *other).await.is_ok();
        other.rollback().await.unwrap();
        for session in &sessions {
            let all = u64::try_from(round).unwrap();
            until("the event is there", async || stored(session.uuid).await == all).await;
        }
        if gave_way {
            break;
        }
    }
    assert!(gave_way, "the other one had to give way each time");
}

/// Opens so many calls of a process that then dies without a word. Returns their sessions.
async fn leave_calls(database: &Database, calls: usize) -> Vec<MaskingSession> {
    let dying = store(database, 10).await;
    let mut sessions = vec![];
    for index in 0..10 {
        sessions.push(create(&dying, told(2 * index, 2 * index + 1), at(0)).await.unwrap());
    }
    dying.heartbeat(at(50)).await.unwrap();
    let mut opening = JoinSet::new();
    for index in 0..calls {
        let (dying, session) = (dying.clone(), sessions[index % sessions.len()].clone());
        opening.spawn(async move { open_call(&dying, &session, at(40)).await });
    }
    opening.join_all().await;
    dying.close().await;
    sessions
}

/// Every call of the sessions has its end, and was told of once and in order.
async fn assert_all_told(store: &Store, sessions: &[MaskingSession], calls_of_each: usize) {
    let row = query("SELECT COUNT(*) AS total FROM legs WHERE ended_at IS NULL OR ended_at <> $1");
    let row = row.bind(at(50).as_microsecond()).fetch_one(store.readers()).await.unwrap();
    assert_eq!(row.integer("total").unwrap(), 0, "every leg ends at the last heartbeat");
    for session in sessions {
        let calls = store.interactions(session.uuid).await.unwrap();
        assert!(calls.iter().all(|call| call.ended_at == Some(at(50))));
        assert_eq!(calls.len(), calls_of_each);
        let rows = query("SELECT sequence FROM events WHERE session = $1 ORDER BY sequence");
        let rows = rows.bind(session.uuid.to_string()).fetch_all(store.readers()).await.unwrap();
        let numbers: Vec<_> = rows.iter().map(|row| row.integer("sequence").unwrap()).collect();
        let all = i64::try_from(3 * calls_of_each).unwrap();
        assert_eq!(numbers, (1..=all).collect::<Vec<_>>());
    }
    let nodes = query("SELECT node FROM nodes WHERE node <> $1").bind(store.node());
    assert_eq!(nodes.fetch_all(store.readers()).await.unwrap().len(), 0, "nobody has to look again");
}

async fn thousands_of_orphans_are_closed_by_few_statements_in_short_transactions(database: &Database) {
    let sessions = leave_calls(database, 1000).await;
    let store = Store::open(&database.url()).await.unwrap();
    counted::take();
    assert_eq!(store.close_orphans(at(100)).await.unwrap(), 2000);
    let (statements, transactions) = counted::take();
    assert!(statements < 1500, "{statements} statements for 1000 calls");
    assert!((15..=50).contains(&transactions), "{transactions} transactions");
    assert_all_told(&store, &sessions, 100).await;
    assert_eq!(store.close_orphans(at(200)).await.unwrap(), 0);
}

async fn two_survivors_close_a_dead_node_once(database: &Database) {
    let sessions = leave_calls(database, 1000).await;
    let (one, two) =
        (Store::open(&database.url()).await.unwrap(), Store::open(&database.url()).await.unwrap());
    let (by_one, by_two) = tokio::join!(one.close_orphans(at(100)), two.close_orphans(at(100)));
    assert_eq!(by_one.unwrap() + by_two.unwrap(), 2000);
    assert_all_told(&one, &sessions, 100).await;
}

async fn a_node_lives_while_its_writer_waits(database: &Database) {
    let sessions = leave_calls(database, 1).await;
    let store = Store::open(&database.url()).await.unwrap();
    store.heartbeat(at(60)).await.unwrap();
    let mut other = database.connect().await;
    let mut other = other.begin().await.unwrap();
    sqlx::query("SELECT uuid FROM legs FOR UPDATE").execute(&mut *other).await.unwrap();
    let closing = tokio::spawn({
        let store = store.clone();
        async move { store.close_orphans(at(100)).await }
    });
    until("the writer waits", async || database.waits().await).await;
    for second in 101..104 {
        store.heartbeat(at(second)).await.unwrap();
        let beat = query("SELECT beat_at FROM nodes WHERE node = $1").bind(store.node());
        let beat = beat.fetch_one(store.readers()).await.unwrap();
        assert_eq!(beat.integer("beat_at").unwrap(), at(second).as_microsecond());
    }
    assert!(!closing.is_finished());
    other.rollback().await.unwrap();
    assert_eq!(closing.await.unwrap().unwrap(), 2);
    assert_all_told(&store, &sessions[..1], 1).await;
    database.cut().await;
    store.heartbeat(at(105)).await.unwrap();
    store.close().await;
    assert!(matches!(store.heartbeat(at(106)).await, Err(StoreError::Closed)));
}

async fn a_call_that_two_processes_report_at_once_is_told_once_and_recorded(database: &Database) {
    let store = store(database, 1).await;
    let session = create(&store, told(1, 2), at(0)).await.unwrap();
    let (a, b) = open_call(&store, &session, at(60)).await;
    let told = |role| event(&session, a.interaction, Happening::Answered(role), 62);
    let events: Vec<CallEvent> = vec![told(PartyRole::First), told(PartyRole::Second)];
    let mut other = options(&database.url()).unwrap().connect().await.unwrap();
    other.begin().await.unwrap();
    outbox::insert(&mut other, &[&events[0]]).await.unwrap();
    let closing = tokio::spawn({
        let (store, record) = (store.clone(), Cdr { events: events.clone(), ..cdr(a.clone(), b) });
        async move { store.close_call(record).await }
    });
    until("the close waits", async || database.waits().await).await;
    other.commit().await.unwrap();
    closing.await.unwrap().unwrap();
    let row = store.find_leg(ACCOUNT, a.leg).await.unwrap().unwrap();
    assert_eq!(row.ended_at, Some(at(90)), "the record is there");
    let (mut stored, _) = store.list_events(ACCOUNT, &EventFilter::default(), 20, 0).await.unwrap();
    stored.sort_by_key(|event| event.sequence);
    let stored: Vec<_> = stored.iter().map(|event| (event.uuid, event.sequence)).collect();
    assert_eq!(stored, [(events[0].uuid, 1), (events[1].uuid, 2)], "no number is left out");
    let later = event(&session, Uuid::new_v4(), Happening::SecondPartyRings, 95);
    store.note(vec![Note::Event(Box::new(later))]).unwrap();
    all_is_written(&store).await;
    let (stored, _) = store.list_events(ACCOUNT, &EventFilter::default(), 20, 0).await.unwrap();
    assert_eq!(stored.iter().map(|event| event.sequence).max(), Some(3));
}

const OTHER: &str = "MABBBBBBBBBBBBBBBBBB";

async fn two_accounts(database: &Database) -> (Store, Store) {
    let one = store(database, 1).await;
    let both = [(ACCOUNT.to_owned(), "token".to_owned()), (OTHER.to_owned(), "token".to_owned())];
    one.ensure_account(&both, at(0)).await.unwrap();
    (one, Store::open(&database.url()).await.unwrap())
}

async fn a_number_that_two_accounts_add_at_once_is_of_the_first(database: &Database) {
    let (store, _) = two_accounts(database).await;
    let mut other = database.connect().await;
    let mut other = other.begin().await.unwrap();
    let insert = "INSERT INTO numbers (did, trunk, account, no_session, position, active, by_api)
                  VALUES ($1, 'local', $2, 'reject', 0, 1, 1)";
    sqlx::query(insert).bind(did(5).digits()).bind(OTHER).execute(&mut *other).await.unwrap();
    let adding = tokio::spawn({
        let store = store.clone();
        async move { store.add_number(ACCOUNT, new_number(5), at(0)).await }
    });
    until("the second one waits", async || database.waits().await).await;
    other.commit().await.unwrap();
    assert_eq!(adding.await.unwrap().unwrap(), Err(NumberRefusal::Taken), "as if it had come later");
    assert_eq!(store.virtual_number(did(5).as_number()).unwrap().account, OTHER);
}

async fn files_of_two_accounts_with_the_same_numbers_are_taken_from_one(database: &Database) {
    let (one, two) = two_accounts(database).await;
    for round in 0..5 {
        let of_one: Vec<_> = (0..100).map(|index| new_number(100 * round + 200 + index)).collect();
        // Each waits for what the other one has.
        let of_two: Vec<_> = of_one.iter().rev().cloned().collect();
        let (by_one, by_two) = tokio::join!(
            one.import_numbers(ACCOUNT, of_one, at(0)),
            two.import_numbers(OTHER, of_two, at(0))
        );
        let refused = [by_one.unwrap(), by_two.unwrap()];
        // It may have looked for some of them before they were taken.
        let taken = |refused: &Vec<(usize, NumberRefusal)>| {
            !refused.is_empty() && refused.iter().all(|(_, why)| *why == NumberRefusal::Taken)
        };
        assert!(refused.iter().any(Vec::is_empty), "one has them: {refused:?}");
        assert!(refused.iter().any(taken), "and the other none: {refused:?}");
        let owner = if refused[0].is_empty() { ACCOUNT } else { OTHER };
        let rows = query("SELECT account FROM numbers WHERE did >= $1 AND did < $2 AND active = 1")
            .bind(did(100 * round + 200).digits().to_owned())
            .bind(did(100 * round + 300).digits().to_owned())
            .fetch_all(one.readers())
            .await
            .unwrap();
        assert_eq!(rows.len(), 100);
        assert!(rows.iter().all(|row| row.text("account").unwrap() == owner));
    }
}

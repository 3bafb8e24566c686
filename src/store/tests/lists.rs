//! Long lists: the rows and totals that a look at each row would give, without one.

use media::Side;
use sqlx::AssertSqlSafe;

use super::*;
use crate::store::call_list::{legs_of_account, legs_of_call, live};
use crate::store::conditions::Span;
use crate::store::hours::{Page, paged};
use crate::store::outbox::delivery::{Prune, Replay, Replayed};
use crate::store::outbox::{events_of_account, events_of_session, hosts_due};
use crate::store::recordings::{recordings_of_account, recordings_of_call};
use crate::store::row::Columns as _;
use crate::store::sql::{Pool, Query};

on_both!(tokio::test:
    legs_are_listed_as_if_each_were_looked_at,
    recordings_are_listed_as_if_each_were_looked_at,
    events_are_listed_as_if_each_were_looked_at,
    an_old_hour_is_counted_again_after_a_while_only,
    receivers_are_found_longest_waiting_first_without_those_that_are_served,
    a_replay_takes_the_oldest_first_and_nothing_twice,
    old_events_go_by_their_kind,
);

const MINUTE: i64 = 60;

/// Any statement as a write.
struct Sql(String);

impl Write for Sql {
    type Done = ();

    async fn apply(&mut self, connection: &mut Connection) -> Result<(), StoreError> {
        query(AssertSqlSafe(self.0.clone())).execute(connection).await?;
        Ok(())
    }
}

/// Pages of what fits: the first, others, the last one, and one behind it.
fn offsets(fitting: usize) -> [usize; 5] {
    [0, 7, fitting / 2, fitting.saturating_sub(3), fitting + 5]
}

fn page_of<T: Copy>(fitting: &[T], offset: usize) -> Vec<T> {
    fitting.iter().skip(offset).take(20).copied().collect()
}

/// The legs of calls seven minutes apart, over a day. Every fourth call belongs to no session, every sixth was not
/// answered, every 67th was busy.
fn legs(sessions: &[MaskingSession; 2]) -> Vec<LegCdr> {
    let leg = |call: i64, interaction: Uuid, side: Side| {
        let session = (call % 4 > 0).then(|| &sessions[usize::from(call % 3 == 0)]);
        let started = call * 7 * MINUTE;
        let opened = LegOpened {
            interaction,
            leg: Uuid::new_v4(),
            session: session.map(|session| session.uuid),
            account: Some(ACCOUNT.into()),
            side,
            attempt: u8::from(side == Side::B),
            virtual_number: Some(did(usize::from(call % 2 == 0))),
            party: Some(party(usize::try_from(call % 5).unwrap())),
            role: None,
            trunk: "local".into(),
            started_at: at(started),
        };
        LegCdr {
            opened,
            ringing_at: None,
            answered_at: (call % 6 > 0).then(|| at(started + 10)),
            ended_at: at(started + 20 + call % 50),
            hangup_cause_name: "Any",
            hangup_cause_code: if call % 67 == 3 { 3010 } else { 4000 },
            hangup_source: if side == Side::A { "Caller" } else { "Callee" },
            sip_status: None,
            q850_cause: None,
            packets_received: 0,
            packets_sent: 0,
            packets_lost: 0,
            jitter: 0,
            quality: None,
        }
    };
    let call = |call| {
        let interaction = Uuid::new_v4();
        [leg(call, interaction, Side::A), leg(call, interaction, Side::B)]
    };
    (0..200).flat_map(call).collect()
}

async fn save(store: &Store, legs: &[LegCdr]) {
    let close = |legs: &[LegCdr]| {
        let opened = &legs[0].opened;
        CallWrite::Close(Box::new(Cdr {
            interaction: opened.interaction,
            session: opened.session,
            virtual_number: opened.virtual_number.clone(),
            started_at: opened.started_at,
            ended_at: legs[0].ended_at,
            recording: None,
            legs: legs.to_vec(),
            events: vec![],
        }))
    };
    store.write_call(CallWrite::Together(legs.chunks(2).map(close).collect())).await.unwrap();
}

/// Two sessions, the second one a sub-account's.
async fn two_sessions(store: &Store) -> [MaskingSession; 2] {
    let sessions = [
        create(store, wanted(1, 2), at(0)).await.unwrap(),
        create(store, wanted(3, 4), at(0)).await.unwrap(),
    ];
    let of_sub = format!("UPDATE sessions SET subaccount = 'SAONE' WHERE uuid = '{}'", sessions[1].uuid);
    store.write(Sql(of_sub)).await.unwrap();
    sessions
}

async fn legs_are_listed_as_if_each_were_looked_at(database: &Database) {
    let store = store(database, 2).await;
    let sessions = two_sessions(&store).await;
    let mut all = legs(&sessions);
    save(&store, &all).await;
    all.sort_by_key(|leg| (std::cmp::Reverse(leg.opened.started_at), leg.opened.leg.to_string()));
    let [one, other] = sessions.each_ref().map(|session| session.uuid);
    let (caller, number) = (party(2), did(1));
    let (number_of_leg, party_of_leg) = (
        |leg: &LegCdr| leg.opened.virtual_number.clone().unwrap().digits().to_owned(),
        |leg: &LegCdr| leg.opened.party.clone().unwrap().digits().to_owned(),
    );
    let range = |from: i64, until: i64| TimeRange { from: Some(at(from)), until: Some(at(until)) };
    let within = |range: TimeRange, at: Timestamp| range.from <= Some(at) && Some(at) < range.until;
    let (started, later) = (range(5000, 60_000), range(20_010, 47_777));
    let any = LegFilter::default;
    let parent = all.iter().find(|leg| leg.opened.side == Side::A).unwrap().opened.clone();
    type Fits<'a> = Box<dyn Fn(&LegCdr) -> bool + 'a>;
    let cases: [(LegFilter, Fits<'_>); 13] = [
        (any(), Box::new(|_| true)),
        (LegFilter { session: Some(one), ..any() }, Box::new(|leg| leg.opened.session == Some(one))),
        (
            LegFilter { session: Some(one), started, ..any() },
            Box::new(|leg| leg.opened.session == Some(one) && within(started, leg.opened.started_at)),
        ),
        (
            LegFilter { parent: Some(parent.leg), ..any() },
            Box::new(|leg| leg.opened.interaction == parent.interaction && leg.opened.side == Side::B),
        ),
        (
            LegFilter { subaccount: Some("SAONE".into()), ..any() },
            Box::new(|leg| leg.opened.session == Some(other)),
        ),
        (LegFilter { direction: Some("outbound"), ..any() }, Box::new(|leg| leg.opened.attempt > 0)),
        (
            LegFilter { from_number: Some(caller.digits().into()), ..any() },
            Box::new(|leg| leg.opened.attempt == 0 && party_of_leg(leg) == caller.digits()),
        ),
        (
            LegFilter { from_number: Some(number.digits().into()), ..any() },
            Box::new(|leg| leg.opened.attempt > 0 && number_of_leg(leg) == number.digits()),
        ),
        (
            LegFilter { hangup_cause_code: Some(3010), hangup_source: Some("callee".into()), ..any() },
            Box::new(|leg| leg.hangup_cause_code == 3010 && leg.hangup_source == "Callee"),
        ),
        (LegFilter { started, ..any() }, Box::new(|leg| within(started, leg.opened.started_at))),
        (
            LegFilter { answered: later, ..any() },
            Box::new(|leg| leg.answered_at.is_some_and(|answered| within(later, answered))),
        ),
        (LegFilter { ended: later, ..any() }, Box::new(|leg| within(later, leg.ended_at))),
        (
            LegFilter { talk_s: (Some(55), None), ..any() },
            Box::new(|leg| {
                leg.answered_at.is_some_and(|answered| (leg.ended_at - answered).get_seconds() >= 55)
            }),
        ),
    ];
    // Once counted, once remembered, once partly counted again.
    for now in [84_000, 84_001, 84_100] {
        for (filter, fits) in &cases {
            let fitting: Vec<Uuid> = all.iter().filter(|leg| fits(leg)).map(|leg| leg.opened.leg).collect();
            for offset in offsets(fitting.len()) {
                let found = store.find_legs_at(ACCOUNT, filter, 20, offset as u64, at(now)).await.unwrap();
                let found: (Vec<_>, _) = (found.0.iter().map(|leg| leg.opened.leg).collect(), found.1);
                let right = (page_of(&fitting, offset), fitting.len() as u64);
                assert_eq!(found, right, "{filter:?} from {offset} on");
            }
        }
    }
    assert_eq!(store.find_legs_at("MAOTHER", &any(), 20, 0, at(84_000)).await.unwrap(), (vec![], 0));
}

async fn recordings_are_listed_as_if_each_were_looked_at(database: &Database) {
    let store = store(database, 2).await;
    let sessions = two_sessions(&store).await;
    let legs = legs(&sessions);
    save(&store, &legs).await;
    let calls: Vec<_> = legs.iter().filter(|leg| leg.opened.side == Side::A).collect();
    let rows = calls.iter().enumerate().map(|(index, leg)| {
        let (opened, added) = (&leg.opened, leg.ended_at.as_microsecond());
        let session = opened.session.map_or("NULL".into(), |uuid| format!("'{uuid}'"));
        let subaccount = if opened.session == Some(sessions[1].uuid) { "'SAONE'" } else { "NULL" };
        let state = if index % 9 == 8 { "pending" } else { "ready" };
        format!(
            "('{}', '{ACCOUNT}', {session}, {subaccount}, '{}', 'here', 'd', 'mp3', {added}, 8, 8000, 1, '{state}', 0)",
            opened.interaction, opened.leg
        )
    });
    let insert =
        "INSERT INTO recordings (uuid, account, session, subaccount, call_uuid, place, directory, format,
                      added_at, samples, sample_rate, complete, state, attempts) VALUES ";
    store.write(Sql(insert.to_owned() + &rows.collect::<Vec<_>>().join(", "))).await.unwrap();
    let mut all: Vec<_> =
        calls.into_iter().enumerate().filter(|(index, _)| index % 9 < 8).map(|(_, leg)| leg).collect();
    all.sort_by_key(|leg| (std::cmp::Reverse(leg.ended_at), leg.opened.interaction.to_string()));
    let added = TimeRange { from: Some(at(5000)), until: Some(at(60_000)) };
    let (caller, number, call) = (party(2), did(1), all[5].opened.leg);
    let any = RecordingFilter::default;
    type Fits<'a> = Box<dyn Fn(&LegCdr) -> bool + 'a>;
    let cases: [(RecordingFilter, Fits<'_>); 7] = [
        (any(), Box::new(|_| true)),
        (RecordingFilter { call: Some(call), ..any() }, Box::new(|leg| leg.opened.leg == call)),
        (
            RecordingFilter { session: Some(sessions[0].uuid), ..any() },
            Box::new(|leg| leg.opened.session == Some(sessions[0].uuid)),
        ),
        (
            RecordingFilter { subaccount: Some("SAONE".into()), ..any() },
            Box::new(|leg| leg.opened.session == Some(sessions[1].uuid)),
        ),
        (
            RecordingFilter { from_number: Some(caller.digits().into()), ..any() },
            Box::new(|leg| leg.opened.party.as_ref() == Some(&caller)),
        ),
        (
            RecordingFilter { to_number: Some(number.digits().into()), added, ..any() },
            Box::new(|leg| {
                leg.opened.virtual_number.as_ref() == Some(&number)
                    && added.from <= Some(leg.ended_at)
                    && Some(leg.ended_at) < added.until
            }),
        ),
        (
            RecordingFilter { added, ..any() },
            Box::new(|leg| added.from <= Some(leg.ended_at) && Some(leg.ended_at) < added.until),
        ),
    ];
    for now in [84_000, 84_001] {
        for (filter, fits) in &cases {
            let fitting: Vec<_> =
                all.iter().filter(|leg| fits(leg)).map(|leg| leg.opened.interaction).collect();
            for offset in offsets(fitting.len()) {
                let found =
                    store.list_recordings_at(ACCOUNT, filter, 20, offset as u64, at(now)).await.unwrap();
                let found: (Vec<_>, _) = (found.0.iter().map(|one| one.new.interaction).collect(), found.1);
                let right = (page_of(&fitting, offset), fitting.len() as u64);
                assert_eq!(found, right, "{filter:?} from {offset} on");
            }
        }
    }
    let oldest = all[all.len() - 1].opened.interaction;
    assert!(store.delete_recording(ACCOUNT, None, oldest, at(84_001)).await.unwrap());
    let total = store.list_recordings_at(ACCOUNT, &any(), 1, 0, at(84_001)).await.unwrap().1;
    assert_eq!(total, all.len() as u64 - 1, "what was deleted is missed at once");
    assert_eq!(store.expire_recordings("here", at(3600), at(84_001)).await.unwrap(), 8);
    let left = all.iter().filter(|leg| leg.ended_at >= at(3600)).count() as u64;
    assert_eq!(store.list_recordings_at(ACCOUNT, &any(), 1, 0, at(84_001)).await.unwrap().1, left);
}

/// Events five minutes apart, over a day and a half, as uuid, second, sequence, session and state.
type Event = (Uuid, i64, i64, Option<usize>, EventState);

async fn save_events(store: &Store, sessions: &[MaskingSession; 2]) -> Vec<Event> {
    let mut all: Vec<Event> = (0..400_i64)
        .map(|index| {
            let session = (index % 7 > 0).then_some(usize::from(index % 3 == 0));
            let state = match index {
                _ if session.is_none() => EventState::Kept,
                _ if index % 5 == 0 => EventState::Dead,
                390.. => EventState::Pending,
                _ => EventState::Delivered,
            };
            (Uuid::new_v4(), index / 2 * 10 * MINUTE, index, session, state)
        })
        .collect();
    let rows = all.iter().map(|(uuid, second, sequence, session, state)| {
        let (of, subaccount) = match session {
            Some(index) => (format!("'{}'", sessions[*index].uuid), *index == 1),
            None => ("NULL".into(), false),
        };
        let subaccount = if subaccount { "'SAONE'" } else { "NULL" };
        let (state, happened) = (state.as_str(), at(*second).as_microsecond());
        let settled = if state == "pending" { "NULL".into() } else { happened.to_string() };
        format!(
            "('{uuid}', '{ACCOUNT}', {subaccount}, {of}, 'call', {sequence}, 'Any', {happened}, '[]', 0,
              'http://a/', 'POST', '{state}', 0, {settled}, 0)"
        )
    });
    let insert =
        "INSERT INTO events (uuid, account, subaccount, session, channel, sequence, name, happened_at,
                      parameters, recording, url, method, state, attempts, settled_at, give_up_at) VALUES ";
    store.write(Sql(insert.to_owned() + &rows.collect::<Vec<_>>().join(", "))).await.unwrap();
    all.sort_by_key(|event| std::cmp::Reverse((event.1, event.2)));
    all
}

async fn events_are_listed_as_if_each_were_looked_at(database: &Database) {
    let store = store(database, 2).await;
    let sessions = two_sessions(&store).await;
    let all = save_events(&store, &sessions).await;
    let any = EventFilter::default;
    let state = |state| EventFilter { state: Some(state), ..any() };
    type Fits<'a> = Box<dyn Fn(&Event) -> bool + 'a>;
    let cases: [(EventFilter, Fits<'_>); 8] = [
        (any(), Box::new(|_| true)),
        (EventFilter { session: Some(sessions[0].uuid), ..any() }, Box::new(|event| event.3 == Some(0))),
        (
            EventFilter { session: Some(sessions[0].uuid), ..state(EventState::Dead) },
            Box::new(|event| event.3 == Some(0) && event.4 == EventState::Dead),
        ),
        (EventFilter { subaccount: Some("SAONE".into()), ..any() }, Box::new(|event| event.3 == Some(1))),
        (
            EventFilter { subaccount: Some("SAONE".into()), ..state(EventState::Dead) },
            Box::new(|event| event.3 == Some(1) && event.4 == EventState::Dead),
        ),
        (state(EventState::Dead), Box::new(|event| event.4 == EventState::Dead)),
        (state(EventState::Pending), Box::new(|event| event.4 == EventState::Pending)),
        (state(EventState::Kept), Box::new(|event| event.4 == EventState::Kept)),
    ];
    for now in [119_000, 119_001] {
        for (filter, fits) in &cases {
            let fitting: Vec<_> = all.iter().filter(|event| fits(event)).map(|event| event.0).collect();
            for offset in offsets(fitting.len()) {
                let found = store.list_events_at(ACCOUNT, filter, 20, offset as u64, at(now)).await.unwrap();
                let found: (Vec<_>, _) = (found.0.iter().map(|event| event.uuid).collect(), found.1);
                let right = (page_of(&fitting, offset), fitting.len() as u64);
                assert_eq!(found, right, "{filter:?} from {offset} on");
            }
        }
    }
    let dead = all.iter().filter(|event| event.4 == EventState::Dead).count() as u64;
    let of = EventFilter { session: Some(sessions[1].uuid), ..any() };
    let replayed = store.replay_dead_events(ACCOUNT, of, at(119_001)).await.unwrap();
    let total = store.list_events_at(ACCOUNT, &state(EventState::Dead), 1, 0, at(119_001)).await.unwrap().1;
    assert!(replayed > 0);
    assert_eq!(total, dead - replayed, "what is sent again is given up no longer, at once");
}

async fn an_old_hour_is_counted_again_after_a_while_only(database: &Database) {
    let store = store(database, 2).await;
    let legs = legs(&two_sessions(&store).await);
    save(&store, &legs).await;
    let total =
        async |now| store.find_legs_at(ACCOUNT, &LegFilter::default(), 20, 0, at(now)).await.unwrap().1;
    assert_eq!(total(84_000).await, 400);
    // Nothing of the service does that.
    let (from, until) = (at(7200).as_microsecond(), at(36_000).as_microsecond());
    let lost = format!("DELETE FROM legs WHERE started_at >= {from} AND started_at < {until}");
    store.write(Sql(lost)).await.unwrap();
    assert_eq!(total(84_500).await, 400, "nobody looks at them");
    assert_eq!(total(84_600).await, 400 - 136, "ten minutes later somebody does");
}

async fn receivers_are_found_longest_waiting_first_without_those_that_are_served(database: &Database) {
    let store = store(database, 1).await;
    // Host, due at, leased until.
    let streams = [
        ("b", Some(10), 0),
        ("a", Some(20), 0),
        ("c", Some(5), 100),
        ("c", Some(30), 0),
        ("d", Some(5), 100),
        ("e", Some(60), 0),
        ("f", None, 0),
        ("", Some(40), 0),
    ];
    for (host, due, lease) in streams {
        let due = due.map_or("NULL".into(), |due| at(due).as_microsecond().to_string());
        let lease = at(lease).as_microsecond();
        store
            .write(Sql(format!(
                "INSERT INTO event_streams (session, channel, sequence, host, due_at, lease_until, touched_at)
                 VALUES ('{}', 'call', 1, '{host}', {due}, {lease}, 0)",
                Uuid::new_v4()
            )))
            .await
            .unwrap();
    }
    assert_eq!(store.due_hosts(at(50), 9).await.unwrap(), ["b", "a", "c", ""]);
    assert_eq!(store.due_hosts(at(50), 2).await.unwrap(), ["b", "a"]);
    assert_eq!(store.due_hosts(at(9), 9).await.unwrap(), Vec::<String>::new());
    assert_eq!(store.due_hosts(at(100), 9).await.unwrap(), ["c", "d", "b", "a", "", "e"]);
}

async fn a_replay_takes_the_oldest_first_and_nothing_twice(database: &Database) {
    let store = store(database, 2).await;
    let sessions = two_sessions(&store).await;
    let all = save_events(&store, &sessions).await;
    let count = |fits: &dyn Fn(&Event) -> bool| all.iter().filter(|event| fits(event)).count() as u64;
    let dead = |event: &Event| event.4 == EventState::Dead;
    let replay = async |account: &str, of| store.replay_dead_events(account, of, at(120_000)).await.unwrap();
    let any = EventFilter::default;
    assert_eq!(replay("MAOTHER", any()).await, 0);
    let of_sub = EventFilter { subaccount: Some("SAONE".into()), ..any() };
    assert_eq!(replay(ACCOUNT, of_sub.clone()).await, count(&|event| dead(event) && event.3 == Some(1)));
    assert_eq!(replay(ACCOUNT, of_sub).await, 0);
    let of_session = EventFilter { session: Some(sessions[0].uuid), ..any() };
    assert_eq!(replay(ACCOUNT, of_session).await, count(&|event| dead(event) && event.3 == Some(0)));
    assert_eq!(replay(ACCOUNT, any()).await, 0);
    for (state, is_replayed) in
        [(EventState::Delivered, true), (EventState::Kept, false), (EventState::Pending, false)]
    {
        let (uuid, ..) = all.iter().find(|event| event.4 == state).unwrap();
        assert_eq!(store.replay_event(ACCOUNT, None, *uuid, at(120_000)).await.unwrap(), is_replayed);
    }
    let waiting = store.due_streams("a", at(120_000), 9).await.unwrap();
    assert_eq!(waiting.len(), 2, "each stream is due once");
    // Many steps, and more than one request takes: the oldest go first.
    let more = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 700)
                INSERT INTO events (uuid, account, session, channel, sequence, name, happened_at, parameters,
                    recording, url, method, state, attempts, settled_at, give_up_at)
                SELECT 'x' || i, 'MAMANY', 's' || (i % 3), 'call', i, 'Any', 700 - i, '[]', 0, 'http://a/', 'POST',
                    'dead', 0, 700 - i, 0 FROM n";
    store.write(Sql(more.into())).await.unwrap();
    assert_eq!(replay("MAMANY", any()).await, 500);
    assert_eq!(replay("MAMANY", any()).await, 200);
    assert_eq!(replay("MAMANY", any()).await, 0);
}

async fn old_events_go_by_their_kind(database: &Database) {
    let store = store(database, 1).await;
    let day = 86_400_000_000_i64;
    for (kind, settled) in [("delivered", 0), ("dead", 0), ("kept", 0), ("delivered", 20 * day)] {
        let insert = format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300)
             INSERT INTO events (uuid, account, channel, sequence, name, happened_at, parameters, recording, url,
                 method, state, attempts, settled_at, give_up_at)
             SELECT '{kind}{settled}-' || i, 'MA', 'call', i, 'Any', 0, '[]', 0, '', 'POST', '{kind}', 0, {settled}, 0
             FROM n"
        );
        store.write(Sql(insert)).await.unwrap();
    }
    let now = |days: i64| Timestamp::from_microsecond(days * day + 1).unwrap();
    let left = async || {
        let total = query("SELECT COUNT(*) AS total FROM events").fetch_one(store.lists()).await.unwrap();
        total.unsigned::<u64>("total").unwrap()
    };
    let steps = async |days| {
        let mut steps = 1;
        while store.prune_events(now(days)).await.unwrap() {
            steps += 1;
        }
        steps
    };
    assert_eq!((steps(7).await, left().await), (4, 900), "what was delivered a week ago");
    assert_eq!(steps(30).await, 10, "a hundred of one kind in each");
    assert_eq!(left().await, 0, "what was given up a month ago, and what was delivered later");
}

#[tokio::test]
async fn slow_lists_hold_up_no_call() {
    let database = Database::sqlite();
    let store = store(&database, 1).await;
    let session = create(&store, wanted(1, 2), at(0)).await.unwrap();
    let Pool::Sqlite(pool) = store.lists() else { panic!("a file") };
    let mut busy = vec![];
    for _ in 0..LISTERS {
        busy.push(pool.acquire().await.unwrap());
    }
    let list = {
        let store = store.clone();
        tokio::spawn(async move { store.find_legs(ACCOUNT, &LegFilter::default(), 20, 0).await })
    };
    let route = store.find_route(&did(0), Some(&party(1)), at(1)).await.unwrap().unwrap();
    assert_eq!(route.sessions, [Arc::new(session)]);
    store.last_partner(Uuid::new_v4(), &party(1)).await.unwrap();
    assert!(!list.is_finished());
    drop(busy);
    assert_eq!(list.await.unwrap().unwrap(), (vec![], 0));
}

/// What SQLite does is the same with every number of rows: the statistics that could change its mind are not made.
#[tokio::test]
async fn no_list_and_no_sweep_walks_past_what_is_not_asked_for() {
    let database = Database::sqlite();
    let store = store(&database, 1).await;
    let (session, legs, events, recordings) =
        (Some(Uuid::new_v4()), LegFilter::default(), EventFilter::default(), RecordingFilter::default());
    let span = Span { from: Some(1), until: Some(9) };
    let page = Page { limit: 20, offset: 0 };
    let of_account = legs_of_account(ACCOUNT, &legs);
    let of_session = LegFilter { session, ..legs.clone() };
    let children = LegFilter { parent: session, ..legs.clone() };
    let dead = EventFilter { state: Some(EventState::Dead), ..events.clone() };
    let of_sub = EventFilter { subaccount: Some("SA".into()), ..events.clone() };
    let dead_of_sub = EventFilter { subaccount: Some("SA".into()), ..dead.clone() };
    let events_in_session = EventFilter { session, ..events.clone() };
    let recordings_in_session = RecordingFilter { session, ..recordings.clone() };
    let all_events = events_of_account(ACCOUNT, &events);
    let all_recordings = recordings_of_account(ACCOUNT, &recordings);
    let replay = |what| Replay { account: ACCOUNT.into(), what, now: at(0) };
    let one = replay(Replayed::One { uuid: Uuid::new_v4(), subaccount: None });
    let [all_dead, sub_dead, session_dead] =
        [&events, &of_sub, &events_in_session].map(|of| replay(Replayed::Dead(of.clone())));
    let [delivered, others, streams] = Prune(at(0)).statements();
    let calls = "legs_list (account=? AND started_at>? AND started_at<?)";
    let happened = "events_list (account=? AND happened_at>? AND happened_at<?)";
    let dead_ones = "events_dead (account=? AND happened_at>? AND happened_at<?)";
    let ready = "recordings_ready (account=? AND added_at>? AND added_at<?)";
    let cases: Vec<(&str, Query<'_>, Vec<&str>)> = vec![
        ("calls, size", of_account.size(), vec!["COVERING INDEX legs_list (account=?)"]),
        ("calls, count", of_account.count(span), vec!["COVERING INDEX", calls]),
        ("calls, sums", of_account.sums(1..9), vec!["COVERING INDEX", calls]),
        ("calls, page", of_account.page(span, page), vec![calls, "legs_1 (uuid=?)", "leg_quality_1 (leg=?)"]),
        (
            "calls of a session",
            paged(of_account.shape, legs_of_call(ACCOUNT, &of_session), page),
            vec!["legs_interaction (interaction=?)", "interactions_session (session=?)"],
        ),
        (
            "children of a leg",
            paged(of_account.shape, legs_of_call(ACCOUNT, &children), page),
            vec!["legs_interaction (interaction=?)", "legs_1 (uuid=?)"],
        ),
        ("live calls", live(ACCOUNT, None, 20, 0), vec!["legs_live (account=?)"]),
        ("live calls of a sub-account", live(ACCOUNT, Some("SA"), 20, 0), vec!["legs_live (account=?)"]),
        ("recordings, size", all_recordings.size(), vec!["COVERING INDEX recordings_ready (account=?)"]),
        ("recordings, oldest", all_recordings.oldest(), vec!["COVERING INDEX recordings_ready (account=?)"]),
        ("recordings, count", all_recordings.count(span), vec!["COVERING INDEX", ready]),
        ("recordings, sums", all_recordings.sums(1..9), vec!["COVERING INDEX", ready]),
        ("recordings, page", all_recordings.page(span, page), vec![ready, "recordings_1 (uuid=?)"]),
        (
            "recordings of a session",
            paged(all_recordings.shape, recordings_of_call(ACCOUNT, &recordings_in_session), page),
            vec!["recordings_session (session=?)"],
        ),
        ("events, size", all_events.size(), vec!["COVERING INDEX events_list (account=?)"]),
        ("events, sums", all_events.sums(1..9), vec!["COVERING INDEX", happened]),
        ("events, page", all_events.page(span, page), vec![happened, "events_1 (uuid=?)"]),
        (
            "events of a session",
            paged(all_events.shape, events_of_session(ACCOUNT, &events_in_session), page),
            vec!["events_session (session=?)"],
        ),
        (
            "dead events, size",
            events_of_account(ACCOUNT, &dead).size(),
            vec!["COVERING INDEX events_dead (account=?)"],
        ),
        (
            "dead events, sums",
            events_of_account(ACCOUNT, &dead_of_sub).sums(1..9),
            vec!["COVERING INDEX", dead_ones],
        ),
        ("dead events, page", events_of_account(ACCOUNT, &dead).page(span, page), vec![dead_ones]),
        ("replay of one", one.statement(), vec!["SEARCH e USING INDEX sqlite_autoindex_events_1 (uuid=?)"]),
        ("replay of all", all_dead.statement(), vec!["SEARCH e USING INDEX events_dead (account=?)"]),
        ("replay of a sub-account", sub_dead.statement(), vec!["events_dead (account=?)"]),
        ("replay of a session", session_dead.statement(), vec!["events_session (session=?)"]),
        ("removal of delivered events", delivered, vec!["events_delivered (settled_at<?)"]),
        ("removal of others", others, vec!["events_undelivered (settled_at<?)"]),
        ("removal of streams", streams, vec!["event_streams_idle (touched_at<?)"]),
        (
            "receivers",
            hosts_due(at(0), 9),
            vec!["event_streams_due (host>?)", "event_streams_due (host=? AND due_at<?)"],
        ),
    ];
    for (name, statement, parts) in cases {
        let rows = statement.plan().fetch_all(store.lists()).await.unwrap();
        let plan: Vec<_> = rows.iter().map(|row| row.text("detail").unwrap()).collect();
        for part in parts {
            assert!(plan.iter().any(|step| step.contains(part)), "{name}: no {part} in {plan:#?}");
        }
        // Where an index begins, and what was found already.
        let allowed = ["SCAN first USING", "SCAN hours", "SCAN hosts", "SCAN few", "SCAN CONSTANT ROW"];
        let walks = |step: &String| {
            step.starts_with("SCAN") && !allowed.iter().any(|allowed| step.starts_with(allowed))
        };
        assert!(!plan.iter().any(walks), "{name} walks: {plan:#?}");
        // All of a page, or all that was given up, is in order already.
        let sorts = plan.iter().any(|step| step == "USE TEMP B-TREE FOR ORDER BY");
        let is_in_order = ["live calls", "replay of all", "replay of a sub-account"].contains(&name);
        assert!(!(sorts && is_in_order), "{name} sorts: {plan:#?}");
    }
}

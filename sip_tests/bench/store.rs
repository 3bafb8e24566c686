//! What the store costs with a million sessions in an SQLite file: one JSON line per operation.
//!
//! Half of the sessions, the older ones, have ended. Each phone is in five of them, on a thousand numbers; 8,000 ask for
//! a PIN, every tenth keeps its number resting. Each session without PIN had a call of two legs, with a recording and two events,
//! one in a hundred of which was given up; all that wait are for one receiver, which is down. Operations follow one another, in
//! this process. `sip_tests/bench/run store [SESSIONS]` runs it; it ends with 1 when a figure misses its limit.

#![forbid(unsafe_code)]

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use maskline::clock;
use maskline::masking::session::{HttpMethod, MaskingSession, RecordFormat};
use maskline::number::{Did, E164};
use maskline::store::{
    EventFilter, EventState, LegFilter, NewPin, NewSession, NoSession, RecordingFilter, SessionFilter,
    SessionState, Store, TimeRange, VirtualNumberConfig,
};
use serde_json::json;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, Executor};

const ACCOUNT: &str = "MABENCHBENCHBENCHBEN";
const NUMBERS: usize = 1000;
/// Sessions with PIN on each number.
const PINS: usize = 8;
const SAMPLES: usize = 1000;
const LISTS: usize = 20;
const HOUR: Duration = Duration::from_secs(3600);

type Failure = Box<dyn Error>;

fn main() -> ExitCode {
    // Cargo passes an argument of its own.
    let sessions = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(1_000_000);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let outcome = runtime.map_err(Failure::from).and_then(|runtime| runtime.block_on(measure(sessions)));
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("store: {error}");
            ExitCode::FAILURE
        }
    }
}

fn did(index: usize) -> Did {
    Did::parse(&format!("1202{:07}", 5_550_000 + index)).expect("digits")
}

fn party(side: usize, index: usize) -> Option<E164> {
    E164::parse(&format!("{}{index:07}", 1212 + side))
}

fn wanted(index: usize) -> NewSession {
    NewSession {
        account: ACCOUNT.into(),
        subaccount: None,
        first_party: party(0, index),
        second_party: party(1, index),
        expiry: 24 * HOUR,
        call_time_limit: 4 * HOUR,
        ring_timeout: Duration::from_secs(45),
        record: true,
        record_file_format: RecordFormat::Mp3,
        recording_callback_url: String::new(),
        recording_callback_method: HttpMethod::Post,
        callback_url: "https://app.example/masking".into(),
        callback_method: HttpMethod::Post,
        initiate_call_to_first_party: false,
        first_party_play_url: String::new(),
        second_party_play_url: String::new(),
        pin: None,
        unknown_caller_play: String::new(),
        geomatch: true,
        single_party: None,
        cooloff: Duration::ZERO,
    }
}

fn with_pin(session: NewSession) -> NewSession {
    let pin = NewPin {
        first_party_pin: None,
        second_party_pin: None,
        generate_length: 4,
        generated: true,
        prompt_play: String::new(),
        retry: 1,
        retry_wait: Duration::from_secs(5),
        incorrect_play: String::new(),
        force: false,
    };
    NewSession { pin: Some(pin), ..session }
}

/// Copies of one stored session, made by `changes`; `rowid` counts them from 1.
async fn multiply(path: &str, template: &MaskingSession, count: usize, changes: &str) -> Result<(), Failure> {
    let mut on = SqliteConnectOptions::new().filename(path).disable_statement_logging().connect().await?;
    let statements = format!(
        "BEGIN;
         CREATE TEMP TABLE copy AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})
             SELECT sessions.* FROM n, sessions WHERE uuid = '{}';
         UPDATE copy SET {changes};
         INSERT INTO sessions SELECT * FROM copy;
         DROP TABLE copy;
         DELETE FROM session_hours;
         INSERT INTO session_hours SELECT account, ends_at / 3600000000, COUNT(*) FROM sessions GROUP BY 1, 2;
         -- The first create that asks sums them up.
         DELETE FROM number_loads;
         INSERT INTO number_loads SELECT virtual_number, MAX(account), 0, 0, 0, NULL, 0 FROM sessions
             WHERE takes_strangers = 1 GROUP BY 1;
         COMMIT;",
        template.uuid
    );
    on.execute(sqlx::AssertSqlSafe(statements)).await?;
    on.close().await?;
    Ok(())
}

/// One call for every session, at its beginning; the newest hundred go on.
async fn add_calls(path: &str, uuid: &str) -> Result<(), Failure> {
    let options = SqliteConnectOptions::new().filename(path).disable_statement_logging();
    // Every uuid belongs to another page.
    let mut on = options.pragma("cache_size", "-400000").connect().await?;
    let leg = "INSERT INTO legs (uuid, interaction, session, account, virtual_number, started_at, trunk, side, attempt,
                   party, role, answered_at, ended_at, hangup_cause_name, hangup_cause_code, hangup_source)";
    let legs_end =
        "at + 5000000, CASE WHEN newest > 100 THEN at + 65000000 END, 'Normal Hangup', 4000, 'Caller'";
    let event = "INSERT INTO events (uuid, account, subaccount, session, channel, url, method, parameters, give_up_at,
                     happened_at, settled_at, sequence, name, recording, state, attempts)";
    let event_start = "account, subaccount, session, 'call', 'https://app.example/masking', 'POST',
                       '[[\"Event\",\"Bench\"],[\"To\",\"12125550100\"]]', at, at + 65000000";
    let statements = format!(
        "BEGIN;
         CREATE TEMP TABLE calls AS SELECT {uuid} AS uuid, {uuid} AS a, {uuid} AS b, uuid AS session, account,
             subaccount, virtual_number AS number, first_party, second_party, created_at AS at,
             (SELECT MAX(rowid) FROM sessions WHERE first_party_pin IS NULL) - rowid + 1 AS newest
             FROM sessions WHERE first_party_pin IS NULL;
         INSERT INTO interactions (uuid, session, account, virtual_number, started_at, ended_at)
             SELECT uuid, session, account, number, at, CASE WHEN newest > 100 THEN at + 65000000 END FROM calls;
         {leg} SELECT a, uuid, session, account, number, at, 'local', 'A', 0, first_party, 'first', {legs_end}
             FROM calls;
         {leg} SELECT b, uuid, session, account, number, at, 'local', 'B', 1, second_party, 'second', {legs_end}
             FROM calls;
         INSERT INTO recordings (uuid, account, session, subaccount, call_uuid, place, directory, format, added_at,
                 started_at, samples, sample_rate, complete, state, attempts)
             SELECT uuid, account, session, subaccount, a, 'here', '2026/01/01/x', 'mp3', at + 66000000, at, 480000,
                 8000, 1, 'ready', 0 FROM calls;
         {event} SELECT {uuid}, {event_start}, at + 65000000, 1, 'SessionPartiesHangup', 0,
                 CASE WHEN newest % 100 = 0 THEN 'dead' ELSE 'delivered' END, 1 FROM calls;
         {event} SELECT {uuid}, {event_start}, NULL, 2, 'SessionRecordingCompleted', 1, 'pending', 1 FROM calls
             WHERE newest % 2 = 0;
         {event} SELECT {uuid}, {event_start}, at + 66000000, 2, 'SessionRecordingCompleted', 1, 'delivered', 1
             FROM calls WHERE newest % 2 = 1;
         INSERT INTO event_streams (session, channel, sequence, host, due_at, lease_until, touched_at)
             SELECT session, 'call', 2, 'down.example', CASE WHEN newest % 2 = 0 THEN at END, 0, at FROM calls;
         DROP TABLE calls;
         COMMIT;"
    );
    on.execute(sqlx::AssertSqlSafe(statements)).await?;
    on.close().await?;
    Ok(())
}

/// The store with so many sessions in it.
async fn fill(path: &str, sessions: usize) -> Result<Store, Failure> {
    let url = format!("sqlite://{path}");
    let store = Store::open(&url).await?;
    let now = clock::wall_now();
    store.ensure_account(&[(ACCOUNT.into(), "onlyforthebenchonlyforthebench".into())], now).await?;
    let numbers: Vec<_> = (0..NUMBERS)
        .map(|index| VirtualNumberConfig {
            did: did(index),
            trunk: "local".into(),
            account: None,
            no_session: NoSession::Reject,
        })
        .collect();
    store.sync_numbers(&numbers).await?;
    let plain = store.create_session(wanted(9_000_000), now).await??;
    let pin = store.create_session(with_pin(wanted(9_000_001)), now).await??;
    store.close().await;

    let uuid = "lower(hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' || substr(hex(randomblob(2)), 2) \
                || '-8' || substr(hex(randomblob(2)), 2) || '-' || hex(randomblob(6)))";
    let number = format!("CAST(12025550000 + rowid % {NUMBERS} AS TEXT)");
    let (hour, half) = (3_600_000_000_i64, sessions / 2);
    // One second apart and a day long, the older half ended, which was noticed of all but the last hundred; a session
    // in ten rests its number for a minute.
    let at = now.as_microsecond();
    let changes = format!(
        "uuid = {uuid}, virtual_number = {number},
         first_party = CAST(12120000000 + rowid / 5 AS TEXT), second_party = CAST(12130000000 + rowid / 5 AS TEXT),
         created_at = {at} - ({sessions} - rowid) * 1000000, modified_at = {at} - ({sessions} - rowid) * 1000000,
         timeout_told = CASE WHEN rowid <= {half} - 100 THEN 1 ELSE 0 END,
         subaccount = CASE WHEN rowid % 100 = 0 THEN 'SABENCH' END,
         cooloff = CASE WHEN rowid % 10 = 0 THEN 60 ELSE 0 END,
         expires_at = CASE WHEN rowid > {half} THEN {at} + 24 * {hour} ELSE {at} - ({half} - rowid) * 1000000 END,
         ends_at = CASE WHEN rowid > {half} THEN {at} + 24 * {hour} ELSE {at} - ({half} - rowid) * 1000000 END,
         rests_until = CASE WHEN rowid % 10 > 0 THEN NULL WHEN rowid > {half} THEN {at} + 24 * {hour} + 60000000
             ELSE {at} - ({half} - rowid) * 1000000 + 60000000 END"
    );
    multiply(path, &plain, sessions.saturating_sub(NUMBERS * PINS), &changes).await?;
    let changes = format!(
        "uuid = {uuid}, virtual_number = {number},
         first_party = CAST(12140000000 + rowid AS TEXT), second_party = CAST(12150000000 + rowid AS TEXT),
         first_party_pin = printf('%04d', 1000 + 2 * (rowid / {NUMBERS})),
         second_party_pin = printf('%04d', 1001 + 2 * (rowid / {NUMBERS}))"
    );
    multiply(path, &pin, NUMBERS * PINS, &changes).await?;
    add_calls(path, uuid).await?;
    Ok(Store::open(&url).await?)
}

/// Times each of the runs, prints the line, and says whether the limits (median and p99, in ms) are kept.
async fn sample(
    operation: &str,
    limits: (f64, f64),
    samples: usize,
    run: impl AsyncFn(usize) -> Result<(), Failure>,
) -> Result<bool, Failure> {
    let mut times = Vec::with_capacity(samples);
    for index in 0..samples {
        let begin = clock::now();
        run(index).await?;
        times.push(clock::now().duration_since(begin).as_secs_f64() * 1000.0);
    }
    times.sort_unstable_by(f64::total_cmp);
    let at = |percent: usize| times.get(times.len() * percent / 100).copied().unwrap_or_default();
    let (p50, p99) = (at(50), at(99));
    let kept = p50 <= limits.0 && p99 <= limits.1;
    let rounded = |ms: f64| (ms * 1000.0).round() / 1000.0;
    let max = rounded(times.last().copied().unwrap_or_default());
    let (p50, p99) = (rounded(p50), rounded(p99));
    let line = json!({ "scenario": "store", "operation": operation, "p50_ms": p50, "p99_ms": p99, "max_ms": max,
                       "limits_ms": [limits.0, limits.1], "kept": kept });
    writeln!(std::io::stdout(), "{line}")?;
    Ok(kept)
}

async fn measure(sessions: usize) -> Result<bool, Failure> {
    let directory = std::env::temp_dir().join(format!("maskline-bench-store-{}", std::process::id()));
    let path = directory.join("maskline.db").display().to_string();
    let begin = clock::now();
    let store = fill(&path, sessions).await?;
    let size = std::fs::metadata(&path)?.len() / 1_000_000;
    let seconds = clock::now().duration_since(begin).as_secs();
    let line = json!({ "scenario": "store", "sessions": sessions, "file_mb": size, "filled_in_s": seconds });
    writeln!(std::io::stdout(), "{line}")?;
    let outcome = async {
        // What a create writes would be the newest of all lists.
        let lists = lists(&store).await?;
        Ok(operations(&store, sessions).await? & lists & outbox(&store).await?)
    };
    let outcome = outcome.await;
    store.close().await;
    let _ = std::fs::remove_dir_all(&directory);
    outcome
}

/// The median of a list, and its worst case: the first time, what is remembered later must be counted.
const LONG_LIST: (f64, f64) = (50.0, 5000.0);
const LIST: (f64, f64) = (50.0, 50.0);

/// Lists of calls, recordings and events.
async fn lists(store: &Store) -> Result<bool, Failure> {
    let mut kept = true;
    let begin = clock::wall_now();
    // It moves with the time, as that of the API.
    let week = |index: usize| TimeRange {
        from: begin
            .checked_add(Duration::from_secs(index as u64))
            .and_then(|end| end.checked_sub(7 * 24 * HOUR))
            .ok(),
        until: None,
    };
    let (legs, _) = store.find_legs(ACCOUNT, &LegFilter::default(), 20, 50_000).await?;
    let leg = legs.iter().find(|leg| leg.opened.attempt == 0).ok_or("no call that came in")?.clone();
    let session = leg.opened.session;
    let caller = leg.opened.party.as_ref().map(|party| party.digits().to_owned());
    let sub = Some("SABENCH".to_owned());
    let any = LegFilter::default;
    let calls = [
        ("week", any(), 0),
        ("week_far_back", any(), 50_000),
        ("party", LegFilter { from_number: caller.clone(), ..any() }, 0),
        ("subaccount", LegFilter { subaccount: sub.clone(), ..any() }, 0),
    ];
    for (name, filter, offset) in calls {
        kept &= sample(&format!("list_calls_by_{name}"), LONG_LIST, LISTS, async |index| {
            let filter = LegFilter { started: week(index), ..filter.clone() };
            let found = store.find_legs(ACCOUNT, &filter, 20, offset).await?;
            if found.0.is_empty() { Err("no call".into()) } else { Ok(()) }
        })
        .await?;
    }
    kept &= sample("list_calls_by_session", LIST, LISTS, async |_| {
        let found = store.find_legs(ACCOUNT, &LegFilter { session, ..any() }, 20, 0).await?;
        if found.1 == 2 { Ok(()) } else { Err(format!("{} legs", found.1).into()) }
    })
    .await?;
    kept &= sample("list_calls_live", LIST, LISTS, async |_| {
        let found = store.live_legs(ACCOUNT, None, 20, 0).await?;
        if found.len() == 20 { Ok(()) } else { Err(format!("{} live legs", found.len()).into()) }
    })
    .await?;
    let any = RecordingFilter::default;
    let recordings = [
        ("none", LONG_LIST, any()),
        ("party", LONG_LIST, RecordingFilter { from_number: caller, ..any() }),
        ("subaccount", LONG_LIST, RecordingFilter { subaccount: sub.clone(), ..any() }),
        ("session", LIST, RecordingFilter { session, ..any() }),
    ];
    for (name, limits, filter) in recordings {
        kept &= sample(&format!("list_recordings_by_{name}"), limits, LISTS, async |_| {
            let found = store.list_recordings(ACCOUNT, &filter, 20, 0).await?;
            if found.0.is_empty() { Err("no recording".into()) } else { Ok(()) }
        })
        .await?;
    }
    let any = EventFilter::default;
    let events = [
        ("none", LONG_LIST, any()),
        ("subaccount", LONG_LIST, EventFilter { subaccount: sub, ..any() }),
        ("pending", LONG_LIST, EventFilter { state: Some(EventState::Pending), ..any() }),
        ("dead", LONG_LIST, EventFilter { state: Some(EventState::Dead), ..any() }),
        ("session", LIST, EventFilter { session, ..any() }),
    ];
    for (name, limits, filter) in events {
        kept &= sample(&format!("list_events_by_{name}"), limits, LISTS, async |_| {
            let found = store.list_events(ACCOUNT, &filter, 20, 0).await?;
            if found.0.is_empty() { Err("no event".into()) } else { Ok(()) }
        })
        .await?;
    }
    Ok(kept)
}

/// What the courier asks after every commit, what it sweeps, and what is sent again.
async fn outbox(store: &Store) -> Result<bool, Failure> {
    const QUICK: (f64, f64) = (5.0, 20.0);
    // A hundred rows of each kind in one transaction.
    const STEP: (f64, f64) = (100.0, 500.0);
    // Ten thousand, a hundred in each transaction.
    const ALL: (f64, f64) = (5_000.0, 10_000.0);
    let mut kept = true;
    let now = clock::wall_now();
    kept &= sample("due_receivers", QUICK, SAMPLES, async |_| {
        let hosts = store.due_hosts(now, 64).await?;
        if hosts.is_empty() { Err("no receiver".into()) } else { Ok(()) }
    })
    .await?;
    let delivered = EventFilter { state: Some(EventState::Delivered), ..EventFilter::default() };
    let (events, _) = store.list_events(ACCOUNT, &delivered, 20, 0).await?;
    kept &= sample("replay_one", LIST, events.len(), async |index| {
        let uuid = events.get(index).ok_or("no event")?.uuid;
        let replayed = store.replay_event(ACCOUNT, None, uuid, now).await?;
        if replayed { Ok(()) } else { Err("not replayed".into()) }
    })
    .await?;
    kept &= sample("replay_dead", ALL, 2, async |index| {
        let replayed = store.replay_dead_events(ACCOUNT, EventFilter::default(), now).await?;
        if replayed > 0 || index > 0 { Ok(()) } else { Err("nothing is dead".into()) }
    })
    .await?;
    let later = now + 20 * 24 * HOUR;
    kept &= sample("prune", STEP, LISTS, async |_| {
        store.prune_events(later).await?;
        Ok(())
    })
    .await?;
    Ok(kept)
}

async fn operations(store: &Store, sessions: usize) -> Result<bool, Failure> {
    const QUICK: (f64, f64) = (5.0, 20.0);
    let now = clock::wall_now();
    // Phones of the newer half, spread over it; each phone is on five numbers.
    let phone = |index: usize| (sessions / 2 + 5 + index * 7919 % (sessions / 3).max(1)) / 5;
    let mut kept = true;
    kept &= sample("create", QUICK, SAMPLES, async |index| {
        store.create_session(wanted(phone(index)), clock::wall_now()).await??;
        Ok(())
    })
    .await?;
    kept &= sample("create_with_pin", QUICK, SAMPLES, async |index| {
        store.create_session(with_pin(wanted(2_000_000 + index)), clock::wall_now()).await??;
        Ok(())
    })
    .await?;
    kept &= sample("find_by_call", QUICK, SAMPLES, async |index| {
        let number = did((phone(index) * 5 + 1) % NUMBERS);
        let route = store.find_route(&number, party(1, phone(index)).as_ref(), now).await?;
        let found = route.map_or(0, |route| route.sessions.len());
        if found == 1 { Ok(()) } else { Err(format!("{found} sessions for one caller").into()) }
    })
    .await?;
    kept &= sample("find_by_stranger", QUICK, SAMPLES, async |index| {
        store.find_route(&did(index % NUMBERS), party(5, index).as_ref(), now).await?;
        Ok(())
    })
    .await?;
    let any = SessionFilter::default;
    let recent = TimeRange { from: Some(now - HOUR), until: None };
    let soon = TimeRange { from: Some(now - HOUR), until: Some(now) };
    let filters = [
        ("party", SessionFilter { first_party: party(0, phone(1)), ..any() }),
        ("number", SessionFilter { virtual_number: Some(did(7)), ..any() }),
        ("subaccount", SessionFilter { subaccount: Some("SABENCH".into()), ..any() }),
        ("active", SessionFilter { state: SessionState::Active, ..any() }),
        ("expired", SessionFilter { state: SessionState::Expired, ..any() }),
        ("in_progress", SessionFilter { state: SessionState::InProgress, ..any() }),
        ("created", SessionFilter { created: recent, ..any() }),
        ("ended", SessionFilter { ends: soon, ..any() }),
        (
            "number_and_active",
            SessionFilter { virtual_number: Some(did(7)), state: SessionState::Active, ..any() },
        ),
        ("duration", SessionFilter { duration_s: (Some(0), Some(60)), ..any() }),
        ("none", any()),
    ];
    for (name, filter) in filters {
        let name = format!("list_by_{name}");
        kept &= sample(&name, LIST, LISTS, async |_| {
            store.list_sessions(ACCOUNT, &filter, 20, 0, now).await?;
            Ok(())
        })
        .await?;
    }
    Ok(kept)
}

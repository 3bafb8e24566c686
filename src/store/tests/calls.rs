//! Records of calls, and writes that fail.

use media::Side;

use super::*;
use crate::masking::session::PartyRole;
use media::quality::Mos;

on_both!(tokio::test:
    a_call_is_known_from_its_invite_on_and_complete_after_its_close,
    the_known_partys_partner_is_the_other_end_of_the_last_talk,
    a_close_without_an_open_is_a_whole_record,
    a_call_record_that_cannot_be_stored_leaves_the_others,
    a_close_that_meets_what_is_there_already_is_kept_and_stored_later,
    what_a_dead_process_left_open_is_closed_at_its_last_heartbeat,
    a_write_that_fails_in_a_batch_leaves_the_others,
    the_store_goes_on_after_a_transaction_was_lost,
    a_store_error_names_no_party_and_no_pin,
);
on_both!(tokio::test(flavor = "multi_thread", worker_threads = 2):
    calls_that_share_a_batch_are_recorded_like_calls_that_do_not,
);

fn leg(session: &MaskingSession, interaction: Uuid, side: Side, started_at: Timestamp) -> LegOpened {
    let role = if side == Side::A { PartyRole::First } else { PartyRole::Second };
    LegOpened {
        interaction,
        leg: Uuid::new_v4(),
        session: Some(session.uuid),
        account: Some(ACCOUNT.into()),
        side,
        attempt: if side == Side::A { 0 } else { 1 },
        virtual_number: Some(session.virtual_number.clone()),
        party: session.party(role).cloned(),
        role: Some(role),
        trunk: "local".into(),
        started_at,
    }
}

pub(super) async fn open_call(
    store: &Store,
    session: &MaskingSession,
    now: Timestamp,
) -> (LegOpened, LegOpened) {
    let interaction = Uuid::new_v4();
    let (a, b) = (leg(session, interaction, Side::A, now), leg(session, interaction, Side::B, now));
    store.open_leg(LegOpened { session: None, account: None, role: None, ..a.clone() }).await.unwrap();
    store.open_leg(a.clone()).await.unwrap();
    store.open_leg(b.clone()).await.unwrap();
    (a, b)
}

fn quality() -> LegQuality {
    LegQuality {
        codec: Some("PCMU".into()),
        mos: Some(Mos::from_hundredths(431)),
        remote_mos: None,
        expected: 11,
        repeated: 2,
        reordered: 3,
        loss_runs: 1,
        longest_loss: 1,
        mean_jitter: 875,
        max_jitter: 1250,
        remote_lost: Some(-2),
        remote_jitter: Some(125),
        round_trip: Some(31_250),
        max_round_trip: None,
        silences: 1,
        unheard: 4,
    }
}

fn closed(opened: LegOpened, answered_at: Option<Timestamp>, ended_at: Timestamp) -> LegCdr {
    LegCdr {
        opened,
        ringing_at: answered_at,
        answered_at,
        ended_at,
        hangup_cause_name: "Normal Hangup",
        hangup_cause_code: 4000,
        hangup_source: "Caller",
        sip_status: Some(200),
        q850_cause: Some(16),
        packets_received: 10,
        packets_sent: 11,
        packets_lost: 1,
        jitter: 7,
        quality: Some(quality()),
    }
}

pub(super) fn cdr(a: LegOpened, b: LegOpened) -> Cdr {
    Cdr {
        interaction: a.interaction,
        session: a.session,
        virtual_number: a.virtual_number.clone(),
        started_at: a.started_at,
        ended_at: at(90),
        recording: Some(RecordingRow { directory: "2026/01/01/x".into(), samples: 8000, complete: true }),
        legs: vec![closed(a, Some(at(62)), at(90)), closed(b, Some(at(62)), at(89))],
        events: vec![],
    }
}
async fn a_call_is_known_from_its_invite_on_and_complete_after_its_close(database: &Database) {
    let store = store(database, 1).await;
    let session = create(&store, wanted(1, 2), at(0)).await.unwrap();
    let (a, b) = open_call(&store, &session, at(60)).await;
    store.answer_leg(b.leg, at(61)).await.unwrap();
    let open = store.find_leg(ACCOUNT, b.leg).await.unwrap().unwrap();
    assert_eq!((open.answered_at, open.ended_at, open.parent), (Some(at(61)), None, Some(a.leg)));
    assert_eq!(
        store.find_leg(ACCOUNT, a.leg).await.unwrap().unwrap().opened,
        a,
        "what came later is filled in"
    );
    store.close_call(cdr(a.clone(), b.clone())).await.unwrap();
    store.close_call(cdr(a.clone(), b.clone())).await.unwrap();
    let calls = store.interactions(session.uuid).await.unwrap();
    assert_eq!(calls.len(), 1, "a repeated close adds nothing");
    assert_eq!((calls[0].ended_at, calls[0].legs.len()), (Some(at(90)), 2));
    assert_eq!(calls[0].recording.as_ref().map(|recording| recording.samples), Some(8000));
    let row = store.find_leg(ACCOUNT, a.leg).await.unwrap().unwrap();
    assert_eq!(
        (row.hangup_cause_name.as_deref(), row.hangup_cause_code),
        (Some("Normal Hangup"), Some(4000))
    );
    assert_eq!((row.sip_status, row.q850_cause), (Some(200), Some(16)));
    assert_eq!((row.packets_received, row.packets_sent, row.packets_lost, row.jitter), (10, 11, 1, 7));
    assert_eq!(row.quality, Some(quality()));
    assert_eq!(open.quality, None, "a leg that goes on");
    assert_eq!(calls[0].legs[1].quality, Some(quality()));
    assert_eq!(store.find_leg("MAOTHER", a.leg).await.unwrap(), None);
    let (legs, total) = store.list_legs(ACCOUNT, 1, 1).await.unwrap();
    assert_eq!((legs.len(), total), (1, 2));
}

async fn the_known_partys_partner_is_the_other_end_of_the_last_talk(database: &Database) {
    let store = store(database, 1).await;
    let single = NewSession { second_party: None, single_party: Some(true), ..wanted(0, 1) };
    let session = create(&store, single, at(0)).await.unwrap();
    let known = party(0);
    let partner = async || store.last_partner(session.uuid, &known).await.unwrap();
    // Of whom, at which second, and whether both legs were answered.
    let call = async |caller: Option<E164>, callee: Option<E164>, second: i64, answered: bool| {
        let interaction = Uuid::new_v4();
        let a = LegOpened { party: caller, ..leg(&session, interaction, Side::A, at(second)) };
        let b = LegOpened { party: callee, ..leg(&session, interaction, Side::B, at(second)) };
        let answer = answered.then_some(at(second));
        let legs =
            vec![closed(a.clone(), Some(at(second)), at(second)), closed(b.clone(), answer, at(second))];
        store.close_call(Cdr { legs, started_at: at(second), ..cdr(a, b) }).await.unwrap();
    };
    assert_eq!(partner().await, None, "nobody has called");
    call(Some(party(5)), Some(known.clone()), 10, false).await;
    assert_eq!(partner().await, None, "nobody has talked");
    call(Some(party(6)), Some(known.clone()), 20, true).await;
    assert_eq!(partner().await, Some(party(6)));
    call(Some(party(7)), Some(known.clone()), 30, false).await;
    assert_eq!(partner().await, Some(party(6)), "the later one did not get through");
    call(Some(party(8)), Some(known.clone()), 40, true).await;
    call(Some(known.clone()), Some(party(6)), 50, true).await;
    assert_eq!(partner().await, Some(party(6)), "his own call counts as well");
    call(None, Some(known.clone()), 60, true).await;
    assert_eq!(partner().await, None, "whoever it was, it was not the one before");
    let other = store.last_partner(Uuid::new_v4(), &known).await.unwrap();
    assert_eq!(other, None, "another session's");
}

async fn a_close_without_an_open_is_a_whole_record(database: &Database) {
    let store = store(database, 1).await;
    let session = create(&store, wanted(1, 2), at(0)).await.unwrap();
    let interaction = Uuid::new_v4();
    let (a, b) = (leg(&session, interaction, Side::A, at(60)), leg(&session, interaction, Side::B, at(61)));
    store.close_call(cdr(a.clone(), b.clone())).await.unwrap();
    let calls = store.interactions(session.uuid).await.unwrap();
    let sides: Vec<_> = calls[0].legs.iter().map(|leg| (leg.opened.clone(), leg.ended_at)).collect();
    assert_eq!(sides, [(a, Some(at(90))), (b, Some(at(89)))]);
}

/// Calls of one batch are put together in memory, those of several batches by the database: with one result.
async fn calls_that_share_a_batch_are_recorded_like_calls_that_do_not(database: &Database) {
    let store = store(database, 1).await;
    let session = create(&store, wanted(1, 2), at(0)).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for index in 0..100 {
        let (store, session) = (store.clone(), session.clone());
        tasks.spawn(async move {
            let interaction = Uuid::new_v4();
            let (a, b) =
                (leg(&session, interaction, Side::A, at(60)), leg(&session, interaction, Side::B, at(61)));
            let early = LegOpened { session: None, account: None, role: None, ..a.clone() };
            // What one write knows, the other need not.
            let cdr = cdr(LegOpened { party: None, ..a.clone() }, b.clone());
            if index % 2 == 0 {
                let (one, two, three) = tokio::join!(
                    store.open_leg(early),
                    store.open_leg(b.clone()),
                    store.answer_leg(b.leg, at(99)), // The close knows better.
                );
                [one, two, three].into_iter().for_each(Result::unwrap);
                store.close_call(cdr).await.unwrap();
            } else {
                let (one, two, three, four) = tokio::join!(
                    store.open_leg(early),
                    store.open_leg(b.clone()),
                    store.answer_leg(b.leg, at(99)),
                    store.close_call(cdr)
                );
                [one, two, three, four].into_iter().for_each(Result::unwrap);
            }
            (a, b)
        });
    }
    while let Some(legs) = tasks.join_next().await {
        let (a, b) = legs.unwrap();
        for (opened, ended_at) in [(a, at(90)), (b, at(89))] {
            let row = store.find_leg(ACCOUNT, opened.leg).await.unwrap().unwrap();
            let known = (row.opened, row.answered_at, row.ended_at, row.packets_sent);
            assert_eq!(known, (opened, Some(at(62)), Some(ended_at), 11));
        }
    }
    let calls = store.interactions(session.uuid).await.unwrap();
    assert_eq!(calls.len(), 100);
    assert!(
        calls
            .iter()
            .all(|call| call.legs.len() == 2 && call.ended_at == Some(at(90)) && call.recording.is_some())
    );
}

async fn a_call_record_that_cannot_be_stored_leaves_the_others(database: &Database) {
    let store = store(database, 1).await;
    let session = create(&store, wanted(1, 2), at(0)).await.unwrap();
    let refuse = if database.is_postgres() {
        "ALTER TABLE legs ADD CONSTRAINT refuse CHECK (trunk <> 'bad')"
    } else {
        "CREATE TRIGGER refuse BEFORE INSERT ON legs WHEN NEW.trunk = 'bad' BEGIN SELECT RAISE(ABORT, 'no'); END"
    };
    store.write(Run(refuse)).await.unwrap();
    let good = leg(&session, Uuid::new_v4(), Side::A, at(1));
    let bad = LegOpened { trunk: "bad".into(), ..leg(&session, Uuid::new_v4(), Side::A, at(1)) };
    let (first, second) = tokio::join!(store.open_leg(bad.clone()), store.open_leg(good.clone()));
    assert!(matches!(first, Err(StoreError::Database(_))));
    second.unwrap();
    assert!(store.find_leg(ACCOUNT, good.leg).await.unwrap().is_some());
    assert!(matches!(store.open_leg(bad).await, Err(StoreError::Database(_))), "alone as well");
}

/// No row of a call is unique but by its own uuid; should one ever clash, somebody else was quicker and is done soon.
async fn a_close_that_meets_what_is_there_already_is_kept_and_stored_later(database: &Database) {
    let store = store(database, 1).await;
    let session = create(&store, wanted(1, 2), at(0)).await.unwrap();
    store.write(Run("CREATE UNIQUE INDEX narrow ON interactions (virtual_number)")).await.unwrap();
    let call = || {
        let interaction = Uuid::new_v4();
        cdr(leg(&session, interaction, Side::A, at(60)), leg(&session, interaction, Side::B, at(60)))
    };
    store.close_call(call()).await.unwrap();
    let (closed, ()) = tokio::join!(store.close_call(call()), async {
        all_is_written(&store).await;
        store.write(Run("DROP INDEX narrow")).await.unwrap();
    });
    closed.unwrap();
    assert_eq!(store.interactions(session.uuid).await.unwrap().len(), 2);
}

async fn what_a_dead_process_left_open_is_closed_at_its_last_heartbeat(database: &Database) {
    let store = store(database, 1).await;
    let session = create(&store, wanted(1, 2), at(0)).await.unwrap();
    let (a, _) = open_call(&store, &session, at(60)).await;
    store.heartbeat(at(69)).await.unwrap();
    store.heartbeat(at(70)).await.unwrap();
    let (late, _) = open_call(&store, &session, at(71)).await;
    store.close().await;
    let store = Store::open(&database.url()).await.unwrap();
    assert_eq!(store.close_orphans(at(500)).await.unwrap(), 4);
    assert_eq!(store.close_orphans(at(501)).await.unwrap(), 0);
    let ended = async |leg| store.find_leg(ACCOUNT, leg).await.unwrap().unwrap();
    let row = ended(a.leg).await;
    assert_eq!((row.ended_at, row.hangup_cause_name.as_deref()), (Some(at(70)), Some("process ended")));
    assert_eq!(ended(late.leg).await.ended_at, Some(at(71)), "not before it began");
    let calls = store.interactions(session.uuid).await.unwrap();
    assert_eq!(calls.iter().map(|call| call.ended_at).collect::<Vec<_>>(), [Some(at(70)), Some(at(71))]);
}
/// Group commit must not let one write take others with it.
async fn a_write_that_fails_in_a_batch_leaves_the_others(database: &Database) {
    struct Broken;
    impl Write for Broken {
        type Done = ();
        async fn apply(&mut self, connection: &mut Connection) -> Result<(), StoreError> {
            query("INSERT INTO nodes (node, beat_at) VALUES ('broken', 1)").execute(&mut *connection).await?;
            query("INSERT INTO no_such_table VALUES (1)").execute(connection).await?;
            Ok(())
        }
    }
    let store = store(database, 1).await;
    let beat = Run("INSERT INTO nodes (node, beat_at) VALUES ('whole', 1)");
    // Polled in turn on one thread, all three are queued before the writer task runs.
    let (before, broken, after) =
        tokio::join!(store.write(beat), store.write(Broken), store.create_session(wanted(1, 2), at(0)));
    before.unwrap();
    assert!(matches!(broken, Err(StoreError::Database(_))));
    let session = after.unwrap().unwrap();
    assert!(store.find_session(ACCOUNT, session.uuid).await.unwrap().is_some());
    let beats = query("SELECT node FROM nodes").fetch_all(store.readers()).await.unwrap();
    assert_eq!(beats.len(), 1, "what the broken one wrote is undone");
}

/// SQLite ends a transaction by itself when the disk is full.
async fn the_store_goes_on_after_a_transaction_was_lost(database: &Database) {
    struct Lost;
    impl Write for Lost {
        type Done = ();
        async fn apply(&mut self, connection: &mut Connection) -> Result<(), StoreError> {
            query("ROLLBACK").execute(&mut *connection).await?;
            Err(StoreError::Corrupt("disk full"))
        }
    }
    let store = store(database, 1).await;
    for _ in 0..3 {
        let (lost, other) = tokio::join!(store.write(Lost), store.write(Run("SELECT 1")));
        assert!(matches!(lost, Err(StoreError::Corrupt("disk full"))));
        other.unwrap();
    }
    create(&store, wanted(1, 2), at(0)).await.unwrap();
}

async fn a_store_error_names_no_party_and_no_pin(database: &Database) {
    let store = store(database, 1).await;
    let session = create(&store, with_pins(wanted(1, 2), Some(("4711", "0815"))), at(0)).await.unwrap();
    let debug = format!("{session:?}");
    let (first, second) = (party(1), party(2));
    for secret in [first.digits(), second.digits(), "4711", "0815"] {
        assert!(!debug.contains(secret), "{debug}");
    }
    struct Twice(String);
    impl Write for Twice {
        type Done = ();
        async fn apply(&mut self, connection: &mut Connection) -> Result<(), StoreError> {
            query("UPDATE sessions SET first_party = 'x', first_party_pin = 'y', created_at = NULL WHERE uuid = $1")
                .bind(self.0.clone())
                .execute(connection)
                .await?;
            Ok(())
        }
    }
    let error = store.write(Twice(session.uuid.to_string())).await.unwrap_err().to_string();
    for secret in [first.digits(), second.digits(), "4711", "0815"] {
        assert!(!error.contains(secret), "{error}");
    }
}

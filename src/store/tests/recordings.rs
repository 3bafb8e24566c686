//! Recordings and lists of legs, on both databases.

use super::*;
use crate::store::{
    Delivered, LegCdr, LegFilter, LegOpened, NewRecording, RecordedCall, RecordingDone, RecordingFilter,
    RecordingState,
};
use media::Side;
use uuid::Uuid;

on_both!(tokio::test:
    a_recording_goes_its_way_once,
    the_days_of_a_place_are_known_apart,
    what_a_call_knows_of_its_recording,
    legs_are_filtered_and_live_ones_listed,
);

fn new(session: &MaskingSession, call: Uuid, directory: &str) -> NewRecording {
    NewRecording {
        interaction: Uuid::new_v4(),
        account: Some(ACCOUNT.into()),
        session: Some(session.uuid),
        call: Some(call),
        place: "here".into(),
        directory: directory.into(),
        format: RecordFormat::Mp3,
        added_at: at(100),
        started_at: None,
        samples: 8000,
        sample_rate_hz: 8000,
        complete: true,
    }
}

async fn a_recording_goes_its_way_once(database: &Database) {
    let store = store(database, 1).await;
    let session = store.create_session(wanted(1, 2), at(0)).await.unwrap().unwrap();
    // Without a number of the sub-account's own.
    store.write(Run("UPDATE sessions SET subaccount = 'SAONE'")).await.unwrap();
    let new = new(&session, Uuid::new_v4(), "2026/11/21/x");
    let uuid = new.interaction;
    for _ in 0..2 {
        store.add_recording(new.clone()).await.unwrap();
    }
    let due = store.due_recordings("here", at(100), 10).await.unwrap();
    assert_eq!((due.len(), &due[0].new, due[0].subaccount.as_deref()), (1, &new, Some("SAONE")));
    assert_eq!(store.due_recordings("here", at(99), 10).await.unwrap(), []);
    store.postpone_recording(uuid, 1, at(200)).await.unwrap();
    assert_eq!(store.due_recordings("here", at(199), 10).await.unwrap(), []);
    let delivered = Delivered {
        format: RecordFormat::Wav,
        samples: 7000,
        complete: false,
        bytes: 14_044,
        sha256: "ab".into(),
    };
    let done = RecordingDone {
        interaction: uuid,
        delivered: Some(delivered),
        at: Timestamp::UNIX_EPOCH,
        base: String::new(),
    };
    let stored = store.recording_done(done.clone()).await.unwrap().unwrap();
    assert_eq!(
        (stored.state, stored.new.format, stored.new.samples),
        (RecordingState::Ready, RecordFormat::Wav, 7000)
    );
    assert_eq!((stored.bytes, stored.new.complete), (Some(14_044), false));
    assert_eq!(store.recording_done(done).await.unwrap(), None);
    for (subaccount, count) in [(None, 1), (Some("SAONE"), 1), (Some("SATWO"), 0)] {
        let filter =
            RecordingFilter { subaccount: subaccount.map(str::to_owned), ..RecordingFilter::default() };
        assert_eq!(store.list_recordings(ACCOUNT, &filter, 20, 0).await.unwrap().1, count);
        assert_eq!(store.find_recording(ACCOUNT, subaccount, uuid).await.unwrap().is_some(), count == 1);
    }
    assert!(!store.delete_recording(ACCOUNT, Some("SATWO"), uuid, at(300)).await.unwrap());
    assert_eq!(store.expire_recordings("here", at(100), at(300)).await.unwrap(), 0);
    assert_eq!(store.expire_recordings("here", at(101), at(300)).await.unwrap(), 1);
    assert_eq!(store.due_recordings("here", at(300), 10).await.unwrap()[0].state, RecordingState::Deleted);
    store.recording_removed(uuid).await.unwrap();
    assert_eq!(store.due_recordings("here", Timestamp::MAX, 10).await.unwrap(), []);
    store.keep_place("here", "/one").await.unwrap();
    store.keep_place("here", "/two").await.unwrap();
    assert_eq!(store.place("here").await.unwrap().as_deref(), Some("/two"));
    assert_eq!(store.place("there").await.unwrap(), None);
}

async fn the_days_of_a_place_are_known_apart(database: &Database) {
    let store = store(database, 1).await;
    let session = store.create_session(wanted(1, 2), at(0)).await.unwrap().unwrap();
    let mut of_day = vec![];
    for day in ["2026/11/21", "2026/11/21", "2026/11/22", "2026/12/21"] {
        let mut new = new(&session, Uuid::new_v4(), "");
        new.directory = format!("{day}/{}", new.interaction);
        of_day.push(new.interaction);
        store.add_recording(new).await.unwrap();
    }
    let found = store.recordings_of_day("here", "2026/11/21").await.unwrap();
    assert_eq!(found, of_day[..2].iter().copied().collect());
    assert!(store.recordings_of_day("there", "2026/11/21").await.unwrap().is_empty());
}

fn leg(session: &MaskingSession, interaction: Uuid, side: Side, attempt: u8) -> LegOpened {
    LegOpened {
        interaction,
        leg: Uuid::new_v4(),
        session: Some(session.uuid),
        account: Some(ACCOUNT.into()),
        side,
        attempt,
        virtual_number: Some(session.virtual_number.clone()),
        party: Some(party(if side == Side::A { 1 } else { 2 })),
        role: None,
        trunk: "local".into(),
        started_at: at(50),
    }
}

async fn what_a_call_knows_of_its_recording(database: &Database) {
    let store = store(database, 1).await;
    let session = store.create_session(wanted(1, 2), at(0)).await.unwrap().unwrap();
    let interaction = Uuid::new_v4();
    assert_eq!(store.recorded_call(interaction).await.unwrap(), None);
    let a = leg(&session, interaction, Side::A, 0);
    let b: Vec<_> = (1..=3).map(|attempt| leg(&session, interaction, Side::B, attempt)).collect();
    for leg in [&a, &b[0], &b[1], &b[2]] {
        store.open_leg(leg.clone()).await.unwrap();
    }
    store.answer_leg(a.leg, at(61)).await.unwrap();
    let known = store.recorded_call(interaction).await.unwrap().unwrap();
    assert_eq!((known.a, known.b, known.bridged_at), (Some(a.leg), Some(b[0].leg), None));
    store.answer_leg(b[1].leg, at(60)).await.unwrap();
    let expected = RecordedCall {
        account: Some(ACCOUNT.into()),
        session: Some(session.uuid),
        format: Some(RecordFormat::Mp3),
        a: Some(a.leg),
        b: Some(b[1].leg),
        bridged_at: Some(at(61)),
    };
    assert_eq!(store.recorded_call(interaction).await.unwrap(), Some(expected));
}

async fn legs_are_filtered_and_live_ones_listed(database: &Database) {
    let store = store(database, 1).await;
    let session = store.create_session(wanted(1, 2), at(0)).await.unwrap().unwrap();
    // Without a number of the sub-account's own.
    store.write(Run("UPDATE sessions SET subaccount = 'SAONE'")).await.unwrap();
    let interaction = Uuid::new_v4();
    let (a, b) = (leg(&session, interaction, Side::A, 0), leg(&session, interaction, Side::B, 1));
    for leg in [&a, &b] {
        store.open_leg(leg.clone()).await.unwrap();
    }
    let live = async |subaccount| store.live_legs(ACCOUNT, subaccount, 20, 0).await.unwrap().len();
    assert_eq!((live(None).await, live(Some("SAONE")).await, live(Some("SATWO")).await), (2, 2, 0));
    let closed = |opened: &LegOpened, ended_at| LegCdr {
        opened: opened.clone(),
        ringing_at: None,
        answered_at: Some(at(60)),
        ended_at,
        hangup_cause_name: "Normal Hangup",
        hangup_cause_code: 4000,
        hangup_source: "Caller",
        sip_status: None,
        q850_cause: Some(16),
        packets_received: 0,
        packets_sent: 0,
        packets_lost: 0,
        jitter: 0,
        quality: None,
    };
    let cdr = Cdr {
        interaction,
        session: Some(session.uuid),
        virtual_number: Some(session.virtual_number.clone()),
        started_at: at(50),
        ended_at: at(90),
        recording: None,
        events: vec![],
        legs: vec![closed(&a, at(90)), closed(&b, at(70))],
    };
    store.close_call(cdr).await.unwrap();
    assert_eq!(live(None).await, 0);
    let any = LegFilter::default;
    let time = |from, until| TimeRange { from: Some(at(from)), until: Some(at(until)) };
    let number = session.virtual_number.digits().to_owned();
    for (filter, expected) in [
        (any(), 2),
        (LegFilter { subaccount: Some("SATWO".into()), ..any() }, 0),
        (LegFilter { session: Some(session.uuid), ..any() }, 2),
        (LegFilter { session: Some(interaction), ..any() }, 0),
        (LegFilter { parent: Some(a.leg), ..any() }, 1),
        (LegFilter { direction: Some("inbound"), ..any() }, 1),
        (LegFilter { direction: Some("outbound"), from_number: Some(number.clone()), ..any() }, 1),
        (LegFilter { from_number: Some(party(1).digits().into()), to_number: Some(number), ..any() }, 1),
        (LegFilter { hangup_cause_code: Some(4000), hangup_source: Some("CALLER".into()), ..any() }, 2),
        (LegFilter { hangup_source: Some("callee".into()), ..any() }, 0),
        (LegFilter { talk_s: (Some(10), Some(10)), ..any() }, 1),
        (LegFilter { talk_s: (Some(11), None), ..any() }, 1),
        (LegFilter { started: time(50, 51), answered: time(60, 61), ended: time(90, 91), ..any() }, 1),
        (LegFilter { started: time(51, 99), ..any() }, 0),
    ] {
        let (legs, total) = store.find_legs(ACCOUNT, &filter, 20, 0).await.unwrap();
        assert_eq!((legs.len(), total), (expected, expected as u64), "{filter:?}");
    }
    assert!(store.leg_of(ACCOUNT, Some("SAONE"), a.leg).await.unwrap().is_some());
    assert!(store.leg_of(ACCOUNT, Some("SATWO"), a.leg).await.unwrap().is_none());
}

//! The outbox: numbers, order, leases, dead letters, replay.

use super::calls::open_call;
use super::*;
use crate::callbacks::event::{CallEvent, Happening, RecordingFacts, Subject};
use crate::masking::session::PartyRole;

on_both!(tokio::test:
    events_are_numbered_per_session_and_leave_one_by_one,
    a_repeated_report_changes_nothing,
    a_stream_has_one_sender_until_its_lease_runs_out,
    what_comes_while_the_last_event_is_sent_follows_at_once,
    recording_events_wait_for_no_other_receiver,
    a_session_without_url_has_no_events_and_an_accounts_are_kept,
    an_expired_session_is_told_once_and_a_deleted_one_never,
    the_end_of_a_call_whose_process_died_is_told,
    a_dead_event_is_replayed_to_the_url_of_today,
    a_finished_recording_is_told_with_the_numbers_of_its_call,
    old_events_go_and_the_count_stays,
);

const URL: &str = "https://app.example/cb";

pub(super) fn told(first: usize, second: usize) -> NewSession {
    NewSession { callback_url: URL.into(), ..wanted(first, second) }
}

pub(super) fn event(
    session: &MaskingSession,
    interaction: Uuid,
    happening: Happening,
    second: i64,
) -> CallEvent {
    let subject = Subject { calls: true, recordings: true, ..Subject::of(session) };
    CallEvent {
        interaction: Some(interaction),
        from: session.first_party.clone(),
        to: session.second_party.clone(),
        virtual_number: Some(session.virtual_number.clone()),
        ..CallEvent::new(interaction, 0, &subject, happening, at(second))
    }
}

async fn note(store: &Store, events: Vec<CallEvent>) {
    store.note(events.into_iter().map(|event| Note::Event(Box::new(event))).collect()).unwrap();
    all_is_written(store).await;
}

async fn answers(store: &Store, session: &MaskingSession, interaction: Uuid) {
    let one = event(session, interaction, Happening::Answered(PartyRole::First), 10);
    let other = event(session, interaction, Happening::Answered(PartyRole::Second), 10);
    note(store, vec![one, other]).await;
}

async fn listed(store: &Store, filter: EventFilter) -> Vec<(String, u64, EventState)> {
    let (events, total) = store.list_events(ACCOUNT, &filter, 20, 0).await.unwrap();
    assert_eq!(events.len() as u64, total);
    let mut rows: Vec<_> =
        events.into_iter().map(|event| (event.name, event.sequence, event.state)).collect();
    rows.sort_by_key(|(_, sequence, _)| *sequence);
    rows
}

fn stream(session: &MaskingSession, channel: &str) -> Stream {
    Stream { session: session.uuid, channel: channel.into() }
}

fn lease(owner: u128, until: i64) -> Lease {
    Lease { owner: Uuid::from_u128(owner), until: at(until) }
}

const TAKEN: Attempt = Attempt::Delivered { status: 200 };

fn failed(retry_at: Option<i64>) -> Attempt {
    Attempt::Failed { status: Some(500), reason: "no", retry_at: retry_at.map(at) }
}

async fn events_are_numbered_per_session_and_leave_one_by_one(database: &Database) {
    let store = store(database, 2).await;
    let one = create(&store, told(1, 2), at(0)).await.unwrap();
    let other = create(&store, told(3, 4), at(0)).await.unwrap();
    answers(&store, &one, Uuid::new_v4()).await;
    answers(&store, &other, Uuid::new_v4()).await;
    assert_eq!(store.due_hosts(at(20), 9).await.unwrap(), ["app.example"]);
    assert_eq!(store.due_streams("app.example", at(20), 9).await.unwrap().len(), 2);
    let first = store.claim_stream(stream(&one, "call"), lease(1, 50), at(20)).await.unwrap().unwrap();
    assert_eq!((first.name.as_str(), first.sequence), ("SessionFirstPartyAnswer", 1));
    let sent = first.sent("https://h");
    let of = |name: &str| sent.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    assert_eq!(of("From"), Some(party(1).digits()));
    assert_eq!(of("SequenceNumber"), Some("1"));
    assert!(!format!("{first:?}").contains(party(1).digits()), "an event does not print its numbers");
    let second = store.settle_event(stream(&one, "call"), lease(1, 60), first.uuid, TAKEN, at(21)).await;
    let second = second.unwrap().unwrap();
    assert_eq!((second.name.as_str(), second.sequence), ("SessionSecondPartyAnswer", 2));
    let rest = store.settle_event(stream(&one, "call"), lease(1, 60), second.uuid, TAKEN, at(22)).await;
    assert_eq!(rest.unwrap(), None);
    assert_eq!(store.due_streams("app.example", at(99), 9).await.unwrap(), [stream(&other, "call")]);
    assert_eq!(store.pending_events().await.unwrap(), 2);
    let delivered = EventFilter { state: Some(EventState::Delivered), ..EventFilter::default() };
    assert_eq!(listed(&store, delivered).await.len(), 2);
}

async fn a_repeated_report_changes_nothing(database: &Database) {
    let store = store(database, 1).await;
    let session = create(&store, told(1, 2), at(0)).await.unwrap();
    let interaction = Uuid::new_v4();
    answers(&store, &session, interaction).await;
    answers(&store, &session, interaction).await;
    let of = EventFilter { session: Some(session.uuid), ..EventFilter::default() };
    assert_eq!(
        listed(&store, of).await,
        [
            ("SessionFirstPartyAnswer".into(), 1, EventState::Pending),
            ("SessionSecondPartyAnswer".into(), 2, EventState::Pending)
        ]
    );
}

async fn a_stream_has_one_sender_until_its_lease_runs_out(database: &Database) {
    let store = store(database, 1).await;
    let session = create(&store, told(1, 2), at(0)).await.unwrap();
    answers(&store, &session, Uuid::new_v4()).await;
    let claim = async |owner, until, now| {
        store.claim_stream(stream(&session, "call"), lease(owner, until), at(now)).await.unwrap()
    };
    let settle = async |owner, event, attempt, now| {
        store.settle_event(stream(&session, "call"), lease(owner, 80), event, attempt, at(now)).await.unwrap()
    };
    let first = claim(1, 50, 20).await.unwrap();
    assert_eq!(claim(2, 60, 49).await, None, "somebody sends it");
    assert_eq!(store.due_hosts(at(49), 9).await.unwrap(), Vec::<String>::new());
    let again = claim(2, 60, 50).await.unwrap();
    assert_eq!(again.uuid, first.uuid, "whoever had it has died");
    assert_eq!(settle(1, first.uuid, failed(None), 51).await, None, "it lives and is too late");
    assert_eq!(settle(2, first.uuid, failed(Some(70)), 52).await, None);
    assert_eq!(claim(1, 90, 69).await, None, "the pause after a failure");
    let retried = claim(1, 90, 70).await.unwrap();
    assert_eq!((retried.uuid, retried.attempts, retried.http_status), (first.uuid, 1, Some(500)));
    let next = settle(1, first.uuid, failed(None), 71).await.unwrap();
    assert_eq!((next.sequence, next.attempts), (2, 0), "a dead one holds nobody back");
}

async fn what_comes_while_the_last_event_is_sent_follows_at_once(database: &Database) {
    let store = store(database, 1).await;
    let session = create(&store, told(1, 2), at(0)).await.unwrap();
    let interaction = Uuid::new_v4();
    note(&store, vec![event(&session, interaction, Happening::Answered(PartyRole::First), 10)]).await;
    let claimed = store.claim_stream(stream(&session, "call"), lease(1, 50), at(20)).await.unwrap().unwrap();
    note(&store, vec![event(&session, interaction, Happening::SecondPartyRings, 21)]).await;
    let next = store.settle_event(stream(&session, "call"), lease(1, 60), claimed.uuid, TAKEN, at(22)).await;
    assert_eq!(next.unwrap().map(|event| event.sequence), Some(2));
}

async fn recording_events_wait_for_no_other_receiver(database: &Database) {
    let store = store(database, 2).await;
    let apart = NewSession { recording_callback_url: "https://rec.example:8443/r".into(), ..told(1, 2) };
    let apart = create(&store, apart, at(0)).await.unwrap();
    let alike = NewSession { recording_callback_url: URL.into(), ..told(3, 4) };
    let alike = create(&store, alike, at(0)).await.unwrap();
    for session in [&apart, &alike] {
        answers(&store, session, Uuid::new_v4()).await;
        note(&store, vec![event(session, Uuid::new_v4(), Happening::RecordingInitiated, 11)]).await;
    }
    assert_eq!(
        store.due_streams("rec.example:8443", at(20), 9).await.unwrap(),
        [stream(&apart, "recording")]
    );
    let recording = store.claim_stream(stream(&apart, "recording"), lease(1, 50), at(20)).await.unwrap();
    assert_eq!(recording.map(|event| event.sequence), Some(3), "one count for both");
    let of = EventFilter { session: Some(alike.uuid), ..EventFilter::default() };
    assert_eq!(listed(&store, of).await.len(), 3);
    assert_eq!(store.claim_stream(stream(&alike, "recording"), lease(1, 50), at(20)).await.unwrap(), None);
}

async fn a_session_without_url_has_no_events_and_an_accounts_are_kept(database: &Database) {
    let store = store(database, 1).await;
    let session = create(&store, wanted(1, 2), at(0)).await.unwrap();
    answers(&store, &session, Uuid::new_v4()).await;
    assert_eq!(listed(&store, EventFilter::default()).await, []);
    let subject = Subject::account(ACCOUNT.into());
    let happening = Happening::Pin { status: crate::callbacks::event::PinStatus::Failed, retries: 0 };
    let kept = CallEvent::new(Uuid::new_v4(), 0, &subject, happening, at(1));
    note(&store, vec![kept]).await;
    assert_eq!(
        listed(&store, EventFilter::default()).await,
        [("SessionPinAuthenticationStatus".into(), 0, EventState::Kept)]
    );
    assert_eq!(store.due_hosts(at(99), 9).await.unwrap(), Vec::<String>::new());
    let other = store.list_events("MAOTHER", &EventFilter::default(), 20, 0).await.unwrap();
    assert_eq!(other, (vec![], 0), "another account's list");
    let of_sub = EventFilter { subaccount: Some("SA".into()), ..EventFilter::default() };
    assert_eq!(listed(&store, of_sub).await, [], "a sub-account's list");
}

async fn an_expired_session_is_told_once_and_a_deleted_one_never(database: &Database) {
    let store = store(database, 2).await;
    let session = create(&store, told(1, 2), at(0)).await.unwrap();
    let deleted = create(&store, told(3, 4), at(0)).await.unwrap();
    store.expire_session(ACCOUNT, deleted.uuid, at(5)).await.unwrap().unwrap();
    assert_eq!(store.report_expiries(at(3599)).await.unwrap(), 0);
    assert_eq!(store.report_expiries(at(3600)).await.unwrap(), 1);
    assert_eq!(store.report_expiries(at(9999)).await.unwrap(), 0);
    let (events, _) = store.list_events(ACCOUNT, &EventFilter::default(), 20, 0).await.unwrap();
    assert_eq!(events.len(), 1);
    assert_eq!((events[0].name.as_str(), events[0].session), ("SessionTimeout", Some(session.uuid)));
    assert_eq!(events[0].happened_at, at(3600));
}

async fn the_end_of_a_call_whose_process_died_is_told(database: &Database) {
    let before = store(database, 1).await;
    let session = create(&before, told(1, 2), at(0)).await.unwrap();
    before.heartbeat(at(50)).await.unwrap();
    let (a, b) = open_call(&before, &session, at(60)).await;
    before.answer_leg(a.leg, at(61)).await.unwrap();
    before.answer_leg(b.leg, at(61)).await.unwrap();
    before.heartbeat(at(70)).await.unwrap();
    before.close().await;

    let after = Store::open(&database.url()).await.unwrap();
    after.close_orphans(at(500)).await.unwrap();
    let of = EventFilter { session: Some(session.uuid), ..EventFilter::default() };
    let (events, _) = after.list_events(ACCOUNT, &of, 20, 0).await.unwrap();
    let names: Vec<_> = events.iter().rev().map(|event| event.name.as_str()).collect();
    assert_eq!(names, ["SessionFirstPartyHangup", "SessionSecondPartyHangup", "SessionPartiesHangup"]);
    let over = events[0].sent("https://h");
    let of = |name: &str| over.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    assert_eq!((of("From"), of("To")), (Some(party(1).digits()), Some(party(2).digits())));
    assert_eq!((of("Duration"), of("BilledDuration")), (Some("18"), Some("120")), "nine seconds each");
    assert_eq!(of("PlivoHangupCauseCode"), Some("5010"));
}

async fn a_dead_event_is_replayed_to_the_url_of_today(database: &Database) {
    let store = store(database, 1).await;
    let session = create(&store, told(1, 2), at(0)).await.unwrap();
    answers(&store, &session, Uuid::new_v4()).await;
    let claimed = store.claim_stream(stream(&session, "call"), lease(1, 50), at(20)).await.unwrap().unwrap();
    assert!(!store.replay_event(ACCOUNT, None, claimed.uuid, at(20)).await.unwrap(), "it still waits");
    let next = store.settle_event(stream(&session, "call"), lease(1, 50), claimed.uuid, failed(None), at(21));
    let next = next.await.unwrap().unwrap();
    store.settle_event(stream(&session, "call"), lease(1, 50), next.uuid, TAKEN, at(22)).await.unwrap();
    let update =
        SessionUpdate { callback_url: Some("http://new.example:81/cb".into()), ..Default::default() };
    store.update_session(ACCOUNT, session.uuid, update, at(30)).await.unwrap().unwrap();
    assert!(!store.replay_event("MAOTHER", None, claimed.uuid, at(31)).await.unwrap());
    assert!(!store.replay_event(ACCOUNT, Some("SA"), claimed.uuid, at(31)).await.unwrap());
    let of = EventFilter { session: Some(session.uuid), ..EventFilter::default() };
    assert_eq!(store.replay_dead_events(ACCOUNT, of, at(31)).await.unwrap(), 1);
    assert_eq!(store.replay_dead_events(ACCOUNT, EventFilter::default(), at(31)).await.unwrap(), 0);
    assert_eq!(
        store.due_streams("new.example:81", at(31), 9).await.unwrap(),
        [stream(&session, "call")],
        "by the new receiver"
    );
    let again = store.claim_stream(stream(&session, "call"), lease(1, 60), at(32)).await.unwrap().unwrap();
    assert_eq!((again.uuid, again.attempts), (claimed.uuid, 0));
    assert_eq!(again.url, "http://new.example:81/cb");
    assert!(store.replay_event(ACCOUNT, None, next.uuid, at(33)).await.unwrap(), "a delivered one, too");
}

async fn a_finished_recording_is_told_with_the_numbers_of_its_call(database: &Database) {
    let store = store(database, 1).await;
    let told = NewSession { recording_callback_url: "https://rec.example/r".into(), ..told(1, 2) };
    let session = create(&store, told, at(0)).await.unwrap();
    let (a, _) = open_call(&store, &session, at(60)).await;
    let facts = RecordingFacts {
        interaction: a.interaction,
        url: "/v1/x.mp3".into(),
        resource_url: "https://h/x/".into(),
        duration: Duration::from_secs(20),
        started_at: at(62),
        format: RecordFormat::Mp3,
    };
    for _ in ["once", "again"] {
        let (interaction, facts) = (a.interaction, Some(facts.clone()));
        store.report_recording(RecordingReport { interaction, at: at(90), facts }).await.unwrap();
    }
    let (events, total) = store.list_events(ACCOUNT, &EventFilter::default(), 20, 0).await.unwrap();
    assert_eq!((total, events[0].name.as_str()), (1, "SessionRecordingCompleted"));
    assert_eq!(events[0].url, "https://rec.example/r");
    let sent = events[0].sent("https://h");
    let of = |name: &str| sent.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    assert_eq!((of("From"), of("To")), (Some(party(1).digits()), Some(party(2).digits())));
    assert_eq!(of("RecordingURL"), Some("https://h/v1/x.mp3"));
    assert_eq!(of("RecordingUUID"), Some(a.interaction.to_string().as_str()));
}

async fn old_events_go_and_the_count_stays(database: &Database) {
    let store = store(database, 1).await;
    let session = create(&store, told(1, 2), at(0)).await.unwrap();
    answers(&store, &session, Uuid::new_v4()).await;
    let claimed = store.claim_stream(stream(&session, "call"), lease(1, 50), at(20)).await.unwrap().unwrap();
    store.settle_event(stream(&session, "call"), lease(1, 50), claimed.uuid, TAKEN, at(21)).await.unwrap();
    let day = 86_400;
    assert!(!store.prune_events(at(6 * day)).await.unwrap());
    assert_eq!(listed(&store, EventFilter::default()).await.len(), 2);
    assert!(!store.prune_events(at(8 * day)).await.unwrap());
    assert_eq!(listed(&store, EventFilter::default()).await.len(), 1, "what waits is not thrown away");
    note(&store, vec![event(&session, Uuid::new_v4(), Happening::SecondPartyRings, 30)]).await;
    assert_eq!(listed(&store, EventFilter::default()).await.last().unwrap().1, 3);
}

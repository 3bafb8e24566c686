//! Lock-outs of guessers, as applications are told of them.

use super::*;
use crate::masking::guessing::Bucket;
use crate::masking::session::PartyRole;

on_both!(tokio::test:
    a_lock_out_is_told_once_and_names_nobody,
    of_a_number_its_first_pause_and_its_end_are_told,
    what_may_be_meant_for_several_sessions_is_kept_for_the_account,
    a_forced_party_that_is_locked_out_is_told_to_its_session,
);

const URL: &str = "https://app.example/cb";

fn told(first: usize, second: usize) -> NewSession {
    let pins = [("4711", "0815"), ("2222", "3333")][first % 2];
    with_pins(NewSession { callback_url: URL.into(), ..wanted(first, second) }, Some(pins))
}

fn of_caller(session: &MaskingSession) -> Vec<Bucket> {
    let did = session.virtual_number.clone();
    vec![Bucket::Caller(party(77)), Bucket::Number { did, pin_sessions: 1 }]
}

/// Guesses once a second; says how often it was judged.
async fn guess(store: &Store, buckets: &[Bucket], from: i64, times: i64) -> usize {
    let mut judged = 0;
    for second in from..from + times {
        let verdict = store.count_guess(buckets.to_vec(), at(second)).await.unwrap();
        judged += usize::from(verdict == Verdict::Judge);
    }
    judged
}

/// Whom the events are about, until when, after how many entries; oldest first.
async fn lock_outs(store: &Store) -> Vec<(StoredEvent, String)> {
    let (events, _) = store.list_events(ACCOUNT, &EventFilter::default(), 20, 0).await.unwrap();
    let shown = |event: StoredEvent| {
        assert_eq!(event.name, "SessionPinLockedOut");
        let of = |name: &str| event.parameters.iter().find(|(key, _)| key == name).unwrap().1.clone();
        let text = format!("{} {} {}", of("LockedOut"), of("WrongEntries"), of("LockedOutUntil"));
        assert_eq!((of("From"), of("To")), (String::new(), String::new()));
        (event, text)
    };
    events.into_iter().rev().map(shown).collect()
}

fn time(second: i64) -> String {
    at(second).strftime("%Y-%m-%d %H:%M:%S +0000 UTC").to_string()
}

const DAY: i64 = 24 * 3600;

async fn a_lock_out_is_told_once_and_names_nobody(database: &Database) {
    let store = store(database, 1).await;
    let long = NewSession { expiry: 50 * HOUR, ..told(1, 2) };
    let session = create(&store, long, at(0)).await.unwrap();
    assert_eq!(guess(&store, &of_caller(&session), 0, 10).await, 10);
    assert_eq!(lock_outs(&store).await, [], "the tenth may still be right");
    assert_eq!(guess(&store, &of_caller(&session), 10, 30).await, 0);
    let told = lock_outs(&store).await;
    let [(event, text)] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!(*text, format!("caller 10 {}", time(DAY)));
    assert_eq!((event.session, event.sequence, event.url.as_str()), (Some(session.uuid), 1, URL));
    let sent = format!("{:?}", event.sent(""));
    for secret in [party(1).digits(), party(2).digits(), party(77).digits(), "4711", "0815", "2222", "3333"] {
        assert!(!sent.contains(secret), "{sent}");
    }
    assert!(sent.contains(session.virtual_number.digits()));
    // The next day is another window.
    assert_eq!(guess(&store, &of_caller(&session), DAY, 20).await, 10);
    assert_eq!(lock_outs(&store).await.len(), 2);
}

async fn of_a_number_its_first_pause_and_its_end_are_told(database: &Database) {
    let store = store(database, 1).await;
    let session = create(&store, NewSession { expiry: 20 * HOUR, ..told(1, 2) }, at(0)).await.unwrap();
    let number = [Bucket::Number { did: session.virtual_number.clone(), pin_sessions: 10 }];
    assert_eq!(guess(&store, &number, 0, 4).await, 3);
    let pause = format!("strangers 3 {}", time(62));
    let texts = async || lock_outs(&store).await.into_iter().map(|(_, text)| text).collect::<Vec<_>>();
    assert_eq!(texts().await, std::slice::from_ref(&pause));
    // Further pauses of the same day bring nothing new.
    for (from, judged) in [(10, 0), (70, 1), (80, 0), (600, 1), (610, 0)] {
        assert_eq!(guess(&store, &number, from, 1).await, judged, "{from}");
        assert_eq!(texts().await.len(), 1);
    }
    assert_eq!(guess(&store, &number, 5000, 3).await, 1);
    assert_eq!(texts().await, [pause, format!("strangers 6 {}", time(DAY))]);
    assert_eq!(guess(&store, &number, 6000, 30).await, 0);
    assert_eq!(texts().await.len(), 2);
}

async fn what_may_be_meant_for_several_sessions_is_kept_for_the_account(database: &Database) {
    let store = store(database, 1).await;
    let one = create(&store, told(1, 2), at(0)).await.unwrap();
    let other = create(&store, told(4, 5), at(0)).await.unwrap();
    assert_eq!(one.virtual_number, other.virtual_number);
    guess(&store, &of_caller(&one), 0, 12).await;
    let told = lock_outs(&store).await;
    let [(event, _)] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!((event.session, event.state, event.url.as_str()), (None, EventState::Kept, ""));
    // One that wants to know nothing is not told; the account can look.
    store.expire_session(ACCOUNT, one.uuid, at(20)).await.unwrap().unwrap();
    let silent = SessionUpdate { callback_url: Some(String::new()), ..SessionUpdate::default() };
    store.update_session(ACCOUNT, other.uuid, silent, at(20)).await.unwrap().unwrap();
    let number = [Bucket::Number { did: one.virtual_number.clone(), pin_sessions: 60 }];
    guess(&store, &number, 21, 20).await;
    let told = lock_outs(&store).await;
    assert_eq!((told.len(), told[1].0.session, told[1].0.state), (2, None, EventState::Kept));
    // Without any session nobody's PIN is guessed.
    store.expire_session(ACCOUNT, other.uuid, at(50)).await.unwrap().unwrap();
    guess(&store, &[Bucket::Anonymous("t".into()), number[0].clone()], 2 * DAY, 30).await;
    assert_eq!(lock_outs(&store).await.len(), 2);
}

async fn a_forced_party_that_is_locked_out_is_told_to_its_session(database: &Database) {
    let store = store(database, 1).await;
    let session = create(&store, told(1, 2), at(0)).await.unwrap();
    create(&store, told(4, 5), at(0)).await.unwrap();
    let forced = [Bucket::Forced(session.uuid, PartyRole::First)];
    assert_eq!(guess(&store, &forced, 0, 15).await, 10);
    let told = lock_outs(&store).await;
    let [(event, text)] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!(
        (event.session, text.as_str()),
        (Some(session.uuid), format!("party 10 {}", time(DAY)).as_str())
    );
}

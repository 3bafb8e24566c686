//! Pauses, and the courier against a receiver on loopback.

use super::*;
use crate::masking::session::HttpMethod;
use crate::store::EventState;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

fn event(attempts: u32) -> StoredEvent {
    StoredEvent {
        uuid: Uuid::nil(),
        account: "MA".into(),
        subaccount: None,
        session: None,
        sequence: 1,
        name: "SessionTimeout".into(),
        happened_at: at(0),
        parameters: vec![],
        url: String::new(),
        method: HttpMethod::Post,
        state: EventState::Pending,
        attempts,
        tried_at: None,
        settled_at: None,
        http_status: None,
        failure: None,
        give_up_at: at(86_400),
    }
}

#[test]
fn pauses_double_from_a_second_to_ten_minutes() {
    let pause = |attempts, jitter| {
        let retry = retry_at(&event(attempts), at(0), jitter).unwrap();
        retry.duration_since(at(0)).as_millis()
    };
    assert_eq!((0..4).map(|attempts| pause(attempts, 0.5)).collect::<Vec<_>>(), [1000, 2000, 4000, 8000]);
    assert_eq!((pause(0, 1.0), pause(8, 1.0)), (2000, 512_000));
    for attempts in [9, 10, 100, u32::MAX] {
        assert_eq!((pause(attempts, 0.5), pause(attempts, 1.0)), (300_000, 600_000), "{attempts}");
    }
}

#[test]
fn an_event_is_given_up_after_a_day_but_not_before_it_was_tried_five_times() {
    assert!(retry_at(&event(150), at(86_399), 1.0).is_some());
    assert!(retry_at(&event(150), at(86_400), 1.0).is_none());
    assert!(retry_at(&event(3), at(100_000), 1.0).is_some(), "the fourth attempt has failed");
    assert!(retry_at(&event(4), at(100_000), 1.0).is_none(), "the fifth");
}

#[test]
fn a_receiver_that_fails_gets_one_delivery_at_a_time() {
    assert_eq!(Receiver { running: 3, failing: false }.room(), PER_HOST - 3);
    assert_eq!(Receiver { running: 0, failing: true }.room(), 1);
    assert_eq!(Receiver { running: 4, failing: true }.room(), 0);
}

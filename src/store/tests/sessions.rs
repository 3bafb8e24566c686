//! Sessions: allocation, change, end, look-up and list.

use std::collections::BTreeMap;

use super::calls::open_call;
use super::*;
use crate::masking::allocate::{StrangerLoad, prefix_free};
use crate::masking::session::PartyRole;

on_both!(tokio::test:
    a_session_is_read_back_as_it_was_made,
    each_party_finds_its_session_and_strangers_find_none,
    a_session_ends_at_its_expiry_to_the_microsecond,
    numbers_are_given_by_first_fit,
    the_same_pair_twice_gets_a_second_number,
    a_number_rests_for_everybody_after_expiry_and_after_deletion,
    geomatch_keeps_to_the_country_of_the_known_party,
    pin_sessions_spread_and_those_that_do_not_fit_go_elsewhere,
    a_number_carries_sixteen_sessions_with_four_digits,
    one_session_per_number_takes_whoever_dials,
    a_single_party_session_becomes_an_ordinary_one,
    a_message_for_strangers_is_found_where_no_session_takes_them,
    an_update_counts_its_expiry_from_itself_and_a_deletion_keeps_the_plan,
    a_number_that_left_the_configuration_takes_nothing_and_its_sessions_stay,
    an_account_gets_its_own_numbers_only,
    lists_filter_page_and_count,
    a_count_by_hours_is_the_count_of_the_sessions,
    a_change_of_a_session_is_seen_by_the_next_call,
    the_sums_of_numbers_are_those_of_their_sessions,
    a_sum_that_is_wrong_neither_fills_a_number_too_much_nor_keeps_it_empty,
    sessions_of_the_past_are_listed_alike_before_and_after_somebody_noticed,
);
on_both!(tokio::test(flavor = "multi_thread", worker_threads = 2):
    concurrent_creates_never_give_a_caller_two_sessions_on_a_number,
);

async fn a_session_is_read_back_as_it_was_made(database: &Database) {
    let store = store(database, 2).await;
    let [its, own] = [("SA", 0), ("", 1)].map(|(subaccount, index)| {
        let number = numbers(2).swap_remove(index);
        (number, (!subaccount.is_empty()).then(|| subaccount.to_owned()))
    });
    store.sync_assigned_numbers(vec![its, own]).await.unwrap();
    let full = NewSession {
        subaccount: Some("SA".into()),
        recording_callback_url: "http://a/r".into(),
        recording_callback_method: HttpMethod::Get,
        callback_url: "http://a/c".into(),
        first_party_play_url: "http://a/1.wav".into(),
        second_party_play_url: "http://a/2.wav".into(),
        unknown_caller_play: "http://a/u.wav".into(),
        record: false,
        record_file_format: RecordFormat::Wav,
        geomatch: false,
        single_party: Some(false),
        cooloff: Duration::from_secs(60),
        ..with_pins(wanted(1, 2), Some(("1234", "567890")))
    };
    let odd = Timestamp::from_nanosecond(1_700_000_000_123_456_789).unwrap();
    let made = create(&store, full, odd).await.unwrap();
    assert_eq!(store.find_session(ACCOUNT, made.uuid).await.unwrap(), Some(made.clone()));
    assert_eq!(store.find_session("MAOTHER", made.uuid).await.unwrap(), None, "another account's");
    assert_eq!(store.find_session(ACCOUNT, Uuid::new_v4()).await.unwrap(), None);
    let plain = create(&store, wanted(3, 4), odd).await.unwrap();
    assert_eq!(store.find_session(ACCOUNT, plain.uuid).await.unwrap(), Some(plain));
}

async fn each_party_finds_its_session_and_strangers_find_none(database: &Database) {
    let store = store(database, 1).await;
    let session = create(&store, wanted(1, 2), at(0)).await.unwrap();
    for caller in [party(1), party(2)] {
        let route = store.find_route(&did(0), Some(&caller), at(1)).await.unwrap().unwrap();
        assert_eq!((route.number.trunk.as_str(), route.sessions), ("local", vec![Arc::new(session.clone())]));
    }
    for caller in [Some(party(3)), None] {
        let route = store.find_route(&did(0), caller.as_ref(), at(1)).await.unwrap().unwrap();
        assert_eq!(route.sessions, []);
    }
    assert_eq!(store.find_route(&did(1), Some(&party(1)), at(1)).await.unwrap(), None, "not ours");
}

async fn a_session_ends_at_its_expiry_to_the_microsecond(database: &Database) {
    let store = store(database, 1).await;
    let session = create(&store, wanted(1, 2), at(0)).await.unwrap();
    let found = async |now| {
        !store.find_route(&did(0), Some(&party(1)), now).await.unwrap().unwrap().sessions.is_empty()
    };
    let last = Timestamp::from_microsecond(session.expires_at.as_microsecond() - 1).unwrap();
    assert!(found(last).await && !found(session.expires_at).await);
    assert_eq!(number_of(&store, wanted(1, 3), last).await, Err(Refusal::Exhausted));
    assert_eq!(number_of(&store, wanted(1, 3), session.expires_at).await, Ok(did(0)));
}

async fn numbers_are_given_by_first_fit(database: &Database) {
    let store = store(database, 3).await;
    for (parties, number) in [((1, 2), 0), ((3, 4), 0), ((1, 3), 1), ((2, 4), 1), ((5, 1), 2), ((6, 7), 0)] {
        let given = number_of(&store, wanted(parties.0, parties.1), at(0)).await;
        assert_eq!(given, Ok(did(number)), "{parties:?}");
    }
    assert_eq!(number_of(&store, wanted(1, 9), at(0)).await, Err(Refusal::Exhausted), "1 is on all three");
    assert_eq!(number_of(&store, wanted(2, 1), at(3600)).await, Ok(did(0)), "all have expired");
}

async fn the_same_pair_twice_gets_a_second_number(database: &Database) {
    let store = store(database, 2).await;
    assert_eq!(number_of(&store, wanted(1, 2), at(0)).await, Ok(did(0)));
    assert_eq!(number_of(&store, wanted(2, 1), at(0)).await, Ok(did(1)));
    assert_eq!(number_of(&store, wanted(1, 2), at(0)).await, Err(Refusal::Exhausted));
}

async fn a_number_rests_for_everybody_after_expiry_and_after_deletion(database: &Database) {
    let store = store(database, 1).await;
    let cool = NewSession { cooloff: Duration::from_secs(600), ..wanted(1, 2) };
    let session = create(&store, cool.clone(), at(0)).await.unwrap();
    assert!(number_of(&store, wanted(3, 4), at(10)).await.is_ok(), "it does not rest before the end");
    store.expire_session(ACCOUNT, session.uuid, at(100)).await.unwrap().unwrap();
    assert_eq!(number_of(&store, wanted(5, 6), at(100)).await, Err(Refusal::Exhausted));
    assert_eq!(number_of(&store, wanted(5, 6), at(699)).await, Err(Refusal::Exhausted));
    assert_eq!(number_of(&store, wanted(5, 6), at(700)).await, Ok(did(0)));
    let session = create(&store, cool, at(20_000)).await.unwrap();
    let end = session.expires_at.as_second() - at(0).as_second();
    assert_eq!(number_of(&store, wanted(7, 8), at(end + 599)).await, Err(Refusal::Exhausted));
    assert_eq!(number_of(&store, wanted(7, 8), at(end + 600)).await, Ok(did(0)));
}

async fn geomatch_keeps_to_the_country_of_the_known_party(database: &Database) {
    let store = store(database, 1).await;
    let indian = E164::parse("919876543210").unwrap();
    let abroad = NewSession { first_party: Some(indian.clone()), ..wanted(1, 2) };
    assert_eq!(number_of(&store, abroad.clone(), at(0)).await, Err(Refusal::NoNumberInCountry("IN".into())));
    let second = NewSession {
        first_party: None,
        second_party: Some(indian.clone()),
        single_party: Some(true),
        ..wanted(1, 2)
    };
    assert_eq!(number_of(&store, second, at(0)).await, Err(Refusal::NoNumberInCountry("IN".into())));
    let at_home = NewSession { second_party: Some(indian), ..wanted(1, 2) };
    assert_eq!(number_of(&store, at_home, at(0)).await, Ok(did(0)), "the second party does not matter");
    let anywhere = NewSession { geomatch: false, first_party: E164::parse("919000000001"), ..wanted(7, 8) };
    assert_eq!(number_of(&store, anywhere, at(0)).await, Ok(did(0)));
}

async fn pin_sessions_spread_and_those_that_do_not_fit_go_elsewhere(database: &Database) {
    let store = store(database, 2).await;
    let given = |pins| with_pins(wanted(0, 0), Some(pins));
    let mut next = 10;
    let mut put = async |session: NewSession, now| {
        next += 2;
        let session =
            NewSession { first_party: Some(party(next)), second_party: Some(party(next + 1)), ..session };
        number_of(&store, session, now).await
    };
    assert_eq!(put(given(("1111", "2222")), at(0)).await, Ok(did(0)));
    assert_eq!(put(given(("3333", "4444")), at(0)).await, Ok(did(1)), "the fewest PIN sessions");
    assert_eq!(put(given(("33335", "5555")), at(0)).await, Ok(did(0)), "3333 begins it on the other");
    assert_eq!(put(given(("1111", "6666")), at(0)).await, Ok(did(1)));
    assert_eq!(
        put(given(("11118", "7777")), at(0)).await,
        Err(Refusal::Exhausted),
        "on both something begins it"
    );
    let other = |retry| {
        let mut session = given(("8888", "9999"));
        session.pin.as_mut().unwrap().retry = retry;
        session
    };
    assert_eq!(put(other(2), at(0)).await, Err(Refusal::Exhausted), "another pin_retry");
    let message = NewSession { unknown_caller_play: "http://a/u.wav".into(), ..other(1) };
    assert_eq!(put(message, at(0)).await, Err(Refusal::Exhausted), "another unknown_caller_play");
    assert_eq!(put(other(1), at(0)).await, Ok(did(0)));
    // All have expired after an hour; their PINs count for 24 hours more.
    let next_day = 3600 + 24 * 3600;
    assert_eq!(put(given(("1111", "0000")), at(next_day - 1)).await, Err(Refusal::Exhausted));
    assert_eq!(put(given(("1111", "0000")), at(next_day)).await, Ok(did(0)));
}

async fn a_number_carries_sixteen_sessions_with_four_digits(database: &Database) {
    let store = store(database, 1).await;
    let mut sessions = vec![];
    for index in 0..16 {
        sessions
            .push(create(&store, with_pins(wanted(2 * index, 2 * index + 1), None), at(0)).await.unwrap());
    }
    assert_eq!(number_of(&store, with_pins(wanted(100, 101), None), at(0)).await, Err(Refusal::Exhausted));
    assert_eq!(number_of(&store, wanted(100, 101), at(0)).await, Ok(did(0)), "without PIN there is room");
    let pins: Vec<&Pin> = sessions
        .iter()
        .flat_map(|session| {
            [PartyRole::First, PartyRole::Second].map(|role| session.pin.as_ref().unwrap().of(role))
        })
        .collect();
    for (index, one) in pins.iter().enumerate() {
        assert!(pins[index + 1..].iter().all(|other| prefix_free(one, other)), "drawn PINs collide");
    }
    let route = store.find_route(&did(0), None, at(1)).await.unwrap().unwrap();
    assert_eq!(route.sessions.len(), 16, "a stranger may mean any of them");
    let route = store.find_route(&did(0), Some(&party(5)), at(1)).await.unwrap().unwrap();
    assert_eq!(route.sessions, [Arc::new(sessions[2].clone())], "a party means his own");
}

async fn one_session_per_number_takes_whoever_dials(database: &Database) {
    let store = store(database, 2).await;
    let single = |first| NewSession { second_party: None, single_party: Some(true), ..wanted(first, 0) };
    assert_eq!(number_of(&store, single(1), at(0)).await, Ok(did(0)));
    assert_eq!(number_of(&store, single(2), at(0)).await, Ok(did(1)));
    assert_eq!(number_of(&store, single(3), at(0)).await, Err(Refusal::Exhausted));
    assert_eq!(number_of(&store, with_pins(wanted(4, 5), None), at(0)).await, Err(Refusal::Exhausted));
    assert_eq!(number_of(&store, wanted(4, 5), at(0)).await, Ok(did(0)));
    let route = store.find_route(&did(0), Some(&party(77)), at(1)).await.unwrap().unwrap();
    assert_eq!(
        route.sessions.iter().map(|session| session.first_party.clone()).collect::<Vec<_>>(),
        [Some(party(1))]
    );
}

async fn a_single_party_session_becomes_an_ordinary_one(database: &Database) {
    let store = store(database, 1).await;
    let single = NewSession { second_party: None, single_party: Some(true), ..wanted(1, 0) };
    let single = create(&store, single, at(0)).await.unwrap();
    create(&store, wanted(2, 3), at(0)).await.unwrap();
    let fill = |index| SessionUpdate { second_party: Some(party(index)), ..SessionUpdate::default() };
    let update = async |uuid, update| store.update_session(ACCOUNT, uuid, update, at(1)).await.unwrap();
    assert_eq!(update(single.uuid, fill(2)).await, Err(ChangeRefusal::PartyBusy));
    assert_eq!(update(single.uuid, fill(1)).await, Err(ChangeRefusal::SameParty));
    let filled = update(single.uuid, fill(4)).await.unwrap();
    assert_eq!((filled.second_party.clone(), filled.takes_strangers()), (Some(party(4)), false));
    assert_eq!(update(single.uuid, fill(5)).await, Err(ChangeRefusal::PartiesFixed));
    assert_eq!(update(single.uuid, fill(4)).await.map(|session| session.second_party), Ok(Some(party(4))));
    assert_eq!(store.find_route(&did(0), None, at(2)).await.unwrap().unwrap().sessions, []);
    assert!(
        number_of(&store, with_pins(wanted(8, 9), None), at(2)).await.is_ok(),
        "strangers are free again"
    );
}

async fn a_message_for_strangers_is_found_where_no_session_takes_them(database: &Database) {
    let store = store(database, 1).await;
    let message =
        |first, url: &str| NewSession { unknown_caller_play: url.into(), ..wanted(first, first + 1) };
    let older = create(&store, message(1, "http://a/old.wav"), at(0)).await.unwrap();
    let short = NewSession { expiry: Duration::from_secs(60), ..message(3, "http://a/new.wav") };
    let newest = create(&store, short, at(1)).await.unwrap();
    create(&store, wanted(5, 6), at(2)).await.unwrap();
    let route = store.find_route(&did(0), Some(&party(77)), at(3)).await.unwrap().unwrap();
    assert_eq!(route.sessions, [Arc::new(newest)]);
    let route = store.find_route(&did(0), Some(&party(77)), at(61)).await.unwrap().unwrap();
    assert_eq!(route.sessions, [Arc::new(older)], "the newest has expired");
}

async fn an_update_counts_its_expiry_from_itself_and_a_deletion_keeps_the_plan(database: &Database) {
    let store = store(database, 1).await;
    let session = create(&store, wanted(1, 2), at(0)).await.unwrap();
    let update = SessionUpdate {
        expiry: Some(Duration::from_secs(600)),
        record: Some(false),
        ..SessionUpdate::default()
    };
    let updated = store.update_session(ACCOUNT, session.uuid, update, at(12)).await.unwrap().unwrap();
    assert_eq!((updated.expires_at, updated.modified_at, updated.record), (at(612), at(12), false));
    assert_eq!(store.find_session(ACCOUNT, session.uuid).await.unwrap(), Some(updated));
    let ended = store.expire_session(ACCOUNT, session.uuid, at(20)).await.unwrap().unwrap();
    assert_eq!((ended.ends_at(), ended.expires_at, ended.ended_at), (at(20), at(612), Some(at(20))));
    assert_eq!(store.find_session(ACCOUNT, session.uuid).await.unwrap(), Some(ended), "it stays readable");
    let nothing = SessionUpdate::default();
    for (account, uuid, refusal) in [
        (ACCOUNT, session.uuid, ChangeRefusal::Expired),
        ("MAOTHER", session.uuid, ChangeRefusal::NotFound),
        (ACCOUNT, Uuid::new_v4(), ChangeRefusal::NotFound),
    ] {
        assert_eq!(store.expire_session(account, uuid, at(21)).await.unwrap(), Err(refusal));
        assert_eq!(store.update_session(account, uuid, nothing.clone(), at(21)).await.unwrap(), Err(refusal));
    }
    let route = store.find_route(&did(0), Some(&party(1)), at(21)).await.unwrap().unwrap();
    assert_eq!(route.sessions, []);
}

async fn a_number_that_left_the_configuration_takes_nothing_and_its_sessions_stay(database: &Database) {
    let store = store(database, 2).await;
    let session = create(&store, wanted(1, 2), at(0)).await.unwrap();
    let mut rest = numbers(2);
    rest.remove(0);
    rest[0].no_session = NoSession::Sip("sip:desk@pbx.example:5080".into());
    store.sync_numbers(&rest).await.unwrap();
    assert_eq!(number_of(&store, wanted(3, 4), at(1)).await, Ok(did(1)));
    assert_eq!(store.find_route(&did(0), Some(&party(1)), at(1)).await.unwrap(), None);
    assert!(store.find_session(ACCOUNT, session.uuid).await.unwrap().is_some());
    store.close().await;
    let store = Store::open(&database.url()).await.unwrap();
    let route = store.find_route(&did(1), None, at(1)).await.unwrap().unwrap();
    assert_eq!(route.number.no_session, NoSession::Sip("sip:desk@pbx.example:5080".into()));
    assert_eq!(route.number.account, ACCOUNT);
}

async fn an_account_gets_its_own_numbers_only(database: &Database) {
    let store = store(database, 0).await;
    let mut pool = numbers(2);
    pool[0].account = Some("MAOTHER".into());
    store.sync_numbers(&pool).await.unwrap();
    assert_eq!(number_of(&store, wanted(1, 2), at(0)).await, Ok(did(1)));
    assert_eq!(number_of(&store, wanted(1, 2), at(0)).await, Err(Refusal::Exhausted));
    let other = NewSession { account: "MAOTHER".into(), ..wanted(1, 2) };
    assert_eq!(number_of(&store, other, at(0)).await, Ok(did(0)));
    let nobody = NewSession { account: "MANOBODY".into(), ..wanted(1, 2) };
    assert_eq!(number_of(&store, nobody, at(0)).await, Err(Refusal::Exhausted));
}

/// Hundreds of creates at once, with and without PIN, that share parties over few numbers.
async fn concurrent_creates_never_give_a_caller_two_sessions_on_a_number(database: &Database) {
    let store = store(database, 5).await;
    let mut tasks = tokio::task::JoinSet::new();
    for index in 0..400 {
        let store = store.clone();
        let session = wanted(index % 23, 23 + index % 17);
        let session = if index % 4 == 0 { with_pins(session, None) } else { session };
        tasks.spawn(async move { create(&store, session, at(0)).await });
    }
    let (mut made, mut refused) = (vec![], 0);
    while let Some(result) = tasks.join_next().await {
        match result.unwrap() {
            Ok(session) => made.push(session),
            Err(refusal) => {
                assert_eq!(refusal, Refusal::Exhausted);
                refused += 1;
            }
        }
    }
    assert!(made.len() >= 5 * 17 / 2 && refused > 0, "{} made, {refused} refused", made.len());
    let mut callers = BTreeMap::new();
    let mut pins: BTreeMap<Did, Vec<Pin>> = BTreeMap::new();
    for session in &made {
        for role in [PartyRole::First, PartyRole::Second] {
            let key = (session.virtual_number.clone(), session.party(role).cloned());
            assert_eq!(callers.insert(key, session.uuid), None, "a caller means two sessions");
            if let Some(settings) = &session.pin {
                let there = pins.entry(session.virtual_number.clone()).or_default();
                assert!(there.iter().all(|other| prefix_free(other, settings.of(role))));
                there.push(settings.of(role).clone());
            }
        }
        let caller = session.first_party.as_ref();
        let route = store.find_route(&session.virtual_number, caller, at(1)).await.unwrap().unwrap();
        assert_eq!(route.sessions, [Arc::new(session.clone())]);
    }
    assert!(pins.values().all(|pins| pins.len() <= 2 * 16));
}

async fn lists_filter_page_and_count(database: &Database) {
    let store = store(database, 3).await;
    let mut made = vec![];
    for index in 0..5 {
        let session = NewSession {
            expiry: Duration::from_secs(100 * (1 + index as u64)),
            ..wanted(2 * index, 2 * index + 1)
        };
        made.push(create(&store, session, at(10 * index as i64)).await.unwrap());
    }
    store.expire_session(ACCOUNT, made[4].uuid, at(50)).await.unwrap().unwrap();
    open_call(&store, &made[2], at(55)).await;
    let list = async |filter: SessionFilter, limit, offset| {
        let page = store.list_sessions(ACCOUNT, &filter, limit, offset, at(150)).await.unwrap();
        let index =
            |session: &MaskingSession| made.iter().position(|other| other.uuid == session.uuid).unwrap();
        (page.sessions.iter().map(index).collect::<Vec<_>>(), page.total)
    };
    let any = SessionFilter::default;
    assert_eq!(list(any(), 20, 0).await, (vec![4, 3, 2, 1, 0], 5), "newest first");
    assert_eq!(list(any(), 2, 1).await, (vec![3, 2], 5));
    assert_eq!(list(any(), 2, 9).await, (vec![], 5));
    let state = |state| SessionFilter { state, ..any() };
    assert_eq!(list(state(SessionState::Active), 20, 0).await, (vec![3, 2, 1], 3));
    assert_eq!(list(state(SessionState::InProgress), 20, 0).await, (vec![2], 1));
    assert_eq!(list(state(SessionState::Expired), 20, 0).await, (vec![4, 0], 2));
    assert_eq!(list(SessionFilter { first_party: Some(party(2)), ..any() }, 20, 0).await.0, [1]);
    assert_eq!(list(SessionFilter { second_party: Some(party(2)), ..any() }, 20, 0).await, (vec![], 0));
    let on_last = SessionFilter { virtual_number: Some(did(2)), ..any() };
    assert_eq!(list(on_last, 20, 0).await, (vec![], 0));
    let created = TimeRange { from: Some(at(10)), until: Some(at(30)) };
    assert_eq!(list(SessionFilter { created, ..any() }, 20, 0).await.0, [2, 1]);
    let ends = TimeRange { from: None, until: Some(at(101)) };
    assert_eq!(list(SessionFilter { ends, ..any() }, 20, 0).await.0, [4, 0], "deleted at 50, expired at 100");
    assert_eq!(list(SessionFilter { duration_s: (Some(200), Some(300)), ..any() }, 20, 0).await.0, [2, 1]);
    let page = store.list_sessions("MAOTHER", &any(), 20, 0, at(150)).await.unwrap();
    assert_eq!((page.sessions.len(), page.total), (0, 0));
}

async fn a_count_by_hours_is_the_count_of_the_sessions(database: &Database) {
    let store = store(database, 40).await;
    // From ten minutes to five hours, some moved and some ended early.
    for index in 0..40_u32 {
        let expiry = Duration::from_secs(u64::from(600 + index * 443));
        let session = create(&store, NewSession { expiry, ..wanted(1, 2) }, at(0)).await.unwrap();
        if index % 3 == 0 {
            let update = SessionUpdate {
                expiry: Some(expiry + u32::from(index % 2 == 0) * HOUR),
                ..Default::default()
            };
            store.update_session(ACCOUNT, session.uuid, update, at(500)).await.unwrap().unwrap();
        }
        if index % 5 == 0 {
            store.expire_session(ACCOUNT, session.uuid, at(550)).await.unwrap().unwrap();
        }
    }
    let now = at(7000);
    let mut bounds: Vec<_> = (0..22).map(|step| Some(at(step * 1000))).collect();
    // 1,699,999,200 s after 1970 is a whole hour.
    bounds.extend([Some(at(-800)), Some(at(2800)), Some(at(6400)), None]);
    for state in [SessionState::Any, SessionState::Active, SessionState::Expired] {
        for from in &bounds {
            for until in &bounds {
                let ends = TimeRange { from: *from, until: *until };
                let by_hours = SessionFilter { state, ends, ..SessionFilter::default() };
                let created = TimeRange { from: Some(at(-1)), until: None };
                let one_by_one = SessionFilter { created, ..by_hours.clone() };
                let total =
                    async |filter| store.list_sessions(ACCOUNT, filter, 1, 0, now).await.unwrap().total;
                assert_eq!(total(&by_hours).await, total(&one_by_one).await, "{by_hours:?}");
            }
        }
    }
}

async fn a_change_of_a_session_is_seen_by_the_next_call(database: &Database) {
    let store = store(database, 1).await;
    let found = async |caller, now| -> Vec<Arc<MaskingSession>> {
        store.find_route(&did(0), Some(&party(caller)), now).await.unwrap().unwrap().sessions
    };
    assert_eq!(found(1, at(0)).await, [], "and this is remembered");
    let session = create(&store, wanted(1, 2), at(0)).await.unwrap();
    assert_eq!(found(1, at(1)).await, [Arc::new(session.clone())]);
    let longer = SessionUpdate { expiry: Some(Duration::from_secs(7200)), ..SessionUpdate::default() };
    let longer = store.update_session(ACCOUNT, session.uuid, longer, at(2)).await.unwrap().unwrap();
    assert_eq!(found(1, at(5000)).await, [Arc::new(longer)]);
    assert_eq!(found(9, at(5000)).await, []);
    let open = NewSession { second_party: None, single_party: Some(true), ..wanted(5, 0) };
    let open = create(&store, open, at(5000)).await.unwrap();
    assert_eq!(found(9, at(5001)).await, [Arc::new(open.clone())], "a stranger is taken now");
    store.expire_session(ACCOUNT, open.uuid, at(5002)).await.unwrap().unwrap();
    store.expire_session(ACCOUNT, session.uuid, at(5002)).await.unwrap().unwrap();
    assert_eq!((found(9, at(5003)).await, found(1, at(5003)).await), (vec![], vec![]));
}

/// Creates, changes, ends and waits at random, then compares every sum with what it sums up.
async fn the_sums_of_numbers_are_those_of_their_sessions(database: &Database) {
    let store = store(database, 3).await;
    let (mut now, mut draw) = (0, 12_345_u32);
    let mut random = |below: u32| {
        draw = draw.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (draw >> 16) % below
    };
    let mut made: Vec<MaskingSession> = vec![];
    for step in 0..150 {
        now += i64::from(random(120));
        let parties = wanted(2 * step, 2 * step + 1);
        let expiry = Duration::from_secs(u64::from(60 + random(1800)));
        match random(10) {
            0..5 => {
                let session = NewSession { expiry, ..with_pins(parties, None) };
                made.extend(create(&store, session, at(now)).await);
            }
            5 | 6 => {
                let single = NewSession { second_party: None, single_party: Some(true), expiry, ..parties };
                made.extend(create(&store, single, at(now)).await);
            }
            7 if !made.is_empty() => {
                let session = made.swap_remove(random(made.len() as u32) as usize);
                let _ = store.expire_session(ACCOUNT, session.uuid, at(now)).await.unwrap();
            }
            8 if !made.is_empty() => {
                let session = &made[random(made.len() as u32) as usize];
                let second_party = session.second_party.is_none().then(|| party(5000 + step));
                let update = SessionUpdate { expiry: Some(expiry), second_party, ..Default::default() };
                let _ = store.update_session(ACCOUNT, session.uuid, update, at(now)).await.unwrap();
            }
            _ => {}
        }
        let (sums, sessions) = store.write(Loads(at(now))).await.unwrap();
        assert_eq!(sums, sessions, "step {step}");
    }
    assert!(made.len() > 40, "only {} sessions", made.len());
}

/// The loads of all numbers as they are summed up, and as their sessions say.
struct Loads(Timestamp);

impl Write for Loads {
    type Done = (Vec<StrangerLoad>, Vec<StrangerLoad>);

    async fn apply(&mut self, connection: &mut Connection) -> Result<Self::Done, StoreError> {
        let mut sums = number_loads::of_account(connection, ACCOUNT, self.0).await?;
        let mut found = (vec![], vec![]);
        for index in 0..3 {
            found.0.push(sums.remove(did(index).digits()).unwrap_or_default());
            found.1.push(number_loads::of_number(connection, &did(index), self.0).await?);
        }
        Ok(found)
    }
}

async fn a_sum_that_is_wrong_neither_fills_a_number_too_much_nor_keeps_it_empty(database: &Database) {
    let store = store(database, 1).await;
    for index in 0..16 {
        create(&store, with_pins(wanted(2 * index, 2 * index + 1), None), at(0)).await.unwrap();
    }
    let forget = Run("UPDATE number_loads SET sessions = 0, pin_sessions = 0, pin_weight = 0");
    store.write(forget).await.unwrap();
    assert_eq!(number_of(&store, with_pins(wanted(100, 101), None), at(1)).await, Err(Refusal::Exhausted));
    let (sums, sessions) = store.write(Loads(at(1))).await.unwrap();
    assert_eq!((sums[0].pin_sessions, &sums), (16, &sessions), "and now it is right again");
    // All have ended, and the sum of them with them.
    assert_eq!(number_of(&store, with_pins(wanted(100, 101), None), at(3600)).await, Ok(did(0)));
}

/// Sessions as rows.
struct Rows(Vec<MaskingSession>);

impl Write for Rows {
    type Done = ();

    async fn apply(&mut self, connection: &mut Connection) -> Result<(), StoreError> {
        for session in &self.0 {
            session_row::insert(connection, session).await?;
        }
        Ok(())
    }
}

async fn sessions_of_the_past_are_listed_alike_before_and_after_somebody_noticed(database: &Database) {
    let store = store(database, 3).await;
    let template = create(&store, wanted(1, 2), at(0)).await.unwrap();
    // Three are created in a second; their lives differ, and every ninth was deleted.
    let sessions: Vec<_> = (0..900_i64)
        .map(|index| MaskingSession {
            uuid: Uuid::new_v4(),
            virtual_number: did((index % 3) as usize),
            first_party: Some(party(index as usize % 2)),
            created_at: at(index / 3),
            expires_at: at(index / 3 + 10 + index * 7919 % 600),
            ended_at: (index % 9 == 0).then(|| at(index / 3 + 5)),
            callback_url: if index % 2 == 0 { "http://a/c".into() } else { String::new() },
            ..template.clone()
        })
        .collect();
    store.write(Rows(sessions.clone())).await.unwrap();
    let mut all = [sessions, vec![template]].concat();
    all.sort_by_key(|session| (std::cmp::Reverse(session.created_at), session.uuid.to_string()));
    let (now, any) = (at(350), SessionFilter::default());
    let expired = SessionFilter { state: SessionState::Expired, ..any.clone() };
    let ends = TimeRange { from: None, until: Some(at(300)) };
    let created = TimeRange { from: Some(at(20)), until: Some(at(200)) };
    let filters = [
        expired.clone(),
        SessionFilter { ends, ..any.clone() },
        SessionFilter { ends, created, duration_s: (Some(30), Some(500)), ..expired.clone() },
        SessionFilter { virtual_number: Some(did(0)), ..expired.clone() },
        SessionFilter { first_party: Some(party(1)), ..expired.clone() },
        SessionFilter { state: SessionState::Active, ..any.clone() },
        any,
    ];
    // What was noticed until then.
    for noticed in [None, Some(at(100)), Some(at(349)), Some(now), Some(at(400))] {
        let mut some = noticed.is_some();
        while some {
            some = store.report_expiries(noticed.unwrap()).await.unwrap() > 0;
        }
        for filter in &filters {
            let fitting: Vec<_> = all.iter().filter(|session| fits(session, filter, now)).collect();
            for offset in [0, 7, fitting.len() - 3, fitting.len() + 5] {
                let page = store.list_sessions(ACCOUNT, filter, 20, offset as u64, now).await.unwrap();
                let right: Vec<_> =
                    fitting.iter().skip(offset).take(20).map(|session| session.uuid).collect();
                let listed: Vec<_> = page.sessions.iter().map(|session| session.uuid).collect();
                assert_eq!(page.total, fitting.len() as u64, "{filter:?}");
                assert_eq!(listed, right, "{filter:?} from {offset} on, noticed {noticed:?}");
            }
        }
    }
    let (events, _) = store.list_events(ACCOUNT, &EventFilter::default(), 20, 0).await.unwrap();
    assert!(events.iter().all(|event| event.name == "SessionTimeout"));
}

fn fits(session: &MaskingSession, filter: &SessionFilter, now: Timestamp) -> bool {
    let within = |range: TimeRange, moment: Timestamp| {
        range.from.is_none_or(|from| from <= moment) && range.until.is_none_or(|until| moment < until)
    };
    let seconds = (session.expires_at - session.created_at).get_seconds();
    let state = match filter.state {
        SessionState::Active => session.is_active(now),
        SessionState::Expired => !session.is_active(now),
        _ => true,
    };
    state
        && within(filter.created, session.created_at)
        && within(filter.ends, session.ends_at())
        && filter.virtual_number.as_ref().is_none_or(|number| *number == session.virtual_number)
        && (filter.first_party.is_none() || filter.first_party == session.first_party)
        && filter.duration_s.0.is_none_or(|least| seconds >= least)
        && filter.duration_s.1.is_none_or(|most| seconds <= most)
}

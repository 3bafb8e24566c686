//! The store on real SQLite files. Time is an argument, so nothing here waits for it.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;

use jiff::Timestamp;
use media::Side;
use uuid::Uuid;

use super::*;
use crate::masking::allocate::{Refusal, prefix_free};
use crate::masking::session::{HttpMethod, MaskingSession, PartyRole, Pin, RecordFormat};
use crate::number::{Did, E164};

const ACCOUNT: &str = "MAAAAAAAAAAAAAAAAAAA";
const HOUR: Duration = Duration::from_secs(3600);

/// A directory that goes away with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        Self(std::env::temp_dir().join(format!("maskline-store-{}", Uuid::new_v4())))
    }

    fn url(&self) -> String {
        format!("sqlite://{}/deep/maskline.db", self.0.display())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

fn did(index: usize) -> Did {
    Did::parse(&format!("1202555{:04}", 100 + index)).unwrap()
}

fn party(index: usize) -> E164 {
    E164::parse(&format!("1212{index:07}")).unwrap()
}

fn pin(digits: &str) -> Pin {
    Pin::parse(digits).unwrap()
}

fn numbers(count: usize) -> Vec<VirtualNumberConfig> {
    (0..count)
        .map(|index| VirtualNumberConfig {
            did: did(index),
            trunk: "local".into(),
            account: None,
            no_session: NoSession::Reject,
        })
        .collect()
}

async fn store(numbers_in_pool: usize) -> (Store, Scratch) {
    let scratch = Scratch::new();
    let store = Store::open(&scratch.url()).await.unwrap();
    store.ensure_account(&[(ACCOUNT.into(), "token".into())], at(0)).await.unwrap();
    store.sync_numbers(&numbers(numbers_in_pool)).await.unwrap();
    (store, scratch)
}

fn opens(store: &Store, auth_id: &str, token: &str) -> bool {
    store.identify(auth_id, token, at(0)).is_some()
}

fn wanted(first: usize, second: usize) -> NewSession {
    NewSession {
        account: ACCOUNT.into(),
        subaccount: None,
        first_party: Some(party(first)),
        second_party: Some(party(second)),
        expiry: HOUR,
        call_time_limit: Duration::from_secs(14_400),
        ring_timeout: Duration::from_secs(45),
        record: true,
        record_file_format: RecordFormat::Mp3,
        recording_callback_url: String::new(),
        recording_callback_method: HttpMethod::Post,
        callback_url: String::new(),
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

fn with_pins(session: NewSession, pins: Option<(&str, &str)>) -> NewSession {
    let new = NewPin {
        first_party_pin: pins.map(|(first, _)| pin(first)),
        second_party_pin: pins.map(|(_, second)| pin(second)),
        generate_length: 4,
        generated: pins.is_none(),
        prompt_play: String::new(),
        retry: 1,
        retry_wait: Duration::from_secs(5),
        incorrect_play: String::new(),
        force: false,
    };
    NewSession { pin: Some(new), ..session }
}

async fn create(store: &Store, session: NewSession, now: Timestamp) -> Result<MaskingSession, Refusal> {
    store.create_session(session, now).await.unwrap()
}

async fn number_of(store: &Store, session: NewSession, now: Timestamp) -> Result<Did, Refusal> {
    create(store, session, now).await.map(|session| session.virtual_number)
}

#[tokio::test]
async fn open_makes_directory_and_file_for_the_owner_alone() {
    let scratch = Scratch::new();
    let store = Store::open(&scratch.url()).await.unwrap();
    let mode = |path: PathBuf| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(scratch.0.join("deep/maskline.db")), 0o600);
    assert_eq!(mode(scratch.0.join("deep/maskline.db-wal")), 0o600);
    assert_eq!(mode(scratch.0.join("deep")) & 0o027, 0, "nobody else may look, the group may not write");
    store.ping().await.unwrap();
    store.close().await;
    assert!(matches!(store.heartbeat(at(0)).await, Err(StoreError::Closed)));
}

#[tokio::test]
async fn other_urls_are_refused_and_name_the_key() {
    for url in ["mysql://db", "data/maskline.db", "postgres://[", "sqlite://", "sqlite::memory:"] {
        let error = Store::open(url).await.unwrap_err().to_string();
        assert!(error.contains("store.url") && error.contains("sqlite://"), "{url}: {error}");
    }
}

#[tokio::test]
async fn the_first_start_makes_an_account_and_no_other_does() {
    let scratch = Scratch::new();
    let store = Store::open(&scratch.url()).await.unwrap();
    let made = store.ensure_account(&[], at(0)).await.unwrap().expect("an account");
    assert_eq!((made.auth_id.len(), made.auth_token.len()), (20, 40));
    assert!(made.auth_id.starts_with("MA"));
    assert!(!format!("{made:?}").contains(&made.auth_token));
    assert!(opens(&store, &made.auth_id, &made.auth_token));
    assert!(!opens(&store, &made.auth_id, "token"));
    assert!(!opens(&store, "MAUNKNOWN", &made.auth_token) && !opens(&store, "", ""));
    assert_eq!(store.ensure_account(&[], at(1)).await.unwrap(), None);
    store.close().await;

    let store = Store::open(&scratch.url()).await.unwrap();
    assert!(opens(&store, &made.auth_id, &made.auth_token), "it is kept");
    let configured = [(ACCOUNT.to_owned(), "secret".to_owned())];
    assert_eq!(store.ensure_account(&configured, at(2)).await.unwrap(), None);
    assert!(opens(&store, ACCOUNT, "secret"));
    assert!(!opens(&store, &made.auth_id, &made.auth_token), "configured ones replace it");
    let rotated = [(ACCOUNT.to_owned(), "other".to_owned())];
    store.ensure_account(&rotated, at(3)).await.unwrap();
    assert!(opens(&store, ACCOUNT, "other") && !opens(&store, ACCOUNT, "secret"));
    assert_eq!(store.ensure_account(&[], at(4)).await.unwrap(), None, "the one that was made counts again");
    assert!(opens(&store, &made.auth_id, &made.auth_token) && !opens(&store, ACCOUNT, "other"));
}

#[tokio::test]
async fn no_file_holds_a_token() {
    let scratch = Scratch::new();
    let store = Store::open(&scratch.url()).await.unwrap();
    let made = store.ensure_account(&[], at(0)).await.unwrap().unwrap();
    for entry in std::fs::read_dir(scratch.0.join("deep")).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        assert!(!bytes.windows(40).any(|window| window == made.auth_token.as_bytes()));
    }
}

#[tokio::test]
async fn a_session_is_read_back_as_it_was_made() {
    let (store, _scratch) = store(2).await;
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

#[tokio::test]
async fn each_party_finds_its_session_and_strangers_find_none() {
    let (store, _scratch) = store(1).await;
    let session = create(&store, wanted(1, 2), at(0)).await.unwrap();
    for caller in [party(1), party(2)] {
        let route = store.find_route(&did(0), Some(&caller), at(1)).await.unwrap().unwrap();
        assert_eq!((route.number.trunk.as_str(), route.sessions), ("local", vec![session.clone()]));
    }
    for caller in [Some(party(3)), None] {
        let route = store.find_route(&did(0), caller.as_ref(), at(1)).await.unwrap().unwrap();
        assert_eq!(route.sessions, []);
    }
    assert_eq!(store.find_route(&did(1), Some(&party(1)), at(1)).await.unwrap(), None, "not ours");
}

#[tokio::test]
async fn a_session_ends_at_its_expiry_to_the_microsecond() {
    let (store, _scratch) = store(1).await;
    let session = create(&store, wanted(1, 2), at(0)).await.unwrap();
    let found = async |now| {
        !store.find_route(&did(0), Some(&party(1)), now).await.unwrap().unwrap().sessions.is_empty()
    };
    let last = Timestamp::from_microsecond(session.expires_at.as_microsecond() - 1).unwrap();
    assert!(found(last).await && !found(session.expires_at).await);
    assert_eq!(number_of(&store, wanted(1, 3), last).await, Err(Refusal::Exhausted));
    assert_eq!(number_of(&store, wanted(1, 3), session.expires_at).await, Ok(did(0)));
}

#[tokio::test]
async fn numbers_are_given_by_first_fit() {
    let (store, _scratch) = store(3).await;
    for (parties, number) in [((1, 2), 0), ((3, 4), 0), ((1, 3), 1), ((2, 4), 1), ((5, 1), 2), ((6, 7), 0)] {
        let given = number_of(&store, wanted(parties.0, parties.1), at(0)).await;
        assert_eq!(given, Ok(did(number)), "{parties:?}");
    }
    assert_eq!(number_of(&store, wanted(1, 9), at(0)).await, Err(Refusal::Exhausted), "1 is on all three");
    assert_eq!(number_of(&store, wanted(2, 1), at(3600)).await, Ok(did(0)), "all have expired");
}

#[tokio::test]
async fn the_same_pair_twice_gets_a_second_number() {
    let (store, _scratch) = store(2).await;
    assert_eq!(number_of(&store, wanted(1, 2), at(0)).await, Ok(did(0)));
    assert_eq!(number_of(&store, wanted(2, 1), at(0)).await, Ok(did(1)));
    assert_eq!(number_of(&store, wanted(1, 2), at(0)).await, Err(Refusal::Exhausted));
}

#[tokio::test]
async fn a_number_rests_for_everybody_after_expiry_and_after_deletion() {
    let (store, _scratch) = store(1).await;
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

#[tokio::test]
async fn geomatch_keeps_to_the_country_of_the_known_party() {
    let (store, _scratch) = store(1).await;
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

#[tokio::test]
async fn pin_sessions_spread_and_those_that_do_not_fit_go_elsewhere() {
    let (store, _scratch) = store(2).await;
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

#[tokio::test]
async fn a_number_carries_sixteen_sessions_with_four_digits() {
    let (store, _scratch) = store(1).await;
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
    assert_eq!(route.sessions, [sessions[2].clone()], "a party means his own");
}

#[tokio::test]
async fn one_session_per_number_takes_whoever_dials() {
    let (store, _scratch) = store(2).await;
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

#[tokio::test]
async fn a_single_party_session_becomes_an_ordinary_one() {
    let (store, _scratch) = store(1).await;
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

#[tokio::test]
async fn a_message_for_strangers_is_found_where_no_session_takes_them() {
    let (store, _scratch) = store(1).await;
    let message =
        |first, url: &str| NewSession { unknown_caller_play: url.into(), ..wanted(first, first + 1) };
    let older = create(&store, message(1, "http://a/old.wav"), at(0)).await.unwrap();
    let short = NewSession { expiry: Duration::from_secs(60), ..message(3, "http://a/new.wav") };
    let newest = create(&store, short, at(1)).await.unwrap();
    create(&store, wanted(5, 6), at(2)).await.unwrap();
    let route = store.find_route(&did(0), Some(&party(77)), at(3)).await.unwrap().unwrap();
    assert_eq!(route.sessions, [newest]);
    let route = store.find_route(&did(0), Some(&party(77)), at(61)).await.unwrap().unwrap();
    assert_eq!(route.sessions, [older], "the newest has expired");
}

#[tokio::test]
async fn an_update_counts_its_expiry_from_itself_and_a_deletion_keeps_the_plan() {
    let (store, _scratch) = store(1).await;
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

#[tokio::test]
async fn a_number_that_left_the_configuration_takes_nothing_and_its_sessions_stay() {
    let (store, scratch) = store(2).await;
    let session = create(&store, wanted(1, 2), at(0)).await.unwrap();
    let mut rest = numbers(2);
    rest.remove(0);
    rest[0].no_session = NoSession::Sip("sip:desk@pbx.example:5080".into());
    store.sync_numbers(&rest).await.unwrap();
    assert_eq!(number_of(&store, wanted(3, 4), at(1)).await, Ok(did(1)));
    assert_eq!(store.find_route(&did(0), Some(&party(1)), at(1)).await.unwrap(), None);
    assert!(store.find_session(ACCOUNT, session.uuid).await.unwrap().is_some());
    store.close().await;
    let store = Store::open(&scratch.url()).await.unwrap();
    let route = store.find_route(&did(1), None, at(1)).await.unwrap().unwrap();
    assert_eq!(route.number.no_session, NoSession::Sip("sip:desk@pbx.example:5080".into()));
    assert_eq!(route.number.account, ACCOUNT);
}

#[tokio::test]
async fn an_account_gets_its_own_numbers_only() {
    let (store, _scratch) = store(0).await;
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
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_creates_never_give_a_caller_two_sessions_on_a_number() {
    let (store, _scratch) = store(5).await;
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
        assert_eq!(route.sessions, std::slice::from_ref(session));
    }
    assert!(pins.values().all(|pins| pins.len() <= 2 * 16));
}

#[tokio::test]
async fn lists_filter_page_and_count() {
    let (store, _scratch) = store(3).await;
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

fn leg(session: &MaskingSession, interaction: Uuid, side: Side, started_at: Timestamp) -> LegOpened {
    let role = if side == Side::A { PartyRole::First } else { PartyRole::Second };
    LegOpened {
        interaction,
        leg: Uuid::new_v4(),
        session: Some(session.uuid),
        account: Some(ACCOUNT.into()),
        side,
        attempt: 1,
        virtual_number: Some(session.virtual_number.clone()),
        party: session.party(role).cloned(),
        role: Some(role),
        trunk: "local".into(),
        started_at,
    }
}

async fn open_call(store: &Store, session: &MaskingSession, now: Timestamp) -> (LegOpened, LegOpened) {
    let interaction = Uuid::new_v4();
    let (a, b) = (leg(session, interaction, Side::A, now), leg(session, interaction, Side::B, now));
    store.open_leg(LegOpened { session: None, account: None, role: None, ..a.clone() }).await.unwrap();
    store.open_leg(a.clone()).await.unwrap();
    store.open_leg(b.clone()).await.unwrap();
    (a, b)
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
        packets_received: 10,
        packets_sent: 11,
        packets_lost: 1,
        jitter: 7,
    }
}

fn cdr(a: LegOpened, b: LegOpened) -> Cdr {
    Cdr {
        interaction: a.interaction,
        session: a.session,
        virtual_number: a.virtual_number.clone(),
        started_at: a.started_at,
        ended_at: at(90),
        recording: Some(RecordingRow { directory: "2026/01/01/x".into(), samples: 8000, complete: true }),
        legs: vec![closed(a, Some(at(62)), at(90)), closed(b, Some(at(62)), at(89))],
    }
}

#[tokio::test]
async fn a_call_is_known_from_its_invite_on_and_complete_after_its_close() {
    let (store, _scratch) = store(1).await;
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
    assert_eq!((row.packets_received, row.packets_sent, row.packets_lost, row.jitter), (10, 11, 1, 7));
    assert_eq!(store.find_leg("MAOTHER", a.leg).await.unwrap(), None);
    let (legs, total) = store.list_legs(ACCOUNT, 1, 1).await.unwrap();
    assert_eq!((legs.len(), total), (1, 2));
}

#[tokio::test]
async fn a_close_without_an_open_is_a_whole_record() {
    let (store, _scratch) = store(1).await;
    let session = create(&store, wanted(1, 2), at(0)).await.unwrap();
    let interaction = Uuid::new_v4();
    let (a, b) = (leg(&session, interaction, Side::A, at(60)), leg(&session, interaction, Side::B, at(61)));
    store.close_call(cdr(a.clone(), b.clone())).await.unwrap();
    let calls = store.interactions(session.uuid).await.unwrap();
    let sides: Vec<_> = calls[0].legs.iter().map(|leg| (leg.opened.clone(), leg.ended_at)).collect();
    assert_eq!(sides, [(a, Some(at(90))), (b, Some(at(89)))]);
}

/// Calls of one batch are put together in memory, those of several batches by the database: with one result.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_share_a_batch_are_recorded_like_calls_that_do_not() {
    let (store, _scratch) = store(1).await;
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

#[tokio::test]
async fn a_call_record_that_cannot_be_stored_leaves_the_others() {
    let (store, _scratch) = store(1).await;
    let session = create(&store, wanted(1, 2), at(0)).await.unwrap();
    let refuse = "CREATE TRIGGER refuse BEFORE INSERT ON legs WHEN NEW.trunk = 'bad' BEGIN SELECT RAISE(ABORT, 'no'); END";
    struct Run(&'static str);
    impl Write for Run {
        type Done = ();
        async fn apply(&mut self, connection: &mut Connection) -> Result<(), StoreError> {
            query(self.0).execute(connection).await?;
            Ok(())
        }
    }
    store.write(Run(refuse)).await.unwrap();
    let good = leg(&session, Uuid::new_v4(), Side::A, at(1));
    let bad = LegOpened { trunk: "bad".into(), ..leg(&session, Uuid::new_v4(), Side::A, at(1)) };
    let (first, second) = tokio::join!(store.open_leg(bad.clone()), store.open_leg(good.clone()));
    assert!(matches!(first, Err(StoreError::Database(_))));
    second.unwrap();
    assert!(store.find_leg(ACCOUNT, good.leg).await.unwrap().is_some());
    assert!(matches!(store.open_leg(bad).await, Err(StoreError::Database(_))), "alone as well");
}

#[tokio::test]
async fn a_change_of_a_session_is_seen_by_the_next_call() {
    let (store, _scratch) = store(1).await;
    let found = async |caller, now| -> Vec<MaskingSession> {
        store.find_route(&did(0), Some(&party(caller)), now).await.unwrap().unwrap().sessions
    };
    assert_eq!(found(1, at(0)).await, [], "and this is remembered");
    let session = create(&store, wanted(1, 2), at(0)).await.unwrap();
    assert_eq!(found(1, at(1)).await, std::slice::from_ref(&session));
    let longer = SessionUpdate { expiry: Some(Duration::from_secs(7200)), ..SessionUpdate::default() };
    let longer = store.update_session(ACCOUNT, session.uuid, longer, at(2)).await.unwrap().unwrap();
    assert_eq!(found(1, at(5000)).await, [longer]);
    assert_eq!(found(9, at(5000)).await, []);
    let open = NewSession { second_party: None, single_party: Some(true), ..wanted(5, 0) };
    let open = create(&store, open, at(5000)).await.unwrap();
    assert_eq!(found(9, at(5001)).await, std::slice::from_ref(&open), "a stranger is taken now");
    store.expire_session(ACCOUNT, open.uuid, at(5002)).await.unwrap().unwrap();
    store.expire_session(ACCOUNT, session.uuid, at(5002)).await.unwrap().unwrap();
    assert_eq!((found(9, at(5003)).await, found(1, at(5003)).await), (vec![], vec![]));
}

#[tokio::test]
async fn what_a_dead_process_left_open_is_closed_at_its_last_heartbeat() {
    let (store, scratch) = store(1).await;
    let session = create(&store, wanted(1, 2), at(0)).await.unwrap();
    let (a, _) = open_call(&store, &session, at(60)).await;
    store.heartbeat(at(69)).await.unwrap();
    store.heartbeat(at(70)).await.unwrap();
    let (late, _) = open_call(&store, &session, at(71)).await;
    store.close().await;
    let store = Store::open(&scratch.url()).await.unwrap();
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
#[tokio::test]
async fn a_write_that_fails_in_a_batch_leaves_the_others() {
    struct Broken;
    impl Write for Broken {
        type Done = ();
        async fn apply(&mut self, connection: &mut Connection) -> Result<(), StoreError> {
            query("INSERT INTO heartbeats (id, beat_at) VALUES (99, 1)").execute(&mut *connection).await?;
            query("INSERT INTO no_such_table VALUES (1)").execute(connection).await?;
            Ok(())
        }
    }
    let (store, _scratch) = store(1).await;
    // Polled in turn on one thread, all three are queued before the writer task runs.
    let (before, broken, after) =
        tokio::join!(store.heartbeat(at(1)), store.write(Broken), store.create_session(wanted(1, 2), at(0)));
    before.unwrap();
    assert!(matches!(broken, Err(StoreError::Database(_))));
    let session = after.unwrap().unwrap();
    assert!(store.find_session(ACCOUNT, session.uuid).await.unwrap().is_some());
    let beats = query("SELECT id FROM heartbeats").fetch_all(store.readers()).await.unwrap();
    assert_eq!(beats.len(), 1, "what the broken one wrote is undone");
}

/// SQLite ends a transaction by itself when the disk is full.
#[tokio::test]
async fn the_store_goes_on_after_a_transaction_was_lost() {
    struct Lost;
    impl Write for Lost {
        type Done = ();
        async fn apply(&mut self, connection: &mut Connection) -> Result<(), StoreError> {
            query("ROLLBACK").execute(&mut *connection).await?;
            Err(StoreError::Corrupt("disk full"))
        }
    }
    let (store, _scratch) = store(1).await;
    for second in 0..3 {
        let (lost, beat) = tokio::join!(store.write(Lost), store.heartbeat(at(second)));
        assert!(matches!(lost, Err(StoreError::Corrupt("disk full"))));
        beat.unwrap();
    }
    create(&store, wanted(1, 2), at(0)).await.unwrap();
}

#[tokio::test]
async fn a_store_error_names_no_party_and_no_pin() {
    let (store, _scratch) = store(1).await;
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

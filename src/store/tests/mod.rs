//! The store on real databases: each test runs on an SQLite file and on a PostgreSQL database of its own. Time is
//! an argument, so nothing here waits for it.

mod calls;
mod couriers;
pub(super) mod database;
mod events;
mod guessing;
mod lists;
mod management;
mod nodes;
mod recordings;
mod sessions;

use std::os::unix::fs::PermissionsExt;

use jiff::Timestamp;

use super::*;
use crate::masking::allocate::Refusal;
use crate::masking::session::{HttpMethod, MaskingSession, Pin, RecordFormat};
use crate::number::{Did, E164};
use crate::store::sql::Connection;
use database::{Database, on_both};

const ACCOUNT: &str = "MAAAAAAAAAAAAAAAAAAA";
const HOUR: Duration = Duration::from_secs(3600);

on_both!(tokio::test:
    the_first_start_makes_an_account_and_no_other_does,
);

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

async fn store(database: &Database, numbers_in_pool: usize) -> Store {
    let store = Store::open(&database.url()).await.unwrap();
    store.ensure_account(&[(ACCOUNT.into(), "token".into())], at(0)).await.unwrap();
    store.sync_numbers(&numbers(numbers_in_pool)).await.unwrap();
    store
}

/// A statement as a write.
struct Run(&'static str);

impl Write for Run {
    type Done = ();

    async fn apply(&mut self, connection: &mut Connection) -> Result<(), StoreError> {
        query(self.0).execute(connection).await?;
        Ok(())
    }
}

/// The writer has one queue: what was queued before is stored now, or has failed.
async fn all_is_written(store: &Store) {
    store.write(Run("SELECT 1")).await.unwrap();
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
    let database = Database::sqlite();
    let store = Store::open(&database.url()).await.unwrap();
    let mode = |path: PathBuf| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(database.folder().join("maskline.db")), 0o600);
    assert_eq!(mode(database.folder().join("maskline.db-wal")), 0o600);
    assert_eq!(mode(database.folder()) & 0o027, 0, "nobody else may look, the group may not write");
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
async fn no_file_holds_a_token() {
    let database = Database::sqlite();
    let store = Store::open(&database.url()).await.unwrap();
    let made = store.ensure_account(&[], at(0)).await.unwrap().unwrap();
    for entry in std::fs::read_dir(database.folder()).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        assert!(!bytes.windows(40).any(|window| window == made.auth_token.as_bytes()));
    }
}

async fn the_first_start_makes_an_account_and_no_other_does(database: &Database) {
    let store = Store::open(&database.url()).await.unwrap();
    let made = store.ensure_account(&[], at(0)).await.unwrap().expect("an account");
    assert_eq!((made.auth_id.len(), made.auth_token.len()), (20, 40));
    assert!(made.auth_id.starts_with("MA"));
    assert!(!format!("{made:?}").contains(&made.auth_token));
    assert!(opens(&store, &made.auth_id, &made.auth_token));
    assert!(!opens(&store, &made.auth_id, "token"));
    assert!(!opens(&store, "MAUNKNOWN", &made.auth_token) && !opens(&store, "", ""));
    assert_eq!(store.ensure_account(&[], at(1)).await.unwrap(), None);
    store.close().await;

    let store = Store::open(&database.url()).await.unwrap();
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

//! Masking sessions: creation with the choice of a number, change, end, look-up and list.
//!
//! "Active" is asked of the row and the given moment alone (`ends_at`), never of a clean-up job.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rand::rngs::StdRng;
use sqlx::sqlite::{SqliteConnection, SqlitePool, SqliteRow};
use uuid::Uuid;

use super::row::{Columns, after, micros, seconds, stored};
use super::writer::Write;
use super::{Directory, Store, StoreError};
use crate::masking::allocate::{
    self, Country, NumberState, PinWeight, Refusal, StrangerProfile, Strangers, Wish, draw_pin, prefix_free,
};
use crate::masking::session::{HttpMethod, MaskingSession, Pin, PinSettings, RecordFormat};
use crate::number::{Did, E164};

/// A PIN counts for so long after its session ended: who still knows it must not reach somebody else with it.
const PIN_REST: Duration = Duration::from_secs(24 * 3600);
/// How often a PIN is drawn for one number before the next number is tried.
const DRAWS: usize = 256;
/// The most sessions that one call looks at.
const ROUTE_LIMIT: i64 = 5000;

/// A session as it is asked for.
#[derive(Debug, Clone)]
pub struct NewSession {
    /// See [`MaskingSession::account`].
    pub account: String,
    /// See [`MaskingSession::subaccount`].
    pub subaccount: Option<String>,
    /// At least one party is given.
    pub first_party: Option<E164>,
    /// At least one party is given.
    pub second_party: Option<E164>,
    /// Its planned life.
    pub expiry: Duration,
    /// See [`MaskingSession::call_time_limit`]; whole seconds.
    pub call_time_limit: Duration,
    /// See [`MaskingSession::ring_timeout`]; whole seconds.
    pub ring_timeout: Duration,
    /// See [`MaskingSession::record`].
    pub record: bool,
    /// See [`MaskingSession::record_file_format`].
    pub record_file_format: RecordFormat,
    /// See [`MaskingSession::recording_callback_url`].
    pub recording_callback_url: String,
    /// See [`MaskingSession::recording_callback_method`].
    pub recording_callback_method: HttpMethod,
    /// See [`MaskingSession::callback_url`].
    pub callback_url: String,
    /// See [`MaskingSession::callback_method`].
    pub callback_method: HttpMethod,
    /// See [`MaskingSession::initiate_call_to_first_party`].
    pub initiate_call_to_first_party: bool,
    /// See [`MaskingSession::first_party_play_url`].
    pub first_party_play_url: String,
    /// See [`MaskingSession::second_party_play_url`].
    pub second_party_play_url: String,
    /// Present when PIN authentication is wanted.
    pub pin: Option<NewPin>,
    /// See [`MaskingSession::unknown_caller_play`].
    pub unknown_caller_play: String,
    /// See [`MaskingSession::geomatch`].
    pub geomatch: bool,
    /// See [`MaskingSession::single_party`].
    pub single_party: Option<bool>,
    /// See [`MaskingSession::cooloff`]; whole seconds.
    pub cooloff: Duration,
}

/// The PIN stage as it is asked for.
#[derive(Debug, Clone)]
pub struct NewPin {
    /// `None`: drawn.
    pub first_party_pin: Option<Pin>,
    /// `None`: drawn.
    pub second_party_pin: Option<Pin>,
    /// Digits of a drawn PIN, 4–15.
    pub generate_length: u8,
    /// See [`PinSettings::generated`].
    pub generated: bool,
    /// See [`PinSettings::prompt_play`].
    pub prompt_play: String,
    /// See [`PinSettings::retry`].
    pub retry: u8,
    /// See [`PinSettings::retry_wait`]; whole seconds.
    pub retry_wait: Duration,
    /// See [`PinSettings::incorrect_play`].
    pub incorrect_play: String,
    /// See [`PinSettings::force`].
    pub force: bool,
}

/// What may be changed later; `None` leaves it.
#[derive(Debug, Clone, Default)]
pub struct SessionUpdate {
    /// The new end, counted from the update.
    pub expiry: Option<Duration>,
    /// See [`MaskingSession::call_time_limit`].
    pub call_time_limit: Option<Duration>,
    /// See [`MaskingSession::ring_timeout`].
    pub ring_timeout: Option<Duration>,
    /// See [`MaskingSession::record`].
    pub record: Option<bool>,
    /// See [`MaskingSession::record_file_format`].
    pub record_file_format: Option<RecordFormat>,
    /// See [`MaskingSession::recording_callback_url`].
    pub recording_callback_url: Option<String>,
    /// See [`MaskingSession::recording_callback_method`].
    pub recording_callback_method: Option<HttpMethod>,
    /// See [`MaskingSession::callback_url`].
    pub callback_url: Option<String>,
    /// See [`MaskingSession::callback_method`].
    pub callback_method: Option<HttpMethod>,
    /// See [`MaskingSession::first_party_play_url`].
    pub first_party_play_url: Option<String>,
    /// See [`MaskingSession::second_party_play_url`].
    pub second_party_play_url: Option<String>,
    /// Single-party sessions only, while a party is missing.
    pub first_party: Option<E164>,
    /// Single-party sessions only, while a party is missing.
    pub second_party: Option<E164>,
}

/// Why a session is not changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChangeRefusal {
    /// The account has no such session.
    #[error("no such session")]
    NotFound,
    /// It has expired or was deleted.
    #[error("the session has ended")]
    Expired,
    /// The parties of this session are fixed.
    #[error("the parties are fixed")]
    PartiesFixed,
    /// Both parties would be the same.
    #[error("both parties are the same")]
    SameParty,
    /// A party is in another active session on the same virtual number.
    #[error("a party is in another session on this number")]
    PartyBusy,
}

/// Which sessions a list is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SessionState {
    /// All.
    #[default]
    Any,
    /// Neither expired nor deleted.
    Active,
    /// Active, with a call going on.
    InProgress,
    /// Expired or deleted.
    Expired,
}

/// A half-open range of time: from the first moment, up to and without the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TimeRange {
    /// `None`: from the beginning.
    pub from: Option<Timestamp>,
    /// `None`: without end.
    pub until: Option<Timestamp>,
}

/// Everything that must be true of a listed session.
#[derive(Debug, Clone, Default)]
pub struct SessionFilter {
    /// Its first party.
    pub first_party: Option<E164>,
    /// Its second party.
    pub second_party: Option<E164>,
    /// Its number.
    pub virtual_number: Option<Did>,
    /// Its sub-account.
    pub subaccount: Option<String>,
    /// Its state.
    pub state: SessionState,
    /// When it was created.
    pub created: TimeRange,
    /// When it ends or ended.
    pub ends: TimeRange,
    /// Its planned length in whole seconds, both ends included.
    pub duration_s: (Option<i64>, Option<i64>),
}

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionPage {
    /// Newest first.
    pub sessions: Vec<MaskingSession>,
    /// How many sessions the filter fits in all.
    pub total: u64,
}

macro_rules! columns {
    () => {
        "uuid, account, subaccount, virtual_number, first_party, second_party, created_at, modified_at, \
         expires_at, ended_at, call_time_limit, ring_timeout, record, record_file_format, \
         recording_callback_url, recording_callback_method, callback_url, callback_method, initiate_call, \
         first_party_play_url, second_party_play_url, unknown_caller_play, geomatch, single_party, cooloff, \
         first_party_pin, second_party_pin, pin_prompt_play, pin_retry, pin_retry_wait, incorrect_pin_play, \
         pin_force, pin_generated, pin_length"
    };
}

impl Store {
    /// Creates a session with the virtual number that fits best.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails; the inner [`Refusal`] when no number fits.
    pub async fn create_session(
        &self,
        session: NewSession,
        now: Timestamp,
    ) -> Result<Result<MaskingSession, Refusal>, StoreError> {
        let (uuid, rng) = (Uuid::new_v4(), rand::make_rng());
        self.write(Create { session, uuid, rng, directory: self.directory(), now: stored(now) }).await
    }

    /// The account's session, ended ones included.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn find_session(
        &self,
        account: &str,
        uuid: Uuid,
    ) -> Result<Option<MaskingSession>, StoreError> {
        let row =
            sqlx::query(BY_UUID).bind(uuid.to_string()).bind(account).fetch_optional(self.readers()).await?;
        row.as_ref().map(session).transpose()
    }

    /// Changes an active session.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails; the inner [`ChangeRefusal`] when it cannot be changed.
    pub async fn update_session(
        &self,
        account: &str,
        uuid: Uuid,
        update: SessionUpdate,
        now: Timestamp,
    ) -> Result<Result<MaskingSession, ChangeRefusal>, StoreError> {
        self.write(Update { account: account.to_owned(), uuid, update, now: stored(now) }).await
    }

    /// Ends an active session at `now`. It stays readable.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails; the inner [`ChangeRefusal`] when there is nothing to end.
    pub async fn expire_session(
        &self,
        account: &str,
        uuid: Uuid,
        now: Timestamp,
    ) -> Result<Result<MaskingSession, ChangeRefusal>, StoreError> {
        self.write(Expire { account: account.to_owned(), uuid, now: stored(now) }).await
    }

    /// The sessions that fit `filter`, newest first.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn list_sessions(
        &self,
        account: &str,
        filter: &SessionFilter,
        limit: u32,
        offset: u64,
        now: Timestamp,
    ) -> Result<SessionPage, StoreError> {
        let offset = i64::try_from(offset).unwrap_or(i64::MAX);
        let rows = bind_filter(sqlx::query(LIST), account, filter, now)
            .bind(i64::from(limit))
            .bind(offset)
            .fetch_all(self.readers())
            .await?;
        let total = bind_filter(sqlx::query(COUNT), account, filter, now).fetch_one(self.readers()).await?;
        Ok(SessionPage {
            sessions: rows.iter().map(session).collect::<Result<_, _>>()?,
            total: total.unsigned("total")?,
        })
    }
}

const BY_UUID: &str = concat!("SELECT ", columns!(), " FROM sessions WHERE uuid = $1 AND account = $2");

macro_rules! filter {
    () => {
        " FROM sessions WHERE account = $1 \
         AND ($2 IS NULL OR first_party = $2) AND ($3 IS NULL OR second_party = $3) \
         AND ($4 IS NULL OR virtual_number = $4) AND ($5 IS NULL OR subaccount = $5) \
         AND ($6 = 0 OR ($6 = 3 AND (ended_at IS NOT NULL OR ends_at <= $7)) \
              OR ($6 = 1 AND ended_at IS NULL AND ends_at > $7) \
              OR ($6 = 2 AND ended_at IS NULL AND ends_at > $7 AND EXISTS \
                  (SELECT 1 FROM interactions i WHERE i.session = sessions.uuid AND i.ended_at IS NULL))) \
         AND ($8 IS NULL OR created_at >= $8) AND ($9 IS NULL OR created_at < $9) \
         AND ($10 IS NULL OR ends_at >= $10) AND ($11 IS NULL OR ends_at < $11) \
         AND ($12 IS NULL OR (expires_at - created_at) / 1000000 >= $12) \
         AND ($13 IS NULL OR (expires_at - created_at) / 1000000 <= $13)"
    };
}

const LIST: &str =
    concat!("SELECT ", columns!(), filter!(), " ORDER BY created_at DESC, uuid LIMIT $14 OFFSET $15");
const COUNT: &str = concat!("SELECT COUNT(*) AS total", filter!());

type Query<'q> = sqlx::query::Query<'q, sqlx::Sqlite, sqlx::sqlite::SqliteArguments>;

fn bind_filter<'q>(query: Query<'q>, account: &str, filter: &SessionFilter, now: Timestamp) -> Query<'q> {
    let state = match filter.state {
        SessionState::Any => 0,
        SessionState::Active => 1,
        SessionState::InProgress => 2,
        SessionState::Expired => 3_i64,
    };
    query
        .bind(account.to_owned())
        .bind(digits(filter.first_party.as_ref()))
        .bind(digits(filter.second_party.as_ref()))
        .bind(filter.virtual_number.as_ref().map(|did| did.digits().to_owned()))
        .bind(filter.subaccount.clone())
        .bind(state)
        .bind(micros(now))
        .bind(filter.created.from.map(micros))
        .bind(filter.created.until.map(micros))
        .bind(filter.ends.from.map(micros))
        .bind(filter.ends.until.map(micros))
        .bind(filter.duration_s.0)
        .bind(filter.duration_s.1)
}

/// The active sessions on `dialled` in which `caller` is a party.
pub(super) async fn of_party(
    readers: &SqlitePool,
    dialled: &Did,
    caller: &E164,
    now: Timestamp,
) -> Result<Vec<MaskingSession>, StoreError> {
    const OF_PARTY: &str = concat!(
        "SELECT ",
        columns!(),
        " FROM sessions WHERE first_party = $1 AND virtual_number = $2 AND ends_at > $3 AND ended_at IS NULL \
         UNION ALL SELECT ",
        columns!(),
        " FROM sessions WHERE second_party = $1 AND virtual_number = $2 AND ends_at > $3 AND ended_at IS NULL"
    );
    let rows = sqlx::query(OF_PARTY)
        .bind(caller.digits())
        .bind(dialled.digits())
        .bind(micros(now))
        .fetch_all(readers)
        .await?;
    rows.iter().map(session).collect()
}

/// The active sessions on `dialled` that take strangers, and the latest of the others that has a message for
/// them.
pub(super) async fn for_strangers(
    readers: &SqlitePool,
    dialled: &Did,
    now: Timestamp,
) -> Result<Vec<MaskingSession>, StoreError> {
    const STRANGERS: &str = concat!(
        "SELECT ",
        columns!(),
        " FROM sessions WHERE virtual_number = $1 AND takes_strangers = 1 AND ends_at > $2 AND ended_at IS NULL \
         ORDER BY created_at, uuid LIMIT $3"
    );
    const MESSAGE: &str = concat!(
        "SELECT ",
        columns!(),
        " FROM sessions WHERE virtual_number = $1 AND unknown_caller_play <> '' AND ends_at > $2 \
         AND ended_at IS NULL AND takes_strangers = 0 ORDER BY created_at DESC, uuid LIMIT 1"
    );
    let mut rows = sqlx::query(STRANGERS)
        .bind(dialled.digits())
        .bind(micros(now))
        .bind(ROUTE_LIMIT)
        .fetch_all(readers)
        .await?;
    rows.extend(sqlx::query(MESSAGE).bind(dialled.digits()).bind(micros(now)).fetch_optional(readers).await?);
    rows.iter().map(session).collect()
}

struct Create {
    session: NewSession,
    uuid: Uuid,
    rng: StdRng,
    directory: Arc<Directory>,
    now: Timestamp,
}

impl Write for Create {
    type Done = Result<MaskingSession, Refusal>;

    async fn apply(self, connection: &mut SqliteConnection) -> Result<Self::Done, StoreError> {
        let Self { session: new, uuid, mut rng, directory, now } = self;
        let states = number_states(connection, &directory, &new, now).await?;
        let wish = wish(&new);
        let ranked = match allocate::rank(&states, &wish) {
            Ok(ranked) => ranked,
            Err(refusal) => return Ok(Err(refusal)),
        };
        for number in ranked {
            let Some(pin) = fit_pins(connection, &number.did, new.pin.as_ref(), &mut rng, now).await? else {
                continue;
            };
            let session = new.into_session(uuid, number.did.clone(), pin, now);
            insert(connection, &session).await?;
            return Ok(Ok(session));
        }
        Ok(Err(Refusal::Exhausted))
    }
}

impl NewSession {
    fn into_session(
        self,
        uuid: Uuid,
        number: Did,
        pin: Option<PinSettings>,
        now: Timestamp,
    ) -> MaskingSession {
        MaskingSession {
            uuid,
            account: self.account,
            subaccount: self.subaccount,
            virtual_number: number,
            first_party: self.first_party,
            second_party: self.second_party,
            created_at: now,
            modified_at: now,
            expires_at: after(now, self.expiry),
            ended_at: None,
            call_time_limit: self.call_time_limit,
            ring_timeout: self.ring_timeout,
            record: self.record,
            record_file_format: self.record_file_format,
            recording_callback_url: self.recording_callback_url,
            recording_callback_method: self.recording_callback_method,
            callback_url: self.callback_url,
            callback_method: self.callback_method,
            initiate_call_to_first_party: self.initiate_call_to_first_party,
            first_party_play_url: self.first_party_play_url,
            second_party_play_url: self.second_party_play_url,
            pin,
            unknown_caller_play: self.unknown_caller_play,
            geomatch: self.geomatch,
            single_party: self.single_party,
            cooloff: self.cooloff,
        }
    }
}

fn wish(new: &NewSession) -> Wish {
    let known = new.first_party.as_ref().or(new.second_party.as_ref());
    let country = new.geomatch.then(|| known.and_then(Country::of));
    let strangers = match &new.pin {
        Some(pin) => Strangers::Pin {
            profile: StrangerProfile::of(
                &pin.prompt_play,
                &pin.incorrect_play,
                pin.retry,
                pin.retry_wait,
                &new.unknown_caller_play,
            ),
            weight: PinWeight::of_lengths(
                pin.length_of(&pin.first_party_pin),
                pin.length_of(&pin.second_party_pin),
            ),
        },
        None if new.first_party.is_none() || new.second_party.is_none() => Strangers::Anyone,
        None => Strangers::None,
    };
    Wish { country, strangers }
}

impl NewPin {
    fn length_of(&self, pin: &Option<Pin>) -> usize {
        pin.as_ref().map_or(usize::from(self.generate_length), Pin::len)
    }
}

/// The account's numbers in order of first fit, each with what is on it now.
async fn number_states(
    connection: &mut SqliteConnection,
    directory: &Directory,
    new: &NewSession,
    now: Timestamp,
) -> Result<Vec<NumberState>, StoreError> {
    let busy =
        busy_numbers(connection, [new.first_party.as_ref(), new.second_party.as_ref()], None, now).await?;
    let resting = resting_numbers(connection, now).await?;
    let takes_strangers = new.pin.is_some() || new.first_party.is_none() || new.second_party.is_none();
    let mut loads = if takes_strangers { stranger_loads(connection, now).await? } else { HashMap::new() };
    let pool = directory.numbers.iter().filter(|pooled| pooled.number.account == new.account);
    Ok(pool
        .map(|pooled| {
            let mut state = NumberState::unused(pooled.number.did.clone(), pooled.country);
            let digits = pooled.number.did.digits();
            state.busy = busy.contains(digits);
            state.resting = resting.contains(digits);
            if let Some(load) = loads.remove(digits) {
                state.takes_anyone = load.takes_anyone;
                state.pin_sessions = load.pin_sessions;
                state.pin_weight = load.pin_weight;
                state.profile = load.profile;
            }
            state
        })
        .collect())
}

/// The numbers on which one of `parties` is in an active session, other than `but`.
async fn busy_numbers(
    connection: &mut SqliteConnection,
    parties: [Option<&E164>; 2],
    but: Option<Uuid>,
    now: Timestamp,
) -> Result<HashSet<String>, StoreError> {
    let [one, other] = parties.map(digits);
    let rows = sqlx::query(
        "SELECT virtual_number FROM sessions
         WHERE first_party IN ($1, $2) AND ends_at > $3 AND ended_at IS NULL AND uuid <> $4
         UNION SELECT virtual_number FROM sessions
         WHERE second_party IN ($1, $2) AND ends_at > $3 AND ended_at IS NULL AND uuid <> $4",
    )
    .bind(one)
    .bind(other)
    .bind(micros(now))
    .bind(but.map(|uuid| uuid.to_string()).unwrap_or_default())
    .fetch_all(connection)
    .await?;
    rows.iter().map(|row| row.text("virtual_number")).collect()
}

async fn resting_numbers(
    connection: &mut SqliteConnection,
    now: Timestamp,
) -> Result<HashSet<String>, StoreError> {
    let rows = sqlx::query(
        "SELECT DISTINCT virtual_number FROM sessions
         WHERE rests_until IS NOT NULL AND rests_until > $1 AND (ends_at <= $1 OR ended_at IS NOT NULL)",
    )
    .bind(micros(now))
    .fetch_all(connection)
    .await?;
    rows.iter().map(|row| row.text("virtual_number")).collect()
}

/// What the sessions that take strangers do to one number.
struct StrangerLoad {
    takes_anyone: bool,
    pin_sessions: u64,
    pin_weight: PinWeight,
    profile: Option<StrangerProfile>,
}

async fn stranger_loads(
    connection: &mut SqliteConnection,
    now: Timestamp,
) -> Result<HashMap<String, StrangerLoad>, StoreError> {
    let rows = sqlx::query(
        "SELECT virtual_number, COUNT(first_party_pin) AS pin_sessions, COUNT(*) AS all_sessions,
                CAST(SUM(pin_weight) AS BIGINT) AS weight, MAX(stranger_profile) AS profile
         FROM sessions WHERE takes_strangers = 1 AND ends_at > $1 AND ended_at IS NULL GROUP BY virtual_number",
    )
    .bind(micros(now))
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|row| {
            let pin_sessions = row.unsigned("pin_sessions")?;
            let load = StrangerLoad {
                takes_anyone: row.unsigned::<u64>("all_sessions")? > pin_sessions,
                pin_sessions,
                pin_weight: PinWeight(row.unsigned("weight")?),
                profile: row.text_opt("profile")?.map(StrangerProfile::from_stored),
            };
            Ok((row.text("virtual_number")?, load))
        })
        .collect()
}

/// The PIN settings with PINs that fit on `number`; drawn ones are drawn so that they do. The outer `None`:
/// this number cannot carry them.
async fn fit_pins(
    connection: &mut SqliteConnection,
    number: &Did,
    wanted: Option<&NewPin>,
    rng: &mut StdRng,
    now: Timestamp,
) -> Result<Option<Option<PinSettings>>, StoreError> {
    let Some(wanted) = wanted else { return Ok(Some(None)) };
    // The given one first: a drawn one must fit beside it.
    let given: Vec<&Pin> =
        [&wanted.first_party_pin, &wanted.second_party_pin].into_iter().flatten().collect();
    for pin in &given {
        if !is_free(connection, number, pin, now).await? {
            return Ok(None);
        }
    }
    if let [one, other] = given.as_slice()
        && !prefix_free(one, other)
    {
        return Ok(None);
    }
    let first = match &wanted.first_party_pin {
        Some(pin) => pin.clone(),
        None => {
            let beside = wanted.second_party_pin.as_ref();
            match draw_free(connection, number, beside, wanted.generate_length, rng, now).await? {
                Some(pin) => pin,
                None => return Ok(None),
            }
        }
    };
    let second = match &wanted.second_party_pin {
        Some(pin) => pin.clone(),
        None => match draw_free(connection, number, Some(&first), wanted.generate_length, rng, now).await? {
            Some(pin) => pin,
            None => return Ok(None),
        },
    };
    Ok(Some(Some(PinSettings {
        first_party_pin: first,
        second_party_pin: second,
        prompt_play: wanted.prompt_play.clone(),
        retry: wanted.retry,
        retry_wait: wanted.retry_wait,
        incorrect_play: wanted.incorrect_play.clone(),
        force: wanted.force,
        generated: wanted.generated,
        generate_length: wanted.generate_length,
    })))
}

async fn draw_free(
    connection: &mut SqliteConnection,
    number: &Did,
    beside: Option<&Pin>,
    length: u8,
    rng: &mut StdRng,
    now: Timestamp,
) -> Result<Option<Pin>, StoreError> {
    for _ in 0..DRAWS {
        let pin = draw_pin(length, rng);
        if beside.is_none_or(|other| prefix_free(&pin, other))
            && is_free(connection, number, &pin, now).await?
        {
            return Ok(Some(pin));
        }
    }
    Ok(None)
}

/// Whether `pin` is prefix-free among the PINs on `number`, those of the last 24 hours included.
async fn is_free(
    connection: &mut SqliteConnection,
    number: &Did,
    pin: &Pin,
    now: Timestamp,
) -> Result<bool, StoreError> {
    // Every PIN has four digits at least, so whatever collides begins with the same four. ':' follows '9'.
    let start = pin.digits().get(..4).unwrap_or_default();
    let rows = sqlx::query(
        "SELECT first_party_pin AS pin FROM sessions
         WHERE virtual_number = $1 AND first_party_pin >= $2 AND first_party_pin < $3 AND ends_at > $4
         UNION ALL SELECT second_party_pin AS pin FROM sessions
         WHERE virtual_number = $1 AND second_party_pin >= $2 AND second_party_pin < $3 AND ends_at > $4",
    )
    .bind(number.digits())
    .bind(start)
    .bind(format!("{start}:"))
    .bind(micros(now).saturating_sub(super::row::duration_micros(PIN_REST)))
    .fetch_all(connection)
    .await?;
    for row in &rows {
        let taken = Pin::parse(&row.text("pin")?).ok_or(StoreError::Corrupt("pin"))?;
        if !prefix_free(pin, &taken) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// When the number may be used by others again; `None`: at once.
fn rests_until(session: &MaskingSession) -> Option<i64> {
    (!session.cooloff.is_zero()).then(|| micros(after(session.ends_at(), session.cooloff)))
}

async fn insert(connection: &mut SqliteConnection, session: &MaskingSession) -> Result<(), StoreError> {
    const INSERT: &str = concat!(
        "INSERT INTO sessions (",
        columns!(),
        ", ends_at, takes_strangers, pin_weight, stranger_profile, rests_until) VALUES ($1, $2, $3, $4, $5, \
         $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25, $26, \
         $27, $28, $29, $30, $31, $32, $33, $34, $35, $36, $37, $38, $39)"
    );
    let pin = session.pin.as_ref();
    let weight = pin.map(|pin| PinWeight::of_lengths(pin.first_party_pin.len(), pin.second_party_pin.len()));
    let profile = pin.map(|pin| StrangerProfile::of_pin(pin, &session.unknown_caller_play));
    sqlx::query(INSERT)
        .bind(session.uuid.to_string())
        .bind(&session.account)
        .bind(&session.subaccount)
        .bind(session.virtual_number.digits())
        .bind(digits(session.first_party.as_ref()))
        .bind(digits(session.second_party.as_ref()))
        .bind(micros(session.created_at))
        .bind(micros(session.modified_at))
        .bind(micros(session.expires_at))
        .bind(session.ended_at.map(micros))
        .bind(seconds(session.call_time_limit))
        .bind(seconds(session.ring_timeout))
        .bind(i64::from(session.record))
        .bind(session.record_file_format.as_str())
        .bind(&session.recording_callback_url)
        .bind(session.recording_callback_method.as_str())
        .bind(&session.callback_url)
        .bind(session.callback_method.as_str())
        .bind(i64::from(session.initiate_call_to_first_party))
        .bind(&session.first_party_play_url)
        .bind(&session.second_party_play_url)
        .bind(&session.unknown_caller_play)
        .bind(i64::from(session.geomatch))
        .bind(session.single_party.map(i64::from))
        .bind(seconds(session.cooloff))
        .bind(pin.map(|pin| pin.first_party_pin.digits()))
        .bind(pin.map(|pin| pin.second_party_pin.digits()))
        .bind(pin.map(|pin| pin.prompt_play.as_str()))
        .bind(pin.map(|pin| i64::from(pin.retry)))
        .bind(pin.map(|pin| seconds(pin.retry_wait)))
        .bind(pin.map(|pin| pin.incorrect_play.as_str()))
        .bind(pin.map(|pin| i64::from(pin.force)))
        .bind(pin.map(|pin| i64::from(pin.generated)))
        .bind(pin.map(|pin| i64::from(pin.generate_length)))
        .bind(micros(session.ends_at()))
        .bind(i64::from(session.takes_strangers()))
        .bind(i64::try_from(weight.unwrap_or_default().0).unwrap_or(i64::MAX))
        .bind(profile.as_ref().map(StrangerProfile::as_str))
        .bind(rests_until(session))
        .execute(connection)
        .await?;
    Ok(())
}

struct Update {
    account: String,
    uuid: Uuid,
    update: SessionUpdate,
    now: Timestamp,
}

impl Write for Update {
    type Done = Result<MaskingSession, ChangeRefusal>;

    async fn apply(self, connection: &mut SqliteConnection) -> Result<Self::Done, StoreError> {
        let Self { account, uuid, update, now } = self;
        let mut session = match active(connection, &account, uuid, now).await? {
            Ok(session) => session,
            Err(refusal) => return Ok(Err(refusal)),
        };
        if let Err(refusal) = set_parties(connection, &mut session, &update, now).await? {
            return Ok(Err(refusal));
        }
        session.modified_at = now;
        if let Some(expiry) = update.expiry {
            session.expires_at = after(now, expiry);
        }
        let set =
            |place: &mut String, value: Option<String>| value.into_iter().for_each(|value| *place = value);
        set(&mut session.recording_callback_url, update.recording_callback_url);
        set(&mut session.callback_url, update.callback_url);
        set(&mut session.first_party_play_url, update.first_party_play_url);
        set(&mut session.second_party_play_url, update.second_party_play_url);
        session.call_time_limit = update.call_time_limit.unwrap_or(session.call_time_limit);
        session.ring_timeout = update.ring_timeout.unwrap_or(session.ring_timeout);
        session.record = update.record.unwrap_or(session.record);
        session.record_file_format = update.record_file_format.unwrap_or(session.record_file_format);
        session.recording_callback_method =
            update.recording_callback_method.unwrap_or(session.recording_callback_method);
        session.callback_method = update.callback_method.unwrap_or(session.callback_method);
        save(connection, &session).await?;
        Ok(Ok(session))
    }
}

/// Fills in the parties of a single-party session, as long as one is missing.
async fn set_parties(
    connection: &mut SqliteConnection,
    session: &mut MaskingSession,
    update: &SessionUpdate,
    now: Timestamp,
) -> Result<Result<(), ChangeRefusal>, StoreError> {
    let differs = |present: &Option<E164>, wanted: &Option<E164>| wanted.is_some() && wanted != present;
    if !differs(&session.first_party, &update.first_party)
        && !differs(&session.second_party, &update.second_party)
    {
        return Ok(Ok(()));
    }
    let incomplete = session.first_party.is_none() || session.second_party.is_none();
    if session.single_party != Some(true) || !incomplete {
        return Ok(Err(ChangeRefusal::PartiesFixed));
    }
    let first = update.first_party.clone().or_else(|| session.first_party.clone());
    let second = update.second_party.clone().or_else(|| session.second_party.clone());
    if first == second {
        return Ok(Err(ChangeRefusal::SameParty));
    }
    let busy = busy_numbers(connection, [first.as_ref(), second.as_ref()], Some(session.uuid), now).await?;
    if busy.contains(session.virtual_number.digits()) {
        return Ok(Err(ChangeRefusal::PartyBusy));
    }
    session.first_party = first;
    session.second_party = second;
    Ok(Ok(()))
}

struct Expire {
    account: String,
    uuid: Uuid,
    now: Timestamp,
}

impl Write for Expire {
    type Done = Result<MaskingSession, ChangeRefusal>;

    async fn apply(self, connection: &mut SqliteConnection) -> Result<Self::Done, StoreError> {
        let mut session = match active(connection, &self.account, self.uuid, self.now).await? {
            Ok(session) => session,
            Err(refusal) => return Ok(Err(refusal)),
        };
        session.modified_at = self.now;
        session.ended_at = Some(self.now);
        save(connection, &session).await?;
        Ok(Ok(session))
    }
}

/// The account's session, if it can still be changed.
async fn active(
    connection: &mut SqliteConnection,
    account: &str,
    uuid: Uuid,
    now: Timestamp,
) -> Result<Result<MaskingSession, ChangeRefusal>, StoreError> {
    let row = sqlx::query(BY_UUID).bind(uuid.to_string()).bind(account).fetch_optional(connection).await?;
    let Some(row) = row else { return Ok(Err(ChangeRefusal::NotFound)) };
    let session = session(&row)?;
    Ok(if session.is_active(now) { Ok(session) } else { Err(ChangeRefusal::Expired) })
}

/// Writes back what an update or a deletion may have changed.
async fn save(connection: &mut SqliteConnection, session: &MaskingSession) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE sessions SET first_party = $2, second_party = $3, modified_at = $4, expires_at = $5,
             ended_at = $6, ends_at = $7, call_time_limit = $8, ring_timeout = $9, record = $10,
             record_file_format = $11, recording_callback_url = $12, recording_callback_method = $13,
             callback_url = $14, callback_method = $15, first_party_play_url = $16,
             second_party_play_url = $17, takes_strangers = $18, rests_until = $19
         WHERE uuid = $1",
    )
    .bind(session.uuid.to_string())
    .bind(digits(session.first_party.as_ref()))
    .bind(digits(session.second_party.as_ref()))
    .bind(micros(session.modified_at))
    .bind(micros(session.expires_at))
    .bind(session.ended_at.map(micros))
    .bind(micros(session.ends_at()))
    .bind(seconds(session.call_time_limit))
    .bind(seconds(session.ring_timeout))
    .bind(i64::from(session.record))
    .bind(session.record_file_format.as_str())
    .bind(&session.recording_callback_url)
    .bind(session.recording_callback_method.as_str())
    .bind(&session.callback_url)
    .bind(session.callback_method.as_str())
    .bind(&session.first_party_play_url)
    .bind(&session.second_party_play_url)
    .bind(i64::from(session.takes_strangers()))
    .bind(rests_until(session))
    .execute(connection)
    .await?;
    Ok(())
}

fn digits(party: Option<&E164>) -> Option<String> {
    party.map(|party| party.digits().to_owned())
}

fn session(row: &SqliteRow) -> Result<MaskingSession, StoreError> {
    let method = |column| HttpMethod::parse(&row.text(column)?).ok_or(StoreError::Corrupt(column));
    let format = row.text("record_file_format")?;
    Ok(MaskingSession {
        uuid: row.uuid("uuid")?,
        account: row.text("account")?,
        subaccount: row.text_opt("subaccount")?,
        virtual_number: row.did("virtual_number")?,
        first_party: row.party("first_party")?,
        second_party: row.party("second_party")?,
        created_at: row.time("created_at")?,
        modified_at: row.time("modified_at")?,
        expires_at: row.time("expires_at")?,
        ended_at: row.time_opt("ended_at")?,
        call_time_limit: row.duration("call_time_limit")?,
        ring_timeout: row.duration("ring_timeout")?,
        record: row.flag("record")?,
        record_file_format: RecordFormat::parse(&format).ok_or(StoreError::Corrupt("record_file_format"))?,
        recording_callback_url: row.text("recording_callback_url")?,
        recording_callback_method: method("recording_callback_method")?,
        callback_url: row.text("callback_url")?,
        callback_method: method("callback_method")?,
        initiate_call_to_first_party: row.flag("initiate_call")?,
        first_party_play_url: row.text("first_party_play_url")?,
        second_party_play_url: row.text("second_party_play_url")?,
        pin: pin_settings(row)?,
        unknown_caller_play: row.text("unknown_caller_play")?,
        geomatch: row.flag("geomatch")?,
        single_party: row.integer_opt("single_party")?.map(|flag| flag != 0),
        cooloff: row.duration("cooloff")?,
    })
}

fn pin_settings(row: &SqliteRow) -> Result<Option<PinSettings>, StoreError> {
    let pin = |column| {
        let digits = row.text_opt(column)?;
        digits.map(|digits| Pin::parse(&digits).ok_or(StoreError::Corrupt(column))).transpose()
    };
    let (Some(first_party_pin), Some(second_party_pin)) = (pin("first_party_pin")?, pin("second_party_pin")?)
    else {
        return Ok(None);
    };
    Ok(Some(PinSettings {
        first_party_pin,
        second_party_pin,
        prompt_play: row.text("pin_prompt_play")?,
        retry: row.unsigned("pin_retry")?,
        retry_wait: row.duration("pin_retry_wait")?,
        incorrect_play: row.text("incorrect_pin_play")?,
        force: row.flag("pin_force")?,
        generated: row.flag("pin_generated")?,
        generate_length: row.unsigned("pin_length")?,
    }))
}

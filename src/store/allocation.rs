//! The choice of a virtual number, in the transaction that also creates the session.
//!
//! It gathers what [`crate::masking::allocate`] decides on: who is busy where, which numbers rest, what
//! strangers find on each. PINs are looked up for the numbers that are left only, best first, and so are the sessions
//! themselves that take strangers.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rand::rngs::StdRng;
use uuid::Uuid;

use super::row::{Columns, after, duration_micros, micros};
use super::session_row::{digits, insert, session};
use super::session_types::{NewPin, NewSession};
use super::sessions::BY_UUID;
use super::sql::{Connection, query};
use super::writer::Write;
use super::{Directory, StoreError, number_loads, number_writes};
use crate::masking::allocate::{
    self, Country, NumberState, PinWeight, Refusal, StrangerProfile, Strangers, Wish, draw_pin, prefix_free,
};
use crate::masking::session::{MaskingSession, Pin, PinSettings};
use crate::number::{Did, E164};

/// A PIN counts for so long after its session ended: who still knows it must not reach somebody else with it.
const PIN_REST: Duration = Duration::from_secs(24 * 3600);
/// No number rests longer, so no session that ended earlier is looked at.
const MAX_COOLOFF: Duration = Duration::from_secs(3600);
/// How often a PIN is drawn for one number before the next number is tried.
const DRAWS: usize = 256;

/// The write that creates a session.
pub(super) struct Create {
    pub(super) session: NewSession,
    pub(super) uuid: Uuid,
    pub(super) rng: StdRng,
    pub(super) directory: Arc<Directory>,
    pub(super) now: Timestamp,
    /// It was done before, and nobody knows what became of that.
    pub(super) again: bool,
}

impl Write for Create {
    type Done = Result<MaskingSession, Refusal>;

    fn touched(done: &Self::Done) -> Option<&Did> {
        done.as_ref().ok().map(|session| &session.virtual_number)
    }

    fn locks(&self) -> Option<&str> {
        Some(&self.session.account)
    }

    async fn apply(&mut self, connection: &mut Connection) -> Result<Self::Done, StoreError> {
        let Self { session: new, uuid, rng, directory, now, again } = self;
        let now = *now;
        if std::mem::replace(again, true) {
            let made = query(BY_UUID).bind(*uuid).bind(&new.account);
            if let Some(made) = made.fetch_optional(&mut *connection).await? {
                return Ok(Ok(session(&made)?));
            }
        }
        let wish = wish(new);
        let states = number_states(connection, directory, new, &wish.strangers, now).await?;
        let ranked = match allocate::rank(&states, &wish) {
            Ok(ranked) => ranked,
            Err(refusal) => return Ok(Err(refusal)),
        };
        for number in ranked {
            // What is in memory may be older than a change of the numbers that is committed.
            if !number_writes::takes_sessions(connection, &number.did).await? {
                continue;
            }
            if wish.strangers != Strangers::None
                && !number_loads::of_number(connection, &number.did, now).await?.admits(&wish.strangers)
            {
                number_loads::spoil(connection, &number.did).await?;
                continue;
            }
            let Some(pin) = fit_pins(connection, &number.did, new.pin.as_ref(), rng, now).await? else {
                continue;
            };
            let session = new.clone().into_session(*uuid, number.did.clone(), pin, now);
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

/// The numbers of the account or of its sub-account in order of first fit, each with what is on it now.
async fn number_states(
    connection: &mut Connection,
    directory: &Directory,
    new: &NewSession,
    strangers: &Strangers,
    now: Timestamp,
) -> Result<Vec<NumberState>, StoreError> {
    let busy =
        busy_numbers(connection, [new.first_party.as_ref(), new.second_party.as_ref()], None, now).await?;
    let resting = resting_numbers(connection, now).await?;
    let mut loads = match strangers {
        Strangers::None => HashMap::new(),
        _ => number_loads::of_account(connection, &new.account, now).await?,
    };
    let subaccount = new.subaccount.as_deref();
    let pool = directory.numbers.iter().filter(|pooled| pooled.takes_sessions_of(&new.account, subaccount));
    Ok(pool
        .map(|pooled| {
            let mut state = NumberState::unused(pooled.number.did.clone(), pooled.country);
            let digits = pooled.number.did.digits();
            state.busy = busy.contains(digits);
            state.resting = resting.contains(digits);
            state.load = loads.remove(digits).unwrap_or_default();
            state
        })
        .collect())
}

/// The numbers on which one of `parties` is in an active session, other than `but`.
pub(super) async fn busy_numbers(
    connection: &mut Connection,
    parties: [Option<&E164>; 2],
    but: Option<Uuid>,
    now: Timestamp,
) -> Result<HashSet<String>, StoreError> {
    let [one, other] = parties.map(digits);
    let rows = query(
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

async fn resting_numbers(connection: &mut Connection, now: Timestamp) -> Result<HashSet<String>, StoreError> {
    let rows = query(
        "SELECT DISTINCT virtual_number FROM sessions
         WHERE rests_until IS NOT NULL AND rests_until > $1 AND ends_at <= $1 AND ends_at > $2",
    )
    .bind(micros(now))
    .bind(micros(now).saturating_sub(duration_micros(MAX_COOLOFF)))
    .fetch_all(connection)
    .await?;
    rows.iter().map(|row| row.text("virtual_number")).collect()
}

/// The PIN settings with PINs that fit on `number`; drawn ones are drawn so that they do. The outer `None`:
/// this number cannot carry them.
async fn fit_pins(
    connection: &mut Connection,
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
    connection: &mut Connection,
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
    connection: &mut Connection,
    number: &Did,
    pin: &Pin,
    now: Timestamp,
) -> Result<bool, StoreError> {
    // Every PIN has four digits at least, so whatever collides begins with the same four. Not by a range: what lies
    // between two texts is a matter of PostgreSQL's locale.
    let start = pin.digits().get(..4).unwrap_or_default();
    let rows = query(
        "SELECT first_party_pin AS pin FROM sessions
         WHERE virtual_number = $1 AND first_party_pin IS NOT NULL AND substr(first_party_pin, 1, 4) = $2 AND ends_at > $3
         UNION ALL SELECT second_party_pin AS pin FROM sessions
         WHERE virtual_number = $1 AND second_party_pin IS NOT NULL AND substr(second_party_pin, 1, 4) = $2 AND ends_at > $3",
    )
    .bind(number.digits())
    .bind(start)
    .bind(micros(now).saturating_sub(duration_micros(PIN_REST)))
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

//! What strangers find on each number, summed up beside the sessions.
//!
//! A session with PIN goes to the number that has the fewest of them, so a create must know how many are on each of
//! perhaps thousands. `number_loads` has the sum of each number: a new session is added to it in the transaction that
//! creates it; one that ends, by time or because it is deleted, makes it stale, and the next create that asks sums the
//! sessions of that number up anew. The sums put the numbers in order; whether the one that is taken really fits is
//! asked of its sessions ([`of_number`]).

use std::collections::HashMap;

use jiff::Timestamp;

use super::StoreError;
use super::row::{Columns, micros};
use super::sql::{Connection, Row, query};
use crate::masking::allocate::{PinWeight, StrangerLoad, StrangerProfile};
use crate::number::Did;

/// A new session that takes strangers.
pub(super) struct Added<'a> {
    pub(super) number: &'a Did,
    pub(super) account: &'a str,
    /// Weight and profile of one with PIN.
    pub(super) pin: Option<(PinWeight, &'a StrangerProfile)>,
    /// In microseconds.
    pub(super) ends_at: i64,
}

/// Counts a session that has just been stored.
pub(super) async fn add(connection: &mut Connection, added: Added<'_>) -> Result<(), StoreError> {
    let (weight, profile) = added.pin.map(|(weight, profile)| (weight.0, profile.as_str())).unzip();
    query(
        "INSERT INTO number_loads
             (virtual_number, account, sessions, pin_sessions, pin_weight, stranger_profile, stale_at)
         VALUES ($1, $2, 1, $3, $4, $5, $6)
         ON CONFLICT (virtual_number) DO UPDATE SET account = excluded.account,
             sessions = number_loads.sessions + 1,
             pin_sessions = number_loads.pin_sessions + excluded.pin_sessions,
             pin_weight = number_loads.pin_weight + excluded.pin_weight,
             stranger_profile = COALESCE(excluded.stranger_profile, number_loads.stranger_profile),
             stale_at = CASE WHEN excluded.stale_at < number_loads.stale_at
                             THEN excluded.stale_at ELSE number_loads.stale_at END",
    )
    .bind(added.number.digits())
    .bind(added.account)
    .bind(i64::from(added.pin.is_some()))
    .bind(weight.map_or(0, |weight| i64::try_from(weight).unwrap_or(i64::MAX)))
    .bind(profile)
    .bind(added.ends_at)
    .execute(connection)
    .await?;
    Ok(())
}

/// A session on the number has ended, or its end has changed.
pub(super) async fn spoil(connection: &mut Connection, number: &Did) -> Result<(), StoreError> {
    query("UPDATE number_loads SET stale_at = 0 WHERE virtual_number = $1")
        .bind(number.digits())
        .execute(connection)
        .await?;
    Ok(())
}

/// The load of every number on which the account's sessions take strangers, by the digits of the number.
pub(super) async fn of_account(
    connection: &mut Connection,
    account: &str,
    now: Timestamp,
) -> Result<HashMap<String, StrangerLoad>, StoreError> {
    query(
        "UPDATE number_loads SET (sessions, pin_sessions, pin_weight, stranger_profile, stale_at) =
             (SELECT COUNT(*), COUNT(first_party_pin), CAST(COALESCE(SUM(pin_weight), 0) AS BIGINT),
                     MAX(stranger_profile), COALESCE(MIN(ends_at), $3)
              FROM sessions WHERE virtual_number = number_loads.virtual_number AND takes_strangers = 1
                  AND ends_at > $2 AND ended_at IS NULL)
         WHERE account = $1 AND stale_at <= $2",
    )
    .bind(account)
    .bind(micros(now))
    .bind(i64::MAX)
    .execute(&mut *connection)
    .await?;
    // A row costs far more than what is in it, and most numbers are loaded like many others.
    let rows = query(
        "SELECT string_agg(virtual_number, ' ') AS numbers, sessions AS all_sessions, pin_sessions,
                pin_weight AS weight, stranger_profile AS profile
         FROM number_loads WHERE account = $1 GROUP BY pin_sessions, sessions, pin_weight, stranger_profile",
    )
    .bind(account)
    .fetch_all(connection)
    .await?;
    let mut loads = HashMap::new();
    for row in &rows {
        let load = load(row)?;
        let numbers = row.text("numbers")?;
        loads.extend(numbers.split(' ').map(|number| (number.to_owned(), load.clone())));
    }
    Ok(loads)
}

/// The load of one number, from its sessions.
pub(super) async fn of_number(
    connection: &mut Connection,
    number: &Did,
    now: Timestamp,
) -> Result<StrangerLoad, StoreError> {
    let row = query(
        "SELECT COUNT(*) AS all_sessions, COUNT(first_party_pin) AS pin_sessions,
                CAST(COALESCE(SUM(pin_weight), 0) AS BIGINT) AS weight, MAX(stranger_profile) AS profile
         FROM sessions WHERE virtual_number = $1 AND takes_strangers = 1 AND ends_at > $2 AND ended_at IS NULL",
    )
    .bind(number.digits())
    .bind(micros(now))
    .fetch_one(connection)
    .await?;
    load(&row)
}

fn load(row: &Row) -> Result<StrangerLoad, StoreError> {
    let pin_sessions = row.unsigned("pin_sessions")?;
    Ok(StrangerLoad {
        takes_anyone: row.unsigned::<u64>("all_sessions")? > pin_sessions,
        pin_sessions,
        pin_weight: PinWeight(row.unsigned("weight")?),
        profile: row.text_opt("profile")?.map(StrangerProfile::from_stored),
    })
}

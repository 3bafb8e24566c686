//! A masking session as a row: written whole, changed in part, read back.

use super::StoreError;
use super::number_loads::{self, Added};
use super::row::{Columns, after, micros, seconds};
use super::session_count::count_end;
use super::sql::{Connection, Row, query};
use crate::masking::allocate::{PinWeight, StrangerProfile};
use crate::masking::session::{HttpMethod, MaskingSession, Pin, PinSettings, RecordFormat};
use crate::number::E164;

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

pub(super) use columns;

/// When the number may be used by others again; `None`: at once.
fn rests_until(session: &MaskingSession) -> Option<i64> {
    (!session.cooloff.is_zero()).then(|| micros(after(session.ends_at(), session.cooloff)))
}

pub(super) async fn insert(connection: &mut Connection, session: &MaskingSession) -> Result<(), StoreError> {
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
    query(INSERT)
        .bind(session.uuid)
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
        .execute(&mut *connection)
        .await?;
    let ends_at = micros(session.ends_at());
    if session.takes_strangers() {
        let (number, account) = (&session.virtual_number, session.account.as_str());
        let added = Added { number, account, pin: weight.zip(profile.as_ref()), ends_at };
        number_loads::add(connection, added).await?;
    }
    count_end(connection, &session.account, None, ends_at).await
}

/// What sums depend on, as it was before a change.
pub(super) struct Before {
    ends_at: i64,
    takes_strangers: bool,
}

impl Before {
    pub(super) fn of(session: &MaskingSession) -> Self {
        Self { ends_at: micros(session.ends_at()), takes_strangers: session.takes_strangers() }
    }
}

/// Writes back what an update or a deletion may have changed of an active session.
pub(super) async fn save(
    connection: &mut Connection,
    session: &MaskingSession,
    before: Before,
) -> Result<(), StoreError> {
    query(
        "UPDATE sessions SET first_party = $2, second_party = $3, modified_at = $4, expires_at = $5,
             ended_at = $6, ends_at = $7, call_time_limit = $8, ring_timeout = $9, record = $10,
             record_file_format = $11, recording_callback_url = $12, recording_callback_method = $13,
             callback_url = $14, callback_method = $15, first_party_play_url = $16,
             second_party_play_url = $17, takes_strangers = $18, rests_until = $19, timeout_told = $20
         WHERE uuid = $1",
    )
    .bind(session.uuid)
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
    .bind(i64::from(session.ended_at.is_some()))
    .execute(&mut *connection)
    .await?;
    let now = Before::of(session);
    let changed = now.ends_at != before.ends_at || now.takes_strangers != before.takes_strangers;
    if changed && (now.takes_strangers || before.takes_strangers) {
        number_loads::spoil(connection, &session.virtual_number).await?;
    }
    count_end(connection, &session.account, Some(before.ends_at), now.ends_at).await
}

pub(super) fn digits(party: Option<&E164>) -> Option<String> {
    party.map(|party| party.digits().to_owned())
}

pub(super) fn session(row: &Row) -> Result<MaskingSession, StoreError> {
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

fn pin_settings(row: &Row) -> Result<Option<PinSettings>, StoreError> {
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

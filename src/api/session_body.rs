//! What a create or an update asks for, out of its parameters (`plivo-api.md` §3 names, our defaults).

use std::time::Duration;

use super::error::ApiError;
use super::params::Params;
use crate::masking::allocate::prefix_free;
use crate::masking::session::{HttpMethod, MIN_PIN_DIGITS, MaskingSession, PartyRole, RecordFormat};
use crate::number::E164;
use crate::store::{NewPin, NewSession, SessionUpdate};

const DAY_S: i64 = 86_400;
const DEFAULT_EXPIRY: Duration = Duration::from_secs(3600);
const DEFAULT_CALL_TIME_LIMIT: Duration = Duration::from_secs(14_400);
const DEFAULT_RING_TIMEOUT: Duration = Duration::from_secs(45);
const DEFAULT_PIN_RETRY: i64 = 1;
const DEFAULT_PIN_RETRY_WAIT: Duration = Duration::from_secs(5);
/// The longest ring that makes sense: carriers give up after about three minutes.
const MAX_RING_S: i64 = 600;

/// Brings other spellings of SDKs and older pages into the ones that are read.
fn settle_names(params: &mut Params) {
    params.alias("sub_account", "subaccount");
    params.alias("geo_match", "geomatch");
    params.alias("is_pin_authentication", "is_pin_authentication_required");
}

/// Reads the body of a create. `is_ours` tells our virtual numbers, which cannot be parties.
pub(super) fn new_session(
    mut params: Params,
    account: &str,
    is_ours: impl Fn(&E164) -> bool,
) -> Result<NewSession, ApiError> {
    settle_names(&mut params);
    let single_party = params.flag("create_session_with_single_party")?;
    let (first_party, second_party) = (params.party("first_party")?, params.party("second_party")?);
    match (&first_party, &second_party, single_party) {
        (None, None, Some(true)) => return Err(ApiError::missing("first_party or second_party")),
        (None, _, None | Some(false)) => return Err(ApiError::missing("first_party")),
        (_, None, None | Some(false)) => return Err(ApiError::missing("second_party")),
        _ => check_parties(first_party.as_ref(), second_party.as_ref(), is_ours)?,
    }
    let incomplete = first_party.is_none() || second_party.is_none();
    let initiate = params.flag("initiate_call_to_first_party")?.unwrap_or(false);
    if initiate && incomplete {
        return Err(ApiError::invalid("initiate_call_to_first_party", "is allowed only with both parties."));
    }
    Ok(NewSession {
        account: account.to_owned(),
        subaccount: params.text("subaccount")?,
        pin: new_pin(&params, incomplete)?,
        first_party,
        second_party,
        expiry: params.seconds("session_expiry", 1..=DAY_S)?.unwrap_or(DEFAULT_EXPIRY),
        call_time_limit: params.seconds("call_time_limit", 1..=DAY_S)?.unwrap_or(DEFAULT_CALL_TIME_LIMIT),
        ring_timeout: params.seconds("ring_timeout", 1..=MAX_RING_S)?.unwrap_or(DEFAULT_RING_TIMEOUT),
        record: params.flag("record")?.unwrap_or(true),
        record_file_format: params.record_format("record_file_format")?.unwrap_or(RecordFormat::Mp3),
        recording_callback_url: params.url("recording_callback_url")?.unwrap_or_default(),
        recording_callback_method: params.method("recording_callback_method")?.unwrap_or(HttpMethod::Post),
        callback_url: params.url("callback_url")?.unwrap_or_default(),
        callback_method: params.method("callback_method")?.unwrap_or(HttpMethod::Post),
        initiate_call_to_first_party: initiate,
        first_party_play_url: params.url("first_party_play_url")?.unwrap_or_default(),
        second_party_play_url: params.url("second_party_play_url")?.unwrap_or_default(),
        unknown_caller_play: params.url("unknown_caller_play")?.unwrap_or_default(),
        geomatch: params.flag("geomatch")?.unwrap_or(true),
        single_party,
        cooloff: params.seconds("virtual_number_cooloff_period", 1..=3600)?.unwrap_or_default(),
    })
}

fn check_parties(
    first: Option<&E164>,
    second: Option<&E164>,
    is_ours: impl Fn(&E164) -> bool,
) -> Result<(), ApiError> {
    if first.is_some() && first == second {
        return Err(ApiError::invalid("second_party", "must be another number than first_party."));
    }
    for (name, party) in [("first_party", first), ("second_party", second)] {
        // A call to it would come back to us.
        if party.is_some_and(&is_ours) {
            return Err(ApiError::invalid(name, "must not be one of the virtual numbers."));
        }
    }
    Ok(())
}

/// The PIN parameters; `None` without PIN authentication, whatever else is given. In a single-party session
/// one PIN is enough, the other is drawn.
fn new_pin(params: &Params, incomplete: bool) -> Result<Option<NewPin>, ApiError> {
    let force = params.flag("force_pin_authentication")?.unwrap_or(false);
    if !params.flag("is_pin_authentication_required")?.unwrap_or(false) {
        // Who wants a PIN even from registered callers must not silently get none at all.
        return if force {
            Err(ApiError::invalid(
                "force_pin_authentication",
                "is allowed only with is_pin_authentication_required.",
            ))
        } else {
            Ok(None)
        };
    }
    let generated = params.flag("generate_pin")?.unwrap_or(false);
    let length = params.integer("generate_pin_length", 0..=15)?.filter(|length| *length != 0);
    if length.is_some_and(|length| length < i64::from(MIN_PIN_DIGITS)) {
        return Err(ApiError::invalid(
            "generate_pin_length",
            "is outside the allowed range. Allowed: 4 to 15.",
        ));
    }
    let mut generate_length = length.and_then(|length| u8::try_from(length).ok()).unwrap_or(MIN_PIN_DIGITS);
    let (mut first, mut second) = (params.pin("first_party_pin")?, params.pin("second_party_pin")?);
    if generated {
        (first, second) = (None, None);
    } else {
        match (&first, &second) {
            (None, None) => return Err(ApiError::missing("first_party_pin")),
            (None, _) if !incomplete => return Err(ApiError::missing("first_party_pin")),
            (_, None) if !incomplete => return Err(ApiError::missing("second_party_pin")),
            (Some(pin), None) | (None, Some(pin)) => {
                generate_length = u8::try_from(pin.len()).unwrap_or(generate_length);
            }
            (Some(one), Some(other)) if !prefix_free(one, other) => {
                return Err(ApiError::invalid(
                    "second_party_pin",
                    "must differ from first_party_pin, and neither may begin with the other.",
                ));
            }
            _ => {}
        }
    }
    let retry = params.integer("pin_retry", 0..=5)?.unwrap_or(DEFAULT_PIN_RETRY);
    Ok(Some(NewPin {
        first_party_pin: first,
        second_party_pin: second,
        generate_length,
        generated,
        prompt_play: params.url("pin_prompt_play")?.unwrap_or_default(),
        retry: u8::try_from(retry).unwrap_or_default(),
        retry_wait: params.seconds("pin_retry_wait", 5..=10)?.unwrap_or(DEFAULT_PIN_RETRY_WAIT),
        incorrect_play: params.url("incorrect_pin_play")?.unwrap_or_default(),
        force,
    }))
}

/// Reads the body of an update. A fixed parameter is refused, unless it has the value that the session has.
pub(super) fn session_update(
    mut params: Params,
    session: &MaskingSession,
    is_ours: impl Fn(&E164) -> bool,
) -> Result<SessionUpdate, ApiError> {
    settle_names(&mut params);
    check_fixed(&params, session)?;
    let changed = |name, role| -> Result<Option<E164>, ApiError> {
        Ok(params.party(name)?.filter(|party| session.party(role) != Some(party)))
    };
    let first_party = changed("first_party", PartyRole::First)?;
    let second_party = changed("second_party", PartyRole::Second)?;
    let incomplete = session.first_party.is_none() || session.second_party.is_none();
    for (name, party) in [("first_party", &first_party), ("second_party", &second_party)] {
        if party.is_some() && !(session.single_party == Some(true) && incomplete) {
            return Err(fixed(name));
        }
    }
    let first = first_party.as_ref().or(session.first_party.as_ref());
    check_parties(first, second_party.as_ref().or(session.second_party.as_ref()), is_ours)?;
    Ok(SessionUpdate {
        expiry: params.seconds("session_expiry", 1..=DAY_S)?,
        call_time_limit: params.seconds("call_time_limit", 1..=DAY_S)?,
        ring_timeout: params.seconds("ring_timeout", 1..=MAX_RING_S)?,
        record: params.flag("record")?,
        record_file_format: params.record_format("record_file_format")?,
        recording_callback_url: params.url("recording_callback_url")?,
        recording_callback_method: params.method("recording_callback_method")?,
        callback_url: params.url("callback_url")?,
        callback_method: params.method("callback_method")?,
        first_party_play_url: params.url("first_party_play_url")?,
        second_party_play_url: params.url("second_party_play_url")?,
        first_party,
        second_party,
    })
}

fn fixed(name: &str) -> ApiError {
    ApiError::invalid(name, "cannot be changed after the session was created.")
}

fn check_fixed(params: &Params, session: &MaskingSession) -> Result<(), ApiError> {
    let pin = session.pin.as_ref();
    let flags = [
        ("initiate_call_to_first_party", session.initiate_call_to_first_party),
        ("is_pin_authentication_required", pin.is_some()),
        ("generate_pin", pin.is_some_and(|pin| pin.generated)),
        ("force_pin_authentication", pin.is_some_and(|pin| pin.force)),
        ("geomatch", session.geomatch),
        ("create_session_with_single_party", session.single_party.unwrap_or(false)),
    ];
    for (name, present) in flags {
        if params.flag(name)?.is_some_and(|given| given != present) {
            return Err(fixed(name));
        }
    }
    let texts = [
        ("pin_prompt_play", pin.map(|pin| pin.prompt_play.as_str())),
        ("incorrect_pin_play", pin.map(|pin| pin.incorrect_play.as_str())),
        ("unknown_caller_play", Some(session.unknown_caller_play.as_str())),
        ("subaccount", session.subaccount.as_deref()),
    ];
    for (name, present) in texts {
        if params.text(name)?.is_some_and(|given| Some(given.as_str()) != present) {
            return Err(fixed(name));
        }
    }
    for (name, role) in [("first_party_pin", PartyRole::First), ("second_party_pin", PartyRole::Second)] {
        if params.pin(name)?.is_some_and(|given| pin.map(|pin| pin.of(role)) != Some(&given)) {
            return Err(fixed(name));
        }
    }
    let whole = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    let numbers = [
        ("generate_pin_length", pin.map(|pin| i64::from(pin.generate_length)), true),
        ("pin_retry", pin.map(|pin| i64::from(pin.retry)), false),
        ("pin_retry_wait", pin.map(|pin| whole(pin.retry_wait)), true),
        ("virtual_number_cooloff_period", Some(whole(session.cooloff)), true),
    ];
    for (name, present, zero_is_not_given) in numbers {
        let given = params.integer(name, 0..=i64::MAX)?.filter(|given| !(zero_is_not_given && *given == 0));
        if given.is_some() && given != present {
            return Err(fixed(name));
        }
    }
    Ok(())
}

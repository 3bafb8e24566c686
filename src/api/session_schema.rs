//! The parameters of the session resource as `/openapi.json` describes them: the strict form. What is sent is read
//! by name and leniently, in `session_body` and `list`; a test holds both against each other.

// Never built, only described; the names are Plivo's.
#![allow(dead_code, non_snake_case)]

use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct AccountPath {
    /// The account's auth id.
    auth_id: String,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct SessionPath {
    /// The account's auth id.
    auth_id: String,
    /// The session's uuid.
    session_uuid: Uuid,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ExpireQuery {
    /// Hang up the session's live calls too.
    #[param(nullable = false, default = false)]
    hangup: Option<bool>,
}

/// A new session. Both parties are needed, unless `create_session_with_single_party` is true: then one is.
#[derive(ToSchema)]
pub(super) struct SessionCreate {
    /// Telephone number with its country code; `+` may be left out.
    #[schema(pattern = r"^\+?[1-9][0-9]{6,14}$", example = "+12025550142", nullable = false)]
    first_party: Option<String>,
    /// Telephone number with its country code; `+` may be left out.
    #[schema(pattern = r"^\+?[1-9][0-9]{6,14}$", example = "+12025550143", nullable = false)]
    second_party: Option<String>,
    /// Seconds until the session ends.
    #[schema(minimum = 1, maximum = 86400, default = 3600, nullable = false)]
    session_expiry: Option<i64>,
    /// The most seconds of each leg.
    #[schema(minimum = 1, maximum = 86400, default = 14400, nullable = false)]
    call_time_limit: Option<i64>,
    /// How many seconds each leg may ring.
    #[schema(minimum = 1, maximum = 600, default = 45, nullable = false)]
    ring_timeout: Option<i64>,
    /// Record the calls, from the moment at which both parties are connected.
    #[schema(default = true, nullable = false)]
    record: Option<bool>,
    #[schema(default = "mp3", nullable = false)]
    record_file_format: Option<Format>,
    /// Where recording events go; under 1000 characters.
    #[schema(pattern = r"^https?://[^\s]+$", max_length = 999, nullable = false)]
    recording_callback_url: Option<String>,
    #[schema(default = "POST", nullable = false)]
    recording_callback_method: Option<Method>,
    /// Where call events go; under 1000 characters.
    #[schema(pattern = r"^https?://[^\s]+$", max_length = 999, nullable = false)]
    callback_url: Option<String>,
    #[schema(default = "POST", nullable = false)]
    callback_method: Option<Method>,
    /// Call the first party at once and connect it with the second. Needs both parties.
    #[schema(default = false, nullable = false)]
    initiate_call_to_first_party: Option<bool>,
    /// A WAV or MP3 that the first party hears before it is connected.
    #[schema(pattern = r"^https?://[^\s]+$", max_length = 999, nullable = false)]
    first_party_play_url: Option<String>,
    /// A WAV or MP3 that the second party hears before it is connected.
    #[schema(pattern = r"^https?://[^\s]+$", max_length = 999, nullable = false)]
    second_party_play_url: Option<String>,
    /// Ask callers from unknown numbers for a PIN. Needs PINs, given or generated.
    #[schema(default = false, nullable = false)]
    is_pin_authentication_required: Option<bool>,
    /// Draw the PINs; the answer has them.
    #[schema(default = false, nullable = false)]
    generate_pin: Option<bool>,
    /// Digits of a drawn PIN.
    #[schema(minimum = 4, maximum = 15, default = 4, nullable = false)]
    generate_pin_length: Option<i64>,
    /// Whoever enters it reaches the second party. The two PINs differ, and neither begins with the other.
    #[schema(pattern = "^[0-9]{4,15}$", nullable = false)]
    first_party_pin: Option<String>,
    /// Whoever enters it reaches the first party.
    #[schema(pattern = "^[0-9]{4,15}$", nullable = false)]
    second_party_pin: Option<String>,
    /// A WAV or MP3 that asks for the PIN; without it a built-in one is played.
    #[schema(pattern = r"^https?://[^\s]+$", max_length = 999, nullable = false)]
    pin_prompt_play: Option<String>,
    /// Further entries after a wrong one.
    #[schema(minimum = 0, maximum = 5, default = 1, nullable = false)]
    pin_retry: Option<i64>,
    /// Seconds between a wrong entry and the next.
    #[schema(minimum = 5, maximum = 10, default = 5, nullable = false)]
    pin_retry_wait: Option<i64>,
    /// A WAV or MP3 that follows a wrong PIN.
    #[schema(pattern = r"^https?://[^\s]+$", max_length = 999, nullable = false)]
    incorrect_pin_play: Option<String>,
    /// A WAV or MP3 for callers whom no session takes.
    #[schema(pattern = r"^https?://[^\s]+$", max_length = 999, nullable = false)]
    unknown_caller_play: Option<String>,
    /// Ask the parties' own numbers for their PIN too. Only with `is_pin_authentication_required`.
    #[schema(default = false, nullable = false)]
    force_pin_authentication: Option<bool>,
    /// Take a virtual number of the first party's country only.
    #[schema(default = true, nullable = false)]
    geomatch: Option<bool>,
    /// Auth id of the sub-account whose virtual numbers are used.
    #[schema(nullable = false)]
    subaccount: Option<String>,
    /// Let one party be enough; whoever calls is the other one.
    #[schema(default = false, nullable = false)]
    create_session_with_single_party: Option<bool>,
    /// Seconds for which the virtual number is not used again after the session.
    #[schema(minimum = 0, maximum = 3600, default = 0, nullable = false)]
    virtual_number_cooloff_period: Option<i64>,
}

/// Changes of a session.
#[derive(ToSchema)]
pub(super) struct SessionUpdate {
    /// Seconds from now until the session ends.
    #[schema(minimum = 1, maximum = 86400, nullable = false)]
    session_expiry: Option<i64>,
    /// The most seconds of each leg.
    #[schema(minimum = 1, maximum = 86400, nullable = false)]
    call_time_limit: Option<i64>,
    /// How many seconds each leg may ring.
    #[schema(minimum = 1, maximum = 600, nullable = false)]
    ring_timeout: Option<i64>,
    /// Record the calls that begin from now on.
    #[schema(nullable = false)]
    record: Option<bool>,
    #[schema(nullable = false)]
    record_file_format: Option<Format>,
    /// Where recording events go; under 1000 characters.
    #[schema(pattern = r"^https?://[^\s]+$", max_length = 999, nullable = false)]
    recording_callback_url: Option<String>,
    #[schema(nullable = false)]
    recording_callback_method: Option<Method>,
    /// Where call events go; under 1000 characters.
    #[schema(pattern = r"^https?://[^\s]+$", max_length = 999, nullable = false)]
    callback_url: Option<String>,
    #[schema(nullable = false)]
    callback_method: Option<Method>,
    /// A WAV or MP3 that the first party hears before it is connected.
    #[schema(pattern = r"^https?://[^\s]+$", max_length = 999, nullable = false)]
    first_party_play_url: Option<String>,
    /// A WAV or MP3 that the second party hears before it is connected.
    #[schema(pattern = r"^https?://[^\s]+$", max_length = 999, nullable = false)]
    second_party_play_url: Option<String>,
    /// The missing party of a single-party session.
    #[schema(pattern = r"^\+?[1-9][0-9]{6,14}$", nullable = false)]
    first_party: Option<String>,
    /// The missing party of a single-party session.
    #[schema(pattern = r"^\+?[1-9][0-9]{6,14}$", nullable = false)]
    second_party: Option<String>,
}

#[derive(ToSchema)]
#[schema(as = RecordFileFormat, rename_all = "lowercase")]
enum Format {
    Mp3,
    Wav,
}

#[derive(ToSchema)]
#[schema(as = CallbackMethod, rename_all = "UPPERCASE")]
enum Method {
    Get,
    Post,
}

/// Times are UTC, `YYYY-MM-DD HH:MM[:ss[.uuuuuu]]`; one without a fraction means its whole second.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    #[param(nullable = false)]
    first_party: Option<String>,
    #[param(nullable = false)]
    second_party: Option<String>,
    #[param(nullable = false)]
    virtual_number: Option<String>,
    /// `active` includes `in-progress`.
    #[param(pattern = "^(active|in-progress|expired|all)$", default = "all", nullable = false)]
    status: Option<String>,
    /// Within this second or microsecond.
    #[param(nullable = false, example = "2024-02-01 06:28:15")]
    created_time: Option<String>,
    #[param(nullable = false)]
    created_time__gt: Option<String>,
    #[param(nullable = false)]
    created_time__gte: Option<String>,
    #[param(nullable = false)]
    created_time__lt: Option<String>,
    #[param(nullable = false)]
    created_time__lte: Option<String>,
    /// Within this second or microsecond.
    #[param(nullable = false, example = "2024-02-01 06:58:15")]
    expiry_time: Option<String>,
    #[param(nullable = false)]
    expiry_time__gt: Option<String>,
    #[param(nullable = false)]
    expiry_time__gte: Option<String>,
    #[param(nullable = false)]
    expiry_time__lt: Option<String>,
    #[param(nullable = false)]
    expiry_time__lte: Option<String>,
    /// In seconds.
    #[param(nullable = false, minimum = 0)]
    duration: Option<i64>,
    #[param(nullable = false, minimum = 0)]
    duration__gt: Option<i64>,
    #[param(nullable = false, minimum = 0)]
    duration__gte: Option<i64>,
    #[param(nullable = false, minimum = 0)]
    duration__lt: Option<i64>,
    #[param(nullable = false, minimum = 0)]
    duration__lte: Option<i64>,
    #[param(nullable = false)]
    subaccount: Option<String>,
    /// The most sessions of a page.
    #[param(nullable = false, minimum = 1, maximum = 20, default = 20)]
    limit: Option<i64>,
    /// How many sessions to leave out.
    #[param(nullable = false, minimum = 0, default = 0)]
    offset: Option<i64>,
}

//! Answers: JSON with an `api_id`, and `error` when something is wrong.

use std::borrow::Cow;
use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::{IntoResponses, ToSchema};
use uuid::Uuid;

use crate::masking::allocate::Refusal;
use crate::store::{AccountRefusal, ChangeRefusal, NumberRefusal, StoreError};

/// What every error looks like.
#[derive(Debug, ToSchema)]
#[schema(as = Error)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)] // Written by `reply`; here for `/openapi.json`.
pub(super) struct ErrorBody {
    /// Different for each request.
    api_id: Uuid,
    /// What is wrong, and what is allowed.
    error: String,
}

/// The errors that any request to an account's resources can meet.
#[derive(IntoResponses)]
#[allow(dead_code)] // For `/openapi.json`.
pub(super) enum Refusals {
    /// A parameter is missing or not allowed; the text names it and what is allowed.
    #[response(status = 400)]
    Invalid(ErrorBody),
    /// Not the credentials of the account that the path names.
    #[response(status = 401)]
    Unauthorized(ErrorBody),
    /// There is no such resource.
    #[response(status = 404)]
    NotFound(ErrorBody),
    /// The body did not arrive in time.
    #[response(status = 408)]
    TooSlow(ErrorBody),
    /// The body is too large.
    #[response(status = 413)]
    TooLarge(ErrorBody),
    /// Too many requests of this account.
    #[response(status = 429)]
    TooMany(ErrorBody),
    /// The database failed; the request may be repeated.
    #[response(status = 500)]
    Failed(ErrorBody),
}

/// The errors that besides can meet whoever changes accounts and numbers.
#[derive(IntoResponses)]
#[allow(dead_code)] // For `/openapi.json`.
pub(super) enum OwnerRefusals {
    /// The credentials are a sub-account's.
    #[response(status = 403)]
    OwnerOnly(ErrorBody),
    /// Something that is in use stands in the way; the text says what.
    #[response(status = 409)]
    Conflict(ErrorBody),
}

/// The error that besides can meet a create.
#[derive(IntoResponses)]
#[allow(dead_code)] // For `/openapi.json`.
pub(super) enum KeyRefusals {
    /// The `Idempotency-Key` was used for another request.
    #[response(status = 422)]
    Reused(ErrorBody),
}

/// Why a request is not done: status and text of the answer. The text never repeats a value that was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ApiError {
    pub(super) status: StatusCode,
    pub(super) text: Cow<'static, str>,
    /// For `Retry-After`, in seconds.
    retry_after_s: Option<u64>,
}

impl ApiError {
    fn new(status: StatusCode, text: impl Into<Cow<'static, str>>) -> Self {
        Self { status, text: text.into(), retry_after_s: None }
    }

    /// 400.
    pub(super) fn bad(text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, text)
    }

    /// 400, in Plivo's words for a value that is not allowed.
    pub(super) fn invalid(name: &str, expectation: &str) -> Self {
        Self::bad(format!("Invalid parameter. {name} {expectation}"))
    }

    /// 400, in Plivo's words for a value that is not there.
    pub(super) fn missing(name: &str) -> Self {
        Self::bad(format!("Mandatory parameter missing. {name} must be present."))
    }

    pub(super) fn unauthorized() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "Authentication failed. The auth id of the path and its auth token must be given by HTTP Basic.",
        )
    }

    /// 403: the credentials are a sub-account's.
    pub(super) fn owner_only() -> Self {
        Self::new(StatusCode::FORBIDDEN, "This needs the credentials of the main account.")
    }

    pub(super) fn not_found(text: &'static str) -> Self {
        Self::new(StatusCode::NOT_FOUND, text)
    }

    pub(super) fn no_session() -> Self {
        Self::not_found("Session not found.")
    }

    /// 409: it could be done, if something else were not as it is.
    pub(super) fn conflict(text: &'static str) -> Self {
        Self::new(StatusCode::CONFLICT, text)
    }

    /// 422: the key of an earlier create came with something else.
    pub(super) fn key_reused() -> Self {
        Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "This Idempotency-Key was used for another request within the last 24 hours.",
        )
    }

    /// 429, with the time after which it is worth another try.
    pub(super) fn too_many(text: &'static str, wait: Duration) -> Self {
        let seconds = wait.as_millis().div_ceil(1000).max(1);
        let retry_after_s = Some(u64::try_from(seconds).unwrap_or(u64::MAX));
        Self { retry_after_s, ..Self::new(StatusCode::TOO_MANY_REQUESTS, text) }
    }

    pub(super) fn method_not_allowed() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed.")
    }

    pub(super) fn too_large() -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "The body is too large. Allowed: 65536 bytes.")
    }

    pub(super) fn too_slow() -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "The body did not arrive in time.")
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = reply(self.status, [("error", Value::from(self.text))]);
        if let Some(seconds) = self.retry_after_s {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Basic realm=\"maskline\", charset=\"UTF-8\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "a request failed");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "Internal server error.")
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NoNumberInCountry(iso2) => Self::new(
                StatusCode::NOT_FOUND,
                format!(
                    "No compatible virtual numbers found for country code {iso2}. Please check the number \
                     masking reserved virtual numbers pool"
                ),
            ),
            Refusal::Exhausted => Self::bad("Number pool exhausted or not available."),
        }
    }
}

impl From<AccountRefusal> for ApiError {
    fn from(refusal: AccountRefusal) -> Self {
        match refusal {
            AccountRefusal::NotFound => Self::not_found("Subaccount not found."),
            AccountRefusal::Configured => Self::bad(
                "The token of this account stands in the configuration ([[accounts]]) and is changed there.",
            ),
            AccountRefusal::HasNumbers => Self::conflict(
                "Virtual numbers are assigned to this sub-account. Remove or assign them elsewhere first.",
            ),
            AccountRefusal::TooMany => Self::bad("The account has as many sub-accounts as it may have."),
        }
    }
}

impl From<NumberRefusal> for ApiError {
    fn from(refusal: NumberRefusal) -> Self {
        match refusal {
            NumberRefusal::NotFound => Self::not_found("Number not found."),
            NumberRefusal::InUse => Self::conflict(
                "Active sessions are on this number. End them, let it drain, or give force=true.",
            ),
            other => Self::bad(other.words()),
        }
    }
}

impl NumberRefusal {
    /// What is the matter, for an answer about one number or about one line of a file.
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::NotFound => "Number not found.",
            Self::Taken => {
                "Invalid parameter. number is a virtual number already, or a party of an active session."
            }
            Self::Configured => {
                "Invalid parameter. number stands in the configuration ([[numbers]]): only state may be changed."
            }
            Self::InUse => "Active sessions are on this number.",
            Self::UnknownSubaccount => "Invalid parameter. subaccount is no sub-account of this account.",
            Self::TooMany => "The account has as many numbers as it may have.",
        }
    }
}

impl From<ChangeRefusal> for ApiError {
    fn from(refusal: ChangeRefusal) -> Self {
        match refusal {
            ChangeRefusal::NotFound => Self::no_session(),
            ChangeRefusal::Expired => Self::bad("Session already expired"),
            ChangeRefusal::PartiesFixed => Self::invalid(
                "first_party and second_party",
                "can be changed only in a single-party session, while one of them is missing.",
            ),
            ChangeRefusal::SameParty => {
                Self::invalid("second_party", "must be another number than first_party.")
            }
            ChangeRefusal::PartyBusy => Self::invalid(
                "first_party or second_party",
                "is in another active session on the same virtual number.",
            ),
        }
    }
}

/// An answer with a fresh `api_id` in front.
pub(super) fn reply<const N: usize>(status: StatusCode, fields: [(&str, Value); N]) -> Response {
    let mut body = Map::with_capacity(N + 1);
    body.insert("api_id".to_owned(), Uuid::new_v4().to_string().into());
    body.extend(fields.into_iter().map(|(name, value)| (name.to_owned(), value)));
    (status, Json(Value::Object(body))).into_response()
}

/// An answer in the shape of its type, which has its own `api_id`.
pub(super) fn answer(status: StatusCode, body: &impl Serialize) -> Response {
    (status, Json(body)).into_response()
}

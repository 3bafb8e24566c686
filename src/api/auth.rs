//! Who asks: HTTP Basic (RFC 7617), auth id and auth token.

use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::header;
use axum::http::request::Parts;
use data_encoding::BASE64;

use super::ApiState;
use super::error::ApiError;

/// The account whose credentials came with the request; it is also the one that the path names.
pub(super) struct Tenant {
    pub(super) account: String,
}

impl FromRequestParts<ApiState> for Tenant {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, ApiError> {
        let (auth_id, token) = credentials(parts).ok_or_else(ApiError::unauthorized)?;
        let path =
            RawPathParams::from_request_parts(parts, state).await.map_err(|_| ApiError::unauthorized())?;
        let named = path.iter().find(|(name, _)| *name == "auth_id").map(|(_, value)| value);
        // Whose account the path names is looked at last: a wrong token learns nothing from it.
        if !state.store.authenticate(&auth_id, &token) || named != Some(auth_id.as_str()) {
            return Err(ApiError::unauthorized());
        }
        Ok(Self { account: auth_id })
    }
}

fn credentials(parts: &Parts) -> Option<(String, String)> {
    let value = parts.headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, encoded) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(BASE64.decode(encoded.trim().as_bytes()).ok()?).ok()?;
    let (auth_id, token) = decoded.split_once(':')?;
    Some((auth_id.to_owned(), token.to_owned()))
}

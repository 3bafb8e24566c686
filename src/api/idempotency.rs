//! `Idempotency-Key`: a create that is sent again makes no second session.

use axum::http::HeaderMap;

use super::auth::Tenant;
use super::error::ApiError;
use super::params::Params;
use crate::store::IdempotencyKey;

const HEADER: &str = "idempotency-key";
const MAX_LENGTH: usize = 255;

/// The key that came with a request, if one did.
pub(super) fn key(
    headers: &HeaderMap,
    tenant: &Tenant,
    params: &Params,
) -> Result<Option<IdempotencyKey>, ApiError> {
    let mut values = headers.get_all(HEADER).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let key = value.to_str().unwrap_or_default().trim();
    let printable = key.bytes().all(|b| b.is_ascii_graphic() || b == b' ');
    if key.is_empty() || key.len() > MAX_LENGTH || !printable || values.next().is_some() {
        return Err(ApiError::invalid(
            "Idempotency-Key",
            "must be given once and have 1 to 255 printable ASCII characters.",
        ));
    }
    Ok(Some(IdempotencyKey {
        scope: tenant.subaccount.as_ref().unwrap_or(&tenant.account).clone(),
        key: key.to_owned(),
        fingerprint: params.fingerprint(),
    }))
}

//! Who asks: HTTP Basic (RFC 7617), auth id and auth token of an account or of one of its sub-accounts.
//!
//! An unknown auth id, a wrong token and somebody else's path get one and the same answer.

use std::time::Duration;

use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::header;
use axum::http::request::Parts;
use data_encoding::BASE64;

use super::ApiState;
use super::error::ApiError;
use super::serve::Peer;
use crate::clock;
use crate::store::Identity;

/// Whose credentials came with the request. The path names the same account; a sub-account's credentials open
/// the path of its account as well as its own.
#[derive(Debug)]
pub(super) struct Tenant {
    /// Auth id of the account.
    pub(super) account: String,
    /// Auth id of the sub-account, when the credentials were that one's: then nothing else may be seen, made
    /// or changed than what is this sub-account's.
    pub(super) subaccount: Option<String>,
}

impl Tenant {
    /// Whether a thing of this account that belongs to `subaccount` may be shown. What may not must look as if
    /// it did not exist.
    pub(super) fn may_see(&self, subaccount: Option<&str>) -> bool {
        self.subaccount.is_none() || self.subaccount.as_deref() == subaccount
    }
}

impl Tenant {
    /// Which sub-account a new session is made for: the one that is named, or the one whose credentials came.
    pub(super) fn subaccount_of_new(
        &self,
        state: &ApiState,
        named: Option<String>,
    ) -> Result<Option<String>, ApiError> {
        let known = |auth_id: &String| match &self.subaccount {
            Some(own) => own == auth_id,
            None => state.store.subaccount(&self.account, auth_id).is_some_and(|sub| sub.enabled),
        };
        match named {
            Some(auth_id) if !known(&auth_id) => {
                Err(ApiError::invalid("subaccount", "is no enabled sub-account of this account."))
            }
            None => Ok(self.subaccount.clone()),
            named => Ok(named),
        }
    }

    /// The sub-account that a list is about, when `named` is asked for: what may not be seen is nobody's.
    pub(super) fn narrow(&self, named: Option<String>) -> Option<String> {
        match (&self.subaccount, named) {
            (None, named) => named,
            (Some(own), Some(named)) if named != *own => Some(String::new()),
            (Some(own), _) => Some(own.clone()),
        }
    }
}

impl FromRequestParts<ApiState> for Tenant {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, ApiError> {
        let (auth_id, token) = credentials(parts).ok_or_else(ApiError::unauthorized)?;
        let path =
            RawPathParams::from_request_parts(parts, state).await.map_err(|_| ApiError::unauthorized())?;
        let named = path.iter().find(|(name, _)| *name == "auth_id").map(|(_, value)| value);
        let (limiter, now) = (&state.limiter, clock::now());
        let source = limiter.source(Peer::of(&parts.extensions).map(|peer| peer.ip()), &parts.headers);
        let given = format!("{auth_id}:{token}");
        limiter
            .may_try(source, &given, now)
            .map_err(|wait| refuse("guessing", "Too many wrong credentials from this address.", wait))?;
        // Whose account the path names is looked at last: a wrong token learns nothing from it.
        let identity = state.store.identify(&auth_id, &token, (state.now)());
        let Some(Identity { account, subaccount }) = identity.filter(|who| is_named(who, named)) else {
            limiter.wrong(source, &given, now);
            return Err(ApiError::unauthorized());
        };
        limiter.right(source, &given);
        limiter
            .request(&account, now)
            .map_err(|wait| refuse("rate", "Too many requests of this account.", wait))?;
        Ok(Self { account, subaccount })
    }
}

/// The main account itself: what a sub-account must not touch.
#[derive(Debug)]
pub(super) struct Owner {
    /// Auth id of the account.
    pub(super) account: String,
}

impl FromRequestParts<ApiState> for Owner {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, ApiError> {
        let Tenant { account, subaccount } = Tenant::from_request_parts(parts, state).await?;
        if subaccount.is_some() { Err(ApiError::owner_only()) } else { Ok(Self { account }) }
    }
}

fn refuse(why: &'static str, text: &'static str, wait: Duration) -> ApiError {
    metrics::counter!("maskline_api_limited_total", "why" => why).increment(1);
    ApiError::too_many(text, wait)
}

fn is_named(who: &Identity, named: Option<&str>) -> bool {
    named == Some(who.account.as_str()) || (who.subaccount.is_some() && named == who.subaccount.as_deref())
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

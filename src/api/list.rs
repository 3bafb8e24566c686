//! What the lists have in common: `limit`, `offset`, `meta`; and the filters of sessions (`plivo-api.md` §6).

use axum::extract::Query;
use axum::http::Uri;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::error::ApiError;
use super::params::Params;
use super::time::{Moment, intersect};
use crate::number::Did;
use crate::store::{SessionFilter, SessionState, TimeRange};

const MAX_LIMIT: i64 = 20;
/// Without bounds a list shows what existed within the last seven days. This is wider than "created within" would
/// be: a session that lives longer than a week is not lost from sight while it is active.
pub(super) const WINDOW_S: i64 = 7 * 86_400;
/// A bounded range reaches back so far from its end, or from now if that is earlier: what is longer is cut there,
/// and older sessions are seen by moving its end.
const LONGEST_WINDOW_S: i64 = 30 * 86_400;
/// How a comparison is written after `__`; the empty one is equality.
pub(super) const OPERATORS: [&str; 5] = ["", "gt", "gte", "lt", "lte"];

/// Which part of a list is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) limit: u32,
    pub(super) offset: u64,
}

/// Where a page stands in its list.
#[derive(Debug, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Meta {
    limit: u32,
    /// Path of the next page; null on the last.
    #[schema(required)]
    next: Option<String>,
    offset: u64,
    /// Path of the page before; null on the first.
    #[schema(required)]
    previous: Option<String>,
    total_count: u64,
}

impl From<Meta> for Value {
    fn from(meta: Meta) -> Self {
        serde_json::to_value(meta).unwrap_or_default()
    }
}

impl Page {
    pub(super) fn read(params: &Params) -> Result<Self, ApiError> {
        let limit = params.integer("limit", 1..=MAX_LIMIT)?.unwrap_or(MAX_LIMIT);
        let offset = params.integer("offset", 0..=i64::MAX)?.unwrap_or(0);
        Ok(Self { limit: limit.try_into().unwrap_or(1), offset: offset.try_into().unwrap_or(0) })
    }

    /// This part of a list that is whole in memory.
    pub(super) fn of<T>(self, all: Vec<T>) -> impl Iterator<Item = T> {
        let offset = usize::try_from(self.offset).unwrap_or(usize::MAX);
        all.into_iter().skip(offset).take(usize::try_from(self.limit).unwrap_or(usize::MAX))
    }

    /// `next` and `previous` keep the request's other arguments.
    pub(super) fn meta(self, uri: &Uri, query: &[(String, String)], total: u64) -> Meta {
        let link = |offset: u64| {
            let mut link = format!("{}/?limit={}&offset={offset}", uri.path(), self.limit);
            let paging =
                |name: &str| name.eq_ignore_ascii_case("limit") || name.eq_ignore_ascii_case("offset");
            for (name, value) in query.iter().filter(|(name, _)| !paging(name)) {
                link.extend(["&", &escape(name), "=", &escape(value)]);
            }
            link
        };
        let after = self.offset.saturating_add(u64::from(self.limit));
        let before = self.offset.saturating_sub(u64::from(self.limit));
        Meta {
            limit: self.limit,
            next: (after < total).then(|| link(after)),
            offset: self.offset,
            previous: (self.offset > 0).then(|| link(before)),
            total_count: total,
        }
    }
}

/// The arguments of a query string, decoded.
pub(super) fn query_of(uri: &Uri) -> Result<Vec<(String, String)>, ApiError> {
    let Query(query) = Query::<Vec<(String, String)>>::try_from_uri(uri)
        .map_err(|_| ApiError::bad("The query string cannot be read. Allowed: name=value, joined by &."))?;
    Ok(query)
}

/// Percent-encodes all but the unreserved characters (RFC 3986 §2.3).
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push('%');
            escaped.push_str(&data_encoding::HEXUPPER.encode(&[byte]));
        }
    }
    escaped
}

/// Reads the filters of a list of sessions.
pub(super) fn session_filter(mut params: Params, now: Timestamp) -> Result<SessionFilter, ApiError> {
    // What one SDK makes of "equals", and of two underscores in a row; and the first edition's name of `duration`.
    for (name, plural) in
        [("created_time", "created_times"), ("expiry_time", "expiry_times"), ("duration", "durations")]
    {
        params.alias(plural, name);
        for operator in OPERATORS.iter().filter(|operator| !operator.is_empty()) {
            params.alias(&format!("{name}_{operator}"), &format!("{name}__{operator}"));
        }
    }
    for operator in OPERATORS {
        params.alias(&comparison("session_duration", operator), &comparison("duration", operator));
    }
    params.alias("sub_account", "subaccount");
    let state = match params.text("status")?.map(|status| status.to_ascii_lowercase()).as_deref() {
        None | Some("all") => SessionState::Any,
        Some("active") => SessionState::Active,
        Some("in-progress") => SessionState::InProgress,
        Some("expired") => SessionState::Expired,
        Some(_) => {
            return Err(ApiError::invalid(
                "status",
                "allowed values are active, in-progress, expired or all.",
            ));
        }
    };
    let mut created = time_range(&params, "created_time")?;
    let mut ends = time_range(&params, "expiry_time")?;
    if created == TimeRange::default() && ends == TimeRange::default() {
        ends.from = earlier(now, WINDOW_S);
    }
    for range in [&mut created, &mut ends].into_iter().filter(|range| **range != TimeRange::default()) {
        let end = range.until.unwrap_or(now).min(now);
        range.from = range.from.max(earlier(end, LONGEST_WINDOW_S));
    }
    Ok(SessionFilter {
        first_party: params.party("first_party")?,
        second_party: params.party("second_party")?,
        virtual_number: params.party("virtual_number")?.and_then(|number| Did::parse(number.digits())),
        subaccount: params.text("subaccount")?,
        state,
        created,
        ends,
        duration_s: duration_range(&params)?,
    })
}

/// `None`, which is the least of all, before the beginning of time.
fn earlier(than: Timestamp, seconds: i64) -> Option<Timestamp> {
    Timestamp::from_second(than.as_second().saturating_sub(seconds)).ok()
}

pub(super) fn comparison(name: &str, operator: &str) -> String {
    if operator.is_empty() { name.to_owned() } else { format!("{name}__{operator}") }
}

pub(super) fn time_range(params: &Params, name: &str) -> Result<TimeRange, ApiError> {
    let mut range = TimeRange::default();
    for operator in OPERATORS {
        let name = comparison(name, operator);
        let Some(text) = params.text(&name)? else { continue };
        let moment = Moment::parse(&text).ok_or_else(|| {
            ApiError::invalid(&name, "is not a valid time. Allowed: YYYY-MM-DD HH:MM[:ss[.uuuuuu]], UTC.")
        })?;
        range = intersect(range, moment.range(operator));
    }
    Ok(range)
}

fn duration_range(params: &Params) -> Result<(Option<i64>, Option<i64>), ApiError> {
    let (mut low, mut high) = (None::<i64>, None::<i64>);
    for operator in OPERATORS {
        let Some(seconds) = params.integer(&comparison("duration", operator), 0..=i64::MAX / 2)? else {
            continue;
        };
        let (at_least, at_most) = match operator {
            "gt" => (Some(seconds + 1), None),
            "gte" => (Some(seconds), None),
            "lt" => (None, Some(seconds - 1)),
            "lte" => (None, Some(seconds)),
            _ => (Some(seconds), Some(seconds)),
        };
        low = low.max(at_least); // `None` is the least of all.
        high = match (high, at_most) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }
    Ok((low, high))
}

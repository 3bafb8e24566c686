//! Lenient reading of parameters, as SDKs send them.
//!
//! Names are matched without regard to case; numbers and booleans are also read from strings; `null` and `""`
//! mean "not given", and so does `0` for a duration. A value that does not fit is refused by name, and the
//! answer says what is allowed.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::error::ApiError;
use crate::clock;
use crate::masking::session::{HttpMethod, Pin, RecordFormat};
use crate::number::E164;

/// The most bytes of a body.
const MAX_BODY: usize = 64 * 1024;
/// How long a body may take to arrive.
const BODY_TIME: Duration = Duration::from_secs(10);
/// The most characters of a URL.
const MAX_URL: usize = 1000;

/// The parameters of one request, by their names in lower case.
#[derive(Debug, Default)]
pub(super) struct Params(HashMap<String, Value>);

impl Params {
    /// Reads a JSON object; an empty body is an empty one.
    pub(super) async fn read(body: Body) -> Result<Self, ApiError> {
        let bytes = in_time(to_bytes(body, MAX_BODY)).await?.map_err(|_| ApiError::too_large())?;
        Self::parse(&bytes)
    }

    /// Reads a JSON object from its bytes.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, ApiError> {
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(Self::default());
        }
        match serde_json::from_slice(bytes) {
            Ok(Value::Object(fields)) => Ok(Self::from_pairs(fields)),
            Ok(_) => Err(ApiError::bad("The body must be a JSON object, such as {\"first_party\": \"…\"}.")),
            Err(error) => Err(ApiError::bad(format!(
                "The body is not valid JSON: line {}, column {}.",
                error.line(),
                error.column()
            ))),
        }
    }

    /// Reads the arguments of a query string.
    pub(super) fn from_query(query: Vec<(String, String)>) -> Self {
        Self::from_pairs(query.into_iter().map(|(name, value)| (name, Value::String(value))))
    }

    /// Of two spellings of one name, the one that holds something counts.
    fn from_pairs(pairs: impl IntoIterator<Item = (String, Value)>) -> Self {
        let mut params = HashMap::new();
        for (name, value) in pairs {
            if is_given(&value) {
                params.insert(name.to_ascii_lowercase(), value);
            }
        }
        Self(params)
    }

    /// A hash of everything that was given, whatever its order.
    pub(super) fn fingerprint(&self) -> [u8; 32] {
        let mut pairs: Vec<_> = self.0.iter().collect();
        pairs.sort_unstable_by_key(|(name, _)| *name);
        let mut hash = Sha256::new();
        for (name, value) in pairs {
            // JSON, so that no value can look like a name.
            hash.update(Value::from(name.as_str()).to_string());
            hash.update(value.to_string());
        }
        hash.finalize().into()
    }

    fn value(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// Lets `alias` count as `name` where `name` is not given.
    pub(super) fn alias(&mut self, alias: &str, name: &str) {
        if let Some(value) = self.0.remove(alias) {
            self.0.entry(name.to_owned()).or_insert(value);
        }
    }

    /// A string; a number is one as well.
    pub(super) fn text(&self, name: &str) -> Result<Option<String>, ApiError> {
        match self.value(name) {
            None => Ok(None),
            // No name and no URL has a control character, and PostgreSQL keeps no NUL.
            Some(Value::String(text)) if !text.trim().chars().any(char::is_control) => {
                Ok(Some(text.trim().to_owned()))
            }
            Some(Value::Number(number)) => Ok(Some(number.to_string())),
            Some(_) => Err(ApiError::invalid(name, "must be a string without control characters.")),
        }
    }

    /// True or false.
    pub(super) fn flag(&self, name: &str) -> Result<Option<bool>, ApiError> {
        let text = match self.value(name) {
            None => return Ok(None),
            Some(Value::Bool(flag)) => return Ok(Some(*flag)),
            Some(Value::String(text)) => text.trim().to_ascii_lowercase(),
            Some(other) => other.to_string(),
        };
        match text.as_str() {
            "true" | "1" => Ok(Some(true)),
            "false" | "0" => Ok(Some(false)),
            _ => Err(ApiError::invalid(name, "allowed values are true or false.")),
        }
    }

    /// A whole number in `range`.
    pub(super) fn integer(&self, name: &str, range: RangeInclusive<i64>) -> Result<Option<i64>, ApiError> {
        let Some(number) = self.number(name)? else { return Ok(None) };
        if range.contains(&number) {
            return Ok(Some(number));
        }
        let (low, high) = range.into_inner();
        Err(ApiError::invalid(name, &format!("is outside the allowed range. Allowed: {low} to {high}.")))
    }

    /// A duration in whole seconds; 0 is "not given".
    pub(super) fn seconds(
        &self,
        name: &str,
        range: RangeInclusive<i64>,
    ) -> Result<Option<Duration>, ApiError> {
        let Some(number) = self.number(name)?.filter(|number| *number != 0) else { return Ok(None) };
        if range.contains(&number) {
            return Ok(Some(Duration::from_secs(number.unsigned_abs())));
        }
        let (low, high) = range.into_inner();
        Err(ApiError::invalid(
            name,
            &format!("is outside the allowed range. Allowed: {low} to {high} seconds."),
        ))
    }

    /// What is too large for 64 bits is as large as can be: outside of every range.
    fn number(&self, name: &str) -> Result<Option<i64>, ApiError> {
        let text = match self.value(name) {
            None => return Ok(None),
            Some(Value::Number(number)) => match number.as_f64() {
                // Such a number was read as a fraction.
                Some(large) if large.abs() >= 9e18 => {
                    return Ok(Some(if large < 0.0 { i64::MIN } else { i64::MAX }));
                }
                _ => number.to_string(),
            },
            Some(Value::String(text)) => text.trim().to_owned(),
            Some(_) => String::new(),
        };
        // `3600.0` is whole as well.
        let whole = text.split_once('.').filter(|(_, rest)| rest.bytes().all(|b| b == b'0'));
        let whole = whole.map_or(text.as_str(), |(whole, _)| whole);
        let digits = whole.strip_prefix(['-', '+']).unwrap_or(whole);
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(ApiError::invalid(name, "must be a whole number."));
        }
        let extreme = if whole.starts_with('-') { i64::MIN } else { i64::MAX };
        Ok(Some(whole.parse().unwrap_or(extreme)))
    }

    /// A telephone number with its country code.
    pub(super) fn party(&self, name: &str) -> Result<Option<E164>, ApiError> {
        let refuse = || {
            ApiError::invalid(
                name,
                "is not a valid phone number. Allowed: 7 to 15 digits with the country code.",
            )
        };
        let Some(text) = self.text(name).map_err(|_| refuse())? else { return Ok(None) };
        // No country code begins with 0: such a number is a national one (ITU-T E.164 §6).
        let party = E164::parse(&text).filter(|party| !party.digits().starts_with('0'));
        party.map(Some).ok_or_else(refuse)
    }

    /// A PIN.
    pub(super) fn pin(&self, name: &str) -> Result<Option<Pin>, ApiError> {
        let refuse = || ApiError::invalid(name, "is not a valid PIN. Allowed: 4 to 15 digits.");
        let Some(text) = self.text(name).map_err(|_| refuse())? else { return Ok(None) };
        Pin::parse(&text).map(Some).ok_or_else(refuse)
    }

    /// An `http` or `https` URL.
    pub(super) fn url(&self, name: &str) -> Result<Option<String>, ApiError> {
        let refuse =
            || ApiError::invalid(name, "should be a valid URL. Allowed: http:// or https:// and a host.");
        let Some(url) = self.text(name).map_err(|_| refuse())? else { return Ok(None) };
        if url.chars().count() >= MAX_URL {
            return Err(ApiError::invalid(name, "should be under 1000 characters."));
        }
        if is_url(&url) { Ok(Some(url)) } else { Err(refuse()) }
    }

    /// `GET` or `POST`.
    pub(super) fn method(&self, name: &str) -> Result<Option<HttpMethod>, ApiError> {
        let refuse = || ApiError::invalid(name, "allowed values are GET or POST.");
        let Some(text) = self.text(name).map_err(|_| refuse())? else { return Ok(None) };
        HttpMethod::parse(&text).map(Some).ok_or_else(refuse)
    }

    /// `mp3` or `wav`.
    pub(super) fn record_format(&self, name: &str) -> Result<Option<RecordFormat>, ApiError> {
        let refuse = || ApiError::invalid(name, "allowed values are mp3 or wav.");
        let Some(text) = self.text(name).map_err(|_| refuse())? else { return Ok(None) };
        RecordFormat::parse(&text).map(Some).ok_or_else(refuse)
    }
}

/// What does not arrive would hold its connection for ever.
async fn in_time<T>(arrival: impl Future<Output = T>) -> Result<T, ApiError> {
    tokio::select! {
        arrived = arrival => Ok(arrived),
        () = clock::sleep(BODY_TIME) => Err(ApiError::too_slow()),
    }
}

fn is_given(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::String(text) => !text.trim().is_empty(),
        _ => true,
    }
}

fn is_url(url: &str) -> bool {
    let Some((scheme, rest)) = url.split_once("://") else { return false };
    let known = scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https");
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    let clean =
        !url.chars().any(|c| c.is_whitespace() || c.is_control() || matches!(c, '<' | '>' | '"' | '\\'));
    known && clean && !host.is_empty() && !host.starts_with(':')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(json: &str) -> Params {
        Params::parse(json.as_bytes()).unwrap()
    }

    #[test]
    fn names_are_matched_without_regard_to_case() {
        let params = params(r#"{"Create_Session_With_Single_Party": true}"#);
        assert_eq!(params.flag("create_session_with_single_party"), Ok(Some(true)));
    }

    #[test]
    fn null_and_empty_strings_are_not_given() {
        let params = params(r#"{"a": null, "b": "", "c": "  ", "D": "x", "d": ""}"#);
        for name in ["a", "b", "c", "missing"] {
            assert_eq!(params.text(name), Ok(None), "{name}");
        }
        assert_eq!(params.text("d"), Ok(Some("x".into())), "the spelling that holds something counts");
    }

    #[test]
    fn a_string_holds_no_control_characters() {
        for json in [r#""a\u0000b""#, r#""\u0007""#, r#""a\nb""#, "[]", "{}", "true"] {
            let error = params(&format!("{{\"t\": {json}}}")).text("t").unwrap_err();
            assert_eq!(
                error.text, "Invalid parameter. t must be a string without control characters.",
                "{json}"
            );
        }
    }

    #[test]
    fn whole_numbers_come_in_many_forms() {
        for (json, expected) in [
            ("5", Some(5)),
            (r#""5""#, Some(5)),
            (r#"" 5 ""#, Some(5)),
            ("5.0", Some(5)),
            (r#""5.00""#, Some(5)),
            (r#""+5""#, Some(5)),
            ("0", Some(0)),
            ("null", None),
            (r#""""#, None),
        ] {
            assert_eq!(params(&format!("{{\"n\": {json}}}")).integer("n", 0..=10), Ok(expected), "{json}");
        }
        let range = "Invalid parameter. n is outside the allowed range. Allowed: 0 to 10.";
        let whole = "Invalid parameter. n must be a whole number.";
        for (json, text) in [
            ("11", range),
            ("-1", range),
            ("-1e300", range),
            ("99999999999999999999999", range),
            (r#""-99999999999999999999999""#, range),
            ("5.5", whole),
            (r#""five""#, whole),
            ("true", whole),
            ("[5]", whole),
            (r#""٥""#, whole),
        ] {
            let error = params(&format!("{{\"n\": {json}}}")).integer("n", 0..=10).unwrap_err();
            assert_eq!(error.text, text, "{json}");
        }
    }

    #[test]
    fn a_duration_of_0_is_not_given() {
        for (json, expected) in [("0", None), (r#""0""#, None), ("60", Some(60)), (r#""60""#, Some(60))] {
            let seconds = params(&format!("{{\"n\": {json}}}")).seconds("n", 1..=86_400);
            assert_eq!(seconds, Ok(expected.map(Duration::from_secs)), "{json}");
        }
        let error = params(r#"{"n": 86401}"#).seconds("n", 1..=86_400).unwrap_err();
        assert_eq!(
            error.text,
            "Invalid parameter. n is outside the allowed range. Allowed: 1 to 86400 seconds."
        );
    }

    #[test]
    fn booleans_are_also_read_from_strings_and_digits() {
        for (json, flag) in [
            ("true", true),
            ("false", false),
            (r#""True""#, true),
            (r#""false""#, false),
            ("1", true),
            (r#""0""#, false),
        ] {
            assert_eq!(params(&format!("{{\"n\": {json}}}")).flag("n"), Ok(Some(flag)), "{json}");
        }
        for json in [r#""yes""#, "2", "[]"] {
            let error = params(&format!("{{\"n\": {json}}}")).flag("n").unwrap_err();
            assert_eq!(error.text, "Invalid parameter. n allowed values are true or false.", "{json}");
        }
    }

    #[test]
    fn parties_and_pins_may_be_json_numbers() {
        let params = params(r#"{"party": 919876543210, "pin": 1234, "short": 123, "zero": "0987654321"}"#);
        assert_eq!(params.party("party").unwrap().unwrap().digits(), "919876543210");
        assert_eq!(params.pin("pin").unwrap().unwrap().digits(), "1234");
        assert!(
            params.pin("short").is_err() && params.party("short").is_err() && params.party("zero").is_err()
        );
    }

    #[test]
    fn urls_have_a_scheme_a_host_and_under_1000_characters() {
        for url in ["http://a/x.mp3", "HTTPS://user@host.example:8443/x?y=z", "http://[::1]:80/"] {
            assert_eq!(params(&format!("{{\"u\": \"{url}\"}}")).url("u"), Ok(Some(url.into())));
        }
        for url in [
            "a",
            "ftp://a/x",
            "http://",
            "http:///x",
            "http://:80/",
            "http://a b/",
            "javascript:x",
            "http://a/\\u0007",
        ] {
            let error = params(&format!("{{\"u\": \"{url}\"}}")).url("u").unwrap_err();
            assert!(error.text.starts_with("Invalid parameter. u should be a valid URL."), "{url}");
        }
        let long = format!("{{\"u\": \"http://a/{}\"}}", "x".repeat(991));
        assert_eq!(
            params(&long).url("u").unwrap_err().text,
            "Invalid parameter. u should be under 1000 characters."
        );
    }

    #[test]
    fn what_is_no_json_object_is_refused_with_a_hint() {
        for (body, start) in [
            ("{", "The body is not valid JSON: line 1, column 1."),
            ("first_party=1", "The body is not valid JSON"),
            ("[1]", "The body must be a JSON object"),
            ("\"x\"", "The body must be a JSON object"),
        ] {
            let error = Params::parse(body.as_bytes()).unwrap_err();
            assert!(error.text.starts_with(start), "{body}: {}", error.text);
        }
        assert!(Params::parse(b" \r\n").is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_given_up() {
        let never = std::future::pending::<()>();
        assert_eq!(in_time(never).await, Err(ApiError::too_slow()));
        assert_eq!(in_time(std::future::ready(1)).await, Ok(1));
    }

    #[test]
    fn an_alias_counts_where_the_name_itself_is_not_given() {
        let mut both = params(r#"{"geo_match": false, "sub_account": "x", "subaccount": "y"}"#);
        both.alias("geo_match", "geomatch");
        both.alias("sub_account", "subaccount");
        assert_eq!(both.flag("geomatch"), Ok(Some(false)));
        assert_eq!(both.text("subaccount"), Ok(Some("y".into())));
    }
}

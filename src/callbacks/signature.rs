//! The V3 signature of a callback, by which a receiver knows that it is ours (`X-Plivo-Signature-V3`).
//!
//! It is base64(HMAC-SHA256(auth token, text)). The text is the URL without its query, then the parameters as they
//! are before encoding, sorted, then a nonce; how they are joined differs by method.

use crate::masking::session::HttpMethod;
use data_encoding::BASE64;
use reqwest::Url;
use ring::hmac;

/// The signature of a request to `url` with `parameters`.
#[must_use]
pub fn sign(
    token: &str,
    method: HttpMethod,
    url: &Url,
    parameters: &[(String, String)],
    nonce: &str,
) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, token.as_bytes());
    BASE64.encode(hmac::sign(&key, text(method, url, parameters, nonce).as_bytes()).as_ref())
}

/// A nonce: 20 digits.
#[must_use]
pub fn nonce() -> String {
    use rand::RngExt;
    let mut rng = rand::rng();
    (0..20).map(|_| char::from(b'0' + rng.random_range(0..10u8))).collect()
}

fn text(method: HttpMethod, url: &Url, parameters: &[(String, String)], nonce: &str) -> String {
    let mut text = format!("{}://{}", url.scheme(), authority(url));
    text.push_str(url.path());
    let mut query: Vec<(String, String)> = url.query_pairs().into_owned().collect();
    match method {
        HttpMethod::Get => {
            query.extend_from_slice(parameters);
            push_query(&mut text, query);
        }
        HttpMethod::Post => {
            let has_query = !query.is_empty();
            push_query(&mut text, query);
            let mut sorted = parameters.to_vec();
            sorted.sort();
            if !sorted.is_empty() {
                text.push(if has_query { '.' } else { '?' });
            }
            for (name, value) in sorted {
                text.extend([name.as_str(), value.as_str()]);
            }
        }
    }
    text.push('.');
    text.push_str(nonce);
    text
}

fn push_query(text: &mut String, mut pairs: Vec<(String, String)>) {
    pairs.sort();
    for (index, (name, value)) in pairs.iter().enumerate() {
        text.push(if index == 0 { '?' } else { '&' });
        text.extend([name.as_str(), "=", value.as_str()]);
    }
}

/// `host[:port]`: what the receiver finds in Host. Credentials in the URL are no part of it.
pub(crate) fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONCE: &str = "12345678901234567890";

    fn parameters() -> Vec<(String, String)> {
        [
            ("To", ""),
            ("EventName", "SessionTimeout"),
            ("SessionUUID", "c28b77d4-21e7-43bd-9447-04bfee92e651"),
            ("VirtualNumber", "912269947011"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
    }

    #[test]
    fn the_vectors_of_the_reference() {
        let (get, post) = (HttpMethod::Get, HttpMethod::Post);
        for (method, url, signature) in [
            (post, "https://example.com/cb", "+b6GunP2XsOqNLCnB0hq148twOmvgfjQoiOlUY6OcVM="),
            (post, "https://example.com/cb?x=1&a=b", "AygKRD93PrciVA92qIHQSjZsQrDwSSu3PC/tAxOf4ng="),
            (get, "https://example.com/cb", "QQG1+o6buUL5c9YKdgng4iz5wMIhu4ygBiUaqp6a9Vc="),
            (get, "https://example.com/cb?x=1", "RH+EEfEseRWAJ49baKXaBeUjBqHPJ+zPKjxowQPGPYE="),
        ] {
            let url: Url = url.parse().unwrap();
            assert_eq!(sign("mock-token", method, &url, &parameters(), NONCE), signature, "{method:?} {url}");
        }
    }

    #[test]
    fn what_is_signed_is_not_encoded_and_names_the_port_but_no_credentials() {
        let url: Url = "http://user:secret@example.com:8080/a%20b?q=x%20y".parse().unwrap();
        let parameters = [("k".to_owned(), "ü &=".to_owned())];
        assert_eq!(
            text(HttpMethod::Get, &url, &parameters, "1"),
            "http://example.com:8080/a%20b?k=ü &=&q=x y.1"
        );
        assert_eq!(
            text(HttpMethod::Post, &url, &parameters, "1"),
            "http://example.com:8080/a%20b?q=x y.kü &=.1"
        );
        assert_eq!(text(HttpMethod::Post, &"http://h/".parse().unwrap(), &[], "1"), "http://h/.1");
    }

    #[test]
    fn a_nonce_has_20_digits_and_comes_once() {
        let (one, other) = (nonce(), nonce());
        assert!(one.len() == 20 && one.bytes().all(|byte| byte.is_ascii_digit()));
        assert_ne!(one, other);
    }
}

//! Digest as the far side of a test computes it (RFC 7616 §3.4.1), apart from the service's own.

use sha2::{Digest, Sha256};
use sip_tests::message::Message;

/// A parameter of a challenge or of credentials, without its quotes.
pub fn parameter<'a>(value: &'a str, name: &str) -> Option<&'a str> {
    let parts = value.split_once(' ')?.1.split(", ");
    let mut named = parts.filter_map(|part| part.split_once('='));
    named.find(|(known, _)| *known == name).map(|(_, value)| value.trim_matches('"'))
}

fn hash(algorithm: &str, text: &str) -> String {
    let bytes: Vec<u8> = match algorithm {
        "MD5" => md5::Md5::digest(text).to_vec(),
        "SHA-256" => Sha256::digest(text).to_vec(),
        _ => panic!("{algorithm} is not known here"),
    };
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What `response` must be for these credentials, whose other parameters are taken as they are.
pub fn expected(credentials: &str, method: &str, password: &str) -> String {
    let value = |name| parameter(credentials, name).unwrap_or_else(|| panic!("{name} of {credentials}"));
    let algorithm = parameter(credentials, "algorithm").unwrap_or("MD5");
    let a1 = hash(algorithm, &format!("{}:{}:{password}", value("username"), value("realm")));
    let a2 = hash(algorithm, &format!("{method}:{}", value("uri")));
    let middle = match parameter(credentials, "qop") {
        Some(qop) => format!("{}:{}:{}:{qop}", value("nonce"), value("nc"), value("cnonce")),
        None => value("nonce").to_owned(),
    };
    hash(algorithm, &format!("{a1}:{middle}:{a2}"))
}

/// The credentials of a request, which must be right for this password.
pub fn proven(request: &Message, header: &str, password: &str) -> String {
    let credentials = request.header(header).unwrap_or_else(|| panic!("{header} in {}", request.text()));
    let method = request.method().unwrap();
    assert_eq!(parameter(credentials, "response"), Some(&*expected(credentials, method, password)));
    assert_eq!(parameter(credentials, "uri"), request.uri());
    credentials.to_owned()
}

/// What a caller answers to one of our challenges.
pub fn answer(
    challenge: &str,
    method: &str,
    uri: &str,
    (user, password): (&str, &str),
    count: u32,
) -> String {
    let value = |name| parameter(challenge, name).unwrap_or_else(|| panic!("{name} of {challenge}"));
    let (realm, nonce, algorithm) = (value("realm"), value("nonce"), value("algorithm"));
    let front = format!(
        "Digest username=\"{user}\", realm=\"{realm}\", nonce=\"{nonce}\", uri=\"{uri}\", algorithm={algorithm}, \
         cnonce=\"0a4f113b\", qop=auth, nc={count:08x}"
    );
    let response = expected(&front, method, password);
    format!("{front}, response=\"{response}\"")
}

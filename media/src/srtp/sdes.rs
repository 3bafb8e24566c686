//! `a=crypto`: keys in SDP (RFC 4568 §4, §6, §9; RFC 6188 §4).
//!
//! A line is taken whole or not at all. Refused are several keys of one line and MKIs, for which nobody here
//! would choose, and session parameters that change what packets look like. A lifetime is read and needs nothing:
//! it is the peer's promise about its own packets.

use super::{MasterKey, Suite};
use data_encoding::{BASE64, BASE64_NOPAD};
use std::fmt::{self, Write};
use zeroize::Zeroizing;

/// One line that can be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Crypto {
    /// Names the line between offer and answer; up to nine digits.
    pub(crate) tag: u32,
    /// What its writer encrypts with.
    pub(crate) key: MasterKey,
}

impl Crypto {
    /// Reads what follows `a=crypto:`. `None`: not for us.
    pub(crate) fn parse(value: &[u8]) -> Option<Self> {
        let mut tokens = value.split(|byte| matches!(byte, b' ' | b'\t')).filter(|token| !token.is_empty());
        let (tag, suite, key) = (tokens.next()?, tokens.next()?, tokens.next()?);
        let tag = number(tag, 9)?;
        let suite =
            Suite::ALL.into_iter().find(|known| suite.eq_ignore_ascii_case(known.name().as_bytes()))?;
        // RFC 4568 §6.3: a parameter that is not understood refuses the line. The size of the peer's replay
        // window (§6.3.7) is of no concern to who sends in order.
        if !tokens.all(|parameter| parameter.starts_with(b"WSH=")) {
            return None;
        }
        let (method, info) = key.split_at_checked(b"inline:".len())?;
        if !method.eq_ignore_ascii_case(b"inline:") || info.contains(&b';') {
            return None;
        }
        let mut parts = info.split(|byte| *byte == b'|');
        let key = keying(suite, parts.next()?)?;
        match (parts.next(), parts.next()) {
            (None, None) => {}
            (Some(lifetime), None) if is_lifetime(lifetime) => {}
            _ => return None,
        }
        Some(Self { tag, key })
    }

    /// The whole line with its end.
    pub(crate) fn write(&self, out: &mut String) -> fmt::Result {
        let key = Zeroizing::new(BASE64.encode(self.key.keying()));
        write!(out, "a=crypto:{} {} inline:{}\r\n", self.tag, self.key.suite.name(), key.as_str())
    }
}

/// Key and salt in base64, with or without the padding that some leave out.
fn keying(suite: Suite, text: &[u8]) -> Option<MasterKey> {
    if text.len() > 64 {
        return None;
    }
    let bare = text.strip_suffix(b"==").or_else(|| text.strip_suffix(b"=")).unwrap_or(text);
    let bytes = Zeroizing::new(BASE64_NOPAD.decode(bare).ok()?);
    MasterKey::new(suite, &bytes)
}

/// `2^n`, or a number of packets.
fn is_lifetime(text: &[u8]) -> bool {
    let power = text.strip_prefix(b"2^").map(|exponent| number(exponent, 2).is_some_and(|n| n <= 48));
    power.unwrap_or_else(|| !text.is_empty() && text.len() <= 15 && text.iter().all(u8::is_ascii_digit))
}

/// Digits alone, at most so many.
fn number(text: &[u8], most: usize) -> Option<u32> {
    if text.len() > most || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: &str = "WVNfX19zZW1jdGwgKCkgewkyMjA7fQp9CnVubGVz";

    #[test]
    fn rfc4568_9_1_a_line_is_taken_whole_or_not_at_all() {
        let long = BASE64.encode(&[7; 46]);
        let (padded, bare) = (long.as_str(), long.trim_end_matches('='));
        type Row = (&'static str, String, Option<(u32, Suite)>);
        let table: &[Row] = &[
            (
                "RFC 4568 §4.1",
                format!("1 AES_CM_128_HMAC_SHA1_80 inline:{KEY}"),
                Some((1, Suite::Aes128Sha80)),
            ),
            (
                "lifetime",
                format!("2 AES_CM_128_HMAC_SHA1_32 inline:{KEY}|2^20"),
                Some((2, Suite::Aes128Sha32)),
            ),
            (
                "lifetime in digits",
                format!("1 AES_CM_128_HMAC_SHA1_80 inline:{KEY}|1048576"),
                Some((1, Suite::Aes128Sha80)),
            ),
            (
                "RFC 6188",
                format!("999999999 AES_256_CM_HMAC_SHA1_80 inline:{padded}"),
                Some((999_999_999, Suite::Aes256Sha80)),
            ),
            (
                "without padding",
                format!("1 AES_256_CM_HMAC_SHA1_32 inline:{bare}"),
                Some((1, Suite::Aes256Sha32)),
            ),
            (
                "blanks and case",
                format!(" 1\t aes_cm_128_hmac_sha1_80  INLINE:{KEY} "),
                Some((1, Suite::Aes128Sha80)),
            ),
            (
                "§6.3.7: window size",
                format!("1 AES_CM_128_HMAC_SHA1_80 inline:{KEY} WSH=128"),
                Some((1, Suite::Aes128Sha80)),
            ),
            ("MKI", format!("1 AES_CM_128_HMAC_SHA1_80 inline:{KEY}|2^20|1:4"), None),
            ("MKI without lifetime", format!("1 AES_CM_128_HMAC_SHA1_80 inline:{KEY}|1:4"), None),
            ("two keys", format!("1 AES_CM_128_HMAC_SHA1_80 inline:{KEY};inline:{KEY}"), None),
            ("§6.3.2: unencrypted", format!("1 AES_CM_128_HMAC_SHA1_80 inline:{KEY} UNENCRYPTED_SRTP"), None),
            (
                "§6.3.3: without tags",
                format!("1 AES_CM_128_HMAC_SHA1_80 inline:{KEY} UNAUTHENTICATED_SRTP"),
                None,
            ),
            ("§6.3.1: derivation rate", format!("1 AES_CM_128_HMAC_SHA1_80 inline:{KEY} KDR=24"), None),
            ("another suite", format!("1 F8_128_HMAC_SHA1_80 inline:{KEY}"), None),
            ("AEAD", format!("1 AEAD_AES_128_GCM inline:{KEY}"), None),
            ("key too short", format!("1 AES_CM_128_HMAC_SHA1_80 inline:{}", &KEY[..36]), None),
            ("key of another suite", format!("1 AES_CM_128_HMAC_SHA1_80 inline:{padded}"), None),
            ("no base64", format!("1 AES_CM_128_HMAC_SHA1_80 inline:{}", KEY.replace('W', "!")), None),
            ("another method", format!("1 AES_CM_128_HMAC_SHA1_80 uri:{KEY}"), None),
            ("no tag", format!("AES_CM_128_HMAC_SHA1_80 inline:{KEY}"), None),
            ("tag of ten digits", format!("1234567890 AES_CM_128_HMAC_SHA1_80 inline:{KEY}"), None),
            ("no key", "1 AES_CM_128_HMAC_SHA1_80".to_owned(), None),
            ("empty lifetime", format!("1 AES_CM_128_HMAC_SHA1_80 inline:{KEY}|"), None),
            ("nothing", String::new(), None),
        ];
        for (fact, line, expected) in table {
            let read = Crypto::parse(line.as_bytes()).map(|crypto| (crypto.tag, crypto.key.suite));
            assert_eq!(read, *expected, "{fact}");
        }
    }

    #[test]
    fn a_line_of_ours_is_read_back_and_keys_never_print() {
        for suite in Suite::ALL {
            let key = super::super::Secret::new([3; 32]).key(suite, 5);
            let crypto = Crypto { tag: 7, key };
            let mut line = String::new();
            crypto.write(&mut line).unwrap();
            let value = line.strip_prefix("a=crypto:").unwrap().strip_suffix("\r\n").unwrap();
            assert_eq!(Crypto::parse(value.as_bytes()), Some(crypto.clone()));
            let inline = value.split("inline:").nth(1).unwrap();
            assert!(!format!("{crypto:?}").contains(&inline[..8]));
        }
    }

    proptest! {
        #[test]
        fn junk_is_borne(junk in prop::collection::vec(any::<u8>(), 0..200), cut in 0usize..90, byte: u8) {
            let _ = Crypto::parse(&junk);
            let mut line = format!("1 AES_CM_128_HMAC_SHA1_80 inline:{KEY}|2^31").into_bytes();
            let at = cut.min(line.len() - 1);
            line[at] = byte;
            let _ = Crypto::parse(&line);
        }
    }
}

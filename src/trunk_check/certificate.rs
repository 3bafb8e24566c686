//! What a certificate says of itself, read from its DER (RFC 5280 §4.1): for whom it is, by whom, and until when.
//!
//! For showing only. Whether it is to be believed is decided by the TLS library, never here.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use std::net::IpAddr;

/// Names that are kept.
const MAX_NAMES: usize = 50;

/// What there is to show.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Facts {
    /// Names and addresses that it is for; the subject's common name when it has no others.
    pub(super) names: Vec<String>,
    /// Who signed it.
    pub(super) issuer: Option<String>,
    /// Until when it holds.
    pub(super) not_after: Option<Timestamp>,
}

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OID: u8 = 0x06;
const OCTETS: u8 = 0x04;
const BOOLEAN: u8 = 0x01;
const UTC_TIME: u8 = 0x17;
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;
const DNS_NAME: u8 = 0x82;
const IP_ADDRESS: u8 = 0x87;
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const ORGANISATION: &[u8] = &[0x55, 0x04, 0x0a];
const ALTERNATIVE_NAMES: &[u8] = &[0x55, 0x1d, 0x11];

/// One element: its tag, its content, and what follows.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(usize::from(first & 0x0f))?;
            let length = digits.iter().try_fold(0_usize, |length, &digit| {
                length.checked_mul(256)?.checked_add(usize::from(digit))
            })?;
            (length, rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

fn expect(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    element(der).filter(|(found, ..)| *found == tag).map(|(_, content, rest)| (content, rest))
}

/// The elements of a content, one after the other.
fn elements(mut der: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let (tag, content, rest) = element(der)?;
        der = rest;
        Some((tag, content))
    })
}

/// As much as can be read.
pub(super) fn read(der: &[u8]) -> Facts {
    read_all(der).unwrap_or_default()
}

fn read_all(der: &[u8]) -> Option<Facts> {
    let (certificate, _) = expect(der, SEQUENCE)?;
    let (body, _) = expect(certificate, SEQUENCE)?;
    let mut fields = elements(body).filter(|(tag, _)| *tag != VERSION);
    let (_serial, _algorithm) = (fields.next()?, fields.next()?);
    let (_, issuer) = fields.next()?;
    let (_, validity) = fields.next()?;
    let (_, subject) = fields.next()?;
    let extensions = fields.find(|(tag, _)| *tag == EXTENSIONS).map(|(_, content)| content);
    let mut names = extensions.map(alternative_names).unwrap_or_default();
    if names.is_empty() {
        names.extend(name_part(subject, COMMON_NAME));
    }
    Some(Facts {
        names,
        issuer: name_part(issuer, ORGANISATION).or_else(|| name_part(issuer, COMMON_NAME)),
        not_after: elements(validity).nth(1).and_then(|(tag, text)| time(tag, text)),
    })
}

fn alternative_names(extensions: &[u8]) -> Vec<String> {
    let Some((list, _)) = expect(extensions, SEQUENCE) else { return vec![] };
    let value = elements(list).filter(|(tag, _)| *tag == SEQUENCE).find_map(|(_, extension)| {
        let mut parts = elements(extension).filter(|(tag, _)| *tag != BOOLEAN);
        let wanted = parts.next().is_some_and(|(tag, oid)| tag == OID && oid == ALTERNATIVE_NAMES);
        parts.next().filter(|(tag, _)| wanted && *tag == OCTETS).map(|(_, value)| value)
    });
    let Some((names, _)) = value.and_then(|value| expect(value, SEQUENCE)) else { return vec![] };
    let read = |(tag, value): (u8, &[u8])| match tag {
        DNS_NAME => Some(printable(value)),
        IP_ADDRESS => {
            let v4 = <[u8; 4]>::try_from(value).map(IpAddr::from);
            v4.or_else(|_| <[u8; 16]>::try_from(value).map(IpAddr::from)).ok().map(|ip| ip.to_string())
        }
        _ => None,
    };
    elements(names).filter_map(read).take(MAX_NAMES).collect()
}

fn name_part(name: &[u8], wanted: &[u8]) -> Option<String> {
    elements(name).filter(|(tag, _)| *tag == SET).find_map(|(_, set)| {
        let (pair, _) = expect(set, SEQUENCE)?;
        let (oid, rest) = expect(pair, OID)?;
        let (_, value, _) = element(rest)?;
        (oid == wanted).then(|| printable(value))
    })
}

/// A stranger's text on a terminal: nothing but what can be printed.
fn printable(value: &[u8]) -> String {
    String::from_utf8_lossy(value).chars().filter(|c| !c.is_control()).take(200).collect()
}

/// RFC 5280 §4.1.2.5: `YYMMDDHHMMSSZ` up to 2049, `YYYYMMDDHHMMSSZ` after it.
fn time(tag: u8, text: &[u8]) -> Option<Timestamp> {
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let (year, rest) = text.split_at_checked(if tag == UTC_TIME { 2 } else { 4 })?;
    let mut year: i16 = year.parse().ok()?;
    if tag == UTC_TIME {
        year += if year < 50 { 2000 } else { 1900 };
    }
    let part = |at: usize| rest.get(at..at + 2)?.parse::<i8>().ok();
    let moment = DateTime::new(year, part(0)?, part(2)?, part(4)?, part(6)?, part(8)?, 0).ok()?;
    moment.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_issuer_and_end_are_read() {
        let mut parameters =
            rcgen::CertificateParams::new(["sbc.carrier.test".to_owned(), "192.0.2.1".to_owned()]).unwrap();
        parameters.not_after = rcgen::date_time_ymd(2031, 5, 6);
        parameters.distinguished_name.push(rcgen::DnType::OrganizationName, "Carrier Inc");
        let key = rcgen::KeyPair::generate().unwrap();
        let der = parameters.self_signed(&key).unwrap().der().to_vec();
        let facts = read(&der);
        assert_eq!(facts.names, ["sbc.carrier.test", "192.0.2.1"]);
        assert_eq!(facts.issuer.as_deref(), Some("Carrier Inc"));
        assert_eq!(facts.not_after.map(|at| at.to_string()).as_deref(), Some("2031-05-06T00:00:00Z"));
        // Cut anywhere it is still no fault of ours.
        for length in 0..der.len() {
            let _ = read(&der[..length]);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_to_an_end(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = read(&bytes);
        }
    }
}

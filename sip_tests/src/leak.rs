//! The leak finder: marks that were planted on one leg, searched in all that the other leg received, in any
//! disguise that a careless copy could give them.
//!
//! Numbers are found whole, in national form, as a subscriber number that stands alone, with separators between
//! the digits, reversed (ENUM), packed two digits to a byte (ISUP) and as binary integers; everything is also
//! found percent-, base64-, hex-, UTF-16-, quoted-printable-, HTML- or JSON-escaped, and in one such layer
//! inside another.

use std::borrow::Cow;
use std::fmt;
use std::net::Ipv4Addr;

/// What must not appear. Choose marks that nothing else contains.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Marks {
    /// Telephone numbers in E.164 form; a `+` is dropped.
    pub numbers: Vec<String>,
    /// Display names, user names, words of free text.
    pub names: Vec<String>,
    /// Host names and addresses.
    pub hosts: Vec<String>,
    /// Call-IDs, tags, branches, device uuids and the like.
    pub ids: Vec<String>,
}

impl Marks {
    /// A party's number.
    #[must_use]
    pub fn number(mut self, number: &str) -> Self {
        self.numbers.push(number.trim_start_matches('+').to_owned());
        self
    }

    /// A name.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        self.names.push(name.to_owned());
        self
    }

    /// A host name or address.
    #[must_use]
    pub fn host(mut self, host: &str) -> Self {
        self.hosts.push(host.to_owned());
        self
    }

    /// An identifier.
    #[must_use]
    pub fn id(mut self, id: &str) -> Self {
        self.ids.push(id.to_owned());
        self
    }
}

/// A mark that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The mark.
    pub mark: String,
    /// How it was disguised; `plain` when it was not.
    pub encoding: String,
    /// What stands around it, in the layer in which it was found.
    pub excerpt: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}) in «{}»", self.mark, self.encoding, self.excerpt)
    }
}

/// Every mark in `bytes`, each in the least disguise in which it stands.
#[must_use]
pub fn find(bytes: &[u8], marks: &Marks) -> Vec<Finding> {
    let mut findings = vec![];
    search(bytes, marks, &[], &mut findings);
    findings
}

/// Marks as plain text only; for audio payloads, in which short binary forms appear by chance.
#[must_use]
pub fn find_plain(bytes: &[u8], marks: &Marks) -> Vec<Finding> {
    let mut findings = vec![];
    let lower = bytes.to_ascii_lowercase();
    for mark in marks.numbers.iter().chain(&marks.names).chain(&marks.hosts).chain(&marks.ids) {
        note(&lower, mark.to_ascii_lowercase().as_bytes(), mark, &["plain"], &mut findings);
    }
    findings
}

const DEPTH: usize = 3;

fn search(bytes: &[u8], marks: &Marks, path: &[&'static str], findings: &mut Vec<Finding>) {
    direct(bytes, marks, path, findings);
    if path.len() >= DEPTH {
        return;
    }
    for (name, layer) in layers(bytes) {
        let mut inner = path.to_vec();
        inner.push(name);
        search(&layer, marks, &inner, findings);
    }
}

/// What can be seen in this layer without decoding another.
fn direct(bytes: &[u8], marks: &Marks, path: &[&'static str], findings: &mut Vec<Finding>) {
    let lower = bytes.to_ascii_lowercase();
    let joined = join_digits(&lower);
    let mut look = |hay: &[u8], needle: &[u8], mark: &str, how: &'static str| {
        let mut full = path.to_vec();
        full.push(how);
        note(hay, needle, mark, &full, findings)
    };
    for number in &marks.numbers {
        let national = number.get(country_code_length(number)..).unwrap_or(number);
        let plain = look(&lower, number.as_bytes(), number, "plain");
        let short = plain || look(&lower, national.as_bytes(), number, "national");
        if !short {
            let separated = look(&joined, national.as_bytes(), number, "digits separated");
            let subscriber = national.get(national.len().saturating_sub(7)..).unwrap_or(national);
            if !separated && stands_alone(&lower, subscriber.as_bytes()) {
                look(&lower, subscriber.as_bytes(), number, "subscriber number");
            }
        }
        let reversed: String = national.chars().rev().collect();
        look(&joined, reversed.as_bytes(), number, "reversed");
        for (how, packed) in packed(number) {
            look(bytes, &packed, number, how);
        }
    }
    for name in &marks.names {
        look(&lower, name.to_ascii_lowercase().as_bytes(), name, "plain");
    }
    for host in &marks.hosts {
        look(&lower, host.to_ascii_lowercase().as_bytes(), host, "plain");
        if let Ok(address) = host.parse::<Ipv4Addr>() {
            look(bytes, &address.octets(), host, "binary");
            look(&lower, host.replace('.', "-").as_bytes(), host, "dashed");
            look(&lower, address.to_bits().to_string().as_bytes(), host, "decimal");
        }
    }
    for id in &marks.ids {
        look(&lower, id.to_ascii_lowercase().as_bytes(), id, "plain");
        let bare: String = id.chars().filter(|c| *c != '-').collect();
        if bare.len() == 32 && bare.len() != id.len() {
            look(&lower, bare.to_ascii_lowercase().as_bytes(), id, "without dashes");
        }
        if bare.len() == 32 {
            look(bytes, &hex_decode(bare.as_bytes()), id, "binary");
        }
    }
}

/// Adds a finding when `needle` is in `hay`; short needles are never looked for.
fn note(hay: &[u8], needle: &[u8], mark: &str, path: &[&'static str], findings: &mut Vec<Finding>) -> bool {
    if needle.len() < 4 {
        return false;
    }
    let Some(at) = crate::message::find(hay, needle) else { return false };
    let around = hay.get(at.saturating_sub(24)..(at + needle.len() + 24).min(hay.len())).unwrap_or_default();
    let excerpt = String::from_utf8_lossy(around).replace(['\r', '\n'], "⏎");
    let mut encoding = path.join(" → ");
    if path.len() > 1 && path.last() == Some(&"plain") {
        encoding = path.get(..path.len() - 1).unwrap_or_default().join(" → ");
    }
    let finding = Finding { mark: mark.to_owned(), encoding, excerpt };
    if !findings.iter().any(|f| f.mark == finding.mark) {
        findings.push(finding);
    }
    true
}

/// Digits of the country code (ITU-T E.164 list of 2016).
fn country_code_length(number: &str) -> usize {
    let two = number.get(..2).unwrap_or_default();
    match number.as_bytes().first() {
        Some(b'1' | b'7') => 1,
        _ if "20 27 30 31 32 33 34 36 39 40 41 43 44 45 46 47 48 49 51 52 53 54 55 56 57 58 60 61 62 63 64 65 66 81 82 84 86 90 91 92 93 94 95 98"
            .split(' ')
            .any(|code| code == two) =>
        {
            2
        }
        _ => 3,
    }
}

/// `bytes` without separators between digits: up to three of them in a row.
fn join_digits(bytes: &[u8]) -> Vec<u8> {
    let mut joined: Vec<u8> = Vec::with_capacity(bytes.len());
    let mut separators = 0;
    for byte in bytes {
        if byte.is_ascii_digit() {
            let kept = joined.len() - separators;
            if separators <= 3
                && kept.checked_sub(1).and_then(|i| joined.get(i)).is_some_and(u8::is_ascii_digit)
            {
                joined.truncate(kept);
            }
            separators = 0;
        } else if b" -./()_~\t,".contains(byte) {
            separators += 1;
        } else {
            separators = 0;
        }
        joined.push(*byte);
    }
    joined
}

fn stands_alone(hay: &[u8], needle: &[u8]) -> bool {
    let digit = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_digit);
    hay.windows(needle.len().max(1)).enumerate().any(|(at, window)| {
        window == needle
            && !digit(at.checked_sub(1).and_then(|i| hay.get(i)))
            && !digit(hay.get(at + needle.len()))
    })
}

/// A number two digits to a byte in both nibble orders and both alignments, and as a binary integer.
fn packed(number: &str) -> Vec<(&'static str, Vec<u8>)> {
    let digits: Vec<u8> = number.bytes().map(|b| b.wrapping_sub(b'0')).collect();
    let mut forms = vec![];
    // Of an odd number of digits the last one stands beside a filler, or the first one beside another field.
    // It is never left out: numbers of one block differ in their last digit only.
    for (skip, filler) in [(0, 0xf), (0, 0), (1, 0xf)] {
        let pairs: Vec<[u8; 2]> = digits
            .get(skip..)
            .unwrap_or_default()
            .chunks(2)
            .map(|pair| [pair.first().copied().unwrap_or(filler), pair.get(1).copied().unwrap_or(filler)])
            .collect();
        if pairs.len() >= 4 {
            forms.push(("packed digits", pairs.iter().map(|[a, b]| (a << 4) | b).collect()));
            forms.push(("packed digits, swapped", pairs.iter().map(|[a, b]| (b << 4) | a).collect()));
        }
    }
    if let Ok(value) = number.parse::<u64>() {
        let bytes: Vec<u8> = value.to_be_bytes().into_iter().skip_while(|b| *b == 0).collect();
        if bytes.len() >= 5 {
            forms.push(("binary integer", bytes.iter().rev().copied().collect()));
            forms.push(("binary integer", bytes));
        }
    }
    forms
}

/// Every way in which `bytes` may hide another text.
fn layers(bytes: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let mut layers = vec![];
    let mut add = |name, layer: Cow<'_, [u8]>| {
        if layer != bytes && !layer.is_empty() {
            layers.push((name, layer.into_owned()));
        }
    };
    add("url-escaped", unescape(bytes, b"%", 2));
    add("quoted-printable", unescape(bytes, b"=", 2));
    add("\\x-escaped", unescape(bytes, b"\\x", 2));
    add("\\u-escaped", unescape(bytes, b"\\u00", 2));
    add("html-escaped", html(bytes).into());
    if bytes.windows(4).any(|w| matches!(w, [0, a, 0, b] | [a, 0, b, 0] if *a != 0 && *b != 0)) {
        add("utf-16", bytes.iter().copied().filter(|byte| *byte != 0).collect::<Vec<_>>().into());
    }
    for run in runs(bytes, 8, |b| b.is_ascii_alphanumeric() || b"+/-_".contains(&b)) {
        for offset in 0..4 {
            add("base64", base64_decode(run.get(offset..).unwrap_or_default()).into());
        }
    }
    for run in runs(bytes, 10, |b| b.is_ascii_hexdigit()) {
        for offset in 0..2 {
            add("hex", hex_decode(run.get(offset..).unwrap_or_default()).into());
        }
    }
    layers
}

fn runs(bytes: &[u8], least: usize, of: impl Fn(u8) -> bool) -> Vec<&[u8]> {
    bytes.split(|byte| !of(*byte)).filter(|run| run.len() >= least).collect()
}

/// Replaces `prefix` and two hex digits by their byte.
fn unescape<'a>(bytes: &'a [u8], prefix: &[u8], digits: usize) -> Cow<'a, [u8]> {
    if crate::message::find(bytes, prefix).is_none() {
        return Cow::Borrowed(bytes);
    }
    let (mut out, mut rest) = (Vec::with_capacity(bytes.len()), bytes);
    while let Some((first, after)) = rest.split_first() {
        let escaped = rest.strip_prefix(prefix).and_then(|tail| tail.split_at_checked(digits));
        match escaped {
            Some((hex, tail)) if hex.iter().all(u8::is_ascii_hexdigit) => {
                out.extend(hex_decode(hex));
                rest = tail;
            }
            _ => {
                out.push(*first);
                rest = after;
            }
        }
    }
    Cow::Owned(out)
}

/// Replaces `&#52;` and `&#x34;` by their character.
fn html(bytes: &[u8]) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::with_capacity(bytes.len()), bytes);
    while let Some((first, after)) = rest.split_first() {
        let entity = rest.strip_prefix(b"&#").and_then(|tail| {
            let end = tail.iter().take(8).position(|byte| *byte == b';')?;
            let text = std::str::from_utf8(tail.get(..end)?).ok()?;
            let code = match text.strip_prefix(['x', 'X']) {
                Some(hex) => u8::from_str_radix(hex, 16).ok()?,
                None => text.parse().ok()?,
            };
            Some((code, tail.get(end + 1..)?))
        });
        match entity {
            Some((code, tail)) => {
                out.push(code);
                rest = tail;
            }
            None => {
                out.push(*first);
                rest = after;
            }
        }
    }
    out
}

fn hex_decode(text: &[u8]) -> Vec<u8> {
    let value = |byte: u8| char::from(byte).to_digit(16).and_then(|v| u8::try_from(v).ok());
    text.chunks_exact(2)
        .filter_map(|pair| match pair {
            [high, low] => Some((value(*high)? << 4) | value(*low)?),
            _ => None,
        })
        .collect()
}

fn base64_decode(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() * 3 / 4);
    let (mut bits, mut count) = (0u32, 0);
    for byte in text {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' | b'-' => 62,
            _ => 63,
        };
        bits = ((bits << 6) | u32::from(value)) & 0xff_ffff;
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push(u8::try_from((bits >> count) & 0xff).unwrap_or_default());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const NUMBER: &str = "4915112345678";

    fn marks() -> Marks {
        Marks::default()
            .number("+4915112345678")
            .name("Wanda Ünlü")
            .host("10.11.12.13")
            .host("pbx.wanda.example")
            .id("f81d4fae-7dec-11d0-a765-00a0c91e6bf6")
    }

    fn base64(text: &[u8]) -> String {
        const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let mut out = String::new();
        for chunk in text.chunks(3) {
            let bits = chunk.iter().fold(0u32, |bits, byte| (bits << 8) | u32::from(*byte))
                << (8 * (3 - chunk.len()));
            for i in 0..=chunk.len() {
                out.push(char::from(ALPHABET[(bits >> (18 - 6 * i)) as usize & 63]));
            }
        }
        out
    }

    fn hex(text: &[u8]) -> String {
        text.iter().map(|byte| format!("{byte:02X}")).collect()
    }

    #[test]
    fn a_number_is_found_in_every_disguise() {
        let utf16: Vec<u8> = NUMBER.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let each = |prefix: &str| NUMBER.bytes().map(|b| format!("{prefix}{b:02x}")).collect::<String>();
        let disguises: Vec<(&str, Vec<u8>)> = vec![
            ("plain", "P-Asserted-Identity: <tel:+4915112345678>".into()),
            ("national", "From: <sip:015112345678@h>".into()),
            ("digits separated", "Subject: call (0151) 123-456.78 now".into()),
            ("subscriber number", "X: 2345678;".into()),
            ("reversed", "8.7.6.5.4.3.2.1.1.5.1.9.4.e164.arpa".into()),
            ("url-escaped", each("%").into()),
            ("quoted-printable", each("=").into()),
            ("\\u-escaped", each("\\u00").into()),
            ("\\x-escaped", each("\\x").into()),
            ("html-escaped", NUMBER.bytes().map(|b| format!("&#{b};")).collect::<String>().into()),
            ("utf-16", utf16),
            ("base64", format!("Identity: {}", base64(b"{\"orig\":{\"tn\":\"4915112345678\"}}")).into()),
            ("base64", format!("tag=xx{}", base64(b"sip:4915112345678@h")).into()),
            ("hex", format!("User-to-User: {};encoding=hex", hex(NUMBER.as_bytes())).into()),
            ("url-escaped → digits separated", "?Subject=0151%20123%2045%20678".into()),
            ("base64 → hex", base64(hex(NUMBER.as_bytes()).as_bytes()).into()),
            ("packed digits, swapped", vec![1, 2, 0x94, 0x51, 0x11, 0x32, 0x54, 0x76, 0xf8]),
            ("packed digits", vec![0x49, 0x15, 0x11, 0x23, 0x45, 0x67, 0x8f]),
            ("binary integer", 4_915_112_345_678u64.to_be_bytes().to_vec()),
        ];
        for (encoding, text) in disguises {
            let found = find(&text, &marks());
            assert!(
                found.iter().any(|f| f.encoding == encoding && f.mark == NUMBER),
                "{encoding}: {found:?}"
            );
        }
    }

    #[test]
    fn names_hosts_and_ids_are_found() {
        for (encoding, mark, text) in [
            ("plain", "Wanda Ünlü", "From: \"WANDA Ünlü\" <sip:x@y>".to_owned()),
            ("url-escaped", "Wanda Ünlü", "wanda%20%C3%9Cnl%c3%bc".to_owned()),
            ("plain", "pbx.wanda.example", "Via: SIP/2.0/UDP PBX.wanda.example".to_owned()),
            ("plain", "10.11.12.13", "c=IN IP4 10.11.12.13".to_owned()),
            ("dashed", "10.11.12.13", "ip-10-11-12-13.internal".to_owned()),
            ("hex → binary", "10.11.12.13", "000a0b0c0d0000".to_owned()),
            (
                "without dashes",
                "f81d4fae-7dec-11d0-a765-00a0c91e6bf6",
                "F81D4FAE7DEC11D0A76500A0C91E6BF6".to_owned(),
            ),
        ] {
            let found = find(text.as_bytes(), &marks());
            assert!(
                found.iter().any(|f| f.encoding == encoding && f.mark == mark),
                "{encoding} {mark}: {found:?}"
            );
        }
    }

    #[test]
    fn what_is_clean_stays_clean() {
        let clean = "INVITE sip:+33155512345@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:5060;branch=z9hG4bK0123456789abcdef0123456789abcdef\r\n\
            From: <sip:+12025550100@127.0.0.1>;tag=00112233445566778899aabbccddeeff\r\nCall-ID: 4917abcdef4917abcdef\r\nCSeq: 12345 INVITE\r\n\
            User-Agent: maskline\r\nContent-Length: 0\r\n\r\nv=0\r\no=- 1234567890123 1 IN IP4 127.0.0.1\r\n";
        assert_eq!(find(clean.as_bytes(), &marks()), []);
    }
}

//! The leak finder: marks that were planted on one leg, searched in all that the other leg received, in any
//! disguise that a careless copy could give them.
//!
//! Numbers are found whole, in national form, as a subscriber number that stands alone, with separators between
//! the digits, reversed (ENUM), packed two digits to a byte (ISUP) and as binary integers; everything is also
//! found over folded lines, percent-, base64-, hex-, UTF-16-, quoted-printable-, HTML- or JSON-escaped, in base64
//! whose case was lost, and in one such layer inside another. [`disguise`] writes what is found here.

pub mod disguise;
mod layers;
#[cfg(test)]
mod tests;

use disguise::Disguise;
use memchr::memmem;
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
    Finder::new(marks).find(bytes)
}

/// Marks as plain text only; for audio payloads, in which short binary forms appear by chance.
#[must_use]
pub fn find_plain(bytes: &[u8], marks: &Marks) -> Vec<Finding> {
    Finder::new(marks).find_plain(bytes)
}

/// How many disguises may lie in each other.
const DEPTH: usize = 3;

/// In what form of a layer a needle is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hay {
    /// As it is.
    Raw,
    /// In lower case.
    Lower,
    /// In lower case, without separators between digits.
    Joined,
    /// In lower case, with nothing beside it that could belong to a longer number or a hexadecimal id.
    Alone,
}

#[derive(Debug)]
struct Needle {
    mark: String,
    how: &'static str,
    hay: Hay,
    text: memmem::Finder<'static>,
}

/// The finder, made ready for many searches of the same marks.
#[derive(Debug)]
pub struct Finder {
    /// Looked for in every layer; of one mark, the least disguise comes first.
    needles: Vec<Needle>,
    /// Of base64 whose case was lost, as in a host name; it cannot be decoded, only recognised.
    folded: Vec<Needle>,
    /// Every mark as it is.
    plain: Vec<Needle>,
}

impl Finder {
    /// Makes ready.
    #[must_use]
    pub fn new(marks: &Marks) -> Self {
        let mut finder = Self { needles: vec![], folded: vec![], plain: vec![] };
        for number in &marks.numbers {
            finder.add_number(number);
        }
        for name in &marks.names {
            finder.add_text(name);
        }
        for host in &marks.hosts {
            finder.add_text(host);
            if let Ok(address) = host.parse::<Ipv4Addr>() {
                finder.add(host, "dashed", Hay::Lower, host.replace('.', "-").as_bytes());
                finder.add(host, "decimal", Hay::Lower, address.to_bits().to_string().as_bytes());
                finder.add(host, "binary", Hay::Raw, &address.octets());
            }
        }
        for id in &marks.ids {
            finder.add_text(id);
            let bare: String = id.chars().filter(|c| *c != '-').collect();
            if bare.len() == 32 {
                finder.add(id, "without dashes", Hay::Lower, bare.to_ascii_lowercase().as_bytes());
                finder.add(id, "binary", Hay::Raw, &layers::hex_decode(bare.as_bytes()));
            }
        }
        finder
    }

    /// Short needles are never looked for.
    fn add(&mut self, mark: &str, how: &'static str, hay: Hay, text: &[u8]) {
        if text.len() >= 4 {
            let text = memmem::Finder::new(text).into_owned();
            self.needles.push(Needle { mark: mark.to_owned(), how, hay, text });
        }
    }

    fn add_text(&mut self, mark: &str) {
        let lower = mark.to_ascii_lowercase();
        self.add(mark, "plain", Hay::Lower, lower.as_bytes());
        if !mark.is_ascii() {
            // Without its zeros, UTF-16 is readable only as far as it is ASCII.
            let units = || mark.encode_utf16();
            self.add(mark, "utf-16", Hay::Raw, &units().flat_map(u16::to_le_bytes).collect::<Vec<_>>());
            self.add(mark, "utf-16", Hay::Raw, &units().flat_map(u16::to_be_bytes).collect::<Vec<_>>());
        }
        let needle = |how, text: &[u8]| {
            let text = memmem::Finder::new(text).into_owned();
            Needle { mark: mark.to_owned(), how, hay: Hay::Lower, text }
        };
        if lower.len() >= 4 {
            self.plain.push(needle("plain", lower.as_bytes()));
        }
        for core in disguise::base64_cores(mark) {
            // Shorter ones stand in random text.
            if core.len() >= 8 {
                self.folded.push(needle("base64, case lost", core.to_ascii_lowercase().as_bytes()));
            }
        }
    }

    fn add_number(&mut self, number: &str) {
        self.add_text(number);
        let national = disguise::national(number);
        self.add(number, "national", Hay::Lower, national.as_bytes());
        self.add(number, "digits separated", Hay::Joined, national.as_bytes());
        let subscriber = national.get(national.len().saturating_sub(7)..).unwrap_or(national);
        self.add(number, "subscriber number", Hay::Alone, subscriber.as_bytes());
        let reversed: String = national.chars().rev().collect();
        self.add(number, "reversed", Hay::Joined, reversed.as_bytes());
        for (how, packed) in packed(number) {
            self.add(number, how, Hay::Raw, &packed);
        }
    }

    /// See [`find`].
    #[must_use]
    pub fn find(&self, bytes: &[u8]) -> Vec<Finding> {
        let mut findings = vec![];
        self.search(bytes, &mut findings);
        let lower = bytes.to_ascii_lowercase();
        let unfolded = layers::unfolded(&lower);
        for hay in std::iter::once(&lower).chain(&unfolded) {
            for needle in &self.folded {
                note(hay, needle, &[], &mut findings);
            }
        }
        findings
    }

    /// See [`find_plain`].
    #[must_use]
    pub fn find_plain(&self, bytes: &[u8]) -> Vec<Finding> {
        let (mut findings, lower) = (vec![], bytes.to_ascii_lowercase());
        for needle in &self.plain {
            note(&lower, needle, &[], &mut findings);
        }
        findings
    }

    /// One layer after the other is taken off, in breadth, so that the least disguise is seen first.
    fn search(&self, bytes: &[u8], findings: &mut Vec<Finding>) {
        self.direct(bytes, &[], findings);
        let mut outer: Vec<(Vec<&'static str>, Vec<u8>)> = vec![(vec![], bytes.to_vec())];
        for _ in 0..DEPTH {
            let mut inner = vec![];
            for (path, layer) in &outer {
                for (name, next) in layers::layers(layer) {
                    let mut path = path.clone();
                    path.push(name);
                    self.direct(&next, &path, findings);
                    inner.push((path, next));
                }
            }
            outer = inner;
        }
    }

    /// What can be seen in this layer without decoding another.
    fn direct(&self, bytes: &[u8], path: &[&'static str], findings: &mut Vec<Finding>) {
        let lower = bytes.to_ascii_lowercase();
        let joined = layers::join_digits(&lower);
        for needle in &self.needles {
            match needle.hay {
                Hay::Raw => note(bytes, needle, path, findings),
                Hay::Joined => note(&joined, needle, path, findings),
                Hay::Lower => note(&lower, needle, path, findings),
                Hay::Alone if stands_alone(&lower, needle) => note(&lower, needle, path, findings),
                Hay::Alone => {}
            }
        }
    }
}

/// Adds a finding when the needle is in `hay`, unless its mark was found in less disguise.
fn note(hay: &[u8], needle: &Needle, path: &[&'static str], findings: &mut Vec<Finding>) {
    if findings.iter().any(|finding| finding.mark == needle.mark) {
        return;
    }
    let Some(at) = needle.text.find(hay) else { return };
    let end = (at + needle.text.needle().len() + 24).min(hay.len());
    let around = hay.get(at.saturating_sub(24)..end).unwrap_or_default();
    let excerpt = String::from_utf8_lossy(around).replace(['\r', '\n'], "⏎");
    let mut full = path.to_vec();
    if path.is_empty() || needle.how != "plain" {
        full.push(needle.how);
    }
    findings.push(Finding { mark: needle.mark.clone(), encoding: full.join(" → "), excerpt });
}

fn stands_alone(hay: &[u8], needle: &Needle) -> bool {
    let belongs = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_hexdigit);
    needle.text.find_iter(hay).any(|at| {
        !belongs(at.checked_sub(1).and_then(|before| hay.get(before)))
            && !belongs(hay.get(at + needle.text.needle().len()))
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
    forms.extend(
        Disguise::Integer
            .apply(number, 0)
            .map(|bytes| {
                let least_first: Vec<u8> = bytes.iter().rev().copied().collect();
                [("binary integer", bytes), ("binary integer", least_first)]
            })
            .into_iter()
            .flatten(),
    );
    forms
}

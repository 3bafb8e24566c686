//! Who must not be recognised: a caller and a callee, new ones for each round, and how their marks are written.

// Parts of one test.
#![allow(unreachable_pub)]

use crate::common::base64;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use sip_tests::leak::Marks;
use sip_tests::leak::disguise::{Disguise, Room};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    Caller,
    Callee,
}

impl Side {
    pub const BOTH: [Self; 2] = [Self::Caller, Self::Callee];

    pub fn name(self) -> &'static str {
        match self {
            Self::Caller => "caller",
            Self::Callee => "callee",
        }
    }

    pub fn other(self) -> Self {
        match self {
            Self::Caller => Self::Callee,
            Self::Callee => Self::Caller,
        }
    }
}

/// Country code, beginning and further digits of numbers; none of the country of the virtual numbers.
#[rustfmt::skip]
const NUMBERS: &[(&str, usize)] = &[
    ("49151", 8), ("336", 8), ("447", 9), ("9198", 8), ("393", 9), ("346", 8), ("614", 8), ("8190", 8),
    ("55119", 8), ("79", 9), ("420", 9), ("97254", 7), ("31", 9), ("2348", 9),
];

/// Rows whose number the service reads, so that it must be readable.
const READ: [u8; 6] = [1, 2, 3, 4, 10, 12];

/// What is true of one side and must not reach the other.
pub struct Party {
    pub side: Side,
    /// Decides which mark stands where, and in which disguise; `None`: everything as it is.
    mix: Option<u64>,
    /// Without `+`.
    pub number: String,
    /// Another number of the same party, to which it forwards.
    pub forward: String,
    /// In names, hosts, tags and ids of this side, with the row behind it.
    pub stem: String,
    pub uuid: String,
    /// Inside its network.
    pub lan: String,
    /// What it really speaks from.
    pub address: String,
    /// First CSeq, RSeq.
    pub cseq: u32,
    pub rseq: u32,
    pub date: String,
    pub timestamp: String,
}

impl Party {
    /// The party of this seed; the same seed, the same party.
    pub fn drawn(side: Side, seed: u64, is_mixed: bool) -> Self {
        let rng = &mut StdRng::seed_from_u64(seed.wrapping_mul(2).wrapping_add(side as u64));
        let mut number = || {
            let (start, more) = *NUMBERS.choose(rng).unwrap();
            // Without a zero: what is read as an integer keeps its digits.
            let digits: String = (0..more).map(|_| char::from(rng.random_range(b'1'..=b'9'))).collect();
            format!("{start}{digits}")
        };
        let (number, forward) = (number(), number());
        // Letters that stand in no hexadecimal id.
        let stem = (0..9).map(|_| char::from(*b"gjkmnpqvwxyz".choose(rng).unwrap())).collect();
        let mut octets = || -> [u8; 3] { std::array::from_fn(|_| rng.random_range(11..=250)) };
        let (lan, own) = (octets(), octets());
        let [a, b, c, d] = std::array::from_fn(|_| rng.random::<u32>());
        let mut thousands = |from: u32| rng.random_range(from..from + 1_000_000) * 100 + 1;
        let (cseq, rseq) = (thousands(19_000_000), thousands(17_000_000));
        let month = *["Jan", "Feb", "Mar", "May", "Jul", "Nov"].choose(rng).unwrap();
        let (day, year) = (rng.random_range(10..28), rng.random_range(1990..2012));
        let with_dots = |head: &str, [a, b, c]: [u8; 3]| format!("{head}.{a}.{b}.{c}");
        Self {
            side,
            mix: is_mixed.then_some(seed),
            number,
            forward,
            stem,
            uuid: format!(
                "{a:08x}-{:04x}-4{:03x}-a{:03x}-{c:08x}{:04x}",
                b >> 16,
                b & 0xfff,
                d >> 20,
                d & 0xffff
            ),
            lan: with_dots("10", lan),
            address: with_dots("127", own),
            cseq,
            rseq,
            date: format!("Sat, {day} {month} {year} 23:29:00 GMT"),
            timestamp: format!("{}.{}", rng.random_range(11111..99999), rng.random_range(11111..99999)),
        }
    }

    pub fn name(&self) -> &'static str {
        self.side.name()
    }

    /// Its numbers and its name.
    pub fn person(&self) -> Marks {
        Marks::default().number(&self.number).number(&self.forward).name(&self.stem)
    }

    /// All that is its own.
    pub fn marks(&self) -> Marks {
        self.person()
            .name(&self.date[5..16])
            .name(&self.timestamp)
            .host(&self.lan)
            .host(&self.address)
            .id(&self.uuid)
            // Later requests differ in the last two digits.
            .id(&(self.cseq / 100).to_string())
            .id(&self.rseq.to_string())
    }

    /// What happens to be drawn for this place; the same for each message of the round.
    fn chance(&self, row: u8, place: &str) -> Option<StdRng> {
        let text = place.bytes().chain([row, self.side as u8]);
        let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        Some(StdRng::seed_from_u64(text.fold(self.mix? ^ 0xcbf2_9ce4_8422_2325, mix)))
    }

    /// One of its marks in one of the disguises that the place takes.
    pub fn disguised(&self, row: u8, place: &str, room: Room) -> Option<(Disguise, Vec<u8>)> {
        let rng = &mut self.chance(row, place)?;
        let marks =
            [&self.number, &self.number, &self.number, &self.forward, &self.stem, &self.lan, &self.uuid];
        loop {
            let (disguise, mark) = (*Disguise::ALL.choose(rng).unwrap(), *marks.choose(rng).unwrap());
            let fits = if room == Room::Bytes { disguise.room() == room } else { disguise.room() <= room };
            if fits
                && let Some(text) = disguise.apply(mark, rng.random_range(0..3))
                // A head has 16 KiB for 150 of these.
                && text.len() <= 100
            {
                let apart = if disguise.stands_alone() { b"x.".as_slice() } else { b"" };
                let behind = if disguise.stands_alone() { b".x".as_slice() } else { b"" };
                return Some((disguise, [apart, &text, behind].concat()));
            }
        }
    }

    fn disguised_text(&self, row: u8, place: &str, room: Room) -> Option<String> {
        self.disguised(row, place, room).map(|(_, text)| String::from_utf8(text).unwrap())
    }

    /// Fills in a template of `row`: `{n}` and `{f}` the numbers, `{s}` a word that names the row, `{h}` a host that
    /// does, `{u}` the uuid, `{ip}` the address inside, `{passport}` a PASSporT, `{hex}` the number in hex. In a mixed
    /// round a mark in disguise stands for most of these, and for `{text}` and, where no line may be folded,
    /// `{line}`.
    pub fn fill(&self, row: u8, template: &str) -> String {
        let chance = |what: &str| self.chance(row, &format!("{what}{template}"));
        let plain_word = format!("{}{row}", self.stem);
        let url64 = |text: &str| base64(text.as_bytes()).replace('+', "-").replace('/', "_").replace('=', "");
        let header =
            url64(r#"{"alg":"ES256","ppt":"shaken","typ":"passport","x5u":"https://cert.example/a.pem"}"#);
        let claims = url64(&format!(
            r#"{{"attest":"A","dest":{{"tn":["12025550100"]}},"iat":1443208345,"orig":{{"tn":"{}"}},"origid":"{}","nam":"{plain_word}"}}"#,
            self.number, self.uuid
        ));
        let hex: String = self.number.bytes().map(|byte| format!("{byte:02x}")).collect();
        let escaped: String = self.number.bytes().map(|byte| format!("%{byte:02x}")).collect();
        // Two words of three are something else than the name.
        let word = match chance("word").map(|mut rng| rng.random_range(0..3)) {
            None | Some(0) => plain_word.clone(),
            Some(_) => self.disguised_text(row, template, Room::Token).unwrap(),
        };
        let host = match chance("host").map(|mut rng| rng.random_range(0..5)) {
            Some(1) => format!("h{hex}.r{row}.example"),
            Some(2) => Disguise::Enum.apply(&self.forward, 0).map(|n| String::from_utf8(n).unwrap()).unwrap(),
            Some(3) => format!("ip-{}.{row}.example", self.lan.replace('.', "-")),
            Some(4) => {
                let lost = Disguise::Base64CaseLost.apply(&self.number, usize::from(row % 3)).unwrap();
                format!("{}.example", String::from_utf8(lost).unwrap().replace('_', ""))
            }
            _ => format!("r{row}.{}.example", self.stem),
        };
        let number = |number: &str, what: &str| {
            let Some(mut rng) = chance(what).filter(|_| !READ.contains(&row)) else {
                return number.to_owned();
            };
            let forms = [
                Disguise::Plain,
                Disguise::Plain,
                Disguise::Dashed,
                Disguise::Dotted,
                Disguise::Percent,
                Disguise::PlusEscaped,
                Disguise::National,
                Disguise::Reversed,
            ];
            String::from_utf8(forms.choose(&mut rng).unwrap().apply(number, 0).unwrap()).unwrap()
        };
        let uuid = match chance("uuid").map(|mut rng| rng.random_range(0..3)) {
            Some(1) => self.uuid.to_ascii_uppercase(),
            Some(2) => self.uuid.replace('-', ""),
            _ => self.uuid.clone(),
        };
        let free = |room| self.disguised_text(row, template, room).unwrap_or_else(|| plain_word.clone());
        let text = free(Room::Text);
        template
            .replace("{line}", &text.replace("\r\n\t", "").replace("\r\n ", ""))
            .replace("{text}", &text)
            .replace("{n}", &number(&self.number, "number"))
            .replace("{f}", &number(&self.forward, "forward"))
            .replace("{s}", &word)
            .replace("{h}", &host)
            .replace("{u}", &uuid)
            .replace("{u32}", &self.uuid.replace('-', ""))
            .replace("{ip}", &self.lan)
            .replace("{passport}", &format!("{header}.{claims}.c2lnbmF0dXJl"))
            .replace("{hex}", &hex)
            .replace("{escaped}", &escaped)
            .replace("{rseq}", &self.rseq.to_string())
            .replace("{cseq}", &self.cseq.to_string())
            .replace("{date}", &self.date)
            .replace("{timestamp}", &self.timestamp)
    }
}

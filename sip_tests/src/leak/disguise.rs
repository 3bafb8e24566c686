//! The disguises in which the leak proof plants its marks: what a careless copy could make of a number or name.

/// Where a disguised mark may stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Room {
    /// In a token of RFC 3261 §25.1, a tag, the user part of a URI, a parameter, a label of a host.
    Token,
    /// In a quoted string, a line of a description or a text body.
    Text,
    /// In bytes that nobody reads as text.
    Bytes,
}

/// One way to write a mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Disguise {
    /// As it is.
    Plain,
    /// `+` before it, escaped.
    PlusEscaped,
    /// National form: no country code, a zero instead.
    National,
    /// The last seven digits.
    Subscriber,
    /// `-` between groups.
    Dashed,
    /// `.` between digits.
    Dotted,
    /// Spaces between groups.
    Spaced,
    /// `(0151) 234…`.
    Bracketed,
    /// Last digit first.
    Reversed,
    /// A name of e164.arpa (RFC 6116 §2.4).
    Enum,
    /// Capital letters.
    Shouted,
    /// Every character as `%34`.
    Percent,
    /// Every character as `=34` (RFC 2045 §6.7).
    QuotedPrintable,
    /// Every character as `&#52;`.
    Html,
    /// Every character as `\u0034`.
    JsonEscaped,
    /// Every character behind a backslash (RFC 3261 §25.1, quoted-pair).
    QuotedPairs,
    /// Hexadecimal in small letters.
    Hex,
    /// Hexadecimal in capitals, a colon between the bytes, as in a fingerprint.
    HexColons,
    /// RFC 4648 §4 with padding.
    Base64,
    /// RFC 4648 §5 without padding.
    Base64Url,
    /// The same after a host made it small.
    Base64CaseLost,
    /// The claims of a PASSporT (RFC 8225).
    Jwt,
    /// Base64 of hexadecimal.
    Base64OfHex,
    /// Base64 with escapes.
    PercentOfBase64,
    /// A fold of the line in the middle.
    Folded,
    /// A fold in the middle of base64.
    FoldedBase64,
    /// UTF-16, least byte first.
    Utf16Le,
    /// UTF-16, greatest byte first.
    Utf16Be,
    /// Two digits to a byte.
    Packed,
    /// The same, the first digit low (Q.763 §3.10).
    PackedSwapped,
    /// The number as a binary integer.
    Integer,
}

impl Disguise {
    /// All of them.
    #[rustfmt::skip]
    pub const ALL: [Self; 31] = [
        Self::Plain, Self::PlusEscaped, Self::National, Self::Subscriber, Self::Dashed, Self::Dotted, Self::Spaced, Self::Bracketed,
        Self::Reversed, Self::Enum, Self::Shouted, Self::Percent, Self::QuotedPrintable, Self::Html, Self::JsonEscaped, Self::QuotedPairs,
        Self::Hex, Self::HexColons, Self::Base64, Self::Base64Url, Self::Base64CaseLost, Self::Jwt, Self::Base64OfHex,
        Self::PercentOfBase64, Self::Folded, Self::FoldedBase64, Self::Utf16Le, Self::Utf16Be, Self::Packed, Self::PackedSwapped,
        Self::Integer,
    ];

    /// The narrowest place that takes it.
    #[must_use]
    pub fn room(self) -> Room {
        match self {
            Self::Plain
            | Self::PlusEscaped
            | Self::National
            | Self::Subscriber
            | Self::Dashed
            | Self::Dotted => Room::Token,
            Self::Reversed | Self::Enum | Self::Shouted | Self::Percent | Self::Hex => Room::Token,
            Self::Base64Url | Self::Base64CaseLost | Self::Jwt | Self::Base64OfHex => Room::Token,
            Self::Utf16Le | Self::Utf16Be | Self::Packed | Self::PackedSwapped | Self::Integer => Room::Bytes,
            _ => Room::Text,
        }
    }

    /// Whether it can be told from the mark's neighbours only when nothing of a number stands beside it.
    #[must_use]
    pub fn stands_alone(self) -> bool {
        self == Self::Subscriber
    }

    /// `mark` so written; `None` when this cannot be done to it (a name has no national form). `skip` bytes stand
    /// before it in base64, so that 0, 1 and 2 are its three alignments.
    #[must_use]
    pub fn apply(self, mark: &str, skip: usize) -> Option<Vec<u8>> {
        let is_number = mark.bytes().all(|byte| byte.is_ascii_digit());
        if self.is_of_numbers() && (!is_number || mark.len() < 8) {
            return None;
        }
        if self == Self::Shouted && is_number {
            return None;
        }
        let text = match self {
            Self::Plain => mark.to_owned(),
            Self::PlusEscaped => format!("%2B{mark}"),
            Self::National => format!("0{}", national(mark)),
            Self::Subscriber => mark.get(mark.len().checked_sub(7)?..)?.to_owned(),
            Self::Dashed => grouped(mark, "-"),
            Self::Dotted => every(mark, |c| format!(".{c}")).split_off(1),
            Self::Spaced => grouped(mark, " "),
            Self::Bracketed => {
                let (area, rest) = national(mark).split_at_checked(3)?;
                format!("(0{area}) {}", grouped(rest, "/"))
            }
            Self::Reversed => mark.chars().rev().collect(),
            Self::Enum => {
                format!("{}e164.arpa", every(&mark.chars().rev().collect::<String>(), |c| format!("{c}.")))
            }
            Self::Shouted => mark.to_ascii_uppercase(),
            Self::Percent => bytewise(mark, "%", ""),
            Self::QuotedPrintable => bytewise(mark, "=", "").to_uppercase(),
            Self::Html => mark.bytes().map(|byte| format!("&#{byte};")).collect(),
            Self::JsonEscaped => bytewise(mark, "\\u00", ""),
            Self::QuotedPairs => every(mark, |c| format!("\\{c}")),
            Self::Hex => bytewise(mark, "", ""),
            Self::HexColons => bytewise(mark, "", ":").to_uppercase(),
            Self::Base64 => base64(mark, skip, true),
            Self::Base64Url => base64(mark, skip, false),
            Self::Base64CaseLost => base64(mark, skip, false).to_ascii_lowercase(),
            Self::Jwt => {
                let claims = format!("{{\"orig\":{{\"tn\":\"{mark}\"}}}}");
                format!("eyJhbGciOiJFUzI1NiJ9.{}.c2lnbmF0dXJl", base64(&claims, skip, false))
            }
            Self::Base64OfHex => base64(&bytewise(mark, "", ""), skip, false),
            Self::PercentOfBase64 => bytewise(&base64(mark, skip, false), "%", ""),
            Self::Folded => in_the_middle(mark, "\r\n\t"),
            Self::FoldedBase64 => in_the_middle(&base64(mark, skip, true), "\r\n "),
            Self::Utf16Le => return Some(mark.encode_utf16().flat_map(u16::to_le_bytes).collect()),
            Self::Utf16Be => return Some(mark.encode_utf16().flat_map(u16::to_be_bytes).collect()),
            Self::Packed => return Some(pairs(mark).map(|[a, b]| (a << 4) | b).collect()),
            Self::PackedSwapped => return Some(pairs(mark).map(|[a, b]| (b << 4) | a).collect()),
            Self::Integer => {
                let value: u64 = mark.parse().ok()?;
                let bytes: Vec<u8> = value.to_be_bytes().into_iter().skip_while(|b| *b == 0).collect();
                return (bytes.len() >= 5).then_some(bytes);
            }
        };
        Some(text.into_bytes())
    }

    fn is_of_numbers(self) -> bool {
        const WRITTEN: [Disguise; 9] = [
            Disguise::PlusEscaped,
            Disguise::National,
            Disguise::Subscriber,
            Disguise::Dashed,
            Disguise::Dotted,
            Disguise::Spaced,
            Disguise::Bracketed,
            Disguise::Reversed,
            Disguise::Enum,
        ];
        WRITTEN.contains(&self) || matches!(self, Self::Packed | Self::PackedSwapped | Self::Integer)
    }
}

/// Without the country code (ITU-T E.164 list of 2016).
#[must_use]
pub fn national(number: &str) -> &str {
    const TWO: &str = "20 27 30 31 32 33 34 36 39 40 41 43 44 45 46 47 48 49 51 52 53 54 55 56 57 58 60 61 62 63 64 \
                       65 66 81 82 84 86 90 91 92 93 94 95 98";
    let two = number.get(..2).unwrap_or_default();
    let length = match number.as_bytes().first() {
        Some(b'1' | b'7') => 1,
        _ if TWO.split(' ').any(|code| code == two) => 2,
        _ => 3,
    };
    number.get(length..).unwrap_or(number)
}

/// What stays the same of the base64 of `mark`, whatever stands around it: one text for each alignment.
pub(super) fn base64_cores(mark: &str) -> Vec<String> {
    (0..3)
        .map(|skip| {
            let text = base64(mark, skip, false);
            // A character that shares bits with a neighbour is left out.
            let (first, end) = ((skip * 8).div_ceil(6), (skip + mark.len()) * 8 / 6);
            text.get(first..end).unwrap_or_default().to_owned()
        })
        .collect()
}

fn every(text: &str, of: impl Fn(char) -> String) -> String {
    text.chars().map(of).collect()
}

fn bytewise(text: &str, before: &str, between: &str) -> String {
    let each: Vec<String> = text.bytes().map(|byte| format!("{before}{byte:02x}")).collect();
    each.join(between)
}

/// Groups of three characters.
fn grouped(text: &str, by: &str) -> String {
    let characters: Vec<char> = text.chars().collect();
    let groups: Vec<String> = characters.chunks(3).map(|group| group.iter().collect()).collect();
    groups.join(by)
}

fn in_the_middle(text: &str, what: &str) -> String {
    let at = text.char_indices().nth(text.chars().count() / 2).map_or(0, |(at, _)| at);
    let (before, after) = text.split_at(at);
    format!("{before}{what}{after}")
}

fn pairs(number: &str) -> impl Iterator<Item = [u8; 2]> {
    let digits: Vec<u8> = number.bytes().map(|byte| byte.wrapping_sub(b'0') & 0xf).collect();
    let pairs: Vec<[u8; 2]> = digits
        .chunks(2)
        .map(|pair| [pair.first().copied().unwrap_or(0xf), pair.get(1).copied().unwrap_or(0xf)])
        .collect();
    pairs.into_iter()
}

/// Base64 of `skip` bytes, the mark, and one byte more.
fn base64(mark: &str, skip: usize, padded: bool) -> String {
    let text = format!("{}{mark};", "~".repeat(skip));
    if padded {
        data_encoding::BASE64.encode(text.as_bytes())
    } else {
        data_encoding::BASE64URL_NOPAD.encode(text.as_bytes())
    }
}

//! URIs as peers send them: sip, sips, tel, and others by their scheme only (RFC 3261 §19.1, RFC 3966).
//!
//! Reading only: a URI that we send is a `String` of our own making. `Debug` shows no user and no host,
//! because both can belong to a party.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use super::grammar::{is_free_of, is_host, split_at_byte, split_while, trim_start};
use super::wire::{ByteStr, MAX_URI};

/// What a URI begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// `sip:` (RFC 3261 §19.1).
    Sip,
    /// `sips:`.
    Sips,
    /// `tel:` (RFC 3966).
    Tel,
    /// Any other; [`Uri::as_str`] has it.
    Other,
}

/// A URI whose parts have been found; it shares the message's memory.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Uri {
    raw: ByteStr,
    scheme: Scheme,
    /// Of sip and sips: what stands before `@`, without the password. Of tel: the number. Still escaped.
    user: Option<Part>,
    host: Part,
    port: Option<u16>,
    /// What follows the host or number, beginning with `;`, or nothing.
    params: Part,
    has_headers: bool,
}

/// A part of the URI by its place: a share of the memory for each would cost more than all the rest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
struct Part {
    start: u16,
    end: u16,
}

impl Part {
    /// `part` begins where `suffix` begins, and `suffix` ends `whole`.
    fn new(whole: &str, suffix: &str, part: &str) -> Option<Self> {
        let start = whole.len().checked_sub(suffix.len())?;
        Some(Self { start: u16::try_from(start).ok()?, end: u16::try_from(start + part.len()).ok()? })
    }

    fn of(self, whole: &str) -> &str {
        whole.get(self.start.into()..self.end.into()).unwrap_or_default()
    }
}

impl Uri {
    /// Reads one URI, without `<>` around it; `None` when it breaks the grammar or is longer than
    /// [`MAX_URI`].
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        // Looked at before it is copied.
        (text.len() <= MAX_URI).then(|| Self::read(text.into())).flatten()
    }

    /// Like [`Self::parse`], without a copy.
    pub(crate) fn read(raw: ByteStr) -> Option<Self> {
        let text = raw.as_str();
        let (scheme, rest) = split_at_byte(text, b':')?;
        let (first, others) = scheme.as_bytes().split_first()?;
        let named = others.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'));
        let clean = is_free_of(rest, |b| b <= b' ' || b == 0x7f || b == b'<' || b == b'>' || b == b'"');
        if !first.is_ascii_alphabetic() || !named || !clean || rest.is_empty() || text.len() > MAX_URI {
            return None;
        }
        let (host, params) = (Part::default(), Part::default());
        let other = |scheme| Self {
            raw: ByteStr::default(),
            scheme,
            user: None,
            host,
            port: None,
            params,
            has_headers: false,
        };
        let uri = match scheme {
            s if s.eq_ignore_ascii_case("sip") => Self::read_sip(text, Scheme::Sip, rest)?,
            s if s.eq_ignore_ascii_case("sips") => Self::read_sip(text, Scheme::Sips, rest)?,
            s if s.eq_ignore_ascii_case("tel") => {
                let (number, params) = split_while(rest, |b| b != b';');
                let user = Some(Part::new(text, rest, number)?);
                Self { user, params: Part::new(text, params, params)?, ..other(Scheme::Tel) }
            }
            _ => other(Scheme::Other),
        };
        Some(Self { raw, ..uri })
    }

    /// `raw` is left empty for the caller to fill.
    fn read_sip(text: &str, scheme: Scheme, rest: &str) -> Option<Self> {
        // RFC 3261 §25.1: user parts may hold `;`, `?` and `/` unescaped, but never `@`.
        let (user, rest) = match split_at_byte(rest, b'@') {
            Some((_, host)) if split_at_byte(host, b'@').is_some() => return None,
            Some((user, host)) => (Some(Part::new(text, rest, split_while(user, |b| b != b':').0)?), host),
            None => (None, rest),
        };
        let reference = rest.strip_prefix('[').unwrap_or(rest);
        let (host, port, rest) = split_host(rest)?;
        let (params, headers) = split_while(rest, |b| b != b'?');
        if !(params.is_empty() || params.starts_with(';')) {
            return None;
        }
        Some(Self {
            raw: ByteStr::default(),
            scheme,
            user,
            host: Part::new(text, reference, host)?,
            port,
            params: Part::new(text, rest, params)?,
            has_headers: !headers.is_empty(),
        })
    }

    /// What the URI begins with.
    #[must_use]
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The whole user part, unescaped, with the `;parameters` that telephone numbers carry there and without
    /// the password. Of tel: the number. `None` when there is none or it is empty.
    #[must_use]
    pub fn user_part(&self) -> Option<Cow<'_, str>> {
        self.raw_user().map(unescape)
    }

    fn raw_user(&self) -> Option<&str> {
        self.user.map(|u| u.of(&self.raw)).filter(|u| !u.is_empty())
    }

    /// The user, unescaped, without `;parameters` of the user part and without the password. Of tel: the
    /// number.
    #[must_use]
    pub fn user(&self) -> Option<Cow<'_, str>> {
        let (user, _) = split_while(self.raw_user()?, |b| b != b';');
        (!user.is_empty()).then(|| unescape(user))
    }

    /// The host as received, an IPv6 address without its brackets; empty unless the scheme is sip or sips.
    #[must_use]
    pub fn host(&self) -> &str {
        self.host.of(&self.raw)
    }

    /// The host as an address, when it is one.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        address(self.host())
    }

    /// The port, when one is given.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// The transport parameter, as received.
    #[must_use]
    pub fn transport(&self) -> Option<&str> {
        self.raw_param("transport").flatten()
    }

    /// Whether the URI is a loose router's (RFC 3261 §19.1.1).
    #[must_use]
    pub fn lr(&self) -> bool {
        self.raw_param("lr").is_some()
    }

    /// The maddr parameter; an address to send to, for those who trust the peer that far.
    #[must_use]
    pub fn maddr(&self) -> Option<Cow<'_, str>> {
        self.param("maddr")
    }

    /// A parameter's value, unescaped; empty when the parameter has none.
    #[must_use]
    pub fn param(&self, name: &str) -> Option<Cow<'_, str>> {
        self.raw_param(name).map(|value| unescape(value.unwrap_or_default()))
    }

    /// RFC 3261 §19.1.4: names are compared without regard to case, after unescaping.
    fn raw_param(&self, name: &str) -> Option<Option<&str>> {
        let mut params = self.params.of(&self.raw).split(';').map(|param| match param.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (param, None),
        });
        params.find(|(candidate, _)| unescape(candidate).eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// Whether `?header=value` follows. Such headers are never read here (RFC 3261 §19.1.5: dangerous).
    #[must_use]
    pub fn has_headers(&self) -> bool {
        self.has_headers
    }

    /// As received.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.raw
    }

    /// The telephone number of a tel URI, or of a sip URI whose user looks like one: digits after an optional
    /// `+`, visual separators dropped (RFC 3966 §5.1.1). `user=phone` is not asked for: many trunks leave it
    /// out. A local number that says which numbers it is local to has those digits before its own (§5.1.5).
    #[must_use]
    pub fn number(&self) -> Option<Cow<'_, str>> {
        let number = self.local_number()?;
        if number.starts_with('+') {
            return Some(number);
        }
        match self.phone_context() {
            Some(context) => Some((context + &number).into()),
            None => Some(number),
        }
    }

    /// The leading digits with `+` that a local number belongs to; `None` also for a context that is a domain.
    fn phone_context(&self) -> Option<String> {
        let context = match self.scheme {
            Scheme::Tel => self.param("phone-context")?.into_owned(),
            // RFC 3261 §19.1.6: what a tel URI has as parameters stands in the user part.
            _ => {
                let (_, params) = split_while(self.raw_user()?, |b| b != b';');
                let mut params = params.split(';').filter_map(|param| param.split_once('='));
                let (_, value) = params.find(|(name, _)| name.eq_ignore_ascii_case("phone-context"))?;
                unescape(value).into_owned()
            }
        };
        let digits = context.strip_prefix('+')?;
        let known = digits.bytes().all(|b| b.is_ascii_digit() || is_separator(b));
        let digits: String = digits.chars().filter(char::is_ascii_digit).collect();
        // RFC 3966 §3: a global number's digits; no number has more than 15.
        (known && (1..=15).contains(&digits.len())).then(|| format!("+{digits}"))
    }

    fn local_number(&self) -> Option<Cow<'_, str>> {
        let user = self.user()?;
        let digits = user.strip_prefix('+').unwrap_or(&user);
        let known = digits.bytes().all(|b| b.is_ascii_digit() || is_separator(b));
        let plain = digits.bytes().all(|b| b.is_ascii_digit());
        if !known || !digits.bytes().any(|b| b.is_ascii_digit()) {
            return None;
        }
        match user {
            user if plain => Some(user),
            user => Some(user.chars().filter(|c| c.is_ascii_digit() || *c == '+').collect::<String>().into()),
        }
    }
}

impl fmt::Debug for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Uri({:?}, {} bytes)", self.scheme, self.raw.len())
    }
}

/// Visual separators (RFC 3966 §3), and the blank that some gateways escape.
fn is_separator(byte: u8) -> bool {
    matches!(byte, b'-' | b'.' | b'(' | b')' | b' ')
}

/// Host, port, and what follows them; the host of an IPv6 reference comes without its brackets. Blanks may
/// stand around the colon in Via, so the caller trims.
pub(crate) fn split_host(text: &str) -> Option<(&str, Option<u16>, &str)> {
    let (host, rest) = match text.strip_prefix('[') {
        Some(reference) => {
            let (host, rest) = reference.split_once(']')?;
            address(host).filter(IpAddr::is_ipv6)?;
            (host, rest)
        }
        None => split_while(text, is_host),
    };
    if host.is_empty() || host.len() > 255 {
        return None;
    }
    let Some(port) = trim_start(rest).strip_prefix(':') else {
        return Some((host, None, rest));
    };
    let (port, rest) = split_while(trim_start(port), |b| b.is_ascii_digit());
    let port = port.parse().ok().filter(|&p| p > 0)?;
    Some((host, Some(port), rest))
}

/// The address that a host or a `received` parameter names, with or without brackets.
pub(crate) fn address(host: &str) -> Option<IpAddr> {
    let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    if let Ok(address) = host.parse() {
        return Some(address);
    }
    // RFC 5118 §4.10: the grammar of RFC 3261 made three colons out of two before an IPv4 tail, and such
    // references must be tolerated.
    let (front, tail) = host.split_once(":::")?;
    let tail: std::net::Ipv4Addr = tail.parse().ok()?;
    format!("{front}::{tail}").parse::<Ipv6Addr>().ok().map(IpAddr::V6)
}

/// Undoes `%hh`; what is no escape stays as it is (RFC 4475 §3.1.1.5).
pub(crate) fn unescape(text: &str) -> Cow<'_, str> {
    let mut parts = text.split('%');
    let first = parts.next().unwrap_or_default();
    if first.len() == text.len() {
        return text.into();
    }
    let mut bytes = Vec::with_capacity(text.len());
    bytes.extend_from_slice(first.as_bytes());
    for part in parts {
        let escaped = part.as_bytes().split_first_chunk::<2>().and_then(|(&[high, low], rest)| {
            let digit = |b: u8| char::from(b).to_digit(16);
            let byte = u8::try_from(digit(high)? * 16 + digit(low)?).ok()?;
            Some((byte, rest))
        });
        match escaped {
            Some((byte, rest)) => {
                bytes.push(byte);
                bytes.extend_from_slice(rest);
            }
            None => {
                bytes.push(b'%');
                bytes.extend_from_slice(part.as_bytes());
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn telephone_numbers_in_all_their_forms() {
        let table = [
            ("sip:+1-202-555-0100;npdi@h;user=phone", Some("+12025550100")),
            ("sip:+12025550100@h", Some("+12025550100")),
            ("sip:12025550100@h;user=phone", Some("12025550100")),
            ("sip:+1(202)555.0100@h", Some("+12025550100")),
            ("sip:%2B1%20202%20555%200100@h", Some("+12025550100")),
            ("sip:+12025550100;npdi;rn=+12025550199@h", Some("+12025550100")),
            ("sips:+12025550100:secret@h", Some("+12025550100")),
            ("tel:+1-202-555-0100", Some("+12025550100")),
            ("TEL:555-0100;phone-context=+1202", Some("+12025550100")),
            ("tel:555.0100;phone-context=+1-202", Some("+12025550100")),
            ("tel:2025550100;phone-context=+1;ext=7", Some("+12025550100")),
            ("tel:+12025550100;phone-context=+44", Some("+12025550100")),
            ("tel:5550100;phone-context=carrier.example", Some("5550100")),
            ("tel:5550100;phone-context=+", Some("5550100")),
            ("tel:5550100;phone-context=+1x", Some("5550100")),
            ("tel:5550100;phone-context=+1234567890123456", Some("5550100")),
            ("tel:5550100;phone-context=+%31202", Some("+12025550100")),
            ("sip:5550100;phone-context=+1202@h;user=phone", Some("+12025550100")),
            ("sip:5550100@h;phone-context=+1202;user=phone", Some("5550100")),
            ("sip:5550100;Phone-Context=%2B1202@h", Some("+12025550100")),
            ("tel:+", None),
            ("tel:-.()", None),
            ("sip:anonymous@anonymous.invalid", None),
            ("sip:1+2@h", None),
            ("sip:++12025550100@h", None),
            ("sip:12025550100%00@h", None),
            ("sip:12025550100%0d%0aTo:1@h", None),
            ("sip:h.example.com", None),
            ("sip:@h", None),
            ("urn:service:112", None),
        ];
        for (uri, number) in table {
            assert_eq!(Uri::parse(uri).unwrap().number().as_deref(), number, "{uri}");
        }
    }

    #[test]
    fn rfc3261_19_1_parts_of_a_sip_uri() {
        let uri = Uri::parse(
            "SIPS:al%69ce;day=1:pw@[2001:db8::1]:5061;TRANSPORT=tcp;%6Cr;maddr=h%2Ex?Subject=a%20b",
        )
        .unwrap();
        assert_eq!((uri.scheme(), uri.port(), uri.host()), (Scheme::Sips, Some(5061), "2001:db8::1"));
        assert_eq!((uri.user().unwrap(), uri.user_part().unwrap()), ("alice".into(), "alice;day=1".into()));
        assert_eq!((uri.transport(), uri.lr(), uri.has_headers()), (Some("tcp"), true, true));
        assert_eq!((uri.maddr().as_deref(), uri.param("none")), (Some("h.x"), None));
        assert_eq!(uri.ip(), Some("2001:db8::1".parse().unwrap()));
        let uri = Uri::parse("sip:example.com").unwrap();
        assert_eq!((uri.user(), uri.host(), uri.port(), uri.lr()), (None, "example.com", None, false));
        assert_eq!(Uri::parse("sip:*21%23@h").unwrap().user().unwrap(), "*21#");
        assert_eq!(Uri::parse("sip:john.doe@h").unwrap().user().unwrap(), "john.doe");
    }

    #[test]
    fn what_is_no_uri_is_refused() {
        let long = format!("sip:{}@h", "a".repeat(MAX_URI));
        let refused = [
            "",
            "sip",
            "sip:",
            ":a@h",
            "1sip:a@h",
            "sip:a@",
            "sip:a@b@c",
            "sip:a b@c",
            " sip:a@b",
            "sip:a@b ",
            "<sip:a@b>",
            "sip:a@h:",
            "sip:a@h:0",
            "sip:a@h:65536",
            "sip:a@h:5060x",
            "sip:2001:db8::10",
            "sip:[::1",
            "sip:[192.0.2.1]",
            "sip:[2001:db8::::192.0.2.1]",
            "sip:[2001:db8:::1]",
            "sip:a@h\r\nTo: b",
            "sip:a@h/x",
            "sip:a@hé",
            "sip:a@h;x=\"y\"",
            &long,
        ];
        for uri in refused {
            assert_eq!(Uri::parse(uri), None, "{uri}");
        }
    }

    #[test]
    fn a_uri_does_not_print_who_it_names() {
        let shown = format!("{:?}", Uri::parse("sip:+12025550100@host.example").unwrap());
        assert!(!shown.contains("0100") && !shown.contains("host"), "{shown}");
    }
}

//! The carriers' side: what a trunk is, who may call in by it, how many calls it takes, and how it writes
//! telephone numbers.
//!
//! Pure but for [`dns`] and [`gateways`]: nothing else here opens a socket, resolves a name or reads a clock. The
//! access list is asked by source address before anything is parsed; it never looks at what a message says about
//! itself.

pub mod dns;
pub mod forward;
pub mod gateways;
pub mod health;
mod rate;
pub mod registration;
pub mod resolve;

pub use rate::RateLimit;

use crate::number::{Did, E164};
use crate::sip::digest::Credentials;
use ipnet::IpNet;
use media::{Codec, SourcePolicy};
use rlibphonenumber::{PHONE_NUMBER_UTIL, PhoneNumberFormat, Region};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use subtle::ConstantTimeEq;

/// A SIP transport that a gateway or a listener names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// Datagrams.
    Udp,
    /// A stream.
    Tcp,
    /// A stream that nobody reads on the way, to a peer that has proved its name.
    Tls,
}

impl Transport {
    /// `udp`, `tcp` or `tls`, in any case.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Udp, Self::Tcp, Self::Tls]
            .into_iter()
            .find(|transport| transport.as_str().eq_ignore_ascii_case(name))
    }

    /// The name as URIs write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
        }
    }

    /// Where it is spoken when nothing names a port (RFC 3261 §19.1.2).
    #[must_use]
    pub fn default_port(self) -> u16 {
        match self {
            Self::Udp | Self::Tcp => 5060,
            Self::Tls => 5061,
        }
    }
}

/// Where B-legs of a trunk go: `sip:HOST[:PORT][;transport=udp|tcp|tls]`, or `sips:HOST[:PORT]` for TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gateway {
    /// A name or an IP literal, IPv6 without brackets.
    pub host: String,
    /// 1–65535; without one RFC 3263 §4.2 decides, for an IP literal 5060, or 5061 on TLS.
    pub port: Option<u16>,
    /// Without one RFC 3263 §4.1 decides; for an IP literal it is UDP, or TCP for a request over 1300 bytes
    /// (RFC 3261 §18.1.1).
    pub transport: Option<Transport>,
    /// Written as `sips:`. Its transport is TLS then.
    pub sips: bool,
}

impl Gateway {
    /// Reads the URI; `None` for anything else than the form above.
    #[must_use]
    pub fn parse(uri: &str) -> Option<Self> {
        let (scheme, rest) = uri.split_once(':')?;
        let secure = scheme.eq_ignore_ascii_case("sips");
        if !secure && !scheme.eq_ignore_ascii_case("sip") {
            return None;
        }
        let (place, transport) = match rest.split_once(';') {
            None => (rest, None),
            Some((place, parameter)) => {
                let (name, value) = parameter.split_once('=')?;
                let transport = name.eq_ignore_ascii_case("transport").then(|| Transport::parse(value))??;
                (place, Some(transport))
            }
        };
        let transport = match transport {
            Some(Transport::Udp | Transport::Tcp) if secure => return None,
            None if secure => Some(Transport::Tls),
            transport => transport,
        };
        let (host, port) = split_host(place)?;
        Some(Self { host: host.to_owned(), port, transport, sips: secure })
    }

    /// Whether it is reached over TLS only.
    #[must_use]
    pub fn is_secure(&self) -> bool {
        self.transport == Some(Transport::Tls)
    }

    /// The port, or that of its transport.
    #[must_use]
    pub fn port_or_default(&self) -> u16 {
        self.port.unwrap_or(self.transport.unwrap_or(Transport::Udp).default_port())
    }

    /// The address, when the host is a literal.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

impl fmt::Display for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.sips { "sips" } else { "sip" };
        if self.host.contains(':') {
            write!(f, "{scheme}:[{}]", self.host)?
        } else {
            write!(f, "{scheme}:{}", self.host)?
        }
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        self.transport
            .filter(|_| !self.sips)
            .map_or(Ok(()), |transport| write!(f, ";transport={}", transport.as_str()))
    }
}

/// `HOST[:PORT]` of RFC 3261 §25.1: the host without brackets, and the port. A port of 0 is none.
fn split_host(place: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = if let Some(rest) = place.strip_prefix('[') {
        let (host, after) = rest.split_once(']')?;
        host.parse::<std::net::Ipv6Addr>().ok()?;
        (host, if after.is_empty() { None } else { Some(after.strip_prefix(':')?) })
    } else {
        match place.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (place, None),
        }
    };
    let named = host.len() <= 253
        && host.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        });
    // What looks like an IPv4 address and is none ("198.51.100.999") would go to the resolver in vain.
    let numeric = host.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let valid = host.parse::<IpAddr>().is_ok() || (named && !numeric);
    let port = match port {
        None => None,
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
            Some(digits.parse().ok().filter(|port| *port != 0)?)
        }
        Some(_) => return None,
    };
    valid.then_some((host, port))
}

/// Where a trunk's INVITE says who calls. Used for look-up only, never shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallerFrom {
    /// `P-Asserted-Identity` (RFC 3325 §9.1).
    PAssertedIdentity,
    /// `Remote-Party-ID`, which some carriers still send.
    RemotePartyId,
    /// `From`.
    From,
}

impl CallerFrom {
    /// The configuration's words, in the order of trust.
    pub const ALL: [Self; 3] = [Self::PAssertedIdentity, Self::RemotePartyId, Self::From];

    /// The header's name in lower case, as the configuration writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PAssertedIdentity => "p-asserted-identity",
            Self::RemotePartyId => "remote-party-id",
            Self::From => "from",
        }
    }
}

/// How a trunk wants numbers written in the URIs that we send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NumberFormat {
    /// `+12025550100`.
    PlusE164,
    /// `12025550100`.
    E164,
    /// As dialled within `default_country`: `2025550100` in the US, `01234567890` where a trunk prefix is used; numbers
    /// of other countries with the prefix for calls abroad.
    National,
}

/// The header that says who calls, beside From, to a carrier that wants it. It holds the virtual number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdentityHeader {
    /// From is enough.
    None,
    /// RFC 3325.
    PAssertedIdentity,
    /// What came before it.
    RemotePartyId,
}

impl IdentityHeader {
    /// The configuration's words.
    pub const ALL: [Self; 3] = [Self::None, Self::PAssertedIdentity, Self::RemotePartyId];

    /// As the configuration writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::PAssertedIdentity => "p-asserted-identity",
            Self::RemotePartyId => "remote-party-id",
        }
    }
}

/// Reliable provisional responses (RFC 3262).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prack {
    /// Neither offered nor taken.
    Off,
    /// Taken from whoever sends them, and given to a caller who requires them.
    Supported,
    /// Given to every caller who supports them, too.
    Preferred,
    /// Nobody may do without.
    Required,
}

impl Prack {
    /// All, as the configuration writes them.
    pub const ALL: [(&'static str, Self); 4] = [
        ("off", Self::Off),
        ("supported", Self::Supported),
        ("preferred", Self::Preferred),
        ("required", Self::Required),
    ];
}

/// Whether a trunk's RTP is encrypted (SRTP with keys in the SDP, RFC 4568).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SrtpPolicy {
    /// Never.
    #[default]
    Off,
    /// Where the peer agrees.
    Optional,
    /// A peer that does not agree is refused.
    Required,
}

impl SrtpPolicy {
    /// The configuration's word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        match word {
            "off" => Some(Self::Off),
            "optional" => Some(Self::Optional),
            "required" => Some(Self::Required),
            _ => None,
        }
    }
}

/// A country that numbers without a country code are read in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Country(Region);

impl Country {
    /// Two letters of ISO 3166-1, in any case, of a country that has a numbering plan.
    #[must_use]
    pub fn parse(code: &str) -> Option<Self> {
        let two_letters = code.len() == 2 && code.bytes().all(|b| b.is_ascii_alphabetic());
        let region = two_letters.then(|| Region::from_code(&code.to_ascii_uppercase()).ok())??;
        PHONE_NUMBER_UTIL.get_country_code_for_region(region).map(|_| Self(region))
    }
}

/// One carrier's profile, checked.
#[derive(Debug, Clone)]
pub struct Trunk {
    /// Unique; letters, digits, `-`, `_`, `.`.
    pub name: String,
    /// Where B-legs go, in order of failover.
    pub gateways: Vec<Gateway>,
    /// Who may call in as this trunk.
    pub allow: Vec<IpNet>,
    /// Networks that RTP may go to; empty: any, private and loopback only if the signalling comes from such or a gateway is
    /// such an address.
    pub media_allow: Vec<IpNet>,
    /// Where the caller's number is read; the first place that holds a number decides. Never empty.
    pub caller_from: Vec<CallerFrom>,
    /// Which packets count as the peer's.
    pub rtp_source: SourcePolicy,
    /// In the order of preference; never empty.
    pub codecs: Vec<Codec>,
    /// Whether its RTP is encrypted.
    pub srtp: SrtpPolicy,
    /// Whether a B-leg's audio before its answer may reach the caller.
    pub early_media: bool,
    /// How the trunk wants numbers written.
    pub number_format: NumberFormat,
    /// For numbers that arrive without a country code.
    pub default_country: Option<Country>,
    /// Legs of this trunk at one time, both directions; `None`: only `sip.max_calls` limits them.
    pub max_calls: Option<u32>,
    /// New legs of this trunk per second, in each direction; `None`: only the limit of the whole service holds.
    pub max_calls_per_second: Option<u32>,
    /// Reliable provisional responses.
    pub prack: Prack,
    /// The session interval that we ask for, in seconds; `None`: we ask for none and take what the peer asks for.
    pub session_timer: Option<u32>,
    /// How often each target of its gateways is asked by OPTIONS whether it lives; `None`: never.
    pub options: Option<Duration>,
    /// What we are known by to the carrier; and the carrier to us, where `challenge` says so.
    pub credentials: Option<Arc<Credentials>>,
    /// Each INVITE that comes in must prove that it knows the password; `credentials` are there then.
    pub challenge: bool,
    /// We tell the first gateway that answers where we are, and keep telling it; `credentials` are there then.
    pub register: bool,
    /// What says who calls in the INVITEs that we send, beside From.
    pub identity: IdentityHeader,
}

impl Trunk {
    /// The plainest of that name: no gateway, nobody may call in, PCMU, the caller's number from From.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            gateways: vec![],
            allow: vec![],
            media_allow: vec![],
            caller_from: vec![CallerFrom::From],
            rtp_source: SourcePolicy::Exact,
            codecs: vec![Codec::Pcmu],
            srtp: SrtpPolicy::Off,
            early_media: true,
            number_format: NumberFormat::PlusE164,
            default_country: None,
            max_calls: None,
            max_calls_per_second: None,
            prack: Prack::Supported,
            session_timer: None,
            options: None,
            credentials: None,
            challenge: false,
            register: false,
            identity: IdentityHeader::None,
        }
    }

    /// A telephone number as this trunk writes it: `+…` as it is; national, when the trunk has a country and
    /// the number is valid there; else international, with or without `00`. `None` when it is none of these.
    #[must_use]
    pub fn read_number(&self, text: &str) -> Option<E164> {
        let text = text.trim();
        let written_as_number =
            text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'+' | b' ' | b'-' | b'.' | b'(' | b')'));
        if text.len() > 40 || !written_as_number {
            return None;
        }
        if text.starts_with('+') {
            return international(text);
        }
        let national = self.default_country.and_then(|Country(region)| {
            let number =
                PHONE_NUMBER_UTIL.parse(text, Some(region)).ok().filter(|number| number.is_valid())?;
            E164::parse(&number.format_as(PhoneNumberFormat::E164))
        });
        national.or_else(|| international(text.strip_prefix("00").unwrap_or(text)))
    }

    /// The same for what was dialled.
    #[must_use]
    pub fn read_dialled(&self, text: &str) -> Option<Did> {
        self.read_number(text).and_then(|number| Did::parse(number.digits()))
    }

    /// A number's digits as this trunk wants them in a URI.
    #[must_use]
    pub fn write_number(&self, digits: &str) -> String {
        match self.number_format {
            NumberFormat::PlusE164 => format!("+{digits}"),
            NumberFormat::E164 => digits.to_owned(),
            NumberFormat::National => self.write_national(digits).unwrap_or_else(|| format!("+{digits}")),
        }
    }

    /// `None` for what is no number of any country.
    fn write_national(&self, digits: &str) -> Option<String> {
        let Country(region) = self.default_country?;
        let number = PHONE_NUMBER_UTIL.parse(format!("+{digits}"), None).ok()?;
        // No country code begins with another one (ITU-T E.164 §6.2.1).
        let code = PHONE_NUMBER_UTIL.get_country_code_for_region(region)?.to_string();
        let text = if digits.starts_with(&code) {
            number.format_as(PhoneNumberFormat::National)
        } else {
            number.format_out_of_country_calling_number(region)
        };
        Some(text.chars().filter(|c| c.is_ascii_digit() || *c == '+').collect())
    }

    /// The user of our Contact where we register: the same after a restart, so that the carrier replaces the old
    /// place by the new one, and never a number.
    #[must_use]
    pub fn registered_user(&self) -> String {
        format!("trunk-{}", self.name)
    }
}

/// No country code begins with 0 (ITU-T E.164 §6.2.1).
fn international(text: &str) -> Option<E164> {
    E164::parse(text).filter(|number| !number.digits().starts_with('0'))
}

/// Which of the [`Trunks`]; valid for the table that gave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrunkId(usize);

impl TrunkId {
    /// The place in the configuration.
    #[must_use]
    pub fn index(self) -> usize {
        self.0
    }
}

/// All trunks, in the order of the configuration: it decides which one a source belongs to.
#[derive(Debug, Clone, Default)]
pub struct Trunks(Vec<Trunk>);

impl Trunks {
    /// A table of trunks with different names.
    #[must_use]
    pub fn new(trunks: Vec<Trunk>) -> Self {
        Self(trunks)
    }

    /// The trunk that a source may call in as: the first whose `allow` has the address.
    #[must_use]
    pub fn by_source(&self, source: IpAddr) -> Option<TrunkId> {
        // A socket bound to [::] sees IPv4 peers as ::ffff:a.b.c.d (RFC 4291 §2.5.5.2).
        let source = source.to_canonical();
        self.position(|trunk| trunk.allow.iter().any(|network| network.contains(&source)))
    }

    /// Whether who calls in as this trunk must prove that he knows its password.
    #[must_use]
    pub fn challenges(&self, id: TrunkId) -> bool {
        self.trunk(id).is_some_and(|trunk| trunk.challenge)
    }

    /// The trunk that challenges, takes calls from this address, and has this user name. All are looked at, so that
    /// the time tells nothing.
    #[must_use]
    pub fn by_username(&self, source: IpAddr, username: &str) -> Option<(TrunkId, &Credentials)> {
        let source = source.to_canonical();
        let challenging = self.iter().filter(|(_, trunk)| trunk.challenge);
        let reachable =
            challenging.filter(|(_, trunk)| trunk.allow.iter().any(|network| network.contains(&source)));
        let known = reachable.filter_map(|(id, trunk)| Some((id, trunk.credentials.as_deref()?)));
        known
            .filter(|(_, known)| bool::from(known.username.as_bytes().ct_eq(username.as_bytes())))
            .fold(None, |first, found| first.or(Some(found)))
    }

    /// The trunk that has the address as a gateway. Gateways given by name are [`gateways::Gateways`]' to know.
    #[must_use]
    pub fn by_gateway(&self, source: IpAddr) -> Option<TrunkId> {
        let source = source.to_canonical();
        self.position(|trunk| {
            trunk.gateways.iter().any(|g| g.ip().map(|ip| ip.to_canonical()) == Some(source))
        })
    }

    /// Whether the address is one of this trunk's: in its access list, or that of a gateway that is an address.
    #[must_use]
    pub fn has_address(&self, id: TrunkId, source: IpAddr) -> bool {
        let source = source.to_canonical();
        let is_gateway = |gateway: &Gateway| gateway.ip().is_some_and(|ip| ip.to_canonical() == source);
        self.trunk(id).is_some_and(|trunk| {
            trunk.allow.iter().any(|network| network.contains(&source))
                || trunk.gateways.iter().any(is_gateway)
        })
    }

    /// Whether anything from this address is parsed at all: requests of those who may call in, and responses
    /// and in-dialog requests of those whom we call.
    #[must_use]
    pub fn admits(&self, source: IpAddr) -> bool {
        self.by_source(source).or_else(|| self.by_gateway(source)).is_some()
    }

    /// Looks a trunk up by its name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Trunk> {
        self.0.iter().find(|trunk| trunk.name == name)
    }

    /// The id of the trunk with this name.
    #[must_use]
    pub fn id(&self, name: &str) -> Option<TrunkId> {
        self.position(|trunk| trunk.name == name)
    }

    /// The trunk of an id; `None` for an id of a longer table only.
    #[must_use]
    pub fn trunk(&self, id: TrunkId) -> Option<&Trunk> {
        self.0.get(id.0)
    }

    /// All, with their ids.
    pub fn iter(&self) -> impl Iterator<Item = (TrunkId, &Trunk)> {
        self.0.iter().enumerate().map(|(index, trunk)| (TrunkId(index), trunk))
    }

    fn position(&self, wanted: impl Fn(&Trunk) -> bool) -> Option<TrunkId> {
        self.0.iter().position(wanted).map(TrunkId)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trunk(name: &str, allow: &[&str], gateways: &[&str]) -> Trunk {
        Trunk {
            gateways: gateways.iter().map(|uri| Gateway::parse(uri).unwrap()).collect(),
            allow: allow.iter().map(|network| network.parse().unwrap()).collect(),
            ..Trunk::named(name)
        }
    }

    #[test]
    fn the_first_trunk_whose_networks_hold_the_source_is_taken() {
        let trunks = Trunks::new(vec![
            trunk("a", &["198.51.100.0/25"], &["sip:192.0.2.7"]),
            trunk("b", &["198.51.100.0/24", "2001:db8::/32"], &["sip:[2001:db9::1]:5080", "sip:sbc.example"]),
        ]);
        let table = [
            ("198.51.100.5", Some("a"), true),
            ("198.51.100.200", Some("b"), true),
            ("::ffff:198.51.100.5", Some("a"), true),
            ("2001:db8::9", Some("b"), true),
            // A gateway may answer, and end a call, but not begin one.
            ("192.0.2.7", None, true),
            ("::ffff:192.0.2.7", None, true),
            ("2001:db9::1", None, true),
            ("203.0.113.1", None, false),
            ("::1", None, false),
        ];
        for (source, name, admitted) in table {
            let source: IpAddr = source.parse().unwrap();
            assert_eq!(trunks.by_source(source), name.and_then(|name| trunks.id(name)), "{source}");
            assert_eq!(trunks.admits(source), admitted, "{source}");
        }
        assert_eq!(trunks.get("b").map(|trunk| trunk.name.as_str()), Some("b"));
        assert!(trunks.get("c").is_none() && trunks.id("c").is_none());
    }

    #[test]
    fn a_gateway_is_a_host_with_port_and_transport_and_nothing_else() {
        let table = [
            ("sip:198.51.100.7:5060;transport=udp", Some(("198.51.100.7", Some(5060), Some(Transport::Udp)))),
            (
                "SIP:sbc.carrier.example;Transport=TCP",
                Some(("sbc.carrier.example", None, Some(Transport::Tcp))),
            ),
            ("sip:a.example;transport=tls", Some(("a.example", None, Some(Transport::Tls)))),
            ("sips:a.example:5062", Some(("a.example", Some(5062), Some(Transport::Tls)))),
            ("sip:[2001:db8::1]", Some(("2001:db8::1", None, None))),
            ("sip:[2001:db8::1]:5070", Some(("2001:db8::1", Some(5070), None))),
            ("sip:_sip.carrier.example", Some(("_sip.carrier.example", None, None))),
        ];
        for (uri, expected) in table {
            let gateway = Gateway::parse(uri);
            assert_eq!(gateway.as_ref().map(|g| (g.host.as_str(), g.port, g.transport)), expected, "{uri}");
            assert_eq!(gateway.as_ref().and_then(|g| Gateway::parse(&g.to_string())), gateway, "{uri}");
        }
        for uri in [
            "",
            "sip:",
            "198.51.100.7",
            "sips:a.example;transport=udp",
            "tel:+12025550100",
            "sip:user@host.example",
            "sip:a.example:",
            "sip:a.example:0",
            "sip:a.example:65536",
            "sip:a.example:+5",
            "sip:a.example;lr",
            "sip:a.example;transport=sctp",
            "sip:a.example;transport=udp;lr",
            "sip:a..example",
            "sip:a b",
            "sip:198.51.100.999",
            "sip:2001:db8::1",
            "sip:[198.51.100.7]",
            "sip:[2001:db8::1]5060",
            "sip:a.example?x=y",
            "sip:bücher.example",
        ] {
            assert_eq!(Gateway::parse(uri), None, "{uri}");
        }
    }

    #[test]
    fn numbers_are_read_as_the_trunk_writes_them() {
        let plain = trunk("plain", &[], &[]);
        let india = Trunk { default_country: Country::parse("in"), ..plain.clone() };
        let american = Trunk { default_country: Country::parse("US"), ..plain.clone() };
        let table = [
            (&plain, "+1 (202) 555-0100", Some("12025550100")),
            (&plain, "12025550100", Some("12025550100")),
            (&plain, "0012025550100", Some("12025550100")),
            (&plain, "02025550100", None),
            (&plain, "+02025550100", None),
            (&plain, "anonymous", None),
            (&plain, "restricted12025550100", None),
            (&plain, "", None),
            (&india, "09876543210", Some("919876543210")),
            (&india, "9876543210", Some("919876543210")),
            (&india, "919876543210", Some("919876543210")),
            (&india, "+33123456789", Some("33123456789")),
            (&india, "0033123456789", Some("33123456789")),
            (&american, "2025550100", Some("12025550100")),
            (&american, "12025550100", Some("12025550100")),
            (&american, "01133123456789", Some("33123456789")),
        ];
        for (trunk, text, expected) in table {
            let country = trunk.default_country;
            assert_eq!(trunk.read_number(text).as_ref().map(E164::digits), expected, "{text} in {country:?}");
        }
        assert_eq!(
            plain.read_dialled("12025550100").map(|did| did.to_string()).as_deref(),
            Some("+12025550100")
        );
        assert_eq!(plain.read_number(&"1".repeat(5000)), None);
    }

    #[test]
    fn numbers_are_written_as_the_trunk_wants_them() {
        let plus = trunk("plus", &[], &[]);
        let bare = Trunk { number_format: NumberFormat::E164, ..plus.clone() };
        assert_eq!(plus.write_number("12025550100"), "+12025550100");
        assert_eq!(bare.write_number("12025550100"), "12025550100");
        let national = |country| Trunk {
            default_country: Country::parse(country),
            number_format: NumberFormat::National,
            ..plus.clone()
        };
        let table = [
            ("US", "12025550100", "2025550100"),
            ("US", "16135550100", "6135550100"),
            ("US", "442079460000", "011442079460000"),
            ("GB", "442079460000", "02079460000"),
            ("GB", "12025550100", "0012025550100"),
            ("IN", "919876543210", "09876543210"),
            ("SG", "6561234567", "61234567"),
            ("US", "9999999", "+9999999"),
        ];
        for (country, digits, written) in table {
            assert_eq!(national(country).write_number(digits), written, "{digits} in {country}");
        }
    }

    #[test]
    fn what_is_written_nationally_is_read_back_as_the_same_number() {
        for (country, digits) in
            [("US", "12025550100"), ("GB", "442079460000"), ("IN", "919876543210"), ("US", "442079460000")]
        {
            let trunk = Trunk {
                default_country: Country::parse(country),
                number_format: NumberFormat::National,
                ..trunk("t", &[], &[])
            };
            let written = trunk.write_number(digits);
            assert_eq!(trunk.read_number(&written).as_ref().map(E164::digits), Some(digits), "{written}");
        }
    }

    #[test]
    fn a_user_is_known_on_the_trunks_that_challenge_his_address_and_on_no_other() {
        let known = |name: &str, allow: &[&str], challenge| Trunk {
            challenge,
            credentials: Some(Arc::new(Credentials {
                username: name.to_owned(),
                password: "secret".to_owned().into(),
                realm: None,
            })),
            ..trunk(name, allow, &[])
        };
        let trunks = Trunks::new(vec![
            known("by-address", &["198.51.100.0/24"], false),
            known("near", &["192.0.2.0/24"], true),
            known("anywhere", &["0.0.0.0/0"], true),
        ]);
        let table = [
            ("203.0.113.1", "anywhere", Some("anywhere")),
            ("203.0.113.1", "near", None),
            ("192.0.2.1", "near", Some("near")),
            ("192.0.2.1", "anywhere", Some("anywhere")),
            ("198.51.100.1", "by-address", None),
            ("203.0.113.1", "", None),
        ];
        for (source, username, name) in table {
            let found = trunks.by_username(source.parse().unwrap(), username).map(|(id, _)| id);
            assert_eq!(found, name.and_then(|name| trunks.id(name)), "{username} from {source}");
        }
    }

    #[test]
    fn a_country_is_two_letters_of_one_with_a_numbering_plan() {
        assert!(Country::parse("in").is_some() && Country::parse("US").is_some());
        for code in ["", "U", "USA", "ZZ", "XX", "1", "é"] {
            assert_eq!(Country::parse(code), None, "{code}");
        }
    }
}

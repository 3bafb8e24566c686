//! From a gateway to the places that its name leads to: RFC 3263 §4.1 (transport) and §4.2 (port and address), with
//! the order of RFC 2782 among SRV records and both address families side by side (RFC 7984).
//!
//! ```text
//!  gateway        explicit port ───────────────────────────────► A, AAAA
//!  sip:HOST ──┬─► transport ──► SRV of it ─── there is none ───► A, AAAA at its default port
//!             └─► NAPTR ──► SRV of the first service that we have
//!                   └ there is none ► SRV of UDP, TCP ─ none ──► A, AAAA at UDP's default port
//!  sips:HOST: the same with SIPS services and `_sips._tcp` only; an IP literal asks nothing.
//! ```
//!
//! Pure: records in, targets out. It asks no server, and what it does not know yet it names ([`Step::Ask`]); it draws
//! no number of its own, and it never falls from one NAPTR service to another once the first has led somewhere, so
//! that a gateway that is reached by TLS is not reached in clear because its certificate has run out.

use super::{Gateway, Transport};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// Addresses, over all records of one gateway; what comes after them in the order is left out.
pub const MAX_TARGETS: usize = 16;
/// Records of one answer that are looked at.
const MAX_RECORDS: usize = 32;
/// A name's addresses are asked for again no sooner, however short their TTL is.
const SHORTEST: Duration = Duration::from_secs(10);
/// And no later, so that a move that the carrier announced late is seen the same hour.
const LONGEST: Duration = Duration::from_secs(3600);
/// After a failure it is asked again after so long, then after twice as long, up to [`MAX_RETRY`].
const RETRY: Duration = Duration::from_secs(5);
const MAX_RETRY: Duration = Duration::from_secs(60);

/// What is asked of DNS. Names have no dot at their end.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Question {
    /// NAPTR records (RFC 3403).
    Naptr(String),
    /// SRV records (RFC 2782).
    Srv(String),
    /// A and AAAA records.
    Addresses(String),
}

/// What DNS says; empty when it says that there is no such record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// To [`Question::Naptr`].
    Naptr(Vec<Naptr>),
    /// To [`Question::Srv`].
    Srv(Vec<Srv>),
    /// To [`Question::Addresses`].
    Addresses(Vec<IpAddr>),
}

/// A NAPTR record as far as SIP uses it (RFC 3263 §4.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Naptr {
    /// Lower ones come first.
    pub order: u16,
    /// Among equal orders lower ones come first.
    pub preference: u16,
    /// `s`: the replacement has SRV records.
    pub flags: String,
    /// `SIP+D2U`, `SIP+D2T`, `SIPS+D2T`, or another one that is not for us.
    pub service: String,
    /// Whether the record has a regular expression; such a one is not SIP's.
    pub has_regexp: bool,
    /// Where it goes on.
    pub replacement: String,
}

/// An SRV record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Srv {
    /// Lower ones come first.
    pub priority: u16,
    /// Share among equal priorities.
    pub weight: u16,
    /// Where it listens.
    pub port: u16,
    /// A host; empty: the service is decidedly not there.
    pub target: String,
}

/// Answers so far.
#[derive(Debug, Clone, Default)]
pub struct Known(BTreeMap<Question, Answer>);

impl Known {
    /// Keeps an answer.
    pub fn learn(&mut self, question: Question, answer: Answer) {
        self.0.insert(question, answer);
    }
}

/// Address families that we have a listener of: what is reached by another one could not answer us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Families {
    /// IPv4.
    pub v4: bool,
    /// IPv6.
    pub v6: bool,
}

impl Families {
    /// Both.
    pub const BOTH: Self = Self { v4: true, v6: true };

    fn has(self, address: IpAddr) -> bool {
        if address.is_ipv4() { self.v4 } else { self.v6 }
    }
}

/// One place that a request can be sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    /// By this.
    pub transport: Transport,
    /// To this.
    pub address: SocketAddr,
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.transport.as_str(), self.address)
    }
}

/// What a look-up has come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// These questions first.
    Ask(Vec<Question>),
    /// All is known.
    Found(Choice),
}

/// The places of one gateway, before the dice of RFC 2782 are thrown: that is done for each call.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Choice(Vec<Entry>);

/// One SRV record's host, or a host without one.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    transport: Transport,
    priority: u16,
    weight: u16,
    addresses: Vec<SocketAddr>,
}

impl Choice {
    /// One place, for a gateway that is an address.
    #[must_use]
    pub fn one(target: Target) -> Self {
        let Target { transport, address } = target;
        Self(vec![Entry { transport, priority: 0, weight: 0, addresses: vec![address] }])
    }

    /// True when the name leads nowhere.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|entry| entry.addresses.is_empty())
    }

    /// Every place, in no order that matters.
    pub fn all(&self) -> impl Iterator<Item = Target> {
        let places = |entry: &Entry| {
            let transport = entry.transport;
            entry.addresses.clone().into_iter().map(move |address| Target { transport, address })
        };
        self.0.iter().flat_map(places).take(MAX_TARGETS)
    }

    /// The places in the order in which a call tries them: by priority, and among equal ones by chance as their
    /// weights say (RFC 2782). `dice` returns a number from 0 to its argument, both included.
    pub fn order(&self, mut dice: impl FnMut(u32) -> u32) -> Vec<Target> {
        let mut left: Vec<&Entry> = self.0.iter().collect();
        // Those of weight 0 stand before the others, as RFC 2782 wants; otherwise the order stays.
        left.sort_by_key(|entry| (entry.priority, entry.weight > 0));
        let mut targets = vec![];
        while let Some(first) = left.first() {
            let equal = left.iter().take_while(|entry| entry.priority == first.priority);
            let weights: Vec<u32> = equal.map(|entry| u32::from(entry.weight)).collect();
            let sum: u32 = weights.iter().sum();
            let drawn = if sum == 0 { 0 } else { dice(sum) };
            let mut running = 0;
            let reaches = |weight: &u32| {
                running += weight;
                running >= drawn
            };
            let entry = left.remove(weights.iter().position(reaches).unwrap_or(0));
            let transport = entry.transport;
            targets.extend(entry.addresses.iter().map(|&address| Target { transport, address }));
        }
        targets.truncate(MAX_TARGETS);
        targets
    }
}

/// Goes as far as the answers that are known lead.
#[must_use]
pub fn locate(gateway: &Gateway, known: &Known, families: Families) -> Step {
    let mut search = Search { known, families, missing: vec![] };
    let mut entries = search.gateway(gateway);
    if !search.missing.is_empty() {
        search.missing.sort();
        search.missing.dedup();
        return Step::Ask(search.missing);
    }
    let mut room = MAX_TARGETS;
    for entry in &mut entries {
        entry.addresses.truncate(room);
        room -= entry.addresses.len();
    }
    Step::Found(Choice(entries))
}

/// What SRV says of a service.
enum Service {
    /// Not yet known.
    Asked,
    /// Nothing: there may still be a host of that name.
    Unknown,
    /// That it is not there.
    Absent,
    There(Vec<Entry>),
}

struct Search<'a> {
    known: &'a Known,
    families: Families,
    missing: Vec<Question>,
}

impl Search<'_> {
    fn gateway(&mut self, gateway: &Gateway) -> Vec<Entry> {
        let host = gateway.host.as_str();
        let transport = gateway.transport.unwrap_or(Transport::Udp);
        if let Some(ip) = gateway.ip() {
            let address = SocketAddr::new(ip, gateway.port_or_default());
            return Choice::one(Target { transport, address }).0;
        }
        match (gateway.port, gateway.transport) {
            // RFC 3263 §4.1 and §4.2: a port leaves nothing to ask but the address.
            (Some(port), _) => self.host(host, port, transport),
            (None, _) if gateway.sips => self.discover(host, true),
            (None, Some(transport)) => match self.service(&srv_name(host, transport), transport) {
                Service::There(entries) => entries,
                Service::Asked | Service::Absent => vec![],
                Service::Unknown => self.host(host, transport.default_port(), transport),
            },
            (None, None) => self.discover(host, false),
        }
    }

    /// RFC 3263 §4.1: the domain says by NAPTR which transports it has and likes, or by the SRV records that exist.
    fn discover(&mut self, host: &str, secure: bool) -> Vec<Entry> {
        let Some(records) = self.naptr(host) else { return vec![] };
        let mut services: Vec<_> = records
            .into_iter()
            .filter_map(|record| {
                let transport = transport_of(&record.service).filter(|_| !record.has_regexp)?;
                let allowed = !secure || transport == Transport::Tls;
                (allowed && record.flags.eq_ignore_ascii_case("s")).then_some((record, transport))
            })
            .collect();
        services.sort_by_key(|(record, _)| (record.order, record.preference));
        for (record, transport) in services {
            let found = self.service(&record.replacement, transport);
            if !self.missing.is_empty() {
                return vec![];
            }
            if let Service::There(entries) = found {
                return entries;
            }
        }
        let transports: &[Transport] =
            if secure { &[Transport::Tls] } else { &[Transport::Udp, Transport::Tcp] };
        let found: Vec<Service> =
            transports.iter().map(|&transport| self.service(&srv_name(host, transport), transport)).collect();
        let absent = found.iter().any(|service| matches!(service, Service::Absent));
        let there = found.into_iter().find_map(|service| match service {
            Service::There(entries) => Some(entries),
            Service::Asked | Service::Unknown | Service::Absent => None,
        });
        match there {
            Some(entries) => entries,
            None if absent || !self.missing.is_empty() => vec![],
            None => {
                let transport = if secure { Transport::Tls } else { Transport::Udp };
                self.host(host, transport.default_port(), transport)
            }
        }
    }

    fn service(&mut self, name: &str, transport: Transport) -> Service {
        let question = Question::Srv(name.to_owned());
        let Some(answer) = self.known.0.get(&question) else {
            self.missing.push(question);
            return Service::Asked;
        };
        let Answer::Srv(records) = answer else { return Service::Unknown };
        if records.is_empty() {
            return Service::Unknown;
        }
        let mut entries = vec![];
        for record in records.iter().take(MAX_RECORDS).filter(|record| !record.target.is_empty()) {
            for entry in self.host(&record.target, record.port, transport) {
                entries.push(Entry { priority: record.priority, weight: record.weight, ..entry });
            }
        }
        match entries.is_empty() {
            true if !self.missing.is_empty() => Service::Asked,
            true => Service::Absent,
            false => Service::There(entries),
        }
    }

    fn host(&mut self, host: &str, port: u16, transport: Transport) -> Vec<Entry> {
        let question = Question::Addresses(host.to_owned());
        let Some(answer) = self.known.0.get(&question) else {
            self.missing.push(question);
            return vec![];
        };
        let Answer::Addresses(found) = answer else { return vec![] };
        let families = self.families;
        let mut addresses: Vec<SocketAddr> = found
            .iter()
            .take(MAX_RECORDS)
            .map(IpAddr::to_canonical)
            .filter(|ip| families.has(*ip))
            .map(|ip| SocketAddr::new(ip, port))
            .collect();
        // RFC 6724 §2.1: where both families lead there, IPv6 comes first; otherwise the server's order stays.
        addresses.sort_by_key(SocketAddr::is_ipv4);
        if addresses.is_empty() {
            return vec![];
        }
        vec![Entry { transport, priority: 0, weight: 0, addresses }]
    }

    fn naptr(&mut self, host: &str) -> Option<Vec<Naptr>> {
        let question = Question::Naptr(host.to_owned());
        match self.known.0.get(&question) {
            Some(Answer::Naptr(records)) => Some(records.iter().take(MAX_RECORDS).cloned().collect()),
            Some(_) => Some(vec![]),
            None => {
                self.missing.push(question);
                None
            }
        }
    }
}

fn transport_of(service: &str) -> Option<Transport> {
    let table = [("SIP+D2U", Transport::Udp), ("SIP+D2T", Transport::Tcp), ("SIPS+D2T", Transport::Tls)];
    table.into_iter().find(|(name, _)| name.eq_ignore_ascii_case(service)).map(|(_, transport)| transport)
}

/// RFC 3263 §4.1: the service is `_sips` for what must be TLS; RFC 3261 §26.2.2 has no other name for it.
fn srv_name(host: &str, transport: Transport) -> String {
    let service = match transport {
        Transport::Udp => "_sip._udp",
        Transport::Tcp => "_sip._tcp",
        Transport::Tls => "_sips._tcp",
    };
    format!("{service}.{host}")
}

/// What is known of one name over time. What was found stays in use while DNS fails (RFC 8767): a carrier's addresses
/// seldom change, and a call to an old one that answers is better than none.
#[derive(Debug)]
pub struct Cached {
    choice: Choice,
    refresh_at: Instant,
    failures: u32,
}

impl Cached {
    /// Nothing is known, and it is time to ask.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { choice: Choice::default(), refresh_at: now, failures: 0 }
    }

    /// What was found last.
    #[must_use]
    pub fn choice(&self) -> &Choice {
        &self.choice
    }

    /// Whether the last look-up failed: then what is here may be out of date.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.failures > 0
    }

    /// When to ask again.
    #[must_use]
    pub fn refresh_at(&self) -> Instant {
        self.refresh_at
    }

    /// A look-up has ended; the records of `choice` live for `ttl`. One that led nowhere counts as failed. Returns
    /// whether that is news: the targets changed, or failing began or ended.
    pub fn learn(&mut self, found: Option<(Choice, Duration)>, now: Instant) -> bool {
        match found.filter(|(choice, _)| !choice.is_empty()) {
            Some((choice, ttl)) => {
                let news = self.is_stale() || self.choice != choice;
                self.failures = 0;
                self.choice = choice;
                self.refresh_at = now + ttl.clamp(SHORTEST, LONGEST);
                news
            }
            None => {
                let wait = RETRY.saturating_mul(1 << self.failures.min(8)).min(MAX_RETRY);
                self.failures = self.failures.saturating_add(1);
                self.refresh_at = now + wait;
                self.failures == 1
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use proptest::prelude::*;

    /// A zone in few words: `NAPTR name order preference service replacement`, `SRV name priority weight port target`,
    /// `A name address…`.
    fn zone(lines: &[&str]) -> BTreeMap<Question, Answer> {
        let mut zone = BTreeMap::new();
        for line in lines {
            let words: Vec<&str> = line.split(' ').collect();
            let name = words[1].to_owned();
            let number = |n: usize| words[n].parse().unwrap();
            match words[0] {
                "NAPTR" => {
                    let record = Naptr {
                        order: number(2),
                        preference: number(3),
                        flags: if words[4].starts_with('u') { "u" } else { "S" }.to_owned(),
                        service: words[4].trim_start_matches('u').to_owned(),
                        has_regexp: words.len() > 6,
                        replacement: words[5].to_owned(),
                    };
                    let slot = zone.entry(Question::Naptr(name)).or_insert(Answer::Naptr(vec![]));
                    let Answer::Naptr(records) = slot else { panic!() };
                    records.push(record);
                }
                "SRV" => {
                    let target = words[5].trim_end_matches('.').to_owned();
                    let record = Srv { priority: number(2), weight: number(3), port: number(4), target };
                    let slot = zone.entry(Question::Srv(name)).or_insert(Answer::Srv(vec![]));
                    let Answer::Srv(records) = slot else { panic!() };
                    records.push(record);
                }
                _ => {
                    let addresses = words[2..].iter().map(|ip| ip.parse().unwrap()).collect();
                    zone.insert(Question::Addresses(name), Answer::Addresses(addresses));
                }
            }
        }
        zone
    }

    /// Asks the zone until nothing is left to ask. Returns the choice and every question.
    fn resolve(
        gateway: &str,
        zone: &BTreeMap<Question, Answer>,
        families: Families,
    ) -> (Choice, Vec<Question>) {
        let gateway = Gateway::parse(gateway).unwrap();
        let (mut known, mut asked) = (Known::default(), vec![]);
        loop {
            match locate(&gateway, &known, families) {
                Step::Found(choice) => return (choice, asked),
                Step::Ask(questions) => {
                    assert!(!questions.is_empty());
                    for question in questions {
                        assert!(!asked.contains(&question), "{question:?} is asked twice");
                        let answer = zone.get(&question).cloned().unwrap_or(match question {
                            Question::Naptr(_) => Answer::Naptr(vec![]),
                            Question::Srv(_) => Answer::Srv(vec![]),
                            Question::Addresses(_) => Answer::Addresses(vec![]),
                        });
                        known.learn(question.clone(), answer);
                        asked.push(question);
                    }
                }
            }
        }
    }

    fn targets(gateway: &str, zone: &BTreeMap<Question, Answer>) -> String {
        let (choice, _) = resolve(gateway, zone, Families::BOTH);
        let order = choice.order(|_| 0);
        order.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }

    const FULL: &[&str] = &[
        "NAPTR c.example 50 50 SIPS+D2T _sips._tcp.c.example",
        "NAPTR c.example 90 50 SIP+D2T _sip._tcp.c.example",
        "NAPTR c.example 100 50 SIP+D2U _sip._udp.other.example",
        "SRV _sips._tcp.c.example 0 1 5061 a.c.example",
        "SRV _sips._tcp.c.example 0 2 443 b.c.example",
        "SRV _sip._tcp.c.example 0 1 5060 b.c.example",
        "SRV _sip._udp.c.example 5 0 5080 b.c.example",
        "SRV _sip._udp.c.example 1 0 5060 a.c.example",
        "A a.c.example 192.0.2.1",
        "A b.c.example 192.0.2.2 2001:db8::2",
        "A c.example 192.0.2.9",
    ];

    #[test]
    fn rfc3263_4_1_and_4_2_lead_from_a_uri_to_targets() {
        let full = zone(FULL);
        let srv_only = zone(&FULL[6..]);
        let tcp_only = zone(&["SRV _sip._tcp.c.example 0 1 5060 a.c.example", "A a.c.example 192.0.2.1"]);
        let bare = zone(&["A c.example 192.0.2.9 192.0.2.8"]);
        let absent = zone(&[
            "SRV _sip._udp.c.example 0 0 0 .",
            "SRV _sip._tcp.c.example 0 0 0 .",
            "A c.example 192.0.2.9",
        ]);
        let insecure = zone(&["NAPTR c.example 1 1 SIP+D2U _sip._udp.c.example", "A c.example 192.0.2.9"]);
        let odd = zone(&[
            "NAPTR c.example 1 1 SIP+D2S _sip._sctp.c.example",
            "NAPTR c.example 2 1 uSIP+D2T _sip._tcp.c.example",
            "NAPTR c.example 3 1 SIP+D2T _sip._tcp.c.example !.*!x!",
            "NAPTR c.example 4 1 sip+d2u _sip._udp.empty.example",
            "NAPTR c.example 4 2 sip+d2u _sip._udp.c.example",
            "SRV _sip._udp.c.example 0 0 5066 a.c.example",
            "A a.c.example 192.0.2.1",
        ]);
        let table = [
            ("§4.1: an address is used as it is", "sip:198.51.100.7", &full, "udp:198.51.100.7:5060"),
            ("§4.2: sips without port", "sips:198.51.100.7", &full, "tls:198.51.100.7:5061"),
            (
                "§4.1: an address with transport",
                "sip:[2001:db8::7]:5070;transport=tcp",
                &full,
                "tcp:[2001:db8::7]:5070",
            ),
            ("§4.1: a port means UDP and no SRV", "sip:c.example:5090", &full, "udp:192.0.2.9:5090"),
            ("§4.2: port and transport", "sip:c.example:5090;transport=tcp", &full, "tcp:192.0.2.9:5090"),
            ("§4.1: sips with a port is TLS", "sips:c.example:5090", &full, "tls:192.0.2.9:5090"),
            (
                "§4.2: a transport has its SRV",
                "sip:c.example;transport=udp",
                &full,
                "udp:192.0.2.1:5060 udp:[2001:db8::2]:5080 udp:192.0.2.2:5080",
            ),
            (
                "§4.2: TLS has _sips._tcp",
                "sip:c.example;transport=tls",
                &full,
                "tls:192.0.2.1:5061 tls:[2001:db8::2]:443 tls:192.0.2.2:443",
            ),
            (
                "§4.1: NAPTR's first service",
                "sip:c.example",
                &full,
                "tls:192.0.2.1:5061 tls:[2001:db8::2]:443 tls:192.0.2.2:443",
            ),
            (
                "§4.1: sips takes SIPS services only",
                "sips:c.example",
                &full,
                "tls:192.0.2.1:5061 tls:[2001:db8::2]:443 tls:192.0.2.2:443",
            ),
            (
                "§4.1: without NAPTR the SRV that exists, UDP first",
                "sip:c.example",
                &srv_only,
                "udp:192.0.2.1:5060 udp:[2001:db8::2]:5080 udp:192.0.2.2:5080",
            ),
            ("§4.1: SRV of TCP alone", "sip:c.example", &tcp_only, "tcp:192.0.2.1:5060"),
            (
                "§4.2: without SRV the host itself",
                "sip:c.example",
                &bare,
                "udp:192.0.2.9:5060 udp:192.0.2.8:5060",
            ),
            (
                "§4.2: the same for TCP",
                "sip:c.example;transport=tcp",
                &bare,
                "tcp:192.0.2.9:5060 tcp:192.0.2.8:5060",
            ),
            ("§4.2: the same for sips", "sips:c.example", &bare, "tls:192.0.2.9:5061 tls:192.0.2.8:5061"),
            ("RFC 2782: a target of . is nowhere", "sip:c.example", &absent, ""),
            ("RFC 2782: for the transport that was named too", "sip:c.example;transport=udp", &absent, ""),
            ("§4.1: sips never goes in clear", "sips:c.example", &insecure, "tls:192.0.2.9:5061"),
            ("§4.1: services that are not ours are passed over", "sip:c.example", &odd, "udp:192.0.2.1:5066"),
            ("there is no such name", "sip:nobody.example", &full, ""),
        ];
        for (fact, gateway, zone, expected) in table {
            assert_eq!(targets(gateway, zone), expected, "{fact}: {gateway}");
        }
    }

    #[test]
    fn no_question_is_asked_whose_answer_would_not_be_used() {
        let full = zone(FULL);
        for (gateway, expected) in [
            ("sip:192.0.2.1", 0),
            ("sip:c.example:5060", 1),
            // SRV and two hosts.
            ("sip:c.example;transport=udp", 3),
            // NAPTR, one SRV, two hosts.
            ("sip:c.example", 4),
        ] {
            let (_, asked) = resolve(gateway, &full, Families::BOTH);
            assert_eq!(asked.len(), expected, "{gateway}: {asked:?}");
        }
    }

    #[test]
    fn a_family_that_we_do_not_listen_on_is_left_out() {
        let full = zone(FULL);
        let of = |families| {
            let (choice, _) = resolve("sip:b.c.example:5060", &full, families);
            choice.all().map(|target| target.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(of(Families { v4: true, v6: false }), ["udp:192.0.2.2:5060"]);
        assert_eq!(of(Families { v4: false, v6: true }), ["udp:[2001:db8::2]:5060"]);
        assert_eq!(of(Families::BOTH).len(), 2);
    }

    #[test]
    fn rfc2782_weights_share_the_calls_of_one_priority() {
        let zone = zone(&[
            "SRV _sip._udp.c.example 1 0 1 a.example",
            "SRV _sip._udp.c.example 1 30 2 a.example",
            "SRV _sip._udp.c.example 1 70 3 a.example",
            "SRV _sip._udp.c.example 2 9 4 a.example",
            "A a.example 192.0.2.1",
        ]);
        let (choice, _) = resolve("sip:c.example;transport=udp", &zone, Families::BOTH);
        let mut first = [0; 5];
        for drawn in 0..=100 {
            let mut asked = vec![];
            let order = choice.order(|sum| {
                asked.push(sum);
                drawn.min(sum)
            });
            let ports: Vec<u16> = order.iter().map(|target| target.address.port()).collect();
            assert_eq!(
                (ports.len(), ports[3]),
                (4, 4),
                "a lower priority comes before any weight: {ports:?}"
            );
            assert_eq!(asked[0], 100);
            first[usize::from(ports[0])] += 1;
        }
        assert_eq!(first, [0, 1, 30, 70, 0], "weight 0 has a small chance, the others their share");
    }

    #[test]
    fn what_was_found_lives_as_long_as_its_ttl_and_longer_while_dns_fails() {
        let start = clock::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let one = |last| {
            let address = SocketAddr::from(([192, 0, 2, last], 5060));
            Choice::one(Target { transport: Transport::Udp, address })
        };
        let found = |last, ttl| Some((one(last), Duration::from_secs(ttl)));
        let mut cached = Cached::new(start);
        assert!(cached.choice().is_empty() && cached.refresh_at() == start);
        assert!(cached.learn(found(1, 60), start), "something new");
        assert_eq!(cached.refresh_at(), at(60));
        assert!(!cached.learn(found(1, 0), at(60)), "the same again");
        assert_eq!(cached.refresh_at(), at(70), "never asked all the time");
        assert!(!cached.learn(found(1, 1_000_000), at(70)));
        assert_eq!(cached.refresh_at(), at(70 + 3600));
        assert!(cached.learn(None, at(100)), "failing begins");
        assert_eq!((cached.choice(), cached.is_stale(), cached.refresh_at()), (&one(1), true, at(105)));
        for (now, next) in [(105, 115), (115, 135), (135, 175), (175, 235), (235, 295)] {
            assert!(!cached.learn(None, at(now)), "said once");
            assert_eq!(cached.refresh_at(), at(next));
        }
        assert!(
            !cached.learn(Some((Choice::default(), Duration::from_secs(9))), at(295)),
            "no address is a failure"
        );
        assert_eq!(cached.choice(), &one(1));
        assert!(cached.learn(found(2, 30), at(300)), "failing ends");
        assert_eq!((cached.choice(), cached.is_stale()), (&one(2), false));
    }

    fn any_name() -> impl Strategy<Value = String> {
        prop::sample::select(vec![
            "c.example",
            "_sip._udp.c.example",
            "_sip._tcp.c.example",
            "_sips._tcp.c.example",
            "a.example",
            "",
        ])
        .prop_map(ToOwned::to_owned)
    }

    fn any_record() -> impl Strategy<Value = (Question, Answer)> {
        let service = prop::sample::select(vec!["SIP+D2U", "SIP+D2T", "SIPS+D2T", "E2U+sip", ""]);
        let naptr = (any::<u16>(), any::<u16>(), "[sSuU]?", service, any::<bool>(), any_name()).prop_map(
            |(order, preference, flags, service, has_regexp, replacement)| {
                let service = service.to_owned();
                Naptr { order, preference, flags, service, has_regexp, replacement }
            },
        );
        let srv = (0..4_u16, any::<u16>(), any::<u16>(), any_name())
            .prop_map(|(priority, weight, port, target)| Srv { priority, weight, port, target });
        prop_oneof![
            (any_name(), prop::collection::vec(naptr, 0..40))
                .prop_map(|(name, records)| (Question::Naptr(name), Answer::Naptr(records))),
            (any_name(), prop::collection::vec(srv, 0..40))
                .prop_map(|(name, records)| (Question::Srv(name), Answer::Srv(records))),
            (any_name(), prop::collection::vec(any::<IpAddr>(), 0..40))
                .prop_map(|(name, found)| (Question::Addresses(name), Answer::Addresses(found))),
        ]
    }

    proptest! {
        /// Whatever the zone holds: the search ends, is bounded, leaves TLS for nothing else, and every order holds
        /// the same targets.
        #[test]
        fn any_zone_is_searched_to_an_end(
            records in prop::collection::btree_map(any_name(), any_record(), 0..12),
            gateway in prop::sample::select(vec![
                "sip:c.example", "sips:c.example", "sip:c.example:5070", "sip:c.example;transport=tcp",
            ]),
            dice in any::<u32>(),
        ) {
            let zone: BTreeMap<_, _> = records.into_values().collect();
            let (choice, asked) = resolve(gateway, &zone, Families::BOTH);
            prop_assert!(asked.len() < 200);
            let order = choice.order(|sum| dice % (sum + 1));
            prop_assert!(order.len() <= MAX_TARGETS && order.is_empty() == choice.is_empty());
            let mut all: Vec<_> = choice.all().collect();
            let mut sorted = order.clone();
            all.sort();
            sorted.sort();
            prop_assert_eq!(all, sorted);
            if gateway.starts_with("sips:") {
                prop_assert!(order.iter().all(|target| target.transport == Transport::Tls));
            }
        }
    }
}

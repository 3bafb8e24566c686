//! Where a call that no session takes may go on to, when its number says `no_session = "sip:…"`. Pure.
//!
//! What the configuration says is the operator's own word. The API is used by applications and tenants: a URI of
//! theirs could make us send requests, by TCP too, to any host that we reach, or have a carrier dial a number on
//! somebody else's bill. So one of theirs leads to a gateway of the configuration's trunks, on that gateway's own port
//! and transport, and names somebody there by a word, never by a number.

use super::{Gateway, Transport};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

/// From so many digits on a user is taken for a telephone number, whatever else stands between them.
const NUMBER: usize = 7;

/// Why a URI of the API is no place for calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoForward {
    /// The operator knows no such place.
    #[error(
        "a sip: URI must lead to a gateway of the configuration's trunks (the same host, port and transport), or be one \
         that its [[numbers]] name."
    )]
    Place,
    /// Who may be called there, and at whose cost, only a session says.
    #[error("the user of a sip: URI must begin with a letter and must not be a telephone number.")]
    Number,
}

/// What the operator allows.
#[derive(Debug, Clone, Default)]
pub struct Forwarding {
    places: Arc<BTreeSet<Place>>,
    /// The URIs of the configuration's numbers.
    configured: Arc<BTreeSet<String>>,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    host: String,
    port: u16,
    transport: Transport,
}

impl Place {
    fn of(gateway: &Gateway) -> Self {
        let host = match gateway.ip() {
            Some(ip) => IpAddr::to_canonical(&ip).to_string(),
            None => gateway.host.to_ascii_lowercase(),
        };
        let transport = gateway.transport.unwrap_or(Transport::Udp);
        Self { host, port: gateway.port_or_default(), transport }
    }
}

impl Forwarding {
    /// `gateways`: those of all trunks; `configured`: the URIs that the configuration itself names.
    pub fn new<'a>(
        gateways: impl IntoIterator<Item = &'a Gateway>,
        configured: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        let places = gateways.into_iter().map(Place::of).collect();
        let configured = configured.into_iter().map(str::to_owned).collect();
        Self { places: Arc::new(places), configured: Arc::new(configured) }
    }

    /// Whether calls may go on to `uri`, a `sip:` URI.
    ///
    /// # Errors
    /// [`NoForward`].
    pub fn check(&self, uri: &str) -> Result<(), NoForward> {
        if self.configured.contains(uri) {
            return Ok(());
        }
        let rest = uri.strip_prefix("sip:").ok_or(NoForward::Place)?;
        let (user, place) = rest.split_once('@').map_or((None, rest), |(user, place)| (Some(user), place));
        let gateway = Gateway::parse(&format!("sip:{place}")).ok_or(NoForward::Place)?;
        if !self.places.contains(&Place::of(&gateway)) {
            return Err(NoForward::Place);
        }
        if user.is_some_and(|user| !is_word(user)) { Err(NoForward::Number) } else { Ok(()) }
    }
}

/// Short numbers cost money too, and escapes could hide any: so a letter comes first, digits are few, and nothing is
/// escaped.
fn is_word(user: &str) -> bool {
    let digits = user.bytes().filter(u8::is_ascii_digit).count();
    user.starts_with(|first: char| first.is_ascii_alphabetic()) && digits < NUMBER && !user.contains('%')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forwarding() -> Forwarding {
        let gateways = [
            "sip:198.51.100.7:5060;transport=udp",
            "sip:pbx.example:5070;transport=tcp",
            "sip:10.1.1.1",
            "sip:[2001:db8::7]:5062",
            "sips:secure.example",
        ]
        .map(|uri| Gateway::parse(uri).unwrap());
        Forwarding::new(&gateways, ["sip:+12025550199@192.0.2.9", "sip:desk@192.168.0.9:5099;transport=tcp"])
    }

    #[test]
    fn the_configurations_own_uris_and_words_at_its_gateways_are_allowed() {
        for uri in [
            "sip:desk@198.51.100.7",
            "sip:desk@198.51.100.7:5060",
            "sip:Desk-2.b@198.51.100.7;transport=UDP",
            "sip:198.51.100.7",
            "sip:ivr100@PBX.example:5070;transport=tcp",
            "sip:desk@10.1.1.1",
            "sip:desk@[2001:DB8:0::7]:5062",
            "sip:desk@secure.example;transport=tls",
            "sip:+12025550199@192.0.2.9",
            "sip:desk@192.168.0.9:5099;transport=tcp",
        ] {
            assert_eq!(forwarding().check(uri), Ok(()), "{uri}");
        }
    }

    #[test]
    fn no_other_host_port_or_transport_is_reached() {
        for uri in [
            "sip:desk@203.0.113.5",
            "sip:desk@127.0.0.1",
            "sip:desk@169.254.169.254:80;transport=tcp",
            "sip:desk@10.1.1.2",
            "sip:desk@[::1]",
            "sip:desk@[::ffff:10.0.0.1]",
            "sip:desk@198.51.100.7:22;transport=tcp",
            "sip:desk@198.51.100.7:5060;transport=tcp",
            "sip:desk@198.51.100.7:5061",
            "sip:desk@pbx.example",
            "sip:desk@pbx.example:5070",
            "sip:desk@pbx.example.evil.test:5070;transport=tcp",
            "sip:desk@evil.test",
            "sip:desk@192.168.0.9:5099",
            "sip:other@192.168.0.9:5099;transport=tcp",
            "sip:desk@evil.test@198.51.100.7",
            "sips:desk@198.51.100.7",
            "tel:+12025550199",
            "",
        ] {
            assert_eq!(forwarding().check(uri), Err(NoForward::Place), "{uri}");
        }
        assert_eq!(Forwarding::default().check("sip:desk@198.51.100.7"), Err(NoForward::Place));
    }

    #[test]
    fn a_number_is_nobody_to_forward_to() {
        for user in [
            "+12025550100",
            "12025550100",
            "0012025550100",
            "2025550100",
            "112",
            "911",
            "90900",
            "*43",
            "1-202-555-0100",
            "(202)5550100",
            "%2B12025550100",
            "a%32%30%32",
            "x12025550100",
            "p2-0-2-5-5-5-0",
            "+1202555;x=a",
            "",
        ] {
            let uri = format!("sip:{user}@198.51.100.7");
            assert_eq!(forwarding().check(&uri), Err(NoForward::Number), "{uri}");
        }
    }
}

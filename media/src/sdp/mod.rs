//! SDP for one audio stream per leg: what a peer describes, and what we agree on with it.
//!
//! RFC 8866 (syntax), RFC 3264 (offer/answer), RFC 3605 (`a=rtcp`), RFC 4733 §2.4 (telephone-event), RFC 4568 and
//! RFC 8643 (keys), RFC 6141 (a refused change leaves everything as it was).
//!
//! ```text
//! bytes ── parse ──▶ Description (numbers, addresses and words of fixed lists) ── Negotiation ──▶ Stream
//!                                                                            └──▶ our own text
//! ```
//!
//! No text of a peer survives `parse`: what we send is written from our own values, and of the peer's it
//! repeats to that same peer nothing but numbers (payload types, ptime) and words of our own lists for the
//! streams that it is refused. There is no DNS: a host name in `c=` is refused. Keys are made of the leg's own
//! secret and read from its own peer; there is no DTLS, so a stream that is offered with it only is refused.

mod negotiation;
mod parse;

pub use negotiation::Negotiation;

use crate::srtp::Secret;
use crate::{Codec, SourcePolicy};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Why an offer or an answer cannot be taken. Every cause is the peer's doing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OfferError {
    /// It breaks the grammar where we need it, or a limit.
    #[error("line {line}: {reason}")]
    Malformed {
        /// Counted from 1, without empty lines.
        line: usize,
        /// What is wrong.
        reason: &'static str,
    },
    /// No audio stream, or none over plain RTP with a port.
    #[error("no usable audio stream")]
    NoAudio,
    /// The stream would be plain where it must be encrypted, or is encrypted in no way that we know.
    #[error("no encryption in common")]
    NoEncryption,
    /// None of the codecs is ours, or none is among those that we offered.
    #[error("no codec in common, offered payload types {offered:?}")]
    NoCommonCodec {
        /// What the peer named, in its order.
        offered: Vec<u8>,
    },
    /// RTP must not go to that address: it is outside the networks of the trunk, or of another family than
    /// ours.
    #[error("media address {address} is not allowed")]
    NotAllowed {
        /// The address in `c=`.
        address: IpAddr,
    },
    /// `c=` names a host, which we do not look up.
    #[error("line {line}: the connection address is a host name")]
    HostName {
        /// Counted from 1, without empty lines.
        line: usize,
    },
}

impl OfferError {
    /// The SIP status to refuse with: 400 or 488 (RFC 3261 §21.4.1, §21.4.26).
    #[must_use]
    pub fn sip_status(&self) -> u16 {
        match self {
            Self::Malformed { .. } => 400,
            Self::NoAudio
            | Self::NoEncryption
            | Self::NoCommonCodec { .. }
            | Self::NotAllowed { .. }
            | Self::HostName { .. } => 488,
        }
    }
}

/// What one leg offers or answers with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalMedia {
    /// The address that `o=` and `c=` show.
    pub address: IpAddr,
    /// Our RTP port; RTCP is the one above.
    pub port: u16,
    /// Random name of the session in `o=`; the upper bit is not shown, since some peers read a signed number.
    pub session_id: u64,
    /// What we can speak, in order of preference.
    pub codecs: Vec<Codec>,
    /// Goes into [`crate::Stream::source`].
    pub source: SourcePolicy,
    /// Where RTP may go.
    pub allow: MediaAllow,
    /// `None`: RTP is plain, and a peer's keys are ignored.
    pub srtp: Option<LocalSrtp>,
}

/// That a leg's RTP is encrypted, at will or in any case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalSrtp {
    /// A stream without encryption is refused.
    pub required: bool,
    /// What our keys are made of.
    pub secret: Secret,
}

/// Which addresses RTP may go to (`media_allow` of a trunk).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MediaAllow {
    /// Address and prefix length; empty: any address that `private` permits.
    pub networks: Vec<(IpAddr, u8)>,
    /// With no networks given: private, shared, loopback and link-local addresses as well.
    pub private: bool,
}

impl MediaAllow {
    /// True when RTP may go to `address`. Never to a group, to all, or to an address that names no host.
    #[must_use]
    pub fn permits(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        if names_no_host(address) {
            return false;
        }
        if self.networks.is_empty() {
            return self.private || !is_private(address);
        }
        self.networks.iter().any(|(network, prefix)| contains(*network, *prefix, address))
    }
}

fn contains(network: IpAddr, prefix: u8, address: IpAddr) -> bool {
    // The bits below the prefix are shifted out; a prefix of 0 shifts out all.
    match (network.to_canonical(), address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            let differs = network.to_bits() ^ address.to_bits();
            differs.checked_shr(32u32.saturating_sub(prefix.into())).unwrap_or(0) == 0
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => {
            let differs = network.to_bits() ^ address.to_bits();
            differs.checked_shr(128u32.saturating_sub(prefix.into())).unwrap_or(0) == 0
        }
        _ => false,
    }
}

fn names_no_host(address: IpAddr) -> bool {
    match address {
        // 0.0.0.0/8 is "this network", 240.0.0.0/4 is reserved and ends with the broadcast address (RFC
        // 6890).
        IpAddr::V4(v4) => v4.is_multicast() || matches!(v4.octets(), [0 | 240..=255, ..]),
        IpAddr::V6(v6) => v6.is_multicast() || v6.is_unspecified(),
    }
}

fn is_private(address: IpAddr) -> bool {
    let v4 = |v4: Ipv4Addr| {
        // 100.64.0.0/10 is shared by carriers (RFC 6598).
        let shared = matches!(v4.octets(), [100, 64..=127, ..]);
        v4.is_private() || v4.is_loopback() || v4.is_link_local() || shared
    };
    let v6 = |v6: Ipv6Addr| v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local();
    match address {
        IpAddr::V4(address) => v4(address),
        IpAddr::V6(address) => v6(address),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rtp_goes_to_allowed_networks_only() {
        let any = MediaAllow::default();
        let private = MediaAllow { private: true, ..MediaAllow::default() };
        let listed = |networks: &[(&str, u8)]| MediaAllow {
            networks: networks.iter().map(|(network, prefix)| (network.parse().unwrap(), *prefix)).collect(),
            private: false,
        };
        let office = listed(&[("10.1.0.0", 16), ("2001:db8::", 32), ("203.0.113.7", 32)]);
        let all = listed(&[("0.0.0.0", 0), ("::", 0)]);
        let table: &[(&str, &MediaAllow, &str, bool)] = &[
            ("any: public", &any, "203.0.113.9", true),
            ("any: public IPv6", &any, "2001:db8::1", true),
            ("any: not private", &any, "192.168.1.1", false),
            ("any: not shared", &any, "100.64.0.1", false),
            ("any: not loopback", &any, "127.0.0.1", false),
            ("any: not link-local", &any, "169.254.169.254", false),
            ("any: not IPv6 loopback", &any, "::1", false),
            ("any: not unique local", &any, "fd00::1", false),
            ("any: not link-local IPv6", &any, "fe80::1", false),
            ("any: not IPv4 in disguise", &any, "::ffff:127.0.0.1", false),
            ("private: loopback", &private, "127.0.0.1", true),
            ("private: public as well", &private, "203.0.113.9", true),
            ("private: no group", &private, "224.2.1.1", false),
            ("private: no broadcast", &private, "255.255.255.255", false),
            ("private: not nobody", &private, "0.0.0.0", false),
            ("private: no IPv6 group", &private, "ff02::1", false),
            ("listed: private network", &office, "10.1.255.1", true),
            ("listed: the one beside it", &office, "10.2.0.1", false),
            ("listed: one host", &office, "203.0.113.7", true),
            ("listed: its neighbour", &office, "203.0.113.6", false),
            ("listed: IPv6", &office, "2001:db8:1::1", true),
            ("listed: other IPv6", &office, "2001:db9::1", false),
            ("listed: all", &all, "127.0.0.1", true),
            ("listed: all IPv6", &all, "fe80::1", true),
            ("listed: all but groups", &all, "224.0.0.1", false),
        ];
        for (fact, allow, address, outcome) in table {
            assert_eq!(allow.permits(address.parse().unwrap()), *outcome, "{fact}");
        }
    }
}

//! Is this packet the peer's? The first question about every packet, and the answer to RTP bleed.
//!
//! A leg's source is the address and port that its SDP named. Only an offer/answer exchange of that leg moves
//! it; packets never do, except that [`SourcePolicy::Address`] lets the first one choose the port of the same
//! address. What comes from elsewhere changes nothing and gets no answer.

use crate::SourcePolicy;
use std::net::SocketAddr;

/// Where one socket's packets may come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source {
    expected: SocketAddr,
    alternative: Option<SocketAddr>,
    policy: SourcePolicy,
    locked: Option<SocketAddr>,
}

impl Source {
    /// Packets from `expected`.
    #[must_use]
    pub fn new(expected: SocketAddr, policy: SourcePolicy) -> Self {
        Self { expected, alternative: None, policy, locked: None }
    }

    /// Packets from `also` count as well: RTCP of a peer that sends it from its RTP port.
    #[must_use]
    pub fn or(mut self, also: SocketAddr) -> Self {
        self.alternative = Some(also);
        self
    }

    /// The source after another offer/answer exchange: a lock holds for as long as the SDP names the same
    /// place.
    #[must_use]
    pub fn succeed(self, next: Self) -> Self {
        if (self.expected, self.alternative, self.policy) == (next.expected, next.alternative, next.policy) {
            self
        } else {
            next
        }
    }

    /// True when a packet from `from` is the peer's. Changes nothing.
    #[inline]
    #[must_use]
    pub fn accepts(&self, from: SocketAddr) -> bool {
        match (self.policy, self.locked) {
            (SourcePolicy::Exact, _) => {
                same(self.expected, from) || self.alternative.is_some_and(|also| same(also, from))
            }
            (SourcePolicy::Address, Some(locked)) => same(locked, from),
            (SourcePolicy::Address, None) => self.expected.ip() == from.ip(),
        }
    }

    /// A packet from `from` was accepted and is well formed: with [`SourcePolicy::Address`] no other port
    /// counts now.
    #[inline]
    pub fn lock(&mut self, from: SocketAddr) {
        if self.policy == SourcePolicy::Address && self.locked.is_none() {
            self.locked = Some(from);
        }
    }
}

/// Address and port; the flow label and scope of an IPv6 packet say nothing about who sent it.
#[inline]
fn same(one: SocketAddr, other: SocketAddr) -> bool {
    one.port() == other.port() && one.ip() == other.ip()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn exact_takes_the_sdp_address_and_port_only() {
        let source = Source::new(address("192.0.2.1:4000"), SourcePolicy::Exact);
        let table = [
            ("192.0.2.1:4000", true),
            ("192.0.2.1:4002", false),
            ("192.0.2.2:4000", false),
            ("[::ffff:192.0.2.1]:4000", false),
        ];
        for (from, accepted) in table {
            assert_eq!(source.accepts(address(from)), accepted, "{from}");
        }
    }

    #[test]
    fn exact_never_learns() {
        let mut source = Source::new(address("192.0.2.1:4000"), SourcePolicy::Exact);
        source.lock(address("192.0.2.1:4002"));
        assert!(source.accepts(address("192.0.2.1:4000")) && !source.accepts(address("192.0.2.1:4002")));
    }

    #[test]
    fn address_takes_another_port_of_the_same_address_and_locks_at_the_first_packet() {
        let mut source = Source::new(address("192.0.2.1:4000"), SourcePolicy::Address);
        assert!(!source.accepts(address("192.0.2.9:4000")), "never another address");
        assert!(source.accepts(address("192.0.2.1:5555")));
        source.lock(address("192.0.2.1:5555"));
        source.lock(address("192.0.2.1:6666"));
        assert!(source.accepts(address("192.0.2.1:5555")));
        assert!(!source.accepts(address("192.0.2.1:6666")) && !source.accepts(address("192.0.2.1:4000")));
    }

    #[test]
    fn a_lock_survives_a_refresh_and_ends_when_the_sdp_names_another_place() {
        let policy = SourcePolicy::Address;
        let mut source = Source::new(address("192.0.2.1:4000"), policy);
        source.lock(address("192.0.2.1:5555"));
        let refreshed = source.succeed(Source::new(address("192.0.2.1:4000"), policy));
        assert!(refreshed.accepts(address("192.0.2.1:5555")));
        let moved = source.succeed(Source::new(address("192.0.2.7:4000"), policy));
        assert!(!moved.accepts(address("192.0.2.1:5555")) && moved.accepts(address("192.0.2.7:1")));
    }

    #[test]
    fn rtcp_may_come_from_the_rtp_port_but_from_nowhere_else() {
        let source =
            Source::new(address("192.0.2.1:4001"), SourcePolicy::Exact).or(address("192.0.2.1:4000"));
        assert!(source.accepts(address("192.0.2.1:4000")) && source.accepts(address("192.0.2.1:4001")));
        assert!(!source.accepts(address("192.0.2.1:4002")));
    }
}

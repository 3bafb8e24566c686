//! Where to listen, as the configuration writes it, and which of our addresses a peer would see.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::str::FromStr;

/// A transport protocol of SIP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// RFC 3261 §18: unreliable, one message in each datagram.
    Udp,
    /// RFC 3261 §18: reliable, messages framed by Content-Length.
    Tcp,
    /// RFC 3261 §26.2.1: like TCP, encrypted, with a peer that has proved its name.
    Tls,
}

impl Protocol {
    /// Whether the transport repeats what is lost, so that transactions need not (RFC 3261 §17).
    #[must_use]
    pub fn is_reliable(self) -> bool {
        !matches!(self, Self::Udp)
    }

    /// Where it is spoken when nothing names a port (RFC 3261 §18.2.2, §19.1.2).
    #[must_use]
    pub fn default_port(self) -> u16 {
        match self {
            Self::Udp | Self::Tcp => 5060,
            Self::Tls => 5061,
        }
    }

    /// The name in a Via header (RFC 3261 §20.42).
    #[must_use]
    pub fn via_name(self) -> &'static str {
        match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
            Self::Tls => "TLS",
        }
    }

    /// The name in a `transport` parameter of a URI, in a listen address and in a metric (RFC 3261 §19.1.1).
    #[must_use]
    pub fn uri_name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
        }
    }
}

/// An address to listen on: `udp://0.0.0.0:5060`, `tcp://[::]:5060`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ListenAddress {
    /// What to speak there.
    pub protocol: Protocol,
    /// IP address and port; port 0 lets the system choose one.
    pub address: SocketAddr,
}

/// Why a text is no [`ListenAddress`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ListenAddressError {
    /// There is no `://`.
    #[error("the protocol is missing; write it as udp://0.0.0.0:5060")]
    NoProtocol,
    /// What stands before `://` is unknown.
    #[error("the protocol is none of udp, tcp, tls")]
    UnknownProtocol,
    /// What stands after `://` is not an IP address and a port. Host names are not looked up.
    #[error(
        "after the protocol an IP address and a port are needed, as in udp://0.0.0.0:5060 or tcp://[::]:5060"
    )]
    NoAddress,
}

impl FromStr for ListenAddress {
    type Err = ListenAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (protocol, address) = text.split_once("://").ok_or(ListenAddressError::NoProtocol)?;
        let protocol = [Protocol::Udp, Protocol::Tcp, Protocol::Tls]
            .into_iter()
            .find(|known| known.uri_name().eq_ignore_ascii_case(protocol))
            .ok_or(ListenAddressError::UnknownProtocol)?;
        let address = address.parse().map_err(|_| ListenAddressError::NoAddress)?;
        Ok(Self { protocol, address })
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.protocol.uri_name(), self.address)
    }
}

/// The address of this machine that `peer` would see: a route lookup, no packet is sent.
///
/// # Errors
/// The system's, when there is no route.
pub fn local_address_towards(peer: SocketAddr) -> io::Result<IpAddr> {
    let any: IpAddr = match peer {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(peer)?;
    Ok(socket.local_addr()?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listen_addresses_are_read_and_written() {
        let good = ["udp://0.0.0.0:5060", "tcp://[::]:5060", "tls://192.0.2.1:5061", "udp://[2001:db8::1]:1"];
        for text in good {
            assert_eq!(text.parse::<ListenAddress>().map(|address| address.to_string()), Ok(text.to_owned()));
        }
        assert_eq!("UDP://127.0.0.1:0".parse::<ListenAddress>().unwrap().protocol, Protocol::Udp);
        use ListenAddressError::{NoAddress, NoProtocol, UnknownProtocol};
        let bad = [
            ("0.0.0.0:5060", NoProtocol),
            ("", NoProtocol),
            ("ws://0.0.0.0:5060", UnknownProtocol),
            ("udp://0.0.0.0", NoAddress),
            ("udp://example.com:5060", NoAddress),
            ("udp://::1:5060", NoAddress),
            ("udp://0.0.0.0:65536", NoAddress),
        ];
        for (text, error) in bad {
            assert_eq!(text.parse::<ListenAddress>(), Err(error), "{text}");
        }
    }

    #[test]
    fn the_way_to_loopback_is_loopback() {
        let towards = local_address_towards(SocketAddr::from(([127, 0, 0, 1], 5060))).unwrap();
        assert_eq!(towards, IpAddr::from([127, 0, 0, 1]));
    }
}

//! SIP over UDP, TCP and TLS: RFC 3261 §18, RFC 3581 (answers go where requests came from), RFC 5626 §4.4.1
//! (keep-alives on streams).
//!
//! ```text
//! socket ─► access list ─► framing ─► parser ─► Handler::on_message │ on_malformed
//! Transports::send ─► socket │ queue of a connection ─► (failure) Handler::on_send_failed
//! ```
//!
//! This is shell: the only code of SIP that touches a socket. It knows no transaction, dialog or call, and it
//! never chooses a protocol: "over 1300 bytes try TCP, then UDP" (RFC 3261 §18.1.1) is decided by the leg that
//! owns the request. It never waits for a slow peer: what does not fit into a bounded queue is dropped and
//! counted. A stranger gets silence on UDP and a closed connection on TCP.

mod address;
mod connection;
mod gate;
mod table;
mod tasks;
mod tcp;
#[cfg(test)]
mod tests;
mod tls;
#[cfg(test)]
mod tls_tests;
mod udp;
mod wildcard;

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tracing::info;

pub use address::{ListenAddress, ListenAddressError, Protocol, local_address_towards};
pub use tls::{TlsError, TlsFiles, client as tls_client, expected as tls_name};

use self::gate::{Counters, Gate, Inbound};
use self::tasks::Tasks;
use self::tcp::Tcp;
use self::tls::Tls;
use self::udp::Udp;
use crate::sip::key::DialogKey;
use crate::sip::message::{Message, ParseError};
use crate::sip::wire::{self, ByteStr};

/// One connection of this process. It says which kind it is, so that the number of a TCP connection never passes for
/// that of a TLS connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConnectionId {
    protocol: Protocol,
    number: u64,
}

impl ConnectionId {
    /// The connection of that number; each protocol has numbers of its own.
    #[must_use]
    pub fn new(protocol: Protocol, number: u64) -> Self {
        Self { protocol, number }
    }

    /// What is spoken over it.
    #[must_use]
    pub fn protocol(self) -> Protocol {
        self.protocol
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.protocol.uri_name(), self.number)
    }
}

/// The way a message came, which is the way its answers go (RFC 3261 §18.2.2, RFC 3581 §4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Flow {
    /// What it came by.
    pub protocol: Protocol,
    /// The listener's port and the address of ours that was called; of a TCP listener as bound, so that the IP
    /// address may be the unspecified one. For a connection that we opened it is the listener that such a peer
    /// can reach.
    pub local: SocketAddr,
    /// Where it came from.
    pub peer: SocketAddr,
    /// The connection; `None` on UDP.
    pub connection: Option<ConnectionId>,
}

impl Flow {
    /// Back the same way: the same socket, the same connection while it lives.
    #[must_use]
    pub fn back(&self) -> Destination {
        Destination {
            protocol: self.protocol,
            address: self.peer,
            connection: self.connection,
            local: Some(self.local),
            name: None,
            token: None,
        }
    }
}

/// Where a message goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// What to send it by.
    pub protocol: Protocol,
    /// The peer's address. On TCP also where a new connection goes when `connection` is gone.
    pub address: SocketAddr,
    /// The connection to prefer, if it is one of `protocol`.
    pub connection: Option<ConnectionId>,
    /// [`Flow::local`], to answer from the same UDP socket and address; `None` picks one by route.
    pub local: Option<SocketAddr>,
    /// On TLS: what a peer must prove to be when a connection is opened to it (RFC 5922 §4); `None`: its address.
    pub name: Option<Arc<str>>,
    /// Whose request this is; `None` for responses and ACKs, whose loss nobody is told of.
    pub token: Option<SendToken>,
}

impl Destination {
    /// To an address, by whichever socket or connection fits.
    #[must_use]
    pub fn new(protocol: Protocol, address: SocketAddr) -> Self {
        Self { protocol, address, connection: None, local: None, name: None, token: None }
    }

    /// The same destination, with the request to name if it fails.
    #[must_use]
    pub fn with_token(self, token: SendToken) -> Self {
        Self { token: Some(token), ..self }
    }
}

/// A request of ours, to be named when it could not be sent.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SendToken {
    /// Finds the call.
    pub dialog: DialogKey,
    /// Finds the transaction in it.
    pub branch: ByteStr,
}

/// Who gets what arrives. Called from the tasks that read sockets: an implementation hands over and returns,
/// it must not block.
pub trait Handler: Send + Sync + 'static {
    /// What [`Handler::admit`] knows about a source: its trunk.
    type Peer: Copy + Send;

    /// The access list, asked before a byte is looked at. `None` means silence, and on TCP a closed
    /// connection. Asked again for each message, so a changed list also holds for open connections.
    fn admit(&self, source: IpAddr) -> Option<Self::Peer>;

    /// One well-formed message.
    fn on_message(&self, message: Message, flow: Flow, peer: Self::Peer);

    /// One message that cannot be understood; it has been counted.
    fn on_malformed(&self, error: ParseError, flow: Flow, peer: Self::Peer);

    /// A request could not be sent, or is not known to have been sent when its connection broke. May be
    /// called from inside [`Transports::send`]: no lock that is held there may be taken here.
    fn on_send_failed(&self, token: SendToken, why: SendFault);
}

/// Why a request was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendFault {
    /// No socket, no route, no connection, no room.
    NotSent,
    /// TLS: the peer did not prove its name, or would not speak with us.
    NotTrusted,
}

/// Bounds of the transport. Every one of them protects against a peer that is admitted but broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransportLimits {
    /// Bytes of one message on TCP, header and body. Default, and most: [`wire::MAX_MESSAGE`].
    pub message_bytes: usize,
    /// How long a message may take on TCP from its first byte to its last, in either direction. Default 10 s.
    pub message_time: Duration,
    /// A TCP connection without a byte in either direction for so long is closed. Default 120 s.
    pub idle: Duration,
    /// How long a connection that came in may take to bring its first whole message or keep-alive. Default 10 s.
    pub first_message: Duration,
    /// How long an outgoing TCP connection may take to open. Default 5 s.
    pub connect: Duration,
    /// How long responses may still be sent after the peer has closed its side. Default 32 s, the lifetime of
    /// a transaction.
    pub half_closed: Duration,
    /// How long a closing connection may take to send what is already queued. Default 1 s.
    pub flush: Duration,
    /// Incoming TCP connections of one source address. Default 32.
    pub connections_per_source: usize,
    /// Incoming TCP connections in all; as many outgoing ones come on top. Default 1024.
    pub connections: usize,
    /// Messages that wait for one slow TCP peer. Default 128; each costs its length.
    pub queue: usize,
    /// Kernel buffer to ask for on each UDP socket, in bytes, each way. Default 4 MiB, which the system may
    /// cut to net.core.rmem_max.
    pub udp_buffer: usize,
}

impl Default for TransportLimits {
    fn default() -> Self {
        Self {
            message_bytes: wire::MAX_MESSAGE,
            message_time: Duration::from_secs(10),
            idle: Duration::from_secs(120),
            first_message: Duration::from_secs(10),
            connect: Duration::from_secs(5),
            half_closed: Duration::from_secs(32),
            flush: Duration::from_secs(1),
            connections_per_source: 32,
            connections: 1024,
            queue: 128,
            udp_buffer: 4 << 20,
        }
    }
}

/// Why the service cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The configuration names no address.
    #[error("sip.listen names no address to listen on")]
    NoAddress,
    /// The certificates cannot be had.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The system refuses.
    #[error("sip.listen: cannot listen on {listen}: {source}")]
    Refused {
        /// The address that was asked for.
        listen: ListenAddress,
        /// The system's reason.
        source: io::Error,
    },
}

/// All SIP sockets of the service. Clones share them; when the last one is dropped, or one is shut down, all
/// sockets close.
#[derive(Clone)]
pub struct Transports {
    shared: Arc<Shared>,
}

struct Shared {
    addresses: Vec<(Protocol, SocketAddr)>,
    udp: Udp,
    tcp: Arc<Tcp>,
    tls: Arc<Tcp>,
    #[cfg(test)]
    certificates: Arc<Tls>,
    tasks: Arc<Tasks>,
    flush: Duration,
    /// True when all tasks are to end; dropped with the last clone, which means the same to them.
    stop: watch::Sender<bool>,
}

impl Transports {
    /// Binds every address and starts to receive, inside a tokio runtime. The metrics recorder must be installed
    /// before.
    ///
    /// # Errors
    /// [`BindError`], which names the address and the configuration key; then nothing listens.
    pub fn bind<H: Handler>(
        listen: &[ListenAddress],
        limits: TransportLimits,
        certificates: TlsFiles,
        handler: Arc<H>,
    ) -> Result<Self, BindError> {
        let sockets = Sockets::bind(listen, &limits, certificates)?;
        Ok(sockets.start(limits, handler))
    }

    /// Sends one encoded message. Never waits: UDP goes to the kernel at once, TCP into the queue of `to`'s
    /// connection, of another one to the same address, or of a new one that a task of its own opens.
    pub fn send(&self, wire: Bytes, to: &Destination) {
        match to.protocol {
            Protocol::Udp => self.shared.udp.send(&wire, to),
            Protocol::Tcp => self.shared.tcp.send(wire, to),
            Protocol::Tls => self.shared.tls.send(wire, to),
        }
    }

    /// What is listened on, in the order of the configuration; ports are those that the system gave.
    #[must_use]
    pub fn local_addresses(&self) -> Vec<(Protocol, SocketAddr)> {
        self.shared.addresses.clone()
    }

    /// Stops listening, sends what is queued within [`TransportLimits::flush`], and closes all sockets. What
    /// is sent afterwards through another clone fails.
    pub async fn shutdown(self) {
        self.shared.stop.send_replace(true);
        self.shared.udp.close();
        self.shared.tasks.finish(self.shared.flush).await;
    }
}

/// Bound and not yet read.
struct Sockets {
    datagrams: Vec<Arc<udp::Listener>>,
    streams: Vec<tcp::Listener>,
    secured: Vec<tcp::Listener>,
    certificates: Arc<Tls>,
    addresses: Vec<(Protocol, SocketAddr)>,
}

impl Sockets {
    fn bind(
        listen: &[ListenAddress],
        limits: &TransportLimits,
        certificates: TlsFiles,
    ) -> Result<Self, BindError> {
        if listen.is_empty() {
            return Err(BindError::NoAddress);
        }
        if certificates.own.is_none() && listen.iter().any(|listen| listen.protocol == Protocol::Tls) {
            return Err(TlsError::NoCertificate.into());
        }
        let certificates = Arc::new(Tls::load(certificates)?);
        let mut sockets =
            Self { datagrams: vec![], streams: vec![], secured: vec![], certificates, addresses: vec![] };
        for &listen in listen {
            let refused = |source| BindError::Refused { listen, source };
            let local = match listen.protocol {
                Protocol::Udp => {
                    let bound = udp::Listener::bind(listen.address, limits.udp_buffer).map_err(refused)?;
                    let local = bound.local;
                    sockets.datagrams.push(Arc::new(bound));
                    local
                }
                Protocol::Tcp | Protocol::Tls => {
                    let bound = tcp::Listener::bind(listen.address).map_err(refused)?;
                    let local = bound.local;
                    let of_kind = if listen.protocol == Protocol::Tls {
                        &mut sockets.secured
                    } else {
                        &mut sockets.streams
                    };
                    of_kind.push(bound);
                    local
                }
            };
            sockets.addresses.push((listen.protocol, local));
        }
        Ok(sockets)
    }

    /// Starts the tasks that read. Inside a tokio runtime.
    fn start<H: Handler>(self, limits: TransportLimits, handler: Arc<H>) -> Transports {
        let Self { datagrams, streams, secured, certificates, addresses } = self;
        let counters = Arc::new(Counters::new());
        let inbound: Arc<dyn Inbound> = Arc::new(Gate { handler, counters: Arc::clone(&counters) });
        let tasks = Arc::new(Tasks::new());
        let (stop, stopped) = watch::channel(false);
        let flush = limits.flush;
        let connections = |certificates, listeners: &[tcp::Listener]| {
            Arc::new(Tcp::new(
                certificates,
                limits,
                listeners,
                Arc::clone(&inbound),
                Arc::clone(&counters),
                Arc::clone(&tasks),
                stopped.clone(),
            ))
        };
        let tcp = connections(None, &streams);
        let tls = connections(Some(Arc::clone(&certificates)), &secured);
        for listener in &datagrams {
            tasks.spawn(udp::receive(Arc::clone(listener), Arc::clone(&inbound), stopped.clone()));
        }
        for listener in streams {
            tasks.spawn(tcp::accept(listener, Arc::clone(&tcp), stopped.clone()));
        }
        for listener in secured {
            tasks.spawn(tcp::accept(listener, Arc::clone(&tls), stopped.clone()));
        }
        tasks.spawn(Arc::clone(&certificates).keep_fresh(stopped));
        for (protocol, local) in &addresses {
            info!(protocol = protocol.uri_name(), %local, "listening for SIP");
        }
        let udp = Udp::new(datagrams, Arc::clone(&inbound), counters);
        Transports {
            shared: Arc::new(Shared {
                addresses,
                udp,
                tcp,
                tls,
                #[cfg(test)]
                certificates,
                tasks,
                flush,
                stop,
            }),
        }
    }
}

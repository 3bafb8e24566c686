//! SIP over TCP and TLS (RFC 3261 §18): listeners, and the way of a message to its connection.
//!
//! Each connection is one task that owns the socket (`connection.rs`); the table (`table.rs`) knows its queue.
//! Nothing here waits for a peer.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tracing::{debug, warn};

use super::connection::Connection;
use super::gate::{Counters, Inbound};
use super::table::{Entered, Offer, Outgoing, Table};
use super::tasks::Tasks;
use super::tls::Tls;
use super::{Destination, Flow, Protocol, SendFault, TransportLimits, local_address_towards};
use crate::clock;

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: i32 = 1024;
/// One warning of a kind in this time.
const WARNING_PAUSE: Duration = Duration::from_secs(60);
/// Rest after a failed accept: without a free descriptor the next one fails as well.
const REST: Duration = Duration::from_millis(100);

/// One bound listener.
pub(super) struct Listener {
    socket: TcpListener,
    pub(super) local: SocketAddr,
}

impl Listener {
    /// # Errors
    /// The system's, above all an address in use.
    pub(super) fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        // Unlike on UDP this only lets a restarted service ignore the TIME_WAIT of its old connections.
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        let socket = TcpListener::from_std(socket.into())?;
        let local = socket.local_addr()?;
        Ok(Self { socket, local })
    }
}

/// Accepts until `stop` changes.
pub(super) async fn accept(listener: Listener, tcp: Arc<Tcp>, mut stop: watch::Receiver<bool>) {
    loop {
        let accepted = tokio::select! {
            _ = stop.changed() => return,
            accepted = listener.socket.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => tcp.accepted(stream, peer, listener.local),
            Err(error) => {
                warn!(local = %listener.local, %error, "cannot accept a connection");
                clock::sleep(REST).await;
            }
        }
    }
}

/// All TCP connections of the service, or all TLS connections.
pub(super) struct Tcp {
    /// Which of the two.
    protocol: Protocol,
    /// On TLS only.
    pub(super) tls: Option<Arc<Tls>>,
    pub(super) limits: TransportLimits,
    pub(super) inbound: Arc<dyn Inbound>,
    pub(super) counters: Arc<Counters>,
    /// True, or its sender gone, when everything is to end.
    pub(super) stop: watch::Receiver<bool>,
    /// Warnings of handshakes that have failed.
    pub(super) untrusted: Warnings,
    tasks: Arc<Tasks>,
    listeners: Vec<SocketAddr>,
    table: Mutex<Table>,
}

/// When the last one of a kind was written.
#[derive(Default)]
pub(super) struct Warnings(Mutex<Option<Instant>>);

impl Warnings {
    /// Whether one may be written now.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let due = last.is_none_or(|last| now.duration_since(last) >= WARNING_PAUSE);
        if due {
            *last = Some(now);
        }
        due
    }
}

impl Tcp {
    pub(super) fn new(
        tls: Option<Arc<Tls>>,
        limits: TransportLimits,
        listeners: &[Listener],
        inbound: Arc<dyn Inbound>,
        counters: Arc<Counters>,
        tasks: Arc<Tasks>,
        stop: watch::Receiver<bool>,
    ) -> Self {
        let listeners = listeners.iter().map(|listener| listener.local).collect();
        let protocol = if tls.is_some() { Protocol::Tls } else { Protocol::Tcp };
        let table = Mutex::new(Table::new(protocol));
        Self {
            protocol,
            tls,
            limits,
            inbound,
            counters,
            stop,
            untrusted: Warnings::default(),
            tasks,
            listeners,
            table,
        }
    }

    pub(super) fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection has come in: the access list and the limits first, then a task of its own.
    fn accepted(self: &Arc<Self>, stream: TcpStream, peer: SocketAddr, local: SocketAddr) {
        let entered = if self.inbound.admits(peer.ip()) {
            self.table().enter_incoming(peer, &self.limits).ok_or(&self.counters.tcp_refused)
        } else {
            Err(&self.counters.refused_source)
        };
        match entered {
            Ok((id, queue)) => {
                let flow = Flow { protocol: self.protocol, local, peer, connection: Some(id) };
                self.tasks.spawn(Connection::new(self, id, flow, queue).accept(stream));
            }
            Err(counter) => {
                counter.increment(1);
                debug!(%peer, "connection refused");
                // A reset instead of a farewell leaves no TIME_WAIT state for a flood to fill the kernel with.
                let _ = stream.set_zero_linger();
            }
        }
    }

    /// Queues a message; opens a connection when there is none.
    pub(super) fn send(self: &Arc<Self>, wire: Bytes, to: &Destination) {
        match self.offer(Outgoing { wire, token: to.token.clone().map(Box::new) }, to) {
            Ok(None) => {}
            Ok(Some((id, queue))) => {
                let local = self.local_for(to);
                let flow = Flow { protocol: self.protocol, local, peer: to.address, connection: Some(id) };
                self.tasks.spawn(Connection::new(self, id, flow, queue).open(to.name.clone()));
            }
            Err(message) => {
                debug!(peer = %to.address, "no room to send");
                self.inbound.send_failed(message.token.map(|token| *token), SendFault::NotSent);
            }
        }
    }

    /// The message is queued in an open connection (`None`) or in that which the caller must open now, or it
    /// comes back. The table's lock covers the whole decision, so that two messages open one connection.
    fn offer(&self, message: Outgoing, to: &Destination) -> Result<Option<Entered>, Outgoing> {
        let mut table = self.table();
        let message = match table.offer(message, to) {
            Offer::Queued => return Ok(None),
            Offer::Full(message) => {
                self.counters.send_dropped.increment(1);
                return Err(message);
            }
            Offer::NoConnection(message) => message,
        };
        if *self.stop.borrow() || self.stop.has_changed().is_err() {
            return Err(message);
        }
        let Some((id, queue)) = table.enter_outgoing(to.address, to.name.clone(), &self.limits) else {
            self.counters.tcp_refused.increment(1);
            return Err(message);
        };
        match table.offer(message, &Destination { connection: Some(id), ..to.clone() }) {
            Offer::Queued => Ok(Some((id, queue))),
            Offer::Full(message) | Offer::NoConnection(message) => {
                table.remove(id);
                Err(message)
            }
        }
    }

    /// The listener that answers for a connection of ours: that of the flow, else the one on the way to the
    /// peer, else any of the family, else (nothing listens on TCP) the unspecified address.
    fn local_for(&self, to: &Destination) -> SocketAddr {
        let of_family = || self.listeners.iter().filter(|local| local.is_ipv4() == to.address.is_ipv4());
        if let Some(of_flow) = of_family().find(|local| Some(**local) == to.local) {
            return *of_flow;
        }
        if of_family().nth(1).is_some()
            && let Ok(ours) = local_address_towards(to.address)
            && let Some(on_the_way) = of_family().find(|local| local.ip() == ours)
        {
            return *on_the_way;
        }
        of_family().next().copied().unwrap_or_else(|| match to.address {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        })
    }
}

//! SIP over UDP (RFC 3261 §18): one datagram, one message.
//!
//! A message is taken when it comes, until so many come that being woken for each costs more than the messages
//! do: from then on the socket is read every [`TICK`], and what came meanwhile is taken and answered in one go.
//!
//! It never answers a keep-alive (RFC 5626 §4.4.1 gives line ends a meaning on streams only) and never repeats
//! a datagram: that is the transaction's.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use tokio::io::Interest;
use tokio::sync::watch;
use tracing::{debug, info};

use super::gate::{Counters, Inbound};
use super::{Destination, Flow, Protocol, SendFault, local_address_towards, wildcard};
use crate::clock;

/// Larger than any datagram, so that none is cut.
const LARGEST_DATAGRAM: usize = 65_536;
/// Datagrams taken in one go before other tasks get their turn.
const BATCH: u32 = 64;
/// How long a message may wait for company while many come.
const TICK: Duration = Duration::from_millis(5);
/// Over which time messages are counted.
const WINDOW: Duration = Duration::from_millis(100);
/// So many messages in [`WINDOW`] are many, and so few are few again.
const MANY: u32 = 20;
const FEW: u32 = 10;
/// Rest after an error of the system while receiving, so that one that stays does not spin.
const REST: Duration = Duration::from_millis(10);

/// One bound socket.
pub(super) struct Listener {
    socket: UdpSocket,
    pub(super) local: SocketAddr,
}

impl Listener {
    /// Binds `address` and asks for kernel buffers of `buffer` bytes.
    ///
    /// # Errors
    /// The system's, above all an address in use: SO_REUSEADDR is not set, because on UDP it would let two
    /// programs share the port and each lose half of the messages.
    pub(super) fn bind(address: SocketAddr, buffer: usize) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None)?;
        socket.set_nonblocking(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?; // Or udp://0.0.0.0 and udp://[::] could not stand side by side.
        }
        if address.ip().is_unspecified() {
            wildcard::enable(&socket, address.is_ipv4())?;
        }
        socket.set_recv_buffer_size(buffer)?;
        socket.set_send_buffer_size(buffer)?;
        // Linux reports twice of what it grants (socket(7)).
        let granted = socket.recv_buffer_size()? / 2;
        if granted < buffer {
            info!(%address, granted, wanted = buffer, "small receive buffer; net.core.rmem_max is the limit");
        }
        socket.bind(&address.into())?;
        let socket = UdpSocket::from(socket);
        let local = socket.local_addr()?;
        Ok(Self { socket, local })
    }

    /// Has the runtime watch the socket. Without that it is read every [`TICK`], which also works.
    fn watch(&self) -> Option<tokio::net::UdpSocket> {
        let watched = self.socket.try_clone().and_then(tokio::net::UdpSocket::from_std);
        watched.inspect_err(|error| debug!(local = %self.local, %error, "the socket cannot be watched")).ok()
    }

    fn is_wildcard(&self) -> bool {
        self.local.ip().is_unspecified()
    }

    /// One datagram: its length, who sent it, and to which address of ours.
    fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr, SocketAddr)> {
        if !self.is_wildcard() {
            let (length, peer) = self.socket.recv_from(buffer)?;
            return Ok((length, peer, self.local));
        }
        let (length, peer, called) = wildcard::receive(&self.socket, buffer)?;
        Ok((length, peer, SocketAddr::new(called.unwrap_or(self.local.ip()), self.local.port())))
    }

    /// Sends from `from`, where that is a choice.
    fn send(&self, wire: &[u8], from: Option<IpAddr>, to: SocketAddr) -> io::Result<usize> {
        match from.filter(|from| self.is_wildcard() && !from.is_unspecified()) {
            None => self.socket.send_to(wire, to),
            Some(from) => wildcard::send(&self.socket, wire, from, to),
        }
    }

    /// A flow's own address is this socket's.
    fn has(&self, local: SocketAddr) -> bool {
        self.local == local || (self.is_wildcard() && self.local.port() == local.port())
    }
}

/// How many messages come.
struct Traffic {
    since: Instant,
    messages: u32,
    many: bool,
}

impl Traffic {
    fn new(now: Instant) -> Self {
        Self { since: now, messages: 0, many: false }
    }

    /// Counts, and says whether they are many.
    fn are_many(&mut self, messages: u32, now: Instant) -> bool {
        self.messages = self.messages.saturating_add(messages);
        let elapsed = now.saturating_duration_since(self.since);
        if elapsed >= WINDOW {
            let bound = if self.many { FEW } else { MANY };
            // A window ends with the first messages after it, so it may have lasted long.
            self.many =
                u128::from(self.messages) * WINDOW.as_micros() >= u128::from(bound) * elapsed.as_micros();
            (self.since, self.messages) = (now, 0);
        }
        self.many
    }
}

/// Receives until `stop` changes.
pub(super) async fn receive(
    listener: Arc<Listener>,
    inbound: Arc<dyn Inbound>,
    mut stop: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; LARGEST_DATAGRAM];
    let mut traffic = Traffic::new(clock::now());
    let mut watched = listener.watch();
    let mut taken = 0;
    loop {
        tokio::select! {
            _ = stop.changed() => return,
            () = next(watched.as_ref(), taken) => {}
        }
        taken = 0;
        while taken < BATCH {
            let received = match &watched {
                // So that the runtime learns that there is no more.
                Some(socket) => socket.try_io(Interest::READABLE, || listener.receive(&mut buffer)),
                None => listener.receive(&mut buffer),
            };
            match received {
                Ok((length, peer, local)) => {
                    taken += 1;
                    let wire = buffer.get(..length).unwrap_or_default();
                    let flow = Flow { protocol: Protocol::Udp, local, peer, connection: None };
                    inbound.receive(wire, flow);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    debug!(local = %listener.local, %error, "receiving failed");
                    clock::sleep(REST).await;
                    break;
                }
            }
        }
        if traffic.are_many(taken, clock::now()) {
            // The runtime would be woken by each datagram, asked or not.
            watched = None;
        } else if watched.is_none() {
            watched = listener.watch();
        }
    }
}

/// Waits until there may be something to read, after so many messages in the last go.
async fn next(watched: Option<&tokio::net::UdpSocket>, taken: u32) {
    match watched {
        // An error is met again, and handled, by whoever reads.
        Some(socket) => drop(socket.readable().await),
        None if taken == BATCH => tokio::task::yield_now().await,
        None => clock::sleep(TICK).await,
    }
}

/// The sending side of all UDP sockets.
pub(super) struct Udp {
    /// Emptied at shutdown, which frees the ports although clones of [`super::Transports`] may live on.
    listeners: RwLock<Vec<Arc<Listener>>>,
    inbound: Arc<dyn Inbound>,
    counters: Arc<Counters>,
}

impl Udp {
    pub(super) fn new(
        listeners: Vec<Arc<Listener>>,
        inbound: Arc<dyn Inbound>,
        counters: Arc<Counters>,
    ) -> Self {
        Self { listeners: RwLock::new(listeners), inbound, counters }
    }

    /// Sends one datagram, or drops it: the kernel's buffer being full is a loss like any other on the way,
    /// which transactions repeat. What cannot work at all (too long, no route, refused by the firewall) fails.
    pub(super) fn send(&self, wire: &[u8], to: &Destination) {
        let Some(listener) = self.listener_for(to) else {
            debug!(peer = %to.address, "no UDP socket of that address family");
            return self.inbound.send_failed(to.token.clone(), SendFault::NotSent);
        };
        match listener.send(wire, to.local.map(|local| local.ip()), to.address) {
            Ok(_) => self.counters.sent(Protocol::Udp).increment(1),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.counters.send_dropped.increment(1)
            }
            Err(error) => {
                debug!(peer = %to.address, length = wire.len(), %error, "sending failed");
                self.inbound.send_failed(to.token.clone(), SendFault::NotSent);
            }
        }
    }

    pub(super) fn close(&self) {
        self.listeners.write().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The socket of the flow if there is one, else the one on the way to the peer, else any of its family.
    fn listener_for(&self, to: &Destination) -> Option<Arc<Listener>> {
        let listeners = self.listeners.read().unwrap_or_else(PoisonError::into_inner);
        let mut usable = listeners.iter().filter(|listener| listener.local.is_ipv4() == to.address.is_ipv4());
        if let Some(of_flow) =
            usable.clone().find(|listener| to.local.is_some_and(|local| listener.has(local)))
        {
            return Some(Arc::clone(of_flow));
        }
        if usable.clone().nth(1).is_some()
            && let Ok(ours) = local_address_towards(to.address)
            && let Some(on_the_way) = usable.clone().find(|listener| listener.local.ip() == ours)
        {
            return Some(Arc::clone(on_the_way));
        }
        usable.next().map(Arc::clone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_many_from_200_a_second_on_and_few_again_under_100() {
        let start = clock::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut traffic = Traffic::new(start);
        assert!(!traffic.are_many(19, at(50)));
        assert!(!traffic.are_many(0, at(100)), "19 in 100 ms");
        assert!(!traffic.are_many(30, at(190)), "the window goes on");
        assert!(traffic.are_many(1, at(200)), "31 in 100 ms");
        assert!(traffic.are_many(10, at(300)), "10 are enough to stay");
        assert!(!traffic.are_many(9, at(400)));
        assert!(!traffic.are_many(64, at(10_000)), "a burst after a long rest is no traffic");
    }
}

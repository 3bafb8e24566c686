//! Which TCP or TLS connections there are, how many a source may have, and which one a message takes.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::{ConnectionId, Destination, Protocol, SendToken, TransportLimits};

/// Connections whose peer has closed its side, in all. They wait for nothing but late responses, so one too
/// many is simply closed.
const HALF_CLOSED: usize = 256;

/// A message on its way into a connection.
pub(super) struct Outgoing {
    pub(super) wire: Bytes,
    pub(super) token: Option<Box<SendToken>>,
}

/// A connection, and the end of its queue that it reads.
pub(super) type Entered = (ConnectionId, mpsc::Receiver<Outgoing>);

/// What became of a message that was offered to the open connections.
pub(super) enum Offer {
    Queued,
    Full(Outgoing),
    NoConnection(Outgoing),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Incoming,
    Outgoing,
    /// The peer has closed its side. It will not read a new request, let alone answer it.
    HalfClosed,
}

/// An address, and on TLS what the peer had to prove to be: two carriers may share an address, and who proved to
/// be the one is not the other (RFC 5923 §4).
type Target = (SocketAddr, Option<Arc<str>>);

struct Entry {
    peer: SocketAddr,
    queue: mpsc::Sender<Outgoing>,
    kind: Kind,
    /// What a TLS peer had to prove to be.
    name: Option<Arc<str>>,
}

/// Locked for a few map operations, never over an await.
pub(super) struct Table {
    /// Of all connections in it.
    protocol: Protocol,
    last_number: u64,
    entries: HashMap<ConnectionId, Entry>,
    /// The connection to use for a new message to an address.
    by_address: HashMap<Target, ConnectionId>,
    /// Incoming connections of each source; no zeros.
    incoming_by_source: HashMap<IpAddr, usize>,
    incoming: usize,
    outgoing: usize,
    half_closed: usize,
}

impl Table {
    /// Without any connection.
    pub(super) fn new(protocol: Protocol) -> Self {
        Self {
            protocol,
            last_number: 0,
            entries: HashMap::new(),
            by_address: HashMap::new(),
            incoming_by_source: HashMap::new(),
            incoming: 0,
            outgoing: 0,
            half_closed: 0,
        }
    }

    /// Enters an accepted connection; `None` when its source or all together have too many.
    pub(super) fn enter_incoming(&mut self, peer: SocketAddr, limits: &TransportLimits) -> Option<Entered> {
        let of_source = self.incoming_by_source.get(&peer.ip()).copied().unwrap_or_default();
        if self.incoming >= limits.connections || of_source >= limits.connections_per_source {
            return None;
        }
        Some(self.enter(peer, None, Kind::Incoming, limits))
    }

    /// Enters a connection that is about to be opened; `None` when there are too many.
    pub(super) fn enter_outgoing(
        &mut self,
        peer: SocketAddr,
        name: Option<Arc<str>>,
        limits: &TransportLimits,
    ) -> Option<Entered> {
        (self.outgoing < limits.connections).then(|| self.enter(peer, name, Kind::Outgoing, limits))
    }

    fn enter(
        &mut self,
        peer: SocketAddr,
        name: Option<Arc<str>>,
        kind: Kind,
        limits: &TransportLimits,
    ) -> Entered {
        let (queue, receiver) = mpsc::channel(limits.queue.max(1));
        self.last_number += 1;
        let id = ConnectionId::new(self.protocol, self.last_number);
        self.entries.insert(id, Entry { peer, queue, kind, name: name.clone() });
        self.by_address.insert((peer, name), id);
        self.count(kind, peer.ip());
        (id, receiver)
    }

    /// The peer of this connection has closed its side: from now on it is good for responses only, and its
    /// place among the others is free. False when too many linger like this already.
    pub(super) fn half_close(&mut self, id: ConnectionId) -> bool {
        self.forget_address(id);
        let Some(entry) = self.entries.get_mut(&id) else { return false };
        if self.half_closed >= HALF_CLOSED {
            return false;
        }
        let (was, source) = (entry.kind, entry.peer.ip());
        entry.kind = Kind::HalfClosed;
        self.discount(was, source);
        self.count(Kind::HalfClosed, source);
        true
    }

    pub(super) fn remove(&mut self, id: ConnectionId) {
        self.forget_address(id);
        if let Some(entry) = self.entries.remove(&id) {
            self.discount(entry.kind, entry.peer.ip());
        }
    }

    fn forget_address(&mut self, id: ConnectionId) {
        if let Some(entry) = self.entries.get(&id)
            && let Slot::Occupied(slot) = self.by_address.entry((entry.peer, entry.name.clone()))
            && *slot.get() == id
        {
            slot.remove();
        }
    }

    fn count(&mut self, kind: Kind, source: IpAddr) {
        match kind {
            Kind::Outgoing => self.outgoing += 1,
            Kind::HalfClosed => self.half_closed += 1,
            Kind::Incoming => {
                self.incoming += 1;
                *self.incoming_by_source.entry(source).or_default() += 1;
            }
        }
    }

    fn discount(&mut self, kind: Kind, source: IpAddr) {
        match kind {
            Kind::Outgoing => self.outgoing -= 1,
            Kind::HalfClosed => self.half_closed -= 1,
            Kind::Incoming => {
                self.incoming -= 1;
                if let Slot::Occupied(mut slot) = self.incoming_by_source.entry(source) {
                    *slot.get_mut() -= 1;
                    if *slot.get() == 0 {
                        slot.remove();
                    }
                }
            }
        }
    }

    /// Queues a message in the named connection, else in one to the same address.
    pub(super) fn offer(&self, mut message: Outgoing, to: &Destination) -> Offer {
        let same_address = self.by_address.get(&(to.address, to.name.clone())).copied();
        for id in [to.connection, same_address].into_iter().flatten() {
            let Some(entry) = self.entries.get(&id) else { continue };
            if message.token.is_some() && entry.kind == Kind::HalfClosed {
                continue;
            }
            match entry.queue.try_send(message) {
                Ok(()) => return Offer::Queued,
                Err(mpsc::error::TrySendError::Full(returned)) => return Offer::Full(returned),
                Err(mpsc::error::TrySendError::Closed(returned)) => message = returned,
            }
        }
        Offer::NoConnection(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(source: u8, port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, source], port))
    }

    fn message() -> Outgoing {
        Outgoing { wire: Bytes::new(), token: None }
    }

    #[test]
    fn a_source_and_all_sources_have_a_limit_and_places_are_given_back() {
        let limits =
            TransportLimits { connections_per_source: 2, connections: 3, ..TransportLimits::default() };
        let mut table = Table::new(Protocol::Tcp);
        let (first, _queue) = table.enter_incoming(address(1, 1), &limits).unwrap();
        let (second, _queue) = table.enter_incoming(address(1, 2), &limits).unwrap();
        assert!(table.enter_incoming(address(1, 3), &limits).is_none(), "two of one source");
        assert!(table.enter_incoming(address(2, 1), &limits).is_some());
        assert!(table.enter_incoming(address(3, 1), &limits).is_none(), "three in all");
        assert!(table.enter_outgoing(address(3, 1), None, &limits).is_some(), "our own are counted apart");
        table.remove(first);
        assert!(table.enter_incoming(address(1, 4), &limits).is_some());
        assert!(table.half_close(second));
        assert!(table.enter_incoming(address(1, 5), &limits).is_some(), "a half-closed one needs no place");
        table.remove(second);
        table.remove(second);
        assert_eq!((table.incoming, table.outgoing, table.half_closed), (3, 1, 0));
    }

    /// The first connection of each kind has the same number, and is not the same.
    #[test]
    fn a_connection_of_another_protocol_takes_nothing() {
        let limits = TransportLimits::default();
        let (mut tcp, mut tls) = (Table::new(Protocol::Tcp), Table::new(Protocol::Tls));
        let (of_carrier, _queue) = tcp.enter_incoming(address(1, 40_000), &limits).unwrap();
        let (_, mut of_stranger) = tls.enter_incoming(address(2, 40_000), &limits).unwrap();
        let by_tls = Destination::new(Protocol::Tls, address(1, 5061));
        let to = Destination { connection: Some(of_carrier), ..by_tls };
        assert!(matches!(tls.offer(message(), &to), Offer::NoConnection(_)));
        assert!(of_stranger.try_recv().is_err());
    }

    #[test]
    fn half_closed_connections_are_bounded() {
        let limits = TransportLimits::default();
        let mut table = Table::new(Protocol::Tcp);
        for port in 0..=HALF_CLOSED {
            let (id, _queue) = table.enter_outgoing(address(1, port as u16), None, &limits).unwrap();
            assert_eq!(table.half_close(id), port < HALF_CLOSED);
        }
    }

    #[test]
    fn the_named_connection_comes_before_one_to_the_same_address() {
        let limits = TransportLimits { queue: 1, ..TransportLimits::default() };
        let mut table = Table::new(Protocol::Tcp);
        let (incoming, mut in_queue) = table.enter_incoming(address(1, 40_000), &limits).unwrap();
        let (_, mut out_queue) = table.enter_outgoing(address(1, 5060), None, &limits).unwrap();
        let by_address = Destination::new(Protocol::Tcp, address(1, 5060));
        let by_id = Destination { connection: Some(incoming), ..by_address.clone() };
        assert!(matches!(table.offer(message(), &by_id), Offer::Queued));
        assert!(in_queue.try_recv().is_ok() && out_queue.try_recv().is_err());
        assert!(matches!(table.offer(message(), &by_address), Offer::Queued));
        assert!(
            matches!(table.offer(message(), &by_address), Offer::Full(_)),
            "a slow peer's queue is bounded"
        );
        assert!(out_queue.try_recv().is_ok());
        in_queue.close();
        assert!(matches!(table.offer(message(), &by_id), Offer::Queued), "the connection was ending");
        table.remove(incoming);
        let nowhere = Destination { connection: Some(incoming), address: address(9, 5060), ..by_id };
        assert!(matches!(table.offer(message(), &nowhere), Offer::NoConnection(_)));
    }
}

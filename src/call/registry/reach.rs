//! How a leg is reached, and what it shows of us: the gateways of a trunk, our listeners, sending.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tracing::debug;

use super::Shell;
use crate::call::identity::LegAddress;
use crate::call::machine::MAX_ATTEMPTS;
use crate::call::{Hop, Outlet, Place};
use crate::ids::IdSource;
use crate::sip::transport::{Destination, Protocol, local_address_towards};
use crate::trunk::registration::Way;
use crate::trunk::{Transport, Trunk, TrunkId, gateways};

/// Name look-ups of a URI that a peer or a number's configuration names.
const RESOLVE: Duration = Duration::from_secs(2);

impl Shell {
    /// What a leg towards `peer` shows of us; `None` when there is no route to it or no listener of that kind.
    pub(in crate::call) fn leg_address(
        &self,
        protocol: Protocol,
        peer: IpAddr,
        listener: Option<SocketAddr>,
        ids: &mut IdSource,
    ) -> Option<LegAddress> {
        let listener = match listener {
            Some(listener) => listener,
            None => self.listener(protocol, peer)?,
        };
        let local = if listener.ip().is_unspecified() {
            local_address_towards(SocketAddr::new(peer, 5060)).ok()?
        } else {
            listener.ip()
        }
        .to_canonical();
        Some(LegAddress {
            protocol,
            sip: SocketAddr::new(self.sip_public.unwrap_or(local), listener.port()),
            media: self.media_public.unwrap_or(local),
            bind: local,
            contact_user: ids.contact_user(),
            sips: false,
        })
    }

    fn listener(&self, protocol: Protocol, peer: IpAddr) -> Option<SocketAddr> {
        let listeners = self.transports.get()?.local_addresses();
        let of = |protocol| {
            let mut all = listeners.iter().filter(move |(kind, _)| *kind == protocol).map(|(_, at)| *at);
            let same_family = all.clone().find(|at| at.is_ipv4() == peer.to_canonical().is_ipv4());
            same_family.or_else(|| all.next())
        };
        // A leg by TCP may leave from a port of its own; its Via names a UDP listener's when there is no other.
        of(protocol).or_else(|| of(Protocol::Udp))
    }

    /// Sends by address at once, by name after a look-up in a task of its own.
    pub(in crate::call) fn send(self: &Arc<Self>, wire: Bytes, to: &Hop) {
        let destination = |address| Destination {
            protocol: to.protocol,
            address,
            connection: to.connection,
            local: to.local,
            name: to.name.clone().or_else(|| self.name_at(to.protocol, address)),
            token: to.token.clone(),
        };
        match &to.place {
            Place::Address(address) => self.send_to(wire, &destination(*address)),
            Place::Name(host, port) => {
                let (shell, host, port) = (Arc::clone(self), host.clone(), *port);
                let mut to = destination(SocketAddr::new(IpAddr::from([0, 0, 0, 0]), port));
                self.outlive(async move {
                    match shell.names.addresses(&host, RESOLVE).await {
                        Ok(found) => {
                            let Some(address) = found.first() else { return };
                            to.address = SocketAddr::new(*address, port);
                            shell.send_to(wire, &to);
                        }
                        // The peer's doing; its transaction ends by its own timers.
                        Err(error) => debug!(%error, "a message to a named host is not sent"),
                    }
                });
            }
        }
    }

    /// What a peer that is known by its address only must prove to be when a TLS connection is opened to it: the gateway
    /// that has the address (RFC 5922 §4). Whoever called in by TLS is reached like that once his own connection is gone.
    fn name_at(&self, protocol: Protocol, address: SocketAddr) -> Option<Arc<str>> {
        let is_tls = protocol == Protocol::Tls;
        is_tls.then(|| self.gateways.name_at(address, self.trunks.by_source(address.ip())))?
    }

    pub(in crate::call) fn send_to(&self, wire: Bytes, to: &Destination) {
        if let Some(transports) = self.transports.get() {
            transports.send(wire, to);
        }
    }

    /// The targets of a trunk's gateways, in order of failover.
    pub(super) async fn outlets(&self, trunk: &Arc<Trunk>, id: TrunkId) -> Vec<Outlet> {
        let ways = self.gateways.ways(id).await;
        let mut outlets = Vec::with_capacity(ways.len().min(MAX_ATTEMPTS.into()));
        for way in ways {
            if outlets.len() < MAX_ATTEMPTS.into() {
                outlets.extend(self.outlet(trunk, way));
            }
        }
        // The media is bound once, on the first one's address: one that is reached from another address of ours, or by
        // the other family, would be promised audio where there is none.
        let bound = outlets.first().map(|outlet: &Outlet| outlet.address.bind);
        outlets.retain(|outlet| Some(outlet.address.bind) == bound);
        outlets
    }

    fn outlet(&self, trunk: &Arc<Trunk>, way: gateways::Way) -> Option<Outlet> {
        let gateway = trunk.gateways.get(way.gateway)?;
        let (protocol, address) = (protocol_of(way.target.transport), way.target.address);
        let mut ids = IdSource::from_system();
        let literal =
            if gateway.host.contains(':') { format!("[{}]", gateway.host) } else { gateway.host.clone() };
        Some(Outlet {
            trunk: Arc::clone(trunk),
            hop: Hop {
                protocol,
                place: Place::Address(address),
                connection: None,
                local: None,
                // What DNS has chosen is chosen; only UDP by default may give way to TCP.
                pinned: gateway.transport.is_some() || protocol != Protocol::Udp,
                // RFC 5922 §7.1: what was configured, not what DNS led to; without a name it is the address.
                name: (gateway.ip().is_none() || protocol == Protocol::Tls)
                    .then(|| Arc::from(gateway.host.as_str())),
                token: None,
            },
            host: gateway.port.map_or(literal.clone(), |port| format!("{literal}:{port}")),
            address: self.leg_address(protocol, address.ip(), None, &mut ids)?,
            target: way.target,
            is_news: way.is_news,
        })
    }

    /// The gateway of that number, counted over all of the trunk's again and again: how it is reached, and what a
    /// Contact with this user is there.
    pub(in crate::call) async fn registrar(&self, id: TrunkId, number: usize) -> Option<(Hop, Way)> {
        let trunk = self.shared_trunks.get(id.index())?;
        let outlets = self.outlets(trunk, id).await;
        let Outlet { hop, host, mut address, .. } = outlets.get(number.checked_rem(outlets.len())?)?.clone();
        address.contact_user = trunk.registered_user();
        let way = Way {
            registrar: host,
            address: hop.address()?.ip(),
            transport: hop.protocol.via_name(),
            reliable: hop.protocol != Protocol::Udp,
            sent_by: address.sip.to_string(),
            contact: address.contact(),
        };
        Some((hop, way))
    }
}

/// The transport's own word for it.
#[must_use]
pub fn protocol_of(transport: Transport) -> Protocol {
    match transport {
        Transport::Udp => Protocol::Udp,
        Transport::Tcp => Protocol::Tcp,
        Transport::Tls => Protocol::Tls,
    }
}

//! What every received message passes, whatever socket it came from: access list, counters, parser, handler.
//!
//! The order is the point: nothing of a stranger's bytes is looked at before the access list has let the
//! source in.

use std::net::IpAddr;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;

use bytes::Bytes;
use metrics::{Counter, Gauge, counter, gauge};
use tracing::{debug, error};

use super::{Flow, Handler, Protocol, SendFault, SendToken};
use crate::sip::message::{Message, ParseError};

/// Handles of all counters of this module, made once: an increment is one atomic addition.
pub(super) struct Counters {
    received_udp: Counter,
    received_tcp: Counter,
    received_tls: Counter,
    sent_udp: Counter,
    sent_tcp: Counter,
    sent_tls: Counter,
    pub(super) refused_source: Counter,
    pub(super) ignored: Counter,
    pub(super) malformed: Counter,
    pub(super) send_failed: Counter,
    pub(super) send_dropped: Counter,
    pub(super) tcp_connections: Gauge,
    pub(super) tcp_refused: Counter,
    pub(super) tls_failed: Counter,
    pub(super) panics: Counter,
}

impl Counters {
    /// Asks the recorder of this moment, which must therefore be installed already.
    pub(super) fn new() -> Self {
        Self {
            received_udp: counter!("maskline_sip_received_total", "protocol" => "udp"),
            received_tcp: counter!("maskline_sip_received_total", "protocol" => "tcp"),
            received_tls: counter!("maskline_sip_received_total", "protocol" => "tls"),
            sent_udp: counter!("maskline_sip_sent_total", "protocol" => "udp"),
            sent_tcp: counter!("maskline_sip_sent_total", "protocol" => "tcp"),
            sent_tls: counter!("maskline_sip_sent_total", "protocol" => "tls"),
            refused_source: counter!("maskline_sip_refused_source_total"),
            ignored: counter!("maskline_sip_ignored_total"),
            malformed: counter!("maskline_sip_malformed_total"),
            send_failed: counter!("maskline_sip_send_failed_total"),
            send_dropped: counter!("maskline_sip_send_dropped_total"),
            tcp_connections: gauge!("maskline_sip_tcp_connections"),
            tcp_refused: counter!("maskline_sip_tcp_refused_total"),
            tls_failed: counter!("maskline_sip_tls_failed_total"),
            panics: counter!("maskline_sip_panics_total"),
        }
    }

    pub(super) fn received(&self, protocol: Protocol) -> &Counter {
        match protocol {
            Protocol::Udp => &self.received_udp,
            Protocol::Tcp => &self.received_tcp,
            Protocol::Tls => &self.received_tls,
        }
    }

    pub(super) fn sent(&self, protocol: Protocol) -> &Counter {
        match protocol {
            Protocol::Udp => &self.sent_udp,
            Protocol::Tcp => &self.sent_tcp,
            Protocol::Tls => &self.sent_tls,
        }
    }
}

/// The [`Handler`] as the sockets see it: without its type, so that they need not be generic.
pub(super) trait Inbound: Send + Sync {
    /// Whether `source` is on the access list.
    fn admits(&self, source: IpAddr) -> bool;
    /// Takes one framed message. The bytes are copied, and only if the access list lets the peer in: a call
    /// that keeps a slice of a message then holds that message alive and not a whole receive buffer.
    fn receive(&self, wire: &[u8], flow: Flow);
    /// Takes the beginning of a message whose end cannot be known, so that it can still be refused.
    fn receive_cut(&self, wire: &[u8], flow: Flow);
    /// Counts a message that could not be sent and tells whose it was.
    fn send_failed(&self, token: Option<SendToken>, why: SendFault);
}

pub(super) struct Gate<H> {
    pub(super) handler: Arc<H>,
    pub(super) counters: Arc<Counters>,
}

impl<H: Handler> Gate<H> {
    fn refuse(&self, error: ParseError, flow: Flow, peer: H::Peer) {
        self.counters.malformed.increment(1);
        debug!(peer = %flow.peer, %error, "malformed message");
        self.handler.on_malformed(error, flow, peer);
    }

    /// A bug that one message reaches must not end the task that listens for all others.
    fn guard(&self, flow: Flow, receive: impl FnOnce()) {
        if panic::catch_unwind(AssertUnwindSafe(receive)).is_err() {
            self.counters.panics.increment(1);
            error!(peer = %flow.peer, "a message was dropped because of a bug in this program");
        }
    }
}

impl<H: Handler> Inbound for Gate<H> {
    fn admits(&self, source: IpAddr) -> bool {
        self.handler.admit(source.to_canonical()).is_some()
    }

    fn receive(&self, wire: &[u8], flow: Flow) {
        let Some(peer) = self.handler.admit(flow.peer.ip().to_canonical()) else {
            return self.counters.refused_source.increment(1);
        };
        if is_noise(wire) {
            return self.counters.ignored.increment(1);
        }
        self.counters.received(flow.protocol).increment(1);
        self.guard(flow, || match Message::parse(Bytes::copy_from_slice(wire)) {
            Ok(message) => self.handler.on_message(message, flow, peer),
            Err(error) => self.refuse(error, flow, peer),
        });
    }

    fn receive_cut(&self, wire: &[u8], flow: Flow) {
        let Some(peer) = self.handler.admit(flow.peer.ip().to_canonical()) else {
            return self.counters.refused_source.increment(1);
        };
        self.guard(flow, || match Message::parse(Bytes::copy_from_slice(wire)) {
            Ok(_) => self.counters.malformed.increment(1), // Right by itself; its length was at fault.
            Err(error) => self.refuse(error, flow, peer),
        });
    }

    fn send_failed(&self, token: Option<SendToken>, why: SendFault) {
        self.counters.send_failed.increment(1);
        if let Some(token) = token {
            self.handler.on_send_failed(token, why);
        }
    }
}

/// What is on a SIP port and no SIP: keep-alives of line ends or zeros (RFC 5626 §3.5), STUN, scraps. The
/// shortest request and the shortest status line are longer; a start line begins with a letter or token mark.
fn is_noise(wire: &[u8]) -> bool {
    const SHORTEST: usize = 16;
    let start = wire.iter().find(|byte| !matches!(byte, b'\r' | b'\n'));
    wire.len() < SHORTEST || start.is_none_or(|byte| !byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_told_from_messages() {
        let stun = [0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
        for noise in
            [b"".as_slice(), b"\r\n\r\n", b"\0\0\0\0", b"jaK", &[b'\n'; 64], &[0; 64], &stun, &[0xff; 64]]
        {
            assert!(is_noise(noise), "{noise:?}");
        }
        for message in [
            "OPTIONS sip:a@b SIP/2.0\r\n\r\n",
            "\r\n\r\nSIP/2.0 200 OK\r\n\r\n",
            "!interesting sip:a SIP/2.0",
        ] {
            assert!(!is_noise(message.as_bytes()), "{message}");
        }
    }
}

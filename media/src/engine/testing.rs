//! What the engine's tests have in common.

use crate::{Codec, Direction, SourcePolicy, Stream};
use std::net::SocketAddr;

/// The number of a codec (RFC 3551 §6).
pub(super) fn number(codec: Codec) -> u8 {
    match codec {
        Codec::Pcmu => 0,
        Codec::Pcma => 8,
        Codec::G722 => 9,
    }
}

/// A plain stream in both directions, of one codec and without telephone-event; tests change what they are about.
pub(super) fn stream(codec: Codec, remote: SocketAddr, remote_rtcp: SocketAddr) -> Stream {
    Stream {
        remote,
        remote_rtcp,
        codec,
        send_payload_type: number(codec),
        receive: vec![(number(codec), codec)],
        telephone_event: None,
        ptime_ms: 20,
        max_packet_ms: None,
        rtcp_mux: false,
        direction: Direction::SendRecv,
        source: SourcePolicy::Exact,
        srtp: None,
    }
}

//! The engine: one OS thread per core that owns its calls' sockets.

use crate::{MediaCommand, MediaEvent, Side};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

/// `[media]`, checked.
#[derive(Debug, Clone)]
pub struct MediaLimits {
    /// First and last port for RTP; RTP takes even ports, RTCP the odd one above (RFC 3550 §11).
    pub ports: RangeInclusive<u16>,
    /// Both legs silent for so long ends a call; `None` never ends one.
    pub silence: Option<Duration>,
    /// How long a freed port should rest. The longest-rested port is taken first; none is refused for resting.
    pub port_rest: Duration,
    /// Number of media threads; one per core by default.
    pub workers: usize,
}

/// Why no media could be had for a call.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Every RTP port of the range is in use.
    #[error("no free RTP port in {first}–{last} (media.ports)")]
    NoFreePort {
        /// First port of the range.
        first: u16,
        /// Last port of the range.
        last: u16,
    },
    /// The system refused a socket.
    #[error("media socket on {address}: {source}")]
    Socket {
        /// The local address.
        address: IpAddr,
        /// The system's word.
        source: std::io::Error,
    },
}

/// The media plane. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Engine {}

/// One call's media; dropping it closes the media like [`MediaCommand::Close`].
#[derive(Debug)]
pub struct MediaHandle {}

impl Engine {
    /// Starts the media threads.
    ///
    /// # Errors
    /// What the system says when threads, epoll or event descriptors cannot be had.
    pub fn start(limits: MediaLimits) -> std::io::Result<Self> {
        let _ = limits;
        Ok(Self {})
    }

    /// Binds RTP and RTCP sockets for both legs on `a` and `b` (local addresses) and hands them to a worker.
    /// `events` is called from that worker (and from the recorder's thread) and must not block.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(
        &self,
        a: IpAddr,
        b: IpAddr,
        events: Box<dyn Fn(MediaEvent) + Send + Sync>,
    ) -> Result<MediaHandle, OpenError> {
        let _ = (a, b, events);
        Ok(MediaHandle {})
    }
}

impl MediaHandle {
    /// The local RTP port of a leg, even.
    #[must_use]
    pub fn port(&self, side: Side) -> u16 {
        let _ = side;
        0
    }

    /// Queues a command; never blocks.
    pub fn command(&self, command: MediaCommand) {
        let _ = (self, command);
    }
}

//! One TCP connection: a task that owns the socket, reads messages (RFC 3261 §18.3) and writes its queue.
//!
//! ```text
//! Open ── peer closes its side ──► HalfClosed ── 32 s, or a failed write ──► gone
//!   └──── bad framing, shutdown ─► Flushing ──── queue empty, or 1 s ──────► gone
//! ```
//!
//! It is gone at once when it is idle, when one message takes too long in either direction, or on an error.
//! Requests that were queued or half written then fail; nothing is sent twice.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Buf, Bytes, BytesMut};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time;
use tracing::debug;

use super::table::Outgoing;
use super::tcp::Tcp;
use super::{Flow, Protocol};
use crate::clock;
use crate::sip::wire::{Frame, Framer, Malformed};

/// Room for one read; most SIP messages are shorter.
const CHUNK: usize = 4096;
/// The answer to a keep-alive (RFC 5626 §4.4.1).
const PONG: Bytes = Bytes::from_static(b"\r\n");

/// A connection's place in the table, given back when its task ends in whatever way.
struct Registration {
    tcp: Arc<Tcp>,
    id: u64,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.tcp.table().remove(self.id);
        self.tcp.counters.tcp_connections.decrement(1);
    }
}

/// See the drawing above. `until` is when it ends in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    HalfClosed { until: Instant },
    Flushing { until: Instant },
}

/// Why a connection ended. Only for the log.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("closed by the peer")]
    Closed,
    #[error("closed by us")]
    Flushed,
    #[error("idle")]
    Idle,
    #[error("the peer took too long to send a message")]
    SlowToSend,
    #[error("the peer took too long to take a message")]
    SlowToTake,
    #[error("the peer took too long to accept")]
    SlowToAccept,
    #[error("{0}")]
    Failed(#[from] io::Error),
}

/// What is being written.
struct Writing {
    /// What is left of it.
    rest: Bytes,
    since: Instant,
    /// `None` is a keep-alive's answer, which nobody misses.
    message: Option<Outgoing>,
}

/// One connection, owned by its task.
pub(super) struct Connection {
    registration: Registration,
    flow: Flow,
    queue: mpsc::Receiver<Outgoing>,
    phase: Phase,
    /// Read and not yet a whole message. Dropped when empty, so that a quiet connection holds no memory.
    input: BytesMut,
    framer: Framer,
    /// Since when `input` has held the beginning of a message.
    input_since: Option<Instant>,
    /// Keep-alives to be answered.
    pings: usize,
    writing: Option<Writing>,
    last_activity: Instant,
}

impl Connection {
    /// For a connection that has just been entered into the table as `id`.
    pub(super) fn new(tcp: &Arc<Tcp>, id: u64, flow: Flow, queue: mpsc::Receiver<Outgoing>) -> Self {
        tcp.counters.tcp_connections.increment(1);
        Self {
            registration: Registration { tcp: Arc::clone(tcp), id },
            flow,
            queue,
            phase: Phase::Open,
            input: BytesMut::new(),
            framer: Framer::new(),
            input_since: None,
            pings: 0,
            writing: None,
            last_activity: clock::now(),
        }
    }

    /// Opens the connection, then serves it.
    pub(super) async fn open(self) {
        let mut stop = self.tcp().stop.clone();
        let opened = tokio::select! {
            _ = stop.changed() => Err(End::Flushed),
            opened = time::timeout(self.tcp().limits.connect, connect(self.flow)) => match opened {
                Ok(opened) => opened.map_err(End::from),
                Err(_) => Err(End::SlowToAccept),
            },
        };
        match opened {
            Ok(stream) => self.serve(stream).await,
            Err(end) => self.finish(&end),
        }
    }

    /// Moves bytes both ways until something ends the connection.
    pub(super) async fn serve(mut self, stream: TcpStream) {
        let _ = stream.set_nodelay(true); // Without it we are slower, not wrong.
        let mut stop = self.tcp().stop.clone();
        self.last_activity = clock::now();
        let end = loop {
            if let Err(end) = self.turn(&stream, &mut stop).await {
                break end;
            }
        };
        self.finish(&end);
    }

    /// Leaves the table first, so that new messages open a new connection; then fails what was not sent.
    fn finish(self, end: &End) {
        let Self { registration, flow, mut queue, writing, .. } = self;
        debug!(peer = %flow.peer, connection = registration.id, reason = %end, "connection ended");
        let inbound = Arc::clone(&registration.tcp.inbound);
        drop(registration);
        queue.close();
        let queued = std::iter::from_fn(|| queue.try_recv().ok());
        for lost in writing.and_then(|writing| writing.message).into_iter().chain(queued) {
            inbound.send_failed(lost.token.map(|token| *token));
        }
    }

    /// Waits for one thing and does it.
    async fn turn(&mut self, stream: &TcpStream, stop: &mut watch::Receiver<bool>) -> Result<(), End> {
        if self.writing.is_none() && self.pings > 0 {
            self.pings -= 1;
            self.writing = Some(Writing { rest: PONG, since: clock::now(), message: None });
        }
        let reading = self.phase == Phase::Open;
        let flushing = matches!(self.phase, Phase::Flushing { .. });
        let deadline = Some(self.deadline());
        tokio::select! {
            ready = stream.readable(), if reading => {
                ready?;
                self.read(stream)
            }
            ready = stream.writable(), if self.writing.is_some() => {
                ready?;
                self.write(stream)
            }
            next = self.queue.recv(), if self.writing.is_none() => {
                // Nothing comes after the queue was closed and has run empty.
                let message = next.ok_or(End::Flushed)?;
                self.writing =
                    Some(Writing { rest: message.wire.clone(), since: clock::now(), message: Some(message) });
                Ok(())
            }
            () = clock::sleep_until(deadline) => self.expire(clock::now()),
            _ = stop.changed(), if !flushing => {
                self.flush();
                Ok(())
            }
        }
    }

    /// When [`Self::expire`] has something to end.
    fn deadline(&self) -> Instant {
        let limits = &self.tcp().limits;
        let phase = match self.phase {
            Phase::Open => self.last_activity + limits.idle,
            Phase::HalfClosed { until } | Phase::Flushing { until } => until,
        };
        let reading = self.input_since.filter(|_| self.phase == Phase::Open);
        let writing = self.writing.as_ref().map(|writing| writing.since);
        let message = reading.into_iter().chain(writing).min().map(|since| since + limits.message_time);
        message.map_or(phase, |message| message.min(phase))
    }

    fn expire(&mut self, now: Instant) -> Result<(), End> {
        let limits = &self.tcp().limits;
        let late = |since: Instant| since + limits.message_time <= now;
        if self.writing.as_ref().is_some_and(|writing| late(writing.since)) {
            return Err(End::SlowToTake);
        }
        match self.phase {
            Phase::Open if self.input_since.is_some_and(late) => {
                self.tcp().counters.malformed.increment(1);
                Err(End::SlowToSend)
            }
            Phase::Open if self.last_activity + limits.idle <= now => Err(End::Idle),
            Phase::HalfClosed { until } if until <= now => Err(End::Closed),
            Phase::Flushing { until } if until <= now => Err(End::Flushed),
            _ => Ok(()), // Woken early: the deadline moved meanwhile.
        }
    }

    fn read(&mut self, stream: &TcpStream) -> Result<(), End> {
        self.input.reserve(CHUNK);
        match stream.try_read_buf(&mut self.input) {
            Ok(0) => self.half_close(),
            Ok(_) => {
                self.last_activity = clock::now();
                self.take_messages();
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => {
                self.count_cut_message();
                Err(error.into())
            }
        }
    }

    /// Takes everything off `input` that is complete.
    fn take_messages(&mut self) {
        let limit = self.tcp().limits.message_bytes;
        let bad = loop {
            match self.framer.frame(&self.input) {
                Frame::KeepAlive { length, ping } if (1..=self.input.len()).contains(&length) => {
                    self.input.advance(length);
                    self.pings = self.pings.saturating_add(usize::from(ping));
                    self.tcp().counters.ignored.increment(1);
                }
                Frame::Message { length } if length > limit => break Some(Malformed::TooLarge),
                Frame::Message { length } => {
                    let Some(message) = self.input.get(..length).filter(|message| !message.is_empty()) else {
                        break None;
                    };
                    self.tcp().inbound.receive(message, self.flow);
                    self.input.advance(length);
                    self.input_since = None;
                }
                Frame::Incomplete if self.input.len() > limit => break Some(Malformed::TooLarge),
                Frame::KeepAlive { .. } | Frame::Incomplete => break None,
                Frame::Bad(reason) => break Some(reason),
            }
        };
        if let Some(reason) = bad {
            // Where the next message begins is unknown, so nothing more can be read.
            debug!(peer = %self.flow.peer, %reason, "malformed stream");
            self.tcp().inbound.receive_cut(&self.input, self.flow);
            self.input.clear();
            self.flush();
        }
        if self.input.is_empty() {
            self.input = BytesMut::new();
        }
        if !self.holds_cut_message() {
            self.input_since = None;
        } else if self.input_since.is_none() {
            self.input_since = Some(self.last_activity);
        }
    }

    /// Whether `input` is more than line ends, which may precede a message (RFC 3261 §7.5).
    fn holds_cut_message(&self) -> bool {
        !self.input.iter().all(|byte| matches!(byte, b'\r' | b'\n'))
    }

    fn count_cut_message(&self) {
        if self.holds_cut_message() {
            self.tcp().counters.malformed.increment(1);
        }
    }

    fn write(&mut self, stream: &TcpStream) -> Result<(), End> {
        let Some(writing) = &mut self.writing else { return Ok(()) };
        match stream.try_write(&writing.rest) {
            Ok(written) => {
                writing.rest.advance(written.min(writing.rest.len()));
                self.last_activity = clock::now();
                if writing.rest.is_empty()
                    && let Some(Writing { message: Some(_), .. }) = self.writing.take()
                {
                    self.tcp().counters.sent(Protocol::Tcp).increment(1);
                }
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The peer will send no more. It may still read our responses.
    fn half_close(&mut self) -> Result<(), End> {
        self.count_cut_message();
        (self.input, self.input_since) = (BytesMut::new(), None);
        if !self.tcp().table().half_close(self.registration.id) {
            return Err(End::Closed);
        }
        self.phase = Phase::HalfClosed { until: clock::now() + self.tcp().limits.half_closed };
        Ok(())
    }

    /// Reads no more and takes nothing new; what is queued still goes out.
    fn flush(&mut self) {
        self.queue.close();
        self.phase = Phase::Flushing { until: clock::now() + self.tcp().limits.flush };
    }

    fn tcp(&self) -> &Tcp {
        &self.registration.tcp
    }
}

/// Opens a connection, from the address of our listener if that is a definite one: a carrier knows us by it.
async fn connect(flow: Flow) -> io::Result<TcpStream> {
    let socket = if flow.peer.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    if !flow.local.ip().is_unspecified() {
        socket.bind(SocketAddr::new(flow.local.ip(), 0))?;
    }
    socket.connect(flow.peer).await
}

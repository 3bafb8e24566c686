//! One TCP or TLS connection: a task that owns the socket, reads messages (RFC 3261 §18.3) and writes its queue.
//!
//! ```text
//! Open ── peer closes its side ──► HalfClosed ── 32 s, or a failed write ──► gone
//!   └──── bad framing, shutdown ─► Flushing ──── queue empty, or 1 s ──────► gone
//! ```
//!
//! It is gone at once when it is idle, when it came in and brings no message, when one message takes too long in
//! either direction, or on an error.
//! Requests that were queued or half written then fail; nothing is sent twice.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time;
use tracing::{debug, warn};

use super::table::Outgoing;
use super::tcp::Tcp;
use super::{ConnectionId, Flow, SendFault, tls};
use crate::clock;
use crate::sip::wire::{Frame, Framer, Malformed};

/// Room for one read; most SIP messages are shorter.
const CHUNK: usize = 4096;
/// The answer to a keep-alive (RFC 5626 §4.4.1).
const PONG: Bytes = Bytes::from_static(b"\r\n");
/// How long the end of a TLS stream may take to be told.
const FAREWELL: Duration = Duration::from_millis(200);

/// A connection's place in the table, given back when its task ends in whatever way.
struct Registration {
    tcp: Arc<Tcp>,
    id: ConnectionId,
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
    #[error("the peer never sent a message")]
    Silent,
    #[error("the peer took too long to send a message")]
    SlowToSend,
    #[error("the peer took too long to take a message")]
    SlowToTake,
    #[error("the peer took too long to accept")]
    SlowToAccept,
    #[error("the name that it must prove is none that a certificate can have")]
    Unnameable,
    #[error("TLS: {0}")]
    NotTrusted(io::Error),
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
    /// Read and not yet a whole message.
    input: BytesMut,
    framer: Framer,
    /// Since when `input` has held the beginning of a message.
    input_since: Option<Instant>,
    /// Keep-alives to be answered.
    pings: usize,
    writing: Option<Writing>,
    last_activity: Instant,
    /// Until when the peer must have said something whole; `None` once it has, and when we called it.
    silent_until: Option<Instant>,
}

impl Connection {
    /// For a connection that has just been entered into the table as `id`.
    pub(super) fn new(tcp: &Arc<Tcp>, id: ConnectionId, flow: Flow, queue: mpsc::Receiver<Outgoing>) -> Self {
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
            silent_until: None,
        }
    }

    /// Opens the connection, then serves it. `name` is what a TLS peer must prove to be.
    pub(super) async fn open(self, name: Option<Arc<str>>) {
        let opened = self.within(self.tcp().limits.connect, connect(self.flow)).await;
        match opened {
            Ok(stream) => self.secure_and_serve(stream, name).await,
            Err(end) => self.finish(&end),
        }
    }

    /// Serves a connection that was opened by us.
    async fn secure_and_serve(self, stream: TcpStream, name: Option<Arc<str>>) {
        let Some(certificates) = self.tcp().tls.clone() else { return self.serve(stream).await };
        let Some(expected) = tls::expected(name.as_deref(), self.flow.peer.ip()) else {
            return self.finish(&End::Unnameable);
        };
        let handshake = certificates.connector().connect(expected, stream);
        match self.within(self.tcp().limits.connect, handshake).await {
            Ok(stream) => self.serve(stream).await,
            Err(end) => {
                self.tcp().counters.tls_failed.increment(1);
                let end = match end {
                    End::Failed(error) => End::NotTrusted(error),
                    end => end,
                };
                let name = name.as_deref().unwrap_or("its address");
                // The operator must learn the reason, and a peer that is called by every call must not fill the log.
                if self.tcp().untrusted.is_due(clock::now()) {
                    warn!(peer = %self.flow.peer, must_prove = name, reason = %end, "no connection by TLS");
                } else {
                    debug!(peer = %self.flow.peer, must_prove = name, reason = %end, "no connection by TLS");
                }
                self.finish(&end);
            }
        }
    }

    /// Serves a connection that came in.
    pub(super) async fn accept(mut self, stream: TcpStream) {
        self.silent_until = Some(clock::now() + self.tcp().limits.first_message);
        let Some(certificates) = self.tcp().tls.clone() else { return self.serve(stream).await };
        // Without a certificate of ours nothing listens on TLS.
        let Some(acceptor) = certificates.acceptor() else { return self.finish(&End::Closed) };
        match self.within(self.tcp().limits.connect, acceptor.accept(stream)).await {
            Ok(stream) => self.serve(stream).await,
            Err(end) => {
                self.tcp().counters.tls_failed.increment(1);
                self.finish(&end);
            }
        }
    }

    /// Waits for a step of the beginning, which a peer must not draw out.
    async fn within<T>(&self, limit: Duration, step: impl Future<Output = io::Result<T>>) -> Result<T, End> {
        let mut stop = self.tcp().stop.clone();
        tokio::select! {
            _ = stop.changed() => Err(End::Flushed),
            done = time::timeout(limit, step) => done.map_err(|_| End::SlowToAccept)?.map_err(End::from),
        }
    }

    /// Moves bytes both ways until something ends the connection.
    async fn serve<S: Stream>(mut self, stream: S) {
        let _ = stream.socket().set_nodelay(true); // Without it we are slower, not wrong.
        let mut stop = self.tcp().stop.clone();
        self.last_activity = clock::now();
        let (mut reader, mut writer) = tokio::io::split(stream);
        let end = loop {
            if let Err(end) = self.turn(&mut reader, &mut writer, &mut stop).await {
                break end;
            }
        };
        // RFC 8446 §6.1: so that the peer can tell the end from a cut. It need not wait for it, nor do we.
        let _ = time::timeout(FAREWELL, writer.shutdown()).await;
        self.finish(&end);
    }

    /// Leaves the table first, so that new messages open a new connection; then fails what was not sent.
    fn finish(self, end: &End) {
        let Self { registration, flow, mut queue, writing, .. } = self;
        debug!(peer = %flow.peer, connection = %registration.id, reason = %end, "connection ended");
        let why = match end {
            End::NotTrusted(_) | End::Unnameable => SendFault::NotTrusted,
            _ => SendFault::NotSent,
        };
        let inbound = Arc::clone(&registration.tcp.inbound);
        drop(registration);
        queue.close();
        let queued = std::iter::from_fn(|| queue.try_recv().ok());
        for lost in writing.and_then(|writing| writing.message).into_iter().chain(queued) {
            inbound.send_failed(lost.token.map(|token| *token), why);
        }
    }

    /// Waits for one thing and does it.
    async fn turn<S: Stream>(
        &mut self,
        reader: &mut ReadHalf<S>,
        writer: &mut WriteHalf<S>,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<(), End> {
        if self.writing.is_none() && self.pings > 0 {
            self.pings -= 1;
            self.writing = Some(Writing { rest: PONG, since: clock::now(), message: None });
        }
        let reading = self.phase == Phase::Open;
        let flushing = matches!(self.phase, Phase::Flushing { .. });
        let deadline = Some(self.deadline());
        if reading {
            self.input.reserve(CHUNK);
        }
        tokio::select! {
            read = reader.read_buf(&mut self.input), if reading => self.on_read(read),
            written = write(writer, self.writing.as_ref().map(|writing| &writing.rest)),
                if self.writing.is_some() => self.on_written(written?),
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
            Phase::Open => {
                let idle = self.last_activity + limits.idle;
                self.silent_until.map_or(idle, |until| until.min(idle))
            }
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
            Phase::Open if self.silent_until.is_some_and(|until| until <= now) => Err(End::Silent),
            Phase::Open if self.last_activity + limits.idle <= now => Err(End::Idle),
            Phase::HalfClosed { until } if until <= now => Err(End::Closed),
            Phase::Flushing { until } if until <= now => Err(End::Flushed),
            _ => Ok(()), // Woken early: the deadline moved meanwhile.
        }
    }

    fn on_read(&mut self, read: io::Result<usize>) -> Result<(), End> {
        match read {
            Ok(0) => self.half_close(),
            // A TLS peer that goes without a word (RFC 8446 §6.1). Its last message shows whether it was cut.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => self.half_close(),
            Ok(_) => {
                self.last_activity = clock::now();
                self.take_messages();
                Ok(())
            }
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
                    // Single line ends prove nothing: they cost nothing.
                    self.silent_until = self.silent_until.filter(|_| !ping);
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
                    self.silent_until = None;
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

    /// So many bytes of the message went; 0 when all of it is on its way.
    fn on_written(&mut self, written: usize) -> Result<(), End> {
        let Some(writing) = &mut self.writing else { return Ok(()) };
        self.last_activity = clock::now();
        if !writing.rest.is_empty() {
            writing.rest.advance(written.min(writing.rest.len()));
            return if written == 0 { Err(End::Closed) } else { Ok(()) };
        }
        if let Some(Writing { message: Some(_), .. }) = self.writing.take() {
            self.tcp().counters.sent(self.flow.protocol).increment(1);
        }
        Ok(())
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

/// What a connection needs of its stream: TCP, or TLS over it.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {
    fn socket(&self) -> &TcpStream;
}

impl Stream for TcpStream {
    fn socket(&self) -> &TcpStream {
        self
    }
}

impl Stream for tokio_rustls::client::TlsStream<TcpStream> {
    fn socket(&self) -> &TcpStream {
        self.get_ref().0
    }
}

impl Stream for tokio_rustls::server::TlsStream<TcpStream> {
    fn socket(&self) -> &TcpStream {
        self.get_ref().0
    }
}

/// Writes what it can of `rest`, or, when nothing is left of it, sends what the stream itself still holds.
/// Nothing is lost when it is dropped while it waits.
async fn write(writer: &mut (impl AsyncWrite + Unpin), rest: Option<&Bytes>) -> io::Result<usize> {
    match rest {
        Some(rest) if !rest.is_empty() => writer.write(rest).await,
        _ => writer.flush().await.map(|()| 0),
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

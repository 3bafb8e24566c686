//! The API on its socket, with bounds for who connects and says nothing, says it byte by byte, or connects too often.
//!
//! | what | bound |
//! |---|---|
//! | connections, and those of one source | 1024, 128; a trusted proxy bounds its own clients |
//! | the head of a request, from its first byte to its last | 10 s; a new connection has as long for its first |
//! | the body, until the answer begins | 30 s, 1 MiB |
//! | a connection on which nothing moves | 60 s |
//!
//! RFC 9112 §9.5 lets a server close a connection at any of these. Nothing is answered then: who is this slow is not
//! waiting for words.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::Request;
use axum::extract::connect_info::{ConnectInfo, Connected};
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::serve::{IncomingStream, Listener};
use ipnet::IpNet;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;

use super::error::ApiError;
use super::limit::network_of;
use crate::clock;

/// Connections at one time; further ones wait in the system's queue.
pub(crate) const CONNECTIONS: usize = 1024;
/// Of these, so many of one source; further ones are closed.
const CONNECTIONS_OF_SOURCE: usize = 128;
/// A connection on which so long nothing moves is closed.
const IDLE: Duration = Duration::from_secs(60);
/// How long the head of a request may take.
const HEAD: Duration = Duration::from_secs(10);
/// How long a request may take until its answer begins; its body is read in this time.
const REQUEST: Duration = Duration::from_secs(30);
/// The largest body of any request; most allow less.
pub(super) const LARGEST_BODY: u64 = 1024 * 1024;

/// Serves until `until` is done and the last answer is out. Connections of `proxies` are not counted by source.
///
/// # Errors
/// What the system says when the listener cannot be used.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    proxies: Vec<IpNet>,
    until: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let service = router.into_make_service_with_connect_info::<Peer>();
    axum::serve(Bounded::new(listener, CONNECTIONS, proxies), service).with_graceful_shutdown(until).await
}

/// The other end of a connection, and where its requests stand.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    address: SocketAddr,
    turn: Arc<Turn>,
}

impl Peer {
    /// Of a request; unknown in tests without a socket.
    pub(super) fn of(extensions: &axum::http::Extensions) -> Option<SocketAddr> {
        extensions.get::<ConnectInfo<Self>>().map(|ConnectInfo(peer)| peer.address)
    }
}

impl From<SocketAddr> for Peer {
    fn from(address: SocketAddr) -> Self {
        Self { address, turn: Arc::default() }
    }
}

impl Connected<IncomingStream<'_, Bounded>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Bounded>) -> Self {
        Self { address: *stream.remote_addr(), turn: Arc::clone(&stream.io().turn) }
    }
}

/// Requests of a connection: the service says when a head is complete and when its answer begins, the socket looks,
/// because only the first knows HTTP and only the second knows how slowly bytes come.
#[derive(Debug, Default)]
struct Turn {
    begun: AtomicU64,
    answered: AtomicU64,
}

impl Turn {
    fn begun(&self) -> u64 {
        self.begun.load(Ordering::Acquire)
    }

    fn is_busy(&self) -> bool {
        self.begun() != self.answered.load(Ordering::Acquire)
    }

    /// A request's head is complete; its answer begins when the guard is dropped.
    fn begin(self: &Arc<Self>) -> Busy {
        self.begun.fetch_add(1, Ordering::AcqRel);
        Busy(Arc::clone(self))
    }
}

struct Busy(Arc<Turn>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.answered.fetch_add(1, Ordering::AcqRel);
    }
}

/// Bounds the time of a request and the size of its body, and says to browsers what they must not do with an answer.
pub(super) async fn guard(request: Request, next: Next) -> Response {
    let _busy = request.extensions().get::<ConnectInfo<Peer>>().map(|ConnectInfo(peer)| peer.turn.begin());
    let is_data = request.uri().path().starts_with("/v1/");
    let length = request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    let too_large = length.and_then(|length| length.parse::<u64>().ok()).is_some_and(|n| n > LARGEST_BODY);
    let mut response = if too_large {
        ApiError::too_large().into_response()
    } else {
        tokio::select! {
            response = next.run(request) => response,
            () = clock::sleep(REQUEST) => ApiError::too_slow().into_response(),
        }
    };
    let headers = response.headers_mut();
    let mut say = |name: HeaderName, value: &'static str| {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    };
    say(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    say(header::REFERRER_POLICY, "no-referrer");
    say(header::X_FRAME_OPTIONS, "DENY");
    if is_data {
        // Numbers and PINs are in it.
        say(header::CACHE_CONTROL, "no-store");
        say(header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'");
    }
    response
}

/// A listener with room for so many connections, each of which is closed when it is idle or slow.
struct Bounded {
    listener: TcpListener,
    room: Arc<Semaphore>,
    sources: Arc<Sources>,
    proxies: Vec<IpNet>,
}

impl Bounded {
    fn new(listener: TcpListener, connections: usize, proxies: Vec<IpNet>) -> Self {
        Self { listener, room: Arc::new(Semaphore::new(connections)), sources: Arc::default(), proxies }
    }

    /// A place among the connections of a source; `Err`: it has too many. A proxy needs none.
    fn place(&self, peer: IpAddr) -> Result<Option<Place>, ()> {
        let source = peer.to_canonical();
        if self.proxies.iter().any(|network| network.contains(&source)) {
            return Ok(None);
        }
        self.sources.enter(network_of(source)).map(Some).ok_or(())
    }
}

impl Listener for Bounded {
    type Io = Guarded;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Guarded, SocketAddr) {
        let permit = match Arc::clone(&self.room).acquire_owned().await {
            Ok(permit) => permit,
            // Invariant: nobody closes this semaphore.
            Err(_) => return std::future::pending().await,
        };
        loop {
            // axum's own accept logs and outlives what may fail here.
            let (stream, peer) = Listener::accept(&mut self.listener).await;
            match self.place(peer.ip()) {
                Ok(place) => return (Guarded::new(stream, permit, place), peer),
                Err(()) => {
                    metrics::counter!("maskline_http_refused_total").increment(1);
                    // A reset leaves no TIME_WAIT state for a flood to fill the kernel with.
                    let _ = stream.set_zero_linger();
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// How many connections each source has; no zeros, and never more entries than connections.
#[derive(Debug, Default)]
struct Sources(Mutex<HashMap<IpAddr, usize>>);

impl Sources {
    fn enter(self: &Arc<Self>, source: IpAddr) -> Option<Place> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(source).or_default();
        if *count >= CONNECTIONS_OF_SOURCE {
            return None;
        }
        *count += 1;
        Some(Place { sources: Arc::clone(self), source })
    }
}

/// One of the connections of a source; dropping it makes room.
struct Place {
    sources: Arc<Sources>,
    source: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.sources.0.lock().unwrap_or_else(PoisonError::into_inner);
        let left = counts.get(&self.source).map_or(0, |count| count.saturating_sub(1));
        if left == 0 {
            counts.remove(&self.source);
        } else {
            counts.insert(self.source, left);
        }
    }
}

/// A connection that ends when it is idle, or when the head of a request takes too long.
struct Guarded {
    stream: TcpStream,
    turn: Arc<Turn>,
    /// Requests that had begun when the socket was looked at last.
    begun: u64,
    /// Since when a head is being read; `None` while none is.
    head_since: Option<Instant>,
    /// When a byte went either way last.
    moved: Instant,
    timer: Pin<Box<Sleep>>,
    _permit: OwnedSemaphorePermit,
    _place: Option<Place>,
}

impl Guarded {
    fn new(stream: TcpStream, permit: OwnedSemaphorePermit, place: Option<Place>) -> Self {
        let now = clock::now();
        Self {
            stream,
            turn: Arc::default(),
            begun: 0,
            head_since: Some(now),
            moved: now,
            timer: Box::pin(tokio::time::sleep_until((now + HEAD).into())),
            _permit: permit,
            _place: place,
        }
    }

    /// Bytes have come, or the peer has closed its side.
    fn received(&mut self) {
        self.look_at_requests();
        self.moved = clock::now();
        if self.head_since.is_none() && !self.turn.is_busy() {
            self.head_since = Some(self.moved);
        }
    }

    /// Bytes have gone. An answer that is still on its way puts the next request's deadline off: its client may send
    /// that request ahead (RFC 9112 §9.3.2) and nobody reads it yet.
    fn sent(&mut self) {
        self.look_at_requests();
        self.moved = clock::now();
        self.head_since = self.head_since.map(|_| self.moved);
    }

    /// A head that has become complete is waited for no longer.
    fn look_at_requests(&mut self) {
        let begun = self.turn.begun();
        if begun != self.begun {
            self.begun = begun;
            self.head_since = None;
        }
    }

    /// Nothing moves: has that gone on for too long?
    fn wait<T>(&mut self, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        self.look_at_requests();
        let idle = self.moved + IDLE;
        let deadline = self.head_since.map_or(idle, |since| idle.min(since + HEAD));
        if self.timer.deadline().into_std() != deadline {
            self.timer.as_mut().reset(deadline.into());
        }
        match self.timer.as_mut().poll(context) {
            Poll::Ready(()) => {
                metrics::counter!("maskline_http_too_slow_total").increment(1);
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let attempt = Pin::new(&mut self.stream).poll_read(context, buffer);
        if attempt.is_pending() {
            return self.wait(context);
        }
        self.received();
        attempt
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        let attempt = Pin::new(&mut self.stream).poll_write(context, buffer);
        if attempt.is_pending() {
            return self.wait(context);
        }
        self.sent();
        attempt
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let attempt = Pin::new(&mut self.stream).poll_shutdown(context);
        if attempt.is_pending() {
            return self.wait(context);
        }
        self.sent();
        attempt
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let attempt = Pin::new(&mut self.stream).poll_write_vectored(context, buffers);
        if attempt.is_pending() {
            return self.wait(context);
        }
        self.sent();
        attempt
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// Between these two times something happened.
    #[derive(Debug, Clone, Copy)]
    struct Happened(Instant, Instant);

    /// When it happened, as near as can be told, and what came of it.
    async fn timed<T>(what: impl Future<Output = T>) -> (T, Happened) {
        let begin = clock::now();
        let result = what.await;
        (result, Happened(begin, clock::now()))
    }

    async fn pair(listener: &mut Bounded) -> (TcpStream, Guarded) {
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await;
        (client, server)
    }

    async fn bounded(connections: usize) -> Bounded {
        Bounded::new(TcpListener::bind("127.0.0.1:0").await.unwrap(), connections, vec![])
    }

    async fn read(server: &mut Guarded, bytes: usize) {
        server.read_exact(&mut vec![0; bytes]).await.unwrap();
    }

    /// The client says nothing more: reading ends so long after that had happened, however slow this machine was
    /// meanwhile.
    async fn ends(server: &mut Guarded, after: Duration, happened: Happened) {
        // Only now, so that the clock does not run ahead of the socket.
        tokio::time::pause();
        let error = server.read(&mut [0; 5]).await.unwrap_err();
        let ended = clock::now();
        tokio::time::resume();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let Happened(begin, end) = happened;
        // Timers fire on whole milliseconds.
        let due = begin + after..=end + after + Duration::from_millis(2);
        assert!(due.contains(&ended), "{:?} instead of {after:?} after it", ended - end);
    }

    #[tokio::test]
    async fn who_connects_and_says_nothing_is_let_go() {
        let mut listener = bounded(1).await;
        let ((mut client, mut server), connected) = timed(pair(&mut listener)).await;
        client.write_all(b"GET /").await.unwrap();
        read(&mut server, 5).await;
        ends(&mut server, HEAD, connected).await;
        assert_eq!(listener.room.available_permits(), 0);
        drop(server);
        assert_eq!(listener.room.available_permits(), 1, "its place is free again");
    }

    #[tokio::test]
    async fn a_head_byte_by_byte_has_ten_seconds_in_all() {
        let mut listener = bounded(1).await;
        let ((mut client, mut server), connected) = timed(pair(&mut listener)).await;
        for _ in 0..3 {
            client.write_all(b"x").await.unwrap();
            read(&mut server, 1).await;
            tokio::time::pause();
            tokio::time::advance(Duration::from_secs(1)).await;
            tokio::time::resume();
        }
        ends(&mut server, HEAD, connected).await;
    }

    /// While a request is answered its own deadline holds, and between two requests the idle one.
    #[tokio::test]
    async fn a_request_and_the_time_after_it_are_no_slow_head() {
        let (mut client, mut server) = pair(&mut bounded(1).await).await;
        client.write_all(b"head").await.unwrap();
        read(&mut server, 4).await;
        let busy = server.turn.begin();
        client.write_all(b"body").await.unwrap();
        read(&mut server, 4).await;
        drop(busy);
        // Nothing moves after that.
        let (written, answered) = timed(server.write_all(b"answer")).await;
        written.unwrap();
        ends(&mut server, IDLE, answered).await;

        let (mut client, mut server) = pair(&mut bounded(1).await).await;
        client.write_all(b"one").await.unwrap();
        read(&mut server, 3).await;
        drop(server.turn.begin());
        server.write_all(b"answer").await.unwrap();
        client.write_all(b"t").await.unwrap();
        // The next head has begun.
        let ((), begun) = timed(read(&mut server, 1)).await;
        ends(&mut server, HEAD, begun).await;
    }

    #[tokio::test]
    async fn a_source_has_so_many_connections_and_a_proxy_as_many_as_it_needs() {
        let mut listener = bounded(CONNECTIONS).await;
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let places: Vec<_> = (0..CONNECTIONS_OF_SOURCE).map(|_| listener.place(ip("192.0.2.1"))).collect();
        assert!(places.iter().all(Result::is_ok) && listener.place(ip("192.0.2.1")).is_err());
        assert!(listener.place(ip("::ffff:192.0.2.1")).is_err(), "the same source");
        assert!(listener.place(ip("192.0.2.2")).is_ok());
        drop(places);
        assert!(listener.place(ip("192.0.2.1")).is_ok(), "places are given back");
        assert!(listener.sources.0.lock().unwrap().is_empty(), "nothing is left of who has gone");
        let of_network: Vec<_> =
            (0..CONNECTIONS_OF_SOURCE).map(|n| listener.place(ip(&format!("2001:db8::{n:x}")))).collect();
        assert!(of_network.iter().all(Result::is_ok) && listener.place(ip("2001:db8::ffff")).is_err());
        assert!(listener.place(ip("2001:db8:0:1::1")).is_ok());
        listener.proxies = vec!["192.0.2.0/24".parse().unwrap()];
        let of_proxy: Vec<_> = (0..=CONNECTIONS_OF_SOURCE).map(|_| listener.place(ip("192.0.2.9"))).collect();
        assert!(of_proxy.iter().all(Result::is_ok));
    }
}

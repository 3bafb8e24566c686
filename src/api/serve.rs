//! The API on its socket, with bounds for who connects and says nothing, and for every request.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::extract::connect_info::{ConnectInfo, Connected};
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;

use super::error::ApiError;
use crate::clock;

/// Connections at one time; further ones wait in the system's queue.
const CONNECTIONS: usize = 1024;
/// A connection on which so long nothing moves is closed.
const IDLE: Duration = Duration::from_secs(60);
/// How long a request may take until its answer begins.
const REQUEST: Duration = Duration::from_secs(30);
/// The largest body of any request; most allow less.
pub(super) const LARGEST_BODY: u64 = 1024 * 1024;

/// Serves until `until` is done and the last answer is out.
///
/// # Errors
/// What the system says when the listener cannot be used.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    until: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let listener = Bounded { listener, room: Arc::new(Semaphore::new(CONNECTIONS)) };
    let service = router.into_make_service_with_connect_info::<Peer>();
    axum::serve(listener, service).with_graceful_shutdown(until).await
}

/// The other end of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(pub(super) SocketAddr);

impl Peer {
    /// Of a request; unknown in tests without a socket.
    pub(super) fn of(extensions: &axum::http::Extensions) -> Option<SocketAddr> {
        extensions.get::<ConnectInfo<Self>>().map(|ConnectInfo(peer)| peer.0)
    }
}

impl Connected<IncomingStream<'_, Bounded>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Bounded>) -> Self {
        Self(*stream.remote_addr())
    }
}

/// Bounds the time of a request and the size of its body, and says to browsers what they must not do with an answer.
pub(super) async fn guard(request: Request, next: Next) -> Response {
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

/// A listener with room for so many connections, each of which is closed when it is idle.
struct Bounded {
    listener: TcpListener,
    room: Arc<Semaphore>,
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
        // axum's own accept logs and outlives what may fail here.
        let (stream, peer) = Listener::accept(&mut self.listener).await;
        let idle = Box::pin(tokio::time::sleep(IDLE));
        (Guarded { stream, idle, _permit: permit }, peer)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that ends when it is idle.
struct Guarded {
    stream: TcpStream,
    idle: Pin<Box<Sleep>>,
    _permit: OwnedSemaphorePermit,
}

impl Guarded {
    /// What came of an attempt to read or write; while nothing comes the time runs.
    fn moved<T>(&mut self, context: &mut Context<'_>, attempt: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if attempt.is_ready() {
            self.idle.as_mut().reset((clock::now() + IDLE).into());
            return attempt;
        }
        match self.idle.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
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
        self.moved(context, attempt)
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        let attempt = Pin::new(&mut self.stream).poll_write(context, buffer);
        self.moved(context, attempt)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let attempt = Pin::new(&mut self.stream).poll_shutdown(context);
        self.moved(context, attempt)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let attempt = Pin::new(&mut self.stream).poll_write_vectored(context, buffers);
        self.moved(context, attempt)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn who_connects_and_says_nothing_is_let_go() {
        let mut listener = Bounded {
            listener: TcpListener::bind("127.0.0.1:0").await.unwrap(),
            room: Arc::new(Semaphore::new(1)),
        };
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut server, _) = listener.accept().await;
        client.write_all(b"GET /").await.unwrap();
        let mut buffer = [0; 5];
        server.read_exact(&mut buffer).await.unwrap();
        // Only now, so that the clock does not run ahead of the socket.
        tokio::time::pause();
        let error = server.read(&mut buffer).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(listener.room.available_permits(), 0);
        drop(server);
        assert_eq!(listener.room.available_permits(), 1, "its place is free again");
    }
}

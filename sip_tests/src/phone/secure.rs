//! How a phone's connections become secret. The kit knows no TLS itself: whoever wants it brings it, so that the kit
//! stays small and a test decides what is proved and what is believed.

use std::fmt::Debug;
use std::io;
use std::pin::Pin;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// A connection, encrypted or not.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A handshake that goes on.
pub type Handshake = Pin<Box<dyn Future<Output = io::Result<Box<dyn Stream>>> + Send>>;

/// Makes connections secret: SIP over TLS, RFC 3261 §26.2.1.
pub trait Secure: Debug + Send + Sync {
    /// A connection that the phone opened.
    fn connect(&self, stream: TcpStream) -> Handshake;

    /// A connection that came to the phone.
    fn accept(&self, stream: TcpStream) -> Handshake;
}

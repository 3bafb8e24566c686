//! SIP on the wire and what it means within one transaction (RFC 3261).
//!
//! Reading: [`wire`] indexes the bytes, [`message`] makes them typed; nothing else parses what strangers
//! send. Writing: [`encode`] builds each message from typed values of our own; no function here copies a
//! header from one message into another, save those which RFC 3261 §8.2.6.2 has a response repeat to the peer
//! that sent them.

pub mod address;
pub mod body;
pub mod dialog;
pub mod digest;
pub mod encode;
mod grammar;
pub mod key;
pub mod message;
mod method;
pub mod outside;
pub mod reason;
pub mod session_timer;
pub mod transaction;
pub mod transport;
pub mod uri;
pub mod wire;

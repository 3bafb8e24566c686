//! A carrier in one socket: brings each INVITE of ours to the phone whose number it names, so that either side can be
//! called.

// Parts of one test.
#![allow(unreachable_pub)]

use sip_tests::message::Message;
use std::net::SocketAddr;
use tokio::net::UdpSocket;
use tokio::task::AbortHandle;

/// Stops when dropped.
pub struct Relay {
    pub address: SocketAddr,
    task: AbortHandle,
}

impl Relay {
    /// Numbers without `+`, and who has them.
    pub async fn between(phones: [(String, SocketAddr); 2]) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let task = tokio::spawn(run(socket, phones)).abort_handle();
        Self { address, task }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(socket: UdpSocket, phones: [(String, SocketAddr); 2]) {
    let (mut service, mut buffer) = (None, vec![0; 65536]);
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else { continue };
        let bytes = &buffer[..length];
        let to = if phones.iter().any(|(_, phone)| *phone == from) {
            service
        } else {
            service = Some(from);
            let message = Message::read(bytes);
            let uri = message.as_ref().and_then(Message::uri).unwrap_or_default();
            phones.iter().find(|(number, _)| uri.contains(number.as_str())).map(|(_, phone)| *phone)
        };
        if let Some(to) = to {
            let _ = socket.send_to(bytes, to).await;
        }
    }
}

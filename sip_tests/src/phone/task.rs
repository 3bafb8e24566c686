//! The phone's own task: the only owner of its sockets and its agent.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::log::{Log, Logs};
use super::secure::{Secure, Stream};
use super::{Impairment, Job, Lose, PhoneConfig};
use crate::agent::{Agent, CallNumber, Event, Output, Transport};
use crate::clock;
use crate::message::{self, Message};
use crate::middlebox::Middlebox;
use crate::sdp::RemoteMedia;
use crate::stream::MediaSession;
use crate::transcript::{Direction, Kind, Transcript};

/// What a phone listens on.
pub(super) struct Sockets {
    udp: Option<UdpSocket>,
    tcp: Option<TcpListener>,
}

impl Sockets {
    pub(super) async fn open(config: &PhoneConfig) -> std::io::Result<Self> {
        if config.transport != Transport::Udp {
            return Ok(Self { udp: None, tcp: Some(TcpListener::bind(config.address).await?) });
        }
        let mut last = std::io::Error::from(std::io::ErrorKind::AddrInUse);
        for _ in 0..20 {
            let udp = UdpSocket::bind(config.address).await?;
            let _ = socket2::SockRef::from(&udp).set_recv_buffer_size(1 << 20);
            if !config.also_tcp {
                return Ok(Self { udp: Some(udp), tcp: None });
            }
            match TcpListener::bind(udp.local_addr()?).await {
                Ok(tcp) => return Ok(Self { udp: Some(udp), tcp: Some(tcp) }),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    pub(super) fn address(&self) -> std::io::Result<SocketAddr> {
        match (&self.udp, &self.tcp) {
            (Some(udp), _) => udp.local_addr(),
            (None, Some(tcp)) => tcp.local_addr(),
            (None, None) => Err(std::io::ErrorKind::Unsupported.into()),
        }
    }
}

/// The phone's own task.
pub(super) struct Task {
    agent: Agent,
    name: Arc<str>,
    sockets: Sockets,
    transport: Transport,
    secure: Option<Arc<dyn Secure>>,
    connections: BTreeMap<SocketAddr, mpsc::UnboundedSender<Vec<u8>>>,
    stream_in: mpsc::UnboundedSender<FromStream>,
    streams: mpsc::UnboundedReceiver<FromStream>,
    transcript: Transcript,
    impairment: Impairment,
    middlebox: Option<Middlebox>,
    random: StdRng,
    logs: Arc<Logs>,
    everything: Arc<Log>,
    invited: mpsc::UnboundedSender<CallNumber>,
    children: Vec<AbortHandle>,
}

impl Drop for Task {
    fn drop(&mut self) {
        for child in &self.children {
            child.abort();
        }
    }
}

enum FromStream {
    Message(SocketAddr, Vec<u8>),
    Closed(SocketAddr),
}

impl Task {
    pub(super) fn new(
        config: &PhoneConfig,
        sockets: Sockets,
        address: SocketAddr,
        (logs, everything, invited): (Arc<Logs>, Arc<Log>, mpsc::UnboundedSender<CallNumber>),
    ) -> Self {
        let mut agent = Agent::new(address, config.transport, config.seed);
        agent.set_user_agent(config.user_agent.clone());
        agent.set_answers(config.answers.clone());
        let (stream_in, streams) = mpsc::unbounded_channel();
        Self {
            agent,
            name: config.name.as_str().into(),
            sockets,
            transport: config.transport,
            secure: config.secure.clone().filter(|_| config.transport == Transport::Tls),
            connections: BTreeMap::new(),
            stream_in,
            streams,
            transcript: config.transcript.clone(),
            impairment: config.impairment.clone(),
            middlebox: config.middlebox.clone(),
            random: StdRng::seed_from_u64(config.seed),
            logs,
            everything,
            invited,
            children: vec![],
        }
    }

    pub(super) async fn run(
        mut self,
        mut jobs: mpsc::UnboundedReceiver<Job>,
        mut raw: mpsc::UnboundedReceiver<(SocketAddr, Vec<u8>)>,
    ) {
        let mut buffer = vec![0; 65536];
        loop {
            let deadline = self.agent.deadline();
            tokio::select! {
                Some(job) = jobs.recv() => job(&mut self.agent, clock::now()),
                Some((to, bytes)) = raw.recv() => self.send(to, &bytes),
                received = receive(self.sockets.udp.as_ref(), &mut buffer) => {
                    if let Ok((length, from)) = received {
                        let bytes = buffer.get(..length).unwrap_or_default();
                        for bytes in Middlebox::deliver(self.middlebox.as_ref(), Kind::Sip, bytes) {
                            self.take(&bytes, from);
                        }
                    }
                }
                Some(from_stream) = self.streams.recv() => match from_stream {
                    FromStream::Message(from, bytes) => self.take(&bytes, from),
                    FromStream::Closed(peer) => {
                        self.connections.remove(&peer);
                    }
                },
                Some((stream, peer)) = accept(self.sockets.tcp.as_ref()) => self.adopt(stream, peer),
                () = sleep_until(deadline), if deadline.is_some() => self.agent.timeout(clock::now()),
                else => return,
            }
            self.flush();
        }
    }

    fn take(&mut self, bytes: &[u8], from: SocketAddr) {
        if self.is_lost(bytes, Direction::Received) {
            return;
        }
        self.transcript.add(&self.name, Direction::Received, Kind::Sip, from, bytes);
        if let Some(message) = Message::read(bytes) {
            self.everything.change(|seen| seen.0.push(message));
        }
        for _ in 0..=u8::from(self.impairment.duplicate) {
            self.agent.receive(bytes, from, clock::now());
        }
    }

    fn flush(&mut self) {
        let Output { send, events } = self.agent.take_output();
        for (to, bytes) in send {
            if self.is_lost(&bytes, Direction::Sent) {
                continue;
            }
            for _ in 0..=u8::from(self.impairment.duplicate) {
                self.send(to, &bytes);
            }
        }
        for (call, event) in events {
            let log = self.logs.of(call);
            match event {
                Event::Invited(request) => {
                    log.change(|seen| seen.0.push(request));
                    let _ = self.invited.send(call);
                }
                Event::Response(message) | Event::Request(message) => {
                    if let Some(media) = log.media.get() {
                        connect(media, &message);
                    }
                    log.change(|seen| seen.0.push(message));
                }
                Event::Ended(end) => {
                    if let Some(media) = log.media.get() {
                        media.stop();
                    }
                    log.change(|seen| seen.1 = Some(end));
                }
            }
        }
    }

    fn send(&mut self, to: SocketAddr, bytes: &[u8]) {
        self.transcript.add(&self.name, Direction::Sent, Kind::Sip, to, bytes);
        if let Some(connection) = self.connections.get(&to) {
            let _ = connection.send(bytes.to_vec());
            return;
        }
        match &self.sockets.udp {
            Some(udp) if self.transport == Transport::Udp => {
                let _ = udp.try_send_to(bytes, to);
            }
            _ => {
                let (out, queue) = mpsc::unbounded_channel();
                let _ = out.send(bytes.to_vec());
                self.connections.insert(to, out);
                let stream_in = self.stream_in.clone();
                let secure = self.secure.clone();
                let task = async move {
                    let opened = async {
                        let stream = TcpStream::connect(to).await?;
                        match secure {
                            Some(secure) => secure.connect(stream).await,
                            None => Ok(Box::new(stream) as Box<dyn Stream>),
                        }
                    };
                    match opened.await {
                        Ok(stream) => pump(stream, to, queue, stream_in).await,
                        Err(_) => drop(stream_in.send(FromStream::Closed(to))),
                    }
                };
                self.children.push(tokio::spawn(task).abort_handle());
            }
        }
    }

    fn adopt(&mut self, stream: TcpStream, peer: SocketAddr) {
        let (out, queue) = mpsc::unbounded_channel();
        self.connections.insert(peer, out);
        let (secure, stream_in) = (self.secure.clone(), self.stream_in.clone());
        let task = async move {
            let opened = match secure {
                Some(secure) => secure.accept(stream).await,
                None => Ok(Box::new(stream) as Box<dyn Stream>),
            };
            match opened {
                Ok(stream) => pump(stream, peer, queue, stream_in).await,
                Err(_) => drop(stream_in.send(FromStream::Closed(peer))),
            }
        };
        self.children.push(tokio::spawn(task).abort_handle());
    }

    fn is_lost(&mut self, bytes: &[u8], direction: Direction) -> bool {
        let share = match direction {
            Direction::Received => self.impairment.loss_received,
            Direction::Sent => self.impairment.loss_sent,
        };
        if share > 0.0 && self.random.random_bool(share.min(1.0)) {
            return true;
        }
        let Some(message) = Message::read(bytes) else { return false };
        let what = match (message.method(), message.status()) {
            (Some(method), _) => method.to_owned(),
            (_, status) => format!("{} {}", status.unwrap_or(0), message.cseq().1),
        };
        let fits = |lose: &&mut Lose| lose.direction == direction && lose.what == what && lose.count > 0;
        self.impairment.lose.iter_mut().find(fits).is_some_and(|lose| {
            lose.count -= 1;
            true
        })
    }
}

/// Lets the audio follow what an offer/answer exchange came to.
fn connect(media: &MediaSession, message: &Message) {
    let Some(remote) = message.sdp().and_then(RemoteMedia::read) else { return };
    let answered = message.is("ACK")
        || (message.cseq().1 == "INVITE" && message.status().is_some_and(|s| (200..300).contains(&s)));
    let failed = message.status().is_some_and(|status| status >= 300);
    if !failed {
        media.set_remote(remote);
    }
    if answered {
        media.start();
    }
}

async fn receive(udp: Option<&UdpSocket>, buffer: &mut [u8]) -> std::io::Result<(usize, SocketAddr)> {
    match udp {
        Some(udp) => udp.recv_from(buffer).await,
        None => std::future::pending().await,
    }
}

async fn accept(listener: Option<&TcpListener>) -> Option<(TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await.ok(),
        None => std::future::pending().await,
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// Carries messages over one connection; they end where Content-Length says (RFC 3261 §18.3).
async fn pump(
    mut stream: Box<dyn Stream>,
    peer: SocketAddr,
    mut queue: mpsc::UnboundedReceiver<Vec<u8>>,
    to_task: mpsc::UnboundedSender<FromStream>,
) {
    let (mut buffer, mut chunk) = (vec![], vec![0; 65536]);
    loop {
        tokio::select! {
            Some(bytes) = queue.recv() => {
                if stream.write_all(&bytes).await.is_err() {
                    break;
                }
            }
            read = stream.read(&mut chunk) => match read {
                Ok(length) if length > 0 => {
                    buffer.extend_from_slice(chunk.get(..length).unwrap_or_default());
                    while let Some(message) = next_message(&mut buffer) {
                        let _ = to_task.send(FromStream::Message(peer, message));
                    }
                }
                _ => break,
            },
            else => break,
        }
    }
    let _ = to_task.send(FromStream::Closed(peer));
}

/// Takes one whole message from the front of `buffer`.
fn next_message(buffer: &mut Vec<u8>) -> Option<Vec<u8>> {
    let blank = buffer.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    buffer.drain(..blank);
    let head = message::find(buffer, b"\r\n\r\n")? + 4;
    let length = Message::read(buffer.get(..head)?)
        .and_then(|m| m.header("content-length")?.parse::<usize>().ok())
        .unwrap_or(0);
    if buffer.len() < head + length {
        return None;
    }
    Some(buffer.drain(..head + length).collect())
}

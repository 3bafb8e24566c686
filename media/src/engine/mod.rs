//! The engine: one OS thread per core that owns its calls' sockets.
//!
//! [`Engine::open`] binds a call's sockets on the caller's thread and gives them to a worker, where both legs
//! stay. Commands go to the worker through a queue, events come back through a callback. `worker` is the
//! loop, `call` and `leg` hold a call's state, `io` (epoll), `ring` (io_uring), `pages` and `priority` are the only places
//! that talk to the kernel, `clock` the only one that asks for the time.

mod call;
mod clock;
mod counters;
mod io;
mod leg;
mod pages;
mod press;
pub(crate) mod priority;
mod ring;
#[cfg(test)]
mod testing;
mod worker;

pub use counters::EngineStatistics;

use crate::ports::{PortPool, even_ports};
use crate::recorder::{Recorder, Sealers};
use crate::time::samples_in;
use crate::{Codec, MediaCommand, MediaEvent, Side};
use call::Parts;
use clock::MediaClock;
use leg::{Identity, Sockets};
use rand::seq::SliceRandom;
use ring::Ring;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use worker::{Link, Shared, ToWorker, Worker};

/// So many calls go to one worker before the next one is used: packets that are taken together cost less.
const PACKED: usize = 100;
/// Threads that wait for the disk when recordings are completed.
const SEALERS: usize = 4;

/// Codecs by their place here.
const CODECS: [Codec; 3] = [Codec::Pcmu, Codec::Pcma, Codec::G722];
/// A leg that was not configured yet.
const UNKNOWN_CODEC: u8 = u8::MAX;

/// `[media]`, checked.
#[derive(Debug, Clone)]
pub struct MediaLimits {
    /// First and last port for RTP; RTP takes even ports, RTCP the odd one above (RFC 3550 §11).
    pub ports: RangeInclusive<u16>,
    /// Both legs silent for so long ends a call; `None` never ends one.
    pub silence: Option<Duration>,
    /// How long a freed port should rest. The longest-rested port is taken first; none is refused for
    /// resting.
    pub port_rest: Duration,
    /// Number of media threads; one per core by default.
    pub workers: usize,
    /// How packets come and go.
    pub packets: PacketIo,
}

/// The kernel's ways to move packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PacketIo {
    /// io_uring where the kernel allows it, else epoll.
    #[default]
    Auto,
    /// io_uring, or no start.
    IoUring,
    /// epoll.
    Epoll,
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

/// The media plane. Cloning shares it; its threads end with the last clone and the last call.
#[derive(Debug, Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    limits: MediaLimits,
    ports: Arc<Mutex<PortPool>>,
    workers: Vec<Link>,
    clock: MediaClock,
    next_id: AtomicU64,
}

/// One call's media; dropping it closes the media like [`MediaCommand::Close`].
#[derive(Debug)]
pub struct MediaHandle {
    id: u64,
    ports: [u16; 2],
    worker: Link,
    clock: MediaClock,
    /// What each leg speaks: a prompt is coded here, on the call's thread, and not where packets wait.
    codecs: [AtomicU8; 2],
}

impl Engine {
    /// Starts the media threads.
    ///
    /// # Errors
    /// What the system says when threads, epoll or event descriptors cannot be had, or io_uring was asked for and is not
    /// to be had.
    pub fn start(limits: MediaLimits) -> std::io::Result<Self> {
        let clock = MediaClock::start();
        let mut ports: Vec<u16> = even_ports(&limits.ports).collect();
        // Which port a call gets is nobody's to guess.
        ports.shuffle(&mut rand::rng());
        let ports = Arc::new(Mutex::new(PortPool::new(ports, limits.port_rest)));
        let sealers = Sealers::start(SEALERS)?;
        let packets = Packets::choose(limits.packets)?;
        let mut workers = Vec::new();
        for index in 0..limits.workers.max(1) {
            let shared = Arc::new(Shared::new()?);
            let (to_worker, inbox) = channel();
            let recorder = Recorder::start(&format!("recorder-{index}"), sealers.clone())?;
            let worker = Worker::new(inbox, shared.clone(), ports.clone(), clock, recorder)?;
            let (told, begun) = channel();
            std::thread::Builder::new().name(format!("media-{index}")).spawn(move || {
                // A ring belongs to the thread that makes it.
                match packets.ring() {
                    Ok(ring) => {
                        let _ = told.send(Ok(()));
                        worker.run(ring);
                    }
                    Err(error) => drop(told.send(Err(error))),
                }
            })?;
            begun.recv().map_err(std::io::Error::other)??;
            workers.push(Link::new(to_worker, shared));
        }
        Ok(Self { inner: Arc::new(Inner { limits, ports, workers, clock, next_id: AtomicU64::new(0) }) })
    }

    /// Binds RTP and RTCP sockets for both legs on `a` and `b` (local addresses) and hands them to a worker.
    /// `events` is called from that worker (and from the recorder's threads) and must not block.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(
        &self,
        a: IpAddr,
        b: IpAddr,
        events: Box<dyn Fn(MediaEvent) + Send + Sync>,
    ) -> Result<MediaHandle, OpenError> {
        let first = self.inner.bind_pair(a)?;
        let second = self.inner.bind_pair(b).inspect_err(|_| self.inner.ports().give_back(first.port))?;
        let ports = [first.port, second.port];
        let id = self.inner.next_id.fetch_add(1, Ordering::Relaxed);
        let parts = Parts {
            id,
            sockets: [first, second],
            identities: [identity(), identity()],
            events: events.into(),
            silence: self.inner.limits.silence.map(samples_in),
            origin: self.inner.clock.origin(),
        };
        let worker = self.inner.choose_worker();
        worker.shared.calls.fetch_add(1, Ordering::Relaxed);
        if !worker.tell(ToWorker::Open(Box::new(parts))) {
            worker.shared.calls.fetch_sub(1, Ordering::Relaxed);
            ports.into_iter().for_each(|port| self.inner.ports().give_back(port));
            let source = std::io::ErrorKind::BrokenPipe.into();
            return Err(OpenError::Socket { address: a, source });
        }
        let codecs = [AtomicU8::new(UNKNOWN_CODEC), AtomicU8::new(UNKNOWN_CODEC)];
        Ok(MediaHandle { id, ports, worker, clock: self.inner.clock, codecs })
    }

    /// Figures since the start, over all calls.
    #[must_use]
    pub fn statistics(&self) -> EngineStatistics {
        let mut sum = EngineStatistics::default();
        for worker in &self.inner.workers {
            sum += *worker.shared.published.lock().unwrap_or_else(PoisonError::into_inner);
            sum.calls += worker.shared.calls.load(Ordering::Relaxed) as u64;
        }
        let ports = self.inner.ports();
        sum.ports_in_use = ports.in_use() as u64;
        sum.ports_available = ports.available() as u64;
        sum.ports_taken_early = ports.taken_early();
        sum
    }
}

/// What [`PacketIo`] came to.
#[derive(Debug, Clone, Copy)]
enum Packets {
    IoUring {
        sockets: ring::Sockets,
        /// Without it there is no media.
        must: bool,
    },
    Epoll,
}

impl Packets {
    fn choose(wish: PacketIo) -> std::io::Result<Self> {
        let chosen = match (wish, ring::trial()) {
            (PacketIo::Epoll, _) => {
                tracing::info!(engine = "epoll", reason = "configured", "media engine");
                return Ok(Self::Epoll);
            }
            (PacketIo::IoUring, Err(refusal)) => return Err(std::io::Error::other(refusal)),
            (PacketIo::Auto, Err(refusal)) => {
                tracing::info!(engine = "epoll", reason = %refusal, "media engine");
                return Ok(Self::Epoll);
            }
            (wish, Ok(sockets)) => Self::IoUring { sockets, must: wish == PacketIo::IoUring },
        };
        let reason = if wish == PacketIo::IoUring { "configured" } else { "the kernel allows it" };
        tracing::info!(engine = "io_uring", reason, "media engine");
        Ok(chosen)
    }

    /// A worker's own ring, if it is to have one.
    fn ring(self) -> std::io::Result<Option<Box<Ring>>> {
        let Self::IoUring { sockets, must } = self else { return Ok(None) };
        match Ring::new(sockets) {
            Ok(ring) => Ok(Some(Box::new(ring))),
            Err(refusal) if must => Err(std::io::Error::other(refusal)),
            Err(refusal) => {
                tracing::warn!(reason = %refusal, "a media thread goes on with epoll");
                Ok(None)
            }
        }
    }
}

impl Inner {
    fn ports(&self) -> MutexGuard<'_, PortPool> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Binds the longest-rested pair of ports; pairs of which another process holds a port are stepped over.
    fn bind_pair(&self, address: IpAddr) -> Result<Sockets, OpenError> {
        let (first, last) = (*self.limits.ports.start(), *self.limits.ports.end());
        let candidates = self.ports().available();
        for _ in 0..candidates {
            let Some(port) = self.ports().take(self.clock.now().media) else { break };
            let pair =
                io::bind(address, port).and_then(|rtp| Ok((rtp, io::bind(address, port.saturating_add(1))?)));
            match pair {
                Ok((rtp, rtcp)) => return Ok(Sockets { rtp, rtcp, port }),
                Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => self.ports().defer(port),
                Err(source) => {
                    self.ports().give_back(port);
                    return Err(OpenError::Socket { address, source });
                }
            }
        }
        Err(OpenError::NoFreePort { first, last })
    }

    /// The first one that is not busy yet, else the one with the fewest calls.
    fn choose_worker(&self) -> Link {
        let load = |worker: &&Link| worker.shared.calls.load(Ordering::Relaxed);
        let first = self.workers.iter().find(|worker| load(worker) < PACKED);
        let chosen = first.or_else(|| self.workers.iter().min_by_key(load));
        // Invariant: `Engine::start` makes at least one worker.
        chosen.expect("an engine has workers").clone()
    }
}

impl MediaHandle {
    fn codec(&self, side: Side) -> &AtomicU8 {
        let [a, b] = &self.codecs;
        match side {
            Side::A => a,
            Side::B => b,
        }
    }

    /// The local RTP port of a leg, even.
    #[must_use]
    pub fn port(&self, side: Side) -> u16 {
        let [a, b] = self.ports;
        match side {
            Side::A => a,
            Side::B => b,
        }
    }

    /// Queues a command; never blocks.
    pub fn command(&self, command: MediaCommand) {
        self.command_of(command, self.clock.now().instant);
    }

    /// Queues a command that was decided at `decided`: a recording begins and ends at that moment, however late the media
    /// thread is told. Never blocks. The first time that a prompt is heard in a codec, it is coded for all calls
    /// ([`crate::Prompt::prepare`]).
    pub fn command_of(&self, command: MediaCommand, decided: Instant) {
        match &command {
            MediaCommand::Configure { side, stream } => {
                let codec = CODECS.iter().position(|codec| *codec == stream.codec);
                let number = codec.and_then(|codec| u8::try_from(codec).ok()).unwrap_or(UNKNOWN_CODEC);
                self.codec(*side).store(number, Ordering::Relaxed);
            }
            MediaCommand::Play { side, prompt, .. } => {
                let codec = CODECS.get(usize::from(self.codec(*side).load(Ordering::Relaxed)));
                if let Some(codec) = codec {
                    prompt.prepare(*codec);
                }
            }
            _ => {}
        }
        // Without a worker there is no media that could obey.
        let _ = self.worker.tell(ToWorker::Command(self.id, command, decided));
    }
}

impl Drop for MediaHandle {
    fn drop(&mut self) {
        self.command(MediaCommand::Close);
    }
}

/// RFC 3550 §5.1, RFC 7022 §4.2: random, for each leg of each call.
fn identity() -> Identity {
    let (high, low): (u64, u32) = (rand::random(), rand::random());
    let mut cname = [0; 12];
    for (to, from) in cname.iter_mut().zip(high.to_be_bytes().into_iter().chain(low.to_be_bytes())) {
        *to = from;
    }
    // In the lower half, so that the number does not wrap before the peer has heard of the stream: how often it has
    // wrapped is in no packet, and RFC 3711 §3.3.1 must guess it.
    let sequence = rand::random::<u16>() & 0x7fff;
    Identity { ssrc: rand::random(), sequence, timestamp: rand::random(), cname }
}

/// The engine's tests, by io_uring where it is allowed.
#[cfg(test)]
#[path = "."]
mod on_io_uring {
    const PACKETS: super::PacketIo = super::PacketIo::Auto;
    #[path = "tests.rs"]
    mod tests;
}

/// The same tests by epoll.
#[cfg(test)]
#[path = "."]
mod on_epoll {
    const PACKETS: super::PacketIo = super::PacketIo::Epoll;
    #[path = "tests.rs"]
    #[allow(clippy::duplicate_mod, reason = "that is what it is for")]
    mod tests;
}

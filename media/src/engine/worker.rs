//! One media thread: waits, reads what came, relays it at once, then does what is due. Packets come by epoll and, where
//! the kernel allows it, by io_uring: see `seats`.
//!
//! While packets flow it wakes every [`TICK`] and takes all that came meanwhile in one go: at 10 000 packets/s
//! a wake-up per packet would cost more than the packet. While none do, it dozes: the next packet, the next
//! deadline or something urgent wakes it, and what can wait is taken every [`DOZE`]. Without calls it sleeps
//! until it is told of one. A packet costs no lock, no allocation (but for [`crate::codec`]'s conversions from and to
//! G.722), no reading of the clock and no log line.

mod seats;

use super::call::{Call, Parts};
use super::clock::{MediaClock, Now};
use super::counters::EngineStatistics;
use super::io::{Poller, WAKE, Wake};
use super::leg::Bench;
use super::ring::Ring;
use crate::ports::PortPool;
use crate::recorder::Recorder;
use crate::time::{MediaTime, milliseconds};
use crate::{CallStatistics, MediaCommand, MediaEvent};
use seats::{Seating, parts, sender, token};
use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering, fence};
use std::sync::mpsc::{Receiver, Sender, TryRecvError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long packets may wait for their batch.
const TICK: Duration = Duration::from_millis(3);
/// Packets count as flowing for so long after the last one: several times what lies between two of a stream.
const FLOWING: u64 = milliseconds(100);
/// How long commands that only matter to later packets, and new calls, may wait while no packet flows: many of
/// them then share one wake-up, which costs more than they do.
const DOZE: Duration = Duration::from_millis(20);
/// Times that all ready sockets are read in one tick.
const ROUNDS: usize = 32;
/// Useless packets read from one socket before the next one has its turn.
const BURST: usize = 64;
/// The longest datagram that is read whole; no packet of use is so long.
const MAX_DATAGRAM: usize = 2048;
/// How often the figures are published.
const PUBLISH: u64 = milliseconds(200);

/// What a worker is told.
pub(super) enum ToWorker {
    Open(Box<Parts>),
    /// To the call of this number, and when it was decided.
    Command(u64, MediaCommand, Instant),
}

impl ToWorker {
    /// It is heard from this very moment on. Everything else shows its effect with the next packet, which wakes the
    /// worker, and is taken before that packet.
    fn is_urgent(&self) -> bool {
        matches!(self, Self::Command(_, MediaCommand::Play { .. }, _))
    }
}

/// What a worker does that is not at work: [`Shared::rest`].
mod rest {
    /// It is at work, or on a nap that nothing shortens.
    pub(super) const NONE: u8 = 0;
    /// It wakes by itself within [`super::DOZE`].
    pub(super) const DOZING: u8 = 1;
    /// It waits for [`super::Wake`] and nothing else.
    pub(super) const ASLEEP: u8 = 2;
}

/// What a worker and those who talk to it share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) wake: Wake,
    /// One of [`rest`].
    rest: AtomicU8,
    /// Calls that have been given to it and have not ended.
    pub(super) calls: AtomicUsize,
    pub(super) published: Mutex<EngineStatistics>,
}

/// The way to a worker.
#[derive(Debug)]
pub(super) struct Link {
    /// `None` only while it is dropped.
    inbox: Option<Sender<ToWorker>>,
    pub(super) shared: Arc<Shared>,
}

impl Shared {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            wake: Wake::new()?,
            rest: AtomicU8::new(rest::NONE),
            calls: AtomicUsize::new(0),
            published: Mutex::default(),
        })
    }

    /// Wakes the worker if it sleeps, or dozes and it is `urgent`. Pairs with [`Worker::rest`]: whoever comes
    /// second sees what the other one did.
    fn rouse(&self, urgent: bool) {
        fence(Ordering::SeqCst);
        let least = if urgent { rest::DOZING } else { rest::ASLEEP };
        if self.rest.load(Ordering::SeqCst) >= least
            && self.rest.swap(rest::NONE, Ordering::SeqCst) != rest::NONE
        {
            self.wake.wake();
        }
    }
}

impl Link {
    pub(super) fn new(inbox: Sender<ToWorker>, shared: Arc<Shared>) -> Self {
        Self { inbox: Some(inbox), shared }
    }

    /// False when the worker is gone.
    pub(super) fn tell(&self, message: ToWorker) -> bool {
        let urgent = message.is_urgent();
        let told = self.inbox.as_ref().is_some_and(|inbox| inbox.send(message).is_ok());
        self.shared.rouse(urgent);
        told
    }
}

impl Clone for Link {
    fn clone(&self) -> Self {
        Self { inbox: self.inbox.clone(), shared: self.shared.clone() }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // The worker ends when the last one is gone, for which it must look.
        self.inbox = None;
        self.shared.rouse(false);
    }
}

/// A place for a call.
#[derive(Default)]
struct Slot {
    generation: u32,
    call: Option<Box<Call>>,
    seating: Seating,
}

pub(super) struct Worker {
    poller: Poller,
    /// `None`: epoll does it all.
    ring: Option<Box<Ring>>,
    inbox: Receiver<ToWorker>,
    shared: Arc<Shared>,
    ports: Arc<Mutex<PortPool>>,
    clock: MediaClock,
    recorder: Recorder,
    slots: Vec<Slot>,
    /// When each slot's call wants to be fired; beside them so that a tick reads little memory.
    deadlines: Vec<MediaTime>,
    free: Vec<usize>,
    by_id: HashMap<u64, usize>,
    /// Calls that have ended, but not in the ring.
    leaving: usize,
    /// The slot that is being worked on, for the case of a panic.
    current: Option<usize>,
    counters: EngineStatistics,
    published: MediaTime,
    /// When the last packet came, whosever it was.
    heard: MediaTime,
    ready: Vec<u64>,
    datagram: Box<[u8; MAX_DATAGRAM]>,
    scratch: Vec<u8>,
}

impl Worker {
    pub(super) fn new(
        inbox: Receiver<ToWorker>,
        shared: Arc<Shared>,
        ports: Arc<Mutex<PortPool>>,
        clock: MediaClock,
        recorder: Recorder,
    ) -> io::Result<Self> {
        Ok(Self {
            poller: Poller::new(&shared.wake)?,
            ring: None,
            inbox,
            shared,
            ports,
            clock,
            recorder,
            slots: Vec::new(),
            deadlines: Vec::new(),
            free: Vec::new(),
            by_id: HashMap::new(),
            leaving: 0,
            current: None,
            counters: EngineStatistics::default(),
            published: MediaTime::default(),
            heard: MediaTime::default(),
            ready: Vec::new(),
            datagram: Box::new([0; MAX_DATAGRAM]),
            scratch: Vec::new(),
        })
    }

    /// Until nobody is left who could tell it of a call.
    pub(super) fn run(mut self, ring: Option<Box<Ring>>) {
        self.ring = ring;
        self.publish(MediaTime::default());
        loop {
            match catch_unwind(AssertUnwindSafe(|| self.turn())) {
                Ok(Ok(true)) => {}
                Ok(Ok(false)) => return,
                Ok(Err(error)) => {
                    // epoll fails for a programmer's mistake only; without it there is no media.
                    tracing::error!(%error, "media thread cannot wait for packets");
                    std::thread::sleep(TICK);
                }
                Err(_) => self.bury(),
            }
        }
    }

    /// One tick. False when the engine has been dropped.
    fn turn(&mut self) -> io::Result<bool> {
        self.wait()?;
        if !self.receive()? {
            return Ok(false);
        }
        let now = self.clock.now();
        self.fire(now);
        self.recorder.tick(now.media);
        if now.media.since(self.published) >= PUBLISH || self.by_id.is_empty() {
            self.publish(now.media);
        }
        Ok(true)
    }

    /// Waits for the next tick, and fills `ready` if packets should wake it before.
    fn wait(&mut self) -> io::Result<()> {
        self.ready.clear();
        if self.by_id.is_empty() && self.leaving == 0 {
            return self.rest(rest::ASLEEP, None);
        }
        let now = self.clock.now().media;
        let next = self.deadlines.iter().copied().min().unwrap_or(MediaTime::NEVER);
        let due = Duration::from_micros(next.since(now).saturating_mul(125));
        if now.since(self.heard) < FLOWING || due <= TICK {
            self.pause();
            return Ok(());
        }
        self.rest(rest::DOZING, Some(due.min(DOZE)))
    }

    /// Waits until a packet comes, or somebody calls [`Shared::rouse`], or for `longest`.
    fn rest(&mut self, how: u8, longest: Option<Duration>) -> io::Result<()> {
        self.shared.rest.store(how, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        // What was sent before the flag was up has not woken us.
        let now = self.clock.now();
        match self.inbox.try_recv() {
            Ok(message) => self.take_message(message, now),
            Err(TryRecvError::Disconnected) => {}
            Err(TryRecvError::Empty) => match (&mut self.ring, longest) {
                (Some(ring), Some(longest)) if ring.is_busy() => {
                    if let Err(error) = ring.doze(self.poller.as_fd(), longest) {
                        self.abandon(&error, now);
                    }
                }
                _ => self.poller.wait(longest, &mut self.ready)?,
            },
        }
        self.shared.rest.store(rest::NONE, Ordering::SeqCst);
        Ok(())
    }

    fn take_messages(&mut self, now: Now) -> bool {
        loop {
            match self.inbox.try_recv() {
                Ok(message) => self.take_message(message, now),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => {
                    let left: Vec<usize> = self.by_id.values().copied().collect();
                    left.into_iter().for_each(|slot| self.close(slot, now));
                    self.drain();
                    return false;
                }
            }
        }
    }

    fn take_message(&mut self, message: ToWorker, now: Now) {
        match message {
            ToWorker::Open(parts) => self.open(*parts, now),
            ToWorker::Command(id, command, decided) => {
                // A call that has closed hears nothing more.
                let Some(&slot) = self.by_id.get(&id) else { return };
                // However late this thread is told, a recording is as long as the call.
                let decided = self.clock.at(decided).min(now.media);
                self.current = Some(slot);
                let Some(call) = self.slots.get_mut(slot).and_then(|slot| slot.call.as_mut()) else { return };
                if command == MediaCommand::Close {
                    call.end(decided);
                    self.close(slot, now);
                } else {
                    call.handle(command, &mut self.recorder, now.media, decided);
                    set_deadline(&mut self.deadlines, slot, call);
                }
                self.current = None;
            }
        }
    }

    fn open(&mut self, parts: Parts, now: Now) {
        let call = Box::new(Call::new(parts));
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            self.deadlines.push(MediaTime::NEVER);
            self.slots.len() - 1
        });
        let Some(place) = self.slots.get_mut(slot) else { return };
        for (socket, which) in call.sockets().into_iter().zip(0u8..) {
            if let Err(error) = self.poller.add(socket, token(place.generation, slot, which)) {
                // Out of watches (fs.epoll.max_user_watches): this leg stays deaf, and silence will end its
                // call.
                tracing::error!(%error, "media socket cannot be watched");
            }
        }
        set_deadline(&mut self.deadlines, slot, &call);
        self.by_id.insert(call.id, slot);
        place.call = Some(call);
        self.publish(now.media);
    }

    /// Reads all sockets that have something, in rounds, so that no flood at one of them holds up the others.
    /// Messages are taken after the kernel's word and before the packets: what was told before a packet was
    /// sent applies to it.
    fn receive(&mut self) -> io::Result<bool> {
        let mut ready = std::mem::take(&mut self.ready);
        for round in 0..ROUNDS {
            if round > 0 || ready.is_empty() {
                self.poller.wait(Some(Duration::ZERO), &mut ready)?;
            }
            let now = self.clock.now();
            if !self.take_messages(now) {
                return Ok(false);
            }
            // Being woken says nothing of packets.
            let idle = ready.iter().all(|token| *token == WAKE);
            let again = self.harvest(now);
            for token in ready.iter().copied() {
                match token {
                    WAKE => self.shared.wake.clear(),
                    _ => {
                        self.heard = now.media;
                        self.read(token, now);
                    }
                }
            }
            if idle && !again {
                break;
            }
        }
        self.ready = ready;
        Ok(true)
    }

    /// Reads one packet of the peer, and whatever of no use lies before it.
    #[inline]
    fn read(&mut self, token: u64, now: Now) {
        let (generation, slot, which) = parts(token);
        let of_now = |place: &&mut Slot| place.generation == generation && !place.seating.is_leaving();
        let Some(place) = self.slots.get_mut(slot).filter(of_now) else { return };
        let Some(call) = place.call.as_mut() else { return };
        self.current = Some(slot);
        let mut bench = Bench { now, counters: &mut self.counters, ring: sender(&mut self.ring) };
        let mut flows = false;
        for _ in 0..BURST {
            let [a, a_rtcp, b, b_rtcp] = call.sockets();
            let socket = match which {
                0 => a,
                1 => a_rtcp,
                2 => b,
                _ => b_rtcp,
            };
            // An error is no packet; the socket is asked again when the kernel says so.
            let Ok((length, from)) = socket.recv_from(self.datagram.as_mut_slice()) else { break };
            let datagram = self.datagram.get_mut(..length).unwrap_or_default();
            let (accepted, moved) = call.on_packet(which, datagram, from, &mut self.recorder, &mut bench);
            if moved {
                set_deadline(&mut self.deadlines, slot, call);
            }
            if accepted {
                flows = which % 2 == 0;
                break;
            }
        }
        self.current = None;
        if flows {
            self.seat(slot);
        }
    }

    fn fire(&mut self, now: Now) {
        for slot in 0..self.deadlines.len() {
            if self.deadlines.get(slot).is_none_or(|deadline| *deadline > now.media) {
                continue;
            }
            let Some(call) = self.slots.get_mut(slot).and_then(|slot| slot.call.as_mut()) else { continue };
            self.current = Some(slot);
            let mut bench = Bench { now, counters: &mut self.counters, ring: sender(&mut self.ring) };
            call.fire(&mut bench, &mut self.scratch);
            set_deadline(&mut self.deadlines, slot, call);
        }
        self.current = None;
    }

    /// Ends a call's media: sockets first, then its ports may rest, then it is told.
    fn close(&mut self, slot: usize, now: Now) {
        self.current = Some(slot);
        let Some(call) = self.slots.get_mut(slot).and_then(|slot| slot.call.as_mut()) else { return };
        let mut bench = Bench { now, counters: &mut self.counters, ring: sender(&mut self.ring) };
        let statistics = call.close(&mut bench, &mut self.scratch);
        self.depart(slot, statistics, now);
        self.current = None;
    }

    /// Takes the call out of its slot, which then waits for another one.
    fn empty(&mut self, slot: usize) -> Option<Box<Call>> {
        let place = self.slots.get_mut(slot)?;
        let call = place.call.take()?;
        place.generation = place.generation.wrapping_add(1);
        place.seating = Seating::default();
        if let Some(deadline) = self.deadlines.get_mut(slot) {
            *deadline = MediaTime::NEVER;
        }
        self.by_id.remove(&call.id);
        self.free.push(slot);
        Some(call)
    }

    fn release(&mut self, call: Box<Call>, statistics: CallStatistics, now: Now) {
        let (ports, recording, events) = (call.ports(), call.recording(), call.events());
        let ended = call.ended().unwrap_or(now.media);
        drop(call);
        let mut pool = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
        ports.into_iter().for_each(|port| pool.free(port, now.media));
        drop(pool);
        self.shared.calls.fetch_sub(1, Ordering::Relaxed);
        match recording {
            Some(id) => self.recorder.finish(id, statistics, ended, now.media),
            None => events(MediaEvent::Closed(statistics)),
        }
    }

    /// We erred in one call: that call alone ends.
    fn bury(&mut self) {
        let now = self.clock.now();
        tracing::error!("a call's media panicked and is closed");
        let Some(slot) = self.current.take() else {
            // Of no call: when it comes again at once, the machine is not to be kept busy with it.
            std::thread::sleep(TICK);
            return;
        };
        let buried = AssertUnwindSafe(|| self.depart(slot, CallStatistics::default(), now));
        if catch_unwind(buried).is_err() {
            tracing::error!("a call's event handler panicked");
        }
    }

    fn publish(&mut self, now: MediaTime) {
        self.published = now;
        let counters = &mut self.counters;
        counters.recordings = self.recorder.live() as u64;
        counters.unrecorded = self.recorder.lost();
        counters.unwritten = self.recorder.unwritten();
        counters.on_io_uring = u64::from(self.ring.is_some());
        *self.shared.published.lock().unwrap_or_else(PoisonError::into_inner) = *counters;
    }
}

fn set_deadline(deadlines: &mut [MediaTime], slot: usize, call: &Call) {
    if let Some(deadline) = deadlines.get_mut(slot) {
        *deadline = call.deadline();
    }
}

//! Calls whose media flows have seats in the ring: how they get them, what comes from there, and how they leave.
//!
//! A call begins with all its sockets at epoll. The first packet of one of its peers seats it: the ring receives from
//! both RTP sockets and sends from them; the RTCP sockets stay. A call that ends has left when the kernel has told
//! that nothing is under way on its sockets; only then they are closed and its ports free. When the ring fails, its
//! calls go on at epoll.

use super::super::ring::{Completion, Datagram, Ring, Sender, TakenOver};
use super::{Bench, Now, TICK, Worker, set_deadline};
use crate::time::{MediaTime, milliseconds};
use crate::{CallStatistics, Side};
use std::io;
use std::time::Duration;

/// Within this a cancelled operation has ended, or the ring is no good.
const PARTING: u64 = milliseconds(2000);
/// How long the end of the engine looks for parting calls at once.
const LAST_TICK: Duration = Duration::from_millis(5);
/// Receive operations of a call that empty datagrams may end. Each costs a new one: epoll bears a spray of them better.
const EMPTY: u8 = 200;

/// How a call stands with the ring.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Seating {
    state: State,
    /// Legs that the ring receives for.
    receiving: [bool; 2],
    /// Receive operations that ended without an error.
    empty: u8,
    leaving: Option<Leaving>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Standing,
    Seated,
    /// The ring would not have it.
    Refused,
}

/// A call that has ended, while operations on its sockets have not.
#[derive(Debug, Clone, Copy)]
struct Leaving {
    since: MediaTime,
    statistics: CallStatistics,
    /// What was queued when it ended, its own packets among them: [`Ring::mark`].
    queued: u64,
}

impl Leaving {
    /// Nothing of it is under way, and nothing waits to be.
    fn is_done(&self, receiving: [bool; 2], ring: Option<&Ring>) -> bool {
        receiving == [false; 2] && ring.is_none_or(|ring| ring.is_past(self.queued))
    }
}

impl Seating {
    pub(super) fn is_leaving(&self) -> bool {
        self.leaving.is_some()
    }
}

/// Names a socket of a call in events and completions. A slot's next call has another generation, so that nothing that
/// comes late hits it.
#[inline]
pub(super) fn token(generation: u32, slot: usize, which: u8) -> u64 {
    (u64::from(generation) << 32) | ((slot as u64) << 2) | u64::from(which)
}

/// Generation, slot and socket.
#[inline]
pub(super) fn parts(token: u64) -> (u32, usize, u8) {
    ((token >> 32) as u32, (token as u32 >> 2) as usize, (token & 3) as u8)
}

/// Where packets of seated legs go.
#[inline]
pub(super) fn sender(ring: &mut Option<Box<Ring>>) -> Option<&mut Sender> {
    ring.as_mut().map(|ring| &mut ring.sender)
}

/// The place of a call's A-leg; its B-leg has the next one.
fn file(slot: usize) -> u32 {
    u32::try_from(slot.saturating_mul(2)).unwrap_or(u32::MAX - 1)
}

impl Worker {
    /// Gives a call seats, unless it has them.
    #[inline]
    pub(super) fn seat(&mut self, slot: usize) {
        let stands =
            |place: &super::Slot| place.seating.state == State::Standing && !place.seating.is_leaving();
        if self.ring.is_some() && self.slots.get(slot).is_some_and(stands) {
            self.take_over(slot);
        }
    }

    #[cold]
    fn take_over(&mut self, slot: usize) {
        let (Some(ring), Some(place)) = (&mut self.ring, self.slots.get_mut(slot)) else { return };
        let Some(call) = &mut place.call else { return };
        let tokens = [token(place.generation, slot, 0), token(place.generation, slot, 2)];
        let [a, _, b, _] = call.sockets();
        place.seating.state = State::Refused;
        match ring.take_over(file(slot), [a, b], tokens) {
            Ok(TakenOver { seats, receiving }) => {
                for (socket, _) in [a, b].into_iter().zip(receiving).filter(|(_, takes)| *takes) {
                    if let Err(error) = self.poller.remove(socket) {
                        tracing::debug!(%error, "a media socket is watched twice");
                    }
                }
                place.seating.state = State::Seated;
                place.seating.receiving = receiving;
                call.sit(Some(seats));
            }
            Err(refusal) => tracing::debug!(%refusal, "a call's media stays with epoll"),
        }
    }

    /// Takes what the ring has for us. True when there may be more at once.
    pub(super) fn harvest(&mut self, now: Now) -> bool {
        let Some(ring) = &mut self.ring else { return false };
        if let Err(error) = ring.settle() {
            self.abandon(&error, now);
            return true;
        }
        let mut again = false;
        while let Some(completion) = self.ring.as_mut().and_then(|ring| ring.next()) {
            match completion {
                Completion::Received { token, datagram, ended, error } => {
                    if let Some(datagram) = datagram {
                        self.take_datagram(token, datagram, now);
                    }
                    if ended {
                        again |= self.receive_ended(token, error, now);
                    }
                }
                Completion::Unsent { token, relayed, .. } => self.unsend(token, relayed),
            }
        }
        if let Some(ring) = self.ring.as_mut().filter(|_| again) {
            ring.hurry();
        }
        self.tidy(now);
        again
    }

    #[inline]
    fn take_datagram(&mut self, token: u64, datagram: Datagram, now: Now) {
        let (generation, slot, which) = parts(token);
        let Some(ring) = &mut self.ring else { return };
        let of_now = |place: &&mut super::Slot| place.generation == generation && !place.seating.is_leaving();
        let Some(place) = self.slots.get_mut(slot).filter(of_now) else { return };
        let Some(call) = &mut place.call else { return };
        let (bytes, Some(from), sender) = ring.open(datagram) else { return };
        self.heard = now.media;
        self.current = Some(slot);
        let mut bench = Bench { now, counters: &mut self.counters, ring: Some(sender) };
        let (_, moved) = call.on_packet(which, bytes, from, &mut self.recorder, &mut bench);
        if moved {
            set_deadline(&mut self.deadlines, slot, call);
        }
        self.current = None;
    }

    /// An operation that receives has ended. True when another one was begun in its place.
    #[cold]
    fn receive_ended(&mut self, token: u64, error: Option<i32>, now: Now) -> bool {
        let (generation, slot, which) = parts(token);
        let (leg, side, socket) = if which < 2 { (0, Side::A, 0) } else { (1, Side::B, 2) };
        let Some(place) = self.slots.get_mut(slot).filter(|place| place.generation == generation) else {
            return false;
        };
        if let Some(receiving) = place.seating.receiving.get_mut(leg) {
            *receiving = false;
        }
        if place.seating.is_leaving() {
            self.part(slot, now);
            return false;
        }
        let (Some(ring), Some(call)) = (&mut self.ring, &place.call) else { return false };
        // Buffers had run out, or completions had no room, or somebody sent nothing at all: that is no fault.
        if error.is_none() {
            place.seating.empty = place.seating.empty.saturating_add(1);
        }
        let goes_on = matches!(error, None | Some(libc::ENOBUFS)) && place.seating.empty < EMPTY;
        if goes_on && call.seat(side).is_some_and(|seat| ring.receive(seat)) {
            if let Some(receiving) = place.seating.receiving.get_mut(leg) {
                *receiving = true;
            }
            return true;
        }
        let error = error.map(io::Error::from_raw_os_error);
        tracing::debug!(?error, "a media socket goes back to epoll");
        if let Some(socket) = call.sockets().get(socket)
            && let Err(error) = self.poller.add(*socket, token)
        {
            tracing::error!(%error, "media socket cannot be watched");
        }
        false
    }

    #[cold]
    fn unsend(&mut self, token: u64, relayed: bool) {
        let (generation, slot, which) = parts(token);
        let counters = &mut self.counters;
        counters.unsent += 1;
        counters.sent = counters.sent.saturating_sub(1);
        counters.relayed = counters.relayed.saturating_sub(u64::from(relayed));
        let of_now = |place: &&mut super::Slot| place.generation == generation && !place.seating.is_leaving();
        if let Some(call) = self.slots.get_mut(slot).filter(of_now).and_then(|place| place.call.as_mut()) {
            call.unsend(if which < 2 { Side::A } else { Side::B });
        }
    }

    /// A call has ended: it is told when nothing is under way on its sockets, which without a seat is now.
    pub(super) fn depart(&mut self, slot: usize, statistics: CallStatistics, now: Now) {
        let Some(place) = self.slots.get_mut(slot) else { return };
        let Some(call) = place.call.as_mut() else { return };
        let (Some(ring), State::Seated) = (&mut self.ring, place.seating.state) else {
            if let Some(call) = self.empty(slot) {
                self.release(call, statistics, now);
            }
            return;
        };
        self.by_id.remove(&call.id);
        if let Some(deadline) = self.deadlines.get_mut(slot) {
            *deadline = MediaTime::NEVER;
        }
        call.sit(None);
        self.leaving += 1;
        let [a, b] = place.seating.receiving;
        let [rtp_a, rtcp_a, rtp_b, rtcp_b] = call.sockets();
        for (socket, watched) in [(rtp_a, !a), (rtcp_a, true), (rtp_b, !b), (rtcp_b, true)] {
            if watched && let Err(error) = self.poller.remove(socket) {
                tracing::debug!(%error, "a media socket was not watched");
            }
        }
        let legs = [(a, 0), (b, 2)].into_iter().filter(|(receiving, _)| *receiving);
        ring.release(file(slot), legs.map(|(_, which)| token(place.generation, slot, which)));
        let queued = ring.mark();
        place.seating.leaving = Some(Leaving { since: now.media, statistics, queued });
        self.part(slot, now);
    }

    /// Closes a call that is leaving, when nothing is under way any more.
    fn part(&mut self, slot: usize, now: Now) -> bool {
        let Some(place) = self.slots.get_mut(slot) else { return true };
        let Some(leaving) = place.seating.leaving else { return true };
        if !leaving.is_done(place.seating.receiving, self.ring.as_deref()) {
            return false;
        }
        self.leaving = self.leaving.saturating_sub(1);
        if let Some(call) = self.empty(slot) {
            self.release(call, leaving.statistics, now);
        }
        true
    }

    /// Looks after calls that are leaving.
    fn tidy(&mut self, now: Now) {
        if self.leaving == 0 {
            return;
        }
        let mut stuck = false;
        for slot in 0..self.slots.len() {
            let Some(leaving) = self.slots.get(slot).and_then(|place| place.seating.leaving) else {
                continue;
            };
            stuck |= !self.part(slot, now) && now.media.since(leaving.since) > PARTING;
        }
        if stuck {
            self.abandon(&io::ErrorKind::TimedOut.into(), now);
        }
    }

    /// The ring is no good: all go on with epoll.
    #[cold]
    pub(super) fn abandon(&mut self, error: &io::Error, now: Now) {
        if self.ring.take().is_none() {
            return;
        }
        tracing::error!(%error, "io_uring failed; this media thread goes on with epoll");
        for slot in 0..self.slots.len() {
            let Some(place) = self.slots.get_mut(slot) else { continue };
            let receiving = std::mem::take(&mut place.seating.receiving);
            if place.seating.is_leaving() {
                self.part(slot, now);
                continue;
            }
            let Some(call) = &mut place.call else { continue };
            call.sit(None);
            let [a, _, b, _] = call.sockets();
            for ((socket, which), was) in [(a, 0), (b, 2)].into_iter().zip(receiving) {
                if was && let Err(error) = self.poller.add(socket, token(place.generation, slot, which)) {
                    tracing::error!(%error, "media socket cannot be watched");
                }
            }
        }
    }

    /// Waits for a tick, by the ring while it has something to do.
    pub(super) fn pause(&mut self) {
        match &mut self.ring {
            Some(ring) if ring.is_busy() => {
                if let Err(error) = ring.tick(usize::MAX, TICK) {
                    let now = self.clock.now();
                    self.abandon(&error, now);
                }
            }
            _ => std::thread::sleep(TICK),
        }
    }

    /// The engine ends: so do its calls, in good order.
    pub(super) fn drain(&mut self) {
        while self.leaving > 0 {
            let outcome = self.ring.as_mut().map_or(Ok(()), |ring| ring.tick(1, LAST_TICK));
            let now = self.clock.now();
            match outcome {
                Ok(()) => drop(self.harvest(now)),
                Err(error) => self.abandon(&error, now),
            }
        }
    }
}

#[cfg(test)]
mod tests;

//! One call on its worker: two legs, what joins them, and what they tell.
//!
//! ```text
//! packet → Leg::accept (source, header, payload type) → keys collected? → recorder → bridge → the other leg
//! ```

use super::leg::{Bench, Identity, Kind, Leg, MAX_PAYLOAD, Sockets, Told, at_8000};
use super::ring::Seat;
use crate::dtmf::TelephoneEvent;
use crate::quality::{Trouble, Watch};
use crate::recorder::{EventSink, Recorder, RecordingId};
use crate::rtp::Packet;
use crate::time::MediaTime;
use crate::{CallStatistics, Codec, MediaCommand, MediaEvent, Side};
use std::net::{SocketAddr, UdpSocket};
use std::time::Instant;

/// A call's media.
pub(super) struct Call {
    pub(super) id: u64,
    a: Leg,
    b: Leg,
    bridged: bool,
    /// Both legs were answered.
    answered: bool,
    recording: Option<RecordingId>,
    /// When it was decided that the call ends: what comes later is not recorded.
    ended: Option<MediaTime>,
    events: EventSink,
    silence: Silence,
    watch: Watch,
}

/// Watches for the end of all signs of life.
#[derive(Debug, Clone, Copy)]
struct Silence {
    /// Samples without a packet that end the call.
    limit: Option<u64>,
    /// Of any packet of either peer, since a leg was first configured.
    heard: MediaTime,
    /// When to look; never before the first stream and during hold.
    due: MediaTime,
}

/// What the caller's thread prepared.
pub(super) struct Parts {
    pub(super) id: u64,
    pub(super) sockets: [Sockets; 2],
    pub(super) identities: [Identity; 2],
    pub(super) events: EventSink,
    /// In samples.
    pub(super) silence: Option<u64>,
    pub(super) origin: Instant,
}

impl Call {
    pub(super) fn new(parts: Parts) -> Self {
        let Parts { id, sockets: [a, b], identities: [identity_a, identity_b], events, silence, origin } =
            parts;
        Self {
            id,
            a: Leg::new(a, identity_a, origin),
            b: Leg::new(b, identity_b, origin),
            bridged: false,
            answered: false,
            recording: None,
            ended: None,
            events,
            silence: Silence { limit: silence, heard: MediaTime::default(), due: MediaTime::NEVER },
            watch: Watch::default(),
        }
    }

    /// The RTP and RTCP sockets of both legs, in the order of [`Self::on_packet`]'s `socket`.
    pub(super) fn sockets(&self) -> [&UdpSocket; 4] {
        let (a, b) = (&self.a.sockets, &self.b.sockets);
        [&a.rtp, &a.rtcp, &b.rtp, &b.rtcp]
    }

    /// From now on packets of both legs leave through the ring, or no longer.
    pub(super) fn sit(&mut self, seats: Option<[Seat; 2]>) {
        let [a, b] = seats.map_or([None; 2], |seats| seats.map(Some));
        (self.a.seat, self.b.seat) = (a, b);
    }

    /// What a leg's operations in the ring name.
    pub(super) fn seat(&self, side: Side) -> Option<Seat> {
        match side {
            Side::A => self.a.seat,
            Side::B => self.b.seat,
        }
    }

    /// A packet of a leg was not sent.
    pub(super) fn unsend(&mut self, side: Side) {
        self.legs(side).0.unsend();
    }

    pub(super) fn ports(&self) -> [u16; 2] {
        [self.a.sockets.port, self.b.sockets.port]
    }

    pub(super) fn events(&self) -> EventSink {
        self.events.clone()
    }

    pub(super) fn recording(&self) -> Option<RecordingId> {
        self.recording
    }

    /// The call ended at `when`, which may be some time ago.
    pub(super) fn end(&mut self, when: MediaTime) {
        self.ended = Some(when);
    }

    pub(super) fn ended(&self) -> Option<MediaTime> {
        self.ended
    }

    /// When [`Self::fire`] has something to do.
    pub(super) fn deadline(&self) -> MediaTime {
        self.a.due().min(self.b.due()).min(self.silence.due).min(self.watch.due())
    }

    fn legs(&mut self, near: Side) -> (&mut Leg, &mut Leg) {
        match near {
            Side::A => (&mut self.a, &mut self.b),
            Side::B => (&mut self.b, &mut self.a),
        }
    }

    /// Carries out a command of the moment `decided`; [`MediaCommand::Close`] is the worker's.
    pub(super) fn handle(
        &mut self,
        command: MediaCommand,
        recorder: &mut Recorder,
        now: MediaTime,
        decided: MediaTime,
    ) {
        match command {
            MediaCommand::Configure { side, stream } => {
                self.legs(side).0.configure(stream, now);
                // Hold suspends the watch; every other agreement is a sign of life and begins it anew.
                let held = self.a.is_on_hold() || self.b.is_on_hold();
                if held {
                    self.silence.due = MediaTime::NEVER;
                } else {
                    self.silence.heard = now;
                    self.silence.due = self.silence.limit.map_or(MediaTime::NEVER, |limit| now.plus(limit));
                }
                self.watch_anew(now);
            }
            MediaCommand::Play { side, prompt, mode } => self.legs(side).0.play(prompt, mode, now),
            MediaCommand::StopPlay { side } => self.legs(side).0.stop_play(),
            MediaCommand::CollectDigits { side, on } => {
                let (near, far) = self.legs(side);
                near.collect(on, now);
                far.interrupt();
                self.watch_anew(now);
            }
            MediaCommand::SendDigit { side, digit } => {
                if self.bridged {
                    self.legs(side).0.tell(digit, now);
                }
            }
            MediaCommand::Bridge => {
                self.bridged = true;
                self.watch_anew(now);
            }
            MediaCommand::Answered => {
                self.answered = true;
                self.watch_anew(now);
            }
            MediaCommand::Record { directory } => {
                if self.recording.is_none() {
                    let wideband = self.a.is_wideband() && self.b.is_wideband();
                    self.recording = Some(recorder.begin(directory, wideband, self.events.clone(), decided));
                }
            }
            MediaCommand::Close => {}
        }
    }

    /// Which legs owe audio: those that were answered, and who should type a PIN. On hold nobody does.
    fn watch_anew(&mut self, now: MediaTime) {
        let held = self.a.is_on_hold() || self.b.is_on_hold();
        let answered = self.answered;
        let owes = |leg: &Leg| !held && leg.receives() && (answered || leg.collecting);
        self.watch.expect([owes(&self.a), owes(&self.b)], self.bridged, now);
    }

    fn tell(&mut self, trouble: Trouble) {
        match trouble {
            Trouble::Silent(side) => self.legs(side).0.statistics.silences += 1,
            Trouble::Unheard(side) => self.legs(side).0.statistics.unheard += 1,
        }
        (self.events)(MediaEvent::Trouble(trouble));
    }

    /// A datagram came on socket 0–3. Returns whether it was the peer's, and whether the deadline may have
    /// moved.
    #[inline]
    pub(super) fn on_packet(
        &mut self,
        socket: u8,
        datagram: &mut [u8],
        from: SocketAddr,
        recorder: &mut Recorder,
        bench: &mut Bench<'_>,
    ) -> (bool, bool) {
        let side = if socket < 2 { Side::A } else { Side::B };
        if socket % 2 == 1 || self.legs(side).0.is_muxed_report(datagram) {
            let Some(told) = self.legs(side).0.on_rtcp(datagram, from, bench) else { return (false, false) };
            self.silence.heard = bench.now.media;
            if told == Told::HearsNothing && self.answered && !self.a.is_on_hold() && !self.b.is_on_hold() {
                self.tell(Trouble::Unheard(side));
            }
            return (true, false);
        }
        let (near, far) = self.legs(side);
        let Some((packet, kind)) = near.accept(datagram, from, bench) else { return (false, false) };
        let moved = match kind {
            _ if !near.receives() => false,
            Kind::Unknown => {
                far.skip(&packet.header);
                false
            }
            // RFC 3389: the level of a silence. The recording has silence there, and so has the other party.
            Kind::Noise => {
                far.skip(&packet.header);
                self.watch.on_noise(side, bench.now.media);
                false
            }
            Kind::Event => {
                self.watch.on_audio(side, bench.now.media);
                self.on_key(side, &packet, recorder, bench)
            }
            Kind::Audio(codec) if near.keeps_audio() => {
                self.watch.on_audio(side, bench.now.media);
                self.on_kept_audio(side, &packet, codec, bench);
                false
            }
            Kind::Audio(_) if packet.payload.is_empty() || packet.payload.len() > MAX_PAYLOAD => {
                near.drop_packet(bench);
                far.skip(&packet.header);
                false
            }
            Kind::Audio(codec) => {
                self.watch.on_audio(side, bench.now.media);
                if let Some(id) = self.recording {
                    recorder.audio((id, side), &packet.header, codec, packet.payload, bench.now.media);
                }
                // Borrowed anew: the recording is the call's and not a leg's.
                let bridged = self.bridged;
                let far = self.legs(side).1;
                bridged && far.relay_audio(&packet.header, codec, packet.payload, bench)
            }
        };
        self.silence.heard = bench.now.media;
        (true, moved)
    }

    /// Audio in which `side` may type: nobody else hears it, and no recording does.
    #[cold]
    fn on_kept_audio(&mut self, side: Side, packet: &Packet<'_>, codec: Codec, bench: &Bench<'_>) {
        let events = self.events.clone();
        let (near, far) = self.legs(side);
        far.skip(&packet.header);
        if packet.payload.len() <= MAX_PAYLOAD {
            let told = |digit| events(MediaEvent::Digit { side, digit });
            near.hear_keys(packet, codec, bench.now.media, told);
        }
    }

    /// A telephone-event packet of `side`. True when the deadline may have moved.
    fn on_key(
        &mut self,
        side: Side,
        packet: &Packet<'_>,
        recorder: &mut Recorder,
        bench: &mut Bench<'_>,
    ) -> bool {
        let (bridged, recording, now) = (self.bridged, self.recording, bench.now);
        let (near, far) = self.legs(side);
        let header = &packet.header;
        let clock = near.event_clock();
        if near.collecting {
            near.withheld = true;
            let digit = near.detector.on_packet(header, packet.payload, now.instant);
            if let Some(digit) = digit {
                (self.events)(MediaEvent::Digit { side, digit });
            }
            return false;
        }
        if let Some(id) = recording
            && let Ok(event) = TelephoneEvent::decode(packet.payload)
        {
            recorder.key((id, side), header, at_8000(event.duration.into(), clock), now.media);
        }
        if !bridged {
            return false;
        }
        let press = near.detector.observe(header, packet.payload, now.instant);
        if press.is_some_and(|press| press.is_new) {
            near.withheld = false;
        }
        // The end of a key that was collected, a PIN's last digit above all, is not for the other party;
        // neither are stragglers of keys before the newest one, for which that cannot be told.
        match press.filter(|_| !near.withheld) {
            Some(press) => far.relay_key(header, packet.payload, press, clock, bench),
            None => {
                far.skip(header);
                false
            }
        }
    }

    /// Does what is due.
    pub(super) fn fire(&mut self, bench: &mut Bench<'_>, scratch: &mut Vec<u8>) {
        let now = bench.now.media;
        for side in [Side::A, Side::B] {
            if self.legs(side).0.fire(bench, scratch) {
                (self.events)(MediaEvent::PlayFinished { side });
            }
        }
        if self.watch.due() <= now {
            for trouble in self.watch.check(now).into_iter().flatten() {
                self.tell(trouble);
            }
        }
        if self.silence.due <= now {
            let quiet_at = self.silence.heard.plus(self.silence.limit.unwrap_or(u64::MAX));
            self.silence.due = quiet_at;
            if quiet_at <= now {
                // Told again after as long, because a call that only rings may go on.
                self.silence.heard = now;
                self.silence.due = self.silence.limit.map_or(MediaTime::NEVER, |limit| now.plus(limit));
                (self.events)(MediaEvent::Silence);
            }
        }
    }

    /// Takes leave of both peers.
    pub(super) fn close(&mut self, bench: &mut Bench<'_>, scratch: &mut Vec<u8>) -> CallStatistics {
        CallStatistics { a: self.a.close(bench, scratch), b: self.b.close(bench, scratch) }
    }
}

#[cfg(test)]
mod tests;

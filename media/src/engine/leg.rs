//! One leg on its worker: two sockets, the stream that was agreed, what comes in and what goes out.
//!
//! RFC 3550 §5, §6; RFC 4733; RFC 3711. The source is asked first, for each packet; then its tag, if it has one; then
//! the header is read; then it is decided what the packet is. Nothing of an incoming packet but its payload, shifted numbers and the marker
//! ever leaves.

use super::clock::Now;
use super::counters::EngineStatistics;
use super::io;
use super::press::{self, Presses};
use super::ring::{Seat, Sender};
use crate::codec::Coder;
use crate::cut::{Cutter, Piece};
use crate::dtmf::{EventDetector, EventRelay, Press, TelephoneEvent};
use crate::inband::ToneEar;
use crate::player::{KeyTone, MAX_FRAME, Player, Turn, frame_samples};
use crate::quality::{FarEar, Way};
use crate::relay::{Incoming, OutStream, Outgoing};
use crate::rtcp::{self, Cname, LastSenderReport, NtpTime, ReportBlock, SenderInfo};
use crate::rtp::{self, Header, Packet, ReceiverStatistics};
use crate::source::Source;
use crate::srtp::{self, Srtp};
use crate::time::{MediaTime, SAMPLE_RATE_HZ, milliseconds, samples_in};
use crate::{Codec, Digit, LegStatistics, PlayMode, Prompt, Stream};
use std::collections::VecDeque;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

/// The longest payload that is relayed: 160 ms.
pub(super) const MAX_PAYLOAD: usize = 1280;
/// The longest packet that is sent, with room for its tag.
const MAX_PACKET: usize = rtp::HEADER_LENGTH + MAX_PAYLOAD + srtp::RTP_TRAILER;
/// Frames made up for at once after the engine was late.
const MAX_CATCH_UP: usize = 12;
/// Keys that wait for the tone of the one before them to end.
const MAX_KEYS: usize = 8;
/// Silence between two tones.
const KEY_PAUSE: u64 = milliseconds(40);
/// The tone of the last collected key is kept from the other party for at most so long.
const LONGEST_TAIL: u64 = milliseconds(10_000);
/// Round trips beyond this are an error of the peer's clock or reckoning.
const LONGEST_TRIP: Duration = Duration::from_secs(30);

/// A leg's sockets as the caller's thread bound them.
#[derive(Debug)]
pub(super) struct Sockets {
    pub(super) rtp: UdpSocket,
    pub(super) rtcp: UdpSocket,
    /// The RTP socket's port.
    pub(super) port: u16,
}

/// What a payload type stands for on this leg.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Not agreed.
    Unknown,
    Audio(Codec),
    Event,
    /// Comfort noise (RFC 3389): a sign of life, and silence.
    Noise,
}

/// What a report of the peer tells its call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    Nothing,
    /// Nothing of what we send arrives.
    HearsNothing,
}

/// Payload type of comfort noise (RFC 3551 §6), sent by some without being agreed on.
const NOISE: usize = 13;

/// What the worker lends a leg for the length of one call.
pub(super) struct Bench<'a> {
    pub(super) now: Now,
    pub(super) counters: &'a mut EngineStatistics,
    /// Takes the packets of legs that have a seat.
    pub(super) ring: Option<&'a mut Sender>,
}

/// The agreed stream, made ready for looking things up per packet.
#[derive(Debug)]
struct Agreed {
    stream: Stream,
    kinds: [Kind; 128],
    rtp: Source,
    rtcp: Source,
    /// The peer listens, and its address can be sent to.
    sends: bool,
    /// Bytes of a packet of ours, and of the longest one that the peer takes.
    frame: usize,
    longest: usize,
}

#[derive(Debug)]
pub(super) struct Leg {
    pub(super) sockets: Sockets,
    /// Packets leave through the ring.
    pub(super) seat: Option<Seat>,
    agreed: Option<Agreed>,
    /// The stream is encrypted, both ways.
    srtp: Option<Box<Srtp>>,
    out: OutStream,
    coder: Coder,
    /// Relayed audio on its way into packets of another length; made when it is first needed.
    cutter: Option<Box<Cutter>>,
    events: EventRelay,
    pub(super) detector: EventDetector,
    /// The peer's keys are being collected.
    pub(super) collecting: bool,
    /// The newest key of the peer was pressed while keys were collected: nothing of it is ever relayed.
    pub(super) withheld: bool,
    /// Hears keys as tones, while they are collected on a leg without telephone-event; and after that until the last
    /// one has ended, which is nobody else's to hear.
    ear: Option<Box<ToneEar>>,
    /// The last collected key is waited for no longer.
    ear_until: MediaTime,
    player: Option<Player>,
    /// A prompt that waits for the stream.
    waiting: Option<(Prompt, PlayMode)>,
    /// Tones in place of keys; the first one sounds, the last one may still be held down.
    keys: VecDeque<KeyTone>,
    /// The newest key found no room among them.
    key_dropped: bool,
    /// Keys as telephone-events of our own making.
    presses: Presses,
    /// Frames were left out: the next one begins a talk-spurt.
    gap: bool,
    reception: ReceiverStatistics,
    reports: Reports,
    far_ear: FarEar,
    pub(super) statistics: LegStatistics,
}

/// RTCP of one leg.
#[derive(Debug)]
struct Reports {
    cname: Cname,
    due: MediaTime,
    /// A report was sent.
    told: bool,
    origin: Instant,
    octets: u64,
    /// RTP packets sent up to the report before the last one, and up to the last.
    sent_before: [u64; 2],
    last_from_peer: Option<LastSenderReport>,
}

/// What makes a leg's streams its own: all random.
#[derive(Debug, Clone, Copy)]
pub(super) struct Identity {
    pub(super) ssrc: u32,
    pub(super) sequence: u16,
    pub(super) timestamp: u32,
    pub(super) cname: [u8; 12],
}

impl Leg {
    pub(super) fn new(sockets: Sockets, identity: Identity, origin: Instant) -> Self {
        Self {
            sockets,
            seat: None,
            agreed: None,
            srtp: None,
            out: OutStream::new(identity.ssrc, identity.sequence, identity.timestamp),
            coder: Coder::default(),
            cutter: None,
            events: EventRelay::new(SAMPLE_RATE_HZ, SAMPLE_RATE_HZ),
            detector: EventDetector::new(),
            collecting: false,
            withheld: false,
            ear: None,
            ear_until: MediaTime::NEVER,
            player: None,
            waiting: None,
            keys: VecDeque::new(),
            key_dropped: false,
            presses: Presses::default(),
            gap: false,
            reception: ReceiverStatistics::new(),
            reports: Reports {
                cname: Cname::from_random(identity.cname),
                due: MediaTime::NEVER,
                told: false,
                origin,
                octets: 0,
                sent_before: [0; 2],
                last_from_peer: None,
            },
            far_ear: FarEar::default(),
            statistics: LegStatistics::default(),
        }
    }

    /// Takes over what an offer/answer exchange came to. Our own stream goes on.
    pub(super) fn configure(&mut self, stream: Stream, now: MediaTime) {
        let mut kinds = [Kind::Unknown; 128];
        let audio = stream.receive.iter().map(|(number, codec)| (*number, Kind::Audio(*codec)));
        let events = stream.telephone_event.iter().map(|format| (format.receive_payload_type, Kind::Event));
        for (number, kind) in audio.chain(events) {
            if let Some(entry) = kinds.get_mut(usize::from(number)) {
                *entry = kind;
            }
        }
        if let Some(kind) = kinds.get_mut(NOISE).filter(|kind| **kind == Kind::Unknown) {
            *kind = Kind::Noise;
        }
        let mut rtp = Source::new(stream.remote, stream.source);
        let mut rtcp = Source::new(stream.remote_rtcp, stream.source).or(stream.remote);
        let reachable = stream.remote.port() != 0 && !stream.remote.ip().is_unspecified();
        match &self.agreed {
            // RFC 3264 §8.4: a hold by the null address names no source. What its peer still sends comes from
            // where it came from before.
            Some(before) if !reachable => (rtp, rtcp) = (before.rtp, before.rtcp),
            Some(before) => (rtp, rtcp) = (before.rtp.succeed(rtp), before.rtcp.succeed(rtcp)),
            None => {
                self.reports.due = now.plus(report_interval() / 2);
                if let Some((prompt, mode)) = self.waiting.take() {
                    self.player = Some(Player::new(prompt, mode, now));
                }
            }
        }
        let sends = reachable && stream.direction.sends();
        if stream.telephone_event.is_some() {
            self.keys.clear();
        } else {
            self.presses.clear();
        }
        match (&mut self.srtp, &stream.srtp) {
            (Some(srtp), Some(keys)) => srtp.agree(keys),
            (srtp, keys) => *srtp = keys.as_ref().map(|keys| Box::new(Srtp::new(keys))),
        }
        // What waits is of the codec before.
        self.cutter = None;
        let frame = frame_samples(stream.ptime_ms);
        let longest = stream.max_packet_ms.map_or(usize::MAX, |most| milliseconds(most.into()) as usize);
        self.agreed = Some(Agreed { stream, kinds, rtp, rtcp, sends, frame, longest });
    }

    /// True when the peer's audio has 16 000 samples per second.
    pub(super) fn is_wideband(&self) -> bool {
        self.agreed.as_ref().is_some_and(|agreed| agreed.stream.codec.is_wideband())
    }

    /// True for RTCP that came on the RTP socket by agreement (RFC 5761 §4: packet types 192 to 223).
    #[inline]
    pub(super) fn is_muxed_report(&self, datagram: &[u8]) -> bool {
        self.agreed.as_ref().is_some_and(|agreed| agreed.stream.rtcp_mux)
            && datagram.get(1).is_some_and(|packet_type| (192..=223).contains(packet_type))
    }

    /// What the peer's telephone-events count in.
    pub(super) fn event_clock(&self) -> u32 {
        let format = self.agreed.as_ref().and_then(|agreed| agreed.stream.telephone_event);
        format.map_or(SAMPLE_RATE_HZ, |format| format.clock_rate.max(1))
    }

    pub(super) fn is_configured(&self) -> bool {
        self.agreed.is_some()
    }

    /// True when the peer, or we, asked for silence (RFC 3264 §8.4).
    pub(super) fn is_on_hold(&self) -> bool {
        self.agreed.as_ref().is_some_and(|agreed| agreed.stream.direction != crate::Direction::SendRecv)
    }

    /// True when the peer's audio and keys count.
    pub(super) fn receives(&self) -> bool {
        self.agreed.as_ref().is_some_and(|agreed| agreed.stream.direction.receives())
    }

    pub(super) fn play(&mut self, prompt: Prompt, mode: PlayMode, now: MediaTime) {
        self.keys.clear();
        self.cutter = None;
        if self.is_configured() {
            self.player = Some(Player::new(prompt, mode, now));
        } else {
            self.waiting = Some((prompt, mode));
        }
    }

    pub(super) fn stop_play(&mut self) {
        self.player = None;
        self.waiting = None;
    }

    /// The first questions about an RTP packet: whose, and what is it? `None`: dropped, and nothing has
    /// changed.
    #[inline]
    pub(super) fn accept<'a>(
        &mut self,
        datagram: &'a mut [u8],
        from: SocketAddr,
        bench: &mut Bench<'_>,
    ) -> Option<(Packet<'a>, Kind)> {
        let srtp = self.srtp.as_deref_mut();
        let statistics = &mut self.statistics;
        let accepted = self.agreed.as_mut().filter(|agreed| agreed.rtp.accepts(from)).and_then(|agreed| {
            let datagram = match srtp {
                None => &*datagram,
                Some(srtp) => {
                    let length = srtp.unprotect_rtp(datagram);
                    if length.is_none() {
                        statistics.unauthentic += 1;
                        bench.counters.unauthentic += 1;
                    }
                    datagram.get(..length?)?
                }
            };
            let packet = Packet::parse(datagram).ok()?;
            agreed.rtp.lock(from);
            let kind = agreed.kinds.get(usize::from(packet.header.payload_type)).copied()?;
            Some((packet, kind))
        });
        let Some((packet, kind)) = accepted else {
            self.drop_packet(bench);
            return None;
        };
        match kind {
            Kind::Audio(_) => self.reception.on_packet(&packet.header, bench.now.media),
            Kind::Event | Kind::Noise | Kind::Unknown => self.reception.on_event_packet(&packet.header),
        };
        if kind == Kind::Unknown {
            self.drop_packet(bench);
        } else {
            self.statistics.received += 1;
            bench.counters.received += 1;
        }
        Some((packet, kind))
    }

    /// Begins or ends the collection of the peer's keys.
    pub(super) fn collect(&mut self, on: bool, now: MediaTime) {
        self.collecting = on;
        self.ear_until = if on { MediaTime::NEVER } else { now.plus(LONGEST_TAIL) };
        if on || self.ear.as_ref().is_some_and(|ear| !ear.is_sounding()) {
            self.ear = None;
        }
    }

    /// The peer's audio is nobody else's to hear: its keys are being collected, or the last of them still sounds.
    #[inline]
    pub(super) fn keeps_audio(&self) -> bool {
        self.collecting || self.ear.is_some()
    }

    /// Looks for keys in the peer's audio, which goes nowhere else.
    #[cold]
    pub(super) fn hear_keys(
        &mut self,
        packet: &Packet<'_>,
        codec: Codec,
        now: MediaTime,
        mut told: impl FnMut(Digit),
    ) {
        // A leg with telephone-event sends its keys in it; a tone beside it would be the same key once more.
        let has_events = self.agreed.as_ref().is_none_or(|agreed| agreed.stream.telephone_event.is_some());
        if has_events || now > self.ear_until {
            self.ear = None;
            return;
        }
        let collecting = self.collecting;
        let ear = self.ear.get_or_insert_with(Box::default);
        let told = |digit| {
            if collecting {
                told(digit);
            }
        };
        ear.on_packet(&packet.header, codec, packet.payload, told);
        if !collecting && !ear.is_sounding() {
            self.ear = None;
        }
    }

    /// Counts a packet that is of no use.
    pub(super) fn drop_packet(&mut self, bench: &mut Bench<'_>) {
        self.statistics.foreign += 1;
        bench.counters.foreign += 1;
    }

    /// Sends the other leg's audio on. True when a prompt has given way to it.
    #[inline]
    pub(super) fn relay_audio(
        &mut self,
        header: &Header,
        codec: Codec,
        payload: &[u8],
        bench: &mut Bench<'_>,
    ) -> bool {
        let gives_way = self.player.as_ref().is_some_and(Player::gives_way);
        let Some(agreed) = self.agreed.as_ref().filter(|agreed| agreed.sends) else {
            self.interrupt();
            return false;
        };
        if self.player.is_some() && !gives_way || !self.keys.is_empty() || self.presses.is_busy() {
            self.interrupt();
            return false;
        }
        let (payload_type, own_codec) = (agreed.stream.send_payload_type, agreed.stream.codec);
        let converts = codec != own_codec;
        let recuts = (converts && payload.len() != agreed.frame) || payload.len() > agreed.longest;
        let incoming = incoming(header, payload.len() as u32);
        let Some(place) = self.out.relay(incoming, bench.now.media) else { return false };
        if gives_way {
            self.player = None;
        }
        if recuts || self.cutter.as_ref().is_some_and(|cutter| !cutter.is_empty()) {
            self.recut(&place, codec, payload, bench);
            return true;
        }
        let mut packet = [0; MAX_PACKET];
        let header = Header {
            marker: place.marker,
            payload_type,
            sequence: place.sequence,
            timestamp: place.timestamp,
            ssrc: self.out.ssrc(),
        };
        let Ok(length) = rtp::encode(&header, payload, &mut packet) else { return gives_way };
        if converts {
            let payload = packet.get_mut(rtp::HEADER_LENGTH..length).unwrap_or_default();
            self.coder.convert(codec, own_codec, payload);
        }
        self.send(&mut packet, length, true, bench);
        gives_way
    }

    /// Sends audio on in packets of this leg's own length.
    #[cold]
    fn recut(&mut self, place: &Outgoing, codec: Codec, payload: &[u8], bench: &mut Bench<'_>) {
        let Some(agreed) = &self.agreed else { return };
        let (own_codec, frame) = (agreed.stream.codec, agreed.frame);
        // What comes late has been made up for by the packets after it.
        if !self.out.is_newest(place) {
            return;
        }
        let mut coded = [0; MAX_PAYLOAD];
        let Some(coded) = coded.get_mut(..payload.len()) else { return };
        coded.copy_from_slice(payload);
        self.coder.convert(codec, own_codec, coded);
        let mut cutter = self.cutter.take().unwrap_or_default();
        let mut packet = [0; MAX_PACKET];
        let mut sequence = place.sequence;
        if !cutter.continues(place.timestamp)
            && let Some(rest) = cutter.take_rest(packet.get_mut(rtp::HEADER_LENGTH..).unwrap_or_default())
        {
            self.send_piece(&mut packet, sequence, rest, bench);
            sequence = sequence.wrapping_add(1);
        }
        cutter.push(place.timestamp, place.marker, coded);
        while let Some(piece) = cutter.take(frame, packet.get_mut(rtp::HEADER_LENGTH..).unwrap_or_default()) {
            self.send_piece(&mut packet, sequence, piece, bench);
            sequence = sequence.wrapping_add(1);
        }
        self.out.recut(sequence.wrapping_sub(place.sequence));
        cutter.wait_until(bench.now.media.plus(2 * frame as u64));
        self.cutter = Some(cutter);
    }

    /// Sends what waits for more audio.
    fn flush(&mut self, bench: &mut Bench<'_>) {
        let mut packet = [0; MAX_PACKET];
        let payload = packet.get_mut(rtp::HEADER_LENGTH..).unwrap_or_default();
        let Some(rest) = self.cutter.as_mut().and_then(|cutter| {
            let rest = cutter.take_rest(payload);
            cutter.wait_until(MediaTime::NEVER);
            rest
        }) else {
            return;
        };
        let sequence = self.out.another();
        self.send_piece(&mut packet, sequence, rest, bench);
    }

    /// The piece's bytes stand behind the place of the header.
    fn send_piece(&mut self, packet: &mut [u8], sequence: u16, piece: Piece, bench: &mut Bench<'_>) {
        let Some(payload_type) = self.agreed.as_ref().map(|agreed| agreed.stream.send_payload_type) else {
            return;
        };
        let Some(head) = packet.first_chunk_mut::<{ rtp::HEADER_LENGTH }>() else { return };
        let Piece { marker, timestamp, length } = piece;
        *head = Header { marker, payload_type, sequence, timestamp, ssrc: self.out.ssrc() }.encode();
        self.send(packet, rtp::HEADER_LENGTH + length, true, bench);
    }

    /// Tells the other leg's key, whose durations are counted at `clock`: as a telephone-event, or as a tone where none was agreed. True when a tone
    /// begins.
    pub(super) fn relay_key(
        &mut self,
        header: &Header,
        payload: &[u8],
        press: Press,
        clock: u32,
        bench: &mut Bench<'_>,
    ) -> bool {
        self.flush(bench);
        let Some(agreed) = self.agreed.as_ref().filter(|agreed| agreed.sends && self.player.is_none()) else {
            self.interrupt();
            return false;
        };
        if self.presses.is_busy() {
            self.interrupt();
            return false;
        }
        let Some(format) = agreed.stream.telephone_event else {
            return self
                .sound_key(Press { duration: at_8000(press.duration, clock), ..press }, bench.now.media);
        };
        let Ok(event) = TelephoneEvent::decode(payload) else { return false };
        let now = bench.now;
        let incoming = incoming(header, at_8000(event.duration.into(), clock));
        self.events.set_rates(clock, format.clock_rate);
        let mapped = self.out.event_timestamp(&incoming, now.media);
        let Some(told) = self.events.relay(header, payload, now.instant, mapped) else { return false };
        let Some(place) = self.out.relay_event(incoming, told.timestamp, now.media) else { return false };
        let header = Header {
            marker: told.marker,
            payload_type: format.send_payload_type,
            sequence: place.sequence,
            timestamp: place.timestamp,
            ssrc: self.out.ssrc(),
        };
        let mut packet = [0; rtp::HEADER_LENGTH + crate::dtmf::EVENT_LENGTH + srtp::RTP_TRAILER];
        if let Ok(length) = rtp::encode(&header, &told.event.encode(), &mut packet) {
            self.send(&mut packet, length, true, bench);
        }
        false
    }

    /// A key of the other leg that no packet tells.
    pub(super) fn tell(&mut self, digit: Digit, now: MediaTime) {
        let Some(agreed) = self.agreed.as_ref().filter(|agreed| agreed.sends && self.player.is_none()) else {
            return;
        };
        if agreed.stream.telephone_event.is_some() {
            self.interrupt();
            self.presses.push(digit, now);
        } else {
            let duration = u32::try_from(press::LENGTH).unwrap_or(u32::MAX);
            self.sound_key(Press { digit, is_new: true, ended: true, duration }, now);
        }
    }

    fn send_press(&mut self, begins: bool, bench: &mut Bench<'_>) {
        let format = self
            .agreed
            .as_ref()
            .filter(|agreed| agreed.sends)
            .and_then(|agreed| agreed.stream.telephone_event);
        let Some(format) = format else { return self.presses.clear() };
        let place = self.out.originate(press::STEP as u32, begins, bench.now.media);
        let Some(told) = self.presses.next(place.timestamp) else { return };
        // Durations are counted by the events' own clock (RFC 4733 §2.1).
        let duration =
            u64::from(told.event.duration) * u64::from(format.clock_rate) / u64::from(SAMPLE_RATE_HZ);
        let duration = u16::try_from(duration).unwrap_or(u16::MAX);
        let event = TelephoneEvent { duration, ..told.event };
        let header = Header {
            marker: told.marker,
            payload_type: format.send_payload_type,
            sequence: place.sequence,
            timestamp: told.timestamp,
            ssrc: self.out.ssrc(),
        };
        let mut packet = [0; rtp::HEADER_LENGTH + crate::dtmf::EVENT_LENGTH + srtp::RTP_TRAILER];
        if let Ok(length) = rtp::encode(&header, &event.encode(), &mut packet) {
            self.send(&mut packet, length, false, bench);
        }
    }

    fn sound_key(&mut self, press: Press, now: MediaTime) -> bool {
        let begins = press.is_new && self.keys.len() < MAX_KEYS;
        if press.is_new {
            self.key_dropped = !begins;
        }
        if begins {
            self.interrupt();
            self.keys.push_back(KeyTone::new(press.digit, now));
        }
        if let Some(key) = self.keys.back_mut().filter(|_| !self.key_dropped) {
            key.on_packet(press.duration, press.ended, now);
        }
        begins
    }

    /// A packet of the other leg is not relayed on purpose.
    pub(super) fn skip(&mut self, header: &Header) {
        self.out.skip(header.ssrc, header.sequence);
    }

    /// What is relayed after this begins a talk-spurt.
    pub(super) fn interrupt(&mut self) {
        self.out.interrupt();
        self.cutter = None;
    }

    /// When [`Self::fire`] has something to do.
    pub(super) fn due(&self) -> MediaTime {
        if self.agreed.is_none() {
            return MediaTime::NEVER;
        }
        let player = self.player.as_ref().map_or(MediaTime::NEVER, Player::due);
        let key = self.keys.front().map_or(MediaTime::NEVER, KeyTone::due);
        let cut = self.cutter.as_ref().map_or(MediaTime::NEVER, |cutter| cutter.due());
        player.min(key).min(cut).min(self.reports.due).min(self.presses.due())
    }

    /// Sends the frames and the report that are due. True when a prompt has been heard to its end.
    pub(super) fn fire(&mut self, bench: &mut Bench<'_>, scratch: &mut Vec<u8>) -> bool {
        let now = bench.now.media;
        let agreed = self.agreed.as_ref().map(|agreed| (agreed.frame, agreed.stream.codec));
        let Some((length, codec)) = agreed else { return false };
        if self.cutter.as_ref().is_some_and(|cutter| cutter.due() <= now) {
            self.flush(bench);
        }
        let mut buffer = [0; MAX_FRAME];
        let Some(frame) = buffer.get_mut(..length) else { return false };
        for _ in 0..MAX_CATCH_UP {
            let Some(key) = self.keys.front_mut() else { break };
            match key.next(frame, now) {
                Turn::Frame { begins } => self.send_frame(frame, begins, bench),
                Turn::Wait => break,
                Turn::Finished => {
                    self.keys.pop_front();
                    if let Some(next) = self.keys.front_mut() {
                        next.start_at(now.plus(KEY_PAUSE));
                    }
                }
            }
        }
        while let Some(begins) = self.presses.turn(now) {
            self.send_press(begins, bench);
        }
        let mut finished = false;
        for _ in 0..MAX_CATCH_UP {
            let Some(player) = self.player.as_mut() else { break };
            let mut coded = [0; MAX_FRAME];
            let Some(payload) = coded.get_mut(..length) else { break };
            match player.next(codec, &mut self.coder, payload, now) {
                Turn::Frame { begins } => self.send_payload(payload, begins, bench),
                Turn::Wait => break,
                Turn::Finished => {
                    self.player = None;
                    finished = true;
                }
            }
        }
        if self.reports.due <= now {
            self.reports.due = now.plus(report_interval());
            self.report(bench, scratch, false);
        }
        finished
    }

    fn send_frame(&mut self, samples: &[i16], begins: bool, bench: &mut Bench<'_>) {
        let Some(codec) = self.agreed.as_ref().map(|agreed| agreed.stream.codec) else { return };
        let mut coded = [0; MAX_FRAME];
        let length = self.coder.encode(codec, samples, &mut coded);
        self.send_payload(coded.get(..length).unwrap_or_default(), begins, bench);
    }

    /// A frame of our own making, coded: as many samples as bytes.
    fn send_payload(&mut self, payload: &[u8], begins: bool, bench: &mut Bench<'_>) {
        let Some(agreed) = self.agreed.as_ref().filter(|agreed| agreed.sends) else {
            self.gap = true;
            return;
        };
        let payload_type = agreed.stream.send_payload_type;
        let begins = begins || std::mem::take(&mut self.gap);
        let place = self.out.originate(payload.len() as u32, begins, bench.now.media);
        let header = Header {
            marker: place.marker,
            payload_type,
            sequence: place.sequence,
            timestamp: place.timestamp,
            ssrc: self.out.ssrc(),
        };
        let mut packet = [0; rtp::HEADER_LENGTH + MAX_FRAME + srtp::RTP_TRAILER];
        if let Ok(length) = rtp::encode(&header, payload, &mut packet) {
            self.send(&mut packet, length, false, bench);
        }
    }

    /// Sends the packet of `length` bytes at the front of `buffer`, which has room for a tag.
    #[inline]
    fn send(&mut self, buffer: &mut [u8], length: usize, relayed: bool, bench: &mut Bench<'_>) {
        let Some(agreed) = &self.agreed else { return };
        let on_wire = self.srtp.as_mut().map_or(Some(length), |srtp| srtp.protect_rtp(buffer, length));
        let Some(packet) = on_wire.and_then(|length| buffer.get(..length)) else {
            bench.counters.unsent += 1;
            return;
        };
        let remote = agreed.stream.remote;
        // A full socket buffer loses the packet, as a full queue in the network would.
        let sent = match (self.seat, &mut bench.ring) {
            (Some(seat), Some(ring)) => ring.send(seat, packet, remote, relayed),
            _ => self.sockets.rtp.send_to(packet, remote).is_ok(),
        };
        if sent {
            self.statistics.sent += 1;
            self.reports.octets += length.saturating_sub(rtp::HEADER_LENGTH) as u64;
            bench.counters.sent += 1;
            bench.counters.relayed += u64::from(relayed);
        } else {
            bench.counters.unsent += 1;
        }
    }

    /// A packet that the ring took was not sent. Its octets stay counted: how many they were is not told.
    pub(super) fn unsend(&mut self) {
        self.statistics.sent = self.statistics.sent.saturating_sub(1);
    }

    /// What an RTCP packet of the peer tells; `None` when it is not the peer's. Nothing in it acts on the call: its BYE
    /// least of all.
    pub(super) fn on_rtcp(
        &mut self,
        datagram: &mut [u8],
        from: SocketAddr,
        bench: &mut Bench<'_>,
    ) -> Option<Told> {
        let ssrc = self.out.ssrc();
        let srtp = self.srtp.as_deref_mut();
        let statistics = &mut self.statistics;
        let report = self.agreed.as_mut().filter(|agreed| agreed.rtcp.accepts(from)).and_then(|agreed| {
            let datagram = match srtp {
                None => &*datagram,
                Some(srtp) => {
                    let length = srtp.unprotect_rtcp(datagram);
                    if length.is_none() {
                        statistics.unauthentic += 1;
                        bench.counters.unauthentic += 1;
                    }
                    datagram.get(..length?)?
                }
            };
            let report = rtcp::decode(datagram, ssrc).ok()?;
            agreed.rtcp.lock(from);
            Some(report)
        });
        let Some(report) = report else {
            self.drop_packet(bench);
            return None;
        };
        let instant = bench.now.instant;
        let mut told = Told::Nothing;
        if let Some((ssrc, info)) = report.sender {
            self.reports.last_from_peer = Some(LastSenderReport::new(ssrc, &info, instant));
        }
        if let Some(block) = report.about_us {
            let statistics = &mut self.statistics;
            statistics.remote_lost = block.reception.cumulative_lost;
            statistics.remote_jitter = block.reception.jitter;
            statistics.remote_expected = statistics.sent;
            let trip = block.round_trip(NtpTime::since(self.reports.origin, instant));
            if let Some(trip) = trip.filter(|trip| *trip <= LONGEST_TRIP) {
                statistics.round_trip = Some(trip);
                statistics.max_round_trip = statistics.max_round_trip.max(Some(trip));
            }
            let heard = block.reception.extended_sequence;
            if self.far_ear.on_report(heard, statistics.sent, bench.now.media) {
                told = Told::HearsNothing;
            }
        }
        Some(told)
    }

    /// SR when we sent within the last two intervals, else RR (RFC 3550 §6.4); and BYE at the end (§6.6).
    fn report(&mut self, bench: &mut Bench<'_>, scratch: &mut Vec<u8>, bye: bool) {
        let (sent, instant) = (self.statistics.sent, bench.now.instant);
        let [before, last] = self.reports.sent_before;
        self.reports.sent_before = [last, sent];
        let info = (sent > before).then(|| SenderInfo {
            ntp: NtpTime::since(self.reports.origin, instant),
            rtp_timestamp: self.out.timestamp_at(bench.now.media),
            packets: sent as u32,
            octets: self.reports.octets as u32,
        });
        let last_from_peer = self.reports.last_from_peer.as_ref();
        let block = self.reception.report().map(|found| ReportBlock::new(found, last_from_peer, instant));
        scratch.clear();
        rtcp::encode_report(self.out.ssrc(), info.as_ref(), block.as_ref(), &self.reports.cname, scratch);
        if bye {
            rtcp::encode_bye(self.out.ssrc(), scratch);
        }
        let leaves = self.srtp.as_mut().is_none_or(|srtp| srtp.protect_rtcp(scratch));
        if leaves
            && let Some((to, mux)) =
                self.agreed.as_ref().map(|agreed| (agreed.stream.remote_rtcp, agreed.stream.rtcp_mux))
            && to.port() != 0
            && !to.ip().is_unspecified()
            && (if mux { &self.sockets.rtp } else { &self.sockets.rtcp }).send_to(scratch, to).is_err()
        {
            bench.counters.unsent += 1;
        }
        self.reports.told = true;
        self.count_overrun(bench);
    }

    fn count_overrun(&mut self, bench: &mut Bench<'_>) {
        let overrun = u64::from(io::overrun(&self.sockets.rtp)) + u64::from(io::overrun(&self.sockets.rtcp));
        bench.counters.overrun += overrun.saturating_sub(self.statistics.overrun);
        self.statistics.overrun = overrun;
    }

    /// Says BYE and returns the leg's figures.
    pub(super) fn close(&mut self, bench: &mut Bench<'_>, scratch: &mut Vec<u8>) -> LegStatistics {
        // RFC 3550 §6.3.7: who never sent anything leaves without a BYE.
        if self.statistics.sent > 0 || self.reports.told {
            self.report(bench, scratch, true);
        } else if self.statistics.received > 0 || self.statistics.foreign > 0 {
            self.count_overrun(bench);
        }
        self.figures()
    }

    /// The leg's figures so far.
    fn figures(&self) -> LegStatistics {
        let received = self.reception.received();
        let mut figures = LegStatistics { stream: received, ..self.statistics };
        if let Some(stream) = self.agreed.as_ref().map(|agreed| &agreed.stream) {
            let (codec, trip) = (stream.codec, figures.round_trip);
            figures.codec = Some(codec);
            figures.mos = Way::new(codec, &received, trip, stream.ptime_ms).mos();
            let heard = Way {
                codec,
                expected: figures.remote_expected,
                lost: u64::try_from(figures.remote_lost).unwrap_or(0),
                runs: None,
                jitter: figures.remote_jitter,
                round_trip: trip,
                packet_ms: stream.ptime_ms,
            };
            figures.remote_mos = heard.mos();
        }
        figures
    }
}

fn incoming(header: &Header, duration: u32) -> Incoming {
    let Header { marker, sequence, timestamp, ssrc, .. } = *header;
    Incoming { ssrc, sequence, timestamp, marker, duration }
}

/// A duration at another clock in units of 125 µs.
pub(super) fn at_8000(units: u32, clock: u32) -> u32 {
    let scaled = u64::from(units) * u64::from(SAMPLE_RATE_HZ) / u64::from(clock.max(1));
    u32::try_from(scaled).unwrap_or(u32::MAX)
}

fn report_interval() -> u64 {
    samples_in(rtcp::report_interval(rand::random()))
}

//! Two-way RTP for many calls: 50 stamped PCMU packets a second from every stream end, and what became of them.
//!
//! The stamp lies in the payload, so whatever rewrites headers cannot confuse the count: magic, number of the
//! stream, packet number, time of sending. The delay ends with the kernel's receive time of the packet, not with
//! the moment at which this process came round to read it. Nothing here knows SIP.

use std::io::IoSliceMut;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use media::Codec;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, setsockopt, sockopt};
use nix::sys::time::TimeSpec;
use sip_tests::{clock, g711};
use socket2::SockRef;

use crate::Failure;
use crate::epoll::Epoll;

const MAGIC: [u8; 4] = *b"MSKB";
/// Streams take turns, each in its own of so many slots of 1 ms: together they make the packet time of 20 ms.
const SLOTS: usize = 20;
const PAYLOAD: usize = 160;
const STAMP: usize = 20;
/// How often the load wakes up. It does not wait in epoll: waking it would be charged to whoever sends to it.
const TICK: Duration = Duration::from_millis(1);
/// A tick that comes later than this says that the load itself had to wait for its core.
const LATE: u64 = 5;
/// More delays than any run needs; beyond it they are not kept.
const MAX_SAMPLES: usize = 8_000_000;
/// RTP ports of the load lie here, outside those of the service under test.
const PORTS: std::ops::Range<u16> = 34_000..60_000;

/// Which party's streams; their tones differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Caller,
    Callee,
}

/// One stream end: sends to `destination` once that is known, and counts what comes.
struct Stream {
    end: End,
    socket: UdpSocket,
    /// Takes the RTCP that the far side sends, unread, so that no ICMP error answers it.
    _rtcp: UdpSocket,
    destination: Option<SocketAddr>,
    sequence: u16,
    timestamp: u32,
    number: u32,
    received: u64,
    /// The stream whose packets arrive here, and the last packet number.
    source: Option<(u32, u32)>,
}

/// Totals since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) sent_by_callers: u64,
    pub(crate) sent_by_callees: u64,
    /// Sent by callers, and so on: what arrives at one end was sent by the other.
    pub(crate) received_from_callers: u64,
    pub(crate) received_from_callees: u64,
    /// Repeated or out of order.
    pub(crate) late: u64,
    /// Packets of another call, or without our stamp.
    pub(crate) foreign: u64,
    /// Ticks on which the load was late by more than 5 ms.
    pub(crate) load_late: u64,
}

impl Totals {
    pub(crate) fn sent(self) -> u64 {
        self.sent_by_callers + self.sent_by_callees
    }

    pub(crate) fn received(self) -> u64 {
        self.received_from_callers + self.received_from_callees
    }
}

/// All streams of a run.
pub(crate) struct Traffic {
    streams: Vec<Stream>,
    epoll: Epoll,
    started: Instant,
    ticks: u64,
    totals: Totals,
    /// Time from send to the kernel's receive time, in µs, while `sampling`.
    delays_us: Vec<u32>,
    sampling: bool,
    sending: bool,
    packets: [Vec<u8>; 2],
    ready: Vec<u64>,
}

impl Traffic {
    /// `calls` streams for each end.
    pub(crate) fn new(calls: usize) -> Result<Self, Failure> {
        let epoll = Epoll::new()?;
        // Runs side by side on one machine begin at different ports.
        let offset = u16::try_from(std::process::id() % 8000)? * 2;
        let mut ports = PORTS.skip(offset.into()).step_by(2);
        let mut streams = vec![];
        for index in 0..calls * 2 {
            let end = if index % 2 == 0 { End::Caller } else { End::Callee };
            let stream = ports.by_ref().find_map(|port| Stream::bind(end, port));
            let stream = stream.ok_or("no free ports for RTP of the load")?;
            setsockopt(stream.socket.as_raw_fd(), sockopt::ReceiveTimestampns, &true)?;
            epoll.add(&stream.socket, u64::try_from(index)?)?;
            streams.push(stream);
        }
        Ok(Self {
            streams,
            epoll,
            started: clock::now(),
            ticks: 0,
            totals: Totals::default(),
            delays_us: vec![],
            sampling: false,
            sending: false,
            packets: [packet(440.0), packet(880.0)],
            ready: vec![],
        })
    }

    /// The ports of one end, in the order of calls.
    pub(crate) fn ports(&self, end: End) -> Result<Vec<SocketAddr>, Failure> {
        let streams = self.streams.iter().filter(|stream| stream.end == end);
        Ok(streams.map(|stream| stream.socket.local_addr()).collect::<Result<_, _>>()?)
    }

    /// Where the stream that listens on `own` sends its packets.
    pub(crate) fn aim(&mut self, own: SocketAddr, destination: SocketAddr) {
        for stream in &mut self.streams {
            if stream.socket.local_addr().is_ok_and(|address| address == own) {
                stream.destination = Some(destination);
            }
        }
    }

    /// Stream ends that know where to send.
    pub(crate) fn aimed(&self) -> usize {
        self.streams.iter().filter(|stream| stream.destination.is_some()).count()
    }

    pub(crate) fn totals(&self) -> Totals {
        self.totals
    }

    pub(crate) fn start_sampling(&mut self) {
        self.delays_us.clear();
        self.sampling = true;
    }

    /// The delays since [`Self::start_sampling`], in µs.
    pub(crate) fn take_delays(&mut self) -> Vec<u32> {
        self.sampling = false;
        std::mem::take(&mut self.delays_us)
    }

    /// Sends and receives for so long; `aside` is called about once per millisecond.
    pub(crate) fn run(
        &mut self,
        span: Duration,
        mut aside: impl FnMut() -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        self.sending = true;
        self.turn(span, &mut aside)
    }

    /// Receives what is still on its way.
    pub(crate) fn drain(&mut self, span: Duration) -> Result<(), Failure> {
        self.sending = false;
        self.turn(span, &mut || Ok(()))
    }

    fn turn(
        &mut self,
        span: Duration,
        aside: &mut impl FnMut() -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let begin = clock::now();
        // The pause since the last turn is no lateness.
        self.ticks = elapsed_ms(self.started, begin);
        loop {
            let now = clock::now();
            if now >= begin + span {
                return Ok(());
            }
            self.tick(now);
            self.receive_all()?;
            aside()?;
            let done = self.started + TICK * u32::try_from(self.ticks + 1).unwrap_or(u32::MAX);
            std::thread::sleep(done.saturating_duration_since(clock::now()));
        }
    }

    fn receive_all(&mut self) -> Result<(), Failure> {
        let mut ready = std::mem::take(&mut self.ready);
        loop {
            ready.clear();
            ready.extend(self.epoll.wait(Duration::ZERO)?);
            if ready.is_empty() {
                self.ready = ready;
                return Ok(());
            }
            for token in &ready {
                self.receive(usize::try_from(*token)?);
            }
        }
    }

    fn tick(&mut self, now: Instant) {
        let now = elapsed_ms(self.started, now);
        if now > self.ticks + LATE {
            self.totals.load_late += 1;
        }
        while self.ticks < now {
            self.ticks += 1;
            if self.sending {
                self.send_slot(usize::try_from(self.ticks).unwrap_or_default() % SLOTS);
            }
        }
    }

    fn send_slot(&mut self, slot: usize) {
        let [callers, callees] = &mut self.packets;
        for (index, stream) in self.streams.iter_mut().enumerate().skip(slot).step_by(SLOTS) {
            let Some(destination) = stream.destination else { continue };
            let own = u32::try_from(index).unwrap_or_default();
            let (packet, sent) = match stream.end {
                End::Caller => (&mut *callers, &mut self.totals.sent_by_callers),
                End::Callee => (&mut *callees, &mut self.totals.sent_by_callees),
            };
            stream.stamp(packet, own, now_us());
            if stream.socket.send_to(packet, destination).is_ok() {
                *sent += 1;
            }
        }
    }

    fn receive(&mut self, index: usize) {
        let Some(stream) = self.streams.get_mut(index) else { return };
        let mut wire = [0u8; 512];
        let Some((length, arrived_us)) = receive_stamped(&stream.socket, &mut wire) else { return };
        let payload = wire.get(12..length).unwrap_or_default();
        let Some((from, number, sent_us)) = read_stamp(payload) else {
            self.totals.foreign += 1;
            return;
        };
        match &mut stream.source {
            Some((source, _)) if *source != from => {
                self.totals.foreign += 1;
                return;
            }
            Some((_, last)) if number <= *last => self.totals.late += 1,
            Some((_, last)) => *last = number,
            none => *none = Some((from, number)),
        }
        stream.received += 1;
        match stream.end {
            End::Caller => self.totals.received_from_callees += 1,
            End::Callee => self.totals.received_from_callers += 1,
        }
        if self.sampling && self.delays_us.len() < MAX_SAMPLES {
            let delay = arrived_us.saturating_sub(sent_us);
            self.delays_us.push(u32::try_from(delay).unwrap_or(u32::MAX));
        }
    }

    /// Stream ends that sent and heard nothing.
    pub(crate) fn deaf(&self) -> usize {
        self.streams.iter().filter(|stream| stream.destination.is_some() && stream.received == 0).count()
    }
}

impl Stream {
    /// `None` when a port of the pair is taken.
    fn bind(end: End, port: u16) -> Option<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).ok()?;
        let rtcp = UdpSocket::bind((Ipv4Addr::LOCALHOST, port + 1)).ok()?;
        socket.set_nonblocking(true).ok()?;
        let _ = SockRef::from(&socket).set_recv_buffer_size(1 << 20);
        Some(Self {
            end,
            socket,
            _rtcp: rtcp,
            destination: None,
            sequence: port,
            timestamp: u32::from(port) << 8,
            number: 0,
            received: 0,
            source: None,
        })
    }

    /// Writes header and stamp of the next packet.
    fn stamp(&mut self, packet: &mut [u8], own: u32, now_us: u64) {
        let Some((header, payload)) = packet.split_first_chunk_mut::<12>() else { return };
        let [_, _, s0, s1, t0, t1, t2, t3, ssrc @ ..] = header;
        self.sequence = self.sequence.wrapping_add(1);
        self.timestamp = self.timestamp.wrapping_add(160);
        self.number = self.number.wrapping_add(1);
        [*s0, *s1] = self.sequence.to_be_bytes();
        [*t0, *t1, *t2, *t3] = self.timestamp.to_be_bytes();
        *ssrc = (own + 1).to_be_bytes();
        let stamp = MAGIC.into_iter().chain(own.to_be_bytes()).chain(self.number.to_be_bytes());
        for (byte, value) in payload.iter_mut().zip(stamp.chain(now_us.to_be_bytes())) {
            *byte = value;
        }
    }
}

/// A packet with a tone behind the place of the stamp.
fn packet(tone_hz: f64) -> Vec<u8> {
    let sample = |n: usize| {
        let n = u32::try_from(n).unwrap_or_default();
        let level = (f64::from(n) / 8000.0 * tone_hz * std::f64::consts::TAU).sin() * 8000.0;
        // Within ±8000.
        #[allow(clippy::cast_possible_truncation)]
        g711::encode(Codec::Pcmu, level as i16)
    };
    let mut packet = vec![0x80, 0];
    packet.resize(12, 0);
    packet.extend((0..PAYLOAD).map(sample));
    packet
}

fn read_stamp(payload: &[u8]) -> Option<(u32, u32, u64)> {
    let stamp: &[u8; STAMP] = payload.first_chunk()?;
    let (magic, rest) = stamp.split_first_chunk::<4>()?;
    let (own, rest) = rest.split_first_chunk::<4>()?;
    let (number, time) = rest.split_first_chunk::<4>()?;
    let time = time.first_chunk::<8>()?;
    (*magic == MAGIC)
        .then(|| (u32::from_be_bytes(*own), u32::from_be_bytes(*number), u64::from_be_bytes(*time)))
}

/// One packet and the kernel's time of its arrival, in µs since 1970.
fn receive_stamped(socket: &UdpSocket, wire: &mut [u8]) -> Option<(usize, u64)> {
    let mut parts = [IoSliceMut::new(wire)];
    let mut control = nix::cmsg_space!(TimeSpec);
    let message =
        recvmsg::<SockaddrIn>(socket.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::MSG_DONTWAIT)
            .ok()?;
    let arrived = message.cmsgs().find_map(|part| match part {
        ControlMessageOwned::ScmTimestampns(at) => Some(Duration::from(at)),
        _ => None,
    });
    let arrived = arrived.unwrap_or_else(clock::since_epoch);
    Some((message.bytes, u64::try_from(arrived.as_micros()).ok()?))
}

fn now_us() -> u64 {
    u64::try_from(clock::since_epoch().as_micros()).unwrap_or_default()
}

fn elapsed_ms(since: Instant, now: Instant) -> u64 {
    u64::try_from((now - since).as_millis()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_sent_straight_to_the_other_end_all_arrive_and_are_timed() {
        let mut traffic = Traffic::new(2).unwrap();
        let (callers, callees) = (traffic.ports(End::Caller).unwrap(), traffic.ports(End::Callee).unwrap());
        for (caller, callee) in callers.iter().zip(&callees) {
            traffic.aim(*caller, *callee);
            traffic.aim(*callee, *caller);
        }
        assert_eq!((traffic.aimed(), traffic.deaf()), (4, 4));
        traffic.start_sampling();
        traffic.run(Duration::from_millis(100), || Ok(())).unwrap();
        traffic.drain(Duration::from_millis(50)).unwrap();
        let totals = traffic.totals();
        assert!(totals.sent_by_callers >= 8 && totals.sent_by_callees >= 8, "{totals:?}");
        assert_eq!((totals.sent(), totals.late, totals.foreign), (totals.received(), 0, 0), "{totals:?}");
        assert_eq!(
            (traffic.take_delays().len(), traffic.deaf()),
            (usize::try_from(totals.sent()).unwrap(), 0)
        );
    }

    #[test]
    fn a_packet_of_another_call_is_not_counted_as_heard() {
        let mut traffic = Traffic::new(2).unwrap();
        let (callers, callees) = (traffic.ports(End::Caller).unwrap(), traffic.ports(End::Callee).unwrap());
        for caller in &callers {
            traffic.aim(*caller, *callees.first().unwrap());
        }
        traffic.run(Duration::from_millis(60), || Ok(())).unwrap();
        traffic.drain(Duration::from_millis(50)).unwrap();
        let totals = traffic.totals();
        assert!(totals.foreign >= 2 && totals.received() < totals.sent(), "{totals:?}");
    }

    #[test]
    fn what_bears_no_stamp_is_foreign() {
        assert_eq!(read_stamp(&[0; 160]), None);
        assert_eq!(read_stamp(b"MSKB"), None);
    }
}

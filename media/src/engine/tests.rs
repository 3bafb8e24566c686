//! The engine on loopback, with phones that are bare sockets, by each way that packets can go. Every wait is for a
//! packet or an event, and is bounded.

use super::PACKETS;
use crate::engine::{Engine, EngineStatistics, MediaHandle, MediaLimits, OpenError, PacketIo, ring, testing};
use crate::recorder::testing::Folder;
use crate::rtp::{Header, Packet};
use crate::srtp::{RTP_TRAILER, Secret, Srtp, SrtpKeys, Suite};
use crate::{
    CallStatistics, Codec, Digit, Direction, MediaCommand, MediaEvent, PlayMode, Prompt, Side, SourcePolicy,
    Stream, TelephoneEventFormat, g711, rtcp,
};
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// Nothing here takes so long, unless it never comes.
const PATIENCE: Duration = Duration::from_secs(10);
/// Several ticks: what has not come by then was not sent.
const QUIET: Duration = Duration::from_millis(60);

fn limits() -> MediaLimits {
    MediaLimits {
        ports: 17_000..=19_998,
        silence: None,
        port_rest: Duration::from_secs(60),
        workers: 1,
        packets: PACKETS,
    }
}

/// One end of a leg.
struct Phone {
    rtp: UdpSocket,
    rtcp: UdpSocket,
    engine: u16,
    sequence: u16,
    timestamp: u32,
    ssrc: u32,
}

impl Phone {
    fn new(ssrc: u32) -> Self {
        let socket = || {
            let socket = UdpSocket::bind((LOCAL, 0)).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket
        };
        Self { rtp: socket(), rtcp: socket(), engine: 0, sequence: 65_000, timestamp: 4_000_000_000, ssrc }
    }

    fn stream(&self, codec: Codec) -> Stream {
        let (rtp, rtcp) = (self.rtp.local_addr().unwrap(), self.rtcp.local_addr().unwrap());
        Stream {
            receive: vec![(0, Codec::Pcmu), (8, Codec::Pcma), (9, Codec::G722)],
            telephone_event: Some(TelephoneEventFormat {
                send_payload_type: 96,
                receive_payload_type: 101,
                clock_rate: 8000,
            }),
            ..testing::stream(codec, rtp, rtcp)
        }
    }

    fn header(&self, payload_type: u8) -> Header {
        let (sequence, timestamp) = (self.sequence, self.timestamp);
        Header { marker: false, payload_type, sequence, timestamp, ssrc: self.ssrc }
    }

    fn send_raw(&self, bytes: &[u8]) {
        self.rtp.send_to(bytes, (LOCAL, self.engine)).unwrap();
    }

    /// 20 ms of audio made of `code`.
    fn speak(&mut self, payload_type: u8, code: u8) {
        let mut packet = self.header(payload_type).encode().to_vec();
        packet.extend([code; 160]);
        self.send_raw(&packet);
        self.sequence = self.sequence.wrapping_add(1);
        self.timestamp = self.timestamp.wrapping_add(160);
    }

    /// One packet of a key that went down at `start`.
    fn key(&mut self, key: char, start: u32, duration: u16, end: bool) {
        let mut packet = Header { timestamp: start, ..self.header(101) }.encode().to_vec();
        let event = crate::dtmf::TelephoneEvent {
            event: Digit::from_char(key).unwrap().event(),
            end,
            volume: 10,
            duration,
        };
        packet.extend(event.encode());
        self.send_raw(&packet);
        self.sequence = self.sequence.wrapping_add(1);
    }

    /// A key of 60 ms with its three ends.
    fn press(&mut self, key: char) {
        let start = self.timestamp;
        for (duration, end) in [(160, false), (320, false), (480, true), (480, true), (480, true)] {
            self.key(key, start, duration, end);
        }
        self.timestamp = self.timestamp.wrapping_add(640);
    }

    fn hear(&self) -> (Header, Vec<u8>) {
        let mut buffer = [0; 2048];
        let (length, from) = self.rtp.recv_from(&mut buffer).expect("a packet should come");
        assert_eq!(from.port(), self.engine, "from the port that our SDP named");
        assert_eq!(buffer[0], 0x80, "no padding, extension or CSRC");
        let packet = Packet::parse(&buffer[..length]).unwrap();
        (packet.header, packet.payload.to_vec())
    }

    fn hears_nothing(&self) {
        self.rtp.set_read_timeout(Some(QUIET)).unwrap();
        assert!(self.rtp.recv_from(&mut [0; 2048]).is_err(), "nothing should come");
        self.rtp.set_read_timeout(Some(PATIENCE)).unwrap();
    }
}

#[allow(clippy::disallowed_methods, reason = "the engine has a clock of its own")]
fn now() -> Instant {
    Instant::now()
}

/// A call whose legs are configured and bridged.
struct TestCall {
    engine: Engine,
    handle: MediaHandle,
    events: Receiver<MediaEvent>,
    a: Phone,
    b: Phone,
}

impl TestCall {
    fn open(limits: MediaLimits) -> Self {
        let engine = Engine::start(limits).unwrap();
        let (told, events) = channel();
        let handle = engine.open(LOCAL, LOCAL, Box::new(move |event| drop(told.send(event)))).unwrap();
        let (mut a, mut b) = (Phone::new(0xa), Phone::new(0xb));
        (a.engine, b.engine) = (handle.port(Side::A), handle.port(Side::B));
        Self { engine, handle, events, a, b }
    }

    fn configured(codec_a: Codec, codec_b: Codec) -> Self {
        let call = Self::open(limits());
        call.configure(Side::A, call.a.stream(codec_a));
        call.configure(Side::B, call.b.stream(codec_b));
        call
    }

    fn bridged(codec_a: Codec, codec_b: Codec) -> Self {
        let call = Self::configured(codec_a, codec_b);
        call.handle.command(MediaCommand::Bridge);
        call
    }

    fn configure(&self, side: Side, stream: Stream) {
        self.handle.command(MediaCommand::Configure { side, stream });
    }

    fn event(&self) -> MediaEvent {
        self.events.recv_timeout(PATIENCE).expect("an event should come")
    }

    fn close(self) -> CallStatistics {
        self.handle.command(MediaCommand::Close);
        match self.event() {
            MediaEvent::Closed(statistics) => statistics,
            event => panic!("{event:?}"),
        }
    }
}

#[test]
fn packets_go_by_io_uring_where_the_kernel_allows_it_and_it_is_wanted() {
    let mut call = TestCall::bridged(Codec::Pcmu, Codec::Pcmu);
    call.a.speak(0, 17);
    call.b.hear();
    let expected = match ring::trial() {
        _ if PACKETS == PacketIo::Epoll => 0,
        Ok(_) => 1,
        Err(refusal) => {
            // Past the test harness, which would keep it to itself.
            writeln!(std::io::stderr(), "tests of io_uring are run by epoll: {refusal}").unwrap();
            0
        }
    };
    assert_eq!(call.engine.statistics().on_io_uring, expected);
}

#[test]
fn each_leg_hears_the_other_under_our_own_ssrc() {
    let mut call = TestCall::bridged(Codec::Pcmu, Codec::Pcmu);
    let mut streams = vec![];
    for number in 0..5u16 {
        call.a.speak(0, 17);
        let (header, payload) = call.b.hear();
        assert_eq!((payload, header.payload_type, header.marker), (vec![17; 160], 0, number == 0));
        streams.push(header);
        call.b.speak(0, 99);
        let (header, payload) = call.a.hear();
        assert_eq!(payload, [99; 160]);
        assert!(header.ssrc != call.a.ssrc && header.ssrc != call.b.ssrc && header.ssrc != streams[0].ssrc);
    }
    for pair in streams.windows(2) {
        assert_eq!(pair[1].sequence, pair[0].sequence.wrapping_add(1));
        assert_eq!(pair[1].timestamp, pair[0].timestamp.wrapping_add(160));
        assert_eq!(pair[1].ssrc, pair[0].ssrc);
    }
    let statistics = call.close();
    assert_eq!((statistics.a.received, statistics.a.sent, statistics.b.sent), (5, 5, 5));
    assert_eq!((statistics.a.foreign, statistics.a.stream.lost, statistics.a.overrun), (0, 0, 0));
}

#[test]
fn strangers_change_nothing_and_get_no_answer() {
    let mut call = TestCall::bridged(Codec::Pcmu, Codec::Pcmu);
    let mut stranger = Phone::new(0xbad);
    stranger.engine = call.a.engine;
    // A spray before, between and after the peer's packets, with the peer's own SSRC and numbers.
    for _ in 0..200 {
        stranger.ssrc = call.a.ssrc;
        (stranger.sequence, stranger.timestamp) = (call.a.sequence, call.a.timestamp);
        stranger.speak(0, 66);
    }
    for number in 0..3 {
        call.a.speak(0, 17);
        stranger.speak(0, 66);
        stranger.rtcp.send_to(&[0x80, 203, 0, 1, 0, 0, 0, 1], (LOCAL, call.a.engine + 1)).unwrap();
        assert_eq!(call.b.hear().1, [17; 160], "packet {number}");
    }
    call.b.hears_nothing();
    stranger.hears_nothing();
    call.a.hears_nothing();
    let statistics = call.close();
    assert_eq!((statistics.a.received, statistics.b.sent, statistics.a.foreign), (3, 3, 206));
}

#[test]
fn before_a_leg_is_configured_everything_is_dropped() {
    let mut call = TestCall::open(limits());
    call.handle.command(MediaCommand::Bridge);
    call.configure(Side::B, call.b.stream(Codec::Pcmu));
    call.a.speak(0, 17);
    call.b.hears_nothing();
    assert_eq!(call.close().a.foreign, 1);
}

#[test]
fn another_port_of_the_address_is_locked_at_the_first_packet() {
    let mut call = TestCall::bridged(Codec::Pcmu, Codec::Pcmu);
    call.configure(Side::A, Stream { source: SourcePolicy::Address, ..call.a.stream(Codec::Pcmu) });
    let mut other = Phone::new(0xa);
    other.engine = call.a.engine;
    other.speak(0, 17);
    assert_eq!(call.b.hear().1, [17; 160]);
    call.a.speak(0, 18);
    call.b.hears_nothing();
    call.b.speak(0, 19);
    assert_eq!(call.a.hear().1, [19; 160], "RTP still goes where SDP said");
}

#[test]
fn rfc3550_5_1_csrc_extension_and_padding_stay_on_their_leg() {
    let call = TestCall::bridged(Codec::Pcmu, Codec::Pcmu);
    let mut packet = call.a.header(0).encode().to_vec();
    packet[0] = 0x80 | 0x20 | 0x10 | 2;
    packet.extend(b"CSRCCSRC");
    packet.extend([0xbe, 0xde, 0, 1]);
    packet.extend(b"1555");
    packet.extend([17; 160]);
    packet.extend(*b"leak\0\0\0\x08");
    call.a.send_raw(&packet);
    assert_eq!(call.b.hear().1, [17; 160]);
}

#[test]
fn what_is_no_agreed_audio_is_not_relayed_and_is_no_loss() {
    let mut call = TestCall::bridged(Codec::Pcmu, Codec::Pcmu);
    call.a.speak(0, 17);
    let first = call.b.hear().0;
    call.a.speak(13, 1); // RFC 3389: comfort noise is a sign of life, and no audio.
    call.a.speak(14, 1);
    call.a.send_raw(b"");
    call.a.send_raw(&[0x80; 11]);
    let mut huge = call.a.header(0).encode().to_vec();
    huge.extend([17; 1400]);
    call.a.send_raw(&huge);
    call.a.sequence = call.a.sequence.wrapping_add(1);
    call.a.speak(0, 18);
    let (header, payload) = call.b.hear();
    assert_eq!((payload, header.sequence), (vec![18; 160], first.sequence.wrapping_add(1)));
    let statistics = call.close();
    assert_eq!((statistics.a.foreign, statistics.a.stream.lost), (4, 0));
}

#[test]
fn codecs_that_differ_are_converted() {
    let mut call = TestCall::bridged(Codec::Pcmu, Codec::Pcma);
    let mu = g711::encode_sample(g711::Law::Mu, 8031);
    let a = g711::encode_sample(g711::Law::A, g711::decode_sample(g711::Law::Mu, mu));
    call.a.speak(0, mu);
    let (header, payload) = call.b.hear();
    assert_eq!((header.payload_type, payload), (8, vec![a; 160]));
    call.b.speak(8, a);
    let (header, payload) = call.a.hear();
    let back = g711::encode_sample(g711::Law::Mu, g711::decode_sample(g711::Law::A, a));
    assert_eq!((header.payload_type, payload), (0, vec![back; 160]));
    // The peer switches to the other format that was agreed.
    call.a.speak(8, a);
    assert_eq!(call.b.hear().1, [a; 160]);
}

#[test]
fn prompt_bridge_and_prompt_are_one_stream() {
    let mut call = TestCall::configured(Codec::Pcma, Codec::Pcma);
    let prompt = Prompt::new("test", &[1000; 480]);
    let play = |call: &TestCall, mode| {
        call.handle.command(MediaCommand::Play { side: Side::B, prompt: prompt.clone(), mode });
    };
    play(&call, PlayMode::Once);
    let mut heard: Vec<_> = (0..3).map(|_| call.b.hear()).collect();
    assert_eq!(call.event(), MediaEvent::PlayFinished { side: Side::B });
    call.handle.command(MediaCommand::Bridge);
    for _ in 0..3 {
        call.a.speak(8, 17);
        heard.push(call.b.hear());
    }
    play(&call, PlayMode::Once);
    // What the other party says meanwhile is not heard.
    call.a.speak(8, 18);
    heard.extend((0..3).map(|_| call.b.hear()));
    assert_eq!(call.event(), MediaEvent::PlayFinished { side: Side::B });
    call.a.speak(8, 17);
    heard.push(call.b.hear());
    let spoken: Vec<u8> = heard.iter().map(|(_, payload)| payload[0]).collect();
    let tone = g711::encode_sample(g711::Law::A, 1000);
    assert_eq!(spoken, [tone, tone, tone, 17, 17, 17, tone, tone, tone, 17]);
    let begins: Vec<usize> = (0..heard.len()).filter(|index| heard[*index].0.marker).collect();
    assert_eq!(begins, [0, 3, 6, 9], "the marker tells each change of what is heard");
    for pair in heard.windows(2) {
        let (before, after) = (pair[0].0, pair[1].0);
        assert_eq!((after.sequence, after.ssrc), (before.sequence.wrapping_add(1), before.ssrc));
        assert!(crate::rtp::timestamp_delta(after.timestamp, before.timestamp) >= 160, "no overlap");
    }
}

#[test]
fn our_ringback_gives_way_to_the_first_bridged_audio() {
    let mut call = TestCall::bridged(Codec::Pcmu, Codec::Pcmu);
    let prompt = Prompt::new("ringback", &[1000; 80]);
    let (side, mode) = (Side::A, PlayMode::UntilBridgedAudio);
    call.handle.command(MediaCommand::Play { side, prompt, mode });
    let ring = g711::encode_sample(g711::Law::Mu, 1000);
    assert!((0..5).all(|_| call.a.hear().1 == [ring; 160]));
    call.b.speak(0, 17);
    while call.a.hear().1 != [17; 160] {}
    call.a.hears_nothing();
}

#[test]
fn a_loop_plays_until_it_is_stopped() {
    let call = TestCall::configured(Codec::Pcmu, Codec::Pcmu);
    let prompt = Prompt::new("loop", &[1000; 10]);
    call.handle.command(MediaCommand::Play { side: Side::A, prompt, mode: PlayMode::Loop });
    assert!((0..10).all(|_| call.a.hear().1.len() == 160));
    call.handle.command(MediaCommand::StopPlay { side: Side::A });
    call.a.rtp.set_read_timeout(Some(QUIET)).unwrap();
    while call.a.rtp.recv_from(&mut [0; 2048]).is_ok() {}
    assert!(call.events.try_recv().is_err());
}

#[test]
fn collected_keys_are_told_once_and_neither_relayed_nor_recorded() {
    let folder = Folder::new();
    let mut call = TestCall::bridged(Codec::Pcmu, Codec::Pcmu);
    call.handle.command(MediaCommand::Record { directory: folder.path().to_owned() });
    call.handle.command(MediaCommand::CollectDigits { side: Side::A, on: true });
    call.a.speak(0, 17);
    call.a.press('4');
    call.a.press('4');
    // The last key is still down when the bridge begins.
    let start = call.a.timestamp;
    call.a.key('7', start, 160, false);
    for key in ['4', '4', '7'] {
        let MediaEvent::Digit { side: Side::A, digit } = call.event() else { panic!() };
        assert_eq!(digit.key(), key);
    }
    call.handle.command(MediaCommand::CollectDigits { side: Side::A, on: false });
    for end in [false, true, true, true] {
        call.a.key('7', start, 320, end);
    }
    call.b.hears_nothing();
    // The next one is the other party's business.
    call.a.timestamp = start.wrapping_add(800);
    call.a.press('9');
    let (header, payload) = call.b.hear();
    assert_eq!((header.payload_type, payload[0]), (96, 9));
    assert!(call.events.try_recv().is_err());
    call.handle.command(MediaCommand::Close);
    let MediaEvent::Recorded(report) = call.event() else { panic!() };
    assert!(matches!(call.event(), MediaEvent::Closed(_)));
    let file = hound::WavReader::open(folder.path().join("a-leg.wav")).unwrap();
    assert!(file.into_samples::<i16>().all(|sample| sample.unwrap() == 0), "neither audio nor keys");
    assert!(report.complete);
}

#[test]
fn a_recording_is_as_long_as_the_call_however_late_the_media_thread_is_told() {
    let mut call = TestCall::bridged(Codec::Pcmu, Codec::Pcmu);
    let (folder, began) = (Folder::new(), now());
    call.handle.command_of(MediaCommand::Record { directory: folder.path().to_owned() }, began);
    call.a.speak(0, 17);
    call.b.hear();
    // All that came since is recorded, and more than the call's three samples.
    let ended = began + Duration::from_micros(3 * 125);
    while now() < ended + Duration::from_millis(20) {
        call.a.speak(0, 17);
        call.b.hear();
    }
    call.handle.command_of(MediaCommand::Close, ended);
    let MediaEvent::Recorded(report) = call.event() else { panic!() };
    assert!((3..=4).contains(&report.samples), "{report:?}");
    for file in ["a-leg.wav", "b-leg.wav"] {
        assert_eq!(
            u64::from(hound::WavReader::open(folder.path().join(file)).unwrap().len()),
            report.samples
        );
    }
}

#[test]
fn keys_cross_the_bridge_with_the_other_legs_payload_type() {
    let mut call = TestCall::bridged(Codec::Pcmu, Codec::Pcmu);
    call.a.speak(0, 17);
    let before = call.b.hear().0;
    call.a.press('#');
    let heard: Vec<_> = (0..5).map(|_| call.b.hear()).collect();
    let told: Vec<_> = heard
        .iter()
        .map(|(header, payload)| (header.payload_type, header.marker, payload[0], payload[1] & 0x80 != 0))
        .collect();
    let (down, end) = ((96, false, 11, false), (96, false, 11, true));
    assert_eq!(told, [(96, true, 11, false), down, end, end, end]);
    for (index, (header, _)) in heard.iter().enumerate() {
        assert_eq!(header.timestamp, before.timestamp.wrapping_add(160), "the instant of the key");
        assert_eq!(header.sequence, before.sequence.wrapping_add(1 + index as u16));
    }
    call.a.speak(0, 17);
    assert_eq!(call.b.hear().0.timestamp, before.timestamp.wrapping_add(160 + 640));
}

#[test]
fn a_leg_without_telephone_event_hears_a_tone_of_the_same_length() {
    let mut call = TestCall::bridged(Codec::Pcmu, Codec::Pcmu);
    call.configure(Side::B, Stream { telephone_event: None, ..call.b.stream(Codec::Pcmu) });
    call.a.speak(0, 0xff);
    assert_eq!(call.b.hear().1, [0xff; 160]);
    call.a.press('5');
    let heard: Vec<_> = (0..3).map(|_| call.b.hear()).collect();
    assert!(heard.iter().all(|(header, payload)| header.payload_type == 0 && payload.len() == 160));
    let samples: Vec<i16> = heard
        .iter()
        .flat_map(|(_, payload)| payload)
        .map(|code| g711::decode_sample(g711::Law::Mu, *code))
        .collect();
    let power = |frequency: f64| {
        let (mut real, mut imaginary) = (0.0, 0.0);
        for (index, sample) in samples.iter().enumerate() {
            let angle = std::f64::consts::TAU * frequency * index as f64 / 8000.0;
            real += f64::from(*sample) * angle.cos();
            imaginary += f64::from(*sample) * angle.sin();
        }
        real.hypot(imaginary)
    };
    assert!(power(770.0) > 20.0 * power(697.0) && power(1336.0) > 20.0 * power(1477.0), "the key is 5");
    call.b.hears_nothing();
    call.a.speak(0, 0xff);
    assert_eq!(call.b.hear().1, [0xff; 160], "audio goes on");
}

/// RFC 4733 §2.5.1: a press of our own making, in the stream that goes on around it.
#[test]
fn a_key_that_came_by_signalling_is_told_as_an_event_or_as_a_tone() {
    let mut call = TestCall::bridged(Codec::Pcmu, Codec::Pcmu);
    call.a.speak(0, 1);
    let (before, _) = call.b.hear();
    let digit = Digit::from_char('7').unwrap();
    call.handle.command(MediaCommand::SendDigit { side: Side::B, digit });
    let mut sequence = before.sequence;
    let mut told = vec![];
    for _ in 0..7 {
        let (header, payload) = call.b.hear();
        let event = crate::dtmf::TelephoneEvent::decode(&payload).unwrap();
        assert_eq!((header.payload_type, header.ssrc, event.event), (96, before.ssrc, 7));
        assert_eq!(header.sequence, sequence.wrapping_add(1), "no gap");
        sequence = header.sequence;
        told.push((header.timestamp, header.marker, event.duration, event.end));
    }
    let start = told[0].0;
    assert!(told.iter().all(|(timestamp, ..)| *timestamp == start), "RFC 4733 §2.2: {told:?}");
    let expected: Vec<_> =
        [(160, false), (320, false), (480, false), (640, false), (800, true), (800, true), (800, true)]
            .into_iter()
            .enumerate()
            .map(|(n, (duration, end))| (start, n == 0, duration, end))
            .collect();
    assert_eq!(told, expected);
    call.a.speak(0, 2);
    let (after, _) = call.b.hear();
    assert_eq!((after.sequence, after.marker), (sequence.wrapping_add(1), true));

    let stream = Stream { telephone_event: None, ..call.b.stream(Codec::Pcmu) };
    call.configure(Side::B, stream);
    call.handle.command(MediaCommand::SendDigit { side: Side::B, digit });
    for _ in 0..5 {
        let (header, payload) = call.b.hear();
        assert_eq!((header.payload_type, payload.len()), (0, 160), "100 ms of tone");
    }
    call.close();
}

#[test]
fn a_leg_on_hold_hears_nothing_and_is_not_heard() {
    let mut call = TestCall::bridged(Codec::Pcmu, Codec::Pcmu);
    call.configure(Side::B, Stream { direction: Direction::Inactive, ..call.b.stream(Codec::Pcmu) });
    call.a.speak(0, 17);
    call.b.speak(0, 18);
    let prompt = Prompt::new("test", &[1000; 160]);
    call.handle.command(MediaCommand::Play { side: Side::B, prompt, mode: PlayMode::Once });
    assert_eq!(call.event(), MediaEvent::PlayFinished { side: Side::B });
    call.b.hears_nothing();
    call.a.hears_nothing();
    call.configure(Side::B, call.b.stream(Codec::Pcmu));
    call.a.speak(0, 19);
    let (header, payload) = call.b.hear();
    assert_eq!((payload, header.marker), (vec![19; 160], true));
}

#[test]
fn a_reinvite_moves_the_peer() {
    let mut call = TestCall::bridged(Codec::Pcmu, Codec::Pcmu);
    call.a.speak(0, 17);
    let before = call.b.hear().0;
    let mut moved = Phone::new(0xb2);
    moved.engine = call.b.engine;
    call.configure(Side::B, moved.stream(Codec::Pcmu));
    call.b.speak(0, 1);
    call.a.hears_nothing();
    moved.speak(0, 2);
    assert_eq!(call.a.hear().1, [2; 160]);
    call.a.speak(0, 18);
    let after = moved.hear().0;
    assert_eq!(
        (after.ssrc, after.sequence),
        (before.ssrc, before.sequence.wrapping_add(1)),
        "our stream goes on"
    );
}

#[test]
fn rtcp_is_our_own_and_ends_with_bye() {
    let mut call = TestCall::bridged(Codec::Pcmu, Codec::Pcmu);
    call.a.speak(0, 17);
    let ssrc = call.b.hear().0.ssrc;
    // The peer's own report, with a BYE and a name that must not cross.
    let mut report = vec![];
    let cname = rtcp::Cname::from_random([7; 12]);
    rtcp::encode_report(0xb, None, None, &cname, &mut report);
    rtcp::encode_bye(0xb, &mut report);
    call.b.rtcp.send_to(&report, (LOCAL, call.b.engine + 1)).unwrap();
    call.a.speak(0, 18);
    assert_eq!(call.b.hear().1, [18; 160], "a BYE ends nothing");
    call.handle.command(MediaCommand::Close);
    let mut buffer = [0; 1500];
    loop {
        let (length, from) = call.b.rtcp.recv_from(&mut buffer).unwrap();
        assert_eq!(from.port(), call.b.engine + 1);
        assert!(!buffer[..length].windows(4).any(|window| window == b"BwcH"), "the peer's name");
        let told = rtcp::decode(&buffer[..length], 0).unwrap();
        let (sender, info) = told.sender.expect("we sent, so this is an SR");
        assert_eq!((sender, told.about_us), (ssrc, None));
        if told.bye {
            assert_eq!((info.packets, info.octets), (2, 320));
            break;
        }
    }
    assert!(matches!(call.event(), MediaEvent::Closed(_)));
}

#[test]
fn rfc3550_6_3_7_who_never_sent_anything_leaves_without_a_bye() {
    let call = TestCall::bridged(Codec::Pcmu, Codec::Pcmu);
    call.handle.command(MediaCommand::Close);
    assert!(matches!(call.event(), MediaEvent::Closed(_)));
    for phone in [&call.a, &call.b] {
        phone.rtcp.set_read_timeout(Some(QUIET)).unwrap();
        assert!(phone.rtcp.recv_from(&mut [0; 1500]).is_err());
    }
}

#[test]
fn the_peers_reports_become_figures() {
    let mut call = TestCall::bridged(Codec::Pcmu, Codec::Pcmu);
    call.a.speak(0, 17);
    let ssrc = call.b.hear().0.ssrc;
    let block = rtcp::ReportBlock {
        reception: crate::rtp::Reception {
            ssrc,
            fraction_lost: 3,
            cumulative_lost: 12,
            extended_sequence: 1,
            jitter: 44,
        },
        last_sr: 0,
        delay_since_last_sr: 0,
    };
    let mut report = vec![];
    rtcp::encode_report(0xb, None, Some(&block), &rtcp::Cname::from_random([7; 12]), &mut report);
    call.b.rtcp.send_to(&report, (LOCAL, call.b.engine + 1)).unwrap();
    call.b.speak(0, 1);
    call.a.hear();
    // RTP came after it, but through another socket: look until the report has been read.
    call.b.rtcp.send_to(&report, (LOCAL, call.b.engine + 1)).unwrap();
    call.b.speak(0, 1);
    call.a.hear();
    let statistics = call.close();
    assert_eq!((statistics.b.remote_lost, statistics.b.remote_jitter, statistics.b.foreign), (12, 44, 0));
}

#[test]
fn silence_is_told_and_not_during_hold() {
    let limit = Duration::from_millis(300);
    let call = TestCall::open(MediaLimits { silence: Some(limit), ..limits() });
    assert!(call.events.recv_timeout(2 * limit).is_err(), "the watch begins with the first stream");
    let hold = Stream { direction: Direction::SendOnly, ..call.a.stream(Codec::Pcmu) };
    call.configure(Side::A, hold);
    assert!(call.events.recv_timeout(2 * limit).is_err(), "hold suspends it");
    call.configure(Side::A, call.a.stream(Codec::Pcmu));
    assert_eq!(call.event(), MediaEvent::Silence);
    assert_eq!(call.event(), MediaEvent::Silence, "and again after as long");
}

#[test]
fn who_speaks_is_not_silent() {
    // Long enough for a machine that stands still in between, and three times over.
    let limit = Duration::from_millis(1500);
    let mut call = TestCall::open(MediaLimits { silence: Some(limit), ..limits() });
    call.configure(Side::A, call.a.stream(Codec::Pcmu));
    for _ in 0..45 {
        call.a.speak(0, 17);
        assert!(call.events.recv_timeout(limit / 15).is_err(), "the peer lives");
    }
    assert_eq!(call.event(), MediaEvent::Silence);
}

#[test]
fn a_recording_begins_at_its_command_and_ends_with_the_call() {
    let folder = Folder::new();
    let mut call = TestCall::bridged(Codec::Pcmu, Codec::Pcma);
    let directory = folder.path().join("2026/uuid");
    call.handle.command(MediaCommand::Record { directory: directory.clone() });
    for _ in 0..10 {
        call.a.speak(0, 0x90);
        call.b.speak(8, 0x91);
        call.b.hear();
        call.a.hear();
    }
    // A prompt is a clock: what was sent at once now lies within the call.
    let (side, mode) = (Side::A, PlayMode::Once);
    call.handle.command(MediaCommand::Play { side, prompt: Prompt::new("clock", &[0; 1600]), mode });
    assert_eq!(call.event(), MediaEvent::PlayFinished { side });
    call.handle.command(MediaCommand::Close);
    let MediaEvent::Recorded(report) = call.event() else { panic!() };
    let MediaEvent::Closed(statistics) = call.event() else { panic!() };
    assert_eq!((report.complete, report.directory, statistics.b.received), (true, directory.clone(), 10));
    for (name, codec, code) in [("a-leg.wav", Codec::Pcmu, 0x90), ("b-leg.wav", Codec::Pcma, 0x91)] {
        let file = hound::WavReader::open(directory.join(name)).unwrap();
        assert_eq!(u64::from(file.len()), report.samples);
        let sample = g711::decode_sample(codec.law().unwrap(), code);
        let spoken = file.into_samples::<i16>().filter(|found| *found.as_ref().unwrap() == sample).count();
        assert_eq!(spoken, 1600, "{name}");
    }
}

/// The first of four ports that nobody has.
/// The tests of the other engine, which may run at the same time, look in the other half.
fn four_free_ports(among: std::ops::Range<u16>) -> u16 {
    let half = u16::try_from(among.len() / 2).unwrap();
    let among = if PACKETS == PacketIo::Epoll {
        among.start + half..among.end
    } else {
        among.start..among.end - half
    };
    let is_free = |base: &u16| (0..4).all(|offset| UdpSocket::bind((LOCAL, base + offset)).is_ok());
    among.step_by(4).find(is_free).unwrap()
}

#[test]
fn ports_are_even_freed_and_never_shared() {
    let base = four_free_ports(15_000..16_000);
    let engine = Engine::start(MediaLimits { ports: base..=base + 2, ..limits() }).unwrap();
    let (told, events) = channel();
    let open = || {
        let told = told.clone();
        engine.open(LOCAL, LOCAL, Box::new(move |event| drop(told.send(event))))
    };
    for _ in 0..3 {
        let handle = open().unwrap();
        let mut ports = [handle.port(Side::A), handle.port(Side::B)];
        ports.sort_unstable();
        assert_eq!(ports, [base, base + 2]);
        assert!(matches!(open(), Err(OpenError::NoFreePort { .. })));
        assert_eq!((engine.statistics().ports_in_use, engine.statistics().ports_available), (2, 0));
        drop(handle);
        assert_eq!(events.recv_timeout(PATIENCE).unwrap(), MediaEvent::Closed(CallStatistics::default()));
        assert_eq!(engine.statistics().ports_in_use, 0, "ports are free before the call is told");
    }
    // Another process holds an RTCP port: its pair is stepped over, not waited for.
    let held = UdpSocket::bind((LOCAL, base + 1)).unwrap();
    assert!(matches!(open(), Err(OpenError::NoFreePort { .. })));
    drop(held);
    assert!(open().is_ok());
}

#[test]
fn an_address_that_is_not_ours_is_named() {
    let engine = Engine::start(limits()).unwrap();
    let stranger: IpAddr = "192.0.2.1".parse().unwrap();
    let error = engine.open(LOCAL, stranger, Box::new(|_| {})).unwrap_err();
    assert!(matches!(error, OpenError::Socket { address, .. } if address == stranger), "{error}");
    assert_eq!(engine.statistics().ports_in_use, 0);
}

#[test]
fn commands_after_close_are_ignored_and_slots_are_used_again() {
    let engine = Engine::start(MediaLimits { workers: 2, ..limits() }).unwrap();
    for _ in 0..50 {
        let (told, events) = channel();
        let handle = engine.open(LOCAL, LOCAL, Box::new(move |event| drop(told.send(event)))).unwrap();
        handle.command(MediaCommand::Close);
        handle.command(MediaCommand::Bridge);
        handle.command(MediaCommand::Close);
        drop(handle);
        let heard: Vec<_> = events.iter().collect();
        assert_eq!(
            heard,
            [MediaEvent::Closed(CallStatistics::default())],
            "one last event, and the callback is gone"
        );
    }
    assert_eq!((engine.statistics().calls, engine.statistics().ports_in_use), (0, 0));
}

#[test]
fn an_event_handler_that_panics_ends_its_call_alone() {
    let mut other = TestCall::bridged(Codec::Pcmu, Codec::Pcmu);
    let (told, events) = channel();
    let handler = move |event: MediaEvent| {
        assert!(!matches!(event, MediaEvent::PlayFinished { .. }), "a bug");
        drop(told.send(event));
    };
    let handle = other.engine.open(LOCAL, LOCAL, Box::new(handler)).unwrap();
    let phone = Phone::new(1);
    handle.command(MediaCommand::Configure { side: Side::A, stream: phone.stream(Codec::Pcmu) });
    handle.command(MediaCommand::Play { side: Side::A, prompt: Prompt::new("", &[]), mode: PlayMode::Once });
    assert!(matches!(events.recv_timeout(PATIENCE).unwrap(), MediaEvent::Closed(_)));
    other.a.speak(0, 17);
    assert_eq!(other.b.hear().1, [17; 160]);
    assert_eq!(other.engine.statistics().ports_in_use, 2);
}

#[test]
fn ipv6_legs_work() {
    let local: IpAddr = "::1".parse().unwrap();
    if UdpSocket::bind((local, 0)).is_err() {
        return; // A machine without IPv6.
    }
    let engine = Engine::start(limits()).unwrap();
    let handle = engine.open(LOCAL, local, Box::new(|_| {})).unwrap();
    let (mut a, mut b) = (Phone::new(1), Phone::new(2));
    b.rtp = UdpSocket::bind((local, 0)).unwrap();
    b.rtp.set_read_timeout(Some(PATIENCE)).unwrap();
    (a.engine, b.engine) = (handle.port(Side::A), handle.port(Side::B));
    let remote_rtcp = SocketAddr::new(local, b.rtp.local_addr().unwrap().port() + 1);
    handle.command(MediaCommand::Configure { side: Side::A, stream: a.stream(Codec::Pcmu) });
    let stream = Stream { remote_rtcp, ..b.stream(Codec::Pcmu) };
    handle.command(MediaCommand::Configure { side: Side::B, stream });
    handle.command(MediaCommand::Bridge);
    a.speak(0, 17);
    assert_eq!(b.hear().1, [17; 160]);
    b.rtp.send_to(&[b.header(0).encode().as_slice(), &[18; 160]].concat(), (local, b.engine)).unwrap();
    assert_eq!(a.hear().1, [18; 160]);
}

/// A phone's end of an encrypted leg: its own contexts, and the stream that the engine is given.
fn encrypted(suite: Suite, number: u8, stream: Stream) -> (Srtp, Stream) {
    let (ours, theirs) = (Secret::new([number; 32]).key(suite, 0), Secret::new([number; 32]).key(suite, 1));
    let phone = SrtpKeys { send: theirs.clone(), receive: ours.clone() };
    (Srtp::new(&phone), Stream { srtp: Some(Arc::new(SrtpKeys { send: ours, receive: theirs })), ..stream })
}

impl Phone {
    /// 20 ms of audio made of `code`, as it lies on the wire.
    fn sealed(&mut self, srtp: &mut Srtp, code: u8) -> Vec<u8> {
        let mut packet = self.header(0).encode().to_vec();
        packet.extend([code; 160]);
        let length = packet.len();
        packet.extend([0; RTP_TRAILER]);
        let length = srtp.protect_rtp(&mut packet, length).unwrap();
        packet.truncate(length);
        self.sequence = self.sequence.wrapping_add(1);
        self.timestamp = self.timestamp.wrapping_add(160);
        packet
    }

    fn hear_sealed(&self, srtp: &mut Srtp) -> (Header, Vec<u8>) {
        let mut buffer = [0; 2048];
        let (length, _) = self.rtp.recv_from(&mut buffer).expect("a packet should come");
        let length = srtp.unprotect_rtp(&mut buffer[..length]).expect("under the key that was agreed");
        let packet = Packet::parse(&buffer[..length]).unwrap();
        (packet.header, packet.payload.to_vec())
    }
}

#[test]
fn rfc3551_4_5_2_g722_passes_as_it_is_and_is_converted_for_a_leg_without_it() {
    let tone = |n: usize| (8000.0 * (std::f64::consts::TAU * 500.0 * n as f64 / 8000.0).sin()) as i16;
    let said: Vec<i16> = (0..3200).map(tone).collect();
    let mut coded = vec![0; 3200];
    assert_eq!(crate::g722::Encoder::narrow().encode(&said, &mut coded), 3200);
    let mut call = TestCall::bridged(Codec::G722, Codec::G722);
    for payload in coded.chunks(160).take(3) {
        let mut packet = call.a.header(9).encode().to_vec();
        packet.extend(payload);
        call.a.send_raw(&packet);
        call.a.sequence = call.a.sequence.wrapping_add(1);
        call.a.timestamp = call.a.timestamp.wrapping_add(160);
        let (header, heard) = call.b.hear();
        assert_eq!((header.payload_type, heard.as_slice()), (9, payload), "byte for byte");
    }
    let mut call = TestCall::bridged(Codec::G722, Codec::Pcma);
    let (mut at_b, mut at_a, mut stamps) = (vec![], vec![], vec![]);
    let mut decoder = crate::g722::Decoder::narrow();
    for (payload, samples) in coded.chunks(160).zip(said.chunks(160)) {
        let mut packet = call.a.header(9).encode().to_vec();
        packet.extend(payload);
        call.a.send_raw(&packet);
        call.a.sequence = call.a.sequence.wrapping_add(1);
        call.a.timestamp = call.a.timestamp.wrapping_add(160);
        let (header, heard) = call.b.hear();
        assert_eq!((header.payload_type, heard.len()), (8, 160));
        stamps.push(header.timestamp);
        at_b.extend(heard.into_iter().map(|code| g711::decode_sample(g711::Law::A, code)));
        let mut packet = call.b.header(8).encode().to_vec();
        packet.extend(samples.iter().map(|sample| g711::encode_sample(g711::Law::A, *sample)));
        call.b.send_raw(&packet);
        call.b.sequence = call.b.sequence.wrapping_add(1);
        call.b.timestamp = call.b.timestamp.wrapping_add(160);
        let (header, heard) = call.a.hear();
        assert_eq!((header.payload_type, heard.len()), (9, 160));
        let mut samples = [0; 160];
        assert_eq!(decoder.decode(&heard, &mut samples), 160);
        at_a.extend(samples);
    }
    assert!(stamps.windows(2).all(|pair| pair[1].wrapping_sub(pair[0]) == 160), "a clock of 8000");
    for heard in [at_a, at_b] {
        let level = |samples: &[i16]| samples.iter().map(|s| f64::from(*s).powi(2)).sum::<f64>().sqrt();
        let (spoken, heard) = (level(&said[1600..]), level(&heard[1600..]));
        assert!((0.9..1.1).contains(&(heard / spoken)), "{spoken} {heard}");
    }
}

#[test]
fn rfc3711_an_encrypted_leg_and_a_plain_one_hear_each_other() {
    for suite in Suite::ALL {
        let mut call = TestCall::open(limits());
        let (mut srtp, stream) = encrypted(suite, 1, call.a.stream(Codec::Pcmu));
        call.configure(Side::A, stream.clone());
        call.configure(Side::B, call.b.stream(Codec::Pcmu));
        call.handle.command(MediaCommand::Bridge);
        for code in 1..=4u8 {
            let packet = call.a.sealed(&mut srtp, code);
            call.a.send_raw(&packet);
            assert_eq!(call.b.hear().1, [code; 160]);
            call.b.speak(0, code + 100);
            assert_eq!(call.a.hear_sealed(&mut srtp).1, [code + 100; 160]);
            // Agreed on again, as a refresh does: indices go on.
            call.configure(Side::A, stream.clone());
        }
        let mut bye = [0; 512];
        call.handle.command(MediaCommand::Close);
        let (length, _) = call.a.rtcp.recv_from(&mut bye).unwrap();
        let length = srtp.unprotect_rtcp(&mut bye[..length]).expect("reports are encrypted as well");
        assert!(rtcp::decode(&bye[..length], 0).unwrap().bye);
    }
}

#[test]
fn rfc3711_each_leg_has_keys_of_its_own_and_codecs_are_converted() {
    let mut call = TestCall::open(limits());
    let (mut a, stream_a) = encrypted(Suite::Aes128Sha80, 1, call.a.stream(Codec::Pcmu));
    let (mut b, stream_b) = encrypted(Suite::Aes256Sha32, 2, call.b.stream(Codec::Pcma));
    call.configure(Side::A, stream_a);
    call.configure(Side::B, stream_b);
    call.handle.command(MediaCommand::Bridge);
    let mu = g711::encode_sample(g711::Law::Mu, 8031);
    let packet = call.a.sealed(&mut a, mu);
    call.a.send_raw(&packet);
    let expected = g711::encode_sample(g711::Law::A, g711::decode_sample(g711::Law::Mu, mu));
    let (header, payload) = call.b.hear_sealed(&mut b);
    assert_eq!((header.payload_type, payload), (8, vec![expected; 160]));
    // What one leg may say under its key is nothing on the other.
    let sequence = call.a.sequence;
    let stray = call.a.sealed(&mut a, 1);
    call.a.sequence = sequence;
    call.b.rtp.send_to(&stray, (LOCAL, call.b.engine)).unwrap();
    call.a.hears_nothing();
    assert_eq!(call.close().b.unauthentic, 1);
}

#[test]
fn rfc3711_3_3_a_wrong_tag_goes_nowhere_and_changes_nothing() {
    let mut call = TestCall::open(limits());
    let (mut srtp, stream) = encrypted(Suite::Aes128Sha80, 1, call.a.stream(Codec::Pcmu));
    call.configure(Side::A, Stream { source: SourcePolicy::Address, ..stream });
    call.configure(Side::B, call.b.stream(Codec::Pcmu));
    call.handle.command(MediaCommand::Bridge);
    call.handle.command(MediaCommand::CollectDigits { side: Side::B, on: false });
    let mut foreign = Srtp::new(&SrtpKeys {
        send: Secret::new([9; 32]).key(Suite::Aes128Sha80, 0),
        receive: Secret::new([9; 32]).key(Suite::Aes128Sha80, 1),
    });
    // From another port of the same address, which the first packet of the peer would lock.
    let mut elsewhere = Phone::new(call.a.ssrc);
    elsewhere.engine = call.a.engine;
    let mut wrong = 0;
    for code in 0..20u8 {
        let forged = elsewhere.sealed(&mut foreign, code);
        elsewhere.send_raw(&forged);
        elsewhere.speak(0, code);
        elsewhere.send_raw(&[0x80; 5]);
        wrong += 3;
    }
    call.b.hears_nothing();
    let good = call.a.sealed(&mut srtp, 42);
    call.a.send_raw(&good);
    assert_eq!(call.b.hear().1, [42; 160]);
    // Once more, and with a bit of its payload changed.
    call.a.send_raw(&good);
    let mut bent = call.a.sealed(&mut srtp, 43);
    bent[20] ^= 1;
    call.a.send_raw(&bent);
    call.b.hears_nothing();
    bent[20] ^= 1;
    call.a.send_raw(&bent);
    assert_eq!(call.b.hear().1, [43; 160], "the true one is taken after its forgery");
    let statistics = call.close();
    assert_eq!(
        (statistics.a.received, statistics.a.unauthentic, statistics.a.foreign),
        (2, wrong + 2, wrong + 2)
    );
    assert_eq!((statistics.b.sent, statistics.a.stream.lost), (2, 0));
}

#[test]
fn rfc3711_keys_and_prompts_work_under_encryption() {
    let call = TestCall::open(limits());
    let (mut srtp, stream) = encrypted(Suite::Aes128Sha80, 1, call.a.stream(Codec::Pcmu));
    call.configure(Side::A, stream);
    call.handle.command(MediaCommand::CollectDigits { side: Side::A, on: true });
    let prompt = Prompt::new("test", &[1000; 800]);
    call.handle.command(MediaCommand::Play { side: Side::A, prompt, mode: PlayMode::Once });
    for _ in 0..5 {
        assert_eq!(call.a.hear_sealed(&mut srtp).1, [g711::encode_sample(g711::Law::Mu, 1000); 160]);
    }
    assert_eq!(call.event(), MediaEvent::PlayFinished { side: Side::A });
    let mut packet = call.a.header(101).encode().to_vec();
    packet.extend([4, 0x8a, 0, 160]);
    let length = packet.len();
    packet.extend([0; RTP_TRAILER]);
    let length = srtp.protect_rtp(&mut packet, length).unwrap();
    call.a.send_raw(&packet[..length]);
    assert_eq!(call.event(), MediaEvent::Digit { side: Side::A, digit: Digit::from_char('4').unwrap() });
}

/// A packet as it came: number, timestamp, marker, length.
fn shape((header, payload): (Header, Vec<u8>)) -> (u16, u32, bool, usize) {
    (header.sequence, header.timestamp, header.marker, payload.len())
}

impl Phone {
    /// Audio of any length; `place` counts the packets of this length before it.
    fn speak_for(&mut self, payload_type: u8, bytes: usize, code: u8) {
        let mut packet = self.header(payload_type).encode().to_vec();
        packet.extend(vec![code; bytes]);
        self.send_raw(&packet);
        self.sequence = self.sequence.wrapping_add(1);
        self.timestamp = self.timestamp.wrapping_add(bytes as u32);
    }
}

#[test]
fn rfc3551_4_2_packets_keep_their_length_unless_they_are_converted_or_too_long() {
    // B's ptime and a=maxptime, B's codec; what A sends; what B gets, as bytes.
    type Row = (&'static str, (u8, Option<u8>), Codec, &'static [usize], &'static [usize]);
    let table: &[Row] = &[
        ("relayed as they are", (20, None), Codec::Pcmu, &[240, 80, 480], &[240, 80, 480]),
        ("converted: of the peer's length", (20, None), Codec::Pcma, &[160, 160], &[160, 160]),
        ("converted: cut", (20, None), Codec::Pcma, &[480, 480], &[160; 6]),
        ("converted: joined", (30, None), Codec::Pcma, &[80; 6], &[240, 240]),
        ("converted: neither is a multiple", (20, None), Codec::Pcma, &[240; 4], &[160; 6]),
        ("to G.722", (60, None), Codec::G722, &[160; 6], &[480, 480]),
        ("too long for the peer", (20, Some(20)), Codec::Pcmu, &[480], &[160; 3]),
        ("as long as the peer allows", (20, Some(60)), Codec::Pcmu, &[480, 320], &[480, 320]),
    ];
    for (fact, (ptime_ms, max_packet_ms), codec, said, expected) in table {
        let mut call = TestCall::open(limits());
        call.configure(Side::A, call.a.stream(Codec::Pcmu));
        let stream = call.b.stream(*codec);
        call.configure(Side::B, Stream { ptime_ms: *ptime_ms, max_packet_ms: *max_packet_ms, ..stream });
        call.handle.command(MediaCommand::Bridge);
        for length in *said {
            call.a.speak_for(0, *length, 17);
        }
        let heard: Vec<_> = expected.iter().map(|_| shape(call.b.hear())).collect();
        let lengths: Vec<_> = heard.iter().map(|packet| packet.3).collect();
        assert_eq!(lengths, *expected, "{fact}");
        for pair in heard.windows(2) {
            let (before, after) = (pair[0], pair[1]);
            assert_eq!(after.0, before.0.wrapping_add(1), "{fact}: numbers without a hole");
            assert_eq!(after.1, before.1.wrapping_add(before.3 as u32), "{fact}: one timeline");
            assert!(!after.2, "{fact}: one talk-spurt");
        }
        assert!(heard[0].2, "{fact}");
        call.b.hears_nothing();
    }
}

#[test]
fn audio_that_waits_for_more_is_sent_as_it_is_and_losses_stay_losses() {
    let mut call = TestCall::open(limits());
    call.configure(Side::A, call.a.stream(Codec::Pcmu));
    let stream = call.b.stream(Codec::Pcma);
    call.configure(Side::B, Stream { ptime_ms: 20, ..stream });
    call.handle.command(MediaCommand::Bridge);
    call.a.speak_for(0, 240, 17);
    let first = shape(call.b.hear());
    assert_eq!((first.2, first.3), (true, 160));
    // Nothing comes for a while: what is left goes out alone.
    let rest = shape(call.b.hear());
    assert_eq!(rest, (first.0.wrapping_add(1), first.1.wrapping_add(160), false, 80));
    // A packet is lost.
    call.a.sequence = call.a.sequence.wrapping_add(1);
    call.a.timestamp = call.a.timestamp.wrapping_add(240);
    call.a.speak_for(0, 240, 18);
    let after = shape(call.b.hear());
    assert_eq!((after.0, after.1), (rest.0.wrapping_add(2), rest.1.wrapping_add(320)), "the loss is told");
    // A key comes in between: what waits goes before it.
    let start = call.a.timestamp;
    call.a.key('5', start, 160, false);
    assert_eq!(shape(call.b.hear()), (after.0.wrapping_add(1), after.1.wrapping_add(160), false, 80));
    let (header, _) = call.b.hear();
    assert_eq!((header.payload_type, header.sequence), (96, after.0.wrapping_add(2)));
    // From now on they are of the right length, and nothing is in the way.
    call.a.speak_for(0, 160, 19);
    assert_eq!(shape(call.b.hear()).3, 160);
}

#[test]
fn rfc4733_durations_are_told_at_the_clock_of_each_leg() {
    for (from, to, told, expected) in
        [(48_000u32, 8000u32, 4800u16, 800u16), (8000, 16_000, 800, 1600), (16_000, 48_000, 1600, 4800)]
    {
        let mut call = TestCall::open(limits());
        for (side, phone, clock) in [(Side::A, &call.a, from), (Side::B, &call.b, to)] {
            let mut stream = phone.stream(Codec::Pcmu);
            stream.telephone_event.as_mut().unwrap().clock_rate = clock;
            call.configure(side, stream);
        }
        call.handle.command(MediaCommand::Bridge);
        let start = call.a.timestamp;
        call.a.key('7', start, told, true);
        let (header, payload) = call.b.hear();
        let event = crate::dtmf::TelephoneEvent::decode(&payload).unwrap();
        assert_eq!((header.payload_type, event.duration, event.end), (96, expected, true), "{from} to {to}");
        // As a tone of the same length, where the other leg has no events.
        let stream = Stream { telephone_event: None, ..call.b.stream(Codec::Pcmu) };
        call.configure(Side::B, stream);
        let start = start.wrapping_add(8000);
        call.a.key('8', start, told, true);
        let mut heard = vec![];
        for _ in 0..5 {
            heard.extend(call.b.hear().1);
        }
        call.b.hears_nothing();
        let loud = heard
            .iter()
            .filter(|code| g711::decode_sample(g711::Law::Mu, **code).unsigned_abs() > 500)
            .count();
        assert!((500..=800).contains(&loud), "100 ms from {from}: {loud}");
    }
}

#[test]
fn rfc5761_reports_share_the_rtp_port_when_it_was_agreed() {
    let mut call = TestCall::open(limits());
    let stream = call.a.stream(Codec::Pcmu);
    call.configure(Side::A, Stream { rtcp_mux: true, remote_rtcp: stream.remote, ..stream });
    call.configure(Side::B, call.b.stream(Codec::Pcmu));
    call.handle.command(MediaCommand::Bridge);
    call.a.speak(0, 17);
    call.b.hear();
    let mut report = vec![];
    rtcp::encode_report(call.a.ssrc, None, None, &rtcp::Cname::from_random([7; 12]), &mut report);
    call.a.send_raw(&report);
    call.a.speak(0, 18);
    assert_eq!(call.b.hear().1, [18; 160], "the report is not audio");
    // RFC 3550 §6.3.7: who has sent nothing takes no leave.
    call.b.speak(0, 19);
    call.a.hear();
    call.handle.command(MediaCommand::Close);
    let mut bye = [0; 512];
    let (length, from) = call.a.rtp.recv_from(&mut bye).unwrap();
    assert_eq!(from.port(), call.a.engine);
    assert!(rtcp::decode(&bye[..length], 0).unwrap().bye);
    let MediaEvent::Closed(statistics) = call.event() else { panic!() };
    assert_eq!((statistics.a.received, statistics.a.foreign, statistics.a.stream.lost), (2, 0, 0));
}

#[test]
fn a_burst_arrives_whole_and_in_order() {
    let mut call = TestCall::bridged(Codec::Pcmu, Codec::Pcmu);
    let size = 200 * 2048;
    socket2::SockRef::from(&call.b.rtp).set_recv_buffer_size(size).unwrap();
    call.a.speak(0, 0);
    let (first, _) = call.b.hear();
    // More at once than there are receive buffers at first, mixed with what a stranger and a keep-alive send.
    for number in 1..=150u8 {
        call.a.speak(0, number);
        if number % 10 == 5 {
            call.a.send_raw(b"");
        }
    }
    for number in 1..=150u8 {
        let (header, payload) = call.b.hear();
        assert_eq!((payload[0], header.sequence), (number, first.sequence.wrapping_add(number.into())));
    }
    let statistics = call.close();
    assert_eq!((statistics.a.received, statistics.a.foreign, statistics.b.sent), (151, 15, 151));
}

#[test]
fn what_the_system_will_not_send_is_not_counted_as_sent() {
    let mut call = TestCall::bridged(Codec::Pcmu, Codec::Pcmu);
    call.a.speak(0, 1);
    call.b.hear();
    // Nobody may broadcast without having asked for it.
    let broadcast = SocketAddr::from((Ipv4Addr::BROADCAST, 9));
    call.configure(Side::B, Stream { remote: broadcast, ..call.b.stream(Codec::Pcmu) });
    for _ in 0..5 {
        call.a.speak(0, 2);
    }
    let engine = call.engine.clone();
    // The figures are published every now and then, and with the end of the last call.
    let wait = |enough: &dyn Fn(&EngineStatistics) -> bool| loop {
        let total = engine.statistics();
        if enough(&total) {
            break total;
        }
        std::thread::yield_now();
    };
    wait(&|total| total.received == 6);
    call.configure(Side::B, call.b.stream(Codec::Pcmu));
    call.a.speak(0, 4);
    assert_eq!(call.b.hear().1, [4; 160]);
    assert_eq!(call.close().b.sent, 2);
    let total = wait(&|total| total.received == 7 && total.unsent >= 5);
    assert_eq!((total.unsent, total.sent, total.relayed), (5, 2, 2));
}

#[test]
fn a_port_that_is_used_again_hears_nothing_of_the_call_before() {
    let base = four_free_ports(14_000..15_000);
    let engine = Engine::start(MediaLimits { ports: base..=base + 2, ..limits() }).unwrap();
    let mut before: Option<(Phone, Phone)> = None;
    for round in 0..8u8 {
        let (told, events) = channel();
        let handle = engine.open(LOCAL, LOCAL, Box::new(move |event| drop(told.send(event)))).unwrap();
        let (mut a, mut b) = (Phone::new(0xa), Phone::new(0xb));
        (a.engine, b.engine) = (handle.port(Side::A), handle.port(Side::B));
        for (side, phone) in [(Side::A, &a), (Side::B, &b)] {
            handle.command(MediaCommand::Configure { side, stream: phone.stream(Codec::Pcmu) });
        }
        handle.command(MediaCommand::Bridge);
        for _ in 0..3 {
            // The parties of the call before do not know yet that it has ended.
            if let Some((late_a, late_b)) = &mut before {
                late_a.speak(0, 200);
                late_b.speak(0, 200);
            }
            a.speak(0, round);
            assert_eq!(b.hear().1, [round; 160]);
            b.speak(0, round);
            assert_eq!(a.hear().1, [round; 160]);
        }
        // Packets lie in the sockets, and on their way out, when the call ends.
        a.speak(0, round);
        b.speak(0, round);
        handle.command(MediaCommand::Close);
        let MediaEvent::Closed(statistics) = events.recv_timeout(PATIENCE).unwrap() else { panic!() };
        assert!(statistics.a.received <= 4 && statistics.b.received <= 4);
        assert_eq!(engine.statistics().ports_in_use, 0, "the ports are free, and can be bound at once");
        if let Some((late_a, late_b)) = &before {
            late_a.rtp.set_nonblocking(true).unwrap();
            late_b.rtp.set_nonblocking(true).unwrap();
            for late in [late_a, late_b] {
                while let Ok((length, _)) = late.rtp.recv_from(&mut [0; 2048]) {
                    assert_eq!(length, 172);
                }
            }
        }
        before = Some((a, b));
    }
}

#[test]
fn media_that_stops_and_begins_again_is_heard() {
    let mut call = TestCall::bridged(Codec::Pcmu, Codec::Pcmu);
    for code in 1..=4u8 {
        call.a.speak(0, code);
        assert_eq!(call.b.hear().1, [code; 160]);
        // Longer than the engine takes packets for flowing: it dozes.
        assert!(call.events.recv_timeout(Duration::from_millis(130)).is_err());
        call.handle.command(MediaCommand::SendDigit { side: Side::A, digit: Digit::from_char('1').unwrap() });
        assert_eq!(call.a.hear().0.payload_type, 96, "a command wakes it as well");
        for _ in 0..6 {
            call.a.hear();
        }
    }
}

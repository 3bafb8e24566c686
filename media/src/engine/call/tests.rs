//! One call by a clock of the test's own: packets go in by hand, so a minute takes no time. What is sent goes to
//! sockets where it can be looked at.

use super::super::clock::Now;
use super::super::counters::EngineStatistics;
use super::super::{identity, testing};
use super::*;
use crate::quality::Trouble;
use crate::recorder::Sealers;
use crate::rtcp::{self, Cname};
use crate::rtp::{HEADER_LENGTH, Header};
use crate::time::{milliseconds, samples_in};
use crate::tone;
use crate::{Digit, Direction, PlayMode, Prompt, Stream, TelephoneEventFormat, g711, g722};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// A call, the phones at its ends, and the time.
struct World {
    call: Call,
    recorder: Recorder,
    phones: [Phone; 2],
    events: Receiver<MediaEvent>,
    counters: EngineStatistics,
    origin: Instant,
    ms: u64,
    codec: Codec,
    events_at: Option<u32>,
}

struct Phone {
    rtp: UdpSocket,
    rtcp: UdpSocket,
    sequence: u16,
    timestamp: u32,
    coder: crate::codec::Coder,
}

impl Phone {
    fn new() -> Self {
        let socket = || {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.set_nonblocking(true).unwrap();
            socket
        };
        let coder = crate::codec::Coder::default();
        Self { rtp: socket(), rtcp: socket(), sequence: 65_500, timestamp: 4_294_960_000, coder }
    }

    /// Packets that came, as (sequence, payload type, payload).
    fn heard(&self) -> Vec<(Header, Vec<u8>)> {
        let mut buffer = [0; 2048];
        let mut heard = vec![];
        while let Ok((length, _)) = self.rtp.recv_from(&mut buffer) {
            let packet = Packet::parse(&buffer[..length]).unwrap();
            heard.push((packet.header, packet.payload.to_vec()));
        }
        heard
    }
}

fn index(side: Side) -> usize {
    usize::from(side == Side::B)
}

impl World {
    /// Both legs speak `codec`; telephone-events count at this clock, or there are none.
    #[allow(clippy::disallowed_methods, reason = "a test takes its one starting instant from the system")]
    fn new(codec: Codec, events_at: Option<u32>) -> Self {
        let sockets = || {
            let bind = || UdpSocket::bind("127.0.0.1:0").unwrap();
            Sockets { rtp: bind(), rtcp: bind(), port: 0 }
        };
        let (told, events) = channel();
        let origin = Instant::now();
        let call = Call::new(Parts {
            id: 1,
            sockets: [sockets(), sockets()],
            identities: [identity(), identity()],
            events: std::sync::Arc::new(move |event| drop(told.send(event))),
            silence: None,
            origin,
        });
        let recorder = Recorder::start("test", Sealers::start(1).unwrap()).unwrap();
        let (counters, phones) = (EngineStatistics::default(), [Phone::new(), Phone::new()]);
        let mut world = Self { call, recorder, phones, events, counters, origin, ms: 1000, codec, events_at };
        for side in [Side::A, Side::B] {
            let stream = world.stream(side);
            world.tell(MediaCommand::Configure { side, stream });
        }
        world
    }

    fn stream(&self, side: Side) -> Stream {
        let phone = &self.phones[index(side)];
        let (rtp, rtcp) = (phone.rtp.local_addr().unwrap(), phone.rtcp.local_addr().unwrap());
        Stream {
            telephone_event: self.events_at.map(|clock_rate| TelephoneEventFormat {
                send_payload_type: 101,
                receive_payload_type: 101,
                clock_rate,
            }),
            ..testing::stream(self.codec, rtp, rtcp)
        }
    }

    fn now(&self) -> Now {
        let since = Duration::from_millis(self.ms);
        Now { media: MediaTime::from_samples(samples_in(since)), instant: self.origin + since }
    }

    fn tell(&mut self, command: MediaCommand) {
        let now = self.now().media;
        self.call.handle(command, &mut self.recorder, now, now);
    }

    fn talking() -> Self {
        let mut world = Self::new(Codec::Pcmu, Some(8000));
        world.tell(MediaCommand::Bridge);
        world.tell(MediaCommand::Answered);
        world
    }

    fn give(&mut self, socket: u8, mut datagram: Vec<u8>) -> bool {
        let side = if socket < 2 { Side::A } else { Side::B };
        let phone = &self.phones[index(side)];
        let from = if socket.is_multiple_of(2) { &phone.rtp } else { &phone.rtcp }.local_addr().unwrap();
        let mut bench = Bench { now: self.now(), counters: &mut self.counters, ring: None };
        self.call.on_packet(socket, &mut datagram, from, &mut self.recorder, &mut bench).0
    }

    fn packet(&mut self, side: Side, payload_type: u8, timestamp: u32, payload: &[u8]) {
        let phone = &mut self.phones[index(side)];
        let sequence = phone.sequence;
        phone.sequence = sequence.wrapping_add(1);
        let header = Header { marker: false, payload_type, sequence, timestamp, ssrc: 7 };
        let mut wire = header.encode().to_vec();
        wire.extend(payload);
        assert_eq!(wire.len(), HEADER_LENGTH + payload.len());
        assert!(self.give(if side == Side::A { 0 } else { 2 }, wire));
    }

    /// One packet of linear audio.
    fn say(&mut self, side: Side, samples: &[i16]) {
        let codec = self.codec;
        let number = self.stream(side).send_payload_type;
        let phone = &mut self.phones[index(side)];
        let timestamp = phone.timestamp;
        phone.timestamp = timestamp.wrapping_add(samples.len() as u32);
        let mut payload = vec![0; samples.len()];
        phone.coder.encode(codec, samples, &mut payload);
        self.packet(side, number, timestamp, &payload);
    }

    /// All of it, in packets of 20 ms at their time.
    fn speak(&mut self, side: Side, samples: &[i16]) {
        for piece in samples.chunks(160) {
            self.say(side, piece);
            self.pass(20);
        }
    }

    fn pass(&mut self, ms: u64) {
        self.ms += ms;
        let now = self.now();
        if self.call.deadline() <= now.media {
            let mut bench = Bench { now, counters: &mut self.counters, ring: None };
            self.call.fire(&mut bench, &mut vec![]);
            assert!(self.call.deadline() > now.media, "it would spin");
        }
    }

    fn told(&self) -> Vec<MediaEvent> {
        self.events.try_iter().collect()
    }

    fn close(&mut self) -> CallStatistics {
        let mut bench = Bench { now: self.now(), counters: &mut self.counters, ring: None };
        self.call.close(&mut bench, &mut vec![])
    }
}

fn keys(events: &[MediaEvent]) -> String {
    let key = |event: &MediaEvent| match event {
        MediaEvent::Digit { side: Side::A, digit } => Some(digit.key()),
        _ => None,
    };
    events.iter().filter_map(key).collect()
}

/// The keys' tones of 100 ms with 80 ms after each.
fn typed(text: &str) -> Vec<i16> {
    let tone = |key| tone::dtmf(Digit::from_char(key).unwrap(), Duration::from_millis(100));
    text.chars().flat_map(|key| tone(key).into_iter().chain([0; 640])).collect()
}

/// 100 ms of something that is no key.
fn voice() -> Vec<i16> {
    (0..800).map(|n| (6000.0 * (f64::from(n) * 0.31).sin()) as i16).collect()
}

fn loud(codec: Codec, heard: &[(Header, Vec<u8>)]) -> usize {
    let mut wide = g722::Decoder::narrow();
    let samples = heard.iter().flat_map(|(_, payload)| {
        let mut samples = vec![0; payload.len()];
        match codec.law() {
            Some(law) => g711::decode(law, payload, &mut samples),
            None => wide.decode(payload, &mut samples),
        };
        samples
    });
    samples.filter(|sample| sample.unsigned_abs() > 500).count()
}

#[test]
fn one_way_audio_is_told_after_ten_seconds_and_counted() {
    let mut world = World::talking();
    for _ in 0..1500 {
        world.say(Side::A, &[1000; 160]);
        // The second party's phone reports, and says nothing: RTCP is no audio.
        if world.ms.is_multiple_of(5000) {
            let mut report = vec![];
            rtcp::encode_report(9, None, None, &Cname::from_random([3; 12]), &mut report);
            assert!(world.give(3, report));
        }
        world.pass(20);
        if world.ms == 10_980 {
            assert_eq!(world.told(), []);
        }
    }
    assert_eq!(world.told(), [MediaEvent::Trouble(Trouble::Unheard(Side::A))], "once in 30 s");
    // The called party comes back and goes again: another episode.
    world.say(Side::B, &[1000; 160]);
    for _ in 0..1000 {
        world.say(Side::A, &[1000; 160]);
        world.pass(20);
    }
    assert_eq!(world.told(), [MediaEvent::Trouble(Trouble::Unheard(Side::A))]);
    let figures = world.close();
    assert_eq!((figures.a.unheard, figures.a.silences, figures.b.unheard), (2, 0, 0));
}

#[test]
fn silence_is_told_of_each_leg_but_not_on_hold_nor_before_the_answer() {
    let mut world = World::new(Codec::Pcmu, Some(8000));
    world.tell(MediaCommand::Bridge);
    for _ in 0..60 {
        world.pass(1000);
    }
    assert_eq!(world.told(), [], "a phone that only rings owes nothing");
    world.tell(MediaCommand::Answered);
    let stream = Stream { direction: Direction::SendOnly, ..world.stream(Side::B) };
    world.tell(MediaCommand::Configure { side: Side::B, stream });
    for _ in 0..60 {
        world.pass(1000);
    }
    assert_eq!(world.told(), [], "on hold");
    let stream = world.stream(Side::B);
    world.tell(MediaCommand::Configure { side: Side::B, stream });
    for _ in 0..9 {
        world.pass(1000);
    }
    assert_eq!(world.told(), []);
    world.pass(1000);
    let silent = |side| MediaEvent::Trouble(Trouble::Silent(side));
    assert_eq!(world.told(), [silent(Side::A), silent(Side::B)]);
    // RFC 3389: who announces a pause may be quiet.
    world.packet(Side::A, 13, 0, &[40]);
    world.packet(Side::B, 13, 0, &[40]);
    for _ in 0..60 {
        world.pass(1000);
    }
    assert_eq!(world.told(), []);
    assert_eq!(world.close().b.silences, 1);
}

#[test]
fn a_peer_that_reports_to_hear_nothing_is_told() {
    let mut world = World::talking();
    let ssrc = {
        world.say(Side::A, &[0; 160]);
        world.phones[1].heard()[0].0.ssrc
    };
    for n in 0..1000u64 {
        world.say(Side::A, &[1000; 160]);
        world.say(Side::B, &[1000; 160]);
        if n % 250 == 249 {
            let reception = rtp_reception(ssrc, if n < 500 { 1000 + n as u32 } else { 1499 });
            let block = rtcp::ReportBlock::new(reception, None, world.now().instant);
            let mut report = vec![];
            rtcp::encode_report(9, None, Some(&block), &Cname::from_random([3; 12]), &mut report);
            assert!(world.give(3, report));
        }
        world.pass(20);
    }
    assert_eq!(world.told(), [MediaEvent::Trouble(Trouble::Unheard(Side::B))]);
    let figures = world.close();
    assert_eq!((figures.b.unheard, figures.a.unheard), (1, 0));
    assert!(figures.b.remote_expected > 0 && figures.b.remote_mos.is_some());
}

fn rtp_reception(ssrc: u32, extended_sequence: u32) -> crate::rtp::Reception {
    crate::rtp::Reception { ssrc, fraction_lost: 0, cumulative_lost: 0, extended_sequence, jitter: 8 }
}

#[test]
fn a_leg_with_losses_is_rated_below_one_without() {
    let mut world = World::talking();
    for n in 0..500 {
        world.say(Side::A, &[1000; 160]);
        if n % 10 == 3 {
            let phone = &mut world.phones[1];
            phone.sequence = phone.sequence.wrapping_add(1);
            phone.timestamp = phone.timestamp.wrapping_add(160);
        } else {
            world.say(Side::B, &[1000; 160]);
        }
        world.pass(20);
    }
    let CallStatistics { a, b } = world.close();
    let (good, bad) = (a.mos.unwrap().hundredths(), b.mos.unwrap().hundredths());
    assert!((435..=441).contains(&good) && (300..400).contains(&bad), "{good} {bad}");
    assert_eq!((a.stream.lost, b.stream.lost, b.stream.loss_runs, b.stream.longest_loss), (0, 50, 50, 1));
    assert_eq!((a.stream.expected, b.stream.expected, a.codec), (500, 500, Some(Codec::Pcmu)));
}

#[test]
fn keys_are_heard_as_tones_when_there_is_no_telephone_event_and_reach_nobody_else() {
    for codec in [Codec::Pcmu, Codec::Pcma, Codec::G722] {
        let folder = std::env::temp_dir().join(format!("tones-{:016x}", rand::random::<u64>()));
        let mut world = World::new(codec, None);
        // As no call does it: the bridge and the recording are there before the PIN is.
        world.tell(MediaCommand::Bridge);
        world.tell(MediaCommand::Record { directory: folder.clone() });
        world.tell(MediaCommand::CollectDigits { side: Side::A, on: true });
        world.speak(Side::A, &voice());
        world.speak(Side::A, &typed("4407"));
        // The last key is held: it is told at once, the collection ends, and the tone goes on for a second.
        let held = tone::dtmf(Digit::from_char('9').unwrap(), Duration::from_millis(1200));
        let (first, rest) = held.split_at(800);
        world.speak(Side::A, first);
        assert_eq!(keys(&world.told()), "44079", "{codec:?}");
        world.tell(MediaCommand::CollectDigits { side: Side::A, on: false });
        world.speak(Side::A, rest);
        world.speak(Side::A, &[0; 800]);
        assert_eq!(loud(codec, &world.phones[1].heard()), 0, "{codec:?}: a tone was relayed");
        // What is said after it is the other party's to hear, tones included, and no key of a PIN.
        world.speak(Side::A, &voice());
        world.speak(Side::A, &typed("5"));
        assert!(loud(codec, &world.phones[1].heard()) > 800, "{codec:?}");
        assert_eq!(keys(&world.told()), "", "{codec:?}");
        // Voice, four keys, the held one, and a silence.
        let spoken_from = (100 + 4 * 180 + 1200 + 100) * 8;
        let id = world.call.recording().unwrap();
        let (statistics, now) = (world.close(), world.now().media);
        world.recorder.finish(id, statistics, now, now);
        let report = world.events.iter().find_map(|event| match event {
            MediaEvent::Recorded(report) => Some(report),
            _ => None,
        });
        let rate = report.unwrap().sample_rate_hz as usize;
        let samples: Vec<i16> = hound::WavReader::open(folder.join("a-leg.wav"))
            .unwrap()
            .into_samples()
            .map(Result::unwrap)
            .collect();
        let (before, after) = samples.split_at(spoken_from * rate / 8000);
        let peak = |part: &[i16]| part.iter().map(|sample| sample.unsigned_abs()).max().unwrap_or(0);
        assert!(peak(before) < 100, "{codec:?}: a tone was recorded: {}", peak(before));
        assert!(peak(after) > 4000, "{codec:?}: what came after it was not");
        std::fs::remove_dir_all(folder).unwrap();
    }
}

#[test]
fn a_leg_with_telephone_event_is_not_listened_to_so_no_key_counts_twice() {
    let mut world = World::new(Codec::Pcmu, Some(8000));
    world.tell(MediaCommand::CollectDigits { side: Side::A, on: true });
    world.speak(Side::A, &typed("123"));
    assert_eq!(keys(&world.told()), "", "tones beside agreed events are the same keys once more");
    // Agreed on anew without events: from now on tones are all there is.
    world.events_at = None;
    let stream = world.stream(Side::A);
    world.tell(MediaCommand::Configure { side: Side::A, stream });
    world.speak(Side::A, &typed("456"));
    assert_eq!(keys(&world.told()), "456");
}

#[test]
fn rfc4733_collected_keys_are_told_once_at_every_clock_rate() {
    for clock in [8000u32, 16_000, 48_000] {
        let mut world = World::new(Codec::Pcmu, Some(clock));
        world.tell(MediaCommand::CollectDigits { side: Side::A, on: true });
        let (per_packet, mut start) = (clock / 50, 1_000_000u32);
        for key in "4407#".chars() {
            let event = Digit::from_char(key).unwrap().event();
            // 100 ms, and its end three times.
            for (n, end) in [(1, false), (2, false), (3, false), (4, false), (5, true), (5, true), (5, true)]
            {
                let duration = u16::try_from(n * per_packet).unwrap();
                let event = TelephoneEvent { event, end, volume: 10, duration };
                world.packet(Side::A, 101, start, &event.encode());
                world.pass(20);
            }
            start = start.wrapping_add(8 * per_packet);
        }
        assert_eq!(keys(&world.told()), "4407#", "{clock} Hz");
    }
}

#[test]
fn prompts_leave_at_exact_multiples_of_their_frame_and_both_calls_share_them() {
    let prompt = Prompt::new("speech", &vec![3000; 16_000]);
    prompt.prepare(Codec::Pcmu);
    let mut timestamps = vec![];
    for _ in 0..2 {
        let mut world = World::new(Codec::Pcmu, Some(8000));
        let play = MediaCommand::Play { side: Side::A, prompt: prompt.clone(), mode: PlayMode::Once };
        world.tell(play);
        let mut sent = vec![];
        // The engine looks every 2 ms, as it does when packets flow.
        for look in 0..1100 {
            world.pass(if look == 0 { 0 } else { 2 });
            sent.extend(world.phones[0].heard().into_iter().map(|(header, _)| (world.ms, header.timestamp)));
        }
        assert_eq!(sent.len(), 100);
        for (n, (ms, timestamp)) in sent.iter().enumerate() {
            assert_eq!(*ms, sent[0].0 + 20 * n as u64, "packet {n} is late or early");
            assert_eq!(*timestamp, sent[0].1.wrapping_add(160 * n as u32));
        }
        assert!(world.told().contains(&MediaEvent::PlayFinished { side: Side::A }));
        timestamps.push(sent[0].0);
    }
    assert_eq!(timestamps[0], timestamps[1]);
    assert_eq!(milliseconds(20), 160);
}

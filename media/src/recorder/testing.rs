//! What the recorder's tests share: a folder, a disk that fails when it is told to, phones on a simulated clock.

use super::file::{Disk, Storage, SystemDisk};
use super::{A_LEG, B_LEG, Recorder, RecordingId, Sealers};
use crate::rtp::{self, Header, Packet};
use crate::time::{MediaTime, milliseconds};
use crate::{CallStatistics, Codec, LegRecording, MediaEvent, RecordingReport, Side, g711};
use sha2::{Digest, Sha256};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// Far longer than anything takes that is waited for.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// A folder of its own, gone at the end.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        let path = std::env::temp_dir().join(format!("recorder-{:016x}", rand::random::<u64>()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub(super) fn read(path: &Path) -> Vec<i16> {
    hound::WavReader::open(path).unwrap().samples::<i16>().map(Result::unwrap).collect()
}

/// The system's disk, unless it is told to stall, to be full, or to write in small portions.
#[derive(Clone)]
pub(super) struct FaultyDisk(Arc<Faults>);

struct Faults {
    state: Mutex<State>,
    changed: Condvar,
    portion: AtomicUsize,
}

#[derive(Default)]
struct State {
    stalled: bool,
    /// Who waits for the stall to end.
    waiting: usize,
    room: Option<usize>,
    /// The next one who asks meets a bug.
    broken: bool,
}

impl FaultyDisk {
    pub(super) fn new() -> Self {
        let portion = AtomicUsize::new(usize::MAX);
        Self(Arc::new(Faults { state: Mutex::default(), changed: Condvar::new(), portion }))
    }

    /// So many bytes are written by one call at most.
    pub(super) fn at_most(&self, bytes: usize) {
        self.0.portion.store(bytes, Ordering::SeqCst);
    }

    /// There is room for so many bytes of audio, or any number.
    pub(super) fn room(&self, bytes: Option<usize>) {
        self.0.state.lock().unwrap().room = bytes;
    }

    /// The next one who asks for something meets a bug.
    pub(super) fn break_once(&self) {
        self.0.state.lock().unwrap().broken = true;
    }

    pub(super) fn stall(&self, stalled: bool) {
        self.0.state.lock().unwrap().stalled = stalled;
        self.0.changed.notify_all();
    }

    /// Returns when somebody waits for the disk.
    pub(super) fn wait_until_stalled(&self) {
        let state = self.0.state.lock().unwrap();
        let (state, waited) =
            self.0.changed.wait_timeout_while(state, PATIENCE, |state| state.waiting == 0).unwrap();
        drop(state);
        assert!(!waited.timed_out(), "nobody asks the disk for anything");
    }

    /// Waits while the disk stalls; then the bytes that there is room for.
    fn admit(&self, bytes: usize) -> io::Result<usize> {
        let mut state = self.0.state.lock().unwrap();
        if std::mem::take(&mut state.broken) {
            drop(state);
            panic!("a bug on purpose");
        }
        state.waiting += 1;
        self.0.changed.notify_all();
        let mut state = self.0.changed.wait_while(state, |state| state.stalled).unwrap();
        state.waiting -= 1;
        let bytes = bytes.min(self.0.portion.load(Ordering::SeqCst));
        match &mut state.room {
            None => Ok(bytes),
            Some(0) => Err(io::ErrorKind::StorageFull.into()),
            Some(room) => {
                let admitted = bytes.min(*room);
                *room -= admitted;
                Ok(admitted)
            }
        }
    }
}

/// A file, and up to where it reaches.
struct Faulty(FaultyDisk, Box<dyn Storage>, AtomicUsize);

impl Storage for Faulty {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        // What is rewritten in place takes no room; neither does the header here.
        let end = offset as usize + bytes.len();
        let takes_room = end > self.2.load(Ordering::SeqCst).max(44);
        let count = if takes_room { self.0.admit(bytes.len())? } else { bytes.len() };
        self.2.fetch_max(offset as usize + count, Ordering::SeqCst);
        self.1.write_at(&bytes[..count], offset)
    }
}

impl Disk for FaultyDisk {
    fn make_folder(&self, path: &Path) -> io::Result<()> {
        self.admit(1)?;
        SystemDisk.make_folder(path)
    }
    fn create(&self, path: &Path) -> io::Result<Box<dyn Storage>> {
        self.admit(1)?;
        Ok(Box::new(Faulty(self.clone(), SystemDisk.create(path)?, AtomicUsize::new(0))))
    }
}

/// What a recording became.
pub(super) struct Recorded {
    _folder: Folder,
    pub(super) report: RecordingReport,
    /// Both files' samples.
    pub(super) files: [Vec<i16>; 2],
    /// Events before the report.
    pub(super) failures: usize,
}

impl Recorded {
    pub(super) fn leg(&self, side: Side) -> (&LegRecording, &[i16]) {
        match side {
            Side::A => (&self.report.a, &self.files[0]),
            Side::B => (&self.report.b, &self.files[1]),
        }
    }
}

/// One recording of a recorder on a simulated clock.
pub(super) struct Session {
    pub(super) recorder: Recorder,
    pub(super) id: RecordingId,
    events: Receiver<MediaEvent>,
    folder: Folder,
    now: u64,
}

/// When recordings begin, in units of 125 µs since the engine's start.
const START: u64 = 1_000_000;

pub(super) fn at(samples: u64) -> MediaTime {
    MediaTime::from_samples(START + samples)
}

impl Session {
    pub(super) fn begin(disk: &FaultyDisk, blocks: usize, wideband: bool) -> Self {
        let folder = Folder::new();
        let sealers = Sealers::start(1).unwrap();
        let mut recorder =
            Recorder::start_on("test-recorder", sealers, Arc::new(disk.clone()), blocks).unwrap();
        let (told, events) = channel();
        let directory = folder.path().join("call");
        let id = recorder.begin(directory, wideband, Arc::new(move |event| told.send(event).unwrap()), at(0));
        Self { recorder, id, events, folder, now: 0 }
    }

    /// The worker's ticks up to a moment.
    pub(super) fn tick_until(&mut self, samples: u64) {
        while self.now + 24 <= samples {
            self.now += 24;
            self.recorder.tick(at(self.now));
        }
    }

    /// A datagram as the relay takes it from the wire.
    pub(super) fn receive(&mut self, side: Side, codec: Codec, datagram: &[u8], when: u64) -> bool {
        let packet = Packet::parse(datagram).unwrap();
        self.tick_until(when);
        self.recorder.audio((self.id, side), &packet.header, codec, packet.payload, at(when))
    }

    /// Returns when the writer has done all that it has been given.
    pub(super) fn settle(&mut self) {
        let given = self.recorder.allocated - usize::from(self.recorder.current.is_some());
        for _ in 0..given {
            self.recorder.empty.recv_timeout(PATIENCE).unwrap();
        }
        self.recorder.allocated -= given;
    }

    /// Hangs up at a moment.
    pub(super) fn finish(mut self, samples: u64) -> Recorded {
        self.tick_until(samples);
        let statistics = CallStatistics::default();
        self.recorder.finish(self.id, statistics, at(samples), at(samples));
        let mut failures = 0;
        let report = loop {
            match self.events.recv_timeout(PATIENCE).unwrap() {
                MediaEvent::RecordingFailed => failures += 1,
                MediaEvent::Recorded(report) => break report,
                event => panic!("{event:?}"),
            }
        };
        assert_eq!(self.events.recv_timeout(PATIENCE).unwrap(), MediaEvent::Closed(statistics));
        let paths = [A_LEG, B_LEG].map(|name| report.directory.join(name));
        for (path, leg) in paths.iter().zip([&report.a, &report.b]) {
            let digest = Sha256::digest(std::fs::read(path).unwrap());
            assert_eq!(leg.sha256, digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
        }
        let files = paths.map(|path| read(&path));
        assert_eq!(files.each_ref().map(|file| file.len() as u64), [report.samples; 2], "equal lengths");
        Recorded { _folder: self.folder, report, files, failures }
    }
}

/// A packet on its way to us.
#[derive(Clone)]
pub(super) struct Sent {
    pub(super) side: Side,
    pub(super) codec: Codec,
    /// When it arrives.
    pub(super) when: u64,
    pub(super) datagram: Vec<u8>,
    /// What it says, and when that is said.
    pub(super) said_at: u64,
    pub(super) audio: Vec<i16>,
}

/// A phone's sending side: each of its packets differs from all others.
pub(super) struct Speaker {
    pub(super) side: Side,
    pub(super) codec: Codec,
    pub(super) ssrc: u32,
    pub(super) sequence: u16,
    pub(super) timestamp: u32,
    pub(super) noise: Noise,
}

impl Speaker {
    pub(super) fn new(side: Side) -> Self {
        let noise = Noise(if side == Side::A { 11 } else { 22 });
        Self { side, codec: Codec::Pcmu, ssrc: 5, sequence: 65_500, timestamp: 0xffff_f000, noise }
    }

    /// The next packet of G.711, said and arriving at a moment.
    pub(super) fn say(&mut self, samples: usize, said_at: u64) -> Sent {
        let payload: Vec<u8> = (0..samples).map(|_| self.noise.below(256) as u8).collect();
        let law = self.codec.law().unwrap();
        let audio = payload.iter().map(|code| g711::decode_sample(law, *code)).collect();
        self.send(&payload, audio, said_at)
    }

    pub(super) fn send(&mut self, payload: &[u8], audio: Vec<i16>, said_at: u64) -> Sent {
        let header = Header {
            marker: false,
            payload_type: 0,
            sequence: self.sequence,
            timestamp: self.timestamp,
            ssrc: self.ssrc,
        };
        let mut datagram = vec![0; rtp::HEADER_LENGTH + payload.len()];
        rtp::encode(&header, payload, &mut datagram).unwrap();
        self.sequence = self.sequence.wrapping_add(1);
        self.timestamp = self.timestamp.wrapping_add(payload.len() as u32);
        Sent { side: self.side, codec: self.codec, when: said_at, datagram, said_at, audio }
    }

    /// Packets of so many samples each, from a moment to another, without a pause.
    pub(super) fn talk(&mut self, samples: usize, from_ms: u64, to_ms: u64) -> Vec<Sent> {
        let moments = (milliseconds(from_ms)..milliseconds(to_ms)).step_by(samples);
        moments.map(|moment| self.say(samples, moment)).collect()
    }

    /// Says nothing for a while; its clock goes on, and the next packet begins a talk-spurt (RFC 3551 §4.1).
    pub(super) fn pause(&mut self, ms: u64) {
        self.timestamp = self.timestamp.wrapping_add(milliseconds(ms) as u32);
    }
}

/// Numbers that look random and are the same each time.
pub(super) struct Noise(pub(super) u64);

impl Noise {
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

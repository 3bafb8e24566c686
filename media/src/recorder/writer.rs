//! The writer thread: places what was received and keeps the files playable.
//!
//! Its clock is the media thread's: a block says that all up to its time has been handed over, so a writer
//! that has fallen behind does not take for a gap what still waits in the queue. It reads no clock of its
//! own.

use super::file::{WavFile, spec};
use super::seal::{MAX_SAMPLES, Sealers, Written};
use super::{A_LEG, B_LEG, Block, Content, EventSink, Record, RecordingId, ToWriter};
use crate::jitter::{Arrived, Placement, Timeline, WINDOW};
use crate::resample::{self, Upsampler};
use crate::time::{MediaTime, SAMPLE_RATE_HZ, milliseconds};
use crate::{CallStatistics, Codec, MediaEvent, Side, g711, g722};
use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender};

/// Header and data go to the system so often; with the window and the age of a block less than a second can
/// be lost.
const FLUSH: u64 = milliseconds(250);
/// So much more than the window may wait for its emission.
const BACKLOG: u64 = milliseconds(400);
/// Samples written at once.
const PIECE: usize = 2048;
/// Bytes decoded at once: a packet of 20 ms, with room.
const DECODED: usize = 240;

/// Opens a leg's new file.
type Open = fn(&Path) -> io::Result<File>;

/// All recordings of one media thread.
pub(super) struct Writer {
    recordings: BTreeMap<RecordingId, Recording>,
    sealers: Sealers,
    flushed: MediaTime,
}

impl Writer {
    pub(super) fn new(sealers: Sealers) -> Self {
        Self { recordings: BTreeMap::new(), sealers, flushed: MediaTime::default() }
    }

    /// Until the media thread is gone; then what is left is finished where it stands.
    pub(super) fn run(mut self, inbox: &Receiver<ToWriter>, give_back: &SyncSender<Block>) {
        while let Ok(message) = inbox.recv() {
            if catch_unwind(AssertUnwindSafe(|| self.handle(message, give_back))).is_err() {
                tracing::error!("the recorder panicked; what it was writing may be incomplete");
            }
        }
        for (_, recording) in std::mem::take(&mut self.recordings) {
            self.sealers.seal(recording.finish(self.flushed, CallStatistics::default()));
        }
    }

    fn handle(&mut self, message: ToWriter, give_back: &SyncSender<Block>) {
        match message {
            ToWriter::Begin { id, directory, wideband, at, events } => {
                self.recordings.insert(id, Recording::begin(directory, wideband, events, at, create));
            }
            ToWriter::Block(mut block) => {
                self.take(&block);
                block.records.clear();
                block.payload.clear();
                // The pool holds as many blocks as there are, so there is room.
                let _ = give_back.try_send(block);
            }
            ToWriter::Lost(id) => {
                if let Some(recording) = self.recordings.get_mut(&id) {
                    recording.fail(None);
                }
            }
            ToWriter::Finish { id, at, statistics } => {
                if let Some(recording) = self.recordings.remove(&id) {
                    self.sealers.seal(recording.finish(at, statistics));
                }
            }
        }
    }

    fn take(&mut self, block: &Block) {
        let mut payload = block.payload.as_slice();
        for record in &block.records {
            let length = if let Content::Audio(_, length) = record.content { length } else { 0 };
            let (this, rest) = payload.split_at_checked(length).unwrap_or_default();
            payload = rest;
            if let Some(recording) = self.recordings.get_mut(&record.id) {
                recording.take(record, this);
            }
        }
        if block.at.since(self.flushed) >= FLUSH {
            self.flushed = block.at;
            for recording in self.recordings.values_mut() {
                recording.flush(block.at);
            }
        }
    }
}

/// Never takes the place of a file that exists.
fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o640).open(path)
}

/// Both files of one call.
struct Recording {
    directory: PathBuf,
    events: EventSink,
    start: MediaTime,
    /// Samples of a file per 125 µs: 1, or 2 for wideband.
    scale: u64,
    a: Leg,
    b: Leg,
    complete: bool,
}

/// One leg's file.
struct Leg {
    /// Of the recording.
    scale: u64,
    /// For G.722, made when it comes.
    decoder: Option<Box<g722::Decoder>>,
    /// For G.711 in a wideband recording.
    upsampler: Upsampler,
    placement: Placement,
    timeline: Timeline,
    /// `None` when it could not be made, or broke.
    file: Option<hound::WavWriter<WavFile>>,
}

impl Recording {
    fn begin(directory: PathBuf, wideband: bool, events: EventSink, start: MediaTime, open: Open) -> Self {
        let scale = if wideband { 2 } else { 1 };
        let (a, b) = (Leg::new(scale), Leg::new(scale));
        let mut recording = Self { directory, events, start, scale, a, b, complete: true };
        if let Err(error) = recording.make_files(open) {
            recording.fail(Some(&error));
        }
        recording
    }

    fn make_files(&mut self, open: Open) -> Result<(), hound::Error> {
        let spec = spec(self.rate());
        DirBuilder::new().recursive(true).mode(0o750).create(&self.directory)?;
        for (name, leg) in [(A_LEG, &mut self.a), (B_LEG, &mut self.b)] {
            let mut file = hound::WavWriter::new(WavFile::new(open(&self.directory.join(name))?), spec)?;
            file.flush()?;
            leg.file = Some(file);
        }
        Ok(())
    }

    /// Samples per second.
    fn rate(&self) -> u32 {
        SAMPLE_RATE_HZ.saturating_mul(self.scale as u32)
    }

    /// A time in samples of the files.
    fn samples(&self, since_start: u64) -> u64 {
        since_start.saturating_mul(self.scale)
    }

    fn take(&mut self, record: &Record, payload: &[u8]) {
        let arrival = record.at.since(self.start);
        let leg = match record.side {
            Side::A => &mut self.a,
            Side::B => &mut self.b,
        };
        let outcome = leg.take(record, payload, arrival);
        self.judge(outcome);
    }

    /// Writes what no late packet can change any more, and puts both headers right.
    fn flush(&mut self, now: MediaTime) {
        let until = self.samples(now.since(self.start).saturating_sub(WINDOW));
        let outcomes = [&mut self.a, &mut self.b].map(|leg| leg.flush(until));
        outcomes.into_iter().for_each(|outcome| self.judge(outcome));
    }

    fn finish(mut self, end: MediaTime, statistics: CallStatistics) -> Written {
        let samples = self.samples(end.since(self.start));
        let rate = self.rate();
        let outcomes = [&mut self.a, &mut self.b].map(|leg| leg.finish(samples));
        outcomes.into_iter().for_each(|outcome| self.judge(outcome));
        let Self { directory, events, a, b, complete, .. } = self;
        let gaps = [a.timeline.into_gaps(), b.timeline.into_gaps()];
        Written { directory, samples, rate, gaps, complete, events, statistics }
    }

    fn judge(&mut self, outcome: Result<(), hound::Error>) {
        if let Err(error) = outcome {
            self.fail(Some(&error));
        }
    }

    /// The call goes on; it hears of the loss once, and so does the log.
    fn fail(&mut self, error: Option<&hound::Error>) {
        if std::mem::replace(&mut self.complete, false) {
            let directory = self.directory.display();
            match error {
                Some(error) => tracing::error!(%directory, %error, "recording fails"),
                None => tracing::error!(%directory, "recording has gaps: the writer cannot keep up"),
            }
            (self.events)(MediaEvent::RecordingFailed);
        }
    }
}

impl Leg {
    fn new(scale: u64) -> Self {
        Self {
            scale,
            decoder: None,
            upsampler: Upsampler::default(),
            placement: Placement::default(),
            timeline: Timeline::new(scale as usize),
            file: None,
        }
    }

    /// `arrival` is in units of 125 µs, as all that is told of packets.
    fn take(&mut self, record: &Record, payload: &[u8], arrival: u64) -> Result<(), hound::Error> {
        let header = record.header;
        let mut arrived = Arrived {
            arrival,
            ssrc: header.ssrc,
            sequence: header.sequence,
            timestamp: header.timestamp,
            marker: header.marker,
            duration: 0,
        };
        let mut outcome = Ok(());
        if arrival > (self.timeline.emitted() / self.scale).saturating_add(WINDOW + BACKLOG) {
            outcome = self.emit(arrival.saturating_sub(WINDOW).saturating_mul(self.scale));
        }
        match record.content {
            Content::Audio(codec, _) => {
                arrived.duration = payload.len() as u32;
                if let Some(position) = self.placement.place(&arrived) {
                    self.insert(codec, position.saturating_mul(self.scale as i64), payload);
                }
            }
            Content::Key(duration) => {
                arrived.duration = duration;
                let position = self.placement.place_event(&arrived).saturating_mul(self.scale as i64);
                let samples = (duration as usize).saturating_mul(self.scale as usize);
                self.timeline.mute(position, samples);
            }
        }
        outcome
    }

    /// Decodes a payload to the rate of the file and puts it there, in pieces.
    fn insert(&mut self, codec: Codec, mut position: i64, payload: &[u8]) {
        let (mut samples, mut narrow) = ([0; 2 * DECODED], [0; DECODED]);
        for piece in payload.chunks(DECODED) {
            let (count, late) = match (codec.law(), self.scale) {
                (Some(law), 1) => (g711::decode(law, piece, &mut samples), 0),
                (Some(law), _) => {
                    let count = g711::decode(law, piece, &mut narrow);
                    let count = self.upsampler.process(narrow.get(..count).unwrap_or_default(), &mut samples);
                    (count, 2 * resample::DELAY)
                }
                (None, scale) => {
                    let new = if scale == 1 { g722::Decoder::narrow } else { g722::Decoder::wide };
                    let decoder = self.decoder.get_or_insert_with(|| Box::new(new()));
                    (decoder.decode(piece, &mut samples), 0)
                }
            };
            let at = position.saturating_sub(late as i64);
            self.timeline.insert(at, samples.get(..count).unwrap_or_default());
            position = position.saturating_add(count as i64);
        }
    }

    fn emit(&mut self, until: u64) -> Result<(), hound::Error> {
        let file = &mut self.file;
        let outcome = self.timeline.emit(until, |samples| write(file.as_mut(), samples));
        if outcome.is_err() {
            // What is in it stays; sealing puts its header right.
            self.file = None;
        }
        outcome
    }

    fn flush(&mut self, until: u64) -> Result<(), hound::Error> {
        self.emit(until)?;
        let outcome = self.file.as_mut().map_or(Ok(()), hound::WavWriter::flush);
        if outcome.is_err() {
            self.file = None;
        }
        outcome
    }

    fn finish(&mut self, samples: u64) -> Result<(), hound::Error> {
        self.emit(samples)?;
        self.file.take().map_or(Ok(()), hound::WavWriter::finalize)
    }
}

fn write(file: Option<&mut hound::WavWriter<WavFile>>, samples: &[i16]) -> Result<(), hound::Error> {
    let Some(file) = file else { return Ok(()) };
    for piece in samples.chunks(PIECE) {
        // hound's length fields would wrap without a word.
        if u64::from(file.len()) + piece.len() as u64 > MAX_SAMPLES {
            return Err(hound::Error::TooWide);
        }
        let mut writer = file.get_i16_writer(piece.len() as u32);
        piece.iter().for_each(|sample| writer.write_sample(*sample));
        writer.flush()?;
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::recorder::{Recorder, repair};
    use crate::rtp::Header;
    use crate::{Codec, RecordingReport};
    use std::sync::mpsc::channel;
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    /// A folder of its own, gone at the end.
    pub(in crate::recorder) struct Folder(PathBuf);

    impl Folder {
        pub(in crate::recorder) fn new() -> Self {
            let path = std::env::temp_dir().join(format!("recorder-{:016x}", rand::random::<u64>()));
            std::fs::create_dir(&path).unwrap();
            Self(path)
        }
        pub(in crate::recorder) fn path(&self) -> &Path {
            &self.0
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    pub(in crate::recorder) fn read(path: &Path) -> Vec<i16> {
        hound::WavReader::open(path).unwrap().samples::<i16>().map(Result::unwrap).collect()
    }

    fn at(ms: u64) -> MediaTime {
        MediaTime::from_samples(1_000_000 + milliseconds(ms))
    }

    fn header(number: u16) -> Header {
        let timestamp = 77 + u32::from(number) * 160;
        Header { marker: number == 0, payload_type: 0, sequence: number, timestamp, ssrc: 5 }
    }

    /// The coded audio of a frame; no two neighbours are alike.
    fn payload(number: u16) -> Vec<u8> {
        (0..160u16).map(|index| number.wrapping_mul(31).wrapping_add(index) as u8).collect()
    }

    fn decoded(codec: Codec, numbers: impl Iterator<Item = u16>) -> Vec<i16> {
        numbers.flat_map(payload).map(|code| g711::decode_sample(codec.law().unwrap(), code)).collect()
    }

    fn record(side: Side, number: u16, codec: Codec, ms: u64) -> Record {
        let content = Content::Audio(codec, 160);
        Record { id: RecordingId(0), side, at: at(ms), header: header(number), content }
    }

    fn sink() -> (EventSink, Arc<Mutex<Vec<MediaEvent>>>) {
        let heard = Arc::new(Mutex::new(vec![]));
        let events = heard.clone();
        (Arc::new(move |event| events.lock().unwrap().push(event)), heard)
    }

    #[test]
    fn the_files_are_playable_at_any_moment_and_lose_less_than_a_second() {
        let folder = Folder::new();
        let directory = folder.path().join("2026/11/21/uuid");
        let (events, heard) = sink();
        let mut recording = Recording::begin(directory.clone(), false, events, at(0), create);
        assert_eq!(read(&directory.join(A_LEG)), [], "valid from the start");
        for number in 0..100u16 {
            let ms = u64::from(number) * 20;
            recording.take(&record(Side::A, number, Codec::Pcmu, ms), &payload(number));
            recording.take(&record(Side::B, number, Codec::Pcma, ms), &payload(number));
            if number % 12 == 0 {
                recording.flush(at(ms));
                for (name, codec) in [(A_LEG, Codec::Pcmu), (B_LEG, Codec::Pcma)] {
                    let samples = read(&directory.join(name));
                    assert!(samples.len() as u64 + milliseconds(620) >= milliseconds(ms), "{ms} ms");
                    assert_eq!(samples, decoded(codec, 0..100)[..samples.len()]);
                }
            }
        }
        // A crash: nothing is finished. What was flushed is there and can be mended.
        std::mem::forget(recording);
        let report = repair(&directory).unwrap().unwrap();
        assert!(report.samples >= milliseconds(1300));
        assert!(heard.lock().unwrap().is_empty());
    }

    #[test]
    fn folders_and_files_have_their_modes_and_never_replace_others() {
        use std::os::unix::fs::PermissionsExt;
        let folder = Folder::new();
        let directory = folder.path().join("day/uuid");
        let (events, heard) = sink();
        let _first = Recording::begin(directory.clone(), false, events.clone(), at(0), create);
        // The tests' umask may take bits away but adds none.
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        for (path, most) in
            [(directory.clone(), 0o750), (folder.path().join("day"), 0o750), (directory.join(A_LEG), 0o640)]
        {
            assert_eq!(mode(&path) & !most, 0, "{}", path.display());
            assert_eq!(mode(&path) & 0o600, 0o600);
        }
        let _second = Recording::begin(directory, false, events, at(0), create);
        assert_eq!(*heard.lock().unwrap(), [MediaEvent::RecordingFailed]);
    }

    #[test]
    fn a_full_disk_is_told_once_and_what_can_be_kept_is_kept() {
        let folder = Folder::new();
        let (events, heard) = sink();
        let full: Open = |path| {
            if path.ends_with(B_LEG) {
                create(path)
            } else {
                OpenOptions::new().write(true).open("/dev/full")
            }
        };
        let mut recording = Recording::begin(folder.path().to_owned(), false, events, at(0), create);
        // From now on the A-leg's disk is full.
        recording.a.file =
            Some(hound::WavWriter::new(WavFile::new(full(Path::new("x")).unwrap()), spec(8000)).unwrap());
        for number in 0..100u16 {
            let ms = u64::from(number) * 20;
            recording.take(&record(Side::A, number, Codec::Pcmu, ms), &payload(number));
            recording.take(&record(Side::B, number, Codec::Pcmu, ms), &payload(number));
            recording.flush(at(ms));
        }
        Sealers::start(1).unwrap().seal(recording.finish(at(2000), CallStatistics::default()));
        let events = wait_for(&heard, 3);
        assert_eq!(events[0], MediaEvent::RecordingFailed);
        let MediaEvent::Recorded(report) = &events[1] else { panic!("{events:?}") };
        assert!(!report.complete);
        assert_eq!(report.a.gaps, [(0, 16_000)]);
        assert_eq!(read(&folder.path().join(A_LEG)), [0; 16_000]);
        assert_eq!(read(&folder.path().join(B_LEG)), decoded(Codec::Pcmu, 0..100));
    }

    /// Waits, within bounds, for what other threads report.
    fn wait_for(heard: &Mutex<Vec<MediaEvent>>, count: usize) -> Vec<MediaEvent> {
        for _ in 0..1000 {
            if heard.lock().unwrap().len() >= count {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        heard.lock().unwrap().clone()
    }

    /// A recording through both threads, with virtual time.
    fn record_through(packets: &[(Side, u16, u64)], end_ms: u64) -> (Folder, RecordingReport) {
        let folder = Folder::new();
        let mut recorder = Recorder::start("test-recorder", Sealers::start(1).unwrap()).unwrap();
        let (told, heard) = channel();
        let id = recorder.begin(
            folder.path().to_owned(),
            false,
            Arc::new(move |event| told.send(event).unwrap()),
            at(0),
        );
        let mut next = packets.iter().peekable();
        for ms in (0..end_ms).step_by(5) {
            while let Some((side, number, _)) = next.next_if(|(.., when)| *when <= ms) {
                assert!(recorder.audio(
                    (id, *side),
                    &header(*number),
                    Codec::Pcmu,
                    &payload(*number),
                    at(ms)
                ));
            }
            recorder.tick(at(ms));
        }
        let statistics = CallStatistics {
            a: crate::LegStatistics { received: 9, ..Default::default() },
            ..Default::default()
        };
        recorder.finish(id, statistics, at(end_ms));
        let MediaEvent::Recorded(report) = heard.recv_timeout(Duration::from_secs(20)).unwrap() else {
            panic!()
        };
        assert_eq!(heard.recv_timeout(Duration::from_secs(20)).unwrap(), MediaEvent::Closed(statistics));
        (folder, report)
    }

    #[test]
    fn a_recording_has_both_legs_aligned_and_of_equal_length() {
        // A speaks from 0 to 1 s, B from 1 s to 2 s; frame 60 of B is lost; the call ends at 2.5 s.
        let mut packets: Vec<_> = (0..50).map(|n| (Side::A, n, u64::from(n) * 20)).collect();
        packets.extend((50..100).filter(|n| *n != 60).map(|n| (Side::B, n, u64::from(n) * 20)));
        let (folder, report) = record_through(&packets, 2500);
        let mut a = decoded(Codec::Pcmu, 0..50);
        a.resize(20_000, 0);
        let mut b = vec![0; 8000];
        b.extend(decoded(Codec::Pcmu, 50..100));
        b[9600..9760].fill(0);
        b.resize(20_000, 0);
        assert_eq!(read(&folder.path().join(A_LEG)), a);
        assert_eq!(read(&folder.path().join(B_LEG)), b);
        assert_eq!((report.samples, report.sample_rate_hz, report.complete), (20_000, 8000, true));
        assert_eq!(report.a.gaps, [(8000, 12_000)]);
        assert_eq!(report.b.gaps, [(0, 8000), (9600, 160), (16_000, 4000)]);
        assert!(report.a.sha256.len() == 64 && report.a.sha256 != report.b.sha256);
    }

    #[test]
    fn a_folder_that_cannot_be_made_fails_the_recording_and_not_the_call() {
        let folder = Folder::new();
        let blocked = folder.path().join("file");
        std::fs::write(&blocked, b"").unwrap();
        let mut recorder = Recorder::start("test-recorder", Sealers::start(1).unwrap()).unwrap();
        let (events, heard) = sink();
        let id = recorder.begin(blocked.join("uuid"), false, events, at(0));
        recorder.finish(id, CallStatistics::default(), at(100));
        let events = wait_for(&heard, 3);
        assert_eq!(
            (&events[0], &events[2]),
            (&MediaEvent::RecordingFailed, &MediaEvent::Closed(CallStatistics::default()))
        );
        let MediaEvent::Recorded(report) = &events[1] else { panic!("{events:?}") };
        assert_eq!((report.complete, report.samples, report.a.sha256.as_str()), (false, 800, ""));
    }

    #[test]
    fn a_writer_that_cannot_keep_up_costs_gaps_and_never_time() {
        let (gate, blocked) = channel::<()>();
        let folder = Folder::new();
        let mut recorder = Recorder::start("test-recorder", Sealers::start(1).unwrap()).unwrap();
        // A recording that cannot begin tells so on the writer's thread, which then hangs like a slow disk.
        let hang = Mutex::new(blocked);
        recorder.begin(
            PathBuf::from("/dev/null/x"),
            false,
            Arc::new(move |_| {
                let _ = hang.lock().unwrap().recv();
            }),
            at(0),
        );
        let (events, heard) = sink();
        let id = recorder.begin(folder.path().to_owned(), false, events, at(0));
        let mut number = 0u16;
        while recorder.audio((id, Side::A), &header(number), Codec::Pcmu, &payload(number), at(0)) {
            number = number.wrapping_add(1);
            assert!(recorder.allocated <= super::super::MAX_BLOCKS);
        }
        assert_eq!((recorder.lost(), recorder.allocated), (1, super::super::MAX_BLOCKS));
        drop(gate);
        recorder.finish(id, CallStatistics::default(), at(1000));
        let events = wait_for(&heard, 3);
        assert!(events.contains(&MediaEvent::RecordingFailed));
        assert!(events.iter().any(|event| matches!(event, MediaEvent::Recorded(report) if !report.complete)));
    }

    /// A tone of `hz` as G.722, in packets of 20 ms.
    fn wide_tone(hz: f64, packets: usize) -> Vec<Vec<u8>> {
        let samples: Vec<i16> = (0..packets * 320)
            .map(|n| (8000.0 * (std::f64::consts::TAU * hz * n as f64 / 16_000.0).sin()) as i16)
            .collect();
        let mut payload = vec![0; packets * 160];
        assert_eq!(g722::Encoder::wide().encode(&samples, &mut payload), payload.len());
        payload.chunks(160).map(<[u8]>::to_vec).collect()
    }

    /// Share of one frequency in the power of `samples`.
    fn share(samples: &[i16], hz: f64, rate: f64) -> f64 {
        let (mut re, mut im, mut power) = (0.0, 0.0, 0.0);
        for (n, sample) in samples.iter().enumerate() {
            let angle = std::f64::consts::TAU * hz * n as f64 / rate;
            re += f64::from(*sample) * angle.cos();
            im += f64::from(*sample) * angle.sin();
            power += f64::from(*sample).powi(2);
        }
        2.0 * (re * re + im * im) / (samples.len() as f64 * power)
    }

    #[test]
    fn a_wideband_recording_has_16_000_samples_per_second_of_whatever_codec_comes() {
        for wideband in [true, false] {
            let folder = Folder::new();
            let directory = folder.path().join("x");
            let (events, heard) = sink();
            let mut recording = Recording::begin(directory.clone(), wideband, events, at(0), create);
            let low = wide_tone(1000.0, 100);
            let mut narrow = [0; 160];
            for number in 0..100u16 {
                let ms = u64::from(number) * 20;
                recording.take(&record(Side::A, number, Codec::G722, ms), &low[usize::from(number)]);
                // B has gone over to G.711 in mid-call.
                let samples: Vec<i16> = (0..160)
                    .map(|n| f64::from(u32::from(number) * 160 + n))
                    .map(|n| (8000.0 * (std::f64::consts::TAU * 700.0 * n / 8000.0).sin()) as i16)
                    .collect();
                g711::encode(g711::Law::Mu, &samples, &mut narrow);
                recording.take(&record(Side::B, number, Codec::Pcmu, ms), &narrow);
                recording.flush(at(ms));
            }
            Sealers::start(1).unwrap().seal(recording.finish(at(2000), CallStatistics::default()));
            let events = wait_for(&heard, 2);
            let MediaEvent::Recorded(report) = &events[0] else { panic!("{events:?}") };
            let rate = if wideband { 16_000 } else { 8000 };
            assert_eq!(
                (report.sample_rate_hz, report.samples, report.complete),
                (rate, 2 * u64::from(rate), true)
            );
            for (name, hz) in [(A_LEG, 1000.0), (B_LEG, 700.0)] {
                let file = hound::WavReader::open(directory.join(name)).unwrap();
                assert_eq!(file.spec().sample_rate, rate, "{name}");
                let samples = read(&directory.join(name));
                assert_eq!(samples.len() as u64, report.samples);
                let found = share(&samples[rate as usize / 4..], hz, f64::from(rate));
                assert!(found > 0.98, "{name} at {rate}: {found}");
            }
            assert!(report.a.gaps.is_empty() && report.b.gaps.iter().all(|gap| gap.1 <= 16), "{report:?}");
        }
    }
}

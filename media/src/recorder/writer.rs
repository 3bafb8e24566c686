//! The writer thread: places what was received and keeps the files playable.
//!
//! Its clock is the media thread's: a block says that all up to its time has been handed over, so a writer
//! that has fallen behind does not take for a gap what still waits in the queue. It reads no clock of its
//! own.

use super::file::{Disk, WavFile};
use super::seal::{Sealers, Written};
use super::{A_LEG, B_LEG, Block, Content, EventSink, Loss, Record, RecordingId, ToWriter};
use crate::jitter::{Arrived, Placement, Stretches, Timeline, WINDOW, joined};
use crate::resample::{self, Upsampler};
use crate::rtp::Header;
use crate::time::{MediaTime, SAMPLE_RATE_HZ, milliseconds};
use crate::{CallStatistics, Codec, LegRecording, MediaEvent, Side, g711, g722};
use std::collections::BTreeMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{Receiver, SyncSender};

/// Audio goes to the system so often; with the window and the age of a block less than a second can be lost.
const FLUSH: u64 = milliseconds(250);
/// Headers follow at every second flush: what they do not count yet, [`super::repair`] finds all the same.
const HEADERS: u64 = milliseconds(500);
/// So much more than the window may wait for its emission.
const BACKLOG: u64 = milliseconds(400);
/// How often a file that could not be made is tried again.
const REOPEN: u64 = milliseconds(1000);
/// Bytes decoded at once: a packet of 20 ms, with room.
const DECODED: usize = 240;
/// A packet further away than this from where the one before ended does not continue it.
const SEAM: u64 = milliseconds(5);
/// Samples of a loss that are listed at once: much less than a timeline holds.
const STEP: u32 = milliseconds(100) as u32;

/// All recordings of one media thread.
pub(super) struct Writer {
    recordings: BTreeMap<RecordingId, Recording>,
    disk: Arc<dyn Disk>,
    sealers: Sealers,
    unwritten: Arc<AtomicU64>,
    flushed: MediaTime,
    headers: MediaTime,
}

impl Writer {
    pub(super) fn new(disk: Arc<dyn Disk>, sealers: Sealers, unwritten: Arc<AtomicU64>) -> Self {
        let (flushed, headers) = (MediaTime::default(), MediaTime::default());
        Self { recordings: BTreeMap::new(), disk, sealers, unwritten, flushed, headers }
    }

    /// Until the media thread is gone; then what is left is finished where it stands.
    pub(super) fn run(mut self, inbox: &Receiver<ToWriter>, give_back: &SyncSender<Block>) {
        while let Ok(message) = inbox.recv() {
            // Whatever may panic is about one recording, and caught there.
            if catch_unwind(AssertUnwindSafe(|| self.handle(message, give_back))).is_err() {
                tracing::error!("the recorder panicked");
            }
        }
        for (_, recording) in std::mem::take(&mut self.recordings) {
            self.finish(recording, self.flushed, CallStatistics::default());
        }
    }

    fn handle(&mut self, message: ToWriter, give_back: &SyncSender<Block>) {
        match message {
            ToWriter::Begin { id, directory, wideband, at, events } => {
                let files = Files { directory, disk: self.disk.clone(), unwritten: self.unwritten.clone() };
                self.recordings.insert(id, Recording::begin(files, wideband, events, at));
            }
            ToWriter::Block(mut block) => {
                self.take(&block);
                block.records.clear();
                block.payload.clear();
                // The pool holds as many blocks as there are, so there is room.
                let _ = give_back.try_send(block);
            }
            ToWriter::Lost(losses) => {
                for loss in &losses {
                    if let Some(recording) = self.recordings.get_mut(&loss.id) {
                        recording.guard(|recording| recording.lose(loss));
                    }
                }
            }
            ToWriter::Finish { id, at, statistics } => {
                if let Some(recording) = self.recordings.remove(&id) {
                    self.finish(recording, at, *statistics);
                }
            }
        }
    }

    /// The call hears of the end in any case: it waits for that.
    fn finish(&self, recording: Recording, end: MediaTime, statistics: CallStatistics) {
        let events = recording.events.clone();
        match catch_unwind(AssertUnwindSafe(|| recording.finish(end, statistics))) {
            Ok(written) => self.sealers.seal(written),
            Err(_) => {
                tracing::error!("the recorder panicked at the end of a recording, which stays as it is");
                events(MediaEvent::RecordingFailed);
                events(MediaEvent::Closed(statistics));
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
                recording.guard(|recording| recording.take(record, this));
            }
        }
        if block.at.since(self.flushed) >= FLUSH {
            self.flushed = block.at;
            let headers = block.at.since(self.headers) >= HEADERS;
            if headers {
                self.headers = block.at;
            }
            for recording in self.recordings.values_mut() {
                recording.guard(|recording| recording.flush(block.at, headers));
            }
        }
    }
}

/// Where a call's files go.
pub(super) struct Files {
    pub(super) directory: PathBuf,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) unwritten: Arc<AtomicU64>,
}

/// Both files of one call.
pub(super) struct Recording {
    directory: PathBuf,
    disk: Arc<dyn Disk>,
    events: EventSink,
    start: MediaTime,
    /// Samples of a file per 125 µs: 1, or 2 for wideband.
    scale: u64,
    a: Leg,
    b: Leg,
    /// When files that could not be made were last tried.
    opened: MediaTime,
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
    /// Where what comes next would continue what it holds.
    follows: Option<i64>,
    placement: Placement,
    timeline: Timeline,
    file: WavFile,
}

impl Recording {
    pub(super) fn begin(files: Files, wideband: bool, events: EventSink, start: MediaTime) -> Self {
        let scale = if wideband { 2 } else { 1 };
        let leg = || Leg::new(scale, files.unwritten.clone());
        let (a, b) = (leg(), leg());
        let Files { directory, disk, .. } = files;
        let mut recording =
            Self { directory, disk, events, start, scale, a, b, opened: start, complete: true };
        recording.guard(|recording| {
            let outcome = recording.open();
            recording.judge(outcome);
        });
        recording
    }

    /// A panic about this recording costs no other one anything, and is told.
    #[inline]
    fn guard(&mut self, work: impl FnOnce(&mut Self)) {
        if catch_unwind(AssertUnwindSafe(|| work(self))).is_err() {
            tracing::error!(directory = %self.directory.display(), "the recorder panicked");
            self.fail(None);
        }
    }

    /// Makes the files that are not there yet.
    fn open(&mut self) -> io::Result<()> {
        self.disk.make_folder(&self.directory)?;
        for (name, leg) in [(A_LEG, &mut self.a), (B_LEG, &mut self.b)] {
            if !leg.file.is_open() {
                leg.file.open(self.disk.create(&self.directory.join(name))?)?;
            }
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

    fn leg(&mut self, side: Side) -> &mut Leg {
        match side {
            Side::A => &mut self.a,
            Side::B => &mut self.b,
        }
    }

    pub(super) fn take(&mut self, record: &Record, payload: &[u8]) {
        let arrival = record.at.since(self.start);
        let outcome = self.leg(record.side).take(record, payload, arrival);
        self.judge(outcome);
    }

    /// The media thread had no room for these packets.
    fn lose(&mut self, loss: &Loss) {
        let (first, last) = (loss.first_at.since(self.start), loss.last_at.since(self.start));
        let outcome = self.leg(loss.side).lose(loss, first, last);
        self.judge(outcome);
        self.fail(None);
    }

    /// Writes what no late packet can change any more, and puts both headers right.
    pub(super) fn flush(&mut self, now: MediaTime, headers: bool) {
        if !(self.a.file.is_open() && self.b.file.is_open()) && now.since(self.opened) >= REOPEN {
            self.opened = now;
            // That it fails has been told.
            let _ = self.open();
        }
        let until = self.samples(now.since(self.start).saturating_sub(WINDOW));
        let outcomes = [&mut self.a, &mut self.b].map(|leg| leg.flush(until, headers));
        outcomes.into_iter().for_each(|outcome| self.judge(outcome));
    }

    pub(super) fn finish(mut self, end: MediaTime, statistics: CallStatistics) -> Written {
        // Both end together, and nothing is taken back.
        let written = self.a.timeline.emitted().max(self.b.timeline.emitted());
        let samples = self.samples(end.since(self.start)).max(written);
        let rate = self.rate();
        // A disk that has come back in the last second takes what is left.
        if !(self.a.file.is_open() && self.b.file.is_open()) {
            let _ = self.open();
        }
        let outcomes = [&mut self.a, &mut self.b].map(|leg| {
            leg.end_spurt();
            leg.flush(samples, true)
        });
        outcomes.into_iter().for_each(|outcome| self.judge(outcome));
        let Self { directory, events, a, b, complete, .. } = self;
        Written {
            directory,
            samples,
            rate,
            a: a.into_report(),
            b: b.into_report(),
            complete,
            events,
            statistics,
        }
    }

    fn judge(&mut self, outcome: io::Result<()>) {
        if let Err(error) = outcome {
            self.fail(Some(&error));
        }
    }

    /// The call goes on, and so does the recording; the call hears of the loss once, and so does the log.
    fn fail(&mut self, error: Option<&io::Error>) {
        if std::mem::replace(&mut self.complete, false) {
            let directory = self.directory.display();
            match error {
                Some(error) => tracing::error!(%directory, %error, "recording fails"),
                None => tracing::error!(%directory, "recording has losses: there was no room for what came"),
            }
            (self.events)(MediaEvent::RecordingFailed);
        }
    }
}

impl Leg {
    fn new(scale: u64, unwritten: Arc<AtomicU64>) -> Self {
        Self {
            scale,
            decoder: None,
            upsampler: Upsampler::default(),
            follows: None,
            placement: Placement::default(),
            timeline: Timeline::new(scale as usize),
            file: WavFile::new(SAMPLE_RATE_HZ.saturating_mul(scale as u32), unwritten),
        }
    }

    /// `arrival` is in units of 125 µs, as all that is told of packets.
    fn take(&mut self, record: &Record, payload: &[u8], arrival: u64) -> io::Result<()> {
        let outcome = self.make_room(arrival);
        match record.content {
            Content::Audio(codec, _) => {
                if let Some(place) =
                    self.placement.place(&arrived(&record.header, arrival, payload.len() as u32))
                {
                    self.insert(
                        codec,
                        self.scaled(place.position),
                        payload,
                        self.scaled(place.stretch.into()),
                    );
                }
            }
            Content::Key(duration) => {
                let position = self.placement.place_event(&arrived(&record.header, arrival, duration));
                let samples = self.scaled(duration.into());
                self.timeline.mute(self.scaled(position), usize::try_from(samples).unwrap_or(0));
            }
        }
        outcome
    }

    /// Lists what is missing, and goes on behind it. Only time that has passed moves the timeline on, whatever the peer's
    /// timestamps claim.
    fn lose(&mut self, loss: &Loss, first_at: u64, last_at: u64) -> io::Result<()> {
        let mut outcome = self.make_room(first_at);
        let first = arrived(&loss.first, first_at, loss.last_samples);
        if let Some(place) = self.placement.place(&first) {
            let passed = last_at.saturating_sub(first_at).saturating_add(WINDOW + BACKLOG);
            let samples = loss.samples.min(u32::try_from(passed).unwrap_or(u32::MAX));
            let mut done = 0;
            while done < samples {
                let count = STEP.min(samples - done);
                outcome = outcome.and(self.make_room(first_at.saturating_add(done.into()).min(last_at)));
                let position = place.position.saturating_add(done.into());
                let samples = self.scaled(count.into());
                self.timeline.lose(self.scaled(position), usize::try_from(samples).unwrap_or(0));
                done += count;
            }
        }
        outcome = outcome.and(self.make_room(last_at));
        // What comes next is measured by the last one that is missing.
        let _ = self.placement.place(&arrived(&loss.last, last_at, loss.last_samples));
        outcome
    }

    fn scaled(&self, units: i64) -> i64 {
        units.saturating_mul(self.scale as i64)
    }

    /// A timeline that the flushes have left behind goes on by itself.
    fn make_room(&mut self, arrival: u64) -> io::Result<()> {
        if arrival > (self.timeline.emitted() / self.scale).saturating_add(WINDOW + BACKLOG) {
            return self.emit(arrival.saturating_sub(WINDOW).saturating_mul(self.scale));
        }
        Ok(())
    }

    /// Decodes a payload to the rate of the file and puts it there, in pieces; its first sample also fills so many
    /// before it.
    fn insert(&mut self, codec: Codec, mut position: i64, payload: &[u8], mut stretch: i64) {
        let upsampled = self.scale > 1 && codec.law().is_some();
        let continues = |next: i64| next.abs_diff(position.saturating_sub(stretch)) <= SEAM;
        if !upsampled || !self.follows.is_some_and(continues) {
            self.end_spurt();
        }
        // A filter rings before the first sample of a spurt.
        let first = if self.follows.is_none() { position } else { i64::MIN };
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
            let mut at = position.saturating_sub(late as i64);
            let before = usize::try_from(first.saturating_sub(at)).unwrap_or(0).min(count);
            at = at.saturating_add(before as i64);
            let samples = samples.get(before..count).unwrap_or_default();
            self.timeline.insert(at, samples);
            while stretch > 0 {
                at = at.saturating_sub(1);
                self.timeline.insert(at, samples.get(..1).unwrap_or_default());
                stretch -= 1;
            }
            position = position.saturating_add(count as i64);
        }
        self.follows = upsampled.then_some(position);
    }

    /// What is still in the upsampler leaves it, so that it is not heard where something else follows.
    fn end_spurt(&mut self) {
        let Some(end) = self.follows.take() else { return };
        let mut samples = [0; 2 * resample::DELAY];
        std::mem::take(&mut self.upsampler).process(&[0; resample::DELAY], &mut samples);
        self.timeline.insert(end.saturating_sub(samples.len() as i64), &samples);
    }

    fn emit(&mut self, until: u64) -> io::Result<()> {
        let mut outcome = Ok(());
        let file = &mut self.file;
        self.timeline.emit(until, |samples| {
            let pushed = file.push(samples);
            if outcome.is_ok() {
                outcome = pushed;
            }
        });
        outcome
    }

    fn flush(&mut self, until: u64, header: bool) -> io::Result<()> {
        let outcome = self.emit(until).and(self.file.write_audio());
        // Nothing is lost when it fails; sealing writes it again, and tells.
        if header && let Err(error) = self.file.write_header() {
            tracing::debug!(%error, "the header of a recording is not up to date");
        }
        outcome
    }

    fn into_report(self) -> LegRecording {
        let slipped = self.placement.slipped().saturating_mul(self.scale as i64);
        let (gaps, lost): (Stretches, Stretches) = self.timeline.into_gaps_and_lost();
        LegRecording { sha256: String::new(), gaps, lost: joined(lost, self.file.into_lost()), slipped }
    }
}

fn arrived(header: &Header, arrival: u64, duration: u32) -> Arrived {
    let Header { marker, sequence, timestamp, ssrc, .. } = *header;
    Arrived { arrival, ssrc, sequence, timestamp, marker, duration }
}

#[cfg(test)]
mod tests;

//! Two WAV files per call: what each leg's peer said, on one timeline, playable at any moment.
//!
//! ```text
//! media thread ── blocks of copied packets ──→ writer thread ── finished recordings ──→ sealers
//!              ←──────── empty blocks ────────  places, writes     (sync, SHA-256, events)
//! ```
//!
//! The media thread copies what it received into a pooled block and hands the block over when it is full or
//! 50 ms old; it never waits and allocates only while the pool grows. What finds no block, because the disk has kept
//! the writer waiting for too long, is lost: the media thread notes from where to where, and goes on. A call has a budget
//! of its own, so that a peer that sends more than real time brings uses up no room but its own.
//!
//! The writer puts the audio in its place ([`crate::jitter`]), hands it to the system four times a second and header
//! twice, so a crash costs less than a second ([`repair`] mends the rest). What the disk refuses is lost and listed, and
//! what comes after it is written where it belongs. Syncing and hashing, which may take long, are left to the
//! sealers. Both give way to live audio. Files are 16-bit mono PCM at 8000 Hz, or 16 000 Hz when the recording began
//! with two wideband legs; what then comes in another codec is converted. No number is in any path, file or header.

mod budget;
mod file;
mod seal;
#[cfg(test)]
mod tables;
#[cfg(test)]
pub(crate) mod testing;
mod writer;

pub use seal::{Sealers, repair};

use crate::engine::priority;
use crate::rtp::Header;
use crate::time::{MediaTime, milliseconds};
use crate::{CallStatistics, Codec, MediaEvent, Side};
use budget::{Leg, Losses};
use file::{Disk, SystemDisk};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

/// The A-leg's file in a recording's folder.
pub const A_LEG: &str = "a-leg.wav";
/// The B-leg's file.
pub const B_LEG: &str = "b-leg.wav";

/// Where a call's events go; called from several threads.
pub type EventSink = Arc<dyn Fn(MediaEvent) + Send + Sync>;

/// A block is handed over when it is so old, full or not: the writer's clock moves on with it.
const HAND_OVER: u64 = milliseconds(50);
/// Packets in a block.
const BLOCK_RECORDS: usize = 384;
/// Bytes of payload in a block.
const BLOCK_BYTES: usize = 64 * 1024;
/// Blocks of one media thread, 40 MB if all are needed: a disk may stall for ten seconds at 15 000 packets/s.
const MAX_BLOCKS: usize = 512;

/// One recording of one media thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RecordingId {
    number: u64,
    /// Its place in [`Recorder::slots`].
    slot: usize,
}

/// What a packet holds.
#[derive(Debug, Clone, Copy)]
enum Content {
    /// Coded audio: so many bytes of the block's payload.
    Audio(Codec, usize),
    /// A key is down for so many samples: silence.
    Key(u32),
}

/// One packet in a block.
#[derive(Debug, Clone, Copy)]
struct Record {
    id: RecordingId,
    side: Side,
    at: MediaTime,
    header: Header,
    content: Content,
}

/// Packets of one leg that found no room, one right after the other.
#[derive(Debug, Clone, Copy)]
struct Loss {
    id: RecordingId,
    side: Side,
    first_at: MediaTime,
    first: Header,
    last_at: MediaTime,
    last: Header,
    /// Of the last packet, in units of 125 µs, and from the first to its end.
    last_samples: u32,
    samples: u32,
}

/// Packets of many calls in order of arrival.
#[derive(Debug)]
struct Block {
    /// When it was handed over: nothing that came before is missing from it and those before it.
    at: MediaTime,
    records: Vec<Record>,
    payload: Vec<u8>,
}

impl Block {
    fn new() -> Self {
        let (records, payload) = (Vec::with_capacity(BLOCK_RECORDS), Vec::with_capacity(BLOCK_BYTES));
        Self { at: MediaTime::default(), records, payload }
    }
}

/// What the writer is told, in order.
enum ToWriter {
    Begin {
        id: RecordingId,
        directory: PathBuf,
        wideband: bool,
        at: MediaTime,
        events: EventSink,
    },
    Block(Block),
    /// Packets found no block.
    Lost(Vec<Loss>),
    Finish {
        id: RecordingId,
        at: MediaTime,
        statistics: Box<CallStatistics>,
    },
}

/// A media thread's end of its writer.
#[derive(Debug)]
pub struct Recorder {
    writer: Sender<ToWriter>,
    empty: Receiver<Block>,
    current: Option<Block>,
    allocated: usize,
    max_blocks: usize,
    handed_over: MediaTime,
    /// Recordings that have begun and not finished.
    live: usize,
    next_number: u64,
    slots: Vec<Slot>,
    free: Vec<usize>,
    lost: u64,
    /// What the writer does not know of yet.
    losses: Losses,
    unwritten: Arc<AtomicU64>,
}

/// A recording, as far as the media thread knows it.
#[derive(Debug, Default)]
struct Slot {
    /// Of the recording whose place it is.
    number: u64,
    a: Leg,
    b: Leg,
}

impl Recorder {
    /// Starts the writer thread, which ends when this is dropped; recordings that have not finished then are
    /// cut there.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub fn start(name: &str, sealers: Sealers) -> std::io::Result<Self> {
        Self::start_on(name, sealers, Arc::new(SystemDisk), MAX_BLOCKS)
    }

    fn start_on(
        name: &str,
        sealers: Sealers,
        disk: Arc<dyn Disk>,
        max_blocks: usize,
    ) -> std::io::Result<Self> {
        let (writer, inbox) = channel();
        let (give_back, empty): (SyncSender<Block>, _) = sync_channel(max_blocks);
        let unwritten = Arc::new(AtomicU64::new(0));
        let writer_thread = writer::Writer::new(disk, sealers, unwritten.clone());
        std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            priority::lower(priority::WRITERS);
            writer_thread.run(&inbox, &give_back);
        })?;
        Ok(Self {
            writer,
            empty,
            current: None,
            allocated: 0,
            max_blocks,
            handed_over: MediaTime::default(),
            live: 0,
            next_number: 0,
            slots: Vec::new(),
            free: Vec::new(),
            lost: 0,
            losses: Losses::default(),
            unwritten,
        })
    }

    /// Begins both files in `directory`, at 16 000 Hz when `wideband`; `now` is their sample 0.
    pub fn begin(
        &mut self,
        directory: PathBuf,
        wideband: bool,
        events: EventSink,
        now: MediaTime,
    ) -> RecordingId {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            self.slots.len() - 1
        });
        let id = RecordingId { number: self.next_number, slot };
        self.next_number += 1;
        self.live += 1;
        if let Some(slot) = self.slots.get_mut(slot) {
            *slot = Slot { number: id.number, a: Leg::new(now), b: Leg::new(now) };
        }
        self.tell(ToWriter::Begin { id, directory, wideband, at: now, events });
        id
    }

    /// Copies a received audio packet. False when there was no room; the recording will say so.
    pub fn audio(
        &mut self,
        (id, side): (RecordingId, Side),
        header: &Header,
        codec: Codec,
        payload: &[u8],
        now: MediaTime,
    ) -> bool {
        let within = self.may_spend(id, side, payload.len(), now);
        let Some(block) = self.room_for(payload.len(), now).filter(|_| within) else {
            return self.lose(id, side, header, payload.len() as u32, now);
        };
        block.payload.extend_from_slice(payload);
        let content = Content::Audio(codec, payload.len());
        block.records.push(Record { id, side, at: now, header: *header, content });
        true
    }

    /// Notes that a key has been down for `duration` samples since the packet's timestamp: it will not be
    /// heard. False when there was no room, which costs nothing that was said.
    pub fn key(
        &mut self,
        (id, side): (RecordingId, Side),
        header: &Header,
        duration: u32,
        now: MediaTime,
    ) -> bool {
        let within = self.may_spend(id, side, 0, now);
        let Some(block) = self.room_for(0, now).filter(|_| within) else { return false };
        block.records.push(Record { id, side, at: now, header: *header, content: Content::Key(duration) });
        true
    }

    /// Ends both files at `end`, or as soon after as what has been written allows, which is some 600 ms behind.
    /// The writer's side reports [`MediaEvent::Recorded`], then [`MediaEvent::Closed`].
    pub fn finish(&mut self, id: RecordingId, statistics: CallStatistics, end: MediaTime, now: MediaTime) {
        self.hand_over(now);
        self.tell_losses();
        if self.slot(id).is_some() {
            self.live = self.live.saturating_sub(1);
            // Its number fits no recording: what else is told of it comes to nothing.
            self.slots.get_mut(id.slot).into_iter().for_each(|slot| slot.number = u64::MAX);
            self.free.push(id.slot);
        }
        self.tell(ToWriter::Finish { id, at: end, statistics: Box::new(statistics) });
    }

    /// Hands over what has been collected when it is time; to be called at each tick.
    #[inline]
    pub fn tick(&mut self, now: MediaTime) {
        if self.live > 0 && now.since(self.handed_over) >= HAND_OVER {
            if self.current.is_none() {
                self.current = self.take_empty();
            }
            self.hand_over(now);
        }
    }

    /// Recordings under way.
    #[must_use]
    pub fn live(&self) -> usize {
        self.live
    }

    /// Packets that found no room, ever.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Samples that the disk refused, ever.
    #[must_use]
    pub fn unwritten(&self) -> u64 {
        self.unwritten.load(Ordering::Relaxed)
    }

    fn slot(&mut self, id: RecordingId) -> Option<&mut Slot> {
        self.slots.get_mut(id.slot).filter(|slot| slot.number == id.number)
    }

    fn leg(&mut self, id: RecordingId, side: Side) -> Option<&mut Leg> {
        let slot = self.slot(id)?;
        Some(match side {
            Side::A => &mut slot.a,
            Side::B => &mut slot.b,
        })
    }

    fn may_spend(&mut self, id: RecordingId, side: Side, bytes: usize, now: MediaTime) -> bool {
        self.leg(id, side).is_some_and(|leg| leg.may_spend(bytes, now))
    }

    fn room_for(&mut self, bytes: usize, now: MediaTime) -> Option<&mut Block> {
        let full = |block: &Block| {
            block.records.len() >= BLOCK_RECORDS || block.payload.len().saturating_add(bytes) > BLOCK_BYTES
        };
        if self.current.as_ref().is_some_and(full) {
            self.hand_over(now);
        }
        if self.current.is_none() {
            self.current = self.take_empty();
        }
        self.current.as_mut().filter(|block| !full(block))
    }

    fn take_empty(&mut self) -> Option<Block> {
        let block = self.empty.try_recv().ok().or_else(|| {
            (self.allocated < self.max_blocks).then(|| {
                self.allocated += 1;
                Block::new()
            })
        })?;
        // They came before all that the block will hold.
        self.tell_losses();
        Some(block)
    }

    fn hand_over(&mut self, now: MediaTime) {
        if let Some(mut block) = self.current.take() {
            block.at = now;
            self.handed_over = now;
            self.tell(ToWriter::Block(block));
            self.tell_losses();
        }
    }

    fn tell_losses(&mut self) {
        if let Some(losses) = self.losses.take() {
            self.tell(ToWriter::Lost(losses));
        }
    }

    #[cold]
    fn lose(&mut self, id: RecordingId, side: Side, header: &Header, samples: u32, now: MediaTime) -> bool {
        self.lost += 1;
        let slot = self.slots.get_mut(id.slot).filter(|slot| slot.number == id.number);
        let leg = slot.map(|slot| match side {
            Side::A => &mut slot.a,
            Side::B => &mut slot.b,
        });
        if let Some(leg) = leg {
            let (first_at, first, last_at, last) = (now, *header, now, *header);
            let loss = Loss { id, side, first_at, first, last_at, last, last_samples: samples, samples };
            self.losses.add(leg, loss);
        }
        false
    }

    /// The channel has no bound of its own: blocks are bounded by the pool, losses by their list, all else by the
    /// calls.
    fn tell(&self, message: ToWriter) {
        // It fails only when the writer is gone, and then there is nobody to tell.
        let _ = self.writer.send(message);
    }
}

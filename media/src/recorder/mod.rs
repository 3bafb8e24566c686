//! Two WAV files per call: what each leg's peer said, on one timeline, playable at any moment.
//!
//! ```text
//! media thread ── blocks of copied packets ──→ writer thread ── finished recordings ──→ sealers
//!              ←──────── empty blocks ────────  places, writes     (sync, SHA-256, events)
//! ```
//!
//! The media thread copies what it received into a pooled block and hands the block over when it is full or
//! 50 ms old; it never waits, allocates only while the pool grows, and counts as lost what finds no block.
//! The writer puts the audio in its place ([`crate::jitter`]) and flushes header and data four times a
//! second, so a crash costs less than a second ([`repair`] mends the rest). Syncing and hashing, which may
//! take long, are left to the sealers. Files are 16-bit mono PCM at 8000 Hz, or 16 000 Hz when the recording began
//! with two wideband legs; what then comes in another codec is converted. No number is in any path, file or header.

mod file;
mod seal;
mod writer;

pub use seal::{Sealers, repair};

use crate::rtp::Header;
use crate::time::{MediaTime, milliseconds};
use crate::{CallStatistics, Codec, MediaEvent, Side};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
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
pub struct RecordingId(u64);

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
    /// Packets of this recording found no block.
    Lost(RecordingId),
    Finish {
        id: RecordingId,
        at: MediaTime,
        statistics: CallStatistics,
    },
}

/// A media thread's end of its writer.
#[derive(Debug)]
pub struct Recorder {
    writer: Sender<ToWriter>,
    empty: Receiver<Block>,
    current: Option<Block>,
    allocated: usize,
    handed_over: MediaTime,
    /// Recordings that have begun and not finished.
    live: usize,
    next_id: u64,
    lost: u64,
    /// Recordings whose losses the writer knows of.
    incomplete: BTreeSet<RecordingId>,
}

impl Recorder {
    /// Starts the writer thread, which ends when this is dropped; recordings that have not finished then are
    /// cut there.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub fn start(name: &str, sealers: Sealers) -> std::io::Result<Self> {
        let (writer, inbox) = channel();
        let (give_back, empty): (SyncSender<Block>, _) = sync_channel(MAX_BLOCKS);
        let writer_thread = writer::Writer::new(sealers);
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || writer_thread.run(&inbox, &give_back))?;
        Ok(Self {
            writer,
            empty,
            current: None,
            allocated: 0,
            handed_over: MediaTime::default(),
            live: 0,
            next_id: 0,
            lost: 0,
            incomplete: BTreeSet::new(),
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
        let id = RecordingId(self.next_id);
        self.next_id += 1;
        self.live += 1;
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
        let Some(block) = self.room_for(payload.len(), now) else { return self.lose(id) };
        block.payload.extend_from_slice(payload);
        let content = Content::Audio(codec, payload.len());
        block.records.push(Record { id, side, at: now, header: *header, content });
        true
    }

    /// Notes that a key has been down for `duration` samples since the packet's timestamp: it will not be
    /// heard.
    pub fn key(
        &mut self,
        (id, side): (RecordingId, Side),
        header: &Header,
        duration: u32,
        now: MediaTime,
    ) -> bool {
        let Some(block) = self.room_for(0, now) else { return self.lose(id) };
        block.records.push(Record { id, side, at: now, header: *header, content: Content::Key(duration) });
        true
    }

    /// Ends both files at `now`. The writer's side reports [`MediaEvent::Recorded`], then
    /// [`MediaEvent::Closed`].
    pub fn finish(&mut self, id: RecordingId, statistics: CallStatistics, now: MediaTime) {
        self.hand_over(now);
        self.live = self.live.saturating_sub(1);
        self.incomplete.remove(&id);
        self.tell(ToWriter::Finish { id, at: now, statistics });
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
        if let Ok(block) = self.empty.try_recv() {
            return Some(block);
        }
        (self.allocated < MAX_BLOCKS).then(|| {
            self.allocated += 1;
            Block::new()
        })
    }

    fn hand_over(&mut self, now: MediaTime) {
        if let Some(mut block) = self.current.take() {
            block.at = now;
            self.handed_over = now;
            self.tell(ToWriter::Block(block));
        }
    }

    fn lose(&mut self, id: RecordingId) -> bool {
        self.lost += 1;
        if self.incomplete.insert(id) {
            self.tell(ToWriter::Lost(id));
        }
        false
    }

    /// The channel has no bound of its own: blocks are bounded by the pool, all else by the calls.
    fn tell(&self, message: ToWriter) {
        // It fails only when the writer is gone, and then there is nobody to tell.
        let _ = self.writer.send(message);
    }
}

//! Packets of another length, for a peer that demands it (`a=maxptime`) or whose audio is converted anyway.
//!
//! A byte is 125 µs in every codec here, so audio that is coded already can be cut anywhere. Pure: bytes and
//! timestamps in, pieces out; the numbers are [`crate::relay`]'s.
//!
//! ```text
//! in   │ 30 ms      │ 30 ms      │ 30 ms      │
//! out  │ 20 ms   │ 20 ms   │ 20 ms   │ 20 ms  │ (10 ms wait for more, for a while)
//! ```

use crate::rtp::timestamp_delta;
use crate::time::MediaTime;

/// The longest packet that is taken, and less than one of the longest frames before it.
const CAPACITY: usize = 1280 + crate::player::MAX_FRAME;

/// One leg's audio between its conversion and its packets.
#[derive(Debug, Clone)]
pub struct Cutter {
    bytes: [u8; CAPACITY],
    length: usize,
    /// Of the first byte.
    timestamp: u32,
    marker: bool,
    due: MediaTime,
}

/// What a packet is made of, beside its number and the bytes themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// The audio before was another's, or silence.
    pub marker: bool,
    /// Of the first byte.
    pub timestamp: u32,
    /// Bytes.
    pub length: usize,
}

impl Default for Cutter {
    fn default() -> Self {
        Self { bytes: [0; CAPACITY], length: 0, timestamp: 0, marker: false, due: MediaTime::NEVER }
    }
}

impl Cutter {
    /// True when nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// True when audio of that timestamp goes on where this ends.
    #[must_use]
    pub fn continues(&self, timestamp: u32) -> bool {
        timestamp_delta(timestamp, self.timestamp) == i32::try_from(self.length).unwrap_or(i32::MAX)
    }

    /// When what waits is to be sent as it is: nothing has come to complete it.
    #[must_use]
    pub fn due(&self) -> MediaTime {
        self.due
    }

    /// Adds audio, which continues what waits, or begins anew. What is longer than the longest packet is cut off.
    pub fn push(&mut self, timestamp: u32, marker: bool, payload: &[u8]) {
        if self.length == 0 {
            (self.timestamp, self.marker) = (timestamp, marker);
        }
        let free = self.bytes.get_mut(self.length..).unwrap_or_default();
        let count = free.len().min(payload.len());
        free.iter_mut().zip(payload).for_each(|(to, from)| *to = *from);
        self.length += count;
    }

    /// Takes `frame` bytes, when there are as many, to the front of `out`.
    pub fn take(&mut self, frame: usize, out: &mut [u8]) -> Option<Piece> {
        if frame == 0 || self.length < frame || out.len() < frame {
            return None;
        }
        out.iter_mut().zip(self.bytes.iter().take(frame)).for_each(|(to, from)| *to = *from);
        let piece =
            Piece { marker: std::mem::take(&mut self.marker), timestamp: self.timestamp, length: frame };
        self.bytes.copy_within(frame..self.length, 0);
        self.length -= frame;
        self.timestamp = self.timestamp.wrapping_add(frame as u32);
        Some(piece)
    }

    /// Takes all that waits.
    pub fn take_rest(&mut self, out: &mut [u8]) -> Option<Piece> {
        self.take(self.length, out)
    }

    /// What waits now waits until `at`.
    pub fn wait_until(&mut self, at: MediaTime) {
        self.due = if self.length == 0 { MediaTime::NEVER } else { at };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn pieces_have_their_length_their_time_and_one_marker() {
        let mut cutter = Cutter::default();
        let mut out = [0; 480];
        let mut pieces = vec![];
        for n in 0..4u8 {
            assert!(cutter.is_empty() || cutter.continues(1000 + 240 * u32::from(n)));
            cutter.push(1000 + 240 * u32::from(n), n == 0, &[n; 240]);
            while let Some(piece) = cutter.take(160, &mut out) {
                pieces.push((piece.timestamp, piece.marker, out[0], out[159]));
            }
        }
        let expected = [
            (1000, true, 0, 0),
            (1160, false, 0, 1),
            (1320, false, 1, 1),
            (1480, false, 2, 2),
            (1640, false, 2, 3),
            (1800, false, 3, 3),
        ];
        assert_eq!(pieces, expected);
        assert!(cutter.is_empty() && cutter.take_rest(&mut out).is_none());
    }

    #[test]
    fn what_is_not_completed_is_due_as_it_is() {
        let mut cutter = Cutter::default();
        let at = MediaTime::from_samples(77);
        cutter.wait_until(at);
        assert_eq!(cutter.due(), MediaTime::NEVER, "nothing waits");
        cutter.push(5, true, &[1; 80]);
        cutter.wait_until(at);
        assert_eq!((cutter.due(), cutter.continues(85), cutter.continues(86)), (at, true, false));
        let mut out = [0; 480];
        let rest = Piece { marker: true, timestamp: 5, length: 80 };
        assert_eq!((cutter.take(160, &mut out), cutter.take_rest(&mut out)), (None, Some(rest)));
    }

    proptest! {
        /// However it is cut, the audio is the same and nothing is lost or told twice.
        #[test]
        fn the_bytes_stay_what_they_are(
            lengths in prop::collection::vec(1usize..=1280, 1..40),
            frame in (1usize..=6).prop_map(|tens| tens * 80),
        ) {
            let mut cutter = Cutter::default();
            let (mut said, mut heard, mut timestamp) = (vec![], vec![], 4_294_967_000u32);
            let mut next = timestamp;
            let mut out = [0; 480];
            for (n, length) in lengths.iter().enumerate() {
                let payload: Vec<u8> = (0..*length).map(|m| (n * 31 + m) as u8).collect();
                cutter.push(timestamp, false, &payload);
                timestamp = timestamp.wrapping_add(*length as u32);
                said.extend(payload);
                while let Some(piece) = cutter.take(frame, &mut out) {
                    prop_assert_eq!((piece.timestamp, piece.length), (next, frame));
                    next = next.wrapping_add(frame as u32);
                    heard.extend(&out[..frame]);
                }
            }
            if let Some(piece) = cutter.take_rest(&mut out) {
                heard.extend(&out[..piece.length]);
            }
            prop_assert_eq!(said, heard);
        }
    }
}

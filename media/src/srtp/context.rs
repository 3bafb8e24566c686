//! What is remembered between packets: indices, and which of them were used (RFC 3711 §3.2.3, §3.3, §3.4).

use super::MasterKey;
use super::cipher::{Session, Use};
use subtle::ConstantTimeEq;

/// Packets before the newest whose repetition is noticed; what is older is refused (RFC 3711 §3.3.2 wants 64).
const WINDOW: u64 = 128;
/// Sources of a peer that are remembered under one key. A peer has one at a time.
const MAX_SOURCES: usize = 16;
/// The E flag of SRTCP: the packet is encrypted (RFC 3711 §3.4).
const ENCRYPTED: u32 = 1 << 31;
/// SSRC and header of RTCP, which stay readable.
const RTCP_PREFIX: usize = 8;
const INDEX_LENGTH: usize = 4;

/// The indices that were used, up to the newest.
#[derive(Debug, Clone, Copy)]
struct Window {
    newest: u64,
    /// Bit n: the index n before the newest was used.
    used: u128,
}

impl Window {
    fn begin(index: u64) -> Self {
        Self { newest: index, used: 1 }
    }

    fn is_new(&self, index: u64) -> bool {
        match self.newest.checked_sub(index) {
            None => true,
            Some(back) => back < WINDOW && self.used >> back & 1 == 0,
        }
    }

    fn mark(&mut self, index: u64) {
        match index.checked_sub(self.newest) {
            Some(ahead) => {
                self.used =
                    u32::try_from(ahead).ok().and_then(|ahead| self.used.checked_shl(ahead)).unwrap_or(0) | 1;
                self.newest = index;
            }
            None => {
                let back = u32::try_from(self.newest - index).unwrap_or(u32::MAX);
                self.used |= 1u128.checked_shl(back).unwrap_or(0);
            }
        }
    }

    /// The index that a sequence number most likely stands for (RFC 3711 §3.3.1). `None`: one before the first
    /// or after the last that there is.
    fn estimate(&self, sequence: u16) -> Option<u64> {
        let (rollover, newest) = (self.newest >> 16, self.newest as u16);
        let rollover = if newest < 0x8000 {
            if sequence.saturating_sub(newest) > 0x8000 { rollover.checked_sub(1)? } else { rollover }
        } else if newest - 0x8000 > sequence {
            rollover + 1
        } else {
            rollover
        };
        index(rollover, sequence)
    }
}

/// 48 bits; `None` beyond them.
fn index(rollover: u64, sequence: u16) -> Option<u64> {
    (rollover <= u64::from(u32::MAX)).then_some(rollover << 16 | u64::from(sequence))
}

/// The rollover counter of an index, as the tag covers it.
fn rollover(index: u64) -> [u8; 4] {
    ((index >> 16) as u32).to_be_bytes()
}

/// What the fixed fields of an RTP packet say, and where its payload begins.
struct Head {
    sequence: u16,
    ssrc: u32,
    length: usize,
}

impl Head {
    /// CSRC list and extension belong to the header, which is authenticated but not encrypted (RFC 3711 §3.1).
    #[inline]
    fn read(packet: &[u8]) -> Option<Self> {
        let &[flags, _, s0, s1, _, _, _, _, r0, r1, r2, r3] = packet.first_chunk()?;
        if flags >> 6 != 2 {
            return None;
        }
        let mut length = crate::rtp::HEADER_LENGTH + usize::from(flags & 0x0f) * 4;
        if flags & 0x10 != 0 {
            let &[_, _, high, low] = packet.get(length..)?.first_chunk()?;
            length += 4 + usize::from(u16::from_be_bytes([high, low])) * 4;
        }
        let (sequence, ssrc) = (u16::from_be_bytes([s0, s1]), u32::from_be_bytes([r0, r1, r2, r3]));
        (length <= packet.len()).then_some(Self { sequence, ssrc, length })
    }
}

/// Our stream, under one key.
pub(super) struct Sender {
    rtp: Session,
    rtcp: Session,
    /// `None` before the first packet.
    used: Option<Window>,
    next_rtcp: u32,
}

impl Sender {
    pub(super) fn new(master: &MasterKey) -> Self {
        let (rtp, rtcp) = (Session::derive(master, Use::Rtp), Session::derive(master, Use::Rtcp));
        Self { rtp, rtcp, used: None, next_rtcp: 0 }
    }

    /// Another key for the same stream, whose rollover counter goes on: RFC 3711 §3.3.1.
    pub(super) fn succeed(&self, master: &MasterKey) -> Self {
        Self { used: self.used, ..Self::new(master) }
    }

    /// RFC 3711 §3.3. A number that was used before must not be used again with other content (§9.1), so such a
    /// packet does not leave.
    pub(super) fn protect_rtp(&mut self, buffer: &mut [u8], length: usize) -> Option<usize> {
        let head = Head::read(buffer.get(..length)?)?;
        let index = match &self.used {
            Some(used) => used.estimate(head.sequence).filter(|index| used.is_new(*index))?,
            None => index(0, head.sequence)?,
        };
        let end = length.checked_add(self.rtp.tag).filter(|end| *end <= buffer.len())?;
        self.rtp.apply(head.ssrc, index, buffer.get_mut(head.length..length)?);
        let tag = self.rtp.authenticate(buffer.get(..length)?, &rollover(index));
        buffer.get_mut(length..end)?.copy_from_slice(tag.get(..self.rtp.tag)?);
        self.used.get_or_insert(Window::begin(index)).mark(index);
        Some(end)
    }

    /// RFC 3711 §3.4. `None` when 2^31 packets have left under this key.
    pub(super) fn protect_rtcp(&mut self, packet: &mut Vec<u8>) -> Option<()> {
        let index = self.next_rtcp;
        let next = index.checked_add(1).filter(|next| *next < ENCRYPTED)?;
        let &[_, _, _, _, r0, r1, r2, r3] = packet.first_chunk()?;
        let ssrc = u32::from_be_bytes([r0, r1, r2, r3]);
        self.rtcp.apply(ssrc, u64::from(index), packet.get_mut(RTCP_PREFIX..)?);
        packet.extend_from_slice(&(ENCRYPTED | index).to_be_bytes());
        let tag = self.rtcp.authenticate(packet, &[]);
        packet.extend_from_slice(tag.get(..self.rtcp.tag)?);
        self.next_rtcp = next;
        Some(())
    }
}

/// One source of the peer.
#[derive(Debug, Clone, Copy)]
struct Source {
    ssrc: u32,
    used: Window,
}

/// Sources in the order in which they were last heard, the latest at the end.
#[derive(Debug, Default)]
struct Sources(Vec<Source>);

impl Sources {
    fn find(&self, ssrc: u32) -> Option<&Window> {
        self.0.iter().rev().find(|source| source.ssrc == ssrc).map(|source| &source.used)
    }

    /// A packet of `ssrc` has proved itself.
    fn mark(&mut self, ssrc: u32, index: u64) {
        if let Some(last) = self.0.last_mut().filter(|last| last.ssrc == ssrc) {
            return last.used.mark(index);
        }
        let source = match self.0.iter().position(|source| source.ssrc == ssrc) {
            Some(at) => {
                let mut source = self.0.remove(at);
                source.used.mark(index);
                source
            }
            None => {
                if self.0.len() >= MAX_SOURCES {
                    self.0.remove(0);
                }
                Source { ssrc, used: Window::begin(index) }
            }
        };
        self.0.push(source);
    }
}

/// The peer's streams, under one key.
pub(super) struct Receiver {
    rtp: Session,
    rtcp: Session,
    rtp_sources: Sources,
    rtcp_sources: Sources,
    /// The peer's last source under the key before, and where it was.
    before: Option<Source>,
}

impl Receiver {
    pub(super) fn new(master: &MasterKey) -> Self {
        let (rtp, rtcp) = (Session::derive(master, Use::Rtp), Session::derive(master, Use::Rtcp));
        let sources = || Sources(Vec::with_capacity(MAX_SOURCES));
        Self { rtp, rtcp, rtp_sources: sources(), rtcp_sources: sources(), before: None }
    }

    /// The one that follows when the peer takes another key.
    pub(super) fn succeed(&self, master: &MasterKey) -> Self {
        Self { before: self.rtp_sources.0.last().copied().or(self.before), ..Self::new(master) }
    }

    /// RFC 3711 §3.3. Until the tag has proved right, nothing is changed.
    pub(super) fn unprotect_rtp(&mut self, datagram: &mut [u8]) -> Option<usize> {
        let length = datagram.len().checked_sub(self.rtp.tag)?;
        let (packet, tag) = datagram.split_at_mut_checked(length)?;
        let head = Head::read(packet)?;
        let candidates = match self.rtp_sources.find(head.ssrc) {
            Some(used) => [used.estimate(head.sequence).filter(|index| used.is_new(*index)), None, None],
            None => self.first_indices(&head),
        };
        let rtp = &self.rtp;
        let is_true = |index: &u64| {
            let ours = rtp.authenticate(packet, &rollover(*index));
            ours.get(..rtp.tag).is_some_and(|ours| bool::from(ours.ct_eq(tag)))
        };
        let index = candidates.into_iter().flatten().find(is_true)?;
        self.rtp.apply(head.ssrc, index, packet.get_mut(head.length..)?);
        self.rtp_sources.mark(head.ssrc, index);
        Some(length)
    }

    /// Where a source that has not been heard under this key may be. It begins at 0, which most peers do anew with
    /// each key; a few go on (RFC 3711 §3.3.1); and its first packets before the number 2^16 may have been lost.
    fn first_indices(&self, head: &Head) -> [Option<u64>; 3] {
        let before = self.before.filter(|before| before.ssrc == head.ssrc);
        let goes_on = before.and_then(|before| before.used.estimate(head.sequence));
        let begun = index(0, head.sequence);
        let wrapped = index(1, head.sequence).filter(|_| head.sequence < 0x8000);
        [
            begun,
            goes_on.filter(|index| Some(*index) != begun),
            wrapped.filter(|index| Some(*index) != goes_on),
        ]
    }

    /// RFC 3711 §3.4.
    pub(super) fn unprotect_rtcp(&mut self, datagram: &mut [u8]) -> Option<usize> {
        let covered = datagram.len().checked_sub(self.rtcp.tag)?;
        let length = covered.checked_sub(INDEX_LENGTH).filter(|length| *length >= RTCP_PREFIX)?;
        let (packet, tag) = datagram.split_at_mut_checked(covered)?;
        let word = u32::from_be_bytes(*packet.last_chunk()?);
        let &[flags, _, _, _, r0, r1, r2, r3] = packet.first_chunk()?;
        let (ssrc, index) = (u32::from_be_bytes([r0, r1, r2, r3]), u64::from(word & !ENCRYPTED));
        // What was agreed on is encryption (RFC 4568 §6.3.2); a packet without it is none of this stream.
        if flags >> 6 != 2 || word & ENCRYPTED == 0 {
            return None;
        }
        if self.rtcp_sources.find(ssrc).is_some_and(|used| !used.is_new(index)) {
            return None;
        }
        let ours = self.rtcp.authenticate(packet, &[]);
        if !bool::from(ours.get(..self.rtcp.tag)?.ct_eq(tag)) {
            return None;
        }
        self.rtcp.apply(ssrc, index, packet.get_mut(RTCP_PREFIX..length)?);
        self.rtcp_sources.mark(ssrc, index);
        Some(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rfc3711_3_3_1_a_sequence_number_stands_for_the_nearest_index() {
        let table: &[(&str, u64, u16, Option<u64>)] = &[
            ("the next one", 0x0_0005, 6, Some(6)),
            ("a late one", 0x0_0005, 3, Some(3)),
            ("after the wrap", 0x0_fffe, 1, Some(0x1_0001)),
            ("before the wrap, after it came", 0x1_0001, 0xfffe, Some(0xfffe)),
            ("before all", 0x0_0001, 0xfffe, None),
            ("half way ahead", 0x2_1000, 0x9000, Some(0x2_9000)),
            ("further ahead is behind", 0x2_1000, 0x9001, Some(0x1_9001)),
            ("half way behind", 0x2_9000, 0x1000, Some(0x2_1000)),
            ("further behind is ahead", 0x2_9000, 0x0fff, Some(0x3_0fff)),
            ("after the last", 0xffff_ffff_ffff, 0, None),
        ];
        for (fact, newest, sequence, expected) in table {
            assert_eq!(Window::begin(*newest).estimate(*sequence), *expected, "{fact}");
        }
    }

    proptest! {
        /// The window is what a set of all indices would say, as far back as it reaches.
        #[test]
        fn rfc3711_3_3_2_no_index_is_taken_twice(steps in prop::collection::vec(-200i64..400, 1..300)) {
            let mut at = 1_000_000u64;
            let mut window = Window::begin(at);
            let mut taken = std::collections::BTreeSet::from([at]);
            for step in steps {
                at = at.saturating_add_signed(step);
                let newest = *taken.last().unwrap();
                let expected = !taken.contains(&at) && (at > newest || newest - at < WINDOW);
                prop_assert_eq!(window.is_new(at), expected);
                if expected {
                    window.mark(at);
                    taken.insert(at);
                }
            }
        }
    }
}

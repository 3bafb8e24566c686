//! RTP and RTCP packets (RFC 3550) and telephone-event payloads (RFC 4733), written and read by hand.

/// What may stand in an RTP header beyond the usual; used by the leak check.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeaderExtras {
    /// Contributing sources (at most 15 are written).
    pub csrc: Vec<u32>,
    /// Profile and content of a header extension; padded to 32 bits.
    pub extension: Option<(u16, Vec<u8>)>,
    /// Bytes of padding at the end, 0 for none.
    pub padding: u8,
}

/// An RTP packet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Packet {
    /// Marker bit.
    pub marker: bool,
    /// 0–127.
    pub payload_type: u8,
    /// Sequence number.
    pub sequence: u16,
    /// In units of the stream's clock.
    pub timestamp: u32,
    /// Synchronisation source.
    pub ssrc: u32,
    /// Without padding.
    pub payload: Vec<u8>,
    /// Everything else that a header can carry.
    pub extras: HeaderExtras,
}

impl Packet {
    /// The packet on the wire.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let extras = &self.extras;
        let csrc_count = u8::try_from(extras.csrc.len().min(15)).unwrap_or(15);
        let flags = 0x80
            | if extras.padding > 0 { 0x20 } else { 0 }
            | if extras.extension.is_some() { 0x10 } else { 0 }
            | csrc_count;
        let mut wire = vec![flags, (u8::from(self.marker) << 7) | (self.payload_type & 0x7f)];
        wire.extend_from_slice(&self.sequence.to_be_bytes());
        wire.extend_from_slice(&self.timestamp.to_be_bytes());
        wire.extend_from_slice(&self.ssrc.to_be_bytes());
        for source in extras.csrc.iter().take(15) {
            wire.extend_from_slice(&source.to_be_bytes());
        }
        if let Some((profile, content)) = &extras.extension {
            let words = content.len().div_ceil(4);
            wire.extend_from_slice(&profile.to_be_bytes());
            wire.extend_from_slice(&u16::try_from(words).unwrap_or_default().to_be_bytes());
            wire.extend_from_slice(content);
            wire.resize(wire.len() + words * 4 - content.len(), 0);
        }
        wire.extend_from_slice(&self.payload);
        if extras.padding > 0 {
            wire.resize(wire.len() + usize::from(extras.padding) - 1, 0);
            wire.push(extras.padding);
        }
        wire
    }

    /// `None` for what is no RTP version 2 packet.
    #[must_use]
    pub fn decode(wire: &[u8]) -> Option<Self> {
        let (header, mut rest) = wire.split_first_chunk::<12>()?;
        let [flags, marker_pt, s0, s1, t0, t1, t2, t3, ssrc @ ..] = *header;
        if flags >> 6 != 2 {
            return None;
        }
        let mut extras = HeaderExtras::default();
        for _ in 0..flags & 0x0f {
            let (source, after) = rest.split_first_chunk::<4>()?;
            extras.csrc.push(u32::from_be_bytes(*source));
            rest = after;
        }
        if flags & 0x10 != 0 {
            let ([p0, p1, l0, l1], after) = rest.split_first_chunk::<4>()?;
            let (content, after) = after.split_at_checked(usize::from(u16::from_be_bytes([*l0, *l1])) * 4)?;
            extras.extension = Some((u16::from_be_bytes([*p0, *p1]), content.to_vec()));
            rest = after;
        }
        if flags & 0x20 != 0 {
            extras.padding = *rest.last()?;
            rest = rest.get(..rest.len().checked_sub(usize::from(extras.padding))?)?;
        }
        Some(Self {
            marker: marker_pt & 0x80 != 0,
            payload_type: marker_pt & 0x7f,
            sequence: u16::from_be_bytes([s0, s1]),
            timestamp: u32::from_be_bytes([t0, t1, t2, t3]),
            ssrc: u32::from_be_bytes(ssrc),
            payload: rest.to_vec(),
            extras,
        })
    }
}

/// A telephone-event payload (RFC 4733 §2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TelephoneEvent {
    /// Event code.
    pub event: u8,
    /// Last packet of the event or one of its repeats.
    pub end: bool,
    /// dBm0 without sign.
    pub volume: u8,
    /// In timestamp units.
    pub duration: u16,
}

impl TelephoneEvent {
    /// The four bytes.
    #[must_use]
    pub fn encode(self) -> Vec<u8> {
        let [high, low] = self.duration.to_be_bytes();
        vec![self.event, (u8::from(self.end) << 7) | (self.volume & 0x3f), high, low]
    }

    /// `None` when there are fewer than four bytes.
    #[must_use]
    pub fn decode(payload: &[u8]) -> Option<Self> {
        let &[event, flags, high, low] = payload.first_chunk()?;
        Some(Self {
            event,
            end: flags & 0x80 != 0,
            volume: flags & 0x3f,
            duration: u16::from_be_bytes([high, low]),
        })
    }
}

/// An SDES item: its type (RFC 3550 §6.5: 1 CNAME, 2 NAME, 3 EMAIL, 4 PHONE, 5 LOC, 6 TOOL, 7 NOTE) and text.
pub type SdesItem = (u8, String);

/// Figures for a sender report.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SenderFigures {
    /// Own SSRC.
    pub ssrc: u32,
    /// 64-bit NTP time.
    pub ntp: u64,
    /// RTP timestamp of the same moment.
    pub timestamp: u32,
    /// Packets sent so far.
    pub packets: u32,
    /// Payload bytes sent so far.
    pub octets: u32,
}

/// SR, SDES and, when `goodbye` is given, BYE with that reason, as one compound packet (RFC 3550 §6.1).
#[must_use]
pub fn rtcp_compound(figures: SenderFigures, items: &[SdesItem], goodbye: Option<&str>) -> Vec<u8> {
    let mut wire = vec![0x80, 200, 0, 6];
    for word in [figures.ssrc, u32::try_from(figures.ntp >> 32).unwrap_or_default()] {
        wire.extend_from_slice(&word.to_be_bytes());
    }
    let fraction = u32::try_from(figures.ntp & 0xffff_ffff).unwrap_or_default();
    for word in [fraction, figures.timestamp, figures.packets, figures.octets] {
        wire.extend_from_slice(&word.to_be_bytes());
    }
    let mut chunk = figures.ssrc.to_be_bytes().to_vec();
    for (kind, text) in items {
        let text = text.as_bytes().get(..text.len().min(255)).unwrap_or_default();
        chunk.extend([*kind, u8::try_from(text.len()).unwrap_or_default()]);
        chunk.extend_from_slice(text);
    }
    chunk.push(0);
    append(&mut wire, 0x81, 202, chunk);
    if let Some(reason) = goodbye {
        let reason = reason.as_bytes().get(..reason.len().min(255)).unwrap_or_default();
        let mut bye = figures.ssrc.to_be_bytes().to_vec();
        bye.push(u8::try_from(reason.len()).unwrap_or_default());
        bye.extend_from_slice(reason);
        append(&mut wire, 0x81, 203, bye);
    }
    wire
}

fn append(wire: &mut Vec<u8>, flags: u8, kind: u8, mut content: Vec<u8>) {
    content.resize(content.len().next_multiple_of(4), 0);
    wire.extend([flags, kind]);
    wire.extend_from_slice(&u16::try_from(content.len() / 4).unwrap_or_default().to_be_bytes());
    wire.extend(content);
}

/// Packet types of a compound RTCP packet with their content; empty when it is not well formed.
#[must_use]
pub fn rtcp_parts(mut wire: &[u8]) -> Vec<(u8, u8, Vec<u8>)> {
    let mut parts = vec![];
    while let Some(([flags, kind, l0, l1], rest)) = wire.split_first_chunk::<4>() {
        let length = usize::from(u16::from_be_bytes([*l0, *l1])) * 4;
        let Some((content, after)) = rest.split_at_checked(length) else { return vec![] };
        if flags >> 6 != 2 {
            return vec![];
        }
        parts.push((flags & 0x1f, *kind, content.to_vec()));
        wire = after;
    }
    if wire.is_empty() { parts } else { vec![] }
}

/// All SDES items in a compound RTCP packet (RFC 3550 §6.5).
#[must_use]
pub fn sdes_items(wire: &[u8]) -> Vec<SdesItem> {
    let mut items = vec![];
    for (_, _, content) in rtcp_parts(wire).into_iter().filter(|(_, kind, _)| *kind == 202) {
        let mut rest = content.get(4..).unwrap_or_default();
        while let Some(([kind, length], after)) = rest.split_first_chunk::<2>() {
            let Some((text, after)) = after.split_at_checked(usize::from(*length)) else { break };
            if *kind == 0 {
                break;
            }
            items.push((*kind, String::from_utf8_lossy(text).into_owned()));
            rest = after;
        }
    }
    items
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_with_everything_survives_the_wire() {
        let extras =
            HeaderExtras { csrc: vec![1, 2], extension: Some((0xbede, vec![0x10, 0xff, 0, 0])), padding: 4 };
        let packet = Packet {
            marker: true,
            payload_type: 101,
            sequence: 65535,
            timestamp: 1 << 31,
            ssrc: 7,
            payload: vec![1, 2, 3],
            extras,
        };
        assert_eq!(Packet::decode(&packet.encode()), Some(packet));
        assert_eq!(Packet::decode(&[0x80; 11]), None);
        let event = TelephoneEvent { event: 11, end: true, volume: 10, duration: 800 };
        assert_eq!(TelephoneEvent::decode(&event.encode()), Some(event));
    }

    #[test]
    fn a_report_names_what_it_was_told_to() {
        let items = [(1, "me@host".to_owned()), (4, "+4915112345678".to_owned())];
        let wire = rtcp_compound(SenderFigures { ssrc: 9, ..Default::default() }, &items, Some("gone"));
        assert_eq!(rtcp_parts(&wire).iter().map(|p| p.1).collect::<Vec<_>>(), [200, 202, 203]);
        assert_eq!(sdes_items(&wire), items);
    }
}

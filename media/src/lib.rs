//! The media plane: RTP, RTCP, SDP, telephone-event, prompts and recordings.
//!
//! Pure wire formats stand beside the [`engine`], which owns the sockets. Nothing here knows a SIP
//! transaction, a masking session or a database; a call is two [`Side`]s and a handle.

pub mod codec;
pub mod cut;
pub mod dtmf;
pub mod engine;
pub mod g711;
pub mod g722;
pub mod inband;
pub mod jitter;
pub mod player;
pub mod ports;
pub mod quality;
pub mod recorder;
pub mod relay;
pub mod resample;
pub mod rtcp;
pub mod rtp;
pub mod sdp;
pub mod source;
pub mod srtp;
pub mod time;
pub mod tone;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Which leg of a call: the caller's or the called party's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// The A-leg, where we are UAS in a call that came in.
    A,
    /// The B-leg, where we are UAC.
    B,
}

impl Side {
    /// The leg across the bridge.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

/// An audio codec that the engine can encode and decode (RFC 3551 §6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Codec {
    /// G.711 µ-law, static payload type 0.
    Pcmu,
    /// G.711 A-law, static payload type 8.
    Pcma,
    /// G.722 at 64 kbit/s, static payload type 9: audio up to 7 kHz. Its RTP clock is 8000 Hz all the same (RFC 3551
    /// §4.5.2), so in every codec a byte of payload is 125 µs.
    G722,
}

impl Codec {
    /// True when it carries 16 000 samples per second.
    #[must_use]
    pub fn is_wideband(self) -> bool {
        self == Self::G722
    }

    /// As SDP names it (RFC 3551 §6).
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pcmu => "PCMU",
            Self::Pcma => "PCMA",
            Self::G722 => "G722",
        }
    }

    /// Its curve, when it is G.711.
    #[must_use]
    pub fn law(self) -> Option<g711::Law> {
        match self {
            Self::Pcmu => Some(g711::Law::Mu),
            Self::Pcma => Some(g711::Law::A),
            Self::G722 => None,
        }
    }
}

/// Which way audio flows, seen from us (RFC 3264 §5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// Both ways.
    SendRecv,
    /// We send, the peer listens.
    SendOnly,
    /// We listen.
    RecvOnly,
    /// Neither.
    Inactive,
}

impl Direction {
    /// True when we may send audio to the peer.
    #[must_use]
    pub fn sends(self) -> bool {
        matches!(self, Self::SendRecv | Self::SendOnly)
    }
    /// True when audio from the peer is taken.
    #[must_use]
    pub fn receives(self) -> bool {
        matches!(self, Self::SendRecv | Self::RecvOnly)
    }
}

/// Which packets count as the peer's (`rtp_source` of a trunk).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SourcePolicy {
    /// Only the address and port that the peer's SDP named.
    Exact,
    /// Another port of the same address, locked at the first packet.
    Address,
}

/// A telephone-event format as negotiated on one leg (RFC 4733). Each side names its own number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TelephoneEventFormat {
    /// Payload type that the peer wants to receive, 0–127.
    pub send_payload_type: u8,
    /// Payload type that we announced, 0–127.
    pub receive_payload_type: u8,
    /// What durations are counted in, in Hz: 8000, that of the audio (RFC 4733 §2.1), unless the peer has none such.
    pub clock_rate: u32,
}

/// One leg's negotiated audio stream: what an offer/answer exchange came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stream {
    /// Where RTP goes and, with [`SourcePolicy::Exact`], the only place it may come from.
    pub remote: SocketAddr,
    /// Where RTCP goes: `a=rtcp` (RFC 3605) or the RTP port plus one.
    pub remote_rtcp: SocketAddr,
    /// The codec of both directions.
    pub codec: Codec,
    /// Payload type that the peer wants to receive for `codec`.
    pub send_payload_type: u8,
    /// Every payload type that may arrive, with its codec: a peer may switch among what was agreed.
    pub receive: Vec<(u8, Codec)>,
    /// `None`: digits can only pass as tones.
    pub telephone_event: Option<TelephoneEventFormat>,
    /// Milliseconds of audio that we put into a packet of our own making, 10–60; relayed packets keep theirs, unless
    /// they are converted or longer than `max_packet_ms`.
    pub ptime_ms: u8,
    /// The longest packet that the peer takes (`a=maxptime`), in milliseconds; `None`: any.
    pub max_packet_ms: Option<u8>,
    /// RTCP goes to the RTP port and comes from it (RFC 5761).
    pub rtcp_mux: bool,
    /// Hold and resume, as seen from us.
    pub direction: Direction,
    /// Which packets are the peer's.
    pub source: SourcePolicy,
    /// The keys of both directions; `None`: RTP and RTCP are plain.
    pub srtp: Option<Arc<srtp::SrtpKeys>>,
}

/// A piece of audio that can be played to a leg: mono, 8000 Hz, 16 bit. Decoded once, shared by all calls, and coded
/// once for each codec that hears it.
#[derive(Clone)]
pub struct Prompt {
    name: Arc<str>,
    audio: Arc<Audio>,
}

/// What the clones of a prompt share.
struct Audio {
    samples: Box<[i16]>,
    pcmu: OnceLock<Box<[u8]>>,
    pcma: OnceLock<Box<[u8]>>,
    /// With silence behind it, for the end of the last packet.
    g722: OnceLock<Box<[u8]>>,
}

/// A longer prompt is coded for G.722 packet by packet as it is heard: coding it ahead takes 50 ms and more.
const LONGEST_AHEAD: Duration = Duration::from_secs(60);

impl Prompt {
    /// `name` is for logs and comparison; it never holds a number.
    #[must_use]
    pub fn new(name: &str, samples: &[i16]) -> Self {
        let (samples, pcmu, pcma, g722) = (samples.into(), OnceLock::new(), OnceLock::new(), OnceLock::new());
        Self { name: name.into(), audio: Arc::new(Audio { samples, pcmu, pcma, g722 }) }
    }
    /// What the prompt is called in logs.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
    /// The audio: mono, 8000 Hz.
    #[must_use]
    pub fn samples(&self) -> &[i16] {
        &self.audio.samples
    }
    /// How long it plays.
    #[must_use]
    pub fn duration(&self) -> Duration {
        Duration::from_micros(self.samples().len() as u64 * 125)
    }
    /// True when both play the very same memory, and not only the same sound.
    #[must_use]
    pub fn shares_audio_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.audio, &other.audio)
    }

    fn coded(&self, codec: Codec) -> &OnceLock<Box<[u8]>> {
        match codec {
            Codec::Pcmu => &self.audio.pcmu,
            Codec::Pcma => &self.audio.pcma,
            Codec::G722 => &self.audio.g722,
        }
    }

    /// The audio in `codec`, a byte for each sample, once [`Self::prepare`] has made it. Never waits.
    #[must_use]
    pub fn payload(&self, codec: Codec) -> Option<&[u8]> {
        self.coded(codec).get().map(|coded| &**coded)
    }

    /// Codes the audio for `codec`, unless that was done before. Takes some milliseconds for each minute, in G.722 some
    /// for each second: not for a media thread.
    pub fn prepare(&self, codec: Codec) {
        if codec.is_wideband() && self.duration() > LONGEST_AHEAD {
            return;
        }
        self.coded(codec).get_or_init(|| {
            let silence = [0; player::MAX_FRAME];
            let behind = if codec.is_wideband() { silence.as_slice() } else { &[] };
            let length = self.samples().len() + behind.len();
            let mut coded = vec![0; length];
            let mut coder = codec::Coder::default();
            let (body, tail) = coded.split_at_mut(self.samples().len());
            coder.encode(codec, self.samples(), body);
            coder.encode(codec, behind, tail);
            coded.into()
        });
    }
}

impl PartialEq for Prompt {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.samples().len() == other.samples().len()
    }
}
impl Eq for Prompt {}

impl std::fmt::Debug for Prompt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Prompt({}, {:?})", self.name, self.duration())
    }
}

/// How a prompt is played.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlayMode {
    /// Once; then [`MediaEvent::PlayFinished`].
    Once,
    /// Again and again until [`MediaCommand::StopPlay`] or the next `Play`.
    Loop,
    /// Like `Loop`, but gives way for good to the first packet that the bridge relays to this leg:
    /// our ringback in front of the called side's early audio.
    UntilBridgedAudio,
}

/// A telephone key. Neither `Debug` nor anything else prints it: digits are PINs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Digit(u8);

impl Digit {
    /// From an RFC 4733 event code, 0–15.
    #[must_use]
    pub fn from_event(code: u8) -> Option<Self> {
        (code < 16).then_some(Self(code))
    }
    /// From `0`–`9`, `*`, `#`, `A`–`D`.
    #[must_use]
    pub fn from_char(key: char) -> Option<Self> {
        "0123456789*#ABCD".find(key.to_ascii_uppercase()).and_then(|code| u8::try_from(code).ok()).map(Self)
    }
    /// The RFC 4733 event code, 0–15.
    #[must_use]
    pub fn event(self) -> u8 {
        self.0
    }
    /// `0`–`9`, `*`, `#` or `A`–`D`.
    #[must_use]
    pub fn key(self) -> char {
        char::from(b"0123456789*#ABCD".get(usize::from(self.0)).copied().unwrap_or(b'?'))
    }
}

impl std::fmt::Debug for Digit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Digit(·)")
    }
}

/// What a call tells its media. Commands of one call are carried out in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MediaCommand {
    /// The leg's stream as agreed, at first and after each later offer/answer exchange. Our own SSRC,
    /// sequence and timestamps go on across it.
    Configure {
        /// The leg.
        side: Side,
        /// What was agreed.
        stream: Stream,
    },
    /// Plays to the leg, in place of what it hears now. A prompt that was playing ends without an event.
    Play {
        /// The leg that hears it.
        side: Side,
        /// What it hears.
        prompt: Prompt,
        /// Once or repeated.
        mode: PlayMode,
    },
    /// Ends what plays to the leg, without an event.
    StopPlay {
        /// The leg that heard it.
        side: Side,
    },
    /// While on, the leg's keys become [`MediaEvent::Digit`] and none of its packets is relayed or recorded.
    CollectDigits {
        /// The leg whose keys are wanted.
        side: Side,
        /// Begin or end.
        on: bool,
    },
    /// A key of the other leg that came by signalling: the leg gets it as a telephone-event or, where none was agreed,
    /// as a tone. Before the bridge it is dropped.
    SendDigit {
        /// The leg that gets it.
        side: Side,
        /// The key.
        digit: Digit,
    },
    /// From now on each leg hears the other.
    Bridge,
    /// Both legs were answered: from now on each owes audio, and its absence is told ([`MediaEvent::Trouble`]).
    Answered,
    /// Begins `a-leg.wav` and `b-leg.wav` in `directory` (made with mode 0750); this instant is sample 0 of both. They
    /// have 16 000 samples per second when both legs' codecs are wideband now, else 8000.
    Record {
        /// The interaction's own folder.
        directory: PathBuf,
    },
    /// Ends the call's media: sockets are closed and ports rest; both files are completed, which [`MediaEvent::Recorded`]
    /// reports. The last command.
    Close,
}

/// What a call's media tells the call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MediaEvent {
    /// A key was pressed on a leg whose digits are collected; once per key press, however many packets told it.
    Digit {
        /// The leg.
        side: Side,
        /// The key.
        digit: Digit,
    },
    /// A prompt played with [`PlayMode::Once`] reached its end.
    PlayFinished {
        /// The leg.
        side: Side,
    },
    /// Neither leg sent RTP or RTCP for `silence` since the last agreement or the last such event, nor was one on
    /// hold.
    Silence,
    /// Something is wrong with the audio: told once for as long as it goes on, ten seconds after it began.
    Trouble(quality::Trouble),
    /// The recording could not be begun or went on with losses; the call goes on. Once per call.
    RecordingFailed,
    /// Both files are complete and synced, or are as good as they will get.
    Recorded(RecordingReport),
    /// The media is closed; the last event, with the figures of both legs.
    Closed(CallStatistics),
}

/// Both files of a finished recording. Each has the same number of samples.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordingReport {
    /// Where they are.
    pub directory: PathBuf,
    /// Samples per second.
    pub sample_rate_hz: u32,
    /// Length of each file.
    pub samples: u64,
    /// `a-leg.wav`.
    pub a: LegRecording,
    /// `b-leg.wav`.
    pub b: LegRecording,
    /// False when disk or queue lost something.
    pub complete: bool,
}

/// One leg's file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LegRecording {
    /// Of the whole file, 64 lower-case hex digits; empty when there is no readable file.
    pub sha256: String,
    /// Where nothing arrived and silence was written: first sample and number of samples.
    pub gaps: jitter::Stretches,
    /// Where something arrived and could not be kept, because the disk refused it or did not keep up: first sample and
    /// number of samples. What lies behind the end of the file was cut off.
    pub lost: jitter::Stretches,
    /// Samples repeated (positive) or left out (negative), one at a time, because the sender's clock differs from ours.
    pub slipped: i64,
}

/// Figures of a call's media.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CallStatistics {
    /// The A-leg's.
    pub a: LegStatistics,
    /// The B-leg's.
    pub b: LegStatistics,
}

/// Figures of one leg's media.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LegStatistics {
    /// RTP packets taken from the peer.
    pub received: u64,
    /// RTP packets sent to the peer.
    pub sent: u64,
    /// Packets from elsewhere or of no use: dropped.
    pub foreign: u64,
    /// Of these, packets from the right place whose tag was wrong or whose number had been used (RFC 3711 §3.3).
    pub unauthentic: u64,
    /// What became of the peer's packets.
    pub stream: rtp::Received,
    /// Packets that the kernel dropped because we came too late to read them.
    pub overrun: u64,
    /// Packets of ours that the peer misses, as its last report said (RFC 3550 §6.4.1, cumulative).
    pub remote_lost: i32,
    /// Jitter that the peer sees, in RTP timestamp units, as its last report said.
    pub remote_jitter: u32,
    /// Packets that we had sent when that report came.
    pub remote_expected: u64,
    /// Round trip to the peer and back, when its reports told one (RFC 3550 §6.4.1): the last one.
    pub round_trip: Option<Duration>,
    /// The longest of them.
    pub max_round_trip: Option<Duration>,
    /// What was agreed on last.
    pub codec: Option<Codec>,
    /// How the peer sounded to us, by the E-model; `None` when nothing came.
    pub mos: Option<quality::Mos>,
    /// How we sounded to the peer, as its last report said; `None` when there was none.
    pub remote_mos: Option<quality::Mos>,
    /// Times when the peer owed audio and sent none for ten seconds ([`quality::Trouble::Silent`]).
    pub silences: u32,
    /// Times when the peer heard nothing of the other leg, which heard it ([`quality::Trouble::Unheard`]).
    pub unheard: u32,
}

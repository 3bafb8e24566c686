//! What we say ourselves: prompts and keys, frame by frame on a schedule that does not drift.
//!
//! A frame is due one packet time after the one before it, counted from the first, whenever the engine
//! happens to look (RFC 3550 §5.1 wants timestamps by the sampling clock). A prompt leaves coded: as it was coded once
//! for all calls, when it was prepared; a key's tone is linear, and the leg codes it. Pure: the time is an argument.

use crate::codec::Coder;
use crate::time::{MediaTime, milliseconds};
use crate::tone::DtmfTone;
use crate::{Codec, Digit, PlayMode, Prompt, g711};

/// The longest frame: 60 ms.
pub const MAX_FRAME: usize = milliseconds(60) as usize;
/// The shortest frame: 10 ms.
const MIN_FRAME: usize = milliseconds(10) as usize;
/// When the engine is later than this, the schedule begins anew: a burst of frames would not be heard as one.
const MAX_LATE: u64 = milliseconds(200);
/// A key of which no packet came for so long is up: all its end packets were lost (RFC 4733 §2.5.1.4).
const KEY_LOST: u64 = milliseconds(150);
/// No key is held so long.
const MAX_KEY: u64 = milliseconds(60_000);
/// How long a key may have been down before the first packet of it came, whatever that packet says.
const MAX_UNTOLD: u64 = milliseconds(2000);

/// Samples of a frame of `ptime_ms`, within what a frame may be.
#[must_use]
pub fn frame_samples(ptime_ms: u8) -> usize {
    (milliseconds(u64::from(ptime_ms)) as usize).clamp(MIN_FRAME, MAX_FRAME)
}

/// When the frames of one talk-spurt are due.
#[derive(Debug, Clone, Copy)]
struct Schedule {
    due: MediaTime,
    /// The next frame begins a talk-spurt.
    begins: bool,
}

impl Schedule {
    fn new(now: MediaTime) -> Self {
        Self { due: now, begins: true }
    }

    /// Takes the next frame's turn when it has come; true inside when the frame begins a talk-spurt.
    fn next(&mut self, frame: usize, now: MediaTime) -> Option<bool> {
        if now < self.due {
            return None;
        }
        if now.since(self.due) > MAX_LATE {
            *self = Self::new(now);
        }
        self.due = self.due.plus(frame as u64);
        Some(std::mem::replace(&mut self.begins, false))
    }
}

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Nothing yet; see `due`.
    Wait,
    /// The frame has been filled; `begins` when it starts a talk-spurt.
    Frame {
        /// No frame of the same talk-spurt came before.
        begins: bool,
    },
    /// The last frame has been heard.
    Finished,
}

/// A prompt on its way to a leg.
#[derive(Debug, Clone)]
pub struct Player {
    prompt: Prompt,
    mode: PlayMode,
    position: usize,
    schedule: Schedule,
}

impl Player {
    /// Plays `prompt` from `now` on.
    #[must_use]
    pub fn new(prompt: Prompt, mode: PlayMode, now: MediaTime) -> Self {
        Self { prompt, mode, position: 0, schedule: Schedule::new(now) }
    }

    /// True when the first relayed audio ends it.
    #[must_use]
    pub fn gives_way(&self) -> bool {
        self.mode == PlayMode::UntilBridgedAudio
    }

    /// When to ask for the next frame.
    #[must_use]
    pub fn due(&self) -> MediaTime {
        if self.is_empty_loop() { MediaTime::NEVER } else { self.schedule.due }
    }

    /// A prompt without samples, repeated: silence for ever.
    fn is_empty_loop(&self) -> bool {
        self.prompt.samples().is_empty() && self.mode != PlayMode::Once
    }

    /// Fills `payload` with a frame in `codec` when one is due: a copy, when the prompt has been prepared for the
    /// codec. A prompt that is repeated goes on without a seam; the end of one that is not is filled with silence,
    /// and is reported when that has been heard.
    pub fn next(&mut self, codec: Codec, coder: &mut Coder, payload: &mut [u8], now: MediaTime) -> Turn {
        if self.is_empty_loop() || now < self.schedule.due {
            return Turn::Wait;
        }
        let length = self.prompt.samples().len();
        if self.mode == PlayMode::Once && self.position >= length {
            return Turn::Finished;
        }
        let Some(begins) = self.schedule.next(payload.len(), now) else { return Turn::Wait };
        let loops = self.mode != PlayMode::Once;
        match self.prompt.payload(codec) {
            Some(coded) => self.position = take(coded, length, self.position, loops, payload),
            None => {
                let mut buffer = [0; MAX_FRAME];
                let Some(frame) = buffer.get_mut(..payload.len()) else { return Turn::Wait };
                self.position = take(self.prompt.samples(), length, self.position, loops, frame);
                coder.encode(codec, frame, payload);
                return Turn::Frame { begins };
            }
        }
        // Of G.722, silence that fits what was said before lies behind the prompt.
        if let Some(law) = codec.law() {
            let over = self.position.saturating_sub(length).min(payload.len());
            let rest = payload.len() - over;
            if let Some(silence) = payload.get_mut(rest..) {
                silence.fill(g711::encode_sample(law, 0));
            }
        }
        Turn::Frame { begins }
    }
}

/// Fills `frame` with what stands at `position` of the first `length` of `from`, over and over if it `loops`; else with
/// what stands behind them, or nothing. Returns the position after it.
fn take<T: Copy + Default>(
    from: &[T],
    length: usize,
    mut position: usize,
    loops: bool,
    frame: &mut [T],
) -> usize {
    for place in frame {
        if loops && position >= length {
            position = 0;
        }
        *place = from.get(position).copied().unwrap_or_default();
        position = position.saturating_add(1);
    }
    position
}

/// A key on its way to a leg without telephone-event: a tone of the same length (RFC 4733 §2.5.2.2), which
/// begins before it is known when the key is released.
#[derive(Debug, Clone)]
pub struct KeyTone {
    tone: DtmfTone,
    schedule: Schedule,
    /// When its first packet came.
    down: MediaTime,
    began: MediaTime,
    last_told: MediaTime,
    told: u32,
    ended: bool,
}

impl KeyTone {
    /// The key went down.
    #[must_use]
    pub fn new(digit: Digit, now: MediaTime) -> Self {
        let schedule = Schedule::new(now);
        let tone = DtmfTone::new(digit);
        Self { tone, schedule, down: now, began: now, last_told: now, told: 0, ended: false }
    }

    /// The key before this one has ended: the tone may begin at `at`.
    pub fn start_at(&mut self, at: MediaTime) {
        self.schedule = Schedule::new(at);
        self.began = at;
    }

    /// A packet of the same key: it has been down for `duration` samples, and is up when `ended`.
    pub fn on_packet(&mut self, duration: u32, ended: bool, now: MediaTime) {
        self.last_told = now;
        let most = now.since(self.down).saturating_add(MAX_UNTOLD).min(MAX_KEY);
        self.told = self.told.max(duration.min(most as u32));
        if ended && !self.ended {
            self.ended = true;
            self.tone.end_at(self.told);
        }
    }

    /// When to ask for the next frame.
    #[must_use]
    pub fn due(&self) -> MediaTime {
        self.schedule.due
    }

    /// Fills `frame` when one is due.
    pub fn next(&mut self, frame: &mut [i16], now: MediaTime) -> Turn {
        if now < self.schedule.due {
            return Turn::Wait;
        }
        let lost = now.since(self.last_told) > KEY_LOST || now.since(self.began) > MAX_KEY;
        if !self.ended && lost {
            self.ended = true;
            self.tone.end_at(self.told);
        }
        if self.tone.is_finished() {
            return Turn::Finished;
        }
        let Some(begins) = self.schedule.next(frame.len(), now) else { return Turn::Wait };
        self.tone.fill(frame);
        Turn::Frame { begins }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::g711::Law;

    fn at(ms: u64) -> MediaTime {
        MediaTime::from_samples(milliseconds(ms))
    }

    fn prompt(samples: usize) -> Prompt {
        Prompt::new("test", &(1..=samples as i16).collect::<Vec<_>>())
    }

    /// When it came, whether it begins a talk-spurt, its first and its last sample.
    type Frame = (u64, bool, i16, i16);

    /// A prompt whose samples survive PCMA.
    fn countable(samples: usize) -> Prompt {
        let exact: Vec<i16> = (0..=255).map(|code| g711::decode_sample(Law::A, code)).collect();
        Prompt::new("test", &(0..samples).map(|n| exact[n % 256]).collect::<Vec<_>>())
    }

    fn next(player: &mut Player, ms: u64) -> Turn {
        player.next(Codec::Pcma, &mut Coder::default(), &mut [0; 160], at(ms))
    }

    /// Asks each millisecond; returns the frames, by their samples' places in a prompt that [`countable`] made, and
    /// when the prompt finished.
    fn play(player: &mut Player, ms: std::ops::Range<u64>) -> (Vec<Frame>, Option<u64>) {
        let mut frames = vec![];
        for ms in ms {
            let mut frame = [0; 160];
            match player.next(Codec::Pcma, &mut Coder::default(), &mut frame, at(ms)) {
                Turn::Frame { begins } => {
                    let silence = g711::encode_sample(Law::A, 0);
                    let place = |code: u8| if code == silence { -1 } else { i16::from(code) };
                    frames.push((ms, begins, place(frame[0]), place(frame[159])));
                }
                Turn::Finished => return (frames, Some(ms)),
                Turn::Wait => {
                    assert!(player.due() > at(ms), "a turn that has come moves on, or the engine would spin")
                }
            }
        }
        (frames, None)
    }

    #[test]
    fn a_prompt_plays_in_frames_and_finishes_when_the_last_one_was_heard() {
        for prepared in [false, true] {
            let prompt = countable(400);
            if prepared {
                prompt.prepare(Codec::Pcma);
            }
            let mut player = Player::new(prompt, PlayMode::Once, at(5));
            let (frames, finished) = play(&mut player, 0..200);
            // 320 samples, then 80 more up to place 143, and silence.
            assert_eq!(frames, [(5, true, 0, 159), (25, false, 160, 63), (45, false, 64, -1)], "{prepared}");
            assert_eq!(finished, Some(65));
        }
    }

    #[test]
    fn a_loop_has_no_seam() {
        for prepared in [false, true] {
            let prompt = countable(200);
            if prepared {
                prompt.prepare(Codec::Pcma);
            }
            let mut player = Player::new(prompt, PlayMode::Loop, at(0));
            let (frames, finished) = play(&mut player, 0..60);
            assert_eq!(
                frames,
                [(0, true, 0, 159), (20, false, 160, 119), (40, false, 120, 79)],
                "{prepared}"
            );
            assert_eq!(finished, None);
        }
    }

    #[test]
    fn an_empty_prompt_finishes_at_once_and_an_empty_loop_never_wakes() {
        assert_eq!(next(&mut Player::new(prompt(0), PlayMode::Once, at(7)), 7), Turn::Finished);
        let mut player = Player::new(prompt(0), PlayMode::Loop, at(7));
        assert_eq!((next(&mut player, 7), player.due()), (Turn::Wait, MediaTime::NEVER));
    }

    #[test]
    fn the_schedule_neither_drifts_nor_bursts() {
        let mut player = Player::new(prompt(16_000), PlayMode::Once, at(0));
        let mut sent = 0;
        // The engine looks every 7 ms for a second.
        for ms in (0..=1000).step_by(7) {
            sent += u32::from(matches!(next(&mut player, ms), Turn::Frame { .. }));
        }
        assert_eq!(sent, 50);
        // It stalls for a second: one frame, and not fifty at once.
        assert_eq!(next(&mut player, 2000), Turn::Frame { begins: true });
        assert_eq!(next(&mut player, 2001), Turn::Wait);
        assert_eq!(player.due(), at(2020));
    }

    #[test]
    fn frames_are_due_at_exact_multiples_of_their_length_whenever_the_engine_looks() {
        for (frame, ticks) in [(80, 2), (160, 2), (160, 3), (240, 7), (480, 2)] {
            let mut player = Player::new(prompt(32_000), PlayMode::Once, at(40));
            let mut coded = [0; MAX_FRAME];
            let mut sent = 0u64;
            for ms in (0..3000).step_by(ticks) {
                let due = player.due();
                match player.next(Codec::Pcmu, &mut Coder::default(), &mut coded[..frame], at(ms)) {
                    Turn::Frame { .. } => {
                        assert_eq!(
                            due,
                            at(40).plus(sent * frame as u64),
                            "no jitter is added to the schedule"
                        );
                        assert!(at(ms).since(due) < milliseconds(ticks as u64), "later than one tick");
                        sent += 1;
                    }
                    Turn::Wait => assert!(due > at(ms)),
                    Turn::Finished => break,
                }
            }
            assert!(sent >= 2900 * 8 / frame as u64, "{sent} of {frame} samples each");
        }
    }

    #[test]
    fn a_prompt_is_coded_once_per_codec_and_shared_by_all_who_hear_it() {
        let speech: Vec<i16> = (0..4000).map(|n| (6000.0 * (f64::from(n) * 0.2).sin()) as i16).collect();
        let prompt = Prompt::new("shared", &speech);
        let of_another_call = prompt.clone();
        assert!(prompt.shares_audio_with(&of_another_call));
        assert!(!prompt.shares_audio_with(&Prompt::new("shared", &speech)));
        for codec in [Codec::Pcmu, Codec::Pcma, Codec::G722] {
            assert_eq!(prompt.payload(codec), None, "nobody has heard it yet");
            prompt.prepare(codec);
            let first = prompt.payload(codec).unwrap().as_ptr();
            of_another_call.prepare(codec);
            assert_eq!(of_another_call.payload(codec).unwrap().as_ptr(), first, "coded again");
            // What is sent is what a coder of the call's own would send.
            let (mut shared, mut live) = (
                Player::new(prompt.clone(), PlayMode::Once, at(0)),
                Player::new(Prompt::new("own", &speech), PlayMode::Once, at(0)),
            );
            let (mut coder, mut unused) = (Coder::default(), Coder::default());
            for n in 0..25 {
                let (mut a, mut b) = ([0; 160], [0; 160]);
                shared.next(codec, &mut unused, &mut a, at(n * 20));
                live.next(codec, &mut coder, &mut b, at(n * 20));
                assert_eq!(a, b, "{codec:?}, packet {n}");
            }
        }
        // Too long to be coded ahead in G.722, where that takes time; it is played all the same.
        let long = Prompt::new("long", &vec![0; 8000 * 61]);
        long.prepare(Codec::G722);
        assert_eq!(long.payload(Codec::G722), None);
    }

    /// Feeds key packets (ms, duration in samples, end) and counts samples that are not silent.
    fn key(packets: &[(u64, u32, bool)]) -> usize {
        let mut tone = KeyTone::new(Digit::from_event(5).unwrap(), at(0));
        let mut heard = vec![];
        for ms in 0..3000 {
            for (_, duration, ended) in packets.iter().filter(|(when, ..)| *when == ms) {
                tone.on_packet(*duration, *ended, at(ms));
            }
            let mut frame = [0; 160];
            match tone.next(&mut frame, at(ms)) {
                Turn::Frame { .. } => heard.extend_from_slice(&frame),
                Turn::Finished => break,
                Turn::Wait => {}
            }
        }
        heard.len() - heard.iter().rev().take_while(|sample| **sample == 0).count()
    }

    #[test]
    fn rfc4733_2_5_2_2_a_key_becomes_a_tone_of_the_same_length() {
        let held: Vec<_> =
            (0..4).map(|n| (20 * n, 160 * (n as u32 + 1), false)).chain([(80, 800, true)]).collect();
        let table = [
            ("100 ms", held.as_slice(), 800),
            ("only the end came", &[(0, 640, true)], 640),
            ("more than can be", &[(0, 65_535, true)], 16_000),
            ("repeated ends", &[(0, 480, true), (20, 480, true), (40, 480, true)], 480),
        ];
        for (fact, packets, samples) in table {
            // The tone fades in and out, so its very last samples may be silent.
            let heard = key(packets);
            assert!((samples - 8..=samples).contains(&heard), "{fact}: {heard}");
        }
    }

    #[test]
    fn a_key_whose_end_is_lost_ends() {
        let heard = key(&[(0, 160, false), (20, 320, false)]);
        assert!((320..=1600).contains(&heard), "{heard}");
    }
}

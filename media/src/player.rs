//! What we say ourselves: prompts and keys, frame by frame on a schedule that does not drift.
//!
//! A frame is due one packet time after the one before it, counted from the first, whenever the engine
//! happens to look (RFC 3550 §5.1 wants timestamps by the sampling clock). Audio is linear here; the leg's
//! codec comes later. Pure: the time is an argument.

use crate::time::{MediaTime, milliseconds};
use crate::tone::DtmfTone;
use crate::{Digit, PlayMode, Prompt};

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

    /// Fills `frame` when one is due. A prompt that is repeated goes on without a seam; the end of one that
    /// is not is filled with silence, and is reported when that has been heard.
    pub fn next(&mut self, frame: &mut [i16], now: MediaTime) -> Turn {
        if self.is_empty_loop() || now < self.schedule.due {
            return Turn::Wait;
        }
        if self.mode == PlayMode::Once && self.position >= self.prompt.samples().len() {
            return Turn::Finished;
        }
        let Some(begins) = self.schedule.next(frame.len(), now) else { return Turn::Wait };
        for sample in frame {
            if self.position >= self.prompt.samples().len() && self.mode != PlayMode::Once {
                self.position = 0;
            }
            *sample = self.prompt.samples().get(self.position).copied().unwrap_or(0);
            self.position = self.position.saturating_add(1);
        }
        Turn::Frame { begins }
    }
}

/// A key on its way to a leg without telephone-event: a tone of the same length (RFC 4733 §2.5.2.2), which
/// begins before it is known when the key is released.
#[derive(Debug, Clone)]
pub struct KeyTone {
    tone: DtmfTone,
    schedule: Schedule,
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
        Self { tone: DtmfTone::new(digit), schedule, began: now, last_told: now, told: 0, ended: false }
    }

    /// The key before this one has ended: the tone may begin at `at`.
    pub fn start_at(&mut self, at: MediaTime) {
        self.schedule = Schedule::new(at);
        self.began = at;
    }

    /// A packet of the same key: it has been down for `duration` samples, and is up when `ended`.
    pub fn on_packet(&mut self, duration: u32, ended: bool, now: MediaTime) {
        self.last_told = now;
        self.told = self.told.max(duration);
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

    fn at(ms: u64) -> MediaTime {
        MediaTime::from_samples(milliseconds(ms))
    }

    fn prompt(samples: usize) -> Prompt {
        Prompt::new("test", &(1..=samples as i16).collect::<Vec<_>>())
    }

    /// When it came, whether it begins a talk-spurt, its first and its last sample.
    type Frame = (u64, bool, i16, i16);

    /// Asks each millisecond; returns the frames and when the prompt finished.
    fn play(player: &mut Player, ms: std::ops::Range<u64>) -> (Vec<Frame>, Option<u64>) {
        let mut frames = vec![];
        for ms in ms {
            let mut frame = [0; 160];
            match player.next(&mut frame, at(ms)) {
                Turn::Frame { begins } => frames.push((ms, begins, frame[0], frame[159])),
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
        let mut player = Player::new(prompt(400), PlayMode::Once, at(5));
        let (frames, finished) = play(&mut player, 0..200);
        assert_eq!(frames, [(5, true, 1, 160), (25, false, 161, 320), (45, false, 321, 0)]);
        assert_eq!(finished, Some(65));
    }

    #[test]
    fn a_loop_has_no_seam() {
        let mut player = Player::new(prompt(200), PlayMode::Loop, at(0));
        let (frames, finished) = play(&mut player, 0..60);
        assert_eq!(frames, [(0, true, 1, 160), (20, false, 161, 120), (40, false, 121, 80)]);
        assert_eq!(finished, None);
    }

    #[test]
    fn an_empty_prompt_finishes_at_once_and_an_empty_loop_never_wakes() {
        assert_eq!(Player::new(prompt(0), PlayMode::Once, at(7)).next(&mut [0; 160], at(7)), Turn::Finished);
        let mut player = Player::new(prompt(0), PlayMode::Loop, at(7));
        assert_eq!((player.next(&mut [0; 160], at(7)), player.due()), (Turn::Wait, MediaTime::NEVER));
    }

    #[test]
    fn the_schedule_neither_drifts_nor_bursts() {
        let mut player = Player::new(prompt(16_000), PlayMode::Once, at(0));
        let mut sent = 0;
        // The engine looks every 7 ms for a second.
        for ms in (0..=1000).step_by(7) {
            sent += u32::from(matches!(player.next(&mut [0; 160], at(ms)), Turn::Frame { .. }));
        }
        assert_eq!(sent, 50);
        // It stalls for a second: one frame, and not fifty at once.
        assert_eq!(player.next(&mut [0; 160], at(2000)), Turn::Frame { begins: true });
        assert_eq!(player.next(&mut [0; 160], at(2001)), Turn::Wait);
        assert_eq!(player.due(), at(2020));
    }

    /// Feeds key packets (ms, duration in samples, end) and counts samples that are not silent.
    fn key(packets: &[(u64, u32, bool)]) -> usize {
        let mut tone = KeyTone::new(Digit::from_event(5).unwrap(), at(0));
        let mut heard = vec![];
        for ms in 0..1000 {
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

//! The B-leg rings, is answered, and each leg hears the other.

use super::{Call, LINGERING, LOOK_UP, MediaState, State, Target};
use crate::call::Action;
use crate::call::cdr::HangupSource;
use crate::call::signal::{Order, Signal};
use crate::callbacks::event::Happening;
use crate::masking::session::PartyRole;
use media::{MediaCommand, PlayMode, Side, Stream};
use std::path::PathBuf;
use std::time::Instant;

impl Call {
    /// A signal of the B-leg.
    pub(super) fn on_callee(&mut self, signal: Signal, actions: &mut Vec<Action>, now: Instant) {
        self.learn(Side::B, &signal, actions);
        match signal {
            Signal::Progress { stream, .. } => self.on_progress(stream, actions, now),
            Signal::Answered(stream) => self.on_answered(stream, actions, now),
            Signal::Refused(status) => self.on_refused(status, actions, now),
            Signal::HungUp(cause) if self.is_live() => {
                self.end(cause, cause.source(HangupSource::Callee), actions, now)
            }
            Signal::Reoffered(stream) if self.is_live() => Self::configure(Side::B, stream, actions),
            Signal::Digit(digit) if matches!(self.state, State::Bridged) => {
                actions.push(Action::Media(MediaCommand::SendDigit { side: Side::A, digit }));
            }
            Signal::HungUp(_) | Signal::Reoffered(_) | Signal::Digit(_) | Signal::Taken => {}
        }
    }

    /// 18x of the B-leg becomes our own, in the A-leg's dialog: one To tag, one SDP, however many forks ring.
    fn on_progress(&mut self, stream: Option<Stream>, actions: &mut Vec<Action>, now: Instant) {
        let State::Dialing { ringing, .. } = &mut self.state else { return };
        *ringing = true;
        self.cdr.ringing(self.b_uuid, now);
        if self.cdr.role_of(Side::B) == Some(PartyRole::Second) {
            self.happened(Happening::SecondPartyRings, actions, now);
        }
        let early = stream.filter(|_| self.allows_early_media());
        let has_early_media = early.is_some();
        if let Some(stream) = early {
            Self::configure(Side::B, stream, actions);
            self.connect_media(actions);
        }
        if self.a_answered.is_some() {
            return;
        }
        self.cdr.ringing(self.a_uuid, now);
        let bridged = self.media == MediaState::Open { bridged: true };
        self.order_a(Order::Ring { early_media: has_early_media || bridged }, actions, now);
    }

    fn allows_early_media(&self) -> bool {
        let State::Dialing { attempt, .. } = &self.state else { return false };
        self.outlets
            .get(usize::from(attempt.saturating_sub(1)))
            .is_some_and(|outlet| outlet.trunk.early_media)
    }

    /// The B-leg's 200, acknowledged.
    fn on_answered(&mut self, stream: Stream, actions: &mut Vec<Action>, now: Instant) {
        let State::Dialing { plan, .. } = &self.state else { return };
        let plan = plan.clone();
        Self::configure(Side::B, stream, actions);
        self.b_answered = Some(now);
        let at = self.cdr.answered(self.b_uuid, now);
        actions.push(Action::LegAnswered(self.b_uuid, at));
        let message = match &plan {
            Target::Party(plan) => self.message_to(Side::B, plan.callee_play_url(), actions, now),
            Target::Fixed(_) => None,
        };
        match message {
            Some(message) => {
                self.party_answered(Side::B, actions, now);
                let until = now + message.duration() + LOOK_UP;
                actions.push(Action::Media(MediaCommand::Play {
                    side: Side::B,
                    prompt: message,
                    mode: PlayMode::Once,
                }));
                self.state = State::Greeting { until };
            }
            None => self.bridge(actions, now),
        }
    }

    /// Both legs are answered, or the A-leg is now: they hear each other, and the recording begins.
    pub(super) fn bridge(&mut self, actions: &mut Vec<Action>, now: Instant) {
        self.answer_caller(actions, now);
        if self.a_answered.is_none() {
            // The leg itself gives up when nobody acknowledges.
            self.state = State::Greeting { until: now + LINGERING };
            return;
        }
        // When one moment answers both, the caller's answer is told first.
        self.party_answered(Side::B, actions, self.b_answered.unwrap_or(now));
        actions.push(Action::Media(MediaCommand::StopPlay { side: Side::A }));
        self.connect_media(actions);
        actions.push(Action::Media(MediaCommand::Answered));
        let recording = self.session.as_ref().is_some_and(|session| session.record);
        if recording {
            self.recording_since = Some(now);
            actions.push(Action::Media(MediaCommand::Record { directory: self.recording_directory() }));
            self.happened(Happening::RecordingInitiated, actions, now);
        }
        actions.push(Action::Bridged);
        self.state = State::Bridged;
    }

    fn connect_media(&mut self, actions: &mut Vec<Action>) {
        if self.media == (MediaState::Open { bridged: false }) {
            self.media = MediaState::Open { bridged: true };
            actions.push(Action::Media(MediaCommand::Bridge));
        }
    }

    /// `{directory}/YYYY/MM/DD/{interaction_uuid}`, by the UTC day on which the call came in. No number is in it.
    fn recording_directory(&self) -> PathBuf {
        let day = self.clock.wall.strftime("%Y/%m/%d").to_string();
        self.recordings.join(day).join(self.interaction.to_string())
    }
}

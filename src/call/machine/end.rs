//! Every way out: refusals, hang-ups, limits; then the media's figures, the recording's manifest and the CDR.

use super::{CLOSING, Call, CdrState, LINGERING, LOOK_UP, MediaState, State};
use crate::call::Action;
use crate::call::cdr::{HangupCause, HangupSource};
use crate::call::leg::Leg;
use crate::call::signal::Order;
use crate::recording::manifest::Names;
use crate::store::{Cdr, RecordingRow};
use media::{CallStatistics, MediaCommand, RecordingReport};
use std::time::Instant;

/// Seconds after which a caller may try again when we are full.
const RETRY_AFTER: u32 = 10;

impl Call {
    /// A final answer to a caller who has none yet; the call is over. A party that we call ourselves waits for none.
    pub(super) fn refuse_caller(
        &mut self,
        status: u16,
        cause: HangupCause,
        actions: &mut Vec<Action>,
        now: Instant,
    ) {
        if self.is_initiated() {
            return self.end(cause, HangupSource::System, actions, now);
        }
        self.order_a(Order::Refuse { status, retry_after: None, cause }, actions, now);
        // `ring_timeout` is our own impatience, whoever did not answer.
        let of_callee = self.b.is_some() && cause != HangupCause::RingTimeout;
        let source = if of_callee { HangupSource::Callee } else { HangupSource::System };
        self.cdr.ended(self.a_uuid, cause, source, Some(status), now);
        self.end(cause, HangupSource::System, actions, now);
    }

    /// We are full: 503 with Retry-After.
    pub(super) fn refuse_with_retry(&mut self, actions: &mut Vec<Action>, now: Instant) {
        if !self.is_initiated() {
            let cause = HangupCause::Congestion;
            self.order_a(Order::Refuse { status: 503, retry_after: Some(RETRY_AFTER), cause }, actions, now);
            self.cdr.ended(self.a_uuid, cause, HangupSource::System, Some(503), now);
        }
        self.end(HangupCause::Congestion, HangupSource::System, actions, now);
    }

    /// Ends both legs in whatever state they are, closes the media, and lets the transactions finish.
    pub(super) fn end(
        &mut self,
        cause: HangupCause,
        source: HangupSource,
        actions: &mut Vec<Action>,
        now: Instant,
    ) {
        if !self.is_live() {
            return;
        }
        self.cdr.ended(self.a_uuid, cause, source, None, now);
        self.cdr.ended(self.b_uuid, cause, source, None, now);
        self.order_a(Order::HangUp(cause), actions, now);
        self.order_b(Order::HangUp(cause), actions, now);
        self.note_causes();
        // Whose call it was is still to be told by the look-up; without its account nobody would see the CDR.
        let unknown = self.awaited.is_some() && self.media == MediaState::None;
        let open = now + if unknown { LOOK_UP } else { CLOSING };
        self.state = State::Draining { cdr: CdrState::Open { until: open }, until: now + LINGERING };
        match self.media {
            MediaState::Open { .. } => self.close_media(actions),
            MediaState::None if unknown => {}
            MediaState::None | MediaState::Closed => self.send_cdr(actions, now),
            MediaState::Closing { .. } => {}
        }
    }

    /// What peers have said of the legs' ends, and what we have.
    pub(super) fn note_causes(&mut self) {
        self.cdr.q850(self.a_uuid, self.a.as_ref().and_then(Leg::last_cause));
        self.cdr.q850(self.b_uuid, self.b.as_ref().and_then(Leg::last_cause));
    }

    pub(super) fn close_media(&mut self, actions: &mut Vec<Action>) {
        self.media = MediaState::Closing { filing: false };
        actions.push(Action::Media(MediaCommand::Close));
    }

    /// Both files are complete: `call.json` is written.
    pub(super) fn on_recorded(&mut self, report: RecordingReport, actions: &mut Vec<Action>) {
        let directory = report
            .directory
            .strip_prefix(&self.recordings)
            .unwrap_or(&report.directory)
            .to_string_lossy()
            .into_owned();
        let (samples, complete) = (report.samples, report.complete);
        self.cdr.recorded(RecordingRow { directory, samples, complete });
        self.media = MediaState::Closing { filing: true };
        let names = Names {
            interaction: self.interaction,
            a: Some(self.a_uuid),
            b: Some(self.b_uuid),
            started_at: self.recording_since.map(|at| self.clock.wall_at(at)),
            account: self.session.as_ref().map(|session| session.account.clone()),
            session: self.session.as_ref().map(|session| session.uuid),
            format: self.session.as_ref().map(|session| session.record_file_format),
        };
        actions.push(Action::FileRecording(names, Box::new(report)));
    }

    pub(super) fn on_recording_filed(&mut self, actions: &mut Vec<Action>, now: Instant) {
        match self.media {
            MediaState::Closing { .. } => self.media = MediaState::Closing { filing: false },
            MediaState::Closed => self.send_cdr(actions, now),
            MediaState::None | MediaState::Open { .. } => {}
        }
    }

    /// The last word of the media: its figures go into the CDR, which is then complete.
    pub(super) fn on_media_closed(
        &mut self,
        statistics: CallStatistics,
        actions: &mut Vec<Action>,
        now: Instant,
    ) {
        self.cdr.media(statistics);
        let filing = self.media == MediaState::Closing { filing: true };
        self.media = MediaState::Closed;
        // The manifest is still being written; its end sends the CDR.
        if !filing {
            self.send_cdr(actions, now);
        }
    }

    /// Hands the CDR over, once.
    pub(super) fn send_cdr(&mut self, actions: &mut Vec<Action>, now: Instant) {
        let State::Draining { cdr: cdr @ CdrState::Open { .. }, .. } = &mut self.state else { return };
        *cdr = CdrState::Sent { until: now + CLOSING };
        actions.push(Action::CloseCall(Box::new(self.cdr.finish(now))));
    }

    /// Something of ours is broken and the call is dropped as it is. Its record, unless that was handed over before.
    #[must_use]
    pub fn give_up(&mut self, now: Instant) -> Option<Box<Cdr>> {
        let told = matches!(
            self.state,
            State::Done | State::Draining { cdr: CdrState::Sent { .. } | CdrState::Closed, .. }
        );
        self.state = State::Done;
        if told {
            return None;
        }
        for leg in [self.a_uuid, self.b_uuid] {
            self.cdr.ended(leg, HangupCause::InternalError, HangupSource::System, None, now);
        }
        Some(Box::new(self.cdr.finish(now)))
    }

    /// The call's record is stored. What lingers from now on are transactions: the rest is let go, because at
    /// hundreds of calls per second there are thousands of such calls.
    pub(super) fn on_cdr_stored(&mut self) {
        if let State::Draining { cdr, .. } = &mut self.state {
            *cdr = CdrState::Closed;
            self.cdr.forget();
            self.session = None;
            self.query = None;
            self.outlets = Vec::new();
            self.recordings = std::path::PathBuf::new();
        }
    }

    /// Nothing is left to wait for: both legs' transactions have ended and the CDR is stored.
    pub(super) fn settle(&mut self, _actions: &mut Vec<Action>, _now: Instant) {
        // On a stream a refused leg has nothing to wait for from the first moment, so no event would remove it.
        self.former.retain(|leg| !leg.is_done());
        let quiet = self.a.as_ref().is_none_or(Leg::is_done)
            && self.b.as_ref().is_none_or(Leg::is_done)
            && self.former.is_empty();
        if quiet && matches!(self.state, State::Draining { cdr: CdrState::Closed, .. }) {
            self.state = State::Done;
        }
    }
}

//! The PIN stage of a call: the A-leg is answered, nothing is bridged or recorded, and the caller types.

use super::{Call, LOOK_UP, State, Target, Then};
use crate::call::cdr::{HangupCause, HangupSource};
use crate::call::pin::{PinAction, PinCollector};
use crate::call::{Action, Found};
use crate::callbacks::event::{Happening, PinStatus, Subject};
use crate::masking::guessing::Bucket;
use crate::masking::route::{PinPlan, Query};
use crate::prompts::BuiltIn;
use media::{Digit, MediaCommand, PlayMode, Prompt, Side};
use std::time::Instant;

/// The collector, what its doors lead to, and what is played.
#[derive(Debug)]
pub(super) struct PinStage {
    collector: PinCollector,
    plan: PinPlan,
    /// Where a wrong entry counts.
    buckets: Vec<Bucket>,
    /// An entry is complete. It is counted, and what it may open is looked up once more, because it may have ended
    /// meanwhile; a wrong one takes as long.
    confirming: Option<(Option<usize>, Instant)>,
}

impl PinStage {
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.confirming.map(|(_, until)| until).or_else(|| self.collector.deadline())
    }
}

impl Call {
    /// Answers the caller and asks for the PIN.
    pub(super) fn ask_pin(&mut self, plan: PinPlan, actions: &mut Vec<Action>, now: Instant) {
        self.answer_caller(actions, now);
        actions.push(Action::Media(MediaCommand::CollectDigits { side: Side::A, on: true }));
        let doors = plan.doors.iter().map(|(pin, door)| (pin.clone(), door.is_some())).collect();
        let (collector, first) = PinCollector::new(doors, plan.retry, plan.retry_wait, now);
        let buckets = self.buckets(&plan);
        self.state = State::CollectingPin(Box::new(PinStage { collector, plan, buckets, confirming: None }));
        self.perform_pin(first, actions, now);
    }

    /// A key from the caller: by telephone-event while keys are collected, or by INFO. One by INFO during the call is
    /// the other party's to hear; keys by telephone-event pass in the media.
    pub(super) fn on_digit(&mut self, digit: Digit, actions: &mut Vec<Action>, now: Instant) {
        if matches!(self.state, State::Bridged) {
            actions.push(Action::Media(MediaCommand::SendDigit { side: Side::B, digit }));
            return;
        }
        self.feed_pin(actions, now, |collector| collector.push(digit, now));
    }

    pub(super) fn on_pin_played(&mut self, actions: &mut Vec<Action>, now: Instant) {
        self.feed_pin(actions, now, |collector| collector.on_played(now));
    }

    pub(super) fn on_pin_timeout(&mut self, actions: &mut Vec<Action>, now: Instant) {
        let State::CollectingPin(stage) = &self.state else { return };
        match stage.confirming {
            Some((_, until)) if until <= now => {
                self.awaited = None;
                self.on_pin_confirmed(None, actions, now);
            }
            Some(_) => {}
            None => self.feed_pin(actions, now, |collector| collector.on_timeout(now)),
        }
    }

    fn feed_pin(
        &mut self,
        actions: &mut Vec<Action>,
        now: Instant,
        work: impl FnOnce(&mut PinCollector) -> Vec<PinAction>,
    ) {
        let State::CollectingPin(stage) = &mut self.state else { return };
        let wanted = work(&mut stage.collector);
        self.perform_pin(wanted, actions, now);
    }

    fn perform_pin(&mut self, wanted: Vec<PinAction>, actions: &mut Vec<Action>, now: Instant) {
        for action in wanted {
            let State::CollectingPin(stage) = &mut self.state else { return };
            match action {
                PinAction::Ask => {
                    let url = stage.plan.prompt_url.clone();
                    let prompt = self.pin_prompt(&url, BuiltIn::EnterPin, "pin_prompt_play", actions, now);
                    play_to_caller(prompt, actions);
                }
                PinAction::SayWrong => {
                    let url = stage.plan.incorrect_url.clone();
                    let retries = stage.collector.failed().saturating_sub(1);
                    let happening = Happening::Pin { status: PinStatus::Failed, retries };
                    self.happened_in_pin_stage(happening, actions, now);
                    let prompt = self.pin_prompt(&url, BuiltIn::WrongPin, "incorrect_pin_play", actions, now);
                    play_to_caller(prompt, actions);
                }
                PinAction::SayGoodbye => play_to_caller(self.prompts.built_in(BuiltIn::Goodbye), actions),
                PinAction::Hush => actions.push(Action::Media(MediaCommand::StopPlay { side: Side::A })),
                PinAction::Judge(door) => {
                    stage.confirming = Some((door, now + LOOK_UP));
                    let buckets = stage.buckets.clone();
                    actions.push(Action::Media(MediaCommand::StopPlay { side: Side::A }));
                    self.look_up(buckets, actions);
                }
                PinAction::Ended => {
                    return self.end(HangupCause::PinFailed, HangupSource::System, actions, now);
                }
            }
        }
    }

    fn pin_prompt(
        &mut self,
        url: &str,
        fallback: BuiltIn,
        parameter: &'static str,
        actions: &mut Vec<Action>,
        now: Instant,
    ) -> Prompt {
        if !url.is_empty() && self.prompts.find(self.cdr.account_id(), url).is_none() {
            self.happened_in_pin_stage(Happening::PromptUnavailable(parameter), actions, now);
        }
        self.prompts.for_url(self.cdr.account_id(), url, fallback)
    }

    /// Told to the session when only one can be meant, else to the account.
    fn happened_in_pin_stage(&mut self, happening: Happening, actions: &mut Vec<Action>, now: Instant) {
        let State::CollectingPin(stage) = &self.state else { return };
        let mut meant = stage.plan.doors.iter().filter_map(|(_, plan)| Some(&plan.as_ref()?.session));
        let only = meant.next().filter(|first| meant.all(|other| other.uuid == first.uuid));
        let subject = only.map(|session| Subject::of(session)).or_else(|| self.cdr.account());
        let at = self.clock.wall_at(now);
        let event = subject.and_then(|subject| self.cdr.happened_to(&subject, happening, at));
        actions.extend(event.map(|event| Action::Happened(Box::new(event))));
    }

    /// Where this caller's wrong entries count (product.md, "Guessing").
    fn buckets(&self, plan: &PinPlan) -> Vec<Bucket> {
        let session = plan.doors.iter().find_map(|(_, plan)| Some(plan.as_ref()?.session.uuid));
        if let Some((role, session)) = plan.forced.zip(session) {
            return vec![Bucket::Forced(session, role)];
        }
        let Some(Query { dialled, caller }) = self.query.clone() else { return vec![] };
        let caller = match caller {
            Some(caller) => Bucket::Caller(caller),
            None => Bucket::Anonymous(self.trunk.name.clone()),
        };
        // Each session has two PINs.
        let pin_sessions = u32::try_from(plan.doors.len().div_ceil(2)).unwrap_or(u32::MAX);
        vec![caller, Bucket::Number { did: dialled, pin_sessions }]
    }

    /// The entry was counted and the session behind it looked up again: may it be judged, is it right, and is the
    /// session still there? A store that cannot say counts as no, because nobody may be rung on a guess.
    pub(super) fn on_pin_confirmed(
        &mut self,
        found: Option<Box<Found>>,
        actions: &mut Vec<Action>,
        now: Instant,
    ) {
        let State::CollectingPin(stage) = &mut self.state else { return };
        let Some((door, _)) = stage.confirming.take() else { return };
        let door = door.and_then(|door| stage.plan.doors.get(door));
        let plan = door.and_then(|(_, plan)| plan.clone());
        let alive = plan.filter(|plan| {
            found.is_some_and(|found| {
                let route = found.route.filter(|_| found.may_judge);
                route.is_some_and(|route| {
                    route
                        .sessions
                        .iter()
                        .any(|session| session.uuid == plan.session.uuid && session.is_active(found.at))
                })
            })
        });
        let Some(plan) = alive else {
            return self.feed_pin(actions, now, |collector| collector.reject(now));
        };
        let retries = stage.collector.failed();
        actions.push(Action::ForgiveGuess(std::mem::take(&mut stage.buckets)));
        actions.push(Action::Media(MediaCommand::CollectDigits { side: Side::A, on: false }));
        self.belongs_to(&plan.session);
        self.cdr.connects_to(plan.callee.clone(), plan.callee_role);
        self.happened(Happening::Pin { status: PinStatus::Success, retries }, actions, now);
        // Which party was answered for the PIN is known only now.
        self.party_answered(Side::A, actions, self.a_answered.unwrap_or(now));
        self.note_caller_leg(actions);
        match self.message_to(Side::A, plan.caller_play_url(), actions, now) {
            Some(message) => self.announce(message, Then::Dial(Box::new(Target::Party(plan))), actions, now),
            None => self.dial(Target::Party(plan), 1, actions, now),
        }
    }
}

fn play_to_caller(prompt: Prompt, actions: &mut Vec<Action>) {
    actions.push(Action::Media(MediaCommand::Play { side: Side::A, prompt, mode: PlayMode::Once }));
}

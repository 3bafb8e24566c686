//! The call machine: events and time in, actions out. Here is the frame: what a call holds, how an event reaches
//! the leg or stage that it is for, and when the call wants to be woken. [`set_up`] is the way from the INVITE to
//! the dialled B-leg, [`initiate`] the beginning of a call that we place ourselves, [`pin_stage`] the stranger's
//! detour, [`bridge`] the answer and the call itself, [`end`] every way out.

mod bridge;
mod end;
mod initiate;
mod pin_stage;
mod set_up;

use super::cdr::{CdrBuilder, ClockPair, HangupCause};
use super::identity::LegAddress;
use super::leg::{Leg, Refusal};
use super::signal::{Order, Signal};
use super::{Action, Event, LookUp, Outlet, caller_id};
use crate::call::leg;
use crate::callbacks::event::Happening;
use crate::ids::IdSource;
use crate::masking::route::{Decision, DialPlan, Query};
use crate::masking::session::MaskingSession;
use crate::prompts::PromptLibrary;
use crate::sip::message::{Message, Request};
use crate::sip::transport::{Flow, SendFault};
use crate::trunk::Trunk;
use media::{MediaCommand, MediaEvent, Side, Stream};
use pin_stage::PinStage;
pub(crate) use set_up::MAX_ATTEMPTS;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// A look-up in the store ends within this time, or the call is refused.
const LOOK_UP: Duration = Duration::from_secs(5);
/// Media and store report the end of a call within this time, or it ends without them.
const CLOSING: Duration = Duration::from_secs(20);
/// Everything that lingers after a call ends within this time: a CANCEL and the transaction after it take 64·T1 each.
const LINGERING: Duration = Duration::from_secs(75);
/// `ring_timeout` and `call_time_limit` of calls without a session.
const DEFAULT_RING_TIMEOUT: Duration = Duration::from_secs(45);
const DEFAULT_TIME_LIMIT: Duration = Duration::from_secs(14_400);
/// B-legs of earlier gateways that are kept until their transactions end.
const MAX_FORMER_LEGS: usize = 8;

/// What a call is given when it is made.
#[derive(Debug)]
pub struct CallParameters {
    /// The trunk of the A-leg: the one that the INVITE came in by, or the one that ours leaves by.
    pub trunk: Arc<Trunk>,
    /// Where tags, branches and uuids come from.
    pub ids: IdSource,
    /// What callers are told.
    pub prompts: PromptLibrary,
    /// Both clocks at this moment.
    pub clock: ClockPair,
    /// `recordings.directory`.
    pub recordings: PathBuf,
}

/// One call, from INVITE to CDR.
#[derive(Debug)]
pub struct Call {
    interaction: Uuid,
    ids: IdSource,
    prompts: PromptLibrary,
    trunk: Arc<Trunk>,
    clock: ClockPair,
    recordings: PathBuf,
    query: Option<Query>,
    look_ups: u32,
    /// The look-up that is under way.
    awaited: Option<LookUp>,
    /// Hops left for our INVITEs (RFC 7332).
    max_forwards: u8,
    /// `None` in a call that we place ourselves until its ports are bound.
    a: Option<Leg>,
    a_uuid: Uuid,
    a_answered: Option<Instant>,
    b: Option<Leg>,
    b_uuid: Uuid,
    b_answered: Option<Instant>,
    /// Legs of gateways that failed: late answers still get their ACK and BYE.
    former: Vec<Leg>,
    session: Option<Arc<MaskingSession>>,
    outlets: Vec<Outlet>,
    ports: Option<(u16, u16)>,
    media: MediaState,
    /// Sample 0 of both files.
    recording_since: Option<Instant>,
    cdr: CdrBuilder,
    state: State,
}

/// What is known of the call's media.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MediaState {
    /// Never opened.
    None,
    /// Sockets are bound; `bridged` once each leg hears the other.
    Open { bridged: bool },
    /// `Close` was sent.
    Closing { filing: bool },
    /// Nothing more will come.
    Closed,
}

/// Each state owns the timers that it has; see the drawing in [`crate::call`].
#[derive(Debug)]
enum State {
    Routing {
        until: Instant,
    },
    Opening {
        next: Box<Decision>,
        until: Instant,
    },
    /// The first party's INVITE waits for its turn.
    PacingFirst {
        next: Box<Decision>,
        attempt: u8,
        until: Instant,
    },
    CallingFirst {
        next: Box<Decision>,
        attempt: u8,
        ringing: bool,
        heard_by: Option<Instant>,
        until: Instant,
    },
    CollectingPin(Box<PinStage>),
    Announcing {
        then: Then,
        until: Instant,
    },
    /// `heard_by`: another target is tried unless this one has said something by then.
    Dialing {
        plan: Target,
        attempt: u8,
        ringing: bool,
        heard_by: Option<Instant>,
        until: Instant,
    },
    /// The trunk takes only so many legs, or INVITEs per second, and this one waits for its turn.
    Pacing {
        plan: Target,
        attempt: u8,
        until: Instant,
    },
    Greeting {
        until: Instant,
    },
    Bridged,
    Draining {
        cdr: CdrState,
        until: Instant,
    },
    Done,
}

/// What follows a message to the caller.
#[derive(Debug, Clone)]
enum Then {
    Dial(Box<Target>),
    /// BYE, with the cause for the CDR.
    HangUp(HangupCause),
}

/// Whom the B-leg goes to.
#[derive(Debug, Clone)]
enum Target {
    /// A session's party.
    Party(DialPlan),
    /// `no_session = "sip:…"`.
    Fixed(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CdrState {
    /// Waits for the media's figures.
    Open { until: Instant },
    /// Being stored.
    Sent { until: Instant },
    /// Stored, or given up.
    Closed,
}

impl Call {
    /// A new INVITE without To tag: 100 is sent and the number looked up. `address`: what the A-leg shows of us.
    ///
    /// # Errors
    /// The final answer when there is nothing to make a leg of.
    pub fn offered(
        invite: &Request,
        flow: &Flow,
        address: LegAddress,
        mut parameters: CallParameters,
        now: Instant,
    ) -> Result<(Self, Vec<Action>), Refusal> {
        // RFC 3261 §16.3: a request that has no hop left goes no further; RFC 7332 for B2BUAs.
        let max_forwards = invite.head.max_forwards.unwrap_or(70).min(70);
        let Some(max_forwards) = max_forwards.checked_sub(1) else { return Err(Refusal::from(483)) };
        let a = Leg::offered(invite, flow, address, &parameters.trunk, &mut parameters.ids)?;
        let trunk = &parameters.trunk;
        let query = caller_id::dialled(invite, trunk)
            .map(|dialled| Query { dialled, caller: caller_id::caller(invite, trunk) });
        let key = a.dialog_key();
        let mut call = Self::new(query, parameters, now);
        call.a = Some(a);
        call.max_forwards = max_forwards;
        let mut actions = vec![Action::Index(key)];
        call.leg_a(&mut actions, now, |leg, out| leg.try_(invite, flow, out));
        call.on_offered(&mut actions, now);
        Ok((call, actions))
    }

    /// A call without legs.
    fn new(query: Option<Query>, parameters: CallParameters, now: Instant) -> Self {
        let CallParameters { trunk, mut ids, prompts, clock, recordings } = parameters;
        let at = clock.wall_at(now);
        let (interaction, a_uuid, b_uuid) = (ids.uuid(at), ids.uuid(at), ids.uuid(at));
        let virtual_number = query.as_ref().map(|query| query.dialled.clone());
        let cdr = CdrBuilder::new(clock, interaction, virtual_number);
        Self {
            interaction,
            ids,
            prompts,
            trunk,
            clock,
            recordings,
            query,
            look_ups: 0,
            awaited: None,
            // RFC 3261 §8.1.1.6: what a request begins with.
            max_forwards: 70,
            a: None,
            a_uuid,
            a_answered: None,
            b: None,
            b_uuid,
            b_answered: None,
            former: Vec::new(),
            session: None,
            outlets: Vec::new(),
            ports: None,
            media: MediaState::None,
            recording_since: None,
            cdr,
            state: State::Routing { until: now + LOOK_UP },
        }
    }

    /// The uuid of both legs together; it names the recording's folder.
    #[must_use]
    pub fn interaction(&self) -> Uuid {
        self.interaction
    }

    /// The masking session that the call belongs to, once it is known.
    #[must_use]
    pub fn session(&self) -> Option<Uuid> {
        self.session.as_ref().map(|session| session.uuid)
    }

    /// True while the call counts as one: until both legs end.
    #[must_use]
    pub fn is_live(&self) -> bool {
        !matches!(self.state, State::Draining { .. } | State::Done)
    }

    /// False when no B-leg is there and none is about to be.
    #[must_use]
    pub fn may_have_callee(&self) -> bool {
        self.is_live() && !matches!(self.state, State::Announcing { .. })
    }

    /// True from the acknowledged answer of the caller's leg on.
    #[must_use]
    pub fn is_set_up(&self) -> bool {
        self.a.as_ref().is_some_and(Leg::is_acknowledged)
    }

    /// The trunk that must have `source` among its addresses for `message` to be heard; `None` where that is plain, or
    /// where no leg owns it.
    #[must_use]
    pub fn trunk_to_ask(&self, message: &Message, source: IpAddr) -> Option<&str> {
        let leg = self.a.iter().chain(&self.b).chain(&self.former).find(|leg| leg.owns(message))?;
        let trunk = leg.left_by().unwrap_or(&self.trunk);
        (!leg.is_peer(source)).then_some(trunk.name.as_str())
    }

    /// True when nothing is left to wait for.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Takes one event and returns what must be done, in order.
    #[must_use]
    pub fn handle(&mut self, event: Event, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        let is_timeout = matches!(event, Event::Timeout);
        match event {
            Event::Message(received) => self.on_message(&received.0, &received.1, &mut actions, now),
            Event::SendFailed(branch, why) => self.on_send_failed(&branch, why, &mut actions, now),
            Event::Found(look_up, found) => self.on_found(look_up, found, &mut actions, now),
            Event::Paced(goes) => self.on_paced(goes, &mut actions, now),
            Event::MediaOpened(ports) => self.on_media_opened(ports, &mut actions, now),
            Event::Media(event) => self.on_media(*event, &mut actions, now),
            Event::HangUp(cause) => self.end(cause, super::cdr::HangupSource::System, &mut actions, now),
            Event::RecordingFiled => self.on_recording_filed(&mut actions, now),
            Event::CdrStored => self.on_cdr_stored(),
            Event::Timeout => self.on_timeout(&mut actions, now),
        }
        self.settle(&mut actions, now);
        // Another event may come in the very instant of a deadline; its Timeout is still to come then.
        assert!(
            !is_timeout || self.deadline().is_none_or(|at| at > now),
            "a fired timer must move on, or the shell would spin"
        );
        actions
    }

    /// When [`Event::Timeout`] is due; `None` only when the call is finished.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let stage = match &self.state {
            State::Routing { until }
            | State::Opening { until, .. }
            | State::Announcing { until, .. }
            | State::Pacing { until, .. }
            | State::PacingFirst { until, .. }
            | State::Greeting { until, .. } => Some(*until),
            State::CallingFirst { heard_by, until, .. } | State::Dialing { heard_by, until, .. } => {
                Some(heard_by.map_or(*until, |heard_by| heard_by.min(*until)))
            }
            State::CollectingPin(stage) => stage.deadline(),
            State::Bridged => None,
            State::Draining { cdr, until } => Some(match cdr {
                CdrState::Open { until: at } | CdrState::Sent { until: at } => *until.min(at),
                CdrState::Closed => *until,
            }),
            State::Done => return None,
        };
        stage
            .into_iter()
            .chain(self.time_limit())
            .chain(self.a.as_ref().and_then(Leg::deadline))
            .chain(self.b.as_ref().and_then(Leg::deadline))
            .chain(self.former.iter().filter_map(Leg::deadline))
            .min()
    }

    /// `call_time_limit`, from the 200 of each leg: the first leg to reach it ends the call.
    fn time_limit(&self) -> Option<Instant> {
        let limit = self.session.as_ref().map_or(DEFAULT_TIME_LIMIT, |session| session.call_time_limit);
        let first = self.a_answered.into_iter().chain(self.b_answered).min()?;
        self.is_live().then_some(first + limit)
    }

    fn on_message(&mut self, message: &Message, flow: &Flow, actions: &mut Vec<Action>, now: Instant) {
        if self.a.as_ref().is_some_and(|leg| leg.owns(message)) {
            let signals = self.leg_a(actions, now, |leg, out| leg.handle(message, flow, out));
            signals.into_iter().for_each(|signal| self.on_caller(signal, actions, now));
        } else if self.b.as_ref().is_some_and(|leg| leg.owns(message)) {
            let signals = self.leg_b(actions, now, |leg, out| leg.handle(message, flow, out));
            signals.into_iter().for_each(|signal| self.on_callee(signal, actions, now));
        } else {
            self.each_former(actions, now, |leg, out| {
                if leg.owns(message) {
                    leg.handle(message, flow, out);
                }
            });
        }
    }

    fn on_send_failed(&mut self, branch: &str, why: SendFault, actions: &mut Vec<Action>, now: Instant) {
        let signals = self.leg_a(actions, now, |leg, out| leg.on_send_failed(branch, why, out));
        signals.into_iter().for_each(|signal| self.on_caller(signal, actions, now));
        let signals = self.leg_b(actions, now, |leg, out| leg.on_send_failed(branch, why, out));
        signals.into_iter().for_each(|signal| self.on_callee(signal, actions, now));
        self.each_former(actions, now, |leg, out| leg.on_send_failed(branch, why, out));
    }

    fn on_timeout(&mut self, actions: &mut Vec<Action>, now: Instant) {
        let signals = self.leg_a(actions, now, leg::Leg::on_timeout);
        signals.into_iter().for_each(|signal| self.on_caller(signal, actions, now));
        let signals = self.leg_b(actions, now, leg::Leg::on_timeout);
        signals.into_iter().for_each(|signal| self.on_callee(signal, actions, now));
        self.each_former(actions, now, leg::Leg::on_timeout);
        if self.time_limit().is_some_and(|at| at <= now) {
            return self.end(HangupCause::TimeLimit, super::cdr::HangupSource::System, actions, now);
        }
        self.on_stage_timeout(actions, now);
    }

    fn on_stage_timeout(&mut self, actions: &mut Vec<Action>, now: Instant) {
        match &mut self.state {
            State::Routing { until } if *until <= now => {
                self.awaited = None;
                self.refuse_caller(500, HangupCause::InternalError, actions, now)
            }
            State::Opening { until, .. } if *until <= now => {
                self.refuse_caller(500, HangupCause::InternalError, actions, now);
            }
            State::CallingFirst { until, .. } | State::PacingFirst { until, .. } if *until <= now => {
                self.end(HangupCause::RingTimeout, super::cdr::HangupSource::System, actions, now);
            }
            State::CollectingPin(_) => self.on_pin_timeout(actions, now),
            State::Announcing { until, .. } if *until <= now => self.after_message(actions, now),
            State::Dialing { until, .. } | State::Pacing { until, .. } if *until <= now => {
                self.on_ring_timeout(actions, now)
            }
            State::CallingFirst { heard_by: Some(heard_by), .. }
            | State::Dialing { heard_by: Some(heard_by), .. }
                if *heard_by <= now =>
            {
                self.on_nothing_heard(actions, now)
            }
            State::Greeting { until, .. } if *until <= now => self.bridge(actions, now),
            State::Draining { cdr: CdrState::Open { until }, .. } if *until <= now => {
                self.send_cdr(actions, now)
            }
            State::Draining { cdr: cdr @ CdrState::Sent { .. }, .. } => {
                if matches!(cdr, CdrState::Sent { until } if *until <= now) {
                    *cdr = CdrState::Closed;
                }
            }
            _ => {}
        }
        if matches!(&self.state, State::Draining { until, .. } if *until <= now) {
            self.state = State::Done;
        }
    }

    fn on_media(&mut self, event: MediaEvent, actions: &mut Vec<Action>, now: Instant) {
        match event {
            MediaEvent::Digit { side: Side::A, digit } => self.on_digit(digit, actions, now),
            MediaEvent::Digit { side: Side::B, .. } => {}
            MediaEvent::PlayFinished { side } => self.on_played(side, actions, now),
            // A phone that only rings owes no packet: that wait is `ring_timeout`'s.
            MediaEvent::Silence if self.is_live() && self.a_answered.or(self.b_answered).is_some() => {
                self.end(HangupCause::MediaTimeout, super::cdr::HangupSource::System, actions, now);
            }
            MediaEvent::Silence => {}
            // The shell counts and logs it; the figures at the end tell it too.
            MediaEvent::Trouble(_) => {}
            // The report's `complete` says it too; this one is for whoever watches the call.
            MediaEvent::RecordingFailed => self.happened(Happening::RecordingFailed, actions, now),
            MediaEvent::Recorded(report) => self.on_recorded(report, actions),
            MediaEvent::Closed(statistics) => self.on_media_closed(statistics, actions, now),
        }
    }

    fn on_played(&mut self, side: Side, actions: &mut Vec<Action>, now: Instant) {
        match (&self.state, side) {
            (State::CollectingPin(_), Side::A) => self.on_pin_played(actions, now),
            (State::Announcing { .. }, Side::A) => self.after_message(actions, now),
            (State::Greeting { .. }, Side::B) => self.bridge(actions, now),
            _ => {}
        }
    }

    fn leg_a(
        &mut self,
        actions: &mut Vec<Action>,
        now: Instant,
        work: impl FnOnce(&mut Leg, &mut leg::Output<'_>),
    ) -> Vec<Signal> {
        let mut out = leg::Output { actions, signals: Vec::new(), ids: &mut self.ids, now };
        if let Some(leg) = &mut self.a {
            work(leg, &mut out);
        }
        out.signals
    }

    fn leg_b(
        &mut self,
        actions: &mut Vec<Action>,
        now: Instant,
        work: impl FnOnce(&mut Leg, &mut leg::Output<'_>),
    ) -> Vec<Signal> {
        let mut out = leg::Output { actions, signals: Vec::new(), ids: &mut self.ids, now };
        if let Some(leg) = &mut self.b {
            work(leg, &mut out);
        }
        out.signals
    }

    /// Former legs only finish their transactions; what they signal matters to nobody.
    fn each_former(
        &mut self,
        actions: &mut Vec<Action>,
        now: Instant,
        work: impl Fn(&mut Leg, &mut leg::Output<'_>),
    ) {
        for leg in &mut self.former {
            let mut out = leg::Output { actions, signals: Vec::new(), ids: &mut self.ids, now };
            work(leg, &mut out);
        }
        self.former.retain(|leg| !leg.is_done());
    }

    fn order_a(&mut self, order: Order, actions: &mut Vec<Action>, now: Instant) {
        self.leg_a(actions, now, |leg, out| leg.obey(order, out));
    }

    fn order_b(&mut self, order: Order, actions: &mut Vec<Action>, now: Instant) {
        self.leg_b(actions, now, |leg, out| leg.obey(order, out));
    }

    /// A call that we place ourselves: its A-leg, too, is one where we are UAC.
    fn is_initiated(&self) -> bool {
        self.a.as_ref().is_none_or(Leg::is_outgoing)
    }

    fn configure(side: Side, stream: Stream, actions: &mut Vec<Action>) {
        actions.push(Action::Media(MediaCommand::Configure { side, stream }));
    }
}

//! From the INVITE to the dialled B-leg: look-up, decision, media, messages, gateways.

use super::DEFAULT_RING_TIMEOUT;
use super::{Call, LOOK_UP, MAX_FORMER_LEGS, MediaState, State, Target, Then};
use crate::call::cdr::{HangupCause, HangupSource, NewLeg};
use crate::call::identity::{self, Callee};
use crate::call::leg::{Dial, Leg, Output};
use crate::call::signal::{Order, Signal};
use crate::call::{Action, Found, Hop, Learned, LookUp, NoPort, Outlet, Place, StoreFailed};
use crate::callbacks::event::{Happening, PinStatus, Subject};
use crate::masking::guessing::Bucket;
use crate::masking::route::{Decision, decide};
use crate::masking::session::{MaskingSession, PartyRole};
use crate::prompts::BuiltIn;
use crate::sip::transport::Protocol;
use crate::sip::uri::{Scheme, Uri};
use crate::trunk::health::Outcome;
use crate::trunk::{Gateway, SrtpPolicy, Trunk};
use media::sdp::{LocalMedia, LocalSrtp, MediaAllow};
use media::{Codec, MediaCommand, PlayMode, Prompt, Side};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Attempts to dial, over all gateways and their targets.
pub(crate) const MAX_ATTEMPTS: u8 = 8;
/// A target that has not even said 100 by then is left, if there is another. RFC 3261 §17.1.1.2 would wait for 32 s,
/// which no caller does; by now the INVITE has been sent three times over UDP.
pub(super) const UNHEARD: Duration = Duration::from_secs(2);

impl Call {
    /// The A-leg exists: what was dialled is looked up.
    pub(super) fn on_offered(&mut self, actions: &mut Vec<Action>, now: Instant) {
        let leg = NewLeg {
            uuid: self.a_uuid,
            side: Side::A,
            attempt: 0,
            party: self.query.as_ref().and_then(|query| query.caller.clone()),
            role: None,
            trunk: self.trunk.name.clone(),
        };
        let _ = self.cdr.open(leg, now);
        self.look_up(vec![], actions);
        if self.awaited.is_none() {
            // No number of ours looks like that.
            self.refuse_caller(404, HangupCause::InvalidDestination, actions, now);
        }
    }

    /// Asks the store what is dialled, and whether a PIN may be judged that counts in `buckets`; an answer that is
    /// still under way counts no more.
    pub(super) fn look_up(&mut self, buckets: Vec<Bucket>, actions: &mut Vec<Action>) {
        let Some(query) = self.query.clone() else { return };
        self.look_ups = self.look_ups.wrapping_add(1);
        let look_up = LookUp(self.look_ups);
        self.awaited = Some(look_up);
        actions.push(Action::FindSession(look_up, query, buckets));
    }

    /// The look-up's answer: the first one decides, one in the PIN stage confirms.
    pub(super) fn on_found(
        &mut self,
        look_up: LookUp,
        found: Result<Box<Found>, StoreFailed>,
        actions: &mut Vec<Action>,
        now: Instant,
    ) {
        if self.awaited.take_if(|awaited| *awaited == look_up).is_none() {
            return;
        }
        match (&self.state, found) {
            (State::CollectingPin(_), found) => self.on_pin_confirmed(found.ok(), actions, now),
            (State::Routing { .. }, Ok(found)) => self.on_session(*found, actions, now),
            (State::Routing { .. }, Err(StoreFailed)) => {
                self.refuse_caller(500, HangupCause::InternalError, actions, now);
            }
            // The caller gave up before: the CDR has waited for whose call it was.
            (State::Draining { .. }, found) if self.media == MediaState::None => {
                let _ = found.map(|found| self.decide(&found));
                self.send_cdr(actions, now);
            }
            _ => {}
        }
    }

    /// Whose call it is, and what becomes of it.
    fn decide(&mut self, found: &Found) -> Option<Decision> {
        let query = self.query.as_ref()?;
        let decision = decide(query, found.route.as_ref(), found.partner.as_ref(), found.at);
        self.cdr.belongs_to(found.route.as_ref().map(|route| route.number.account.clone()), None);
        match &decision {
            Decision::Dial(plan) => {
                self.belongs_to(&plan.session);
                self.cdr.connects_to(plan.callee.clone(), plan.callee_role);
            }
            Decision::Nobody(session) | Decision::Play { session: Some(session), .. } => {
                self.belongs_to(session)
            }
            Decision::Refuse(_)
            | Decision::AskPin(_)
            | Decision::Play { session: None, .. }
            | Decision::Forward(_) => {}
        }
        Some(decision)
    }

    /// Whatever needs media gets its ports first.
    fn on_session(&mut self, found: Found, actions: &mut Vec<Action>, now: Instant) {
        let Some(decision) = self.decide(&found) else { return };
        self.outlets = found.outlets;
        match &decision {
            Decision::Refuse(status) => {
                return self.refuse_caller(*status, HangupCause::Routing, actions, now);
            }
            Decision::Dial(plan) if plan.session.pin.is_some() => {
                let happening = Happening::Pin { status: PinStatus::AuthorizedCaller, retries: 0 };
                self.happened(happening, actions, now);
            }
            _ => {}
        }
        self.note_caller_leg(actions);
        let Some(a) = self.a.as_ref().map(|leg| leg.address().bind) else { return };
        let Some(b) = self.outlets.first().map(|outlet| outlet.address.bind) else {
            return self.refuse_caller(500, HangupCause::Routing, actions, now);
        };
        self.state = State::Opening { next: Box::new(decision), until: now + LOOK_UP };
        actions.push(Action::OpenMedia { a, b });
    }

    /// The A-leg's row: once it is known whose it is, and again when a PIN tells its session. A row that belongs
    /// to nobody would be seen by nobody after a crash.
    pub(super) fn note_caller_leg(&self, actions: &mut Vec<Action>) {
        actions.extend(self.cdr.opened(self.a_uuid).map(|leg| Action::LegOpened(Box::new(leg))));
    }

    pub(super) fn belongs_to(&mut self, session: &Arc<MaskingSession>) {
        self.cdr.belongs_to(Some(session.account.clone()), Some(session.uuid));
        self.cdr.reports_to(Subject::of(session));
        let caller = self.query.as_ref().and_then(|query| query.caller.as_ref());
        self.cdr.role(self.a_uuid, caller.and_then(|caller| session.role_of(caller)));
        self.session = Some(Arc::clone(session));
    }

    /// Ports are bound: the caller's offer is read, then the decision is carried out.
    pub(super) fn on_media_opened(
        &mut self,
        ports: Result<(u16, u16), NoPort>,
        actions: &mut Vec<Action>,
        now: Instant,
    ) {
        let Ok(ports) = ports else {
            if self.is_live() {
                self.refuse_with_retry(actions, now);
            }
            return;
        };
        self.media = MediaState::Open { bridged: false };
        self.ports = Some(ports);
        let State::Opening { next, .. } = &self.state else {
            // The caller gave up while the ports were being bound.
            self.close_media(actions);
            return;
        };
        let next = next.clone();
        let trunk = Arc::clone(&self.trunk);
        let Some(address) = self.a.as_ref().map(|leg| leg.address().media) else {
            return self.call_first(next, 1, actions, now);
        };
        let local = self.local_media(&trunk, trunk.codecs.clone(), address, ports.0);
        match self.a.as_mut().map_or(Ok(None), |leg| leg.accept_media(local)) {
            Ok(Some(stream)) => Self::configure(Side::A, stream, actions),
            Ok(None) => {}
            Err(status) => return self.refuse_caller(status, HangupCause::Rejected, actions, now),
        }
        self.carry_out(*next, actions, now);
    }

    /// What was decided, once the caller can be heard.
    pub(super) fn carry_out(&mut self, decision: Decision, actions: &mut Vec<Action>, now: Instant) {
        match decision {
            Decision::Dial(plan) => match self.message_to(Side::A, plan.caller_play_url(), actions, now) {
                Some(message) => {
                    self.announce(message, Then::Dial(Box::new(Target::Party(plan))), actions, now)
                }
                None => self.dial(Target::Party(plan), 1, actions, now),
            },
            Decision::AskPin(plan) => self.ask_pin(plan, actions, now),
            Decision::Play { url, .. } => {
                let message = self.prompt(&url, BuiltIn::UnknownCaller, "unknown_caller_play", actions, now);
                self.announce(message, Then::HangUp(HangupCause::Routing), actions, now);
            }
            Decision::Nobody(_) => {
                let message = self.prompts.built_in(BuiltIn::NotReached);
                self.announce(message, Then::HangUp(HangupCause::Routing), actions, now);
            }
            Decision::Forward(uri) => self.dial(Target::Fixed(uri), 1, actions, now),
            // Refused before any port was bound.
            Decision::Refuse(status) => self.refuse_caller(status, HangupCause::Routing, actions, now),
        }
    }

    /// The audio of a session's message to a party; `None` when it names none, or when it is not at hand.
    pub(super) fn message_to(
        &mut self,
        side: Side,
        url: &str,
        actions: &mut Vec<Action>,
        now: Instant,
    ) -> Option<Prompt> {
        if url.is_empty() {
            return None;
        }
        let message = self.prompts.find(self.cdr.account_id(), url);
        if message.is_none() {
            let parameter = match self.cdr.role_of(side) {
                Some(PartyRole::First) => "first_party_play_url",
                _ => "second_party_play_url",
            };
            self.happened(Happening::PromptUnavailable(parameter), actions, now);
        }
        message
    }

    /// What a session names by this parameter, or the built-in prompt when it is not at hand; the application is told
    /// of that.
    pub(super) fn prompt(
        &mut self,
        url: &str,
        fallback: BuiltIn,
        parameter: &'static str,
        actions: &mut Vec<Action>,
        now: Instant,
    ) -> Prompt {
        if let Some(prompt) = self.prompts.find(self.cdr.account_id(), url) {
            return prompt;
        }
        if !url.is_empty() {
            self.happened(Happening::PromptUnavailable(parameter), actions, now);
        }
        self.prompts.built_in(fallback)
    }

    /// Tells the application of the call's session, if there is one that wants to know.
    pub(super) fn happened(&mut self, happening: Happening, actions: &mut Vec<Action>, now: Instant) {
        let event = self.cdr.happened(happening, now);
        actions.extend(event.map(|event| Action::Happened(Box::new(event))));
    }

    /// The leg of this side was answered at `at`: told once it is known which party that is.
    pub(super) fn party_answered(&mut self, side: Side, actions: &mut Vec<Action>, at: Instant) {
        if let Some(role) = self.cdr.role_of(side) {
            self.happened(Happening::Answered(role), actions, at);
        }
    }

    pub(super) fn local_media(
        &mut self,
        trunk: &Trunk,
        codecs: Vec<Codec>,
        address: IpAddr,
        port: u16,
    ) -> LocalMedia {
        let srtp = (trunk.srtp != SrtpPolicy::Off).then(|| LocalSrtp {
            required: trunk.srtp == SrtpPolicy::Required,
            secret: self.ids.srtp_secret(),
        });
        let networks = trunk.media_allow.iter().map(|net| (net.addr(), net.prefix_len())).collect();
        LocalMedia {
            address,
            port,
            session_id: self.ids.sdp_session_id(),
            codecs,
            source: trunk.rtp_source,
            allow: MediaAllow { networks, private: trunk_is_private(trunk) },
            srtp,
        }
    }

    /// 200 to the caller before the B-leg is known, for a PIN or a message.
    pub(super) fn answer_caller(&mut self, actions: &mut Vec<Action>, now: Instant) {
        if self.a_answered.is_some() {
            return;
        }
        self.order_a(Order::Answer, actions, now);
        // RFC 3262 §5: it may have to wait for a PRACK; `Signal::Taken` tells when it has gone.
        if self.a.as_ref().is_some_and(|leg| !leg.is_answered()) {
            return;
        }
        self.a_answered = Some(now);
        let at = self.cdr.answered(self.a_uuid, now);
        actions.push(Action::LegAnswered(self.a_uuid, at));
        self.party_answered(Side::A, actions, now);
    }

    /// Answers the caller, plays one message, then goes on.
    pub(super) fn announce(&mut self, message: Prompt, then: Then, actions: &mut Vec<Action>, now: Instant) {
        self.answer_caller(actions, now);
        // The end of the message is reported; a little later it counts as over in any case.
        let until = now + message.duration() + LOOK_UP;
        actions.push(Action::Media(MediaCommand::Play {
            side: Side::A,
            prompt: message,
            mode: PlayMode::Once,
        }));
        self.state = State::Announcing { then, until };
    }

    /// The message to the caller is over.
    pub(super) fn after_message(&mut self, actions: &mut Vec<Action>, now: Instant) {
        let State::Announcing { then, .. } = &self.state else { return };
        match then.clone() {
            Then::Dial(target) => self.dial(*target, 1, actions, now),
            Then::HangUp(cause) => self.end(cause, HangupSource::System, actions, now),
        }
    }

    /// The next attempt of the B-leg; at once, or in its turn where the trunk takes only so many.
    pub(super) fn dial(&mut self, target: Target, attempt: u8, actions: &mut Vec<Action>, now: Instant) {
        let ring_timeout = self.session.as_ref().map_or(DEFAULT_RING_TIMEOUT, |session| session.ring_timeout);
        let until = match &self.state {
            State::Dialing { until, .. } | State::Pacing { until, .. } => *until,
            _ => now + ring_timeout,
        };
        let index = usize::from(attempt.saturating_sub(1));
        let trunk = self.outlets.get(index).map(|outlet| &outlet.trunk);
        let limited = |trunk: &&Arc<Trunk>| trunk.max_calls.is_some() || trunk.max_calls_per_second.is_some();
        if let Some(paced) = trunk.filter(limited) {
            actions.push(Action::Pace(Side::B, paced.name.clone()));
            self.state = State::Pacing { plan: target, attempt, until };
            return;
        }
        self.send_invite(target, attempt, until, actions, now);
    }

    /// The INVITE's turn has come, or the trunk is full: all targets are of this one trunk.
    pub(super) fn on_paced(&mut self, goes: bool, actions: &mut Vec<Action>, now: Instant) {
        let State::Pacing { plan, attempt, until } = &self.state else {
            return self.on_first_paced(goes, actions, now);
        };
        let (plan, attempt, until) = (plan.clone(), *attempt, *until);
        if goes {
            return self.send_invite(plan, attempt, until, actions, now);
        }
        if self.a_answered.is_none() {
            self.refuse_with_retry(actions, now);
        } else {
            self.callee_failed(503, HangupCause::Congestion, actions, now);
        }
    }

    /// Sends the B-leg's INVITE to the attempt's target; without one the call has failed. `until`: `ring_timeout` of
    /// all attempts together.
    fn send_invite(
        &mut self,
        target: Target,
        attempt: u8,
        until: Instant,
        actions: &mut Vec<Action>,
        now: Instant,
    ) {
        let index = usize::from(attempt.saturating_sub(1));
        let ready = self.outlets.get(index).cloned().zip(self.query.clone()).zip(self.ports);
        let Some(((outlet, query), ports)) = ready else {
            return self.callee_failed(500, HangupCause::Routing, actions, now);
        };
        let (callee, hop, party) = match &target {
            Target::Party(plan) => {
                let callee = Callee::Party { number: plan.callee.clone(), gateway: outlet.host.clone() };
                (callee, outlet.hop.clone(), Some(plan.callee.clone()))
            }
            Target::Fixed(uri) => match fixed_hop(uri) {
                Some(hop) => (Callee::Fixed(uri.clone()), hop, None),
                None => return self.callee_failed(500, HangupCause::Routing, actions, now),
            },
        };
        // What the caller speaks comes first, so that most calls need no conversion.
        let mut codecs = outlet.trunk.codecs.clone();
        let spoken = self.a.as_ref().and_then(Leg::stream).map(|stream| stream.codec);
        codecs.sort_by_key(|codec| Some(*codec) != spoken);
        let local = self.local_media(&outlet.trunk, codecs, outlet.address.media, ports.1);
        let role = match &target {
            Target::Party(plan) => Some(plan.callee_role),
            Target::Fixed(_) => None,
        };
        self.open_callee_leg(&outlet, attempt, party, role, actions, now);
        let dial = Dial {
            from: query.dialled,
            callee,
            trunk: Arc::clone(&outlet.trunk),
            hop,
            address: outlet.address,
            max_forwards: self.max_forwards,
            local,
        };
        let leg = self.invite(dial, actions, now);
        if self.a_answered.is_some() && attempt == 1 {
            let prompt = crate::call::tones::ringback();
            actions.push(Action::Media(MediaCommand::Play {
                side: Side::A,
                prompt,
                mode: PlayMode::UntilBridgedAudio,
            }));
        }
        if let Some(former) = self.b.replace(leg) {
            self.former.push(former);
        }
        let heard_by = matches!(target, Target::Party(_)).then(|| now + UNHEARD);
        self.state = State::Dialing { plan: target, attempt, ringing: false, heard_by, until };
    }

    /// A target has not even said 100: it is left for another one, if there is one. What it says later gets CANCEL, or
    /// ACK and BYE.
    pub(super) fn on_nothing_heard(&mut self, actions: &mut Vec<Action>, now: Instant) {
        let (side, leg, attempt) = match &mut self.state {
            State::Dialing { heard_by, attempt, .. } => {
                *heard_by = None;
                (Side::B, self.b.as_ref(), *attempt)
            }
            State::CallingFirst { heard_by, attempt, .. } => {
                *heard_by = None;
                (Side::A, self.a.as_ref(), *attempt)
            }
            _ => return,
        };
        if !leg.is_some_and(Leg::is_unheard) {
            return;
        }
        self.learn_outcome(attempt, Outcome::Silent, actions);
        let Some(next) = self.another(attempt) else { return };
        let cause = HangupCause::NetworkError;
        match side {
            Side::A => {
                self.cdr.ended(self.a_uuid, cause, HangupSource::System, None, now);
                self.leg_a(actions, now, |leg, _| leg.abandon());
                let State::CallingFirst { next: decision, .. } = &self.state else { return };
                let decision = decision.clone();
                self.call_first(decision, next, actions, now);
            }
            Side::B => {
                self.cdr.ended(self.b_uuid, cause, HangupSource::System, None, now);
                self.leg_b(actions, now, |leg, _| leg.abandon());
                let State::Dialing { plan, .. } = &self.state else { return };
                let plan = plan.clone();
                self.dial(plan, next, actions, now);
            }
        }
    }

    /// What a signal of a leg that we dialled says of the target that its INVITE went to.
    pub(super) fn learn(&mut self, side: Side, signal: &Signal, actions: &mut Vec<Action>) {
        let (leg, attempt) = match (&self.state, side) {
            (State::Dialing { plan: Target::Party(_), attempt, .. }, Side::B) => (self.b.as_ref(), *attempt),
            (State::CallingFirst { attempt, .. }, Side::A) => (self.a.as_ref(), *attempt),
            _ => return,
        };
        let outcome = match signal {
            Signal::Progress { .. } | Signal::Answered(_) => Outcome::Heard,
            Signal::Refused(_) => leg.and_then(Leg::failure).unwrap_or(Outcome::Heard),
            Signal::Taken | Signal::HungUp(_) | Signal::Reoffered(_) | Signal::Digit(_) => return,
        };
        if let State::Dialing { heard_by, .. } | State::CallingFirst { heard_by, .. } = &mut self.state {
            *heard_by = None;
        }
        self.learn_outcome(attempt, outcome, actions);
    }

    fn learn_outcome(&mut self, attempt: u8, outcome: Outcome, actions: &mut Vec<Action>) {
        let Some(outlet) = self.outlets.get_mut(usize::from(attempt.saturating_sub(1))) else { return };
        // Nothing is done for what everybody knows.
        if outcome != Outcome::Heard || std::mem::take(&mut outlet.is_news) {
            let (trunk, target) = (outlet.trunk.name.clone(), outlet.target);
            actions.push(Action::Learned(Box::new(Learned { trunk, target, outcome })));
        }
    }

    /// Sends the INVITE of a leg of ours.
    pub(super) fn invite(&mut self, dial: Dial, actions: &mut Vec<Action>, now: Instant) -> Leg {
        let mut sends = Vec::new();
        let mut out = Output { actions: &mut sends, signals: Vec::new(), ids: &mut self.ids, now };
        let leg = Leg::dial(dial, &mut out);
        // The dialog is known before its INVITE can be answered.
        actions.push(Action::Index(leg.dialog_key()));
        actions.append(&mut sends);
        leg
    }

    fn open_callee_leg(
        &mut self,
        outlet: &Outlet,
        attempt: u8,
        party: Option<crate::number::E164>,
        role: Option<crate::masking::session::PartyRole>,
        actions: &mut Vec<Action>,
        now: Instant,
    ) {
        if attempt > 1 {
            self.b_uuid = self.ids.uuid(self.clock.wall_at(now));
        }
        let trunk = outlet.trunk.name.clone();
        let leg = NewLeg { uuid: self.b_uuid, side: Side::B, attempt, party, role, trunk };
        actions.push(Action::LegOpened(Box::new(self.cdr.open(leg, now))));
    }

    /// The B-leg failed before its answer. A gateway that is broken or full is left for the next one, as long as
    /// nobody rang; a callee who did not want the call is not rung twice.
    pub(super) fn on_refused(&mut self, status: u16, actions: &mut Vec<Action>, now: Instant) {
        let cause = HangupCause::of_failure(status, self.b.as_ref().and_then(Leg::told_cause));
        self.cdr.ended(self.b_uuid, cause, HangupSource::Callee, Some(status), now);
        self.note_causes();
        let State::Dialing { plan, attempt, ringing, .. } = &self.state else { return };
        let next = self.next_gateway(status, *attempt, *ringing);
        if let (Some(next), Target::Party(_)) = (next, plan) {
            let plan = plan.clone();
            return self.dial(plan, next, actions, now);
        }
        self.callee_failed(status, cause, actions, now);
    }

    /// The attempt after one that failed with `status`, when another gateway may do better.
    pub(super) fn next_gateway(&self, status: u16, attempt: u8, ringing: bool) -> Option<u8> {
        let gateway_failed = matches!(status, 408 | 503 | 504) && !ringing;
        if gateway_failed { self.another(attempt) } else { None }
    }

    /// The next attempt, if there is a target for it.
    fn another(&self, attempt: u8) -> Option<u8> {
        let next = attempt.saturating_add(1);
        let another = usize::from(attempt) < self.outlets.len() && next <= MAX_ATTEMPTS;
        (another && self.former.len() < MAX_FORMER_LEGS).then_some(next)
    }

    /// `ring_timeout`: nobody answered.
    pub(super) fn on_ring_timeout(&mut self, actions: &mut Vec<Action>, now: Instant) {
        let cause = HangupCause::RingTimeout;
        self.cdr.ended(self.b_uuid, cause, HangupSource::System, None, now);
        self.order_b(Order::HangUp(cause), actions, now);
        self.callee_failed(480, cause, actions, now);
    }

    /// The callee cannot be had: a final answer to a caller who waits for one, a message to one who is answered.
    pub(super) fn callee_failed(
        &mut self,
        status: u16,
        cause: HangupCause,
        actions: &mut Vec<Action>,
        now: Instant,
    ) {
        if self.a_answered.is_none() {
            return self.refuse_caller(identity::status_for_caller(status), cause, actions, now);
        }
        actions.push(Action::Media(MediaCommand::StopPlay { side: Side::A }));
        let message = match cause {
            HangupCause::Busy | HangupCause::BusyEverywhere => crate::call::tones::busy(),
            _ => self.prompts.built_in(BuiltIn::NotReached),
        };
        self.announce(message, Then::HangUp(cause), actions, now);
    }

    /// A signal of the A-leg.
    pub(super) fn on_caller(&mut self, signal: Signal, actions: &mut Vec<Action>, now: Instant) {
        self.learn(Side::A, &signal, actions);
        match signal {
            Signal::HungUp(cause) if self.is_live() => {
                self.end(cause, cause.source(HangupSource::Caller), actions, now)
            }
            Signal::Progress { .. } => self.on_first_rings(now),
            Signal::Refused(status) => self.on_first_refused(status, actions, now),
            Signal::Answered(stream) if matches!(self.state, State::CallingFirst { .. }) => {
                self.on_first_answered(stream, actions, now);
            }
            Signal::Answered(stream) | Signal::Reoffered(stream) if self.is_live() => {
                Self::configure(Side::A, stream, actions);
            }
            Signal::Digit(digit) => self.on_digit(digit, actions, now),
            Signal::Taken if matches!(self.state, State::Greeting { .. }) => self.bridge(actions, now),
            Signal::Taken | Signal::HungUp(_) | Signal::Answered(_) | Signal::Reoffered(_) => {}
        }
    }
}

/// May this trunk's RTP come from private networks? When its own signalling does: that of those who call in by it, or
/// of a gateway that is an address.
fn trunk_is_private(trunk: &Trunk) -> bool {
    let private = |ip: IpAddr| match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_private() || ip.is_loopback() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    };
    let callers = trunk.allow.iter().filter(|net| net.prefix_len() > 0).map(|net| net.addr());
    callers.chain(trunk.gateways.iter().filter_map(Gateway::ip)).any(private)
}

/// Where `no_session = "sip:…"` goes.
fn fixed_hop(uri: &str) -> Option<Hop> {
    let uri = Uri::parse(uri)?;
    let host = uri.host();
    let protocol = match uri.transport().map(str::to_ascii_lowercase).as_deref() {
        // RFC 3261 §26.2.2: sips is TLS, whatever carries it.
        _ if uri.scheme() == Scheme::Sips => Protocol::Tls,
        Some("tcp") => Protocol::Tcp,
        Some("tls") => Protocol::Tls,
        _ => Protocol::Udp,
    };
    let port = uri.port().unwrap_or(if protocol == Protocol::Tls { 5061 } else { 5060 });
    Some(Hop {
        protocol,
        place: match host.parse::<IpAddr>() {
            Ok(ip) => Place::Address(SocketAddr::new(ip, port)),
            Err(_) => Place::Name(host.to_owned(), port),
        },
        connection: None,
        local: None,
        pinned: uri.transport().is_some() || protocol == Protocol::Tls,
        name: host.parse::<IpAddr>().is_err().then(|| host.into()),
        token: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_may_be_private_where_the_signalling_is() {
        let table = [
            (&["10.0.0.0/24"][..], &[][..], true),
            (&[], &["sip:10.0.0.5"], true),
            (&["203.0.113.0/24"], &["sip:sbc.example", "sip:[fd00::5]:5080"], true),
            (&["203.0.113.0/24"], &["sip:203.0.113.7", "sip:sbc.example"], false),
            (&["0.0.0.0/0"], &[], false),
            (&[], &["sip:127.0.0.1"], true),
            (&[], &[], false),
        ];
        for (allow, gateways, expected) in table {
            let trunk = Trunk {
                allow: allow.iter().map(|net| net.parse().unwrap()).collect(),
                gateways: gateways.iter().map(|uri| Gateway::parse(uri).unwrap()).collect(),
                ..Trunk::named("carrier")
            };
            assert_eq!(trunk_is_private(&trunk), expected, "{allow:?} {gateways:?}");
        }
    }
}

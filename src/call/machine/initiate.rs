//! A call that we place ourselves (`initiate_call_to_first_party`): the first party is rung by us, and what follows his
//! answer is what follows a call that he has made. Both legs are ours, so neither waits for a final answer of ours.
//!
//! Max-Forwards begins anew on each leg: the two are requests of our own (RFC 3261 §8.1.1.6). A loop ends
//! nevertheless, because an INVITE that comes back to us is an ordinary call, whose hops are counted (RFC 7332),
//! and because only the API begins such a call, never a message.

use super::set_up::UNHEARD;
use super::{Call, CallParameters, LOOK_UP, State};
use crate::call::cdr::{HangupCause, HangupSource, NewLeg};
use crate::call::identity::Callee;
use crate::call::leg::{Dial, Leg};
use crate::call::{Action, Outlet};
use crate::masking::route::{self, Decision, Query};
use crate::masking::session::{MaskingSession, PartyRole};
use media::{Side, Stream};
use std::sync::Arc;
use std::time::Instant;

impl Call {
    /// A call of ours to both parties of `session`, the first one first, through `outlets` in order of failover.
    /// Its CDR exists from now on, its first row in the store from the INVITE on.
    #[must_use]
    pub fn initiated(
        session: &Arc<MaskingSession>,
        outlets: Vec<Outlet>,
        parameters: CallParameters,
        now: Instant,
    ) -> (Self, Vec<Action>) {
        let query = Query {
            dialled: session.virtual_number.clone(),
            caller: session.party(PartyRole::First).cloned(),
        };
        let mut call = Self::new(Some(query), parameters, now);
        let mut actions = Vec::new();
        call.open_first_leg(1, now);
        call.belongs_to(session);
        if let Some(second) = session.party(PartyRole::Second) {
            call.cdr.connects_to(second.clone(), PartyRole::Second);
        }
        let bind = outlets.first().map(|outlet| outlet.address.bind);
        call.outlets = outlets;
        match (route::initiated(session), bind) {
            (next @ (Decision::Dial(_) | Decision::AskPin(_)), Some(bind)) => {
                call.state = State::Opening { next: Box::new(next), until: now + LOOK_UP };
                actions.push(Action::OpenMedia { a: bind, b: bind });
            }
            _ => call.end(HangupCause::Routing, HangupSource::System, &mut actions, now),
        }
        (call, actions)
    }

    fn open_first_leg(&mut self, attempt: u8, now: Instant) {
        let leg = NewLeg {
            uuid: self.a_uuid,
            side: Side::A,
            attempt,
            party: self.query.as_ref().and_then(|query| query.caller.clone()),
            role: Some(PartyRole::First),
            trunk: self.trunk.name.clone(),
        };
        let _ = self.cdr.open(leg, now);
    }

    /// The next attempt to call the first party; at once, or in its turn where the trunk takes only so many per second.
    pub(super) fn call_first(
        &mut self,
        next: Box<Decision>,
        attempt: u8,
        actions: &mut Vec<Action>,
        now: Instant,
    ) {
        let ring_timeout = self.session.as_ref().map(|session| session.ring_timeout);
        let until = match &self.state {
            State::CallingFirst { until, .. } | State::PacingFirst { until, .. } => *until,
            _ => now + ring_timeout.unwrap_or(super::DEFAULT_RING_TIMEOUT),
        };
        let trunk = self.outlets.get(usize::from(attempt.saturating_sub(1))).map(|outlet| &outlet.trunk);
        if let Some(paced) = trunk.filter(|trunk| trunk.max_calls_per_second.is_some()) {
            actions.push(Action::Pace(Side::A, paced.name.clone()));
            self.state = State::PacingFirst { next, attempt, until };
            return;
        }
        self.invite_first(next, attempt, until, actions, now);
    }

    /// Its turn has come, or too many wait already.
    pub(super) fn on_first_paced(&mut self, goes: bool, actions: &mut Vec<Action>, now: Instant) {
        let State::PacingFirst { next, attempt, until } = &self.state else { return };
        if !goes {
            return self.end(HangupCause::Congestion, HangupSource::System, actions, now);
        }
        let (next, attempt, until) = (next.clone(), *attempt, *until);
        self.invite_first(next, attempt, until, actions, now);
    }

    /// Sends the first party's INVITE through the attempt's gateway. It carries our offer: there is no other side yet
    /// whose codecs would matter, and many carriers take no INVITE without one. `until`: `ring_timeout` of all attempts
    /// together.
    fn invite_first(
        &mut self,
        next: Box<Decision>,
        attempt: u8,
        until: Instant,
        actions: &mut Vec<Action>,
        now: Instant,
    ) {
        let outlet = self.outlets.get(usize::from(attempt.saturating_sub(1))).cloned();
        let callee = self.query.clone().and_then(|query| Some((query.dialled, query.caller?)));
        let Some(((outlet, (from, number)), ports)) = outlet.zip(callee).zip(self.ports) else {
            return self.end(HangupCause::Routing, HangupSource::System, actions, now);
        };
        if attempt > 1 {
            self.a_uuid = self.ids.uuid(self.clock.wall_at(now));
            self.open_first_leg(attempt, now);
        }
        self.note_caller_leg(actions);
        let trunk = outlet.trunk;
        // The B-leg shows the outlet's own; nothing on one leg may be found again on the other.
        let mut address = outlet.address;
        address.contact_user = self.ids.contact_user();
        let local = self.local_media(&trunk, trunk.codecs.clone(), address.media, ports.0);
        let dial = Dial {
            from,
            callee: Callee::Party { number, gateway: outlet.host },
            trunk,
            hop: outlet.hop,
            address,
            max_forwards: self.max_forwards,
            local,
        };
        let leg = self.invite(dial, actions, now);
        if let Some(former) = self.a.replace(leg) {
            self.former.push(former);
        }
        let heard_by = Some(now + UNHEARD);
        self.state = State::CallingFirst { next, attempt, ringing: false, heard_by, until };
    }

    /// 18x of the first party; its early media is for nobody.
    pub(super) fn on_first_rings(&mut self, now: Instant) {
        let State::CallingFirst { ringing, .. } = &mut self.state else { return };
        *ringing = true;
        self.cdr.ringing(self.a_uuid, now);
    }

    /// The first party's 200, acknowledged: from now on he is a caller.
    pub(super) fn on_first_answered(&mut self, stream: Stream, actions: &mut Vec<Action>, now: Instant) {
        let State::CallingFirst { next, .. } = &self.state else { return };
        let next = (**next).clone();
        Self::configure(Side::A, stream, actions);
        self.a_answered = Some(now);
        let at = self.cdr.answered(self.a_uuid, now);
        actions.push(Action::LegAnswered(self.a_uuid, at));
        self.party_answered(Side::A, actions, now);
        self.carry_out(next, actions, now);
    }

    /// The first party cannot be had: the second one is never rung.
    pub(super) fn on_first_refused(&mut self, status: u16, actions: &mut Vec<Action>, now: Instant) {
        let State::CallingFirst { next, attempt, ringing, .. } = &self.state else { return };
        let cause = HangupCause::of_failure(status, self.a.as_ref().and_then(Leg::told_cause));
        self.cdr.ended(self.a_uuid, cause, HangupSource::Caller, Some(status), now);
        let another = self.next_gateway(status, *attempt, *ringing).map(|attempt| (next.clone(), attempt));
        self.note_causes();
        match another {
            Some((next, attempt)) => self.call_first(next, attempt, actions, now),
            None => self.end(cause, HangupSource::Caller, actions, now),
        }
    }
}

//! What a leg asks of its peer during the call: the refreshes of a session timer (RFC 4028), by UPDATE where the peer
//! takes it (RFC 3311), else by a re-INVITE that changes nothing.
//!
//! A refusal leaves the call as it is (RFC 6141 §3.1); only 408, 481 and a refresh that nobody answers end it
//! (RFC 3261 §12.2.1.2), and so does the session's own clock. Nothing here is passed on from the other leg.

use super::{Leg, Output, SetUp, State};
use crate::call::Hop;
use crate::call::cdr::HangupCause;
use crate::call::identity;
use crate::call::signal::Signal;
use crate::sip::body;
use crate::sip::encode::{HeaderOut, RequestOut};
use crate::sip::message::{Head, Method, Response};
use crate::sip::session_timer::{self, Agreed, Due, Refresher, SessionTimer, TooSmall, Wish};
use crate::sip::transaction::timer::{T1, T2};
use crate::sip::transaction::{InviteClient, invite_client};
use crate::sip::transport::{Flow, Protocol};
use bytes::Bytes;
use std::time::{Duration, Instant};

/// Re-INVITEs of ours at one time: one that is open, and those whose transactions linger.
const MAX_REINVITES: usize = 16;
/// A refresh that was refused for a while is tried again after so long, when the peer does not say when.
const RETRY: Duration = Duration::from_secs(10);

/// A session that has a timer.
#[derive(Debug)]
pub(super) struct Session {
    timer: SessionTimer,
    /// What the peer demanded by 422.
    min_se: Option<u32>,
}

/// A re-INVITE of ours.
#[derive(Debug)]
pub(super) struct Reinvite {
    request: RequestOut,
    hop: Hop,
    machine: InviteClient,
    /// The ACK of its 2xx, to be repeated when that is (RFC 3261 §13.2.2.4).
    ack: Option<(Bytes, Hop)>,
    /// Nobody is asked about a refresh, so that ringing is no answer.
    give_up: Instant,
    /// Challenges that were answered before it.
    answered: u8,
}

impl Reinvite {
    pub(super) fn branch(&self) -> &str {
        &self.request.via.branch
    }

    /// It has no final answer yet.
    pub(super) fn is_open(&self) -> bool {
        self.machine.is_calling() || self.machine.is_proceeding()
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.machine.deadline().into_iter().chain(self.is_open().then_some(self.give_up)).min()
    }

    fn is_over(&self, now: Instant) -> bool {
        self.machine.is_terminated() || (self.is_open() && self.give_up <= now)
    }

    /// Sends what the machine says. Returns whether the response is to be looked at, and whether none came.
    fn perform(&self, actions: Vec<invite_client::Action>, out: &mut Output<'_>) -> (bool, bool) {
        let (mut deliver, mut timed_out) = (false, false);
        for action in actions {
            match action {
                invite_client::Action::Send(wire) => out.send(wire, &self.hop),
                invite_client::Action::Deliver(_) => deliver = true,
                invite_client::Action::TimedOut => timed_out = true,
                invite_client::Action::Terminated => {}
            }
        }
        (deliver, timed_out)
    }
}

impl Leg {
    /// What we answer to a request that is or refreshes a session.
    pub(super) fn answer_timer(&self, head: &Head) -> Result<Option<Agreed>, TooSmall> {
        let running = self.session.as_ref().map(|session| session.timer.seconds());
        let own = running.or(self.interval);
        if own.is_none() && head.header("Session-Expires").is_none() {
            return Ok(None);
        }
        let refresher = self.session.as_ref().map(|session| match session.timer.we_refresh() {
            true => Refresher::Uas,
            false => Refresher::Uac,
        });
        Wish::of(head).answer(own, refresher)
    }

    /// A 2xx of ours has said so: the session begins, or is refreshed.
    pub(super) fn run_timer(&mut self, agreed: Option<Agreed>, now: Instant) {
        let min_se = self.session.take().and_then(|session| session.min_se);
        self.session = agreed.map(|agreed| {
            let timer = SessionTimer::start(agreed.seconds, agreed.refresher == Refresher::Uas, now);
            Box::new(Session { timer, min_se })
        });
    }

    /// A 2xx to a request of ours begins or refreshes the session, or says that it has no timer any more.
    pub(super) fn on_granted(&mut self, head: &Head, now: Instant) {
        let min_se = self.session.take().and_then(|session| session.min_se);
        let Some((seconds, we_refresh)) = session_timer::granted(head) else { return };
        self.learn_update(head);
        let timer = SessionTimer::start(seconds, we_refresh, now);
        self.session = Some(Box::new(Session { timer, min_se }));
    }

    /// RFC 3311 §4: Allow says whether the peer takes UPDATE.
    pub(super) fn learn_update(&mut self, head: &Head) {
        let allowed = head.tokens("Allow");
        if !allowed.is_empty() {
            self.takes_update = allowed.iter().any(|method| method == Method::UPDATE.as_str());
        }
    }

    /// 422 to our INVITE (RFC 4028 §7.4): it is sent once more with the interval that the peer demands. False when
    /// that cannot help.
    pub(super) fn ask_for_longer(&mut self, head: &Head, out: &mut Output<'_>) -> bool {
        let SetUp::Outgoing(outgoing) = &self.set_up else { return false };
        let Some(min_se) = session_timer::min_se(head).filter(|_| self.state == State::SettingUp) else {
            return false;
        };
        let Some((mut invite, hop)) = outgoing.with_interval(min_se) else { return false };
        // What was proved is proved again, with the next count (RFC 7616 §3.4).
        self.authorize(&mut invite, &hop, out);
        self.send_invite_again(invite, hop, out)
    }

    /// True while an offer of ours in a re-INVITE has no answer.
    pub(super) fn is_asking(&self) -> bool {
        self.reinvites.iter().any(Reinvite::is_open)
    }

    pub(super) fn session_deadline(&self) -> Option<Instant> {
        let session = self.session.as_ref().filter(|_| self.state == State::Answered);
        session.map(|session| session.timer.deadline())
    }

    pub(super) fn on_session_timeout(&mut self, out: &mut Output<'_>) {
        if self.state != State::Answered {
            return;
        }
        match self.session.as_mut().map_or(Due::Nothing, |session| session.timer.handle(out.now)) {
            Due::Nothing => {}
            Due::Refresh => self.refresh(out),
            // RFC 4028 §10.
            Due::Expired => self.break_off(HangupCause::SessionExpired, out),
        }
    }

    /// Sends a refresh, unless something is under way: then a little later.
    fn refresh(&mut self, out: &mut Output<'_>) {
        let busy = self.ok.is_some() || self.is_asking() || self.reinvites.len() >= MAX_REINVITES;
        let (Some(session), Some(mut dialog)) = (&mut self.session, self.dialog.take()) else { return };
        let hop = Self::hop_to(&self.route, dialog.next_hop().as_ref());
        let Some(hop) = hop.filter(|_| !busy) else {
            session.timer.try_again(out.now + T2);
            self.dialog = Some(dialog);
            return;
        };
        let seconds = session.timer.seconds();
        let timer = [
            Some(HeaderOut::SessionExpires { seconds, refresher: Some(Refresher::Uac.as_str()) }),
            session.min_se.map(HeaderOut::MinSe),
        ];
        let via = self.address.via(hop.protocol, out.ids.branch());
        let contact = Some(self.address.contact());
        if self.takes_update {
            let mut update = dialog.request(Method::UPDATE, via, contact);
            update.headers.extend(identity::capabilities(timer));
            self.dialog = Some(dialog);
            return self.start_client(update, hop, out);
        }
        let mut invite = dialog.request(Method::INVITE, via, contact);
        self.dialog = Some(dialog);
        invite.headers.extend(identity::capabilities(timer));
        // RFC 4028 §7.4: the same description again, which asks for nothing.
        let offer = self.negotiation.as_mut().map(|negotiation| negotiation.repeat_offer());
        invite.body = offer.map(crate::sip::encode::BodyOut::Sdp);
        self.authorize(&mut invite, &hop, out);
        self.start_reinvite(invite, hop, 0, out);
    }

    fn start_reinvite(&mut self, mut request: RequestOut, hop: Hop, answered: u8, out: &mut Output<'_>) {
        let hop = Self::choose_transport(self.dialog_key(), &mut request, hop);
        let reliable = hop.protocol != Protocol::Udp;
        let (machine, actions) = InviteClient::start(request.encode(), reliable, out.now);
        let reinvite = Reinvite { request, hop, machine, ack: None, give_up: out.now + 64 * T1, answered };
        reinvite.perform(actions, out);
        self.reinvites.push(reinvite);
    }

    /// The gateway asks who we are (RFC 3261 §22.2). False when it cannot be told.
    fn reinvite_again(
        &mut self,
        index: usize,
        response: &Response,
        flow: &Flow,
        out: &mut Output<'_>,
    ) -> bool {
        let Some(reinvite) = self.reinvites.get(index).filter(|_| self.is_outgoing()) else { return false };
        let (mut request, hop, answered) =
            (reinvite.request.clone(), reinvite.hop.clone(), reinvite.answered);
        let room = self.state == State::Answered && self.reinvites.len() < MAX_REINVITES;
        if !room || self.answer_challenge(&mut request, &hop, answered, (response, flow), out).is_err() {
            return false;
        }
        let Some(dialog) = &mut self.dialog else { return false };
        request.cseq = dialog.cseq_after(&request);
        request.via.branch = out.ids.branch();
        self.start_reinvite(request, hop, answered.saturating_add(1), out);
        true
    }

    /// The final answer to an UPDATE of ours; without one, 408 (RFC 3261 §8.1.3.1).
    pub(super) fn on_update_answered(&mut self, status: u16, head: Option<&Head>, out: &mut Output<'_>) {
        if self.state != State::Answered {
            return;
        }
        match (status, head) {
            (200..=299, Some(head)) => {
                if let Some(dialog) = &mut self.dialog {
                    dialog.refresh_target(head.contact.as_ref());
                }
                self.on_granted(head, out.now);
            }
            (405 | 501, _) => {
                self.takes_update = false;
                self.refresh(out);
            }
            _ => self.on_refresh_refused(status, head, out),
        }
    }

    /// A response to a re-INVITE of ours.
    pub(super) fn on_reinvite_response(
        &mut self,
        response: &Response,
        index: usize,
        flow: &Flow,
        out: &mut Output<'_>,
    ) {
        let Some(reinvite) = self.reinvites.get_mut(index) else { return };
        let status = response.status;
        let tag = response.head.to.tag().map(|tag| &**tag);
        let ack = (status >= 300).then(|| identity::ack_of_failure(&reinvite.request, tag).encode());
        let actions = reinvite.machine.handle(invite_client::Event::Response { status, ack }, out.now);
        let (deliver, _) = reinvite.perform(actions, out);
        match status {
            200..=299 if deliver => self.on_reinvite_success(response, index, out),
            401 | 407 if deliver && self.reinvite_again(index, response, flow, out) => {}
            300..=699 if deliver => self.on_refresh_refused(status, Some(&response.head), out),
            _ => {}
        }
        self.reinvites.retain(|reinvite| !reinvite.is_over(out.now));
    }

    /// Acknowledged in any case: RFC 5407 §3.2.3 has a 2xx that crosses BYE acknowledged as well.
    fn on_reinvite_success(&mut self, response: &Response, index: usize, out: &mut Output<'_>) {
        let Some(reinvite) = self.reinvites.get(index) else { return };
        if let Some((ack, hop)) = reinvite.ack.clone() {
            return out.send(ack, &hop);
        }
        let Some(dialog) = &mut self.dialog else { return };
        dialog.refresh_target(response.head.contact.as_ref());
        let next = dialog.next_hop();
        let hop = Self::hop_to(&self.route, next.as_ref()).unwrap_or_else(|| reinvite.hop.clone());
        let via = self.address.via(hop.protocol, out.ids.branch());
        let mut ack = dialog.ack(reinvite.request.cseq, via);
        // RFC 3261 §22.1: with its INVITE's credentials; but where those did not go, nothing goes.
        if hop.place == reinvite.hop.place {
            ack.headers.extend(reinvite.request.credentials().cloned());
        }
        let ack = ack.encode();
        out.send(ack.clone(), &hop);
        if let Some(reinvite) = self.reinvites.get_mut(index) {
            reinvite.ack = Some((ack, hop));
        }
        if self.state != State::Answered {
            return;
        }
        self.on_granted(&response.head, out.now);
        let before = self.stream().cloned();
        let answer = body::sdp(&response.head, &response.body).ok().flatten();
        // What cannot be read leaves things as they were (RFC 6141 §3.1).
        let stream = match (&mut self.negotiation, answer) {
            (Some(negotiation), Some(answer)) => negotiation.on_answer(&answer).ok(),
            _ => None,
        };
        if let Some(stream) = stream.filter(|stream| before.as_ref() != Some(stream)) {
            out.signal(Signal::Reoffered(stream));
        }
    }

    fn on_refresh_refused(&mut self, status: u16, head: Option<&Head>, out: &mut Output<'_>) {
        if self.state != State::Answered {
            return;
        }
        let owner = self.is_outgoing();
        let Some(session) = &mut self.session else { return };
        match status {
            // RFC 3261 §12.2.1.2: the peer, or its call, is gone.
            408 | 481 => self.break_off(HangupCause::NetworkError, out),
            // RFC 4028 §7.4: once.
            422 => {
                let demanded = head.and_then(session_timer::min_se);
                let raised = session.min_se.is_none().then_some(demanded).flatten();
                if let Some(min_se) = raised.filter(|min_se| *min_se > session.timer.seconds()) {
                    session.timer.ask_for(min_se);
                    session.min_se = Some(min_se);
                    self.refresh(out);
                }
            }
            491 => session.timer.try_again(out.now + glare(owner, out.ids.cseq())),
            500 | 503 => {
                let said = head.and_then(|head| head.header("Retry-After"));
                let digits =
                    said.as_deref().map(|text| text.split([' ', ';', '(']).next().unwrap_or_default());
                let seconds = digits.and_then(|digits| digits.parse::<u8>().ok()).map(u64::from);
                let wait = seconds.map_or(RETRY, |seconds| Duration::from_secs(seconds.clamp(1, 60)));
                session.timer.try_again(out.now + wait);
            }
            // The session goes on until it expires.
            _ => {}
        }
    }

    /// Ends the call because its peer is gone.
    fn break_off(&mut self, cause: HangupCause, out: &mut Output<'_>) {
        self.state = State::Ended;
        self.ok = None;
        self.bye_after_ack = false;
        self.session = None;
        self.send_bye(Some(cause), out);
        out.signal(Signal::HungUp(cause));
    }

    pub(super) fn on_reinvite_timeout(&mut self, out: &mut Output<'_>) {
        let mut unanswered = false;
        for reinvite in &mut self.reinvites {
            if reinvite.machine.deadline().is_some_and(|at| at <= out.now) {
                let actions = reinvite.machine.handle(invite_client::Event::Timeout, out.now);
                unanswered |= reinvite.perform(actions, out).1;
            }
            unanswered |= reinvite.is_open() && reinvite.give_up <= out.now;
        }
        self.reinvites.retain(|reinvite| !reinvite.is_over(out.now));
        if unanswered {
            self.on_refresh_refused(408, None, out);
        }
    }

    /// It was too large for UDP, and TCP failed; or it cannot be sent at all (RFC 3261 §8.1.3.1: like a 503).
    pub(super) fn on_reinvite_not_sent(&mut self, index: usize, out: &mut Output<'_>) {
        let Some(reinvite) = self.reinvites.get_mut(index) else { return };
        if self.state == State::Answered
            && reinvite.machine.is_calling()
            && let Some(hop) = Self::fall_back_to_udp(&mut reinvite.request, &reinvite.hop, out.ids)
        {
            reinvite.hop = hop;
            let (machine, actions) = InviteClient::start(reinvite.request.encode(), false, out.now);
            reinvite.machine = machine;
            reinvite.perform(actions, out);
            return;
        }
        let was_open = reinvite.is_open();
        let actions = reinvite.machine.handle(invite_client::Event::TransportFailed, out.now);
        reinvite.perform(actions, out);
        self.reinvites.retain(|reinvite| !reinvite.is_over(out.now));
        if was_open {
            self.on_refresh_refused(503, None, out);
        }
    }
}

/// RFC 3261 §14.1: whoever owns the Call-ID waits 2.1 to 4 s, the other one up to 2 s, in steps of 10 ms.
fn glare(owner: bool, random: u32) -> Duration {
    let steps = if owner { 210 + random % 191 } else { 1 + random % 200 };
    Duration::from_millis(u64::from(steps) * 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc3261_14_1_glare_timers() {
        for random in 0..2000 {
            let (owner, other) = (glare(true, random), glare(false, random));
            assert!((Duration::from_millis(2100)..=Duration::from_secs(4)).contains(&owner), "{owner:?}");
            assert!((Duration::from_millis(10)..=Duration::from_secs(2)).contains(&other), "{other:?}");
        }
    }
}

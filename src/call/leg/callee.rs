//! Set-up of a leg where we are UAC: our INVITE, its forks, its CANCEL and every late answer.

use super::reliable::Early;
use super::{Leg, Output, Route, SetUp, State};
use crate::call::Hop;
use crate::call::cdr::HangupCause;
use crate::call::identity::{self, Callee, InviteIds, LegAddress};
use crate::call::signal::Signal;
use crate::number::Did;
use crate::sip::body;
use crate::sip::dialog::Dialog;
use crate::sip::digest;
use crate::sip::encode::{HeaderOut, RequestOut};
use crate::sip::key::DialogKey;
use crate::sip::message::{Method, Response};
use crate::sip::reason;
use crate::sip::transaction::timer::T1;
use crate::sip::transaction::{InviteClient, invite_client};
use crate::sip::transport::{Flow, Protocol, SendFault};
use crate::sip::wire::ByteStr;
use crate::trunk::Trunk;
use crate::trunk::health::Outcome;
use bytes::Bytes;
use media::Stream;
use media::sdp::LocalMedia;
use std::sync::Arc;
use std::time::Instant;

/// Forks of one INVITE that are told apart. Early media of one more is not remembered, its 2xx is acknowledged and
/// ended without a transaction.
const MAX_FORKS: usize = 8;

/// Everything that a B-leg's INVITE is made of.
#[derive(Debug, Clone)]
pub struct Dial {
    /// The virtual number that the callee sees.
    pub from: Did,
    /// Who is called.
    pub callee: Callee,
    /// The trunk: how it wants numbers.
    pub trunk: Arc<Trunk>,
    /// The gateway.
    pub hop: Hop,
    /// What the leg shows of us.
    pub address: LegAddress,
    /// The A-leg's less one, so that a loop through us ends (RFC 7332).
    pub max_forwards: u8,
    /// Our media.
    pub local: LocalMedia,
}

#[derive(Debug)]
pub(super) struct Outgoing {
    trunk: Arc<Trunk>,
    invite: RequestOut,
    hop: Hop,
    machine: InviteClient,
    /// Earlier INVITEs of the leg, that the gateway challenged or found too short: repeated refusals still get their ACK.
    challenged: Vec<ChallengedInvite>,
    /// Challenges of the INVITE that were answered.
    answered: u8,
    forks: Vec<Fork>,
    cancel: Cancel,
    /// After CANCEL: when a final answer is no longer waited for (RFC 3261 §9.1).
    give_up: Option<Instant>,
    over: bool,
    /// Why it was refused, once it was: by whom, and what that says of the gateway.
    failure: Option<Outcome>,
    /// The ACK of each 2xx, by its To tag, to be repeated when the 2xx is (RFC 3261 §13.2.2.4).
    acks: Vec<(String, Bytes, Hop)>,
}

#[derive(Debug)]
struct ChallengedInvite {
    branch: String,
    machine: InviteClient,
    hop: Hop,
}

#[derive(Debug)]
pub(super) struct Fork {
    tag: String,
    pub(super) stream: Option<Stream>,
    /// Of its last request.
    pub(super) remote_cseq: Option<u32>,
    /// Once one of its provisional responses is acknowledged.
    pub(super) early: Option<Box<Early>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cancel {
    No,
    /// No provisional response has come yet; CANCEL must wait for one (RFC 3261 §9.1).
    Wanted(HangupCause),
    Sent,
}

impl Fork {
    /// Our offer has its answer, and it is acknowledged.
    fn is_settled(&self) -> bool {
        self.early.as_ref().is_some_and(|early| early.settled)
    }
}

impl Outgoing {
    pub(super) fn branch(&self) -> &str {
        &self.invite.via.branch
    }

    pub(super) fn invite_cseq(&self) -> u32 {
        self.invite.cseq
    }

    /// The fork with this tag; a new one, if there is room.
    pub(super) fn fork(&mut self, tag: &str) -> Option<(&RequestOut, &mut Fork)> {
        if !self.forks.iter().any(|fork| fork.tag == tag) && self.forks.len() < MAX_FORKS {
            let tag = tag.to_owned();
            self.forks.push(Fork { tag, stream: None, remote_cseq: None, early: None });
        }
        let fork = self.forks.iter_mut().find(|fork| fork.tag == tag)?;
        Some((&self.invite, fork))
    }

    pub(super) fn known_fork(&mut self, tag: &str) -> Option<&mut Fork> {
        self.forks.iter_mut().find(|fork| fork.tag == tag)
    }

    /// The INVITE with a longer session interval, once (RFC 4028 §7.4). `None` when that is not what the peer wants, or
    /// when the call is given up already.
    pub(super) fn with_interval(&self, min_se: u32) -> Option<(RequestOut, Hop)> {
        let mut invite = self.invite.clone();
        let headers = &mut invite.headers;
        let raised = headers.iter().any(|header| matches!(header, HeaderOut::MinSe(_)));
        let asked = headers.iter_mut().find_map(|header| match header {
            HeaderOut::SessionExpires { seconds, .. } if *seconds < min_se => Some(seconds),
            _ => None,
        });
        *asked.filter(|_| !raised && self.cancel == Cancel::No)? = min_se;
        headers.push(HeaderOut::MinSe(min_se));
        Some((invite, self.hop.clone()))
    }

    /// The trunk that it leaves by.
    pub(super) fn trunk(&self) -> &Trunk {
        &self.trunk
    }

    /// Whether somebody beyond the gateway has been reached.
    pub(super) fn rings(&self) -> bool {
        !self.forks.is_empty()
    }

    pub(super) fn is_done(&self) -> bool {
        self.over || (self.machine.is_terminated() && self.challenged.is_empty())
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        if self.over {
            return None;
        }
        let challenged = self.challenged.iter().filter_map(|invite| invite.machine.deadline());
        self.machine.deadline().into_iter().chain(self.give_up).chain(challenged).min()
    }
}

impl Leg {
    /// A new leg: sends the INVITE.
    pub(crate) fn dial(dial: Dial, out: &mut Output<'_>) -> Self {
        let mut negotiation = super::negotiation(dial.local);
        let sdp = negotiation.offer();
        let ids = InviteIds {
            call_id: out.ids.call_id(),
            tag: out.ids.tag(),
            cseq: out.ids.cseq(),
            branch: out.ids.branch(),
        };
        let key = DialogKey {
            call_id: ByteStr::from(ids.call_id.as_str()),
            local_tag: ByteStr::from(ids.tag.as_str()),
        };
        let mut invite = identity::invite(
            &dial.from,
            &dial.callee,
            &dial.trunk,
            &dial.address,
            ids,
            dial.max_forwards,
            sdp,
        );
        let hop = Self::choose_transport(key.clone(), &mut invite, dial.hop);
        let route = Route {
            protocol: dial.address.protocol,
            peer: hop.address(),
            connection: None,
            local: None,
            name: hop.name.clone(),
        };
        let (machine, actions) = InviteClient::start(invite.encode(), hop.protocol != Protocol::Udp, out.now);
        // A fixed place of the configuration is no gateway, and is not told the trunk's secrets.
        let to_gateway = matches!(dial.callee, Callee::Party { .. });
        let credentials = dial.trunk.credentials.as_ref().filter(|_| to_gateway);
        let credentials = credentials.map(|known| Box::new(digest::Client::new(Arc::clone(known))));
        let interval = dial.trunk.session_timer;
        let outgoing = Outgoing {
            trunk: dial.trunk,
            invite,
            hop,
            machine,
            challenged: Vec::new(),
            answered: 0,
            forks: Vec::new(),
            cancel: Cancel::No,
            give_up: None,
            over: false,
            failure: None,
            acks: Vec::new(),
        };
        let mut leg = Self {
            call_id: key.call_id,
            local_tag: key.local_tag,
            address: dial.address,
            route,
            credentials,
            set_up: SetUp::Outgoing(Box::new(outgoing)),
            dialog: None,
            negotiation: Some(negotiation),
            invites: Vec::new(),
            servers: Vec::new(),
            clients: Vec::new(),
            ok: None,
            bye_after_ack: false,
            interval,
            takes_update: false,
            session: None,
            reinvites: Vec::new(),
            told: None,
            said: None,
            state: State::SettingUp,
        };
        leg.perform_invite(actions, out);
        leg
    }

    /// Sends what the INVITE's machine says. Returns whether the response is to be looked at, and whether
    /// the machine gave up waiting for one.
    fn perform_invite(&mut self, actions: Vec<invite_client::Action>, out: &mut Output<'_>) -> (bool, bool) {
        let SetUp::Outgoing(outgoing) = &self.set_up else { return (false, false) };
        let (mut deliver, mut timed_out) = (false, false);
        for action in actions {
            match action {
                invite_client::Action::Send(wire) => out.send(wire, &outgoing.hop),
                invite_client::Action::Deliver(_) => deliver = true,
                invite_client::Action::TimedOut => timed_out = true,
                invite_client::Action::Terminated => {}
            }
        }
        (deliver, timed_out)
    }

    fn feed_invite(&mut self, event: invite_client::Event, out: &mut Output<'_>) -> (bool, bool) {
        let SetUp::Outgoing(outgoing) = &mut self.set_up else { return (false, false) };
        let actions = outgoing.machine.handle(event, out.now);
        self.perform_invite(actions, out)
    }

    /// A response to our INVITE.
    pub(super) fn on_invite_response(
        &mut self,
        response: &Response,
        branch: &str,
        flow: &Flow,
        out: &mut Output<'_>,
    ) {
        let SetUp::Outgoing(outgoing) = &mut self.set_up else { return };
        if let Some(earlier) = outgoing.challenged.iter_mut().find(|earlier| earlier.branch == branch) {
            // It has its final answer; what can still come is the same one again, whose ACK was lost.
            let event = invite_client::Event::Response { status: response.status, ack: None };
            for action in earlier.machine.handle(event, out.now) {
                if let invite_client::Action::Send(ack) = action {
                    out.send(ack, &earlier.hop);
                }
            }
            return;
        }
        if outgoing.branch() != branch || outgoing.invite.cseq != response.head.cseq.number {
            return;
        }
        let status = response.status;
        let tag = response.head.to.tag().map(ToString::to_string);
        let ack =
            (status >= 300).then(|| identity::ack_of_failure(&outgoing.invite, tag.as_deref()).encode());
        let (deliver, _) = self.feed_invite(invite_client::Event::Response { status, ack }, out);
        if !deliver {
            return;
        }
        match status {
            ..=199 => self.on_provisional(response, tag, out),
            200..=299 => self.on_success(response, &tag.unwrap_or_default(), out),
            422 if self.ask_for_longer(&response.head, out) => {}
            401 | 407 if self.state == State::SettingUp && self.invite_again(response, flow, out) => {}
            _ if self.state == State::SettingUp => {
                self.told = reason::q850(&response.head);
                let retry_after = identity::retry_after(&response.head);
                self.fail(status, Outcome::of_status(status, retry_after), out);
            }
            _ => {}
        }
    }

    /// The gateway wants to know who we are: the INVITE goes out once more, with what it asks for (RFC 3261 §22.2).
    /// False when it cannot be told.
    fn invite_again(&mut self, response: &Response, flow: &Flow, out: &mut Output<'_>) -> bool {
        let SetUp::Outgoing(outgoing) = &self.set_up else { return false };
        let (mut invite, hop) = (outgoing.invite.clone(), outgoing.hop.clone());
        let answered = outgoing.answered;
        if self.answer_challenge(&mut invite, &hop, answered, (response, flow), out).is_err() {
            return false;
        }
        if let SetUp::Outgoing(outgoing) = &mut self.set_up {
            outgoing.answered = outgoing.answered.saturating_add(1);
        }
        self.send_invite_again(invite, hop, out)
    }

    /// The INVITE once more, changed, as a transaction of its own (RFC 3261 §8.1.3.5).
    pub(super) fn send_invite_again(
        &mut self,
        mut invite: RequestOut,
        hop: Hop,
        out: &mut Output<'_>,
    ) -> bool {
        invite.cseq = invite.cseq.saturating_add(1);
        invite.via.branch = out.ids.branch();
        let hop = Self::choose_transport(self.dialog_key(), &mut invite, hop);
        let (machine, actions) = InviteClient::start(invite.encode(), hop.protocol != Protocol::Udp, out.now);
        let SetUp::Outgoing(outgoing) = &mut self.set_up else { return false };
        let branch = outgoing.branch().to_owned();
        let earlier = std::mem::replace(&mut outgoing.machine, machine);
        let earlier_hop = std::mem::replace(&mut outgoing.hop, hop);
        if !earlier.is_terminated() {
            outgoing.challenged.push(ChallengedInvite { branch, machine: earlier, hop: earlier_hop });
        }
        outgoing.invite = invite;
        // Whoever has rung has gone with the INVITE before.
        outgoing.forks.clear();
        self.perform_invite(actions, out);
        true
    }

    fn on_provisional(&mut self, response: &Response, tag: Option<String>, out: &mut Output<'_>) {
        if self.state == State::Ended {
            return self.cancel_if_wanted(out);
        }
        // A 1xx that overtook the 2xx, or came from another fork after it, changes nothing.
        if response.status == 100 || self.state != State::SettingUp {
            return;
        }
        let tag = tag.unwrap_or_default();
        let Some(reliable) = self.acknowledge(response, &tag, out) else { return };
        let SetUp::Outgoing(outgoing) = &mut self.set_up else { return };
        let settled = outgoing.known_fork(&tag).is_some_and(|fork| fork.is_settled());
        // RFC 6337 §3.1.1: what comes after the answer is none.
        let sdp = body::sdp(&response.head, &response.body).ok().flatten().filter(|_| !settled);
        let stream = match (&mut self.negotiation, sdp) {
            (Some(negotiation), Some(sdp)) => negotiation.on_answer(&sdp).ok(),
            _ => None,
        };
        let SetUp::Outgoing(outgoing) = &mut self.set_up else { return };
        let room = outgoing.forks.len() < MAX_FORKS;
        match outgoing.forks.iter_mut().find(|fork| fork.tag == tag) {
            Some(fork) if stream.is_some() => {
                fork.stream.clone_from(&stream);
                if let Some(early) = fork.early.as_mut().filter(|_| reliable) {
                    early.settled = true;
                }
            }
            None if room => {
                outgoing.forks.push(Fork { tag, stream: stream.clone(), remote_cseq: None, early: None });
            }
            _ => {}
        }
        out.signal(Signal::Progress { status: response.status, stream });
    }

    /// A 2xx: acknowledged in any case. The first one answers the leg; one that comes after CANCEL, or from
    /// another fork, is acknowledged and ended with BYE (RFC 3261 §13.2.2.4, §9.1).
    fn on_success(&mut self, response: &Response, tag: &str, out: &mut Output<'_>) {
        let SetUp::Outgoing(outgoing) = &self.set_up else { return };
        if let Some((_, ack, hop)) = outgoing.acks.iter().find(|(seen, ..)| seen == tag) {
            let (ack, hop) = (ack.clone(), hop.clone());
            out.send(ack, &hop);
            return;
        }
        // Each fork costs a transaction, so their number is bounded.
        let remembered = outgoing.acks.len() < MAX_FORKS;
        let cseq = outgoing.invite.cseq;
        let fork = outgoing.forks.iter().find(|fork| fork.tag == tag);
        let early = fork.and_then(|fork| fork.stream.clone());
        let settled = fork.is_some_and(Fork::is_settled);
        let mut dialog = Dialog::as_uac(&outgoing.invite, response);
        if let Some(fork) = fork {
            dialog = dialog.after(fork.early.as_ref().map(|early| &early.dialog), fork.remote_cseq);
        }
        let Some(hop) = self.hop_of(dialog.next_hop().as_ref()).or_else(|| self.hop_of(None)) else { return };
        let credentials: Vec<_> = match &self.set_up {
            SetUp::Outgoing(outgoing) if self.is_gateway(&hop) => {
                outgoing.invite.credentials().cloned().collect()
            }
            _ => Vec::new(),
        };
        let via = self.address.via(hop.protocol, out.ids.branch());
        let mut ack = dialog.ack(cseq, via);
        // RFC 3261 §22.1: an ACK has its INVITE's credentials, because nobody may ask for any.
        ack.headers.extend(credentials);
        let ack = ack.encode();
        out.send(ack.clone(), &hop);
        if !remembered {
            // Its next 2xx, when one of these is lost, gets both once more.
            let via = self.address.via(hop.protocol, out.ids.branch());
            out.send(dialog.request(Method::BYE, via, None).encode(), &hop);
            return;
        }
        if let SetUp::Outgoing(outgoing) = &mut self.set_up {
            outgoing.acks.push((tag.to_owned(), ack, hop));
        }
        if self.state != State::SettingUp {
            return self.send_bye_on(&mut dialog, None, out);
        }
        let answered = match (&mut self.negotiation, body::sdp(&response.head, &response.body)) {
            _ if settled => early,
            (Some(negotiation), Ok(Some(sdp))) => negotiation.on_answer(&sdp).ok(),
            (_, Ok(None)) => early,
            _ => None,
        };
        match answered {
            Some(stream) => {
                self.state = State::Answered;
                self.dialog = Some(dialog);
                self.on_granted(&response.head, out.now);
                out.signal(Signal::Answered(stream));
            }
            None => {
                self.state = State::Ended;
                self.send_bye_on(&mut dialog, None, out);
                out.signal(Signal::Refused(488));
            }
        }
    }

    /// Ends an INVITE that has no final answer yet.
    pub(super) fn cancel(&mut self, cause: HangupCause, out: &mut Output<'_>) {
        if let SetUp::Outgoing(outgoing) = &mut self.set_up {
            outgoing.cancel = Cancel::Wanted(cause);
        }
        self.cancel_if_wanted(out);
    }

    fn cancel_if_wanted(&mut self, out: &mut Output<'_>) {
        let SetUp::Outgoing(outgoing) = &mut self.set_up else { return };
        let Cancel::Wanted(cause) = outgoing.cancel else { return };
        if !outgoing.machine.is_proceeding() {
            return;
        }
        outgoing.cancel = Cancel::Sent;
        outgoing.give_up = Some(out.now + 64 * T1);
        let (mut cancel, hop) = (identity::cancel(&outgoing.invite), outgoing.hop.clone());
        self.said = Some(cause.q850());
        cancel.headers.push(identity::reason(cause));
        self.start_client_as_is(cancel, hop, 0, out);
    }

    pub(super) fn on_set_up_timeout(&mut self, out: &mut Output<'_>) {
        let SetUp::Outgoing(outgoing) = &mut self.set_up else { return };
        for earlier in &mut outgoing.challenged {
            if earlier.machine.deadline().is_some_and(|at| at <= out.now) {
                // Timer D: there is nothing to send.
                let _ = earlier.machine.handle(invite_client::Event::Timeout, out.now);
            }
        }
        outgoing.challenged.retain(|earlier| !earlier.machine.is_terminated());
        if outgoing.give_up.is_some_and(|at| at <= out.now) {
            outgoing.over = true;
            outgoing.give_up = None;
            return;
        }
        if outgoing.machine.deadline().is_none_or(|at| at > out.now) {
            return;
        }
        let (_, timed_out) = self.feed_invite(invite_client::Event::Timeout, out);
        // RFC 3261 §8.1.3.1: a time-out is treated like a 408.
        if timed_out && self.state == State::SettingUp {
            self.fail(408, Outcome::Silent, out);
        }
    }

    /// Our INVITE could not be sent: over UDP when it only was too large for it and somebody still waits for an answer,
    /// else the leg has failed like with a 503 (RFC 3261 §8.1.3.1).
    pub(super) fn on_invite_not_sent(&mut self, why: SendFault, out: &mut Output<'_>) {
        let SetUp::Outgoing(outgoing) = &mut self.set_up else { return };
        if self.state == State::SettingUp
            && outgoing.machine.is_calling()
            && let Some(hop) = Self::fall_back_to_udp(&mut outgoing.invite, &outgoing.hop, out.ids)
        {
            outgoing.hop = hop;
            let (machine, actions) = InviteClient::start(outgoing.invite.encode(), false, out.now);
            outgoing.machine = machine;
            self.perform_invite(actions, out);
            return;
        }
        self.feed_invite(invite_client::Event::TransportFailed, out);
        if self.state == State::SettingUp {
            let outcome = match why {
                SendFault::NotSent => Outcome::NotSent,
                SendFault::NotTrusted => Outcome::NotTrusted,
            };
            self.fail(503, outcome, out);
        }
    }

    fn fail(&mut self, status: u16, outcome: Outcome, out: &mut Output<'_>) {
        self.state = State::Ended;
        if let SetUp::Outgoing(outgoing) = &mut self.set_up {
            outgoing.failure = Some(outcome);
        }
        out.signal(Signal::Refused(status));
    }

    /// What became of its INVITE, once it was refused before any answer.
    pub(crate) fn failure(&self) -> Option<Outcome> {
        match &self.set_up {
            SetUp::Outgoing(outgoing) => outgoing.failure,
            SetUp::Incoming(_) => None,
        }
    }

    /// True while our INVITE has got no response at all.
    pub(crate) fn is_unheard(&self) -> bool {
        match &self.set_up {
            // Who has asked for credentials has been heard.
            SetUp::Outgoing(outgoing) => {
                self.state == State::SettingUp && outgoing.machine.is_calling() && outgoing.answered == 0
            }
            SetUp::Incoming(_) => false,
        }
    }

    /// Gives up a target that has said nothing. The INVITE is not repeated, so that a target that comes to life does
    /// not ring somebody who talks by then; until timer B a late 1xx gets CANCEL, a late 2xx ACK and BYE
    /// (RFC 3261 §9.1, §13.2.2.4).
    pub(crate) fn abandon(&mut self) {
        self.state = State::Ended;
        if let SetUp::Outgoing(outgoing) = &mut self.set_up {
            outgoing.machine.stop_repeating();
            outgoing.cancel = Cancel::Wanted(HangupCause::NetworkError);
        }
    }
}

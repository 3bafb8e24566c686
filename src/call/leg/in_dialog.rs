//! What may come inside a dialog of either leg: BYE, re-INVITE, UPDATE, PRACK, INFO, OPTIONS, ACK.
//!
//! A re-INVITE or UPDATE is answered on its leg and never passed on. What it asks for is taken when our
//! codecs allow it, else it gets 488 and the call goes on as it was (RFC 6141).

use super::{InviteEntry, Leg, Output, SetUp, State, response_hop};
use crate::call::cdr::HangupCause;
use crate::call::identity;
use crate::call::signal::Signal;
use crate::sip::body;
use crate::sip::encode::{HeaderOut, ResponseOut};
use crate::sip::key::TransactionKey;
use crate::sip::message::{Method, Request};
use crate::sip::reason;
use crate::sip::session_timer::{Agreed, LEAST_SECONDS};
use crate::sip::transaction::{InviteServer, invite_server, non_invite_server};
use crate::sip::transport::{Flow, Protocol};
use media::Digit;

/// INVITE server transactions of a leg at one time: the first, and re-INVITEs in their last 32 s.
const MAX_INVITES: usize = 8;

impl Leg {
    pub(super) fn on_request(&mut self, request: &Request, flow: &Flow, out: &mut Output<'_>) {
        if request.method == Method::ACK {
            return self.on_ack(request, out);
        }
        if self.is_retransmission(request, out) {
            return;
        }
        if request.method == Method::CANCEL {
            return self.on_cancel(request, flow, out);
        }
        if self.dialog.is_none() {
            return self.on_early_request(request, flow, out);
        }
        let from_peer = request.head.to.tag().is_some_and(|tag| *tag == self.local_tag)
            && self.dialog.as_ref().is_some_and(|dialog| dialog.is_from_peer(request));
        if !from_peer {
            return self.reply(request, flow, 481, out);
        }
        let in_order = self.dialog.as_mut().is_some_and(|dialog| dialog.take_cseq(request));
        if !in_order {
            return self.reply(request, flow, 500, out);
        }
        if request.method == Method::BYE {
            return self.on_bye(request, flow, out);
        }
        if self.state == State::Ended {
            return self.reply(request, flow, 481, out);
        }
        // Not asked of a BYE: who hangs up is never held.
        let takers = [Method::INVITE, Method::UPDATE, Method::PRACK, Method::INFO, Method::OPTIONS];
        let taken = takers.contains(&request.method);
        let unsupported = identity::unsupported(&request.head).filter(|_| taken);
        if unsupported.is_some() {
            return self.reply_with(request, flow, 420, unsupported, out);
        }
        match &request.method {
            method if *method == Method::INVITE => self.on_reinvite(request, flow, out),
            method if *method == Method::UPDATE => self.on_update(request, flow, out),
            method if *method == Method::PRACK => self.on_prack(request, flow, out),
            method if *method == Method::INFO => self.on_info(request, flow, out),
            method if *method == Method::OPTIONS => self.reply(request, flow, 200, out),
            other => self.reply(request, flow, other.refusal(), out),
        }
    }

    /// The same request again: its transaction repeats the answer.
    fn is_retransmission(&mut self, request: &Request, out: &mut Output<'_>) -> bool {
        let key = TransactionKey::of_request(request);
        if request.method == Method::INVITE {
            let Some(entry) = self.invites.iter_mut().find(|entry| entry.key == key) else { return false };
            let actions = entry.machine.handle(invite_server::Event::InviteRetransmitted, out.now);
            entry.perform(actions, out);
            return true;
        }
        let Some(entry) = self.servers.iter_mut().find(|entry| entry.key == key) else { return false };
        let actions = entry.machine.handle(non_invite_server::Event::Retransmitted, out.now);
        entry.perform(actions, out);
        true
    }

    pub(super) fn reply(&mut self, request: &Request, flow: &Flow, status: u16, out: &mut Output<'_>) {
        self.reply_with(request, flow, status, None, out);
    }

    /// 500 to an offer that comes before the last one is answered, with a random Retry-After of 0–10 s
    /// (RFC 3261 §14.2, RFC 3311 §5.2).
    pub(super) fn reply_later(&mut self, request: &Request, flow: &Flow, out: &mut Output<'_>) {
        let seconds = out.ids.cseq() % 11;
        self.reply_with(request, flow, 500, Some(HeaderOut::RetryAfter(seconds)), out);
    }

    pub(super) fn reply_with(
        &mut self,
        request: &Request,
        flow: &Flow,
        status: u16,
        header: Option<HeaderOut>,
        out: &mut Output<'_>,
    ) {
        let tag = self.local_tag.to_string();
        let mut response = identity::response(&request.response_head(flow.peer), status, Some(&tag));
        response.headers.extend(header);
        if request.method == Method::INVITE {
            self.reply_to_invite(request, flow, status, &response.encode(), out);
        } else {
            self.respond(request, flow, &response, out);
        }
    }

    /// A final answer to a re-INVITE, in a server transaction of its own.
    fn reply_to_invite(
        &mut self,
        request: &Request,
        flow: &Flow,
        status: u16,
        wire: &bytes::Bytes,
        out: &mut Output<'_>,
    ) {
        let hop = response_hop(request, flow);
        if self.invites.len() >= MAX_INVITES {
            out.send(wire.clone(), &hop);
            return;
        }
        let mut machine = InviteServer::new(wire.clone(), flow.protocol != Protocol::Udp);
        let actions = machine.handle(invite_server::Event::Respond(status, wire.clone()), out.now);
        let mut entry = InviteEntry { key: TransactionKey::of_invite(request), machine, hop };
        entry.perform(actions, out);
        super::push(&mut self.invites, entry);
    }

    fn on_ack(&mut self, request: &Request, out: &mut Output<'_>) {
        let key = TransactionKey::of_invite(request);
        if let Some(entry) = self.invites.iter_mut().find(|entry| entry.key == key) {
            let actions = entry.machine.handle(invite_server::Event::Ack, out.now);
            entry.perform(actions, out);
            self.invites.retain(|entry| !entry.machine.is_terminated());
        }
        // The ACK of a 2xx is a transaction of its own and is known by dialog and CSeq (RFC 3261 §13.2.2.4).
        let from_peer = self.dialog.as_ref().is_some_and(|dialog| dialog.is_from_peer(request));
        if !from_peer {
            return;
        }
        let Some(ok) = self.ok.take_if(|ok| ok.cseq == request.head.cseq.number) else { return };
        if self.bye_after_ack {
            self.bye_after_ack = false;
            return self.send_bye(None, out);
        }
        if !ok.awaits_answer || self.state != State::Answered {
            return;
        }
        let answer = body::sdp(&request.head, &request.body).ok().flatten();
        let stream = match (&mut self.negotiation, answer) {
            (Some(negotiation), Some(answer)) => negotiation.on_answer(&answer).ok(),
            _ => None,
        };
        let first = matches!(&self.set_up, SetUp::Incoming(incoming) if incoming.cseq == ok.cseq);
        match stream {
            Some(stream) if first => out.signal(Signal::Answered(stream)),
            Some(stream) => out.signal(Signal::Reoffered(stream)),
            // Without an answer to the first offer there is no media; a later one leaves things as they were.
            None if first => {
                self.state = State::Ended;
                self.send_bye(Some(HangupCause::Rejected), out);
                out.signal(Signal::HungUp(HangupCause::Rejected));
            }
            None => {}
        }
    }

    fn on_bye(&mut self, request: &Request, flow: &Flow, out: &mut Output<'_>) {
        let before_answer = self.state == State::SettingUp;
        self.reply(request, flow, 200, out);
        if self.state != State::Ended {
            self.told = reason::q850(&request.head);
        }
        if before_answer {
            // BYE on an early dialog ends the INVITE like CANCEL does (RFC 3261 §15.1.2).
            self.refuse(487, [], out);
            out.signal(Signal::HungUp(HangupCause::Canceled));
            return;
        }
        // The dialog is over: no 2xx is repeated into it, and no BYE of ours waits for its ACK any more.
        self.ok = None;
        self.bye_after_ack = false;
        if self.state == State::Answered {
            self.state = State::Ended;
            let cause = self.told.map_or(HangupCause::Normal, HangupCause::of_q850);
            out.signal(Signal::HungUp(cause));
        }
    }

    fn on_reinvite(&mut self, request: &Request, flow: &Flow, out: &mut Output<'_>) {
        // RFC 3261 §14.2: the INVITE before it has no final answer yet.
        if self.state != State::Answered {
            return self.reply_later(request, flow, out);
        }
        // RFC 3261 §14.2: so is ours. RFC 5407 §3.1.5: our offer in the last 2xx has no answer. Where it was an answer
        // (§3.1.4), whoever sends this has our 2xx, and only its ACK was lost or overtaken.
        if self.is_asking() || self.ok.as_ref().is_some_and(|ok| ok.awaits_answer) {
            return self.reply(request, flow, 491, out);
        }
        let Ok(timer) = self.answer_timer(&request.head) else {
            return self.reply_with(request, flow, 422, Some(HeaderOut::MinSe(LEAST_SECONDS)), out);
        };
        let Ok(offer) = body::sdp(&request.head, &request.body) else {
            return self.reply(request, flow, 415, out);
        };
        let Some(negotiation) = &mut self.negotiation else { return self.reply(request, flow, 488, out) };
        let (sdp, stream) = match &offer {
            Some(offer) => match negotiation.on_offer(offer) {
                Ok((sdp, stream)) => (sdp, Some(stream)),
                Err(error) => return self.reply(request, flow, error.sip_status(), out),
            },
            None => (negotiation.offer(), None),
        };
        if let Some(dialog) = &mut self.dialog {
            dialog.refresh_target(request.head.contact.as_ref());
        }
        let head = request.response_head(flow.peer);
        let mut response = identity::dialog_response(&head, 200, &self.local_tag, &self.address, Some(&sdp));
        self.refreshed(request, timer, &mut response, out);
        let wire = response.encode();
        self.reply_to_invite(request, flow, 200, &wire, out);
        self.await_ack(request.head.cseq.number, wire, response_hop(request, flow), offer.is_none(), out.now);
        if let Some(stream) = stream {
            out.signal(Signal::Reoffered(stream));
        }
    }

    /// UPDATE (RFC 3311): a refresh without body, or an offer.
    fn on_update(&mut self, request: &Request, flow: &Flow, out: &mut Output<'_>) {
        let Ok(offer) = body::sdp(&request.head, &request.body) else {
            return self.reply(request, flow, 415, out);
        };
        let Ok(timer) = self.answer_timer(&request.head) else {
            return self.reply_with(request, flow, 422, Some(HeaderOut::MinSe(LEAST_SECONDS)), out);
        };
        let mut sdp = None;
        if let Some(offer) = offer {
            // RFC 3311 §5.2: the INVITE's offer has no answer before its 2xx; what a 18x says is only a preview
            // of it, and may not change (RFC 3261 §13.2.1).
            if self.state == State::SettingUp && !self.is_settled_early() {
                return self.reply_later(request, flow, out);
            }
            // RFC 3311 §5.2: an offer of ours is still open.
            if self.is_asking() || self.ok.as_ref().is_some_and(|ok| ok.awaits_answer) {
                return self.reply(request, flow, 491, out);
            }
            let Some(negotiation) = &mut self.negotiation else {
                return self.reply(request, flow, 488, out);
            };
            match negotiation.on_offer(&offer) {
                Ok((answer, stream)) => {
                    sdp = Some(answer);
                    out.signal(Signal::Reoffered(stream));
                }
                Err(error) => return self.reply(request, flow, error.sip_status(), out),
            }
        }
        if let Some(dialog) = &mut self.dialog {
            dialog.refresh_target(request.head.contact.as_ref());
        }
        let head = request.response_head(flow.peer);
        let mut response =
            identity::dialog_response(&head, 200, &self.local_tag, &self.address, sdp.as_deref());
        if self.state == State::Answered {
            self.refreshed(request, timer, &mut response, out);
        }
        self.respond(request, flow, &response, out);
    }

    /// The request refreshes the session (RFC 4028 §9).
    fn refreshed(
        &mut self,
        request: &Request,
        timer: Option<Agreed>,
        response: &mut ResponseOut,
        out: &mut Output<'_>,
    ) {
        if timer.is_some() {
            self.learn_update(&request.head);
        }
        self.run_timer(timer, out.now);
        response.headers.extend(timer.into_iter().flat_map(identity::session));
    }

    /// A key by `application/dtmf-relay` is taken; a package that nobody agreed on gets 469 (RFC 6086 §4.2.2).
    pub(super) fn on_info(&mut self, request: &Request, flow: &Flow, out: &mut Output<'_>) {
        let content_type = request.head.content_type();
        let package = request.head.header("Info-Package").is_some();
        match content_type.as_deref() {
            Some("application/dtmf-relay" | "application/dtmf") if !package => {
                self.reply(request, flow, 200, out);
                out.signals.extend(dtmf_relay(&request.body).map(Signal::Digit));
            }
            None if !package && request.body.is_empty() => self.reply(request, flow, 200, out),
            _ => self.reply_with(request, flow, 469, Some(HeaderOut::RecvInfo), out),
        }
    }
}

/// `Signal=5` of a dtmf-relay body, or the bare key of `application/dtmf`.
fn dtmf_relay(body: &[u8]) -> Option<Digit> {
    let text = std::str::from_utf8(body.get(..body.len().min(256))?).ok()?;
    let value = text
        .lines()
        .find_map(|line| {
            let (name, value) = line.split_once('=')?;
            name.trim().eq_ignore_ascii_case("signal").then_some(value)
        })
        .unwrap_or(text)
        .trim();
    let mut keys = value.chars();
    match (value, keys.next(), keys.next()) {
        ("10", ..) => Digit::from_char('*'),
        ("11", ..) => Digit::from_char('#'),
        (_, Some(key), None) => Digit::from_char(key),
        _ => None,
    }
}

//! Reliable provisional responses (RFC 3262) in both roles, and what they allow before the answer: offers by PRACK and
//! UPDATE once the first one is answered (RFC 3311 §5, RFC 6337 §2.2, §3.1).
//!
//! ```text
//!  the caller's leg                     our 18x, RSeq n          PRACK with RAck n
//!   ring ──► pending, repeated T1, 2·T1, … ──────────────────► settled: the next 18x, or the 200 that waited
//!                     └── 64·T1 ──► 500, the leg has failed
//! ```
//!
//! A leg of ours acknowledges each 18x that requires it in its turn, on the early dialog that the 18x began; what comes
//! out of turn is not looked at.

use super::{Leg, Output, SetUp, State};
use crate::call::Hop;
use crate::call::cdr::HangupCause;
use crate::call::identity;
use crate::call::signal::Signal;
use crate::sip::body;
use crate::sip::dialog::Dialog;
use crate::sip::encode::{HeaderOut, RequestOut};
use crate::sip::message::{Head, Method, Request, Response};
use crate::sip::transaction::timer::T1;
use crate::sip::transport::Flow;
use bytes::Bytes;
use std::time::{Duration, Instant};

/// PRACKs of a leg that are under way at one time; a response beyond is not looked at, and comes again.
const MAX_PRACKS: usize = 16;

/// What a reliable leg of a caller has told.
#[derive(Debug)]
pub(super) struct Reliable {
    /// Of the last response.
    rseq: u32,
    /// Its status; nothing is told twice.
    last: u16,
    pending: Option<Pending>,
    /// Wanted since the pending one was sent: early media, or not.
    queued: Option<bool>,
    description: Description,
    /// The 200 waits for the pending one.
    answer: bool,
}

/// What the peer knows of our description.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Description {
    Untold,
    /// It went with the pending response.
    Told,
    /// Offer and answer are complete: it is told no more, and may be changed (RFC 6337 §2.2).
    Settled,
}

#[derive(Debug)]
struct Pending {
    wire: Bytes,
    hop: Hop,
    /// `None` once the INVITE has its final answer: it is repeated no more, and its PRACK may still come.
    next: Option<Instant>,
    interval: Duration,
    give_up: Instant,
}

impl Reliable {
    /// `rseq` is that of the first response, 1 to 2^31-1 (RFC 3262 §3), less one.
    pub(super) fn new(rseq: u32) -> Box<Self> {
        let description = Description::Untold;
        Box::new(Self { rseq, last: 0, pending: None, queued: None, description, answer: false })
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let pending = self.pending.as_ref()?;
        pending.next.map(|next| next.min(pending.give_up))
    }

    pub(super) fn is_settled(&self) -> bool {
        self.description == Description::Settled
    }

    /// May the 200 go out now? If not, it will (RFC 3262 §5).
    pub(super) fn may_answer(&mut self) -> bool {
        let waits = self.pending.is_some() && self.description == Description::Told;
        self.answer = waits;
        if !waits {
            self.end();
        }
        !waits
    }

    /// The INVITE has its final answer: nothing is repeated any more (RFC 3262 §3).
    pub(super) fn end(&mut self) {
        self.queued = None;
        if let Some(pending) = &mut self.pending {
            pending.next = None;
        }
    }
}

/// The early dialog of a fork that we have acknowledged.
#[derive(Debug)]
pub(super) struct Early {
    pub(super) dialog: Dialog,
    rseq: u32,
    /// Our offer was answered reliably.
    pub(super) settled: bool,
}

/// `Require: 100rel` and RSeq of a provisional response.
fn reliable_number(head: &Head) -> Option<u32> {
    let required = head.tokens("Require").iter().any(|tag| tag.eq_ignore_ascii_case("100rel"));
    let text = required.then(|| head.header("RSeq")).flatten()?;
    text.trim().parse().ok().filter(|number| *number > 0)
}

/// RSeq and CSeq number that a PRACK for an INVITE names (RFC 3262 §7.2).
fn acknowledged(head: &Head) -> Option<(u32, u32)> {
    let text = head.header("RAck")?;
    let mut words = text.split_ascii_whitespace();
    let numbers = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    (words.next()? == Method::INVITE.as_str() && words.next().is_none()).then_some(numbers)
}

impl Leg {
    fn reliable(&mut self) -> Option<&mut Reliable> {
        match &mut self.set_up {
            SetUp::Incoming(incoming) => incoming.reliable.as_deref_mut(),
            SetUp::Outgoing(_) => None,
        }
    }

    /// True when the caller's offer was answered by a response that he has acknowledged.
    pub(super) fn is_settled_early(&self) -> bool {
        match &self.set_up {
            SetUp::Incoming(incoming) => {
                incoming.reliable.as_ref().is_some_and(|reliable| reliable.is_settled())
            }
            SetUp::Outgoing(_) => false,
        }
    }

    /// 180 or 183, one at a time (RFC 3262 §3). The first one to a caller without an offer carries ours (§5).
    pub(super) fn ring_reliably(&mut self, early_media: bool, out: &mut Output<'_>) {
        let (tag, address, negotiation) = (self.local_tag.to_string(), &self.address, &self.negotiation);
        let SetUp::Incoming(incoming) = &mut self.set_up else { return };
        let (late, key, head) = (incoming.offer.is_none(), incoming.key.clone(), incoming.head.clone());
        let Some(reliable) = &mut incoming.reliable else { return };
        if reliable.pending.is_some() {
            reliable.queued = Some(early_media || reliable.queued == Some(true));
            return;
        }
        let local = negotiation.as_ref().and_then(|negotiation| negotiation.local());
        let sdp = local.filter(|_| reliable.description == Description::Untold && (late || early_media));
        let status = if early_media { 183 } else { 180 };
        if sdp.is_none() && reliable.last == status {
            return;
        }
        reliable.rseq = reliable.rseq.saturating_add(1);
        reliable.last = status;
        if sdp.is_some() {
            reliable.description = Description::Told;
        }
        let mut response = identity::dialog_response(&head, status, &tag, address, sdp);
        response.headers.extend([HeaderOut::Require(&["100rel"]), HeaderOut::RSeq(reliable.rseq)]);
        let wire = response.encode();
        let Some(hop) = self.respond_to_invite(&key, status, wire.clone(), out) else { return };
        let (next, give_up) = (Some(out.now + T1), out.now + 64 * T1);
        if let Some(reliable) = self.reliable() {
            reliable.pending = Some(Pending { wire, hop, next, interval: T1, give_up });
        }
    }

    /// PRACK (RFC 3262 §3, §5): what it acknowledges is repeated no more; it may bring the answer to our offer, or an
    /// offer once his own is answered.
    pub(super) fn on_prack(&mut self, request: &Request, flow: &Flow, out: &mut Output<'_>) {
        let named = acknowledged(&request.head);
        let SetUp::Incoming(incoming) = &mut self.set_up else {
            return self.reply(request, flow, 481, out);
        };
        let (cseq, late) = (incoming.cseq, incoming.offer.is_none());
        let pending = incoming
            .reliable
            .as_deref_mut()
            .filter(|reliable| reliable.pending.is_some() && named == Some((reliable.rseq, cseq)));
        let Some(reliable) = pending else { return self.reply(request, flow, 481, out) };
        let told = reliable.description == Description::Told;
        let settled = reliable.description == Description::Settled;
        let Ok(body) = body::sdp(&request.head, &request.body) else {
            return self.reply(request, flow, 415, out);
        };
        reliable.pending = None;
        if told {
            reliable.description = Description::Settled;
        }
        let (ring, answer) = (reliable.queued.take(), std::mem::take(&mut reliable.answer));
        let mut sdp = None;
        match (&mut self.negotiation, body) {
            (Some(negotiation), Some(body)) if late && told => match negotiation.on_answer(&body) {
                Ok(stream) => out.signal(Signal::Answered(stream)),
                Err(error) => {
                    self.reply(request, flow, error.sip_status(), out);
                    return self.fail_set_up(488, HangupCause::Rejected, out);
                }
            },
            // RFC 3262 §5: the answer must be there.
            (_, None) if late && told => {
                self.reply(request, flow, 400, out);
                return self.fail_set_up(400, HangupCause::Rejected, out);
            }
            (Some(negotiation), Some(body)) if told || settled => match negotiation.on_offer(&body) {
                Ok((text, stream)) => {
                    sdp = Some(text);
                    out.signal(Signal::Reoffered(stream));
                }
                // The response counts as acknowledged, and the session stays as it was (RFC 6141 §3.1).
                Err(error) => {
                    self.reply(request, flow, error.sip_status(), out);
                    return self.go_on_ringing(ring, answer, out);
                }
            },
            // An offer before his last one is answered (RFC 3261 §14.2).
            (_, Some(_)) => {
                self.reply_later(request, flow, out);
                return self.go_on_ringing(ring, answer, out);
            }
            (_, None) => {}
        }
        let mut response = identity::response(&request.response_head(flow.peer), 200, None);
        response.body = sdp.map(crate::sip::encode::BodyOut::Sdp);
        self.respond(request, flow, &response, out);
        self.go_on_ringing(ring, answer, out);
    }

    /// What waited for the PRACK.
    fn go_on_ringing(&mut self, ring: Option<bool>, answer: bool, out: &mut Output<'_>) {
        if self.state != State::SettingUp {
            return;
        }
        match (answer, ring) {
            (true, _) => {
                self.answer(out);
                out.signal(Signal::Taken);
            }
            (false, Some(early_media)) => self.ring_reliably(early_media, out),
            (false, None) => {}
        }
    }

    fn fail_set_up(&mut self, status: u16, cause: HangupCause, out: &mut Output<'_>) {
        if self.state == State::SettingUp {
            let reason = self.say(cause);
            self.refuse(status, [reason], out);
            out.signal(Signal::HungUp(cause));
        }
    }

    /// Repeats what is pending; after 64·T1 the INVITE has failed (RFC 3262 §3).
    pub(super) fn repeat_provisional(&mut self, out: &mut Output<'_>) {
        let Some(pending) = self.reliable().and_then(|reliable| reliable.pending.as_mut()) else { return };
        let Some(next) = pending.next else { return };
        if pending.give_up <= out.now {
            pending.next = None;
            return self.fail_set_up(500, HangupCause::NetworkError, out);
        }
        if next <= out.now {
            pending.interval *= 2;
            pending.next = Some(out.now + pending.interval);
            let (wire, hop) = (pending.wire.clone(), pending.hop.clone());
            out.send(wire, &hop);
        }
    }

    /// A provisional response of a leg of ours: acknowledges it when it wants to be, and says whether it did. `None` when
    /// it is not to be looked at: it comes again, or too early (RFC 3262 §4), or is one of too many.
    pub(super) fn acknowledge(
        &mut self,
        response: &Response,
        tag: &str,
        out: &mut Output<'_>,
    ) -> Option<bool> {
        let Some(rseq) = reliable_number(&response.head) else { return Some(false) };
        let is_prack = |client: &&super::Client| client.request.method == Method::PRACK;
        if self.clients.iter().filter(is_prack).count() >= MAX_PRACKS {
            return None;
        }
        let SetUp::Outgoing(outgoing) = &mut self.set_up else { return None };
        let cseq = outgoing.invite_cseq();
        let (invite, fork) = outgoing.fork(tag)?;
        match &mut fork.early {
            Some(early) if early.rseq.checked_add(1) == Some(rseq) => early.rseq = rseq,
            Some(_) => return None,
            None => {
                let dialog = Dialog::as_uac(invite, response);
                fork.early = Some(Box::new(Early { dialog, rseq, settled: false }));
            }
        }
        let early = fork.early.as_mut()?;
        let hop = Self::hop_to(&self.route, early.dialog.next_hop().as_ref())?;
        let via = self.address.via(hop.protocol, out.ids.branch());
        let mut prack = early.dialog.request(Method::PRACK, via, None);
        prack.headers.push(HeaderOut::RAck { rseq, cseq });
        self.start_client(prack, hop, out);
        Some(true)
    }

    /// The CSeq of `request` when it goes out once more, on the early dialog that it belongs to.
    pub(super) fn early_cseq_after(&mut self, request: &RequestOut) -> u32 {
        let tag = request.to.tag.as_deref().unwrap_or_default();
        let early = match &mut self.set_up {
            SetUp::Outgoing(outgoing) => outgoing.known_fork(tag).and_then(|fork| fork.early.as_mut()),
            SetUp::Incoming(_) => None,
        };
        early.map_or(request.cseq.saturating_add(1), |early| early.dialog.cseq_after(request))
    }

    /// A request of a callee before his answer. It comes on the early dialog of one fork, of which nothing but the tag
    /// need be known: the answer goes where the request came from.
    pub(super) fn on_early_request(&mut self, request: &Request, flow: &Flow, out: &mut Output<'_>) {
        let tag = request.head.from.tag().map(|tag| &**tag).unwrap_or_default();
        let SetUp::Outgoing(outgoing) = &mut self.set_up else {
            return self.reply(request, flow, 481, out);
        };
        let fork = outgoing.known_fork(tag).filter(|_| self.state == State::SettingUp);
        let Some(fork) = fork.filter(|_| request.method != Method::BYE) else {
            return self.reply(request, flow, 481, out);
        };
        let number = request.head.cseq.number;
        if fork.remote_cseq.is_some_and(|seen| number <= seen) {
            return self.reply(request, flow, 500, out);
        }
        fork.remote_cseq = Some(number);
        let settled = fork.early.as_ref().is_some_and(|early| early.settled);
        match &request.method {
            method if *method == Method::UPDATE => self.on_early_update(request, flow, settled, out),
            method if *method == Method::INFO => self.on_info(request, flow, out),
            method if *method == Method::OPTIONS => self.reply(request, flow, 200, out),
            // RFC 3261 §14.2: our own INVITE is open.
            method if *method == Method::INVITE => self.reply(request, flow, 491, out),
            method if *method == Method::PRACK => self.reply(request, flow, 481, out),
            other => self.reply(request, flow, other.refusal(), out),
        }
    }

    fn on_early_update(&mut self, request: &Request, flow: &Flow, settled: bool, out: &mut Output<'_>) {
        if let Some(unsupported) = identity::unsupported(&request.head) {
            return self.reply_with(request, flow, 420, Some(unsupported), out);
        }
        let Ok(offer) = body::sdp(&request.head, &request.body) else {
            return self.reply(request, flow, 415, out);
        };
        // RFC 3311 §5.2: our INVITE's offer has no answer yet.
        if offer.is_some() && !settled {
            return self.reply(request, flow, 491, out);
        }
        let mut sdp = None;
        let mut changed = None;
        if let (Some(negotiation), Some(offer)) = (&mut self.negotiation, offer) {
            match negotiation.on_offer(&offer) {
                Ok((text, stream)) => (sdp, changed) = (Some(text), Some(stream)),
                Err(error) => return self.reply(request, flow, error.sip_status(), out),
            }
        }
        let tag = request.head.from.tag().map(|tag| &**tag).unwrap_or_default();
        if let SetUp::Outgoing(outgoing) = &mut self.set_up
            && let Some(fork) = outgoing.known_fork(tag)
        {
            if let Some(early) = &mut fork.early {
                early.dialog.refresh_target(request.head.contact.as_ref());
            }
            if changed.is_some() {
                fork.stream.clone_from(&changed);
            }
        }
        out.signals.extend(changed.map(Signal::Reoffered));
        let head = request.response_head(flow.peer);
        let response = identity::dialog_response(&head, 200, &self.local_tag, &self.address, sdp.as_deref());
        self.respond(request, flow, &response, out);
    }
}

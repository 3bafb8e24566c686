//! Set-up of a leg where we are UAS: the INVITE that came in, until its final answer.

use super::reliable::Reliable;
use super::{InviteEntry, Leg, Output, Route, SetUp, State, response_hop};
use crate::call::cdr::HangupCause;
use crate::call::identity::{self, LegAddress};
use crate::call::signal::Signal;
use crate::ids::IdSource;
use crate::sip::body;
use crate::sip::dialog::Dialog;
use crate::sip::encode::{HeaderOut, ResponseHead};
use crate::sip::key::TransactionKey;
use crate::sip::message::{Head, Request};
use crate::sip::reason;
use crate::sip::session_timer::{Agreed, LEAST_SECONDS, TooSmall};
use crate::sip::transaction::{InviteServer, invite_server};
use crate::sip::transport::{Flow, Protocol};
use crate::sip::wire::ByteStr;
use crate::trunk::{Prack, Trunk};
use bytes::Bytes;
use media::Stream;
use media::sdp::LocalMedia;
use std::time::Instant;

/// What of the INVITE is needed until it is answered.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) head: ResponseHead,
    pub(super) key: TransactionKey,
    pub(super) cseq: u32,
    /// The caller's offer; `None`: we make the offer, in the 2xx.
    pub(super) offer: Option<Bytes>,
    pub(super) tag: String,
    /// What the 200 says of session timers.
    timer: Option<Agreed>,
    /// Our provisional responses are reliable.
    pub(super) reliable: Option<Box<Reliable>>,
}

impl Incoming {
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.reliable.as_ref().and_then(|reliable| reliable.deadline())
    }
}

/// Whether provisional responses are to be reliable (RFC 3262 §3).
fn wants_reliable(head: &Head, prack: Prack) -> Result<bool, Refusal> {
    let names = |header| head.tokens(header).iter().any(|tag| tag.eq_ignore_ascii_case("100rel"));
    let required = names("Require");
    match prack {
        Prack::Off if required => {
            Err(Refusal { status: 420, headers: vec![HeaderOut::Unsupported(vec!["100rel".to_owned()])] })
        }
        Prack::Off | Prack::Supported => Ok(required),
        Prack::Preferred => Ok(required || names("Supported")),
        Prack::Required if required || names("Supported") => Ok(true),
        // RFC 3261 §21.4.16.
        Prack::Required => Err(Refusal { status: 421, headers: vec![HeaderOut::Require(&["100rel"])] }),
    }
}

impl Leg {
    /// A leg for an INVITE without To tag; sends 100.
    ///
    /// # Errors
    /// The status to refuse with, and what goes with it: a body that is no SDP, an extension that we do
    /// not have or cannot do without, a session interval that is too small, no Contact. 100 and the failure are then one answer, without a leg.
    pub(crate) fn offered(
        invite: &Request,
        flow: &Flow,
        address: LegAddress,
        trunk: &Trunk,
        ids: &mut IdSource,
    ) -> Result<Self, Refusal> {
        if let Some(unsupported) = identity::unsupported(&invite.head) {
            return Err(Refusal { status: 420, headers: vec![unsupported] });
        }
        let reliable = wants_reliable(&invite.head, trunk.prack)?;
        let offer = body::sdp(&invite.head, &invite.body).map_err(Refusal::from)?;
        let tag = ids.tag();
        let Some(dialog) = Dialog::as_uas(invite, &tag, ids.cseq()) else { return Err(Refusal::from(400)) };
        // Who asks for `sips:` on a transport that is not secure could not reach us there.
        let sips = flow.protocol == Protocol::Tls && dialog.wants_sips(invite);
        let mut leg = Self {
            call_id: invite.head.call_id.clone(),
            local_tag: ByteStr::from(tag.as_str()),
            address: LegAddress { sips, ..address },
            route: Route {
                protocol: flow.protocol,
                peer: Some(flow.peer),
                connection: flow.connection,
                local: Some(flow.local),
                name: None,
            },
            credentials: None,
            set_up: SetUp::Incoming(Box::new(Incoming {
                head: invite.response_head(flow.peer),
                key: TransactionKey::of_invite(invite),
                cseq: invite.head.cseq.number,
                offer,
                tag,
                timer: None,
                reliable: reliable.then(|| Reliable::new(ids.cseq())),
            })),
            dialog: Some(dialog),
            negotiation: None,
            invites: Vec::new(),
            servers: Vec::new(),
            clients: Vec::new(),
            ok: None,
            bye_after_ack: false,
            interval: trunk.session_timer,
            takes_update: false,
            session: None,
            reinvites: Vec::new(),
            told: None,
            said: None,
            state: State::SettingUp,
        };
        let timer = leg
            .answer_timer(&invite.head)
            .map_err(|TooSmall| Refusal { status: 422, headers: vec![HeaderOut::MinSe(LEAST_SECONDS)] })?;
        if timer.is_some() {
            leg.learn_update(&invite.head);
        }
        if let SetUp::Incoming(incoming) = &mut leg.set_up {
            incoming.timer = timer;
        }
        Ok(leg)
    }

    /// Sends 100 and starts the server transaction.
    pub(crate) fn try_(&mut self, invite: &Request, flow: &Flow, out: &mut Output<'_>) {
        let SetUp::Incoming(incoming) = &self.set_up else { return };
        let trying = identity::response(&incoming.head, 100, None).encode();
        let hop = response_hop(invite, flow);
        out.send(trying.clone(), &hop);
        let machine = InviteServer::new(trying, flow.protocol != Protocol::Udp);
        super::push(&mut self.invites, InviteEntry { key: incoming.key.clone(), machine, hop });
    }

    /// The leg's media has ports: reads the caller's offer. `None`: he made none.
    ///
    /// # Errors
    /// The status to refuse with: 488 without usable audio, 400 for what is no SDP.
    pub(crate) fn accept_media(&mut self, local: LocalMedia) -> Result<Option<Stream>, u16> {
        let SetUp::Incoming(incoming) = &self.set_up else { return Ok(None) };
        let mut negotiation = super::negotiation(local);
        let stream = match &incoming.offer {
            Some(offer) => Some(negotiation.on_offer(offer).map_err(|error| error.sip_status())?.1),
            None => {
                // It goes with the 2xx, and his answer comes with the ACK.
                let _ = negotiation.offer();
                None
            }
        };
        self.negotiation = Some(negotiation);
        Ok(stream)
    }

    /// 180, or 183 with our answer. Without an offer of his there is nothing to answer, hence 180.
    pub(super) fn ring(&mut self, early_media: bool, out: &mut Output<'_>) {
        let SetUp::Incoming(incoming) = &self.set_up else { return };
        if self.state != State::SettingUp {
            return;
        }
        if incoming.reliable.is_some() {
            return self.ring_reliably(early_media, out);
        }
        let sdp = self
            .negotiation
            .as_ref()
            .filter(|_| early_media && incoming.offer.is_some())
            .and_then(|negotiation| negotiation.local());
        let status = if sdp.is_some() { 183 } else { 180 };
        let response = identity::dialog_response(&incoming.head, status, &incoming.tag, &self.address, sdp);
        let (key, wire) = (incoming.key.clone(), response.encode());
        self.respond_to_invite(&key, status, wire, out);
    }

    /// 200 with our answer or offer; repeated until the ACK comes.
    pub(super) fn answer(&mut self, out: &mut Output<'_>) {
        let SetUp::Incoming(incoming) = &mut self.set_up else { return };
        if self.state != State::SettingUp {
            return;
        }
        if incoming.reliable.as_mut().is_some_and(|reliable| !reliable.may_answer()) {
            return;
        }
        // RFC 6337 §3.1.1: what a reliable response has said is said.
        let settled = incoming.reliable.as_ref().is_some_and(|reliable| reliable.is_settled());
        let negotiation = self.negotiation.as_ref().filter(|_| !settled);
        let sdp = negotiation.and_then(|negotiation| negotiation.local());
        let mut response = identity::dialog_response(&incoming.head, 200, &incoming.tag, &self.address, sdp);
        let late = incoming.offer.is_none() && !settled;
        let (key, cseq, timer) = (incoming.key.clone(), incoming.cseq, incoming.timer);
        response.headers.extend(timer.into_iter().flat_map(identity::session));
        let wire = response.encode();
        self.run_timer(timer, out.now);
        self.state = State::Answered;
        let Some(hop) = self.respond_to_invite(&key, 200, wire.clone(), out) else { return };
        self.await_ack(cseq, wire, hop, late, out.now);
    }

    /// A final failure of our own.
    pub(super) fn refuse(
        &mut self,
        status: u16,
        headers: impl IntoIterator<Item = HeaderOut>,
        out: &mut Output<'_>,
    ) {
        let SetUp::Incoming(incoming) = &mut self.set_up else { return };
        if self.state != State::SettingUp {
            return;
        }
        if let Some(reliable) = &mut incoming.reliable {
            reliable.end();
        }
        let mut response = identity::response(&incoming.head, status, Some(&incoming.tag));
        response.headers.extend(headers);
        let (key, wire) = (incoming.key.clone(), response.encode());
        self.state = State::Ended;
        self.respond_to_invite(&key, status, wire, out);
    }

    /// CANCEL (RFC 3261 §9.2): 200 to it, 487 to the INVITE unless that has its final answer already.
    pub(super) fn on_cancel(&mut self, request: &Request, flow: &Flow, out: &mut Output<'_>) {
        let key = TransactionKey::of_invite(request);
        let known = matches!(&self.set_up, SetUp::Incoming(incoming) if incoming.key == key);
        let status = if known { 200 } else { 481 };
        let tag = self.local_tag.to_string();
        let response = identity::response(&request.response_head(flow.peer), status, Some(&tag));
        self.respond(request, flow, &response, out);
        if known && self.state == State::SettingUp {
            self.told = reason::q850(&request.head);
            self.refuse(487, [], out);
            out.signal(Signal::HungUp(HangupCause::Canceled));
        }
    }

    /// Through the INVITE's server transaction. Returns where the response went.
    pub(super) fn respond_to_invite(
        &mut self,
        key: &TransactionKey,
        status: u16,
        wire: Bytes,
        out: &mut Output<'_>,
    ) -> Option<super::Hop> {
        let entry = self.invites.iter_mut().find(|entry| entry.key == *key)?;
        let actions = entry.machine.handle(invite_server::Event::Respond(status, wire), out.now);
        entry.perform(actions, out);
        let hop = entry.hop.clone();
        self.invites.retain(|entry| !entry.machine.is_terminated());
        Some(hop)
    }
}

/// Why an INVITE gets no leg.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The final answer.
    pub status: u16,
    /// What goes with it.
    pub headers: Vec<HeaderOut>,
}

impl From<u16> for Refusal {
    fn from(status: u16) -> Self {
        Self { status, headers: Vec::new() }
    }
}

//! One call of an agent: its dialog and what this phone itself asks for (RFC 3261 §9.1, §12, §13.2, §17.1).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::RngExt;

use super::{CallNumber, End, Event, GIVE_UP, Invite, OnCancel, Out, T1, T2, Transport};
use crate::message::{self, Message};
use crate::sdp::{LocalMedia, RemoteMedia};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Caller,
    Called,
}

#[derive(Debug)]
pub(super) struct ClientInvite {
    pub(super) bytes: Vec<u8>,
    pub(super) uri: String,
    pub(super) to: SocketAddr,
    pub(super) branch: String,
    pub(super) cseq: u32,
    pub(super) initial: bool,
    pub(super) offered: bool,
    /// While unanswered on UDP.
    pub(super) next: Option<(Instant, Duration)>,
    pub(super) give_up: Option<Instant>,
    pub(super) provisional: bool,
    pub(super) ended: bool,
    pub(super) cancel_wanted: bool,
    pub(super) cancel_sent: bool,
    /// The ACK of a 3xx–6xx.
    pub(super) ack: Option<Vec<u8>>,
}

#[derive(Debug)]
pub(super) struct ServerInvite {
    pub(super) request: Message,
    pub(super) source: SocketAddr,
    pub(super) last: Option<Vec<u8>>,
    pub(super) final_status: Option<u16>,
    pub(super) next: Option<(Instant, Duration)>,
    pub(super) give_up: Option<Instant>,
    pub(super) acknowledged: bool,
    pub(super) cancelled: bool,
    pub(super) initial: bool,
}

impl ServerInvite {
    pub(super) fn new(request: &Message, source: SocketAddr, last: Option<Vec<u8>>, initial: bool) -> Self {
        Self {
            request: request.clone(),
            source,
            last,
            final_status: None,
            next: None,
            give_up: None,
            acknowledged: false,
            cancelled: false,
            initial,
        }
    }
}

#[derive(Debug)]
pub(super) struct ClientRequest {
    pub(super) method: String,
    pub(super) branch: String,
    pub(super) bytes: Vec<u8>,
    pub(super) to: SocketAddr,
    pub(super) next: Option<(Instant, Duration)>,
    pub(super) give_up: Instant,
}

#[derive(Debug)]
pub(super) struct Call {
    pub(super) number: CallNumber,
    pub(super) role: Role,
    pub(super) peer: SocketAddr,
    pub(super) call_id: String,
    pub(super) local: String,
    pub(super) local_tag: String,
    pub(super) other_tags: Vec<String>,
    pub(super) remote: String,
    pub(super) remote_tag: Option<String>,
    /// The dialog that the last 18x began, before there is a 2xx (RFC 3261 §12.1.2).
    pub(super) early_tag: Option<String>,
    pub(super) target: String,
    pub(super) routes: Vec<String>,
    pub(super) contact: String,
    pub(super) cseq: u32,
    pub(super) remote_cseq: u32,
    pub(super) media: Option<LocalMedia>,
    /// Descriptions sent so far in answer to the first INVITE, by To tag.
    pub(super) answers: BTreeMap<String, Vec<u8>>,
    pub(super) client: Option<ClientInvite>,
    pub(super) acks: Vec<(u32, String, SocketAddr, Vec<u8>)>,
    /// CSeq of every INVITE received.
    pub(super) invited: Vec<u32>,
    /// Of every INVITE sent.
    pub(super) branches: Vec<String>,
    pub(super) server: Option<ServerInvite>,
    pub(super) requests: Vec<ClientRequest>,
    pub(super) on_cancel: OnCancel,
    pub(super) refuse_reinvites: Option<u16>,
    pub(super) confirmed: bool,
    pub(super) end: Option<End>,
}

pub(super) const SDP: &str = "application/sdp";

pub(super) fn own_contact(out: &Out) -> String {
    match out.transport {
        Transport::Udp => format!("<sip:phone@{}>", out.address),
        Transport::Tcp => format!("<sip:phone@{};transport=tcp>", out.address),
        Transport::Tls => format!("<sip:phone@{};transport=tls>", out.address),
    }
}

impl Call {
    pub(super) fn new_caller(
        out: &mut Out,
        number: CallNumber,
        peer: SocketAddr,
        invite: &Invite,
        media: Option<LocalMedia>,
    ) -> Self {
        Self {
            number,
            role: Role::Caller,
            peer,
            call_id: invite.call_id.clone().unwrap_or_else(|| out.token()),
            local: invite.from.clone(),
            local_tag: invite.from_tag.clone().unwrap_or_else(|| out.token()),
            other_tags: vec![],
            remote: invite.to.clone(),
            remote_tag: None,
            early_tag: None,
            target: invite.uri.clone(),
            routes: vec![],
            contact: invite.contact.clone().unwrap_or_else(|| own_contact(out)),
            cseq: invite.cseq.unwrap_or_else(|| out.random.random_range(1..50_000)),
            remote_cseq: 0,
            media,
            answers: BTreeMap::new(),
            client: None,
            acks: vec![],
            invited: vec![],
            branches: vec![],
            server: None,
            requests: vec![],
            on_cancel: OnCancel::default(),
            refuse_reinvites: None,
            confirmed: false,
            end: None,
        }
    }

    /// The call that `request` begins, to which `trying` was sent.
    pub(super) fn new_called(
        out: &mut Out,
        number: CallNumber,
        request: &Message,
        from: SocketAddr,
        trying: Vec<u8>,
    ) -> Self {
        let strip = |name: &str| {
            let value = request.header(name).unwrap_or_default();
            value.rsplit_once(";tag=").map_or(value, |(before, _)| before).to_owned()
        };
        Self {
            number,
            role: Role::Called,
            peer: from,
            call_id: request.call_id().to_owned(),
            local: strip("to"),
            local_tag: out.token(),
            other_tags: vec![],
            remote: strip("from"),
            remote_tag: request.from_tag().map(str::to_owned),
            early_tag: None,
            target: request.header("contact").map(message::uri_of).unwrap_or_default().to_owned(),
            routes: request.values("record-route").into_iter().map(str::to_owned).collect(),
            contact: own_contact(out),
            cseq: out.random.random_range(1..50_000),
            remote_cseq: request.cseq().0,
            media: None,
            answers: BTreeMap::new(),
            client: None,
            acks: vec![],
            invited: vec![request.cseq().0],
            branches: vec![],
            server: Some(ServerInvite::new(request, from, Some(trying), true)),
            requests: vec![],
            on_cancel: OnCancel::default(),
            refuse_reinvites: None,
            confirmed: false,
            end: None,
        }
    }

    pub(super) fn offer(&mut self, direction: Option<&'static str>) -> Option<(String, Vec<u8>)> {
        let (direction, media) = (direction?, self.media.as_mut()?);
        media.options.direction = direction;
        Some((SDP.to_owned(), media.offer()))
    }

    pub(super) fn sent_branch(&self, response: &Message) -> bool {
        let branch = response.branch().unwrap_or_default();
        let (_, method) = response.cseq();
        // A non-INVITE transaction that is over may still be answered again; its call is not blamed on anybody.
        method != "INVITE" || self.branches.iter().any(|sent| sent == branch)
    }

    /// True when the request carries our tag, or belongs to the INVITE that is being answered.
    pub(super) fn is_meant(&self, request: &Message) -> bool {
        match request.to_tag() {
            Some(tag) => tag == self.local_tag || self.other_tags.iter().any(|other| other == tag),
            None => {
                let branch = request.branch();
                self.server.as_ref().is_some_and(|server| server.request.branch() == branch)
                    && matches!(request.method(), Some("INVITE" | "CANCEL"))
            }
        }
    }

    pub(super) fn destination(&self) -> SocketAddr {
        if self.role == Role::Caller && self.client.is_none() {
            return self.peer; // Outside a dialog.
        }
        let next = self.routes.first().map_or(self.target.as_str(), |route| message::uri_of(route));
        message::socket_of(next).unwrap_or(self.peer)
    }

    pub(super) fn identity(&self, tag: &str) -> (String, String) {
        ("From".into(), format!("{};tag={tag}", self.local))
    }

    pub(super) fn to_header(&self, tag: Option<&str>) -> (String, String) {
        ("To".into(), tag.map_or_else(|| self.remote.clone(), |tag| format!("{};tag={tag}", self.remote)))
    }

    #[allow(clippy::too_many_arguments)]
    pub(super) fn send_invite(
        &mut self,
        out: &mut Out,
        branch: &str,
        max_forwards: u8,
        more: &[(String, String)],
        body: Option<(String, Vec<u8>)>,
        (initial, offered): (bool, bool),
        now: Instant,
    ) {
        let mut headers = vec![out.via(branch), ("Max-Forwards".into(), max_forwards.to_string())];
        headers.extend(self.routes.iter().map(|route| ("Route".to_owned(), route.clone())));
        headers.push(self.identity(&self.local_tag));
        headers.push(self.to_header(self.remote_tag.as_deref()));
        headers.push(("Call-ID".into(), self.call_id.clone()));
        headers.push(("CSeq".into(), format!("{} INVITE", self.cseq)));
        headers.push(("Contact".into(), self.contact.clone()));
        headers.push(("Allow".into(), out.allow.clone()));
        headers.extend(more.iter().cloned());
        if let Some((kind, _)) = &body {
            headers.push(("Content-Type".into(), kind.clone()));
        }
        let content = body.map(|(_, content)| content).unwrap_or_default();
        let bytes = message::write(&format!("INVITE {} SIP/2.0", self.target), &headers, &content);
        let to = if initial { self.peer } else { self.destination() };
        out.send(to, &bytes);
        self.branches.push(branch.to_owned());
        self.client = Some(ClientInvite {
            bytes,
            uri: self.target.clone(),
            to,
            branch: branch.to_owned(),
            cseq: self.cseq,
            initial,
            offered,
            next: (out.transport == Transport::Udp).then_some((now + T1, T1)),
            give_up: Some(now + GIVE_UP),
            provisional: false,
            ended: false,
            cancel_wanted: false,
            cancel_sent: false,
            ack: None,
        });
    }

    pub(super) fn request(
        &mut self,
        out: &mut Out,
        method: &str,
        more: &[(String, String)],
        body: Option<(String, Vec<u8>)>,
        now: Instant,
    ) {
        self.cseq += 1;
        let branch = format!("z9hG4bK{}", out.token());
        let tag = self.remote_tag.clone().or_else(|| self.early_tag.clone());
        let bytes = self.in_dialog(out, method, self.cseq, &branch, tag.as_deref(), more, body);
        let to = self.destination();
        self.transact(out, method, &branch, to, bytes, now);
    }

    pub(super) fn transact(
        &mut self,
        out: &mut Out,
        method: &str,
        branch: &str,
        to: SocketAddr,
        bytes: Vec<u8>,
        now: Instant,
    ) {
        out.send(to, &bytes);
        let next = (out.transport == Transport::Udp).then_some((now + T1, T1));
        let request = ClientRequest {
            method: method.to_owned(),
            branch: branch.to_owned(),
            bytes,
            to,
            next,
            give_up: now + GIVE_UP,
        };
        self.requests.push(request);
    }

    #[allow(clippy::too_many_arguments)]
    pub(super) fn in_dialog(
        &self,
        out: &Out,
        method: &str,
        cseq: u32,
        branch: &str,
        tag: Option<&str>,
        more: &[(String, String)],
        body: Option<(String, Vec<u8>)>,
    ) -> Vec<u8> {
        let mut headers = vec![out.via(branch), ("Max-Forwards".into(), "70".into())];
        headers.extend(self.routes.iter().map(|route| ("Route".to_owned(), route.clone())));
        headers.push(self.identity(&self.local_tag));
        headers.push(self.to_header(tag));
        headers.push(("Call-ID".into(), self.call_id.clone()));
        headers.push(("CSeq".into(), format!("{cseq} {method}")));
        if method == "UPDATE" {
            headers.push(("Contact".into(), self.contact.clone()));
        }
        headers.extend(more.iter().cloned());
        if let Some((kind, _)) = &body {
            headers.push(("Content-Type".into(), kind.clone()));
        }
        let content = body.map(|(_, content)| content).unwrap_or_default();
        message::write(&format!("{method} {} SIP/2.0", self.target), &headers, &content)
    }

    pub(super) fn finish(&mut self, out: &mut Out, end: End) {
        if self.end.is_none() {
            self.end = Some(end);
            out.event(self.number, Event::Ended(end));
        }
    }

    pub(super) fn cancel(&mut self, out: &mut Out, now: Instant) {
        let Some(client) = self.client.as_mut().filter(|client| !client.ended) else { return };
        client.cancel_wanted = true;
        if !client.provisional || client.cancel_sent {
            return;
        }
        client.cancel_sent = true;
        let (branch, to, cseq, uri) = (client.branch.clone(), client.to, client.cseq, client.uri.clone());
        let headers = [
            out.via(&branch),
            ("Max-Forwards".into(), "70".into()),
            self.identity(&self.local_tag),
            self.to_header(None),
            ("Call-ID".into(), self.call_id.clone()),
            ("CSeq".into(), format!("{cseq} CANCEL")),
        ];
        let bytes = message::write(&format!("CANCEL {uri} SIP/2.0"), &headers, &[]);
        self.transact(out, "CANCEL", &branch, to, bytes, now);
    }

    pub(super) fn on_response(&mut self, out: &mut Out, response: &Message, now: Instant) {
        let status = response.status().unwrap_or(0);
        let (cseq, method) = response.cseq();
        let method = method.to_owned();
        out.event(self.number, Event::Response(response.clone()));
        if method != "INVITE" {
            let branch = response.branch().unwrap_or_default();
            if status >= 200 {
                self.requests.retain(|request| request.branch != branch || request.method != method);
            }
            return;
        }
        if status >= 200
            && let Some((_, _, to, ack)) = self
                .acks
                .iter()
                .find(|(seen, tag, ..)| *seen == cseq && Some(tag.as_str()) == response.to_tag())
        {
            out.send_ack(*to, ack);
            return;
        }
        let Some(client) = self.client.as_mut().filter(|client| client.cseq == cseq) else { return };
        match status {
            ..=199 => {
                if client.initial {
                    self.early_tag = response.to_tag().map(str::to_owned).or(self.early_tag.take());
                }
                client.provisional = true;
                client.next = None;
                client.give_up = None;
                if client.cancel_wanted {
                    self.cancel(out, now);
                }
            }
            200..=299 => self.on_success(out, response, cseq, now),
            _ => self.on_failure(out, response, status),
        }
    }

    /// A 2xx: ACK (RFC 3261 §13.2.2.4), with the answer when the offer was late. A second dialog, from a fork, is
    /// acknowledged and ended.
    pub(super) fn on_success(&mut self, out: &mut Out, response: &Message, cseq: u32, now: Instant) {
        let Some(client) = self.client.as_mut() else { return };
        let (initial, offered, cancelled) = (client.initial, client.offered, client.cancel_wanted);
        (client.next, client.give_up, client.ended) = (None, None, true);
        let tag = response.to_tag().unwrap_or_default().to_owned();
        let second = initial && self.confirmed;
        let kept = second.then(|| (self.remote_tag.clone(), self.target.clone(), self.routes.clone()));
        if initial {
            self.remote_tag = Some(tag.clone());
            self.routes = response.values("record-route").into_iter().rev().map(str::to_owned).collect();
        }
        if let Some(contact) = response.header("contact") {
            message::uri_of(contact).clone_into(&mut self.target);
        }
        let body =
            if offered { None } else { response.sdp().and_then(|sdp| self.media.as_mut()?.answer(sdp)) };
        let branch = format!("z9hG4bK{}", out.token());
        let ack =
            self.in_dialog(out, "ACK", cseq, &branch, Some(&tag), &[], body.map(|sdp| (SDP.to_owned(), sdp)));
        let to = self.destination();
        out.send_ack(to, &ack);
        self.acks.push((cseq, tag, to, ack));
        self.confirmed = true;
        if second || cancelled || self.end.is_some() {
            self.request(out, "BYE", &[], None, now);
            if !second {
                self.finish(out, End::ByeSent);
            }
        }
        if let Some((tag, target, routes)) = kept {
            (self.remote_tag, self.target, self.routes) = (tag, target, routes);
        }
    }

    /// A 3xx–6xx: ACK within the transaction (RFC 3261 §17.1.1.3).
    pub(super) fn on_failure(&mut self, out: &mut Out, response: &Message, status: u16) {
        let Some(client) = self.client.as_ref() else { return };
        let (initial, cancelled, to, cseq) = (client.initial, client.cancel_sent, client.to, client.cseq);
        let headers = [
            out.via(&client.branch),
            ("Max-Forwards".to_owned(), "70".to_owned()),
            self.identity(&self.local_tag),
            ("To".to_owned(), response.header("to").unwrap_or_default().to_owned()),
            ("Call-ID".to_owned(), self.call_id.clone()),
            ("CSeq".to_owned(), format!("{cseq} ACK")),
        ];
        let ack = message::write(&format!("ACK {} SIP/2.0", client.uri), &headers, &[]);
        out.send(to, &ack);
        if let Some(client) = self.client.as_mut() {
            (client.next, client.give_up, client.ended, client.ack) = (None, None, true, Some(ack));
        }
        if initial && !self.confirmed {
            self.finish(out, if cancelled && status == 487 { End::CancelSent } else { End::Refused(status) });
        } else if matches!(status, 408 | 481) {
            // RFC 3261 §12.2.1.2: the dialog is gone.
            self.finish(out, End::Refused(status));
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let client = self.client.iter().flat_map(|c| [c.next.map(|(at, _)| at), c.give_up]);
        let server = self.server.iter().flat_map(|s| [s.next.map(|(at, _)| at), s.give_up]);
        let requests = self.requests.iter().flat_map(|r| [r.next.map(|(at, _)| at), Some(r.give_up)]);
        client.chain(server).chain(requests).flatten().min()
    }

    pub(super) fn timeout(&mut self, out: &mut Out, now: Instant) {
        for request in &mut self.requests {
            repeat(&mut request.next, T2, now, || out.send(request.to, &request.bytes));
        }
        self.requests.retain(|request| request.give_up > now);
        if let Some(client) = &mut self.client {
            repeat(&mut client.next, GIVE_UP, now, || out.send(client.to, &client.bytes));
            if client.give_up.is_some_and(|at| at <= now) {
                (client.next, client.give_up, client.ended) = (None, None, true);
                if client.initial {
                    self.finish(out, End::TimedOut);
                }
            }
        }
        if let Some(server) = &mut self.server {
            let (source, last) = (server.source, server.last.clone().unwrap_or_default());
            repeat(&mut server.next, T2, now, || out.send(source, &last));
            if server.give_up.is_some_and(|at| at <= now) {
                (server.next, server.give_up) = (None, None);
                if server.final_status.is_some_and(|status| status < 300) && self.end.is_none() {
                    self.request(out, "BYE", &[], None, now);
                    self.finish(out, End::NoAck);
                }
            }
        }
    }

    /// The far side's last description in an INVITE or ACK that this phone answers to.
    pub(super) fn offered(&self) -> Option<RemoteMedia> {
        self.server.as_ref().and_then(|server| server.request.sdp()).and_then(RemoteMedia::read)
    }
}

/// Sends again when it is time, and doubles the interval up to `most`.
pub(super) fn repeat(
    next: &mut Option<(Instant, Duration)>,
    most: Duration,
    now: Instant,
    send: impl FnOnce(),
) {
    if let Some((at, interval)) = next
        && *at <= now
    {
        send();
        *interval = (*interval * 2).min(most);
        *at = now + *interval;
    }
}

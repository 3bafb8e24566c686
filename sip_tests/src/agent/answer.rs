//! What a call answers to requests of the far side (RFC 3261 §8.2, §9.2, §13.3, §14.2, §15.1.2).

use std::net::SocketAddr;
use std::time::Instant;

use super::call::{Call, Role, SDP, ServerInvite};
use super::{End, Event, GIVE_UP, OnCancel, Out, Reply, T1, Transport};
use crate::message::{self, Message};

/// The response to `request` (RFC 3261 §8.2.6), with `rport` filled in (RFC 3581 §4).
pub(super) fn respond_to(
    request: &Message,
    source: SocketAddr,
    reply: &Reply,
    tag: &str,
    more: &[(String, String)],
    sdp: Option<Vec<u8>>,
) -> Vec<u8> {
    let mut headers: Vec<(String, String)> = vec![];
    for (index, via) in request.values("via").into_iter().enumerate() {
        let mut via = via.to_owned();
        if index == 0 && message::parameter(&via, "rport") == Some("") {
            via = via.replacen(";rport", &format!(";received={};rport={}", source.ip(), source.port()), 1);
        }
        headers.push(("Via".into(), via));
    }
    let mut push = |name: &str, value: &str| headers.push((name.to_owned(), value.to_owned()));
    for route in request.values("record-route") {
        push("Record-Route", route);
    }
    push("From", request.header("from").unwrap_or_default());
    let to = request.header("to").unwrap_or_default();
    match request.to_tag() {
        None if !tag.is_empty() => push("To", &format!("{to};tag={tag}")),
        _ => push("To", to),
    }
    push("Call-ID", request.call_id());
    push("CSeq", request.header("cseq").unwrap_or_default());
    headers.extend(more.iter().cloned());
    headers.extend(reply.headers.iter().cloned());
    let body = match (&reply.body, sdp) {
        (Some((kind, content)), _) => Some((kind.clone(), content.clone())),
        (None, Some(sdp)) => Some((SDP.to_owned(), sdp)),
        _ => None,
    };
    if let Some((kind, _)) = &body {
        headers.push(("Content-Type".into(), kind.clone()));
    }
    let phrase = reply.phrase.as_deref().unwrap_or_else(|| message::phrase(reply.status));
    message::write(
        &format!("SIP/2.0 {} {phrase}", reply.status),
        &headers,
        &body.map(|(_, content)| content).unwrap_or_default(),
    )
}

/// What a session refresh asks for is granted (RFC 4028 §9).
fn session_expires(request: &Message) -> Option<(String, String)> {
    request.header("session-expires").map(|value| ("Session-Expires".to_owned(), value.to_owned()))
}

impl Call {
    /// A request of this call; returns the reply to a request other than INVITE and ACK.
    pub(super) fn on_request(
        &mut self,
        out: &mut Out,
        request: &Message,
        from: SocketAddr,
        server_name: Option<&str>,
        now: Instant,
    ) -> Option<Vec<u8>> {
        let method = request.method().unwrap_or_default();
        let same_invite =
            self.server.as_ref().is_some_and(|server| server.request.branch() == request.branch());
        if method == "INVITE" && same_invite {
            if let Some(server) = &self.server
                && let Some(last) = &server.last
            {
                out.send(from, last); // The INVITE again: the last response again (RFC 3261 §17.2.1).
            }
            return None;
        }
        let cseq = request.cseq().0;
        if !matches!(method, "ACK" | "CANCEL") {
            if cseq <= self.remote_cseq && self.remote_cseq != 0 && !out.reordering {
                out.faults.push(format!(
                    "CSeq {cseq} after {} (RFC 3261 §12.2.1.1): {}",
                    self.remote_cseq,
                    request.start_line()
                ));
            }
            self.remote_cseq = self.remote_cseq.max(cseq);
        }
        if request.from_tag() != self.remote_tag.as_deref()
            && self.remote_tag.is_some()
            && self.role == Role::Called
        {
            out.faults.push(format!("From tag changed: {}", request.start_line()));
        }
        out.event(self.number, Event::Request(request.clone()));
        let tag = self.local_tag.clone();
        let answers = out.answers.clone();
        let simple =
            |status| Some(respond_to(request, from, &Reply { status, ..answers.clone() }, &tag, &[], None));
        match method {
            "ACK" => {
                self.on_ack(out, request);
                None
            }
            "CANCEL" => self.on_cancel_request(out, request, from, server_name, now),
            "BYE" => {
                if self.server.as_ref().is_some_and(|server| server.final_status.is_none()) {
                    self.respond(out, &Reply::status(487), server_name, now);
                }
                // No 2xx is repeated into a dialog that is over.
                if let Some(server) = self.server.as_mut() {
                    (server.next, server.give_up) = (None, None);
                }
                self.finish(out, End::ByeReceived);
                simple(200)
            }
            "INVITE" if self.end.is_some() => {
                self.invited.push(cseq);
                simple(481)
            }
            "INVITE" => {
                self.on_reinvite(out, request, from, server_name, now);
                None
            }
            _ if method != "INVITE" && !out.allow.split(", ").any(|allowed| allowed == method) => simple(405),
            "UPDATE" => {
                let answer =
                    request.sdp().map(|offer| self.media.as_mut().and_then(|media| media.answer(offer)));
                if matches!(answer, Some(None)) {
                    return simple(488);
                }
                let mut more = vec![("Contact".to_owned(), self.contact.clone())];
                more.extend(session_expires(request));
                Some(respond_to(request, from, &Reply::status(200), &tag, &more, answer.flatten()))
            }
            "INFO" | "OPTIONS" | "PRACK" => simple(200),
            _ => simple(405),
        }
    }

    pub(super) fn on_ack(&mut self, out: &mut Out, request: &Message) {
        let Some(server) = self.server.as_mut() else { return };
        let cseq = request.cseq().0;
        if cseq != server.request.cseq().0 {
            // An ACK that was overtaken by the next INVITE is nobody's fault.
            if !self.invited.contains(&cseq) {
                out.faults.push(format!("CSeq {cseq} of ACK is no INVITE's (§13.2.2.4)"));
            }
            return;
        }
        (server.next, server.give_up, server.acknowledged) = (None, None, true);
        if server.final_status.is_some_and(|status| status < 300) {
            self.confirmed = true;
        }
    }

    pub(super) fn on_cancel_request(
        &mut self,
        out: &mut Out,
        request: &Message,
        from: SocketAddr,
        server_name: Option<&str>,
        now: Instant,
    ) -> Option<Vec<u8>> {
        let tag = self.local_tag.clone();
        let answers = out.answers.clone();
        let reply =
            |status| Some(respond_to(request, from, &Reply { status, ..answers.clone() }, &tag, &[], None));
        let Some(server) = self.server.as_mut().filter(|server| server.request.branch() == request.branch())
        else {
            out.faults.push(format!("CANCEL matches no INVITE (RFC 3261 §9.1): {}", request.start_line()));
            return reply(481);
        };
        server.cancelled = true;
        if server.final_status.is_none() && self.on_cancel == OnCancel::Terminate {
            self.respond(out, &Reply::status(487), server_name, now);
            self.finish(out, End::Cancelled);
        }
        reply(200)
    }

    pub(super) fn on_reinvite(
        &mut self,
        out: &mut Out,
        request: &Message,
        from: SocketAddr,
        server_name: Option<&str>,
        now: Instant,
    ) {
        if let Some(contact) = request.header("contact") {
            message::uri_of(contact).clone_into(&mut self.target);
        }
        self.invited.push(request.cseq().0);
        self.server = Some(ServerInvite::new(request, from, None, false));
        // RFC 3261 §14.2: our own is still open.
        let crossing = self.client.as_ref().is_some_and(|client| !client.initial && !client.ended);
        let refusal = self.refuse_reinvites.or(crossing.then_some(491));
        let reply = refusal.map_or_else(|| Reply::with_sdp(200), Reply::status);
        self.respond(out, &reply, server_name, now);
    }

    pub(super) fn respond(&mut self, out: &mut Out, reply: &Reply, server_name: Option<&str>, now: Instant) {
        let Some(server) = self.server.as_mut().filter(|server| server.final_status.is_none()) else {
            return;
        };
        let tag = reply.to_tag.clone().unwrap_or_else(|| self.local_tag.clone());
        let sdp = match (&mut self.media, reply.sdp) {
            (Some(media), true) => match self.answers.get(&tag).filter(|_| server.initial) {
                Some(sent) => Some(sent.clone()),
                None => match server.request.sdp() {
                    Some(offer) => media.answer(offer),
                    None => Some(media.offer()),
                },
            },
            _ => None,
        };
        if let Some(sdp) = &sdp
            && server.initial
        {
            self.answers.insert(tag.clone(), sdp.clone());
        }
        let mut more = vec![];
        if reply.status < 300 {
            more.push(("Contact".to_owned(), reply.contact.clone().unwrap_or_else(|| self.contact.clone())));
            more.push(("Allow".to_owned(), out.allow.clone()));
            if !server.initial {
                more.extend(session_expires(&server.request));
            }
        } else if let Some(contact) = &reply.contact {
            more.push(("Contact".to_owned(), contact.clone()));
        }
        more.extend(server_name.map(|name| ("Server".to_owned(), name.to_owned())));
        let bytes = respond_to(&server.request, server.source, reply, &tag, &more, sdp);
        out.send(server.source, &bytes);
        server.last = Some(bytes);
        if tag != self.local_tag && !self.other_tags.contains(&tag) {
            self.other_tags.push(tag.clone());
        }
        if reply.status >= 200 {
            server.final_status = Some(reply.status);
            let repeats = reply.status < 300 || out.transport == Transport::Udp;
            server.next = repeats.then_some((now + T1, T1));
            server.give_up = Some(now + GIVE_UP);
            if reply.status < 300 && tag != self.local_tag {
                let usual = std::mem::replace(&mut self.local_tag, tag);
                self.other_tags.push(usual);
            }
            if reply.status >= 300 && server.initial {
                let end = if server.cancelled { End::Cancelled } else { End::Rejected(reply.status) };
                self.finish(out, end);
            }
        }
    }
}

//! Dialogs (RFC 3261 §12): tags, CSeq, route set and remote target of one leg, as plain values.
//!
//! Never sends and never parses; it says what a request inside the dialog looks like and which
//! incoming requests are in order.

use super::address::NameAddr;
use super::encode::{AddressOut, HeaderOut, RequestOut, ViaOut};
use super::key::DialogKey;
use super::message::{Method, Request, Response};
use super::uri::{Scheme, Uri};
use super::wire::ByteStr;

/// One dialog, early or confirmed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dialog {
    call_id: String,
    local_tag: String,
    remote_tag: String,
    local_uri: String,
    remote_uri: String,
    remote_target: String,
    /// In the order in which a request visits them.
    route_set: Vec<String>,
    local_cseq: u32,
    remote_cseq: Option<u32>,
}

impl Dialog {
    /// The dialog that our response to `invite` creates (RFC 3261 §12.1.1). `None` without a Contact,
    /// because nothing could ever be sent to such a peer.
    #[must_use]
    pub fn as_uas(invite: &Request, local_tag: &str, local_cseq: u32) -> Option<Self> {
        let head = &invite.head;
        Some(Self {
            call_id: head.call_id.to_string(),
            local_tag: local_tag.to_owned(),
            // RFC 3261 §12.1.1: a peer of RFC 2543 may send no tag; the remote tag is then null.
            remote_tag: head.from.tag().map(ToString::to_string).unwrap_or_default(),
            local_uri: head.to.uri.as_str().to_owned(),
            remote_uri: head.from.uri.as_str().to_owned(),
            remote_target: target_of(head.contact.as_ref()?),
            route_set: head.record_routes.iter().map(ToString::to_string).collect(),
            local_cseq,
            remote_cseq: Some(head.cseq.number),
        })
    }

    /// The dialog that `response` to our `invite` creates (RFC 3261 §12.1.2). A peer that names no Contact is
    /// reached where the INVITE went, so that even its call can be acknowledged and ended.
    #[must_use]
    pub fn as_uac(invite: &RequestOut, response: &Response) -> Self {
        let head = &response.head;
        Self {
            call_id: invite.call_id.clone(),
            local_tag: invite.from.tag.clone().unwrap_or_default(),
            remote_tag: head.to.tag().map(ToString::to_string).unwrap_or_default(),
            local_uri: invite.from.uri.clone(),
            remote_uri: invite.to.uri.clone(),
            remote_target: head.contact.as_ref().map_or_else(|| invite.uri.clone(), target_of),
            route_set: head.record_routes.iter().rev().map(ToString::to_string).collect(),
            local_cseq: invite.cseq,
            remote_cseq: None,
        }
    }

    /// Goes on counting where the early dialog that became this one has stopped (RFC 3261 §13.2.2.4).
    #[must_use]
    pub fn after(mut self, early: Option<&Self>, remote_cseq: Option<u32>) -> Self {
        self.local_cseq = early.map_or(self.local_cseq, |early| early.local_cseq);
        self.remote_cseq = remote_cseq.or(self.remote_cseq);
        self
    }

    /// What finds the call that this dialog belongs to.
    #[must_use]
    pub fn key(&self) -> DialogKey {
        DialogKey {
            call_id: ByteStr::from(self.call_id.as_str()),
            local_tag: ByteStr::from(self.local_tag.as_str()),
        }
    }

    /// The peer's tag; empty for a peer of RFC 2543.
    #[must_use]
    pub fn remote_tag(&self) -> &str {
        &self.remote_tag
    }

    /// Does `request`, whose Call-ID and To tag are ours, come from this dialog's peer (RFC 3261 §12)?
    #[must_use]
    pub fn is_from_peer(&self, request: &Request) -> bool {
        request.head.from.tag().map(|tag| &**tag).unwrap_or_default() == self.remote_tag
    }

    /// Takes the request's CSeq. False when it is older than what was seen: the answer is 500
    /// (RFC 3261 §12.2.2). An ACK carries its INVITE's number and is always in order.
    pub fn take_cseq(&mut self, request: &Request) -> bool {
        let number = request.head.cseq.number;
        if request.method == Method::ACK {
            return true;
        }
        let in_order = self.remote_cseq.is_none_or(|seen| number > seen);
        if in_order {
            self.remote_cseq = Some(number);
        }
        in_order
    }

    /// A target refresh: re-INVITE, UPDATE and their 2xx move the remote target (RFC 3261 §12.2, RFC 6141 §4).
    pub fn refresh_target(&mut self, contact: Option<&NameAddr>) {
        if let Some(contact) = contact {
            self.remote_target = target_of(contact);
        }
    }

    /// Where the next request of the dialog goes: the first route, or else the remote target. `None` when that is no
    /// SIP URI, so that it says nothing of where the peer is.
    #[must_use]
    pub fn next_hop(&self) -> Option<Uri> {
        let next = match self.route_set.first() {
            Some(route) => route_uri(route),
            None => Uri::parse(&self.remote_target),
        };
        next.filter(|uri| matches!(uri.scheme(), Scheme::Sip | Scheme::Sips))
    }

    /// Must the Contact of our answer to `invite`, which this dialog is of, be a SIPS URI (RFC 3261 §12.1.1)? When
    /// the Request-URI is one, or the top Record-Route, or without any Record-Route the peer's Contact.
    #[must_use]
    pub fn wants_sips(&self, invite: &Request) -> bool {
        let is_sips = |uri: &Uri| uri.scheme() == Scheme::Sips;
        is_sips(&invite.uri) || self.next_hop().as_ref().is_some_and(is_sips)
    }

    /// A new request inside the dialog, with the next CSeq (RFC 3261 §12.2.1.1).
    #[must_use]
    pub fn request(&mut self, method: Method, via: ViaOut, contact: Option<String>) -> RequestOut {
        self.local_cseq = self.local_cseq.saturating_add(1);
        self.build(method, self.local_cseq, via, contact)
    }

    /// The CSeq of a request of this dialog that is sent once more, with credentials (RFC 3261 §22.2); of a request of
    /// another fork's dialog it is simply the next one.
    #[must_use]
    pub fn cseq_after(&mut self, request: &RequestOut) -> u32 {
        let ours = request.to.tag.as_deref().unwrap_or_default() == self.remote_tag;
        if !ours {
            return request.cseq.saturating_add(1);
        }
        self.local_cseq = self.local_cseq.max(request.cseq).saturating_add(1);
        self.local_cseq
    }

    /// The ACK of a 2xx: a transaction of its own with the INVITE's CSeq (RFC 3261 §13.2.2.4).
    #[must_use]
    pub fn ack(&self, invite_cseq: u32, via: ViaOut) -> RequestOut {
        self.build(Method::ACK, invite_cseq, via, None)
    }

    fn build(&self, method: Method, cseq: u32, via: ViaOut, contact: Option<String>) -> RequestOut {
        let mut routes = self.route_set.clone();
        let mut uri = self.remote_target.clone();
        // A strict router takes the Request-URI's place, and the target goes to the end of the route (§12.2.1.1).
        if let Some(strict) = routes.first().and_then(|first| route_uri(first)).filter(|first| !first.lr()) {
            routes.remove(0);
            routes.push(format!("<{uri}>"));
            strict.as_str().clone_into(&mut uri);
        }
        RequestOut {
            method,
            uri,
            via,
            max_forwards: 70,
            from: AddressOut { uri: self.local_uri.clone(), tag: Some(self.local_tag.clone()) },
            to: AddressOut {
                uri: self.remote_uri.clone(),
                tag: Some(self.remote_tag.clone()).filter(|tag| !tag.is_empty()),
            },
            call_id: self.call_id.clone(),
            cseq,
            contact,
            routes,
            headers: Vec::<HeaderOut>::new(),
            body: None,
        }
    }
}

fn target_of(contact: &NameAddr) -> String {
    contact.uri.as_str().to_owned()
}

/// The URI inside `<…>` of a Route or Record-Route value.
fn route_uri(route: &str) -> Option<Uri> {
    let inner =
        route.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map_or(route, |(uri, _)| uri);
    Uri::parse(inner.trim())
}

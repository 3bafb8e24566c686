//! Every outgoing message of a leg is built here, from typed values only (leaks.md).
//!
//! Nothing in this file takes a message, header or body of the *other* leg: a callee's number goes into its
//! own leg's Request-URI and To, the virtual number into From, and that is all that ever crosses.

use crate::call::cdr::HangupCause;
use crate::number::{Did, E164};
use crate::sip::encode::{AddressOut, BodyOut, HeaderOut, RequestOut, ResponseHead, ResponseOut, ViaOut};
use crate::sip::message::{Head, Method};
use crate::sip::session_timer::Agreed;
use crate::sip::transport::Protocol;
use crate::trunk::{Gateway, IdentityHeader, Prack, Trunk};
use std::net::{IpAddr, SocketAddr};

/// Option tags that we understand (RFC 3262, RFC 4028); `Require` with any other is 420.
pub const SUPPORTED: &[&str] = &["100rel", "timer"];

/// What a request requires of us and we do not have, for its 420 (RFC 3261 §8.2.2.3).
#[must_use]
pub fn unsupported(head: &Head) -> Option<HeaderOut> {
    let mut tags = head.tokens("Require");
    tags.retain(|tag| !SUPPORTED.iter().any(|known| known.eq_ignore_ascii_case(tag)));
    (!tags.is_empty()).then_some(HeaderOut::Unsupported(tags))
}

/// Where one leg is reached: what Via, Contact and SDP show to its peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LegAddress {
    /// The transport of requests that we send.
    pub protocol: Protocol,
    /// The advertised signalling address.
    pub sip: SocketAddr,
    /// The advertised media address.
    pub media: IpAddr,
    /// The local address that media sockets are bound to.
    pub bind: IpAddr,
    /// An opaque user part for Contact, the same for the whole leg.
    pub contact_user: String,
    /// The peer asked for `sips:`, so our Contact is such a URI too (RFC 3261 §12.1.1).
    pub sips: bool,
}

impl LegAddress {
    /// The top Via of a request.
    #[must_use]
    pub fn via(&self, protocol: Protocol, branch: String) -> ViaOut {
        ViaOut { transport: protocol.via_name(), sent_by: self.sip.to_string(), branch }
    }

    /// Our Contact URI on this leg.
    #[must_use]
    pub fn contact(&self) -> String {
        if self.sips {
            return format!("sips:{}@{}", self.contact_user, self.sip);
        }
        let transport = match self.protocol {
            Protocol::Udp => "",
            Protocol::Tcp => ";transport=tcp",
            Protocol::Tls => ";transport=tls",
        };
        format!("sip:{}@{}{transport}", self.contact_user, self.sip)
    }
}

/// Who is called, and as whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Callee {
    /// A party of the session, by number, through the trunk's gateway.
    Party {
        /// The party; its digits go into this leg's Request-URI and To only.
        number: E164,
        /// `host[:port]` of the gateway.
        gateway: String,
    },
    /// A fixed URI of the configuration (`no_session = "sip:…"`).
    Fixed(String),
}

impl Callee {
    fn uri(&self, trunk: &Trunk) -> String {
        match self {
            Self::Party { number, gateway } => {
                format!("sip:{}@{gateway};user=phone", trunk.write_number(number.digits()))
            }
            Self::Fixed(uri) => uri.clone(),
        }
    }
}

/// The values of a B-leg's INVITE that are drawn at random or counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InviteIds {
    /// Without a host part.
    pub call_id: String,
    /// Our From tag.
    pub tag: String,
    /// First CSeq.
    pub cseq: u32,
    /// Via branch.
    pub branch: String,
}

/// The INVITE of a B-leg: From and Contact are the virtual number's and ours, SDP carries our ports.
#[must_use]
pub fn invite(
    from: &Did,
    callee: &Callee,
    trunk: &Trunk,
    address: &LegAddress,
    ids: InviteIds,
    max_forwards: u8,
    sdp: String,
) -> RequestOut {
    let uri = callee.uri(trunk);
    let caller = format!("sip:{}@{};user=phone", trunk.write_number(from.digits()), host(address));
    let mut headers = invite_headers(trunk);
    headers.extend(own_identity(trunk.identity, &caller));
    RequestOut {
        method: Method::INVITE,
        uri: uri.clone(),
        via: address.via(address.protocol, ids.branch),
        max_forwards,
        from: AddressOut { uri: caller, tag: Some(ids.tag) },
        to: AddressOut { uri, tag: None },
        call_id: ids.call_id,
        cseq: ids.cseq,
        contact: Some(address.contact()),
        routes: Vec::new(),
        headers,
        body: Some(BodyOut::Sdp(sdp)),
    }
}

fn invite_headers(trunk: &Trunk) -> Vec<HeaderOut> {
    let supported = if trunk.prack == Prack::Off { &["timer"] } else { SUPPORTED };
    let required = (trunk.prack == Prack::Required).then_some(HeaderOut::Require(&["100rel"]));
    let interval = trunk.session_timer;
    let expires = interval.map(|seconds| HeaderOut::SessionExpires { seconds, refresher: None });
    let mut headers = vec![HeaderOut::Allow, HeaderOut::Accept, HeaderOut::Supported(supported)];
    headers.extend(required.into_iter().chain(expires));
    headers
}

/// What a refresh of ours says beside its session timer (RFC 4028 §7.1, RFC 3311 §5.1).
pub fn capabilities(timer: [Option<HeaderOut>; 2]) -> impl Iterator<Item = HeaderOut> {
    [HeaderOut::Allow, HeaderOut::Supported(SUPPORTED)].into_iter().chain(timer.into_iter().flatten())
}

/// The session timer in a 2xx of ours (RFC 4028 §9).
pub fn session(agreed: Agreed) -> impl Iterator<Item = HeaderOut> {
    let Agreed { seconds, refresher, required } = agreed;
    let expires = HeaderOut::SessionExpires { seconds, refresher: Some(refresher.as_str()) };
    [Some(expires), required.then_some(HeaderOut::Require(&["timer"]))].into_iter().flatten()
}

/// Who calls, once more, for a carrier that looks elsewhere than in From. `caller` is the virtual number's URI.
fn own_identity(wanted: IdentityHeader, caller: &str) -> Option<HeaderOut> {
    match wanted {
        IdentityHeader::None => None,
        IdentityHeader::PAssertedIdentity => Some(HeaderOut::PAssertedIdentity(caller.to_owned())),
        IdentityHeader::RemotePartyId => Some(HeaderOut::RemotePartyId(caller.to_owned())),
    }
}

/// OPTIONS to a gateway, outside any call (RFC 3261 §11.1): from nobody, about nobody.
#[must_use]
pub fn options(gateway: &Gateway, address: &LegAddress, ids: InviteIds) -> RequestOut {
    let uri = gateway.to_string();
    RequestOut {
        method: Method::OPTIONS,
        uri: uri.clone(),
        via: address.via(address.protocol, ids.branch),
        max_forwards: 70,
        from: AddressOut { uri: format!("sip:{}", host(address)), tag: Some(ids.tag) },
        to: AddressOut { uri, tag: None },
        call_id: ids.call_id,
        cseq: ids.cseq,
        contact: Some(address.contact()),
        routes: Vec::new(),
        headers: vec![HeaderOut::Allow, HeaderOut::Accept],
        body: None,
    }
}

/// Retry-After (RFC 3261 §20.33): seconds, then perhaps a comment and parameters, which change nothing here.
#[must_use]
pub fn retry_after(head: &Head) -> Option<u32> {
    let value = head.header("Retry-After")?;
    value.trim_start().split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn host(address: &LegAddress) -> String {
    match address.sip.ip() {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    }
}

/// CANCEL of `invite` (RFC 3261 §9.1): the same Request-URI, Call-ID, To, From, CSeq number and branch.
#[must_use]
pub fn cancel(invite: &RequestOut) -> RequestOut {
    RequestOut {
        method: Method::CANCEL,
        uri: invite.uri.clone(),
        via: invite.via.clone(),
        max_forwards: 70,
        from: invite.from.clone(),
        to: invite.to.clone(),
        call_id: invite.call_id.clone(),
        cseq: invite.cseq,
        contact: None,
        routes: invite.routes.clone(),
        headers: Vec::new(),
        body: None,
    }
}

/// ACK of a final failure (RFC 3261 §17.1.1.3): part of the INVITE's transaction, with the response's To tag.
#[must_use]
pub fn ack_of_failure(invite: &RequestOut, to_tag: Option<&str>) -> RequestOut {
    let mut ack = cancel(invite);
    ack.method = Method::ACK;
    ack.to.tag = to_tag.map(ToOwned::to_owned);
    ack
}

/// Why a leg ends, as RFC 3326 cause: the number only, never a text.
#[must_use]
pub fn reason(cause: HangupCause) -> HeaderOut {
    HeaderOut::Reason { protocol: "Q.850", cause: cause.q850() }
}

/// A response with what every response of ours carries; the caller adds Contact and body.
#[must_use]
pub fn response(head: &ResponseHead, status: u16, to_tag: Option<&str>) -> ResponseOut {
    let headers = match status {
        405 => vec![HeaderOut::Allow],
        415 => vec![HeaderOut::Accept],
        _ => Vec::new(),
    };
    ResponseOut {
        head: head.clone(),
        status,
        to_tag: to_tag.map(ToOwned::to_owned),
        contact: None,
        record_route: false,
        headers,
        body: None,
    }
}

/// A 18x or 2xx to an INVITE: creates or confirms the dialog, so it repeats Record-Route and names our Contact
/// (RFC 3261 §12.1.1).
#[must_use]
pub fn dialog_response(
    head: &ResponseHead,
    status: u16,
    to_tag: &str,
    address: &LegAddress,
    sdp: Option<&str>,
) -> ResponseOut {
    ResponseOut {
        contact: Some(address.contact()),
        record_route: true,
        headers: match status {
            200.. => vec![HeaderOut::Allow, HeaderOut::Accept, HeaderOut::Supported(SUPPORTED)],
            _ => Vec::new(),
        },
        body: sdp.map(|sdp| BodyOut::Sdp(sdp.to_owned())),
        ..response(head, status, Some(to_tag))
    }
}

/// How a failure of the B-leg is told to the A-leg: the code is mapped, never passed with the peer's phrase.
#[must_use]
pub fn status_for_caller(status: u16) -> u16 {
    match status {
        486 | 487 | 600 | 603 => status,
        404 | 408 | 410 | 480 | 484 | 604 => 480,
        415 | 488 | 606 => 488,
        // 401, 402, 403, 407, 3xx, 5xx, and what nobody expects.
        _ => 500,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_of_the_b_leg_are_mapped_as_the_product_says() {
        let table: &[(&[u16], u16)] = &[
            (&[404, 408, 410, 480, 484, 604], 480),
            (&[300, 301, 302, 380, 401, 402, 403, 407, 500, 501, 502, 503, 504, 513], 500),
            (&[415, 488, 606], 488),
        ];
        for &(statuses, expected) in table {
            for &status in statuses {
                assert_eq!(status_for_caller(status), expected, "{status}");
            }
        }
        for status in [486, 487, 600, 603] {
            assert_eq!(status_for_caller(status), status);
        }
    }
}

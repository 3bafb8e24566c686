//! The text of the load's messages (RFC 3261 §7); no state, and no judgement of what it answers.

use std::net::SocketAddr;

use sip_tests::message::{self, Message};

use crate::phones::CALLER;

/// The first lines of a request of the caller with that number, up to CSeq.
pub(crate) fn request(own: SocketAddr, index: usize, method: (&str, u32), uri: &str, to: &str) -> String {
    let (method, cseq) = method;
    format!(
        "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/UDP {own};branch=z9hG4bK{index}-{method}{cseq}\r\nMax-Forwards: 70\r\n\
         From: <sip:{CALLER}@{own}>;tag=c{index}\r\nTo: {to}\r\nCall-ID: {index}-load@{own}\r\nCSeq: {cseq} {method}\r\n"
    )
}

/// The caller of a message on the callers' side: what [`request`] wrote into the Call-ID.
pub(crate) fn caller_of(message: &Message) -> Option<usize> {
    message.call_id().split('-').next()?.parse().ok()
}

/// RFC 3261 §8.2.6: what a response repeats of its request, and, when it makes a dialog, Contact and description.
pub(crate) fn response(
    request: &Message,
    status: u16,
    tag: &str,
    dialog: Option<(&str, Option<SocketAddr>)>,
) -> Vec<u8> {
    let mut text = format!("SIP/2.0 {status} {}\r\n", message::phrase(status));
    for (name, value) in request.headers() {
        if ["via", "v", "from", "f", "call-id", "i", "cseq"].contains(&name.to_ascii_lowercase().as_str()) {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
    }
    let to = request.header("to").unwrap_or_default();
    let own_tag = if request.to_tag().is_some() { String::new() } else { format!(";tag={tag}") };
    text.push_str(&format!("To: {to}{own_tag}\r\n"));
    let (contact, media) = dialog.unzip();
    if let Some(contact) = contact {
        text.push_str(&format!("Contact: {contact}\r\n"));
    }
    match media.flatten() {
        None => text.push_str("Content-Length: 0\r\n\r\n"),
        Some(media) => {
            let sdp = description(media);
            text.push_str(
                "Allow: INVITE, ACK, BYE, CANCEL, OPTIONS, UPDATE\r\nContent-Type: application/sdp\r\n",
            );
            text.push_str(&format!("Content-Length: {}\r\n\r\n{sdp}", sdp.len()));
        }
    }
    text.into_bytes()
}

/// PCMU and telephone-event at this address.
pub(crate) fn description(media: SocketAddr) -> String {
    let (ip, port) = (media.ip(), media.port());
    format!(
        "v=0\r\no=- {port} 1 IN IP4 {ip}\r\ns=-\r\nc=IN IP4 {ip}\r\nt=0 0\r\nm=audio {port} RTP/AVP 0 101\r\n\
         a=rtpmap:0 PCMU/8000\r\na=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-15\r\na=ptime:20\r\na=sendrecv\r\n"
    )
}

//! What a message belongs to: transactions (RFC 3261 §17.2.3) and dialogs (§12).

use super::message::{Method, Request, Response};
use super::uri::Uri;
use super::wire::ByteStr;

/// What the branches of RFC 3261 clients begin with (§8.1.1.7).
const COOKIE: &str = "z9hG4bK";

/// Identifies a server transaction. ACK and CANCEL have keys of their own; [`Self::of_invite`] gives the key
/// of the INVITE that they are about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum TransactionKey {
    /// RFC 3261 §17.2.3: branch, sent-by and method.
    Branch {
        /// With its cookie, as received.
        branch: ByteStr,
        /// Host of sent-by in lower case.
        host: ByteStr,
        /// Port of sent-by, as far as given.
        port: Option<u16>,
        /// The method.
        method: Method,
    },
    /// The rule for RFC 2543 clients, and for those whose branch is the bare cookie (RFC 4475 §3.2.1).
    Legacy {
        /// As received.
        call_id: ByteStr,
        /// As far as given. The To tag is left out: an ACK carries the one that our response put there.
        from_tag: Option<ByteStr>,
        /// Its number.
        cseq: u32,
        /// The Request-URI.
        uri: Uri,
        /// The topmost Via as received.
        via: ByteStr,
        /// The method.
        method: Method,
    },
}

impl TransactionKey {
    /// The key of the transaction that `request` starts or repeats.
    #[must_use]
    pub fn of_request(request: &Request) -> Self {
        Self::with_method(request, request.method.clone())
    }

    /// The key of the INVITE transaction that this ACK (of a final response other than 2xx) or CANCEL is
    /// about (RFC 3261 §17.1.1.3, §9.1).
    #[must_use]
    pub fn of_invite(request: &Request) -> Self {
        Self::with_method(request, Method::INVITE)
    }

    fn with_method(request: &Request, method: Method) -> Self {
        let head = &request.head;
        match &head.via.branch {
            Some(branch) if is_rfc3261(branch) => Self::Branch {
                branch: branch.clone(),
                host: lower_case(&head.via.host),
                port: head.via.port,
                method,
            },
            _ => Self::Legacy {
                call_id: head.call_id.clone(),
                from_tag: head.from.tag().cloned(),
                cseq: head.cseq.number,
                uri: request.uri.clone(),
                via: head.via.raw().clone(),
                method,
            },
        }
    }
}

/// Whether the branch follows the cookie with an identifier.
fn is_rfc3261(branch: &str) -> bool {
    branch.len() > COOKIE.len() && branch.get(..COOKIE.len()).is_some_and(|c| c.eq_ignore_ascii_case(COOKIE))
}

/// Shares the memory unless something must change.
fn lower_case(host: &ByteStr) -> ByteStr {
    if host.bytes().any(|b| b.is_ascii_uppercase()) { host.to_ascii_lowercase().into() } else { host.clone() }
}

/// Enough of a dialog id to find a leg (RFC 3261 §12); the remote tag is the leg's to check.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DialogKey {
    /// Of the dialog.
    pub call_id: ByteStr,
    /// The tag that we chose.
    pub local_tag: ByteStr,
}

impl DialogKey {
    /// The dialog that a request is sent within; `None` when its To has no tag.
    #[must_use]
    pub fn of_request(request: &Request) -> Option<Self> {
        let head = &request.head;
        head.to.tag().map(|tag| Self { call_id: head.call_id.clone(), local_tag: tag.clone() })
    }

    /// The dialog, perhaps yet to be, of the request that a response answers; `None` when its From has no
    /// tag, which no request of ours lacks.
    #[must_use]
    pub fn of_response(response: &Response) -> Option<Self> {
        let head = &response.head;
        head.from.tag().map(|tag| Self { call_id: head.call_id.clone(), local_tag: tag.clone() })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::sip::message::Message;

    fn request(method: &str, via: &str, to_tag: &str) -> Request {
        let text = format!(
            "{method} sip:+12025550100@h SIP/2.0\r\nVia: SIP/2.0/UDP {via}\r\nFrom: <sip:a@h>;tag=1\r\n\
             To: <sip:b@h>{to_tag}\r\nCall-ID: c\r\nCSeq: 7 {method}\r\n\r\n"
        );
        let Ok(Message::Request(request)) = Message::parse(Bytes::from(text)) else {
            panic!("{method} {via}")
        };
        request
    }

    #[test]
    fn rfc3261_17_2_3_matching() {
        let key = |method, via| TransactionKey::of_request(&request(method, via, ""));
        let invite = key("INVITE", "h:5060;branch=z9hG4bK1");
        let table = [
            ("the same request again", "INVITE", "h:5060;branch=z9hG4bK1;rport", true),
            ("host names have no case", "INVITE", "H:5060;branch=z9hG4bK1", true),
            ("another branch", "INVITE", "h:5060;branch=z9hG4bK2", false),
            ("another sent-by with the same branch", "INVITE", "i:5060;branch=z9hG4bK1", false),
            ("another port with the same branch", "INVITE", "h:5061;branch=z9hG4bK1", false),
            ("another method", "BYE", "h:5060;branch=z9hG4bK1", false),
            ("CANCEL is a transaction of its own", "CANCEL", "h:5060;branch=z9hG4bK1", false),
        ];
        for (requirement, method, via, same) in table {
            assert_eq!(key(method, via) == invite, same, "{requirement}");
        }
    }

    #[test]
    fn ack_and_cancel_find_their_invite() {
        for via in ["h;branch=z9hG4bK1", "h;branch=z9hG4bK", "h;branch=1", "h"] {
            let invite = TransactionKey::of_request(&request("INVITE", via, ""));
            for (method, to_tag) in [("ACK", ";tag=ours"), ("CANCEL", "")] {
                let request = request(method, via, to_tag);
                assert_eq!(TransactionKey::of_invite(&request), invite, "{method} {via}");
                assert_ne!(TransactionKey::of_request(&request), invite, "{method} {via}");
            }
        }
        let bare = TransactionKey::of_request(&request("INVITE", "h;branch=z9hG4bK", ""));
        assert!(matches!(bare, TransactionKey::Legacy { .. }), "RFC 4475 §3.2.1");
    }

    #[test]
    fn dialogs_are_found_by_our_own_tag() {
        let key = |tag: &str| DialogKey { call_id: "c".into(), local_tag: tag.into() };
        assert_eq!(DialogKey::of_request(&request("BYE", "h", ";tag=ours")), Some(key("ours")));
        assert_eq!(DialogKey::of_request(&request("INVITE", "h", "")), None);
        let response = "SIP/2.0 180 R\r\nVia: SIP/2.0/UDP h\r\nFrom: <sip:a@h>;tag=ours\r\nTo: <sip:b@h>;tag=x\r\n\
                        Call-ID: c\r\nCSeq: 7 INVITE\r\n\r\n";
        let Ok(Message::Response(response)) = Message::parse(Bytes::from(response)) else { panic!() };
        assert_eq!(DialogKey::of_response(&response), Some(key("ours")));
    }
}

//! SIP messages as text: a tolerant reader of what arrives and a plain writer (RFC 3261 §7).
//!
//! The reader keeps everything as it was received and judges nothing; [`Message::faults`] does that.

use std::fmt;
use std::net::SocketAddr;

/// Long and compact forms of header names (RFC 3261 §7.3.3 and later registrations).
const COMPACT: &[(&str, &str)] = &[
    ("call-id", "i"),
    ("contact", "m"),
    ("content-encoding", "e"),
    ("content-length", "l"),
    ("content-type", "c"),
    ("from", "f"),
    ("subject", "s"),
    ("supported", "k"),
    ("to", "t"),
    ("via", "v"),
    ("refer-to", "r"),
    ("referred-by", "b"),
    ("event", "o"),
    ("allow-events", "u"),
    ("session-expires", "x"),
    ("identity", "y"),
    ("accept-contact", "a"),
    ("reject-contact", "j"),
    ("request-disposition", "d"),
];

fn same_name(wanted: &str, seen: &str) -> bool {
    wanted.eq_ignore_ascii_case(seen)
        || COMPACT.iter().any(|(long, short)| {
            (wanted.eq_ignore_ascii_case(long) && seen.eq_ignore_ascii_case(short))
                || (wanted.eq_ignore_ascii_case(short) && seen.eq_ignore_ascii_case(long))
        })
}

/// A SIP message as it was received.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    start: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    raw: Vec<u8>,
}

impl Message {
    /// Splits a message into start line, unfolded headers and body. `None` when it has no start line
    /// of SIP/2.0; bytes that are not UTF-8 are replaced in headers and kept in the body.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let split = find(bytes, b"\r\n\r\n").map_or(bytes.len(), |at| at + 4);
        let (head, rest) = bytes.split_at_checked(split)?;
        let head = String::from_utf8_lossy(head);
        let mut lines = head.lines();
        let start = lines.next()?.trim_end().to_owned();
        if !start.starts_with("SIP/2.0 ") && !start.ends_with(" SIP/2.0") {
            return None;
        }
        let mut headers: Vec<(String, String)> = vec![];
        for line in lines {
            if line.is_empty() {
                break;
            }
            if line.starts_with([' ', '\t']) {
                if let Some((_, value)) = headers.last_mut() {
                    value.push(' ');
                    value.push_str(line.trim());
                }
            } else if let Some((name, value)) = line.split_once(':') {
                headers.push((name.trim().to_owned(), value.trim().to_owned()));
            }
        }
        let mut message = Self { start, headers, body: vec![], raw: bytes.to_vec() };
        let length = message.header("content-length").and_then(|l| l.parse().ok()).unwrap_or(rest.len());
        message.body = rest.get(..length.min(rest.len())).unwrap_or_default().to_vec();
        Some(message)
    }

    /// Request or status line.
    #[must_use]
    pub fn start_line(&self) -> &str {
        &self.start
    }

    /// The method of a request.
    #[must_use]
    pub fn method(&self) -> Option<&str> {
        (!self.start.starts_with("SIP/2.0 ")).then(|| self.start.split(' ').next().unwrap_or_default())
    }

    /// True for a request of that method.
    #[must_use]
    pub fn is(&self, method: &str) -> bool {
        self.method() == Some(method)
    }

    /// The Request-URI.
    #[must_use]
    pub fn uri(&self) -> Option<&str> {
        self.method().and_then(|_| self.start.split(' ').nth(1))
    }

    /// The status of a response.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        self.start.strip_prefix("SIP/2.0 ")?.split(' ').next()?.parse().ok()
    }

    /// The reason phrase of a response.
    #[must_use]
    pub fn phrase(&self) -> Option<&str> {
        self.start.strip_prefix("SIP/2.0 ")?.split_once(' ').map(|(_, phrase)| phrase)
    }

    /// The first header of that name, in long or compact form.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(seen, _)| same_name(name, seen)).map(|(_, value)| value.as_str())
    }

    /// The values of all headers of that name, comma lists split; quotes and angle brackets are respected.
    #[must_use]
    pub fn values(&self, name: &str) -> Vec<&str> {
        self.headers
            .iter()
            .filter(|(seen, _)| same_name(name, seen))
            .flat_map(|(_, v)| split_list(v))
            .collect()
    }

    /// Every header in order, as received.
    #[must_use]
    pub fn headers(&self) -> &[(String, String)] {
        &self.headers
    }

    /// Names of all headers, in lower case and long form.
    #[must_use]
    pub fn header_names(&self) -> Vec<String> {
        let long = |name: &str| COMPACT.iter().find(|(_, s)| name == *s).map(|(l, _)| (*l).to_owned());
        self.headers.iter().map(|(n, _)| n.to_ascii_lowercase()).map(|n| long(&n).unwrap_or(n)).collect()
    }

    /// The body.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// The body when it is SDP.
    #[must_use]
    pub fn sdp(&self) -> Option<&[u8]> {
        let kind = self.header("content-type")?.to_ascii_lowercase();
        (kind.starts_with("application/sdp") && !self.body.is_empty()).then_some(self.body.as_slice())
    }

    /// The message as it came.
    #[must_use]
    pub fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// The message as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.raw).into_owned()
    }

    /// Call-ID.
    #[must_use]
    pub fn call_id(&self) -> &str {
        self.header("call-id").unwrap_or_default()
    }

    /// Number and method of CSeq.
    #[must_use]
    pub fn cseq(&self) -> (u32, &str) {
        let (number, method) = self.header("cseq").unwrap_or_default().split_once(' ').unwrap_or_default();
        (number.parse().unwrap_or(0), method.trim())
    }

    /// The tag of From.
    #[must_use]
    pub fn from_tag(&self) -> Option<&str> {
        self.header("from").and_then(|value| parameter(after_uri(value), "tag"))
    }

    /// The tag of To.
    #[must_use]
    pub fn to_tag(&self) -> Option<&str> {
        self.header("to").and_then(|value| parameter(after_uri(value), "tag"))
    }

    /// The branch of the topmost Via.
    #[must_use]
    pub fn branch(&self) -> Option<&str> {
        self.values("via").first().and_then(|via| parameter(via, "branch"))
    }

    /// What in this message breaks RFC 3261, as far as a plain peer can see it; empty when all is well.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let mut faults = vec![];
        let mut wrong = |fault: &str| faults.push(format!("{}: {fault}", self.start));
        for name in ["via", "from", "to", "call-id", "cseq"] {
            let count = self.header_names().iter().filter(|seen| *seen == name).count();
            if count == 0 {
                wrong(&format!("no {name} (§8.1.1)"));
            } else if name != "via" && count > 1 {
                wrong(&format!("{count} headers {name} (§7.3.1)"));
            }
        }
        if self.from_tag().is_none_or(str::is_empty) {
            wrong("From without tag (§8.1.1.3)");
        }
        if !self.branch().is_some_and(|branch| branch.starts_with("z9hG4bK")) {
            wrong("branch without magic cookie (§8.1.1.7)");
        }
        let (number, method) = self.cseq();
        if number >= 1 << 31 {
            wrong("CSeq not below 2^31 (§8.1.1.5)");
        }
        if let Some(own) = self.method() {
            if own != method {
                wrong("CSeq names another method (§8.1.1.5)");
            }
            if self.header("max-forwards").is_none() {
                wrong("no Max-Forwards (§8.1.1.6)");
            }
            if self.uri().is_none_or(|uri| !uri.contains(':')) {
                wrong("no Request-URI (§8.1.1.1)");
            }
        }
        if self.status().is_some_and(|status| status > 100) && self.to_tag().is_none() {
            wrong("response without To tag (§8.2.6.2)");
        }
        let creates = self.is("INVITE")
            || (self.status().is_some_and(|s| (200..300).contains(&s)) && method == "INVITE");
        if creates && self.values("contact").len() != 1 {
            wrong("not exactly one Contact (§8.1.1.8, §12.1.1)");
        }
        match self.header("content-length").map(str::parse::<usize>) {
            Some(Ok(length)) if length == self.raw.len() - self.head_length() => {}
            Some(_) => wrong("Content-Length does not match the body (§18.3)"),
            None => wrong("no Content-Length (§20.14)"),
        }
        if !self.body.is_empty() && self.header("content-type").is_none() {
            wrong("body without Content-Type (§20.15)");
        }
        faults
    }

    fn head_length(&self) -> usize {
        find(&self.raw, b"\r\n\r\n").map_or(self.raw.len(), |at| at + 4)
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Message({})", self.start)
    }
}

/// Writes a message: start line, headers in order, Content-Length, body.
#[must_use]
pub fn write(start: &str, headers: &[(String, String)], body: &[u8]) -> Vec<u8> {
    let mut text = format!("{start}\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
    let mut bytes = text.into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// Where `needle` begins in `hay`.
#[must_use]
pub fn find(hay: &[u8], needle: &[u8]) -> Option<usize> {
    if needle.is_empty() { None } else { memchr::memmem::find(hay, needle) }
}

/// Splits at commas outside quotes and angle brackets.
fn split_list(value: &str) -> Vec<&str> {
    let (mut parts, mut begin, mut quoted, mut escaped, mut depth) = (vec![], 0, false, false, 0u32);
    for (at, c) in value.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '<' if !quoted => depth += 1,
            '>' if !quoted => depth = depth.saturating_sub(1),
            ',' if !quoted && depth == 0 => {
                parts.extend(value.get(begin..at).map(str::trim));
                begin = at + 1;
            }
            _ => {}
        }
    }
    parts.extend(value.get(begin..).map(str::trim));
    parts
}

/// The URI of `"Name" <uri>;params` or `uri;params`.
#[must_use]
pub fn uri_of(value: &str) -> &str {
    let unquoted = skip_quoted(value);
    match unquoted.split_once('<') {
        Some((_, rest)) => rest.split('>').next().unwrap_or_default(),
        None => unquoted.split(';').next().unwrap_or_default().trim(),
    }
}

/// The display name of a From, To or Contact, without quotes.
#[must_use]
pub fn display_name(value: &str) -> Option<&str> {
    let (before, _) = value.rsplit_once('<')?;
    let name = before.trim().trim_matches('"');
    (!name.is_empty()).then_some(name)
}

fn skip_quoted(value: &str) -> &str {
    let Some(rest) = value.trim_start().strip_prefix('"') else { return value };
    let mut escaped = false;
    for (at, c) in rest.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return rest.get(at + 1..).unwrap_or_default(),
            _ => {}
        }
    }
    ""
}

fn after_uri(value: &str) -> &str {
    let unquoted = skip_quoted(value);
    unquoted.split_once('>').map_or(unquoted, |(_, rest)| rest)
}

/// The value of `;name=value` in what follows an address; `Some("")` when it has none.
#[must_use]
pub fn parameter<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.split(';').skip(1).find_map(|part| {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        key.trim().eq_ignore_ascii_case(name).then(|| value.trim().trim_matches('"'))
    })
}

/// The user part of a URI, as written.
#[must_use]
pub fn user_of(uri: &str) -> Option<&str> {
    let (scheme, rest) = uri.split_once(':')?;
    if scheme.eq_ignore_ascii_case("tel") {
        return rest.split(';').next();
    }
    rest.split_once('@').map(|(user, _)| user)
}

/// The host of a URI and its port when it names one; the brackets of an IPv6 host are taken off.
#[must_use]
pub fn host_of(uri: &str) -> Option<(&str, Option<u16>)> {
    let (_, rest) = uri.split_once(':')?;
    let rest = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    let rest = rest.split([';', '?']).next()?;
    if let Some(rest) = rest.strip_prefix('[') {
        let (host, port) = rest.split_once(']')?;
        return Some((host, port.strip_prefix(':').and_then(|port| port.parse().ok())));
    }
    Some(match rest.split_once(':') {
        Some((host, port)) => (host, port.parse().ok()),
        None => (rest, None),
    })
}

/// Where a URI with an address instead of a name leads: port 5060 unless it says another.
#[must_use]
pub fn socket_of(uri: &str) -> Option<SocketAddr> {
    let (host, port) = host_of(uri)?;
    Some(SocketAddr::new(host.parse().ok()?, port.unwrap_or(5060)))
}

/// A reason phrase for what the phones answer.
#[must_use]
pub fn phrase(status: u16) -> &'static str {
    match status {
        100 => "Trying",
        180 => "Ringing",
        181 => "Call Is Being Forwarded",
        183 => "Session Progress",
        200 => "OK",
        302 => "Moved Temporarily",
        400 => "Bad Request",
        401 => "Unauthorized",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        480 => "Temporarily Unavailable",
        481 => "Call/Transaction Does Not Exist",
        486 => "Busy Here",
        487 => "Request Terminated",
        488 => "Not Acceptable Here",
        491 => "Request Pending",
        500 => "Server Internal Error",
        503 => "Service Unavailable",
        600 => "Busy Everywhere",
        603 => "Decline",
        _ => "Something Else",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INVITE: &str = "INVITE sip:+12025550100@127.0.0.1 SIP/2.0\r\n\
        v: SIP/2.0/UDP a.example;branch=z9hG4bKx, SIP/2.0/UDP b.example;branch=z9hG4bKy\r\n\
        f: \"A, \\\"<sip:no@no>\" <sip:alice@a.example;x=1>;tag=88\r\n\
        To: sip:bob@b.example;tag=99\r\ni: 1@a\r\nCSeq: 7 INVITE\r\nMax-Forwards: 70\r\n\
        Subject: one\r\n two\r\nm: <sip:alice@[::1]:5062>\r\nl: 4\r\nContent-Type: text/plain\r\n\r\nbodyjunk";

    #[test]
    fn a_message_is_read_whatever_its_form() {
        let message = Message::read(INVITE.as_bytes()).unwrap();
        assert_eq!((message.method(), message.uri()), (Some("INVITE"), Some("sip:+12025550100@127.0.0.1")));
        assert_eq!((message.from_tag(), message.to_tag()), (Some("88"), Some("99")));
        assert_eq!((message.branch(), message.values("via").len()), (Some("z9hG4bKx"), 2));
        assert_eq!((message.cseq(), message.header("subject")), ((7, "INVITE"), Some("one two")));
        assert_eq!(message.body(), b"body");
        assert_eq!(uri_of(message.header("from").unwrap()), "sip:alice@a.example;x=1");
        assert_eq!(uri_of(message.header("to").unwrap()), "sip:bob@b.example");
        assert_eq!(
            socket_of(uri_of(message.header("contact").unwrap())),
            Some("[::1]:5062".parse().unwrap())
        );
        assert_eq!(user_of("tel:+1202;phone-context=x"), Some("+1202"));
        assert_eq!(
            message.faults(),
            ["INVITE sip:+12025550100@127.0.0.1 SIP/2.0: Content-Length does not match the body (§18.3)"]
        );
    }

    #[test]
    fn faults_are_named() {
        let reply = Message::read(b"SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP h;branch=1\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:a@b>\r\nCall-ID: 1\r\nCSeq: 1 INVITE\r\n\r\n").unwrap();
        assert_eq!(reply.status(), Some(200));
        assert_eq!(reply.faults().len(), 4, "{:?}", reply.faults());
    }

    /// What the kit writes means the same to an implementation that shares nothing with it.
    #[test]
    fn rsip_reads_what_the_kit_writes() {
        use rsip::headers::UntypedHeader;
        use rsip::prelude::HeadersExt;
        let headers = [
            ("Via", "SIP/2.0/UDP 127.0.0.1:5060;branch=z9hG4bKa;rport"),
            ("From", "<sip:+491@127.0.0.1>;tag=t"),
            ("To", "<sip:+492@127.0.0.1>"),
            ("Call-ID", "c"),
            ("CSeq", "3 INVITE"),
            ("Max-Forwards", "70"),
        ];
        let headers: Vec<_> = headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        let bytes = write("INVITE sip:+492@127.0.0.1:5060 SIP/2.0", &headers, b"v=0\r\n");
        let theirs = rsip::Request::try_from(bytes.as_slice()).unwrap();
        let ours = Message::read(&bytes).unwrap();
        assert_eq!(theirs.method, rsip::Method::Invite);
        assert_eq!(theirs.cseq_header().unwrap().seq().unwrap(), ours.cseq().0);
        assert_eq!(theirs.call_id_header().unwrap().value(), ours.call_id());
        assert_eq!(theirs.body, ours.body());
    }
}

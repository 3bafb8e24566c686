//! Addresses in headers: From, To, Contact, Record-Route (RFC 3261 §20.10) and Via (§20.42).

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use super::grammar::{is_token, params, split_at_byte, split_quoted, split_while, trim, trim_start, unquote};
use super::uri::{Uri, address, split_host};
use super::wire::{ByteStr, MAX_TOKEN};

/// A name-addr or addr-spec with its header parameters. The display name is not kept: nothing here needs it,
/// and what is not kept cannot leak. `Debug` shows the tag only.
#[derive(Clone, PartialEq, Eq)]
pub struct NameAddr {
    /// The URI, without `<>`.
    pub uri: Uri,
    raw: ByteStr,
    tag: Option<ByteStr>,
    /// Where in `raw` the header parameters begin.
    params: usize,
}

impl NameAddr {
    /// Reads one value of a header. `None` when it breaks the grammar: also when more than one value is
    /// there, when a tag is repeated, empty or too long, and when a URI without `<>` holds `?` or `,` (RFC
    /// 3261 §20.10).
    #[must_use]
    pub fn parse(raw: &ByteStr) -> Option<Self> {
        let text = trim(raw);
        let (uri, rest) = split_address(text)?;
        let uri = Uri::read(raw.share(uri))?;
        let mut tag = None;
        for param in params(rest) {
            let (name, value) = param?;
            if name.eq_ignore_ascii_case("tag") {
                let value = value.filter(|v| !v.is_empty() && v.len() <= MAX_TOKEN && !v.starts_with('"'))?;
                if tag.replace(raw.share(value)).is_some() {
                    return None;
                }
            }
        }
        let params = text.len() - rest.len();
        Some(Self { uri, tag, params, raw: raw.share(text) })
    }

    /// The tag parameter of From and To.
    #[must_use]
    pub fn tag(&self) -> Option<&ByteStr> {
        self.tag.as_ref()
    }

    /// A header parameter's value, without quotes; empty when the parameter has none.
    #[must_use]
    pub fn param(&self, name: &str) -> Option<Cow<'_, str>> {
        let text = self.raw.get(self.params..).unwrap_or_default();
        let found = params(text).flatten().find(|(candidate, _)| candidate.eq_ignore_ascii_case(name));
        found.map(|(_, value)| unquote(value.unwrap_or_default()))
    }

    /// The whole value on one line, as received.
    #[must_use]
    pub fn raw(&self) -> &ByteStr {
        &self.raw
    }
}

impl fmt::Debug for NameAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NameAddr").field("tag", &self.tag).finish_non_exhaustive()
    }
}

/// The URI, and the text of the header parameters after it.
fn split_address(text: &str) -> Option<(&str, &str)> {
    let after_name = if text.starts_with('"') {
        let (_, rest) = split_quoted(text)?;
        // Only blanks may stand between the name and `<`.
        trim(rest).starts_with('<').then_some(rest)?
    } else if memchr::memchr(b'<', text.as_bytes()).is_some() {
        // The grammar has tokens only; peers send more, and nobody reads it. What separates values or
        // parameters stays forbidden (RFC 4475 §3.1.2.15).
        let plain = |b: u8| !b.is_ascii_control() || b == b'\t';
        let (_, rest) = split_while(text, |b| plain(b) && !matches!(b, b'<' | b'"' | b',' | b';' | b'>'));
        rest.starts_with('<').then_some(rest)?
    } else {
        // RFC 3261 §20.10: without `<>` every parameter is the header's, and a URI that holds `,` or `?` is
        // not allowed.
        let (uri, rest) = split_while(text, |b| b != b';');
        let allowed = !uri.bytes().any(|b| matches!(b, b',' | b'?'));
        return allowed.then(|| (trim(uri), rest));
    };
    let (_, uri) = split_at_byte(after_name, b'<')?;
    split_at_byte(uri, b'>')
}

/// One Via value (RFC 3261 §20.42, RFC 3581).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Via {
    /// As received: `UDP`, `TCP`, `TLS`, or whatever the peer calls it.
    pub transport: ByteStr,
    /// The host of sent-by, an IPv6 address without its brackets.
    pub host: ByteStr,
    /// The port of sent-by, when one is given.
    pub port: Option<u16>,
    /// The transaction id; absent when empty or missing (RFC 2543 peers).
    pub branch: Option<ByteStr>,
    /// `Some(None)` asks for the source port (RFC 3581 §3); `Some(Some(…))` is an answer to that.
    pub rport: Option<Option<u16>>,
    /// Where the request was seen to come from, as received but without brackets (RFC 5118 §4.5).
    pub received: Option<ByteStr>,
    /// Where a multicast request was sent to.
    pub maddr: Option<ByteStr>,
    /// The whole value on one line, as received, and how much of it comes before the parameters.
    raw: ByteStr,
    prefix: usize,
}

impl Via {
    /// Reads one value; `None` when it breaks the grammar or a limit.
    #[must_use]
    pub fn parse(value: &ByteStr) -> Option<Self> {
        let raw = value.share(trim(value));
        let text = raw.as_str();
        // sent-protocol: blanks may stand around each slash (RFC 4475 §3.1.1.1).
        let (name, rest) = split_while(text, |b| b != b'/');
        let (version, rest) = split_while(rest.strip_prefix('/')?, |b| b != b'/');
        if !trim(name).eq_ignore_ascii_case("SIP") || trim(version) != "2.0" {
            return None;
        }
        let rest = trim_start(rest.strip_prefix('/')?);
        let (transport, rest) = split_while(rest, is_token);
        let sent_by = trim_start(rest);
        if transport.is_empty() || sent_by.len() == rest.len() {
            return None;
        }
        let (host, port, rest) = split_host(sent_by)?;
        let rest = trim_start(rest);

        let mut via = Self {
            transport: raw.share(transport),
            host: raw.share(host),
            port,
            branch: None,
            rport: None,
            received: None,
            maddr: None,
            prefix: text.len() - rest.len(),
            raw: ByteStr::default(),
        };
        for param in params(rest) {
            via.take(&raw, param?)?;
        }
        Some(Self { raw, ..via })
    }

    fn take(&mut self, raw: &ByteStr, (name, value): (&str, Option<&str>)) -> Option<()> {
        let given = value.filter(|v| !v.is_empty());
        if name.eq_ignore_ascii_case("branch") {
            let branch = given.map(|v| raw.share(v));
            let fits = branch.as_ref().is_none_or(|b| b.len() <= MAX_TOKEN);
            let first = self.branch.is_none();
            self.branch = branch;
            (fits && first).then_some(())?;
        } else if name.eq_ignore_ascii_case("rport") {
            // A port that is none asks for ours as well as no port does.
            self.rport = Some(given.and_then(|v| v.parse().ok()));
        } else if name.eq_ignore_ascii_case("received") {
            let plain = given.map(|v| v.strip_prefix('[').and_then(|v| v.strip_suffix(']')).unwrap_or(v));
            self.received = plain.map(|v| raw.share(v));
        } else if name.eq_ignore_ascii_case("maddr") {
            self.maddr = given.map(|v| raw.share(v));
        }
        Some(())
    }

    /// The whole value on one line, as received.
    #[must_use]
    pub fn raw(&self) -> &ByteStr {
        &self.raw
    }

    /// The host of sent-by as an address, when it is one.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        address(&self.host)
    }

    /// The same value as our responses repeat it: with where the request really came from (RFC 3261 §18.2.1),
    /// and with the source port where that was asked for (RFC 3581 §4). What the peer claims there is
    /// dropped.
    pub(crate) fn stamped(&self, source: SocketAddr) -> String {
        let ip = source.ip().to_canonical();
        let raw = self.raw.as_str();
        let (prefix, parameters) = raw.split_at_checked(self.prefix).unwrap_or((raw, ""));
        let mut stamped = String::with_capacity(raw.len() + 64);
        stamped.push_str(prefix.trim_end_matches([' ', '\t']));
        for (name, value) in params(parameters).flatten() {
            if name.eq_ignore_ascii_case("received") || name.eq_ignore_ascii_case("rport") {
                continue;
            }
            stamped.push(';');
            stamped.push_str(name);
            if let Some(value) = value {
                stamped.push('=');
                stamped.push_str(value);
            }
        }
        if self.rport.is_some() || self.ip() != Some(ip) {
            stamped.push_str(";received=");
            stamped.push_str(&ip.to_string());
        }
        if self.rport.is_some() {
            stamped.push_str(";rport=");
            stamped.push_str(&source.port().to_string());
        }
        stamped
    }
}

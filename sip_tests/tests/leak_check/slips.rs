//! Deliberate leaks on the wire: a middlebox between the service and the phones puts, into messages and packets of a
//! real call, what a careless B2BUA would have copied from the other leg. Each has a mark of its own, and each must be
//! found, in the message where it is.

// Parts of one test.
#![allow(unreachable_pub)]

use crate::common::{PATIENCE, Server, Setup};
use crate::judge::foreign;
use crate::party::{Party, Side};
use crate::slips_kept;
use serde_json::json;
use sip_tests::agent::Reply;
use sip_tests::leak::disguise::Disguise as D;
use sip_tests::leak::{Finder, Finding, Marks};
use sip_tests::message::{self, Message};
use sip_tests::middlebox::Middlebox;
use sip_tests::phone::{CallOptions, Phone, PhoneConfig};
use sip_tests::rtp::{HeaderExtras, Packet, SenderFigures, rtcp_compound};
use sip_tests::sdp::SdpOptions;
use sip_tests::stream::MediaOptions;
use sip_tests::transcript::{Entry, Kind, Transcript, leaks_in};
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Duration;

/// Which message or packet it is in.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum At {
    Request(&'static str),
    Response(u16, &'static str),
    Rtp,
    Rtcp,
}

use At::{Request, Response, Rtcp, Rtp};

impl At {
    fn fits(self, kind: Kind, bytes: &[u8]) -> bool {
        match self {
            Rtp => kind == Kind::Rtp,
            Rtcp => kind == Kind::Rtcp,
            Request(method) => kind == Kind::Sip && Message::read(bytes).is_some_and(|m| m.is(method)),
            Response(status, method) => {
                let fits = |m: &Message| m.status() == Some(status) && m.cseq().1 == method;
                kind == Kind::Sip && Message::read(bytes).as_ref().is_some_and(fits)
            }
        }
    }
}

/// What is done to it. `{d}` in a template is the number in the slip's disguise.
#[derive(Debug, Clone, Copy)]
pub enum Change {
    /// A header more.
    Header(&'static str, &'static str),
    /// Another value of a header that is there.
    Value(&'static str, &'static str),
    /// Another start line.
    Start(&'static str),
    /// Another body: its type, and what it is.
    Body(&'static str, &'static str),
    /// A body that is no text: the disguise between bytes of something else.
    Bytes(&'static str),
    /// A line more in the description.
    Line(&'static str),
    /// Another line instead of the first one that begins so.
    Instead(&'static str, &'static str),
    /// RTP, RTCP.
    Packet(fn(&Party, &[u8], &[u8]) -> Vec<u8>),
}

use Change::{Body, Bytes, Header, Instead, Line, Start, Value};

pub struct Slip {
    pub name: &'static str,
    /// Who gets what is not his.
    pub to: Side,
    pub at: At,
    pub disguise: D,
    pub change: Change,
    /// What the finder calls it.
    pub found_as: &'static str,
}

const fn slip(
    name: &'static str,
    to: Side,
    at: At,
    disguise: D,
    change: Change,
    found_as: &'static str,
) -> Slip {
    Slip { name, to, at, disguise, change, found_as }
}

const A: Side = Side::Caller;
const B: Side = Side::Callee;
const INVITE: At = Request("INVITE");
const RINGING: At = Response(180, "INVITE");
const OK: At = Response(200, "INVITE");

#[rustfmt::skip]
pub const SLIPS: &[Slip] = &[
    // Of the caller, to the callee.
    slip("number in a parameter of the Request-URI", B, INVITE, D::National, Start("INVITE sip:x@127.0.0.1;rn={d} SIP/2.0"), "national"),
    slip("name as display name of From", B, INVITE, D::Plain, Value("From", "\"{s}\" <sip:x@y>;tag=1"), "plain"),
    slip("device in the From tag", B, INVITE, D::Hex, Value("From", "<sip:x@y>;tag={d}"), "hex"),
    slip("the dialled To of the other leg", B, INVITE, D::Plain, Value("To", "\"{s}\" <sip:12025550100@{h}>"), "plain"),
    slip("inner host in a second Via", B, INVITE, D::Plain, Header("Via", "SIP/2.0/UDP {ip}:5060;branch=z9hG4bKx"), "plain"),
    slip("Call-ID of the other leg", B, INVITE, D::Plain, Value("Call-ID", "{u}@{h}"), "plain"),
    slip("CSeq of the other leg", B, INVITE, D::Plain, Value("CSeq", "{cseq} INVITE"), "plain"),
    slip("device uuid without dashes in Contact", B, INVITE, D::Plain, Value("Contact", "<sip:x@y>;+sip.instance=\"{u32}\""), "without dashes"),
    slip("Record-Route of the other leg", B, INVITE, D::Base64Url, Header("Record-Route", "<sip:{d}@127.0.0.1;lr>"), "base64"),
    slip("P-Asserted-Identity in the INVITE", B, INVITE, D::Plain, Header("P-Asserted-Identity", "<tel:+{n}>"), "plain"),
    slip("Remote-Party-ID in the BYE", B, Request("BYE"), D::PlusEscaped, Header("Remote-Party-ID", "<sip:{d}@y>;party=calling"), "plain"),
    slip("Diversion with brackets and slashes", B, INVITE, D::Bracketed, Header("Diversion", "\"{d}\" <sip:x@y>"), "digits separated"),
    slip("History-Info, every digit escaped", B, INVITE, D::Percent, Header("History-Info", "<sip:{d}@y>;index=1"), "url-escaped"),
    slip("charging id of the other network", B, INVITE, D::Plain, Header("P-Charging-Vector", "icid-value={u};orig-ioi=x"), "plain"),
    slip("Identity of the caller", B, INVITE, D::Jwt, Header("Identity", "{d};info=<https://x/y.pem>"), "base64"),
    slip("Session-ID of the other leg", B, INVITE, D::Plain, Header("Session-ID", "{u32};remote=0"), "without dashes"),
    slip("Subject folded in the middle of the digits", B, INVITE, D::Folded, Header("Subject", "from {d}"), "folded"),
    slip("compact Subject in capitals", B, INVITE, D::Plain, Header("s", "{shout} calls"), "plain"),
    slip("User-to-User in hexadecimal", B, INVITE, D::Hex, Header("User-to-User", "{d};encoding=hex"), "hex"),
    slip("ENUM name in Alert-Info", B, INVITE, D::Enum, Header("Alert-Info", "<http://{d}/ring.wav>"), "reversed"),
    slip("card of the caller, its host in small base64", B, INVITE, D::Base64CaseLost, Header("Call-Info", "<https://{d}.example/>"), "base64, case lost"),
    slip("base64 across a fold", B, INVITE, D::FoldedBase64, Header("X-Blob", "{d}"), "base64"),
    slip("base64 of hexadecimal", B, INVITE, D::Base64OfHex, Header("X-Twice", "{d}"), "base64 → hex"),
    slip("escaped base64", B, INVITE, D::PercentOfBase64, Header("X-Both", "{d}"), "url-escaped → base64"),
    slip("digits behind backslashes", B, INVITE, D::QuotedPairs, Header("Organization", "\"{d}\""), "quoted pairs"),
    slip("last seven digits", B, INVITE, D::Subscriber, Header("X-Short", "{d}"), "subscriber number"),
    slip("Date of the other side", B, INVITE, D::Plain, Header("Date", "{date}"), "plain"),
    slip("credentials of the trunk", B, INVITE, D::Plain, Header("Authorization", "Digest username=\"{s}\", uri=\"sip:{h}\""), "plain"),
    slip("text body of the BYE", B, Request("BYE"), D::Spaced, Body("text/plain", "call {d} back"), "digits separated"),
    slip("vCard in the ACK", B, Request("ACK"), D::QuotedPrintable, Body("text/vcard", "TEL:{d}\r\n"), "quoted-printable"),
    slip("ISUP, two digits to a byte", B, INVITE, D::PackedSwapped, Bytes("application/isup"), "packed digits, swapped"),
    slip("QSIG, two digits to a byte", B, INVITE, D::Packed, Bytes("application/qsig"), "packed digits"),
    slip("number as a binary integer", B, INVITE, D::Integer, Bytes("application/vnd.example"), "binary integer"),
    slip("body in UTF-16, least byte first", B, INVITE, D::Utf16Le, Bytes("text/plain;charset=utf-16le"), "utf-16"),
    slip("body in UTF-16, greatest byte first", B, INVITE, D::Utf16Be, Bytes("text/plain;charset=utf-16"), "utf-16"),
    slip("presence document with character references", B, INVITE, D::Html, Body("application/pidf+xml", "<tel>{d}</tel>"), "html-escaped"),
    slip("origin user of the description", B, INVITE, D::Plain, Instead("o=", "o={s} 1 1 IN IP4 127.0.0.1"), "plain"),
    slip("information line of the description", B, INVITE, D::Dotted, Line("i={d}"), "digits separated"),
    slip("address inside the caller's network", B, INVITE, D::Plain, Instead("c=", "c=IN IP4 {ip}"), "plain"),
    slip("fingerprint that is none", B, INVITE, D::HexColons, Line("a=fingerprint:sha-256 {d}"), "hex"),
    slip("candidate with the address dashed", B, INVITE, D::Plain, Line("a=candidate:1 1 UDP 1 ip-{dashed}.local 9 typ host"), "dashed"),
    slip("CANCEL with a reason text", B, Request("CANCEL"), D::Plain, Header("Reason", "SIP;cause=487;text=\"{s} hung up\""), "plain"),
    // Of the callee, to the caller.
    slip("P-Asserted-Identity in the 180", A, RINGING, D::Plain, Header("P-Asserted-Identity", "<sip:+{n}@{h}>"), "plain"),
    slip("reason phrase of the 180", A, RINGING, D::Dashed, Start("SIP/2.0 180 Ringing {d}"), "digits separated"),
    slip("To tag of the other leg", A, RINGING, D::Reversed, Value("To", "<sip:x@y>;tag={d}"), "reversed"),
    slip("Contact of the callee's phone", A, RINGING, D::Plain, Value("Contact", "<sip:{s}@{ip}:5062>"), "plain"),
    slip("Server of the callee's PBX", A, RINGING, D::Plain, Value("Server", "{s}-PBX/1.2"), "plain"),
    slip("RSeq of the other leg", A, RINGING, D::Plain, Header("RSeq", "{rseq}"), "plain"),
    slip("connected identity in the 200", A, OK, D::JsonEscaped, Header("X-Connected", "{\"tn\":\"{d}\"}"), "\\u-escaped"),
    slip("media label of the callee", A, OK, D::Plain, Line("a=ssrc:1 cname:{s}@{h}"), "plain"),
    slip("Warning of the callee's host", A, Response(486, "INVITE"), D::Plain, Header("Warning", "399 {h} \"busy\""), "plain"),
    slip("fragment of the answer in the 486", A, Response(486, "INVITE"), D::Base64, Body("message/sipfrag", "{d}"), "base64"),
    slip("Contact of a redirection in the 486", A, Response(486, "INVITE"), D::Plain, Header("Contact", "<sip:+{f}@127.0.0.1>"), "plain"),
    slip("location in the answer to BYE", A, Response(200, "BYE"), D::Plain, Header("Geolocation", "<https://{h}/here>"), "plain"),
    slip("Timestamp in the 487", A, Response(487, "INVITE"), D::Plain, Header("Timestamp", "{timestamp}"), "plain"),
    slip("nonce in the answer to OPTIONS", A, Response(200, "OPTIONS"), D::Plain, Header("Authentication-Info", "nextnonce=\"{s}\""), "plain"),
    // Media.
    slip("CSRC list", B, Rtp, D::Plain, Change::Packet(|_, mark, wire| {
        let digits = [mark, &[0; 3]].concat();
        let csrc = digits.chunks_exact(4).map(|four| u32::from_be_bytes(*four.first_chunk().unwrap())).collect();
        rtp(wire, |packet| packet.extras.csrc = csrc)
    }), "plain"),
    slip("header extension of the other leg", A, Rtp, D::Plain, Change::Packet(|party, _, wire| {
        rtp(wire, |packet| packet.extras.extension = Some((0xbede, party.stem.clone().into_bytes())))
    }), "plain"),
    slip("header extension in UTF-16", B, Rtp, D::Utf16Be, Change::Packet(|_, mark, wire| {
        rtp(wire, |packet| packet.extras.extension = Some((0x1000, mark.to_vec())))
    }), "utf-16"),
    slip("padding of a packet", A, Rtp, D::Hex, Change::Packet(|_, mark, wire| {
        let mut wire = rtp(wire, |packet| packet.extras.padding = u8::try_from(mark.len() + 1).unwrap());
        let end = wire.len() - 1;
        wire[end - mark.len()..end].copy_from_slice(mark);
        wire
    }), "hex"),
    slip("the caller's address as SSRC", B, Rtp, D::Plain, Change::Packet(|party, _, wire| {
        let address: std::net::Ipv4Addr = party.lan.parse().unwrap();
        rtp(wire, |packet| packet.ssrc = address.to_bits())
    }), "binary"),
    slip("text where audio should be", A, Rtp, D::Plain, Change::Packet(|_, mark, wire| {
        rtp(wire, |packet| packet.payload[8..8 + mark.len()].copy_from_slice(mark))
    }), "plain"),
    slip("another payload type with text", B, Rtp, D::Base64, Change::Packet(|_, mark, wire| {
        rtp(wire, |packet| (packet.payload_type, packet.payload) = (98, mark.to_vec()))
    }), "base64"),
    slip("RTCP in a packet of the RTP port", A, Rtp, D::Plain, Change::Packet(|_, mark, _| app(mark)), "plain"),
    slip("SDES CNAME", B, Rtcp, D::Plain, Change::Packet(|party, _, _| report(1, &format!("x@{}", party.lan), None)), "plain"),
    slip("SDES PHONE", A, Rtcp, D::Plain, Change::Packet(|_, mark, _| report(4, &text(mark), None)), "plain"),
    slip("SDES NOTE in hexadecimal", B, Rtcp, D::Hex, Change::Packet(|_, mark, _| report(7, &text(mark), None)), "hex"),
    slip("application packet", A, Rtcp, D::Packed, Change::Packet(|_, mark, _| app(mark)), "packed digits"),
    slip("reason of the RTCP BYE", B, Rtcp, D::Spaced, Change::Packet(|_, mark, _| report(1, "x", Some(&text(mark)))), "digits separated"),
];

fn text(mark: &[u8]) -> String {
    String::from_utf8(mark.to_vec()).unwrap()
}

fn rtp(wire: &[u8], change: impl FnOnce(&mut Packet)) -> Vec<u8> {
    let mut packet = Packet::decode(wire).unwrap();
    packet.extras = HeaderExtras::default();
    (packet.payload_type, packet.payload) = (0, vec![0xff; 160]);
    change(&mut packet);
    packet.encode()
}

fn report(kind: u8, text: &str, goodbye: Option<&str>) -> Vec<u8> {
    rtcp_compound(SenderFigures::default(), &[(kind, text.to_owned())], goodbye)
}

fn app(mark: &[u8]) -> Vec<u8> {
    let mut content = [b"\0\0\0\x01qApp".as_slice(), mark].concat();
    content.resize(content.len().next_multiple_of(4), 0);
    [&[0x80, 204, 0, u8::try_from(content.len() / 4).unwrap()], content.as_slice()].concat()
}

impl Slip {
    fn apply(&self, party: &Party, wire: &[u8]) -> Vec<u8> {
        let mark = self.disguise.apply(&party.number, 1).unwrap();
        if let Change::Packet(change) = self.change {
            return change(party, &mark, wire);
        }
        let read = Message::read(wire).unwrap();
        let fill = |template: &str| {
            let template = template
                .replace("{shout}", &party.stem.to_ascii_uppercase())
                .replace("{dashed}", &party.lan.replace('.', "-"));
            match String::from_utf8(mark.clone()) {
                Ok(mark) => party.fill(0, &template).replace("{d}", &mark),
                Err(_) => template,
            }
        };
        let (mut start, mut body) = (read.start_line().to_owned(), read.body().to_vec());
        let mut headers: Vec<(String, String)> = read
            .headers()
            .iter()
            .filter(|(name, _)| !name.eq_ignore_ascii_case("Content-Length"))
            .cloned()
            .collect();
        let set = |headers: &mut Vec<(String, String)>, name: &str, value: String| {
            headers.retain(|(seen, _)| !seen.eq_ignore_ascii_case(name));
            headers.push((name.to_owned(), value));
        };
        match self.change {
            Header(name, value) => headers.push((name.to_owned(), fill(value))),
            Value(name, value) => set(&mut headers, name, fill(value)),
            Start(line) => start = fill(line),
            Body(kind, content) => {
                set(&mut headers, "Content-Type", kind.to_owned());
                body = fill(content).into_bytes();
            }
            Bytes(kind) => {
                set(&mut headers, "Content-Type", kind.to_owned());
                body = [b"\x01\x00\x49\x3b".as_slice(), &mark, b"\x3b\x00"].concat();
            }
            Line(line) => body.extend(format!("{}\r\n", fill(line)).bytes()),
            Instead(begin, line) => {
                let text = String::from_utf8(body).unwrap();
                let old = text.lines().find(|line| line.starts_with(begin)).unwrap();
                body = text.replacen(old, &fill(line), 1).into_bytes();
            }
            Change::Packet(_) => unreachable!(),
        }
        message::write(&start, &headers, &body)
    }

    /// Whether the judge found it where it is and nowhere else, and calls it by its name.
    fn is_found(&self, marks: &Marks, found: &[(Side, Entry, Finding)]) -> bool {
        let of_this = |finding: &Finding| {
            [&marks.numbers, &marks.names, &marks.hosts, &marks.ids]
                .iter()
                .any(|all| all.contains(&finding.mark))
        };
        let mut here = found.iter().filter(|(_, _, finding)| of_this(finding)).peekable();
        let is_named = here.clone().any(|(_, _, finding)| finding.encoding == self.found_as);
        here.peek().is_some()
            && is_named
            && here.all(|(side, entry, _)| *side == self.to && self.at.fits(entry.kind, &entry.bytes))
    }
}

/// Every mark in what either side received.
fn leaks(transcript: &Transcript, marks: &Marks) -> Vec<(Side, Entry, Finding)> {
    let finder = Finder::new(marks);
    let of = |side: Side| transcript.received_by(side.name()).into_iter().map(move |entry| (side, entry));
    let entries = of(A).chain(of(B));
    entries
        .flat_map(|(side, entry)| {
            let found = leaks_in(&entry, &finder);
            found.into_iter().map(move |finding| (side, entry.clone(), finding))
        })
        .collect()
}

fn party_of(index: usize, slip: &Slip) -> Party {
    Party::drawn(slip.to.other(), 7_000_000 + u64::try_from(index).unwrap(), false)
}

/// Puts each slip for `to` into the first message or packet that it fits.
fn leaky(to: Side) -> Middlebox {
    let done = Mutex::new(vec![false; SLIPS.len()]);
    Middlebox::new(move |kind, bytes| {
        let mut done = done.lock().unwrap();
        let mut more = vec![];
        for (index, slip) in SLIPS.iter().enumerate().filter(|(_, slip)| slip.to == to) {
            if !done[index] && slip.at.fits(kind, bytes) {
                done[index] = true;
                more.push(slip.apply(&party_of(index, slip), bytes));
            }
        }
        // The phone goes by the true one: of a request the first, of responses the last that it reads.
        let is_request = Message::read(bytes).is_some_and(|message| message.status().is_none());
        let at = if is_request { 0 } else { more.len() };
        more.insert(at, bytes.to_vec());
        more
    })
}

/// Three calls: one is answered, one refused, one cancelled.
async fn calls(middlebox: impl Fn(Side) -> Option<Middlebox>) -> Transcript {
    let transcript = Transcript::new();
    let config = |side: Side| PhoneConfig {
        middlebox: middlebox(side),
        media: MediaOptions { rtcp_interval: Some(Duration::from_millis(300)), ..MediaOptions::default() },
        ..PhoneConfig::named(side.name()).recorded_in(&transcript)
    };
    let (caller, callee) = (Phone::bind(config(A)).await.unwrap(), Phone::bind(config(B)).await.unwrap());
    let server = Server::with(callee.address(), Setup::default()).await;
    let number = Server::number(&server.session(json!({ "record": false })).await);
    let from = || CallOptions::from(crate::common::FIRST);
    // What the middlebox adds can look like another call: take the one that the service knows.
    let next = async || loop {
        let incoming = callee.next_call(PATIENCE).await.unwrap();
        let request = incoming.request();
        if foreign_to_service(request, server.sip) {
            continue;
        }
        return incoming;
    };

    let call = caller.call(server.sip, &number, from()).await.unwrap();
    let incoming = next().await;
    incoming.ring().await.unwrap();
    call.ringing(PATIENCE).await.unwrap();
    incoming.answer(SdpOptions::default()).await.unwrap();
    call.answered(PATIENCE).await.unwrap();
    incoming.wait_ack(PATIENCE).await.unwrap();
    for media in [call.media(), incoming.media()] {
        media.wait_packets(20, PATIENCE).await.unwrap();
        media.wait(PATIENCE, |media| !media.received_rtcp().is_empty()).await.unwrap();
    }
    call.hang_up().await.unwrap();
    incoming.wait_bye(PATIENCE).await.unwrap();

    let call = caller.call(server.sip, &number, from()).await.unwrap();
    next().await.respond(Reply::status(486)).await.unwrap();
    assert_eq!(call.final_status(PATIENCE).await.unwrap().status(), Some(486));

    let call = caller.call(server.sip, &number, from()).await.unwrap();
    let incoming = next().await;
    incoming.ring().await.unwrap();
    call.ringing(PATIENCE).await.unwrap();
    call.cancel().await.unwrap();
    incoming.wait_cancel(PATIENCE).await.unwrap();
    assert_eq!(call.final_status(PATIENCE).await.unwrap().status(), Some(487));

    let options = caller.request(server.sip, "OPTIONS", &number, from(), None, PATIENCE).await.unwrap();
    assert_eq!(options.status(), Some(200));
    server.settled().await;
    transcript
}

fn foreign_to_service(invite: &Message, server: SocketAddr) -> bool {
    let contact = invite.header("Contact").map(message::uri_of).and_then(message::socket_of);
    contact != Some(server) || invite.call_id().contains('@')
}

#[tokio::test(flavor = "multi_thread")]
#[allow(clippy::print_stdout, reason = "how many were found is for people to see")]
async fn every_deliberate_leak_is_found() {
    let honest = calls(|_| None).await;
    let leaky = calls(|side| Some(leaky(side))).await;
    assert_eq!([foreign(&honest, "caller"), foreign(&honest, "callee")], [const { Vec::<String>::new() }; 2]);
    let all = SLIPS.iter().enumerate().fold(Marks::default(), |mut all, (index, slip)| {
        let Marks { numbers, names, hosts, ids } = party_of(index, slip).marks();
        all.numbers.extend(numbers);
        all.names.extend(names);
        all.hosts.extend(hosts);
        all.ids.extend(ids);
        all
    });
    let without = leaks(&honest, &all);
    assert!(without.is_empty(), "without the middlebox: {without:#?}");
    let (found, mut missed) = (leaks(&leaky, &all), vec![]);
    for (index, slip) in SLIPS.iter().enumerate() {
        let marks = party_of(index, slip).marks();
        if !slip.is_found(&marks, &found) {
            let to = leaky.leaks_to(slip.to.name(), &marks);
            missed.push(format!("{}: {to:?}", slip.name));
        }
    }
    let kept = slips_kept::missed(&honest_evidence().await);
    missed.extend(kept.1);
    let all = SLIPS.len() + kept.0;
    println!("{} of {all} deliberate leaks found", all - missed.len());
    assert!(missed.is_empty(), "{missed:#?}");
    assert!(all >= 40);
}

/// What a real call leaves, of which nothing is a leak.
async fn honest_evidence() -> crate::judge::Evidence {
    let mut scene = crate::calls::Scene::new(8_000_000, false).await;
    crate::calls::answered_call(&mut scene).await;
    let others = crate::pin_call_and_what_others_are_told(&mut scene, 8_000_000).await;
    crate::judge::Evidence::of(&scene, b"maskline::call call started\n".to_vec(), others).await
}

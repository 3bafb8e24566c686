//! The leak check: marked numbers, names, hosts and ids in every place of a call where something of one party
//! could cross to the other, rows 1–44 of the leak catalogue, from either side; then every byte that the
//! other side received is searched, in every encoding that the leak finder knows, and so are the recording,
//! the log and the metrics.
//!
//! A row counts as planted only when its text was really sent; each planted text is shown to be one that the
//! finder would find.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests may panic like tests")]

#[path = "../common/mod.rs"]
mod common;

mod calls;
mod log;
mod placed;
mod places;
mod plant;

use calls::Scene;
use log::{Capture, Log};
use places::{CALLEE, CALLER, ONE_WAY, ROWS, Side};
use plant::Planting;
use sip_tests::leak::{self, Finding, Marks};
use sip_tests::message;
use sip_tests::rtp::{HeaderExtras, Packet};
use sip_tests::transcript::{Direction, Kind, Transcript};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Names of headers that our messages may have.
#[rustfmt::skip]
const OUR_HEADERS: &[&str] = &[
    "via", "max-forwards", "route", "record-route", "from", "to", "call-id", "cseq", "contact", "allow",
    "accept", "supported", "unsupported", "retry-after", "reason", "recv-info", "timestamp", "server",
    "user-agent", "content-type", "content-length",
];

/// Beginnings of lines that our descriptions may have.
#[rustfmt::skip]
const OUR_LINES: &[&str] = &[
    "v=0", "o=- ", "s=-", "c=IN IP4 127.0.0.1", "t=0 0", "m=audio ", "m=video 0 ", "m=message 0 ",
    "m=image 0 ", "m=application 0 ", "a=rtpmap:0 PCMU/8000", "a=rtpmap:8 PCMA/8000",
    "a=rtpmap:101 telephone-event/8000", "a=rtpmap:113 telephone-event/8000", "a=fmtp:101 0-15",
    "a=fmtp:113 0-15", "a=ptime:20", "a=sendrecv", "a=recvonly", "a=sendonly", "a=inactive",
];

/// Messages are made of nothing but what is listed.
fn assert_ours(transcript: &Transcript, phone: &str) {
    for message in transcript.messages_to(phone) {
        let names = message.header_names();
        let foreign: Vec<_> = names.iter().filter(|name| !OUR_HEADERS.contains(&name.as_str())).collect();
        assert!(foreign.is_empty(), "{foreign:?} in {}", message.text());
        if message.body().is_empty() {
            continue;
        }
        assert_eq!(message.header("Content-Type"), Some("application/sdp"), "{}", message.text());
        for line in String::from_utf8_lossy(message.body()).lines() {
            assert!(OUR_LINES.iter().any(|ours| line.starts_with(ours)), "{line} in {}", message.text());
        }
    }
}

/// Whether the finder finds `needle` when the other side receives it in a header, and in a packet.
fn would_be_found(planting: &Planting) -> bool {
    let (party, other) = match planting.side {
        Side::Caller => (&CALLER, "callee"),
        Side::Callee => (&CALLEE, "caller"),
    };
    let forged = Transcript::new();
    let text = [b"INVITE sip:x@y SIP/2.0\r\nX: ".as_slice(), &planting.needle, b"\r\n\r\n"].concat();
    forged.add(&Arc::from(other), Direction::Received, Kind::Sip, "127.0.0.1:5060".parse().unwrap(), &text);
    !forged.leaks_to(other, &party.marks()).is_empty()
}

fn shown(findings: &[Finding]) -> String {
    findings.iter().take(10).map(|finding| format!("  {finding}\n")).collect()
}

#[tokio::test(flavor = "multi_thread")]
#[allow(clippy::print_stdout, reason = "how much was planted is for people to see")]
async fn nothing_of_one_party_reaches_the_other() {
    let log = Log::of_process();
    let mut scene = Scene::new().await;
    calls::answered_call(&mut scene).await;
    calls::call_with_multipart_bodies(&mut scene).await;
    calls::refused_calls(&mut scene).await;
    calls::cancelled_call(&mut scene).await;
    calls::escaped_caller(&mut scene).await;
    scene.server.settled().await;

    // Every row was planted, by each side that can.
    let mut planted: BTreeMap<u8, BTreeSet<Side>> = BTreeMap::new();
    let sent: Vec<_> =
        scene.transcript.entries().into_iter().filter(|e| e.direction == Direction::Sent).collect();
    for planting in &scene.ledger.0 {
        let name = if planting.side == Side::Caller { "caller" } else { "callee" };
        let found =
            sent.iter().any(|e| &*e.phone == name && message::find(&e.bytes, &planting.needle).is_some());
        let text = String::from_utf8_lossy(&planting.needle);
        assert!(found, "row {} of the {name} was never sent: {text}", planting.row);
        // Hops are a number that is checked by itself.
        assert!(planting.row == 10 || would_be_found(planting), "row {} has no mark: {text}", planting.row);
        planted.entry(planting.row).or_default().insert(planting.side);
    }
    println!("{} rows of the leak catalogue planted, in {} texts", planted.len(), scene.ledger.0.len());
    for (row, title) in (1u8..).zip(ROWS) {
        for side in [Side::Caller, Side::Callee] {
            let one_way = ONE_WAY.iter().any(|(other, cannot, _)| (*other, *cannot) == (row, side));
            let has = planted.get(&row).is_some_and(|sides| sides.contains(&side));
            assert!(has != one_way, "row {row} ({title}): planted by {side:?}: {has}");
        }
    }

    // And nothing of it came through.
    for (party, other) in [(&CALLER, "callee"), (&CALLEE, "caller")] {
        let found = scene.transcript.leaks_to(other, &party.marks());
        assert!(found.is_empty(), "of the {} to the {other}:\n{}", party.name(), shown(&found));
        assert_ours(&scene.transcript, other);
        let received = scene.transcript.received_by(other);
        for kind in [Kind::Sip, Kind::Rtp, Kind::Rtcp] {
            assert!(received.iter().any(|e| e.kind == kind), "the {other} received {kind:?}");
        }
        assert!(received.iter().all(|e| e.peer.ip().to_string() == "127.0.0.1"), "row 42");
    }
    for message in scene.transcript.messages_to("callee").iter().filter(|m| m.is("INVITE")) {
        let from = message.header("From").unwrap();
        assert!(from.starts_with(&format!("<sip:{}@127.0.0.1;user=phone>;tag=", scene.number)), "{from}");
        assert_eq!(message.header("Max-Forwards"), Some("36"), "row 10");
        let offer = String::from_utf8_lossy(message.body()).into_owned();
        assert!(offer.contains("a=rtpmap:101 ") && !offer.contains("a=rtpmap:113 "), "row 38: {offer}");
    }

    // What we keep and show.
    let both = |bytes: &[u8], what: &str| {
        for party in [&CALLER, &CALLEE] {
            let found = leak::find(bytes, &party.marks());
            assert!(found.is_empty(), "of the {} in {what}:\n{}", party.name(), shown(&found));
        }
    };
    let metrics = scene.server.http("GET", "/metrics", None).await.1;
    assert!(metrics.contains("maskline_calls_total"));
    both(metrics.as_bytes(), "the metrics");
    let log = log.text();
    assert!(message::find(&log, b"call started").is_some(), "the log was captured");
    // Addresses of peers may be logged.
    for party in [&CALLER, &CALLEE] {
        let marks = Marks::default().number(party.number).number(party.forward).name(party.stem);
        let found = leak::find(&log, &marks);
        assert!(found.is_empty(), "of the {} in the log:\n{}", party.name(), shown(&found));
    }
}

/// One forged message or packet for each: the check is able to fail.
#[test]
fn a_leak_that_is_put_in_is_found() {
    let utf16: Vec<u8> = CALLER.number.encode_utf16().flat_map(u16::to_be_bytes).collect();
    let fill = |row, template: &str| CALLER.fill(row, template).into_bytes();
    let packet =
        |extras: HeaderExtras| Packet { payload: vec![0xff; 160], extras, ..Packet::default() }.encode();
    let isup = vec![0x94, 0x51, 0x21, 0x43, 0x65, 0x87, 0x09];
    let forged: Vec<(u8, Kind, &str, Vec<u8>)> = vec![
        (2, Kind::Sip, "a name", fill(2, "BYE sip:x@y SIP/2.0\r\nFrom: \"{s}\" <sip:x@y>;tag=1\r\n\r\n")),
        (
            4,
            Kind::Sip,
            "a uuid without dashes",
            fill(4, "BYE sip:x@y SIP/2.0\r\nContact: <sip:x@y;gr={u32}>\r\n\r\n"),
        ),
        (
            12,
            Kind::Sip,
            "a number",
            fill(12, "SIP/2.0 180 Ringing\r\nP-Asserted-Identity: <tel:+{n}>\r\n\r\n"),
        ),
        (21, Kind::Sip, "base64", fill(21, "BYE sip:x@y SIP/2.0\r\nIdentity: {passport}\r\n\r\n")),
        (26, Kind::Sip, "hex", fill(26, "BYE sip:x@y SIP/2.0\r\nUser-to-User: {hex}\r\n\r\n")),
        (29, Kind::Sip, "a host", fill(29, "BYE sip:x@y SIP/2.0\r\nWarning: 399 {h} \"x\"\r\n\r\n")),
        (30, Kind::Sip, "a phrase", fill(30, "SIP/2.0 404 0151/23456789 not found\r\n\r\n")),
        (34, Kind::Sip, "escapes", fill(34, "BYE sip:x@y SIP/2.0\r\nX: <sip:{escaped}@y>\r\n\r\n")),
        (
            36,
            Kind::Sip,
            "an address",
            fill(36, "SIP/2.0 200 OK\r\nContent-Type: application/sdp\r\n\r\nc=IN IP4 {ip}\r\n"),
        ),
        (39, Kind::Sip, "packed digits", [b"BYE sip:x@y SIP/2.0\r\n\r\n".as_slice(), &isup].concat()),
        (40, Kind::Sip, "UTF-16", [b"BYE sip:x@y SIP/2.0\r\n\r\n".as_slice(), &utf16].concat()),
        (42, Kind::Sip, "the real address", fill(42, "SIP/2.0 200 OK\r\n\r\nc=IN IP4 127.0.0.111\r\n")),
        (
            43,
            Kind::Rtp,
            "CSRC",
            packet(HeaderExtras {
                csrc: vec![0x3439_3135, 0x3132_3334, 0x3536_3738, 0x3900_0000],
                ..Default::default()
            }),
        ),
        (
            43,
            Kind::Rtp,
            "an extension",
            packet(HeaderExtras { extension: Some((0xbede, fill(43, "{s}"))), ..Default::default() }),
        ),
        (
            44,
            Kind::Rtcp,
            "PHONE",
            [b"\x81\xca\x00\x05\x00\x00\x00\x01\x04\x0e".as_slice(), &fill(44, "+{n}"), b"\0\0"].concat(),
        ),
        (
            44,
            Kind::Rtcp,
            "a reason",
            [b"\x81\xcb\x00\x05\x00\x00\x00\x01\x0a".as_slice(), &fill(44, "{s}")].concat(),
        ),
    ];
    for (row, kind, what, bytes) in forged {
        let transcript = Transcript::new();
        let (callee, server) = (Arc::from("callee"), "127.0.0.1:5060".parse().unwrap());
        transcript.add(&callee, Direction::Received, kind, server, &bytes);
        assert!(!transcript.leaks_to("callee", &CALLER.marks()).is_empty(), "row {row}: {what}");
        // The sender's own knowledge is no leak.
        assert!(transcript.leaks_to("caller", &CALLER.marks()).is_empty(), "row {row}: {what}");
        assert!(transcript.leaks_to("callee", &CALLEE.marks()).is_empty(), "row {row}: {what}");
    }
}

#[test]
fn a_foreign_header_or_line_is_noticed() {
    for text in [
        "BYE sip:x@y SIP/2.0\r\nX-Anything: harmless\r\n\r\n",
        "SIP/2.0 200 OK\r\nContent-Type: application/sdp\r\n\r\na=harmless\r\n",
        "SIP/2.0 200 OK\r\nContent-Type: text/plain\r\n\r\nharmless\r\n",
    ] {
        let transcript = Transcript::new();
        let server = "127.0.0.1:5060".parse().unwrap();
        transcript.add(&Arc::from("callee"), Direction::Received, Kind::Sip, server, text.as_bytes());
        let judged = std::panic::catch_unwind(|| assert_ours(&transcript, "callee"));
        assert!(judged.is_err(), "{text}");
    }
}

#[test]
fn a_number_in_the_log_is_found() {
    let log = Arc::new(Log::default());
    tracing::subscriber::with_default(Capture(Arc::clone(&log)), || {
        let _span = tracing::trace_span!(target: "maskline", "call", party = CALLER.number).entered();
        tracing::trace!(target: "maskline", name = "qzawanda", "dialled {}", CALLEE.number);
    });
    let text = log.text();
    let marks = Marks::default().number(CALLER.number).number(CALLEE.number).name(CALLER.stem);
    assert_eq!(leak::find(&text, &marks).len(), 3, "{}", String::from_utf8_lossy(&text));
}

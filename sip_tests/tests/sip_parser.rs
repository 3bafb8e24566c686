//! What must hold of the SIP parser and encoder whatever arrives: properties over generated and mutated
//! messages, the everyday oddities of real peers, and agreement with rsip on plain messages.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests may panic like tests")]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use maskline::sip::address::Via;
use maskline::sip::encode::{AddressOut, BodyOut, HeaderOut, RequestOut, ResponseOut, ViaOut, phrase};
use maskline::sip::message::{Message, Method, Request, Response};
use maskline::sip::wire::{Frame, Framer, MAX_HEAD, MAX_MESSAGE, MAX_VIAS, Malformed, frame};
use proptest::prelude::*;
use rsip::prelude::*;

fn source() -> SocketAddr {
    "198.51.100.7:5061".parse().unwrap()
}

fn torture() -> Vec<Bytes> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("torture");
    let files = ["rfc4475", "rfc5118"].map(|rfc| std::fs::read_dir(folder.join(rfc)).unwrap());
    let mut paths: Vec<_> = files.into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| std::fs::read(path).unwrap().into()).collect()
}

fn request(text: impl AsRef<[u8]>) -> Request {
    match Message::parse(Bytes::copy_from_slice(text.as_ref())) {
        Ok(Message::Request(request)) => request,
        other => panic!("{other:?} from {}", String::from_utf8_lossy(text.as_ref())),
    }
}

fn response(wire: Bytes) -> Response {
    match Message::parse(wire) {
        Ok(Message::Response(response)) => response,
        other => panic!("{other:?}"),
    }
}

fn cause(text: impl AsRef<[u8]>) -> Malformed {
    Message::parse(Bytes::copy_from_slice(text.as_ref())).expect_err("malformed").cause()
}

/// A request that is right but for what `headers` adds.
fn invite(headers: &str) -> String {
    format!(
        "INVITE sip:+12025550100@h.example SIP/2.0\r\nVia: SIP/2.0/UDP a.example;branch=z9hG4bK1\r\n\
         From: <sip:a@h>;tag=1\r\nTo: <sip:b@h>\r\nCall-ID: c\r\nCSeq: 7 INVITE\r\n{headers}\r\n"
    )
}

/// The same with another value for one of its headers.
fn invite_with(name: &str, value: impl AsRef<[u8]>) -> Vec<u8> {
    let text = invite("");
    let start = text.find(&format!("\r\n{name}: ")).unwrap() + name.len() + 4;
    let end = start + text[start..].find("\r\n").unwrap();
    [&text.as_bytes()[..start], value.as_ref(), &text.as_bytes()[end..]].concat()
}

#[test]
fn everyday_oddities_are_read() {
    let r = request(
        "\r\n\r\nINVITE tel:+1-202-555-0100 SIP/2.0\nv: SIP/2.0/UDP [2001:db8::7];rport;branch=z9hG4bK1 , SIP/2.0/TCP b\n\
         f: sip:a@h;tag=1\nT: \"Bell, \\\"A\\\" <x>\" <sip:b@h;x>;y=1\ni : c\nCSEQ\t:7 INVITE\n\
         m: <sip:a;b@h>, <sip:c@h>\nRecord-Route: <sip:p1;lr>, \"a,b\" <sip:p2;lr>\nrecord-route: <sip:p3;lr>\n\
         X-Odd: caf\u{e9}\nl: 3\n\nabcdef",
    );
    assert_eq!(r.uri.number().unwrap(), "+12025550100");
    assert_eq!(
        (r.head.via.host.as_str(), r.head.via.rport, r.head.vias.len()),
        ("2001:db8::7", Some(None), 2)
    );
    assert_eq!(r.head.from.tag().unwrap(), "1", "without <> a parameter is the header's");
    assert_eq!((r.head.to.uri.as_str(), r.head.to.tag()), ("sip:b@h;x", None));
    assert_eq!((r.head.call_id.as_str(), r.head.cseq.number), ("c", 7));
    assert_eq!(r.head.contact.unwrap().uri.as_str(), "sip:a;b@h");
    assert_eq!(r.head.record_routes, ["<sip:p1;lr>", "\"a,b\" <sip:p2;lr>", "<sip:p3;lr>"]);
    assert_eq!(&r.body[..], b"abc", "what follows the body is ignored");
}

#[test]
fn bytes_that_are_no_text_hurt_nobody() {
    let mut text = invite("").into_bytes();
    text.truncate(text.len() - 2);
    text.extend_from_slice(b"X-Name: M\xfcller\r\nX-Next: yes\r\n\r\n\x00\xff\r\n\r\n");
    let r = request(&text);
    assert_eq!(r.head.header("x-name").unwrap(), "M\u{fffd}ller");
    assert_eq!(r.head.header("x-next").unwrap(), "yes");
    assert_eq!(&r.body[..], b"\x00\xff\r\n\r\n", "without Content-Length the body goes to the end");

    let latin = invite_with("From", b"\"M\xfcller\" <sip:a@h>;tag=1");
    let r = request(&latin);
    assert_eq!(r.head.from.tag().unwrap(), "1");
    let reply = answer(&r, 180).encode();
    assert!(reply.windows(10).any(|w| w == b"\"M\xfcller\" <"), "a response repeats the bytes themselves");
    for name in ["Via", "Call-ID", "CSeq"] {
        assert_eq!(cause(invite_with(name, b"7\xfc")), Malformed::Invalid(name), "{name}");
    }
}

#[test]
fn faults_are_refused_by_name() {
    let table = [
        (invite("Call-ID: c\r\n").into_bytes(), Malformed::Repeated("Call-ID")),
        (invite("i: d\r\n").into_bytes(), Malformed::Repeated("Call-ID")),
        (invite("t: <sip:b@h>\r\n").into_bytes(), Malformed::Repeated("To")),
        (invite("Max-Forwards: 1\r\nMax-Forwards: 1\r\n").into_bytes(), Malformed::Repeated("Max-Forwards")),
        (invite("Max-Forwards: 256\r\n").into_bytes(), Malformed::Invalid("Max-Forwards")),
        (invite("Content-Length: 1\r\n").into_bytes(), Malformed::BodyTooShort),
        (
            invite("Content-Length: 18446744073709551616\r\n").into_bytes(),
            Malformed::Invalid("Content-Length"),
        ),
        (invite("Content-Length: 0\r\nl: 1\r\n").into_bytes(), Malformed::Repeated("Content-Length")),
        (invite("Contact: <sip:a@h\r\n").into_bytes(), Malformed::Invalid("Contact")),
        (invite("Record-Route: x\r\n").into_bytes(), Malformed::Invalid("Record-Route")),
        (invite("no colon\r\n").into_bytes(), Malformed::HeaderLine),
        (invite(": no name\r\n").into_bytes(), Malformed::HeaderLine),
        (invite_with("CSeq", "2147483648 INVITE"), Malformed::Invalid("CSeq")),
        (invite_with("CSeq", "7INVITE"), Malformed::Invalid("CSeq")),
        (invite_with("CSeq", "7 invite"), Malformed::MethodMismatch),
        (invite_with("From", "<sip:a@h>;tag=1;tag=2"), Malformed::Invalid("From")),
        (invite_with("From", "<sip:a@h>;tag="), Malformed::Invalid("From")),
        (invite_with("From", "<sip:a@h>, <sip:b@h>"), Malformed::Invalid("From")),
        (invite_with("From", "<sip:a@h> x"), Malformed::Invalid("From")),
        (invite_with("From", "*"), Malformed::Invalid("From")),
        (invite_with("To", "sip:a@h?x=1"), Malformed::Invalid("To")),
        (invite_with("Via", ""), Malformed::Invalid("Via")),
        (invite_with("Via", "SIP/2.0/UDP"), Malformed::Invalid("Via")),
        (invite_with("Via", "SIP/2.0/UDP a;branch=1;branch=2"), Malformed::Invalid("Via")),
        (invite_with("Via", "SIP/2.0/UDP a,"), Malformed::Invalid("Via")),
        (invite_with("Call-ID", "a b"), Malformed::Invalid("Call-ID")),
    ];
    for (text, fault) in table {
        assert_eq!(cause(&text), fault, "{}", String::from_utf8_lossy(&text));
    }
    assert_eq!(cause(" \r\n\r\n"), Malformed::StartLine);
    assert_eq!(cause("\r\n"), Malformed::Empty);
    assert_eq!(request(invite_with("CSeq", "2147483647 INVITE")).head.cseq.number, 2_147_483_647);
    assert_eq!(request(invite("Content-Length: 0\r\nl: 00\r\nContact: *\r\n")).head.contact, None);
}

#[test]
fn limits_hold_at_their_edge() {
    let vias = |count: usize| invite(&"v: SIP/2.0/UDP h\r\n".repeat(count - 1));
    assert_eq!(request(vias(MAX_VIAS)).head.vias.len(), MAX_VIAS);
    assert_eq!(cause(vias(MAX_VIAS + 1)), Malformed::TooMany("Via"));
    assert_eq!(
        cause(invite(&"Record-Route: <sip:h>\r\n".repeat(MAX_VIAS + 1))),
        Malformed::TooMany("Record-Route")
    );
    assert_eq!(request(invite(&"x: y\r\n".repeat(195))).head.headers("X").count(), 195);
    assert_eq!(cause(invite(&"y: z\r\n".repeat(196))), Malformed::TooManyHeaders);
    let subject = |length: usize| invite(&format!("Subject: {}\r\n", "s".repeat(length)));
    assert_eq!(request(subject(8192 - 9)).head.header("s").unwrap().len(), 8183);
    assert_eq!(cause(subject(8192 - 8)), Malformed::HeaderTooLong);
    assert_eq!(
        cause(invite(&format!("a: {0}\r\nb: {0}\r\nc: {0}\r\n", "s".repeat(6000)))),
        Malformed::HeadTooLarge
    );
    let tag = |length: usize| invite_with("From", format!("<sip:a@h>;tag={}", "t".repeat(length)));
    assert_eq!(request(tag(256)).head.from.tag().unwrap().len(), 256);
    assert_eq!(cause(tag(257)), Malformed::Invalid("From"));
    assert_eq!(cause(invite_with("Call-ID", "c".repeat(257))), Malformed::Invalid("Call-ID"));
    let branch = format!("SIP/2.0/UDP h;branch={}", "b".repeat(257));
    assert_eq!(cause(invite_with("Via", branch)), Malformed::Invalid("Via"));
    let long = invite("").replace("h.example", &"h".repeat(2048));
    let error = Message::parse(long.into()).unwrap_err();
    assert_eq!((error.cause(), error.answer().unwrap().status), (Malformed::UriTooLong, 414));
    let mut large = invite("").into_bytes();
    large.resize(MAX_MESSAGE, b'x');
    assert_eq!(request(&large).body.len(), MAX_MESSAGE - invite("").len());
    large.push(b'x');
    let error = Message::parse(large.into()).unwrap_err();
    assert_eq!((error.cause(), error.answer().unwrap().status), (Malformed::TooLarge, 513));
}

#[test]
fn only_requests_that_a_client_waits_for_are_answered() {
    let answered = |text: String| Message::parse(text.into()).unwrap_err().answer().is_some();
    let bad = invite("Max-Forwards: x\r\n");
    assert!(answered(bad.clone()));
    assert!(!answered(bad.replace("INVITE", "ACK")), "RFC 3261 §17.1.1.3: ACK has no response");
    let response = bad.replace("INVITE sip:+12025550100@h.example SIP/2.0", "SIP/2.0 200 OK");
    assert!(!answered(response.replace("7 INVITE", "x")), "nobody answers a response");
    assert!(!answered(bad.replace("Via", "Vie")), "without Via nobody can match the answer");
    assert!(!answered(format!("GET / HTTP/1.1\r\nVia: x\r\nX: {}\r\n\r\n", "y".repeat(200))));
    assert!(
        !answered("A a SIP/2.0\r\nVia: x\r\n\r\n".to_owned()),
        "an answer would be longer than the question"
    );
}

#[test]
fn rfc3261_18_2_1_and_rfc3581_the_top_via_says_where_the_request_came_from() {
    let table = [
        ("SIP/2.0/UDP 198.51.100.7:5061;branch=z9hG4bK1", "SIP/2.0/UDP 198.51.100.7:5061;branch=z9hG4bK1"),
        (
            "SIP/2.0/UDP 10.0.0.1;branch=z9hG4bK1",
            "SIP/2.0/UDP 10.0.0.1;branch=z9hG4bK1;received=198.51.100.7",
        ),
        (
            "SIP/2.0/UDP h.example;branch=z9hG4bK1",
            "SIP/2.0/UDP h.example;branch=z9hG4bK1;received=198.51.100.7",
        ),
        (
            "SIP/2.0/UDP 198.51.100.7;rport;branch=z9hG4bK1",
            "SIP/2.0/UDP 198.51.100.7;branch=z9hG4bK1;received=198.51.100.7;rport=5061",
        ),
        (
            "SIP / 2.0 / UDP h ; received=192.0.2.99 ; rport=1 ; x=\"a;b\" ; branch=z9hG4bK1",
            "SIP / 2.0 / UDP h;x=\"a;b\";branch=z9hG4bK1;received=198.51.100.7;rport=5061",
        ),
    ];
    for (sent, expected) in table {
        let reply = answer(&request(invite_with("Via", sent)), 200);
        assert_eq!(response(reply.encode()).head.via.raw(), expected, "{sent}");
    }
    let mapped: SocketAddr = "[::ffff:198.51.100.7]:5061".parse().unwrap();
    let r = request(invite_with("Via", "SIP/2.0/UDP 198.51.100.7;branch=z9hG4bK1"));
    assert_eq!(r.response_head(mapped), r.response_head(source()), "a mapped source is the IPv4 address");
}

#[test]
fn rfc3261_8_2_6_what_a_response_repeats() {
    let text = invite(
        "Timestamp: 54 \r\nRecord-Route: <sip:p1;lr>,\r\n <sip:p2;lr>\r\nVia: SIP/2.0/UDP b, SIP/2.0/TCP c\r\n",
    );
    let r = request(&text);
    let mut reply = answer(&r, 180);
    reply.record_route = true;
    let shown = |reply: &ResponseOut| String::from_utf8(reply.encode().to_vec()).unwrap();
    assert!(!shown(&reply).contains("Timestamp"));
    let read = response(reply.encode());
    assert_eq!(read.head.vias[1..], r.head.vias[1..]);
    assert_eq!(read.head.record_routes, r.head.record_routes);
    assert_eq!((read.head.call_id, read.head.cseq), (r.head.call_id.clone(), r.head.cseq.clone()));
    assert_eq!((read.head.from, read.head.to.tag().unwrap().as_str()), (r.head.from.clone(), "ours"));
    let trying = ResponseOut { status: 100, to_tag: None, ..answer(&r, 100) };
    assert!(shown(&trying).contains("Timestamp: 54\r\n"), "§8.2.6.1");
    let read = response(trying.encode());
    assert!(read.head.record_routes.is_empty() && read.head.to.tag().is_none());
    let within = request(invite_with("To", "<sip:b@h>;tag=theirs"));
    assert_eq!(
        response(answer(&within, 200).encode()).head.to.tag().unwrap(),
        "theirs",
        "a tag is never doubled"
    );
}

#[test]
fn every_status_that_rsip_names_has_a_phrase_of_ours() {
    let general = [150, 250, 350, 450, 550, 650].map(phrase);
    for status in 100..=699 {
        // 201, 409 and 411 are not among the registered ones.
        if !matches!(rsip::StatusCode::from(status), rsip::StatusCode::Other(..))
            && ![201, 409, 411].contains(&status)
        {
            assert!(!general.contains(&phrase(status)), "{status}");
        }
        assert!(phrase(status).bytes().all(|b| b.is_ascii_graphic() || b == b' '), "{status}");
    }
    assert_eq!(
        response(answer(&request(invite("")), 486).encode()).status_code(),
        rsip::StatusCode::BusyHere
    );
}

#[test]
fn methods_are_rsips_where_rsip_has_them() {
    for method in rsip::Method::all() {
        let ours = Method::from(method);
        assert_eq!(ours.as_str(), method.to_string());
        assert_eq!(Method::parse(&ours.as_str().into()), Some(ours.clone()));
        assert_eq!(rsip::Method::try_from(&ours), Ok(method));
    }
    assert_eq!(Method::parse(&"invite".into()).unwrap().as_str(), "invite", "§7.1: methods have case");
    assert_eq!(Method::parse(&"A B".into()), None);
    assert!(matches!(request(invite("")).method, Method::INVITE), "constants work as patterns");
}

#[test]
fn nothing_shown_for_debugging_names_a_party() {
    let text =
        invite("Contact: <sip:alice@secret.example>\r\nRecord-Route: <sip:secret.example>\r\n\r\nsecret");
    let text = text
        .replace("12025550100", "5550199")
        .replace("sip:a@h", "sip:secret@h")
        .replace("sip:b@h", "sip:5550199@h");
    let r = request(&text);
    let reply = answer(&r, 200);
    let again = RequestOut { uri: r.uri.as_str().to_owned(), ..plain_request() };
    let broken = Message::parse(text.replace("7 INVITE", "x").into()).unwrap_err();
    let shown =
        format!("{r:?} {:?} {:?} {reply:?} {again:?} {broken:?} {:?}", r.uri, r.head.from, broken.answer());
    let key = maskline::sip::key::TransactionKey::of_request(&request(text.replace("z9hG4bK1", "")));
    let shown = format!("{shown} {key:?} {:?}", Message::parse(text.into()).unwrap());
    for word in ["secret", "5550199", "alice"] {
        assert!(!shown.contains(word), "{word} in {shown}");
    }
}

fn answer(request: &Request, status: u16) -> ResponseOut {
    ResponseOut {
        head: request.response_head(source()),
        status,
        to_tag: Some("ours".to_owned()),
        contact: None,
        record_route: false,
        headers: vec![],
        body: None,
    }
}

fn plain_request() -> RequestOut {
    let address =
        |uri: &str, tag: Option<&str>| AddressOut { uri: uri.to_owned(), tag: tag.map(str::to_owned) };
    RequestOut {
        method: Method::INVITE,
        uri: "sip:+12025550101@198.51.100.7:5060".to_owned(),
        via: ViaOut {
            transport: "UDP",
            sent_by: "203.0.113.10:5060".to_owned(),
            branch: "z9hG4bKx".to_owned(),
        },
        max_forwards: 70,
        from: address("sip:+12025550100@203.0.113.10", Some("f")),
        to: address("sip:+12025550101@198.51.100.7", None),
        call_id: "c".to_owned(),
        cseq: 1,
        contact: Some("sip:x@203.0.113.10:5060".to_owned()),
        routes: vec![],
        headers: vec![],
        body: None,
    }
}

#[test]
fn our_invite_looks_like_this() {
    let invite = RequestOut {
        routes: vec!["<sip:p1;lr>".to_owned(), "sip:p2;lr".to_owned()],
        headers: vec![
            HeaderOut::Allow,
            HeaderOut::Supported(&["timer", "100rel"]),
            HeaderOut::Require(&[]),
            HeaderOut::Reason { protocol: "Q.850", cause: 16 },
            HeaderOut::UserAgent,
            HeaderOut::RecvInfo,
        ],
        body: Some(BodyOut::Sdp("v=0\r\n".to_owned())),
        ..plain_request()
    };
    let expected = "INVITE sip:+12025550101@198.51.100.7:5060 SIP/2.0\r\n\
        Via: SIP/2.0/UDP 203.0.113.10:5060;branch=z9hG4bKx;rport\r\n\
        Max-Forwards: 70\r\n\
        Route: <sip:p1;lr>\r\n\
        Route: <sip:p2;lr>\r\n\
        From: <sip:+12025550100@203.0.113.10>;tag=f\r\n\
        To: <sip:+12025550101@198.51.100.7>\r\n\
        Call-ID: c\r\n\
        CSeq: 1 INVITE\r\n\
        Contact: <sip:x@203.0.113.10:5060>\r\n\
        Allow: INVITE, ACK, CANCEL, BYE, OPTIONS, UPDATE, INFO, PRACK\r\n\
        Supported: timer, 100rel\r\n\
        Reason: Q.850;cause=16\r\n\
        User-Agent: Maskline\r\n\
        Recv-Info:\r\n\
        Content-Type: application/sdp\r\n\
        Content-Length: 5\r\n\r\nv=0\r\n";
    assert_eq!(String::from_utf8(invite.encode().to_vec()).unwrap(), expected);
}

#[test]
fn values_cannot_break_out_of_their_place() {
    let evil = "x>\r\nInjected: 1\r\n\r\n\"<;,\u{0}";
    let mut out = plain_request();
    out.uri = format!("sip:{evil}@h");
    out.via.branch = format!("z9hG4bK{evil}");
    out.via.sent_by = format!("h{evil}");
    out.from = AddressOut { uri: format!("sip:{evil}@h"), tag: Some(evil.to_owned()) };
    out.to = AddressOut { uri: "sip:b@h".to_owned(), tag: Some(evil.to_owned()) };
    out.call_id = evil.to_owned();
    out.contact = Some(format!("sip:{evil}@h"));
    out.routes = vec!["sip:p\r\nInjected: 1".to_owned(), "<sip:p\r\nInjected:1>".to_owned()];
    out.headers = vec![HeaderOut::Unsupported(vec![evil.to_owned(), "b".to_owned()])];
    let read = request(out.encode());
    assert_eq!(read.head.headers("Injected").count(), 0);
    assert_eq!((read.head.headers("Route").count(), read.head.tokens("Unsupported").len()), (2, 2));
    assert!(read.body.is_empty());
    let reply = ResponseOut {
        to_tag: Some(evil.to_owned()),
        contact: Some(evil.replace('x', "sip:x")),
        headers: vec![HeaderOut::Unsupported(vec![evil.to_owned()])],
        ..answer(&request(invite("")), 420)
    };
    let read = response(reply.encode());
    assert_eq!((read.head.header("Injected"), read.head.to.tag().unwrap().as_str()), (None, "xInjected:1"));
}

/// Shapes that cost a careless parser quadratic time.
#[test]
fn hostile_shapes_of_full_size_take_no_longer_than_others() {
    let filler = |unit: &str, size: usize| unit.repeat(size / unit.len());
    let mut shapes = vec![
        "\r\n".repeat(MAX_MESSAGE / 2),
        "x".repeat(MAX_MESSAGE),
        " ".repeat(MAX_MESSAGE),
        invite(&filler("\r\n", MAX_MESSAGE)),
        invite(&filler("a:\r\n", 16_000)),
        invite(&format!("s: x\r\n{}", filler(" y\r\n", 8_000))),
        invite(&format!("s: x\r\n{}", filler(" \r\n", 8_000))),
    ];
    for unit in [
        ",", ";", "\"", "\\", "<", ">", "%", "a,", ";a", ";a=b", "\"\",", "<>,", "%41", "=", ":", "/", " ",
        "@",
    ] {
        for name in ["Via", "From", "To", "Call-ID", "CSeq"] {
            let value = filler(unit, 8_000);
            shapes.push(String::from_utf8(invite_with(name, &value)).unwrap());
            shapes.push(String::from_utf8(invite_with(name, format!("\"{value}"))).unwrap());
            shapes.push(String::from_utf8(invite_with(name, format!("<sip:{value}"))).unwrap());
            shapes.push(String::from_utf8(invite_with(name, format!("SIP/2.0/UDP h{value}"))).unwrap());
        }
        for name in ["Contact", "Record-Route", "Content-Length", "Max-Forwards"] {
            shapes.push(invite(&format!("{name}: {}\r\n", filler(unit, 8_000))));
            shapes.push(invite(&format!("{name}: <sip:a@h>{}\r\n", filler(unit, 8_000))));
        }
        shapes.push(invite("").replace("h.example", &filler(unit, 2_000)));
    }
    for shape in shapes {
        let wire = Bytes::from(shape);
        let took = quickest(|| {
            let parsed = Message::parse(wire.clone());
            if let Ok(Message::Request(request)) = &parsed {
                let _ = answer(request, 200).encode();
            }
            let _ = frame(&wire);
        });
        assert!(took < QUICK, "{took:?} for {:?}…", &wire[..wire.len().min(400)]);
    }
}

/// Linear work is below 5 ms even without optimisation; quadratic work on 64 KB is seconds.
const QUICK: Duration = Duration::from_millis(500);

/// How long the work takes. A machine that does other things at that moment gets another chance: what is quadratic is
/// slow every time.
#[allow(clippy::disallowed_methods, reason = "measures how long parsing takes")]
fn quickest(work: impl Fn()) -> Duration {
    let mut best = Duration::MAX;
    for _ in 0..5 {
        let start = std::time::Instant::now();
        work();
        best = best.min(start.elapsed());
        if best < QUICK {
            break;
        }
    }
    best
}

/// One change to a message.
#[derive(Debug, Clone)]
enum Mutation {
    Set(usize, u8),
    Insert(usize, Vec<u8>),
    Delete(usize, usize),
    /// Copies a piece to another place.
    Repeat(usize, usize, usize),
    /// A piece of another message.
    Splice(usize, usize, usize, usize),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let at = any::<usize>;
    let piece = prop::sample::select(vec![
        "\r\n",
        "\n",
        "\r",
        "\r\n ",
        ",",
        ";",
        "=",
        "\"",
        "<",
        ">",
        "@",
        ":",
        "%00",
        "%",
        "\\",
        "[",
        "]",
        "tag=1",
        "SIP/2.0",
        "Via:",
        "l: 0\r\n",
        "\r\n\r\n",
        "4294967296",
        "18446744073709551616",
        "sip:",
        "\u{e9}",
    ]);
    prop_oneof![
        (at(), any::<u8>()).prop_map(|(at, byte)| Mutation::Set(at, byte)),
        (at(), piece).prop_map(|(at, piece)| Mutation::Insert(at, piece.as_bytes().to_vec())),
        (at(), prop::collection::vec(any::<u8>(), 1..8)).prop_map(|(at, bytes)| Mutation::Insert(at, bytes)),
        (at(), 1..40_usize).prop_map(|(at, length)| Mutation::Delete(at, length)),
        (at(), at(), 1..200_usize).prop_map(|(from, to, length)| Mutation::Repeat(from, to, length)),
        (at(), at(), at(), 1..200_usize)
            .prop_map(|(m, from, to, length)| Mutation::Splice(m, from, to, length)),
    ]
}

fn mutate(mut wire: Vec<u8>, mutations: Vec<Mutation>, others: &[Bytes]) -> Vec<u8> {
    let piece = |from: &[u8], at: usize, length: usize| {
        let start = at % (from.len() + 1);
        from[start..from.len().min(start + length)].to_vec()
    };
    for mutation in mutations {
        let place = |at: usize, wire: &Vec<u8>| at % (wire.len() + 1);
        match mutation {
            Mutation::Set(at, byte) if !wire.is_empty() => {
                let at = at % wire.len();
                wire[at] = byte;
            }
            Mutation::Set(..) => {}
            Mutation::Insert(at, bytes) => {
                let at = place(at, &wire);
                wire.splice(at..at, bytes);
            }
            Mutation::Delete(at, length) => {
                let at = place(at, &wire);
                let end = wire.len().min(at + length);
                wire.drain(at..end);
            }
            Mutation::Repeat(from, to, length) => {
                let (bytes, to) = (piece(&wire, from, length), place(to, &wire));
                wire.splice(to..to, bytes);
            }
            Mutation::Splice(message, from, to, length) => {
                let (bytes, to) = (piece(&others[message % others.len()], from, length), place(to, &wire));
                wire.splice(to..to, bytes);
            }
        }
    }
    wire
}

/// Whatever parses can be answered, and the answer, when read, is about the same request.
fn check_answer(request: &Request) {
    let reply = ResponseOut {
        contact: Some("sip:x@203.0.113.10".to_owned()),
        record_route: true,
        headers: vec![HeaderOut::Allow, HeaderOut::Unsupported(request.head.tokens("Require"))],
        body: Some(BodyOut::Sdp("v=0\r\n".to_owned())),
        ..answer(request, 200)
    };
    let read = response(reply.encode());
    let (asked, told) = (&request.head, &read.head);
    assert_eq!((&told.call_id, &told.cseq, told.vias.len()), (&asked.call_id, &asked.cseq, asked.vias.len()));
    assert_eq!((&told.from, &told.record_routes), (&asked.from, &asked.record_routes));
    assert_eq!(told.to.uri, asked.to.uri);
    assert_eq!(told.to.tag().unwrap().as_str(), asked.to.tag().map_or("ours", |t| t.as_str()));
    assert_eq!((&told.via.branch, &told.via.host), (&asked.via.branch, &asked.via.host));
    assert_eq!(&read.body[..], b"v=0\r\n");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    /// Mutated torture messages: no panic, and what parses is consistent and can be answered.
    #[test]
    fn mutated_messages_are_refused_or_consistent(
        which in any::<prop::sample::Index>(),
        mutations in prop::collection::vec(mutation(), 0..6),
    ) {
        let originals = torture();
        let wire = Bytes::from(mutate(which.get(&originals).to_vec(), mutations, &originals));
        let _ = frame(&wire);
        match Message::parse(wire.clone()) {
            Ok(message) => {
                let head = message.head();
                prop_assert!((1..=MAX_VIAS).contains(&head.vias.len()) && head.cseq.number < 1 << 31);
                prop_assert!(head.tokens("Accept").iter().all(|t| !t.is_empty()));
                let _ = (head.content_type(), head.from.uri.number(), head.to.param("x"), head.header("Subject"));
                let shown = format!("{message:?}");
                prop_assert!(shown.len() < 4_096);
                if let Message::Request(request) = &message {
                    prop_assert_eq!(&request.method, &head.cseq.method);
                    check_answer(request);
                }
            }
            Err(error) => {
                if let Some(answer) = error.answer() {
                    let reply = answer.response(source(), "ours".to_owned()).encode();
                    prop_assert!(reply.starts_with(b"SIP/2.0 "));
                    prop_assert!(reply.len() < 2 * wire.len() + 100, "answers do not amplify");
                }
            }
        }
    }

    /// Bytes without any sense.
    #[test]
    fn noise_is_refused(noise in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = frame(&noise);
        prop_assert!(Message::parse(noise.into()).is_err());
    }

    /// A stream cut anywhere gives the same frames as the whole of it.
    #[test]
    fn framing_does_not_depend_on_how_a_stream_is_cut(
        cuts in prop::collection::vec(1..300_usize, 1..200),
        bodies in prop::collection::vec("[ -~]{0,40}", 1..6),
    ) {
        let mut stream = Vec::new();
        for body in &bodies {
            stream.extend_from_slice(invite(&format!("Content-Length: {}\r\n", body.len())).as_bytes());
            stream.extend_from_slice(body.as_bytes());
            stream.extend_from_slice(if body.len() % 2 == 0 { b"\r\n\r\n" } else { b"" });
        }
        let (mut framer, mut buffer, mut read, mut pings) = (Framer::new(), Vec::new(), Vec::new(), 0);
        let (mut rest, mut cuts) = (&stream[..], cuts.into_iter().cycle());
        while !rest.is_empty() {
            let (now, later) = rest.split_at(cuts.next().unwrap().min(rest.len()));
            buffer.extend_from_slice(now);
            rest = later;
            loop {
                match framer.frame(&buffer) {
                    Frame::Incomplete => break,
                    Frame::KeepAlive { length, ping } => {
                        buffer.drain(..length);
                        pings += usize::from(ping);
                    }
                    Frame::Message { length } => {
                        let message: Vec<u8> = buffer.drain(..length).collect();
                        read.push(String::from_utf8(request(message).body.to_vec()).unwrap());
                    }
                    Frame::Bad(reason) => panic!("{reason}"),
                }
            }
        }
        prop_assert_eq!(pings, bodies.iter().filter(|b| b.len() % 2 == 0).count());
        prop_assert_eq!(read, bodies);
    }

    /// What we send is what the peer reads.
    #[test]
    fn our_requests_read_back_equal(
        method in prop::sample::select(rsip::Method::all()),
        (user, host, port) in ("\\+?[0-9*#]{1,15}", "[a-z][a-z0-9-]{0,10}(\\.[a-z]{1,5}){0,2}", 1..65535_u16),
        (branch, tag, to_tag) in ("[a-zA-Z0-9]{1,40}", "[a-zA-Z0-9.~-]{1,40}", prop::option::of("[a-z0-9]{1,40}")),
        (call_id, cseq, max_forwards) in ("[a-zA-Z0-9@.-]{1,60}", 0..1_u32 << 31, any::<u8>()),
        routes in prop::collection::vec("<sip:[a-z]{1,10};lr>", 0..4),
        body in prop::option::of("(?s).{0,200}"),
    ) {
        let uri = format!("sip:{user}@{host}:{port}");
        let out = RequestOut {
            method: method.into(),
            uri: uri.clone(),
            via: ViaOut { transport: "TCP", sent_by: format!("{host}:{port}"), branch: format!("z9hG4bK{branch}") },
            max_forwards,
            from: AddressOut { uri: uri.clone(), tag: Some(tag.clone()) },
            to: AddressOut { uri: uri.clone(), tag: to_tag.clone() },
            call_id: call_id.clone(),
            cseq,
            contact: Some(uri.clone()),
            routes: routes.clone(),
            headers: vec![HeaderOut::RetryAfter(cseq), HeaderOut::Accept],
            body: body.clone().map(BodyOut::Sdp),
        };
        let wire = out.encode();
        prop_assert_eq!(frame(&wire), Frame::Message { length: wire.len() });
        let read = request(&wire);
        prop_assert_eq!(&read.method, &Method::from(method));
        prop_assert_eq!(&read.head.cseq.method, &read.method);
        for found in [&read.uri, &read.head.from.uri, &read.head.to.uri, &read.head.contact.as_ref().unwrap().uri] {
            prop_assert_eq!(found.as_str(), &uri);
            prop_assert_eq!((found.user().unwrap(), found.host(), found.port()), (user.clone().into(), &*host, Some(port)));
        }
        let via = &read.head.via;
        prop_assert_eq!((via.transport.as_str(), via.host.as_str(), via.port, via.rport), ("TCP", &*host, Some(port), Some(None)));
        prop_assert_eq!(via.branch.as_ref().unwrap().as_str(), format!("z9hG4bK{branch}"));
        prop_assert_eq!(read.head.from.tag().unwrap().as_str(), &tag);
        prop_assert_eq!(read.head.to.tag().map(|t| t.to_string()), to_tag);
        prop_assert_eq!((read.head.call_id.as_str(), read.head.cseq.number), (&*call_id, cseq));
        prop_assert_eq!(read.head.max_forwards, Some(max_forwards));
        prop_assert_eq!(read.head.tokens("Route"), routes);
        prop_assert_eq!(read.head.header("Retry-After").unwrap(), cseq.to_string());
        prop_assert_eq!(read.head.content_type().is_some(), body.is_some());
        prop_assert_eq!(&read.body[..], body.as_deref().unwrap_or_default().as_bytes());
        check_answer(&read);
    }

    /// On plain messages rsip's own parser reads the same.
    #[test]
    fn rsip_reads_plain_messages_alike(
        method in prop::sample::select(rsip::Method::all()),
        (user, host, port) in ("[a-z0-9]{1,15}", "[a-z]{1,10}(\\.[a-z]{2,5}){1,2}", prop::option::of(1..65535_u16)),
        (branch, tag, to_tag) in ("[a-zA-Z0-9]{1,40}", "[a-z0-9]{1,40}", prop::option::of("[a-z0-9]{1,40}")),
        (call_id, cseq, max_forwards) in ("[a-z0-9]{1,30}", 0..1_u32 << 31, any::<u8>()),
        name in "[A-Za-z]{1,12}",
        body in "[ -~]{0,100}",
    ) {
        let port = port.map_or(String::new(), |p| format!(":{p}"));
        let uri = format!("sip:{user}@{host}{port}");
        let to_tag = to_tag.map_or(String::new(), |t| format!(";tag={t}"));
        let text = format!(
            "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/UDP {host}{port};branch=z9hG4bK{branch}\r\nMax-Forwards: {max_forwards}\r\n\
             From: \"{name}\" <{uri}>;tag={tag}\r\nTo: <{uri}>{to_tag}\r\nCall-ID: {call_id}\r\nCSeq: {cseq} {method}\r\n\
             Contact: <{uri}>\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let theirs = rsip::Request::try_from(text.as_bytes()).unwrap();
        let ours = request(&text);
        prop_assert_eq!(rsip::Method::try_from(&ours.method).unwrap(), theirs.method);
        prop_assert_eq!(ours.uri.as_str(), theirs.uri.to_string());
        prop_assert_eq!(ours.uri.host(), theirs.uri.host().to_string());
        prop_assert_eq!(ours.uri.user().unwrap(), theirs.uri.user().unwrap());
        let via = theirs.via_header().unwrap().typed().unwrap();
        prop_assert_eq!(ours.head.via.branch.as_ref().unwrap().as_str(), via.branch().unwrap().value());
        let (from, to) = (theirs.from_header().unwrap().typed().unwrap(), theirs.to_header().unwrap().typed().unwrap());
        prop_assert_eq!(ours.head.from.tag().map(|t| t.as_str()), from.tag().map(|t| t.value()));
        prop_assert_eq!(ours.head.from.uri.as_str(), from.uri.to_string());
        prop_assert_eq!(ours.head.to.tag().map(|t| t.as_str()), to.tag().map(|t| t.value()));
        prop_assert_eq!(ours.head.call_id.as_str(), theirs.call_id_header().unwrap().value());
        let typed = theirs.cseq_header().unwrap().typed().unwrap();
        prop_assert_eq!((ours.head.cseq.number, &ours.head.cseq.method), (typed.seq, &Method::from(typed.method)));
        prop_assert_eq!(ours.head.max_forwards.unwrap().to_string(), theirs.max_forwards_header().unwrap().value());
        let contact = theirs.contact_header().unwrap().typed().unwrap();
        prop_assert_eq!(ours.head.contact.as_ref().unwrap().uri.as_str(), contact.uri.to_string());
        prop_assert_eq!(&ours.body[..], &theirs.body[..]);
    }
}

#[test]
fn rfc5626_3_5_1_keep_alives_and_how_long_a_stream_may_wait() {
    let keep_alive = |length, ping| Frame::KeepAlive { length, ping };
    assert_eq!(frame(b"\r\n\r\n"), keep_alive(4, true));
    assert_eq!(frame(b"\r\n"), keep_alive(2, false));
    assert_eq!(frame(b"\nINVITE"), keep_alive(1, false));
    assert_eq!(
        (frame(b""), frame(b"\r"), frame(b"INVITE")),
        (Frame::Incomplete, Frame::Incomplete, Frame::Incomplete)
    );
    let mut framer = Framer::new();
    assert_eq!(framer.frame(b"\r\n"), keep_alive(2, false));
    assert_eq!(framer.frame(b"\r\n"), keep_alive(2, true), "the other half of a ping");
    assert_eq!(framer.frame(b"\r\n"), keep_alive(2, false));
    let endless = "x".repeat(MAX_HEAD);
    assert_eq!(frame(&endless.as_bytes()[1..]), Frame::Incomplete);
    assert_eq!(frame(endless.as_bytes()), Frame::Bad(Malformed::HeadTooLarge));
    let announces = |length: usize| frame(invite(&format!("Content-Length: {length}\r\n")).as_bytes());
    assert_eq!(announces(10_000), Frame::Incomplete);
    assert_eq!(announces(MAX_MESSAGE), Frame::Bad(Malformed::TooLarge));
}

/// A head that comes byte by byte, as slowly as its sender likes, is not read again for each byte.
#[test]
fn framing_byte_by_byte_is_linear() {
    let stream = invite(&format!("{}Content-Length: 30000\r\n", "Subject: xxxxxxxxxxxxx\r\n".repeat(150)));
    let stream = format!("{stream}{}", "b".repeat(30_000));
    let took = quickest(|| {
        let mut framer = Framer::new();
        for end in 1..stream.len() {
            assert_eq!(framer.frame(&stream.as_bytes()[..end]), Frame::Incomplete, "{end}");
        }
        assert_eq!(framer.frame(stream.as_bytes()), Frame::Message { length: stream.len() });
    });
    assert!(took < QUICK, "{took:?}");
}

#[test]
fn lower_vias_are_kept_as_they_came() {
    let r = request(invite("Via: anything at all; even this\r\n"));
    assert_eq!(r.head.vias[1], "anything at all; even this");
    assert_eq!(Via::parse(&r.head.vias[1]), None);
}

/// Run with `--ignored --nocapture`, optimised: how long one INVITE of some 1200 bytes takes to parse.
#[test]
#[ignore = "a measurement"]
#[allow(clippy::disallowed_methods, reason = "a measurement")]
fn measure_an_invite() {
    let sdp = "v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\nm=audio 49170 RTP/AVP 0 8 101\r\n\
               a=rtpmap:0 PCMU/8000\r\na=rtpmap:8 PCMA/8000\r\na=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-15\r\n";
    let text = format!(
        "INVITE sip:+12025550100@203.0.113.10:5060;user=phone SIP/2.0\r\n\
         Via: SIP/2.0/UDP 198.51.100.7:5060;branch=z9hG4bK0f3e9a1b2c4d5e6f;rport\r\n\
         Via: SIP/2.0/UDP 198.51.100.9:5060;received=10.1.2.3;branch=z9hG4bK7766554433221100\r\n\
         Record-Route: <sip:198.51.100.7;lr;ftag=as4b1c2d3e>\r\nMax-Forwards: 68\r\n\
         From: \"Anonymous Caller\" <sip:+12025550177@198.51.100.9;user=phone>;tag=as4b1c2d3e\r\n\
         To: <sip:+12025550100@203.0.113.10:5060;user=phone>\r\nContact: <sip:+12025550177@198.51.100.9:5060;transport=udp>\r\n\
         Call-ID: 3f1c0a9e7b6d5c4b3a29181706f5e4d3@198.51.100.9\r\nCSeq: 102 INVITE\r\nUser-Agent: Carrier SBC 9.1\r\n\
         Date: Fri, 21 Nov 2025 10:00:00 GMT\r\nAllow: INVITE, ACK, CANCEL, OPTIONS, BYE, REFER, SUBSCRIBE, NOTIFY, INFO\r\n\
         Supported: replaces, timer, 100rel\r\nP-Asserted-Identity: <sip:+12025550177@198.51.100.9;user=phone>\r\n\
         Session-Expires: 1800;refresher=uac\r\nMin-SE: 90\r\nX-Carrier-Id: 7a6b5c4d3e2f1a0b\r\n\
         Content-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{sdp}",
        sdp.len()
    );
    let measure = |name: &str, parse: &dyn Fn()| {
        let (rounds, start) = (100_000_u32, std::time::Instant::now());
        (0..rounds).for_each(|_| parse());
        println!("{name}, {} bytes: {:?} each", text.len(), start.elapsed() / rounds);
    };
    // The datagram's own copy is part of the price.
    measure("ours", &|| drop(Message::parse(Bytes::copy_from_slice(text.as_bytes())).unwrap()));
    measure("rsip", &|| drop(rsip::Request::try_from(text.as_bytes()).unwrap()));
}

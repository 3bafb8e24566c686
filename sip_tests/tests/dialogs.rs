//! What belongs to no dialog, comes twice by two ways, or asks for what we do not do: the statuses that RFC
//! 3261 gives it.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests may panic like tests")]

mod common;

use common::{FIRST, PATIENCE, Scene, Setup};
use sip_tests::message::Message;
use sip_tests::phone::{CallOptions, PhoneConfig};
use sip_tests::sdp::SdpOptions;
use std::net::SocketAddr;
use tokio::net::UdpSocket;

fn bare(user: &str) -> CallOptions {
    CallOptions { sdp: None, ..CallOptions::from(user) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dialog_that_nobody_knows_gets_481() {
    let scene = Scene::new().await;
    for method in ["BYE", "UPDATE", "INFO", "OPTIONS", "REFER", "NOTIFY", "PRACK", "STRANGE"] {
        let (server, number) = (scene.server.sip, &scene.number);
        let request = scene.caller.request(server, method, number, bare(FIRST), Some("nobody"), PATIENCE);
        assert_eq!(request.await.unwrap().status(), Some(481), "{method}");
    }
    let to = Some(format!("<sip:{}@127.0.0.1>;tag=nobody", scene.number));
    let options = CallOptions { to, ..CallOptions::from(FIRST) };
    let invite = scene.caller.call(scene.server.sip, &scene.number, options).await.unwrap();
    assert_eq!(invite.final_status(PATIENCE).await.unwrap().status(), Some(481));
    // RFC 3261 §9.2: a CANCEL of no INVITE.
    let cancel = scene.caller.request(scene.server.sip, "CANCEL", &scene.number, bare(FIRST), None, PATIENCE);
    assert_eq!(cancel.await.unwrap().status(), Some(481));
    assert!(scene.callee.received().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_tag_in_a_live_dialog_is_another_dialog() {
    let scene = Scene::new().await;
    let options =
        CallOptions { call_id: Some("mine".into()), from_tag: Some("a".into()), ..CallOptions::from(FIRST) };
    let (call, incoming) = scene.talk_with(options).await;
    let tag = call.answered(PATIENCE).await.unwrap().to_tag().unwrap().to_owned();
    for (call_id, from_tag, to_tag) in
        [("mine", "a", "other"), ("mine", "b", tag.as_str()), ("other", "a", tag.as_str())]
    {
        let options = CallOptions {
            call_id: Some(call_id.into()),
            from_tag: Some(from_tag.into()),
            cseq: Some(1_000_000),
            ..bare(FIRST)
        };
        let phone = common::phone("intruder").await;
        let bye = phone.request(scene.server.sip, "BYE", &scene.number, options, Some(to_tag), PATIENCE);
        assert_eq!(bye.await.unwrap().status(), Some(481), "{call_id} {from_tag} {to_tag}");
    }
    assert_eq!(call.end(), None);
    scene.both_hear(&call, &incoming).await;
    scene.hang_up(&call, &incoming).await;
}

/// Sends a request of the dialog that `known` is a response of, from another address, and returns the answer's status.
/// A CANCEL belongs to the transaction.
async fn from_elsewhere(address: &str, server: SocketAddr, method: &str, known: &Message) -> Option<u16> {
    let socket = UdpSocket::bind(format!("{address}:0")).await.unwrap();
    let header = |name| known.header(name).unwrap();
    let (via, to) = match method {
        "CANCEL" => (header("Via").to_owned(), header("To").split(";tag=").next().unwrap()),
        _ => {
            let own = socket.local_addr().unwrap();
            (format!("SIP/2.0/UDP {own};rport;branch=z9hG4bK{method}{}", own.port()), header("To"))
        }
    };
    let number = if method == "CANCEL" { known.cseq().0 } else { known.cseq().0 + 100 };
    let request = format!(
        "{method} sip:maskline@{server} SIP/2.0\r\nVia: {via}\r\nFrom: {}\r\nTo: {to}\r\nCall-ID: {}\r\n\
         CSeq: {number} {method}\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n",
        header("From"),
        header("Call-ID"),
    );
    socket.send_to(request.as_bytes(), server).await.unwrap();
    let mut buffer = [0; 4096];
    let received =
        tokio::time::timeout(PATIENCE, socket.recv(&mut buffer)).await.expect("no answer").unwrap();
    Message::read(&buffer[..received]).unwrap().status()
}

/// Whoever has learned a call's tags must still be of its trunk; the trunk's addresses are as good as each other.
#[tokio::test(flavor = "multi_thread")]
async fn a_dialog_is_heard_from_its_own_trunk_only() {
    let setup = Setup {
        allow: "127.0.0.1/32\", \"127.0.0.3/32",
        trunk: "[[trunks]]\nname = \"other\"\ngateways = [\"sip:127.0.0.4\"]\nallow = [\"127.0.0.2/32\"]",
        ..Setup::default()
    };
    let scene = Scene::with(PhoneConfig::named("caller"), PhoneConfig::named("callee"), setup).await;
    let server = scene.server.sip;

    let (ringing, rung) = scene.dial().await;
    rung.ring().await.unwrap();
    let known = ringing.ringing(PATIENCE).await.unwrap();
    assert_eq!(from_elsewhere("127.0.0.2", server, "CANCEL", &known).await, Some(481));
    rung.answer(SdpOptions::default()).await.unwrap();
    let known = ringing.answered(PATIENCE).await.unwrap();
    rung.wait_ack(PATIENCE).await.unwrap();
    for (address, method) in [("127.0.0.2", "BYE"), ("127.0.0.4", "BYE"), ("127.0.0.2", "INFO")] {
        assert_eq!(from_elsewhere(address, server, method, &known).await, Some(481), "{address} {method}");
    }
    scene.both_hear(&ringing, &rung).await;
    assert_eq!((ringing.end(), rung.end()), (None, None));
    assert_eq!(from_elsewhere("127.0.0.3", server, "BYE", &known).await, Some(200));
    rung.wait_bye(PATIENCE).await.unwrap();
    scene.server.settled().await;
}

/// RFC 3261 §8.2.2.2.
#[tokio::test(flavor = "multi_thread")]
async fn an_invite_that_comes_by_two_ways_gets_482_on_the_second() {
    let scene = Scene::new().await;
    let options = CallOptions {
        call_id: Some("merged".into()),
        from_tag: Some("same".into()),
        cseq: Some(7),
        ..CallOptions::from(FIRST)
    };
    let (call, incoming) = scene.dial_with(options.clone()).await;
    let other_way = common::phone("other way").await;
    let second = other_way.call(scene.server.sip, &scene.number, options).await.unwrap();
    assert_eq!(second.final_status(PATIENCE).await.unwrap().status(), Some(482));
    incoming.answer(SdpOptions::default()).await.unwrap();
    call.answered(PATIENCE).await.unwrap();
    incoming.wait_ack(PATIENCE).await.unwrap();
    scene.hang_up(&call, &incoming).await;
    assert_eq!(scene.callee.received().iter().filter(|m| m.is("INVITE")).count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn methods_that_we_do_not_take() {
    let scene = Scene::new().await;
    for (method, status) in [
        ("REGISTER", 405),
        ("SUBSCRIBE", 405),
        ("MESSAGE", 405),
        ("REFER", 405),
        ("PUBLISH", 405),
        ("NOTIFY", 405),
        ("STRANGE", 501),
        ("invite", 501),
    ] {
        let request =
            scene.caller.request(scene.server.sip, method, &scene.number, bare(FIRST), None, PATIENCE);
        let answer = request.await.unwrap();
        assert_eq!(answer.status(), Some(status), "{method}");
        if status == 405 {
            assert!(answer.header("Allow").unwrap().contains("INVITE"), "RFC 3261 §21.4.6");
        }
    }
    let (call, incoming) = scene.talk().await;
    for side in [&*call, &*incoming] {
        for (method, status) in
            [("REFER", 405), ("MESSAGE", 405), ("SUBSCRIBE", 405), ("PRACK", 481), ("STRANGE", 501)]
        {
            let answer = side.request(method, &[], None, PATIENCE).await.unwrap();
            assert_eq!(answer.status(), Some(status), "{method}");
        }
        assert_eq!(side.request("OPTIONS", &[], None, PATIENCE).await.unwrap().status(), Some(200));
        assert_eq!(side.request("INFO", &[], None, PATIENCE).await.unwrap().status(), Some(200));
        assert_eq!(side.info_dtmf('5', 160, PATIENCE).await.unwrap().status(), Some(200));
        // RFC 6086 §4.2.2.
        let package = [("Info-Package".to_owned(), "foo".to_owned())];
        let answer = side.request("INFO", &package, Some(("application/foo", b"x")), PATIENCE).await.unwrap();
        assert_eq!((answer.status(), answer.header("Recv-Info").is_some()), (Some(469), true));
    }
    scene.both_hear(&call, &incoming).await;
    scene.hang_up(&call, &incoming).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn extensions_that_we_do_not_have_get_420() {
    let scene = Scene::new().await;
    let options = CallOptions::from(FIRST).header("Require", "100rel, timer").header("Require", "foo");
    let call = scene.caller.call(scene.server.sip, &scene.number, options).await.unwrap();
    let answer = call.final_status(PATIENCE).await.unwrap();
    assert_eq!(answer.status(), Some(420));
    assert_eq!(answer.values("Unsupported"), ["foo"]);
    // RFC 3261 §8.2.2.3 has no exception for later requests, nor for those outside of a dialog.
    let require = [("Require".to_owned(), "foo".to_owned())];
    let request = scene.caller.request(
        scene.server.sip,
        "OPTIONS",
        &scene.number,
        bare(FIRST).header("Require", "foo"),
        None,
        PATIENCE,
    );
    assert_eq!(request.await.unwrap().status(), Some(420));
    let (call, incoming) = scene.talk().await;
    for side in [&*call, &*incoming] {
        for method in ["UPDATE", "OPTIONS", "INFO"] {
            let answer = side.request(method, &require, None, PATIENCE).await.unwrap();
            assert_eq!((answer.status(), answer.header("Unsupported")), (Some(420), Some("foo")), "{method}");
        }
    }
    scene.hang_up(&call, &incoming).await;
}

/// RFC 7332: a loop through us ends.
#[tokio::test(flavor = "multi_thread")]
async fn hops_are_counted() {
    let scene = Scene::new().await;
    for (given, forwarded) in [(70, "69"), (200, "69"), (5, "4"), (1, "0")] {
        let options = CallOptions { max_forwards: given, ..CallOptions::from(FIRST) };
        let (call, incoming) = scene.dial_with(options).await;
        assert_eq!(incoming.request().header("Max-Forwards"), Some(forwarded));
        incoming.reject(486, None, &[], None).await.unwrap();
        call.final_status(PATIENCE).await.unwrap();
    }
    let options = CallOptions { max_forwards: 0, ..CallOptions::from(FIRST) };
    let call = scene.caller.call(scene.server.sip, &scene.number, options).await.unwrap();
    assert_eq!(call.final_status(PATIENCE).await.unwrap().status(), Some(483));
    scene.no_faults().await;
}

fn sdp(media: &str) -> String {
    format!("v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n{media}")
}

fn multipart(parts: &[(&str, &str, &str)]) -> String {
    let parts: String = parts
        .iter()
        .map(|(kind, more, content)| format!("--edge\r\nContent-Type: {kind}\r\n{more}\r\n{content}\r\n"))
        .collect();
    format!("{parts}--edge--\r\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_we_cannot_use() {
    let scene = Scene::new().await;
    let good = sdp("m=audio 40000 RTP/AVP 0\r\n");
    let optional = "Content-Disposition: render; handling=optional\r\n";
    let mixed = "multipart/mixed;boundary=edge";
    let isup = ("application/isup", "", "x");
    for (what, kind, body, status) in [
        ("text", "text/plain", "hello".to_owned(), 415),
        ("G.729 only", "application/sdp", sdp("m=audio 40000 RTP/AVP 18\r\n"), 488),
        ("video only", "application/sdp", sdp("m=video 40000 RTP/AVP 31\r\n"), 488),
        ("SRTP only", "application/sdp", sdp("m=audio 40000 RTP/SAVP 0\r\n"), 488),
        ("port 0", "application/sdp", sdp("m=audio 0 RTP/AVP 0\r\n"), 488),
        ("no media", "application/sdp", sdp(""), 488),
        ("a part that must be understood", mixed, multipart(&[("application/sdp", "", &good), isup]), 415),
        (
            "a good part",
            mixed,
            multipart(&[("application/sdp", "", &good), ("application/isup", optional, "x")]),
            486,
        ),
        ("no boundary", "multipart/mixed", multipart(&[("application/sdp", "", &good)]), 415),
    ] {
        let body = Some((kind.to_owned(), body.into_bytes()));
        let options = CallOptions { body, ..CallOptions::from(FIRST) };
        let call = scene.caller.call(scene.server.sip, &scene.number, options).await.unwrap();
        if status == 486 {
            let incoming = scene.callee.next_call(PATIENCE).await.unwrap();
            assert!(incoming.request().header("Content-Type").unwrap().starts_with("application/sdp"));
            incoming.reject(486, None, &[], None).await.unwrap();
        }
        let refusal = call.final_status(PATIENCE).await.unwrap();
        assert_eq!(refusal.status(), Some(status), "{what}");
        if status == 415 {
            assert_eq!(refusal.header("Accept"), Some("application/sdp"), "RFC 3261 §21.4.13");
        }
    }
    scene.no_faults().await;
}

/// RFC 3261 §12.2.2.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_cseq_gets_500() {
    let scene = Scene::new().await;
    let options = CallOptions {
        call_id: Some("order".into()),
        from_tag: Some("t".into()),
        cseq: Some(500),
        ..CallOptions::from(FIRST)
    };
    let (call, incoming) = scene.talk_with(options).await;
    let tag = call.answered(PATIENCE).await.unwrap().to_tag().unwrap().to_owned();
    let old = CallOptions {
        call_id: Some("order".into()),
        from_tag: Some("t".into()),
        cseq: Some(10),
        ..bare(FIRST)
    };
    let phone = common::phone("late").await;
    let answer = phone.request(scene.server.sip, "INFO", &scene.number, old, Some(&tag), PATIENCE).await;
    assert_eq!(answer.unwrap().status(), Some(500));
    scene.hang_up(&call, &incoming).await;
}

/// RFC 3261 §8.1.3.3: it went astray.
#[tokio::test(flavor = "multi_thread")]
async fn a_response_with_two_vias_is_not_ours() {
    let scene = Scene::new().await;
    let (call, incoming) = scene.dial().await;
    let invite = incoming.request();
    let header = |name: &str| format!("{name}: {}\r\n", invite.header(name).unwrap());
    let response = |more: &str, status: &str| {
        let (via, to) = (header("Via"), header("To").replace("\r\n", ";tag=x\r\n"));
        let (from, call_id, cseq) = (header("From"), header("Call-ID"), header("CSeq"));
        format!("SIP/2.0 {status}\r\n{via}{more}{from}{to}{call_id}{cseq}Content-Length: 0\r\n\r\n")
    };
    let astray = response("Via: SIP/2.0/UDP elsewhere.example;branch=z9hG4bKz\r\n", "486 Busy Here");
    scene.callee.send_raw(scene.server.sip, astray.as_bytes());
    scene.callee.send_raw(scene.server.sip, response("", "180 Ringing").as_bytes());
    call.ringing(PATIENCE).await.unwrap();
    assert!(!call.statuses().contains(&486));
    incoming.answer(SdpOptions::default()).await.unwrap();
    call.answered(PATIENCE).await.unwrap();
    incoming.wait_ack(PATIENCE).await.unwrap();
    scene.hang_up(&call, &incoming).await;
}

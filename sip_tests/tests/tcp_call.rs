//! Calls by TCP: on the A-leg, on the B-leg, on both; framing and keep-alives (RFC 3261 §18, RFC 5626
//! §4.4.1).

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests may panic like tests")]

mod common;

use common::{FIRST, PATIENCE, Scene, Server, Setup};
use serde_json::json;
use sip_tests::agent::{End, Transport};
use sip_tests::phone::{CallOptions, Phone, PhoneConfig};
use sip_tests::sdp::SdpOptions;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

fn by_tcp(name: &str) -> PhoneConfig {
    PhoneConfig { transport: Transport::Tcp, ..PhoneConfig::named(name) }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_by_tcp_on_either_leg() {
    for (caller_tcp, callee_tcp) in [(true, false), (false, true), (true, true)] {
        let config = |name, tcp| if tcp { by_tcp(name) } else { PhoneConfig::named(name) };
        let caller = Phone::bind(config("caller", caller_tcp)).await.unwrap();
        let callee = Phone::bind(config("callee", callee_tcp)).await.unwrap();
        let transport = if callee_tcp { "tcp" } else { "udp" };
        let gateways = vec![format!("sip:{};transport={transport}", callee.address())];
        let server = Server::with(callee.address(), Setup { gateways, ..Setup::default() }).await;
        let session = server.session(json!({ "record": false })).await;
        let number = Server::number(&session);
        let sip = if caller_tcp { server.sip_tcp } else { server.sip };
        for caller_hangs_up in [true, false] {
            let call = caller.call(sip, &number, CallOptions::from(FIRST)).await.unwrap();
            let incoming = callee.next_call(PATIENCE).await.unwrap();
            let via = incoming.request().header("Via").unwrap();
            assert_eq!(via.starts_with("SIP/2.0/TCP"), callee_tcp, "{via}");
            incoming.ring().await.unwrap();
            call.ringing(PATIENCE).await.unwrap();
            incoming.answer(SdpOptions::default()).await.unwrap();
            let ok = call.answered(PATIENCE).await.unwrap();
            assert_eq!(ok.header("Contact").unwrap().contains("transport=tcp"), caller_tcp);
            incoming.wait_ack(PATIENCE).await.unwrap();
            for side in [&*call, &*incoming] {
                assert_eq!(side.reinvite(Some("sendrecv"), PATIENCE).await.unwrap().status(), Some(200));
            }
            let (from, to): (&sip_tests::phone::Call, &sip_tests::phone::Call) =
                if caller_hangs_up { (&call, &incoming) } else { (&incoming, &call) };
            from.hang_up().await.unwrap();
            to.wait_bye(PATIENCE).await.unwrap();
            assert_eq!((from.end(), to.wait_end(PATIENCE).await), (Some(End::ByeSent), Ok(End::ByeReceived)));
        }
        let call = caller.call(sip, &number, CallOptions::from(FIRST)).await.unwrap();
        let incoming = callee.next_call(PATIENCE).await.unwrap();
        incoming.ring().await.unwrap();
        call.ringing(PATIENCE).await.unwrap();
        call.cancel().await.unwrap();
        incoming.wait_cancel(PATIENCE).await.unwrap();
        assert_eq!(call.final_status(PATIENCE).await.unwrap().status(), Some(487));
        server.settled().await;
        assert_eq!((caller.faults().await, callee.faults().await), (vec![], vec![]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_without_tcp_is_given_up_like_one_that_is_full() {
    // Nobody listens there.
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let callee = Phone::bind(PhoneConfig::named("callee")).await.unwrap();
    let caller = Phone::bind(PhoneConfig::named("caller")).await.unwrap();
    let gateways =
        vec![format!("sip:{closed};transport=tcp"), format!("sip:{};transport=udp", callee.address())];
    let server = Server::with(callee.address(), Setup { gateways, ..Setup::default() }).await;
    let session = server.session(json!({ "record": false })).await;
    let call = caller.call(server.sip, &Server::number(&session), CallOptions::from(FIRST)).await.unwrap();
    let incoming = callee.next_call(PATIENCE).await.unwrap();
    incoming.answer(SdpOptions::default()).await.unwrap();
    call.answered(PATIENCE).await.unwrap();
    call.hang_up().await.unwrap();
    incoming.wait_bye(PATIENCE).await.unwrap();
    assert_eq!((caller.faults().await, callee.faults().await), (vec![], vec![]));
}

fn options(id: &str) -> String {
    format!(
        "OPTIONS sip:service SIP/2.0\r\nVia: SIP/2.0/TCP 127.0.0.1:9;branch=z9hG4bK{id}\r\n\
         From: <sip:a@b>;tag=1\r\nTo: <sip:a@b>\r\nCall-ID: {id}\r\nCSeq: 1 OPTIONS\r\nMax-Forwards: 70\r\n\
         Content-Length: 0\r\n\r\n"
    )
}

/// Reads until `count` responses and `rest` have come.
async fn read(stream: &mut TcpStream, count: usize, rest: &[u8]) -> String {
    let mut text = vec![];
    let reading = async {
        loop {
            let seen = text.windows(12).filter(|w| *w == b"SIP/2.0 200 ").count();
            if seen == count && text.ends_with(rest) {
                return;
            }
            let mut chunk = [0; 4096];
            let length = stream.read(&mut chunk).await.unwrap();
            assert!(length > 0, "closed after {:?}", String::from_utf8_lossy(&text));
            text.extend_from_slice(&chunk[..length]);
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.unwrap();
    String::from_utf8(text).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_cut_where_content_length_says() {
    let scene = Scene::new().await;
    let mut stream = TcpStream::connect(scene.server.sip_tcp).await.unwrap();
    stream.set_nodelay(true).unwrap();
    // Two in one segment, with line ends before and between them.
    stream.write_all(format!("\r\n{}\r\n\r\n{}", options("one"), options("two")).as_bytes()).await.unwrap();
    let answers = read(&mut stream, 2, b"\r\n\r\n").await;
    assert!(answers.contains("Call-ID: one") && answers.contains("Call-ID: two"));
    // One in many segments.
    for byte in options("three").as_bytes() {
        stream.write_all(&[*byte]).await.unwrap();
    }
    assert!(read(&mut stream, 1, b"\r\n\r\n").await.contains("Call-ID: three"));
    // RFC 5626 §4.4.1: a ping gets a pong.
    stream.write_all(b"\r\n\r\n").await.unwrap();
    assert_eq!(read(&mut stream, 0, b"\r\n").await, "\r\n");
}

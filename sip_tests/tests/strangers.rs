//! Sources that no trunk allows get silence, before anything is parsed. A gateway that may not call in still
//! answers our calls and speaks inside them.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests may panic like tests")]

mod common;

use common::{FIRST, PATIENCE, SECOND, Scene, Server, Setup};
use sip_tests::phone::{CallOptions, Phone, PhoneConfig};
use sip_tests::sdp::SdpOptions;
use std::net::{Ipv4Addr, SocketAddr};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;

const ONLY_HOME: Setup = Setup {
    sip: "",
    tls: None,
    listen: &[],
    dns: None,
    media: "",
    http: "",
    recordings: None,
    trunk: "",
    numbers: 1,
    number: "",
    gateways: vec![],
    allow: "127.0.0.1/32",
    accounts: &[],
};

async fn at(name: &str, last: u8) -> Phone {
    let address = SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), 0));
    Phone::bind(PhoneConfig::named(name).at(address)).await.unwrap()
}

/// What the service answered by now was asked before: both came by the same socket.
async fn service_is_alive(phone: &Phone, server: &Server) {
    let options = CallOptions { sdp: None, ..CallOptions::from("monitor") };
    let answer = phone.request(server.sip, "OPTIONS", "", options, None, PATIENCE).await.unwrap();
    assert_eq!(answer.status(), Some(200));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_gets_no_answer_whatever_he_sends() {
    let scene = Scene::with(PhoneConfig::named("caller"), PhoneConfig::named("callee"), ONLY_HOME).await;
    let server = &scene.server;
    let stranger = at("stranger", 77).await;
    let before = server.metric("maskline_sip_refused_source_total").await;
    let call = stranger.call(server.sip, &scene.number, CallOptions::from(FIRST)).await.unwrap();
    for method in ["OPTIONS", "REGISTER", "BYE", "NONSENSE"] {
        let text = format!(
            "{method} sip:{} SIP/2.0\r\nVia: SIP/2.0/UDP {};branch=z9hG4bK{method}\r\nFrom: <sip:a@b>;tag=1\r\n\
             To: <sip:a@b>\r\nCall-ID: {method}\r\nCSeq: 1 {method}\r\nMax-Forwards: 70\r\n\r\n",
            server.sip,
            stranger.address()
        );
        stranger.send_raw(server.sip, text.as_bytes());
    }
    stranger.send_raw(server.sip, &b"garbage \x00\xff that is long enough to be a request ".repeat(9));
    common::until("they have come in", || (stranger.transcript().entries().len() >= 6).then_some(())).await;
    service_is_alive(&scene.caller, server).await;
    assert!(stranger.received().is_empty());
    assert!(call.received().is_empty());
    assert!(scene.callee.received().is_empty());
    assert!(server.metric("maskline_sip_refused_source_total").await >= before + 6.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_by_tcp_is_disconnected() {
    let scene = Scene::with(PhoneConfig::named("caller"), PhoneConfig::named("callee"), ONLY_HOME).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((Ipv4Addr::new(127, 0, 0, 78), 0))).unwrap();
    // An end or a reset, at once or a little later, but not a byte.
    match socket.connect(scene.server.sip_tcp).await {
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
        Ok(mut stream) => {
            let _ = stream.write_all(b"OPTIONS sip:x SIP/2.0\r\n\r\n").await;
            let mut answer = vec![];
            let closed = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap();
            assert!(answer.is_empty(), "{closed:?}");
        }
    }
    service_is_alive(&scene.caller, &scene.server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_may_not_call_in_still_takes_calls() {
    let gateway = PhoneConfig::named("callee").at("127.0.0.79:0".parse().unwrap());
    let scene = Scene::with(PhoneConfig::named("caller"), gateway, ONLY_HOME).await;
    let (call, incoming) = scene.dial().await;
    assert!(incoming.request().uri().unwrap().contains(SECOND));
    incoming.ring().await.unwrap();
    incoming.answer(SdpOptions::default()).await.unwrap();
    call.answered(PATIENCE).await.unwrap();
    incoming.wait_ack(PATIENCE).await.unwrap();
    scene.both_hear(&call, &incoming).await;

    // Its own calls are met with silence; what it says inside our call is heard.
    let refused =
        scene.callee.call(scene.server.sip, &scene.number, CallOptions::from(SECOND)).await.unwrap();
    assert_eq!(incoming.update(Some("sendrecv"), PATIENCE).await.unwrap().status(), Some(200));
    assert!(refused.received().is_empty());
    incoming.hang_up().await.unwrap();
    call.wait_bye(PATIENCE).await.unwrap();
    scene.server.settled().await;
}

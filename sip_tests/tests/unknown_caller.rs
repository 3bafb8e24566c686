//! Who may reach whom: numbers that are not ours, strangers, hidden numbers, sessions that have ended. The
//! rows of product.md's table that need no PIN.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests may panic like tests")]

mod common;

use common::{FIRST, PATIENCE, SECOND, STRANGER, Scene, Server, Setup, phone};
use maskline::number::Did;
use maskline::store::{NewNumber, NoSession};
use serde_json::json;
use sip_tests::message::Message;
use sip_tests::phone::{CallOptions, Phone};
use sip_tests::sdp::SdpOptions;

async fn refusal(phone: &Phone, server: &Server, number: &str, options: CallOptions) -> Message {
    let call = phone.call(server.sip, number, options).await.unwrap();
    call.final_status(PATIENCE).await.unwrap()
}

/// Start line and names of headers: what a caller could tell two refusals apart by.
fn shape(message: &Message) -> (String, Vec<String>) {
    (message.start_line().to_owned(), message.header_names())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_gets_the_same_404_as_for_a_number_that_is_not_ours() {
    let scene = Scene::new().await;
    let server = &scene.server;
    let stranger = refusal(&scene.caller, server, &scene.number, CallOptions::from(STRANGER)).await;
    assert_eq!(stranger.status(), Some(404));
    let nameless = CallOptions::anonymous();
    for (number, options) in [
        ("+12025550199", CallOptions::from(STRANGER)),
        ("+12025550199", CallOptions::from(FIRST)),
        ("+4915112345678", CallOptions::from(FIRST)),
        ("nobody", CallOptions::from(FIRST)),
        (&scene.number, nameless),
    ] {
        let other = refusal(&scene.caller, server, number, options).await;
        assert_eq!(shape(&other), shape(&stranger), "{number}");
    }
    server.settled().await;
    assert!(scene.callee.received().is_empty());
    scene.no_faults().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hidden_number_is_read_where_the_trunk_asserts_it() {
    let scene = Scene::new().await;
    for asserted in [
        format!("<sip:{FIRST}@carrier.example;user=phone>"),
        format!("\"A Name\" <tel:{FIRST}>"),
        format!("<sip:nobody@carrier.example>, <tel:{FIRST}>"),
    ] {
        let options = CallOptions { asserted_identity: Some(asserted), ..CallOptions::anonymous() };
        let (call, incoming) = scene.dial_with(options).await;
        assert!(incoming.request().uri().unwrap().contains(SECOND));
        incoming.reject(486, None, &[], None).await.unwrap();
        call.final_status(PATIENCE).await.unwrap();
    }
    // The trunk's word counts, not the caller's.
    let options =
        CallOptions { asserted_identity: Some(format!("<tel:{STRANGER}>")), ..CallOptions::from(FIRST) };
    let refused = refusal(&scene.caller, &scene.server, &scene.number, options).await;
    assert_eq!(refused.status(), Some(404));
    scene.no_faults().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_are_known_in_every_way_of_writing() {
    let setup = Setup { trunk: "default_country = \"US\"", ..Setup::default() };
    let scene = Scene::with(
        sip_tests::phone::PhoneConfig::named("caller"),
        sip_tests::phone::PhoneConfig::named("callee"),
        setup,
    )
    .await;
    for (from, dialled) in [
        ("+12025550142", "+1-202-555-0100"),
        ("12025550142", "12025550100"),
        ("2025550142", "2025550100"),
        ("+1.202.555.0142", "%2B12025550100"),
        ("0012025550142", "+12025550100;npdi;rn=+12025550199"),
    ] {
        let options = CallOptions { to: Some("<sip:x@y>".into()), ..CallOptions::from(from) };
        let call = scene.caller.call(scene.server.sip, dialled, options).await.unwrap();
        let incoming = scene.callee.next_call(PATIENCE).await.unwrap();
        incoming.reject(486, None, &[], None).await.unwrap();
        assert_eq!(call.final_status(PATIENCE).await.unwrap().status(), Some(486), "{from} {dialled}");
    }
    scene.no_faults().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_for_new_calls_at_once() {
    let scene = Scene::new().await;
    let server = &scene.server;
    let uuid = scene.session["session_uuid"].as_str().unwrap();
    let (call, incoming) = scene.talk().await;
    assert_eq!(server.api("DELETE", &format!("Masking/Session/{uuid}/"), None).await.0, 200);
    let refused = refusal(&scene.caller, server, &scene.number, CallOptions::from(FIRST)).await;
    assert_eq!(refused.status(), Some(404));
    // The call that is up goes on.
    scene.both_hear(&call, &incoming).await;
    scene.hang_up(&call, &incoming).await;

    let short = server.session(json!({ "record": false, "session_expiry": 1 })).await;
    let path = format!("Masking/Session/{}/", short["session_uuid"].as_str().unwrap());
    common::until_asked("the session expires", async || {
        let (_, shown) = server.api("GET", &path, None).await;
        (shown["response"]["status"] == "expired").then_some(())
    })
    .await;
    let number = Server::number(&short);
    let refused = refusal(&scene.caller, server, &number, CallOptions::from(FIRST)).await;
    assert_eq!(refused.status(), Some(404));
    scene.no_faults().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_hears_the_message_and_then_bye() {
    let (caller, callee) = (phone("caller").await, phone("callee").await);
    let server = Server::start(&callee).await;
    // Nothing can be fetched from there, so that the built-in message is played.
    let play = json!({ "record": false, "unknown_caller_play": "http://127.0.0.1:9/message.wav" });
    let session = server.session(play).await;
    let options = CallOptions::from(STRANGER);
    let call = caller.call(server.sip, &Server::number(&session), options).await.unwrap();
    call.answered(PATIENCE).await.unwrap();
    call.wait_bye(PATIENCE).await.unwrap();
    let loud = |samples: &[i16]| samples.iter().any(|sample| sample.unsigned_abs() > 1000);
    assert!(loud(&call.media().received_audio()), "the message is heard");
    server.settled().await;
    assert!(callee.received().is_empty());
    let interactions = server.interactions(&session).await;
    assert_eq!(interactions.len(), 1);
    assert!(caller.faults().await.is_empty());
}

fn leaked(text: String) -> &'static str {
    Box::leak(text.into_boxed_str())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_says_what_becomes_of_strangers() {
    let (caller, callee, desk) = (phone("caller").await, phone("callee").await, phone("desk").await);
    let number = leaked(format!("no_session = \"sip:desk@{};transport=udp\"", desk.address()));
    let server = Server::with(callee.address(), Setup { number, ..Setup::default() }).await;
    let call = caller.call(server.sip, "+12025550100", CallOptions::from(STRANGER)).await.unwrap();
    let incoming = desk.next_call(PATIENCE).await.unwrap();
    assert!(incoming.request().uri().unwrap().starts_with("sip:desk@"));
    assert!(!incoming.request().text().contains("2025550177"), "{}", incoming.request().text());
    incoming.answer(SdpOptions::default()).await.unwrap();
    call.answered(PATIENCE).await.unwrap();
    call.media().wait_packets(10, PATIENCE).await.unwrap();
    incoming.bye().await.unwrap();
    call.wait_bye(PATIENCE).await.unwrap();
    server.settled().await;

    let number = "no_session = \"play:http://127.0.0.1:9/message.wav\"";
    let server = Server::with(callee.address(), Setup { number, ..Setup::default() }).await;
    let call = caller.call(server.sip, "+12025550100", CallOptions::anonymous()).await.unwrap();
    call.answered(PATIENCE).await.unwrap();
    call.wait_bye(PATIENCE).await.unwrap();
    server.settled().await;
    assert!(callee.received().is_empty());
    for phone in [caller, callee, desk] {
        assert!(phone.faults().await.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stored_uri_that_the_operator_does_not_allow_is_not_followed() {
    let (caller, callee, desk) = (phone("caller").await, phone("callee").await, phone("desk").await);
    let server = Server::start(&callee).await;
    let store = &server.service.shell().store;
    for (did, uri, status) in [
        ("12025550180", format!("sip:desk@{}", desk.address()), 404),
        // The gateway, but somebody's number there.
        ("12025550181", format!("sip:+12025550199@{};transport=udp", callee.address()), 404),
        ("12025550182", format!("sip:desk@{};transport=udp", callee.address()), 486),
    ] {
        let number = NewNumber {
            did: Did::parse(did).unwrap(),
            trunk: "carrier".into(),
            subaccount: None,
            no_session: NoSession::Sip(uri),
            draining: false,
        };
        store.add_number(server.account(), number, maskline::clock::wall_now()).await.unwrap().unwrap();
        let call = caller.call(server.sip, &format!("+{did}"), CallOptions::from(STRANGER)).await.unwrap();
        if status == 486 {
            callee.next_call(PATIENCE).await.unwrap().reject(486, None, &[], None).await.unwrap();
        }
        assert_eq!(call.final_status(PATIENCE).await.unwrap().status(), Some(status), "{did}");
    }
    server.settled().await;
    assert!(desk.received().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_party_session_without_pin_takes_anyone_to_its_party() {
    let (caller, callee) = (phone("caller").await, phone("callee").await);
    let server = Server::start(&callee).await;
    let body = json!({ "first_party": FIRST, "create_session_with_single_party": true, "record": false });
    let (status, session) = server.api("POST", "Masking/Session/", Some(&body)).await;
    assert_eq!(status, 201, "{session}");
    let number = Server::number(&session);
    for options in [CallOptions::from(STRANGER), CallOptions::anonymous()] {
        let call = caller.call(server.sip, &number, options).await.unwrap();
        let incoming = callee.next_call(PATIENCE).await.unwrap();
        assert!(incoming.request().uri().unwrap().contains(FIRST));
        incoming.reject(603, None, &[], None).await.unwrap();
        assert_eq!(call.final_status(PATIENCE).await.unwrap().status(), Some(603));
    }
    assert!(caller.faults().await.is_empty() && callee.faults().await.is_empty());
}

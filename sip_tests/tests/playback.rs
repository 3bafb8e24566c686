//! Messages that a session names by URL: fetched when the session is made, played to whom they are for.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests may panic like tests")]

mod common;

use common::talk::{Pair, compare, dialled, find, heard, more_packets, wav};
use common::{FIRST, PATIENCE, SECOND, STRANGER, Setup, until};
use serde_json::json;
use sip_tests::audio::{Voice, speech};
use sip_tests::phone::CallOptions;
use sip_tests::sdp::SdpOptions;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// A small HTTP server with WAV files; it counts how often each was asked for.
struct Files {
    base: String,
    asked: Arc<Mutex<BTreeMap<String, u32>>>,
}

impl Files {
    async fn serve(files: Vec<(&'static str, Vec<i16>)>) -> Self {
        let files: BTreeMap<String, Vec<u8>> =
            files.into_iter().map(|(name, samples)| (format!("/{name}"), wav_bytes(&samples))).collect();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(BTreeMap::new()));
        let counts = asked.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = vec![];
                while !request.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = stream.read_u8().await else { break };
                    request.push(byte);
                }
                let request = String::from_utf8_lossy(&request).into_owned();
                let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
                *counts.lock().unwrap().entry(path.clone()).or_insert(0) += 1;
                let (status, body) =
                    files.get(&path).map_or(("404 Not Found", &[][..]), |body| ("200 OK", body));
                let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n", body.len());
                let _ = stream.write_all(format!("{head}Connection: close\r\n\r\n").as_bytes()).await;
                let _ = stream.write_all(body).await;
                let _ = stream.shutdown().await;
            }
        });
        Self { base, asked }
    }

    fn url(&self, name: &str) -> String {
        format!("{}/{name}", self.base)
    }

    /// Waits until the file was asked for, then until it can be played.
    async fn fetched(&self, pair: &Pair, name: &str) {
        // Asking the library would itself begin a fetch: first the service must have asked by itself.
        until(name, || self.asked.lock().unwrap().contains_key(&format!("/{name}")).then_some(())).await;
        let prompts = &pair.server.service.shell().prompts;
        until("it is decoded", || prompts.find("", &self.url(name))).await;
    }

    fn count(&self, name: &str) -> u32 {
        self.asked.lock().unwrap().get(&format!("/{name}")).copied().unwrap_or(0)
    }
}

fn wav_bytes(samples: &[i16]) -> Vec<u8> {
    let length = u32::try_from(samples.len() * 2).unwrap();
    let mut bytes = b"RIFF".to_vec();
    bytes.extend((length + 36).to_le_bytes());
    bytes.extend(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    bytes.extend(8000u32.to_le_bytes());
    bytes.extend(16_000u32.to_le_bytes());
    bytes.extend(b"\x02\0\x10\0data");
    bytes.extend(length.to_le_bytes());
    bytes.extend(samples.iter().flat_map(|sample| sample.to_le_bytes()));
    bytes
}

async fn pair() -> Pair {
    Pair::with(Setup { http: "fetch_allow = [\"127.0.0.0/8\"]", ..Setup::default() }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_party_hears_its_own_message_before_it_is_connected() {
    let (to_first, to_second) = (speech(Voice::Low, 31, 800), speech(Voice::High, 32, 1000));
    let files = Files::serve(vec![("first.wav", to_first.clone()), ("second.wav", to_second.clone())]).await;
    let pair = pair().await;
    let session = pair
        .server
        .session(json!({
            "first_party_play_url": files.url("first.wav"),
            "second_party_play_url": files.url("second.wav"),
        }))
        .await;
    files.fetched(&pair, "first.wav").await;
    files.fetched(&pair, "second.wav").await;
    let mut known = vec![];
    for (caller, callee, callers, callees) in
        [(FIRST, SECOND, &to_first, &to_second), (SECOND, FIRST, &to_second, &to_first)]
    {
        let call = pair.dial(&session, CallOptions::from(caller)).await;
        // The caller's message comes after a 200 and before anybody is rung.
        call.answered(PATIENCE).await.unwrap();
        let incoming = pair.rung().await;
        assert_eq!(dialled(&incoming), callee);
        heard("the caller's message", callers, call.media());
        incoming.ring().await.unwrap();
        let before = call.media().received_count();
        incoming.answer(SdpOptions::default()).await.unwrap();
        // The callee's message comes after its 200, while the caller hears ringback of ours.
        incoming.media().wait_packets(callees.len() / 160, PATIENCE).await.unwrap();
        let ringback = call.media().received_packets().split_off(before);
        let level = sip_tests::audio::level(&sip_tests::stream::place(&ringback));
        assert!(level > 300.0, "the caller hears nothing while the message plays: {level}");
        // Then they are connected.
        let voice = speech(Voice::Low, 33, 800);
        more_packets(incoming.media(), 20).await;
        tokio::join!(call.media().play(&voice), incoming.media().play(&voice));
        more_packets(call.media(), 5).await;
        call.bye().await.unwrap();
        incoming.wait_bye(PATIENCE).await.unwrap();
        heard("the callee's message", callees, incoming.media());
        heard("the caller", &voice, incoming.media());
        heard("the callee", &voice, call.media());
        assert_eq!(
            find(callees, &call.media().received_audio()),
            None,
            "the caller heard the callee's message"
        );
        assert_eq!(find(callers, &incoming.media().received_audio()), None, "the callee heard the caller's");
        let folder = pair.server.recording(&known).await;
        for file in ["a-leg.wav", "b-leg.wav"] {
            let samples = wav(&folder, file);
            assert!(compare(&voice, &samples).is_same(), "{file}");
            assert_eq!((find(callers, &samples), find(callees, &samples)), (None, None), "{file}");
        }
        known.push(folder);
    }
    assert_eq!((files.count("first.wav"), files.count("second.wav")), (1, 1), "each was fetched once");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_has_its_message_fetched_too() {
    let message = speech(Voice::Low, 41, 1200);
    let files = Files::serve(vec![("later.wav", message.clone())]).await;
    let pair = pair().await;
    let session = pair.server.session(json!({ "record": false })).await;
    let path = format!("Masking/Session/{}/", session["session_uuid"].as_str().unwrap());
    let change = json!({ "first_party_play_url": files.url("later.wav") });
    let (status, answer) = pair.server.api("POST", &path, Some(&change)).await;
    assert_eq!(status, 200, "{answer}");
    files.fetched(&pair, "later.wav").await;
    let call = pair.dial(&session, CallOptions::from(FIRST)).await;
    let incoming = pair.rung().await;
    heard("the message", &message, call.media());
    incoming.answer(SdpOptions::default()).await.unwrap();
    more_packets(incoming.media(), 5).await;
    call.bye().await.unwrap();
    incoming.wait_bye(PATIENCE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_has_its_own_prompts() {
    let (prompt, wrong) = (speech(Voice::Low, 51, 1000), speech(Voice::High, 52, 1000));
    let files = Files::serve(vec![("prompt.wav", prompt.clone()), ("wrong.wav", wrong.clone())]).await;
    let pair = pair().await;
    let session = pair
        .server
        .session(json!({
            "is_pin_authentication_required": true,
            "first_party_pin": "4711",
            "second_party_pin": "0815",
            "pin_retry": 0,
            "pin_prompt_play": files.url("prompt.wav"),
            "incorrect_pin_play": files.url("wrong.wav"),
        }))
        .await;
    files.fetched(&pair, "prompt.wav").await;
    files.fetched(&pair, "wrong.wav").await;
    let call = pair.dial(&session, CallOptions::from(STRANGER)).await;
    call.answered(PATIENCE).await.unwrap();
    call.media().wait_packets(prompt.len() / 160, PATIENCE).await.unwrap();
    call.media().dtmf("0000", sip_tests::patterns::Pattern::Clean).await;
    call.wait_bye(PATIENCE).await.unwrap();
    assert!(heard("the prompt", &prompt, call.media()) < heard("the message", &wrong, call.media()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_hears_the_message_for_unknown_callers_and_the_call_ends() {
    let message = speech(Voice::High, 61, 1000);
    let files = Files::serve(vec![("unknown.wav", message.clone())]).await;
    let pair = pair().await;
    let session = pair.server.session(json!({ "unknown_caller_play": files.url("unknown.wav") })).await;
    files.fetched(&pair, "unknown.wav").await;
    let call = pair.dial(&session, CallOptions::from(STRANGER)).await;
    call.wait_bye(PATIENCE).await.unwrap();
    heard("the message", &message, call.media());
    assert!(pair.callee.received().is_empty(), "nobody is rung");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_fetched_is_left_out_and_the_call_goes_on() {
    let files = Files::serve(vec![]).await;
    let pair = pair().await;
    let session =
        pair.server.session(json!({ "record": false, "first_party_play_url": files.url("none.wav") })).await;
    until("it was asked for", || (files.count("none.wav") > 0).then_some(())).await;
    let (call, incoming) = pair.talk(&session).await;
    common::talk::hang_up(&call, &incoming).await;
    assert_eq!(files.count("none.wav"), 1, "what failed is not asked for again at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_party_of_a_call_that_the_service_places_hears_its_own_message() {
    let (to_first, to_second) = (speech(Voice::Low, 41, 800), speech(Voice::High, 42, 1000));
    let files = Files::serve(vec![("first.wav", to_first.clone()), ("second.wav", to_second.clone())]).await;
    let pair = pair().await;
    pair.server
        .session(json!({
            "first_party_play_url": files.url("first.wav"),
            "second_party_play_url": files.url("second.wav"),
            "initiate_call_to_first_party": true,
            "record": false,
        }))
        .await;
    let first = pair.rung().await;
    assert_eq!(dialled(&first), FIRST);
    files.fetched(&pair, "first.wav").await;
    files.fetched(&pair, "second.wav").await;
    first.answer(SdpOptions::default()).await.unwrap();
    let second = pair.rung().await;
    assert_eq!(dialled(&second), SECOND);
    heard("the first party's message, before the second one is rung", &to_first, first.media());
    second.answer(SdpOptions::default()).await.unwrap();
    second.media().wait_packets(to_second.len() / 160 + 25, PATIENCE).await.unwrap();
    heard("the second party's message", &to_second, second.media());
    first.bye().await.unwrap();
    second.wait_bye(PATIENCE).await.unwrap();
    assert_eq!(find(&to_second, &first.media().received_audio()), None, "it is for the second party alone");
    assert_eq!(find(&to_first, &second.media().received_audio()), None, "it is for the first party alone");
}

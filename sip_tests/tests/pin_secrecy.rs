//! The digits of a PIN appear in no log line, record, event or recording. Alone in its process: it reads the log.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests may panic like tests")]

mod common;

use common::talk::{Pair, hang_up, manifest, more_packets, tones, wav};
use common::{PATIENCE, SECOND, STRANGER};
use serde_json::json;
use sip_tests::patterns::Pattern;
use sip_tests::phone::CallOptions;
use sip_tests::sdp::SdpOptions;
use std::io::Write;
use std::sync::{Arc, Mutex};

const PIN: &str = "73951862";

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Ways in which a careless line could show half of the PIN or more.
fn disguises() -> Vec<String> {
    let codes: String = PIN.bytes().map(|byte| byte.to_string()).collect();
    let mut found = vec![PIN.to_owned(), codes];
    for half in [&PIN[..4], &PIN[4..]] {
        let keys: Vec<String> = half.chars().map(String::from).collect();
        let codes: Vec<String> = half.bytes().map(|byte| byte.to_string()).collect();
        for separator in [" ", ",", ", ", "-", "', '", "\", \""] {
            found.push(keys.join(separator));
            found.push(codes.join(separator));
        }
    }
    // Typed by INFO, one key in each message.
    found.extend(PIN.chars().map(|key| format!("Signal={key}")));
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pin_appears_in_no_log_record_or_recording() {
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .init();
    let pair = Pair::start().await;
    let session = pair
        .server
        .session(json!({
            "is_pin_authentication_required": true,
            "first_party_pin": PIN,
            "second_party_pin": "20468135",
        }))
        .await;
    let call = pair.dial(&session, CallOptions::from(STRANGER)).await;
    call.answered(PATIENCE).await.unwrap();
    more_packets(call.media(), 5).await;
    for key in PIN[..4].chars() {
        assert_eq!(call.info_dtmf(key, 100, PATIENCE).await.unwrap().status(), Some(200));
    }
    call.media().dtmf(&PIN[4..], Pattern::Clean).await;
    let incoming = pair.rung().await;
    assert_eq!(common::talk::dialled(&incoming), SECOND);
    incoming.answer(SdpOptions::default()).await.unwrap();
    more_packets(incoming.media(), 50).await;
    hang_up(&call, &incoming).await;

    let folder = pair.server.recording(&[]).await;
    let records = pair.records(&session).await;
    let samples = wav(&folder, "a-leg.wav");
    assert_eq!(tones(&samples), [], "a key sounds in the recording");
    let shown = format!("{records:?} {:?} {}", pair.server.interactions(&session).await, manifest(&folder));
    let (_, calls) = pair.server.api("GET", "Call/", None).await;
    let (_, metrics) = pair.server.http("GET", "/metrics", None).await;
    let log = String::from_utf8_lossy(&log.0.lock().unwrap()).into_owned();
    assert!(log.contains(" TRACE ") && log.contains("call started"), "the log was not captured");
    for disguise in disguises() {
        for (place, text) in [("record", &shown), ("call list", &calls.to_string()), ("metrics", &metrics)] {
            assert!(!text.contains(&disguise), "{disguise:?} in {place}: {text}");
        }
        if let Some(at) = log.find(&disguise) {
            let line = log[..at].rfind('\n').map_or(0, |at| at + 1);
            panic!("{disguise:?} in the log: {}", log[line..].lines().next().unwrap());
        }
    }
}

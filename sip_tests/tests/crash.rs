//! `kill -9` in the middle of calls: after the next start every leg has its record with an end, and what was recorded
//! is there, playable and filed.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests may panic like tests")]

mod common;

use common::child::{Process, configure, serve_if_child};
use common::talk::{compare, hang_up, manifest, more_packets, more_sent, wav};
use common::{FIRST, PATIENCE, SECOND, folders, until, until_asked};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sip_tests::audio::{Voice, speech};
use sip_tests::phone::{CallOptions, IncomingCall, OutgoingCall, Phone, PhoneConfig};
use sip_tests::sdp::SdpOptions;
use sqlx::{Connection as _, Executor as _, SqliteConnection};

/// The service of the test below, in the process that it starts; nothing in any other.
#[test]
fn child() {
    serve_if_child();
}

async fn answered(
    caller: &Phone,
    callee: &Phone,
    service: &Process,
    number: &str,
) -> (OutgoingCall, IncomingCall) {
    let call = caller.call(service.sip, number, CallOptions::from(FIRST)).await.unwrap();
    let incoming = callee.next_call(PATIENCE).await.unwrap();
    incoming.answer(SdpOptions::default()).await.unwrap();
    call.answered(PATIENCE).await.unwrap();
    more_packets(call.media(), 3).await;
    (call, incoming)
}

async fn legs(service: &Process) -> Vec<Value> {
    let (status, answer) = service.api("GET", "Call/", None).await;
    assert_eq!(status, 200, "{answer}");
    answer["objects"].as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn records_and_recordings_survive_a_kill() {
    let callee = Phone::bind(PhoneConfig::named("callee")).await.unwrap();
    let caller = Phone::bind(PhoneConfig::named("caller")).await.unwrap();
    let folder = std::env::temp_dir().join(format!("maskline-crash-{:016x}", rand::random::<u64>()));
    let config = configure(&folder, callee.address());
    let recordings = folder.join("recordings");

    let service = Process::start(&config).await;
    let parties = json!({ "first_party": FIRST, "second_party": SECOND });
    let (status, session) = service.api("POST", "Masking/Session/", Some(&parties)).await;
    assert_eq!(status, 201, "{session}");
    let number = session["virtual_number"].as_str().unwrap();
    let (low, high) = (speech(Voice::Low, 11, 2500), speech(Voice::High, 12, 2500));
    let (call, incoming) = answered(&caller, &callee, &service, number).await;
    // A second call rings meanwhile.
    let ringing = caller.call(service.sip, number, CallOptions::from(SECOND)).await.unwrap();
    callee.next_call(PATIENCE).await.unwrap().ring().await.unwrap();
    ringing.ringing(PATIENCE).await.unwrap();
    tokio::join!(call.media().play(&low), incoming.media().play(&high));
    assert!(legs(&service).await.iter().all(|leg| leg["end_time"].is_null()), "all four are under way");
    let cut = folders(&recordings).pop().unwrap();
    assert!(!cut.join("call.json").exists());
    service.kill().await;
    call.media().stop();
    incoming.media().stop();

    let service = Process::start(&config).await;
    let legs_after = legs(&service).await;
    assert_eq!(legs_after.len(), 4, "{legs_after:#?}");
    for leg in &legs_after {
        let (begin, end) = (leg["initiation_time"].as_str().unwrap(), leg["end_time"].as_str());
        assert!(end.is_some_and(|end| end >= begin), "{leg}");
        assert_eq!(leg["hangup_cause_name"], "process ended", "{leg}");
    }
    let manifest_of_cut = manifest(&cut);
    assert_eq!(manifest_of_cut["complete"], json!(false));
    // What the files cannot know, the database does.
    let is_answered = |leg: &&Value| leg["answer_time"].is_string();
    let interaction = manifest_of_cut["interaction_uuid"].as_str().unwrap();
    for (index, direction) in ["inbound", "outbound"].into_iter().enumerate() {
        let of_call = |leg: &&Value| leg["interaction_uuid"] == interaction;
        let mut of_call = legs_after.iter().filter(of_call).filter(is_answered);
        let leg = of_call.find(|leg| leg["call_direction"] == direction).unwrap();
        assert_eq!(manifest_of_cut["legs"][index]["leg_uuid"], leg["call_uuid"]);
        let started = manifest_of_cut["started_at"].as_str().unwrap().replace('T', " ");
        assert!(*started >= leg["answer_time"].as_str().unwrap()[..19], "{started} {leg}");
    }
    let delivered = until_asked("the cut recording is delivered", async || {
        let (status, recording) = service.api("GET", &format!("Recording/{interaction}/"), None).await;
        (status == 200).then_some(recording)
    })
    .await;
    assert_eq!((&delivered["complete"], &delivered["recording_format"]), (&json!(false), &json!("mp3")));
    assert!(cut.join("call.mp3").exists());
    let manifest_of_cut = manifest(&cut);
    let (a, b) = (wav(&cut, "a-leg.wav"), wav(&cut, "b-leg.wav"));
    assert_eq!((a.len(), manifest_of_cut["samples"].as_u64()), (b.len(), Some(a.len() as u64)));
    for (index, (file, samples, sent)) in
        [("a-leg.wav", &a, call.media()), ("b-leg.wav", &b, incoming.media())].into_iter().enumerate()
    {
        let said = sent.sent_audio();
        assert!(samples.len() + 10_000 > said.len(), "{file}: {} of {} samples", samples.len(), said.len());
        let found = compare(&said[..12_000], samples);
        assert!(found.is_same(), "{file}: {found:?}");
        let digest = Sha256::digest(std::fs::read(cut.join(file)).unwrap());
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(manifest_of_cut["legs"][index]["sha256"], digest, "{file}");
    }

    // The session is still there, and the next call is whole.
    let (call, incoming) = answered(&caller, &callee, &service, number).await;
    more_sent(call.media(), 25).await;
    hang_up(&call, &incoming).await;
    let filed = until("the next call is filed", || {
        folders(&recordings).into_iter().find(|folder| *folder != cut && folder.join("call.json").exists())
    })
    .await;
    assert_eq!(manifest(&filed)["complete"], json!(true));
    service.terminate().await;
    std::fs::remove_dir_all(&folder).unwrap();
}

/// What keeps old records from being closed may pass; new calls do not wait for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_cannot_close_old_records_serves_and_closes_them_later() {
    let callee = Phone::bind(PhoneConfig::named("callee")).await.unwrap();
    let caller = Phone::bind(PhoneConfig::named("caller")).await.unwrap();
    let folder = std::env::temp_dir().join(format!("maskline-crash-{:016x}", rand::random::<u64>()));
    let config = configure(&folder, callee.address());
    let service = Process::start(&config).await;
    let parties = json!({ "first_party": FIRST, "second_party": SECOND, "record": false });
    let (status, session) = service.api("POST", "Masking/Session/", Some(&parties)).await;
    assert_eq!(status, 201, "{session}");
    let number = session["virtual_number"].as_str().unwrap();
    let ringing = caller.call(service.sip, number, CallOptions::from(FIRST)).await.unwrap();
    callee.next_call(PATIENCE).await.unwrap().ring().await.unwrap();
    ringing.ringing(PATIENCE).await.unwrap();
    until_asked("both legs are known", async || (legs(&service).await.len() == 2).then_some(())).await;
    service.kill().await;

    let url = format!("sqlite://{}/maskline.db", folder.display());
    let mut database = SqliteConnection::connect(&url).await.unwrap();
    let stuck = "CREATE TRIGGER stuck BEFORE UPDATE ON legs BEGIN SELECT RAISE(ABORT, 'stuck'); END";
    database.execute(stuck).await.unwrap();
    let service = Process::start(&config).await;
    let ended = async || {
        let legs = legs(&service).await;
        assert_eq!(legs.len(), 2);
        legs.iter().filter(|leg| !leg["end_time"].is_null()).count()
    };
    assert_eq!(ended().await, 0);
    database.execute("DROP TRIGGER stuck").await.unwrap();
    until_asked("both legs have their end", async || (ended().await == 2).then_some(())).await;
    service.terminate().await;
    std::fs::remove_dir_all(&folder).unwrap();
}

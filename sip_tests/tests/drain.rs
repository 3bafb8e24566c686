//! A drain takes no new call, lets the live ones end, ends those that outlive it, and loses no record.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests may panic like tests")]

mod common;

use common::{FIRST, PATIENCE, Scene, Server, until};
use sip_tests::agent::End;
use sip_tests::phone::CallOptions;
use std::time::Duration;

async fn store(folder: &std::path::Path) -> maskline::store::Store {
    maskline::store::Store::open(&format!("sqlite://{}/maskline.db", folder.display())).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn live_calls_end_by_themselves_and_no_new_one_is_taken() {
    let scene = Scene::new().await;
    let (call, incoming) = scene.talk().await;
    let Scene { server, caller, number, .. } = scene;
    let (sip, folder, account) = (server.sip, server.folder.clone(), server.account().to_owned());
    let (http, id, token) = server.door();
    let shell = server.service.shell().clone();
    let (service, _folder) = server.into_service();
    let drain = tokio::spawn(service.drain(PATIENCE));
    until("the drain begins", || shell.is_draining().then_some(())).await;

    let refused = caller.call(sip, &number, CallOptions::from(FIRST)).await.unwrap();
    let refusal = refused.final_status(PATIENCE).await.unwrap();
    assert_eq!((refusal.status(), refusal.header("Retry-After")), (Some(503), Some("60")));
    let options = CallOptions { sdp: None, ..CallOptions::from("monitor") };
    let answer = caller.request(sip, "OPTIONS", "", options, None, PATIENCE).await.unwrap();
    assert_eq!(answer.status(), Some(503));
    assert_eq!(Server::ask(http, (&id, &token), "GET", "/readyz", None).await.0, 503);
    assert_eq!(Server::ask(http, (&id, &token), "GET", "/healthz", None).await.0, 200);

    // The call that is up is a whole call still.
    assert_eq!(call.reinvite(Some("sendrecv"), PATIENCE).await.unwrap().status(), Some(200));
    let heard = call.media().received_count();
    call.media().wait_packets(heard + 10, PATIENCE).await.unwrap();
    assert!(!drain.is_finished());
    call.bye().await.unwrap();
    incoming.wait_bye(PATIENCE).await.unwrap();
    tokio::time::timeout(PATIENCE, drain).await.unwrap().unwrap();

    let (legs, total) = store(&folder).await.list_legs(&account, 10, 0).await.unwrap();
    assert_eq!((legs.len(), total), (2, 2));
    assert!(legs.iter().all(|leg| leg.ended_at.is_some()));
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_outlive_the_drain_are_ended_and_recorded() {
    let scene = Scene::new().await;
    let (call, incoming) = scene.talk().await;
    let (ringing, rung) = scene.dial().await;
    rung.ring().await.unwrap();
    ringing.ringing(PATIENCE).await.unwrap();
    let Scene { server, .. } = scene;
    let (folder, account) = (server.folder.clone(), server.account().to_owned());
    let (service, _folder) = server.into_service();
    tokio::time::timeout(PATIENCE, service.drain(Duration::ZERO)).await.unwrap();
    assert_eq!(call.wait_end(PATIENCE).await.unwrap(), End::ByeReceived);
    assert_eq!(incoming.wait_end(PATIENCE).await.unwrap(), End::ByeReceived);
    assert_eq!(rung.wait_end(PATIENCE).await.unwrap(), End::Cancelled);
    assert!(matches!(ringing.wait_end(PATIENCE).await.unwrap(), End::Refused(_)));

    let (legs, _) = store(&folder).await.list_legs(&account, 10, 0).await.unwrap();
    assert_eq!(legs.len(), 4);
    for leg in legs {
        assert_eq!(leg.hangup_cause_name.as_deref(), Some("Scheduled Hangup"));
        assert!(leg.ended_at.is_some());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_service_drains_at_once() {
    let Scene { server, .. } = Scene::new().await;
    let (service, _folder) = server.into_service();
    tokio::time::timeout(PATIENCE, service.drain(Duration::from_secs(3600))).await.unwrap();
}

/// A call is forgotten when its transactions have ended; what it leaves is not.
#[tokio::test]
async fn a_record_outlives_its_call_while_the_database_stalls() {
    use sqlx::{Connection, SqliteConnection};
    let scene = Scene::new().await;
    let (call, incoming) = scene.talk().await;
    let url = format!("sqlite://{}/maskline.db", scene.server.folder.display());
    let mut database = SqliteConnection::connect(&url).await.unwrap();
    sqlx::query("BEGIN IMMEDIATE").execute(&mut database).await.unwrap();
    scene.hang_up(&call, &incoming).await;
    let shell = scene.server.service.shell();
    until("the call is over", || (shell.live_calls() == 0).then_some(())).await;

    // Nothing of a call takes longer than this, so the clock may run.
    tokio::time::pause();
    for _ in 0..120 {
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    tokio::time::resume();
    until("the call is forgotten", || (shell.call_tasks() == 0).then_some(())).await;
    assert_eq!(shell.unsettled_calls(), 1, "a drain waits for the record");

    sqlx::query("ROLLBACK").execute(&mut database).await.unwrap();
    scene.server.settled().await;
    let session = scene.session["session_uuid"].as_str().unwrap().parse().unwrap();
    let calls = shell.store.interactions(session).await.unwrap();
    assert!(calls.len() == 1 && calls[0].ended_at.is_some(), "{calls:?}");
}

//! A party calls the virtual number and reaches the other party, who sees only that number.

mod common;

use common::{FIRST, PATIENCE, SECOND, Server};
use serde_json::json;
use sip_tests::phone::{CallOptions, Phone, PhoneConfig};
use sip_tests::sdp::SdpOptions;

#[tokio::test(flavor = "multi_thread")]
async fn either_party_reaches_the_other_by_the_virtual_number() {
    let callee = Phone::bind(PhoneConfig::named("callee")).await.unwrap();
    let caller = Phone::bind(PhoneConfig::named("caller")).await.unwrap();
    let server = Server::start(&callee).await;
    let session = server.session(json!({ "record": false })).await;
    let number = Server::number(&session);
    for (from, to) in [(FIRST, SECOND), (SECOND, FIRST)] {
        let call = caller.call(server.sip, &number, CallOptions::from(from)).await.unwrap();
        let incoming = callee.next_call(PATIENCE).await.unwrap();
        assert!(incoming.request().uri().unwrap().starts_with(&format!("sip:{to}@")));
        assert!(incoming.request().header("From").unwrap().starts_with(&format!("<sip:{number}@")));
        incoming.ring().await.unwrap();
        call.ringing(PATIENCE).await.unwrap();
        incoming.answer(SdpOptions::default()).await.unwrap();
        call.answered(PATIENCE).await.unwrap();
        call.bye().await.unwrap();
        incoming.wait_bye(PATIENCE).await.unwrap();
    }
    server.settled().await;
    assert_eq!(server.interactions(&session).await.len(), 2);
    assert!(callee.faults().await.is_empty() && caller.faults().await.is_empty());
}

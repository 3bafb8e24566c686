//! Hold, resume, refresh and change of an answered call, on either leg, by re-INVITE and UPDATE (RFC 3264 §8,
//! RFC 6141, RFC 3311). The other leg hears of none of it.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests may panic like tests")]

mod common;

use common::{PATIENCE, Scene};
use sip_tests::message::Message;
use sip_tests::phone::Call;
use sip_tests::sdp::RemoteMedia;
use std::net::{IpAddr, Ipv4Addr};

fn description(message: &Message) -> RemoteMedia {
    RemoteMedia::read(message.sdp().unwrap()).unwrap()
}

/// The version in `o=`.
fn version(message: &Message) -> u64 {
    description(message).origin.split(' ').nth(2).unwrap().parse().unwrap()
}

async fn change(call: &Call, by_update: bool, direction: &'static str) -> Message {
    let answer = if by_update {
        call.update(Some(direction), PATIENCE).await.unwrap()
    } else {
        call.reinvite(Some(direction), PATIENCE).await.unwrap()
    };
    assert_eq!(answer.status(), Some(200));
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn either_side_holds_and_resumes() {
    let scene = Scene::new().await;
    let (call, incoming) = scene.talk().await;
    for (holder, other) in [(&*call, &*incoming), (&*incoming, &*call)] {
        for by_update in [false, true] {
            let others_before = other.received().len();
            let mut versions = vec![];
            for (direction, answered) in
                [("sendonly", "recvonly"), ("inactive", "inactive"), ("sendrecv", "sendrecv")]
            {
                let answer = change(holder, by_update, direction).await;
                assert_eq!(description(&answer).direction, answered);
                versions.push(version(&answer));
            }
            assert!(versions.is_sorted_by(|a, b| a < b), "RFC 3264 §8: {versions:?}");
            assert_eq!(other.received().len(), others_before, "the other leg is told nothing");
        }
    }
    scene.both_hear(&call, &incoming).await;
    scene.hang_up(&call, &incoming).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_holds_hears_nothing_and_is_heard() {
    let scene = Scene::new().await;
    let (call, incoming) = scene.talk().await;
    scene.both_hear(&call, &incoming).await;
    change(&call, false, "sendonly").await;
    // What was under way is in once the callee has heard some packets more.
    let heard = incoming.media().received_count();
    incoming.media().wait_packets(heard + 5, PATIENCE).await.unwrap();
    let (held_at, heard) = (call.media().received_count(), incoming.media().received_count());
    incoming.media().wait_packets(heard + 25, PATIENCE).await.unwrap();
    assert_eq!(call.media().received_count(), held_at);
    change(&call, false, "sendrecv").await;
    scene.both_hear(&call, &incoming).await;
    scene.hang_up(&call, &incoming).await;
}

/// RFC 3264 §8.4: the old way to hold.
#[tokio::test(flavor = "multi_thread")]
async fn the_address_0_0_0_0_holds() {
    let scene = Scene::new().await;
    let (call, incoming) = scene.talk().await;
    call.change_sdp(|sdp| sdp.connection = Some(IpAddr::V4(Ipv4Addr::UNSPECIFIED))).await.unwrap();
    let answer = change(&call, false, "sendrecv").await;
    assert_eq!(description(&answer).direction, "recvonly");
    call.change_sdp(|sdp| sdp.connection = None).await.unwrap();
    assert_eq!(description(&change(&call, false, "sendrecv").await).direction, "sendrecv");
    scene.both_hear(&call, &incoming).await;
    scene.hang_up(&call, &incoming).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_codec_is_taken_on_one_leg_and_converted() {
    let scene = Scene::new().await;
    let (call, incoming) = scene.talk().await;
    call.change_sdp(|sdp| sdp.codecs = vec![media::Codec::Pcma]).await.unwrap();
    let answer = change(&call, false, "sendrecv").await;
    assert_eq!(description(&answer).codec(), Some(media::Codec::Pcma));
    scene.both_hear(&call, &incoming).await;
    let last = |media: &sip_tests::stream::MediaSession| {
        media.received_packets().last().unwrap().packet.payload_type
    };
    assert_eq!((last(call.media()), last(incoming.media())), (8, 0));
    scene.hang_up(&call, &incoming).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_cannot_be_taken_gets_488_and_the_call_goes_on() {
    let scene = Scene::new().await;
    let (call, incoming) = scene.talk().await;
    let head = "v=0\r\no=- 5 6 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n";
    for offer in [
        format!("{head}m=audio 40000 RTP/AVP 18\r\n"),
        format!("{head}m=audio 40000 RTP/SAVP 0\r\na=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:eA==\r\n"),
        format!("{head}m=video 40000 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n"),
        format!("{head}m=image 40000 udptl t38\r\n"),
        format!("{head}m=audio 0 RTP/AVP 0\r\n"),
    ] {
        for side in [&*call, &*incoming] {
            let body = Some(("application/sdp", offer.as_bytes()));
            let answer = side.request("UPDATE", &[], body, PATIENCE).await.unwrap();
            assert_eq!(answer.status(), Some(488), "{offer}");
        }
    }
    assert_eq!((call.end(), incoming.end()), (None, None));
    scene.both_hear(&call, &incoming).await;
    scene.hang_up(&call, &incoming).await;
}

/// RFC 5407 §3.1.4: whoever asks again has our answer to the last time, whatever became of his ACK.
#[tokio::test(flavor = "multi_thread")]
async fn a_reinvite_before_the_last_one_is_acknowledged_is_taken() {
    let scene = Scene::new().await;
    let (call, incoming) = scene.talk().await;
    scene.caller.lose_acks(1).await.unwrap();
    change(&call, false, "sendonly").await;
    change(&call, false, "sendrecv").await;
    scene.both_hear(&call, &incoming).await;
    scene.hang_up(&call, &incoming).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_without_change_keeps_the_description() {
    let scene = Scene::new().await;
    let (call, incoming) = scene.talk().await;
    let bare = call.update(None, PATIENCE).await.unwrap();
    assert_eq!((bare.status(), bare.sdp()), (Some(200), None));
    assert!(bare.header("Contact").is_some());
    let (first, second) = (change(&call, false, "sendrecv").await, change(&call, true, "sendrecv").await);
    assert_eq!(first.sdp(), second.sdp(), "RFC 3264 §8: the same version for the same description");
    scene.both_hear(&call, &incoming).await;
    scene.hang_up(&call, &incoming).await;
}

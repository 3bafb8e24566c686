//! Phone against phone on loopback.

use super::*;
use crate::agent::{End, Reply, Transport};
use crate::audio::{Comparison, Voice, speech};
use crate::patterns::Pattern;
use crate::sdp::SdpOptions;
use crate::transcript::Direction;
use media::Codec;

const SOON: Duration = Duration::from_secs(5);

async fn pair(change: impl Fn(&mut PhoneConfig)) -> (Phone, Phone) {
    let transcript = Transcript::new();
    let mut phones = vec![];
    for name in ["caller", "callee"] {
        let mut config = PhoneConfig::named(name).recorded_in(&transcript);
        change(&mut config);
        phones.push(Phone::bind(config).await.unwrap());
    }
    let callee = phones.pop().unwrap();
    (phones.pop().unwrap(), callee)
}

async fn connected(a: &Phone, b: &Phone, answer: SdpOptions) -> (OutgoingCall, IncomingCall) {
    let out = a.call(b.address(), "+12025550100", CallOptions::from("+4915112345678")).await.unwrap();
    let inc = b.next_call(SOON).await.unwrap();
    inc.ring().await.unwrap();
    out.ringing(SOON).await.unwrap();
    inc.answer(answer).await.unwrap();
    out.answered(SOON).await.unwrap();
    inc.wait_ack(SOON).await.unwrap();
    (out, inc)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_phones_talk_both_ways_and_hear_what_was_said() {
    let (a, b) = pair(|_| {}).await;
    let (out, inc) = connected(&a, &b, SdpOptions::pcma()).await;
    let (one, two) = (speech(Voice::Low, 1, 1500), speech(Voice::High, 2, 1500));
    tokio::join!(out.media().play(&one), inc.media().play(&two));
    inc.media().wait_packets(80, SOON).await.unwrap();
    out.media().wait_packets(80, SOON).await.unwrap();
    let heard = Comparison::of(&one, &inc.media().received_audio(), 1000);
    assert!(heard.is_same() && heard.overlap == one.len(), "{heard:?}");
    let heard = Comparison::of(&two, &out.media().received_audio(), 1000);
    assert!(heard.is_same() && heard.overlap == two.len(), "{heard:?}");
    assert_eq!(out.media().remote().unwrap().codec(), Some(Codec::Pcma));
    assert_eq!(out.hang_up().await.unwrap().status(), Some(200));
    assert_eq!((out.end(), inc.wait_end(SOON).await.unwrap()), (Some(End::ByeSent), End::ByeReceived));
    assert_eq!((a.faults().await, b.faults().await), (vec![], vec![]));
    let ladder = a.transcript().ladder("server");
    assert!(ladder.contains("INVITE +12025550100 SDP") && ladder.contains("RTP PCMA"), "{ladder}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_arrive_with_the_payload_type_that_the_far_side_wants() {
    let (a, b) = pair(|_| {}).await;
    let (out, inc) =
        connected(&a, &b, SdpOptions { telephone_event_pt: Some(97), ..SdpOptions::default() }).await;
    for (pattern, packets) in
        [(Pattern::Clean, 7), (Pattern::EndOnly, 1), (Pattern::Shuffled, 7), (Pattern::Short, 4)]
    {
        let before = inc.media().received_digits().len();
        out.media().dtmf("42", pattern).await;
        inc.media()
            .wait(SOON, |m| {
                m.received_digits().len() == before + 2
                    && m.received_digits().iter().all(|d| d.ended && (d.packets >= packets || d.packets == 1))
            })
            .await
            .unwrap();
        let digits = inc.media().received_digits().split_off(before);
        assert_eq!(digits.iter().map(|d| d.key).collect::<String>(), "42", "{pattern:?}");
        assert!(
            digits.iter().all(|d| d.payload_type == 97 && d.packets == packets),
            "{pattern:?} {digits:?}"
        );
    }
    out.media().play(&crate::audio::silence(100)).await;
    let mut sequences: Vec<u16> = inc.media().received_packets().iter().map(|p| p.packet.sequence).collect();
    let first = sequences[0];
    sequences.sort_by_key(|s| s.wrapping_sub(first));
    sequences.dedup();
    assert!(sequences.windows(2).all(|w| w[1].wrapping_sub(w[0]) <= 7), "one stream goes on across keys");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_over_tcp_is_cancelled_and_one_is_refused() {
    let (a, b) = pair(|config| config.transport = Transport::Tcp).await;
    let out = a.call(b.address(), "1", CallOptions::from("2")).await.unwrap();
    let inc = b.next_call(SOON).await.unwrap();
    inc.ring().await.unwrap();
    out.cancel().await.unwrap();
    inc.wait_cancel(SOON).await.unwrap();
    assert_eq!(out.final_status(SOON).await.unwrap().status(), Some(487));
    assert_eq!(out.wait_end(SOON).await.unwrap(), End::CancelSent);
    let out = a.call(b.address(), "1", CallOptions::from("2")).await.unwrap();
    let inc = b.next_call(SOON).await.unwrap();
    inc.reject(486, Some("No time"), &[("X-Mark".into(), "1".into())], Some(("text/plain", b"sorry")))
        .await
        .unwrap();
    let refused = out.final_status(SOON).await.unwrap();
    assert_eq!(
        (refused.status(), refused.phrase(), refused.body()),
        (Some(486), Some("No time"), b"sorry".as_slice())
    );
    assert!(matches!(out.answered(SOON).await, Err(WaitError::Refused { status: 486, .. })));
    inc.wait_ack(SOON).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_and_doubled_messages_do_not_hurt() {
    let lose = |direction, what: &str| Lose { direction, what: what.into(), count: 1 };
    let (a, b) = pair(|config| {
        config.impairment.duplicate = true;
        config.impairment.lose = vec![
            lose(Direction::Sent, "INVITE"),
            lose(Direction::Received, "ACK"),
            lose(Direction::Sent, "BYE"),
        ];
    })
    .await;
    let (out, inc) = connected(&a, &b, SdpOptions::default()).await;
    assert_eq!(out.hang_up().await.unwrap().status(), Some(200));
    assert_eq!(inc.wait_end(SOON).await.unwrap(), End::ByeReceived);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_offer_early_media_fork_hold_update_and_info() {
    let (a, b) = pair(|_| {}).await;
    let out = a.call(b.address(), "1", CallOptions { sdp: None, ..CallOptions::from("2") }).await.unwrap();
    let inc = b.next_call(SOON).await.unwrap();
    assert_eq!(inc.request().sdp(), None);
    inc.ring_as("fork-one").await.unwrap();
    inc.respond_with_sdp(SdpOptions::default(), Reply::with_sdp(183).tagged("fork-two")).await.unwrap();
    inc.respond(Reply::with_sdp(200).tagged("fork-two")).await.unwrap();
    out.answered(SOON).await.unwrap();
    let ack = inc.wait_ack(SOON).await.unwrap();
    assert!(ack.sdp().is_some(), "the answer to a late offer is in the ACK");
    let tags: std::collections::BTreeSet<_> =
        out.received().iter().filter_map(|m| m.to_tag().map(str::to_owned)).collect();
    assert_eq!(tags.len(), 2, "the branches of the fork");
    inc.media().wait_packets(1, SOON).await.unwrap();
    let held = out.reinvite(Some("sendonly"), SOON).await.unwrap();
    assert_eq!(RemoteMedia::read(held.sdp().unwrap()).unwrap().direction, "recvonly");
    assert_eq!(inc.update(Some("sendrecv"), SOON).await.unwrap().status(), Some(200));
    assert_eq!(out.info_dtmf('5', 100, SOON).await.unwrap().status(), Some(200));
    inc.bye().await.unwrap();
    out.wait_bye(SOON).await.unwrap();
    let options = a.request(b.address(), "OPTIONS", "1", CallOptions::from("2"), None, SOON).await.unwrap();
    let unknown =
        a.request(b.address(), "BYE", "1", CallOptions::from("2"), Some("nobody"), SOON).await.unwrap();
    assert_eq!((options.status(), unknown.status()), (Some(200), Some(481)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_crosses_a_cancel_and_waiting_in_vain_says_what_came() {
    let (a, b) = pair(|_| {}).await;
    let out = a.call(b.address(), "1", CallOptions::from("2")).await.unwrap();
    let inc = b.next_call(SOON).await.unwrap();
    inc.keep_when_cancelled().await.unwrap();
    out.cancel().await.unwrap();
    inc.answer_after_cancel(SdpOptions::default(), SOON).await.unwrap();
    inc.wait_bye(SOON).await.unwrap();
    assert_eq!(inc.wait_end(SOON).await.unwrap(), End::ByeReceived);
    let error = out.ringing(Duration::from_millis(10)).await.unwrap_err();
    assert!(error.to_string().contains("SIP/2.0 100 Trying"), "{error}");
}

//! What a leg's media looks like from outside (RFC 3550): one stream of our own, for the length of the call, that
//! takes nothing from strangers and gives nothing away.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests may panic like tests")]

mod common;

use common::talk::{Pair, compare, hang_up, more_packets, more_sent};
use common::{FIRST, PATIENCE, SECOND, STRANGER, Setup, until};
use media::Codec;
use serde_json::{Value, json};
use sip_tests::audio::{self, Voice, speech};
use sip_tests::g711;
use sip_tests::patterns::Pattern;
use sip_tests::phone::{CallOptions, PhoneConfig};
use sip_tests::rtp::{HeaderExtras, Packet, rtcp_parts, sdes_items};
use sip_tests::sdp::{RemoteMedia, SdpOptions};
use sip_tests::stream::{MediaOptions, MediaSession};
use std::net::UdpSocket;
use std::time::Duration;

fn telling_phone(name: &str) -> PhoneConfig {
    PhoneConfig {
        media: MediaOptions {
            extras: HeaderExtras {
                csrc: vec![0xdead_0001, 0xdead_0002],
                extension: Some((0xbede, vec![0x10, 0xff, 0, 0])),
                padding: 4,
            },
            sdes: vec![
                (1, format!("{name}@device.invalid")),
                (2, "Wanda".to_owned()),
                (4, "+4915112345678".to_owned()),
            ],
            rtcp_interval: Some(Duration::from_millis(300)),
            ..MediaOptions::default()
        },
        ..PhoneConfig::named(name)
    }
}

/// One source, one place, one numbering; timestamps by the clock.
fn is_one_stream(media: &MediaSession, peers: &MediaSession) {
    let received = media.received_packets();
    let first = &received[0];
    let expected = media.remote().unwrap().rtp;
    for pair in received.windows(2) {
        let (before, after) = (&pair[0], &pair[1]);
        assert_eq!((after.from, after.packet.ssrc), (expected, first.packet.ssrc));
        assert_eq!(after.packet.sequence, before.packet.sequence.wrapping_add(1), "at {:?}", after.at);
        let step = after.packet.timestamp.wrapping_sub(before.packet.timestamp);
        let duration = u32::try_from(before.packet.payload.len()).unwrap();
        if before.packet.payload_type <= 8 && after.packet.payload_type <= 8 {
            if after.packet.marker {
                assert!((duration..8000 * 20).contains(&step), "{step} at {:?}", after.at);
            } else {
                assert_eq!(step, duration, "at {:?}", after.at);
            }
        }
    }
    for packet in &received {
        assert_eq!(packet.packet.extras, HeaderExtras::default());
        // Over the whole call the timestamps follow the clock: the stream neither jumps nor starts anew.
        let by_clock = i64::try_from((packet.at - first.at).as_micros() / 125).unwrap();
        let told = i64::from(packet.packet.timestamp.wrapping_sub(first.packet.timestamp));
        assert!((told - by_clock).abs() < 8 * 150, "{told} for {by_clock} samples of time");
    }
    assert_ne!(first.packet.ssrc, peers.ssrc());
    assert_ne!(first.packet.ssrc, media.ssrc());
}

#[tokio::test(flavor = "multi_thread")]
async fn prompt_ringback_and_bridge_are_one_stream_of_our_own() {
    let pair = Pair::between(telling_phone("caller"), telling_phone("callee"), Setup::default()).await;
    let session = pair
        .server
        .session(json!({
            "record": false,
            "is_pin_authentication_required": true,
            "first_party_pin": "4711",
            "second_party_pin": "0815",
        }))
        .await;
    let call = pair.dial(&session, CallOptions::from(STRANGER)).await;
    call.answered(PATIENCE).await.unwrap();
    more_packets(call.media(), 30).await;
    call.media().dtmf("4711", Pattern::Clean).await;
    let incoming = pair.rung().await;
    incoming.ring().await.unwrap();
    // A second of ringback of our own.
    more_packets(call.media(), 50).await;
    incoming.answer(SdpOptions::default()).await.unwrap();
    more_packets(incoming.media(), 50).await;
    more_packets(call.media(), 50).await;
    hang_up(&call, &incoming).await;
    is_one_stream(call.media(), incoming.media());
    is_one_stream(incoming.media(), call.media());
    assert_ne!(
        call.media().received_packets()[0].packet.ssrc,
        incoming.media().received_packets()[0].packet.ssrc
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_are_our_own_and_name_nobody() {
    let pair = Pair::between(telling_phone("caller"), telling_phone("callee"), Setup::default()).await;
    let session = pair.server.session(json!({ "record": false })).await;
    let mut names = vec![];
    for _ in 0..2 {
        let (call, incoming) = pair.talk(&session).await;
        for media in [call.media(), incoming.media()] {
            media.send_report();
            more_packets(media, 20).await;
        }
        hang_up(&call, &incoming).await;
        for (media, peer) in [(call.media(), incoming.media()), (incoming.media(), call.media())] {
            media.wait(PATIENCE, |media| !media.received_rtcp().is_empty()).await.unwrap();
            let own = media.received_packets()[0].packet.ssrc;
            for (_, compound) in media.received_rtcp() {
                let parts = rtcp_parts(&compound);
                assert!(matches!(parts[0].1, 200 | 201), "{parts:?}");
                for (count, kind, content) in &parts {
                    assert!(matches!(kind, 200..=203), "packet type {kind}");
                    assert_eq!(content[..4], own.to_be_bytes(), "the sender is we, not the other party");
                    // RFC 3550 §6.6: a BYE without reason is its list of sources and nothing else.
                    assert!(*kind != 203 || (*count, content.len()) == (1, 4), "{content:?}");
                }
                let text = String::from_utf8_lossy(&compound);
                assert!(!text.contains("device") && !text.contains("Wanda") && !text.contains("49151"));
                let hidden = peer.ssrc().to_be_bytes();
                assert!(!compound.windows(4).any(|window| window == hidden), "the other party's SSRC");
            }
            let items: Vec<_> = media.received_rtcp().iter().flat_map(|(_, wire)| sdes_items(wire)).collect();
            assert!(!items.is_empty() && items.iter().all(|(kind, _)| *kind == 1), "{items:?}");
            // RFC 7022: one name for the length of a stream, another one for each leg of each call.
            assert!(items.iter().all(|item| *item == items[0]), "{items:?}");
            names.push(items[0].1.clone());
        }
    }
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 4, "{names:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_rtcp_bye_of_the_peer_ends_nothing() {
    let pair = Pair::start().await;
    let session = pair.server.session(json!({ "record": false })).await;
    let (call, incoming) = pair.talk(&session).await;
    call.media().change_options(|options| options.goodbye = Some("gone".to_owned()));
    // Says BYE by RTCP and falls silent; then goes on as if nothing had happened.
    call.media().stop();
    more_packets(call.media(), 10).await;
    call.media().start();
    more_packets(incoming.media(), 25).await;
    more_packets(call.media(), 25).await;
    assert_eq!((call.end(), incoming.end()), (None, None));
    hang_up(&call, &incoming).await;
}

/// A loud tone in packets that claim to be the phone's own.
fn forged(media: &MediaSession, number: u16) -> Vec<u8> {
    let tone = g711::encode_all(Codec::Pcmu, &audio::tone(1000.0, 20, 16_000.0));
    let last = media.received_packets().last().map_or(0, |packet| packet.packet.timestamp);
    Packet {
        payload_type: 0,
        sequence: number,
        timestamp: last.wrapping_add(u32::from(number) * 160),
        ssrc: media.ssrc(),
        payload: tone,
        ..Packet::default()
    }
    .encode()
}

#[tokio::test(flavor = "multi_thread")]
async fn packets_from_elsewhere_change_nothing() {
    let pair = Pair::start().await;
    let session = pair.server.session(json!({})).await;
    let (call, incoming) = pair.talk(&session).await;
    let server = call.media().remote().unwrap();
    // Another port of the same address, and another address.
    let strangers = ["127.0.0.1:0", "127.0.0.2:0"].map(|address| UdpSocket::bind(address).unwrap());
    strangers.iter().for_each(|socket| socket.set_nonblocking(true).unwrap());
    let (low, high) = (speech(Voice::Low, 1, 2000), speech(Voice::High, 2, 2000));
    let attack = async {
        for number in 0..100u16 {
            for socket in &strangers {
                let _ = socket.send_to(&forged(call.media(), number), server.rtp);
                let _ = socket.send_to(&[0x80, 203, 0, 1, 0, 0, 0, 1], server.rtcp);
                let _ = socket.send_to(&[0xff; 40], server.rtp);
            }
            more_sent(call.media(), 1).await;
        }
    };
    tokio::join!(call.media().play(&low), incoming.media().play(&high), attack);
    more_sent(call.media(), 10).await;
    hang_up(&call, &incoming).await;
    for (sent, received) in [(call.media(), incoming.media()), (incoming.media(), call.media())] {
        let found = compare(&sent.sent_audio(), &received.received_audio());
        assert!(found.is_same(), "{found:?}");
        is_one_stream(received, sent);
    }
    for socket in &strangers {
        let answer = socket.recv(&mut [0; 2000]).map_err(|error| error.kind());
        assert_eq!(answer, Err(std::io::ErrorKind::WouldBlock), "a stranger got an answer");
    }
    let folder = pair.server.recording(&[]).await;
    let found = compare(&call.media().sent_audio(), &common::talk::wav(&folder, "a-leg.wav"));
    assert!(found.is_same(), "in the recording: {found:?}");
}

/// A call's ports under fire: what is thrown away must not crowd out what is meant for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_foreign_packets_leaves_the_call_as_it_was() {
    const PACKETS: u16 = 24_000;
    let pair = Pair::start().await;
    let session = pair.server.session(json!({ "record": false })).await;
    let (call, incoming) = pair.talk(&session).await;
    let server = call.media().remote().unwrap();
    let packet = forged(call.media(), 1);
    let before = incoming.media().received_count();
    let sent_before = call.media().sent_packets();
    // Eight packets every millisecond, half of them from another port of the phone's own address.
    let flood = tokio::task::spawn_blocking(move || {
        let strangers = ["127.0.0.1:0", "127.0.0.2:0"].map(|address| UdpSocket::bind(address).unwrap());
        for number in 0..PACKETS {
            let socket = &strangers[usize::from(number % 2)];
            let to = if number % 8 == 7 { server.rtcp } else { server.rtp };
            let _ = socket.send_to(&packet, to);
            if number % 8 == 7 {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        strangers
    });
    let strangers = flood.await.unwrap();
    let sent = usize::try_from(call.media().sent_packets() - sent_before).unwrap();
    assert!(sent >= 100, "the flood was over too soon: {sent} packets of the phone");
    let wanted = before + sent * 9 / 10;
    incoming.media().wait_packets(wanted, PATIENCE).await.unwrap();
    more_packets(call.media(), 10).await;
    hang_up(&call, &incoming).await;
    let tone = g711::encode_all(Codec::Pcmu, &audio::tone(1000.0, 20, 16_000.0));
    let injected =
        incoming.media().received_packets().iter().filter(|got| got.packet.payload == tone).count();
    assert_eq!(injected, 0, "foreign packets were relayed");
    is_one_stream(incoming.media(), call.media());
    for socket in &strangers {
        socket.set_nonblocking(true).unwrap();
        let answer = socket.recv(&mut [0; 2000]).map_err(|error| error.kind());
        assert_eq!(answer, Err(std::io::ErrorKind::WouldBlock), "a stranger got an answer");
    }
}

/// A range of RTP ports that nobody else uses: above the system's ephemeral ones.
fn few_ports(pairs: u16) -> &'static str {
    let first = 61_000 + 2 * rand::random_range(0..2000u16);
    format!("ports = [{first}, {}]", first + 2 * (pairs - 1)).leak()
}

async fn ports_of_a_call(pair: &Pair, session: &Value) -> [u16; 2] {
    let (call, incoming) = pair.talk(session).await;
    hang_up(&call, &incoming).await;
    pair.server.settled().await;
    until("its ports rest", || {
        (pair.server.service.shell().engine.statistics().ports_in_use == 0).then_some(())
    })
    .await;
    let theirs = RemoteMedia::read(incoming.request().sdp().unwrap()).unwrap();
    [call.media().remote().unwrap().rtp.port(), theirs.rtp.port()]
}

#[tokio::test(flavor = "multi_thread")]
async fn the_longest_rested_port_is_used_first() {
    let pair = Pair::with(Setup { media: few_ports(5), ..Setup::default() }).await;
    let session = pair.server.session(json!({ "record": false })).await;
    let mut used = vec![];
    for _ in 0..5 {
        used.extend(ports_of_a_call(&pair, &session).await);
    }
    assert!(used.iter().all(|port| port % 2 == 0), "RFC 3550 §11: RTP takes even ports: {used:?}");
    let mut distinct = used[..5].to_vec();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), 5, "none is used again before all have been: {used:?}");
    // A call's two ports are freed together, so their order within the call is open.
    for lap in [5, 6, 7, 8, 9] {
        let before: Vec<u16> =
            used[lap - 5 - usize::from((lap - 5) % 2 != 0)..].iter().take(3).copied().collect();
        assert!(before.contains(&used[lap]), "{lap}: {used:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_free_port_a_call_gets_503_with_retry_after() {
    let pair = Pair::with(Setup { media: few_ports(3), ..Setup::default() }).await;
    let session = pair.server.session(json!({ "record": false })).await;
    let (call, incoming) = pair.talk(&session).await;
    let refused = pair.dial(&session, CallOptions::from(SECOND)).await;
    let answer = refused.final_status(PATIENCE).await.unwrap();
    assert_eq!(answer.status(), Some(503));
    let wait: u32 = answer.header("Retry-After").unwrap().parse().unwrap();
    assert!(wait > 0);
    // The call that has ports is none the worse, and its end makes room again.
    more_packets(call.media(), 10).await;
    hang_up(&call, &incoming).await;
    pair.server.settled().await;
    let (call, incoming) = pair.talk_as(&session, CallOptions::from(FIRST), SdpOptions::default()).await;
    hang_up(&call, &incoming).await;
}

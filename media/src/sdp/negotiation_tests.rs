use super::*;
use crate::SourcePolicy;
use crate::sdp::{LocalSrtp, MediaAllow};
use crate::srtp::{MasterKey, Secret};
use Codec::{Pcma, Pcmu};
use proptest::prelude::*;

fn local(address: &str, codecs: &[Codec]) -> LocalMedia {
    LocalMedia {
        address: address.parse().unwrap(),
        port: 20_000,
        session_id: 42,
        codecs: codecs.to_vec(),
        source: SourcePolicy::Exact,
        allow: MediaAllow::default(),
        srtp: None,
    }
}

fn leg() -> Negotiation {
    Negotiation::new(local("198.51.100.1", &[Pcmu, Pcma]))
}

/// A peer's description from 203.0.113.5, with the given lines from `m=` on.
fn peer(lines: &str) -> Vec<u8> {
    peer_at("IN IP4 203.0.113.5", lines)
}

fn peer_at(connection: &str, lines: &str) -> Vec<u8> {
    let head = "v=0\r\no=alice 2890844526 2890844527 IN IP4 host.example\r\ns=Alice's phone\r\n";
    format!("{head}c={connection}\r\nt=0 0\r\n{lines}").into_bytes()
}

fn offered(lines: &str) -> Result<Stream, OfferError> {
    leg().on_offer(&peer(lines)).map(|answer| answer.1)
}

fn answered(lines: &str) -> Result<Stream, OfferError> {
    let mut leg = leg();
    let _ = leg.offer();
    leg.on_answer(&peer(lines))
}

fn socket(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn event(send_payload_type: u8, receive_payload_type: u8) -> Option<TelephoneEventFormat> {
    Some(TelephoneEventFormat { send_payload_type, receive_payload_type, clock_rate: 8000 })
}

/// The `m=` lines of a description of ours.
fn m_lines(text: &str) -> Vec<&str> {
    text.lines().filter_map(|line| line.strip_prefix("m=")).collect()
}

#[test]
fn our_offer_says_only_what_it_must() {
    let expected = "v=0\r\no=- 42 1 IN IP4 198.51.100.1\r\ns=-\r\nc=IN IP4 198.51.100.1\r\nt=0 0\r\n\
                    m=audio 20000 RTP/AVP 0 8 101\r\na=rtpmap:0 PCMU/8000\r\na=rtpmap:8 PCMA/8000\r\n\
                    a=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-15\r\na=ptime:20\r\na=sendrecv\r\n";
    let mut leg = leg();
    assert_eq!(leg.offer(), expected);
    assert_eq!(leg.local(), Some(expected));
    assert_eq!(leg.stream(), None);

    let mut other = Negotiation::new(local("2001:db8::1", &[Pcma]));
    let offer = other.offer();
    assert!(offer.contains("o=- 42 1 IN IP6 2001:db8::1\r\n") && offer.contains("c=IN IP6 2001:db8::1\r\n"));
    assert_eq!(m_lines(&offer), ["audio 20000 RTP/AVP 8 101"]);
}

#[test]
fn rfc3264_6_1_our_answer_takes_the_first_codec_of_the_offer_that_is_ours() {
    let table = [
        ("both: theirs is first", "m=audio 4000 RTP/AVP 8 0", Pcma, 8, None),
        ("foreign ones before it", "m=audio 4000 RTP/AVP 9 18 0 8", Pcmu, 0, None),
        ("dynamic", "m=audio 4000 RTP/AVP 97\r\na=rtpmap:97 pcma/8000", Pcma, 97, None),
        ("events", "m=audio 4000 RTP/AVP 0 96\r\na=rtpmap:96 telephone-event/8000", Pcmu, 0, event(96, 96)),
        (
            "events stand first",
            "m=audio 4000 RTP/AVP 96 0\r\na=rtpmap:96 telephone-event/8000",
            Pcmu,
            0,
            event(96, 96),
        ),
        (
            "RFC 4733 §2.1: events at the audio's clock",
            "m=audio 4000 RTP/AVP 111 0 110 101\r\na=rtpmap:111 opus/48000/2\r\n\
             a=rtpmap:110 telephone-event/48000\r\na=rtpmap:101 telephone-event/8000",
            Pcmu,
            0,
            event(101, 101),
        ),
        (
            "events at a foreign clock only",
            "m=audio 4000 RTP/AVP 0 110\r\na=rtpmap:110 telephone-event/48000",
            Pcmu,
            0,
            Some(TelephoneEventFormat {
                send_payload_type: 110,
                receive_payload_type: 110,
                clock_rate: 48_000,
            }),
        ),
        ("RTP/AVPF", "m=audio 4000 RTP/AVPF 0", Pcmu, 0, None),
    ];
    for (fact, lines, codec, payload_type, telephone_event) in table {
        let stream = offered(lines).unwrap();
        assert_eq!((stream.codec, stream.send_payload_type), (codec, payload_type), "{fact}");
        assert_eq!(stream.receive, [(payload_type, codec)], "{fact}");
        assert_eq!(stream.telephone_event, telephone_event, "{fact}");
    }
}

#[test]
fn our_answer_is_written_from_our_own_values() {
    let offer = "m=audio 4000 RTP/AVPF 97 0 96\r\na=rtpmap:97 PCMA/8000\r\n\
                 a=rtpmap:96 telephone-event/8000\r\na=fmtp:96 0-11\r\na=ptime:30\r\n\
                 a=ssrc:1 cname:alice@host\r\n\
                 a=candidate:1 1 UDP 1 10.0.0.1 4000 typ host\r\n";
    let (answer, stream) = leg().on_offer(&peer(offer)).unwrap();
    let expected = "v=0\r\no=- 42 1 IN IP4 198.51.100.1\r\ns=-\r\nc=IN IP4 198.51.100.1\r\nt=0 0\r\n\
                    m=audio 20000 RTP/AVPF 97 96\r\na=rtpmap:97 PCMA/8000\r\n\
                    a=rtpmap:96 telephone-event/8000\r\na=fmtp:96 0-15\r\na=ptime:30\r\na=sendrecv\r\n";
    assert_eq!(answer, expected);
    let agreed = Stream {
        remote: socket("203.0.113.5:4000"),
        remote_rtcp: socket("203.0.113.5:4001"),
        codec: Pcma,
        send_payload_type: 97,
        receive: vec![(97, Pcma)],
        telephone_event: event(96, 96),
        ptime_ms: 30,
        max_packet_ms: None,
        rtcp_mux: false,
        direction: Direction::SendRecv,
        source: SourcePolicy::Exact,
        srtp: None,
    };
    assert_eq!(stream, agreed);
}

#[test]
fn rfc3264_6_refused_streams_keep_their_place() {
    let audio = "m=audio 4000 RTP/AVP 0\r\n";
    let table = [
        ("video after", format!("{audio}m=video 5000 RTP/AVP 31 34"), vec!["A", "video 0 RTP/AVP 31"]),
        (
            "video before",
            format!("m=video 5000 RTP/SAVPF 120\r\n{audio}"),
            vec!["video 0 RTP/SAVPF 120", "A"],
        ),
        ("second audio", format!("{audio}m=audio 5000 RTP/AVP 8"), vec!["A", "audio 0 RTP/AVP 8"]),
        (
            "encrypted beside plain",
            format!("m=audio 5000 RTP/SAVP 0\r\n{audio}"),
            vec!["audio 0 RTP/SAVP 0", "A"],
        ),
        ("audio that is over", format!("m=audio 0 RTP/AVP 0\r\n{audio}"), vec!["audio 0 RTP/AVP 0", "A"]),
        (
            "audio without our codecs",
            format!("m=audio 5000 RTP/AVP 9\r\n{audio}"),
            vec!["audio 0 RTP/AVP 9", "A"],
        ),
        ("fax", format!("{audio}m=image 5000 udptl t38"), vec!["A", "image 0 udptl t38"]),
        ("chat", format!("{audio}m=message 5000 TCP/MSRP *"), vec!["A", "message 0 TCP/MSRP *"]),
        (
            "data channel",
            format!("{audio}m=application 9 UDP/DTLS/SCTP webrtc-datachannel"),
            vec!["A", "application 0 UDP/DTLS/SCTP webrtc-datachannel"],
        ),
        ("unknown words", format!("{audio}m=secret 5000 LEAK/1 LEAK2"), vec!["A", "application 0 udp 0"]),
        ("port out of range", format!("{audio}m=video 65536 RTP/AVP 300"), vec!["A", "video 0 RTP/AVP 0"]),
        ("nothing but the type", format!("{audio}m=video"), vec!["A", "video 0 udp 0"]),
    ];
    for (fact, offer, expected) in table {
        let (answer, _) = leg().on_offer(&peer(&offer)).unwrap();
        let lines: Vec<&str> = m_lines(&answer)
            .into_iter()
            .map(|line| if line == "audio 20000 RTP/AVP 0" { "A" } else { line })
            .collect();
        assert_eq!(lines, expected, "{fact}");
    }
}

#[test]
fn what_cannot_be_taken_has_its_cause_and_status() {
    let m = "m=audio 4000 RTP/AVP 0";
    let table: Vec<(&str, Vec<u8>, u16)> = vec![
        ("nothing", vec![], 400),
        ("no m= line", peer(""), 488),
        ("video only", peer("m=video 4000 RTP/AVP 31"), 488),
        ("encrypted only", peer("m=audio 4000 RTP/SAVP 0"), 488),
        ("WebRTC", peer("m=audio 9 UDP/TLS/RTP/SAVPF 0"), 488),
        ("audio that is over", peer("m=audio 0 RTP/AVP 0"), 488),
        ("no codec of ours", peer("m=audio 4000 RTP/AVP 9 18"), 488),
        ("events only", peer("m=audio 4000 RTP/AVP 101\r\na=rtpmap:101 telephone-event/8000"), 488),
        ("no format", peer("m=audio 4000 RTP/AVP"), 488),
        ("loopback", peer_at("IN IP4 127.0.0.1", m), 488),
        ("private", peer_at("IN IP4 10.0.0.1", m), 488),
        ("a group", peer_at("IN IP4 224.2.1.1/127", m), 488),
        ("the other family", peer_at("IN IP6 2001:db8::5", m), 488),
        ("host name", peer_at("IN IP4 media.example.com", m), 488),
        ("unreadable address", peer_at("IN IP4 1.2.3", m), 400),
        ("port out of range", peer("m=audio 65536 RTP/AVP 0"), 400),
        ("no c=", b"v=0\r\nm=audio 4000 RTP/AVP 0\r\n".to_vec(), 400),
    ];
    for (fact, body, status) in table {
        let mut leg = leg();
        assert_eq!(leg.on_offer(&body).unwrap_err().sip_status(), status, "offer: {fact}");
        assert_eq!((leg.local(), leg.stream()), (None, None), "offer: {fact}");
        let offer = leg.offer();
        assert_eq!(leg.on_answer(&body).unwrap_err().sip_status(), status, "answer: {fact}");
        assert_eq!((leg.local(), leg.stream()), (Some(offer.as_str()), None), "answer: {fact}");
    }
    assert_eq!(offered("m=audio 4000 RTP/AVP 9 18"), Err(OfferError::NoCommonCodec { offered: vec![9, 18] }));
    let address = "10.0.0.1".parse().unwrap();
    assert_eq!(leg().on_offer(&peer_at("IN IP4 10.0.0.1", m)), Err(OfferError::NotAllowed { address }));
}

#[test]
fn rfc3264_7_an_answer_is_read_against_our_offer() {
    type Row = (&'static str, &'static str, Codec, u8, &'static [(u8, Codec)], Option<TelephoneEventFormat>);
    let table: &[Row] = &[
        ("one codec", "m=audio 4000 RTP/AVP 8", Pcma, 8, &[(8, Pcma)], None),
        ("several: the first counts", "m=audio 4000 RTP/AVP 8 0", Pcma, 8, &[(0, Pcmu), (8, Pcma)], None),
        ("a codec we did not offer is passed over", "m=audio 4000 RTP/AVP 9 0", Pcmu, 0, &[(0, Pcmu)], None),
        (
            "another number for the events",
            "m=audio 4000 RTP/AVP 0 96\r\na=rtpmap:96 telephone-event/8000",
            Pcmu,
            0,
            &[(0, Pcmu)],
            event(96, 101),
        ),
        (
            "another number for the codec",
            "m=audio 4000 RTP/AVP 97\r\na=rtpmap:97 PCMU/8000",
            Pcmu,
            97,
            &[(0, Pcmu)],
            None,
        ),
        (
            "our number for the events means something else",
            "m=audio 4000 RTP/AVP 0 101\r\na=rtpmap:101 opus/48000/2",
            Pcmu,
            0,
            &[(0, Pcmu)],
            None,
        ),
        (
            "more m= lines than we offered",
            "m=video 4002 RTP/AVP 31\r\nm=audio 4000 RTP/AVP 0",
            Pcmu,
            0,
            &[(0, Pcmu)],
            None,
        ),
    ];
    for (fact, lines, codec, payload_type, receive, telephone_event) in table {
        let stream = answered(lines).unwrap();
        assert_eq!((stream.codec, stream.send_payload_type), (*codec, *payload_type), "{fact}");
        assert_eq!(
            (stream.receive.as_slice(), stream.telephone_event),
            (*receive, *telephone_event),
            "{fact}"
        );
        assert_eq!(stream.remote, socket("203.0.113.5:4000"), "{fact}");
    }
    let mut narrow = Negotiation::new(local("198.51.100.1", &[Pcmu]));
    let _ = narrow.offer();
    let refused = narrow.on_answer(&peer("m=audio 4000 RTP/AVP 8")).unwrap_err();
    assert_eq!(refused, OfferError::NoCommonCodec { offered: vec![8] });
}

#[test]
fn a_later_answer_counts_and_a_broken_one_does_not() {
    let mut leg = leg();
    let offer = leg.offer();
    let early = leg.on_answer(&peer("m=audio 4000 RTP/AVP 0")).unwrap();
    assert_eq!(leg.on_answer(b"junk").unwrap_err().sip_status(), 400);
    assert_eq!(leg.stream(), Some(&early));
    let late = leg.on_answer(&peer_at("IN IP4 203.0.113.6", "m=audio 4000 RTP/AVP 8")).unwrap();
    assert_eq!(leg.stream(), Some(&late));
    assert_eq!((late.codec, late.remote), (Pcma, socket("203.0.113.6:4000")));
    assert_eq!(leg.local(), Some(offer.as_str()));
}

#[test]
fn ipv6_works_both_ways() {
    let mut leg = Negotiation::new(local("2001:db8::1", &[Pcmu]));
    let _ = leg.offer();
    let answer = peer_at("IN IP6 2001:db8::5", "m=audio 4000 RTP/AVP 0");
    assert_eq!(leg.on_answer(&answer).unwrap().remote, socket("[2001:db8::5]:4000"));
    assert_eq!(leg.on_offer(&answer).unwrap().1.remote_rtcp, socket("[2001:db8::5]:4001"));
}

#[test]
fn rfc3605_rtcp_goes_where_a_rtcp_says_if_that_is_allowed() {
    let table = [
        ("RFC 3550 §11: the port above", "", "203.0.113.5:4001"),
        ("another port", "a=rtcp:6000", "203.0.113.5:6000"),
        ("another address", "a=rtcp:6000 IN IP4 203.0.113.9", "203.0.113.9:6000"),
        ("an address that is not allowed", "a=rtcp:6000 IN IP4 127.0.0.1", "203.0.113.5:4001"),
        ("an address of the other family", "a=rtcp:6000 IN IP6 2001:db8::1", "203.0.113.5:4001"),
        ("a host name", "a=rtcp:6000 IN IP4 host.example", "203.0.113.5:4001"),
        ("junk", "a=rtcp:99999", "203.0.113.5:4001"),
    ];
    for (fact, line, expected) in table {
        let stream = offered(&format!("m=audio 4000 RTP/AVP 0\r\n{line}")).unwrap();
        assert_eq!(stream.remote_rtcp, socket(expected), "{fact}");
    }
    assert_eq!(offered("m=audio 65535 RTP/AVP 0").unwrap().remote_rtcp, socket("203.0.113.5:65535"));
}

#[test]
fn absurd_packet_times_are_ignored() {
    let table = [
        ("none", "", 20),
        ("ten", "a=ptime:10", 10),
        ("sixty", "a=ptime:60", 60),
        ("zero", "a=ptime:0", 20),
        ("five", "a=ptime:5", 20),
        ("seventy", "a=ptime:70", 20),
        ("beyond 32 bits", "a=ptime:99999999999999999999", 20),
        ("negative", "a=ptime:-20", 20),
        ("no whole tens", "a=ptime:25", 20),
        ("maxptime is smaller", "a=ptime:40\r\na=maxptime:30", 30),
        ("maxptime alone", "a=maxptime:10", 10),
        ("maxptime larger", "a=ptime:30\r\na=maxptime:150", 30),
        ("maxptime absurd", "a=ptime:30\r\na=maxptime:0", 30),
    ];
    for (fact, lines, expected) in table {
        let body = format!("m=audio 4000 RTP/AVP 0\r\n{lines}");
        assert_eq!(offered(&body).unwrap().ptime_ms, expected, "{fact}");
        assert_eq!(answered(&body).unwrap().ptime_ms, expected, "{fact}");
    }
}

#[test]
fn rfc3264_8_4_hold_in_all_its_forms_is_mirrored_and_resumed() {
    use Direction::*;
    let there = "IN IP4 203.0.113.5";
    let table = [
        ("no attribute", there, "", SendRecv),
        ("sendonly: they play music", there, "a=sendonly", RecvOnly),
        ("recvonly", there, "a=recvonly", SendOnly),
        ("inactive", there, "a=inactive", Inactive),
        ("the address means hold", "IN IP4 0.0.0.0", "", RecvOnly),
        ("both", "IN IP4 0.0.0.0", "a=sendonly", RecvOnly),
        ("address and inactive", "IN IP4 0.0.0.0", "a=inactive", Inactive),
        ("address and recvonly", "IN IP4 0.0.0.0", "a=recvonly", Inactive),
    ];
    let m = "m=audio 4000 RTP/AVP 0";
    for (fact, connection, attribute, direction) in table {
        let body = peer_at(connection, &format!("{m}\r\n{attribute}"));
        let mut leg = leg();
        let (talking, _) = leg.on_offer(&peer(m)).unwrap();
        assert!(leg.is_refresh(&body), "{fact}");
        let (answer, stream) = leg.on_offer(&body).unwrap();
        assert_eq!(stream.direction, direction, "{fact}");
        assert!(answer.ends_with(&format!("a={}\r\n", super::attribute(direction))), "{fact}: {answer}");
        assert_eq!(stream.remote, socket("203.0.113.5:4000"), "{fact}: music still comes from there");
        assert_eq!(answer == talking, direction == SendRecv, "{fact}");

        assert!(leg.is_refresh(&peer(m)), "{fact}");
        assert_eq!(leg.on_offer(&peer(m)).unwrap().1.direction, SendRecv, "{fact}: resumed");

        let mut other = self::leg();
        let _ = other.offer();
        assert_eq!(other.on_answer(&body).unwrap().direction, direction, "{fact}: in an answer");
    }
    let session = [&peer("a=inactive\r\n")[..], m.as_bytes()].concat();
    assert_eq!(leg().on_offer(&session).unwrap().1.direction, Inactive, "at session level");
    let first = leg().on_offer(&peer_at("IN IP4 0.0.0.0", m)).unwrap().1;
    assert_eq!((first.remote, first.direction), (socket("0.0.0.0:4000"), RecvOnly), "held from the first");
}

#[test]
fn only_what_leaves_the_stream_alone_is_a_refresh() {
    let now = "m=audio 4000 RTP/AVP 0 8 96\r\na=rtpmap:96 telephone-event/8000";
    let table = [
        ("the same", peer(now), true),
        ("another ptime", peer(&format!("{now}\r\na=ptime:30")), true),
        ("fewer codecs, the one in use stays", peer(&now.replace(" 8 ", " ")), true),
        ("another port", peer(&now.replace("4000", "4002")), false),
        ("another address", peer_at("IN IP4 203.0.113.6", now), false),
        ("another codec", peer(&now.replace("0 8", "8 0")), false),
        ("another number for events", peer(&now.replace("96", "97")), false),
        ("events are gone", peer("m=audio 4000 RTP/AVP 0 8"), false),
        ("another RTCP port", peer(&format!("{now}\r\na=rtcp:9000")), false),
        ("audio is over", peer("m=audio 0 RTP/AVP 0"), false),
        ("junk", b"junk".to_vec(), false),
    ];
    for (fact, body, refresh) in table {
        let mut leg = leg();
        assert!(!leg.is_refresh(&body), "{fact}: nothing is agreed");
        leg.on_offer(&peer(now)).unwrap();
        assert_eq!(leg.is_refresh(&body), refresh, "{fact}");
    }
}

#[test]
fn a_callee_refreshes_with_the_numbers_of_its_answer() {
    let mut leg = leg();
    let _ = leg.offer();
    let theirs = peer("m=audio 4000 RTP/AVP 0 8 96\r\na=rtpmap:96 telephone-event/8000");
    assert_eq!(leg.on_answer(&theirs).unwrap().telephone_event, event(96, 101));
    assert!(leg.is_refresh(&theirs));
    assert_eq!(leg.on_offer(&theirs).unwrap().1.telephone_event, event(96, 96), "now the offer is theirs");
}

#[test]
fn rfc3264_8_the_version_grows_with_each_change_only() {
    let version = |text: &str| text.split(' ').nth(2).unwrap().parse::<u64>().unwrap();
    let mut leg = leg();
    let talk = "m=audio 4000 RTP/AVP 0";
    let (first, _) = leg.on_offer(&peer(talk)).unwrap();
    let (again, _) = leg.on_offer(&peer(talk)).unwrap();
    assert_eq!((first.as_str(), version(&first)), (again.as_str(), 1));
    let (held, _) = leg.on_offer(&peer(&format!("{talk}\r\na=sendonly"))).unwrap();
    assert_eq!(version(&held), 2);
    assert!(leg.on_offer(&peer("m=audio 4000 RTP/AVP 9")).is_err());
    assert_eq!(leg.local(), Some(held.as_str()), "RFC 6141 §3: a refused offer changes nothing");
    let (back, _) = leg.on_offer(&peer(talk)).unwrap();
    assert_eq!(version(&back), 3);
    let ours = leg.offer();
    assert_eq!((version(&ours), version(&leg.offer())), (4, 4));
}

#[test]
fn rfc3264_8_our_later_offer_keeps_lines_and_numbers() {
    let mut leg = leg();
    let offer = "m=video 5000 RTP/AVP 31\r\nm=audio 4000 RTP/AVP 101 96\r\na=rtpmap:101 PCMA/8000\r\n\
                 a=rtpmap:96 telephone-event/8000\r\nm=image 6000 udptl t38";
    leg.on_offer(&peer(offer)).unwrap();
    let ours = leg.offer();
    assert_eq!(m_lines(&ours), ["video 0 RTP/AVP 31", "audio 20000 RTP/AVP 0 8 96", "image 0 udptl t38"]);

    leg.on_offer(&peer("m=audio 4000 RTP/AVP 101\r\na=rtpmap:101 PCMA/8000")).unwrap();
    let ours = leg.offer();
    assert_eq!(m_lines(&ours), ["audio 20000 RTP/AVP 0 8 96"], "101 was a codec");
}

/// Text that a peer may put anywhere, with a mark in it.
fn marked() -> impl Strategy<Value = String> {
    "[ -~]{0,12}".prop_map(|text| format!("{text}LEAK{text}"))
}

prop_compose! {
    fn codecs()(order in Just(vec![Pcmu, Pcma]).prop_shuffle(), count in 1usize..=2) -> Vec<Codec> {
        order.into_iter().take(count).collect()
    }
}

proptest! {
    /// Two of us agree, or have no codec in common: same codec, numbers mirrored, each sends where the other
    /// is.
    #[test]
    fn offer_and_answer_agree(ours in codecs(), theirs in codecs(), v6: bool, again: bool) {
        let [near, far] = if v6 { ["2001:db8::1", "2001:db8::2"] } else { ["198.51.100.1", "198.51.100.2"] };
        let mut a = Negotiation::new(local(near, &ours));
        let mut b = Negotiation::new(LocalMedia { port: 30_000, ..local(far, &theirs) });
        let mut offer = a.offer();
        let Ok((mut answer, _)) = b.on_offer(offer.as_bytes()) else {
            prop_assert!(ours.iter().all(|codec| !theirs.contains(codec)));
            return Ok(());
        };
        a.on_answer(answer.as_bytes()).unwrap();
        if again {
            // The other side offers next.
            std::mem::swap(&mut a, &mut b);
            offer = a.offer();
            (answer, _) = b.on_offer(offer.as_bytes()).unwrap();
            a.on_answer(answer.as_bytes()).unwrap();
        }
        let (sa, sb) = (a.stream().unwrap(), b.stream().unwrap());
        prop_assert_eq!(sa.codec, sb.codec);
        prop_assert!(sa.receive.contains(&(sb.send_payload_type, sb.codec)));
        prop_assert!(sb.receive.contains(&(sa.send_payload_type, sa.codec)));
        let (ea, eb) = (sa.telephone_event.unwrap(), sb.telephone_event.unwrap());
        prop_assert_eq!(ea.send_payload_type, eb.receive_payload_type);
        prop_assert_eq!(ea.receive_payload_type, eb.send_payload_type);
        prop_assert_eq!(sa.remote, SocketAddr::new(b.local.address, b.local.port));
        prop_assert_eq!(sb.remote, SocketAddr::new(a.local.address, a.local.port));
        prop_assert_eq!((sa.ptime_ms, sb.ptime_ms), (20, 20));
        prop_assert_eq!((sa.direction, sb.direction), (Direction::SendRecv, Direction::SendRecv));
        prop_assert!(a.is_refresh(answer.as_bytes()) && b.is_refresh(offer.as_bytes()));
    }

    /// Whatever an offer says and wherever, our answer has as many m= lines, is made of our own words, and is
    /// understood by ourselves.
    #[test]
    fn nothing_of_the_peer_is_repeated(
        texts in prop::collection::vec(marked(), 12),
        kinds in prop::collection::vec(0usize..6, 0..8),
    ) {
        let t = |n: usize| texts[n % texts.len()].as_str();
        let mut body = format!(
            "v=0\r\no={} 1 2 IN IP4 {}\r\ns={}\r\ni={}\r\nu={}\r\ne={}\r\np={}\r\n\
             c=IN IP4 203.0.113.5\r\nb={}\r\nt=0 0\r\n\
             a={}\r\na=tool:{}\r\n", t(0), t(1), t(2), t(3), t(4), t(5), t(6), t(7), t(8), t(9)
        );
        body.push_str("m=audio 4000 RTP/AVP 0 97 101\r\n");
        for (n, kind) in kinds.iter().enumerate() {
            let line = match kind {
                0 => format!("m={} 4000 {} {}", t(n), t(n + 1), t(n + 2)),
                1 => format!("m=video 4000 RTP/AVP {}", t(n)),
                2 => format!("m=image 4000 {} t38", t(n)),
                3 => format!("i={}", t(n)),
                4 => format!("a=rtpmap:97 {}", t(n)),
                _ => format!("a=fmtp:101 {}", t(n)),
            };
            body.push_str(&line);
            body.push_str("\r\n");
        }
        if let Ok((answer, stream)) = leg().on_offer(body.as_bytes()) {
            prop_assert!(!answer.contains("LEAK"), "{}", answer);
            prop_assert_eq!(m_lines(&answer).len(), m_lines(&body).len());
            let mut echo = leg();
            let _ = echo.offer();
            prop_assert_eq!(echo.on_answer(answer.as_bytes()).unwrap().codec, stream.codec);
        }
    }

    /// Any bytes, as offer or as answer: no panic, and an error changes nothing.
    #[test]
    fn junk_is_borne(
        junk in prop::collection::vec(any::<u8>(), 0..200),
        cut in any::<prop::sample::Index>(),
        byte: u8,
    ) {
        let mut leg = leg();
        let mut offer = leg.offer().into_bytes();
        let before = leg.stream().cloned();
        if leg.on_answer(&junk).is_err() {
            prop_assert_eq!(leg.stream().cloned(), before);
        }
        let at = cut.index(offer.len());
        offer[at] = byte;
        let _ = leg.on_offer(&offer);
        let _ = leg.on_answer(&offer);
        let _ = leg.is_refresh(&offer);
    }
}

/// A leg whose trunk says `srtp = "required"`, or `"optional"`.
fn secure_leg(required: bool) -> Negotiation {
    let srtp = Some(LocalSrtp { required, secret: Secret::new([7; 32]) });
    Negotiation::new(LocalMedia { srtp, ..local("198.51.100.1", &[Pcmu, Pcma]) })
}

/// A peer's `a=crypto` line and the key in it.
fn crypto(tag: u32, suite: Suite, number: u8) -> (String, MasterKey) {
    let key = Secret::new([number; 32]).key(suite, 0);
    let mut line = String::new();
    Crypto { tag, key: key.clone() }.write(&mut line).unwrap();
    (line, key)
}

/// The keys that a description of ours names: tag and key.
fn own_keys(text: &str) -> Vec<(u32, MasterKey)> {
    let values = text.lines().filter_map(|line| line.strip_prefix("a=crypto:"));
    values
        .map(|value| Crypto::parse(value.as_bytes()).unwrap())
        .map(|crypto| (crypto.tag, crypto.key))
        .collect()
}

#[test]
fn rfc4568_5_1_1_an_offer_has_each_suite_with_a_key_of_its_own() {
    for (required, profile) in [(true, "RTP/SAVP"), (false, "RTP/AVP")] {
        let mut leg = secure_leg(required);
        let offer = leg.offer();
        assert_eq!(m_lines(&offer), [format!("audio 20000 {profile} 0 8 101")]);
        let keys = own_keys(&offer);
        let suites: Vec<_> = keys.iter().map(|(tag, key)| (*tag, key.suite())).collect();
        assert_eq!(suites, [(1, Suite::Aes128Sha80), (2, Suite::Aes256Sha80), (3, Suite::Aes128Sha32)]);
        let again = own_keys(&leg.offer());
        assert!(keys.iter().all(|key| !again.contains(key)), "a key is offered once");
        let mut other = secure_leg(required);
        other.local.srtp.as_mut().unwrap().secret = Secret::new([8; 32]);
        assert!(own_keys(&other.offer()).iter().all(|key| !keys.contains(key)), "legs share nothing");
    }
    assert!(!leg().offer().contains("crypto"));
}

#[test]
fn rfc4568_5_1_2_and_rfc8643_what_is_offered_is_taken_by_what_the_trunk_says() {
    let (good, _) = crypto(4, Suite::Aes128Sha80, 1);
    let (short, _) = crypto(5, Suite::Aes128Sha32, 2);
    let unknown = "a=crypto:1 AEAD_AES_128_GCM inline:AAAA\r\n";
    let mki = good.replace("\r\n", "|2^20|1:4\r\n");
    let plain = "m=audio 4000 RTP/AVP 0\r\n".to_owned();
    let secure = "m=audio 4000 RTP/SAVP 0\r\n".to_owned();
    let best_effort = format!("{plain}{good}");
    let both = format!("m=audio 5000 RTP/AVP 0\r\n{secure}{good}");
    let dtls = "m=audio 4000 UDP/TLS/RTP/SAVP 0\r\na=fingerprint:sha-256 AA\r\n".to_owned();
    // The answer's m= lines and the tag of the key in it, or the error; off, optional, required.
    type Outcome<'a> = Result<(Vec<&'a str>, Option<u32>), OfferError>;
    let taken = |lines: &[&'static str], tag| -> Outcome<'static> { Ok((lines.to_vec(), tag)) };
    let (none, no_audio) = (Err(OfferError::NoEncryption), Err(OfferError::NoAudio));
    let (avp, savp) = ("audio 20000 RTP/AVP 0", "audio 20000 RTP/SAVP 0");
    let table = [
        ("plain", plain.clone(), [taken(&[avp], None), taken(&[avp], None), none.clone()]),
        (
            "encrypted",
            format!("{secure}{good}"),
            [no_audio.clone(), taken(&[savp], Some(4)), taken(&[savp], Some(4))],
        ),
        ("RFC 8643", best_effort, [taken(&[avp], None), taken(&[avp], Some(4)), taken(&[avp], Some(4))]),
        (
            "side by side",
            both,
            [
                taken(&[avp, "audio 0 RTP/SAVP 0"], None),
                taken(&["audio 0 RTP/AVP 0", savp], Some(4)),
                taken(&["audio 0 RTP/AVP 0", savp], Some(4)),
            ],
        ),
        (
            "the peer's order decides",
            format!("{secure}{short}{good}"),
            [no_audio.clone(), taken(&[savp], Some(5)), taken(&[savp], Some(5))],
        ),
        (
            "what is not known is stepped over",
            format!("{secure}{unknown}{mki}{good}"),
            [no_audio.clone(), taken(&[savp], Some(4)), taken(&[savp], Some(4))],
        ),
        (
            "nothing that is known",
            format!("{secure}{unknown}"),
            [no_audio.clone(), none.clone(), none.clone()],
        ),
        ("no key at all", secure, [no_audio.clone(), none.clone(), none.clone()]),
        (
            "RFC 8643: nothing known",
            format!("{plain}{unknown}"),
            [taken(&[avp], None), taken(&[avp], None), none],
        ),
        ("DTLS", dtls, [no_audio.clone(), no_audio.clone(), no_audio]),
    ];
    for (fact, lines, outcomes) in table {
        let legs = [leg(), secure_leg(false), secure_leg(true)];
        for (mut leg, (expected, word)) in
            legs.into_iter().zip(outcomes.into_iter().zip(["off", "optional", "required"]))
        {
            let outcome = leg.on_offer(&peer(&lines));
            let tag = |text: &str| own_keys(text).first().map(|key| key.0);
            let found = outcome.as_ref().map(|(text, _)| (m_lines(text), tag(text))).map_err(Clone::clone);
            assert_eq!(found, expected, "{fact}, {word}");
            match &outcome {
                Ok((text, stream)) => {
                    let ours = own_keys(text).pop().map(|key| key.1);
                    assert_eq!(stream.srtp.as_ref().map(|keys| keys.send.clone()), ours, "{fact}, {word}");
                }
                Err(error) => assert_eq!((error.sip_status(), leg.stream()), (488, None), "{fact}, {word}"),
            }
        }
    }
}

#[test]
fn rfc4568_5_1_3_an_answer_is_read_against_our_own_tags() {
    let (first, key) = crypto(1, Suite::Aes128Sha80, 1);
    let (third, _) = crypto(3, Suite::Aes128Sha32, 1);
    let (foreign, _) = crypto(4, Suite::Aes128Sha80, 1);
    let (mixed, _) = crypto(1, Suite::Aes128Sha32, 1);
    let mki = first.replace("\r\n", "|2^20|1:4\r\n");
    let refused = "a=crypto:1 AES_CM_128_HMAC_SHA1_80 uri:somewhere\r\n".to_owned();
    let (plain, secure) = ("m=audio 4000 RTP/AVP 0\r\n", "m=audio 4000 RTP/SAVP 0\r\n");
    // The suite of the keys, optional and required; `Err` is no encryption in common.
    let table = [
        ("as offered", secure, &first, Ok(Some(Suite::Aes128Sha80)), Ok(Some(Suite::Aes128Sha80))),
        ("RFC 8643", plain, &first, Ok(Some(Suite::Aes128Sha80)), Ok(Some(Suite::Aes128Sha80))),
        ("another of ours", secure, &third, Ok(Some(Suite::Aes128Sha32)), Ok(Some(Suite::Aes128Sha32))),
        ("plain", plain, &String::new(), Ok(None), Err(())),
        ("encrypted without a key", secure, &String::new(), Err(()), Err(())),
        ("a tag that was not offered", secure, &foreign, Err(()), Err(())),
        ("the suite of another tag", secure, &mixed, Err(()), Err(())),
        ("an MKI", secure, &mki, Err(()), Err(())),
        ("a key that cannot be read is no plain stream", plain, &refused, Err(()), Err(())),
    ];
    for (fact, m, line, optional, required) in table {
        for (expected, is_required) in [(optional, false), (required, true)] {
            let mut leg = secure_leg(is_required);
            let ours = own_keys(&leg.offer());
            let outcome = leg.on_answer(&peer(&format!("{m}{line}")));
            let suite = |stream: &Stream| stream.srtp.as_ref().map(|keys| keys.send.suite());
            let found =
                outcome.as_ref().map(suite).map_err(|error| assert_eq!(*error, OfferError::NoEncryption));
            assert_eq!(found, expected, "{fact}, required: {is_required}");
            if let Some(keys) = outcome.ok().and_then(|stream| stream.srtp) {
                assert!(ours.iter().any(|own| own.1 == keys.send), "{fact}");
                assert_eq!(
                    (keys.receive == key, keys.send != keys.receive),
                    (keys.send.suite() == key.suite(), true)
                );
            }
        }
    }
    // Without an offer of keys there is nothing that a key would answer.
    assert_eq!(answered(&format!("{plain}{first}")).unwrap().srtp, None);
    assert_eq!(answered(&format!("{secure}{first}")), Err(OfferError::NoAudio));
}

#[test]
fn rfc3264_8_keys_stay_until_the_peer_takes_another() {
    let (line, _) = crypto(1, Suite::Aes128Sha80, 1);
    let (fresh, _) = crypto(1, Suite::Aes128Sha80, 2);
    let m = "m=audio 4000 RTP/SAVP 0\r\n";
    let mut leg = secure_leg(true);
    let (first, agreed) = leg.on_offer(&peer(&format!("{m}{line}"))).unwrap();
    let (again, refreshed) = leg.on_offer(&peer(&format!("{m}{line}"))).unwrap();
    assert_eq!((again, refreshed.srtp), (first, agreed.srtp.clone()), "byte for byte, with its version");
    let ours = leg.offer();
    let send = agreed.srtp.as_ref().unwrap().send.clone();
    assert_eq!(own_keys(&ours), [(1, send.clone())], "an offer of ours repeats what was agreed");
    assert!(ours.contains("RTP/SAVP"));
    let held = format!("{m}{line}a=sendonly\r\n");
    assert!(leg.is_refresh(&peer(&held)) && !leg.is_refresh(&peer(&format!("{m}{fresh}"))));
    assert!(leg.on_offer(&peer("m=audio 4000 RTP/AVP 0\r\n")).is_err(), "required stays required");
    assert_eq!(leg.stream().unwrap().srtp, agreed.srtp, "RFC 6141 §3: and the call goes on");
    let (_, next) = leg.on_offer(&peer(&format!("{m}{fresh}"))).unwrap();
    let next = next.srtp.unwrap();
    assert!(next.send != send && next.receive != agreed.srtp.unwrap().receive, "both are new");

    let mut plain = secure_leg(false);
    let _ = plain.offer();
    plain.on_answer(&peer("m=audio 4000 RTP/AVP 0\r\n")).unwrap();
    assert!(!plain.offer().contains("crypto"), "a stream that is plain stays plain in our offers");
}

#[test]
fn nothing_that_prints_has_a_key_in_it() {
    let (line, _) = crypto(1, Suite::Aes128Sha80, 1);
    let mut leg = secure_leg(true);
    let (answer, stream) = leg.on_offer(&peer(&format!("m=audio 4000 RTP/SAVP 0\r\n{line}"))).unwrap();
    let shown = format!("{leg:?} {stream:?} {:?}", leg.local);
    for text in [&line, &answer] {
        let inline = text.split("inline:").nth(1).unwrap();
        assert!(!shown.contains(&inline[..10]), "{shown}");
    }
}

#[test]
fn rfc5761_5_1_1_one_port_for_both_is_agreed_on_when_it_is_offered() {
    let with = "m=audio 4000 RTP/AVP 0\r\na=rtcp-mux\r\na=rtcp:4000\r\n";
    let mut leg = leg();
    let (answer, stream) = leg.on_offer(&peer(with)).unwrap();
    assert!(stream.rtcp_mux && answer.contains("a=rtcp-mux\r\n"));
    assert_eq!(stream.remote_rtcp, stream.remote);
    assert!(leg.offer().contains("a=rtcp-mux\r\n"), "and offered again");
    let (answer, stream) = leg.on_offer(&peer("m=audio 4000 RTP/AVP 0\r\n")).unwrap();
    assert!(!stream.rtcp_mux && !answer.contains("rtcp-mux"));
    assert_eq!(stream.remote_rtcp, socket("203.0.113.5:4001"));
    // Nothing of it was offered, so an answer cannot take it.
    assert!(!answered(with).unwrap().rtcp_mux);
}

#[test]
fn rfc4733_2_4_events_are_answered_at_their_clock() {
    let offer = "m=audio 4000 RTP/AVP 9 0 97\r\na=rtpmap:97 telephone-event/16000\r\n";
    let mut leg = leg();
    let (answer, stream) = leg.on_offer(&peer(offer)).unwrap();
    assert!(answer.contains("a=rtpmap:97 telephone-event/16000\r\na=fmtp:97 0-15\r\n"), "{answer}");
    let expected =
        TelephoneEventFormat { send_payload_type: 97, receive_payload_type: 97, clock_rate: 16_000 };
    assert_eq!(stream.telephone_event, Some(expected));
    assert!(
        leg.offer().contains("a=rtpmap:97 telephone-event/16000"),
        "RFC 3264 §8.3.2: the number keeps it"
    );
    let other = "m=audio 4000 RTP/AVP 0 98\r\na=rtpmap:98 telephone-event/48000\r\n";
    assert_eq!(answered(other).unwrap().telephone_event, None, "we offered another clock");
}

#[test]
fn rfc8866_6_4_packets_are_no_longer_than_the_peer_says() {
    let table = [
        ("", 20, None),
        ("a=ptime:40\r\n", 40, None),
        ("a=maxptime:20\r\n", 20, Some(20)),
        ("a=ptime:60\r\na=maxptime:40\r\n", 40, Some(40)),
        ("a=maxptime:240\r\n", 20, Some(240)),
        ("a=maxptime:5\r\n", 20, None),
        ("a=maxptime:9999\r\n", 20, None),
    ];
    for (lines, ptime_ms, max_packet_ms) in table {
        let stream = offered(&format!("m=audio 4000 RTP/AVP 0\r\n{lines}")).unwrap();
        assert_eq!((stream.ptime_ms, stream.max_packet_ms), (ptime_ms, max_packet_ms), "{lines}");
    }
}

#[test]
fn rfc3551_4_5_2_g722_is_offered_and_answered_with_a_clock_of_8000() {
    let codecs = [Codec::G722, Pcmu];
    let mut leg = Negotiation::new(local("198.51.100.1", &codecs));
    let offer = leg.offer();
    assert_eq!(m_lines(&offer), ["audio 20000 RTP/AVP 9 0 101"]);
    assert!(offer.contains("a=rtpmap:9 G722/8000\r\n"));
    let stream = leg.on_answer(&peer("m=audio 4000 RTP/AVP 9 0")).unwrap();
    assert_eq!((stream.codec, stream.receive), (Codec::G722, vec![(9, Codec::G722), (0, Pcmu)]));
    let (answer, stream) = leg.on_offer(&peer("m=audio 4000 RTP/AVP 0 9")).unwrap();
    assert_eq!((m_lines(&answer), stream.codec), (vec!["audio 20000 RTP/AVP 0"], Pcmu));
    assert_eq!(
        offered("m=audio 4000 RTP/AVP 9").unwrap_err(),
        OfferError::NoCommonCodec { offered: vec![9] }
    );
}

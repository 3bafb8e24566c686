//! What is fuzzed, and what good input looks like.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use maskline::config::Config;
use maskline::sip::address::{NameAddr, Via};
use maskline::sip::body;
use maskline::sip::encode::ResponseOut;
use maskline::sip::message::Message;
use maskline::sip::uri::Uri;
use maskline::sip::wire::{ByteStr, Frame, Framer};
use media::dtmf::{EventDetector, TelephoneEvent};
use media::rtp::Packet;
use media::sdp::{LocalMedia, LocalSrtp, MediaAllow, Negotiation};
use media::srtp::Secret;
use media::{Codec, SourcePolicy, rtcp};

/// One parser.
pub(crate) struct Target {
    pub(crate) name: &'static str,
    pub(crate) seeds: fn() -> Vec<Vec<u8>>,
    /// Panics when something is wrong.
    pub(crate) run: fn(&[u8]),
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn torture() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for rfc in ["rfc4475", "rfc5118"] {
        let mut paths: Vec<_> =
            std::fs::read_dir(folder().join("torture").join(rfc)).unwrap().collect::<Result<_, _>>().unwrap();
        paths.sort_by_key(std::fs::DirEntry::path);
        seeds.extend(paths.iter().map(|entry| std::fs::read(entry.path()).unwrap()));
    }
    seeds
}

fn lines(text: &str) -> Vec<Vec<u8>> {
    text.lines().map(|line| line.as_bytes().to_vec()).collect()
}

/// A message, and what is made of it: its body, its dialog, our answer.
pub(crate) fn sip_message() -> Target {
    fn run(input: &[u8]) {
        let source: SocketAddr = "198.51.100.7:5061".parse().unwrap();
        match Message::parse(Bytes::copy_from_slice(input)) {
            Ok(Message::Request(request)) => {
                let _ = body::sdp(&request.head, &request.body);
                let _ = (request.uri.number(), request.uri.user(), request.head.content_type());
                let head = request.response_head(source);
                let answer = ResponseOut {
                    head,
                    status: 200,
                    to_tag: Some("tag".to_owned()),
                    contact: Some("sip:192.0.2.1".to_owned()),
                    record_route: true,
                    headers: vec![],
                    body: None,
                };
                let wire = answer.encode();
                // Whatever a peer sent, our answer to it can be read.
                assert!(Message::parse(wire.clone()).is_ok(), "{}", String::from_utf8_lossy(&wire));
            }
            Ok(Message::Response(response)) => drop(body::sdp(&response.head, &response.body)),
            Err(error) => {
                let _ = (error.answer(), error.cause().sip_status(), error.to_string());
            }
        }
    }
    Target { name: "sip_message", seeds: torture, run }
}

/// Messages on a connection, in pieces of any size.
pub(crate) fn sip_stream() -> Target {
    fn run(input: &[u8]) {
        let mut framer = Framer::new();
        let mut buffer = input.to_vec();
        // Each step takes something or waits for more.
        for _ in 0..=input.len() {
            match framer.frame(&buffer) {
                Frame::Message { length } | Frame::KeepAlive { length, .. } => {
                    assert!(length > 0 && length <= buffer.len());
                    drop(buffer.drain(..length));
                }
                Frame::Incomplete | Frame::Bad(_) => return,
            }
        }
        panic!("the framer goes on for ever");
    }
    Target {
        name: "sip_stream",
        seeds: || {
            let all = torture();
            let joined = all.iter().take(5).flatten().copied().collect();
            [all, vec![joined]].concat()
        },
        run,
    }
}

pub(crate) fn uri() -> Target {
    const GOOD: &str = "sip:+12025550100@h.example:5060;transport=udp;lr\nsips:a%20b:pw@[2001:db8::1]:5061;user=phone?Subject=x&y=z\ntel:+1-202-555-0100;phone-context=example.com\nsip:h\nurn:service:sos";
    fn run(input: &[u8]) {
        if let Ok(text) = std::str::from_utf8(input)
            && let Some(uri) = Uri::parse(text)
        {
            let _ =
                (uri.host(), uri.port(), uri.user(), uri.number(), uri.transport(), uri.lr(), uri.param("x"));
        }
    }
    Target { name: "uri", seeds: || lines(GOOD), run }
}

pub(crate) fn address() -> Target {
    const GOOD: &str = "\"Bell, \\\"A\\\"\" <sip:a@h;x=1>;tag=7\nsip:a@h;tag=1\n<tel:+12025550100>\nSIP/2.0/UDP [2001:db8::9]:5060;branch=z9hG4bK1;rport;received=192.0.2.1\nSIP / 2.0 / TCP h.example ; maddr=x ; ttl=1";
    fn run(input: &[u8]) {
        let Some(text) = ByteStr::from_utf8(Bytes::copy_from_slice(input)) else { return };
        if let Some(address) = NameAddr::parse(&text) {
            let _ = (address.tag().cloned(), address.param("x").is_some(), address.uri.number().is_some());
        }
        if let Some(via) = Via::parse(&text) {
            let _ = via.ip();
        }
    }
    Target { name: "address", seeds: || lines(GOOD), run }
}

fn negotiation() -> Negotiation {
    Negotiation::new(LocalMedia {
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        port: 16384,
        session_id: u64::MAX,
        codecs: vec![Codec::Pcmu, Codec::Pcma, Codec::G722],
        source: SourcePolicy::Exact,
        allow: MediaAllow { networks: vec![], private: true },
        srtp: Some(LocalSrtp { required: false, secret: Secret::new([7; 32]) }),
    })
}

fn descriptions() -> Vec<Vec<u8>> {
    let one = "v=0\r\no=- 1 2 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\nm=audio 40000 RTP/AVP 0 8 101\r\n\
               a=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-15\r\na=ptime:20\r\na=sendrecv\r\n";
    let two = "v=0\no=x 18446744073709551615 1 IN IP6 ::1\ns= \nt=0 0\nm=video 9 RTP/SAVPF 96\na=rtpmap:96 VP8/90000\n\
               m=audio 40002/2 RTP/AVP 96 8\nc=IN IP6 2001:db8::1\nb=AS:64\na=rtpmap:96 opus/48000/2\na=rtcp:40005 IN IP4 192.0.2.3\na=inactive\na=maxptime:240\n";
    let three = "v=0\no=- 1 1 IN IP4 192.0.2.1\ns=-\nc=IN IP4 192.0.2.1\nt=0 0\nm=audio 40000 RTP/SAVP 9 0 97\n\
                 a=rtpmap:97 telephone-event/16000\na=rtcp-mux\n\
                 a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:WVNfX19zZW1jdGwgKCkgewkyMjA7fQp9CnVubGVz|2^20\n\
                 a=crypto:2 AES_CM_128_HMAC_SHA1_32 inline:WVNfX19zZW1jdGwgKCkgewkyMjA7fQp9CnVubGVz|2^31|1:4\n";
    vec![one.into(), two.into(), three.into()]
}

pub(crate) fn sdp_offer() -> Target {
    fn run(input: &[u8]) {
        let mut ours = negotiation();
        let _ = ours.is_refresh(input);
        match ours.on_offer(input) {
            Ok((answer, _)) => {
                // Our own answer is something that we ourselves could take.
                assert!(answer.starts_with("v=0\r\n") && answer.ends_with("\r\n"));
                let _ = ours.on_offer(input).expect("the same offer again");
            }
            Err(error) => assert!(matches!(error.sip_status(), 400 | 488)),
        }
    }
    Target { name: "sdp_offer", seeds: descriptions, run }
}

pub(crate) fn sdp_answer() -> Target {
    fn run(input: &[u8]) {
        let mut ours = negotiation();
        let _ = ours.offer();
        let _ = ours.on_answer(input);
        let _ = ours.on_answer(input);
    }
    Target { name: "sdp_answer", seeds: descriptions, run }
}

fn packet(first: u8, second: u8, payload: &[u8]) -> Vec<u8> {
    [&[first, second, 0x12, 0x34, 0, 0, 1, 0, 9, 9, 9, 9], payload].concat()
}

pub(crate) fn rtp() -> Target {
    fn run(input: &[u8]) {
        if let Ok(packet) = Packet::parse(input) {
            assert!(packet.payload.len() + 12 <= input.len());
            assert!(packet.header.payload_type < 128);
        }
    }
    Target {
        name: "rtp",
        seeds: || {
            vec![
                packet(0x80, 0, &[0xff; 160]),
                packet(0x90, 0x80, &[0xbe, 0xde, 0, 1, 1, 2, 3, 4, 0xff, 0xff]),
                packet(0xa2, 8, &[0, 0, 0, 1, 0, 0, 0, 2, 7, 7, 7, 3]),
            ]
        },
        run,
    }
}

pub(crate) fn rtcp() -> Target {
    fn run(input: &[u8]) {
        let _ = rtcp::decode(input, 0x0909_0909);
    }
    Target {
        name: "rtcp",
        seeds: || {
            vec![
                [
                    &[0x81, 200, 0, 12, 9, 9, 9, 9][..],
                    &[1; 20],
                    &[9; 24],
                    &[0x81, 202, 0, 3, 9, 9, 9, 9, 1, 2, b'a', b'b', 0, 0, 0, 0],
                ]
                .concat(),
                [&[0x81, 201, 0, 7, 9, 9, 9, 9][..], &[9; 24], &[0x81, 203, 0, 1, 9, 9, 9, 9]].concat(),
                vec![0x81, 0xcd, 0, 1, 0, 0, 0, 0],
            ]
        },
        run,
    }
}

/// Packets of a telephone-event stream, five bytes each: the payload, and what the header varies in.
pub(crate) fn telephone_event() -> Target {
    fn run(input: &[u8]) {
        let _ = TelephoneEvent::decode(input);
        let start = maskline::clock::now();
        let mut receiver = EventDetector::new();
        let mut presses = 0;
        let packets = input.chunks(5);
        let count = packets.len();
        for (number, chunk) in packets.enumerate() {
            let header = media::rtp::Header {
                marker: chunk[0] & 1 == 1,
                payload_type: 101,
                sequence: u16::from_be_bytes([0, chunk[chunk.len() - 1]])
                    .wrapping_add(u16::try_from(number).unwrap_or(0)),
                timestamp: u32::from(chunk[chunk.len() / 2]) * 160,
                ssrc: 7,
            };
            presses += usize::from(
                receiver
                    .on_packet(&header, chunk, start + Duration::from_millis(number as u64 * 20))
                    .is_some(),
            );
        }
        assert!(presses <= count, "no packet presses two keys");
    }
    Target {
        name: "telephone_event",
        seeds: || vec![[1, 0x0a, 0, 160, 0].repeat(3), [5, 0x8a, 3, 32, 1].repeat(3), vec![0, 0, 0, 0]],
        run,
    }
}

fn wav(format: u16, channels: u16, rate: u32, bits: u16, data: &[u8]) -> Vec<u8> {
    let align = channels * bits / 8;
    let mut out = b"RIFF".to_vec();
    out.extend((36 + data.len() as u32).to_le_bytes());
    out.extend(b"WAVEfmt \x10\0\0\0");
    out.extend(format.to_le_bytes());
    out.extend(channels.to_le_bytes());
    out.extend(rate.to_le_bytes());
    out.extend((rate * u32::from(align)).to_le_bytes());
    out.extend(align.to_le_bytes());
    out.extend(bits.to_le_bytes());
    out.extend(b"data");
    out.extend((data.len() as u32).to_le_bytes());
    out.extend(data);
    out
}

pub(crate) fn prompt_audio() -> Target {
    fn run(input: &[u8]) {
        let _ = maskline::prompts::decode_audio(input.to_vec());
    }
    Target {
        name: "prompt_audio",
        seeds: || {
            vec![
                wav(1, 1, 8000, 16, &[1; 320]),
                wav(7, 2, 8000, 8, &[0x7f; 160]),
                wav(1, 1, 44_100, 24, &[3; 300]),
                [&[0xff, 0xfb, 0x90, 0][..], &[0; 413]].concat().repeat(2),
            ]
        },
        run,
    }
}

pub(crate) fn configuration() -> Target {
    fn run(input: &[u8]) {
        let text = String::from_utf8_lossy(input);
        match Config::read(&text, std::iter::empty()) {
            Ok(checked) => drop(checked.summary()),
            Err(faults) => assert!(!faults.to_string().is_empty()),
        }
    }
    Target {
        name: "configuration",
        seeds: || {
            vec![
                std::fs::read(folder().join("../deploy/maskline.toml")).unwrap(),
                b"[sip]\nmax_calls = 1\n[[trunks]]\nname=\"a\"\nallow=[\"10.0.0.0/8\"]\n".to_vec(),
            ]
        },
        run,
    }
}

//! ffmpeg at the far end of a leg: what the media plane encrypts and codes is judged by code that is not ours.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests may panic like tests")]

use media::engine::{Engine, MediaHandle, MediaLimits, PacketIo};
use media::srtp::{MasterKey, SrtpKeys, Suite};
use media::{Codec, Direction, MediaCommand, MediaEvent, Side, SourcePolicy, Stream};
use sip_tests::audio::{Comparison, Voice, speech};
use sip_tests::g711;
use sip_tests::rtp::Packet;
use sip_tests::srtp::{key, keying};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// Nothing here takes so long, unless it never comes.
const PATIENCE: Duration = Duration::from_secs(30);
const FRAME: usize = 160;

/// A folder of its own, gone at the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("maskline-ffmpeg-{:016x}", rand::random::<u64>()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }
    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Ends with the test, whatever becomes of it.
struct Ffmpeg(Child);

impl Ffmpeg {
    fn start(arguments: &[&str]) -> Self {
        let fixed = ["-hide_banner", "-loglevel", "error", "-nostdin", "-y"];
        let mut command = Command::new("ffmpeg");
        Self(command.args(fixed).args(arguments).stdout(Stdio::null()).spawn().expect("ffmpeg is installed"))
    }
    fn has_ended(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }
}

impl Drop for Ffmpeg {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An even port and the one above it, which nobody has at this moment.
fn free_ports() -> u16 {
    for _ in 0..200 {
        let port = UdpSocket::bind((LOCAL, 0)).unwrap().local_addr().unwrap().port() & !1;
        if port > 0 && UdpSocket::bind((LOCAL, port)).is_ok() && UdpSocket::bind((LOCAL, port + 1)).is_ok() {
            return port;
        }
    }
    panic!("no free ports");
}

/// ffmpeg on the A-leg, a bare socket on the B-leg.
struct Scene {
    handle: MediaHandle,
    _engine: Engine,
    events: Receiver<MediaEvent>,
    ffmpeg_port: u16,
    socket: UdpSocket,
    keys: Option<SrtpKeys>,
}

/// How the A-leg speaks.
struct Leg {
    codec: Codec,
    payload_type: u8,
    suite: Option<Suite>,
}

const fn leg(codec: Codec, payload_type: u8, suite: Option<Suite>) -> Leg {
    Leg { codec, payload_type, suite }
}

impl Scene {
    fn new(a: &Leg) -> Self {
        let limits = MediaLimits {
            ports: 20_000..=23_998,
            silence: None,
            port_rest: Duration::from_secs(60),
            workers: 1,
            packets: PacketIo::Auto,
        };
        let engine = Engine::start(limits).unwrap();
        let (told, events) = channel();
        let handle = engine.open(LOCAL, LOCAL, Box::new(move |event| drop(told.send(event)))).unwrap();
        let (ffmpeg_port, socket) = (free_ports(), UdpSocket::bind((LOCAL, 0)).unwrap());
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let keys =
            a.suite.map(|suite| SrtpKeys { send: key(suite, 1).unwrap(), receive: key(suite, 2).unwrap() });
        let scene = Self { handle, _engine: engine, events, ffmpeg_port, socket, keys };
        let stream = |remote: SocketAddr, codec, payload_type, srtp| Stream {
            remote,
            remote_rtcp: SocketAddr::new(remote.ip(), remote.port() + 1),
            codec,
            send_payload_type: payload_type,
            receive: vec![(payload_type, codec)],
            telephone_event: None,
            ptime_ms: 20,
            max_packet_ms: None,
            rtcp_mux: false,
            direction: Direction::SendRecv,
            source: SourcePolicy::Exact,
            srtp,
        };
        let far = SocketAddr::new(LOCAL, scene.ffmpeg_port);
        let a = stream(far, a.codec, a.payload_type, scene.keys.clone().map(Arc::new));
        let b = stream(scene.socket.local_addr().unwrap(), Codec::Pcmu, 0, None);
        scene.handle.command(MediaCommand::Configure { side: Side::A, stream: a });
        scene.handle.command(MediaCommand::Configure { side: Side::B, stream: b });
        scene.handle.command(MediaCommand::Bridge);
        scene
    }

    /// What the A-leg hears from ffmpeg, as the B-leg gets it.
    fn heard_by_the_socket(&self, samples: usize) -> Vec<i16> {
        let (mut heard, mut buffer) = (vec![], [0; 2048]);
        while heard.len() < samples {
            let (length, _) = self.socket.recv_from(&mut buffer).expect("audio of ffmpeg should come");
            let packet = Packet::decode(&buffer[..length]).unwrap();
            assert_eq!((packet.payload_type, packet.payload.len()), (0, FRAME));
            heard.extend(g711::decode_all(Codec::Pcmu, &packet.payload));
        }
        heard
    }

    /// Speaks again and again on the B-leg until `ffmpeg` has enough.
    fn speak_until_it_ends(&self, samples: &[i16], mut ffmpeg: Ffmpeg) {
        let to = (LOCAL, self.handle.port(Side::B));
        let (mut sequence, mut timestamp) = (1u16, 1u32);
        for frame in samples.chunks_exact(FRAME).cycle().take(50 * 60) {
            if ffmpeg.has_ended() {
                return;
            }
            let packet = Packet {
                sequence,
                timestamp,
                ssrc: 7,
                payload: g711::encode_all(Codec::Pcmu, frame),
                ..Packet::default()
            };
            self.socket.send_to(&packet.encode(), to).unwrap();
            (sequence, timestamp) = (sequence.wrapping_add(1), timestamp.wrapping_add(FRAME as u32));
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("ffmpeg has not heard enough in a minute");
    }
}

/// ffmpeg shortens the tag of reports as well when the suite goes by its SDP name, which RFC 4568 §6.2 does not say.
fn name_for_ffmpeg(suite: Suite) -> &'static str {
    if suite == Suite::Aes128Sha32 { "SRTP_AES128_CM_HMAC_SHA1_32" } else { suite.name() }
}

fn base64(key: &MasterKey) -> String {
    data_encoding::BASE64.encode(&keying(key))
}

fn write_samples(path: &Path, samples: &[i16]) {
    let bytes: Vec<u8> = samples.iter().flat_map(|sample| sample.to_le_bytes()).collect();
    std::fs::write(path, bytes).unwrap();
}

fn read_samples(path: &Path) -> Vec<i16> {
    std::fs::read(path).unwrap().chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])).collect()
}

/// The same audio after G.722 is late by a fraction of a sample, and coarser.
fn is_alike(found: &Comparison, codec: Codec) -> bool {
    found.is_same() || (codec.is_wideband() && found.correlation > 0.95 && found.worst_segment > 0.85)
}

/// Both ways: what ffmpeg says is heard, and ffmpeg hears what is said.
fn ffmpeg_and_the_other_leg_hear_each_other(a: &Leg) {
    let (scene, folder) = (Scene::new(a), Folder::new());
    let said = speech(Voice::Low, 5, 3000);
    let raw = folder.file("said.raw");
    write_samples(&raw, &said);
    let (coder, rate) = match a.codec {
        Codec::Pcmu => ("pcm_mulaw", "8000"),
        Codec::Pcma => ("pcm_alaw", "8000"),
        Codec::G722 => ("g722", "16000"),
    };
    let to = format!(
        "{}://127.0.0.1:{}?localrtpport={}&localrtcpport={}&pkt_size={}",
        if a.suite.is_some() { "srtp" } else { "rtp" },
        scene.handle.port(Side::A),
        scene.ffmpeg_port,
        scene.ffmpeg_port + 1,
        // What ffmpeg takes for a packet: header, audio, and the 14 bytes that it keeps for tag and index.
        12 + FRAME + if a.suite.is_some() { 14 } else { 0 },
    );
    let number = a.payload_type.to_string();
    let out_key = scene.keys.as_ref().map(|keys| base64(&keys.receive)).unwrap_or_default();
    let mut arguments = vec!["-re", "-f", "s16le", "-ar", "8000", "-ac", "1", "-i", raw.to_str().unwrap()];
    arguments.extend(["-acodec", coder, "-ar", rate, "-f", "rtp", "-payload_type", &number]);
    if let Some(suite) = a.suite {
        arguments.extend(["-srtp_out_suite", name_for_ffmpeg(suite), "-srtp_out_params", &out_key]);
    }
    arguments.push(&to);
    let speaking = Ffmpeg::start(&arguments);
    let heard = scene.heard_by_the_socket(said.len() - 4 * FRAME);
    drop(speaking);
    let found = Comparison::of(&said, &heard, 1600);
    assert!(is_alike(&found, a.codec) && found.overlap > 20_000, "from ffmpeg: {found:?}");

    let (sdp, out) = (folder.file("leg.sdp"), folder.file("heard.raw"));
    let profile = if a.suite.is_some() { "RTP/SAVP" } else { "RTP/AVP" };
    let mut text = format!(
        "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio {} {profile} {number}\r\n",
        scene.ffmpeg_port,
    );
    if let (Some(suite), Some(keys)) = (a.suite, &scene.keys) {
        text += &format!("a=crypto:1 {} inline:{}\r\n", name_for_ffmpeg(suite), base64(&keys.send));
    }
    std::fs::write(&sdp, text).unwrap();
    let hearing = Ffmpeg::start(&[
        "-protocol_whitelist",
        "file,rtp,srtp,udp,crypto",
        "-i",
        sdp.to_str().unwrap(),
        "-t",
        "3",
        "-f",
        "s16le",
        "-ar",
        "8000",
        out.to_str().unwrap(),
    ]);
    scene.speak_until_it_ends(&said, hearing);
    let heard = read_samples(&out);
    assert!(heard.len() >= 16_000, "{} samples", heard.len());
    // It begins anywhere in the speech, which goes round.
    let round = [said.as_slice(), &said, &said].concat();
    let found = Comparison::of(
        &heard[1600..17_600.min(heard.len())],
        &round,
        u32::try_from(round.len() / 8).unwrap(),
    );
    assert!(is_alike(&found, a.codec), "by ffmpeg: {found:?}");
    scene.handle.command(MediaCommand::Close);
    let MediaEvent::Closed(figures) = scene.events.recv_timeout(PATIENCE).unwrap() else { panic!() };
    assert_eq!((figures.a.unauthentic, figures.b.unauthentic), (0, 0), "its reports are true as well");
}

#[test]
fn plain_g711() {
    ffmpeg_and_the_other_leg_hear_each_other(&leg(Codec::Pcma, 8, None));
}

#[test]
fn rfc3711_encrypted_with_the_long_tag() {
    ffmpeg_and_the_other_leg_hear_each_other(&leg(Codec::Pcmu, 0, Some(Suite::Aes128Sha80)));
}

#[test]
fn rfc3711_encrypted_with_the_short_tag() {
    ffmpeg_and_the_other_leg_hear_each_other(&leg(Codec::Pcma, 8, Some(Suite::Aes128Sha32)));
}

#[test]
fn g722_is_converted_to_and_from_g711() {
    ffmpeg_and_the_other_leg_hear_each_other(&leg(Codec::G722, 9, None));
}

#[test]
fn g722_under_encryption() {
    ffmpeg_and_the_other_leg_hear_each_other(&leg(Codec::G722, 9, Some(Suite::Aes128Sha80)));
}

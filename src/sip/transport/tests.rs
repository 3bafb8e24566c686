//! The transport over real loopback sockets. Nothing here sleeps: a test waits for the event that it expects,
//! and where nothing may happen, for a later event that would have come after it.

use std::sync::OnceLock;
use std::time::Duration;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::*;

/// Long enough for a busy machine; only a failing test waits so long.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Seen {
    Message { call_id: String, body: usize, flow: Flow },
    Malformed,
    Failed(String),
}

/// Admits 127.0.0.1 and ::1, and tells the test what it is told. A message with Call-ID `panic` panics. Refuses
/// malformed messages when it has something to answer with.
struct Recorder(mpsc::UnboundedSender<Seen>, OnceLock<Transports>);

impl Handler for Recorder {
    type Peer = ();

    fn admit(&self, source: IpAddr) -> Option<()> {
        (source == IpAddr::from([127, 0, 0, 1]) || source == IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]))
            .then_some(())
    }

    fn on_message(&self, message: Message, flow: Flow, (): ()) {
        let body = match &message {
            Message::Request(request) => request.body.len(),
            Message::Response(response) => response.body.len(),
        };
        let call_id = message.head().call_id.to_string();
        assert_ne!(call_id, "panic");
        self.0.send(Seen::Message { call_id, body, flow }).unwrap();
    }

    fn on_malformed(&self, _: ParseError, flow: Flow, (): ()) {
        if let Some(transports) = self.1.get() {
            transports.send(Bytes::from_static(b"refused"), &flow.back());
        }
        self.0.send(Seen::Malformed).unwrap();
    }

    fn on_send_failed(&self, token: SendToken, _: SendFault) {
        self.0.send(Seen::Failed(token.branch.to_string())).unwrap();
    }
}

/// A bound transport and what its handler sees.
pub(super) struct Setup {
    pub(super) transports: Transports,
    seen: mpsc::UnboundedReceiver<Seen>,
    metrics: PrometheusHandle,
    handler: Arc<Recorder>,
}

impl Setup {
    fn new(listen: &str, limits: TransportLimits) -> Self {
        let listen: Vec<_> = listen.split(' ').map(|address| address.parse().unwrap()).collect();
        Self::with(&listen, limits, TlsFiles::default())
    }

    pub(super) fn with(listen: &[ListenAddress], limits: TransportLimits, certificates: TlsFiles) -> Self {
        let recorder = PrometheusBuilder::new().build_recorder();
        let (sender, seen) = mpsc::unbounded_channel();
        let sockets = Sockets::bind(listen, &limits, certificates).unwrap();
        let handler = Arc::new(Recorder(sender, OnceLock::new()));
        let transports =
            metrics::with_local_recorder(&recorder, || sockets.start(limits, Arc::clone(&handler)));
        Self { transports, seen, metrics: recorder.handle(), handler }
    }

    fn udp() -> Self {
        Self::new("udp://127.0.0.1:0", TransportLimits::default())
    }

    fn tcp() -> Self {
        Self::new("tcp://127.0.0.1:0", TransportLimits::default())
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.transports.local_addresses()[0].1
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address()).await.unwrap()
    }

    pub(super) async fn next(&mut self) -> Seen {
        timeout(PATIENCE, self.seen.recv()).await.expect("nothing happened").unwrap()
    }

    /// The next event, which must be this message.
    pub(super) async fn message(&mut self, expected: &str) -> Flow {
        match self.next().await {
            Seen::Message { call_id, flow, .. } if call_id == expected => flow,
            other => panic!("expected message {expected}, saw {other:?}"),
        }
    }

    /// The value of a counter, summed over its labels.
    pub(super) fn count(&self, name: &str) -> f64 {
        let text = self.metrics.render();
        let lines = text.lines().filter(|line| !line.starts_with('#') && line.starts_with(name));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }
}

pub(super) fn options(call_id: &str, body: &str) -> Bytes {
    let length = body.len();
    Bytes::from(format!(
        "OPTIONS sip:a@192.0.2.1 SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.2;branch=z9hG4bKa\r\nMax-Forwards: 70\r\n\
         From: <sip:b@192.0.2.2>;tag=1\r\nTo: <sip:a@192.0.2.1>\r\nCall-ID: {call_id}\r\nCSeq: 1 OPTIONS\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    ))
}

pub(super) fn token(branch: &str) -> SendToken {
    let dialog = DialogKey { call_id: ByteStr::from("call"), local_tag: ByteStr::from("tag") };
    SendToken { dialog, branch: ByteStr::from(branch) }
}

fn to_tcp(address: SocketAddr, branch: &str) -> Destination {
    Destination::new(Protocol::Tcp, address).with_token(token(branch))
}

/// Reads until the peer closes or resets; that it does so is what the caller tests.
async fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = vec![];
    let _ = timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("the connection was not closed");
    bytes
}

async fn read_exactly(stream: &mut TcpStream, expected: &[u8]) {
    let mut bytes = vec![0; expected.len()];
    timeout(PATIENCE, stream.read_exact(&mut bytes)).await.expect("nothing was sent").unwrap();
    assert_eq!(bytes, expected);
}

#[tokio::test]
async fn a_datagram_comes_in_and_the_answer_goes_back() {
    let mut setup = Setup::udp();
    let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    peer.send_to(&options("one", "body"), setup.address()).await.unwrap();
    let flow = setup.message("one").await;
    let expected = Flow {
        protocol: Protocol::Udp,
        local: setup.address(),
        peer: peer.local_addr().unwrap(),
        connection: None,
    };
    assert_eq!(flow, expected);
    setup.transports.send(Bytes::from_static(b"answer"), &flow.back());
    let mut buffer = [0; 100];
    let (length, source) = timeout(PATIENCE, peer.recv_from(&mut buffer)).await.unwrap().unwrap();
    assert_eq!((&buffer[..length], source), (b"answer".as_slice(), setup.address()));
    assert_eq!(setup.count("maskline_sip_received_total{protocol=\"udp\"}"), 1.0);
    assert_eq!(setup.count("maskline_sip_sent_total{protocol=\"udp\"}"), 1.0);
}

#[tokio::test]
async fn a_stranger_is_met_with_silence_and_counted() {
    let mut setup = Setup::udp();
    let stranger = UdpSocket::bind("127.0.0.2:0").await.unwrap();
    let friend = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    stranger.send_to(&options("stranger", ""), setup.address()).await.unwrap();
    stranger.send_to(b"INVITE malformed on purpose", setup.address()).await.unwrap();
    friend.send_to(&options("friend", ""), setup.address()).await.unwrap();
    setup.message("friend").await;
    assert_eq!(setup.count("maskline_sip_refused_source_total"), 2.0);
    assert_eq!(setup.count("maskline_sip_malformed_total"), 0.0, "a stranger's bytes are not looked at");
    assert!(stranger.try_recv(&mut [0; 10]).is_err(), "silence");
}

#[tokio::test]
async fn noise_on_udp_is_ignored_and_a_bad_message_is_reported() {
    let mut setup = Setup::udp();
    let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for noise in [
        b"\r\n\r\n".as_slice(),
        b"",
        b"\0\0\0\0",
        &[0, 1, 0, 8, 0x21, 0x12, 0xa4, 0x42, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ] {
        peer.send_to(noise, setup.address()).await.unwrap();
    }
    peer.send_to(b"INVITE sip:nobody SIP/2.0\r\n\r\n", setup.address()).await.unwrap();
    assert_eq!(setup.next().await, Seen::Malformed);
    assert_eq!(setup.count("maskline_sip_ignored_total"), 4.0);
    assert_eq!(setup.count("maskline_sip_malformed_total"), 1.0);
    assert!(peer.try_recv(&mut [0; 10]).is_err(), "no answer to a keep-alive on UDP");
}

#[tokio::test]
async fn a_message_that_panics_does_not_deafen_the_listener() {
    let mut setup = Setup::udp();
    let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    peer.send_to(&options("panic", ""), setup.address()).await.unwrap();
    peer.send_to(&options("after", ""), setup.address()).await.unwrap();
    setup.message("after").await;
    assert_eq!(setup.count("maskline_sip_panics_total"), 1.0);
}

#[tokio::test]
async fn a_datagram_that_cannot_be_sent_fails_its_token() {
    let mut setup = Setup::udp();
    let too_long = Bytes::from(vec![b'a'; 65_508]);
    let to = Destination::new(Protocol::Udp, setup.address()).with_token(token("long"));
    setup.transports.send(too_long, &to);
    assert_eq!(setup.next().await, Seen::Failed("long".into()));
    let of_other_family = "[::1]:5060".parse().unwrap();
    setup.transports.send(
        options("x", ""),
        &Destination::new(Protocol::Udp, of_other_family).with_token(token("family")),
    );
    assert_eq!(setup.next().await, Seen::Failed("family".into()));
    assert_eq!(setup.count("maskline_sip_send_failed_total"), 2.0);
}

#[tokio::test]
async fn each_udp_listener_answers_from_its_own_port() {
    let mut setup =
        Setup::new("udp://127.0.0.1:0 udp://127.0.0.1:0 udp://127.0.0.2:0", TransportLimits::default());
    let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for (_, local) in setup.transports.local_addresses() {
        peer.send_to(&options("here", ""), local).await.unwrap();
        let flow = setup.message("here").await;
        assert_eq!(flow.local, local);
        setup.transports.send(Bytes::from_static(b"answer"), &flow.back());
        let (_, source) = timeout(PATIENCE, peer.recv_from(&mut [0; 10])).await.unwrap().unwrap();
        assert_eq!(source, local);
    }
}

#[tokio::test]
async fn a_listener_on_every_address_answers_from_the_one_that_was_called() {
    let mut setup = Setup::new("udp://0.0.0.0:0 udp://127.0.0.1:0", TransportLimits::default());
    let port = setup.address().port();
    let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for called in ["127.0.0.1", "127.0.0.2", "127.9.8.7"] {
        let called = SocketAddr::new(called.parse().unwrap(), port);
        peer.send_to(&options("here", ""), called).await.unwrap();
        let flow = setup.message("here").await;
        assert_eq!((flow.local, flow.peer), (called, peer.local_addr().unwrap()));
        setup.transports.send(Bytes::from_static(b"answer"), &flow.back());
        let (_, source) = timeout(PATIENCE, peer.recv_from(&mut [0; 10])).await.unwrap().unwrap();
        assert_eq!(source, called);
    }
    // What answers nothing leaves by the route.
    let to = Destination::new(Protocol::Udp, peer.local_addr().unwrap());
    setup.transports.send(Bytes::from_static(b"request"), &to);
    let (_, source) = timeout(PATIENCE, peer.recv_from(&mut [0; 10])).await.unwrap().unwrap();
    assert_eq!(source.ip().to_string(), "127.0.0.1");

    let mut setup = Setup::new("udp://[::]:0", TransportLimits::default());
    let called = SocketAddr::new("::1".parse().unwrap(), setup.address().port());
    let peer = UdpSocket::bind("[::1]:0").await.unwrap();
    peer.send_to(&options("six", ""), called).await.unwrap();
    let flow = setup.message("six").await;
    assert_eq!(flow.local, called);
    setup.transports.send(Bytes::from_static(b"answer"), &flow.back());
    let (_, source) = timeout(PATIENCE, peer.recv_from(&mut [0; 10])).await.unwrap().unwrap();
    assert_eq!(source, called);
}

#[tokio::test]
async fn ipv6_works_beside_ipv4_on_the_same_port() {
    let Ok(probe) = std::net::UdpSocket::bind("[::1]:0") else { return };
    let port = probe.local_addr().unwrap().port();
    drop(probe);
    let listen = format!("udp://[::]:{port} udp://0.0.0.0:{port} tcp://[::1]:0");
    let mut setup = Setup::new(&listen, TransportLimits::default());
    let peer = UdpSocket::bind("[::1]:0").await.unwrap();
    peer.send_to(&options("six", ""), ("::1", port)).await.unwrap();
    let flow = setup.message("six").await;
    setup.transports.send(Bytes::from_static(b"answer"), &Destination::new(Protocol::Udp, flow.peer));
    let (_, source) = timeout(PATIENCE, peer.recv_from(&mut [0; 10])).await.unwrap().unwrap();
    assert_eq!(source.port(), port);
    let mut stream = TcpStream::connect(setup.transports.local_addresses()[2].1).await.unwrap();
    stream.write_all(&options("stream", "")).await.unwrap();
    setup.message("stream").await;
}

#[tokio::test]
async fn messages_are_framed_however_the_segments_fall() {
    let mut setup = Setup::tcp();
    let mut stream = setup.connect().await;
    stream.set_nodelay(true).unwrap();
    let one = options("one", "0123456789");
    for byte in one.chunks(7) {
        stream.write_all(byte).await.unwrap();
        tokio::task::yield_now().await;
    }
    let flow = match setup.next().await {
        Seen::Message { call_id, body: 10, flow } if call_id == "one" => flow,
        other => panic!("{other:?}"),
    };
    assert_eq!((flow.protocol, flow.peer), (Protocol::Tcp, stream.local_addr().unwrap()));
    assert!(flow.connection.is_some());

    let two_and_a_half =
        [options("two", "x"), options("three", ""), options("four", "yz").slice(..40)].concat();
    stream.write_all(&two_and_a_half).await.unwrap();
    setup.message("two").await;
    setup.message("three").await;
    stream.write_all(&options("four", "yz")[40..]).await.unwrap();
    setup.message("four").await;
    setup.transports.send(Bytes::from_static(b"answer"), &flow.back());
    read_exactly(&mut stream, b"answer").await;
    assert_eq!(setup.count("maskline_sip_received_total{protocol=\"tcp\"}"), 4.0);
    assert_eq!(setup.count("maskline_sip_tcp_connections"), 1.0);
}

#[tokio::test]
async fn a_keep_alive_is_answered_also_in_two_halves() {
    let mut setup = Setup::tcp();
    let mut stream = setup.connect().await;
    stream.write_all(b"\r\n\r\n").await.unwrap();
    read_exactly(&mut stream, b"\r\n").await;
    stream.write_all(b"\r\n").await.unwrap();
    stream.write_all(b"\r\n").await.unwrap();
    read_exactly(&mut stream, b"\r\n").await;
    stream.write_all(&options("after", "")).await.unwrap();
    setup.message("after").await;
    assert_eq!(setup.count("maskline_sip_sent_total"), 0.0, "a keep-alive is no message");
}

#[tokio::test]
async fn a_strangers_connection_is_closed_at_once() {
    let setup = Setup::tcp();
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let mut stream = socket.connect(setup.address()).await.unwrap();
    assert_eq!(read_to_end(&mut stream).await, b"");
    assert_eq!(setup.count("maskline_sip_refused_source_total"), 1.0);
    assert_eq!(setup.count("maskline_sip_tcp_connections"), 0.0);
}

#[tokio::test]
async fn a_message_of_too_many_bytes_ends_the_connection() {
    let setup = Setup::tcp();
    let mut stream = setup.connect().await;
    let head = options("long", "").slice(..);
    let head =
        String::from_utf8(head.to_vec()).unwrap().replace("Content-Length: 0", "Content-Length: 99999999");
    stream.write_all(head.as_bytes()).await.unwrap();
    read_to_end(&mut stream).await;
    assert_eq!(setup.count("maskline_sip_malformed_total"), 1.0);

    let mut stream = setup.connect().await;
    // The connection may be reset while we still write.
    let _ = stream.write_all(format!("OPTIONS sip:a SIP/2.0\r\nX: {}", "a".repeat(200_000)).as_bytes()).await;
    read_to_end(&mut stream).await;
    assert_eq!(setup.count("maskline_sip_malformed_total"), 2.0);
}

#[tokio::test]
async fn a_bad_stream_is_refused_before_it_is_closed() {
    let mut setup = Setup::tcp();
    assert!(setup.handler.1.set(setup.transports.clone()).is_ok());
    let bad = String::from_utf8(options("bad", "").to_vec()).unwrap();
    for length in ["99999999", "-1"] {
        let mut stream = setup.connect().await;
        let bad = bad.replace("Content-Length: 0", &format!("Content-Length: {length}"));
        stream.write_all(bad.as_bytes()).await.unwrap();
        assert_eq!(setup.next().await, Seen::Malformed);
        assert_eq!(read_to_end(&mut stream).await, b"refused");
    }
}

#[tokio::test]
async fn the_configured_limit_holds_below_that_of_the_parser() {
    let mut setup =
        Setup::new("tcp://127.0.0.1:0", TransportLimits { message_bytes: 500, ..TransportLimits::default() });
    let mut stream = setup.connect().await;
    stream.write_all(&options("short", "")).await.unwrap();
    setup.message("short").await;
    stream.write_all(&options("long", &"a".repeat(1000))).await.unwrap();
    read_to_end(&mut stream).await;
    assert_eq!(setup.count("maskline_sip_malformed_total"), 1.0);
}

#[tokio::test]
async fn an_idle_connection_and_a_slow_message_end() {
    let short = Duration::from_millis(50);
    let idle = Setup::new("tcp://127.0.0.1:0", TransportLimits { idle: short, ..TransportLimits::default() });
    assert_eq!(read_to_end(&mut idle.connect().await).await, b"");

    let limits = TransportLimits { message_time: short, ..TransportLimits::default() };
    let slow = Setup::new("tcp://127.0.0.1:0", limits);
    let mut stream = slow.connect().await;
    stream.write_all(b"OPTIONS sip:").await.unwrap();
    assert_eq!(read_to_end(&mut stream).await, b"");
    assert_eq!(slow.count("maskline_sip_malformed_total"), 1.0);
}

#[tokio::test]
async fn connections_of_one_source_are_limited() {
    let limits = TransportLimits { connections_per_source: 2, ..TransportLimits::default() };
    let mut setup = Setup::new("tcp://127.0.0.1:0", limits);
    let (mut first, _second, mut third) =
        (setup.connect().await, setup.connect().await, setup.connect().await);
    assert_eq!(read_to_end(&mut third).await, b"");
    assert_eq!(setup.count("maskline_sip_tcp_refused_total"), 1.0);
    first.write_all(&options("served", "")).await.unwrap();
    setup.message("served").await;
}

#[tokio::test]
async fn a_half_closed_peer_still_gets_its_answer_but_no_request() {
    let mut setup = Setup::tcp();
    let mut stream = setup.connect().await;
    stream.write_all(&options("last", "")).await.unwrap();
    stream.shutdown().await.unwrap();
    let flow = setup.message("last").await;
    setup.transports.send(Bytes::from_static(b"answer"), &flow.back());
    read_exactly(&mut stream, b"answer").await;
    // The peer listens nowhere, so a request that does not take this connection fails. The first one may still
    // be quicker than the news that the peer has closed its side.
    while setup.seen.is_empty() {
        setup.transports.send(options("r", ""), &flow.back().with_token(token("request")));
        tokio::task::yield_now().await;
    }
    assert_eq!(setup.next().await, Seen::Failed("request".into()));
    assert_eq!(setup.count("maskline_sip_send_dropped_total"), 0.0, "it failed for want of a connection");
}

#[tokio::test]
async fn a_message_cut_by_the_end_of_the_stream_is_counted() {
    let limits = TransportLimits { half_closed: Duration::ZERO, ..TransportLimits::default() };
    let setup = Setup::new("tcp://127.0.0.1:0", limits);
    let mut stream = setup.connect().await;
    stream.write_all(b"OPTIONS sip:").await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(read_to_end(&mut stream).await, b"");
    assert_eq!(setup.count("maskline_sip_malformed_total"), 1.0);
}

#[tokio::test]
async fn a_reset_in_the_middle_of_a_message_harms_nobody_else() {
    let mut setup = Setup::tcp();
    let mut stream = setup.connect().await;
    stream.write_all(&options("first", "")).await.unwrap();
    let flow = setup.message("first").await;
    stream.write_all(b"OPTIONS sip:").await.unwrap();
    stream.set_zero_linger().unwrap();
    drop(stream);
    let mut other = setup.connect().await;
    other.write_all(&options("second", "")).await.unwrap();
    setup.message("second").await;
    while setup.count("maskline_sip_tcp_connections") > 1.0 {
        tokio::task::yield_now().await;
    }
    setup.transports.send(options("r", ""), &flow.back().with_token(token("gone")));
    assert_eq!(setup.next().await, Seen::Failed("gone".into()));
}

#[tokio::test]
async fn a_request_to_a_dead_port_fails_each_token() {
    let mut setup = Setup::tcp();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dead = listener.local_addr().unwrap();
    drop(listener);
    setup.transports.send(options("a", ""), &to_tcp(dead, "first"));
    setup.transports.send(options("b", ""), &to_tcp(dead, "second"));
    assert_eq!(setup.next().await, Seen::Failed("first".into()));
    assert_eq!(setup.next().await, Seen::Failed("second".into()));
    assert_eq!(setup.count("maskline_sip_send_failed_total"), 2.0);
    assert_eq!(setup.count("maskline_sip_tcp_connections"), 0.0);
}

#[tokio::test]
async fn a_peer_that_does_not_accept_fails_the_token_in_time() {
    let limits = TransportLimits { connect: Duration::from_millis(50), ..TransportLimits::default() };
    let mut setup = Setup::new("tcp://127.0.0.1:0", limits);
    // With its backlog full, Linux drops the handshake of further connections.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let _fill: Vec<_> = (0..2)
        .map(|_| {
            let filler = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            filler.set_nonblocking(true).unwrap();
            let _ = filler.connect(&address.into());
            filler
        })
        .collect();
    setup.transports.send(options("a", ""), &to_tcp(address, "late"));
    assert_eq!(setup.next().await, Seen::Failed("late".into()));
}

#[tokio::test]
async fn messages_to_one_address_share_a_connection_and_replies_come_in() {
    let mut setup = Setup::tcp();
    let peer = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = peer.local_addr().unwrap();
    setup.transports.send(Bytes::from_static(b"one"), &to_tcp(address, "1"));
    setup.transports.send(Bytes::from_static(b"two"), &to_tcp(address, "2"));
    let (mut stream, source) = timeout(PATIENCE, peer.accept()).await.unwrap().unwrap();
    read_exactly(&mut stream, b"onetwo").await;
    assert_eq!(source.ip(), setup.address().ip());
    stream.write_all(&options("reply", "")).await.unwrap();
    let flow = setup.message("reply").await;
    assert_eq!((flow.peer, flow.local), (address, setup.address()));
    setup.transports.send(Bytes::from_static(b"three"), &flow.back());
    read_exactly(&mut stream, b"three").await;
    assert_eq!(setup.count("maskline_sip_sent_total{protocol=\"tcp\"}"), 3.0);

    drop(stream);
    while setup.count("maskline_sip_tcp_connections") > 0.0 {
        // The peer is gone for good: what is written is answered by a reset.
        setup.transports.send(Bytes::from_static(b"x"), &flow.back());
        tokio::task::yield_now().await;
    }
    setup.transports.send(Bytes::from_static(b"again"), &to_tcp(address, "3"));
    let (mut stream, _) = timeout(PATIENCE, peer.accept()).await.unwrap().unwrap();
    read_exactly(&mut stream, b"again").await;
}

#[tokio::test]
async fn a_peer_that_reads_nothing_costs_a_bounded_queue() {
    let limits = TransportLimits { queue: 4, ..TransportLimits::default() };
    let mut setup = Setup::new("tcp://127.0.0.1:0", limits);
    let mut stream = setup.connect().await;
    stream.write_all(&options("silent", "")).await.unwrap();
    let to = setup.message("silent").await.back().with_token(token("dropped"));
    let wire = Bytes::from(vec![b'a'; 60_000]);
    while setup.seen.is_empty() {
        setup.transports.send(wire.clone(), &to);
        tokio::task::yield_now().await;
    }
    assert_eq!(setup.next().await, Seen::Failed("dropped".into()));
    assert!(setup.count("maskline_sip_send_dropped_total") >= 1.0);
}

#[tokio::test]
async fn a_peer_that_never_takes_a_message_loses_its_connection() {
    let limits = TransportLimits {
        message_time: Duration::from_millis(100),
        queue: 1000,
        ..TransportLimits::default()
    };
    let mut setup = Setup::new("tcp://127.0.0.1:0", limits);
    let mut stream = setup.connect().await;
    stream.write_all(&options("silent", "")).await.unwrap();
    let to = setup.message("silent").await.back().with_token(token("lost"));
    for _ in 0..500 {
        setup.transports.send(Bytes::from(vec![b'a'; 60_000]), &to);
    }
    assert_eq!(setup.next().await, Seen::Failed("lost".into()));
    while setup.count("maskline_sip_tcp_connections") > 0.0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn shutdown_sends_what_is_queued_and_frees_the_ports() {
    let mut setup = Setup::new("tcp://127.0.0.1:0 udp://127.0.0.1:0", TransportLimits::default());
    let mut stream = setup.connect().await;
    stream.write_all(&options("open", "")).await.unwrap();
    let flow = setup.message("open").await;
    let (clone, addresses) = (setup.transports.clone(), setup.transports.local_addresses());
    setup.transports.send(Bytes::from_static(b"farewell"), &flow.back());
    let transports = setup.transports.clone();
    timeout(PATIENCE, transports.shutdown()).await.unwrap();
    assert_eq!(read_to_end(&mut stream).await, b"farewell");
    for (protocol, address) in addresses {
        match protocol {
            Protocol::Udp => drop(std::net::UdpSocket::bind(address).unwrap()),
            _ => assert!(TcpStream::connect(address).await.is_err()),
        }
        clone.send(options("late", ""), &Destination::new(protocol, address).with_token(token("late")));
        assert_eq!(setup.next().await, Seen::Failed("late".into()));
    }
}

#[tokio::test]
async fn dropping_the_last_clone_stops_everything() {
    let setup = Setup::tcp();
    let mut stream = setup.connect().await;
    drop(setup.transports);
    assert_eq!(read_to_end(&mut stream).await, b"");
}

#[tokio::test]
async fn a_port_in_use_is_named_with_protocol_reason_and_key() {
    for protocol in [Protocol::Udp, Protocol::Tcp] {
        let (sender, _seen) = mpsc::unbounded_channel();
        let handler = Arc::new(Recorder(sender, OnceLock::new()));
        let any = ListenAddress { protocol, address: "127.0.0.1:0".parse().unwrap() };
        let first =
            Transports::bind(&[any], TransportLimits::default(), TlsFiles::default(), Arc::clone(&handler))
                .unwrap();
        let listen = ListenAddress { protocol, address: first.local_addresses()[0].1 };
        let error = Transports::bind(&[listen], TransportLimits::default(), TlsFiles::default(), handler)
            .err()
            .unwrap()
            .to_string();
        for part in ["sip.listen", &listen.to_string(), "Address already in use"] {
            assert!(error.contains(part), "{part} is not in: {error}");
        }
    }
}

#[tokio::test]
async fn tls_without_a_certificate_and_an_empty_list_are_refused_with_a_reason() {
    let (sender, _seen) = mpsc::unbounded_channel();
    let handler = Arc::new(Recorder(sender, OnceLock::new()));
    let tls = ["tls://127.0.0.1:0".parse().unwrap()];
    let error = Transports::bind(&tls, TransportLimits::default(), TlsFiles::default(), Arc::clone(&handler))
        .err()
        .unwrap();
    assert_eq!(error.to_string(), "sip.tls: a tls:// listener needs certificate and key");
    assert!(matches!(
        Transports::bind(&[], TransportLimits::default(), TlsFiles::default(), handler),
        Err(BindError::NoAddress)
    ));
}

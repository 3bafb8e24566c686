//! SIP over TLS with real handshakes on loopback, and certificates made for each test.

use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::tests::{PATIENCE, Seen, Setup, options, token};
use super::*;

/// A folder with an authority, and certificates that it signed.
struct Authority {
    folder: PathBuf,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Drop for Authority {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Authority {
    fn new() -> Self {
        let folder = std::env::temp_dir().join(format!("maskline-tls-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&folder).unwrap();
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        std::fs::write(folder.join("ca.pem"), issuer.pem()).unwrap();
        Self { folder, issuer }
    }

    fn ca(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// Signs a certificate for `names` and writes it and its key as `FILE.pem` and `FILE.key`.
    fn sign(&self, file: &str, names: &[&str]) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().unwrap();
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &self.issuer).unwrap();
        let paths = [format!("{file}.pem"), format!("{file}.key")].map(|name| self.folder.join(name));
        std::fs::write(&paths[0], certificate.pem()).unwrap();
        std::fs::write(&paths[1], key.serialize_pem()).unwrap();
        paths.into()
    }

    fn files(&self, name: &str) -> TlsFiles {
        TlsFiles { own: Some(self.sign(name, &[name])), ca: Some(self.ca()), client_ca: None }
    }

    /// A client that believes in this authority, with a certificate of its own or without.
    fn client(&self, own: Option<(PathBuf, PathBuf)>) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.ca()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider);
        let builder = builder.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
        let config = match own {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = vec![CertificateDer::from_pem_file(certificate).unwrap()];
                builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(key).unwrap()).unwrap()
            }
        };
        TlsConnector::from(Arc::new(config))
    }
}

fn listening(files: TlsFiles, limits: TransportLimits) -> Setup {
    Setup::with(&["tls://127.0.0.1:0".parse().unwrap()], limits, files)
}

async fn connect(setup: &Setup, client: &TlsConnector, name: &str) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(setup.address()).await.unwrap();
    client.connect(ServerName::try_from(name.to_owned()).unwrap(), stream).await
}

async fn answer(stream: &mut TlsStream<TcpStream>, expected: &[u8]) {
    let mut bytes = vec![0; expected.len()];
    timeout(PATIENCE, stream.read_exact(&mut bytes)).await.expect("nothing was sent").unwrap();
    assert_eq!(bytes, expected);
}

fn to(setup: &Setup, name: Option<&str>, branch: &str) -> Destination {
    let to = Destination::new(Protocol::Tls, setup.address()).with_token(token(branch));
    Destination { name: name.map(Arc::from), ..to }
}

#[tokio::test]
async fn messages_go_both_ways_and_long_ones_whole() {
    let authority = Authority::new();
    let mut setup = listening(authority.files("sip.example"), TransportLimits::default());
    let mut peer = connect(&setup, &authority.client(None), "sip.example").await.unwrap();
    peer.write_all(&options("one", "body")).await.unwrap();
    let flow = setup.message("one").await;
    assert_eq!((flow.protocol, flow.local), (Protocol::Tls, setup.address()));
    let long = Bytes::from(vec![b'x'; 60_000]);
    setup.transports.send(long.clone(), &flow.back());
    answer(&mut peer, &long).await;
    for call_id in ["two", "three"] {
        peer.write_all(&options(call_id, "")).await.unwrap();
    }
    assert_eq!(setup.message("two").await, setup.message("three").await);
    assert_eq!(setup.count("maskline_sip_received_total{protocol=\"tls\"}"), 3.0);
    assert_eq!(setup.count("maskline_sip_sent_total{protocol=\"tls\"}"), 1.0);
    drop(peer);
}

#[tokio::test]
async fn a_gateway_must_prove_its_name() {
    let authority = Authority::new();
    let mut carrier = listening(authority.files("sip.carrier.example"), TransportLimits::default());
    let mut ours = listening(authority.files("maskline.example"), TransportLimits::default());
    ours.transports.send(options("right", ""), &to(&carrier, Some("sip.carrier.example"), "right"));
    let flow = carrier.message("right").await;
    // Back over the same connection, which needs no certificate of the other direction.
    carrier.transports.send(options("back", ""), &flow.back());
    ours.message("back").await;
    for (name, branch) in
        [(Some("sip.other.example"), "other"), (None, "by address"), (Some("no name!"), "odd")]
    {
        ours.transports.send(options(branch, ""), &to(&carrier, name, branch));
        assert_eq!(ours.next().await, Seen::Failed(branch.into()), "not over the connection that is open");
    }
    assert_eq!(ours.count("maskline_sip_tls_failed_total"), 2.0);
    ours.transports.send(options("again", ""), &to(&carrier, Some("sip.carrier.example"), "again"));
    assert_eq!(carrier.message("again").await, flow, "the open connection is used");
}

#[tokio::test]
async fn an_authority_that_is_not_ours_is_not_believed() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let carrier = listening(theirs.files("sip.carrier.example"), TransportLimits::default());
    let mut setup = listening(ours.files("maskline.example"), TransportLimits::default());
    setup.transports.send(options("x", ""), &to(&carrier, Some("sip.carrier.example"), "x"));
    assert_eq!(setup.next().await, Seen::Failed("x".into()));
}

#[tokio::test]
async fn client_ca_asks_peers_for_a_certificate() {
    let authority = Authority::new();
    let files = TlsFiles { client_ca: Some(authority.ca()), ..authority.files("sip.example") };
    let mut setup = listening(files, TransportLimits::default());
    // In TLS 1.3 the client learns of its refusal when it reads.
    let mut naked = connect(&setup, &authority.client(None), "sip.example").await.unwrap();
    let refused = timeout(PATIENCE, naked.read(&mut [0; 10])).await.unwrap();
    assert!(refused.is_err(), "{refused:?}");
    let known = authority.client(Some(authority.sign("carrier", &["carrier.example"])));
    let mut peer = connect(&setup, &known, "sip.example").await.unwrap();
    peer.write_all(&options("known", "")).await.unwrap();
    setup.message("known").await;
    assert_eq!(setup.count("maskline_sip_tls_failed_total"), 1.0);
}

#[tokio::test]
async fn new_certificates_are_taken_without_dropping_a_connection() {
    let authority = Authority::new();
    let files = authority.files("old.example");
    let mut setup = listening(files, TransportLimits::default());
    let client = authority.client(None);
    let mut early = connect(&setup, &client, "old.example").await.unwrap();
    early.write_all(&options("early", "")).await.unwrap();
    setup.message("early").await;

    // A certificate that does not fit its key changes nothing.
    let (certificate, key) = authority.sign("new", &["new.example"]);
    std::fs::copy(certificate, authority.folder.join("old.example.pem")).unwrap();
    setup.transports.shared.certificates.reload();
    connect(&setup, &client, "old.example").await.unwrap();

    std::fs::copy(key, authority.folder.join("old.example.key")).unwrap();
    setup.transports.shared.certificates.reload();
    assert!(connect(&setup, &client, "old.example").await.is_err());
    connect(&setup, &client, "new.example").await.unwrap();
    early.write_all(&options("still", "")).await.unwrap();
    let flow = setup.message("still").await;
    setup.transports.send(Bytes::from_static(b"answer"), &flow.back());
    answer(&mut early, b"answer").await;
}

#[tokio::test]
async fn a_peer_that_draws_out_the_handshake_or_speaks_something_else_is_cut_off() {
    let authority = Authority::new();
    // The good handshake below has no longer, on whatever machine.
    let limits = TransportLimits { connect: Duration::from_secs(2), ..TransportLimits::default() };
    let mut setup = listening(authority.files("sip.example"), limits);
    let mut silent = TcpStream::connect(setup.address()).await.unwrap();
    let mut plain = TcpStream::connect(setup.address()).await.unwrap();
    plain.write_all(&options("plain", "")).await.unwrap();
    for stream in [&mut silent, &mut plain] {
        let mut rest = vec![];
        let _ = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("it was not cut off");
    }
    let mut peer = connect(&setup, &authority.client(None), "sip.example").await.unwrap();
    peer.write_all(&options("good", "")).await.unwrap();
    setup.message("good").await;
    assert_eq!(setup.count("maskline_sip_tls_failed_total"), 2.0);
}

#[test]
fn files_that_are_no_certificates_are_named_with_their_key() {
    let authority = Authority::new();
    let (certificate, key) = authority.sign("a", &["a.example"]);
    let (_, other_key) = authority.sign("b", &["b.example"]);
    let missing = authority.folder.join("missing.pem");
    let table = [
        (Some((missing.clone(), key.clone())), None, "sip.tls.certificate = "),
        (Some((key.clone(), key.clone())), None, "there is no certificate in it"),
        (Some((certificate.clone(), certificate.clone())), None, "sip.tls.key = "),
        (Some((certificate.clone(), other_key)), None, "sip.tls: "),
        (Some((certificate, key)), Some(missing), "sip.tls.client_ca = "),
    ];
    for (own, client_ca, expected) in table {
        let files = TlsFiles { own, ca: Some(authority.ca()), client_ca };
        let error = Tls::load(files).err().unwrap().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

/// What was logged, for one thread.
#[derive(Clone, Default)]
struct Log(Arc<std::sync::Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whoever is called for each call must not fill the log, and need not be a gateway.
#[tokio::test]
async fn handshakes_that_fail_are_counted_and_logged_once_in_a_while() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let authority = Authority::new();
    let carrier = listening(authority.files("sip.carrier.example"), TransportLimits::default());
    let mut ours = listening(authority.files("maskline.example"), TransportLimits::default());
    for branch in ["one", "two", "three"] {
        ours.transports.send(options(branch, ""), &to(&carrier, Some("sip.other.example"), branch));
        assert_eq!(ours.next().await, Seen::Failed(branch.into()));
    }
    assert_eq!(ours.count("maskline_sip_tls_failed_total"), 3.0);
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let warnings: Vec<_> = log.lines().filter(|line| line.contains("WARN")).collect();
    let [warning] = warnings.as_slice() else { panic!("{log}") };
    assert!(warning.contains("not valid for name") && !warning.contains("gateway"), "{warning}");
}

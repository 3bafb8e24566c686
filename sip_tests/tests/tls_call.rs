//! Calls over TLS: names and authorities on both sides, certificates that change, `sips:` (RFC 3261 §26.2, RFC 5922).

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests may panic like tests")]

mod common;

use common::tls::{Authority, Pair, Secret};
use common::{FIRST, PATIENCE, SECOND, Server, Setup, until};
use serde_json::json;
use sip_tests::agent::{End, Transport};
use sip_tests::phone::{CallOptions, Phone, PhoneConfig};
use sip_tests::sdp::SdpOptions;
use std::io;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use tokio::time::timeout;

/// What certificates of the service are for.
const OURS: &str = "masking.example";

async fn phone(name: &str, secret: Arc<Secret>) -> Phone {
    let config = PhoneConfig { transport: Transport::Tls, secure: Some(secret), ..PhoneConfig::named(name) };
    Phone::bind(config).await.unwrap()
}

/// A service with TLS between two phones with TLS; its gateways are the callee under these names.
struct Scene {
    authority: Authority,
    ours: Pair,
    caller: Phone,
    callee: Phone,
    server: Server,
    number: String,
}

impl Scene {
    /// `gateway` is how the service knows the callee, who shows what `shows` makes.
    async fn new(gateway: &str, more: &str, shows: impl FnOnce(&Authority) -> Pair) -> Self {
        let authority = Authority::new();
        let caller = authority.sign("caller.example");
        let caller = phone("caller", Secret::new(&authority, &caller, OURS, false)).await;
        let shown = shows(&authority);
        // Carriers ask for a certificate too.
        let callee = phone("callee", Secret::new(&authority, &shown, OURS, true)).await;
        let ours = authority.sign(OURS);
        let gateways = vec![gateway.replace("PORT", &callee.address().port().to_string())];
        let tls = Some(authority.lines(&ours) + &more.replace("CA", &authority.ca().display().to_string()));
        let server = Server::with(callee.address(), Setup { gateways, tls, ..Setup::default() }).await;
        let session = server.session(json!({ "record": false })).await;
        let number = Server::number(&session);
        Self { authority, ours, caller, callee, server, number }
    }

    async fn no_faults(&self) {
        assert_eq!((self.caller.faults().await, self.callee.faults().await), (vec![], vec![]));
    }

    async fn call(&self, options: CallOptions) -> sip_tests::phone::OutgoingCall {
        self.caller.call(self.server.sip_tls.unwrap(), &self.number, options).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_go_over_tls_on_both_legs() {
    for gateway in
        ["sip:localhost:PORT;transport=tls", "sips:localhost:PORT", "sip:127.0.0.1:PORT;transport=tls"]
    {
        let name = if gateway.contains("localhost") { "localhost" } else { "127.0.0.1" };
        let scene = Scene::new(gateway, "client_ca = \"CA\"\n", |authority| authority.sign(name)).await;
        for caller_hangs_up in [true, false] {
            let call = scene.call(CallOptions::from(FIRST)).await;
            let incoming = scene.callee.next_call(PATIENCE).await.unwrap();
            let invite = incoming.request().clone();
            assert!(invite.header("Via").unwrap().starts_with("SIP/2.0/TLS "), "{invite:?}");
            incoming.ring().await.unwrap();
            call.ringing(PATIENCE).await.unwrap();
            incoming.answer(SdpOptions::default()).await.unwrap();
            call.answered(PATIENCE).await.unwrap();
            incoming.wait_ack(PATIENCE).await.unwrap();
            for side in [&*call, &*incoming] {
                assert_eq!(side.reinvite(Some("sendrecv"), PATIENCE).await.unwrap().status(), Some(200));
            }
            for media in [call.media(), incoming.media()] {
                media.wait_packets(5, PATIENCE).await.unwrap();
            }
            let (from, to): (&sip_tests::phone::Call, &sip_tests::phone::Call) =
                if caller_hangs_up { (&call, &incoming) } else { (&incoming, &call) };
            from.hang_up().await.unwrap();
            to.wait_bye(PATIENCE).await.unwrap();
            assert_eq!((from.end(), to.wait_end(PATIENCE).await), (Some(End::ByeSent), Ok(End::ByeReceived)));
        }
        let call = scene.call(CallOptions::from(FIRST)).await;
        let incoming = scene.callee.next_call(PATIENCE).await.unwrap();
        incoming.ring().await.unwrap();
        call.ringing(PATIENCE).await.unwrap();
        call.cancel().await.unwrap();
        incoming.wait_cancel(PATIENCE).await.unwrap();
        assert_eq!(call.final_status(PATIENCE).await.unwrap().status(), Some(487));
        scene.server.settled().await;
        scene.no_faults().await;
    }
}

/// All that the services of this process have logged so far.
fn log() -> String {
    static LOG: OnceLock<Lines> = OnceLock::new();
    let lines = LOG.get_or_init(|| {
        let lines = Lines::default();
        let writer = lines.clone();
        tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).init();
        lines
    });
    String::from_utf8_lossy(&lines.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_does_not_prove_its_name_gets_no_invite() {
    type Shows = fn(&Authority) -> Pair;
    let table: [(&str, Shows, &str); 4] = [
        ("another name", |authority| authority.sign("sip.other.example"), "not valid for name"),
        ("an expired certificate", |authority| authority.sign_expired("localhost"), "expired"),
        ("an address instead of the name", |authority| authority.sign("127.0.0.1"), "not valid for name"),
        ("an authority that nobody knows", |_| stranger().sign("localhost"), "UnknownIssuer"),
    ];
    log();
    for (what, shows, reason) in table {
        let scene = Scene::new("sips:localhost:PORT", "", shows).await;
        let call = scene.call(CallOptions::from(FIRST)).await;
        assert_eq!(call.final_status(PATIENCE).await.unwrap().status(), Some(500), "{what}");
        scene.server.settled().await;
        assert_eq!(scene.callee.received().len(), 0, "{what}");
        let port = format!(":{}", scene.callee.address().port());
        let line =
            log().lines().find(|line| line.contains(&port) && line.contains("WARN")).map(str::to_owned);
        let line = line.unwrap_or_else(|| panic!("{what}: the log says nothing"));
        assert!(line.contains(reason), "{what}: {line}");
        for party in [FIRST, SECOND] {
            assert!(!log().contains(party.trim_start_matches('+')), "a party's number is in the log");
        }
        assert!(scene.caller.faults().await.is_empty());
    }
}

/// Its files are needed no longer than this test process lives.
fn stranger() -> &'static Authority {
    static STRANGER: OnceLock<Authority> = OnceLock::new();
    STRANGER.get_or_init(Authority::new)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_gateway_is_tried_when_one_does_not_prove_its_name() {
    let authority = Authority::new();
    let secret = |name: &str| Secret::new(&authority, &authority.sign(name), OURS, false);
    let (caller, liar) =
        (phone("caller", secret("caller.example")).await, phone("liar", secret("x.example")).await);
    let callee = phone("callee", secret("localhost")).await;
    let gateways =
        [&liar, &callee].map(|phone| format!("sips:localhost:{}", phone.address().port())).to_vec();
    let tls = Some(authority.lines(&authority.sign(OURS)));
    let server = Server::with(callee.address(), Setup { gateways, tls, ..Setup::default() }).await;
    let session = server.session(json!({ "record": false })).await;
    let to = server.sip_tls.unwrap();
    let call = caller.call(to, &Server::number(&session), CallOptions::from(FIRST)).await.unwrap();
    let incoming = callee.next_call(PATIENCE).await.unwrap();
    incoming.answer(SdpOptions::default()).await.unwrap();
    call.answered(PATIENCE).await.unwrap();
    call.hang_up().await.unwrap();
    incoming.wait_bye(PATIENCE).await.unwrap();
    assert_eq!(liar.received().len(), 0);
    assert_eq!((caller.faults().await, callee.faults().await), (vec![], vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_without_a_certificate_of_client_ca_is_not_heard() {
    let scene =
        Scene::new("sips:localhost:PORT", "client_ca = \"CA\"\n", |authority| authority.sign("localhost"))
            .await;
    // Whoever shows what another authority signed may believe us, and is not believed.
    let secret = Secret::new(&scene.authority, &stranger().sign("caller.example"), OURS, false);
    let unknown = phone("unknown", secret).await;
    let to = scene.server.sip_tls.unwrap();
    let failed = || async { scene.server.metric("maskline_sip_tls_failed_total").await };
    let before = failed().await;
    let call = unknown.call(to, &scene.number, CallOptions::from(FIRST)).await.unwrap();
    common::until_asked("the handshake has failed", async || (failed().await > before).then_some(())).await;
    assert_eq!((call.received().len(), scene.callee.received().len()), (0, 0));
    let known = scene.call(CallOptions::from(FIRST)).await;
    let incoming = scene.callee.next_call(PATIENCE).await.unwrap();
    incoming.answer(SdpOptions::default()).await.unwrap();
    known.answered(PATIENCE).await.unwrap();
    known.hang_up().await.unwrap();
    incoming.wait_bye(PATIENCE).await.unwrap();
    scene.no_faults().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_change_in_mid_call_and_nothing_is_dropped() {
    let scene = Scene::new("sips:localhost:PORT", "", |authority| authority.sign("localhost")).await;
    let call = scene.call(CallOptions::from(FIRST)).await;
    let incoming = scene.callee.next_call(PATIENCE).await.unwrap();
    incoming.answer(SdpOptions::default()).await.unwrap();
    call.answered(PATIENCE).await.unwrap();
    incoming.wait_ack(PATIENCE).await.unwrap();

    // The same files now hold a certificate for one more name; the service looks at them every few seconds.
    let file = scene.ours.0.file_stem().unwrap().to_str().unwrap().to_owned();
    scene.authority.sign_as(&file, &[OURS, "renewed.example"], false);
    let authority = &scene.authority;
    let renewed = Secret::new(authority, &authority.sign("b.example"), "renewed.example", false);
    let to = scene.server.sip_tls.unwrap();
    common::until_asked("the new certificate is shown", async || renewed.believes(to).await.then_some(()))
        .await;

    // Both legs go on over the connections that they began with.
    for side in [&*call, &*incoming] {
        assert_eq!(side.reinvite(Some("sendrecv"), PATIENCE).await.unwrap().status(), Some(200));
    }
    for media in [call.media(), incoming.media()] {
        let heard = media.received_count();
        media.wait_packets(heard + 5, PATIENCE).await.unwrap();
    }
    incoming.hang_up().await.unwrap();
    call.wait_bye(PATIENCE).await.unwrap();
    scene.server.settled().await;
    scene.no_faults().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sips_is_answered_with_a_contact_that_is_sips() {
    let scene = Scene::new("sips:localhost:PORT", "", |authority| authority.sign("localhost")).await;
    let to = scene.server.sip_tls.unwrap();
    let number = &scene.number;
    let options = CallOptions {
        request_uri: Some(format!("sips:{number}@{to}")),
        to: Some(format!("<sips:{number}@{to}>")),
        contact: Some(format!("<sips:phone@{}>", scene.caller.address())),
        ..CallOptions::from(FIRST)
    };
    let call = scene.call(options).await;
    let incoming = scene.callee.next_call(PATIENCE).await.unwrap();
    incoming.answer(SdpOptions::default()).await.unwrap();
    let ok = call.answered(PATIENCE).await.unwrap();
    // RFC 3261 §12.1.1.
    let contact = ok.header("Contact").unwrap();
    assert!(contact.starts_with("<sips:"), "{contact}");
    incoming.wait_ack(PATIENCE).await.unwrap();
    // The other way: a target that is sips is reached over TLS (RFC 3261 §26.2.2).
    incoming.hang_up().await.unwrap();
    let bye = call.wait_bye(PATIENCE).await.unwrap();
    assert!(bye.header("Via").unwrap().starts_with("SIP/2.0/TLS "), "{bye:?}");
    scene.no_faults().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_speaks_no_tls_gets_no_invite() {
    let authority = Authority::new();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let secret = Secret::new(&authority, &authority.sign("caller.example"), OURS, false);
    let caller = phone("caller", secret).await;
    let setup = Setup {
        gateways: vec![format!("sips:localhost:{}", address.port())],
        tls: Some(authority.lines(&authority.sign(OURS))),
        ..Setup::default()
    };
    let server = Server::with(address, setup).await;
    let session = server.session(json!({ "record": false })).await;
    let to = server.sip_tls.unwrap();
    let call = caller.call(to, &Server::number(&session), CallOptions::from(FIRST)).await.unwrap();
    let answers = async {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"SIP/2.0 400 Plain\r\n\r\n").await.unwrap();
        let mut seen = vec![];
        let _ = stream.read_to_end(&mut seen).await;
        seen
    };
    let seen = timeout(PATIENCE, answers).await.unwrap();
    assert!(!seen.windows(6).any(|bytes| bytes == b"INVITE"));
    assert_eq!(call.final_status(PATIENCE).await.unwrap().status(), Some(500));
    until("the call is stored", || (server.service.shell().live_calls() == 0).then_some(())).await;
}

/// A caller's connection is gone, or was none of TLS: the one that is opened to the address of his Contact must prove the
/// name of the gateway there (RFC 5922 §4).
#[tokio::test(flavor = "multi_thread")]
async fn a_caller_at_the_address_of_a_gateway_proves_its_name() {
    let authority = Authority::new();
    let far = phone("far", Secret::new(&authority, &authority.sign("localhost"), OURS, true)).await;
    let (caller, callee) = (common::phone("caller").await, common::phone("callee").await);
    let gateways = vec![format!("sip:localhost:{};transport=udp", callee.address().port())];
    let tls = Some(authority.lines(&authority.sign(OURS)));
    let server = Server::with(callee.address(), Setup { gateways, tls, ..Setup::default() }).await;
    let session = server.session(json!({ "record": false })).await;
    let contact = Some(format!("<sip:far@{};transport=tls>", far.address()));
    let options = CallOptions { contact, ..CallOptions::from(FIRST) };
    let call = caller.call(server.sip, &Server::number(&session), options).await.unwrap();
    let incoming = callee.next_call(PATIENCE).await.unwrap();
    incoming.answer(SdpOptions::default()).await.unwrap();
    call.answered(PATIENCE).await.unwrap();
    incoming.wait_ack(PATIENCE).await.unwrap();
    incoming.bye().await.unwrap();
    let bye = far.wait_received("BYE", PATIENCE, |message| message.is("BYE")).await.unwrap();
    assert!(bye.header("Via").unwrap().starts_with("SIP/2.0/TLS "), "{bye:?}");
}

/// What `maskline trunk-check` finds with this gateway: how many faults, and the report.
async fn checked(gateway: &str, tls: &str) -> (usize, String) {
    let text = format!(
        "[sip]\nlisten = [\"udp://127.0.0.1:0\", \"tls://127.0.0.1:0\"]\n[sip.tls]\n{tls}\n[[trunks]]\n\
         name = \"carrier\"\nallow = [\"127.0.0.1\"]\ngateways = [\"{gateway}\"]\n\
         [[numbers]]\nnumber = \"+12025550100\"\n"
    );
    let config = maskline::config::Config::read(&text, std::iter::empty()).unwrap();
    let trunk = config.trunks.get("carrier").unwrap();
    let dns = Arc::new(maskline::trunk::dns::SystemDns::new());
    let mut out = vec![];
    let faults = maskline::trunk_check::check(&config, trunk, None, dns, &mut out).await;
    (faults, String::from_utf8(out).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_check_of_a_trunk_says_what_is_wrong_with_a_certificate() {
    type Shows = fn(&Authority) -> Pair;
    let table: [(Shows, &[&str]); 5] = [
        (
            |authority| authority.sign("localhost"),
            &[
                "names and signatures are right",
                "the certificate is for localhost",
                "OPTIONS was answered 200",
            ],
        ),
        (
            |authority| authority.sign("sip.other.example"),
            &["the certificate is not for localhost", "the certificate is for sip.other.example"],
        ),
        (|authority| authority.sign("127.0.0.1"), &["the certificate is not for localhost"]),
        (|authority| authority.sign_expired("localhost"), &["must renew", "until 2020-01-01, which is over"]),
        (|_| stranger().sign("localhost"), &["nobody whom this machine trusts has signed it", "sip.tls.ca"]),
    ];
    for (index, (shows, said)) in table.into_iter().enumerate() {
        let authority = Authority::new();
        let gateway = phone("gateway", Secret::new(&authority, &shows(&authority), OURS, false)).await;
        let uri = format!("sips:localhost:{}", gateway.address().port());
        let (faults, report) = checked(&uri, &authority.lines(&authority.sign(OURS))).await;
        for line in said {
            assert!(report.contains(line), "{line} is missing in\n{report}");
        }
        assert_eq!((faults == 0, gateway.received().is_empty()), (index == 0, index > 0), "{report}");
        assert!(gateway.faults().await.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_check_of_a_trunk_shows_our_certificate_and_says_when_none_is_taken() {
    let authority = Authority::new();
    let secret = Secret::new(&authority, &authority.sign("localhost"), OURS, true);
    let gateway = phone("gateway", secret).await;
    let uri = format!("sip:localhost:{};transport=tls", gateway.address().port());
    let (faults, report) = checked(&uri, &authority.lines(&authority.sign(OURS))).await;
    assert_eq!(faults, 0, "{report}");
    assert_eq!(gateway.received().iter().filter(|message| message.is("OPTIONS")).count(), 1);
    // Signed by somebody whom the carrier does not know.
    let foreign = stranger().sign(OURS);
    let (certificate, key) = (foreign.0.display(), foreign.1.display());
    let ca = authority.ca();
    let tls = format!("certificate = \"{certificate}\"\nkey = \"{key}\"\nca = \"{}\"", ca.display());
    let (faults, report) = checked(&uri, &tls).await;
    assert!(faults > 0 && report.contains("sip.tls.certificate"), "{report}");
    assert_eq!(gateway.received().iter().filter(|message| message.is("OPTIONS")).count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_check_of_a_trunk_says_where_nobody_speaks_tls() {
    let authority = Authority::new();
    let tls = authority.lines(&authority.sign(OURS));
    // Somebody else's port: it answers, in clear.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("sips:127.0.0.1:{}", listener.local_addr().unwrap().port());
    let clear = async {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ =
                tokio::io::AsyncWriteExt::write_all(&mut stream, b"SIP/2.0 400 Bad Request\r\n\r\n").await;
        }
    };
    let (faults, report) = tokio::select! {
        checked = checked(&uri, &tls) => checked,
        () = clear => unreachable!(),
    };
    assert!(faults == 1 && report.contains("whether TLS is served there"), "{report}");
    // Nobody's port.
    drop(listener);
    let (faults, report) = checked(&uri, &tls).await;
    assert!(faults == 1 && report.contains("no TCP connection to"), "{report}");
}

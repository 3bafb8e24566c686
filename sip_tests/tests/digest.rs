//! Who proves what to whom: gateways that ask us, callers that we ask, and registrars.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests may panic like tests")]

mod common;

use common::{FIRST, PATIENCE, SECOND, Scene, Server, Setup, digest, phone, until, until_asked};
use serde_json::json;
use sip_tests::agent::Reply;
use sip_tests::message::Message;
use sip_tests::phone::{CallOptions, IncomingCall, OutgoingCall, Phone, PhoneConfig};
use sip_tests::sdp::SdpOptions;

const TRUNK: &str = "username = \"account-7\"\npassword = \"correct horse\"";
const PASSWORD: &str = "correct horse";

fn asks(proxy: bool, realm: &str, nonce: &str, more: &str) -> Vec<(String, String)> {
    let name = if proxy { "Proxy-Authenticate" } else { "WWW-Authenticate" };
    let value = format!("Digest realm=\"{realm}\", nonce=\"{nonce}\", opaque=\"o\", qop=\"auth\"{more}");
    vec![(name.to_owned(), value)]
}

async fn scene(trunk: &'static str) -> Scene {
    let setup = Setup { trunk, ..Setup::default() };
    Scene::with(PhoneConfig::named("caller"), PhoneConfig::named("callee"), setup).await
}

/// The gateway refuses the INVITE that has come and gets it again.
async fn ask(scene: &Scene, first: &IncomingCall, status: u16, headers: &[(String, String)]) -> IncomingCall {
    first.reject(status, None, headers, None).await.unwrap();
    first.wait_ack(PATIENCE).await.unwrap();
    scene.callee.next_call(PATIENCE).await.unwrap()
}

/// Nothing that belongs between the trunk and us has come to the caller.
fn nothing_leaked(caller: &Phone) {
    for message in caller.received() {
        let text = message.text();
        for secret in ["account-7", "carrier.example", "nonce", "uthori", "uthenticate"] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_asks_gets_the_trunks_credentials_in_the_call_and_at_its_end() {
    for (status, proxy, algorithm) in [(401, false, ""), (407, true, ", algorithm=SHA-256")] {
        let scene = scene(TRUNK).await;
        let (call, first) = scene.dial().await;
        let header = if proxy { "Proxy-Authorization" } else { "Authorization" };
        assert_eq!(first.request().header(header), None, "nobody has asked yet");
        let second = ask(&scene, &first, status, &asks(proxy, "carrier.example", "n1", algorithm)).await;
        let (one, two) = (first.request(), second.request());
        assert_eq!((one.call_id(), one.from_tag(), one.uri()), (two.call_id(), two.from_tag(), two.uri()));
        assert_eq!(one.cseq().0 + 1, two.cseq().0);
        assert_ne!(one.branch(), two.branch());
        let credentials = digest::proven(two, header, PASSWORD);
        assert_eq!(digest::parameter(&credentials, "nc"), Some("00000001"));
        assert_eq!(digest::parameter(&credentials, "opaque"), Some("o"));

        second.ring().await.unwrap();
        second.answer(SdpOptions::default()).await.unwrap();
        call.answered(PATIENCE).await.unwrap();
        let ack = second.wait_ack(PATIENCE).await.unwrap();
        assert!(ack.header(header).is_some(), "RFC 3261 §22.1");
        scene.both_hear(&call, &second).await;
        call.hang_up().await.unwrap();
        let bye = second.wait_bye(PATIENCE).await.unwrap();
        let credentials = digest::proven(&bye, header, PASSWORD);
        assert_eq!(digest::parameter(&credentials, "nc"), Some("00000002"), "it need not ask again");
        scene.no_faults().await;
        nothing_leaked(&scene.caller);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bye_that_is_asked_for_is_sent_again() {
    let scene = scene(TRUNK).await;
    let (call, incoming) = scene.talk().await;
    let headers = asks(true, "carrier.example", "n1", "");
    let asked = Reply { headers, ..Reply::status(407) };
    scene.callee.script("BYE", vec![asked]).await.unwrap();
    call.hang_up().await.unwrap();
    let bye = incoming.wait_bye(PATIENCE).await.unwrap();
    digest::proven(&bye, "Proxy-Authorization", PASSWORD);
    nothing_leaked(&scene.caller);
}

async fn fails_with_500(scene: &Scene, call: &OutgoingCall) {
    assert_eq!(call.final_status(PATIENCE).await.unwrap().status(), Some(500));
    scene.server.settled().await;
    assert!(!call.statuses().iter().any(|status| matches!(status, 401 | 407)));
    scene.no_faults().await;
    nothing_leaked(&scene.caller);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_wants_more_than_we_have_fails_the_call() {
    // A trunk without credentials.
    let scene = scene("").await;
    let (call, first) = scene.dial().await;
    first.reject(401, None, &asks(false, "carrier.example", "n1", ""), None).await.unwrap();
    fails_with_500(&scene, &call).await;
    // A gateway that does not take them.
    let scene = self::scene(TRUNK).await;
    let (call, first) = scene.dial().await;
    let second = ask(&scene, &first, 401, &asks(false, "carrier.example", "n1", "")).await;
    second.reject(401, None, &asks(false, "carrier.example", "n2", ""), None).await.unwrap();
    fails_with_500(&scene, &call).await;
    let (_, metrics) = scene.server.http("GET", "/metrics", None).await;
    assert!(metrics.contains("maskline_trunk_unauthorized_total{trunk=\"carrier\"}"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callee_that_asks_gets_nothing() {
    // Behind a gateway that has a realm of its own.
    let known = "username = \"account-7\"\npassword = \"correct horse\"\nrealm = \"carrier.example\"";
    let scene = scene(known).await;
    let (call, first) = scene.dial().await;
    first.reject(401, None, &asks(false, "callee.example", "n1", ""), None).await.unwrap();
    fails_with_500(&scene, &call).await;
    // After it rang.
    let scene = self::scene(TRUNK).await;
    let (call, first) = scene.dial().await;
    first.ring().await.unwrap();
    call.ringing(PATIENCE).await.unwrap();
    first.reject(401, None, &asks(false, "callee.example", "n1", ""), None).await.unwrap();
    fails_with_500(&scene, &call).await;
    let asked = scene.callee.received().iter().any(|message| message.text().contains("account-7"));
    assert!(!asked, "no request told who we are");
}

/// A server whose trunk takes calls from everywhere, for a password.
async fn guarded() -> Scene {
    let trunk = "username = \"account-7\"\npassword = \"correct horse\"\nmedia_allow = [\"127.0.0.0/8\"]";
    let setup = Setup { trunk, allow: "0.0.0.0/0", ..Setup::default() };
    Scene::with(PhoneConfig::named("caller"), PhoneConfig::named("callee"), setup).await
}

/// A call with these credentials, and its 401.
async fn refused(scene: &Scene, credentials: Option<&str>) -> Message {
    let mut options = CallOptions::from(FIRST);
    if let Some(credentials) = credentials {
        options = options.header("Authorization", credentials);
    }
    let call = scene.caller.call(scene.server.sip, &scene.number, options).await.unwrap();
    let refused = call.final_status(PATIENCE).await.unwrap();
    assert_eq!(refused.status(), Some(401));
    refused
}

fn challenges(refused: &Message) -> Vec<&str> {
    refused
        .headers()
        .iter()
        .filter(|(name, _)| name == "WWW-Authenticate")
        .map(|(_, value)| value.as_str())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_on_a_trunk_that_challenges_proves_the_password_and_is_connected() {
    let scene = guarded().await;
    let uri = format!("sip:{}@{}", scene.number, scene.server.sip);
    let answer = refused(&scene, None).await;
    let asked = challenges(&answer);
    let algorithms: Vec<_> = asked.iter().map(|one| digest::parameter(one, "algorithm").unwrap()).collect();
    assert_eq!(algorithms, ["SHA-256", "MD5"], "RFC 8760 §2.3: the better one first");
    assert!(asked.iter().all(|one| digest::parameter(one, "realm") == Some("maskline")));
    for (challenge, count) in asked.iter().zip(1..) {
        let credentials = digest::answer(challenge, "INVITE", &uri, ("account-7", PASSWORD), count);
        let options = CallOptions::from(FIRST).header("Authorization", &credentials);
        let (call, incoming) = scene.talk_with(options).await;
        scene.both_hear(&call, &incoming).await;
        // What is said to us stays with us.
        let told = incoming.request().text();
        assert!(!told.contains("account-7") && !told.contains("maskline\""), "{told}");
        call.hang_up().await.unwrap();
        incoming.wait_bye(PATIENCE).await.unwrap();
        // The same credentials once more.
        let again = refused(&scene, Some(&credentials)).await;
        assert!(challenges(&again).iter().all(|one| digest::parameter(one, "stale") == Some("true")));
    }
    scene.no_faults().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_prove_it_costs_no_call_and_learns_nothing() {
    let scene = guarded().await;
    let uri = format!("sip:{}@{}", scene.number, scene.server.sip);
    let first = refused(&scene, None).await;
    let challenge = challenges(&first)[0].to_owned();
    let shape = |refused: &Message| {
        let plain = |value: &str| value.replace(digest::parameter(value, "nonce").unwrap(), "…");
        (
            refused.start_line().to_owned(),
            refused.header_names(),
            challenges(refused).into_iter().map(plain).collect::<Vec<_>>(),
        )
    };
    for user in [("account-7", "wrong horse"), ("account-8", PASSWORD), ("", ""), ("account-7", "")] {
        let credentials = digest::answer(&challenge, "INVITE", &uri, user, 1);
        let answer = refused(&scene, Some(&credentials)).await;
        assert_eq!(shape(&answer), shape(&first), "{user:?}");
    }
    // For another number than the one that is called.
    let credentials = digest::answer(&challenge, "INVITE", "sip:+12025559999@x", ("account-7", PASSWORD), 1);
    assert_eq!(shape(&refused(&scene, Some(&credentials)).await), shape(&first));
    assert_eq!(scene.server.service.shell().call_tasks(), 0);
    assert_eq!(scene.server.interactions(&scene.session).await.len(), 0);
    assert!(scene.server.service.index().is_empty());
    scene.no_faults().await;
    assert_eq!(scene.callee.received().len(), 0, "nobody is rung");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_sent_more_than_twice_of_what_was_sent_in_his_name() {
    let scene = guarded().await;
    let own = scene.caller.address();
    let bare = format!(
        "INVITE sip:1@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP {own};branch=z9hG4bKbare;rport\r\nFrom: <sip:a@b>;tag=1\r\n\
         To: <sip:b@c>\r\nCall-ID: bare\r\nCSeq: 1 INVITE\r\n\r\n"
    );
    scene.caller.send_raw(scene.server.sip, bare.as_bytes());
    // One listener takes both, one after the other.
    refused(&scene, None).await;
    assert!(scene.caller.received().iter().all(|message| message.call_id() != "bare"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trunk_known_by_its_address_is_never_asked() {
    let scene = scene(TRUNK).await;
    let (call, incoming) = scene.talk().await;
    scene.hang_up(&call, &incoming).await;
    assert!(!call.statuses().contains(&401));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trunk_registers_takes_calls_at_its_contact_and_takes_it_back_at_the_end() {
    let registrar = Phone::bind(PhoneConfig::named("registrar")).await.unwrap();
    let headers = asks(false, "carrier.example", "n1", "");
    let granted = Reply::status(200).header("Expires", "600");
    let replies = vec![Reply { headers, ..Reply::status(401) }, granted.clone(), granted];
    registrar.script("REGISTER", replies).await.unwrap();
    let trunk = "username = \"account-7\"\npassword = \"correct horse\"\nregister = true";
    let server = Server::with(registrar.address(), Setup { trunk, ..Setup::default() }).await;

    let is_proved = |message: &Message| message.is("REGISTER") && message.header("Authorization").is_some();
    let register = registrar.wait_received("REGISTER with credentials", PATIENCE, is_proved).await.unwrap();
    digest::proven(&register, "Authorization", PASSWORD);
    let gateway = registrar.address();
    assert_eq!(register.uri(), Some(format!("sip:{gateway}").as_str()));
    assert!(register.header("to").unwrap().contains(&format!("<sip:account-7@{}>", gateway.ip())));
    let contact = register.header("contact").unwrap().to_owned();
    assert_eq!(contact, format!("<sip:trunk-carrier@{}>", server.sip));
    until_asked("the trunk is registered", async || {
        (server.metric("maskline_trunk_registered").await > 0.0).then_some(())
    })
    .await;

    // A call to that Contact: the number stands in To.
    let session = server.session(json!({ "record": false })).await;
    let number = Server::number(&session);
    let options =
        CallOptions { to: Some(format!("<sip:{number}@{}>", gateway.ip())), ..CallOptions::from(FIRST) };
    let call = registrar.call(server.sip, "trunk-carrier", options).await.unwrap();
    let incoming = registrar.next_call(PATIENCE).await.unwrap();
    assert!(incoming.request().uri().unwrap().contains(SECOND));
    incoming.answer(SdpOptions::default()).await.unwrap();
    call.answered(PATIENCE).await.unwrap();
    call.hang_up().await.unwrap();
    incoming.wait_bye(PATIENCE).await.unwrap();
    server.settled().await;

    let (service, _folder) = server.into_service();
    service.drain(PATIENCE).await;
    let gone = registrar.received().into_iter().rfind(|message| message.is("REGISTER")).unwrap();
    assert_eq!(gone.header("expires"), Some("0"), "RFC 3261 §10.2.2");
    let credentials = digest::proven(&gone, "Authorization", PASSWORD);
    assert_eq!(digest::parameter(&credentials, "nc"), Some("00000002"));
    assert_eq!(registrar.faults().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_carrier_is_told_the_virtual_number_in_the_header_and_the_form_that_it_wants() {
    let table = [
        ("identity = \"p-asserted-identity\"", "P-Asserted-Identity", "+12025550100", "", SECOND),
        (
            "identity = \"remote-party-id\"\nnumber_format = \"national\"\ndefault_country = \"US\"",
            "Remote-Party-ID",
            "2025550100",
            ";party=calling;privacy=off;screen=yes",
            SECOND.trim_start_matches("+1"),
        ),
    ];
    for (trunk, header, user, parameters, callee) in table {
        let scene = scene(trunk).await;
        let (call, incoming) = scene.dial().await;
        let request = incoming.request();
        let identity = format!("<sip:{user}@127.0.0.1;user=phone>");
        assert_eq!(request.header(header), Some(format!("{identity}{parameters}").as_str()));
        assert!(request.header("from").unwrap().starts_with(&identity));
        assert!(request.uri().unwrap().starts_with(&format!("sip:{callee}@")), "{:?}", request.uri());
        assert!(!request.text().contains(FIRST.trim_start_matches("+1")), "{}", request.text());
        incoming.reject(486, None, &[], None).await.unwrap();
        assert_eq!(call.final_status(PATIENCE).await.unwrap().status(), Some(486));
        until("the call is over", || (scene.server.service.shell().live_calls() == 0).then_some(())).await;
    }
}

/// What `maskline trunk-check` finds with this gateway: how many faults, and the report.
async fn checked(gateway: &Phone, trunk: &str, number: Option<&str>) -> (usize, String) {
    let text = format!(
        "[sip]\nlisten = [\"udp://127.0.0.1:0\"]\n[[trunks]]\nname = \"carrier\"\nallow = [\"127.0.0.1\"]\n\
         gateways = [\"sip:{}\"]\n{trunk}\n[[numbers]]\nnumber = \"+12025550100\"\n",
        gateway.address()
    );
    let config = maskline::config::Config::read(&text, std::iter::empty()).unwrap();
    let trunk = config.trunks.get("carrier").unwrap();
    let number = number.and_then(maskline::number::E164::parse);
    let dns = std::sync::Arc::new(maskline::trunk::dns::SystemDns::new());
    let mut out = vec![];
    let faults = maskline::trunk_check::check(&config, trunk, number, dns, &mut out).await;
    let report = String::from_utf8(out).unwrap();
    assert!(!report.contains(PASSWORD) && !report.contains("5550142"), "{report}");
    (faults, report)
}

/// RFC 3261 §22.2: OPTIONS of a check that is asked who it is goes out once more, with what was asked for.
#[tokio::test(flavor = "multi_thread")]
async fn the_check_of_a_trunk_proves_who_we_are_and_says_whether_that_was_believed() {
    let asked = |status, nonce, more: &str| Reply {
        headers: asks(status == 407, "carrier.example", nonce, more),
        ..Reply::status(status)
    };
    let table = [
        (TRUNK, vec![asked(401, "n1", "")], "user name and password are accepted", 0, 2),
        (TRUNK, vec![asked(407, "n1", ", algorithm=SHA-256")], "user name and password are accepted", 0, 2),
        // What was proven is not believed, and is not tried for ever.
        (TRUNK, vec![asked(401, "n1", ""), asked(401, "n2", "")], "the password is not accepted", 1, 2),
        (TRUNK, vec![asked(401, "n1", ", algorithm=AKAv1-MD5")], "asks for a password, and gets none", 1, 1),
        ("", vec![asked(401, "n1", "")], "the carrier wants a user name and a password", 0, 1),
        (TRUNK, vec![], "OPTIONS was answered 200", 0, 1),
    ];
    for (trunk, replies, said, faults, requests) in table {
        let gateway = phone("gateway").await;
        gateway.script("OPTIONS", replies.clone()).await.unwrap();
        let (found, report) = checked(&gateway, trunk, None).await;
        assert!(report.contains(said), "{said} is missing in\n{report}");
        assert_eq!(found, faults, "{report}");
        let received = gateway.received();
        let options: Vec<&Message> = received.iter().filter(|message| message.is("OPTIONS")).collect();
        assert_eq!(options.len(), requests, "{said}");
        assert!(
            ["Authorization", "Proxy-Authorization"].iter().all(|name| options[0].header(name).is_none())
        );
        if let [first, second] = options.as_slice() {
            let header = if replies[0].status == 407 { "Proxy-Authorization" } else { "Authorization" };
            digest::proven(second, header, PASSWORD);
            assert_eq!((first.cseq().0 + 1, first.call_id()), (second.cseq().0, second.call_id()));
            assert_ne!(first.branch(), second.branch());
        }
        assert_eq!(gateway.faults().await, Vec::<String>::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_test_call_of_a_check_proves_who_we_are() {
    let gateway = phone("gateway").await;
    let answering = async {
        let first = gateway.next_call(PATIENCE).await.unwrap();
        first.reject(407, None, &asks(true, "carrier.example", "n1", ""), None).await.unwrap();
        first.wait_ack(PATIENCE).await.unwrap();
        let second = gateway.next_call(PATIENCE).await.unwrap();
        digest::proven(second.request(), "Proxy-Authorization", PASSWORD);
        second.reject(486, None, &[], None).await.unwrap();
        second.wait_ack(PATIENCE).await.unwrap();
    };
    let ((_, report), ()) = tokio::join!(checked(&gateway, TRUNK, Some(FIRST)), answering);
    assert!(report.contains("486"), "{report}");
    assert_eq!(gateway.faults().await, Vec::<String>::new());
}

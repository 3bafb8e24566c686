use super::*;
use crate::clock;
use crate::sip::encode::{AddressOut, ViaOut};
use crate::sip::message::Message;
use bytes::Bytes;
use proptest::prelude::*;

fn credentials(username: &str, password: &str) -> Credentials {
    Credentials { username: username.to_owned(), password: password.to_owned().into(), realm: None }
}

fn response(username: &str, password: &str, calculation: Calculation<'_>) -> String {
    calculation.response(username, &password.to_owned().into())
}

#[test]
fn rfc7616_3_9_1_and_rfc2617_3_5_vectors() {
    let calculation = Calculation {
        algorithm: Algorithm::MD5,
        realm: "http-auth@example.org",
        nonce: "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v",
        method: "GET",
        uri: "/dir/index.html",
        qop: Some(("f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ", 1)),
    };
    let of = |algorithm| response("Mufasa", "Circle of Life", Calculation { algorithm, ..calculation });
    assert_eq!(of(Algorithm::MD5), "8ca523f5e9506fed4657c9700eebdbec");
    assert_eq!(of(Algorithm::SHA256), "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1");
    let older = Calculation {
        algorithm: Algorithm::MD5,
        realm: "testrealm@host.com",
        nonce: "dcd98b7102dd2f0e8b11d0f600bfb0c093",
        method: "GET",
        uri: "/dir/index.html",
        qop: Some(("0a4f113b", 1)),
    };
    assert_eq!(response("Mufasa", "Circle Of Life", older), "6629fae49393a05397450978507c4ef1");
}

/// Computed with another implementation (Python's hashlib).
#[test]
fn rfc7616_3_4_2_session_variants_and_rfc2069_form() {
    let calculation = Calculation {
        algorithm: Algorithm::MD5,
        realm: "sip.example",
        nonce: "n1",
        method: "INVITE",
        uri: "sip:+12025550100@sip.example",
        qop: Some(("c1", 0x1a)),
    };
    let of = |name: &str| {
        let algorithm = Algorithm::parse(name).unwrap();
        response("trunk", "s3cret", Calculation { algorithm, ..calculation })
    };
    assert_eq!(of("MD5"), "2c59a88475a522b4d85403bb06ed1076");
    assert_eq!(of("md5-SESS"), "93b6b07417589ae8dbf385b1ce6c6994");
    assert_eq!(of("SHA-256"), "179465cacea405997366f8657fc7211627562b7b03bd7bff8b12f30a3f1bf4e0");
    assert_eq!(of("SHA-256-sess"), "119b3848b0691afb19365250dbfdcc4abe0c8900c92d9e94d79a172515c062d6");
    assert_eq!(of("SHA-512-256"), "0d51ff562e1825de6513da4b8b740732b58c308537ad75b3d031a6b66386a247");
    assert_eq!(
        response("trunk", "s3cret", Calculation { qop: None, ..calculation }),
        "c0c8558611404fd096eb694002c3d742"
    );
    assert_eq!(Algorithm::parse("SHA-1"), None);
}

fn read(status: u16, headers: &str) -> Response {
    let text = format!(
        "SIP/2.0 {status} No\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\nFrom: <sip:a@h>;tag=1\r\n\
         To: <sip:b@h>;tag=2\r\nCall-ID: c\r\nCSeq: 7 INVITE\r\n{headers}Content-Length: 0\r\n\r\n"
    );
    let Ok(Message::Response(response)) = Message::parse(Bytes::from(text)) else { panic!("{headers}") };
    response
}

fn request() -> RequestOut {
    let party = |tag: Option<&str>| AddressOut { uri: "sip:a@h".to_owned(), tag: tag.map(ToOwned::to_owned) };
    RequestOut {
        method: Method::INVITE,
        uri: "sip:+12025550100@gw.example;user=phone".to_owned(),
        via: ViaOut { transport: "UDP", sent_by: "192.0.2.1:5060".to_owned(), branch: "z9hG4bK1".to_owned() },
        max_forwards: 70,
        from: party(Some("1")),
        to: party(None),
        call_id: "c".to_owned(),
        cseq: 7,
        contact: None,
        routes: vec![],
        headers: vec![HeaderOut::Allow],
        body: None,
    }
}

fn client(realm: Option<&str>) -> Client {
    let known = Credentials { realm: realm.map(ToOwned::to_owned), ..credentials("trunk", "s3cret") };
    Client::new(Arc::new(known))
}

/// The credentials' headers of the request, as they stand on the wire.
fn shown(request: &RequestOut) -> Vec<String> {
    let text = String::from_utf8(request.encode().to_vec()).unwrap();
    let wanted = |line: &&str| line.contains("uthorization: ");
    text.lines().filter(wanted).map(ToOwned::to_owned).collect()
}

fn find<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let value = line.split_once(&format!("{name}="))?.1;
    Some(value.split_once(", ").map_or(value, |(value, _)| value).trim_matches('"'))
}

#[test]
fn a_challenge_is_answered_with_the_strongest_algorithm_that_is_offered() {
    let md5 = "WWW-Authenticate: Digest realm=\"r\", nonce=\"m\", algorithm=MD5, qop=\"auth\"\r\n";
    let sha =
        "WWW-Authenticate: Digest realm=\"r\", nonce=\"s\", algorithm=SHA-256, qop=\"auth,auth-int\"\r\n";
    let odd = "WWW-Authenticate: Digest realm=\"r\", nonce=\"o\", algorithm=WHIRLPOOL\r\n";
    let basic = "WWW-Authenticate: Basic realm=\"r\"\r\n";
    let one_line = "WWW-Authenticate: Basic realm=\"r\", Digest realm=\"r\",nonce=\"m\" , algorithm = MD5,\
                    Digest realm=r, nonce=s, algorithm=\"SHA-256\", qop=auth\r\n";
    let table = [
        ("RFC 8760 §2.4, by our policy", format!("{md5}{sha}{odd}"), Some("s")),
        ("whatever the order", format!("{sha}{basic}{md5}"), Some("s")),
        ("what is not known is passed over", format!("{odd}{basic}{md5}"), Some("m")),
        ("RFC 9110 §11.6.1: several in one line", one_line.to_owned(), Some("s")),
        (
            "no algorithm is MD5",
            "WWW-Authenticate: Digest realm=\"r\", nonce=\"x\"\r\n".to_owned(),
            Some("x"),
        ),
        ("auth-int alone", sha.replace("auth,auth-int", "auth-int"), None),
        (
            "a session needs qop",
            "WWW-Authenticate: Digest realm=\"r\", nonce=\"x\", algorithm=MD5-sess\r\n".into(),
            None,
        ),
        ("no realm", "WWW-Authenticate: Digest nonce=\"x\"\r\n".to_owned(), None),
        ("no nonce", "WWW-Authenticate: Digest realm=\"x\"\r\n".to_owned(), None),
        ("an open quotation", "WWW-Authenticate: Digest realm=\"r, nonce=\"x\r\n".to_owned(), None),
        ("text after a quotation", "WWW-Authenticate: Digest realm=\"r\"x, nonce=\"x\"\r\n".to_owned(), None),
        ("another status's header", md5.replace("WWW-Authenticate", "Proxy-Authenticate"), None),
        ("nothing", String::new(), None),
    ];
    for (requirement, headers, nonce) in table {
        let (mut client, mut request) = (client(None), request());
        let outcome = client.answer(&mut request, &read(401, &headers), 0, "c");
        assert_eq!(outcome.is_ok(), nonce.is_some(), "{requirement}");
        let lines = shown(&request);
        assert_eq!(lines.first().and_then(|line| find(line, " nonce")), nonce, "{requirement}");
        if nonce.is_none() {
            assert_eq!(outcome, Err(Unanswered::NoKnownChallenge), "{requirement}");
        }
    }
}

#[test]
fn what_the_peer_sent_goes_back_to_it_as_it_came() {
    let headers = "Proxy-Authenticate: Digest realm=\"a \\\"b\\\" c, d\", nonce=\"n=/+\", opaque=\"\", \
                   stale=FALSE, algorithm=MD5, qop=\"auth\"\r\n";
    let (mut client, mut request) = (client(None), request());
    client.answer(&mut request, &read(407, headers), 0, "cn").unwrap();
    let expected = response(
        "trunk",
        "s3cret",
        Calculation {
            algorithm: Algorithm::MD5,
            realm: "a \\\"b\\\" c, d",
            nonce: "n=/+",
            method: "INVITE",
            uri: "sip:+12025550100@gw.example;user=phone",
            qop: Some(("cn", 1)),
        },
    );
    assert_eq!(
        shown(&request),
        [format!(
            "Proxy-Authorization: Digest username=\"trunk\", realm=\"a \\\"b\\\" c, d\", nonce=\"n=/+\", \
             uri=\"sip:+12025550100@gw.example;user=phone\", response=\"{expected}\", algorithm=MD5, \
             cnonce=\"cn\", qop=auth, nc=00000001, opaque=\"\""
        )]
    );
}

fn challenge(realm: &str, nonce: &str, stale: bool) -> String {
    format!("Digest realm=\"{realm}\", nonce=\"{nonce}\", qop=\"auth\", stale={stale}\r\n")
}

#[test]
fn rfc3261_22_1_a_nonce_is_answered_once_and_a_stale_one_again() {
    use Unanswered::{OtherRealm, Refused};
    // Status, realm, nonce, stale, and what comes of it.
    type Row = (&'static str, &'static [(u16, &'static str, &'static str, bool, Result<(), Unanswered>)]);
    let table: &[Row] = &[
        ("the password is wrong", &[(401, "r", "1", false, Ok(())), (401, "r", "2", false, Err(Refused))]),
        ("the same nonce again", &[(401, "r", "1", false, Ok(())), (401, "r", "1", true, Err(Refused))]),
        ("a new nonce for a stale one", &[(401, "r", "1", false, Ok(())), (401, "r", "2", true, Ok(()))]),
        (
            "a peer for whom every nonce is stale",
            &[
                (401, "r", "1", false, Ok(())),
                (401, "r", "2", true, Ok(())),
                (401, "r", "3", true, Ok(())),
                (401, "r", "4", true, Err(Refused)),
            ],
        ),
        (
            "another realm in mid-way",
            &[(401, "r", "1", false, Ok(())), (401, "x", "2", true, Err(OtherRealm))],
        ),
        ("proxy and server of one realm", &[(407, "r", "1", false, Ok(())), (401, "r", "2", false, Ok(()))]),
        (
            "proxy and server of two",
            &[(407, "r", "1", false, Ok(())), (401, "x", "2", false, Err(OtherRealm))],
        ),
    ];
    for (requirement, steps) in table {
        let (mut client, mut request, mut answered) = (client(None), request(), 0);
        for &(status, realm, nonce, stale, expected) in *steps {
            let name = if status == 401 { "WWW-Authenticate: " } else { "Proxy-Authenticate: " };
            let response = read(status, &format!("{name}{}", challenge(realm, nonce, stale)));
            let outcome = client.answer(&mut request, &response, answered, "c");
            assert_eq!(outcome, expected, "{requirement}: {nonce}");
            answered += 1;
        }
    }
}

#[test]
fn only_the_realm_of_the_configuration_is_answered() {
    let of = |realm| read(401, &format!("WWW-Authenticate: {}", challenge(realm, "n", false)));
    for (configured, asked, expected) in [
        (Some("carrier.example"), "carrier.example", Ok(())),
        (Some("carrier.example"), "callee.example", Err(Unanswered::OtherRealm)),
        (None, "callee.example", Ok(())),
    ] {
        let outcome = client(configured).answer(&mut request(), &of(asked), 0, "c");
        assert_eq!(outcome, expected, "{configured:?} {asked}");
    }
}

#[test]
fn rfc7616_3_4_the_count_grows_with_each_use_of_a_nonce() {
    let (mut client, mut first) = (client(None), request());
    client.authorize(&mut first, "c");
    assert_eq!(shown(&first), Vec::<String>::new(), "nobody has asked yet");
    let asked = read(407, &format!("Proxy-Authenticate: {}", challenge("r", "n", false)));
    client.answer(&mut first, &asked, 0, "c").unwrap();
    let counts = (0..3).map(|_| {
        let mut next = request();
        client.authorize(&mut next, "c");
        find(&shown(&next)[0], " nc").unwrap().to_owned()
    });
    assert_eq!(counts.collect::<Vec<_>>(), ["00000002", "00000003", "00000004"]);
    // A nonce that is used in advance and has changed is answered, once.
    let (mut next, renewed) =
        (request(), read(407, &format!("Proxy-Authenticate: {}", challenge("r", "m", false))));
    client.authorize(&mut next, "c");
    client.answer(&mut next, &renewed, 0, "c").unwrap();
    assert_eq!(find(&shown(&next)[0], " nc"), Some("00000001"));
    assert_eq!(client.answer(&mut next, &renewed, 1, "c"), Err(Unanswered::Refused));
}

#[test]
fn neither_password_nor_user_name_prints_itself() {
    let mut request = request();
    let mut client = client(None);
    let asked = read(401, &format!("WWW-Authenticate: {}", challenge("realm.example", "nonce", false)));
    client.answer(&mut request, &asked, 0, "cnonce").unwrap();
    let known = credentials("trunk", "s3cret");
    let shown = format!("{known:?} {client:?} {request:?} {:?} {:?}", request.headers, known.password);
    for secret in ["s3cret", "\"trunk\"", "realm.example", "nonce\"", &response("", "", NOTHING)] {
        assert!(!shown.contains(secret), "{shown}");
    }
}

const NOTHING: Calculation<'_> =
    Calculation { algorithm: Algorithm::MD5, realm: "", nonce: "", method: "", uri: "", qop: None };

// Our own challenges.

const SOURCE: &str = "203.0.113.5";

fn invite(uri: &str, headers: &str) -> Request {
    let text = format!(
        "INVITE {uri} SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\nFrom: <sip:a@h>;tag=1\r\nTo: <sip:b@h>\r\n\
         Call-ID: c\r\nCSeq: 7 INVITE\r\n{headers}Content-Length: 0\r\n\r\n"
    );
    let Ok(Message::Request(request)) = Message::parse(Bytes::from(text)) else { panic!("{headers}") };
    request
}

/// What a caller with these credentials answers to the challenge.
struct Answer<'a> {
    username: &'a str,
    password: &'a str,
    challenge: &'a ChallengeOut,
    uri: &'a str,
    qop: Option<(&'a str, u32)>,
}

impl Answer<'_> {
    fn header(&self) -> String {
        let calculation = Calculation {
            algorithm: self.challenge.algorithm,
            realm: REALM,
            nonce: &self.challenge.nonce,
            method: "INVITE",
            uri: self.uri,
            qop: self.qop,
        };
        let authorization = Authorization {
            asker: Asker::Server,
            username: self.username.to_owned(),
            realm: REALM.to_owned(),
            nonce: self.challenge.nonce.clone(),
            uri: self.uri.to_owned(),
            response: response(self.username, self.password, calculation),
            algorithm: Some(self.challenge.algorithm),
            opaque: None,
            qop: self.qop.map(|(cnonce, count)| (cnonce.to_owned(), count)),
        };
        let (name, text) = authorization.header();
        format!("{name}{text}\r\n")
    }
}

struct Door {
    guard: Guard,
    start: Instant,
    known: Credentials,
}

const URI: &str = "sip:+12025550100@192.0.2.1";

impl Door {
    fn new() -> Self {
        let start = clock::now();
        Self { guard: Guard::new(&[7; 32], start), start, known: credentials("carrier", "correct horse") }
    }

    fn challenge(&self, after: u64) -> [ChallengeOut; 2] {
        let now = self.start + Duration::from_secs(after);
        self.guard.challenges(&invite(URI, ""), SOURCE.parse().unwrap(), false, now)
    }

    fn judge(&mut self, uri: &str, headers: &str, source: &str, after: u64) -> Verdict<u8> {
        let (known, now) = (&self.known, self.start + Duration::from_secs(after));
        let find = |name: &str| (name == known.username).then_some((5, known));
        self.guard.judge(&invite(uri, headers), source.parse().unwrap(), find, now)
    }
}

const STALE: Verdict<u8> = Verdict::Challenge { stale: true, given: true };
const WRONG: Verdict<u8> = Verdict::Challenge { stale: false, given: true };
const NONE: Verdict<u8> = Verdict::Challenge { stale: false, given: false };

#[test]
fn rfc8760_2_3_sha_256_is_asked_for_first_and_either_is_taken() {
    let mut door = Door::new();
    let challenges = door.challenge(0);
    let texts = challenges.each_ref().map(ChallengeOut::text);
    assert!(
        texts[0].contains("algorithm=SHA-256, qop=\"auth\"") && texts[1].contains("algorithm=MD5"),
        "{texts:?}"
    );
    assert!(texts.iter().all(|text| text.starts_with("Digest realm=\"maskline\", nonce=\"")), "{texts:?}");
    for (count, challenge) in (1..).zip(&challenges) {
        let qop = Some(("c", count));
        let answer = Answer { username: "carrier", password: "correct horse", challenge, uri: URI, qop };
        assert_eq!(door.judge(URI, &answer.header(), SOURCE, 1), Verdict::Accepted(5), "{challenge:?}");
    }
}

#[test]
fn who_has_no_right_password_gets_a_challenge() {
    let mut door = Door::new();
    let [challenge, _] = &door.challenge(0);
    let right =
        Answer { username: "carrier", password: "correct horse", challenge, uri: URI, qop: Some(("c", 1)) };
    let text = right.header();
    let table = [
        ("nothing", String::new(), NONE),
        ("another realm's credentials", text.replace("\"maskline\"", "\"other\""), NONE),
        ("another scheme", "Authorization: Basic Y2FycmllcjpY\r\n".to_owned(), NONE),
        ("a wrong password", Answer { password: "correct hors", ..right }.header(), WRONG),
        ("an unknown user with the right password", Answer { username: "other", ..right }.header(), WRONG),
        ("no password of all", Answer { password: "", ..right }.header(), WRONG),
        ("no response", text.replace("response=", "x="), WRONG),
        ("an unknown algorithm", text.replace("SHA-256", "SHA-1"), WRONG),
        ("an algorithm that was not offered", text.replace("SHA-256", "SHA-256-sess"), WRONG),
        ("another algorithm than was computed", text.replace("SHA-256", "MD5"), WRONG),
        ("another count than was computed", text.replace("nc=00000001", "nc=00000002"), WRONG),
        ("a count of nothing", text.replace("nc=00000001", "nc=00000000"), WRONG),
        ("no count", text.replace("nc=00000001", "nc=x"), WRONG),
        ("a protection that was not offered", text.replace("qop=auth", "qop=auth-int"), WRONG),
        (
            "credentials for another number",
            Answer { uri: "sip:+12025550199@192.0.2.1", ..right }.header(),
            WRONG,
        ),
        ("credentials for no number", Answer { uri: "sip:192.0.2.1", ..right }.header(), WRONG),
    ];
    for (requirement, headers, verdict) in table {
        assert_eq!(door.judge(URI, &headers, SOURCE, 1), verdict, "{requirement}");
    }
    assert_eq!(door.judge(URI, &text, SOURCE, 1), Verdict::Accepted(5), "and none of that used the nonce up");
}

#[test]
fn a_proxy_may_write_host_and_parameters_anew() {
    let mut door = Door::new();
    let [challenge, _] = &door.challenge(0);
    let uri = "sip:+12025550100@trunk.example;user=phone";
    let answer =
        Answer { username: "carrier", password: "correct horse", challenge, uri, qop: Some(("c", 1)) };
    assert_eq!(door.judge(URI, &answer.header(), SOURCE, 1), Verdict::Accepted(5));
}

#[test]
fn a_nonce_is_good_for_a_minute_for_one_address_and_for_each_count_once() {
    let mut door = Door::new();
    let [challenge, _] = &door.challenge(10);
    let with = |count| {
        let qop = Some(("c", count));
        Answer { username: "carrier", password: "correct horse", challenge, uri: URI, qop }.header()
    };
    let table = [
        ("the first use", 1, SOURCE, 11, Verdict::Accepted(5)),
        ("the same again", 1, SOURCE, 11, STALE),
        ("the next", 2, SOURCE, 12, Verdict::Accepted(5)),
        ("one that overtook another", 4, SOURCE, 12, Verdict::Accepted(5)),
        ("and the one that was overtaken", 3, SOURCE, 12, Verdict::Accepted(5)),
        ("but once", 3, SOURCE, 12, STALE),
        ("from elsewhere", 5, "203.0.113.6", 12, STALE),
        ("the same address by another family", 5, "::ffff:203.0.113.5", 12, Verdict::Accepted(5)),
        ("far ahead", 1000, SOURCE, 13, Verdict::Accepted(5)),
        ("too far behind", 900, SOURCE, 13, STALE),
        ("at the end of its life", 1001, SOURCE, 70, Verdict::Accepted(5)),
        ("after it", 1002, SOURCE, 71, STALE),
    ];
    for (requirement, count, source, after, verdict) in table {
        assert_eq!(door.judge(URI, &with(count), source, after), verdict, "{requirement}");
    }
    assert_eq!(door.guard.used.len(), 1);
    let [challenge, _] = &door.challenge(200);
    let answer =
        Answer { username: "carrier", password: "correct horse", challenge, uri: URI, qop: Some(("c", 1)) };
    assert_eq!(door.judge(URI, &answer.header(), SOURCE, 200), Verdict::Accepted(5));
    assert_eq!(door.guard.used.len(), 1, "what is too old is forgotten");
}

#[test]
fn without_qop_a_nonce_is_good_for_one_request() {
    let mut door = Door::new();
    let [challenge, _] = &door.challenge(0);
    let answer =
        |qop| Answer { username: "carrier", password: "correct horse", challenge, uri: URI, qop }.header();
    assert_eq!(door.judge(URI, &answer(None), SOURCE, 1), Verdict::Accepted(5));
    assert_eq!(door.judge(URI, &answer(None), SOURCE, 1), STALE);
    assert_eq!(door.judge(URI, &answer(Some(("c", 9))), SOURCE, 1), STALE);
}

#[test]
fn a_forged_nonce_is_stale_even_with_the_right_password() {
    let mut door = Door::new();
    let [ours, _] = &door.challenge(0);
    let mut bytes = BASE64URL_NOPAD.decode(ours.nonce.as_bytes()).unwrap();
    bytes[0] ^= 1;
    for nonce in
        [BASE64URL_NOPAD.encode(&bytes), String::new(), "!".to_owned(), BASE64URL_NOPAD.encode(&[0; 20])]
    {
        let challenge = &ChallengeOut { nonce, ..ours.clone() };
        let qop = Some(("c", 1));
        let answer = Answer { username: "carrier", password: "correct horse", challenge, uri: URI, qop };
        assert_eq!(door.judge(URI, &answer.header(), SOURCE, 1), STALE, "{challenge:?}");
    }
    let other = Guard::new(&[8; 32], door.start);
    let [challenge, _] = &other.challenges(&invite(URI, ""), SOURCE.parse().unwrap(), false, door.start);
    let answer =
        Answer { username: "carrier", password: "correct horse", challenge, uri: URI, qop: Some(("c", 1)) };
    assert_eq!(door.judge(URI, &answer.header(), SOURCE, 1), STALE, "another process's");
}

#[test]
fn what_cannot_be_remembered_is_stale() {
    let mut door = Door::new();
    for id in 0..MAX_NONCES as u64 {
        door.guard.used.insert((1 << 32) | id, Counts { highest: 1, seen: 1 });
    }
    let challenges = [2, 3].map(|after| door.challenge(after)[0].clone());
    let answer = |challenge, count| Answer {
        username: "carrier",
        password: "correct horse",
        challenge,
        uri: URI,
        qop: Some(("c", count)),
    };
    assert_eq!(door.judge(URI, &answer(&challenges[1], 1).header(), SOURCE, 4), Verdict::Accepted(5));
    assert_eq!((door.guard.used.len(), door.guard.floor), (MAX_NONCES, 1 << 32));
    door.guard.floor = 3 << 32;
    assert_eq!(door.judge(URI, &answer(&challenges[0], 1).header(), SOURCE, 4), STALE);
}

proptest! {
    /// Whatever a peer writes into a challenge, it is answered once at most, on one line, and with nothing of ours
    /// but the user name.
    #[test]
    fn no_challenge_breaks_the_request(text in "(Digest|[ -~]{0,8}) [ -~]{0,120}", status in 401_u16..408) {
        let headers = format!("WWW-Authenticate: {text}\r\nProxy-Authenticate: {text}\r\n");
        let (mut client, mut request) = (client(None), request());
        let before = request.encode();
        let outcome = client.answer(&mut request, &read(status, &headers), 0, "c");
        let after = request.encode();
        prop_assert_eq!(outcome.is_err(), before == after);
        let text = String::from_utf8(after.to_vec()).unwrap();
        prop_assert_eq!(text.matches("\r\n\r\n").count(), 1);
        prop_assert!(!text.contains("s3cret"));
        let Ok(Message::Request(read_back)) = Message::parse(after) else { panic!("{text}") };
        prop_assert!(read_back.head.headers("Authorization").chain(read_back.head.headers("Proxy-Authorization")).count() <= 1);
    }

    /// Credentials that somebody makes up are never taken.
    #[test]
    fn no_text_opens_the_door(text in "(Digest|[ -~]{0,8}) ([a-z]{1,9}=\"?[ -~]{0,20}\"?, ?){0,9}") {
        let verdict = Door::new().judge(URI, &format!("Authorization: {text}\r\n"), SOURCE, 1);
        let refused = matches!(verdict, Verdict::Challenge { .. });
        prop_assert!(refused);
    }
}

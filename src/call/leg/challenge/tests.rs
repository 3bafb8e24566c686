//! A leg of ours and a gateway that asks: what goes out, and where.

use super::*;
use crate::call::cdr::HangupCause;
use crate::call::identity::{Callee, LegAddress};
use crate::call::leg::Dial;
use crate::call::signal::{Order, Signal};
use crate::clock;
use crate::ids::IdSource;
use crate::number::{Did, E164};
use crate::sip::digest::Credentials;
use crate::sip::message::{Message, Request};
use crate::sip::transport::Protocol;
use crate::trunk::Trunk;
use bytes::Bytes;
use media::sdp::{LocalMedia, MediaAllow};
use media::{Codec, SourcePolicy};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

const GATEWAY: &str = "192.0.2.7:5060";
const ELSEWHERE: &str = "203.0.113.9:5060";
const SDP: &str = "v=0\r\no=- 1 1 IN IP4 192.0.2.7\r\ns=-\r\nc=IN IP4 192.0.2.7\r\nt=0 0\r\n\
                   m=audio 20000 RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\n";

/// One leg, its gateway, and what was sent.
struct Scene {
    leg: Leg,
    ids: IdSource,
    now: Instant,
    sent: Vec<(Request, Hop)>,
    signals: Vec<Signal>,
    unauthorized: Vec<Unanswered>,
}

fn trunk(credentials: Option<(&str, &str)>) -> Arc<Trunk> {
    let credentials = credentials.map(|(username, password)| {
        let (username, password) = (username.to_owned(), password.to_owned().into());
        Arc::new(Credentials { username, password, realm: None })
    });
    Arc::new(Trunk { credentials, session_timer: Some(90), ..Trunk::named("carrier") })
}

impl Scene {
    fn dial(credentials: Option<(&str, &str)>) -> Self {
        let gateway =
            Callee::Party { number: E164::parse("+12025550143").unwrap(), gateway: GATEWAY.to_owned() };
        Self::dial_to(credentials, gateway)
    }

    fn dial_to(credentials: Option<(&str, &str)>, callee: Callee) -> Self {
        let own: SocketAddr = "192.0.2.1:5060".parse().unwrap();
        let dial = Dial {
            from: Did::parse("+12025550100").unwrap(),
            callee,
            trunk: trunk(credentials),
            hop: Hop {
                protocol: Protocol::Udp,
                place: Place::Address(GATEWAY.parse().unwrap()),
                connection: None,
                local: None,
                pinned: true,
                name: None,
                token: None,
            },
            address: LegAddress {
                protocol: Protocol::Udp,
                sip: own,
                media: own.ip(),
                bind: own.ip(),
                contact_user: "opaque".to_owned(),
                sips: false,
            },
            max_forwards: 69,
            local: LocalMedia {
                address: own.ip(),
                port: 16_384,
                session_id: 1,
                codecs: vec![Codec::Pcmu],
                source: SourcePolicy::Exact,
                srtp: None,
                allow: MediaAllow { networks: vec![], private: true },
            },
        };
        let (mut ids, now, mut actions) = (IdSource::from_seed(1), clock::now(), vec![]);
        let mut out = Output { actions: &mut actions, signals: vec![], ids: &mut ids, now };
        let leg = Leg::dial(dial, &mut out);
        let (sent, signals, unauthorized) = (vec![], vec![], vec![]);
        let mut scene = Self { leg, ids, now, sent, signals, unauthorized };
        scene.take(actions);
        scene
    }

    fn take(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Send { wire, to } => match Message::parse(wire).unwrap() {
                    Message::Request(request) => self.sent.push((request, to)),
                    Message::Response(_) => {}
                },
                Action::Unauthorized { trunk, why } => {
                    assert_eq!(trunk, "carrier");
                    self.unauthorized.push(why);
                }
                _ => {}
            }
        }
    }

    fn tell(&mut self, does: impl FnOnce(&mut Leg, &mut Output<'_>)) {
        let mut actions = vec![];
        let mut out = Output { actions: &mut actions, signals: vec![], ids: &mut self.ids, now: self.now };
        does(&mut self.leg, &mut out);
        let signals = out.signals;
        self.signals.extend(signals);
        self.take(actions);
    }

    /// The gateway answers the request that was sent as the `index`th.
    fn answer(&mut self, index: usize, status: u16, headers: &str, body: &str) {
        self.answer_from(GATEWAY, index, status, headers, body);
    }

    fn answer_from(&mut self, peer: &str, index: usize, status: u16, headers: &str, body: &str) {
        let head = &self.sent[index].0.head;
        let to = match head.to.tag() {
            Some(_) => head.to.raw().to_string(),
            None => format!("{};tag=theirs", head.to.raw()),
        };
        let kind = if body.is_empty() { "" } else { "Content-Type: application/sdp\r\n" };
        let text = format!(
            "SIP/2.0 {status} X\r\nVia: {}\r\nFrom: {}\r\nTo: {to}\r\nCall-ID: {}\r\nCSeq: {} {}\r\n\
             {headers}{kind}Content-Length: {}\r\n\r\n{body}",
            head.via.raw(),
            head.from.raw(),
            head.call_id,
            head.cseq.number,
            head.cseq.method.as_str(),
            body.len()
        );
        let message = Message::parse(Bytes::from(text)).unwrap();
        let flow = Flow {
            protocol: Protocol::Udp,
            local: "192.0.2.1:5060".parse().unwrap(),
            peer: peer.parse().unwrap(),
            connection: None,
        };
        self.tell(|leg, out| leg.handle(&message, &flow, out));
    }

    /// Method, CSeq and nonce with count of everything that was sent.
    fn shown(&self) -> Vec<(String, u32, Option<String>)> {
        let shown = |(request, _): &(Request, Hop)| {
            let head = &request.head;
            let given = head.header("Authorization").or_else(|| head.header("Proxy-Authorization"));
            let value = |text: &str, name: &str| {
                let value = text.split_once(&format!(" {name}=")).unwrap().1;
                value.split(',').next().unwrap().trim_matches('"').to_owned()
            };
            let given = given.map(|text| format!("{}/{}", value(&text, "nonce"), value(&text, "nc")));
            (request.method.as_str().to_owned(), head.cseq.number, given)
        };
        self.sent.iter().map(shown).collect()
    }

    /// Answers the INVITE that was sent as the `index`th.
    fn pick_up(&mut self, index: usize, contact: &str) {
        self.answer(index, 200, &format!("Contact: <sip:gw@{contact}>\r\n"), SDP);
    }
}

fn asks(name: &str, nonce: &str, more: &str) -> String {
    format!(
        "{name}-Authenticate: Digest realm=\"carrier.example\", nonce=\"{nonce}\", qop=\"auth\"{more}\r\n"
    )
}

fn row(method: &str, cseq: u32, given: Option<&str>) -> (String, u32, Option<String>) {
    (method.to_owned(), cseq, given.map(ToOwned::to_owned))
}

#[test]
fn rfc3261_22_2_a_challenged_invite_goes_out_again_with_the_next_cseq_and_a_new_branch() {
    for (status, name) in [(401, "WWW"), (407, "Proxy")] {
        let mut scene = Scene::dial(Some(("trunk", "s3cret")));
        scene.answer(0, status, &asks(name, "n", ""), "");
        let first = scene.sent[0].0.head.cseq.number;
        let given = Some("n/00000001");
        let expected = [row("INVITE", first, None), row("ACK", first, None), row("INVITE", first + 1, given)];
        assert_eq!(scene.shown(), expected, "{status}");
        let [(one, _), _, (two, hop)] = scene.sent.as_slice() else { panic!() };
        assert_eq!((&one.head.call_id, one.head.from.tag()), (&two.head.call_id, two.head.from.tag()));
        assert_eq!((one.uri.as_str(), &one.body), (two.uri.as_str(), &two.body));
        assert_ne!(one.head.via.branch, two.head.via.branch);
        assert!(two.head.to.tag().is_none(), "it begins no dialog");
        assert_eq!(hop.address(), Some(GATEWAY.parse().unwrap()));
        assert_eq!((scene.signals.len(), scene.unauthorized.len()), (0, 0), "nobody else learns of it");

        // The ACK was lost: the gateway says it again, and gets the ACK again.
        scene.answer(0, status, &asks(name, "n", ""), "");
        assert_eq!(scene.shown().last(), Some(&row("ACK", first, None)));
        scene.pick_up(2, GATEWAY);
        assert!(matches!(scene.signals.as_slice(), [Signal::Answered(_)]), "{:?}", scene.signals);
        let ack = scene.shown().pop();
        assert_eq!(ack, Some(row("ACK", first + 1, given)), "RFC 3261 §22.1: with its INVITE's credentials");
    }
}

#[test]
fn what_was_asked_for_once_is_given_in_the_dialog_unasked() {
    let mut scene = Scene::dial(Some(("trunk", "s3cret")));
    scene.answer(0, 407, &asks("Proxy", "n", ""), "");
    scene.pick_up(2, GATEWAY);
    scene.tell(|leg, out| leg.obey(Order::HangUp(HangupCause::Normal), out));
    let first = scene.sent[0].0.head.cseq.number;
    let bye = scene.shown().len() - 1;
    assert_eq!(scene.shown()[bye], row("BYE", first + 2, Some("n/00000002")));

    // Its nonce is too old by now: a new one, and the BYE is sent once more.
    scene.answer(bye, 407, &asks("Proxy", "m", ", stale=true"), "");
    assert_eq!(scene.shown()[bye + 1..], [row("BYE", first + 3, Some("m/00000001"))]);
    // A gateway for which every nonce is stale does not keep us busy.
    scene.answer(bye + 1, 407, &asks("Proxy", "o", ", stale=true"), "");
    scene.answer(bye + 2, 407, &asks("Proxy", "p", ", stale=true"), "");
    scene.answer(bye + 3, 407, &asks("Proxy", "q", ", stale=true"), "");
    assert_eq!(scene.shown().len(), bye + 4);
    assert_eq!(scene.unauthorized, [Unanswered::Refused]);
}

#[test]
fn a_bye_that_is_challenged_first_is_answered_too() {
    let mut scene = Scene::dial(Some(("trunk", "s3cret")));
    scene.pick_up(0, GATEWAY);
    scene.tell(|leg, out| leg.obey(Order::HangUp(HangupCause::Normal), out));
    scene.answer(2, 401, &asks("WWW", "n", ""), "");
    let first = scene.sent[0].0.head.cseq.number;
    assert_eq!(scene.shown()[2..], [row("BYE", first + 1, None), row("BYE", first + 2, Some("n/00000001"))]);
    scene.answer(3, 200, "", "");
    assert!(scene.unauthorized.is_empty());
}

#[test]
fn nobody_but_the_gateway_gets_credentials() {
    type Case = (&'static str, fn() -> Scene, Unanswered);
    let known = Some(("trunk", "s3cret"));
    let table: [Case; 5] = [
        (
            "a trunk without any",
            || {
                let mut scene = Scene::dial(None);
                scene.answer(0, 401, &asks("WWW", "n", ""), "");
                scene
            },
            Unanswered::NoCredentials,
        ),
        (
            "a response from elsewhere",
            || {
                let mut scene = Scene::dial(Some(("trunk", "s3cret")));
                scene.answer_from(ELSEWHERE, 0, 407, &asks("Proxy", "n", ""), "");
                scene
            },
            Unanswered::NotTheGateway,
        ),
        (
            "the callee, who is reached only when somebody rings",
            || {
                let mut scene = Scene::dial(Some(("trunk", "s3cret")));
                scene.answer(0, 180, "", "");
                scene.answer(0, 401, &asks("WWW", "n", ""), "");
                scene
            },
            Unanswered::TooLate,
        ),
        (
            "a second realm",
            || {
                let mut scene = Scene::dial(Some(("trunk", "s3cret")));
                scene.answer(0, 407, &asks("Proxy", "n", ""), "");
                let callee = asks("WWW", "m", "").replace("carrier.example", "callee.example");
                scene.answer(2, 401, &callee, "");
                scene
            },
            Unanswered::OtherRealm,
        ),
        (
            "a gateway that does not take them",
            || {
                let mut scene = Scene::dial(Some(("trunk", "s3cret")));
                scene.answer(0, 407, &asks("Proxy", "n", ""), "");
                scene.answer(2, 407, &asks("Proxy", "m", ""), "");
                scene
            },
            Unanswered::Refused,
        ),
    ];
    for (requirement, play, why) in table {
        let scene = play();
        assert_eq!(scene.unauthorized, [why], "{requirement}");
        assert!(matches!(scene.signals.last(), Some(Signal::Refused(401 | 407))), "{requirement}");
        assert!(scene.leg.has_ended(), "{requirement}");
        assert_eq!(scene.shown().last().map(|(method, ..)| method.as_str()), Some("ACK"), "{requirement}");
    }
    // A fixed place of the configuration, although its address is the gateway's.
    let mut scene = Scene::dial_to(known, Callee::Fixed(format!("sip:desk@{GATEWAY}")));
    scene.answer(0, 401, &asks("WWW", "n", ""), "");
    assert_eq!(scene.unauthorized, [Unanswered::NoCredentials]);
}

#[test]
fn a_contact_elsewhere_gets_no_credentials() {
    let mut scene = Scene::dial(Some(("trunk", "s3cret")));
    scene.answer(0, 407, &asks("Proxy", "n", ""), "");
    scene.pick_up(2, ELSEWHERE);
    scene.tell(|leg, out| leg.obey(Order::HangUp(HangupCause::Normal), out));
    let after_answer: Vec<_> = scene.shown().into_iter().skip(3).collect();
    let first = scene.sent[0].0.head.cseq.number;
    assert_eq!(after_answer, [row("ACK", first + 1, None), row("BYE", first + 2, None)]);
    assert!(scene.sent[3..].iter().all(|(_, hop)| hop.address() == Some(ELSEWHERE.parse().unwrap())));
    scene.answer_from(ELSEWHERE, 4, 401, &asks("WWW", "m", ""), "");
    assert_eq!(
        (scene.sent.len(), scene.unauthorized.as_slice()),
        (5, [Unanswered::NotTheGateway].as_slice())
    );
}

#[test]
fn a_call_that_was_given_up_is_not_dialled_again() {
    let mut scene = Scene::dial(Some(("trunk", "s3cret")));
    scene.tell(|leg, out| leg.obey(Order::HangUp(HangupCause::Normal), out));
    scene.answer(0, 407, &asks("Proxy", "n", ""), "");
    let methods: Vec<_> = scene.shown().into_iter().map(|(method, ..)| method).collect();
    assert_eq!(methods, ["INVITE", "ACK"]);
}

#[test]
fn a_cancel_is_for_the_invite_that_was_sent_last_and_carries_no_credentials() {
    let mut scene = Scene::dial(Some(("trunk", "s3cret")));
    scene.answer(0, 407, &asks("Proxy", "n", ""), "");
    scene.answer(2, 180, "", "");
    scene.tell(|leg, out| leg.obey(Order::HangUp(HangupCause::Normal), out));
    let [.., (invite, _), (cancel, _)] = scene.sent.as_slice() else { panic!() };
    assert_eq!(cancel.method, Method::CANCEL);
    assert_eq!(
        (&cancel.head.via.branch, cancel.head.cseq.number),
        (&invite.head.via.branch, invite.head.cseq.number)
    );
    assert!(cancel.head.header("Proxy-Authorization").is_none());
    let before = scene.sent.len();
    scene.answer(before - 1, 407, &asks("Proxy", "m", ", stale=true"), "");
    assert_eq!(scene.sent.len(), before, "RFC 3261 §22.1: it cannot be sent twice");
}

#[test]
fn everything_of_a_challenged_leg_ends() {
    let mut scene = Scene::dial(Some(("trunk", "s3cret")));
    scene.answer(0, 407, &asks("Proxy", "n", ""), "");
    scene.answer(2, 486, "", "");
    assert!(scene.leg.has_ended() && !scene.leg.is_done());
    let end = scene.now + Duration::from_secs(33);
    while let Some(at) = scene.leg.deadline() {
        assert!(at <= end, "timer D is the last one");
        scene.now = at;
        scene.tell(Leg::on_timeout);
        assert!(scene.leg.deadline().is_none_or(|next| next > at), "a fired timer must move on");
    }
    assert!(scene.leg.is_done());
}

/// Answers the INVITE that was sent as the `index`th, with a session of 90 s that we refresh.
fn answer_with_session(scene: &mut Scene, index: usize, allow: &str) {
    let headers = format!(
        "Contact: <sip:gw@{GATEWAY}>\r\nSession-Expires: 90;refresher=uac\r\nRequire: timer\r\nAllow: {allow}\r\n"
    );
    scene.answer(index, 200, &headers, SDP);
}

#[test]
fn a_refresh_of_the_session_carries_credentials_and_is_sent_again_when_they_are_stale() {
    for (allow, method) in [("INVITE, ACK, BYE, UPDATE", "UPDATE"), ("INVITE, ACK, BYE", "INVITE")] {
        let mut scene = Scene::dial(Some(("trunk", "s3cret")));
        scene.answer(0, 407, &asks("Proxy", "n", ""), "");
        answer_with_session(&mut scene, 2, allow);
        let first = scene.sent[0].0.head.cseq.number;
        assert_eq!(scene.sent.len(), 4, "INVITE, ACK, INVITE, ACK");
        while scene.sent.len() == 4 {
            scene.now = scene.leg.deadline().unwrap();
            scene.tell(Leg::on_timeout);
        }
        assert_eq!(scene.shown()[4..], [row(method, first + 2, Some("n/00000002"))]);
        scene.answer(4, 407, &asks("Proxy", "m", ", stale=true"), "");
        let again = scene.sent.len() - 1;
        assert_eq!(scene.shown()[again], row(method, first + 3, Some("m/00000001")));
        answer_with_session(&mut scene, again, allow);
        assert!(scene.leg.is_answered() && scene.unauthorized.is_empty());
        if method == "INVITE" {
            assert_eq!(scene.shown().last(), Some(&row("ACK", first + 3, Some("m/00000001"))));
        }
        scene.tell(|leg, out| leg.obey(Order::HangUp(HangupCause::Normal), out));
        assert_eq!(scene.shown().last(), Some(&row("BYE", first + 4, Some("m/00000002"))));
    }
}

#[test]
fn an_invite_that_is_sent_again_for_its_interval_has_the_next_count() {
    let mut scene = Scene::dial(Some(("trunk", "s3cret")));
    scene.answer(0, 401, &asks("WWW", "n", ""), "");
    scene.answer(2, 422, "Min-SE: 1800\r\n", "");
    let first = scene.sent[0].0.head.cseq.number;
    assert_eq!(scene.shown().last(), Some(&row("INVITE", first + 2, Some("n/00000002"))));
}

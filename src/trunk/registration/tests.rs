use super::*;
use crate::clock;
use crate::sip::message::{Message, Request};

const REGISTRAR: &str = "192.0.2.7";

/// One registration, its registrar, and what happened.
struct Scene {
    machine: Registration,
    now: Instant,
    start: Instant,
    sent: Vec<Request>,
    told: Vec<Action>,
    reliable: bool,
}

impl Scene {
    fn new() -> Self {
        Self::with("trunk")
    }

    fn with(username: &str) -> Self {
        let (username, password) = (username.to_owned(), "s3cret".to_owned().into());
        let credentials = Arc::new(Credentials { username, password, realm: None });
        let now = clock::now();
        let machine = Registration::new(&credentials, "trunk-a".to_owned(), IdSource::from_seed(1), now);
        let mut scene = Self { machine, now, start: now, sent: vec![], told: vec![], reliable: false };
        scene.wake();
        scene
    }

    fn way(&self) -> Box<Way> {
        Box::new(Way {
            registrar: "carrier.example:5080".to_owned(),
            address: REGISTRAR.parse().unwrap(),
            transport: "UDP",
            reliable: self.reliable,
            sent_by: "192.0.2.1:5060".to_owned(),
            contact: "sip:trunk-a@192.0.2.1:5060".to_owned(),
        })
    }

    fn take(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Send { wire, branch } => {
                    let Ok(Message::Request(request)) = Message::parse(wire) else { panic!() };
                    assert_eq!(request.head.via.branch.as_deref(), Some(branch.as_str()));
                    self.sent.push(request);
                }
                Action::Locate(_) => {
                    let way = self.way();
                    self.told.push(action);
                    let actions = self.machine.handle(Event::Located(Some(way)), self.now);
                    self.take(actions);
                }
                told => self.told.push(told),
            }
        }
    }

    /// Goes to the next deadline.
    fn wake(&mut self) {
        self.now = self.machine.deadline().unwrap().max(self.now);
        let actions = self.machine.handle(Event::Timeout, self.now);
        self.take(actions);
    }

    fn seconds(&self) -> u64 {
        (self.now - self.start).as_secs()
    }

    /// The registrar answers the last request.
    fn answer(&mut self, status: u16, headers: &str) {
        self.answer_from(REGISTRAR, status, headers);
    }

    fn answer_from(&mut self, source: &str, status: u16, headers: &str) {
        let head = &self.sent.last().unwrap().head;
        let text = format!(
            "SIP/2.0 {status} X\r\nVia: {}\r\nFrom: {}\r\nTo: {};tag=theirs\r\nCall-ID: {}\r\nCSeq: {} REGISTER\r\n\
             {headers}Content-Length: 0\r\n\r\n",
            head.via.raw(),
            head.from.raw(),
            head.to.raw(),
            head.call_id,
            head.cseq.number,
        );
        let Ok(Message::Response(response)) = Message::parse(Bytes::from(text)) else { panic!() };
        let actions = self.machine.handle(Event::Response(&response, source.parse().unwrap()), self.now);
        self.take(actions);
    }

    fn header(&self, name: &str) -> Option<String> {
        self.sent.last().unwrap().head.header(name).map(|value| value.into_owned())
    }

    fn stop(&mut self) {
        let actions = self.machine.handle(Event::Stop, self.now);
        self.take(actions);
    }
}

const OURS: &str = "Contact: <sip:trunk-a@192.0.2.1:5060>;expires=600\r\n";
const ASKS: &str = "WWW-Authenticate: Digest realm=\"r\", nonce=\"n\", qop=\"auth\"\r\n";

#[test]
fn rfc3261_10_2_a_register_names_the_registrar_the_user_and_our_contact() {
    let scene = Scene::new();
    let request = &scene.sent[0];
    assert_eq!((request.method.as_str(), request.uri.as_str()), ("REGISTER", "sip:carrier.example:5080"));
    assert_eq!(request.head.to.uri.as_str(), "sip:trunk@carrier.example");
    assert_eq!(request.head.from.uri.as_str(), "sip:trunk@carrier.example");
    assert_eq!(scene.header("Contact").as_deref(), Some("<sip:trunk-a@192.0.2.1:5060>"));
    assert_eq!(scene.header("Expires").as_deref(), Some("3600"));
    assert_eq!(scene.header("Authorization"), None, "nobody has asked yet");
}

#[test]
fn addresses_of_record_hold_whatever_a_user_is_called() {
    for (user, registrar, expected) in [
        ("trunk", "carrier.example", "sip:trunk@carrier.example"),
        ("trunk", "198.51.100.7:5080", "sip:trunk@198.51.100.7"),
        ("trunk", "[2001:db8::1]:5080", "sip:trunk@[2001:db8::1]"),
        ("trunk", "[2001:db8::1]", "sip:trunk@[2001:db8::1]"),
        ("+12025550100", "c", "sip:+12025550100@c"),
        ("me@realm.example", "c", "sip:me@realm.example"),
        ("a:b<c>", "c", "sip:a%3Ab%3Cc%3E@c"),
    ] {
        assert_eq!(address_of_record(user, registrar), expected);
    }
}

#[test]
fn a_challenge_is_answered_and_the_refresh_comes_before_the_registrar_forgets() {
    let mut scene = Scene::new();
    let first = scene.sent[0].head.cseq.number;
    scene.answer(401, ASKS);
    assert!(scene.header("Authorization").unwrap().contains("nc=00000001"));
    assert_eq!(scene.sent[1].head.cseq.number, first + 1);
    assert_eq!(scene.sent[1].head.call_id, scene.sent[0].head.call_id);
    assert_ne!(scene.sent[1].head.via.branch, scene.sent[0].head.via.branch);
    scene.answer(200, OURS);
    assert_eq!(scene.told, [Action::Locate(0), Action::Registered(Duration::from_secs(600))]);
    scene.wake();
    assert!((420..=480).contains(&scene.seconds()), "{}", scene.seconds());
    assert!(scene.header("Authorization").unwrap().contains("nc=00000002"), "it is not asked for again");
    assert_eq!(scene.sent[2].head.cseq.number, first + 2);
    // The nonce is old by now.
    scene.answer(401, &ASKS.replace("\"n\"", "\"m\", stale=true"));
    scene.answer(200, OURS);
    assert_eq!(scene.told.last(), Some(&Action::Registered(Duration::from_secs(600))));
}

#[test]
fn rfc3261_10_2_4_the_interval_is_what_the_registrar_grants_our_contact() {
    let table = [
        (OURS.to_owned(), Some(600)),
        (
            "Contact: <sip:other@h>;expires=60, <sip:trunk-a@203.0.113.9:1024;ob>;expires=120\r\n".to_owned(),
            Some(120),
        ),
        ("Contact: <sip:trunk-a@h>\r\nExpires: 300\r\n".to_owned(), Some(300)),
        ("Contact: <sip:trunk-a@h>\r\n".to_owned(), Some(3600)),
        ("Expires: 90\r\n".to_owned(), Some(90)),
        (String::new(), Some(3600)),
        ("Contact: <sip:trunk-a@h>;expires=99999999999\r\n".to_owned(), Some(MAX_EXPIRES)),
        ("Contact: <sip:trunk-a@h>;expires=0\r\n".to_owned(), None),
        ("Contact: <sip:other@h>;expires=60\r\n".to_owned(), None),
    ];
    for (headers, granted) in table {
        let mut scene = Scene::new();
        scene.answer(200, &headers);
        match granted {
            Some(seconds) => {
                let granted = Duration::from_secs(seconds.into());
                assert_eq!(scene.told.last(), Some(&Action::Registered(granted)), "{headers}");
            }
            None => {
                let failed = matches!(scene.told.last(), Some(Action::Failed(Failure::NotBound, _)));
                assert!(failed, "{headers}");
            }
        }
    }
}

#[test]
fn rfc3261_10_2_8_an_interval_that_is_too_brief_is_raised_once() {
    let mut scene = Scene::new();
    scene.answer(423, "Min-Expires: 7200\r\n");
    assert_eq!(scene.header("Expires").as_deref(), Some("7200"));
    scene.answer(401, ASKS);
    assert_eq!(scene.header("Expires").as_deref(), Some("7200"));
    scene.answer(423, "Min-Expires: 9000\r\n");
    assert!(matches!(scene.told.last(), Some(Action::Failed(Failure::Refused(423), _))), "{:?}", scene.told);
    for absurd in ["Min-Expires: 4294967295\r\n", "Min-Expires: x\r\n", ""] {
        let mut scene = Scene::new();
        scene.answer(423, absurd);
        let failed = matches!(scene.told.last(), Some(Action::Failed(Failure::IntervalTooLong, _)));
        assert!(failed, "{absurd}");
    }
}

#[test]
fn rfc5626_4_5_each_failure_waits_longer_and_goes_to_the_next_gateway() {
    let mut scene = Scene::new();
    let mut waits = vec![];
    for _ in 0..9 {
        scene.answer(503, "");
        let Some(Action::Failed(Failure::Refused(503), wait)) = scene.told.last() else { panic!() };
        waits.push(wait.as_secs_f64());
        scene.wake();
    }
    for (index, wait) in waits.iter().enumerate() {
        let most = (5.0 * f64::from(1 << index)).min(300.0);
        assert!((most / 2.0..=most).contains(wait), "{waits:?}");
    }
    let places: Vec<_> =
        scene.told.iter().filter(|told| matches!(told, Action::Locate(_))).cloned().collect();
    assert_eq!(places, (0..10).map(Action::Locate).collect::<Vec<_>>());
    scene.answer(200, OURS);
    scene.wake();
    scene.answer(503, "Retry-After: 120 (busy)\r\n");
    assert_eq!(scene.told.last(), Some(&Action::Failed(Failure::Refused(503), Duration::from_secs(120))));
}

#[test]
fn what_will_hardly_change_is_not_tried_often() {
    type Play = fn(&mut Scene);
    let wrong_password: Play = |scene| {
        scene.answer(401, ASKS);
        scene.answer(401, &ASKS.replace("\"n\"", "\"m\""));
    };
    let table: [(Play, Failure); 4] = [
        (|scene| scene.answer(403, ""), Failure::Refused(403)),
        (|scene| scene.answer(404, ""), Failure::Refused(404)),
        (wrong_password, Failure::Unauthorized(Unanswered::Refused)),
        (|scene| scene.answer(401, ""), Failure::Unauthorized(Unanswered::NoKnownChallenge)),
    ];
    for (play, failure) in table {
        let mut scene = Scene::new();
        play(&mut scene);
        let Some(Action::Failed(found, wait)) = scene.told.last() else { panic!("{failure}") };
        assert_eq!(*found, failure);
        assert!((150..=300).contains(&wait.as_secs()), "{failure} {wait:?}");
    }
}

#[test]
fn a_registrar_that_says_nothing_is_left_after_timer_f_and_one_that_has_no_address_at_once() {
    let mut scene = Scene::new();
    while !matches!(scene.told.last(), Some(Action::Failed(..))) {
        scene.wake();
    }
    assert_eq!((scene.seconds(), scene.sent.len()), (32, 11), "RFC 3261 §17.1.2.2");
    assert!(matches!(scene.told.last(), Some(Action::Failed(Failure::NoAnswer, _))));

    let mut scene = Scene::new();
    let branch = scene.sent[0].head.via.branch.clone().unwrap();
    let actions = scene.machine.handle(Event::NotSent("z9hG4bKother"), scene.now);
    assert_eq!(actions, []);
    let actions = scene.machine.handle(Event::NotSent(&branch), scene.now);
    assert!(matches!(actions.as_slice(), [Action::Failed(Failure::NotSent, _)]));
    scene.now = scene.machine.deadline().unwrap();
    assert_eq!(scene.machine.handle(Event::Timeout, scene.now), [Action::Locate(1)]);
    let actions = scene.machine.handle(Event::Located(None), scene.now);
    assert!(matches!(actions.as_slice(), [Action::Failed(Failure::NoAddress, _)]));
    // A look-up that never ends.
    scene.now = scene.machine.deadline().unwrap();
    assert_eq!(scene.machine.handle(Event::Timeout, scene.now), [Action::Locate(2)]);
    scene.now = scene.machine.deadline().unwrap();
    let actions = scene.machine.handle(Event::Timeout, scene.now);
    assert!(matches!(actions.as_slice(), [Action::Failed(Failure::NoAddress, _)]));
}

#[test]
fn nobody_but_the_registrar_is_believed() {
    let mut scene = Scene::new();
    scene.answer_from("203.0.113.9", 401, ASKS);
    scene.answer_from("203.0.113.9", 200, OURS);
    assert_eq!((scene.sent.len(), scene.told.as_slice()), (1, [Action::Locate(0)].as_slice()));
    scene.answer(100, "");
    scene.answer(200, OURS);
    assert_eq!(scene.told.len(), 2);
    scene.answer(200, OURS);
    assert_eq!(scene.told.len(), 2, "a repeated answer changes nothing");
}

#[test]
fn a_registration_that_cannot_be_refreshed_runs_out_and_comes_back() {
    let mut scene = Scene::new();
    scene.answer(200, OURS);
    scene.wake();
    while !scene.told.contains(&Action::Lost) {
        let asking = matches!(scene.machine.state, State::Asking(_));
        if asking {
            scene.answer(500, "");
        }
        scene.wake();
    }
    assert_eq!(scene.seconds(), 600);
    while !matches!(scene.machine.state, State::Asking(_)) {
        scene.wake();
    }
    scene.answer(200, OURS);
    assert_eq!(scene.told.last(), Some(&Action::Registered(Duration::from_secs(600))));
}

#[test]
fn rfc3261_10_2_2_who_goes_takes_his_contact_back() {
    let mut scene = Scene::new();
    scene.answer(401, ASKS);
    scene.answer(200, OURS);
    scene.stop();
    assert_eq!((scene.header("Expires").as_deref(), scene.sent.len()), (Some("0"), 3));
    assert!(scene.header("Authorization").unwrap().contains("nc=00000002"));
    scene.answer(401, &ASKS.replace("\"n\"", "\"m\", stale=true"));
    assert_eq!(scene.header("Expires").as_deref(), Some("0"));
    scene.stop();
    assert_eq!(scene.sent.len(), 4, "once is enough");
    scene.answer(200, "");
    assert_eq!((scene.told.last(), scene.machine.is_over()), (Some(&Action::Over), true));
    assert_eq!(scene.machine.deadline(), None);
}

#[test]
fn who_goes_need_not_wait_for_an_answer_nor_take_back_what_was_never_there() {
    // In the middle of asking: it may have arrived.
    let mut scene = Scene::new();
    scene.stop();
    assert_eq!((scene.header("Expires").as_deref(), scene.sent.len()), (Some("0"), 2));
    scene.answer(503, "");
    assert!(scene.machine.is_over());
    // Refused, and waiting for the next try.
    let mut scene = Scene::new();
    scene.answer(403, "");
    scene.stop();
    assert_eq!((scene.sent.len(), scene.machine.is_over()), (1, true));
    // No answer at all.
    let mut scene = Scene::new();
    scene.answer(200, OURS);
    scene.stop();
    while !scene.machine.is_over() {
        scene.wake();
    }
    assert!(scene.seconds() <= 33);
}

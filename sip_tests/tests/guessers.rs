//! Ten thousand calls of fifty people who guess PINs, through the real call machine and the real limits, by a simulated
//! clock: no socket, no database, no sleep. Held against product.md, "Guessing".

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests may panic like tests")]

use bytes::Bytes;
use maskline::call::cdr::{ClockPair, HangupCause};
use maskline::call::identity::LegAddress;
use maskline::call::machine::CallParameters;
use maskline::call::{Action, Call, Event, Found, Hop, Outlet, Place};
use maskline::ids::IdSource;
use maskline::masking::guessing::{Bucket, CALLER_LIMIT, Tally, count_in_all};
use maskline::masking::route::Query;
use maskline::masking::session::{HttpMethod, MaskingSession, Pin, PinSettings, RecordFormat};
use maskline::number::{Did, E164};
use maskline::prompts::PromptLibrary;
use maskline::sip::message::{Message, Request};
use maskline::sip::transport::{Flow, Protocol};
use maskline::store::{NoSession, Route, VirtualNumber};
use maskline::trunk::resolve::Target;
use maskline::trunk::{Transport, Trunk};
use media::{CallStatistics, Digit, MediaCommand, MediaEvent, PlayMode, Side};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

const FIRST: &str = "+12025550142";
const SECOND: &str = "+12025550143";
/// A party of a session that forces its PIN.
const FORCED: &str = "+12025550144";
const FORCED_PIN: &str = "8020";
/// A number with one PIN session, one with sixteen, one whose session forces its parties' PINs.
const LONELY: &str = "+12025550100";
const CROWDED: &str = "+12025550101";
const FORCING: &str = "+12025550102";
const RETRIES: u8 = 1;
const DAY: Duration = Duration::from_secs(24 * 3600);
const GUESSERS: usize = 50;
/// Of these so many hide their number and share one bucket.
const HIDDEN: usize = 5;

/// Wall time begins with the epoch.
fn epoch_plus<T: Default + std::ops::Add<Duration, Output = T>>(elapsed: Duration) -> T {
    T::default() + elapsed
}

fn session(
    number: &str,
    parties: [&str; 2],
    pins: [&str; 2],
    force: bool,
    ids: &mut IdSource,
) -> MaskingSession {
    MaskingSession {
        uuid: ids.uuid(epoch_plus(Duration::ZERO)),
        account: "MAGUESSERSGUESSERS01".into(),
        subaccount: None,
        virtual_number: Did::parse(number).unwrap(),
        first_party: E164::parse(parties[0]),
        second_party: E164::parse(parties[1]),
        created_at: epoch_plus(Duration::ZERO),
        modified_at: epoch_plus(Duration::ZERO),
        expires_at: epoch_plus(50 * DAY),
        ended_at: None,
        call_time_limit: Duration::from_secs(120),
        ring_timeout: Duration::from_secs(30),
        record: false,
        record_file_format: RecordFormat::Mp3,
        recording_callback_url: String::new(),
        recording_callback_method: HttpMethod::Post,
        callback_url: String::new(),
        callback_method: HttpMethod::Post,
        initiate_call_to_first_party: false,
        first_party_play_url: String::new(),
        second_party_play_url: String::new(),
        pin: Some(PinSettings {
            first_party_pin: Pin::parse(pins[0]).unwrap(),
            second_party_pin: Pin::parse(pins[1]).unwrap(),
            prompt_play: String::new(),
            retry: RETRIES,
            retry_wait: Duration::from_secs(5),
            incorrect_play: String::new(),
            force,
            generated: false,
            generate_length: 4,
        }),
        unknown_caller_play: String::new(),
        geomatch: false,
        single_party: None,
        cooloff: Duration::ZERO,
    }
}

/// Who calls, and what he types at each prompt.
#[derive(Debug, Clone)]
struct Caller {
    /// `None`: hidden.
    number: Option<String>,
    dials: &'static str,
    /// Entries in turn; a guesser takes them from the common list.
    types: Vec<String>,
    guesses: bool,
}

struct Line {
    call: Call,
    caller: Caller,
    number: usize,
    began: Duration,
    prompts: usize,
    playing: u64,
    collecting: bool,
    media_open: bool,
    /// Entries that the machine took from this call.
    entries: u32,
    rung: bool,
}

enum Due {
    Dial(Caller),
    Event(Event),
    Key(Digit),
    Played(u64),
    /// The caller has heard enough.
    HangUp,
}

/// One entry that was let through to the comparison.
struct Judged {
    at: Duration,
    buckets: Vec<Bucket>,
}

/// A call that is over.
struct Over {
    caller: Caller,
    rung: bool,
    entries: u32,
    lasted: Duration,
}

/// The service without its shell: one thread, one clock.
struct Exchange {
    start: Instant,
    now: Duration,
    agenda: BTreeMap<(Duration, u64), (usize, Due)>,
    number: u64,
    lines: BTreeMap<usize, Line>,
    sessions: Vec<MaskingSession>,
    trunk: Arc<Trunk>,
    prompts: PromptLibrary,
    ids: IdSource,
    tallies: HashMap<String, Tally>,
    /// False: what the limits are there for.
    limited: bool,
    judged: Vec<Judged>,
    locked: usize,
    over: Vec<Over>,
    /// What guessers try next, each PIN once.
    next_guess: u32,
}

impl Exchange {
    fn new(limited: bool) -> Self {
        let mut ids = IdSource::from_seed(4);
        let mut sessions = vec![
            session(LONELY, [FIRST, SECOND], ["9871", "9872"], false, &mut ids),
            session(FORCING, [FORCED, SECOND], [FORCED_PIN, "8021"], true, &mut ids),
        ];
        for n in 0..16 {
            let parties = [format!("+120255601{n:02}"), format!("+120255602{n:02}")];
            let pins = [format!("97{n:02}"), format!("96{n:02}")];
            let (parties, pins) =
                (parties.each_ref().map(String::as_str), pins.each_ref().map(String::as_str));
            sessions.push(session(CROWDED, parties, pins, false, &mut ids));
        }
        Self {
            start: maskline::clock::now(),
            now: Duration::ZERO,
            agenda: BTreeMap::new(),
            number: 0,
            lines: BTreeMap::new(),
            sessions,
            trunk: Arc::new(Trunk::named("carrier")),
            prompts: PromptLibrary::default(),
            ids,
            tallies: HashMap::new(),
            limited,
            judged: vec![],
            locked: 0,
            over: vec![],
            next_guess: 0,
        }
    }

    fn later(&mut self, at: Duration, line: usize, due: Due) {
        self.number += 1;
        self.agenda.insert((at, self.number), (line, due));
    }

    fn dial_at(&mut self, at: Duration, caller: Caller) {
        self.later(at, usize::MAX, Due::Dial(caller));
    }

    /// Until every call is over.
    fn run(&mut self) {
        loop {
            let waits =
                |(line, entry): (&usize, &Line)| entry.call.deadline().map(|at| (at - self.start, *line));
            let timer = self.lines.iter().filter_map(waits).min();
            let next = self.agenda.first_key_value().map(|(key, _)| key.0);
            match (timer, next) {
                (Some((at, line)), next) if next.is_none_or(|next| at < next) => {
                    self.now = at.max(self.now);
                    self.feed(line, Event::Timeout);
                }
                (_, Some(at)) => {
                    self.now = at.max(self.now);
                    let (_, (line, due)) = self.agenda.pop_first().unwrap();
                    self.happen(line, due);
                }
                (_, None) => return,
            }
        }
    }

    fn happen(&mut self, line: usize, due: Due) {
        if let Due::Dial(caller) = due {
            return self.dial(caller);
        }
        let Some(entry) = self.lines.get_mut(&line) else { return };
        let event = match due {
            Due::Event(event) => event,
            Due::Key(digit) if entry.collecting => {
                Event::Media(Box::new(MediaEvent::Digit { side: Side::A, digit }))
            }
            Due::Played(which) if entry.playing == which => {
                entry.playing = 0;
                Event::Media(Box::new(MediaEvent::PlayFinished { side: Side::A }))
            }
            Due::HangUp => Event::HangUp(HangupCause::Normal),
            Due::Key(_) | Due::Played(_) | Due::Dial(_) => return,
        };
        self.feed(line, event);
    }

    fn flow(&self) -> Flow {
        Flow {
            protocol: Protocol::Udp,
            local: "203.0.113.10:5060".parse().unwrap(),
            peer: "198.51.100.7:5060".parse().unwrap(),
            connection: None,
        }
    }

    fn leg_address(&mut self) -> LegAddress {
        LegAddress {
            protocol: Protocol::Udp,
            sip: "203.0.113.10:5060".parse().unwrap(),
            media: "203.0.113.10".parse().unwrap(),
            bind: "203.0.113.10".parse().unwrap(),
            contact_user: self.ids.contact_user(),
            sips: false,
        }
    }

    fn dial(&mut self, caller: Caller) {
        self.number += 1;
        let line = usize::try_from(self.number).unwrap();
        let from = caller.number.as_deref().unwrap_or("anonymous");
        let invite = request(&format!("INVITE sip:{}@203.0.113.10 SIP/2.0", caller.dials), from, line, true);
        let flow = self.flow();
        let address = self.leg_address();
        let now = self.start + self.now;
        let parameters = CallParameters {
            trunk: Arc::clone(&self.trunk),
            ids: IdSource::from_seed(self.number),
            prompts: self.prompts.clone(),
            clock: ClockPair { instant: now, wall: epoch_plus(self.now) },
            recordings: PathBuf::from("/recordings"),
        };
        let (call, actions) = Call::offered(&invite, &flow, address, parameters, now).unwrap();
        let entry = Line {
            call,
            caller,
            number: line,
            began: self.now,
            prompts: 0,
            playing: 0,
            collecting: false,
            media_open: false,
            entries: 0,
            rung: false,
        };
        self.lines.insert(line, entry);
        self.perform(line, actions);
    }

    fn feed(&mut self, line: usize, event: Event) {
        let now = self.start + self.now;
        let Some(entry) = self.lines.get_mut(&line) else { return };
        let actions = entry.call.handle(event, now);
        self.perform(line, actions);
    }

    fn perform(&mut self, line: usize, actions: Vec<Action>) {
        for action in actions {
            let Some(entry) = self.lines.get_mut(&line) else { return };
            match action {
                Action::Send { wire, .. } if wire.starts_with(b"SIP/2.0 200") => {
                    self.acknowledge(line, &wire)
                }
                Action::Send { wire, .. } if wire.starts_with(b"INVITE ") => {
                    entry.rung = true;
                    // Whoever is rung does not matter here.
                    self.later(self.now, line, Due::HangUp);
                }
                Action::FindSession(look_up, query, buckets) => {
                    let found = self.find(line, &query, &buckets);
                    let found = Event::Found(look_up, Ok(Box::new(found)));
                    self.later(self.now + Duration::from_millis(5), line, Due::Event(found));
                }
                Action::ForgiveGuess(buckets) => {
                    for bucket in &buckets {
                        if let Some(tally) = self.tallies.get_mut(&bucket.key()) {
                            *tally = tally.forgive();
                        }
                    }
                }
                Action::OpenMedia { .. } => {
                    entry.media_open = true;
                    self.later(self.now, line, Due::Event(Event::MediaOpened(Ok((16_384, 16_386)))));
                }
                Action::Media(command) => self.media(line, command),
                Action::CloseCall(_) => {
                    let entry = self.lines.remove(&line).unwrap();
                    assert_eq!(entry.number, line);
                    let lasted = self.now - entry.began;
                    let (caller, rung, entries) = (entry.caller, entry.rung, entry.entries);
                    self.over.push(Over { caller, rung, entries, lasted });
                    return;
                }
                _ => {}
            }
        }
    }

    /// The caller's ACK, which comes at once.
    fn acknowledge(&mut self, line: usize, ok: &Bytes) {
        let text = String::from_utf8_lossy(ok);
        let is_invite = text.contains("CSeq: 1 INVITE");
        let to = text.lines().find_map(|line| line.strip_prefix("To: ")).unwrap().to_owned();
        if is_invite {
            let caller = &self.lines[&line].caller;
            let from = caller.number.clone().unwrap_or_else(|| "anonymous".into());
            let start = format!("ACK sip:{}@203.0.113.10 SIP/2.0", caller.dials);
            let ack = request_to(&start, &from, &to, line, false);
            let flow = self.flow();
            let ack = Event::Message(Box::new((Message::Request(ack), flow)));
            self.later(self.now + Duration::from_millis(20), line, Due::Event(ack));
        }
    }

    fn media(&mut self, line: usize, command: MediaCommand) {
        self.number += 1;
        let number = self.number;
        let entry = self.lines.get_mut(&line).unwrap();
        match command {
            MediaCommand::CollectDigits { on, .. } => entry.collecting = on,
            MediaCommand::StopPlay { .. } => entry.playing = 0,
            MediaCommand::Play { prompt, mode, .. } => {
                entry.playing = number;
                if mode == PlayMode::Once {
                    self.later(self.now + prompt.duration(), line, Due::Played(number));
                }
                if prompt.name() == "enter_pin" {
                    self.type_pin(line);
                }
            }
            MediaCommand::Close => {
                entry.media_open = false;
                let closed = Event::Media(Box::new(MediaEvent::Closed(CallStatistics::default())));
                self.later(self.now, line, Due::Event(closed));
            }
            _ => {}
        }
    }

    fn type_pin(&mut self, line: usize) {
        let entry = self.lines.get_mut(&line).unwrap();
        let keys = if entry.caller.guesses {
            self.next_guess += 1;
            Some(format!("{:04}", (self.next_guess - 1) % 10_000))
        } else {
            entry.caller.types.get(entry.prompts).cloned()
        };
        entry.prompts += 1;
        for (n, key) in keys.unwrap_or_default().chars().enumerate() {
            let at =
                self.now + Duration::from_secs(1) + Duration::from_millis(150) * u32::try_from(n).unwrap();
            self.later(at, line, Due::Key(Digit::from_char(key).unwrap()));
        }
    }

    /// What the store would find, and whether it lets the entry be judged.
    fn find(&mut self, line: usize, query: &Query, buckets: &[Bucket]) -> Found {
        let at = epoch_plus(self.now);
        let mut may_judge = true;
        if !buckets.is_empty() {
            self.lines.get_mut(&line).unwrap().entries += 1;
            let tally = |bucket: &Bucket| {
                self.tallies.get(&bucket.key()).copied().unwrap_or_else(|| Tally::empty(at))
            };
            let counted = count_in_all(buckets.iter().map(|bucket| (bucket, tally(bucket))), at);
            may_judge = counted.is_ok() || !self.limited;
            for (bucket, tally) in buckets.iter().zip(counted.into_iter().flatten()) {
                self.tallies.insert(bucket.key(), tally);
            }
            if may_judge {
                self.judged.push(Judged { at: self.now, buckets: buckets.to_vec() });
            } else {
                self.locked += 1;
            }
        }
        let on_number = self.sessions.iter().filter(|session| session.virtual_number == query.dialled);
        let own: Vec<_> = on_number
            .clone()
            .filter(|session| query.caller.as_ref().is_some_and(|caller| session.role_of(caller).is_some()))
            .cloned()
            .collect();
        let sessions = if own.is_empty() { on_number.cloned().collect() } else { own };
        let number = VirtualNumber {
            did: query.dialled.clone(),
            trunk: "carrier".into(),
            account: "MAGUESSERSGUESSERS01".into(),
            no_session: NoSession::Reject,
        };
        let outlet = Outlet {
            trunk: Arc::clone(&self.trunk),
            hop: Hop {
                protocol: Protocol::Udp,
                place: Place::Address("192.0.2.21:5060".parse().unwrap()),
                connection: None,
                local: None,
                pinned: true,
                name: None,
                token: None,
            },
            host: "192.0.2.21".into(),
            address: self.leg_address(),
            target: Target { transport: Transport::Udp, address: "192.0.2.21:5060".parse().unwrap() },
            is_news: true,
        };
        let sessions = sessions.into_iter().map(Arc::new).collect();
        let route = Some(Route { number, sessions });
        Found { route, partner: None, outlets: vec![outlet], at, may_judge }
    }

    /// When a bucket's entries were judged.
    fn judged_in(&self, key: &str) -> Vec<Duration> {
        let of_bucket = |judged: &&Judged| judged.buckets.iter().any(|bucket| bucket.key() == key);
        self.judged.iter().filter(of_bucket).map(|judged| judged.at).collect()
    }
}

fn request(start: &str, from: &str, line: usize, sdp: bool) -> Request {
    request_to(start, from, "<sip:number@203.0.113.10>", line, sdp)
}

fn request_to(start: &str, from: &str, to: &str, line: usize, sdp: bool) -> Request {
    let method = start.split(' ').next().unwrap();
    let body = if sdp {
        "v=0\r\no=- 1 1 IN IP4 198.51.100.9\r\ns=-\r\nc=IN IP4 198.51.100.9\r\nt=0 0\r\n\
         m=audio 40000 RTP/AVP 0 101\r\na=rtpmap:101 telephone-event/8000\r\n"
    } else {
        ""
    };
    let text = format!(
        "{start}\r\nVia: SIP/2.0/UDP 198.51.100.7;branch=z9hG4bK{method}{line};rport\r\n\
         From: <sip:{from}@carrier.example>;tag=f{line}\r\nTo: {to}\r\nCall-ID: {line}@carrier\r\n\
         CSeq: 1 {method}\r\nContact: <sip:198.51.100.7>\r\nMax-Forwards: 70\r\n\
         Content-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    match Message::parse(Bytes::from(text)).unwrap() {
        Message::Request(request) => request,
        Message::Response(_) => unreachable!(),
    }
}

fn guesser(n: usize, dials: &'static str) -> Caller {
    let number = (n >= HIDDEN).then(|| format!("+120255577{n:02}"));
    Caller { number, dials, types: vec![], guesses: true }
}

fn known(number: &str, dials: &'static str, types: &[&str]) -> Caller {
    let types = types.iter().map(|keys| (*keys).to_owned()).collect();
    Caller { number: Some(number.into()), dials, types, guesses: false }
}

#[test]
fn ten_thousand_calls_of_fifty_guessers_stay_within_the_limits_and_hurt_nobody_else() {
    const CALLS: u32 = 10_000;
    let mut exchange = Exchange::new(true);
    // All day long, one call after the other; the crowded number gets every tenth.
    for n in 0..CALLS {
        let dials = if n % 10 == 0 { CROWDED } else { LONELY };
        let who = usize::try_from(n).unwrap() * 7 / 10 % GUESSERS;
        exchange.dial_at((DAY - Duration::from_secs(120)) * n / CALLS, guesser(who, dials));
    }
    // People whom the sessions know, meanwhile.
    for n in 0..200 {
        let at = DAY * n / 201 + Duration::from_millis(77);
        exchange.dial_at(at, known(FIRST, LONELY, &[]));
        exchange.dial_at(at, known("+12025560107", CROWDED, &[]));
        exchange.dial_at(at, known(FORCED, FORCING, &[FORCED_PIN]));
    }
    exchange.run();
    assert!(exchange.lines.is_empty());
    let (guessed, honest): (Vec<_>, Vec<_>) = exchange.over.iter().partition(|over| over.caller.guesses);
    assert_eq!((guessed.len(), honest.len()), (10_000, 600));

    // At most 1 + pin_retry entries per call: who is locked out types as many in vain.
    assert!(guessed.iter().all(|over| over.entries == 1 + u32::from(RETRIES)));
    let entries: u32 = guessed.iter().map(|over| over.entries).sum();
    assert_eq!(usize::try_from(entries).unwrap() + 200, exchange.judged.len() + exchange.locked);

    // Ten per caller and day; those without a number share one bucket.
    let callers: BTreeSet<String> = exchange
        .judged
        .iter()
        .flat_map(|judged| &judged.buckets)
        .filter(|bucket| matches!(bucket, Bucket::Caller(_) | Bucket::Anonymous(_)))
        .map(Bucket::key)
        .collect();
    for key in &callers {
        let judged = exchange.judged_in(key).len();
        assert!(judged <= usize::try_from(CALLER_LIMIT).unwrap(), "{judged} judged of one caller");
    }
    assert!(callers.contains("anonymous:carrier"));

    // Sixty per number and day, or six when it is shared by sixteen sessions; then pauses.
    for (number, pin_sessions, most) in [(LONELY, 1, 60), (CROWDED, 16, 6)] {
        let bucket = Bucket::Number { did: Did::parse(number).unwrap(), pin_sessions };
        assert_eq!(bucket.limit(), most);
        let judged = exchange.judged_in(&bucket.key());
        assert!(judged.len() <= usize::try_from(most).unwrap(), "{number}: {} judged", judged.len());
        // The guessers do not even reach it: the pauses add up to more than a day.
        let third = usize::try_from(most / 3).unwrap();
        assert!(judged.len() > third, "{number}: {} judged", judged.len());
        for (count, pair) in judged.windows(2).enumerate() {
            let wrong = count + 1;
            let pause = match wrong.checked_sub(third) {
                None | Some(0) => 0,
                Some(further) => (60 << (further - 1).min(6)).min(3600),
            };
            let waited = (pair[1] - pair[0]).as_secs_f64();
            assert!(waited >= f64::from(pause), "{number}: {waited} s after {wrong} wrong entries");
        }
        // 2 PINs of 10,000 in each session.
        let chance = judged.len() as f64 * f64::from(2 * pin_sessions) / 10_000.0;
        assert!(chance < 0.02, "{number}: {chance}");
    }

    // Nobody got through, and nobody can hear whether he was judged: every such call takes equally long.
    assert_eq!(guessed.iter().filter(|over| over.rung).count(), 0);
    let lengths: BTreeSet<Duration> = guessed.iter().map(|over| over.lasted).collect();
    assert_eq!(lengths.len(), 1, "{lengths:?}");

    // Known callers never wait, whatever strangers do: 5 ms for the look-up, and the length of a PIN.
    for over in honest {
        assert!(over.rung, "{}", over.caller.dials);
        let most = if over.caller.types.is_empty() { 10 } else { 2000 };
        assert!(over.lasted <= Duration::from_millis(most), "{}: {:?}", over.caller.dials, over.lasted);
    }
    let forced = exchange.judged.iter().filter(|judged| matches!(judged.buckets[0], Bucket::Forced(..)));
    assert_eq!(forced.count(), 200);
    println!(
        "{} calls, {entries} entries, {} judged, {} locked",
        guessed.len(),
        exchange.judged.len() - 200,
        exchange.locked
    );
}

/// The same guessers without the limits get through: the test above can fail.
#[test]
fn without_limits_the_guessers_find_every_pin() {
    let mut exchange = Exchange::new(false);
    for n in 0..5000 {
        exchange.dial_at(Duration::from_secs(9) * n, guesser(usize::try_from(n).unwrap() % GUESSERS, LONELY));
    }
    exchange.run();
    let hits = exchange.over.iter().filter(|over| over.rung).count();
    assert_eq!(hits, 2, "both PINs of the session");
}

//! What happens in one run: who calls whom, what the phones, the network, the store and the media do. Drawn from
//! a seed, or written by hand for a race that has a name.

use super::phone::{CalleePlan, CallerPlan, Deed, Step};
use maskline::ids::IdSource;
use maskline::masking::session::{HttpMethod, MaskingSession, Pin, PinSettings, RecordFormat};
use maskline::number::{Did, E164};
use maskline::store::NoSession;
use maskline::trunk::Prack;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use sip_tests::sdp::SdpOptions;
use sip_tests::sim::Link;
use std::net::SocketAddr;
use std::time::Duration;

/// The service, as the phones see it.
pub const SERVICE: &str = "203.0.113.10:5060";
/// What the parties dial.
pub const DID: &str = "+12025550100";
/// A number that the service does not have.
pub const NOT_OURS: &str = "+12025550199";

/// The kinds of network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Nothing is lost, 1 ms.
    Calm,
    /// Nothing is lost, 0–300 ms: much is overtaken.
    Slow,
    /// 5–20 % are lost.
    Lossy,
    /// 10–20 % are lost, a tenth is doubled, a tenth takes a detour.
    Stormy,
    /// Once in the call nothing arrives at all for a while.
    Broken,
    /// The caller's side is a TCP connection, and often the gateways' as well.
    Stream,
    /// The API places the call: both legs are the service's own. Any network.
    Placed,
    /// A session that knows one party, which is called and calls back. Any network.
    Single,
    /// Nobody who calls is known. Any network.
    Strangers,
    /// Session timers, reliable responses and offers at any time, on both sides. Any network.
    Races,
}

/// How the store answers one look-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LookUp {
    /// After so long.
    Found(Duration),
    /// It fails after so long.
    Fails(Duration),
    /// It never says anything.
    Never,
}

/// What a caller types when he hears the PIN prompt.
#[derive(Debug, Clone)]
pub struct Typing {
    /// Since the prompt began.
    pub after: Duration,
    /// Between two keys.
    pub gap: Duration,
    /// The keys.
    pub keys: String,
    /// As INFO instead of telephone-event.
    pub by_info: bool,
}

/// What the media does beside what it is told.
#[derive(Debug, Clone)]
pub struct MediaPlan {
    /// No port is free.
    pub no_port: bool,
    /// Binding takes so long; zero: at once, as in service.
    pub open_delay: Duration,
    /// From Close to what is reported of it; `None`: nothing ever is.
    pub close_delay: Option<Duration>,
    /// Silence is found so long after the ports were bound.
    pub silence_after: Option<Duration>,
    /// How long the manifest takes.
    pub filing_delay: Duration,
    /// How long storing the CDR takes; `None`: for ever.
    pub cdr_delay: Option<Duration>,
}

/// Somebody behind the gateways: INVITEs for this number reach these phones, one behind each gateway.
#[derive(Debug, Clone)]
pub struct PartyPlan {
    pub number: String,
    pub phones: Vec<CalleePlan>,
}

/// The API places a call of the first session.
#[derive(Debug, Clone)]
pub struct PlacedPlan {
    pub at: Duration,
    /// What the first party, who is [`Plan::parties`]' first, types for each PIN prompt in turn.
    pub typing: Vec<Typing>,
}

/// Messages that do not arrive.
#[derive(Debug, Clone)]
pub struct Lost {
    /// `service`, `caller 0`, `gateway 0`.
    pub from: &'static str,
    /// `ACK`, `200 BYE`.
    pub what: &'static str,
    /// The first so many.
    pub times: u32,
}

/// One run.
#[derive(Debug, Clone)]
pub struct Plan {
    pub seed: u64,
    pub profile: Profile,
    /// Everything between phones and service, until the weather changes.
    pub link: Link,
    /// From then on.
    pub weather: Vec<(Duration, Link)>,
    /// What is lost by name.
    pub lost: Vec<Lost>,
    /// What gateways say takes so much longer.
    pub gateway_delay: Duration,
    /// Every call that is made.
    pub callers: Vec<CallerPlan>,
    /// The gateways of the number's trunk, in order.
    pub gateways: Vec<CalleePlan>,
    /// Whoever is not meant by `gateways`, which stand for everybody else.
    pub parties: Vec<PartyPlan>,
    /// The number of whoever `gateways` stand for, when it is one person.
    pub known: Option<String>,
    pub placed: Option<PlacedPlan>,
    /// All sessions on the number.
    pub sessions: Vec<MaskingSession>,
    pub no_session: NoSession,
    /// For each look-up in turn; then 5 ms.
    pub look_ups: Vec<LookUp>,
    pub media: MediaPlan,
    /// The API ends every call at this time.
    pub hang_up_at: Option<Duration>,
    /// Every session is deleted at this time.
    pub delete_at: Option<Duration>,
    /// Both phones send BYE at the same moment, so long after the bridge.
    pub both_hang_up_after: Option<Duration>,
    /// The gateway URIs name a transport.
    pub pinned: bool,
    /// Nothing can be sent by TCP to the gateways, which is found so long after it was tried.
    pub tcp_fails: Option<Duration>,
    /// INVITEs per second that the service's trunk to the gateways takes.
    pub calls_per_second: Option<u32>,
    /// For how long an INVITE may wait for its turn.
    pub longest_queue: Duration,
    /// Early media of the B-leg may pass.
    pub early_media: bool,
    /// Reliable provisional responses, on both trunks.
    pub prack: Prack,
    /// The session interval that the service asks for, on both trunks.
    pub session_timer: Option<u32>,
}

/// A caller's device, number `n` of the run.
pub fn caller_address(n: usize) -> SocketAddr {
    format!("198.51.100.{}:5062", 11 + n).parse().unwrap()
}

/// A gateway.
pub fn gateway_address(n: usize) -> SocketAddr {
    format!("192.0.2.{}:5070", 21 + n).parse().unwrap()
}

pub const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

pub const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// An ordinary session between two parties.
pub fn session(first: &str, second: Option<&str>, ids: &mut IdSource) -> MaskingSession {
    MaskingSession {
        uuid: ids.uuid(epoch_plus(Duration::ZERO)),
        account: "MASIMULATIONSIMULATI".into(),
        subaccount: None,
        virtual_number: Did::parse(DID).unwrap(),
        first_party: E164::parse(first),
        second_party: second.and_then(E164::parse),
        created_at: Default::default(),
        modified_at: Default::default(),
        expires_at: epoch_plus(s(36_000)),
        ended_at: None,
        call_time_limit: s(120),
        ring_timeout: s(30),
        record: true,
        record_file_format: RecordFormat::Mp3,
        recording_callback_url: String::new(),
        recording_callback_method: HttpMethod::Post,
        callback_url: String::new(),
        callback_method: HttpMethod::Post,
        initiate_call_to_first_party: false,
        first_party_play_url: String::new(),
        second_party_play_url: String::new(),
        pin: None,
        unknown_caller_play: String::new(),
        geomatch: false,
        single_party: None,
        cooloff: Duration::ZERO,
    }
}

/// Wall time in the simulation: it begins with the epoch.
pub fn epoch_plus<T: Default + std::ops::Add<Duration, Output = T>>(elapsed: Duration) -> T {
    T::default() + elapsed
}

/// PIN settings whose PINs are `first` and `second`.
pub fn pins(first: &str, second: &str, retry: u8) -> PinSettings {
    PinSettings {
        first_party_pin: Pin::parse(first).unwrap(),
        second_party_pin: Pin::parse(second).unwrap(),
        prompt_play: String::new(),
        retry,
        retry_wait: s(5),
        incorrect_play: String::new(),
        force: false,
        generated: false,
        generate_length: 4,
    }
}

impl Plan {
    /// A plain call between the two parties of a session: rings, is answered after a second; the caller hangs up
    /// three seconds later.
    pub fn plain(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed ^ 0x706c_616e);
        let (first, second) = (number(&mut random, "49151"), number(&mut random, "33612"));
        let mut ids = IdSource::from_seed(seed ^ 0x7365_7373);
        Self {
            seed,
            profile: Profile::Calm,
            link: Link::perfect(),
            weather: vec![],
            lost: vec![],
            gateway_delay: Duration::ZERO,
            callers: vec![CallerPlan::plain(&first, &mut random)],
            gateways: vec![CalleePlan::plain(&mut random)],
            parties: vec![],
            known: None,
            placed: None,
            sessions: vec![session(&first, Some(&second), &mut ids)],
            no_session: NoSession::Reject,
            look_ups: vec![],
            media: MediaPlan {
                no_port: false,
                open_delay: Duration::ZERO,
                close_delay: Some(ms(20)),
                silence_after: None,
                filing_delay: ms(5),
                cdr_delay: Some(ms(5)),
            },
            hang_up_at: None,
            delete_at: None,
            both_hang_up_after: None,
            pinned: true,
            tcp_fails: None,
            calls_per_second: None,
            longest_queue: s(1),
            early_media: true,
            prack: Prack::Supported,
            session_timer: None,
        }
    }

    /// Somebody wants session timers, so that the service may have something to ask.
    pub fn has_timers(&self) -> bool {
        let named =
            |headers: &[(&'static str, String)]| headers.iter().any(|(name, _)| *name == "Session-Expires");
        let asks = |deeds: &[(Duration, Deed)]| {
            deeds.iter().any(|(_, deed)| matches!(deed, Deed::UpdateWith(headers) if named(headers)))
        };
        let mut phones = self.gateways.iter().chain(self.parties.iter().flat_map(|party| &party.phones));
        self.session_timer.is_some()
            || self.callers.iter().any(|caller| named(&caller.headers) || asks(&caller.deeds))
            || phones.any(|phone| named(&phone.headers) || asks(&phone.deeds))
    }

    /// The one caller.
    pub fn caller(&mut self) -> &mut CallerPlan {
        self.callers.first_mut().unwrap()
    }

    /// The first gateway.
    pub fn gateway(&mut self) -> &mut CalleePlan {
        self.gateways.first_mut().unwrap()
    }

    /// The one session.
    pub fn session(&mut self) -> &mut MaskingSession {
        self.sessions.first_mut().unwrap()
    }

    /// A call from a number that no session knows, to a session with PINs 2468 and 1357.
    pub fn stranger_with_pin(seed: u64, retry: u8, typing: &[&str]) -> Self {
        let mut plan = Self::plain(seed);
        let mut random = StdRng::seed_from_u64(seed ^ 0x7374_7261);
        plan.callers = vec![CallerPlan::plain(&number(&mut random, "44790"), &mut random)];
        plan.session().pin = Some(pins("2468", "1357", retry));
        let typed = |keys: &&str| Typing { after: s(1), gap: ms(200), keys: (*keys).into(), by_info: false };
        plan.caller().typing = typing.iter().map(typed).collect();
        plan
    }

    /// A call that the API places: each phone rings, is answered after a second; the first party hangs up three
    /// seconds later.
    pub fn placed(seed: u64) -> Self {
        let mut plan = Self::plain(seed);
        let mut random = StdRng::seed_from_u64(seed ^ 0x706c_6163);
        let caller = plan.callers.remove(0);
        let phone = CalleePlan { deeds: caller.deeds, ..CalleePlan::plain(&mut random) };
        // The gateway's phone answers a second after its own INVITE.
        plan.gateway().steps = vec![(ms(100), Step::Ring(0)), (ms(1000), Step::Answer(0))];
        plan.parties = vec![PartyPlan { number: caller.number, phones: vec![phone] }];
        plan.placed = Some(PlacedPlan { at: Duration::ZERO, typing: vec![] });
        plan
    }

    /// The first party's phone in a call that the API places.
    pub fn first(&mut self) -> &mut CalleePlan {
        self.parties.first_mut().unwrap().phones.first_mut().unwrap()
    }

    /// Everything at random.
    pub fn random(seed: u64, profile: Profile) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let mut plan = Self::plain(seed);
        plan.profile = profile;
        plan.link = link(profile, &mut random);
        if profile == Profile::Broken {
            let begin = ms(random.random_range(0..20_000));
            let end = begin + ms(random.random_range(1000..60_000));
            plan.weather = vec![(begin, Link { loss: 1.0, ..plan.link }), (end, plan.link)];
        }
        plan.draw_gateways(&mut random);
        match profile {
            Profile::Placed => plan.draw_placed(&mut random),
            Profile::Single => plan.draw_single(&mut random),
            Profile::Strangers => plan.draw_strangers(&mut random),
            _ => {
                plan.draw_callers(&mut random);
                plan.draw_sessions(&mut random);
            }
        }
        plan.draw_world(&mut random);
        if profile == Profile::Races {
            plan.draw_races(&mut random);
        }
        if profile == Profile::Stream {
            // Nothing is sent twice over a connection.
            plan.callers.iter_mut().for_each(|caller| (caller.tcp, caller.repeats) = (true, vec![]));
            let tcp = random.random_bool(0.6);
            plan.gateways.iter_mut().for_each(|gateway| gateway.tcp = tcp);
            plan.tcp_fails = (tcp && random.random_bool(0.1)).then_some(ms(50));
        }
        plan
    }

    fn draw_gateways(&mut self, random: &mut StdRng) {
        let count = *pick(random, &[1, 1, 1, 2, 3]);
        self.gateways = phones(count, random);
        self.early_media = random.random_bool(0.8);
        self.both_hang_up_after = maybe(random, 0.15, 5000);
    }

    fn draw_callers(&mut self, random: &mut StdRng) {
        let count = *pick(random, &[1, 1, 1, 1, 1, 1, 1, 2, 3]);
        self.callers = (0..count)
            .map(|_| {
                let from = number(random, "49151");
                CallerPlan::random(&from, random)
            })
            .collect();
    }

    fn draw_sessions(&mut self, random: &mut StdRng) {
        let mut ids = IdSource::from_seed(self.seed ^ 0x7365_7373);
        self.sessions.clear();
        let callee = number(random, "33612");
        for index in 0..self.callers.len() {
            let from = self.callers[index].number.clone();
            let stranger = number(random, "39340");
            let mut made = session(&from, Some(&callee), &mut ids);
            draw_terms(&mut made, random);
            match random.random_range(0..20) {
                0..=9 => {}
                10..=12 => {
                    made.first_party = E164::parse(&stranger);
                    made.pin = Some(pins("2468", "1357", random.random_range(0..3)));
                }
                // Its PINs would lead other callers to this one, who then is no mark of a leak.
                13 if self.callers.len() == 1 => {
                    let mut settings = pins("2468", "1357", random.random_range(0..3));
                    settings.force = true;
                    made.pin = Some(settings);
                }
                14 | 15 => {
                    made.first_party = None;
                    made.single_party = Some(true);
                }
                16 => {
                    made.first_party = E164::parse(&stranger);
                    made.unknown_caller_play = "https://prompts.example/unknown.wav".into();
                }
                17 => continue,
                18 => {
                    self.callers[index].dial = NOT_OURS.into();
                    continue;
                }
                _ => made.ended_at = Some(Default::default()),
            }
            self.sessions.push(made);
            if self.sessions.last().is_some_and(|session| session.single_party == Some(true)) {
                // Whoever comes next would be connected by it as well.
                break;
            }
        }
        let first = gateway_address(0);
        self.no_session = match random.random_range(0..6) {
            0 => NoSession::Play("https://prompts.example/none.wav".into()),
            1 => NoSession::Sip(format!("sip:desk@{first}")),
            _ => NoSession::Reject,
        };
    }

    /// A session of its own call; now and then the first party also dials.
    fn draw_placed(&mut self, random: &mut StdRng) {
        let mut ids = IdSource::from_seed(self.seed ^ 0x7365_7373);
        let (first, second) = (number(random, "49151"), number(random, "33612"));
        let mut made = session(&first, Some(&second), &mut ids);
        made.initiate_call_to_first_party = true;
        draw_terms(&mut made, random);
        if random.random_bool(0.2) {
            made.pin = Some(PinSettings { force: true, ..pins("2468", "1357", random.random_range(0..3)) });
        }
        self.sessions = vec![made];
        let mut phones = phones(self.gateways.len(), random);
        for phone in phones.iter_mut().rev().take(1).filter(|_| random.random_bool(0.4)) {
            let at = phone.steps.last().map_or(ms(200), |(at, _)| *at);
            phone.steps.retain(|(_, step)| !matches!(step, Step::Reject(_)));
            phone.steps.push((at, Step::Answer(0)));
        }
        self.parties = vec![PartyPlan { number: first.clone(), phones }];
        self.placed = Some(PlacedPlan { at: ms(random.random_range(0..3000)), typing: typing(random) });
        self.callers.clear();
        if random.random_bool(0.2) {
            let start = ms(random.random_range(0..60_000));
            self.callers.push(CallerPlan { start, ..CallerPlan::random(&first, random) });
        }
        if random.random_bool(0.1) {
            self.calls_per_second = Some(random.random_range(1..4));
            self.longest_queue = ms(random.random_range(0..1000));
        }
    }

    /// One or two strangers call the known party, which calls as well.
    fn draw_single(&mut self, random: &mut StdRng) {
        let mut ids = IdSource::from_seed(self.seed ^ 0x7365_7373);
        let known = number(random, "49151");
        let mut made = session(&known, None, &mut ids);
        if random.random_bool(0.5) {
            (made.first_party, made.second_party) = (None, made.first_party);
        }
        made.single_party = Some(true);
        draw_terms(&mut made, random);
        if random.random_bool(0.3) {
            let force = random.random_bool(0.5);
            made.pin = Some(PinSettings { force, ..pins("2468", "1357", random.random_range(0..3)) });
        }
        self.sessions = vec![made];
        self.callers.clear();
        self.parties.clear();
        for _ in 0..random.random_range(1..3) {
            let stranger = number(random, "39340");
            self.callers.push(CallerPlan::random(&stranger, random));
            let phones = phones(self.gateways.len(), random);
            self.parties.push(PartyPlan { number: stranger, phones });
        }
        let start = ms(random.random_range(0..60_000));
        self.callers.push(CallerPlan { start, ..CallerPlan::random(&known, random) });
        self.known = Some(known);
    }

    fn draw_strangers(&mut self, random: &mut StdRng) {
        let mut ids = IdSource::from_seed(self.seed ^ 0x7365_7373);
        let callee = number(random, "33612");
        self.callers = (0..random.random_range(1..4))
            .map(|_| CallerPlan::random(&number(random, "49151"), random))
            .collect();
        self.sessions.clear();
        let with_pin = random.random_bool(0.5);
        for index in 0..random.random_range(0..3) {
            let mut made = session(&number(random, "39340"), Some(&callee), &mut ids);
            draw_terms(&mut made, random);
            match random.random_range(0..3) {
                _ if index == 0 && with_pin => {
                    made.pin = Some(pins("2468", "1357", random.random_range(0..3)));
                }
                0 => made.unknown_caller_play = "https://prompts.example/unknown.wav".into(),
                1 => made.ended_at = Some(Default::default()),
                _ => {}
            }
            self.sessions.push(made);
        }
        self.no_session = match random.random_range(0..4) {
            0 => NoSession::Play("https://prompts.example/none.wav".into()),
            1 => NoSession::Sip(format!("sip:desk@{}", gateway_address(0))),
            _ => NoSession::Reject,
        };
    }

    /// Everything that may cross: INVITE, PRACK, UPDATE, re-INVITE, CANCEL and BYE, of both sides and of the service.
    fn draw_races(&mut self, random: &mut StdRng) {
        self.prack = *pick(random, &[Prack::Off, Prack::Supported, Prack::Preferred, Prack::Required]);
        self.session_timer = random.random_bool(0.5).then(|| *pick(random, &[90, 100, 120]));
        for session in &mut self.sessions {
            session.call_time_limit = s(random.random_range(20..200));
        }
        for caller in &mut self.callers {
            if self.prack == Prack::Required || random.random_bool(0.6) {
                let name = *pick(random, &["Require", "Supported"]);
                caller.headers.push((name, "100rel".to_owned()));
            }
            if random.random_bool(0.4) {
                caller.headers.push(("Supported", "timer".to_owned()));
                caller
                    .headers
                    .push(("Session-Expires", pick(random, &["90", "60", "120;refresher=uas"]).to_string()));
            }
            caller.pracks_after = *pick(random, &[Some(ms(0)), Some(ms(0)), Some(ms(300)), Some(s(3)), None]);
            caller.offers_in_prack = random.random_bool(0.2);
            caller.allow = draw_allow(random);
            caller.early_deeds.extend(draw_race(random, 3000));
            caller.deeds.extend(draw_race(random, 70_000));
        }
        let phones =
            self.gateways.iter_mut().chain(self.parties.iter_mut().flat_map(|party| &mut party.phones));
        for phone in phones {
            if random.random_bool(0.4) {
                phone.headers.push((
                    "Session-Expires",
                    pick(random, &["90;refresher=uac", "90;refresher=uas"]).to_string(),
                ));
            }
            phone.allow = draw_allow(random);
            phone.refuses_reinvites =
                *pick(random, &[None, None, None, Some(491), Some(481), Some(488), Some(500)]);
            phone.deeds.extend(draw_race(random, 70_000));
            let mut rseq = random.random_range(1..1000);
            for (_, step) in &mut phone.steps {
                let (fork, sdp) = match step {
                    Step::Ring(fork) => (*fork, false),
                    Step::Early(fork) => (*fork, true),
                    _ => continue,
                };
                if self.prack != Prack::Off && random.random_bool(0.6) {
                    *step = Step::Reliable(fork, rseq, sdp);
                    // Now and then one is left out, or comes again.
                    rseq += *pick(random, &[1, 1, 1, 1, 0, 2]);
                }
            }
            if random.random_bool(0.1) {
                phone.first = Some(Step::RejectWith(422, vec![("Min-SE", "300".to_owned())]));
            }
            if random.random_bool(0.3) {
                let at = ms(random.random_range(0..3000));
                phone.steps.push((at, Step::Update));
            }
        }
    }

    fn draw_world(&mut self, random: &mut StdRng) {
        for _ in 0..6 {
            let look_up = match random.random_range(0..40) {
                0 => LookUp::Fails(ms(random.random_range(0..3000))),
                1 => LookUp::Never,
                2..=5 => LookUp::Found(ms(random.random_range(0..6000))),
                _ => LookUp::Found(ms(random.random_range(0..60))),
            };
            self.look_ups.push(look_up);
        }
        let media = &mut self.media;
        media.no_port = random.random_bool(0.02);
        media.open_delay = maybe(random, 0.05, 6000).unwrap_or_default();
        media.close_delay = (!random.random_bool(0.02)).then(|| ms(random.random_range(0..200)));
        media.silence_after = maybe(random, 0.05, 30_000);
        media.filing_delay = maybe(random, 0.1, 30_000).unwrap_or(ms(10));
        media.cdr_delay = match random.random_range(0..50) {
            0 => None,
            1 => Some(s(40)),
            _ => Some(ms(random.random_range(0..400))),
        };
        self.hang_up_at = maybe(random, 0.08, 40_000);
        self.delete_at = maybe(random, 0.05, 20_000);
        self.pinned = random.random_bool(0.7);
    }
}

fn draw_allow(random: &mut StdRng) -> Option<&'static str> {
    random.random_bool(0.5).then_some("INVITE, ACK, BYE, CANCEL, OPTIONS, PRACK, INFO")
}

/// Something that crosses something else.
fn draw_race(random: &mut StdRng, within: u64) -> Vec<(Duration, Deed)> {
    let all = [
        Deed::Hold,
        Deed::Resume,
        Deed::OfferNothing,
        Deed::Update,
        Deed::Refresh,
        Deed::Fax,
        Deed::Move { by_update: false },
        Deed::Move { by_update: true },
        Deed::UpdateWith(vec![
            ("Session-Expires", "90;refresher=uac".to_owned()),
            ("Supported", "timer".to_owned()),
        ]),
        Deed::UpdateWith(vec![("Session-Expires", "30".to_owned()), ("Supported", "timer".to_owned())]),
        Deed::Ask("PRACK"),
        Deed::Ask("MESSAGE"),
        Deed::Info('7'),
        Deed::Bye,
    ];
    (0..random.random_range(0..6))
        .map(|_| (ms(random.random_range(0..within)), pick(random, &all).clone()))
        .collect()
}

/// A phone behind each gateway.
fn phones(count: usize, random: &mut StdRng) -> Vec<CalleePlan> {
    let mut phones: Vec<_> = (0..count).map(|_| CalleePlan::random(random)).collect();
    // Failover is only seen when a gateway fails.
    for phone in phones.iter_mut().rev().skip(1) {
        match random.random_range(0..4) {
            0 => phone.deaf = true,
            1 | 2 => phone.steps = vec![(ms(random.random_range(0..400)), Step::Reject(503))],
            _ => {}
        }
    }
    phones
}

fn draw_terms(session: &mut MaskingSession, random: &mut StdRng) {
    session.ring_timeout = s(random.random_range(15..60));
    session.call_time_limit = s(random.random_range(5..90));
    session.record = random.random_bool(0.6);
}

/// What somebody types for four prompts.
pub fn typing(random: &mut StdRng) -> Vec<Typing> {
    let keys = ["2468", "1357", "2468#", "1111", "12#", "#", "", "99*2468", "24681357"];
    (0..4)
        .map(|_| Typing {
            keys: (*pick(random, &keys)).to_owned(),
            after: ms(random.random_range(0..14_000)),
            gap: ms(*pick(random, &[100, 300, 1000, 6000])),
            by_info: random.random_bool(0.3),
        })
        .collect()
}

/// A number with a country code and operator of its own, so that it is found wherever it turns up.
pub fn number(random: &mut StdRng, prefix: &str) -> String {
    format!("+{prefix}{:07}", random.random_range(1_000_000..9_999_999))
}

pub fn maybe(random: &mut StdRng, share: f64, most_ms: u64) -> Option<Duration> {
    random.random_bool(share).then(|| ms(random.random_range(0..=most_ms)))
}

pub fn pick<'a, T>(random: &mut StdRng, of: &'a [T]) -> &'a T {
    &of[random.random_range(0..of.len())]
}

fn link(profile: Profile, random: &mut StdRng) -> Link {
    let slow = Link { delay: Duration::ZERO, jitter: ms(300), ..Link::perfect() };
    match profile {
        Profile::Calm => Link::perfect(),
        Profile::Slow => slow,
        Profile::Lossy => Link::lossy(random.random_range(0.05..0.2)),
        Profile::Stormy => {
            let loss = random.random_range(0.1..0.2);
            Link { loss, duplicate: 0.1, reorder: 0.1, detour: ms(800), ..slow }
        }
        Profile::Placed | Profile::Single | Profile::Strangers | Profile::Races => {
            let any = [Profile::Calm, Profile::Slow, Profile::Lossy, Profile::Stormy];
            link(*pick(random, &any), random)
        }
        Profile::Broken => Link { delay: ms(20), ..Link::perfect() },
        Profile::Stream => Link { delay: ms(20), ..Link::perfect() },
    }
}

/// What people do during a call, in order of time.
pub fn deeds(random: &mut StdRng, hang_up: f64) -> Vec<(Duration, Deed)> {
    let all = [
        Deed::Hold,
        Deed::Resume,
        Deed::OfferNothing,
        Deed::Update,
        Deed::Refresh,
        Deed::Info('5'),
        Deed::InfoPackage,
        Deed::Options,
        Deed::BadOffer,
        Deed::Refer,
    ];
    let mut deeds = vec![];
    if random.random_bool(0.4) {
        for _ in 0..random.random_range(1..4) {
            deeds.push((ms(random.random_range(0..8000)), pick(random, &all).clone()));
        }
    }
    if random.random_bool(hang_up) {
        deeds.push((ms(random.random_range(0..12_000)), Deed::Bye));
    }
    deeds
}

/// An offer or answer in one of the usual ways.
pub fn description(random: &mut StdRng, mark: &str) -> SdpOptions {
    let options = match random.random_range(0..10) {
        0..=2 => SdpOptions::pcma(),
        3 => SdpOptions { telephone_event_pt: None, ..SdpOptions::default() },
        4 => SdpOptions { telephone_event_pt: Some(96), ..SdpOptions::pcmu() },
        _ => SdpOptions::default(),
    };
    SdpOptions {
        origin_user: format!("user{mark}"),
        session_name: format!("call{mark}"),
        session_lines: vec![format!("i=info{mark}")],
        ..options
    }
}

//! Which virtual number a new session gets.
//!
//! A call is known by two numbers, the dialled one and the caller's, so no party may have two active sessions
//! on one virtual number; strangers are known by their PIN alone, so PINs on one number must be prefix-free.
//! [`rank`] puts the numbers that fit in order; the store, which holds the PINs, takes the first on which they
//! fit as well. Nothing here reads a database or a clock.
//!
//! With C the largest number of sessions that one party is in at once, 2C − 1 numbers always suffice: each of
//! the two parties of a new session blocks at most C − 1 numbers, so of 2C − 1 one is left.

use std::sync::Arc;

use rand::RngExt;
use rlibphonenumber::{PHONE_NUMBER_UTIL, PhoneNumber, Region};

use super::session::{MAX_PIN_DIGITS, MIN_PIN_DIGITS, Pin, PinSettings};
use crate::number::{Did, E164};

/// Where a number is at home.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Country {
    calling_code: i32,
    /// Unknown for a number that no country has given out.
    region: Option<Region>,
}

impl Country {
    /// The country of `number`; `None` when it begins with no country calling code.
    #[must_use]
    pub fn of(number: &E164) -> Option<Self> {
        let parsed = PhoneNumber::parse(format!("+{}", number.digits()), None).ok()?;
        Some(Self { calling_code: parsed.country_code, region: parsed.get_region_code() })
    }

    /// Whether both are the same country. A number that no country has given out counts as at home in each
    /// country of its calling code: carriers know numbers that the public plan does not.
    #[must_use]
    pub fn matches(&self, other: &Self) -> bool {
        match (self.region, other.region) {
            (Some(ours), Some(theirs)) => ours == theirs,
            _ => self.calling_code == other.calling_code,
        }
    }

    /// The two letters of ISO 3166; `ZZ` when they are not known.
    #[must_use]
    pub fn iso2(&self) -> String {
        let region = self.region.or_else(|| PHONE_NUMBER_UTIL.get_region_for_country_code(self.calling_code));
        region.map_or_else(|| UNKNOWN_COUNTRY.to_owned(), |region| region.to_string())
    }
}

/// The code of ISO 3166 for "unknown".
pub const UNKNOWN_COUNTRY: &str = "ZZ";

/// What strangers hear on a number. It is alike in all PIN sessions of one number, so that nobody can tell
/// from a prompt whose number it is, and so that a prompt can be played before the session is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StrangerProfile(Arc<str>);

impl StrangerProfile {
    /// What strangers hear in a session with these settings.
    #[must_use]
    pub fn of(
        prompt_play: &str,
        incorrect_play: &str,
        retry: u8,
        retry_wait: std::time::Duration,
        unknown_caller_play: &str,
    ) -> Self {
        // A space cannot be in a URL, so the parts cannot run into each other.
        let retry_wait = retry_wait.as_millis();
        Self(format!("{retry} {retry_wait} {prompt_play} {incorrect_play} {unknown_caller_play}").into())
    }

    /// What strangers hear in a session with PIN.
    #[must_use]
    pub fn of_pin(pin: &PinSettings, unknown_caller_play: &str) -> Self {
        Self::of(&pin.prompt_play, &pin.incorrect_play, pin.retry, pin.retry_wait, unknown_caller_play)
    }

    /// As it was stored.
    #[must_use]
    pub fn from_stored(stored: String) -> Self {
        Self(stored.into())
    }

    /// What the store keeps.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// How much of a number's room for PINs a session takes: the chance that one guess hits it, in units of 10^-15.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct PinWeight(pub u64);

/// Sixteen sessions with two four-digit PINs each; ten times as many per further digit.
pub const PIN_ROOM: PinWeight = PinWeight(16 * 2 * 10_u64.pow((MAX_PIN_DIGITS - MIN_PIN_DIGITS) as u32));

impl PinWeight {
    /// Of a session whose PINs have these lengths.
    #[must_use]
    pub fn of_lengths(first: usize, second: usize) -> Self {
        let one = |length: usize| {
            10_u64.pow(u32::try_from(usize::from(MAX_PIN_DIGITS).saturating_sub(length)).unwrap_or(0).min(15))
        };
        Self(one(first) + one(second))
    }

    fn with(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

/// What the active sessions that take strangers do to a number.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StrangerLoad {
    /// One of them connects whoever dials.
    pub takes_anyone: bool,
    /// How many of them have a PIN.
    pub pin_sessions: u64,
    /// What these take of the number's room for PINs.
    pub pin_weight: PinWeight,
    /// What strangers hear; `None` without PIN sessions.
    pub profile: Option<StrangerProfile>,
}

impl StrangerLoad {
    /// Whether one more session may be on the number that does this with strangers.
    #[must_use]
    pub fn admits(&self, strangers: &Strangers) -> bool {
        match strangers {
            Strangers::None => true,
            // Whoever dials is connected to one party: no other session can be meant.
            Strangers::Anyone => !self.takes_anyone && self.pin_sessions == 0,
            Strangers::Pin { profile, weight } => {
                !self.takes_anyone
                    && self.profile.as_ref().is_none_or(|present| present == profile)
                    && self.pin_weight.with(*weight) <= PIN_ROOM
            }
        }
    }
}

/// The state of one virtual number when a session asks for one.
#[derive(Debug, Clone)]
pub struct NumberState {
    /// The number.
    pub did: Did,
    /// Where it is at home.
    pub country: Option<Country>,
    /// One of the parties already has an active session on it.
    pub busy: bool,
    /// It rests after a session with a cool-off.
    pub resting: bool,
    /// What strangers find on it.
    pub load: StrangerLoad,
}

impl NumberState {
    /// A number without any session.
    #[must_use]
    pub fn unused(did: Did, country: Option<Country>) -> Self {
        Self { did, country, busy: false, resting: false, load: StrangerLoad::default() }
    }

    fn fits(&self, strangers: &Strangers) -> bool {
        !self.busy && !self.resting && self.load.admits(strangers)
    }
}

/// What the new session does with callers who are no party of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Strangers {
    /// Nothing.
    None,
    /// It connects whoever dials.
    Anyone,
    /// It connects those who know a PIN.
    Pin {
        /// What they hear.
        profile: StrangerProfile,
        /// What its PINs take of a number's room.
        weight: PinWeight,
    },
}

/// What the new session needs of its number.
#[derive(Debug, Clone)]
pub struct Wish {
    /// With geomatch: the country of the first party, else of the one that is known; the inner `None` is a
    /// number of no country.
    pub country: Option<Option<Country>>,
    /// Whom else it connects.
    pub strangers: Strangers,
}

/// Why no number can be given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The account has no number of that country at all.
    #[error("no virtual number of country {0}")]
    NoNumberInCountry(String),
    /// Every number is taken, or there is none.
    #[error("no virtual number is free")]
    Exhausted,
}

/// The numbers that fit, best first. For a session with PIN the number with the fewest PIN sessions comes
/// first, so that guessers spread; for every other the order of `numbers` stays (first fit).
///
/// # Errors
/// [`Refusal`] when none fits.
pub fn rank<'a>(numbers: &'a [NumberState], wish: &Wish) -> Result<Vec<&'a NumberState>, Refusal> {
    if numbers.is_empty() {
        return Err(Refusal::Exhausted);
    }
    let at_home = |number: &NumberState| match &wish.country {
        None => true,
        Some(wanted) => match (wanted, &number.country) {
            (Some(wanted), Some(country)) => wanted.matches(country),
            _ => false,
        },
    };
    let mut national = numbers.iter().filter(|number| at_home(number)).peekable();
    if national.peek().is_none() {
        let iso2 =
            wish.country.flatten().map_or_else(|| UNKNOWN_COUNTRY.to_owned(), |country| country.iso2());
        return Err(Refusal::NoNumberInCountry(iso2));
    }
    let mut fitting: Vec<_> = national.filter(|number| number.fits(&wish.strangers)).collect();
    if matches!(wish.strangers, Strangers::Pin { .. }) {
        fitting.sort_by_key(|number| number.load.pin_sessions); // Stable: equals stay in first-fit order.
    }
    if fitting.is_empty() { Err(Refusal::Exhausted) } else { Ok(fitting) }
}

/// Whether neither PIN begins with the other, so that the digits typed so far mean one session at most.
#[must_use]
pub fn prefix_free(one: &Pin, other: &Pin) -> bool {
    !one.digits().starts_with(other.digits()) && !other.digits().starts_with(one.digits())
}

/// A PIN of `length` digits (brought into 4–15), each as likely as any other.
pub fn draw_pin(length: u8, rng: &mut impl RngExt) -> Pin {
    let length = length.clamp(MIN_PIN_DIGITS, MAX_PIN_DIGITS);
    loop {
        let digits: String = (0..length).map(|_| char::from(b'0' + rng.random_range(0..10_u8))).collect();
        if let Some(pin) = Pin::parse(&digits) {
            return pin;
        }
    }
}

#[cfg(test)]
mod worlds;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    fn country(number: &str) -> Option<Country> {
        Country::of(&E164::parse(number).unwrap())
    }

    fn number(index: usize) -> NumberState {
        let did = Did::parse(&format!("1202555{:04}", 100 + index)).unwrap();
        let country = Country::of(did.as_number());
        NumberState::unused(did, country)
    }

    fn profile(prompt: &str) -> StrangerProfile {
        StrangerProfile::of(prompt, "", 1, Duration::from_secs(5), "")
    }

    fn pin_wish(digits: usize, prompt: &str) -> Wish {
        let weight = PinWeight::of_lengths(digits, digits);
        Wish { country: None, strangers: Strangers::Pin { profile: profile(prompt), weight } }
    }

    fn first<'a>(numbers: &'a [NumberState], wish: &Wish) -> Result<&'a str, Refusal> {
        rank(numbers, wish).map(|ranked| ranked[0].did.digits())
    }

    const PLAIN: Wish = Wish { country: None, strangers: Strangers::None };

    #[test]
    fn countries_that_share_a_calling_code_differ() {
        let (usa, canada, india) = (
            country("12025550100").unwrap(),
            country("16132345678").unwrap(),
            country("919876543210").unwrap(),
        );
        assert_eq!((usa.iso2(), canada.iso2(), india.iso2()), ("US".into(), "CA".into(), "IN".into()));
        assert!(!usa.matches(&canada) && !usa.matches(&india) && usa.matches(&usa));
    }

    #[test]
    fn a_number_that_nobody_has_given_out_is_at_home_in_its_calling_code() {
        let unassigned = country("15550001111").unwrap();
        assert_eq!(unassigned.region, None);
        assert!(unassigned.matches(&country("12025550100").unwrap()));
        assert!(!unassigned.matches(&country("919876543210").unwrap()));
        assert_eq!(country("9990000000"), None, "no such calling code");
    }

    #[test]
    fn plain_sessions_take_the_first_that_fits() {
        let mut numbers = [number(0), number(1), number(2), number(3)];
        numbers[0].busy = true;
        numbers[1].resting = true;
        assert_eq!(first(&numbers, &PLAIN), Ok("12025550102"));
        numbers[2].load.pin_sessions = 9;
        assert_eq!(first(&numbers, &PLAIN), Ok("12025550102"), "PIN sessions do not concern it");
        numbers[2].busy = true;
        numbers[3].resting = true;
        assert_eq!(first(&numbers, &PLAIN), Err(Refusal::Exhausted));
        assert_eq!(first(&[], &PLAIN), Err(Refusal::Exhausted));
    }

    #[test]
    fn geomatch_wants_the_country_and_says_which_one_is_missing() {
        let wish = |party| Wish { country: Some(country(party)), strangers: Strangers::None };
        let mut numbers = [number(0), number(1)];
        assert_eq!(first(&numbers, &wish("12025559999")), Ok("12025550100"));
        assert_eq!(first(&numbers, &wish("919876543210")), Err(Refusal::NoNumberInCountry("IN".into())));
        assert_eq!(first(&numbers, &wish("9990000000")), Err(Refusal::NoNumberInCountry("ZZ".into())));
        numbers[0].busy = true;
        numbers[1].busy = true;
        assert_eq!(
            first(&numbers, &wish("12025559999")),
            Err(Refusal::Exhausted),
            "there are some, all taken"
        );
    }

    #[test]
    fn pin_sessions_take_the_number_with_the_fewest_of_them() {
        let mut numbers = [number(0), number(1), number(2)];
        numbers[0].load.pin_sessions = 2;
        numbers[1].load.pin_sessions = 1;
        numbers[2].load.pin_sessions = 1;
        assert_eq!(first(&numbers, &pin_wish(4, "")), Ok("12025550101"));
    }

    #[test]
    fn pin_sessions_with_other_prompts_go_elsewhere() {
        let mut numbers = [number(0), number(1)];
        numbers[0].load.pin_sessions = 1;
        numbers[0].load.profile = Some(profile("http://a/1.wav"));
        numbers[1].load.pin_sessions = 5;
        numbers[1].load.profile = Some(profile("http://a/2.wav"));
        assert_eq!(first(&numbers, &pin_wish(4, "http://a/2.wav")), Ok("12025550101"));
        assert_eq!(first(&numbers, &pin_wish(4, "")), Err(Refusal::Exhausted));
    }

    #[test]
    fn sixteen_sessions_with_four_digits_and_ten_times_as_many_per_further_digit() {
        for (digits, limit) in [(4, 16), (5, 160), (6, 1600), (15, 1_600_000_000_000)] {
            let mut numbers = [number(0)];
            let one = PinWeight::of_lengths(digits, digits).0;
            numbers[0].load.pin_weight = PinWeight(one * (limit - 1));
            assert!(first(&numbers, &pin_wish(digits, "")).is_ok(), "{digits} digits");
            numbers[0].load.pin_weight = PinWeight(one * limit);
            assert_eq!(first(&numbers, &pin_wish(digits, "")), Err(Refusal::Exhausted), "{digits} digits");
        }
    }

    #[test]
    fn who_takes_anyone_is_alone_with_strangers() {
        let anyone = Wish { country: None, strangers: Strangers::Anyone };
        let mut numbers = [number(0), number(1), number(2)];
        numbers[0].load.takes_anyone = true;
        numbers[1].load.pin_sessions = 1;
        assert_eq!(first(&numbers, &anyone), Ok("12025550102"));
        assert_eq!(rank(&numbers, &pin_wish(4, "")).unwrap().len(), 2, "PIN sessions keep off the first");
        assert_eq!(first(&numbers, &PLAIN), Ok("12025550100"), "plain sessions are no matter");
    }

    #[test]
    fn a_pin_that_begins_with_another_is_not_prefix_free() {
        let pin = |digits| Pin::parse(digits).unwrap();
        for (one, other, free) in [
            ("1234", "1235", true),
            ("1234", "1234", false),
            ("1234", "12345", false),
            ("0123", "123456", true),
        ] {
            assert_eq!(prefix_free(&pin(one), &pin(other)), free, "{one} {other}");
            assert_eq!(prefix_free(&pin(other), &pin(one)), free, "{other} {one}");
        }
    }

    /// A session as the model of the property test keeps it: number, parties, PINs.
    type Held = (usize, usize, usize, Option<(Pin, Pin)>);

    proptest! {
        /// Sessions between random parties come and go. However they do, a caller on a number means one
        /// session at most and so does a PIN; and 2C − 1 numbers are enough for sessions without PIN.
        #[test]
        fn a_call_means_one_session_at_most_and_2c_minus_1_numbers_suffice(
            steps in prop::collection::vec((0_usize..12, 1_usize..12, any::<bool>(), any::<u8>()), 1..120),
            limit in 1_usize..5,
            seed in any::<u64>(),
        ) {
            let mut rng = StdRng::seed_from_u64(seed);
            let (mut held, pool): (Vec<Held>, Vec<usize>) = (vec![], (0..2 * limit - 1).collect());
            for (first_party, step, with_pin, fate) in steps {
                if fate < 64 && !held.is_empty() {
                    held.remove(usize::from(fate) % held.len());
                    continue;
                }
                let second_party = (first_party + step) % 12;
                let in_use = |party| held.iter().filter(|(_, a, b, _)| *a == party || *b == party).count();
                if in_use(first_party) >= limit || in_use(second_party) >= limit {
                    continue; // C is a bound on what the client does, not on what we allow.
                }
                let states: Vec<NumberState> = pool.iter().map(|index| {
                    let mut state = number(*index);
                    for (_, a, b, pins) in held.iter().filter(|(at, ..)| at == index) {
                        state.busy |= [*a, *b].iter().any(|p| [first_party, second_party].contains(p));
                        if let Some((one, two)) = pins {
                            state.load.pin_sessions += 1;
                            state.load.pin_weight = state.load.pin_weight.with(PinWeight::of_lengths(one.len(), two.len()));
                            state.load.profile = Some(profile(""));
                        }
                    }
                    state
                }).collect();
                let wish = if with_pin { pin_wish(4 + usize::from(fate % 2), "") } else { PLAIN };
                let ranked = match rank(&states, &wish) {
                    Ok(ranked) => ranked,
                    Err(refusal) => {
                        prop_assert!(with_pin, "2C - 1 numbers did not suffice: {refusal}");
                        continue;
                    }
                };
                let index = states.iter().position(|state| state.did == ranked[0].did).unwrap();
                let taken: Vec<Pin> = held.iter().filter(|(at, ..)| *at == index)
                    .filter_map(|(.., pins)| pins.clone()).flat_map(|(one, two)| [one, two]).collect();
                let pins = with_pin.then(|| {
                    let mut draw = |others: &[Pin]| loop {
                        let pin = draw_pin(4 + fate % 2, &mut rng);
                        if others.iter().all(|other| prefix_free(&pin, other)) { break pin; }
                    };
                    let one = draw(&taken);
                    let two = draw(&[taken.as_slice(), std::slice::from_ref(&one)].concat());
                    (one, two)
                });
                held.push((index, first_party, second_party, pins));

                for index in &pool {
                    let here: Vec<_> = held.iter().filter(|(at, ..)| at == index).collect();
                    let mut parties: Vec<_> = here.iter().flat_map(|(_, a, b, _)| [*a, *b]).collect();
                    let all = parties.len();
                    parties.sort_unstable();
                    parties.dedup();
                    prop_assert_eq!(parties.len(), all, "a caller means two sessions");
                    let pins: Vec<_> = here.iter().filter_map(|(.., p)| p.as_ref()).flat_map(|(a, b)| [a, b]).collect();
                    for (position, one) in pins.iter().enumerate() {
                        prop_assert!(pins.iter().skip(position + 1).all(|other| prefix_free(one, other)));
                    }
                }
            }
        }

        #[test]
        fn a_drawn_pin_has_the_length_that_was_asked_for(length in 4_u8..=15, seed in any::<u64>()) {
            let mut rng = StdRng::seed_from_u64(seed);
            prop_assert_eq!(draw_pin(length, &mut rng).len(), usize::from(length));
        }
    }
}

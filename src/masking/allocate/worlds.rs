//! A hundred thousand sessions of random parties, in five worlds that differ in C, the largest number of sessions that
//! one phone is in at once. What a call can find is kept beside the sessions and checked at every step.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;

const SESSIONS: usize = 20_000;
const PHONES: usize = 2_000;

/// What a session does with callers that are no party of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    Anyone,
    Pin(u8),
}

struct Held {
    number: usize,
    parties: Vec<usize>,
    kind: Kind,
    pins: Vec<Pin>,
}

/// What calls to one number find.
#[derive(Default)]
struct Place {
    /// Caller → session.
    callers: HashMap<usize, usize>,
    /// The PINs of those who are no callers; in order, so that one that begins with another is beside it.
    pins: BTreeSet<String>,
    pin_sessions: u64,
    weight: u64,
    anyone: Option<usize>,
}

impl Place {
    fn fits(&self, pin: &Pin) -> bool {
        let digits = pin.digits();
        let before = self.pins.range(..=digits.to_owned()).next_back();
        let after = self.pins.range(digits.to_owned()..).next();
        let collides = |other: &String| digits.starts_with(other.as_str()) || other.starts_with(digits);
        !before.into_iter().chain(after).any(collides)
    }
}

fn profile() -> StrangerProfile {
    StrangerProfile::of("", "", 1, Duration::from_secs(5), "")
}

fn weight(length: u8) -> PinWeight {
    PinWeight::of_lengths(usize::from(length), usize::from(length))
}

#[test]
fn of_100_000_random_sessions_no_call_means_two_and_2c_minus_1_numbers_suffice() {
    for limit in 1..=5 {
        let (plain, refused) = live_through(limit);
        assert!(plain > SESSIONS / 3, "C = {limit}: {plain} plain sessions");
        // The model must be able to run full, or it would show nothing.
        assert!(refused > 0, "C = {limit}: numbers never ran out for those that need more than a free one");
    }
}

/// Returns how many plain sessions were made, and how many others found no number.
fn live_through(limit: usize) -> (usize, usize) {
    let mut rng = StdRng::seed_from_u64(limit as u64);
    let dids: Vec<Did> =
        (0..2 * limit - 1).map(|index| Did::parse(&format!("1202555{:04}", 100 + index)).unwrap()).collect();
    let mut places: Vec<Place> = dids.iter().map(|_| Place::default()).collect();
    let mut held: HashMap<usize, Held> = HashMap::new();
    let mut in_use = vec![0; PHONES];
    let mut order = VecDeque::new();
    let (mut plain, mut refused, mut made) = (0, 0, 0);
    while made < SESSIONS {
        // A crowd that fills up, and empties now and then; most calls are among a few busy phones.
        let crowd = if made % 5_000 < 4_000 { 600 * limit } else { 50 };
        while order.len() > crowd {
            let at = rng.random_range(0..order.len().min(64));
            let Some(id) = order.remove(at) else { break };
            end(held.remove(&id).unwrap(), id, &mut places, &mut in_use);
        }
        let mut draw = || {
            let phone = rng.random_range(0..PHONES);
            if rng.random_bool(0.5) { phone % 100 } else { phone }
        };
        let (first, second) = (draw(), draw());
        let kind = match rng.random_range(0..100) {
            0..70 => Kind::Plain,
            70..75 => Kind::Anyone,
            length => Kind::Pin(4 + length % 3),
        };
        let parties = if kind == Kind::Anyone { vec![first] } else { vec![first, second] };
        // C is a bound on what the client does, not on what we allow.
        if first == second || parties.iter().any(|party| in_use[*party] >= limit) {
            if let Some(id) = order.pop_front() {
                end(held.remove(&id).unwrap(), id, &mut places, &mut in_use);
            }
            continue;
        }
        let Some((number, pins)) = give(&dids, &places, &parties, kind, &mut rng) else {
            assert_ne!(kind, Kind::Plain, "C = {limit}: 2C - 1 numbers did not suffice");
            refused += 1;
            if let Some(id) = order.pop_front() {
                end(held.remove(&id).unwrap(), id, &mut places, &mut in_use);
            }
            continue;
        };
        made += 1;
        plain += usize::from(kind == Kind::Plain);
        begin(&mut places[number], made, &parties, kind, &pins);
        parties.iter().for_each(|party| in_use[*party] += 1);
        held.insert(made, Held { number, parties, kind, pins });
        order.push_back(made);
    }
    (plain, refused)
}

/// What the store does: the ranked numbers, best first, and PINs that fit on one.
fn give(
    dids: &[Did],
    places: &[Place],
    parties: &[usize],
    kind: Kind,
    rng: &mut StdRng,
) -> Option<(usize, Vec<Pin>)> {
    let states: Vec<NumberState> = dids
        .iter()
        .zip(places)
        .map(|(did, place)| NumberState {
            busy: parties.iter().any(|party| place.callers.contains_key(party)),
            load: StrangerLoad {
                takes_anyone: place.anyone.is_some(),
                pin_sessions: place.pin_sessions,
                pin_weight: PinWeight(place.weight),
                profile: (place.pin_sessions > 0).then(profile),
            },
            ..NumberState::unused(did.clone(), None)
        })
        .collect();
    let strangers = match kind {
        Kind::Plain => Strangers::None,
        Kind::Anyone => Strangers::Anyone,
        Kind::Pin(length) => Strangers::Pin { profile: profile(), weight: weight(length) },
    };
    for state in rank(&states, &Wish { country: None, strangers }).ok()? {
        let number = dids.iter().position(|did| *did == state.did).unwrap();
        let Kind::Pin(length) = kind else { return Some((number, vec![])) };
        let mut draw = |beside: Option<&Pin>| {
            (0..256)
                .map(|_| draw_pin(length, rng))
                .find(|pin| places[number].fits(pin) && beside.is_none_or(|other| prefix_free(pin, other)))
        };
        if let Some(one) = draw(None)
            && let Some(other) = draw(Some(&one))
        {
            return Some((number, vec![one, other]));
        }
    }
    None
}

/// The session is there from now on, and no call means it and another one.
fn begin(place: &mut Place, id: usize, parties: &[usize], kind: Kind, pins: &[Pin]) {
    for party in parties {
        assert_eq!(place.callers.insert(*party, id), None, "a caller means two sessions");
    }
    for pin in pins {
        assert!(place.fits(pin), "a PIN means two sessions");
        place.pins.insert(pin.digits().to_owned());
    }
    match kind {
        Kind::Plain => {}
        Kind::Anyone => assert_eq!(place.anyone.replace(id), None, "a stranger means two sessions"),
        Kind::Pin(length) => {
            place.pin_sessions += 1;
            place.weight += weight(length).0;
        }
    }
    assert!(place.anyone.is_none() || place.pin_sessions == 0, "a stranger means a session and a prompt");
    assert!(place.weight <= PIN_ROOM.0, "PINs can be guessed");
}

fn end(session: Held, id: usize, places: &mut [Place], in_use: &mut [usize]) {
    let place = &mut places[session.number];
    for party in session.parties {
        assert_eq!(place.callers.remove(&party), Some(id));
        in_use[party] -= 1;
    }
    for pin in &session.pins {
        assert!(place.pins.remove(pin.digits()));
    }
    match session.kind {
        Kind::Plain => {}
        Kind::Anyone => place.anyone = None,
        Kind::Pin(length) => {
            place.pin_sessions -= 1;
            place.weight -= weight(length).0;
        }
    }
}

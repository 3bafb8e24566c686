//! The simulation: the real call machine between simulated phones on a simulated network, with a virtual clock,
//! seeded from end to end. No socket, no runtime, no database, no sleep.
//!
//! Thousands of calls in which everything is drawn from a seed are held against what must be true of every call
//! ([`simulation::judge`]); the races that have names stand beside them as scripts ([`simulation::races`]).
//!
//! A failure prints seed, profile and ladder. `SIM_SEED=N SIM_CALLS=1 cargo sim` runs that one again;
//! `SIM_CALLS=N` is the number of runs of each profile, `SIM_SCHEDULES=N` that of all profiles together:
//! `SIM_SCHEDULES=100000 cargo sim` takes some minutes.

// The judge and the world panic like tests do.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::needless_pass_by_value,
    clippy::wrong_self_convention,
    clippy::print_stdout
)]

#[allow(unreachable_pub)] // One crate, in several files.
mod simulation {
    mod half_open;
    mod in_dialog;
    pub mod judge;
    pub mod phone;
    pub mod plan;
    mod races;
    mod rfc5407;
    pub mod service;
    pub mod world;
}

use simulation::judge::Outcome;
use simulation::plan::{Plan, Profile};
use simulation::world::World;
use std::collections::BTreeSet;

/// Runs of each profile; each has one call, two or three.
const RUNS: u64 = 1600;
/// Profiles.
const PROFILES: u64 = 10;

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs a profile over its seeds; returns what the calls came to.
fn simulate(profile: Profile, first: u64) -> Outcome {
    // Three profiles for one kind of call each, beside six of which each has all kinds.
    let narrow = matches!(profile, Profile::Placed | Profile::Single | Profile::Strangers | Profile::Races);
    let usual = if narrow { RUNS / 2 } else { RUNS };
    let share = setting("SIM_SCHEDULES").map(|all| all.div_ceil(PROFILES));
    let runs = setting("SIM_CALLS").or(share).unwrap_or(usual);
    let first = setting("SIM_SEED").unwrap_or(first);
    let mut all = Outcome::default();
    let mut broken = vec![];
    for seed in first..first + runs {
        let world = World::run(Plan::random(seed, profile), false);
        if !world.faults().is_empty() {
            broken.push((seed, world.faults().join("; ")));
            continue;
        }
        let one = world.outcome();
        all.calls += one.calls;
        all.bridged += one.bridged;
        all.recorded += one.recorded;
        all.late_answers += one.late_answers;
        all.failovers += one.failovers;
        all.call_backs += one.call_backs;
        all.finals.extend(&one.finals);
        all.causes.extend(&one.causes);
    }
    println!("{profile:?}: {all:?}");
    complain(profile, &broken);
    if runs >= usual {
        // Most strangers reach nobody.
        let share = if profile == Profile::Strangers { 30 } else { 8 };
        assert!(all.calls as u64 >= runs / 2 && all.bridged * share > all.calls, "too few calls: {all:?}");
        let finals: BTreeSet<u16> = match profile {
            Profile::Placed => BTreeSet::new(),
            Profile::Races => [200, 480, 486, 487, 488, 500].into(),
            Profile::Strangers => [200, 404, 480, 486, 487, 488, 500, 503].into(),
            _ => [200, 404, 480, 486, 487, 488, 500, 503, 600, 603].into(),
        };
        assert!(all.finals.is_superset(&finals), "{all:?}");
        assert!(all.late_answers > 0 && all.failovers > 0, "{all:?}");
        assert!(all.recorded > 0 || profile == Profile::Strangers, "{all:?}");
        assert!(all.call_backs > 0 || profile != Profile::Single, "{all:?}");
    }
    all
}

/// Shows the first run that went wrong, and names the others.
fn complain(profile: Profile, broken: &[(u64, String)]) {
    let Some((seed, faults)) = broken.first() else { return };
    let again = World::run(Plan::random(*seed, profile), true);
    let others: String = broken.iter().map(|(seed, faults)| format!("seed {seed}: {faults}\n")).collect();
    panic!(
        "{others}\n{}\n{:?}\nseed {seed}, profile {profile:?}: {faults}\nSIM_SEED={seed} SIM_CALLS=1 cargo sim",
        again.ladder(),
        again.service.plan,
    );
}

#[test]
fn calls_on_a_calm_network_keep_every_rule() {
    simulate(Profile::Calm, 1_000_000);
}

#[test]
fn calls_whose_messages_overtake_each_other_keep_every_rule() {
    simulate(Profile::Slow, 2_000_000);
}

#[test]
fn calls_on_a_lossy_network_keep_every_rule() {
    simulate(Profile::Lossy, 3_000_000);
}

#[test]
fn calls_through_loss_copies_and_detours_keep_every_rule() {
    simulate(Profile::Stormy, 4_000_000);
}

#[test]
fn calls_that_are_cut_off_for_a_while_keep_every_rule() {
    simulate(Profile::Broken, 5_000_000);
}

#[test]
fn calls_from_a_connection_keep_every_rule() {
    simulate(Profile::Stream, 6_000_000);
}

#[test]
fn calls_that_the_api_places_keep_every_rule() {
    let all = simulate(Profile::Placed, 7_000_000);
    let causes =
        ["Busy Line", "Ring Timeout Reached", "Normal Hangup", "Scheduled Hangup", "Unknown Caller ID"];
    let seen = causes.iter().all(|cause| all.causes.contains(cause));
    assert!(seen || setting("SIM_CALLS").is_some(), "{all:?}");
}

#[test]
fn calls_of_a_session_with_one_party_keep_every_rule() {
    simulate(Profile::Single, 8_000_000);
}

#[test]
fn calls_of_people_whom_no_session_knows_keep_every_rule() {
    simulate(Profile::Strangers, 9_000_000);
}

#[test]
fn calls_in_which_everything_crosses_everything_keep_every_rule() {
    let all = simulate(Profile::Races, 10_000_000);
    let causes = ["Session Timer Expired", "Network Error", "Normal Hangup", "Canceled"];
    assert!(
        causes.iter().all(|cause| all.causes.contains(cause)) || setting("SIM_CALLS").is_some(),
        "{all:?}"
    );
}

/// A run is its seed and nothing else.
#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..20 {
        let run = || World::run(Plan::random(seed, Profile::Stormy), true).ladder();
        assert_eq!(run(), run(), "seed {seed}");
    }
}

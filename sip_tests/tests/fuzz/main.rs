//! Every parser that meets a stranger's bytes, on thousands of damaged inputs: nothing panics, and nothing takes
//! longer than its size allows.
//!
//! The inputs follow from a seed, so a failure can be repeated; it is written to a file that its message names.
//! `FUZZ_SECONDS=3600 cargo test --release -p sip_tests --test fuzz` runs each target for an hour, with a seed of
//! its own.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests may panic like tests")]

mod mutate;
mod targets;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use mutate::Mutator;
use targets::Target;

/// Inputs per target when no time is given.
const ROUNDS: u64 = 4_000;

fn run(target: &Target) {
    let seconds: Option<u64> = std::env::var("FUZZ_SECONDS").ok().map(|text| text.parse().unwrap());
    let seed = seconds.map_or(1, |_| rand::random());
    let end = maskline::clock::now() + Duration::from_secs(seconds.unwrap_or(0));
    let seeds = (target.seeds)();
    for seed in &seeds {
        (target.run)(seed);
    }
    let mut mutator = Mutator::new(seed);
    let mut round = 0;
    while if seconds.is_some() { maskline::clock::now() < end } else { round < ROUNDS } {
        round += 1;
        let input = mutator.next(&seeds);
        if catch_unwind(AssertUnwindSafe(|| (target.run)(&input))).is_err() {
            let file = std::env::temp_dir().join(format!("maskline-fuzz-{}-{seed}-{round}", target.name));
            std::fs::write(&file, &input).unwrap();
            panic!("{}: seed {seed}, round {round}: the input lies in {}", target.name, file.display());
        }
    }
    if seconds.is_some() {
        eprintln!("{}: {round} inputs, seed {seed}", target.name);
    }
}

macro_rules! fuzz {
    ($($name:ident)*) => {$(
        #[test]
        fn $name() {
            run(&targets::$name());
        }
    )*};
}

fuzz! { sip_message sip_stream uri address sdp_offer sdp_answer rtp rtcp telephone_event prompt_audio configuration }

/// The harness must be able to fail.
#[test]
fn a_target_that_panics_is_found() {
    fn faulty(input: &[u8]) {
        assert!(!input.windows(3).any(|window| window == b"%00"), "the fault");
    }
    let target = Target { name: "faulty", seeds: || vec![b"sip:a@b;c=d".to_vec()], run: faulty };
    let found = catch_unwind(|| run(&target)).unwrap_err();
    let message = found.downcast_ref::<String>().unwrap();
    let (_, file) = message.rsplit_once(' ').unwrap();
    assert!(catch_unwind(|| faulty(&std::fs::read(file).unwrap())).is_err(), "{message}");
    std::fs::remove_file(file).unwrap();
}

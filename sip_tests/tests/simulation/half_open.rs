//! Calls that a peer leaves hanging, by the simulated clock: when their media is freed and when nothing of them is
//! left (README, "Security"). Every run is held against the judge's rules as well.

use super::phone::Step;
use super::plan::{Lost, Plan, ms, s};
use super::world::World;
use sip_tests::sim::Link;
use std::time::Duration;

const CALLER: &str = "caller 0";
const GATEWAY: &str = "gateway 0";
/// From our 200 to the end of the media, from there to the end of the state, and from `ring_timeout` to the same.
const MEDIA_FREED: Duration = s(34);
const STATE_GONE: Duration = s(66);
const RINGING_GONE: Duration = s(34);

fn run(plan: Plan) -> World {
    let world = World::run(plan, true);
    assert!(world.faults().is_empty(), "{}\n{}", world.ladder(), world.faults().join("\n"));
    world
}

/// When this was noted first.
#[track_caller]
fn noted(world: &World, what: &str) -> Duration {
    let notes = &world.service.judge.notes;
    let found = notes.iter().find(|(_, note)| note.contains(what));
    found.unwrap_or_else(|| panic!("never: {what}\n{}", world.ladder())).0
}

/// How long after our 200 the media was closed and the call was gone.
#[track_caller]
fn after_the_200(world: &World) -> (Duration, Duration) {
    let answered = world.first(CALLER, "200 INVITE").unwrap();
    (noted(world, "Media(Close)") - answered, noted(world, "is gone") - answered)
}

#[track_caller]
fn is_freed_in_time(world: &World) {
    let (media, state) = after_the_200(world);
    assert!(media <= MEDIA_FREED && state <= STATE_GONE, "{media:?}, {state:?}\n{}", world.ladder());
    // Not before RFC 3261 §13.3.1.4 lets us give up, 64·T1 after the 200.
    assert!(media >= s(32) - ms(10), "{media:?}");
}

#[test]
fn a_call_whose_200_is_never_acknowledged_is_freed() {
    let mut plan = Plan::plain(301);
    plan.caller().lose_acks = 1000;
    plan.caller().deeds.clear();
    is_freed_in_time(&run(plan));
}

/// A caller who is gone altogether: no ACK, and no answer to our BYE either.
#[test]
fn a_caller_who_vanishes_after_the_200_is_forgotten() {
    let mut plan = Plan::plain(302);
    plan.caller().lose_acks = 1000;
    plan.caller().deeds.clear();
    plan.weather = vec![(ms(1100), Link { loss: 1.0, ..plan.link })];
    let world = World::run(plan, true);
    // The callee is cut off as well, and believes in his call: no fault of ours.
    is_freed_in_time(&world);
}

/// In the PIN stage nobody but the guesser is there, and the 200 goes out at once.
#[test]
fn a_caller_who_vanishes_in_the_pin_stage_is_forgotten() {
    for typing in [&[][..], &["12"], &["9999", "8888", "7777"]] {
        let mut plan = Plan::stranger_with_pin(303, 5, typing);
        plan.caller().deeds.clear();
        // INVITE and 100 pass; from the 200 on nothing does.
        plan.weather = vec![(ms(9), Link { loss: 1.0, ..plan.link })];
        plan.caller().lose_acks = 1000;
        let world = World::run(plan, true);
        let answered = noted(&world, "CollectDigits");
        let (media, state) = (noted(&world, "Media(Close)") - answered, noted(&world, "is gone") - answered);
        assert!(media <= MEDIA_FREED && state <= STATE_GONE, "{media:?}, {state:?}\n{}", world.ladder());
    }
}

#[test]
fn a_call_that_only_rings_is_gone_soon_after_ring_timeout() {
    let mut plan = Plan::plain(304);
    plan.gateway().steps = vec![(ms(100), Step::Ring(0))];
    plan.session().ring_timeout = s(30);
    let world = run(plan);
    let gone = noted(&world, "is gone");
    assert!(gone <= s(30) + RINGING_GONE, "{gone:?}\n{}", world.ladder());
}

/// Neither is our 480 acknowledged, nor our CANCEL answered.
#[test]
fn a_call_that_rang_among_the_dead_is_gone_soon_after_ring_timeout() {
    for ring_timeout in [15, 30, 45, 120] {
        let mut plan = Plan::plain(305);
        plan.gateway().steps = vec![(ms(100), Step::Ring(0))];
        plan.session().ring_timeout = s(ring_timeout);
        plan.weather = vec![(ms(1000), Link { loss: 1.0, ..plan.link })];
        let world = World::run(plan, true);
        let (media, gone) = (noted(&world, "Media(Close)"), noted(&world, "is gone"));
        assert!(media <= s(ring_timeout) + s(1), "{media:?}");
        assert!(gone <= s(ring_timeout) + RINGING_GONE, "{gone:?}\n{}", world.ladder());
    }
}

/// A gateway that says nothing at all: no provisional response, so nothing can be cancelled (RFC 3261 §9.1).
#[test]
fn a_call_to_a_gateway_that_is_silent_is_gone_soon_after_ring_timeout() {
    let mut plan = Plan::plain(306);
    plan.gateway().deaf = true;
    plan.session().ring_timeout = s(30);
    plan.caller().deeds.clear();
    let world = World::run(plan, true);
    let gone = noted(&world, "is gone");
    assert!(gone <= s(30) + RINGING_GONE, "{gone:?}\n{}", world.ladder());
}

/// INVITEs that are refused at once and never acknowledged cost their transaction and no more.
#[test]
fn a_refusal_that_nobody_acknowledges_lasts_as_long_as_its_transaction() {
    let mut plan = Plan::plain(307);
    plan.sessions.clear();
    plan.lost = vec![Lost { from: CALLER, what: "ACK", times: 1000 }];
    let world = World::run(plan, true);
    assert!(world.received(GATEWAY).is_empty());
    assert_eq!(world.service.judge.noted("OpenMedia"), 0, "no port for who is refused");
    let (refused, gone) = (world.first(CALLER, "404 INVITE").unwrap(), noted(&world, "is gone"));
    assert!(gone <= refused + s(32) + ms(100), "{gone:?}\n{}", world.ladder());
}

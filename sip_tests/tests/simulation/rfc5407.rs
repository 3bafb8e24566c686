//! Every case of RFC 5407 as a script. Maskline is the UA in question: callee towards the caller, caller towards the
//! callee.

use super::phone::{Deed, Step};
use super::plan::{Lost, Plan, ms, s};
use super::races::{CALLER, GATEWAY, about, far_apart, run, sees};
use super::world::World;
use sip_tests::agent::End;

fn count(world: &World, name: &str, what: &str) -> usize {
    world.received(name).iter().filter(|label| *label == what).count()
}

/// Each message takes 100 ms; the caller's 200 leaves at 1.305 s. So long after it our own re-INVITE leaves.
const REFRESH: u64 = 46_305;

/// Our re-INVITE to the caller leaves at [`REFRESH`]; whatever takes place goes by that time.
fn with_refresh(seed: u64) -> Plan {
    let mut plan = Plan::plain(seed);
    far_apart(&mut plan);
    plan.session_timer = Some(90);
    plan.caller().allow = Some("INVITE, ACK, BYE, CANCEL, OPTIONS");
    plan.caller().deeds = vec![(s(60), Deed::Bye)];
    plan
}

/// What the caller does at this time; he has the 200 at 1.405 s.
fn caller_at(plan: &mut Plan, at: u64, deed: Deed) {
    plan.caller().deeds.push((ms(at - 1405), deed));
}

#[test]
fn rfc5407_3_1_1_an_invite_again_while_the_ack_is_missing_gets_nothing_but_the_200() {
    let mut plan = Plan::plain(501);
    plan.lost = vec![Lost { from: CALLER, what: "ACK", times: 1 }];
    plan.caller().repeats = vec![ms(1100), ms(1200)];
    let world = run(plan);
    sees(&world, CALLER, &["100 INVITE", "180 INVITE", "200 INVITE", "200 INVITE", "200 BYE"]);
}

/// RFC 3261 §9.1: the CANCEL came too late, so that the call is up and must be ended.
#[test]
fn rfc5407_3_1_2_a_cancel_after_the_200_gets_200_and_changes_nothing() {
    let mut plan = Plan::plain(502);
    far_apart(&mut plan);
    plan.caller().cancel_after = Some(ms(1350));
    let world = run(plan);
    sees(&world, CALLER, &["100 INVITE", "180 INVITE", "200 INVITE", "200 CANCEL", "200 BYE"]);
    sees(&world, GATEWAY, &["INVITE", "ACK", "BYE"]);
}

#[test]
fn rfc5407_3_1_3_a_bye_on_the_early_dialog_that_crosses_the_200_ends_the_call() {
    let mut plan = Plan::plain(503);
    far_apart(&mut plan);
    // He has the 180 at 505 ms.
    plan.caller().early_deeds = vec![(ms(850), Deed::Bye)];
    let world = run(plan);
    assert_eq!(world.received(CALLER)[2..4], ["200 INVITE", "200 BYE"], "{}", world.ladder());
    sees(&world, GATEWAY, &["INVITE", "ACK", "BYE"]);
}

#[test]
fn rfc5407_3_1_4_a_reinvite_before_the_ack_of_an_answered_offer_is_taken() {
    let mut plan = Plan::plain(504);
    plan.lost = vec![Lost { from: CALLER, what: "ACK", times: 1 }];
    plan.caller().deeds = vec![(ms(200), Deed::Hold), (s(5), Deed::Bye)];
    let world = run(plan);
    sees(&world, CALLER, &["100 INVITE", "180 INVITE", "200 INVITE", "200 INVITE", "200 BYE"]);
    about(world.first(GATEWAY, "BYE"), s(6));
}

/// RFC 3261 §14.2: what our 200 offered has no answer yet. The call goes on.
#[test]
fn rfc5407_3_1_5_a_reinvite_before_the_ack_with_the_answer_gets_491() {
    let mut plan = Plan::plain(505);
    plan.caller().offer = None;
    plan.lost = vec![Lost { from: CALLER, what: "ACK", times: 1 }];
    plan.caller().deeds = vec![(ms(200), Deed::Hold), (s(2), Deed::Hold), (s(5), Deed::Bye)];
    let world = run(plan);
    assert_eq!(count(&world, CALLER, "491 INVITE"), 1, "{}", world.ladder());
    assert_eq!(world.ends(CALLER), [Some(End::ByeSent)]);
    about(world.first(GATEWAY, "BYE"), s(6));
}

#[test]
fn rfc5407_3_1_6_a_bye_before_the_ack_ends_the_call() {
    let mut plan = Plan::plain(506);
    plan.caller().lose_acks = 1000;
    plan.caller().deeds = vec![(ms(100), Deed::Bye)];
    let world = run(plan);
    sees(&world, CALLER, &["100 INVITE", "180 INVITE", "200 INVITE", "200 BYE"]);
    sees(&world, GATEWAY, &["INVITE", "ACK", "BYE"]);
}

#[test]
fn rfc5407_3_2_1_bye_that_crosses_bye_is_answered() {
    let mut plan = Plan::plain(507);
    far_apart(&mut plan);
    plan.caller().deeds.clear();
    plan.both_hang_up_after = Some(s(2));
    let world = run(plan);
    // The caller's BYE was the first to come, so that none goes to him.
    assert_eq!(
        (count(&world, CALLER, "200 BYE"), count(&world, CALLER, "BYE")),
        (1, 0),
        "{}",
        world.ladder()
    );
    assert_eq!(
        (count(&world, GATEWAY, "200 BYE"), count(&world, GATEWAY, "BYE")),
        (1, 1),
        "{}",
        world.ladder()
    );
}

#[test]
fn rfc5407_3_2_2_a_reinvite_that_crosses_our_bye_gets_481() {
    let mut plan = Plan::plain(508);
    far_apart(&mut plan);
    plan.caller().deeds.clear();
    plan.hang_up_at = Some(s(5));
    caller_at(&mut plan, 4950, Deed::Hold);
    let world = run(plan);
    assert_eq!(count(&world, CALLER, "481 INVITE"), 1, "{}", world.ladder());
    assert_eq!(world.ends(CALLER), [Some(End::ByeReceived)]);
}

#[test]
fn rfc5407_3_2_3_a_200_to_our_reinvite_that_crosses_our_bye_is_acknowledged() {
    let mut plan = with_refresh(509);
    plan.hang_up_at = Some(ms(REFRESH + 95));
    let world = run(plan);
    let seen = world.received(CALLER);
    assert!(seen.ends_with(&["INVITE".into(), "BYE".into(), "ACK".into()]), "{}", world.ladder());
}

#[test]
fn rfc5407_3_2_4_an_ack_that_comes_late_lets_our_bye_go() {
    let mut plan = Plan::plain(510);
    far_apart(&mut plan);
    plan.caller().deeds.clear();
    // The call is over before the caller's ACK of our 200 is here.
    plan.hang_up_at = Some(ms(1350));
    let world = run(plan);
    sees(&world, CALLER, &["100 INVITE", "180 INVITE", "200 INVITE", "BYE"]);
    about(world.first(CALLER, "BYE"), ms(1605));
}

/// RFC 3261 §14.1: we do not own the Call-ID, so ours comes again within 2 s.
#[test]
fn rfc5407_3_3_1_reinvites_that_cross_get_491_and_come_again() {
    let mut plan = with_refresh(511);
    caller_at(&mut plan, REFRESH - 55, Deed::Hold);
    caller_at(&mut plan, REFRESH + 4000, Deed::Hold);
    let world = run(plan);
    assert_eq!(count(&world, CALLER, "491 INVITE"), 1, "{}", world.ladder());
    let at: Vec<_> = world.received_at(CALLER).into_iter().filter(|(_, label)| label == "INVITE").collect();
    assert_eq!(at.len(), 2, "{}", world.ladder());
    assert!(at[1].0 - at[0].0 <= ms(2210), "{at:?}");
    // The hold at the second try is taken.
    assert_eq!(count(&world, CALLER, "200 INVITE"), 2);
    assert_eq!(world.ends(CALLER), [Some(End::ByeSent)]);
}

#[test]
fn rfc5407_3_3_2_an_update_with_an_offer_that_crosses_our_reinvite_gets_491() {
    let mut plan = with_refresh(512);
    caller_at(&mut plan, REFRESH - 55, Deed::Update);
    caller_at(&mut plan, REFRESH + 4000, Deed::Update);
    let world = run(plan);
    assert_eq!((count(&world, CALLER, "491 UPDATE"), count(&world, CALLER, "200 UPDATE")), (1, 1));
    assert_eq!(world.ends(CALLER), [Some(End::ByeSent)]);
}

#[test]
fn rfc5407_3_3_3_a_refer_that_crosses_our_bye_gets_481() {
    let mut plan = Plan::plain(513);
    far_apart(&mut plan);
    plan.caller().deeds.clear();
    plan.hang_up_at = Some(s(5));
    caller_at(&mut plan, 4950, Deed::Refer);
    let world = run(plan);
    assert_eq!(count(&world, CALLER, "481 REFER"), 1, "{}", world.ladder());
}

#[test]
fn rfc5407_appendix_a_a_bye_on_the_early_dialog_ends_the_invite() {
    let mut plan = Plan::plain(514);
    plan.caller().early_deeds = vec![(ms(100), Deed::Bye)];
    let world = run(plan);
    sees(&world, CALLER, &["100 INVITE", "180 INVITE", "200 BYE", "487 INVITE"]);
    sees(&world, GATEWAY, &["INVITE", "CANCEL", "ACK"]);
}

#[test]
fn rfc5407_appendix_b_a_bye_right_behind_a_reinvite_ends_the_call() {
    for (first, second) in [(4950, 4951), (4951, 4950)] {
        let mut plan = Plan::plain(515);
        far_apart(&mut plan);
        plan.caller().deeds.clear();
        caller_at(&mut plan, first, Deed::Hold);
        caller_at(&mut plan, second, Deed::Bye);
        let world = run(plan);
        // A 200 to the re-INVITE that comes after his BYE makes the phone say it again.
        assert!(count(&world, CALLER, "200 BYE") >= 1, "{}", world.ladder());
        sees(&world, GATEWAY, &["INVITE", "ACK", "BYE"]);
    }
}

/// The same on the leg of our own making: the callee's BYE crosses our re-INVITE, which gets 481 and its ACK.
#[test]
fn rfc5407_appendix_b_a_bye_that_crosses_our_reinvite_ends_the_call() {
    let mut plan = with_refresh(516);
    caller_at(&mut plan, REFRESH - 55, Deed::Bye);
    let world = run(plan);
    let seen = world.received(CALLER);
    assert_eq!(count(&world, CALLER, "INVITE"), 1, "{}", world.ladder());
    assert!(seen.contains(&"200 BYE".into()) && seen.contains(&"ACK".into()), "{}", world.ladder());
    assert_eq!(count(&world, CALLER, "BYE"), 0);
}

#[test]
fn rfc5407_appendix_c_a_cancel_that_crosses_a_200_ends_with_ack_and_bye() {
    let mut plan = Plan::plain(517);
    far_apart(&mut plan);
    plan.caller().cancel_after = Some(ms(1150));
    let world = run(plan);
    sees(&world, CALLER, &["100 INVITE", "180 INVITE", "200 CANCEL", "487 INVITE"]);
    let mut seen = world.received(GATEWAY);
    seen.sort();
    assert_eq!(seen, ["ACK", "BYE", "CANCEL", "INVITE"], "{}", world.ladder());
}

/// RFC 3261 §13.2.2.4: each fork that answers is acknowledged; the second one is ended at once.
#[test]
fn rfc5407_appendix_e_a_second_2xx_with_another_tag_is_acknowledged_and_ended() {
    let mut plan = Plan::plain(518);
    plan.gateway().steps = vec![(ms(100), Step::Ring(1)), (ms(1000), Step::Answer(0))];
    plan.gateway().twin_after = Some(ms(50));
    let world = run(plan);
    let twin = &world.phones.iter().find(|phone| phone.name == GATEWAY).unwrap().twin;
    assert!(twin.acknowledged && twin.ended, "{}", world.ladder());
    sees(&world, CALLER, &["100 INVITE", "180 INVITE", "200 INVITE", "200 BYE"]);
    about(world.first(CALLER, "200 BYE"), s(4));
    assert_eq!(world.ends(GATEWAY), [Some(End::ByeReceived)]);
}

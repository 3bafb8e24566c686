//! The races that have names, each as a script: what happens at which millisecond is written down, and so is what
//! each phone must see. Every run is held against the judge's rules as well. Those of RFC 5407 are in [`super::rfc5407`].

use super::phone::{CalleePlan, CallerPlan, Deed, Step};
use super::plan::{LookUp, Lost, PartyPlan, Plan, Typing, ms, pins, s};
use super::world::World;
use maskline::masking::session::PinSettings;
use maskline::number::E164;
use maskline::store::NoSession;
use rand::SeedableRng;
use rand::rngs::StdRng;
use sip_tests::agent::End;
use sip_tests::sdp::SdpOptions;
use sip_tests::sim::Link;
use std::collections::BTreeSet;
use std::time::Duration;

pub const CALLER: &str = "caller 0";
pub const GATEWAY: &str = "gateway 0";
const SECOND: &str = "gateway 1";

/// Runs the script and holds it against the judge.
pub fn run(plan: Plan) -> World {
    let world = World::run(plan, true);
    assert!(world.faults().is_empty(), "{}\n{}", world.ladder(), world.faults().join("\n"));
    world
}

/// Runs the script; `name` must have received this and nothing else.
#[track_caller]
pub fn sees(world: &World, name: &str, expected: &[&str]) {
    assert_eq!(world.received(name), expected, "{name}\n{}", world.ladder());
}

/// Each message takes 100 ms: the INVITE is at the gateway after 205 ms.
pub fn far_apart(plan: &mut Plan) {
    plan.link = Link { delay: ms(100), ..Link::perfect() };
}

fn another_gateway(plan: &mut Plan) {
    plan.gateways.push(CalleePlan::plain(&mut StdRng::seed_from_u64(77)));
}

#[track_caller]
pub fn about(at: Option<Duration>, expected: Duration) {
    let at = at.expect("it happens");
    assert!(at.abs_diff(expected) <= ms(300), "{at:?} is not about {expected:?}");
}

#[test]
fn a_plain_call_rings_is_answered_and_ends() {
    let world = run(Plan::plain(1));
    sees(&world, CALLER, &["100 INVITE", "180 INVITE", "200 INVITE", "200 BYE"]);
    sees(&world, GATEWAY, &["INVITE", "ACK", "BYE"]);
    assert_eq!(
        (world.ends(CALLER), world.ends(GATEWAY)),
        (vec![Some(End::ByeSent)], vec![Some(End::ByeReceived)])
    );
}

#[test]
fn a_late_200_after_ring_timeout_gets_ack_and_bye() {
    let mut plan = Plan::plain(4);
    plan.gateway().steps = vec![(ms(100), Step::Ring(0))];
    plan.gateway().answers_cancel_after = Some(ms(500));
    plan.session().ring_timeout = s(15);
    let world = run(plan);
    sees(&world, CALLER, &["100 INVITE", "180 INVITE", "480 INVITE"]);
    sees(&world, GATEWAY, &["INVITE", "CANCEL", "ACK", "BYE"]);
    about(world.first(CALLER, "480 INVITE"), s(15));
    about(world.first(GATEWAY, "BYE"), s(15) + ms(500));
}

/// Each fork that is remembered costs a transaction; the others get ACK and BYE without one.
#[test]
fn a_flood_of_forks_is_acknowledged_and_ended() {
    let mut plan = Plan::plain(40);
    plan.gateway().twin_after = Some(ms(50));
    plan.gateway().twins = 50;
    let world = run(plan);
    let byes = world.received(GATEWAY).iter().filter(|label| *label == "BYE").count();
    assert_eq!(byes, 51, "{}", world.ladder());
    let acks = world.received(GATEWAY).iter().filter(|label| *label == "ACK").count();
    assert_eq!(acks, 51, "{}", world.ladder());
    assert_eq!(world.ends(GATEWAY), [Some(End::ByeReceived)]);
}

/// RFC 3261 §9.1: CANCEL waits for a provisional response; the caller does not.
#[test]
fn a_cancel_before_any_provisional_response_waits_for_one() {
    let mut plan = Plan::plain(7);
    plan.gateway_delay = s(2);
    plan.caller().cancel_after = Some(ms(50));
    plan.gateway().steps = vec![(ms(100), Step::Ring(0))];
    let world = run(plan);
    about(world.first(CALLER, "487 INVITE"), ms(50));
    let mut seen = world.received(GATEWAY);
    seen.dedup();
    assert_eq!(seen, ["INVITE", "CANCEL", "ACK"], "{}", world.ladder());
    about(world.first(GATEWAY, "CANCEL"), s(2));
}

/// RFC 3261 §13.3.1.4.
#[test]
fn a_200_that_nobody_acknowledges_is_repeated_and_ends_with_bye_after_32_seconds() {
    let mut plan = Plan::plain(8);
    plan.caller().lose_acks = 1000;
    plan.caller().deeds.clear();
    let world = run(plan);
    let oks = world.received(CALLER).iter().filter(|label| *label == "200 INVITE").count();
    assert_eq!(oks, 11, "{}", world.ladder());
    about(world.first(CALLER, "BYE"), s(33));
    about(world.first(GATEWAY, "BYE"), s(33));
}

#[test]
fn a_hang_up_while_the_ack_is_missing_waits_for_it() {
    let mut plan = Plan::plain(9);
    plan.lost = vec![Lost { from: CALLER, what: "ACK", times: 2 }];
    plan.caller().deeds.clear();
    plan.gateway().deeds = vec![(ms(100), Deed::Bye)];
    let world = run(plan);
    // The 200 leaves at 1 s and is repeated at 1.5 s and 2.5 s, whose ACK arrives.
    about(world.first(GATEWAY, "200 BYE"), ms(1100));
    about(world.first(CALLER, "BYE"), ms(2500));
}

/// RFC 3261 §15.1.2: his BYE ends the dialog, whatever we still wait for.
#[test]
fn a_callers_bye_ends_the_waiting_for_his_ack() {
    let mut plan = Plan::plain(36);
    plan.caller().lose_acks = 1000;
    plan.gateway().deeds = vec![(ms(100), Deed::Bye)];
    let world = run(plan);
    // The 200 leaves at 1 s and is repeated at 1.5 s and 2.5 s; his BYE comes at 4 s.
    sees(&world, CALLER, &["100 INVITE", "180 INVITE", "200 INVITE", "200 INVITE", "200 INVITE", "200 BYE"]);
}

/// RFC 3311 §5.2: before the 200 his first offer has no answer, and what a 18x said of it may not change.
#[test]
fn an_offer_by_update_before_the_200_gets_500_with_retry_after() {
    let mut plan = Plan::plain(37);
    plan.caller().early_deeds = vec![(ms(100), Deed::Update), (ms(200), Deed::Refresh)];
    plan.gateway().steps = vec![(ms(100), Step::Early(0)), (ms(1000), Step::Answer(0))];
    let world = run(plan);
    sees(&world, CALLER, &["100 INVITE", "183 INVITE", "500 UPDATE", "200 UPDATE", "200 INVITE", "200 BYE"]);
    let refusals = world.messages(CALLER).into_iter().filter(|message| message.status() == Some(500));
    assert!(refusals.clone().count() == 1 && refusals.clone().all(|m| m.header("retry-after").is_some()));
}

#[test]
fn a_lost_200_to_bye_is_given_again() {
    let mut plan = Plan::plain(10);
    plan.lost = vec![Lost { from: "service", what: "200 BYE", times: 2 }];
    let world = run(plan);
    sees(&world, CALLER, &["100 INVITE", "180 INVITE", "200 INVITE", "200 BYE"]);
    sees(&world, GATEWAY, &["INVITE", "ACK", "BYE"]);
}

/// RFC 3261 §17.2.1.
#[test]
fn a_repeated_invite_gets_the_same_last_response() {
    let mut plan = Plan::plain(12);
    plan.caller().repeats = vec![ms(3), ms(500)];
    let world = run(plan);
    sees(&world, CALLER, &["100 INVITE", "100 INVITE", "180 INVITE", "180 INVITE", "200 INVITE", "200 BYE"]);
    let ringing: BTreeSet<_> = world
        .messages(CALLER)
        .iter()
        .filter(|message| message.status() == Some(180))
        .map(|m| m.text())
        .collect();
    assert_eq!(ringing.len(), 1);
    assert_eq!(world.outcome().calls, 1);
}

/// RFC 3261 §8.2.2.2.
#[test]
fn a_merged_invite_gets_482_and_makes_no_second_call() {
    let mut plan = Plan::plain(13);
    plan.caller().merged_after = Some(ms(300));
    let world = run(plan);
    assert_eq!(world.phones.first().unwrap().merged, [482]);
    assert_eq!((world.outcome().calls, world.outcome().bridged), (1, 1));
}

#[test]
fn forks_with_many_to_tags_become_one_tag_and_one_sdp() {
    let mut plan = Plan::plain(14);
    plan.gateway().steps = vec![
        (ms(50), Step::Ring(0)),
        (ms(100), Step::Early(1)),
        (ms(200), Step::Early(2)),
        (ms(300), Step::Ring(3)),
        (ms(900), Step::Answer(2)),
    ];
    let world = run(plan);
    let told: Vec<_> = world
        .messages(CALLER)
        .into_iter()
        .filter(|message| message.status().is_some_and(|status| status > 100) && message.cseq().1 == "INVITE")
        .collect();
    let tags: BTreeSet<_> = told.iter().map(|message| message.to_tag().map(str::to_owned)).collect();
    let sdps: BTreeSet<_> = told.iter().filter_map(|message| message.sdp().map(<[u8]>::to_vec)).collect();
    assert_eq!((told.len(), tags.len(), sdps.len()), (5, 1, 1), "{}", world.ladder());
}

/// The product's table, from end to end.
#[test]
fn each_failure_of_the_b_leg_reaches_the_caller_as_the_product_says() {
    let table: &[(&[u16], &str)] = &[
        (&[486], "486 INVITE"),
        (&[487], "487 INVITE"),
        (&[600], "600 INVITE"),
        (&[603], "603 INVITE"),
        (&[404, 408, 410, 480, 484, 604], "480 INVITE"),
        (&[401, 402, 403, 407, 300, 301, 302, 305, 380], "500 INVITE"),
        (&[500, 501, 502, 503, 504, 505, 513, 580], "500 INVITE"),
        (&[415, 488, 606], "488 INVITE"),
    ];
    for (statuses, expected) in table {
        for status in *statuses {
            let mut plan = Plan::plain(u64::from(*status));
            plan.gateway().steps = vec![(ms(100), Step::Ring(0)), (ms(500), Step::Reject(*status))];
            let world = run(plan);
            sees(&world, CALLER, &["100 INVITE", "180 INVITE", expected]);
            sees(&world, GATEWAY, &["INVITE", "ACK"]);
            let failure = world.messages(CALLER).pop().unwrap();
            assert!(
                failure.header("retry-after").is_none() && failure.header("contact").is_none(),
                "{status}"
            );
        }
    }
}

#[test]
fn early_media_that_ends_in_failure_closes_the_media() {
    let mut plan = Plan::plain(16);
    plan.gateway().steps = vec![(ms(100), Step::Early(0)), (s(2), Step::Reject(486))];
    let world = run(plan);
    sees(&world, CALLER, &["100 INVITE", "183 INVITE", "486 INVITE"]);
    let notes = &world.service.judge;
    assert_eq!(
        (notes.noted("▶ Media(Bridge)"), notes.noted("▶ Media(Close)"), notes.noted("Record")),
        (1, 1, 0)
    );
}

#[test]
fn early_media_of_a_trunk_that_forbids_it_stays_away() {
    let mut plan = Plan::plain(17);
    plan.early_media = false;
    plan.gateway().steps = vec![(ms(100), Step::Early(0)), (s(2), Step::Reject(486))];
    let world = run(plan);
    sees(&world, CALLER, &["100 INVITE", "180 INVITE", "486 INVITE"]);
    assert_eq!(world.service.judge.noted("▶ Media(Bridge)"), 0);
}

#[test]
fn the_right_pin_rings_the_other_party() {
    let mut plan = Plan::stranger_with_pin(19, 0, &["2468"]);
    plan.caller().deeds = vec![(s(9), Deed::Bye)];
    let callee = plan.session().second_party.clone().unwrap();
    let world = run(plan);
    sees(&world, CALLER, &["100 INVITE", "200 INVITE", "200 BYE"]);
    sees(&world, GATEWAY, &["INVITE", "ACK", "BYE"]);
    let invite = world.messages(GATEWAY).remove(0);
    assert!(invite.uri().unwrap().starts_with(&format!("sip:+{}@", callee.digits())));
}

#[test]
fn wrong_pins_end_after_one_entry_and_the_retries() {
    for retry in 0..=3 {
        for typing in [["1111"; 6], ["12#"; 6], [""; 6]] {
            let mut plan = Plan::stranger_with_pin(20, retry, &typing);
            plan.caller().deeds.clear();
            let world = run(plan);
            let notes = &world.service.judge;
            let said = (notes.noted("Prompt(wrong_pin"), notes.noted("Prompt(goodbye"));
            assert_eq!(said, (1 + usize::from(retry), 1), "{}", world.ladder());
            sees(&world, CALLER, &["100 INVITE", "200 INVITE", "BYE"]);
            sees(&world, GATEWAY, &[]);
            assert!(world.outcome().causes.contains("Unknown Caller ID"));
        }
    }
}

#[test]
fn a_session_that_is_deleted_during_the_pin_stage_rings_nobody() {
    let mut plan = Plan::stranger_with_pin(21, 0, &["2468"]);
    plan.caller().deeds.clear();
    plan.delete_at = Some(s(1));
    let world = run(plan);
    let notes = &world.service.judge;
    assert_eq!((notes.noted("Prompt(wrong_pin"), notes.noted("FindSession")), (1, 2), "{}", world.ladder());
    sees(&world, GATEWAY, &[]);
}

#[test]
fn call_time_limit_ends_both_legs() {
    let mut plan = Plan::plain(22);
    plan.caller().deeds.clear();
    plan.session().call_time_limit = s(20);
    let world = run(plan);
    about(world.first(CALLER, "BYE"), s(21));
    about(world.first(GATEWAY, "BYE"), s(21));
    assert!(world.outcome().causes.contains("Scheduled Hangup"));
}

#[test]
fn silence_ends_both_legs() {
    let mut plan = Plan::plain(23);
    plan.caller().deeds.clear();
    plan.media.silence_after = Some(s(60));
    let world = run(plan);
    about(world.first(CALLER, "BYE"), s(60));
    about(world.first(GATEWAY, "BYE"), s(60));
    assert!(world.outcome().causes.contains("Media Timeout"));
}

#[test]
fn the_api_ends_a_ringing_call_with_cancel_and_480() {
    let mut plan = Plan::plain(24);
    plan.gateway().steps = vec![(ms(100), Step::Ring(0))];
    plan.hang_up_at = Some(s(5));
    let world = run(plan);
    sees(&world, CALLER, &["100 INVITE", "180 INVITE", "480 INVITE"]);
    sees(&world, GATEWAY, &["INVITE", "CANCEL", "ACK"]);
}

/// RFC 3261 §18.1.1.
#[test]
fn an_invite_too_large_for_udp_falls_back_to_it_when_tcp_fails() {
    let mut plan = Plan::plain(25);
    plan.sessions.clear();
    plan.no_session = NoSession::Sip(format!("sip:desk{}@192.0.2.21:5070", "a".repeat(300)));
    plan.tcp_fails = Some(ms(50));
    let world = run(plan);
    assert_eq!(world.service.judge.noted("◀ SendFailed"), 1);
    let invites: Vec<_> =
        world.messages(GATEWAY).into_iter().filter(|message| message.is("INVITE")).collect();
    let [invite] = invites.as_slice() else { panic!("{}", world.ladder()) };
    assert!(invite.raw().len() > 1300 && invite.values("via")[0].starts_with("SIP/2.0/UDP "));
    sees(&world, CALLER, &["100 INVITE", "180 INVITE", "200 INVITE", "200 BYE"]);
}

/// The connection is found to be dead long after the caller has gone: nobody is rung for him.
#[test]
fn an_invite_of_a_call_that_is_over_does_not_fall_back_to_udp() {
    let mut plan = Plan::plain(43);
    plan.sessions.clear();
    plan.no_session = NoSession::Sip(format!("sip:desk{}@192.0.2.21:5070", "a".repeat(300)));
    plan.tcp_fails = Some(s(5));
    plan.caller().cancel_after = Some(ms(500));
    let world = run(plan);
    assert_eq!(world.service.judge.noted("◀ SendFailed"), 1);
    sees(&world, CALLER, &["100 INVITE", "200 CANCEL", "487 INVITE"]);
    sees(&world, GATEWAY, &[]);
}

/// RFC 3261 §15: who is told goodbye is not told again that his re-INVITE was taken.
#[test]
fn a_hang_up_ends_the_repeating_of_a_200_to_the_callee() {
    let mut plan = Plan::plain(44);
    plan.gateway().deeds = vec![(ms(500), Deed::Hold)];
    plan.lost = vec![Lost { from: GATEWAY, what: "ACK", times: 1000 }];
    plan.caller().deeds = vec![(ms(1200), Deed::Bye)];
    let world = run(plan);
    // The 200 leaves half a second after the answer, is repeated 500 ms later, and would be again after one second.
    sees(&world, GATEWAY, &["INVITE", "ACK", "200 INVITE", "200 INVITE", "BYE"]);
}

#[test]
fn a_gateway_that_is_full_is_left_for_the_next_one() {
    let mut plan = Plan::plain(26);
    another_gateway(&mut plan);
    plan.gateway().steps = vec![(ms(50), Step::Reject(503))];
    let world = run(plan);
    sees(&world, GATEWAY, &["INVITE", "ACK"]);
    sees(&world, SECOND, &["INVITE", "ACK", "BYE"]);
    sees(&world, CALLER, &["100 INVITE", "180 INVITE", "200 INVITE", "200 BYE"]);
}

#[test]
fn a_gateway_on_tcp_that_failed_does_not_keep_the_call() {
    let mut plan = Plan::plain(39);
    another_gateway(&mut plan);
    plan.gateway().steps = vec![(ms(50), Step::Reject(503))];
    plan.callers.iter_mut().for_each(|caller| caller.tcp = true);
    plan.gateways.iter_mut().for_each(|gateway| gateway.tcp = true);
    plan.gateways[1].steps = vec![(ms(50), Step::Reject(486))];
    let world = run(plan);
    sees(&world, CALLER, &["100 INVITE", "486 INVITE"]);
    let last = world.service.judge.notes.last().unwrap().0;
    assert!(last < s(1), "on streams nothing is waited for\n{}", world.ladder());
}

#[test]
fn a_gateway_that_rang_is_not_left_for_another() {
    let mut plan = Plan::plain(27);
    another_gateway(&mut plan);
    plan.gateway().steps = vec![(ms(50), Step::Ring(0)), (ms(200), Step::Reject(503))];
    let world = run(plan);
    sees(&world, CALLER, &["100 INVITE", "180 INVITE", "500 INVITE"]);
    sees(&world, SECOND, &[]);
}

#[test]
fn a_gateway_that_says_nothing_is_left_after_two_seconds() {
    let mut plan = Plan::plain(28);
    another_gateway(&mut plan);
    plan.gateway().deaf = true;
    let world = run(plan);
    about(world.first(SECOND, "INVITE"), s(2));
    assert_eq!(world.ends(SECOND), [Some(End::ByeReceived)]);
    records(&world, r#"[(A, "Normal Hangup"), (B, "Network Error"), (B, "Normal Hangup")]"#);
}

/// There is nothing else to try: `ring_timeout` or timer B ends it.
#[test]
fn the_last_gateway_is_not_left_however_long_it_says_nothing() {
    let mut plan = Plan::plain(128);
    plan.gateway().deaf = true;
    plan.session().ring_timeout = s(50);
    let world = run(plan);
    sees(&world, CALLER, &["100 INVITE", "480 INVITE"]);
    about(world.first(CALLER, "480 INVITE"), s(32));
}

#[test]
fn without_a_free_port_the_caller_gets_503_with_retry_after() {
    let mut plan = Plan::plain(29);
    plan.media.no_port = true;
    let world = run(plan);
    sees(&world, CALLER, &["100 INVITE", "503 INVITE"]);
    assert!(world.messages(CALLER).pop().unwrap().header("retry-after").is_some());
}

#[test]
fn a_store_that_fails_or_says_nothing_ends_with_500() {
    for (look_up, after) in [(LookUp::Fails(ms(100)), ms(100)), (LookUp::Never, s(5))] {
        let mut plan = Plan::plain(30);
        plan.look_ups = vec![look_up];
        let world = run(plan);
        sees(&world, CALLER, &["100 INVITE", "500 INVITE"]);
        about(world.first(CALLER, "500 INVITE"), after);
    }
}

#[test]
fn a_late_offer_is_answered_in_the_ack() {
    let mut plan = Plan::plain(31);
    plan.caller().offer = None;
    let world = run(plan);
    sees(&world, CALLER, &["100 INVITE", "180 INVITE", "200 INVITE", "200 BYE"]);
    assert_eq!(world.service.judge.noted("▶ Media(Configure { side: A"), 1, "{}", world.ladder());
}

#[test]
fn an_offer_without_a_codec_of_ours_gets_488_and_rings_nobody() {
    let mut plan = Plan::plain(32);
    plan.caller().offer = Some(SdpOptions { codecs: vec![], ..SdpOptions::default() });
    let world = run(plan);
    sees(&world, CALLER, &["100 INVITE", "488 INVITE"]);
    sees(&world, GATEWAY, &[]);
}

/// RFC 6141: the call goes on as it was.
#[test]
fn what_a_leg_asks_for_in_a_call_is_answered_there() {
    let table = [
        (Deed::Hold, "200 INVITE"),
        (Deed::OfferNothing, "200 INVITE"),
        (Deed::BadOffer, "488 INVITE"),
        (Deed::Update, "200 UPDATE"),
        (Deed::Refresh, "200 UPDATE"),
        (Deed::Info('5'), "200 INFO"),
        (Deed::InfoPackage, "469 INFO"),
        (Deed::Options, "200 OPTIONS"),
        (Deed::Refer, "405 REFER"),
    ];
    for (deed, expected) in table {
        let mut plan = Plan::plain(33);
        plan.caller().deeds = vec![(ms(500), deed.clone()), (s(4), Deed::Bye)];
        plan.gateway().deeds = vec![(ms(1500), deed.clone())];
        let world = run(plan);
        assert!(world.received(CALLER).contains(&expected.to_owned()), "{deed:?}\n{}", world.ladder());
        assert!(world.received(GATEWAY).contains(&expected.to_owned()), "{deed:?}\n{}", world.ladder());
        assert!(!world.received(GATEWAY).iter().skip(1).any(|label| label == "INVITE"), "{deed:?}");
        about(world.first(GATEWAY, "BYE"), s(5));
    }
}

#[test]
fn numbers_that_no_session_takes() {
    let mut plan = Plan::plain(34);
    plan.sessions.clear();
    sees(&run(plan.clone()), CALLER, &["100 INVITE", "404 INVITE"]);
    plan.no_session = NoSession::Sip(format!("sip:desk@{}", super::plan::gateway_address(0)));
    let world = run(plan.clone());
    assert_eq!(world.messages(GATEWAY).first().unwrap().uri(), Some("sip:desk@192.0.2.21:5070"));
    sees(&world, CALLER, &["100 INVITE", "180 INVITE", "200 INVITE", "200 BYE"]);
    plan.no_session = NoSession::Play("https://prompts.example/none.wav".into());
    plan.caller().deeds.clear();
    let world = run(plan.clone());
    sees(&world, CALLER, &["100 INVITE", "200 INVITE", "BYE"]);
    plan.caller().dial = super::plan::NOT_OURS.into();
    sees(&run(plan), CALLER, &["100 INVITE", "404 INVITE"]);
}

const FIRST: &str = "party 0 at 0";

/// The cause of each leg's end, as noted with the CDR.
#[track_caller]
fn records(world: &World, expected: &str) {
    assert_eq!(
        world.service.judge.noted(&format!("CloseCall {expected}")),
        1,
        "{expected}\n{}",
        world.ladder()
    );
}

#[test]
fn a_call_that_we_place_rings_the_first_party_then_the_second() {
    let world = run(Plan::placed(50));
    sees(&world, FIRST, &["INVITE", "ACK", "200 BYE"]);
    sees(&world, GATEWAY, &["INVITE", "ACK", "BYE"]);
    about(world.first(GATEWAY, "INVITE"), s(1));
    for name in [FIRST, GATEWAY] {
        let invite = world.messages(name).remove(0);
        assert!(invite.sdp().is_some() && invite.header("max-forwards") == Some("70"), "{}", invite.text());
    }
    let contact = |name| world.messages(name).remove(0).header("contact").map(str::to_owned);
    assert_ne!(contact(FIRST), contact(GATEWAY), "what names one leg names the other nowhere");
    records(&world, r#"[(A, "Normal Hangup"), (B, "Normal Hangup")]"#);
}

#[test]
fn a_first_party_that_cannot_be_had_leaves_the_second_in_peace() {
    for (status, cause) in [(486, "Busy Line"), (603, "Declined"), (404, "Invalid Destination Address")] {
        let mut plan = Plan::placed(51);
        plan.first().steps = vec![(ms(100), Step::Ring(0)), (ms(500), Step::Reject(status))];
        let world = run(plan);
        sees(&world, FIRST, &["INVITE", "ACK"]);
        sees(&world, GATEWAY, &[]);
        records(&world, &format!("[(A, {cause:?})]"));
    }
}

#[test]
fn a_first_party_that_only_rings_is_cancelled_after_ring_timeout() {
    let mut plan = Plan::placed(52);
    plan.first().steps = vec![(ms(100), Step::Ring(0))];
    plan.session().ring_timeout = s(15);
    let world = run(plan);
    sees(&world, FIRST, &["INVITE", "CANCEL", "ACK"]);
    about(world.first(FIRST, "CANCEL"), s(15));
    sees(&world, GATEWAY, &[]);
    records(&world, r#"[(A, "Ring Timeout Reached")]"#);
}

/// RFC 3261 §9.1: the CANCEL came too late.
#[test]
fn a_first_party_that_answers_in_spite_of_our_cancel_gets_ack_and_bye() {
    let mut plan = Plan::placed(53);
    plan.first().steps = vec![(ms(100), Step::Ring(0))];
    plan.first().answers_cancel_after = Some(ms(500));
    plan.session().ring_timeout = s(15);
    let world = run(plan);
    sees(&world, FIRST, &["INVITE", "CANCEL", "ACK", "BYE"]);
    sees(&world, GATEWAY, &[]);
}

#[test]
fn a_first_party_behind_a_gateway_that_is_full_is_tried_by_the_next_one() {
    let mut plan = Plan::placed(54);
    another_gateway(&mut plan);
    let phone = plan.first().clone();
    plan.parties.first_mut().unwrap().phones.push(phone);
    plan.first().steps = vec![(ms(100), Step::Reject(503))];
    let world = run(plan);
    sees(&world, FIRST, &["INVITE", "ACK"]);
    sees(&world, "party 0 at 1", &["INVITE", "ACK", "200 BYE"]);
    sees(&world, GATEWAY, &["INVITE", "ACK", "BYE"]);
    records(
        &world,
        r#"[(A, "Network congestion from carrier"), (A, "Normal Hangup"), (B, "Normal Hangup")]"#,
    );
}

#[test]
fn a_first_party_that_hangs_up_while_the_second_rings_cancels_it() {
    let mut plan = Plan::placed(55);
    plan.gateway().steps = vec![(ms(100), Step::Ring(0))];
    let world = run(plan);
    sees(&world, FIRST, &["INVITE", "ACK", "200 BYE"]);
    sees(&world, GATEWAY, &["INVITE", "CANCEL", "ACK"]);
    records(&world, r#"[(A, "Normal Hangup"), (B, "Normal Hangup")]"#);
}

#[test]
fn a_second_party_that_is_busy_is_told_to_the_first_as_a_tone_before_bye() {
    let mut plan = Plan::placed(56);
    plan.first().deeds.clear();
    plan.gateway().steps = vec![(ms(100), Step::Reject(486))];
    let world = run(plan);
    sees(&world, FIRST, &["INVITE", "ACK", "BYE"]);
    assert_eq!(world.service.judge.noted("Prompt(busy"), 1, "{}", world.ladder());
    records(&world, r#"[(A, "Busy Line"), (B, "Busy Line")]"#);
}

#[test]
fn the_api_ends_a_placed_call_whose_first_party_rings() {
    let mut plan = Plan::placed(57);
    plan.first().steps = vec![(ms(100), Step::Ring(0))];
    plan.hang_up_at = Some(s(5));
    let world = run(plan);
    sees(&world, FIRST, &["INVITE", "CANCEL", "ACK"]);
    records(&world, r#"[(A, "Scheduled Hangup")]"#);
}

#[test]
fn a_forced_pin_is_asked_of_the_first_party_too() {
    for (keys, rung) in [("2468", true), ("1357", false)] {
        let mut plan = Plan::placed(58);
        plan.first().deeds.clear();
        plan.gateway().deeds = vec![(s(1), Deed::Bye)];
        plan.session().pin = Some(PinSettings { force: true, ..pins("2468", "1357", 0) });
        let typing = Typing { after: s(1), gap: ms(200), keys: keys.into(), by_info: false };
        plan.placed.as_mut().unwrap().typing = vec![typing];
        let world = run(plan);
        assert_eq!(world.received(GATEWAY).contains(&"INVITE".into()), rung, "{}", world.ladder());
        sees(&world, FIRST, &["INVITE", "ACK", "BYE"]);
    }
}

#[test]
fn hold_and_late_offers_on_a_leg_that_we_made_are_answered_there() {
    let mut plan = Plan::placed(59);
    let deeds = [Deed::Hold, Deed::Resume, Deed::OfferNothing, Deed::Refresh, Deed::Info('5')];
    plan.first().deeds = deeds.into_iter().zip(3..).map(|(deed, at)| (s(at), deed)).collect();
    plan.first().deeds.push((s(10), Deed::Bye));
    let world = run(plan);
    let answers = world.received(FIRST).iter().filter(|label| label.starts_with("200")).count();
    assert_eq!(answers, 6, "{}", world.ladder());
    sees(&world, GATEWAY, &["INVITE", "ACK", "BYE"]);
}

/// A placed call whose first party has a full gateway before a good one, on a trunk that takes one INVITE per second.
fn paced(seed: u64) -> Plan {
    let mut plan = Plan::placed(seed);
    plan.calls_per_second = Some(1);
    another_gateway(&mut plan);
    let phone = plan.first().clone();
    plan.parties.first_mut().unwrap().phones.push(phone);
    plan.first().steps = vec![(ms(50), Step::Reject(503))];
    plan
}

#[test]
fn the_invites_of_a_placed_call_wait_for_their_turn() {
    let world = run(paced(61));
    let rung = |name| world.first(name, "INVITE").unwrap_or_else(|| panic!("{name}\n{}", world.ladder()));
    about(Some(rung(FIRST)), ms(0));
    about(Some(rung("party 0 at 1")), s(1));
    // His answer comes a second later, and one more turn with it.
    about(Some(rung(GATEWAY)), s(2));
    let turns = ["Pace(A", "Pace(B"].map(|turn| world.service.judge.noted(turn));
    assert_eq!(turns, [2, 1], "{}", world.ladder());
}

#[test]
fn a_placed_call_ends_where_too_many_wait_for_their_turn() {
    let mut plan = paced(62);
    plan.longest_queue = ms(500);
    let world = run(plan);
    sees(&world, FIRST, &["INVITE", "ACK"]);
    sees(&world, "party 0 at 1", &[]);
    records(&world, r#"[(A, "Network congestion from carrier")]"#);
}

#[test]
fn a_placed_call_without_a_free_port_rings_nobody() {
    let mut plan = Plan::placed(60);
    plan.media.no_port = true;
    let world = run(plan);
    sees(&world, FIRST, &[]);
    records(&world, r#"[(A, "Internal Error")]"#);
}

/// Whose call it was is known although nobody waits for it any more.
#[test]
fn a_call_that_is_cancelled_before_its_look_up_belongs_to_the_numbers_account() {
    for (look_up, known) in
        [(LookUp::Found(s(2)), true), (LookUp::Fails(s(2)), false), (LookUp::Never, false)]
    {
        let mut plan = Plan::plain(61);
        plan.look_ups = vec![look_up];
        plan.caller().cancel_after = Some(s(1));
        let world = run(plan);
        sees(&world, CALLER, &["100 INVITE", "200 CANCEL", "487 INVITE"]);
        let cdr = world.cdr();
        let owner = cdr.legs.first().unwrap().opened.account.clone();
        assert_eq!((owner.is_some(), cdr.session.is_some()), (known, known), "{look_up:?}");
        assert_eq!(cdr.legs.first().unwrap().hangup_cause_name, "Canceled");
    }
}

/// The answer to the first right PIN comes after its time, while the second one waits for its own.
#[test]
fn a_late_answer_to_one_look_up_does_not_answer_the_next() {
    let mut plan = Plan::stranger_with_pin(62, 1, &["2468", "1357"]);
    plan.caller().deeds.clear();
    plan.gateway().deeds = vec![(s(1), Deed::Bye)];
    // The first confirmation is given up after 5 s and comes after 14 s; the second one fails.
    plan.look_ups = vec![LookUp::Found(ms(5)), LookUp::Found(s(14)), LookUp::Never];
    let world = run(plan);
    let judge = &world.service.judge;
    assert_eq!(judge.noted("FindSession"), 3, "{}", world.ladder());
    sees(&world, GATEWAY, &[]);
}

#[test]
fn the_known_party_is_connected_to_whoever_it_talked_with() {
    let mut plan = Plan::plain(63);
    let mut random = StdRng::seed_from_u64(64);
    let stranger = plan.caller().number.clone();
    let known = super::plan::number(&mut random, "33612");
    plan.session().first_party = E164::parse(&known);
    plan.session().second_party = None;
    plan.session().single_party = Some(true);
    let mut early = CallerPlan::plain(&known, &mut random);
    let back = CallerPlan { start: s(10), ..CallerPlan::plain(&known, &mut random) };
    early.deeds.clear();
    plan.caller().start = s(4);
    plan.callers.extend([early, back]);
    plan.parties = vec![PartyPlan { number: stranger, phones: vec![CalleePlan::plain(&mut random)] }];
    plan.known = Some(known);
    let world = run(plan);
    // Before anybody has called, there is nobody.
    sees(&world, "caller 1", &["100 INVITE", "200 INVITE", "BYE"]);
    assert_eq!(world.service.judge.noted("Prompt(not_reached"), 1, "{}", world.ladder());
    sees(&world, GATEWAY, &["INVITE", "ACK", "BYE"]);
    sees(&world, "party 0 at 0", &["INVITE", "ACK", "BYE"]);
    about(world.first("party 0 at 0", "INVITE"), s(10));
}

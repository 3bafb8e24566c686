//! What is asked and refreshed on one leg, before and after the answer: session timers (RFC 4028), reliable provisional
//! responses (RFC 3262), UPDATE (RFC 3311), and everything that is refused without harm.

use super::phone::{Deed, OWN, Step};
use super::plan::{Lost, Plan, ms, s};
use super::races::{CALLER, GATEWAY, about, far_apart, run, sees};
use super::world::World;
use maskline::trunk::Prack;
use sip_tests::agent::End;
use sip_tests::message::Message;
use std::time::Duration;

fn requests(world: &World, name: &str, method: &str) -> Vec<Message> {
    world.messages(name).into_iter().filter(|message| message.is(method)).collect()
}

fn answers(world: &World, name: &str, status: u16, method: &str) -> Vec<Message> {
    let fits = |message: &Message| message.status() == Some(status) && message.cseq().1 == method;
    world.messages(name).into_iter().filter(fits).collect()
}

fn times(world: &World, name: &str, what: &str) -> Vec<Duration> {
    world.received_at(name).into_iter().filter(|(_, label)| label == what).map(|(at, _)| at).collect()
}

/// A long call whose parties do nothing by themselves until the caller hangs up.
fn long(seed: u64, hang_up: u64) -> Plan {
    let mut plan = Plan::plain(seed);
    plan.session().call_time_limit = s(1000);
    plan.caller().deeds = vec![(s(hang_up), Deed::Bye)];
    plan
}

fn expires(value: &str) -> (&'static str, String) {
    ("Session-Expires", value.to_owned())
}

fn supported(tag: &str) -> (&'static str, String) {
    ("Supported", tag.to_owned())
}

const WITHOUT_UPDATE: Option<&str> = Some("INVITE, ACK, BYE, CANCEL, OPTIONS");

#[test]
fn without_a_word_of_it_nobody_gets_a_session_timer() {
    let world = run(long(100, 700));
    sees(&world, CALLER, &["100 INVITE", "180 INVITE", "200 INVITE", "200 BYE"]);
    sees(&world, GATEWAY, &["INVITE", "ACK", "BYE"]);
    let told = world.messages(CALLER).into_iter().chain(world.messages(GATEWAY));
    assert!(told.clone().all(|message| message.header("session-expires").is_none()));
    assert!(requests(&world, GATEWAY, "INVITE")[0].values("supported").contains(&"timer"));
}

/// RFC 4028 §10: at half of the interval, by UPDATE to whoever takes it.
#[test]
fn a_trunk_with_a_session_timer_refreshes_both_legs_by_update() {
    let mut plan = long(101, 100);
    plan.session_timer = Some(90);
    plan.gateway().headers = vec![expires("90;refresher=uac")];
    let world = run(plan);
    let offered = &requests(&world, GATEWAY, "INVITE")[0];
    assert_eq!(offered.header("session-expires"), Some("90"));
    // The caller has no timers, so that only we can refresh (table 2), and nothing is required of him.
    let granted = &answers(&world, CALLER, 200, "INVITE")[0];
    assert_eq!(granted.header("session-expires"), Some("90;refresher=uas"));
    assert!(granted.header("require").is_none());
    for name in [CALLER, GATEWAY] {
        let at = times(&world, name, "UPDATE");
        assert_eq!(at.len(), 2, "{name}\n{}", world.ladder());
        about(at.first().copied(), s(46));
        about(at.last().copied(), s(91));
        let update = &requests(&world, name, "UPDATE")[0];
        assert_eq!(update.header("session-expires"), Some("90;refresher=uac"));
        assert!(update.sdp().is_none() && update.header("contact").is_some());
    }
    about(world.first(GATEWAY, "BYE"), s(101));
}

/// RFC 4028 §7.4: the same description, with the same version.
#[test]
fn a_peer_without_update_is_refreshed_by_a_reinvite_that_changes_nothing() {
    let mut plan = long(102, 60);
    plan.session_timer = Some(90);
    plan.gateway().headers = vec![expires("90;refresher=uac")];
    plan.gateway().allow = WITHOUT_UPDATE;
    plan.caller().allow = WITHOUT_UPDATE;
    let world = run(plan);
    let to_callee = requests(&world, GATEWAY, "INVITE");
    assert_eq!(to_callee.len(), 2, "{}", world.ladder());
    assert_eq!(to_callee[0].sdp(), to_callee[1].sdp());
    let to_caller = requests(&world, CALLER, "INVITE");
    assert_eq!(to_caller.len(), 1, "{}", world.ladder());
    assert_eq!(to_caller[0].sdp(), answers(&world, CALLER, 200, "INVITE")[0].sdp());
    assert_eq!(requests(&world, CALLER, "ACK").len(), 1);
    about(world.first(GATEWAY, "BYE"), s(61));
}

#[test]
fn an_update_that_gets_405_is_followed_by_a_reinvite() {
    let mut plan = long(103, 60);
    plan.session_timer = Some(90);
    plan.gateway().allow = WITHOUT_UPDATE;
    plan.gateway().headers = vec![expires("90;refresher=uac"), ("Allow", "UPDATE".into())];
    let world = run(plan);
    sees(&world, GATEWAY, &["INVITE", "ACK", "UPDATE", "INVITE", "ACK", "BYE"]);
}

/// RFC 4028 §10: 30 s before the 90 are over.
#[test]
fn a_session_that_nobody_refreshes_ends_with_a_cause_of_its_own() {
    let mut plan = long(104, 700);
    plan.gateway().headers = vec![expires("90;refresher=uas")];
    let world = run(plan);
    for name in [CALLER, GATEWAY] {
        about(world.first(name, "BYE"), s(61));
        assert_eq!(requests(&world, name, "BYE")[0].header("reason"), Some("Q.850;cause=102"));
    }
    let told = |leg: &maskline::store::LegCdr| (leg.hangup_cause_name, leg.hangup_source);
    assert!(world.cdr().legs.iter().all(|leg| told(leg) == ("Session Timer Expired", "Maskline")));
}

#[test]
fn what_a_peer_asks_in_the_call_refreshes_the_session() {
    let refresh = Deed::UpdateWith(vec![expires("90;refresher=uac"), supported("timer")]);
    let mut plan = long(105, 700);
    plan.gateway().headers = vec![expires("90;refresher=uas")];
    plan.gateway().deeds = vec![(s(40), refresh)];
    about(run(plan).first(GATEWAY, "BYE"), s(101));
    // Who does not say that he has timers is refreshed by us from then on (RFC 4028 §9, table 2).
    for (seed, deed) in [(106, Deed::Hold), (107, Deed::Refresh)] {
        let mut plan = long(seed, 150);
        plan.gateway().headers = vec![expires("90;refresher=uas")];
        plan.gateway().deeds = vec![(s(40), deed)];
        let world = run(plan);
        about(world.first(GATEWAY, "UPDATE"), s(86));
        about(world.first(GATEWAY, "BYE"), s(151));
    }
}

#[test]
fn a_caller_who_asks_for_a_timer_and_refreshes_keeps_his_call() {
    let mut plan = long(108, 200);
    plan.caller().headers = vec![expires("120"), supported("timer")];
    let refresh = |at| (s(at), Deed::UpdateWith(vec![expires("120;refresher=uac"), supported("timer")]));
    plan.caller().deeds.extend([refresh(60), refresh(120), refresh(180)]);
    let world = run(plan);
    let granted = &answers(&world, CALLER, 200, "INVITE")[0];
    assert_eq!(granted.header("session-expires"), Some("120;refresher=uac"));
    assert_eq!(granted.header("require"), Some("timer"), "RFC 4028 §9");
    let refreshed = answers(&world, CALLER, 200, "UPDATE");
    assert_eq!(refreshed.len(), 3);
    assert!(refreshed.iter().all(|message| message.header("session-expires") == Some("120;refresher=uac")));
    about(world.first(GATEWAY, "BYE"), s(201));
}

#[test]
fn an_interval_that_is_too_small_gets_422_with_min_se() {
    let mut plan = long(109, 3);
    plan.caller().headers = vec![expires("60"), supported("timer")];
    let world = run(plan);
    sees(&world, CALLER, &["422 INVITE"]);
    assert_eq!(answers(&world, CALLER, 422, "INVITE")[0].header("min-se"), Some("90"));
    sees(&world, GATEWAY, &[]);

    let mut plan = long(110, 3);
    plan.caller().deeds.push((s(1), Deed::UpdateWith(vec![expires("30"), supported("timer")])));
    plan.gateway().headers = vec![expires("1800;refresher=uas")];
    let world = run(plan);
    assert_eq!(answers(&world, CALLER, 422, "UPDATE")[0].header("min-se"), Some("90"));
    about(world.first(GATEWAY, "BYE"), s(4));
}

/// RFC 4028 §7.4: the same call, with the interval that is demanded, once.
#[test]
fn a_422_to_our_invite_is_followed_by_one_with_the_interval_that_is_demanded() {
    let mut plan = long(111, 3);
    plan.session_timer = Some(90);
    plan.gateway().first = Some(Step::RejectWith(422, vec![("Min-SE", "600".into())]));
    let world = run(plan);
    sees(&world, CALLER, &["100 INVITE", "180 INVITE", "200 INVITE", "200 BYE"]);
    let invites = requests(&world, GATEWAY, "INVITE");
    let asked: Vec<_> =
        invites.iter().map(|invite| (invite.header("session-expires"), invite.header("min-se"))).collect();
    assert_eq!(asked, [(Some("90"), None), (Some("600"), Some("600"))], "{}", world.ladder());
    assert_eq!(invites[0].call_id(), invites[1].call_id());
    assert_eq!(invites[0].cseq().0 + 1, invites[1].cseq().0);
    assert_ne!(invites[0].branch(), invites[1].branch());

    let mut plan = long(112, 3);
    plan.session_timer = Some(90);
    plan.gateway().steps = vec![(ms(10), Step::RejectWith(422, vec![("Min-SE", "600".into())]))];
    let world = run(plan);
    sees(&world, CALLER, &["100 INVITE", "500 INVITE"]);
    assert_eq!(requests(&world, GATEWAY, "INVITE").len(), 2);
}

/// RFC 3261 §14.1: whoever owns the Call-ID waits 2.1 to 4 s.
#[test]
fn a_refresh_that_gets_491_is_tried_again_until_the_session_is_over() {
    let mut plan = long(113, 700);
    plan.session_timer = Some(90);
    plan.gateway().headers = vec![expires("90;refresher=uac")];
    plan.gateway().allow = WITHOUT_UPDATE;
    plan.gateway().refuses_reinvites = Some(491);
    let world = run(plan);
    let at = times(&world, GATEWAY, "INVITE");
    assert!(at.len() > 10, "{}", world.ladder());
    for pair in at[1..].windows(2) {
        assert!((ms(2100)..=ms(4010)).contains(&(pair[1] - pair[0])), "{pair:?}");
    }
    about(world.first(GATEWAY, "BYE"), s(91));
}

/// RFC 3261 §12.2.1.2.
#[test]
fn a_refresh_that_gets_481_or_408_ends_the_call() {
    for status in [481, 408] {
        let mut plan = long(114, 700);
        plan.session_timer = Some(90);
        plan.gateway().headers = vec![expires("90;refresher=uac")];
        plan.gateway().allow = WITHOUT_UPDATE;
        plan.gateway().refuses_reinvites = Some(status);
        let world = run(plan);
        about(world.first(GATEWAY, "BYE"), s(46));
        about(world.first(CALLER, "BYE"), s(46));
        assert!(world.outcome().causes.contains("Network Error"));
    }
}

/// RFC 6141 §3.1: any other refusal leaves the session to its clock.
#[test]
fn a_refresh_that_is_refused_otherwise_leaves_the_call_until_its_time() {
    let mut plan = long(115, 70);
    plan.session_timer = Some(90);
    plan.gateway().headers = vec![expires("90;refresher=uac")];
    plan.gateway().allow = WITHOUT_UPDATE;
    plan.gateway().refuses_reinvites = Some(488);
    let world = run(plan);
    assert_eq!(times(&world, GATEWAY, "INVITE").len(), 2, "{}", world.ladder());
    about(world.first(GATEWAY, "BYE"), s(71));
}

#[test]
fn a_peer_that_has_vanished_is_found_by_its_refresh() {
    for allow in [None, WITHOUT_UPDATE] {
        let mut plan = long(116, 700);
        plan.profile = super::plan::Profile::Broken;
        plan.session_timer = Some(90);
        plan.gateway().headers = vec![expires("90;refresher=uac")];
        plan.gateway().allow = allow;
        plan.gateway().deeds = vec![(s(2), Deed::Vanish)];
        let world = run(plan);
        about(world.first(CALLER, "BYE"), s(78));
    }
}

/// RFC 3262 §4: on the early dialog, with its own CSeq, and the answer's dialog goes on counting.
#[test]
fn a_callees_reliable_response_is_acknowledged() {
    let mut plan = Plan::plain(120);
    plan.gateway().steps = vec![(ms(100), Step::Reliable(0, 7, true)), (s(1), Step::Answer(0))];
    plan.gateway().silent_answer = true;
    let world = run(plan);
    sees(&world, GATEWAY, &["INVITE", "PRACK", "ACK", "BYE"]);
    sees(&world, CALLER, &["100 INVITE", "183 INVITE", "200 INVITE", "200 BYE"]);
    let numbers: Vec<_> = world.messages(GATEWAY).iter().map(|message| message.cseq().0).collect();
    let first = numbers[0];
    assert_eq!(numbers, [first, first + 1, first, first + 2]);
    let prack = &requests(&world, GATEWAY, "PRACK")[0];
    assert_eq!(prack.header("rack"), Some(format!("7 {first} INVITE").as_str()));
}

#[test]
fn a_reliable_response_out_of_turn_is_not_looked_at() {
    let mut plan = Plan::plain(121);
    plan.gateway().steps = vec![
        (ms(100), Step::Reliable(0, 7, false)),
        (ms(200), Step::Reliable(0, 9, true)),
        (s(1), Step::Answer(0)),
    ];
    let world = run(plan);
    sees(&world, GATEWAY, &["INVITE", "PRACK", "ACK", "BYE"]);
    sees(&world, CALLER, &["100 INVITE", "180 INVITE", "200 INVITE", "200 BYE"]);
}

#[test]
fn each_fork_is_acknowledged_on_its_own_early_dialog() {
    let mut plan = Plan::plain(122);
    plan.gateway().steps = vec![
        (ms(100), Step::Reliable(1, 5, true)),
        (ms(200), Step::Reliable(2, 5, true)),
        (ms(300), Step::Reliable(1, 6, false)),
        (s(1), Step::Answer(2)),
    ];
    plan.gateway().silent_answer = true;
    let world = run(plan);
    let told: Vec<_> = requests(&world, GATEWAY, "PRACK")
        .iter()
        .map(|prack| (prack.to_tag().unwrap().chars().last(), prack.header("rack").unwrap()[..1].to_owned()))
        .collect();
    let expected =
        [(Some('1'), "5"), (Some('2'), "5"), (Some('1'), "6")].map(|(tag, rseq)| (tag, rseq.to_owned()));
    assert_eq!(told, expected, "{}", world.ladder());
    assert_eq!(world.ends(GATEWAY), [Some(End::ByeReceived)]);
}

#[test]
fn a_lost_prack_comes_again() {
    let mut plan = Plan::plain(123);
    plan.gateway().steps = vec![(ms(100), Step::Reliable(0, 1, true)), (s(4), Step::Answer(0))];
    plan.lost = vec![Lost { from: "service", what: "PRACK", times: 2 }];
    let world = run(plan);
    sees(&world, GATEWAY, &["INVITE", "PRACK", "ACK", "BYE"]);
    about(world.first(GATEWAY, "PRACK"), ms(1600));
}

/// Each PRACK is a transaction, so only so many are under way at one time.
#[test]
fn a_flood_of_reliable_responses_is_acknowledged_for_a_while() {
    let mut plan = Plan::plain(124);
    let flood = (1..=100).map(|rseq| (ms(100 + u64::from(rseq)), Step::Reliable(0, rseq, false)));
    plan.gateway().steps = flood.chain([(s(2), Step::Answer(0))]).collect();
    let world = run(plan);
    let received = world.received(GATEWAY);
    let pracks = received.iter().filter(|label| *label == "PRACK").count();
    assert_eq!(pracks, 16, "{}", world.ladder());
    assert!(received.ends_with(&["ACK".to_owned(), "BYE".to_owned()]), "{}", world.ladder());
}

fn requires_100rel(plan: &mut Plan) {
    plan.caller().headers = vec![("Require", "100rel".into())];
}

/// RFC 3262 §3, RFC 6337 §3.1.1: the description goes with the first one, and no more.
#[test]
fn a_caller_who_requires_reliable_responses_gets_them_one_at_a_time() {
    let mut plan = Plan::plain(124);
    requires_100rel(&mut plan);
    plan.gateway().steps = vec![
        (ms(100), Step::Ring(0)),
        (ms(101), Step::Early(0)),
        (ms(102), Step::Ring(0)),
        (s(1), Step::Answer(0)),
    ];
    let world = run(plan);
    let expected =
        ["100 INVITE", "180 INVITE", "200 PRACK", "183 INVITE", "200 PRACK", "200 INVITE", "200 BYE"];
    sees(&world, CALLER, &expected);
    let reliable: Vec<_> =
        world.messages(CALLER).into_iter().filter(|m| m.header("rseq").is_some()).collect();
    let numbers: Vec<u32> = reliable.iter().map(|m| m.header("rseq").unwrap().parse().unwrap()).collect();
    assert_eq!(numbers[0] + 1, numbers[1]);
    assert!(reliable.iter().all(|message| message.header("require") == Some("100rel")));
    assert!(answers(&world, CALLER, 183, "INVITE")[0].sdp().is_some());
    assert!(answers(&world, CALLER, 200, "INVITE")[0].sdp().is_none());
}

/// RFC 3262 §5.
#[test]
fn the_200_waits_for_the_prack_of_a_response_with_the_answer() {
    let mut plan = Plan::plain(125);
    requires_100rel(&mut plan);
    plan.caller().pracks_after = Some(s(2));
    plan.gateway().steps = vec![(ms(100), Step::Early(0)), (ms(500), Step::Answer(0))];
    let world = run(plan);
    let expected =
        ["100 INVITE", "183 INVITE", "183 INVITE", "183 INVITE", "200 PRACK", "200 INVITE", "200 BYE"];
    sees(&world, CALLER, &expected);
    about(world.first(CALLER, "200 INVITE"), ms(2100));
}

#[test]
fn a_response_that_nobody_acknowledges_fails_the_call_after_32_seconds() {
    let mut plan = Plan::plain(126);
    requires_100rel(&mut plan);
    plan.session().ring_timeout = s(50);
    plan.caller().pracks_after = None;
    plan.gateway().steps = vec![(ms(100), Step::Early(0))];
    let world = run(plan);
    assert_eq!(times(&world, CALLER, "183 INVITE").len(), 7, "{}", world.ladder());
    about(world.first(CALLER, "500 INVITE"), ms(32_100));
    sees(&world, GATEWAY, &["INVITE", "CANCEL", "ACK"]);
    assert!(world.outcome().causes.contains("Network Error"));
}

/// RFC 3262 §3.
#[test]
fn a_prack_for_nothing_gets_481() {
    let mut plan = Plan::plain(127);
    requires_100rel(&mut plan);
    plan.caller().early_deeds = vec![(ms(200), Deed::Ask("PRACK"))];
    let world = run(plan);
    assert_eq!(answers(&world, CALLER, 481, "PRACK").len(), 1, "{}", world.ladder());
    assert_eq!(world.ends(CALLER), [Some(End::ByeSent)]);
}

#[test]
fn a_lost_200_to_prack_is_given_again() {
    let mut plan = Plan::plain(128);
    requires_100rel(&mut plan);
    plan.lost = vec![Lost { from: "service", what: "200 PRACK", times: 1 }];
    let world = run(plan);
    sees(&world, CALLER, &["100 INVITE", "180 INVITE", "200 PRACK", "200 INVITE", "200 BYE"]);
}

/// RFC 3262 §5, RFC 6337 §2.2: our offer goes with the first reliable response, and the PRACK brings the answer.
#[test]
fn a_late_offer_is_answered_in_the_prack() {
    let mut plan = Plan::plain(129);
    requires_100rel(&mut plan);
    plan.caller().offer = None;
    let world = run(plan);
    sees(&world, CALLER, &["100 INVITE", "180 INVITE", "200 PRACK", "200 INVITE", "200 BYE"]);
    assert!(answers(&world, CALLER, 180, "INVITE")[0].sdp().is_some());
    assert!(answers(&world, CALLER, 200, "INVITE")[0].sdp().is_none());
    assert_eq!(world.service.judge.noted("▶ Media(Configure { side: A"), 1, "{}", world.ladder());
}

#[test]
fn an_offer_in_a_prack_or_an_update_after_it_is_answered_before_the_call_is() {
    let mut plan = Plan::plain(130);
    requires_100rel(&mut plan);
    plan.caller().offers_in_prack = true;
    plan.caller().early_deeds = vec![(ms(300), Deed::Update)];
    plan.gateway().steps = vec![(ms(100), Step::Early(0)), (s(1), Step::Answer(0))];
    let world = run(plan);
    let expected = ["100 INVITE", "183 INVITE", "200 PRACK", "200 UPDATE", "200 INVITE", "200 BYE"];
    sees(&world, CALLER, &expected);
    assert!(answers(&world, CALLER, 200, "PRACK")[0].sdp().is_some());
    assert!(answers(&world, CALLER, 200, "UPDATE")[0].sdp().is_some());
}

/// RFC 3311 §5.2: our INVITE's offer has no answer before a reliable response brings it.
#[test]
fn a_callees_offer_by_update_before_his_answer() {
    let table = [
        (Step::Ring(OWN), "491 UPDATE"),
        (Step::Early(OWN), "491 UPDATE"),
        (Step::Reliable(OWN, 1, true), "200 UPDATE"),
    ];
    for (seed, (first, expected)) in (131..).zip(table) {
        let mut plan = Plan::plain(seed);
        plan.gateway().steps = vec![(ms(100), first), (ms(500), Step::Update), (s(1), Step::Answer(OWN))];
        let world = run(plan);
        assert!(world.received(GATEWAY).contains(&expected.to_owned()), "{}", world.ladder());
        assert_eq!(world.ends(GATEWAY), [Some(End::ByeReceived)]);
    }
}

#[test]
fn a_trunk_says_what_becomes_of_reliable_responses() {
    let requires = ("Require", "100rel".to_owned());
    let table = [
        (Prack::Off, Some(requires.clone()), "420 INVITE", false),
        (Prack::Off, Some(supported("100rel")), "200 INVITE", false),
        (Prack::Supported, Some(supported("100rel")), "200 INVITE", false),
        (Prack::Supported, Some(requires.clone()), "200 INVITE", true),
        (Prack::Preferred, Some(supported("100rel")), "200 INVITE", true),
        (Prack::Preferred, None, "200 INVITE", false),
        (Prack::Required, Some(supported("100rel")), "200 INVITE", true),
        (Prack::Required, None, "421 INVITE", false),
    ];
    for (seed, (prack, header, expected, reliable)) in (140..).zip(table) {
        let mut plan = Plan::plain(seed);
        plan.prack = prack;
        plan.caller().headers = header.clone().into_iter().collect();
        let world = run(plan);
        let seen = world.received(CALLER);
        assert!(seen.contains(&expected.to_owned()), "{prack:?} {header:?}\n{}", world.ladder());
        assert_eq!(seen.contains(&"200 PRACK".to_owned()), reliable, "{prack:?} {header:?}");
        for invite in requests(&world, GATEWAY, "INVITE") {
            assert_eq!(invite.values("supported").contains(&"100rel"), prack != Prack::Off);
            assert_eq!(invite.header("require").is_some(), prack == Prack::Required);
        }
    }
}

/// RFC 3261 §9.1, RFC 3262 §3: the INVITE has its final answer, and nothing is repeated after it.
#[test]
fn a_cancel_before_the_prack_ends_it_all() {
    let mut plan = Plan::plain(150);
    requires_100rel(&mut plan);
    plan.caller().pracks_after = None;
    plan.caller().cancel_after = Some(ms(300));
    let world = run(plan);
    sees(&world, CALLER, &["100 INVITE", "180 INVITE", "200 CANCEL", "487 INVITE"]);
    sees(&world, GATEWAY, &["INVITE", "CANCEL", "ACK"]);
}

#[test]
fn a_cancel_while_the_200_waits_for_the_prack_ends_it_all() {
    let mut plan = Plan::plain(151);
    requires_100rel(&mut plan);
    plan.caller().pracks_after = None;
    plan.caller().cancel_after = Some(ms(700));
    plan.gateway().steps = vec![(ms(100), Step::Early(0)), (ms(300), Step::Answer(0))];
    let world = run(plan);
    sees(&world, CALLER, &["100 INVITE", "183 INVITE", "183 INVITE", "200 CANCEL", "487 INVITE"]);
    sees(&world, GATEWAY, &["INVITE", "ACK", "BYE"]);
}

/// A PRACK that crosses our 200 is answered as if nothing had happened (RFC 3262 §3).
#[test]
fn a_prack_crossing_our_200_is_answered() {
    let mut plan = Plan::plain(152);
    requires_100rel(&mut plan);
    far_apart(&mut plan);
    plan.gateway().steps = vec![(ms(100), Step::Ring(0)), (ms(150), Step::Answer(0))];
    let world = run(plan);
    sees(&world, CALLER, &["100 INVITE", "180 INVITE", "200 INVITE", "200 PRACK", "200 BYE"]);
}

#[test]
fn what_nobody_takes_is_refused_and_the_call_goes_on() {
    let table = [
        ("MESSAGE", "405 MESSAGE"),
        ("SUBSCRIBE", "405 SUBSCRIBE"),
        ("NOTIFY", "405 NOTIFY"),
        ("PUBLISH", "405 PUBLISH"),
        ("REFER", "405 REFER"),
        ("REGISTER", "405 REGISTER"),
        ("JUMP", "501 JUMP"),
    ];
    for (seed, (method, expected)) in (160..).zip(table) {
        let mut plan = Plan::plain(seed);
        plan.caller().deeds = vec![(ms(500), Deed::Ask(method)), (s(4), Deed::Bye)];
        plan.gateway().deeds = vec![(ms(1500), Deed::Ask(method))];
        let world = run(plan);
        for name in [CALLER, GATEWAY] {
            let status = if method == "JUMP" { 501 } else { 405 };
            let refused = answers(&world, name, status, method);
            assert_eq!(refused.len(), 1, "{expected} {name}\n{}", world.ladder());
            assert_eq!(refused[0].header("allow").is_some(), status == 405, "RFC 3261 §21.4.6");
        }
        sees(&world, GATEWAY, &["INVITE", "ACK", expected, "BYE"]);
    }
}

#[test]
fn fax_is_refused_and_media_may_move() {
    let table = [
        (Deed::Fax, "488 INVITE"),
        (Deed::Move { by_update: false }, "200 INVITE"),
        (Deed::Move { by_update: true }, "200 UPDATE"),
    ];
    for (seed, (deed, expected)) in (170..).zip(table) {
        let mut plan = Plan::plain(seed);
        plan.caller().deeds = vec![(ms(500), deed.clone()), (s(4), Deed::Bye)];
        plan.gateway().deeds = vec![(ms(1500), deed.clone())];
        let world = run(plan);
        for name in [CALLER, GATEWAY] {
            assert!(world.received(name).contains(&expected.to_owned()), "{name}\n{}", world.ladder());
        }
        let moved = world.service.judge.noted(":40002");
        assert_eq!(moved > 0, deed != Deed::Fax, "{deed:?}");
        about(world.first(GATEWAY, "BYE"), s(5));
    }
}

/// RFC 3326, RFC 3398: the number passes, mapped to one of ours, and never a text.
#[test]
fn a_q850_cause_passes_as_a_number_of_ours_and_nothing_else_does() {
    let reason = |message: &Message| message.header("reason").map(str::to_owned);
    let table = [
        (r#"Q.850;cause=16;text="Alice""#, "Q.850;cause=16", "Normal Hangup"),
        (
            r#"SIP;cause=200;text="x", Q.850;cause=41;text="Alice""#,
            "Q.850;cause=42",
            "Network congestion from carrier",
        ),
        (r#"Q.850;cause=17"#, "Q.850;cause=17", "Busy Line"),
        (r#"SIP;cause=486;text="Alice""#, "Q.850;cause=16", "Normal Hangup"),
    ];
    for (seed, (said, told, cause)) in (200..).zip(table) {
        let mut plan = Plan::plain(seed);
        plan.caller().deeds = vec![(s(1), Deed::ByeBecause(said))];
        let world = run(plan);
        assert_eq!(reason(&requests(&world, GATEWAY, "BYE")[0]).as_deref(), Some(told), "{said}");
        assert!(world.cdr().legs.iter().all(|leg| leg.hangup_cause_name == cause), "{said}");
    }
    let table = [
        (486, r#"Q.850;cause=41;text="Alice""#, 486, "Q.850;cause=17", "Busy Line"),
        (500, r#"Q.850;cause=17;text="Alice""#, 500, "Q.850;cause=17", "Busy Line"),
        (480, r#"Q.850;cause=1;text="Alice""#, 480, "Q.850;cause=1", "Invalid Destination Address"),
        (503, "Q.850;cause=200", 500, "Q.850;cause=42", "Network congestion from carrier"),
    ];
    for (seed, (status, said, told, reason_told, cause)) in (210..).zip(table) {
        let mut plan = Plan::plain(seed);
        let refusal = Step::RejectWith(status, vec![("Reason", said.to_owned())]);
        plan.gateway().steps = vec![(ms(100), Step::Ring(0)), (ms(500), refusal)];
        let world = run(plan);
        let failure = &answers(&world, CALLER, told, "INVITE")[0];
        assert_eq!(reason(failure).as_deref(), Some(reason_told), "{status} {said}");
        assert!(world.cdr().legs.iter().all(|leg| leg.hangup_cause_name == cause), "{status} {said}");
    }
    // A CANCEL says why, too.
    let mut plan = Plan::plain(220);
    plan.gateway().steps = vec![(ms(100), Step::Ring(0))];
    plan.session().ring_timeout = s(15);
    let world = run(plan);
    assert_eq!(reason(&requests(&world, GATEWAY, "CANCEL")[0]).as_deref(), Some("Q.850;cause=19"));
    assert_eq!(reason(&answers(&world, CALLER, 480, "INVITE")[0]).as_deref(), Some("Q.850;cause=19"));
}

#[test]
fn a_key_by_info_during_the_call_passes_to_the_other_leg() {
    let mut plan = Plan::plain(230);
    plan.caller().deeds = vec![(s(1), Deed::Info('5')), (s(4), Deed::Bye)];
    plan.gateway().deeds = vec![(s(2), Deed::Info('#')), (s(3), Deed::InfoPackage)];
    let world = run(plan);
    let judge = &world.service.judge;
    let passed = |side: char| judge.noted(&format!("▶ Media(SendDigit {{ side: {side}"));
    assert_eq!((passed('B'), passed('A')), (1, 1), "{}", world.ladder());
    assert_eq!(answers(&world, GATEWAY, 469, "INFO").len(), 1);
}

/// Nothing of what is typed for a PIN passes, however it comes.
#[test]
fn keys_by_info_in_the_pin_stage_pass_to_nobody() {
    let mut plan = Plan::stranger_with_pin(231, 0, &["2468"]);
    plan.caller().typing[0].by_info = true;
    plan.caller().deeds = vec![(s(9), Deed::Bye)];
    let world = run(plan);
    sees(&world, GATEWAY, &["INVITE", "ACK", "BYE"]);
    assert_eq!(world.service.judge.noted("SendDigit"), 0);
}

//! The leak proof: marked numbers, names, hosts and ids in every place of every message, description and packet in
//! which something of one party could cross to the other, rows 1–44 of the leak catalogue, from either side, in every
//! encoding; then every byte that the other side received is searched, in every encoding that the leak finder
//! knows, and so are the recordings (the mixed one too), the log, the metrics, what others than the owner get over the
//! API, what other applications are told, and what prompts are asked for with. The first two rounds have a second scene,
//! over TCP.
//!
//! It goes in rounds. A round has parties of its own, drawn from its seed, and puts another mark in another encoding
//! at each place; round 0 writes everything as it is. `LEAK_SEED` is the first round's seed (0), `LEAK_ROUNDS` how
//! many there are (5).
//!
//! A row counts as planted only when its text was really sent; each planted text is shown to be one that the
//! finder would find. [`slips`] puts leaks in that must be found.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests may panic like tests")]

#[path = "../common/mod.rs"]
mod common;

mod calls;
mod dialog;
mod further;
mod judge;
mod log;
mod party;
mod places;
mod plant;
mod relay;
mod slips;
mod slips_kept;

use calls::Scene;
use dialog::{EARLY, OUTSIDE};
use judge::{Evidence, foreign, outputs, shown};
use log::{Capture, Log};
use party::{Party, Side};
use places::{ONE_WAY, ROWS};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use sip_tests::agent::Transport;
use sip_tests::leak::{Finder, Marks};
use sip_tests::message::{self, Message};
use sip_tests::transcript::{Direction, Kind, Transcript};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::Arc;

/// Final failures that a callee gives.
const FAILURES: [u16; 19] =
    [300, 302, 380, 401, 404, 407, 410, 415, 480, 484, 486, 488, 500, 503, 600, 603, 604, 606, 699];

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
#[allow(clippy::print_stdout, reason = "how much was planted is for people to see")]
async fn nothing_of_one_party_reaches_the_other() {
    let log = Log::of_process();
    let (first, rounds) = (setting("LEAK_SEED", 0), setting("LEAK_ROUNDS", 5));
    let (mut texts, mut searched) = (0, 0);
    for seed in first..first + rounds {
        // Shown when it fails.
        println!("LEAK_SEED={seed} LEAK_ROUNDS=1");
        let log_before = log.text().len();
        let (scene, others) = round(seed).await;
        every_row_was_planted(&scene, seed);
        every_kind_of_message_was_sent(&scene);
        searched += nothing_came_through(&scene);
        every_invite_is_ours(&scene);
        let evidence = Evidence::of(&scene, log.text().split_off(log_before), others).await;
        nothing_is_kept_or_shown(&scene, &evidence);
        texts += scene.ledger.0.len();
        if seed >= first + 2 {
            continue;
        }
        let log_before = log.text().len();
        let by_tcp = round_by_tcp(seed).await;
        searched += nothing_came_through(&by_tcp);
        let evidence = Evidence::of(&by_tcp, log.text().split_off(log_before), vec![]).await;
        nothing_is_kept_or_shown(&by_tcp, &evidence);
        texts += by_tcp.ledger.0.len();
        let (slips, missed) = further::missed(&scene, &by_tcp);
        println!("{} of {slips} deliberate leaks of the further calls found", slips - missed.len());
        assert!(missed.is_empty(), "{missed:#?}");
    }
    println!(
        "{rounds} rounds: {texts} marked texts planted, {searched} messages and packets searched, 0 leaks"
    );
}

/// The scene, and what others were told or asked.
async fn round(seed: u64) -> (Scene, Vec<(String, String)>) {
    let is_mixed = seed != 0;
    let mut scene = Scene::new(seed, is_mixed).await;
    calls::answered_call(&mut scene).await;
    calls::early_dialogs(&mut scene).await;
    calls::call_with_multipart_bodies(&mut scene).await;
    let failures: Vec<u16> = match is_mixed {
        false => FAILURES.to_vec(),
        // One of each hundred.
        true => {
            let rng = &mut StdRng::seed_from_u64(seed);
            let of = |class: u16| FAILURES.into_iter().filter(|f| f / 100 == class).collect::<Vec<_>>();
            (3..=6).filter_map(|class| of(class).choose(rng).copied()).collect()
        }
    };
    calls::refused_calls(&mut scene, &failures).await;
    calls::cancelled_call(&mut scene).await;
    calls::escaped_caller(&mut scene).await;
    calls::placed_call(&mut scene).await;
    further::late_offer(&mut scene).await;
    let others = pin_call_and_what_others_are_told(&mut scene, seed).await;
    (scene, others)
}

async fn pin_call_and_what_others_are_told(scene: &mut Scene, seed: u64) -> Vec<(String, String)> {
    let prompts = further::pin_call(scene, seed).await;
    scene.server.settled().await;
    let mut others = further::told_to_others(scene).await;
    others.push(("asked for prompts".to_owned(), prompts.asked()));
    others
}

async fn round_by_tcp(seed: u64) -> Scene {
    let mut scene = Scene::by(Transport::Tcp, seed + 1_000_000, seed != 0).await;
    calls::answered_call(&mut scene).await;
    calls::refused_calls(&mut scene, &[302, 486]).await;
    calls::cancelled_call(&mut scene).await;
    scene.server.settled().await;
    for side in Side::BOTH {
        let vias: Vec<String> = (scene.transcript.messages_to(side.name()).iter())
            .filter(|message| message.status().is_none())
            .map(|message| message.header("Via").unwrap().to_owned())
            .collect();
        assert!(!vias.is_empty() || side == Side::Caller);
        assert!(vias.iter().all(|via| via.starts_with("SIP/2.0/TCP ")), "{vias:?}");
    }
    scene
}

/// Every row was planted, by each side that can; all of it was sent, and the finder would see it.
fn every_row_was_planted(scene: &Scene, seed: u64) {
    let mut planted: BTreeMap<u8, BTreeSet<Side>> = BTreeMap::new();
    let mut sent = BTreeMap::from(Side::BOTH.map(|side| (side.name(), vec![])));
    for entry in scene.transcript.entries().into_iter().filter(|entry| entry.direction == Direction::Sent) {
        let all = sent.get_mut(&*entry.phone).unwrap();
        all.extend(entry.bytes);
        all.extend(b"\r\n\xff\r\n");
    }
    let finders = Side::BOTH.map(|side| Finder::new(&scene.party(side).marks()));
    for planting in &scene.ledger.0 {
        let name = planting.side.name();
        let text = String::from_utf8_lossy(&planting.needle);
        let was_sent = message::find(&sent[name], &planting.needle).is_some();
        assert!(was_sent, "seed {seed}: row {} of the {name} was never sent: {text}", planting.row);
        // Hops are a number that is checked by itself.
        let forged = [b"INVITE sip:x@y SIP/2.0\r\nX: ".as_slice(), &planting.needle, b"\r\n\r\n"].concat();
        let is_found = planting.row == 10 || !finders[planting.side as usize].find(&forged).is_empty();
        assert!(is_found, "seed {seed}: row {} of the {name} has no mark: {text}", planting.row);
        planted.entry(planting.row).or_default().insert(planting.side);
    }
    for (row, title) in (1u8..).zip(ROWS) {
        for side in Side::BOTH {
            let one_way = ONE_WAY.iter().any(|(other, cannot, _)| (*other, *cannot) == (row, side));
            let has = planted.get(&row).is_some_and(|sides| sides.contains(&side));
            assert!(has != one_way, "row {row} ({title}): planted by {side:?}: {has}");
        }
    }
}

/// Requests inside and outside dialogs from both sides, and responses of every kind, each with marks.
fn every_kind_of_message_was_sent(scene: &Scene) {
    let mut kinds: BTreeSet<(Side, String)> = BTreeSet::new();
    for entry in scene.transcript.entries().iter().filter(|entry| entry.direction == Direction::Sent) {
        let Some(message) = Message::read(&entry.bytes).filter(|_| entry.kind == Kind::Sip) else { continue };
        let side = if &*entry.phone == "caller" { Side::Caller } else { Side::Callee };
        if message::find(&entry.bytes, scene.party(side).stem.as_bytes()).is_none() {
            continue;
        }
        let kind = match (message.method(), message.status()) {
            (Some(method), _) => format!("{method}{}", message.to_tag().map_or("", |_| " inside")),
            (_, Some(status @ ..300)) => format!("{status} {}", message.cseq().1),
            (_, status) => format!("{}xx {}", status.unwrap() / 100, message.cseq().1),
        };
        kinds.insert((side, kind));
    }
    for side in Side::BOTH {
        let mut expected: Vec<String> = ["INVITE inside", "200 BYE"].map(ToOwned::to_owned).to_vec();
        for method in OUTSIDE.into_iter().chain(EARLY) {
            expected.extend([method.to_owned(), format!("{method} inside")]);
        }
        let own: &[&str] = match side {
            Side::Caller => &["INVITE", "180 INVITE", "183 INVITE", "200 INVITE"],
            Side::Callee => &[
                "100 INVITE",
                "180 INVITE",
                "181 INVITE",
                "183 INVITE",
                "200 INVITE",
                "3xx INVITE",
                "4xx INVITE",
                "5xx INVITE",
                "6xx INVITE",
                "200 CANCEL",
            ],
        };
        expected.extend(own.iter().map(|kind| (*kind).to_owned()));
        for kind in expected {
            assert!(kinds.contains(&(side, kind.clone())), "no marked {kind} of the {side:?} in {kinds:?}");
        }
    }
}

/// Returns how many messages and packets were searched.
fn nothing_came_through(scene: &Scene) -> usize {
    let mut searched = 0;
    for side in Side::BOTH {
        let (party, other) = (scene.party(side), side.other().name());
        let found = scene.transcript.leaks_to(other, &party.marks());
        let shown: String = found.iter().take(10).fold(String::new(), |mut text, finding| {
            let _ = writeln!(text, "  {finding}");
            text
        });
        assert!(found.is_empty(), "of the {} to the {other}:\n{shown}", party.name());
        let foreign = foreign(&scene.transcript, other);
        assert!(foreign.is_empty(), "to the {other}: {}", foreign.join("\n"));
        let received = scene.transcript.received_by(other);
        for kind in [Kind::Sip, Kind::Rtp, Kind::Rtcp] {
            assert!(received.iter().any(|e| e.kind == kind), "the {other} received {kind:?}");
        }
        assert!(received.iter().all(|e| e.peer.ip().to_string() == "127.0.0.1"), "row 42");
        if let Some(pin) = &scene.pin {
            let found = scene.transcript.leaks_to(side.name(), &pin.marks());
            assert!(found.is_empty(), "of the PIN session to the {}: {found:?}", side.name());
        }
        searched += received.len();
    }
    searched
}

fn every_invite_is_ours(scene: &Scene) {
    let (placed, pin) = (scene.placed_number.clone().unwrap(), scene.pin.clone().unwrap().number);
    for side in Side::BOTH {
        for message in scene.transcript.messages_to(side.name()).iter().filter(|m| m.is("INVITE")) {
            let from = message.header("From").unwrap();
            let shows = |number: &str| from.starts_with(&format!("<sip:{number}@127.0.0.1;user=phone>;tag="));
            // A call that was dialled has one hop less; one that was placed begins anew.
            let hops = if shows(&placed) { "70" } else { "36" };
            let dialled = shows(&scene.number) || shows(&pin);
            assert!(shows(&placed) || (dialled && side == Side::Callee), "{from}");
            assert_eq!(message.header("Max-Forwards"), Some(hops), "row 10");
            let offer = String::from_utf8_lossy(message.body()).into_owned();
            assert!(offer.contains("a=rtpmap:101 ") && !offer.contains("a=rtpmap:113 "), "row 38: {offer}");
            // His own number stands where he is addressed, and nowhere else.
            let number = &scene.party(side).number;
            let own = [message.start_line(), message.header("To").unwrap()];
            assert!(own.iter().all(|line| line.matches(number.as_str()).count() == 1), "{}", message.text());
            assert_eq!(message.text().matches(number.as_str()).count(), 2, "{}", message.text());
        }
    }
}

fn nothing_is_kept_or_shown(scene: &Scene, evidence: &Evidence) {
    assert!(message::find(&evidence.log, b"call started").is_some(), "the log was captured");
    for side in Side::BOTH {
        let party = scene.party(side);
        // Addresses of peers may be logged.
        let log = Evidence { log: evidence.log.clone(), ..Evidence::default() };
        let rest = Evidence { log: vec![], ..evidence.clone() };
        let found = [outputs(&log, &party.person()), outputs(&rest, &party.marks())].concat();
        assert!(found.is_empty(), "of the {}:\n{}", party.name(), shown(&found));
    }
    if let Some(pin) = &scene.pin {
        let found = outputs(evidence, &pin.marks());
        assert!(found.is_empty(), "of the PIN session:\n{}", shown(&found));
    }
    // A recording does not even tell what was dialled.
    let files = Evidence { files: evidence.files.clone(), ..Evidence::default() };
    let pin = scene.pin.as_ref().map(|pin| &pin.number);
    let numbers = [Some(&scene.number), scene.placed_number.as_ref(), pin].into_iter().flatten();
    let found = outputs(&files, &numbers.fold(Marks::default(), |marks, number| marks.number(number)));
    assert!(found.is_empty(), "{}", shown(&found));
}

/// Where the code that makes messages reads the digits of a number, and whose they are. Whoever adds a place shows
/// here that no party's number leaves by it.
#[test]
fn a_partys_digits_go_into_a_message_at_one_place() {
    #[rustfmt::skip]
    let expected = BTreeMap::from([
        ("call/identity.rs", 2), // The Request-URI and To of the party's own leg; the virtual number in From.
        ("call/pin.rs", 2),      // A PIN: its length, and the comparison with what was typed.
        ("trunk/mod.rs", 2),     // What was dialled becomes a virtual number; no country begins with 0.
    ]);
    let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../src");
    let mut found = BTreeMap::new();
    for folder in
        ["call", "call/leg", "call/machine", "sip", "sip/transaction", "sip/transport", "trunk", "recording"]
    {
        for entry in std::fs::read_dir(source.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
            let uses: usize = [".digits()", "E164::digits", "Did::digits"]
                .iter()
                .map(|call| code.matches(call).count())
                .sum();
            if uses > 0 && !path.ends_with("tests.rs") {
                let below = path.strip_prefix(&source).unwrap().to_string_lossy().into_owned();
                found.insert(below, uses);
            }
        }
    }
    let found: BTreeMap<&str, usize> = found.iter().map(|(path, uses)| (path.as_str(), *uses)).collect();
    assert_eq!(found, expected);
}

#[test]
fn a_party_is_known_by_nothing_that_another_has() {
    for seed in 0..200 {
        let [caller, callee] = Side::BOTH.map(|side| Party::drawn(side, seed, true));
        for (one, other) in [(&caller, &callee), (&callee, &caller)] {
            let (marks, other) = (one.marks(), other.marks());
            for text in other.numbers.iter().chain(&other.names).chain(&other.hosts).chain(&other.ids) {
                assert_eq!(sip_tests::leak::find(text.as_bytes(), &marks), [], "seed {seed}");
            }
            assert_eq!(marks, Party::drawn(one.side, seed, true).marks());
        }
    }
}

#[test]
fn a_foreign_header_or_line_is_noticed() {
    for text in [
        "BYE sip:x@y SIP/2.0\r\nX-Anything: harmless\r\n\r\n",
        "SIP/2.0 200 OK\r\nContent-Type: application/sdp\r\n\r\na=harmless\r\n",
        "SIP/2.0 200 OK\r\nContent-Type: text/plain\r\n\r\nharmless\r\n",
    ] {
        let transcript = Transcript::new();
        let server = "127.0.0.1:5060".parse().unwrap();
        transcript.add(&Arc::from("callee"), Direction::Received, Kind::Sip, server, text.as_bytes());
        assert!(!foreign(&transcript, "callee").is_empty(), "{text}");
    }
}

#[test]
fn every_level_of_the_log_is_captured() {
    let party = Party::drawn(Side::Caller, 7, false);
    let log = Arc::new(Log::default());
    tracing::subscriber::with_default(Capture(Arc::clone(&log)), || {
        let _span = tracing::trace_span!(target: "maskline", "call", party = party.number).entered();
        tracing::trace!(target: "maskline", name = party.stem, "dialled {}", party.forward);
    });
    let evidence = Evidence { log: log.text(), ..Evidence::default() };
    assert_eq!(outputs(&evidence, &party.person()).len(), 3);
}

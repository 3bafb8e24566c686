//! Click-to-call: the create of a session rings the first party, then the second one, and connects them.
//!
//! One phone stands for the carrier, so that both legs arrive there; the dialled number tells them apart.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests may panic like tests")]

mod common;

use common::talk::{compare, dialled, find, heard, more_packets, wav};
use common::{FIRST, PATIENCE, SECOND, Server, Setup, phone, until};
use maskline::call::tones;
use serde_json::{Value, json};
use sip_tests::agent::End;
use sip_tests::audio::{Voice, speech};
use sip_tests::phone::{CallOptions, IncomingCall, Phone};
use sip_tests::sdp::SdpOptions;

/// The service, the carrier, and the session whose creation calls.
struct Scene {
    server: Server,
    carrier: Phone,
    session: Value,
}

impl Scene {
    async fn with(setup: Setup, more: Value) -> Self {
        let carrier = phone("carrier").await;
        let server = Server::with(carrier.address(), setup).await;
        let mut body = json!({ "initiate_call_to_first_party": true });
        for (key, value) in more.as_object().unwrap() {
            body[key] = value.clone();
        }
        let session = server.session(body).await;
        assert_eq!(session["session"]["initiate_call_to_first_party"], true);
        Self { server, carrier, session }
    }

    async fn new(more: Value) -> Self {
        Self::with(Setup::default(), more).await
    }

    fn number(&self) -> String {
        Server::number(&self.session)
    }

    /// The next call, which is for `party` and shows the virtual number.
    async fn rung(&self, party: &str) -> IncomingCall {
        let incoming = self.carrier.next_call(PATIENCE).await.unwrap();
        assert_eq!(dialled(&incoming), party);
        let from = incoming.request().header("From").unwrap();
        assert!(from.starts_with(&format!("<sip:{}@", self.number())), "{from}");
        assert!(incoming.request().sdp().is_some(), "it carries our offer");
        incoming
    }

    async fn answered(&self, party: &str, sdp: SdpOptions) -> IncomingCall {
        let incoming = self.rung(party).await;
        incoming.ring().await.unwrap();
        incoming.answer(sdp).await.unwrap();
        incoming.wait_ack(PATIENCE).await.unwrap();
        incoming
    }

    /// Cause, code and source of each leg of the one interaction, by the role of its party.
    async fn causes(&self) -> Vec<(String, Value, Value, Value)> {
        self.server.settled().await;
        let interactions = self.server.interactions(&self.session).await;
        let [interaction] = interactions.as_slice() else { panic!("{interactions:?}") };
        let mut causes = vec![];
        for role in ["first", "second"] {
            if interaction.get(format!("{role}_party_resource_url")).is_some() {
                let mut leg = self.server.leg(interaction, role).await;
                let mut take = |name: &str| leg[name].take();
                causes.push((
                    role.to_owned(),
                    take("hangup_cause_name"),
                    take("hangup_source"),
                    take("sip_status"),
                ));
            }
        }
        causes
    }

    /// Nobody else was called, and the phone has no complaint.
    async fn quiet(&self, calls: usize) {
        let invites = self.carrier.received().iter().filter(|m| m.is("INVITE")).count();
        assert_eq!(invites, calls);
        assert_eq!(self.carrier.faults().await, Vec::<String>::new());
    }
}

fn cause(role: &str, name: &str, source: &str, status: Value) -> (String, Value, Value, Value) {
    (role.to_owned(), json!(name), json!(source), status)
}

#[tokio::test(flavor = "multi_thread")]
async fn both_parties_are_rung_hear_each_other_and_are_recorded() {
    let scene = Scene::new(json!({})).await;
    let first = scene.answered(FIRST, SdpOptions::default()).await;
    let second = scene.rung(SECOND).await;
    second.ring().await.unwrap();
    // He is answered: what he hears is ours.
    more_packets(first.media(), 60).await;
    let heard = first.media().received_audio();
    let level = sip_tests::audio::level(&heard);
    assert!(level > 100.0, "no ringback: {level}");
    second.answer(SdpOptions::default()).await.unwrap();
    second.wait_ack(PATIENCE).await.unwrap();
    more_packets(second.media(), 3).await;
    let (low, high) = (speech(Voice::Low, 81, 2000), speech(Voice::High, 82, 2000));
    tokio::join!(first.media().play(&low), second.media().play(&high));
    more_packets(first.media(), 25).await;
    for (from, to) in [(&first, &second), (&second, &first)] {
        let found = compare(&from.media().sent_audio(), &to.media().received_audio());
        assert!(found.is_same(), "{found:?}");
    }
    first.hang_up().await.unwrap();
    second.wait_bye(PATIENCE).await.unwrap();

    let folder = scene.server.recording(&[]).await;
    for (file, side) in [("a-leg.wav", &first), ("b-leg.wav", &second)] {
        let found = compare(&side.media().sent_audio(), &wav(&folder, file));
        assert!(found.is_same(), "{file}: {found:?}");
    }
    let (of_first, of_second) = scene.server.last_legs(&scene.session).await;
    let number = scene.number();
    let digits = |number: &str| json!(number.trim_start_matches('+'));
    for (leg, party) in [(&of_first, FIRST), (&of_second, SECOND)] {
        assert_eq!((&leg["call_direction"], &leg["call_state"]), (&json!("outbound"), &json!("ANSWER")));
        assert_eq!((&leg["from_number"], &leg["to_number"]), (&digits(&number), &digits(party)));
        assert_eq!((&leg["hangup_cause_code"], &leg["hangup_source"]), (&json!(4000), &json!("Caller")));
        assert!(leg["ringing_time"].is_string() && leg["packets_received"].as_u64().unwrap() > 0);
    }
    assert_eq!(of_second["parent_call_uuid"], of_first["call_uuid"]);
    scene.quiet(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn codecs_that_differ_are_converted_without_asking_the_first_party_again() {
    let scene = Scene::new(json!({ "record": false })).await;
    let first = scene.answered(FIRST, SdpOptions::pcma()).await;
    let second = scene.answered(SECOND, SdpOptions::pcmu()).await;
    for media in [first.media(), second.media()] {
        more_packets(media, 3).await;
    }
    let (low, high) = (speech(Voice::Low, 83, 1500), speech(Voice::High, 84, 1500));
    tokio::join!(first.media().play(&low), second.media().play(&high));
    more_packets(first.media(), 25).await;
    // Not from the first packet on: the first party may still hear ringback then.
    heard("the first party", &low, second.media());
    heard("the second party", &high, first.media());
    second.hang_up().await.unwrap();
    first.wait_bye(PATIENCE).await.unwrap();
    assert_eq!(
        scene.causes().await,
        ["first", "second"].map(|role| cause(role, "Normal Hangup", "Callee", Value::Null))
    );
    scene.quiet(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_party_that_is_busy_ends_the_call_before_the_second_is_rung() {
    let scene = Scene::new(json!({})).await;
    let first = scene.rung(FIRST).await;
    first.reject(486, None, &[], None).await.unwrap();
    assert_eq!(scene.causes().await, [cause("first", "Busy Line", "Caller", json!(486))]);
    scene.quiet(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_party_that_does_not_answer_is_cancelled_after_ring_timeout() {
    let scene = Scene::new(json!({ "ring_timeout": 1 })).await;
    let first = scene.rung(FIRST).await;
    first.ring().await.unwrap();
    first.wait_cancel(PATIENCE).await.unwrap();
    assert_eq!(scene.causes().await, [cause("first", "Ring Timeout Reached", "Maskline", Value::Null)]);
    scene.quiet(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_party_that_is_busy_is_heard_of_as_a_tone() {
    let scene = Scene::new(json!({})).await;
    let first = scene.answered(FIRST, SdpOptions::default()).await;
    let second = scene.rung(SECOND).await;
    second.reject(486, None, &[], None).await.unwrap();
    first.wait_bye(PATIENCE).await.unwrap();
    let heard = first.media().received_audio();
    let tone = tones::busy();
    assert!(find(tone.samples(), &heard).is_some(), "the busy tone in {} samples", heard.len());
    let causes = scene.causes().await;
    assert_eq!(causes[1], cause("second", "Busy Line", "Callee", json!(486)));
    assert_eq!(causes[0], cause("first", "Busy Line", "Maskline", Value::Null));
    scene.quiet(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_party_that_does_not_answer_is_cancelled_and_the_first_one_told() {
    let scene = Scene::new(json!({ "ring_timeout": 1 })).await;
    let first = scene.answered(FIRST, SdpOptions::default()).await;
    let second = scene.rung(SECOND).await;
    second.ring().await.unwrap();
    second.wait_cancel(PATIENCE).await.unwrap();
    first.wait_bye(PATIENCE).await.unwrap();
    assert_eq!(
        scene.causes().await,
        ["first", "second"].map(|role| cause(role, "Ring Timeout Reached", "Maskline", Value::Null))
    );
    scene.quiet(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_party_that_hangs_up_while_the_second_rings_ends_the_call() {
    let scene = Scene::new(json!({})).await;
    let first = scene.answered(FIRST, SdpOptions::default()).await;
    let second = scene.rung(SECOND).await;
    second.ring().await.unwrap();
    first.hang_up().await.unwrap();
    second.wait_cancel(PATIENCE).await.unwrap();
    assert_eq!(
        scene.causes().await,
        ["first", "second"].map(|role| cause(role, "Normal Hangup", "Caller", Value::Null))
    );
    scene.quiet(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_the_session_with_hangup_ends_a_call_that_rings() {
    let scene = Scene::new(json!({})).await;
    let first = scene.rung(FIRST).await;
    first.ring().await.unwrap();
    until("the 180 has arrived", || (scene.server.service.shell().live_calls() == 1).then_some(())).await;
    let path = format!("Masking/Session/{}/?hangup=true", scene.session["session_uuid"].as_str().unwrap());
    assert_eq!(scene.server.api("DELETE", &path, None).await.0, 200);
    first.wait_cancel(PATIENCE).await.unwrap();
    assert_eq!(first.wait_end(PATIENCE).await.unwrap(), End::Cancelled);
    assert_eq!(scene.causes().await, [cause("first", "Scheduled Hangup", "Maskline", Value::Null)]);
    scene.quiet(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_full_rings_nobody_and_says_so_in_the_record() {
    let scene = Scene::with(Setup { sip: "max_calls = 1", numbers: 2, ..Setup::default() }, json!({})).await;
    let first = scene.rung(FIRST).await;
    first.ring().await.unwrap();
    let parties = json!({
        "first_party": "+12025550144", "second_party": "+12025550145", "initiate_call_to_first_party": true
    });
    let session = scene.server.session(parties).await;
    let interaction = common::until_asked("the record", async || {
        scene.server.interactions(&session).await.into_iter().find(|call| call["end_time"] != "")
    })
    .await;
    let leg = scene.server.leg(&interaction, "first").await;
    assert_eq!(
        (&leg["hangup_cause_name"], &leg["hangup_source"], &leg["call_state"]),
        (&json!("Internal Error"), &json!("Maskline"), &json!("FAILED"))
    );
    first.reject(603, None, &[], None).await.unwrap();
    assert_eq!(scene.causes().await, [cause("first", "Declined", "Caller", json!(603))]);
    scene.quiet(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_session_stays_open_for_ordinary_calls() {
    let scene = Scene::new(json!({ "record": false })).await;
    let first = scene.rung(FIRST).await;
    first.reject(480, None, &[], None).await.unwrap();
    scene.server.settled().await;
    let caller = phone("caller").await;
    let call = caller.call(scene.server.sip, &scene.number(), CallOptions::from(SECOND)).await.unwrap();
    let incoming = scene.rung(FIRST).await;
    incoming.answer(SdpOptions::default()).await.unwrap();
    call.answered(PATIENCE).await.unwrap();
    call.hang_up().await.unwrap();
    incoming.wait_bye(PATIENCE).await.unwrap();
    scene.server.settled().await;
    assert_eq!(scene.server.interactions(&scene.session).await.len(), 2);
    scene.quiet(2).await;
}

/// One a second: the second call has its turn a second after the first one, and is no call in that comes too fast.
#[tokio::test(flavor = "multi_thread")]
async fn calls_that_we_place_wait_for_their_turn() {
    let setup = Setup { trunk: "max_calls_per_second = 1", numbers: 2, ..Setup::default() };
    let scene = Scene::with(setup, json!({ "record": false })).await;
    let body = json!({ "initiate_call_to_first_party": true, "record": false, "first_party": SECOND, "second_party": FIRST });
    scene.server.session(body).await;
    for _ in 0..2 {
        let incoming = scene.carrier.next_call(PATIENCE).await.unwrap();
        incoming.reject(486, None, &[], None).await.unwrap();
    }
    scene.server.settled().await;
    scene.quiet(2).await;
}

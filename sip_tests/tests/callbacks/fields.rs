//! Every event of real calls with every field that the reference gives it (plivo-api.md §8.3), and no other.

use crate::common::receiver::{Callback, Mood, Receiver};
use crate::common::talk::{Pair, dialled, hang_up, more_packets};
use crate::common::{FIRST, PATIENCE, SECOND, Server, Setup, fetch, phone, until};
use crate::uuid;
use serde_json::{Value, json};
use sip_tests::phone::{IncomingCall, Phone};
use sip_tests::sdp::SdpOptions;

/// What every event has.
const ALWAYS: [&str; 7] =
    ["EventName", "EventTimestamp", "From", "SequenceNumber", "SessionUUID", "To", "VirtualNumber"];

/// What it has besides.
fn further(event: &str) -> &'static [&'static str] {
    match event {
        "SessionFirstPartyHangup" | "SessionSecondPartyHangup" | "SessionPartiesHangup" => {
            &["Amount", "BilledDuration", "Duration", "PlivoHangupCause", "PlivoHangupCauseCode"]
        }
        "SessionPinAuthenticationStatus" => &["PinAuthenticationStatus", "PinRetryCounter"],
        "SessionPinLockedOut" => &["LockedOut", "LockedOutUntil", "WrongEntries"],
        "SessionRecordingInitiated" | "SessionRecordingFailed" => &["RecordingUUID"],
        "SessionRecordingCompleted" => &[
            "RecordingDuration",
            "RecordingEndTime",
            "RecordingFormat",
            "RecordingResourceURL",
            "RecordingStartTime",
            "RecordingURL",
            "RecordingUUID",
        ],
        "SessionFirstPartyAnswer"
        | "SessionSecondPartyAnswer"
        | "SessionSecondPartyRing"
        | "SessionTimeout" => &[],
        other => panic!("{other} is no event"),
    }
}

/// Whether a field is written as it should be.
fn is_well_formed(name: &str, value: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    // `0000-00-00 00:00:00 +0000 UTC`.
    let shape = |text: &str| text.replace(|c: char| c.is_ascii_digit(), "0");
    match name {
        "EventTimestamp" | "RecordingStartTime" | "RecordingEndTime" | "LockedOutUntil" => {
            shape(value) == "0000-00-00 00:00:00 +0000 UTC"
        }
        // Nobody has called, or nobody was called yet.
        "From" | "To" => value.is_empty() || digits(value),
        "SessionUUID" | "RecordingUUID" => {
            value.len() == 36 && value.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit())
        }
        "PinAuthenticationStatus" => ["success", "failed", "AuthorizedCaller"].contains(&value),
        "LockedOut" => ["caller", "anonymous", "strangers", "party"].contains(&value),
        "RecordingFormat" => [".mp3", ".wav"].contains(&value),
        "RecordingURL" | "RecordingResourceURL" => value.starts_with("http://"),
        "EventName" | "PlivoHangupCause" => !value.is_empty(),
        // Durations, counters, codes, amounts and the virtual number.
        _ => digits(value),
    }
}

/// All of its fields, and each as it should be; what stands in the URL of the receiver comes back with them.
pub(crate) fn assert_complete(callback: &Callback) {
    let mut expected: Vec<&str> = ALWAYS.into_iter().chain(["app", "x"]).collect();
    expected.extend(further(callback.get("EventName")));
    expected.sort_unstable();
    let names: Vec<&str> = callback.parameters.keys().map(String::as_str).collect();
    assert_eq!(names, expected, "{callback:?}");
    for name in names.iter().filter(|name| !["app", "x"].contains(name)) {
        assert!(is_well_formed(name, callback.get(name)), "{name} of {callback:?}");
    }
    assert!(callback.signed && callback.uuid.len() == 36, "{callback:?}");
}

/// Waits until the session's last event is `last`, and returns all of them, each of them complete.
async fn told(receiver: &Receiver, session: &Value, last: &str) -> Vec<Callback> {
    let uuid = uuid(session);
    until(last, || receiver.taken(&uuid).iter().any(|name| name == last).then_some(())).await;
    let came: Vec<_> = receiver.came().into_iter().filter(|one| one.get("SessionUUID") == uuid).collect();
    came.iter().for_each(assert_complete);
    came
}

fn names(came: &[Callback]) -> Vec<&str> {
    came.iter().map(|callback| callback.get("EventName").trim_start_matches("Session")).collect()
}

/// `SequenceNumber`s of both, in order: one count for a session.
fn numbers(one: &[Callback], other: &[Callback]) -> Vec<u64> {
    let mut numbers: Vec<u64> = one.iter().chain(other).map(Callback::sequence).collect();
    numbers.sort_unstable();
    numbers
}

/// Seconds of the day.
fn second(time: &str) -> u64 {
    let part = |at: usize| time[at..at + 2].parse::<u64>().unwrap();
    part(11) * 3600 + part(14) * 60 + part(17)
}

fn setup() -> Setup {
    Setup { http: "fetch_allow = [\"127.0.0.0/8\"]", ..Setup::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recording_is_told_to_its_own_url_and_all_that_is_told_of_it_can_be_fetched() {
    let pair = Pair::with(setup()).await;
    let (http, auth_id, token) = pair.server.door();
    for (format, begins, method) in [("wav", b"RIFF".as_slice(), "GET"), ("mp3", b"\xff", "POST")] {
        let calls = Receiver::start(&token, |_| Mood::Take).await;
        let recordings = Receiver::start(&token, |_| Mood::Take).await;
        let session = pair
            .server
            .session(json!({
                "callback_url": calls.url, "recording_callback_url": recordings.url,
                "recording_callback_method": method, "record_file_format": format,
            }))
            .await;
        let (call, incoming) = pair.talk(&session).await;
        more_packets(call.media(), 30).await;
        hang_up(&call, &incoming).await;
        let of_calls = told(&calls, &session, "SessionPartiesHangup").await;
        let came = told(&recordings, &session, "SessionRecordingCompleted").await;
        assert_eq!(names(&came), ["RecordingInitiated", "RecordingCompleted"]);
        assert!(names(&of_calls).iter().all(|name| !name.starts_with("Recording")));
        assert_eq!(numbers(&of_calls, &came), (1..=7).collect::<Vec<_>>());
        assert!(came.iter().all(|one| one.method == method));
        assert!(of_calls.iter().all(|one| one.method == "POST"));
        for one in &came {
            assert_eq!((one.get("From"), one.get("To")), (&FIRST[1..], &SECOND[1..]));
            assert_eq!(one.get("VirtualNumber"), &Server::number(&session)[1..]);
            assert_eq!(one.get("RecordingUUID"), came[0].get("RecordingUUID"));
        }

        let done = &came[1];
        let interaction = pair.server.interactions(&session).await.remove(0);
        assert_eq!(interaction["recording_resource_url"], done.get("RecordingResourceURL"));
        let below = |url: &str| url.strip_prefix(&format!("http://{http}")).unwrap().to_owned();
        let (status, resource) =
            pair.server.http("GET", &below(done.get("RecordingResourceURL")), None).await;
        let resource: Value = serde_json::from_str(&resource).unwrap();
        assert_eq!((status, &resource["recording_id"]), (200, &json!(done.get("RecordingUUID"))));
        assert_eq!(resource["recording_url"], done.get("RecordingURL"));
        assert_eq!(resource["recording_format"], format);
        assert_eq!(done.get("RecordingFormat"), format!(".{format}"));
        let url = below(done.get("RecordingURL"));
        let (status, sound) = fetch(http, (&auth_id, &token), "GET", &url, None).await;
        assert_eq!(status, 200);
        assert!(sound.starts_with(begins), "{} bytes, {:?}", sound.len(), sound.first_chunk::<4>());
        let (start, end) = (second(done.get("RecordingStartTime")), second(done.get("RecordingEndTime")));
        let length: u64 = done.get("RecordingDuration").parse().unwrap();
        // Seconds begun; and the times are cut, and may stand on either side of midnight.
        let between = (end + 86_400 - start) % 86_400;
        assert!((between..=between + 1).contains(&length) && length > 0, "{done:?}");
        pair.server.api("DELETE", &format!("Masking/Session/{}/", uuid(&session)), None).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recording_that_cannot_be_made_is_told_as_failed_and_the_call_goes_on() {
    let pair = Pair::with(setup()).await;
    let (_, _, token) = pair.server.door();
    let receiver = Receiver::start(&token, |_| Mood::Take).await;
    let session = pair
        .server
        .session(json!({ "callback_url": receiver.url, "recording_callback_url": receiver.url }))
        .await;
    // Where the year's folder should be is a file: nobody, not even root, makes a folder in it.
    let directory = pair.server.folder.join("recordings");
    for year in 2024..2100 {
        std::fs::write(directory.join(year.to_string()), "").unwrap();
    }
    let (call, incoming) = pair.talk(&session).await;
    more_packets(incoming.media(), 20).await;
    let failed = told(&receiver, &session, "SessionRecordingFailed").await;
    assert!(names(&failed).contains(&"FirstPartyAnswer"));
    assert_eq!((call.end(), incoming.end()), (None, None), "the call goes on");
    hang_up(&call, &incoming).await;
    let came = told(&receiver, &session, "SessionPartiesHangup").await;
    let of_recording: Vec<_> =
        names(&came).into_iter().filter(|name| name.starts_with("Recording")).collect();
    assert_eq!(of_recording.last(), Some(&"RecordingFailed"), "{of_recording:?}");
    assert!(!of_recording.contains(&"RecordingCompleted"));
}

/// The service, the carrier that both parties are behind, and a receiver.
struct Placed {
    server: Server,
    carrier: Phone,
    receiver: Receiver,
    session: Value,
}

impl Placed {
    async fn with(more: Value) -> Self {
        let carrier = phone("carrier").await;
        let server = Server::with(carrier.address(), setup()).await;
        let receiver = Receiver::start(&server.door().2, |_| Mood::Take).await;
        let mut body = json!({ "initiate_call_to_first_party": true, "callback_url": receiver.url });
        for (key, value) in more.as_object().unwrap() {
            body[key] = value.clone();
        }
        let session = server.session(body).await;
        Self { server, carrier, receiver, session }
    }

    async fn rung(&self, party: &str) -> IncomingCall {
        let incoming = self.carrier.next_call(PATIENCE).await.unwrap();
        assert_eq!(dialled(&incoming), party);
        incoming.ring().await.unwrap();
        incoming
    }

    async fn answered(&self, party: &str) -> IncomingCall {
        let incoming = self.rung(party).await;
        incoming.answer(SdpOptions::default()).await.unwrap();
        incoming.wait_ack(PATIENCE).await.unwrap();
        incoming
    }

    /// Names, causes and durations of all that was told; what names parties names both.
    async fn told(&self) -> Vec<String> {
        let came = told(&self.receiver, &self.session, "SessionPartiesHangup").await;
        self.server.settled().await;
        for one in &came {
            assert_eq!((one.get("From"), one.get("To")), (&FIRST[1..], &SECOND[1..]), "{one:?}");
            assert_eq!(one.get("VirtualNumber"), &Server::number(&self.session)[1..]);
        }
        let line = |one: &Callback| {
            let name = one.get("EventName").trim_start_matches("Session");
            let of = |field: &str| one.get(field).to_owned();
            match one.get("PlivoHangupCauseCode") {
                "" => name.to_owned(),
                code => format!("{name} {code} {} {}", of("PlivoHangupCause"), of("BilledDuration")),
            }
        };
        came.iter().map(line).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_we_place_is_told_in_its_natural_order() {
    let placed = Placed::with(json!({ "record": true })).await;
    let first = placed.answered(FIRST).await;
    let second = placed.answered(SECOND).await;
    more_packets(second.media(), 5).await;
    second.hang_up().await.unwrap();
    first.wait_bye(PATIENCE).await.unwrap();
    assert_eq!(
        placed.told().await,
        [
            "FirstPartyAnswer",
            "SecondPartyRing",
            "SecondPartyAnswer",
            "SecondPartyHangup 4000 Normal Hangup 60",
            "FirstPartyHangup 4000 Normal Hangup 60",
            "PartiesHangup 4000 Normal Hangup 120",
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_placed_call_that_does_not_come_about_is_told_with_its_cause() {
    let placed = Placed::with(json!({})).await;
    placed.rung(FIRST).await.reject(486, None, &[], None).await.unwrap();
    assert_eq!(
        placed.told().await,
        ["FirstPartyHangup 3010 Busy Line 0", "PartiesHangup 3010 Busy Line 0"],
        "of the first party's ringing nothing is told"
    );

    let placed = Placed::with(json!({ "ring_timeout": 1 })).await;
    let first = placed.answered(FIRST).await;
    let second = placed.rung(SECOND).await;
    second.wait_cancel(PATIENCE).await.unwrap();
    first.wait_bye(PATIENCE).await.unwrap();
    let told = placed.told().await;
    assert_eq!(told[..2], ["FirstPartyAnswer", "SecondPartyRing"]);
    let mut ends = told[2..4].to_vec();
    ends.sort();
    assert_eq!(
        ends,
        ["FirstPartyHangup 6010 Ring Timeout Reached 60", "SecondPartyHangup 6010 Ring Timeout Reached 0"]
    );
    assert_eq!(told[4..], ["PartiesHangup 6010 Ring Timeout Reached 60"]);
}

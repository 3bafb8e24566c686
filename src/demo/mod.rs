//! `maskline demo`: a whole masked call in one process tree on loopback, against the real service.
//!
//! It reads like the product's promise: a session through the REST API, a call from a registered and one from an
//! unknown number, speech both ways, two recordings. Everything is then checked, by phones that share no code
//! with the server, and shown. Exit status 1 when anything is wrong.

mod http;
mod report;

use crate::config::{Checked, Config};
use crate::service::Service;
use http::Client;
use media::Codec;
use report::Report;
use sip_tests::audio::{self, Comparison, Voice};
use sip_tests::leak::Marks;
use sip_tests::patterns::Pattern;
use sip_tests::phone::{CallOptions, IncomingCall, OutgoingCall, Phone, PhoneConfig};
use sip_tests::sdp::SdpOptions;
use sip_tests::transcript::{Direction, Kind, Transcript};
use sip_tests::wav;
use std::error::Error;
use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// The caller of the first call, and a name that must not reach Bob.
const ALICE: &str = "+12025550142";
const ALICE_NAME: &str = "Alice Adler";
/// The called party.
const BOB: &str = "+12025550143";
/// A number that no session knows.
const STRANGER: &str = "+12025550177";
/// Whoever enters it is taken for Alice, and reaches Bob.
const ALICE_PIN: &str = "4711";
const BOB_PIN: &str = "0815";
/// How long the two talk.
const SPEECH_MS: u32 = 4_000;
/// Everything that is waited for comes within this time.
const PATIENCE: Duration = Duration::from_secs(20);

type Failed = Box<dyn Error + Send + Sync>;

/// A fault put in on purpose, between the phones and the judge, to show that the judge sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Bob's phone gets a message with Alice's number in a header.
    LeakedHeader,
    /// The two recordings are swapped.
    SwappedLegs,
}

impl Fault {
    /// `MASKLINE_DEMO_FAULT=leaked-header` or `swapped-legs`.
    fn from_environment() -> Option<Self> {
        match std::env::var("MASKLINE_DEMO_FAULT").ok()?.as_str() {
            "leaked-header" => Some(Self::LeakedHeader),
            "swapped-legs" => Some(Self::SwappedLegs),
            _ => None,
        }
    }
}

/// Makes a whole masked call on loopback and checks what each side saw.
#[must_use]
pub fn demo() -> ExitCode {
    let outcome = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(Failed::from)
        .and_then(|runtime| runtime.block_on(run(Fault::from_environment())));
    let (text, passed) = match outcome {
        Ok(report) => (report.text(), report.passed()),
        Err(error) => (format!("the demo could not be carried out: {error}\n"), false),
    };
    // That nobody reads is no fault of ours.
    let _ = io::stdout().lock().write_all(text.as_bytes());
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The demo as a value, for tests.
///
/// # Errors
/// When it cannot be carried out at all: no socket, no directory, no answer.
pub async fn run(fault: Option<Fault>) -> Result<Report, Failed> {
    let folder = std::env::temp_dir().join(format!("maskline-demo-{}", uuid::Uuid::new_v4()));
    fs::create_dir_all(&folder)?;
    let transcript = Transcript::new();
    let bob = Phone::bind(PhoneConfig::named("Bob").recorded_in(&transcript)).await?;
    let alice = Phone::bind(PhoneConfig::named("Alice").recorded_in(&transcript)).await?;
    let stranger = Phone::bind(PhoneConfig::named("Stranger").recorded_in(&transcript)).await?;

    let config = configuration(&folder, bob.address())?;
    let service = Service::start(&config).await?;
    let sip = service.sip().first().map(|(_, address)| *address).ok_or("no SIP listener")?;
    let account = service.new_account().ok_or("no account was made")?;
    let client = Client::new(service.http(), &account.auth_id, &account.auth_token);
    let mut report = Report::new();

    // 1. A session, as an application makes it.
    let session = client.create_session(ALICE, BOB, ALICE_PIN, BOB_PIN).await?;
    let number = session.virtual_number.clone();
    report.note(&format!("session {} on virtual number {number}", session.uuid));

    // 2. Alice, a registered number, calls it.
    let scene = Scene { number: &number, folder: &folder, client: &client };
    let options = CallOptions { from_display: Some(ALICE_NAME.into()), ..CallOptions::from(ALICE) };
    let call = alice.call(sip, &number, options).await?;
    let incoming = bob.next_call(PATIENCE).await?;
    scene.talk(&mut report, "Alice calls", &call, &incoming, fault).await?;

    // 3. The same number from a phone that nobody knows: the PIN first.
    let call = stranger.call(sip, &number, CallOptions::from(STRANGER)).await?;
    call.answered(PATIENCE).await?;
    report.check(
        "the stranger is answered and asked for a PIN",
        call.media().wait_packets(40, PATIENCE).await.is_ok(),
    );
    report.check("nobody is rung before the PIN", bob.next_call(Duration::from_millis(300)).await.is_err());
    call.media().dtmf(ALICE_PIN, Pattern::Clean).await;
    let incoming = bob.next_call(PATIENCE).await?;
    report.check("the right PIN, by telephone-event, rings Bob", true);
    scene.talk(&mut report, "A stranger calls with Alice's PIN", &call, &incoming, None).await?;
    report.check("Bob's phone got none of the digits", incoming.media().received_keys().is_empty());

    // 4. What each side saw, over everything that it received.
    if fault == Some(Fault::LeakedHeader) {
        leak_on_purpose(&transcript, sip);
    }
    let about_alice = Marks::default().number(ALICE).name(ALICE_NAME);
    let about_stranger = Marks::default().number(STRANGER);
    let about_bob = Marks::default().number(BOB);
    report.check_leaks(&transcript, "Bob", "Alice's number or name", &about_alice);
    report.check_leaks(&transcript, "Bob", "the stranger's number", &about_stranger);
    report.check_leaks(&transcript, "Alice", "Bob's number", &about_bob);
    report.check_leaks(&transcript, "Stranger", "Bob's number", &about_bob);
    report.saw(&transcript, &["Alice", "Bob", "Stranger"]);
    report.ladder(transcript.ladder("Maskline"));
    service.drain(Duration::from_secs(1)).await;
    Ok(report)
}

struct Scene<'a> {
    number: &'a str,
    folder: &'a Path,
    client: &'a Client,
}

impl Scene<'_> {
    /// Bob rings and answers, both speak, Bob hangs up; audio, recording and CDR are checked.
    async fn talk(
        &self,
        report: &mut Report,
        title: &str,
        call: &OutgoingCall,
        incoming: &IncomingCall,
        fault: Option<Fault>,
    ) -> Result<(), Failed> {
        report.title(title);
        let shown = report::user_in(incoming.request(), "From").unwrap_or_default();
        report.check(&format!("Bob's phone shows {shown}, the virtual number"), shown == self.number);
        incoming.ring().await?;
        incoming.answer(SdpOptions::default()).await?;
        call.answered(PATIENCE).await?;
        let (low, high) = (audio::speech(Voice::Low, 1, SPEECH_MS), audio::speech(Voice::High, 2, SPEECH_MS));
        tokio::join!(call.media().play(&low), incoming.media().play(&high));
        let caller_hears = heard(&high, &call.media().received_audio());
        let callee_hears = heard(&low, &incoming.media().received_audio());
        report.check(&format!("the caller hears Bob ({caller_hears})"), caller_hears.same);
        report.check(&format!("Bob hears the caller ({callee_hears})"), callee_hears.same);
        incoming.bye().await?;
        call.wait_bye(PATIENCE).await?;
        report.check("Bob hangs up, and the caller's phone is told", true);

        let recording = self.finished_recording(report.recordings()).await?;
        if fault == Some(Fault::SwappedLegs) {
            swap(&recording)?;
        }
        let (a, b) = (wav::read(&recording.join("a-leg.wav"))?, wav::read(&recording.join("b-leg.wav"))?);
        let (a_has, b_has) = (heard(&low, &a.1), heard(&high, &b.1));
        report.check(&format!("a-leg.wav holds what the caller said ({a_has})"), a_has.same && a.0 == 8000);
        report.check(&format!("b-leg.wav holds what Bob said ({b_has})"), b_has.same && b.0 == 8000);
        report.check(
            &format!("both are equally long ({:.2} s)", a.1.len() as f64 / 8000.0),
            a.1.len() == b.1.len(),
        );
        let named = fs::read_to_string(recording.join("call.json"))?;
        let clean =
            [ALICE, BOB, STRANGER].iter().all(|number| !named.contains(number.trim_start_matches('+')));
        report.check("call.json names uuids and no number", clean);
        let leg = report::first_leg(&named).ok_or("call.json names no leg")?;
        let has_cause = self.has_cause(&leg, "Normal Hangup").await?;
        report.check("the CDR of the caller's leg is there, with its cause", has_cause);
        report.recorded(recording);
        Ok(())
    }

    /// The folder of the call that has just ended, once its manifest is written.
    async fn finished_recording(&self, known: &[PathBuf]) -> Result<PathBuf, Failed> {
        let deadline = crate::clock::now() + PATIENCE;
        loop {
            let finished = report::folders(&self.folder.join("recordings"))
                .into_iter()
                .find(|folder| !known.contains(folder) && folder.join("call.json").exists());
            if let Some(folder) = finished {
                return Ok(folder);
            }
            if crate::clock::now() >= deadline {
                return Err("no recording was completed".into());
            }
            crate::clock::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Whether the leg's CDR says why it ended; it is stored together with others, a moment after the call.
    async fn has_cause(&self, leg: &str, cause: &str) -> Result<bool, Failed> {
        let deadline = crate::clock::now() + PATIENCE;
        while !self.client.call(leg).await?.contains(cause) {
            if crate::clock::now() >= deadline {
                return Ok(false);
            }
            crate::clock::sleep(Duration::from_millis(20)).await;
        }
        Ok(true)
    }
}

fn configuration(folder: &Path, bob: SocketAddr) -> Result<Checked, Failed> {
    let folder = folder.display();
    let text = format!(
        r#"
        [sip]
        listen = ["udp://127.0.0.1:0"]
        [http]
        listen = "127.0.0.1:0"
        [store]
        url = "sqlite://{folder}/maskline.db"
        [recordings]
        directory = "{folder}/recordings"
        [[trunks]]
        name = "demo"
        gateways = ["sip:{bob};transport=udp"]
        allow = ["127.0.0.0/8"]
        [[numbers]]
        number = "+12025550100"
        trunk = "demo"
        "#
    );
    Config::read(&text, std::iter::empty()).map_err(|errors| errors.to_string().into())
}

/// How well something heard is what was said.
struct Heard {
    same: bool,
    correlation: f64,
}

impl std::fmt::Display for Heard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "correlation {:.3}", self.correlation)
    }
}

/// Compares with what a G.711 phone can make of it.
fn heard(said: &[i16], heard: &[i16]) -> Heard {
    let sent = audio::through(Codec::Pcmu, said);
    // Ringing and set-up come first in what a phone hears.
    let comparison = Comparison::of(&sent, heard, 15_000);
    let whole = comparison.overlap + 800 >= sent.len();
    Heard { same: comparison.is_same() && whole, correlation: comparison.correlation }
}

fn leak_on_purpose(transcript: &Transcript, server: SocketAddr) {
    let message =
        format!("INVITE sip:bob SIP/2.0\r\nP-Asserted-Identity: <sip:{ALICE}@carrier.example>\r\n\r\n");
    transcript.add(&Arc::from("Bob"), Direction::Received, Kind::Sip, server, message.as_bytes());
}

fn swap(recording: &Path) -> io::Result<()> {
    let (a, b, free) = (recording.join("a-leg.wav"), recording.join("b-leg.wav"), recording.join("swap"));
    fs::rename(&a, &free)?;
    fs::rename(&b, &a)?;
    fs::rename(&free, &b)
}

//! Two phones and the service between them: calls, what each side heard, and the files.

use super::{FIRST, PATIENCE, SECOND, Server, Setup};
use maskline::prompts::{BuiltIn, PromptLibrary};
use maskline::store::InteractionRow;
use serde_json::Value;
use sip_tests::audio::{self, Comparison};
use sip_tests::phone::{Call, CallOptions, IncomingCall, OutgoingCall, Phone, PhoneConfig};
use sip_tests::sdp::SdpOptions;
use sip_tests::stream::MediaSession;
use std::path::Path;
use std::time::Duration;

/// A caller, a callee, and the service.
pub struct Pair {
    pub server: Server,
    pub caller: Phone,
    pub callee: Phone,
}

impl Pair {
    pub async fn start() -> Self {
        Self::with(Setup::default()).await
    }

    pub async fn with(setup: Setup) -> Self {
        let (caller, callee) = (PhoneConfig::named("caller"), PhoneConfig::named("callee"));
        Self::between(caller, callee, setup).await
    }

    pub async fn between(caller: PhoneConfig, callee: PhoneConfig, setup: Setup) -> Self {
        let (caller, callee) = (Phone::bind(caller).await.unwrap(), Phone::bind(callee).await.unwrap());
        let server = Server::with(callee.address(), setup).await;
        Self { server, caller, callee }
    }

    /// Someone calls the session's number; nothing is waited for.
    pub async fn dial(&self, session: &Value, options: CallOptions) -> OutgoingCall {
        self.caller.call(self.server.sip, &Server::number(session), options).await.unwrap()
    }

    /// The next call to the callee.
    pub async fn rung(&self) -> IncomingCall {
        self.callee.next_call(PATIENCE).await.unwrap()
    }

    /// [`FIRST`] calls, the callee answers, and each hears the other.
    pub async fn talk(&self, session: &Value) -> (OutgoingCall, IncomingCall) {
        self.talk_as(session, CallOptions::from(FIRST), SdpOptions::default()).await
    }

    /// The same with an offer and an answer of one's own.
    pub async fn talk_as(
        &self,
        session: &Value,
        options: CallOptions,
        answer: SdpOptions,
    ) -> (OutgoingCall, IncomingCall) {
        let call = self.dial(session, options).await;
        let incoming = self.rung().await;
        assert_eq!(dialled(&incoming), SECOND);
        incoming.answer(answer).await.unwrap();
        call.answered(PATIENCE).await.unwrap();
        incoming.wait_ack(PATIENCE).await.unwrap();
        for side in [call.media(), incoming.media()] {
            more_packets(side, 3).await;
        }
        (call, incoming)
    }

    /// What the store keeps of a session's calls, when all have ended.
    pub async fn records(&self, session: &Value) -> Vec<InteractionRow> {
        self.server.settled().await;
        let uuid = session["session_uuid"].as_str().unwrap().parse().unwrap();
        self.server.service.shell().store.interactions(uuid).await.unwrap()
    }
}

/// Ends a call from the caller's side and waits until the callee knows it.
pub async fn hang_up(call: &Call, incoming: &Call) {
    call.bye().await.unwrap();
    incoming.wait_bye(PATIENCE).await.unwrap();
}

/// Whom an INVITE is for.
pub fn dialled(incoming: &IncomingCall) -> String {
    let uri = incoming.request().uri().unwrap();
    uri.strip_prefix("sip:").and_then(|rest| rest.split('@').next()).unwrap().to_owned()
}

/// Waits for so many further packets.
pub async fn more_packets(media: &MediaSession, count: usize) {
    let wanted = media.received_count() + count;
    media.wait_packets(wanted, PATIENCE).await.unwrap();
}

/// Waits until the phone has sent so many packets more.
pub async fn more_sent(media: &MediaSession, count: u32) {
    let wanted = media.sent_packets() + count;
    media.wait(PATIENCE, |media| media.sent_packets() >= wanted).await.unwrap();
}

/// The samples of a prompt of the binary.
pub fn built_in(which: BuiltIn) -> Vec<i16> {
    PromptLibrary::default().built_in(which).samples().to_vec()
}

/// Where `what` begins in `heard`, in samples, when it is in there whole.
pub fn find(what: &[i16], heard: &[i16]) -> Option<usize> {
    let longest = u32::try_from(heard.len() / 8).unwrap();
    let found = Comparison::of(what, heard, longest);
    let whole = found.overlap + 160 >= what.len() && found.is_same();
    whole.then(|| usize::try_from(found.lag).ok()).flatten()
}

/// The same, and fails when it is not there.
pub fn heard(what: &str, samples: &[i16], media: &MediaSession) -> usize {
    let received = media.received_audio();
    let longest = u32::try_from(received.len() / 8).unwrap();
    find(samples, &received).unwrap_or_else(|| {
        let best = Comparison::of(samples, &received, longest);
        panic!("{what} was not heard: {best:?} of {} in {}", samples.len(), received.len())
    })
}

/// How alike what was sent and what was received are; the lag is found by the loudest four seconds.
pub fn compare(sent: &[i16], received: &[i16]) -> Comparison {
    let length = sent.len().min(32_000);
    let begin = (0..=sent.len() - length)
        .step_by(8000)
        .max_by(|a, b| audio::level(&sent[*a..*a + length]).total_cmp(&audio::level(&sent[*b..*b + length])))
        .unwrap_or(0);
    let from = begin.saturating_sub(16_000);
    let to = (begin + length + 16_000).min(received.len());
    let part = received.get(from..to).unwrap_or_default();
    let (lag, _) = audio::best_lag(&sent[begin..begin + length], part, 32_000);
    let lag = lag + from.cast_signed() - begin.cast_signed();
    let (mine, theirs) = audio::overlap(sent, received, lag);
    let segments = audio::segment_correlations(sent, received, lag, 200);
    Comparison {
        lag,
        correlation: audio::correlation(mine, theirs),
        worst_segment: segments.into_iter().flatten().fold(1.0, f64::min),
        overlap: mine.len(),
    }
}

/// Keys that sound in `samples`, with their lengths in ms: windows of 20 ms, every 5 ms.
pub fn tones(samples: &[i16]) -> Vec<(char, usize)> {
    let mut found: Vec<(char, usize)> = vec![];
    let mut before = None;
    for window in samples.windows(160).step_by(40) {
        let key = audio::dtmf_key(window);
        match (key, before) {
            (Some(key), Some(last)) if key == last => found.last_mut().unwrap().1 += 5,
            // The first window of a tone already holds 20 ms of it, or nearly.
            (Some(key), _) => found.push((key, 20)),
            (None, _) => {}
        }
        before = key;
    }
    found.retain(|(_, length)| *length >= 30);
    found
}

/// Rate and samples of a recording's file.
pub fn wav(folder: &Path, name: &str) -> Vec<i16> {
    let (rate, samples) = sip_tests::wav::read(&folder.join(name)).unwrap();
    assert_eq!(rate, 8000, "{name}");
    samples
}

/// `call.json` of a recording.
pub fn manifest(folder: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(folder.join("call.json")).unwrap()).unwrap()
}

/// How long the A-leg was up, as its record says.
pub fn length_of(record: &InteractionRow) -> Duration {
    let leg = record.legs.iter().find(|leg| leg.opened.side == media::Side::A).unwrap();
    let length = leg.ended_at.unwrap().duration_since(leg.answered_at.unwrap());
    Duration::try_from(length).unwrap()
}

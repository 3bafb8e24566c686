//! A softphone on real sockets: calls and is called, with audio, for tests and for the demonstration.
//!
//! One task owns the socket and the [`Agent`]; handles talk to it by short jobs, so every method that sends has
//! sent when it returns. What a call receives is kept from its beginning: waiting for something that has already
//! come succeeds at once.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Deref;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;

use crate::agent::{Agent, CallNumber, End, Event, Invite, OnCancel, Output, Reply, Transport};
use crate::clock;
use crate::message::{self, Message};
use crate::sdp::{LocalMedia, RemoteMedia, SdpOptions};
use crate::stream::{MediaOptions, MediaSession};
use crate::transcript::{Direction, Kind, Transcript};

/// Messages that the network swallows.
#[derive(Debug, Clone, Default)]
pub struct Impairment {
    /// Share of received messages that get lost, 0–1.
    pub loss_received: f64,
    /// Share of sent messages that get lost, 0–1.
    pub loss_sent: f64,
    /// The first so many messages of a kind are lost.
    pub lose: Vec<Lose>,
    /// Every message is delivered twice.
    pub duplicate: bool,
}

/// A kind of message that gets lost.
#[derive(Debug, Clone)]
pub struct Lose {
    /// Which way, seen from the phone.
    pub direction: Direction,
    /// A method, `ACK`, or a status with the method that it answers, `200 INVITE`.
    pub what: String,
    /// How many.
    pub count: u32,
}

/// A phone's settings.
#[derive(Debug, Clone)]
pub struct PhoneConfig {
    /// What ladder and transcript call it.
    pub name: String,
    /// Where it listens; port 0: any.
    pub address: SocketAddr,
    /// What it sends requests over. It listens on that only, unless `also_tcp`.
    pub transport: Transport,
    /// A UDP phone that can be reached over TCP at the same port as well.
    pub also_tcp: bool,
    /// Where its messages are recorded.
    pub transcript: Transcript,
    /// Decides tags, branches, Call-IDs and losses.
    pub seed: u64,
    /// Losses.
    pub impairment: Impairment,
    /// How its RTP and RTCP look.
    pub media: MediaOptions,
    /// User-Agent and Server; none when `None`.
    pub user_agent: Option<String>,
}

impl PhoneConfig {
    /// On any port of 127.0.0.1, UDP, with a transcript of its own.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            transport: Transport::Udp,
            also_tcp: false,
            transcript: Transcript::new(),
            seed: name
                .bytes()
                .fold(u64::from(std::process::id()), |seed, byte| seed.wrapping_mul(31) + u64::from(byte)),
            impairment: Impairment::default(),
            media: MediaOptions::default(),
            user_agent: None,
        }
    }

    /// At this address.
    #[must_use]
    pub fn at(mut self, address: SocketAddr) -> Self {
        self.address = address;
        self
    }

    /// Sharing this transcript.
    #[must_use]
    pub fn recorded_in(mut self, transcript: &Transcript) -> Self {
        self.transcript = transcript.clone();
        self
    }
}

/// What a caller says.
#[derive(Debug, Clone)]
pub struct CallOptions {
    /// User part of From: the caller's number as its carrier writes it.
    pub from_user: String,
    /// Display name of From.
    pub from_display: Option<String>,
    /// Host of From; the phone's own when `None`.
    pub from_host: Option<String>,
    /// The whole value of P-Asserted-Identity.
    pub asserted_identity: Option<String>,
    /// Further headers in order.
    pub extra_headers: Vec<(String, String)>,
    /// The offer; `None`: a late offer, answered in the ACK with [`SdpOptions::default`].
    pub sdp: Option<SdpOptions>,
    /// A body instead of the offer: content type and content.
    pub body: Option<(String, Vec<u8>)>,
    /// Random when `None`.
    pub call_id: Option<String>,
    /// Random when `None`.
    pub from_tag: Option<String>,
    /// Put into the branch, after the magic cookie.
    pub branch_mark: Option<String>,
    /// Whole Contact value.
    pub contact: Option<String>,
    /// Whole To value without tag.
    pub to: Option<String>,
    /// Whole Request-URI.
    pub request_uri: Option<String>,
    /// Max-Forwards.
    pub max_forwards: u8,
    /// First CSeq; random when `None`.
    pub cseq: Option<u32>,
    /// How this call's RTP and RTCP look; as the phone's when `None`.
    pub media: Option<MediaOptions>,
}

impl CallOptions {
    /// A call from `number` with an ordinary offer.
    #[must_use]
    pub fn from(number: &str) -> Self {
        Self {
            from_user: number.to_owned(),
            from_display: None,
            from_host: None,
            asserted_identity: None,
            extra_headers: vec![],
            sdp: Some(SdpOptions::default()),
            body: None,
            call_id: None,
            from_tag: None,
            branch_mark: None,
            contact: None,
            to: None,
            request_uri: None,
            max_forwards: 70,
            cseq: None,
            media: None,
        }
    }

    /// A caller that hides its number in From.
    #[must_use]
    pub fn anonymous() -> Self {
        let hidden = Self { from_host: Some("anonymous.invalid".into()), ..Self::from("anonymous") };
        Self { from_display: Some("Anonymous".into()), ..hidden }
    }

    /// With this offer.
    #[must_use]
    pub fn offering(mut self, sdp: SdpOptions) -> Self {
        self.sdp = Some(sdp);
        self
    }

    /// With a further header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.extra_headers.push((name.to_owned(), value.to_owned()));
        self
    }

    fn invite(&self, own: SocketAddr, server: SocketAddr, dial: &str, transport: Transport) -> Invite {
        let host = self.from_host.clone().unwrap_or_else(|| own.ip().to_string());
        let address = format!("<sip:{}@{host}>", self.from_user);
        let from = self
            .from_display
            .as_ref()
            .map_or_else(|| address.clone(), |name| format!("\"{name}\" {address}"));
        let tcp = if transport == Transport::Tcp { ";transport=tcp" } else { "" };
        let mut headers = vec![];
        headers.extend(
            self.asserted_identity.iter().map(|value| ("P-Asserted-Identity".to_owned(), value.clone())),
        );
        headers.extend(self.extra_headers.iter().cloned());
        Invite {
            uri: self.request_uri.clone().unwrap_or_else(|| format!("sip:{dial}@{server}{tcp}")),
            from,
            to: self.to.clone().unwrap_or_else(|| format!("<sip:{dial}@{}>", server.ip())),
            call_id: self.call_id.clone(),
            from_tag: self.from_tag.clone(),
            branch_mark: self.branch_mark.clone(),
            contact: self.contact.clone(),
            cseq: self.cseq,
            max_forwards: self.max_forwards,
            headers,
            body: self.body.clone(),
            offer: self.sdp.is_some(),
        }
    }
}

/// What was waited for did not come.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WaitError {
    /// Time is up.
    #[error("{phone} waited {waited:?} in vain for {what}; it got: {seen:?}")]
    TimedOut {
        /// Whose wait.
        phone: String,
        /// For what.
        what: String,
        /// How long.
        waited: Duration,
        /// Start lines of all that came.
        seen: Vec<String>,
    },
    /// The call was refused instead.
    #[error("refused with {status} instead of {what}")]
    Refused {
        /// The final status.
        status: u16,
        /// What was waited for.
        what: String,
    },
    /// The phone is gone.
    #[error("the phone is closed")]
    Closed,
}

type Job = Box<dyn FnOnce(&mut Agent, Instant) + Send>;

/// What was received, and whether it goes on.
#[derive(Debug)]
struct Log {
    seen: Mutex<(Vec<Message>, Option<End>)>,
    changed: watch::Sender<u64>,
    media: OnceLock<MediaSession>,
}

impl Log {
    fn new() -> Self {
        Self { seen: Mutex::default(), changed: watch::channel(0).0, media: OnceLock::new() }
    }

    fn change(&self, change: impl FnOnce(&mut (Vec<Message>, Option<End>))) {
        change(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.send_modify(|count| *count += 1);
    }

    fn look<T>(&self, look: impl FnOnce(&[Message], Option<End>) -> T) -> T {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        look(&seen.0, seen.1)
    }

    async fn wait<T>(
        &self,
        phone: &str,
        what: &str,
        timeout: Duration,
        find: impl Fn(&[Message], Option<End>) -> Option<T>,
    ) -> Result<T, WaitError> {
        let mut changed = self.changed.subscribe();
        let waiting = async {
            loop {
                if let Some(found) = self.look(&find) {
                    return Some(found);
                }
                if changed.changed().await.is_err() {
                    return None;
                }
            }
        };
        match tokio::time::timeout(timeout, waiting).await {
            Ok(Some(found)) => Ok(found),
            _ => {
                let seen =
                    self.look(|messages, _| messages.iter().map(|m| m.start_line().to_owned()).collect());
                Err(WaitError::TimedOut {
                    phone: phone.to_owned(),
                    what: what.to_owned(),
                    waited: timeout,
                    seen,
                })
            }
        }
    }
}

#[derive(Debug, Default)]
struct Logs(Mutex<BTreeMap<CallNumber, Arc<Log>>>);

impl Logs {
    fn of(&self, call: CallNumber) -> Arc<Log> {
        let mut logs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        logs.entry(call).or_insert_with(|| Arc::new(Log::new())).clone()
    }
}

/// A softphone. Cloning shares it; it closes when the last clone and the last call are dropped.
#[derive(Debug, Clone)]
pub struct Phone {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    name: Arc<str>,
    address: SocketAddr,
    config: PhoneConfig,
    jobs: mpsc::UnboundedSender<Job>,
    raw: mpsc::UnboundedSender<(SocketAddr, Vec<u8>)>,
    logs: Arc<Logs>,
    everything: Arc<Log>,
    incoming: tokio::sync::Mutex<mpsc::UnboundedReceiver<CallNumber>>,
    task: AbortHandle,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Phone {
    /// Opens the phone's sockets.
    ///
    /// # Errors
    /// What the system says.
    pub async fn bind(config: PhoneConfig) -> std::io::Result<Self> {
        let (udp, tcp) = open(&config).await?;
        let address = match (&udp, &tcp) {
            (Some(udp), _) => udp.local_addr()?,
            (None, Some(tcp)) => tcp.local_addr()?,
            (None, None) => return Err(std::io::ErrorKind::Unsupported.into()),
        };
        let name: Arc<str> = config.name.as_str().into();
        let mut agent = Agent::new(address, config.transport, config.seed);
        agent.set_user_agent(config.user_agent.clone());
        let (jobs, job_queue) = mpsc::unbounded_channel();
        let (raw, raw_queue) = mpsc::unbounded_channel();
        let (invited, incoming) = mpsc::unbounded_channel();
        let (stream_in, stream_queue) = mpsc::unbounded_channel();
        let (logs, everything) = (Arc::new(Logs::default()), Arc::new(Log::new()));
        let task = Task {
            agent,
            name: name.clone(),
            udp,
            transport: config.transport,
            connections: BTreeMap::new(),
            stream_in,
            transcript: config.transcript.clone(),
            impairment: config.impairment.clone(),
            random: StdRng::seed_from_u64(config.seed),
            logs: logs.clone(),
            everything: everything.clone(),
            invited,
            children: vec![],
        };
        let task = tokio::spawn(task.run(job_queue, raw_queue, stream_queue, tcp)).abort_handle();
        let incoming = tokio::sync::Mutex::new(incoming);
        Ok(Self {
            shared: Arc::new(Shared { name, address, config, jobs, raw, logs, everything, incoming, task }),
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.shared.address
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// What it recorded.
    #[must_use]
    pub fn transcript(&self) -> &Transcript {
        &self.shared.config.transcript
    }

    /// What the far side did against the RFC so far.
    pub async fn faults(&self) -> Vec<String> {
        self.shared.ask(|agent, _| agent.faults().to_vec()).await.unwrap_or_default()
    }

    /// Calls `dial` at `server`.
    ///
    /// # Errors
    /// When no media ports can be opened or the phone is closed.
    pub async fn call(
        &self,
        server: SocketAddr,
        dial: &str,
        options: CallOptions,
    ) -> std::io::Result<OutgoingCall> {
        let shared = &self.shared;
        let invite = options.invite(shared.address, server, dial, shared.config.transport);
        let media = shared.open_media(options.media.clone()).await?;
        let sdp = options.sdp.unwrap_or_default();
        media.set_local(sdp.telephone_event_pt, sdp.ptime_ms);
        let (logs, session) = (shared.logs.clone(), media.clone());
        let asked = shared.ask(move |agent, now| {
            let local = LocalMedia::new(session.address(), sdp, agent.session_id());
            let number = agent.call(server, &invite, Some(local), now);
            let log = logs.of(number);
            let _ = log.media.set(session);
            (number, log)
        });
        let (number, log) = asked.await.map_err(std::io::Error::other)?;
        Ok(OutgoingCall(Call { phone: self.clone(), number, log, media }))
    }

    /// Waits for the next call to this phone.
    ///
    /// # Errors
    /// [`WaitError`] when none comes in time.
    pub async fn next_call(&self, timeout: Duration) -> Result<IncomingCall, WaitError> {
        let shared = &self.shared;
        let mut incoming = shared.incoming.lock().await;
        let number = match tokio::time::timeout(timeout, incoming.recv()).await {
            Ok(Some(number)) => number,
            Ok(None) => return Err(WaitError::Closed),
            Err(_) => {
                let (phone, what) = (shared.name.to_string(), "a call".to_owned());
                let seen = self.received().iter().map(|m| m.start_line().to_owned()).collect();
                return Err(WaitError::TimedOut { phone, what, waited: timeout, seen });
            }
        };
        drop(incoming);
        let log = shared.logs.of(number);
        let media = shared.open_media(None).await.map_err(|_| WaitError::Closed)?;
        let request = log.look(|seen, _| seen.first().cloned()).ok_or(WaitError::Closed)?;
        if let Some(remote) = request.sdp().and_then(RemoteMedia::read) {
            media.set_remote(remote);
        }
        let _ = log.media.set(media.clone());
        Ok(IncomingCall { call: Call { phone: self.clone(), number, log, media }, request })
    }

    /// Sends a request outside any call and waits for its final response. `to_tag` makes it look like one of a
    /// dialog that nobody knows.
    ///
    /// # Errors
    /// [`WaitError`] when none comes in time.
    pub async fn request(
        &self,
        server: SocketAddr,
        method: &str,
        dial: &str,
        options: CallOptions,
        to_tag: Option<&str>,
        timeout: Duration,
    ) -> Result<Message, WaitError> {
        let invite = options.invite(self.shared.address, server, dial, self.shared.config.transport);
        let (verb, tag) = (method.to_owned(), to_tag.map(str::to_owned));
        let number = self
            .shared
            .ask(move |agent, now| agent.outside(server, &verb, &invite, tag.as_deref(), now))
            .await?;
        let log = self.shared.logs.of(number);
        let last = |seen: &[Message], _| seen.iter().find(|m| m.status().is_some_and(|s| s >= 200)).cloned();
        log.wait(&self.shared.name, &format!("a response to {method}"), timeout, last).await
    }

    /// Sends these bytes as they are.
    pub fn send_raw(&self, to: SocketAddr, bytes: &[u8]) {
        let _ = self.shared.raw.send((to, bytes.to_vec()));
    }

    /// Everything readable that the phone received, of any call or none.
    #[must_use]
    pub fn received(&self) -> Vec<Message> {
        self.shared.everything.look(|seen, _| seen.to_vec())
    }

    /// Waits for a message of any call or none.
    ///
    /// # Errors
    /// [`WaitError`] when none comes in time.
    pub async fn wait_received(
        &self,
        what: &str,
        timeout: Duration,
        is: impl Fn(&Message) -> bool,
    ) -> Result<Message, WaitError> {
        let find = |seen: &[Message], _| seen.iter().find(|message| is(message)).cloned();
        self.shared.everything.wait(&self.shared.name, what, timeout, find).await
    }

    /// So many ACKs for 2xx get lost from now on.
    ///
    /// # Errors
    /// [`WaitError::Closed`].
    pub async fn lose_acks(&self, count: u32) -> Result<(), WaitError> {
        self.shared.ask(move |agent, _| agent.lose_acks(count)).await
    }
}

impl Shared {
    /// Runs `job` in the phone's task and returns its result once everything it sends has been sent.
    async fn ask<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Agent, Instant) -> T + Send + 'static,
    ) -> Result<T, WaitError> {
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |agent, now| {
            let _ = reply.send(job(agent, now));
        });
        self.jobs.send(job).map_err(|_| WaitError::Closed)?;
        answer.await.map_err(|_| WaitError::Closed)
    }

    async fn open_media(&self, options: Option<MediaOptions>) -> std::io::Result<MediaSession> {
        let options = options.unwrap_or_else(|| self.config.media.clone());
        let config = &self.config;
        let ip = if self.address.ip().is_unspecified() {
            IpAddr::from(Ipv4Addr::LOCALHOST)
        } else {
            self.address.ip()
        };
        MediaSession::open(ip, self.name.clone(), config.transcript.clone(), options, config.seed).await
    }
}

/// A call at a phone, whoever began it.
#[derive(Debug)]
pub struct Call {
    phone: Phone,
    number: CallNumber,
    log: Arc<Log>,
    media: MediaSession,
}

/// A call that this phone made.
#[derive(Debug)]
pub struct OutgoingCall(Call);

/// A call that came in.
#[derive(Debug)]
pub struct IncomingCall {
    call: Call,
    request: Message,
}

impl Deref for OutgoingCall {
    type Target = Call;
    fn deref(&self) -> &Call {
        &self.0
    }
}

impl Deref for IncomingCall {
    type Target = Call;
    fn deref(&self) -> &Call {
        &self.call
    }
}

impl Call {
    async fn ask<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Agent, CallNumber, Instant) -> T + Send + 'static,
    ) -> Result<T, WaitError> {
        let number = self.number;
        self.phone.shared.ask(move |agent, now| job(agent, number, now)).await
    }

    async fn wait<T>(
        &self,
        what: &str,
        timeout: Duration,
        find: impl Fn(&[Message], Option<End>) -> Option<T>,
    ) -> Result<T, WaitError> {
        self.log.wait(&self.phone.shared.name, what, timeout, find).await
    }

    /// Its audio.
    #[must_use]
    pub fn media(&self) -> &MediaSession {
        &self.media
    }

    /// Every request and response that came in this call, repeated ones too.
    #[must_use]
    pub fn received(&self) -> Vec<Message> {
        self.log.look(|seen, _| seen.to_vec())
    }

    /// Statuses of all responses to INVITE so far, repeated ones too.
    #[must_use]
    pub fn statuses(&self) -> Vec<u16> {
        self.received().iter().filter(|m| m.cseq().1 == "INVITE").filter_map(Message::status).collect()
    }

    /// How it ended, once it has.
    #[must_use]
    pub fn end(&self) -> Option<End> {
        self.log.look(|_, end| end)
    }

    /// Waits for a response that fits, from the beginning of the call on.
    ///
    /// # Errors
    /// [`WaitError`] when none comes in time.
    pub async fn wait_response(
        &self,
        what: &str,
        timeout: Duration,
        is: impl Fn(&Message) -> bool,
    ) -> Result<Message, WaitError> {
        self.wait(what, timeout, |seen, _| seen.iter().find(|m| m.status().is_some() && is(m)).cloned()).await
    }

    /// Waits for a request of that method, from the beginning of the call on.
    ///
    /// # Errors
    /// [`WaitError`] when none comes in time.
    pub async fn wait_request(&self, method: &str, timeout: Duration) -> Result<Message, WaitError> {
        self.wait(method, timeout, |seen, _| seen.iter().find(|m| m.is(method)).cloned()).await
    }

    /// Waits for the far side's BYE.
    ///
    /// # Errors
    /// [`WaitError`] when none comes in time.
    pub async fn wait_bye(&self, timeout: Duration) -> Result<Message, WaitError> {
        self.wait_request("BYE", timeout).await
    }

    /// Waits until the call is over, however.
    ///
    /// # Errors
    /// [`WaitError`] when it goes on.
    pub async fn wait_end(&self, timeout: Duration) -> Result<End, WaitError> {
        self.wait("the end of the call", timeout, |_, end| end).await
    }

    /// Sends BYE and stops the audio.
    ///
    /// # Errors
    /// [`WaitError::Closed`].
    pub async fn bye(&self) -> Result<(), WaitError> {
        self.bye_with(&[]).await
    }

    /// Sends BYE with further headers.
    ///
    /// # Errors
    /// [`WaitError::Closed`].
    pub async fn bye_with(&self, headers: &[(String, String)]) -> Result<(), WaitError> {
        self.media.stop();
        let headers = headers.to_vec();
        self.ask(move |agent, call, now| agent.bye(call, &headers, now)).await
    }

    /// Sends BYE and waits for its response.
    ///
    /// # Errors
    /// [`WaitError`] when none comes in 5 s.
    pub async fn hang_up(&self) -> Result<Message, WaitError> {
        self.bye().await?;
        self.wait_response("200 to BYE", Duration::from_secs(5), |m| m.cseq().1 == "BYE").await
    }

    async fn final_response(
        &self,
        what: &str,
        cseq: Option<u32>,
        timeout: Duration,
    ) -> Result<Message, WaitError> {
        let cseq = cseq.ok_or(WaitError::Closed)?;
        self.wait_response(what, timeout, |m| m.cseq().0 == cseq && m.status().is_some_and(|s| s >= 200))
            .await
    }

    /// Sends a re-INVITE with an offer in that direction (`sendonly`: hold), or without SDP, and returns its final
    /// response.
    ///
    /// # Errors
    /// [`WaitError`] when none comes in time.
    pub async fn reinvite(
        &self,
        direction: Option<&'static str>,
        timeout: Duration,
    ) -> Result<Message, WaitError> {
        let cseq = self.ask(move |agent, call, now| agent.reinvite(call, direction, now)).await?;
        self.final_response("a response to re-INVITE", cseq, timeout).await
    }

    /// The same as UPDATE.
    ///
    /// # Errors
    /// [`WaitError`] when no response comes in time.
    pub async fn update(
        &self,
        direction: Option<&'static str>,
        timeout: Duration,
    ) -> Result<Message, WaitError> {
        let cseq = self.ask(move |agent, call, now| agent.update(call, direction, now)).await?;
        self.final_response("a response to UPDATE", cseq, timeout).await
    }

    /// Sends any other request within the call and returns its final response.
    ///
    /// # Errors
    /// [`WaitError`] when none comes in time.
    pub async fn request(
        &self,
        method: &str,
        headers: &[(String, String)],
        body: Option<(&str, &[u8])>,
        timeout: Duration,
    ) -> Result<Message, WaitError> {
        let (verb, headers) = (method.to_owned(), headers.to_vec());
        let body = body.map(|(kind, content)| (kind.to_owned(), content.to_vec()));
        let cseq = self.ask(move |agent, call, now| agent.request(call, &verb, &headers, body, now)).await?;
        self.final_response(&format!("a response to {method}"), cseq, timeout).await
    }

    /// A key as INFO with `application/dtmf-relay`.
    ///
    /// # Errors
    /// [`WaitError`] when no response comes in time.
    pub async fn info_dtmf(
        &self,
        key: char,
        duration_ms: u32,
        timeout: Duration,
    ) -> Result<Message, WaitError> {
        let body = format!("Signal={key}\r\nDuration={duration_ms}\r\n");
        self.request("INFO", &[], Some(("application/dtmf-relay", body.as_bytes())), timeout).await
    }

    /// What later offers of this phone say: changes the description that [`Self::reinvite`] and
    /// [`Self::update`] render.
    ///
    /// # Errors
    /// [`WaitError::Closed`].
    pub async fn change_sdp(
        &self,
        change: impl FnOnce(&mut SdpOptions) + Send + 'static,
    ) -> Result<(), WaitError> {
        self.ask(move |agent, call, _| {
            if let Some(media) = agent.media_mut(call) {
                change(&mut media.options);
            }
        })
        .await
    }

    /// Re-INVITEs get this status from now on instead of an answer.
    ///
    /// # Errors
    /// [`WaitError::Closed`].
    pub async fn refuse_reinvites(&self, status: Option<u16>) -> Result<(), WaitError> {
        self.ask(move |agent, call, _| agent.refuse_reinvites(call, status)).await
    }
}

fn answers_invite(message: &Message, status: u16) -> bool {
    message.cseq().1 == "INVITE" && message.status() == Some(status)
}

impl OutgoingCall {
    /// Waits for a response to the INVITE with a status that fits.
    ///
    /// # Errors
    /// [`WaitError`] when none comes in time.
    pub async fn wait_for(&self, is: impl Fn(u16) -> bool, timeout: Duration) -> Result<Message, WaitError> {
        self.wait_response("a response to INVITE", timeout, |m| {
            m.cseq().1 == "INVITE" && m.status().is_some_and(&is)
        })
        .await
    }

    /// Waits for 180.
    ///
    /// # Errors
    /// [`WaitError`] when none comes in time.
    pub async fn ringing(&self, timeout: Duration) -> Result<Message, WaitError> {
        self.wait_response("180", timeout, |m| answers_invite(m, 180)).await
    }

    /// Waits for the 200.
    ///
    /// # Errors
    /// [`WaitError::Refused`] when another final response comes, [`WaitError::TimedOut`] when none does.
    pub async fn answered(&self, timeout: Duration) -> Result<Message, WaitError> {
        let last = self.final_status(timeout).await?;
        match last.status() {
            Some(200..=299) => Ok(last),
            status => Err(WaitError::Refused { status: status.unwrap_or(0), what: "an answer".into() }),
        }
    }

    /// Waits for the final response to the INVITE, whatever it is.
    ///
    /// # Errors
    /// [`WaitError`] when none comes in time.
    pub async fn final_status(&self, timeout: Duration) -> Result<Message, WaitError> {
        self.wait_for(|status| status >= 200, timeout).await
    }

    /// Sends CANCEL, as soon as a provisional response allows it.
    ///
    /// # Errors
    /// [`WaitError::Closed`].
    pub async fn cancel(&self) -> Result<(), WaitError> {
        self.media.stop();
        self.ask(|agent, call, now| agent.cancel(call, now)).await
    }

    /// Sends the INVITE once more, byte for byte.
    ///
    /// # Errors
    /// [`WaitError::Closed`].
    pub async fn repeat_invite(&self) -> Result<(), WaitError> {
        self.ask(|agent, call, _| agent.repeat_invite(call)).await
    }
}

impl IncomingCall {
    /// The INVITE.
    #[must_use]
    pub fn request(&self) -> &Message {
        &self.request
    }

    /// Sends any response to the INVITE.
    ///
    /// # Errors
    /// [`WaitError::Closed`].
    pub async fn respond(&self, reply: Reply) -> Result<(), WaitError> {
        self.ask(move |agent, call, now| agent.respond(call, &reply, now)).await
    }

    /// 180 without SDP.
    ///
    /// # Errors
    /// [`WaitError::Closed`].
    pub async fn ring(&self) -> Result<(), WaitError> {
        self.respond(Reply::status(180)).await
    }

    /// 180 with a To tag of its own, as from a branch of a fork.
    ///
    /// # Errors
    /// [`WaitError::Closed`].
    pub async fn ring_as(&self, tag: &str) -> Result<(), WaitError> {
        self.respond(Reply::status(180).tagged(tag)).await
    }

    /// Sets the description and begins to send audio.
    async fn describe(&self, sdp: SdpOptions) -> Result<(), WaitError> {
        self.media.set_local(sdp.telephone_event_pt, sdp.ptime_ms);
        let address = self.media.address();
        self.ask(move |agent, call, _| {
            let id = agent.session_id();
            agent.set_media(call, LocalMedia::new(address, sdp, id));
        })
        .await?;
        self.media.start();
        Ok(())
    }

    /// 183 with SDP; early audio may be played from now on.
    ///
    /// # Errors
    /// [`WaitError::Closed`].
    pub async fn progress_with_sdp(&self, sdp: SdpOptions) -> Result<(), WaitError> {
        self.respond_with_sdp(sdp, Reply::with_sdp(183)).await
    }

    /// Any response with SDP; `reply.sdp` is set.
    ///
    /// # Errors
    /// [`WaitError::Closed`].
    pub async fn respond_with_sdp(&self, sdp: SdpOptions, reply: Reply) -> Result<(), WaitError> {
        self.describe(sdp).await?;
        self.respond(Reply { sdp: true, ..reply }).await
    }

    /// 200 with SDP. After [`Self::progress_with_sdp`] the same description is repeated, whatever `sdp` says.
    ///
    /// # Errors
    /// [`WaitError::Closed`].
    pub async fn answer(&self, sdp: SdpOptions) -> Result<(), WaitError> {
        self.respond_with_sdp(sdp, Reply::with_sdp(200)).await
    }

    /// A final failure; `body` is content type and content.
    ///
    /// # Errors
    /// [`WaitError::Closed`].
    pub async fn reject(
        &self,
        status: u16,
        phrase: Option<&str>,
        headers: &[(String, String)],
        body: Option<(&str, &[u8])>,
    ) -> Result<(), WaitError> {
        let body = body.map(|(kind, content)| (kind.to_owned(), content.to_vec()));
        let reply = Reply {
            phrase: phrase.map(str::to_owned),
            headers: headers.to_vec(),
            body,
            ..Reply::status(status)
        };
        self.respond(reply).await
    }

    /// A CANCEL gets its 200 but no 487 to the INVITE, so that this phone can still answer.
    ///
    /// # Errors
    /// [`WaitError::Closed`].
    pub async fn keep_when_cancelled(&self) -> Result<(), WaitError> {
        self.ask(|agent, call, _| agent.on_cancel(call, OnCancel::Keep)).await
    }

    /// The race: waits for the CANCEL, answers it with 200, and then the INVITE with 200 all the same.
    ///
    /// # Errors
    /// [`WaitError`] when no CANCEL comes in time.
    pub async fn answer_after_cancel(&self, sdp: SdpOptions, timeout: Duration) -> Result<(), WaitError> {
        self.keep_when_cancelled().await?;
        self.wait_cancel(timeout).await?;
        self.answer(sdp).await
    }

    /// Waits for CANCEL.
    ///
    /// # Errors
    /// [`WaitError`] when none comes in time.
    pub async fn wait_cancel(&self, timeout: Duration) -> Result<Message, WaitError> {
        self.wait_request("CANCEL", timeout).await
    }

    /// Waits for ACK.
    ///
    /// # Errors
    /// [`WaitError`] when none comes in time.
    pub async fn wait_ack(&self, timeout: Duration) -> Result<Message, WaitError> {
        self.wait_request("ACK", timeout).await
    }
}

async fn open(config: &PhoneConfig) -> std::io::Result<(Option<UdpSocket>, Option<TcpListener>)> {
    if config.transport == Transport::Tcp {
        return Ok((None, Some(TcpListener::bind(config.address).await?)));
    }
    let mut last = std::io::Error::from(std::io::ErrorKind::AddrInUse);
    for _ in 0..20 {
        let udp = UdpSocket::bind(config.address).await?;
        let socket = socket2::SockRef::from(&udp);
        let _ = socket.set_recv_buffer_size(1 << 20);
        if !config.also_tcp {
            return Ok((Some(udp), None));
        }
        match TcpListener::bind(udp.local_addr()?).await {
            Ok(tcp) => return Ok((Some(udp), Some(tcp))),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// The phone's own task.
struct Task {
    agent: Agent,
    name: Arc<str>,
    udp: Option<UdpSocket>,
    transport: Transport,
    connections: BTreeMap<SocketAddr, mpsc::UnboundedSender<Vec<u8>>>,
    stream_in: mpsc::UnboundedSender<FromStream>,
    transcript: Transcript,
    impairment: Impairment,
    random: StdRng,
    logs: Arc<Logs>,
    everything: Arc<Log>,
    invited: mpsc::UnboundedSender<CallNumber>,
    children: Vec<AbortHandle>,
}

impl Drop for Task {
    fn drop(&mut self) {
        for child in &self.children {
            child.abort();
        }
    }
}

enum FromStream {
    Message(SocketAddr, Vec<u8>),
    Closed(SocketAddr),
}

impl Task {
    async fn run(
        mut self,
        mut jobs: mpsc::UnboundedReceiver<Job>,
        mut raw: mpsc::UnboundedReceiver<(SocketAddr, Vec<u8>)>,
        mut streams: mpsc::UnboundedReceiver<FromStream>,
        listener: Option<TcpListener>,
    ) {
        let mut buffer = vec![0; 65536];
        loop {
            let deadline = self.agent.deadline();
            tokio::select! {
                Some(job) = jobs.recv() => job(&mut self.agent, clock::now()),
                Some((to, bytes)) = raw.recv() => self.send(to, &bytes),
                received = receive(self.udp.as_ref(), &mut buffer) => {
                    if let Ok((length, from)) = received {
                        let bytes = buffer.get(..length).unwrap_or_default().to_vec();
                        self.take(&bytes, from);
                    }
                }
                Some(from_stream) = streams.recv() => match from_stream {
                    FromStream::Message(from, bytes) => self.take(&bytes, from),
                    FromStream::Closed(peer) => {
                        self.connections.remove(&peer);
                    }
                },
                Some((stream, peer)) = accept(listener.as_ref()) => self.adopt(stream, peer),
                () = sleep_until(deadline), if deadline.is_some() => self.agent.timeout(clock::now()),
                else => return,
            }
            self.flush();
        }
    }

    fn take(&mut self, bytes: &[u8], from: SocketAddr) {
        if self.is_lost(bytes, Direction::Received) {
            return;
        }
        self.transcript.add(&self.name, Direction::Received, Kind::Sip, from, bytes);
        if let Some(message) = Message::read(bytes) {
            self.everything.change(|seen| seen.0.push(message));
        }
        for _ in 0..=u8::from(self.impairment.duplicate) {
            self.agent.receive(bytes, from, clock::now());
        }
    }

    fn flush(&mut self) {
        let Output { send, events } = self.agent.take_output();
        for (to, bytes) in send {
            if self.is_lost(&bytes, Direction::Sent) {
                continue;
            }
            for _ in 0..=u8::from(self.impairment.duplicate) {
                self.send(to, &bytes);
            }
        }
        for (call, event) in events {
            let log = self.logs.of(call);
            match event {
                Event::Invited(request) => {
                    log.change(|seen| seen.0.push(request));
                    let _ = self.invited.send(call);
                }
                Event::Response(message) | Event::Request(message) => {
                    if let Some(media) = log.media.get() {
                        connect(media, &message);
                    }
                    log.change(|seen| seen.0.push(message));
                }
                Event::Ended(end) => {
                    if let Some(media) = log.media.get() {
                        media.stop();
                    }
                    log.change(|seen| seen.1 = Some(end));
                }
            }
        }
    }

    fn send(&mut self, to: SocketAddr, bytes: &[u8]) {
        self.transcript.add(&self.name, Direction::Sent, Kind::Sip, to, bytes);
        if let Some(connection) = self.connections.get(&to) {
            let _ = connection.send(bytes.to_vec());
            return;
        }
        match &self.udp {
            Some(udp) if self.transport == Transport::Udp => {
                let _ = udp.try_send_to(bytes, to);
            }
            _ => {
                let (out, queue) = mpsc::unbounded_channel();
                let _ = out.send(bytes.to_vec());
                self.connections.insert(to, out);
                let stream_in = self.stream_in.clone();
                let task = async move {
                    match TcpStream::connect(to).await {
                        Ok(stream) => pump(stream, to, queue, stream_in).await,
                        Err(_) => drop(stream_in.send(FromStream::Closed(to))),
                    }
                };
                self.children.push(tokio::spawn(task).abort_handle());
            }
        }
    }

    fn adopt(&mut self, stream: TcpStream, peer: SocketAddr) {
        let (out, queue) = mpsc::unbounded_channel();
        self.connections.insert(peer, out);
        self.children.push(tokio::spawn(pump(stream, peer, queue, self.stream_in.clone())).abort_handle());
    }

    fn is_lost(&mut self, bytes: &[u8], direction: Direction) -> bool {
        let share = match direction {
            Direction::Received => self.impairment.loss_received,
            Direction::Sent => self.impairment.loss_sent,
        };
        if share > 0.0 && self.random.random_bool(share.min(1.0)) {
            return true;
        }
        let Some(message) = Message::read(bytes) else { return false };
        let what = match (message.method(), message.status()) {
            (Some(method), _) => method.to_owned(),
            (_, status) => format!("{} {}", status.unwrap_or(0), message.cseq().1),
        };
        let fits = |lose: &&mut Lose| lose.direction == direction && lose.what == what && lose.count > 0;
        self.impairment.lose.iter_mut().find(fits).is_some_and(|lose| {
            lose.count -= 1;
            true
        })
    }
}

/// Lets the audio follow what an offer/answer exchange came to.
fn connect(media: &MediaSession, message: &Message) {
    let Some(remote) = message.sdp().and_then(RemoteMedia::read) else { return };
    let answered = message.is("ACK")
        || (message.cseq().1 == "INVITE" && message.status().is_some_and(|s| (200..300).contains(&s)));
    let failed = message.status().is_some_and(|status| status >= 300);
    if !failed {
        media.set_remote(remote);
    }
    if answered {
        media.start();
    }
}

async fn receive(udp: Option<&UdpSocket>, buffer: &mut [u8]) -> std::io::Result<(usize, SocketAddr)> {
    match udp {
        Some(udp) => udp.recv_from(buffer).await,
        None => std::future::pending().await,
    }
}

async fn accept(listener: Option<&TcpListener>) -> Option<(TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await.ok(),
        None => std::future::pending().await,
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// Carries messages over one connection; they end where Content-Length says (RFC 3261 §18.3).
async fn pump(
    mut stream: TcpStream,
    peer: SocketAddr,
    mut queue: mpsc::UnboundedReceiver<Vec<u8>>,
    to_task: mpsc::UnboundedSender<FromStream>,
) {
    let (mut buffer, mut chunk) = (vec![], vec![0; 65536]);
    loop {
        tokio::select! {
            Some(bytes) = queue.recv() => {
                if stream.write_all(&bytes).await.is_err() {
                    break;
                }
            }
            read = stream.read(&mut chunk) => match read {
                Ok(length) if length > 0 => {
                    buffer.extend_from_slice(chunk.get(..length).unwrap_or_default());
                    while let Some(message) = next_message(&mut buffer) {
                        let _ = to_task.send(FromStream::Message(peer, message));
                    }
                }
                _ => break,
            },
            else => break,
        }
    }
    let _ = to_task.send(FromStream::Closed(peer));
}

/// Takes one whole message from the front of `buffer`.
fn next_message(buffer: &mut Vec<u8>) -> Option<Vec<u8>> {
    let blank = buffer.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    buffer.drain(..blank);
    let head = message::find(buffer, b"\r\n\r\n")? + 4;
    let length = Message::read(buffer.get(..head)?)
        .and_then(|m| m.header("content-length")?.parse::<usize>().ok())
        .unwrap_or(0);
    if buffer.len() < head + length {
        return None;
    }
    Some(buffer.drain(..head + length).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audio::{Comparison, Voice, speech};
    use crate::patterns::Pattern;
    use media::Codec;

    const SOON: Duration = Duration::from_secs(5);

    async fn pair(change: impl Fn(&mut PhoneConfig)) -> (Phone, Phone) {
        let transcript = Transcript::new();
        let mut phones = vec![];
        for name in ["caller", "callee"] {
            let mut config = PhoneConfig::named(name).recorded_in(&transcript);
            change(&mut config);
            phones.push(Phone::bind(config).await.unwrap());
        }
        let callee = phones.pop().unwrap();
        (phones.pop().unwrap(), callee)
    }

    async fn connected(a: &Phone, b: &Phone, answer: SdpOptions) -> (OutgoingCall, IncomingCall) {
        let out = a.call(b.address(), "+12025550100", CallOptions::from("+4915112345678")).await.unwrap();
        let inc = b.next_call(SOON).await.unwrap();
        inc.ring().await.unwrap();
        out.ringing(SOON).await.unwrap();
        inc.answer(answer).await.unwrap();
        out.answered(SOON).await.unwrap();
        inc.wait_ack(SOON).await.unwrap();
        (out, inc)
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn two_phones_talk_both_ways_and_hear_what_was_said() {
        let (a, b) = pair(|_| {}).await;
        let (out, inc) = connected(&a, &b, SdpOptions::pcma()).await;
        let (one, two) = (speech(Voice::Low, 1, 1500), speech(Voice::High, 2, 1500));
        tokio::join!(out.media().play(&one), inc.media().play(&two));
        inc.media().wait_packets(80, SOON).await.unwrap();
        out.media().wait_packets(80, SOON).await.unwrap();
        let heard = Comparison::of(&one, &inc.media().received_audio(), 1000);
        assert!(heard.is_same() && heard.overlap == one.len(), "{heard:?}");
        let heard = Comparison::of(&two, &out.media().received_audio(), 1000);
        assert!(heard.is_same() && heard.overlap == two.len(), "{heard:?}");
        assert_eq!(out.media().remote().unwrap().codec(), Some(Codec::Pcma));
        assert_eq!(out.hang_up().await.unwrap().status(), Some(200));
        assert_eq!((out.end(), inc.wait_end(SOON).await.unwrap()), (Some(End::ByeSent), End::ByeReceived));
        assert_eq!((a.faults().await, b.faults().await), (vec![], vec![]));
        let ladder = a.transcript().ladder("server");
        assert!(ladder.contains("INVITE +12025550100 SDP") && ladder.contains("RTP PCMA"), "{ladder}");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn keys_arrive_with_the_payload_type_that_the_far_side_wants() {
        let (a, b) = pair(|_| {}).await;
        let (out, inc) =
            connected(&a, &b, SdpOptions { telephone_event_pt: Some(97), ..SdpOptions::default() }).await;
        for (pattern, packets) in
            [(Pattern::Clean, 7), (Pattern::EndOnly, 1), (Pattern::Shuffled, 7), (Pattern::Short, 4)]
        {
            let before = inc.media().received_digits().len();
            out.media().dtmf("42", pattern).await;
            inc.media()
                .wait(SOON, |m| {
                    m.received_digits().len() == before + 2
                        && m.received_digits()
                            .iter()
                            .all(|d| d.ended && (d.packets >= packets || d.packets == 1))
                })
                .await
                .unwrap();
            let digits = inc.media().received_digits().split_off(before);
            assert_eq!(digits.iter().map(|d| d.key).collect::<String>(), "42", "{pattern:?}");
            assert!(
                digits.iter().all(|d| d.payload_type == 97 && d.packets == packets),
                "{pattern:?} {digits:?}"
            );
        }
        out.media().play(&crate::audio::silence(100)).await;
        let mut sequences: Vec<u16> =
            inc.media().received_packets().iter().map(|p| p.packet.sequence).collect();
        let first = sequences[0];
        sequences.sort_by_key(|s| s.wrapping_sub(first));
        sequences.dedup();
        assert!(sequences.windows(2).all(|w| w[1].wrapping_sub(w[0]) <= 7), "one stream goes on across keys");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_call_over_tcp_is_cancelled_and_one_is_refused() {
        let (a, b) = pair(|config| config.transport = Transport::Tcp).await;
        let out = a.call(b.address(), "1", CallOptions::from("2")).await.unwrap();
        let inc = b.next_call(SOON).await.unwrap();
        inc.ring().await.unwrap();
        out.cancel().await.unwrap();
        inc.wait_cancel(SOON).await.unwrap();
        assert_eq!(out.final_status(SOON).await.unwrap().status(), Some(487));
        assert_eq!(out.wait_end(SOON).await.unwrap(), End::CancelSent);
        let out = a.call(b.address(), "1", CallOptions::from("2")).await.unwrap();
        let inc = b.next_call(SOON).await.unwrap();
        inc.reject(486, Some("No time"), &[("X-Mark".into(), "1".into())], Some(("text/plain", b"sorry")))
            .await
            .unwrap();
        let refused = out.final_status(SOON).await.unwrap();
        assert_eq!(
            (refused.status(), refused.phrase(), refused.body()),
            (Some(486), Some("No time"), b"sorry".as_slice())
        );
        assert!(matches!(out.answered(SOON).await, Err(WaitError::Refused { status: 486, .. })));
        inc.wait_ack(SOON).await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn lost_and_doubled_messages_do_not_hurt() {
        let lose = |direction, what: &str| Lose { direction, what: what.into(), count: 1 };
        let (a, b) = pair(|config| {
            config.impairment.duplicate = true;
            config.impairment.lose = vec![
                lose(Direction::Sent, "INVITE"),
                lose(Direction::Received, "ACK"),
                lose(Direction::Sent, "BYE"),
            ];
        })
        .await;
        let (out, inc) = connected(&a, &b, SdpOptions::default()).await;
        assert_eq!(out.hang_up().await.unwrap().status(), Some(200));
        assert_eq!(inc.wait_end(SOON).await.unwrap(), End::ByeReceived);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn late_offer_early_media_fork_hold_update_and_info() {
        let (a, b) = pair(|_| {}).await;
        let out =
            a.call(b.address(), "1", CallOptions { sdp: None, ..CallOptions::from("2") }).await.unwrap();
        let inc = b.next_call(SOON).await.unwrap();
        assert_eq!(inc.request().sdp(), None);
        inc.ring_as("fork-one").await.unwrap();
        inc.respond_with_sdp(SdpOptions::default(), Reply::with_sdp(183).tagged("fork-two")).await.unwrap();
        inc.respond(Reply::with_sdp(200).tagged("fork-two")).await.unwrap();
        out.answered(SOON).await.unwrap();
        let ack = inc.wait_ack(SOON).await.unwrap();
        assert!(ack.sdp().is_some(), "the answer to a late offer is in the ACK");
        let tags: std::collections::BTreeSet<_> =
            out.received().iter().filter_map(|m| m.to_tag().map(str::to_owned)).collect();
        assert_eq!(tags.len(), 2, "the branches of the fork");
        inc.media().wait_packets(1, SOON).await.unwrap();
        let held = out.reinvite(Some("sendonly"), SOON).await.unwrap();
        assert_eq!(RemoteMedia::read(held.sdp().unwrap()).unwrap().direction, "recvonly");
        assert_eq!(inc.update(Some("sendrecv"), SOON).await.unwrap().status(), Some(200));
        assert_eq!(out.info_dtmf('5', 100, SOON).await.unwrap().status(), Some(200));
        inc.bye().await.unwrap();
        out.wait_bye(SOON).await.unwrap();
        let options =
            a.request(b.address(), "OPTIONS", "1", CallOptions::from("2"), None, SOON).await.unwrap();
        let unknown =
            a.request(b.address(), "BYE", "1", CallOptions::from("2"), Some("nobody"), SOON).await.unwrap();
        assert_eq!((options.status(), unknown.status()), (Some(200), Some(481)));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_answer_crosses_a_cancel_and_waiting_in_vain_says_what_came() {
        let (a, b) = pair(|_| {}).await;
        let out = a.call(b.address(), "1", CallOptions::from("2")).await.unwrap();
        let inc = b.next_call(SOON).await.unwrap();
        inc.keep_when_cancelled().await.unwrap();
        out.cancel().await.unwrap();
        inc.answer_after_cancel(SdpOptions::default(), SOON).await.unwrap();
        inc.wait_bye(SOON).await.unwrap();
        assert_eq!(inc.wait_end(SOON).await.unwrap(), End::ByeReceived);
        let error = out.ringing(Duration::from_millis(10)).await.unwrap_err();
        assert!(error.to_string().contains("SIP/2.0 100 Trying"), "{error}");
    }
}

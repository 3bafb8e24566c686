//! A softphone on real sockets: calls and is called, with audio, for tests and for the demonstration.
//!
//! One task owns the socket and the [`Agent`]; handles talk to it by short jobs, so every method that sends has
//! sent when it returns. What a call receives is kept from its beginning: waiting for something that has already
//! come succeeds at once.

mod call;
mod config;
mod log;
mod secure;
mod task;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;

use crate::agent::{Agent, CallNumber, Reply};
use crate::message::Message;
use crate::sdp::{LocalMedia, RemoteMedia};
use crate::stream::{MediaOptions, MediaSession};
use crate::transcript::Transcript;

pub use call::{Call, IncomingCall, OutgoingCall};
pub use config::{CallOptions, Impairment, Lose, PhoneConfig};
use log::{Log, Logs};
pub use secure::{Handshake, Secure, Stream};
use task::{Sockets, Task};

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
        let sockets = Sockets::open(&config).await?;
        let address = sockets.address()?;
        let (jobs, job_queue) = mpsc::unbounded_channel();
        let (raw, raw_queue) = mpsc::unbounded_channel();
        let (invited, incoming) = mpsc::unbounded_channel();
        let (logs, everything) = (Arc::new(Logs::default()), Arc::new(Log::new()));
        let task = Task::new(&config, sockets, address, (logs.clone(), everything.clone(), invited));
        let task = tokio::spawn(task.run(job_queue, raw_queue)).abort_handle();
        let name = config.name.as_str().into();
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
        media.set_codecs(&sdp.codecs);
        media.set_key(sdp.key.as_ref());
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

    /// The next requests of this method get these answers, in a call or outside, one each; not for INVITE and ACK.
    ///
    /// # Errors
    /// [`WaitError::Closed`].
    pub async fn script(&self, method: &str, replies: Vec<Reply>) -> Result<(), WaitError> {
        let method = method.to_owned();
        self.shared.ask(move |agent, _| agent.script(&method, replies)).await
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
        let config = &self.config;
        let mut options = options.unwrap_or_else(|| config.media.clone());
        options.middlebox.clone_from(&config.middlebox);
        let ip = if self.address.ip().is_unspecified() {
            IpAddr::from(Ipv4Addr::LOCALHOST)
        } else {
            self.address.ip()
        };
        MediaSession::open(ip, self.name.clone(), config.transcript.clone(), options, config.seed).await
    }
}

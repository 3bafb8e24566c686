//! Requests of ours outside any call, such as OPTIONS (RFC 3261 §11) and REGISTER (§10).
//!
//! Whoever dispatches messages hands over the responses that belong to no call, and the requests that could not be
//! sent; who listens with their Call-ID and From tag hears of them. [`Outside::ask`] is a whole request: a shell around
//! [`NonInviteClient`] that sends, repeats (§17.1.2) and awaits. It answers no challenge and follows no redirection: the
//! final response is the asker's to judge. Nobody waits longer than he says.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dashmap::DashMap;
use tokio::sync::mpsc;

use super::encode::RequestOut;
use super::key::DialogKey;
use super::message::Response;
use super::transaction::{NonInviteClient, non_invite_client};
use super::transport::{Destination, Flow, SendFault, SendToken};
use super::wire::ByteStr;
use crate::clock;

/// Responses that may wait for one listener; more are dropped, and repeated by their sender.
const WAITING: usize = 16;

/// Why there is no final response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// None came in time.
    #[error("no answer")]
    TimedOut,
    /// It could not be sent.
    #[error("it could not be sent")]
    NotSent,
    /// TLS: the peer did not prove its name, or would not speak with us.
    #[error("TLS was refused")]
    NotTrusted,
}

/// What comes back to a request.
#[derive(Debug)]
pub enum Heard {
    /// A response, and how it came.
    Response(Box<(Response, Flow)>),
    /// The request with this branch could not be sent.
    NotSent(ByteStr, SendFault),
}

/// Who listens. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Outside(Arc<DashMap<DialogKey, mpsc::Sender<Heard>>>);

/// Ends it when it is dropped.
#[derive(Debug)]
pub struct Listening {
    outside: Outside,
    key: DialogKey,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.outside.0.remove(&self.key);
    }
}

impl Outside {
    /// From now on what comes back to requests with this Call-ID and From tag is heard there.
    #[must_use]
    pub fn listen(&self, key: DialogKey) -> (Listening, mpsc::Receiver<Heard>) {
        let (sender, heard) = mpsc::channel(WAITING);
        self.0.insert(key.clone(), sender);
        (Listening { outside: self.clone(), key }, heard)
    }

    /// Takes a response that belongs to no call. False when nobody listens.
    pub fn take(&self, response: Response, flow: Flow) -> bool {
        // RFC 3261 §8.1.3.3: with more Vias than our own one it was not meant for us.
        let key = DialogKey::of_response(&response).filter(|_| !response.is_misrouted());
        key.is_some_and(|key| self.tell(&key, Heard::Response(Box::new((response, flow)))))
    }

    fn tell(&self, key: &DialogKey, heard: Heard) -> bool {
        let Some(listener) = self.0.get(key).map(|entry| entry.value().clone()) else { return false };
        // A listener that is busy hears it again.
        let _ = listener.try_send(heard);
        true
    }

    /// Whether somebody waits for an answer with this Call-ID and tag.
    #[must_use]
    pub fn waits_for(&self, key: &DialogKey) -> bool {
        self.0.contains_key(key)
    }

    /// A request could not be sent that belongs to no call.
    pub fn not_sent(&self, token: &SendToken, why: SendFault) {
        self.tell(&token.dialog, Heard::NotSent(token.branch.clone(), why));
    }

    /// Sends `request` by `send` to `to`, and waits for its final response, for so long at most.
    ///
    /// # Errors
    /// [`AskError`] when there is none.
    pub async fn ask(
        &self,
        send: impl Fn(Bytes, &Destination),
        request: &RequestOut,
        to: Destination,
        limit: Duration,
    ) -> Result<Response, AskError> {
        let tag = request.from.tag.as_deref().unwrap_or_default();
        let key =
            DialogKey { call_id: ByteStr::from(request.call_id.as_str()), local_tag: ByteStr::from(tag) };
        let branch = ByteStr::from(request.via.branch.as_str());
        let to = to.with_token(SendToken { dialog: key.clone(), branch: branch.clone() });
        let (_listening, mut heard) = self.listen(key);
        let deadline = clock::now() + limit;
        let (mut machine, mut actions) =
            NonInviteClient::start(request.encode(), to.protocol.is_reliable(), clock::now());
        loop {
            for action in actions {
                match action {
                    non_invite_client::Action::Send(wire) => send(wire, &to),
                    non_invite_client::Action::TimedOut => return Err(AskError::TimedOut),
                    non_invite_client::Action::Deliver(_) | non_invite_client::Action::Terminated => {}
                }
            }
            let wake = machine.deadline().map_or(deadline, |at| at.min(deadline));
            let event = tokio::select! {
                Some(heard) = heard.recv() => match heard {
                    Heard::NotSent(_, SendFault::NotSent) => return Err(AskError::NotSent),
                    Heard::NotSent(_, SendFault::NotTrusted) => return Err(AskError::NotTrusted),
                    Heard::Response(received) => {
                        let (response, _) = *received;
                        let meant = response.head.via.branch.as_deref() == Some(&*branch)
                            && response.head.cseq.method == request.method;
                        if !meant {
                            actions = vec![];
                            continue;
                        }
                        if response.status >= 200 {
                            return Ok(response);
                        }
                        non_invite_client::Event::Response(response.status)
                    }
                },
                () = clock::sleep_until(Some(wake)) => {
                    if clock::now() >= deadline {
                        return Err(AskError::TimedOut);
                    }
                    non_invite_client::Event::Timeout
                }
            };
            actions = machine.handle(event, clock::now());
        }
    }
}

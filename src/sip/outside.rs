//! Requests of ours outside any call, such as OPTIONS (RFC 3261 §11): sent, repeated (§17.1.2) and awaited.
//!
//! Shell around [`NonInviteClient`]. Whoever dispatches messages hands over the responses that belong to no call, and
//! the requests that could not be sent. It answers no challenge and follows no redirection: the final response is the
//! asker's to judge. Nobody waits longer than he says.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dashmap::DashMap;
use tokio::sync::mpsc;

use super::encode::RequestOut;
use super::key::DialogKey;
use super::message::Response;
use super::transaction::{NonInviteClient, non_invite_client};
use super::transport::{Destination, SendFault, SendToken};
use super::wire::ByteStr;
use crate::clock;

/// Responses of one request that may wait to be looked at; more are dropped, and repeated by their sender.
const WAITING: usize = 8;

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

enum News {
    Response(Box<Response>),
    NotSent(SendFault),
}

/// The requests that are under way. Clones share them.
#[derive(Clone, Default)]
pub struct Outside(Arc<DashMap<DialogKey, mpsc::Sender<News>>>);

impl Outside {
    /// Takes a response that belongs to no call.
    pub fn take(&self, response: Response) {
        let asker = DialogKey::of_response(&response).and_then(|key| Some(self.0.get(&key)?.value().clone()));
        if let Some(asker) = asker {
            let _ = asker.try_send(News::Response(Box::new(response)));
        }
    }

    /// Whether somebody waits for an answer with this Call-ID and tag.
    #[must_use]
    pub fn waits_for(&self, key: &DialogKey) -> bool {
        self.0.contains_key(key)
    }

    /// A request could not be sent that belongs to no call.
    pub fn not_sent(&self, token: &SendToken, why: SendFault) {
        let asker = self.0.get(&token.dialog).map(|entry| entry.value().clone());
        if let Some(asker) = asker {
            let _ = asker.try_send(News::NotSent(why));
        }
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
        let (sender, mut news) = mpsc::channel(WAITING);
        self.0.insert(key.clone(), sender);
        let _forgotten = Forget { outside: self, key };
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
                Some(news) = news.recv() => match news {
                    News::NotSent(SendFault::NotSent) => return Err(AskError::NotSent),
                    News::NotSent(SendFault::NotTrusted) => return Err(AskError::NotTrusted),
                    News::Response(response)
                        if response.head.via.branch.as_deref() != Some(&*branch)
                            || response.head.cseq.method != request.method =>
                    {
                        actions = vec![];
                        continue;
                    }
                    News::Response(response) if response.status >= 200 => return Ok(*response),
                    News::Response(response) => non_invite_client::Event::Response(response.status),
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

/// Whoever stops waiting, for whatever reason, is no longer asked for.
struct Forget<'a> {
    outside: &'a Outside,
    key: DialogKey,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.outside.0.remove(&self.key);
    }
}

//! From a message to its call: the indexes, and the answers that need no call (RFC 3261 §8.2, §12.2.2, §17.2.3).
//!
//! The maps are indexes, not homes: they hold cloneable handles, are looked at and let go in one line, and are
//! cleared by the [`KeyGuard`] of the call's task.

use super::Event;
use super::identity;
use super::leg::response_hop;
use super::registry::{Admission, Shell};
use crate::clock;
use crate::ids::IdSource;
use crate::sip::digest::{Guard, Verdict};
use crate::sip::encode::{HeaderOut, ResponseOut};
use crate::sip::key::{DialogKey, TransactionKey};
use crate::sip::message::{Message, Method, ParseError, Request};
use crate::sip::transport::{Flow, Handler, Protocol, SendFault, SendToken};
use crate::sip::wire::ByteStr;
use crate::trunk::TrunkId;
use bytes::Bytes;
use dashmap::DashMap;
use sha2::{Digest, Sha256};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tokio::sync::mpsc;
use uuid::Uuid;

/// How another task reaches a call.
#[derive(Debug, Clone)]
pub struct CallHandle {
    /// The interaction.
    pub id: Uuid,
    pub(super) inbox: mpsc::Sender<Event>,
}

/// The same request that reached us twice by different paths has these in common (RFC 3261 §8.2.2.2).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MergeKey {
    call_id: ByteStr,
    from_tag: Option<ByteStr>,
    cseq: u32,
}

/// All indexes.
#[derive(Debug, Default)]
pub struct Index {
    dialogs: DashMap<DialogKey, CallHandle>,
    invites: DashMap<TransactionKey, CallHandle>,
    merges: DashMap<MergeKey, ()>,
}

/// Removes a call's keys when its task ends, however it ends.
pub(super) struct KeyGuard {
    index: Arc<Index>,
    dialogs: Vec<DialogKey>,
    /// Of the INVITE that made the call; `None` when we made it.
    invite: Option<(TransactionKey, MergeKey)>,
}

impl KeyGuard {
    pub(super) fn add_dialog(&mut self, key: DialogKey, handle: &CallHandle) {
        self.index.dialogs.insert(key.clone(), handle.clone());
        self.dialogs.push(key);
    }
}

impl Drop for KeyGuard {
    fn drop(&mut self) {
        for key in &self.dialogs {
            self.index.dialogs.remove(key);
        }
        if let Some((invite, merge)) = &self.invite {
            self.index.invites.remove(invite);
            self.index.merges.remove(merge);
        }
    }
}

impl Index {
    pub(super) fn add_invite(self: &Arc<Self>, invite: &Request, handle: &CallHandle) -> KeyGuard {
        let (key, merge) = (TransactionKey::of_invite(invite), merge_key(invite));
        self.invites.insert(key.clone(), handle.clone());
        self.merges.insert(merge.clone(), ());
        KeyGuard { index: Arc::clone(self), dialogs: Vec::new(), invite: Some((key, merge)) }
    }

    /// For a call that no INVITE made.
    pub(super) fn initiated(self: &Arc<Self>) -> KeyGuard {
        KeyGuard { index: Arc::clone(self), dialogs: Vec::new(), invite: None }
    }

    /// Keys of calls in all indexes, for the check that nothing is left behind.
    #[must_use]
    pub fn len(&self) -> usize {
        self.dialogs.len() + self.invites.len() + self.merges.len()
    }

    /// True when no call is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn dialog(&self, key: Option<DialogKey>) -> Option<CallHandle> {
        self.dialogs.get(&key?).map(|entry| entry.value().clone())
    }

    fn invite(&self, key: &TransactionKey) -> Option<CallHandle> {
        self.invites.get(key).map(|entry| entry.value().clone())
    }
}

fn merge_key(invite: &Request) -> MergeKey {
    MergeKey {
        call_id: invite.head.call_id.clone(),
        from_tag: invite.head.from.tag().cloned(),
        cseq: invite.head.cseq.number,
    }
}

/// Who sent a message: the trunk that it may call in as, if any. A gateway that is in no access list may answer
/// us and speak inside its dialogs, but not call.
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    trunk: Option<TrunkId>,
}

/// Takes what the transports received.
pub struct Dispatcher {
    shell: Weak<Shell>,
    index: Arc<Index>,
    /// Makes the To tags of stateless answers the same for a repeated request (RFC 3261 §8.2.7) and unguessable.
    secret: [u8; 32],
    /// Asks those who call in by a trunk that challenges, and judges what they say.
    guard: Mutex<Guard>,
}

impl Dispatcher {
    /// For `shell`, which owns the transports that call this.
    #[must_use]
    pub fn new(shell: &Weak<Shell>, index: Arc<Index>, secret: [u8; 32]) -> Self {
        let guard = Mutex::new(Guard::new(&secret, clock::now()));
        Self { shell: Weak::clone(shell), index, secret, guard }
    }

    fn route(&self, shell: &Arc<Shell>, message: Message, flow: Flow, peer: Peer) {
        let known = match &message {
            // RFC 3261 §8.1.3.3: a response with more Vias than our own one was not meant for us.
            Message::Response(response) if response.is_misrouted() => None,
            Message::Response(response) => self.index.dialog(DialogKey::of_response(response)),
            Message::Request(request) if request.method == Method::CANCEL => {
                self.index.invite(&TransactionKey::of_invite(request))
            }
            Message::Request(request) => match DialogKey::of_request(request) {
                Some(key) => self.index.dialog(Some(key)),
                // The same INVITE again, or the ACK of a peer that takes no tags.
                None if request.method == Method::INVITE || request.method == Method::ACK => {
                    self.index.invite(&TransactionKey::of_invite(request))
                }
                None => None,
            },
        };
        match (known, message) {
            (Some(call), message) => {
                if call.inbox.try_send(Event::Message(Box::new((message, flow)))).is_err() {
                    // Full: a UDP peer repeats it. Gone: the call has just ended.
                    shell.counters.inbox_full.increment(1);
                }
            }
            (None, Message::Response(response)) => {
                if !shell.outside.take(response, flow) {
                    shell.counters.stray_responses.increment(1);
                }
            }
            (None, Message::Request(request)) => self.answer(shell, &request, flow, peer),
        }
    }

    /// A request of no call.
    fn answer(&self, shell: &Arc<Shell>, request: &Request, flow: Flow, peer: Peer) {
        let in_dialog = request.head.to.tag().is_some();
        let status = match &request.method {
            method if *method == Method::ACK => return,
            method if *method == Method::CANCEL => 481,
            _ if in_dialog => 481,
            method if *method == Method::INVITE => {
                let Some(trunk) = peer.trunk else {
                    shell.counters.refused_source.increment(1);
                    return;
                };
                // Before anything of it costs a call or a look-up.
                let trunk = if shell.trunks.challenges(trunk) {
                    let Some(trunk) = self.authenticate(shell, request, flow) else { return };
                    trunk
                } else {
                    trunk
                };
                if self.index.merges.contains_key(&merge_key(request)) {
                    482
                } else {
                    return self.new_call(shell, request, flow, trunk);
                }
            }
            method if *method == Method::OPTIONS => {
                if let Some(unsupported) = identity::unsupported(&request.head) {
                    return self.reply_with(shell, request, flow, 420, vec![unsupported]);
                }
                if shell.is_draining() {
                    return self.reply_with(shell, request, flow, 503, vec![HeaderOut::RetryAfter(60)]);
                }
                return self.reply_with(shell, request, flow, 200, vec![HeaderOut::Allow, HeaderOut::Accept]);
            }
            other => other.refusal(),
        };
        self.reply_with(shell, request, flow, status, Vec::new());
    }

    fn new_call(&self, shell: &Arc<Shell>, invite: &Request, flow: Flow, trunk: TrunkId) {
        match shell.admit(invite, flow, trunk, &self.index) {
            Admission::Taken => {}
            Admission::Full { retry_after } => {
                let headers = vec![HeaderOut::RetryAfter(retry_after)];
                self.reply_with(shell, invite, flow, 503, headers);
            }
            Admission::Refused(refusal) => {
                self.reply_with(shell, invite, flow, refusal.status, refusal.headers);
            }
        }
    }

    /// The trunk whose user name and password the caller knows. `None`: he was asked for them (RFC 3261 §22.2, §22.4).
    /// An ACK and a CANCEL are never asked, nor is what comes inside a dialog, whose tags nobody else knows.
    fn authenticate(&self, shell: &Arc<Shell>, invite: &Request, flow: Flow) -> Option<TrunkId> {
        let (source, now) = (flow.peer.ip(), clock::now());
        let mut guard = self.guard.lock().unwrap_or_else(PoisonError::into_inner);
        let known = |username: &str| shell.trunks.by_username(source, username);
        let (stale, given) = match guard.judge(invite, source, known, now) {
            Verdict::Accepted(trunk) => return Some(trunk),
            Verdict::Challenge { stale, given } => (stale, given),
        };
        let challenges = guard.challenges(invite, source, stale, now);
        drop(guard);
        shell.counters.challenged.increment(1);
        if given && !stale {
            shell.wrong_credentials(source);
        }
        let headers = challenges.map(|challenge| HeaderOut::WwwAuthenticate(Box::new(challenge)));
        let wire = self.reply(invite, flow, 401, headers.into());
        // Anybody may have sent it in anybody's name: nobody gets more than twice of what it cost.
        if flow.protocol != Protocol::Udp || wire.len() <= 2 * invite.size() {
            shell.send(wire, &response_hop(invite, &flow));
        }
        None
    }

    fn reply_with(
        &self,
        shell: &Arc<Shell>,
        request: &Request,
        flow: Flow,
        status: u16,
        headers: Vec<HeaderOut>,
    ) {
        shell.send(self.reply(request, flow, status, headers), &response_hop(request, &flow));
    }

    fn reply(&self, request: &Request, flow: Flow, status: u16, headers: Vec<HeaderOut>) -> Bytes {
        let tag = self.stateless_tag(request);
        let mut response: ResponseOut =
            identity::response(&request.response_head(flow.peer), status, Some(&tag));
        response.headers.extend(headers);
        response.encode()
    }

    fn stateless_tag(&self, request: &Request) -> String {
        let mut hash = Sha256::new();
        hash.update(self.secret);
        hash.update(request.head.call_id.as_bytes());
        hash.update([0]);
        hash.update(request.head.via.branch.as_deref().unwrap_or_default().as_bytes());
        let digest = hash.finalize();
        data_encoding::HEXLOWER.encode(digest.get(..16).unwrap_or_default())
    }
}

impl Handler for Dispatcher {
    type Peer = Peer;

    fn admit(&self, source: IpAddr) -> Option<Peer> {
        let shell = self.shell.upgrade()?;
        let trunk = shell.trunks.by_source(source);
        let is_known = || shell.trunks.admits(source) || shell.gateways.has_address(source);
        (trunk.is_some() || is_known()).then_some(Peer { trunk })
    }

    fn on_message(&self, message: Message, flow: Flow, peer: Peer) {
        if let Some(shell) = self.shell.upgrade() {
            self.route(&shell, message, flow, peer);
        }
    }

    fn on_malformed(&self, error: ParseError, flow: Flow, _peer: Peer) {
        let Some(shell) = self.shell.upgrade() else { return };
        if let Some(answer) = error.answer() {
            let tag = IdSource::from_system().tag();
            shell.send_to(answer.response(flow.peer, tag).encode(), &flow.back());
        }
    }

    fn on_send_failed(&self, token: SendToken, why: SendFault) {
        if let Some(call) = self.index.dialog(Some(token.dialog.clone())) {
            // A full inbox loses nothing: the transaction's own timer ends it.
            let _ = call.inbox.try_send(Event::SendFailed(token.branch, why));
        } else if let Some(shell) = self.shell.upgrade() {
            shell.outside.not_sent(&token, why);
        }
    }
}

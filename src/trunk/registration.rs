//! Registration with a carrier (RFC 3261 §10): its registrar is told where we are, and told again before it forgets.
//!
//! ```text
//!            ┌─────────┐  time   ┌──────────┐ place known ┌────────┐ 2xx: until the refresh
//!   start ──►│ Waiting ├───────► │ Locating ├───────────► │ Asking ├───────────────────────┐
//!            └─▲─────▲─┘         └────┬─────┘             └─┬─▲──┬─┘                       │
//!              │     └── no place ────┘                     │ └──┘ 401, 407, 423: again   │
//!              └───────────── refused, no answer ───────────┴─────────────────────────────┘
//! ```
//!
//! Pure: it builds REGISTERs and reads their responses; whoever owns it sends, looks names up and keeps time. Each
//! failure goes to the next gateway, after a wait that doubles (RFC 5626 §4.5). It never takes a response from
//! elsewhere than where the request went, and never gives its credentials to a second realm.

use crate::ids::IdSource;
use crate::sip::address::NameAddr;
use crate::sip::digest::{Client, Credentials, Unanswered};
use crate::sip::encode::{AddressOut, HeaderOut, RequestOut, ViaOut};
use crate::sip::key::DialogKey;
use crate::sip::message::{Head, Method, Response};
use crate::sip::transaction::{NonInviteClient, non_invite_client};
use crate::sip::wire::ByteStr;
use bytes::Bytes;
use std::fmt::Write;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What we ask for; the registrar may say less.
const EXPIRES: u32 = 3600;
/// The most that a registrar may make us ask for, and that we believe.
const MAX_EXPIRES: u32 = 86_400;
/// The shortest time between two refreshes, whatever the registrar says.
const LEAST_REFRESH: Duration = Duration::from_secs(10);
/// The first wait after a failure; doubled each time.
const FIRST_WAIT: Duration = Duration::from_secs(5);
/// The longest one, and that after a refusal which the next try will hardly change.
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// The longest that a Retry-After may put us off.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);
/// The place of a gateway is known within this time.
const LOCATE: Duration = Duration::from_secs(10);

/// Where a registrar is, and what we show of us there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    /// `HOST[:PORT]`, an IPv6 address in brackets.
    pub registrar: String,
    /// Its address: nobody else's responses count.
    pub address: IpAddr,
    /// `UDP`, `TCP` or `TLS`.
    pub transport: &'static str,
    /// Whether the transport repeats by itself.
    pub reliable: bool,
    /// Our host and port, as Via shows them.
    pub sent_by: String,
    /// Our Contact URI, whose user is [`super::Trunk::registered_user`].
    pub contact: String,
}

/// Why we are not registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The gateway's name leads nowhere.
    #[error("the gateway's address cannot be found")]
    NoAddress,
    /// Nothing came back.
    #[error("the gateway does not answer")]
    NoAnswer,
    /// The transport could not send.
    #[error("the gateway cannot be reached")]
    NotSent,
    /// A final response that is no success.
    #[error("the gateway refuses with {0}")]
    Refused(u16),
    /// The challenge was not answered, or not to its content.
    #[error("the gateway asks for user name and password: {0}")]
    Unauthorized(Unanswered),
    /// A success that says nothing of our Contact.
    #[error("the gateway says yes, but does not list our Contact")]
    NotBound,
    /// It wants a longer interval than anybody should.
    #[error("the gateway asks for an interval of more than a day")]
    IntervalTooLong,
}

/// What happens to the registration.
#[derive(Debug)]
pub enum Event<'a> {
    /// What [`Action::Locate`] asked for; `None`: there is no such place.
    Located(Option<Box<Way>>),
    /// A response to one of its requests, and who sent it.
    Response(&'a Response, IpAddr),
    /// The request with this branch could not be sent.
    NotSent(&'a str),
    /// We go: the registrar is told so.
    Stop,
    /// [`Registration::deadline`] has been reached.
    Timeout,
}

/// What must be done, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Find the place of the gateway with this number, counted over all of them again and again.
    Locate(usize),
    /// Send to the place that was found last.
    Send {
        /// Encoded.
        wire: Bytes,
        /// Its branch, by which a failure is told.
        branch: String,
    },
    /// We are registered for so long.
    Registered(Duration),
    /// It did not work; the next try comes after so long.
    Failed(Failure, Duration),
    /// The registrar has forgotten us.
    Lost,
    /// The registrar knows that we are gone, or need not know. Always the last action.
    Over,
}

/// Each state owns the timers that it has.
#[derive(Debug)]
enum State {
    Waiting { until: Instant },
    Locating { until: Instant },
    Asking(Box<Asking>),
    Over,
}

#[derive(Debug)]
struct Asking {
    request: RequestOut,
    machine: NonInviteClient,
    /// Challenges of this request that were answered.
    answered: u8,
    /// The interval was raised for it already.
    raised: bool,
    /// It takes our Contact back.
    removing: bool,
}

/// One trunk's registration.
#[derive(Debug)]
pub struct Registration {
    user: String,
    contact_user: String,
    client: Client,
    ids: IdSource,
    call_id: String,
    tag: String,
    cseq: u32,
    expires: u32,
    gateway: usize,
    failures: u32,
    /// Where the last request went.
    way: Option<Box<Way>>,
    bound_until: Option<Instant>,
    state: State,
}

impl Registration {
    /// To be woken at once. `contact_user` is [`super::Trunk::registered_user`].
    #[must_use]
    pub fn new(
        credentials: &Arc<Credentials>,
        contact_user: String,
        mut ids: IdSource,
        now: Instant,
    ) -> Self {
        Self {
            user: credentials.username.clone(),
            contact_user,
            client: Client::new(Arc::clone(credentials)),
            // RFC 3261 §10.2: all of one client have the same Call-ID and a CSeq that grows.
            call_id: ids.call_id(),
            tag: ids.tag(),
            cseq: ids.cseq(),
            ids,
            expires: EXPIRES,
            gateway: 0,
            failures: 0,
            way: None,
            bound_until: None,
            state: State::Waiting { until: now },
        }
    }

    /// What finds its responses.
    #[must_use]
    pub fn dialog_key(&self) -> DialogKey {
        DialogKey {
            call_id: ByteStr::from(self.call_id.as_str()),
            local_tag: ByteStr::from(self.tag.as_str()),
        }
    }

    /// True when nothing more will happen.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.state, State::Over)
    }

    /// When [`Event::Timeout`] is due.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let state = match &self.state {
            State::Waiting { until } | State::Locating { until } => Some(*until),
            State::Asking(asking) => asking.machine.deadline(),
            State::Over => return None,
        };
        state.into_iter().chain(self.bound_until).min()
    }

    /// Takes one event and returns what must be done, in order.
    #[must_use]
    pub fn handle(&mut self, event: Event<'_>, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Located(way) => self.on_located(way, &mut actions, now),
            Event::Response(response, source) => self.on_response(response, source, &mut actions, now),
            Event::NotSent(branch) => {
                if matches!(&self.state, State::Asking(asking) if asking.request.via.branch == branch) {
                    self.fail(Failure::NotSent, None, &mut actions, now);
                }
            }
            Event::Stop => self.stop(&mut actions, now),
            Event::Timeout => {
                self.on_timeout(&mut actions, now);
                assert!(self.deadline().is_none_or(|at| at > now), "a fired timer must move on");
            }
        }
        actions
    }

    fn on_located(&mut self, way: Option<Box<Way>>, actions: &mut Vec<Action>, now: Instant) {
        if !matches!(self.state, State::Locating { .. }) {
            return;
        }
        self.way = way;
        if self.way.is_none() {
            return self.fail(Failure::NoAddress, None, actions, now);
        }
        self.ask(false, actions, now);
    }

    /// Sends a REGISTER by the way that is known.
    fn ask(&mut self, removing: bool, actions: &mut Vec<Action>, now: Instant) {
        let Some(way) = &self.way else { return };
        self.cseq = self.cseq.saturating_add(1);
        let address = address_of_record(&self.user, &way.registrar);
        let mut request = RequestOut {
            method: Method::REGISTER,
            // RFC 3261 §10.2: the registrar's domain, without a user.
            uri: format!("sip:{}", way.registrar),
            via: ViaOut { transport: way.transport, sent_by: way.sent_by.clone(), branch: self.ids.branch() },
            max_forwards: 70,
            from: AddressOut { uri: address.clone(), tag: Some(self.tag.clone()) },
            to: AddressOut { uri: address, tag: None },
            call_id: self.call_id.clone(),
            cseq: self.cseq,
            contact: Some(way.contact.clone()),
            routes: Vec::new(),
            // RFC 3261 §10.2.2: an interval of 0 takes the Contact back.
            headers: vec![HeaderOut::Expires(if removing { 0 } else { self.expires }), HeaderOut::Allow],
            body: None,
        };
        self.client.authorize(&mut request, &self.ids.tag());
        self.send(request, (0, false, removing), actions, now);
    }

    fn send(
        &mut self,
        request: RequestOut,
        (answered, raised, removing): (u8, bool, bool),
        actions: &mut Vec<Action>,
        now: Instant,
    ) {
        let reliable = self.way.as_ref().is_some_and(|way| way.reliable);
        let (machine, first) = NonInviteClient::start(request.encode(), reliable, now);
        let branch = request.via.branch.clone();
        sends(first, &branch, actions);
        self.state = State::Asking(Box::new(Asking { request, machine, answered, raised, removing }));
    }

    fn on_response(&mut self, response: &Response, source: IpAddr, actions: &mut Vec<Action>, now: Instant) {
        let State::Asking(asking) = &mut self.state else { return };
        let head = &response.head;
        let ours = head.via.branch.as_deref() == Some(&asking.request.via.branch)
            && head.cseq.number == asking.request.cseq
            && head.cseq.method == Method::REGISTER;
        let from_there =
            self.way.as_ref().is_some_and(|way| way.address.to_canonical() == source.to_canonical());
        if !ours || !from_there {
            return;
        }
        let steps = asking.machine.handle(non_invite_client::Event::Response(response.status), now);
        let delivered = steps.iter().any(|step| matches!(step, non_invite_client::Action::Deliver(200..)));
        if delivered {
            self.on_final(response, actions, now);
        }
    }

    fn on_final(&mut self, response: &Response, actions: &mut Vec<Action>, now: Instant) {
        let State::Asking(asking) = &mut self.state else { return };
        let removing = asking.removing;
        match response.status {
            200..=299 if removing => self.finish(actions),
            200..=299 => match self.granted(&response.head) {
                Some(seconds) => self.registered(seconds, actions, now),
                None => self.fail(Failure::NotBound, None, actions, now),
            },
            401 | 407 => {
                let (mut request, answered) = (asking.request.clone(), asking.answered);
                let raised = asking.raised;
                match self.client.answer(&mut request, response, answered, &self.ids.tag()) {
                    Ok(()) => {
                        self.cseq = self.cseq.saturating_add(1);
                        request.cseq = self.cseq;
                        request.via.branch = self.ids.branch();
                        self.send(request, (answered.saturating_add(1), raised, removing), actions, now);
                    }
                    Err(why) => self.fail(Failure::Unauthorized(why), None, actions, now),
                }
            }
            // RFC 3261 §10.2.8: the registrar wants a longer interval.
            423 if !asking.raised && !removing => {
                let least = seconds(response.head.header("Min-Expires").as_deref());
                let Some(least) = least.filter(|least| *least <= MAX_EXPIRES) else {
                    return self.fail(Failure::IntervalTooLong, None, actions, now);
                };
                self.expires = self.expires.max(least);
                self.ask(false, actions, now);
                if let State::Asking(asking) = &mut self.state {
                    asking.raised = true;
                }
            }
            status => {
                let retry_after = seconds(response.head.header("Retry-After").as_deref());
                self.fail(Failure::Refused(status), retry_after, actions, now);
            }
        }
    }

    /// For how long a 2xx says that our Contact is known (RFC 3261 §10.2.4); `None`: it is not.
    fn granted(&self, head: &Head) -> Option<u32> {
        let listed: Vec<_> = head
            .tokens("Contact")
            .iter()
            .filter_map(|value| NameAddr::parse(&ByteStr::from(value.as_str())))
            .collect();
        // A NAT in between, or the registrar, may have written another host.
        let own =
            listed.iter().find(|contact| contact.uri.user().is_some_and(|user| *user == *self.contact_user));
        let granted = match own {
            Some(contact) => contact.param("expires").and_then(|value| seconds(Some(&value))),
            // Some registrars list nothing at all.
            None if listed.is_empty() => None,
            None => return None,
        };
        let granted = granted.or_else(|| seconds(head.header("Expires").as_deref())).unwrap_or(self.expires);
        (granted > 0).then_some(granted.min(MAX_EXPIRES))
    }

    fn registered(&mut self, seconds: u32, actions: &mut Vec<Action>, now: Instant) {
        let granted = Duration::from_secs(seconds.into());
        self.failures = 0;
        self.bound_until = Some(now + granted);
        // Early enough that a failed refresh can be tried again; a little at random, so that trunks that were
        // registered together do not stay together.
        let early = granted / 5 * (1000 + self.ids.cseq() % 250) / 1000;
        self.state = State::Waiting { until: now + (granted - early).max(LEAST_REFRESH) };
        actions.push(Action::Registered(granted));
    }

    fn fail(&mut self, failure: Failure, retry_after: Option<u32>, actions: &mut Vec<Action>, now: Instant) {
        if matches!(&self.state, State::Asking(asking) if asking.removing) {
            return self.finish(actions);
        }
        let hopeless = matches!(
            failure,
            Failure::Refused(400 | 403 | 404 | 405 | 501)
                | Failure::Unauthorized(_)
                | Failure::IntervalTooLong
        );
        let doubled = FIRST_WAIT * 2_u32.saturating_pow(self.failures.min(10));
        let wait = if hopeless { LONGEST_WAIT } else { doubled.min(LONGEST_WAIT) };
        // RFC 5626 §4.5: a random time between half of it and all.
        let wait = wait * (500 + self.ids.cseq() % 501) / 1000;
        let asked = retry_after.map_or(Duration::ZERO, |seconds| Duration::from_secs(seconds.into()));
        let wait = wait.max(asked.min(MAX_RETRY_AFTER));
        self.failures = self.failures.saturating_add(1);
        self.gateway = self.gateway.wrapping_add(1);
        self.state = State::Waiting { until: now + wait };
        actions.push(Action::Failed(failure, wait));
    }

    fn on_timeout(&mut self, actions: &mut Vec<Action>, now: Instant) {
        if self.bound_until.is_some_and(|until| until <= now) {
            self.bound_until = None;
            actions.push(Action::Lost);
        }
        match &mut self.state {
            State::Waiting { until } if *until <= now => {
                self.state = State::Locating { until: now + LOCATE };
                actions.push(Action::Locate(self.gateway));
            }
            State::Locating { until } if *until <= now => {
                self.fail(Failure::NoAddress, None, actions, now);
            }
            State::Asking(asking) if asking.machine.deadline().is_some_and(|at| at <= now) => {
                let steps = asking.machine.handle(non_invite_client::Event::Timeout, now);
                let timed_out = steps.contains(&non_invite_client::Action::TimedOut);
                let branch = asking.request.via.branch.clone();
                sends(steps, &branch, actions);
                if timed_out {
                    self.fail(Failure::NoAnswer, None, actions, now);
                }
            }
            _ => {}
        }
    }

    /// What the registrar may know of us is taken back, by the way that it was told (RFC 3261 §10.2.2).
    fn stop(&mut self, actions: &mut Vec<Action>, now: Instant) {
        let asking = match &self.state {
            State::Over => return,
            State::Asking(asking) if asking.removing => return,
            State::Asking(_) => true,
            _ => false,
        };
        if self.way.is_none() || !(asking || self.bound_until.is_some()) {
            return self.finish(actions);
        }
        self.ask(true, actions, now);
    }

    fn finish(&mut self, actions: &mut Vec<Action>) {
        self.state = State::Over;
        self.bound_until = None;
        actions.push(Action::Over);
    }
}

fn sends(steps: Vec<non_invite_client::Action>, branch: &str, actions: &mut Vec<Action>) {
    for step in steps {
        if let non_invite_client::Action::Send(wire) = step {
            actions.push(Action::Send { wire, branch: branch.to_owned() });
        }
    }
}

/// A number of seconds at the beginning of a value (RFC 3261 §20.19, §20.23, §20.33).
fn seconds(value: Option<&str>) -> Option<u32> {
    let value = value?.trim_start();
    let digits = value.split(|c: char| !c.is_ascii_digit()).next()?;
    // RFC 3261 §20.19: up to 2^32 - 1; more digits mean a long time as well.
    (!digits.is_empty()).then(|| digits.parse().unwrap_or(u32::MAX))
}

/// The user at the registrar's domain; a user name that has a domain already keeps it.
fn address_of_record(user: &str, registrar: &str) -> String {
    let (user, domain) = match user.rsplit_once('@') {
        Some((user, domain)) => (user, domain),
        None => {
            // The port belongs to the Request-URI only.
            let end = registrar.rfind(']').unwrap_or(0);
            let colon = registrar.get(end..).and_then(|rest| rest.find(':')).map(|at| at + end);
            (user, colon.and_then(|at| registrar.get(..at)).unwrap_or(registrar))
        }
    };
    let mut uri = String::from("sip:");
    for byte in user.bytes() {
        // RFC 3261 §25.1: unreserved and user-unreserved; everything else is escaped.
        if byte.is_ascii_alphanumeric() || b"-_.!~*'()&=+$,;?/".contains(&byte) {
            uri.push(char::from(byte));
        } else {
            // Writing into a String cannot fail.
            let _ = write!(uri, "%{byte:02X}");
        }
    }
    uri + "@" + domain
}

#[cfg(test)]
mod tests;

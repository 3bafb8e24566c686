//! Which calls there are and may be: admission limits, spawning, listing, draining; and what every call's shell shares.

use super::cdr::{ClockPair, HangupCause};
use super::dispatch::{CallHandle, Index, KeyGuard};
use super::identity::LegAddress;
use super::leg::Refusal;
use super::machine::{CallParameters, MAX_ATTEMPTS};
use super::shares::{Place as SharePlace, Shares};
use super::task::CallTask;
use super::{Action, Call, Event, Found, Hop, Outlet, Place, StoreFailed};
use crate::clock;
use crate::ids::IdSource;
use crate::masking::guessing::Bucket;
use crate::masking::route::Query;
use crate::masking::session::MaskingSession;
use crate::number::{Did, E164};
use crate::prompts::PromptLibrary;
use crate::recording::{Recordings, manifest};
use crate::sip::digest::Unanswered;
use crate::sip::message::Request;
use crate::sip::outside::Outside;
use crate::sip::transport::{Destination, Flow, Protocol, Transports, local_address_towards};
use crate::store::{Cdr, Route, Store, StoreError, Verdict};
use crate::trunk::gateways::{self, Gateways};
use crate::trunk::registration::Way;
use crate::trunk::{RateLimit, Transport, Trunk, TrunkId, Trunks};
use bytes::Bytes;
use dashmap::DashMap;
use media::RecordingReport;
use media::engine::Engine;
use metrics::{Counter, Gauge};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::{Instrument, info, info_span, warn};
use uuid::Uuid;

/// Events waiting for one call; more are dropped, and a UDP peer repeats them.
const INBOX: usize = 64;
/// Name look-ups of a URI that a peer or a number's configuration names.
const RESOLVE: Duration = Duration::from_secs(2);
/// Seconds after which a caller may try again when we are full.
const RETRY_AFTER_FULL: u32 = 10;
/// The same when we are draining: this node takes no call any more.
const RETRY_AFTER_DRAINING: u32 = 60;
/// An INVITE that would have to wait for longer, because its trunk takes only so many per second, fails.
const LONGEST_QUEUE: Duration = Duration::from_secs(1);
/// One complaint of a kind is logged in this time; the rest is counted.
const COMPLAINT_PAUSE: Duration = Duration::from_secs(10);

/// Limits of the whole service.
#[derive(Debug, Clone, Copy)]
pub struct CallLimits {
    /// Live calls at one time.
    pub max_calls: usize,
    /// New calls per second.
    pub max_calls_per_second: u32,
}

/// Everything that the calls share.
pub struct Shell {
    /// Sessions, CDRs.
    pub store: Store,
    /// The media plane.
    pub engine: Engine,
    /// The carriers.
    pub trunks: Trunks,
    /// Where their gateways are, and which take calls.
    pub gateways: Arc<Gateways>,
    /// Requests of ours that belong to no call.
    pub outside: Outside,
    /// What callers hear.
    pub prompts: PromptLibrary,
    /// `recordings.directory`.
    pub recordings: PathBuf,
    /// Where finished recordings go.
    pub filing: Recordings,
    /// Counters, with kept handles.
    pub counters: Counters,
    /// When the service started; the beat of [`super::task`]'s lingering timers.
    pub started: Instant,
    /// Bugs that a test has ordered.
    #[cfg(debug_assertions)]
    pub faults: super::fault::Faults,
    shared_trunks: Vec<Arc<Trunk>>,
    transports: OnceLock<Transports>,
    sip_public: Option<IpAddr>,
    media_public: Option<IpAddr>,
    limits: CallLimits,
    live: AtomicUsize,
    shares: Mutex<Shares>,
    trunk_load: Vec<TrunkLoad>,
    draining: AtomicBool,
    calls: DashMap<Uuid, (CallHandle, Option<Uuid>)>,
    /// Calls whose record is not stored yet.
    unsettled: AtomicUsize,
    tasks: Mutex<JoinSet<()>>,
    complaints: Mutex<BTreeMap<&'static str, Instant>>,
}

struct TrunkLoad {
    live: AtomicUsize,
    /// Of calls that come in.
    rate: Option<Mutex<RateLimit>>,
    /// Of INVITEs that leave.
    pace: Option<Mutex<RateLimit>>,
}

/// Handles of the call counters, see `/metrics`.
pub struct Counters {
    /// INVITEs that became calls.
    pub calls: Counter,
    /// Calls answered on both legs.
    pub bridged: Counter,
    /// Calls refused because we are full or draining.
    pub full: Counter,
    /// Calls that an error of ours ended.
    pub internal_errors: Counter,
    /// Calls that got no media ports.
    pub no_media: Counter,
    /// INVITEs from where nobody may call in.
    pub refused_source: Counter,
    /// INVITEs whose caller was asked for user name and password.
    pub challenged: Counter,
    /// INVITEs with a wrong one.
    pub wrong_credentials: Counter,
    /// Responses of no call.
    pub stray_responses: Counter,
    /// Messages dropped because their call was busy.
    pub inbox_full: Counter,
    /// PINs that were not judged because there were too many wrong ones.
    pub pin_locked: Counter,
    /// Calls now.
    pub live: Gauge,
    /// Tasks of calls now, lingering ones included.
    pub tasks: Gauge,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            calls: metrics::counter!("maskline_calls_total"),
            bridged: metrics::counter!("maskline_calls_bridged_total"),
            full: metrics::counter!("maskline_calls_refused_full_total"),
            internal_errors: metrics::counter!("maskline_internal_errors_total"),
            no_media: metrics::counter!("maskline_calls_without_port_total"),
            refused_source: metrics::counter!("maskline_sip_invites_refused_source_total"),
            challenged: metrics::counter!("maskline_sip_invites_challenged_total"),
            wrong_credentials: metrics::counter!("maskline_sip_invites_wrong_credentials_total"),
            stray_responses: metrics::counter!("maskline_sip_stray_responses_total"),
            inbox_full: metrics::counter!("maskline_sip_inbox_full_total"),
            pin_locked: metrics::counter!("maskline_pin_locked_total"),
            live: metrics::gauge!("maskline_calls"),
            tasks: metrics::gauge!("maskline_call_tasks"),
        }
    }
}

/// What became of a new INVITE.
pub(super) enum Admission {
    /// It is a call now.
    Taken,
    /// 503.
    Full { retry_after: u32 },
    /// Its own fault.
    Refused(Refusal),
}

/// One of the calls that may be live; dropping it makes room.
pub(super) struct Permit {
    shell: Arc<Shell>,
    trunk: usize,
    /// Whose call it is, while it is not set up.
    half_open: Option<SharePlace>,
}

impl Permit {
    pub(super) fn is_half_open(&self) -> bool {
        self.half_open.is_some()
    }

    /// The call is answered and acknowledged.
    pub(super) fn set_up(&mut self) {
        if let Some(place) = self.half_open.take() {
            self.shell.shares.lock().unwrap_or_else(PoisonError::into_inner).set_up(place);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.set_up();
        let live = self.shell.live.fetch_sub(1, Ordering::AcqRel).saturating_sub(1);
        self.shell.counters.live.set(live as f64);
        if let Some(load) = self.shell.trunk_load.get(self.trunk) {
            load.live.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

/// A call whose record is still to be stored.
pub(super) struct Unsettled(Arc<Shell>);

impl Unsettled {
    fn new(shell: &Arc<Shell>) -> Self {
        shell.unsettled.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(shell))
    }
}

impl Drop for Unsettled {
    fn drop(&mut self) {
        self.0.unsettled.fetch_sub(1, Ordering::AcqRel);
    }
}

/// What a shell is made of.
pub struct ShellParts {
    /// Sessions, CDRs.
    pub store: Store,
    /// The media plane.
    pub engine: Engine,
    /// The carriers.
    pub trunks: Trunks,
    /// What callers hear.
    pub prompts: PromptLibrary,
    /// `recordings.directory`.
    pub recordings: PathBuf,
    /// Where finished recordings go.
    pub filing: Recordings,
    /// `sip.public_address`.
    pub sip_public: Option<IpAddr>,
    /// `media.public_address`.
    pub media_public: Option<IpAddr>,
    /// Limits.
    pub limits: CallLimits,
}

impl Shell {
    /// Without transports yet: they need a handler, which needs the shell.
    #[must_use]
    pub fn new(parts: ShellParts) -> Self {
        let shared_trunks = parts.trunks.iter().map(|(_, trunk)| Arc::new(trunk.clone())).collect();
        let trunk_load = parts
            .trunks
            .iter()
            .map(|(_, trunk)| TrunkLoad {
                live: AtomicUsize::new(0),
                rate: trunk.max_calls_per_second.map(|rate| Mutex::new(RateLimit::per_second(rate))),
                pace: trunk.max_calls_per_second.map(|rate| Mutex::new(RateLimit::per_second(rate))),
            })
            .collect();
        Self {
            store: parts.store,
            engine: parts.engine,
            gateways: Arc::new(Gateways::new(&parts.trunks)),
            outside: Outside::default(),
            trunks: parts.trunks,
            prompts: parts.prompts,
            recordings: parts.recordings,
            filing: parts.filing,
            counters: Counters::default(),
            started: clock::now(),
            #[cfg(debug_assertions)]
            faults: super::fault::Faults::default(),
            shared_trunks,
            transports: OnceLock::new(),
            sip_public: parts.sip_public,
            media_public: parts.media_public,
            limits: parts.limits,
            live: AtomicUsize::new(0),
            shares: Mutex::new(Shares::new(parts.limits.max_calls, parts.limits.max_calls_per_second)),
            trunk_load,
            draining: AtomicBool::new(false),
            calls: DashMap::new(),
            unsettled: AtomicUsize::new(0),
            tasks: Mutex::new(JoinSet::new()),
            complaints: Mutex::new(BTreeMap::new()),
        }
    }

    /// The transports, once they are bound.
    pub fn set_transports(&self, transports: Transports) {
        // Set twice it would keep the first; it is called once, at the start.
        let _ = self.transports.set(transports);
    }

    /// Takes no new call from now on.
    pub fn start_draining(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// New calls are refused.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Live calls now.
    #[must_use]
    pub fn live_calls(&self) -> usize {
        self.live.load(Ordering::Acquire)
    }

    /// Tasks of calls, live and lingering.
    #[must_use]
    pub fn call_tasks(&self) -> usize {
        self.calls.len()
    }

    /// Calls whose record is not stored yet.
    #[must_use]
    pub fn unsettled_calls(&self) -> usize {
        self.unsettled.load(Ordering::Acquire)
    }

    /// Ends every live call.
    pub fn hang_up_all(&self, cause: HangupCause) {
        for call in self.calls.iter() {
            let _ = call.value().0.inbox.try_send(Event::HangUp(cause));
        }
    }

    /// Ends the live calls of one masking session. Returns how many there were.
    pub fn hang_up_session(&self, session: Uuid) -> usize {
        self.calls
            .iter()
            .filter(|call| call.value().1 == Some(session))
            .filter(|call| call.value().0.inbox.try_send(Event::HangUp(HangupCause::Scheduled)).is_ok())
            .count()
    }

    /// Ends one live call. False when there is none of that uuid in this process.
    pub fn hang_up_call(&self, interaction: Uuid) -> bool {
        let call = self.calls.get(&interaction).map(|call| call.value().0.clone());
        call.is_some_and(|call| call.inbox.try_send(Event::HangUp(HangupCause::Scheduled)).is_ok())
    }

    /// Checks the limits and makes a call of an INVITE.
    pub(super) fn admit(
        self: &Arc<Self>,
        invite: &Request,
        flow: Flow,
        trunk: TrunkId,
        index: &Arc<Index>,
    ) -> Admission {
        let now = clock::now();
        if self.is_draining() {
            self.counters.full.increment(1);
            return Admission::Full { retry_after: RETRY_AFTER_DRAINING };
        }
        let Some(permit) = self.permit(trunk, Some(flow.peer.ip()), now) else {
            self.counters.full.increment(1);
            return Admission::Full { retry_after: RETRY_AFTER_FULL };
        };
        let Some(profile) = self.shared_trunks.get(trunk.index()).cloned() else {
            return Admission::Refused(Refusal::from(500));
        };
        let mut ids = IdSource::from_system();
        let Some(address) = self.leg_address(flow.protocol, flow.peer.ip(), Some(flow.local), &mut ids)
        else {
            return Admission::Refused(Refusal::from(500));
        };
        let parameters = self.parameters(profile, ids, now);
        let (call, actions) = match Call::offered(invite, &flow, address, parameters, now) {
            Ok(made) => made,
            Err(refusal) => return Admission::Refused(refusal),
        };
        self.start(call, actions, permit, |handle| index.add_invite(invite, handle));
        Admission::Taken
    }

    fn parameters(&self, trunk: Arc<Trunk>, ids: IdSource, now: Instant) -> CallParameters {
        CallParameters {
            trunk,
            ids,
            prompts: self.prompts.clone(),
            clock: ClockPair { instant: now, wall: clock::wall_now() },
            recordings: self.recordings.clone(),
        }
    }

    /// Calls the first party of a session and then connects the second one. Does not wait for any of it. A process
    /// that ends before the first INVITE has left nothing: such a call is not made again.
    pub fn initiate(self: &Arc<Self>, session: MaskingSession, index: &Arc<Index>) {
        let (shell, index) = (Arc::clone(self), Arc::clone(index));
        let placing = async move { shell.place(&Arc::new(session), &index).await };
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).spawn(placing);
    }

    async fn place(self: Arc<Self>, session: &Arc<MaskingSession>, index: &Arc<Index>) {
        let (dialled, caller) = (session.virtual_number.clone(), session.first_party.clone());
        let Ok(found) = self.find(&Query { dialled, caller }).await else { return };
        // It may have been ended in the meantime; and without a number there is no trunk.
        let Some(route) = found.route else { return };
        let Some(trunk) = self.trunks.id(&route.number.trunk) else { return };
        let Some(profile) = self.shared_trunks.get(trunk.index()).cloned() else { return };
        if !route.sessions.iter().any(|found| found.uuid == session.uuid) {
            return;
        }
        let now = clock::now();
        let permit = if self.is_draining() { None } else { self.permit(trunk, None, now) };
        let parameters = self.parameters(profile, IdSource::from_system(), now);
        let (mut call, mut actions) = Call::initiated(session, found.outlets, parameters, now);
        let Some(permit) = permit else {
            self.counters.full.increment(1);
            actions.extend(call.handle(Event::HangUp(HangupCause::Congestion), now));
            for action in actions {
                if let Action::CloseCall(cdr) = action {
                    self.close_call(*cdr).await;
                }
            }
            return;
        };
        self.start(call, actions, permit, |_| index.initiated());
    }

    fn start(
        self: &Arc<Self>,
        call: Call,
        actions: Vec<Action>,
        permit: Permit,
        keys: impl FnOnce(&CallHandle) -> KeyGuard,
    ) {
        self.counters.calls.increment(1);
        let (sender, inbox) = mpsc::channel(INBOX);
        let handle = CallHandle { id: call.interaction(), inbox: sender };
        let keys = keys(&handle);
        self.calls.insert(handle.id, (handle.clone(), None));
        let span = info_span!("call", id = %handle.id);
        self.counters.tasks.increment(1.0);
        let entry = RegistryEntry { shell: Arc::clone(self), id: handle.id };
        let task = CallTask {
            call: Box::new(call),
            handle,
            inbox,
            shell: Arc::clone(self),
            permit: Some(permit),
            unsettled: Some(Unsettled::new(self)),
            keys,
            known_session: None,
        };
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(
            async move {
                let _entry = entry;
                task.run(actions).await;
            }
            .instrument(span),
        );
    }

    /// How long an INVITE of ours waits for its turn on this trunk, in the order in which they asked; `None`: too
    /// many wait already.
    pub(super) fn pace(&self, trunk: &str) -> Option<Duration> {
        let load = self.trunks.id(trunk).and_then(|id| self.trunk_load.get(id.index()))?;
        let Some(pace) = &load.pace else { return Some(Duration::ZERO) };
        let turn = pace.lock().unwrap_or_else(PoisonError::into_inner).reserve(clock::now(), LONGEST_QUEUE);
        if turn.is_none() {
            self.counters.full.increment(1);
        }
        turn
    }

    /// Room for one more call of the trunk, made by `source` or by ourselves. The trunk's own limits come first: what
    /// they refuse must use up nothing that other trunks share.
    fn permit(self: &Arc<Self>, trunk: TrunkId, source: Option<IpAddr>, now: Instant) -> Option<Permit> {
        let below = |count: &AtomicUsize, limit: usize| {
            count
                .fetch_update(Ordering::AcqRel, Ordering::Acquire, |live| (live < limit).then_some(live + 1))
                .is_ok()
        };
        let load = self.trunk_load.get(trunk.index())?;
        let profile = self.shared_trunks.get(trunk.index())?;
        let take = |rate: &Mutex<RateLimit>| rate.lock().unwrap_or_else(PoisonError::into_inner).take(now);
        if !load.rate.as_ref().is_none_or(take) {
            return None;
        }
        let trunk_limit =
            profile.max_calls.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
        if !below(&load.live, trunk_limit) {
            return None;
        }
        if !below(&self.live, self.limits.max_calls) {
            load.live.fetch_sub(1, Ordering::AcqRel);
            return None;
        }
        // From here on dropping it gives back what was taken.
        let mut permit = Permit { shell: Arc::clone(self), trunk: trunk.index(), half_open: None };
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = match source {
            Some(source) => {
                permit.half_open = shares.take_for(source, self.live_calls().saturating_sub(1), now);
                permit.is_half_open()
            }
            None => shares.take(now),
        };
        // Its drop takes the same lock.
        drop(shares);
        if !taken {
            return None;
        }
        self.counters.live.set(self.live_calls() as f64);
        Some(permit)
    }

    /// What a leg towards `peer` shows of us; `None` when there is no route to it or no listener of that kind.
    pub(super) fn leg_address(
        &self,
        protocol: Protocol,
        peer: IpAddr,
        listener: Option<SocketAddr>,
        ids: &mut IdSource,
    ) -> Option<LegAddress> {
        let listener = match listener {
            Some(listener) => listener,
            None => self.listener(protocol, peer)?,
        };
        let local = if listener.ip().is_unspecified() {
            local_address_towards(SocketAddr::new(peer, 5060)).ok()?
        } else {
            listener.ip()
        }
        .to_canonical();
        Some(LegAddress {
            protocol,
            sip: SocketAddr::new(self.sip_public.unwrap_or(local), listener.port()),
            media: self.media_public.unwrap_or(local),
            bind: local,
            contact_user: ids.contact_user(),
            sips: false,
        })
    }

    fn listener(&self, protocol: Protocol, peer: IpAddr) -> Option<SocketAddr> {
        let listeners = self.transports.get()?.local_addresses();
        let of = |protocol| {
            let mut all = listeners.iter().filter(move |(kind, _)| *kind == protocol).map(|(_, at)| *at);
            let same_family = all.clone().find(|at| at.is_ipv4() == peer.to_canonical().is_ipv4());
            same_family.or_else(|| all.next())
        };
        // A leg by TCP may leave from a port of its own; its Via names a UDP listener's when there is no other.
        of(protocol).or_else(|| of(Protocol::Udp))
    }

    /// Sends by address at once, by name after a look-up in a task of its own.
    pub(super) fn send(self: &Arc<Self>, wire: Bytes, to: &Hop) {
        let destination = |address| Destination {
            protocol: to.protocol,
            address,
            connection: to.connection,
            local: to.local,
            name: to.name.clone(),
            token: to.token.clone(),
        };
        match &to.place {
            Place::Address(address) => self.send_to(wire, &destination(*address)),
            Place::Name(host, port) => {
                let (shell, host, port) = (Arc::clone(self), host.clone(), *port);
                let mut to = destination(SocketAddr::new(IpAddr::from([0, 0, 0, 0]), port));
                let looking = async move {
                    if let Some(address) = resolve(&host, port).await {
                        to.address = address;
                        shell.send_to(wire, &to);
                    }
                };
                self.tasks.lock().unwrap_or_else(PoisonError::into_inner).spawn(looking);
            }
        }
    }

    pub(super) fn send_to(&self, wire: Bytes, to: &Destination) {
        if let Some(transports) = self.transports.get() {
            transports.send(wire, to);
        }
    }

    /// [`Self::find`], after a PIN that was typed is counted in `buckets`.
    pub(super) async fn find_and_count(
        &self,
        query: &Query,
        buckets: Vec<Bucket>,
    ) -> Result<Found, StoreFailed> {
        let may_judge = buckets.is_empty() || {
            let verdict = self.store.count_guess(buckets, clock::wall_now()).await.map_err(|error| {
                self.complain("store", &error);
                StoreFailed
            })?;
            if verdict == Verdict::Locked {
                self.counters.pin_locked.increment(1);
                self.complain("pin", &TooManyGuesses(query.dialled.clone()));
            }
            verdict == Verdict::Judge
        };
        Ok(Found { may_judge, ..self.find(query).await? })
    }

    /// The PIN that was counted last in `buckets` was right. Nobody waits for it.
    pub(super) fn forgive_guess(self: &Arc<Self>, buckets: Vec<Bucket>) {
        let shell = Arc::clone(self);
        let forgiving = async move {
            if let Err(error) = shell.store.forgive_guess(buckets).await {
                shell.complain("store", &error);
            }
        };
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).spawn(forgiving);
    }

    /// The store's word on a number, and the gateways that its B-leg may leave by.
    pub(super) async fn find(&self, query: &Query) -> Result<Found, StoreFailed> {
        let at = clock::wall_now();
        let route =
            self.store.find_route(&query.dialled, query.caller.as_ref(), at).await.map_err(|error| {
                self.complain("store", &error);
                StoreFailed
            })?;
        let partner = self.partner(query, route.as_ref()).await?;
        let mut outlets = Vec::new();
        let id = route.as_ref().and_then(|route| self.trunks.id(&route.number.trunk));
        if let Some((id, trunk)) = id.and_then(|id| Some((id, self.shared_trunks.get(id.index())?))) {
            outlets = self.outlets(trunk, id).await;
        }
        Ok(Found { route, partner, outlets, at, may_judge: true })
    }

    /// Whoever talked last with the caller, when he is the known party of a single-party session. A number of ours
    /// is nobody: a call to it would come back.
    async fn partner(&self, query: &Query, route: Option<&Route>) -> Result<Option<E164>, StoreFailed> {
        let Some((caller, route)) = query.caller.as_ref().zip(route) else { return Ok(None) };
        let own = route.sessions.iter().find(|session| session.role_of(caller).is_some());
        let Some(session) = own.filter(|session| session.is_incomplete()) else { return Ok(None) };
        let partner = self.store.last_partner(session.uuid, caller).await.map_err(|error| {
            self.complain("store", &error);
            StoreFailed
        })?;
        Ok(partner.filter(|partner| self.store.virtual_number(partner).is_none()))
    }

    /// The targets of a trunk's gateways, in order of failover.
    async fn outlets(&self, trunk: &Arc<Trunk>, id: TrunkId) -> Vec<Outlet> {
        let ways = self.gateways.ways(id).await;
        let mut outlets = Vec::with_capacity(ways.len().min(MAX_ATTEMPTS.into()));
        for way in ways {
            if outlets.len() < MAX_ATTEMPTS.into() {
                outlets.extend(self.outlet(trunk, way));
            }
        }
        // The media is bound once, on the first one's address: one that is reached from another address of ours, or by
        // the other family, would be promised audio where there is none.
        let bound = outlets.first().map(|outlet: &Outlet| outlet.address.bind);
        outlets.retain(|outlet| Some(outlet.address.bind) == bound);
        outlets
    }

    fn outlet(&self, trunk: &Arc<Trunk>, way: gateways::Way) -> Option<Outlet> {
        let gateway = trunk.gateways.get(way.gateway)?;
        let (protocol, address) = (protocol_of(way.target.transport), way.target.address);
        let mut ids = IdSource::from_system();
        let literal =
            if gateway.host.contains(':') { format!("[{}]", gateway.host) } else { gateway.host.clone() };
        Some(Outlet {
            trunk: Arc::clone(trunk),
            hop: Hop {
                protocol,
                place: Place::Address(address),
                connection: None,
                local: None,
                // What DNS has chosen is chosen; only UDP by default may give way to TCP.
                pinned: gateway.transport.is_some() || protocol != Protocol::Udp,
                // RFC 5922 §7.1: the name that was configured, not the one that DNS led to.
                name: gateway.ip().is_none().then(|| Arc::from(gateway.host.as_str())),
                token: None,
            },
            host: gateway.port.map_or(literal.clone(), |port| format!("{literal}:{port}")),
            address: self.leg_address(protocol, address.ip(), None, &mut ids)?,
            target: way.target,
            is_news: way.is_news,
        })
    }

    /// A row of a call that goes on: the call does not depend on it.
    pub(super) fn noted(&self, written: Result<(), StoreError>) {
        if let Err(error) = written {
            self.complain("store", &error);
        }
    }

    pub(super) async fn close_call(&self, cdr: Cdr) {
        let legs = cdr.legs.len();
        let cause = cdr.legs.first().map_or("", |leg| leg.hangup_cause_name);
        info!(interaction = %cdr.interaction, legs, cause, "call over");
        if let Err(error) = self.store.close_call(cdr).await {
            self.complain("store", &error);
        }
    }

    pub(super) async fn file_recording(&self, names: manifest::Names, report: RecordingReport) {
        if let Err(error) = self.filing.file(names, report, clock::wall_now()).await {
            self.complain("recordings", &error);
        }
    }

    /// Which session a call belongs to, for [`Self::hang_up_session`].
    pub(super) fn registry_entry(&self, handle: &CallHandle, session: Option<Uuid>) {
        if let Some(mut entry) = self.calls.get_mut(&handle.id) {
            entry.value_mut().1 = session;
        }
    }

    /// A carrier wanted to know who we are, and we could not tell to its content.
    pub(super) fn unauthorized(&self, trunk: &str, why: Unanswered) {
        metrics::counter!("maskline_trunk_unauthorized_total", "trunk" => trunk.to_owned()).increment(1);
        self.say("credentials", &Unauthorized { trunk: trunk.to_owned(), why });
    }

    /// Somebody tries passwords, or a trunk is configured with a wrong one.
    pub(super) fn wrong_credentials(&self, source: IpAddr) {
        self.counters.wrong_credentials.increment(1);
        self.say("callers", &WrongCredentials(source));
    }

    /// The gateway of that number, counted over all of the trunk's again and again: how it is reached, and what a
    /// Contact with this user is there.
    pub(super) async fn registrar(&self, id: TrunkId, number: usize) -> Option<(Hop, Way)> {
        let trunk = self.shared_trunks.get(id.index())?;
        let outlets = self.outlets(trunk, id).await;
        let Outlet { hop, host, mut address, .. } = outlets.get(number.checked_rem(outlets.len())?)?.clone();
        address.contact_user = trunk.registered_user();
        let way = Way {
            registrar: host,
            address: hop.address()?.ip(),
            transport: hop.protocol.via_name(),
            reliable: hop.protocol != Protocol::Udp,
            sent_by: address.sip.to_string(),
            contact: address.contact(),
        };
        Some((hop, way))
    }

    /// Something of ours fails: said once in a while, so that no fault fills the log.
    pub(super) fn complain(&self, what: &'static str, error: &dyn std::error::Error) {
        metrics::counter!("maskline_failures_total", "of" => what).increment(1);
        self.say(what, error);
    }

    /// The same for a fault of others, which is none of ours.
    fn say(&self, what: &'static str, error: &dyn std::error::Error) {
        let now = clock::now();
        let mut complaints = self.complaints.lock().unwrap_or_else(PoisonError::into_inner);
        let due = complaints.get(what).is_none_or(|last| now.duration_since(*last) >= COMPLAINT_PAUSE);
        if due {
            complaints.insert(what, now);
            warn!(what, error = %error, "failure");
        }
    }
}

/// Somebody is guessing.
#[derive(Debug, thiserror::Error)]
#[error("too many wrong PINs from a caller or on {0}: further ones are not judged for a while")]
struct TooManyGuesses(Did);

/// Somebody calls in by a trunk that challenges.
#[derive(Debug, thiserror::Error)]
#[error("a caller at {0} gives a wrong user name or password")]
struct WrongCredentials(IpAddr);

/// A carrier turned a request of ours away.
#[derive(Debug, thiserror::Error)]
#[error("trunk {trunk}: the carrier asks for user name and password, and the request fails: {why}")]
struct Unauthorized {
    trunk: String,
    why: Unanswered,
}

/// Takes the call off the list when its task ends.
struct RegistryEntry {
    shell: Arc<Shell>,
    id: Uuid,
}

impl Drop for RegistryEntry {
    fn drop(&mut self) {
        self.shell.calls.remove(&self.id);
        self.shell.counters.tasks.decrement(1.0);
    }
}

/// The transport's own word for it.
#[must_use]
pub fn protocol_of(transport: Transport) -> Protocol {
    match transport {
        Transport::Udp => Protocol::Udp,
        Transport::Tcp => Protocol::Tcp,
        Transport::Tls => Protocol::Tls,
    }
}

async fn resolve(host: &str, port: u16) -> Option<SocketAddr> {
    let looked_up = tokio::time::timeout(RESOLVE, tokio::net::lookup_host((host, port))).await;
    looked_up.ok()?.ok()?.next()
}

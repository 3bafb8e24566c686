//! Which calls there are and may be: admission limits, spawning, listing, draining; and what every call's shell shares.

use super::cdr::{ClockPair, HangupCause};
use super::dispatch::{CallHandle, Index, KeyGuard};
use super::leg::Refusal;
use super::machine::CallParameters;
use super::shares::{Place as SharePlace, Shares};
use super::sound::LegSound;
use super::task::CallTask;
use super::{Action, Call, Event, Found, StoreFailed};
use crate::clock;
use crate::ids::IdSource;
use crate::masking::guessing::Bucket;
use crate::masking::route::Query;
use crate::masking::session::MaskingSession;
use crate::names::Names;
use crate::number::E164;
use crate::prompts::PromptLibrary;
use crate::recording::{Recordings, manifest};
use crate::sip::message::Request;
use crate::sip::outside::Outside;
use crate::sip::transport::{Flow, Transports};
use crate::store::{Cdr, NoSession, Route, Store, StoreError, Verdict};
use crate::trunk::forward::Forwarding;
use crate::trunk::gateways::Gateways;
use crate::trunk::{RateLimit, Trunk, TrunkId, Trunks};
use dashmap::DashMap;
use media::engine::Engine;
use media::{RecordingReport, Side};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::{Instrument, debug, info, info_span};
use uuid::Uuid;

mod figures;
mod reach;

pub use figures::Counters;
use figures::{Complaints, TooManyGuesses};
pub use reach::protocol_of;

/// Events waiting for one call; more are dropped, and a UDP peer repeats them.
const INBOX: usize = 64;
/// Seconds after which a caller may try again when we are full.
const RETRY_AFTER_FULL: u32 = 10;
/// The same when we are draining: this node takes no call any more.
const RETRY_AFTER_DRAINING: u32 = 60;
/// An INVITE that would have to wait for longer, because its trunk takes only so many per second, fails.
const LONGEST_QUEUE: Duration = Duration::from_secs(1);

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
    /// Where the hosts are that peers and `no_session` name.
    names: Names,
    forwarding: Forwarding,
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
    /// Records and recordings of calls that are not stored yet.
    unsettled: AtomicUsize,
    /// Calls, and what outlives them.
    tasks: Mutex<JoinSet<()>>,
    complaints: Complaints,
}

struct TrunkLoad {
    /// Legs, in both directions.
    live: AtomicUsize,
    /// Of calls that come in.
    rate: Option<Mutex<RateLimit>>,
    /// Of INVITEs that leave.
    pace: Option<Mutex<RateLimit>>,
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

/// One of the legs that a trunk may have at one time; dropping it makes room.
pub(super) struct TrunkLeg {
    shell: Arc<Shell>,
    trunk: usize,
}

impl Drop for TrunkLeg {
    fn drop(&mut self) {
        if let Some(load) = self.shell.trunk_load.get(self.trunk) {
            load.live.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

/// One of the calls that may be live, with the leg that it begins with; dropping it makes room.
pub(super) struct Permit {
    leg: TrunkLeg,
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
            self.leg.shell.shares.lock().unwrap_or_else(PoisonError::into_inner).set_up(place);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.set_up();
        let shell = &self.leg.shell;
        let live = shell.live.fetch_sub(1, Ordering::AcqRel).saturating_sub(1);
        shell.counters.live.set(live as f64);
    }
}

/// A record or a recording of a call that is still to be stored.
pub(super) struct Unsettled(Arc<Shell>);

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
    /// Where numbers may forward calls to.
    pub forwarding: Forwarding,
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
            names: Names::of_system(),
            forwarding: parts.forwarding,
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
            complaints: Complaints::default(),
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

    /// Records and recordings of calls that are not stored yet.
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
        self.outlive(async move { shell.place(&Arc::new(session), &index).await });
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
        let task = Box::new(CallTask {
            call,
            handle,
            inbox,
            shell: Arc::clone(self),
            permit: Some(permit),
            callee_leg: None,
            unsettled: Some(self.unsettled()),
            keys,
            known_session: None,
        });
        self.outlive(
            async move {
                let _entry = entry;
                task.run(actions).await;
            }
            .instrument(span),
        );
    }

    /// Does something that ends by itself or with the process, and not with whoever wants it done.
    pub(super) fn outlive(&self, job: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(job);
    }

    /// A drain waits until it is dropped.
    pub(super) fn unsettled(self: &Arc<Self>) -> Unsettled {
        self.unsettled.fetch_add(1, Ordering::AcqRel);
        Unsettled(Arc::clone(self))
    }

    /// Room for one more leg that leaves by this trunk, and how long its INVITE waits for its turn; `None`: there is
    /// no room, or too many wait already.
    pub(super) fn leave_by(self: &Arc<Self>, trunk: &str) -> Option<(TrunkLeg, Duration)> {
        let Some(leg) = self.trunks.id(trunk).and_then(|id| self.trunk_leg(id)) else {
            self.counters.full.increment(1);
            return None;
        };
        self.turn(trunk).map(|wait| (leg, wait))
    }

    /// How long an INVITE that leaves by this trunk waits for its turn, in the order in which they asked; `None`: too
    /// many wait already.
    pub(super) fn turn(&self, trunk: &str) -> Option<Duration> {
        let pace = self.trunk_load.get(self.trunks.id(trunk)?.index())?.pace.as_ref();
        let wait = match pace {
            None => Some(Duration::ZERO),
            Some(pace) => {
                let mut pace = pace.lock().unwrap_or_else(PoisonError::into_inner);
                pace.reserve(clock::now(), LONGEST_QUEUE)
            }
        };
        if wait.is_none() {
            self.counters.full.increment(1);
        }
        wait
    }

    /// Whether this address is one of the trunk's: of those who may call in by it, or of its gateways.
    pub(super) fn speaks_for(&self, trunk: &str, source: IpAddr) -> bool {
        let id = self.trunks.id(trunk);
        id.is_some_and(|id| self.trunks.has_address(id, source) || self.gateways.leads_to(id, source))
    }

    /// One more leg of the trunk, if it may have one.
    fn trunk_leg(self: &Arc<Self>, trunk: TrunkId) -> Option<TrunkLeg> {
        let load = self.trunk_load.get(trunk.index())?;
        let profile = self.shared_trunks.get(trunk.index())?;
        let limit =
            profile.max_calls.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
        let leg = || TrunkLeg { shell: Arc::clone(self), trunk: trunk.index() };
        one_more(&load.live, limit).then(leg)
    }

    /// Room for one more call of the trunk, made by `source` or by ourselves, whose INVITEs are paced when they leave. The
    /// trunk's own limits come first: what they refuse must use up nothing that other trunks share.
    fn permit(self: &Arc<Self>, trunk: TrunkId, source: Option<IpAddr>, now: Instant) -> Option<Permit> {
        let load = self.trunk_load.get(trunk.index())?;
        let take = |rate: &Mutex<RateLimit>| rate.lock().unwrap_or_else(PoisonError::into_inner).take(now);
        if source.is_some() && !load.rate.as_ref().is_none_or(take) {
            return None;
        }
        // From here on dropping them gives back what was taken.
        let leg = self.trunk_leg(trunk)?;
        if !one_more(&self.live, self.limits.max_calls) {
            return None;
        }
        let mut permit = Permit { leg, half_open: None };
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
        self.outlive(async move {
            if let Err(error) = shell.store.forgive_guess(buckets).await {
                shell.complain("store", &error);
            }
        });
    }

    /// The store's word on a number, and the gateways that its B-leg may leave by.
    pub(super) async fn find(&self, query: &Query) -> Result<Found, StoreFailed> {
        let at = clock::wall_now();
        let mut route =
            self.store.find_route(&query.dialled, query.caller.as_ref(), at).await.map_err(|error| {
                self.complain("store", &error);
                StoreFailed
            })?;
        if let Some(route) = &mut route {
            self.only_forward_where_allowed(route);
        }
        let partner = self.partner(query, route.as_ref()).await?;
        let mut outlets = Vec::new();
        let id = route.as_ref().and_then(|route| self.trunks.id(&route.number.trunk));
        if let Some((id, trunk)) = id.and_then(|id| Some((id, self.shared_trunks.get(id.index())?))) {
            outlets = self.outlets(trunk, id).await;
        }
        Ok(Found { route, partner, outlets, at, may_judge: true })
    }

    /// What the API has stored, perhaps of an earlier version or under another configuration, is asked about again when
    /// it counts.
    fn only_forward_where_allowed(&self, route: &mut Route) {
        if let NoSession::Sip(uri) = &route.number.no_session
            && let Err(reason) = self.forwarding.check(uri)
        {
            debug!(number = %route.number.did, %reason, "no_session is not followed");
            route.number.no_session = NoSession::Reject;
        }
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

    /// A row of a call that goes on: the call does not depend on it.
    pub(super) fn noted(&self, written: Result<(), StoreError>) {
        if let Err(error) = written {
            self.complain("store", &error);
        }
    }

    pub(super) async fn close_call(&self, cdr: Cdr) {
        let legs = cdr.legs.len();
        let cause = cdr.legs.first().map_or("", |leg| leg.hangup_cause_name);
        let [a, b] = [Side::A, Side::B].map(|side| LegSound::of(&cdr, side));
        info!(interaction = %cdr.interaction, legs, cause, a = a.map(tracing::field::display), b = b.map(tracing::field::display), "call over");
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
}

/// Counts one more, below a limit.
fn one_more(count: &AtomicUsize, limit: usize) -> bool {
    count.fetch_update(Ordering::AcqRel, Ordering::Acquire, |live| (live < limit).then_some(live + 1)).is_ok()
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

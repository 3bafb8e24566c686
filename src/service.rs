//! The service from start to end: what is opened in which order, and how it drains.

use crate::api::{self, ApiState, CallControl, Limiter, Readiness};
use crate::call::cdr::HangupCause;
use crate::call::dispatch::{Dispatcher, Index};
use crate::call::prober;
use crate::call::registrar::Registrar;
use crate::call::registry::{CallLimits, Shell, ShellParts, protocol_of};
use crate::callbacks::Courier;
use crate::clock;
use crate::command::{PidFile, PidFileError};
use crate::config::{Checked, Listen};
use crate::descriptors;
use crate::masking::session::MaskingSession;
use crate::media_metrics;
use crate::prompts::PromptLibrary;
use crate::recording::{DirectoryLock, DirectoryTaken, Recordings, repair, worker};
use crate::sip::transport::{BindError, ListenAddress, Protocol, TransportLimits, Transports};
use crate::store::{NewAccount, NoSession, SealKey, SealKeyError, Store, StoreError, VirtualNumberConfig};
use crate::trunk::dns::{Dns, SystemDns};
use crate::trunk::resolve::Families;
use media::engine::Engine;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tracing::{error, info, warn};
use uuid::Uuid;

/// How many things may wait for the disk at one time. One of them may wait for the system's resolver instead, which
/// is asked for gateways only ([`crate::trunk::dns`]); all other names are looked up without a thread.
const BLOCKING_THREADS: usize = 4;
/// How often the store learns that this process lives; the end of an orphaned call is known as exactly.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// How often it is looked for processes that have died.
const ORPHANS: Duration = Duration::from_secs(3);
/// A database that was away was so for others as well: who gets through again is not the one to call them dead, until
/// they had so much time for a heartbeat of their own.
const STEADY: Duration = Duration::from_secs(5);
/// Wrong PINs that count no more are forgotten as often.
const FORGET: Duration = Duration::from_secs(3600);
/// How often the end of a drain is looked for.
const DRAIN_STEP: Duration = Duration::from_millis(100);
/// What calls that outlive a drain get for their BYEs and CDRs.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Why the service could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another service has the same store, or its directory cannot be written.
    #[error(transparent)]
    PidFile(#[from] PidFileError),
    /// The database.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// The key that seals tokens.
    #[error(transparent)]
    SealKey(#[from] SealKeyError),
    /// The media threads.
    #[error("media engine: {0}")]
    Media(io::Error),
    /// A SIP listener.
    #[error(transparent)]
    Sip(#[from] BindError),
    /// The HTTP listener.
    #[error("http.listen: {address} cannot be bound: {source}; choose a free address with http.listen")]
    Http {
        /// Which one.
        address: SocketAddr,
        /// The system's word.
        source: io::Error,
    },
    /// The recordings directory.
    #[error(transparent)]
    Recordings(#[from] DirectoryTaken),
    /// What fetches prompts.
    #[error("prompts: {0}")]
    Prompts(#[from] crate::prompts::FetchError),
    /// Threads of the runtime.
    #[error("runtime: {0}")]
    Runtime(io::Error),
}

/// Runs the service until it has drained.
#[must_use]
pub fn serve(config: &Checked) -> ExitCode {
    init_logging();
    for warning in &config.warnings {
        warn!("{warning}");
    }
    // The media has a thread per core; signalling needs less, and every thread more is a wake-up more per message.
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let outcome = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cores.div_ceil(2))
        // They wait for the disk, and each keeps memory of its own: a few that stay instead of a crowd that comes
        // and goes with the load, and leaves the memory in pieces.
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_keep_alive(Duration::from_secs(3600))
        .enable_all()
        .build()
        .map_err(StartError::Runtime)
        .and_then(|runtime| runtime.block_on(run(config)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn init_logging() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    // A second service in one process, as in tests, keeps the first one's log.
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).try_init();
}

async fn run(config: &Checked) -> Result<(), StartError> {
    let _pid_file = PidFile::claim(config.store.pid_file())?;
    let service = Service::start(config).await?;
    service.greet(config);
    shutdown_signal().await;
    service.drain(config.sip.drain).await;
    Ok(())
}

/// A running service.
pub struct Service {
    shell: Arc<Shell>,
    index: Arc<Index>,
    transports: Transports,
    readiness: Readiness,
    http: SocketAddr,
    /// Made at this start, to be shown once.
    new_account: Option<NewAccount>,
    jobs: JoinSet<()>,
    stop_http: oneshot::Sender<()>,
    registrar: Registrar,
    /// Nobody else records into our directory.
    _recordings: DirectoryLock,
}

impl Service {
    /// Opens store, media, SIP and HTTP, in this order, after cleaning up what an earlier process left.
    ///
    /// # Errors
    /// The first thing that cannot be had; nothing stays open then.
    pub async fn start(config: &Checked) -> Result<Self, StartError> {
        Self::start_with(config, Arc::new(SystemDns::new())).await
    }

    /// The same with another source of DNS records than the system's.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_with(config: &Checked, dns: Arc<dyn Dns>) -> Result<Self, StartError> {
        let metrics = metrics_handle();
        let key = SealKey::load_or_create(&config.store.key_file)?;
        let store = Store::open_with_key(config.store.url(), Some(key)).await?;
        let (recordings, recordings_lock) =
            Recordings::open(store.clone(), &config.recordings.directory).await?;
        let (new_account, orphans_are_left) = prepare(&store, &recordings, config).await?;
        let (prompts, loader) = PromptLibrary::with_loader(&config.http.fetch_allow)?;
        for entry in store.all_numbers() {
            if let NoSession::Play(url) = &entry.number.no_session {
                prompts.prefetch(&entry.number.account, url);
            }
        }
        let engine = Engine::start(config.media.limits.clone()).map_err(StartError::Media)?;
        let media = engine.clone();
        let shell = Arc::new(Shell::new(ShellParts {
            store: store.clone(),
            engine,
            trunks: config.trunks.clone(),
            prompts: prompts.clone(),
            forwarding: config.forwarding(),
            recordings: config.recordings.directory.clone(),
            filing: recordings.clone(),
            sip_public: config.sip.public_address,
            media_public: config.media.public_address,
            limits: CallLimits {
                max_calls: calls_allowed(config),
                max_calls_per_second: config.sip.max_calls_per_second,
            },
        }));
        let index = Arc::new(Index::default());
        let handler = Dispatcher::new(&Arc::downgrade(&shell), Arc::clone(&index), rand::random());
        let listen: Vec<_> = config.sip.listen.iter().map(listen_address).collect();
        let limits = TransportLimits {
            idle: config.sip.tcp_idle,
            connections: usize::try_from(config.sip.tcp_connections).unwrap_or(usize::MAX),
            ..TransportLimits::default()
        };
        let transports = Transports::bind(&listen, limits, config.sip.tls.clone(), Arc::new(handler))?;
        shell.set_transports(transports.clone());

        let refused = |source| StartError::Http { address: config.http.listen, source };
        let listener = TcpListener::bind(config.http.listen).await.map_err(refused)?;
        let http = listener.local_addr().map_err(refused)?;
        let readiness = Readiness::default();
        let router = api::router(ApiState {
            store: store.clone(),
            readiness: readiness.clone(),
            calls: Arc::new(Control { shell: Arc::clone(&shell), index: Arc::clone(&index) }),
            prompts,
            recordings: Some(recordings.clone()),
            limiter: Arc::new(Limiter::new(
                config.http.requests_per_5_seconds,
                config.http.trusted_proxies.clone(),
            )),
            trunks: dialable_trunks(config),
            forwarding: config.forwarding(),
            metrics: Some(metrics),
            gateways: Some(Arc::clone(&shell.gateways)),
            base_url: config.http.public_url.clone(),
            now: clock::wall_now,
        });
        let proxies = config.http.trusted_proxies.clone();
        let (stop_http, stopped) = oneshot::channel::<()>();
        let mut jobs = JoinSet::new();
        jobs.spawn(async move {
            let until = async move {
                // Dropped without a word it means the same: stop.
                let _ = stopped.await;
            };
            if let Err(error) = api::serve(listener, router, proxies, until).await {
                error!("http: {error}");
            }
        });
        let base = config.http.public_url.clone().unwrap_or_else(|| format!("http://{http}"));
        jobs.spawn(Courier::new(store.clone(), &config.http.fetch_allow, base.clone())?.run());
        let (beating, steady_since) = watch::channel(None);
        jobs.spawn(heartbeat(store.clone(), beating));
        jobs.spawn(look_after_others(store.clone(), steady_since, orphans_are_left));
        jobs.spawn(forget_guesses(store));
        jobs.spawn(media_metrics::run(media));
        jobs.spawn(sweep_metrics(metrics_handle()));
        jobs.spawn(prober::run(Arc::clone(&shell)));
        jobs.spawn(Arc::clone(&shell.gateways).keep_located(dns, families(&transports)));
        jobs.spawn(loader.run());
        recordings.reached_at(base);
        jobs.spawn(worker::run(recordings, config.recordings.retention));
        readiness.set(true);
        let registrar = Registrar::start(&shell);
        Ok(Self {
            shell,
            index,
            transports,
            readiness,
            http,
            new_account,
            jobs,
            stop_http,
            registrar,
            _recordings: recordings_lock,
        })
    }

    /// Where the API is served.
    #[must_use]
    pub fn http(&self) -> SocketAddr {
        self.http
    }

    /// Where SIP is served.
    #[must_use]
    pub fn sip(&self) -> Vec<(Protocol, SocketAddr)> {
        self.transports.local_addresses()
    }

    /// What every call shares; for counting.
    #[must_use]
    pub fn shell(&self) -> &Arc<Shell> {
        &self.shell
    }

    /// The message indexes; for counting.
    #[must_use]
    pub fn index(&self) -> &Arc<Index> {
        &self.index
    }

    /// The account that this start made, if it made one.
    #[must_use]
    pub fn new_account(&self) -> Option<&NewAccount> {
        self.new_account.as_ref()
    }

    /// Takes no new call, waits for the live ones up to `limit`, ends those that are left, and stops.
    pub async fn drain(mut self, limit: Duration) {
        self.readiness.set(false);
        self.shell.start_draining();
        self.registrar.stop();
        info!(calls = self.shell.live_calls(), "draining: no new call is taken");
        let deadline = clock::now() + limit;
        while self.shell.live_calls() > 0 && clock::now() < deadline {
            clock::sleep(DRAIN_STEP).await;
        }
        if self.shell.live_calls() > 0 {
            warn!(
                calls = self.shell.live_calls(),
                "sip.drain_seconds is over: the calls that are left are ended"
            );
            self.shell.hang_up_all(HangupCause::Scheduled);
        }
        // BYEs, CDRs and manifests of the last calls; what has to repeat a BYE is not waited for.
        let deadline = clock::now() + LAST_WORDS;
        while self.shell.unsettled_calls() > 0 && clock::now() < deadline {
            clock::sleep(DRAIN_STEP).await;
        }
        self.registrar.finished(LAST_WORDS).await;
        let _ = self.stop_http.send(());
        self.transports.shutdown().await;
        self.jobs.abort_all();
        while self.jobs.join_next().await.is_some() {}
        self.shell.store.close().await;
        info!("drained");
    }

    /// What a person reads at the start: where everything is, and how to try it at once.
    fn greet(&self, config: &Checked) {
        let mut out = io::stdout().lock();
        // That nobody reads is no fault of ours.
        let _ = self.write_greeting(config, &mut out);
    }

    fn write_greeting(&self, config: &Checked, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "Maskline {} serves", env!("CARGO_PKG_VERSION"))?;
        for (protocol, address) in self.sip() {
            writeln!(out, "  SIP         {}:{address}", protocol.uri_name())?;
        }
        writeln!(out, "  API         http://{}/v1/Account/{{auth_id}}/Masking/Session/", self.http)?;
        writeln!(out, "  recordings  {}", config.recordings.directory.display())?;
        writeln!(out, "  database    {}", config.store.shown())?;
        let account = match &self.new_account {
            Some(account) => {
                writeln!(out, "\nA new account was made. The token is shown this once:")?;
                writeln!(out, "  auth id     {}\n  auth token  {}", account.auth_id, account.auth_token)?;
                format!("{}:{}", account.auth_id, account.auth_token)
            }
            None => "$AUTH_ID:$AUTH_TOKEN".to_owned(),
        };
        let id = account.split(':').next().unwrap_or("$AUTH_ID");
        let Some(number) = config.numbers.first() else { return Ok(()) };
        writeln!(
            out,
            "\nTry it. Make a session; its answer names the virtual number, {} at first:",
            number.did
        )?;
        writeln!(
            out,
            "  curl -u {account} -H 'Content-Type: application/json' \\\n    \
             -d '{{\"first_party\": \"+12025550142\", \"second_party\": \"+12025550143\"}}' \\\n    \
             http://{}/v1/Account/{id}/Masking/Session/",
            self.http
        )?;
        let gateway = config.trunks.get(&number.trunk).and_then(|trunk| trunk.gateways.first());
        if let Some(gateway) = gateway {
            writeln!(out, "Let a softphone, or `sipp -sn uas`, answer at {gateway},")?;
            writeln!(
                out,
                "and call {} as user +12025550142 from another one. The README says more.",
                number.did
            )?;
        }
        Ok(())
    }
}

struct Control {
    shell: Arc<Shell>,
    index: Arc<Index>,
}

impl CallControl for Control {
    fn hang_up_session(&self, session: Uuid) {
        let ended = self.shell.hang_up_session(session);
        info!(%session, calls = ended, "the API ends a session's calls");
    }

    fn hang_up_call(&self, interaction: Uuid) -> bool {
        self.shell.hang_up_call(interaction)
    }

    fn initiate_call(&self, session: MaskingSession) {
        self.shell.initiate(session, &self.index);
    }
}

/// Accounts and numbers of the configuration, and what an earlier process left unfinished. Returns the account that it
/// made, and whether records of calls may still be open whose process has died.
async fn prepare(
    store: &Store,
    recordings: &Recordings,
    config: &Checked,
) -> Result<(Option<NewAccount>, bool), StartError> {
    let accounts: Vec<_> = config
        .accounts
        .iter()
        .map(|account| (account.auth_id.clone(), account.auth_token.reveal().to_owned()))
        .collect();
    let new_account = store.ensure_account(&accounts, clock::wall_now()).await?;
    let numbers = config.numbers.iter().map(|number| {
        let written = VirtualNumberConfig {
            did: number.did.clone(),
            trunk: number.trunk.clone(),
            account: number.account.clone(),
            no_session: NoSession::from(&number.no_session),
        };
        (written, number.subaccount.clone())
    });
    store.sync_assigned_numbers(numbers.collect()).await?;
    warn_of_numbers(store, config);
    store.heartbeat(clock::wall_now()).await?;
    // Those of other processes wait until this one knows who lives.
    let orphans_are_left = store.is_shared() || !close_orphans(store).await;
    match repair::unfinished(recordings).await {
        Ok(0) => {}
        Ok(repaired) => {
            warn!(recordings = repaired, "recordings that an earlier process left are completed")
        }
        Err(error) => warn!("recordings: {error}"),
    }
    Ok((new_account, orphans_are_left))
}

fn dialable_trunks(config: &Checked) -> Arc<[String]> {
    let dialable = config.trunks.iter().filter(|(_, trunk)| !trunk.gateways.is_empty());
    dialable.map(|(_, trunk)| trunk.name.clone()).collect()
}

/// What the API once allowed may no longer fit the configuration, and the other way round.
fn warn_of_numbers(store: &Store, config: &Checked) {
    for entry in store.all_numbers() {
        let (number, account) = (&entry.number.did, &entry.number.account);
        if config.trunks.get(&entry.number.trunk).is_none_or(|trunk| trunk.gateways.is_empty()) {
            warn!(%number, trunk = entry.number.trunk, "the trunk of this number cannot dial: its calls fail");
        }
        if let NoSession::Sip(uri) = &entry.number.no_session
            && let Err(reason) = config.forwarding().check(uri)
        {
            warn!(%number, "no_session of this number is not followed, strangers get 404: {reason}");
        }
        if let Some(subaccount) = entry.subaccount
            && store.subaccount(account, &subaccount).is_none()
        {
            warn!(%number, subaccount, "there is no such sub-account: no session can be made on this number");
        }
    }
}

/// What histograms were told is put into their buckets, whether anybody fetches `/metrics` or not: it would pile up.
async fn sweep_metrics(metrics: PrometheusHandle) {
    loop {
        clock::sleep(HEARTBEAT).await;
        metrics.run_upkeep();
    }
}

/// Does nothing else: who is silent is taken for dead. Says since when every heartbeat has been taken.
async fn heartbeat(store: Store, steady_since: watch::Sender<Option<Instant>>) {
    loop {
        // A store that fails says so where calls need it.
        let taken = store.heartbeat(clock::wall_now()).await.is_ok();
        steady_since.send_modify(|since| *since = taken.then(|| since.unwrap_or_else(clock::now)));
        clock::sleep(HEARTBEAT).await;
    }
}

/// Closes the records of calls whose process has died: for ever on a database that others share, else until those of
/// the process before are closed.
async fn look_after_others(store: Store, steady_since: watch::Receiver<Option<Instant>>, mut are_left: bool) {
    while are_left {
        clock::sleep(ORPHANS).await;
        let is_steady = steady_since.borrow().is_some_and(|since| clock::now() >= since + STEADY);
        if is_steady || !store.is_shared() {
            are_left = !close_orphans(&store).await || store.is_shared();
        }
    }
}

/// `false`: some may be left.
async fn close_orphans(store: &Store) -> bool {
    match store.close_orphans(clock::wall_now()).await {
        Ok(0) => true,
        Ok(legs) => {
            warn!(legs, "a process ended in the middle of calls; their records are closed");
            true
        }
        Err(error) => {
            warn!(%error, "records of calls whose process has died are not closed yet");
            false
        }
    }
}

async fn forget_guesses(store: Store) {
    loop {
        let _ = store.forget_guesses(clock::wall_now()).await;
        clock::sleep(FORGET).await;
    }
}

/// What is reached over a family that we do not listen on could not reach us.
fn families(transports: &Transports) -> Families {
    let listeners = transports.local_addresses();
    let has = |v4| listeners.iter().any(|(_, address)| address.is_ipv4() == v4);
    Families { v4: has(true), v6: has(false) }
}

fn listen_address(listen: &Listen) -> ListenAddress {
    ListenAddress { protocol: protocol_of(listen.transport), address: listen.address }
}

/// One recorder per process: counters live in it, whichever service of the process they belong to.
fn metrics_handle() -> PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE
        .get_or_init(|| {
            let mut builder = PrometheusBuilder::new();
            for (name, bounds) in crate::call::sound::BUCKETS {
                builder = builder
                    .set_buckets_for_metric(Matcher::Full(name.to_owned()), bounds)
                    // Invariant: none of these lists is empty, which is all that is refused.
                    .expect("a histogram has buckets");
            }
            let recorder = builder.build_recorder();
            let handle = recorder.handle();
            // Somebody who embeds us may have a recorder already; ours is then empty.
            let _ = metrics::set_global_recorder(recorder);
            handle
        })
        .clone()
}

/// As many calls as are asked for and open files allow.
fn calls_allowed(config: &Checked) -> usize {
    let limit = descriptors::raise_limit();
    let connections = u64::from(config.sip.tcp_connections).saturating_add(api::CONNECTIONS as u64);
    let (wanted, possible) =
        (u64::from(config.sip.max_calls), descriptors::calls_within(limit, connections).max(1));
    if possible < wanted {
        warn!(
            "{limit} open files (ulimit -n) are enough for {possible} calls, fewer than sip.max_calls = {wanted}: \
             more are refused"
        );
    }
    usize::try_from(possible.min(wanted)).unwrap_or(usize::MAX)
}

async fn shutdown_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        error!("signals cannot be handled: the service runs until it is killed");
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

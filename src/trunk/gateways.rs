//! The gateways of all trunks as the service sees them now: where each one's name leads, which targets take calls, and
//! from which addresses they speak.
//!
//! Shell around [`super::resolve`] and [`super::health`]: it asks DNS in tasks of its own, so that a call finds what
//! is known and goes on. Only the very first calls after the start wait, until the first look-up has ended and no
//! longer than [`FIRST_LOOK_UP`]. A gateway that is an address costs no look-up, no task and no timer.

use super::dns::{Dns, look_up};
use super::health::{Health, Outcome, Turn, View};
use super::resolve::{Cached, Choice, Families, Target};
use super::{Gateway, TrunkId, Trunks};
use crate::clock;
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

/// How long a call waits for the first look-up of its gateways.
const FIRST_LOOK_UP: Duration = Duration::from_secs(2);
/// How long one look-up may take in all.
const LOOK_UP: Duration = Duration::from_secs(10);
/// An address that a gateway's name led to is known for so long afterwards: calls that were made through it speak on.
const REMEMBERED: Duration = Duration::from_secs(24 * 3600);
/// Addresses that are known at one time, over all gateways.
const MAX_ADDRESSES: usize = 4096;

/// A target in the order of a call's attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Way {
    /// Which of the trunk's gateways it belongs to.
    pub gateway: usize,
    /// Where it is.
    pub target: Target,
    /// Whether it is news that it is heard.
    pub is_news: bool,
}

/// See the module.
pub struct Gateways {
    trunks: Vec<OfTrunk>,
    /// Addresses behind names: of which trunks, and until when they are known.
    behind_names: RwLock<HashMap<IpAddr, BTreeMap<TrunkId, Instant>>>,
    /// Counts the gateways whose first look-up has ended.
    looked_up: watch::Sender<usize>,
}

struct OfTrunk {
    name: String,
    gateways: Vec<OfGateway>,
    health: Mutex<BTreeMap<Target, Health>>,
    /// How often its targets are asked by OPTIONS.
    options: Option<Duration>,
}

struct OfGateway {
    gateway: Gateway,
    /// As the configuration writes it; a label of metrics.
    uri: String,
    /// `None`: an address, which needs none of it.
    named: Option<Named>,
    fixed: Option<Target>,
}

struct Named {
    choice: RwLock<(Arc<Choice>, bool)>,
}

impl OfGateway {
    fn new(gateway: &Gateway) -> Self {
        let transport = gateway.transport.unwrap_or(super::Transport::Udp);
        let fixed = gateway
            .ip()
            .map(|ip| Target { transport, address: SocketAddr::new(ip, gateway.port_or_default()) });
        let named = fixed.is_none().then(|| Named { choice: RwLock::default() });
        Self { gateway: gateway.clone(), uri: gateway.to_string(), named, fixed }
    }

    /// What its name leads to, and whether that may be out of date.
    fn choice(&self) -> (Arc<Choice>, bool) {
        match (&self.named, self.fixed) {
            (Some(named), _) => named.choice.read().unwrap_or_else(PoisonError::into_inner).clone(),
            (None, Some(target)) => (Arc::new(Choice::one(target)), false),
            (None, None) => Default::default(),
        }
    }
}

impl OfTrunk {
    fn health(&self) -> MutexGuard<'_, BTreeMap<Target, Health>> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn new_health(&self) -> Health {
        Health::new(self.options.is_some())
    }

    /// The gateways' figures, after something has changed.
    fn count(&self) {
        let now = clock::now();
        for gateway in &self.gateways {
            let (choice, _) = gateway.choice();
            let health = self.health();
            let known: Vec<bool> =
                choice.all().filter_map(|target| health.get(&target)?.view(now).up).collect();
            if !known.is_empty() {
                let up = known.contains(&true);
                metrics::gauge!("maskline_gateway_up", "trunk" => self.name.clone(), "gateway" => gateway.uri.clone())
                    .set(f64::from(u8::from(up)));
            }
        }
    }
}

impl Gateways {
    /// Of these trunks. No name is looked up before [`Self::keep_located`] runs.
    #[must_use]
    pub fn new(trunks: &Trunks) -> Self {
        let of_trunk = |trunk: &super::Trunk| OfTrunk {
            name: trunk.name.clone(),
            gateways: trunk.gateways.iter().map(OfGateway::new).collect(),
            health: Mutex::default(),
            options: trunk.options,
        };
        Self {
            trunks: trunks.iter().map(|(_, trunk)| of_trunk(trunk)).collect(),
            behind_names: RwLock::default(),
            looked_up: watch::Sender::new(0),
        }
    }

    /// Whether a gateway's name leads, or has led of late, to this address.
    #[must_use]
    pub fn has_address(&self, source: IpAddr) -> bool {
        let known = self.behind_names.read().unwrap_or_else(PoisonError::into_inner);
        known.contains_key(&source.to_canonical())
    }

    /// Whether a name of this trunk's gateways leads, or has led of late, to this address.
    #[must_use]
    pub fn leads_to(&self, trunk: TrunkId, source: IpAddr) -> bool {
        let known = self.behind_names.read().unwrap_or_else(PoisonError::into_inner);
        known.get(&source.to_canonical()).is_some_and(|trunks| trunks.contains_key(&trunk))
    }

    /// The name of the gateway at this address, if there is one, and no other one may be meant: that at the very port
    /// comes first, then one of `likely`.
    #[must_use]
    pub fn name_at(&self, address: SocketAddr, likely: Option<TrunkId>) -> Option<Arc<str>> {
        let ip = address.ip().to_canonical();
        let is_there = |gateway: &OfGateway, exactly: bool| {
            gateway.choice().0.all().any(|target| {
                let port = target.address.port();
                target.address.ip().to_canonical() == ip && (!exactly || port == address.port())
            })
        };
        let found = |trunks: &[OfTrunk], exactly| {
            let mut names = trunks
                .iter()
                .flat_map(|trunk| &trunk.gateways)
                .filter(|gateway| is_there(gateway, exactly))
                .map(|gateway| gateway.named.as_ref().map(|_| gateway.gateway.host.clone()));
            let first = names.next()?;
            // Two names at one address: nobody can tell.
            Some(first.filter(|first| names.all(|name| name.as_ref() == Some(first))))
        };
        let likely = likely.and_then(|id| self.trunks.get(id.index())).map_or(&[][..], std::slice::from_ref);
        let name = [true, false]
            .into_iter()
            .find_map(|exactly| found(likely, exactly).or_else(|| found(&self.trunks, exactly)));
        name.flatten().map(Arc::from)
    }

    /// The targets of a trunk in the order in which a call tries them: gateway after gateway, what is down last.
    pub async fn ways(&self, trunk: TrunkId) -> Vec<Way> {
        let Some(of_trunk) = self.trunks.get(trunk.index()) else { return vec![] };
        let names =
            self.trunks.iter().flat_map(|trunk| &trunk.gateways).filter(|g| g.named.is_some()).count();
        let waits = of_trunk.gateways.iter().any(|gateway| gateway.named.is_some())
            && *self.looked_up.borrow() < names;
        if waits {
            let mut looked_up = self.looked_up.subscribe();
            // In vain, or too late: the call fails like one whose gateways are all dead.
            let _ = tokio::time::timeout(FIRST_LOOK_UP, looked_up.wait_for(|done| *done >= names)).await;
        }
        self.ways_now(of_trunk)
    }

    fn ways_now(&self, trunk: &OfTrunk) -> Vec<Way> {
        let now = clock::now();
        let mut ways: Vec<Way> = vec![];
        for (index, gateway) in trunk.gateways.iter().enumerate() {
            let mut add = |target| {
                // Two names may lead to one place.
                if ways.iter().all(|way| way.target != target) {
                    ways.push(Way { gateway: index, target, is_news: false });
                }
            };
            match gateway.fixed {
                Some(target) => add(target),
                None => {
                    gateway.choice().0.order(|most| rand::random_range(0..=most)).into_iter().for_each(add)
                }
            }
        }
        let alone = ways.len() == 1;
        let mut health = trunk.health();
        let mut last = vec![];
        ways.retain_mut(|way| {
            let known = health.get_mut(&way.target);
            way.is_news = !known.as_ref().is_some_and(|health| health.is_up());
            let preferred = alone || known.is_none_or(|health| health.is_preferred(now));
            if !preferred {
                last.push(*way);
            }
            preferred
        });
        ways.append(&mut last);
        ways
    }

    /// A call tells what became of its INVITE.
    pub fn learn(&self, trunk: &str, target: Target, outcome: Outcome) {
        self.change(trunk, target, |health, now| health.on_call(outcome, now));
    }

    /// A probe tells what became of its OPTIONS.
    pub fn probed(&self, trunk: &str, target: Target, outcome: Outcome) {
        self.change(trunk, target, |health, now| health.on_probe(outcome, now));
    }

    fn change(&self, trunk: &str, target: Target, change: impl FnOnce(&mut Health, Instant) -> Option<Turn>) {
        let Some(trunk) = self.trunks.iter().find(|known| known.name == trunk) else { return };
        // A target that its name has left meanwhile is nobody's any more.
        if !trunk.gateways.iter().any(|gateway| gateway.choice().0.all().any(|known| known == target)) {
            return;
        }
        let turn = change(trunk.health().entry(target).or_insert_with(|| trunk.new_health()), clock::now());
        // A trunk without a second way has nothing to choose, and one on this machine is somebody's experiment: of
        // those the view and the figures tell.
        let is_loopback = target.address.ip().is_loopback();
        match turn {
            Some(Turn::Fell(why)) if is_loopback => {
                debug!(trunk = trunk.name, %target, why = why.as_str(), "gateway is down")
            }
            Some(Turn::Recovered) if is_loopback => {
                debug!(trunk = trunk.name, %target, "gateway is up again")
            }
            Some(Turn::Fell(why)) => {
                warn!(trunk = trunk.name, %target, why = why.as_str(), "gateway is down: it is tried last");
            }
            Some(Turn::Recovered) => info!(trunk = trunk.name, %target, "gateway is up again"),
            None => {}
        }
        trunk.count();
    }

    /// Every target that is to be asked by OPTIONS, with its trunk, its gateway's host and how often.
    #[must_use]
    pub fn to_probe(&self) -> Vec<(TrunkId, usize, Target, Duration)> {
        let mut wanted = vec![];
        for (index, trunk) in self.trunks.iter().enumerate() {
            let Some(interval) = trunk.options else { continue };
            for (place, gateway) in trunk.gateways.iter().enumerate() {
                wanted
                    .extend(gateway.choice().0.all().map(|target| (TrunkId(index), place, target, interval)));
            }
        }
        wanted
    }

    /// Looks names up, again and again, as long as it is polled.
    pub async fn keep_located(self: Arc<Self>, dns: Arc<dyn Dns>, families: Families) {
        let mut names = JoinSet::new();
        for (trunk, of_trunk) in self.trunks.iter().enumerate() {
            for (gateway, of_gateway) in of_trunk.gateways.iter().enumerate() {
                if of_gateway.named.is_some() {
                    let (gateways, dns) = (Arc::clone(&self), Arc::clone(&dns));
                    names.spawn(
                        async move { gateways.keep_one_located(trunk, gateway, &dns, families).await },
                    );
                }
            }
        }
        while names.join_next().await.is_some() {}
    }

    async fn keep_one_located(&self, trunk: usize, gateway: usize, dns: &Arc<dyn Dns>, families: Families) {
        let Some(of_trunk) = self.trunks.get(trunk) else { return };
        let Some(of_gateway) = of_trunk.gateways.get(gateway) else { return };
        let Some(named) = &of_gateway.named else { return };
        let mut cached = Cached::new(clock::now());
        let mut is_first = true;
        loop {
            // Without anything to fall back on, half an answer is better than none.
            let lenient = cached.choice().is_empty();
            let found = look_up(dns, &of_gateway.gateway, families, lenient, LOOK_UP, |_| {}).await;
            let error = found.as_ref().err().cloned();
            let now = clock::now();
            let news = cached.learn(found.ok(), now);
            self.remember(TrunkId(trunk), cached.choice(), now);
            let state = (Arc::new(cached.choice().clone()), cached.is_stale());
            *named.choice.write().unwrap_or_else(PoisonError::into_inner) = state;
            if news {
                Self::tell(of_trunk, of_gateway, &cached, error.as_ref());
                self.forget_lost_targets(of_trunk);
            }
            if is_first {
                is_first = false;
                self.looked_up.send_modify(|done| *done += 1);
            }
            clock::sleep_until(Some(cached.refresh_at())).await;
        }
    }

    fn tell(trunk: &OfTrunk, gateway: &OfGateway, cached: &Cached, error: Option<&super::dns::DnsError>) {
        let targets: Vec<String> = cached.choice().all().map(|target| target.to_string()).collect();
        let targets = targets.join(" ");
        match error {
            None => info!(trunk = trunk.name, gateway = gateway.uri, targets, "gateway located"),
            Some(error) => warn!(
                trunk = trunk.name,
                gateway = gateway.uri,
                targets,
                %error,
                "the gateway's name cannot be looked up: what was known before stays in use"
            ),
        }
    }

    fn remember(&self, trunk: TrunkId, choice: &Choice, now: Instant) {
        let mut known = self.behind_names.write().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, trunks| {
            trunks.retain(|_, until| *until > now);
            !trunks.is_empty()
        });
        for target in choice.all() {
            let address = target.address.ip().to_canonical();
            if known.len() < MAX_ADDRESSES || known.contains_key(&address) {
                known.entry(address).or_default().insert(trunk, now + REMEMBERED);
            }
        }
    }

    /// The health of what no name leads to any more.
    fn forget_lost_targets(&self, trunk: &OfTrunk) {
        let targets: Vec<Target> =
            trunk.gateways.iter().flat_map(|gateway| gateway.choice().0.all().collect::<Vec<_>>()).collect();
        trunk.health().retain(|target, _| targets.contains(target));
        trunk.count();
    }

    /// What an operator wants to see: every trunk, gateway and target. No number of a party is in it.
    #[must_use]
    pub fn view(&self) -> Vec<TrunkView> {
        let now = clock::now();
        let of_trunk = |trunk: &OfTrunk| TrunkView {
            name: trunk.name.clone(),
            options_seconds: trunk.options.map_or(0, |interval| interval.as_secs()),
            gateways: trunk.gateways.iter().map(|gateway| Self::view_of(trunk, gateway, now)).collect(),
        };
        self.trunks.iter().map(of_trunk).collect()
    }

    fn view_of(trunk: &OfTrunk, gateway: &OfGateway, now: Instant) -> GatewayView {
        let (choice, is_stale) = gateway.choice();
        let health = trunk.health();
        let target = |target: Target| {
            let view =
                health.get(&target).map_or_else(|| trunk.new_health().view(now), |known| known.view(now));
            TargetView::new(target, view)
        };
        GatewayView {
            gateway: gateway.uri.clone(),
            resolved: !choice.is_empty(),
            stale: is_stale,
            targets: choice.all().map(target).collect(),
        }
    }
}

/// A trunk's gateways, to be shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct TrunkView {
    /// Its name.
    pub name: String,
    /// How often its targets are asked by OPTIONS; 0: never.
    pub options_seconds: u64,
    /// In order of failover.
    pub gateways: Vec<GatewayView>,
}

/// A gateway, to be shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct GatewayView {
    /// As the configuration writes it.
    pub gateway: String,
    /// Whether its name leads somewhere.
    pub resolved: bool,
    /// Whether DNS fails, so that the targets may be out of date.
    pub stale: bool,
    /// Where it leads.
    pub targets: Vec<TargetView>,
}

/// A target, to be shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct TargetView {
    /// `udp:198.51.100.7:5060`.
    pub target: String,
    /// `up`, `down` or `unknown`; a target that is down is tried last.
    pub state: &'static str,
    /// While it is down: `no answer`, `transport error`, `TLS refused` or `503`.
    pub reason: Option<&'static str>,
    /// While it is down: since how many seconds.
    pub down_seconds: Option<u64>,
    /// While it is down: in how many seconds a call tries it again in its turn; none: once a probe is answered.
    pub retry_in_seconds: Option<u64>,
    /// The last fault that was met, also when it is up again.
    pub last_fault: Option<&'static str>,
    /// How many seconds ago that was.
    pub last_fault_seconds: Option<u64>,
}

impl TargetView {
    fn new(target: Target, view: View) -> Self {
        let state = match view.up {
            None => "unknown",
            Some(true) => "up",
            Some(false) => "down",
        };
        Self {
            target: target.to_string(),
            state,
            reason: view.why.map(super::health::Fault::as_str),
            down_seconds: view.since.map(|since| since.as_secs()),
            retry_in_seconds: view.left_alone.map(|time| time.as_secs()),
            last_fault: view.last_fault.map(|(fault, _)| fault.as_str()),
            last_fault_seconds: view.last_fault.map(|(_, ago)| ago.as_secs()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Trunk;
    use super::*;

    /// Trunks of gateways, each with where its name leads.
    fn located(trunks: &[&[(&str, &str)]]) -> Gateways {
        let trunk = |gateways: &&[(&str, &str)]| Trunk {
            gateways: gateways.iter().map(|(uri, _)| Gateway::parse(uri).unwrap()).collect(),
            ..Trunk::named("carrier")
        };
        let all = Gateways::new(&Trunks::new(trunks.iter().map(trunk).collect()));
        for (id, (of_trunk, gateways)) in all.trunks.iter().zip(trunks).enumerate() {
            for (gateway, (_, address)) in of_trunk.gateways.iter().zip(*gateways) {
                let Some(named) = &gateway.named else { continue };
                let target =
                    Target { transport: super::super::Transport::Tls, address: address.parse().unwrap() };
                let choice = Choice::one(target);
                all.remember(TrunkId(id), &choice, clock::now());
                *named.choice.write().unwrap() = (Arc::new(choice), false);
            }
        }
        all
    }

    #[test]
    fn an_address_has_the_name_of_the_gateway_there_unless_two_claim_it() {
        let all = located(&[
            &[("sips:one.example", "192.0.2.1:5061"), ("sip:192.0.2.9:5061;transport=tls", "")],
            &[("sips:two.example", "192.0.2.1:5071"), ("sips:three.example", "192.0.2.3:5061")],
            &[("sips:one.example", "192.0.2.4:5061"), ("sips:other.example", "192.0.2.9:5071")],
        ]);
        let table = [
            ("192.0.2.1:5061", None, Some("one.example")),
            ("192.0.2.1:5071", Some(0), Some("two.example")),
            // From another port: whose trunk it is decides.
            ("192.0.2.1:40000", None, None),
            ("192.0.2.1:40000", Some(0), Some("one.example")),
            ("[::ffff:192.0.2.1]:40000", Some(1), Some("two.example")),
            ("192.0.2.3:40000", Some(0), Some("three.example")),
            // A gateway that is an address proves that.
            ("192.0.2.9:5061", Some(2), None),
            ("192.0.2.9:40000", Some(2), Some("other.example")),
            ("192.0.2.7:5061", Some(0), None),
        ];
        for (address, likely, expected) in table {
            let found = all.name_at(address.parse().unwrap(), likely.map(TrunkId));
            assert_eq!(found.as_deref(), expected, "{address} {likely:?}");
        }
    }

    #[test]
    fn an_address_behind_a_name_is_its_own_trunks() {
        let all =
            located(&[&[("sips:one.example", "192.0.2.1:5061")], &[("sips:two.example", "192.0.2.2:5061")]]);
        let address = |last: u8| IpAddr::from([192, 0, 2, last]);
        assert!(all.has_address(address(1)) && all.has_address(address(2)) && !all.has_address(address(3)));
        assert!(all.leads_to(TrunkId(0), address(1)) && !all.leads_to(TrunkId(0), address(2)));
        assert!(all.leads_to(TrunkId(1), address(2)) && !all.leads_to(TrunkId(1), address(3)));
    }
}

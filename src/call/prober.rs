//! Asks gateways by OPTIONS whether they live (RFC 3261 §11), where `trunks[].options_seconds` says so, and tells
//! [`crate::trunk::gateways`] what came of it.
//!
//! Each target has its own beat, which begins at a random moment and is never quite regular, so that neither many
//! targets nor many nodes ask at once. It never sends a second question before the first one is over.

use super::identity::{self, InviteIds};
use super::registry::{Shell, protocol_of};
use crate::clock;
use crate::ids::IdSource;
use crate::sip::outside::AskError;
use crate::sip::transport::Destination;
use crate::trunk::TrunkId;
use crate::trunk::health::Outcome;
use crate::trunk::resolve::Target;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// How long an answer to OPTIONS may take: over UDP the question has been sent four times by then.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it is looked for targets that are new.
const LOOK: Duration = Duration::from_secs(1);
/// Questions under way at one time.
const AT_ONCE: usize = 64;

/// Runs as long as it is polled; ends at once when no trunk wants it.
pub async fn run(shell: Arc<Shell>) {
    if shell.trunks.iter().all(|(_, trunk)| trunk.options.is_none()) {
        return;
    }
    let mut due: BTreeMap<(TrunkId, Target), Instant> = BTreeMap::new();
    let mut asking = JoinSet::new();
    loop {
        let now = clock::now();
        let wanted = shell.gateways.to_probe();
        due.retain(|key, _| wanted.iter().any(|(trunk, _, target, _)| (*trunk, *target) == *key));
        for (trunk, gateway, target, interval) in wanted {
            let at = *due.entry((trunk, target)).or_insert_with(|| now + interval.mul_f64(rand::random()));
            if at <= now && asking.len() < AT_ONCE {
                let pause = interval.mul_f64(0.75 + rand::random::<f64>() / 2.0);
                due.insert((trunk, target), now + pause.max(PATIENCE.min(interval)));
                asking.spawn(ask(Arc::clone(&shell), trunk, gateway, target, PATIENCE.min(interval)));
            }
        }
        while asking.try_join_next().is_some() {}
        let next = due.values().min().copied().unwrap_or(now + LOOK).min(now + LOOK);
        clock::sleep_until(Some(next.max(now + Duration::from_millis(50)))).await;
    }
}

async fn ask(shell: Arc<Shell>, trunk: TrunkId, gateway: usize, target: Target, limit: Duration) {
    let Some(profile) = shell.trunks.trunk(trunk) else { return };
    let Some(gateway) = profile.gateways.get(gateway) else { return };
    let mut ids = IdSource::from_system();
    let protocol = protocol_of(target.transport);
    let Some(address) = shell.leg_address(protocol, target.address.ip(), None, &mut ids) else { return };
    let ids = InviteIds { call_id: ids.call_id(), tag: ids.tag(), cseq: ids.cseq(), branch: ids.branch() };
    let options = identity::options(gateway, &address, ids);
    let name = gateway.ip().is_none().then(|| Arc::from(gateway.host.as_str()));
    let to = Destination { name, ..Destination::new(protocol, target.address) };
    let sent = shell.outside.ask(|wire, to| shell.send_to(wire, to), &options, to, limit).await;
    let outcome = match sent {
        Ok(response) => Outcome::of_status(response.status, identity::retry_after(&response.head)),
        Err(AskError::TimedOut) => Outcome::Silent,
        Err(AskError::NotSent) => Outcome::NotSent,
        Err(AskError::NotTrusted) => Outcome::NotTrusted,
    };
    shell.gateways.probed(&profile.name, target, outcome);
}

//! The shell of registrations: one task for each trunk that registers. It finds gateways, sends, and does what
//! [`crate::trunk::registration`] says; `maskline_trunk_registered` and the log tell how it stands.

use super::Hop;
use super::registry::Shell;
use crate::clock;
use crate::ids::IdSource;
use crate::sip::outside::Heard;
use crate::sip::transport::SendToken;
use crate::sip::wire::ByteStr;
use crate::trunk::registration::{Action, Event, Registration};
use crate::trunk::{Trunk, TrunkId};
use metrics::Gauge;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{info, warn};

/// All registrations of the service.
pub struct Registrar {
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl Registrar {
    /// Registers every trunk that wants it, once the transports are there. Inside a tokio runtime.
    #[must_use]
    pub fn start(shell: &Arc<Shell>) -> Self {
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        for (id, trunk) in shell.trunks.iter().filter(|(_, trunk)| trunk.register) {
            let Some(machine) = registration(trunk) else { continue };
            let gauge = metrics::gauge!("maskline_trunk_registered", "trunk" => trunk.name.clone());
            gauge.set(0.0);
            let keeper = Keeper {
                shell: Arc::clone(shell),
                id,
                name: trunk.name.clone(),
                machine,
                gauge,
                registered: false,
                hop: None,
            };
            tasks.spawn(keeper.run(stopped.clone()));
        }
        Self { stop, tasks }
    }

    /// Takes all of them back: no new call shall come here.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Waits until every registrar has said that it knows, at most for so long.
    pub async fn finished(&mut self, limit: Duration) {
        let all = async { while self.tasks.join_next().await.is_some() {} };
        // Who does not answer will learn of it when the registration runs out.
        let _ = tokio::time::timeout(limit, all).await;
        self.tasks.abort_all();
    }
}

fn registration(trunk: &Trunk) -> Option<Registration> {
    let credentials = trunk.credentials.as_ref()?;
    Some(Registration::new(credentials, trunk.registered_user(), IdSource::from_system(), clock::now()))
}

/// One trunk's registration at work.
struct Keeper {
    shell: Arc<Shell>,
    id: TrunkId,
    name: String,
    machine: Registration,
    gauge: Gauge,
    registered: bool,
    /// The place that was found last.
    hop: Option<Hop>,
}

impl Keeper {
    async fn run(mut self, mut stopped: watch::Receiver<bool>) {
        let (_listening, mut heard) = self.shell.outside.listen(self.machine.dialog_key());
        let mut stopping = false;
        while !self.machine.is_over() {
            let actions = tokio::select! {
                biased;
                // The sender is dropped with the service: that means the same.
                _ = stopped.wait_for(|stop| *stop), if !stopping => {
                    stopping = true;
                    self.machine.handle(Event::Stop, clock::now())
                }
                Some(heard) = heard.recv() => match heard {
                    Heard::Response(received) => {
                        let (response, flow) = &*received;
                        self.machine.handle(Event::Response(response, flow.peer.ip()), clock::now())
                    }
                    Heard::NotSent(branch, _) => self.machine.handle(Event::NotSent(&branch), clock::now()),
                },
                () = clock::sleep_until(self.machine.deadline()) => {
                    self.machine.handle(Event::Timeout, clock::now())
                }
            };
            self.perform(actions).await;
        }
    }

    async fn perform(&mut self, actions: Vec<Action>) {
        let mut actions = VecDeque::from(actions);
        while let Some(action) = actions.pop_front() {
            match action {
                Action::Locate(number) => {
                    let found = self.shell.registrar(self.id, number).await;
                    let (hop, way) =
                        found.map_or((None, None), |(hop, way)| (Some(hop), Some(Box::new(way))));
                    self.hop = hop;
                    actions.extend(self.machine.handle(Event::Located(way), clock::now()));
                }
                Action::Send { wire, branch } => {
                    if let Some(hop) = &self.hop {
                        let (dialog, branch) = (self.machine.dialog_key(), ByteStr::from(branch.as_str()));
                        let token = Some(SendToken { dialog, branch });
                        self.shell.send(wire, &Hop { token, ..hop.clone() });
                    }
                }
                Action::Registered(granted) => {
                    self.gauge.set(1.0);
                    if !std::mem::replace(&mut self.registered, true) {
                        info!(trunk = self.name, seconds = granted.as_secs(), "registered");
                    }
                }
                Action::Failed(failure, wait) => {
                    metrics::counter!("maskline_trunk_registration_failures_total", "trunk" => self.name.clone())
                        .increment(1);
                    let seconds = wait.as_secs();
                    warn!(trunk = self.name, again_in_seconds = seconds, "not registered: {failure}");
                }
                Action::Lost => {
                    self.gauge.set(0.0);
                    self.registered = false;
                    warn!(trunk = self.name, "the registration has run out");
                }
                Action::Over => self.gauge.set(0.0),
            }
        }
    }
}

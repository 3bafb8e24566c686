//! `maskline trunk-check NAME`: is the carrier reached, and what must be changed if not? It looks the gateways up,
//! connects, looks at certificates, asks by OPTIONS, and places a test call when a number is given; everything is told
//! in words that a carrier's support understands.
//!
//! Shell. It needs no running service and disturbs none: where the configured ports are taken, it speaks from others and
//! says so. It changes nothing anywhere, and prints no password and no party's number.

mod call;
mod certificate;
mod report;
mod secure;

use crate::call::identity::{self, InviteIds, LegAddress};
use crate::call::registry::protocol_of;
use crate::clock;
use crate::config::Checked;
use crate::ids::IdSource;
use crate::number::E164;
use crate::sip::digest;
use crate::sip::key::DialogKey;
use crate::sip::message::{Message, ParseError};
use crate::sip::outside::{AskError, Outside};
use crate::sip::transport::{
    Destination, Flow, Handler, ListenAddress, Protocol, SendFault, SendToken, TransportLimits, Transports,
    local_address_towards,
};
use crate::trunk::dns::{Dns, SystemDns, look_up};
use crate::trunk::resolve::{Families, Target};
use crate::trunk::{Gateway, Trunk};
use report::{Line, Report};
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// How long DNS may take for one gateway.
const LOOK_UP: Duration = Duration::from_secs(15);
/// How long an answer to OPTIONS may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Messages that may wait to be looked at.
const INBOX: usize = 256;

/// Checks one trunk and says what it finds. 0: all is well; 1: something is not; 2: there is no such trunk.
#[must_use]
pub fn trunk_check(config: &Checked, name: &str, number: Option<&str>) -> ExitCode {
    let Some(trunk) = config.trunks.get(name) else {
        let names: Vec<&str> = config.trunks.iter().map(|(_, trunk)| trunk.name.as_str()).collect();
        eprintln!("there is no trunk {name:?}; the configuration has: {}", names.join(", "));
        return ExitCode::from(crate::FAULTY_CONFIGURATION);
    };
    let number = match number.map(|written| trunk.read_number(written)) {
        Some(None) => {
            eprintln!("--call wants a telephone number, such as +12025550100");
            return ExitCode::from(crate::FAULTY_CONFIGURATION);
        }
        number => number.flatten(),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let dns: Arc<dyn Dns> = runtime.block_on(async { Arc::new(SystemDns::new()) });
    match runtime.block_on(check(config, trunk, number, dns, std::io::stdout())) {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

/// The check itself: writes the report to `out` and returns the number of faults.
pub async fn check(
    config: &Checked,
    trunk: &Trunk,
    number: Option<E164>,
    dns: Arc<dyn Dns>,
    out: impl Write,
) -> usize {
    let mut report = Report::new(out);
    report.say(&format!("Trunk {}", trunk.name));
    if trunk.gateways.is_empty() {
        report.add(&Line::note("it has no gateways: it takes calls and makes none"));
        return report.faults();
    }
    let listen = &config.sip.listen;
    let has = |v4| listen.iter().any(|listen| listen.address.is_ipv4() == v4);
    let families = Families { v4: has(true), v6: has(false) };
    let mut check = match Check::start(config, trunk, &mut report) {
        Ok(check) => check,
        Err(error) => {
            report.add(&Line::fault(error.to_string()));
            return report.faults();
        }
    };
    let mut good: Option<(Gateway, Target)> = None;
    for gateway in &trunk.gateways {
        report.head(&format!("Gateway {gateway}"));
        let (mut lines, on_answer) = (vec![], |asked: crate::trunk::dns::Asked| asked);
        let found =
            look_up(&dns, gateway, families, true, LOOK_UP, |asked| lines.push(on_answer(asked))).await;
        for asked in &lines {
            let error = asked.found.as_ref().err().map(ToString::to_string);
            let answer = match (&asked.found, &error) {
                (Ok((answer, _)), _) => Ok(answer),
                (Err(_), error) => Err(error.as_deref().unwrap_or_default()),
            };
            report.add(&report::of_answer(&asked.question, answer));
        }
        let targets = match found {
            Ok((choice, _)) => choice.order(|most| rand::random_range(0..=most)),
            Err(error) => {
                report.add(&report::of_failed_look_up(&gateway.host, &error.to_string()));
                continue;
            }
        };
        if gateway.ip().is_none() {
            let targets: Vec<String> = targets.iter().map(ToString::to_string).collect();
            report.add(&Line::ok(format!("calls try {}", targets.join(", then "))));
        }
        for target in targets {
            report.head(&format!("Target {target}"));
            if check.target(gateway, target, &mut report).await {
                good.get_or_insert((gateway.clone(), target));
            }
        }
    }
    match (number, good) {
        (Some(number), Some((gateway, target))) => check.call(&gateway, target, number, &mut report).await,
        (Some(_), None) => {
            report.head("Test call");
            report.add(&Line::fault("no gateway answers, so no call was placed"));
        }
        (None, _) => {}
    }
    check.transports.shutdown().await;
    let faults = report.faults();
    report.head(&match faults {
        0 => "Everything that was tried works.".to_owned(),
        1 => "1 fault.".to_owned(),
        many => format!("{many} faults."),
    });
    faults
}

/// What everything that is tried needs.
struct Check<'a> {
    config: &'a Checked,
    trunk: &'a Trunk,
    transports: Transports,
    outside: Outside,
    inbox: mpsc::Receiver<Heard>,
}

/// What came.
enum Heard {
    Message(Box<(Message, Flow)>),
    NotSent(SendToken, SendFault),
}

struct Ears {
    outside: Outside,
    inbox: mpsc::Sender<Heard>,
}

impl Handler for Ears {
    type Peer = ();

    fn admit(&self, _: IpAddr) -> Option<()> {
        // For the minute that a check takes: what is no answer of ours is left alone.
        Some(())
    }

    fn on_message(&self, message: Message, flow: Flow, (): ()) {
        let message = match message {
            Message::Response(response)
                if DialogKey::of_response(&response).is_some_and(|key| self.outside.waits_for(&key)) =>
            {
                self.outside.take(response, flow);
                return;
            }
            message => message,
        };
        let _ = self.inbox.try_send(Heard::Message(Box::new((message, flow))));
    }

    fn on_malformed(&self, _: ParseError, _: Flow, (): ()) {}

    fn on_send_failed(&self, token: SendToken, why: SendFault) {
        self.outside.not_sent(&token, why);
        let _ = self.inbox.try_send(Heard::NotSent(token, why));
    }
}

impl<'a> Check<'a> {
    /// Binds the configured ports, or others.
    fn start<W: Write>(
        config: &'a Checked,
        trunk: &'a Trunk,
        report: &mut Report<W>,
    ) -> Result<Self, crate::sip::transport::BindError> {
        let outside = Outside::default();
        let (sender, inbox) = mpsc::channel(INBOX);
        let bind = |addresses: &[ListenAddress]| {
            let ears = Ears { outside: outside.clone(), inbox: sender.clone() };
            Transports::bind(addresses, TransportLimits::default(), config.sip.tls.clone(), Arc::new(ears))
        };
        let configured: Vec<ListenAddress> = config
            .sip
            .listen
            .iter()
            .map(|listen| ListenAddress { protocol: protocol_of(listen.transport), address: listen.address })
            .collect();
        let transports = match bind(&configured) {
            Ok(transports) => transports,
            Err(crate::sip::transport::BindError::Refused { .. }) => {
                let free = |listen: &ListenAddress| {
                    let address = SocketAddr::new(listen.address.ip(), 0);
                    ListenAddress { address, ..*listen }
                };
                let transports = bind(&configured.iter().map(free).collect::<Vec<_>>())?;
                report.add(&Line::note(
                    "the ports of sip.listen are in use, by the running service as a rule: this check speaks from others",
                ));
                transports
            }
            Err(error) => return Err(error),
        };
        Ok(Self { config, trunk, transports, outside, inbox })
    }

    /// What a leg to this target would show of us.
    fn address(&self, target: Target) -> Option<LegAddress> {
        let protocol = protocol_of(target.transport);
        let listeners = self.transports.local_addresses();
        let of = |protocol| {
            let fits = |at: &SocketAddr| at.is_ipv4() == target.address.is_ipv4();
            listeners.iter().find(|(kind, at)| *kind == protocol && fits(at)).map(|(_, at)| *at)
        };
        let listener = of(protocol).or_else(|| of(Protocol::Udp)).or_else(|| of(Protocol::Tcp))?;
        let local = match listener.ip() {
            ip if ip.is_unspecified() => local_address_towards(target.address).ok()?,
            ip => ip,
        };
        Some(LegAddress {
            protocol,
            sip: SocketAddr::new(self.config.sip.public_address.unwrap_or(local), listener.port()),
            media: self.config.media.public_address.unwrap_or(local),
            bind: local,
            contact_user: IdSource::from_system().contact_user(),
            sips: false,
        })
    }

    /// Whether this target is fit for calls.
    async fn target<W: Write>(&mut self, gateway: &Gateway, target: Target, report: &mut Report<W>) -> bool {
        let Some(address) = self.address(target) else {
            report.add(
                &Line::fault(format!("there is no way from this machine to {}", target.address.ip())).advise(
                    "look at this machine's routes, and whether sip.listen has an address of that family",
                ),
            );
            return false;
        };
        if target.transport == crate::trunk::Transport::Tls {
            let name = gateway.ip().is_none().then_some(gateway.host.as_str());
            if !secure::check(&self.config.sip.tls, target.address, name, report).await {
                return false;
            }
        }
        let mut ids = IdSource::from_system();
        let ids =
            InviteIds { call_id: ids.call_id(), tag: ids.tag(), cseq: ids.cseq(), branch: ids.branch() };
        let mut options = identity::options(gateway, &address, ids);
        let name = gateway.ip().is_none().then(|| Arc::from(gateway.host.as_str()));
        let to = Destination { name, ..Destination::new(address.protocol, target.address) };
        let mut began = clock::now();
        let transports = self.transports.clone();
        let send = |wire, to: &Destination| transports.send(wire, to);
        let mut asked = self.outside.ask(send, &options, to.clone(), PATIENCE).await;
        let mut credentials = self.trunk.credentials.clone().map(digest::Client::new);
        let mut answered = 0;
        // RFC 3261 §22.2: asked for credentials, it is asked once more with them.
        while let (Ok(response), Some(client)) = (&asked, &mut credentials)
            && matches!(response.status, 401 | 407)
        {
            let mut random = IdSource::from_system();
            if let Err(why) = client.answer(&mut options, response, answered, &random.tag()) {
                report.add(&Line::note(format!("the carrier asks for a password, and gets none: {why}")));
                break;
            }
            answered += 1;
            options.cseq = options.cseq.saturating_add(1);
            options.via.branch = random.branch();
            began = clock::now();
            asked = self.outside.ask(send, &options, to.clone(), PATIENCE).await;
        }
        let took = clock::now().saturating_duration_since(began);
        let from = SocketAddr::new(address.bind, address.sip.port());
        match asked {
            Ok(response) => {
                let retry_after = identity::retry_after(&response.head);
                let line =
                    report::of_options(response.status, retry_after, took, self.trunk.credentials.is_some());
                report.add(&line);
                if answered > 0 && !matches!(response.status, 401 | 407) {
                    report.add(&Line::ok("user name and password are accepted"));
                }
                let received = response.head.via.received.as_deref().and_then(|seen| seen.parse().ok());
                if let Some(line) = received.and_then(|seen| report::of_seen_address(seen, address.sip.ip()))
                {
                    report.add(&line);
                }
                line.mark != report::Mark::Fault
            }
            Err(AskError::TimedOut) => {
                report.add(&report::of_no_answer(&target, &from.to_string()));
                false
            }
            Err(AskError::NotSent) => {
                report.add(
                    &Line::fault(format!("{target} cannot be reached: no connection, or no route")).advise(
                        "check address and port with the carrier, and this machine's firewall for traffic going out",
                    ),
                );
                false
            }
            Err(AskError::NotTrusted) => {
                report.add(&Line::fault(format!("{target} ended TLS before OPTIONS was answered")).advise(
                    "the carrier may want a certificate of ours: sip.tls.certificate and sip.tls.key, of a name that it knows",
                ));
                false
            }
        }
    }
}

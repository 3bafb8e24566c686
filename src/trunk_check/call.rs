//! The test call: one leg, made like every B-leg, that is hung up soon after its answer. Audio that comes is counted and
//! thrown away.

use super::report::{self, Line, Report};
use super::{Check, Heard};
use crate::call::cdr::HangupCause;
use crate::call::identity::Callee;
use crate::call::leg::{Dial, Leg, Output};
use crate::call::registry::protocol_of;
use crate::call::signal::{Order, Signal};
use crate::call::{Action, Hop, Place};
use crate::clock;
use crate::ids::IdSource;
use crate::number::E164;
use crate::sip::transport::Destination;
use crate::trunk::resolve::Target;
use crate::trunk::{Gateway, SrtpPolicy};
use media::sdp::{LocalMedia, LocalSrtp, MediaAllow};
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::UdpSocket;

/// How long it may ring.
const RINGING: Duration = Duration::from_secs(40);
/// How long it is listened after the answer.
const LISTENING: Duration = Duration::from_secs(3);
/// How long the end of the call may take.
const ENDING: Duration = Duration::from_secs(5);

impl Check<'_> {
    /// Calls `number` from the first virtual number of the trunk.
    pub(super) async fn call<W: Write>(
        &mut self,
        gateway: &Gateway,
        target: Target,
        number: E164,
        report: &mut Report<W>,
    ) {
        let own = self.config.numbers.iter().find(|own| own.trunk == self.trunk.name);
        let Some(from) = own.map(|own| own.did.clone()) else {
            report.head("Test call");
            report.add(
                &Line::fault("no virtual number leaves by this trunk, so there is nobody to call as")
                    .advise("give it one under [[numbers]]; one that the carrier has given you"),
            );
            return;
        };
        report.head(&format!("Test call from {from} by {target}"));
        let Some(address) = self.address(target) else { return };
        let Some(audio) = self.audio(address.bind).await else {
            report.add(&Line::fault("no port of media.ports is free for the test call's audio"));
            return;
        };
        let mut ids = IdSource::from_system();
        let port = audio.local_addr().map_or(0, |at| at.port());
        let networks = self.trunk.media_allow.iter().map(|net| (net.addr(), net.prefix_len())).collect();
        let local = LocalMedia {
            address: address.media,
            port,
            session_id: ids.sdp_session_id(),
            codecs: self.trunk.codecs.clone(),
            source: self.trunk.rtp_source,
            allow: MediaAllow { networks, private: true },
            srtp: (self.trunk.srtp != SrtpPolicy::Off).then(|| LocalSrtp {
                required: self.trunk.srtp == SrtpPolicy::Required,
                secret: ids.srtp_secret(),
            }),
        };
        let literal =
            if gateway.host.contains(':') { format!("[{}]", gateway.host) } else { gateway.host.clone() };
        let protocol = protocol_of(target.transport);
        let dial = Dial {
            from,
            callee: Callee::Party {
                number,
                gateway: gateway.port.map_or(literal.clone(), |port| format!("{literal}:{port}")),
            },
            trunk: Arc::new(self.trunk.clone()),
            hop: Hop {
                protocol,
                place: Place::Address(target.address),
                connection: None,
                local: None,
                pinned: gateway.transport.is_some(),
                name: gateway.ip().is_none().then(|| Arc::from(gateway.host.as_str())),
                token: None,
            },
            address,
            max_forwards: 70,
            local,
        };
        let mut actions = vec![];
        let mut out = Output { actions: &mut actions, signals: vec![], ids: &mut ids, now: clock::now() };
        let leg = Leg::dial(dial, &mut out);
        self.perform(actions);
        let call = TestCall {
            leg,
            ids,
            until: clock::now() + RINGING,
            packets: 0,
            answered: false,
            has_password: self.trunk.credentials.is_some(),
        };
        call.run(self, &audio, report).await;
    }

    /// A socket in the range that the firewall lets in.
    async fn audio(&self, bind: IpAddr) -> Option<UdpSocket> {
        let ports = &self.config.media.limits.ports;
        for port in ports.clone().step_by(2).take(200) {
            if let Ok(socket) = UdpSocket::bind(SocketAddr::new(bind, port)).await {
                return Some(socket);
            }
        }
        None
    }

    fn perform(&self, actions: Vec<Action>) {
        for action in actions {
            if let Action::Send { wire, to } = action
                && let Some(address) = to.address()
            {
                let to = Destination {
                    protocol: to.protocol,
                    address,
                    connection: to.connection,
                    local: to.local,
                    name: to.name,
                    token: to.token,
                };
                self.transports.send(wire, &to);
            }
        }
    }
}

struct TestCall {
    leg: Leg,
    ids: IdSource,
    /// When this stage of the call ends.
    until: Instant,
    packets: usize,
    answered: bool,
    has_password: bool,
}

impl TestCall {
    async fn run<W: Write>(mut self, check: &mut Check<'_>, audio: &UdpSocket, report: &mut Report<W>) {
        let mut buffer = vec![0; 2048];
        let mut ending = false;
        while !self.leg.is_done() {
            let wake = self.leg.deadline().map_or(self.until, |at| at.min(self.until));
            let heard = tokio::select! {
                Some(heard) = check.inbox.recv() => Some(heard),
                Ok(_) = audio.recv_from(&mut buffer) => {
                    self.packets += 1;
                    continue;
                }
                () = clock::sleep_until(Some(wake)) => None,
            };
            let now = clock::now();
            let signals = self.feed(check, now, |leg, out| match heard {
                Some(Heard::Message(received)) if leg.owns(&received.0) => {
                    leg.handle(&received.0, &received.1, out)
                }
                Some(Heard::Message(_)) => {}
                Some(Heard::NotSent(token, why)) => leg.on_send_failed(&token.branch, why, out),
                None => leg.on_timeout(out),
            });
            for signal in signals {
                self.tell(&signal, report);
            }
            if self.until <= now {
                if ending {
                    return;
                }
                ending = true;
                self.until = now + ENDING;
                if self.answered {
                    self.count(report);
                } else if !self.leg.has_ended() {
                    report.add(&Line::note("nobody answered the test call; it was cancelled"));
                }
                let _ = self.feed(check, now, |leg, out| leg.obey(Order::HangUp(HangupCause::Normal), out));
            } else if self.leg.has_ended() && !ending {
                ending = true;
                self.until = now + ENDING;
            }
        }
    }

    fn feed(
        &mut self,
        check: &Check<'_>,
        now: Instant,
        work: impl FnOnce(&mut Leg, &mut Output<'_>),
    ) -> Vec<Signal> {
        let mut actions = vec![];
        let mut out = Output { actions: &mut actions, signals: vec![], ids: &mut self.ids, now };
        work(&mut self.leg, &mut out);
        let signals = out.signals;
        check.perform(actions);
        signals
    }

    fn tell<W: Write>(&mut self, signal: &Signal, report: &mut Report<W>) {
        match signal {
            Signal::Progress { status, stream } => {
                let audio = if stream.is_some() { ", with audio before the answer" } else { "" };
                report.add(&Line::ok(format!("the called side says {status}{audio}")));
            }
            Signal::Answered(stream) => {
                self.answered = true;
                self.until = clock::now() + LISTENING;
                report.add(&Line::ok(format!("it was answered, with {:?}", stream.codec)));
            }
            Signal::Refused(status) => report.add(&report::of_call(*status, self.has_password)),
            Signal::HungUp(_) if self.answered => {
                report.add(&Line::ok("the called side hung up"));
                self.count(report);
            }
            Signal::Taken | Signal::HungUp(_) | Signal::Reoffered(_) | Signal::Digit(_) => {}
        }
    }

    fn count<W: Write>(&self, report: &mut Report<W>) {
        let packets = self.packets;
        report.add(&if packets > 0 {
            Line::ok(format!("{packets} packets of audio came"))
        } else {
            Line::fault("no audio came").advise(
                "let UDP in on all of media.ports; behind NAT set media.public_address to the address that the carrier reaches",
            )
        });
    }
}

//! The addresses of host names that others choose: API clients in URLs, peers in Contact and Route.
//!
//! `/etc/hosts` first, then DNS as `/etc/resolv.conf` says; both are read again when they change. A name whose servers
//! do not answer costs a place among [`LOOK_UPS`] for the time that the asker gives, and never a thread: the
//! system's own resolver would hold one of the few that files are written by, for as long as it likes and when nobody
//! waits any more. Whether an address may be reached is for the asker to decide.

use crate::clock;
use hickory_resolver::config::{NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::{Hosts, TokioResolver};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Look-ups at one time, of each asker: each has up to two sockets. Others wait, within their time.
const LOOK_UPS: usize = 256;
/// How long DNS waits before it asks another time.
const TRY: Duration = Duration::from_millis(1200);
/// Answers that are kept for as long as they hold.
const KEPT: u64 = 1024;
/// And no longer than this: a receiver that moves is found.
const LONGEST: Duration = Duration::from_secs(300);
/// So often it is looked whether the system's files have changed.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// What the system is configured by.
const FILES: [&str; 2] = ["/etc/resolv.conf", "/etc/hosts"];

/// Why a name leads nowhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NameError {
    /// Neither an answer nor a place to ask in time.
    #[error("no answer for the host's name in time")]
    TimedOut,
    /// It cannot be asked for.
    #[error("the host's name is none of DNS")]
    NoName,
    /// There is no such name, or it has no address.
    #[error("the host's name has no address")]
    NoAddress,
    /// DNS failed, in its own words.
    #[error("the host's name could not be looked up: {0}")]
    Failed(String),
}

/// Looks names up. Cloning shares it.
#[derive(Clone)]
pub(crate) struct Names(Arc<Inner>);

struct Inner {
    room: Semaphore,
    /// `None` until the first question.
    sources: Mutex<Option<Sources>>,
    /// Tests have a zone of their own; it does not change.
    follows_system: bool,
}

/// Who knows.
#[derive(Clone)]
struct Sources {
    hosts: Arc<Hosts>,
    /// `None` when it cannot be set up; then only `hosts` are known.
    dns: Option<TokioResolver>,
    /// Of [`FILES`], when these were read.
    stamps: [Option<(SystemTime, u64)>; 2],
    looked_at: Instant,
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Names")
    }
}

impl Names {
    /// As the system is configured.
    pub(crate) fn of_system() -> Self {
        let inner = Inner { room: Semaphore::new(LOOK_UPS), sources: Mutex::new(None), follows_system: true };
        Self(Arc::new(inner))
    }

    /// The addresses of `name`, IPv4 first; at least one. Ends within `limit`.
    ///
    /// # Errors
    /// [`NameError`].
    pub(crate) async fn addresses(&self, name: &str, limit: Duration) -> Result<Vec<IpAddr>, NameError> {
        let deadline = clock::now() + limit;
        // Invariant: the semaphore is never closed.
        let Ok(Ok(_place)) = timeout(limit, self.0.room.acquire()).await else {
            return Err(NameError::TimedOut);
        };
        let name = Name::from_ascii(name).map_err(|_| NameError::NoName)?;
        let sources = self.sources();
        let known = sources.in_hosts(&name);
        if !known.is_empty() {
            return Ok(known);
        }
        let Some(dns) = &sources.dns else { return Err(NameError::NoAddress) };
        let left = deadline.saturating_duration_since(clock::now());
        // Each has all of the time: what one of them knows is enough.
        let (v4, v6) = tokio::join!(
            timeout(left, dns.lookup(name.clone(), RecordType::A)),
            timeout(left, dns.lookup(name, RecordType::AAAA))
        );
        let both = [v4, v6].map(|found| match found {
            Err(_) | Ok(Err(NetError::Timeout)) => Err(NameError::TimedOut),
            Ok(Err(error)) if error.is_no_records_found() => Ok(vec![]),
            Ok(Err(error)) => Err(NameError::Failed(error.to_string())),
            Ok(Ok(found)) => Ok(addresses_of(&found)),
        });
        let found: Vec<_> = both.iter().flatten().flatten().copied().collect();
        if !found.is_empty() {
            return Ok(found);
        }
        Err(both.into_iter().find_map(Result::err).unwrap_or(NameError::NoAddress))
    }

    /// What is known of the system, read anew when its files have changed.
    fn sources(&self) -> Sources {
        let now = clock::now();
        let mut kept = self.0.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sources) = kept.as_mut() {
            if !self.0.follows_system || now < sources.looked_at + LOOK_AGAIN {
                return sources.clone();
            }
            sources.looked_at = now;
            if sources.stamps == stamps() {
                return sources.clone();
            }
        }
        kept.insert(Sources::of_system(now)).clone()
    }
}

impl Sources {
    fn of_system(now: Instant) -> Self {
        // First, so that what changes in between is seen the next time.
        let stamps = stamps();
        let hosts = Hosts::from_system().unwrap_or_default();
        let builder = TokioResolver::builder_tokio().unwrap_or_else(|error| {
            tracing::info!(%error, "/etc/resolv.conf names no DNS server: the one of this machine is asked");
            let here = NameServerConfig::udp_and_tcp(Ipv4Addr::LOCALHOST.into());
            let config = ResolverConfig::from_parts(None, vec![], vec![here]);
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        });
        let mut builder = builder;
        bound(builder.options_mut());
        let dns = builder.build().inspect_err(|error| tracing::warn!(%error, "no DNS for URLs and peers"));
        Self { hosts: Arc::new(hosts), dns: dns.ok(), stamps, looked_at: now }
    }

    /// As the hosts file has it. A name that stands there is not asked for elsewhere.
    fn in_hosts(&self, name: &Name) -> Vec<IpAddr> {
        let of = |kind| self.hosts.lookup_static_host(&Query::query(name.to_lowercase(), kind));
        [of(RecordType::A), of(RecordType::AAAA)].iter().flatten().flat_map(addresses_of).collect()
    }
}

fn addresses_of(found: &Lookup) -> Vec<IpAddr> {
    found.answers().iter().filter_map(|record| record.data.ip_addr()).collect()
}

fn bound(options: &mut ResolverOpts) {
    options.timeout = TRY;
    options.attempts = 1;
    options.cache_size = KEPT;
    options.positive_max_ttl = Some(LONGEST);
    options.negative_max_ttl = Some(LONGEST);
    options.max_active_requests = LOOK_UPS.saturating_mul(2);
    // From any other port a question could take one that a call's media is about to have.
    options.os_port_selection = true;
}

/// When each of [`FILES`] was written, and its length.
fn stamps() -> [Option<(SystemTime, u64)>; 2] {
    FILES.map(|file| {
        let about = std::fs::metadata(file).ok()?;
        Some((about.modified().ok()?, about.len()))
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use hickory_resolver::config::ConnectionConfig;
    use std::net::SocketAddr;
    use tokio::net::UdpSocket;

    const LIMIT: Duration = Duration::from_secs(30);
    /// Instead of [`LOOK_UPS`], because other tests want sockets too.
    const ROOM: usize = 16;

    impl Names {
        /// Asks the DNS server at `server` and knows `hosts`, in the form of `/etc/hosts`.
        pub(crate) fn of_server(server: SocketAddr, hosts: &str) -> Self {
            let connection = |mut config: ConnectionConfig| {
                config.port = server.port();
                config
            };
            let mut config = NameServerConfig::udp(server.ip());
            config.connections = vec![connection(ConnectionConfig::udp())];
            let config = ResolverConfig::from_parts(None, vec![], vec![config]);
            let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
            bound(builder.options_mut());
            let mut known = Hosts::default();
            known.read_hosts_conf(hosts.as_bytes()).unwrap();
            let sources = Sources {
                hosts: Arc::new(known),
                dns: Some(builder.build().unwrap()),
                stamps: [None; 2],
                looked_at: clock::now(),
            };
            let room = Semaphore::new(ROOM);
            Self(Arc::new(Inner { room, sources: Mutex::new(Some(sources)), follows_system: false }))
        }
    }

    /// A DNS server on loopback that knows these names until the test ends. Names in `silent.test` are not answered;
    /// of all others it says that there are none.
    pub(crate) async fn zone(names: &'static [(&'static str, &'static [&'static str])]) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut packet = [0; 1500];
            while let Ok((length, from)) = socket.recv_from(&mut packet).await {
                if let Some(answer) = answer(&packet[..length], names) {
                    let _ = socket.send_to(&answer, from).await;
                }
            }
        });
        address
    }

    /// RFC 1035 §4: the question comes back, and behind it the addresses of the family that was asked for.
    fn answer(question: &[u8], names: &[(&str, &[&str])]) -> Option<Vec<u8>> {
        let (mut at, mut labels) = (12, vec![]);
        while question[at] != 0 {
            let end = at + 1 + usize::from(question[at]);
            labels.push(String::from_utf8(question[at + 1..end].to_vec()).unwrap().to_lowercase());
            at = end;
        }
        let name = labels.join(".");
        if name.ends_with("silent.test") {
            return None;
        }
        let kind = question[at + 2];
        let known = names.iter().find(|(known, _)| *known == name);
        let addresses = known.into_iter().flat_map(|(_, addresses)| *addresses);
        let records: Vec<Vec<u8>> = addresses
            .map(|address| match address.parse().unwrap() {
                IpAddr::V4(v4) => (1, v4.octets().to_vec()),
                IpAddr::V6(v6) => (28, v6.octets().to_vec()),
            })
            .filter(|(family, _)| *family == kind)
            .map(|(family, octets)| {
                let length = u8::try_from(octets.len()).unwrap();
                [&[0xc0, 12, 0, family, 0, 1, 0, 0, 0, 60, 0, length], octets.as_slice()].concat()
            })
            .collect();
        let code = if known.is_some() { 0 } else { 3 };
        let count = u8::try_from(records.len()).unwrap();
        let head = [question[0], question[1], 0x81, 0x80 | code, 0, 1, 0, count, 0, 0, 0, 0];
        Some([&head, &question[12..at + 5], &records.concat()].concat())
    }

    const ZONE: &[(&str, &[&str])] = &[
        ("both.test", &["198.51.100.7", "2001:db8::7"]),
        ("six.test", &["2001:db8::6"]),
        ("none.test", &[]),
        ("here.test", &["198.51.100.8"]),
    ];

    #[tokio::test]
    async fn hosts_come_before_dns_and_either_family_is_enough() {
        let names = Names::of_server(zone(ZONE).await, "127.0.0.9 here.test here\n::9 here.test\n");
        for (name, wanted) in [
            ("both.test", Ok(vec!["198.51.100.7", "2001:db8::7"])),
            ("BOTH.test.", Ok(vec!["198.51.100.7", "2001:db8::7"])),
            ("six.test", Ok(vec!["2001:db8::6"])),
            ("here.test", Ok(vec!["127.0.0.9", "::9"])),
            ("HERE", Ok(vec!["127.0.0.9"])),
            ("none.test", Err(NameError::NoAddress)),
            ("nobody.test", Err(NameError::NoAddress)),
            ("a..b", Err(NameError::NoName)),
        ] {
            let found = names.addresses(name, LIMIT).await;
            let wanted = wanted.map(|all| all.iter().map(|one| one.parse().unwrap()).collect());
            assert_eq!(found, wanted, "{name}");
        }
    }

    #[tokio::test]
    async fn the_system_is_read_without_a_thread() {
        let found = Names::of_system().addresses("localhost", LIMIT).await.unwrap();
        assert!(found.iter().all(IpAddr::is_loopback) && !found.is_empty(), "{found:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn servers_that_do_not_answer_cost_the_limit_and_nothing_afterwards() {
        let names = Names::of_server(zone(&[]).await, "127.0.0.9 here.test\n");
        let mut asking = tokio::task::JoinSet::new();
        let (begin, limit) = (clock::now(), Duration::from_secs(2));
        // More than find a place at one time.
        for index in 0..2 * ROOM {
            let names = names.clone();
            asking.spawn(async move { names.addresses(&format!("n{index}.silent.test"), limit).await });
        }
        for found in asking.join_all().await {
            assert_eq!(found, Err(NameError::TimedOut));
        }
        assert!(clock::now() - begin < 2 * limit);
        assert!(names.addresses("here.test", limit).await.is_ok(), "every place is free again");
        assert_eq!(names.0.room.available_permits(), ROOM);
    }
}

//! Who answers the questions of [`super::resolve`]: DNS servers as the system is configured, `/etc/hosts`, and for
//! what these do not know the system's own resolver, whatever that asks: the names are the configuration's.
//!
//! Shell: it decides nothing. Every question ends within [`PATIENCE`]; no answer is kept here, because the cache of
//! the gateways ([`super::gateways`]) keeps what was made of them.

use super::Gateway;
use super::resolve::{Answer, Known, Naptr, Question, Srv, Step};
use super::resolve::{Choice, Families, locate};
use crate::clock;
use hickory_resolver::TokioResolver;
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::NetError;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use std::net::{IpAddr, ToSocketAddrs};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// How long one question may take, repetitions included.
const PATIENCE: Duration = Duration::from_secs(4);
/// How long DNS waits before it asks another time.
const TRY: Duration = Duration::from_millis(1500);
/// Rounds of questions of one gateway: NAPTR, SRV and addresses, some of them for more than one service.
const ROUNDS: usize = 8;
/// Questions of one round.
const QUESTIONS: usize = 64;
/// What the system's resolver finds has no TTL.
const SYSTEM_TTL: Duration = Duration::from_secs(60);
/// That there is no record is believed for so long.
const NOTHING_TTL: Duration = Duration::from_secs(300);

/// DNS could not be asked, or did not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DnsError {
    /// No answer in time.
    #[error("no answer in time")]
    TimedOut,
    /// The name cannot be asked for.
    #[error("no name of DNS")]
    NoName,
    /// The server failed, or none was reached; in its own words.
    #[error("{0}")]
    Failed(String),
    /// What was found leads nowhere.
    #[error("the name has no address")]
    NoAddress,
}

/// An answer, and how long it holds.
pub type Found = Result<(Answer, Duration), DnsError>;
/// An answer to come.
pub type Asking<'a> = Pin<Box<dyn Future<Output = Found> + Send + 'a>>;

/// Answers questions; tests have a zone of their own.
pub trait Dns: Send + Sync + 'static {
    /// Asks. An answer without records means that there are none; `Err` that nobody knows.
    fn ask(&self, question: Question) -> Asking<'_>;
}

/// The system's DNS.
pub struct SystemDns {
    /// `None` when the system names no server; then only its own resolver is asked, which knows addresses only.
    resolver: Option<TokioResolver>,
    /// Whose turn it is to ask the system's resolver.
    system: Arc<Semaphore>,
}

impl SystemDns {
    /// As `/etc/resolv.conf` says.
    #[must_use]
    pub fn new() -> Self {
        let resolver = TokioResolver::builder_tokio().and_then(|mut builder| {
            let options = builder.options_mut();
            options.timeout = TRY;
            options.attempts = 1;
            // What was found is kept by whoever asked; asking again means that it is over.
            options.cache_size = 0;
            builder.build()
        });
        let resolver = resolver.inspect_err(
            |error| tracing::info!(%error, "no DNS server is configured: no NAPTR and SRV records"),
        );
        Self { resolver: resolver.ok(), system: Arc::new(Semaphore::new(1)) }
    }

    async fn records(&self, name: &str, kind: RecordType) -> Result<Option<Lookup>, DnsError> {
        let Some(resolver) = &self.resolver else { return Ok(None) };
        let mut name = Name::from_ascii(name).map_err(|_| DnsError::NoName)?;
        // The search list is for the short names of a site's own hosts.
        let is_short = name.num_labels() < 2 && matches!(kind, RecordType::A | RecordType::AAAA);
        name.set_fqdn(!is_short);
        match timeout(PATIENCE, resolver.lookup(name, kind)).await {
            Err(_) => Err(DnsError::TimedOut),
            Ok(Ok(found)) => Ok(Some(found)),
            Ok(Err(error)) if error.is_no_records_found() => Ok(None),
            Ok(Err(NetError::Timeout)) => Err(DnsError::TimedOut),
            Ok(Err(error)) => Err(DnsError::Failed(error.to_string())),
        }
    }

    async fn answer(&self, question: Question) -> Found {
        match question {
            Question::Naptr(name) => {
                let found = self.records(&name, RecordType::NAPTR).await?;
                let records = |data: &RData| match data {
                    RData::NAPTR(record) => Some(Naptr {
                        order: record.order,
                        preference: record.preference,
                        flags: String::from_utf8_lossy(&record.flags).into_owned(),
                        service: String::from_utf8_lossy(&record.services).into_owned(),
                        has_regexp: !record.regexp.is_empty(),
                        replacement: plain(&record.replacement),
                    }),
                    _ => None,
                };
                Ok((Answer::Naptr(read(found.as_ref(), records)), ttl(found.as_ref())))
            }
            Question::Srv(name) => {
                let found = self.records(&name, RecordType::SRV).await?;
                let records = |data: &RData| match data {
                    RData::SRV(record) => Some(Srv {
                        priority: record.priority,
                        weight: record.weight,
                        port: record.port,
                        target: plain(&record.target),
                    }),
                    _ => None,
                };
                Ok((Answer::Srv(read(found.as_ref(), records)), ttl(found.as_ref())))
            }
            Question::Addresses(name) => self.addresses(&name).await,
        }
    }

    async fn addresses(&self, name: &str) -> Found {
        let (v6, v4) = tokio::join!(self.records(name, RecordType::AAAA), self.records(name, RecordType::A));
        let both: Vec<Lookup> = [&v6, &v4].into_iter().flatten().flatten().cloned().collect();
        let found: Vec<IpAddr> = both.iter().flat_map(|found| read(Some(found), RData::ip_addr)).collect();
        if !found.is_empty() {
            let shortest = both.iter().map(|found| ttl(Some(found))).min().unwrap_or(SYSTEM_TTL);
            return Ok((Answer::Addresses(found), shortest));
        }
        // What only the system knows: other sources of nsswitch.conf, names of containers, "localhost".
        if let Ok(Some(found)) = timeout(PATIENCE, self.of_system(name.to_owned())).await {
            return Ok((Answer::Addresses(found), SYSTEM_TTL));
        }
        match (v4, v6) {
            (Err(error), _) | (_, Err(error)) => Err(error),
            (Ok(_), Ok(_)) => Ok((Answer::Addresses(vec![]), NOTHING_TTL)),
        }
    }
}

impl SystemDns {
    /// What the system's own resolver says. It may think for long, and nothing stops it: so it has one thread at a
    /// time, and keeps it when nobody waits any more; the other threads are for files.
    async fn of_system(&self, name: String) -> Option<Vec<IpAddr>> {
        let turn = Arc::clone(&self.system).acquire_owned().await.ok()?;
        let asking = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            #[allow(clippy::disallowed_methods)] // In a thread of its own, one at a time.
            let found = (name.as_str(), 0).to_socket_addrs().ok()?;
            Some(found.map(|address| address.ip()).collect::<Vec<_>>())
        });
        asking.await.ok()?.filter(|found| !found.is_empty())
    }
}

impl Default for SystemDns {
    fn default() -> Self {
        Self::new()
    }
}

impl Dns for SystemDns {
    fn ask(&self, question: Question) -> Asking<'_> {
        Box::pin(self.answer(question))
    }
}

fn read<T>(found: Option<&Lookup>, of: impl Fn(&RData) -> Option<T>) -> Vec<T> {
    found
        .map(|found| found.answers().iter().filter_map(|record| of(&record.data)).collect())
        .unwrap_or_default()
}

fn ttl(found: Option<&Lookup>) -> Duration {
    let shortest = found.and_then(|found| found.answers().iter().map(|record| record.ttl).min());
    shortest.map_or(NOTHING_TTL, |seconds| Duration::from_secs(u64::from(seconds)))
}

/// Without the dot at its end; the root is empty.
fn plain(name: &Name) -> String {
    name.to_ascii().trim_end_matches('.').to_ascii_lowercase()
}

/// What a look-up of a gateway went through, for whoever wants to show it.
#[derive(Debug, Clone)]
pub struct Asked {
    /// What was asked.
    pub question: Question,
    /// What came.
    pub found: Found,
}

/// Asks until the gateway's targets are known. Where NAPTR or SRV cannot be had because a server on the way fails on
/// such questions, it goes on as if there were none when `lenient`; an address cannot be done without. Ends within
/// `limit`.
///
/// # Errors
/// [`DnsError`], of the question that could not be done without.
pub async fn look_up(
    dns: &Arc<dyn Dns>,
    gateway: &Gateway,
    families: Families,
    lenient: bool,
    limit: Duration,
    mut on_answer: impl FnMut(Asked),
) -> Result<(Choice, Duration), DnsError> {
    let deadline: Instant = clock::now() + limit;
    let (mut known, mut shortest) = (Known::default(), None::<Duration>);
    for _ in 0..ROUNDS {
        let questions = match locate(gateway, &known, families) {
            Step::Found(choice) if choice.is_empty() => return Err(DnsError::NoAddress),
            Step::Found(choice) => return Ok((choice, shortest.unwrap_or(NOTHING_TTL))),
            Step::Ask(questions) => questions,
        };
        let mut asking = tokio::task::JoinSet::new();
        for question in questions.into_iter().take(QUESTIONS) {
            let dns = Arc::clone(dns);
            let limit = deadline.saturating_duration_since(clock::now());
            asking.spawn(async move {
                let found = timeout(limit, dns.ask(question.clone())).await;
                (question, found.unwrap_or(Err(DnsError::TimedOut)))
            });
        }
        while let Some(done) = asking.join_next().await {
            let Ok((question, found)) = done else { continue };
            on_answer(Asked { question: question.clone(), found: found.clone() });
            let (answer, ttl) = match (found, &question) {
                (Ok(found), _) => found,
                (Err(_), Question::Naptr(_)) if lenient => (Answer::Naptr(vec![]), Duration::ZERO),
                (Err(_), Question::Srv(_)) if lenient => (Answer::Srv(vec![]), Duration::ZERO),
                // One of several hosts may fail; without any there is no target, and that is told above.
                (Err(_), Question::Addresses(host)) if *host != gateway.host => {
                    (Answer::Addresses(vec![]), Duration::ZERO)
                }
                (Err(error), _) => return Err(error),
            };
            shortest = Some(shortest.map_or(ttl, |known| known.min(ttl)));
            known.learn(question, answer);
        }
    }
    Err(DnsError::NoAddress)
}

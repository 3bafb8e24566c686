//! The configuration: a TOML file and environment variables, read once at the start.
//!
//! Two forms: [`Config`] is what was written, [`Checked`] is what has passed every check. Only the second one
//! travels. All faults of a file are reported together; each names its key, its value and what is allowed.
//! Nothing here opens a socket or a database, and no fault or warning shows a secret.

mod check;
mod error;
mod keys;
mod read;
mod warnings;
mod written;

pub use error::{ConfigError, ConfigErrors};
pub use written::{
    AccountConfig, Config, HttpConfig, MediaConfig, NumberConfig, RecordingsConfig, SipConfig, StoreConfig,
    TrunkConfig,
};

use crate::number::Did;
use crate::sip::transport::TlsFiles;
use crate::trunk::forward::Forwarding;
use crate::trunk::{Gateway, Transport, Trunks};
use error::Faults;
use ipnet::IpNet;
use media::engine::MediaLimits;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The configuration after every rule is checked.
#[derive(Debug, Clone)]
pub struct Checked {
    /// `[sip]`
    pub sip: SipLimits,
    /// `[media]`
    pub media: MediaSettings,
    /// `[http]`
    pub http: HttpLimits,
    /// `[store]`
    pub store: StoreSettings,
    /// `[recordings]`
    pub recordings: RecordingSettings,
    /// `[[trunks]]`
    pub trunks: Trunks,
    /// `[[accounts]]`; empty: the stored one, which the first start makes.
    pub accounts: Vec<Account>,
    /// `[[numbers]]`
    pub numbers: Vec<Number>,
    /// What is allowed and probably not meant, one line each; for the log at the start.
    pub warnings: Vec<String>,
}

/// `[sip]`, checked.
#[derive(Debug, Clone)]
pub struct SipLimits {
    /// Never empty.
    pub listen: Vec<Listen>,
    /// `None`: the local address that the peer called, or of the route to it.
    pub public_address: Option<IpAddr>,
    /// Calls at one time, at least 1.
    pub max_calls: u32,
    /// New calls per second, at least 1.
    pub max_calls_per_second: u32,
    /// How long a drain waits for live calls.
    pub drain: Duration,
    /// A TCP connection without traffic for so long is closed.
    pub tcp_idle: Duration,
    /// TCP connections at one time, at least 1.
    pub tcp_connections: u32,
    /// Certificates; its own ones are there when a listener needs them.
    pub tls: TlsFiles,
}

/// One SIP listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Listen {
    /// Its transport.
    pub transport: Transport,
    /// Where it listens.
    pub address: SocketAddr,
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.transport.as_str(), self.address)
    }
}

/// `[media]`, checked.
#[derive(Debug, Clone)]
pub struct MediaSettings {
    /// What SDP shows; `None`: the local address of the route to the peer. Falls back to `sip.public_address`.
    pub public_address: Option<IpAddr>,
    /// What the engine takes.
    pub limits: MediaLimits,
}

/// `[http]`, checked.
#[derive(Debug, Clone)]
pub struct HttpLimits {
    /// Where the API is served.
    pub listen: SocketAddr,
    /// How the API is reached from outside, without the last slash.
    pub public_url: Option<String>,
    /// Per account, at least 1.
    pub requests_per_5_seconds: u32,
    /// Proxies whose `X-Forwarded-For` says who asks.
    pub trusted_proxies: Vec<IpNet>,
    /// Networks that play and callback URLs may reach although private or loopback.
    pub fetch_allow: Vec<IpNet>,
}

/// `[store]`, checked.
#[derive(Clone)]
pub struct StoreSettings {
    url: String,
    shown: String,
    pid_file: PathBuf,
    /// The file with the key that seals tokens.
    pub key_file: PathBuf,
}

impl StoreSettings {
    /// `sqlite://…` or `postgres://…`: for opening only, it may hold a password.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The database file, or the server and the database without the password.
    #[must_use]
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// The file by which `maskline drain` finds the running service: beside the database file, or else in the
    /// directory of the recordings, which belongs to one process as well.
    #[must_use]
    pub fn pid_file(&self) -> &Path {
        &self.pid_file
    }
}

impl fmt::Debug for StoreSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreSettings")
            .field("shown", &self.shown)
            .field("pid_file", &self.pid_file)
            .field("key_file", &self.key_file)
            .finish_non_exhaustive()
    }
}

/// `[recordings]`, checked.
#[derive(Debug, Clone)]
pub struct RecordingSettings {
    /// Below it each recorded call has its folder.
    pub directory: PathBuf,
    /// `None`: kept for ever.
    pub retention: Option<Duration>,
}

/// One of `[[accounts]]`, checked.
#[derive(Debug, Clone)]
pub struct Account {
    /// 20 characters, `MA…`.
    pub auth_id: String,
    /// The password.
    pub auth_token: AuthToken,
}

/// The password of an account. It never prints itself.
#[derive(Clone, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(transparent)]
pub struct AuthToken(String);

impl AuthToken {
    /// The token itself: for hashing and comparison only.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<String> for AuthToken {
    fn from(token: String) -> Self {
        Self(token)
    }
}

impl fmt::Debug for AuthToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuthToken(·)")
    }
}

/// One of `[[numbers]]`, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Number {
    /// The virtual number.
    pub did: Did,
    /// The name of a trunk that exists and has gateways.
    pub trunk: String,
    /// The account that may make sessions on it; `None`: the only one, stored or made at the first start.
    pub account: Option<String>,
    /// The sub-account whose sessions it takes; `None`: those of the account itself.
    pub subaccount: Option<String>,
    /// What a caller gets for whom there is no session.
    pub no_session: NoSession,
}

/// What a caller gets for whom there is no session.
#[derive(Clone, PartialEq, Eq, Default)]
pub enum NoSession {
    /// 404, as for a number that is not ours.
    #[default]
    Reject,
    /// The message at this URL, then BYE.
    Play(String),
    /// A B-leg to this URI.
    Sip(String),
}

impl NoSession {
    /// Reads `reject`, `play:URL` or `sip:…`.
    #[must_use]
    pub fn parse(written: &str) -> Option<Self> {
        if written == "reject" {
            return Some(Self::Reject);
        }
        let printable =
            written.len() <= 1000 && written.bytes().all(|b| b.is_ascii_graphic() && !b"<>\"".contains(&b));
        if let Some(url) = written.strip_prefix("play:").filter(|_| printable) {
            let rest =
                url.strip_prefix("https://").or_else(|| url.strip_prefix("http://")).unwrap_or_default();
            let begins_well = rest.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'[');
            return begins_well.then(|| Self::Play(url.to_owned()));
        }
        let rest = written.strip_prefix("sip:").filter(|_| printable)?;
        let (user, place) = rest.split_once('@').map_or((None, rest), |(user, place)| (Some(user), place));
        let user_fits = user.is_none_or(|user| {
            !user.is_empty()
                && user.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.!~*'()&=+$,%".contains(&b))
        });
        let fits = user_fits && Gateway::parse(&format!("sip:{place}")).is_some();
        fits.then(|| Self::Sip(written.to_owned()))
    }
}

impl fmt::Debug for NoSession {
    /// The URI may hold somebody's number.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reject => "Reject",
            Self::Play(_) => "Play(…)",
            Self::Sip(_) => "Sip(…)",
        })
    }
}

impl Config {
    /// Reads the file, if one is named, and the environment, and checks all of it.
    ///
    /// # Errors
    /// Every fault that was found.
    pub fn load(
        path: Option<&Path>,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Checked, ConfigErrors> {
        let text = match path {
            None => String::new(),
            Some(path) => std::fs::read_to_string(path)
                .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?,
        };
        let mut checked = Self::read(&text, environment)?;
        let ephemeral = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok();
        checked.warnings.extend(ephemeral.and_then(|range| warnings::ephemeral_overlap(&checked, &range)));
        Ok(checked)
    }

    /// The same for a text.
    ///
    /// # Errors
    /// Every fault that was found.
    pub fn read(
        text: &str,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Checked, ConfigErrors> {
        let mut faults = Faults::default();
        let mut table = read::parse(text)?;
        read::override_by(&mut table, environment, &mut faults);
        read::refuse_unknown(&mut table, "", &mut faults);
        let config = read::typed_config(table, &mut faults);
        check::check(&config, faults)
    }
}

/// The environment variables that are text; others cannot be meant for us.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

impl TryFrom<Config> for Checked {
    type Error = ConfigErrors;

    fn try_from(config: Config) -> Result<Self, ConfigErrors> {
        check::check(&config, Faults::default())
    }
}

impl Checked {
    /// Where calls that no session takes may go on to.
    #[must_use]
    pub fn forwarding(&self) -> Forwarding {
        let configured = self.numbers.iter().filter_map(|number| match &number.no_session {
            NoSession::Sip(uri) => Some(uri.as_str()),
            NoSession::Reject | NoSession::Play(_) => None,
        });
        Forwarding::new(self.trunks.iter().flat_map(|(_, trunk)| &trunk.gateways), configured)
    }

    /// What an operator wants to see at a glance; several lines, without secrets.
    #[must_use]
    pub fn summary(&self) -> String {
        fn list<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
            let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
            if items.is_empty() { "nobody".to_owned() } else { items.join(", ") }
        }
        let (ports, workers) = (&self.media.limits.ports, self.media.limits.workers);
        let mut lines = vec![
            format!("  sip         {}", list(&self.sip.listen)),
            format!(
                "  limits      {} calls, {} per second",
                self.sip.max_calls, self.sip.max_calls_per_second
            ),
            format!("  media       ports {} to {}, {workers} threads", ports.start(), ports.end()),
            format!("  http        {}", self.http.listen),
            format!("  store       {}", self.store.shown()),
            format!("  recordings  {}", self.recordings.directory.display()),
        ];
        for (_, trunk) in self.trunks.iter() {
            let (from, to) = (list(&trunk.allow), list(&trunk.gateways));
            lines.push(format!("  trunk       {}: calls from {from}; calls to {to}", trunk.name));
        }
        lines.push(match self.numbers.as_slice() {
            [] => "  numbers     none".to_owned(),
            [only] => format!("  numbers     {}", only.did),
            [first, .., last] => {
                format!("  numbers     {}: {} … {}", self.numbers.len(), first.did, last.did)
            }
        });
        lines.extend(self.warnings.iter().map(|warning| format!("warning: {warning}")));
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests;

//! The configuration as written: what TOML says, with a default for every key and nothing checked but types.

use super::AuthToken;
use crate::sip::digest::Secret;
use serde::Deserialize;
use std::fmt;

/// The whole file. Unknown keys are errors: a typo must not silently become a default.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// `[sip]`
    pub sip: SipConfig,
    /// `[media]`
    pub media: MediaConfig,
    /// `[http]`
    pub http: HttpConfig,
    /// `[store]`
    pub store: StoreConfig,
    /// `[recordings]`
    pub recordings: RecordingsConfig,
    /// `[[trunks]]`; without any the trunk `local` stands for loopback.
    pub trunks: Option<Vec<TrunkConfig>>,
    /// `[[accounts]]`; without any the first start makes one.
    pub accounts: Vec<AccountConfig>,
    /// `[[numbers]]`; without any, and without trunks, those of the trunk `local`.
    pub numbers: Option<Vec<NumberConfig>>,
}

/// `[sip]` as written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SipConfig {
    /// Where SIP arrives, `udp://ADDRESS:PORT`, `tcp://…` or `tls://…`; port 0 lets the system choose.
    pub listen: Vec<String>,
    /// What Via and Contact show; without it the local address that the peer called, or of the route to it.
    pub public_address: Option<String>,
    /// Calls at one time; one more gets 503. A call costs two RTP ports with their sockets, and memory.
    pub max_calls: u32,
    /// New calls per second; more get 503.
    pub max_calls_per_second: u32,
    /// How long a drain waits for live calls, in seconds; then they are ended. 0 does not wait.
    pub drain_seconds: u64,
    /// A TCP connection on which nothing arrives for so long is closed, in seconds.
    pub tcp_idle_seconds: u64,
    /// TCP connections at one time; more are closed at once. Each costs a descriptor and a buffer.
    pub tcp_connections: u32,
    /// `[sip.tls]`
    pub tls: TlsConfig,
}

/// `[sip.tls]` as written: paths of PEM files.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlsConfig {
    /// Our chain, the leaf first; for `tls://` listeners, and for carriers that ask for it.
    pub certificate: Option<String>,
    /// Its key.
    pub key: Option<String>,
    /// Who signs the certificates of gateways; without it those that the system trusts.
    pub ca: Option<String>,
    /// Who signs the certificates that peers must show when they connect to us; without it they need none.
    pub client_ca: Option<String>,
}

impl Default for SipConfig {
    fn default() -> Self {
        Self {
            listen: vec!["udp://0.0.0.0:5060".to_owned(), "tcp://0.0.0.0:5060".to_owned()],
            public_address: None,
            max_calls: 4000,
            max_calls_per_second: 500,
            drain_seconds: 3600,
            tcp_idle_seconds: 120,
            tcp_connections: 1000,
            tls: TlsConfig::default(),
        }
    }
}

/// `[media]` as written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MediaConfig {
    /// What SDP shows; without it `sip.public_address`, or the local address of the route to the peer.
    pub public_address: Option<String>,
    /// First and last UDP port for RTP, both even; RTCP takes the odd port above (RFC 3550 §11).
    /// A bridged call needs two RTP ports, so the default range carries 4 096 calls.
    pub ports: (u16, u16),
    /// Both legs silent (no RTP, no RTCP) for so long ends a call, in seconds; 0 never ends one.
    pub silence_seconds: u64,
    /// How long a freed port should rest, in milliseconds, so that a late sender's audio cannot
    /// reach the next caller. The longest-rested port is taken first; none is refused for resting.
    pub port_rest_ms: u64,
    /// Media threads; without it one per core. More than cores only costs.
    pub workers: Option<usize>,
    /// How packets come and go: `auto`, `io_uring` or `epoll`.
    pub engine: String,
}

impl Default for MediaConfig {
    fn default() -> Self {
        Self {
            public_address: None,
            ports: (16_384, 32_766),
            silence_seconds: 60,
            port_rest_ms: 60_000,
            workers: None,
            engine: "auto".to_owned(),
        }
    }
}

/// `[http]` as written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpConfig {
    /// Where the REST API, `/metrics` and the health pages are served, without TLS; port 0 lets the system choose.
    pub listen: String,
    /// How the API is reached from outside, for the URLs in callbacks and answers.
    pub public_url: Option<String>,
    /// Requests per account in five seconds; more get 429.
    pub requests_per_5_seconds: u32,
    /// Proxies whose `X-Forwarded-For` says who asks.
    pub trusted_proxies: Vec<String>,
    /// Networks that play and callback URLs may reach although private or loopback.
    pub fetch_allow: Vec<String>,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:8080".to_owned(),
            public_url: None,
            requests_per_5_seconds: 300,
            trusted_proxies: vec!["127.0.0.0/8".to_owned(), "::1/128".to_owned()],
            fetch_allow: vec![],
        }
    }
}

/// `[store]` as written.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreConfig {
    /// `sqlite://PATH`, relative to the working directory, or absolute as `sqlite:///PATH`; or
    /// `postgres://USER:PASSWORD@HOST:PORT/DATABASE`.
    pub url: String,
    /// Holds the key that seals tokens in the database; without it `maskline.key` beside the database file.
    pub key_file: Option<String>,
}

impl fmt::Debug for StoreConfig {
    /// The URL may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StoreConfig(·)")
    }
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self { url: "sqlite://data/maskline.db".to_owned(), key_file: None }
    }
}

/// `[recordings]` as written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RecordingsConfig {
    /// Below it each recorded call gets a folder `YYYY/MM/DD/{interaction_uuid}`.
    pub directory: String,
    /// How long recordings are kept, in days; 0 keeps them for ever. A minute of a call takes 1.9 MB.
    pub retention_days: u32,
}

impl Default for RecordingsConfig {
    fn default() -> Self {
        Self { directory: "data/recordings".to_owned(), retention_days: 90 }
    }
}

/// One of `[[trunks]]` as written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrunkConfig {
    /// Different for each trunk.
    pub name: String,
    /// Where B-legs go, in order of failover.
    pub gateways: Vec<String>,
    /// Who may call in as this trunk; others get silence, before parsing. The first trunk that fits is taken.
    pub allow: Vec<String>,
    /// Networks that RTP may go to; empty: any, private and loopback only if the trunk's own signalling comes
    /// from such.
    pub media_allow: Vec<String>,
    /// Where the caller's number is read, in this order; used for look-up only, never shown.
    pub caller_from: Vec<String>,
    /// `exact`, or `address`: another port of the same address, locked at the first packet.
    pub rtp_source: String,
    /// In the order of preference.
    pub codecs: Vec<String>,
    /// `off`; `optional`: encrypted where the peer agrees; `required`: a peer that does not is refused.
    pub srtp: String,
    /// Whether the called side's audio before the answer reaches the caller.
    pub early_media: bool,
    /// How the trunk wants numbers written: `+e164`, `e164` or `national`.
    pub number_format: String,
    /// Numbers without a country code are read as of this country.
    pub default_country: Option<String>,
    /// Legs at one time, both directions; without it only `sip.max_calls` limits them.
    pub max_calls: Option<u32>,
    /// New legs per second; without it only `sip.max_calls_per_second` limits them.
    pub max_calls_per_second: Option<u32>,
    /// Reliable provisional responses (RFC 3262): `off`, `supported`, `preferred` or `required`.
    pub prack: String,
    /// The session interval that we ask for (RFC 4028), in seconds; 0: we ask for none, and take what the peer asks
    /// for. A shorter one finds a dead peer earlier and costs a request on each leg at half of it.
    pub session_timer: u32,
    /// Every so many seconds each gateway is asked by OPTIONS whether it lives; 0: never. Each question costs both
    /// sides two messages.
    pub options_seconds: u64,
    /// Who we are when the gateway asks, and who must call in where `challenge` holds; goes with `password`.
    pub username: Option<String>,
    /// Goes with `username`.
    pub password: Option<Secret>,
    /// The only realm that is answered; without it the first that the gateway names.
    pub realm: Option<String>,
    /// Whether INVITEs that come in must prove the password; without it: when there is one and everybody may call in.
    pub challenge: Option<bool>,
    /// Whether we register with the gateway.
    pub register: bool,
    /// What says who calls in INVITEs that we send, beside From: `none`, `p-asserted-identity` or `remote-party-id`.
    pub identity: String,
}

impl Default for TrunkConfig {
    fn default() -> Self {
        Self {
            name: String::new(),
            gateways: vec![],
            allow: vec![],
            media_allow: vec![],
            caller_from: vec!["p-asserted-identity".to_owned(), "from".to_owned()],
            rtp_source: "exact".to_owned(),
            codecs: vec!["PCMU".to_owned(), "PCMA".to_owned()],
            srtp: "off".to_owned(),
            early_media: true,
            number_format: "+e164".to_owned(),
            default_country: None,
            max_calls: None,
            max_calls_per_second: None,
            prack: "supported".to_owned(),
            session_timer: 0,
            options_seconds: 0,
            username: None,
            password: None,
            realm: None,
            challenge: None,
            register: false,
            identity: "none".to_owned(),
        }
    }
}

impl TrunkConfig {
    /// The trunk that there is without configuration: whoever is on this machine.
    #[must_use]
    pub fn local() -> Self {
        Self {
            name: "local".to_owned(),
            gateways: vec!["sip:127.0.0.1:5070".to_owned()],
            allow: vec!["127.0.0.0/8".to_owned(), "::1/128".to_owned()],
            ..Self::default()
        }
    }
}

/// One of `[[accounts]]` as written.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AccountConfig {
    /// The user name of the API.
    pub auth_id: String,
    /// Its password.
    pub auth_token: AuthToken,
}

/// One of `[[numbers]]` as written.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NumberConfig {
    /// The virtual number, with `+`.
    pub number: String,
    /// The trunk that its B-legs leave by; may be left out when there is only one.
    pub trunk: Option<String>,
    /// The account that may make sessions on it; without it the first one.
    pub account: Option<String>,
    /// The sub-account whose sessions it takes; without it those of the account itself.
    pub subaccount: Option<String>,
    /// What a caller gets for whom there is no session: `reject`, `play:URL` or `sip:…`. Without it `reject`.
    pub no_session: Option<String>,
}

impl NumberConfig {
    /// The numbers of the trunk `local`: 555-01xx is reserved for fiction, so none can be anybody's.
    pub fn local() -> impl Iterator<Item = Self> {
        (100..120).map(|last| Self {
            number: format!("+12025550{last}"),
            trunk: Some("local".to_owned()),
            ..Self::default()
        })
    }
}

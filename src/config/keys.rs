//! Every key there is: what it takes, in words for whoever got it wrong.
//!
//! The table and the structs of `written` say the same thing twice; a test holds them together, and with the
//! example configuration and the README.

/// How a value is written, which matters for environment variables: they are text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Number,
    Switch,
    /// A list of texts or numbers; an environment variable may separate them by commas.
    List,
    /// `[[…]]`, known by the keys below it.
    Tables,
}

pub(super) struct Key {
    /// `section.key`, or `section[].key` for a list of tables.
    pub(super) path: &'static str,
    pub(super) kind: Kind,
    /// What the value may be.
    pub(super) allowed: &'static str,
}

const fn key(path: &'static str, kind: Kind, allowed: &'static str) -> Key {
    Key { path, kind, allowed }
}

pub(super) const LISTEN: &str =
    "a list of udp://ADDRESS:PORT, tcp://ADDRESS:PORT and tls://ADDRESS:PORT, each once";
pub(super) const PUBLIC_ADDRESS: &str = "one IP address that peers can reach, without port";
pub(super) const CALLS: &str = "a whole number from 1 to 100000";
pub(super) const PORTS: &str = "[first, last]: two even ports from 1024 to 65534, first below last";
pub(super) const ENGINE: &str = "\"auto\", \"io_uring\" or \"epoll\"";
pub(super) const NETWORKS: &str = "a list of networks (198.51.100.0/24, 2001:db8::/32) or addresses";
pub(super) const GATEWAYS: &str = "a list of sip:HOST[:PORT][;transport=udp|tcp|tls] and sips:HOST[:PORT]";
pub(super) const CALLER_FROM: &str =
    "a list of \"p-asserted-identity\", \"remote-party-id\", \"from\", each once";
pub(super) const CODECS: &str = "a list of \"G722\", \"PCMU\", \"PCMA\", each once";
pub(super) const RTP_SOURCE: &str = "\"exact\" or \"address\"";
pub(super) const PRACK: &str = "\"off\", \"supported\", \"preferred\" or \"required\"";
pub(super) const SESSION_TIMER: &str = "a whole number of seconds from 90 to 86400, or 0: none is asked for";
pub(super) const NUMBER_FORMAT: &str = "\"+e164\", \"e164\" or \"national\"";
pub(super) const IDENTITY: &str = "\"none\", \"p-asserted-identity\" or \"remote-party-id\"";
pub(super) const USERNAME: &str =
    "1 to 128 printable ASCII characters without space, quotation mark and backslash";
pub(super) const PASSWORD: &str = "1 to 256 characters without control characters";
pub(super) const REALM: &str = "1 to 128 printable ASCII characters without quotation mark and backslash";
pub(super) const SRTP: &str = "\"off\", \"optional\" or \"required\"";
pub(super) const COUNTRY: &str = "the two letters of a country (ISO 3166-1), such as \"US\"";
pub(super) const NAME: &str = "1 to 64 letters, digits, \"-\", \"_\" and \".\", different for each trunk";
pub(super) const NUMBER: &str = "\"+\" and 7 to 15 digits, country code first, each number once";
pub(super) const AUTH_ID: &str = "\"MA\" and 18 capital letters and digits, different for each account";
pub(super) const AUTH_TOKEN: &str = "16 to 128 printable ASCII characters without space";
pub(super) const NO_SESSION: &str =
    "\"reject\", \"play:URL\" (http or https) or \"sip:[USER@]HOST[:PORT][;transport=udp|tcp]\"";
pub(super) const STORE_URL: &str = "\"sqlite://PATH\" or \"postgres://USER[:PASSWORD]@HOST[:PORT]/DATABASE\"";
pub(super) const SUBACCOUNT: &str = "\"SA\" and 18 capital letters and digits";
pub(super) const PUBLIC_URL: &str = "an http or https URL without query, such as https://masking.example.com";
pub(super) const HTTP_LISTEN: &str = "ADDRESS:PORT, such as 127.0.0.1:8080";
pub(super) const DIRECTORY: &str = "a path";
pub(super) const PEM: &str = "the path of a PEM file";

pub(super) const KEYS: &[Key] = &[
    key("sip.listen", Kind::List, LISTEN),
    key("sip.public_address", Kind::Text, PUBLIC_ADDRESS),
    key("sip.max_calls", Kind::Number, CALLS),
    key("sip.max_calls_per_second", Kind::Number, CALLS),
    key("sip.drain_seconds", Kind::Number, "a whole number of seconds from 0 to 604800"),
    key("sip.tcp_idle_seconds", Kind::Number, "a whole number of seconds from 10 to 86400"),
    key("sip.tcp_connections", Kind::Number, CALLS),
    key("sip.tls.certificate", Kind::Text, PEM),
    key("sip.tls.key", Kind::Text, PEM),
    key("sip.tls.ca", Kind::Text, PEM),
    key("sip.tls.client_ca", Kind::Text, PEM),
    key("media.public_address", Kind::Text, PUBLIC_ADDRESS),
    key("media.ports", Kind::List, PORTS),
    key("media.silence_seconds", Kind::Number, "a whole number of seconds from 0 (never) to 86400"),
    key("media.port_rest_ms", Kind::Number, "a whole number of milliseconds from 0 to 3600000"),
    key("media.workers", Kind::Number, "a whole number of threads from 1 to 256"),
    key("media.engine", Kind::Text, ENGINE),
    key("http.listen", Kind::Text, HTTP_LISTEN),
    key("http.public_url", Kind::Text, PUBLIC_URL),
    key("http.requests_per_5_seconds", Kind::Number, "a whole number from 1 to 1000000"),
    key("http.trusted_proxies", Kind::List, NETWORKS),
    key("http.fetch_allow", Kind::List, NETWORKS),
    key("store.url", Kind::Text, STORE_URL),
    key("store.key_file", Kind::Text, DIRECTORY),
    key("recordings.directory", Kind::Text, DIRECTORY),
    key("recordings.retention_days", Kind::Number, "a whole number of days from 0 (for ever) to 36500"),
    key("trunks", Kind::Tables, "tables [[trunks]] with at least a name"),
    key("trunks[].name", Kind::Text, NAME),
    key("trunks[].gateways", Kind::List, GATEWAYS),
    key("trunks[].allow", Kind::List, NETWORKS),
    key("trunks[].media_allow", Kind::List, NETWORKS),
    key("trunks[].caller_from", Kind::List, CALLER_FROM),
    key("trunks[].rtp_source", Kind::Text, RTP_SOURCE),
    key("trunks[].codecs", Kind::List, CODECS),
    key("trunks[].srtp", Kind::Text, SRTP),
    key("trunks[].early_media", Kind::Switch, "true or false"),
    key("trunks[].number_format", Kind::Text, NUMBER_FORMAT),
    key("trunks[].default_country", Kind::Text, COUNTRY),
    key("trunks[].max_calls", Kind::Number, CALLS),
    key("trunks[].max_calls_per_second", Kind::Number, CALLS),
    key("trunks[].options_seconds", Kind::Number, "a whole number of seconds from 0 (never) to 3600"),
    key("trunks[].username", Kind::Text, USERNAME),
    key("trunks[].password", Kind::Text, PASSWORD),
    key("trunks[].realm", Kind::Text, REALM),
    key("trunks[].challenge", Kind::Switch, "true or false"),
    key("trunks[].register", Kind::Switch, "true or false"),
    key("trunks[].identity", Kind::Text, IDENTITY),
    key("trunks[].prack", Kind::Text, PRACK),
    key("trunks[].session_timer", Kind::Number, SESSION_TIMER),
    key("accounts", Kind::Tables, "tables [[accounts]] with auth_id and auth_token"),
    key("accounts[].auth_id", Kind::Text, AUTH_ID),
    key("accounts[].auth_token", Kind::Text, AUTH_TOKEN),
    key("numbers", Kind::Tables, "tables [[numbers]] with number and trunk"),
    key("numbers[].number", Kind::Text, NUMBER),
    key("numbers[].trunk", Kind::Text, "the name of a trunk that has gateways"),
    key("numbers[].account", Kind::Text, "the auth_id of an account"),
    key("numbers[].subaccount", Kind::Text, SUBACCOUNT),
    key("numbers[].no_session", Kind::Text, NO_SESSION),
];

/// The key of a concrete path: `trunks[3].allow[0]` is `trunks[].allow`.
pub(super) fn find(path: &str) -> Option<&'static Key> {
    let pattern = pattern(path);
    KEYS.iter().find(|key| key.path == pattern || pattern.strip_suffix("[]") == Some(key.path))
}

/// The names that may stand directly below a path: the sections for "", the keys of a section.
pub(super) fn below(path: &str) -> impl Iterator<Item = &'static str> {
    let prefix = match pattern(path) {
        section if section.is_empty() => section,
        section => section + ".",
    };
    KEYS.iter().filter_map(move |key| {
        let rest = key.path.strip_prefix(prefix.as_str())?;
        rest.split(['.', '[']).next()
    })
}

/// The known name that is most like `name`, when one is near enough to be what was meant.
pub(super) fn nearest(path: &str, name: &str) -> Option<&'static str> {
    below(path)
        .map(|known| (strsim::jaro_winkler(known, name), known))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, known)| known)
}

/// The path with its indices left out.
fn pattern(path: &str) -> String {
    let mut inside = false;
    let outside = |c: &char| {
        let keep = !inside || *c == ']';
        inside = (inside || *c == '[') && *c != ']';
        keep
    };
    path.chars().filter(outside).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_concrete_path_finds_its_key() {
        for (path, key) in [
            ("sip.listen", "sip.listen"),
            ("sip.listen[12]", "sip.listen"),
            ("trunks[3].allow[0]", "trunks[].allow"),
            ("trunks[0]", "trunks"),
            ("numbers", "numbers"),
        ] {
            assert_eq!(find(path).map(|found| found.path), Some(key), "{path}");
        }
        assert!(find("sip.listne").is_none() && find("sip").is_none() && find("").is_none());
    }

    #[test]
    fn a_slip_finds_what_was_meant_and_nonsense_finds_nothing() {
        for (path, name, meant) in [
            ("", "trunk", Some("trunks")),
            ("", "recording", Some("recordings")),
            ("sip", "listne", Some("listen")),
            ("sip", "max_call", Some("max_calls")),
            ("trunks[0]", "gateway", Some("gateways")),
            ("trunks[1]", "early-media", Some("early_media")),
            ("media", "xyzzy", None),
        ] {
            assert_eq!(nearest(path, name), meant, "{name}");
        }
    }
}

//! From the configuration as written to checked limits. Each rule stands once, beside the key it is about.

use super::error::{ConfigErrors, Faults};
use super::written::{
    AccountConfig, Config, HttpConfig, MediaConfig, NumberConfig, RecordingsConfig, SipConfig, StoreConfig,
    TlsConfig, TrunkConfig,
};
use super::{
    Account, Checked, HttpLimits, Listen, MediaSettings, NoSession, Number, RecordingSettings, SipLimits,
    StoreSettings, keys, warnings,
};
use crate::number::Did;
use crate::sip::digest::Credentials;
use crate::sip::session_timer::LEAST_SECONDS;
use crate::sip::transport::TlsFiles;
use crate::trunk::{
    CallerFrom, Country, Gateway, IdentityHeader, NumberFormat, Prack, SrtpPolicy, Transport, Trunk, Trunks,
};
use ipnet::IpNet;
use media::engine::{MediaLimits, PacketIo};
use media::{Codec, SourcePolicy};
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use toml::Value;

/// Checks everything, and returns either the limits or every fault. A faulty value is replaced by a harmless one
/// on the way, so that the rest can still be checked; the result is thrown away then.
pub(super) fn check(config: &Config, mut faults: Faults) -> Result<Checked, ConfigErrors> {
    let found = &mut faults;
    let sip = sip(&config.sip, found);
    let media = media(&config.media, sip.public_address, found);
    let http = http(&config.http, found);
    let recordings = recordings(&config.recordings, found);
    let store = store(&config.store, &recordings.directory, found);

    // What was not given is the default, and so is what could not be read: its fault is reported already.
    let (local_trunk, local_numbers);
    let trunks = match &config.trunks {
        Some(trunks) => trunks.as_slice(),
        None => {
            local_trunk = [TrunkConfig::local()];
            &local_trunk
        }
    };
    let numbers = match (&config.numbers, &config.trunks) {
        (Some(numbers), _) => numbers.as_slice(),
        (None, Some(_)) => &[],
        (None, None) => {
            local_numbers = NumberConfig::local().collect::<Vec<_>>();
            &local_numbers
        }
    };
    if trunks.is_empty() {
        found.missing("trunks", "at least one [[trunks]]");
    }
    let trunks = trunks_of(trunks, found);
    let accounts = accounts_of(&config.accounts, found);
    let numbers = numbers_of(numbers, &trunks, &accounts, found);

    let trunks = Trunks::new(trunks);
    let mut checked =
        Checked { sip, media, http, store, recordings, trunks, accounts, numbers, warnings: vec![] };
    if faults.is_empty() {
        checked.warnings = warnings::warnings(&checked);
    }
    faults.into_errors().map_or(Ok(checked), Err)
}

fn sip(written: &SipConfig, faults: &mut Faults) -> SipLimits {
    let mut listen: Vec<Listen> = vec![];
    for (index, uri) in written.listen.iter().enumerate() {
        let (path, value) = (format!("sip.listen[{index}]"), text(uri));
        let Some((scheme, address)) = uri.split_once("://") else {
            faults.wrong(&path, &value, "it is no listener", keys::LISTEN);
            continue;
        };
        match (Transport::parse(scheme), address.parse()) {
            (Some(transport), Ok(address)) => {
                let entry = Listen { transport, address };
                if address.port() != 0 && listen.contains(&entry) {
                    faults.wrong(&path, &value, "it is given twice", keys::LISTEN);
                }
                listen.push(entry);
            }
            (None, _) => faults.wrong(&path, &value, "there is no such transport", keys::LISTEN),
            (_, Err(_)) => faults.wrong(&path, &value, "it has no IP address with port", keys::LISTEN),
        }
    }
    if written.listen.is_empty() {
        faults.missing("sip.listen", keys::LISTEN);
    }
    let secure = listen.iter().any(|listen| listen.transport == Transport::Tls);
    SipLimits {
        listen,
        tls: tls(&written.tls, secure, faults),
        public_address: public_address("sip.public_address", written.public_address.as_deref(), faults),
        max_calls: within("sip.max_calls", written.max_calls, 1..=100_000, faults),
        max_calls_per_second: within(
            "sip.max_calls_per_second",
            written.max_calls_per_second,
            1..=100_000,
            faults,
        ),
        drain: seconds("sip.drain_seconds", written.drain_seconds, 0..=604_800, faults),
        tcp_idle: seconds("sip.tcp_idle_seconds", written.tcp_idle_seconds, 10..=86_400, faults),
        tcp_connections: within("sip.tcp_connections", written.tcp_connections, 1..=100_000, faults),
    }
}

/// Whether the files can be used is seen when they are read, at the start and by `maskline check`.
fn tls(written: &TlsConfig, listens: bool, faults: &mut Faults) -> TlsFiles {
    let path = |path: &Option<String>| path.as_ref().map(PathBuf::from);
    let own = match (path(&written.certificate), path(&written.key)) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) if !listens => None,
        (certificate, key) => {
            if certificate.is_none() {
                faults.missing("sip.tls.certificate", keys::PEM);
            }
            if key.is_none() {
                faults.missing("sip.tls.key", keys::PEM);
            }
            None
        }
    };
    TlsFiles { own, ca: path(&written.ca), client_ca: path(&written.client_ca) }
}

fn media(written: &MediaConfig, sip_address: Option<IpAddr>, faults: &mut Faults) -> MediaSettings {
    let (first, last) = written.ports;
    let value = Value::Array(vec![Value::Integer(first.into()), Value::Integer(last.into())]);
    let problem = if first % 2 != 0 || last % 2 != 0 {
        // RFC 3550 §11: RTP takes the even port, RTCP the odd one above.
        Some("both must be even, because RTCP takes the odd port above each")
    } else if first >= last {
        Some("the first must lie below the last")
    } else if first < 1024 {
        Some("ports below 1024 belong to the system")
    } else {
        None
    };
    if let Some(problem) = problem {
        faults.wrong("media.ports", &value, problem, keys::PORTS);
    }
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let workers = written.workers.unwrap_or(cores);
    let public_address = public_address("media.public_address", written.public_address.as_deref(), faults);
    let silence = seconds("media.silence_seconds", written.silence_seconds, 0..=86_400, faults);
    let packets = match written.engine.as_str() {
        "auto" => PacketIo::Auto,
        "io_uring" => PacketIo::IoUring,
        "epoll" => PacketIo::Epoll,
        other => {
            faults.wrong("media.engine", &text(other), "it is no engine", keys::ENGINE);
            PacketIo::Auto
        }
    };
    MediaSettings {
        public_address: public_address.or(sip_address),
        limits: MediaLimits {
            ports: first..=last,
            silence: (!silence.is_zero()).then_some(silence),
            port_rest: Duration::from_millis(within(
                "media.port_rest_ms",
                written.port_rest_ms,
                0..=3_600_000,
                faults,
            )),
            workers: within("media.workers", workers, 1..=256, faults),
            packets,
        },
    }
}

fn http(written: &HttpConfig, faults: &mut Faults) -> HttpLimits {
    let listen = written.listen.parse().unwrap_or_else(|_| {
        faults.wrong(
            "http.listen",
            &text(&written.listen),
            "it is no IP address with port",
            keys::HTTP_LISTEN,
        );
        SocketAddr::from(([127, 0, 0, 1], 0))
    });
    let rate = written.requests_per_5_seconds;
    HttpLimits {
        listen,
        public_url: written.public_url.as_deref().and_then(|url| public_url(url, faults)),
        requests_per_5_seconds: within("http.requests_per_5_seconds", rate, 1..=1_000_000, faults),
        trusted_proxies: networks("http.trusted_proxies", &written.trusted_proxies, faults),
        fetch_allow: networks("http.fetch_allow", &written.fetch_allow, faults),
    }
}

/// Scheme, host and perhaps a path, to which our own paths are added.
fn public_url(written: &str, faults: &mut Faults) -> Option<String> {
    let url = reqwest::Url::parse(written).ok().filter(|url| {
        matches!(url.scheme(), "http" | "https") && url.query().is_none() && url.fragment().is_none()
    });
    if url.is_none() {
        faults.wrong("http.public_url", &text(written), "it is no such URL", keys::PUBLIC_URL);
    }
    url.map(|url| url.as_str().trim_end_matches('/').to_owned())
}

fn store(written: &StoreConfig, recordings: &Path, faults: &mut Faults) -> StoreSettings {
    let (key, value) = ("store.url", text(&written.url));
    let (shown, pid_file) = match written.url.split_once("://") {
        Some(("postgres" | "postgresql", _)) => match crate::store::server_of(&written.url) {
            // A process beside its own recordings: no two may have the same.
            Ok(server) => (server, recordings.join("maskline.pid")),
            Err(problem) => {
                faults.wrong(key, &value, problem, keys::STORE_URL);
                Default::default()
            }
        },
        Some(("sqlite", path)) if path.contains(['?', '#', '%']) => {
            faults.wrong(key, &value, "\"?\", \"#\" and \"%\" cannot be part of the path", keys::STORE_URL);
            Default::default()
        }
        Some(("sqlite", path)) if Path::new(path).file_name().is_some() && !path.ends_with('/') => {
            (path.to_owned(), Path::new(path).with_file_name("maskline.pid"))
        }
        _ => {
            faults.wrong(key, &value, "it names no database", keys::STORE_URL);
            Default::default()
        }
    };
    let key_file = match written.key_file.as_deref() {
        Some("") => {
            faults.wrong("store.key_file", &text(""), "it is empty", keys::DIRECTORY);
            PathBuf::new()
        }
        Some(key_file) => PathBuf::from(key_file),
        None if written.url.starts_with("sqlite:") => pid_file.with_file_name("maskline.key"),
        // All processes of one database must have the same, so it does not lie with what belongs to one.
        None => PathBuf::from("data/maskline.key"),
    };
    StoreSettings { url: written.url.clone(), shown, pid_file, key_file }
}

fn recordings(written: &RecordingsConfig, faults: &mut Faults) -> RecordingSettings {
    if written.directory.is_empty() {
        faults.wrong("recordings.directory", &text(""), "it is empty", keys::DIRECTORY);
    }
    let days = within("recordings.retention_days", written.retention_days, 0..=36_500, faults);
    RecordingSettings {
        directory: PathBuf::from(&written.directory),
        retention: (days > 0).then(|| Duration::from_secs(u64::from(days) * 86_400)),
    }
}

fn trunks_of(written: &[TrunkConfig], faults: &mut Faults) -> Vec<Trunk> {
    let mut names = BTreeSet::new();
    let trunks = written.iter().enumerate().map(|(index, trunk)| {
        let path = format!("trunks[{index}]");
        let name_path = format!("{path}.name");
        let letters = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if trunk.name.is_empty() {
            faults.missing(&name_path, keys::NAME);
        } else if trunk.name.len() > 64 || !trunk.name.bytes().all(letters) {
            faults.wrong(&name_path, &text(&trunk.name), "it is no name", keys::NAME);
        } else if !names.insert(trunk.name.as_str()) {
            faults.wrong(&name_path, &text(&trunk.name), "another trunk has this name", keys::NAME);
        }
        trunk_of(&path, trunk, faults)
    });
    let trunks: Vec<Trunk> = trunks.collect();
    let mut users = BTreeSet::new();
    for (index, trunk) in trunks.iter().enumerate().filter(|(_, trunk)| trunk.challenge) {
        // The user name alone says which of them calls.
        if let Some(known) = &trunk.credentials
            && !users.insert(known.username.as_str())
        {
            let problem = "another trunk that challenges has this user name";
            faults.wrong(
                &format!("trunks[{index}].username"),
                &text(&known.username),
                problem,
                keys::USERNAME,
            );
        }
    }
    trunks
}

fn trunk_of(path: &str, written: &TrunkConfig, faults: &mut Faults) -> Trunk {
    let at = |key: &str| format!("{path}.{key}");
    let [gateways_key, allow_key] = [at("gateways"), at("allow")];
    let given = |key: &str, faults: &Faults| faults.is_struck(key);
    if written.gateways.is_empty()
        && written.allow.is_empty()
        && !given(&gateways_key, faults)
        && !given(&allow_key, faults)
    {
        faults.missing(&format!("{gateways_key} or {allow_key}"), "at least one entry in one of them");
    }
    let limit = |key: &str, value: Option<u32>, faults: &mut Faults| {
        value.map(|value| within(&at(key), value, 1..=100_000, faults))
    };
    let caller_from =
        |word: &str| CallerFrom::ALL.into_iter().find(|place| place.as_str().eq_ignore_ascii_case(word));
    let codec = |word: &str| match word.to_ascii_uppercase().as_str() {
        "PCMU" => Some(Codec::Pcmu),
        "PCMA" => Some(Codec::Pcma),
        "G722" => Some(Codec::G722),
        _ => None,
    };
    let rtp_source = match written.rtp_source.as_str() {
        "exact" => Some(SourcePolicy::Exact),
        "address" => Some(SourcePolicy::Address),
        _ => None,
    };
    if rtp_source.is_none() {
        faults.wrong(
            &at("rtp_source"),
            &text(&written.rtp_source),
            "there is no such rule",
            keys::RTP_SOURCE,
        );
    }
    let srtp = SrtpPolicy::parse(&written.srtp);
    if srtp.is_none() {
        faults.wrong(&at("srtp"), &text(&written.srtp), "there is no such rule", keys::SRTP);
    }
    let default_country = written.default_country.as_deref().and_then(|code| {
        let country = Country::parse(code);
        if country.is_none() {
            faults.wrong(&at("default_country"), &text(code), "there is no such country", keys::COUNTRY);
        }
        country
    });
    let gateways = gateways(&gateways_key, &written.gateways, faults);
    let allow = networks(&allow_key, &written.allow, faults);
    let credentials = credentials(&at, written, faults);
    let everybody = allow.iter().any(|network| network.prefix_len() == 0);
    let challenge = written.challenge.unwrap_or(credentials.is_some() && everybody);
    let neither = written.username.is_none() && written.password.is_none();
    if neither && (written.challenge == Some(true) || written.register) {
        faults.missing(&at("username"), keys::USERNAME);
    }
    if written.register && gateways.is_empty() && written.gateways.is_empty() {
        faults.missing(&gateways_key, keys::GATEWAYS);
    }
    let identity = IdentityHeader::ALL.into_iter().find(|known| known.as_str() == written.identity);
    if identity.is_none() {
        faults.wrong(&at("identity"), &text(&written.identity), "there is no such header", keys::IDENTITY);
    }
    let number_format = number_format(&at("number_format"), &written.number_format, faults);
    if number_format == NumberFormat::National && written.default_country.is_none() {
        faults.missing(&at("default_country"), keys::COUNTRY);
    }
    Trunk {
        name: written.name.clone(),
        gateways,
        allow,
        media_allow: networks(&at("media_allow"), &written.media_allow, faults),
        caller_from: words(&at("caller_from"), &written.caller_from, caller_from, keys::CALLER_FROM, faults),
        rtp_source: rtp_source.unwrap_or(SourcePolicy::Exact),
        codecs: words(&at("codecs"), &written.codecs, codec, keys::CODECS, faults),
        srtp: srtp.unwrap_or_default(),
        early_media: written.early_media,
        number_format,
        default_country,
        max_calls: limit("max_calls", written.max_calls, faults),
        max_calls_per_second: limit("max_calls_per_second", written.max_calls_per_second, faults),
        prack: prack(&at("prack"), &written.prack, faults),
        session_timer: session_timer(&at("session_timer"), written.session_timer, faults),
        options: Some(seconds(&at("options_seconds"), written.options_seconds, 0..=3600, faults))
            .filter(|interval| !interval.is_zero()),
        challenge,
        register: written.register,
        credentials: credentials.map(Arc::new),
        identity: identity.unwrap_or(IdentityHeader::None),
    }
}

/// User name and password, which go together.
fn credentials(
    at: &impl Fn(&str) -> String,
    written: &TrunkConfig,
    faults: &mut Faults,
) -> Option<Credentials> {
    let plain = |text: &str, space: bool| {
        (1..=128).contains(&text.len())
            && text.bytes().all(|b| (b.is_ascii_graphic() || (space && b == b' ')) && !b"\"\\".contains(&b))
    };
    if let Some(username) = written.username.as_deref().filter(|name| !plain(name, false)) {
        faults.wrong(&at("username"), &text(username), "it is no user name", keys::USERNAME);
    }
    if let Some(realm) = written.realm.as_deref().filter(|realm| !plain(realm, true)) {
        faults.wrong(&at("realm"), &text(realm), "it is no realm", keys::REALM);
    }
    let fits =
        |password: &str| (1..=256).contains(&password.len()) && !password.chars().any(char::is_control);
    if written.password.as_ref().is_some_and(|password| !fits(password.reveal())) {
        faults.wrong(&at("password"), &text(""), "it is no password", keys::PASSWORD);
    }
    match (&written.username, &written.password) {
        (Some(username), Some(password)) => Some(Credentials {
            username: username.clone(),
            password: password.clone(),
            realm: written.realm.clone(),
        }),
        (Some(_), None) => {
            faults.missing(&at("password"), keys::PASSWORD);
            None
        }
        (None, Some(_)) => {
            faults.missing(&at("username"), keys::USERNAME);
            None
        }
        (None, None) => None,
    }
}

fn prack(path: &str, written: &str, faults: &mut Faults) -> Prack {
    let known = Prack::ALL.into_iter().find(|(word, _)| *word == written);
    if known.is_none() {
        faults.wrong(path, &text(written), "there is no such rule", keys::PRACK);
    }
    known.map_or(Prack::Supported, |(_, prack)| prack)
}

fn session_timer(path: &str, written: u32, faults: &mut Faults) -> Option<u32> {
    (written != 0).then(|| within(path, written, LEAST_SECONDS..=86_400, faults))
}

fn gateways(path: &str, written: &[String], faults: &mut Faults) -> Vec<Gateway> {
    let mut gateways: Vec<Gateway> = vec![];
    for (index, uri) in written.iter().enumerate() {
        let (path, value) = (format!("{path}[{index}]"), text(uri));
        match Gateway::parse(uri) {
            Some(gateway) if gateways.contains(&gateway) => {
                faults.wrong(&path, &value, "it is given twice", keys::GATEWAYS);
            }
            Some(gateway) => gateways.push(gateway),
            None => faults.wrong(&path, &value, "it is no gateway", keys::GATEWAYS),
        }
    }
    gateways
}

fn number_format(path: &str, written: &str, faults: &mut Faults) -> NumberFormat {
    match written {
        "+e164" => return NumberFormat::PlusE164,
        "e164" => return NumberFormat::E164,
        "national" => return NumberFormat::National,
        _ => faults.wrong(path, &text(written), "there is no such format", keys::NUMBER_FORMAT),
    }
    NumberFormat::PlusE164
}

fn accounts_of(written: &[AccountConfig], faults: &mut Faults) -> Vec<Account> {
    let mut ids = BTreeSet::new();
    for (index, account) in written.iter().enumerate() {
        let id_path = format!("accounts[{index}].auth_id");
        if account.auth_id.is_empty() {
            faults.missing(&id_path, keys::AUTH_ID);
        } else if !is_auth_id(&account.auth_id) {
            faults.wrong(&id_path, &text(&account.auth_id), "it is no auth id", keys::AUTH_ID);
        } else if !ids.insert(account.auth_id.as_str()) {
            faults.wrong(&id_path, &text(&account.auth_id), "another account has it", keys::AUTH_ID);
        }
        let (token_path, token) = (format!("accounts[{index}].auth_token"), account.auth_token.reveal());
        if token.is_empty() {
            faults.missing(&token_path, keys::AUTH_TOKEN);
        } else if !(16..=128).contains(&token.len()) || !token.bytes().all(|b| b.is_ascii_graphic()) {
            faults.wrong(
                &token_path,
                &text(""),
                "it is too short, too long or not printable",
                keys::AUTH_TOKEN,
            );
        }
    }
    let accounts = written
        .iter()
        .map(|account| Account { auth_id: account.auth_id.clone(), auth_token: account.auth_token.clone() });
    accounts.collect()
}

fn is_auth_id(id: &str) -> bool {
    is_id(id, "MA")
}

fn is_id(id: &str, prefix: &str) -> bool {
    id.len() == 20
        && id.starts_with(prefix)
        && id.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit())
}

fn numbers_of(
    written: &[NumberConfig],
    trunks: &[Trunk],
    accounts: &[Account],
    faults: &mut Faults,
) -> Vec<Number> {
    let (mut seen, mut numbers) = (BTreeSet::new(), vec![]);
    for (index, number) in written.iter().enumerate() {
        let at = |key: &str| format!("numbers[{index}].{key}");
        let trunk = trunk_name(&at("trunk"), number.trunk.as_deref(), trunks, faults);
        let no_session = no_session(&at("no_session"), number.no_session.as_deref(), faults);
        let account = match &number.account {
            Some(id) if !is_auth_id(id) => {
                faults.wrong(&at("account"), &text(id), "it is no auth id", keys::AUTH_ID);
                None
            }
            Some(id) if !accounts.is_empty() && !accounts.iter().any(|account| account.auth_id == *id) => {
                let known: Vec<&str> = accounts.iter().map(|account| account.auth_id.as_str()).collect();
                faults.wrong(&at("account"), &text(id), "[[accounts]] has no such account", known.join(", "));
                None
            }
            Some(id) => Some(id.clone()),
            None => accounts.first().map(|account| account.auth_id.clone()),
        };
        let subaccount = number.subaccount.clone().filter(|id| {
            let fits = is_id(id, "SA");
            if !fits {
                faults.wrong(&at("subaccount"), &text(id), "it is no auth id", keys::SUBACCOUNT);
            }
            fits
        });
        let (path, value) = (at("number"), text(&number.number));
        // With the "+" nobody has to guess whether the country code is there; none begins with 0.
        let valid = number.number.starts_with('+') && !number.number.starts_with("+0");
        match Did::parse(&number.number).filter(|_| valid) {
            None if number.number.is_empty() => faults.missing(&path, keys::NUMBER),
            None => faults.wrong(&path, &value, "it is no number in E.164 form", keys::NUMBER),
            Some(did) if !seen.insert(did.clone()) => {
                faults.wrong(&path, &value, "it is given twice", keys::NUMBER);
            }
            Some(did) => numbers.push(Number { did, trunk, account, subaccount, no_session }),
        }
    }
    numbers
}

fn trunk_name(path: &str, written: Option<&str>, trunks: &[Trunk], faults: &mut Faults) -> String {
    let names = || {
        let dialable = trunks.iter().filter(|trunk| !trunk.gateways.is_empty());
        dialable.map(|trunk| trunk.name.as_str()).collect::<Vec<_>>().join(", ")
    };
    // Trunks that could not be read explain every trunk that is missing here.
    let unread = (0..trunks.len()).any(|index| {
        faults.is_struck(&format!("trunks[{index}].name"))
            || faults.is_struck(&format!("trunks[{index}].gateways"))
    });
    match (written, trunks) {
        _ if unread || faults.is_struck("trunks") => String::new(),
        (None, [only]) => only.name.clone(),
        (None, _) => {
            faults.missing(path, "the name of a trunk, because there is more than one");
            String::new()
        }
        (Some(name), _) => {
            match trunks.iter().find(|trunk| trunk.name == name) {
                None => faults.wrong(path, &text(name), "there is no such trunk", names()),
                // Its gateways may all be faulty: that is reported where they stand.
                Some(trunk) if trunk.gateways.is_empty() && faults.is_empty() => {
                    faults.wrong(path, &text(name), "this trunk has no gateways to dial by", names());
                }
                Some(_) => {}
            }
            name.to_owned()
        }
    }
}

fn no_session(path: &str, written: Option<&str>, faults: &mut Faults) -> NoSession {
    let Some(written) = written else { return NoSession::default() };
    NoSession::parse(written).unwrap_or_else(|| {
        faults.wrong(path, &text(written), "it is none of these", keys::NO_SESSION);
        NoSession::Reject
    })
}

/// A list of known words, each once, at least one.
fn words<T: PartialEq>(
    path: &str,
    written: &[String],
    parse: impl Fn(&str) -> Option<T>,
    allowed: &'static str,
    faults: &mut Faults,
) -> Vec<T> {
    let mut known = vec![];
    for (index, word) in written.iter().enumerate() {
        let path = format!("{path}[{index}]");
        match parse(word) {
            None => faults.wrong(&path, &text(word), "there is no such choice", allowed),
            Some(choice) if known.contains(&choice) => {
                faults.wrong(&path, &text(word), "it is given twice", allowed);
            }
            Some(choice) => known.push(choice),
        }
    }
    if written.is_empty() {
        faults.wrong(path, &Value::Array(vec![]), "the list is empty", allowed);
    }
    known
}

fn networks(path: &str, written: &[String], faults: &mut Faults) -> Vec<IpNet> {
    let mut networks = vec![];
    for (index, network) in written.iter().enumerate() {
        let (path, value) = (format!("{path}[{index}]"), text(network));
        let parsed =
            network.parse::<IpNet>().ok().or_else(|| network.parse::<IpAddr>().ok().map(IpNet::from));
        match parsed {
            None => faults.wrong(&path, &value, "it is no network", keys::NETWORKS),
            // 198.51.100.7/24 is as likely one address with a wrong prefix as a network: better ask.
            Some(parsed) if parsed != parsed.trunc() => {
                let either = format!("{} for the network, {} for the address", parsed.trunc(), parsed.addr());
                faults.wrong(&path, &value, "the address has bits that the prefix does not cover", either);
            }
            Some(parsed) => networks.push(parsed),
        }
    }
    networks
}

fn public_address(path: &str, written: Option<&str>, faults: &mut Faults) -> Option<IpAddr> {
    let written = written?;
    let address = written.parse::<IpAddr>().ok().filter(|ip| !ip.is_unspecified() && !ip.is_multicast());
    if address.is_none() {
        faults.wrong(path, &text(written), "it is no address that a peer can send to", keys::PUBLIC_ADDRESS);
    }
    address
}

fn within<T>(path: &str, value: T, allowed: RangeInclusive<T>, faults: &mut Faults) -> T
where
    T: Copy + PartialOrd + TryInto<i64>,
{
    if !allowed.contains(&value) {
        let shown = Value::Integer(value.try_into().unwrap_or(i64::MAX));
        let words = keys::find(path).map_or("", |key| key.allowed);
        faults.wrong(path, &shown, "it is out of range", words);
    }
    value
}

fn seconds(path: &str, value: u64, allowed: RangeInclusive<u64>, faults: &mut Faults) -> Duration {
    Duration::from_secs(within(path, value, allowed, faults))
}

fn text(value: &str) -> Value {
    Value::String(value.to_owned())
}

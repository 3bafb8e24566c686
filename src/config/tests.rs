use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

const EXAMPLE: &str = include_str!("../../deploy/maskline.toml");

fn read(text: &str) -> Result<Checked, ConfigErrors> {
    Config::read(text, std::iter::empty())
}

fn read_with(text: &str, variables: &[(&str, &str)]) -> Result<Checked, ConfigErrors> {
    Config::read(text, variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
}

/// The lines that an operator sees.
fn faults(text: &str) -> Vec<String> {
    read(text).map_or_else(|errors| errors.to_string().lines().map(str::to_owned).collect(), |_| vec![])
}

const TRUNK: &str =
    "[[trunks]]\nname = \"carrier\"\ngateways = [\"sip:198.51.100.7\"]\nallow = [\"198.51.100.0/24\"]\n";

#[test]
fn without_a_file_loopback_can_try_it_at_once() {
    let checked = read("").unwrap();
    let listen: Vec<String> = checked.sip.listen.iter().map(ToString::to_string).collect();
    assert_eq!(listen, ["udp://0.0.0.0:5060", "tcp://0.0.0.0:5060"]);
    assert_eq!((checked.sip.max_calls, checked.sip.max_calls_per_second), (4000, 500));
    assert_eq!(checked.sip.drain, Duration::from_secs(3600));
    assert_eq!(checked.media.limits.ports, 16_384..=32_766);
    assert_eq!(checked.media.limits.silence, Some(Duration::from_secs(60)));
    assert_eq!(checked.media.limits.port_rest, Duration::from_secs(60));
    assert!(checked.media.limits.workers >= 1);
    assert_eq!(checked.http.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(checked.http.requests_per_5_seconds, 300);
    assert_eq!(checked.store.pid_file(), Path::new("data/maskline.pid"));
    assert_eq!(checked.recordings.directory, Path::new("data/recordings"));
    assert_eq!(checked.recordings.retention, Some(Duration::from_secs(90 * 86_400)));
    assert!(checked.accounts.is_empty());

    let local = checked.trunks.get("local").unwrap();
    assert_eq!(local.gateways.iter().map(ToString::to_string).collect::<Vec<_>>(), ["sip:127.0.0.1:5070"]);
    for (source, admitted) in [("127.0.0.1", true), ("127.9.9.9", true), ("::1", true), ("192.0.2.1", false)]
    {
        assert_eq!(checked.trunks.by_source(source.parse().unwrap()).is_some(), admitted, "{source}");
    }
    let numbers: Vec<String> = checked.numbers.iter().map(|number| number.did.to_string()).collect();
    assert_eq!(numbers.len(), 20);
    assert_eq!((numbers[0].as_str(), numbers[19].as_str()), ("+12025550100", "+12025550119"));
    assert!(checked.numbers.iter().all(|n| n.trunk == "local" && n.no_session == NoSession::Reject));
    assert_eq!(checked.warnings, Vec::<String>::new());
}

#[test]
fn the_example_file_is_valid_and_says_the_defaults() {
    let example = read(EXAMPLE).unwrap();
    assert_eq!(example.warnings, Vec::<String>::new());
    // Whatever the example sets beside trunks and numbers is the default: both print alike.
    let sections = |checked: &Checked| {
        format!(
            "{:?}{:?}{:?}{:?}{:?}",
            checked.sip, checked.media, checked.http, checked.store, checked.recordings
        )
    };
    assert_eq!(sections(&example), sections(&read("").unwrap()));
}

#[test]
fn a_postgres_url_shows_everything_but_its_password() {
    for (url, shown) in [
        ("postgres://me:secret@db.example/masks", "postgres://me@db.example:5432/masks"),
        ("postgresql://me:secret@[2001:db8::1]:5433/masks", "postgres://me@[2001:db8::1]:5433/masks"),
        ("postgres://me@localhost/masks?host=/run/pg&password=secret", "postgres://me@/run/pg/masks"),
        ("postgres://me:s%3Fe@db/masks?sslmode=verify-full", "postgres://me@db:5432/masks"),
    ] {
        let checked = read(&format!("[store]\nurl = \"{url}\"\n[recordings]\ndirectory = \"a/b\"")).unwrap();
        assert_eq!((checked.store.shown(), checked.store.url()), (shown, url));
        assert_eq!(checked.store.pid_file(), Path::new("a/b/maskline.pid"));
        let printed = format!("{checked:?}{}", checked.summary());
        assert!(!printed.contains("secret") && printed.contains(shown), "{printed}");
    }
}

#[test]
fn every_key_is_in_the_example_and_in_the_readme_and_readable() {
    let readme = include_str!("../../README.md");
    for key in keys::KEYS.iter().filter(|key| key.kind != keys::Kind::Tables) {
        let (section, name) = key.path.rsplit_once('.').unwrap();
        let heading = if let Some(list) = section.strip_suffix("[]") {
            format!("[[{list}]]")
        } else {
            format!("[{section}]")
        };
        let start = EXAMPLE.find(&heading).unwrap_or_else(|| panic!("{heading} is in the example"));
        let part = &EXAMPLE[start + heading.len()..];
        let part = &part[..part.find("\n[").unwrap_or(part.len())];
        let line = |line: &str| line.trim_start_matches(['#', ' ']).starts_with(&format!("{name} ="));
        assert!(part.lines().any(line), "{} is in the example", key.path);
        assert!(readme.contains(&format!("`{}`", key.path)), "{} is in the README", key.path);
    }
    // The structs know every key of the table: a text where none fits is a wrong type or value, never unknown.
    for key in keys::KEYS.iter().filter(|key| key.kind != keys::Kind::Tables) {
        let (section, name) = key.path.rsplit_once('.').unwrap();
        let (open, close) = if section.ends_with("[]") { ("[[", "]]") } else { ("[", "]") };
        let text = format!("{open}{}{close}\n{name} = {{}}", section.trim_end_matches("[]"));
        let found = faults(&text);
        assert!(found[0].contains("it cannot be read; allowed: "), "{}: {found:?}", key.path);
    }
}

#[test]
fn each_fault_names_its_key_its_value_and_what_is_allowed() {
    let table = [
        (
            "[sip]\nlisten = [\"udp://0.0.0.0:5060\", \"5060\"]",
            "sip.listen[1] = \"5060\": it is no listener; allowed: a list of udp://ADDRESS:PORT, tcp://ADDRESS:PORT and tls://ADDRESS:PORT, each once",
        ),
        (
            "[sip]\nlisten = [\"sctp://0.0.0.0:5060\"]",
            "sip.listen[0] = \"sctp://0.0.0.0:5060\": there is no such transport",
        ),
        (
            "[sip]\nlisten = [\"udp://localhost:5060\"]",
            "sip.listen[0] = \"udp://localhost:5060\": it has no IP address with port",
        ),
        (
            "[sip]\nlisten = [\"udp://0.0.0.0:5060\", \"UDP://0.0.0.0:5060\"]",
            "sip.listen[1] = \"UDP://0.0.0.0:5060\": it is given twice",
        ),
        (
            "[sip]\nlisten = [\"tls://0.0.0.0:5061\"]\ntls = { key = \"a\" }",
            "sip.tls.certificate is missing; allowed: the path of a PEM file",
        ),
        ("[sip]\nlisten = []", "sip.listen is missing; allowed: a list of udp"),
        (
            "[sip]\nlisten = \"udp://0.0.0.0:5060\"",
            "sip.listen = \"udp://0.0.0.0:5060\": it cannot be read; allowed: a list of udp",
        ),
        (
            "[sip]\nlisten = [\"udp://0.0.0.0:5060\", 5060]",
            "sip.listen[1] = 5060: it cannot be read; allowed: a list of udp",
        ),
        ("[sip]\ntls = { certificate = \"a\" }", "sip.tls.key is missing; allowed: the path of a PEM file"),
        (
            "[sip]\npublic_address = \"0.0.0.0\"",
            "sip.public_address = \"0.0.0.0\": it is no address that a peer can send to",
        ),
        ("[sip]\npublic_address = \"sip.example\"", "sip.public_address = \"sip.example\": it is no address"),
        (
            "[sip]\nmax_calls = 0",
            "sip.max_calls = 0: it is out of range; allowed: a whole number from 1 to 100000",
        ),
        (
            "[sip]\nmax_calls = -1",
            "sip.max_calls = -1: it cannot be read; allowed: a whole number from 1 to 100000",
        ),
        (
            "[sip]\nmax_calls = \"many\"",
            "sip.max_calls = \"many\": it cannot be read; allowed: a whole number",
        ),
        ("[sip]\nmax_cals = 1", "sip.max_cals = 1: there is no such key; did you mean sip.max_calls?"),
        ("[sipp]\nmax_calls = 1", "sipp = {…}: there is no such key; did you mean sip?"),
        ("sip = 5060", "sip = 5060: it cannot be read; allowed: a table of keys"),
        ("xyzzy = 1", "xyzzy = 1: there is no such key; see the README for all keys"),
        ("[media]\nports = [16385, 32766]", "media.ports = [16385, 32766]: both must be even"),
        (
            "[media]\nports = [32766, 16384]",
            "media.ports = [32766, 16384]: the first must lie below the last",
        ),
        ("[media]\nports = [80, 16384]", "media.ports = [80, 16384]: ports below 1024 belong to the system"),
        ("[media]\nports = [16384]", "media.ports = [16384]: it cannot be read; allowed: [first, last]"),
        (
            "[media]\nports = [16384, 70000]",
            "media.ports[1] = 70000: it cannot be read; allowed: [first, last]",
        ),
        (
            "[media]\nworkers = 0",
            "media.workers = 0: it is out of range; allowed: a whole number of threads from 1 to 256",
        ),
        (
            "[media]\nengine = \"xdp\"",
            "media.engine = \"xdp\": it is no engine; allowed: \"auto\", \"io_uring\" or \"epoll\"",
        ),
        ("[media]\nsilence_seconds = 90000", "media.silence_seconds = 90000: it is out of range"),
        (
            "[http]\nlisten = \"8080\"",
            "http.listen = \"8080\": it is no IP address with port; allowed: ADDRESS:PORT",
        ),
        (
            "[http]\npublic_url = \"masking.example.com\"",
            "http.public_url = \"masking.example.com\": it is no such URL; allowed: an http or https URL",
        ),
        (
            "[http]\nfetch_allow = [\"10.0.0.1/8\"]",
            "http.fetch_allow[0] = \"10.0.0.1/8\": the address has bits that the prefix does not cover; allowed: 10.0.0.0/8 for the network, 10.0.0.1 for the address",
        ),
        (
            "[store]\nurl = \"postgres://me:secret@db/x?pasword=secret\"",
            "store.url = \"postgres://…\": it has a parameter that is not known; allowed: \"sqlite://PATH\" or \"postgres://",
        ),
        (
            "[store]\nurl = \"mysql://x\"",
            "store.url = \"mysql://x\": it names no database; allowed: \"sqlite://PATH\"",
        ),
        ("[store]\nurl = \"sqlite://data/\"", "store.url = \"sqlite://data/\": it names no database"),
        ("[store]\nurl = \"postgres://me:secret@db\"", "store.url = \"postgres://…\": it names no database"),
        (
            "[store]\nurl = \"postgres://me:secret@[db/x\"",
            "store.url = \"postgres://…\": it is no URL of a PostgreSQL database",
        ),
        ("[store]\nurl = \"mysql://me:secret@db/x\"", "store.url = \"mysql://…@db/x\": it names no database"),
        (
            "[store]\nulr = \"postgres://me:secret@db/x\"",
            "store.ulr = \"postgres://…\": there is no such key",
        ),
        (
            "[store]\nurl = \"sqlite://a.db?mode=ro\"",
            "store.url = \"sqlite://a.db?mode=ro\": \"?\", \"#\" and \"%\"",
        ),
        ("[recordings]\ndirectory = \"\"", "recordings.directory = \"\": it is empty; allowed: a path"),
        ("trunks = []", "trunks is missing; allowed: at least one [[trunks]]"),
        ("trunks = [1]", "trunks[0] = 1: it cannot be read; allowed: tables [[trunks]]"),
        ("[trunks]\nname = \"a\"", "trunks = {…}: it cannot be read; allowed: tables [[trunks]]"),
        ("[[trunks]]\nallow = [\"::1\"]", "trunks[0].name is missing; allowed: 1 to 64 letters"),
        ("[[trunks]]\nname = \"a b\"\nallow = [\"::1\"]", "trunks[0].name = \"a b\": it is no name"),
        ("[[trunks]]\nname = \"a\"", "trunks[0].gateways or trunks[0].allow is missing"),
        (
            "[[trunks]]\nname = \"a\"\nallow = [\"::1\"]\n[[trunks]]\nname = \"a\"\nallow = [\"::2\"]",
            "trunks[1].name = \"a\": another trunk has this name",
        ),
        (
            "[[trunks]]\nname = \"a\"\nallow = [\"carrier.example\"]",
            "trunks[0].allow[0] = \"carrier.example\": it is no network",
        ),
        (
            "[[trunks]]\nname = \"a\"\ngateways = [\"198.51.100.7\"]",
            "trunks[0].gateways[0] = \"198.51.100.7\": it is no gateway; allowed: a list of sip:HOST[:PORT][;transport=udp|tcp|tls]",
        ),
        (
            "[[trunks]]\nname = \"a\"\ngateways = [\"sips:a.example;transport=udp\"]",
            "trunks[0].gateways[0] = \"sips:a.example;transport=udp\": it is no gateway",
        ),
        (
            "[[trunks]]\nname = \"a\"\ngateways = [\"sip:a.example;transport=sctp\"]",
            "trunks[0].gateways[0] = \"sip:a.example;transport=sctp\": it is no gateway",
        ),
        (
            "[[trunks]]\nname = \"a\"\nallow = [\"::1\"]\nusername = \"u\"\npassword = \"hunter\\u00072\"",
            "trunks[0].password = (hidden): it is no password",
        ),
        (
            "[[trunks]]\nname = \"a\"\nallow = [\"::1\"]\npassword = \"hunter2\"",
            "trunks[0].username is missing",
        ),
        (
            "[[trunks]]\nname = \"a\"\nallow = [\"::1\"]\nusername = \"hunter\"",
            "trunks[0].password is missing",
        ),
        (
            "[[trunks]]\nname = \"a\"\nallow = [\"::1\"]\nusername = \"a b\"\npassword = \"hunter2\"",
            "trunks[0].username = \"a b\": it is no user name",
        ),
        ("[[trunks]]\nname = \"a\"\nallow = [\"::1\"]\nchallenge = true", "trunks[0].username is missing"),
        (
            "[[trunks]]\nname = \"a\"\nallow = [\"::1\"]\nusername = \"u\"\npassword = \"hunter2\"\nregister = true",
            "trunks[0].gateways is missing",
        ),
        (
            "[[trunks]]\nname = \"a\"\nallow = [\"::1\"]\nidentity = \"pai\"",
            "trunks[0].identity = \"pai\": there is no such header",
        ),
        (
            "[[trunks]]\nname = \"a\"\nallow = [\"::1\"]\nnumber_format = \"national\"",
            "trunks[0].default_country is missing",
        ),
        (
            "[[trunks]]\nname = \"a\"\nallow = [\"0.0.0.0/0\"]\nusername = \"u\"\npassword = \"hunter2\"\n\
             [[trunks]]\nname = \"b\"\nallow = [\"::/0\"]\nusername = \"u\"\npassword = \"hunter3\"",
            "trunks[1].username = \"u\": another trunk that challenges has this user name",
        ),
        (
            "[[trunks]]\nname = \"a\"\nallow = [\"::1\"]\npasword = \"hunter2\"",
            "trunks[0].pasword = (hidden): there is no such key; did you mean trunks[0].password?",
        ),
        (
            "[[trunks]]\nname = \"a\"\nallow = [\"::1\"]\ncaller_from = [\"pai\"]",
            "trunks[0].caller_from[0] = \"pai\": there is no such choice; allowed: a list of \"p-asserted-identity\"",
        ),
        (
            "[[trunks]]\nname = \"a\"\nallow = [\"::1\"]\ncaller_from = []",
            "trunks[0].caller_from = []: the list is empty",
        ),
        (
            "[[trunks]]\nname = \"a\"\nallow = [\"::1\"]\ncodecs = [\"PCMU\", \"G729\"]",
            "trunks[0].codecs[1] = \"G729\": there is no such choice; allowed: a list of \"G722\", \"PCMU\", \"PCMA\"",
        ),
        (
            "[[trunks]]\nname = \"a\"\nallow = [\"::1\"]\ncodecs = [\"PCMU\", \"pcmu\"]",
            "trunks[0].codecs[1] = \"pcmu\": it is given twice",
        ),
        (
            "[[trunks]]\nname = \"a\"\nallow = [\"::1\"]\nrtp_source = \"any\"",
            "trunks[0].rtp_source = \"any\": there is no such rule; allowed: \"exact\" or \"address\"",
        ),
        (
            "[[trunks]]\nname = \"a\"\nallow = [\"::1\"]\ndefault_country = \"XX\"",
            "trunks[0].default_country = \"XX\": there is no such country",
        ),
        (
            "[[trunks]]\nname = \"a\"\nallow = [\"::1\"]\nearly_media = \"no\"",
            "trunks[0].early_media = \"no\": it cannot be read; allowed: true or false",
        ),
        (
            "[[trunks]]\nname = \"a\"\nallow = [\"::1\"]\nmax_calls = 0",
            "trunks[0].max_calls = 0: it is out of range",
        ),
        (
            "[[accounts]]\nauth_id = \"me\"\nauth_token = \"0123456789abcdef\"",
            "accounts[0].auth_id = \"me\": it is no auth id; allowed: \"MA\" and 18",
        ),
        (
            "[[accounts]]\nauth_id = \"MA0123456789ABCDEF01\"\nauth_token = \"short\"",
            "accounts[0].auth_token = (hidden): it is too short",
        ),
        ("[[accounts]]\nauth_id = \"MA0123456789ABCDEF01\"", "accounts[0].auth_token is missing"),
        (
            "[[numbers]]\nnumber = \"2025550100\"",
            "numbers[0].number = \"2025550100\": it is no number in E.164 form; allowed: \"+\" and 7 to 15 digits",
        ),
        ("[[numbers]]\nnumber = \"+0025550100\"", "numbers[0].number = \"+0025550100\": it is no number"),
        (
            "[[numbers]]\nnumber = \"+12025550100\"\n[[numbers]]\nnumber = \"+1 202 555 0100\"",
            "numbers[1].number = \"+1 202 555 0100\": it is given twice",
        ),
        (
            "[[numbers]]\nnumber = \"+12025550100\"\ntrunk = \"carier\"",
            "numbers[0].trunk = \"carier\": there is no such trunk; allowed: local",
        ),
        (
            "[[numbers]]\nnumber = \"+12025550100\"\naccount = \"x\"",
            "numbers[0].account = \"x\": it is no auth id",
        ),
        (
            "[[numbers]]\nnumber = \"+12025550100\"\nsubaccount = \"SA1\"",
            "numbers[0].subaccount = \"SA1\": it is no auth id; allowed: \"SA\" and 18 capital",
        ),
        (
            "[[numbers]]\nnumber = \"+12025550100\"\nno_session = \"busy\"",
            "numbers[0].no_session = \"busy\": it is none of these; allowed: \"reject\", \"play:URL\"",
        ),
        (
            "[[numbers]]\nnumber = \"+12025550100\"\nno_session = \"play:file:///etc/passwd\"",
            "numbers[0].no_session = \"play:file:///etc/passwd\": it is none",
        ),
        (
            "[[numbers]]\nnumber = \"+12025550100\"\nno_session = \"sip:a@b@c\"",
            "numbers[0].no_session = \"sip:a@b@c\": it is none",
        ),
        ("[sip\nlisten = 1", "line 1 of the configuration file: "),
        ("[sip]\nmax_calls = 1\nmax_calls = 2", "line 3 of the configuration file: duplicate key"),
        ("xyzzy = \"\\u001b[2J\\n\"", "xyzzy = \"\\u{1b}[2J\\n\": there is no such key"),
    ];
    for (text, expected) in table {
        let found = faults(text);
        assert!(
            found.len() == 1 && found[0].starts_with(expected),
            "{text}\nexpected {expected}\nfound    {found:?}"
        );
        assert!(!found[0].contains("hunter2") && !found[0].contains("secret"), "{found:?}");
    }
}

#[test]
fn all_faults_of_a_file_are_reported_together_and_none_twice() {
    let text = "
        [sip]
        listen = \"x\"
        max_cals = 3
        max_calls = \"many\"
        drain_seconds = 9000000
        [media]
        ports = [1, 2]
        [[trunks]]
        name = 7
        gateways = [\"sip:a.example\", 5, \"nonsense\"]
        allow = [\"300.1.1.1\"]
        srtp = \"sometimes\"
        [[trunks]]
        name = \"b\"
        gatways = []
        allow = [\"::1\"]
        [[numbers]]
        number = \"12\"
        trunk = \"carrier\"
    ";
    let found = faults(text);
    let keys: Vec<&str> = found.iter().map(|line| line.split(' ').next().unwrap()).collect();
    let expected = BTreeSet::from([
        "sip.listen",
        "sip.max_cals",
        "sip.max_calls",
        "sip.drain_seconds",
        "media.ports",
        "trunks[0].name",
        "trunks[0].gateways[1]",
        "trunks[0].allow[0]",
        "trunks[0].srtp",
        "trunks[1].gatways",
        "numbers[0].number",
    ]);
    assert_eq!(BTreeSet::from_iter(keys.iter().copied()), expected, "{found:#?}");
    assert_eq!(keys.len(), expected.len(), "{found:#?}");
}

#[test]
fn variables_override_the_file() {
    let text = "[sip]\nlisten = [\"udp://192.0.2.1:5060\"]\nmax_calls = 7\n".to_owned() + TRUNK;
    let checked = read_with(
        &text,
        &[
            ("MASKLINE__SIP__LISTEN", "udp://127.0.0.1:0, tcp://127.0.0.1:0"),
            ("MASKLINE__SIP__PUBLIC_ADDRESS", "203.0.113.10"),
            ("MASKLINE__MEDIA__PORTS", "20000, 20998"),
            ("MASKLINE__MEDIA__SILENCE_SECONDS", "0"),
            ("MASKLINE__HTTP__FETCH_ALLOW", "[\"10.0.0.0/8\"]"),
            ("MASKLINE__STORE__URL", "sqlite:///var/lib/maskline/maskline.db"),
            ("MASKLINE__RECORDINGS__DIRECTORY", "2026"),
            ("MASKLINE__NUMBERS", "[{ number = \"+912269947011\", no_session = \"sip:desk@192.0.2.9\" }]"),
            ("MASKLINE_LOG", "debug"),
            ("PATH", "/bin"),
        ],
    )
    .unwrap();
    let listen: Vec<String> = checked.sip.listen.iter().map(ToString::to_string).collect();
    assert_eq!(listen, ["udp://127.0.0.1:0", "tcp://127.0.0.1:0"]);
    assert_eq!(checked.sip.max_calls, 7);
    assert_eq!(checked.sip.public_address, Some("203.0.113.10".parse().unwrap()));
    assert_eq!(
        checked.media.public_address, checked.sip.public_address,
        "SDP shows the same unless told otherwise"
    );
    assert_eq!((checked.media.limits.ports, checked.media.limits.silence), (20_000..=20_998, None));
    assert_eq!(checked.http.fetch_allow, ["10.0.0.0/8".parse().unwrap()]);
    assert_eq!(checked.store.pid_file(), Path::new("/var/lib/maskline/maskline.pid"));
    assert_eq!(checked.recordings.directory, Path::new("2026"));
    assert_eq!(checked.numbers.len(), 1);
    assert_eq!(checked.numbers[0].no_session, NoSession::Sip("sip:desk@192.0.2.9".to_owned()));
    assert_eq!(checked.numbers[0].trunk, "carrier", "the only trunk needs no naming");
}

#[test]
fn a_faulty_variable_is_named_by_its_own_name() {
    for (name, value, expected) in [
        (
            "MASKLINE__SIP__LISTEN",
            "udp://x",
            "sip.listen[0] (MASKLINE__SIP__LISTEN) = \"udp://x\": it has no IP address",
        ),
        (
            "MASKLINE__SIP__MAX_CALLS",
            "many",
            "sip.max_calls (MASKLINE__SIP__MAX_CALLS) = \"many\": it cannot be read",
        ),
        (
            "MASKLINE__SIP__LISTNE",
            "x",
            "sip.listne (MASKLINE__SIP__LISTNE) = \"x\": there is no such key; did you mean sip.listen?",
        ),
        (
            "MASKLINE__TRUNKS__0__NAME",
            "x",
            "trunks.0.name (MASKLINE__TRUNKS__0__NAME) = \"x\": there is no such key",
        ),
        (
            "MASKLINE__SIP__MAX_CALLS",
            "1\nmax_calls_per_second = 1",
            "sip.max_calls (MASKLINE__SIP__MAX_CALLS) = \"1\\nmax",
        ),
        ("MASKLINE__", "x", " (MASKLINE__) = \"x\": there is no such key"),
    ] {
        let found = read_with("", &[(name, value)]).unwrap_err().to_string();
        assert!(found.starts_with(expected) && found.lines().count() == 1, "{name}: {found}");
    }
}

#[test]
fn every_form_of_no_session_is_read() {
    for (written, expected) in [
        ("reject", NoSession::Reject),
        ("play:https://cdn.example/closed.wav", NoSession::Play("https://cdn.example/closed.wav".to_owned())),
        (
            "sip:desk@198.51.100.9:5062;transport=tcp",
            NoSession::Sip("sip:desk@198.51.100.9:5062;transport=tcp".to_owned()),
        ),
        ("sip:+12025550199@carrier.example", NoSession::Sip("sip:+12025550199@carrier.example".to_owned())),
        ("sip:ivr.example", NoSession::Sip("sip:ivr.example".to_owned())),
    ] {
        let text = format!("{TRUNK}[[numbers]]\nnumber = \"+12025550100\"\nno_session = \"{written}\"");
        assert_eq!(read(&text).unwrap().numbers[0].no_session, expected);
    }
}

#[test]
fn a_number_belongs_to_the_first_account_unless_it_names_another() {
    let accounts = "[[accounts]]\nauth_id = \"MA0000000000000000AA\"\nauth_token = \"0123456789abcdef\"\n\
        [[accounts]]\nauth_id = \"MA0000000000000000BB\"\nauth_token = \"0123456789abcdef\"\n";
    let number = "[[numbers]]\nnumber = \"+12025550100\"\n";
    let checked = read(&format!("{TRUNK}{accounts}{number}")).unwrap();
    assert_eq!(checked.numbers[0].account.as_deref(), Some("MA0000000000000000AA"));
    assert!(!format!("{checked:?}").contains("0123456789abcdef"), "a token never prints");
    let other = "account = \"MA0000000000000000BB\"";
    assert_eq!(
        read(&format!("{TRUNK}{accounts}{number}{other}")).unwrap().numbers[0].account.as_deref(),
        Some("MA0000000000000000BB")
    );
    let stranger = "account = \"MA0000000000000000CC\"";
    assert_eq!(
        faults(&format!("{TRUNK}{accounts}{number}{stranger}")),
        [
            "numbers[0].account = \"MA0000000000000000CC\": [[accounts]] has no such account; allowed: MA0000000000000000AA, MA0000000000000000BB"
        ]
    );
}

#[test]
fn what_is_allowed_but_hardly_meant_is_a_warning() {
    let table = [
        (
            "[media]\nports = [16384, 16402]",
            "media.ports has room for 5 calls, fewer than sip.max_calls = 4000",
        ),
        (
            "[sip]\nlisten = [\"udp://0.0.0.0:20000\"]",
            "sip.listen[0] = \"udp://0.0.0.0:20000\" lies within media.ports",
        ),
        ("[http]\nlisten = \"0.0.0.0:8080\"", "http.listen = \"0.0.0.0:8080\" serves without TLS"),
        (
            "[[trunks]]\nname = \"a\"\nallow = [\"0.0.0.0/0\"]",
            "trunks[0].allow[0] = \"0.0.0.0/0\" lets everybody call in",
        ),
        (
            "[[trunks]]\nname = \"a\"\nallow = [\"10.0.0.0/8\"]\n[[trunks]]\nname = \"b\"\nallow = [\"10.1.0.0/16\"]",
            "trunks[1].allow[0] = \"10.1.0.0/16\" is never reached: trunk a takes",
        ),
        (
            "[[trunks]]\nname = \"a\"\ngateways = [\"sips:192.0.2.1\", \"sip:192.0.2.2;transport=tcp\"]\nsrtp = \"required\"",
            "trunks[0].gateways[1] = \"sip:192.0.2.2;transport=tcp\" is not TLS, so the keys of trunks[0].srtp",
        ),
        (
            "[[trunks]]\nname = \"a\"\nallow = [\"192.0.2.1\"]\nsrtp = \"optional\"",
            "trunks[0].srtp is on, but sip.listen has no tls://",
        ),
    ];
    for (text, expected) in table {
        let warnings = read(text).unwrap().warnings;
        assert!(warnings.len() == 1 && warnings[0].starts_with(expected), "{warnings:?}");
    }
}

#[test]
fn ports_that_the_kernel_gives_to_others_are_a_warning() {
    let checked = read("").unwrap();
    assert_eq!(warnings::ephemeral_overlap(&checked, "32768\t60999\n"), None);
    assert_eq!(warnings::ephemeral_overlap(&checked, "1024 16383"), None);
    for range in ["32767 60999", "1024 16384", "20000 20001", "1024 65535"] {
        assert!(
            warnings::ephemeral_overlap(&checked, range).unwrap().contains("ip_local_port_range"),
            "{range}"
        );
    }
    for range in ["", "x y", "1"] {
        assert_eq!(warnings::ephemeral_overlap(&checked, range), None, "{range}");
    }
}

#[test]
fn the_profiles_of_carriers_pass_the_check() {
    let profiles = [
        ("bandwidth", include_str!("../../deploy/trunks/bandwidth.toml")),
        ("didww", include_str!("../../deploy/trunks/didww.toml")),
        ("plivo", include_str!("../../deploy/trunks/plivo.toml")),
        ("teams", include_str!("../../deploy/trunks/teams.toml")),
        ("telnyx", include_str!("../../deploy/trunks/telnyx.toml")),
        ("twilio", include_str!("../../deploy/trunks/twilio.toml")),
    ];
    let folder = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/trunks")).unwrap();
    assert_eq!(folder.count(), profiles.len(), "each profile is checked");
    for (name, text) in profiles {
        let checked = read(text).unwrap_or_else(|faults| panic!("{name}: {faults}"));
        let trunk = checked.trunks.get(name).unwrap_or_else(|| panic!("{name}"));
        assert!(!trunk.gateways.is_empty() && !trunk.allow.is_empty(), "{name}");
        assert!(checked.numbers.iter().all(|number| number.trunk == name), "{name}");
        assert_eq!(checked.warnings, Vec::<String>::new(), "{name}");
    }
}

#[test]
fn a_trunk_without_gateways_cannot_carry_numbers() {
    let text = "[[trunks]]\nname = \"in\"\nallow = [\"::1\"]\n[[numbers]]\nnumber = \"+12025550100\"\ntrunk = \"in\"";
    assert!(faults(text)[0].starts_with("numbers[0].trunk = \"in\": this trunk has no gateways"));
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = Config::load(Some(Path::new("/nonexistent/maskline.toml")), std::iter::empty()).unwrap_err();
    assert!(error.to_string().starts_with("configuration file /nonexistent/maskline.toml: "), "{error}");
}

/// Any TOML value of small size.
fn any_value() -> impl Strategy<Value = toml::Value> {
    let leaf = prop_oneof![
        any::<i64>().prop_map(toml::Value::Integer),
        any::<f64>().prop_map(toml::Value::Float),
        any::<bool>().prop_map(toml::Value::Boolean),
        any::<String>().prop_map(toml::Value::String),
        "(sip|sips|udp|tls|sqlite|play|MA)[:/@.a-z0-9;=\\[\\]]{0,20}".prop_map(toml::Value::String),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(toml::Value::Array),
            prop::collection::btree_map("[a-z_.]{0,8}", inner, 0..4)
                .prop_map(|map| toml::Value::Table(map.into_iter().collect())),
        ]
    })
}

proptest! {
    /// Whatever stands at a key, the file is taken or each fault is one line that names a key of it.
    #[test]
    fn any_value_at_any_key_is_taken_or_refused_by_name(index in 0..keys::KEYS.len(), value in any_value()) {
        let path = keys::KEYS[index].path;
        let mut table = toml::Table::new();
        match path.rsplit_once('.') {
            None => drop(table.insert(path.to_owned(), value)),
            Some((section, key)) => {
                let inner = toml::Value::Table(toml::Table::from_iter([(key.to_owned(), value)]));
                let (name, inner) = match section.strip_suffix("[]") {
                    Some(list) => (list, toml::Value::Array(vec![inner])),
                    None => (section, inner),
                };
                table.insert(name.to_owned(), inner);
            }
        }
        if let Err(errors) = read(&table.to_string()) {
            let section = path.split(['.', '[']).next().unwrap();
            for fault in errors.faults() {
                let line = fault.to_string();
                prop_assert!(line.starts_with(section) && !line.contains(['\n', '\r', '\u{1b}']), "{}", line);
            }
        }
    }
}

#[test]
fn a_password_and_an_access_list_of_everybody_challenge_whoever_calls_in() {
    let known = "username = \"carrier\"\npassword = \"correct horse\"";
    let table = [
        ("allow = [\"198.51.100.0/24\"]", known, false),
        ("allow = [\"0.0.0.0/0\"]", known, true),
        ("allow = [\"::/0\"]", known, true),
        ("allow = [\"0.0.0.0/0\"]", "", false),
        ("allow = [\"198.51.100.0/24\"]\nchallenge = true", known, true),
        ("allow = [\"0.0.0.0/0\"]\nchallenge = false", known, false),
    ];
    for (allow, known, challenges) in table {
        let text = format!("[[trunks]]\nname = \"a\"\n{allow}\n{known}");
        let checked = Config::read(&text, std::iter::empty()).unwrap();
        let (_, trunk) = checked.trunks.iter().next().unwrap();
        assert_eq!(trunk.challenge, challenges, "{text}");
        let open = checked.warnings.iter().any(|warning| warning.contains("without a password"));
        assert_eq!(open, allow.contains("/0\"") && !challenges, "{text}");
        assert!(!format!("{checked:?} {}", checked.summary()).contains("horse"));
    }
}

//! Fetches a prompt by URL for a session that names one. The URL comes from an API client, who may try to make us
//! reach what only we can reach; so every address is checked after resolution, at each step of the way.

use super::audio::{self, AudioError};
use crate::names::Names;
use ipnet::IpNet;
use media::Prompt;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Client, Url, redirect};
use sha2::{Digest, Sha256};
use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// For everything together: name, connection, redirects, body.
const TIME_LIMIT: Duration = Duration::from_secs(10);
/// For the name alone, of a prompt or of a callback's receiver.
const NAME_LIMIT: Duration = Duration::from_secs(4);
/// Five minutes of 16-bit mono at 16 kHz.
const MAX_BYTES: usize = 10 << 20;
const MAX_REDIRECTS: usize = 3;
/// Prompts that are decoded at one time: each holds up to 60 MB and a thread.
const MAX_DECODING: usize = 2;

/// Why a prompt could not be had.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// It is no URL, or neither http nor https.
    #[error("it is no http or https URL")]
    Url,
    /// It leads to a network that is not to be reached (`http.fetch_allow`).
    #[error("it leads to a private, loopback or reserved address that http.fetch_allow does not name")]
    Forbidden,
    /// It leads on and on.
    #[error("more than {MAX_REDIRECTS} redirects")]
    Redirects,
    /// Name, connection, TLS or time.
    #[error("the request failed")]
    Http(#[source] reqwest::Error),
    /// The server says no.
    #[error("the server answered {0}")]
    Status(u16),
    /// More than the limit.
    #[error("more than {MAX_BYTES} bytes")]
    TooLarge,
    /// What came is no prompt.
    #[error("what came is no prompt")]
    Audio(#[from] AudioError),
    /// The decoder died of it.
    #[error("the decoder failed")]
    Decoder,
}

/// An error's text with those of its causes: what went wrong with a request stands in the last one.
pub(super) fn causes(error: &FetchError) -> String {
    let texts = std::iter::successors(Some(error as &(dyn Error + 'static)), |error| (**error).source());
    texts.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Which addresses may be reached, and what names lead to.
#[derive(Debug, Clone)]
pub(crate) struct Guard {
    /// Networks that may be reached although private or loopback.
    allow: Arc<[IpNet]>,
    names: Names,
}

impl Guard {
    /// `allow`: networks that may be reached although private or loopback.
    pub(crate) fn new(allow: &[IpNet]) -> Self {
        Self { allow: allow.into(), names: Names::of_system() }
    }

    fn admits(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        is_public(address) || self.allow.iter().any(|network| network.contains(&address))
    }

    /// The scheme, and the address when the host is a literal: those never reach the resolver.
    pub(crate) fn check(&self, url: &Url) -> Result<(), FetchError> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(FetchError::Url);
        }
        // Url has already turned 0x7f.1, 2130706433 and the like into 127.0.0.1.
        let host = url.host_str().ok_or(FetchError::Url)?.trim_matches(['[', ']']);
        match host.parse::<IpAddr>() {
            Ok(address) if !self.admits(address) => Err(FetchError::Forbidden),
            _ => Ok(()),
        }
    }
}

impl Resolve for Guard {
    /// The connection is made to the very addresses that are checked here, so a name that resolves otherwise a
    /// moment later gains nothing.
    fn resolve(&self, name: Name) -> Resolving {
        let guard = self.clone();
        Box::pin(async move {
            let found = guard.names.addresses(name.as_str(), NAME_LIMIT).await?;
            let admitted: Vec<_> = found
                .into_iter()
                .filter(|address| guard.admits(*address))
                .map(|address| SocketAddr::new(address, 0))
                .collect();
            if admitted.is_empty() {
                return Err(FetchError::Forbidden.into());
            }
            Ok(Box::new(admitted.into_iter()) as Addrs)
        })
    }
}

/// Whether an address is anybody's on the public internet (IANA special-purpose registries, RFC 6890).
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => is_public_v6(v6),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    !(address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_documentation()
        // Multicast, class E and broadcast.
        || a >= 224
        || a == 0
        // Carrier-grade NAT (RFC 6598), protocol assignments and relays, benchmarks (RFC 2544).
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 192 && b == 88 && c == 99)
        || (a == 198 && matches!(b, 18 | 19)))
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    match address.segments() {
        // 6to4 carries an IPv4 address (RFC 3056 §2): a tunnel to it.
        [0x2002, high, low, ..] => {
            let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
            is_public_v4(Ipv4Addr::new(a, b, c, d))
        }
        // Teredo and other protocol assignments, documentation.
        [0x2001, ..=0x01ff, ..] | [0x2001, 0x0db8, ..] | [0x3fff, ..=0x0fff, ..] => false,
        // Global unicast (RFC 4291 §2.4); all else is local, multicast, NAT64 or unassigned.
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

/// Fetches and decodes prompts.
#[derive(Debug, Clone)]
pub(super) struct Fetcher {
    client: Client,
    guard: Guard,
    decoding: Arc<Semaphore>,
}

impl Fetcher {
    /// `allow`: networks that may be reached although private or loopback.
    ///
    /// # Errors
    /// The system's certificates cannot be read.
    pub(super) fn new(allow: &[IpNet]) -> Result<Self, FetchError> {
        // The first one in the process is as good as this one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let guard = Guard::new(allow);
        let on_redirect = {
            let guard = guard.clone();
            redirect::Policy::custom(move |attempt| {
                let refusal = if attempt.previous().len() > MAX_REDIRECTS {
                    Some(FetchError::Redirects)
                } else {
                    guard.check(attempt.url()).err()
                };
                match refusal {
                    Some(error) => attempt.error(error),
                    None => attempt.follow(),
                }
            })
        };
        let client = Client::builder()
            .user_agent(concat!("maskline/", env!("CARGO_PKG_VERSION")))
            .dns_resolver(guard.clone())
            .redirect(on_redirect)
            .referer(false)
            // A proxy would resolve names itself, unchecked.
            .no_proxy()
            .timeout(TIME_LIMIT)
            // Prompts are fetched once an hour: no connection is worth keeping.
            .pool_max_idle_per_host(0)
            .build()
            .map_err(FetchError::Http)?;
        Ok(Self { client, guard, decoding: Arc::new(Semaphore::new(MAX_DECODING)) })
    }

    /// One prompt, ready to play.
    pub(super) async fn fetch(&self, url: &str) -> Result<Prompt, FetchError> {
        let parsed = Url::parse(url).map_err(|_| FetchError::Url)?;
        self.guard.check(&parsed)?;
        // The URL may hold a token or a number: it stays out of errors.
        let http = |error: reqwest::Error| FetchError::Http(error.without_url());
        let mut response = self.client.get(parsed).send().await.map_err(http)?;
        if !response.status().is_success() {
            return Err(FetchError::Status(response.status().as_u16()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(http)? {
            if body.len() + chunk.len() > MAX_BYTES {
                return Err(FetchError::TooLarge);
            }
            body.extend_from_slice(&chunk);
        }
        // Invariant: the semaphore is never closed.
        let turn = Arc::clone(&self.decoding).acquire_owned().await.map_err(|_| FetchError::Decoder)?;
        let decoding = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            audio::decode(body)
        });
        let samples = decoding.await.map_err(|_| FetchError::Decoder)??;
        Ok(Prompt::new(&name(url, &samples), &samples))
    }
}

/// What logs and comparisons call it: of the URL and the audio nothing can be read from it.
fn name(url: &str, samples: &[i16]) -> String {
    let mut hash = Sha256::new();
    hash.update(url);
    samples.iter().for_each(|sample| hash.update(sample.to_le_bytes()));
    let digest = hash.finalize();
    format!("url-{}", data_encoding::HEXLOWER.encode(digest.first_chunk::<6>().unwrap_or(&[0; 6])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::names::NameError;
    use crate::names::tests::zone;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    const TONE: &[u8] = include_bytes!("goodbye.wav");

    /// Serves one canned answer for each path, on 127.0.0.1, until the test ends. Returns its address.
    async fn serve(answers: &'static [(&'static str, &'static str, &'static [u8])]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = vec![];
                while !request.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = stream.read_u8().await else { break };
                    request.push(byte);
                }
                let request = String::from_utf8_lossy(&request).into_owned();
                let path = request.split(' ').nth(1).unwrap_or_default();
                let (_, head, body) = answers.iter().find(|(known, ..)| *known == path).unwrap();
                let head = format!("HTTP/1.1 {head}\r\nConnection: close\r\n\r\n");
                let _ = stream.write_all(head.as_bytes()).await;
                let _ = stream.write_all(body).await;
            }
        });
        address
    }

    fn fetcher(allow: &[&str]) -> Fetcher {
        Fetcher::new(&allow.iter().map(|network| network.parse().unwrap()).collect::<Vec<_>>()).unwrap()
    }

    #[tokio::test]
    async fn audio_is_fetched_from_an_allowed_network_and_named_by_nothing_readable() {
        let address = serve(&[
            ("/a.wav?to=12025550142", "200 OK", TONE),
            ("/moved", "302 Found\r\nLocation: /a.wav?to=12025550142", b""),
        ])
        .await;
        let fetcher = fetcher(&["127.0.0.1/32"]);
        for path in ["/a.wav?to=12025550142", "/moved"] {
            let prompt = fetcher.fetch(&format!("http://{address}{path}")).await.unwrap();
            assert_eq!(prompt.samples().len(), (TONE.len() - 44) / 2);
            assert!(prompt.name().starts_with("url-") && prompt.name().len() == 16, "{prompt:?}");
        }
        let by_name = format!("http://localhost:{}/moved", address.rsplit_once(':').unwrap().1);
        assert!(fetcher.fetch(&by_name).await.is_ok());
    }

    #[tokio::test]
    async fn what_is_not_allowed_is_not_reached_directly_by_name_or_by_redirect() {
        let address = serve(&[
            ("/a.wav", "200 OK", TONE),
            ("/literal", "302 Found\r\nLocation: http://127.0.0.2:1/a.wav", b""),
            ("/scheme", "302 Found\r\nLocation: ftp://127.0.0.1/a.wav", b""),
            ("/loop", "302 Found\r\nLocation: /loop", b""),
        ])
        .await;
        let port = address.rsplit_once(':').unwrap().1;
        let strict = fetcher(&[]);
        for url in [
            format!("http://{address}/a.wav"),
            format!("http://[::ffff:127.0.0.1]:{port}/a.wav"),
            format!("http://0x7f.1:{port}/a.wav"),
        ] {
            assert!(matches!(strict.fetch(&url).await, Err(FetchError::Forbidden)), "{url}");
        }
        let by_name = strict.fetch(&format!("http://localhost:{port}/a.wav")).await.unwrap_err();
        assert!(causes(&by_name).contains("http.fetch_allow"), "{}", causes(&by_name));

        let loopback = fetcher(&["127.0.0.1/32"]);
        for (path, cause) in
            [("/literal", "http.fetch_allow"), ("/scheme", "no http or https"), ("/loop", "redirects")]
        {
            let error = loopback.fetch(&format!("http://{address}{path}")).await.unwrap_err();
            assert!(causes(&error).contains(cause), "{path}: {}", causes(&error));
            assert!(!causes(&error).contains(&address), "the URL stays out of errors");
        }
        for url in ["file:///etc/passwd", "ftp://example.com/a.wav", "", "/a.wav", "http://"] {
            assert!(matches!(loopback.fetch(url).await, Err(FetchError::Url)), "{url}");
        }
    }

    fn admitted(guard: &Guard, name: &str) -> impl Future<Output = Result<Vec<String>, String>> {
        let found = guard.resolve(name.parse().unwrap());
        async move {
            let found = found.await.map_err(|error| error.to_string())?;
            Ok(found.map(|address| address.ip().to_string()).collect())
        }
    }

    #[tokio::test]
    async fn every_address_of_a_name_is_checked_wherever_it_stands() {
        const ZONE: &[(&str, &[&str])] = &[
            ("open.test", &["8.8.8.8", "2606:4700::1111"]),
            ("mixed.test", &["10.0.0.1", "8.8.8.8", "fe80::1", "::ffff:169.254.169.254"]),
            ("inside.test", &["192.168.1.1", "fd00::1"]),
            ("mapped.test", &["::ffff:127.0.0.1"]),
            ("nat64.test", &["64:ff9b::a00:1"]),
            ("allowed.test", &["10.20.0.1"]),
        ];
        let names = Names::of_server(zone(ZONE).await, "127.0.0.1 written.test\n8.8.4.4 outside.test\n");
        let guard = Guard { allow: ["10.20.0.0/16".parse().unwrap()].into(), names };
        let forbidden = || Err(FetchError::Forbidden.to_string());
        for (name, wanted) in [
            ("open.test", Ok(vec!["8.8.8.8", "2606:4700::1111"])),
            ("mixed.test", Ok(vec!["8.8.8.8"])),
            ("inside.test", forbidden()),
            ("mapped.test", forbidden()),
            ("nat64.test", forbidden()),
            ("written.test", forbidden()),
            ("outside.test", Ok(vec!["8.8.4.4"])),
            ("allowed.test", Ok(vec!["10.20.0.1"])),
            ("nobody.test", Err(NameError::NoAddress.to_string())),
        ] {
            let wanted = wanted.map(|all| all.into_iter().map(str::to_owned).collect());
            assert_eq!(admitted(&guard, name).await, wanted, "{name}");
        }
    }

    #[test]
    fn names_are_looked_up_while_every_thread_for_files_is_busy() {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (done, busy) = std::sync::mpsc::channel::<()>();
        let found = runtime.block_on(async {
            tokio::task::spawn_blocking(move || busy.recv());
            let guard = Guard::new(&["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()]);
            tokio::time::timeout(Duration::from_secs(30), admitted(&guard, "localhost")).await
        });
        drop(done);
        assert!(found.expect("it waits for a thread").is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn names_whose_servers_are_silent_take_a_few_seconds_at_most() {
        let guard = Guard { allow: [].into(), names: Names::of_server(zone(&[]).await, "") };
        let begin = clock::now();
        assert_eq!(admitted(&guard, "a.silent.test").await, Err(NameError::TimedOut.to_string()));
        assert!(clock::now() - begin <= NAME_LIMIT);
    }

    #[tokio::test]
    async fn what_is_no_prompt_is_refused() {
        static LARGE: [u8; MAX_BYTES + 1] = [0; MAX_BYTES + 1];
        static ANSWERS: [(&str, &str, &[u8]); 3] =
            [("/404", "404 Not Found", TONE), ("/large", "200 OK", &LARGE), ("/text", "200 OK", b"hello")];
        let address = serve(&ANSWERS).await;
        let fetcher = fetcher(&["127.0.0.1/32"]);
        let error = |path: &'static str| {
            let (fetcher, url) = (fetcher.clone(), format!("http://{address}{path}"));
            async move { fetcher.fetch(&url).await.unwrap_err() }
        };
        assert!(matches!(error("/404").await, FetchError::Status(404)));
        assert!(matches!(error("/large").await, FetchError::TooLarge));
        assert!(matches!(error("/text").await, FetchError::Audio(_)));
    }

    #[test]
    fn rfc6890_special_addresses_are_not_public() {
        for address in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
            "100::1",
            "2001::1",
            "2001:db8::1",
            "2002:a00:1::",
            "2002:7f00:1::",
            "3fff::1",
            "fc00::1",
            "fd00::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!is_public(address.parse::<IpAddr>().unwrap().to_canonical()), "{address}");
        }
        for address in [
            "1.1.1.1",
            "8.8.8.8",
            "100.63.255.255",
            "100.128.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "198.20.0.1",
            "223.255.255.255",
            "::ffff:8.8.8.8",
            "2606:4700::1111",
            "2a00:1450::1",
            "2001:4860::8888",
            "2002:808:808::",
        ] {
            assert!(is_public(address.parse::<IpAddr>().unwrap().to_canonical()), "{address}");
        }
    }
}

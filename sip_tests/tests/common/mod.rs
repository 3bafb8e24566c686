//! The real service in this process, on loopback ports of its own, and its REST API.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests may panic like tests")]
// Each test file uses a part of this.
#![allow(dead_code, unreachable_pub)]
#![allow(clippy::disallowed_methods)]

pub mod child;
pub mod digest;
pub mod receiver;
pub mod talk;
pub mod tls;

use maskline::config::Config;
use maskline::service::Service;
use maskline::sip::transport::Protocol;
use serde_json::{Value, json};
use sip_tests::phone::{CallOptions, IncomingCall, OutgoingCall, Phone, PhoneConfig};
use sip_tests::sdp::SdpOptions;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Everything that is waited for comes within this time, on the slowest machine.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Parties of the sessions that tests make, and a number that no session knows.
pub const FIRST: &str = "+12025550142";
/// See [`FIRST`].
pub const SECOND: &str = "+12025550143";
/// See [`FIRST`].
pub const STRANGER: &str = "+12025550177";

/// A service under test. Dropping it removes its folder.
pub struct Server {
    /// The service itself.
    pub service: Service,
    /// Its UDP listener.
    pub sip: SocketAddr,
    /// Its TCP listener.
    pub sip_tcp: SocketAddr,
    /// Its TLS listener, when it has one.
    pub sip_tls: Option<SocketAddr>,
    /// Database and recordings.
    pub folder: PathBuf,
    auth_id: String,
    auth_token: String,
    guard: Folder,
}

/// Removes a server's folder.
pub struct Folder(PathBuf);

/// What a server is configured with beside the fixture's own lines.
pub struct Setup {
    /// Lines of `[sip]`.
    pub sip: &'static str,
    /// Lines of `[sip.tls]`: it listens on TLS too.
    pub tls: Option<String>,
    /// Lines of `[media]`.
    pub media: &'static str,
    /// Lines of `[http]`.
    pub http: &'static str,
    /// Where recordings go; below the server's own folder when `None`.
    pub recordings: Option<PathBuf>,
    /// Lines of the one trunk.
    pub trunk: &'static str,
    /// How many virtual numbers there are, from +12025550100 on.
    pub numbers: usize,
    /// Lines of every number.
    pub number: &'static str,
    /// Whole URIs of the trunk's gateways, in order of failover; empty: the one that the server is started
    /// with, by UDP.
    pub gateways: Vec<String>,
    /// Who may call in.
    pub allow: &'static str,
    /// Further listeners, as `sip.listen` writes them.
    pub listen: &'static [&'static str],
    /// DNS records of the gateways' names; the system's when `None`.
    pub dns: Option<std::sync::Arc<dyn maskline::trunk::dns::Dns>>,
    /// Ids and tokens of the accounts, the first of which is the test's; empty: one that the service makes.
    pub accounts: &'static [(&'static str, &'static str)],
}

impl Default for Setup {
    fn default() -> Self {
        let (gateways, allow) = (vec![], "127.0.0.0/8");
        Self {
            sip: "",
            tls: None,
            media: "",
            http: "",
            recordings: None,
            trunk: "",
            numbers: 1,
            number: "",
            gateways,
            allow,
            listen: &[],
            dns: None,
            accounts: &[],
        }
    }
}

impl Server {
    /// A service whose one trunk sends B-legs to `callee`.
    pub async fn start(callee: &Phone) -> Self {
        Self::with(callee.address(), Setup::default()).await
    }

    /// The same with settings.
    pub async fn with(gateway: SocketAddr, setup: Setup) -> Self {
        let folder = std::env::temp_dir().join(format!("maskline-test-{:016x}", rand::random::<u64>()));
        let path = folder.display();
        let Setup { sip, tls, media, http, recordings, trunk, numbers, number, allow, accounts, .. } = setup;
        let mut gateways = setup.gateways;
        let mut listen = vec!["udp://127.0.0.1:0", "tcp://127.0.0.1:0"];
        listen.extend(setup.listen);
        listen.extend(tls.is_some().then_some("tls://127.0.0.1:0"));
        let recordings = recordings.unwrap_or_else(|| folder.join("recordings"));
        let recordings = recordings.display();
        if gateways.is_empty() {
            gateways.push(format!("sip:{gateway};transport=udp"));
        }
        let numbers: String = (0..numbers)
            .map(|n| format!("[[numbers]]\nnumber = \"+120255501{n:02}\"\ntrunk = \"carrier\"\n{number}\n"))
            .collect();
        let configured: String = accounts
            .iter()
            .map(|(id, token)| format!("[[accounts]]\nauth_id = \"{id}\"\nauth_token = \"{token}\"\n"))
            .collect();
        let tls = tls.map(|lines| format!("[sip.tls]\n{lines}")).unwrap_or_default();
        let text = format!(
            "[sip]\nlisten = {listen:?}\n{sip}\n{tls}\n[media]\n{media}\n\
             [http]\nlisten = \"127.0.0.1:0\"\n{http}\n[store]\nurl = \"sqlite://{path}/maskline.db\"\n\
             [recordings]\ndirectory = \"{recordings}\"\n\
             [[trunks]]\nname = \"carrier\"\ngateways = {gateways:?}\n\
             allow = [\"{allow}\"]\n{trunk}\n{numbers}{configured}"
        );
        let config =
            Config::read(&text, std::iter::empty()).unwrap_or_else(|errors| panic!("{errors}\n{text}"));
        let service = match setup.dns {
            Some(dns) => Service::start_with(&config, dns).await.unwrap(),
            None => Service::start(&config).await.unwrap(),
        };
        let of = |wanted| {
            service.sip().into_iter().find(|(protocol, _)| *protocol == wanted).map(|(_, address)| address)
        };
        let (sip, sip_tcp) = (of(Protocol::Udp).unwrap(), of(Protocol::Tcp).unwrap());
        let sip_tls = of(Protocol::Tls);
        let (auth_id, auth_token) = match accounts.first() {
            Some((id, token)) => ((*id).to_owned(), (*token).to_owned()),
            None => {
                let account = service.new_account().unwrap();
                (account.auth_id.clone(), account.auth_token.clone())
            }
        };
        let guard = Folder(folder.clone());
        Self { service, sip, sip_tcp, sip_tls, folder, auth_id, auth_token, guard }
    }

    /// The service alone, to be drained, and its folder.
    pub fn into_service(self) -> (Service, Folder) {
        (self.service, self.guard)
    }

    /// The account of the sessions.
    pub fn account(&self) -> &str {
        &self.auth_id
    }

    /// A session between [`FIRST`] and [`SECOND`], with further parameters. Returns the answer.
    pub async fn session(&self, more: Value) -> Value {
        let mut body = json!({ "first_party": FIRST, "second_party": SECOND });
        for (key, value) in more.as_object().into_iter().flatten() {
            body[key] = value.clone();
        }
        let (status, answer) = self.api("POST", "Masking/Session/", Some(&body)).await;
        assert_eq!(status, 201, "{answer}");
        answer
    }

    /// The session's virtual number.
    pub fn number(session: &Value) -> String {
        session["virtual_number"].as_str().unwrap().to_owned()
    }

    /// A request below `/v1/Account/{auth_id}/`.
    pub async fn api(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        let (status, text) = self.http(method, &format!("/v1/Account/{}/{path}", self.auth_id), body).await;
        (status, serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    /// Any request.
    pub async fn http(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, String) {
        http(self.service.http(), (&self.auth_id, &self.auth_token), method, path, body).await
    }

    /// How the API is reached while the service itself is elsewhere: address and credentials.
    pub fn door(&self) -> (SocketAddr, String, String) {
        (self.service.http(), self.auth_id.clone(), self.auth_token.clone())
    }

    /// A request to any service.
    pub async fn ask(
        address: SocketAddr,
        account: (&str, &str),
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> (u16, String) {
        http(address, account, method, path, body).await
    }

    /// Waits until a recording is filed that is not among `known`; returns its folder.
    pub async fn recording(&self, known: &[PathBuf]) -> PathBuf {
        until("a recording is filed", || {
            folders(&self.folder.join("recordings"))
                .into_iter()
                .find(|folder| !known.contains(folder) && folder.join("call.json").exists())
        })
        .await
    }

    /// Waits until the mixed file of a recording is there and its row says so; returns the Recording resource.
    pub async fn delivered(&self, folder: &Path) -> Value {
        let uuid = folder.file_name().unwrap().to_str().unwrap().to_owned();
        until_asked("the recording is delivered", async || {
            let (status, recording) = self.api("GET", &format!("Recording/{uuid}/"), None).await;
            (status == 200).then_some(recording)
        })
        .await
    }

    /// Waits until no call is live and every record is stored.
    pub async fn settled(&self) {
        let shell = self.service.shell();
        until("every call has ended and is stored", || {
            (shell.live_calls() == 0 && shell.unsettled_calls() == 0).then_some(())
        })
        .await;
    }

    /// The interactions of a session, as the API shows them.
    pub async fn interactions(&self, session: &Value) -> Vec<Value> {
        let uuid = session["session_uuid"].as_str().unwrap();
        let (_, answer) = self.api("GET", &format!("Masking/Session/{uuid}/"), None).await;
        answer["response"]["interaction"].as_array().cloned().unwrap_or_default()
    }

    /// The record of a leg of an interaction, by the role of its party: `first` or `second`.
    pub async fn leg(&self, interaction: &Value, role: &str) -> Value {
        let url = interaction[format!("{role}_party_resource_url")].as_str().unwrap();
        let uuid = url.rsplit('/').next().unwrap();
        let (status, leg) = self.api("GET", &format!("Call/{uuid}/"), None).await;
        assert_eq!(status, 200, "{leg}");
        leg
    }

    /// The records of the session's last call, once they are stored: the first party's leg and the second's.
    pub async fn last_legs(&self, session: &Value) -> (Value, Value) {
        self.settled().await;
        let interactions = self.interactions(session).await;
        let last = interactions.last().unwrap();
        (self.leg(last, "first").await, self.leg(last, "second").await)
    }

    /// The value of a counter or gauge, over all services of this process.
    pub async fn metric(&self, name: &str) -> f64 {
        let (_, text) = self.http("GET", "/metrics", None).await;
        let line = text.lines().find(|line| line.split([' ', '{']).next() == Some(name));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0.0)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A phone of its own transcript on 127.0.0.1, by UDP.
pub async fn phone(name: &str) -> Phone {
    Phone::bind(PhoneConfig::named(name)).await.unwrap()
}

/// Two phones, a server between them and a session of their numbers, without recording.
pub struct Scene {
    /// The server.
    pub server: Server,
    /// The phone of [`FIRST`].
    pub caller: Phone,
    /// The phone of [`SECOND`], and whatever else the gateway leads to.
    pub callee: Phone,
    /// The session.
    pub session: Value,
    /// Its virtual number.
    pub number: String,
}

impl Scene {
    /// Ordinary phones and settings.
    pub async fn new() -> Self {
        Self::with(PhoneConfig::named("caller"), PhoneConfig::named("callee"), Setup::default()).await
    }

    /// These phones and settings.
    pub async fn with(caller: PhoneConfig, callee: PhoneConfig, setup: Setup) -> Self {
        let (caller, callee) = (Phone::bind(caller).await.unwrap(), Phone::bind(callee).await.unwrap());
        let server = Server::with(callee.address(), setup).await;
        let session = server.session(json!({ "record": false })).await;
        let number = Server::number(&session);
        Self { server, caller, callee, session, number }
    }

    /// The first party calls; the second one's phone has the INVITE.
    pub async fn dial(&self) -> (OutgoingCall, IncomingCall) {
        self.dial_with(CallOptions::from(FIRST)).await
    }

    /// The same with options.
    pub async fn dial_with(&self, options: CallOptions) -> (OutgoingCall, IncomingCall) {
        let call = self.caller.call(self.server.sip, &self.number, options).await.unwrap();
        let incoming = self.callee.next_call(PATIENCE).await.unwrap();
        (call, incoming)
    }

    /// An answered call: both sides are acknowledged.
    pub async fn talk(&self) -> (OutgoingCall, IncomingCall) {
        self.talk_with(CallOptions::from(FIRST)).await
    }

    /// The same with options.
    pub async fn talk_with(&self, options: CallOptions) -> (OutgoingCall, IncomingCall) {
        let (call, incoming) = self.dial_with(options).await;
        incoming.ring().await.unwrap();
        incoming.answer(SdpOptions::default()).await.unwrap();
        call.answered(PATIENCE).await.unwrap();
        incoming.wait_ack(PATIENCE).await.unwrap();
        (call, incoming)
    }

    /// Each side hears the other from now on.
    pub async fn both_hear(&self, call: &OutgoingCall, incoming: &IncomingCall) {
        for media in [call.media(), incoming.media()] {
            let heard = media.received_count();
            media.wait_packets(heard + 15, PATIENCE).await.unwrap();
        }
    }

    /// The caller hangs up, the callee is told, and neither phone has a complaint.
    pub async fn hang_up(&self, call: &OutgoingCall, incoming: &IncomingCall) {
        call.hang_up().await.unwrap();
        incoming.wait_bye(PATIENCE).await.unwrap();
        self.no_faults().await;
    }

    /// Neither phone has seen anything that breaks the RFC.
    pub async fn no_faults(&self) {
        assert_eq!((self.caller.faults().await, self.callee.faults().await), (vec![], vec![]));
    }
}

/// One HTTP request with credentials: status and body of the answer.
pub async fn http(
    server: SocketAddr,
    account: (&str, &str),
    method: &str,
    path: &str,
    body: Option<&Value>,
) -> (u16, String) {
    let (status, body) = fetch(server, account, method, path, body).await;
    (status, String::from_utf8(body).unwrap())
}

/// The same for an answer that need not be text.
pub async fn fetch(
    server: SocketAddr,
    (user, password): (&str, &str),
    method: &str,
    path: &str,
    body: Option<&Value>,
) -> (u16, Vec<u8>) {
    let body = body.map(ToString::to_string).unwrap_or_default();
    let token = base64(format!("{user}:{password}").as_bytes());
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {server}\r\nAuthorization: Basic {token}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect(server).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = vec![];
    stream.read_to_end(&mut answer).await.unwrap();
    let end = sip_tests::message::find(&answer, b"\r\n\r\n").unwrap();
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), answer[end + 4..].to_vec())
}

/// Every folder of a call below the recordings directory.
pub fn folders(directory: &Path) -> Vec<PathBuf> {
    let mut folders = vec![directory.to_owned()];
    for _ in ["year", "month", "day", "interaction"] {
        let children = |folder: &PathBuf| {
            std::fs::read_dir(folder)
                .into_iter()
                .flatten()
                .flatten()
                .map(|entry| entry.path())
                .collect::<Vec<_>>()
        };
        folders = folders.iter().flat_map(children).filter(|path| path.is_dir()).collect();
    }
    folders
}

/// Looks again and again until `find` finds something; fails after [`PATIENCE`].
pub async fn until<T>(what: &str, find: impl Fn() -> Option<T>) -> T {
    until_asked(what, async || find()).await
}

/// The same for what has to be asked for.
pub async fn until_asked<T>(what: &str, find: impl AsyncFn() -> Option<T>) -> T {
    let looking = async {
        loop {
            if let Some(found) = find().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    match tokio::time::timeout(PATIENCE, looking).await {
        Ok(found) => found,
        Err(_) => panic!("waited in vain: {what}"),
    }
}

/// RFC 4648 §4.
pub fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let value =
            chunk.iter().fold(0u32, |value, byte| (value << 8) | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let digit = ALPHABET[(value >> (18 - 6 * place)) as usize & 63];
            text.push(if place <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

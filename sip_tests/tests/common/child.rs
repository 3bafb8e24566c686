//! The real service in a process of its own, which can be killed: this test's own executable, started once more.

use super::{PATIENCE, http};
use maskline::config::Config;
use serde_json::Value;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

/// Names the configuration file, in the child only.
const CONFIG: &str = "MASKLINE_TEST_CHILD";
const AUTH_ID: &str = "MATESTTESTTESTTEST01";
/// The token of its account.
pub const AUTH_TOKEN: &str = "a-token-that-is-long-enough-for-a-test-00";

/// A service in a process of its own.
pub struct Process {
    /// Its UDP listener.
    pub sip: SocketAddr,
    /// Its TCP listener.
    pub sip_tcp: SocketAddr,
    http: SocketAddr,
    child: Child,
    /// Kept open: a service that cannot write its greeting is not what is tested.
    _lines: Lines<BufReader<ChildStdout>>,
}

/// To be called by a test named `child`: serves, when this process is a child.
pub fn serve_if_child() {
    let Some(path) = std::env::var_os(CONFIG) else { return };
    let config = Config::read(&std::fs::read_to_string(path).unwrap(), std::iter::empty()).unwrap();
    assert_eq!(format!("{:?}", maskline::serve(&config)), format!("{:?}", ExitCode::SUCCESS));
}

/// Writes a configuration whose state is below `folder` and whose trunk sends B-legs to `gateway`.
pub fn configure(folder: &Path, gateway: SocketAddr) -> PathBuf {
    std::fs::create_dir_all(folder).unwrap();
    let path = folder.display();
    let text = format!(
        "[sip]\nlisten = [\"udp://127.0.0.1:0\", \"tcp://127.0.0.1:0\"]\n[http]\nlisten = \"127.0.0.1:0\"\n\
         [store]\nurl = \"sqlite://{path}/maskline.db\"\n[recordings]\ndirectory = \"{path}/recordings\"\n\
         [[accounts]]\nauth_id = \"{AUTH_ID}\"\nauth_token = \"{AUTH_TOKEN}\"\n\
         [[trunks]]\nname = \"carrier\"\ngateways = [\"sip:{gateway};transport=udp\"]\n\
         allow = [\"127.0.0.0/8\"]\n[[numbers]]\nnumber = \"+12025550100\"\ntrunk = \"carrier\"\n"
    );
    let file = folder.join("maskline.toml");
    std::fs::write(&file, text).unwrap();
    file
}

impl Process {
    /// Starts the service and waits until it says where it listens.
    pub async fn start(config: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--nocapture", "--test-threads=1"])
            .env(CONFIG, config)
            // Thousands of calls would be thousands of lines.
            .env("RUST_LOG", std::env::var("RUST_LOG").unwrap_or_else(|_| "warn".into()))
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (mut sip, mut sip_tcp, mut http) = (None, None, None);
        let reading = async {
            while sip.is_none() || http.is_none() {
                let line = lines.next_line().await.unwrap().expect("the service does not start");
                if let Some((_, address)) = line.split_once("udp:") {
                    sip = address.parse().ok();
                }
                if let Some((_, address)) = line.split_once("tcp:") {
                    sip_tcp = address.parse().ok();
                }
                if let Some((_, rest)) = line.split_once("API         http://") {
                    http = rest.split('/').next().and_then(|address| address.parse().ok());
                }
            }
        };
        tokio::time::timeout(PATIENCE, reading).await.unwrap();
        let (sip, sip_tcp, http) = (sip.unwrap(), sip_tcp.unwrap(), http.unwrap());
        Self { sip, sip_tcp, http, child, _lines: lines }
    }

    /// A request below `/v1/Account/{auth_id}/`.
    pub async fn api(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        let path = format!("/v1/Account/{AUTH_ID}/{path}");
        let (status, text) = http(self.http, (AUTH_ID, AUTH_TOKEN), method, &path, body).await;
        (status, serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    /// The value of a counter or gauge; the sum of those that differ in labels only.
    pub async fn metric(&self, name: &str) -> f64 {
        let (_, text) = http(self.http, (AUTH_ID, AUTH_TOKEN), "GET", "/metrics", None).await;
        let of_name = |line: &&str| line.split([' ', '{']).next() == Some(name);
        text.lines().filter(of_name).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// Resident memory in KiB (proc(5), VmRSS).
    pub fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id().unwrap())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().split(' ').next().unwrap().parse().unwrap()
    }

    /// Processor time used so far (proc(5), utime and stime, in hundredths of a second).
    pub fn processor_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id().unwrap())).unwrap();
        // The name of the program, in brackets, may hold anything.
        let (_, rest) = stat.rsplit_once(") ").unwrap();
        let ticks: u64 = rest.split(' ').skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum();
        Duration::from_millis(10 * ticks)
    }

    /// Open descriptors.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id().unwrap())).unwrap().count()
    }

    /// True while it has not exited.
    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// SIGKILL: it gets no chance to tidy up.
    pub async fn kill(mut self) {
        self.child.start_kill().unwrap();
        let status = tokio::time::timeout(PATIENCE, self.child.wait()).await.unwrap().unwrap();
        assert!(!status.success());
    }

    /// SIGTERM: it drains, and says that all is well.
    pub async fn terminate(mut self) {
        let id = self.child.id().unwrap().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().await.unwrap().success());
        let status = tokio::time::timeout(PATIENCE, self.child.wait()).await.unwrap().unwrap();
        assert!(status.success(), "{status}");
    }
}

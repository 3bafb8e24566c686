//! The service under test: a child process on its own core, with a configuration, a database and recordings in a
//! temporary directory that goes away with it.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use data_encoding::BASE64;
use serde_json::{Value, json};
use sip_tests::clock;

use crate::phones::{CALLEE, CALLER};
use crate::process::Process;
use crate::{Cores, Failure, process};

const AUTH_ID: &str = "MABENCHBENCHBENCHBEN";
const AUTH_TOKEN: &str = "onlyforthebenchonlyforthebenchonlyforthe";
const VIRTUAL_NUMBER: &str = "+12025550100";
/// The start includes making the database.
const START: Duration = Duration::from_secs(20);

/// A running service; dropped, it ends and its directory is removed.
pub(crate) struct Server {
    child: Child,
    directory: PathBuf,
    http: SocketAddr,
    pub(crate) sip: SocketAddr,
    pub(crate) process: Process,
}

impl Server {
    /// Starts `program` with calls going to `gateway` and media moved by `engine`, and waits until it is ready.
    pub(crate) fn start(
        program: &Path,
        scratch: &Path,
        gateway: SocketAddr,
        engine: &str,
        cores: Cores,
    ) -> Result<Self, Failure> {
        let directory = scratch.join(format!("maskline-bench-{}-{}", std::process::id(), gateway.port()));
        fs::create_dir_all(&directory)?;
        let sip = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let http = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let file = directory.join("maskline.toml");
        fs::write(&file, configuration(&directory, sip, http, gateway, engine))?;
        let log = File::create(directory.join("log"))?;
        process::run_on(cores.server)?;
        let child = Command::new(program)
            .args(["serve", "--config"])
            .arg(&file)
            .current_dir(&directory)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn();
        process::run_on(cores.load)?;
        let child = child.map_err(|error| format!("{}: {error}", program.display()))?;
        let process = Process::of(child.id())?;
        let mut server = Self { child, directory, http, sip, process };
        server.wait_until_ready()?;
        Ok(server)
    }

    fn wait_until_ready(&mut self) -> Result<(), Failure> {
        let end = clock::now() + START;
        loop {
            if self.request("GET", "/readyz", None).is_ok_and(|(status, _)| status == 200) {
                return Ok(());
            }
            if self.child.try_wait()?.is_some() || clock::now() > end {
                return Err(format!("the service did not start; it said:\n{}", self.log()).into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Makes a session between the two parties and returns its virtual number.
    pub(crate) fn session(&self, record: bool) -> Result<String, Failure> {
        let body =
            json!({ "first_party": CALLER, "second_party": CALLEE, "geomatch": false, "record": record });
        let path = format!("/v1/Account/{AUTH_ID}/Masking/Session/");
        let (status, answer) = self.request("POST", &path, Some(&body.to_string()))?;
        let answer: Value = serde_json::from_str(&answer).unwrap_or_default();
        match answer.get("virtual_number").and_then(Value::as_str) {
            Some(number) if status == 201 => Ok(number.to_owned()),
            _ => {
                Err(format!("making a session: {status} {answer}; the service said:\n{}", self.log()).into())
            }
        }
    }

    /// Where recordings appear.
    pub(crate) fn recordings(&self) -> PathBuf {
        self.directory.join("recordings")
    }

    /// The last lines that the service printed.
    pub(crate) fn log(&self) -> String {
        let text = fs::read_to_string(self.directory.join("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines.get(lines.len().saturating_sub(20)..).unwrap_or_default().join("\n")
    }

    /// One request on a connection of its own.
    fn request(&self, method: &str, path: &str, body: Option<&str>) -> Result<(u16, String), Failure> {
        let mut stream = TcpStream::connect(self.http)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let credentials = BASE64.encode(format!("{AUTH_ID}:{AUTH_TOKEN}").as_bytes());
        let body = body.unwrap_or_default();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nAuthorization: Basic {credentials}\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.http,
            body.len()
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        parse_answer(&answer).ok_or_else(|| "not an HTTP response".into())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn parse_answer(answer: &str) -> Option<(u16, String)> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}

/// The media ports stay out of the range that the load uses.
fn configuration(
    directory: &Path,
    sip: SocketAddr,
    http: SocketAddr,
    gateway: SocketAddr,
    engine: &str,
) -> String {
    let directory = directory.display();
    format!(
        r#"[sip]
listen = ["udp://{sip}"]
max_calls_per_second = 5000
[media]
ports = [16384, 32766]
engine = "{engine}"
[http]
listen = "{http}"
[store]
url = "sqlite://{directory}/maskline.db"
[recordings]
directory = "{directory}/recordings"
[[accounts]]
auth_id = "{AUTH_ID}"
auth_token = "{AUTH_TOKEN}"
[[trunks]]
name = "bench"
gateways = ["sip:{gateway};transport=udp"]
allow = ["127.0.0.0/8"]
[[numbers]]
number = "{VIRTUAL_NUMBER}"
trunk = "bench"
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_split_into_status_and_body() {
        assert_eq!(parse_answer("HTTP/1.1 201 Created\r\nA: b\r\n\r\n{}"), Some((201, "{}".to_owned())));
        assert_eq!(parse_answer("HTTP/1.1"), None);
    }

    #[test]
    fn the_credentials_have_the_length_that_the_service_wants() {
        assert_eq!((AUTH_ID.len(), AUTH_TOKEN.len()), (20, 40));
    }
}

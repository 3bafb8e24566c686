//! The few requests that the demo makes, as any HTTP client would: one connection each.

use super::Failed;
use data_encoding::BASE64;
use serde_json::{Value, json};
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub(super) struct Client {
    server: SocketAddr,
    account: String,
    authorization: String,
}

pub(super) struct Session {
    pub(super) uuid: String,
    pub(super) virtual_number: String,
}

impl Client {
    pub(super) fn new(server: SocketAddr, account: &str, token: &str) -> Self {
        let authorization = BASE64.encode(format!("{account}:{token}").as_bytes());
        Self { server, account: account.to_owned(), authorization }
    }

    pub(super) async fn create_session(
        &self,
        first: &str,
        second: &str,
        first_pin: &str,
        second_pin: &str,
    ) -> Result<Session, Failed> {
        let body = json!({
            "first_party": first,
            "second_party": second,
            "is_pin_authentication_required": true,
            "first_party_pin": first_pin,
            "second_party_pin": second_pin,
        });
        let answer = self.request("POST", "Masking/Session/", &body.to_string()).await?;
        let answer: Value = serde_json::from_str(&answer)?;
        let text = |key: &str| answer.get(key).and_then(Value::as_str).map(ToOwned::to_owned);
        let session = text("session_uuid").zip(text("virtual_number"));
        let (uuid, virtual_number) = session.ok_or_else(|| format!("no session was made: {answer}"))?;
        Ok(Session { uuid, virtual_number })
    }

    pub(super) async fn call(&self, leg: &str) -> Result<String, Failed> {
        self.request("GET", &format!("Call/{leg}/"), "").await
    }

    async fn request(&self, method: &str, path: &str, body: &str) -> Result<String, Failed> {
        let request = format!(
            "{method} /v1/Account/{}/{path} HTTP/1.1\r\nHost: {}\r\nAuthorization: Basic {}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            self.account,
            self.server,
            self.authorization,
            body.len()
        );
        let mut stream = TcpStream::connect(self.server).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let (_, body) = answer.split_once("\r\n\r\n").ok_or("the API's answer has no end of headers")?;
        Ok(body.to_owned())
    }
}

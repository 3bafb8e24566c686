//! One attempt to deliver one event by HTTP: guarded, signed, bounded in time; never logs a URL or a parameter.

use super::signature::{nonce, sign};
use crate::masking::session::HttpMethod;
use crate::prompts::fetch::{FetchError, Guard};
use crate::store::{Store, StoredEvent};
use ipnet::IpNet;
use reqwest::{Client, Url, header, redirect};
use std::time::Duration;

/// For everything together: name, connection, request, status.
pub(super) const TIME_LIMIT: Duration = Duration::from_secs(10);
/// Connections that are kept open to one receiver.
const IDLE_PER_HOST: usize = 4;
const IDLE: Duration = Duration::from_secs(30);

/// Why an attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Failure {
    /// The receiver's answer, if there was one.
    pub(super) status: Option<u16>,
    /// In words, for the event list.
    pub(super) reason: &'static str,
}

/// Makes the attempts.
#[derive(Clone)]
pub(super) struct Postman {
    client: Client,
    guard: Guard,
    /// Knows the tokens.
    store: Store,
    /// See [`StoredEvent::sent`].
    base: String,
}

impl Postman {
    /// `allow`: networks that may be reached although private or loopback.
    pub(super) fn new(allow: &[IpNet], store: Store, base: String) -> Result<Self, FetchError> {
        // The first one in the process is as good as this one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let guard = Guard::new(allow);
        let client = Client::builder()
            .user_agent(concat!("maskline/", env!("CARGO_PKG_VERSION")))
            .dns_resolver(guard.clone())
            // Where else it leads nobody has checked, and a POST must not become a GET.
            .redirect(redirect::Policy::none())
            .referer(false)
            // A proxy would resolve names itself, unchecked.
            .no_proxy()
            .timeout(TIME_LIMIT)
            .pool_max_idle_per_host(IDLE_PER_HOST)
            .pool_idle_timeout(IDLE)
            .build()
            .map_err(FetchError::Http)?;
        Ok(Self { client, guard, store, base })
    }

    /// Sends the event once. `Ok`: the receiver's 2xx.
    pub(super) async fn deliver(&self, event: &StoredEvent) -> Result<u16, Failure> {
        let failure = |reason| Failure { status: None, reason };
        let url = Url::parse(&event.url).map_err(|_| failure("the callback URL is none"))?;
        self.guard.check(&url).map_err(|error| match error {
            FetchError::Forbidden => failure(FORBIDDEN),
            _ => failure("the callback URL is none"),
        })?;
        let parameters = event.sent(&self.base);
        let nonce = nonce();
        let signed = |account: &str| {
            let token = self.store.auth_token(account)?;
            Some(sign(token.reveal(), event.method, &url, &parameters, &nonce))
        };
        let own = signed(event.subaccount.as_deref().unwrap_or(&event.account));
        let main = signed(&event.account);
        let mut request = match event.method {
            HttpMethod::Get => self.client.get(with_query(&url, &parameters)),
            HttpMethod::Post => self
                .client
                .post(url.clone())
                .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
                .body(form(&parameters)),
        };
        // By this a receiver knows an event that comes again.
        request = request.header("X-Maskline-Event-UUID", event.uuid.to_string());
        if let (Some(own), Some(main)) = (own, main) {
            request = request
                .header("X-Plivo-Signature-V3", own)
                .header("X-Plivo-Signature-Ma-V3", main)
                .header("X-Plivo-Signature-V3-Nonce", nonce);
        }
        match request.send().await {
            Ok(response) if response.status().is_success() => Ok(response.status().as_u16()),
            Ok(response) => Err(Failure {
                status: Some(response.status().as_u16()),
                reason: "the receiver did not answer 2xx",
            }),
            Err(error) if error.is_timeout() => Err(failure("the receiver did not answer in time")),
            Err(error) if is_forbidden(&error) => Err(failure(FORBIDDEN)),
            Err(error) if error.is_connect() => Err(failure("no connection to the receiver")),
            Err(_) => Err(failure("the request failed")),
        }
    }
}

const FORBIDDEN: &str =
    "the callback URL leads to a private, loopback or reserved address that http.fetch_allow does not name";

fn is_forbidden(error: &reqwest::Error) -> bool {
    std::iter::successors(Some(error as &(dyn std::error::Error + 'static)), |error| (**error).source())
        .any(|error| matches!(error.downcast_ref(), Some(FetchError::Forbidden)))
}

/// The URL with the parameters behind its own query.
fn with_query(url: &Url, parameters: &[(String, String)]) -> Url {
    let mut url = url.clone();
    url.query_pairs_mut().extend_pairs(parameters);
    url
}

/// `application/x-www-form-urlencoded`.
fn form(parameters: &[(String, String)]) -> String {
    let mut text = String::new();
    for (name, value) in parameters {
        if !text.is_empty() {
            text.push('&');
        }
        escape(&mut text, name);
        text.push('=');
        escape(&mut text, value);
    }
    text
}

fn escape(text: &mut String, value: &str) {
    for byte in value.bytes() {
        match byte {
            b' ' => text.push('+'),
            b'-' | b'.' | b'_' | b'*' => text.push(char::from(byte)),
            _ if byte.is_ascii_alphanumeric() => text.push(char::from(byte)),
            _ => {
                text.push('%');
                text.push_str(&data_encoding::HEXUPPER.encode(&[byte]));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_form_is_encoded_as_the_url_standard_says() {
        let sent = pairs(&[("EventTimestamp", "2024-02-01 06:28:15 +0000 UTC"), ("To", ""), ("ü", "a&b=c")]);
        assert_eq!(form(&sent), "EventTimestamp=2024-02-01+06%3A28%3A15+%2B0000+UTC&To=&%C3%BC=a%26b%3Dc");
    }

    #[test]
    fn parameters_go_behind_the_query_of_the_url() {
        let sent = pairs(&[("EventName", "SessionTimeout"), ("To", "")]);
        for (url, wanted) in [
            ("https://h/cb", "https://h/cb?EventName=SessionTimeout&To="),
            ("https://h/cb?x=1", "https://h/cb?x=1&EventName=SessionTimeout&To="),
        ] {
            assert_eq!(with_query(&url.parse().unwrap(), &sent).as_str(), wanted);
        }
    }

    proptest! {
        /// Whatever is sent can be read back, from a form as from a query.
        #[test]
        fn what_is_encoded_is_read_back(sent in prop::collection::vec((".{0,20}", ".{0,20}"), 1..6)) {
            let url: Url = "http://h/".parse().unwrap();
            let read = |query: Option<&str>| {
                let mut url = url.clone();
                url.set_query(query);
                url.query_pairs().into_owned().collect::<Vec<(String, String)>>()
            };
            prop_assert_eq!(&read(Some(&form(&sent))), &sent);
            prop_assert_eq!(&read(with_query(&url, &sent).query()), &sent);
        }
    }
}

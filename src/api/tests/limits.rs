//! How often who may ask, and what every answer says to a browser.

use std::net::SocketAddr;

use axum::extract::connect_info::ConnectInfo;

use super::*;
use crate::api::serve::Peer;

impl Service {
    /// With other limits than the default.
    fn limited(&mut self, requests: u32) {
        let proxies = vec!["127.0.0.0/8".parse().unwrap()];
        let state = ApiState {
            limiter: Arc::new(Limiter::new(requests, proxies)),
            ..ApiState::new(self.store.clone(), self.readiness.clone(), self.calls.clone(), None)
        };
        self.router = router(state);
    }

    async fn from(&self, peer: &str, forwarded: &str, password: &str) -> (u16, axum::http::HeaderMap) {
        let peer: SocketAddr = peer.parse().unwrap();
        let request = Request::builder()
            .uri(format!("/v1/Account/{ID}/Masking/Session/"))
            .header(header::AUTHORIZATION, basic(ID, password))
            .header("X-Forwarded-For", forwarded)
            .extension(ConnectInfo(Peer::from(peer)));
        let (answer, headers) = self.send(request.body(Body::empty()).unwrap()).await;
        assert!(
            answer.body["api_id"].is_string() && (answer.status == 200 || answer.body["error"].is_string())
        );
        (answer.status, headers)
    }
}

#[tokio::test]
async fn an_account_that_asks_too_often_is_told_when_to_come_back() {
    let mut service = Service::start(1).await;
    service.limited(3);
    for _ in 0..3 {
        assert_eq!(service.from("192.0.2.1:5", "", TOKEN).await.0, 200);
    }
    let (status, headers) = service.from("192.0.2.2:5", "", TOKEN).await;
    let wait: u64 = headers[header::RETRY_AFTER].to_str().unwrap().parse().unwrap();
    assert!(status == 429 && (1..=2).contains(&wait), "{status}, {wait} s");
    let other = service.call_as((OTHER, "other"), Method::GET, OTHER, "Masking/Session/", Value::Null).await;
    assert_eq!(other.status, 200, "another account is not concerned");
    for path in ["/healthz", "/metrics"] {
        assert_eq!(service.raw(Method::GET, path, None, "").await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn a_sub_account_counts_as_its_account() {
    let mut service = Service::start(1).await;
    let sub = service.sub("one", 150).await;
    service.limited(2);
    let ask = |who: (String, String)| {
        let service = &service;
        async move { service.call_as((&who.0, &who.1), Method::GET, ID, "Number/", Value::Null).await.status }
    };
    let main = (ID.to_owned(), TOKEN.to_owned());
    assert_eq!((ask(main.clone()).await, ask(sub.clone()).await), (200, 200));
    assert_eq!((ask(main).await, ask(sub).await), (429, 429));
}

#[tokio::test]
async fn who_guesses_is_not_listened_to_and_others_are() {
    let mut service = Service::start(1).await;
    service.limited(1000);
    assert_eq!(
        service.from("127.0.0.1:5", "203.0.113.9", TOKEN).await.0,
        200,
        "a client behind the same proxy"
    );
    // A try that is given back in this very moment may take the right one; so it is looked at more than once.
    let mut refused = None;
    for source in ["198.51.100.1", "198.51.100.2", "198.51.100.3", "198.51.100.4"] {
        let mut tries = 0;
        while service.from("127.0.0.1:5", source, "guess").await.0 == 401 {
            tries += 1;
            assert!(tries < 500, "each second one more is listened to, not all");
        }
        assert!(tries >= 60, "{tries}");
        refused = Some(service.from("127.0.0.1:5", source, TOKEN).await).filter(|(status, _)| *status == 429);
        if refused.is_some() {
            break;
        }
    }
    let (_, headers) = refused.expect("right ones are not listened to either");
    assert!(headers.contains_key(header::RETRY_AFTER));
    assert_eq!(service.from("127.0.0.1:5", "198.51.100.1, 203.0.113.9", TOKEN).await.0, 200);
    assert_eq!(service.from("192.0.2.1:5", "198.51.100.1", TOKEN).await.0, 200, "nobody's proxy");
}

#[tokio::test]
async fn answers_with_data_are_neither_kept_nor_shown_in_frames() {
    let service = Service::start(1).await;
    let (_, headers) = service.from("192.0.2.1:5", "", TOKEN).await;
    for (name, value) in [
        ("cache-control", "no-store"),
        ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
        ("referrer-policy", "no-referrer"),
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
    ] {
        assert_eq!(headers[name], value, "{name}");
    }
}

#[tokio::test]
async fn a_body_that_is_announced_as_too_large_is_not_read() {
    let service = Service::start(1).await;
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("/v1/Account/{ID}/Masking/Session/"))
        .header(header::AUTHORIZATION, basic(ID, TOKEN))
        .header(header::CONTENT_LENGTH, "1048577");
    let (answer, _) = service.send(request.body(Body::empty()).unwrap()).await;
    assert_eq!(answer.status, 413, "{}", answer.body);
}

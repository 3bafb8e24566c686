//! Creates that come twice.

use super::*;

impl Service {
    async fn create_with_key(&self, who: (&str, &str), key: &str, body: &Value) -> Answer {
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("/v1/Account/{ID}/Masking/Session/"))
            .header(header::AUTHORIZATION, basic(who.0, who.1))
            .header("Idempotency-Key", key);
        self.send(request.body(body.to_string().into()).unwrap()).await.0
    }

    async fn count(&self) -> Value {
        self.get("Masking/Session/").await.body["response"]["meta"]["total_count"].clone()
    }
}

const ME: (&str, &str) = (ID, TOKEN);

#[tokio::test]
async fn the_same_key_and_body_answer_the_first_session_for_a_day() {
    let service = Service::start(3).await;
    at_start(async {
        let first = service.create_with_key(ME, "order-7", &pair()).await;
        assert_eq!(first.status, 201, "{}", first.body);
        move_to(86_399);
        let turned = json!({"second_party": "12125550002", "FIRST_PARTY": "+12125550001"});
        let again = service.create_with_key(ME, "order-7", &turned).await;
        assert_eq!((again.status, &again.body["session_uuid"]), (201, &first.body["session_uuid"]));
        assert_eq!(again.body["virtual_number"], first.body["virtual_number"]);
        let keys = |answer: &Answer| answer.body.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys(&again), keys(&first));
        assert_ne!(again.body["api_id"], first.body["api_id"]);
        let other = with(pair(), json!({"ring_timeout": 30}));
        let answer = service.create_with_key(ME, "order-7", &other).await;
        assert_eq!(answer.status, 422, "{}", answer.body);
        assert_eq!(service.count().await, 1);
        move_to(86_400);
        let later = service.create_with_key(ME, "order-7", &other).await;
        assert_eq!(later.status, 201);
        assert_ne!(later.body["session_uuid"], first.body["session_uuid"]);
    })
    .await;
}

#[tokio::test]
async fn other_keys_and_none_make_other_sessions() {
    let service = Service::start(4).await;
    for key in ["a", "A", "a b"] {
        assert_eq!(service.create_with_key(ME, key, &pair()).await.status, 201);
    }
    service.session(pair()).await;
    assert_eq!(service.count().await, 4);
}

#[tokio::test]
async fn a_refused_create_leaves_its_key_free() {
    let service = Service::start(0).await;
    assert_eq!(service.create_with_key(ME, "k", &pair()).await.status, 400, "there is no number");
    service.call(Method::POST, "Number/", json!({"number": "12025550150", "trunk": "local"})).await;
    let other = with(pair(), json!({"ring_timeout": 30}));
    assert_eq!(service.create_with_key(ME, "k", &other).await.status, 201);
}

#[tokio::test]
async fn a_sub_accounts_keys_are_its_own() {
    let service = Service::start(1).await;
    let sub = service.sub("one", 150).await;
    let mine = service.create_with_key(ME, "k", &pair()).await;
    let its =
        service.create_with_key((&sub.0, &sub.1), "k", &with(pair(), json!({"ring_timeout": 30}))).await;
    assert_eq!((mine.status, its.status), (201, 201), "{}", its.body);
    assert_ne!(mine.body["session_uuid"], its.body["session_uuid"]);
}

#[tokio::test]
async fn creates_at_one_time_with_one_key_make_one_session() {
    let service = Service::start(20).await;
    let body = pair();
    let creates: Vec<_> = (0..16).map(|_| service.create_with_key(ME, "once", &body)).collect();
    let mut uuids = std::collections::BTreeSet::new();
    for answer in join_all(creates).await {
        assert_eq!(answer.status, 201, "{}", answer.body);
        uuids.insert(answer.body["session_uuid"].as_str().unwrap().to_owned());
    }
    assert_eq!((uuids.len(), service.count().await), (1, json!(1)));
}

/// All of them at one time.
async fn join_all<F: Future>(futures: Vec<F>) -> Vec<F::Output> {
    let mut futures: Vec<_> = futures.into_iter().map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|context| {
        for (future, done) in futures.iter_mut().filter(|(_, done)| done.is_none()) {
            if let std::task::Poll::Ready(output) = future.as_mut().poll(context) {
                *done = Some(output);
            }
        }
        if futures.iter().all(|(_, done)| done.is_some()) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    futures.into_iter().filter_map(|(_, done)| done).collect()
}

#[tokio::test]
async fn what_is_no_key_is_refused() {
    let service = Service::start(1).await;
    for key in ["", " ", &"x".repeat(256), "schlüssel"] {
        let answer = service.create_with_key(ME, key, &pair()).await;
        assert!(answer.status == 400 && answer.error().contains("Idempotency-Key"), "{key}: {}", answer.body);
    }
    assert_eq!(service.create_with_key(ME, &"x".repeat(255), &pair()).await.status, 201);
}

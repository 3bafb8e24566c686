//! Virtual numbers as a resource, one by one and as CSV.

use super::*;

const CSV: &str = "text/csv";

impl Service {
    async fn numbers(&self) -> Vec<(String, String)> {
        let list = self.get("Number/").await;
        let text = |object: &Value, key: &str| object[key].as_str().unwrap().to_owned();
        let objects = list.body["objects"].as_array().unwrap();
        objects.iter().map(|object| (text(object, "number"), text(object, "state"))).collect()
    }

    async fn import(&self, file: &str) -> Answer {
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("/v1/Account/{ID}/Number/"))
            .header(header::AUTHORIZATION, basic(ID, TOKEN))
            .header(header::CONTENT_TYPE, "text/csv; charset=utf-8");
        self.send(request.body(file.to_owned().into()).unwrap()).await.0
    }

    pub(super) async fn send(&self, request: Request) -> (Answer, axum::http::HeaderMap) {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let bytes = axum::body::to_bytes(response.into_body(), 4 << 20).await.unwrap();
        let text = Value::String(String::from_utf8_lossy(&bytes).into_owned());
        (Answer { status, body: serde_json::from_slice(&bytes).unwrap_or(text) }, headers)
    }
}

fn is(status: u16, answer: &Answer) {
    assert_eq!(answer.status, status, "{}", answer.body);
}

#[tokio::test]
async fn a_number_is_added_read_changed_and_removed() {
    let service = Service::start(1).await;
    let added =
        service.call(Method::POST, "Number/", json!({"number": "+91 98765 43210", "trunk": "carrier"})).await;
    is(201, &added);
    let object = json!({
        "number": "919876543210", "country": "IN", "no_session": "reject",
        "resource_uri": format!("/v1/Account/{ID}/Number/919876543210/"), "source": "api", "state": "active",
        "subaccount": null, "trunk": "carrier",
    });
    assert_eq!((&added.body["number"], &added.body["message"]), (&object, &json!("created")));
    for path in ["Number/919876543210/", "Number/%2B919876543210", "Number/+919876543210/"] {
        let read = service.get(path).await;
        is(200, &read);
        assert_eq!(
            (&read.body["number"], &read.body["active_sessions"]),
            (&json!("919876543210"), &json!(0))
        );
    }
    let change = json!({"trunk": "local", "no_session": "sip:desk@198.51.100.9", "state": "Draining"});
    let changed = service.call(Method::POST, "Number/919876543210/", change).await;
    is(202, &changed);
    let number = &changed.body["number"];
    assert_eq!((&number["trunk"], &number["state"]), (&json!("local"), &json!("draining")));
    assert_eq!(number["no_session"], "sip:desk@198.51.100.9");
    let route = service.store.virtual_number(&E164::parse("919876543210").unwrap()).unwrap();
    assert_eq!(route.no_session, NoSession::Sip("sip:desk@198.51.100.9".into()), "calls find it at once");
    let path = format!("/v1/Account/{ID}/Number/919876543210/");
    is(204, &service.raw(Method::DELETE, &path, Some(basic(ID, TOKEN)), "").await);
    is(404, &service.get("Number/919876543210/").await);
    is(404, &service.call(Method::DELETE, "Number/919876543210/", Value::Null).await);
    assert_eq!(service.store.virtual_number(&E164::parse("919876543210").unwrap()), None);
    is(
        201,
        &service.call(Method::POST, "Number/", json!({"number": "919876543210", "trunk": "local"})).await,
    );
}

#[tokio::test]
async fn a_bad_number_is_refused_by_name() {
    let service = Service::start(1).await;
    let party = service.session(pair()).await;
    assert!(!party.is_empty());
    let good = || json!({"number": "+12025550150", "trunk": "local"});
    let taken = "Invalid parameter. number is a virtual number already, or a party of an active session.";
    let rows = [
        (json!({"trunk": "local"}), "Mandatory parameter missing. number must be present."),
        (json!({"number": "+12025550150"}), "Mandatory parameter missing. trunk must be present."),
        (
            with(good(), json!({"number": "0123456789"})),
            "Invalid parameter. number is not a valid phone number.",
        ),
        (with(good(), json!({"number": "abc"})), "Invalid parameter. number is not a valid phone number."),
        (with(good(), json!({"trunk": "nowhere"})), "Invalid parameter. trunk is no trunk"),
        (
            with(good(), json!({"state": "asleep"})),
            "Invalid parameter. state allowed values are active or draining.",
        ),
        (with(good(), json!({"no_session": "play:ftp://x"})), "Invalid parameter. no_session allowed values"),
        (with(good(), json!({"no_session": "sip:"})), "Invalid parameter. no_session allowed values"),
        (
            with(good(), json!({"no_session": "sip:desk@127.0.0.1:22;transport=tcp"})),
            "Invalid parameter. no_session a sip: URI must lead to a gateway",
        ),
        (
            with(good(), json!({"no_session": "sip:+12025550142@198.51.100.9"})),
            "Invalid parameter. no_session the user of a sip: URI must begin with a letter",
        ),
        (
            with(good(), json!({"subaccount": "SAXXXXXXXXXXXXXXXXXX"})),
            "Invalid parameter. subaccount is no sub-account of this account.",
        ),
        (with(good(), json!({"number": "12025550100"})), taken),
        (with(good(), json!({"number": "12125550001"})), taken),
        (with(good(), json!({"number": "12125550002"})), taken),
    ];
    for (body, text) in rows {
        let answer = service.call(Method::POST, "Number/", body).await;
        assert!(answer.status == 400 && answer.error().starts_with(text), "{} for {text}", answer.body);
    }
    assert_eq!(service.numbers().await.len(), 1, "nothing was added");
}

#[tokio::test]
async fn calls_are_forwarded_only_where_the_operator_allows_whoever_asks_and_how() {
    let service = Service::start(1).await;
    is(201, &service.call(Method::POST, "Number/", json!({"number": "12025550150", "trunk": "local"})).await);
    let change = |uri: &str| service.call(Method::POST, "Number/12025550150/", json!({"no_session": uri}));
    for uri in ["sip:desk@198.51.100.9", "sip:+12025550199@203.0.113.5"] {
        is(202, &change(uri).await);
    }
    for uri in ["sip:desk@10.0.0.1", "sip:+12025550198@203.0.113.5", "sip:0012025550142@198.51.100.9"] {
        let answer = change(uri).await;
        assert!(answer.status == 400 && answer.error().contains("sip: URI"), "{}", answer.body);
        let file = format!("number,trunk,no_session\n12025550151,local,reject\n12025550152,local,{uri}\n");
        let answer = service.import(&file).await;
        assert!(answer.status == 400 && answer.body.to_string().contains("line 3"), "{}", answer.body);
    }
    // An earlier version took more. What is there already is no change; to call it is another matter.
    let (account, did) = (ID, Did::parse("12025550150").unwrap());
    let old = "sip:desk@10.0.0.1";
    let stored = NumberChange { no_session: Some(NoSession::Sip(old.into())), ..NumberChange::default() };
    service.store.change_number(account, &did, stored).await.unwrap().unwrap();
    let back = json!({"no_session": old, "state": "draining"});
    is(202, &service.call(Method::POST, "Number/12025550150/", back).await);
}

#[tokio::test]
async fn numbers_of_another_account_look_as_if_they_were_not_there() {
    let service = Service::start(1).await;
    is(201, &service.call(Method::POST, "Number/", json!({"number": "12025550150", "trunk": "local"})).await);
    let other =
        |method, rest: &'static str, body| service.call_as((OTHER, "other"), method, OTHER, rest, body);
    assert_eq!(other(Method::GET, "Number/", Value::Null).await.body["meta"]["total_count"], 0);
    for number in ["Number/12025550150/", "Number/12025550100/", "Number/12025550199/", "Number/x/"] {
        for method in [Method::GET, Method::POST, Method::DELETE] {
            let answer = other(method, number, Value::Null).await;
            assert_eq!((answer.status, answer.error()), (404, "Number not found."), "{number}");
        }
    }
    let answer = other(Method::POST, "Number/", json!({"number": "12025550150", "trunk": "local"})).await;
    assert_eq!(answer.status, 400);
    // A number with sessions of one account is not given to another one.
    service.session(pair()).await;
    service.session(pair()).await;
    let path = format!("/v1/Account/{ID}/Number/12025550150/?force=true");
    is(204, &service.raw(Method::DELETE, &path, Some(basic(ID, TOKEN)), "").await);
    let answer = other(Method::POST, "Number/", json!({"number": "12025550150", "trunk": "local"})).await;
    assert_eq!(answer.status, 400, "its sessions are still active");
}

#[tokio::test]
async fn a_draining_number_takes_no_new_session_and_serves_the_old_ones() {
    let service = Service::start(2).await;
    let first = service.create(pair()).await;
    assert_eq!(first.body["virtual_number"], "+12025550100");
    let drained = service.call(Method::POST, "Number/12025550100/", json!({"state": "draining"})).await;
    is(202, &drained);
    assert_eq!(drained.body["number"]["source"], "configuration");
    let other = json!({"first_party": "12125550003", "second_party": "12125550004"});
    assert_eq!(service.create(other).await.body["virtual_number"], "+12025550101");
    let found = service
        .store
        .find_route(
            &Did::parse("12025550100").unwrap(),
            E164::parse("12125550001").as_ref(),
            Timestamp::from_second(START + 1).unwrap(),
        )
        .await
        .unwrap();
    assert_eq!(found.unwrap().sessions.len(), 1);
    let read = service.get("Number/12025550100/").await;
    assert_eq!(read.body["state"], "draining");
    service.call(Method::POST, "Number/12025550101/", json!({"state": "draining"})).await;
    let answer = service.create(json!({"first_party": "12125550005", "second_party": "12125550006"})).await;
    assert_eq!((answer.status, answer.error()), (400, "Number pool exhausted or not available."));
    service.call(Method::POST, "Number/12025550101/", json!({"state": "active"})).await;
    let answer = service.create(json!({"first_party": "12125550005", "second_party": "12125550006"})).await;
    is(201, &answer);
}

#[tokio::test]
async fn a_number_with_active_sessions_goes_only_by_force() {
    let service = Service::start(0).await;
    at_start(async {
        service.call(Method::POST, "Number/", json!({"number": "12025550150", "trunk": "local"})).await;
        let uuid = service.session(pair()).await;
        assert_eq!(service.get("Number/12025550150/").await.body["active_sessions"], 1);
        let answer = service.call(Method::DELETE, "Number/12025550150/", Value::Null).await;
        assert!(answer.status == 409 && answer.error().contains("force=true"), "{}", answer.body);
        let forced = format!("/v1/Account/{ID}/Number/12025550150/?force=true");
        is(204, &service.raw(Method::DELETE, &forced, Some(basic(ID, TOKEN)), "").await);
        assert_eq!(
            service.get(&format!("Masking/Session/{uuid}/")).await.body["response"]["status"],
            "active"
        );
        // Back again, its sessions are; ended, they no longer hold it.
        service.call(Method::POST, "Number/", json!({"number": "12025550150", "trunk": "local"})).await;
        service.call(Method::DELETE, &format!("Masking/Session/{uuid}/"), Value::Null).await;
        move_to(1);
        let path = format!("/v1/Account/{ID}/Number/12025550150/");
        is(204, &service.raw(Method::DELETE, &path, Some(basic(ID, TOKEN)), "").await);
    })
    .await;
}

#[tokio::test]
async fn a_configured_number_changes_its_state_only_and_keeps_it_over_a_restart() {
    let service = Service::start(2).await;
    for body in [json!({"trunk": "carrier"}), json!({"no_session": "sip:desk@198.51.100.9"})] {
        let answer = service.call(Method::POST, "Number/12025550100/", body).await;
        assert!(answer.status == 400 && answer.error().contains("[[numbers]]"), "{}", answer.body);
    }
    let present = json!({"trunk": "local", "no_session": "reject", "state": "draining"});
    is(202, &service.call(Method::POST, "Number/12025550100/", present).await);
    let answer = service.call(Method::DELETE, "Number/12025550100/?force=true", Value::Null).await;
    assert_eq!(answer.status, 400);
    is(201, &service.call(Method::POST, "Number/", json!({"number": "12025550050", "trunk": "local"})).await);
    let before = service.numbers().await;
    let states = ["12025550100 draining", "12025550101 active", "12025550050 active"];
    let shown = |numbers: &[(String, String)]| -> Vec<String> {
        numbers.iter().map(|(number, state)| format!("{number} {state}")).collect()
    };
    assert_eq!(shown(&before), states, "configured ones first");
    let configured: Vec<_> = ["12025550100", "12025550101"]
        .map(|did| VirtualNumberConfig {
            did: Did::parse(did).unwrap(),
            trunk: "local".into(),
            account: None,
            no_session: NoSession::Reject,
        })
        .into();
    service.store.sync_numbers(&configured).await.unwrap();
    assert_eq!(shown(&service.numbers().await), states);
    service.store.sync_numbers(&configured[..1]).await.unwrap();
    assert_eq!(shown(&service.numbers().await), ["12025550100 draining", "12025550050 active"]);
}

#[tokio::test]
async fn lists_filter_and_page() {
    let service = Service::start(2).await;
    let sub = service.sub("one", 150).await;
    service.call(Method::POST, "Number/", json!({"number": "12025550160", "trunk": "carrier"})).await;
    service.call(Method::POST, "Number/12025550101/", json!({"state": "draining"})).await;
    for (query, numbers) in [
        ("", &["12025550100", "12025550101", "12025550150", "12025550160"][..]),
        (&format!("subaccount={}", sub.0), &["12025550150"]),
        ("subaccount=SAXXXXXXXXXXXXXXXXXX", &[]),
        ("trunk=carrier", &["12025550160"]),
        ("state=draining", &["12025550101"]),
        ("state=active&trunk=local", &["12025550100", "12025550150"]),
        ("limit=1&offset=2", &["12025550150"]),
        ("offset=9", &[]),
    ] {
        let list = service.get(&format!("Number/?{query}")).await;
        let objects = list.body["objects"].as_array().unwrap();
        let found: Vec<_> = objects.iter().map(|object| object["number"].as_str().unwrap()).collect();
        assert_eq!(found, numbers, "{query}");
    }
    let page = service.get("Number/?limit=1&offset=2").await;
    assert_eq!(page.body["meta"]["total_count"], 4);
    assert_eq!(page.body["meta"]["next"], format!("/v1/Account/{ID}/Number/?limit=1&offset=3"));
    for query in ["state=x", "limit=21", "format=xml"] {
        is(400, &service.get(&format!("Number/?{query}")).await);
    }
}

#[tokio::test]
async fn a_file_that_was_written_changes_nothing_when_it_is_read() {
    let service = Service::start(1).await;
    let sub = service.sub("one", 150).await;
    let message = "play:https://cdn.example/closed,now.wav";
    let body =
        json!({"number": "919876543210", "trunk": "carrier", "no_session": message, "state": "draining"});
    is(201, &service.call(Method::POST, "Number/", body).await);
    let path = format!("/v1/Account/{ID}/Number/?format=csv");
    let file = service.raw(Method::GET, &path, Some(basic(ID, TOKEN)), "").await.body;
    let file = file.as_str().unwrap();
    let expected = format!(
        "number,trunk,subaccount,no_session,state,source,country\n\
         12025550100,local,,reject,active,configuration,US\n\
         12025550150,local,{},reject,active,api,US\n\
         919876543210,carrier,,\"{message}\",draining,api,IN\n",
        sub.0
    );
    assert_eq!(file, expected);
    let before = service.numbers().await;
    let answer = service.import(file).await;
    assert_eq!((answer.status, &answer.body["count"]), (200, &json!(3)), "{}", answer.body);
    assert_eq!(service.numbers().await, before);
    let accept = Request::builder()
        .uri(format!("/v1/Account/{ID}/Number/"))
        .header(header::AUTHORIZATION, basic(ID, TOKEN))
        .header(header::ACCEPT, CSV);
    let (answer, headers) = service.send(accept.body(Body::empty()).unwrap()).await;
    assert_eq!(answer.body.as_str(), Some(file));
    assert!(headers[header::CONTENT_TYPE].to_str().unwrap().starts_with(CSV));
}

#[tokio::test]
async fn a_file_is_taken_whole_or_not_at_all_and_every_bad_line_is_named() {
    let service = Service::start(1).await;
    service.session(pair()).await;
    let before = service.numbers().await;
    let file = "\u{feff}Number,Trunk,State\r\n\
                +12025550150,local,active\r\n\
                nonsense,local,active\r\n\
                \r\n\
                +12025550151,nowhere,active\r\n\
                +12025550152,local,asleep\r\n\
                +12025550150,local,active\r\n\
                +12025550153,local\r\n\
                0123456789,local,active\r\n";
    let answer = service.import(file).await;
    is(400, &answer);
    for part in [
        "Nothing was imported.",
        "lines 3, 9: Invalid parameter. number is not a valid phone number.",
        "line 5: Invalid parameter. trunk is no trunk",
        "line 6: Invalid parameter. state",
        "line 7: The number stands in an earlier line as well.",
        "line 8: The line has not as many fields",
    ] {
        assert!(answer.error().contains(part), "{part}: {}", answer.error());
    }
    assert!(!answer.error().contains("line 2"), "{}", answer.error());
    // What only the database knows is named as well.
    let file = "number,trunk,subaccount\n\
                12025550150,local,\n\
                12125550001,local,\n\
                12025550100,carrier,\n\
                12025550151,local,SAXXXXXXXXXXXXXXXXXX\n";
    let answer = service.import(file).await;
    is(400, &answer);
    for part in [
        "line 3: Invalid parameter. number is a virtual number already, or a party",
        "line 4: Invalid parameter. number stands in the configuration",
        "line 5: Invalid parameter. subaccount is no sub-account",
    ] {
        assert!(answer.error().contains(part), "{part}: {}", answer.error());
    }
    assert_eq!(service.numbers().await, before);
    for file in ["", "trunk\nlocal\n", "number,colour\n1,red\n", "number,number\n1,1\n"] {
        let answer = service.import(file).await;
        assert!(answer.status == 400 && answer.error().starts_with("line 1: "), "{}", answer.body);
    }
    let large = format!("number,trunk\n{}", "12025550150,local\n".repeat(70_000));
    assert_eq!(service.import(&large).await.status, 413);
    let many: String = (0..5001).map(|index| format!("120255{index:05},local\n")).collect();
    let answer = service.import(&format!("number,trunk\n{many}")).await;
    assert!(answer.status == 400 && answer.error().contains("5000"), "{}", answer.body);
}

#[tokio::test]
async fn a_file_adds_and_changes() {
    let service = Service::start(1).await;
    service.call(Method::POST, "Number/", json!({"number": "12025550150", "trunk": "local"})).await;
    let file = "number,trunk,no_session,state\n\
                12025550151,carrier,,\n\
                12025550150,carrier,sip:desk@198.51.100.9,draining\n\
                12025550100,local,reject,draining\n";
    is(200, &service.import(file).await);
    let shown: Vec<String> =
        service.numbers().await.into_iter().map(|(number, state)| format!("{number} {state}")).collect();
    assert_eq!(shown, ["12025550100 draining", "12025550150 draining", "12025550151 active"]);
    let changed = service.get("Number/12025550150/").await.body;
    assert_eq!(
        (&changed["trunk"], &changed["no_session"]),
        (&json!("carrier"), &json!("sip:desk@198.51.100.9"))
    );
    assert_eq!(service.get("Number/12025550100/").await.body["source"], "configuration");
}

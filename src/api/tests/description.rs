//! What `/openapi.json` says, against what is done.

use super::*;

async fn description(service: &Service) -> Value {
    let answer = service.raw(Method::GET, "/openapi.json", None, "").await;
    assert_eq!(answer.status, 200);
    answer.body
}

#[tokio::test]
async fn the_description_names_every_route() {
    let service = Service::start(1).await;
    let description = description(&service).await;
    assert!(description["openapi"].as_str().unwrap().starts_with("3.1"));
    let session = "/v1/Account/{auth_id}/Masking/Session";
    let item = format!("{session}/{{session_uuid}}");
    for (path, methods) in [
        (session, &["get", "post"][..]),
        (&item, &["delete", "get", "post"]),
        ("/v1/Account/{auth_id}/Call", &["get"]),
        ("/v1/Account/{auth_id}/Call/{uuid}", &["delete", "get"]),
        ("/v1/Account/{auth_id}/Recording", &["get"]),
        ("/v1/Account/{auth_id}/Recording/{recording}", &["delete", "get"]),
        ("/v1/Account/{auth_id}/Recording/{recording}/{leg}", &["get"]),
        ("/healthz", &["get"]),
        ("/readyz", &["get"]),
        ("/metrics", &["get"]),
    ] {
        let described = description["paths"][path].as_object().unwrap_or_else(|| panic!("{path} is missing"));
        let mut described: Vec<_> = described.keys().map(String::as_str).collect();
        described.sort_unstable();
        assert_eq!(described, methods, "{path}");
    }
    // What is described exists.
    for (path, item) in description["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
            let path = path.replace("{auth_id}", ID).replace(['{', '}'], "");
            let status = service.raw(method, &path, None, "").await.status;
            assert!([200, 401, 503].contains(&status), "{path}: {status}");
        }
    }
}

#[tokio::test]
async fn every_described_parameter_is_read() {
    let service = Service::start(1).await;
    let description = description(&service).await;
    let names = |schema: &str| -> Vec<String> {
        description["components"]["schemas"][schema]["properties"]
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect()
    };
    // No parameter takes an array, so each that is read is named in the refusal.
    let refused = async |method: Method, path: &str, body: Value| {
        let answer = service.call(method, path, body).await;
        assert_eq!(answer.status, 400, "{}", answer.body);
        answer.error().strip_prefix("Invalid parameter. ").unwrap_or_default().to_owned()
    };
    let create = names("SessionCreate");
    assert_eq!(create.len(), 29);
    for name in create {
        let pin = json!({
            "is_pin_authentication_required": true, "first_party_pin": "1234", "second_party_pin": "5678",
        });
        let text =
            refused(Method::POST, "Masking/Session/", with(with(pair(), pin), json!({&name: []}))).await;
        assert!(text.starts_with(&name), "{name}: {text}");
    }
    let path = format!("Masking/Session/{}/", service.session(pair()).await);
    for name in names("SessionUpdate") {
        let text = refused(Method::POST, &path, json!({&name: []})).await;
        assert!(text.starts_with(&name), "{name}: {text}");
    }
    let list = &description["paths"]["/v1/Account/{auth_id}/Masking/Session"]["get"]["parameters"];
    let mut filters = 0;
    for parameter in list.as_array().unwrap().iter().filter(|parameter| parameter["in"] == "query") {
        let name = parameter["name"].as_str().unwrap();
        // Nothing but a sub-account may be any text.
        let text = refused(Method::GET, &format!("Masking/Session/?{name}=%00x"), Value::Null).await;
        assert!(text.starts_with(name), "{name}: {text}");
        filters += 1;
    }
    assert_eq!(filters, 22);
}

#[tokio::test]
async fn the_browsable_pages_are_served_from_here_alone() {
    let service = Service::start(1).await;
    let page = service.raw(Method::GET, "/docs/", None, "").await;
    assert_eq!(page.status, 200);
    let html = page.body.as_str().unwrap();
    assert!(html.contains("swagger-ui") && !html.contains("://"), "{html}");
    assert_eq!(service.raw(Method::GET, "/docs", None, "").await.status, 303);
    for file in ["swagger-ui.css", "swagger-ui-bundle.js", "swagger-initializer.js"] {
        let answer = service.raw(Method::GET, &format!("/docs/{file}"), None, "").await;
        assert_eq!(answer.status, 200, "{file}");
        if file == "swagger-initializer.js" {
            let script = answer.body.as_str().unwrap();
            assert!(script.contains("/openapi.json") && !script.contains("://"), "{script}");
        }
    }
    assert_eq!(service.raw(Method::GET, "/docs/nothing", None, "").await.status, 404);
}

//! Accounts, sub-accounts and tokens: who can see and do what with which credentials.

use super::*;
use crate::store::SealKey;

impl Service {
    /// A sub-account with credentials and a number of its own, which ends in `last`.
    pub(super) async fn sub(&self, name: &str, last: u32) -> (String, String) {
        let made = self.call(Method::POST, "Subaccount/", json!({"name": name, "enabled": true})).await;
        assert_eq!(made.status, 201, "{}", made.body);
        let text = |key: &str| made.body[key].as_str().unwrap().to_owned();
        let (auth_id, token) = (text("auth_id"), text("auth_token"));
        let number = json!({"number": format!("+1202555{last:04}"), "trunk": "local", "subaccount": auth_id});
        let added = self.call(Method::POST, "Number/", number).await;
        assert_eq!(added.status, 201, "{}", added.body);
        (auth_id, token)
    }

    /// As somebody else, on any account's path.
    pub(super) async fn call_as(
        &self,
        who: (&str, &str),
        method: Method,
        account: &str,
        rest: &str,
        body: Value,
    ) -> Answer {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.raw(method, &format!("/v1/Account/{account}/{rest}"), Some(basic(who.0, who.1)), body).await
    }
}

fn refs(credentials: &(String, String)) -> (&str, &str) {
    (&credentials.0, &credentials.1)
}

#[tokio::test]
async fn a_sub_account_is_made_read_listed_changed_and_deleted_as_plivos() {
    let service = Service::start(1).await;
    at_start(async {
        let made = service.call(Method::POST, "Subaccount/", json!({"name": "Chewbacca"})).await;
        let keys: Vec<_> = made.body.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!((made.status, keys), (201, vec!["api_id", "auth_id", "auth_token", "message"]));
        assert_eq!(made.body["message"], "created");
        let auth_id = made.body["auth_id"].as_str().unwrap();
        let token = made.body["auth_token"].as_str().unwrap();
        assert_eq!((auth_id.len(), &auth_id[..2], token.len()), (20, "SA", 40));

        let item = format!("Subaccount/{auth_id}/");
        let read = service.get(&item).await;
        let mut object = json!({
            "account": format!("/v1/Account/{ID}/"), "auth_id": auth_id, "auth_token": token,
            "created": "2024-02-01", "enabled": false, "modified": null, "name": "Chewbacca",
            "resource_uri": format!("/v1/Account/{ID}/Subaccount/{auth_id}/"),
        });
        let list = service.get("Subaccount/").await;
        assert_eq!(list.body["objects"], json!([object]));
        assert_eq!(list.body["meta"]["total_count"], 1);
        object["api_id"] = read.body["api_id"].clone();
        assert_eq!((read.status, &read.body), (200, &object));

        let disabled = service.call_as((auth_id, token), Method::GET, ID, "Masking/Session/", Value::Null);
        assert_eq!(disabled.await.status, 401, "it is not enabled");
        let changed = service.call(Method::POST, &item, json!({"enabled": "true"})).await;
        assert_eq!((changed.status, &changed.body["message"]), (202, &json!("changed")));
        let read = service.get(&item).await.body;
        assert_eq!((&read["enabled"], &read["name"]), (&json!(true), &json!("Chewbacca")));
        assert_eq!(read["modified"], "2024-02-01");
        let enabled = service.call_as((auth_id, token), Method::GET, ID, "Masking/Session/", Value::Null);
        assert_eq!(enabled.await.status, 200);

        let path = format!("/v1/Account/{ID}/{item}");
        let deleted = service.raw(Method::DELETE, &path, Some(basic(ID, TOKEN)), "").await;
        assert_eq!((deleted.status, deleted.body), (204, json!("")));
        assert_eq!(service.get(&item).await.status, 404);
        assert_eq!(service.call(Method::DELETE, &item, Value::Null).await.status, 404);
        let gone = service.call_as((auth_id, token), Method::GET, ID, "Masking/Session/", Value::Null);
        assert_eq!(gone.await.status, 401);
    })
    .await;
}

#[tokio::test]
async fn a_bad_name_is_refused() {
    let service = Service::start(1).await;
    for body in [json!({}), json!({"name": ""}), json!({"name": "x".repeat(61)}), json!({"name": "a\u{0}b"})]
    {
        let answer = service.call(Method::POST, "Subaccount/", body).await;
        assert_eq!(answer.status, 400, "{}", answer.body);
        assert!(answer.error().contains("name"), "{}", answer.error());
    }
}

#[tokio::test]
async fn sub_account_credentials_open_both_paths_and_show_only_what_is_theirs() {
    let service = Service::start(1).await;
    at_start(async {
        let (one, two) = (service.sub("one", 150).await, service.sub("two", 151).await);
        let main = service.session(pair()).await;
        let mut sessions = vec![];
        for (sub, path) in [(&one, ID), (&two, two.0.as_str())] {
            let made = service.call_as(refs(sub), Method::POST, path, "Masking/Session/", pair()).await;
            assert_eq!(made.status, 201, "{}", made.body);
            assert_eq!(made.body["session"]["subaccount"], sub.0.as_str());
            sessions.push(made.body["session_uuid"].as_str().unwrap().to_owned());
        }
        for path in [ID, one.0.as_str()] {
            let list = service.call_as(refs(&one), Method::GET, path, "Masking/Session/", Value::Null).await;
            let found = &list.body["response"]["objects"];
            assert_eq!(found.as_array().unwrap().len(), 1, "{path}");
            assert_eq!(found[0]["session_uuid"], sessions[0].as_str());
        }
        // A foreign session, a main account's one and none at all look alike, whatever is done.
        let nobody = Uuid::new_v4().to_string();
        for uuid in [&sessions[1], &main, &nobody] {
            for method in [Method::GET, Method::POST, Method::DELETE] {
                let item = format!("Masking/Session/{uuid}/");
                let answer = service.call_as(refs(&one), method, ID, &item, Value::Null).await;
                assert_eq!((answer.status, answer.error()), (404, "Session not found."));
            }
        }
        let own = format!("Masking/Session/{}/", sessions[0]);
        assert_eq!(service.call_as(refs(&one), Method::GET, ID, &own, Value::Null).await.status, 200);
        let foreign = format!("Masking/Session/?subaccount={}", two.0);
        let list = service.call_as(refs(&one), Method::GET, ID, &foreign, Value::Null).await;
        assert_eq!(list.body["response"]["meta"]["total_count"], 0);
        let all = service.get("Masking/Session/").await;
        assert_eq!(all.body["response"]["meta"]["total_count"], 3, "the main account sees all");
        let filtered = service.get(&format!("Masking/Session/?subaccount={}", two.0)).await;
        assert_eq!(filtered.body["response"]["objects"][0]["session_uuid"], sessions[1].as_str());
    })
    .await;
}

#[tokio::test]
async fn every_foreign_path_is_refused_alike() {
    let service = Service::start(1).await;
    let (one, two) = (service.sub("one", 150).await, service.sub("two", 151).await);
    let unknown = service.call_as((ID, "wrong"), Method::GET, ID, "Masking/Session/", Value::Null).await;
    for (who, path) in [
        (refs(&one), two.0.as_str()),
        (refs(&one), OTHER),
        (refs(&one), "SAUNKNOWN"),
        ((one.0.as_str(), two.1.as_str()), ID),
        ((ID, TOKEN), OTHER),
        ((ID, TOKEN), one.0.as_str()),
        ((OTHER, "other"), ID),
        ((OTHER, "other"), one.0.as_str()),
        (("SAUNKNOWN", TOKEN), ID),
    ] {
        let answer = service.call_as(who, Method::GET, path, "Masking/Session/", Value::Null).await;
        assert_eq!((answer.status, answer.error()), (401, unknown.error()), "{who:?} {path}");
    }
    // Another account's sub-account is as unknown as one that never was.
    let other = |rest: String, method| {
        let service = &service;
        async move { service.call_as((OTHER, "other"), method, OTHER, &rest, json!({"name": "x"})).await }
    };
    for auth_id in [one.0.as_str(), "SAXXXXXXXXXXXXXXXXXX"] {
        for method in [Method::GET, Method::POST, Method::DELETE] {
            let answer = other(format!("Subaccount/{auth_id}/"), method).await;
            assert_eq!((answer.status, answer.error()), (404, "Subaccount not found."));
        }
        let answer = other(format!("Subaccount/{auth_id}/Token/"), Method::POST).await;
        assert_eq!(answer.status, 404);
        let named = with(pair(), json!({"subaccount": auth_id}));
        let answer = service.call_as((OTHER, "other"), Method::POST, OTHER, "Masking/Session/", named).await;
        assert_eq!(
            (answer.status, answer.error()),
            (400, "Invalid parameter. subaccount is no enabled sub-account of this account.")
        );
    }
}

#[tokio::test]
async fn what_is_the_main_accounts_needs_its_credentials() {
    let service = Service::start(1).await;
    let sub = service.sub("one", 150).await;
    let own = format!("Subaccount/{}/", sub.0);
    for (method, rest) in [
        (Method::GET, "Subaccount/"),
        (Method::POST, "Subaccount/"),
        (Method::GET, own.as_str()),
        (Method::POST, own.as_str()),
        (Method::DELETE, own.as_str()),
        (Method::POST, "Token/"),
        (Method::POST, &format!("{own}Token/")),
        (Method::POST, "Number/"),
        (Method::POST, "Number/12025550150/"),
        (Method::DELETE, "Number/12025550150/"),
    ] {
        let answer = service.call_as(refs(&sub), method, ID, rest, json!({"name": "x"})).await;
        assert_eq!(answer.status, 403, "{rest}: {}", answer.body);
    }
    let list = service.call_as(refs(&sub), Method::GET, ID, "Number/", Value::Null).await;
    assert_eq!(list.body["meta"]["total_count"], 1);
    assert_eq!(list.body["objects"][0]["number"], "12025550150");
    for (number, status) in [("12025550150", 200), ("12025550100", 404), ("12025550199", 404)] {
        let rest = format!("Number/{number}/");
        let read = service.call_as(refs(&sub), Method::GET, ID, &rest, Value::Null).await;
        assert_eq!(read.status, status, "{number}");
    }
    let account = service.call_as(refs(&sub), Method::GET, ID, "", Value::Null).await;
    assert_eq!((account.status, &account.body["account_type"]), (200, &json!("subaccount")));
    assert_eq!(account.body["auth_id"], sub.0.as_str());
}

#[tokio::test]
async fn numbers_are_taken_from_the_sub_accounts_own_only() {
    let service = Service::start(1).await;
    let sub = service.sub("one", 150).await;
    let by_param = |subaccount: &str| with(pair(), json!({"subaccount": subaccount, "geomatch": false}));
    let first = service.create(by_param(&sub.0)).await;
    assert_eq!((first.status, &first.body["virtual_number"]), (201, &json!("+12025550150")));
    assert_eq!(first.body["session"]["subaccount"], sub.0.as_str());
    let second = service.create(by_param(&sub.0)).await;
    let exhausted = "Number pool exhausted or not available.";
    assert_eq!((second.status, second.error()), (400, exhausted), "the account's own are not its");
    let main = service.create(pair()).await;
    assert_eq!(main.body["virtual_number"], "+12025550100");
    let again = service.create(pair()).await;
    assert_eq!((again.status, again.error()), (400, exhausted), "the sub-account's are not the account's");
    // Geomatch asks the sub-account's numbers as well.
    let indian = json!({"first_party": "919876543210", "second_party": "919876543211", "subaccount": sub.0});
    let answer = service.create(indian).await;
    let text = "No compatible virtual numbers found for country code IN. Please check the number masking \
                reserved virtual numbers pool";
    assert_eq!((answer.status, answer.error()), (404, text));
    let refused = [json!("SAXXXXXXXXXXXXXXXXXX"), json!(OTHER), json!("x")];
    for subaccount in refused {
        let answer = service.create(with(pair(), json!({"subaccount": subaccount}))).await;
        assert_eq!(
            (answer.status, answer.error()),
            (400, "Invalid parameter. subaccount is no enabled sub-account of this account.")
        );
    }
    let item = format!("Subaccount/{}/", sub.0);
    service.call(Method::POST, &item, json!({"enabled": false})).await;
    assert_eq!(service.create(by_param(&sub.0)).await.status, 400, "it is not enabled");
    let answer = service.call(Method::DELETE, &item, Value::Null).await;
    assert_eq!(answer.status, 409, "it has a number: {}", answer.body);
}

/// A service whose account was made by its first start.
async fn with_made_account() -> (Service, String, String) {
    let service = Service::start(1).await;
    let made = service.store.ensure_account(&[], Timestamp::UNIX_EPOCH).await.unwrap().unwrap();
    (service, made.auth_id, made.auth_token)
}

#[tokio::test]
async fn a_new_token_takes_over_while_the_old_one_fades() {
    let (service, id, old) = with_made_account().await;
    at_start(async {
        let opens = async |token: &str| {
            service.call_as((&id, token), Method::GET, &id, "Masking/Session/", Value::Null).await.status
        };
        let changed =
            service.call_as((&id, &old), Method::POST, &id, "Token/", json!({"grace_period": 60})).await;
        assert_eq!((changed.status, &changed.body["auth_id"]), (201, &json!(id)));
        assert_eq!(changed.body["old_token_valid_until"], "2024-02-01 06:29:15 +0000 UTC");
        let new = changed.body["auth_token"].as_str().unwrap().to_owned();
        assert_eq!(service.store.auth_token(&id).unwrap().reveal(), new, "callbacks are signed with it");
        assert_eq!((opens(&old).await, opens(&new).await), (200, 200));
        move_to(59);
        assert_eq!(opens(&old).await, 200);
        move_to(60);
        assert_eq!((opens(&old).await, opens(&new).await), (401, 200));
        let at_once =
            service.call_as((&id, &new), Method::POST, &id, "Token/", json!({"grace_period": 0})).await;
        let newest = at_once.body["auth_token"].as_str().unwrap();
        assert_eq!((opens(&old).await, opens(&new).await, opens(newest).await), (401, 401, 200));
        let default = service.call_as((&id, newest), Method::POST, &id, "Token/", Value::Null).await;
        assert_eq!(default.body["old_token_valid_until"], "2024-02-02 06:29:15 +0000 UTC");
        let answer = service.call_as((&id, newest), Method::POST, &id, "Token/", json!({"grace_period": -1}));
        assert_eq!(answer.await.status, 400);
    })
    .await;
}

#[tokio::test]
async fn a_configured_accounts_token_is_changed_in_the_configuration() {
    let service = Service::start(1).await;
    let answer = service.call(Method::POST, "Token/", json!({})).await;
    assert_eq!(answer.status, 400);
    assert!(answer.error().contains("[[accounts]]"), "{}", answer.error());
    assert_eq!(service.store.auth_token(ID).unwrap().reveal(), TOKEN);
    let account = service.get("").await;
    assert_eq!((&account.body["source"], &account.body["auth_id"]), (&json!("configuration"), &json!(ID)));
}

#[tokio::test]
async fn a_sub_accounts_token_can_be_changed() {
    let service = Service::start(1).await;
    let sub = service.sub("one", 150).await;
    let answer =
        service.call(Method::POST, &format!("Subaccount/{}/Token/", sub.0), json!({"grace_period": 0})).await;
    let new = answer.body["auth_token"].as_str().unwrap();
    let opens = async |token: &str| {
        service.call_as((&sub.0, token), Method::GET, ID, "Masking/Session/", Value::Null).await.status
    };
    assert_eq!((answer.status, opens(&sub.1).await, opens(new).await), (201, 401, 200));
    assert_eq!(service.store.auth_token(&sub.0).unwrap().reveal(), new);
}

#[tokio::test]
async fn tokens_outlive_a_restart_and_need_the_key() {
    let directory = std::env::temp_dir().join(format!("maskline-api-{}", Uuid::new_v4()));
    let url = format!("sqlite://{}/m.db", directory.display());
    let key = directory.join("maskline.key");
    let now = Timestamp::UNIX_EPOCH;
    let open =
        async || Store::open_with_key(&url, Some(SealKey::load_or_create(&key).unwrap())).await.unwrap();
    let store = open().await;
    let made = store.ensure_account(&[], now).await.unwrap().unwrap();
    let (sub, sub_token) =
        store.create_subaccount(&made.auth_id, "one".into(), true, now).await.unwrap().unwrap();
    store.close().await;
    let store = open().await;
    store.ensure_account(&[], now).await.unwrap();
    assert_eq!(store.auth_token(&made.auth_id).unwrap().reveal(), made.auth_token);
    assert_eq!(store.auth_token(&sub.auth_id), Some(sub_token));
    assert_eq!(store.auth_token("MAUNKNOWN"), None);
    store.close().await;
    for path in ["m.db", "m.db-wal"] {
        let bytes = std::fs::read(directory.join(path)).unwrap_or_default();
        let held = String::from_utf8_lossy(&bytes).contains(&made.auth_token);
        assert!(!held, "{path} holds the token");
    }
    // With another key the account still opens, and only cannot sign.
    std::fs::remove_file(&key).unwrap();
    let store = open().await;
    store.ensure_account(&[], now).await.unwrap();
    assert_eq!(store.auth_token(&made.auth_id), None);
    assert!(store.identify(&made.auth_id, &made.auth_token, now).is_some());
    let mended = store.rotate_token(&made.auth_id, None, std::time::Duration::ZERO, now).await.unwrap();
    assert_eq!(store.auth_token(&made.auth_id), Some(mended.unwrap()));
    store.close().await;
    std::fs::remove_dir_all(directory).unwrap();
}

//! Lists of sessions: filters, pages, how far they reach back.

use super::*;

#[tokio::test]
async fn lists_filter_and_page() {
    let service = Service::start(2).await;
    at_start(async {
        for index in 0..5 {
            move_to(60 * index);
            let parties = json!({
                "first_party": format!("1212555{index:04}"), "second_party": format!("1313555{index:04}"),
                "session_expiry": 100 * (index + 1),
            });
            service.session(parties).await;
        }
        move_to(300);
        let list = async |query: &str| {
            let answer = service.get(&format!("Masking/Session/?{query}")).await;
            assert_eq!(answer.status, 200, "{query}: {}", answer.body);
            let objects = answer.body["response"]["objects"].as_array().unwrap().clone();
            let parties: Vec<_> = objects
                .iter()
                .map(|object| {
                    object["first_party"].as_str().unwrap().trim_start_matches("1212555000").to_owned()
                })
                .collect();
            parties.concat()
        };
        for (query, expected) in [
            ("", "43210"),
            ("first_party=%2B12125550003", "3"),
            ("second_party=13135550002&status=all", "2"),
            ("virtual_number=12025550101", ""),
            ("status=active", "432"),
            ("status=expired", "10"),
            ("status=in-progress", ""),
            ("status=active&first_party=12125550000", ""),
            ("created_time__gt=2024-02-01+06:29:15", "432"),
            ("created_time__gte=2024-02-01%2006:29:15", "4321"),
            ("created_time__lt=2024-02-01 06:29:15".replace(' ', "+").as_str(), "0"),
            ("created_time__lte=2024-02-01+06:29:15", "10"),
            ("created_time=2024-02-01+06:29:15", "1"),
            ("created_times=2024-02-01+06:29:15.000000", "1"),
            ("created_time_gte=2024-02-01+06:31", "43"),
            ("expiry_time__lte=2024-02-01+06:32:35", "10"),
            ("duration=300", "2"),
            ("durations=300", "2"),
            ("duration__gt=300", "43"),
            ("duration__lt=300&duration__gte=200", "1"),
            ("unknown=1&limit=2", "43"),
            ("limit=2&offset=3", "10"),
            ("offset=5", ""),
        ] {
            assert_eq!(list(query).await, expected, "{query}");
        }
        let answer = service.get("Masking/Session/?limit=2&offset=2&status=all").await;
        let response = &answer.body["response"];
        assert_eq!(
            response["meta"],
            json!({
                "limit": 2,
                "next": format!("/v1/Account/{ID}/Masking/Session/?limit=2&offset=4&status=all"),
                "offset": 2,
                "previous": format!("/v1/Account/{ID}/Masking/Session/?limit=2&offset=0&status=all"),
                "total_count": 5,
            })
        );
        let object = &response["objects"][0];
        let uri = format!("/v1/Account/{ID}/Masking/Session/{}/", object["session_uuid"].as_str().unwrap());
        assert_eq!(object["resource_uri"], uri);
        let whole = service.get("Masking/Session/").await;
        assert_eq!(
            whole.body["response"]["meta"],
            json!({"limit": 20, "next": null, "offset": 0, "previous": null, "total_count": 5})
        );
        for (query, text) in [
            ("limit=21", "Invalid parameter. limit is outside the allowed range. Allowed: 1 to 20."),
            ("limit=0", "Invalid parameter. limit is outside the allowed range."),
            ("offset=-1", "Invalid parameter. offset is outside the allowed range."),
            (
                "status=gone",
                "Invalid parameter. status allowed values are active, in-progress, expired or all.",
            ),
            (
                "created_time__gt=yesterday",
                "Invalid parameter. created_time__gt is not a valid time. Allowed: YYYY-MM-DD",
            ),
            ("duration=long", "Invalid parameter. duration must be a whole number."),
        ] {
            let answer = service.get(&format!("Masking/Session/?{query}")).await;
            assert_eq!(answer.status, 400, "{query}");
            assert!(answer.error().starts_with(text), "{query}: {}", answer.error());
        }
        move_to(8 * 86_400);
        assert_eq!(list("").await, "", "without bounds the last seven days");
        assert_eq!(list("created_time__gte=2024-01-01+00:00").await, "43210");
    })
    .await;
}

#[tokio::test]
async fn a_list_reaches_back_seven_days_or_as_asked_at_most_thirty() {
    let service = Service::start(1).await;
    at_start(async {
        service.session(with(pair(), json!({"session_expiry": 86400}))).await;
        let day = 86_400;
        // The session lives from day 0 to day 1; on which day is which list asked for.
        for (on, query, found) in [
            (0, "", 1),
            (7, "", 1),
            (9, "", 0),
            (9, "status=expired", 0),
            (9, "created_time__gte=2024-01-01+00:00", 1),
            (9, "created_time__lt=2024-02-03+00:00", 1),
            (9, "expiry_time__lte=2024-02-03+00:00", 1),
            (9, "expiry_time__gt=2024-02-03+00:00", 0),
            (29, "created_time__gte=2024-01-01+00:00", 1),
            (31, "created_time__gte=2024-01-01+00:00", 0),
            (31, "expiry_time__gte=2024-01-01+00:00", 1),
            (32, "expiry_time__gte=2024-01-01+00:00", 0),
            (29, "created_time__lt=2099-01-01+00:00", 1),
            (31, "created_time__lt=2099-01-01+00:00", 0),
            (0, "expiry_time__lt=2099-01-01+00:00", 1),
            (300, "created_time__lt=2024-02-29+00:00", 1),
            (300, "created_time__gt=2024-01-01+00:00&created_time__lt=2024-02-29+00:00", 1),
            (300, "created_time__gt=2024-01-01+00:00&created_time__lt=2024-03-05+00:00", 0),
            (300, "created_time=2024-02-01+06:28:15", 1),
        ] {
            move_to(on * day);
            let answer = service.get(&format!("Masking/Session/?{query}")).await;
            assert_eq!(answer.body["response"]["meta"]["total_count"], found, "day {on}: {query}");
            assert_eq!(
                answer.body["response"]["objects"].as_array().map(Vec::len),
                Some(found),
                "day {on}: {query}"
            );
        }
    })
    .await;
}

#[tokio::test]
async fn filters_are_known_by_their_old_and_misspelled_names_too() {
    let service = Service::start(1).await;
    at_start(async {
        service.session(with(pair(), json!({"session_expiry": 600}))).await;
        for (query, found) in [
            ("duration=600", 1),
            ("durations=600", 1),
            ("durations=601", 0),
            ("duration__gt=600", 0),
            ("duration_gte=600", 1),
            ("session_duration=601", 0),
            ("session_duration__lte=600", 1),
            ("created_times=2024-02-01+06:28:15", 1),
            ("created_times=2024-02-01+06:28:16", 0),
            ("created_time_lt=2024-02-01+06:28:15", 0),
            ("expiry_times=2024-02-01%2006:38:15", 1),
            ("expiry_time_gte=2024-02-01+06:38:16", 0),
            ("sub_account=SAXXXXXXXXXXXXXXXXXX", 0),
            ("Status=ACTIVE&LIMIT=1", 1),
            ("unheard_of=1", 1),
            ("first_party=&status=", 1),
        ] {
            let answer = service.get(&format!("Masking/Session?{query}")).await;
            assert_eq!(answer.status, 200, "{query}: {}", answer.body);
            assert_eq!(answer.body["response"]["meta"]["total_count"], found, "{query}");
        }
    })
    .await;
}

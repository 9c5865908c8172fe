//! Retention, signals and exports over shards that have counted real records.

use super::group::{member, served};
use super::*;
use crate::event::Record;
use crate::shard::{Effects, Progress, Shard};

/// Four records a shard, of three people.
fn with_shards(instance: &Instance, partitions: &[i32], of: i32) {
    for &partition in partitions {
        let store = instance.database.shard(partition);
        let mut shard = Shard::open(partition, Arc::clone(&instance.api.rules), store, of).expect("opens");
        for (offset, (user, days_ago)) in (0..).zip([("=a", 20), ("b", 20), ("c", 3), ("b", 12)]) {
            let time = NOW.as_event_time() - Span::from_days(days_ago);
            let value = format!(
                r#"{{"user_id":"{user}{partition}","event":"Visit","time":"{time}","properties":{{"plan":"pro"}}}}"#
            );
            let record = Record { key: None, value: Some(value.as_bytes()), headers: &[], offset };
            shard.apply(&[record], NOW, &mut Effects::default()).expect("applies");
        }
        let progress = shard.advance(NOW, true, 100, &mut Effects::default()).expect("advances");
        assert_eq!(progress, Progress::Done);
        let sealed = shard.seal().expect("seals");
        shard.committed(sealed, 1).expect("commits");
    }
}

#[tokio::test]
async fn retention_and_signals_add_up_over_the_shards_that_are_here() {
    let instance = Instance::new(None).running(2);
    with_shards(&instance, &[0, 1], 2);
    assert_eq!(instance.get("/v1/retention").await.1["reports"][0]["name"], "all");
    let (status, body) = instance.get("/v1/retention/all").await;
    assert_eq!(status, StatusCode::OK, "{body}");
    // The clock of these tests is in 1972, and what lies before 1990 is one cohort.
    let cohorts = body["cohorts"].as_array().expect("a list");
    assert_eq!((cohorts.len(), &cohorts[0]["size"]), (1, &json!(6)), "{body}");
    assert_eq!(cohorts[0]["retained"], json!([0, 2, 0]));
    let csv =
        instance.send(Request::get("/v1/retention/all?format=csv&limit=1").body(Body::empty()).expect("valid")).await;
    assert!(csv.headers()["content-type"].to_str().expect("text").starts_with("text/csv"));
    assert_eq!(text(csv).await.lines().count(), 1 + 3);
    let (_, body) = instance.get("/v1/signals?state=active").await;
    assert_eq!((&body["users"], &body["dimensions"][0]["values"][0]["value"]), (&json!(4), &json!("Visit")), "{body}");
    for (path, status) in [
        ("/v1/retention/none", StatusCode::NOT_FOUND),
        ("/v1/retention/all?format=xml", StatusCode::BAD_REQUEST),
        ("/v1/retention/all?limit=0", StatusCode::BAD_REQUEST),
        ("/v1/retention/all?from=never", StatusCode::BAD_REQUEST),
        ("/v1/counts/shards", StatusCode::BAD_REQUEST),
        ("/v1/counts/shards?of=users", StatusCode::BAD_REQUEST),
        ("/v1/counts/shards?of=retention&report=none", StatusCode::NOT_FOUND),
        ("/v1/counts/shards?of=retention&report=all&definition=other", StatusCode::NOT_FOUND),
        ("/v1/signals", StatusCode::BAD_REQUEST),
        ("/v1/signals?state=gone", StatusCode::NOT_FOUND),
        ("/v1/signals?segment=none", StatusCode::NOT_FOUND),
    ] {
        assert_eq!(instance.get(path).await.0, status, "{path}");
    }
}

#[tokio::test]
async fn an_audience_is_a_file() {
    let instance = Instance::new(None).running(2);
    with_shards(&instance, &[0, 1], 2);
    let file = async |path: &str| instance.send(Request::get(path).body(Body::empty()).expect("valid")).await;
    let csv = file("/v1/segments/gone/users.csv").await;
    assert_eq!((csv.status(), &csv.headers()["ebbtide-shards"]), (StatusCode::OK, &"2/2".parse().expect("text")));
    assert_eq!(csv.headers()["ebbtide-users"], "6");
    let csv = text(csv).await;
    assert!(csv.lines().count() == 7 && csv.contains("\n'=a0,"), "{csv}");
    let lines = text(file("/v1/states/active/users.jsonl").await).await;
    assert!(lines.lines().count() == 4 && lines.contains(r#""properties":{"plan":"pro"}"#), "{lines}");
    let parquet = axum::body::to_bytes(file("/v1/states/at_risk/users.parquet").await.into_body(), 1 << 20).await;
    assert!(parquet.is_ok_and(|bytes| bytes.starts_with(b"PAR1") && bytes.ends_with(b"PAR1")));
    for path in ["/v1/segments/none/users.csv", "/v1/states/gone/users.csv", "/v1/states/active/users.xml"] {
        assert_eq!(instance.get(path).await.0, StatusCode::NOT_FOUND, "{path}");
    }
    let empty = Instance::new(None);
    assert_eq!(empty.get("/v1/states/active/users.csv").await.0, StatusCode::SERVICE_UNAVAILABLE);
}

/// Whichever instance is asked, and however the shards are spread, the answer is that of one instance that has them all.
#[tokio::test]
async fn what_is_counted_on_two_instances_adds_up_to_what_one_would_count() {
    let filled = |instance: Instance, here: &[i32]| {
        let mut instance = instance.holding(here, 3);
        with_shards(&instance, here, 3);
        for &partition in here {
            instance = instance.with_return(partition, 70, "spring").with_return(partition, 40, "autumn");
        }
        instance
    };
    let alone = filled(Instance::new(None), &[0, 1, 2]);
    let two = filled(Instance::among(None, "two", Vec::new()), &[2]);
    let two = served(two.router.clone()).await;
    let members = vec![member("one", None, &[0, 1]), member("two", Some(two), &[2])];
    let one = filled(Instance::among(None, "one", members), &[0, 1]);
    for path in [
        "/v1/segments",
        "/v1/win-back?from=1970-01-01",
        "/v1/retention/all?limit=5",
        "/v1/signals?state=active&limit=3",
        "/v1/signals?segment=gone",
        "/v1/cohorts?",
    ] {
        let ((status, mut whole), (_, mut together)) = (alone.get(path).await, one.get(path).await);
        assert_eq!(status, StatusCode::OK, "{path}: {whole}");
        assert_eq!(together["shards"], json!({"here": 2, "running": 2, "counted": 3, "of": 3}), "{path}");
        assert_eq!((&together["partial"], &together["failures"]), (&json!(false), &json!([])), "{path}");
        whole["shards"] = Value::Null;
        together["shards"] = Value::Null;
        assert_eq!(whole, together, "{path}");
        let separator = if path.contains('?') { '&' } else { '?' };
        let (_, mine) = one.get(&format!("{path}{separator}scope=instance")).await;
        assert_eq!((&mine["partial"], &mine["missing"]), (&json!(true), &json!([2])), "{path}: {mine}");
    }
    let (_, segments) = one.get("/v1/segments").await;
    let treated = &segments["segments"][0]["measured"]["treated"];
    assert_eq!((&treated["users"], &treated["returned"]), (&json!(4), &json!(2)), "{segments}");
    let csv = Request::get("/v1/retention/all?format=csv").body(Body::empty()).expect("valid");
    assert_eq!(one.send(csv).await.headers()["ebbtide-shards"], "3/3");
}

#[tokio::test]
async fn an_instance_that_counts_otherwise_is_missing() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let silent = format!("http://{}", silent.local_addr().expect("bound"));
    let guarded = Instance::among(Some("s3cret"), "guarded", Vec::new()).holding(&[1], 3);
    let guarded = served(guarded.router.clone()).await;
    let members =
        vec![member("one", None, &[0]), member("guarded", Some(guarded), &[1]), member("silent", Some(silent), &[2])];
    let one = Instance::among(None, "one", members).holding(&[0], 3);
    with_shards(&one, &[0], 3);
    for path in ["/v1/segments", "/v1/win-back", "/v1/retention/all", "/v1/signals?state=active"] {
        let (status, body) = one.get(path).await;
        assert_eq!(
            (status, &body["partial"], &body["missing"]),
            (StatusCode::OK, &json!(true), &json!([1, 2])),
            "{path}"
        );
        let failures = body["failures"].to_string();
        assert!(failures.contains("guarded answered with 401") && failures.contains("silent at http"), "{failures}");
    }
}

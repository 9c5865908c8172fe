//! The routes over a real status, a real database and a real feed; only the request to delete is written down instead of
//! sent (the broker tests send it).

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, BodyDataStream};
use axum::http::{Method, Request, StatusCode};
use axum::response::Response;
use serde_json::{Value, json};
use tokio_stream::StreamExt as _;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::clock::Clock;
use crate::event::{Decoder, Event, EventList, EventRules, ReportLists, ReportRoles, Roles};
use crate::http::group::{Directory, DirectoryError, Member};
use crate::http::users::{DeletionError, Deletions};
use crate::http::{Api, Parts, router};
use crate::kafka::feed::TransitionFeed;
use crate::kafka::status::{Phase, ShardStatus, Status};
use crate::lifecycle::{Change, Policy, Reason, State, User};
use crate::metrics::Metrics;
use crate::retention::{Period, Report};
use crate::rules::Rules;
use crate::segment::Draft;
use crate::shard::cohort::Cohorts;
use crate::shard::effect::{Counts, Headers, Output, Topic};
use crate::shard::{Aggregates, ShardRecord};
use crate::store::rocks::Database;
use crate::store::{Batch, Store as _, codec};
use crate::time::{DAY_MS, EventTime, Span, WallTime};
use crate::win_back::{Comeback, Entry};

mod group;
mod reports;

const NOW: WallTime = WallTime::from_millis(1_000 * DAY_MS);

#[derive(Debug)]
struct Still;

impl Clock for Still {
    fn now(&self) -> WallTime {
        NOW
    }
}

#[derive(Default)]
struct Written(Mutex<Vec<(i32, String)>>);

impl Deletions for Written {
    fn request<'a>(
        &'a self,
        partition: i32,
        user_id: &'a str,
    ) -> Pin<Box<dyn Future<Output = Result<(), DeletionError>> + Send + 'a>> {
        self.0.lock().expect("no panic").push((partition, user_id.to_owned()));
        Box::pin(std::future::ready(Ok(())))
    }
}

/// The group as a test wants it.
struct Group(Vec<Member>);

impl Directory for Group {
    fn members(&self) -> Pin<Box<dyn Future<Output = Result<Vec<Member>, DirectoryError>> + Send + '_>> {
        Box::pin(std::future::ready(Ok(self.0.clone())))
    }
}

/// An instance with two of three shards.
struct Instance {
    router: Router,
    api: Arc<Api>,
    status: Arc<Status>,
    metrics: Arc<Metrics>,
    database: Arc<Database>,
    feed: TransitionFeed,
    written: Arc<Written>,
    stop: CancellationToken,
    /// Removed at the end.
    _folder: tempfile::TempDir,
}

impl Instance {
    fn new(token: Option<&str>) -> Self {
        Self::among(token, "one", Vec::new())
    }

    /// One of several instances.
    fn among(token: Option<&str>, id: &str, members: Vec<Member>) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let database = Database::open(folder.path(), 16 << 20).expect("an empty folder");
        let metrics = Arc::new(Metrics::new().expect("unique names"));
        let status = Arc::new(Status::new(id, 1, NOW));
        let feed = TransitionFeed::new();
        let written = Arc::new(Written::default());
        let stop = CancellationToken::new();
        let track = vec!["plan".to_owned()];
        let all = EventList::all();
        let reports = vec![ReportLists { start: all.clone(), back: all.clone() }];
        let events = EventRules { track: track.clone(), reports, ..EventRules::default() };
        let rules = Rules {
            policy: Policy::default(),
            decoder: Decoder::new(events).expect("valid"),
            time: crate::shard::watermark::TimeRules::default(),
            track,
            segments: vec![Draft { name: "gone".to_owned(), ..Draft::default() }],
            win_back: crate::win_back::WinBackRules::default(),
            retention: vec![Report {
                name: "all".to_owned(),
                start: all.clone(),
                back: all,
                period: Period::Week,
                count: 2,
            }],
            signals: true,
            origin: crate::rules::Origin::default(),
        };
        let parts = Parts {
            metrics: Arc::clone(&metrics),
            status: Arc::clone(&status),
            database: Arc::clone(&database),
            feed: feed.clone(),
            clock: Arc::new(Still),
            rules: Arc::new(rules),
            deletions: Arc::clone(&written) as Arc<dyn Deletions>,
            directory: Arc::new(Group(members)),
            token: token.map(str::to_owned),
            advertised: None,
        };
        let api = Api::new(parts, ([127, 0, 0, 1], 0).into(), stop.clone());
        let router = router(Arc::clone(&api));
        Self { router, api, status, metrics, database, feed, written, stop, _folder: folder }
    }

    /// Shards 0 and 1 of `partitions` are here and running.
    fn running(self, partitions: i32) -> Self {
        self.holding(&[0, 1], partitions)
    }

    fn holding(self, here: &[i32], partitions: i32) -> Self {
        self.status.set_input_partitions(partitions);
        self.status.joined(0);
        for &partition in here {
            let mut shard = ShardStatus::taken_over(partition, 0);
            shard.phase = Phase::Running;
            shard.end = Some(50);
            shard.position = Some(40);
            shard.watermark = Some(EventTime::from_millis(NOW.as_millis() - 10_000));
            self.status.insert(shard);
        }
        self
    }

    /// A user who acted once, `idle_days` ago, and to whom time has happened since.
    fn with_user(self, partition: i32, id: &str, idle_days: i64) -> Self {
        let event = Event {
            user_id: id.into(),
            name: "Order Placed".into(),
            time: EventTime::from_millis(NOW.as_millis() - idle_days * DAY_MS),
            id: None,
            roles: Roles { activity: true, activation: true, core: true, win_back: false },
            reports: ReportRoles::default(),
            campaign: None,
            tracked: vec![(0, "\"pro\"".into())],
            refused: 0,
            listed_name: None,
        };
        let mut user = User::default();
        let mut changes: Vec<Change> = Vec::new();
        user.record(&event, &Policy::default(), &mut changes);
        let _ = user.advance(id, NOW.as_event_time(), &Policy::default(), &mut changes);
        let mut cohorts = Cohorts::default();
        cohorts.enter(Cohorts::class_of(&user));
        self.status.update(partition, 0, |shard| shard.cohorts.merge(&cohorts));
        let mut encoded = Vec::new();
        codec::encode_user(&user.into(), &mut encoded);
        let mut record = Vec::new();
        ShardRecord { properties: vec!["plan".to_owned()], ..ShardRecord::default() }.encode(&mut record);
        let batch = Batch { users: vec![(id.into(), Some(encoded))], shard: Some(record), ..Batch::default() };
        self.database.shard(partition).write(batch).expect("a healthy disk");
        self
    }

    /// Somebody who left 90 days ago, entered `gone` then, and came back so many days ago by a campaign.
    fn with_return(self, partition: i32, days: i64, campaign: &str) -> Self {
        let at = |days: i64| EventTime::from_millis(NOW.as_millis() - days * DAY_MS);
        let store = self.database.shard(partition);
        let mut aggregates = Aggregates::load(&store).expect("a healthy disk");
        let entry = Entry { segment: 0, at: at(90), held_out: partition == 1, returned: false };
        aggregates.moved("gone", 1);
        aggregates.entered("gone", &entry);
        if days > 60 {
            aggregates.returned_from("gone", &entry);
        }
        let mut comeback = Comeback::new(at(days), 3, State::Churned, at(90));
        aggregates.returned(&comeback);
        let before = comeback.clone();
        comeback.record(at(days - 2), true);
        comeback.attribute(at(days), Some(campaign), Span::ZERO).expect("the first");
        aggregates.attributed(campaign);
        aggregates.went_on(&before, &comeback);
        let cells = aggregates.ledger().sealed().map(|(key, value)| (key.into(), value)).collect();
        self.database.shard(partition).write(Batch { cells, ..Batch::default() }).expect("a healthy disk");
        self
    }

    async fn send(&self, request: Request<Body>) -> Response {
        self.router.clone().oneshot(request).await.expect("routes answer everything")
    }

    async fn ask(&self, method: Method, path: &str) -> (StatusCode, Value) {
        let response = self.send(Request::builder().method(method).uri(path).body(Body::empty()).expect("valid")).await;
        let status = response.status();
        if !status.is_success() && !path.ends_with('z') {
            assert_eq!(response.headers()["content-type"], "application/problem+json", "{path}");
        }
        let value: Value = serde_json::from_str(&text(response).await).expect("JSON");
        if let Some(said) = value["status"].as_u64() {
            assert_eq!(said, u64::from(status.as_u16()), "{path}: the problem repeats the status");
        }
        (status, value)
    }

    async fn get(&self, path: &str) -> (StatusCode, Value) {
        self.ask(Method::GET, path).await
    }
}

async fn text(response: Response) -> String {
    let bytes = axum::body::to_bytes(response.into_body(), 8 << 20).await.expect("a bounded body");
    String::from_utf8(bytes.to_vec()).expect("text")
}

#[tokio::test]
async fn cohorts_add_up_over_the_shards_that_are_here() {
    let instance = Instance::new(None).running(3).with_user(0, "ann", 1).with_user(1, "bob", 40).with_user(1, "eve", 1);
    let (status, body) = instance.get("/v1/cohorts").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(body["users"], 3);
    assert_eq!(body["shards"], json!({"here": 2, "running": 2, "counted": 2, "of": 3}));
    assert_eq!((&body["partial"], &body["missing"]), (&json!(true), &json!([2])));
    let size = |state: &str| {
        let cohorts = body["cohorts"].as_array().expect("a list").iter().filter(|cohort| cohort["state"] == state);
        cohorts.map(|cohort| cohort["users"].as_u64().expect("a number")).sum::<u64>()
    };
    assert_eq!(["active", "at_risk", "lapsed", "churned"].map(size), [2, 0, 1, 0]);
    let response = instance.send(Request::get("/metrics").body(Body::empty()).expect("valid")).await;
    let metrics = text(response).await;
    assert!(metrics.contains("ebbtide_users{activated=\"true\",state=\"active\"} 2\n"), "{metrics}");
    assert!(metrics.contains("ebbtide_consumer_lag_records{partition=\"1\"} 10\n"), "{metrics}");
    assert!(metrics.contains("ebbtide_watermark_lag_seconds{partition=\"0\"} 10\n"), "{metrics}");
}

#[tokio::test]
async fn segments_and_returns_add_up_over_the_shards_that_are_here() {
    let instance = Instance::new(None)
        .running(2)
        .with_return(0, 70, "spring")
        .with_return(0, 40, "spring")
        .with_return(1, 40, "spring")
        .with_return(1, 3, "autumn");
    let (status, body) = instance.get("/v1/segments").await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let gone = &body["segments"][0];
    assert_eq!((&gone["name"], &gone["users"]), (&json!("gone"), &json!(4)));
    assert_eq!(gone["measured"]["treated"], json!({"users": 2, "returned": 1, "rate": 0.5}));
    assert_eq!(gone["measured"]["held_out"], json!({"users": 2, "returned": 0, "rate": 0.0}));
    assert_eq!(gone["measured"]["lift"]["difference"], json!(0.5));

    let (status, body) = instance.get("/v1/win-back?limit=2").await;
    assert_eq!(status, StatusCode::OK, "{body}");
    assert_eq!(body["campaigns"][0], json!({"campaign": "spring", "attributed": 3}));
    assert_eq!((&body["total"]["returned"], &body["total"]["active"][1]), (&json!(4), &json!(4)));
    let groups = body["groups"].as_array().expect("a list");
    assert_eq!(groups.iter().map(|group| group["returned"].as_u64()).collect::<Vec<_>>(), [Some(1), Some(2)]);
    assert_eq!((&groups[0]["away_from"], &groups[0]["complete_days"]), (&json!("churned"), &json!(30)));
    let next = body["next"].as_str().expect("there is more");
    let (_, body) = instance.get(&format!("/v1/win-back?limit=2&cursor={next}")).await;
    assert_eq!((&body["groups"][0]["campaign"], &body["next"]), (&json!("autumn"), &Value::Null));
    let (_, body) = instance.get("/v1/win-back?campaign=autumn").await;
    assert_eq!(body["total"]["returned"], 1);
    for wrong in ["from=yesterday", "away_from=active", "limit=0", "cursor=x"] {
        assert_eq!(instance.get(&format!("/v1/win-back?{wrong}")).await.0, StatusCode::BAD_REQUEST, "{wrong}");
    }
    let response = instance.send(Request::get("/metrics").body(Body::empty()).expect("valid")).await;
    let metrics = text(response).await;
    assert!(metrics.contains("ebbtide_segment_users{segment=\"gone\"} 4\n"), "{metrics}");
    assert!(
        metrics.contains("ebbtide_segment_lift_ratio{estimate=\"difference\",segment=\"gone\"} 0.5\n"),
        "{metrics}"
    );
}

#[tokio::test]
async fn a_user_is_told_with_the_reason_and_what_comes_next() {
    let instance = Instance::new(None).running(2).with_user(1, "a/b ü", 40);
    let (status, body) = instance.get("/v1/users/a%2Fb%20%C3%BC").await;
    assert_eq!(status, StatusCode::OK, "{body}");
    assert_eq!((&body["user_id"], &body["partition"]), (&json!("a/b ü"), &json!(1)));
    assert_eq!((&body["state"], &body["reason"], &body["seq"]), (&json!("lapsed"), &json!("inactive"), &json!(3)));
    assert_eq!(body["why"], "no activity for 30d");
    let last_active = EventTime::from_millis(NOW.as_millis() - 40 * DAY_MS);
    assert_eq!(body["last_active_at"], last_active.to_string());
    let churns = EventTime::from_millis(NOW.as_millis() + 50 * DAY_MS).to_string();
    assert_eq!(body["next"], json!({"at": churns, "state": "churned", "reason": "inactive"}));
    assert_eq!(body["properties"], json!({"plan": "pro"}));
    assert_eq!(body["last_events"], json!(["Order Placed"]));
    assert_eq!(body["p_alive"], Value::Null);
}

#[tokio::test]
async fn who_is_not_here_is_unknown_elsewhere_or_not_yet_restored() {
    let alone = Instance::new(None).running(2);
    assert_eq!(alone.get("/v1/users/nobody").await.0, StatusCode::NOT_FOUND);
    let one_of_two = Instance::new(None).running(3);
    let (status, body) = one_of_two.get("/v1/users/nobody?scope=instance").await;
    assert_eq!(status, StatusCode::MISDIRECTED_REQUEST);
    assert_eq!(body["type"], "/problems/another-instance");
    let (status, body) = one_of_two.get("/v1/users/nobody").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!((&body["type"], &body["missing"]), (&json!("/problems/partial"), &json!([2])));
    assert_eq!(one_of_two.get("/v1/users/nobody?scope=all").await.0, StatusCode::BAD_REQUEST);
    one_of_two.status.insert(ShardStatus::taken_over(2, 0));
    assert_eq!(one_of_two.get("/v1/users/nobody").await.0, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(Instance::new(None).get("/v1/users/nobody").await.0, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(alone.get(&format!("/v1/users/{}", "x".repeat(1025))).await.0, StatusCode::BAD_REQUEST);
    assert_eq!(alone.get("/v1/users/%FF").await.0, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_deletion_goes_to_the_shard_that_holds_the_user() {
    let instance = Instance::new(None).running(2).with_user(1, "ann", 1);
    assert_eq!(instance.ask(Method::DELETE, "/v1/users/nobody").await.0, StatusCode::NOT_FOUND);
    let (status, body) = instance.ask(Method::DELETE, "/v1/users/ann").await;
    assert_eq!((status, body), (StatusCode::ACCEPTED, json!({"user_id": "ann", "partition": 1})));
    assert_eq!(*instance.written.0.lock().expect("no panic"), [(1, "ann".to_owned())]);
}

#[tokio::test]
async fn ready_is_joined_and_restored_and_alive_is_sooner() {
    let instance = Instance::new(None);
    assert_eq!(instance.get("/healthz").await.0, StatusCode::OK);
    let (status, body) = instance.get("/readyz").await;
    assert_eq!((status, &body["status"]), (StatusCode::SERVICE_UNAVAILABLE, &json!("joining")));
    instance.status.joined(0);
    assert_eq!(instance.get("/readyz").await.0, StatusCode::OK, "an instance may have no shard");
    instance.status.insert(ShardStatus::taken_over(0, 0));
    assert_eq!(instance.get("/readyz").await.1["status"], "restoring");
    instance.status.update(0, 0, |shard| shard.phase = Phase::Stopped { reason: "moved".to_owned() });
    assert_eq!(instance.get("/healthz").await, instance.get("/readyz").await);
    assert_eq!(instance.get("/healthz").await.0, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn the_token_guards_data_and_not_health_or_the_page() {
    let instance = Instance::new(Some("s3cret")).running(2);
    let guarded = [
        "/metrics",
        "/v1/cohorts",
        "/v1/cohorts/shards",
        "/v1/counts/shards?of=segments",
        "/v1/retention/all",
        "/v1/signals?state=active",
        "/v1/cohorts/history",
        "/v1/flows",
        "/v1/shards",
        "/v1/segments",
        "/v1/win-back",
        "/v1/users/ann",
        "/v1/transitions",
    ];
    for path in guarded {
        let (status, _) = instance.get(path).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{path}");
        let with = Request::get(path).header("authorization", "Bearer s3cret").body(Body::empty()).expect("valid");
        assert_ne!(instance.send(with).await.status(), StatusCode::UNAUTHORIZED, "{path}");
    }
    assert_eq!(instance.ask(Method::DELETE, "/v1/users/ann").await.0, StatusCode::UNAUTHORIZED);
    for path in ["/", "/healthz", "/readyz", "/openapi.json", "/console/console.js"] {
        let response = instance.send(Request::get(path).body(Body::empty()).expect("valid")).await;
        assert_eq!(response.status(), StatusCode::OK, "{path}");
    }
}

#[tokio::test]
async fn every_answer_has_the_strict_headers_and_errors_are_problems() {
    let instance = Instance::new(None).running(2);
    for path in ["/", "/v1/cohorts", "/nothing", "/metrics"] {
        let response = instance.send(Request::get(path).body(Body::empty()).expect("valid")).await;
        let policy = response.headers()["content-security-policy"].to_str().expect("text").to_owned();
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{path}: {policy}");
        assert_eq!(response.headers()["x-content-type-options"], "nosniff", "{path}");
        assert_eq!(response.headers()["cache-control"], "no-store", "{path}");
    }
    assert_eq!(instance.get("/nothing").await.0, StatusCode::NOT_FOUND);
    assert_eq!(instance.ask(Method::POST, "/v1/cohorts").await.0, StatusCode::METHOD_NOT_ALLOWED);
    for path in ["/v1/flows?period=soon", "/v1/cohorts/history?period=-1d", "/v1/transitions?kind=left"] {
        assert_eq!(instance.get(path).await.0, StatusCode::BAD_REQUEST, "{path}");
    }
    let large =
        Request::delete("/v1/users/ann").header("content-length", "1000000").body(Body::empty()).expect("valid");
    assert_eq!(instance.send(large).await.status(), StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn flows_and_history_come_from_samples() {
    let instance = Instance::new(None).running(2).with_user(0, "ann", 1);
    let mut counts = Counts::default();
    counts.transition(Some(State::Lapsed), Some(State::Active), Reason::Activity);
    counts.transition(Some(State::Churned), None, Reason::Retention);
    instance.metrics.counted(&counts);
    instance.api.sample();
    let (_, flows) = instance.get("/v1/flows?period=1h").await;
    let expected = json!([{"from": "lapsed", "to": "active", "users": 1}, {"from": "churned", "to": null, "users": 1}]);
    assert_eq!(flows["flows"], expected);
    assert_eq!(flows["complete"], false, "the process has not run for an hour");
    let (_, history) = instance.get("/v1/cohorts/history").await;
    let point = &history["points"][0];
    assert_eq!((&point["active"], &point["lapsed"], &point["at"]), (&json!(1), &json!(0), &json!(NOW.to_string())));
}

#[tokio::test]
async fn shards_tell_owner_lag_watermark_and_guard() {
    let instance = Instance::new(None).running(3).with_user(1, "ann", 1);
    instance.status.update(1, 0, |shard| shard.guard_holds = true);
    let (_, body) = instance.get("/v1/shards").await;
    assert_eq!((&body["instance_id"], &body["of"]), (&json!("one"), &json!(3)));
    let shard = &body["shards"][1];
    assert_eq!((&shard["partition"], &shard["lag"], &shard["guard_holds"]), (&json!(1), &json!(10), &json!(true)));
    assert_eq!((&shard["phase"], &shard["users"]), (&json!("running"), &json!(1)));
    assert_eq!(shard["watermark_lag_seconds"], 10.0);
}

fn transition(user: &str, to: &str) -> String {
    json!({"id": format!("{user}:1"), "user_id": user, "from": null, "to": to, "kind": "worsened", "reason": "inactive"})
        .to_string()
}

/// The next event that is no comment.
async fn next_event(stream: &mut BodyDataStream) -> String {
    let read = async {
        loop {
            let chunk = stream.next().await.expect("the stream goes on").expect("no failure");
            let chunk = String::from_utf8(chunk.to_vec()).expect("text");
            if !chunk.starts_with(':') {
                return chunk;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), read).await.expect("an event within ten seconds")
}

#[tokio::test]
async fn a_stream_shows_what_fits_its_filter_and_ends_with_the_server() {
    let instance = Instance::new(None).running(2);
    let observer = tokio::spawn(Arc::clone(&instance.api).observe());
    let response =
        instance.send(Request::get("/v1/transitions?state=lapsed&user=ann").body(Body::empty()).expect("valid"));
    let response = response.await;
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut stream = response.into_body().into_data_stream();
    for (user, to) in [("bob", "lapsed"), ("ann", "at_risk"), ("ann", "lapsed")] {
        let (key, value) = (Some(user.into()), Some(transition(user, to).into()));
        instance.feed.show([Output { topic: Topic::Transitions, key, value, headers: Headers::default() }].into_iter());
    }
    assert_eq!(next_event(&mut stream).await, format!("event: transition\ndata: {}\n\n", transition("ann", "lapsed")));
    assert_eq!(instance.api.live.of_user("ann").len(), 2);
    let response = instance.send(Request::get("/metrics").body(Body::empty()).expect("valid")).await;
    assert!(text(response).await.contains("ebbtide_http_streams 1\n"));
    instance.stop.cancel();
    while let Some(chunk) = stream.next().await {
        chunk.expect("the stream ends in order");
    }
    observer.await.expect("no panic");
}

#[tokio::test]
async fn a_bound_port_serves_and_closes_with_the_stop() {
    let instance = Instance::new(None).running(2);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let stop = instance.stop.clone();
    let server = tokio::spawn(crate::http::serve::listen(listener, Arc::clone(&instance.api), stop.clone()));
    let client = reqwest::Client::new();
    let page = client.get(format!("http://{address}/")).send().await.expect("an answer");
    assert!(page.text().await.expect("text").contains("<title>Ebbtide</title>"));
    let mut stream = client.get(format!("http://{address}/v1/transitions")).send().await.expect("a stream");
    stop.cancel();
    while stream.chunk().await.expect("ends in order").is_some() {}
    tokio::time::timeout(Duration::from_secs(5), server).await.expect("closes in time").expect("no panic");
    assert!(client.get(format!("http://{address}/healthz")).send().await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn a_page_that_points_its_own_name_here_reads_nothing() {
    let instance = Instance::new(None).running(2);
    for (host, status) in [("evil.example:8080", StatusCode::MISDIRECTED_REQUEST), ("localhost:8080", StatusCode::OK)] {
        for path in ["/", "/v1/cohorts", "/healthz"] {
            let request = Request::get(path).header("host", host).body(Body::empty()).expect("valid");
            let response = instance.send(request).await;
            assert_eq!(response.status(), status, "{host} {path}");
            assert_eq!(response.headers()["x-content-type-options"], "nosniff", "{host} {path}");
        }
    }
}

#[test]
fn the_description_names_every_route() {
    let document = serde_json::to_value(crate::http::openapi::document()).expect("JSON");
    let paths: Vec<&str> = document["paths"].as_object().expect("paths").keys().map(String::as_str).collect();
    for path in [
        "/healthz",
        "/metrics",
        "/readyz",
        "/v1/cohorts",
        "/v1/cohorts/shards",
        "/v1/cohorts/history",
        "/v1/counts/shards",
        "/v1/flows",
        "/v1/retention",
        "/v1/retention/{name}",
        "/v1/segments",
        "/v1/segments/{name}/users.{format}",
        "/v1/signals",
        "/v1/states/{state}/users.{format}",
        "/v1/win-back",
        "/v1/shards",
        "/v1/transitions",
        "/v1/users/{id}",
    ] {
        assert!(paths.contains(&path), "{path} of {paths:?}");
    }
    assert!(document["paths"]["/v1/users/{id}"]["delete"].is_object());
    assert_eq!(document["paths"]["/healthz"]["get"]["security"], json!([{}]), "health is open");
    assert_eq!(document["security"], json!([{"token": []}]));
}

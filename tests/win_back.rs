//! Win-back on a real broker: who returns by a campaign leaves the segment and is attributed in the transaction of the
//! return, within moments, and killed at random moments it is never one without the others (SPEC-WINBACK sections 9
//! and 10).

#![expect(clippy::print_stderr, reason = "a latency is for the person who runs the test")]

mod support;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ebbtide::time::DAY_MS;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::Message as _;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde_json::{Value, json};
use support::instance::Deployment;
use support::kafka::{Broker, Message, PATIENCE};
use support::schema::Schemas;
use support::seed;

const PARTITIONS: i32 = 4;
/// 2024-01-01.
const BEGIN_MS: i64 = 1_704_067_200_000;

/// Only events move time.
const SETTINGS: &str = r#"
[events]
win_back = [{ event = "Session Started", where = { source = "winback" } }]
campaign_property = "utm_campaign"

[[segments]]
name = "churned"
state = ["churned"]

[time]
lateness = "0s"
idle_after = "24h"
"#;

/// All that a `read_committed` consumer of the three topics has seen, by topic.
struct Watcher {
    consumer: BaseConsumer,
    prefix: String,
    seen: BTreeMap<String, Vec<Value>>,
}

impl Watcher {
    fn new(broker: &Broker, deployment: &Deployment) -> Self {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", broker.address())
            .set("group.id", "watcher-without-a-group")
            .set("enable.auto.commit", "false")
            .set("isolation.level", "read_committed")
            .set("fetch.wait.max.ms", "10")
            .create()
            .expect("a consumer");
        let mut assignment = TopicPartitionList::new();
        for topic in topics(deployment) {
            for partition in 0..PARTITIONS {
                assignment.add_partition_offset(&topic, partition, Offset::Beginning).expect("a valid offset");
            }
        }
        consumer.assign(&assignment).expect("an assignment");
        Self { consumer, prefix: format!("{}.", deployment.name), seen: BTreeMap::new() }
    }

    /// Reads until `enough` says so.
    fn watch(&mut self, what: &str, mut enough: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !enough(self) {
            assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain for {what}");
            let Some(Ok(message)) = self.consumer.poll(Duration::from_millis(5)) else { continue };
            let topic = message.topic().trim_start_matches(&self.prefix).to_owned();
            let value = serde_json::from_slice(message.payload().expect("a value")).expect("JSON");
            self.seen.entry(topic).or_default().push(value);
        }
    }

    fn of(&self, topic: &str) -> impl Iterator<Item = &Value> {
        self.seen.get(topic).into_iter().flatten()
    }

    fn count(&self, topic: &str, wanted: &[(&str, &str)]) -> usize {
        self.of(topic).filter(|record| wanted.iter().all(|(field, value)| record[*field] == *value)).count()
    }
}

fn topics(deployment: &Deployment) -> [String; 3] {
    [deployment.transitions(), deployment.segments(), deployment.outcomes()]
}

fn deployment(broker: &Broker, name: &str) -> Deployment {
    let deployment = Deployment::new(broker, name, SETTINGS);
    broker.create_topic(&deployment.events(), PARTITIONS, &[]);
    for topic in topics(&deployment) {
        broker.create_topic(&topic, PARTITIONS, &[]);
    }
    deployment
}

fn event(user: usize, day: i64, name: &str, properties: &Value) -> Message {
    let user_id = format!("user-{user}");
    let partition = i32::try_from(user).expect("few users") % PARTITIONS;
    of(partition, &user_id, day, name, properties)
}

fn of(partition: i32, user_id: &str, day: i64, name: &str, properties: &Value) -> Message {
    let time = BEGIN_MS + day * DAY_MS;
    let value = json!({ "user_id": user_id, "event": name, "time": time, "properties": properties });
    Message {
        partition: Some(partition),
        key: Some(user_id.as_bytes().to_vec()),
        value: Some(serde_json::to_vec(&value).expect("JSON")),
        ..Message::default()
    }
}

/// A session that the campaign `spring` brought.
fn session(user: usize, day: i64) -> Message {
    event(user, day, "Session Started", &json!({ "source": "winback", "utm_campaign": "spring" }))
}

/// Everybody acts once, and then somebody else 100 days later in each partition: time passes, and everybody churns.
fn churn(broker: &Broker, deployment: &Deployment, users: usize) {
    broker.produce(&deployment.events(), (0..users).map(|user| event(user, 0, "Task Completed", &json!({}))));
    let clocks = (0..PARTITIONS).map(|partition| of(partition, &format!("clock-{partition}"), 100, "Tick", &json!({})));
    broker.produce(&deployment.events(), clocks);
}

#[test]
fn a_return_its_exit_and_its_attribution_come_together_and_at_once() {
    const USERS: usize = 24;
    let broker = Broker::shared();
    let deployment = deployment(broker, "at-once");
    let mut instance = deployment.instance("one");
    instance.start();
    let mut watcher = Watcher::new(broker, &deployment);
    churn(broker, &deployment, USERS);
    watcher.watch("everybody to churn", |seen| seen.count("segments", &[("action", "entered")]) == USERS);

    let sender = broker.sender();
    let mut latencies = Vec::new();
    for user in 0..USERS {
        let sent = Instant::now();
        sender.send(&deployment.events(), &session(user, 101));
        sender.flush();
        let id = format!("user-{user}");
        watcher.watch("the return", |seen| {
            seen.count("transitions", &[("user_id", &id), ("kind", "reactivated")]) == 1
                && seen.count("segments", &[("user_id", &id), ("action", "exited")]) == 1
                && seen.count("outcomes", &[("user_id", &id)]) == 1
        });
        latencies.push(sent.elapsed());
    }
    latencies.sort_unstable();
    let (median, worst) = (latencies[USERS / 2], latencies[USERS - 1]);
    eprintln!(
        "from the event sent to return, exit and attribution read: median {median:?}, worst {worst:?}; aim 250 ms"
    );

    let schemas = Schemas::load();
    watcher.of("transitions").for_each(|record| schemas.assert_transition(record));
    watcher.of("segments").for_each(|record| schemas.assert_segment(record));
    watcher.of("outcomes").for_each(|record| schemas.assert_outcome(record));
    for outcome in watcher.of("outcomes") {
        assert_eq!((&outcome["campaign"], &outcome["away_from"]), (&json!("spring"), &json!("churned")), "{outcome}");
    }
    let report: Value = serde_json::from_str(&instance.page("/v1/segments")).expect("JSON");
    assert_eq!(report["segments"][0]["users"], 0, "{report}");
    let report: Value = serde_json::from_str(&instance.page("/v1/win-back")).expect("JSON");
    assert_eq!(report["campaigns"], json!([{ "campaign": "spring", "attributed": USERS }]), "{report}");
    assert_eq!(instance.metric("ebbtide_attributed_returns_total").map(f64::round), Some(24.0));
    instance.stop();
}

#[test]
fn killed_at_random_moments_there_is_never_one_without_the_others() {
    const USERS: usize = 600;
    const KILLS: usize = 6;
    let broker = Broker::shared();
    let deployment = deployment(broker, "never-one");
    let mut instance = deployment.instance("one");
    instance.start();
    let mut watcher = Watcher::new(broker, &deployment);
    churn(broker, &deployment, USERS);
    watcher.watch("everybody to churn", |seen| seen.count("segments", &[("action", "entered")]) == USERS);

    let mut rng = ChaCha8Rng::seed_from_u64(seed("win-back kills"));
    let sender = broker.sender();
    for (round, users) in (0..USERS).collect::<Vec<_>>().chunks(USERS / KILLS).enumerate() {
        for user in users {
            sender.send(&deployment.events(), &session(*user, 101));
        }
        sender.flush();
        // The kill hits the work on these, or the start that takes it up again.
        let moment = Instant::now() + Duration::from_millis(rng.random_range(0..400));
        watcher.watch("a moment to pass", |_| Instant::now() >= moment);
        instance.kill();
        if round % 2 == 0 {
            instance.wipe();
        }
        instance.start();
    }
    watcher.watch("everybody's return", |seen| {
        seen.count("outcomes", &[]) >= USERS && seen.count("transitions", &[("kind", "reactivated")]) >= USERS
    });
    instance.page("/readyz");
    let report: Value = serde_json::from_str(&instance.page("/v1/win-back")).expect("JSON");
    instance.stop();
    // Anything that is too much has been written by now.
    let written: usize = topics(&deployment).iter().map(|topic| broker.read_all(topic).len()).sum();
    watcher.watch("everything", |seen| seen.seen.values().map(Vec::len).sum::<usize>() >= written);

    for user in 0..USERS {
        let id = format!("user-{user}");
        let returned: Vec<&Value> =
            watcher.of("transitions").filter(|r| r["user_id"] == *id && r["kind"] == "reactivated").collect();
        let [transition] = returned[..] else { panic!("{id}: {} returns", returned.len()) };
        let cause = transition["id"].as_str().expect("an id");
        let moves: Vec<(&Value, &Value)> =
            watcher.of("segments").filter(|r| r["user_id"] == *id).map(|r| (&r["action"], &r["seq"])).collect();
        assert_eq!(moves, [(&json!("entered"), &json!(1)), (&json!("exited"), &json!(2))], "{id}");
        assert_eq!(watcher.count("segments", &[("user_id", &id), ("action", "exited"), ("cause", cause)]), 1, "{id}");
        assert_eq!(watcher.count("outcomes", &[("user_id", &id), ("transition", cause)]), 1, "{id}");
    }
    assert_eq!(watcher.of("outcomes").count(), USERS);
    assert_eq!(report["campaigns"], json!([{ "campaign": "spring", "attributed": USERS }]), "{report}");
    assert_eq!(report["total"]["returned"], USERS, "{report}");
}

//! Several instances as one: any of them answers for the whole group (issue 5, "Interactive queries").

#![allow(clippy::print_stderr, reason = "figures of a takeover are for the person who runs it")]

mod support;

use serde_json::Value;
use support::flow::Flow;
use support::instance::{Deployment, Instance};
use support::kafka::{Broker, eventually};
use support::scene::{EVENT_TIME_ALONE, event_time_rules};

const PARTITIONS: i32 = 4;

fn json(instance: &Instance, path: &str) -> Option<(u16, Value)> {
    let (status, body) = instance.get(path)?;
    Some((status, serde_json::from_str(&body).ok()?))
}

/// What `/v1/cohorts` says once it covers every shard.
fn whole(instance: &mut Instance) -> Value {
    let mut cohorts = Value::Null;
    eventually("an answer for the whole group", || {
        instance.assert_alive();
        cohorts = json(instance, "/v1/cohorts").map_or(Value::Null, |(_, cohorts)| cohorts);
        cohorts["partial"] == false
    });
    cohorts
}

#[test]
fn any_instance_answers_for_all_users_and_says_when_it_cannot() {
    let broker = Broker::shared();
    let deployment = Deployment::new(broker, "asked", EVENT_TIME_ALONE);
    broker.create_topic(&deployment.events(), PARTITIONS, &[]);
    let (mut one, mut two) = (deployment.instance("one"), deployment.instance("two"));
    one.start();
    two.start();
    broker.wait_for_members(&deployment.name, 4);
    let mut flow = Flow::new(broker, &deployment.events(), PARTITIONS, 200, 5);
    flow.send(4_000);
    flow.flush();
    let expected = flow.sent.expected(&ebbtide::lifecycle::Policy::default(), &event_time_rules());
    let mut reader = broker.reader(&deployment.transitions());
    reader.read_until("all transitions", |messages| messages.len() >= expected.transitions.len());

    // Both count everybody, though each holds a part.
    for instance in [&mut one, &mut two] {
        eventually("all users to be counted", || whole(instance)["users"] == expected.states.len());
        let shards = &whole(instance)["shards"];
        assert!(shards["here"] != PARTITIONS && shards["counted"] == PARTITIONS, "{shards}");
    }
    // Both tell everybody, and from the same shard.
    let mut partitions = std::collections::BTreeSet::new();
    for user in expected.states.keys().take(40) {
        let path = format!("/v1/users/{user}");
        let (first, second) = (json(&one, &path).expect("an answer"), json(&two, &path).expect("an answer"));
        assert_eq!((first.0, second.0), (200, 200), "{user}: {} {}", first.1, second.1);
        for field in ["user_id", "partition", "state", "since", "seq", "total_events"] {
            assert_eq!(first.1[field], second.1[field], "{user}, {field}");
        }
        assert_eq!(first.1["state"], expected.states[user]["state"], "{user}");
        partitions.insert(first.1["partition"].as_i64());
    }
    assert_eq!(partitions.len(), 4, "users of every shard were asked for");
    assert_eq!(json(&one, "/v1/users/nobody").expect("an answer").0, 404);

    // Either takes a request to delete.
    let user = expected.states.keys().next().expect("a user");
    assert_eq!(one.ask("DELETE", &format!("/v1/users/{user}")).expect("an answer").0, 202);
    eventually("the user to be gone", || {
        json(&two, &format!("/v1/users/{user}")).is_some_and(|(status, _)| status == 404)
    });

    // One is stopped dead: the other says what is missing, until it has taken over.
    two.kill();
    let mut missing = Vec::new();
    eventually("an answer that says it is partial", || {
        let (_, cohorts) = json(&one, "/v1/cohorts").expect("an answer");
        missing = cohorts["missing"].as_array().expect("a list").clone();
        cohorts["partial"] == true && !cohorts["failures"].as_array().expect("a list").is_empty()
    });
    let (status, nobody) = json(&one, "/v1/users/nobody").expect("an answer");
    assert_eq!((status, &nobody["type"]), (503, &Value::from("/problems/partial")), "{nobody}");
    assert!(!missing.is_empty() && missing.len() < 4, "{missing:?}");
    assert_eq!(whole(&mut one)["users"], expected.states.len() - 1);
    one.stop();
}

/// When a line of the log that holds all of `words` was written, in milliseconds.
fn logged_at(log: &str, words: &[&str]) -> Option<i64> {
    let line = log.lines().rfind(|line| words.iter().all(|word| line.contains(word)))?;
    let at = line.split_whitespace().next()?;
    Some(chrono::DateTime::parse_from_rfc3339(at).ok()?.timestamp_millis())
}

#[test]
fn a_standby_takes_over_with_the_tail_only() {
    let broker = Broker::shared();
    let settings = format!("{EVENT_TIME_ALONE}\n[log]\nlevel = \"info,librdkafka=off\"\n");
    let deployment = Deployment::new(broker, "standby", &settings);
    broker.create_topic(&deployment.events(), PARTITIONS, &[]);
    let (mut one, mut two) = (deployment.instance("one"), deployment.instance("two"));
    let standbys = [("EBBTIDE_STANDBYS", "1")];
    one.start_with(&[], &standbys);
    two.start_with(&[], &standbys);
    broker.wait_for_members(&deployment.name, 4);
    let mut flow = Flow::new(broker, &deployment.events(), PARTITIONS, 20_000, 5);
    flow.send(40_000);
    flow.flush();
    let policy = ebbtide::lifecycle::Policy::default();
    let mut reader = broker.reader(&deployment.transitions());
    let expected = flow.sent.expected(&policy, &event_time_rules());
    reader.read_until("all transitions", |messages| messages.len() >= expected.transitions.len());
    // Each follows what the other owns.
    let theirs: f64 = 4.0 - one.metric("ebbtide_shards").expect("a figure");
    eventually("the standby to be near the end", || {
        one.assert_alive();
        let figure = |name| one.metric(name).unwrap_or(-1.0);
        (figure("ebbtide_standby_shards") - theirs).abs() < 0.5
            && (0.0..100.0).contains(&figure("ebbtide_standby_lag_records"))
    });

    two.kill();
    broker.wait_for_members(&deployment.name, 2);
    flow.send(1_000);
    flow.flush();
    let expected = flow.sent.expected(&policy, &event_time_rules());
    reader.read_until("all transitions after the takeover", |messages| {
        one.assert_alive();
        messages.len() >= expected.transitions.len()
    });
    reader.read_to(&broker.ends(&deployment.transitions()));
    expected.assert_transitions("a reader", &reader.messages);

    let log = one.log_since_start();
    let mut pause = 0;
    let mut taken = 0;
    for partition in 0..PARTITIONS {
        let this = format!("partition={partition} ");
        let Some(left) = logged_at(&log, &["no longer standing by", &this]) else { continue };
        taken += 1;
        let assigned = log.lines().filter(|line| line.contains("the group assigned"));
        let assigned =
            assigned.filter_map(|line| logged_at(line, &[])).filter(|at| *at <= left).max().expect("assigned");
        let running = logged_at(&log, &[": running", &this]).expect("running");
        pause = pause.max(running - assigned);
        let tail = log.lines().rfind(|line| line.contains(": restoring") && line.contains(&this));
        let tail: i64 = tail.and_then(|line| line.rsplit("offsets=").next()?.trim().parse().ok()).unwrap_or(0);
        assert!(tail < 200, "shard {partition} replayed {tail} records of its changelog");
        eprintln!(
            "shard {partition}: {tail} changelog offsets replayed, {} ms from assigned to running",
            running - assigned
        );
    }
    assert!(taken > 0, "nothing was taken over from a standby");
    eprintln!("longest pause without the session time-out: {pause} ms");
    assert!(pause < 5_000, "{pause} ms");
    one.stop();
}

//! `ebbtide check` against a real broker: what is good is said, what is wrong is said with where and what to do, and
//! nothing is changed.

mod support;

use std::process::Command;

use ebbtide::config::{Config, TopicsConfig};
use ebbtide::kafka::topics;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::{Offset, TopicPartitionList};
use support::instance::PROGRAM;
use support::kafka::{Broker, temporary_folder};

/// Exit code and standard output of `ebbtide check`, with topics and group of this name.
fn check(broker: &Broker, name: &str) -> (Option<i32>, String) {
    let folder = temporary_folder(name);
    let file = folder.join("ebbtide.toml");
    let topics = ["events", "transitions", "states", "segments", "outcomes", "dead-letters", "changelog"]
        .map(|topic| format!("{} = \"{name}.{topic}\"\n", topic.replace('-', "_")));
    let text =
        format!("kafka.brokers = \"{}\"\nkafka.group_id = \"{name}\"\n[topics]\n{}", broker.address(), topics.concat());
    std::fs::write(&file, text).expect("a configuration file");
    let output = Command::new(PROGRAM.expect("cargo builds the program along with the tests"))
        .args(["check", "--config"])
        .arg(&file)
        .output()
        .expect("the program runs");
    std::fs::remove_dir_all(folder).ok();
    (output.status.code(), String::from_utf8(output.stdout).expect("text"))
}

#[test]
fn topics_that_ebbtide_makes_are_good_in_its_own_eyes_and_are_made_only_when_asked() {
    let broker = Broker::shared();
    let name = "check-good";
    let (code, text) = check(broker, name);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("WRONG: topics.events: the input topic check-good.events does not exist"), "{text}");

    broker.create_topic("check-good.events", 3, &[]);
    let (code, text) = check(broker, name);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("check-good.changelog: missing, will be created"), "{text}");
    assert_eq!(broker.partitions("check-good.changelog"), None, "looking changes nothing");

    let mut config = Config::with_brokers(broker.address());
    config.topics = TopicsConfig::under(name);
    let made = topics::ensure(&config).expect("they are made");
    assert_eq!((made.input_partitions, made.created.len()), (3, 6), "{made:?}");
    assert_eq!(topics::ensure(&config).expect("they are there").created, Vec::<String>::new());

    let (code, text) = check(broker, name);
    assert_eq!(code, Some(0), "{text}");
    assert!(!text.contains("WRONG") && !text.contains("LOOK AT"), "{text}");
    for line in [
        "cluster: 1 broker answers",
        "topic check-good.changelog: 3 partitions, 1 replica, compact",
        "topic check-good.transitions: 3 partitions, 1 replica, delete",
        "group check-good: 0 offsets of check-good.events to read",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}

#[test]
fn everything_wrong_is_told_at_once() {
    let broker = Broker::shared();
    let name = "check-wrong";
    broker.create_topic("check-wrong.events", 2, &[("cleanup.policy", "compact")]);
    broker.create_topic("check-wrong.transitions", 2, &[("cleanup.policy", "compact")]);
    broker.create_topic("check-wrong.states", 2, &[("cleanup.policy", "delete"), ("min.insync.replicas", "2")]);
    broker.create_topic("check-wrong.dead-letters", 1, &[("max.message.bytes", "1000")]);
    broker.create_topic(
        "check-wrong.changelog",
        3,
        &[("cleanup.policy", "compact,delete"), ("delete.retention.ms", "3600000")],
    );
    let group: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", broker.address())
        .set("group.id", name)
        .create()
        .expect("a consumer");
    let mut moved = TopicPartitionList::new();
    moved.add_partition_offset("check-wrong.events", 1, Offset::Offset(99)).expect("an offset");
    group.commit(&moved, CommitMode::Sync).expect("committed");

    let (code, text) = check(broker, name);
    assert_eq!(code, Some(1), "{text}");
    for line in [
        "LOOK AT: topics.events: check-wrong.events has cleanup.policy=compact",
        "LOOK AT: topics.dead_letters: check-wrong.dead-letters takes records of 1000 bytes",
        "WRONG: topics.transitions: check-wrong.transitions has cleanup.policy=compact",
        "WRONG: topics.states: check-wrong.states has cleanup.policy=delete",
        "WRONG: topics.states: check-wrong.states has 1 replicas and min.insync.replicas=2",
        "WRONG: topics.changelog: check-wrong.changelog has 3 partitions, and the input topic has 2",
        "WRONG: topics.changelog: check-wrong.changelog has cleanup.policy=compact,delete",
        "WRONG: topics.changelog: check-wrong.changelog has delete.retention.ms=3600000",
        "WRONG: kafka.group_id: check-wrong has read check-wrong.events/1 up to 99, and it ends at 0",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}

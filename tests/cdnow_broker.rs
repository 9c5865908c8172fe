//! The recorded customers of a shop through a real broker (issue 2, "What it must show", 1): with 1 and with 12
//! partitions, the transitions are the recorded ones.

mod support;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;

use flate2::read::GzDecoder;
use serde_json::{Value, json};
use support::flow::Sent;
use support::instance::Deployment;
use support::kafka::{Broker, Message};
use support::schema::Schemas;

/// Whole days and no late events: the clock may be as exact as it likes.
const SETTINGS: &str = r#"
[events]
ignore = ["End of the record"]

[time]
lateness = "0s"
idle_after = "24h"
"#;
/// Where the recorded transitions end: 1998-07-01T00:00:00Z.
const UNTIL_MS: i64 = 899_251_200_000;
const TRANSITIONS: usize = 18_665;

fn lines(name: &str) -> impl Iterator<Item = String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name);
    let file = File::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    BufReader::new(GzDecoder::new(file)).lines().map(|line| line.expect("text"))
}

/// A transition as a line of the recorded file.
fn line(record: &Value) -> String {
    let fields = ["user_id", "seq", "from", "to", "kind", "reason", "effective_at", "last_active_at", "total_events"]
        .map(|name| match &record[name] {
            Value::Null => String::new(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        });
    fields.join("\t")
}

fn through_a_broker(partitions: i32) {
    let broker = Broker::shared();
    let deployment = Deployment::new(broker, &format!("cdnow-{partitions}"), SETTINGS);
    broker.create_topic(&deployment.events(), partitions, &[]);
    let mut instance = deployment.instance("one");
    instance.start();

    let sender = broker.sender();
    let sent = Sent::new(partitions);
    let message = |partition: usize, key: &str, value: &str| Message {
        partition: Some(i32::try_from(partition).expect("few")),
        key: Some(key.as_bytes().to_vec()),
        value: Some(value.as_bytes().to_vec()),
        ..Message::default()
    };
    for event in lines("cdnow-sample.jsonl.gz") {
        let parsed: Value = serde_json::from_str(&event).expect("JSON");
        let user = parsed["user_id"].as_str().expect("a user");
        sender.send(&deployment.events(), &message(sent.partition_of(user), user, &event));
    }
    // Each partition learns that time went on to the end of the record.
    for partition in 0..sent.partitions.len() {
        let end = json!({ "user_id": "clock", "event": "End of the record", "time": UNTIL_MS }).to_string();
        sender.send(&deployment.events(), &message(partition, "clock", &end));
    }
    sender.flush();

    let mut reader = broker.reader(&deployment.transitions());
    reader.read_until("all transitions", |messages| {
        instance.assert_alive();
        messages.len() >= TRANSITIONS
    });
    instance.stop();
    reader.read_to(&broker.ends(&deployment.transitions()));

    let schemas = Schemas::load();
    let found: Vec<String> = reader
        .messages
        .iter()
        .map(|message| {
            let record = serde_json::from_slice(message.value.as_deref().expect("a value")).expect("JSON");
            schemas.assert_transition(&record);
            line(&record)
        })
        .collect();
    assert_eq!(found.len(), TRANSITIONS);
    let recorded: BTreeSet<String> = lines("cdnow-sample.transitions.tsv.gz").skip(1).collect();
    let found: BTreeSet<String> = found.into_iter().collect();
    assert_eq!(found.difference(&recorded).next(), None, "found, and not recorded");
    assert_eq!(recorded.difference(&found).next(), None, "recorded, and not found");
}

#[test]
fn recorded_customers_through_one_partition() {
    through_a_broker(1);
}

#[test]
fn recorded_customers_through_twelve_partitions() {
    through_a_broker(12);
}

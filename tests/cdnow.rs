//! The promise of issue 2, figure 1: 2,357 real customers of an online shop give exactly the known 18,665 transitions,
//! whatever the number of partitions.

use std::io::{BufReader, Read as _};
use std::path::Path;

use ebbtide::config::Config;
use ebbtide::replay::{Plan, Summary, replay};
use ebbtide::shard::Topic;
use ebbtide::time::EventTime;
use serde_json::Value;

/// 1998-07-01T00:00:00Z.
const UNTIL: EventTime = EventTime::from_millis(899_251_200_000);

fn data(name: &str) -> impl std::io::Read {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name);
    flate2::read::GzDecoder::new(std::fs::File::open(path).expect("the data is in the repository"))
}

fn replayed(partitions: u16) -> (Summary, Vec<Value>) {
    let config = Config::with_brokers("");
    let plan = Plan {
        events: config.events,
        policy: config.policy,
        segments: config.segments,
        win_back: config.win_back,
        retention: config.retention,
        signals: config.signals,
        time: config.time,
        until: UNTIL,
        partitions,
    };
    let mut records = Vec::new();
    let summary = replay(BufReader::new(data("cdnow-sample.jsonl.gz")), plan, |topic, json| {
        assert_eq!(topic, Topic::Transitions, "without segments there is nothing else");
        records.push(serde_json::from_slice(json).expect("a transition is JSON"));
        Ok(())
    });
    (summary.expect("the sample can be replayed"), records)
}

fn rows(records: &[Value]) -> Vec<String> {
    const COLUMNS: [&str; 9] =
        ["user_id", "seq", "from", "to", "kind", "reason", "effective_at", "last_active_at", "total_events"];
    let cell = |value: &Value| match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let mut rows: Vec<String> = records.iter().map(|row| COLUMNS.map(|name| cell(&row[name])).join("\t")).collect();
    rows.sort();
    rows
}

#[test]
fn the_sample_gives_exactly_the_known_transitions() {
    let mut text = String::new();
    data("cdnow-sample.transitions.tsv.gz").read_to_string(&mut text).expect("the data is text");
    let mut known: Vec<String> = text.lines().skip(1).map(str::to_owned).collect();
    known.sort();
    assert_eq!(known.len(), 18_665);
    let (summary, records) = replayed(1);
    assert_eq!((summary.records, summary.transitions(), summary.cohorts.total()), (6_919, 18_665, 2_357));
    assert_eq!(rows(&records), known);
}

#[test]
fn twelve_partitions_give_the_same_records_as_one() {
    let sorted = |partitions| {
        // All but `detected_at`: the moment at which it was noticed follows the partition's own clock.
        let undated = |mut record: Value| {
            record.as_object_mut().and_then(|fields| fields.remove("detected_at")).expect("every record has it");
            record.to_string()
        };
        let mut lines: Vec<String> = replayed(partitions).1.into_iter().map(undated).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(1), sorted(12));
}

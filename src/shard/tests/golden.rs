//! The recorded customers of an online shop (issue 2, "what it must show", 1), through whole shards.

use std::collections::BTreeSet;
use std::io::Read as _;

use flate2::read::GzDecoder;

use super::*;

const EVENTS: &[u8] = include_bytes!("../../../tests/data/cdnow-sample.jsonl.gz");
const TRANSITIONS: &[u8] = include_bytes!("../../../tests/data/cdnow-sample.transitions.tsv.gz");
/// 1998-07-01T00:00:00Z.
const UNTIL: i64 = 10_408 * DAY_MS;

fn unzipped(bytes: &[u8]) -> String {
    let mut text = String::new();
    GzDecoder::new(bytes).read_to_string(&mut text).expect("the data is sound");
    text
}

/// As lines of the recorded table.
fn replayed(partitions: usize, batch: usize) -> BTreeSet<String> {
    let mut rules = Arc::into_inner(unguarded(Policy::default())).expect("one owner");
    rules.time.lateness = Span::ZERO;
    let rules = Arc::new(rules);
    let mut shards: Vec<Vec<Input>> = vec![Vec::new(); partitions];
    for line in unzipped(EVENTS).lines() {
        let event: Value = serde_json::from_str(line).expect("valid JSON");
        let user = text(&event, "user_id").to_owned();
        let place = user.bytes().fold(0_usize, |hash, byte| hash.wrapping_mul(31) + usize::from(byte)) % partitions;
        shards[place].push(Input { key: user, value: Some(line.to_owned()), now: UNTIL });
    }
    let mut lines = BTreeSet::new();
    for inputs in shards {
        let mut run = Run::new(&rules);
        for records in inputs.chunks(batch) {
            run.apply(records);
            let _ = run.advance(UNTIL, false, batch);
            run.commit();
        }
        run.advance_fully(UNTIL + 5_000, 500);
        run.commit();
        for json in run.transitions().iter().filter(|json| !json["to"].is_null()) {
            let column = |field: &str| json[field].as_str().map_or_else(|| json[field].to_string(), str::to_owned);
            let from = text(json, "from").to_owned();
            let after = ["to", "kind", "reason", "effective_at", "last_active_at", "total_events"].map(column);
            lines.insert([&[column("user_id"), column("seq"), from][..], &after].concat().join("\t"));
        }
    }
    lines
}

#[test]
fn the_recorded_customers_give_the_recorded_transitions() {
    let table = unzipped(TRANSITIONS);
    let expected: BTreeSet<String> = table.lines().skip(1).map(str::to_owned).collect();
    assert_eq!(expected.len(), 18_665);
    for (partitions, batch) in [(1, 1_000), (12, 37)] {
        let found = replayed(partitions, batch);
        let wrong: Vec<&String> = found.symmetric_difference(&expected).take(5).collect();
        assert!(
            wrong.is_empty(),
            "{partitions} partitions: {} and {} lines, such as {wrong:#?}",
            found.len(),
            expected.len()
        );
    }
}

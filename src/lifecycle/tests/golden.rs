//! 2,357 customers of an online shop, 1997-98: every transition until 1998-07-01, compared with the recorded ones.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Read as _;

use super::activity;
use crate::lifecycle::{Change, Fate, Policy, Sink, State, User};
use crate::time::EventTime;

const EVENTS: &[u8] = include_bytes!("../../../tests/data/cdnow-sample.jsonl.gz");
const TRANSITIONS: &[u8] = include_bytes!("../../../tests/data/cdnow-sample.transitions.tsv.gz");

/// 1998-07-01T00:00:00Z.
const UNTIL: EventTime = EventTime::from_millis(899_251_200_000);

/// Writes the columns of the recorded file, by user.
#[derive(Default)]
struct Table(BTreeMap<String, String>);

impl Sink for Table {
    fn change(&mut self, user_id: &str, user: &User, change: &Change) {
        let life = user.life.as_ref().expect("every customer has bought");
        let rows = self.0.entry(user_id.to_owned()).or_default();
        writeln!(
            rows,
            "{user_id}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}",
            change.seq,
            change.from.map_or("", State::as_str),
            change.to.map_or("", State::as_str),
            change.kind.as_str(),
            change.reason.as_str(),
            change.effective_at,
            life.last_active,
            life.total_events
        )
        .expect("writing to a string does not fail");
    }
}

fn unpacked(bytes: &[u8]) -> String {
    let mut text = String::new();
    flate2::read::GzDecoder::new(bytes).read_to_string(&mut text).expect("the file is gzip of UTF-8");
    text
}

#[test]
fn the_recorded_customers_make_exactly_the_recorded_transitions() {
    let (policy, mut table, mut users) = (Policy::default(), Table::default(), BTreeMap::<String, User>::new());
    for line in unpacked(EVENTS).lines() {
        let json: serde_json::Value = serde_json::from_str(line).expect("a JSON object");
        let mut event = activity(EventTime::from_millis(json["time"].as_i64().expect("milliseconds")));
        event.user_id = json["user_id"].as_str().expect("a string").to_owned().into();
        event.id = Some(json["id"].as_str().expect("a string").to_owned().into());
        let user = users.entry(event.user_id.clone().into_owned()).or_default();
        user.record(&event, &policy, &mut table);
    }
    for (user_id, user) in &mut users {
        assert_eq!(user.advance(user_id, UNTIL, &policy, &mut table), Fate::Stays);
    }
    let expected = unpacked(TRANSITIONS);
    let (_, expected) = expected.split_once('\n').expect("a line of headings");
    let mut expected: Vec<&str> = expected.lines().collect();
    let mut found: Vec<&str> = table.0.values().flat_map(|rows| rows.lines()).collect();
    expected.sort_unstable();
    found.sort_unstable();
    assert_eq!(expected.len(), 18_665);
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(&expected) {
        assert_eq!(found, expected);
    }
}

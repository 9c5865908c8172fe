//! The promises of a shard, over the store in memory; `rocks` repeats the main one over RocksDB.

mod golden;
mod names;
mod promises;
mod recovery;
mod schemas;
mod win_back;

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::Value;

use crate::event::{Decoder, EventRules, Record};
use crate::lifecycle::Policy;
use crate::rules::{Origin, Rules};
use crate::shard::{ChangelogRecord, Cohorts, Effects, Output, Progress, Shard, ShardRecord, TimeRules, Topic};
use crate::store::memory::MemoryStore;
use crate::store::{Store, codec};
use crate::time::{DAY_MS, EventTime, Span, WallTime};
use crate::win_back::WinBackRules;

/// 2023-11-15T00:00:00Z, the first moment of a UTC day.
const START: i64 = 19_676 * DAY_MS;

fn rules(policy: Policy, track: &[&str]) -> Arc<Rules> {
    let track: Vec<String> = track.iter().map(|&name| name.to_owned()).collect();
    let events = EventRules { track: track.clone(), ..EventRules::default() };
    Arc::new(Rules {
        policy,
        decoder: Decoder::new(events).expect("the rules are sound"),
        time: TimeRules::default(),
        track,
        segments: Vec::new(),
        win_back: WinBackRules::default(),
        retention: Vec::new(),
        signals: false,
        origin: Origin::default(),
    })
}

fn wall(ms: i64) -> WallTime {
    WallTime::from_millis(ms)
}

/// One record of the input.
#[derive(Clone, Debug)]
struct Input {
    key: String,
    value: Option<String>,
    /// Wall time at which it is read.
    now: i64,
}

fn activity(user: &str, at: i64) -> Input {
    named(user, "opened", at, "")
}

/// `more` is further JSON fields, each with a comma before it.
fn named(user: &str, name: &str, at: i64, more: &str) -> Input {
    let value = format!(r#"{{"user_id":"{user}","event":"{name}","time":{at}{more}}}"#);
    Input { key: user.to_owned(), value: Some(value), now: at }
}

/// A shard, and all that has been committed of its output.
struct Run<S: Store> {
    shard: Shard<S>,
    offset: i64,
    effects: Effects,
    outputs: Vec<Output>,
    changelog: Vec<ChangelogRecord>,
    /// The index may hold more than what users armed: it was loaded in bulk.
    left_overs: bool,
}

impl Run<MemoryStore> {
    fn new(rules: &Arc<Rules>) -> Self {
        Self::over(MemoryStore::new(), rules)
    }
}

impl<S: Store> Run<S> {
    fn over(store: S, rules: &Arc<Rules>) -> Self {
        let shard = Shard::open(0, Arc::clone(rules), store, 1).expect("opens");
        Self {
            shard,
            offset: 0,
            effects: Effects::default(),
            outputs: Vec::new(),
            changelog: Vec::new(),
            left_overs: false,
        }
    }

    fn apply(&mut self, inputs: &[Input]) {
        let Some(last) = inputs.last() else { return };
        let records: Vec<Record<'_>> = (self.offset..)
            .zip(inputs)
            .map(|(offset, input)| Record {
                key: Some(input.key.as_bytes()),
                value: input.value.as_deref().map(str::as_bytes),
                headers: &[],
                offset,
            })
            .collect();
        self.shard.apply(&records, wall(last.now), &mut self.effects).expect("applies");
        self.offset += i64::try_from(records.len()).expect("few records");
    }

    fn advance(&mut self, now: i64, caught_up: bool, budget: usize) -> Progress {
        self.shard.advance(wall(now), caught_up, budget, &mut self.effects).expect("advances")
    }

    /// Lets the watermark come to `now`, as a partition that is read to its end does.
    fn advance_fully(&mut self, now: i64, budget: usize) {
        while self.advance(now, true, budget) == Progress::More {}
    }

    fn commit(&mut self) {
        let sealed = self.shard.seal().expect("seals");
        if sealed.is_empty() {
            assert!(self.effects.outputs.is_empty(), "nothing goes out without a commit");
            return;
        }
        self.changelog.extend(sealed.changelog.iter().cloned());
        let position = i64::try_from(self.changelog.len()).expect("few records");
        self.shard.committed(sealed, position).expect("commits");
        self.outputs.append(&mut self.effects.outputs);
        self.effects.clear();
        self.check_cohorts();
    }

    fn rollback(&mut self) {
        self.effects.clear();
        self.shard.rollback().expect("rolls back");
        self.offset = self.shard.position().unwrap_or(0);
    }

    /// The cohorts are those of the users, in memory and in the record, and the index is what the users armed.
    fn check_cohorts(&self) {
        let mut counted = Cohorts::default();
        let mut armed = Vec::new();
        let mut after: Option<Box<str>> = None;
        let record = self.shard.store().shard().expect("reads").0;
        let names = record.map(|record| ShardRecord::decode(&record).expect("decodes").names).unwrap_or_default();
        loop {
            let users = self.shard.store().scan(after.as_deref(), 100).expect("scans");
            let Some((last, _)) = users.last() else { break };
            after = Some(last.clone());
            for (user_id, bytes) in &users {
                let user = codec::decode_user(bytes, &names).expect("decodes").user;
                counted.enter(Cohorts::class_of(&user));
                armed.extend(user.armed.map(|at| (at, user_id.clone())));
            }
        }
        armed.sort();
        let index = self.shard.store().deadlines(None, EventTime::MAX, usize::MAX).expect("reads");
        let mut index: Vec<(EventTime, Box<str>)> = index.into_iter().map(|d| (d.at, d.user_id)).collect();
        if self.left_overs {
            index.retain(|deadline| armed.contains(deadline));
        }
        assert_eq!(index, armed, "the index is what the users armed");
        assert_eq!(*self.shard.cohorts(), counted, "the cohorts are a recount");
        let record = self.shard.store().shard().expect("reads").0.expect("there was a commit");
        assert_eq!(ShardRecord::decode(&record).expect("decodes").cohorts, counted);
    }

    fn transitions(&self) -> Vec<Value> {
        transitions(&self.outputs)
    }
}

/// The transitions without `detected_at`, the one field that is no function of the input.
fn transitions(outputs: &[Output]) -> Vec<Value> {
    of_topic(outputs, Topic::Transitions)
        .map(|output| {
            let mut json = parsed(output).expect("a transition has a value");
            json.as_object_mut().expect("an object").remove("detected_at").expect("it is there");
            json
        })
        .collect()
}

/// Per user, in order.
fn by_user(outputs: &[Output]) -> BTreeMap<String, Vec<Value>> {
    let mut users: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for json in transitions(outputs) {
        users.entry(text(&json, "user_id").to_owned()).or_default().push(json);
    }
    users
}

/// The compacted current states, without `updated_at`.
fn states(outputs: &[Output]) -> BTreeMap<Vec<u8>, Value> {
    let mut states = BTreeMap::new();
    for output in of_topic(outputs, Topic::States) {
        let key = output.key.clone().expect("a state has a key");
        match parsed(output) {
            None => states.remove(&key),
            Some(mut json) => {
                json.as_object_mut().expect("an object").remove("updated_at").expect("it is there");
                states.insert(key, json)
            }
        };
    }
    states
}

fn of_topic(outputs: &[Output], topic: Topic) -> impl Iterator<Item = &Output> {
    outputs.iter().filter(move |output| output.topic == topic)
}

fn parsed(output: &Output) -> Option<Value> {
    output.value.as_ref().map(|value| serde_json::from_slice(value).expect("valid JSON"))
}

fn text<'v>(json: &'v Value, field: &str) -> &'v str {
    json[field].as_str().unwrap_or_default()
}

/// Records of a few users over months: mostly in order, some late, some twice, some deletions, some rubbish.
fn inputs() -> impl Strategy<Value = Vec<Input>> {
    let step = (0..6_u8, 0..30_i64, 0..DAY_MS, 0..20_u8, 0..6_u8);
    proptest::collection::vec(step, 1..120).prop_map(|steps| {
        let mut clock = START;
        steps
            .into_iter()
            .map(|(user, days, of_day, kind, id)| {
                let user = format!("user-{user}");
                clock += days * days / 20 * DAY_MS + of_day;
                match kind {
                    0 => Input { key: user, value: None, now: clock },
                    1 => Input { key: user, value: Some("{\"user_id\":".to_owned()), now: clock },
                    2..=4 => Input { now: clock, ..activity(&user, clock - i64::from(id) * 9 * DAY_MS) },
                    5 => named(&user, "opened", clock, &format!(r#","id":"{id}""#)),
                    6 => named(&user, "opened", clock, &format!(r#","properties":{{"plan":"p{id}"}}"#)),
                    _ => activity(&user, clock),
                }
            })
            .collect()
    })
}

/// The moment after everything: a year after the last record.
fn end(inputs: &[Input]) -> i64 {
    inputs.iter().map(|input| input.now).max().unwrap_or(START) + 365 * DAY_MS
}

/// Without the silence guard, so that the end comes.
fn unguarded(policy: Policy) -> Arc<Rules> {
    let mut rules = Arc::into_inner(rules(policy, &["plan"])).expect("one owner");
    rules.time.silence_guard = None;
    Arc::new(rules)
}

fn forgetting() -> Policy {
    Policy { forget_after: Some(Span::from_days(200)), ..Policy::default() }
}

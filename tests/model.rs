//! Ebbtide against the naive model of SPEC (issue 2, "What it must show", 2): random policies, late events, duplicates,
//! deletions, forgetting, policy changes, silence, over the rules alone and over whole shards with random batching,
//! roll-backs, interruptions and restores.
//!
//! A failure names its seed; `EBBTIDE_SEED=n cargo test --test model` runs that case alone, `EBBTIDE_CASES=n` more or
//! fewer of them.

mod support;

use std::collections::BTreeMap;

use ebbtide::event::{Decoded, Record};
use ebbtide::lifecycle::user::{Fate, Outcome};
use ebbtide::lifecycle::{Change, Sink, State, User};
use ebbtide::rules::Rules;
use ebbtide::time::{EventTime, WallTime};
use serde_json::{Value, json};
use support::cases::{Case, Shape, Step, native};
use support::compare::{by_user, difference, same};
use support::measured::Counted;
use support::model::{Input, Model};
use support::rig::{Outcome as Ran, Rig, across_partitions};
use support::schema::Schemas;

const CASES: u64 = 10_000;

/// Runs a check over many seeds, each with its own random case.
fn for_each_case(shape: Shape, check: impl Fn(u64, &Case)) {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse().expect("a number"));
    if let Some(seed) = number("EBBTIDE_SEED") {
        check(seed, &Case::new(seed, shape));
        return;
    }
    for seed in 0..number("EBBTIDE_CASES").unwrap_or(CASES) {
        check(seed, &Case::new(seed, shape));
    }
}

/// What the model makes of a case, and what it counts after each step that lets time pass, and at the end.
fn model_of(case: &Case) -> (Model, BTreeMap<usize, Counted>) {
    let mut model = Model::new(case.policy.clone(), case.time.clone()).measuring(case.measuring.clone());
    let (mut policy, mut segments) = (case.policy.clone(), case.measuring.segments.clone());
    let mut counted = BTreeMap::new();
    for (number, step) in case.steps.iter().enumerate() {
        match step {
            Step::Input(input, wall) => model.apply(input, *wall),
            Step::Pass(wall) => {
                model.pass(*wall);
                counted.insert(number + 1, model.counted());
            }
            Step::Policy(other) => {
                policy = other.clone();
                model.change_rules(policy.clone(), segments.clone());
            }
            Step::Segments(other) => {
                segments.clone_from(other);
                model.change_rules(policy.clone(), segments.clone());
            }
        }
    }
    model.catch_up();
    counted.insert(case.steps.len(), model.counted());
    (model, counted)
}

/// The rules of `lifecycle` alone, driven as a shard drives them but with no shard around them.
struct Core {
    rules: Rules,
    users: BTreeMap<String, User>,
    transitions: Vec<Value>,
    duplicates: u64,
}

/// Writes a transition down as its record says it.
struct Scribe<'a> {
    rules: &'a Rules,
    transitions: &'a mut Vec<Value>,
}

impl Sink for Scribe<'_> {
    fn change(&mut self, user_id: &str, user: &User, change: &Change) {
        let life = user.life.as_ref();
        let time = |time: Option<EventTime>| json!(time.map(|time| time.to_string()));
        let properties: BTreeMap<&str, Value> = user
            .properties
            .iter()
            .map(|(index, text)| {
                let value = serde_json::from_str(text).expect("a tracked value is JSON");
                (self.rules.track[usize::from(*index)].as_str(), value)
            })
            .collect();
        let mut record = json!({
            "id": format!("{user_id}:{}", change.seq),
            "seq": change.seq,
            "user_id": user_id,
            "from": change.from.map(State::as_str),
            "to": change.to.map(State::as_str),
            "kind": change.kind.as_str(),
            "reason": change.reason.as_str(),
            "effective_at": time(Some(change.effective_at)),
            "first_active_at": time(life.map(|life| life.first_active)),
            "last_active_at": time(life.map(|life| life.last_active)),
            "activated_at": time(life.and_then(|life| life.activated_at)),
            "idle_days": user.idle_days(change.effective_at),
            "total_events": life.map_or(0, |life| life.total_events),
            "core_actions": life.map_or(0, |life| life.core_actions),
            "last_events": life.iter().flat_map(|life| &life.last_events).map(|name| &**name).collect::<Vec<&str>>(),
            "properties": properties,
            "previous_since": time(change.previous_since),
        });
        if self.rules.policy.survival.is_some() {
            record["p_alive"] = json!(user.p_alive(change.effective_at, &self.rules.policy));
        }
        if let Some(away) = change.away() {
            record["away_from"] = json!(away.from.as_str());
            record["away_days"] = json!(away.days);
        }
        self.transitions.push(record);
    }
}

impl Core {
    fn new(rules: Rules) -> Self {
        Self { rules, users: BTreeMap::new(), transitions: Vec::new(), duplicates: 0 }
    }

    /// Follows the model's watermark: how the watermark moves is the shard's matter.
    fn apply(&mut self, input: &Input, watermark: EventTime, wall: i64) {
        let Self { rules, users, transitions, duplicates } = self;
        let mut scribe = Scribe { rules, transitions };
        match input {
            Input::Deletion { user: id } => {
                if let Some(mut user) = users.remove(id)
                    && user.advance(id, watermark, &rules.policy, &mut scribe) == Fate::Stays
                {
                    user.delete(id, watermark, &mut scribe);
                }
            }
            Input::Event(event) => {
                let bytes = native(event);
                let record = Record { key: None, value: Some(&bytes), headers: &[], offset: 0 };
                let decoded = rules.decoder.decode(&record, WallTime::from_millis(wall));
                let Decoded::Event(decoded) = decoded else { panic!("not taken for an event: {decoded:?}") };
                let mut user = users.remove(&event.user).unwrap_or_default();
                if user.advance(&event.user, watermark, &rules.policy, &mut scribe) == Fate::Gone {
                    user = User::default();
                }
                if user.record(&decoded, &rules.policy, &mut scribe) == Outcome::Duplicate {
                    *duplicates += 1;
                }
                if user.advance(&event.user, watermark, &rules.policy, &mut scribe) == Fate::Stays {
                    users.insert(event.user.clone(), user);
                }
            }
        }
    }

    fn advance(&mut self, watermark: EventTime) {
        let mut scribe = Scribe { rules: &self.rules, transitions: &mut self.transitions };
        self.users.retain(|id, user| user.advance(id, watermark, &self.rules.policy, &mut scribe) == Fate::Stays);
    }

    fn change_policy(&mut self, rules: Rules, watermark: Option<EventTime>) {
        self.rules = rules;
        let Some(watermark) = watermark else { return };
        let mut scribe = Scribe { rules: &self.rules, transitions: &mut self.transitions };
        for (id, user) in &mut self.users {
            user.rejudge(id, watermark, &self.rules.policy, &mut scribe);
        }
        self.advance(watermark);
    }
}

#[test]
fn the_rules_agree_with_the_model() {
    let shape = Shape { ordered: false, policies: true, passes: true, segments: false };
    for_each_case(shape, |seed, case| {
        let mut model = Model::new(case.policy.clone(), case.time.clone());
        let mut core = Core::new(case.rules(&case.policy));
        for (number, step) in case.steps.iter().enumerate() {
            let watermark = |model: &Model| model.watermark().map(EventTime::from_millis);
            match step {
                Step::Input(input, wall) => {
                    model.apply(input, *wall);
                    core.apply(input, watermark(&model).unwrap_or(EventTime::MIN), *wall);
                }
                Step::Pass(wall) => {
                    model.pass(*wall);
                    core.advance(watermark(&model).unwrap_or(EventTime::MIN));
                }
                Step::Segments(_) => panic!("a case without segments"),
                Step::Policy(policy) => {
                    model.catch_up();
                    core.advance(watermark(&model).unwrap_or(EventTime::MIN));
                    model.change_policy(policy.clone());
                    core.change_policy(case.rules(policy), watermark(&model));
                }
            }
            if let Some(difference) = difference(&core.transitions, &model.transitions) {
                panic!("seed {seed}, step {number}: {difference}\n{step:?}\n{case}");
            }
        }
        assert_eq!(core.duplicates, model.duplicates, "seed {seed}");
    });
}

fn compare_states(ran: &Ran, model: &Model, context: &str) {
    for user in ran.states.keys().chain(model.states.keys()) {
        let (found, expected) = (ran.states.get(user), model.states.get(user));
        let equal = match (found, expected) {
            (Some(found), Some(expected)) => same(found, expected),
            (found, expected) => found.is_none() && expected.is_none(),
        };
        assert!(equal, "state of {user}:\n  found    {found:?}\n  expected {expected:?}\n{context}");
    }
    assert_eq!(ran.cohorts, model.cohorts(), "cohorts, {context}");
    assert_eq!(ran.without_life, model.without_life(), "users without a life, {context}");
}

/// The same records and the same interruptions give the same bytes.
#[test]
fn the_same_seed_twice_gives_the_same_output() {
    for seed in 0..300 {
        let case = Case::new(seed, Shape { ordered: false, policies: true, passes: true, segments: false });
        assert_eq!(Rig::run(seed, &case).outputs, Rig::run(seed, &case).outputs, "seed {seed}");
    }
}

/// SPEC section 2: for users whose events arrive in time order, the partition count changes nothing.
#[test]
fn the_partition_count_changes_no_transition() {
    let shape = Shape { ordered: true, policies: false, passes: false, segments: false };
    for_each_case(shape, |seed, case| {
        let mut case = case.clone();
        case.time.silence_guard = None;
        let mut model = Model::new(case.policy.clone(), case.time.clone());
        let mut wall = 0;
        for step in &case.steps {
            if let Step::Input(input, at) = step {
                model.apply(input, *at);
                wall = wall.max(*at);
            }
        }
        let end = wall + 400 * ebbtide::time::DAY_MS;
        model.pass(end);
        for partitions in [1, 2, 5] {
            let found = across_partitions(&case, partitions, end);
            if let Some(difference) = difference(&found, &model.transitions) {
                panic!("seed {seed}, {partitions} partitions: {difference}\n{case}");
            }
        }
    });
}

/// A transition's numbers have no gap, time only worsens, and nothing is dated before what it follows.
#[test]
fn numbers_have_no_gaps_and_time_only_worsens() {
    let severity = |state: &Value| ["active", "at_risk", "lapsed", "churned"].iter().position(|name| state == name);
    for_each_case(Shape { ordered: false, policies: true, passes: true, segments: false }, |seed, case| {
        let ran = Rig::run(seed, case);
        for (user, records) in by_user(&ran.transitions) {
            let mut before: Option<&Value> = None;
            for record in records {
                // A user who was forgotten or deleted begins again at 1.
                let expected = before.map_or(1, |before| {
                    if before["to"].is_null() { 1 } else { before["seq"].as_u64().expect("a number") + 1 }
                });
                assert_eq!(record["seq"], expected, "seed {seed}, user {user}\n{case}");
                let (from, to) = (severity(&record["from"]), severity(&record["to"]));
                match record["kind"].as_str().expect("a kind") {
                    "worsened" => assert!(from < to, "seed {seed}: {record}"),
                    "recovered" | "reactivated" | "corrected" => assert!(to < from, "seed {seed}: {record}"),
                    "entered" => assert!(from.is_none() && to == Some(0), "seed {seed}: {record}"),
                    _ => assert!(to.is_none(), "seed {seed}: {record}"),
                }
                if let Some(since) = record["previous_since"].as_str() {
                    let at = record["effective_at"].as_str().expect("a time");
                    assert!(since <= at, "seed {seed}: dated before the state it ends: {record}");
                }
                before = Some(record);
            }
        }
    });
}

/// What a whole shard committed is what the model says, whatever the batches were and wherever the work was interrupted.
#[test]
fn an_interrupted_shard_agrees_with_the_model() {
    let shape = Shape { ordered: false, policies: true, passes: true, segments: false };
    for_each_case(shape, |seed, case| {
        let (model, _) = model_of(case);
        let ran = Rig::run(seed, case);
        if let Some(difference) = difference(&ran.transitions, &model.transitions) {
            panic!("seed {seed}: {difference}\n{case}");
        }
        compare_states(&ran, &model, &format!("seed {seed}\n{case}"));
    });
}

/// The fields of a record that the model has.
fn reduced(record: &Value, like: &Value) -> Value {
    let wanted = like.as_object().expect("an object").keys();
    wanted.map(|key| (key.clone(), record[key].clone())).collect::<serde_json::Map<_, _>>().into()
}

fn compare_records(what: &str, found: &[Value], expected: &[Value], context: &str) {
    let (found, expected) = (by_user(found), by_user(expected));
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{what}: {context}");
    for (user, expected) in expected {
        let found = &found[&user];
        for place in 0..found.len().max(expected.len()) {
            let (Some(found), Some(expected)) = (found.get(place), expected.get(place)) else {
                panic!(
                    "{what} of {user}, {place}: {:?}, expected {:?}\n{context}",
                    found.get(place),
                    expected.get(place)
                );
            };
            assert!(
                reduced(found, expected) == **expected && found["holdout"] == expected["holdout"],
                "{what} of {user}, {place}:\n  found    {found}\n  expected {expected}\n{context}"
            );
        }
    }
}

/// Segments with random definitions, redefined at random; attribution, returns and lift: every record, and what is counted
/// at every moment at which nothing is left to do, is a recount of all that the model ever saw.
#[test]
fn segments_and_measurement_agree_with_a_recount() {
    let schemas = Schemas::load();
    for_each_case(Shape { ordered: false, policies: true, passes: true, segments: true }, |seed, case| {
        let (model, counted) = model_of(case);
        let ran = Rig::run(seed, case);
        let context = format!("seed {seed}\n{case}");
        if let Some(difference) = difference(&ran.transitions, &model.transitions) {
            panic!("seed {seed}: {difference}\n{case}");
        }
        compare_records("moves", &ran.moves, &model.facts.moves, &context);
        compare_records("outcomes", &ran.outcomes, &model.facts.outcomes, &context);
        compare_states(&ran, &model, &context);
        for (step, expected) in &counted {
            assert_eq!(ran.counted.get(step), Some(expected), "after step {step}, {context}");
        }
        if seed % 50 == 0 {
            let detected = |record: &Value| {
                let mut record = record.clone();
                record["detected_at"] = json!("2024-01-01T00:00:00.000Z");
                record
            };
            ran.moves.iter().for_each(|record| schemas.assert_segment(&detected(record)));
            ran.outcomes.iter().for_each(|record| schemas.assert_outcome(&detected(record)));
        }
    });
}

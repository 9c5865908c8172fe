//! A shard in memory, with everything done to it that a worker, a broker and an operator can do: batches of any size,
//! budgets of any size, commits, roll-backs, interruptions before and after the commit, a wiped disk, other rules.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ebbtide::event::Record;
use ebbtide::lifecycle::{Policy, State};
use ebbtide::rules::Rules;
use ebbtide::segment::Draft;
use ebbtide::shard::effect::{Effects, Output, Topic};
use ebbtide::shard::{Progress, Shard, restore_batch};
use ebbtide::store::Store as _;
use ebbtide::store::memory::MemoryStore;
use ebbtide::time::WallTime;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

use super::cases::{Case, Step, record};
use super::compare::without;
use super::measured::Counted;

const PARTITION: i32 = 0;
const PARTITIONS: i32 = 1;
/// More rounds than any case needs, however often it is interrupted.
const ROUNDS_MAX: usize = 20_000;

/// What a shard committed in the end.
pub(crate) struct Outcome {
    pub(crate) outputs: Vec<Output>,
    /// Without `detected_at`.
    pub(crate) transitions: Vec<Value>,
    /// Without `updated_at`; what a reader of the compacted topic is left with.
    pub(crate) states: BTreeMap<String, Value>,
    pub(crate) cohorts: BTreeMap<(State, bool), u64>,
    pub(crate) without_life: u64,
    /// Entries, exits and attributions, without `detected_at`.
    pub(crate) moves: Vec<Value>,
    pub(crate) outcomes: Vec<Value>,
    /// What was counted after each step at which nothing was left to do.
    pub(crate) counted: BTreeMap<usize, Counted>,
}

pub(crate) struct Rig<'a> {
    case: &'a Case,
    rng: ChaCha8Rng,
    rules: Arc<Rules>,
    shard: Shard<MemoryStore>,
    /// The changelog topic: what is committed.
    changelog: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    outputs: Vec<Output>,
    effects: Effects,
    /// The next step to take, as of now and as of the last commit.
    next: usize,
    committed: usize,
    wall: WallTime,
    policy: Policy,
    segments: Vec<Draft>,
    names: BTreeSet<String>,
    counted: BTreeMap<usize, Counted>,
}

impl<'a> Rig<'a> {
    /// Runs a case to its end, with interruptions drawn from the seed.
    pub(crate) fn run(seed: u64, case: &'a Case) -> Outcome {
        let rules = Arc::new(case.rules(&case.policy));
        let mut rig = Self {
            case,
            rng: ChaCha8Rng::seed_from_u64(seed ^ 0x5eed),
            shard: open(&rules, MemoryStore::new()),
            rules,
            changelog: Vec::new(),
            outputs: Vec::new(),
            effects: Effects::default(),
            next: 0,
            committed: 0,
            wall: WallTime::from_millis(0),
            policy: case.policy.clone(),
            segments: case.measuring.segments.clone(),
            names: case.measuring.segments.iter().map(|draft| draft.name.clone()).collect(),
            counted: BTreeMap::new(),
        };
        for _ in 0..ROUNDS_MAX {
            if rig.next == case.steps.len() {
                rig.fire(false, usize::MAX);
                rig.commit(false);
                rig.count();
                return rig.outcome();
            }
            rig.step();
            rig.disturb();
        }
        panic!("seed {seed} does not come to an end");
    }

    fn step(&mut self) {
        match &self.case.steps[self.next] {
            Step::Input(..) => self.apply(),
            Step::Pass(wall) => {
                self.wall = WallTime::from_millis(*wall);
                self.fire(true, usize::MAX);
                self.next += 1;
                self.count();
            }
            Step::Policy(policy) => {
                self.policy = policy.clone();
                self.restart_with_other_rules();
            }
            Step::Segments(segments) => {
                self.segments.clone_from(segments);
                self.names.extend(segments.iter().map(|draft| draft.name.clone()));
                self.restart_with_other_rules();
            }
        }
    }

    /// An operator stops Ebbtide, changes the configuration, starts it again.
    fn restart_with_other_rules(&mut self) {
        self.fire(false, usize::MAX);
        self.commit(false);
        self.next += 1;
        self.committed = self.next;
        self.rules = Arc::new(self.case.rules_with(&self.policy, &self.segments));
        self.reopen();
    }

    /// Everything that is due has fired: what is counted now is what the model counts.
    fn count(&mut self) {
        let watermark = self.shard.watermark();
        let counted = Counted::of(self.shard.aggregates(), &self.names, watermark);
        if let Some(before) = self.counted.insert(self.next, counted.clone()) {
            assert_eq!(before, counted, "done once more, step {} counts otherwise", self.next);
        }
    }

    /// The next few inputs in one batch. The last is an event: its wall time is when the shard last heard of anybody.
    fn apply(&mut self) {
        use super::model::Input;
        let inputs: Vec<_> = self.case.steps[self.next..]
            .iter()
            .map_while(|step| if let Step::Input(input, wall) = step { Some((input, *wall)) } else { None })
            .collect();
        let mut count = self.rng.random_range(1..=inputs.len().min(12));
        while count > 1 && matches!(inputs[count - 1].0, Input::Deletion { .. }) {
            count -= 1;
        }
        let offset = self.offset(self.next);
        let bytes: Vec<_> = inputs[..count].iter().map(|(input, _)| record(input)).collect();
        let records: Vec<_> = (offset..)
            .zip(&bytes)
            .map(|(offset, (key, value))| Record { key: Some(key), value: value.as_deref(), headers: &[], offset })
            .collect();
        self.wall = WallTime::from_millis(inputs[count - 1].1);
        self.shard.apply(&records, self.wall, &mut self.effects).expect("applied");
        self.next += count;
    }

    /// What may happen between two steps.
    fn disturb(&mut self) {
        if self.rng.random_bool(0.3) {
            let budget = self.rng.random_range(1..4);
            let _: Progress = self.shard.advance(self.wall, false, budget, &mut self.effects).expect("advanced");
        }
        match self.rng.random_range(0..100) {
            0..40 => self.commit(false),
            // The transaction took, and the process dies before it writes the store.
            40..46 => self.commit(true),
            46..54 => {
                self.shard.rollback().expect("rolled back");
                self.effects.clear();
                self.next = self.committed;
            }
            // Killed in the middle of everything.
            54..60 => self.reopen(),
            60..64 => self.restore(),
            _ => {}
        }
    }

    fn fire(&mut self, caught_up: bool, rounds_max: usize) {
        let budget = self.rng.random_range(1..6);
        for _ in 0..rounds_max.min(ROUNDS_MAX) {
            let progress = self.shard.advance(self.wall, caught_up, budget, &mut self.effects).expect("advanced");
            if matches!(progress, Progress::Done) {
                return;
            }
        }
        panic!("timers do not come to an end");
    }

    fn commit(&mut self, die_before_writing: bool) {
        let sealed = self.shard.seal().expect("sealed");
        self.committed = self.next;
        self.outputs.append(&mut self.effects.outputs);
        self.effects.clear();
        if sealed.is_empty() {
            return;
        }
        self.changelog.extend(sealed.changelog.iter().map(|record| (record.key.clone(), record.value.clone())));
        if die_before_writing {
            self.reopen();
        } else {
            let position = i64::try_from(self.changelog.len()).expect("short");
            self.shard.committed(sealed, position).expect("written");
        }
    }

    /// A new process finds the disk as it was left, and reads what the changelog has beyond it.
    fn reopen(&mut self) {
        let mut store = self.shard.store().clone();
        let (_, position) = store.shard().expect("readable");
        let from = usize::try_from(position.unwrap_or(0)).expect("not negative");
        self.replay(&mut store, from);
        self.take_up(store);
    }

    /// The disk was wiped: all of the changelog, as the broker's compaction may have left it.
    fn restore(&mut self) {
        let mut store = MemoryStore::new();
        if self.rng.random_bool(0.5) {
            let last: BTreeMap<&[u8], usize> =
                self.changelog.iter().enumerate().map(|(place, (key, _))| (key.as_slice(), place)).collect();
            let compacted: Vec<_> = self
                .changelog
                .iter()
                .enumerate()
                .filter(|(place, (key, value))| last[key.as_slice()] == *place && value.is_some())
                .map(|(_, (key, value))| (key.as_slice(), value.as_deref()))
                .collect();
            let position = i64::try_from(self.changelog.len()).expect("short");
            let batch = restore_batch(&store, compacted, position).expect("a changelog");
            store.write(batch).expect("written");
        } else {
            self.replay(&mut store, 0);
        }
        if !self.changelog.is_empty() {
            assert_eq!(&store, self.settled_store(), "restored is not what was written");
        }
        self.take_up(store);
    }

    /// The store as of the last commit. A shard that died before it wrote was reopened at once, so it is complete.
    fn settled_store(&self) -> &MemoryStore {
        self.shard.store()
    }

    fn replay(&mut self, store: &mut MemoryStore, mut from: usize) {
        while from < self.changelog.len() {
            let to = (from + self.rng.random_range(1..40)).min(self.changelog.len());
            let records = self.changelog[from..to].iter().map(|(key, value)| (key.as_slice(), value.as_deref()));
            let batch = restore_batch(store, records, i64::try_from(to).expect("short")).expect("a changelog");
            store.write(batch).expect("written");
            from = to;
        }
    }

    fn take_up(&mut self, store: MemoryStore) {
        self.shard = open(&self.rules, store);
        self.effects.clear();
        self.next = self.committed;
        if let Some(position) = self.shard.position() {
            assert_eq!(position, self.offset(self.committed), "taken up elsewhere than committed");
        }
    }

    /// The offset of the first input at or after a step.
    fn offset(&self, step: usize) -> i64 {
        let inputs = self.case.steps[..step].iter().filter(|step| matches!(step, Step::Input(..))).count();
        i64::try_from(inputs).expect("short")
    }

    fn outcome(self) -> Outcome {
        let transitions = transitions(&self.outputs);
        let mut states = BTreeMap::new();
        for output in self.outputs.iter().filter(|output| output.topic == Topic::States) {
            let user = String::from_utf8(output.key.clone().expect("a key")).expect("a user id");
            match &output.value {
                Some(value) => {
                    let state: Value = serde_json::from_slice(value).expect("JSON");
                    assert_eq!(state["user_id"], *user, "the key is the user");
                    states.insert(user, without(state, "updated_at"))
                }
                None => states.remove(&user),
            };
        }
        let cohorts = self.shard.cohorts();
        let sizes = State::ALL
            .into_iter()
            .flat_map(|state| [(state, false), (state, true)])
            .map(|class| (class, cohorts.size(class.0, class.1)))
            .filter(|(_, size)| *size > 0)
            .collect();
        Outcome {
            transitions,
            states,
            cohorts: sizes,
            without_life: cohorts.without_life(),
            moves: records(&self.outputs, Topic::Segments),
            outcomes: records(&self.outputs, Topic::Outcomes),
            counted: self.counted,
            outputs: self.outputs,
        }
    }
}

/// The inputs of a case over so many partitions, each with its own shard; then time passes to `end` in all of them.
pub(crate) fn across_partitions(case: &Case, partitions: usize, end: i64) -> Vec<Value> {
    let mut outputs = Vec::new();
    for partition in 0..partitions {
        let rules = Arc::new(case.rules(&case.policy));
        let mut shard = open(&rules, MemoryStore::new());
        let mut effects = Effects::default();
        let mut offset = 0;
        for step in &case.steps {
            let Step::Input(input, wall) = step else { continue };
            let (key, value) = record(input);
            if key.iter().map(|byte| usize::from(*byte)).sum::<usize>() % partitions != partition {
                continue;
            }
            let record = Record { key: Some(&key), value: value.as_deref(), headers: &[], offset };
            shard.apply(&[record], WallTime::from_millis(*wall), &mut effects).expect("applied");
            offset += 1;
        }
        while !matches!(
            shard.advance(WallTime::from_millis(end), true, 100, &mut effects).expect("advanced"),
            Progress::Done
        ) {}
        outputs.append(&mut effects.outputs);
    }
    transitions(&outputs)
}

fn open(rules: &Arc<Rules>, store: MemoryStore) -> Shard<MemoryStore> {
    Shard::open(PARTITION, Arc::clone(rules), store, PARTITIONS).expect("opened")
}

fn records(outputs: &[Output], topic: Topic) -> Vec<Value> {
    let of_topic = outputs.iter().filter(|output| output.topic == topic);
    of_topic
        .map(|output| {
            let record: Value = serde_json::from_slice(output.value.as_deref().expect("a value")).expect("JSON");
            assert_eq!(output.key.as_deref(), record["user_id"].as_str().map(str::as_bytes), "the key is the user");
            without(record, "detected_at")
        })
        .collect()
}

fn transitions(outputs: &[Output]) -> Vec<Value> {
    outputs
        .iter()
        .filter(|output| output.topic == Topic::Transitions)
        .map(|output| {
            let record: Value = serde_json::from_slice(output.value.as_deref().expect("a value")).expect("JSON");
            assert_eq!(output.key.as_deref(), record["user_id"].as_str().map(str::as_bytes), "the key is the user");
            let header = |name: &str| {
                let found = output.headers.iter().find(|(header, _)| *header == name);
                found.map(|(_, value)| String::from_utf8_lossy(value).into_owned())
            };
            assert_eq!(header("ce_id").as_deref(), record["id"].as_str(), "the CloudEvents id");
            assert_eq!(header("ce_time").as_deref(), record["effective_at"].as_str(), "the CloudEvents time");
            assert_eq!(header("ce_type").as_deref(), Some("ebbtide.transition.v1"));
            assert_eq!(header("ce_source").as_deref(), Some("/ebbtide/ebbtide/0"));
            without(record, "detected_at")
        })
        .collect()
}

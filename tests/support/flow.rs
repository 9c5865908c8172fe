//! A stream of events that a test sends while something happens, and what has to come of it.

use std::collections::BTreeMap;

use ebbtide::lifecycle::Policy;
use ebbtide::shard::watermark::TimeRules;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use super::cases::record;
use super::compare::{difference, same, without};
use super::kafka::{Broker, Message, Sender};
use super::model::{Input, Model, ModelEvent};
use super::schema::Schemas;

const MINUTE_MS: i64 = 60_000;
const DAY_MS: i64 = 24 * 60 * MINUTE_MS;
/// 2024-01-01, where the stream begins.
const BEGIN_MS: i64 = 1_704_067_200_000;

/// What every partition was sent, in order.
pub(crate) struct Sent {
    pub(crate) partitions: Vec<Vec<Input>>,
}

/// What has to be in the output topics.
pub(crate) struct Expected {
    pub(crate) transitions: Vec<Value>,
    pub(crate) states: BTreeMap<String, Value>,
}

/// A believable stream: some users come often, some seldom, a few events are late, doubled, or ask to be deleted.
pub(crate) struct Flow {
    topic: String,
    sender: Sender,
    rng: ChaCha8Rng,
    users: usize,
    clock: i64,
    /// The longest time between two events of the stream.
    step_ms_max: i64,
    number: u64,
    recent: Vec<ModelEvent>,
    pub(crate) sent: Sent,
}

impl Sent {
    pub(crate) fn new(partitions: i32) -> Self {
        Self { partitions: vec![Vec::new(); usize::try_from(partitions).expect("some partitions")] }
    }

    /// Which partition a user's records go to in these tests. Ebbtide does not care, as long as it is always the same.
    pub(crate) fn partition_of(&self, user: &str) -> usize {
        user.bytes().fold(7_usize, |hash, byte| hash.wrapping_mul(31).wrapping_add(usize::from(byte)))
            % self.partitions.len()
    }

    /// Notes an input and gives the record that carries it.
    pub(crate) fn add(&mut self, input: Input) -> Message {
        let user = match &input {
            Input::Event(event) => &event.user,
            Input::Deletion { user } => user,
        };
        let partition = self.partition_of(user);
        let (key, value) = record(&input);
        self.partitions[partition].push(input);
        let partition = i32::try_from(partition).expect("few partitions");
        Message { partition: Some(partition), key: Some(key), value, ..Message::default() }
    }

    /// What the model makes of it, each partition for itself, when only events move time.
    pub(crate) fn expected(&self, policy: &Policy, time: &TimeRules) -> Expected {
        let mut expected = Expected { transitions: Vec::new(), states: BTreeMap::new() };
        for inputs in &self.partitions {
            let mut model = Model::new(policy.clone(), time.clone());
            for input in inputs {
                model.apply(input, 0);
            }
            model.catch_up();
            expected.transitions.append(&mut model.transitions);
            expected.states.append(&mut model.states);
        }
        expected
    }
}

impl Flow {
    pub(crate) fn new(broker: &Broker, topic: &str, partitions: i32, users: usize, seed: u64) -> Self {
        Self {
            topic: topic.to_owned(),
            sender: broker.sender(),
            rng: ChaCha8Rng::seed_from_u64(seed),
            users,
            clock: BEGIN_MS,
            step_ms_max: 30 * MINUTE_MS,
            number: 0,
            recent: Vec::new(),
            sent: Sent::new(partitions),
        }
    }

    /// As many users as `users` would be with the usual pace, each of whom is met as often: for long streams.
    pub(crate) fn crowded(mut self, users_usual: usize) -> Self {
        let times = i64::try_from((self.users / users_usual).max(1)).expect("not that many users");
        self.step_ms_max /= times;
        self
    }

    /// Takes what was sent since the last time.
    pub(crate) fn take(&mut self) -> Sent {
        let partitions = i32::try_from(self.sent.partitions.len()).expect("few partitions");
        std::mem::replace(&mut self.sent, Sent::new(partitions))
    }

    /// Sends so many records.
    pub(crate) fn send(&mut self, count: usize) {
        for _ in 0..count {
            let input = self.next();
            let message = self.sent.add(input);
            self.sender.send(&self.topic, &message);
        }
    }

    pub(crate) fn flush(&self) {
        self.sender.flush();
    }

    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "a few hundred users")]
    #[expect(clippy::cast_sign_loss, reason = "a share of a positive number")]
    fn next(&mut self) -> Input {
        let rng = &mut self.rng;
        self.clock += rng.random_range(0..self.step_ms_max);
        // Squared: the first users come often, the last ones hardly ever.
        let share: f64 = rng.random_range(0.0..1.0);
        let user = format!("user-{}", (share * share * self.users as f64) as usize);
        match rng.random_range(0..1_000) {
            0..3 => return Input::Deletion { user },
            3..33 if !self.recent.is_empty() => {
                let again = rng.random_range(0..self.recent.len());
                return Input::Event(self.recent[again].clone());
            }
            _ => {}
        }
        let late = if rng.random_bool(0.05) { rng.random_range(0..3 * DAY_MS) } else { 0 };
        self.number += 1;
        let event = ModelEvent {
            user,
            name: ["Opened", "Report Created", "Exported"][rng.random_range(0..3)].to_owned(),
            time: self.clock - late,
            id: Some(format!("id-{}", self.number)),
            activity: true,
            activation: true,
            core: true,
            win_back: None,
            properties: BTreeMap::from([("plan".to_owned(), json!(["free", "pro"][rng.random_range(0..2)]))]),
        };
        self.recent.push(event.clone());
        if self.recent.len() > 200 {
            self.recent.remove(0);
        }
        Input::Event(event)
    }
}

impl Expected {
    /// Fails with the first difference when these are not exactly the expected transitions, each user's in order.
    pub(crate) fn assert_transitions(&self, who: &str, messages: &[Message]) {
        let schemas = Schemas::load();
        let found: Vec<Value> = messages
            .iter()
            .map(|message| {
                let record: Value =
                    serde_json::from_slice(message.value.as_deref().expect("a value")).expect("a transition is JSON");
                schemas.assert_transition(&record);
                without(record, "detected_at")
            })
            .collect();
        if let Some(difference) = difference(&found, &self.transitions) {
            panic!("{who}: {} transitions, {} expected; {difference}", found.len(), self.transitions.len());
        }
    }

    /// The same for the compacted topic of current states.
    pub(crate) fn assert_states(&self, messages: &[Message]) {
        let schemas = Schemas::load();
        let mut found = BTreeMap::new();
        for message in messages {
            let user = String::from_utf8(message.key.clone().expect("a key")).expect("a user id");
            match &message.value {
                None => drop(found.remove(&user)),
                Some(value) => {
                    let state: Value = serde_json::from_slice(value).expect("a state is JSON");
                    schemas.assert_state(&state);
                    found.insert(user, without(state, "updated_at"));
                }
            }
        }
        assert_eq!(found.keys().collect::<Vec<_>>(), self.states.keys().collect::<Vec<_>>(), "users with a state");
        for (user, state) in &found {
            assert!(same(state, &self.states[user]), "{user}: found {state}, expected {}", self.states[user]);
        }
    }
}

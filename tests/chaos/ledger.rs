//! What has to come of everything sent so far, and whether it has.

use std::collections::BTreeMap;

use ebbtide::lifecycle::Policy;
use ebbtide::shard::watermark::TimeRules;
use serde_json::Value;

use crate::support::flow::{Expected, Sent};
use crate::support::kafka::Message;
use crate::support::model::Model;

/// The naive model of each partition, over all rounds.
pub(crate) struct Ledger {
    models: Vec<Model>,
    /// The last record of each user in the topic of current states, as it was read.
    states: BTreeMap<Vec<u8>, Message>,
}

impl Ledger {
    pub(crate) fn new(partitions: usize, policy: &Policy, time: &TimeRules) -> Self {
        Self {
            models: (0..partitions).map(|_| Model::new(policy.clone(), time.clone())).collect(),
            states: BTreeMap::new(),
        }
    }

    /// Takes in what was sent, and gives the transitions that it adds and the states that it leaves.
    pub(crate) fn take(&mut self, sent: &Sent) -> Expected {
        let mut expected = Expected { transitions: Vec::new(), states: BTreeMap::new() };
        for (model, inputs) in self.models.iter_mut().zip(&sent.partitions) {
            for input in inputs {
                model.apply(input, 0);
            }
            model.catch_up();
            expected.transitions.append(&mut model.transitions);
            expected.states.extend(model.states.clone());
        }
        expected
    }

    /// Takes in what was read of the topic of current states, and gives the last record of each user.
    pub(crate) fn fold(&mut self, messages: Vec<Message>) -> Vec<Message> {
        for message in messages {
            self.states.insert(message.key.clone().expect("a key"), message);
        }
        self.states.values().cloned().collect()
    }

    /// Cohort sizes as `/v1/cohorts` names them: by state and activation, empty ones left out.
    pub(crate) fn cohorts(&self) -> BTreeMap<(String, bool), u64> {
        let mut cohorts = BTreeMap::new();
        for model in &self.models {
            for ((state, activated), users) in model.cohorts() {
                *cohorts.entry((state.as_str().to_owned(), activated)).or_default() += users;
            }
        }
        cohorts
    }
}

/// The sizes in an answer of `/v1/cohorts`, empty ones left out.
pub(crate) fn sizes(answer: &Value) -> BTreeMap<(String, bool), u64> {
    let size = |cohort: &Value| {
        let users = cohort["users"].as_u64().expect("a count");
        let name = cohort["state"].as_str().expect("a state").to_owned();
        (users > 0).then_some(((name, cohort["activated"] == true), users))
    };
    answer["cohorts"].as_array().expect("a list").iter().filter_map(size).collect()
}

/// Each life's transitions count from 1 without a gap, over the whole topic: what was right when it was written is right
/// for whoever comes last. Who was forgotten or deleted and comes back begins anew.
#[derive(Default)]
pub(crate) struct Sequences {
    users: BTreeMap<Vec<u8>, u64>,
    pub(crate) count: usize,
}

impl Sequences {
    pub(crate) fn take(&mut self, message: &Message) {
        let record: Value = serde_json::from_slice(message.value.as_deref().expect("a value")).expect("JSON");
        let last = self.users.entry(message.key.clone().expect("a key")).or_default();
        assert_eq!(record["seq"], *last + 1, "a gap or a double: {record}");
        *last = if record["to"].is_null() { 0 } else { *last + 1 };
        self.count += 1;
    }
}

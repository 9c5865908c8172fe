//! Looks at the topics while the workers run: somebody may delete one, or give the input more partitions.
//!
//! librdkafka would only go on trying, for ever, and records that a producer writes to a partition more would change the
//! shard of their users unseen. What is found stops the run, with what to do about it; an answer that does not come is no
//! finding.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::consumer::BaseConsumer;
use tracing::debug;

use super::client::{self, Listener};
use super::error::RunError;
use super::topics::{TopicsError, partitions};
use crate::clock::monotonic;
use crate::config::{Config, TopicsConfig};

/// How often to look.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How long a broker may take to answer. A shut-down waits for it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// So many looks in a row have to agree: a broker that has just started may not know every topic yet.
const AGREEING_MIN: u32 = 3;

/// Looks at the topics from time to time.
pub(super) struct Watch<'c> {
    topics: &'c TopicsConfig,
    /// What the workers reckon with.
    input_partitions: i32,
    looker: BaseConsumer<Listener>,
    looked_at: Instant,
    /// What each topic was found to have in the latest looks, if that is wrong, and in how many in a row.
    wrong: BTreeMap<&'c str, (Option<i32>, u32)>,
}

impl<'c> Watch<'c> {
    pub(super) fn new(config: &'c Config, input_partitions: i32) -> Result<Self, RunError> {
        let looker = client::looker(config).create_with_context(Listener).map_err(RunError::Client)?;
        Ok(Self { topics: &config.topics, input_partitions, looker, looked_at: monotonic(), wrong: BTreeMap::new() })
    }

    /// Looks, if it is time to.
    ///
    /// # Errors
    /// A topic is gone, or the input has another number of partitions.
    pub(super) fn look(&mut self) -> Result<(), RunError> {
        if self.looked_at.elapsed() < LOOK_EVERY {
            return Ok(());
        }
        self.looked_at = monotonic();
        let TopicsConfig { events, transitions, states, segments, outcomes, dead_letters, changelog, .. } = self.topics;
        let mut problems = Vec::new();
        for (key, topic) in [
            ("events", events),
            ("transitions", transitions),
            ("states", states),
            ("segments", segments),
            ("outcomes", outcomes),
            ("dead_letters", dead_letters),
            ("changelog", changelog),
        ] {
            let found = match partitions(&self.looker, topic, ANSWER_TIMEOUT) {
                Ok(found) => found,
                Err(error) => {
                    debug!(%error, topic, "the topics cannot be looked at now");
                    return Ok(());
                }
            };
            if self.agreed(topic, key == "events", found) {
                problems.push(problem(key, topic, self.input_partitions, found));
            }
        }
        if problems.is_empty() { Ok(()) } else { Err(TopicsError::Unfit(problems).into()) }
    }

    /// Takes a finding in, and says whether it is wrong and certain.
    fn agreed(&mut self, topic: &'c str, is_input: bool, found: Option<i32>) -> bool {
        let fits = found.is_some_and(|found| !is_input || found == self.input_partitions);
        if fits {
            self.wrong.remove(topic);
            return false;
        }
        let (latest, count) = self.wrong.entry(topic).or_insert((found, 0));
        *count = if *latest == found { *count + 1 } else { 1 };
        *latest = found;
        *count >= AGREEING_MIN
    }
}

/// What is wrong with a topic, and what to do.
fn problem(key: &str, topic: &str, input_partitions: i32, found: Option<i32>) -> String {
    match (key, found) {
        ("events", Some(found)) => format!(
            "topics.events: {topic} has {found} partitions now, and had {input_partitions}: users would change their \
             shard; make a new input topic with the partitions you want, and a new group id and changelog topic for it \
             (docs/operations.md, \"Change the number of partitions\")"
        ),
        ("events", None) => format!(
            "topics.events: the input topic {topic} was deleted while it was read; a new one needs a new group id and a \
             new changelog topic, whatever its name"
        ),
        ("changelog", _) => format!(
            "topics.changelog: {topic} was deleted, and it is the truth of which the local disks are a copy; do not wipe \
             them, and start again: the start says what can be done"
        ),
        _ => format!(
            "topics.{key}: {topic} was deleted while it was written to; start again to have it made anew (what was in it \
             is gone for its readers), or correct its name"
        ),
    }
}

//! Committed transitions as they happen, for the console's event stream.
//!
//! A transition is shown only after the transaction that holds it has committed. It costs the worker next to nothing,
//! whoever looks: the records that it has produced anyhow are moved here instead of dropped, with one lock a commit. The
//! one taker comes when it likes; what was too much meanwhile is gone, oldest first, and counted. The topic is the record,
//! this is a window.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::shard::Topic;
use crate::shard::effect::Output;

/// Transitions that wait to be taken.
pub const WAITING_MAX: usize = 4096;
/// Bytes of those.
const WAITING_BYTES_MAX: usize = 4 << 20;

/// One committed transition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedTransition {
    /// The user id, as the record's key has it.
    pub user_id: Vec<u8>,
    /// The transition record: JSON, as it is in the topic.
    pub json: Vec<u8>,
}

/// What has gathered since the last time.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// The newest, in order.
    pub transitions: VecDeque<CommittedTransition>,
    /// How many were before those and are gone.
    pub missed: u64,
}

/// Where the workers leave committed transitions and the HTTP edge takes them from.
#[derive(Clone, Debug, Default)]
pub struct TransitionFeed {
    waiting: Arc<Mutex<Waiting>>,
}

#[derive(Debug, Default)]
struct Waiting {
    taken: Taken,
    bytes: usize,
}

impl TransitionFeed {
    /// An empty feed.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Everything since the last call.
    #[must_use]
    pub fn take(&self) -> Taken {
        let mut waiting = self.lock();
        waiting.bytes = 0;
        std::mem::take(&mut waiting.taken)
    }

    /// Shows the transitions among the outputs of one commit, given in order; all other outputs are dropped.
    pub(crate) fn show(&self, outputs: impl DoubleEndedIterator<Item = Output>) {
        let mut fresh = Vec::new();
        let mut missed = 0;
        for Output { topic, key, value, .. } in outputs.rev() {
            match (topic, key, value) {
                (Topic::Transitions, Some(user_id), Some(json)) if fresh.len() < WAITING_MAX => {
                    fresh.push(CommittedTransition { user_id, json });
                }
                (Topic::Transitions, ..) => missed += 1,
                (Topic::States | Topic::DeadLetters, ..) => {}
            }
        }
        if fresh.is_empty() {
            return;
        }
        let mut waiting = self.lock();
        if missed > 0 {
            // What waits is older than what was left out.
            missed += waiting.taken.transitions.len() as u64;
            waiting.taken.transitions.clear();
            waiting.bytes = 0;
        }
        waiting.taken.missed += missed;
        for transition in fresh.into_iter().rev() {
            waiting.push(transition);
        }
    }

    /// A panic while the lock is held loses onlookers a line at worst.
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn push(&mut self, transition: CommittedTransition) {
        self.bytes += transition.len_bytes();
        self.taken.transitions.push_back(transition);
        while self.taken.transitions.len() > WAITING_MAX || self.bytes > WAITING_BYTES_MAX {
            let Some(oldest) = self.taken.transitions.pop_front() else { break };
            self.bytes -= oldest.len_bytes();
            self.taken.missed += 1;
        }
    }
}

impl CommittedTransition {
    fn len_bytes(&self) -> usize {
        self.user_id.len() + self.json.len() + size_of::<Self>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::effect::Headers;

    fn output(topic: Topic, user: &str, value: &str) -> Output {
        Output { topic, key: Some(user.into()), value: Some(value.into()), headers: Headers::default() }
    }

    fn users(taken: &Taken) -> Vec<&str> {
        let ids = taken.transitions.iter().map(|transition| std::str::from_utf8(&transition.user_id));
        ids.map(|id| id.expect("text")).collect()
    }

    #[test]
    fn transitions_alone_are_shown_once_and_in_order() {
        let feed = TransitionFeed::new();
        let first = [output(Topic::Transitions, "ann", "{}"), output(Topic::States, "ann", "{}")];
        feed.show(first.into_iter());
        feed.show([output(Topic::DeadLetters, "x", "?"), output(Topic::Transitions, "bob", "{}")].into_iter());
        let taken = feed.take();
        assert_eq!((users(&taken), taken.missed), (vec!["ann", "bob"], 0));
        assert_eq!(feed.take(), Taken::default());
    }

    #[test]
    fn what_nobody_takes_is_bounded_and_counted_and_the_newest_stay() {
        let feed = TransitionFeed::new();
        let many =
            |n: usize| (0..n).map(|n| output(Topic::Transitions, &format!("user-{n}"), "{}")).collect::<Vec<_>>();
        feed.show(many(10).into_iter());
        feed.show(many(WAITING_MAX + 7).into_iter());
        feed.show(many(3).into_iter());
        let taken = feed.take();
        assert_eq!(taken.transitions.len(), WAITING_MAX);
        assert_eq!(taken.missed, 10 + 7 + 3);
        assert_eq!(users(&taken)[WAITING_MAX - 3..], ["user-0", "user-1", "user-2"]);
        assert_eq!(users(&taken)[0], "user-10", "ten, seven and three are gone");
    }

    #[test]
    fn large_records_are_bounded_by_their_bytes() {
        let feed = TransitionFeed::new();
        let large = "x".repeat(WAITING_BYTES_MAX / 4);
        for _ in 0..10 {
            feed.show([output(Topic::Transitions, "ann", &large)].into_iter());
        }
        let taken = feed.take();
        assert_eq!((taken.transitions.len(), taken.missed), (3, 7));
    }
}

//! Committed transitions as they happen, for onlookers such as the console's event stream.
//!
//! A transition is shown only after the transaction that holds it has committed. It costs the worker next to nothing,
//! whoever looks: the records that it has produced anyhow are moved here instead of dropped, with one lock a commit and
//! onlooker. An onlooker takes when it likes; what was too much meanwhile is gone, oldest first, and counted. The topic is
//! the record, this is a window.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::shard::Topic;
use crate::shard::effect::Output;

/// Transitions that wait for one onlooker.
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

/// What has gathered for an onlooker since the last time.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// The newest, in order.
    pub transitions: VecDeque<Arc<CommittedTransition>>,
    /// How many were before those and are gone.
    pub missed: u64,
}

/// Where the workers leave committed transitions.
#[derive(Clone, Debug, Default)]
pub struct TransitionFeed {
    onlookers: Arc<Mutex<Vec<Weak<Mutex<Waiting>>>>>,
}

/// Takes what the feed shows, from [`TransitionFeed::watch`] on.
#[derive(Debug)]
pub struct Onlooker {
    waiting: Arc<Mutex<Waiting>>,
}

#[derive(Debug, Default)]
struct Waiting {
    taken: Taken,
    bytes: usize,
}

impl TransitionFeed {
    /// A feed that nobody watches yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Watches from now on.
    #[must_use]
    pub fn watch(&self) -> Onlooker {
        let waiting = Arc::default();
        let mut onlookers = lock(&self.onlookers);
        onlookers.retain(|onlooker| onlooker.strong_count() > 0);
        onlookers.push(Arc::downgrade(&waiting));
        Onlooker { waiting }
    }

    /// Shows the transitions among the outputs of one commit, given in order; all other outputs are dropped.
    pub(crate) fn show(&self, outputs: impl DoubleEndedIterator<Item = Output>) {
        let onlookers: Vec<_> = lock(&self.onlookers).iter().filter_map(Weak::upgrade).collect();
        if onlookers.is_empty() {
            return;
        }
        let mut fresh = Vec::new();
        let mut missed = 0;
        for Output { topic, key, value, .. } in outputs.rev() {
            match (topic, key, value) {
                (Topic::Transitions, Some(user_id), Some(json)) if fresh.len() < WAITING_MAX => {
                    fresh.push(Arc::new(CommittedTransition { user_id, json }));
                }
                (Topic::Transitions, ..) => missed += 1,
                (Topic::States | Topic::DeadLetters | Topic::Segments | Topic::Outcomes, ..) => {}
            }
        }
        if fresh.is_empty() {
            return;
        }
        for onlooker in onlookers {
            lock(&onlooker).add(missed, &fresh);
        }
    }
}

impl Onlooker {
    /// Everything since the last call.
    #[must_use]
    pub fn take(&self) -> Taken {
        let mut waiting = lock(&self.waiting);
        waiting.bytes = 0;
        std::mem::take(&mut waiting.taken)
    }
}

/// A panic while the lock is held loses onlookers a line at worst.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Waiting {
    /// Adds what one commit brings: `missed` transitions that are not given, then these, newest first.
    fn add(&mut self, missed: u64, fresh: &[Arc<CommittedTransition>]) {
        if missed > 0 {
            // What waits is older than what was left out.
            self.taken.missed += missed + self.taken.transitions.len() as u64;
            self.taken.transitions.clear();
            self.bytes = 0;
        }
        for transition in fresh.iter().rev() {
            self.bytes += transition.len_bytes();
            self.taken.transitions.push_back(Arc::clone(transition));
            while self.taken.transitions.len() > WAITING_MAX || self.bytes > WAITING_BYTES_MAX {
                let Some(oldest) = self.taken.transitions.pop_front() else { break };
                self.bytes -= oldest.len_bytes();
                self.taken.missed += 1;
            }
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
        let onlooker = feed.watch();
        let first = [output(Topic::Transitions, "ann", "{}"), output(Topic::States, "ann", "{}")];
        feed.show(first.into_iter());
        feed.show([output(Topic::DeadLetters, "x", "?"), output(Topic::Transitions, "bob", "{}")].into_iter());
        let taken = onlooker.take();
        assert_eq!((users(&taken), taken.missed), (vec!["ann", "bob"], 0));
        assert_eq!(onlooker.take(), Taken::default());
    }

    #[test]
    fn every_onlooker_sees_all_from_when_it_came_and_none_is_kept_for_one_that_left() {
        let feed = TransitionFeed::new();
        let early = feed.watch();
        feed.show([output(Topic::Transitions, "ann", "{}")].into_iter());
        let late = feed.watch();
        feed.show([output(Topic::Transitions, "bob", "{}")].into_iter());
        assert_eq!(users(&early.take()), ["ann", "bob"]);
        assert_eq!(users(&late.take()), ["bob"]);
        drop((early, late));
        let _only = feed.watch();
        assert_eq!(lock(&feed.onlookers).len(), 1);
    }

    #[test]
    fn what_nobody_takes_is_bounded_and_counted_and_the_newest_stay() {
        let feed = TransitionFeed::new();
        let onlooker = feed.watch();
        let many =
            |n: usize| (0..n).map(|n| output(Topic::Transitions, &format!("user-{n}"), "{}")).collect::<Vec<_>>();
        feed.show(many(10).into_iter());
        feed.show(many(WAITING_MAX + 7).into_iter());
        feed.show(many(3).into_iter());
        let taken = onlooker.take();
        assert_eq!(taken.transitions.len(), WAITING_MAX);
        assert_eq!(taken.missed, 10 + 7 + 3);
        assert_eq!(users(&taken)[WAITING_MAX - 3..], ["user-0", "user-1", "user-2"]);
        assert_eq!(users(&taken)[0], "user-10", "ten, seven and three are gone");
    }

    #[test]
    fn large_records_are_bounded_by_their_bytes() {
        let feed = TransitionFeed::new();
        let onlooker = feed.watch();
        let large = "x".repeat(WAITING_BYTES_MAX / 4);
        for _ in 0..10 {
            feed.show([output(Topic::Transitions, "ann", &large)].into_iter());
        }
        let taken = onlooker.take();
        assert_eq!((taken.transitions.len(), taken.missed), (3, 7));
    }
}

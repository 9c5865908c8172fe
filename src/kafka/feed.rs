//! Committed transitions as they happen, for onlookers such as the console's event stream.
//!
//! A transition is shown only after the transaction that holds it has committed. Whoever is slow misses some: the topic
//! is the record, this is a window.

use std::sync::Arc;

use tokio::sync::broadcast;

/// How many transitions a slow onlooker may be behind before it misses some.
pub const FEED_CAPACITY: usize = 4096;

/// One committed transition: cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedTransition {
    /// The shard that it comes from.
    pub partition: i32,
    /// The user id, as the record's key has it.
    pub user_id: Arc<[u8]>,
    /// The transition record: JSON, as it is in the topic.
    pub json: Arc<[u8]>,
}

/// Where the workers put committed transitions and onlookers take them from.
#[derive(Clone, Debug)]
pub struct TransitionFeed {
    sender: broadcast::Sender<CommittedTransition>,
}

impl Default for TransitionFeed {
    fn default() -> Self {
        Self::new()
    }
}

impl TransitionFeed {
    /// A feed that nobody watches yet.
    #[must_use]
    pub fn new() -> Self {
        Self { sender: broadcast::Sender::new(FEED_CAPACITY) }
    }

    /// Watches from now on. `RecvError::Lagged` tells how many were missed.
    #[must_use]
    pub fn watch(&self) -> broadcast::Receiver<CommittedTransition> {
        self.sender.subscribe()
    }

    /// Whether anybody watches; if not, nothing needs to be copied.
    #[must_use]
    pub fn is_watched(&self) -> bool {
        self.sender.receiver_count() > 0
    }

    /// Shows a committed transition to everybody who watches.
    pub(crate) fn show(&self, partition: i32, user_id: &[u8], json: &[u8]) {
        // An error says that nobody watches any more, which is nobody's loss.
        let _ = self.sender.send(CommittedTransition { partition, user_id: user_id.into(), json: json.into() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_onlooker_misses_the_oldest_and_stops_nobody() {
        let feed = TransitionFeed::new();
        let mut watcher = feed.watch();
        for _ in 0..=FEED_CAPACITY {
            feed.show(0, b"ann", b"{}");
        }
        assert!(matches!(watcher.try_recv(), Err(broadcast::error::TryRecvError::Lagged(1))));
        assert_eq!(watcher.try_recv().map(|seen| seen.user_id.to_vec()), Ok(b"ann".to_vec()));
        drop(watcher);
        assert!(!feed.is_watched());
    }
}

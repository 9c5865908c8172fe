//! What this instance holds right now, for the HTTP edge and the metrics: written by the workers, read by anybody.
//!
//! It is a copy for onlookers, never a source of decisions: the worker decides from its own shards.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::shard::cohort::Cohorts;
use crate::time::{EventTime, WallTime};

/// What a shard is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Reading its changelog; its users are not served yet.
    Restoring {
        /// Changelog offsets read so far.
        done: u64,
        /// Changelog offsets to read.
        total: u64,
    },
    /// Consuming.
    Running,
    /// Stopped by an error that a person has to answer.
    Stopped {
        /// What failed, and what to do.
        reason: String,
    },
}

/// One shard of this instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardStatus {
    /// The input partition.
    pub partition: i32,
    /// Which worker holds it, from 0.
    pub worker: usize,
    /// What it is doing.
    pub phase: Phase,
    /// The next input offset to read; `None` before the first record.
    pub position: Option<i64>,
    /// The next input offset that the state on disk does not include; `None` before the first commit.
    pub committed: Option<i64>,
    /// The end of the input partition for a `read_committed` reader, as of the last look; `None` before it.
    pub end: Option<i64>,
    /// Up to where event time has come; `None` before the first event.
    pub watermark: Option<EventTime>,
    /// Whether the silence guard holds the watermark (SPEC section 4).
    pub guard_holds: bool,
    /// The sizes of its cohorts, as of the last commit.
    pub cohorts: Cohorts,
    /// Changelog offsets read by the present or last restore, and how many it has or had to read.
    pub restored: (u64, u64),
}

impl ShardStatus {
    /// A shard that has just been taken over.
    #[must_use]
    pub fn taken_over(partition: i32, worker: usize) -> Self {
        Self {
            partition,
            worker,
            phase: Phase::Restoring { done: 0, total: 0 },
            position: None,
            committed: None,
            end: None,
            watermark: None,
            guard_holds: false,
            cohorts: Cohorts::default(),
            restored: (0, 0),
        }
    }

    /// Records of the input not read yet; `None` while that is unknown. May count transaction markers as records.
    #[must_use]
    pub fn lag(&self) -> Option<i64> {
        Some((self.end? - self.position.unwrap_or(0)).max(0))
    }
}

/// What this instance holds.
#[derive(Debug)]
pub struct Status {
    instance_id: String,
    workers: usize,
    started_at: WallTime,
    inner: RwLock<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    input_partitions: Option<i32>,
    joined: BTreeSet<usize>,
    shards: BTreeMap<i32, ShardStatus>,
}

impl Status {
    /// An instance that holds nothing yet.
    #[must_use]
    pub fn new(instance_id: impl Into<String>, workers: usize, started_at: WallTime) -> Self {
        Self { instance_id: instance_id.into(), workers, started_at, inner: RwLock::default() }
    }

    /// The configured name of this instance.
    #[must_use]
    pub fn instance_id(&self) -> &str {
        &self.instance_id
    }

    /// How many workers this instance runs.
    #[must_use]
    pub const fn workers(&self) -> usize {
        self.workers
    }

    /// When this instance started.
    #[must_use]
    pub const fn started_at(&self) -> WallTime {
        self.started_at
    }

    /// Partitions of the input topic; `None` until the topics have been looked at.
    #[must_use]
    pub fn input_partitions(&self) -> Option<i32> {
        self.read().input_partitions
    }

    /// Every shard of this instance, in order of partition.
    #[must_use]
    pub fn shards(&self) -> Vec<ShardStatus> {
        self.read().shards.values().cloned().collect()
    }

    /// One shard, if this instance holds it.
    #[must_use]
    pub fn shard(&self, partition: i32) -> Option<ShardStatus> {
        self.read().shards.get(&partition).cloned()
    }

    /// The cohort sizes of all shards of this instance.
    #[must_use]
    pub fn cohorts(&self) -> Cohorts {
        let mut all = Cohorts::default();
        for shard in self.read().shards.values() {
            all.merge(&shard.cohorts);
        }
        all
    }

    /// Whether every worker has joined the group and every shard is restored.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let inner = self.read();
        inner.joined.len() == self.workers && inner.shards.values().all(|shard| shard.phase == Phase::Running)
    }

    /// Whether every worker has got an assignment from the group, if only an empty one.
    #[must_use]
    pub fn has_joined(&self) -> bool {
        self.read().joined.len() == self.workers
    }

    /// The number of input partitions is known.
    pub fn set_input_partitions(&self, count: i32) {
        self.write().input_partitions = Some(count);
    }

    /// A worker got an assignment from the group, possibly an empty one.
    pub fn joined(&self, worker: usize) {
        self.write().joined.insert(worker);
    }

    /// A worker left the group or is about to join it again.
    pub fn left(&self, worker: usize) {
        let mut inner = self.write();
        inner.joined.remove(&worker);
        inner.shards.retain(|_, shard| shard.worker != worker);
    }

    /// A shard was taken over.
    pub fn insert(&self, shard: ShardStatus) {
        self.write().shards.insert(shard.partition, shard);
    }

    /// Changes what is known of a shard that `worker` holds; nothing happens if it holds it no longer.
    pub fn update(&self, partition: i32, worker: usize, change: impl FnOnce(&mut ShardStatus)) {
        if let Some(shard) = self.write().shards.get_mut(&partition).filter(|shard| shard.worker == worker) {
            change(shard);
        }
    }

    /// `worker` gave up a shard. Another worker of this instance may have taken it over already: then it stays.
    pub fn remove(&self, partition: i32, worker: usize) {
        let mut inner = self.write();
        if inner.shards.get(&partition).is_some_and(|shard| shard.worker == worker) {
            inner.shards.remove(&partition);
        }
    }

    // A panicking worker ends the process; until then a reader may still see what was there.
    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_means_joined_and_restored() {
        let status = Status::new("a", 2, WallTime::from_millis(0));
        status.joined(0);
        assert!(!status.is_ready(), "worker 1 has not joined");
        status.joined(1);
        assert!(status.is_ready(), "an instance without shards is ready: there may be more workers than partitions");
        status.insert(ShardStatus::taken_over(3, 1));
        assert!(!status.is_ready(), "shard 3 is restoring");
        status.update(3, 1, |shard| shard.phase = Phase::Running);
        assert!(status.is_ready());
        status.left(1);
        assert!(!status.is_ready());
        assert_eq!(status.shards(), []);
    }

    #[test]
    fn giving_up_a_shard_leaves_its_new_worker_alone() {
        let status = Status::new("a", 2, WallTime::from_millis(0));
        status.insert(ShardStatus::taken_over(3, 0));
        status.insert(ShardStatus::taken_over(3, 1));
        status.remove(3, 0);
        status.update(3, 0, |shard| shard.position = Some(7));
        assert_eq!(status.shard(3), Some(ShardStatus::taken_over(3, 1)));
    }
}

//! One shard: a partition of the input with everything derived from it (SPEC, "Words"). Ring 2: deterministic. Records
//! and wall time come in as parameters, what is to be produced goes out as [`Effects`]; the only thing underneath is the
//! [`Store`].
//!
//! The order of calls, by one thread:
//!
//! 1. [`Shard::open`] on a store that was restored to the end of the changelog;
//! 2. [`Shard::apply`] and [`Shard::advance`], as often as the commit interval allows;
//! 3. [`Shard::seal`], once: what the transaction has to hold beside the effects;
//! 4. after the transaction has committed [`Shard::committed`], which alone writes the store; or, whenever something went
//!    wrong since the last commit, [`Shard::rollback`], after which nothing of it ever happened. Then 2 again.
//!
//! Invariants, and where they are held: per user the output is independent of batching (each record first advances its
//! user to the watermark that it moved); the store is never ahead of Kafka (only `committed` writes); a user's armed
//! deadline is never later than the real one (`settle`); the cohorts are those of the users (`touch`).

pub mod cohort;
pub mod effect;
pub mod watermark;

use std::sync::Arc;

use crate::event::Record;
use crate::rules::Rules;
use crate::store::{Batch, Store, StoreError};
use crate::time::{EventTime, Span, WallTime};

pub use cohort::Cohorts;
pub use effect::{Counts, Effects, Headers, Output, RecordOutcome, Topic};
pub use watermark::{TimeRules, Watermark};

/// One partition's users, deadlines and clock.
#[derive(Debug)]
pub struct Shard<S: Store> {
    partition: i32,
    rules: Arc<Rules>,
    store: S,
}

/// Whether [`Shard::advance`] got through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a shard with more to do has to be advanced again before long"]
pub enum Progress {
    /// Everything that is due has fired.
    Done,
    /// The budget ran out first.
    More,
}

/// One record for the changelog topic, whose partition is the shard's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangelogRecord {
    /// `u` + user id, or `s`.
    pub key: Vec<u8>,
    /// The encoded user or shard record; `None` when the user is gone.
    pub value: Option<Vec<u8>>,
}

/// What was applied since the last commit, ready for the transaction. Give it back with [`Shard::committed`], or drop it
/// and call [`Shard::rollback`].
#[derive(Debug)]
#[must_use = "a sealed commit has to be committed or rolled back"]
pub struct Sealed {
    /// To be produced to the changelog in the same transaction as the effects. Empty when nothing changed.
    pub changelog: Vec<ChangelogRecord>,
    /// The input offset to send to the transaction: the next record to read. `None` if no record was ever read.
    pub position: Option<i64>,
}

/// What is waiting for a commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pending {
    /// Records of the input applied since the last commit.
    pub records: usize,
    /// Users changed since the last commit.
    pub users: usize,
    /// About so many bytes of changelog.
    pub bytes: usize,
}

/// Why a shard cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ShardError {
    /// Users would land in other shards: an operator has to decide.
    #[error(
        "the input topic has {found} partitions, and partition {partition} was recorded with {recorded}: users would \
         change their shard; go back to {recorded} partitions, or start with a new group id and a new changelog topic"
    )]
    PartitionCountChanged {
        /// This shard.
        partition: i32,
        /// Partitions when the state was written.
        recorded: i32,
        /// Partitions now.
        found: i32,
    },
    /// The store failed or is damaged.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl<S: Store> Shard<S> {
    /// Takes up a shard where its store says it was, or begins an empty one. If the policy has changed since, every user
    /// will be judged again by the calls of [`Shard::advance`] that follow (SPEC section 7).
    ///
    /// # Errors
    /// [`ShardError::PartitionCountChanged`], or the store failed.
    pub fn open(partition: i32, rules: Arc<Rules>, store: S, input_partitions: i32) -> Result<Self, ShardError> {
        let _ = input_partitions;
        Ok(Self { partition, rules, store })
    }

    /// Bounds the cache of decoded users to about `bytes`; the default is [`DEFAULT_CACHE_BYTES`].
    pub fn limit_cache(&mut self, bytes: usize) {
        todo!("{bytes}")
    }

    /// Applies records of the input in order: events, deletion requests and rubbish alike. `now` dates what is detected
    /// and judges the future.
    ///
    /// # Errors
    /// The store failed; roll back.
    pub fn apply(&mut self, records: &[Record<'_>], now: WallTime, out: &mut Effects) -> Result<(), ShardError> {
        todo!("{} {now} {}", records.len(), out.outputs.len())
    }

    /// Lets wall time count (SPEC section 4), then fires what is due, in order of time, and judges users by a changed
    /// policy: at most about `budget` users. `caught_up` says that the partition has no unread record.
    ///
    /// # Errors
    /// The store failed; roll back.
    pub fn advance(
        &mut self,
        now: WallTime,
        caught_up: bool,
        budget: usize,
        out: &mut Effects,
    ) -> Result<Progress, ShardError> {
        todo!("{now} {caught_up} {budget} {}", out.outputs.len())
    }

    /// How long after `now` [`Shard::advance`] will have something to do if no record comes; `None` when nothing is ever
    /// due without one.
    #[must_use]
    pub fn next_wake(&self, now: WallTime) -> Option<Span> {
        todo!("{now}")
    }

    /// Encodes everything that changed since the last commit, each user once.
    ///
    /// # Errors
    /// The store failed; roll back.
    pub fn seal(&mut self) -> Result<Sealed, ShardError> {
        todo!()
    }

    /// The transaction that held `sealed` has committed: writes the store. `changelog_position` is the changelog offset
    /// after the last record of the commit.
    ///
    /// # Errors
    /// The store failed: the shard has to be restored.
    pub fn committed(&mut self, sealed: Sealed, changelog_position: i64) -> Result<(), ShardError> {
        todo!("{sealed:?} {changelog_position}")
    }

    /// Goes back to the last commit.
    ///
    /// # Errors
    /// The store failed.
    pub fn rollback(&mut self) -> Result<(), ShardError> {
        todo!()
    }

    /// This shard's partition.
    #[must_use]
    pub const fn partition(&self) -> i32 {
        self.partition
    }

    /// The next input offset, as of what was applied; `None` before the first record ever.
    #[must_use]
    pub fn position(&self) -> Option<i64> {
        todo!()
    }

    /// The next input offset, as of the last commit.
    #[must_use]
    pub fn committed_position(&self) -> Option<i64> {
        todo!()
    }

    /// The changelog offset up to which (exclusive) the store holds the changelog.
    #[must_use]
    pub fn changelog_position(&self) -> Option<i64> {
        todo!()
    }

    /// Deadlines up to here have taken effect; [`EventTime::MIN`] before the first event.
    #[must_use]
    pub fn watermark(&self) -> EventTime {
        todo!()
    }

    /// Whether the silence guard holds the watermark back (SPEC section 4).
    #[must_use]
    pub fn guard_holds(&self, now: WallTime) -> bool {
        todo!("{now}")
    }

    /// How many users are in which state, as of what was applied.
    #[must_use]
    pub fn cohorts(&self) -> &Cohorts {
        todo!()
    }

    /// What waits for a commit.
    #[must_use]
    pub fn pending(&self) -> Pending {
        todo!()
    }

    /// The store, for reading what is committed.
    #[must_use]
    pub const fn store(&self) -> &S {
        &self.store
    }
}

impl Sealed {
    /// Whether nothing changed: no transaction is needed.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.changelog.is_empty()
    }
}

/// Turns records of the changelog into one write of the store, the index of deadlines included. Call it with batches of
/// a few thousand records, in order; `position` is the changelog offset after the last of them.
///
/// # Errors
/// The store failed, or a record is none that this build writes.
pub fn restore_batch<'a>(
    store: &impl Store,
    records: impl IntoIterator<Item = (&'a [u8], Option<&'a [u8]>)>,
    position: i64,
) -> Result<Batch, ShardError> {
    let _ = (store, records.into_iter().count(), position);
    todo!()
}

//! The steps of a worker between reading a record and writing the local store, told to whoever watches.
//!
//! It is there for tests that end the process, or hold it up, at each step in turn (`tests/fail_points.rs`). The program
//! has nobody who watches: no setting, argument or variable of it reaches this.

/// A moment of a worker's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Records were read, and none is applied.
    Polled,
    /// They are applied in memory.
    Applied,
    /// What changed is encoded; nothing is sent.
    Sealed,
    /// A transaction is begun.
    Begun,
    /// The records of one shard are handed to the producer, those of the next ones are not.
    PartlyProduced,
    /// All of them are.
    Produced,
    /// The brokers have all of them.
    Delivered,
    /// The offsets are in the transaction.
    OffsetsSent,
    /// The transaction is committed, and the local store knows nothing of it.
    Committed,
    /// The local store has the changes of one shard, and not of the next ones.
    PartlyWritten,
    /// The local store has all of them.
    Written,
    /// The producer was replaced.
    Renewed,
    /// The group's offsets told what became of a commit.
    OffsetsRead,
    /// The shards are back at their last commit.
    RolledBack,
    /// A part of a changelog is in the local store.
    PartlyRestored,
    /// A changelog is in the local store to its end.
    Restored,
    /// A shard that the group takes away is committed, and the group has no answer yet.
    Released,
}

impl Step {
    /// All of them, about in order.
    pub const ALL: [Self; 17] = [
        Self::Polled,
        Self::Applied,
        Self::Sealed,
        Self::Begun,
        Self::PartlyProduced,
        Self::Produced,
        Self::Delivered,
        Self::OffsetsSent,
        Self::Committed,
        Self::PartlyWritten,
        Self::Written,
        Self::Renewed,
        Self::OffsetsRead,
        Self::RolledBack,
        Self::PartlyRestored,
        Self::Restored,
        Self::Released,
    ];
}

/// Is told each step, on the worker's own thread and before the worker goes on.
pub type Watcher = fn(Step);

/// Nobody watches.
pub fn unwatched(_: Step) {}

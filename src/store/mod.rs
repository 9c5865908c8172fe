//! The store: one shard's users, timers and shard record behind one small trait (SPEC section 7, STYLE "Shard").
//!
//! Two implementations: [`rocks`] (the product) and [`memory`] (a `BTreeMap`, for the model tests and `replay`).
//! The store is written only after the Kafka transaction that holds the same changes has committed; it may be behind
//! Kafka, never ahead of it.

pub(crate) mod bytes;
pub mod codec;
pub mod key;
pub mod memory;
pub mod rocks;

use crate::time::EventTime;

/// A deadline in the durable index: ordered by time, then by user.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline {
    /// When it is due.
    pub at: EventTime,
    /// Whose.
    pub user_id: Box<str>,
}

/// A cell of the ledger: its key, and its counts as `shard::ledger` encodes them.
pub type Cell = (Box<[u8]>, Vec<u8>);

/// One atomic change of one shard.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Users to write (`Some`, encoded) or delete (`None`).
    pub users: Vec<(Box<str>, Option<Vec<u8>>)>,
    /// Deadlines to add to the index.
    pub arm: Vec<Deadline>,
    /// Deadlines to remove from the index.
    pub disarm: Vec<Deadline>,
    /// Cells of the ledger to write (`Some`, encoded) or delete (`None`).
    pub cells: Vec<(Box<[u8]>, Option<Vec<u8>>)>,
    /// The shard's own record, encoded.
    pub shard: Option<Vec<u8>>,
    /// The changelog offset that this batch reaches to (exclusive): the next record to replay.
    pub changelog_position: Option<i64>,
}

/// One shard's persistent state.
pub trait Store {
    /// The encoded user, or `None`.
    ///
    /// # Errors
    /// The disk failed or holds damaged data.
    fn user(&self, user_id: &str) -> Result<Option<Vec<u8>>, StoreError>;

    /// The encoded users of `user_ids`, in their order: one batched read.
    ///
    /// # Errors
    /// As [`Store::user`].
    fn users(&self, user_ids: &[&str]) -> Result<Vec<Option<Vec<u8>>>, StoreError>;

    /// Up to `limit` deadlines in order, after `after` (exclusive; `None` is from the start), due before `until` (exclusive).
    ///
    /// # Errors
    /// As [`Store::user`].
    fn deadlines(&self, after: Option<&Deadline>, until: EventTime, limit: usize) -> Result<Vec<Deadline>, StoreError>;

    /// Up to `limit` users in order of their id, after `after` (exclusive; `None` is from the start).
    ///
    /// # Errors
    /// As [`Store::user`].
    fn scan(&self, after: Option<&str>, limit: usize) -> Result<Vec<(Box<str>, Vec<u8>)>, StoreError>;

    /// The cells of the ledger whose keys begin with `prefix`, encoded, in order of their keys.
    ///
    /// # Errors
    /// As [`Store::user`].
    fn cells(&self, prefix: &[u8]) -> Result<Vec<Cell>, StoreError>;

    /// The shard's own record and the changelog position, if this shard was ever written.
    ///
    /// # Errors
    /// As [`Store::user`].
    fn shard(&self) -> Result<(Option<Vec<u8>>, Option<i64>), StoreError>;

    /// Writes a batch atomically.
    ///
    /// # Errors
    /// The disk failed; nothing of the batch is visible.
    fn write(&mut self, batch: Batch) -> Result<(), StoreError>;
}

/// What went wrong below the shard. All of them stop the worker: the changelog still has everything.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has the folder open.
    #[error(
        "the state folder {path} is in use by another process ({source}): stop it, or give this one its own state.dir"
    )]
    Locked {
        /// The folder.
        path: String,
        /// What RocksDB said.
        source: rocksdb::Error,
    },
    /// The disk is full.
    #[error(
        "the disk that holds the state folder {path} is full ({source}): free some space, or give the instance a larger disk, and start again; nothing is lost, the changelog has everything"
    )]
    DiskFull {
        /// The folder.
        path: String,
        /// What RocksDB said.
        source: rocksdb::Error,
    },
    /// Files of the database are damaged or gone. The next start builds them anew, see [`rocks::Database::destroy`].
    #[error(
        "the state database at {path} is damaged ({source}): look at the disk, and start again; the state is then restored from the changelog, nothing is lost"
    )]
    Corrupted {
        /// The folder.
        path: String,
        /// What RocksDB said.
        source: rocksdb::Error,
    },
    /// RocksDB said no for another reason, such as a missing permission.
    #[error(
        "the state database at {path} failed: {source}; mend what it says, or remove the folder, and start again: nothing is lost, the changelog has everything"
    )]
    Database {
        /// The folder.
        path: String,
        /// What RocksDB said.
        source: rocksdb::Error,
    },
    /// The state folder cannot be written.
    #[error(
        "the state folder {path} cannot be used: {source}; give the process the right to write there, or free space"
    )]
    Folder {
        /// The folder.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A stored value does not decode.
    #[error(
        "stored state is damaged: {what}; remove the state folder and start again to restore it from the changelog"
    )]
    Damaged {
        /// Which value, and why.
        what: String,
    },
    /// A stored value has a version that this build does not know.
    #[error(
        "stored state of {what} has version {version}, and this build knows up to {known}: start the newer Ebbtide again"
    )]
    UnknownVersion {
        /// Which value.
        what: &'static str,
        /// Its version.
        version: u8,
        /// The newest known one.
        known: u8,
    },
}

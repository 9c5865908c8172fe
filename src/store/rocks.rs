//! RocksDB: one database for the process, all shards in it.

use std::path::Path;
use std::sync::Arc;

use crate::store::{Batch, Deadline, Store, StoreError};
use crate::time::EventTime;

/// The process's state database.
#[derive(Debug)]
pub struct Database {}

/// Sizes for the metrics, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Block cache in use.
    pub cache: u64,
    /// Memtables.
    pub memtables: u64,
    /// Index and filter blocks outside the cache.
    pub table_readers: u64,
    /// Files on disk.
    pub disk: u64,
}

impl Database {
    /// Opens or creates the database in `dir`; block cache and memtables together keep to `memory` bytes.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when another process has it open, [`StoreError::Database`] otherwise.
    pub fn open(dir: &Path, memory: u64) -> Result<Arc<Self>, StoreError> {
        todo!("{dir:?} {memory}")
    }

    /// The store of one shard.
    #[must_use]
    pub fn shard(self: &Arc<Self>, partition: i32) -> RocksStore {
        todo!("{partition}")
    }

    /// Removes everything of one shard.
    ///
    /// # Errors
    /// The disk failed.
    pub fn drop_shard(&self, partition: i32) -> Result<(), StoreError> {
        todo!("{partition}")
    }

    /// Flushes the memtables if the oldest unflushed write is older than `age`; says whether it did. Without a flush a
    /// quiet shard's changelog position could fall behind the changelog's start. Blocks: call it off the worker's threads.
    ///
    /// # Errors
    /// The disk failed.
    pub fn flush_older_than(
        &self,
        age: std::time::Duration,
        since_start: std::time::Duration,
    ) -> Result<bool, StoreError> {
        todo!("{age:?} {since_start:?}")
    }

    /// Flushes everything; at shut-down, so that a restart has nothing to replay.
    ///
    /// # Errors
    /// The disk failed.
    pub fn flush(&self) -> Result<(), StoreError> {
        todo!()
    }

    /// Memory and disk in use.
    #[must_use]
    pub fn sizes(&self) -> Sizes {
        todo!()
    }
}

/// One shard's part of the [`Database`].
#[derive(Debug)]
pub struct RocksStore {}

impl Store for RocksStore {
    fn user(&self, _user_id: &str) -> Result<Option<Vec<u8>>, StoreError> {
        todo!()
    }
    fn users(&self, _user_ids: &[&str]) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        todo!()
    }
    fn deadlines(&self, _: Option<&Deadline>, _: EventTime, _: usize) -> Result<Vec<Deadline>, StoreError> {
        todo!()
    }
    fn scan(&self, _after: Option<&str>, _limit: usize) -> Result<Vec<(Box<str>, Vec<u8>)>, StoreError> {
        todo!()
    }
    fn shard(&self) -> Result<(Option<Vec<u8>>, Option<i64>), StoreError> {
        todo!()
    }
    fn write(&mut self, _batch: Batch) -> Result<(), StoreError> {
        todo!()
    }
}

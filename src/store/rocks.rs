//! RocksDB: one database for the process, all shards in it, with one block cache and one budget of write buffers.
//!
//! The write-ahead log is off: what is lost with the memory stands in the changelog, and the changelog position is
//! written in the same batch as what it covers. Families are flushed together (atomic flush), so a crash finds all of
//! them as of one batch.

mod load;
mod options;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rocksdb::{
    Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBRawIterator, FlushOptions, Options, ReadOptions, WriteBatch,
    WriteBufferManager, WriteOptions, properties,
};

use crate::store::{Batch, Cell, Deadline, Store, StoreError, key};
use crate::time::EventTime;
use load::Loader;
use options::family_options;

const USERS: &str = "users";
const TIMERS: &str = "timers";
const META: &str = "meta";
const FAMILIES: [&str; 3] = [USERS, TIMERS, META];

/// Sixteenths of `state.memory`: blocks read from disk, and writes not yet flushed. The rest is for decoded users, for what
/// a commit holds, and for RocksDB's own tables.
const CACHE_SHARE: u64 = 3;
const WRITE_SHARE: u64 = 2;
/// A memtable of one family is half of the write budget, within these bounds: users come again, and what is overwritten in
/// memory is never compacted.
const MEMTABLE_BYTES: std::ops::RangeInclusive<u64> = (1 << 20)..=(64 << 20);
/// Files that are kept open; their index and filter blocks live in the block cache.
const OPEN_FILES: i32 = 256;
/// How far an export reads ahead.
const READAHEAD_BYTES: usize = 1 << 20;

/// The process's state database.
pub struct Database {
    db: DB,
    path: PathBuf,
    cache: Cache,
    loader: Loader,
    buffers: WriteBufferManager,
    /// Milliseconds, on the caller's clock, of the first write since the last flush; `u64::MAX` when there is none.
    unflushed: AtomicU64,
}

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

/// One shard's part of the [`Database`].
#[derive(Clone)]
pub struct RocksStore {
    database: Arc<Database>,
    partition: i32,
}

impl Database {
    /// Opens or creates the database in `dir`; block cache and memtables together keep to a part of `memory` bytes.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when another process has it open, [`StoreError::Database`] otherwise.
    pub fn open(dir: &Path, memory: u64) -> Result<Arc<Self>, StoreError> {
        let cache = options::block_cache(bytes(memory / 16 * CACHE_SHARE));
        let write_bytes = memory / 16 * WRITE_SHARE;
        let buffers = WriteBufferManager::new_write_buffer_manager(bytes(write_bytes), false);
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        options.set_atomic_flush(true);
        options.set_write_buffer_manager(&buffers);
        options.set_max_open_files(OPEN_FILES);
        options.set_max_background_jobs(2);
        options.set_bytes_per_sync(1 << 20);
        options.set_keep_log_file_num(3);
        options.set_max_log_file_size(4 << 20);
        let memtable = (write_bytes / 2).clamp(*MEMTABLE_BYTES.start(), *MEMTABLE_BYTES.end());
        let families = FAMILIES.map(|name| ColumnFamilyDescriptor::new(name, family_options(name, memtable, &cache)));
        let db = DB::open_cf_descriptors(&options, dir, families).map_err(|source| store_error(dir, source))?;
        let loader = Loader::new(dir, &cache)
            .map_err(|source| StoreError::Folder { path: dir.display().to_string(), source })?;
        let unflushed = AtomicU64::new(u64::MAX);
        Ok(Arc::new(Self { db, path: dir.to_owned(), cache, loader, buffers, unflushed }))
    }

    /// Removes the files of a database that nobody has open, and nothing else that lies in the folder. It is a cache: the
    /// changelog has everything.
    ///
    /// # Errors
    /// As [`Database::open`].
    pub fn destroy(dir: &Path) -> Result<(), StoreError> {
        DB::destroy(&Options::default(), dir).map_err(|source| store_error(dir, source))
    }

    /// The store of one shard.
    #[must_use]
    pub fn shard(self: &Arc<Self>, partition: i32) -> RocksStore {
        RocksStore { database: Arc::clone(self), partition }
    }

    /// Removes everything of one shard.
    ///
    /// # Errors
    /// The disk failed.
    pub fn drop_shard(self: &Arc<Self>, partition: i32) -> Result<(), StoreError> {
        let store = self.shard(partition);
        let (from, to) = (key::partition(partition), key::partition_end(partition));
        let mut batch = WriteBatch::default();
        for name in FAMILIES {
            let family = self.family(name);
            self.db.delete_file_in_range_cf(family, from, to).map_err(|source| self.error(source))?;
            // A tombstone over an empty range would be looked at by every read to come.
            let rest = store.iterate(name, &from, to.to_vec());
            if rest.valid() {
                batch.delete_range_cf(family, from, to);
            }
            store.status(&rest)?;
        }
        if batch.is_empty() { Ok(()) } else { self.write(batch) }
    }

    /// Flushes the memtables if something was written and the last flush is longer ago than `age`; says whether it did.
    /// Without a flush a quiet shard's changelog position could fall behind the changelog's start. `since_start` is the
    /// caller's monotonic clock. Blocks: call it off the worker's threads.
    ///
    /// # Errors
    /// The disk failed.
    pub fn flush_older_than(&self, age: Duration, since_start: Duration) -> Result<bool, StoreError> {
        let now = u64::try_from(since_start.as_millis()).unwrap_or(u64::MAX - 1);
        let first = self.unflushed.load(Ordering::Acquire);
        if first == u64::MAX {
            return Ok(false);
        }
        // 0 stands for "written, moment unknown": the clock starts with this call.
        if first == 0 {
            self.unflushed.store(now.max(1), Ordering::Release);
            return Ok(false);
        }
        if u128::from(now.saturating_sub(first)) < age.as_millis() {
            return Ok(false);
        }
        self.flush().map(|()| true)
    }

    /// Flushes everything; at shut-down, so that a restart has nothing to replay.
    ///
    /// # Errors
    /// The disk failed.
    pub fn flush(&self) -> Result<(), StoreError> {
        self.unflushed.store(u64::MAX, Ordering::Release);
        let mut options = FlushOptions::default();
        options.set_wait(true);
        let families = FAMILIES.map(|name| self.family(name));
        let families: Vec<&&ColumnFamily> = families.iter().collect();
        let families: Vec<&ColumnFamily> = families.into_iter().copied().collect();
        self.db.flush_cfs_opt(&families.iter().collect::<Vec<_>>(), &options).map_err(|source| self.error(source))
    }

    /// The committed state as of now, for as long as it is held. Nobody waits for it; old versions of what is overwritten
    /// meanwhile stay on disk until it is dropped.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot<'_> {
        Snapshot { database: self, snapshot: self.db.snapshot() }
    }

    /// Rewrites all files into the lowest level; for measuring what a user takes on disk.
    pub fn compact(&self) {
        for name in FAMILIES {
            self.db.compact_range_cf(self.family(name), None::<&[u8]>, None::<&[u8]>);
        }
    }

    /// Memory and disk in use.
    #[must_use]
    pub fn sizes(&self) -> Sizes {
        let sum = |property: &properties::PropName| -> u64 {
            FAMILIES
                .iter()
                .filter_map(|name| self.db.property_int_value_cf(self.family(name), property).ok().flatten())
                .sum()
        };
        Sizes {
            cache: self.cache.get_usage() as u64,
            memtables: self.buffers.get_usage() as u64,
            table_readers: sum(properties::ESTIMATE_TABLE_READERS_MEM),
            disk: sum(properties::TOTAL_SST_FILES_SIZE),
        }
    }

    fn family(&self, name: &str) -> &ColumnFamily {
        self.db.cf_handle(name).expect("every family is created when the database is opened")
    }

    fn write(&self, batch: WriteBatch) -> Result<(), StoreError> {
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        self.db.write_opt(batch, &options).map_err(|source| self.error(source))?;
        // Only the first write after a flush sets the mark.
        let _ = self.unflushed.compare_exchange(u64::MAX, 0, Ordering::AcqRel, Ordering::Relaxed);
        Ok(())
    }

    fn error(&self, source: rocksdb::Error) -> StoreError {
        store_error(&self.path, source)
    }
}

/// The committed state of all shards at one moment.
pub struct Snapshot<'d> {
    database: &'d Database,
    snapshot: rocksdb::Snapshot<'d>,
}

impl Snapshot<'_> {
    /// A shard's own record.
    ///
    /// # Errors
    /// The disk failed.
    pub fn shard_record(&self, partition: i32) -> Result<Option<Vec<u8>>, StoreError> {
        let (family, key) = (self.database.family(META), key::shard_record(partition));
        self.snapshot.get_cf(family, key).map_err(|source| self.database.error(source))
    }

    /// A shard's users, encoded, in order of their id. Leaves the block cache to the workers.
    pub fn users(&self, partition: i32) -> impl Iterator<Item = Result<(Box<str>, Vec<u8>), StoreError>> + '_ {
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(key::partition_end(partition).to_vec());
        options.fill_cache(false);
        options.set_readahead_size(READAHEAD_BYTES);
        let mut iterator = self.snapshot.raw_iterator_cf_opt(self.database.family(USERS), options);
        iterator.seek(key::partition(partition));
        std::iter::from_fn(move || {
            let Some((key, value)) = iterator.item() else {
                return iterator.status().err().map(|source| Err(self.database.error(source)));
            };
            let user = key::read_user(key).map(|user_id| (Box::from(user_id), value.to_vec()));
            iterator.next();
            Some(user)
        })
    }
}

impl std::fmt::Debug for Snapshot<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot").field("database", self.database).finish_non_exhaustive()
    }
}

impl RocksStore {
    /// An iterator over this shard's keys in a family, from `from` on.
    fn iterate(&self, name: &str, from: &[u8], end: Vec<u8>) -> DBRawIterator<'_> {
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(end);
        let mut iterator = self.database.db.raw_iterator_cf_opt(self.database.family(name), options);
        iterator.seek(from);
        iterator
    }

    fn status(&self, iterator: &DBRawIterator<'_>) -> Result<(), StoreError> {
        iterator.status().map_err(|source| self.database.error(source))
    }
}

impl Store for RocksStore {
    fn user(&self, user_id: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let family = self.database.family(USERS);
        self.database
            .db
            .get_cf(family, key::user(self.partition, user_id))
            .map_err(|source| self.database.error(source))
    }

    fn users(&self, user_ids: &[&str]) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        let keys: Vec<Vec<u8>> = user_ids.iter().map(|user_id| key::user(self.partition, user_id)).collect();
        let family = self.database.family(USERS);
        let values = self.database.db.batched_multi_get_cf(family, &keys, user_ids.is_sorted());
        values
            .into_iter()
            .map(|value| {
                value.map(|value| value.map(|value| value.to_vec())).map_err(|source| self.database.error(source))
            })
            .collect()
    }

    fn deadlines(&self, after: Option<&Deadline>, until: EventTime, limit: usize) -> Result<Vec<Deadline>, StoreError> {
        let from = match after {
            None => key::partition(self.partition).to_vec(),
            // The smallest key above it.
            Some(Deadline { at, user_id }) => {
                let mut key = key::timer(self.partition, *at, user_id);
                key.push(0);
                key
            }
        };
        let mut iterator = self.iterate(TIMERS, &from, key::timer(self.partition, until, ""));
        let mut found = Vec::new();
        while found.len() < limit {
            let Some(key) = iterator.key() else { break };
            found.push(key::read_timer(key)?);
            iterator.next();
        }
        self.status(&iterator)?;
        Ok(found)
    }

    fn scan(&self, after: Option<&str>, limit: usize) -> Result<Vec<(Box<str>, Vec<u8>)>, StoreError> {
        let mut from = key::user(self.partition, after.unwrap_or_default());
        if after.is_some() {
            from.push(0);
        }
        let mut iterator = self.iterate(USERS, &from, key::partition_end(self.partition).to_vec());
        let mut found = Vec::new();
        while found.len() < limit {
            let Some((key, value)) = iterator.item() else { break };
            found.push((Box::from(key::read_user(key)?), value.to_vec()));
            iterator.next();
        }
        self.status(&iterator)?;
        Ok(found)
    }

    fn cells(&self, prefix: &[u8]) -> Result<Vec<Cell>, StoreError> {
        let from = key::cell(self.partition, prefix);
        let mut iterator = self.iterate(META, &from, key::cells_end(self.partition));
        let mut found = Vec::new();
        while let Some((key, value)) = iterator.item().filter(|(key, _)| key.starts_with(&from)) {
            found.push((Box::from(key::read_cell(key)?), value.to_vec()));
            iterator.next();
        }
        self.status(&iterator)?;
        Ok(found)
    }

    fn shard(&self) -> Result<(Option<Vec<u8>>, Option<i64>), StoreError> {
        let family = self.database.family(META);
        let get = |key: Vec<u8>| self.database.db.get_cf(family, key).map_err(|source| self.database.error(source));
        let position = match get(key::changelog_position(self.partition))? {
            None => None,
            Some(bytes) => {
                let bytes = <[u8; 8]>::try_from(bytes.as_slice()).map_err(|_| StoreError::Damaged {
                    what: format!("the changelog position of partition {}", self.partition),
                })?;
                Some(i64::from_be_bytes(bytes))
            }
        };
        Ok((get(key::shard_record(self.partition))?, position))
    }

    fn write(&mut self, batch: Batch) -> Result<(), StoreError> {
        let Batch { mut users, arm, disarm, cells, shard, changelog_position } = batch;
        // In the order of the keys the memtable finds each one's place next to the one before.
        users.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        let mut write = WriteBatch::default();
        let (family, mut key) = (self.database.family(USERS), Vec::new());
        for (user_id, value) in users {
            key::user_into(&mut key, self.partition, &user_id);
            match value {
                Some(value) => write.put_cf(family, &key, value),
                None => write.delete_cf(family, &key),
            }
        }
        let family = self.database.family(TIMERS);
        for Deadline { at, user_id } in disarm {
            key::timer_into(&mut key, self.partition, at, &user_id);
            write.delete_cf(family, &key);
        }
        for Deadline { at, user_id } in arm {
            key::timer_into(&mut key, self.partition, at, &user_id);
            write.put_cf(family, &key, b"");
        }
        let family = self.database.family(META);
        for (cell, value) in cells {
            let key = key::cell(self.partition, &cell);
            match value {
                Some(value) => write.put_cf(family, key, value),
                None => write.delete_cf(family, key),
            }
        }
        if let Some(shard) = shard {
            write.put_cf(family, key::shard_record(self.partition), shard);
        }
        if let Some(position) = changelog_position {
            write.put_cf(family, key::changelog_position(self.partition), position.to_be_bytes());
        }
        self.database.write(write)
    }
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Database").field("path", &self.path).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for RocksStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RocksStore").field("partition", &self.partition).finish_non_exhaustive()
    }
}

/// RocksDB's error, named for what to do about it.
fn store_error(dir: &Path, source: rocksdb::Error) -> StoreError {
    let (path, text) = (dir.display().to_string(), source.to_string());
    // A file that is gone from a database that was there before; a folder that cannot be made is another matter.
    let file_gone = || text.contains("No such file or directory") && dir.join("CURRENT").exists();
    if text.contains("No space left") {
        StoreError::DiskFull { path, source }
    } else if source.kind() == rocksdb::ErrorKind::Corruption || file_gone() {
        StoreError::Corrupted { path, source }
    } else if text.contains("lock") {
        StoreError::Locked { path, source }
    } else {
        StoreError::Database { path, source }
    }
}

fn bytes(size: u64) -> usize {
    usize::try_from(size).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::store::memory::MemoryStore;

    const MEMORY: u64 = 32 << 20;

    fn deadline(at: i64, user: u8) -> Deadline {
        Deadline { at: EventTime::from_millis(at), user_id: format!("u{user}").into() }
    }

    #[test]
    fn a_database_that_another_process_has_open_is_a_clear_error() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let _first = Database::open(dir.path(), MEMORY).expect("opens");
        let error = Database::open(dir.path(), MEMORY).expect_err("is locked");
        assert!(matches!(error, StoreError::Locked { .. }), "{error}");
    }

    #[test]
    fn dropping_a_shard_leaves_its_neighbours() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let database = Database::open(dir.path(), MEMORY).expect("opens");
        for partition in [0, 1, 2, 255, 256] {
            let users = vec![(Box::from("u"), Some(vec![1])), (Box::from("\u{10ffff}"), Some(vec![2]))];
            let batch =
                Batch { users, arm: vec![deadline(i64::MAX - 1, 1)], changelog_position: Some(7), ..Batch::default() };
            database.shard(partition).write(batch).expect("writes");
        }
        database.flush().expect("flushes");
        database.drop_shard(1).expect("drops");
        for partition in [0, 1, 2, 255, 256] {
            let kept = usize::from(partition != 1);
            let store = database.shard(partition);
            assert_eq!(store.scan(None, 10).expect("reads").len(), 2 * kept, "{partition}");
            assert_eq!(store.deadlines(None, EventTime::MAX, 10).expect("reads").len(), kept, "{partition}");
            assert_eq!(store.shard().expect("reads").1.is_some(), kept == 1, "{partition}");
        }
    }

    #[test]
    fn what_was_flushed_survives_and_a_lost_memtable_takes_its_position_with_it() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        {
            let database = Database::open(dir.path(), MEMORY).expect("opens");
            let mut store = database.shard(3);
            let users = vec![(Box::from("a"), Some(vec![1]))];
            store.write(Batch { users, changelog_position: Some(1), ..Batch::default() }).expect("writes");
            assert!(!database.flush_older_than(Duration::from_secs(1), Duration::from_secs(5)).expect("flushes"));
            assert!(database.flush_older_than(Duration::from_secs(1), Duration::from_secs(6)).expect("flushes"));
            assert!(!database.flush_older_than(Duration::ZERO, Duration::from_secs(9)).expect("flushes"));
        }
        let database = Database::open(dir.path(), MEMORY).expect("opens");
        let store = database.shard(3);
        assert_eq!(store.user("a").expect("reads"), Some(vec![1]));
        assert_eq!(store.shard().expect("reads"), (None, Some(1)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn rocks_and_memory_answer_alike(
            batches in proptest::collection::vec(
                (
                    proptest::collection::vec((0_u8..20, proptest::option::of(any::<u8>())), 0..12),
                    proptest::collection::vec((-50_i64..50, 0_u8..20), 0..12),
                    proptest::collection::vec((-50_i64..50, 0_u8..20), 0..12),
                    proptest::collection::vec((0_u8..3, 0_u8..3, proptest::option::of(any::<u8>())), 0..6),
                    proptest::option::of(any::<u8>()),
                    proptest::option::of(0_i64..1000),
                    any::<bool>(),
                ),
                1..12,
            ),
            after in proptest::option::of((-50_i64..50, 0_u8..20)),
            until in -60_i64..60,
            limit in 0_usize..30,
        ) {
            let dir = tempfile::tempdir().expect("a temporary folder");
            let database = Database::open(dir.path(), MEMORY).expect("opens");
            let (mut rocks, mut memory) = (database.shard(9), MemoryStore::new());
            for (users, arm, disarm, cells, shard, changelog_position, flush) in batches {
                let batch = Batch {
                    users: users.into_iter().map(|(user, value)| (format!("u{user}").into(), value.map(|v| vec![v]))).collect(),
                    arm: arm.into_iter().map(|(at, user)| deadline(at, user)).collect(),
                    disarm: disarm.into_iter().map(|(at, user)| deadline(at, user)).collect(),
                    cells: cells.into_iter().map(|(a, b, value)| (Box::from([a, b]), value.map(|v| vec![v]))).collect(),
                    shard: shard.map(|byte| vec![byte]),
                    changelog_position,
                };
                rocks.write(batch.clone()).expect("writes");
                memory.write(batch).expect("writes");
                if flush {
                    database.flush().expect("flushes");
                }
            }
            let after = after.map(|(at, user)| deadline(at, user));
            let until = EventTime::from_millis(until);
            prop_assert_eq!(rocks.deadlines(after.as_ref(), until, limit).expect("reads"), memory.deadlines(after.as_ref(), until, limit).expect("reads"));
            let user_id = after.as_ref().map(|deadline| &*deadline.user_id);
            prop_assert_eq!(rocks.scan(user_id, limit).expect("reads"), memory.scan(user_id, limit).expect("reads"));
            for prefix in [&[][..], &[1], &[1, 2], &[9]] {
                prop_assert_eq!(rocks.cells(prefix).expect("reads"), memory.cells(prefix).expect("reads"));
            }
            prop_assert_eq!(rocks.shard().expect("reads"), memory.shard().expect("reads"));
            let ids = ["u3", "u19", "nobody", "u3"];
            prop_assert_eq!(rocks.users(&ids).expect("reads"), memory.users(&ids).expect("reads"));
            prop_assert_eq!(rocks.user("u3").expect("reads"), memory.user("u3").expect("reads"));
        }
    }
}

//! Loading in bulk: sorted records become files that RocksDB takes as they are, past memtables and past its write path.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rocksdb::{IngestExternalFileOptions, Options, SstFileWriter};

use super::options::family_options;
use super::{Database, TIMERS, USERS};
use crate::store::{StoreError, key};
use crate::time::EventTime;

/// Below the state folder: files on their way. Whatever is there at the start was never taken, and goes.
const FOLDER: &str = "loading";
/// A file writer has no memtable.
const LOADER_MEMTABLE_BYTES: u64 = 1 << 20;

/// Makes files for one family.
pub(super) struct Loader {
    folder: PathBuf,
    users: Options,
    timers: Options,
    number: AtomicU64,
}

impl Loader {
    /// Clears what an interrupted load has left.
    pub(super) fn new(dir: &Path, cache: &rocksdb::Cache) -> std::io::Result<Self> {
        let folder = dir.join(FOLDER);
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir_all(&folder)?;
        let options = |name| family_options(name, LOADER_MEMTABLE_BYTES, cache);
        Ok(Self { folder, users: options(USERS), timers: options(TIMERS), number: AtomicU64::new(0) })
    }

    fn next_path(&self) -> PathBuf {
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        self.folder.join(format!("{number}.sst"))
    }
}

impl Database {
    /// Writes users (partition, id, encoded or `None` when gone), each once and in order of partition and id, and
    /// deadlines in order of partition, time and user. It is there afterwards, and survives a crash: write the positions
    /// of the shards only then. Deadlines come first, so that a crash in between leaves none of them missing.
    ///
    /// # Errors
    /// The disk failed, or something is out of order; a part may have been written.
    pub fn load<'a>(
        &self,
        users: impl Iterator<Item = (i32, &'a str, Option<&'a [u8]>)>,
        deadlines: impl Iterator<Item = (i32, EventTime, &'a str)>,
    ) -> Result<(), StoreError> {
        let mut key = Vec::new();
        self.load_file(TIMERS, &self.loader.timers, deadlines, |file, (partition, at, user_id)| {
            key::timer_into(&mut key, partition, at, user_id);
            file.put(&key, b"")
        })?;
        self.load_file(USERS, &self.loader.users, users, |file, (partition, user_id, value)| {
            key::user_into(&mut key, partition, user_id);
            match value {
                Some(value) => file.put(&key, value),
                None => file.delete(&key),
            }
        })
    }

    fn load_file<T>(
        &self,
        family: &str,
        options: &Options,
        items: impl Iterator<Item = T>,
        mut put: impl FnMut(&mut SstFileWriter<'_>, T) -> Result<(), rocksdb::Error>,
    ) -> Result<(), StoreError> {
        let mut items = items.peekable();
        if items.peek().is_none() {
            // RocksDB refuses a file without entries.
            return Ok(());
        }
        let path = self.loader.next_path();
        let mut write = || {
            let mut file = SstFileWriter::create(options);
            file.open(&path)?;
            items.try_for_each(|item| put(&mut file, item))?;
            file.finish()?;
            let mut ingest = IngestExternalFileOptions::default();
            ingest.set_move_files(true);
            // Nobody holds a snapshot.
            ingest.set_snapshot_consistency(false);
            self.db.ingest_external_file_cf_opts(self.family(family), &ingest, vec![&path])
        };
        write().map_err(|source| {
            // Best effort: the next start clears the folder.
            let _ = fs::remove_file(&path);
            self.error(source)
        })
    }
}

//! A store in memory: for `replay` and the model tests. The reference that the RocksDB store is tested against.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use crate::store::{Batch, Cell, Deadline, Store, StoreError};
use crate::time::EventTime;

/// One shard's state in ordered maps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryStore {
    users: BTreeMap<Box<str>, Vec<u8>>,
    deadlines: BTreeSet<Deadline>,
    cells: BTreeMap<Box<[u8]>, Vec<u8>>,
    shard: Option<Vec<u8>>,
    changelog_position: Option<i64>,
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many users there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.users.len()
    }

    /// Whether there is no user.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
    }
}

impl Store for MemoryStore {
    fn user(&self, user_id: &str) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.users.get(user_id).cloned())
    }

    fn users(&self, user_ids: &[&str]) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        Ok(user_ids.iter().map(|user_id| self.users.get(*user_id).cloned()).collect())
    }

    fn deadlines(&self, after: Option<&Deadline>, until: EventTime, limit: usize) -> Result<Vec<Deadline>, StoreError> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let range = self.deadlines.range((from, Bound::Unbounded));
        Ok(range.take_while(|deadline| deadline.at < until).take(limit).cloned().collect())
    }

    fn scan(&self, after: Option<&str>, limit: usize) -> Result<Vec<(Box<str>, Vec<u8>)>, StoreError> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let range = self.users.range::<str, _>((from, Bound::Unbounded));
        Ok(range.take(limit).map(|(user_id, value)| (user_id.clone(), value.clone())).collect())
    }

    fn cells(&self, prefix: &[u8]) -> Result<Vec<Cell>, StoreError> {
        let range = self.cells.range::<[u8], _>((Bound::Included(prefix), Bound::Unbounded));
        let begun = range.take_while(|(key, _)| key.starts_with(prefix));
        Ok(begun.map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    fn shard(&self) -> Result<(Option<Vec<u8>>, Option<i64>), StoreError> {
        Ok((self.shard.clone(), self.changelog_position))
    }

    fn write(&mut self, batch: Batch) -> Result<(), StoreError> {
        let Batch { users, arm, disarm, cells, shard, changelog_position } = batch;
        for (user_id, value) in users {
            match value {
                Some(value) => self.users.insert(user_id, value),
                None => self.users.remove(&user_id),
            };
        }
        for (key, value) in cells {
            match value {
                Some(value) => self.cells.insert(key, value),
                None => self.cells.remove(&key),
            };
        }
        for deadline in disarm {
            self.deadlines.remove(&deadline);
        }
        self.deadlines.extend(arm);
        self.shard = shard.or_else(|| self.shard.take());
        self.changelog_position = changelog_position.or(self.changelog_position);
        Ok(())
    }
}

//! The changelog, turned back into a store: the tail of it in batches, all of it in bulk.

use std::collections::BTreeMap;
use std::ops::Range;

use rustc_hash::FxHashMap;

use crate::shard::{ShardError, ledger};
use crate::store::{Batch, Deadline, Store, codec, key};
use crate::time::EventTime;

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
    let mut batch = Batch { changelog_position: Some(position), ..Batch::default() };
    let mut last: FxHashMap<&str, Option<&[u8]>> = FxHashMap::default();
    for (key, value) in records {
        match key::read_changelog(key)? {
            key::ChangelogKey::User(user_id) => {
                last.insert(user_id, value);
            }
            key::ChangelogKey::Cell(cell) => {
                value.map(ledger::decode).transpose()?;
                batch.cells.push((cell.into(), value.map(<[u8]>::to_vec)));
            }
            key::ChangelogKey::Shard => batch.shard = value.map(<[u8]>::to_vec),
        }
    }
    let mut users: Vec<(&str, Option<&[u8]>)> = last.into_iter().collect();
    users.sort_unstable();
    let ids: Vec<&str> = users.iter().map(|(user_id, _)| *user_id).collect();
    let known = store.users(&ids)?;
    batch.users.reserve(users.len());
    for ((user_id, value), known) in users.into_iter().zip(known) {
        let indexed = known.as_deref().map(codec::armed).transpose()?.flatten();
        let armed = match value {
            // Read whole here, so that damage stops the restore and not some later event.
            Some(value) => codec::check_user(value)?,
            None => None,
        };
        if indexed != armed {
            let deadline = |at| Deadline { at, user_id: user_id.into() };
            batch.disarm.extend(indexed.map(deadline));
            batch.arm.extend(armed.map(deadline));
        }
        batch.users.push((user_id.into(), value.map(<[u8]>::to_vec)));
    }
    Ok(batch)
}

/// Records of the changelogs of any number of shards, held until there are enough of them to be written as sorted files
/// ([`Database::load`](crate::store::rocks::Database::load)).
///
/// Unlike [`restore_batch`] it asks the store for nothing, which is what makes it fast: what an earlier value of a user
/// armed stays in the index beside what the latest armed. Such a left-over says nothing when it comes due, and is removed
/// then ([`Shard::advance`](crate::shard::Shard::advance)). For the same reason a bulk load may be repeated, or go on over
/// what an interrupted one has left.
#[derive(Debug, Default)]
pub struct Bulk {
    /// Ids and values, one after the other.
    bytes: Vec<u8>,
    users: Vec<Held>,
    /// What is not of users, by shard.
    others: BTreeMap<i32, Others>,
    /// Its bytes.
    other_bytes: usize,
}

/// A shard's own record and the cells of its ledger: the last, and all in their order.
#[derive(Debug, Default)]
struct Others {
    shard: Option<Vec<u8>>,
    cells: Vec<(Box<[u8]>, Option<Vec<u8>>)>,
}

/// One user's value, by its place in [`Bulk::bytes`].
#[derive(Debug)]
struct Held {
    partition: i32,
    user_id: Range<usize>,
    value: Option<Range<usize>>,
    armed: Option<EventTime>,
}

/// A user of a [`Bulk`]: partition, id, and the encoded user or `None` when the user is gone.
pub type BulkUser<'a> = (i32, &'a str, Option<&'a [u8]>);

/// A deadline of a [`Bulk`]: partition, time, user.
pub type BulkDeadline<'a> = (i32, EventTime, &'a str);

impl Bulk {
    /// Takes one record, in the order of its changelog. Of a value only the head is read: its version is known, and the
    /// rest is checked when the user is.
    ///
    /// # Errors
    /// The record is none that this build writes.
    pub fn add(&mut self, partition: i32, key: &[u8], value: Option<&[u8]>) -> Result<(), ShardError> {
        match key::read_changelog(key)? {
            key::ChangelogKey::User(user_id) => {
                let armed = value.map(codec::armed).transpose()?.flatten();
                let user_id = self.push(user_id.as_bytes());
                let value = value.map(|value| self.push(value));
                self.users.push(Held { partition, user_id, value, armed });
            }
            key::ChangelogKey::Cell(cell) => {
                value.map(ledger::decode).transpose()?;
                self.other_bytes += cell.len() + value.map_or(0, <[u8]>::len);
                let others = self.others.entry(partition).or_default();
                others.cells.push((cell.into(), value.map(<[u8]>::to_vec)));
            }
            key::ChangelogKey::Shard => {
                self.others.entry(partition).or_default().shard = value.map(<[u8]>::to_vec);
            }
        }
        Ok(())
    }

    /// Bytes held, about.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.bytes.len() + self.users.len() * size_of::<Held>() + self.other_bytes
    }

    /// What to write of one shard once its users are loaded: the ledger, the shard's record, and `position`, the changelog
    /// offset after the last of its records.
    #[must_use]
    pub fn rest(&mut self, partition: i32, position: i64) -> Batch {
        let Others { shard, cells } = self.others.remove(&partition).unwrap_or_default();
        Batch { shard, cells, changelog_position: Some(position), ..Batch::default() }
    }

    /// The last value of each user in order of partition and id, and what they armed in order of partition, time and id:
    /// the orders of the store's keys.
    #[must_use]
    pub fn sorted(&self) -> (Vec<BulkUser<'_>>, Vec<BulkDeadline<'_>>) {
        let id = |held: &Held| self.text(&held.user_id);
        let mut latest: Vec<(i32, &str, usize)> =
            self.users.iter().enumerate().map(|(place, held)| (held.partition, id(held), place)).collect();
        latest.sort_unstable();
        let mut users: Vec<BulkUser<'_>> = Vec::with_capacity(latest.len());
        let mut deadlines = Vec::with_capacity(latest.len());
        for (number, &(partition, user_id, place)) in latest.iter().enumerate() {
            if latest.get(number + 1).is_some_and(|next| (next.0, next.1) == (partition, user_id)) {
                continue;
            }
            let held = &self.users[place];
            users.push((partition, user_id, held.value.clone().map(|value| &self.bytes[value])));
            deadlines.extend(held.armed.map(|at| (partition, at, user_id)));
        }
        deadlines.sort_unstable();
        (users, deadlines)
    }

    /// Lets go of everything, and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.users.clear();
        self.others.clear();
        self.other_bytes = 0;
    }

    /// Lets go of one shard's records: it is no longer ours.
    pub fn forget(&mut self, partition: i32) {
        self.users.retain(|held| held.partition != partition);
        self.others.remove(&partition);
    }

    fn push(&mut self, bytes: &[u8]) -> Range<usize> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        start..self.bytes.len()
    }

    fn text(&self, range: &Range<usize>) -> &str {
        std::str::from_utf8(&self.bytes[range.clone()]).expect("it was text when it was added")
    }
}

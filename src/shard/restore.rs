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
    /// Id and value of each user, one after the other.
    bytes: Vec<u8>,
    users: Vec<Held>,
    /// What the users arm, once they are sorted: partition, time, and the place in `users`.
    deadlines: Vec<(i32, EventTime, u32)>,
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

/// One user's value: all that sorting asks for, and the place of the rest in [`Bulk::bytes`].
#[derive(Debug)]
struct Held {
    /// The first bytes of the id after what all ids have in common. Known once users are sorted.
    head: u64,
    armed: Option<EventTime>,
    partition: i32,
    /// Where the id begins, and how long it is. The value follows.
    start: u32,
    id_bytes: u32,
    value_bytes: Option<u32>,
}

/// What a user takes beside its own bytes.
const USER_BYTES: usize = size_of::<Held>() + size_of::<(i32, EventTime, u32)>();

/// What a [`Bulk`] holds, in the orders of the store's keys.
#[derive(Clone, Copy, Debug)]
pub struct Sorted<'a>(&'a Bulk);

/// A user of a [`Bulk`]: partition, id, and the encoded user or `None` when the user is gone.
pub type BulkUser<'a> = (i32, &'a str, Option<&'a [u8]>);

/// A deadline of a [`Bulk`]: partition, time, user.
pub type BulkDeadline<'a> = (i32, EventTime, &'a str);

impl Bulk {
    /// The most that it can hold and still take a record of any size that Kafka has.
    pub const BYTES_MAX: usize = 1 << 30;

    /// Takes one record, in the order of its changelog. Of a value only the head is read: its version is known, and the
    /// rest is checked when the user is.
    ///
    /// # Errors
    /// The record is none that this build writes.
    ///
    /// # Panics
    /// When it holds [`Bulk::BYTES_MAX`] and more.
    pub fn add(&mut self, partition: i32, key: &[u8], value: Option<&[u8]>) -> Result<(), ShardError> {
        match key::read_changelog(key)? {
            key::ChangelogKey::User(user_id) => {
                self.users.push(Held {
                    head: 0,
                    armed: value.map(codec::armed).transpose()?.flatten(),
                    partition,
                    start: narrow(self.bytes.len()),
                    id_bytes: narrow(user_id.len()),
                    value_bytes: value.map(|value| narrow(value.len())),
                });
                self.bytes.extend_from_slice(user_id.as_bytes());
                self.bytes.extend_from_slice(value.unwrap_or_default());
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

    /// Bytes held, about, and those that sorting takes.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.bytes.len() + self.users.len() * USER_BYTES + self.other_bytes
    }

    /// What to write of one shard once its users are loaded: the ledger, the shard's record, and `position`, the changelog
    /// offset after the last of its records.
    #[must_use]
    pub fn rest(&mut self, partition: i32, position: i64) -> Batch {
        let Others { shard, cells } = self.others.remove(&partition).unwrap_or_default();
        Batch { shard, cells, changelog_position: Some(position), ..Batch::default() }
    }

    /// Leaves of each user the last value only.
    #[must_use]
    pub fn sorted(&mut self) -> Sorted<'_> {
        let Self { bytes, users, deadlines, .. } = self;
        let id = |held: &Held| &bytes[held.id()];
        let first = users.first().map_or(&[][..], id);
        let common = users
            .iter()
            .map(id)
            .fold(first.len(), |common, id| first.iter().zip(id).take(common).take_while(|(a, b)| a == b).count());
        for held in &mut *users {
            let mut head = [0; size_of::<u64>()];
            head.iter_mut().zip(&id(held)[common..]).for_each(|(head, byte)| *head = *byte);
            held.head = u64::from_be_bytes(head);
        }
        // The latest of a user comes first, and stays.
        users.sort_unstable_by(|a, b| {
            (a.partition, a.head).cmp(&(b.partition, b.head)).then_with(|| id(a).cmp(id(b))).then(b.start.cmp(&a.start))
        });
        users.dedup_by(|a, b| (a.partition, a.head) == (b.partition, b.head) && id(a) == id(b));
        deadlines.clear();
        deadlines.extend((0..).zip(&*users).filter_map(|(place, held)| Some((held.partition, held.armed?, place))));
        deadlines.sort_unstable();
        Sorted(self)
    }

    fn user_id(&self, held: &Held) -> &str {
        std::str::from_utf8(&self.bytes[held.id()]).expect("it was text when it was added")
    }

    /// Lets go of everything, and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.users.clear();
        self.deadlines.clear();
        self.others.clear();
        self.other_bytes = 0;
    }

    /// Lets go of one shard's records: it is no longer ours.
    pub fn forget(&mut self, partition: i32) {
        self.users.retain(|held| held.partition != partition);
        self.others.remove(&partition);
    }
}

impl<'a> Sorted<'a> {
    /// In order of partition and id, each once.
    pub fn users(self) -> impl Iterator<Item = BulkUser<'a>> {
        let Self(bulk) = self;
        bulk.users.iter().map(|held| {
            let value = held.value_bytes.map(|len| &bulk.bytes[held.id().end..][..len as usize]);
            (held.partition, bulk.user_id(held), value)
        })
    }

    /// In order of partition, time and id.
    pub fn deadlines(self) -> impl Iterator<Item = BulkDeadline<'a>> {
        let Self(bulk) = self;
        let user_id = |place: u32| bulk.user_id(&bulk.users[place as usize]);
        bulk.deadlines.iter().map(move |&(partition, at, place)| (partition, at, user_id(place)))
    }
}

impl Held {
    fn id(&self) -> Range<usize> {
        let start = self.start as usize;
        start..start + self.id_bytes as usize
    }
}

fn narrow(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("there is no more than `Bulk::BYTES_MAX` and one record")
}

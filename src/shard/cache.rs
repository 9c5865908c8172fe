//! The users in memory: the hot ones decoded, and all that changed since the last commit.
//!
//! Bounded by bytes, except for what must stay: changed users until their commit, and those of the batch at hand (the
//! shard trims between batches). Eviction is CLOCK: a hand goes round and spares once whoever was used since its last
//! visit, which costs the hot path one flag.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

use crate::lifecycle::User;
use crate::time::EventTime;

/// Where a user lies; valid until the next [`Cache::trim`] or [`Cache::remove`] of that user.
pub(crate) type Slot = usize;

/// A user in memory.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) user_id: Box<str>,
    /// `None` when there is no such user.
    pub(crate) user: Option<User>,
    /// Whether the store has the user.
    pub(crate) stored: bool,
    /// The deadline in the store's index.
    pub(crate) stored_armed: Option<EventTime>,
    /// Changed since the last commit.
    pub(crate) dirty: bool,
    used: bool,
    bytes: usize,
}

/// Users by id.
#[derive(Debug)]
pub(crate) struct Cache {
    table: HashTable<Slot>,
    hasher: DefaultHashBuilder,
    entries: Vec<Option<Entry>>,
    free: Vec<Slot>,
    bytes: usize,
    limit: usize,
    hand: Slot,
}

impl Cache {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            table: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            entries: Vec::new(),
            free: Vec::new(),
            bytes: 0,
            limit,
            hand: 0,
        }
    }

    pub(crate) fn limit(&mut self, bytes: usize) {
        self.limit = bytes;
    }

    pub(crate) fn find(&mut self, user_id: &str) -> Option<Slot> {
        let hash = self.hasher.hash_one(user_id);
        let entries = &self.entries;
        let slot = *self.table.find(hash, |&slot| is(entries, slot, user_id))?;
        self.get(slot).used = true;
        Some(slot)
    }

    /// Adds a user who is not in memory, as the store has it.
    pub(crate) fn insert(&mut self, user_id: &str, user: Option<User>) -> Slot {
        let mut entry = Entry {
            user_id: user_id.into(),
            stored: user.is_some(),
            stored_armed: user.as_ref().and_then(|user| user.armed),
            user,
            dirty: false,
            used: true,
            bytes: 0,
        };
        entry.bytes = entry.len_bytes();
        self.bytes += entry.bytes;
        let slot = self.free.pop().unwrap_or_else(|| {
            self.entries.push(None);
            self.entries.len() - 1
        });
        let Self { table, hasher, entries, .. } = self;
        entries[slot] = Some(entry);
        table.insert_unique(hasher.hash_one(user_id), slot, |&slot| hasher.hash_one(id(entries, slot)));
        slot
    }

    /// # Panics
    /// When nobody lies there: a slot was kept for too long.
    pub(crate) fn get(&mut self, slot: Slot) -> &mut Entry {
        self.entries[slot].as_mut().expect("slots are used only while their entry cannot go")
    }

    pub(crate) fn remove(&mut self, slot: Slot) {
        let Some(entry) = self.entries[slot].take() else { return };
        let hash = self.hasher.hash_one(&*entry.user_id);
        if let Ok(found) = self.table.find_entry(hash, |&other| other == slot) {
            found.remove();
        }
        self.free.push(slot);
        self.bytes -= entry.bytes;
    }

    /// The entry's commit is done: it may have grown.
    pub(crate) fn clean(&mut self, slot: Slot) {
        let entry = self.get(slot);
        entry.dirty = false;
        entry.stored = entry.user.is_some();
        entry.stored_armed = entry.user.as_ref().and_then(|user| user.armed);
        let (before, after) = (entry.bytes, entry.len_bytes());
        entry.bytes = after;
        self.bytes = self.bytes - before + after;
    }

    /// Evicts until the bound holds, or everything left must stay.
    pub(crate) fn trim(&mut self) {
        let mut visits = 2 * self.entries.len();
        while self.bytes > self.limit && visits > 0 {
            visits -= 1;
            let slot = self.hand;
            self.hand = (self.hand + 1) % self.entries.len();
            match &mut self.entries[slot] {
                None => {}
                Some(entry) if entry.dirty => {}
                Some(entry) if entry.used => entry.used = false,
                Some(_) => self.remove(slot),
            }
        }
    }

    /// Bytes held, about.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Entry {
    /// About what the entry takes in memory, its places in the table and allocator overhead included.
    fn len_bytes(&self) -> usize {
        const OVERHEAD: usize = 16;
        let text = |text: &str| text.len() + OVERHEAD;
        let user = self.user.as_ref().map_or(0, |user| {
            let properties: usize = user.properties.iter().map(|(_, value)| 24 + text(value)).sum();
            let life = user.life.as_ref().map_or(0, |life| {
                let names: usize = life.last_events.iter().map(|name| 16 + text(name)).sum();
                names + life.activity.buckets.capacity() * size_of::<u32>() + 2 * OVERHEAD
            });
            user.recent_ids.capacity() * size_of::<u64>() + properties + life
        });
        size_of::<Option<Self>>() + 2 * size_of::<Slot>() + text(&self.user_id) + user
    }
}

fn is(entries: &[Option<Entry>], slot: Slot, user_id: &str) -> bool {
    id(entries, slot) == user_id
}

fn id(entries: &[Option<Entry>], slot: Slot) -> &str {
    entries[slot].as_ref().map_or("", |entry| &entry.user_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_users_stay_and_used_ones_are_spared_once() {
        let mut cache = Cache::new(0);
        let slots: Vec<Slot> = (0..10).map(|n| cache.insert(&format!("u{n}"), None)).collect();
        cache.get(slots[3]).dirty = true;
        cache.trim();
        assert_eq!(cache.find("u3"), Some(slots[3]));
        assert!((0..10).filter(|n| *n != 3).all(|n| cache.find(&format!("u{n}")).is_none()));
        cache.clean(slots[3]);
        cache.trim();
        assert_eq!((cache.find("u3"), cache.bytes()), (None, 0));
    }

    #[test]
    fn the_bound_holds_and_hot_users_survive_a_stream_of_cold_ones() {
        let mut cache = Cache::new(50_000);
        cache.insert("hot", Some(User::default()));
        for n in 0..10_000 {
            assert!(cache.find("hot").is_some(), "evicted at {n}");
            cache.insert(&format!("cold{n}"), None);
            cache.trim();
            assert!(cache.bytes() <= 50_000);
        }
    }
}

//! The users that a shard holds decoded: those changed since the last commit, and the recently used ones within a bound.

use rustc_hash::FxHashMap;

use crate::lifecycle::Names;
use crate::person::Person;
use crate::shard::cohort::{Class, Cohorts};
use crate::shard::share::Share;
use crate::store::{Store, StoreError, codec};
use crate::time::EventTime;

/// What an entry takes beside the user's own parts: its slot in a map that is two thirds full, and what the allocator adds
/// to the parts. An estimate, for the bound alone.
const ENTRY_BYTES: usize = size_of::<(Box<str>, Entry)>() * 3 / 2 + 64;

/// Decoded users by id.
#[derive(Debug)]
pub(super) struct Users {
    entries: FxHashMap<Box<str>, Entry>,
    dirty: Vec<Box<str>>,
    bytes: usize,
    limit: usize,
}

/// One user, or the knowledge that there is none.
#[derive(Debug)]
pub(super) struct Entry {
    /// As of what was applied.
    pub(super) person: Option<Person>,
    /// Whether the store has the user.
    pub(super) stored: bool,
    /// The deadline in the store's index.
    pub(super) indexed: Option<EventTime>,
    /// What the user is still counted by, where it has changed since.
    pub(super) counted: Option<Box<Share>>,
    dirty: bool,
    used: bool,
    bytes: usize,
}

impl Entry {
    /// Where the user is counted; `None` when there is none.
    pub(super) fn class(&self) -> Option<Class> {
        self.person.as_ref().map(|person| Cohorts::class_of(&person.user))
    }

    /// The armed deadline, as of what was applied.
    pub(super) fn armed(&self) -> Option<EventTime> {
        self.person.as_ref()?.user.armed
    }
}

impl Users {
    pub(super) fn new(limit: usize) -> Self {
        Self { entries: FxHashMap::default(), dirty: Vec::new(), bytes: 0, limit }
    }

    pub(super) fn limit(&mut self, bytes: usize) {
        self.limit = bytes;
    }

    /// Reads those of `user_ids` that are not held, with one batched read.
    pub(super) fn prefetch<'i>(
        &mut self,
        user_ids: impl Iterator<Item = &'i str>,
        store: &impl Store,
        names: &Names,
    ) -> Result<(), StoreError> {
        let mut missing: Vec<&str> = user_ids.filter(|user_id| !self.entries.contains_key(*user_id)).collect();
        missing.sort_unstable();
        missing.dedup();
        match missing.as_slice() {
            [] => {}
            [one] => self.hold(one, store.user(one)?.as_deref(), names)?,
            many => {
                for (user_id, value) in many.iter().zip(store.users(many)?) {
                    self.hold(user_id, value.as_deref(), names)?;
                }
            }
        }
        Ok(())
    }

    /// Holds a user as the store has it, unless it is held already.
    pub(super) fn hold(&mut self, user_id: &str, value: Option<&[u8]>, names: &Names) -> Result<(), StoreError> {
        if self.entries.contains_key(user_id) {
            return Ok(());
        }
        let person = value.map(|value| codec::decode_user(value, names)).transpose()?;
        let indexed = person.as_ref().and_then(|person| person.user.armed);
        let bytes = size(user_id, person.as_ref());
        self.bytes += bytes;
        let entry = Entry { stored: person.is_some(), person, indexed, counted: None, dirty: false, used: true, bytes };
        self.entries.insert(user_id.into(), entry);
        Ok(())
    }

    /// The entry of a user that is held.
    pub(super) fn get(&self, user_id: &str) -> Option<&Entry> {
        self.entries.get(user_id)
    }

    /// The entry of a user, read from the store if need be.
    pub(super) fn entry(&mut self, user_id: &str, store: &impl Store, names: &Names) -> Result<&mut Entry, StoreError> {
        if !self.entries.contains_key(user_id) {
            self.hold(user_id, store.user(user_id)?.as_deref(), names)?;
        }
        let entry = self.entries.get_mut(user_id).expect("it is held now");
        entry.used = true;
        Ok(entry)
    }

    /// Remembers that a held user has changed since the last commit.
    pub(super) fn touch(&mut self, user_id: &str) {
        let Some(entry) = self.entries.get_mut(user_id) else { return };
        if !std::mem::replace(&mut entry.dirty, true) {
            self.dirty.push(user_id.into());
        }
    }

    /// How many users are held.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.entries.len()
    }

    /// How many users have changed since the last commit.
    pub(super) fn dirty_len(&self) -> usize {
        self.dirty.len()
    }

    /// The users that have changed since the last commit, in order of their first change.
    pub(super) fn dirty(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.dirty.iter().filter_map(|user_id| self.entries.get(user_id).map(|entry| (&**user_id, entry)))
    }

    /// Hands out what each changed user is still counted by, and the user as it is now.
    pub(super) fn recount(&mut self, mut count: impl FnMut(&Share, Option<&Person>)) {
        for user_id in &self.dirty {
            let Some(entry) = self.entries.get_mut(user_id) else { continue };
            if let Some(counted) = entry.counted.take() {
                count(&counted, entry.person.as_ref());
            }
        }
    }

    /// What has changed is in the store now.
    pub(super) fn committed(&mut self) {
        for user_id in self.dirty.drain(..) {
            let Some(entry) = self.entries.get_mut(&user_id) else { continue };
            entry.dirty = false;
            entry.stored = entry.person.is_some();
            entry.indexed = entry.armed();
            self.bytes -= entry.bytes;
            entry.bytes = size(&user_id, entry.person.as_ref());
            self.bytes += entry.bytes;
        }
        self.evict();
    }

    /// Forgets everybody.
    pub(super) fn clear(&mut self) {
        self.dirty.clear();
        self.entries.clear();
        self.bytes = 0;
    }

    /// Forgets what has changed.
    pub(super) fn rollback(&mut self) {
        for user_id in self.dirty.drain(..) {
            if let Some(entry) = self.entries.remove(&user_id) {
                self.bytes -= entry.bytes;
            }
        }
    }

    /// Keeps to the limit: lets go of unchanged users, those not used since the last time first.
    pub(super) fn evict(&mut self) {
        if self.bytes <= self.limit {
            return;
        }
        // A little below the limit, so that this is not done again for the next user.
        let target = self.limit / 8 * 7;
        for _ in 0..2 {
            let mut bytes = self.bytes;
            self.entries.retain(|_, entry| {
                let keep = entry.dirty || bytes <= target || std::mem::take(&mut entry.used);
                if !keep {
                    bytes -= entry.bytes;
                }
                keep
            });
            self.bytes = bytes;
            if self.bytes <= target {
                return;
            }
        }
    }
}

/// About what a user takes in memory.
fn size(user_id: &str, person: Option<&Person>) -> usize {
    let parts = person.map_or(0, |Person { user, trail, .. }| {
        let properties: usize = user.properties.iter().map(|(_, value)| 24 + value.len()).sum();
        let life = user.life.as_ref().map_or(0, |life| {
            // What is listed is held by the list.
            let own = life.last_events.iter().filter(|name| name.place().is_none());
            let names: usize = own.map(|name| 64 + name.len()).sum();
            names + 8 * life.last_events.capacity() + 4 * life.activity.buckets.capacity()
        });
        let trail = 24 * trail.entries.capacity();
        8 * user.recent_ids.capacity() + properties + life + trail
    });
    ENTRY_BYTES + user_id.len() + parts
}

//! The users that a shard holds decoded: those changed since the last commit, and the recently used ones within a bound.
//!
//! A user is looked up by its id once for each record or timer; from then on it is known by its [`Place`], which stays what
//! it is until users are let go of ([`Users::evict`], [`Users::rollback`], [`Users::clear`]).

use std::hash::BuildHasher as _;

use hashbrown::HashTable;
use rustc_hash::FxBuildHasher;
use slab::Slab;

use crate::lifecycle::Names;
use crate::person::Person;
use crate::shard::cohort::{Class, Cohorts};
use crate::shard::share::Share;
use crate::store::{Store, StoreError, codec};
use crate::time::EventTime;

/// What a held user takes beside its own parts: a slot in a vector and one in a table, both with room to grow, and what the
/// allocator adds to the parts. An estimate, for the bound alone.
const HELD_BYTES: usize = size_of::<Held>() * 3 / 2 + 64;

/// Decoded users by id.
#[derive(Debug)]
pub(super) struct Users {
    held: Slab<Held>,
    /// By the hash of the id.
    places: HashTable<Place>,
    /// In order of their first change.
    dirty: Vec<Place>,
    /// Where to go on looking for somebody to let go of.
    hand: usize,
    bytes: usize,
    limit: usize,
}

/// Where a user is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place(usize);

/// A held user.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) user_id: Box<str>,
    pub(super) entry: Entry,
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
        let (held, places) = (Slab::new(), HashTable::new());
        Self { held, places, dirty: Vec::new(), hand: 0, bytes: 0, limit }
    }

    pub(super) fn limit(&mut self, bytes: usize) {
        self.limit = bytes;
    }

    /// The places of `user_ids`, in their order. Those that are not held are read with one batched read.
    pub(super) fn prefetch<'i>(
        &mut self,
        user_ids: impl Iterator<Item = &'i str>,
        store: &impl Store,
        names: &Names,
    ) -> Result<Vec<Place>, StoreError> {
        let ids: Vec<&str> = user_ids.collect();
        let places: Vec<Option<Place>> = ids.iter().map(|user_id| self.find(user_id)).collect();
        let mut missing: Vec<&str> =
            ids.iter().zip(&places).filter(|(_, place)| place.is_none()).map(|(user_id, _)| *user_id).collect();
        missing.sort_unstable();
        missing.dedup();
        let values = match missing.as_slice() {
            [] => Vec::new(),
            [one] => vec![store.user(one)?],
            many => store.users(many)?,
        };
        for (user_id, value) in missing.iter().zip(values) {
            self.hold(user_id, value.as_deref(), names)?;
        }
        let held =
            |(place, user_id): (Option<Place>, &&str)| place.or_else(|| self.find(user_id)).expect("it is held now");
        Ok(places.into_iter().zip(&ids).map(held).collect())
    }

    /// Holds a user as the store has it, unless it is held already.
    pub(super) fn hold(&mut self, user_id: &str, value: Option<&[u8]>, names: &Names) -> Result<Place, StoreError> {
        if let Some(place) = self.find(user_id) {
            return Ok(place);
        }
        let person = value.map(|value| codec::decode_user(value, names)).transpose()?;
        let indexed = person.as_ref().and_then(|person| person.user.armed);
        let bytes = size(user_id, person.as_ref());
        self.bytes += bytes;
        let entry = Entry { stored: person.is_some(), person, indexed, counted: None, dirty: false, used: true, bytes };
        let place = Place(self.held.insert(Held { user_id: user_id.into(), entry }));
        let held = &self.held;
        self.places.insert_unique(hash(user_id), place, |place| hash(&held[place.0].user_id));
        Ok(place)
    }

    /// The place of a user, who is read from the store if need be.
    pub(super) fn place(&mut self, user_id: &str, store: &impl Store, names: &Names) -> Result<Place, StoreError> {
        match self.find(user_id) {
            Some(place) => Ok(place),
            None => self.hold(user_id, store.user(user_id)?.as_deref(), names),
        }
    }

    /// The entry of a user that is held.
    pub(super) fn get(&self, user_id: &str) -> Option<&Entry> {
        self.find(user_id).map(|place| &self.held[place.0].entry)
    }

    /// The user held at `place`, to be used.
    ///
    /// # Panics
    /// If the place is from before users were let go of.
    pub(super) fn at(&mut self, place: Place) -> &mut Held {
        let held = &mut self.held[place.0];
        held.entry.used = true;
        held
    }

    /// Remembers that a held user has changed since the last commit.
    pub(super) fn touch(&mut self, place: Place) {
        if !std::mem::replace(&mut self.held[place.0].entry.dirty, true) {
            self.dirty.push(place);
        }
    }

    /// How many users are held.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.held.len()
    }

    /// How many users have changed since the last commit.
    pub(super) fn dirty_len(&self) -> usize {
        self.dirty.len()
    }

    /// The users that have changed since the last commit, in order of their first change.
    pub(super) fn dirty(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.dirty.iter().map(|place| {
            let Held { user_id, entry } = &self.held[place.0];
            (&**user_id, entry)
        })
    }

    /// Hands out what each changed user is still counted by, and the user as it is now.
    pub(super) fn recount(&mut self, mut count: impl FnMut(&Share, Option<&Person>)) {
        for place in &self.dirty {
            let entry = &mut self.held[place.0].entry;
            if let Some(counted) = entry.counted.take() {
                count(&counted, entry.person.as_ref());
            }
        }
    }

    /// What has changed is in the store now.
    pub(super) fn committed(&mut self) {
        for place in self.dirty.drain(..) {
            let Held { user_id, entry } = &mut self.held[place.0];
            entry.dirty = false;
            entry.stored = entry.person.is_some();
            entry.indexed = entry.armed();
            self.bytes -= entry.bytes;
            entry.bytes = size(user_id, entry.person.as_ref());
            self.bytes += entry.bytes;
        }
        self.evict();
    }

    /// Forgets everybody.
    pub(super) fn clear(&mut self) {
        *self = Self::new(self.limit);
    }

    /// Forgets what has changed.
    pub(super) fn rollback(&mut self) {
        for place in std::mem::take(&mut self.dirty) {
            self.let_go(place);
        }
    }

    /// Keeps to the limit: lets go of unchanged users, those not used since the last time first.
    pub(super) fn evict(&mut self) {
        if self.bytes <= self.limit {
            return;
        }
        // A little below the limit, so that this is not done again for the next user.
        let target = self.limit / 8 * 7;
        // Whoever was used is passed over once.
        for _ in 0..2 * self.held.capacity() {
            if self.bytes <= target {
                return;
            }
            let place = Place(self.hand);
            self.hand = if self.hand + 1 < self.held.capacity() { self.hand + 1 } else { 0 };
            let Some(Held { entry, .. }) = self.held.get_mut(place.0) else { continue };
            if !entry.dirty && !std::mem::take(&mut entry.used) {
                self.let_go(place);
            }
        }
    }

    fn find(&self, user_id: &str) -> Option<Place> {
        self.places.find(hash(user_id), |place| *self.held[place.0].user_id == *user_id).copied()
    }

    fn let_go(&mut self, place: Place) {
        let Held { user_id, entry } = self.held.remove(place.0);
        self.bytes -= entry.bytes;
        if let Ok(found) = self.places.find_entry(hash(&user_id), |other| *other == place) {
            found.remove();
        }
    }
}

fn hash(user_id: &str) -> u64 {
    FxBuildHasher.hash_one(user_id)
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
    HELD_BYTES + user_id.len() + parts
}

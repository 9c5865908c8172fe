//! A toy shard: deterministic, with all that the protocol has to carry. Users come, act, and go again; time passing
//! alone makes output too, without moving the input's offset.

use std::collections::BTreeMap;

/// What a record of the input says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Happening {
    Act(u8),
    Delete(u8),
}

/// What the shard writes for others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// One for each record of the input.
    Event { user: u8, seq: u32, offset: i64, sum: u64 },
    /// One for each moment that time brought: 1, 2, 3 ...
    Moment(u32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    Shard,
    User(u8),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Shard { next: i64, moments: u32 },
    User { seq: u32, sum: u64 },
}

/// A changelog record; `None` deletes.
pub(crate) type Change = (Key, Option<Value>);

/// The shard's state, key by key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    values: BTreeMap<Key, Value>,
}

impl State {
    /// The next input offset by the shard's own record.
    pub(crate) fn next(&self) -> Option<i64> {
        match self.values.get(&Key::Shard) {
            Some(&Value::Shard { next, .. }) => Some(next),
            _ => None,
        }
    }

    pub(crate) fn moments(&self) -> u32 {
        match self.values.get(&Key::Shard) {
            Some(&Value::Shard { moments, .. }) => moments,
            _ => 0,
        }
    }

    pub(crate) fn put(&mut self, (key, value): Change) {
        match value {
            Some(value) => self.values.insert(key, value),
            None => self.values.remove(&key),
        };
    }

    pub(crate) fn apply(&mut self, offset: i64, happening: Happening) -> Output {
        let moments = self.moments();
        self.put((Key::Shard, Some(Value::Shard { next: offset + 1, moments })));
        let (Happening::Act(user) | Happening::Delete(user)) = happening;
        let (seq, sum) = match self.values.get(&Key::User(user)) {
            Some(&Value::User { seq, sum }) => (seq + 1, sum),
            _ => (1, 0),
        };
        let sum = sum.wrapping_mul(31).wrapping_add(offset.unsigned_abs() + 1);
        let gone = happening == Happening::Delete(user);
        self.put((Key::User(user), (!gone).then_some(Value::User { seq, sum })));
        Output::Event { user, seq, offset, sum }
    }

    /// Time has passed. `position` is where the input is read from, for a shard without a record of its own yet.
    pub(crate) fn moment(&mut self, position: i64) -> Output {
        let moments = self.moments() + 1;
        self.put((Key::Shard, Some(Value::Shard { next: position, moments })));
        Output::Moment(moments)
    }

    /// What makes this state of `base`: the shard's own record always, last.
    pub(crate) fn changes_since(&self, base: &Self) -> Vec<Change> {
        let gone = base.values.keys().filter(|key| !self.values.contains_key(key)).map(|&key| (key, None));
        let new = self.values.iter().filter(|&(key, value)| base.values.get(key) != Some(value));
        let mut changes: Vec<Change> = gone.chain(new.map(|(&key, &value)| (key, Some(value)))).collect();
        changes.sort_by_key(|&(key, _)| std::cmp::Reverse(key));
        changes
    }
}

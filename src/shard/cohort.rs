//! How many users are in which state, kept incrementally and exact (issue 2: "exact after restarts and hand-overs").

use crate::lifecycle::{State, User};

/// Where a user is counted: state and activated; `None` without a lifecycle.
pub type Class = Option<(State, bool)>;

/// The sizes of one shard's cohorts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cohorts {
    counts: [[u64; 2]; State::ALL.len()],
    without_life: u64,
}

impl Cohorts {
    /// The class that counts `user`.
    #[must_use]
    pub fn class_of(user: &User) -> Class {
        user.life.as_ref().map(|life| (life.state, life.activated_at.is_some()))
    }

    /// Users in `state` who are `activated` or not.
    #[must_use]
    pub const fn size(&self, state: State, activated: bool) -> u64 {
        self.counts[state as usize][activated as usize]
    }

    /// Users of whom only properties are known.
    #[must_use]
    pub const fn without_life(&self) -> u64 {
        self.without_life
    }

    /// All users.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts.iter().flatten().sum::<u64>() + self.without_life
    }

    /// Adds another shard's sizes.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.counts.iter_mut().flatten().zip(other.counts.iter().flatten()) {
            *mine += theirs;
        }
        self.without_life += other.without_life;
    }

    /// A user has changed; `None` where there is no user.
    pub(crate) fn replace(&mut self, before: Option<Class>, after: Option<Class>) {
        if let Some(class) = before {
            self.leave(class);
        }
        if let Some(class) = after {
            self.enter(class);
        }
    }

    pub(crate) fn enter(&mut self, class: Class) {
        *self.slot(class) += 1;
    }

    /// # Panics
    /// If nobody is counted there: the ledger of cohorts is broken, and the state must be read again.
    pub(crate) fn leave(&mut self, class: Class) {
        let slot = self.slot(class);
        assert!(*slot > 0, "a user leaves the cohort {class:?}, which is empty");
        *slot -= 1;
    }

    pub(crate) fn set(&mut self, class: Class, size: u64) {
        *self.slot(class) = size;
    }

    /// Every class, in the order in which the shard record stores them. Frozen: append only.
    pub(crate) fn classes() -> impl Iterator<Item = Class> {
        State::ALL.into_iter().flat_map(|state| [Some((state, false)), Some((state, true))]).chain([None])
    }

    pub(crate) fn of(&self, class: Class) -> u64 {
        class.map_or(self.without_life, |(state, activated)| self.size(state, activated))
    }

    fn slot(&mut self, class: Class) -> &mut u64 {
        match class {
            Some((state, activated)) => &mut self.counts[state as usize][usize::from(activated)],
            None => &mut self.without_life,
        }
    }
}

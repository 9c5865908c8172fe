//! A shard's timers: the near part of the durable index, in a wheel (SPEC section 8).
//!
//! The index is ordered by deadline and user, and everything up to a place in it is in the wheel. Beyond that place
//! nothing is: those deadlines are read in chunks when the wheel has run out before them. So a million users due at the
//! same midnight cost a chunk of memory, not a million places.

use crate::shard::users::Users;
use crate::store::{Deadline, Store, StoreError};
use crate::time::EventTime;
use crate::timer::Wheel;

/// How many deadlines are read from the index at once.
const CHUNK: usize = 8_192;
/// With more than this in the wheel (newly armed ones add to it) it is made again from the index.
const MAX_HELD: usize = 8 * CHUNK;

/// The near deadlines, and how far they reach.
#[derive(Debug)]
pub(super) struct Timers {
    wheel: Wheel<Box<str>>,
    loaded: Loaded,
}

/// Up to where the index is in the wheel.
#[derive(Debug)]
enum Loaded {
    Nothing,
    UpTo(Deadline),
    Everything,
}

impl Timers {
    pub(super) fn new() -> Self {
        Self { wheel: Wheel::new(EventTime::MIN, EventTime::MAX), loaded: Loaded::Nothing }
    }

    /// Holds a newly armed deadline if it belongs to the near part; otherwise it will be read from the index, or found
    /// among the changed users, when its time comes nearer.
    pub(super) fn arm(&mut self, at: EventTime, user_id: &str) {
        let near = match &self.loaded {
            Loaded::Nothing => false,
            Loaded::UpTo(last) => (at, user_id) <= (last.at, &*last.user_id),
            Loaded::Everything => true,
        };
        if near {
            self.wheel.insert(at, user_id.into());
        }
    }

    /// Up to `limit` deadlines at or before `watermark`, in order of time.
    pub(super) fn due(
        &mut self,
        watermark: EventTime,
        limit: usize,
        store: &impl Store,
        users: &Users,
    ) -> Result<Vec<Deadline>, StoreError> {
        let mut due = Vec::new();
        while due.len() < limit {
            // Not beyond what is loaded: an earlier deadline may still be in the index.
            let to = match &self.loaded {
                Loaded::Nothing => EventTime::MIN,
                Loaded::UpTo(last) => last.at.min(watermark),
                Loaded::Everything => watermark,
            };
            if let Some((at, user_id)) = self.wheel.poll(to) {
                due.push(Deadline { at, user_id });
            } else if self.index_may_be_due(watermark) {
                self.refill(store, users)?;
            } else {
                break;
            }
        }
        Ok(due)
    }

    /// The next deadline before `moment` that was armed since [`Timers::due`] handed out one at `moment`.
    pub(super) fn before(&mut self, moment: EventTime) -> Option<Deadline> {
        let just_before = EventTime::from_millis(moment.as_millis().checked_sub(1)?);
        self.wheel.poll(just_before).map(|(at, user_id)| Deadline { at, user_id })
    }

    /// Whether something at or before `watermark` may be left.
    pub(super) fn may_be_due(&self, watermark: EventTime) -> bool {
        self.next_at().is_some_and(|at| at <= watermark)
    }

    /// A moment not later than the next deadline.
    pub(super) fn next_at(&self) -> Option<EventTime> {
        let index = match &self.loaded {
            Loaded::Nothing => Some(EventTime::MIN),
            Loaded::UpTo(last) => Some(last.at),
            Loaded::Everything => None,
        };
        self.wheel.next_at().into_iter().chain(index).min()
    }

    pub(super) fn is_oversized(&self) -> bool {
        self.wheel.len() > MAX_HELD
    }

    /// Reads the next chunk of the index, and what changed users have armed in that range and not yet committed. A user
    /// found twice fires once: the second time its armed deadline is another.
    pub(super) fn refill(&mut self, store: &impl Store, users: &Users) -> Result<(), StoreError> {
        let after = match &self.loaded {
            Loaded::Nothing => None,
            Loaded::UpTo(last) => Some(last.clone()),
            Loaded::Everything => return Ok(()),
        };
        let found = store.deadlines(after.as_ref(), EventTime::MAX, CHUNK)?;
        self.loaded = match found.last() {
            Some(last) if found.len() == CHUNK => Loaded::UpTo(last.clone()),
            _ => Loaded::Everything,
        };
        for (user_id, entry) in users.dirty() {
            let Some(at) = entry.armed() else { continue };
            let is_new = after.as_ref().is_none_or(|after| (at, user_id) > (after.at, &*after.user_id));
            if is_new && entry.indexed != Some(at) {
                self.arm(at, user_id);
            }
        }
        for Deadline { at, user_id } in found {
            self.wheel.insert(at, user_id);
        }
        Ok(())
    }

    fn index_may_be_due(&self, watermark: EventTime) -> bool {
        match &self.loaded {
            Loaded::Nothing => true,
            Loaded::UpTo(last) => last.at <= watermark,
            Loaded::Everything => false,
        }
    }
}

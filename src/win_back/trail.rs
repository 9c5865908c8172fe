//! What is remembered of one user for the measurement: the latest return, and the latest entry into each segment.
//!
//! Both are facts of the past: what was counted of them stays counted when the user returns again, is forgotten or is
//! deleted. Only the user's own record of them goes.

use super::Comeback;
use crate::time::{EventTime, Span};

/// How long after entering a segment a return still counts for the lift (SPEC-WINBACK section 10).
pub const RETURN_WITHIN: Span = Span::from_days(30);

/// What is remembered of one user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trail {
    /// The latest return.
    pub comeback: Option<Comeback>,
    /// The latest counted entry into each segment, ascending by segment.
    pub entries: Vec<Entry>,
}

/// One entry into a segment that counts for the lift. Another one within [`RETURN_WITHIN`] is taken for the same: a user
/// who goes in and out is one user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The segment's index, by the definitions of the user's generation.
    pub segment: u8,
    /// When.
    pub at: EventTime,
    /// Whether the user was held out then.
    pub held_out: bool,
    /// Whether a return within [`RETURN_WITHIN`] has been seen.
    pub returned: bool,
}

impl Trail {
    /// Whether there is nothing to remember.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.comeback.is_none() && self.entries.is_empty()
    }

    /// The user enters a segment. The entry, if it counts.
    pub fn enter(&mut self, segment: u8, at: EventTime, held_out: bool) -> Option<Entry> {
        let entry = Entry { segment, at, held_out, returned: false };
        match self.entries.binary_search_by_key(&segment, |entry| entry.segment) {
            Ok(place) if at < self.entries[place].at + RETURN_WITHIN => return None,
            Ok(place) => self.entries[place] = entry,
            Err(place) => self.entries.insert(place, entry),
        }
        Some(entry)
    }

    /// The user returns: marks every entry that this falls into, and hands it on.
    pub fn come_back(&mut self, at: EventTime, mut returned: impl FnMut(&Entry)) {
        for entry in self.entries.iter_mut().filter(|entry| !entry.returned && at <= entry.at + RETURN_WITHIN) {
            entry.returned = true;
            returned(entry);
        }
    }

    /// The segments have new indexes; those without one are forgotten.
    pub fn renumber(&mut self, index: impl Fn(u8) -> Option<u8>) {
        self.entries.retain_mut(|entry| index(entry.segment).map(|now| entry.segment = now).is_some());
        self.entries.sort_unstable_by_key(|entry| entry.segment);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(days: i64) -> EventTime {
        EventTime::from_millis(0) + Span::from_days(days)
    }

    #[test]
    fn one_entry_counts_for_thirty_days_and_one_return_for_each() {
        let mut trail = Trail::default();
        assert!(trail.enter(3, day(0), false).is_some() && trail.enter(1, day(10), true).is_some());
        assert_eq!(trail.enter(3, day(29), false), None, "the same stay");
        let mut returned = Vec::new();
        trail.come_back(day(31), |entry| returned.push(entry.segment));
        assert_eq!(returned, [1], "thirty days after entering the third segment are over");
        trail.come_back(day(32), |entry| returned.push(entry.segment));
        assert_eq!(returned, [1], "once each");
        assert!(trail.enter(3, day(30), false).is_some(), "another stay");
    }

    #[test]
    fn entries_follow_their_segments_to_new_indexes() {
        let mut trail = Trail::default();
        for segment in [0, 1, 2] {
            trail.enter(segment, day(i64::from(segment)), false);
        }
        trail.renumber(|old| [Some(5), None, Some(2)][usize::from(old)]);
        let left: Vec<(u8, EventTime)> = trail.entries.iter().map(|entry| (entry.segment, entry.at)).collect();
        assert_eq!(left, [(2, day(2)), (5, day(0))]);
    }
}

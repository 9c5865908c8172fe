//! One level of the wheel, and the arithmetic of slots: which level and slot a time falls in, and when a slot starts.

use crate::time::EventTime;

/// Bits in a digit.
const DIGIT_BITS: usize = 6;
/// Slots of a level: the values of one digit.
const SLOTS: usize = 1 << DIGIT_BITS;
/// Digits in a 64-bit time. The highest level uses 16 of its slots.
pub(super) const LEVELS: usize = 64_usize.div_ceil(DIGIT_BITS);

/// A slot of the wheel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) level: usize,
    pub(super) slot: usize,
}

impl Place {
    /// Where an item due at `at` lies; `None` at or before the cursor.
    pub(super) fn of(at: EventTime, cursor: EventTime) -> Option<Self> {
        if at <= cursor {
            return None;
        }
        let (at, cursor) = (ordered(at), ordered(cursor));
        let differing_bit = (at ^ cursor).ilog2() as usize;
        let level = differing_bit / DIGIT_BITS;
        Some(Self { level, slot: digit(at, level) })
    }

    /// The first moment of a slot that is ahead of the cursor: the cursor's higher digits, then the slot, then zeros.
    pub(super) fn start(self, cursor: EventTime) -> EventTime {
        let below = self.level * DIGIT_BITS;
        let above = u32::try_from(below + DIGIT_BITS).unwrap_or(u32::MAX);
        let higher = u64::MAX.checked_shl(above).unwrap_or(0);
        from_ordered((ordered(cursor) & higher) | ((self.slot as u64) << below))
    }
}

/// The items of one level by slot, and which slots are in use.
#[derive(Debug)]
pub(super) struct Level<T> {
    in_use: u64,
    slots: [Vec<(EventTime, T)>; SLOTS],
}

impl<T> Default for Level<T> {
    fn default() -> Self {
        Self { in_use: 0, slots: std::array::from_fn(|_| Vec::new()) }
    }
}

impl<T> Level<T> {
    pub(super) fn put(&mut self, slot: usize, item: (EventTime, T)) {
        self.in_use |= 1 << slot;
        self.slots[slot].push(item);
    }

    /// Empties a slot, and frees its memory with what is returned.
    pub(super) fn take(&mut self, slot: usize) -> Vec<(EventTime, T)> {
        self.in_use &= !(1 << slot);
        std::mem::take(&mut self.slots[slot])
    }

    /// The lowest slot in use.
    pub(super) fn first_slot(&self) -> Option<usize> {
        (self.in_use != 0).then(|| self.in_use.trailing_zeros() as usize)
    }
}

/// The value of one digit.
fn digit(ordered: u64, level: usize) -> usize {
    usize::try_from((ordered >> (level * DIGIT_BITS)) & (SLOTS as u64 - 1)).unwrap_or(SLOTS - 1)
}

/// Milliseconds as an unsigned number of the same order.
fn ordered(at: EventTime) -> u64 {
    at.as_millis().cast_unsigned() ^ (1 << 63)
}

/// The inverse of [`ordered`].
fn from_ordered(ordered: u64) -> EventTime {
    EventTime::from_millis((ordered ^ (1 << 63)).cast_signed())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(millis: i64) -> EventTime {
        EventTime::from_millis(millis)
    }

    #[test]
    fn slots_hold_the_times_that_their_digits_say() {
        // cursor, time, level, slot, start of the slot
        let table = [
            (10, 12, 0, 12, 12),
            (10, 63, 0, 63, 63),
            (10, 64, 1, 1, 64),
            (10, 200, 1, 3, 192),
            (10, 4_095, 1, 63, 4_032),
            (10, 4_096, 2, 1, 4_096),
            (10, 5_000, 2, 1, 4_096),
            (4_100, 5_000, 1, 14, 4_992),
            (262_143, 262_144, 3, 1, 262_144),
            (-1, 0, 10, 8, 0),
            (-2, -1, 0, 63, -1),
            (-64, -1, 0, 63, -1),
            (-65, -1, 1, 63, -64),
            (i64::MIN, i64::MAX, 10, 15, 0x7000_0000_0000_0000),
        ];
        for (cursor, time, level, slot, start) in table {
            let place = Place::of(at(time), at(cursor)).expect("the time is after the cursor");
            assert_eq!((place.level, place.slot), (level, slot), "{time} seen from {cursor}");
            assert_eq!(place.start(at(cursor)), at(start), "{time} seen from {cursor}");
        }
    }

    #[test]
    fn nothing_at_or_before_the_cursor_has_a_slot() {
        assert_eq!(Place::of(at(10), at(10)), None);
        assert_eq!(Place::of(at(-10), at(10)), None);
    }

    proptest! {
        #[test]
        fn a_slot_starts_after_the_cursor_and_holds_its_time(cursor in any::<i64>(), time in any::<i64>()) {
            prop_assume!(time > cursor);
            let place = Place::of(at(time), at(cursor)).expect("the time is after the cursor");
            let start = place.start(at(cursor));
            prop_assert!(at(cursor) < start && start <= at(time));
            // Seen from its slot's start an item has fallen at least one level.
            prop_assert!(Place::of(at(time), start).is_none_or(|fallen| fallen.level < place.level));
        }

        #[test]
        fn a_lower_level_is_earlier(cursor in any::<i64>(), one in any::<i64>(), other in any::<i64>()) {
            if let (Some(low), Some(high)) = (Place::of(at(one), at(cursor)), Place::of(at(other), at(cursor)))
                && low.level < high.level
            {
                prop_assert!(one < other);
            }
        }
    }
}

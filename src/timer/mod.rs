//! A hierarchical timer wheel: the deadlines of the near horizon, in memory (SPEC section 8).
//!
//! It promises that [`Wheel::poll`] hands out every held item at its time or later, never earlier, in order of time and
//! then of item, each exactly once; and that it holds nothing at or after its horizon, so that memory follows the near
//! future and not the number of users. It never removes an item before its time: who no longer wants it finds out when it
//! comes (the shard compares it with the deadline that is armed). It reads no clock and starts no thread: time is what the
//! caller says it is, and never goes back.
//!
//! # How it works
//!
//! After Varghese and Lauck, "Hashed and Hierarchical Timing Wheels" (1987), scheme 7. A time is a 64-bit number of
//! milliseconds, read as eleven digits in base 64, the least significant first. Level `L` of the wheel has one slot for
//! each value of digit `L`. An item lies at the level of the most significant digit in which its time differs from the
//! cursor (all that is at or before the cursor has left the wheel), in the slot of that digit's value.
//!
//! Two facts follow. A slot in use is always ahead of the cursor's own digit; and everything at a level is earlier than
//! everything at the levels above, since it shares with the cursor the digit in which those are ahead. So the next slot is
//! the lowest one in use of the lowest level in use: two bit scans. When time reaches the start of that slot, the cursor
//! moves there, and the slot's items, which now agree with the cursor in that digit too, fall to lower levels. From level
//! 0, where all items of a slot have the same time, they are due.
//!
//! An item falls at most once a level, so inserting is O(1) and firing O(levels), plus sorting what is due at once.
//!
//! # A worked example
//!
//! Digits are written most significant first, without the eight leading zeros. The cursor is at 10 ms, `0 0 10`.
//!
//! | item | time | digits | differs at | held in |
//! |------|------|--------|------------|---------|
//! | a | 12 ms | `0 0 12` | level 0 | level 0, slot 12 |
//! | b | 200 ms | `0 3 8` | level 1 | level 1, slot 3 (192 to 255 ms) |
//! | c | 210 ms | `0 3 18` | level 1 | level 1, slot 3 |
//! | d | 5,000 ms | `1 14 8` | level 2 | level 2, slot 1 (4,096 to 8,191 ms) |
//!
//! `poll(205)`: level 0 has slot 12 in use; the cursor moves to 12 and `a` is due. Then level 1's slot 3 is next; the
//! cursor moves to 192 (`0 3 0`), `b` falls to level 0, slot 8, and `c` to level 0, slot 18. Slot 8 starts at 200 ms: `b`
//! is due. Slot 18 starts at 210, later than 205: the cursor moves to 205 and nothing more is due. `c` stays at level 0,
//! slot 18, and `d` at level 2, slot 1, never touched.

mod level;

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::time::EventTime;
use level::{LEVELS, Level, Place};

/// Items by the time at which they are due.
#[derive(Debug)]
pub struct Wheel<T> {
    levels: Box<[Level<T>; LEVELS]>,
    /// Items at or before the cursor, which no slot can hold.
    due: BinaryHeap<Reverse<(EventTime, T)>>,
    cursor: EventTime,
    horizon: EventTime,
    len: usize,
}

impl<T: Ord> Wheel<T> {
    /// An empty wheel at `now` that takes items due before `horizon`.
    #[must_use]
    pub fn new(now: EventTime, horizon: EventTime) -> Self {
        Self {
            levels: Box::new(std::array::from_fn(|_| Level::default())),
            due: BinaryHeap::new(),
            cursor: now,
            horizon,
            len: 0,
        }
    }

    /// Holds `item` until `at`; one dated in the past is due at once. `false`, and nothing is held, when `at` is not
    /// before the horizon: such an item has to be inserted again once the horizon has passed it.
    pub fn insert(&mut self, at: EventTime, item: T) -> bool {
        if at >= self.horizon {
            return false;
        }
        self.len += 1;
        self.place(at, item);
        true
    }

    /// The next item due at or before `to`, earliest first, equal times by item. `None` when there is no more, and only
    /// then is the wheel at `to`. The caller bounds how many it takes at a time.
    pub fn poll(&mut self, to: EventTime) -> Option<(EventTime, T)> {
        loop {
            if self.due.peek().is_some_and(|Reverse((at, _))| *at <= to) {
                let Reverse(next) = self.due.pop()?;
                self.len -= 1;
                return Some(next);
            }
            let Some(place) = self.next_place().filter(|place| place.start(self.cursor) <= to) else {
                self.cursor = self.cursor.max(to);
                return None;
            };
            self.open(place);
        }
    }

    /// A moment not later than the next item's, exact for items of the next 64 ms; `None` when there are no items.
    #[must_use]
    pub fn next_at(&self) -> Option<EventTime> {
        let due = self.due.peek().map(|Reverse((at, _))| *at);
        due.or_else(|| self.next_place().map(|place| place.start(self.cursor)))
    }

    /// How many items are held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no item is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Items due at or after this moment are not taken.
    #[must_use]
    pub fn horizon(&self) -> EventTime {
        self.horizon
    }

    /// Moves the horizon ahead; an earlier one is ignored. The caller then inserts the items between the two.
    pub fn extend(&mut self, horizon: EventTime) {
        self.horizon = self.horizon.max(horizon);
    }

    fn place(&mut self, at: EventTime, item: T) {
        match Place::of(at, self.cursor) {
            Some(place) => self.levels[place.level].put(place.slot, (at, item)),
            None => self.due.push(Reverse((at, item))),
        }
    }

    /// The lowest slot in use of the lowest level in use.
    fn next_place(&self) -> Option<Place> {
        (0..LEVELS).find_map(|level| Some(Place { level, slot: self.levels[level].first_slot()? }))
    }

    /// Moves the cursor to the start of the next slot and empties it, into lower levels or what is due.
    fn open(&mut self, place: Place) {
        self.cursor = place.start(self.cursor);
        let items = self.levels[place.level].take(place.slot);
        if place.level == 0 {
            // All have one time, the cursor's. Built at once, a storm's heap costs O(n).
            let mut due: BinaryHeap<_> = items.into_iter().map(Reverse).collect();
            self.due.append(&mut due);
        } else {
            for (at, item) in items {
                debug_assert!(at >= self.cursor, "an item lies in the slot that its time falls in");
                self.place(at, item);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn at(millis: i64) -> EventTime {
        EventTime::from_millis(millis)
    }

    fn drain<T: Ord>(wheel: &mut Wheel<T>, to: i64) -> Vec<(i64, T)> {
        std::iter::from_fn(|| wheel.poll(at(to))).map(|(at, item)| (at.as_millis(), item)).collect()
    }

    #[test]
    fn the_worked_example_of_the_module_holds() {
        let mut wheel = Wheel::new(at(10), EventTime::MAX);
        for (time, item) in [(12, 'a'), (200, 'b'), (210, 'c'), (5_000, 'd')] {
            assert!(wheel.insert(at(time), item));
        }
        assert_eq!(
            wheel.levels.iter().map(Level::first_slot).take(4).collect::<Vec<_>>(),
            [Some(12), Some(3), Some(1), None]
        );
        assert_eq!(drain(&mut wheel, 205), [(12, 'a'), (200, 'b')]);
        assert_eq!(
            (wheel.cursor, wheel.levels[0].first_slot(), wheel.levels[2].first_slot()),
            (at(205), Some(18), Some(1))
        );
        assert_eq!(drain(&mut wheel, 4_999), [(210, 'c')]);
        assert_eq!(drain(&mut wheel, 5_000), [(5_000, 'd')]);
        assert!(wheel.is_empty());
    }

    #[test]
    fn an_item_dated_in_the_past_is_due_at_once_and_before_later_ones() {
        let mut wheel = Wheel::new(at(1_000), EventTime::MAX);
        wheel.insert(at(1_001), 'b');
        wheel.insert(at(-5), 'a');
        wheel.insert(at(1_000), 'c');
        assert_eq!(wheel.next_at(), Some(at(-5)));
        assert_eq!(drain(&mut wheel, 1_001), [(-5, 'a'), (1_000, 'c'), (1_001, 'b')]);
    }

    #[test]
    fn one_instant_hands_out_its_items_in_their_own_order() {
        let mut wheel = Wheel::new(at(0), EventTime::MAX);
        for item in [3, 1, 2] {
            wheel.insert(at(70_000), item);
        }
        assert_eq!(drain(&mut wheel, 70_000), [(70_000, 1), (70_000, 2), (70_000, 3)]);
    }

    #[test]
    fn the_horizon_is_exclusive_and_moves_only_ahead() {
        let mut wheel = Wheel::new(at(0), at(100));
        assert!(wheel.insert(at(99), ()));
        assert!(!wheel.insert(at(100), ()));
        assert_eq!(wheel.len(), 1);
        wheel.extend(at(50));
        assert_eq!(wheel.horizon(), at(100));
        wheel.extend(at(101));
        assert!(wheel.insert(at(100), ()));
    }

    #[test]
    fn a_storm_may_be_taken_in_bounded_batches_with_inserts_between() {
        let mut wheel = Wheel::new(at(0), EventTime::MAX);
        for item in 0..1_000 {
            wheel.insert(at(86_400_000), item);
        }
        let mut taken = Vec::new();
        while let Some((_, item)) = wheel.poll(at(90_000_000)) {
            taken.push(item);
            if item == 500 {
                wheel.insert(at(86_400_001), 5_000);
                wheel.insert(at(86_399_999), -1);
            }
        }
        assert_eq!(taken[..501], (0..=500).collect::<Vec<_>>());
        assert_eq!(taken[501], -1);
        assert_eq!(taken[502..1_001], (501..1_000).collect::<Vec<_>>());
        assert_eq!(taken[1_001..], [5_000]);
    }

    #[test]
    fn the_whole_of_time_is_covered() {
        let mut wheel = Wheel::new(EventTime::MIN, EventTime::MAX);
        let times = [i64::MIN, i64::MIN + 1, -86_400_000, -1, 0, 1, 1_700_000_000_000, i64::MAX - 1];
        for time in times.into_iter().rev() {
            assert!(wheel.insert(at(time), ()));
        }
        assert_eq!(drain(&mut wheel, i64::MAX).into_iter().map(|(at, ())| at).collect::<Vec<_>>(), times);
    }

    #[derive(Clone, Debug)]
    enum Action {
        Insert(i64),
        Poll { ahead: i64, at_most: usize },
    }

    /// Distances of every magnitude, the past included.
    fn distance() -> impl Strategy<Value = i64> {
        (0_u32..40, 0_i64..64).prop_map(|(shift, digit)| (digit << shift) - 40)
    }

    fn actions() -> impl Strategy<Value = Vec<Action>> {
        let action = prop_oneof![
            3 => distance().prop_map(Action::Insert),
            1 => (distance(), 0_usize..6).prop_map(|(ahead, at_most)| Action::Poll { ahead: ahead.max(0), at_most }),
        ];
        proptest::collection::vec(action, 0..120)
    }

    proptest! {
        #[test]
        fn it_hands_out_what_a_sorted_set_would(start in -1_000_000_000_000_i64..4_000_000_000_000, actions in actions()) {
            let mut wheel = Wheel::new(at(start), EventTime::MAX);
            let mut model = BTreeSet::new();
            let mut now = start;
            for (number, action) in actions.into_iter().enumerate() {
                match action {
                    Action::Insert(distance) => {
                        prop_assert!(wheel.insert(at(now + distance), number));
                        model.insert((at(now + distance), number));
                    }
                    Action::Poll { ahead, at_most } => {
                        now += ahead;
                        for _ in 0..at_most {
                            let expected = model.first().copied().filter(|(due, _)| *due <= at(now));
                            prop_assert_eq!(wheel.poll(at(now)), expected);
                            let Some(expected) = expected else { break };
                            model.remove(&expected);
                        }
                    }
                }
                prop_assert_eq!(wheel.len(), model.len());
                match (wheel.next_at(), model.first()) {
                    (Some(bound), Some((first, _))) => prop_assert!(bound <= *first),
                    (bound, first) => prop_assert!(bound.is_none() && first.is_none()),
                }
            }
            let rest: Vec<_> = std::iter::from_fn(|| wheel.poll(EventTime::MAX)).collect();
            prop_assert_eq!(rest, model.into_iter().collect::<Vec<_>>());
        }
    }
}

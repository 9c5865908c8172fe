//! How far a shard's event time has come (SPEC section 4). Pure: wall time comes in as a parameter.
//!
//! Three rules, and nothing else, move it: an accepted event; the wall clock, once the partition is read to its end and
//! quiet; and never the wall clock alone for longer than the silence guard allows. It never goes back.

use crate::time::{EventTime, Span, WallTime};

/// The configuration's `[time]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimeRules {
    /// How far the watermark stays behind the largest event time.
    pub lateness: Span,
    /// How long a caught-up partition must be quiet before wall time counts.
    pub idle_after: Span,
    /// How far wall time may carry the watermark past the last event received; `None` is without end.
    pub silence_guard: Option<Span>,
}

/// SPEC section 4's defaults.
impl Default for TimeRules {
    fn default() -> Self {
        Self {
            lateness: Span::from_millis(10_000),
            idle_after: Span::from_millis(5_000),
            silence_guard: Some(Span::from_days(1)),
        }
    }
}

/// The event time up to which deadlines take effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermark {
    at: EventTime,
    last_received: Option<WallTime>,
}

impl Default for Watermark {
    fn default() -> Self {
        Self { at: EventTime::MIN, last_received: None }
    }
}

impl Watermark {
    /// As the shard record remembers it.
    #[must_use]
    pub const fn restored(at: EventTime, last_received: Option<WallTime>) -> Self {
        Self { at, last_received }
    }

    /// Deadlines at or before this have taken effect, or are about to. [`EventTime::MIN`] before the first event.
    #[must_use]
    pub const fn at(self) -> EventTime {
        self.at
    }

    /// When the last event was received. Dead letters and deletion requests do not count: a producer that sends only
    /// rubbish is as good as dead.
    #[must_use]
    pub const fn last_received(self) -> Option<WallTime> {
        self.last_received
    }

    /// An event was accepted.
    pub fn accept(&mut self, time: EventTime, now: WallTime, rules: &TimeRules) {
        self.at = self.at.max(time - rules.lateness);
        self.last_received = Some(self.last_received.map_or(now, |last| last.max(now)));
    }

    /// Time passed. `caught_up` says that the shard has no unread record.
    pub fn tick(&mut self, now: WallTime, caught_up: bool, rules: &TimeRules) {
        if let Some(target) = self.follows(now, caught_up, rules) {
            self.at = self.at.max(target);
        }
    }

    /// Whether the silence guard holds the watermark back at `now`.
    #[must_use]
    pub fn guard_holds(self, now: WallTime, rules: &TimeRules) -> bool {
        match (self.last_received, rules.silence_guard) {
            (Some(last), Some(guard)) => now > last + guard,
            _ => false,
        }
    }

    /// How long after `now` the wall clock carries the watermark to `deadline`; `None` where it never does without
    /// another event.
    #[must_use]
    pub fn reaches(self, deadline: EventTime, now: WallTime, rules: &TimeRules) -> Option<Span> {
        if deadline <= self.at {
            return Some(Span::ZERO);
        }
        let last = self.last_received?;
        let due = WallTime::from_millis((deadline + rules.lateness).as_millis());
        if rules.silence_guard.is_some_and(|guard| due > last + guard) {
            return None;
        }
        Some((due.max(last + rules.idle_after) - now).max(Span::ZERO))
    }

    fn follows(self, now: WallTime, caught_up: bool, rules: &TimeRules) -> Option<EventTime> {
        let last = self.last_received?;
        if !caught_up || now - last < rules.idle_after {
            return None;
        }
        let limit = rules.silence_guard.map_or(now, |guard| now.min(last + guard));
        Some(limit.as_event_time() - rules.lateness)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000;
    const DAY: i64 = 24 * HOUR;

    fn wall(ms: i64) -> WallTime {
        WallTime::from_millis(ms)
    }

    fn event(ms: i64) -> EventTime {
        EventTime::from_millis(ms)
    }

    /// One event at event time 0, received at wall time 0, then one tick.
    #[test]
    fn wall_time_counts_only_when_caught_up_and_quiet_and_guarded() {
        let guarded = TimeRules::default();
        let open = TimeRules { silence_guard: None, ..TimeRules::default() };
        let table = [
            // (rules, wall time, caught up, watermark, held)
            (&guarded, 0, true, -10_000, false),
            (&guarded, 4_999, true, -10_000, false),
            (&guarded, 5_000, true, -5_000, false),
            (&guarded, HOUR, false, -10_000, false),
            (&guarded, HOUR, true, HOUR - 10_000, false),
            (&guarded, DAY, true, DAY - 10_000, false),
            (&guarded, DAY + 1, true, DAY - 10_000, true),
            (&guarded, 30 * DAY, true, DAY - 10_000, true),
            (&guarded, 30 * DAY, false, -10_000, true),
            (&open, 30 * DAY, true, 30 * DAY - 10_000, false),
        ];
        for (row, (rules, now, caught_up, at, held)) in table.into_iter().enumerate() {
            let mut mark = Watermark::default();
            mark.accept(event(0), wall(0), rules);
            mark.tick(wall(now), caught_up, rules);
            assert_eq!((mark.at(), mark.guard_holds(wall(now), rules)), (event(at), held), "row {row}");
        }
    }

    #[test]
    fn nothing_moves_a_shard_that_never_saw_an_event() {
        let mut mark = Watermark::default();
        mark.tick(wall(DAY), true, &TimeRules::default());
        assert_eq!(mark, Watermark::default());
        assert_eq!(mark.reaches(event(0), wall(0), &TimeRules::default()), None);
    }

    #[test]
    fn it_never_goes_back() {
        let rules = TimeRules::default();
        let mut mark = Watermark::default();
        mark.accept(event(5 * DAY), wall(5 * DAY), &rules);
        mark.accept(event(2 * DAY), wall(4 * DAY), &rules);
        assert_eq!(mark.at(), event(5 * DAY - 10_000));
        assert_eq!(mark.last_received(), Some(wall(5 * DAY)), "a wall clock set back does not reopen the guard");
        mark.tick(wall(4 * DAY), true, &rules);
        assert_eq!(mark.at(), event(5 * DAY - 10_000));
    }

    #[test]
    fn a_held_watermark_moves_with_the_next_event() {
        let rules = TimeRules::default();
        let mut mark = Watermark::default();
        mark.accept(event(0), wall(0), &rules);
        mark.tick(wall(10 * DAY), true, &rules);
        assert!(mark.guard_holds(wall(10 * DAY), &rules));
        mark.accept(event(10 * DAY), wall(10 * DAY), &rules);
        assert!(!mark.guard_holds(wall(10 * DAY), &rules));
        assert_eq!(mark.at(), event(10 * DAY - 10_000));
    }

    #[test]
    fn the_wait_for_a_deadline_is_exact() {
        let rules = TimeRules::default();
        let mut mark = Watermark::default();
        mark.accept(event(0), wall(0), &rules);
        for deadline in [1, 3_000, HOUR, DAY - 10_000] {
            let wait =
                mark.reaches(event(deadline), wall(7), &rules).unwrap_or_else(|| panic!("{deadline} is reached"));
            let (mut before, mut then) = (mark, mark);
            before.tick(wall(7) + wait + Span::from_millis(-1), true, &rules);
            then.tick(wall(7) + wait, true, &rules);
            assert!(before.at() < event(deadline), "{deadline} is not reached a millisecond earlier");
            assert!(then.at() >= event(deadline), "{deadline} is reached");
        }
        assert_eq!(mark.reaches(event(DAY - 9_999), wall(7), &rules), None, "the guard comes first");
    }
}

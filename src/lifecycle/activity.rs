//! A user's activity by UTC day: the two windows of the declining rule (SPEC section 2) and the number of active days
//! that the survival rule needs (SPEC section 3).
//!
//! Days are kept relative to the latest active day, newest first. That loses nothing: a user is judged only at days
//! `D >= last_day`, so the oldest day that any judgement can still ask for is `last_day - 2n`.

use crate::lifecycle::policy::Declining;
use crate::time::Day;

/// The most day buckets that are ever kept: `2n + 1` for the widest window, 60 days.
pub const MAX_BUCKETS: usize = 121;
/// Days, the latest included, for which it is remembered whether the user was active.
const REMEMBERED_DAYS: u32 = u64::BITS;

/// Activity by day. The fields are what the store persists; change them through the methods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Activity {
    /// The latest day with activity.
    pub last_day: Day,
    /// Activity on `last_day - k` at index `k`; no trailing zeros, at most [`MAX_BUCKETS`]. Days beyond the end, or
    /// dropped by a narrower window, count as days without activity.
    pub buckets: Vec<u32>,
    /// Bit `k` is set when the user was active on `last_day - k`. A reactivation does not clear it.
    pub active_mask: u64,
    /// Distinct days with activity, the first included. Exact for late events up to 63 days behind `last_day` and for
    /// those before the first activity; a late event in between counts no day.
    pub active_days: u32,
}

/// Activity in the two windows that the declining rule compares (SPEC section 2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Windows {
    /// Days `D-n ..= D`: `n` full days and today.
    pub recent: u64,
    /// Days `D-2n ..= D-n-1`.
    pub prior: u64,
}

impl Activity {
    /// One activity on `day`, the user's first.
    #[must_use]
    pub fn first(day: Day, declining: Option<&Declining>) -> Self {
        let mut activity = Self { last_day: day, ..Self::default() };
        activity.count(day, day, declining);
        activity
    }

    /// Counts one activity on `day`. `first_day` is the day of the user's first activity before this one. Without a
    /// declining rule no bucket is kept.
    pub fn count(&mut self, day: Day, first_day: Day, declining: Option<&Declining>) {
        let kept = declining.map_or(0, buckets_kept);
        self.move_forward_to(day, kept);
        let behind = days_between(day, self.last_day);
        let index = usize::try_from(behind).unwrap_or(usize::MAX);
        if index < kept {
            if self.buckets.len() <= index {
                self.buckets.resize(index + 1, 0);
            }
            self.buckets[index] = self.buckets[index].saturating_add(1);
        }
        self.buckets.truncate(kept);
        self.trim();
        if self.is_new_day(day, behind, first_day) {
            self.active_days = self.active_days.saturating_add(1);
        }
    }

    /// A new life is compared with itself: the buckets restart empty, the active days go on (SPEC section 2).
    pub fn restart(&mut self) {
        self.buckets.clear();
    }

    /// BG/NBD's `x`: distinct active days after the first.
    #[must_use]
    pub fn repeat_days(&self) -> u32 {
        self.active_days.saturating_sub(1)
    }

    /// Activity in the two windows as of `day`, at or after the latest active day. Costs O(window).
    #[must_use]
    pub fn windows(&self, day: Day, rule: &Declining) -> Windows {
        let n = i64::from(rule.window_days);
        let newest = -days_between(self.last_day, day);
        let within = |from: i64, to: i64| (from..=to).map(|behind| self.on(behind)).sum();
        // In days behind `last_day`: day D is `newest` (zero or negative), day D-n is `newest + n`.
        Windows { recent: within(newest.max(0), newest + n), prior: within((newest + n + 1).max(0), newest + 2 * n) }
    }

    /// Whether the user is declining as of `day`, measured with `ratio` (SPEC section 2).
    #[must_use]
    pub fn declines(&self, day: Day, rule: &Declining, ratio: f64) -> bool {
        self.windows(day, rule).decline(rule, ratio)
    }

    /// The first day, at or after `from` and after the latest active day, as of which the user is declining if nothing
    /// more happens. Costs O(window).
    ///
    /// From `last_day + n + 1` on `recent` is 0 and `prior` only shrinks, so a user who is not declining by then, or at
    /// `from` when that is later still, never will be.
    #[must_use]
    pub fn next_declining_day(&self, from: Day, rule: &Declining) -> Option<Day> {
        let n = i32::from(rule.window_days);
        let total: u64 = self.buckets.iter().copied().map(u64::from).sum();
        if total < u64::from(rule.min_baseline) {
            return None;
        }
        let mut day = from.max(self.last_day + 1);
        let last = day.max(self.last_day + (n + 1));
        let mut windows = self.windows(day, rule);
        loop {
            if windows.decline(rule, rule.decline_ratio) {
                return Some(day);
            }
            if day >= last {
                return None;
            }
            // The day turns: D-n passes from recent to prior, D-2n leaves prior, and the new today has no activity.
            let behind = -days_between(self.last_day, day);
            let passing = self.on(behind + i64::from(n));
            windows.recent -= passing;
            windows.prior = windows.prior + passing - self.on(behind + 2 * i64::from(n));
            day = day + 1;
        }
    }

    /// Activity on the day so many days behind the latest.
    fn on(&self, behind: i64) -> u64 {
        usize::try_from(behind).ok().and_then(|index| self.buckets.get(index)).copied().map_or(0, u64::from)
    }

    /// Makes `day` the latest day, if it is later.
    fn move_forward_to(&mut self, day: Day, kept: usize) {
        let Ok(ahead) = usize::try_from(days_between(self.last_day, day)) else { return };
        if ahead == 0 {
            return;
        }
        if ahead >= kept || self.buckets.is_empty() {
            self.buckets.clear();
        } else {
            self.buckets.splice(0..0, std::iter::repeat_n(0, ahead));
        }
        let shift = u32::try_from(ahead).unwrap_or(u32::MAX);
        self.active_mask = self.active_mask.checked_shl(shift).unwrap_or(0);
        self.last_day = day;
    }

    /// Whether the user was not active on `day` before; remembers that it is.
    fn is_new_day(&mut self, day: Day, behind: i64, first_day: Day) -> bool {
        match u32::try_from(behind) {
            Ok(behind) if behind < REMEMBERED_DAYS => {
                let bit = 1 << behind;
                let new = self.active_mask & bit == 0;
                self.active_mask |= bit;
                new
            }
            _ => day < first_day,
        }
    }

    fn trim(&mut self) {
        let used = self.buckets.iter().rposition(|&count| count > 0).map_or(0, |index| index + 1);
        self.buckets.truncate(used);
    }
}

impl Windows {
    /// The rule itself: enough activity to compare with, and less than its share now.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "counts of one user's events are below 2^53")]
    pub fn decline(self, rule: &Declining, ratio: f64) -> bool {
        self.prior >= u64::from(rule.min_baseline) && self.recent as f64 <= ratio * self.prior as f64
    }
}

/// The last `2n + 1` days (SPEC section 2).
fn buckets_kept(rule: &Declining) -> usize {
    (2 * usize::from(rule.window_days) + 1).min(MAX_BUCKETS)
}

/// Whole days from `from` to `to`; negative when `to` is earlier.
fn days_between(from: Day, to: Day) -> i64 {
    i64::from(to.number()) - i64::from(from.number())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RULE: Declining = Declining { window_days: 3, decline_ratio: 0.5, recover_ratio: 0.75, min_baseline: 4 };

    fn day(number: i32) -> Day {
        Day::from_number(number)
    }

    fn counted(days: &[i32]) -> Activity {
        let mut activity = Activity::first(day(days[0]), Some(&RULE));
        let mut first = days[0];
        for &number in &days[1..] {
            activity.count(day(number), day(first), Some(&RULE));
            first = first.min(number);
        }
        activity
    }

    #[test]
    fn buckets_are_the_last_days_newest_first_without_trailing_zeros() {
        // days with activity in order of arrival, buckets
        let table: [(&[i32], &[u32]); 8] = [
            (&[10], &[1]),
            (&[10, 10, 10], &[3]),
            (&[10, 12], &[1, 0, 1]),
            (&[10, 16], &[1, 0, 0, 0, 0, 0, 1]),
            (&[10, 17], &[1]),
            (&[10, 10_000], &[1]),
            (&[10, 8, 4, 3], &[1, 0, 1, 0, 0, 0, 1]),
            (&[-1, 0, -1], &[1, 2]),
        ];
        for (days, buckets) in table {
            assert_eq!(counted(days).buckets, buckets, "{days:?}");
        }
    }

    #[test]
    fn windows_are_n_full_days_and_today_against_the_n_days_before() {
        let activity = counted(&[1, 2, 3, 3, 4, 5, 6, 7]);
        // as of day, recent, prior
        let table = [(7, 4, 4), (8, 3, 4), (9, 2, 4), (10, 1, 3), (11, 0, 3), (13, 0, 1), (14, 0, 0), (1_000, 0, 0)];
        for (as_of, recent, prior) in table {
            assert_eq!(activity.windows(day(as_of), &RULE), Windows { recent, prior }, "as of day {as_of}");
        }
    }

    #[test]
    fn declining_takes_a_baseline_and_holds_at_equality() {
        // prior, recent, declining
        let table = [(4, 2, true), (4, 3, false), (3, 0, false), (5, 2, true), (5, 3, false), (0, 0, false)];
        for (prior, recent, expected) in table {
            assert_eq!(Windows { recent, prior }.decline(&RULE, 0.5), expected, "{recent} after {prior}");
        }
    }

    #[test]
    fn a_changed_window_finds_what_was_kept_and_zeros_beyond() {
        let (wide, narrow) = (Declining { window_days: 60, ..RULE }, Declining { window_days: 1, ..RULE });
        let mut activity = counted(&[1, 2, 3, 4]);
        assert_eq!(activity.windows(day(5), &wide), Windows { recent: 4, prior: 0 });
        activity.count(day(5), day(1), Some(&narrow));
        assert_eq!(activity.buckets, [1, 1, 1]);
        activity.count(day(6), day(1), None);
        assert_eq!(activity.buckets, [0_u32; 0]);
        assert_eq!(activity.next_declining_day(day(7), &wide), None);
        let beyond = Declining { window_days: u16::MAX, ..RULE };
        activity.count(day(900), day(1), Some(&beyond));
        activity.count(day(0), day(1), Some(&beyond));
        assert_eq!(activity.buckets, [1]);
    }

    #[test]
    fn active_days_are_distinct_and_survive_a_restart() {
        // days with activity in order of arrival, x
        let table: [(&[i32], u32); 9] = [
            (&[10, 10], 0),
            (&[10, 138], 1),
            (&[10, 11, 11, 13], 2),
            (&[100, 37], 1),
            (&[100, 37, 37], 1),
            (&[10, 100, 11], 1),
            (&[10, 100, 10], 1),
            (&[10, 100, 9, 9, 8], 3),
            (&[10, 500, 436, 437, 437], 2),
        ];
        for (days, repeats) in table {
            assert_eq!(counted(days).repeat_days(), repeats, "{days:?}");
        }
        let mut activity = counted(&[1, 2, 3]);
        activity.restart();
        activity.count(day(3), day(1), Some(&RULE));
        assert_eq!((activity.repeat_days(), activity.buckets), (2, vec![1]));
    }

    proptest! {
        #[test]
        fn the_next_declining_day_is_the_first_that_a_search_finds(
            days in proptest::collection::vec(-40_i32..40, 1..80),
            window_days in 1_u16..20,
            min_baseline in 0_u32..8,
            decline_ratio in 0.0_f64..1.0,
            ahead in -5_i32..60,
        ) {
            let rule = Declining { window_days, decline_ratio, min_baseline, recover_ratio: 1.0 };
            let mut activity = Activity::first(day(days[0]), Some(&rule));
            for &number in &days[1..] {
                activity.count(day(number), day(-40), Some(&rule));
            }
            let last = *days.iter().max().expect("there is one");
            let within = |from: i32, to: i32| days.iter().filter(|&&number| from <= number && number <= to).count();
            let n = i32::from(window_days);
            let declining = |as_of: i32| {
                let (prior, recent) = (within(as_of - 2 * n, as_of - n - 1), within(as_of - n, as_of));
                #[expect(clippy::cast_precision_loss, reason = "at most 80")]
                let fallen = recent as f64 <= decline_ratio * prior as f64;
                prior >= min_baseline as usize && fallen
            };
            let from = (last + 1).max(last + ahead);
            let expected = (from..from + 200).find(|&as_of| declining(as_of)).map(day);
            prop_assert_eq!(activity.next_declining_day(day(last + ahead), &rule), expected);
            prop_assert_eq!(activity.declines(day(last), &rule, decline_ratio), declining(last));
        }
    }
}

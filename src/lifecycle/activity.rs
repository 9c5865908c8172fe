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
            self.buckets.truncate(kept - ahead);
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

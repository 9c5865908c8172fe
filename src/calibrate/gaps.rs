//! Pauses between active days, and who returns after how long a silence.

use serde::Serialize;

use super::History;
use crate::time::Day;

/// The distribution of gaps between one active day and the next: 1 is "again the next day".
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct GapDistribution {
    /// How many gaps there are.
    pub count: u64,
    /// The mean in days.
    pub mean_days: f64,
    /// Gaps of at most so many days, by share of all gaps.
    pub percentiles: Vec<Percentile>,
    /// Gaps by length, in classes that grow.
    pub classes: Vec<Class>,
}

/// So many per cent of the gaps are not longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Percentile {
    /// Per cent of the gaps.
    pub percent: u8,
    /// Their longest.
    pub days: u32,
}

/// Gaps of `from` to `to` days, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Class {
    /// The shortest.
    pub from: u32,
    /// The longest.
    pub to: u32,
    /// How many.
    pub count: u64,
}

/// What became of the users who once were idle for so long.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ReturnsAfter {
    /// Idle for so many days, for the first time.
    pub idle_days: u32,
    /// Users who were, early enough to be observed for long enough afterwards.
    pub users: u64,
    /// Those of them who were active again later.
    pub returned: u64,
}

/// A share of fewer users than these is an accident, and no threshold follows from it.
pub const USERS_MIN: u64 = 30;

/// Upper ends of the classes of gaps, in days.
const CLASS_ENDS: [u32; 14] = [1, 2, 3, 5, 7, 10, 14, 21, 30, 45, 60, 90, 180, 365];

impl GapDistribution {
    /// Counts the gaps of all users.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a count of gaps is far below 2^53")]
    pub fn of(history: &History) -> Self {
        let mut by_length: Vec<u64> = Vec::new();
        for gap in history.users().flat_map(|days| days.windows(2)).map(|pair| days_between(pair[0], pair[1])) {
            let gap = gap as usize;
            if by_length.len() <= gap {
                by_length.resize(gap + 1, 0);
            }
            by_length[gap] += 1;
        }
        let count: u64 = by_length.iter().sum();
        if count == 0 {
            return Self::default();
        }
        let lengths = || (0u32..).zip(&by_length);
        let sum: u64 = lengths().map(|(days, gaps)| u64::from(days) * gaps).sum();
        let percentile = |percent: u8| {
            let wanted = (count * u64::from(percent)).div_ceil(100);
            let mut below = 0;
            let reached = lengths().find(|(_, gaps)| {
                below += **gaps;
                below >= wanted
            });
            Percentile { percent, days: reached.map_or(0, |(days, _)| days) }
        };
        let mut classes = Vec::new();
        let mut from = 1;
        for to in CLASS_ENDS.into_iter().chain([u32::MAX]) {
            let inside = lengths().filter(|(days, _)| (from..=to).contains(days));
            let (mut gaps, mut longest) = (0, 0);
            for (days, of_length) in inside.filter(|(_, of_length)| **of_length > 0) {
                gaps += of_length;
                longest = days;
            }
            // The last class is open: it ends with the longest gap there is.
            if to < u32::MAX || gaps > 0 {
                classes.push(Class { from, to: if to == u32::MAX { longest } else { to }, count: gaps });
            }
            from = to.saturating_add(1);
        }
        Self {
            count,
            mean_days: sum as f64 / count as f64,
            percentiles: [25, 50, 75, 90, 95, 99].map(percentile).to_vec(),
            classes,
        }
    }
}

impl ReturnsAfter {
    /// The share that returned, 0 to 1.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a count of users is far below 2^53")]
    pub fn share(&self) -> f64 {
        if self.users == 0 { 0.0 } else { self.returned as f64 / self.users as f64 }
    }
}

/// For each number of idle days, 1 up: the users who were idle for so long, each counted at the first such silence, and
/// how many of them were active again afterwards. Only silences that reached that length at least `observed_days` before
/// the history's end count, whoever returned sooner included: otherwise those who came back would be over-represented.
///
/// A return on the very day on which the silence reaches `d` days is a return after `d` days of silence, as the engine
/// has it (SPEC section 2: deadlines at or before an event's time take effect first).
#[must_use]
pub fn returns_by_idle_time(history: &History, observed_days: u32) -> Vec<ReturnsAfter> {
    let horizon = days_between(history.first_day(), history.last_day()).saturating_sub(observed_days);
    // Differences: +1 at the first idle time that a silence is counted for, -1 behind the last.
    let mut users = vec![0i64; horizon as usize + 2];
    let mut returned = users.clone();
    for days in history.users() {
        let mut longest = 0;
        let ends = days.iter().skip(1).map(|day| (*day, true)).chain([(history.last_day(), false)]);
        for (start, (end, closed)) in days.iter().zip(ends) {
            let silence = days_between(*start, end);
            // The first silence of `longest + 1 ..= silence` days is this one; it is observed long enough up to `seen`.
            let seen = days_between(*start, history.last_day()).saturating_sub(observed_days).min(silence);
            if longest < seen {
                let range = longest as usize + 1..=seen as usize;
                users[*range.start()] += 1;
                users[range.end() + 1] -= 1;
                if closed {
                    returned[*range.start()] += 1;
                    returned[range.end() + 1] -= 1;
                }
            }
            longest = longest.max(silence);
        }
    }
    let mut sums = (0, 0);
    let idle_times = (1..=horizon).zip(users.iter().skip(1).zip(returned.iter().skip(1)));
    idle_times
        .map(|(idle_days, (users, returned))| {
            sums.0 += users;
            sums.1 += returned;
            let [users, returned] = [sums.0, sums.1].map(|sum| u64::try_from(sum).unwrap_or(0));
            ReturnsAfter { idle_days, users, returned }
        })
        .take_while(|returns| returns.users > 0)
        .collect()
}

/// The shortest silence after which fewer than `share` of at least [`USERS_MIN`] users returned.
#[must_use]
pub fn falls_below(returns: &[ReturnsAfter], share: f64) -> Option<u32> {
    returns.iter().find(|after| after.users >= USERS_MIN && after.share() < share).map(|after| after.idle_days)
}

/// Whole days from `earlier` to `later`; 0 when they are the other way round.
#[must_use]
pub fn days_between(earlier: Day, later: Day) -> u32 {
    u32::try_from(i64::from(later.number()) - i64::from(earlier.number())).unwrap_or(0)
}

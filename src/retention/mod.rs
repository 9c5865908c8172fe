//! Retention reports (SPEC-WINBACK section 11): of those who did A first in a week, how many did B in each week after.
//!
//! Pure. A [`Report`] is one definition; a [`Mark`] is what is remembered of one user for it, and [`Mark::tally`] where
//! that user counts: a cohort and the periods in which the user came back. [`matrix`] is the report as it is read.
//!
//! # Exact, in bounded memory
//!
//! Periods are counted from the user's own first A, to the millisecond. A late A moves all of them, and then it has to be
//! known again which of the shifted periods holds a B. Remembering the periods alone would not do, and every B would be
//! without bound. What is remembered is the *thinned* set: a B whose two neighbours lie less than a period apart can be
//! left out, since a period that holds it and not the one before it holds the one after it. So of any stretch as long as a
//! period at most two are left (and one at its edge).
//!
//! How far back: with `reach = (count + 1) * len`, no B at or after `A + reach` counts, nor will it for an earlier A. And
//! an event is taken to come at most `reach` late (98 days for 13 weeks), measured from the user's newest A or B: so what
//! is older than that and before the first A is let go, and once the user's newest is `reach` past A, A stays where it is
//! and the periods alone are kept. Together at most `2 * count + 5` times a user and report, and for most users none. An A
//! that comes later than that is counted as if it had not happened, a B is counted still where it belongs.

pub mod matrix;

#[cfg(test)]
mod tests;

use std::fmt::Write as _;

use chrono::Datelike as _;

use crate::event::{EventList, ReportRoles};
use crate::time::{DAY_MS, Day, EventTime, Span};

pub use matrix::{Cohorts, Matrix, Row};

/// Most reports: an event's part in them is a bit each.
pub const REPORTS_MAX: usize = 16;
/// Most periods after the first: a user's periods are the bits of one word.
pub const COUNT_MAX: u8 = 60;

/// The length of a period.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Period {
    /// One day; cohorts are UTC days.
    Day,
    /// Seven days; cohorts are weeks from Monday on.
    Week,
    /// Thirty days; cohorts are calendar months.
    Month,
}

/// One report's definition.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Its name, unique.
    pub name: String,
    /// A: the first of these makes the cohort.
    pub start: EventList,
    /// B: the user is back.
    pub back: EventList,
    /// How long a period is.
    pub period: Period,
    /// Periods after the first, 1 to [`COUNT_MAX`].
    pub count: u8,
}

/// What is remembered of one user for one report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// The first A.
    pub start: Option<EventTime>,
    /// Bit k: a B in period k. None without a start.
    pub periods: u64,
    /// The thinned times of B that could still count differently, ascending; empty once the start is settled.
    pub returns: Vec<EventTime>,
    /// Whether the start is settled: it stays where it is.
    pub settled: bool,
}

/// What is remembered of one user, report by report: each under the number that its shard gave the report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks(Vec<(u32, Mark)>);

/// The reports as one shard numbers them, in the order of the configuration. A report that is defined anew gets a new
/// number, so what is remembered under the old one is known to be of another definition.
#[derive(Clone, Copy, Debug)]
pub struct Numbered<'r> {
    /// The definitions.
    pub reports: &'r [Report],
    /// Their numbers.
    pub numbers: &'r [u32],
}

/// Where one user counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tally {
    /// The first day of the cohort's calendar period.
    pub cohort: Day,
    /// Bit k: retained in period k.
    pub periods: u64,
}

/// Cohorts before 1990 are counted as that of its first day: so there is a bound on how many cohorts there can be.
const FIRST_COHORT: EventTime = EventTime::from_millis(7_305 * DAY_MS);

impl Period {
    /// Every period, in the order of declaration.
    pub const ALL: [Self; 3] = [Self::Day, Self::Week, Self::Month];

    /// The name in the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
        }
    }

    /// The length of a period of one user.
    #[must_use]
    pub const fn len(self) -> Span {
        Span::from_days(match self {
            Self::Day => 1,
            Self::Week => 7,
            Self::Month => 30,
        })
    }

    /// The first day of the calendar period that holds `at`.
    #[must_use]
    pub fn cohort(self, at: EventTime) -> Day {
        let day = at.day();
        match self {
            Self::Day => day,
            // 1970-01-01 was a Thursday.
            Self::Week => Day::from_number(day.number().saturating_sub((day.number().saturating_add(3)).rem_euclid(7))),
            Self::Month => match calendar(day) {
                Some(date) => Day::from_number(day.number() - i32::try_from(date.day0()).unwrap_or(0)),
                None => day,
            },
        }
    }

    /// The first day of the calendar period after the one that begins with `cohort`.
    #[must_use]
    pub fn next(self, cohort: Day) -> Day {
        let days = match self {
            Self::Day => 1,
            Self::Week => 7,
            Self::Month => calendar(cohort).map_or(31, |date| i32::from(date.num_days_in_month())),
        };
        Day::from_number(cohort.number().saturating_add(days))
    }
}

fn calendar(day: Day) -> Option<chrono::NaiveDate> {
    chrono::DateTime::from_timestamp_millis(i64::from(day.number()).checked_mul(DAY_MS)?).map(|time| time.date_naive())
}

impl Report {
    /// From the start on, so much time is looked at.
    #[must_use]
    pub const fn reach(&self) -> Span {
        Span::from_millis(self.period.len().as_millis() * (self.count as i64 + 1))
    }

    /// The definition in words that never change: when they differ from what a shard remembers, the report begins anew.
    #[must_use]
    pub fn frozen(&self) -> String {
        let mut text = format!("name={:?};period={};count={}", self.name, self.period.as_str(), self.count);
        for (role, list) in [("start", &self.start), ("return", &self.back)] {
            for pattern in list.patterns() {
                // Writing to a String cannot fail.
                let _ = write!(text, ";{role}={:?}", pattern.to_string());
            }
        }
        text
    }

    /// Whether period k of a cohort is over at the watermark for everybody in it.
    #[must_use]
    pub fn is_complete(&self, cohort: Day, k: u8, watermark: EventTime) -> bool {
        let length = self.period.len().as_millis() * (i64::from(k) + 1);
        watermark >= self.period.next(cohort).start() + Span::from_millis(length)
    }
}

impl Mark {
    /// Counts an activity at `at` that is an A, a B, or both.
    pub fn record(&mut self, report: &Report, at: EventTime, is_start: bool, is_return: bool) {
        if is_start && !self.settled && self.start.is_none_or(|start| at < start) {
            self.start = Some(at);
            self.periods = self.returns.iter().fold(0, |bits, back| bits | period(report, at, *back));
        }
        if is_return {
            if let Some(start) = self.start {
                self.periods |= period(report, start, at);
            }
            if !self.settled {
                self.keep(report, at);
            }
        }
        self.let_go(report, at);
    }

    /// Where the user counts; `None` without a start.
    #[must_use]
    pub fn tally(&self, report: &Report) -> Option<Tally> {
        Some(Tally { cohort: report.period.cohort(self.start?.max(FIRST_COHORT)), periods: self.periods })
    }

    /// Whether there is nothing to remember.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.start.is_none() && self.returns.is_empty()
    }

    /// Most times that are remembered.
    #[must_use]
    pub const fn returns_max(count: u8) -> usize {
        2 * count as usize + 5
    }

    /// Keeps a B, and leaves out what its neighbours stand for.
    fn keep(&mut self, report: &Report, at: EventTime) {
        let Err(place) = self.returns.binary_search(&at) else { return };
        self.returns.insert(place, at);
        // The first period begins just after A: it is a millisecond shorter than the others.
        let shortest = Span::from_millis(report.period.len().as_millis() - 1);
        let mut middle = place.saturating_sub(1).max(1);
        let mut end = place + 2;
        while middle + 1 < self.returns.len() && middle < end {
            if self.returns[middle + 1] - self.returns[middle - 1] <= shortest {
                self.returns.remove(middle);
                end -= 1;
            } else {
                middle += 1;
            }
        }
    }

    /// Lets go of what no event that is still to come could make count.
    fn let_go(&mut self, report: &Report, newest: EventTime) {
        if self.settled {
            return;
        }
        let reach = report.reach();
        if let Some(start) = self.start {
            if newest - start >= reach {
                self.settled = true;
                self.returns = Vec::new();
                return;
            }
            self.returns.truncate(self.returns.partition_point(|back| *back - start < reach));
        }
        let oldest = newest - reach;
        let keep_from = self.start.map_or(oldest, |start| start.min(oldest));
        if self.returns.first().is_some_and(|back| *back < keep_from) {
            self.returns.retain(|back| *back >= keep_from);
        }
    }
}

impl Marks {
    /// From what was persisted.
    #[must_use]
    pub const fn from_parts(marks: Vec<(u32, Mark)>) -> Self {
        Self(marks)
    }

    /// What to persist.
    #[must_use]
    pub fn parts(&self) -> &[(u32, Mark)] {
        &self.0
    }

    /// Whether nothing is remembered.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Counts an activity at `at`, and forgets what is of a definition that is no more.
    pub fn record(&mut self, all: Numbered<'_>, roles: ReportRoles, at: EventTime) {
        if roles == ReportRoles::default() {
            return;
        }
        self.0.retain(|(number, _)| all.numbers.contains(number));
        for (index, (report, number)) in all.reports.iter().zip(all.numbers).enumerate() {
            let has = |bits: u16| bits & (1 << index) != 0;
            if !has(roles.starts | roles.returns) {
                continue;
            }
            let place = self.0.iter().position(|(known, _)| known == number).unwrap_or_else(|| {
                self.0.push((*number, Mark::default()));
                self.0.len() - 1
            });
            self.0[place].1.record(report, at, has(roles.starts), has(roles.returns));
        }
    }

    /// Where the user counts: by the report's place in the configuration.
    pub fn tallies(&self, all: Numbered<'_>) -> impl Iterator<Item = (usize, Tally)> {
        let reports = all.reports.iter().zip(all.numbers).enumerate();
        reports.filter_map(|(index, (report, number))| {
            let (_, mark) = self.0.iter().find(|(known, _)| known == number)?;
            Some((index, mark.tally(report)?))
        })
    }
}

/// The bit of the period after `start` that holds `back`; none when that counts in no period.
fn period(report: &Report, start: EventTime, back: EventTime) -> u64 {
    let after = (back - start).as_millis();
    if after <= 0 {
        return 0;
    }
    let k = after / report.period.len().as_millis();
    if k <= i64::from(report.count) { 1 << k } else { 0 }
}

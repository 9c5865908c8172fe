//! Policies side by side: the cohorts that each gives, day by day, so that one can be judged before it goes live
//! (SPEC-WINBACK section 13).
//!
//! The sizes at the end of a day follow from the transitions alone: a user counts in `to` from `effective_at` on. What a
//! late event corrected counts as corrected, from the moment of the mistake.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::{Deserialize, Serialize};

use super::table::grouped;
use crate::lifecycle::State;
use crate::replay::Summary;
use crate::time::{Day, EventTime};

/// How a comparison is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Columns for people.
    Table,
    /// One row a day and policy.
    Csv,
    /// One object a day, in a list.
    Json,
}

/// Sizes by state, in the order of [`State::ALL`].
type Sizes = [i64; State::ALL.len()];

/// One policy's changes of cohort sizes by UTC day.
#[derive(Clone, Debug)]
pub struct Days {
    name: String,
    changes: BTreeMap<Day, Sizes>,
}

/// All policies that are compared.
#[derive(Clone, Debug, Default)]
pub struct Comparison {
    policies: Vec<Days>,
}

/// What of a transition record counts.
#[derive(Deserialize)]
struct Step<'a> {
    from: Option<&'a str>,
    to: Option<&'a str>,
    effective_at: &'a str,
}

impl Days {
    /// Counts a transition record.
    ///
    /// # Errors
    /// It is none.
    pub fn transition(&mut self, json: &[u8]) -> io::Result<()> {
        let Step { from, to, effective_at } = serde_json::from_slice(json)?;
        let at = chrono::DateTime::parse_from_rfc3339(effective_at).map_err(io::Error::other)?;
        let day = EventTime::from_millis(at.timestamp_millis()).day();
        let sizes = self.changes.entry(day).or_default();
        for (name, change) in [(from, -1), (to, 1)] {
            let index = State::ALL.iter().position(|state| Some(state.as_str()) == name);
            if let Some(index) = index {
                sizes[index] += change;
            }
        }
        Ok(())
    }
}

impl Comparison {
    /// A policy's turn.
    #[must_use]
    pub fn begin(&self, name: String) -> Days {
        Days { name, changes: BTreeMap::new() }
    }

    /// Takes a policy's days.
    ///
    /// # Panics
    /// When they do not add up to what the shards counted themselves.
    pub fn end(&mut self, days: Days, summary: &Summary) {
        let mut total = Sizes::default();
        days.changes.values().for_each(|change| add(&mut total, change));
        let counted = State::ALL.map(|state| {
            i64::try_from(summary.cohorts.size(state, true) + summary.cohorts.size(state, false)).unwrap_or(i64::MAX)
        });
        assert_eq!(total, counted, "the days of {} add up to the cohorts at the end", days.name);
        self.policies.push(days);
    }

    /// Writes every day from the first transition to the day of `until`.
    ///
    /// # Errors
    /// The output takes no more.
    pub fn write(&self, layout: Layout, until: EventTime, out: &mut impl Write) -> io::Result<()> {
        let first = self.policies.iter().filter_map(|policy| policy.changes.keys().next()).min().copied();
        let last = until.day();
        let mut sizes = vec![Sizes::default(); self.policies.len()];
        self.write_head(layout, out)?;
        let mut day = first.unwrap_or(last);
        let mut is_first = true;
        while first.is_some() && day <= last {
            for (policy, sizes) in self.policies.iter().zip(&mut sizes) {
                if let Some(change) = policy.changes.get(&day) {
                    add(sizes, change);
                }
            }
            self.write_day(layout, day, &sizes, is_first, out)?;
            is_first = false;
            day = day + 1;
        }
        if layout == Layout::Json { writeln!(out, "\n]") } else { Ok(()) }
    }

    fn write_head(&self, layout: Layout, out: &mut impl Write) -> io::Result<()> {
        match layout {
            Layout::Json => write!(out, "["),
            Layout::Csv => writeln!(out, "day,policy,active,at_risk,lapsed,churned"),
            Layout::Table => {
                write!(out, "{:<10}", "")?;
                for policy in &self.policies {
                    write!(out, "   {:<39}", shortened(&policy.name))?;
                }
                write!(out, "\n{:<10}", "end of")?;
                for _ in &self.policies {
                    write!(out, "   {:>9} {:>9} {:>9} {:>9}", "active", "at risk", "lapsed", "churned")?;
                }
                writeln!(out)
            }
        }
    }

    fn write_day(
        &self,
        layout: Layout,
        day: Day,
        sizes: &[Sizes],
        is_first: bool,
        out: &mut impl Write,
    ) -> io::Result<()> {
        let date = date(day);
        match layout {
            Layout::Json => {
                let cohorts: Vec<Cohorts<'_>> = self
                    .policies
                    .iter()
                    .zip(sizes)
                    .map(|(policy, &[active, at_risk, lapsed, churned])| Cohorts {
                        policy: &policy.name,
                        active,
                        at_risk,
                        lapsed,
                        churned,
                    })
                    .collect();
                write!(out, "{}", if is_first { "\n" } else { ",\n" })?;
                serde_json::to_writer(&mut *out, &OneDay { day: &date, cohorts })?;
                Ok(())
            }
            Layout::Csv => {
                for (policy, [active, at_risk, lapsed, churned]) in self.policies.iter().zip(sizes) {
                    let name = policy.name.replace('"', "\"\"");
                    writeln!(out, "{date},\"{name}\",{active},{at_risk},{lapsed},{churned}")?;
                }
                Ok(())
            }
            Layout::Table => {
                write!(out, "{date}")?;
                for sizes in sizes {
                    write!(out, "  ")?;
                    for size in sizes {
                        write!(out, " {:>9}", grouped(u64::try_from(*size).unwrap_or_default()))?;
                    }
                }
                writeln!(out)
            }
        }
    }
}

#[derive(Serialize)]
struct OneDay<'a> {
    day: &'a str,
    cohorts: Vec<Cohorts<'a>>,
}

#[derive(Serialize)]
struct Cohorts<'a> {
    policy: &'a str,
    active: i64,
    at_risk: i64,
    lapsed: i64,
    churned: i64,
}

fn add(sizes: &mut Sizes, change: &Sizes) {
    sizes.iter_mut().zip(change).for_each(|(size, change)| *size += change);
}

/// `YYYY-MM-DD`.
fn date(day: Day) -> String {
    let mut text = day.start().to_string();
    text.truncate(text.find('T').unwrap_or(text.len()));
    text
}

/// The end of a long name, which tells files apart better than its beginning.
fn shortened(name: &str) -> String {
    const CHARS_MAX: usize = 39;
    let count = name.chars().count();
    if count <= CHARS_MAX {
        return name.to_owned();
    }
    std::iter::once('…').chain(name.chars().skip(count - CHARS_MAX + 1)).collect()
}

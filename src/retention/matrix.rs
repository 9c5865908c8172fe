//! The report as it is read: cohorts, their sizes, and who was retained in which period.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::Serialize;

use super::{Report, Tally};
use crate::time::{Day, EventTime};

/// A retention report at a moment.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Matrix {
    /// The report's name.
    pub name: String,
    /// `day`, `week` or `month`.
    pub period: &'static str,
    /// Periods after the first.
    pub count: u8,
    /// RFC 3339; everything before it has been seen. Null before the first event.
    pub watermark: Option<String>,
    /// By cohort, oldest first.
    pub cohorts: Vec<Row>,
}

/// One cohort.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Row {
    /// The first day of its calendar period, `YYYY-MM-DD`.
    pub cohort: String,
    /// Users in it.
    pub size: u64,
    /// Users retained in period 0, 1, … count.
    pub retained: Vec<u64>,
    /// Periods 0 to this (exclusive) are over for everybody in the cohort at the watermark; the others can still grow.
    pub complete: u8,
}

/// Counts by cohort, added up over shards: the size, then the users retained in each period; zeros may be missing at the
/// end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cohorts(BTreeMap<Day, Vec<u64>>);

impl Cohorts {
    /// Adds counts.
    pub fn add(&mut self, cohorts: impl IntoIterator<Item = (Day, Vec<u64>)>) {
        for (cohort, counts) in cohorts {
            let mine = self.0.entry(cohort).or_default();
            mine.resize(mine.len().max(counts.len()), 0);
            mine.iter_mut().zip(counts).for_each(|(mine, count)| *mine += count);
        }
    }
}

impl Matrix {
    /// The report as of `watermark`: the least of all shards', [`EventTime::MIN`] before the first event.
    #[must_use]
    pub fn new(report: &Report, watermark: EventTime, cohorts: Cohorts) -> Self {
        let cohorts = cohorts.0.into_iter().filter(|(_, counts)| counts.first() > Some(&0));
        let rows = cohorts.map(|(cohort, counts)| Row {
            cohort: date(cohort),
            size: counts.first().copied().unwrap_or(0),
            retained: (1..=usize::from(report.count) + 1).map(|k| counts.get(k).copied().unwrap_or(0)).collect(),
            complete: (0..=report.count)
                .take_while(|k| report.is_complete(cohort, *k, watermark))
                .count()
                .try_into()
                .unwrap_or(u8::MAX),
        });
        Self {
            name: report.name.clone(),
            period: report.period.as_str(),
            count: report.count,
            watermark: (watermark > EventTime::MIN).then(|| watermark.to_string()),
            cohorts: rows.collect(),
        }
    }

    /// As CSV, one row a cohort and period: `cohort,size,period,retained,complete`.
    ///
    /// # Errors
    /// The output takes no more.
    pub fn write_csv(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "cohort,size,period,retained,complete")?;
        for row in &self.cohorts {
            for (k, retained) in row.retained.iter().enumerate() {
                let complete = k < usize::from(row.complete);
                writeln!(out, "{},{},{k},{retained},{complete}", row.cohort, row.size)?;
            }
        }
        Ok(())
    }
}

impl Tally {
    /// The places of a cohort's counts to which the user adds one: 0 is the size, k + 1 is period k.
    pub fn places(self) -> impl Iterator<Item = (usize, u64)> {
        let periods = (0..64).filter(move |k| self.periods & (1 << k) != 0).map(|k| (k + 1, 1));
        std::iter::once((0, 1)).chain(periods)
    }
}

/// `YYYY-MM-DD`.
fn date(day: Day) -> String {
    let mut text = day.start().to_string();
    text.truncate(text.find('T').unwrap_or(text.len()));
    text
}

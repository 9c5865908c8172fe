//! A history: on which days each user was active.

use std::io::{BufRead, Read as _};

use rustc_hash::FxHashMap;

use super::{CalibrateError, Data};
use crate::event::{Decoded, Decoder, Event, Record};
use crate::time::{Day, WallTime};

/// Each user's active days, up to a last day.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Ascending and distinct, never empty.
    days: FxHashMap<Box<str>, Vec<Day>>,
    /// The last day that is looked at.
    last_day: Day,
    lines: u64,
    rejected: u64,
    activities: u64,
    ignored: u64,
}

/// Longer lines are skipped without being held in memory.
const LINE_BYTES_MAX: u64 = 16 << 20;

impl History {
    /// Reads JSON lines. What is no event, no activity or later than `until` is counted and left out; the order of the
    /// events does not matter, nor do duplicates.
    ///
    /// # Errors
    /// The reader failed, or there is no activity.
    pub fn read(
        mut reader: impl BufRead,
        decoder: &Decoder,
        until: Option<Day>,
        now: WallTime,
    ) -> Result<Self, CalibrateError> {
        let mut history = Self::default();
        let mut first_problem = None;
        let mut line = Vec::new();
        while next_line(&mut reader, &mut line)? {
            let text = line.trim_ascii();
            if text.is_empty() {
                continue;
            }
            let offset = i64::try_from(history.lines).unwrap_or(i64::MAX);
            history.lines += 1;
            match decoder.decode(&Record { key: None, value: Some(text), headers: &[], offset }, now) {
                Decoded::Event(event) => history.add(&event, until),
                Decoded::Deletion { .. } => history.ignored += 1,
                Decoded::Rejected(rejection) => {
                    history.rejected += 1;
                    first_problem.get_or_insert_with(|| format!("line {}: {}", history.lines, rejection.message));
                }
            }
        }
        let Some(last) = history.days.values().filter_map(|days| days.last()).max() else {
            return Err(CalibrateError::NoActivity {
                lines: history.lines,
                rejected: history.rejected,
                first_problem: first_problem.unwrap_or_else(|| "none".to_owned()),
            });
        };
        history.last_day = until.unwrap_or(*last);
        Ok(history)
    }

    fn add(&mut self, event: &Event<'_>, until: Option<Day>) {
        let day = event.time.day();
        if !event.roles.activity || until.is_some_and(|until| day > until) {
            self.ignored += 1;
            return;
        }
        self.activities += 1;
        let days = match self.days.get_mut(&*event.user_id) {
            Some(days) => days,
            None => self.days.entry(Box::from(&*event.user_id)).or_default(),
        };
        // Histories are mostly in order of time: the day is at the end or just before it.
        let at = days.iter().rposition(|known| *known <= day).map_or(0, |before| before + 1);
        if at == 0 || days[at - 1] != day {
            days.insert(at, day);
        }
    }

    /// Each user's active days, ascending and distinct, in no particular order of users.
    pub fn users(&self) -> impl Iterator<Item = &[Day]> {
        self.days.values().map(Vec::as_slice)
    }

    /// The first day with an activity.
    #[must_use]
    pub fn first_day(&self) -> Day {
        self.days.values().filter_map(|days| days.first()).min().copied().unwrap_or(self.last_day)
    }

    /// The last day that is looked at.
    #[must_use]
    pub const fn last_day(&self) -> Day {
        self.last_day
    }

    /// What was read, for the report.
    #[must_use]
    pub fn data(&self) -> Data {
        Data {
            rejected: self.rejected,
            activities: self.activities,
            ignored: self.ignored,
            users: self.days.len(),
            repeat_users: self.users().filter(|days| days.len() > 1).count(),
            first_day: date(self.first_day()),
            last_day: date(self.last_day),
        }
    }
}

/// `YYYY-MM-DD`.
fn date(day: Day) -> String {
    let mut text = day.start().to_string();
    text.truncate(text.find('T').unwrap_or(text.len()));
    text
}

/// Reads the next line into `line`, without more of it than [`LINE_BYTES_MAX`]; false at the end.
fn next_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> std::io::Result<bool> {
    line.clear();
    if reader.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', line)? == 0 {
        return Ok(false);
    }
    // The rest of a line that is too long; what was kept of it is too long for the decoder as well.
    while line.len() as u64 >= LINE_BYTES_MAX && line.last() != Some(&b'\n') {
        let (used, done) = {
            let buffer = reader.fill_buf()?;
            let end = buffer.iter().position(|byte| *byte == b'\n');
            (end.map_or(buffer.len(), |end| end + 1), end.is_some() || buffer.is_empty())
        };
        reader.consume(used);
        if done {
            break;
        }
    }
    Ok(true)
}

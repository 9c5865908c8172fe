//! Users as they are, counted in the ledger: retention reports and signals (SPEC-WINBACK sections 11 and 12).
//!
//! The bound on values keeps to one rule: a value is told apart for all its users or for none. It gets a cell of its own
//! only while nobody is counted among the others, and keeps it until its last user is gone. So every count is exact at
//! every moment, in whatever order users come, and taking a user out needs to know nothing but the user.

use super::aggregates::Aggregates;
use crate::retention::Tally;
use crate::shard::ledger::Ledger;
use crate::signals::report::Counts;
use crate::signals::{Dimension, Group, VALUE_BYTES_MAX, VALUES_MAX};
use crate::store::{Store, StoreError};
use crate::time::Day;

/// `t`, number of the report (4), cohort (4): size, then users retained in period 0, 1, …
const RETENTION: u8 = b't';
/// `v`, group, dimension, value: users.
const VALUE: u8 = b'v';
/// `w`, group, dimension: values told apart; users with other values.
const VALUES: u8 = b'w';

const APART: usize = 0;
const OTHER: usize = 1;

const LAST_EVENT: u8 = b'e';
const LAST_THREE: u8 = b't';
const ACTIVATED: u8 = b'a';
const CORE_ACTIONS: u8 = b'c';
const PROPERTY: u8 = b'p';
const SEGMENT: u8 = b's';

impl Aggregates {
    /// Of a store, one retention report, under the number 0.
    ///
    /// # Errors
    /// The store failed or is damaged.
    pub fn load_report(store: &impl Store, number: u32) -> Result<Self, StoreError> {
        let all = Self::from(Ledger::load(store, &cohorts_key(number))?);
        let mut one = Ledger::default();
        for (cohort, counts) in all.retention(number) {
            let places = counts.iter().enumerate().map(|(place, count)| (place, count.cast_signed()));
            one.add(&cohort_key(0, cohort), places);
        }
        Ok(Self::from(one))
    }

    /// Of a store, the signals of these groups.
    ///
    /// # Errors
    /// The store failed or is damaged.
    pub fn load_signals(store: &impl Store, groups: &[&Group]) -> Result<Self, StoreError> {
        let mut prefixes: Vec<Vec<u8>> =
            groups.iter().flat_map(|group| [VALUE, VALUES].map(|kind| key(kind, &group_bytes(group), b""))).collect();
        prefixes.sort_unstable();
        prefixes.dedup();
        Self::load_kinds(store, prefixes.iter().map(Vec::as_slice))
    }

    /// Puts a user into a report, or takes it out (`by` is 1 or -1).
    pub(super) fn retained(&mut self, number: u32, tally: Tally, by: i64) {
        let places = tally.places().map(|(place, _)| (place, by));
        self.ledger_mut().add(&cohort_key(number, tally.cohort), places);
    }

    /// One user more or less shows a value.
    pub(super) fn shows(&mut self, group: &Group, dimension: &Dimension, value: &str, by: i64) {
        let within = within(group, dimension);
        let (cell, values) = (key(VALUE, &within, value.as_bytes()), key(VALUES, &within, b""));
        let users = self.ledger_mut().counts(&cell).first().copied().unwrap_or(0);
        if users == 0 {
            let counts = self.ledger_mut().counts(&values);
            let count = |place: usize| counts.get(place).copied().unwrap_or(0);
            let fits = count(APART) < VALUES_MAX && count(OTHER) == 0 && value.len() <= VALUE_BYTES_MAX;
            if by < 0 || !fits {
                return self.ledger_mut().add(&values, [(OTHER, by)]);
            }
            self.ledger_mut().add(&values, [(APART, 1)]);
        }
        self.ledger_mut().add(&cell, [(0, by)]);
        if users == 1 && by < 0 {
            self.ledger_mut().add(&values, [(APART, -1)]);
        }
    }

    /// Keeps only the reports of these numbers.
    pub(super) fn keep_reports(&mut self, numbers: &[u32]) {
        self.ledger_mut().retain(|key| read_cohort(key).is_none_or(|(number, _)| numbers.contains(&number)));
    }

    /// Nobody is counted for signals any more.
    pub(super) fn forget_signals(&mut self) {
        self.ledger_mut().retain(|key| !matches!(key.first(), Some(&(VALUE | VALUES))));
    }

    /// A report's cohorts in no order: the size, then the users retained in each period; zeros may be missing at the end.
    /// The number is that of this shard's record: shards may number alike reports differently.
    pub fn retention(&self, number: u32) -> impl Iterator<Item = (Day, Vec<u64>)> {
        let cells = self.ledger().cells(&[RETENTION]);
        cells.filter_map(move |(key, counts)| {
            read_cohort(key).filter(|(of, _)| *of == number).map(|(_, cohort)| (cohort, counts.to_vec()))
        })
    }

    /// What the users of a group show.
    #[must_use]
    pub fn signals(&self, group: &Group) -> Counts {
        let mut counts = Counts::default();
        let prefix = [&[VALUE][..], &group_bytes(group)].concat();
        for (key, users) in self.ledger().cells(&prefix) {
            let users = users.first().copied().unwrap_or(0);
            let Some((dimension, value)) = read_dimension(&key[prefix.len()..]) else { continue };
            if dimension == Dimension::Activated {
                // It has two values, so everybody is told apart.
                counts.users += users;
            }
            counts.values.entry(dimension).or_default().insert(value.into(), users);
        }
        let prefix = [&[VALUES][..], &group_bytes(group)].concat();
        for (key, values) in self.ledger().cells(&prefix) {
            let other = values.get(OTHER).copied().unwrap_or(0);
            if let Some((dimension, _)) = read_dimension(&key[prefix.len()..]).filter(|_| other > 0) {
                counts.other.insert(dimension, other);
            }
        }
        counts
    }
}

fn key(kind: u8, within: &[u8], value: &[u8]) -> Vec<u8> {
    [&[kind][..], within, value].concat()
}

fn within(group: &Group, dimension: &Dimension) -> Vec<u8> {
    let mut key = group_bytes(group);
    match dimension {
        Dimension::LastEvent => key.push(LAST_EVENT),
        Dimension::LastThree => key.push(LAST_THREE),
        Dimension::Activated => key.push(ACTIVATED),
        Dimension::CoreActions => key.push(CORE_ACTIONS),
        Dimension::Property(name) => {
            key.push(PROPERTY);
            push_name(&mut key, name);
        }
    }
    key
}

fn group_bytes(group: &Group) -> Vec<u8> {
    match group {
        Group::State(state) => vec![b'0' + *state as u8],
        Group::Segment(name) => {
            let mut key = vec![SEGMENT];
            push_name(&mut key, name);
            key
        }
    }
}

/// A name after its length, so that no name begins another key.
fn push_name(key: &mut Vec<u8>, name: &str) {
    let len = u32::try_from(name.len()).expect("a name of the configuration is far below 4 GiB");
    key.extend_from_slice(&len.to_be_bytes());
    key.extend_from_slice(name.as_bytes());
}

/// Dimension and value of what follows the group.
fn read_dimension(key: &[u8]) -> Option<(Dimension, &str)> {
    let (&kind, rest) = key.split_first()?;
    let (dimension, value) = match kind {
        LAST_EVENT => (Dimension::LastEvent, rest),
        LAST_THREE => (Dimension::LastThree, rest),
        ACTIVATED => (Dimension::Activated, rest),
        CORE_ACTIONS => (Dimension::CoreActions, rest),
        PROPERTY => {
            let (len, rest) = rest.split_first_chunk::<4>()?;
            let (name, value) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*len)).ok()?)?;
            (Dimension::Property(std::str::from_utf8(name).ok()?.into()), value)
        }
        _ => return None,
    };
    Some((dimension, std::str::from_utf8(value).ok()?))
}

fn cohorts_key(number: u32) -> Vec<u8> {
    [&[RETENTION][..], &number.to_be_bytes()].concat()
}

fn cohort_key(number: u32, cohort: Day) -> Vec<u8> {
    let day = cohort.number().cast_unsigned() ^ (1 << 31);
    [&cohorts_key(number)[..], &day.to_be_bytes()].concat()
}

fn read_cohort(key: &[u8]) -> Option<(u32, Day)> {
    let (&kind, rest) = key.split_first()?;
    let (number, day) = rest.split_first_chunk::<4>()?;
    let day: &[u8; 4] = day.try_into().ok()?;
    let day = Day::from_number((u32::from_be_bytes(*day) ^ (1 << 31)).cast_signed());
    (kind == RETENTION).then(|| (u32::from_be_bytes(*number), day))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifecycle::State;

    fn group() -> Group {
        Group::Segment("é s".into())
    }

    #[test]
    fn values_beyond_the_bound_are_counted_together_and_come_and_go_exactly() {
        let mut aggregates = Aggregates::default();
        let dimension = Dimension::Property("plan".into());
        let value = |number: u64| format!("\"{number}\"");
        for number in 0..VALUES_MAX + 7 {
            aggregates.shows(&group(), &dimension, &value(number), 1);
        }
        let counts = aggregates.signals(&group());
        assert_eq!(counts.values[&dimension].len() as u64, VALUES_MAX);
        assert_eq!(counts.other[&dimension], 7);
        // A place that becomes free is not taken while others wait: they might have the same value.
        aggregates.shows(&group(), &dimension, &value(0), -1);
        aggregates.shows(&group(), &dimension, &value(VALUES_MAX), 1);
        assert_eq!(aggregates.signals(&group()).other[&dimension], 8);
        aggregates.shows(&group(), &dimension, &value(VALUES_MAX), -1);
        for number in VALUES_MAX..VALUES_MAX + 7 {
            aggregates.shows(&group(), &dimension, &value(number), -1);
        }
        aggregates.shows(&group(), &dimension, &value(VALUES_MAX), 1);
        let counts = aggregates.signals(&group());
        assert!(counts.other.is_empty() && counts.values[&dimension][&*value(VALUES_MAX)] == 1);
        let long = "x".repeat(VALUE_BYTES_MAX + 1);
        aggregates.shows(&group(), &dimension, &long, 1);
        assert_eq!(aggregates.signals(&group()).other[&dimension], 1);
    }

    #[test]
    fn groups_and_dimensions_do_not_mix() {
        let mut aggregates = Aggregates::default();
        let groups = [Group::State(State::Churned), Group::Segment("a".into()), Group::Segment("ab".into())];
        let dimensions = [
            Dimension::LastEvent,
            Dimension::LastThree,
            Dimension::Activated,
            Dimension::CoreActions,
            Dimension::Property("a".into()),
            Dimension::Property("ab".into()),
        ];
        for (times, group) in groups.iter().enumerate() {
            for dimension in &dimensions {
                for _ in 0..=times {
                    aggregates.shows(group, dimension, "b", 1);
                }
            }
        }
        for (times, group) in (1_u64..).zip(&groups) {
            let counts = aggregates.signals(group);
            assert_eq!((counts.users, counts.values.len()), (times, dimensions.len()), "{group:?}");
            assert!(counts.values.values().all(|values| values.len() == 1 && values["b"] == times), "{counts:?}");
        }
    }
}

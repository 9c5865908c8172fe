//! What one user, as it is, is counted by beside its cohort: retention reports, signals.
//!
//! A share is taken before a user's first change since the last commit and once more at the commit, however often the user
//! changed in between: telling it takes longer than most events do.

use crate::person::Person;
use crate::retention::{Numbered, Tally};
use crate::segment::Roster;
use crate::signals::Features;

/// What has to be known to tell a user's share: all of it the shard's own.
#[derive(Clone, Copy, Debug)]
pub struct Lens<'a> {
    /// The retention reports.
    pub reports: Numbered<'a>,
    /// The generation from which on users are counted for signals.
    pub signals_since: Option<u32>,
    /// What the bits of memberships stand for.
    pub roster: &'a Roster,
    /// What the indexes of properties stand for.
    pub properties: &'a [String],
}

impl Lens<'_> {
    /// Whether there is anything to be counted by.
    pub(super) const fn is_idle(&self) -> bool {
        self.reports.reports.is_empty() && self.signals_since.is_none()
    }
}

/// What one user is counted by; two shares that are equal count alike.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// In the retention reports: the report's number, and where.
    pub(super) tallies: Vec<(u32, Tally)>,
    /// For signals; empty while the user is not counted.
    pub(super) features: Features,
}

impl Share {
    /// The share of a user, or of nobody.
    #[must_use]
    pub fn of(person: Option<&Person>, lens: Lens<'_>) -> Self {
        let Some(person) = person else { return Self::default() };
        let Person { user, standing, marks, .. } = person;
        let tallies = marks.tallies(lens.reports).map(|(index, tally)| (lens.reports.numbers[index], tally)).collect();
        let counted = lens.signals_since.is_some_and(|since| user.generation >= since);
        let features = if counted {
            let names = lens.roster.names(user.generation);
            let segments = standing.members.iter().filter_map(|index| names.get(index).map(|name| &**name));
            Features::of(user, segments, lens.properties)
        } else {
            Features::default()
        };
        Self { tallies, features }
    }
}

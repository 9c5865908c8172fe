//! Signals: what came before (SPEC-WINBACK section 12). Of the users now in a state or a segment: what they did last, and
//! how that differs from the active.
//!
//! Pure. [`Features`] is what one user shows, and in which groups; [`differences`] is what changes when the user does;
//! [`report`] compares a group with the active. Who counts the values keeps to the bound: see [`VALUES_MAX`].

pub mod report;

#[cfg(test)]
mod tests;

use crate::lifecycle::{Name, State, User};

pub use report::{Counts, Signals};

/// So many values of a dimension are told apart in a group of a shard: those that were there first, each counted exactly.
/// Users with other values are counted together, as `(other)`. A value is either told apart for all its users or for none,
/// so no count is ever a guess.
pub const VALUES_MAX: u64 = 1_000;
/// A longer value, in bytes, is always one of the others.
pub const VALUE_BYTES_MAX: usize = 256;
/// Stands between the names of [`Dimension::LastThree`]; no event name of ours has it.
pub const SEPARATOR: char = '\u{1f}';

/// A group of users.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Group {
    /// Those in a state.
    State(State),
    /// Those in a segment, by its name.
    Segment(Box<str>),
}

/// What is looked at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dimension {
    /// The name of the last activity.
    LastEvent,
    /// The names of the last three activities, oldest first.
    LastThree,
    /// Whether the user ever activated: `true` or `false`.
    Activated,
    /// Core actions: `0`, `1`, `2`, `3-9` or `10+`.
    CoreActions,
    /// A tracked property, by its name; the value as compact JSON text.
    Property(Box<str>),
}

/// What one user shows, and where it counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// The groups that the user is in: one state, any segments.
    pub groups: Vec<Group>,
    /// One value a dimension, by dimension.
    pub values: Vec<(Dimension, Box<str>)>,
}

impl Features {
    /// What `user` shows; nothing without a lifecycle state. `segments` are the names of those the user is in,
    /// `properties` the names to which the indexes of the user's properties refer.
    pub fn of<'s>(user: &User, segments: impl IntoIterator<Item = &'s str>, properties: &[String]) -> Self {
        let Some(life) = &user.life else { return Self::default() };
        let mut groups = vec![Group::State(life.state)];
        groups.extend(segments.into_iter().map(|name| Group::Segment(name.into())));
        let last = life.last_events.last().map(|name| &**name).unwrap_or_default();
        let three = &life.last_events[life.last_events.len().saturating_sub(3)..];
        let mut values = Vec::with_capacity(4 + user.properties.len());
        values.push((Dimension::LastEvent, last.into()));
        values.push((Dimension::LastThree, joined(three)));
        values.push((Dimension::Activated, if life.activated_at.is_some() { "true" } else { "false" }.into()));
        values.push((Dimension::CoreActions, bucket(life.core_actions).into()));
        for (index, value) in &user.properties {
            if let Some(name) = properties.get(usize::from(*index)) {
                values.push((Dimension::Property(name.as_str().into()), value.clone()));
            }
        }
        Self { groups, values }
    }

    fn has(&self, group: &Group, dimension: &Dimension, value: &str) -> bool {
        self.groups.contains(group) && self.values.iter().any(|(known, own)| known == dimension && **own == *value)
    }
}

fn joined(names: &[Name]) -> Box<str> {
    let mut text = String::with_capacity(names.iter().map(|name| name.len() + 1).sum());
    for (index, name) in names.iter().enumerate() {
        if index > 0 {
            text.push(SEPARATOR);
        }
        text.push_str(name);
    }
    text.into()
}

const fn bucket(core_actions: u64) -> &'static str {
    match core_actions {
        0 => "0",
        1 => "1",
        2 => "2",
        3..=9 => "3-9",
        _ => "10+",
    }
}

/// Everything that has to be counted differently when a user's features change from `before` to `after`: first what is
/// one less, then what is one more. What stays is not mentioned.
pub fn differences(before: &Features, after: &Features, mut count: impl FnMut(&Group, &Dimension, &str, i64)) {
    for (from, other, by) in [(before, after, -1), (after, before, 1)] {
        for group in &from.groups {
            for (dimension, value) in &from.values {
                if !other.has(group, dimension, value) {
                    count(group, dimension, value, by);
                }
            }
        }
    }
}

impl Group {
    /// `active` …, or the segment's name.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::State(state) => state.as_str(),
            Self::Segment(name) => name,
        }
    }
}

impl Dimension {
    /// The dimension in the output; a property by its own name apart.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::LastEvent => "last_event",
            Self::LastThree => "last_three_events",
            Self::Activated => "activated",
            Self::CoreActions => "core_actions",
            Self::Property(_) => "property",
        }
    }
}

//! A group compared with the active: shares, and how many times more common each value is.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Dimension, Group, SEPARATOR};

/// Counted values of one group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Users in the group.
    pub users: u64,
    /// Users by dimension and value.
    pub values: BTreeMap<Dimension, BTreeMap<Box<str>, u64>>,
    /// Users by dimension whose value is not told apart.
    pub other: BTreeMap<Dimension, u64>,
}

/// What a group shows, against the active.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Signals {
    /// `state` or `segment`.
    pub kind: &'static str,
    /// The state or the segment's name.
    pub group: String,
    /// Users in it.
    pub users: u64,
    /// Users now active: the comparison.
    pub active_users: u64,
    /// By dimension.
    pub dimensions: Vec<DimensionSignals>,
}

/// One dimension.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct DimensionSignals {
    /// `last_event`, `last_three_events`, `activated`, `core_actions` or `property`.
    pub dimension: &'static str,
    /// The property's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub property: Option<String>,
    /// The most common values, most users first.
    pub values: Vec<ValueSignal>,
    /// Users of the group with any other value: of those listed no further, and of those not told apart.
    pub other_users: u64,
    /// Whether every value of the group is told apart; if not, a value that is not listed may be as common as one that is.
    pub exact: bool,
}

/// One value.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct ValueSignal {
    /// The value: text, or what the tracked property is.
    pub value: serde_json::Value,
    /// Users of the group with it.
    pub users: u64,
    /// Their share of the group, 0 to 1.
    pub share: f64,
    /// Active users with it.
    pub active_users: u64,
    /// Their share of the active, 0 to 1.
    pub active_share: f64,
    /// `share / active_share`: 2 is twice as common as among the active. Null where no active user has it.
    pub lift: Option<f64>,
}

impl Counts {
    /// Adds another shard's counts of the same group. What is told apart in one shard and not in another stays on both
    /// sides: then [`DimensionSignals::exact`] is false.
    pub fn merge(&mut self, other: &Self) {
        self.users += other.users;
        for (dimension, values) in &other.values {
            let mine = self.values.entry(dimension.clone()).or_default();
            for (value, users) in values {
                *mine.entry(value.clone()).or_default() += users;
            }
        }
        for (dimension, users) in &other.other {
            *self.other.entry(dimension.clone()).or_default() += users;
        }
    }
}

impl Signals {
    /// Compares a group with the active; at most `limit` values a dimension.
    #[must_use]
    pub fn new(group: &Group, counts: &Counts, active: &Counts, limit: usize) -> Self {
        let dimensions = counts.values.keys().chain(counts.other.keys()).collect::<std::collections::BTreeSet<_>>();
        Self {
            kind: match group {
                Group::State(_) => "state",
                Group::Segment(_) => "segment",
            },
            group: group.name().to_owned(),
            users: counts.users,
            active_users: active.users,
            dimensions: dimensions.into_iter().map(|dimension| one(dimension, counts, active, limit)).collect(),
        }
    }
}

fn one(dimension: &Dimension, counts: &Counts, active: &Counts, limit: usize) -> DimensionSignals {
    let mut values: Vec<(&str, u64)> =
        counts.values.get(dimension).into_iter().flatten().map(|(value, users)| (&**value, *users)).collect();
    values.sort_by(|(one, ones), (two, twos)| twos.cmp(ones).then(one.cmp(two)));
    let apart = counts.other.get(dimension).copied().unwrap_or(0);
    let further: u64 = values.iter().skip(limit).map(|(_, users)| users).sum();
    let compared = |value: &str| active.values.get(dimension).and_then(|all| all.get(value)).copied().unwrap_or(0);
    let listed = values.iter().take(limit).map(|&(text, users)| {
        let active_users = compared(text);
        let (share, active_share) = (ratio(users, counts.users), ratio(active_users, active.users));
        ValueSignal {
            value: shown(dimension, text),
            users,
            share,
            active_users,
            active_share,
            lift: (active_users > 0).then(|| share / active_share),
        }
    });
    DimensionSignals {
        dimension: dimension.as_str(),
        property: if let Dimension::Property(name) = dimension { Some(name.to_string()) } else { None },
        values: listed.collect(),
        other_users: further + apart,
        exact: apart == 0,
    }
}

fn shown(dimension: &Dimension, text: &str) -> serde_json::Value {
    match dimension {
        Dimension::Property(_) => serde_json::from_str(text).unwrap_or_else(|_| text.into()),
        Dimension::LastThree => text.split(SEPARATOR).collect::<Vec<_>>().into(),
        Dimension::LastEvent | Dimension::Activated | Dimension::CoreActions => text.into(),
    }
}

#[expect(clippy::cast_precision_loss, reason = "a count of users is far below 2^53")]
fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

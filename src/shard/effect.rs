//! What a shard wants done, as values: records to produce and things to count. Nobody acts on them before the commit
//! that holds them (STYLE, "Effects as values").

use std::collections::BTreeMap;

use crate::event::RejectReason;
use crate::lifecycle::{Reason, State};
use crate::segment::Action;
use crate::time::Span;

/// Everything that came out of one or more calls; the caller clears and reuses it.
#[derive(Clone, Debug, Default)]
pub struct Effects {
    /// Records to produce, in order.
    pub outputs: Vec<Output>,
    /// What happened, by kind.
    pub counts: Counts,
}

/// Where an output goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Topic {
    /// One record per transition (SPEC section 5).
    Transitions,
    /// The compacted current states (SPEC section 5).
    States,
    /// Entries into segments and exits (SPEC-WINBACK section 9).
    Segments,
    /// What campaigns brought (SPEC-WINBACK section 10).
    Outcomes,
    /// Records that are no events (SPEC section 1).
    DeadLetters,
}

/// One record to produce.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Where to.
    pub topic: Topic,
    /// The record's key: the user, or for a dead letter whatever was there.
    pub key: Option<Vec<u8>>,
    /// The record's value; `None` in [`Topic::States`] says that the user is gone.
    pub value: Option<Vec<u8>>,
    /// The record's headers.
    pub headers: Headers,
}

/// Header names and values in one buffer: a storm of transitions would otherwise spend its time allocating them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    bytes: Vec<u8>,
    /// Ends of name and value of each header.
    ends: Vec<(u32, u32)>,
}

/// What became of a record of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum RecordOutcome {
    /// Activity, counted.
    Counted = 0,
    /// Only tracked properties were updated.
    PropertiesOnly = 1,
    /// Activity that came late, counted.
    Late = 2,
    /// An id that was seen before.
    Duplicate = 3,
    /// A deletion request, of a known user or not.
    Deletion = 4,
    /// No event: a dead letter.
    Rejected = 5,
}

/// What happened, counted for the metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    records: [u64; RecordOutcome::ALL.len()],
    dead_letters: [u64; RejectReason::ALL.len()],
    transitions: [[[u64; Reason::ALL.len()]; STATES]; STATES],
    /// Values of tracked properties that could not be kept.
    pub refused_properties: u64,
    /// How late each timer that changed a user fired: from its deadline to wall time.
    pub timer_lateness: Vec<Span>,
    /// How long each reactivated user was away.
    pub away: Vec<Span>,
    /// Evaluations of a segment's `when` that failed, and counted as false.
    pub conditions_failed: u64,
    /// Entries and exits by segment.
    segments: BTreeMap<Box<str>, [u64; 2]>,
    /// Attributed returns by campaign, under bounded names.
    campaigns: BTreeMap<Box<str>, u64>,
}

/// The four states and "none".
const STATES: usize = State::ALL.len() + 1;

impl Effects {
    /// Forgets everything, and keeps the memory.
    pub fn clear(&mut self) {
        self.outputs.clear();
        self.counts.clear();
    }

    /// Bytes of keys, values and headers to produce.
    #[must_use]
    pub fn output_bytes(&self) -> usize {
        self.outputs.iter().map(Output::len_bytes).sum()
    }
}

impl Output {
    /// Bytes of key, value and headers.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.key.as_ref().map_or(0, Vec::len) + self.value.as_ref().map_or(0, Vec::len) + self.headers.bytes.len()
    }
}

impl Headers {
    /// Room for `count` headers of `bytes` in all.
    #[must_use]
    pub fn with_capacity(count: usize, bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes), ends: Vec::with_capacity(count) }
    }

    /// Adds a header.
    ///
    /// # Panics
    /// Beyond 4 GiB of headers, which no record has.
    pub fn push(&mut self, name: &str, value: &[u8]) {
        self.push_with(name, |bytes| bytes.extend_from_slice(value));
    }

    /// Adds a header whose value `write` appends.
    pub(crate) fn push_with(&mut self, name: &str, write: impl FnOnce(&mut Vec<u8>)) {
        self.bytes.extend_from_slice(name.as_bytes());
        let name_end = self.end();
        write(&mut self.bytes);
        let value_end = self.end();
        self.ends.push((name_end, value_end));
    }

    /// Names and values, in order.
    #[must_use]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &[u8])> {
        let mut start = 0;
        self.ends.iter().map(move |&(name_end, value_end)| {
            let (name_end, value_end) = (name_end as usize, value_end as usize);
            let name = std::str::from_utf8(&self.bytes[start..name_end]).unwrap_or_default();
            start = value_end;
            (name, &self.bytes[name_end..value_end])
        })
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    fn end(&self) -> u32 {
        u32::try_from(self.bytes.len()).expect("a record's headers are far below 4 GiB: its size is bounded")
    }
}

impl RecordOutcome {
    /// Every outcome, in the order of declaration.
    pub const ALL: [Self; 6] =
        [Self::Counted, Self::PropertiesOnly, Self::Late, Self::Duplicate, Self::Deletion, Self::Rejected];

    /// The name in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counted => "counted",
            Self::PropertiesOnly => "properties_only",
            Self::Late => "late",
            Self::Duplicate => "duplicate",
            Self::Deletion => "deletion",
            Self::Rejected => "rejected",
        }
    }
}

impl Counts {
    /// Records of the input with this outcome.
    #[must_use]
    pub const fn records(&self, outcome: RecordOutcome) -> u64 {
        self.records[outcome as usize]
    }

    /// Dead letters for this reason.
    #[must_use]
    pub const fn dead_letters(&self, reason: RejectReason) -> u64 {
        self.dead_letters[reason as usize]
    }

    /// Transitions by from, to and reason; only those that happened.
    pub fn transitions(&self) -> impl Iterator<Item = (Option<State>, Option<State>, Reason, u64)> + '_ {
        let states = || State::ALL.into_iter().map(Some).chain([None]);
        states().flat_map(move |from| states().map(move |to| (from, to))).flat_map(move |(from, to)| {
            let by_reason = &self.transitions[slot(from)][slot(to)];
            Reason::ALL.into_iter().map(move |why| (from, to, why, by_reason[why as usize])).filter(|row| row.3 > 0)
        })
    }

    /// Entries and exits by segment; only those that happened.
    pub fn segments(&self) -> impl Iterator<Item = (&str, Action, u64)> {
        let both = [Action::Entered, Action::Exited].into_iter();
        let rows = self
            .segments
            .iter()
            .flat_map(move |(name, counts)| both.clone().map(move |action| (&**name, action, counts[action as usize])));
        rows.filter(|row| row.2 > 0)
    }

    /// Attributed returns by campaign.
    pub fn campaigns(&self) -> impl Iterator<Item = (&str, u64)> {
        self.campaigns.iter().map(|(name, count)| (&**name, *count))
    }

    /// Adds what another batch counted.
    pub fn merge(&mut self, other: &Self) {
        let pairs = |mine: &mut [u64], theirs: &[u64]| mine.iter_mut().zip(theirs).for_each(|(m, t)| *m += t);
        pairs(&mut self.records, &other.records);
        pairs(&mut self.dead_letters, &other.dead_letters);
        pairs(self.transitions.as_flattened_mut().as_flattened_mut(), other.transitions.as_flattened().as_flattened());
        self.refused_properties += other.refused_properties;
        self.timer_lateness.extend_from_slice(&other.timer_lateness);
        self.away.extend_from_slice(&other.away);
        self.conditions_failed += other.conditions_failed;
        for (name, counts) in &other.segments {
            let mine: &mut [u64; 2] = slot_of(&mut self.segments, name);
            pairs(mine, counts);
        }
        for (name, count) in &other.campaigns {
            *slot_of(&mut self.campaigns, name) += count;
        }
    }

    /// Back to zero.
    pub fn clear(&mut self) {
        let (mut timer_lateness, mut away) = (std::mem::take(&mut self.timer_lateness), std::mem::take(&mut self.away));
        timer_lateness.clear();
        away.clear();
        *self = Self { timer_lateness, away, ..Self::default() };
    }

    pub(crate) fn record(&mut self, outcome: RecordOutcome) {
        self.records[outcome as usize] += 1;
    }

    pub(crate) fn dead_letter(&mut self, reason: RejectReason) {
        self.dead_letters[reason as usize] += 1;
    }

    /// One entry into a segment, or one exit.
    pub fn moved(&mut self, segment: &str, action: Action) {
        slot_of(&mut self.segments, segment)[action as usize] += 1;
    }

    /// One return that `campaign` brought.
    pub fn attributed(&mut self, campaign: &str) {
        *slot_of(&mut self.campaigns, campaign) += 1;
    }

    pub(crate) fn transition(&mut self, from: Option<State>, to: Option<State>, reason: Reason) {
        self.transitions[slot(from)][slot(to)][reason as usize] += 1;
    }
}

/// Takes the name only when it is new.
fn slot_of<'m, V: Default>(map: &'m mut BTreeMap<Box<str>, V>, name: &str) -> &'m mut V {
    if !map.contains_key(name) {
        map.insert(name.into(), V::default());
    }
    map.get_mut(name).expect("it is there now")
}

fn slot(state: Option<State>) -> usize {
    state.map_or(STATES - 1, |state| state as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_come_back_in_order() {
        let mut headers = Headers::default();
        headers.push("a", b"one");
        headers.push("b", b"");
        headers.push("a", &[0xff, 0]);
        let all: Vec<(&str, &[u8])> = headers.iter().collect();
        assert_eq!(all, [("a", &b"one"[..]), ("b", &b""[..]), ("a", &[0xff, 0][..])]);
        assert_eq!(headers.len(), 3);
    }

    #[test]
    fn counts_merge_and_clear() {
        let mut counts = Counts::default();
        counts.transition(None, Some(State::Active), Reason::Activity);
        counts.record(RecordOutcome::Late);
        counts.refused_properties = 3;
        let mut sum = counts.clone();
        sum.merge(&counts);
        assert_eq!(sum.transitions().collect::<Vec<_>>(), [(None, Some(State::Active), Reason::Activity, 2)]);
        assert_eq!((sum.records(RecordOutcome::Late), sum.refused_properties), (2, 6));
        sum.clear();
        assert_eq!(sum, Counts::default());
    }
}

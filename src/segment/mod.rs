//! Segments: named, live audiences (SPEC-WINBACK section 9).
//!
//! Pure. A [`Definition`] is checked once; [`Segments`] judges a user's record as of a moment and says at which moment
//! time alone could change that judgement. [`Standing`] is what a user remembers of it, and [`live`] moves a user through
//! time and events so that every entry and exit happens at its exact moment.
//!
//! Membership changes only when the record changes, a lifecycle deadline passes, or an idle bound passes. A user without
//! a lifecycle state is in no segment: nobody can be won back who never was there.
//!
//! Cost: what decides for most users (state, activated, core actions, idle time) is a few comparisons a segment; the free
//! condition is evaluated only when all of those hold, not again while nothing that it reads has changed ([`Known`]), and
//! its commonest form without an interpreter (see [`condition`]).

pub mod condition;
pub mod definition;
pub mod live;
pub mod roster;

use crate::lifecycle::{Policy, State, User};
use crate::time::{EventTime, Span};

pub use condition::{Condition, Subject};
pub use definition::{Definition, Draft, Problem};
pub use live::{Action, Cause, Live, Move, SegmentSink, Standing};
pub use roster::Roster;

/// At most so many segments: a user's memberships are the bits of one word.
pub const SEGMENTS_MAX: usize = 64;

/// Four states, activated or not.
const STANDINGS: usize = 2 * State::ALL.len();

/// All segments, in the order of the configuration.
#[derive(Debug, Default)]
pub struct Segments {
    definitions: Vec<Definition>,
    gates: Vec<Gate>,
    /// By the bit of [`Facts::standing`], the gates that it passes.
    by_standing: [Vec<usize>; STANDINGS],
    /// The tracked properties, by name.
    tracked: Vec<String>,
}

/// Which segments a user is in: bit `i` is the segment at index `i` of a [`Segments`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Members(u64);

/// A judgement of all segments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Where the user belongs.
    pub members: Members,
    /// Segments whose `when` failed: a missing property or a type error, which count as false.
    pub failed: Members,
}

/// The cheap conditions of a definition, ready to be compared.
#[derive(Clone, Copy, Debug)]
struct Gate {
    /// Bit `2 * state + activated`.
    standing: u8,
    has_when: bool,
    /// Whether `when` reads nothing that an ordinary activity changes.
    when_is_steady: bool,
    has_idle: bool,
    core_min: u64,
    core_max: u64,
    /// `idle_from <= idle < idle_to`.
    idle_from: Span,
    idle_to: Span,
}

/// What the last judgement of a user rests on: while the tracked properties stay as they are, a free condition that was
/// evaluated then, and that reads nothing else but the state, need not be evaluated again.
#[derive(Clone, Copy)]
pub(crate) struct Known {
    facts: Facts,
    idle: Span,
    members: Members,
}

/// What a gate looks at.
#[derive(Clone, Copy)]
struct Facts {
    standing: u8,
    core_actions: u64,
}

impl Segments {
    /// All segments; `track` are the tracked properties, to whose indexes a user's properties refer. An empty name is a
    /// place that means nothing.
    ///
    /// # Errors
    /// Everything that is wrong with the drafts, each with its segment's index.
    pub fn new(drafts: Vec<Draft>, track: &[String]) -> Result<Self, Vec<(usize, Problem)>> {
        let mut problems = Vec::new();
        let mut definitions: Vec<Definition> = Vec::with_capacity(drafts.len());
        for (index, draft) in drafts.into_iter().enumerate() {
            match Definition::new(draft, track) {
                Ok(definition) if definitions.iter().any(|known| known.name() == definition.name()) => {
                    problems.push((index, Problem::repeated(definition.name())));
                }
                Ok(definition) => definitions.push(definition),
                Err(found) => problems.extend(found.into_iter().map(|problem| (index, problem))),
            }
        }
        if definitions.len() > SEGMENTS_MAX {
            problems.push((SEGMENTS_MAX, Problem::too_many()));
        }
        let gates: Vec<Gate> = definitions.iter().map(Definition::gate).collect();
        let by_standing = std::array::from_fn(|bit| {
            let passed = gates.iter().enumerate().filter(|(_, gate)| gate.standing & (1 << bit) != 0);
            passed.map(|(index, _)| index).collect()
        });
        let mut tracked: Vec<String> = track.iter().filter(|name| !name.is_empty()).cloned().collect();
        tracked.sort_unstable();
        if problems.is_empty() { Ok(Self { definitions, gates, by_standing, tracked }) } else { Err(problems) }
    }

    /// The definitions, in order.
    #[must_use]
    pub fn definitions(&self) -> &[Definition] {
        &self.definitions
    }

    /// How many.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.definitions.len()
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.definitions.is_empty()
    }

    /// The index of a name.
    #[must_use]
    pub fn position(&self, name: &str) -> Option<usize> {
        self.definitions.iter().position(|definition| definition.name() == name)
    }

    /// The names of `members`, in order.
    pub fn names(&self, members: Members) -> impl Iterator<Item = &str> {
        self.definitions.iter().enumerate().filter(move |(index, _)| members.contains(*index)).map(|(_, d)| d.name())
    }

    /// Of all definitions, stable across builds: when it differs from what a shard remembers, every user is judged again.
    /// 0 without any. Which properties are tracked is a part of it when a free condition reads properties.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        if self.is_empty() {
            return 0;
        }
        let mut text: String = self.definitions.iter().map(Definition::frozen).collect();
        if self.definitions.iter().filter_map(Definition::when).any(|when| when.reads(condition::PROPERTIES)) {
            text.extend(self.tracked.iter().flat_map(|name| ["tracked=", name, ";"]));
        }
        text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
    }

    /// Judges the user's record as of `at`. A pure function of the record and the time.
    #[must_use]
    pub fn judge(&self, user_id: &str, user: &User, at: EventTime, policy: &Policy) -> Verdict {
        self.judge_again(user_id, user, at, policy, None)
    }

    /// What is known of a user who was judged as of `standing.as_of`, before the record changes.
    pub(crate) fn known(user: &User, standing: &Standing) -> Option<Known> {
        let (life, facts) = (user.life.as_ref()?, facts(user)?);
        Some(Known { facts, idle: standing.as_of - life.last_active, members: standing.members })
    }

    /// As [`Segments::judge`], with what is known from before a change that touched no tracked property.
    pub(crate) fn judge_again(
        &self,
        user_id: &str,
        user: &User,
        at: EventTime,
        policy: &Policy,
        known: Option<Known>,
    ) -> Verdict {
        let mut verdict = Verdict::default();
        let (Some(life), Some(facts)) = (&user.life, facts(user)) else { return verdict };
        let idle = at - life.last_active;
        for (index, gate) in self.passed(facts) {
            if !gate.opens(facts) || !gate.takes(idle) {
                continue;
            }
            if gate.when_is_steady
                && let Some(known) = known.filter(|known| gate.opens(known.facts) && gate.takes(known.idle))
                && known.facts.standing == facts.standing
            {
                if known.members.contains(index) {
                    verdict.members.insert(index);
                }
                continue;
            }
            let when = if gate.has_when { self.definitions[index].when() } else { None };
            match when.map_or(Ok(true), |when| when.holds(&Subject { user_id, user, life, at, policy })) {
                Ok(true) => verdict.members.insert(index),
                Ok(false) => {}
                Err(condition::Failed) => verdict.failed.insert(index),
            }
        }
        verdict
    }

    /// The next moment after `after` at which an idle bound passes that may change a membership, as long as the record
    /// stays as it is; `None` when there is none. At every such moment, and whenever the record changes, the user has to
    /// be judged again.
    #[must_use]
    pub fn next_change(&self, user: &User, after: EventTime) -> Option<EventTime> {
        let (life, facts) = (user.life.as_ref()?, facts(user)?);
        let bounds = self.passed(facts).filter(|(_, gate)| gate.has_idle && gate.opens(facts)).flat_map(|(_, gate)| {
            let to = (gate.idle_to != FOREVER).then_some(gate.idle_to);
            [Some(gate.idle_from), to].into_iter().flatten()
        });
        bounds.map(|bound| life.last_active + bound).filter(|at| *at > after).min()
    }

    /// The gates that do not shut out everybody of this state and activation: most users are judged by few.
    fn passed(&self, facts: Facts) -> impl Iterator<Item = (usize, &Gate)> {
        let indexes = &self.by_standing[facts.standing.trailing_zeros() as usize % STANDINGS];
        indexes.iter().map(|&index| (index, &self.gates[index]))
    }
}

/// No upper bound of idle time.
const FOREVER: Span = Span::from_millis(i64::MAX);

fn facts(user: &User) -> Option<Facts> {
    let life = user.life.as_ref()?;
    let standing = 1 << (2 * life.state as u8 + u8::from(life.activated_at.is_some()));
    Some(Facts { standing, core_actions: life.core_actions })
}

impl Gate {
    const fn opens(&self, facts: Facts) -> bool {
        self.standing & facts.standing != 0
            && self.core_min <= facts.core_actions
            && facts.core_actions <= self.core_max
    }

    fn takes(&self, idle: Span) -> bool {
        self.idle_from <= idle && idle < self.idle_to
    }
}

impl Members {
    /// In none.
    pub const NONE: Self = Self(0);

    /// From the bits of [`Members::bits`].
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Bit `i` is the segment at index `i`.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Whether the segment at `index` is among them.
    #[must_use]
    pub const fn contains(self, index: usize) -> bool {
        index < SEGMENTS_MAX && self.0 & (1 << index) != 0
    }

    /// Adds the segment at `index`.
    ///
    /// # Panics
    /// Beyond [`SEGMENTS_MAX`], which [`Segments::new`] rules out.
    pub fn insert(&mut self, index: usize) {
        assert!(index < SEGMENTS_MAX, "a segment's index is below the limit that was checked");
        self.0 |= 1 << index;
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those of `self` that are not in `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The indexes, ascending.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        let mut left = self.0;
        std::iter::from_fn(move || {
            let index = (left != 0).then(|| left.trailing_zeros() as usize)?;
            left &= left - 1;
            Some(index)
        })
    }
}

#[cfg(test)]
mod tests;

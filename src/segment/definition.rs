//! A segment's definition: as typed ([`Draft`]), and checked ([`Definition`]).

use std::fmt::Write as _;

use super::condition::{Condition, PROPERTIES};
use super::{FOREVER, Gate, SEGMENTS_MAX};
use crate::lifecycle::State;
use crate::time::Span;

/// A segment as the configuration has it, its lengths of time read but nothing checked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Draft {
    /// The name in records, metrics and URLs.
    pub name: String,
    /// Any of these; empty is any.
    pub states: Vec<State>,
    /// `None` is either.
    pub activated: Option<bool>,
    /// At least so many core actions.
    pub core_min: Option<u64>,
    /// At most so many core actions.
    pub core_max: Option<u64>,
    /// Idle for at least so long.
    pub idle_from: Option<Span>,
    /// Idle for less than this.
    pub idle_to: Option<Span>,
    /// A CEL expression over the user's record.
    pub when: Option<String>,
}

/// A checked segment.
#[derive(Debug)]
pub struct Definition {
    draft: Draft,
    when: Option<Condition>,
    warnings: Vec<String>,
}

/// What is wrong with a draft.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key as the file writes it, like `core_actions` or `when`.
    pub key: &'static str,
    /// What is wrong and what would be right, in one line.
    pub message: String,
}

/// Longest name, in bytes.
pub const NAME_BYTES_MAX: usize = 64;

impl Definition {
    /// Checks a draft. `track` are the tracked properties.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn new(draft: Draft, track: &[String]) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut wrong = |key, message: String| problems.push(Problem { key, message });
        if !is_name(&draft.name) {
            let name: String = draft.name.chars().take(NAME_BYTES_MAX).collect();
            wrong("name", format!("`{name}` is no name: 1 to {NAME_BYTES_MAX} of a-z, A-Z, 0-9, `_` and `-`"));
        }
        if draft.core_min.zip(draft.core_max).is_some_and(|(min, max)| min > max) {
            wrong("core_actions", "`min` is larger than `max`, so nobody can be in it".to_owned());
        }
        if draft.idle_from.into_iter().chain(draft.idle_to).any(|bound| bound < Span::ZERO) {
            wrong("idle", "a bound is negative".to_owned());
        }
        if draft.idle_to.is_some_and(|to| to <= draft.idle_from.unwrap_or(Span::ZERO)) {
            wrong("idle", "`to` is not later than `from`, so nobody can be in it".to_owned());
        }
        let when = match draft.when.as_deref().map(|source| Condition::new(source, track)).transpose() {
            Ok(when) => when,
            Err(message) => {
                wrong("when", message);
                None
            }
        };
        if !problems.is_empty() {
            return Err(problems);
        }
        let warnings = when.as_ref().map(|when| warnings(when, track)).unwrap_or_default();
        Ok(Self { draft, when, warnings })
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.draft.name
    }

    /// What it was made from.
    #[must_use]
    pub const fn draft(&self) -> &Draft {
        &self.draft
    }

    /// What is allowed, but hardly meant: for `ebbtide check`.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    pub(super) const fn when(&self) -> Option<&Condition> {
        self.when.as_ref()
    }

    pub(super) fn gate(&self) -> Gate {
        let Draft { states, activated, core_min, core_max, idle_from, idle_to, .. } = &self.draft;
        let states = if states.is_empty() { &State::ALL[..] } else { states };
        let halves: u8 = match activated {
            None => 0b11,
            Some(false) => 0b01,
            Some(true) => 0b10,
        };
        Gate {
            standing: states.iter().fold(0, |mask, state| mask | halves << (2 * *state as u8)),
            has_when: self.when.is_some(),
            when_is_steady: self.when.as_ref().is_some_and(Condition::is_steady),
            has_idle: idle_from.is_some() || idle_to.is_some(),
            core_min: core_min.unwrap_or(0),
            core_max: core_max.unwrap_or(u64::MAX),
            // Without a lower bound there is no other: a late evaluation may even find an idle time below zero.
            idle_from: idle_from.unwrap_or(Span::from_millis(i64::MIN)),
            idle_to: idle_to.unwrap_or(FOREVER),
        }
    }

    /// A text form that never changes for the same meaning, to be hashed. It names each field, so that no two can
    /// change places unseen.
    pub(super) fn frozen(&self) -> String {
        let Draft { name, states, activated, core_min, core_max, idle_from, idle_to, when } = &self.draft;
        let mut text = format!("segment={name};");
        let mut states: Vec<&str> = states.iter().map(|state| state.as_str()).collect();
        states.sort_unstable();
        states.dedup();
        // Writing to a String cannot fail.
        let _ = write!(text, "states={};activated={activated:?};core={core_min:?},{core_max:?};", states.join(","));
        let [from, to] = [idle_from, idle_to].map(|bound| bound.map(Span::as_millis));
        let _ = write!(text, "idle={from:?},{to:?};");
        if let Some(when) = when {
            let _ = write!(text, "when={}:{when};", when.len());
        }
        text
    }
}

impl Problem {
    pub(super) fn repeated(name: &str) -> Self {
        Self { key: "name", message: format!("there is more than one segment `{name}`") }
    }

    pub(super) fn too_many() -> Self {
        Self { key: "name", message: format!("there are more than {SEGMENTS_MAX} segments") }
    }
}

fn is_name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    (1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(allowed)
}

fn warnings(when: &Condition, track: &[String]) -> Vec<String> {
    let mut warnings = Vec::new();
    for variable in ["idle_days", "p_alive"] {
        if when.reads(variable) {
            warnings.push(format!(
                "`when` uses `{variable}`, which changes as time passes, but `when` is evaluated only when something \
                 else changes: put a condition on elapsed time into `idle`"
            ));
        }
    }
    for property in when.properties().filter(|property| !track.iter().any(|known| known == property)) {
        warnings.push(format!(
            "`when` uses `{PROPERTIES}.{property}`, which is not among `{PROPERTIES}.track`: it is always missing"
        ));
    }
    warnings
}

//! Choosing thresholds from data (SPEC-WINBACK section 13): what a history of events says about silence.
//!
//! [`run`] reads events as JSON lines and returns a [`Report`]: how long users pause between active days, how many ever
//! return after how long a silence, the thresholds that follow, and the BG/NBD parameters that explain the history best.
//! [`render`](render::render) draws it for a terminal; as JSON it is `serde_json::to_string(&report)`.
//!
//! Pure: it reads what it is given, no file and no clock. Days are whole UTC days, and a user is active on a day or not;
//! more than that neither the gaps nor the model want to know. Memory grows with users and their active days, about
//! 100 bytes a user and 4 bytes a day, and with nothing else.

pub mod bg_nbd;
pub mod gaps;
pub mod history;
pub mod render;

use std::io::BufRead;

use serde::Serialize;

use crate::event::Decoder;
use crate::time::{Day, WallTime};

pub use bg_nbd::{Fit, Parameters};
pub use gaps::{GapDistribution, ReturnsAfter};
pub use history::History;

/// What to calibrate on.
#[derive(Debug)]
pub struct Options<'a> {
    /// How a line becomes an event; only those with the activity role count.
    pub decoder: &'a Decoder,
    /// The last day that is looked at; `None` is the last day in the data.
    pub until: Option<Day>,
    /// The unit of time of the BG/NBD parameters.
    pub unit: Unit,
    /// How long a user must have been observed after a silence to be asked whether they returned; `None` is a quarter of
    /// the history's length.
    pub observed_days: Option<u32>,
    /// Now: events dated beyond it are rejected as the engine would reject them.
    pub now: WallTime,
}

/// The unit of time of the fitted parameters. Only `alpha` and the log-likelihood depend on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// As the policy has it.
    #[default]
    Day,
    /// As the literature has it.
    Week,
}

/// All that a history says about silence.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// What was read.
    pub data: Data,
    /// How long users pause.
    pub gaps: GapDistribution,
    /// Who returns after how long a silence.
    pub returns: Vec<ReturnsAfter>,
    /// Days that a user was observed at least after a silence, to be counted in `returns`.
    pub observed_days: u32,
    /// The thresholds that follow from `returns`.
    pub suggested: Suggested,
    /// BG/NBD.
    pub model: Model,
}

/// What was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Data {
    /// Lines that are no usable event.
    pub rejected: u64,
    /// Events that count as activity up to the last day.
    pub activities: u64,
    /// Events that are no activity, or later than the last day.
    pub ignored: u64,
    /// Users with an activity.
    pub users: usize,
    /// Those of them who were active on more than one day.
    pub repeat_users: usize,
    /// The first day with an activity, as `YYYY-MM-DD`.
    pub first_day: String,
    /// The last day that was looked at.
    pub last_day: String,
}

/// From how many days of silence on fewer than half, a fifth and a twentieth of the users ever return. `None` where the
/// history is too short to say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Suggested {
    /// Fewer than 50 % return: `policy.at_risk.inactive_after`.
    pub at_risk_days: Option<u32>,
    /// Fewer than 20 % return: `policy.lapsed_after`.
    pub lapsed_days: Option<u32>,
    /// Fewer than 5 % return: `policy.churned_after`.
    pub churned_days: Option<u32>,
}

/// The BG/NBD model, or why there is none.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "outcome")]
pub enum Model {
    /// The parameters that explain the history best.
    Fitted(Fit),
    /// The data do not determine the parameters.
    NotIdentified {
        /// Why, in words.
        why: String,
    },
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum CalibrateError {
    /// The input cannot be read on.
    #[error("cannot read the events: {0}")]
    Read(#[from] std::io::Error),
    /// Nothing in it is an activity.
    #[error(
        "no activity among {lines} lines ({rejected} are no events; the first: {first_problem}); check the preset and \
         the activity list"
    )]
    NoActivity {
        /// Lines read.
        lines: u64,
        /// Lines that are no events.
        rejected: u64,
        /// What was wrong with the first of them, or `none`.
        first_problem: String,
    },
}

/// Reads a history and says what it shows.
///
/// # Errors
/// The reader failed, or there is no activity in what it gave.
pub fn run(reader: impl BufRead, options: &Options<'_>) -> Result<Report, CalibrateError> {
    let history = History::read(reader, options.decoder, options.until, options.now)?;
    let (first, last) = (history.first_day(), history.last_day());
    let observed_days = options.observed_days.unwrap_or_else(|| gaps::days_between(first, last) / 4);
    let returns = gaps::returns_by_idle_time(&history, observed_days);
    let model = match bg_nbd::fit(&bg_nbd::summarise(&history, options.unit), options.unit) {
        Ok(fit) => Model::Fitted(fit),
        Err(problem) => Model::NotIdentified { why: problem.to_string() },
    };
    Ok(Report {
        data: history.data(),
        gaps: GapDistribution::of(&history),
        suggested: Suggested {
            at_risk_days: gaps::falls_below(&returns, 0.5),
            lapsed_days: gaps::falls_below(&returns, 0.2),
            churned_days: gaps::falls_below(&returns, 0.05),
        },
        returns,
        observed_days,
        model,
    })
}

impl Unit {
    /// Days in one unit.
    #[must_use]
    pub const fn days(self) -> f64 {
        match self {
            Self::Day => 1.0,
            Self::Week => 7.0,
        }
    }

    /// The unit in words.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Week => "week",
        }
    }
}

#[cfg(test)]
mod tests;

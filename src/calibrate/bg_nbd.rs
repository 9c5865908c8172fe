//! The BG/NBD model's parameters by maximum likelihood (Fader, Hardie and Lee, "Counting Your Customers the Easy Way",
//! Marketing Science 24 (2005), 275-284, equation 6).
//!
//! The likelihood of a user with `x` repeats, the last at `t_x`, observed for `T`:
//!
//! ```text
//! L = B(a, b + x) / B(a, b) * gamma(r + x) * alpha^r / (gamma(r) * (alpha + T)^(r + x))
//!   + [x > 0] B(a + 1, b + x - 1) / B(a, b) * gamma(r + x) * alpha^r / (gamma(r) * (alpha + t_x)^(r + x))
//! ```
//!
//! It is maximised over the logarithms of the four parameters (all are positive) with the Nelder-Mead method, begun anew
//! at the best point until that gains nothing: a simplex may shrink on a ridge before it is at the top.

use std::collections::BTreeMap;

use argmin::core::{CostFunction, Executor, State as _};
use argmin::solver::neldermead::NelderMead;
use serde::Serialize;

use super::gaps::days_between;
use super::{History, Unit};

/// The four parameters; `alpha` is in units of time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Parameters {
    /// Shape of the gamma of activity rates.
    pub r: f64,
    /// Scale of the gamma of activity rates, in units of time.
    pub alpha: f64,
    /// First parameter of the beta of drop-out probabilities.
    pub a: f64,
    /// Second parameter of the beta of drop-out probabilities.
    pub b: f64,
}

/// What the model needs to know of a user: `x`, `t_x` and `T`, times in units.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// Active days after the first.
    pub repeats: u32,
    /// From the first to the last active day.
    pub recency: f64,
    /// From the first active day to the end.
    pub age: f64,
    /// Users who are alike in this.
    pub users: u32,
}

/// The parameters that explain a history best.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Fit {
    /// The unit of time of `parameters` and `log_likelihood`.
    pub unit: Unit,
    /// At the maximum.
    pub parameters: Parameters,
    /// `parameters.alpha` in days, as `policy.survival.alpha` wants it; the others have no unit.
    pub alpha_days: f64,
    /// The natural logarithm of the likelihood at the maximum.
    pub log_likelihood: f64,
    /// Users that the fit is based on.
    pub users: u64,
}

/// Why a history has no best parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FitProblem {
    /// Rates and drop-out cannot be told apart without returns.
    #[error("no user was active on a second day, so nothing says how often users return; read a longer history")]
    NoRepeats,
    /// The likelihood rises towards a limit case of the model.
    #[error(
        "the likelihood has no maximum: it rises as {parameter} goes to {towards}, so the users differ too little, or \
         the history is too short, for a model of four parameters"
    )]
    Unbounded {
        /// Which parameter.
        parameter: &'static str,
        /// `0` or `infinity`.
        towards: &'static str,
    },
    /// The optimiser gave up.
    #[error("the search for the maximum did not settle after {iterations} steps")]
    Unsettled {
        /// Steps taken.
        iterations: u64,
    },
}

/// Bounds for one run of the optimiser, and for how often it begins anew.
const STEPS_MAX: u64 = 5_000;
const RESTARTS_MAX: u64 = 20;
/// A restart that gains less than this in log-likelihood has found the top.
const GAIN_MIN: f64 = 1e-8;
/// Logarithms beyond this belong to a limit case, not to a population.
const LOG_MAX: f64 = 11.5;

/// Counts users that are alike together: a large history has few different ones among its short lives.
#[must_use]
pub fn summarise(history: &History, unit: Unit) -> Vec<Summary> {
    let mut alike: BTreeMap<(u32, u32, u32), u32> = BTreeMap::new();
    for days in history.users() {
        let (Some(first), Some(last)) = (days.first(), days.last()) else { continue };
        let repeats = u32::try_from(days.len() - 1).unwrap_or(u32::MAX);
        let key = (repeats, days_between(*first, *last), days_between(*first, history.last_day()));
        *alike.entry(key).or_default() += 1;
    }
    let in_units = |days: u32| f64::from(days) / unit.days();
    alike
        .into_iter()
        .map(|((repeats, recency, age), users)| Summary {
            repeats,
            recency: in_units(recency),
            age: in_units(age),
            users,
        })
        .collect()
}

/// The natural logarithm of the likelihood of all users together.
#[must_use]
pub fn log_likelihood(summaries: &[Summary], parameters: &Parameters) -> f64 {
    let Parameters { r, alpha, a, b } = *parameters;
    let gamma = libm::lgamma;
    let constant = r * alpha.ln() - gamma(r) + gamma(a + b) - gamma(b);
    let one = |user: &Summary| {
        let x = f64::from(user.repeats);
        let common = constant + gamma(r + x) + gamma(b + x) - gamma(a + b + x);
        let alive = -(r + x) * (alpha + user.age).ln();
        if user.repeats == 0 {
            return common + alive;
        }
        let gone = a.ln() - (b + x - 1.0).ln() - (r + x) * (alpha + user.recency).ln();
        // ln(e^alive + e^gone), without leaving the range of a float.
        common + alive.max(gone) + (-(alive - gone).abs()).exp().ln_1p()
    };
    summaries.iter().map(|user| f64::from(user.users) * one(user)).sum()
}

/// Finds the parameters at which the likelihood is largest.
///
/// # Errors
/// The data do not determine them.
pub fn fit(summaries: &[Summary], unit: Unit) -> Result<Fit, FitProblem> {
    if summaries.iter().all(|user| user.repeats == 0) {
        return Err(FitProblem::NoRepeats);
    }
    let users: u64 = summaries.iter().map(|user| u64::from(user.users)).sum();
    let mut best = (start(summaries), f64::NEG_INFINITY);
    let mut iterations = 0;
    for _ in 0..RESTARTS_MAX {
        let (point, value, steps) = climb(summaries, &best.0)?;
        iterations += steps;
        let gain = value - best.1;
        best = (point, value);
        if let Some(problem) = limit_case(&best.0) {
            return Err(problem);
        }
        if gain < GAIN_MIN {
            let parameters = from_logs(&best.0);
            let alpha_days = parameters.alpha * unit.days();
            return Ok(Fit { unit, parameters, alpha_days, log_likelihood: best.1, users });
        }
    }
    Err(FitProblem::Unsettled { iterations })
}

/// The negative log-likelihood, averaged so that tolerances mean the same for any number of users.
struct Cost<'a> {
    summaries: &'a [Summary],
    users: f64,
}

impl CostFunction for Cost<'_> {
    type Param = Vec<f64>;
    type Output = f64;

    fn cost(&self, logs: &Vec<f64>) -> Result<f64, argmin::core::Error> {
        let value = -log_likelihood(self.summaries, &from_logs(logs)) / self.users;
        // Far outside, differences of huge log-gammas are noise: keep the simplex away.
        let far = logs.iter().map(|log| (log.abs() - LOG_MAX - 1.0).max(0.0)).sum::<f64>();
        Ok(if value.is_finite() { value + far } else { f64::MAX })
    }
}

/// One run of the optimiser from `from`: the best point, its log-likelihood, and the steps it took.
fn climb(summaries: &[Summary], from: &[f64]) -> Result<(Vec<f64>, f64, u64), FitProblem> {
    let users: f64 = summaries.iter().map(|user| f64::from(user.users)).sum();
    let mut simplex = vec![from.to_vec()];
    for axis in 0..from.len() {
        let mut corner = from.to_vec();
        corner[axis] += 0.5;
        simplex.push(corner);
    }
    let failed = |_| FitProblem::Unsettled { iterations: 0 };
    let solver = NelderMead::new(simplex).with_sd_tolerance(1e-13).map_err(failed)?;
    let result = Executor::new(Cost { summaries, users }, solver)
        .configure(|state| state.max_iters(STEPS_MAX))
        .timer(false)
        .run()
        .map_err(failed)?;
    let steps = result.state().get_iter();
    let best = result.state().get_best_param().cloned().ok_or(FitProblem::Unsettled { iterations: steps })?;
    let value = log_likelihood(summaries, &from_logs(&best));
    Ok((best, value, steps))
}

/// Half of the mean age for `alpha`, 1 for the rest: in the middle of what populations look like, in any unit.
fn start(summaries: &[Summary]) -> Vec<f64> {
    let users: f64 = summaries.iter().map(|user| f64::from(user.users)).sum();
    let age = summaries.iter().map(|user| f64::from(user.users) * user.age).sum::<f64>() / users;
    vec![0.0, (age / 2.0).max(1e-3).ln(), 0.0, 0.0]
}

fn from_logs(logs: &[f64]) -> Parameters {
    Parameters { r: logs[0].exp(), alpha: logs[1].exp(), a: logs[2].exp(), b: logs[3].exp() }
}

fn limit_case(logs: &[f64]) -> Option<FitProblem> {
    let names = ["r", "alpha", "a", "b"].into_iter().zip(logs);
    let (parameter, log) = names.into_iter().find(|(_, log)| log.abs() > LOG_MAX)?;
    Some(FitProblem::Unbounded { parameter, towards: if *log > 0.0 { "infinity" } else { "0" } })
}

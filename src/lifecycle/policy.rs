//! The policy: from when on silence has a meaning (SPEC sections 2, 3 and 6).

use crate::time::Span;

/// The thresholds that judge a user. Checked by the configuration: spans are positive, `inactive_after` (where on) <=
/// `lapsed_after` <= `churned_after` < `forget_after`, ratios lie in 0 ..= 1, `window_days` in 1 ..= 60.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// At risk by inactivity; `None` is off.
    pub inactive_after: Option<Span>,
    /// At risk by declining activity; `None` is off.
    pub declining: Option<Declining>,
    /// At risk by probability; `None` is off.
    pub survival: Option<Survival>,
    /// Lapsed when idle for so long.
    pub lapsed_after: Span,
    /// Churned when idle for so long.
    pub churned_after: Span,
    /// Forgotten when idle for so long; `None` is never.
    pub forget_after: Option<Span>,
}

/// At risk by declining activity.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Declining {
    /// `n`: days in each of the two windows compared.
    pub window_days: u16,
    /// Declining when `recent <= decline_ratio * prior`.
    pub decline_ratio: f64,
    /// Held at risk on activity while `recent <= recover_ratio * prior`.
    pub recover_ratio: f64,
    /// No judgement on less prior activity than this.
    pub min_baseline: u32,
}

/// BG/NBD parameters, time unit one day (Fader, Hardie and Lee 2005).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Survival {
    /// Shape of the gamma of purchase rates.
    pub r: f64,
    /// Scale of the gamma of purchase rates, in days.
    pub alpha: f64,
    /// First parameter of the beta of drop-out probabilities.
    pub a: f64,
    /// Second parameter of the beta of drop-out probabilities.
    pub b: f64,
    /// At risk from the moment that P(alive) falls to this; `None` only reports `p_alive`.
    pub threshold: Option<f64>,
    /// Only users with at least so many active days after the first.
    pub min_repeat: u32,
}

impl Default for Declining {
    fn default() -> Self {
        Self { window_days: 14, decline_ratio: 0.5, recover_ratio: 0.75, min_baseline: 4 }
    }
}

/// SPEC section 2's defaults.
impl Default for Policy {
    fn default() -> Self {
        Self {
            inactive_after: Some(Span::from_days(14)),
            declining: Some(Declining::default()),
            survival: None,
            lapsed_after: Span::from_days(30),
            churned_after: Span::from_days(90),
            forget_after: None,
        }
    }
}

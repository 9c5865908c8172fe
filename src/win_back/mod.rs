//! Did the win-back campaign work? (SPEC-WINBACK section 10.)
//!
//! Pure. Who is held out is decided by a stable hash ([`holdout`]); what a reactivated user does next is kept with the
//! user as one [`Comeback`] ([`comeback`], [`trail`]) and aggregated as a retention curve and a funnel ([`curve`]); the lift
//! and its interval are arithmetic on four counts ([`lift`]).

pub mod comeback;
pub mod curve;
pub mod holdout;
pub mod lift;
pub mod trail;

pub use comeback::{Attribution, Comeback, Funnel};
pub use curve::ReturnsCurve;
pub use holdout::Holdout;
pub use lift::{Arm, Lift};
pub use trail::{Entry, Trail};

use crate::time::Span;

/// How returns are measured (`[win_back]` of the configuration).
#[derive(Clone, Debug, PartialEq)]
pub struct WinBackRules {
    /// How long after a return a win-back event still attributes it.
    pub window: Span,
    /// Who is kept out of segment deliveries; `None` is nobody.
    pub holdout: Option<Holdout>,
}

/// SPEC-WINBACK section 10's defaults.
impl Default for WinBackRules {
    fn default() -> Self {
        Self { window: Span::from_days(1), holdout: None }
    }
}

impl WinBackRules {
    /// Whether this user is held out.
    #[must_use]
    pub fn holds_out(&self, user_id: &str) -> bool {
        self.holdout.as_ref().is_some_and(|holdout| holdout.holds_out(user_id))
    }
}

#[cfg(test)]
mod tests;

//! Did the win-back campaign work? (SPEC-WINBACK section 10.)
//!
//! Pure. Who is held out is decided by a stable hash ([`holdout`]); what a reactivated user does next is kept with the
//! user as one [`Comeback`] ([`comeback`]) and aggregated as a retention curve and a funnel ([`curve`]); the lift and its
//! interval are arithmetic on four counts ([`lift`]).

pub mod comeback;
pub mod curve;
pub mod holdout;
pub mod lift;

pub use comeback::{Attribution, Comeback, Funnel};
pub use curve::ReturnsCurve;
pub use holdout::Holdout;
pub use lift::{Arm, Lift};

#[cfg(test)]
mod tests;

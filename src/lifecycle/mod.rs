//! The lifecycle of one user: state, policy, and the two ways in which a state may change (SPEC sections 2, 3 and 6).
//!
//! Pure: no I/O, no clock, no threads. A user is a value; [`User::advance`](user::User::advance) and
//! [`User::record`](user::User::record) change it and hand each change to a [`Sink`], at the moment it takes effect.

pub mod activity;
pub mod deadline;
pub mod dedup;
pub mod name;
pub mod policy;
pub mod survival;
pub mod transition;
pub mod user;

pub use name::{Name, Names};
pub use policy::Policy;
pub use transition::{Away, Change, Kind, Reason, Sink, State};
pub use user::{Fate, Life, Outcome, User};

#[cfg(test)]
mod tests;

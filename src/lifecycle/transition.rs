//! What a lifecycle change is: its states, kinds and reasons (SPEC sections 2 and 5).

use crate::lifecycle::user::User;
use crate::time::EventTime;

/// The lifecycle states by severity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum State {
    /// Using the product.
    Active = 0,
    /// Showing signs of leaving.
    AtRisk = 1,
    /// Away for `lapsed_after`.
    Lapsed = 2,
    /// Away for `churned_after`.
    Churned = 3,
}

/// How a state changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// The first activity.
    Entered = 0,
    /// Time passed.
    Worsened = 1,
    /// Activity while at risk.
    Recovered = 2,
    /// Activity while lapsed or churned.
    Reactivated = 3,
    /// A late event proved an earlier transition wrong, or a new policy judges more mildly.
    Corrected = 4,
    /// Retention ran out.
    Forgotten = 5,
    /// Deleted on request.
    Deleted = 6,
}

/// Why a state changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Reason {
    /// Idle for too long.
    Inactive = 0,
    /// Less active than before.
    Declining = 1,
    /// BG/NBD says that the user is probably gone.
    LowProbability = 2,
    /// An event.
    Activity = 3,
    /// An event that came late.
    LateEvent = 4,
    /// `forget_after`.
    Retention = 5,
    /// Somebody asked.
    Request = 6,
    /// The policy changed.
    PolicyChanged = 7,
}

/// One transition, with what is not in the user's record. The rest of a transition record is the user as it is at the
/// moment of the call of [`Sink::change`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// 1, 2, 3 … per user.
    pub seq: u64,
    /// `None` on entering.
    pub from: Option<State>,
    /// `None` when forgotten or deleted.
    pub to: Option<State>,
    /// How.
    pub kind: Kind,
    /// Why.
    pub reason: Reason,
    /// The exact moment at which the condition first held.
    pub effective_at: EventTime,
    /// When `from` was entered; `None` on entering.
    pub previous_since: Option<EventTime>,
    /// On `reactivated`, when the absence that ends here began: the first transition to lapsed or churned after being
    /// active or at risk (SPEC-WINBACK section 10). `None` for every other kind.
    pub away_since: Option<EventTime>,
}

/// The absence that a reactivation ends (SPEC-WINBACK section 10).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Away {
    /// Days with a fraction from the beginning of the absence to the return.
    pub days: f64,
    /// The state that the user came back from, `lapsed` or `churned`.
    pub from: State,
}

impl Change {
    /// `away_days` and `away_from` of a `reactivated` record; `None` for every other kind.
    #[must_use]
    pub fn away(&self) -> Option<Away> {
        Some(Away { days: (self.effective_at - self.away_since?).as_days(), from: self.from? })
    }
}

/// Takes changes at the moment they happen. The user is as it is after the causing event was counted.
pub trait Sink {
    /// One transition of one user.
    fn change(&mut self, user_id: &str, user: &User, change: &Change);
}

/// Collects the changes alone; for tests and counting.
impl Sink for Vec<Change> {
    fn change(&mut self, _user_id: &str, _user: &User, change: &Change) {
        self.push(*change);
    }
}

impl State {
    /// Every state, by severity.
    pub const ALL: [Self; 4] = [Self::Active, Self::AtRisk, Self::Lapsed, Self::Churned];

    /// The state of this name, as [`State::as_str`] tells it.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }

    /// The name in records, metrics and queries.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::AtRisk => "at_risk",
            Self::Lapsed => "lapsed",
            Self::Churned => "churned",
        }
    }
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 7] = [
        Self::Entered,
        Self::Worsened,
        Self::Recovered,
        Self::Reactivated,
        Self::Corrected,
        Self::Forgotten,
        Self::Deleted,
    ];

    /// The name in records.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Entered => "entered",
            Self::Worsened => "worsened",
            Self::Recovered => "recovered",
            Self::Reactivated => "reactivated",
            Self::Corrected => "corrected",
            Self::Forgotten => "forgotten",
            Self::Deleted => "deleted",
        }
    }
}

impl Reason {
    /// Every reason.
    pub const ALL: [Self; 8] = [
        Self::Inactive,
        Self::Declining,
        Self::LowProbability,
        Self::Activity,
        Self::LateEvent,
        Self::Retention,
        Self::Request,
        Self::PolicyChanged,
    ];

    /// The name in records and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Inactive => "inactive",
            Self::Declining => "declining",
            Self::LowProbability => "low_probability",
            Self::Activity => "activity",
            Self::LateEvent => "late_event",
            Self::Retention => "retention",
            Self::Request => "request",
            Self::PolicyChanged => "policy_changed",
        }
    }
}

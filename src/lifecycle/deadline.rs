//! How the policy judges a user at a moment, and when time alone will next change that judgement (SPEC sections 2, 3, 6
//! and 8).

use crate::lifecycle::policy::Policy;
use crate::lifecycle::survival::History;
use crate::lifecycle::transition::{Reason, State};
use crate::lifecycle::user::Life;
use crate::time::EventTime;

/// What time alone does next to a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The exact moment.
    pub at: EventTime,
    /// The state then; `None` when the user is forgotten.
    pub to: Option<State>,
    /// Why.
    pub reason: Reason,
}

impl Life {
    /// The state that the rules give as of `at`, at or after the last activity, and why. Knows no history: a user who is
    /// at risk because nothing has improved the state yet may be judged active.
    #[must_use]
    pub fn judge(&self, at: EventTime, policy: &Policy) -> (State, Reason) {
        let idle = at - self.last_active;
        if idle >= policy.churned_after {
            (State::Churned, Reason::Inactive)
        } else if idle >= policy.lapsed_after {
            (State::Lapsed, Reason::Inactive)
        } else if policy.inactive_after.is_some_and(|limit| idle >= limit) {
            (State::AtRisk, Reason::Inactive)
        } else if policy.declining.is_some_and(|rule| self.activity.declines(at.day(), &rule, rule.decline_ratio)) {
            (State::AtRisk, Reason::Declining)
        } else if self.low_probability_from(policy).is_some_and(|from| at >= from) {
            (State::AtRisk, Reason::LowProbability)
        } else {
            (State::Active, Reason::Activity)
        }
    }

    /// The next change that time alone brings: the earliest condition for a more severe state, at the moment at which it
    /// first holds; the most severe of those that first hold together (SPEC section 2). Costs O(window).
    ///
    /// Never before the present state was entered: a late event or a new policy may put a condition's first moment
    /// further back, but what has been reported since stands.
    #[must_use]
    pub fn next_step(&self, policy: &Policy) -> Option<Step> {
        let idle = |limit| (self.last_active + limit).max(self.since);
        let worse = |at, to, reason| Step { at, to: Some(to), reason };
        let churned = || worse(idle(policy.churned_after), State::Churned, Reason::Inactive);
        let lapsed = || worse(idle(policy.lapsed_after), State::Lapsed, Reason::Inactive);
        match self.state {
            State::Churned => {
                policy.forget_after.map(|limit| Step { at: idle(limit), to: None, reason: Reason::Retention })
            }
            State::Lapsed => Some(churned()),
            State::AtRisk => Some(earlier(churned(), lapsed())),
            State::Active => {
                let inactive = policy.inactive_after.map(|limit| (idle(limit), Reason::Inactive));
                let declining = self.declining_from(policy).map(|at| (at, Reason::Declining));
                let improbable =
                    self.low_probability_from(policy).map(|at| (at.max(self.since), Reason::LowProbability));
                let by_time_alone = earlier(churned(), lapsed());
                let step = [inactive, declining, improbable]
                    .into_iter()
                    .flatten()
                    .map(|(at, reason)| worse(at, State::AtRisk, reason))
                    .fold(by_time_alone, earlier);
                Some(step)
            }
        }
    }

    /// When *declining* first holds: the first instant of a UTC day later than the last active one.
    fn declining_from(&self, policy: &Policy) -> Option<EventTime> {
        let rule = policy.declining.as_ref()?;
        let entered = self.since.day();
        let from = if entered.start() < self.since { entered + 1 } else { entered };
        self.activity.next_declining_day(from, rule).map(crate::time::Day::start)
    }

    /// When `low_probability` first holds.
    fn low_probability_from(&self, policy: &Policy) -> Option<EventTime> {
        policy.survival.as_ref()?.deadline(self.history(), self.first_active, self.last_active)
    }

    /// The life as the survival model sees it.
    #[must_use]
    pub fn history(&self) -> History {
        History {
            repeat_days: self.activity.repeat_days(),
            recency_days: (self.last_active - self.first_active).as_days(),
        }
    }
}

/// The earlier of two steps. Of two at the same instant `first`, which the caller lists first because it is the more
/// severe one, or of equal severity and first in SPEC's order of reasons.
fn earlier(first: Step, second: Step) -> Step {
    if second.at < first.at { second } else { first }
}

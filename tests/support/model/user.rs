//! What is derived of one user, each time it is asked, from all that ever arrived.

use std::collections::BTreeSet;

use ebbtide::lifecycle::policy::{Declining, Survival};
use ebbtide::lifecycle::{Policy, Reason, State};
use ebbtide::segment::Draft;
use ebbtide::time::DAY_MS;
use serde_json::{Value, json};

use super::{ModelUser, Next, days, text};
use crate::support::measured::Seen;

impl ModelUser {
    /// As the segments see it.
    pub(super) fn seen(&self) -> Seen<'_> {
        Seen {
            state: self.state,
            activated: self.activated_at().is_some(),
            core_actions: self.core_actions() as u64,
            total_events: self.arrivals.len() as u64,
            last_active: self.last_active(),
            last_events: self.last_events(),
            properties: &self.properties,
        }
    }

    pub(super) fn first_active(&self) -> Option<i64> {
        self.arrivals.iter().map(|arrival| arrival.time).min()
    }

    pub(super) fn last_active(&self) -> Option<i64> {
        self.arrivals.iter().map(|arrival| arrival.time).max()
    }

    pub(super) fn activated_at(&self) -> Option<i64> {
        self.arrivals.iter().filter(|arrival| arrival.activation).map(|arrival| arrival.time).min()
    }

    pub(super) fn core_actions(&self) -> usize {
        self.arrivals.iter().filter(|arrival| arrival.core).count()
    }

    /// The latest thing known to have happened to the user: an event before it is late.
    pub(super) fn floor(&self) -> i64 {
        let since = self.state.map(|_| self.since);
        since.into_iter().chain(self.last_active()).max().unwrap_or(i64::MIN)
    }

    /// Up to 8 names in order of arrival; one older than the last activity at its time comes too late for the list.
    pub(super) fn last_events(&self) -> Vec<&str> {
        let mut latest = i64::MIN;
        let mut names = Vec::new();
        for arrival in &self.arrivals {
            if arrival.time >= latest {
                latest = arrival.time;
                names.push(arrival.name.as_str());
            }
        }
        names.split_off(names.len().saturating_sub(8))
    }

    pub(super) fn activity_in(&self, first_day: i64, last_day: i64) -> usize {
        self.arrivals[self.buckets_from..]
            .iter()
            .filter(|arrival| (first_day..=last_day).contains(&arrival.time.div_euclid(DAY_MS)))
            .count()
    }

    /// SPEC section 2, "Declining", with either ratio.
    #[expect(clippy::cast_precision_loss, reason = "a test counts no more than thousands of events")]
    pub(super) fn declines(&self, at: i64, rule: Declining, ratio: f64) -> bool {
        let n = i64::from(rule.window_days);
        let day = at.div_euclid(DAY_MS);
        let recent = self.activity_in(day - n, day);
        let prior = self.activity_in(day - 2 * n, day - n - 1);
        prior >= rule.min_baseline as usize && recent as f64 <= ratio * prior as f64
    }

    /// SPEC section 3.
    pub(super) fn p_alive(&self, at: i64, rule: Survival) -> f64 {
        let (Some(first), Some(last)) = (self.first_active(), self.last_active()) else { return 1.0 };
        let x = self.repeat_days();
        if x == 0.0 {
            return 1.0;
        }
        let (t_x, t) = (days(last - first), days(at - first));
        1.0 / (1.0 + rule.a / (rule.b + x - 1.0) * ((rule.alpha + t) / (rule.alpha + t_x)).powf(rule.r + x))
    }

    /// `x`: distinct active days after the first.
    #[expect(clippy::cast_precision_loss, reason = "a count of days")]
    pub(super) fn repeat_days(&self) -> f64 {
        let days: BTreeSet<i64> = self.arrivals.iter().map(|arrival| arrival.time.div_euclid(DAY_MS)).collect();
        days.len().saturating_sub(1) as f64
    }

    /// The first millisecond, not before the last activity, at which P(alive) has fallen to the threshold.
    pub(super) fn probably_gone_at(&self, rule: Survival) -> Option<i64> {
        let threshold = rule.threshold?;
        let last = self.last_active()?;
        if self.repeat_days() < f64::from(rule.min_repeat) {
            return None;
        }
        let gone = |at: i64| self.p_alive(at, rule) <= threshold;
        if gone(last) {
            return Some(last);
        }
        let mut step = DAY_MS;
        while !gone(last + step) {
            step *= 2;
            if step > 1_000_000 * DAY_MS {
                return None;
            }
        }
        let (mut before, mut after) = (last, last + step);
        while after - before > 1 {
            let middle = before + (after - before) / 2;
            if gone(middle) { after = middle } else { before = middle }
        }
        Some(after)
    }

    /// The state that the rules give as of a moment, whatever the present one is.
    pub(super) fn judge(&self, at: i64, policy: &Policy) -> (State, Reason) {
        let declining = policy.declining.is_some_and(|rule| self.declines(at, rule, rule.decline_ratio));
        self.judge_with(at, policy, declining)
    }

    pub(super) fn judge_with(&self, at: i64, policy: &Policy, declining: bool) -> (State, Reason) {
        let Some(last) = self.last_active() else { return (State::Active, Reason::Activity) };
        let idle = at - last;
        if idle >= policy.churned_after.as_millis() {
            (State::Churned, Reason::Inactive)
        } else if idle >= policy.lapsed_after.as_millis() {
            (State::Lapsed, Reason::Inactive)
        } else if policy.inactive_after.is_some_and(|after| idle >= after.as_millis()) {
            (State::AtRisk, Reason::Inactive)
        } else if declining {
            (State::AtRisk, Reason::Declining)
        } else if policy.survival.and_then(|rule| self.probably_gone_at(rule)).is_some_and(|gone| at >= gone) {
            (State::AtRisk, Reason::LowProbability)
        } else {
            (State::Active, Reason::Activity)
        }
    }

    /// What time alone does next, found by trying every moment at which a condition can begin to hold.
    pub(super) fn next(&self, policy: &Policy) -> Option<(i64, Next)> {
        let (state, last) = (self.state?, self.last_active()?);
        let floor = self.floor();
        let mut moments: BTreeSet<i64> = [Some(policy.lapsed_after), Some(policy.churned_after), policy.inactive_after]
            .into_iter()
            .flatten()
            .map(|after| last + after.as_millis())
            .chain(policy.survival.and_then(|rule| self.probably_gone_at(rule)))
            .map(|at| at.max(floor))
            .collect();
        let mut turns = BTreeSet::new();
        if let Some(rule) = policy.declining {
            let day = last.div_euclid(DAY_MS);
            turns.extend((1..=2 * i64::from(rule.window_days) + 2).map(|ahead| (day + ahead) * DAY_MS));
            moments.extend(turns.iter().filter(|turn| **turn >= floor));
        }
        for at in moments {
            let declining =
                turns.contains(&at) && policy.declining.is_some_and(|rule| self.declines(at, rule, rule.decline_ratio));
            let (judged, reason) = self.judge_with(at, policy, declining);
            if judged > state {
                return Some((at, Next::Worse(judged, reason)));
            }
        }
        if state == State::Churned {
            // SPEC section 6 dates it so whatever the policy was at that time, but never before the present state.
            return policy.forget_after.map(|after| ((last + after.as_millis()).max(floor), Next::Forgotten));
        }
        None
    }

    /// The current-state record, as of the last transition.
    pub(super) fn state_record(&self, id: &str, policy: &Policy, segments: &[Draft]) -> Value {
        let bound = self.seen().next_bound(segments, self.membership.as_of);
        let next = self.next(policy).map(|(at, _)| at).into_iter().chain(bound).min();
        let names: Vec<&str> =
            segments.iter().map(|draft| &*draft.name).filter(|name| self.membership.members.contains(*name)).collect();
        json!({
            "user_id": id,
            "state": self.state.map(State::as_str),
            "since": text(self.state.map(|_| self.since)),
            "reason": self.reason.map(Reason::as_str),
            "activated": self.activated_at().is_some(),
            "seq": self.seq,
            "first_active_at": text(self.first_active()),
            "last_active_at": text(self.last_active()),
            "activated_at": text(self.activated_at()),
            "total_events": self.arrivals.len(),
            "core_actions": self.core_actions(),
            "last_events": self.last_events(),
            "properties": self.properties,
            "segments": names,
            "next_deadline_at": text(next),
        })
    }
}

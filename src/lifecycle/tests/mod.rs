//! The lifecycle's promises: tables for every rule, properties over random histories, and the recorded customers.

mod golden;
mod late;
mod properties;
mod tables;

use std::borrow::Cow;

use crate::event::{Event, ReportRoles, Roles};
use crate::lifecycle::policy::Survival;
use crate::lifecycle::{Change, Fate, Life, Outcome, Policy, State, User};
use crate::time::{DAY_MS, EventTime};

/// So many days after the epoch.
fn day(days: f64) -> EventTime {
    #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "test times are small")]
    EventTime::from_millis((days * DAY_MS as f64).round() as i64)
}

/// An activity of the default roles: it activates, and is a core action.
fn activity(at: EventTime) -> Event<'static> {
    Event {
        user_id: Cow::Borrowed("ada"),
        name: Cow::Borrowed("Opened"),
        time: at,
        id: None,
        roles: Roles { activity: true, activation: true, core: true, win_back: false },
        reports: ReportRoles::default(),
        campaign: None,
        tracked: Vec::new(),
        refused: 0,
        listed_name: None,
    }
}

/// One line a change: `from>to kind reason @day`.
fn line(change: &Change) -> String {
    let name = |state: Option<State>| state.map_or("-", State::as_str);
    format!(
        "{}>{} {} {} @{}",
        name(change.from),
        name(change.to),
        change.kind.as_str(),
        change.reason.as_str(),
        (change.effective_at - EventTime::from_millis(0)).as_days()
    )
}

fn lines(changes: &[Change]) -> Vec<String> {
    changes.iter().map(line).collect()
}

/// The life of a user who has one.
fn life(user: &User) -> &Life {
    user.life.as_ref().expect("the user has been active")
}

/// The user and the changes after activity on the given days and time passing to `until`.
fn lived(policy: &Policy, days: &[f64], until: f64) -> (User, Vec<Change>) {
    let (mut user, mut changes) = (User::default(), Vec::new());
    for &at in days {
        assert_eq!(user.record(&activity(day(at)), policy, &mut changes), Outcome::Counted);
    }
    assert_eq!(user.advance("ada", day(until), policy, &mut changes), Fate::Stays);
    (user, changes)
}

/// Records one more event; its outcome, and the lines of the changes that it makes.
fn then(user: &mut User, at: f64, policy: &Policy) -> (Outcome, Vec<String>) {
    let mut changes = Vec::new();
    let outcome = user.record(&activity(day(at)), policy, &mut changes);
    (outcome, lines(&changes))
}

/// The lines of what time does until `until`.
fn later(user: &mut User, until: f64, policy: &Policy) -> Vec<String> {
    let mut changes = Vec::new();
    assert_eq!(user.advance("ada", day(until), policy, &mut changes), Fate::Stays);
    lines(&changes)
}

/// Every day from `from` to `to`, at noon.
fn noons(from: u16, to: u16) -> Vec<f64> {
    (from..=to).map(|number| f64::from(number) + 0.5).collect()
}

/// A survival rule with this threshold, and no rule of inactivity beside it.
fn survival(threshold: f64) -> Policy {
    let rule = Survival { r: 0.243, alpha: 4.414, a: 0.793, b: 2.426, threshold: Some(threshold), min_repeat: 2 };
    Policy { survival: Some(rule), inactive_after: None, ..Policy::default() }
}

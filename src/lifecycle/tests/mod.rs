//! The lifecycle's promises: tables for every rule, properties over random histories, and the recorded customers.

mod golden;
mod properties;
mod tables;

use std::borrow::Cow;

use crate::event::{Event, Roles};
use crate::lifecycle::{Change, User};
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
        campaign: None,
        tracked: Vec::new(),
    }
}

/// One line a change: `from>to kind reason @day`.
fn line(change: &Change) -> String {
    let name = |state: Option<crate::lifecycle::State>| state.map_or("-", crate::lifecycle::State::as_str);
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
fn life(user: &User) -> &crate::lifecycle::Life {
    user.life.as_ref().expect("the user has been active")
}

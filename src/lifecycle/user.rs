//! One user: everything that is remembered, and the rules that change it (SPEC sections 1, 2, 3 and 6).

use crate::lifecycle::activity::Activity;
use crate::lifecycle::transition::{Reason, State};
use crate::time::EventTime;

/// How many ids are kept for de-duplication (SPEC section 1).
pub const RECENT_IDS: usize = 16;
/// How many event names are kept (SPEC section 5, `last_events`).
pub const LAST_EVENTS: usize = 8;

/// All that Ebbtide remembers of one user. What is persisted is exactly this (see `store::codec`).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct User {
    /// The last transition's number; 0 before the first.
    pub seq: u64,
    /// The lifecycle; `None` until the first activity.
    pub life: Option<Life>,
    /// Hashes (40 bits, never 0) of the most recent event ids, newest last, at most [`RECENT_IDS`].
    pub recent_ids: Vec<u64>,
    /// The tracked properties: index into `properties.track` and compact JSON text, by index.
    pub properties: Vec<(u16, Box<str>)>,
    /// Generation of the rules that last judged this user (SPEC section 7: a changed policy judges everybody once).
    pub generation: u32,
    /// The deadline in the durable index, if one is armed. At or before the real next deadline (SPEC section 8).
    pub armed: Option<EventTime>,
}

/// A user's life since the first activity.
#[derive(Clone, Debug, PartialEq)]
pub struct Life {
    /// The present state.
    pub state: State,
    /// When it was entered.
    pub since: EventTime,
    /// Why it was entered.
    pub reason: Reason,
    /// The first activity.
    pub first_active: EventTime,
    /// The latest activity.
    pub last_active: EventTime,
    /// The first activation; `None` if never.
    pub activated_at: Option<EventTime>,
    /// Events that counted as activity.
    pub total_events: u64,
    /// Core actions.
    pub core_actions: u64,
    /// Names of the latest activities, newest last, at most [`LAST_EVENTS`].
    pub last_events: Vec<Box<str>>,
    /// Activity by day: the windows of the declining rule, and the number of active days.
    pub activity: Activity,
}

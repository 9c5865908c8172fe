//! One user in an export, the same in every format.

use serde_json::Value;

use super::{Plan, Selection};
use crate::lifecycle::State;
use crate::person::Person;
use crate::shard::ShardRecord;
use crate::time::EventTime;

/// One user. Times are the user's own; `idle_days` is as of the shard's watermark.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The user.
    pub user_id: String,
    /// The present state.
    pub state: State,
    /// When it was entered.
    pub since: EventTime,
    /// Why.
    pub reason: &'static str,
    /// The first activity.
    pub first_active_at: EventTime,
    /// The latest activity.
    pub last_active_at: EventTime,
    /// The first activation; `None` if never.
    pub activated_at: Option<EventTime>,
    /// Days with a fraction since the latest activity.
    pub idle_days: f64,
    /// Activities.
    pub total_events: u64,
    /// Core actions.
    pub core_actions: u64,
    /// The probability of being alive; `None` without a survival rule.
    pub p_alive: Option<f64>,
    /// The latest activities, newest last.
    pub last_events: Vec<String>,
    /// The segments that the user is in.
    pub segments: Vec<String>,
    /// The tracked properties, in the order of the configuration.
    pub properties: Vec<Option<Value>>,
}

impl Row {
    /// The user's row, if it is selected. A user without a lifecycle state is in no state and no segment.
    pub(super) fn of(user_id: Box<str>, person: &Person, record: &ShardRecord, plan: &Plan) -> Option<Self> {
        let (user, life) = (&person.user, person.user.life.as_ref()?);
        let names = record.roster.names(user.generation);
        let segments = || person.standing.members.iter().filter_map(|index| names.get(index).map(|name| &**name));
        let selected = match &plan.selection {
            Selection::State(state) => life.state == *state,
            Selection::Segment(name) => segments().any(|segment| segment == name),
        };
        if !selected {
            return None;
        }
        let property = |name: &String| {
            let place = record.properties.iter().position(|known| known == name)?;
            let (_, text) = user.properties.iter().find(|(index, _)| usize::from(*index) == place)?;
            serde_json::from_str(text).ok()
        };
        let as_of = record.watermark.at().max(life.last_active);
        Some(Self {
            user_id: user_id.into(),
            state: life.state,
            since: life.since,
            reason: life.reason.as_str(),
            first_active_at: life.first_active,
            last_active_at: life.last_active,
            activated_at: life.activated_at,
            idle_days: (as_of - life.last_active).as_days(),
            total_events: life.total_events,
            core_actions: life.core_actions,
            p_alive: user.p_alive(as_of, &plan.policy),
            last_events: life.last_events.iter().map(ToString::to_string).collect(),
            segments: segments().map(str::to_owned).collect(),
            properties: plan.track.iter().map(property).collect(),
        })
    }
}

//! The naive model: SPEC sections 1 to 6 once more, written from SPEC alone and without a thought for cost.
//!
//! It keeps every activity of every user and derives each value from the whole list each time it is asked. It finds
//! moments by trying them, not by formula: days are tried one by one, and the moment at which P(alive) reaches its
//! threshold is found by halving. It shares with Ebbtide the types that name things (times, policy, states), and not
//! one rule. What the two agree on over many random cases is what SPEC says, or a mistake made twice.

mod user;

use std::collections::BTreeMap;

use ebbtide::lifecycle::{Kind, Policy, Reason, State};
use ebbtide::segment::Draft;
use ebbtide::shard::watermark::TimeRules;
use ebbtide::time::{DAY_MS, EventTime};
use serde_json::{Map, Value, json};

use super::measured::{Counted, Facts, Measuring, Membership};

/// What the input says, already known to be a usable event.
#[derive(Clone, Debug)]
pub(crate) struct ModelEvent {
    pub(crate) user: String,
    pub(crate) name: String,
    pub(crate) time: i64,
    pub(crate) id: Option<String>,
    pub(crate) activity: bool,
    pub(crate) activation: bool,
    pub(crate) core: bool,
    /// A win-back session, and the campaign that it names.
    pub(crate) win_back: Option<Session>,
    /// The tracked properties that the event sets.
    pub(crate) properties: BTreeMap<String, Value>,
}

/// A session that a campaign brought, which names it or does not.
#[derive(Clone, Debug, Default)]
pub(crate) struct Session {
    pub(crate) campaign: Option<String>,
}

/// One thing of the input, in the order of arrival.
#[derive(Clone, Debug)]
pub(crate) enum Input {
    Event(ModelEvent),
    Deletion { user: String },
}

/// One activity, as it arrived.
#[derive(Clone, Debug)]
struct Arrival {
    time: i64,
    name: String,
    activation: bool,
    core: bool,
}

#[derive(Clone, Debug, Default)]
struct ModelUser {
    /// Any event of the user was taken, activity or not.
    seen: bool,
    seq: u64,
    state: Option<State>,
    since: i64,
    reason: Option<Reason>,
    arrivals: Vec<Arrival>,
    /// The arrivals from this one on fill the day buckets: a reactivation empties them.
    buckets_from: usize,
    absent_since: Option<i64>,
    properties: BTreeMap<String, Value>,
    /// All ids ever taken, newest last.
    ids: Vec<String>,
    membership: Membership,
}

/// What time does next.
#[derive(Clone, Copy, Debug)]
enum Next {
    Worse(State, Reason),
    Forgotten,
}

/// The whole of Ebbtide, naively. One shard's watermark drives it.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    policy: Policy,
    time: TimeRules,
    watermark: Option<i64>,
    last_received: i64,
    users: BTreeMap<String, ModelUser>,
    /// Every transition record so far, without `detected_at`.
    pub(crate) transitions: Vec<Value>,
    /// The current-state record of every user who is there, without `updated_at`.
    pub(crate) states: BTreeMap<String, Value>,
    pub(crate) duplicates: u64,
    measuring: Measuring,
    pub(crate) facts: Facts,
}

impl Model {
    pub(crate) fn new(policy: Policy, time: TimeRules) -> Self {
        Self {
            policy,
            time,
            watermark: None,
            last_received: i64::MIN,
            users: BTreeMap::new(),
            transitions: Vec::new(),
            states: BTreeMap::new(),
            duplicates: 0,
            measuring: Measuring::default(),
            facts: Facts::default(),
        }
    }

    /// The same, with segments and measurement.
    pub(crate) fn measuring(self, measuring: Measuring) -> Self {
        Self { measuring, ..self }
    }

    /// Everything that is counted over users, counted anew.
    pub(crate) fn counted(&self) -> Counted {
        let members = self.users.values().map(|user| &user.membership);
        self.facts.count(members, self.watermark.unwrap_or(i64::MIN))
    }

    /// One input, received at a wall time; afterwards time stands at the watermark that it moved.
    pub(crate) fn apply(&mut self, input: &Input, wall: i64) {
        match input {
            Input::Event(event) => {
                let lateness = self.time.lateness.as_millis();
                let watermark = (event.time - lateness).max(self.watermark.unwrap_or(i64::MIN));
                self.last_received = self.last_received.max(wall);
                self.watermark = Some(watermark);
                self.with_user(&event.user, |user, sink| {
                    sink.advance(user, watermark);
                    sink.event(user, event);
                    sink.advance(user, watermark);
                });
            }
            Input::Deletion { user } => {
                let Some(watermark) = self.watermark else { return };
                if !self.users.contains_key(user) {
                    return;
                }
                self.with_user(user, |user, sink| {
                    sink.advance(user, watermark);
                    if user.seen {
                        user.properties.clear();
                        let at = user.floor().max(watermark);
                        sink.leave(user, Kind::Deleted, Reason::Request, at, watermark, "deleted");
                    }
                });
            }
        }
    }

    /// The partition is read to its end, and wall time has come to `wall` (SPEC section 4).
    pub(crate) fn pass(&mut self, wall: i64) {
        let Some(watermark) = self.watermark else { return };
        if wall - self.last_received >= self.time.idle_after.as_millis() {
            let guard = self.time.silence_guard.map_or(i64::MAX, |guard| self.last_received + guard.as_millis());
            self.watermark = Some(watermark.max(wall.min(guard) - self.time.lateness.as_millis()));
        }
        self.catch_up();
    }

    /// Lets everything take effect that is due at the present watermark.
    pub(crate) fn catch_up(&mut self) {
        let Some(watermark) = self.watermark else { return };
        for user in self.users.keys().cloned().collect::<Vec<_>>() {
            self.with_user(&user, |user, sink| sink.advance(user, watermark));
        }
    }

    pub(crate) fn watermark(&self) -> Option<i64> {
        self.watermark
    }

    /// Another policy from here on: everybody is judged once, at the watermark.
    pub(crate) fn change_policy(&mut self, policy: Policy) {
        let segments = self.measuring.segments.clone();
        self.change_rules(policy, segments);
    }

    /// Another policy or other segments from here on.
    pub(crate) fn change_rules(&mut self, policy: Policy, segments: Vec<Draft>) {
        self.catch_up();
        let policy_changed = self.policy != policy;
        let old = std::mem::replace(&mut self.measuring.segments, segments);
        if !policy_changed && old == self.measuring.segments {
            return;
        }
        self.policy = policy;
        let Some(watermark) = self.watermark else { return };
        for user in self.users.keys().cloned().collect::<Vec<_>>() {
            self.with_user(&user, |user, sink| {
                if policy_changed {
                    sink.rejudge(user, watermark);
                }
                sink.redefine(user, &old, watermark);
                sink.advance(user, watermark);
            });
        }
    }

    /// Users by state and by whether they ever activated, counted one by one.
    pub(crate) fn cohorts(&self) -> BTreeMap<(State, bool), u64> {
        let mut cohorts = BTreeMap::new();
        for user in self.users.values() {
            if let Some(state) = user.state {
                *cohorts.entry((state, user.activated_at().is_some())).or_default() += 1;
            }
        }
        cohorts
    }

    /// Users of whom only properties are known.
    pub(crate) fn without_life(&self) -> u64 {
        self.users.values().map(|user| u64::from(user.state.is_none())).sum()
    }

    fn with_user(&mut self, id: &str, act: impl FnOnce(&mut ModelUser, &mut Judge<'_>)) {
        let mut user = self.users.remove(id).unwrap_or_default();
        let mut judge = Judge {
            id,
            policy: &self.policy,
            transitions: &mut self.transitions,
            states: &mut self.states,
            duplicates: &mut self.duplicates,
            measuring: &self.measuring,
            facts: &mut self.facts,
            unsettled: false,
        };
        act(&mut user, &mut judge);
        if user.seen {
            self.users.insert(id.to_owned(), user);
        }
    }
}

/// Judges one user; takes what happens.
struct Judge<'a> {
    id: &'a str,
    policy: &'a Policy,
    transitions: &'a mut Vec<Value>,
    states: &'a mut BTreeMap<String, Value>,
    duplicates: &'a mut u64,
    measuring: &'a Measuring,
    facts: &'a mut Facts,
    /// Something was said of the user, and its current state was not written since.
    unsettled: bool,
}

impl Judge<'_> {
    /// SPEC section 2, "Time only worsens".
    fn advance(&mut self, user: &mut ModelUser, to: i64) {
        loop {
            let next = user.next(self.policy);
            let bound = user.seen().next_bound(&self.measuring.segments, user.membership.as_of);
            let Some(at) = next.iter().map(|(at, _)| *at).chain(bound).min().filter(|at| *at <= to) else { break };
            match next.filter(|(due, _)| *due == at) {
                Some((_, Next::Worse(state, reason))) => {
                    self.change(user, state, Kind::Worsened, reason, at);
                    let cause = format!("{}:{}", self.id, user.seq);
                    self.settle(user, at, &cause);
                }
                Some((_, Next::Forgotten)) => {
                    let cause = format!("{}:{}", self.id, user.seq + 1);
                    self.leave(user, Kind::Forgotten, Reason::Retention, at, at, &cause);
                }
                None => self.settle(user, at, "time"),
            }
        }
    }

    /// One event: SPEC sections 1 and 2, "An event only improves" and "Late events".
    fn event(&mut self, user: &mut ModelUser, event: &ModelEvent) {
        if let Some(id) = &event.id
            && user.ids.iter().rev().take(16).any(|known| known == id)
        {
            *self.duplicates += 1;
            return;
        }
        // An event that is not late lets time pass first; one that is late finds it already passed.
        if event.time >= user.floor() {
            self.advance(user, event.time);
        }
        user.seen = true;
        user.ids.extend(event.id.clone());
        user.properties.extend(event.properties.clone());
        let seq = user.seq;
        if event.activity {
            self.activity(user, event);
        }
        if event.activity || !event.properties.is_empty() {
            let cause = match (user.seq != seq, event.activity) {
                (true, _) => format!("{}:{}", self.id, user.seq),
                (false, true) => "activity".to_owned(),
                (false, false) => "properties".to_owned(),
            };
            self.settle(user, event.time, &cause);
        }
        let activity = event.activity.then_some(event.core);
        self.facts.witness(
            (self.id, &user.membership),
            event.time,
            activity,
            event.win_back.as_ref().map(|session| &session.campaign),
            self.measuring,
        );
    }

    fn activity(&mut self, user: &mut ModelUser, event: &ModelEvent) {
        let late = event.time < user.floor();
        let last_active_before = user.last_active();
        let state_before = user.state;
        if !late && matches!(state_before, Some(State::Lapsed | State::Churned)) {
            user.buckets_from = user.arrivals.len();
        }
        user.arrivals.push(Arrival {
            time: event.time,
            name: event.name.clone(),
            activation: event.activation,
            core: event.core,
        });
        match state_before {
            None => self.change(user, State::Active, Kind::Entered, Reason::Activity, event.time),
            Some(state) if late => {
                if last_active_before.is_some_and(|before| event.time > before) {
                    let entered = user.since;
                    let (milder, _) = user.judge(entered, self.policy);
                    if milder < state {
                        self.change(user, milder, Kind::Corrected, Reason::LateEvent, entered);
                    }
                }
            }
            Some(State::Lapsed | State::Churned) => {
                self.change(user, State::Active, Kind::Reactivated, Reason::Activity, event.time);
            }
            Some(State::AtRisk) => {
                let held =
                    self.policy.declining.is_some_and(|rule| user.declines(event.time, rule, rule.recover_ratio));
                if !held {
                    self.change(user, State::Active, Kind::Recovered, Reason::Activity, event.time);
                }
            }
            Some(State::Active) => {}
        }
    }

    /// SPEC section 7: a changed policy judges everybody once.
    fn rejudge(&mut self, user: &mut ModelUser, watermark: i64) {
        let Some(state) = user.state else { return };
        let at = user.floor().max(watermark);
        let (now, _) = user.judge(at, self.policy);
        if now > state {
            self.change(user, now, Kind::Worsened, Reason::PolicyChanged, at);
        } else if now < state {
            self.change(user, now, Kind::Corrected, Reason::PolicyChanged, at);
        }
    }

    fn change(&mut self, user: &mut ModelUser, to: State, kind: Kind, reason: Reason, at: i64) {
        let gone = |state: Option<State>| matches!(state, Some(State::Lapsed | State::Churned));
        let absent_since = user.absent_since;
        if gone(Some(to)) && !gone(user.state) {
            user.absent_since = Some(at);
        } else if !gone(Some(to)) {
            user.absent_since = None;
        }
        let from = user.state.map(State::as_str);
        let mut record = self.begin(user, Some(to), kind, reason, at);
        if kind == Kind::Reactivated {
            let away = absent_since.map(|since| days(at - since));
            record.insert("away_days".into(), json!(away));
            record.insert("away_from".into(), json!(from));
        }
        self.transitions.push(Value::Object(record));
        self.unsettled = true;
        if matches!(kind, Kind::Reactivated | Kind::Recovered) {
            let away_from = user.state.filter(|_| kind == Kind::Reactivated);
            self.facts.is_back(&mut user.membership, at, away_from);
        }
        user.state = Some(to);
        user.since = at;
        user.reason = Some(reason);
    }

    /// All that one moment or one event brings has happened.
    fn settle(&mut self, user: &mut ModelUser, at: i64, cause: &str) {
        let mut membership = std::mem::take(&mut user.membership);
        self.unsettled |= self.facts.judge((self.id, &user.seen(), &mut membership), at, cause, self.measuring);
        user.membership = membership;
        if std::mem::take(&mut self.unsettled) {
            let record = user.state_record(self.id, self.policy, &self.measuring.segments);
            self.states.insert(self.id.to_owned(), record);
        }
    }

    /// SPEC-WINBACK section 9, "Changing, adding or removing a definition".
    fn redefine(&mut self, user: &mut ModelUser, old: &[Draft], at: i64) {
        self.unsettled |= self.facts.redefine(self.id, &mut user.membership, old, at, self.measuring);
        if user.state.is_some() || !self.measuring.segments.is_empty() {
            self.settle(user, at, "definition_changed");
        }
        self.unsettled = false;
    }

    /// The user is gone as of `at`; the segments are left as of `left_at`, if nothing later is known of them.
    fn leave(&mut self, user: &mut ModelUser, kind: Kind, reason: Reason, at: i64, left_at: i64, cause: &str) {
        let record = self.begin(user, None, kind, reason, at);
        self.transitions.push(Value::Object(record));
        self.states.remove(self.id);
        let mut membership = std::mem::take(&mut user.membership);
        let left_at = left_at.max(membership.as_of);
        for draft in &self.measuring.segments {
            if membership.members.contains(&draft.name) {
                self.facts.leave(self.id, &mut membership, &draft.name, left_at, cause, self.measuring);
            }
        }
        self.unsettled = false;
        *user = ModelUser::default();
    }

    /// A transition record, SPEC section 5.
    fn begin(
        &mut self,
        user: &mut ModelUser,
        to: Option<State>,
        kind: Kind,
        reason: Reason,
        at: i64,
    ) -> Map<String, Value> {
        user.seq += 1;
        let mut record = Map::new();
        record.insert("id".into(), json!(format!("{}:{}", self.id, user.seq)));
        record.insert("seq".into(), json!(user.seq));
        record.insert("user_id".into(), json!(self.id));
        record.insert("from".into(), json!(user.state.map(State::as_str)));
        record.insert("to".into(), json!(to.map(State::as_str)));
        record.insert("kind".into(), json!(kind.as_str()));
        record.insert("reason".into(), json!(reason.as_str()));
        record.insert("effective_at".into(), text(Some(at)));
        record.insert("first_active_at".into(), text(user.first_active()));
        record.insert("last_active_at".into(), text(user.last_active()));
        record.insert("activated_at".into(), text(user.activated_at()));
        record.insert("idle_days".into(), json!(user.last_active().map(|last| days(at - last))));
        record.insert("total_events".into(), json!(user.arrivals.len()));
        record.insert("core_actions".into(), json!(user.core_actions()));
        record.insert("last_events".into(), json!(user.last_events()));
        record.insert("properties".into(), json!(user.properties));
        if let Some(rule) = self.policy.survival {
            record.insert("p_alive".into(), json!(user.last_active().map(|_| user.p_alive(at, rule))));
        }
        record.insert("previous_since".into(), text(user.state.map(|_| user.since)));
        record
    }
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds of any real span are below 2^53")]
fn days(millis: i64) -> f64 {
    millis as f64 / DAY_MS as f64
}

fn text(time: Option<i64>) -> Value {
    json!(time.map(|time| EventTime::from_millis(time).to_string()))
}

//! One user: everything that is remembered, and the rules that change it (SPEC sections 1, 2, 3 and 6).

use crate::event::Event;
use crate::lifecycle::activity::Activity;
use crate::lifecycle::dedup::id_hash;
use crate::lifecycle::name::Name;
use crate::lifecycle::policy::Policy;
use crate::lifecycle::transition::{Change, Kind, Reason, Sink, State};
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
    /// When the present absence began: the first transition to lapsed or churned after being active or at risk
    /// (SPEC-WINBACK section 10). `Some` exactly while lapsed or churned.
    pub absent_since: Option<EventTime>,
    /// Events that counted as activity.
    pub total_events: u64,
    /// Core actions.
    pub core_actions: u64,
    /// Names of the latest activities, newest last, at most [`LAST_EVENTS`].
    pub last_events: Vec<Name>,
    /// Activity by day: the windows of the declining rule, and the number of active days.
    pub activity: Activity,
}

/// What time did to a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a user who is gone has to be deleted"]
pub enum Fate {
    /// Still known.
    Stays,
    /// Forgotten: delete the record, the timer and the current state.
    Gone,
}

/// What became of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Activity, counted.
    Counted,
    /// No activity: only tracked properties were updated.
    PropertiesOnly,
    /// Activity older than the user's last activity or last transition, counted.
    Late,
    /// An id among the user's last [`RECENT_IDS`]: dropped.
    Duplicate,
}

impl User {
    /// Lets time pass: takes every deadline at or before `to`, in order. A user without a life, or whose next deadline is
    /// later, stays as it is.
    ///
    /// On [`Fate::Gone`] the user has been emptied after the sink saw it, `generation` and `armed` excepted.
    pub fn advance(&mut self, user_id: &str, to: EventTime, policy: &Policy, sink: &mut impl Sink) -> Fate {
        while let Some(life) = &mut self.life {
            let Some(step) = life.next_step(policy).filter(|step| step.at <= to) else { break };
            if let Some(state) = step.to {
                let change = life.enter(state, Kind::Worsened, step.reason, step.at);
                self.report(user_id, change, sink);
            } else {
                let change = life.leave(Kind::Forgotten, step.reason, step.at);
                self.report(user_id, change, sink);
                self.clear();
                return Fate::Gone;
            }
        }
        Fate::Stays
    }

    /// Applies one event (SPEC sections 1 and 2): drops a duplicate, lets time pass up to the event, updates the tracked
    /// properties, and counts the activity.
    ///
    /// Time passes for an event that is no activity too: what was due before it shows the properties of before it,
    /// whether or not another user's event has moved the shard's watermark so far already.
    ///
    /// When time forgets the user on the way, the event begins a new user, as it would had the timer fired first.
    pub fn record(&mut self, event: &Event<'_>, policy: &Policy, sink: &mut impl Sink) -> Outcome {
        let id = event.id.as_deref().map(id_hash);
        if self.has_seen(id) {
            return Outcome::Duplicate;
        }
        let late = self.life.as_ref().is_some_and(|life| event.time < life.last_active.max(life.since));
        if !late {
            // A user forgotten here is empty now, which is just what a user unknown to us would be.
            let (Fate::Stays | Fate::Gone) = self.advance(&event.user_id, event.time, policy, sink);
        }
        self.remember_id(id);
        self.set_properties(event);
        if !event.roles.activity {
            return Outcome::PropertiesOnly;
        }
        let change = match &mut self.life {
            None => {
                let (life, change) = Life::begin(event, policy);
                self.life = Some(life);
                Some(change)
            }
            Some(life) if late => life.count_late(event, policy),
            Some(life) => life.count(event, policy),
        };
        if let Some(change) = change {
            self.report(&event.user_id, change, sink);
        }
        if late { Outcome::Late } else { Outcome::Counted }
    }

    /// Whether [`record`](Self::record) would drop this event as a duplicate.
    #[must_use]
    pub fn is_duplicate(&self, event: &Event<'_>) -> bool {
        self.has_seen(event.id.as_deref().map(id_hash))
    }

    fn has_seen(&self, id: Option<u64>) -> bool {
        id.is_some_and(|id| self.recent_ids.contains(&id))
    }

    /// The earliest moment at which time alone changes the user; `None` if it never does. Costs O(window).
    #[must_use]
    pub fn next_deadline(&self, policy: &Policy) -> Option<EventTime> {
        self.life.as_ref()?.next_step(policy).map(|step| step.at)
    }

    /// Deletes the user on request (SPEC section 6), as of `at` or of the user's last change if that is later. The
    /// sink sees the user without properties; afterwards it is empty, `generation` and `armed` excepted, and the caller
    /// deletes it.
    pub fn delete(&mut self, user_id: &str, at: EventTime, sink: &mut impl Sink) {
        self.properties.clear();
        let change = match &self.life {
            Some(life) => life.leave(Kind::Deleted, Reason::Request, life.not_before_known(at)),
            None => Change {
                seq: 0,
                from: None,
                to: None,
                kind: Kind::Deleted,
                reason: Reason::Request,
                effective_at: at,
                previous_since: None,
                away_since: None,
            },
        };
        self.report(user_id, change, sink);
        self.clear();
    }

    /// Judges the user once by a changed policy, as of `at` or of the user's last change if that is later (SPEC section
    /// 7). To be called before the first [`advance`](Self::advance) or [`record`](Self::record) with the new policy:
    /// those would date its deadlines back.
    pub fn rejudge(&mut self, user_id: &str, at: EventTime, policy: &Policy, sink: &mut impl Sink) {
        let Some(life) = &mut self.life else { return };
        let at = life.not_before_known(at);
        let (state, _) = life.judge(at, policy);
        let kind = match state.cmp(&life.state) {
            std::cmp::Ordering::Equal => return,
            std::cmp::Ordering::Greater => Kind::Worsened,
            std::cmp::Ordering::Less => Kind::Corrected,
        };
        let change = life.enter(state, kind, Reason::PolicyChanged, at);
        self.report(user_id, change, sink);
    }

    /// The probability that the user is alive as of `at`; `None` without a survival rule or a life.
    #[must_use]
    pub fn p_alive(&self, at: EventTime, policy: &Policy) -> Option<f64> {
        let (life, survival) = (self.life.as_ref()?, policy.survival.as_ref()?);
        Some(survival.p_alive(life.history(), (at - life.first_active).as_days()))
    }

    /// Days with a fraction from the last activity to `at`; `None` without a life.
    #[must_use]
    pub fn idle_days(&self, at: EventTime) -> Option<f64> {
        self.life.as_ref().map(|life| (at - life.last_active).as_days())
    }

    /// Numbers a change and hands it on.
    fn report(&mut self, user_id: &str, change: Change, sink: &mut impl Sink) {
        self.seq += 1;
        sink.change(user_id, self, &Change { seq: self.seq, ..change });
    }

    fn clear(&mut self) {
        *self = Self { generation: self.generation, armed: self.armed, ..Self::default() };
    }

    fn remember_id(&mut self, id: Option<u64>) {
        let Some(id) = id else { return };
        if self.recent_ids.len() >= RECENT_IDS {
            self.recent_ids.drain(..=self.recent_ids.len() - RECENT_IDS);
        }
        self.recent_ids.push(id);
    }

    fn set_properties(&mut self, event: &Event<'_>) {
        for (index, value) in &event.tracked {
            match self.properties.binary_search_by_key(index, |(known, _)| *known) {
                Ok(at) if *self.properties[at].1 == **value => {}
                Ok(at) => self.properties[at].1 = Box::from(&**value),
                Err(at) => self.properties.insert(at, (*index, Box::from(&**value))),
            }
        }
    }
}

impl Life {
    /// The first activity.
    fn begin(event: &Event<'_>, policy: &Policy) -> (Self, Change) {
        let at = event.time;
        let life = Self {
            state: State::Active,
            since: at,
            reason: Reason::Activity,
            first_active: at,
            last_active: at,
            activated_at: event.roles.activation.then_some(at),
            absent_since: None,
            total_events: 1,
            core_actions: u64::from(event.roles.core),
            last_events: vec![event.shared_name()],
            activity: Activity::first(at.day(), policy.declining.as_ref()),
        };
        let change = Change {
            seq: 0,
            from: None,
            to: Some(State::Active),
            kind: Kind::Entered,
            reason: Reason::Activity,
            effective_at: at,
            previous_since: None,
            away_since: None,
        };
        (life, change)
    }

    /// Activity at or after everything known of the user, who has been advanced to it.
    fn count(&mut self, event: &Event<'_>, policy: &Policy) -> Option<Change> {
        let kind = match self.state {
            State::Active => {
                self.add(event, policy);
                return None;
            }
            State::AtRisk => {
                self.add(event, policy);
                let today = event.time.day();
                let held =
                    policy.declining.is_some_and(|rule| self.activity.declines(today, &rule, rule.recover_ratio));
                if held {
                    return None;
                }
                Kind::Recovered
            }
            State::Lapsed | State::Churned => {
                self.activity.restart();
                self.add(event, policy);
                Kind::Reactivated
            }
        };
        Some(self.enter(State::Active, kind, Reason::Activity, event.time))
    }

    /// Activity older than the last activity or the last transition. It improves the state only by proving that the
    /// last transition was wrong.
    fn count_late(&mut self, event: &Event<'_>, policy: &Policy) -> Option<Change> {
        let proves_presence = event.time > self.last_active;
        self.add(event, policy);
        if !proves_presence {
            return None;
        }
        let (state, _) = self.judge(self.since, policy);
        (state < self.state).then(|| self.enter(state, Kind::Corrected, Reason::LateEvent, self.since))
    }

    /// Adds an activity to the totals and to its day. The first and the last activity, and the activation, are the
    /// earliest and latest by event time, in whatever order they arrive.
    fn add(&mut self, event: &Event<'_>, policy: &Policy) {
        let at = event.time;
        self.activity.count(at.day(), self.first_active.day(), policy.declining.as_ref());
        self.total_events += 1;
        self.core_actions += u64::from(event.roles.core);
        if event.roles.activation {
            self.activated_at = Some(self.activated_at.map_or(at, |known| known.min(at)));
        }
        if at >= self.last_active {
            self.add_name(event);
        }
        self.first_active = self.first_active.min(at);
        self.last_active = self.last_active.max(at);
    }

    fn add_name(&mut self, event: &Event<'_>) {
        if self.last_events.len() < LAST_EVENTS {
            self.last_events.push(event.shared_name());
            return;
        }
        self.last_events.rotate_left(1);
        if let Some(oldest) = self.last_events.last_mut().filter(|oldest| ***oldest != *event.name) {
            *oldest = event.shared_name();
        }
    }

    /// Enters a state. The change gets its number when it is reported.
    fn enter(&mut self, to: State, kind: Kind, reason: Reason, at: EventTime) -> Change {
        let change = Change {
            seq: 0,
            from: Some(self.state),
            to: Some(to),
            kind,
            reason,
            effective_at: at,
            previous_since: Some(self.since),
            away_since: self.absent_since.filter(|_| kind == Kind::Reactivated),
        };
        self.absent_since = (to >= State::Lapsed).then(|| self.absent_since.unwrap_or(at));
        self.state = to;
        self.since = at;
        self.reason = reason;
        change
    }

    /// The user's end.
    fn leave(&self, kind: Kind, reason: Reason, at: EventTime) -> Change {
        Change {
            seq: 0,
            from: Some(self.state),
            to: None,
            kind,
            reason,
            effective_at: at,
            previous_since: Some(self.since),
            away_since: None,
        }
    }

    /// `at`, or the latest thing known of the user when that is later: nothing is reported as having happened before.
    fn not_before_known(&self, at: EventTime) -> EventTime {
        at.max(self.since).max(self.last_active)
    }
}

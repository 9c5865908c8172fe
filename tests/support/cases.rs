//! Random cases for the model tests: a policy, and what happens to a few users under it. A case is a pure function of
//! its seed.

use std::collections::BTreeMap;
use std::fmt;

use ebbtide::event::{Decoder, EventList, EventRules};
use ebbtide::lifecycle::Policy;
use ebbtide::lifecycle::State;
use ebbtide::lifecycle::policy::{Declining, Survival};
use ebbtide::rules::{Origin, Rules};
use ebbtide::segment::Draft;
use ebbtide::shard::watermark::TimeRules;
use ebbtide::time::{DAY_MS, EventTime, Span};
use ebbtide::win_back::{Holdout, WinBackRules};
use rand::{RngExt as _, SeedableRng as _, seq::IndexedRandom as _};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use super::measured::{CONDITIONS, Measuring};
use super::model::{Input, ModelEvent, Session};

const HOUR_MS: i64 = 3_600_000;
/// 2024-01-01, where the cases begin.
const BEGIN_MS: i64 = 1_704_067_200_000;
const TRACK: [&str; 3] = ["plan", "seats", "größe"];
const STEPS_MAX: usize = 48;
/// No event comes later than this: Ebbtide counts the active days of the past exactly for 64 days only, and beyond that
/// P(alive) may leave out a day.
const LATE_MAX_MS: i64 = 60 * DAY_MS;

/// One thing that happens, in order.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// A record of the input, received at a wall time.
    Input(Input, i64),
    /// The partition is read to its end and wall time has come so far.
    Pass(i64),
    /// A restart with another policy.
    Policy(Policy),
    /// A restart with other segments.
    Segments(Vec<Draft>),
}

/// What may happen in a case.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "four independent switches")]
pub(crate) struct Shape {
    /// Events arrive in order of time, all users together; nobody asks to be deleted, which has no time of its own.
    pub(crate) ordered: bool,
    /// The policy may change.
    pub(crate) policies: bool,
    /// Time may pass without events.
    pub(crate) passes: bool,
    /// There are segments, which may be redefined, and campaigns.
    pub(crate) segments: bool,
}

/// A policy and a history.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) policy: Policy,
    pub(crate) time: TimeRules,
    /// The configuration names no activation and no core event.
    pub(crate) default_roles: bool,
    pub(crate) measuring: Measuring,
    pub(crate) steps: Vec<Step>,
}

impl Case {
    pub(crate) fn new(seed: u64, shape: Shape) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut policy = random_policy(&mut rng);
        let lateness =
            if shape.ordered { 0 } else { *[0, 10_000, HOUR_MS, 2 * DAY_MS].choose(&mut rng).expect("some") };
        let time = TimeRules {
            lateness: Span::from_millis(lateness),
            idle_after: Span::from_millis(5_000),
            silence_guard: rng.random_bool(0.3).then_some(Span::from_days(rng.random_range(1..20))),
        };
        let default_roles = rng.random_bool(0.3);
        let first_policy = policy.clone();
        let mut segments = if shape.segments { random_segments(&mut rng) } else { Vec::new() };
        let holdout = rng.random_bool(0.5).then(|| Holdout::new(0.5, "salt").expect("a share"));
        let window = Span::from_millis(*[0, DAY_MS, 5 * DAY_MS].choose(&mut rng).expect("some"));
        let rules = WinBackRules { window, holdout };
        let measuring = Measuring { segments: segments.clone(), rules };
        let users: Vec<String> = (0..rng.random_range(1..=4))
            .map(|number| ["u", "ü-", "a b:", "\"q\\"][number].repeat(number + 1))
            .collect();
        let late_share = if shape.ordered { 0.0 } else { *[0.0, 0.1, 0.35].choose(&mut rng).expect("some") };
        let mut history: Vec<ModelEvent> = Vec::new();
        let mut steps = Vec::new();
        let (mut clock, mut wall, mut ids) = (BEGIN_MS + rng.random_range(0..DAY_MS), BEGIN_MS, 0);
        for _ in 0..rng.random_range(3..=STEPS_MAX) {
            let user = users.choose(&mut rng).expect("a user").clone();
            clock = next_moment(&mut rng, clock, &user, &policy, &history);
            wall = wall.max(clock + rng.random_range(0..2_000));
            match rng.random_range(0..100) {
                0..2 if shape.policies => {
                    policy = change_policy(&mut rng, &policy);
                    steps.push(Step::Policy(policy.clone()));
                }
                89..93 if shape.segments => {
                    segments = change_segments(&mut rng, segments);
                    steps.push(Step::Segments(segments.clone()));
                }
                2..7 if shape.passes => {
                    wall += rng.random_range(0..3 * DAY_MS);
                    clock = clock.max(wall);
                    steps.push(Step::Pass(wall));
                }
                7..9 if !shape.ordered => steps.push(Step::Input(Input::Deletion { user }, wall)),
                9..16 if !shape.ordered => {
                    let recent: Vec<_> = history.iter().filter(|event| clock - event.time <= LATE_MAX_MS).collect();
                    if let Some(again) = recent.choose(&mut rng) {
                        steps.push(Step::Input(Input::Event((*again).clone()), wall));
                    }
                }
                _ => {
                    let mut time = clock;
                    if rng.random_bool(late_share) {
                        let by = *[lateness * 2, 2 * DAY_MS, 20 * DAY_MS, LATE_MAX_MS].choose(&mut rng).expect("some");
                        time -= rng.random_range(0..=by);
                    }
                    ids += 1;
                    let id = rng.random_bool(0.7).then(|| format!("id-{ids}"));
                    let mut event = random_event(&mut rng, user, time, id, default_roles);
                    if shape.segments && rng.random_bool(0.2) {
                        event = session(&mut rng, event, default_roles);
                    }
                    history.push(event.clone());
                    steps.push(Step::Input(Input::Event(event), wall));
                }
            }
        }
        Self { policy: first_policy, time, default_roles, measuring, steps }
    }

    /// The same rules as Ebbtide takes them.
    pub(crate) fn rules(&self, policy: &Policy) -> Rules {
        self.rules_with(policy, &self.measuring.segments)
    }

    /// The same, with other segments.
    pub(crate) fn rules_with(&self, policy: &Policy, segments: &[Draft]) -> Rules {
        let list = |name: &str| EventList::of_names([name]).expect("a pattern");
        let roles = EventRules {
            ignore: list("profile"),
            activation: (!self.default_roles).then(|| list("activate*")),
            core: (!self.default_roles).then(|| list("core")),
            win_back: Some(EventList::of_names(["session", "profile"]).expect("patterns")),
            campaign: Some("campaign".to_owned()),
            track: TRACK.map(str::to_owned).to_vec(),
            ..EventRules::default()
        };
        Rules {
            policy: policy.clone(),
            decoder: Decoder::new(roles).expect("good rules"),
            time: self.time.clone(),
            track: TRACK.map(str::to_owned).to_vec(),
            segments: segments.to_vec(),
            win_back: self.measuring.rules.clone(),
            retention: Vec::new(),
            signals: false,
            origin: Origin::default(),
        }
    }
}

/// One line a step, so that a failing case can be read.
impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = |time: i64| EventTime::from_millis(time);
        writeln!(f, "{:?}\n{:?}\n{:?}", self.policy, self.time, self.measuring)?;
        for (number, step) in self.steps.iter().enumerate() {
            write!(f, "{number:3} ")?;
            match step {
                Step::Input(Input::Event(event), wall) => {
                    let ModelEvent { user, name, time, id, properties, win_back, .. } = event;
                    let properties = json!(properties);
                    writeln!(f, "{} {user} {name} at {} id {id:?} {properties} {win_back:?}", at(*wall), at(*time))?;
                }
                Step::Input(Input::Deletion { user }, wall) => writeln!(f, "{} delete {user}", at(*wall))?,
                Step::Pass(wall) => writeln!(f, "{} passes", at(*wall))?,
                Step::Policy(policy) => writeln!(f, "{policy:?}")?,
                Step::Segments(segments) => writeln!(f, "{segments:?}")?,
            }
        }
        Ok(())
    }
}

/// The record's key and value in the native format.
pub(crate) fn record(input: &Input) -> (Vec<u8>, Option<Vec<u8>>) {
    match input {
        Input::Event(event) => (event.user.clone().into_bytes(), Some(native(event))),
        Input::Deletion { user } => (user.clone().into_bytes(), None),
    }
}

/// The record's value in the native format.
pub(crate) fn native(event: &ModelEvent) -> Vec<u8> {
    let mut record = json!({ "user_id": event.user, "event": event.name, "time": event.time });
    if let Some(id) = &event.id {
        record["id"] = json!(id);
    }
    let mut properties = json!(event.properties);
    if let Some(campaign) = event.win_back.as_ref().and_then(|session| session.campaign.as_ref()) {
        properties["campaign"] = json!(campaign);
    }
    if properties != json!({}) {
        record["properties"] = properties;
    }
    serde_json::to_vec(&record).expect("JSON")
}

fn random_event(rng: &mut ChaCha8Rng, user: String, time: i64, id: Option<String>, default_roles: bool) -> ModelEvent {
    let name = *["visit", "visit", "core", "core", "activate_plan", "profile"].choose(rng).expect("some");
    let activity = name != "profile";
    let mut properties = BTreeMap::new();
    for name in TRACK {
        if rng.random_bool(0.15) {
            let value = match rng.random_range(0..5) {
                0 => json!(rng.random_range(-3..100)),
                1 => json!(["pro", "größer \"x\"", ""].choose(rng).expect("some")),
                2 => json!(rng.random_bool(0.5)),
                3 => Value::Null,
                _ => json!({ "a": [1, { "b": "c" }] }),
            };
            properties.insert(name.to_owned(), value);
        }
    }
    ModelEvent {
        user,
        name: name.to_owned(),
        time,
        id,
        activity,
        activation: activity && (default_roles || name.starts_with("activate")),
        core: activity && (default_roles || name == "core"),
        // Named by the role too, but what is ignored has no role (SPEC section 1).
        win_back: None,
        properties,
    }
}

/// The same event as a session that a campaign brought.
fn session(rng: &mut ChaCha8Rng, event: ModelEvent, default_roles: bool) -> ModelEvent {
    let campaign = rng.random_bool(0.7).then(|| (*["spring", "autumn"].choose(rng).expect("some")).to_owned());
    ModelEvent {
        name: "session".to_owned(),
        activity: true,
        activation: default_roles,
        core: default_roles,
        win_back: Some(Session { campaign }),
        ..event
    }
}

fn random_segments(rng: &mut ChaCha8Rng) -> Vec<Draft> {
    let count = rng.random_range(0..6);
    (0..count).map(|number| random_segment(rng, format!("s{number}"))).collect()
}

fn random_segment(rng: &mut ChaCha8Rng, name: String) -> Draft {
    let states = State::ALL.into_iter().filter(|_| rng.random_bool(0.4)).collect();
    let idle_from = rng.random_bool(0.4).then(|| rng.random_range(0..40 * 24) * HOUR_MS);
    let length = rng.random_range(1..30 * 24) * HOUR_MS;
    let idle_to = rng.random_bool(0.4).then(|| idle_from.unwrap_or(0) + length);
    Draft {
        name,
        states,
        activated: rng.random_bool(0.3).then(|| rng.random_bool(0.5)),
        core_min: rng.random_bool(0.2).then(|| rng.random_range(0..4)),
        core_max: rng.random_bool(0.2).then(|| rng.random_range(4..9)),
        idle_from: idle_from.map(Span::from_millis),
        idle_to: idle_to.map(Span::from_millis),
        when: rng.random_bool(0.3).then(|| (*CONDITIONS.choose(rng).expect("some")).to_owned()),
    }
}

/// Some are gone, some are changed, one is new, and the order is another.
fn change_segments(rng: &mut ChaCha8Rng, old: Vec<Draft>) -> Vec<Draft> {
    let mut new: Vec<Draft> = Vec::new();
    for draft in old {
        match rng.random_range(0..4) {
            0 => {}
            1 => new.push(random_segment(rng, draft.name)),
            _ => new.push(draft),
        }
    }
    let name = format!("s{}", rng.random_range(0..6));
    if new.iter().all(|draft| draft.name != name) {
        new.push(random_segment(rng, name));
    }
    if !new.is_empty() && rng.random_bool(0.5) {
        new.rotate_left(1);
    }
    new
}

/// Mostly a random step ahead; sometimes exactly where something happens, or a millisecond beside it.
fn next_moment(rng: &mut ChaCha8Rng, clock: i64, user: &str, policy: &Policy, history: &[ModelEvent]) -> i64 {
    let random = clock
        + match rng.random_range(0..20) {
            0 => 0,
            1..9 => rng.random_range(0..12 * HOUR_MS),
            9..15 => rng.random_range(0..3 * DAY_MS),
            15..19 => rng.random_range(0..20 * DAY_MS),
            _ => rng.random_range(0..120 * DAY_MS),
        };
    if rng.random_bool(0.85) {
        return random;
    }
    let last = history.iter().filter(|event| event.user == user && event.activity).map(|event| event.time).max();
    let exact = match (last, rng.random_range(0..5)) {
        (Some(last), 0) => last + policy.inactive_after.unwrap_or(policy.lapsed_after).as_millis(),
        (Some(last), 1) => last + policy.lapsed_after.as_millis(),
        (Some(last), 2) => last + policy.churned_after.as_millis(),
        (Some(last), 3) => last + policy.forget_after.unwrap_or(policy.churned_after).as_millis(),
        _ => (random.div_euclid(DAY_MS) + 1) * DAY_MS,
    };
    (exact + rng.random_range(-1..=1)).max(clock)
}

fn random_policy(rng: &mut ChaCha8Rng) -> Policy {
    if rng.random_bool(0.2) {
        return Policy { forget_after: rng.random_bool(0.5).then(|| Span::from_days(120)), ..Policy::default() };
    }
    let unit = *[HOUR_MS, DAY_MS, DAY_MS, DAY_MS].choose(rng).expect("some");
    let mut threshold = 0;
    let mut further = |rng: &mut ChaCha8Rng, least: i64, most: i64| {
        let odd = if rng.random_bool(0.2) { rng.random_range(0..unit) } else { 0 };
        threshold += rng.random_range(least..most) * unit + odd;
        Span::from_millis(threshold)
    };
    let inactive_after = rng.random_bool(0.7).then(|| further(rng, 1, 15));
    // Equal thresholds are allowed: the more severe state wins.
    let lapsed_after = further(rng, i64::from(inactive_after.is_none()), 15);
    let churned_after = further(rng, 0, 40);
    let forget_after = rng.random_bool(0.4).then(|| further(rng, 1, 60));
    Policy {
        inactive_after,
        declining: rng.random_bool(0.75).then(|| random_declining(rng)),
        survival: rng.random_bool(0.4).then(|| random_survival(rng)),
        lapsed_after,
        churned_after,
        forget_after,
    }
}

fn random_declining(rng: &mut ChaCha8Rng) -> Declining {
    let decline_ratio = *[0.0, 0.25, 0.5, 0.8, 1.0].choose(rng).expect("some");
    Declining {
        window_days: *[1, 2, 3, 7, 14, 30].choose(rng).expect("some"),
        decline_ratio,
        recover_ratio: decline_ratio + (1.0 - decline_ratio) * *[0.0, 0.5, 1.0].choose(rng).expect("some"),
        min_baseline: rng.random_range(1..5),
    }
}

fn random_survival(rng: &mut ChaCha8Rng) -> Survival {
    Survival {
        r: rng.random_range(0.1..2.0),
        alpha: rng.random_range(0.5..20.0),
        a: rng.random_range(0.2..2.0),
        b: rng.random_range(0.5..3.0),
        threshold: rng.random_bool(0.8).then(|| rng.random_range(0.05..0.95)),
        min_repeat: rng.random_range(0..4),
    }
}

/// Another policy with the same windows: how many days of the past a larger window still knows is not for SPEC to say.
fn change_policy(rng: &mut ChaCha8Rng, old: &Policy) -> Policy {
    let mut new = random_policy(rng);
    new.declining = old.declining.map(|old| Declining { window_days: old.window_days, ..random_declining(rng) });
    new
}

//! Segments, attribution, returns and lift once more, written from SPEC-WINBACK alone: the model keeps every fact it ever
//! saw and counts all of them anew whenever it is asked.

use std::collections::{BTreeMap, BTreeSet};

use ebbtide::lifecycle::State;
use ebbtide::segment::Draft;
use ebbtide::shard::Aggregates;
use ebbtide::shard::aggregates::{Arms, KEPT_DAYS};
use ebbtide::time::{DAY_MS, Day, EventTime};
use ebbtide::win_back::{ReturnsCurve, WinBackRules};
use serde_json::{Value, json};

/// Free conditions; [`Seen::holds`] says by hand what each of them says of a user.
pub(crate) const CONDITIONS: [&str; 4] = [
    r#"properties.plan == "pro""#,
    "properties.seats > 3",
    "core_actions % 2 == 0 && total_events > 2",
    r#"state == "churned" || last_events[0] == "core""#,
];
const RETURN_WITHIN_MS: i64 = 30 * DAY_MS;

/// How the model segments and measures.
#[derive(Clone, Debug, Default)]
pub(crate) struct Measuring {
    pub(crate) segments: Vec<Draft>,
    pub(crate) rules: WinBackRules,
}

/// One user as the conditions see it.
pub(crate) struct Seen<'a> {
    pub(crate) state: Option<State>,
    pub(crate) activated: bool,
    pub(crate) core_actions: u64,
    pub(crate) total_events: u64,
    pub(crate) last_active: Option<i64>,
    pub(crate) last_events: Vec<&'a str>,
    pub(crate) properties: &'a BTreeMap<String, Value>,
}

/// What the model remembers of a user's segments.
#[derive(Clone, Debug, Default)]
pub(crate) struct Membership {
    pub(crate) members: BTreeSet<String>,
    /// Nothing is said any more of what was before.
    pub(crate) as_of: i64,
    seq: u64,
    /// The latest entry that counts, by segment; a place in [`Facts::entries`].
    entries: BTreeMap<String, usize>,
    /// The latest return; a place in [`Facts::returns`].
    comeback: Option<usize>,
}

#[derive(Clone, Debug)]
struct Return {
    at: i64,
    away_from: State,
    campaign: Option<String>,
    /// When, and whether it was a core action.
    activity: Vec<(i64, bool)>,
}

#[derive(Clone, Debug)]
struct Entry {
    segment: String,
    at: i64,
    held_out: bool,
    returned: bool,
}

/// Everything that ever happened.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    returns: Vec<Return>,
    entries: Vec<Entry>,
    /// Segment records without `detected_at` and without the user's record.
    pub(crate) moves: Vec<Value>,
    /// Attributions, with the fields that say something.
    pub(crate) outcomes: Vec<Value>,
}

/// All that is counted, as of one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Counted {
    sizes: BTreeMap<String, u64>,
    returns: BTreeMap<(i32, &'static str, Option<String>), ReturnsCurve>,
    campaigns: BTreeMap<String, u64>,
    arms: BTreeMap<String, Arms>,
}

impl Seen<'_> {
    /// Everything but idle time and the free condition.
    fn may_be_in(&self, draft: &Draft) -> bool {
        let Some(state) = self.state else { return false };
        (draft.states.is_empty() || draft.states.contains(&state))
            && draft.activated.is_none_or(|wanted| wanted == self.activated)
            && draft.core_min.is_none_or(|min| self.core_actions >= min)
            && draft.core_max.is_none_or(|max| self.core_actions <= max)
    }

    fn is_in(&self, draft: &Draft, at: i64) -> bool {
        let Some(last) = self.last_active else { return false };
        let idle = at - last;
        self.may_be_in(draft)
            && draft.idle_from.is_none_or(|from| idle >= from.as_millis())
            && draft.idle_to.is_none_or(|to| idle < to.as_millis())
            && draft.when.as_deref().is_none_or(|when| self.holds(when))
    }

    fn holds(&self, when: &str) -> bool {
        let place = CONDITIONS.iter().position(|known| *known == when).expect("one of the conditions");
        match place {
            0 => self.properties.get("plan") == Some(&json!("pro")),
            1 => self.properties.get("seats").and_then(Value::as_f64).is_some_and(|seats| seats > 3.0),
            2 => self.core_actions.is_multiple_of(2) && self.total_events > 2,
            _ => self.state == Some(State::Churned) || self.last_events.first() == Some(&"core"),
        }
    }

    /// The first idle bound after `after` that may change something.
    pub(crate) fn next_bound(&self, segments: &[Draft], after: i64) -> Option<i64> {
        let last = self.last_active?;
        let open = segments.iter().filter(|draft| self.may_be_in(draft));
        let bounds = open.flat_map(|draft| [draft.idle_from, draft.idle_to]).flatten();
        bounds.map(|bound| last + bound.as_millis()).filter(|at| *at > after).min()
    }
}

impl Facts {
    /// Judges a user as of a moment, or as of the last judgement if that is later; says whether something changed.
    pub(crate) fn judge(
        &mut self,
        (id, seen, membership): (&str, &Seen<'_>, &mut Membership),
        at: i64,
        cause: &str,
        measuring: &Measuring,
    ) -> bool {
        if measuring.segments.is_empty() {
            return false;
        }
        membership.as_of = membership.as_of.max(at);
        let at = membership.as_of;
        let before = membership.members.clone();
        let belongs = |draft: &&Draft| seen.is_in(draft, at);
        let left = measuring.segments.iter().filter(|draft| before.contains(&draft.name) && !belongs(draft));
        for draft in left {
            self.leave(id, membership, &draft.name, at, cause, measuring);
        }
        let joined = measuring.segments.iter().filter(|draft| !before.contains(&draft.name) && belongs(draft));
        for Draft { name, .. } in joined {
            membership.members.insert(name.clone());
            self.say((id, membership), (name, "entered"), at, cause, measuring);
            let latest = membership.entries.get(name).map(|place| self.entries[*place].at);
            if latest.is_none_or(|latest| at >= latest + RETURN_WITHIN_MS) {
                membership.entries.insert(name.clone(), self.entries.len());
                let held_out = measuring.rules.holds_out(id);
                self.entries.push(Entry { segment: name.clone(), at, held_out, returned: false });
            }
        }
        before != membership.members
    }

    /// The user is out of a segment.
    pub(crate) fn leave(
        &mut self,
        id: &str,
        membership: &mut Membership,
        name: &str,
        at: i64,
        cause: &str,
        measuring: &Measuring,
    ) {
        membership.members.remove(name);
        self.say((id, membership), (name, "exited"), at, cause, measuring);
    }

    /// Other segments are defined now: what is no more is left, and its entry forgotten. Says whether something was left.
    pub(crate) fn redefine(
        &mut self,
        id: &str,
        membership: &mut Membership,
        old: &[Draft],
        at: i64,
        measuring: &Measuring,
    ) -> bool {
        let defined = |name: &str| measuring.segments.iter().any(|draft| draft.name == name);
        let at = at.max(membership.as_of);
        let before = membership.members.len();
        for draft in old.iter().filter(|draft| !defined(&draft.name)) {
            if membership.members.contains(&draft.name) {
                self.leave(id, membership, &draft.name, at, "definition_changed", measuring);
            }
        }
        membership.entries.retain(|name, _| defined(name));
        membership.members.len() != before
    }

    fn say(
        &mut self,
        (id, membership): (&str, &mut Membership),
        (segment, action): (&str, &str),
        at: i64,
        cause: &str,
        measuring: &Measuring,
    ) {
        membership.seq += 1;
        let mut record = json!({
            "id": format!("{id}:segments:{}", membership.seq),
            "seq": membership.seq,
            "user_id": id,
            "segment": segment,
            "action": action,
            "cause": cause,
            "effective_at": EventTime::from_millis(at).to_string(),
        });
        if measuring.rules.holds_out(id) {
            record["holdout"] = json!(true);
        }
        self.moves.push(record);
    }

    /// The user is back, from being away or (`None`) at risk.
    pub(crate) fn is_back(&mut self, membership: &mut Membership, at: i64, away_from: Option<State>) {
        if let Some(away_from) = away_from {
            membership.comeback = Some(self.returns.len());
            self.returns.push(Return { at, away_from, campaign: None, activity: Vec::new() });
        }
        for place in membership.entries.values() {
            let entry = &mut self.entries[*place];
            entry.returned |= at <= entry.at + RETURN_WITHIN_MS;
        }
    }

    /// An event was taken: `activity` says whether it is one, and a core action; `campaign` whether it is a win-back
    /// session, and which campaign it names.
    pub(crate) fn witness(
        &mut self,
        (id, membership): (&str, &Membership),
        at: i64,
        activity: Option<bool>,
        campaign: Option<&Option<String>>,
        measuring: &Measuring,
    ) {
        let Some(comeback) = membership.comeback else { return };
        let comeback = &mut self.returns[comeback];
        if at < comeback.at {
            return;
        }
        comeback.activity.extend(activity.map(|core| (at, core)));
        let in_time = at - comeback.at <= measuring.rules.window.as_millis();
        let Some(campaign) = campaign.filter(|_| in_time && comeback.campaign.is_none()) else { return };
        let name = campaign.clone().unwrap_or_else(|| "unknown".to_owned());
        let mut record = json!({
            "user_id": id,
            "campaign": name,
            "effective_at": EventTime::from_millis(at).to_string(),
            "returned_at": EventTime::from_millis(comeback.at).to_string(),
            "away_from": comeback.away_from.as_str(),
        });
        if measuring.rules.holds_out(id) {
            record["holdout"] = json!(true);
        }
        self.outcomes.push(record);
        comeback.campaign = Some(name);
    }

    /// Counts everything as of a watermark; `memberships` are those of all users.
    pub(crate) fn count<'m>(&self, memberships: impl Iterator<Item = &'m Membership>, watermark: i64) -> Counted {
        let mut counted = Counted::default();
        for name in memberships.flat_map(|membership| &membership.members) {
            *counted.sizes.entry(name.clone()).or_default() += 1;
        }
        let day = |at: i64| i32::try_from(at.div_euclid(DAY_MS)).expect("a day of our age");
        let kept = |at: i64| day(at) >= day(watermark) - KEPT_DAYS;
        for comeback in &self.returns {
            if let Some(campaign) = &comeback.campaign {
                *counted.campaigns.entry(campaign.clone()).or_default() += 1;
            }
            if !kept(comeback.at) {
                continue;
            }
            let group = (day(comeback.at), comeback.away_from.as_str(), comeback.campaign.clone());
            let curve = counted.returns.entry(group).or_default();
            curve.returned += 1;
            for (k, active) in (1..).zip(&mut curve.active) {
                let day = comeback.at + k * DAY_MS..comeback.at + (k + 1) * DAY_MS;
                *active += u64::from(comeback.activity.iter().any(|(at, _)| day.contains(at)));
            }
            let within = comeback.at..comeback.at + 30 * DAY_MS;
            let core = comeback.activity.iter().filter(|(at, core)| *core && within.contains(at)).count();
            curve.first_core += u64::from(core >= 1);
            curve.second_core += u64::from(core >= 2);
        }
        for entry in &self.entries {
            let over = (entry.at.div_euclid(DAY_MS) + 1) * DAY_MS + RETURN_WITHIN_MS;
            if kept(entry.at) && over <= watermark {
                let arms = counted.arms.entry(entry.segment.clone()).or_default();
                let arm = if entry.held_out { &mut arms.held_out } else { &mut arms.treated };
                arm.users += 1;
                arm.returned += u64::from(entry.returned);
            }
        }
        counted
    }
}

impl Counted {
    /// What a shard has counted; `names` are all segments that there ever were.
    pub(crate) fn of(aggregates: &Aggregates, names: &BTreeSet<String>, watermark: EventTime) -> Self {
        let kept_from = Day::from_number(watermark.day().number().saturating_sub(KEPT_DAYS));
        let kept = aggregates.returns().into_iter().filter(|returns| returns.day >= kept_from);
        let arms = |name: &String| (name.clone(), aggregates.arms(name, Some(kept_from), watermark));
        let size = |name: &String| (name.clone(), aggregates.size(name));
        Self {
            sizes: names.iter().map(size).filter(|(_, size)| *size > 0).collect(),
            returns: kept
                .map(|returns| {
                    let campaign = returns.campaign.map(String::from);
                    ((returns.day.number(), returns.away_from.as_str(), campaign), returns.curve)
                })
                .collect(),
            campaigns: aggregates.campaigns().map(|(name, count)| (name.to_owned(), count)).collect(),
            arms: names.iter().map(arms).filter(|(_, arms)| *arms != Arms::default()).collect(),
        }
    }
}

//! Retention and signals against a recount (issue 3, "What it must show", 1): random users, late events, duplicates,
//! deletions, forgetting, roll-backs, restarts, restores from the changelog and changed definitions. At every checked
//! moment the aggregates equal what a plain count over all users gives: retention over every event that was taken, signals
//! over every user as it is.
//!
//! A failure names its seed; `EBBTIDE_SEED=n` runs it alone.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use chrono::{DateTime, Datelike as _, Days};
use ebbtide::event::{Decoder, EventList, EventRules, Record, ReportLists};
use ebbtide::lifecycle::{Policy, State};
use ebbtide::retention::{Period, Report};
use ebbtide::rules::{Origin, Rules};
use ebbtide::segment::Draft;
use ebbtide::shard::{Effects, Progress, RecordOutcome, Shard, ShardRecord, TimeRules, Topic, restore_batch};
use ebbtide::signals::Group;
use ebbtide::store::memory::MemoryStore;
use ebbtide::store::{Store as _, codec};
use ebbtide::time::{DAY_MS, EventTime, Span, WallTime};
use ebbtide::win_back::WinBackRules;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

const CASES: u64 = 400;
const STEPS: usize = 120;
/// 2024-01-01.
const BEGIN_MS: i64 = 1_704_067_200_000;
/// The shortest report reaches six days: what comes later than that for its user's newest event it need not place.
const LATE_MAX_MS: i64 = 5 * DAY_MS;
const NAMES: [&str; 4] = ["Signup", "Visit", "Project Created", "Help"];

fn report(name: &str, start: &str, back: &str, period: Period, count: u8) -> Report {
    let list = |name: &str| EventList::of_names([name]).expect("a pattern");
    Report { name: name.to_owned(), start: list(start), back: list(back), period, count }
}

/// Definitions that a restart may choose from.
fn reports(choice: u8) -> Vec<Report> {
    let weekly = report("weekly", "Project*", "*", Period::Week, 3);
    let daily = report("daily", "*", "Visit", Period::Day, 5);
    match choice {
        0 => vec![weekly, daily],
        1 => vec![daily],
        2 => vec![report("weekly", "Signup", "*", Period::Week, 3), daily],
        _ => vec![report("monthly", "*", "Help", Period::Month, 2), weekly],
    }
}

fn rules(choice: u8, signals: bool, segments: usize) -> Arc<Rules> {
    let track = vec!["plan".to_owned(), "seats".to_owned()];
    let retention = reports(choice);
    let lists = retention.iter().map(|report| ReportLists { start: report.start.clone(), back: report.back.clone() });
    let events = EventRules {
        track: track.clone(),
        activation: Some(EventList::of_names(["Project Created"]).expect("a pattern")),
        reports: lists.collect(),
        ..EventRules::default()
    };
    let draft = |name: &str| Draft { name: name.to_owned(), ..Draft::default() };
    let all = [
        Draft { states: vec![State::Churned], ..draft("gone") },
        Draft { idle_from: Some(Span::from_days(3)), idle_to: Some(Span::from_days(9)), ..draft("recent") },
        Draft { when: Some("properties.plan == 'pro'".to_owned()), ..draft("pro") },
    ];
    Arc::new(Rules {
        policy: Policy { forget_after: Some(Span::from_days(120)), ..Policy::default() },
        decoder: Decoder::new(events).expect("the rules are sound"),
        time: TimeRules { lateness: Span::from_millis(DAY_MS), ..TimeRules::default() },
        track,
        segments: all[..segments].to_vec(),
        win_back: WinBackRules::default(),
        retention,
        signals,
        origin: Origin::default(),
    })
}

/// Every event that was taken of a user who is still known: name, time, and how many were taken before it in all.
type Taken = BTreeMap<String, Vec<(String, i64, usize)>>;

/// The plain count.
#[derive(Clone, Default)]
struct Plain {
    taken: Taken,
    recent_ids: BTreeMap<String, VecDeque<String>>,
    count: usize,
    /// From which event on each definition counts.
    since: BTreeMap<String, usize>,
}

impl Plain {
    /// Cohort's first day as text, then size and retained.
    fn matrix(&self, report: &Report) -> BTreeMap<String, Vec<u64>> {
        let since = self.since[&report.frozen()];
        let (length, matches) = match report.period {
            Period::Day => (DAY_MS, 1),
            Period::Week => (7 * DAY_MS, 7),
            Period::Month => (30 * DAY_MS, 30),
        };
        assert_eq!(length / DAY_MS, matches);
        let fits = |list: &EventList, name: &str| {
            list.patterns().iter().any(|pattern| {
                let text = pattern.to_string();
                text.strip_suffix('*').map_or(text == name, |stem| name.starts_with(stem))
            })
        };
        let mut matrix = BTreeMap::new();
        for events in self.taken.values() {
            let counted = || events.iter().filter(|event| event.2 >= since);
            let starts = counted().filter(|event| fits(&report.start, &event.0)).map(|event| event.1);
            let Some(start) = starts.min() else { continue };
            let day = DateTime::from_timestamp_millis(start).expect("a date").date_naive();
            let cohort = match report.period {
                Period::Day => day,
                Period::Week => day - Days::new(u64::from(day.weekday().num_days_from_monday())),
                Period::Month => day.with_day(1).expect("the first"),
            };
            let row = matrix.entry(cohort.to_string()).or_insert_with(|| vec![0_u64; usize::from(report.count) + 2]);
            row[0] += 1;
            for k in 0..=report.count {
                let from = start + i64::from(k) * length;
                let back = |at: i64| at > start && (from..from + length).contains(&at);
                let is_back = counted().any(|event| fits(&report.back, &event.0) && back(event.1));
                row[usize::from(k) + 1] += u64::from(is_back);
            }
        }
        matrix
    }

    /// A definition that is new counts from here on, one that is gone is forgotten.
    fn define(&mut self, rules: &Rules) {
        let defined: Vec<String> = rules.retention.iter().map(Report::frozen).collect();
        self.since.retain(|frozen, _| defined.contains(frozen));
        for frozen in defined {
            self.since.entry(frozen).or_insert(self.count);
        }
    }

    fn take(&mut self, user: &str, name: &str, at: i64, id: &str, gone: bool) {
        let ids = self.recent_ids.entry(user.to_owned()).or_default();
        assert!(!ids.contains(&id.to_owned()), "a duplicate is not taken");
        ids.push_back(id.to_owned());
        if ids.len() > 16 {
            ids.pop_front();
        }
        if !gone {
            self.taken.entry(user.to_owned()).or_default().push((name.to_owned(), at, self.count));
        }
        self.count += 1;
    }

    fn gone(&mut self, users: Vec<String>) {
        for user in users {
            self.taken.remove(&user);
            self.recent_ids.remove(&user);
        }
    }
}

/// What the users of a store show, counted one by one: by group, dimension and value.
fn recount(shard: &Shard<MemoryStore>) -> BTreeMap<(String, String, String), u64> {
    let record = shard.store().shard().expect("reads").0.expect("it was committed");
    let record = ShardRecord::decode(&record).expect("a record");
    let mut counts = BTreeMap::new();
    for (_, bytes) in shard.store().scan(None, usize::MAX).expect("reads") {
        let person = codec::decode_user(&bytes, &record.names).expect("a user");
        let Some(life) = &person.user.life else { continue };
        let names = record.roster.names(person.user.generation);
        let mut groups = vec![life.state.as_str().to_owned()];
        groups.extend(person.standing.members.iter().map(|index| format!("segment {}", names[index])));
        let last: Vec<&str> = life.last_events.iter().rev().take(3).rev().map(|name| &**name).collect();
        let core = match life.core_actions {
            0..=2 => life.core_actions.to_string(),
            few if few < 10 => "3-9".to_owned(),
            _ => "10+".to_owned(),
        };
        let mut shown = vec![
            ("last_event".to_owned(), (*last.last().expect("an event")).to_owned()),
            ("last_three_events".to_owned(), last.join("\u{1f}")),
            ("activated".to_owned(), life.activated_at.is_some().to_string()),
            ("core_actions".to_owned(), core),
        ];
        for (index, value) in &person.user.properties {
            shown.push((format!("property {}", record.properties[usize::from(*index)]), value.to_string()));
        }
        for group in groups {
            for (dimension, value) in &shown {
                *counts.entry((group.clone(), dimension.clone(), value.clone())).or_insert(0) += 1;
            }
        }
    }
    counts
}

fn counted(shard: &mut Shard<MemoryStore>, rules: &Rules) -> BTreeMap<(String, String, String), u64> {
    let mut all = BTreeMap::new();
    let states = State::ALL.map(Group::State);
    let segments = rules.segments.iter().map(|segment| Group::Segment(segment.name.as_str().into()));
    for group in states.into_iter().chain(segments) {
        let counts = shard.aggregates().signals(&group);
        assert!(counts.other.is_empty());
        let name = match &group {
            Group::State(state) => state.as_str().to_owned(),
            Group::Segment(name) => format!("segment {name}"),
        };
        for (dimension, values) in counts.values {
            let dimension = match &dimension {
                ebbtide::signals::Dimension::Property(name) => format!("property {name}"),
                other => other.as_str().to_owned(),
            };
            for (value, users) in values {
                all.insert((name.clone(), dimension.clone(), value.to_string()), users);
            }
        }
    }
    all
}

#[test]
fn aggregates_equal_a_recount_at_every_checked_moment() {
    if let Ok(seed) = std::env::var("EBBTIDE_SEED") {
        return case(seed.parse().expect("a number"));
    }
    (0..CASES).for_each(case);
}

fn case(seed: u64) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let (mut choice, mut signals, mut segments) =
        (rng.random_range(0..4), rng.random_bool(0.7), rng.random_range(0..=3));
    let mut now_rules = rules(choice, signals, segments);
    let mut shard = Shard::open(0, Arc::clone(&now_rules), MemoryStore::new(), 1).expect("opens");
    let mut plain = Plain::default();
    plain.define(&now_rules);
    let (mut committed, mut changelog, mut effects) = (plain.clone(), Vec::new(), Effects::default());
    let (mut clock, mut committed_clock, mut offset) = (BEGIN_MS, BEGIN_MS, 0_i64);
    let mut checked = 0;
    for step in 0..STEPS {
        let user = format!("u{}", rng.random_range(0..6));
        clock += match rng.random_range(0..12) {
            0 => rng.random_range(0..40) * DAY_MS,
            1..4 => rng.random_range(0..3) * DAY_MS,
            _ => rng.random_range(0..12) * 3_600_000,
        };
        let late = if rng.random_bool(0.25) { rng.random_range(0..LATE_MAX_MS) } else { 0 };
        let at = clock - late;
        let name = NAMES[rng.random_range(0..NAMES.len())];
        let recent = plain.recent_ids.get(&user).and_then(|ids| ids.back().cloned());
        let id = recent.filter(|_| rng.random_bool(0.15)).unwrap_or_else(|| format!("{step}-{offset}"));
        let plan = ["\"pro\"", "\"free\"", "1"][rng.random_range(0..3)];
        let value = format!(
            r#"{{"user_id":"{user}","event":"{name}","time":{at},"id":"{id}","properties":{{"plan":{plan}}}}}"#
        );
        let deletion = rng.random_bool(0.03);
        let record =
            Record { key: Some(user.as_bytes()), value: (!deletion).then_some(value.as_bytes()), headers: &[], offset };
        offset += 1;
        effects.clear();
        let now = WallTime::from_millis(clock);
        shard.apply(&[record], now, &mut effects).expect("applies");
        // In the order in which it came about: what the user's own time did before the event, and after it.
        plain.gone(leaves(&effects));
        let is_gone = ends_gone(&effects, &user);
        if !deletion && effects.counts.records(RecordOutcome::Duplicate) == 0 {
            plain.take(&user, name, at, &id, is_gone);
        }
        effects.clear();
        while shard.advance(now, rng.random_bool(0.3), 50, &mut effects).expect("advances") == Progress::More {}
        plain.gone(leaves(&effects));

        match rng.random_range(0..10) {
            0 => {
                shard.rollback().expect("rolls back");
                plain = committed.clone();
                plain.define(&now_rules);
                clock = committed_clock;
            }
            1..5 => {
                let sealed = shard.seal().expect("seals");
                changelog.extend(sealed.changelog.iter().cloned());
                let position = i64::try_from(changelog.len()).expect("few");
                shard.committed(sealed, position).expect("commits");
                (committed, committed_clock) = (plain.clone(), clock);
            }
            _ => {}
        }
        if rng.random_bool(0.05) {
            // A restart loses what was not committed; from its own store, or from the changelog alone.
            let mut store = shard.store().clone();
            if rng.random_bool(0.5) {
                store = MemoryStore::new();
                for chunk in changelog.chunks(7) {
                    let records = chunk.iter().map(|record| (&*record.key, record.value.as_deref()));
                    let batch = restore_batch(&store, records, 0).expect("restores");
                    store.write(batch).expect("writes");
                }
            }
            (plain, clock) = (committed.clone(), committed_clock);
            if rng.random_bool(0.6) {
                (choice, signals, segments) = (rng.random_range(0..4), rng.random_bool(0.6), rng.random_range(0..=3));
            }
            now_rules = rules(choice, signals, segments);
            plain.define(&now_rules);
            shard = Shard::open(0, Arc::clone(&now_rules), store, 1).expect("opens");
            effects.clear();
            let now = WallTime::from_millis(clock);
            while shard.advance(now, false, 50, &mut effects).expect("advances") == Progress::More {}
            plain.gone(leaves(&effects));
        }
        for (index, report) in now_rules.retention.iter().enumerate() {
            let found: BTreeMap<String, Vec<u64>> = shard
                .retention(index)
                .map(|(cohort, mut counts)| {
                    counts.resize(usize::from(report.count) + 2, 0);
                    (cohort.start().to_string()[..10].to_owned(), counts)
                })
                .collect();
            assert_eq!(found, plain.matrix(report), "seed {seed}, step {step}, {}", report.name);
        }
        if shard.pending().users == 0 && !shard.pending().record && changelog.len() > 1 {
            let expected = if signals { recount(&shard) } else { BTreeMap::new() };
            assert_eq!(counted(&mut shard, &now_rules), expected, "seed {seed}, step {step}");
            checked += 1;
        }
    }
    assert!(checked > 3, "seed {seed}: signals were checked {checked} times");
}

/// What the transitions among the effects say, in order.
fn transitions(effects: &Effects) -> impl DoubleEndedIterator<Item = Value> {
    let outputs = effects.outputs.iter().filter(|output| output.topic == Topic::Transitions);
    outputs.map(|output| serde_json::from_slice(output.value.as_deref().expect("a record")).expect("JSON"))
}

/// Users who left for good; one who comes back later in the same effects has left all the same.
fn leaves(effects: &Effects) -> Vec<String> {
    let left = transitions(effects).filter(|record| record["to"].is_null());
    left.map(|record| record["user_id"].as_str().expect("text").to_owned()).collect()
}

/// Whether the user's last transition, if there is one, was out.
fn ends_gone(effects: &Effects, user: &str) -> bool {
    transitions(effects).rfind(|record| record["user_id"] == user).is_some_and(|record| record["to"].is_null())
}

/// The unit of everything above, said once more by itself.
#[test]
fn a_late_a_moves_a_user_to_an_earlier_cohort_in_the_shard_too() {
    let rules = rules(1, false, 0);
    let mut shard = Shard::open(0, rules, MemoryStore::new(), 1).expect("opens");
    let mut effects = Effects::default();
    for (offset, day) in (0..).zip([3, 4, 1]) {
        let at = BEGIN_MS + day * DAY_MS;
        let value = format!(r#"{{"user_id":"u","event":"Visit","time":{at}}}"#);
        let record = Record { key: None, value: Some(value.as_bytes()), headers: &[], offset };
        shard.apply(&[record], WallTime::from_millis(BEGIN_MS + 5 * DAY_MS), &mut effects).expect("applies");
    }
    let cohorts: Vec<_> = shard.retention(0).collect();
    let first = EventTime::from_millis(BEGIN_MS + DAY_MS).day();
    assert_eq!(cohorts, [(first, vec![1, 0, 0, 1, 1])]);
}

//! The segments' promises: tables for definitions and conditions, and properties against a walk over every hour.

use std::borrow::Cow;

use proptest::prelude::*;

use super::condition::Failed;
use super::*;
use crate::event::{Event, ReportRoles, Roles};
use crate::lifecycle::user::{Fate, Outcome};
use crate::lifecycle::{Change, Sink, State};

const HOUR_MS: i64 = 3_600_000;

fn hour(hours: i64) -> EventTime {
    EventTime::from_millis(hours * HOUR_MS)
}

fn hours(hours: i64) -> Span {
    Span::from_millis(hours * HOUR_MS)
}

fn track() -> Vec<String> {
    ["plan", "seats", "trial", "tags"].map(str::to_owned).to_vec()
}

fn named(name: &str) -> Draft {
    Draft { name: name.to_owned(), ..Draft::default() }
}

fn event(at: EventTime, tracked: &[(u16, &'static str)]) -> Event<'static> {
    Event {
        user_id: Cow::Borrowed("u"),
        name: Cow::Borrowed("Visit"),
        time: at,
        id: None,
        roles: Roles { activity: true, activation: false, core: true, win_back: false },
        reports: ReportRoles::default(),
        campaign: None,
        tracked: tracked.iter().map(|(index, text)| (*index, Cow::Borrowed(*text))).collect(),
        refused: 0,
        listed_name: None,
    }
}

fn user(tracked: &[(u16, &'static str)]) -> User {
    let mut user = User::default();
    let _ = user.record(&event(hour(0), tracked), &Policy::default(), &mut Vec::new());
    user
}

fn holds(source: &str, user: &User) -> Result<bool, Failed> {
    let condition = Condition::new(source, &track()).unwrap_or_else(|problem| panic!("{source}: {problem}"));
    let life = user.life.as_ref().expect("the user has a life");
    let policy = Policy::default();
    let subject = Subject { user_id: "u", user, life, at: hour(24 * 40), policy: &policy };
    let answer = condition.holds(&subject);
    assert_eq!(answer, condition.interpret(&subject), "{source}: the short cut and the interpreter differ");
    answer
}

#[test]
fn conditions_read_the_whole_record() {
    let user = user(&[(0, r#""pro""#), (1, "5"), (2, "true"), (3, r#"["a","b"]"#)]);
    let table = [
        (r#"properties.plan == "pro""#, Ok(true)),
        (r#""pro" == properties.plan && properties.trial == true"#, Ok(true)),
        (r#"properties.plan == "pro" && properties.trial == false"#, Ok(false)),
        (r#"properties["plan"] == "pro""#, Ok(true)),
        (r#"properties.plan == "free" || properties.seats >= 5"#, Ok(true)),
        ("properties.seats == 5.0", Ok(true)),
        (r#""b" in properties.tags"#, Ok(true)),
        (r#"properties.tags.exists(t, t.startsWith("a"))"#, Ok(true)),
        ("has(properties.plan) && !has(properties.city)", Ok(true)),
        (r#"user_id == "u" && state == "active""#, Ok(true)),
        ("!activated && core_actions == 1 && total_events < 2", Ok(true)),
        ("idle_days == 40", Ok(true)),
        (r#"first_active_at < timestamp("1970-01-02T00:00:00Z")"#, Ok(true)),
        ("last_active_at == first_active_at", Ok(true)),
        (r#"last_events[0] == "Visit""#, Ok(true)),
        (r#"properties.plan.matches("^p.o$")"#, Ok(true)),
        // A missing property, a type error, no boolean at all: false, and counted.
        (r#"properties.city == "Oslo""#, Err(Failed)),
        ("properties.plan > 5", Err(Failed)),
        ("properties.plan", Err(Failed)),
        ("core_actions / 0 == 1", Err(Failed)),
        ("p_alive > 0.5", Err(Failed)),
        // CEL's `&&` is false when one side is, whatever became of the other.
        (r#"properties.city == "Oslo" && properties.plan == "free""#, Ok(false)),
    ];
    for (source, expected) in table {
        assert_eq!(holds(source, &user), expected, "{source}");
    }
}

#[test]
fn escapes_in_a_property_are_the_characters_that_they_stand_for() {
    let user = user(&[(0, r#""pr\u006f""#)]);
    assert_eq!(holds(r#"properties.plan == "pro""#, &user), Ok(true));
    assert_eq!(holds(r#"properties.plan == "free""#, &user), Ok(false));
}

#[test]
fn a_condition_that_can_never_be_meant_is_refused() {
    let deep = format!("{}true{}", "(".repeat(3000), ")".repeat(3000));
    let bangs = format!("{}true", "!".repeat(4000));
    for source in ["plan == 'pro'", "properties.plan ==", "", "now() > 5 &&", &deep, &bangs, &" ".repeat(5000)] {
        assert!(Condition::new(source, &track()).is_err(), "{source}");
    }
    let problem = Condition::new("stat == 'active'", &track()).expect_err("unknown");
    assert!(problem.contains("`stat` is unknown") && problem.contains("state"), "{problem}");
}

#[test]
fn every_problem_of_a_definition_is_named() {
    let drafts = vec![
        named("fine"),
        Draft { core_min: Some(3), core_max: Some(2), when: Some("nonsense +".to_owned()), ..named("no name") },
        Draft { idle_from: Some(hours(5)), idle_to: Some(hours(5)), ..named("b") },
        named("fine"),
    ];
    let problems = Segments::new(drafts, &track()).expect_err("problems");
    let keys: Vec<(usize, &str)> = problems.iter().map(|(index, problem)| (*index, problem.key)).collect();
    assert_eq!(keys, [(1, "name"), (1, "core_actions"), (1, "when"), (2, "idle"), (3, "name")]);
    let many = (0..=SEGMENTS_MAX).map(|i| named(&format!("s{i}"))).collect();
    assert!(Segments::new(many, &track()).is_err());
    let most = (0..SEGMENTS_MAX).map(|i| named(&format!("s{i}"))).collect();
    let all = Segments::new(most, &track()).expect("as many as there may be");
    let verdict = all.judge("u", &user(&[]), hour(1), &Policy::default());
    assert_eq!(verdict.members.iter().count(), SEGMENTS_MAX);
}

#[test]
fn conditions_on_elapsed_time_and_unknown_properties_are_warned_about() {
    let warnings = |when: &str| {
        let draft = Draft { when: Some(when.to_owned()), ..named("s") };
        Definition::new(draft, &track()).expect("a definition").warnings().to_vec()
    };
    assert!(warnings("idle_days > 3")[0].contains("idle"));
    assert!(warnings("p_alive < 0.5")[0].contains("p_alive"));
    assert!(warnings("has(properties.city)")[0].contains("properties.city"));
    assert_eq!(warnings("core_actions > 3"), Vec::<String>::new());
}

#[test]
fn idle_bounds_include_their_start_and_not_their_end() {
    let draft = Draft { idle_from: Some(hours(30)), idle_to: Some(hours(60)), ..named("recent") };
    let segments = Segments::new(vec![draft], &track()).expect("a segment");
    let (user, policy) = (user(&[]), Policy::default());
    let member = |at| segments.judge("u", &user, at, &policy).members.contains(0);
    let millis = EventTime::from_millis;
    assert_eq!([member(millis(30 * HOUR_MS - 1)), member(hour(30))], [false, true]);
    assert_eq!([member(millis(60 * HOUR_MS - 1)), member(hour(60))], [true, false]);
    assert_eq!(segments.next_change(&user, hour(0)), Some(hour(30)));
    assert_eq!(segments.next_change(&user, hour(30)), Some(hour(60)));
    assert_eq!(segments.next_change(&user, hour(60)), None);
}

#[test]
fn the_fingerprint_is_frozen_and_sees_every_change() {
    let of = |draft: Draft| Segments::new(vec![draft], &track()).expect("a segment").fingerprint();
    assert_eq!(Segments::default().fingerprint(), 0);
    let base = Draft { states: vec![State::Churned, State::Lapsed], ..named("s") };
    let same = Draft { states: vec![State::Lapsed, State::Churned, State::Lapsed], ..base.clone() };
    assert_eq!(of(base.clone()), of(same));
    let mut seen: Vec<u64> = [
        base.clone(),
        named("s"),
        named("t"),
        Draft { activated: Some(true), ..base.clone() },
        Draft { core_min: Some(1), ..base.clone() },
        Draft { core_max: Some(1), ..base.clone() },
        Draft { idle_from: Some(hours(1)), ..base.clone() },
        Draft { idle_to: Some(hours(1)), ..base.clone() },
        Draft { when: Some("activated".to_owned()), ..base },
    ]
    .map(of)
    .to_vec();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 9);
}

/// What was reported: of a move its segment, action, moment, number and cause.
#[derive(Debug, Default, PartialEq)]
struct Log {
    changes: Vec<Change>,
    moves: Vec<(String, Action, EventTime, u64, Cause)>,
    failures: u32,
}

impl Sink for Log {
    fn change(&mut self, _: &str, _: &User, change: &Change) {
        self.changes.push(*change);
    }
}

impl SegmentSink for Log {
    fn moved(&mut self, _: &str, _: &User, moved: &Move<'_>) {
        let Move { segment, action, effective_at, seq, cause } = *moved;
        self.moves.push((segment.to_owned(), action, effective_at, seq, cause));
    }

    fn failed(&mut self, _: Members) {
        self.failures += 1;
    }

    fn settled(&mut self, _: &str, _: &User, _: &Standing) {}
}

/// The three of the SPEC that move by state, by time and by both.
fn shipped() -> Segments {
    let drafts = vec![
        Draft { states: vec![State::Churned], core_min: Some(1), ..named("high_value_churned") },
        Draft { states: vec![State::Churned], activated: Some(false), ..named("never_activated_churned") },
        Draft { idle_from: Some(Span::from_days(30)), idle_to: Some(Span::from_days(60)), ..named("recent") },
    ];
    Segments::new(drafts, &track()).expect("segments")
}

#[test]
fn a_user_enters_and_leaves_by_time_and_leaves_on_return() {
    let (policy, segments) = (Policy::default(), shipped());
    let live = Live { policy: &policy, segments: &segments };
    let (mut user, mut standing, mut log) = (User::default(), Standing::default(), Log::default());
    let day = |days: i64| hour(24 * days);
    let _ = live.record(&event(day(0), &[]), &mut user, &mut standing, &mut log);
    // One step over everything: each move has its own moment all the same.
    assert_eq!(live.advance("u", &mut user, &mut standing, day(100), &mut log), Fate::Stays);
    let _ = live.record(&event(day(101), &[]), &mut user, &mut standing, &mut log);
    let of = |name: &str, action, at, seq, cause| (name.to_owned(), action, at, seq, cause);
    let expected = [
        of("recent", Action::Entered, day(30), 1, Cause::Transition(3)),
        of("recent", Action::Exited, day(60), 2, Cause::Time),
        of("high_value_churned", Action::Entered, day(90), 3, Cause::Transition(4)),
        of("never_activated_churned", Action::Entered, day(90), 4, Cause::Transition(4)),
        of("high_value_churned", Action::Exited, day(101), 5, Cause::Transition(5)),
        of("never_activated_churned", Action::Exited, day(101), 6, Cause::Transition(5)),
    ];
    assert_eq!(log.moves, expected);
}

/// An activity of day 20 comes after the entry of day 30: the entry was wrong from its own moment on, and nothing is dated
/// before what was already said.
#[test]
fn a_late_event_takes_an_entry_back_as_of_the_entry() {
    let (policy, segments) = (Policy::default(), shipped());
    let live = Live { policy: &policy, segments: &segments };
    let (mut user, mut standing, mut log) = (User::default(), Standing::default(), Log::default());
    let day = |days: i64| hour(24 * days);
    let _ = live.record(&event(day(0), &[]), &mut user, &mut standing, &mut log);
    let _ = live.advance("u", &mut user, &mut standing, day(40), &mut log);
    let _ = live.record(&event(day(20), &[]), &mut user, &mut standing, &mut log);
    let _ = live.advance("u", &mut user, &mut standing, day(55), &mut log);
    let moves: Vec<(Action, EventTime)> = log.moves.iter().map(|(_, action, at, ..)| (*action, *at)).collect();
    assert_eq!(moves, [(Action::Entered, day(30)), (Action::Exited, day(30)), (Action::Entered, day(50))]);
}

#[test]
fn deletion_leaves_every_segment() {
    let (policy, segments) = (Policy::default(), shipped());
    let live = Live { policy: &policy, segments: &segments };
    let (mut user, mut standing, mut log) = (User::default(), Standing::default(), Log::default());
    let _ = live.record(&event(hour(0), &[]), &mut user, &mut standing, &mut log);
    let _ = live.advance("u", &mut user, &mut standing, hour(24 * 95), &mut log);
    log.moves.clear();
    live.delete("u", &mut user, &mut standing, hour(24 * 95), &mut log);
    let left: Vec<(&str, Action, Cause)> =
        log.moves.iter().map(|(name, action, .., cause)| (&**name, *action, *cause)).collect();
    let exit = |name| (name, Action::Exited, Cause::Deleted);
    assert_eq!(left, [exit("high_value_churned"), exit("never_activated_churned")]);
    assert_eq!(standing, Standing::default());
}

/// Found by the model, seed 3289: a second copy of the returning event let the deadline of that very moment pass.
#[test]
fn a_duplicate_lets_no_time_pass() {
    let policy = Policy { inactive_after: Some(hours(1)), ..Policy::default() };
    let live = Live { policy: &policy, segments: &Segments::default() };
    let (mut user, mut standing, mut log) = (User::default(), Standing::default(), Log::default());
    let _ = live.record(&event(hour(0), &[]), &mut user, &mut standing, &mut log);
    let again = |at| Event { id: Some(Cow::Borrowed("once")), ..event(at, &[]) };
    let _ = live.record(&again(hour(0)), &mut user, &mut standing, &mut log);
    let before = (user.clone(), log.changes.len());
    assert_eq!(live.record(&again(hour(48)), &mut user, &mut standing, &mut log), Outcome::Duplicate);
    assert_eq!((user, log.changes.len()), before);
}

#[test]
fn redefining_reports_the_difference_by_name() {
    let policy = Policy::default();
    let old = Segments::new(vec![named("gone"), named("kept"), named("narrowed")], &track()).expect("segments");
    let narrowed = Draft { core_min: Some(99), ..named("narrowed") };
    let new = Segments::new(vec![named("added"), narrowed, named("kept")], &track()).expect("segments");
    let mut roster = Roster::default();
    roster.begin(1, old.definitions().iter().map(Definition::name)).expect("room");
    roster.begin(2, new.definitions().iter().map(Definition::name)).expect("room");
    let (mut user, mut standing, mut log) = (User::default(), Standing::default(), Log::default());
    let _ = Live { policy: &policy, segments: &old }.record(&event(hour(0), &[]), &mut user, &mut standing, &mut log);
    log.moves.clear();
    let live = Live { policy: &policy, segments: &new };
    live.rejudge("u", &user, &mut standing, 1, &roster, hour(7), &mut log);
    let moves: Vec<(&str, Action)> = log.moves.iter().map(|(name, action, ..)| (&**name, *action)).collect();
    assert_eq!(moves, [("gone", Action::Exited), ("narrowed", Action::Exited), ("added", Action::Entered)]);
    assert!(log.moves.iter().all(|(_, _, at, _, cause)| (*at, *cause) == (hour(7), Cause::DefinitionChanged)));
    assert_eq!(new.names(standing.members).collect::<Vec<_>>(), ["added", "kept"]);
    roster.settled();
    assert_eq!((roster.names(1).len(), roster.names(2).len()), (0, 3));
}

fn drafts() -> impl Strategy<Value = Vec<Draft>> {
    let whens = prop_oneof![
        3 => Just(None),
        1 => Just(Some(r#"properties.plan == "pro""#)),
        1 => Just(Some("properties.seats > 3")),
        1 => Just(Some(r#"core_actions % 2 == 0 && properties.plan != "pro""#)),
    ];
    let idle = prop_oneof![
        2 => Just((None, None)),
        3 => (0i64..2400, 1i64..1200).prop_map(|(from, length)| (Some(hours(from)), Some(hours(from + length)))),
        1 => (0i64..2400).prop_map(|from| (Some(hours(from)), None)),
        1 => (1i64..2400).prop_map(|to| (None, Some(hours(to)))),
    ];
    let states = proptest::sample::subsequence(State::ALL.to_vec(), 0..=4);
    let one = (states, proptest::option::of(any::<bool>()), proptest::option::of(0u64..4), idle, whens);
    let draft = one.prop_map(|(states, activated, core_min, (idle_from, idle_to), when)| Draft {
        name: String::new(),
        states,
        activated,
        core_min,
        core_max: None,
        idle_from,
        idle_to,
        when: when.map(str::to_owned),
    });
    proptest::collection::vec(draft, 1..6).prop_map(|drafts| {
        let numbered = drafts.into_iter().enumerate();
        numbered.map(|(index, draft)| Draft { name: format!("s{index}"), ..draft }).collect()
    })
}

/// Gaps in hours, and what an event sets.
fn history() -> impl Strategy<Value = Vec<(i64, usize)>> {
    proptest::collection::vec((prop_oneof![0i64..30, 300i64..2600], 0usize..4), 1..8)
}

const SETS: [&[(u16, &str)]; 4] = [&[], &[(0, r#""pro""#)], &[(0, r#""free""#), (1, "4")], &[(1, r#""x""#)]];

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Every move happens at the very hour at which a walk over all hours first sees it, in however many steps time is
    /// let pass.
    #[test]
    fn moves_are_those_of_a_walk_over_every_hour(
        drafts in drafts(), history in history(), steps in proptest::collection::vec(0i64..20_000, 0..12),
    ) {
        let policy = Policy::default();
        let segments = Segments::new(drafts, &track()).expect("segments");
        let mut events = Vec::new();
        let mut at = 0;
        for (gap, sets) in history {
            at += gap;
            events.push((at, event(hour(at), SETS[sets])));
        }
        let end = at + 2500;

        let live = Live { policy: &policy, segments: &segments };
        let (mut user, mut standing, mut log) = (User::default(), Standing::default(), Log::default());
        for (index, (at, event)) in events.iter().enumerate() {
            let _ = live.record(event, &mut user, &mut standing, &mut log);
            let next = events.get(index + 1).map_or(end, |(next, _)| *next);
            let mut stops: Vec<i64> = steps.iter().copied().filter(|stop| (*at..next).contains(stop)).collect();
            stops.sort_unstable();
            for stop in stops {
                let _ = live.advance("u", &mut user, &mut standing, hour(stop), &mut log);
            }
        }
        let _ = live.advance("u", &mut user, &mut standing, hour(end), &mut log);

        let mut walked = Vec::new();
        let (mut naive, mut members) = (User::default(), Members::NONE);
        let mut judge = |naive: &User, at: i64| {
            let now = segments.judge("u", naive, hour(at), &policy).members;
            walked.extend(members.without(now).iter().map(|i| (i, Action::Exited, hour(at))));
            walked.extend(now.without(members).iter().map(|i| (i, Action::Entered, hour(at))));
            members = now;
        };
        for at in 0..=end {
            let _ = naive.advance("u", hour(at), &policy, &mut Vec::new());
            judge(&naive, at);
            for (_, event) in events.iter().filter(|(when, _)| *when == at) {
                let _ = naive.record(event, &policy, &mut Vec::new());
                judge(&naive, at);
            }
        }
        let moved: Vec<_> = log
            .moves
            .iter()
            .map(|(name, action, at, ..)| (segments.position(name).expect("defined"), *action, *at))
            .collect();
        prop_assert_eq!(moved, walked);
        prop_assert_eq!(standing.members, members);
        let seqs: Vec<u64> = log.moves.iter().map(|(.., seq, _)| *seq).collect();
        prop_assert_eq!(&seqs, &(1..=seqs.len() as u64).collect::<Vec<_>>());
    }

    /// Between one boundary and the next a membership cannot change.
    #[test]
    fn membership_is_constant_between_boundaries(drafts in drafts(), sets in 0usize..4, probes in proptest::collection::vec(0f64..1.0, 8)) {
        let policy = Policy::default();
        let segments = Segments::new(drafts, &track()).expect("segments");
        let user = user(SETS[sets]);
        let end = hour(6000);
        let mut from = hour(0);
        while from < end {
            let to = segments.next_change(&user, from).unwrap_or(end);
            prop_assert!(to > from);
            let expected = segments.judge("u", &user, from, &policy);
            for probe in &probes {
                let length = (to - from).as_millis() - 1;
                #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "below 2^53")]
                let inside = from + Span::from_millis((length as f64 * probe) as i64);
                prop_assert_eq!(segments.judge("u", &user, inside, &policy), expected);
            }
            from = to;
        }
    }
}

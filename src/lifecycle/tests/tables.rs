//! One table or story for every rule of SPEC sections 2, 3, 5 and 6, for events in order.

use super::{activity, day, later, life, line, lines, lived, noons, survival, then};
use crate::event::{Event, Roles};
use crate::lifecycle::policy::Declining;
use crate::lifecycle::{Change, Fate, Kind, Outcome, Policy, Reason, Sink, State, User};
use crate::time::{EventTime, Span};

#[test]
fn silence_worsens_at_the_exact_moments() {
    let (_, changes) = lived(&Policy::default(), &[0.25], 200.0);
    assert_eq!(
        lines(&changes),
        [
            "->active entered activity @0.25",
            "active>at_risk worsened inactive @14.25",
            "at_risk>lapsed worsened inactive @30.25",
            "lapsed>churned worsened inactive @90.25",
        ]
    );
    assert_eq!(changes.iter().map(|change| change.seq).collect::<Vec<_>>(), [1, 2, 3, 4]);
    let since: Vec<_> = changes.iter().map(|change| change.previous_since).collect();
    assert_eq!(since, [None, Some(day(0.25)), Some(day(14.25)), Some(day(30.25))]);
}

#[test]
fn a_threshold_is_inclusive() {
    let policy = Policy::default();
    let (mut user, _) = lived(&policy, &[0.0], 0.0);
    let mut changes = Vec::new();
    let just_before = day(14.0) - Span::from_millis(1);
    assert_eq!(user.advance("ada", just_before, &policy, &mut changes), Fate::Stays);
    assert!(changes.is_empty());
    assert_eq!(user.next_deadline(&policy), Some(day(14.0)));
    assert_eq!(later(&mut user, 14.0, &policy), ["active>at_risk worsened inactive @14"]);
}

#[test]
fn conditions_that_first_hold_together_make_one_transition_the_most_severe() {
    let all_at_once = Policy {
        inactive_after: Some(Span::from_days(30)),
        lapsed_after: Span::from_days(30),
        churned_after: Span::from_days(30),
        ..Policy::default()
    };
    let (_, changes) = lived(&all_at_once, &[0.0], 100.0);
    assert_eq!(lines(&changes[1..]), ["active>churned worsened inactive @30"]);

    // Inactive and declining both first hold at midnight of day 28: the order of reasons decides.
    let eight_days = Policy { inactive_after: Some(Span::from_days(8)), ..Policy::default() };
    let midnights: Vec<f64> = (0..=20).map(f64::from).collect();
    let (_, changes) = lived(&eight_days, &midnights, 29.0);
    assert_eq!(lines(&changes[1..]), ["active>at_risk worsened inactive @28"]);
    let nine_days = Policy { inactive_after: Some(Span::from_days(9)), ..Policy::default() };
    let (_, changes) = lived(&nine_days, &midnights, 29.0);
    assert_eq!(lines(&changes[1..]), ["active>at_risk worsened declining @28"]);
}

#[test]
fn rules_that_are_off_stay_silent() {
    let quiet = Policy { inactive_after: None, declining: None, ..Policy::default() };
    let (_, changes) = lived(&quiet, &noons(0, 20), 60.0);
    assert_eq!(lines(&changes[1..]), ["active>lapsed worsened inactive @50.5"]);
}

#[test]
fn declining_is_judged_when_the_day_turns() {
    // Daily from day 0 to 20. As of day 27: 8 recent after 13 prior. As of day 28: 7 after 14, which is half.
    let policy = Policy::default();
    let (mut user, changes) = lived(&policy, &noons(0, 20), 27.9);
    assert_eq!(changes.len(), 1);
    assert_eq!(user.next_deadline(&policy), Some(day(28.0)));
    assert_eq!(later(&mut user, 28.0, &policy), ["active>at_risk worsened declining @28"]);
    assert_eq!(later(&mut user, 60.0, &policy), ["at_risk>lapsed worsened inactive @50.5"]);
}

#[test]
fn too_little_before_is_no_decline() {
    let rule = Declining { min_baseline: 15, ..Declining::default() };
    let policy = Policy { declining: Some(rule), ..Policy::default() };
    let (_, changes) = lived(&policy, &noons(0, 20), 40.0);
    assert_eq!(lines(&changes[1..]), ["active>at_risk worsened inactive @34.5"]);
}

#[test]
fn a_declining_user_recovers_only_above_the_recover_ratio() {
    // As of day 28, 14 prior: 3 events make 10 recent, held at 0.75 * 14 = 10.5; the fourth makes 11.
    let policy = Policy::default();
    let (mut user, _) = lived(&policy, &noons(0, 20), 28.0);
    for _ in 0..3 {
        assert_eq!(then(&mut user, 28.5, &policy), (Outcome::Counted, vec![]));
    }
    assert_eq!((life(&user).state, life(&user).since), (State::AtRisk, day(28.0)));
    assert_eq!(then(&mut user, 28.75, &policy).1, ["at_risk>active recovered activity @28.75"]);
    assert_eq!(life(&user).reason, Reason::Activity);
}

#[test]
fn an_inactive_user_recovers_with_the_first_activity() {
    let policy = Policy::default();
    let (mut user, _) = lived(&policy, &[0.0], 20.0);
    assert_eq!(then(&mut user, 20.5, &policy).1, ["at_risk>active recovered activity @20.5"]);
}

#[test]
fn activity_at_the_very_moment_of_a_deadline_comes_after_it() {
    let policy = Policy::default();
    let (mut user, _) = lived(&policy, &[0.0], 29.0);
    let (outcome, changes) = then(&mut user, 30.0, &policy);
    assert_eq!(outcome, Outcome::Counted);
    assert_eq!(changes, ["at_risk>lapsed worsened inactive @30", "lapsed>active reactivated activity @30"]);
}

#[test]
fn activity_lets_every_deadline_before_it_take_effect_in_order() {
    let policy = Policy::default();
    let (mut user, _) = lived(&policy, &[0.0], 0.0);
    let (_, changes) = then(&mut user, 100.0, &policy);
    assert_eq!(
        changes,
        [
            "active>at_risk worsened inactive @14",
            "at_risk>lapsed worsened inactive @30",
            "lapsed>churned worsened inactive @90",
            "churned>active reactivated activity @100",
        ]
    );
}

#[test]
fn a_new_life_is_compared_with_itself() {
    let policy = Policy { inactive_after: None, lapsed_after: Span::from_days(2), ..Policy::default() };
    let (mut user, _) = lived(&policy, &noons(0, 13), 15.5);
    assert_eq!(life(&user).state, State::Lapsed);
    assert_eq!(then(&mut user, 16.0, &policy).1, ["lapsed>active reactivated activity @16"]);
    assert_eq!(life(&user).activity.buckets, [1]);
    assert_eq!(life(&user).activity.repeat_days(), 14);
    assert_eq!(later(&mut user, 17.9, &policy), [""; 0]);
}

#[test]
fn an_absence_counts_from_its_first_transition() {
    let policy = Policy::default();
    // time passes to, back on, away from, days away
    let table = [(31.0, 32.5, State::Lapsed, 2.5_f64), (91.0, 100.0, State::Churned, 70.0)];
    for (until, back, from, days) in table {
        let (mut user, _) = lived(&policy, &[0.0], until);
        assert_eq!(life(&user).absent_since, Some(day(30.0)));
        let mut changes = Vec::new();
        user.record(&activity(day(back)), &policy, &mut changes);
        let away = changes[0].away().expect("a reactivation says how long");
        assert_eq!((away.from, away.days.to_bits()), (from, days.to_bits()));
        assert_eq!(life(&user).absent_since, None);
    }
    let (_, changes) = lived(&policy, &[0.0, 20.0], 60.0);
    assert!(changes.iter().all(|change| change.away().is_none()));
}

#[test]
fn totals_count_activity_core_actions_and_the_first_activation() {
    let policy = Policy::default();
    let (mut user, mut changes) = (User::default(), Vec::<Change>::new());
    // day, activation, core
    for (at, activation, core) in [(0.0, false, true), (1.0, true, false), (2.0, true, true), (3.0, false, false)] {
        let mut event = activity(day(at));
        event.roles = Roles { activity: true, activation, core, win_back: false };
        user.record(&event, &policy, &mut changes);
    }
    let life = life(&user);
    assert_eq!((life.total_events, life.core_actions, life.activated_at), (4, 2, Some(day(1.0))));
    assert_eq!(life.activity.repeat_days(), 3);
    assert_eq!(user.idle_days(day(4.5)).map(f64::to_bits), Some(1.5_f64.to_bits()));
}

#[test]
fn the_last_eight_names_are_kept_and_old_events_add_none() {
    let policy = Policy::default();
    let (mut user, mut changes) = (User::default(), Vec::<Change>::new());
    for number in 1..=10_i32 {
        let mut event = activity(day(f64::from(number)));
        event.name = format!("e{number}").into();
        user.record(&event, &policy, &mut changes);
    }
    then(&mut user, 5.0, &policy);
    let names: Vec<&str> = life(&user).last_events.iter().map(|name| &**name).collect();
    assert_eq!(names, ["e3", "e4", "e5", "e6", "e7", "e8", "e9", "e10"]);
}

fn with_id(at: f64, id: &str) -> Event<'_> {
    Event { id: Some(id.into()), ..activity(day(at)) }
}

#[test]
fn the_last_sixteen_ids_are_duplicates() {
    let policy = Policy::default();
    let (mut user, mut changes) = (User::default(), Vec::new());
    let ids: Vec<String> = (0..17).map(|number| format!("id-{number}")).collect();
    for id in &ids {
        assert_eq!(user.record(&with_id(1.0, id), &policy, &mut changes), Outcome::Counted);
    }
    for id in &ids[1..] {
        assert_eq!(user.record(&with_id(50.0, id), &policy, &mut changes), Outcome::Duplicate);
    }
    assert_eq!((changes.len(), life(&user).total_events), (1, 17), "a duplicate moves nothing, not even time");
    assert_eq!(user.record(&with_id(1.0, &ids[0]), &policy, &mut changes), Outcome::Counted);
}

/// Values by index.
type Properties<'a> = &'a [(u16, &'a str)];

fn profile(at: f64, tracked: Properties<'_>) -> Event<'static> {
    let tracked = tracked.iter().map(|&(index, value)| (index, value.to_owned().into())).collect();
    Event { roles: Roles::default(), tracked, ..activity(day(at)) }
}

#[test]
fn an_event_that_is_no_activity_only_updates_properties() {
    let policy = Policy::default();
    let (mut user, mut changes) = (User::default(), Vec::new());
    // properties set, properties then
    let table: [(Properties<'_>, Properties<'_>); 3] = [
        (&[(3, "\"pro\"")], &[(3, "\"pro\"")]),
        (&[(1, "7")], &[(1, "7"), (3, "\"pro\"")]),
        (&[(3, "null"), (1, "8")], &[(1, "8"), (3, "null")]),
    ];
    for (set, expected) in table {
        assert_eq!(user.record(&profile(0.0, set), &policy, &mut changes), Outcome::PropertiesOnly);
        let found: Vec<(u16, &str)> = user.properties.iter().map(|(index, value)| (*index, &**value)).collect();
        assert_eq!(found, expected);
    }
    assert_eq!((user.life.as_ref(), user.next_deadline(&policy), changes.len()), (None, None, 0));
    assert_eq!(user.advance("ada", EventTime::MAX, &policy, &mut changes), Fate::Stays);
    assert_eq!(then(&mut user, 100.0, &policy).1, ["->active entered activity @100"]);
}

#[test]
fn what_was_due_before_a_change_of_properties_shows_those_of_before_it() {
    let policy = Policy::default();
    let (mut user, mut shown) = (User::default(), Shown::default());
    user.record(&Event { tracked: vec![(0, "1".into())], ..activity(day(0.0)) }, &policy, &mut shown);
    // No timer has fired yet: in this shard nobody has moved the watermark.
    assert_eq!(user.record(&profile(14.5, &[(0, "2")]), &policy, &mut shown), Outcome::PropertiesOnly);
    assert_eq!(user.advance("ada", day(30.0), &policy, &mut shown), Fate::Stays);
    let expected = [
        ("->active entered activity @0", "1", 1),
        ("active>at_risk worsened inactive @14", "1", 1),
        ("at_risk>lapsed worsened inactive @30", "2", 1),
    ];
    assert_eq!(shown.0, expected.map(|(line, plan, total)| (line.to_owned(), Some(plan.to_owned()), total)));
}

/// Notes the plan (property 0) and the number of events that each change shows.
#[derive(Default)]
struct Shown(Vec<(String, Option<String>, u64)>);

impl Sink for Shown {
    fn change(&mut self, _user_id: &str, user: &User, change: &Change) {
        let plan = user.properties.first().map(|(_, value)| value.to_string());
        self.0.push((line(change), plan, user.life.as_ref().map_or(0, |life| life.total_events)));
    }
}

#[test]
fn a_change_shows_the_user_after_the_event_that_caused_it_and_not_before() {
    let policy = Policy::default();
    let (mut user, mut shown) = (User::default(), Shown::default());
    for (at, plan) in [(0.0, "1"), (20.0, "2")] {
        let event = Event { tracked: vec![(0, plan.into())], ..activity(day(at)) };
        user.record(&event, &policy, &mut shown);
    }
    let expected = [
        ("->active entered activity @0", "1", 1),
        ("active>at_risk worsened inactive @14", "1", 1),
        ("at_risk>active recovered activity @20", "2", 2),
    ];
    assert_eq!(shown.0, expected.map(|(line, plan, total)| (line.to_owned(), Some(plan.to_owned()), total)));
}

#[test]
fn a_churned_user_is_forgotten_and_returns_as_a_new_one() {
    let policy = Policy { forget_after: Some(Span::from_days(365)), ..Policy::default() };
    let (mut user, _) = lived(&policy, &[0.0], 364.0);
    user.generation = 7;
    user.armed = Some(day(1.0));
    assert_eq!(user.next_deadline(&policy), Some(day(365.0)));
    let (mut by_timer, mut by_event) = (user.clone(), user);
    let (mut first, mut second) = (Vec::new(), Vec::new());

    assert_eq!(by_timer.advance("ada", day(365.0), &policy, &mut first), Fate::Gone);
    assert_eq!(lines(&first), ["churned>- forgotten retention @365"]);
    assert_eq!(by_timer, User { generation: 7, armed: Some(day(1.0)), ..User::default() });

    by_timer.record(&activity(day(400.0)), &policy, &mut first);
    by_event.record(&activity(day(400.0)), &policy, &mut second);
    assert_eq!(first, second, "whether the timer or the event comes first makes no difference");
    assert_eq!(first.iter().map(|change| change.seq).collect::<Vec<_>>(), [5, 1]);
    assert_eq!(by_timer, by_event);
}

#[test]
fn a_deletion_carries_no_properties_and_leaves_nothing() {
    let policy = Policy::default();
    let (mut user, mut shown) = (User::default(), Shown::default());
    user.record(&Event { tracked: vec![(0, "1".into())], ..activity(day(5.0)) }, &policy, &mut Vec::<Change>::new());
    user.delete("ada", day(6.0), &mut shown);
    assert_eq!(user, User::default());

    user.record(&profile(0.0, &[(0, "1")]), &policy, &mut shown);
    user.delete("ada", day(6.0), &mut shown);
    let expected = [("active>- deleted request @6", None, 1), ("->- deleted request @6", None, 0)];
    assert_eq!(shown.0, expected.map(|(line, plan, total)| (line.to_owned(), plan, total)));
}

#[test]
fn a_deletion_is_not_dated_before_what_it_deletes() {
    let (mut user, _) = lived(&Policy::default(), &[5.0], 5.0);
    let mut changes = Vec::new();
    user.delete("ada", EventTime::MIN, &mut changes);
    assert_eq!(lines(&changes), ["active>- deleted request @5"]);
    assert_eq!(changes[0].previous_since, Some(day(5.0)));
}

#[test]
fn a_changed_policy_judges_everybody_once() {
    let (mild, strict) = (
        Policy { lapsed_after: Span::from_days(60), ..Policy::default() },
        Policy { lapsed_after: Span::from_days(20), ..Policy::default() },
    );
    // time passes to under the default policy, new policy, change
    let table = [
        (25.0, &strict, Some("at_risk>lapsed worsened policy_changed @25")),
        (40.0, &mild, Some("lapsed>at_risk corrected policy_changed @40")),
        (25.0, &mild, None),
        (95.0, &strict, None),
    ];
    for (at, policy, expected) in table {
        let (mut user, _) = lived(&Policy::default(), &[0.0], at);
        let mut changes = Vec::new();
        user.rejudge("ada", day(at), policy, &mut changes);
        assert_eq!(lines(&changes), Vec::from_iter(expected));
        let absent = life(&user).state >= State::Lapsed;
        assert_eq!(life(&user).absent_since.is_some(), absent, "an absence begins and ends with its states");
        user.rejudge("ada", day(at), policy, &mut changes);
        assert_eq!(changes.len(), usize::from(expected.is_some()), "the second time nothing is new");
    }
}

#[test]
fn a_judgement_is_not_dated_before_what_it_judges() {
    let (mut user, _) = lived(&Policy::default(), &[0.0], 25.0);
    let strict = Policy { inactive_after: None, lapsed_after: Span::from_days(12), ..Policy::default() };
    let mut changes = Vec::new();
    user.rejudge("ada", day(1.0), &strict, &mut changes);
    assert_eq!(lines(&changes), ["at_risk>lapsed worsened policy_changed @14"]);
}

#[test]
fn a_retention_that_has_run_out_already_forgets_no_earlier_than_the_judgement() {
    let (mut user, _) = lived(&Policy::default(), &[0.0], 50.0);
    let short =
        Policy { churned_after: Span::from_days(40), forget_after: Some(Span::from_days(45)), ..Policy::default() };
    let mut changes = Vec::new();
    user.rejudge("ada", day(50.0), &short, &mut changes);
    assert_eq!(user.advance("ada", day(50.0), &short, &mut changes), Fate::Gone);
    assert_eq!(lines(&changes), ["lapsed>churned worsened policy_changed @50", "churned>- forgotten retention @50"]);
}

#[test]
fn a_user_is_at_risk_when_probably_gone() {
    let policy = survival(0.5);
    let (mut user, _) = lived(&policy, &[0.0, 5.0], 5.0);
    assert_eq!(user.next_deadline(&policy), Some(day(35.0)), "one repeat is too few: the next is lapsing");
    assert_eq!(then(&mut user, 10.0, &policy), (Outcome::Counted, vec![]));
    let due = user.next_deadline(&policy).expect("there is one");
    assert!(day(10.0) < due && due < day(40.0));
    let p_at = |at| user.p_alive(at, &policy).expect("it is configured");
    assert!(p_at(due) <= 0.5 && p_at(due - Span::from_millis(1)) > 0.5);

    let mut changes = Vec::new();
    assert_eq!(user.advance("ada", due, &policy, &mut changes), Fate::Stays);
    assert_eq!((changes[0].to, changes[0].reason), (Some(State::AtRisk), Reason::LowProbability));
    assert_eq!(changes[0].effective_at, due);
    assert_eq!(then(&mut user, 39.0, &policy).1, ["at_risk>active recovered activity @39"]);
}

#[test]
fn a_low_probability_never_holds_back_a_recovery_nor_acts_before_the_last_activity() {
    let policy = survival(0.99);
    let (mut user, changes) = lived(&policy, &[0.0, 5.0, 10.0], 10.0);
    assert_eq!(lines(&changes[1..]), ["active>at_risk worsened low_probability @10"]);
    assert_eq!(then(&mut user, 11.0, &policy).1, ["at_risk>active recovered activity @11"]);
    assert_eq!(later(&mut user, 11.0, &policy), ["active>at_risk worsened low_probability @11"]);
}

#[test]
fn the_probability_is_told_only_where_it_is_configured() {
    let (user, _) = lived(&survival(0.5), &[0.0], 0.0);
    assert_eq!(user.p_alive(day(1.0), &survival(0.5)).map(f64::to_bits), Some(1.0_f64.to_bits()));
    assert_eq!(user.p_alive(day(1.0), &Policy::default()), None);
    assert_eq!(User::default().p_alive(day(1.0), &survival(0.5)), None);
}

#[test]
fn entering_is_the_first_activity() {
    let (user, changes) = lived(&Policy::default(), &[3.0], 3.0);
    assert_eq!((changes[0].kind, changes[0].from, changes[0].previous_since), (Kind::Entered, None, None));
    assert_eq!((life(&user).since, life(&user).first_active, user.seq), (day(3.0), day(3.0), 1));
}

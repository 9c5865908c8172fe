//! What holds for every history under every policy.

use proptest::prelude::*;

use super::{activity, day};
use crate::lifecycle::policy::{Declining, Survival};
use crate::lifecycle::{Change, Fate, Kind, Policy, Sink, User};
use crate::time::{DAY_MS, EventTime, Span};

/// One thing that happens to a user.
#[derive(Clone, Copy, Debug)]
enum Happening {
    /// Activity so long after the user's clock, or before it when negative.
    Activity(i64),
    /// So much time passes.
    Silence(i64),
}

fn policies() -> impl Strategy<Value = Policy> {
    let spans = (1_i64..20, 0_i64..20, 0_i64..40, 1_i64..40);
    let declining =
        (1_u16..10, 0.0_f64..1.0, 0.0_f64..1.0, 0_u32..6).prop_map(|(window_days, one, other, min_baseline)| {
            Declining { window_days, decline_ratio: one.min(other), recover_ratio: one.max(other), min_baseline }
        });
    let survival = (0.1_f64..2.0, 0.5_f64..20.0, 0.1_f64..3.0, 0.1_f64..5.0, 0.05_f64..0.95, 0_u32..4).prop_map(
        |(r, alpha, a, b, threshold, min_repeat)| Survival { r, alpha, a, b, threshold: Some(threshold), min_repeat },
    );
    let options = (any::<bool>(), proptest::option::of(declining), proptest::option::of(survival), any::<bool>());
    (spans, options).prop_map(|((first, second, third, fourth), (inactive, declining, survival, forget))| {
        // Half days, so that deadlines meet midnights.
        let half_days = |number: i64| Span::from_millis(number * DAY_MS / 2);
        Policy {
            inactive_after: inactive.then(|| half_days(first)),
            declining,
            survival,
            lapsed_after: half_days(first + second),
            churned_after: half_days(first + second + third),
            forget_after: forget.then(|| half_days(first + second + third + fourth)),
        }
    })
}

/// Distances between events: within the hour, on the hour (so that instants coincide), and days.
fn distances() -> impl Strategy<Value = i64> {
    const HOUR_MS: i64 = DAY_MS / 24;
    prop_oneof![0..HOUR_MS, (0_i64..72).prop_map(|hours| hours * HOUR_MS), (0_i64..40).prop_map(|days| days * DAY_MS)]
}

fn in_order() -> impl Strategy<Value = Vec<Happening>> {
    let happening =
        prop_oneof![3 => distances().prop_map(Happening::Activity), 1 => distances().prop_map(Happening::Silence)];
    proptest::collection::vec(happening, 1..60)
}

fn in_any_order() -> impl Strategy<Value = Vec<Happening>> {
    let happening = prop_oneof![
        3 => distances().prop_map(Happening::Activity),
        1 => distances().prop_map(|back| Happening::Activity(-back)),
        1 => distances().prop_map(Happening::Silence),
    ];
    proptest::collection::vec(happening, 1..60)
}

/// Collects the changes and checks, at each, what a sink may rely on.
#[derive(Debug, Default, PartialEq)]
struct Checked(Vec<Change>);

impl Sink for Checked {
    fn change(&mut self, _user_id: &str, user: &User, change: &Change) {
        assert_eq!(user.seq, change.seq);
        let life = user.life.as_ref().expect("these users have been active");
        if let Some(to) = change.to {
            assert_eq!((life.state, life.since, life.reason), (to, change.effective_at, change.reason));
        }
        assert!(life.first_active <= life.last_active);
        assert_eq!(life.absent_since.is_some(), life.state >= crate::lifecycle::State::Lapsed);
        match change.kind {
            Kind::Worsened => assert!(change.to > change.from, "{change:?}"),
            Kind::Corrected => assert!(change.to < change.from && change.to.is_some(), "{change:?}"),
            Kind::Entered | Kind::Recovered | Kind::Reactivated => {
                assert_eq!(change.effective_at, life.last_active, "{change:?}");
            }
            Kind::Forgotten | Kind::Deleted => assert_eq!(change.to, None),
        }
        match self.0.last() {
            Some(last) if last.to.is_some() => {
                assert_eq!((change.seq, change.from), (last.seq + 1, last.to), "seq has no gaps, states join");
                assert_eq!(change.previous_since, Some(last.effective_at));
                assert!(change.effective_at >= last.effective_at, "{change:?} after {last:?}");
            }
            _ => assert_eq!((change.seq, change.from), (1, None), "a life begins at 1"),
        }
        self.0.push(*change);
    }
}

/// Lets it all happen. `steps` says in how many steps each silence passes.
fn happen(happenings: &[Happening], policy: &Policy, steps: i64) -> (User, Checked, EventTime) {
    let (mut user, mut changes, mut now) = (User::default(), Checked::default(), day(10_000.0));
    for &happening in happenings {
        match happening {
            Happening::Activity(distance) => {
                let at = now + Span::from_millis(distance);
                user.record(&activity(at), policy, &mut changes);
                now = now.max(at);
            }
            Happening::Silence(length) => {
                for step in 1..=steps {
                    let to = now + Span::from_millis(length * step / steps);
                    let (Fate::Stays | Fate::Gone) = user.advance("ada", to, policy, &mut changes);
                }
                now = now + Span::from_millis(length);
            }
        }
    }
    let end = now + Span::from_days(200);
    for step in 1..=steps {
        let to = now + Span::from_millis((end - now).as_millis() * step / steps);
        let (Fate::Stays | Fate::Gone) = user.advance("ada", to, policy, &mut changes);
    }
    (user, changes, end)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn time_only_worsens_and_seq_has_no_gaps(policy in policies(), happenings in in_any_order()) {
        // The sink checks.
        let (_, changes, _) = happen(&happenings, &policy, 1);
        let kinds = |kind| changes.0.iter().filter(move |change| change.kind == kind);
        prop_assert!(kinds(Kind::Reactivated).all(|change| change.away().is_some_and(|away| away.days >= 0.0)));
    }

    #[test]
    fn many_small_steps_are_one_big_step(policy in policies(), happenings in in_any_order(), steps in 2_i64..40) {
        prop_assert_eq!(happen(&happenings, &policy, 1), happen(&happenings, &policy, steps));
    }

    #[test]
    fn silence_between_events_in_order_changes_nothing(policy in policies(), happenings in in_order()) {
        // The same events, once with the clock moved in between (as other users' events do), once without.
        let mut now = 0;
        let mut alone = Vec::new();
        for &happening in &happenings {
            match happening {
                Happening::Activity(distance) => {
                    alone.push(Happening::Activity(now + distance));
                    now = 0;
                }
                Happening::Silence(length) => now += length,
            }
        }
        alone.push(Happening::Silence(now));
        prop_assert_eq!(happen(&happenings, &policy, 3), happen(&alone, &policy, 1));
    }

    #[test]
    fn the_next_deadline_is_the_first_instant_that_changes_the_user(
        policy in policies(),
        happenings in in_any_order(),
    ) {
        let (mut user, mut now) = (User::default(), day(10_000.0));
        for happening in happenings {
            let (Happening::Activity(distance) | Happening::Silence(distance)) = happening;
            if let Happening::Activity(_) = happening {
                user.record(&activity(now + Span::from_millis(distance)), &policy, &mut Vec::<Change>::new());
            }
            now = now + Span::from_millis(distance.max(0));
            let Some(due) = user.next_deadline(&policy) else { continue };
            let before = user.clone();
            let mut changes: Vec<Change> = Vec::new();
            prop_assert_eq!(user.advance("ada", due - Span::from_millis(1), &policy, &mut changes), Fate::Stays);
            prop_assert!(changes.is_empty() && user == before);
            prop_assert!(due >= before.life.as_ref().map_or(EventTime::MIN, |life| life.since));
            let (Fate::Stays | Fate::Gone) = user.clone().advance("ada", due, &policy, &mut changes);
            prop_assert_eq!(changes.first().map(|change| change.effective_at), Some(due));
            let (Fate::Stays | Fate::Gone) = user.advance("ada", now, &policy, &mut changes);
        }
    }

    #[test]
    fn a_deadline_is_where_the_judgement_first_turns(policy in policies(), happenings in in_order()) {
        // Against a search that walks through time: with events in order and a user who is judged active, the next
        // deadline is the first midnight or half day of idleness as of which the rules say otherwise.
        let (mut user, mut now) = (User::default(), day(10_000.0));
        for happening in happenings {
            let (Happening::Activity(distance) | Happening::Silence(distance)) = happening;
            now = now + Span::from_millis(distance);
            user.record(&activity(now), &policy, &mut Vec::<Change>::new());
        }
        let life = user.life.expect("there was activity");
        let due = life.next_step(&policy).expect("an active user can lapse").at;
        prop_assume!(life.state == crate::lifecycle::State::Active);
        let midnights = (1..300).map(|ahead| (life.last_active.day() + ahead).start());
        let half_days = (1..300).map(|ahead| life.last_active + Span::from_millis(ahead * DAY_MS / 2));
        for at in midnights.chain(half_days).filter(|at| *at < due) {
            prop_assert_eq!(life.judge(at, &policy).0, crate::lifecycle::State::Active, "at {}", at);
        }
        if due > life.last_active {
            prop_assert!(life.judge(due, &policy).0 > crate::lifecycle::State::Active);
        }
    }
}

//! Late events: what they correct, and what they never do (SPEC section 2).

use super::{day, later, life, lived, noons, survival, then};
use crate::lifecycle::policy::Declining;
use crate::lifecycle::{Outcome, Policy, State};
use crate::time::Span;

#[test]
fn a_late_event_corrects_what_it_proves_wrong() {
    let policy = Policy::default();
    // time passes to, late event on, change, next deadline
    let table = [
        (14.5, 13.5, "at_risk>active corrected late_event @14", 27.5),
        (31.0, 10.0, "lapsed>at_risk corrected late_event @30", 40.0),
        (31.0, 20.0, "lapsed>active corrected late_event @30", 34.0),
        (91.0, 5.0, "churned>lapsed corrected late_event @90", 95.0),
        (91.0, 70.0, "churned>at_risk corrected late_event @90", 100.0),
        (91.0, 89.0, "churned>active corrected late_event @90", 103.0),
    ];
    for (until, late, expected, next) in table {
        let (mut user, _) = lived(&policy, &[0.0], until);
        let before = life(&user).clone();
        let (outcome, changes) = then(&mut user, late, &policy);
        assert_eq!(outcome, Outcome::Late);
        assert_eq!(changes, [expected]);
        assert_eq!((life(&user).since, life(&user).last_active), (before.since, day(late)));
        assert_eq!(life(&user).absent_since, before.absent_since.filter(|_| life(&user).state >= State::Lapsed));
        assert_eq!(user.next_deadline(&policy), Some(day(next)));
    }
}

#[test]
fn a_late_event_that_proves_nothing_is_only_counted() {
    let policy = Policy::default();
    // time passes to, late event on
    for (until, late) in [(20.0, 3.0), (40.0, 3.0), (40.0, 5.0), (200.0, -3.0)] {
        let (mut user, _) = lived(&policy, &[0.0, 5.0], until);
        let (state, total) = (life(&user).state, life(&user).total_events);
        assert_eq!(then(&mut user, late, &policy), (Outcome::Late, vec![]));
        assert_eq!((life(&user).state, life(&user).total_events), (state, total + 1));
        assert_eq!(life(&user).last_active, day(5.0));
    }
}

#[test]
fn a_late_event_that_leaves_the_state_right_only_moves_the_next_deadline() {
    let policy = Policy::default();
    let (mut user, _) = lived(&policy, &[0.0], 31.0);
    assert_eq!(then(&mut user, 10.0, &policy).1, ["lapsed>at_risk corrected late_event @30"]);
    assert_eq!(then(&mut user, 12.0, &policy), (Outcome::Late, vec![]));
    assert_eq!(user.next_deadline(&policy), Some(day(42.0)));
    assert_eq!(then(&mut user, 20.0, &policy).1, ["at_risk>active corrected late_event @30"]);
}

#[test]
fn a_late_event_fills_its_bucket() {
    // 7 recent after 14 prior as of day 28; one more on day 19, come late, is 8.
    let policy = Policy::default();
    let (mut user, _) = lived(&policy, &noons(0, 20), 21.0);
    assert_eq!(then(&mut user, 19.75, &policy), (Outcome::Late, vec![]));
    assert_eq!(life(&user).activity.buckets[1], 2);
    assert_eq!(user.next_deadline(&policy), Some(day(29.0)));
}

#[test]
fn a_late_event_among_the_old_ones_corrects_no_decline() {
    // With it, 8 recent after 14 prior would not have been a decline: but only newer activity proves presence.
    let policy = Policy::default();
    let (mut user, _) = lived(&policy, &noons(0, 20), 28.0);
    assert_eq!(then(&mut user, 19.75, &policy), (Outcome::Late, vec![]));
    assert_eq!(life(&user).state, State::AtRisk);
}

#[test]
fn a_decline_that_a_late_event_reveals_is_not_dated_before_the_present_state() {
    let rule = Declining { window_days: 3, ..Declining::default() };
    let policy = Policy { inactive_after: Some(Span::from_days(3)), declining: Some(rule), ..Policy::default() };
    let (mut user, _) = lived(&policy, &[10.5], 13.5);
    assert_eq!(then(&mut user, 12.75, &policy).1, ["at_risk>active corrected late_event @13.5"]);
    for _ in 0..6 {
        assert_eq!(then(&mut user, 8.5, &policy), (Outcome::Late, vec![]));
    }
    // Day 13 was a decline as well, but began before the user was known to be active.
    assert_eq!(later(&mut user, 14.0, &policy), ["active>at_risk worsened declining @14"]);
}

#[test]
fn a_low_probability_that_a_late_event_reveals_is_not_dated_before_the_present_state() {
    let policy = Policy { inactive_after: Some(Span::from_days(20)), ..survival(0.5) };
    // A second repeat, before everything known or after it: either takes the probability below a half long ago.
    for second_repeat in [-1.0, 2.5] {
        let (mut user, _) = lived(&policy, &[0.5, 1.5], 21.5);
        assert_eq!(then(&mut user, 1.75, &policy).1, ["at_risk>active corrected late_event @21.5"]);
        assert_eq!(then(&mut user, second_repeat, &policy), (Outcome::Late, vec![]));
        assert_eq!(later(&mut user, 21.5, &policy), ["active>at_risk worsened low_probability @21.5"]);
    }
}

#[test]
fn an_event_before_the_first_makes_the_history_longer() {
    let policy = Policy::default();
    let (mut user, _) = lived(&policy, &[10.0], 11.0);
    assert_eq!(then(&mut user, 8.0, &policy), (Outcome::Late, vec![]));
    let life = life(&user);
    assert_eq!((life.first_active, life.activated_at, life.last_active), (day(8.0), Some(day(8.0)), day(10.0)));
}

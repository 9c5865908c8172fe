//! Win-back's promises: the interval against published figures and simulated campaigns, attribution and curve by tables.

use proptest::prelude::*;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng as _;

use super::comeback::UNKNOWN_CAMPAIGN;
use super::*;
use crate::lifecycle::State;
use crate::time::{EventTime, Span};

fn at(hours: i64) -> EventTime {
    EventTime::from_millis(hours * 3_600_000)
}

fn arm(returned: u64, users: u64) -> Arm {
    Arm { users, returned }
}

/// Newcombe 1998, table II, method 10.
#[test]
fn the_interval_is_newcombes() {
    let table = [
        (arm(56, 70), arm(48, 80), 0.0524, 0.3339),
        (arm(9, 10), arm(3, 10), 0.1705, 0.8090),
        (arm(6, 7), arm(2, 7), 0.0582, 0.8062),
        (arm(5, 56), arm(0, 29), -0.0381, 0.1926),
        (arm(0, 10), arm(0, 20), -0.1611, 0.2775),
        (arm(0, 10), arm(0, 10), -0.2775, 0.2775),
        (arm(10, 10), arm(0, 20), 0.6791, 1.0),
        (arm(10, 10), arm(0, 10), 0.6075, 1.0),
    ];
    for (treated, held_out, low, high) in table {
        let lift = Lift::of(treated, held_out).expect("both have users");
        assert!((lift.low - low).abs() < 6e-5 && (lift.high - high).abs() < 6e-5, "{treated:?} {held_out:?}: {lift:?}");
    }
    assert_eq!(Lift::of(arm(0, 0), arm(1, 2)), None);
    assert_eq!(Lift::of(arm(1, 2), arm(0, 0)), None);
}

/// 500 campaigns over 2,000 users each, a tenth held out by the real hash; 8 % return anyway, a campaign adds 5 points.
/// At 95 %, 475 of 500 are expected inside; fewer than 459 or more than 491 would happen once in a thousand times.
#[test]
fn five_hundred_campaigns_lie_within_the_interval_at_the_stated_rate() {
    const BASE: f64 = 0.08;
    const EFFECT: f64 = 0.05;
    let mut rng = ChaCha8Rng::seed_from_u64(20_261_128);
    let (mut inside, mut held_out_users) = (0, 0);
    for campaign in 0..500 {
        let holdout = Holdout::new(0.1, format!("campaign-{campaign}")).expect("a share");
        let (mut treated, mut held_out) = (Arm::default(), Arm::default());
        for user in 0..2_000 {
            let held = holdout.holds_out(&format!("user-{user}"));
            let (group, rate) = if held { (&mut held_out, BASE) } else { (&mut treated, BASE + EFFECT) };
            group.users += 1;
            group.returned += u64::from(rng.random::<f64>() < rate);
        }
        held_out_users += held_out.users;
        let lift = Lift::of(treated, held_out).expect("both have users");
        inside += u32::from((lift.low..=lift.high).contains(&EFFECT));
    }
    assert!((459..=491).contains(&inside), "{inside} of 500");
    // 100,000 expected of a million draws, with a standard deviation of 300.
    assert!((98_800..=101_200).contains(&held_out_users), "{held_out_users}");
}

#[test]
fn the_holdout_is_frozen() {
    let holdout = Holdout::new(0.1, "salt").expect("a share");
    let held: Vec<u32> = (0..60).filter(|user| holdout.holds_out(&format!("user-{user}"))).collect();
    assert_eq!(held, HELD_OUT, "this swaps treated and held-out users in running campaigns");
    let all = Holdout::new(1.0, "salt").expect("a share");
    let none = Holdout::new(0.0, "salt").expect("a share");
    assert!((0..1000).all(|user| all.holds_out(&user.to_string()) && !none.holds_out(&user.to_string())));
    for share in [-0.1, 1.1, f64::NAN] {
        assert!(Holdout::new(share, "").is_err(), "{share}");
    }
}

const HELD_OUT: [u32; 6] = [4, 6, 36, 41, 52, 57];

#[test]
fn a_larger_holdout_keeps_whom_a_smaller_one_held_out() {
    let [small, large] = [0.1, 0.3].map(|share| Holdout::new(share, "s").expect("a share"));
    let ids: Vec<String> = (0..1000).map(|user| user.to_string()).collect();
    assert!(ids.iter().filter(|id| small.holds_out(id)).all(|id| large.holds_out(id)));
    assert!(ids.iter().any(|id| small.holds_out(id)));
}

fn comeback() -> Comeback {
    Comeback::new(at(1000), 7, State::Churned, at(400))
}

#[test]
fn the_first_win_back_event_within_the_window_is_the_attribution() {
    let window = Span::from_days(1);
    let brought = |events: &[(i64, Option<Option<&str>>)]| -> Vec<(String, EventTime)> {
        let mut comeback = comeback();
        let found = events
            .iter()
            .filter_map(|(hour, campaign)| campaign.and_then(|name| comeback.attribute(at(*hour), name, window)));
        found.map(|attribution| (attribution.campaign.into(), attribution.at)).collect()
    };
    let spring = |hour| vec![("spring".to_owned(), at(hour))];
    assert_eq!(brought(&[(1000, Some(Some("spring")))]), spring(1000), "the returning event itself");
    assert_eq!(brought(&[(1000, None), (1024, Some(Some("spring")))]), spring(1024), "at the very end of the window");
    assert_eq!(brought(&[(1000, None), (1025, Some(Some("spring")))]), [], "after it");
    assert_eq!(brought(&[(1000, Some(Some("spring"))), (1001, Some(Some("autumn")))]), spring(1000), "one an absence");
    assert_eq!(brought(&[(999, Some(Some("spring")))]), [], "a late event from before the return");
    assert_eq!(brought(&[(1000, Some(None))]), [(UNKNOWN_CAMPAIGN.to_owned(), at(1000))]);
    let long = "ü".repeat(200);
    assert_eq!(brought(&[(1000, Some(Some(&long)))])[0].0, "ü".repeat(64));
}

#[test]
fn days_after_a_return_are_rolling() {
    let mut comeback = comeback();
    for hour in [1000, 1023, 1048, 1000 + 24 * 30 + 23, 1000 + 24 * 31] {
        comeback.record(at(hour), false);
    }
    let active: Vec<u8> = (1..=30).filter(|day| comeback.active_on(*day)).collect();
    assert_eq!(active, [2, 30]);
    assert_eq!(comeback.away(), at(600) - at(0));
    assert!(!comeback.is_over(at(1000 + 24 * 31 - 1)) && comeback.is_over(at(1000 + 24 * 31)));
}

#[test]
fn the_funnel_counts_core_actions_within_thirty_days_in_any_order() {
    let mut comeback = comeback();
    assert_eq!(comeback.funnel(), Funnel::Returned);
    comeback.record(at(1000 + 24 * 30), true);
    assert_eq!(comeback.funnel(), Funnel::Returned, "day 30 is too late");
    comeback.record(at(1500), true);
    assert_eq!((comeback.funnel(), comeback.to_second_core()), (Funnel::FirstCore, None));
    comeback.record(at(1400), true);
    assert_eq!((comeback.funnel(), comeback.to_second_core()), (Funnel::SecondCore, Some(at(500) - at(0))));
    comeback.record(at(1450), true);
    assert_eq!(comeback.to_second_core(), Some(at(450) - at(0)));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// The order in which events arrive changes nothing but which win-back event was the first to arrive, and the curve
    /// kept up by taking out and putting in equals one that counts at the end.
    #[test]
    fn a_curve_kept_up_equals_a_recount(
        users in proptest::collection::vec(proptest::collection::vec((0i64..1100, any::<bool>()), 0..12), 1..6),
    ) {
        let mut curve = ReturnsCurve::default();
        let mut recount = ReturnsCurve::default();
        for events in &users {
            let mut kept = comeback();
            curve.add(&kept);
            for (hour, core) in events {
                curve.remove(&kept);
                kept.record(at(1000 + hour), *core);
                curve.add(&kept);
            }
            let mut sorted = events.clone();
            sorted.sort_unstable();
            let mut in_order = comeback();
            for (hour, core) in sorted {
                in_order.record(at(1000 + hour), core);
            }
            prop_assert_eq!(&in_order, &kept);

            recount.returned += 1;
            for (index, count) in (0i64..).zip(&mut recount.active) {
                let day = (index + 1) * 24..(index + 2) * 24;
                *count += u64::from(events.iter().any(|(hour, _)| day.contains(hour)));
            }
            let cores = events.iter().filter(|(hour, core)| *core && *hour < 720).count();
            recount.first_core += u64::from(cores >= 1);
            recount.second_core += u64::from(cores >= 2);
        }
        prop_assert_eq!(curve, recount);
    }
}

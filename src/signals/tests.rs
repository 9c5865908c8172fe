//! Signals' promises: differences lead from one set of features to the other, and shares are shares.

use proptest::prelude::*;

use super::report::{Counts, Signals};
use super::*;

fn features() -> impl Strategy<Value = Features> {
    let groups = (0_usize..4, prop::collection::btree_set("[ab]", 0..3));
    (groups, 0_u8..3, prop::option::of(0_u8..3)).prop_map(|((state, segments), last, plan)| {
        let mut groups = vec![Group::State(State::ALL[state])];
        groups.extend(segments.into_iter().map(|name| Group::Segment(name.into())));
        let mut values = vec![(Dimension::LastEvent, format!("e{last}").into())];
        values.extend(plan.map(|plan| (Dimension::Property("plan".into()), plan.to_string().into())));
        Features { groups, values }
    })
}

fn count(counts: &mut std::collections::BTreeMap<(Group, Dimension, String), i64>, features: &Features) {
    for group in &features.groups {
        for (dimension, value) in &features.values {
            *counts.entry((group.clone(), dimension.clone(), value.to_string())).or_default() += 1;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn differences_lead_from_before_to_after_and_never_below_zero(before in features(), after in features()) {
        let (mut moved, mut expected) = (std::collections::BTreeMap::new(), std::collections::BTreeMap::new());
        count(&mut moved, &before);
        count(&mut expected, &after);
        let mut low = 0;
        differences(&before, &after, |group, dimension, value, by| {
            let count = moved.entry((group.clone(), dimension.clone(), value.to_owned())).or_default();
            *count += by;
            low = low.min(*count);
        });
        moved.retain(|_, count| *count != 0);
        prop_assert_eq!(moved, expected);
        prop_assert_eq!(low, 0);
    }
}

#[test]
fn a_group_is_compared_with_the_active() {
    let counts = |users, values: &[(&str, u64)], other: u64| {
        let mut counts = Counts { users, ..Counts::default() };
        let values = values.iter().map(|(value, users)| ((*value).into(), *users)).collect();
        counts.values.insert(Dimension::LastEvent, values);
        if other > 0 {
            counts.other.insert(Dimension::LastEvent, other);
        }
        counts
    };
    let churned = counts(10, &[("Export Failed", 6), ("Login", 2), ("Help", 1)], 1);
    let active = counts(100, &[("Login", 90), ("Export Failed", 10)], 0);
    let signals = Signals::new(&Group::State(State::Churned), &churned, &active, 2);
    assert_eq!((signals.users, signals.active_users), (10, 100));
    let last = &signals.dimensions[0];
    assert_eq!((last.other_users, last.exact, last.values.len()), (2, false, 2));
    let failed = &last.values[0];
    assert_eq!((failed.value.as_str(), failed.users, failed.active_users), (Some("Export Failed"), 6, 10));
    assert!((failed.share - 0.6).abs() < 1e-12 && failed.lift.is_some_and(|lift| (lift - 6.0).abs() < 1e-12));
    let without = Signals::new(&Group::State(State::Churned), &churned, &Counts::default(), 3);
    assert_eq!(without.dimensions[0].values[0].lift, None);
}

use super::*;

fn metrics() -> Metrics {
    Metrics::new().expect("every name is used once")
}

#[test]
fn names_keep_to_the_conventions() {
    let metrics = metrics();
    metrics.observe_shards(&[reading(0)]);
    metrics.observe_rocksdb(&[("block_cache", 1)], 1);
    for name in metrics.names() {
        assert!(name.starts_with("ebbtide_"), "{name}");
        assert!(!name.ends_with("_ms") && !name.ends_with("_millis"), "{name}: base units");
    }
    let text = metrics.encode().expect("memory does not fail");
    for line in text.lines().filter(|line| line.starts_with("# TYPE")) {
        assert_eq!(line.ends_with(" counter"), line.contains("_total "), "{line}");
    }
}

#[test]
fn flows_add_up_the_reasons_of_one_pair() {
    let metrics = metrics();
    metrics.transitioned(Some(State::Active), Some(State::AtRisk), Reason::Inactive, 3);
    metrics.transitioned(Some(State::Active), Some(State::AtRisk), Reason::Declining, 4);
    metrics.transitioned(None, Some(State::Active), Reason::Activity, 1);
    let expected = BTreeMap::from([((Some(State::Active), Some(State::AtRisk)), 7), ((None, Some(State::Active)), 1)]);
    assert_eq!(metrics.flows(), expected);
}

#[test]
fn a_shard_that_was_given_up_leaves_no_series_behind() {
    let metrics = metrics();
    metrics.observe_shards(&[reading(0), reading(7)]);
    assert!(metrics.encode().expect("memory").contains("ebbtide_consumer_lag_records{partition=\"7\"} 5"));
    metrics.observe_shards(&[reading(0)]);
    let text = metrics.encode().expect("memory");
    assert!(!text.contains("partition=\"7\""), "{text}");
    assert!(text.contains("ebbtide_shards{phase=\"running\"} 1"), "{text}");
}

#[test]
fn what_may_be_alarmed_on_is_there_before_it_happens() {
    let text = metrics().encode().expect("memory");
    assert!(text.contains("ebbtide_transaction_aborts_total{cause=\"fenced\"} 0"), "{text}");
    assert!(text.contains("ebbtide_dead_letters_total{reason=\"malformed\"} 0"), "{text}");
    assert!(text.contains("ebbtide_users{activated=\"false\",state=\"churned\"} 0"), "{text}");
}

fn reading(partition: i32) -> ShardReading {
    ShardReading {
        partition,
        phase: ShardPhase::Running,
        lag: Some(5),
        watermark_lag: Some(Span::from_millis(1500)),
        guard_holds: false,
        restored: (1, 2),
    }
}

//! Topics and offsets that somebody has changed.

use super::support::kafka::Broker;
use super::{Case, assert_says};

#[test]
fn a_deleted_output_topic_ends_the_run_and_is_made_anew_by_the_next() {
    let broker = Broker::shared();
    let mut case = Case::new(broker, "output-gone", 1, "");
    case.one.start();
    case.send(500);
    case.settle();
    broker.delete_topic(&case.deployment.dead_letters());
    let log = case.one.refused();
    assert_says(
        &log,
        &["topics.dead_letters: output-gone.dead-letters was deleted", "start again to have it made anew"],
    );
    case.one.start();
    case.send(500);
    case.settle();
    case.one.stop();
}

#[test]
fn a_deleted_input_topic_ends_the_run() {
    let broker = Broker::shared();
    let mut case = Case::new(broker, "input-gone", 1, "");
    case.one.start();
    case.send(500);
    case.settle();
    broker.delete_topic(&case.deployment.events());
    assert_says(&case.one.refused(), &["the input topic input-gone.events was deleted", "a new group id"]);
    case.one.start();
    assert_says(&case.one.refused(), &["the input topic input-gone.events does not exist"]);
    // Made anew and shorter than what was read: not the same input.
    broker.create_topic(&case.deployment.events(), 1, &[]);
    case.one.start();
    assert_says(&case.one.refused(), &["ends at offset 0", "was made anew or cut", "use a new group id"]);
}

#[test]
fn more_partitions_end_the_run_before_users_change_their_shard() {
    let broker = Broker::shared();
    let mut case = Case::new(broker, "grown", 2, "");
    case.one.start();
    case.send(500);
    case.settle();
    broker.grow(&case.deployment.events(), 3);
    let log = case.one.refused();
    assert_says(&log, &["users would change their shard", "a new group id"]);
    case.one.start();
    assert_says(&case.one.refused(), &["grown.changelog has 2 partitions, and the input topic has 3"]);
}

#[test]
fn a_deleted_changelog_waits_for_a_decision_and_keeps_the_last_copy() {
    let broker = Broker::shared();
    let mut case = Case::new(broker, "changelog-gone", 1, "");
    case.one.start();
    case.send(1_000);
    case.settle();
    broker.delete_topic("changelog-gone.changelog");
    assert_says(&case.one.refused(), &["topics.changelog: changelog-gone.changelog was deleted", "do not wipe"]);
    // Twice: the first refusal must not have dropped what the second one is about.
    for _ in 0..2 {
        case.one.start();
        let log = case.one.refused();
        assert_says(&log, &["the changelog holds no state for it", "--accept-offsets shard", "--accept-offsets group"]);
        assert!(!log.contains("restoring everything"), "{log}");
    }
    // From the beginning of the topic: the same transitions come a second time.
    let first = case.expected().transitions.len();
    case.one.start_with(&["--accept-offsets", "shard"], &[]);
    case.send(500);
    let expected = case.expected();
    let mut reader = broker.reader(&case.deployment.transitions());
    reader.read_until("all transitions, once more", |messages| messages.len() >= first + expected.transitions.len());
    expected.assert_transitions("a reader after the reset", &reader.messages[first..]);
    expected.assert_states(&broker.read_all(&case.deployment.states()));
    case.one.stop();
}

#[test]
fn a_group_that_was_moved_waits_for_a_decision() {
    let broker = Broker::shared();
    let mut case = Case::new(broker, "moved", 1, "");
    case.one.start();
    case.send(1_000);
    case.settle();
    case.one.stop();
    broker.move_group("moved", &case.deployment.events(), 0, 10);
    case.one.start();
    let log = case.one.refused();
    assert_says(&log, &["the group's offset for moved.events/0 is 10", "somebody moved the group"]);
    assert_says(&log, &["--accept-offsets shard", "--accept-offsets group"]);
    // As if nobody had.
    case.one.start_with(&["--accept-offsets", "shard"], &[]);
    case.send(500);
    case.settle();
    case.one.stop();
    // As somebody wanted: what lies between is skipped. It was answered once, and is not asked again.
    let before = case.expected().transitions.len();
    case.send(500);
    broker.move_group("moved", &case.deployment.events(), 0, broker.ends(&case.deployment.events())[0]);
    case.one.start_with(&["--accept-offsets", "group"], &[]);
    assert_eq!(case.greet("newcomer"), before);
    case.one.stop();
    case.one.start();
    assert_eq!(case.greet("another"), before);
    case.one.stop();
}

#[test]
fn records_that_expired_unread_are_told_and_the_rest_is_read() {
    let broker = Broker::shared();
    let mut case = Case::new(broker, "expired", 1, "");
    case.one.start();
    case.send(1_000);
    case.settle();
    case.one.stop();
    let before = case.expected().transitions.len();
    let end = broker.ends(&case.deployment.events())[0];
    case.send(500);
    broker.expire(&case.deployment.events(), 0, end + 500);
    case.one.start();
    assert_eq!(case.greet("newcomer"), before);
    assert_eq!(case.one.metric("ebbtide_input_expired_records_total"), Some(500.0));
    assert_says(&case.one.log_since_start(), &["removed by the topic's retention before they were read", "missed=500"]);
    case.one.stop();
}

//! What a shard promises, one by one.

use super::*;
use crate::lifecycle::{Reason, State};
use crate::shard::{RecordOutcome, ShardError};

const DAY: i64 = DAY_MS;

#[test]
fn timers_fire_in_order_of_time_and_within_the_budget() {
    const USERS: usize = 20_000;
    const BUDGET: usize = 700;
    let rules = unguarded(Policy::default());
    let mut run = Run::new(&rules);
    // Four users at each moment, in an order that is not that of their ids.
    let inputs: Vec<Input> =
        (0..USERS).map(|n| activity(&format!("u{}", n * 7919 % USERS), START + (n as i64 / 4) * 1000)).collect();
    for batch in inputs.chunks(3_000) {
        run.apply(batch);
        run.commit();
    }
    run.outputs.clear();
    let mut calls = 0;
    loop {
        let before = run.effects.outputs.len();
        let progress = run.advance(START + 400 * DAY, true, BUDGET);
        let fired = of_topic(&run.effects.outputs[before..], Topic::Transitions).count();
        assert!(fired <= 2 * BUDGET, "{fired} fired in one step");
        calls += 1;
        if calls % 3 == 0 {
            run.commit();
        }
        if progress == Progress::Done {
            break;
        }
    }
    run.commit();
    let fired = run.transitions();
    assert_eq!(fired.len(), 3 * USERS, "at risk, lapsed and churned");
    assert!(fired.is_sorted_by_key(|json| text(json, "effective_at").to_owned()), "in order of time");
    assert_eq!(run.shard.cohorts().size(State::Churned, true), USERS as u64);
}

#[test]
fn a_wake_is_neither_early_nor_late() {
    let rules = rules(Policy::default(), &[]);
    let mut run = Run::new(&rules);
    // The guard is a day, so the last event comes shortly before the deadline.
    run.apply(&[activity("a", START), activity("b", START + 13 * DAY + DAY / 2)]);
    run.commit();
    let now = START + 13 * DAY + DAY / 2 + 1;
    while run.advance(now, true, 100) == Progress::More {}
    let mut at = now;
    // The wheel may say a little early, never late.
    for _ in 0..20 {
        let wait = run.shard.next_wake(wall(at)).expect("a deadline is near").as_millis();
        if wait == 0 {
            break;
        }
        at += wait;
        let _ = run.advance(at - 1, true, 100);
        assert!(run.effects.outputs.is_empty(), "nothing fires before the wake");
        let _ = run.advance(at, true, 100);
        if !run.effects.outputs.is_empty() {
            break;
        }
    }
    assert_eq!(at, START + 14 * DAY + 10_000, "the deadline and the lateness");
    run.commit();
    assert_eq!(run.transitions().last().map(|json| text(json, "to").to_owned()), Some("at_risk".to_owned()));
}

#[test]
fn behind_nobody_is_declared_gone_by_the_clock() {
    let rules = rules(Policy::default(), &[]);
    let mut run = Run::new(&rules);
    run.apply(&[activity("a", START)]);
    run.commit();
    run.outputs.clear();
    assert_eq!(run.advance(START + 60 * DAY, false, 100), Progress::Done);
    assert!(run.effects.outputs.is_empty(), "unread records may prove otherwise");
    assert_eq!(run.advance(START + 60 * DAY, true, 100), Progress::Done);
    assert!(run.effects.outputs.is_empty(), "a silent pipe is not a silent user base");
    assert!(run.shard.guard_holds(wall(START + 60 * DAY)));
    run.apply(&[activity("b", START + 60 * DAY)]);
    let _ = run.advance(START + 60 * DAY, true, 100);
    run.commit();
    let to: Vec<String> = run.transitions().iter().map(|json| text(json, "to").to_owned()).collect();
    assert_eq!(to, ["active", "at_risk", "lapsed"], "b enters, and a's deadlines fire");
}

#[test]
fn rubbish_is_a_dead_letter_and_moves_no_clock() {
    let rules = rules(Policy::default(), &[]);
    let mut run = Run::new(&rules);
    run.apply(&[activity("a", START)]);
    run.commit();
    run.outputs.clear();
    let (watermark, before) = (run.shard.watermark(), run.shard.cohorts().clone());
    let future = Input { now: START, ..activity("a", START + 2 * DAY) };
    let torn = Input { key: "k".to_owned(), value: Some("{".to_owned()), now: START + 30 * DAY };
    run.apply(std::slice::from_ref(&future));
    run.apply(&[torn]);
    run.commit();
    assert_eq!((run.shard.watermark(), run.shard.cohorts()), (watermark, &before));
    assert!(run.shard.guard_holds(wall(START + 30 * DAY)), "rubbish does not feed the guard");
    let letters: Vec<&Output> = of_topic(&run.outputs, Topic::DeadLetters).collect();
    assert_eq!(letters.len(), 2);
    let headers: BTreeMap<&str, &[u8]> = letters[0].headers.iter().collect();
    assert_eq!(headers["ebbtide_reason"], b"future");
    assert_eq!((headers["ebbtide_topic"], headers["ebbtide_partition"]), (&b"events"[..], &b"0"[..]));
    assert_eq!(headers["ebbtide_offset"], b"1");
    assert_eq!(letters[0].value.as_deref(), future.value.as_deref().map(str::as_bytes));
    assert_eq!(run.shard.committed_position(), Some(3));
}

#[test]
fn a_deleted_user_leaves_nothing_behind() {
    let rules = rules(Policy::default(), &["plan"]);
    let mut run = Run::new(&rules);
    run.apply(&[named("a", "opened", START, r#","properties":{"plan":"pro"}"#)]);
    run.commit();
    run.apply(&[Input { key: "a".to_owned(), value: None, now: START + 5 }]);
    run.apply(&[Input { key: "nobody".to_owned(), value: None, now: START + 5 }]);
    assert_eq!(run.effects.counts.records(RecordOutcome::Deletion), 2);
    run.commit();
    assert_eq!(run.shard.cohorts().total(), 0);
    assert!(run.shard.store().is_empty());
    let transitions = run.transitions();
    assert_eq!(transitions.len(), 2, "one who is unknown is not deleted");
    let deleted = &transitions[1];
    assert_eq!((text(deleted, "kind"), text(deleted, "reason")), ("deleted", "request"));
    assert_eq!((&deleted["to"], &deleted["properties"]), (&Value::Null, &serde_json::json!({})));
    assert!(states(&run.outputs).is_empty(), "the compacted topic has a null under the key");
    let last = run.changelog.iter().rfind(|record| record.key == b"ua").expect("the changelog says so");
    assert_eq!(last.value, None);
}

#[test]
fn a_changed_policy_judges_everybody_once_in_steps() {
    const USERS: usize = 1_500;
    let old = rules(Policy::default(), &[]);
    let mut run = Run::new(&old);
    let inputs: Vec<Input> = (0..USERS).map(|n| activity(&format!("u{n}"), START + n as i64)).collect();
    run.apply(&inputs);
    run.apply(&[activity("late", START + 10 * DAY)]);
    run.commit();
    let new = rules(Policy { inactive_after: Some(Span::from_days(7)), ..Policy::default() }, &[]);
    let mut run = Run::over(run.shard.store().clone(), &new);
    run.offset = run.shard.position().expect("there was a record");
    let now = START + 10 * DAY;
    assert_eq!(run.advance(now, false, 100), Progress::More);
    run.commit();
    // A restart in the middle goes on where it was; a user who acts meanwhile is judged first.
    run.shard = Shard::open(0, Arc::clone(&new), run.shard.store().clone(), 1).expect("opens");
    run.apply(&[activity("u9", now)]);
    while run.advance(now, false, 100) == Progress::More {
        run.commit();
    }
    run.commit();
    let judged = run.transitions().into_iter().filter(|json| text(json, "reason") == "policy_changed");
    let judged: Vec<String> = judged.map(|json| text(&json, "user_id").to_owned()).collect();
    let distinct: std::collections::BTreeSet<&String> = judged.iter().collect();
    assert_eq!((judged.len(), distinct.len()), (USERS, USERS), "each once, but for the one who was active");
    assert_eq!(run.shard.cohorts().size(State::AtRisk, true), USERS as u64 - 1);
    assert_eq!(run.shard.cohorts().size(State::Active, true), 2, "u9 recovered, and late is active");
    assert!(of_topic(&run.outputs, Topic::States).count() >= USERS, "the current states follow");
}

#[test]
fn another_partition_count_is_refused() {
    let rules = rules(Policy::default(), &[]);
    let mut run = Run::new(&rules);
    run.apply(&[activity("a", START)]);
    run.commit();
    let refused = Shard::open(0, rules, run.shard.store().clone(), 2);
    assert!(matches!(refused, Err(ShardError::PartitionCountChanged { recorded: 1, found: 2, .. })));
}

#[test]
fn a_reordered_track_list_keeps_the_properties_apart() {
    let mut run = Run::new(&rules(Policy::default(), &["plan", "city"]));
    run.apply(&[named("a", "opened", START, r#","properties":{"plan":"pro","city":"Ulm"}"#)]);
    run.commit();
    let reordered = rules(Policy::default(), &["size", "city"]);
    let mut run = Run::over(run.shard.store().clone(), &reordered);
    run.offset = 1;
    run.apply(&[named("a", "opened", START + 20 * DAY, r#","properties":{"size":3}"#)]);
    run.commit();
    let last = run.transitions().pop().expect("it recovered");
    assert_eq!(last["properties"], serde_json::json!({"city": "Ulm", "size": 3}));
}

#[test]
fn nothing_changed_needs_no_commit() {
    let mut run = Run::new(&rules(Policy::default(), &[]));
    assert!(run.shard.seal().expect("seals").is_empty());
    run.apply(&[activity("a", START)]);
    run.commit();
    assert!(run.shard.seal().expect("seals").is_empty());
}

/// The watermark never goes back (SPEC section 4), not even over a restart on a partition where nothing happens.
#[test]
fn a_watermark_that_wall_time_moved_is_committed() {
    let rules = rules(Policy::default(), &[]);
    let mut run = Run::new(&rules);
    run.apply(&[activity("a", START)]);
    run.commit();
    let _ = run.advance(START + 30_000, true, 10);
    assert!(!run.shard.pending().record, "half a minute waits for the next commit");
    let _ = run.advance(START + DAY / 2, true, 10);
    assert!(run.shard.pending().record, "half a day is worth a commit");
    run.commit();
    let moved = run.shard.watermark();
    assert!(moved > EventTime::from_millis(START));
    assert_eq!(Run::over(run.shard.store().clone(), &rules).shard.watermark(), moved);
}

#[test]
#[should_panic(expected = "while a commit is under way")]
fn nothing_may_be_applied_while_a_commit_is_under_way() {
    let mut run = Run::new(&rules(Policy::default(), &[]));
    run.apply(&[activity("a", START)]);
    let _sealed = run.shard.seal().expect("seals");
    run.apply(&[activity("b", START)]);
}

#[test]
fn records_say_what_the_contract_says() {
    let mut run = Run::new(&unguarded(Policy::default()));
    run.apply(
        &[activity("a\"ü", START), activity("a\"ü", START + 40 * DAY)]
            .map(|input| Input { value: input.value.map(|value| value.replace("a\"ü", "a\\\"ü")), ..input }),
    );
    run.commit();
    let last = of_topic(&run.outputs, Topic::Transitions).last().expect("it came back");
    let json = parsed(last).expect("a transition has a value");
    let fields: Vec<&str> = json.as_object().expect("an object").keys().map(String::as_str).collect();
    assert_eq!(
        fields,
        [
            "id",
            "seq",
            "user_id",
            "from",
            "to",
            "kind",
            "reason",
            "effective_at",
            "detected_at",
            "first_active_at",
            "last_active_at",
            "activated_at",
            "idle_days",
            "total_events",
            "core_actions",
            "last_events",
            "properties",
            "previous_since",
            "away_days",
            "away_from"
        ]
    );
    assert_eq!((text(&json, "id"), text(&json, "kind")), ("a\"ü:4", "reactivated"));
    assert_eq!((text(&json, "from"), text(&json, "away_from")), ("lapsed", "lapsed"));
    assert_eq!((json["away_days"].as_f64(), json["idle_days"].as_f64()), (Some(10.0), Some(0.0)));
    assert_eq!(last.key.as_deref(), Some("a\"ü".as_bytes()));
    let headers: BTreeMap<&str, &[u8]> = last.headers.iter().collect();
    assert_eq!(headers["ce_source"], b"/ebbtide/ebbtide/0");
    assert_eq!(headers["ce_id"], "a\"ü:4".as_bytes());
    assert_eq!(headers["ce_time"], b"2023-12-25T00:00:00.000Z");
    let state = of_topic(&run.outputs, Topic::States).last().and_then(parsed).expect("it has a state");
    let fields: Vec<&str> = state.as_object().expect("an object").keys().map(String::as_str).collect();
    assert_eq!(
        fields,
        [
            "user_id",
            "state",
            "since",
            "reason",
            "activated",
            "seq",
            "first_active_at",
            "last_active_at",
            "activated_at",
            "total_events",
            "core_actions",
            "last_events",
            "properties",
            "segments",
            "next_deadline_at",
            "updated_at"
        ]
    );
    assert_eq!(text(&state, "next_deadline_at"), "2024-01-08T00:00:00.000Z");
    let counted: Vec<_> = run.effects.counts.transitions().collect();
    assert_eq!(counted, [], "the counts were cleared with the commit");
    assert_eq!(Reason::ALL.len(), 8);
}

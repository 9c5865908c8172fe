//! Segments and returns in a whole shard: what is written with what, what survives, what is counted.

use super::*;
use crate::event::{EventList, Preset};
use crate::lifecycle::State;
use crate::segment::Draft;
use crate::shard::Aggregates;
use crate::shard::aggregates::Arms;
use crate::win_back::{Arm, Holdout};

fn draft(name: &str, states: &[State]) -> Draft {
    Draft { name: name.to_owned(), states: states.to_vec(), ..Draft::default() }
}

/// `session` events are win-back sessions, and name their campaign by the property `campaign`.
fn measured(segments: Vec<Draft>, holdout: Option<f64>) -> Arc<Rules> {
    let track = vec!["plan".to_owned()];
    let events = EventRules {
        preset: Preset::Native,
        win_back: Some(EventList::of_names(["session"]).expect("a name")),
        campaign: Some("campaign".to_owned()),
        track: track.clone(),
        ..EventRules::default()
    };
    let holdout = holdout.map(|share| Holdout::new(share, "salt").expect("a share"));
    Arc::new(Rules {
        policy: Policy { inactive_after: None, declining: None, ..Policy::default() },
        decoder: Decoder::new(events).expect("the rules are sound"),
        time: TimeRules { lateness: Span::ZERO, silence_guard: None, ..TimeRules::default() },
        track,
        segments,
        win_back: WinBackRules { holdout, ..WinBackRules::default() },
        retention: Vec::new(),
        signals: false,
        origin: Origin::default(),
    })
}

fn day(days: i64) -> i64 {
    START + days * DAY_MS
}

fn values(outputs: &[Output], topic: Topic) -> Vec<Value> {
    of_topic(outputs, topic).map(|output| parsed(output).unwrap_or(Value::Null)).collect()
}

#[test]
fn a_return_comes_with_its_exit_and_its_attribution() {
    let idle =
        Draft { idle_from: Some(Span::from_days(30)), idle_to: Some(Span::from_days(60)), ..draft("recent", &[]) };
    let mut run = Run::new(&measured(vec![draft("churned", &[State::Churned]), idle], Some(1.0)));
    run.apply(&[activity("u", day(0))]);
    run.advance_fully(day(95), 10);
    run.commit();
    let entries: Vec<(String, String, String)> = values(&run.outputs, Topic::Segments)
        .iter()
        .map(|json| (text(json, "segment").into(), text(json, "action").into(), text(json, "cause").into()))
        .collect();
    let of = |segment: &str, action: &str, cause: &str| (segment.into(), action.into(), cause.into());
    let expected = [of("recent", "entered", "u:2"), of("recent", "exited", "time"), of("churned", "entered", "u:3")];
    assert_eq!(entries, expected);
    let state = values(&run.outputs, Topic::States).pop().expect("a state");
    assert_eq!(state["segments"], serde_json::json!(["churned"]));

    let before = run.outputs.len();
    run.apply(&[named("u", "session", day(96), r#","properties":{"campaign":"spring"}"#)]);
    run.commit();
    let topics: Vec<Topic> = run.outputs[before..].iter().map(|output| output.topic).collect();
    assert_eq!(topics, [Topic::Transitions, Topic::Segments, Topic::States, Topic::Outcomes]);
    let all: Vec<Value> = run.outputs[before..].iter().filter_map(parsed).collect();
    assert_eq!((text(&all[0], "kind"), text(&all[0], "away_from")), ("reactivated", "churned"));
    assert_eq!(
        (text(&all[1], "action"), text(&all[1], "cause"), &all[1]["holdout"]),
        ("exited", "u:4", &Value::Bool(true))
    );
    assert_eq!(all[2]["segments"], serde_json::json!([]));
    let outcome = ["kind", "campaign", "transition", "away_from"].map(|field| text(&all[3], field));
    assert_eq!(outcome, ["attributed", "spring", "u:4", "churned"]);
    assert_eq!(all[3]["away_days"], 66.0);

    run.advance_fully(day(140), 10);
    run.commit();
    assert_eq!(schemas::assert_published(&run.outputs), run.outputs.len());
    let aggregates = Aggregates::load(run.shard.store()).expect("reads");
    assert_eq!((aggregates.size("churned"), aggregates.size("recent")), (0, 1));
    let returns = aggregates.returns();
    assert_eq!((returns.len(), returns[0].campaign.as_deref(), returns[0].curve.returned), (1, Some("spring"), 1));
    let held_out = Arm { users: 1, returned: 1 };
    let arms = aggregates.arms("churned", None, EventTime::from_millis(day(140)));
    assert_eq!(arms, Arms { held_out, ..Arms::default() });
}

#[test]
fn what_is_rolled_back_is_counted_once() {
    let mut run = Run::new(&measured(vec![draft("active", &[State::Active]), draft("gone", &[State::Churned])], None));
    run.apply(&[activity("u", day(0)), activity("v", day(0))]);
    run.commit();
    for attempt in 0..3 {
        run.advance_fully(day(91), 1);
        assert_eq!(run.shard.aggregates().size("gone"), 2);
        if attempt < 2 {
            run.rollback();
            assert_eq!((run.shard.aggregates().size("active"), run.shard.aggregates().size("gone")), (2, 0));
        }
    }
    run.commit();
    assert_eq!(Aggregates::load(run.shard.store()).expect("reads").size("gone"), 2);
}

#[test]
fn changed_definitions_judge_everybody_once_in_bounded_steps_across_restarts() {
    let all = || draft("all", &[]);
    let pro = Draft { when: Some(r#"properties.plan == "pro""#.to_owned()), ..draft("pro", &[]) };
    let mut run = Run::new(&measured(vec![draft("old", &[]), all()], None));
    let people: Vec<Input> = (0..50)
        .map(|number| {
            let plan = if number % 2 == 0 { r#","properties":{"plan":"pro"}"# } else { "" };
            named(&format!("u{number:02}"), "opened", day(0), plan)
        })
        .collect();
    run.apply(&people);
    run.commit();
    run.outputs.clear();
    let new = measured(vec![pro, all()], None);
    let mut more = Progress::More;
    let mut rounds = 0;
    while more == Progress::More {
        // Every step is in another process.
        let store = run.shard.store().clone();
        run.shard = Shard::open(0, Arc::clone(&new), store, 1).expect("opens");
        more = run.advance(day(0), true, 7);
        run.commit();
        rounds += 1;
    }
    assert!(rounds >= 50 / 7, "{rounds} rounds");
    let moves = values(&run.outputs, Topic::Segments);
    let count = |segment: &str, action: &str| {
        moves.iter().filter(|json| text(json, "segment") == segment && text(json, "action") == action).count()
    };
    assert_eq!((count("old", "exited"), count("pro", "entered"), moves.len()), (50, 25, 75));
    assert!(moves.iter().all(|json| text(json, "cause") == "definition_changed"));
    let aggregates = run.shard.aggregates();
    assert_eq!(["old", "all", "pro"].map(|name| aggregates.size(name)), [0, 50, 25]);
    assert!(run.transitions().is_empty(), "the policy is the same");
}

#[test]
fn deletion_leaves_the_segments_and_keeps_what_was_counted() {
    let mut run = Run::new(&measured(vec![draft("all", &[])], None));
    run.apply(&[activity("u", day(0)), named("u", "session", day(40), "")]);
    run.commit();
    run.apply(&[Input { key: "u".to_owned(), value: None, now: day(40) }]);
    run.commit();
    let aggregates = run.shard.aggregates();
    assert_eq!((aggregates.size("all"), aggregates.returns().len()), (0, 1));
    let exit = values(&run.outputs, Topic::Segments).pop().expect("an exit");
    assert_eq!((text(&exit, "cause"), &exit["last_active_at"]), ("deleted", &Value::Null));
    let outcome = values(&run.outputs, Topic::Outcomes);
    assert_eq!(text(&outcome[0], "campaign"), "unknown");
}

//! Silence (SPEC section 4; issue 2, "What it must show", 4): an outage with unread events behind it declares nobody
//! gone, a record from 2099 moves no clock, and a dead producer does not churn the user base.

mod support;

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use ebbtide::lifecycle::Policy;
use ebbtide::shard::watermark::TimeRules;
use ebbtide::time::Span;
use serde_json::Value;
use support::flow::Sent;
use support::instance::Deployment;
use support::kafka::{Broker, Message, Reader, eventually};
use support::model::{Input, ModelEvent};

const SECOND_MS: i64 = 1_000;
/// Long enough that a loaded machine starts everything in time, short enough to wait for.
const LAPSED_AFTER_MS: i64 = 20 * SECOND_MS;

fn settings(silence_guard: &str) -> String {
    format!(
        r#"
[policy]
lapsed_after = "20s"
churned_after = "30d"

[policy.at_risk]
inactive_after = "off"
declining = false

[time]
lateness = "0s"
idle_after = "1s"
silence_guard = "{silence_guard}"
"#
    )
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    i64::try_from(since.as_millis()).expect("a present time")
}

fn event(user: &str, time: i64) -> Input {
    Input::Event(ModelEvent {
        user: user.to_owned(),
        name: "Opened".to_owned(),
        time,
        id: None,
        activity: true,
        activation: true,
        core: true,
        win_back: None,
        properties: BTreeMap::new(),
    })
}

fn send(broker: &Broker, deployment: &Deployment, sent: &mut Sent, inputs: impl IntoIterator<Item = Input>) {
    let messages: Vec<Message> = inputs.into_iter().map(|input| sent.add(input)).collect();
    broker.produce(&deployment.events(), messages);
}

/// Users and the states they went to, in the order read.
fn seen(messages: &[Message]) -> Vec<(String, String)> {
    messages
        .iter()
        .map(|message| {
            let record: Value = serde_json::from_slice(message.value.as_deref().expect("a value")).expect("JSON");
            let text = |name: &str| record[name].as_str().unwrap_or_default().to_owned();
            (text("user_id"), text("to"))
        })
        .collect()
}

fn wait_for(reader: &mut Reader, user: &str, state: &str) {
    let wanted = (user.to_owned(), state.to_owned());
    reader.read_until(&format!("{user} to be {state}"), |messages| seen(messages).contains(&wanted));
}

#[test]
fn an_outage_with_unread_events_declares_nobody_gone() {
    let broker = Broker::start();
    let deployment = Deployment::new(&broker, "outage", &settings("24h"));
    broker.create_topic(&deployment.events(), 1, &[]);
    broker.create_topic(&deployment.transitions(), 1, &[]);
    let mut transitions = broker.reader(&deployment.transitions());
    let mut sent = Sent::new(1);
    let mut instance = deployment.instance("one");
    instance.start();
    // Only a shard at work can be caught out: it has to have seen the end of the partition.
    eventually("the instance to be ready", || instance.get("/readyz").is_some_and(|(status, _)| status == 200));
    let begin = now_ms();
    send(&broker, &deployment, &mut sent, [event("stays", begin), event("leaves", begin)]);
    wait_for(&mut transitions, "stays", "active");
    wait_for(&mut transitions, "leaves", "active");

    // It hears nothing for a while, in which `stays` goes on acting; then the broker is away as well.
    instance.signal("STOP");
    let acts = (1..=40).map(|number| event("stays", begin + number * LAPSED_AFTER_MS / 2));
    send(&broker, &deployment, &mut sent, acts);
    broker.stop();
    eventually("wall time to pass the deadline of both", || now_ms() > begin + LAPSED_AFTER_MS + 2 * SECOND_MS);
    instance.signal("CONT");
    // It runs for some seconds with the deadlines behind it and the proof out of reach.
    eventually("it to have run without a broker", || now_ms() > begin + LAPSED_AFTER_MS + 8 * SECOND_MS);
    instance.assert_alive();
    broker.start_again();

    let time = TimeRules { lateness: Span::ZERO, ..TimeRules::default() };
    let policy = Policy {
        inactive_after: None,
        declining: None,
        lapsed_after: Span::from_millis(LAPSED_AFTER_MS),
        churned_after: Span::from_days(30),
        ..Policy::default()
    };
    let expected = sent.expected(&policy, &time);
    wait_for(&mut transitions, "leaves", "lapsed");
    transitions.read_until("all transitions", |messages| messages.len() >= expected.transitions.len());
    instance.stop();
    transitions.read_to(&broker.ends(&deployment.transitions()));
    expected.assert_transitions("after the outage", &transitions.messages);
    assert!(!seen(&transitions.messages).contains(&("stays".to_owned(), "lapsed".to_owned())));
}

#[test]
fn a_record_from_2099_is_a_dead_letter_and_moves_no_clock() {
    let broker = Broker::shared();
    let deployment = Deployment::new(broker, "future", &settings("24h"));
    broker.create_topic(&deployment.events(), 1, &[]);
    let mut sent = Sent::new(1);
    let mut instance = deployment.instance("one");
    instance.start();
    let begin = now_ms() - 5 * SECOND_MS;
    send(broker, &deployment, &mut sent, [event("here", begin)]);
    let future = Message {
        partition: Some(0),
        key: Some(b"here".to_vec()),
        value: Some(br#"{"user_id":"here","event":"Opened","time":"2099-12-31T23:59:59Z"}"#.to_vec()),
        ..Message::default()
    };
    broker.produce(&deployment.events(), [future.clone()]);
    send(broker, &deployment, &mut sent, [event("after", begin + 1)]);
    let mut transitions = broker.reader(&deployment.transitions());
    wait_for(&mut transitions, "after", "active");
    let mut dead = broker.reader(&deployment.dead_letters());
    dead.read_until("the dead letter", |messages| !messages.is_empty());
    assert_eq!(dead.messages[0].value, future.value);
    assert!(dead.messages[0].headers.contains(&("ebbtide_reason".to_owned(), b"future".to_vec())));
    // A clock at 2099 would have churned both before `after` was even read.
    assert_eq!(
        seen(&transitions.messages)[..2],
        [("here", "active"), ("after", "active")].map(|(user, state)| { (user.to_owned(), state.to_owned()) })
    );
    // Wall time goes on as ever: they lapse when they should, and no sooner.
    wait_for(&mut transitions, "here", "lapsed");
    assert!(now_ms() >= begin + LAPSED_AFTER_MS, "lapsed ahead of time");
    assert!(seen(&transitions.messages).iter().all(|(_, state)| state != "churned"));
    instance.stop();
}

#[test]
fn a_dead_producer_does_not_churn_the_user_base_past_the_guard() {
    let broker = Broker::shared();
    let guarded = Deployment::new(broker, "guarded", &settings("3s"));
    let open = Deployment::new(broker, "unguarded", &settings("off"));
    let mut sent = Sent::new(1);
    let mut instances = [guarded.instance("one"), open.instance("one")];
    for (deployment, instance) in [&guarded, &open].into_iter().zip(&mut instances) {
        broker.create_topic(&deployment.events(), 1, &[]);
        instance.start();
    }
    let mut transitions = [broker.reader(&guarded.transitions()), broker.reader(&open.transitions())];
    let begin = now_ms();
    for (deployment, reader) in [&guarded, &open].into_iter().zip(&mut transitions) {
        send(broker, deployment, &mut sent, [event("quiet", begin)]);
        wait_for(reader, "quiet", "active");
    }
    // The last record was received by now: from here on the guard counts.
    let received = now_ms();
    // Then the producer dies. Without a guard the user lapses by wall time alone: this is what the guard prevents.
    wait_for(&mut transitions[1], "quiet", "lapsed");
    eventually("wall time to pass the guarded deadline", || now_ms() > received + LAPSED_AFTER_MS + 5 * SECOND_MS);
    eventually("the metric to say that the guard holds", || {
        instances[0].metric("ebbtide_silence_guard_holds").is_some_and(|held| held > 0.0)
    });
    transitions[0].read_to(&broker.ends(&guarded.transitions()));
    assert_eq!(seen(&transitions[0].messages), [("quiet".to_owned(), "active".to_owned())]);

    // The producer is back: time moves again, and who was silent all the while has lapsed.
    send(broker, &guarded, &mut sent, [event("back", now_ms())]);
    wait_for(&mut transitions[0], "quiet", "lapsed");
    for instance in &mut instances {
        instance.stop();
    }
}

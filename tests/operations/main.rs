//! What an operator may meet, each on a real broker: a defined behaviour, an error that says what to do, and going on
//! without loss where that is safe (issue 5, "Operations"; docs/operations.md, "When something breaks").

#[path = "../support/mod.rs"]
mod support;

mod chores;
mod disk;
mod permissions;
mod topics;

use std::thread;
use std::time::Duration;

use ebbtide::lifecycle::Policy;
use support::backlog::Backlog;
use support::flow::{Expected, Flow};
use support::instance::{Deployment, Instance};
use support::kafka::{Broker, Message};
use support::scene::{EVENT_TIME_ALONE, event_time_rules};

/// A deployment with one instance, and what it was sent.
struct Case<'b> {
    broker: &'b Broker,
    deployment: Deployment,
    flow: Flow,
    one: Instance,
}

impl<'b> Case<'b> {
    fn new(broker: &'b Broker, name: &str, partitions: i32, settings: &str) -> Self {
        Self::with_users(broker, name, partitions, settings, 200)
    }

    fn with_users(broker: &'b Broker, name: &str, partitions: i32, settings: &str, users: usize) -> Self {
        let deployment = Deployment::new(broker, name, &format!("{EVENT_TIME_ALONE}{settings}"));
        broker.create_topic(&deployment.events(), partitions, &[]);
        let flow = Flow::new(broker, &deployment.events(), partitions, users, 7);
        let one = deployment.instance("one");
        Self { broker, deployment, flow, one }
    }

    fn send(&mut self, count: usize) {
        self.flow.send(count);
        self.flow.flush();
    }

    fn expected(&self) -> Expected {
        self.flow.sent.expected(&Policy::default(), &event_time_rules())
    }

    /// Waits until everything sent is processed, and compares it with the model: nothing lost, nothing doubled.
    fn settle(&mut self) {
        let expected = self.expected();
        let mut reader = self.broker.reader(&self.deployment.transitions());
        reader.read_until("all transitions", |messages| {
            self.one.assert_alive();
            messages.len() >= expected.transitions.len()
        });
        reader.read_to(&self.broker.ends(&self.deployment.transitions()));
        expected.assert_transitions("a reader", &reader.messages);
        expected.assert_states(&self.broker.read_all(&self.deployment.states()));
    }

    /// Sends one event of a new user, waits for their transition, and gives how many of other users there are then.
    fn greet(&mut self, user: &str) -> usize {
        let value = format!(r#"{{"user_id":"{user}","event":"Opened","time":1704067200000}}"#);
        let message = Message { partition: Some(0), value: Some(value.into_bytes()), ..Message::default() };
        self.broker.produce(&self.deployment.events(), [message]);
        let mut reader = self.broker.reader(&self.deployment.transitions());
        reader.read_until(&format!("the transition of {user}"), |messages| {
            self.one.assert_alive();
            messages.iter().any(|message| message.key.as_deref() == Some(user.as_bytes()))
        });
        let of_flow = |message: &&Message| message.key.as_deref().is_some_and(|key| key.starts_with(b"user-"));
        reader.messages.iter().filter(of_flow).count()
    }
}

/// Every one of `words` is in `text`.
fn assert_says(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "`{word}` is not in:\n{text}");
    }
}

/// Longer than the session and the transaction time-outs: what takes minutes takes the same ways.
const OUTAGE: Duration = Duration::from_secs(25);

#[test]
fn brokers_that_are_gone_for_long_are_waited_for() {
    let broker = Broker::start();
    let mut case = Case::new(&broker, "gone", 2, "");
    case.one.start();
    case.send(2_000);
    case.settle();
    // Work is under way when they go.
    case.send(500);
    broker.stop();
    thread::sleep(OUTAGE);
    case.one.assert_alive();
    broker.start_again();
    case.send(500);
    case.settle();
    case.one.stop();
}

#[test]
fn a_huge_backlog_is_read_in_bounded_memory() {
    let broker = Broker::shared();
    let deployment = Deployment::new(broker, "backlog", EVENT_TIME_ALONE);
    broker.create_topic(&deployment.events(), 2, &[]);
    Backlog::send(broker, &deployment).read_in_bounded_memory();
}

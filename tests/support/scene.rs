//! A play in three acts: events flow, something happens to the instances, and in the end there is exactly what the model
//! says, none lost, none doubled.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use ebbtide::lifecycle::Policy;
use ebbtide::shard::watermark::TimeRules;
use ebbtide::time::Span;

use super::flow::{Flow, Sent};
use super::instance::{Deployment, Instance};
use super::kafka::{Broker, Reader};

const PARTITIONS: i32 = 4;
const USERS: usize = 400;
/// Records sent in one go, and the pause between: about 1,000 a second, so that whatever happens hits work in flight.
const BURST: usize = 10;
const PAUSE: Duration = Duration::from_millis(10);

/// Only events move time, or what comes out would depend on when the test ran, and sizes would not stand still.
pub(crate) const EVENT_TIME_ALONE: &str = r#"
[properties]
track = ["plan"]

[time]
lateness = "1h"
idle_after = "24h"
"#;

/// What [`EVENT_TIME_ALONE`] says.
pub(crate) fn event_time_rules() -> TimeRules {
    TimeRules { lateness: Span::from_millis(3_600_000), ..TimeRules::default() }
}

/// The same, and users are forgotten.
pub(crate) const SETTINGS: &str = r#"
[properties]
track = ["plan"]

[policy]
forget_after = "120d"

[time]
lateness = "1h"
idle_after = "24h"
"#;

pub(crate) fn rules() -> (Policy, TimeRules) {
    let policy = Policy { forget_after: Some(Span::from_days(120)), ..Policy::default() };
    (policy, TimeRules { lateness: Span::from_millis(3_600_000), ..TimeRules::default() })
}

/// A deployment with its topics.
pub(crate) fn deployment(broker: &Broker, name: &str) -> Deployment {
    let deployment = Deployment::new(broker, name, SETTINGS);
    broker.create_topic(&deployment.events(), PARTITIONS, &[]);
    // A reader along is there before the first record is written.
    broker.create_topic(&deployment.transitions(), PARTITIONS, &[]);
    deployment
}

/// Sends records for as long as `act` takes, and gives what was sent.
pub(crate) fn while_events_flow(broker: &Broker, deployment: &Deployment, seed: u64, act: impl FnOnce()) -> Sent {
    let mut flow = Flow::new(broker, &deployment.events(), PARTITIONS, USERS, seed);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let sending = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                flow.send(BURST);
                thread::sleep(PAUSE);
            }
            flow.flush();
        });
        // Should `act` fail, the sender has to end as well.
        let stop = StopOnDrop(&done);
        act();
        drop(stop);
        sending.join().expect("everything was sent");
    });
    flow.sent
}

/// Sets it when dropped: whoever fails ends the threads beside as well.
pub(crate) struct StopOnDrop<'a>(pub(crate) &'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Waits until transitions have come that were not there before.
pub(crate) fn wait_for_progress(reader: &mut Reader, instances: &mut [&mut Instance], count: usize) {
    let enough = reader.messages.len() + count;
    reader.read_until("more transitions", |messages| {
        for instance in instances.iter_mut() {
            instance.assert_alive();
        }
        messages.len() >= enough
    });
}

/// Waits for the rest, stops everybody, and compares what a reader along and one afterwards have seen.
pub(crate) fn settle(
    broker: &Broker,
    deployment: &Deployment,
    sent: &Sent,
    along: &mut Reader,
    instances: &mut [&mut Instance],
) {
    let (policy, time) = rules();
    let expected = sent.expected(&policy, &time);
    along.read_until("all transitions", |messages| {
        for instance in instances.iter_mut() {
            instance.assert_alive();
        }
        messages.len() >= expected.transitions.len()
    });
    for instance in instances {
        instance.stop();
    }
    // Anything that is too much has been written by now.
    along.read_to(&broker.ends(&deployment.transitions()));
    expected.assert_transitions("the reader along", &along.messages);
    expected.assert_transitions("the reader afterwards", &broker.read_all(&deployment.transitions()));
    expected.assert_states(&broker.read_all(&deployment.states()));
    assert_eq!(broker.read_all(&deployment.dead_letters()), [], "dead letters");
}

//! Exactly once, on a real broker (issue 2, "What it must show", 3): killed at random moments, its disk lost, instances
//! joining and leaving, and in the end exactly the model's transitions, none lost, none doubled.

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use ebbtide::lifecycle::Policy;
use ebbtide::shard::watermark::TimeRules;
use ebbtide::time::Span;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use support::flow::{Flow, Sent};
use support::instance::{Deployment, Instance};
use support::kafka::{Broker, Reader};
use support::seed;

const PARTITIONS: i32 = 4;
const USERS: usize = 400;
const KILLS: usize = 22;
/// Records sent in one go, and the pause between: about 1,000 a second, so that every kill hits work in flight.
const BURST: usize = 10;
const PAUSE: Duration = Duration::from_millis(10);

/// Only events move time here, or what comes out would depend on when the test ran.
const SETTINGS: &str = r#"
[properties]
track = ["plan"]

[policy]
forget_after = "120d"

[time]
lateness = "1h"
idle_after = "24h"
"#;

fn rules() -> (Policy, TimeRules) {
    let policy = Policy { forget_after: Some(Span::from_days(120)), ..Policy::default() };
    (policy, TimeRules { lateness: Span::from_millis(3_600_000), ..TimeRules::default() })
}

fn deployment(broker: &Broker, name: &str) -> Deployment {
    let deployment = Deployment::new(broker, name, SETTINGS);
    broker.create_topic(&deployment.events(), PARTITIONS, &[]);
    // A reader along is there before the first record is written.
    broker.create_topic(&deployment.transitions(), PARTITIONS, &[]);
    deployment
}

/// Sends records for as long as `act` takes, and gives what was sent.
fn while_events_flow(broker: &Broker, deployment: &Deployment, seed: u64, act: impl FnOnce()) -> Sent {
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

struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Waits until transitions have come that were not there before.
fn wait_for_progress(reader: &mut Reader, instances: &mut [&mut Instance], count: usize) {
    let enough = reader.messages.len() + count;
    reader.read_until("more transitions", |messages| {
        for instance in instances.iter_mut() {
            instance.assert_alive();
        }
        messages.len() >= enough
    });
}

/// Waits for the rest, stops everybody, and compares what a reader along and one afterwards have seen.
fn settle(broker: &Broker, deployment: &Deployment, sent: &Sent, along: &mut Reader, instances: &mut [&mut Instance]) {
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

#[test]
fn killed_at_random_moments_it_loses_nothing_and_doubles_nothing() {
    let broker = Broker::shared();
    let deployment = deployment(broker, "killed");
    let mut along = broker.reader(&deployment.transitions());
    let mut instance = deployment.instance("one");
    let seed = seed("kills");
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let sent = while_events_flow(broker, &deployment, seed, || {
        for kill in 0..KILLS {
            instance.start();
            // Half of the kills hit an instance at work, half of them one that starts, joins or restores.
            if kill % 4 < 2 {
                wait_for_progress(&mut along, &mut [&mut instance], rng.random_range(1..200));
            }
            thread::sleep(Duration::from_millis(rng.random_range(0..1_500)));
            instance.kill();
            if kill % 2 == 0 {
                instance.wipe();
            }
        }
        instance.start();
        wait_for_progress(&mut along, &mut [&mut instance], 1);
    });
    settle(broker, &deployment, &sent, &mut along, &mut [&mut instance]);
}

#[test]
fn instances_join_and_leave_and_nothing_is_lost_or_doubled() {
    let broker = Broker::shared();
    let deployment = deployment(broker, "shared-out");
    let mut along = broker.reader(&deployment.transitions());
    let (mut one, mut two) = (deployment.instance("one"), deployment.instance("two"));
    let sent = while_events_flow(broker, &deployment, seed("joining and leaving"), || {
        one.start();
        wait_for_progress(&mut along, &mut [&mut one], 200);

        two.start();
        broker.wait_for_members(&deployment.name, 4);
        wait_for_progress(&mut along, &mut [&mut one, &mut two], 200);

        // It leaves in an orderly way.
        two.stop();
        broker.wait_for_members(&deployment.name, 2);
        wait_for_progress(&mut along, &mut [&mut one], 200);

        // It comes back, and the first one vanishes.
        two.start();
        broker.wait_for_members(&deployment.name, 4);
        wait_for_progress(&mut along, &mut [&mut one, &mut two], 200);
        one.kill();
        broker.wait_for_members(&deployment.name, 2);
        wait_for_progress(&mut along, &mut [&mut two], 200);
    });
    settle(broker, &deployment, &sent, &mut along, &mut [&mut two]);
}

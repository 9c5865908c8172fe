//! Exactly once, on a real broker (issue 2, "What it must show", 3): killed at random moments, its disk lost, instances
//! joining and leaving, and in the end exactly the model's transitions, none lost, none doubled.

mod support;

use std::thread;
use std::time::Duration;

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use support::kafka::Broker;
use support::scene::{deployment, settle, wait_for_progress, while_events_flow};
use support::seed;

const KILLS: usize = 22;
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
            // Any moment will do, and no two the same.
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

//! A network that fails (issue 5, "Zombies and ambiguity"): answers that are lost, connections that break in the middle
//! of a commit, brokers that cannot be reached for longer than a transaction may take, processes that were stopped and
//! come back as zombies. In the end exactly the model's transitions, none lost, none doubled.

mod support;

use std::fs;
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use support::backlog::Backlog;
use support::cluster::Cluster;
use support::instance::{Deployment, Instance};
use support::kafka::eventually;
use support::network::{END_TXN, FIND_COORDINATOR, Fault, FaultId, Harm, INIT_PRODUCER_ID, OFFSET_FETCH, PRODUCE, Way};
use support::scene::{deployment, settle, wait_for_progress, while_events_flow};
use support::seed;

/// Longer than a session (6 s below) and than a transaction (10 s).
const GONE: Duration = Duration::from_secs(16);
/// What an unanswered question is told by.
const UNKNOWN: &str = "the outcome of a commit was unknown";

fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| Cluster::start(1))
}

/// A deployment that reaches its broker through the network.
fn relayed(name: &str) -> Deployment {
    let mut deployment = deployment(&cluster().broker, name);
    deployment.brokers.clone_from(&cluster().relayed);
    deployment
        .settings
        .push_str("\n[kafka.consumer]\n\"session.timeout.ms\" = 6000\n\"heartbeat.interval.ms\" = 1500\n");
    deployment
}

fn impose(who: &str, way: Way, api: Option<i16>, harm: Harm, times: Option<u32>) -> FaultId {
    cluster().network.impose(Fault { who: format!("ebbtide-{who}"), way, api, harm, times })
}

fn producers(who: &str) -> usize {
    cluster().network.seen(&format!("ebbtide-{who}"), INIT_PRODUCER_ID)
}

/// How often the log says so.
fn said(instance: &Instance, what: &str) -> usize {
    fs::read_to_string(instance.log()).unwrap_or_default().matches(what).count()
}

#[test]
fn a_commit_whose_answer_is_lost_has_happened_and_is_taken_as_such() {
    let cluster = cluster();
    let deployment = relayed("unanswered");
    let mut along = cluster.broker.reader(&deployment.transitions());
    let mut instance = deployment.instance("unanswered");
    let sent = while_events_flow(&cluster.broker, &deployment, seed("lost answers"), || {
        instance.start();
        wait_for_progress(&mut along, &mut [&mut instance], 100);
        for loss in 1..=3 {
            impose("unanswered", Way::Answers, Some(END_TXN), Harm::Lose, Some(1));
            eventually("the question to be asked and answered", || said(&instance, UNKNOWN) == loss);
            wait_for_progress(&mut along, &mut [&mut instance], 100);
        }
    });
    assert_eq!(said(&instance, "answer=Resolved(Took)"), 3, "{}", instance.tail());
    settle(&cluster.broker, &deployment, &sent, &mut along, &mut [&mut instance]);
}

#[test]
fn a_commit_that_never_arrived_in_time_has_not_happened_even_when_it_arrives_late() {
    let cluster = cluster();
    let deployment = relayed("late");
    let mut along = cluster.broker.reader(&deployment.transitions());
    let mut instance = deployment.instance("late");
    let sent = while_events_flow(&cluster.broker, &deployment, seed("late commits"), || {
        instance.start();
        wait_for_progress(&mut along, &mut [&mut instance], 100);
        for loss in 1..=3 {
            let held = impose("late", Way::Requests, Some(END_TXN), Harm::Hold, None);
            eventually("a commit to be given up", || said(&instance, "answer=Resolved(DidNotTake)") >= loss);
            // Now it is delivered, over the connection that its producer has long left.
            cluster.network.lift(held);
            wait_for_progress(&mut along, &mut [&mut instance], 100);
        }
    });
    settle(&cluster.broker, &deployment, &sent, &mut along, &mut [&mut instance]);
}

/// The client repeats a request by itself when its connection was lost, and says nothing when the second one is answered.
/// The first may still be on its way, and would decide a later transaction of the same producer.
#[test]
fn a_producer_whose_connection_was_lost_is_never_used_again() {
    let cluster = cluster();
    let deployment = relayed("repeated");
    let mut along = cluster.broker.reader(&deployment.transitions());
    let mut instance = deployment.instance("repeated");
    let sent = while_events_flow(&cluster.broker, &deployment, seed("repeated commits"), || {
        instance.start();
        wait_for_progress(&mut along, &mut [&mut instance], 100);
        // All within half a minute, where the client tells the same loss only once.
        for _ in 0..6 {
            let before = producers("repeated");
            let lost = impose("repeated", Way::Answers, Some(END_TXN), Harm::LoseAndCut, Some(1));
            eventually("an answer to be lost", || !cluster.network.is_imposed(lost));
            eventually("a new producer", || producers("repeated") > before);
            wait_for_progress(&mut along, &mut [&mut instance], 20);
        }
    });
    assert_eq!(said(&instance, UNKNOWN), 0, "each was repeated and answered: {}", instance.tail());
    settle(&cluster.broker, &deployment, &sent, &mut along, &mut [&mut instance]);
}

/// Sending offsets is the one call of the client without an end of its own: it waits for the group's coordinator.
#[test]
fn a_producer_that_does_not_find_the_group_is_left_to_itself() {
    let cluster = cluster();
    let deployment = relayed("unfound");
    let mut along = cluster.broker.reader(&deployment.transitions());
    let mut instance = deployment.instance("unfound");
    instance.start();
    instance.page("/readyz");
    eventually("a producer for each worker", || producers("unfound") >= 2);
    // The first commit needs the coordinator, and the answer never comes.
    let lost = impose("unfound", Way::Answers, Some(FIND_COORDINATOR), Harm::Lose, None);
    let began = Instant::now();
    let sent = while_events_flow(&cluster.broker, &deployment, seed("not found"), || {
        eventually("the offsets to be given up", || said(&instance, "sending offsets failed") > 0);
        cluster.network.lift(lost);
        wait_for_progress(&mut along, &mut [&mut instance], 100);
        // Waiting for the client would be a minute at least: that long it believes in an answer.
        assert!(began.elapsed() < Duration::from_secs(45), "{:?}: {}", began.elapsed(), instance.tail());
    });
    settle(&cluster.broker, &deployment, &sent, &mut along, &mut [&mut instance]);
}

/// Before it gives a shard up, a member makes sure that nobody has committed for it. Where it cannot, it leaves the group
/// with the group's question unanswered, and the client must not wait for that answer.
#[test]
fn a_member_that_cannot_give_a_shard_up_in_order_leaves_the_group() {
    let cluster = cluster();
    let deployment = relayed("disorderly");
    let mut along = cluster.broker.reader(&deployment.transitions());
    let (mut one, mut two) = (deployment.instance("disorderly"), deployment.instance("newcomer"));
    let sent = while_events_flow(&cluster.broker, &deployment, seed("disorderly"), || {
        one.start();
        wait_for_progress(&mut along, &mut [&mut one], 100);
        let lost = impose("disorderly", Way::Answers, Some(OFFSET_FETCH), Harm::Lose, None);
        two.start();
        eventually("a worker to join anew", || said(&one, "joining the group anew") > 0);
        cluster.network.lift(lost);
        cluster.broker.wait_for_members(&deployment.name, 4);
        wait_for_progress(&mut along, &mut [&mut one, &mut two], 100);
    });
    settle(&cluster.broker, &deployment, &sent, &mut along, &mut [&mut one, &mut two]);
}

#[test]
fn cut_off_in_one_direction_for_longer_than_a_transaction_nothing_is_lost_or_doubled() {
    let cluster = cluster();
    let deployment = relayed("cut-off");
    let mut along = cluster.broker.reader(&deployment.transitions());
    let (mut one, mut two) = (deployment.instance("cut-off"), deployment.instance("beside"));
    let sent = while_events_flow(&cluster.broker, &deployment, seed("cut off"), || {
        one.start();
        two.start();
        cluster.broker.wait_for_members(&deployment.name, 4);
        wait_for_progress(&mut along, &mut [&mut one, &mut two], 100);
        for way in [Way::Requests, Way::Answers] {
            let held = impose("cut-off", way, None, Harm::Hold, None);
            thread::sleep(GONE);
            cluster.network.lift(held);
            cluster.broker.wait_for_members(&deployment.name, 4);
            wait_for_progress(&mut along, &mut [&mut one, &mut two], 100);
        }
    });
    settle(&cluster.broker, &deployment, &sent, &mut along, &mut [&mut one, &mut two]);
}

#[test]
fn a_process_that_was_stopped_past_its_session_comes_back_and_doubles_nothing() {
    let cluster = cluster();
    let deployment = relayed("stopped");
    let mut along = cluster.broker.reader(&deployment.transitions());
    let (mut one, mut two) = (deployment.instance("zombie"), deployment.instance("heir"));
    let sent = while_events_flow(&cluster.broker, &deployment, seed("zombies"), || {
        one.start();
        two.start();
        cluster.broker.wait_for_members(&deployment.name, 4);
        for _ in 0..3 {
            wait_for_progress(&mut along, &mut [&mut one, &mut two], 100);
            one.signal("STOP");
            // The heir has its shards, and has gone on with them.
            cluster.broker.wait_for_members(&deployment.name, 2);
            wait_for_progress(&mut along, &mut [&mut two], 300);
            one.signal("CONT");
            cluster.broker.wait_for_members(&deployment.name, 4);
        }
    });
    settle(&cluster.broker, &deployment, &sent, &mut along, &mut [&mut one, &mut two]);
}

/// Each answer to a write takes so long: reading could run far ahead of what is committed.
const SLOW: Duration = Duration::from_millis(400);

#[test]
fn a_broker_that_is_slow_to_write_makes_nothing_pile_up_in_memory() {
    let cluster = cluster();
    let deployment = relayed("slow");
    let backlog = Backlog::send(&cluster.broker, &deployment);
    let slow = impose("one", Way::Answers, Some(PRODUCE), Harm::Delay(SLOW), None);
    backlog.read_in_bounded_memory();
    cluster.network.lift(slow);
}

/// How long a worker is watched while it waits.
const WATCHED: Duration = Duration::from_secs(5);

#[test]
fn a_worker_that_waits_for_its_broker_takes_no_processor() {
    let cluster = cluster();
    let deployment = relayed("patient");
    let mut along = cluster.broker.reader(&deployment.transitions());
    let mut one = deployment.instance("patient");
    let sent = while_events_flow(&cluster.broker, &deployment, seed("patience"), || {
        one.start();
        wait_for_progress(&mut along, &mut [&mut one], 100);
        let slow = impose("patient", Way::Answers, Some(PRODUCE), Harm::Delay(SLOW), None);
        let before = one.processor_time();
        // There is always something to commit, so both workers spend nearly all of it waiting for the brokers.
        thread::sleep(WATCHED);
        let taken = one.processor_time().saturating_sub(before);
        assert!(taken < WATCHED / 4, "{taken:?} of {WATCHED:?}");
        cluster.network.lift(slow);
    });
    settle(&cluster.broker, &deployment, &sent, &mut along, &mut [&mut one]);
}

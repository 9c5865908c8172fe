//! Chaos (issue 5, "What it must show", 1): three brokers, three instances, twelve partitions, live traffic, and
//! everything that can happen to them happens, in an order drawn from a seed.
//!
//! A run is a row of rounds. In a round events flow while instances are killed, frozen, robbed of their disks, leave and
//! join, brokers go down and leaders move, and the network between delays, holds, cuts and loses. At its end everybody is
//! healthy again, and what two `read_committed` readers have seen, one that reads along and one that reads afterwards, is
//! compared with the naive model user by user; the topic of current states and `/v1/cohorts` likewise.
//!
//! As a part of `make test` it takes three minutes. `make chaos MINUTES=60 SEED=7` runs as long as one likes. The seed gives
//! the schedule and the events; when exactly a blow hits is up to the machine. A failure prints its seed and keeps logs,
//! topics and stacks.

#![expect(clippy::print_stderr, reason = "how a run goes, and its seed, are for the person who runs it")]

#[path = "../support/mod.rs"]
mod support;

mod evidence;
mod lanes;
mod ledger;
mod schedule;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use evidence::Journal;
use ledger::{Ledger, Sequences, sizes};
use schedule::Schedule;
use serde_json::Value;
use support::cluster::Cluster;
use support::flow::Flow;
use support::instance::{Deployment, Instance};
use support::kafka::{Reader, eventually};
use support::{scene, seed};

const NODES: usize = 3;
const INSTANCES: [&str; 3] = ["one", "two", "three"];
const PARTITIONS: i32 = 12;
/// A run without a wish is part of all tests.
const MINUTES: u64 = 3;
const ROUND_MAX: Duration = Duration::from_mins(3);
/// Users for a minute of the run, so that however long it is each is met about as often.
const USERS_PER_MINUTE: usize = 300;
/// The number of users that suits the usual pace of the stream.
const USERS_USUAL: usize = 400;
/// About 200 records a second: the machine has to run seven processes beside.
const BURST: usize = 4;
const PAUSE: Duration = Duration::from_millis(20);
/// As short as the brokers allow, so that more happens.
const SETTINGS: &str = r#"
[kafka.consumer]
"session.timeout.ms" = 6000
"heartbeat.interval.ms" = 1500
"#;

/// Everything that a run needs.
struct Chaos {
    seed: u64,
    cluster: Cluster,
    deployment: Deployment,
    instances: Vec<Instance>,
    journal: Journal,
    flow: Flow,
    ledger: Ledger,
    along: Reader,
    /// Where the reader that reads afterwards begins in the present round.
    compared: Vec<i64>,
    states: Reader,
    transitions: usize,
}

#[test]
fn whatever_happens_nothing_is_lost_and_nothing_is_doubled() {
    let minutes =
        std::env::var("EBBTIDE_CHAOS_MINUTES").map_or(MINUTES, |text| text.parse().expect("a number of minutes"));
    let length = Duration::from_mins(minutes);
    let seed = seed("chaos");
    let mut chaos = Chaos::prepare(seed, usize::try_from(minutes).expect("not that long"));
    let began = Instant::now();
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let mut round = 0;
        while began.elapsed() < length {
            chaos.round(round, ROUND_MAX.min(length / 2));
            round += 1;
            eprintln!(
                "{:.1} min, {} transitions as they should be; {}",
                began.elapsed().as_secs_f64() / 60.0,
                chaos.transitions,
                chaos.journal.summary()
            );
        }
        chaos.end();
    }));
    if let Err(failure) = outcome {
        let folders: Vec<PathBuf> = chaos.instances.iter().map(|instance| instance.folder().to_owned()).collect();
        chaos.instances.iter().for_each(|instance| evidence::stacks(seed, instance));
        // Frozen or held, nothing could be read.
        chaos.cluster.network.heal();
        let folder = evidence::keep(seed, &chaos.journal, &chaos.cluster, &chaos.deployment, &folders);
        eprintln!("chaos failed: SEED={seed} MINUTES={minutes}; the evidence is in {}", folder.display());
        resume_unwind(failure);
    }
}

impl Chaos {
    fn prepare(seed: u64, minutes: usize) -> Self {
        let cluster = Cluster::start(NODES);
        let mut deployment = Deployment::new(&cluster.broker, "chaos", &format!("{}{SETTINGS}", scene::SETTINGS));
        deployment.brokers.clone_from(&cluster.relayed);
        deployment.commit_interval = Duration::from_millis(200);
        // Whoever reads along is there before the first record.
        cluster.broker.create_topic(&deployment.events(), PARTITIONS, &[]);
        cluster.broker.create_topic(&deployment.transitions(), PARTITIONS, &[]);
        cluster.broker.create_topic(&deployment.states(), PARTITIONS, &[("cleanup.policy", "compact")]);
        let users = (USERS_PER_MINUTE * minutes).max(USERS_USUAL);
        let (policy, time) = scene::rules();
        let broker = &cluster.broker;
        Self {
            flow: Flow::new(broker, &deployment.events(), PARTITIONS, users, seed).crowded(USERS_USUAL),
            ledger: Ledger::new(usize::try_from(PARTITIONS).expect("a few"), &policy, &time),
            along: broker.reader(&deployment.transitions()),
            states: broker.reader(&deployment.states()),
            instances: INSTANCES.iter().map(|id| deployment.instance(id)).collect(),
            journal: Journal::new(),
            compared: Vec::new(),
            transitions: 0,
            seed,
            cluster,
            deployment,
        }
    }

    fn round(&mut self, number: u64, length: Duration) {
        let schedule = Schedule::new(self.seed, number, INSTANCES.len(), NODES, length);
        for instance in &mut self.instances {
            if !instance.is_started() {
                instance.start();
            }
        }
        let (done, failed) = (AtomicBool::new(false), AtomicBool::new(false));
        let Self { cluster, deployment, instances, journal, flow, along, .. } = self;
        let lanes = lanes::Lanes { cluster, journal, topic: deployment.events(), failed: &failed };
        thread::scope(|scope| {
            let beside = [
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        flow.send(BURST);
                        // The pace of the traffic.
                        thread::sleep(PAUSE);
                    }
                    flow.flush();
                }),
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        along.poll();
                    }
                }),
            ];
            let mut blows = Vec::new();
            for (instance, acts) in instances.iter_mut().zip(schedule.instances) {
                blows.push(scope.spawn(|| lanes.hurt(instance, acts, length)));
            }
            blows.push(scope.spawn(|| lanes.bounce(schedule.nodes)));
            blows.push(scope.spawn(|| lanes.disturb(schedule.network)));
            let ended: Vec<_> = blows.into_iter().map(thread::ScopedJoinHandle::join).collect();
            done.store(true, Ordering::Relaxed);
            for lane in ended.into_iter().chain(beside.map(thread::ScopedJoinHandle::join)) {
                lane.unwrap_or_else(|failure| resume_unwind(failure));
            }
        });
        self.compare();
    }

    /// Everybody is healthy and nothing is sent: waits until all is worked off, and compares.
    fn compare(&mut self) {
        self.cluster.wait_until_whole();
        let sent = self.flow.take();
        let expected = self.ledger.take(&sent);
        let Self { along, instances, .. } = self;
        along.read_until("all transitions", |messages| {
            instances.iter_mut().for_each(lanes::supervise);
            messages.len() >= expected.transitions.len()
        });
        // What is expected is there. What is too much may still be on its way: all that was read is committed first.
        let cohorts = self.ledger.cohorts();
        eventually("the cohorts to be those of the model", || {
            // Each answers for the whole group.
            self.instances.iter_mut().all(|instance| {
                lanes::supervise(instance);
                let Some((200, text)) = instance.get("/v1/cohorts") else { return false };
                let answer: Value = serde_json::from_str(&text).expect("JSON");
                answer["partial"] == false && sizes(&answer) == cohorts
            })
        });
        let ends = self.cluster.broker.ends(&self.deployment.transitions());
        self.along.read_to(&ends);
        let mut afterwards = self.cluster.broker.reader_from(&self.deployment.transitions(), &self.compared);
        afterwards.read_to(&ends);
        expected.assert_transitions("the reader along", &self.along.messages);
        expected.assert_transitions("the reader afterwards", &afterwards.messages);
        self.states.read_to(&self.cluster.broker.ends(&self.deployment.states()));
        let states = self.ledger.fold(std::mem::take(&mut self.states.messages));
        expected.assert_states(&states);
        assert_eq!(self.cluster.broker.read_all(&self.deployment.dead_letters()), [], "dead letters");
        self.transitions += expected.transitions.len();
        self.along.messages.clear();
        self.compared = ends;
    }

    /// Everybody stops in order, and whoever reads the whole topic then finds the same.
    fn end(&mut self) {
        for instance in &mut self.instances {
            instance.stop();
        }
        let ends = self.cluster.broker.ends(&self.deployment.transitions());
        let mut sequences = Sequences::default();
        let mut reader = self.cluster.broker.reader(&self.deployment.transitions());
        while sequences.count < self.transitions {
            reader.read_until("the rest of the transitions", |messages| !messages.is_empty());
            reader.messages.drain(..).for_each(|message| sequences.take(&message));
        }
        reader.read_to(&ends);
        reader.messages.drain(..).for_each(|message| sequences.take(&message));
        assert_eq!(sequences.count, self.transitions, "transitions in the whole topic");
    }
}

//! What a user of the stream notices when instances are restarted one by one under load, and when one joins or leaves
//! (issue 5, "What it must show", 2): the longest time that any shard stands still, and how long an event takes to its
//! transition. `cargo test --release --test rolling -- --nocapture` prints the figures; what is asserted leaves room for
//! a machine that does other things.

#![expect(clippy::print_stderr, reason = "the figures are what it is for")]

mod support;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use support::instance::{Deployment, Instance};
use support::kafka::{Broker, Message, Reader, Sender, eventually};
use support::scene::StopOnDrop;

const PARTITIONS: i32 = 12;
const PER_SECOND: u64 = 600;
const TICK: Duration = Duration::from_millis(10);
/// A phase in which nothing happens, to compare with.
const CALM: Duration = Duration::from_secs(8);
/// How long the last transitions are waited for.
const WAIT_MAX: Duration = Duration::from_mins(1);
/// How long a shard may stand still: the aim is 2 s on a machine that does nothing else.
const PAUSE_MAX: Duration = Duration::from_secs(8);

/// Each event is a new user's first, so each has one transition at once, and its way can be timed.
#[derive(Default)]
struct Traffic {
    /// When each event was sent, and when its transition was read.
    events: Mutex<Vec<(Instant, Option<Instant>)>>,
    done: AtomicBool,
}

/// What was seen between two moments.
struct Phase {
    latencies: Vec<Duration>,
    /// The longest time between two readings of each shard.
    pauses: BTreeMap<i32, Duration>,
}

impl Traffic {
    fn partition(number: usize) -> i32 {
        i32::try_from(number % usize::try_from(PARTITIONS).expect("a few")).expect("a few")
    }

    fn send(&self, sender: &Sender, topic: &str) {
        let began = Instant::now();
        while !self.done.load(Ordering::Relaxed) {
            let due =
                usize::try_from(began.elapsed().as_millis() * u128::from(PER_SECOND) / 1_000).expect("not so many");
            let sent = self.events.lock().expect("no panic").len();
            for number in sent..due {
                let user = format!("user-{number}");
                let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis();
                let value = format!(r#"{{"user_id":"{user}","event":"Opened","time":{now}}}"#);
                self.events.lock().expect("no panic").push((Instant::now(), None));
                sender.send(
                    topic,
                    &Message {
                        partition: Some(Self::partition(number)),
                        key: Some(user.into_bytes()),
                        value: Some(value.into_bytes()),
                        ..Message::default()
                    },
                );
            }
            thread::sleep(TICK);
        }
        sender.flush();
    }

    fn read(&self, reader: &mut Reader) {
        let mut ended = None;
        loop {
            reader.poll();
            let now = Instant::now();
            let mut events = self.events.lock().expect("no panic");
            for message in reader.messages.drain(..) {
                let key = String::from_utf8(message.key.expect("a key")).expect("text");
                let number: usize =
                    key.strip_prefix("user-").and_then(|number| number.parse().ok()).expect("one of ours");
                assert_eq!(events[number].1.replace(now), None, "{key} has two transitions");
            }
            if self.done.load(Ordering::Relaxed) {
                if events.iter().all(|(_, read)| read.is_some()) {
                    return;
                }
                let since = *ended.get_or_insert(now);
                if since.elapsed() > WAIT_MAX {
                    let lost: Vec<usize> = events
                        .iter()
                        .enumerate()
                        .filter(|(_, (_, read))| read.is_none())
                        .map(|(number, _)| number)
                        .collect();
                    panic!("{} events have no transition: {:?} …", lost.len(), &lost[..lost.len().min(50)]);
                }
            }
        }
    }

    fn phase(&self, from: Instant, to: Instant) -> Phase {
        let events = self.events.lock().expect("no panic");
        let mut latencies = Vec::new();
        let mut arrivals: BTreeMap<i32, Vec<Instant>> = BTreeMap::new();
        for (number, (sent, read)) in events.iter().enumerate() {
            let read = read.expect("all are read");
            if (from..to).contains(sent) {
                latencies.push(read - *sent);
                arrivals.entry(Self::partition(number)).or_default().push(read);
            }
        }
        latencies.sort_unstable();
        let longest = |mut times: Vec<Instant>| {
            times.sort_unstable();
            times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
        };
        let pauses = arrivals.into_iter().map(|(partition, times)| (partition, longest(times))).collect();
        Phase { latencies, pauses }
    }
}

impl Phase {
    fn percentile(&self, percent: usize) -> Duration {
        self.latencies[(self.latencies.len() - 1) * percent / 100]
    }

    fn longest_pause(&self, of: impl Fn(i32) -> bool) -> Duration {
        self.pauses.iter().filter(|(partition, _)| of(**partition)).map(|(_, pause)| *pause).max().unwrap_or_default()
    }

    fn print(&self, name: &str) {
        eprintln!(
            "{name:24} {:6} events, p50 {:4} ms, p99 {:5} ms, most {:5} ms; longest pause of a shard {:5} ms",
            self.latencies.len(),
            self.percentile(50).as_millis(),
            self.percentile(99).as_millis(),
            self.percentile(100).as_millis(),
            self.longest_pause(|_| true).as_millis()
        );
    }
}

/// Which shards an instance has that run.
fn shards(instance: &mut Instance) -> Vec<i32> {
    let answer: Value = serde_json::from_str(&instance.page("/v1/shards")).expect("JSON");
    let shards = answer["shards"].as_array().expect("a list").iter();
    shards
        .filter(|shard| shard["phase"] == "running")
        .map(|shard| i32::try_from(shard["partition"].as_i64().expect("a number")).expect("a partition"))
        .collect()
}

/// Waits until every shard runs somewhere, and tells where.
fn owners(instances: &mut [Instance]) -> BTreeMap<i32, usize> {
    let mut owners = BTreeMap::new();
    eventually("every shard to run", || {
        owners.clear();
        for (place, instance) in instances.iter_mut().enumerate() {
            owners.extend(shards(instance).into_iter().map(|partition| (partition, place)));
        }
        i32::try_from(owners.len()) == Ok(PARTITIONS)
    });
    owners
}

#[test]
fn a_rolling_restart_and_a_member_more_hold_no_shard_up_for_long() {
    let broker = Broker::shared();
    let deployment = Deployment::new(broker, "rolling", "");
    broker.create_topic(&deployment.events(), PARTITIONS, &[]);
    broker.create_topic(&deployment.transitions(), PARTITIONS, &[]);
    let mut instances: Vec<Instance> = ["a", "b", "c"].iter().map(|id| deployment.instance(id)).collect();
    for instance in &mut instances {
        instance.start();
    }
    broker.wait_for_members(&deployment.name, 6);
    owners(&mut instances);

    let traffic = Traffic::default();
    let sender = broker.sender();
    let mut reader = broker.reader(&deployment.transitions());
    let (mut calm, mut rolling, mut joining, mut leaving) = (None, None, None, None);
    let (mut before, mut after) = (BTreeMap::new(), BTreeMap::new());
    thread::scope(|scope| {
        scope.spawn(|| traffic.send(&sender, &deployment.events()));
        let reading = scope.spawn(|| traffic.read(&mut reader));
        let stop = StopOnDrop(&traffic.done);
        let mut measure = |act: &mut dyn FnMut(&mut Vec<Instance>)| {
            let from = Instant::now();
            act(&mut instances);
            // What came of it is seen by what was sent right after.
            thread::sleep(Duration::from_secs(2));
            Some((from, Instant::now()))
        };
        calm = measure(&mut |_| thread::sleep(CALM));
        rolling = measure(&mut |instances| {
            for place in 0..instances.len() {
                instances[place].stop();
                instances[place].start();
                instances[place].page("/readyz");
                owners(instances);
            }
        });
        before = owners(&mut instances);
        let mut measure = |act: &mut dyn FnMut(&mut Vec<Instance>)| {
            let from = Instant::now();
            act(&mut instances);
            thread::sleep(Duration::from_secs(2));
            Some((from, Instant::now()))
        };
        joining = measure(&mut |instances| {
            let mut more = deployment.instance("d");
            more.start();
            instances.push(more);
            broker.wait_for_members(&deployment.name, 8);
            after = owners(instances);
        });
        leaving = measure(&mut |instances| {
            instances.pop().expect("four").stop();
            // Its shards wait for the end of its session: it may come back at any moment.
            broker.wait_for_members(&deployment.name, 6);
            owners(instances);
        });
        drop(stop);
        reading.join().expect("every event has one transition");
    });
    let phase =
        |moments: Option<(Instant, Instant)>| moments.map(|(from, to)| traffic.phase(from, to)).expect("measured");
    let (calm, rolling, joining, leaving) = (phase(calm), phase(rolling), phase(joining), phase(leaving));
    calm.print("nothing happens");
    rolling.print("a rolling restart of 3");
    joining.print("a fourth joins");
    leaving.print("it leaves");
    let kept = |partition: i32| before.get(&partition) == after.get(&partition);
    eprintln!(
        "when it joined, {} shards moved, for at most {} ms; the others paused for at most {} ms",
        (0..PARTITIONS).filter(|partition| !kept(*partition)).count(),
        joining.longest_pause(|partition| !kept(partition)).as_millis(),
        joining.longest_pause(kept).as_millis()
    );
    assert!(rolling.longest_pause(|_| true) < PAUSE_MAX, "a shard stood still during the rolling restart");
    assert!(joining.longest_pause(|_| true) < PAUSE_MAX, "a shard stood still while somebody joined");
    for instance in &mut instances {
        instance.stop();
    }
}

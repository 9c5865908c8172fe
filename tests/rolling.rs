//! What members that come and go cost: the longest time that any shard stands still, and how long an event takes to its
//! transition. `cargo test --release --test rolling -- --nocapture` prints the figures; what is asserted leaves room for
//! a machine that does other things (issue 5, point 2; docs/operations.md, "Restarts").

#![expect(clippy::print_stderr, reason = "the figures are what it is for")]

mod support;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ebbtide::kafka::partitioner::partition_of;
use serde_json::Value;
use support::instance::{Deployment, Instance};
use support::kafka::{Broker, Message, Reader, Sender, eventually};
use support::scene::StopOnDrop;

const PARTITIONS: i32 = 12;
const PER_SECOND: u64 = 600;
const TICK: Duration = Duration::from_millis(10);
/// A phase in which nothing happens, to compare with.
const CALM: Duration = Duration::from_secs(8);
/// How long what was sent after something is counted among its consequences.
const AFTERMATH: Duration = Duration::from_secs(2);
/// How long the last transitions are waited for.
const WAIT_MAX: Duration = Duration::from_mins(1);
/// How long a shard may stand still where the aim is 2 s on a machine that does nothing else.
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// After so long the group takes a member that died for dead: the program's default.
const SESSION_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a shard may stand still beyond that where the aim is 5 s.
const TAKEOVER_MAX: Duration = Duration::from_secs(15);

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
    fn user(number: usize) -> String {
        format!("user-{number}")
    }

    /// As producers partition by key: what comes out of a shard then goes to one partition of each topic.
    fn partition(number: usize) -> i32 {
        partition_of(Self::user(number).as_bytes(), PARTITIONS)
    }

    fn send(&self, sender: &Sender, topic: &str) {
        let began = Instant::now();
        while !self.done.load(Ordering::Relaxed) {
            let due =
                usize::try_from(began.elapsed().as_millis() * u128::from(PER_SECOND) / 1_000).expect("not so many");
            let sent = self.events.lock().expect("no panic").len();
            for number in sent..due {
                let user = Self::user(number);
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

    fn is_read_to(&self, moment: Instant) -> bool {
        self.events.lock().expect("no panic").iter().all(|(sent, read)| *sent > moment || read.is_some())
    }

    fn phase(&self, from: Instant, to: Instant) -> Phase {
        let events = self.events.lock().expect("no panic");
        let mut latencies = Vec::new();
        let mut arrivals: BTreeMap<i32, Vec<Instant>> = BTreeMap::new();
        for (number, (sent, read)) in events.iter().enumerate() {
            let read = read.expect("all are read");
            if (from..to).contains(sent) {
                latencies.push(read - *sent);
                // Everything before was read by then, so a shard that says nothing at first pauses from there on.
                arrivals.entry(Self::partition(number)).or_insert_with(|| vec![from]).push(read);
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

/// Does something, and tells from when to when what was sent has seen the consequences. All of that has its transition
/// before anything else happens, or it would be held up by what comes next.
fn during(traffic: &Traffic, act: impl FnOnce()) -> (Instant, Instant) {
    let from = Instant::now();
    act();
    thread::sleep(AFTERMATH);
    let to = Instant::now();
    eventually("the transitions of a phase", || traffic.is_read_to(to));
    (from, to)
}

#[test]
fn members_that_come_and_go_hold_no_shard_up_for_long() {
    let broker = Broker::shared();
    let deployment = Deployment::new(broker, "rolling", "");
    broker.create_topic(&deployment.events(), PARTITIONS, &[]);
    broker.create_topic(&deployment.transitions(), PARTITIONS, &[]);
    let standbys = [("EBBTIDE_STANDBYS", "1")];
    let mut instances: Vec<Instance> = ["a", "b", "c"].iter().map(|id| deployment.instance(id)).collect();
    for instance in &mut instances {
        instance.start_with(&[], &standbys);
    }
    broker.wait_for_members(&deployment.name, 6);
    owners(&mut instances);

    let traffic = Traffic::default();
    let sender = broker.sender();
    let mut reader = broker.reader(&deployment.transitions());
    let mut moments = Vec::new();
    let (mut before, mut after, mut orphans) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
    thread::scope(|scope| {
        scope.spawn(|| traffic.send(&sender, &deployment.events()));
        let reading = scope.spawn(|| traffic.read(&mut reader));
        let stop = StopOnDrop(&traffic.done);
        moments.push(during(&traffic, || thread::sleep(CALM)));
        moments.push(during(&traffic, || {
            for place in 0..instances.len() {
                instances[place].stop();
                instances[place].start_with(&[], &standbys);
                instances[place].page("/readyz");
                owners(&mut instances);
            }
        }));
        before = owners(&mut instances);
        moments.push(during(&traffic, || {
            let mut more = deployment.instance("d");
            more.start_with(&[], &standbys);
            instances.push(more);
            broker.wait_for_members(&deployment.name, 8);
            eventually("the fourth to have shards", || !shards(&mut instances[3]).is_empty());
            after = owners(&mut instances);
        }));
        // Its shards have an heir that is near the end of their changelogs.
        orphans = shards(&mut instances[3]);
        eventually("every shard to be stood by for", || {
            let followed = instances.iter().map(|instance| instance.metric("ebbtide_standby_shards").unwrap_or(0.0));
            followed.sum::<f64>() >= f64::from(PARTITIONS)
        });
        moments.push(during(&traffic, || {
            instances[3].kill();
            instances.truncate(3);
            broker.wait_for_members(&deployment.name, 6);
            owners(&mut instances);
        }));
        drop(stop);
        reading.join().expect("every event has one transition");
    });
    let phases: Vec<Phase> = moments.into_iter().map(|(from, to)| traffic.phase(from, to)).collect();
    let [calm, rolling, joining, killed] = phases.as_slice() else { unreachable!("four phases") };
    calm.print("nothing happens");
    rolling.print("a rolling restart of 3");
    joining.print("a fourth joins");
    killed.print("it is killed");
    let kept = |partition: i32| before.get(&partition) == after.get(&partition);
    eprintln!(
        "when it joined, {} shards moved, for at most {} ms; the others paused for at most {} ms",
        (0..PARTITIONS).filter(|partition| !kept(*partition)).count(),
        joining.longest_pause(|partition| !kept(partition)).as_millis(),
        joining.longest_pause(kept).as_millis()
    );
    let orphaned = |partition: i32| orphans.contains(&partition);
    let beyond = killed.longest_pause(orphaned).saturating_sub(SESSION_TIMEOUT);
    eprintln!(
        "when it was killed, its {} shards paused for at most {} ms beyond its session; the others for at most {} ms",
        orphans.len(),
        beyond.as_millis(),
        killed.longest_pause(|partition| !orphaned(partition)).as_millis()
    );
    assert!(!orphans.is_empty(), "the fourth had no shards");
    // A machine that is busy with other things holds shards up by itself: seen with nothing happening, 18 s at a load of 35.
    let busy = 2 * calm.longest_pause(|_| true);
    assert!(rolling.longest_pause(|_| true) < PAUSE_MAX + busy, "a shard stood still during the rolling restart");
    assert!(joining.longest_pause(|_| true) < PAUSE_MAX + busy, "a shard stood still while somebody joined");
    assert!(
        killed.longest_pause(|partition| !orphaned(partition)) < PAUSE_MAX + busy,
        "a shard stood still beside a takeover"
    );
    assert!(beyond < TAKEOVER_MAX + busy, "the standbys did not take over");
    for instance in &mut instances {
        instance.stop();
    }
}

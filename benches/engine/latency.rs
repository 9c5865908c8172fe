//! From the moment a client sends a record to the moment a `read_committed` reader has the transition that it caused:
//! at half of the load that this machine sustains, and at a tenth.
//!
//! What it sustains is measured first, in the same way: sender, broker, program and reader share the machine, and the
//! sender keeps a bounded number of events ahead of what the program has committed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use ebbtide::clock::{Clock as _, SystemClock, monotonic};
use ebbtide::time::Span;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::Message as _;
use rdkafka::{Offset, TopicPartitionList};

use crate::case::{Figure, Scale};
use crate::events::Maker;
use crate::population::user_id;
use crate::program::{Program, Progress};
use crate::served::send_event;
use crate::support::kafka::{Broker, Sender};

/// How many events may be sent and not committed while the sustainable load is measured: a few commits' worth.
const AHEAD: u64 = 50_000;
/// Each so many events one of a user never seen before, who enters: that transition is timed.
const NEW_USER_EVERY: u64 = 50;
/// Sent in one go so often.
const TICK: Duration = Duration::from_millis(5);
/// What is sent so early is not counted: everybody is new at first, caches are cold, and the second worker may join the
/// group after the first is ready, so that shards move.
pub(crate) const WARM_UP: Duration = Duration::from_secs(8);
const NEW: &str = "new-";
const POLL: Duration = Duration::from_millis(50);

/// A pace to send at, and for how long.
#[derive(Clone, Copy)]
pub(crate) struct Load {
    pub(crate) per_second: f64,
    pub(crate) started: Instant,
    pub(crate) until: Instant,
}

pub(crate) fn latency(scale: &Scale, broker: &Broker, round: u16) -> anyhow::Result<Vec<Figure>> {
    let sustained = sustained(scale, broker, &format!("latency-full-{round}"))?;
    let mut figures = vec![Figure::new("sustained", "events/s", sustained)];
    figures.extend(under_load(scale, broker, &format!("latency-{round}"), "half load", sustained / 2.0)?);
    figures.extend(under_load(scale, broker, &format!("latency-tenth-{round}"), "a tenth", sustained / 10.0)?);
    Ok(figures)
}

/// Events a second that program, broker, sender and reader together sustain on this machine, after the warm-up.
pub(crate) fn sustained(scale: &Scale, broker: &Broker, name: &str) -> anyhow::Result<f64> {
    let mut program = Program::new(broker, name, scale.partitions)?;
    program.start()?;
    program.wait_until_ready()?;
    let (events, transitions) = (program.topic("events"), program.topic("transitions"));
    let brokers = program.brokers().to_owned();
    let started = monotonic();
    let done = AtomicBool::new(false);
    let (from, to) = std::thread::scope(|scope| -> anyhow::Result<(Progress, Progress)> {
        let reading = scope.spawn(|| read(&brokers, &transitions, scale.partitions, started, &done));
        let sent = (|| {
            let mut stream = Stream::new(scale, started)?;
            let sender = broker.sender();
            let mut from = None;
            loop {
                let progress = program.progress()?;
                if started.elapsed() >= WARM_UP {
                    let from = *from.get_or_insert(progress);
                    if started.elapsed() >= WARM_UP + Duration::from_secs(scale.latency_seconds) {
                        sender.flush();
                        return anyhow::Ok((from, progress));
                    }
                }
                while stream.sent < progress.events + AHEAD {
                    stream.send(&sender, &events)?;
                }
                std::thread::sleep(TICK);
            }
        })();
        done.store(true, Ordering::Relaxed);
        reading.join().map_err(|_| anyhow::anyhow!("the reader panicked"))??;
        sent
    })?;
    program.stop()?;
    Ok((to.events - from.events) as f64 / (to.at - from.at).as_secs_f64())
}

fn under_load(scale: &Scale, broker: &Broker, name: &str, title: &str, per_second: f64) -> anyhow::Result<Vec<Figure>> {
    let mut program = Program::new(broker, name, scale.partitions)?;
    program.start()?;
    program.wait_until_ready()?;
    let started = monotonic();
    let until = started + WARM_UP + Duration::from_secs(scale.latency_seconds);
    let load = Load { per_second, started, until };
    let done = AtomicBool::new(false);
    let sender = broker.sender();
    let (events, transitions) = (program.topic("events"), program.topic("transitions"));
    let (sent, timed) = std::thread::scope(|scope| -> anyhow::Result<(u64, Vec<Timed>)> {
        let sending = scope.spawn(|| {
            let sent = send(&sender, &events, scale, load, &AtomicBool::new(false));
            done.store(true, Ordering::Relaxed);
            sent
        });
        let timed = read(program.brokers(), &transitions, scale.partitions, started, &done)?;
        let sent = sending.join().map_err(|_| anyhow::anyhow!("the sender panicked"))??;
        Ok((sent, timed))
    })?;
    let mut latencies: Vec<f64> = timed.into_iter().map(|(_, latency)| latency).collect();
    ensure!(latencies.len() > 100, "only {} transitions were timed", latencies.len());
    latencies.sort_by(f64::total_cmp);
    let figure = |what: &str, unit: &str, value: f64| Figure::new(&format!("{title}: {what}"), unit, value);
    let at = |what: &str, share: usize| figure(what, "ms", latencies[(latencies.len() - 1) * share / 1_000]);
    let figures = vec![
        figure("sent", "events/s", sent as f64 / (until - started).as_secs_f64()),
        at("p50", 500),
        at("p99", 990),
        at("p99.9", 999),
        at("largest", 1_000),
        figure("transitions timed", "", latencies.len() as f64),
        figure("peak memory", "MiB", program.usage()?.peak_memory as f64 / f64::from(1 << 20)),
    ];
    program.stop()?;
    Ok(figures)
}

/// Sends at a steady pace until the end of the load, or until told to stop; gives how many.
pub(crate) fn send(sender: &Sender, topic: &str, scale: &Scale, load: Load, stop: &AtomicBool) -> anyhow::Result<u64> {
    let Load { per_second, started, until } = load;
    let mut stream = Stream::new(scale, started)?;
    while monotonic() < until && !stop.load(Ordering::Relaxed) {
        // Asked once a tick: a sender that cannot keep the pace has to end all the same.
        let due = started.elapsed().as_secs_f64() * per_second;
        while (stream.sent as f64) < due {
            stream.send(sender, topic)?;
        }
        std::thread::sleep(TICK);
    }
    sender.flush();
    Ok(stream.sent)
}

/// Events of hot users, and now and then one of a new one, whose name says when it was sent.
struct Stream {
    maker: Maker,
    started: Instant,
    hot_users: u64,
    partitions: u64,
    sent: u64,
}

impl Stream {
    fn new(scale: &Scale, started: Instant) -> anyhow::Result<Self> {
        let maker = Maker::new(1, SystemClock.now().as_event_time() - Span::from_millis(1_000), 100_000);
        let partitions = u64::try_from(scale.partitions)?;
        Ok(Self { maker, started, hot_users: scale.hot_users, partitions, sent: 0 })
    }

    fn send(&mut self, sender: &Sender, topic: &str) -> anyhow::Result<()> {
        self.sent += 1;
        let number = self.maker.pick(self.hot_users);
        let partition = i32::try_from(number % self.partitions)?;
        let user = if self.sent.is_multiple_of(NEW_USER_EVERY) {
            format!("{NEW}{}-{}", self.started.elapsed().as_micros(), self.sent)
        } else {
            user_id(partition, number)
        };
        send_event(sender, topic, partition, &user, &mut self.maker)
    }
}

/// When a record was sent, and how many milliseconds later its transition was there.
pub(crate) type Timed = (Duration, f64);

/// From record to committed transition, for those sent after the warm-up; ends when no more come.
pub(crate) fn read(
    brokers: &str,
    topic: &str,
    partitions: i32,
    started: Instant,
    done: &AtomicBool,
) -> anyhow::Result<Vec<Timed>> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "latency-reader")
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed")
        .create()?;
    let mut list = TopicPartitionList::new();
    for partition in 0..partitions {
        list.add_partition_offset(topic, partition, Offset::Beginning)?;
    }
    consumer.assign(&list)?;
    let mut latencies = Vec::new();
    let mut quiet = 0;
    while quiet < 40 {
        let Some(message) = consumer.poll(POLL) else {
            quiet = if done.load(Ordering::Relaxed) { quiet + 1 } else { 0 };
            continue;
        };
        quiet = 0;
        let (message, now) = (message?, started.elapsed());
        let Some(text) = message.key().and_then(|key| std::str::from_utf8(key).ok()?.strip_prefix(NEW)) else {
            continue;
        };
        let micros = text.split('-').next().context("a moment")?.parse()?;
        let sent = Duration::from_micros(micros);
        if sent >= WARM_UP {
            latencies.push((sent, now.saturating_sub(sent).as_secs_f64() * 1e3));
        }
    }
    Ok(latencies)
}

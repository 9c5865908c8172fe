//! From the moment a client sends a record to the moment a `read_committed` reader has the transition that it caused,
//! at half of the load that the machine was just seen to bear.

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
use crate::program::Program;
use crate::served::{peak, send_event};
use crate::support::kafka::{Broker, Sender};

/// Where the load that the machine bears was not measured in the same run.
const ASSUMED_THROUGHPUT: f64 = 100_000.0;
/// Each so many events one of a user never seen before, who enters: that transition is timed.
const NEW_USER_EVERY: u64 = 50;
/// Sent in one go so often.
const TICK: Duration = Duration::from_millis(5);
/// What is sent so early is not counted: everybody is new at first, and caches are cold.
const WARM_UP: Duration = Duration::from_secs(3);
const NEW: &str = "new-";
const POLL: Duration = Duration::from_millis(50);

pub(crate) fn latency(
    scale: &Scale,
    broker: &Broker,
    round: u16,
    throughput: Option<f64>,
) -> anyhow::Result<Vec<Figure>> {
    let mut program = Program::new(broker, &format!("latency-{round}"), scale.partitions)?;
    program.start()?;
    program.wait_until_ready()?;
    let per_second = throughput.unwrap_or(ASSUMED_THROUGHPUT) / 2.0;
    let started = monotonic();
    let until = started + WARM_UP + Duration::from_secs(scale.latency_seconds);
    let done = AtomicBool::new(false);
    let sender = broker.sender();
    let (events, transitions) = (program.topic("events"), program.topic("transitions"));
    let (sent, mut latencies) = std::thread::scope(|scope| -> anyhow::Result<(u64, Vec<f64>)> {
        let sending = scope.spawn(|| {
            let sent = send(&sender, &events, scale, per_second, started, until);
            done.store(true, Ordering::Relaxed);
            sent
        });
        let latencies = read(program.brokers(), &transitions, scale.partitions, started, &done)?;
        let sent = sending.join().map_err(|_| anyhow::anyhow!("the sender panicked"))??;
        Ok((sent, latencies))
    })?;
    ensure!(latencies.len() > 100, "only {} transitions were timed", latencies.len());
    latencies.sort_by(f64::total_cmp);
    let at = |share: usize| latencies[(latencies.len() - 1) * share / 1_000];
    let figures = vec![
        Figure::new("load", "events/s", sent as f64 / (until - started).as_secs_f64()),
        Figure::new("p50", "ms", at(500)),
        Figure::new("p99", "ms", at(990)),
        Figure::new("p99.9", "ms", at(999)),
        Figure::new("largest", "ms", at(1_000)),
        Figure::new("transitions timed", "", latencies.len() as f64),
        peak(&mut program)?,
    ];
    program.stop()?;
    Ok(figures)
}

/// Sends at a steady pace; gives how many.
fn send(
    sender: &Sender,
    topic: &str,
    scale: &Scale,
    per_second: f64,
    started: Instant,
    until: Instant,
) -> anyhow::Result<u64> {
    let mut maker = Maker::new(1, SystemClock.now().as_event_time() - Span::from_millis(1_000), 100_000);
    let mut sent = 0_u64;
    let partitions = u64::try_from(scale.partitions)?;
    while monotonic() < until {
        while (sent as f64) < started.elapsed().as_secs_f64() * per_second {
            sent += 1;
            let number = maker.pick(scale.hot_users);
            let partition = i32::try_from(number % partitions)?;
            let user = if sent.is_multiple_of(NEW_USER_EVERY) {
                format!("{NEW}{}-{sent}", started.elapsed().as_micros())
            } else {
                user_id(partition, number)
            };
            send_event(sender, topic, partition, &user, &mut maker)?;
        }
        std::thread::sleep(TICK);
    }
    sender.flush();
    Ok(sent)
}

/// Milliseconds from record to committed transition, for those sent after the warm-up; ends when no more come.
fn read(brokers: &str, topic: &str, partitions: i32, started: Instant, done: &AtomicBool) -> anyhow::Result<Vec<f64>> {
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
            latencies.push(now.saturating_sub(sent).as_secs_f64() * 1e3);
        }
    }
    Ok(latencies)
}

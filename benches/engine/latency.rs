//! From the moment a client sends a record to the moment a `read_committed` reader has the transition that it caused:
//! at half of the load that the machine was just seen to bear, and at a tenth.
//!
//! What it bears was seen while nobody but broker and program wanted the processor. Here sender and reader want it too,
//! so half of that load is more than half of what this machine can do with all four on it; the tenth shows what the
//! protocol itself takes.

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
use crate::served::send_event;
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

/// A pace to send at, and for how long.
#[derive(Clone, Copy)]
struct Load {
    per_second: f64,
    started: Instant,
    until: Instant,
}

pub(crate) fn latency(
    scale: &Scale,
    broker: &Broker,
    round: u16,
    throughput: Option<f64>,
) -> anyhow::Result<Vec<Figure>> {
    let bearable = throughput.unwrap_or(ASSUMED_THROUGHPUT);
    let mut figures = under_load(scale, broker, &format!("latency-{round}"), "half load", bearable / 2.0)?;
    figures.extend(under_load(scale, broker, &format!("latency-tenth-{round}"), "a tenth", bearable / 10.0)?);
    Ok(figures)
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
    let (sent, mut latencies) = std::thread::scope(|scope| -> anyhow::Result<(u64, Vec<f64>)> {
        let sending = scope.spawn(|| {
            let sent = send(&sender, &events, scale, load);
            done.store(true, Ordering::Relaxed);
            sent
        });
        let latencies = read(program.brokers(), &transitions, scale.partitions, started, &done)?;
        let sent = sending.join().map_err(|_| anyhow::anyhow!("the sender panicked"))??;
        Ok((sent, latencies))
    })?;
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

/// Sends at a steady pace; gives how many.
fn send(sender: &Sender, topic: &str, scale: &Scale, load: Load) -> anyhow::Result<u64> {
    let Load { per_second, started, until } = load;
    let mut maker = Maker::new(1, SystemClock.now().as_event_time() - Span::from_millis(1_000), 100_000);
    let mut sent = 0_u64;
    let partitions = u64::try_from(scale.partitions)?;
    while monotonic() < until {
        // Asked once a tick: a sender that cannot keep the pace has to end all the same.
        let due = started.elapsed().as_secs_f64() * per_second;
        while (sent as f64) < due {
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

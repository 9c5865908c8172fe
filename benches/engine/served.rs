//! With a real broker: the floor, and the whole program.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use ebbtide::clock::{Clock as _, SystemClock, monotonic};
use ebbtide::config::Config;
use ebbtide::event::{Decoded, Record};
use ebbtide::kafka::client;
use ebbtide::time::Span;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::Message as _;
use rdkafka::{Offset, TopicPartitionList};

use crate::case::{Case, Figure, Scale};
use crate::events::Maker;
use crate::population::{Population, rules, user_id};
use crate::program::{Program, Progress};
use crate::report::CPU;
use crate::support::kafka::{Broker, Message, Sender};
use crate::usage::Usage;

/// The rate of a case.
const THROUGHPUT: &str = "events per second";
/// Event time passes as with so many events a second.
const RATE: u64 = 100_000;
/// While the program is killed, so many events are sent at a time, with this pause between.
const BURST: u64 = 50;
const PAUSE: Duration = Duration::from_millis(5);
/// How long events have flown before the program is killed.
const BEFORE_KILL: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_millis(100);
/// A prime beyond every number of users: steps of it meet each user once.
const STRIDE: u64 = 2_654_435_761;

/// (a) As many consumers as the program has, configured as its own, that decode and keep nothing.
pub(crate) fn floor(scale: &Scale, broker: &Broker, round: u16) -> anyhow::Result<Vec<Figure>> {
    let topic = format!("floor-{round}.events");
    broker.create_topic(&topic, scale.partitions, &[]);
    send_hot(&broker.sender(), &topic, scale, scale.events)?;
    Case::Floor.in_a_process(scale, broker.address(), &topic)
}

/// (b) Few users, read in one go.
pub(crate) fn hot(scale: &Scale, broker: &Broker, round: u16) -> anyhow::Result<Vec<Figure>> {
    let mut program = Program::new(broker, &format!("hot-{round}"), scale.partitions)?;
    send_hot(&broker.sender(), &program.topic("events"), scale, scale.events)?;
    program.start()?;
    let from = program.wait_for_events(scale.events / 20)?;
    let to = program.wait_for_events(scale.events)?;
    let figures = vec![per_event(from, to), rate(from, to), peak(&mut program)?];
    program.stop()?;
    Ok(figures)
}

/// (c) Many users at random; the full restore that gave them, and a restart in the midst of work.
pub(crate) fn random(scale: &Scale, broker: &Broker, round: u16) -> anyhow::Result<Vec<Figure>> {
    let now = SystemClock.now();
    let mut population = Population::grown(scale, scale.partitions, now)?;
    let mut program = Program::new(broker, &format!("random-{round}"), scale.partitions)?;
    let (records, bytes) = seed(&mut program, broker, &mut population, scale.partitions)?;
    let raw = Case::Raw.in_a_process(scale, broker.address(), &program.topic("changelog"))?;
    let mut figures = restore(&mut program, records, bytes, &raw)?;

    let sender = broker.sender();
    let mut maker = Maker::new(u64::from(round), now.as_event_time() - Span::from_millis(9_000), RATE);
    let sizes = (0..scale.partitions).map(|partition| population.size(partition)).collect::<Result<Vec<_>, _>>()?;
    drop(population);
    let events = program.topic("events");
    let mut send = |count: u64| -> anyhow::Result<()> {
        for _ in 0..count {
            let partition = i32::try_from(maker.pick(sizes.len() as u64))?;
            let number = maker.pick(sizes[usize::try_from(partition)?]);
            send_event(&sender, &events, partition, &user_id(partition, number), &mut maker)?;
        }
        Ok(())
    };
    send(scale.events)?;
    sender.flush();
    program.start()?;
    // The caches fill.
    let from = program.wait_for_events(scale.events / 4)?;
    let to = program.wait_for_events(scale.events)?;
    figures.extend([per_event(from, to), rate(from, to), peak(&mut program)?]);

    let done = AtomicBool::new(false);
    let ready = std::thread::scope(|scope| -> anyhow::Result<Duration> {
        let sending = scope.spawn(|| -> anyhow::Result<()> {
            while !done.load(Ordering::Relaxed) {
                send(BURST)?;
                std::thread::sleep(PAUSE);
            }
            Ok(())
        });
        let restarted = restart(&mut program);
        done.store(true, Ordering::Relaxed);
        sending.join().map_err(|_| anyhow::anyhow!("the sender panicked"))??;
        restarted
    })?;
    figures.push(Figure::new("ready after SIGKILL", "s", ready.as_secs_f64()));
    program.stop()?;
    Ok(figures)
}

/// (d) One event in each partition makes a timer of every user due.
pub(crate) fn storm(scale: &Scale, broker: &Broker, round: u16) -> anyhow::Result<Vec<Figure>> {
    let now = SystemClock.now();
    let due_by = now.as_event_time() - Span::from_millis(60_000);
    let mut population = Population::dormant(scale.timers, scale.partitions, due_by)?;
    let mut program = Program::new(broker, &format!("storm-{round}"), scale.partitions)?;
    let (records, _) = seed(&mut program, broker, &mut population, scale.partitions)?;
    let users = records - u64::try_from(scale.partitions)?;
    drop(population);
    program.start()?;
    program.wait_until_ready()?;
    let transitions = program.topic("transitions");
    let before = program.progress()?;
    let sender = broker.sender();
    let mut maker = Maker::new(1, now.as_event_time(), RATE);
    for partition in 0..scale.partitions {
        send_event(&sender, &program.topic("events"), partition, &format!("late-{partition}"), &mut maker)?;
    }
    sender.flush();
    // Offsets count the markers of transactions as well, some hundred: nothing beside the users.
    program.wait("to finish the storm", |_| {
        let end: i64 = broker.ends(&transitions).iter().sum();
        Ok((u64::try_from(end)? >= users).then_some(()))
    })?;
    let after = program.progress()?;
    let (cpu, elapsed) = (after.cpu_seconds - before.cpu_seconds, (after.at - before.at).as_secs_f64());
    let figures = vec![
        Figure::new("CPU per transition", "us", cpu * 1e6 / users as f64),
        Figure::new("transitions per second and core", "1/s", users as f64 / cpu),
        Figure::new("transitions per second", "1/s", users as f64 / elapsed),
        peak(&mut program)?,
    ];
    program.stop()?;
    Ok(figures)
}

/// Writes a population to the changelog, as if the program had been there all the time. Gives records and their bytes.
pub(crate) fn seed(
    program: &mut Program,
    broker: &Broker,
    population: &mut Population,
    partitions: i32,
) -> anyhow::Result<(u64, u64)> {
    // The program creates its topics as it wants them.
    program.start()?;
    program.wait_until_ready()?;
    program.stop()?;
    program.wipe()?;
    let (sender, topic) = (broker.sender(), program.topic("changelog"));
    let (mut records, mut bytes) = (0, 0);
    let mut send = |partition: i32, key: Vec<u8>, value: Vec<u8>| {
        records += 1;
        bytes += (key.len() + value.len()) as u64;
        let (partition, key, value) = (Some(partition), Some(key), Some(value));
        sender.send(&topic, &Message { partition, key, value, ..Message::default() });
    };
    for partition in 0..partitions {
        let size = population.size(partition)?;
        for place in 0..size {
            // In no order of the ids: a compacted changelog has users in the order of their last change.
            let number = place * STRIDE % size;
            let mut value = Vec::with_capacity(160);
            population.write_user(partition, number, &mut value)?;
            let key = ebbtide::store::key::changelog_user(&user_id(partition, number));
            send(partition, key, value);
        }
        let value = population.shard_record(partition, 0)?;
        send(partition, ebbtide::store::key::CHANGELOG_SHARD.to_vec(), value);
    }
    sender.flush();
    Ok((records, bytes))
}

/// From nothing on the disk to ready, against reading the same topic and doing nothing.
fn restore(program: &mut Program, records: u64, bytes: u64, raw: &[Figure]) -> anyhow::Result<Vec<Figure>> {
    let began = monotonic();
    program.start()?;
    program.wait_until_ready()?;
    let took = began.elapsed().as_secs_f64();
    let usage = program.usage()?;
    program.stop()?;
    let raw_rate = raw.iter().find(|figure| figure.name == THROUGHPUT).context("the raw rate")?.value;
    let records = records as f64;
    Ok(vec![
        Figure::new("full restore", "s", took),
        Figure::new("restored records per second", "1/s", records / took),
        Figure::new("restored", "MB/s", bytes as f64 / 1e6 / took),
        Figure::new("raw read, records per second", "1/s", raw_rate),
        Figure::new("raw read", "MB/s", raw_rate * bytes as f64 / 1e6 / records),
        Figure::new("restored, as a part of the raw read", "", records / took / raw_rate),
        Figure::new("restore: CPU per record", "us", usage.cpu_seconds * 1e6 / records),
        Figure::new("restore: peak memory", "MiB", usage.peak_memory as f64 / f64::from(1 << 20)),
    ])
}

/// SIGKILL while events flow, and the time from the next start until ready.
fn restart(program: &mut Program) -> anyhow::Result<Duration> {
    std::thread::sleep(BEFORE_KILL);
    program.kill()?;
    let began = monotonic();
    program.start()?;
    program.wait_until_ready()?;
    let took = began.elapsed();
    // Ready is a word: it has to work as well.
    let events = program.progress()?.events;
    program.wait_for_events(events + BURST)?;
    Ok(took)
}

fn send_hot(sender: &Sender, topic: &str, scale: &Scale, events: u64) -> anyhow::Result<()> {
    let start = SystemClock.now().as_event_time() - Span::from_millis(600_000);
    let mut maker = Maker::new(1, start, RATE);
    for _ in 0..events {
        let number = maker.pick(scale.hot_users);
        let partition = i32::try_from(number % u64::try_from(scale.partitions)?)?;
        send_event(sender, topic, partition, &user_id(partition, number), &mut maker)?;
    }
    sender.flush();
    Ok(())
}

pub(crate) fn send_event(
    sender: &Sender,
    topic: &str,
    partition: i32,
    user: &str,
    maker: &mut Maker,
) -> anyhow::Result<()> {
    let mut value = Vec::with_capacity(256);
    maker.write(user, &mut value)?;
    let (key, value) = (Some(user.as_bytes().to_vec()), Some(value));
    sender.send(topic, &Message { partition: Some(partition), key, value, ..Message::default() });
    Ok(())
}

fn per_event(from: Progress, to: Progress) -> Figure {
    Figure::new(CPU, "us", (to.cpu_seconds - from.cpu_seconds) * 1e6 / (to.events - from.events) as f64)
}

fn rate(from: Progress, to: Progress) -> Figure {
    Figure::new(THROUGHPUT, "1/s", (to.events - from.events) as f64 / (to.at - from.at).as_secs_f64())
}

fn peak(program: &mut Program) -> anyhow::Result<Figure> {
    Ok(Figure::new("peak memory", "MiB", program.usage()?.peak_memory as f64 / f64::from(1 << 20)))
}

/// Reads a whole topic as the program's workers would, and decodes each record, or not even that.
pub(crate) fn read_topic(brokers: &str, topic: &str, decode: bool) -> anyhow::Result<Vec<Figure>> {
    let config = Config::with_brokers(brokers);
    let began = (Usage::own()?.cpu_seconds, monotonic());
    let counts = std::thread::scope(|scope| {
        let readers: Vec<_> = (0..config.workers)
            .map(|number| {
                let config = &config;
                scope.spawn(move || read_share(config, topic, number, decode))
            })
            .collect();
        readers
            .into_iter()
            .map(|reader| reader.join().map_err(|_| anyhow::anyhow!("a reader panicked"))?)
            .collect::<anyhow::Result<Vec<u64>>>()
    })?;
    let events = counts.iter().sum::<u64>() as f64;
    let usage = Usage::own()?;
    Ok(vec![
        Figure::new(CPU, "us", (usage.cpu_seconds - began.0) * 1e6 / events),
        Figure::new(THROUGHPUT, "1/s", events / began.1.elapsed().as_secs_f64()),
        Figure::new("peak memory", "MiB", usage.peak_memory as f64 / f64::from(1 << 20)),
    ])
}

/// Every `config.workers`th partition.
fn read_share(config: &Config, topic: &str, number: usize, decode: bool) -> anyhow::Result<u64> {
    let consumer: BaseConsumer = client::reader(config).create()?;
    let metadata = consumer.fetch_metadata(Some(topic), Duration::from_secs(30))?;
    let partitions = metadata.topics().first().context("the topic")?.partitions().len();
    let mut list = TopicPartitionList::new();
    for partition in (number..partitions).step_by(config.workers) {
        list.add_partition_offset(topic, i32::try_from(partition)?, Offset::Beginning)?;
    }
    consumer.assign(&list)?;
    let (rules, now) = (rules()?, SystemClock.now());
    let (mut left, mut events) = (list.count(), 0);
    while left > 0 {
        match consumer.poll(POLL) {
            None => {}
            Some(Err(rdkafka::error::KafkaError::PartitionEOF(_))) => left -= 1,
            Some(Err(error)) => return Err(error.into()),
            Some(Ok(message)) => {
                events += 1;
                if decode {
                    let (key, value, offset) = (message.key(), message.payload(), message.offset());
                    let record = Record { key, value, headers: &[], offset };
                    let decoded = rules.decoder.decode(black_box(&record), now);
                    ensure!(matches!(black_box(&decoded), Decoded::Event(_)), "not an event: {decoded:?}");
                }
            }
        }
    }
    Ok(events)
}

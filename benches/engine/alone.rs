//! Without Kafka: decoding, a shard on RocksDB, replay. One thread, apart from RocksDB's own.

use std::fs::{self, File};
use std::hint::black_box;
use std::io::{BufReader, BufWriter, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use ebbtide::clock::{Clock as _, SystemClock, monotonic};
use ebbtide::event::{Decoded, Record};
use ebbtide::generate;
use ebbtide::replay::{Plan, replay as replay_file};
use ebbtide::rules::Rules;
use ebbtide::shard::{Effects, Progress, Shard};
use ebbtide::store::rocks::{Database, RocksStore};
use ebbtide::time::{Day, EventTime, Span, WallTime};

use crate::case::{Figure, Scale};
use crate::events::{Batch, Maker};
use crate::population::{self, Population, rules, rules_with, user_id};
use crate::report::CPU;
use crate::support::kafka::temporary_folder;
use crate::usage::{Usage, thread_cpu_seconds};

/// The default of `state.memory`.
const MEMORY: u64 = 256 << 20;
/// Records applied in one call, timers fired in one, and records and users in one commit: as the worker has it.
const APPLIED: u64 = 2_000;
const BUDGET: usize = 1_024;
const COMMITTED_RECORDS: u64 = 100_000;
const COMMITTED_USERS: usize = 20_000;
/// Event time passes as with so many events a second.
const RATE: u64 = 100_000;

/// A shard with its store, and where it is.
struct Driven {
    shard: Shard<RocksStore>,
    effects: Effects,
    now: WallTime,
    offset: i64,
}

/// What a measurement has used: all threads, less what its own thread spent on making events.
struct Meter {
    began: f64,
    making: f64,
}

impl Meter {
    fn start() -> anyhow::Result<Self> {
        Ok(Self { began: Usage::own()?.cpu_seconds, making: 0.0 })
    }

    /// Does something that is no part of what is measured.
    fn aside<T>(&mut self, act: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
        let before = thread_cpu_seconds()?;
        let done = act()?;
        self.making += thread_cpu_seconds()? - before;
        Ok(done)
    }

    /// Seconds.
    fn used(&self) -> anyhow::Result<f64> {
        Ok(Usage::own()?.cpu_seconds - self.began - self.making)
    }

    fn per(&self, count: u64) -> anyhow::Result<Figure> {
        Ok(Figure::new(CPU, "us", self.used()? * 1e6 / count as f64))
    }
}

impl Driven {
    fn open(store: RocksStore, now: WallTime) -> anyhow::Result<Self> {
        Self::open_with(rules()?, store, now)
    }

    fn open_with(rules: Arc<Rules>, store: RocksStore, now: WallTime) -> anyhow::Result<Self> {
        let shard = Shard::open(0, rules, store, 1)?;
        let offset = shard.position().unwrap_or(0);
        Ok(Self { shard, effects: Effects::default(), now, offset })
    }

    fn apply(&mut self, records: &[Record<'_>]) -> anyhow::Result<()> {
        self.offset += i64::try_from(records.len())?;
        self.shard.apply(records, self.now, &mut self.effects)?;
        while self.shard.advance(self.now, false, BUDGET, &mut self.effects)? == Progress::More {
            self.commit_if_large()?;
        }
        self.commit_if_large()
    }

    fn commit_if_large(&mut self) -> anyhow::Result<()> {
        let pending = self.shard.pending();
        if pending.users >= COMMITTED_USERS || pending.records as u64 >= COMMITTED_RECORDS {
            self.commit()
        } else {
            Ok(())
        }
    }

    fn commit(&mut self) -> anyhow::Result<()> {
        self.effects.clear();
        let sealed = self.shard.seal()?;
        Ok(self.shard.committed(sealed, self.offset)?)
    }

    /// Applies events of users whose numbers are below `users`, drawn at random.
    fn run(&mut self, events: u64, users: u64, maker: &mut Maker, meter: &mut Meter) -> anyhow::Result<()> {
        let mut batch = Batch::default();
        for _ in 0..events / APPLIED {
            meter.aside(|| {
                batch.clear();
                (0..APPLIED).try_for_each(|_| {
                    let number = maker.pick(users);
                    batch.add(maker, &user_id(0, number))
                })
            })?;
            self.apply(&batch.records(self.offset))?;
        }
        self.commit()
    }
}

fn peak() -> anyhow::Result<Figure> {
    Ok(Figure::new("peak memory", "MiB", Usage::own()?.peak_memory as f64 / f64::from(1 << 20)))
}

fn database() -> anyhow::Result<(std::sync::Arc<Database>, PathBuf)> {
    let folder = temporary_folder("bench-state");
    Ok((Database::open(&folder, MEMORY)?, folder))
}

/// Decoding the needed fields of records that are in memory.
pub(crate) fn decode(scale: &Scale) -> anyhow::Result<Vec<Figure>> {
    const HELD: u64 = 50_000;
    let now = SystemClock.now();
    let rules = rules()?;
    let mut maker = Maker::new(1, now.as_event_time() - Span::from_days(1), RATE);
    let mut batch = Batch::default();
    for _ in 0..HELD {
        let number = maker.pick(scale.hot_users);
        batch.add(&mut maker, &user_id(0, number))?;
    }
    let records = batch.records(0);
    let rounds = (2 * scale.events).div_ceil(HELD);
    let meter = Meter::start()?;
    for _ in 0..rounds {
        for record in &records {
            let decoded = rules.decoder.decode(black_box(record), now);
            ensure!(matches!(black_box(&decoded), Decoded::Event(_)), "not an event: {decoded:?}");
        }
    }
    let bytes = Figure::new("bytes per event", "bytes", batch.bytes() as f64 / batch.len() as f64);
    Ok(vec![meter.per(rounds * HELD)?, bytes])
}

/// Few users, all of them decoded in memory, judged by so many segments, with or without retention and signals.
pub(crate) fn hot(scale: &Scale, segments: usize, reports: bool) -> anyhow::Result<Vec<Figure>> {
    let (database, folder) = database()?;
    let now = SystemClock.now();
    let rules = rules_with(population::segments(segments), reports)?;
    let mut driven = Driven::open_with(rules, database.shard(0), now)?;
    let mut maker = Maker::new(1, now.as_event_time() - Span::from_millis(600_000), RATE);
    // Everybody has come, and the ids are full, before it counts.
    driven.run(scale.hot_users * 20, scale.hot_users, &mut maker, &mut Meter::start()?)?;
    let mut meter = Meter::start()?;
    driven.run(scale.events, scale.hot_users, &mut maker, &mut meter)?;
    let figures = vec![meter.per(scale.events)?, peak()?];
    drop((driven, database));
    fs::remove_dir_all(folder)?;
    Ok(figures)
}

/// Many users at random, most of them on disk; and how much disk they take.
pub(crate) fn random(scale: &Scale) -> anyhow::Result<Vec<Figure>> {
    let (database, folder) = database()?;
    let now = SystemClock.now();
    let mut population = Population::grown(scale, 1, now)?;
    let users = population.size(0)?;
    let mut store = database.shard(0);
    population.fill(0, &mut store)?;
    let encoded = {
        let mut bytes = Vec::new();
        let sample = users.min(20_000);
        (0..sample).try_for_each(|number| population.write_user(0, number, &mut bytes).map(|_| ()))?;
        bytes.len() as f64 / sample as f64
    };
    drop(population);
    database.flush()?;
    let began = monotonic();
    let mut driven = Driven::open(store, now)?;
    let opened = began.elapsed();
    let mut maker = Maker::new(1, now.as_event_time() - Span::from_millis(9_000), RATE);
    // The caches fill.
    driven.run(scale.events / 4, users, &mut maker, &mut Meter::start()?)?;
    let mut meter = Meter::start()?;
    let began = monotonic();
    driven.run(scale.events, users, &mut maker, &mut meter)?;
    let rate = scale.events as f64 / began.elapsed().as_secs_f64();
    let mut figures = vec![meter.per(scale.events)?, Figure::new("events per second", "1/s", rate), peak()?];
    database.flush()?;
    let before = database.sizes().disk as f64 / users as f64;
    database.compact();
    let after = database.sizes().disk as f64 / users as f64;
    figures.extend([
        Figure::new("users", "", users as f64),
        Figure::new("a user, encoded", "bytes", encoded),
        Figure::new("a user on disk, as it stands", "bytes", before),
        Figure::new("a user on disk, compacted", "bytes", after),
        Figure::new("opening the shard", "ms", opened.as_secs_f64() * 1e3),
    ]);
    drop((driven, database));
    fs::remove_dir_all(folder)?;
    Ok(figures)
}

/// One event makes a timer of every user due.
pub(crate) fn storm(scale: &Scale) -> anyhow::Result<Vec<Figure>> {
    let (database, folder) = database()?;
    let now = SystemClock.now();
    let mut population = Population::dormant(scale.timers, 1, now.as_event_time() - Span::from_millis(60_000))?;
    let users = population.size(0)?;
    let mut store = database.shard(0);
    population.fill(0, &mut store)?;
    drop(population);
    database.flush()?;
    let mut driven = Driven::open(store, now)?;
    let mut batch = Batch::default();
    batch.add(&mut Maker::new(1, now.as_event_time(), RATE), "who-comes-after-the-storm")?;
    let records = batch.records(driven.offset);
    driven.offset += 1;
    let meter = Meter::start()?;
    driven.shard.apply(&records, now, &mut driven.effects)?;
    let mut transitions = 0;
    let mut longest = Duration::ZERO;
    loop {
        let began = monotonic();
        let progress = driven.shard.advance(now, false, BUDGET, &mut driven.effects)?;
        transitions += driven.effects.counts.transitions().map(|row| row.3).sum::<u64>();
        driven.effects.clear();
        driven.commit_if_large()?;
        longest = longest.max(began.elapsed());
        if progress == Progress::Done {
            break;
        }
    }
    driven.commit()?;
    ensure!(transitions == users + 1, "{transitions} transitions of {users} users");
    let used = meter.used()?;
    let figures = vec![
        Figure::new("CPU per transition", "us", used * 1e6 / transitions as f64),
        Figure::new("transitions per second and core", "1/s", transitions as f64 / used),
        Figure::new("longest step", "ms", longest.as_secs_f64() * 1e3),
        peak()?,
    ];
    drop((driven, database));
    fs::remove_dir_all(folder)?;
    Ok(figures)
}

/// A file of a believable population.
pub(crate) fn replay(scale: &Scale) -> anyhow::Result<Vec<Figure>> {
    let path = temporary_folder("bench-replay").join("events.jsonl");
    let settings =
        generate::Settings { seed: 7, users: scale.people, first_day: Day::from_number(20_000), days: scale.days };
    let population = generate::Population::new(settings);
    let until: EventTime = population.end();
    let mut file = BufWriter::new(File::create(&path)?);
    for event in population.events() {
        event.write_json(&mut file)?;
        file.write_all(b"\n")?;
    }
    file.flush()?;
    drop((file, population));
    let config = ebbtide::config::Config::with_brokers("");
    let plan = Plan {
        events: config.events,
        policy: config.policy,
        segments: config.segments,
        win_back: config.win_back,
        retention: config.retention,
        signals: config.signals,
        time: config.time,
        until,
        partitions: 1,
    };
    let bytes = fs::metadata(&path)?.len();
    let meter = Meter::start()?;
    let mut written = 0_u64;
    let summary = replay_file(BufReader::with_capacity(1 << 20, File::open(&path)?), plan, |_, json| {
        written += black_box(json).len() as u64;
        Ok(())
    })?;
    let figures = vec![
        meter.per(summary.records)?,
        Figure::new("throughput", "MB/s", bytes as f64 / 1e6 / meter.used()?),
        Figure::new("events", "", summary.records as f64),
        Figure::new("transitions", "", summary.transitions() as f64),
        Figure::new("transitions written", "MB", written as f64 / 1e6),
        peak()?,
    ];
    fs::remove_dir_all(path.parent().unwrap_or(&path))?;
    Ok(figures)
}

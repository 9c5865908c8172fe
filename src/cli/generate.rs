//! `ebbtide generate`: a believable population's events to a file, to standard output, or to a topic at a rate.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer};

use super::table::grouped;
use super::{ConfigArgs, parse_time};
use crate::clock::{Clock as _, SystemClock, monotonic};
use crate::config::check::Purpose;
use crate::generate::{GeneratedEvent, Population, Settings};
use crate::time::EventTime;

/// How long the last records may take to reach the brokers.
const FLUSH_WITHIN: Duration = Duration::from_secs(30);
/// Pause while the producer's queue is full.
const QUEUE_FULL_PAUSE: Duration = Duration::from_millis(5);
const WRITE_BUFFER: usize = 1 << 18;

/// Arguments of `ebbtide generate`.
#[derive(Args, Debug)]
pub struct GenerateArgs {
    /// The same seed and settings give the same events
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many people
    #[arg(short, long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    users: u32,
    /// How many days
    #[arg(short, long, default_value_t = 180, value_parser = clap::value_parser!(u32).range(1..=36_500))]
    days: u32,
    /// The first day [default: so that the last day was yesterday]
    #[arg(long, value_name = "DAY", value_parser = parse_time)]
    start: Option<EventTime>,
    /// Where to write; `-` is standard output; a name that ends in .gz or .zst is compressed
    #[arg(short, long, value_name = "FILE", default_value = "-", conflicts_with = "to_topic")]
    output: PathBuf,
    /// Write to the configured events topic instead
    #[arg(short = 't', long)]
    to_topic: bool,
    /// Events a second into the topic; without it as fast as it goes
    #[arg(short, long, value_name = "N", requires = "to_topic", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// Brokers, in place of the configured ones
    #[arg(long, value_name = "HOST:PORT", requires = "to_topic")]
    brokers: Option<String>,
    #[command(flatten)]
    config: ConfigArgs,
}

/// Runs the command.
///
/// # Errors
/// The output cannot be written, or the brokers not be reached.
pub fn run(args: &GenerateArgs) -> anyhow::Result<()> {
    let first_day = match args.start {
        Some(start) => start.day(),
        None => SystemClock.now().as_event_time().day() - i32::try_from(args.days).unwrap_or(i32::MAX),
    };
    let population = Population::new(Settings { seed: args.seed, users: args.users, first_day, days: args.days });
    let bar = ProgressBar::new(u64::from(args.days));
    let style = "generating {wide_bar} day {pos}/{len} {eta}";
    bar.set_style(ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()));
    let count = if args.to_topic { to_topic(args, &population, &bar)? } else { to_file(args, &population, &bar)? };
    bar.finish_and_clear();
    writeln!(
        io::stderr(),
        "{} events of {} people over {} days",
        grouped(count),
        grouped(args.users.into()),
        args.days
    )?;
    Ok(())
}

fn to_file(args: &GenerateArgs, population: &Population, bar: &ProgressBar) -> anyhow::Result<u64> {
    let path = args.output.display();
    let name = args.output.to_string_lossy();
    let failed = || format!("cannot write {path}");
    if name == "-" {
        let mut out = BufWriter::with_capacity(WRITE_BUFFER, io::stdout().lock());
        return write_all(args, population, bar, &mut out).with_context(failed);
    }
    let file = BufWriter::with_capacity(WRITE_BUFFER, File::create(&args.output).with_context(failed)?);
    if name.ends_with(".gz") {
        let mut out = flate2::write::GzEncoder::new(file, flate2::Compression::default());
        let count = write_all(args, population, bar, &mut out).with_context(failed)?;
        out.finish().and_then(|mut file| file.flush()).with_context(failed)?;
        return Ok(count);
    }
    if name.ends_with(".zst") {
        let mut out = zstd::Encoder::new(file, zstd::DEFAULT_COMPRESSION_LEVEL).with_context(failed)?;
        let count = write_all(args, population, bar, &mut out).with_context(failed)?;
        out.finish().and_then(|mut file| file.flush()).with_context(failed)?;
        return Ok(count);
    }
    let mut file = file;
    write_all(args, population, bar, &mut file).with_context(failed)
}

fn write_all(args: &GenerateArgs, population: &Population, bar: &ProgressBar, out: &mut impl Write) -> io::Result<u64> {
    let mut count = 0;
    for day in 0..args.days {
        for event in population.day(day) {
            event.write_json(out)?;
            out.write_all(b"\n")?;
            count += 1;
        }
        bar.inc(1);
    }
    out.flush()?;
    Ok(count)
}

fn to_topic(args: &GenerateArgs, population: &Population, bar: &ProgressBar) -> anyhow::Result<u64> {
    let mut config = args.config.load(if args.brokers.is_some() { Purpose::Rules } else { Purpose::Run })?;
    if let Some(brokers) = &args.brokers {
        config.kafka.brokers.clone_from(brokers);
    }
    let mut topic = TopicWriter::connect(&config)?;
    let mut pace = args.rate.map(Pace::new);
    let mut count = 0;
    for day in 0..args.days {
        for event in population.day(day) {
            if let Some(pace) = &mut pace {
                pace.wait();
            }
            topic.send(&event)?;
            count += 1;
        }
        bar.inc(1);
    }
    topic.finish()?;
    Ok(count)
}

/// Writes events to a topic the way the JVM's clients would: keyed by user, partitioned by murmur2.
pub struct TopicWriter {
    producer: ThreadedProducer<DefaultProducerContext>,
    topic: String,
    buffer: Vec<u8>,
}

impl TopicWriter {
    /// Makes the producer; brokers are reached later, by the first record.
    ///
    /// # Errors
    /// librdkafka refuses a property.
    pub fn connect(config: &crate::config::Config) -> anyhow::Result<Self> {
        let mut client = ClientConfig::new();
        let shared = config.kafka.properties.iter().chain(config.kafka.producer.iter());
        for (name, value) in shared {
            client.set(name, value);
        }
        client
            .set("bootstrap.servers", &config.kafka.brokers)
            .set("enable.idempotence", "true")
            .set("partitioner", "murmur2_random")
            .set("linger.ms", "20");
        let producer = client.create().context("cannot make a producer")?;
        Ok(Self { producer, topic: config.topics.events.clone(), buffer: Vec::new() })
    }

    /// Puts one event into the producer's queue; waits while that is full.
    ///
    /// # Errors
    /// The event cannot be queued at all.
    pub fn send(&mut self, event: &GeneratedEvent) -> anyhow::Result<()> {
        self.buffer.clear();
        event.write_json(&mut self.buffer)?;
        let key = event.user_id();
        loop {
            let record = BaseRecord::to(&self.topic).key(&key).payload(&self.buffer).timestamp(event.time.as_millis());
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                    std::thread::sleep(QUEUE_FULL_PAUSE);
                }
                Err((error, _)) => return Err(error).context("cannot write to the events topic"),
            }
        }
    }

    /// Waits until the brokers have everything.
    ///
    /// # Errors
    /// They do not within half a minute.
    pub fn finish(&self) -> anyhow::Result<()> {
        self.producer.flush(FLUSH_WITHIN).context("the brokers did not take every event in time")
    }
}

/// So many a second, evenly.
struct Pace {
    rate: u32,
    began: Instant,
    sent: u64,
}

impl Pace {
    fn new(rate: u32) -> Self {
        Self { rate, began: monotonic(), sent: 0 }
    }

    fn wait(&mut self) {
        let due = Duration::from_nanos(self.sent * 1_000_000_000 / u64::from(self.rate));
        if let Some(early) = due.checked_sub(self.began.elapsed()).filter(|early| !early.is_zero()) {
            std::thread::sleep(early);
        }
        self.sent += 1;
    }
}

//! `ebbtide generate`: a believable population's events to a file, to standard output, or to a topic at a rate.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::table::grouped;
use super::{ConfigArgs, parse_time};
use crate::clock::{Clock as _, SystemClock, monotonic};
use crate::config::check::Purpose;
use crate::generate::topic::{Stamp, TopicWriter};
use crate::generate::{Population, Settings};
use crate::kafka::topics;
use crate::time::EventTime;

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
    /// Create the topic with so many partitions if it is not there; it keeps its records for ever
    #[arg(long, value_name = "PARTITIONS", requires = "to_topic", value_parser = clap::value_parser!(i32).range(1..=10_000))]
    create: Option<i32>,
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
    if let Some(partitions) = args.create {
        topics::create_input(&config, partitions)?;
    }
    let mut topic = TopicWriter::connect(&config, Stamp::Event)?;
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
            // Nothing to await: the rate itself says when the next event is due.
            std::thread::sleep(early);
        }
        self.sent += 1;
    }
}

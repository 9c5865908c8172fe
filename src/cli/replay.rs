//! `ebbtide replay`: the same rules over a file.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Deserialize;

use super::table::{self, grouped};
use super::{WrongArgument, parse_time};
use crate::clock::{Clock as _, SystemClock, monotonic};
use crate::config::Config;
use crate::config::check::Purpose;
use crate::replay::{PARTITIONS_MAX, Plan, Summary, latest, replay};
use crate::shard::Topic;
use crate::time::EventTime;

const READ_BUFFER: usize = 1 << 20;
const WRITE_BUFFER: usize = 1 << 18;
const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Arguments of `ebbtide replay`.
#[derive(Args, Debug)]
pub struct ReplayArgs {
    /// Events as JSON Lines, plain or compressed with gzip or zstd; `-` is standard input
    file: PathBuf,
    /// Let time pass up to this moment, and leave out later events [default: the latest event's time]
    #[arg(short, long, value_name = "TIME", value_parser = parse_time)]
    until: Option<EventTime>,
    /// A configuration whose policy, event rules and lateness count; a file with a policy alone is enough [default:
    /// the default policy, native events]
    #[arg(short, long, value_name = "FILE", visible_alias = "config")]
    policy: Option<PathBuf>,
    /// Where to write transitions; `-` is standard output
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    output: PathBuf,
    /// How to write transitions
    #[arg(short, long, value_enum, default_value_t = Format::Jsonl)]
    format: Format,
    /// Where to write entries into segments and exits, one record a line, as in the topic [default: nowhere]
    #[arg(long, value_name = "FILE")]
    segments: Option<PathBuf>,
    /// Where to write what campaigns brought, one record a line, as in the topic [default: nowhere]
    #[arg(long, value_name = "FILE")]
    outcomes: Option<PathBuf>,
    /// Spread the users over so many shards; makes no difference to any user's transitions
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=i64::from(PARTITIONS_MAX)))]
    partitions: u16,
    /// Write nothing to standard error but errors
    #[arg(short, long)]
    quiet: bool,
}

/// How transitions are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// One transition record a line, as in the topic
    Jsonl,
    /// Tab-separated: `user_id`, seq, from, to, kind, reason, `effective_at`, `last_active_at`, `total_events`
    Tsv,
    /// Nothing: the cohort table alone
    None,
}

/// Runs the command.
///
/// # Errors
/// The policy is wrong, or a file cannot be read or written.
pub fn run(args: &ReplayArgs) -> anyhow::Result<()> {
    let config = match &args.policy {
        Some(path) => Config::load(path, Purpose::Rules, [])?,
        None => Config::with_brokers(""),
    };
    let until = match args.until {
        Some(until) => until,
        None if is_standard(&args.file) => {
            return Err(WrongArgument("standard input can be read only once: say --until when".to_owned()).into());
        }
        None => latest(open(&args.file, args.quiet, "looking")?, config.events.clone(), SystemClock.now())?
            .ok_or_else(|| anyhow::anyhow!("{} holds no event", args.file.display()))?,
    };
    let plan = Plan {
        events: config.events,
        policy: config.policy,
        segments: config.segments,
        win_back: config.win_back,
        time: config.time,
        until,
        partitions: args.partitions,
    };
    let input = open(&args.file, args.quiet, "replaying")?;
    let mut output = create(&args.output)?;
    let mut segments = args.segments.as_deref().map(create).transpose()?;
    let mut outcomes = args.outcomes.as_deref().map(create).transpose()?;
    let began = monotonic();
    if args.format == Format::Tsv {
        write_header(&mut output)?;
    }
    let summary = replay(input, plan, |topic, json| match (topic, args.format) {
        (Topic::Segments, _) => segments.as_mut().map_or(Ok(()), |out| write_line(json, out)),
        (Topic::Outcomes, _) => outcomes.as_mut().map_or(Ok(()), |out| write_line(json, out)),
        (Topic::Transitions, Format::Jsonl) => write_line(json, &mut output),
        (Topic::Transitions, Format::Tsv) => write_tsv(json, &mut output),
        (Topic::Transitions, Format::None) | (Topic::States | Topic::DeadLetters, _) => Ok(()),
    })?;
    for out in [Some(&mut output), segments.as_mut(), outcomes.as_mut()].into_iter().flatten() {
        out.flush().context("cannot write records")?;
    }
    if !args.quiet {
        report(&summary, until, began.elapsed())?;
    }
    Ok(())
}

fn report(summary: &Summary, until: EventTime, took: std::time::Duration) -> io::Result<()> {
    let mut err = io::stderr().lock();
    for (line, why) in &summary.rejected {
        writeln!(err, "line {line} is left out: {why}")?;
    }
    let left_out: u64 = summary.dead_letters().map(|(_, count)| count).sum();
    if left_out > 0 {
        let by_reason: Vec<String> =
            summary.dead_letters().map(|(why, count)| format!("{} {}", grouped(count), why.as_str())).collect();
        writeln!(
            err,
            "{} of {} records left out: {}",
            grouped(left_out),
            grouped(summary.records),
            by_reason.join(", ")
        )?;
    }
    writeln!(
        err,
        "{} records, {} transitions in {:.1} s; as of {until}:\n",
        grouped(summary.records),
        grouped(summary.transitions()),
        took.as_secs_f64()
    )?;
    write!(err, "{}", table::cohorts(&summary.cohorts))?;
    write!(err, "{}", table::segments(&summary.segments))
}

/// The columns of a transition record that the tab-separated form has.
#[derive(Deserialize)]
struct Row<'a> {
    #[serde(borrow)]
    user_id: std::borrow::Cow<'a, str>,
    seq: u64,
    from: Option<&'a str>,
    to: Option<&'a str>,
    kind: &'a str,
    reason: &'a str,
    effective_at: &'a str,
    last_active_at: Option<&'a str>,
    total_events: u64,
}

fn write_line(json: &[u8], out: &mut impl Write) -> io::Result<()> {
    out.write_all(json).and_then(|()| out.write_all(b"\n"))
}

fn write_header(out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "user_id\tseq\tfrom\tto\tkind\treason\teffective_at\tlast_active_at\ttotal_events")
}

fn write_tsv(json: &[u8], out: &mut impl Write) -> io::Result<()> {
    let row: Row<'_> = serde_json::from_slice(json)?;
    let Row { user_id, seq, from, to, kind, reason, effective_at, last_active_at, total_events } = row;
    let (from, to, last) = (from.unwrap_or(""), to.unwrap_or(""), last_active_at.unwrap_or(""));
    // A tab or line feed in an id would move the columns.
    let user_id = user_id.replace('\\', "\\\\").replace('\t', "\\t").replace('\n', "\\n").replace('\r', "\\r");
    writeln!(out, "{user_id}\t{seq}\t{from}\t{to}\t{kind}\t{reason}\t{effective_at}\t{last}\t{total_events}")
}

fn is_standard(path: &Path) -> bool {
    path == Path::new("-")
}

fn create(path: &Path) -> anyhow::Result<Box<dyn Write>> {
    if is_standard(path) {
        return Ok(Box::new(BufWriter::with_capacity(WRITE_BUFFER, io::stdout())));
    }
    let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(Box::new(BufWriter::with_capacity(WRITE_BUFFER, file)))
}

/// Opens events under a progress bar, whichever way they are compressed: the first bytes tell, not the name.
fn open(path: &Path, quiet: bool, verb: &'static str) -> anyhow::Result<Box<dyn BufRead>> {
    let failed = || format!("cannot read {}", path.display());
    let raw: Box<dyn Read> = if is_standard(path) {
        Box::new(io::stdin())
    } else {
        let file = File::open(path).with_context(failed)?;
        let length = file.metadata().with_context(failed)?.len();
        let bar = if quiet { ProgressBar::hidden() } else { ProgressBar::new(length) };
        let style = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
        bar.set_style(ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_message(verb);
        Box::new(Progress { bar, file })
    };
    let mut raw = BufReader::with_capacity(READ_BUFFER, raw);
    let start = raw.fill_buf().with_context(failed)?;
    if start.starts_with(&GZIP) {
        let plain = flate2::bufread::MultiGzDecoder::new(raw);
        return Ok(Box::new(BufReader::with_capacity(READ_BUFFER, plain)));
    }
    if start.starts_with(&ZSTD) {
        let plain = zstd::Decoder::with_buffer(raw).with_context(failed)?;
        return Ok(Box::new(BufReader::with_capacity(READ_BUFFER, plain)));
    }
    Ok(Box::new(raw))
}

/// A file whose bar goes when it is read.
struct Progress {
    bar: ProgressBar,
    file: File,
}

impl Read for Progress {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(into)?;
        self.bar.inc(count as u64);
        Ok(count)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

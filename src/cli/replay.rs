//! `ebbtide replay`: the same rules over a file.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use super::compare::{Comparison, Layout};
use super::source::{is_standard, open};
use super::table::{self, grouped};
use super::{WrongArgument, parse_time};
use crate::clock::{Clock as _, SystemClock, monotonic};
use crate::config::Config;
use crate::config::check::Purpose;
use crate::replay::{PARTITIONS_MAX, Plan, Summary, latest, replay};
use crate::retention::Matrix;
use crate::shard::Topic;
use crate::signals::Signals;
use crate::time::EventTime;

const WRITE_BUFFER: usize = 1 << 18;

/// Arguments of `ebbtide replay`.
#[derive(Args, Debug)]
pub struct ReplayArgs {
    /// Events as JSON Lines, plain or compressed with gzip or zstd; `-` is standard input
    file: PathBuf,
    /// Let time pass up to this moment, and leave out later events [default: the latest event's time]
    #[arg(short, long, value_name = "TIME", value_parser = parse_time)]
    until: Option<EventTime>,
    /// A configuration whose policy, event rules and lateness count; a file with a policy alone is enough. Given more
    /// than once, the output is no transitions but the cohorts day by day, side by side [default: the default policy,
    /// native events]
    #[arg(short, long, value_name = "FILE", visible_alias = "config")]
    policy: Vec<PathBuf>,
    /// Where to write; `-` is standard output
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    output: PathBuf,
    /// How to write: transitions as jsonl (default), tsv or none; compared policies as table (default), csv or json
    #[arg(short, long, value_enum)]
    format: Option<Format>,
    /// Where to write entries into segments and exits, one record a line, as in the topic [default: nowhere]
    #[arg(long, value_name = "FILE")]
    segments: Option<PathBuf>,
    /// Where to write what campaigns brought, one record a line, as in the topic [default: nowhere]
    #[arg(long, value_name = "FILE")]
    outcomes: Option<PathBuf>,
    /// Where to write the retention reports and signals as of the end, as JSON [default: nowhere]
    #[arg(long, value_name = "FILE")]
    reports: Option<PathBuf>,
    /// Spread the users over so many shards; makes no difference to any user's transitions
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=i64::from(PARTITIONS_MAX)))]
    partitions: u16,
    /// Write nothing to standard error but errors
    #[arg(short, long)]
    quiet: bool,
}

/// How the output is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// One transition record a line, as in the topic
    Jsonl,
    /// Tab-separated: `user_id`, seq, from, to, kind, reason, `effective_at`, `last_active_at`, `total_events`
    Tsv,
    /// Nothing: the cohort table alone
    None,
    /// Compared policies for people
    Table,
    /// Compared policies, one row a day and policy
    Csv,
    /// Compared policies, one object a day
    Json,
}

/// What one run of the command writes, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Transitions(Format),
    Comparison(Layout),
}

impl ReplayArgs {
    fn wanted(&self) -> Result<Wanted, WrongArgument> {
        let compared = self.policy.len() > 1;
        let wanted = match self.format {
            None if compared => Wanted::Comparison(Layout::Table),
            None => Wanted::Transitions(Format::Jsonl),
            Some(Format::Table) => Wanted::Comparison(Layout::Table),
            Some(Format::Csv) => Wanted::Comparison(Layout::Csv),
            Some(Format::Json) => Wanted::Comparison(Layout::Json),
            Some(format) => Wanted::Transitions(format),
        };
        match wanted {
            Wanted::Transitions(_) if compared => {
                Err(WrongArgument("several policies are compared as --format table, csv or json".to_owned()))
            }
            wanted => Ok(wanted),
        }
    }

    /// The moment at which time ends: as given, or the latest event that any of the rules sees.
    fn end(&self, configs: &[Config]) -> anyhow::Result<EventTime> {
        if let Some(until) = self.until {
            return Ok(until);
        }
        if is_standard(&self.file) {
            return Err(WrongArgument("standard input can be read only once: say --until when".to_owned()).into());
        }
        let mut end = None;
        for config in configs {
            let input = open(&self.file, self.quiet, "looking")?;
            end = end.max(latest(input, config.events.clone(), SystemClock.now())?);
        }
        end.ok_or_else(|| anyhow::anyhow!("{} holds no event", self.file.display()))
    }

    fn plan(&self, config: &Config, until: EventTime) -> Plan {
        Plan {
            events: config.events.clone(),
            policy: config.policy.clone(),
            segments: config.segments.clone(),
            win_back: config.win_back.clone(),
            retention: config.retention.clone(),
            signals: config.signals,
            time: config.time.clone(),
            until,
            partitions: self.partitions,
        }
    }
}

/// Runs the command.
///
/// # Errors
/// The policy is wrong, or a file cannot be read or written.
pub fn run(args: &ReplayArgs) -> anyhow::Result<()> {
    let wanted = args.wanted()?;
    let configs = match args.policy.as_slice() {
        [] => vec![Config::with_brokers("")],
        paths => paths.iter().map(|path| Config::load(path, Purpose::Rules, [])).collect::<Result<_, _>>()?,
    };
    if configs.len() > 1 && is_standard(&args.file) {
        return Err(WrongArgument("standard input can be read only once, by one policy".to_owned()).into());
    }
    let until = args.end(&configs)?;
    match (wanted, configs.as_slice()) {
        (Wanted::Transitions(format), [config, ..]) => transitions(args, config, format, until),
        (_, configs) => {
            let layout = if let Wanted::Comparison(layout) = wanted { layout } else { Layout::Table };
            compare(args, configs, layout, until)
        }
    }
}

fn transitions(args: &ReplayArgs, config: &Config, format: Format, until: EventTime) -> anyhow::Result<()> {
    let input = open(&args.file, args.quiet, "replaying")?;
    let mut output = create(&args.output)?;
    let mut segments = args.segments.as_deref().map(create).transpose()?;
    let mut outcomes = args.outcomes.as_deref().map(create).transpose()?;
    let began = monotonic();
    if format == Format::Tsv {
        write_header(&mut output)?;
    }
    let summary = replay(input, args.plan(config, until), |topic, json| match (topic, format) {
        (Topic::Segments, _) => segments.as_mut().map_or(Ok(()), |out| write_line(json, out)),
        (Topic::Outcomes, _) => outcomes.as_mut().map_or(Ok(()), |out| write_line(json, out)),
        (Topic::Transitions, Format::Jsonl) => write_line(json, &mut output),
        (Topic::Transitions, Format::Tsv) => write_tsv(json, &mut output),
        (Topic::Transitions, Format::None | Format::Table | Format::Csv | Format::Json)
        | (Topic::States | Topic::DeadLetters, _) => Ok(()),
    })?;
    for out in [Some(&mut output), segments.as_mut(), outcomes.as_mut()].into_iter().flatten() {
        out.flush().context("cannot write records")?;
    }
    if let Some(path) = &args.reports {
        let mut out = create(path)?;
        let reports = Reports { until: until.to_string(), retention: &summary.retention, signals: &summary.signals };
        serde_json::to_writer_pretty(&mut out, &reports)?;
        writeln!(out).and_then(|()| out.flush()).context("cannot write the reports")?;
    }
    if !args.quiet {
        report(&summary, until, began.elapsed())?;
    }
    Ok(())
}

fn compare(args: &ReplayArgs, configs: &[Config], layout: Layout, until: EventTime) -> anyhow::Result<()> {
    let mut output = create(&args.output)?;
    let mut comparison = Comparison::default();
    for (index, config) in configs.iter().enumerate() {
        let name = args.policy.get(index).map_or_else(|| "default".to_owned(), |path| path.display().to_string());
        let input = open(&args.file, args.quiet, "replaying")?;
        let mut days = comparison.begin(name);
        let summary = replay(input, args.plan(config, until), |topic, json| match topic {
            Topic::Transitions => days.transition(json),
            Topic::States | Topic::Segments | Topic::Outcomes | Topic::DeadLetters => Ok(()),
        })?;
        comparison.end(days, &summary);
    }
    comparison.write(layout, until, &mut output).context("cannot write the comparison")?;
    output.flush().context("cannot write the comparison")?;
    Ok(())
}

/// What `--reports` writes.
#[derive(Serialize)]
struct Reports<'a> {
    until: String,
    retention: &'a [Matrix],
    signals: &'a [Signals],
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
    write!(err, "{}", table::segments(&summary.segments))?;
    for matrix in &summary.retention {
        write!(err, "\n{}", table::retention(matrix))?;
    }
    Ok(())
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

fn create(path: &Path) -> anyhow::Result<Box<dyn Write>> {
    if is_standard(path) {
        return Ok(Box::new(BufWriter::with_capacity(WRITE_BUFFER, io::stdout())));
    }
    let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(Box::new(BufWriter::with_capacity(WRITE_BUFFER, file)))
}

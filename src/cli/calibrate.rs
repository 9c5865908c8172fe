//! `ebbtide calibrate`: thresholds from a history (SPEC-WINBACK section 13).

use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, ValueEnum};

use super::source::open;
use super::{WrongArgument, parse_time};
use crate::calibrate::{self, Options, Unit, render};
use crate::clock::{Clock as _, SystemClock};
use crate::config::Config;
use crate::config::check::Purpose;
use crate::event::{Decoder, Preset};
use crate::time::EventTime;

/// Arguments of `ebbtide calibrate`.
#[derive(Args, Debug)]
pub struct CalibrateArgs {
    /// Events as JSON Lines, plain or compressed with gzip or zstd; `-` is standard input
    file: PathBuf,
    /// The last day that is looked at [default: the last day with an activity]
    #[arg(short, long, value_name = "DAY", value_parser = parse_time)]
    until: Option<EventTime>,
    /// A configuration whose event rules count [default: every native event is activity]
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The format of the events, in place of the configured one
    #[arg(long, value_name = "PRESET", value_parser = preset)]
    preset: Option<Preset>,
    /// The unit of time of the printed BG/NBD parameters; what is ready to paste is in days either way
    #[arg(long, value_enum, default_value_t = UnitArg::Day)]
    unit: UnitArg,
    /// Ask only users who were observed for so many days after a silence whether they returned [default: a quarter of
    /// the history]
    #[arg(long, value_name = "DAYS")]
    observed_days: Option<u32>,
    /// Write the whole report as JSON to this file too; `-` is standard output, in place of the chart
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Show no progress bar
    #[arg(short, long)]
    quiet: bool,
}

/// A unit as typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum UnitArg {
    /// As the policy has it
    Day,
    /// As the literature has it
    Week,
}

fn preset(text: &str) -> Result<Preset, String> {
    Preset::from_name(text).ok_or_else(|| {
        let all: Vec<&str> = Preset::ALL.into_iter().map(Preset::as_str).collect();
        format!("one of {}", all.join(", "))
    })
}

/// Runs the command.
///
/// # Errors
/// The event rules are wrong, the file cannot be read, or there is no activity in it.
pub fn run(args: &CalibrateArgs) -> anyhow::Result<()> {
    let mut events = match &args.config {
        Some(path) => Config::load(path, Purpose::Rules, [])?.events,
        None => Config::with_brokers("").events,
    };
    if let Some(preset) = args.preset {
        events.preset = preset;
    }
    let decoder = Decoder::new(events).map_err(|problems| {
        let all: Vec<String> = problems.iter().map(ToString::to_string).collect();
        WrongArgument(all.join("; "))
    })?;
    let options = Options {
        decoder: &decoder,
        until: args.until.map(EventTime::day),
        unit: match args.unit {
            UnitArg::Day => Unit::Day,
            UnitArg::Week => Unit::Week,
        },
        observed_days: args.observed_days,
        now: SystemClock.now(),
    };
    let report = calibrate::run(open(&args.file, args.quiet, "reading")?, &options)?;
    let mut out = io::stdout().lock();
    match &args.json {
        Some(path) if super::source::is_standard(path) => {
            serde_json::to_writer_pretty(&mut out, &report)?;
            writeln!(out)?;
        }
        Some(path) => {
            let mut json = serde_json::to_vec_pretty(&report)?;
            json.push(b'\n');
            fs::write(path, json).with_context(|| format!("cannot write {}", path.display()))?;
            write!(out, "{}", render::render(&report))?;
        }
        None => write!(out, "{}", render::render(&report))?,
    }
    out.flush()?;
    Ok(())
}

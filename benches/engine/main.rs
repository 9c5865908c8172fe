//! `make bench`: what Ebbtide costs on this machine, as a table and as JSON (issue 2, "What it must show", 6).
//!
//! Every case is measured in a process of its own, so that CPU time and peak memory are its alone; cases that need Kafka
//! run the real program against a real broker. Compare figures of one run with each other, never with another machine's:
//! the floor, what reading and decoding cost without any state, is measured in the same run for that reason.
//!
//! Costs are CPU time of the process, all threads included, and not elapsed time: broker, producer and program share the
//! machine.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line program: the table is its result")]
#![allow(clippy::cast_precision_loss, reason = "counts and sizes of a benchmark are far below 2^53")]

mod alone;
mod case;
mod events;
mod export;
mod latency;
mod population;
mod program;
mod report;
mod served;
mod usage;

#[path = "../../tests/support/mod.rs"]
mod support;

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Parser;

use case::{Case, Scale};
use report::Report;
use support::kafka::Broker;

/// How long the broker's cleaner pauses: longer than any run.
const CLEANER_PAUSE_MS: u64 = 24 * 3_600_000;

/// Measures Ebbtide on this machine.
#[derive(Debug, Parser)]
struct Arguments {
    /// Measure only these cases
    #[arg(long, value_delimiter = ',', value_enum)]
    only: Vec<Case>,
    /// Measure each case so often; the table shows medians
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    repeat: u16,
    /// Users known before the measurement, where it is about many [default: 5000000; 200000 with --quick]
    #[arg(long)]
    users: Option<u64>,
    /// Timers due at once, where it is about a storm [default: 1000000; 100000 with --quick]
    #[arg(long)]
    timers: Option<u64>,
    /// Partitions of the input
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(i32).range(1..))]
    partitions: i32,
    /// Less of everything: to see that it works, not for figures to be quoted
    #[arg(long)]
    quick: bool,
    /// Write all figures as JSON
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Measure one part in this very process, and print its figures
    #[arg(long, hide = true, value_enum)]
    part: Option<Case>,
    #[arg(long, hide = true, default_value = "")]
    brokers: String,
    #[arg(long, hide = true, default_value = "")]
    topic: String,
    /// What `cargo bench` passes.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let scale = Scale::new(arguments.quick, arguments.users, arguments.timers, arguments.partitions);
    if let Some(part) = arguments.part {
        let figures = part.measure_here(&scale, &arguments.brokers, &arguments.topic)?;
        println!("{}", serde_json::to_string(&figures)?);
        return Ok(());
    }
    let chosen: Vec<Case> =
        Case::all().filter(|case| arguments.only.is_empty() || arguments.only.contains(case)).collect();
    let mut report = Report::new(&scale, arguments.repeat)?;
    let broker = chosen.iter().any(|case| case.needs_broker()).then(quiet_broker);
    // Round by round, so that a machine that changes its pace meets all cases alike.
    for round in 1..=arguments.repeat {
        for &case in &chosen {
            eprintln!("round {round} of {}: {}", arguments.repeat, case.name());
            let figures =
                case.measure(&scale, broker.as_ref(), round).with_context(|| format!("measuring {}", case.name()))?;
            report.add(case, figures);
            // What was measured is there even if a later case fails.
            if let Some(path) = &arguments.out {
                report.write(path)?;
            }
        }
    }
    report.print();
    Ok(())
}

/// A broker that does not compact its topics meanwhile: at work on what was just written for a case, its cleaner takes a
/// processor of this machine to itself for many seconds, from some cases and not from others.
fn quiet_broker() -> Broker {
    let broker = Broker::start();
    broker.reconfigure(|settings| format!("{settings}log.cleaner.backoff.ms={CLEANER_PAUSE_MS}\n"));
    broker
}

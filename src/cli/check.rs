//! `ebbtide check`: what is wrong with the configuration and the cluster, and where.

use std::io::{self, Write as _};

use clap::Args;

use super::ConfigArgs;
use crate::config::check::Purpose;
use crate::kafka::topics;

/// Arguments of `ebbtide check`.
#[derive(Args, Debug)]
pub struct CheckArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Check the configuration alone, without a broker
    #[arg(long)]
    offline: bool,
}

/// Runs the command: what is good, what should be looked at, and what is wrong, a line each. It changes nothing, and so
/// does not try whether anything may be written.
///
/// # Errors
/// The configuration is wrong, or the cluster is not as it must be.
pub fn run(args: &CheckArgs) -> anyhow::Result<()> {
    let config = args.config.load(Purpose::Run)?;
    let mut out = io::stdout().lock();
    writeln!(out, "configuration: good")?;
    for warning in config.warnings() {
        writeln!(out, "warning: {warning}")?;
    }
    if args.offline {
        return Ok(());
    }
    let found = topics::check(&config)?;
    for (mark, lines) in [("", &found.notes), ("LOOK AT: ", &found.warnings), ("WRONG: ", &found.problems)] {
        for line in lines {
            writeln!(out, "{mark}{line}")?;
        }
    }
    match found.problems.len() {
        0 => Ok(()),
        1 => anyhow::bail!("the cluster has 1 problem"),
        many => anyhow::bail!("the cluster has {many} problems"),
    }
}

//! The command line: arguments as typed, one file a command, errors to exit codes.
//!
//! Exit codes: 0 done; 1 failed while running (trying again may help); 2 the arguments or the configuration are wrong
//! (trying again does not help). What a program may read goes to standard output; everything for people to standard
//! error.

pub mod calibrate;
pub mod check;
pub mod compare;
pub mod demo;
pub mod export;
pub mod generate;
pub mod logging;
pub mod replay;
pub mod restoring;
pub mod run;
pub mod screen;
mod signals;
pub mod source;
pub mod table;

use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::check::Purpose;
use crate::config::{Config, ConfigError};

/// Failed while running.
const EXIT_FAILED: u8 = 1;
/// Arguments or configuration are wrong; also what the argument parser exits with.
const EXIT_WRONG: u8 = 2;
/// What is read where no file is named.
const DEFAULT_FILE: &str = "ebbtide.toml";

/// A real-time user-lifecycle engine: user events in a Kafka topic, lifecycle transitions out, exactly once.
#[derive(Debug, Parser)]
#[command(name = "ebbtide", version, about, propagate_version = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the workers and the HTTP server
    Run(run::RunArgs),
    /// Check the configuration and the cluster, and say what is wrong and where
    Check(check::CheckArgs),
    /// Run the same rules over a file of events, without Kafka
    Replay(replay::ReplayArgs),
    /// Choose thresholds from a history of events: who returns after how long a silence, and BG/NBD's parameters
    Calibrate(calibrate::CalibrateArgs),
    /// Write the users of a segment or state to a file, from a running instance
    Export(export::ExportArgs),
    /// Write the events of a believable, seeded population
    Generate(generate::GenerateArgs),
    /// See it work: a generated population at a fast clock, on a Kafka inside of this process or on your own
    Demo(demo::DemoArgs),
}

/// Where the configuration is.
#[derive(Args, Clone, Debug)]
pub struct ConfigArgs {
    /// The configuration; without it `ebbtide.toml` here, where there is one, and the environment (`EBBTIDE_KAFKA__BROKERS`
    /// sets `kafka.brokers`)
    #[arg(short, long, value_name = "FILE", env = "EBBTIDE_CONFIG")]
    pub config: Option<PathBuf>,
}

impl ConfigArgs {
    /// Reads the configuration.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load(&self, purpose: Purpose) -> Result<Config, ConfigError> {
        let env = environment();
        match &self.config {
            Some(path) => Config::load(path, purpose, env),
            None if Path::new(DEFAULT_FILE).exists() => Config::load(Path::new(DEFAULT_FILE), purpose, env),
            None => Config::parse("", "the configuration (no ebbtide.toml here, no --config)", purpose, env),
        }
    }
}

/// The variables that are text; others cannot be meant for us.
fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

/// Runs the command that the process was started with.
#[must_use]
pub fn main() -> ExitCode {
    run(std::env::args_os())
}

fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Printing fails only where nobody reads.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(EXIT_WRONG));
        }
    };
    let result = match cli.command {
        Command::Run(args) => run::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Replay(args) => replay::run(&args),
        Command::Calibrate(args) => calibrate::run(&args),
        Command::Export(args) => export::run(&args),
        Command::Generate(args) => generate::run(&args),
        Command::Demo(args) => demo::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read our output had enough, as `head` does.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "ebbtide: {error:#}");
            let wrong = error.is::<ConfigError>() || error.is::<WrongArgument>();
            ExitCode::from(if wrong { EXIT_WRONG } else { EXIT_FAILED })
        }
    }
}

/// An argument that only proves wrong once it is used.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct WrongArgument(pub String);

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let broken = |cause: &std::io::Error| cause.kind() == std::io::ErrorKind::BrokenPipe;
    error.chain().filter_map(|cause| cause.downcast_ref::<std::io::Error>()).any(broken)
}

/// A time as typed: RFC 3339, or a UTC day such as `1998-07-01`.
fn parse_time(text: &str) -> Result<crate::time::EventTime, String> {
    let at = chrono::DateTime::parse_from_rfc3339(text).map(|time| time.timestamp_millis()).or_else(|error| {
        let midnight = text.parse::<chrono::NaiveDate>().map_err(|_| error)?.and_time(chrono::NaiveTime::MIN);
        Ok(midnight.and_utc().timestamp_millis())
    });
    at.map(crate::time::EventTime::from_millis)
        .map_err(|error: chrono::ParseError| format!("no time like 1998-07-01T00:00:00Z or 1998-07-01 ({error})"))
}

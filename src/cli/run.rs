//! `ebbtide run`: the workers and the HTTP server, until a signal.

use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use tokio_util::sync::CancellationToken;

use super::screen::Screen;
use super::{ConfigArgs, logging, restoring, signals};
use crate::clock::SystemClock;
use crate::config::check::Purpose;
use crate::config::{AcceptOffsets, Config};
use crate::event::Decoder;
use crate::instance::Instance;
use crate::kafka::step;
use crate::rules::{Origin, Rules};

/// Arguments of `run`.
#[derive(Args, Debug)]
pub struct RunArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Which side to believe, once, when somebody moved the group's offsets: `shard` or `group`
    #[arg(long, value_name = "SIDE", value_parser = accept)]
    accept_offsets: Option<AcceptOffsets>,
}

fn accept(text: &str) -> Result<AcceptOffsets, String> {
    match text {
        "shard" => Ok(AcceptOffsets::Shard),
        "group" => Ok(AcceptOffsets::Group),
        _ => Err("`shard` or `group`".to_owned()),
    }
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// The configuration, the cluster or the state folder cannot be used; or a worker could not go on.
pub fn run(args: &RunArgs) -> anyhow::Result<()> {
    let mut config = args.config.load(Purpose::Run)?;
    config.kafka.accept_offsets = args.accept_offsets;
    run_watched(config, step::unwatched)
}

/// The same with a configuration that is there, and somebody who is told each step of the workers: for tests.
///
/// # Errors
/// As above.
pub fn run_watched(config: Config, watcher: step::Watcher) -> anyhow::Result<()> {
    let screen = Screen::default();
    logging::start(&config.log, &screen);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let result = runtime.block_on(serve(config, screen, watcher));
    // Does not wait for a worker that did not stop in time.
    runtime.shutdown_background();
    result
}

/// The rules that a configuration means.
///
/// # Errors
/// The event rules contradict each other.
pub fn rules(config: &Config) -> anyhow::Result<Arc<Rules>> {
    let decoder = Decoder::new(config.events.clone())
        .map_err(|problems| anyhow::anyhow!(problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")))?;
    Ok(Arc::new(Rules {
        policy: config.policy.clone(),
        decoder,
        time: config.time.clone(),
        track: config.events.track.clone(),
        segments: config.segments.clone(),
        win_back: config.win_back.clone(),
        retention: config.retention.clone(),
        signals: config.signals,
        origin: Origin { group: config.kafka.group_id.clone(), topic: config.topics.events.clone() },
    }))
}

async fn serve(config: Config, screen: Screen, watcher: step::Watcher) -> anyhow::Result<()> {
    let rules = rules(&config)?;
    let shutdown = CancellationToken::new();
    let listener = tokio::net::TcpListener::bind(config.http.listen)
        .await
        .with_context(|| format!("cannot listen on http.listen = {}", config.http.listen))?;
    let signals = tokio::spawn(signals::watch(shutdown.clone(), None));
    let instance = Instance::start_watched(config, rules, Arc::new(SystemClock), listener, &shutdown, watcher)?;
    let bar = screen
        .is_terminal()
        .then(|| tokio::spawn(restoring::show(Arc::clone(&instance.status), screen, shutdown.clone())));
    let ended = instance.ended(&shutdown).await;
    signals.abort();
    if let Some(bar) = bar {
        bar.await?;
    }
    Ok(ended?)
}

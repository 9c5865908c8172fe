//! `ebbtide run`: the workers and the HTTP server, until a signal.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{ConfigArgs, logging};
use crate::clock::SystemClock;
use crate::config::check::Purpose;
use crate::config::{AcceptOffsets, Config};
use crate::event::Decoder;
use crate::http;
use crate::kafka::deletions::DeletionProducer;
use crate::kafka::{self, Parts, Status, TransitionFeed, step};
use crate::metrics::Metrics;
use crate::rules::{Origin, Rules};
use crate::store::rocks::Database;

/// Stopping may take so long; then the process ends as it stands, which loses nothing.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

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
    logging::start(&config.log);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(serve(config, watcher))
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
        origin: Origin { group: config.kafka.group_id.clone(), topic: config.topics.events.clone() },
    }))
}

async fn serve(config: Config, watcher: step::Watcher) -> anyhow::Result<()> {
    let rules = rules(&config)?;
    let clock: Arc<dyn crate::clock::Clock> = Arc::new(SystemClock);
    let database = Database::open(&config.state.dir, config.state.memory)?;
    let metrics = Arc::new(Metrics::new()?);
    let status = Arc::new(Status::new(config.instance_id.clone(), config.workers, clock.now()));
    let feed = TransitionFeed::new();
    let shutdown = CancellationToken::new();
    let listener = tokio::net::TcpListener::bind(config.http.listen)
        .await
        .with_context(|| format!("cannot listen on http.listen = {}", config.http.listen))?;
    info!(address = %listener.local_addr()?, instance = %config.instance_id, workers = config.workers, "starting");
    let http_parts = http::Parts {
        metrics: Arc::clone(&metrics),
        status: Arc::clone(&status),
        database: Arc::clone(&database),
        feed: feed.clone(),
        clock: Arc::clone(&clock),
        rules: Arc::clone(&rules),
        deletions: Arc::new(DeletionProducer::new(&config)?),
        token: config.http.token.as_ref().map(|token| token.expose().to_owned()),
        advertised: config.http.advertised.clone(),
    };
    let http = tokio::spawn(http::serve::serve(listener, http_parts, shutdown.clone()));
    let signals = tokio::spawn(watch_signals(shutdown.clone()));
    let parts = Parts { metrics, status, database, feed, clock, watcher };
    let stop = shutdown.clone();
    let workers = tokio::task::spawn_blocking(move || {
        let _stopped = stop.clone().drop_guard();
        kafka::run(&config, rules, &parts, &stop)
    });
    shutdown.cancelled().await;
    let Ok(ended) = tokio::time::timeout(STOP_TIMEOUT, workers).await else {
        warn!("the workers did not stop in time; ending as it stands: nothing is lost");
        std::process::exit(1);
    };
    signals.abort();
    let _ = tokio::time::timeout(Duration::from_secs(1), http).await;
    Ok(ended??)
}

/// The first signal asks to stop, the second ends at once.
async fn watch_signals(shutdown: CancellationToken) -> std::io::Result<()> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut asked = false;
    loop {
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        if std::mem::replace(&mut asked, true) {
            std::process::exit(1);
        }
        info!("stopping");
        shutdown.cancel();
    }
}

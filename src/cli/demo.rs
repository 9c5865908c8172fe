//! `ebbtide demo`: the newcomer's first minute.

mod panel;

use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use self::panel::{Panel, Reading};
use super::screen::Screen;
use super::{ConfigArgs, logging, restoring, run::rules, signals};
use crate::clock::{Clock, SystemClock, monotonic};
use crate::config::check::Purpose;
use crate::config::{Config, KafkaConfig, LogConfig, LogFormat};
use crate::demo::cluster::{self, Embedded};
use crate::demo::{PARTITIONS, Speed, configuration, sender};
use crate::generate::crowd::Crowd;
use crate::generate::topic::{Stamp, TopicWriter};
use crate::instance::Instance;
use crate::kafka::topics;

/// How often the table is drawn.
const DRAW_EVERY: Duration = Duration::from_millis(250);
/// How often a line is printed where there is no terminal.
const PRINT_EVERY: Duration = Duration::from_secs(2);

/// Arguments of `ebbtide demo`.
#[derive(Args, Debug)]
pub struct DemoArgs {
    /// Use this real cluster, with topics of the demo's own, in place of the Kafka inside of this process
    #[arg(long, value_name = "HOST:PORT")]
    brokers: Option<String>,
    /// Take `[kafka]` from this file: SASL, TLS and the like
    #[arg(short, long, value_name = "FILE", requires = "brokers")]
    config: Option<std::path::PathBuf>,
    /// The real time that a day takes
    #[arg(long, value_name = "DURATION", default_value = "500ms", value_parser = day)]
    day: Duration,
    /// How many people the first wave has
    #[arg(short, long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    people: u32,
    /// The same seed gives the same people
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// End by itself after so long; without it Ctrl-C ends it
    #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration)]
    length: Option<Duration>,
    /// Where the console listens; where that port is taken, a free one
    #[arg(long, value_name = "ADDRESS", default_value_t = SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)))]
    listen: SocketAddr,
    /// The log's level
    #[arg(long, value_name = "LEVEL", default_value = "warn")]
    log: String,
}

fn day(text: &str) -> Result<Duration, String> {
    let day = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let fits = (Duration::from_millis(50)..=Duration::from_hours(1)).contains(&day);
    if fits { Ok(day) } else { Err("between 50ms and 1h".to_owned()) }
}

/// Runs until SIGINT, SIGTERM or the end of `--for`.
///
/// # Errors
/// The cluster cannot be used, or a worker could not go on.
pub fn run(args: &DemoArgs) -> anyhow::Result<()> {
    let screen = Screen::default();
    logging::start(&LogConfig { level: args.log.clone(), format: LogFormat::Text }, &screen);
    // Outlives every client of it.
    let embedded = if args.brokers.is_none() { Some(Embedded::start()?) } else { None };
    let state = tempfile::Builder::new().prefix("ebbtide-demo-").tempdir().context("no folder for the state")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let result = runtime.block_on(serve(args, embedded.as_ref(), state.path(), &screen));
    runtime.shutdown_background();
    result
}

/// How to reach the cluster, under a name that nobody else has.
fn kafka(args: &DemoArgs, embedded: Option<&Embedded>) -> anyhow::Result<KafkaConfig> {
    let mut kafka = match &args.config {
        Some(path) => ConfigArgs { config: Some(path.clone()) }.load(Purpose::Rules)?.kafka,
        None => Config::with_brokers("").kafka,
    };
    "ebbtide-demo".clone_into(&mut kafka.group_id);
    if let Some(embedded) = embedded {
        kafka.brokers = embedded.brokers();
    } else if let Some(brokers) = &args.brokers {
        kafka.brokers.clone_from(brokers);
        kafka.group_id = format!("ebbtide-demo-{:08x}", rand::random::<u32>());
    }
    // The group can be removed at the end only when nobody keeps a place in it.
    kafka.static_membership = false;
    Ok(kafka)
}

async fn serve(
    args: &DemoArgs,
    embedded: Option<&Embedded>,
    state: &std::path::Path,
    screen: &Screen,
) -> anyhow::Result<()> {
    let speed = Speed::of_day(args.day);
    let mut config = configuration(speed, kafka(args, embedded)?, state)?;
    config.topics.describe = embedded.is_none();
    let shutdown = CancellationToken::new();
    let signals = tokio::spawn(signals::watch(shutdown.clone(), Some(state.to_owned())));
    match embedded {
        Some(embedded) => embedded.create_topics(&config.topics)?,
        None => topics::create_input(&config, PARTITIONS)?,
    }
    let shown = show(args, config.clone(), embedded.is_some(), speed, screen, &shutdown).await;
    shutdown.cancel();
    let cleaned = if embedded.is_some() { Ok(()) } else { clean_up(&config).await };
    signals.abort();
    shown.and(cleaned)
}

async fn clean_up(config: &Config) -> anyhow::Result<()> {
    let left = cluster::clean_up(config).await;
    if left.is_empty() {
        writeln!(io::stderr(), "Removed the demo's topics and its group from {}.", config.kafka.brokers)?;
        return Ok(());
    }
    anyhow::bail!("these are left on {} and should be removed by hand:\n  {}", config.kafka.brokers, left.join("\n  "))
}

/// Everything between making the topics and removing them.
async fn show(
    args: &DemoArgs,
    config: Config,
    embedded: bool,
    speed: Speed,
    screen: &Screen,
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    let clock = speed.clock(SystemClock.now());
    let origin = clock.now();
    let rules = rules(&config)?;
    let writer = TopicWriter::connect(&config, Stamp::Sending)?;
    let listener = listen(args.listen).await?;
    let crowd = Crowd::new(args.seed, args.people, origin.as_event_time().day());
    let brokers = config.kafka.brokers.clone();
    let prefix = config.kafka.group_id.clone();
    let folder = config.state.dir.clone();
    let instance = Instance::start(config, rules, Arc::new(clock), listener, shutdown)?;
    let introduction = introduction(args, embedded, &brokers, &prefix, &folder, speed, instance.address);
    writeln!(io::stderr(), "{introduction}")?;

    let sent = Arc::new(AtomicU64::new(0));
    let sending = tokio::task::spawn_blocking({
        let (sent, shutdown) = (Arc::clone(&sent), shutdown.clone());
        move || {
            let _all = shutdown.clone().drop_guard();
            sender::play(crowd, writer, &clock, &sent, &shutdown)
        }
    });
    let bar = tokio::spawn(restoring::show(Arc::clone(&instance.status), screen.clone(), shutdown.clone()));
    let mut panel = Panel::new(instance.feed.watch(), origin);
    let read = || Reading {
        now: clock.now(),
        sent: sent.load(Ordering::Relaxed),
        cohorts: instance.status.cohorts(),
        flows: instance.metrics.flows(),
        address: instance.address,
        joined: instance.status.has_joined(),
    };
    let deadline = args.length.map(|length| monotonic() + length);
    let table = screen.is_terminal().then(|| screen.panel());
    let every = if table.is_some() { DRAW_EVERY } else { PRINT_EVERY };
    let mut pace = tokio::time::interval(every);
    while shutdown.run_until_cancelled(pace.tick()).await.is_some() {
        if deadline.is_some_and(|deadline| monotonic() >= deadline) {
            shutdown.cancel();
        }
        match &table {
            Some(table) => table.set_message(panel.table(&read())),
            None => writeln!(io::stderr(), "{}", panel.line(&read()))?,
        }
    }
    if let Some(table) = table {
        table.abandon();
    }
    let played = sending.await?;
    bar.await?;
    instance.ended(shutdown).await?;
    played?;
    writeln!(io::stderr(), "The demo has ended; nothing is left of it on this machine.")?;
    Ok(())
}

/// The wanted address, or any free port of the same host.
async fn listen(wanted: SocketAddr) -> anyhow::Result<TcpListener> {
    match TcpListener::bind(wanted).await {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => TcpListener::bind((wanted.ip(), 0)).await,
        other => other,
    }
    .with_context(|| format!("cannot listen on {wanted}"))
}

/// What is real and what is not.
fn introduction(
    args: &DemoArgs,
    embedded: bool,
    brokers: &str,
    prefix: &str,
    folder: &std::path::Path,
    speed: Speed,
    address: SocketAddr,
) -> String {
    let kafka = if embedded {
        format!(
            "  embedded   Kafka: librdkafka's in-process cluster at {brokers}. It takes the worker's transactions but\n\
             \x20            neither keeps nor isolates them: what Ebbtide promises of exactly-once shows on a real cluster\n\
             \x20            alone (--brokers)"
        )
    } else {
        format!(
            "  real       Kafka at {brokers}: the topics {prefix}.events, .changelog and so on, and the group\n\
             \x20            {prefix}, all removed at the end"
        )
    };
    format!(
        "{kafka}\n  \
           generated  {people} people at first, seed {seed}; the clock runs {factor} times as fast: a day takes {day}\n  \
           real       the worker, its rules and commit protocol, RocksDB in {folder}, metrics, HTTP, console\n\n  \
           Policy     at risk after 7 idle days or by half of the activity, lapsed after 14, churned after 30,\n             \
                      forgotten after 365 (the defaults are 14, 30, 90 and never)\n  \
           Console    http://{address}/\n",
        people = super::table::grouped(args.people.into()),
        seed = args.seed,
        factor = super::table::grouped(speed.factor().into()),
        day = humantime::format_duration(args.day),
        folder = folder.display(),
    )
}

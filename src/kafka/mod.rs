//! The Kafka edge: workers that carry records in and effects out, exactly once (SPEC section 7).

pub mod client;
pub mod commit;
pub mod deletions;
pub mod error;
pub mod feed;
pub mod group;
mod lease;
mod leftovers;
mod orphans;
pub mod partitioner;
mod pulse;
mod rebalance;
mod restore;
mod standby;
pub mod status;
pub mod step;
pub mod takeover;
pub mod topics;
mod transaction;
mod watch;
mod worker;

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

pub use error::RunError;
pub use feed::{CommittedTransition, Onlooker, TransitionFeed};
pub use status::{Phase, ShardStatus, Status};

use crate::clock::{Clock, monotonic};
use crate::config::Config;
use crate::metrics::Metrics;
use crate::rules::Rules;
use crate::store::rocks::Database;

/// The log target of restoring's progress: a terminal shows a bar instead.
pub const PROGRESS_TARGET: &str = "ebbtide::restoring";
/// Memtables older than this are flushed, so that a quiet shard's position stays near the changelog's end.
const FLUSH_AFTER: Duration = Duration::from_mins(1);
/// How often that is looked at, and how soon a request to stop is heard there.
const HOUSEKEEPING: Duration = Duration::from_millis(200);

/// What the workers share with the rest of the process.
#[derive(Clone, Debug)]
pub struct Parts {
    /// What happened, counted.
    pub metrics: Arc<Metrics>,
    /// What this instance holds.
    pub status: Arc<Status>,
    /// The local state.
    pub database: Arc<Database>,
    /// Committed transitions, for onlookers.
    pub feed: TransitionFeed,
    /// Wall time.
    pub clock: Arc<dyn Clock>,
    /// Is told each step of each worker; [`step::unwatched`] everywhere but in tests.
    pub watcher: step::Watcher,
}

/// Runs the workers until `shutdown`, and returns when all of them have left the group. Blocks: it belongs on a thread
/// of its own.
///
/// # Errors
/// The first reason for which a worker cannot go on. The others have stopped in order by then.
pub fn run(config: &Config, rules: Arc<Rules>, parts: &Parts, shutdown: &CancellationToken) -> Result<(), RunError> {
    let layout = topics::ensure(config)?;
    for topic in &layout.created {
        info!(%topic, "created");
    }
    for warning in &layout.warnings {
        warn!("{warning}");
    }
    parts.status.set_input_partitions(layout.input_partitions);
    let looker = client::looker(config).create_with_context(client::Listener).map_err(RunError::Client)?;
    let shared = worker::Shared {
        config: config.clone(),
        rules,
        parts: parts.clone(),
        leases: lease::Leases::default(),
        nudges: orphans::Nudges::new(config.workers),
        pulses: pulse::Pulses::new(config),
        input_partitions: layout.input_partitions,
    };
    let mut leftovers = leftovers::Leftovers::default();
    let mut watch = watch::Watch::new(config, layout.input_partitions)?;
    let result = thread::scope(|scope| {
        let mut workers = Vec::with_capacity(config.workers);
        let mut result = Ok(());
        for number in 0..config.workers {
            let shared = &shared;
            let started = thread::Builder::new().name(format!("worker-{number}")).spawn_scoped(scope, move || {
                // Whatever ends one worker ends all: the process is restarted as a whole.
                let _others = shutdown.clone().drop_guard();
                worker::work(number, shared, shutdown)
            });
            match started {
                Ok(handle) => workers.push((number, handle)),
                Err(error) => {
                    shutdown.cancel();
                    result = Err(RunError::Thread(error));
                }
            }
        }
        let (shared, looker) = (&shared, &looker);
        let watching = thread::Builder::new().name("group-watch".to_owned()).spawn_scoped(scope, move || {
            orphans::watch(config, looker, shared.input_partitions, &shared.nudges, shutdown);
        });
        if let Err(error) = watching {
            shutdown.cancel();
            result = result.and(Err(RunError::Thread(error)));
        }
        if config.standbys > 0 {
            let started = thread::Builder::new()
                .name("standby".to_owned())
                .spawn_scoped(scope, move || standby::follow(shared, shutdown));
            if let Err(error) = started {
                shutdown.cancel();
                result = result.and(Err(RunError::Thread(error)));
            }
        }
        let started = monotonic();
        while !shutdown.is_cancelled() {
            thread::park_timeout(HOUSEKEEPING);
            if let Err(error) = parts.database.flush_older_than(FLUSH_AFTER, started.elapsed()) {
                warn!(%error, "flushing");
            }
            if let Err(error) = leftovers.sweep(&parts.database, &shared.leases, layout.input_partitions) {
                warn!(%error, "removing old local copies");
            }
            let still = shared.pulses.still(monotonic()).map(|(worker, since)| RunError::Still { worker, since });
            if let Err(error) = watch.look().and(still.map_or(Ok(()), Err)) {
                error!(%error, "stopped");
                result = result.and(Err(error));
                shutdown.cancel();
            }
        }
        for (number, handle) in workers {
            let ended = handle.join().unwrap_or_else(|panic| {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let message = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message").to_owned();
                Err(RunError::Panicked { worker: number, message })
            });
            result = result.and(ended);
        }
        result
    });
    if let Err(error) = parts.database.flush() {
        warn!(%error, "flushing");
    }
    result
}

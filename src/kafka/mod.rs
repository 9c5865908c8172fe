//! The Kafka edge: workers that carry records in and effects out, exactly once (SPEC section 7).
//!
//! Pure, and readable without Kafka: [`commit`] (the protocol of one commit) and [`takeover`] (what to replay, where to
//! resume). Around them: `worker` (the loop), `transaction` (a producer), `rebalance` (the group's callback), `restore`
//! (from the changelog to the store), [`topics`], [`client`] (settings). For onlookers: [`status`] and [`feed`].
//!
//! Never here: a rule of SPEC sections 1 to 3. Never on a worker's thread: anything that waits for an onlooker.

pub mod client;
pub mod commit;
pub mod deletion;
mod error;
pub mod feed;
mod lease;
pub mod partitioner;
mod rebalance;
mod restore;
pub mod status;
pub mod takeover;
pub mod topics;
mod transaction;
mod worker;

use std::any::Any;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub use error::RunError;
pub use feed::{CommittedTransition, TransitionFeed};
pub use status::{Phase, ShardStatus, Status};

use crate::clock::{Clock, monotonic};
use crate::config::Config;
use crate::metrics::Metrics;
use crate::rules::Rules;
use crate::store::rocks::Database;
use lease::Leases;
use worker::Shared;

/// How old an unflushed write may get: a restart replays the changelog from the last flush.
const FLUSH_AFTER: Duration = Duration::from_secs(30);
/// How often the flusher looks.
const FLUSH_LOOK: Duration = Duration::from_millis(500);

/// What a run needs beside its configuration.
pub struct Parts {
    /// Decides, and makes output.
    pub rules: Arc<Rules>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Shows how things stand.
    pub status: Arc<Status>,
    /// Keeps state.
    pub database: Arc<Database>,
    /// Shows committed transitions.
    pub feed: TransitionFeed,
    /// Tells wall time.
    pub clock: Arc<dyn Clock>,
}

/// Runs all workers until `shutdown` is cancelled, or one of them cannot go on. Blocks: call it on a thread of its own.
///
/// # Errors
/// See [`RunError`]. What was not committed is done again by the next run.
pub fn run(config: &Config, parts: Parts, shutdown: &CancellationToken) -> Result<(), RunError> {
    let layout = topics::ensure(config)?;
    for topic in &layout.created {
        info!(topic, "created");
    }
    for warning in &layout.warnings {
        warn!("{warning}");
    }
    parts.status.set_input_partitions(layout.input_partitions);

    // A worker that ends, however it ends, ends them all; the caller's token is only listened to.
    let stop = shutdown.child_token();
    let shared = Arc::new(Shared {
        config: Arc::new(config.clone()),
        rules: parts.rules,
        input_partitions: layout.input_partitions,
        metrics: parts.metrics,
        status: parts.status,
        database: Arc::clone(&parts.database),
        feed: parts.feed,
        clock: parts.clock,
        leases: Leases::default(),
        shutdown: stop.clone(),
    });
    let flusher = spawn("ebbtide-flush".to_owned(), {
        let (stop, database) = (stop.clone(), Arc::clone(&parts.database));
        move || flush_regularly(&database, &stop)
    })?;
    let mut workers: Vec<JoinHandle<Result<(), RunError>>> = Vec::with_capacity(config.workers);
    let mut result = Ok(());
    for worker in 0..config.workers {
        let (shared, guard) = (Arc::clone(&shared), stop.clone().drop_guard());
        let spawned = spawn(format!("ebbtide-worker-{worker}"), move || {
            let _ends_all = guard;
            worker::run(&shared, worker)
        });
        match spawned {
            Ok(handle) => workers.push(handle),
            Err(error) => {
                stop.cancel();
                result = Err(error);
                break;
            }
        }
    }
    for (worker, handle) in workers.into_iter().enumerate() {
        let ended = handle
            .join()
            .unwrap_or_else(|panic| Err(RunError::Panicked { worker, message: last_words(panic.as_ref()) }));
        // The first error is the cause; the others may follow from it.
        result = result.and(ended);
    }
    stop.cancel();
    if flusher.join().is_err() {
        warn!("the flusher panicked; the changelog has everything");
    }
    if let Err(error) = parts.database.flush() {
        warn!(%error, "the last flush failed; the next start replays a little more");
    }
    result
}

fn spawn<T: Send + 'static>(
    name: String,
    body: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, RunError> {
    std::thread::Builder::new().name(name).spawn(body).map_err(RunError::Thread)
}

/// Flushes now and then, so that a quiet shard's changelog position does not fall behind.
fn flush_regularly(database: &Database, stop: &CancellationToken) {
    let started = monotonic();
    while !stop.is_cancelled() {
        std::thread::sleep(FLUSH_LOOK);
        if let Err(error) = database.flush_older_than(FLUSH_AFTER, started.elapsed()) {
            warn!(%error, "flushing the state database failed; the changelog has everything");
        }
    }
}

fn last_words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}

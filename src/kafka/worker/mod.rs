//! One worker: a thread with a consumer, a transactional producer, and the shards that the group gave it.
//!
//! The loop reads a bounded batch, applies it, lets time pass, commits when it is due, and only then acts on the effects.
//! Everything that changes a shard happens on this thread, so there is no lock around one, and between two rounds of the
//! loop no transaction is open: effects wait in memory until they are committed in one burst.
//!
//! What the parts do: [`reading`] from records to applied effects; [`gap`] what to make of missing offsets; [`passing`] how wall time is let in; [`assignment`] what
//! the group gives and takes, restoring included; [`committing`] drives the [commit protocol](super::commit).

mod assignment;
mod committing;
mod gap;
mod passing;
mod reading;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::{Consumer, ConsumerGroupMetadata};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::commit::Commit;
use super::error::{Halt, RunError};
use super::lease::{Lease, Leases};
use super::orphans::Nudges;
use super::pulse::Pulses;
use super::rebalance::{GroupConsumer, Membership};
use super::restore::{Restore, Restorer};
use super::status::Phase;
use super::step::Step;
use super::transaction::Transactions;
use super::{Parts, client};
use crate::clock::monotonic;
use crate::config::Config;
use crate::metrics::AbortCause;
use crate::rules::Rules;
use crate::shard::{Bulk, Effects, Shard};
use crate::state_folder;
use crate::store::rocks::RocksStore;
use crate::time::EventTime;
use committing::Scope;

/// A commit happens at the latest when so many records were applied.
const COMMIT_RECORDS_MAX: usize = 100_000;
/// A commit happens at the latest when so many users have changed: it holds each of them encoded.
const COMMIT_USERS_MAX: usize = 20_000;
/// A commit happens at the latest when so many records wait to be produced, or when they take a part of `state.memory`:
/// see [`commit_outputs`].
const COMMIT_OUTPUTS: std::ops::RangeInclusive<u64> = 1_000..=20_000;
/// What such a record takes, about: its key, value and headers here, and copies of them with their bookkeeping in
/// librdkafka's queue.
const OUTPUT_BYTES: u64 = 2_800;
/// How often onlookers see a new status of a busy worker.
const REPORT_EVERY: Duration = Duration::from_millis(250);
/// How long the loop may wait for records at a time; bounds how late it sees a shut-down.
const PATIENCE_MAX: Duration = Duration::from_millis(100);
/// How long the loop may wait while shards are being restored or positioned.
const PATIENCE_RESTORING: Duration = Duration::from_millis(5);
/// Times that somebody may take over under our name in a row before we believe that there are two of us.
const FENCED_MAX: u32 = 3;
/// How long to wait before joining anew, times the number of attempts so far.
const REJOIN_PAUSE: Duration = Duration::from_millis(250);
/// How long leaving the group may take, how long is waited at a time, and for how many rounds without an assignment.
const LEAVE_PATIENCE: Duration = Duration::from_secs(3);
const LEAVE_POLL: Duration = Duration::from_millis(50);
const LEAVE_ROUNDS: u32 = 3;
/// The longest pause before joining anew.
const REJOIN_PAUSE_MAX: Duration = Duration::from_secs(5);

/// What all workers of a process share.
pub(super) struct Shared {
    pub(super) config: Config,
    pub(super) rules: Arc<Rules>,
    pub(super) parts: Parts,
    pub(super) leases: Leases,
    pub(super) nudges: Nudges,
    pub(super) pulses: Pulses,
    pub(super) input_partitions: i32,
}

/// Runs one worker until the shut-down, joining the group anew as often as needed.
pub(super) fn work(worker: usize, shared: &Shared, shutdown: &CancellationToken) -> Result<(), RunError> {
    let mut fenced = 0;
    let mut attempts = 0_u32;
    while !shutdown.is_cancelled() {
        shared.pulses.beat(worker);
        let mut progress = Progress::default();
        let halt = session(worker, shared, shutdown, &mut progress);
        shared.parts.status.left(worker);
        if progress.committed {
            (fenced, attempts) = (0, 0);
        }
        attempts = attempts.saturating_add(1);
        let again_in = (REJOIN_PAUSE * attempts).min(REJOIN_PAUSE_MAX);
        match halt {
            Ok(()) => return Ok(()),
            Err(Halt::Stop(error)) => {
                error!(worker, %error, "stopped");
                // At once: the process may have to end without the other workers.
                state_folder::mark_if_damaged(&shared.config.state.dir, &error);
                return Err(error);
            }
            Err(Halt::Fenced(reason)) => {
                shared.parts.metrics.aborted(AbortCause::Fenced);
                fenced += 1;
                if fenced >= FENCED_MAX {
                    return Err(RunError::Fenced {
                        instance_id: shared.config.instance_id.clone(),
                        group_id: shared.config.kafka.group_id.clone(),
                    });
                }
                warn!(worker, reason, attempts, ?again_in, "somebody took over under this worker's name; joining anew");
            }
            Err(Halt::Rejoin(reason)) => warn!(worker, reason, attempts, ?again_in, "joining the group anew"),
        }
        pause(shutdown, again_in);
    }
    Ok(())
}

/// Whether a session came as far as a commit.
#[derive(Debug, Default)]
struct Progress {
    committed: bool,
}

/// Waits so long, but not past the shut-down: its token can be awaited by tasks only.
pub(super) fn pause(shutdown: &CancellationToken, length: Duration) {
    let until = monotonic() + length;
    while monotonic() < until && !shutdown.is_cancelled() {
        std::thread::sleep(PATIENCE_MAX.min(length));
    }
}

/// From joining the group to leaving it.
fn session(worker: usize, shared: &Shared, shutdown: &CancellationToken, progress: &mut Progress) -> Result<(), Halt> {
    let config = &shared.config;
    // The producer first: initialising it settles what a predecessor under this name left open, before anybody waits for
    // it in `committed` or in a changelog.
    let mut transactions = Transactions::new(client::transactional_producer(config, worker), config.topics.clone());
    settle(shared, &mut transactions)?;

    let client_error = |source| Halt::Stop(RunError::Client(source));
    let consumer: GroupConsumer =
        client::group_consumer(config, worker).create_with_context(Membership::default()).map_err(client_error)?;
    let restorer = Restorer::new(
        &client::reader(config),
        &client::looker(config),
        (config.topics.changelog.clone(), config.topics.events.clone()),
        (Arc::clone(&shared.parts.database), shared.leases.clone()),
        bulk_bytes(config),
        Arc::clone(&shared.parts.clock),
        config.kafka.accept_offsets,
    )
    .map_err(client_error)?;
    consumer.subscribe(&[&config.topics.events]).map_err(client_error)?;

    let mut session = Session {
        shared,
        shutdown,
        worker,
        consumer: &consumer,
        transactions,
        restorer,
        slots: BTreeMap::new(),
        protocol: Commit::default(),
        generation: None,
        name: format!("{:016x}", rand::random::<u64>()),
        commits: 0,
        pending_since: None,
        paced_from: None,
        asked_at: monotonic(),
        reported_at: monotonic(),
        positioning_since: None,
        progress,
    };
    let result = session.run();
    // The shards go before the group hears of it: whoever gets them next finds the leases free.
    session.slots.clear();
    drop(session);
    consumer.context().close(&consumer, &config.topics.events);
    if result.is_err() {
        leave(&consumer);
        info!(worker, "left the group");
    }
    // Asked to stop, a worker stays a member until its session is over: when it comes back before, as in a rolling
    // restart, it finds its shards, and nothing has moved.
    drop(consumer);
    result
}

/// Leaves the group, so that it hands out anew what this worker had. Closing alone would not do for a static member.
fn leave(consumer: &GroupConsumer) {
    consumer.unsubscribe();
    let until = monotonic() + LEAVE_PATIENCE;
    let mut rounds_without = 0;
    // The client leaves once its assignment is given back, which happens while it is polled.
    while rounds_without < LEAVE_ROUNDS && monotonic() < until {
        drop(consumer.poll(LEAVE_POLL));
        rounds_without += u32::from(consumer.assignment().is_ok_and(|assignment| assignment.count() == 0));
    }
}

/// What a worker may gather of `state.memory` before it loads it in bulk: a quarter for all workers together, of which
/// decoded users take a half afterwards. The more, the fewer files, and the less of them is compacted.
fn bulk_bytes(config: &Config) -> usize {
    let workers = u64::try_from(config.workers).unwrap_or(1).max(1);
    usize::try_from(config.state.memory / 4 / workers).unwrap_or(usize::MAX).min(Bulk::BYTES_MAX)
}

/// How many records may wait to be produced before there is a commit: as many as fit into an eighth of `state.memory` for
/// all workers together, within bounds.
fn commit_outputs(config: &Config) -> usize {
    let workers = u64::try_from(config.workers).unwrap_or(1).max(1);
    let fit = config.state.memory / 8 / workers / OUTPUT_BYTES;
    usize::try_from(fit.clamp(*COMMIT_OUTPUTS.start(), *COMMIT_OUTPUTS.end())).unwrap_or(usize::MAX)
}

/// Initialises the producer, for as long as the brokers do not answer.
fn settle(shared: &Shared, transactions: &mut Transactions) -> Result<(), Halt> {
    use super::commit::{Failure, Input};
    match transactions.renew() {
        Input::Done(_) | Input::Sealed | Input::Resolved(_) => Ok(()),
        Input::Failed(Failure::Broken) => Err(Halt::Rejoin(transactions.last_error())),
        Input::Failed(Failure::Fenced) => Err(Halt::Fenced(transactions.last_error())),
        Input::Failed(Failure::Hopeless) => {
            let what = format!("transactions of group {}: {}", shared.config.kafka.group_id, transactions.last_error());
            Err(Halt::Stop(RunError::Refused { what }))
        }
    }
}

/// A worker between joining the group and leaving it.
struct Session<'s> {
    shared: &'s Shared,
    shutdown: &'s CancellationToken,
    worker: usize,
    consumer: &'s GroupConsumer,
    transactions: Transactions,
    restorer: Restorer,
    slots: BTreeMap<i32, Slot>,
    protocol: Commit,
    /// The group's generation that the last change of the assignment belongs to; commits are made in its name. Not simply
    /// the newest that the client knows: it hears of one before we hear what it takes away. Revoking belongs to the new one
    /// already: a last commit in the name of the old one would be refused.
    generation: Option<Arc<ConsumerGroupMetadata>>,
    /// Names this session in the metadata of committed offsets, with the number of the commit.
    name: String,
    commits: u64,
    /// When the oldest uncommitted change was made, or had to be taken as made: see `paced_from`.
    pending_since: Option<Instant>,
    /// In the round after a commit: from when the interval to the next one counts if records had arrived meanwhile.
    paced_from: Option<Instant>,
    /// When the ends of the input partitions were last asked for.
    asked_at: Instant,
    reported_at: Instant,
    /// Since when some shard waits for the consumer to be moved.
    positioning_since: Option<Instant>,
    progress: &'s mut Progress,
}

/// One partition that the group gave us.
enum Slot {
    /// Its store is on the way to the last commit.
    Restoring(Box<Restore>),
    /// It is taken up.
    Live(Box<Live>),
}

/// A shard that is taken up.
struct Live {
    shard: Shard<RocksStore>,
    /// Not committed yet.
    effects: Effects,
    /// The next input offset of what was applied; what the shard's record will say once it has a record.
    next: i64,
    /// The next input offset as of the last commit: where a rollback goes to.
    committed: i64,
    /// The group's offset and its metadata, as of the takeover or the last commit.
    group: Option<(i64, String)>,
    /// In this generation the group's offset was seen to be `group`: nobody else has committed for the shard.
    proven: bool,
    /// Where the consumer still has to be moved to before records are taken.
    seek_to: Option<i64>,
    /// An operator moved the shard here, and no commit has recorded it yet.
    moved_to: Option<i64>,
    end: passing::End,
    gaps: gap::Gaps,
    /// Something was applied, or is due, since time was last let in.
    touched: bool,
    /// Timestamps of some records of the present transaction, for the latency.
    arrivals: Vec<i64>,
    /// Given back when the shard is dropped, after it: fields are dropped in order.
    _lease: Lease,
}

impl Session<'_> {
    fn run(&mut self) -> Result<(), Halt> {
        while !self.shutdown.is_cancelled() {
            self.shared.pulses.beat(self.worker);
            if self.shared.nudges.take(self.worker) {
                return Err(Halt::Rejoin("shards have no owner although the group is at rest".to_owned()));
            }
            let gathered = self.gather(self.patience())?;
            let read = gathered.has_records();
            self.reached_if(read, Step::Polled);
            self.apply(gathered)?;
            self.reached_if(read, Step::Applied);
            self.serve_changes()?;
            self.restore()?;
            self.position()?;
            self.pass_time()?;
            self.paced_from = None;
            if self.commit_is_due() {
                self.commit(Scope::Pending)?;
            }
            if self.reported_at.elapsed() >= REPORT_EVERY {
                self.report();
            }
        }
        self.commit(Scope::All)
    }

    /// Tells whoever watches.
    fn reached(&self, step: Step) {
        (self.shared.parts.watcher)(step);
    }

    fn reached_if(&self, condition: bool, step: Step) {
        if condition {
            self.reached(step);
        }
    }

    /// How long to wait for records.
    fn patience(&self) -> Duration {
        let mut patience = PATIENCE_MAX.min(self.ask_in());
        for slot in self.slots.values() {
            match slot {
                Slot::Restoring(_) => patience = patience.min(PATIENCE_RESTORING),
                Slot::Live(live) if live.seek_to.is_some() => patience = patience.min(PATIENCE_RESTORING),
                Slot::Live(live) if live.touched => return Duration::ZERO,
                Slot::Live(_) => {}
            }
        }
        match self.pending_since {
            Some(since) => patience.min(self.shared.config.commit_interval.saturating_sub(since.elapsed())),
            None => patience,
        }
    }

    fn live(&self) -> impl Iterator<Item = (i32, &Live)> {
        self.slots.iter().filter_map(|(partition, slot)| match slot {
            Slot::Live(live) => Some((*partition, live.as_ref())),
            Slot::Restoring(_) => None,
        })
    }

    fn live_mut(&mut self) -> impl Iterator<Item = (i32, &mut Live)> {
        self.slots.iter_mut().filter_map(|(partition, slot)| match slot {
            Slot::Live(live) => Some((*partition, live.as_mut())),
            Slot::Restoring(_) => None,
        })
    }

    /// Tells onlookers how things stand.
    fn report(&mut self) {
        self.reported_at = monotonic();
        let now = self.shared.parts.clock.now();
        for (partition, slot) in &self.slots {
            self.shared.parts.status.update(*partition, self.worker, |status| match slot {
                Slot::Restoring(restore) => {
                    let (done, total) = restore.progress();
                    status.phase = Phase::Restoring { done, total };
                    status.restored = (done, total);
                }
                Slot::Live(live) => {
                    let watermark = live.shard.watermark();
                    status.phase = Phase::Running;
                    status.position = Some(live.next);
                    status.committed = Some(live.committed);
                    status.end = live.end.known();
                    status.watermark = (watermark > EventTime::MIN).then_some(watermark);
                    status.guard_holds = live.shard.guard_holds(now);
                    // What is not committed did not happen yet: the cohorts are told after a commit.
                    if !live.is_pending() {
                        status.cohorts = live.shard.cohorts().clone();
                    }
                }
            });
        }
    }
}

impl Live {
    /// Whether something waits for a commit.
    fn is_pending(&self) -> bool {
        let pending = self.shard.pending();
        pending.records > 0
            || pending.users > 0
            || pending.record
            || !self.effects.outputs.is_empty()
            || self.moved_to.is_some()
    }
}

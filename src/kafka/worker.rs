//! One worker: a thread with its own consumer and its own transactional producer, and the shards that the group gives it.
//!
//! Nothing is produced while records are applied: effects are kept until the commit, which is one transaction from
//! beginning to end (`commit`). So to give up a shard without a commit is to forget what it has in memory.
//!
//! *Caught up* is never believed from memory: before wall time may change anybody, the broker is asked where the
//! partition ends. A broker that was away for an hour has records behind it that prove people alive.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer;
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers as _, Message};
use rdkafka::{Offset, TopicPartitionList};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::commit::{Action, Commit, Failure, Input, Outcome, Pace};
use super::error::{Halt, RunError};
use super::lease::{Lease, Leases};
use super::rebalance::{Change, GroupConsumer, Membership};
use super::restore::{Restore, Restorer, stable_offset};
use super::status::{Phase, ShardStatus};
use super::takeover::{self, Facts, Note};
use super::transaction::Transactions;
use super::{Parts, client};
use crate::clock::monotonic;
use crate::config::Config;
use crate::event::Record;
use crate::metrics::AbortCause;
use crate::rules::Rules;
use crate::shard::{Effects, Output, Progress, Sealed, Shard, Topic};
use crate::store::rocks::RocksStore;
use crate::time::WallTime;

/// Records taken from the consumer's queue at a time.
const POLL_RECORDS: usize = 2_000;
/// Timers fired between two looks at the queue.
const FIRING_BUDGET: usize = 4_096;
/// A commit is not put off any longer with so many changed users, or so many bytes to produce, in a shard.
const PENDING_USERS: usize = 20_000;
const PENDING_BYTES: usize = 16 << 20;
/// How long the loop waits for a record when nothing else is to be done.
const PATIENCE: Duration = Duration::from_millis(50);
/// How often the brokers are asked for the ends of the partitions, for the lag; one partition at a time.
const LOOK_AT_LAG: Duration = Duration::from_millis(500);
/// How often onlookers get a new picture.
const SHOW_STATUS: Duration = Duration::from_millis(200);
/// An end beyond the last record (transaction markers have offsets too) is believed once it has stood for so long with
/// nothing delivered: longer than a consumer takes to connect again.
const MARKERS_STAND: Duration = Duration::from_secs(5);
/// Leaving the group may take so long.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(3);
/// Pause before joining anew.
const REJOIN_PAUSE: Duration = Duration::from_millis(500);

/// What all workers of a process share.
pub(super) struct Shared {
    pub(super) config: Config,
    pub(super) rules: Arc<Rules>,
    pub(super) parts: Parts,
    pub(super) leases: Leases,
    pub(super) input_partitions: i32,
}

struct Running {
    shard: Shard<RocksStore>,
    _lease: Lease,
    outputs: Vec<Output>,
    output_bytes: usize,
    /// Where reading begins as long as nothing was committed.
    start: i64,
    /// The consumer has said that there is no more.
    at_end: bool,
    /// An end beyond the last record, and since when it stands.
    beyond: Option<(i64, Instant)>,
    /// The earliest time stamp of a record that waits for its commit.
    oldest: Option<WallTime>,
}

struct Worker<'s> {
    number: usize,
    shared: &'s Shared,
    consumer: GroupConsumer,
    restorer: Restorer,
    transactions: Transactions,
    commit: Commit,
    restoring: BTreeMap<i32, Restore>,
    running: BTreeMap<i32, Running>,
    effects: Effects,
    /// When the first change since the last commit was applied.
    pending_since: Option<Instant>,
    commits: u64,
    /// Distinguishes the commits of this membership from all others.
    name: String,
    looked_at_lag: Instant,
    lag_of_next: i32,
    shown: Instant,
}

/// Works until asked to stop, joining anew as often as it takes.
pub(super) fn work(number: usize, shared: &Shared, shutdown: &CancellationToken) -> Result<(), RunError> {
    loop {
        let halt = match Worker::join(number, shared) {
            Ok(mut worker) => {
                let ended = worker.run(shutdown);
                worker.leave();
                match ended {
                    Ok(()) => return Ok(()),
                    Err(halt) => halt,
                }
            }
            Err(halt) => halt,
        };
        match halt {
            Halt::Stop(error) => return Err(error),
            Halt::Fenced(why) => {
                warn!(worker = number, %why, "fenced");
                let (instance_id, group_id) = (shared.config.instance_id.clone(), shared.config.kafka.group_id.clone());
                return Err(RunError::Fenced { instance_id, group_id });
            }
            Halt::Rejoin(why) => warn!(worker = number, %why, "joining the group anew"),
        }
        let again = monotonic() + REJOIN_PAUSE;
        while monotonic() < again {
            if shutdown.is_cancelled() {
                return Ok(());
            }
            std::thread::park_timeout(PATIENCE);
        }
    }
}

impl<'s> Worker<'s> {
    fn join(number: usize, shared: &'s Shared) -> Result<Self, Halt> {
        let config = &shared.config;
        let unusable = |error| Halt::Stop(RunError::Client(error));
        let mut transactions = Transactions::new(client::transactional_producer(config, number), config.topics.clone());
        // Before anything is read: it settles what a predecessor under this name left undecided.
        match transactions.renew() {
            Input::Failed(Failure::Hopeless) => {
                return Err(Halt::Stop(RunError::Refused { what: transactions.last_error() }));
            }
            Input::Failed(Failure::Broken | Failure::Fenced) => return Err(Halt::Rejoin(transactions.last_error())),
            Input::Sealed | Input::Done(_) | Input::Resolved(_) => {}
        }
        let consumer: GroupConsumer =
            client::group_consumer(config, number).create_with_context(Membership::default()).map_err(unusable)?;
        let restorer = Restorer::new(
            &client::reader(config),
            &client::looker(config),
            (config.topics.changelog.clone(), config.topics.events.clone()),
            Arc::clone(&shared.parts.database),
            shared.leases.clone(),
        )
        .map_err(unusable)?;
        consumer.subscribe(&[&config.topics.events]).map_err(unusable)?;
        let now = monotonic();
        let name = format!("{}-{number}-{}", config.instance_id, shared.parts.clock.now().as_millis());
        Ok(Self {
            number,
            shared,
            consumer,
            restorer,
            transactions,
            commit: Commit::default(),
            restoring: BTreeMap::new(),
            running: BTreeMap::new(),
            effects: Effects::default(),
            pending_since: None,
            commits: 0,
            name,
            looked_at_lag: now,
            lag_of_next: 0,
            shown: now,
        })
    }

    fn run(&mut self, shutdown: &CancellationToken) -> Result<(), Halt> {
        let mut more = false;
        while !shutdown.is_cancelled() {
            self.read(if more || !self.restoring.is_empty() { Duration::ZERO } else { self.patience() })?;
            self.answer_group()?;
            self.restore()?;
            more = self.advance()?;
            if self.is_commit_due() {
                self.commit_all()?;
            }
            self.look_at_lag();
            self.show_status();
        }
        self.commit_all()
    }

    /// How long to wait for a record.
    fn patience(&self) -> Duration {
        let interval = self.shared.config.commit_interval;
        self.pending_since.map_or(PATIENCE, |since| interval.saturating_sub(since.elapsed()).min(PATIENCE))
    }

    /// Takes a batch from the queue and applies it, shard by shard.
    fn read(&mut self, patience: Duration) -> Result<(), Halt> {
        let mut messages: Vec<BorrowedMessage<'_>> = Vec::new();
        let mut ended = Vec::new();
        let mut patience = patience;
        while messages.len() < POLL_RECORDS && !self.consumer.context().has_changes() {
            match self.consumer.poll(std::mem::take(&mut patience)) {
                None => break,
                Some(Ok(message)) => messages.push(message),
                Some(Err(KafkaError::PartitionEOF(partition))) => ended.push(partition),
                Some(Err(error)) => read_error(error)?,
            }
        }
        let now = self.shared.parts.clock.now();
        messages.sort_by_key(|message| (message.partition(), message.offset()));
        for chunk in messages.chunk_by(|a, b| a.partition() == b.partition()) {
            let Some(partition) = chunk.first().map(Message::partition) else { continue };
            // Not yet, or no longer ours: it will be read from the right place.
            let Some(running) = self.running.get_mut(&partition) else { continue };
            running.at_end = false;
            running.beyond = None;
            let from = running.shard.position().unwrap_or(running.start);
            let headers: Vec<Vec<(&str, &[u8])>> = chunk.iter().map(headers).collect();
            let records: Vec<Record<'_>> = chunk
                .iter()
                .zip(&headers)
                .filter(|(message, _)| message.offset() >= from)
                .map(|(message, headers)| Record {
                    key: message.key(),
                    value: message.payload(),
                    headers,
                    offset: message.offset(),
                })
                .collect();
            running.shard.apply(&records, now, &mut self.effects).map_err(Halt::shard(partition))?;
            let stamped = chunk.first().and_then(|message| message.timestamp().to_millis());
            running.oldest = running.oldest.or(stamped.map(WallTime::from_millis));
            self.shared.parts.metrics.counted(&self.effects.counts);
            running.keep(&mut self.effects);
            if !records.is_empty() {
                self.pending_since.get_or_insert_with(monotonic);
            }
        }
        for partition in ended {
            if let Some(running) = self.running.get_mut(&partition) {
                running.at_end = true;
            }
        }
        Ok(())
    }

    /// Does what the group asks, and answers.
    fn answer_group(&mut self) -> Result<(), Halt> {
        while let Some(change) = self.consumer.context().next() {
            match change {
                Change::Assigned(partitions) => {
                    info!(worker = self.number, ?partitions, "the group gives");
                    let list = self.list(&partitions, |_| Offset::Beginning)?;
                    // Read only once the shard is restored and its place is known.
                    self.consumer.incremental_assign(&list).map_err(rejoin)?;
                    self.consumer.pause(&list).map_err(rejoin)?;
                    for partition in partitions {
                        let status = ShardStatus::taken_over(partition, self.number);
                        self.shared.parts.status.insert(status);
                        self.restoring.insert(partition, self.restorer.begin(partition));
                    }
                    self.shared.parts.status.joined(self.number);
                }
                Change::Revoked(partitions) => {
                    info!(worker = self.number, ?partitions, "the group takes back");
                    self.commit_all()?;
                    self.give_up(&partitions);
                    let list = self.list(&partitions, |_| Offset::Invalid)?;
                    self.consumer.incremental_unassign(&list).map_err(rejoin)?;
                }
                Change::Lost(partitions) => {
                    warn!(worker = self.number, ?partitions, "lost: somebody else may work there already");
                    self.shared.parts.metrics.aborted(AbortCause::Lost);
                    self.give_up(&partitions);
                    let list = self.list(&partitions, |_| Offset::Invalid)?;
                    self.consumer.incremental_unassign(&list).map_err(rejoin)?;
                }
                Change::Failed(why) => return Err(Halt::Rejoin(why)),
            }
        }
        if self.shared.parts.status.has_joined() || self.consumer.subscription().is_err() {
            return Ok(());
        }
        // A worker to whom the group gives nothing has joined all the same.
        if self.consumer.group_metadata().is_some() {
            self.shared.parts.status.joined(self.number);
        }
        Ok(())
    }

    fn give_up(&mut self, partitions: &[i32]) {
        for partition in partitions {
            self.running.remove(partition);
            if let Some(restore) = self.restoring.remove(partition) {
                self.restorer.cancel(restore);
            }
            self.shared.parts.status.remove(*partition, self.number);
        }
    }

    /// Restores a step, and starts what is complete.
    fn restore(&mut self) -> Result<(), Halt> {
        if self.restoring.is_empty() {
            return Ok(());
        }
        self.restorer.step(&self.consumer, self.restoring.values_mut()).map_err(|error| match error {
            super::restore::RestoreError::Shard(source) => Halt::Stop(RunError::Shard { partition: -1, source }),
            super::restore::RestoreError::Reader(error) => Halt::Rejoin(error.to_string()),
        })?;
        let complete: Vec<i32> = self
            .restoring
            .iter()
            .filter(|(_, restore)| restore.is_complete())
            .map(|(partition, _)| *partition)
            .collect();
        for partition in complete {
            self.start(partition)?;
        }
        for (partition, restore) in &self.restoring {
            let (done, total) = restore.progress();
            self.shared.parts.status.update(*partition, self.number, |status| {
                status.phase = Phase::Restoring { done, total };
                status.restored = (done, total);
            });
        }
        Ok(())
    }

    /// A restored shard begins to read where it left off.
    fn start(&mut self, partition: i32) -> Result<(), Halt> {
        let (first, end) = match self.restorer.input_bounds(partition) {
            Ok(bounds) => bounds,
            Err(error) => {
                debug!(%error, partition, "the brokers do not answer; asking again");
                return Ok(());
            }
        };
        let Some(restore) = self.restoring.remove(&partition) else { return Ok(()) };
        let restored = restore.finish();
        let shared = self.shared;
        let shard = Shard::open(partition, Arc::clone(&shared.rules), restored.store, shared.input_partitions)
            .map_err(Halt::shard(partition))?;
        let facts = Facts {
            topic: &shared.config.topics.events,
            partition,
            group: restored.group,
            shard: shard.position(),
            start: first,
            end,
            accept: shared.config.kafka.accept_offsets,
        };
        let resume = takeover::resume(&facts).map_err(RunError::from)?;
        match resume.note {
            None => {}
            Some(Note::GroupHasNone) => {
                info!(partition, from = resume.from, "the group has no offset: the shard's own record decides");
            }
            Some(note) => {
                warn!(partition, from = resume.from, ?note, "resuming elsewhere than where the shard stopped");
            }
        }
        let list = self.list(&[partition], |_| Offset::Offset(resume.from))?;
        self.consumer.seek_partitions(list.clone(), LEAVE_TIMEOUT).map_err(rejoin)?;
        self.consumer.resume(&list).map_err(rejoin)?;
        shared.parts.status.update(partition, self.number, |status| {
            status.phase = Phase::Running;
            status.end = Some(end);
            status.restored = (restored.read, restored.read);
        });
        let running = Running {
            shard,
            _lease: restored.lease,
            outputs: Vec::new(),
            output_bytes: 0,
            start: resume.from,
            at_end: false,
            beyond: None,
            oldest: None,
        };
        self.running.insert(partition, running);
        self.show(partition);
        Ok(())
    }

    /// Lets time pass in every shard; says whether some have more to do at once.
    fn advance(&mut self) -> Result<bool, Halt> {
        let now = self.shared.parts.clock.now();
        let mut more = false;
        for (partition, running) in &mut self.running {
            let due = running.shard.next_wake(now).is_some_and(|wake| wake.as_millis() == 0);
            let caught_up = due && running.at_end && running.is_caught_up(*partition, &self.restorer);
            let progress = running
                .shard
                .advance(now, caught_up, FIRING_BUDGET, &mut self.effects)
                .map_err(Halt::shard(*partition))?;
            more |= progress == Progress::More;
            if running.shard.pending().users > 0 {
                self.pending_since.get_or_insert_with(monotonic);
            }
            self.shared.parts.metrics.counted(&self.effects.counts);
            running.keep(&mut self.effects);
        }
        Ok(more)
    }

    fn is_commit_due(&self) -> bool {
        let interval = self.shared.config.commit_interval;
        self.pending_since.is_some_and(|since| since.elapsed() >= interval)
            || self
                .running
                .values()
                .any(|running| running.output_bytes > PENDING_BYTES || running.shard.pending().users > PENDING_USERS)
    }

    /// One transaction for everything that waits: the [protocol](super::commit), driven.
    fn commit_all(&mut self) -> Result<(), Halt> {
        self.pending_since = None;
        let mut sealed: BTreeMap<i32, Sealed> = BTreeMap::new();
        for (partition, running) in &mut self.running {
            let of_shard = running.shard.seal().map_err(Halt::shard(*partition))?;
            if !of_shard.is_empty() {
                sealed.insert(*partition, of_shard);
            }
        }
        if sealed.is_empty() {
            return Ok(());
        }
        let started = monotonic();
        self.commits += 1;
        let note = format!("{}-{}", self.name, self.commits);
        let offsets: Vec<(i32, i64)> =
            sealed.iter().filter_map(|(partition, sealed)| Some((*partition, sealed.position?))).collect();
        let mut delivered = BTreeMap::new();
        let mut took = false;
        let mut action = self.commit.step(Input::Sealed);
        loop {
            let input = match action {
                Action::Begin => self.transactions.begin(),
                Action::Produce => self.produce(&sealed),
                Action::AwaitDelivery => {
                    let input = self.transactions.await_delivery();
                    delivered = self.transactions.delivered();
                    input
                }
                Action::SendOffsets => {
                    self.transactions.send_offsets(&self.consumer, &self.shared.config.topics.events, &offsets, &note)
                }
                Action::Commit => self.transactions.commit(),
                Action::Apply => {
                    self.apply(std::mem::take(&mut sealed), &delivered)?;
                    took = true;
                    Input::Done(Pace::Quick)
                }
                Action::Renew => self.transactions.renew(),
                Action::ReadOffsets => self.resolve(&offsets, &note),
                Action::RollBack => self.roll_back()?,
                Action::Rest => break,
                Action::Rejoin => {
                    self.shared.parts.metrics.aborted(AbortCause::Fenced);
                    return Err(Halt::Rejoin(self.transactions.last_error()));
                }
                Action::Stop => return Err(Halt::Stop(RunError::Refused { what: self.transactions.last_error() })),
            };
            action = self.commit.step(input);
        }
        if took {
            self.shared.parts.metrics.committed(started.elapsed());
        } else {
            self.shared.parts.metrics.aborted(AbortCause::Aborted);
        }
        Ok(())
    }

    fn produce(&mut self, sealed: &BTreeMap<i32, Sealed>) -> Input {
        let mut pace = Pace::Quick;
        for (partition, sealed) in sealed {
            let outputs = self.running.get(partition).map_or(&[][..], |running| &running.outputs);
            match self.transactions.produce(*partition, outputs, &sealed.changelog) {
                Input::Done(Pace::Quick) => {}
                Input::Done(Pace::Slow) => pace = Pace::Slow,
                failed => return failed,
            }
        }
        Input::Done(pace)
    }

    /// The transaction has committed: now the local store, and whoever looks on.
    fn apply(&mut self, sealed: BTreeMap<i32, Sealed>, delivered: &BTreeMap<i32, i64>) -> Result<(), Halt> {
        let parts = &self.shared.parts;
        let now = parts.clock.now();
        for (partition, of_shard) in sealed {
            let Some(running) = self.running.get_mut(&partition) else { continue };
            let position = delivered.get(&partition).map_or(0, |offset| offset + 1);
            running.shard.committed(of_shard, position).map_err(Halt::shard(partition))?;
            if let Some(oldest) = running.oldest.take() {
                parts.metrics.reached_commit(now - oldest);
            }
            if parts.feed.is_watched() {
                for output in running.outputs.iter().filter(|output| output.topic == Topic::Transitions) {
                    if let (Some(key), Some(value)) = (&output.key, &output.value) {
                        parts.feed.show(partition, key, value);
                    }
                }
            }
            running.forget_outputs();
        }
        Ok(())
    }

    /// Whether the commit of `note` took, by the group's stable offsets. Its metadata tells this commit from one that
    /// read nothing new.
    fn resolve(&self, offsets: &[(i32, i64)], note: &str) -> Input {
        // Without an offset there is no witness but the changelog, which joining anew reads.
        let Some((partition, _)) = offsets.first() else { return Input::Resolved(Outcome::Foreign) };
        let committed = self.running.get(partition).and_then(|running| running.shard.committed_position());
        match stable_offset(&self.consumer, &self.shared.config.topics.events, *partition) {
            Ok(Some((_, metadata))) if metadata == note => Input::Resolved(Outcome::Took),
            Ok(found) if found.as_ref().map(|(offset, _)| *offset) == committed => Input::Resolved(Outcome::DidNotTake),
            Ok(_) => Input::Resolved(Outcome::Foreign),
            Err(error) => {
                warn!(%error, "the group's offsets could not be read");
                Input::Failed(Failure::Broken)
            }
        }
    }

    /// Takes every shard back to its last commit, and the consumer with it.
    fn roll_back(&mut self) -> Result<Input, Halt> {
        let mut list = TopicPartitionList::new();
        for (partition, running) in &mut self.running {
            running.shard.rollback().map_err(Halt::shard(*partition))?;
            running.forget_outputs();
            running.at_end = false;
            running.beyond = None;
            running.oldest = None;
            let from = running.shard.committed_position().unwrap_or(running.start);
            list.add_partition_offset(&self.shared.config.topics.events, *partition, Offset::Offset(from))
                .map_err(rejoin)?;
        }
        // Seeking leaves a loss that is not heard yet as it is; assigning anew would answer it.
        match self.consumer.seek_partitions(list, LEAVE_TIMEOUT) {
            Ok(answer) if answer.elements().iter().all(|element| element.error().is_ok()) => {
                Ok(Input::Done(Pace::Quick))
            }
            Ok(_) => Ok(Input::Failed(Failure::Broken)),
            Err(error) => {
                warn!(%error, "could not go back to the last commit");
                Ok(Input::Failed(Failure::Broken))
            }
        }
    }

    fn look_at_lag(&mut self) {
        if self.looked_at_lag.elapsed() < LOOK_AT_LAG {
            return;
        }
        self.looked_at_lag = monotonic();
        let next = self.running.range(self.lag_of_next..).next().or_else(|| self.running.iter().next());
        let Some(partition) = next.map(|(partition, _)| *partition) else { return };
        self.lag_of_next = partition + 1;
        if let Ok((_, end)) = self.restorer.input_bounds(partition) {
            self.shared.parts.status.update(partition, self.number, |status| status.end = Some(end));
        }
    }

    fn show_status(&mut self) {
        if self.shown.elapsed() < SHOW_STATUS {
            return;
        }
        self.shown = monotonic();
        let partitions: Vec<i32> = self.running.keys().copied().collect();
        for partition in partitions {
            self.show(partition);
        }
    }

    fn show(&self, partition: i32) {
        let Some(Running { shard, start, .. }) = self.running.get(&partition) else { return };
        let now = self.shared.parts.clock.now();
        self.shared.parts.status.update(partition, self.number, |status| {
            let position = shard.position().unwrap_or(*start);
            status.position = Some(position);
            status.committed = shard.committed_position();
            status.end = status.end.map(|end| end.max(position));
            status.watermark = Some(shard.watermark()).filter(|at| *at > crate::time::EventTime::MIN);
            status.guard_holds = shard.guard_holds(now);
            status.cohorts = shard.cohorts().clone();
        });
    }

    /// Leaves the group: what is not committed is dropped.
    fn leave(&mut self) {
        self.consumer.context().close();
        self.running.clear();
        self.restoring.clear();
        self.consumer.unsubscribe();
        let until = monotonic() + LEAVE_TIMEOUT;
        while monotonic() < until && self.consumer.assignment().is_ok_and(|list| list.count() > 0) {
            let _ = self.consumer.poll(PATIENCE);
        }
        self.shared.parts.status.left(self.number);
    }

    fn list(&self, partitions: &[i32], offset: impl Fn(i32) -> Offset) -> Result<TopicPartitionList, Halt> {
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        for partition in partitions {
            list.add_partition_offset(&self.shared.config.topics.events, *partition, offset(*partition))
                .map_err(rejoin)?;
        }
        Ok(list)
    }
}

impl Running {
    /// Keeps what is to be produced until the commit.
    fn keep(&mut self, effects: &mut Effects) {
        self.output_bytes += effects.output_bytes();
        self.outputs.append(&mut effects.outputs);
        effects.clear();
    }

    fn forget_outputs(&mut self) {
        self.outputs.clear();
        self.output_bytes = 0;
    }

    /// Whether the broker says, now, that nothing is left to read.
    fn is_caught_up(&mut self, partition: i32, restorer: &Restorer) -> bool {
        let Ok((_, end)) = restorer.input_bounds(partition) else { return false };
        let position = self.shard.position().unwrap_or(self.start);
        if end <= position {
            self.beyond = None;
            return true;
        }
        match self.beyond {
            Some((known, since)) if known == end => since.elapsed() >= MARKERS_STAND,
            _ => {
                self.beyond = Some((end, monotonic()));
                false
            }
        }
    }
}

/// Most errors pass: librdkafka connects again by itself.
fn read_error(error: KafkaError) -> Result<(), Halt> {
    use rdkafka::types::RDKafkaErrorCode as Code;
    match error.rdkafka_error_code() {
        Some(Code::Fenced | Code::FencedInstanceId | Code::Fatal) => Err(Halt::Fenced(error.to_string())),
        Some(Code::TopicAuthorizationFailed | Code::GroupAuthorizationFailed) => {
            Err(Halt::Stop(RunError::Refused { what: error.to_string() }))
        }
        Some(Code::AutoOffsetReset | Code::OffsetOutOfRange) => Err(Halt::Rejoin(error.to_string())),
        Some(_) | None => {
            warn!(%error, "reading");
            Ok(())
        }
    }
}

fn rejoin(error: KafkaError) -> Halt {
    Halt::Rejoin(error.to_string())
}

fn headers<'m>(message: &'m BorrowedMessage<'_>) -> Vec<(&'m str, &'m [u8])> {
    message.headers().map_or_else(Vec::new, |headers| {
        headers.iter().map(|header| (header.key, header.value.unwrap_or_default())).collect()
    })
}

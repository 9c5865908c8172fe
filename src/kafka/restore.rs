//! Restoring shards: from the group's offset and the changelog to a store that holds the last commit (SPEC section 7).
//!
//! The order of looking is [`takeover`](super::takeover)'s, and restoring goes in small steps inside of the worker's
//! loop, so that neither the group membership nor the worker's other shards wait for it.
//!
//! Reading ends at a *known* end. The high watermark is asked for by a `read_uncommitted` client; then the last stable
//! offset, by a `read_committed` one, until it has reached that high watermark: every transaction that began before it is
//! decided. Only then does reading begin, and only then is an end-of-partition event the end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::{Offset, TopicPartitionList};
use tracing::{info, warn};

use super::client::{self, Listener};
use super::lease::{Lease, Leases};
use super::rebalance::GroupConsumer;
use super::takeover::{self, Replay, TakeoverError, Unusable};
use super::topics::DELETIONS_KEPT_MS;
use crate::clock::{Clock, monotonic};
use crate::config::AcceptOffsets;
use crate::shard::{Bulk, ShardError, restore_batch};
use crate::store::rocks::{Database, RocksStore};
use crate::store::{Batch, Store};
use crate::time::WallTime;

/// How long the broker may take to answer one question. The worker's loop stands still meanwhile.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long to wait before a question that was not answered is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// How long to wait for a transaction that is being decided before looking again.
const LOOK_AGAIN: Duration = Duration::from_millis(25);
/// Changelog records read in one step, and written to the store at a time.
const STEP_RECORDS: usize = 5_000;
/// From so many changelog offsets on they are loaded in bulk: gathered, and written as sorted files.
const BULK_OFFSETS: i64 = 100_000;
/// How long one step may wait for records.
const STEP_TIME: Duration = Duration::from_millis(50);
/// How often progress is logged.
const LOG_EVERY: Duration = Duration::from_secs(5);

/// Reads changelogs for one worker.
pub(super) struct Restorer {
    reader: BaseConsumer<Listener>,
    looker: BaseConsumer<Listener>,
    changelog: String,
    input: String,
    database: Arc<Database>,
    leases: Leases,
    clock: Arc<dyn Clock>,
    /// What was read of shards that are loaded in bulk, and how many bytes it may hold before it is written.
    bulk: Bulk,
    bulk_bytes: usize,
    accept: Option<AcceptOffsets>,
}

/// One shard on its way.
pub(super) struct Restore {
    partition: i32,
    stage: Stage,
    lease: Option<Lease>,
    store: RocksStore,
    /// The group's stable committed offset.
    group: Option<(i64, String)>,
    /// The changelog's offsets to read: from, next, end.
    from: i64,
    next: i64,
    end: i64,
    /// Whether it is loaded in bulk, and then the offset after what was gathered; `next` follows when it is written.
    bulk: Option<i64>,
    /// From this changelog offset on no deletion is missing.
    whole: i64,
    not_before: Instant,
    started: Instant,
    logged: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Another worker of this process may still hold the local state; then the facts are gathered.
    Looking,
    /// Waiting until every transaction below the end is decided.
    Settling,
    /// Reading.
    Reading,
    /// The store holds the last commit.
    Complete,
}

/// What a restored shard is handed over with.
pub(super) struct Restored {
    pub(super) lease: Lease,
    pub(super) store: RocksStore,
    /// The group's stable committed offset.
    pub(super) group: Option<(i64, String)>,
    /// How many changelog offsets were read.
    pub(super) read: u64,
}

/// Why restoring stopped.
#[derive(Debug, thiserror::Error)]
pub(super) enum RestoreError {
    /// The clients are beyond repair: start over with new ones.
    #[error("reading the changelog failed: {0}")]
    Reader(#[from] KafkaError),
    /// A person has to decide.
    #[error(transparent)]
    Takeover(#[from] TakeoverError),
    /// The store failed, or the changelog holds what this build cannot read.
    #[error("shard {0}: {1}")]
    Shard(i32, ShardError),
}

impl RestoreError {
    fn shard<E: Into<ShardError>>(partition: i32) -> impl FnOnce(E) -> Self {
        move |source| Self::Shard(partition, source.into())
    }
}

impl Restorer {
    /// Makes the clients; nothing is asked yet.
    pub(super) fn new(
        reader: &ClientConfig,
        looker: &ClientConfig,
        (changelog, input): (String, String),
        (database, leases): (Arc<Database>, Leases),
        bulk_bytes: usize,
        clock: Arc<dyn Clock>,
        accept: Option<AcceptOffsets>,
    ) -> KafkaResult<Self> {
        Ok(Self {
            reader: reader.create_with_context(Listener)?,
            looker: looker.create_with_context(Listener)?,
            changelog,
            input,
            database,
            leases,
            clock,
            bulk: Bulk::default(),
            bulk_bytes,
            accept,
        })
    }

    /// Begins to restore a shard.
    pub(super) fn begin(&self, partition: i32) -> Restore {
        let now = monotonic();
        Restore {
            partition,
            stage: Stage::Looking,
            lease: None,
            store: self.database.shard(partition),
            group: None,
            from: 0,
            next: 0,
            end: 0,
            bulk: None,
            whole: 0,
            not_before: now,
            started: now,
            logged: now,
        }
    }

    /// The shard is no longer ours: stops reading for it.
    pub(super) fn cancel(&mut self, restore: Restore) {
        self.bulk.forget(restore.partition);
        if restore.stage == Stage::Reading {
            self.stop_reading(restore.partition);
        }
    }

    /// The first offset and the high watermark of an input partition.
    pub(super) fn input_bounds(&self, partition: i32) -> KafkaResult<(i64, i64)> {
        client::watermarks(&self.looker, &self.input, partition, ANSWER_TIMEOUT)
    }

    /// Goes a little further with every shard on its way.
    pub(super) fn step<'a>(
        &mut self,
        consumer: &GroupConsumer,
        restores: impl Iterator<Item = &'a mut Restore>,
    ) -> Result<(), RestoreError> {
        let mut reading = BTreeMap::new();
        for restore in restores {
            if matches!(restore.stage, Stage::Looking | Stage::Settling) && monotonic() >= restore.not_before {
                self.look(consumer, restore)?;
            }
            if restore.stage == Stage::Reading {
                reading.insert(restore.partition, restore);
            }
        }
        if reading.is_empty() {
            // Its memory is for other things now.
            self.bulk = Bulk::default();
            return Ok(());
        }
        self.read(&mut reading)
    }

    fn look(&self, consumer: &GroupConsumer, restore: &mut Restore) -> Result<(), RestoreError> {
        let asked = match restore.stage {
            Stage::Looking => {
                if restore.lease.is_none() {
                    restore.lease = self.leases.take(restore.partition);
                }
                if restore.lease.is_none() {
                    restore.not_before = monotonic() + LOOK_AGAIN;
                    return Ok(());
                }
                self.gather(consumer, restore)
            }
            Stage::Settling => Ok(()),
            Stage::Reading | Stage::Complete => return Ok(()),
        };
        match asked.and_then(|()| self.settled(restore)) {
            Ok(true) => self.begin_reading(restore),
            Ok(false) => {
                restore.not_before = monotonic() + LOOK_AGAIN;
                Ok(())
            }
            Err(error) => {
                warn!(%error, partition = restore.partition, "the brokers do not answer; asking again");
                restore.not_before = monotonic() + ASK_AGAIN;
                Ok(())
            }
        }
    }

    /// The facts, in the order in which they have to be looked at.
    fn gather(&self, consumer: &GroupConsumer, restore: &mut Restore) -> KafkaResult<()> {
        restore.group = stable_offset(consumer, &self.input, restore.partition)?;
        let (start, end) = client::watermarks(&self.looker, &self.changelog, restore.partition, ANSWER_TIMEOUT)?;
        restore.from = start;
        restore.end = end;
        restore.whole = self.whole_from(restore.partition)?.unwrap_or(end);
        restore.stage = Stage::Settling;
        Ok(())
    }

    /// The first changelog offset that is young enough for every deletion after it to be there still; `None` if all are
    /// older.
    fn whole_from(&self, partition: i32) -> KafkaResult<Option<i64>> {
        whole_from(&self.looker, &self.changelog, partition, self.clock.broker_time())
    }

    /// Whether every transaction that began before the end is decided.
    fn settled(&self, restore: &Restore) -> KafkaResult<bool> {
        let (_, stable) = client::watermarks(&self.reader, &self.changelog, restore.partition, ANSWER_TIMEOUT)?;
        Ok(stable >= restore.end)
    }

    fn begin_reading(&self, restore: &mut Restore) -> Result<(), RestoreError> {
        let partition = restore.partition;
        let (_, local) = restore.store.shard().map_err(RestoreError::shard(partition))?;
        let group = restore.group.as_ref().map(|(offset, _)| *offset);
        if let Some(group) = group.filter(|_| self.accept.is_none())
            && takeover::is_last_copy(local, restore.from, restore.end, Some(group))
        {
            return Err(TakeoverError::StateMissing { topic: self.input.clone(), partition, group }.into());
        }
        let from = match takeover::replay(local, restore.from, restore.whole, restore.end) {
            Replay::Nothing => restore.end,
            Replay::Tail { from } => from,
            Replay::All { from, because } => {
                match because {
                    Some(Unusable::FellBehind) => {
                        warn!(partition, "the local copy is older than the changelog's start: restoring everything");
                    }
                    Some(Unusable::ChangelogCut) => {
                        warn!(
                            partition,
                            "the changelog ends before the local copy: it was made anew or cut; restoring everything"
                        );
                    }
                    None => {}
                }
                self.database.drop_shard(partition).map_err(RestoreError::shard(partition))?;
                from
            }
        };
        restore.from = from;
        restore.next = from;
        restore.bulk = (restore.end - from >= BULK_OFFSETS).then_some(from);
        if from == restore.end {
            restore.stage = Stage::Complete;
            return Ok(());
        }
        info!(partition, offsets = restore.end - from, "restoring");
        let mut list = TopicPartitionList::with_capacity(1);
        list.add_partition_offset(&self.changelog, partition, Offset::Offset(from))?;
        self.reader.incremental_assign(&list)?;
        restore.stage = Stage::Reading;
        Ok(())
    }

    fn read(&mut self, reading: &mut BTreeMap<i32, &mut Restore>) -> Result<(), RestoreError> {
        let began = monotonic();
        let mut messages: Vec<BorrowedMessage<'_>> = Vec::new();
        let mut ended = Vec::new();
        let mut is_idle = true;
        for _ in 0..STEP_RECORDS {
            if self.bulk.len_bytes() >= self.bulk_bytes {
                break;
            }
            // Waits only for the first: what follows is there already, or comes in the next step.
            let patience =
                if is_idle { client::whole_millis(STEP_TIME.saturating_sub(began.elapsed())) } else { Duration::ZERO };
            let polled = self.reader.poll(patience);
            is_idle &= polled.is_none();
            match polled {
                None if patience.is_zero() => break,
                None => {}
                Some(Ok(message)) => match reading.get_mut(&message.partition()) {
                    Some(restore) if restore.bulk.is_some() => restore.gather(&message, &mut self.bulk)?,
                    Some(_) => messages.push(message),
                    None => {}
                },
                Some(Err(KafkaError::PartitionEOF(partition))) => ended.push(partition),
                Some(Err(error @ (KafkaError::MessageConsumptionFatal(_) | KafkaError::OffsetFetch(_)))) => {
                    return Err(error.into());
                }
                Some(Err(error)) => {
                    // librdkafka goes on by itself, except when the offset is out of range: then the changelog's start
                    // has moved since it was asked for, and only looking again helps.
                    if error.rdkafka_error_code() == Some(rdkafka::types::RDKafkaErrorCode::AutoOffsetReset) {
                        return Err(error.into());
                    }
                    warn!(%error, "reading the changelog");
                }
            }
        }
        messages.sort_by_key(Message::partition);
        for chunk in messages.chunk_by(|a, b| a.partition() == b.partition()) {
            if let Some(restore) = chunk.first().and_then(|first| reading.get_mut(&first.partition())) {
                restore.write(chunk)?;
            }
        }
        drop(messages);
        let ends_bulk =
            ended.iter().any(|partition| reading.get(partition).is_some_and(|restore| restore.bulk.is_some()));
        if self.bulk.len_bytes() >= self.bulk_bytes || ends_bulk {
            self.load(reading)?;
        }
        for partition in ended {
            if let Some(restore) = reading.get_mut(&partition) {
                restore.complete()?;
                self.stop_reading(partition);
            }
        }
        Ok(())
    }

    /// Writes what was gathered: all users first, then how far each shard has come.
    fn load(&mut self, reading: &mut BTreeMap<i32, &mut Restore>) -> Result<(), RestoreError> {
        let sorted = self.bulk.sorted();
        let one = reading.keys().next().copied().unwrap_or_default();
        self.database.load(sorted.users(), sorted.deadlines()).map_err(RestoreError::shard(one))?;
        for restore in reading.values_mut() {
            let Some(next) = restore.bulk else { continue };
            restore.write_batch(self.bulk.rest(restore.partition, next))?;
        }
        self.bulk.clear();
        Ok(())
    }

    fn stop_reading(&self, partition: i32) {
        let mut list = TopicPartitionList::with_capacity(1);
        list.add_partition(&self.changelog, partition);
        if let Err(error) = self.reader.incremental_unassign(&list) {
            warn!(%error, partition, "could not stop reading the changelog");
        }
    }
}

impl Restore {
    /// Changelog offsets read, and to be read in all.
    pub(super) fn progress(&self) -> (u64, u64) {
        let offsets = |count: i64| u64::try_from(count).unwrap_or(0);
        (offsets(self.next - self.from), offsets(self.end - self.from))
    }

    /// Whether the store holds the last commit.
    pub(super) fn is_complete(&self) -> bool {
        self.stage == Stage::Complete
    }

    /// Hands the restored shard over.
    ///
    /// # Panics
    /// If it is not complete.
    pub(super) fn finish(self) -> Restored {
        assert!(self.stage == Stage::Complete, "shard {} is handed over before it is restored", self.partition);
        let read = self.progress().1;
        if read > 0 {
            info!(partition = self.partition, offsets = read, took = ?self.started.elapsed(), "restored");
        }
        let lease = self.lease.expect("nothing is read before the lease is taken");
        Restored { lease, store: self.store, group: self.group, read }
    }

    fn write(&mut self, messages: &[BorrowedMessage<'_>]) -> Result<(), RestoreError> {
        let Some(last) = messages.last() else { return Ok(()) };
        let next = last.offset() + 1;
        let records = messages.iter().filter_map(|message| Some((message.key()?, message.payload())));
        let batch = restore_batch(&self.store, records, next).map_err(RestoreError::shard(self.partition))?;
        self.write_batch(batch)
    }

    /// Keeps a record until there are enough to be loaded.
    fn gather(&mut self, message: &BorrowedMessage<'_>, bulk: &mut Bulk) -> Result<(), RestoreError> {
        if let Some(key) = message.key() {
            bulk.add(self.partition, key, message.payload()).map_err(RestoreError::shard(self.partition))?;
        }
        self.bulk = Some(message.offset() + 1);
        Ok(())
    }

    fn write_batch(&mut self, batch: Batch) -> Result<(), RestoreError> {
        let next = batch.changelog_position.unwrap_or(self.next);
        self.store.write(batch).map_err(RestoreError::shard(self.partition))?;
        self.next = next;
        if self.logged.elapsed() >= LOG_EVERY {
            self.logged = monotonic();
            let (done, total) = self.progress();
            info!(target: super::PROGRESS_TARGET, partition = self.partition, done, total, "restoring");
        }
        Ok(())
    }

    /// The end is reached. Transaction markers take offsets too, so the last record may lie a little before it.
    fn complete(&mut self) -> Result<(), RestoreError> {
        self.next = self.next.max(self.end);
        let batch =
            restore_batch(&self.store, std::iter::empty(), self.next).map_err(RestoreError::shard(self.partition))?;
        self.store.write(batch).map_err(RestoreError::shard(self.partition))?;
        self.stage = Stage::Complete;
        Ok(())
    }
}

/// See [`Restorer::whole_from`].
pub(super) fn whole_from(
    looker: &BaseConsumer<Listener>,
    changelog: &str,
    partition: i32,
    now: WallTime,
) -> KafkaResult<Option<i64>> {
    let young = now.as_millis() - DELETIONS_KEPT_MS / 2;
    let mut list = TopicPartitionList::with_capacity(1);
    list.add_partition_offset(changelog, partition, Offset::Offset(young))?;
    let answer = looker.offsets_for_times(list, ANSWER_TIMEOUT)?;
    let element = answer.find_partition(changelog, partition).ok_or(KafkaError::NoMessageReceived)?;
    element.error()?;
    Ok(match element.offset() {
        Offset::Offset(offset) => Some(offset),
        Offset::Beginning | Offset::End | Offset::Stored | Offset::Invalid | Offset::OffsetTail(_) => None,
    })
}

/// The group's committed offset of one input partition and its metadata. As the consumer is a `read_committed` one, the
/// answer waits for a transaction that is being decided.
pub(super) fn stable_offset(
    consumer: &GroupConsumer,
    topic: &str,
    partition: i32,
) -> KafkaResult<Option<(i64, String)>> {
    let mut list = TopicPartitionList::with_capacity(1);
    list.add_partition(topic, partition);
    let answer = consumer.committed_offsets(list, ANSWER_TIMEOUT)?;
    let element = answer.find_partition(topic, partition).ok_or(KafkaError::NoMessageReceived)?;
    element.error()?;
    Ok(match element.offset() {
        Offset::Offset(offset) => Some((offset, element.metadata().to_owned())),
        Offset::Beginning | Offset::End | Offset::Stored | Offset::Invalid | Offset::OffsetTail(_) => None,
    })
}

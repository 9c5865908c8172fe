//! Warm standbys: following the changelog of shards that other instances own, so that taking one over after a crash costs
//! the tail only (`standbys = 1`).
//!
//! Who stands by is derived from the group's membership and nothing else: for each shard, the instance to which the group
//! would give it if its owner went ([`heirs`]). Every instance comes to the same answer from the same description of the
//! group; while they differ, a shard is followed twice, or not at all for a moment, and nothing else comes of it.
//!
//! What is followed is what a restore would read: committed records only, in bounded steps, on a thread of its own. The
//! lease of the shard is held meanwhile, and given back as soon as a worker asks for it; the worker then restores as
//! always, from where the standby came to. A standby that fails is no standby, and starts over; it never stops the process.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::{Offset, TopicPartitionList};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::client::{self, Listener};
use super::group::GroupDirectory;
use super::lease::Lease;
use super::restore::whole_from;
use super::takeover::{self, Replay};
use super::worker::{Shared, pause};
use crate::clock::monotonic;
use crate::http::group::Member;
use crate::shard::{ShardError, restore_batch};
use crate::store::Store as _;
use crate::store::rocks::RocksStore;

/// How often the group is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(3);
/// How long the brokers may take to answer one question. A worker that wants a lease waits for it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// How long one step may read; so soon a lease is given back.
const STEP_TIME: Duration = Duration::from_millis(50);
/// Changelog records written to the store at a time.
const STEP_RECORDS: usize = 5_000;
/// A shard that a worker here wanted is not followed again before: by then the group's description says who owns it.
const HANDED_OVER_FOR: Duration = Duration::from_secs(15);
/// How long to wait before starting over.
const START_OVER: Duration = Duration::from_secs(5);

/// Follows changelogs until the shut-down.
pub(super) fn follow(shared: &Shared, shutdown: &CancellationToken) {
    let directory = GroupDirectory::new(&shared.config);
    while !shutdown.is_cancelled() {
        let error = match Standby::new(shared, &directory) {
            Ok(standby) => match standby.run(shutdown) {
                Ok(()) => return,
                Err(error) => error,
            },
            Err(error) => error.into(),
        };
        shared.parts.metrics.standing_by(0, 0);
        warn!(%error, "standing by failed; starting over");
        pause(shutdown, START_OVER);
    }
}

/// Why following has to start over.
#[derive(Debug, thiserror::Error)]
enum StandbyError {
    #[error("reading a changelog: {0}")]
    Reader(#[from] KafkaError),
    #[error("shard {0}: {1}")]
    Shard(i32, ShardError),
}

impl StandbyError {
    fn shard<E: Into<ShardError>>(partition: i32) -> impl FnOnce(E) -> Self {
        move |source| Self::Shard(partition, source.into())
    }
}

struct Standby<'s> {
    shared: &'s Shared,
    directory: &'s GroupDirectory,
    reader: BaseConsumer<Listener>,
    looker: BaseConsumer<Listener>,
    followed: BTreeMap<i32, Followed>,
    handed_over: BTreeMap<i32, Instant>,
    looked_at: Option<Instant>,
}

/// One shard that is followed. The store is dropped before the lease: fields are dropped in order.
struct Followed {
    store: RocksStore,
    /// The next changelog offset to read.
    next: i64,
    _lease: Lease,
}

impl<'s> Standby<'s> {
    fn new(shared: &'s Shared, directory: &'s GroupDirectory) -> Result<Self, KafkaError> {
        let config = &shared.config;
        Ok(Self {
            shared,
            directory,
            reader: client::reader(config).create_with_context(Listener)?,
            looker: client::looker(config).create_with_context(Listener)?,
            followed: BTreeMap::new(),
            handed_over: BTreeMap::new(),
            looked_at: None,
        })
    }

    fn run(mut self, shutdown: &CancellationToken) -> Result<(), StandbyError> {
        while !shutdown.is_cancelled() {
            if self.looked_at.is_none_or(|at| at.elapsed() >= LOOK_EVERY) {
                self.looked_at = Some(monotonic());
                self.look()?;
            }
            self.give_way()?;
            self.read()?;
        }
        Ok(())
    }

    /// Takes up and leaves shards as the group's description says.
    fn look(&mut self) -> Result<(), StandbyError> {
        let members = match self.directory.members_now() {
            Ok(members) => members,
            Err(error) => {
                debug!(%error, "standing by for the same shards");
                return Ok(());
            }
        };
        self.handed_over.retain(|_, at| at.elapsed() < HANDED_OVER_FOR);
        let heirs = heirs(&members);
        let mine: BTreeSet<i32> = heirs
            .into_iter()
            .filter(|(partition, heir)| {
                *heir == self.shared.config.instance_id
                    && (0..self.shared.input_partitions).contains(partition)
                    && !self.handed_over.contains_key(partition)
            })
            .map(|(partition, _)| partition)
            .collect();
        let left: Vec<i32> = self.followed.keys().copied().filter(|partition| !mine.contains(partition)).collect();
        for partition in left {
            self.leave(partition)?;
        }
        for partition in mine {
            if !self.followed.contains_key(&partition) {
                match self.take_up(partition) {
                    Err(StandbyError::Reader(error)) => debug!(%error, partition, "standing by later"),
                    taken => taken?,
                }
            }
        }
        let mut lag = 0;
        for (partition, followed) in &self.followed {
            let changelog = &self.shared.config.topics.changelog;
            if let Ok((_, end)) = client::watermarks(&self.looker, changelog, *partition, ANSWER_TIMEOUT) {
                lag += (end - followed.next).max(0);
            }
        }
        self.shared.parts.metrics.standing_by(self.followed.len(), lag);
        Ok(())
    }

    fn take_up(&mut self, partition: i32) -> Result<(), StandbyError> {
        let Shared { config, parts, leases, .. } = self.shared;
        let changelog = &config.topics.changelog;
        let (start, end) = client::watermarks(&self.looker, changelog, partition, ANSWER_TIMEOUT)?;
        let whole = whole_from(&self.looker, changelog, partition, parts.clock.broker_time())?.unwrap_or(end);
        let Some(lease) = leases.take_idle(partition) else { return Ok(()) };
        let store = parts.database.shard(partition);
        let (_, local) = store.shard().map_err(StandbyError::shard(partition))?;
        let next = match takeover::replay(local, start, whole, end) {
            Replay::Nothing => end,
            Replay::Tail { from } => from,
            // A changelog that is empty where there was one is for a person to look at, not for us to forget by.
            Replay::All { .. } if start >= end => return Ok(()),
            Replay::All { from, .. } => {
                parts.database.drop_shard(partition).map_err(StandbyError::shard(partition))?;
                from
            }
        };
        let mut list = TopicPartitionList::with_capacity(1);
        list.add_partition_offset(changelog, partition, Offset::Offset(next))?;
        self.reader.incremental_assign(&list)?;
        info!(partition, offsets = end - next, "standing by");
        self.followed.insert(partition, Followed { store, next, _lease: lease });
        Ok(())
    }

    fn leave(&mut self, partition: i32) -> Result<(), StandbyError> {
        let Some(followed) = self.followed.remove(&partition) else { return Ok(()) };
        let mut list = TopicPartitionList::with_capacity(1);
        list.add_partition(&self.shared.config.topics.changelog, partition);
        self.reader.incremental_unassign(&list)?;
        info!(partition, next = followed.next, "no longer standing by");
        Ok(())
    }

    /// A worker of this process got a shard that is followed: it is the owner now.
    fn give_way(&mut self) -> Result<(), StandbyError> {
        let wanted: Vec<i32> =
            self.followed.keys().copied().filter(|partition| self.shared.leases.is_wanted(*partition)).collect();
        for partition in wanted {
            self.handed_over.insert(partition, monotonic());
            self.leave(partition)?;
        }
        Ok(())
    }

    /// One bounded step.
    fn read(&mut self) -> Result<(), StandbyError> {
        let began = monotonic();
        let mut messages: Vec<BorrowedMessage<'_>> = Vec::new();
        while messages.len() < STEP_RECORDS {
            let Some(left) = STEP_TIME.checked_sub(began.elapsed()) else { break };
            match self.reader.poll(client::whole_millis(left)) {
                None => break,
                Some(Ok(message)) => messages.push(message),
                Some(Err(KafkaError::PartitionEOF(_))) => {}
                // What is to be read next is gone: looking again decides whether to begin anew.
                Some(Err(error)) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AutoOffsetReset) => {
                    return Err(error.into());
                }
                Some(Err(error @ KafkaError::MessageConsumptionFatal(_))) => return Err(error.into()),
                Some(Err(error)) => debug!(%error, "following changelogs"),
            }
        }
        messages.sort_by_key(Message::partition);
        for chunk in messages.chunk_by(|a, b| a.partition() == b.partition()) {
            let Some(last) = chunk.last() else { continue };
            let partition = last.partition();
            // Left a moment ago: what was read ahead is void.
            let Some(followed) = self.followed.get_mut(&partition) else { continue };
            let next = last.offset() + 1;
            let records = chunk.iter().filter_map(|message| Some((message.key()?, message.payload())));
            let batch = restore_batch(&followed.store, records, next).map_err(StandbyError::shard(partition))?;
            followed.store.write(batch).map_err(StandbyError::shard(partition))?;
            followed.next = next;
        }
        Ok(())
    }
}

/// For each shard, the instance to which the group would give it if its owner went: its shards go one by one to whoever
/// has fewest by then, as the group's sticky assignor does it. Of equals the first by name.
fn heirs(members: &[Member]) -> BTreeMap<i32, String> {
    let mut heirs = BTreeMap::new();
    for owner in members {
        let mut others: Vec<(usize, &str)> = members
            .iter()
            .filter(|other| other.instance_id != owner.instance_id)
            .map(|other| (other.partitions.len(), other.instance_id.as_str()))
            .collect();
        let partitions: BTreeSet<i32> = owner.partitions.iter().copied().collect();
        for partition in partitions {
            let Some(heir) = others.iter_mut().min() else { break };
            heir.0 += 1;
            heirs.insert(partition, heir.1.to_owned());
        }
    }
    heirs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: &str, partitions: &[i32]) -> Member {
        Member { instance_id: id.to_owned(), address: None, partitions: partitions.to_vec() }
    }

    #[test]
    fn every_shard_has_one_heir_who_is_not_its_owner() {
        let members = [member("a", &[0, 3, 4]), member("b", &[1, 5]), member("c", &[2])];
        let heirs = heirs(&members);
        assert_eq!(heirs.keys().copied().collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
        let of = |partitions: &[i32]| partitions.iter().map(|partition| heirs[partition].as_str()).collect::<Vec<_>>();
        assert_eq!(of(&[0, 3, 4]), ["c", "b", "c"], "the one with fewest first");
        assert_eq!(of(&[1, 5]), ["c", "c"]);
        assert_eq!(of(&[2]), ["b"]);
    }

    #[test]
    fn who_is_alone_has_no_heir_and_whoever_has_no_shard_may_inherit() {
        assert_eq!(heirs(&[member("a", &[0, 1])]), BTreeMap::new());
        assert_eq!(heirs(&[]), BTreeMap::new());
        let heirs = heirs(&[member("a", &[0, 1]), member("b", &[])]);
        assert_eq!(heirs, BTreeMap::from([(0, "b".to_owned()), (1, "b".to_owned())]));
    }

    #[test]
    fn what_a_member_of_many_leaves_is_spread_over_the_others() {
        let members =
            [member("a", &[0, 4, 8]), member("b", &[1, 5, 9]), member("c", &[2, 6, 10]), member("d", &[3, 7, 11])];
        let heirs = heirs(&members);
        assert_eq!(heirs.len(), 12);
        for owner in &members {
            let mut inherited = BTreeMap::<&str, usize>::new();
            for partition in &owner.partitions {
                *inherited.entry(heirs[partition].as_str()).or_default() += 1;
            }
            assert!(!inherited.contains_key(owner.instance_id.as_str()), "{inherited:?}");
            assert_eq!(inherited.into_values().collect::<Vec<_>>(), [1, 1, 1], "{}", owner.instance_id);
        }
    }

    #[test]
    fn the_order_in_which_the_group_tells_its_members_changes_nothing() {
        let mut members = vec![member("a", &[0, 3]), member("b", &[1]), member("c", &[2])];
        let before = heirs(&members);
        members.reverse();
        assert_eq!(heirs(&members), before);
    }
}

//! What the group gives and takes: taking a shard over, positioning the consumer, giving a shard up.
//!
//! A partition is assigned to the consumer at once and paused, so that the rebalance is over soon whatever restoring
//! takes; only when its shard is taken up is the consumer moved to the shard's position. Going back to the last commit is
//! the same move. It is assigned at a plain offset: librdkafka looks a name such as "the end" up, and where the answer came
//! after the move it took the consumer to the end, past what was unread (seen with 2.12, `tests/chaos`).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::Consumer;
use rdkafka::error::KafkaResult;
use rdkafka::{Offset, TopicPartitionList};
use tracing::{debug, info, warn};

use super::committing::Scope;
use super::{Halt, Live, RunError, Session, Slot, gap, passing};
use crate::clock::monotonic;
use crate::kafka::rebalance::Change;
use crate::kafka::restore::{RestoreError, Restored, stable_offset};
use crate::kafka::status::ShardStatus;
use crate::kafka::step::Step;
use crate::kafka::takeover::{self, Facts, Note};
use crate::metrics::AbortCause;
use crate::shard::{Effects, Shard, ShardError};

/// How long moving the consumer may take before it is tried again.
const SEEK_TIMEOUT: Duration = Duration::from_secs(2);
/// How long finding out where partitions begin may take; the group waits meanwhile.
const BEGINNINGS_TIMEOUT: Duration = Duration::from_secs(2);
/// How long it is tried again: what then does not move is assigned anew by joining the group anew.
const SEEK_TRIED: Duration = Duration::from_secs(30);

impl Session<'_> {
    /// Answers every change of the group that waits.
    pub(super) fn serve_changes(&mut self) -> Result<(), Halt> {
        while let Some(change) = self.consumer.context().first() {
            // The client pauses and resumes what stays with us, too.
            let now = monotonic();
            self.live_mut().for_each(|(_, live)| live.gaps.disturbed(now));
            if matches!(change, Change::Assigned(_) | Change::Revoked(_)) {
                // The client joins no other generation before it has the answer to this change.
                self.generation = self.consumer.group_metadata().map(Arc::new);
                self.live_mut().for_each(|(_, live)| live.proven = false);
            }
            match change {
                Change::Assigned(partitions) => self.take_over(&partitions)?,
                Change::Revoked(partitions) => {
                    // What was applied is committed first: the next owner begins where we end.
                    self.commit(Scope::All)?;
                    self.reached(Step::Released);
                    self.give_up(&partitions)?;
                }
                Change::Lost(partitions) => {
                    if partitions.iter().any(|partition| self.is_pending(*partition)) {
                        self.shared.parts.metrics.aborted(AbortCause::Lost);
                    }
                    warn!(worker = self.worker, ?partitions, "partitions were lost; what was not committed is dropped");
                    self.give_up(&partitions)?;
                }
                Change::Failed(error) => return Err(Halt::Rejoin(format!("the rebalance failed: {error}"))),
            }
            self.consumer.context().answered();
        }
        Ok(())
    }

    fn is_pending(&self, partition: i32) -> bool {
        matches!(self.slots.get(&partition), Some(Slot::Live(live)) if live.is_pending())
    }

    fn take_over(&mut self, partitions: &[i32]) -> Result<(), Halt> {
        info!(worker = self.worker, ?partitions, "the group assigned");
        if let Some(&partition) = partitions.iter().find(|partition| **partition >= self.shared.input_partitions) {
            let (recorded, found) = (self.shared.input_partitions, partition + 1);
            let source = ShardError::PartitionCountChanged { partition, recorded, found };
            return Err(Halt::Stop(RunError::Shard { partition, source }));
        }
        let answer = || -> KafkaResult<()> {
            let list = self.beginnings(partitions)?;
            self.consumer.incremental_assign(&list)?;
            if partitions.is_empty() { Ok(()) } else { self.consumer.pause(&list) }
        };
        answer().map_err(|error| Halt::Rejoin(format!("taking partitions: {error}")))?;
        for &partition in partitions {
            self.shared.parts.status.insert(ShardStatus::taken_over(partition, self.worker));
            self.slots.insert(partition, Slot::Restoring(Box::new(self.restorer.begin(partition))));
        }
        self.shared.parts.status.joined(self.worker);
        Ok(())
    }

    fn give_up(&mut self, partitions: &[i32]) -> Result<(), Halt> {
        info!(worker = self.worker, ?partitions, "giving up");
        for partition in partitions {
            if let Some(Slot::Restoring(restore)) = self.slots.remove(partition) {
                self.restorer.cancel(*restore);
            }
            self.shared.parts.status.remove(*partition, self.worker);
        }
        let answer = || -> KafkaResult<()> {
            let list = self.list(partitions, Offset::Invalid)?;
            self.consumer.incremental_unassign(&list)
        };
        answer().map_err(|error| Halt::Rejoin(format!("giving up partitions: {error}")))
    }

    /// The partitions at their first offsets.
    fn beginnings(&self, partitions: &[i32]) -> KafkaResult<TopicPartitionList> {
        // Where a broker does not answer, the end is looked up by the client, and a jump to it is seen as a gap.
        let mut list = self.list(partitions, Offset::End)?;
        if partitions.is_empty() {
            return Ok(list);
        }
        // As a timestamp this is "the earliest".
        match self.consumer.offsets_for_times(self.list(partitions, Offset::Beginning)?, BEGINNINGS_TIMEOUT) {
            Ok(answer) => {
                for element in answer.elements() {
                    if let (Ok(()), Offset::Offset(start)) = (element.error(), element.offset()) {
                        list.set_partition_offset(element.topic(), element.partition(), Offset::Offset(start))?;
                    }
                }
            }
            Err(error) => debug!(%error, "the first offsets of the input are unknown"),
        }
        Ok(list)
    }

    fn list(&self, partitions: &[i32], offset: Offset) -> KafkaResult<TopicPartitionList> {
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        for &partition in partitions {
            list.add_partition_offset(&self.shared.config.topics.events, partition, offset)?;
        }
        Ok(list)
    }

    /// Goes on with the shards that are being restored, and takes up those that are.
    pub(super) fn restore(&mut self) -> Result<(), Halt> {
        let restores = self.slots.values_mut().filter_map(|slot| match slot {
            Slot::Restoring(restore) => Some(restore.as_mut()),
            Slot::Live(_) => None,
        });
        self.restorer.step(self.consumer, restores).map_err(|error| match error {
            RestoreError::Reader(error) => Halt::Rejoin(format!("reading the changelog: {error}")),
            RestoreError::Takeover(error) => Halt::Stop(error.into()),
            RestoreError::Shard(partition, source) => Halt::Stop(RunError::Shard { partition, source }),
        })?;
        let partly = |slot: &Slot| matches!(slot, Slot::Restoring(restore) if !restore.is_complete() && restore.progress().0 > 0);
        self.reached_if(self.slots.values().any(partly), Step::PartlyRestored);
        let complete: BTreeSet<i32> = self
            .slots
            .iter()
            .filter(|(_, slot)| matches!(slot, Slot::Restoring(restore) if restore.is_complete()))
            .map(|(partition, _)| *partition)
            .collect();
        for partition in complete {
            self.take_up(partition)?;
        }
        Ok(())
    }

    /// The store holds the last commit: decides where to resume.
    fn take_up(&mut self, partition: i32) -> Result<(), Halt> {
        let (start, end) = match self.restorer.input_bounds(partition) {
            Ok(bounds) => bounds,
            Err(error) => {
                debug!(%error, partition, "the input's bounds are unknown; asking again");
                return Ok(());
            }
        };
        let Some(Slot::Restoring(restore)) = self.slots.remove(&partition) else { return Ok(()) };
        let Restored { lease, store, group, read } = restore.finish();
        self.reached_if(read > 0, Step::Restored);
        let shared = self.shared;
        let mut shard = Shard::open(partition, Arc::clone(&shared.rules), store, shared.input_partitions)
            .map_err(Halt::shard(partition))?;
        shard.limit_cache(cache_share(shared.config.state.memory, shared.input_partitions));
        let facts = Facts {
            topic: &shared.config.topics.events,
            partition,
            group: group.as_ref().map(|(offset, _)| *offset),
            shard: shard.position(),
            start,
            end,
            accept: shared.config.kafka.accept_offsets,
        };
        let resume = match takeover::resume(&facts) {
            Ok(resume) => resume,
            // Before the program stops over it, the group's offset is looked at again: it may be somebody else's commit.
            Err(error) => {
                return Err(match stable_offset(self.consumer, facts.topic, partition) {
                    Ok(now) if error.stands(now.as_ref().map(|(offset, _)| *offset)) => Halt::Stop(error.into()),
                    Ok(_) => Halt::Rejoin(format!("somebody else commits for shard {partition}")),
                    Err(unknown) => Halt::Rejoin(format!("the group's offset of shard {partition}: {unknown}")),
                });
            }
        };
        let moved_to = resume.note.map(|note| {
            match note {
                Note::GroupHasNone => {
                    warn!(partition, from = resume.from, "the group has no offset; resuming from the shard's record");
                }
                Note::Accepted { side, instead_of } => {
                    warn!(partition, from = resume.from, ?side, ?instead_of, "resuming from the accepted offset");
                }
                Note::RecordsExpired { missed } => {
                    shared.parts.metrics.records_expired(missed);
                    warn!(
                        partition,
                        from = resume.from,
                        missed,
                        "records were removed by the topic's retention before they were read: they are lost to Ebbtide; \
                         going on with what is left"
                    );
                }
            }
            // The next commit makes group and shard agree again.
            shard.move_to(resume.from);
            resume.from
        });
        info!(worker = self.worker, partition, from = resume.from, "running");
        shared.parts.status.update(partition, self.worker, |status| {
            status.restored = (read, read);
            status.cohorts = shard.cohorts().clone();
        });
        let live = Live {
            shard,
            effects: Effects::default(),
            next: resume.from,
            committed: resume.from,
            group,
            proven: false,
            seek_to: Some(resume.from),
            moved_to,
            end: passing::End::default(),
            gaps: gap::Gaps::new(monotonic()),
            // A changed policy judges everybody again, and timers may be due.
            touched: true,
            arrivals: Vec::new(),
            _lease: lease,
        };
        self.slots.insert(partition, Slot::Live(Box::new(live)));
        self.note_pending();
        Ok(())
    }

    /// Moves the consumer to where shards want to read. What is not done now is tried again in the next round.
    pub(super) fn position(&mut self) -> Result<(), Halt> {
        let wanted: Vec<(i32, i64)> =
            self.live().filter_map(|(partition, live)| Some((partition, live.seek_to?))).collect();
        if wanted.is_empty() {
            self.positioning_since = None;
            return Ok(());
        }
        if self.positioning_since.get_or_insert_with(monotonic).elapsed() > SEEK_TRIED {
            return Err(Halt::Rejoin(format!("the consumer could not be moved to {wanted:?}")));
        }
        let topic = &self.shared.config.topics.events;
        let moving = || -> KafkaResult<TopicPartitionList> {
            let mut list = TopicPartitionList::with_capacity(wanted.len());
            for &(partition, offset) in &wanted {
                list.add_partition_offset(topic, partition, Offset::Offset(offset))?;
            }
            // Resuming restarts at where the partition was paused, so the move comes after it.
            self.consumer.resume(&list)?;
            self.consumer.seek_partitions(list, SEEK_TIMEOUT)
        };
        let moved = match moving() {
            Ok(moved) => moved,
            Err(error) => {
                debug!(%error, "the consumer could not be moved; trying again");
                return Ok(());
            }
        };
        for element in moved.elements() {
            if let Err(error) = element.error() {
                debug!(%error, partition = element.partition(), "the consumer could not be moved; trying again");
                continue;
            }
            if let Some(Slot::Live(live)) = self.slots.get_mut(&element.partition()) {
                live.seek_to = None;
                live.gaps.disturbed(monotonic());
            }
        }
        Ok(())
    }
}

/// What one shard may take of `state.memory` for decoded users: an eighth of it for all partitions together, since one
/// instance may come to hold all of them.
fn cache_share(memory: u64, partitions: i32) -> usize {
    let partitions = u64::try_from(partitions).unwrap_or(1).max(1);
    usize::try_from(memory / 8 / partitions).unwrap_or(usize::MAX)
}

//! What the group gives and takes, from librdkafka's callback to the worker's loop.
//!
//! The callback runs inside of `poll`, where the worker is busy reading. So it only notes the change down; librdkafka
//! waits for the answer ([`GroupConsumer::incremental_assign`] or `incremental_unassign`), which the worker gives once it
//! has done what the change needs: committing before it gives up a shard. Heartbeats go on meanwhile.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rdkafka::TopicPartitionList;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaRespErr;
use tracing::{debug, warn};

use super::client;

/// A consumer that is a member of the group.
pub(super) type GroupConsumer = BaseConsumer<Membership>;

/// A change of the assignment that waits for its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// These partitions are ours now.
    Assigned(Vec<i32>),
    /// These partitions go to somebody else, who waits until we let go: commit first.
    Revoked(Vec<i32>),
    /// These partitions may already be somebody else's: nothing of them may be committed.
    Lost(Vec<i32>),
    /// librdkafka could not carry a rebalance through.
    Failed(String),
}

/// The consumer context of a group member.
#[derive(Debug, Default)]
pub(super) struct Membership {
    changes: Mutex<VecDeque<Change>>,
    closing: AtomicBool,
}

impl Membership {
    /// The oldest change without an answer; it stays that until [`Membership::answered`].
    pub(super) fn first(&self) -> Option<Change> {
        self.changes().front().cloned()
    }

    /// The oldest change has its answer.
    pub(super) fn answered(&self) {
        self.changes().pop_front();
    }

    /// Whether a change waits for its answer.
    pub(super) fn has_changes(&self) -> bool {
        !self.changes().is_empty()
    }

    /// The worker's loop has ended: from now on the callback answers by itself, and what has no answer yet gets one. A
    /// consumer that still owes one neither leaves the group nor closes, whatever happens.
    pub(super) fn close(&self, consumer: &GroupConsumer, topic: &str) {
        self.closing.store(true, Ordering::Release);
        let changes = std::mem::take(&mut *self.changes());
        for change in changes {
            let answer = match &change {
                Change::Assigned(partitions) => consumer.incremental_assign(&list(topic, partitions)),
                Change::Revoked(partitions) | Change::Lost(partitions) => {
                    consumer.incremental_unassign(&list(topic, partitions))
                }
                Change::Failed(_) => Ok(()),
            };
            if let Err(error) = answer {
                // It had its answer, and only what came after that went wrong.
                debug!(%error, ?change, "could not answer the group while closing");
            }
        }
    }

    fn changes(&self) -> MutexGuard<'_, VecDeque<Change>> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn list(topic: &str, partitions: &[i32]) -> TopicPartitionList {
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for &partition in partitions {
        list.add_partition(topic, partition);
    }
    list
}

impl ClientContext for Membership {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        client::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        client::report(&error, reason);
    }
}

impl ConsumerContext for Membership {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, what: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let partitions: Vec<i32> =
            list.elements().iter().map(rdkafka::topic_partition_list::TopicPartitionListElem::partition).collect();
        let assigned = what == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        if self.closing.load(Ordering::Acquire) {
            let answer = if assigned { consumer.incremental_assign(list) } else { consumer.incremental_unassign(list) };
            if let Err(error) = answer {
                warn!(%error, "could not answer the group while closing");
            }
            return;
        }
        let change = if assigned {
            Change::Assigned(partitions)
        } else if what != RDKafkaRespErr::RD_KAFKA_RESP_ERR__REVOKE_PARTITIONS {
            Change::Failed(format!("{what:?}"))
        } else if consumer.assignment_lost() {
            // Asked here and kept: the answer to a later change would reset the flag.
            Change::Lost(partitions)
        } else {
            Change::Revoked(partitions)
        };
        self.changes().push_back(change);
    }
}

//! From the consumer's queue to applied records.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use tracing::{debug, warn};

use super::gap::Finding;
use super::{Halt, Live, RunError, Session, Slot};
use crate::clock::monotonic;
use crate::event::Record;
use crate::kafka::client::whole_millis;

/// Records applied in one round of the loop, at most.
const ROUND_RECORDS: usize = 8_192;
/// Bytes of records in one round, about.
const ROUND_BYTES: usize = 8 << 20;
/// Every so manieth record's latency is measured.
const LATENCY_STRIDE: usize = 64;
/// Latencies measured per shard and commit, at most.
const LATENCIES_MAX: usize = 256;

/// What one round of reading brought.
#[derive(Default)]
pub(super) struct Gathered<'c> {
    records: Vec<BorrowedMessage<'c>>,
    /// Their keys and values.
    bytes: usize,
    /// Partitions that were read to their end.
    ended: Vec<i32>,
}

impl Gathered<'_> {
    pub(super) fn has_records(&self) -> bool {
        !self.records.is_empty()
    }

    /// Whether more waits: the worker is behind.
    fn is_full(&self) -> bool {
        self.records.len() >= ROUND_RECORDS || self.bytes >= ROUND_BYTES
    }
}

impl<'s> Session<'s> {
    /// Waits up to `patience` for a first record, then takes what is there. Ends early when the group changes.
    pub(super) fn gather(&self, patience: Duration) -> Result<Gathered<'s>, Halt> {
        let consumer = self.consumer;
        let mut gathered = Gathered::default();
        let until = monotonic() + patience;
        while !gathered.is_full() {
            let empty = gathered.records.is_empty() && gathered.ended.is_empty();
            let wait = if empty { whole_millis(until.saturating_duration_since(monotonic())) } else { Duration::ZERO };
            match consumer.poll(wait) {
                // Either nothing came, or a change of the group did.
                None if consumer.context().has_changes() || !empty || monotonic() >= until => break,
                None => {}
                Some(Ok(record)) => {
                    gathered.bytes += record.payload_len() + record.key_len();
                    gathered.records.push(record);
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => gathered.ended.push(partition),
                Some(Err(error)) => self.reading_failed(&error)?,
            }
        }
        Ok(gathered)
    }

    fn reading_failed(&self, error: &KafkaError) -> Result<(), Halt> {
        use RDKafkaErrorCode as Code;
        match error.rdkafka_error_code() {
            Some(Code::FencedInstanceId | Code::Fenced) => Err(Halt::Fenced(error.to_string())),
            Some(Code::GroupAuthorizationFailed) => {
                let group = &self.shared.config.kafka.group_id;
                Err(Halt::Stop(RunError::Refused { what: format!("being a member of the group {group}: {error}") }))
            }
            Some(Code::TopicAuthorizationFailed) => {
                let topic = &self.shared.config.topics.events;
                Err(Halt::Stop(RunError::Refused { what: format!("reading {topic}: {error}") }))
            }
            // The position is out of the partition's range: taking over looks at the range, and decides.
            Some(Code::AutoOffsetReset | Code::OffsetOutOfRange) => Err(Halt::Rejoin(error.to_string())),
            _ if matches!(error, KafkaError::MessageConsumptionFatal(_)) => Err(Halt::Rejoin(error.to_string())),
            Some(Code::BrokerTransportFailure | Code::AllBrokersDown | Code::OperationTimedOut | Code::Resolve) => {
                debug!(%error, "reading the input; librdkafka goes on trying");
                Ok(())
            }
            // `Code::PollExceeded` too: what was lost comes as a change of the group.
            _ => {
                warn!(%error, "reading the input");
                Ok(())
            }
        }
    }

    /// Applies what was read. Records of a shard that is not taken up, or not positioned yet, are left: it will be moved
    /// to its position, and they come again.
    pub(super) fn apply(&mut self, gathered: Gathered<'_>) -> Result<(), Halt> {
        if gathered.is_full() {
            // Behind, what counts is how much a commit holds: its users are encoded once.
            self.paced_from = None;
        }
        let Gathered { mut records, ended, .. } = gathered;
        let now = self.shared.parts.clock.now();
        records.sort_by_key(Message::partition);
        for chunk in records.chunk_by(|a, b| a.partition() == b.partition()) {
            let partition = chunk[0].partition();
            let Some(Slot::Live(live)) = self.slots.get_mut(&partition) else { continue };
            if live.seek_to.is_none() {
                live.apply(chunk, now).map_err(Halt::shard(partition))?;
            }
        }
        for partition in ended {
            if let Some(Slot::Live(live)) = self.slots.get_mut(&partition)
                && live.seek_to.is_none()
            {
                live.end.reached();
            }
        }
        if !records.is_empty() {
            self.note_pending();
        }
        Ok(())
    }

    /// Remembers when the oldest uncommitted change was made.
    pub(super) fn note_pending(&mut self) {
        if self.pending_since.is_none() && self.live().any(|(_, live)| live.is_pending()) {
            self.pending_since = self.paced_from.take().or_else(|| Some(monotonic()));
        }
    }
}

impl Live {
    /// The records up to the first gap that may hide others; then the consumer is moved back to before it.
    fn without_doubt<'r, 'm>(&mut self, records: &'r [Record<'m>]) -> &'r [Record<'m>] {
        let now = monotonic();
        let mut expected = self.next;
        for (place, record) in records.iter().enumerate() {
            match self.gaps.judge(expected, record.offset, now) {
                Finding::Sound => {}
                Finding::Healed { skipped_to } => {
                    warn!(from = expected, to = skipped_to, "the consumer had left records out; they are read now");
                }
                Finding::Doubtful => {
                    debug!(from = expected, to = record.offset, "offsets are missing; reading them again");
                    self.seek_to = Some(expected);
                    self.end.moved();
                    return &records[..place];
                }
            }
            expected = record.offset + 1;
        }
        records
    }

    fn apply(
        &mut self,
        messages: &[BorrowedMessage<'_>],
        now: crate::time::WallTime,
    ) -> Result<(), crate::shard::ShardError> {
        let headers: Vec<Vec<(&str, &[u8])>> = messages.iter().map(headers).collect();
        // A record from before the position was in the queue when the consumer was moved, and one that was read before
        // comes again when the client itself has gone back.
        let mut from = self.next;
        let mut is_new = |offset: i64| {
            let new = offset >= from;
            from = from.max(offset + 1);
            new
        };
        let records: Vec<Record<'_>> = messages
            .iter()
            .zip(&headers)
            .map(|(message, headers)| Record {
                key: message.key(),
                value: message.payload(),
                headers,
                offset: message.offset(),
            })
            .filter(|record| is_new(record.offset))
            .collect();
        let records = self.without_doubt(&records);
        let Some(last) = records.last() else { return Ok(()) };
        let next = last.offset + 1;
        self.shard.apply(records, now, &mut self.effects)?;
        self.next = next;
        self.touched = true;
        for message in messages.iter().step_by(LATENCY_STRIDE) {
            if self.arrivals.len() < LATENCIES_MAX
                && let Some(at) = message.timestamp().to_millis()
            {
                self.arrivals.push(at);
            }
        }
        Ok(())
    }
}

/// The record's headers. One whose name is no UTF-8 is left out: the client library panics on it, and no record may stop
/// a shard (SPEC section 1).
fn headers<'m>(message: &'m BorrowedMessage<'_>) -> Vec<(&'m str, &'m [u8])> {
    let Some(headers) = message.headers() else { return Vec::new() };
    (0..headers.count())
        .filter_map(|index| catch_unwind(AssertUnwindSafe(|| headers.try_get(index))).ok().flatten())
        .map(|header| (header.key, header.value.unwrap_or_default()))
        .collect()
}

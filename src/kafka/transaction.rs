//! The transactional producer of one worker: each action of the [commit protocol](super::commit) that concerns Kafka,
//! as one call.
//!
//! A producer lives from [`Transactions::renew`] to the next one. It is never used again after a call that failed or was
//! slow; who calls what, and when, is decided by the protocol alone.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{Consumer, ConsumerGroupMetadata};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use tracing::{debug, warn};

use super::client;
use super::commit::{Failure, Input, Pace};
use super::rebalance::GroupConsumer;
use crate::clock::monotonic;
use crate::config::TopicsConfig;
use crate::shard::{ChangelogRecord, Output, Topic};

/// How long a transactional call, or the delivery of a commit's records, may take. Below the transaction time-out.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// A call that does not keep its time-out is left to itself after so long.
const ABANDONED_AFTER: Duration = Duration::from_secs(6);
/// How long a new producer may take to settle what its predecessor left open: longer than the transaction time-out.
const INIT_TIMEOUT: Duration = Duration::from_secs(15);
/// From here on a call counts as slow: a request of it may have been repeated (see [`Pace::Slow`]).
const SLOW: Duration = Duration::from_secs(1);
/// How long to wait for delivery reports at a time.
const DELIVERY_PAUSE: Duration = Duration::from_millis(1);

/// Events taken from the client's queue after a call, at most.
const EVENTS_MAX: usize = 10_000;

/// The opaque of a record that is none of the changelog; those have their partition plus one.
const OUTPUT: usize = 0;

/// A worker's producer.
pub(super) struct Transactions {
    config: ClientConfig,
    topics: TopicsConfig,
    producer: Option<Arc<BaseProducer<DeliveryReports>>>,
    /// The last failure, for the log.
    last_error: Option<KafkaError>,
}

/// What became of the records of the present transaction.
#[derive(Debug, Default)]
struct DeliveryReports {
    inner: Mutex<Reports>,
    /// A connection of this producer was lost, or a request was not answered, at any time of its life. It is never reset:
    /// the client tells a loss only once when the next ones come within half a minute and read the same, so whoever has
    /// heard of one counts on more.
    disturbed: AtomicBool,
    /// Events taken from the client's queue so far.
    events: AtomicUsize,
}

#[derive(Debug, Default)]
struct Reports {
    waiting: usize,
    failed: Option<KafkaError>,
    /// The highest offset of each changelog partition.
    changelog: BTreeMap<i32, i64>,
}

impl Transactions {
    /// Without a producer yet: call [`Transactions::renew`] first.
    pub(super) fn new(config: ClientConfig, topics: TopicsConfig) -> Self {
        Self { config, topics, producer: None, last_error: None }
    }

    /// The last failure, in words.
    pub(super) fn last_error(&self) -> String {
        self.last_error.as_ref().map_or_else(|| "no error".to_owned(), ToString::to_string)
    }

    /// Destroys the producer and makes a new one under the same transactional id. Initialising it settles whatever
    /// transaction the old one left open: decided if it was being decided, aborted otherwise.
    pub(super) fn renew(&mut self) -> Input {
        self.producer = None;
        let result = self.config.create_with_context(DeliveryReports::default()).and_then(
            |producer: BaseProducer<DeliveryReports>| {
                producer.init_transactions(INIT_TIMEOUT)?;
                Ok(producer)
            },
        );
        match result {
            Ok(producer) => {
                self.producer = Some(Arc::new(producer));
                // However long it took: the old producer's requests are fenced off by the new epoch.
                Input::Done(Pace::Quick)
            }
            Err(error) => self.failed("initialising the producer", error),
        }
    }

    /// Step 1.
    pub(super) fn begin(&mut self) -> Input {
        self.call("beginning a transaction", |producer| {
            *producer.context().reports() = Reports::default();
            producer.begin_transaction()
        })
    }

    /// Step 2, for one shard. Blocks while librdkafka's queue is full.
    pub(super) fn produce(&mut self, partition: i32, outputs: &[Output], changelog: &[ChangelogRecord]) -> Input {
        let topics = self.topics.clone();
        self.call("producing", |producer| {
            let deadline = monotonic() + CALL_TIMEOUT;
            for output in outputs {
                let topic = match output.topic {
                    Topic::Transitions => &topics.transitions,
                    Topic::States => &topics.states,
                    Topic::Segments => &topics.segments,
                    Topic::Outcomes => &topics.outcomes,
                    Topic::DeadLetters => &topics.dead_letters,
                };
                let mut record: BaseRecord<'_, [u8], [u8], usize> = BaseRecord::with_opaque_to(topic, OUTPUT);
                record.key = output.key.as_deref();
                record.payload = output.value.as_deref();
                if !output.headers.is_empty() {
                    let headers = OwnedHeaders::new_with_capacity(output.headers.len());
                    record.headers = Some(
                        output
                            .headers
                            .iter()
                            .fold(headers, |headers, (key, value)| headers.insert(Header { key, value: Some(value) })),
                    );
                }
                send(producer, record, deadline)?;
            }
            let tag = usize::try_from(partition).map_or(OUTPUT, |partition| partition + 1);
            for change in changelog {
                let mut record: BaseRecord<'_, [u8], [u8], usize> =
                    BaseRecord::with_opaque_to(&topics.changelog, tag).partition(partition).key(&change.key);
                record.payload = change.value.as_deref();
                send(producer, record, deadline)?;
            }
            Ok(())
        })
    }

    /// Step 3: waits until the brokers have every record of the transaction.
    pub(super) fn await_delivery(&mut self) -> Input {
        self.call("delivering", |producer| {
            let deadline = monotonic() + CALL_TIMEOUT;
            loop {
                {
                    let reports = producer.context().reports();
                    if let Some(error) = &reports.failed {
                        return Err(error.clone());
                    }
                    if reports.waiting == 0 {
                        return Ok(());
                    }
                }
                if monotonic() >= deadline {
                    return Err(KafkaError::Flush(RDKafkaErrorCode::OperationTimedOut));
                }
                // Not `flush`: in this version it looks only every 100 ms whether it is done.
                await_event(producer);
            }
        })
    }

    /// The highest changelog offset of each partition in the transaction whose delivery was awaited.
    pub(super) fn delivered(&self) -> BTreeMap<i32, i64> {
        self.producer.as_ref().map(|producer| producer.context().reports().changelog.clone()).unwrap_or_default()
    }

    /// Step 4: the next offset to read of each partition, with `note` as metadata, under the group's present generation.
    pub(super) fn send_offsets(
        &mut self,
        consumer: &GroupConsumer,
        generation: Option<&Arc<ConsumerGroupMetadata>>,
        topic: &str,
        offsets: &[(i32, i64)],
        note: &str,
    ) -> Input {
        if offsets.is_empty() {
            return Input::Done(Pace::Quick);
        }
        self.call("sending offsets", |producer| {
            let mut list = TopicPartitionList::with_capacity(offsets.len());
            for &(partition, offset) in offsets {
                let mut element = list.add_partition(topic, partition);
                element.set_offset(rdkafka::Offset::Offset(offset))?;
                element.set_metadata(note);
            }
            let generation =
                Arc::clone(generation.ok_or(KafkaError::ConsumerCommit(RDKafkaErrorCode::UnknownMemberId))?);
            // A group that has no members lets a transaction without a generation in.
            if consumer.assignment_lost() {
                return Err(KafkaError::ConsumerCommit(RDKafkaErrorCode::UnknownMemberId));
            }
            let producer = Arc::clone(producer);
            bounded(move || producer.send_offsets_to_transaction(&list, &generation, CALL_TIMEOUT))
        })
    }

    /// Step 5.
    pub(super) fn commit(&mut self) -> Input {
        self.call("committing", |producer| producer.commit_transaction(CALL_TIMEOUT))
    }

    fn call(
        &mut self,
        what: &str,
        action: impl FnOnce(&Arc<BaseProducer<DeliveryReports>>) -> KafkaResult<()>,
    ) -> Input {
        let started = monotonic();
        let result = match &self.producer {
            Some(producer) => action(producer).map(|()| {
                drain(producer);
                let disturbed = producer.context().disturbed.load(Ordering::Acquire);
                if disturbed || started.elapsed() >= SLOW { Pace::Slow } else { Pace::Quick }
            }),
            None => Err(KafkaError::Canceled),
        };
        match result {
            Ok(pace) => Input::Done(pace),
            Err(error) => self.failed(what, error),
        }
    }

    fn failed(&mut self, what: &str, error: KafkaError) -> Input {
        let failure = classify(&error);
        warn!(%error, ?failure, "{what} failed");
        self.last_error = Some(error);
        Input::Failed(failure)
    }
}

/// Makes a call on a thread of its own, and waits for its answer until [`ABANDONED_AFTER`]. Then the thread keeps the
/// producer, and destroys it when the call returns after all.
///
/// Sending offsets has no end of its own in librdkafka 2.12: where the group's coordinator is not found at once, it is asked
/// for again only when some connection comes or goes, whatever the time-out (`rd_kafka_coord_req`). In a long chaos run
/// that was four minutes.
fn bounded(call: impl FnOnce() -> KafkaResult<()> + Send + 'static) -> KafkaResult<()> {
    let (answer, answered) = mpsc::sync_channel(1);
    let calling = move || {
        // Nobody listens any more if it took too long.
        answer.send(call()).ok();
    };
    thread::Builder::new().name("send-offsets".to_owned()).spawn(calling).map_err(|error| {
        warn!(%error, "a thread could not be started");
        KafkaError::Canceled
    })?;
    let late = KafkaError::ConsumerCommit(RDKafkaErrorCode::OperationTimedOut);
    answered.recv_timeout(ABANDONED_AFTER).unwrap_or(Err(late))
}

/// Takes what waits in the client's queue: a lost connection is told there before the request that it carried is sent
/// again, and so before the answer that made a call return.
fn drain(producer: &BaseProducer<DeliveryReports>) {
    if (0..EVENTS_MAX).all(|_| take_event(producer)) {
        // Whatever else is in there: better replaced than trusted.
        producer.context().disturbed.store(true, Ordering::Release);
    }
}

/// Takes one event from the client's queue, and says whether there was one.
fn take_event(producer: &BaseProducer<DeliveryReports>) -> bool {
    let before = producer.context().events.load(Ordering::Acquire);
    producer.poll(Duration::ZERO);
    producer.context().events.load(Ordering::Acquire) != before
}

/// Takes one event, or pauses. To poll for a time would keep the processor busy: this client waits for whole milliseconds,
/// and polls without a pause for what is left of its time.
fn await_event(producer: &BaseProducer<DeliveryReports>) {
    if !take_event(producer) {
        thread::sleep(DELIVERY_PAUSE);
    }
}

/// Whether a line of the client's log says that a connection was lost that carried requests. The client raises an error
/// for a request that was not answered in time, but none for a connection that the other side has closed.
fn tells_a_loss(facility: &str, message: &str) -> bool {
    facility == "FAIL" && !message.contains("in state CONNECT")
}

/// Whether a client's error says that a request under way may be sent again. A connection that was never made carried none.
fn may_repeat(error: &KafkaError, reason: &str) -> bool {
    use RDKafkaErrorCode as Code;
    let lost = matches!(
        error.rdkafka_error_code(),
        Some(Code::BrokerTransportFailure | Code::OperationTimedOut | Code::RequestTimedOut | Code::AllBrokersDown)
    );
    lost && !reason.contains("in state CONNECT")
}

fn send(
    producer: &BaseProducer<DeliveryReports>,
    record: BaseRecord<'_, [u8], [u8], usize>,
    deadline: Instant,
) -> KafkaResult<()> {
    let mut record = record;
    loop {
        match producer.send(record) {
            Ok(()) => {
                producer.context().reports().waiting += 1;
                return Ok(());
            }
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) if monotonic() < deadline => {
                await_event(producer);
                record = back;
            }
            Err((error, _)) => return Err(error),
        }
    }
}

/// How a failed call is to be taken.
fn classify(error: &KafkaError) -> Failure {
    use RDKafkaErrorCode as Code;
    match error.rdkafka_error_code() {
        Some(Code::ProducerFenced | Code::Fenced | Code::InvalidProducerEpoch | Code::FencedInstanceId) => {
            Failure::Fenced
        }
        Some(
            Code::TransactionalIdAuthorizationFailed
            | Code::TopicAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::MessageSizeTooLarge
            | Code::UnsupportedVersion
            | Code::UnsupportedFeature,
        ) => Failure::Hopeless,
        Some(_) => Failure::Broken,
        // No code: the client could not even be made.
        None if matches!(error, KafkaError::ClientConfig(..) | KafkaError::ClientCreation(_)) => Failure::Hopeless,
        None => Failure::Broken,
    }
}

impl DeliveryReports {
    fn reports(&self) -> MutexGuard<'_, Reports> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for DeliveryReports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.events.fetch_add(1, Ordering::AcqRel);
        if tells_a_loss(facility, message) {
            self.disturbed.store(true, Ordering::Release);
        }
        client::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.events.fetch_add(1, Ordering::AcqRel);
        if may_repeat(&error, reason) {
            self.disturbed.store(true, Ordering::Release);
        }
        client::report(&error, reason);
    }
}

impl ProducerContext for DeliveryReports {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, tag: usize) {
        self.events.fetch_add(1, Ordering::AcqRel);
        let mut reports = self.reports();
        reports.waiting = reports.waiting.saturating_sub(1);
        match result {
            Ok(message) if tag != OUTPUT => {
                let highest = reports.changelog.entry(message.partition()).or_insert(-1);
                *highest = message.offset().max(*highest);
            }
            Ok(_) => {}
            Err((error, message)) => {
                debug!(%error, topic = message.topic(), "a record was not delivered");
                reports.failed.get_or_insert_with(|| error.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_connection_may_repeat_a_request_and_one_never_made_may_not() {
        let table = [
            (RDKafkaErrorCode::BrokerTransportFailure, "b:1/1: Disconnected (after 1234ms in state UP)", true),
            (RDKafkaErrorCode::OperationTimedOut, "b:1/1: 1 request(s) timed out", true),
            (RDKafkaErrorCode::BrokerTransportFailure, "b:1/1: Connect failed (after 0ms in state CONNECT)", false),
            (RDKafkaErrorCode::UnknownTopicOrPartition, "no such topic", false),
        ];
        for (code, reason, expected) in table {
            assert_eq!(may_repeat(&KafkaError::Global(code), reason), expected, "{reason}");
        }
    }

    #[test]
    fn a_connection_that_the_broker_closed_is_told_in_the_log_alone() {
        let line = "[thrd:b:1/1]: b:1/1: Disconnected (after 1234ms in state UP)";
        assert!(tells_a_loss("FAIL", line));
        assert!(!tells_a_loss("FAIL", "[thrd:b:1/1]: b:1/1: Connect to b:1 failed (after 0ms in state CONNECT)"));
        assert!(!tells_a_loss("TERMINATE", line));
    }

    #[test]
    fn errors_are_named_for_what_to_do() {
        let table = [
            (KafkaError::MessageProduction(RDKafkaErrorCode::MessageSizeTooLarge), Failure::Hopeless),
            (KafkaError::MessageProduction(RDKafkaErrorCode::MessageTimedOut), Failure::Broken),
            (KafkaError::Global(RDKafkaErrorCode::ProducerFenced), Failure::Fenced),
            (KafkaError::ConsumerCommit(RDKafkaErrorCode::IllegalGeneration), Failure::Broken),
            (KafkaError::ClientCreation("no".to_owned()), Failure::Hopeless),
            (KafkaError::Canceled, Failure::Broken),
        ];
        for (error, failure) in table {
            assert_eq!(classify(&error), failure, "{error}");
        }
    }
}

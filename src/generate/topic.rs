//! Events into a topic, the way the JVM's clients would: keyed by user, partitioned by murmur2.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext};

use super::GeneratedEvent;
use crate::config::Config;
use crate::kafka::client;

/// How long the last records may take to reach the brokers.
const FLUSH_WITHIN: Duration = Duration::from_secs(30);
/// How long to wait for room in the producer's queue at a time.
const ROOM_POLL: Duration = Duration::from_millis(100);

/// Whose time the records carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stamp {
    /// The event's, as a faithful producer stamps them.
    Event,
    /// The moment of sending: brokers refuse records from the future, where the demo's clock soon is.
    Sending,
}

/// Writes events to the configured events topic.
pub struct TopicWriter {
    producer: BaseProducer<Failures>,
    topic: String,
    stamp: Stamp,
    buffer: Vec<u8>,
}

/// Why events did not arrive.
#[derive(Debug, thiserror::Error)]
pub enum TopicError {
    /// librdkafka refuses a property.
    #[error("cannot make a producer: {0}")]
    Client(KafkaError),
    /// A record was refused, or never answered for.
    #[error("cannot write to {topic}: {reason}")]
    Refused {
        /// The topic.
        topic: String,
        /// What librdkafka said.
        reason: KafkaError,
    },
}

impl TopicWriter {
    /// Makes the producer; brokers are reached later, by the first record.
    ///
    /// # Errors
    /// [`TopicError::Client`].
    pub fn connect(config: &Config, stamp: Stamp) -> Result<Self, TopicError> {
        let producer =
            client::bulk_producer(config).create_with_context(Failures::default()).map_err(TopicError::Client)?;
        Ok(Self { producer, topic: config.topics.events.clone(), stamp, buffer: Vec::new() })
    }

    /// Puts one event into the producer's queue; waits while that is full.
    ///
    /// # Errors
    /// [`TopicError::Refused`]: this event, or an earlier one.
    pub fn send(&mut self, event: &GeneratedEvent) -> Result<(), TopicError> {
        self.buffer.clear();
        // Writing to a vector cannot fail.
        let _ = event.write_json(&mut self.buffer);
        let key = event.user_id();
        let mut record = BaseRecord::to(&self.topic).key(&key).payload(&self.buffer);
        if self.stamp == Stamp::Event {
            record = record.timestamp(event.time.as_millis());
        }
        loop {
            // Takes the answers that have come, so that a refusal is known soon.
            self.producer.poll(Duration::ZERO);
            self.check()?;
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    record = back;
                    self.producer.poll(ROOM_POLL);
                }
                Err((reason, _)) => return Err(self.refused(reason)),
            }
        }
    }

    /// Takes the brokers' answers that have come; [`TopicWriter::send`] does so too.
    pub fn serve(&self) {
        self.producer.poll(Duration::ZERO);
    }

    /// Waits until the brokers have everything.
    ///
    /// # Errors
    /// They do not within half a minute, or refused a record.
    pub fn finish(&self) -> Result<(), TopicError> {
        self.producer.flush(FLUSH_WITHIN).map_err(|reason| self.refused(reason))?;
        self.check()
    }

    fn check(&self) -> Result<(), TopicError> {
        let first = self.producer.context().first().clone();
        first.map_or(Ok(()), |reason| Err(self.refused(reason)))
    }

    fn refused(&self, reason: KafkaError) -> TopicError {
        TopicError::Refused { topic: self.topic.clone(), reason }
    }
}

/// The first record that was not delivered.
#[derive(Debug, Default)]
struct Failures(Mutex<Option<KafkaError>>);

impl Failures {
    fn first(&self) -> MutexGuard<'_, Option<KafkaError>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Failures {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        client::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        client::report(&error, reason);
    }
}

impl ProducerContext for Failures {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result {
            self.first().get_or_insert_with(|| error.clone());
        }
    }
}

//! Deletion requests from the HTTP API: a null value under the user's key, written to the input topic (SPEC section 6).
//!
//! The request takes the same way as one from anywhere else, so it is acted on in order with the user's events, exactly
//! once, whoever holds the shard by then.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use rdkafka::error::KafkaError;
use rdkafka::producer::{FutureProducer, FutureRecord};

use crate::config::Config;
use crate::http::users::{DeletionError, Deletions};
use crate::kafka::client::{self, Listener};

/// How long a request may wait for a place in the producer's queue.
const QUEUED_WITHIN: Duration = Duration::from_secs(1);
/// How long librdkafka tries to deliver: less than an answer of the API may take.
const DELIVERED_WITHIN_MS: &str = "5000";

/// Writes deletion requests to the input topic.
pub struct DeletionProducer {
    producer: FutureProducer<Listener>,
    topic: String,
}

impl DeletionProducer {
    /// A producer of its own: the workers' are transactional.
    ///
    /// # Errors
    /// librdkafka does not take the configuration.
    pub fn new(config: &Config) -> Result<Self, KafkaError> {
        let mut settings = client::producer(config);
        settings.set("client.id", format!("ebbtide-{}-deletions", config.instance_id));
        settings.set("delivery.timeout.ms", DELIVERED_WITHIN_MS);
        Ok(Self { producer: settings.create_with_context(Listener)?, topic: config.topics.events.clone() })
    }
}

impl Deletions for DeletionProducer {
    fn request<'a>(
        &'a self,
        partition: i32,
        user_id: &'a str,
    ) -> Pin<Box<dyn Future<Output = Result<(), DeletionError>> + Send + 'a>> {
        Box::pin(async move {
            // The partition is given, not hashed: it is where the user's state is.
            let record = FutureRecord::<str, [u8]>::to(&self.topic).partition(partition).key(user_id);
            let sent = self.producer.send(record, QUEUED_WITHIN).await;
            sent.map(|_| ()).map_err(|(error, _)| DeletionError(error.to_string()))
        })
    }
}

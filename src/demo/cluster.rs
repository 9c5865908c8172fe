//! The Kafka of a demo: librdkafka's in-process mock cluster, or a real one.
//!
//! The mock speaks Kafka's protocol over a local socket, with consumer groups, idempotent producers, and all the requests
//! of a transaction, so the worker runs unchanged. But it is memory only, keeps the last 5 MiB of a partition, shows
//! records before their transaction has committed, never stores the offsets of a transaction, compacts nothing, and
//! knows neither topic settings nor a request to create topics. So it can show Ebbtide at work and prove nothing about
//! exactly-once, and a worker that joined anew would find only the rest of its changelog. The demo says so on screen.

use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

use super::PARTITIONS;
use crate::config::{Config, TopicsConfig};
use crate::kafka::client;

/// How long the end may take for tidying up.
const CLEAN_TIMEOUT: Duration = Duration::from_secs(5);
const CLEAN_TIMEOUT_MS: &str = "5000";

/// The embedded cluster does not start.
#[derive(Debug, thiserror::Error)]
#[error("librdkafka's in-process cluster could not be started: {0}")]
pub struct ClusterError(KafkaError);

/// A cluster inside of this process; it ends when it is dropped, after every client of it.
pub struct Embedded(MockCluster<'static, DefaultProducerContext>);

impl Embedded {
    /// Starts one broker on a free local port.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub fn start() -> Result<Self, ClusterError> {
        MockCluster::new(1).map(Self).map_err(ClusterError)
    }

    /// Its address.
    #[must_use]
    pub fn brokers(&self) -> String {
        self.0.bootstrap_servers()
    }

    /// Creates all topics: it has no request by which the worker could.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub fn create_topics(&self, topics: &TopicsConfig) -> Result<(), ClusterError> {
        for topic in topics.names() {
            self.0.create_topic(topic, PARTITIONS, 1).map_err(ClusterError)?;
        }
        Ok(())
    }
}

/// Removes topics and group of a demo from a real cluster, as far as the cluster lets it. Returns what is left, with the
/// reason.
pub async fn clean_up(config: &Config) -> Vec<String> {
    let mut settings = client::admin(config);
    settings.set("socket.timeout.ms", CLEAN_TIMEOUT_MS);
    let admin: AdminClient<DefaultClientContext> = match settings.create() {
        Ok(admin) => admin,
        Err(error) => return config.topics.names().map(|topic| format!("topic {topic}: {error}")).to_vec(),
    };
    let options = AdminOptions::new().request_timeout(Some(CLEAN_TIMEOUT)).operation_timeout(Some(CLEAN_TIMEOUT));
    let topics = config.topics.names();
    let mut left = Vec::new();
    let gone = |code: &RDKafkaErrorCode| {
        matches!(
            code,
            RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::GroupIdNotFound
        )
    };
    match admin.delete_topics(&topics, &options).await {
        Err(error) => left.extend(topics.map(|topic| format!("topic {topic}: {error}"))),
        Ok(outcomes) => left.extend(
            outcomes
                .into_iter()
                .filter_map(Result::err)
                .filter(|(_, code)| !gone(code))
                .map(|(topic, code)| format!("topic {topic}: {code}")),
        ),
    }
    let group = config.kafka.group_id.as_str();
    match admin.delete_groups(&[group], &options).await {
        Err(error) => left.push(format!("group {group}: {error}")),
        Ok(outcomes) => left.extend(
            outcomes
                .into_iter()
                .filter_map(Result::err)
                .filter(|(_, code)| !gone(code))
                .map(|(group, code)| format!("group {group}: {code}")),
        ),
    }
    left
}

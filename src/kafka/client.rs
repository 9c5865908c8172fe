//! How Kafka clients are configured, and where their log lines go.
//!
//! Three layers: Ebbtide's defaults, then whatever the configuration passes through (SASL, TLS, tuning), then what
//! exactly-once rests on and nobody may change. Values of properties are never logged: they may be secrets.

use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use tracing::{debug, error, info, warn};

use crate::config::{Config, Properties};

/// How long the coordinator waits for a transaction before it aborts it, as Kafka Streams has it: an abandoned one holds
/// `read_committed` readers for so long.
const TRANSACTION_TIMEOUT_MS: &str = "10000";

/// Defaults that an operator may change.
const DEFAULTS: &[(&str, &str)] = &[("client.software.name", "ebbtide"), ("socket.keepalive.enable", "true")];

const CONSUMER_DEFAULTS: &[(&str, &str)] = &[
    // A member that died is replaced after so long; a restart under the same instance id comes back without a rebalance.
    ("session.timeout.ms", "10000"),
    // A rebalance waits until the last member has heard of it in the answer to a heartbeat, and a shard that moves needs
    // two of them.
    ("heartbeat.interval.ms", "500"),
    // What is read ahead is bounded by bytes; pausing would throw it away.
    ("queued.min.messages", "20000"),
    ("queued.max.messages.kbytes", "8192"),
    // Looks again soon after the queue was full, where librdkafka would wait for a second.
    ("fetch.queue.backoff.ms", "10"),
    ("fetch.wait.max.ms", "100"),
    ("reconnect.backoff.max.ms", "2000"),
];

const PRODUCER_DEFAULTS: &[(&str, &str)] = &[
    // A commit produces in one burst and then waits: no need to linger for more.
    ("linger.ms", "1"),
    ("compression.type", "lz4"),
    ("queue.buffering.max.messages", "500000"),
    // A dead letter is as large as the record that it was made from; the topic has the last word.
    ("message.max.bytes", "67108864"),
    ("reconnect.backoff.max.ms", "2000"),
];

const BULK_DEFAULTS: &[(&str, &str)] =
    &[("linger.ms", "20"), ("compression.type", "lz4"), ("reconnect.backoff.max.ms", "2000")];

/// The member of the group that reads the input: one a worker.
#[must_use]
pub fn group_consumer(config: &Config, worker: usize) -> ClientConfig {
    let mut client = reader(config);
    client
        // Says to the rest of the group where this instance is reached: see `group`.
        .set("client.id", super::group::client_id(&config.instance_id, worker, config.http.advertised.as_deref()))
        .set("partition.assignment.strategy", "cooperative-sticky");
    if config.kafka.static_membership {
        client.set("group.instance.id", format!("{}-{worker}", config.instance_id));
    }
    client
}

/// A reader that is assigned by hand: committed records only, as for the changelog.
#[must_use]
pub fn reader(config: &Config) -> ClientConfig {
    let mut client = layered(config, CONSUMER_DEFAULTS, &config.kafka.consumer);
    client
        .set("client.id", format!("ebbtide-{}", config.instance_id))
        .set("group.id", &config.kafka.group_id)
        .set("isolation.level", "read_committed")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        // Every position is given: one that is out of range is an error that stops, never a silent jump.
        .set("auto.offset.reset", "error")
        .set("enable.partition.eof", "true");
    client
}

/// A client that only asks for metadata and offsets. It asks as a `read_uncommitted` one: the end of a partition is then
/// its high watermark, where a `read_committed` client is told the last stable offset.
#[must_use]
pub fn looker(config: &Config) -> ClientConfig {
    let mut client = layered(config, &[], &config.kafka.consumer);
    client.set("client.id", format!("ebbtide-{}", config.instance_id)).set("isolation.level", "read_uncommitted");
    client
}

/// The transactional producer of a worker.
#[must_use]
pub fn transactional_producer(config: &Config, worker: usize) -> ClientConfig {
    let mut client = producer(config);
    client
        .set("client.id", format!("ebbtide-{}-{worker}", config.instance_id))
        .set("transactional.id", transactional_id(config, worker))
        .set("transaction.timeout.ms", TRANSACTION_TIMEOUT_MS)
        // Whether a connection was lost is told in the log alone, and exactly-once rests on hearing it.
        .set("log.connection.close", "true")
        .set_log_level(RDKafkaLogLevel::Info);
    client
}

/// The transactional id of a worker: stable, so that a restart settles what its predecessor left open.
#[must_use]
pub fn transactional_id(config: &Config, worker: usize) -> String {
    format!("{}-{}-{worker}", config.kafka.group_id, config.instance_id)
}

/// A producer of single records: idempotent, every replica in sync has them.
#[must_use]
pub fn producer(config: &Config) -> ClientConfig {
    idempotent(config, PRODUCER_DEFAULTS)
}

/// The same for records without end, which may wait a little for company.
#[must_use]
pub fn bulk_producer(config: &Config) -> ClientConfig {
    idempotent(config, BULK_DEFAULTS)
}

fn idempotent(config: &Config, defaults: &[(&str, &str)]) -> ClientConfig {
    let mut client = layered(config, defaults, &config.kafka.producer);
    client
        .set("enable.idempotence", "true")
        .set("acks", "all")
        // As Java clients partition, so that users meet their records in the same partition whoever produces.
        .set("partitioner", "murmur2_random");
    client
}

/// For creating and describing topics.
#[must_use]
pub fn admin(config: &Config) -> ClientConfig {
    layered(config, &[], &Properties::default())
}

fn layered(config: &Config, defaults: &[(&str, &str)], special: &Properties) -> ClientConfig {
    let mut client = ClientConfig::new();
    for (name, value) in DEFAULTS.iter().chain(defaults) {
        client.set(*name, *value);
    }
    for (name, value) in config.kafka.properties.iter().chain(special.iter()) {
        client.set(name, value);
    }
    client.set("bootstrap.servers", &config.kafka.brokers);
    client.set_log_level(RDKafkaLogLevel::Warning);
    client
}

/// A context that does nothing but pass librdkafka's log lines on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Listener;

impl ClientContext for Listener {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        report(&error, reason);
    }
}

impl ConsumerContext for Listener {}

/// The first offset of a partition and the one after its last; for a `read_committed` client, after its last that is
/// decided.
///
/// librdkafka 2.12 answers from what it remembers of the topic. Where it was told once that the partition has no leader,
/// as while a broker goes down, it takes that for final until the memory expires after minutes; so it is told anew.
pub(super) fn watermarks(
    client: &BaseConsumer<Listener>,
    topic: &str,
    partition: i32,
    timeout: Duration,
) -> KafkaResult<(i64, i64)> {
    let answer = client.fetch_watermarks(topic, partition, timeout);
    if answer.as_ref().is_err_and(|error| error.rdkafka_error_code() == Some(RDKafkaErrorCode::UnknownPartition)) {
        client.fetch_metadata(Some(topic), timeout)?;
    }
    answer
}

/// A time to poll for, in whole milliseconds and not shorter. Clients wait for whole milliseconds, and poll without a pause
/// for the rest.
pub(super) fn whole_millis(time: Duration) -> Duration {
    const MILLI: u128 = Duration::from_millis(1).as_nanos();
    Duration::from_millis(u64::try_from(time.as_nanos().div_ceil(MILLI)).unwrap_or(u64::MAX))
}

/// Passes a line of librdkafka on.
pub(crate) fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical | RDKafkaLogLevel::Error => {
            error!(target: "librdkafka", facility, "{message}");
        }
        RDKafkaLogLevel::Warning => warn!(target: "librdkafka", facility, "{message}"),
        RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => info!(target: "librdkafka", facility, "{message}"),
        RDKafkaLogLevel::Debug => debug!(target: "librdkafka", facility, "{message}"),
    }
}

/// Passes an error on that concerns a whole client, such as a broker that does not answer. librdkafka goes on trying.
pub(crate) fn report(error: &KafkaError, reason: &str) {
    if is_news(error) {
        warn!(target: "librdkafka", %error, "{reason}");
    }
}

/// That a partition was read to its end is told to every client that asked for it, as if it were an error: several times
/// a second on a live topic. The reader acts on it; nobody else need know.
fn is_news(error: &KafkaError) -> bool {
    error.rdkafka_error_code() != Some(RDKafkaErrorCode::PartitionEOF)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_millisecond_is_a_whole_one() {
        for (micros, millis) in [(0, 0), (1, 1), (999, 1), (1_000, 1), (1_001, 2), (99_990, 100)] {
            assert_eq!(whole_millis(Duration::from_micros(micros)), Duration::from_millis(millis), "{micros} us");
        }
    }

    #[test]
    fn nobody_can_configure_exactly_once_away() {
        let mut config = Config::with_brokers("localhost:1");
        let unsafe_wishes = [
            ("isolation.level", "read_uncommitted"),
            ("enable.auto.commit", "true"),
            ("auto.offset.reset", "latest"),
            ("acks", "0"),
            ("bootstrap.servers", "elsewhere:1"),
        ];
        config.kafka.properties =
            Properties::new(unsafe_wishes.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
        let consumer = group_consumer(&config, 0);
        assert_eq!(consumer.get("isolation.level"), Some("read_committed"));
        assert_eq!(consumer.get("enable.auto.commit"), Some("false"));
        assert_eq!(consumer.get("auto.offset.reset"), Some("error"));
        let producer = transactional_producer(&config, 0);
        assert_eq!(producer.get("acks"), Some("all"));
        assert_eq!(producer.get("bootstrap.servers"), Some("localhost:1"));
    }

    #[test]
    fn reading_to_the_end_is_no_news() {
        assert!(!is_news(&KafkaError::Global(RDKafkaErrorCode::PartitionEOF)));
        assert!(is_news(&KafkaError::Global(RDKafkaErrorCode::AllBrokersDown)));
    }

    #[test]
    fn a_static_member_keeps_its_name_and_another_has_none() {
        let mut config = Config { instance_id: "a".to_owned(), ..Config::with_brokers("localhost:1") };
        assert_eq!(group_consumer(&config, 1).get("group.instance.id"), Some("a-1"));
        config.kafka.static_membership = false;
        assert_eq!(group_consumer(&config, 1).get("group.instance.id"), None);
    }

    #[test]
    fn an_operator_may_tune() {
        let mut config = Config::with_brokers("localhost:1");
        let own = |name: &str, value: &str| Properties::new([(name.to_owned(), value.to_owned())].into());
        config.kafka.properties = own("compression.type", "zstd");
        config.kafka.producer = own("linger.ms", "20");
        let producer = transactional_producer(&config, 3);
        assert_eq!(producer.get("linger.ms"), Some("20"));
        assert_eq!(producer.get("compression.type"), Some("zstd"));
        assert_eq!(group_consumer(&config, 3).get("linger.ms"), None);
    }
}

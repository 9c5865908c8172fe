//! The topics: what is there, what is missing, what is set wrongly.
//!
//! The input belongs to somebody else and is never created. Missing output topics are created with settings that fit;
//! existing ones are left alone, and what would break a promise is reported, all of it at once.

mod judge;

use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::{Metadata, MetadataPartition, MetadataTopic};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{Offset, TopicPartitionList};

use self::judge::Found;
use super::client::{self, Listener};
use crate::clock::monotonic;
use crate::config::Config;

/// How long a broker may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// How long the leaders of created topics may take.
const LEADERS_WITHIN: Duration = Duration::from_secs(15);
/// How long to wait before they are looked for again.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// What the headers of a dead letter add to the record that it was made from, at most.
const DEAD_LETTER_ROOM: u64 = 64 << 10;
/// How long a deletion stays visible in the changelog: a local copy that was away for longer must be rebuilt.
pub(super) const DELETIONS_KEPT_MS: i64 = 604_800_000;
/// How long dead letters are kept: 14 days.
const DEAD_LETTERS_KEPT: &str = "1209600000";

/// What is known about the topics once they are as they should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Partitions of the input topic, and so of the changelog.
    pub input_partitions: i32,
    /// Topics that were missing and were created.
    pub created: Vec<String>,
    /// Settings that work, but that somebody should look at.
    pub warnings: Vec<String>,
}

/// Why the topics cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TopicsError {
    /// The cluster did not answer, or refused.
    #[error("asking {brokers} about topics failed: {reason}; check `kafka.brokers`, the network and the permissions")]
    Unreachable {
        /// The configured brokers.
        brokers: String,
        /// What librdkafka said.
        reason: KafkaError,
    },
    /// Something about the topics has to be changed by a person.
    #[error("the topics cannot be used:{}", list(.0))]
    Unfit(Vec<String>),
    /// The thread that asks could not be started, or ended early.
    #[error("asking about topics could not be started: {0}")]
    Internal(String),
}

impl TopicsError {
    fn unreachable(config: &Config, reason: KafkaError) -> Self {
        Self::Unreachable { brokers: config.kafka.brokers.clone(), reason }
    }
}

fn list(problems: &[String]) -> String {
    problems.iter().map(|problem| format!("\n  {problem}")).collect()
}

/// One of Ebbtide's own topics, as it should be.
struct Wanted<'a> {
    key: &'static str,
    name: &'a str,
    partitions: i32,
    /// `Some` where the partition count is part of the protocol.
    exact_partitions: bool,
    settings: Vec<(&'static str, String)>,
    cleanup: Cleanup,
}

/// What the cleanup policy of an existing topic may be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cleanup {
    /// Exactly `compact`: deleting by age would lose users.
    CompactOnly,
    /// `compact`, and whoever wants may also delete by age.
    Compact,
    /// Anything but compaction: records share a key.
    NoCompaction,
}

/// What looking at a cluster has shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inspection {
    /// Partitions of the input topic; `None` where it cannot be used.
    pub input_partitions: Option<i32>,
    /// Topics that do not exist, and may be created.
    pub missing: Vec<String>,
    /// What is as it should be.
    pub notes: Vec<String>,
    /// What works, but somebody should look at.
    pub warnings: Vec<String>,
    /// What has to be changed by a person.
    pub problems: Vec<String>,
}

/// Looks at the topics and creates what is missing, if `topics.create` is on.
///
/// # Errors
/// See [`TopicsError`].
pub fn ensure(config: &Config) -> Result<Layout, TopicsError> {
    on_a_thread(async || {
        let cluster = Cluster::connect(config)?;
        let Inspection { input_partitions, missing, warnings, problems, .. } = cluster.inspect().await?;
        let input_partitions = input_partitions.filter(|_| problems.is_empty()).ok_or(TopicsError::Unfit(problems))?;
        if !missing.is_empty() {
            let wanted = wanted(config, input_partitions, cluster.input_size().await?);
            let missing: Vec<&Wanted<'_>> =
                wanted.iter().filter(|topic| missing.iter().any(|name| name == topic.name)).collect();
            cluster.create(&missing).await?;
            cluster.await_leaders(&missing).await?;
        }
        Ok(Layout { input_partitions, created: missing, warnings })
    })
}

/// Creates the input topic, for a demo or a first look: else it belongs to whoever writes to it. It keeps its records for
/// ever. One that is there stays as it is.
///
/// # Errors
/// See [`TopicsError`].
pub fn create_input(config: &Config, partitions: i32) -> Result<(), TopicsError> {
    on_a_thread(async || {
        let cluster = Cluster::connect(config)?;
        let input = Wanted {
            key: "events",
            name: &config.topics.events,
            partitions,
            exact_partitions: false,
            // Generated events are of the past, and records bear their time: the usual retention would remove them within
            // minutes of being written.
            settings: vec![("retention.ms", "-1".to_owned())],
            cleanup: Cleanup::NoCompaction,
        };
        cluster.create(&[&input]).await?;
        cluster.await_leaders(&[&input]).await
    })
}

/// Looks at the cluster, the group and the topics, and changes nothing.
///
/// # Errors
/// [`TopicsError::Unreachable`]; what is wrong with the topics is in the inspection.
pub fn check(config: &Config) -> Result<Inspection, TopicsError> {
    on_a_thread(async || {
        let cluster = Cluster::connect(config)?;
        let mut inspection = cluster.inspect().await?;
        if let Some(partitions) = inspection.input_partitions {
            cluster.inspect_group(partitions, &mut inspection)?;
        }
        Ok(inspection)
    })
}

/// The admin client is asynchronous, and the caller may itself be inside of a runtime.
fn on_a_thread<T: Send>(ask: impl AsyncFnOnce() -> Result<T, TopicsError> + Send) -> Result<T, TopicsError> {
    std::thread::scope(|scope| {
        let asking = std::thread::Builder::new()
            .name("ebbtide-topics".to_owned())
            .spawn_scoped(scope, || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.map_err(|error| TopicsError::Internal(error.to_string()))?.block_on(ask())
            })
            .map_err(|error| TopicsError::Internal(error.to_string()))?;
        asking.join().map_err(|_| TopicsError::Internal("it panicked".to_owned()))?
    })
}

/// The clients that ask.
struct Cluster<'c> {
    config: &'c Config,
    /// A consumer: it never creates what it asks for.
    looker: BaseConsumer<Listener>,
    admin: AdminClient<DefaultClientContext>,
}

/// What a question about one topic gave.
enum Answer {
    Missing,
    Forbidden,
    There(Found),
}

impl<'c> Cluster<'c> {
    fn connect(config: &'c Config) -> Result<Self, TopicsError> {
        let unreachable = |source| TopicsError::unreachable(config, source);
        // A group id, for asking about the group's offsets; it joins nothing.
        let mut looker = client::looker(config);
        looker.set("group.id", &config.kafka.group_id);
        Ok(Self {
            config,
            looker: looker.create_with_context(Listener).map_err(unreachable)?,
            admin: client::admin(config).create().map_err(unreachable)?,
        })
    }

    fn metadata(&self, topic: Option<&str>) -> Result<Metadata, TopicsError> {
        self.looker
            .fetch_metadata(topic, ANSWER_TIMEOUT)
            .map_err(|source| TopicsError::unreachable(self.config, source))
    }

    async fn inspect(&self) -> Result<Inspection, TopicsError> {
        let topics = &self.config.topics;
        let mut inspection = Inspection::default();
        let brokers = self.metadata(Some(&topics.events))?.brokers().len();
        inspection.notes.push(format!(
            "cluster: {brokers} broker{} answer{}",
            if brokers == 1 { "" } else { "s" },
            if brokers == 1 { "s" } else { "" }
        ));
        if let Some(factor) = topics.replication_factor.filter(|factor| usize::from(*factor) > brokers) {
            inspection.problems.push(format!(
                "topics.replication_factor: {factor} replicas on {brokers} brokers: topics cannot be created; lower it"
            ));
        }
        let input = match self.look(&topics.events, &mut inspection).await? {
            Answer::There(found) => found,
            Answer::Missing => {
                inspection.problems.push(format!(
                    "topics.events: the input topic {} does not exist; create it, or correct its name",
                    topics.events
                ));
                return Ok(inspection);
            }
            Answer::Forbidden => {
                inspection.problems.push(forbidden("events", &topics.events));
                return Ok(inspection);
            }
        };
        inspection.notes.push(format!("topic {}: {}", topics.events, input.summary()));
        judge::input(&topics.events, &input, brokers, &mut inspection);
        let input_size = input.size_limit();
        for topic in &wanted(self.config, input.partitions, input_size) {
            match self.look(topic.name, &mut inspection).await? {
                Answer::There(found) => {
                    inspection.notes.push(format!("topic {}: {}", topic.name, found.summary()));
                    judge::own(topic, &found, input_size, brokers, &mut inspection);
                }
                Answer::Missing if topics.create => {
                    inspection.notes.push(format!("topic {}: missing, will be created", topic.name));
                    inspection.missing.push(topic.name.to_owned());
                }
                Answer::Missing => inspection.problems.push(format!(
                    "topics.{}: {} does not exist, and topics.create is off; create it, or turn that on",
                    topic.key, topic.name
                )),
                Answer::Forbidden => {
                    inspection.problems.push(forbidden(topic.key, topic.name));
                }
            }
        }
        inspection.input_partitions = Some(input.partitions);
        Ok(inspection)
    }

    /// Whether the group may be used, and how far it is behind.
    fn inspect_group(&self, partitions: i32, inspection: &mut Inspection) -> Result<(), TopicsError> {
        let (group, topic) = (&self.config.kafka.group_id, &self.config.topics.events);
        let unreachable = |source| TopicsError::unreachable(self.config, source);
        let mut list = TopicPartitionList::new();
        list.add_partition_range(topic, 0, partitions - 1);
        let committed = match self.looker.committed_offsets(list, ANSWER_TIMEOUT) {
            Ok(committed) => committed,
            Err(error) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::GroupAuthorizationFailed) => {
                inspection
                    .problems
                    .push(format!("kafka.group_id: Kafka refuses access to the group {group}; grant Read on it"));
                return Ok(());
            }
            Err(error) => return Err(unreachable(error)),
        };
        let mut unread = 0;
        for element in committed.elements() {
            let (start, end) =
                client::watermarks(&self.looker, topic, element.partition(), ANSWER_TIMEOUT).map_err(unreachable)?;
            let next = match element.offset() {
                Offset::Offset(offset) => offset,
                Offset::Beginning | Offset::End | Offset::Stored | Offset::Invalid | Offset::OffsetTail(_) => start,
            };
            if next > end {
                inspection.problems.push(format!(
                    "kafka.group_id: {group} has read {topic}/{} up to {next}, and it ends at {end}: the topic was made \
                     anew or cut; use a new group id and a new changelog topic for a new input",
                    element.partition()
                ));
            }
            unread += (end - next).max(0);
        }
        inspection.notes.push(format!("group {group}: {unread} offsets of {topic} to read"));
        Ok(())
    }

    /// One topic, as the cluster tells it.
    async fn look(&self, topic: &str, inspection: &mut Inspection) -> Result<Answer, TopicsError> {
        let metadata = self.metadata(Some(topic))?;
        let found = match there(&metadata, topic) {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(Answer::Missing),
            Err(error) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::TopicAuthorizationFailed) => {
                return Ok(Answer::Forbidden);
            }
            Err(error) => return Err(TopicsError::unreachable(self.config, error)),
        };
        let partitions = found.partitions();
        let (settings, untold) = self.settings(topic).await?;
        inspection.warnings.extend(untold);
        Ok(Answer::There(Found {
            partitions: i32::try_from(partitions.len()).unwrap_or(i32::MAX),
            replicas: partitions.iter().map(|partition| partition.replicas().len()).min().unwrap_or(0),
            leaderless: partitions
                .iter()
                .filter(|partition| partition.leader() < 0)
                .map(MetadataPartition::id)
                .collect(),
            settings,
        }))
    }

    /// A topic's settings; where the cluster does not tell them, perhaps a warning instead.
    async fn settings(&self, topic: &str) -> Result<(Option<Vec<(String, String)>>, Option<String>), TopicsError> {
        if !self.config.topics.describe {
            return Ok((None, None));
        }
        let options = AdminOptions::new().request_timeout(Some(ANSWER_TIMEOUT));
        let answer = self.admin.describe_configs(&[ResourceSpecifier::Topic(topic)], &options).await;
        let resource = match answer.map(|mut resources| resources.pop()) {
            Ok(Some(Ok(resource))) => resource,
            Ok(Some(Err(code))) => {
                let warning = format!("the settings of {topic} are not known ({code}): grant DescribeConfigs on it");
                return Ok((None, Some(warning)));
            }
            Ok(None) | Err(KafkaError::AdminOp(RDKafkaErrorCode::UnsupportedFeature)) => return Ok((None, None)),
            Err(source) => return Err(TopicsError::unreachable(self.config, source)),
        };
        let settings = resource.entries.into_iter().filter_map(|entry| Some((entry.name, entry.value?)));
        Ok((Some(settings.collect()), None))
    }

    async fn input_size(&self) -> Result<Option<u64>, TopicsError> {
        let (settings, _) = self.settings(&self.config.topics.events).await?;
        Ok(Found { settings, ..Found::default() }.size_limit())
    }

    async fn create(&self, missing: &[&Wanted<'_>]) -> Result<(), TopicsError> {
        // -1 asks for the broker's default.
        let replication = self.config.topics.replication_factor.map_or(-1, i32::from);
        let new_topics: Vec<NewTopic<'_>> = missing
            .iter()
            .map(|topic| {
                let new = NewTopic::new(topic.name, topic.partitions, TopicReplication::Fixed(replication));
                topic.settings.iter().fold(new, |new, (name, value)| new.set(name, value))
            })
            .collect();
        let options = AdminOptions::new().request_timeout(Some(ANSWER_TIMEOUT)).operation_timeout(Some(ANSWER_TIMEOUT));
        let results = self
            .admin
            .create_topics(&new_topics, &options)
            .await
            .map_err(|source| TopicsError::unreachable(self.config, source))?;
        let problems: Vec<String> = results
            .into_iter()
            // Another instance may have been a moment faster: then it is there.
            .filter_map(Result::err)
            .filter(|(_, code)| *code != RDKafkaErrorCode::TopicAlreadyExists)
            .map(|(name, code)| format!("{name} could not be created: {code}; create it, or permit it to be created"))
            .collect();
        if problems.is_empty() { Ok(()) } else { Err(TopicsError::Unfit(problems)) }
    }

    /// A topic can be used only once each of its partitions has a leader, which every broker learns a little later.
    async fn await_leaders(&self, topics: &[&Wanted<'_>]) -> Result<(), TopicsError> {
        let deadline = monotonic() + LEADERS_WITHIN;
        for topic in topics {
            loop {
                let metadata = self.metadata(Some(topic.name))?;
                let ready = metadata.topics().iter().any(|found| {
                    found.error().is_none()
                        && !found.partitions().is_empty()
                        && found
                            .partitions()
                            .iter()
                            .all(|partition| partition.error().is_none() && partition.leader() >= 0)
                });
                if ready {
                    break;
                }
                if monotonic() >= deadline {
                    let source = KafkaError::MetadataFetch(RDKafkaErrorCode::LeaderNotAvailable);
                    return Err(TopicsError::unreachable(self.config, source));
                }
                // No broker tells when a leader is there: all there is to do is to ask again.
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        }
        Ok(())
    }
}

fn forbidden(key: &str, name: &str) -> String {
    format!(
        "topics.{key}: Kafka refuses access to the topic {name}; grant Read on the input, and Read, Write and \
         DescribeConfigs on Ebbtide's own topics (docs/operations.md, \"Permissions\")"
    )
}

/// The number of partitions, or `None` where there is no such topic. A consumer asks: it never creates what it asks for.
pub(super) fn partitions(
    looker: &BaseConsumer<Listener>,
    topic: &str,
    timeout: Duration,
) -> Result<Option<i32>, KafkaError> {
    let metadata = looker.fetch_metadata(Some(topic), timeout)?;
    let count = |found: &MetadataTopic| i32::try_from(found.partitions().len()).ok().filter(|count| *count > 0);
    Ok(there(&metadata, topic)?.and_then(count))
}

/// A topic in an answer about it; `None` where it does not exist.
fn there<'m>(metadata: &'m Metadata, topic: &str) -> Result<Option<&'m MetadataTopic>, KafkaError> {
    let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) else { return Ok(None) };
    match found.error() {
        None => Ok(Some(found)),
        // A topic that was made a moment ago has no leader yet, but partitions it has.
        Some(RDKafkaRespErr::RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE) if !found.partitions().is_empty() => {
            Ok(Some(found))
        }
        Some(RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART) => Ok(None),
        Some(error) => Err(KafkaError::MetadataFetch(error.into())),
    }
}

fn wanted(config: &Config, partitions: i32, input_size: Option<u64>) -> [Wanted<'_>; 6] {
    let topics = &config.topics;
    let setting = |name, value: &str| (name, value.to_owned());
    let deletions_kept = DELETIONS_KEPT_MS.to_string();
    let mut dead_letters = vec![setting("retention.ms", DEAD_LETTERS_KEPT)];
    if let Some(size) = input_size {
        dead_letters.push(("max.message.bytes", (size + DEAD_LETTER_ROOM).to_string()));
    }
    [
        Wanted {
            key: "transitions",
            name: &topics.transitions,
            partitions,
            exact_partitions: false,
            settings: vec![setting("cleanup.policy", "delete")],
            cleanup: Cleanup::NoCompaction,
        },
        Wanted {
            key: "states",
            name: &topics.states,
            partitions,
            exact_partitions: false,
            settings: vec![setting("cleanup.policy", "compact"), setting("segment.bytes", "67108864")],
            cleanup: Cleanup::Compact,
        },
        Wanted {
            key: "segments",
            name: &topics.segments,
            partitions,
            exact_partitions: false,
            settings: vec![setting("cleanup.policy", "delete")],
            cleanup: Cleanup::NoCompaction,
        },
        Wanted {
            key: "outcomes",
            name: &topics.outcomes,
            partitions,
            exact_partitions: false,
            settings: vec![setting("cleanup.policy", "delete")],
            cleanup: Cleanup::NoCompaction,
        },
        Wanted {
            key: "dead_letters",
            name: &topics.dead_letters,
            partitions: 1,
            exact_partitions: false,
            settings: dead_letters,
            cleanup: Cleanup::NoCompaction,
        },
        Wanted {
            key: "changelog",
            name: &topics.changelog,
            partitions,
            exact_partitions: true,
            settings: vec![
                setting("cleanup.policy", "compact"),
                // Small segments and no lag: what a restore has to read stays close to the number of users.
                setting("segment.bytes", "67108864"),
                setting("min.compaction.lag.ms", "0"),
                setting("min.cleanable.dirty.ratio", "0.3"),
                setting("delete.retention.ms", &deletions_kept),
            ],
            cleanup: Cleanup::CompactOnly,
        },
    ]
}

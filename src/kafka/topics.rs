//! The topics: what is there, what is missing, what is set wrongly.
//!
//! The input belongs to somebody else and is never created. Missing output topics are created with settings that fit;
//! existing ones are left alone, and what would break a promise is reported, all of it at once.

use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, ConfigResource, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::types::RDKafkaRespErr;

use super::client::{self, Listener};
use crate::config::Config;

/// How long a broker may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
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
    /// Topics that are missing and would be created, or were.
    pub created: Vec<String>,
    /// Settings that work, but that somebody should look at.
    pub warnings: Vec<String>,
}

/// Why the topics cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TopicsError {
    /// The cluster did not answer, or refused.
    #[error("asking {brokers} about topics failed: {source}; check `kafka.brokers`, the network and the permissions")]
    Unreachable {
        /// The configured brokers.
        brokers: String,
        /// What librdkafka said.
        source: KafkaError,
    },
    /// The permissions do not reach.
    #[error(
        "Kafka refuses access to the topic {topic}; grant Read on the input, and Read, Write and DescribeConfigs on \
         Ebbtide's own topics (docs/operations.md, \"Permissions\")"
    )]
    Forbidden {
        /// The first such topic.
        topic: String,
    },
    /// Something about the topics has to be changed by a person.
    #[error("the topics cannot be used:{}", list(.0))]
    Unfit(Vec<String>),
    /// The thread that asks could not be started, or ended early.
    #[error("asking about topics could not be started: {0}")]
    Internal(String),
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

/// Looks at the topics and creates what is missing, if `topics.create` is on.
///
/// # Errors
/// See [`TopicsError`].
pub fn ensure(config: &Config) -> Result<Layout, TopicsError> {
    run(config, config.topics.create)
}

/// Looks at the topics and changes nothing.
///
/// # Errors
/// See [`TopicsError`].
pub fn check(config: &Config) -> Result<Layout, TopicsError> {
    run(config, false)
}

/// On a thread of its own: the admin client is asynchronous, and the caller may itself be inside of a runtime.
fn run(config: &Config, create: bool) -> Result<Layout, TopicsError> {
    std::thread::scope(|scope| {
        let asking = std::thread::Builder::new()
            .name("ebbtide-topics".to_owned())
            .spawn_scoped(scope, || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.map_err(|error| TopicsError::Internal(error.to_string()))?.block_on(look(config, create))
            })
            .map_err(|error| TopicsError::Internal(error.to_string()))?;
        asking.join().map_err(|_| TopicsError::Internal("it panicked".to_owned()))?
    })
}

async fn look(config: &Config, create: bool) -> Result<Layout, TopicsError> {
    let unreachable = |source| TopicsError::Unreachable { brokers: config.kafka.brokers.clone(), source };
    let looker: BaseConsumer<Listener> = client::looker(config).create_with_context(Listener).map_err(unreachable)?;
    let admin: AdminClient<DefaultClientContext> = client::admin(config).create().map_err(unreachable)?;
    let topics = &config.topics;

    let failed = |topic: &str| {
        let topic = topic.to_owned();
        move |source: KafkaError| match source.rdkafka_error_code() {
            Some(RDKafkaErrorCode::TopicAuthorizationFailed) => TopicsError::Forbidden { topic },
            _ => unreachable(source),
        }
    };

    let Some(input_partitions) = partitions(&looker, &topics.events, ANSWER_TIMEOUT).map_err(failed(&topics.events))?
    else {
        return Err(TopicsError::Unfit(vec![format!(
            "topics.events: the input topic {} does not exist; create it, or correct its name",
            topics.events
        )]));
    };
    let mut problems = Vec::new();
    let input_size =
        describe(&admin, config, &topics.events).await.map_err(unreachable)?.and_then(|topic| size_limit(&topic));

    let wanted = wanted(config, input_partitions, input_size);
    let mut layout = Layout { input_partitions, created: Vec::new(), warnings: Vec::new() };
    let mut missing = Vec::new();
    for topic in &wanted {
        match partitions(&looker, topic.name, ANSWER_TIMEOUT).map_err(failed(topic.name))? {
            None => missing.push(topic),
            Some(found) => {
                if topic.exact_partitions && found != topic.partitions {
                    problems.push(format!(
                        "topics.{}: {} has {found} partitions, and the input topic has {}; they must be equal: use a new \
                         changelog topic (and a new group id)",
                        topic.key, topic.name, topic.partitions
                    ));
                }
                if let Some(settings) = describe(&admin, config, topic.name).await.map_err(unreachable)? {
                    judge(topic, &settings, input_size, &mut problems, &mut layout.warnings);
                }
            }
        }
    }
    if !problems.is_empty() {
        return Err(TopicsError::Unfit(problems));
    }
    layout.created = missing.iter().map(|topic| topic.name.to_owned()).collect();
    if create && !missing.is_empty() {
        create_all(&admin, config, &missing).await?;
        await_leaders(&looker, &missing).map_err(unreachable)?;
    } else if !missing.is_empty() && !config.topics.create {
        let problem = |topic: &&Wanted<'_>| {
            format!("topics.{}: {} does not exist, and topics.create is off", topic.key, topic.name)
        };
        return Err(TopicsError::Unfit(missing.iter().map(problem).collect()));
    }
    Ok(layout)
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

/// What an existing topic's settings would break.
fn judge(
    topic: &Wanted<'_>,
    settings: &ConfigResource,
    input_size: Option<u64>,
    problems: &mut Vec<String>,
    warnings: &mut Vec<String>,
) {
    let (key, name) = (topic.key, topic.name);
    let policy = settings.get("cleanup.policy").and_then(|entry| entry.value.as_deref()).unwrap_or("delete");
    let compacts = policy.split(',').any(|part| part.trim() == "compact");
    let deletes = policy.split(',').any(|part| part.trim() == "delete");
    match topic.cleanup {
        Cleanup::CompactOnly if !compacts || deletes => problems.push(format!(
            "topics.{key}: {name} has cleanup.policy={policy}, which deletes the state of quiet users by age; set \
             cleanup.policy=compact"
        )),
        Cleanup::Compact if !compacts => problems.push(format!(
            "topics.{key}: {name} has cleanup.policy={policy}, which forgets the state of quiet users; set \
             cleanup.policy=compact"
        )),
        Cleanup::NoCompaction if compacts => problems.push(format!(
            "topics.{key}: {name} has cleanup.policy={policy}, which removes all but the last record of a user; set \
             cleanup.policy=delete"
        )),
        Cleanup::CompactOnly | Cleanup::Compact | Cleanup::NoCompaction => {}
    }
    if key == "dead_letters"
        && let (Some(input), Some(own)) = (input_size, size_limit(settings))
        && own < input + DEAD_LETTER_ROOM
    {
        warnings.push(format!(
            "topics.{key}: {name} takes records of {own} bytes and the input of {input}; a dead letter has a few headers \
             more than the record it was made from, so set max.message.bytes={}",
            input + DEAD_LETTER_ROOM
        ));
    }
}

fn size_limit(settings: &ConfigResource) -> Option<u64> {
    settings.get("max.message.bytes")?.value.as_deref()?.parse().ok()
}

/// The number of partitions, or `None` where there is no such topic. A consumer asks: it never creates what it asks for.
pub(super) fn partitions(
    looker: &BaseConsumer<Listener>,
    topic: &str,
    timeout: Duration,
) -> Result<Option<i32>, KafkaError> {
    let metadata = looker.fetch_metadata(Some(topic), timeout)?;
    let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) else { return Ok(None) };
    match found.error() {
        None => Ok(i32::try_from(found.partitions().len()).ok().filter(|count| *count > 0)),
        Some(RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART) => Ok(None),
        // A topic that was made a moment ago has no leader yet, but partitions it has.
        Some(RDKafkaRespErr::RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE) if !found.partitions().is_empty() => {
            Ok(i32::try_from(found.partitions().len()).ok())
        }
        Some(error) => Err(KafkaError::MetadataFetch(error.into())),
    }
}

/// A topic's settings; `None` where the cluster does not tell them (no permission, or no such request).
async fn describe(
    admin: &AdminClient<DefaultClientContext>,
    config: &Config,
    topic: &str,
) -> Result<Option<ConfigResource>, KafkaError> {
    if !config.topics.describe {
        return Ok(None);
    }
    let options = AdminOptions::new().request_timeout(Some(ANSWER_TIMEOUT));
    match admin.describe_configs(&[ResourceSpecifier::Topic(topic)], &options).await {
        Ok(mut resources) => Ok(resources.pop().and_then(Result::ok)),
        Err(KafkaError::AdminOp(RDKafkaErrorCode::UnsupportedFeature)) => Ok(None),
        Err(error) => Err(error),
    }
}

async fn create_all(
    admin: &AdminClient<DefaultClientContext>,
    config: &Config,
    missing: &[&Wanted<'_>],
) -> Result<(), TopicsError> {
    // -1 asks for the broker's default.
    let replication = config.topics.replication_factor.map_or(-1, i32::from);
    let new_topics: Vec<NewTopic<'_>> = missing
        .iter()
        .map(|topic| {
            let new = NewTopic::new(topic.name, topic.partitions, TopicReplication::Fixed(replication));
            topic.settings.iter().fold(new, |new, (name, value)| new.set(name, value))
        })
        .collect();
    let options = AdminOptions::new().request_timeout(Some(ANSWER_TIMEOUT)).operation_timeout(Some(ANSWER_TIMEOUT));
    let results = admin
        .create_topics(&new_topics, &options)
        .await
        .map_err(|source| TopicsError::Unreachable { brokers: config.kafka.brokers.clone(), source })?;
    let problems: Vec<String> = results
        .into_iter()
        // Another instance may have been a moment faster: then it is there.
        .filter_map(Result::err)
        .filter(|(_, code)| *code != RDKafkaErrorCode::TopicAlreadyExists)
        .map(|(name, code)| format!("{name} could not be created: {code}; create it, or permit it to be created"))
        .collect();
    if problems.is_empty() { Ok(()) } else { Err(TopicsError::Unfit(problems)) }
}

/// A topic can be used only once each of its partitions has a leader.
fn await_leaders(looker: &BaseConsumer<Listener>, topics: &[&Wanted<'_>]) -> Result<(), KafkaError> {
    const TRIES: usize = 100;
    for topic in topics {
        for attempt in 1..=TRIES {
            let metadata = looker.fetch_metadata(Some(topic.name), ANSWER_TIMEOUT)?;
            let ready = metadata.topics().iter().any(|found| {
                found.error().is_none()
                    && !found.partitions().is_empty()
                    && found.partitions().iter().all(|partition| partition.error().is_none() && partition.leader() >= 0)
            });
            if ready {
                break;
            }
            if attempt == TRIES {
                return Err(KafkaError::MetadataFetch(RDKafkaErrorCode::LeaderNotAvailable));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    Ok(())
}

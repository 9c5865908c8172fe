//! Which instances the group has, where each is reached, and which shards it owns: as the group's coordinator tells it.
//!
//! There is no registry of our own. Each member's `client.id` names its instance and the address of its HTTP API
//! ([`client_id`]); the assignment is in the coordinator's description of the group, in the protocol that every consumer
//! speaks (`ConsumerProtocolAssignment`). What is found is for asking, never for deciding who may process what.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::groups::GroupMemberInfo;
use tracing::debug;

use super::client::{self, Listener};
use crate::clock::monotonic;
use crate::config::Config;
use crate::http::group::{Directory, DirectoryError, Member};

/// How long an answer of the coordinator is taken for true.
const FRESH: Duration = Duration::from_secs(1);
/// How long the coordinator may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Members that are looked at, at most.
const MEMBERS_MAX: usize = 4_096;

/// What a group member's `client.id` begins with.
const PREFIX: &str = "ebbtide-";

/// The `client.id` of a worker's group member: instance, worker, and where the instance is reached.
#[must_use]
pub fn client_id(instance_id: &str, worker: usize, address: Option<&str>) -> String {
    match address {
        Some(address) => format!("{PREFIX}{instance_id}-{worker}@{address}"),
        None => format!("{PREFIX}{instance_id}-{worker}"),
    }
}

/// Instance and address of a `client.id`; `None` for a member that is no worker of ours.
fn read_client_id(text: &str) -> Option<(&str, Option<&str>)> {
    let text = text.strip_prefix(PREFIX)?;
    // Neither an instance's name nor a number has an `@`.
    let (name, address) = text.split_once('@').map_or((text, None), |(name, address)| (name, Some(address)));
    let (instance, worker) = name.rsplit_once('-')?;
    worker.parse::<usize>().ok()?;
    Some((instance, address))
}

/// The partitions of `topic` in a `ConsumerProtocolAssignment`: version, topics with their partitions, user data; all
/// numbers big-endian. `None` if it is none.
fn read_assignment(bytes: &[u8], topic: &str) -> Option<Vec<i32>> {
    fn number<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
        let (number, rest) = bytes.split_first_chunk::<N>()?;
        *bytes = rest;
        Some(*number)
    }
    let mut bytes = bytes;
    if bytes.is_empty() {
        return Some(Vec::new());
    }
    let _version = number::<2>(&mut bytes)?;
    let topics = i32::from_be_bytes(number(&mut bytes)?);
    let mut found = Vec::new();
    for _ in 0..topics {
        let length = usize::try_from(i16::from_be_bytes(number(&mut bytes)?)).ok()?;
        let (name, rest) = bytes.split_at_checked(length)?;
        bytes = rest;
        let count = i32::from_be_bytes(number(&mut bytes)?);
        for _ in 0..count {
            let partition = i32::from_be_bytes(number(&mut bytes)?);
            if name == topic.as_bytes() {
                found.push(partition);
            }
        }
    }
    Some(found)
}

/// A member of the group, as the coordinator describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Described {
    /// As [`client_id`] writes it, if it is a worker of ours.
    pub(super) client_id: String,
    /// What it owns of the input topic.
    pub(super) partitions: Vec<i32>,
}

/// The members of the group that reads `topic`; `None` while the group is not settled.
pub(super) fn describe(
    asker: &BaseConsumer<Listener>,
    group_id: &str,
    topic: &str,
    timeout: Duration,
) -> KafkaResult<Option<Vec<Described>>> {
    let list = asker.fetch_group_list(Some(group_id), timeout)?;
    let Some(group) = list.groups().iter().find(|group| group.name() == group_id) else { return Ok(None) };
    if group.state() != "Stable" {
        debug!(state = group.state(), "the group is not settled");
        return Ok(None);
    }
    let described = |member: &GroupMemberInfo| Described {
        client_id: member.client_id().to_owned(),
        partitions: read_assignment(member.assignment().unwrap_or_default(), topic).unwrap_or_default(),
    };
    Ok(Some(group.members().iter().take(MEMBERS_MAX).map(described).collect()))
}

/// Asks the group's coordinator, at most once in [`FRESH`].
pub struct GroupDirectory {
    inner: Arc<Inner>,
}

struct Inner {
    client: ClientConfig,
    group: String,
    topic: String,
    /// One question at a time; who waits takes the answer of the one before.
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    asker: Option<BaseConsumer<Listener>>,
    members: Vec<Member>,
    at: Option<Instant>,
}

impl GroupDirectory {
    /// Nothing is asked yet.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let inner = Inner {
            client: client::looker(config),
            group: config.kafka.group_id.clone(),
            topic: config.topics.events.clone(),
            known: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }
}

impl GroupDirectory {
    /// The same for a thread that may wait.
    ///
    /// # Errors
    /// The coordinator does not answer.
    pub fn members_now(&self) -> Result<Vec<Member>, DirectoryError> {
        self.inner.members()
    }
}

impl Directory for GroupDirectory {
    fn members(&self) -> Pin<Box<dyn Future<Output = Result<Vec<Member>, DirectoryError>> + Send + '_>> {
        let inner = Arc::clone(&self.inner);
        Box::pin(async move {
            let asked = tokio::task::spawn_blocking(move || inner.members()).await;
            asked.map_err(|_| DirectoryError("the question was broken off".to_owned()))?
        })
    }
}

impl Inner {
    fn members(&self) -> Result<Vec<Member>, DirectoryError> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.at.is_none_or(|at| at.elapsed() >= FRESH) {
            let found = self.ask(&mut known.asker).map_err(|error| DirectoryError(error.to_string()))?;
            known.at = Some(monotonic());
            // While the group shares out anew nobody has an assignment: what was known is the better guess.
            if let Some(found) = found {
                known.members = found;
            }
        }
        Ok(known.members.clone())
    }

    /// `None` while the group is not settled.
    fn ask(&self, asker: &mut Option<BaseConsumer<Listener>>) -> Result<Option<Vec<Member>>, KafkaError> {
        let asker = match asker {
            Some(asker) => asker,
            None => asker.insert(self.client.create_with_context(Listener)?),
        };
        let Some(described) = describe(asker, &self.group, &self.topic, ANSWER_TIMEOUT)? else { return Ok(None) };
        let mut members: BTreeMap<String, Member> = BTreeMap::new();
        for Described { client_id, partitions } in described {
            let Some((instance, address)) = read_client_id(&client_id) else { continue };
            let known = members.entry(instance.to_owned()).or_insert_with(|| Member {
                instance_id: instance.to_owned(),
                address: None,
                partitions: Vec::new(),
            });
            known.partitions.extend(partitions);
            known.address = known.address.take().or_else(|| address.map(str::to_owned));
        }
        Ok(Some(members.into_values().collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_id_says_who_and_where() {
        for (instance, address) in [("one", Some("http://10.0.0.1:8080")), ("web-2.b", None), ("7", Some("http://h"))] {
            assert_eq!(read_client_id(&client_id(instance, 3, address)), Some((instance, address)));
        }
        for stranger in ["rdkafka", "ebbtide-", "ebbtide-one", "ebbtide-one-x", "console-consumer-1"] {
            assert_eq!(read_client_id(stranger), None, "{stranger}");
        }
    }

    #[test]
    fn an_assignment_is_read_and_a_torn_one_is_none() {
        let mut bytes = vec![0, 3, 0, 0, 0, 2, 0, 2, b'e', b'v', 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 1, 0];
        bytes.extend([0, 1, b'x', 0, 0, 0, 1, 0, 0, 0, 9, 0xff, 0xff, 0xff, 0xff]);
        assert_eq!(read_assignment(&bytes, "ev"), Some(vec![1, 256]));
        assert_eq!(read_assignment(&bytes, "x"), Some(vec![9]));
        assert_eq!(read_assignment(&bytes, "other"), Some(vec![]));
        assert_eq!(read_assignment(&[], "ev"), Some(vec![]), "a member without partitions");
        for torn in 1..bytes.len() - 4 {
            assert_eq!(read_assignment(&bytes[..torn], "ev"), None, "{torn}");
        }
        let endless = [0, 0, 0x7f, 0xff, 0xff, 0xff];
        assert_eq!(read_assignment(&endless, "ev"), None);
    }
}

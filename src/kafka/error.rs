//! Why a run ends other than by being asked to.

use std::time::Duration;

use rdkafka::error::KafkaError;

use super::takeover::TakeoverError;
use super::topics::TopicsError;
use crate::shard::ShardError;

/// Why a run ended: each variant asks something else of the person who reads it.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The topics are missing or set wrongly.
    #[error(transparent)]
    Topics(#[from] TopicsError),
    /// The offsets contradict each other.
    #[error(transparent)]
    Takeover(#[from] TakeoverError),
    /// A shard's state cannot be used.
    #[error("shard {partition}: {source}")]
    Shard {
        /// The input partition.
        partition: i32,
        /// What is wrong with it.
        source: ShardError,
    },
    /// A client cannot be made from the configuration.
    #[error("the Kafka client cannot be configured: {0}; correct `kafka.properties`")]
    Client(KafkaError),
    /// Kafka refuses for good.
    #[error("Kafka refuses: {what}; grant what is missing, or correct the setting, and start again")]
    Refused {
        /// What it refused, and its words.
        what: String,
    },
    /// Another process runs under the same name.
    #[error(
        "another process runs as instance `{instance_id}` of group `{group_id}` and has taken over; give each instance its \
         own `instance_id`"
    )]
    Fenced {
        /// The configured name.
        instance_id: String,
        /// The configured group.
        group_id: String,
    },
    /// A worker panicked: a broken invariant. What was not committed will be done again after a restart.
    #[error("worker {worker} panicked: {message}; nothing is lost, start again")]
    Panicked {
        /// Which one.
        worker: usize,
        /// Its last words.
        message: String,
    },
    /// A worker hangs. What was not committed will be done again after a restart.
    #[error("worker {worker} has not come round for {} s; nothing is lost, start again", since.as_secs())]
    Still {
        /// Which one.
        worker: usize,
        /// For how long.
        since: Duration,
    },
    /// The machine gives no more threads.
    #[error("a thread could not be started: {0}")]
    Thread(std::io::Error),
}

/// Why a worker's session ended.
#[derive(Debug)]
pub(super) enum Halt {
    /// Drop everything and join the group anew.
    Rejoin(String),
    /// The same, because somebody else took over under our name.
    Fenced(String),
    /// The whole run ends.
    Stop(RunError),
}

impl From<RunError> for Halt {
    fn from(error: RunError) -> Self {
        Self::Stop(error)
    }
}

impl Halt {
    /// A shard that cannot go on stops the run.
    pub(super) fn shard(partition: i32) -> impl FnOnce(ShardError) -> Self {
        move |source| Self::Stop(RunError::Shard { partition, source })
    }
}

//! The configuration: one TOML file, environment overrides, and one typed value that everybody else trusts.
//!
//! A file goes through two steps. [`file`] is the file as typed: it knows every key, its text form and its default, and
//! nothing else. [`check`] turns it into a [`Config`], and reports *all* problems at once, each with the path of its key.
//! What holds a [`Config`] need not check anything again: spans are positive, thresholds in order, topics distinct.
//!
//! Secrets are never printed: [`Secret`] and [`Properties`] mask themselves in every `Debug`.

pub mod check;
pub mod file;
pub mod problem;
mod reports;
pub mod secret;
mod segments;
pub mod units;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

pub use problem::{ConfigError, Problem};
pub use secret::{Properties, Secret};

use crate::event::EventRules;
use crate::lifecycle::Policy;
use crate::retention::Report;
use crate::segment::{Draft, Segments};
use crate::shard::watermark::TimeRules;
use crate::win_back::WinBackRules;

/// Everything that can be configured, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Names this instance for as long as its disk lives: group instance id and transactional id derive from it, so a
    /// restart under the same name fences its predecessor at once. Default: the host's name.
    pub instance_id: String,
    /// Worker threads, each with its own consumer and producer; 1 to 256. Default: the number of cores.
    pub workers: usize,
    /// How long records gather in one transaction before it is committed; 1 ms to 5 s (the transaction times out at 10 s).
    pub commit_interval: Duration,
    /// How many instances that do not own a shard follow its changelog, so that taking over costs the tail only: 0 or 1.
    pub standbys: u8,
    /// How to reach Kafka.
    pub kafka: KafkaConfig,
    /// Which topics.
    pub topics: TopicsConfig,
    /// How records become events (SPEC section 1). `track` is filled from `[properties]`.
    pub events: EventRules,
    /// From when on silence has a meaning (SPEC section 2).
    pub policy: Policy,
    /// The retention reports (SPEC-WINBACK section 11); `events.reports` holds their lists.
    pub retention: Vec<Report>,
    /// Whether signals are kept (SPEC-WINBACK section 12).
    pub signals: bool,
    /// The live audiences (SPEC-WINBACK section 9). They compile.
    pub segments: Vec<Draft>,
    /// How returns are measured (SPEC-WINBACK section 10).
    pub win_back: WinBackRules,
    /// How time passes (SPEC section 4).
    pub time: TimeRules,
    /// Where state is kept, and how much memory it may take.
    pub state: StateConfig,
    /// The HTTP API.
    pub http: HttpConfig,
    /// The log.
    pub log: LogConfig,
}

/// How to reach Kafka.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KafkaConfig {
    /// `host:port`, several separated by commas.
    pub brokers: String,
    /// The consumer group; also the prefix of the transactional ids.
    pub group_id: String,
    /// Whether a worker keeps its place in the group while it restarts (`group.instance.id`): a rolling restart then moves
    /// no shard. Without it a worker leaves when it stops, and the others take its shards over at once.
    pub static_membership: bool,
    /// Properties for every librdkafka client: SASL, TLS and the like.
    pub properties: Properties,
    /// Properties for consumers only.
    pub consumer: Properties,
    /// Properties for producers only.
    pub producer: Properties,
    /// Which side to believe when the group's offset and the shard's differ (SPEC section 7). Never in the file: it is an
    /// answer to one error, given once with `--accept-offsets`.
    pub accept_offsets: Option<AcceptOffsets>,
}

/// Which offset to resume from when somebody moved the group's (SPEC section 7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcceptOffsets {
    /// The shard's own record: as if nobody had touched the group.
    Shard,
    /// The group's: records in between are skipped or read again, as whoever moved it wanted.
    Group,
}

/// The topics that Ebbtide reads and writes. All names differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicsConfig {
    /// User events: the input.
    pub events: String,
    /// Lifecycle transitions.
    pub transitions: String,
    /// Each user's current state, compacted.
    pub states: String,
    /// Entries into segments and exits.
    pub segments: String,
    /// What campaigns brought.
    pub outcomes: String,
    /// Records that are no events.
    pub dead_letters: String,
    /// The changelog, compacted: the truth that the local disk caches.
    pub changelog: String,
    /// Whether missing output topics are created.
    pub create: bool,
    /// Whether the settings of existing topics are looked at. Never in the file: always, except on the demo's embedded
    /// cluster, which leaves the question without an answer.
    pub describe: bool,
    /// Replicas of created topics; `None` is the broker's default.
    pub replication_factor: Option<u16>,
}

/// Where state is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateConfig {
    /// The RocksDB folder. A cache of the changelog: it may be lost.
    pub dir: PathBuf,
    /// Bytes that block cache and write buffers of all shards share; at least 16 MiB.
    pub memory: u64,
}

/// The HTTP API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpConfig {
    /// Where to listen.
    pub listen: SocketAddr,
    /// The bearer token that `/v1` asks for; `None` is open to whoever reaches the address.
    pub token: Option<Secret>,
    /// The URL under which other instances and people reach this one, plain HTTP; it stands in the group's `client.id`.
    /// `None` derives it from the bound address, unless that is every address of the machine.
    pub advertised: Option<String>,
}

/// The log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// A level, or a filter like `info,ebbtide::kafka=debug`.
    pub level: String,
    /// How lines look.
    pub format: LogFormat,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl Config {
    /// Every default, and these brokers: what a file with the one line `kafka.brokers = ".."` gives.
    #[must_use]
    pub fn with_brokers(brokers: impl Into<String>) -> Self {
        Self {
            instance_id: default_instance_id(),
            workers: default_workers(),
            commit_interval: Duration::from_millis(100),
            standbys: 0,
            kafka: KafkaConfig {
                brokers: brokers.into(),
                group_id: "ebbtide".to_owned(),
                static_membership: true,
                properties: Properties::default(),
                consumer: Properties::default(),
                producer: Properties::default(),
                accept_offsets: None,
            },
            topics: TopicsConfig::default(),
            events: EventRules::default(),
            policy: Policy::default(),
            retention: Vec::new(),
            signals: false,
            segments: Vec::new(),
            win_back: WinBackRules::default(),
            time: TimeRules::default(),
            state: StateConfig::default(),
            http: HttpConfig::default(),
            log: LogConfig::default(),
        }
    }
}

impl Config {
    /// What is allowed, but hardly meant; one line each, with the path of its key.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let Ok(segments) = Segments::new(self.segments.clone(), &self.events.track) else { return Vec::new() };
        let definitions = segments.definitions().iter().enumerate();
        let mut warnings: Vec<String> = definitions
            .flat_map(|(index, definition)| {
                let path = format!("segments[{index}].when ({})", definition.name());
                definition.warnings().iter().map(move |warning| format!("{path}: {warning}"))
            })
            .collect();
        if self.win_back.holdout.is_some() && self.segments.is_empty() {
            warnings.push("win_back.holdout: there are no [[segments]] whose deliveries it could mark".to_owned());
        }
        warnings
    }
}

impl TopicsConfig {
    /// The default settings with all names under one prefix, as `prefix.transitions`.
    #[must_use]
    pub fn under(prefix: &str) -> Self {
        let named = |what: &str| format!("{prefix}.{what}");
        Self {
            events: named("events"),
            transitions: named("transitions"),
            states: named("states"),
            segments: named("segments"),
            outcomes: named("outcomes"),
            dead_letters: named("dead-letters"),
            changelog: named("changelog"),
            ..Self::default()
        }
    }

    /// Every topic's name, the input's first.
    #[must_use]
    pub fn names(&self) -> [&str; 7] {
        let Self {
            events,
            transitions,
            states,
            segments,
            outcomes,
            dead_letters,
            changelog,
            create: _,
            describe: _,
            replication_factor: _,
        } = self;
        [events, transitions, states, segments, outcomes, dead_letters, changelog]
    }
}

impl Default for TopicsConfig {
    fn default() -> Self {
        Self {
            events: "events".to_owned(),
            transitions: "ebbtide.transitions".to_owned(),
            states: "ebbtide.states".to_owned(),
            segments: "ebbtide.segments".to_owned(),
            outcomes: "ebbtide.outcomes".to_owned(),
            dead_letters: "ebbtide.dead-letters".to_owned(),
            changelog: "ebbtide.changelog".to_owned(),
            create: true,
            describe: true,
            replication_factor: None,
        }
    }
}

impl Default for StateConfig {
    fn default() -> Self {
        Self { dir: PathBuf::from("./ebbtide-state"), memory: 256 << 20 }
    }
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self { listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080), token: None, advertised: None }
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::Text }
    }
}

/// The host's name, or `ebbtide` where it has none that can be a name in Kafka.
fn default_instance_id() -> String {
    let name =
        std::fs::read_to_string("/proc/sys/kernel/hostname").or_else(|_| std::fs::read_to_string("/etc/hostname"));
    let name = name.unwrap_or_default().trim().to_owned();
    if check::is_kafka_name(&name) { name } else { "ebbtide".to_owned() }
}

/// The cores that this process may use.
fn default_workers() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(check::WORKERS_MAX)
}

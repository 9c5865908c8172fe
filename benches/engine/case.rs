//! The cases, how large they are, and how a part of one is measured in a process of its own.

use std::process::{Command, Stdio};

use anyhow::{Context as _, bail, ensure};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::support::kafka::Broker;
use crate::{alone, latency, served};

/// What can be measured. Letters are those of issue 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Case {
    /// Decoding the needed fields from memory
    Decode,
    /// A shard on RocksDB, no Kafka, few users
    ShardHot,
    /// The same with 5 segments, and the users in none of them
    #[value(name = "shard-segments-5")]
    ShardSegments5,
    /// The same with 20 segments
    #[value(name = "shard-segments-20")]
    ShardSegments20,
    /// The same with 20 segments, a retention report and signals
    ShardReports,
    /// The same with many users at random, and what they take on disk
    ShardRandom,
    /// The same, many timers due at once
    ShardStorm,
    /// (e) Replay from a file
    Replay,
    /// (a) Reading the topic and decoding, no state
    Floor,
    /// (b) The whole program, exactly once, few users
    Hot,
    /// (c) The same with many users at random; full restore before, restart after SIGKILL afterwards
    Random,
    /// (d) Many timers due at once
    Storm,
    /// From record to committed transition at half load
    Latency,
    /// Reading a topic and nothing else: what other cases compare with
    #[value(hide = true)]
    Raw,
}

/// One figure of one round.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) unit: String,
    pub(crate) value: f64,
}

/// How large the cases are.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Scale {
    pub(crate) quick: bool,
    /// Users known beforehand, where it is about many.
    pub(crate) users: u64,
    /// Users where it is about few.
    pub(crate) hot_users: u64,
    /// Events of one measurement.
    pub(crate) events: u64,
    /// Timers due at once.
    pub(crate) timers: u64,
    /// People whose histories are lived through one by one; the many users are copies of them.
    pub(crate) people: u32,
    /// How long those histories are.
    pub(crate) days: u32,
    /// How long latency is measured.
    pub(crate) latency_seconds: u64,
    /// Partitions of the input.
    pub(crate) partitions: i32,
}

impl Scale {
    pub(crate) fn new(quick: bool, users: Option<u64>, timers: Option<u64>, partitions: i32) -> Self {
        let (default_users, events, default_timers, people, latency_seconds) =
            if quick { (200_000, 400_000, 100_000, 2_000, 5) } else { (5_000_000, 3_000_000, 1_000_000, 20_000, 15) };
        Self {
            quick,
            users: users.unwrap_or(default_users),
            hot_users: 10_000,
            events,
            timers: timers.unwrap_or(default_timers),
            people,
            days: 120,
            latency_seconds,
            partitions,
        }
    }
}

impl Figure {
    pub(crate) fn new(name: &str, unit: &str, value: f64) -> Self {
        Self { name: name.to_owned(), unit: unit.to_owned(), value }
    }
}

impl Case {
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// What the case is, in a few words.
    pub(crate) fn title(self) -> String {
        self.to_possible_value().and_then(|value| value.get_help().map(ToString::to_string)).unwrap_or_default()
    }

    pub(crate) const fn needs_broker(self) -> bool {
        matches!(self, Self::Floor | Self::Hot | Self::Random | Self::Storm | Self::Latency)
    }

    /// Those that can be chosen.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        Self::value_variants().iter().copied().filter(|case| *case != Self::Raw)
    }

    pub(crate) fn measure(self, scale: &Scale, broker: Option<&Broker>, round: u16) -> anyhow::Result<Vec<Figure>> {
        let broker = broker.context("a broker for this case");
        match self {
            Self::Floor => served::floor(scale, broker?, round),
            Self::Hot => served::hot(scale, broker?, round),
            Self::Random => served::random(scale, broker?, round),
            Self::Storm => served::storm(scale, broker?, round),
            Self::Latency => latency::latency(scale, broker?, round),
            _ => self.in_a_process(scale, "", ""),
        }
    }

    /// Measures in this very process what is measured in one of its own.
    pub(crate) fn measure_here(self, scale: &Scale, brokers: &str, topic: &str) -> anyhow::Result<Vec<Figure>> {
        match self {
            Self::Decode => alone::decode(scale),
            Self::ShardHot => alone::hot(scale, 0, false),
            Self::ShardSegments5 => alone::hot(scale, 5, false),
            Self::ShardSegments20 => alone::hot(scale, 20, false),
            Self::ShardReports => alone::hot(scale, 20, true),
            Self::ShardRandom => alone::random(scale),
            Self::ShardStorm => alone::storm(scale),
            Self::Replay => alone::replay(scale),
            Self::Floor => served::read_topic(brokers, topic, true),
            Self::Raw => served::read_topic(brokers, topic, false),
            Self::Hot | Self::Random | Self::Storm | Self::Latency => {
                bail!("{} needs more than one process", self.name())
            }
        }
    }

    /// Measures in a new process and returns what it says.
    pub(crate) fn in_a_process(self, scale: &Scale, brokers: &str, topic: &str) -> anyhow::Result<Vec<Figure>> {
        let name = self.name();
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["--part", &name, "--users", &scale.users.to_string(), "--brokers", brokers, "--topic", topic]);
        command.args(["--timers", &scale.timers.to_string(), "--partitions", &scale.partitions.to_string()]);
        if scale.quick {
            command.arg("--quick");
        }
        let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
        ensure!(output.status.success(), "the process that measures {name} ended with {}", output.status);
        serde_json::from_slice(&output.stdout).context("its figures")
    }
}

//! `ebbtide check`: what is wrong with the configuration and the cluster, and where.

use std::io::{self, Write as _};
use std::time::Duration;

use clap::Args;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};

use super::ConfigArgs;
use crate::config::Config;
use crate::config::check::Purpose;

/// How long the brokers may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Arguments of `ebbtide check`.
#[derive(Args, Debug)]
pub struct CheckArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Check the configuration alone, without a broker
    #[arg(long)]
    offline: bool,
}

/// Runs the command.
///
/// # Errors
/// The configuration is wrong, or the cluster is not as it must be.
pub fn run(args: &CheckArgs) -> anyhow::Result<()> {
    let config = args.config.load(Purpose::Run)?;
    let mut out = io::stdout().lock();
    writeln!(out, "configuration: good")?;
    for warning in config.warnings() {
        writeln!(out, "warning: {warning}")?;
    }
    if args.offline {
        return Ok(());
    }
    let findings = cluster(&config)?;
    for finding in &findings.good {
        writeln!(out, "{finding}")?;
    }
    for finding in &findings.wrong {
        writeln!(out, "WRONG: {finding}")?;
    }
    match findings.wrong.len() {
        0 => Ok(()),
        1 => anyhow::bail!("the cluster has 1 problem"),
        many => anyhow::bail!("the cluster has {many} problems"),
    }
}

#[derive(Default)]
struct Findings {
    good: Vec<String>,
    wrong: Vec<String>,
}

/// Looks at the brokers and the topics' partitions.
fn cluster(config: &Config) -> anyhow::Result<Findings> {
    let mut client = ClientConfig::new();
    for (name, value) in config.kafka.properties.iter().chain(config.kafka.consumer.iter()) {
        client.set(name, value);
    }
    client.set("bootstrap.servers", &config.kafka.brokers).set("group.id", &config.kafka.group_id);
    let consumer: BaseConsumer =
        client.create().map_err(|error| anyhow::anyhow!("librdkafka refuses a property of [kafka]: {error}"))?;
    let metadata = consumer.fetch_metadata(None, ANSWER_WITHIN).map_err(|error| {
        anyhow::anyhow!("no answer from {} within {} s: {error}", config.kafka.brokers, ANSWER_WITHIN.as_secs())
    })?;
    let mut findings = Findings::default();
    findings.good.push(format!("cluster: {} brokers answer", metadata.brokers().len()));
    let partitions = |name: &str| {
        let topic = metadata.topics().iter().find(|topic| topic.name() == name)?;
        Some(topic.partitions().len()).filter(|count| *count > 0)
    };
    let Some(input) = partitions(&config.topics.events) else {
        findings.wrong.push(format!("topics.events: there is no topic `{}`; create it first", config.topics.events));
        return Ok(findings);
    };
    findings.good.push(format!("topic {}: {input} partitions", config.topics.events));
    let topics = &config.topics;
    for (path, name, as_input) in [
        ("topics.changelog", &topics.changelog, true),
        ("topics.transitions", &topics.transitions, false),
        ("topics.states", &topics.states, false),
        ("topics.segments", &topics.segments, false),
        ("topics.outcomes", &topics.outcomes, false),
        ("topics.dead_letters", &topics.dead_letters, false),
    ] {
        match partitions(name) {
            Some(count) if as_input && count != input => findings.wrong.push(format!(
                "{path}: `{name}` has {count} partitions and `{}` has {input}: they must be equal",
                topics.events
            )),
            Some(count) => findings.good.push(format!("topic {name}: {count} partitions")),
            None if topics.create => findings.good.push(format!("topic {name}: missing, will be created")),
            None => findings.wrong.push(format!("{path}: there is no topic `{name}`, and topics.create is false")),
        }
    }
    Ok(findings)
}

//! From the file as typed to the [`Config`] that is meant: every rule about a value, and about values together, once.

use std::net::SocketAddr;
use std::path::Path;

use toml::{Table, Value};

use super::file::{Reader, is_off};
use super::problem::ConfigError;
use super::reports;
use super::segments;
use super::{Config, HttpConfig, LogConfig, LogFormat, Properties, Secret, StateConfig, TopicsConfig, units};
use crate::event::{CustomPointers, Decoder, EventList, EventPattern, EventRules, FilterValue, Preset};
use crate::lifecycle::Policy;
use crate::lifecycle::policy::{Declining, Survival};
use crate::shard::TimeRules;
use crate::time::{DAY_MS, Span};

/// Most worker threads of one process.
pub const WORKERS_MAX: usize = 256;
/// Longest name that Kafka accepts for a topic.
const NAME_MAX: usize = 249;
/// Least memory with which RocksDB works at all.
const MEMORY_MIN: u64 = 16 << 20;
/// Largest `events.max_size`: what a broker could be configured to take at most.
const EVENT_MAX: u64 = 256 << 20;
/// Longest `commit_interval`, in milliseconds: half of the transaction's time-out.
const COMMIT_INTERVAL_MAX_MS: i64 = 5000;
/// librdkafka properties that Ebbtide sets itself, because exactly-once rests on them.
const OWN_PROPERTIES: [&str; 15] = [
    "bootstrap.servers",
    "metadata.broker.list",
    "group.id",
    "group.instance.id",
    "transactional.id",
    "transaction.timeout.ms",
    "isolation.level",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.idempotence",
    "enable.partition.eof",
    "auto.offset.reset",
    "partition.assignment.strategy",
    "partitioner",
    "group.protocol",
];
/// Keys of `[policy]`, by which a file that holds nothing but a policy is recognised.
const POLICY_KEYS: [&str; 5] = ["lapsed_after", "churned_after", "forget_after", "at_risk", "survival"];

/// What a configuration is read for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A run against Kafka: brokers are needed.
    Run,
    /// The rules alone (replay): brokers may be missing, and a bare policy is enough.
    Rules,
}

impl Config {
    /// Reads a file, with the environment laid over it.
    ///
    /// # Errors
    /// [`ConfigError`]: unreadable, no TOML, or everything that is wrong with it.
    pub fn load(
        path: &Path,
        purpose: Purpose,
        env: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(&text, &path.display().to_string(), purpose, env)
    }

    /// As [`Config::load`], from text; `origin` names it in errors.
    ///
    /// # Errors
    /// As [`Config::load`], less the reading.
    pub fn parse(
        text: &str,
        origin: &str,
        purpose: Purpose,
        env: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let mut root: Table = text
            .parse()
            .map_err(|error| ConfigError::Syntax { origin: origin.to_owned(), message: syntax(text, &error) })?;
        if purpose == Purpose::Rules
            && !root.contains_key("policy")
            && POLICY_KEYS.iter().any(|key| root.contains_key(*key))
        {
            root = Table::from_iter([("policy".to_owned(), Value::Table(root))]);
        }
        let mut reader = Reader::new(root, env);
        let config = read(&mut reader, purpose);
        // What only shows in combination is the decoder's to say; what it says of a default that stands in for a
        // broken value would be noise.
        if let Err(problems) = Decoder::new(config.events.clone()) {
            for problem in problems {
                if !reader.has_problem(&problem.path) {
                    reader.problem(&problem.path, problem.message);
                }
            }
        }
        match reader.finish() {
            problems if problems.is_empty() => Ok(config),
            problems => Err(ConfigError::Problems { origin: origin.to_owned(), problems }),
        }
    }
}

/// The parser's message with the line number, but without the line: a line can hold a secret.
fn syntax(text: &str, error: &toml::de::Error) -> String {
    let Some(span) = error.span() else { return error.message().to_owned() };
    let before = text.get(..span.start).unwrap_or(text);
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    format!("line {}, column {column}: {}", before.matches('\n').count() + 1, error.message())
}

fn read(reader: &mut Reader, purpose: Purpose) -> Config {
    let mut config = Config::with_brokers("");
    if let Some(name) = reader.text("instance_id") {
        name_into(reader, "instance_id", name, &mut config.instance_id);
    }
    if let Some(standbys) = reader.integer("standbys", 0, 1) {
        config.standbys = u8::from(standbys == 1);
    }
    if let Some(workers) = reader.integer("workers", 1, i64::try_from(WORKERS_MAX).unwrap_or(i64::MAX)) {
        config.workers = usize::try_from(workers).unwrap_or(1);
    }
    let interval = reader.span("commit_interval", units::as_span(config.commit_interval));
    if (1..=COMMIT_INTERVAL_MAX_MS).contains(&interval.as_millis()) {
        config.commit_interval = units::as_duration(interval);
    } else {
        reader.problem("commit_interval", "must be 1ms to 5s: a transaction times out at 10s");
    }
    read_kafka(reader, purpose, &mut config);
    read_topics(reader, &mut config.topics);
    read_events(reader, &mut config.events);
    config.policy = read_policy(reader);
    config.retention = reports::read_retention(reader);
    config.events.reports = reports::lists(&config.retention);
    config.signals = reports::read_signals(reader);
    config.segments = segments::read_segments(reader, &config.events.track);
    config.win_back = segments::read_win_back(reader);
    config.time = read_time(reader);
    read_state(reader, &mut config.state);
    read_http(reader, &mut config.http);
    read_log(reader, &mut config.log);
    config
}

fn read_kafka(reader: &mut Reader, purpose: Purpose, config: &mut Config) {
    match reader.text("kafka.brokers") {
        Some(brokers) => {
            if let Some(wrong) = wrong_broker(&brokers) {
                reader.problem("kafka.brokers", wrong);
            }
            config.kafka.brokers = brokers;
        }
        None if purpose == Purpose::Run && !reader.has_problem("kafka.brokers") => {
            reader.problem("kafka.brokers", "is needed: brokers = \"host:9092\" under [kafka]");
        }
        None => {}
    }
    if let Some(group) = reader.text("kafka.group_id") {
        name_into(reader, "kafka.group_id", group, &mut config.kafka.group_id);
    }
    config.kafka.static_membership = reader.boolean("kafka.static_membership", config.kafka.static_membership);
    for (path, properties) in [
        ("kafka.properties", &mut config.kafka.properties),
        ("kafka.consumer", &mut config.kafka.consumer),
        ("kafka.producer", &mut config.kafka.producer),
    ] {
        let texts = reader.free_texts(path);
        for name in texts.keys() {
            if OWN_PROPERTIES.contains(&name.as_str()) {
                reader.problem(&format!("{path}.{name}"), "is set by Ebbtide itself, because exactly-once rests on it");
            }
        }
        *properties = Properties::new(texts);
    }
}

fn wrong_broker(brokers: &str) -> Option<String> {
    let list: Vec<&str> = brokers.split(',').map(str::trim).collect();
    if let Some(bad) = list.iter().find(|broker| broker.is_empty() || broker.contains(char::is_whitespace)) {
        return Some(format!("`{bad}` is no broker; write host:port, several separated by commas"));
    }
    let port = |broker: &str| broker.rsplit_once(':').map(|(_, port)| port.parse::<u16>().is_ok_and(|port| port > 0));
    list.iter()
        .find(|broker| port(broker.rsplit("://").next().unwrap_or(broker)) == Some(false))
        .map(|bad| format!("`{bad}` has no valid port; write host:port, several separated by commas"))
}

fn read_topics(reader: &mut Reader, topics: &mut TopicsConfig) {
    let mut seen: Vec<(String, &str)> = Vec::new();
    for (path, topic) in [
        ("topics.events", &mut topics.events),
        ("topics.transitions", &mut topics.transitions),
        ("topics.states", &mut topics.states),
        ("topics.segments", &mut topics.segments),
        ("topics.outcomes", &mut topics.outcomes),
        ("topics.dead_letters", &mut topics.dead_letters),
        ("topics.changelog", &mut topics.changelog),
    ] {
        if let Some(name) = reader.text(path) {
            name_into(reader, path, name, topic);
        }
        if let Some((_, other)) = seen.iter().find(|(name, _)| name == topic) {
            reader.problem(path, format_args!("`{topic}` is the topic of {other} already; each needs its own"));
        }
        seen.push((topic.clone(), path));
    }
    topics.create = reader.boolean("topics.create", topics.create);
    topics.replication_factor = reader.integer("topics.replication_factor", 1, 32).and_then(|n| u16::try_from(n).ok());
}

fn read_events(reader: &mut Reader, events: &mut EventRules) {
    let mut presets: Vec<(&str, Preset)> = Preset::ALL.into_iter().map(|preset| (preset.as_str(), preset)).collect();
    presets.push(("rudderstack", Preset::Segment));
    events.preset = reader.choice("events.preset", &presets, events.preset);
    if let Some(list) = event_list(reader, "events.activity") {
        events.activity = list;
    }
    if let Some(list) = event_list(reader, "events.ignore") {
        events.ignore = list;
    }
    events.activation = role(reader, "events.activation");
    events.core = role(reader, "events.core");
    events.win_back = role(reader, "events.win_back");
    events.campaign = reader.text("events.campaign_property");
    if let Some(users) = reader.texts("events.reject_users") {
        events.reject_users = users;
    }
    events.max_future = reader.span("events.max_future", events.max_future);
    let size = reader.size("events.max_size", u64::try_from(events.max_size).unwrap_or(u64::MAX));
    if (1..=EVENT_MAX).contains(&size) {
        events.max_size = usize::try_from(size).unwrap_or(usize::MAX);
    } else {
        reader.problem("events.max_size", "must be 1B to 256MiB");
    }
    let pointers =
        ["user_id", "name", "time", "id", "properties"].map(|field| reader.text(&format!("events.custom.{field}")));
    if reader.has("events.custom") {
        let [user_id, name, time, id, properties] = pointers;
        for (field, pointer) in [("user_id", &user_id), ("name", &name), ("time", &time)] {
            let path = format!("events.custom.{field}");
            if pointer.is_none() && !reader.has_problem(&path) {
                reader.problem(&path, "is needed: a JSON pointer such as \"/user/id\"");
            }
        }
        let needed = |pointer: Option<String>| pointer.unwrap_or_default();
        events.custom =
            Some(CustomPointers { user_id: needed(user_id), name: needed(name), time: needed(time), id, properties });
    }
    if let Some(track) = reader.texts("properties.track") {
        events.track = track;
    }
}

/// A role that may be left out; an empty list would be a role that no event has, which nobody means.
fn role(reader: &mut Reader, path: &str) -> Option<EventList> {
    let list = event_list(reader, path)?;
    if list.patterns().is_empty() && !reader.has_problem(path) {
        reader.problem(path, "is empty, so no event would have this role; leave it out for the default");
    }
    Some(list)
}

pub(super) fn event_list(reader: &mut Reader, path: &str) -> Option<EventList> {
    let items = reader.list(path)?;
    let patterns = items.into_iter().enumerate();
    Some(EventList::new(
        patterns.filter_map(|(index, item)| pattern(reader, &format!("{path}[{index}]"), item)).collect(),
    ))
}

pub(super) fn pattern(reader: &mut Reader, path: &str, item: Value) -> Option<EventPattern> {
    let (name, filters) = match item {
        Value::String(name) => (name, Vec::new()),
        Value::Table(mut table) => {
            let filters = match table.remove("where") {
                None => Vec::new(),
                Some(Value::Table(filters)) => filters.into_iter().collect(),
                Some(_) => {
                    reader.problem(path, "`where` must be a table like { plan = \"pro\" }");
                    return None;
                }
            };
            let Some(Value::String(name)) = table.remove("event") else {
                reader.problem(path, "needs the event's name: { event = \"Name\", where = { plan = \"pro\" } }");
                return None;
            };
            for key in table.keys() {
                reader.problem(path, format_args!("no such key `{key}`; there are `event` and `where`"));
            }
            (name, filters)
        }
        _ => {
            reader.problem(path, "must be an event's name, or { event = \"Name\", where = { plan = \"pro\" } }");
            return None;
        }
    };
    let mut equal = Vec::with_capacity(filters.len());
    for (property, value) in filters {
        let value = match value {
            Value::String(text) => FilterValue::Text(text),
            Value::Integer(number) => FilterValue::Integer(number),
            Value::Float(number) => FilterValue::Float(number),
            Value::Boolean(truth) => FilterValue::Boolean(truth),
            Value::Datetime(_) | Value::Array(_) | Value::Table(_) => {
                reader.problem(path, format_args!("`{property}` can equal text, a number, true or false only"));
                return None;
            }
        };
        equal.push((property, value));
    }
    EventPattern::new(&name, equal).map_err(|wrong| reader.problem(path, wrong)).ok()
}

fn read_policy(reader: &mut Reader) -> Policy {
    let default = Policy::default();
    let policy = Policy {
        inactive_after: reader.span_or_off("policy.at_risk.inactive_after", default.inactive_after),
        declining: read_declining(reader),
        survival: read_survival(reader),
        lapsed_after: reader.positive_span("policy.lapsed_after", default.lapsed_after),
        churned_after: reader.positive_span("policy.churned_after", default.churned_after),
        forget_after: reader.span_or_off("policy.forget_after", default.forget_after),
    };
    let show = units::show_span;
    if let Some(inactive) = policy.inactive_after.filter(|inactive| *inactive > policy.lapsed_after) {
        let (inactive, lapsed) = (show(inactive), show(policy.lapsed_after));
        let message = format!("{inactive} must not be longer than lapsed_after ({lapsed}); \"off\" turns it off");
        reader.problem("policy.at_risk.inactive_after", message);
    }
    if policy.lapsed_after > policy.churned_after {
        let (lapsed, churned) = (show(policy.lapsed_after), show(policy.churned_after));
        reader
            .problem("policy.lapsed_after", format_args!("{lapsed} must not be longer than churned_after ({churned})"));
    }
    if let Some(forget) = policy.forget_after.filter(|forget| *forget <= policy.churned_after) {
        let (forget, churned) = (show(forget), show(policy.churned_after));
        reader.problem("policy.forget_after", format_args!("{forget} must be longer than churned_after ({churned})"));
    }
    policy
}

fn read_declining(reader: &mut Reader) -> Option<Declining> {
    let default = Declining::default();
    let on = reader.boolean("policy.at_risk.declining", true);
    let window = reader.span("policy.at_risk.window", Span::from_days(i64::from(default.window_days)));
    let days = window.as_millis() / DAY_MS;
    let mut window_days = default.window_days;
    if window.as_millis() % DAY_MS == 0 && (1..=60).contains(&days) {
        window_days = u16::try_from(days).unwrap_or(window_days);
    } else {
        reader.problem("policy.at_risk.window", "must be whole days, 1d to 60d: activity is counted by UTC day");
    }
    let mut ratio = |path, default| reader.number(path, "0.0 to 1.0", |n| (0.0..=1.0).contains(&n)).unwrap_or(default);
    let decline_ratio = ratio("policy.at_risk.decline_ratio", default.decline_ratio);
    let recover_ratio = ratio("policy.at_risk.recover_ratio", default.recover_ratio);
    let min_baseline = reader.integer("policy.at_risk.min_baseline", 0, i64::from(u32::MAX));
    let min_baseline = min_baseline.and_then(|n| u32::try_from(n).ok()).unwrap_or(default.min_baseline);
    on.then_some(Declining { window_days, decline_ratio, recover_ratio, min_baseline })
}

fn read_survival(reader: &mut Reader) -> Option<Survival> {
    const PATH: &str = "policy.survival";
    let table = match reader.value(PATH)? {
        // A section without keys is what is left of an example: nothing is meant by it.
        Value::Table(table) if table.is_empty() => return None,
        Value::Table(table) => table,
        other if is_off(&other) => return None,
        _ => {
            reader.problem(PATH, "must be a table { r = .., alpha = .., a = .., b = .. }, or \"off\"");
            return None;
        }
    };
    for key in table.keys() {
        if !["r", "alpha", "a", "b", "threshold", "min_repeat"].contains(&key.as_str()) {
            reader.problem(&format!("{PATH}.{key}"), "no such key; there are r, alpha, a, b, threshold and min_repeat");
        }
    }
    let mut parameter = |name: &str| {
        let path = format!("{PATH}.{name}");
        let number = reader.number(&path, "a number above 0", |n| n.is_finite() && n > 0.0);
        if number.is_none() && !reader.has_problem(&path) {
            reader.problem(&path, "is needed, with r, alpha, a and b of a fitted BG/NBD model (time unit one day)");
        }
        number
    };
    let [r, alpha, a, b] = ["r", "alpha", "a", "b"].map(&mut parameter);
    let threshold = match reader.value("policy.survival.threshold") {
        Some(value) if is_off(&value) => None,
        _ => reader.number("policy.survival.threshold", "above 0 and below 1, or \"off\"", |n| n > 0.0 && n < 1.0),
    };
    let min_repeat = reader.integer("policy.survival.min_repeat", 0, i64::from(u32::MAX));
    let min_repeat = min_repeat.and_then(|n| u32::try_from(n).ok()).unwrap_or(2);
    Some(Survival { r: r?, alpha: alpha?, a: a?, b: b?, threshold, min_repeat })
}

fn read_time(reader: &mut Reader) -> TimeRules {
    let default = TimeRules::default();
    TimeRules {
        lateness: reader.span("time.lateness", default.lateness),
        idle_after: reader.span("time.idle_after", default.idle_after),
        silence_guard: reader.span_or_off("time.silence_guard", default.silence_guard),
    }
}

fn read_state(reader: &mut Reader, state: &mut StateConfig) {
    if let Some(dir) = reader.text("state.dir") {
        if dir.is_empty() {
            reader.problem("state.dir", "must name a folder");
        }
        state.dir = dir.into();
    }
    state.memory = reader.size("state.memory", state.memory);
    if state.memory < MEMORY_MIN {
        reader.problem("state.memory", "must be at least 16MiB");
    }
}

fn read_http(reader: &mut Reader, http: &mut HttpConfig) {
    if let Some(listen) = reader.text("http.listen") {
        match listen.parse::<SocketAddr>() {
            Ok(address) => http.listen = address,
            Err(_) => reader.problem(
                "http.listen",
                format_args!("`{listen}` is no address and port like 127.0.0.1:8080, 0.0.0.0:8080 or [::1]:8080"),
            ),
        }
    }
    http.token = reader.text("http.token").map(Secret::new);
    if http.token.as_ref().is_some_and(|token| token.expose().trim().is_empty()) {
        reader.problem("http.token", "must not be empty: leave it out for an open API");
    }
    http.advertised = reader.text("http.advertised");
    if let Some(url) =
        http.advertised.as_deref().filter(|url| !url.starts_with("http://") && !url.starts_with("https://"))
    {
        reader.problem("http.advertised", format_args!("`{url}` is no URL like http://host:8080"));
    }
}

fn read_log(reader: &mut Reader, log: &mut LogConfig) {
    if let Some(level) = reader.text("log.level") {
        match level.parse::<tracing_subscriber::EnvFilter>() {
            Ok(_) if is_filter(&level) => log.level = level,
            _ => reader.problem(
                "log.level",
                format_args!(
                    "`{level}` is none of error, warn, info, debug, trace, and no filter like info,ebbtide::kafka=debug"
                ),
            ),
        }
    }
    log.format = reader.choice("log.format", &[("text", LogFormat::Text), ("json", LogFormat::Json)], log.format);
}

/// The filter's own parser takes any word for a target; a word alone is meant as a level.
fn is_filter(text: &str) -> bool {
    const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];
    text.split(',').all(|part| part.contains('=') || LEVELS.contains(&part.trim().to_ascii_lowercase().as_str()))
}

fn name_into(reader: &mut Reader, path: &str, name: String, place: &mut String) {
    if is_kafka_name(&name) {
        *place = name;
    } else {
        reader.problem(path, format_args!("`{name}` must be 1 to 249 letters, digits, `.`, `_` or `-`"));
    }
}

/// Whether Kafka accepts this as the name of a topic.
#[must_use]
pub fn is_kafka_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=NAME_MAX).contains(&name.len()) && name != "." && name != ".." && name.bytes().all(fits)
}

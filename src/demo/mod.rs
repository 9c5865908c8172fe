//! The demo: a generated crowd at a fast clock, and the real worker behind it.
//!
//! Generated are the people and the time; embedded, unless brokers are given, is Kafka ([`cluster`]). Everything else is
//! what `ebbtide run` runs: worker, commit protocol, rules, RocksDB, metrics, HTTP.

pub mod cluster;
pub mod sender;

use std::path::Path;
use std::time::Duration;

use crate::clock::ScaledClock;
use crate::config::check::Purpose;
use crate::config::{Config, ConfigError, KafkaConfig, TopicsConfig};
use crate::shard::watermark::TimeRules;
use crate::time::{DAY_MS, Span, WallTime};

/// What the demo runs with, where it differs from the defaults.
const CONFIGURATION: &str = include_str!("demo.toml");
/// Partitions of the events topic.
pub const PARTITIONS: i32 = 4;
/// Real time that a record takes to the worker at the very most, on a loaded machine.
const UNDER_WAY: Duration = Duration::from_secs(2);

/// How fast a demo's days pass: a whole number of times as fast as real time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Speed {
    factor: u32,
}

impl Speed {
    /// A day passes in `day`, which is between 10 ms and a whole day.
    #[must_use]
    pub fn of_day(day: Duration) -> Self {
        let day_ms = day.as_millis().clamp(10, 86_400_000);
        Self { factor: u32::try_from(86_400_000 / day_ms).unwrap_or(1) }
    }

    /// How many times as fast as real time.
    #[must_use]
    pub const fn factor(self) -> u32 {
        self.factor
    }

    /// A clock that shows the beginning of `today` now.
    #[must_use]
    pub fn clock(self, today: WallTime) -> ScaledClock {
        let midnight = today.as_millis().div_euclid(DAY_MS) * DAY_MS;
        ScaledClock::starting_at(WallTime::from_millis(midnight), self.factor)
    }

    /// What passes on that clock in so much real time.
    #[must_use]
    pub fn scaled(self, real: Duration) -> Span {
        Span::from_millis(i64::try_from(real.as_millis() * u128::from(self.factor)).unwrap_or(i64::MAX))
    }

    /// SPEC section 4 at this speed: a record's way from the producer, which takes the same real time as ever, must not
    /// look like silence.
    fn time_rules(self) -> TimeRules {
        TimeRules {
            idle_after: self.scaled(UNDER_WAY),
            silence_guard: Some(self.scaled(UNDER_WAY * 10)),
            ..TimeRules::default()
        }
    }
}

/// The configuration of a demo. `kafka` says how to reach the brokers; its group becomes the topics' prefix.
///
/// # Errors
/// The demo's own file is wrong: a mistake in this program.
pub fn configuration(speed: Speed, kafka: KafkaConfig, state: &Path) -> Result<Config, ConfigError> {
    let mut config = Config::parse(CONFIGURATION, "the demo's configuration", Purpose::Rules, [])?;
    config.topics = TopicsConfig::under(&kafka.group_id);
    config.kafka = kafka;
    config.time = speed.time_rules();
    state.clone_into(&mut config.state.dir);
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demos_own_configuration_is_good() {
        let speed = Speed::of_day(Duration::from_millis(500));
        assert_eq!(speed.factor(), 172_800);
        let kafka = KafkaConfig { group_id: "ebbtide-demo".to_owned(), ..Config::with_brokers("localhost:1").kafka };
        let config = configuration(speed, kafka, Path::new("/nowhere")).expect("it is good");
        assert!(config.topics.names().iter().all(|name| name.starts_with("ebbtide-demo.")), "{:?}", config.topics);
        assert_eq!(config.policy.churned_after, Span::from_days(30));
        assert_eq!(config.time.idle_after, Span::from_days(4));
    }

    #[test]
    fn the_clock_begins_with_a_day() {
        use crate::clock::Clock as _;
        let today = WallTime::from_millis(20_000 * DAY_MS + 12_345);
        let now = Speed::of_day(Duration::from_hours(24)).clock(today).now();
        let since_midnight = now.as_millis() - 20_000 * DAY_MS;
        assert!((0..60_000).contains(&since_midnight), "{since_midnight} ms after midnight");
    }
}

//! What the demo shows while it runs: a table on a terminal, a line elsewhere.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::cli::table;
use crate::clock::monotonic;
use crate::kafka::Onlooker;
use crate::lifecycle::State;
use crate::metrics::Flow;
use crate::shard::Cohorts;
use crate::time::WallTime;

/// How long an example stays before the next one may take its place: long enough to read it.
const EXAMPLE_STAYS: Duration = Duration::from_secs(2);

/// How things stand at one moment.
pub(super) struct Reading {
    /// The demo's time.
    pub(super) now: WallTime,
    /// Events sent so far.
    pub(super) sent: u64,
    pub(super) cohorts: Cohorts,
    /// Transitions so far.
    pub(super) flows: BTreeMap<Flow, u64>,
    pub(super) address: SocketAddr,
    /// Whether the worker has got its shards.
    pub(super) joined: bool,
}

/// What one kind of transition is called here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Turn {
    Entered,
    AtRisk,
    Recovered,
    Lapsed,
    Churned,
    Reactivated,
    Forgotten,
}

impl Turn {
    const ALL: [Self; 7] =
        [Self::Entered, Self::AtRisk, Self::Recovered, Self::Lapsed, Self::Churned, Self::Reactivated, Self::Forgotten];

    fn of(flow: Flow) -> Self {
        match flow {
            (None, Some(_)) => Self::Entered,
            (Some(State::Lapsed | State::Churned), Some(State::Active)) => Self::Reactivated,
            (_, Some(State::Active)) => Self::Recovered,
            (_, Some(State::AtRisk)) => Self::AtRisk,
            (_, Some(State::Lapsed)) => Self::Lapsed,
            (_, Some(State::Churned)) => Self::Churned,
            (_, None) => Self::Forgotten,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Entered => "entered",
            Self::AtRisk => "at risk",
            Self::Recovered => "recovered",
            Self::Lapsed => "lapsed",
            Self::Churned => "churned",
            Self::Reactivated => "reactivated",
            Self::Forgotten => "forgotten",
        }
    }
}

/// The part of a transition record that an example shows.
#[derive(Deserialize)]
struct Record {
    user_id: String,
    from: Option<String>,
    to: Option<String>,
    reason: String,
    idle_days: Option<f64>,
    away_days: Option<f64>,
    total_events: u64,
}

/// Draws readings.
pub(super) struct Panel {
    transitions: Onlooker,
    origin: WallTime,
    examples: BTreeMap<Turn, (Instant, String)>,
    /// Events and moment of the last rate.
    rated: (u64, Instant),
    rate: u64,
}

impl Panel {
    pub(super) fn new(transitions: Onlooker, origin: WallTime) -> Self {
        Self { transitions, origin, examples: BTreeMap::new(), rated: (0, monotonic()), rate: 0 }
    }

    /// Lines of a table, without a line feed at the end.
    pub(super) fn table(&mut self, reading: &Reading) -> String {
        self.take_examples();
        self.measure(reading.sent);
        let mut text = String::with_capacity(2_048);
        let joining = if reading.joined { "" } else { " (joining the group)" };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}, day {} of the demo{joining}\n", date(reading.now), self.day(reading));
        text.push_str(&table::cohorts(&reading.cohorts));
        let _ = writeln!(text, "\n{} events, {} a second\n", table::grouped(reading.sent), table::grouped(self.rate));
        let turns = turns(&reading.flows);
        for turn in Turn::ALL {
            let count = turns.get(&turn).copied().unwrap_or(0);
            let example = self.examples.get(&turn).map_or("", |(_, example)| example.as_str());
            let _ = writeln!(text, "{:<12}{:>10}   {example}", turn.name(), table::grouped(count));
        }
        let _ = write!(text, "\nconsole: http://{}/   end: Ctrl-C", reading.address);
        text
    }

    /// One line.
    pub(super) fn line(&mut self, reading: &Reading) -> String {
        self.measure(reading.sent);
        let mut text = format!("day {} ({}):", self.day(reading), date(reading.now));
        for (place, state) in State::ALL.into_iter().enumerate() {
            let size = reading.cohorts.size(state, true) + reading.cohorts.size(state, false);
            let comma = if place == 0 { "" } else { "," };
            let _ = write!(text, "{comma} {} {}", size, state.as_str().replace('_', " "));
        }
        text.push_str("; so far");
        let turns = turns(&reading.flows);
        for (place, turn) in Turn::ALL.into_iter().enumerate() {
            let comma = if place == 0 { "" } else { "," };
            let _ = write!(text, "{comma} {} {}", turns.get(&turn).copied().unwrap_or(0), turn.name());
        }
        let _ = write!(text, "; {} events, {} a second", reading.sent, self.rate);
        text
    }

    fn day(&self, reading: &Reading) -> i32 {
        reading.now.as_event_time().day().number() - self.origin.as_event_time().day().number()
    }

    fn measure(&mut self, sent: u64) {
        let (before, at) = self.rated;
        let passed = at.elapsed().as_millis();
        if passed >= 1_000 {
            self.rate = u64::try_from(u128::from(sent - before) * 1_000 / passed).unwrap_or(0);
            self.rated = (sent, monotonic());
        }
    }

    /// Keeps one example of each kind. Those that come too fast to be read are let go.
    fn take_examples(&mut self) {
        let now = monotonic();
        for seen in self.transitions.take().transitions {
            let Ok(record) = serde_json::from_slice::<Record>(&seen.json) else { continue };
            let turn = Turn::of((state(record.from.as_deref()), state(record.to.as_deref())));
            let stays = |shown: &(Instant, String)| now.duration_since(shown.0) < EXAMPLE_STAYS;
            if !self.examples.get(&turn).is_some_and(stays) {
                self.examples.insert(turn, (now, example(&record)));
            }
        }
    }
}

fn turns(flows: &BTreeMap<Flow, u64>) -> BTreeMap<Turn, u64> {
    let mut turns = BTreeMap::new();
    for (flow, count) in flows {
        *turns.entry(Turn::of(*flow)).or_insert(0) += count;
    }
    turns
}

fn state(name: Option<&str>) -> Option<State> {
    State::ALL.into_iter().find(|state| Some(state.as_str()) == name)
}

fn example(record: &Record) -> String {
    let from = record.from.as_deref().unwrap_or("new");
    let to = record.to.as_deref().unwrap_or("gone");
    let why = record.reason.replace('_', " ");
    let since = match (record.away_days, record.idle_days) {
        (Some(days), _) => format!(", away {days:.1} days"),
        (None, Some(days)) if days > 0.0 => format!(", idle {days:.1} days"),
        _ => String::new(),
    };
    format!("{}  {from} → {to}: {why}{since}, {} events", record.user_id, record.total_events)
}

fn date(now: WallTime) -> String {
    now.as_event_time().to_string().chars().take(10).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::TransitionFeed;
    use crate::shard::{Headers, Output, Topic};

    fn reading(flows: &[(Flow, u64)]) -> Reading {
        Reading {
            now: WallTime::from_millis(20_014 * crate::time::DAY_MS + 5),
            sent: 12_345,
            cohorts: Cohorts::default(),
            flows: flows.iter().copied().collect(),
            address: SocketAddr::from(([127, 0, 0, 1], 8080)),
            joined: true,
        }
    }

    #[test]
    fn the_line_tells_day_sizes_and_every_kind_of_turn() {
        let origin = WallTime::from_millis(20_000 * crate::time::DAY_MS);
        let mut panel = Panel::new(TransitionFeed::new().watch(), origin);
        let flows = [
            ((None, Some(State::Active)), 5),
            ((Some(State::Active), Some(State::AtRisk)), 4),
            ((Some(State::Lapsed), Some(State::Active)), 2),
            ((Some(State::Churned), Some(State::Active)), 1),
            ((Some(State::Churned), None), 7),
        ];
        let line = panel.line(&reading(&flows));
        assert_eq!(
            line,
            "day 14 (2024-10-18): 0 active, 0 at risk, 0 lapsed, 0 churned; so far 5 entered, 4 at risk, 0 recovered, \
             0 lapsed, 0 churned, 3 reactivated, 7 forgotten; 12345 events, 0 a second"
        );
    }

    #[test]
    fn the_table_has_the_same_height_with_and_without_examples() {
        let feed = TransitionFeed::new();
        let mut panel = Panel::new(feed.watch(), WallTime::from_millis(0));
        let before = panel.table(&reading(&[]));
        let json = br#"{"user_id":"u-1","from":"lapsed","to":"active","reason":"activity","idle_days":0,"away_days":12.25,"total_events":9}"#;
        let (key, value) = (Some(b"u-1".to_vec()), Some(json.to_vec()));
        feed.show([Output { topic: Topic::Transitions, key, value, headers: Headers::default() }].into_iter());
        let after = panel.table(&reading(&[]));
        assert!(after.contains("u-1  lapsed → active: activity, away 12.2 days, 9 events"), "{after}");
        assert_eq!(before.lines().count(), after.lines().count());
    }
}

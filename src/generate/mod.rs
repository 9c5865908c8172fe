//! A believable population: people with daily and weekly rhythms who stay, decline, leave, come back, or never find
//! value. Seeded: the same settings give the same events, byte for byte.
//!
//! Nothing is kept between days. What a person does on a day is a function of the seed, the person and the day, so a
//! population of millions costs no memory beyond the day that is being made.

pub mod crowd;
mod person;
pub mod topic;

use std::io::{self, Write};

use crate::time::{Day, EventTime, Span};

use person::Person;

/// What to generate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The same seed gives the same events.
    pub seed: u64,
    /// How many people there will have been by the last day; they sign up over the first two thirds of the time, a
    /// quarter of them on the first day.
    pub users: u32,
    /// The first day.
    pub first_day: Day,
    /// How many days; people's plans (when to decline, leave, come back) are spread over them.
    pub days: u32,
}

/// One event of the population, in the native format.
#[derive(Clone, Debug, PartialEq)]
pub struct GeneratedEvent {
    /// The person's number; see [`GeneratedEvent::user_id`].
    pub person: u32,
    /// The event's name.
    pub name: &'static str,
    /// When it happened.
    pub time: EventTime,
    /// Distinguishes the event from the person's others.
    pub id: u64,
    /// Plan and country of the person.
    pub plan: &'static str,
    /// Two letters.
    pub country: &'static str,
    /// The campaign that brought the session, if one did.
    pub campaign: Option<&'static str>,
}

/// The events that people of the generated population send, by their part in the lifecycle.
pub mod names {
    /// The first thing anybody does.
    pub const SIGNED_UP: &str = "Signed Up";
    /// The activation: the moment of first value.
    pub const PROJECT_CREATED: &str = "Project Created";
    /// The core action.
    pub const TASK_COMPLETED: &str = "Task Completed";
    /// What people do most.
    pub const PAGE_VIEWED: &str = "Page Viewed";
    /// A session that a campaign may have brought.
    pub const SESSION_STARTED: &str = "Session Started";
}

/// The population of some [`Settings`].
#[derive(Clone, Debug)]
pub struct Population {
    settings: Settings,
    people: Vec<Person>,
}

impl Population {
    /// Draws every person's plan.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let people = (0..settings.users).map(|number| Person::drawn(&settings, number)).collect();
        Self { settings, people }
    }

    /// How many people there are.
    #[must_use]
    pub const fn people(&self) -> u32 {
        self.settings.users
    }

    /// Everything that happens on the `n`th day (from 0), in order of time.
    #[must_use]
    pub fn day(&self, n: u32) -> Vec<GeneratedEvent> {
        let mut events = Vec::new();
        let start = (self.settings.first_day + i32::try_from(n).unwrap_or(i32::MAX)).start();
        for (person, number) in self.people.iter().zip(0..) {
            person.act(self.settings.seed, number, n, start, &mut events);
        }
        events.sort_by_key(|a| (a.time, a.person, a.id));
        events
    }

    /// All days in order.
    pub fn events(&self) -> impl Iterator<Item = GeneratedEvent> + '_ {
        (0..self.settings.days).flat_map(|n| self.day(n))
    }

    /// The first instant after the last day.
    #[must_use]
    pub fn end(&self) -> EventTime {
        self.settings.first_day.start() + Span::from_days(i64::from(self.settings.days))
    }
}

impl GeneratedEvent {
    /// `u-0000042`.
    #[must_use]
    pub fn user_id(&self) -> String {
        format!("u-{:07}", self.person)
    }

    /// The event as one JSON object in the native format, with no line break.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_json(&self, out: &mut impl Write) -> io::Result<()> {
        let Self { person, name, time, id, plan, country, campaign } = self;
        write!(
            out,
            r#"{{"user_id":"u-{person:07}","event":"{name}","time":"{time}","id":"{id:016x}","properties":{{"plan":"{plan}","country":"{country}""#
        )?;
        if let Some(campaign) = campaign {
            write!(out, r#","utm_campaign":"{campaign}""#)?;
        }
        out.write_all(b"}}")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    fn settings(seed: u64) -> Settings {
        Settings { seed, users: 400, first_day: Day::from_number(20_000), days: 150 }
    }

    fn text(seed: u64) -> Vec<u8> {
        let mut out = Vec::new();
        for event in Population::new(settings(seed)).events() {
            event.write_json(&mut out).expect("a vector takes everything");
            out.push(b'\n');
        }
        out
    }

    #[test]
    fn a_seed_gives_the_same_events_and_another_seed_gives_others() {
        assert_eq!(text(7), text(7));
        assert_ne!(text(7), text(8));
    }

    #[test]
    fn every_line_is_json_in_order_of_time_and_no_id_comes_twice() {
        let mut last = String::new();
        let mut ids = BTreeSet::new();
        for line in text(1).split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let event: serde_json::Value = serde_json::from_slice(line).expect("valid JSON");
            let time = event["time"].as_str().expect("a time").to_owned();
            assert!(time >= last, "{time} after {last}");
            last = time;
            assert!(ids.insert(event["id"].to_string()), "{event}");
        }
        assert!(ids.len() > 5_000, "{} events", ids.len());
    }

    #[test]
    fn people_stay_leave_come_back_and_some_never_find_value() {
        let mut days: BTreeMap<u32, BTreeSet<i32>> = BTreeMap::new();
        let mut activated = BTreeSet::new();
        for event in Population::new(settings(3)).events() {
            days.entry(event.person).or_default().insert(event.time.day().number());
            if event.name == names::PROJECT_CREATED {
                activated.insert(event.person);
            }
        }
        let end = 20_000 + 150;
        let mut stayed = 0;
        let mut left = 0;
        let mut came_back = 0;
        for days in days.values() {
            let days: Vec<i32> = days.iter().copied().collect();
            let last = days.last().copied().unwrap_or_default();
            stayed += usize::from(end - last <= 14);
            left += usize::from(end - last > 30);
            came_back += usize::from(days.windows(2).any(|pair| pair[1] - pair[0] > 30));
        }
        for (what, count) in [("stayed", stayed), ("left", left), ("came back", came_back)] {
            assert!(count > 20, "{what}: {count} of {}", days.len());
        }
        let never = days.len() - activated.len();
        assert!(never > 20 && never < days.len() / 2, "{never} never activated");
    }
}

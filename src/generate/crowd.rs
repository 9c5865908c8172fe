//! People without end: a first population and, every so often, a smaller one that joins it.
//!
//! A [`Population`] has a last day, after which all who stayed would fall silent together. A crowd goes on: each wave is
//! played for [`WAVE_PLAYED`] days, and another one has long taken its place when it ends.

use super::{GeneratedEvent, Population, Settings};
use crate::time::Day;

/// Days over which the plans of one wave are spread: who joins does so in the first two thirds.
const WAVE_DAYS: u32 = 90;
/// A new wave comes every so many days.
const WAVE_EVERY: u32 = 45;
/// How many days a wave is played.
const WAVE_PLAYED: u32 = 540;
/// Later waves have this share of the first one's people: one in so many.
const LATER_SHARE: u32 = 5;

/// An endless, seeded stream of days.
#[derive(Clone, Debug)]
pub struct Crowd {
    seed: u64,
    people: u32,
    first_day: Day,
    /// Those that are played, oldest first, with the number of the first day and of the first person.
    waves: Vec<Wave>,
    next_day: u32,
}

#[derive(Clone, Debug)]
struct Wave {
    begins: u32,
    first_person: u32,
    population: Population,
}

impl Crowd {
    /// `people` in the first wave, which begins on `first_day`.
    #[must_use]
    pub fn new(seed: u64, people: u32, first_day: Day) -> Self {
        Self { seed, people, first_day, waves: Vec::new(), next_day: 0 }
    }

    /// How many people have been drawn so far; not all of them have done something yet.
    #[must_use]
    pub fn drawn(&self) -> u32 {
        self.waves.last().map_or(0, |wave| wave.first_person + wave.population.people())
    }

    /// Everything that happens on the next day, in order of time. Holds the people of a few waves in memory, however
    /// many days are asked for.
    #[must_use]
    pub fn next_day(&mut self) -> Vec<GeneratedEvent> {
        let today = self.next_day;
        self.next_day += 1;
        if today.is_multiple_of(WAVE_EVERY) {
            let number = today / WAVE_EVERY;
            let users = if number == 0 { self.people } else { (self.people / LATER_SHARE).max(1) };
            let settings = Settings {
                seed: self.seed.wrapping_add(number.into()),
                users,
                first_day: self.first_day + i32::try_from(today).unwrap_or(i32::MAX),
                days: WAVE_DAYS,
            };
            let first_person = self.drawn();
            self.waves.push(Wave { begins: today, first_person, population: Population::new(settings) });
        }
        self.waves.retain(|wave| today - wave.begins < WAVE_PLAYED);
        let mut events = Vec::new();
        for Wave { begins, first_person, population } in &self.waves {
            let day = population.day(today - begins);
            events.extend(day.into_iter().map(|event| GeneratedEvent { person: event.person + first_person, ..event }));
        }
        events.sort_by_key(|event| (event.time, event.person, event.id));
        events
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_crowd_goes_on_with_new_people_and_in_order_of_time() {
        let first_day = Day::from_number(20_000);
        let mut crowd = Crowd::new(1, 100, first_day);
        let mut last = first_day.start();
        let mut seen = BTreeSet::new();
        for n in 0..1_200 {
            let events = crowd.next_day();
            assert!(events.iter().all(|event| event.time.day() == first_day + n), "day {n}");
            for event in &events {
                assert!(event.time >= last);
                last = event.time;
                seen.insert(event.person);
            }
            assert!(!events.is_empty(), "nobody did anything on day {n}");
        }
        assert!(seen.iter().all(|person| *person < crowd.drawn()));
        assert!(seen.len() > 500 && crowd.waves.len() <= 12, "{} people, {} waves", seen.len(), crowd.waves.len());
    }

    #[test]
    fn a_seed_gives_the_same_days() {
        let days = |seed| {
            let mut crowd = Crowd::new(seed, 50, Day::from_number(20_000));
            (0..60).map(|_| crowd.next_day()).collect::<Vec<_>>()
        };
        assert_eq!(days(7), days(7));
        assert_ne!(days(7), days(8));
    }
}

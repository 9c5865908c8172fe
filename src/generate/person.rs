//! One person's plan, and what it makes of a day.

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, LogNormal, Poisson};

use crate::generate::{GeneratedEvent, Settings, names};
use crate::time::{EventTime, Span};

/// Share of each hour of the day in what people do, in thousandths: little at night, a morning and an evening peak (UTC
/// shifted by the person's own zone).
const HOURS: [u32; 24] = [8, 5, 3, 3, 4, 8, 18, 35, 58, 68, 66, 60, 54, 56, 60, 60, 56, 52, 54, 62, 70, 64, 48, 28];

const COUNTRIES: [&str; 8] = ["US", "DE", "BR", "IN", "GB", "FR", "JP", "NG"];

/// How somebody's use develops.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Course {
    /// Stays.
    Steady,
    /// Does less and less from a day on, by this share each day.
    Declines { from: u32, by: f64 },
    /// Stops on a day.
    Leaves { on: u32 },
    /// Stops on a day and comes back on another, perhaps by a campaign.
    Returns { on: u32, back: u32, campaign: Option<&'static str> },
    /// Looks around for some days and never finds value.
    NeverActivates { until: u32 },
}

/// What is drawn once for a person.
#[derive(Clone, Debug)]
pub(super) struct Person {
    joins: u32,
    course: Course,
    /// Mean number of events on a working day.
    rate: f64,
    /// Weekends count this much of a working day.
    weekend: f64,
    zone_hours: i64,
    plan: &'static str,
    country: &'static str,
}

impl Person {
    /// Draws the plan of person `number`.
    pub(super) fn drawn(settings: &Settings, number: u32) -> Self {
        let mut rng = rng(settings.seed, number, u32::MAX);
        let days = settings.days.max(1);
        let joins = if rng.random_bool(0.25) { 0 } else { rng.random_range(0..=days * 2 / 3) };
        let within = |rng: &mut ChaCha8Rng, from: u32| from + rng.random_range(1..=(days / 2).max(2));
        let course = match rng.random_range(0..100) {
            0..40 => Course::Steady,
            40..55 => Course::Declines { from: within(&mut rng, joins), by: rng.random_range(0.03..0.15) },
            55..70 => Course::Leaves { on: within(&mut rng, joins) },
            70..85 => {
                let on = joins + rng.random_range(2..=(days / 4).max(3));
                let back = on + rng.random_range(20..=60);
                let campaign = [None, Some("we-miss-you"), Some("spring-offer")][rng.random_range(0..3)];
                Course::Returns { on, back, campaign }
            }
            _ => Course::NeverActivates { until: joins + rng.random_range(1..=10) },
        };
        let rate = LogNormal::new(0.4, 0.7).map_or(1.5, |rates| rates.sample(&mut rng));
        Self {
            joins,
            course,
            rate,
            weekend: rng.random_range(0.2..1.1),
            zone_hours: rng.random_range(-8..=9),
            plan: ["free", "free", "free", "pro", "team"][rng.random_range(0..5)],
            country: COUNTRIES[rng.random_range(0..COUNTRIES.len())],
        }
    }

    /// Adds what person `number` does on the `n`th day, which begins at `start`.
    pub(super) fn act(&self, seed: u64, number: u32, n: u32, start: EventTime, out: &mut Vec<GeneratedEvent>) {
        let strength = self.strength(n);
        if n < self.joins || strength <= 0.0 {
            return;
        }
        let mut rng = rng(seed, number, n);
        // Days since 1970-01-01, a Thursday: 2 and 3 of each week are Saturday and Sunday.
        let weekend = matches!(start.day().number().rem_euclid(7), 2 | 3);
        let mean = self.rate * strength * if weekend { self.weekend } else { 1.0 };
        let arrives = n == self.joins;
        let comes_back = matches!(self.course, Course::Returns { back, .. } if back == n);
        let drawn = Poisson::new(mean.clamp(0.001, 200.0)).map_or(0.0, |counts| counts.sample(&mut rng));
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a Poisson count of mean <= 200")]
        let count = (drawn as usize).max(usize::from(arrives || comes_back) * 3);
        let mut times: Vec<i64> = (0..count).map(|_| self.moment(&mut rng)).collect();
        times.sort_unstable();
        for (place, at) in times.into_iter().enumerate() {
            let name = match place {
                0 if arrives => names::SIGNED_UP,
                0 if comes_back => names::SESSION_STARTED,
                1 if arrives && !matches!(self.course, Course::NeverActivates { .. }) => names::PROJECT_CREATED,
                _ => self.habit(&mut rng),
            };
            let campaign = match self.course {
                Course::Returns { campaign, .. } if comes_back && place == 0 => campaign,
                _ => None,
            };
            out.push(GeneratedEvent {
                person: number,
                name,
                time: start + Span::from_millis(at),
                id: rng.next_u64(),
                plan: self.plan,
                country: self.country,
                campaign,
            });
        }
    }

    /// How much of the usual the person does on the `n`th day; 0 is nothing.
    fn strength(&self, n: u32) -> f64 {
        match self.course {
            Course::Steady => 1.0,
            Course::Declines { from, by } => (1.0 - by).powf(f64::from(n.saturating_sub(from))),
            Course::Leaves { on } => f64::from(u8::from(n < on)),
            Course::Returns { on, back, .. } => f64::from(u8::from(n < on || n >= back)),
            Course::NeverActivates { until } => 0.4 * f64::from(u8::from(n < until)),
        }
    }

    /// An ordinary action.
    fn habit(&self, rng: &mut ChaCha8Rng) -> &'static str {
        match rng.random_range(0..10) {
            0..3 if !matches!(self.course, Course::NeverActivates { .. }) => names::TASK_COMPLETED,
            3 => names::SESSION_STARTED,
            _ => names::PAGE_VIEWED,
        }
    }

    /// Milliseconds into the UTC day, by the person's own hours.
    fn moment(&self, rng: &mut ChaCha8Rng) -> i64 {
        let mut share = rng.random_range(0..HOURS.iter().sum::<u32>());
        let mut hour = 0;
        for (of_day, weight) in (0..).zip(HOURS) {
            hour = of_day;
            if share < weight {
                break;
            }
            share -= weight;
        }
        (hour + self.zone_hours).rem_euclid(24) * 3_600_000 + rng.random_range(0..3_600_000)
    }
}

/// A generator of its own for each person and day, so that no day depends on another.
fn rng(seed: u64, person: u32, day: u32) -> ChaCha8Rng {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..12].copy_from_slice(&person.to_le_bytes());
    key[12..16].copy_from_slice(&day.to_le_bytes());
    ChaCha8Rng::from_seed(key)
}

//! The probability that a user is still alive, and the moment at which it falls to a threshold (SPEC section 3).
//!
//! BG/NBD: Fader, Hardie and Lee, "Counting Your Customers the Easy Way", Marketing Science 24 (2005), 275-284. A user
//! is active at a gamma-distributed rate (`r`, `alpha`), and after each active day leaves for good with a
//! beta-distributed probability (`a`, `b`). The time unit is one day.

use crate::lifecycle::policy::Survival;
use crate::time::{DAY_MS, EventTime, Span};

/// One user's history as the model sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct History {
    /// `x`: distinct active days after the first.
    pub repeat_days: u32,
    /// `t_x`: days from the first to the last activity.
    pub recency_days: f64,
}

impl Survival {
    /// The probability that the user is alive `age_days` (`T`) after the first activity. 1 without a repeat; else
    ///
    /// ```text
    /// P(alive) = 1 / (1 + a / (b + x - 1) * ((alpha + T) / (alpha + t_x)) ^ (r + x))
    /// ```
    #[must_use]
    pub fn p_alive(&self, history: History, age_days: f64) -> f64 {
        if history.repeat_days == 0 {
            return 1.0;
        }
        let x = f64::from(history.repeat_days);
        let silence = (self.alpha + age_days) / (self.alpha + history.recency_days);
        1.0 / (1.0 + self.a / (self.b + x - 1.0) * silence.powf(self.r + x))
    }

    /// `T*`: days from the first activity until P(alive) has fallen to `p`, the inverse of [`Self::p_alive`]:
    ///
    /// ```text
    /// T* = (alpha + t_x) * ((1/p - 1) * (b + x - 1) / a) ^ (1 / (r + x)) - alpha
    /// ```
    ///
    /// Earlier than `t_x` when the last activity did not lift the probability above `p`. `None` without a repeat.
    #[must_use]
    pub fn age_at(&self, history: History, p: f64) -> Option<f64> {
        if history.repeat_days == 0 {
            return None;
        }
        let x = f64::from(history.repeat_days);
        let odds = (1.0 / p - 1.0) * (self.b + x - 1.0) / self.a;
        Some((self.alpha + history.recency_days) * odds.powf(1.0 / (self.r + x)) - self.alpha)
    }

    /// The first millisecond, never before `last_active`, from which the user is at risk by `low_probability`. `None`
    /// without a threshold and for users with fewer than `min_repeat` repeats.
    #[must_use]
    pub fn deadline(&self, history: History, first_active: EventTime, last_active: EventTime) -> Option<EventTime> {
        if history.repeat_days < self.min_repeat {
            return None;
        }
        let age = self.age_at(history, self.threshold?)?;
        Some((first_active + days_rounded_up(age)).max(last_active))
    }
}

/// Saturates for ages that no calendar holds, which keeps such a deadline out of reach.
#[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "a float cast saturates, as wanted")]
fn days_rounded_up(days: f64) -> Span {
    Span::from_millis((days * DAY_MS as f64).ceil() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The published estimates for the customers of the online shop of `tests/data`; their time unit is the week, and
    /// the formulas hold for any unit as long as it is one.
    const WEEKS: Survival =
        Survival { r: 0.243, alpha: 4.414, a: 0.793, b: 2.426, threshold: Some(0.5), min_repeat: 2 };

    /// The same in days.
    const DAYS: Survival = Survival { alpha: 4.414 * 7.0, ..WEEKS };

    fn history(repeat_days: u32, recency_days: f64) -> History {
        History { repeat_days, recency_days }
    }

    #[test]
    fn the_probability_is_the_published_one() {
        let table = [(2, 30.43, 38.86, 0.726_579), (1, 1.71, 38.86, 0.212_101), (7, 29.43, 38.86, 0.641_756)];
        for (x, recency, age, expected) in table {
            let found = WEEKS.p_alive(history(x, recency), age);
            assert!((found - expected).abs() < 5e-7, "x = {x}: {found}");
            let in_days = DAYS.p_alive(history(x, recency * 7.0), age * 7.0);
            assert!((in_days - found).abs() < 1e-12, "x = {x}: {in_days}");
        }
    }

    #[test]
    fn who_never_came_back_has_no_chance_to_have_left() {
        assert!((WEEKS.p_alive(history(0, 0.0), 1e6) - 1.0).abs() < f64::EPSILON);
        assert_eq!(WEEKS.age_at(history(0, 0.0), 0.5), None);
    }

    #[test]
    fn the_age_at_a_threshold_is_the_published_one_and_inverts_the_probability() {
        let found = WEEKS.age_at(history(2, 30.43), 0.5).expect("there are repeats");
        assert!((found - 62.4913).abs() < 5e-5, "{found}");
        for x in [1, 2, 5, 40, 3_000] {
            for p in [0.05, 0.3, 0.5, 0.9] {
                let age = WEEKS.age_at(history(x, 30.0), p).expect("there are repeats");
                assert!((WEEKS.p_alive(history(x, 30.0), age) - p).abs() < 1e-9, "x = {x}, p = {p}");
            }
        }
    }

    #[test]
    fn the_deadline_is_the_first_millisecond_at_which_the_threshold_is_reached() {
        let (first, last) = (EventTime::from_millis(1_000), EventTime::from_millis(1_000 + 100 * DAY_MS));
        let deadline = DAYS.deadline(history(2, 100.0), first, last).expect("two repeats are enough");
        let p_at = |at: EventTime| DAYS.p_alive(history(2, 100.0), (at - first).as_days());
        assert!(deadline > last);
        assert!(p_at(deadline) <= 0.5);
        assert!(p_at(deadline - Span::from_millis(1)) > 0.5);
    }

    #[test]
    fn the_deadline_is_never_before_the_last_activity() {
        let last = EventTime::from_millis(30 * DAY_MS);
        let strict = Survival { threshold: Some(0.99), ..DAYS };
        assert!(strict.age_at(history(2, 30.0), 0.99).expect("there are repeats") < 30.0);
        assert_eq!(strict.deadline(history(2, 30.0), EventTime::from_millis(0), last), Some(last));
    }

    #[test]
    fn without_a_threshold_or_enough_repeats_there_is_no_deadline() {
        let (first, last) = (EventTime::from_millis(0), EventTime::from_millis(30 * DAY_MS));
        let only_reported = Survival { threshold: None, ..DAYS };
        assert_eq!(only_reported.deadline(history(5, 30.0), first, last), None);
        assert_eq!(DAYS.deadline(history(1, 30.0), first, last), None);
        assert_eq!(Survival { min_repeat: 0, ..DAYS }.deadline(history(0, 0.0), first, last), None);
        assert!(Survival { min_repeat: 1, ..DAYS }.deadline(history(1, 30.0), first, last).is_some());
    }

    #[test]
    fn a_deadline_past_all_calendars_saturates() {
        let lasting = Survival { threshold: Some(1e-300), ..DAYS };
        let at = lasting.deadline(history(2, 30.0), EventTime::from_millis(0), EventTime::from_millis(0));
        assert_eq!(at, Some(EventTime::MAX));
    }
}

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

    /// The first millisecond, never before `last_active`, from which the user is at risk by *low_probability*. `None`
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

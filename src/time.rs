//! The units of time: event time, wall time, spans and UTC days. All are milliseconds inside; nothing here reads a
//! clock (SPEC, "Words").
//!
//! Event time and wall time are types of their own because a mix-up would let a dead producer churn everybody.

use std::fmt;
use std::ops::{Add, Sub};

/// Milliseconds in a UTC day.
pub const DAY_MS: i64 = 86_400_000;

/// When a user acted: milliseconds since the Unix epoch, UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventTime(i64);

/// Now, as the machine's clock tells it: milliseconds since the Unix epoch, UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WallTime(i64);

/// A length of time in milliseconds. Never negative in configuration; differences of times may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(i64);

/// A UTC day: `floor(t / 86 400 000)` (SPEC section 2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day(i32);

impl EventTime {
    /// The earliest time there is; a watermark that nothing has moved yet.
    pub const MIN: Self = Self(i64::MIN);
    /// The latest time there is: no deadline.
    pub const MAX: Self = Self(i64::MAX);

    /// From milliseconds since the epoch.
    #[must_use]
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the epoch.
    #[must_use]
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// The UTC day that holds this time.
    #[must_use]
    pub fn day(self) -> Day {
        let day = self.0.div_euclid(DAY_MS);
        Day(i32::try_from(day).unwrap_or(if day < 0 { i32::MIN } else { i32::MAX }))
    }
}

impl WallTime {
    /// From milliseconds since the epoch.
    #[must_use]
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the epoch.
    #[must_use]
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// The same instant as an event time: what "the watermark follows wall time" means (SPEC section 4).
    #[must_use]
    pub const fn as_event_time(self) -> EventTime {
        EventTime(self.0)
    }
}

impl Span {
    /// No time at all.
    pub const ZERO: Self = Self(0);

    /// From milliseconds.
    #[must_use]
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// From whole days of 24 hours.
    #[must_use]
    pub const fn from_days(days: i64) -> Self {
        Self(days * DAY_MS)
    }

    /// Milliseconds.
    #[must_use]
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// Days with a fraction.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "milliseconds of any real span are below 2^53")]
    pub fn as_days(self) -> f64 {
        self.0 as f64 / DAY_MS as f64
    }
}

impl Day {
    /// From the number of days since 1970-01-01.
    #[must_use]
    pub const fn from_number(number: i32) -> Self {
        Self(number)
    }

    /// Days since 1970-01-01.
    #[must_use]
    pub const fn number(self) -> i32 {
        self.0
    }

    /// The first instant of the day.
    #[must_use]
    pub fn start(self) -> EventTime {
        EventTime(i64::from(self.0) * DAY_MS)
    }
}

impl Add<Span> for EventTime {
    type Output = Self;
    fn add(self, span: Span) -> Self {
        Self(self.0.saturating_add(span.0))
    }
}

impl Sub<Span> for EventTime {
    type Output = Self;
    fn sub(self, span: Span) -> Self {
        Self(self.0.saturating_sub(span.0))
    }
}

impl Sub for EventTime {
    type Output = Span;
    fn sub(self, earlier: Self) -> Span {
        Span(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Span> for WallTime {
    type Output = Self;
    fn add(self, span: Span) -> Self {
        Self(self.0.saturating_add(span.0))
    }
}

impl Sub for WallTime {
    type Output = Span;
    fn sub(self, earlier: Self) -> Span {
        Span(self.0.saturating_sub(earlier.0))
    }
}

impl Add<i32> for Day {
    type Output = Self;
    fn add(self, days: i32) -> Self {
        Self(self.0.saturating_add(days))
    }
}

impl Sub<i32> for Day {
    type Output = Self;
    fn sub(self, days: i32) -> Self {
        Self(self.0.saturating_sub(days))
    }
}

/// RFC 3339 with milliseconds and `Z`, as every record that Ebbtide writes has it.
impl fmt::Display for EventTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match chrono::DateTime::from_timestamp_millis(self.0) {
            Some(time) => write!(f, "{}", time.format("%Y-%m-%dT%H:%M:%S%.3fZ")),
            None => write!(f, "{} ms", self.0),
        }
    }
}

impl fmt::Display for WallTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.as_event_time(), f)
    }
}

/// As configuration writes it: `30d`, `12h`, `250ms`, `1d 12h`. Days are the longest unit, since months differ.
impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let length = self.0.unsigned_abs();
        let (days, rest) = (length / DAY_MS.unsigned_abs(), length % DAY_MS.unsigned_abs());
        let rest_of_day = humantime::format_duration(std::time::Duration::from_millis(rest));
        match (days, rest) {
            (0, _) => write!(f, "{sign}{rest_of_day}"),
            (_, 0) => write!(f, "{sign}{days}d"),
            (..) => write!(f, "{sign}{days}d {rest_of_day}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_floors_before_the_epoch_too() {
        assert_eq!(EventTime::from_millis(-1).day(), Day::from_number(-1));
        assert_eq!(EventTime::from_millis(0).day(), Day::from_number(0));
        assert_eq!(EventTime::from_millis(DAY_MS - 1).day(), Day::from_number(0));
        assert_eq!(EventTime::from_millis(DAY_MS).day(), Day::from_number(1));
    }

    #[test]
    fn times_print_as_rfc_3339_with_milliseconds() {
        assert_eq!(EventTime::from_millis(852_076_800_000).to_string(), "1997-01-01T00:00:00.000Z");
    }
    #[test]
    fn lengths_print_as_the_configuration_writes_them() {
        let text = |ms| Span::from_millis(ms).to_string();
        assert_eq!(text(0), "0s");
        assert_eq!(text(250), "250ms");
        assert_eq!(text(30 * DAY_MS), "30d");
        assert_eq!(text(89 * DAY_MS + 3_600_000), "89d 1h");
        assert_eq!(text(-36 * 3_600_000), "-1d 12h");
    }
}

//! The only place that reads time. Everything else takes [`WallTime`] as a parameter.

use std::fmt;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::time::WallTime;

/// Tells wall time: what SPEC section 4 calls "now".
pub trait Clock: Send + Sync + fmt::Debug {
    /// Now.
    fn now(&self) -> WallTime;

    /// Now as brokers and producers stamp it on records: the machine's time, however fast [`Clock::now`] runs. For how
    /// long a record was under way, and how old it is.
    fn broker_time(&self) -> WallTime {
        SystemClock.now()
    }
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> WallTime {
        // Before 1970 only a broken clock: then event time stays where events put it.
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        WallTime::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }
}

/// A clock that runs faster than the machine's, for the demo: days pass in seconds.
#[derive(Clone, Copy, Debug)]
pub struct ScaledClock {
    origin: WallTime,
    started: Instant,
    factor: u32,
}

impl ScaledClock {
    /// Shows `origin` now, and from then on passes `factor` times as fast as real time.
    #[must_use]
    pub fn starting_at(origin: WallTime, factor: u32) -> Self {
        Self { origin, started: monotonic(), factor }
    }

    /// How many times as fast as real time.
    #[must_use]
    pub const fn factor(&self) -> u32 {
        self.factor
    }
}

impl Clock for ScaledClock {
    fn now(&self) -> WallTime {
        let passed = self.started.elapsed().as_millis() * u128::from(self.factor);
        let passed = i64::try_from(passed).unwrap_or(i64::MAX);
        WallTime::from_millis(self.origin.as_millis().saturating_add(passed))
    }
}

/// A reading of the monotonic clock, for measuring how long something took. Never compared with event or wall time.
#[must_use]
pub fn monotonic() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scaled_clock_starts_at_its_origin_and_only_goes_forward() {
        let origin = WallTime::from_millis(1_000_000);
        let clock = ScaledClock::starting_at(origin, 1_000_000);
        let first = clock.now();
        let began = monotonic();
        while began.elapsed().as_micros() < 2_000 {}
        let second = clock.now();
        assert!(first >= origin);
        assert!((second - first).as_millis() >= 1_000_000, "2 ms of real time are over 1000 s of this clock");
    }
}

//! Whether the workers still go round.
//!
//! A worker waits for nobody longer than seconds, so one that has not come round for minutes hangs in a call that does not
//! keep its time-out. Its shards have gone to others by then: a member that does not poll for `max.poll.interval.ms` is
//! out of the group. The thread cannot be ended from outside, but the process can, and that loses nothing.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::clock::monotonic;
use crate::config::Config;

/// librdkafka's default for `max.poll.interval.ms`.
const STILL_MAX: Duration = Duration::from_mins(5);

/// When each worker last came round.
#[derive(Debug)]
pub(super) struct Pulses {
    began: Instant,
    /// Milliseconds since `began`.
    beats: Vec<AtomicU64>,
    still_max: Duration,
}

impl Pulses {
    pub(super) fn new(config: &Config) -> Self {
        let configured = config.kafka.consumer.get("max.poll.interval.ms").and_then(|text| text.parse().ok());
        Self {
            began: monotonic(),
            beats: (0..config.workers).map(|_| AtomicU64::new(0)).collect(),
            still_max: configured.map_or(STILL_MAX, Duration::from_millis),
        }
    }

    /// A worker comes round.
    pub(super) fn beat(&self, worker: usize) {
        if let Some(beat) = self.beats.get(worker) {
            beat.store(millis(self.began.elapsed()), Ordering::Relaxed);
        }
    }

    /// The worker that has stood still for too long, and for how long.
    pub(super) fn still(&self, now: Instant) -> Option<(usize, Duration)> {
        let now = now.saturating_duration_since(self.began);
        let since = |beat: &AtomicU64| now.saturating_sub(Duration::from_millis(beat.load(Ordering::Relaxed)));
        let longest = self.beats.iter().map(since).enumerate().max_by_key(|(_, since)| *since)?;
        (longest.1 > self.still_max).then_some(longest)
    }
}

fn millis(length: Duration) -> u64 {
    u64::try_from(length.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pulses(workers: usize) -> Pulses {
        Pulses {
            began: monotonic(),
            beats: (0..workers).map(|_| AtomicU64::new(0)).collect(),
            still_max: Duration::from_secs(10),
        }
    }

    #[test]
    fn who_has_stood_still_for_longest_is_named() {
        let pulses = pulses(3);
        let at = |seconds| pulses.began + Duration::from_secs(seconds);
        pulses.beats[0].store(14_000, Ordering::Relaxed);
        pulses.beats[1].store(4_000, Ordering::Relaxed);
        pulses.beats[2].store(5_000, Ordering::Relaxed);
        assert_eq!(pulses.still(at(14)), None);
        assert_eq!(pulses.still(at(16)), Some((1, Duration::from_secs(12))));
        pulses.beats[1].store(16_000, Ordering::Relaxed);
        assert_eq!(pulses.still(at(16)), Some((2, Duration::from_secs(11))));
    }

    #[test]
    fn a_beat_is_now() {
        let pulses = pulses(1);
        pulses.beat(0);
        assert_eq!(pulses.still(monotonic()), None);
        pulses.beat(7);
    }
}

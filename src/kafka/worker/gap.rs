//! Offsets that are missing between two records.
//!
//! The markers of a producer's transactions take offsets, and compaction leaves holes: then a gap means nothing. But a
//! consumer that was moved while it looked an offset up has been seen to go on at a later record than it had come to
//! (librdkafka 2.12, `tests/chaos`; [`super::assignment`]), and such a gap is a loss that nobody would notice. So a gap is
//! believed only when it is seen twice: the consumer is moved to where the shard is, and reads again. Where many
//! gaps have proven true the input is known to have them, and only those soon after a disturbance are looked into.

use std::time::{Duration, Instant};

/// So many true gaps make an input that has gaps.
const USUAL_FROM: u32 = 16;
/// How long after a disturbance no gap is taken for granted.
const DOUBT: Duration = Duration::from_secs(30);

/// What one shard knows about gaps in its input.
#[derive(Debug)]
pub(super) struct Gaps {
    /// The offset behind a gap that is being read again.
    proving: Option<i64>,
    proven: u32,
    disturbed: Instant,
}

/// What a gap is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finding {
    /// There is none, or there really is nothing in it.
    Sound,
    /// Unknown: read again from before it.
    Doubtful,
    /// The consumer had left out records: they are here now.
    Healed {
        /// The offset at which it had come back.
        skipped_to: i64,
    },
}

impl Gaps {
    pub(super) fn new(now: Instant) -> Self {
        Self { proving: None, proven: 0, disturbed: now }
    }

    /// The consumer was moved, or the group changed.
    pub(super) fn disturbed(&mut self, now: Instant) {
        self.disturbed = now;
    }

    /// The next record has `offset` where `expected` would follow on the last.
    pub(super) fn judge(&mut self, expected: i64, offset: i64, now: Instant) -> Finding {
        let proving = self.proving.take();
        if offset == expected {
            return proving.map_or(Finding::Sound, |skipped_to| Finding::Healed { skipped_to });
        }
        if proving == Some(offset) {
            self.proven = self.proven.saturating_add(1);
            return Finding::Sound;
        }
        if self.proven >= USUAL_FROM && now.saturating_duration_since(self.disturbed) >= DOUBT {
            return Finding::Sound;
        }
        self.proving = Some(offset);
        Finding::Doubtful
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::monotonic;

    #[test]
    fn a_gap_is_believed_when_it_is_seen_twice() {
        let now = monotonic();
        let mut gaps = Gaps::new(now);
        assert_eq!(gaps.judge(5, 5, now), Finding::Sound);
        assert_eq!(gaps.judge(6, 8, now), Finding::Doubtful);
        assert_eq!(gaps.judge(6, 8, now), Finding::Sound);
    }

    #[test]
    fn records_that_the_consumer_left_out_are_read_after_all() {
        let now = monotonic();
        let mut gaps = Gaps::new(now);
        assert_eq!(gaps.judge(6, 15, now), Finding::Doubtful);
        assert_eq!(gaps.judge(6, 6, now), Finding::Healed { skipped_to: 15 });
        assert_eq!(gaps.judge(7, 7, now), Finding::Sound);
        // Another gap than the one that is being proven is a doubt of its own.
        assert_eq!(gaps.judge(8, 15, now), Finding::Doubtful);
        assert_eq!(gaps.judge(8, 12, now), Finding::Doubtful);
        assert_eq!(gaps.judge(8, 12, now), Finding::Sound);
    }

    #[test]
    fn an_input_that_has_gaps_is_read_again_only_after_a_disturbance() {
        let start = monotonic();
        let mut gaps = Gaps::new(start);
        let mut next = 0;
        for _ in 0..USUAL_FROM {
            assert_eq!(gaps.judge(next, next + 1, start), Finding::Doubtful);
            assert_eq!(gaps.judge(next, next + 1, start), Finding::Sound);
            next += 2;
        }
        assert_eq!(gaps.judge(next, next + 1, start + DOUBT), Finding::Sound);
        gaps.disturbed(start + DOUBT);
        assert_eq!(gaps.judge(next, next + 1, start + DOUBT), Finding::Doubtful);
    }
}

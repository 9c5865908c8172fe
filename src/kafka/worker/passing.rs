//! How wall time is let into the shards (SPEC section 4).
//!
//! While a shard has unread records only event time moves it. "No unread record" is a claim about the broker, so it is
//! made only with an answer of the broker in hand: the end of the partition is asked for, and the shard's time is moved to
//! the moment *before* the question. A broker that does not answer stops the clock, and whatever piled up behind it is read
//! first.

use std::time::Duration;

use rdkafka::consumer::Consumer;
use rdkafka::{Offset, TopicPartitionList};
use tracing::debug;

use super::{Halt, Live, Session};
use crate::clock::monotonic;
use crate::shard::Progress;
use crate::time::WallTime;

/// How often the ends are asked for while a shard may be at its end.
const ASK_IDLE: Duration = Duration::from_millis(250);
/// How often they are asked for otherwise, for the lag.
const ASK_BUSY: Duration = Duration::from_secs(1);
/// How long the broker may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// Users that time may change per shard and round of the loop: a storm of timers starves neither reading nor the group, and
/// a round makes little more than a commit may hold.
const ROUND_TIMERS: usize = 1_024;

/// What is known about the end of one input partition.
///
/// A partition may end in transaction markers, which no reader ever sees: then the position never reaches the end. So when
/// the position seems stuck below the end, the consumer is moved to where it is; the end-of-partition event that follows
/// says that nothing is left below the end that was known before the move.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct End {
    /// The end for a `read_committed` reader, by the latest answer.
    known: Option<i64>,
    /// The consumer has told that it is at the end, and no record has come since.
    told: bool,
    /// Nothing is left to read below this offset.
    drained: i64,
    /// What `drained` becomes with the next end-of-partition event.
    proving: Option<i64>,
    /// Answers in a row at which the position seemed stuck.
    stuck: u8,
}

impl End {
    /// The latest known end.
    pub(super) const fn known(&self) -> Option<i64> {
        self.known
    }

    /// The consumer told that it is at the end.
    pub(super) fn reached(&mut self) {
        self.told = true;
        if let Some(end) = self.proving.take() {
            self.drained = self.drained.max(end);
        }
    }

    /// The consumer was moved: what it told before is void.
    pub(super) fn moved(&mut self) {
        self.told = false;
        self.proving = None;
        self.stuck = 0;
    }

    /// The broker answered that the partition ends at `end`; the shard has read up to `next`. Says whether nothing is
    /// unread.
    fn answered(&mut self, end: i64, next: i64) -> Finding {
        self.known = Some(end);
        if self.drained.max(next) >= end {
            self.stuck = 0;
            return Finding::CaughtUp;
        }
        self.stuck = if self.told && self.proving.is_none() { self.stuck + 1 } else { 0 };
        if self.stuck < 2 { Finding::Behind } else { Finding::Stuck }
    }
}

/// What an answer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Finding {
    /// Nothing is unread.
    CaughtUp,
    /// Something is, or may be.
    Behind,
    /// The consumer says it is at the end, and the broker that the end is further on.
    Stuck,
}

impl Session<'_> {
    /// How long until the ends should be asked for.
    pub(super) fn ask_in(&self) -> Duration {
        let idle = self.live().any(|(_, live)| live.end.told || live.end.known.is_none_or(|end| live.next >= end));
        let every = if idle { ASK_IDLE } else { ASK_BUSY };
        every.saturating_sub(self.asked_at.elapsed())
    }

    /// Lets timers fire that event time has made due, and wall time in where nothing is unread.
    pub(super) fn pass_time(&mut self) -> Result<(), Halt> {
        let now = self.shared.parts.clock.now();
        if self.ask_in().is_zero() {
            self.ask_ends(now)?;
        }
        let mut changed = false;
        for (partition, live) in self.live_mut() {
            if live.touched {
                live.advance(now, false).map_err(Halt::shard(partition))?;
                changed = true;
            }
        }
        if changed {
            self.note_pending();
        }
        Ok(())
    }

    /// One question for all shards that are being read. `now` was taken before it.
    fn ask_ends(&mut self, now: WallTime) -> Result<(), Halt> {
        self.asked_at = monotonic();
        let topic = &self.shared.config.topics.events;
        let mut question = TopicPartitionList::new();
        for (partition, live) in self.live() {
            if live.seek_to.is_none() {
                // As a timestamp this is "the latest": the broker answers with the end, as a committed reader sees it.
                let added = question.add_partition_offset(topic, partition, Offset::End);
                added.map_err(|error| Halt::Rejoin(error.to_string()))?;
            }
        }
        if question.count() == 0 {
            return Ok(());
        }
        let answer = match self.consumer.offsets_for_times(question, ANSWER_TIMEOUT) {
            Ok(answer) => answer,
            Err(error) => {
                debug!(%error, "the ends of the input are unknown; wall time does not count");
                return Ok(());
            }
        };
        for element in answer.elements() {
            let partition = element.partition();
            let (Ok(()), Offset::Offset(end)) = (element.error(), element.offset()) else { continue };
            let Some((_, live)) = self.live_mut().find(|(candidate, _)| *candidate == partition) else { continue };
            match live.end.answered(end, live.next) {
                Finding::CaughtUp => live.advance(now, true).map_err(Halt::shard(partition))?,
                Finding::Behind => {}
                Finding::Stuck => {
                    // To where it is already: only for the end-of-partition event that follows.
                    live.seek_to = Some(live.next);
                    live.end.moved();
                    live.end.proving = Some(end);
                }
            }
        }
        self.note_pending();
        Ok(())
    }
}

impl Live {
    fn advance(&mut self, now: WallTime, caught_up: bool) -> Result<(), crate::shard::ShardError> {
        let progress = self.shard.advance(now, caught_up, ROUND_TIMERS, &mut self.effects)?;
        self.touched = progress == Progress::More;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_at_the_end_is_caught_up() {
        let mut end = End::default();
        assert_eq!(end.answered(5, 4), Finding::Behind);
        assert_eq!(end.answered(5, 5), Finding::CaughtUp);
        assert_eq!(end.answered(6, 5), Finding::Behind);
    }

    #[test]
    fn markers_at_the_end_are_proven_and_never_guessed() {
        let mut end = End::default();
        end.reached();
        assert_eq!(end.answered(6, 5), Finding::Behind, "a record may be on its way");
        assert_eq!(end.answered(6, 5), Finding::Stuck);
        end.moved();
        end.proving = Some(6);
        assert_eq!(end.answered(6, 5), Finding::Behind, "the proof is not there yet");
        end.reached();
        assert_eq!(end.answered(6, 5), Finding::CaughtUp);
        assert_eq!(end.answered(7, 5), Finding::Behind, "a later end needs its own proof");
    }

    #[test]
    fn a_move_voids_a_proof_that_was_under_way() {
        let mut end = End { proving: Some(9), ..End::default() };
        end.moved();
        end.reached();
        assert_eq!(end.answered(9, 5), Finding::Behind);
    }
}

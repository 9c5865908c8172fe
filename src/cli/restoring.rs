//! A progress bar while shards are being restored; where there is no terminal the workers' log lines tell it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use indicatif::ProgressBar;
use tokio_util::sync::CancellationToken;

use super::screen::Screen;
use crate::kafka::{Phase, ShardStatus, Status};

/// How often the bar moves.
const LOOK_EVERY: Duration = Duration::from_millis(100);
const TEMPLATE: &str = "restoring {msg} {wide_bar} {human_pos} of {human_len} records, {eta} left";

/// Shows a bar whenever shards are being restored, until `shutdown`.
pub async fn show(status: Arc<Status>, screen: Screen, shutdown: CancellationToken) {
    let mut pace = tokio::time::interval(LOOK_EVERY);
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut round = Round::default();
    let mut bar: Option<ProgressBar> = None;
    while shutdown.run_until_cancelled(pace.tick()).await.is_some() {
        match round.look(&status.shards()) {
            Some(progress) => {
                let bar = bar.get_or_insert_with(|| screen.bar(progress.total, TEMPLATE));
                bar.set_message(if progress.shards == 1 {
                    "1 shard".to_owned()
                } else {
                    format!("{} shards", progress.shards)
                });
                bar.set_length(progress.total);
                bar.set_position(progress.done);
            }
            None => bar.take().iter().for_each(ProgressBar::finish_and_clear),
        }
    }
    bar.iter().for_each(ProgressBar::finish_and_clear);
}

/// The shards that are restored in one go, those that are done with it included.
#[derive(Debug, Default)]
struct Round(BTreeMap<i32, (u64, u64)>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Progress {
    /// Shards not done yet.
    shards: usize,
    /// Changelog offsets.
    done: u64,
    total: u64,
}

impl Round {
    /// `None` when nothing is being restored, which ends the round.
    fn look(&mut self, shards: &[ShardStatus]) -> Option<Progress> {
        for (done, total) in self.0.values_mut() {
            *done = *total;
        }
        let mut under_way = 0;
        for shard in shards {
            if let Phase::Restoring { done, total } = shard.phase
                && total > 0
            {
                under_way += 1;
                self.0.insert(shard.partition, (done.min(total), total));
            }
        }
        if under_way == 0 {
            self.0.clear();
            return None;
        }
        let (done, total) = self.0.values().fold((0, 0), |(done, total), shard| (done + shard.0, total + shard.1));
        Some(Progress { shards: under_way, done, total })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(partition: i32, phase: Phase) -> ShardStatus {
        ShardStatus { phase, ..ShardStatus::taken_over(partition, 0) }
    }

    #[test]
    fn a_round_counts_the_shards_that_are_done_until_all_are() {
        let mut round = Round::default();
        assert_eq!(round.look(&[shard(0, Phase::Restoring { done: 0, total: 0 })]), None, "nothing is known yet");
        let both =
            [shard(0, Phase::Restoring { done: 5, total: 10 }), shard(1, Phase::Restoring { done: 1, total: 20 })];
        assert_eq!(round.look(&both), Some(Progress { shards: 2, done: 6, total: 30 }));
        let one = [shard(0, Phase::Running), shard(1, Phase::Restoring { done: 2, total: 20 })];
        assert_eq!(round.look(&one), Some(Progress { shards: 1, done: 12, total: 30 }), "the bar does not jump back");
        assert_eq!(round.look(&[shard(0, Phase::Running), shard(1, Phase::Running)]), None);
        let later = [shard(0, Phase::Running), shard(2, Phase::Restoring { done: 0, total: 7 })];
        assert_eq!(round.look(&later), Some(Progress { shards: 1, done: 0, total: 7 }), "a new round");
    }
}

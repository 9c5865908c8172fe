//! What the API shows of an instance, read from the workers' status in one go.

use crate::http::history::Sizes;
use crate::kafka::status::{Phase, ShardStatus, Status};
use crate::lifecycle::State;
use crate::metrics::{ShardPhase, ShardReading};
use crate::shard::cohort::Cohorts;
use crate::time::{EventTime, WallTime};

/// This instance at one moment.
#[derive(Debug)]
pub struct InstanceView {
    /// Its configured name.
    pub instance_id: String,
    /// Whether every worker has got its shards from the group, if only none.
    pub joined: bool,
    /// Partitions of the input topic; `None` until that is known.
    pub partitions: Option<usize>,
    /// Its shards, by partition.
    pub shards: Vec<ShardView>,
}

/// One shard at one moment.
#[derive(Debug)]
pub struct ShardView {
    /// What the metrics show of it.
    pub reading: ShardReading,
    /// The worker thread that has it.
    pub worker: usize,
    /// The next input offset to read; `None` before the first record.
    pub position: Option<i64>,
    /// How far event time is; `None` before the first event.
    pub watermark: Option<EventTime>,
    /// Why it was stopped, and what to do.
    pub stopped: Option<String>,
    cohorts: Cohorts,
}

impl InstanceView {
    /// Reads the status; `now` is for the lag of the watermarks.
    #[must_use]
    pub fn read(status: &Status, now: WallTime) -> Self {
        Self {
            instance_id: status.instance_id().to_owned(),
            joined: status.has_joined(),
            partitions: status.input_partitions().and_then(|count| usize::try_from(count).ok()),
            shards: status.shards().into_iter().map(|shard| ShardView::read(shard, now)).collect(),
        }
    }

    /// The shards that are restored and consuming: of the others nothing is known.
    pub fn running_shards(&self) -> impl Iterator<Item = &ShardView> {
        self.shards.iter().filter(|shard| shard.reading.phase == ShardPhase::Running)
    }

    /// How many those are.
    #[must_use]
    pub fn running(&self) -> usize {
        self.running_shards().count()
    }

    /// The sizes of all cohorts here.
    #[must_use]
    pub fn sizes(&self) -> Sizes {
        let mut sizes = Sizes::default();
        for shard in &self.shards {
            sizes.add(&shard.sizes());
        }
        sizes
    }

    /// Users here who have no lifecycle state yet.
    #[must_use]
    pub fn not_entered(&self) -> u64 {
        self.shards.iter().map(|shard| shard.cohorts.without_life()).sum()
    }
}

impl ShardView {
    fn read(shard: ShardStatus, now: WallTime) -> Self {
        let lag = shard.lag();
        let (phase, restored, stopped) = match shard.phase {
            Phase::Restoring { done, total } => (ShardPhase::Restoring, (done, total), None),
            Phase::Running => (ShardPhase::Running, shard.restored, None),
            Phase::Stopped { reason } => (ShardPhase::Stopped, shard.restored, Some(reason)),
        };
        Self {
            reading: ShardReading {
                partition: shard.partition,
                phase,
                lag,
                watermark_lag: shard.watermark.map(|watermark| now.as_event_time() - watermark),
                guard_holds: shard.guard_holds,
                restored,
            },
            worker: shard.worker,
            position: shard.position,
            watermark: shard.watermark,
            stopped,
            cohorts: shard.cohorts,
        }
    }

    /// The sizes of this shard's cohorts.
    #[must_use]
    pub fn sizes(&self) -> Sizes {
        let mut sizes = Sizes::default();
        for state in State::ALL {
            for activated in [false, true] {
                sizes.0[state as usize][usize::from(activated)] = self.cohorts.size(state, activated);
            }
        }
        sizes
    }

    /// Users of this shard who have no lifecycle state yet.
    #[must_use]
    pub fn not_entered(&self) -> u64 {
        self.cohorts.without_life()
    }

    /// Users of this shard who have a lifecycle state.
    #[must_use]
    pub fn users(&self) -> u64 {
        self.cohorts.total() - self.cohorts.without_life()
    }
}

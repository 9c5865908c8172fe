//! Local copies of shards that went elsewhere: kept for a while, as a shard often comes back, then removed, as disks fill.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tracing::info;

use super::lease::Leases;
use crate::clock::monotonic;
use crate::store::rocks::Database;
use crate::store::{Store as _, StoreError};

/// How long a copy is kept that no worker holds and no standby follows.
const KEPT_FOR: Duration = Duration::from_hours(1);
/// How often to look.
const LOOK_EVERY: Duration = Duration::from_mins(1);

/// The copies that nobody uses, and since when.
#[derive(Debug)]
pub(super) struct Leftovers {
    kept_for: Duration,
    since: BTreeMap<i32, Instant>,
    looked_at: Option<Instant>,
}

impl Default for Leftovers {
    fn default() -> Self {
        Self { kept_for: KEPT_FOR, since: BTreeMap::new(), looked_at: None }
    }
}

impl Leftovers {
    /// Removes the copies whose time is over, if it is time to look. Nobody else touches a shard meanwhile: its lease is
    /// held here.
    pub(super) fn sweep(
        &mut self,
        database: &std::sync::Arc<Database>,
        leases: &Leases,
        partitions: i32,
    ) -> Result<(), StoreError> {
        let now = monotonic();
        if self.looked_at.is_some_and(|at| now - at < LOOK_EVERY) {
            return Ok(());
        }
        self.looked_at = Some(now);
        for partition in 0..partitions {
            let lease = leases.take_idle(partition);
            let unused = lease.is_some() && database.shard(partition).shard()?.1.is_some();
            if self.is_over(partition, unused, now) {
                database.drop_shard(partition)?;
                info!(partition, "removed the local copy of a shard that has been elsewhere for long");
            }
        }
        Ok(())
    }

    /// Takes in whether there is a copy that nobody uses, and says whether its time is over.
    fn is_over(&mut self, partition: i32, unused: bool, now: Instant) -> bool {
        if !unused {
            self.since.remove(&partition);
            return false;
        }
        let over = now - *self.since.entry(partition).or_insert(now) >= self.kept_for;
        if over {
            self.since.remove(&partition);
        }
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Batch;

    #[test]
    fn a_copy_is_removed_after_its_time_and_a_use_in_between_begins_it_anew() {
        let mut leftovers = Leftovers::default();
        let begin = monotonic();
        let at = |minutes| begin + Duration::from_mins(minutes);
        assert!(!leftovers.is_over(3, true, at(0)));
        assert!(!leftovers.is_over(3, true, at(59)));
        assert!(!leftovers.is_over(3, false, at(59)), "it came back");
        assert!(!leftovers.is_over(3, true, at(60)));
        assert!(!leftovers.is_over(4, true, at(119)), "each for itself");
        assert!(leftovers.is_over(3, true, at(120)));
        assert!(!leftovers.is_over(3, true, at(121)), "a new copy has its own time");
    }

    #[test]
    fn only_what_nobody_holds_is_removed() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let database = Database::open(dir.path(), 16 << 20).expect("opens");
        let leases = Leases::default();
        let position = |partition| database.shard(partition).shard().expect("reads").1;
        for partition in 0..3 {
            let batch = Batch { changelog_position: Some(9), ..Batch::default() };
            database.shard(partition).write(batch).expect("writes");
        }
        let _held = leases.take(1).expect("free");
        let mut leftovers = Leftovers { kept_for: Duration::ZERO, ..Leftovers::default() };
        leftovers.sweep(&database, &leases, 3).expect("a healthy disk");
        assert_eq!([0, 1, 2].map(position), [None, Some(9), None]);
        assert!(leases.take(0).is_some(), "no lease is kept");
    }
}

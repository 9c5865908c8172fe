//! Which worker of this process may touch a shard's local state.
//!
//! The group says who owns a partition, but a worker that lost one may learn it late, while another worker of the same
//! process, with the same database, has it already. Between processes the lock on the database's folder does this.
//!
//! A [standby](super::standby) holds the lease of a shard that it follows, and gives it back as soon as a worker asks.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The shards that some worker holds.
#[derive(Clone, Debug, Default)]
pub(super) struct Leases {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    held: BTreeSet<i32>,
    /// Asked for by a worker while held.
    wanted: BTreeSet<i32>,
}

/// The right to touch one shard's local state; given back when dropped.
#[derive(Debug)]
pub(super) struct Lease {
    partition: i32,
    leases: Leases,
}

impl Leases {
    /// The lease of a shard, unless another worker still has it.
    pub(super) fn take(&self, partition: i32) -> Option<Lease> {
        let mut inner = self.lock();
        let free = inner.held.insert(partition);
        if free {
            inner.wanted.remove(&partition)
        } else {
            inner.wanted.insert(partition)
        };
        drop(inner);
        free.then(|| Lease { partition, leases: self.clone() })
    }

    /// The same for whoever is to give way: nobody waits for it.
    pub(super) fn take_idle(&self, partition: i32) -> Option<Lease> {
        let free = self.lock().held.insert(partition);
        free.then(|| Lease { partition, leases: self.clone() })
    }

    /// Whether a worker has asked for a lease in vain.
    pub(super) fn is_wanted(&self, partition: i32) -> bool {
        self.lock().wanted.contains(&partition)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut inner = self.leases.lock();
        inner.held.remove(&self.partition);
        // Who still wants it asks again; who has lost the partition since does not.
        inner.wanted.remove(&self.partition);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_is_held_once() {
        let leases = Leases::default();
        let first = leases.take(4).expect("nobody holds it");
        assert!(leases.clone().take(4).is_none());
        assert!(leases.take(5).is_some());
        assert!(leases.is_wanted(4) && !leases.is_wanted(5));
        drop(first);
        assert!(!leases.is_wanted(4));
        let idle = leases.take_idle(4).expect("nobody holds it");
        assert!(leases.take_idle(4).is_none());
        assert!(!leases.is_wanted(4), "a standby waits for nobody");
        drop(idle);
        assert!(leases.take(4).is_some());
    }
}

//! Which worker of this process may touch a shard's local state.
//!
//! The group says who owns a partition, but a worker that lost one may learn it late, while another worker of the same
//! process, with the same database, has it already. Between processes the lock on the database's folder does this.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

/// The shards that some worker holds.
#[derive(Clone, Debug, Default)]
pub(super) struct Leases {
    held: Arc<Mutex<BTreeSet<i32>>>,
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
        let free = self.held.lock().unwrap_or_else(PoisonError::into_inner).insert(partition);
        free.then(|| Lease { partition, leases: self.clone() })
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.leases.held.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.partition);
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
        drop(first);
        assert!(leases.take(4).is_some());
    }
}

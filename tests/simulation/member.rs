//! A worker as a member of the group: what happens in the background while it is busy, and what it answers.

use std::collections::BTreeSet;

use crate::group::{Beat, Sync};
use crate::mutation::Mutation;
use crate::process::{Moved, Shard};
use crate::world::World;

impl World {
    /// Answers the oldest change. False if the answer has to wait for a commit.
    pub(crate) fn answer_the_group(&mut self, p: usize) -> bool {
        let Some(change) = self.processes[p].consumer.changes.front().cloned() else { return true };
        self.note(|| format!("process {p} answers {change:?}"));
        match &change {
            Moved::Assigned(partitions) => {
                for &partition in partitions {
                    self.processes[p].shards.insert(partition, Shard::new());
                }
                self.processes[p].consumer.owned.extend(partitions);
            }
            Moved::Revoked(partitions) => {
                let process = &self.processes[p];
                let dirty = process.shards.iter().any(|(id, shard)| partitions.contains(id) && shard.is_dirty());
                if dirty && !process.farewell {
                    self.processes[p].farewell = true;
                    self.commit(p);
                    return false;
                }
                self.processes[p].farewell = false;
                self.give_up(p, partitions);
                self.processes[p].consumer.rejoin = true;
            }
            Moved::Lost(partitions) => {
                if self.mutation == Some(Mutation::KeepLostPartition) {
                    self.processes[p].consumer.owned.clear();
                } else {
                    self.give_up(p, partitions);
                }
            }
        }
        self.processes[p].consumer.changes.pop_front();
        true
    }

    fn give_up(&mut self, p: usize, partitions: &BTreeSet<i32>) {
        let process = &mut self.processes[p];
        process.shards.retain(|partition, _| !partitions.contains(partition));
        process.consumer.owned.retain(|partition| !partitions.contains(partition));
    }

    pub(crate) fn beat(&mut self, p: usize) {
        let now = self.now;
        let process = &mut self.processes[p];
        let name = process.name;
        let group = &mut self.broker.group;
        let reachable = process.cut_until <= now;
        if let Some(member) = process.consumer.member {
            let beat =
                if reachable { Some(group.heartbeat(name, member, process.consumer.generation, now)) } else { None };
            match beat {
                None if process.consumer.contact + crate::group::SESSION_TIMEOUT < now => process.lose(),
                None => {}
                Some(Beat::Fine | Beat::Rebalancing) => {
                    process.consumer.contact = now;
                    let again = beat == Some(Beat::Rebalancing) || process.consumer.rejoin;
                    if again && process.consumer.changes.is_empty() {
                        process.consumer.rejoin = false;
                        process.consumer.void = group.rejoin(name, member, process.consumer.owned.clone(), now);
                    }
                }
                Some(Beat::Unknown) => process.lose(),
                Some(Beat::Fenced) => {
                    process.consumer.fenced = true;
                    process.lose();
                }
            }
        } else if reachable
            && process.producer.is_some()
            && process.consumer.changes.is_empty()
            && !process.consumer.fenced
        {
            process.consumer.member = Some(group.join(name, now));
            process.consumer.contact = now;
        }
    }

    pub(crate) fn sync(&mut self, p: usize, sync: &Sync) {
        let consumer = &mut self.processes[p].consumer;
        if consumer.member != Some(sync.member) || sync.generation <= consumer.void || !consumer.changes.is_empty() {
            return;
        }
        consumer.generation = Some(sync.generation);
        let revoked: BTreeSet<i32> = consumer.owned.difference(&sync.partitions).copied().collect();
        let assigned: BTreeSet<i32> = sync.partitions.difference(&consumer.owned).copied().collect();
        if !revoked.is_empty() {
            consumer.changes.push_back(Moved::Revoked(revoked));
        }
        if !assigned.is_empty() {
            consumer.changes.push_back(Moved::Assigned(assigned));
        }
    }
}

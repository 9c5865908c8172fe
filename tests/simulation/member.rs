//! A worker as a member of the group: what happens in the background while it is busy, and what it answers.

use std::collections::BTreeSet;

use crate::broker::Refusal;
use crate::group::{Beat, Sync};
use crate::mutation::Mutation;
use crate::process::{Moved, Shard};
use crate::world::World;

impl World {
    /// Answers the oldest change. False if the answer has to wait for a commit.
    pub(crate) fn answer_the_group(&mut self, p: usize) -> bool {
        let Some(change) = self.processes[p].consumer.changes.front().cloned() else { return true };
        self.note(|| format!("process {p} answers {change:?}"));
        if !matches!(change, Moved::Lost(_)) {
            let consumer = &mut self.processes[p].consumer;
            let served = consumer.member.zip(consumer.generation);
            if consumer.served != served {
                consumer.served = served;
                // All of them, unless a rule is broken: a shard that is kept though it was lost is not owned any more.
                let process = &mut self.processes[p];
                let owned =
                    process.shards.iter_mut().filter(|(partition, _)| process.consumer.owned.contains(partition));
                owned.for_each(|(_, shard)| shard.proven = false);
            }
        }
        match &change {
            Moved::Assigned(partitions) => {
                for &partition in partitions {
                    // Nothing is there, unless a rule is broken.
                    self.processes[p].shards.entry(partition).or_insert_with(Shard::new);
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
        if let (Some(member), true) = (process.consumer.member, process.consumer.joining) {
            if reachable {
                self.join(p, member);
            }
        } else if let Some(member) = process.consumer.member {
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
                        process.consumer.joining = true;
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
            process.consumer.member = Some(group.join(name, BTreeSet::new(), now));
            process.consumer.contact = now;
        }
    }

    /// Asks for a place in the next generation, however long ago that was decided.
    fn join(&mut self, p: usize, member: u64) {
        let now = self.now;
        let process = &mut self.processes[p];
        let name = process.name;
        let owned = process.consumer.owned.clone();
        process.consumer.joining = false;
        process.consumer.contact = now;
        match self.broker.group.rejoin(name, member, owned.clone(), now) {
            Ok(present) => process.consumer.void = present,
            Err(Refusal::Fenced) => {
                process.consumer.fenced = true;
                process.lose();
            }
            Err(_) => {
                // The group has forgotten it. The client joins without its member id, but with what it holds, and tells
                // the worker nothing: if the group lets it keep that, nothing will seem to have happened.
                process.consumer.void = 0;
                process.consumer.member = Some(self.broker.group.join(name, owned.clone(), now));
                if !owned.is_empty() {
                    self.count("claims of a forgotten member");
                    self.note(|| format!("process {p} was forgotten, and claims {owned:?}"));
                }
            }
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
        // As the client does: each generation is told of, if only by an empty assignment.
        let told = !revoked.is_empty();
        if told {
            consumer.changes.push_back(Moved::Revoked(revoked));
        }
        if !told || !assigned.is_empty() {
            consumer.changes.push_back(Moved::Assigned(assigned));
        }
    }
}

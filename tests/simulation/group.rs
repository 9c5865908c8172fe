//! The simulated group coordinator: generations, cooperative rebalances, static members, stable and pending offsets.

use std::collections::{BTreeMap, BTreeSet};

use crate::broker::{Refusal, Time, index};

/// After this long without a heartbeat a member is dead.
pub(crate) const SESSION_TIMEOUT: Time = 1_500;
/// How long an assignment may be on its way.
const SYNC_GRACE: Time = 400;
/// How long a rebalance waits for the members.
const REBALANCE_TIMEOUT: Time = 2_500;

/// What a consumer says of itself. After a lost session it has neither a member id nor a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Membership {
    /// The static name (`group.instance.id`).
    pub(crate) instance: Option<usize>,
    pub(crate) member: Option<u64>,
    pub(crate) generation: Option<u64>,
}

/// Which commit wrote an offset: process, and a number.
pub(crate) type Note = (usize, u64);

/// An offset of the group to be committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Offset {
    pub(crate) partition: i32,
    pub(crate) next: i64,
    pub(crate) note: Note,
}

/// A committed offset and its metadata.
pub(crate) type Committed = Option<(i64, Note)>;

#[derive(Clone, Debug)]
struct Member {
    id: u64,
    seen: Time,
    joined: bool,
    owned: BTreeSet<i32>,
    assigned: BTreeSet<i32>,
}

/// What the group answers to a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Beat {
    Fine,
    /// Join again.
    Rebalancing,
    /// The group does not know the member, or not in this generation.
    Unknown,
    /// Somebody else has the same static name.
    Fenced,
}

/// A member's assignment in a generation.
#[derive(Clone, Debug)]
pub(crate) struct Sync {
    pub(crate) member: u64,
    pub(crate) generation: u64,
    pub(crate) partitions: BTreeSet<i32>,
}

#[derive(Clone, Debug)]
pub(crate) struct Group {
    generation: u64,
    /// By static name.
    members: BTreeMap<usize, Member>,
    /// The deadline of the rebalance that is going on.
    rebalance: Option<Time>,
    /// When the last one was over, or a static member came back.
    completed: Time,
    partitions: i32,
    /// The last generation withheld partitions until their owners let go. A real coordinator keeps the generation even
    /// then when a static member comes back, and the partitions stay without an owner until something else moves.
    withheld: bool,
    next_member: u64,
    stable: BTreeMap<i32, (i64, Note)>,
    pending: BTreeMap<usize, Vec<Offset>>,
    /// Assignments to be sent.
    pub(crate) syncs: Vec<Sync>,
}

impl Group {
    pub(crate) fn new(partitions: usize) -> Self {
        Self {
            generation: 0,
            members: BTreeMap::new(),
            rebalance: None,
            completed: 0,
            partitions: i32::try_from(partitions).expect("a few"),
            withheld: false,
            next_member: 0,
            stable: BTreeMap::new(),
            pending: BTreeMap::new(),
            syncs: Vec::new(),
        }
    }

    /// A consumer without a member id joins, with what it says it holds. Under the static name of a member it takes that
    /// one's place, assignment and all.
    pub(crate) fn join(&mut self, instance: usize, owned: BTreeSet<i32>, now: Time) -> u64 {
        self.next_member += 1;
        let id = self.next_member;
        if let Some(member) = self.members.get_mut(&instance) {
            member.id = id;
            member.seen = now;
            member.owned = owned;
            if self.rebalance.is_none() && !self.withheld {
                self.completed = now;
                let (generation, partitions) = (self.generation, member.assigned.clone());
                self.syncs.push(Sync { member: id, generation, partitions });
            } else {
                self.begin_rebalance(now);
                self.members.get_mut(&instance).expect("just seen").joined = true;
            }
        } else {
            let assigned = BTreeSet::new();
            self.members.insert(instance, Member { id, seen: now, joined: true, owned, assigned });
            self.begin_rebalance(now);
            self.members.get_mut(&instance).expect("just added").joined = true;
        }
        id
    }

    /// A member joins the next generation, with what it still holds. Returns the present generation: an assignment of
    /// that one, still on its way, is void.
    pub(crate) fn rejoin(&mut self, instance: usize, id: u64, owned: BTreeSet<i32>, now: Time) -> Result<u64, Refusal> {
        let present = self.generation;
        let member = self.members.get(&instance).ok_or(Refusal::NotMember)?;
        if member.id != id {
            return Err(Refusal::Fenced);
        }
        self.begin_rebalance(now);
        let member = self.members.get_mut(&instance).expect("just seen");
        member.joined = true;
        member.seen = now;
        member.owned = owned;
        self.complete(now);
        Ok(present)
    }

    pub(crate) fn leave(&mut self, instance: usize, id: u64, now: Time) {
        if self.members.get(&instance).is_some_and(|member| member.id == id) {
            self.members.remove(&instance);
            self.begin_rebalance(now);
        }
    }

    pub(crate) fn heartbeat(&mut self, instance: usize, id: u64, generation: Option<u64>, now: Time) -> Beat {
        let Some(member) = self.members.get_mut(&instance) else { return Beat::Unknown };
        if member.id != id {
            return Beat::Fenced;
        }
        member.seen = now;
        match self.rebalance {
            Some(_) if member.joined => Beat::Fine,
            Some(_) => Beat::Rebalancing,
            // A client that has just joined has its assignment still on the way.
            None if generation == Some(self.generation) || now <= self.completed + SYNC_GRACE => Beat::Fine,
            None => Beat::Unknown,
        }
    }

    fn begin_rebalance(&mut self, now: Time) {
        if self.rebalance.is_none() {
            self.rebalance = Some(now + REBALANCE_TIMEOUT);
            for member in self.members.values_mut() {
                member.joined = false;
            }
        }
    }

    /// Sessions end, rebalances complete.
    pub(crate) fn pass_time(&mut self, now: Time) {
        let before = self.members.len();
        self.members.retain(|_, member| member.seen + SESSION_TIMEOUT >= now);
        if self.members.len() < before {
            self.begin_rebalance(now);
        }
        self.complete(now);
    }

    fn complete(&mut self, now: Time) {
        let Some(deadline) = self.rebalance else { return };
        if now >= deadline {
            self.members.retain(|_, member| member.joined);
        }
        if self.members.values().any(|member| !member.joined) {
            return;
        }
        self.rebalance = None;
        self.completed = now;
        self.generation += 1;
        self.assign();
        for member in self.members.values() {
            let partitions = member.assigned.clone();
            self.syncs.push(Sync { member: member.id, generation: self.generation, partitions });
        }
    }

    /// Sticky and cooperative: what moves is first only taken away, and given once its owner has let go.
    fn assign(&mut self) {
        if self.members.is_empty() {
            return;
        }
        let count = i32::try_from(self.members.len()).expect("a few");
        let most = usize::try_from((self.partitions + count - 1) / count).expect("positive");
        let mut target: BTreeMap<usize, BTreeSet<i32>> = BTreeMap::new();
        let mut taken = BTreeSet::new();
        for (&instance, member) in &self.members {
            let kept: BTreeSet<i32> = member.owned.iter().copied().filter(|p| !taken.contains(p)).take(most).collect();
            taken.extend(kept.iter().copied());
            target.insert(instance, kept);
        }
        for partition in (0..self.partitions).filter(|partition| !taken.contains(partition)) {
            let poorest = target.values_mut().min_by_key(|partitions| partitions.len()).expect("not empty");
            poorest.insert(partition);
        }
        let owned: BTreeMap<i32, usize> =
            self.members.iter().flat_map(|(&name, member)| member.owned.iter().map(move |&p| (p, name))).collect();
        for (&instance, member) in &mut self.members {
            let free = |partition: &i32| owned.get(partition).is_none_or(|&owner| owner == instance);
            member.assigned = target[&instance].iter().copied().filter(free).collect();
        }
        let assigned: usize = self.members.values().map(|member| member.assigned.len()).sum();
        self.withheld = assigned < index(self.partitions);
    }

    /// Whether a transactional offset commit of this consumer is let in: `ClassicGroup.validateOffsetCommit`.
    pub(crate) fn validate(&self, who: Membership) -> Result<(), Refusal> {
        if who.generation.is_none() && self.members.is_empty() {
            return Ok(());
        }
        if who.instance.is_none() && who.member.is_none() && who.generation.is_none() {
            // A transaction of a consumer that manages no group: nothing to check.
            return Ok(());
        }
        let member = match who.instance {
            Some(instance) => {
                let member = self.members.get(&instance).ok_or(Refusal::NotMember)?;
                if who.member != Some(member.id) {
                    return Err(Refusal::Fenced);
                }
                member
            }
            None => self.members.values().find(|member| Some(member.id) == who.member).ok_or(Refusal::NotMember)?,
        };
        if who.member == Some(member.id) && who.generation == Some(self.generation) {
            Ok(())
        } else {
            Err(Refusal::NotMember)
        }
    }

    pub(crate) fn pend(&mut self, producer: usize, offsets: &[Offset]) {
        let pending = self.pending.entry(producer).or_default();
        for &offset in offsets {
            pending.retain(|other| other.partition != offset.partition);
            pending.push(offset);
        }
    }

    pub(crate) fn mark(&mut self, producer: usize, commit: bool) {
        for Offset { partition, next, note } in self.pending.remove(&producer).unwrap_or_default() {
            if commit {
                self.stable.insert(partition, (next, note));
            }
        }
    }

    /// The committed offset, once no transaction that would change it is being decided.
    pub(crate) fn stable(&self, partition: i32) -> Result<Committed, Refusal> {
        if self.pending.values().flatten().any(|offset| offset.partition == partition) {
            return Err(Refusal::Busy);
        }
        Ok(self.stable.get(&partition).copied())
    }

    /// The broker's retention of offsets has passed: it removes those of an empty group.
    pub(crate) fn expire_offsets(&mut self) -> bool {
        let expired = self.members.is_empty() && self.pending.is_empty();
        if expired {
            self.stable.clear();
        }
        expired
    }
}

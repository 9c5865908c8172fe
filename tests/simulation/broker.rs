//! The simulated brokers: logs with markers and aborted ranges, the transaction coordinator with its epochs.
//!
//! After Apache Kafka 3.9 and the transaction protocol that librdkafka speaks (version 1, with the coordinator verifying
//! a partition before it is written to). `EndTxn` is answered once the decision is written down; the markers reach each
//! partition later, one by one.

use std::collections::{BTreeMap, BTreeSet};

use crate::group::Group;
use crate::toy::{Change, Happening, Output};

/// Milliseconds since the simulation began.
pub(crate) type Time = u64;

/// How long a transaction may stay open.
pub(crate) const TRANSACTION_TIMEOUT: Time = 4_000;
/// How long a deletion stays in the compacted changelog (`delete.retention.ms`).
pub(crate) const DELETE_RETENTION: Time = 8_000;

/// A producer's identity: whose transactional id, and which epoch of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Producer {
    pub(crate) id: usize,
    pub(crate) epoch: u32,
}

/// What a transaction can touch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    Changelog(i32),
    Output(i32),
    /// The group's offsets.
    Group,
}

/// Why a request was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Ask again: something is being decided.
    Busy,
    /// An old epoch.
    Fenced,
    /// A member that the group does not know, or an old generation.
    NotMember,
    /// Not what the transaction's state allows.
    Invalid,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Open,
    Committed,
    Aborted,
}

#[derive(Clone, Debug)]
struct Entry<T> {
    offset: i64,
    at: Time,
    producer: usize,
    transaction: u64,
    fate: Fate,
    /// Removed by compaction; kept for the check at the end.
    compacted: bool,
    payload: T,
}

/// One partition of a topic written in transactions. Markers take offsets.
#[derive(Clone, Debug)]
pub(crate) struct Log<T> {
    entries: Vec<Entry<T>>,
    end: i64,
    /// The first offset of each open transaction, by producer.
    open: BTreeMap<usize, i64>,
    /// What was appended already: a repeated request appends nothing (the idempotent producer).
    seen: BTreeMap<u64, i64>,
}

impl<T> Default for Log<T> {
    fn default() -> Self {
        Self { entries: Vec::new(), end: 0, open: BTreeMap::new(), seen: BTreeMap::new() }
    }
}

impl<T: Clone> Log<T> {
    /// The high watermark.
    pub(crate) fn end(&self) -> i64 {
        self.end
    }

    /// The last stable offset.
    pub(crate) fn stable_end(&self) -> i64 {
        self.open.values().copied().min().unwrap_or(self.end)
    }

    /// The committed records from `from` to before `to`; `aborted` adds those that were not.
    pub(crate) fn read(&self, from: i64, to: i64, aborted: bool) -> Vec<T> {
        let range = self.entries.iter().filter(|entry| (from..to).contains(&entry.offset) && !entry.compacted);
        range.filter(|entry| aborted || entry.fate == Fate::Committed).map(|entry| entry.payload.clone()).collect()
    }

    fn append(&mut self, at: Time, producer: usize, transaction: u64, request: u64, payloads: &[T]) -> i64 {
        if let Some(&last) = self.seen.get(&request) {
            return last;
        }
        if !payloads.is_empty() {
            self.open.entry(producer).or_insert(self.end);
        }
        for payload in payloads {
            let payload = payload.clone();
            let fate = Fate::Open;
            self.entries.push(Entry { offset: self.end, at, producer, transaction, fate, compacted: false, payload });
            self.end += 1;
        }
        self.seen.insert(request, self.end - 1);
        self.end - 1
    }

    fn mark(&mut self, producer: usize, committed: bool) {
        let fate = if committed { Fate::Committed } else { Fate::Aborted };
        if let Some(first) = self.open.remove(&producer) {
            let open = self.entries.iter_mut().rev().take_while(|entry| entry.offset >= first);
            for entry in open.filter(|entry| entry.producer == producer && entry.fate == Fate::Open) {
                entry.fate = fate;
            }
        }
        self.end += 1;
    }
}

impl Log<Change> {
    /// The cleaner: overwritten and aborted records go, and deletions that are old enough.
    pub(crate) fn compact(&mut self, now: Time) {
        let end = self.stable_end();
        let mut newer = BTreeSet::new();
        for entry in self.entries.iter_mut().rev().filter(|entry| entry.offset < end) {
            let (key, value) = entry.payload;
            let overwritten = entry.fate == Fate::Committed && !newer.insert(key);
            let expired = value.is_none() && entry.at + DELETE_RETENTION < now;
            entry.compacted |= overwritten || expired || entry.fate == Fate::Aborted;
        }
    }

    /// From this offset on no deletion can be removed while a replay takes its time: what a look-up by time tells.
    pub(crate) fn whole_from(&self, now: Time) -> i64 {
        let young = self.entries.iter().find(|entry| !entry.compacted && entry.at + DELETE_RETENTION / 2 >= now);
        young.map_or(self.end, |entry| entry.offset)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Empty,
    Ongoing,
    Preparing { commit: bool },
    Complete { commit: bool },
}

/// What the coordinator knows of a transactional id.
#[derive(Clone, Debug)]
struct Transaction {
    epoch: u32,
    phase: Phase,
    places: BTreeSet<Place>,
    began: Time,
    /// Numbers all transactions, for the check at the end.
    serial: u64,
}

/// A marker on its way to a place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Marker {
    pub(crate) place: Place,
    pub(crate) producer: usize,
    pub(crate) commit: bool,
}

/// All brokers together.
#[derive(Clone, Debug)]
pub(crate) struct Broker {
    pub(crate) input: Vec<Vec<Happening>>,
    pub(crate) changelog: Vec<Log<Change>>,
    pub(crate) output: Vec<Log<Output>>,
    pub(crate) group: Group,
    transactions: BTreeMap<usize, Transaction>,
    /// The decisions, by serial number.
    decided: BTreeMap<u64, bool>,
    serial: u64,
    /// Markers that have to be sent: the world delays each.
    pub(crate) markers: Vec<Marker>,
}

impl Broker {
    pub(crate) fn new(partitions: usize) -> Self {
        Self {
            input: vec![Vec::new(); partitions],
            changelog: vec![Log::default(); partitions],
            output: vec![Log::default(); partitions],
            group: Group::new(partitions),
            transactions: BTreeMap::new(),
            decided: BTreeMap::new(),
            serial: 0,
            markers: Vec::new(),
        }
    }

    /// `InitProducerId`: settles what is open, and fences whoever used the id before.
    pub(crate) fn init(&mut self, id: usize) -> Result<Producer, Refusal> {
        let fresh = Transaction { epoch: 0, phase: Phase::Empty, places: BTreeSet::new(), began: 0, serial: 0 };
        let transaction = self.transactions.entry(id).or_insert(fresh);
        match transaction.phase {
            Phase::Ongoing => {
                transaction.epoch += 1;
                self.decide(id, false);
                Err(Refusal::Busy)
            }
            Phase::Preparing { .. } => Err(Refusal::Busy),
            Phase::Empty | Phase::Complete { .. } => {
                transaction.epoch += 1;
                transaction.phase = Phase::Empty;
                Ok(Producer { id, epoch: transaction.epoch })
            }
        }
    }

    /// `AddPartitionsToTxn`, which begins a transaction if none is open.
    fn join(&mut self, producer: Producer, place: Place, now: Time) -> Result<u64, Refusal> {
        let transaction = self.transactions.get_mut(&producer.id).ok_or(Refusal::Fenced)?;
        if transaction.epoch != producer.epoch {
            return Err(Refusal::Fenced);
        }
        match transaction.phase {
            Phase::Preparing { .. } => return Err(Refusal::Busy),
            Phase::Ongoing => {}
            Phase::Empty | Phase::Complete { .. } => {
                self.serial += 1;
                transaction.serial = self.serial;
                transaction.phase = Phase::Ongoing;
                transaction.began = now;
            }
        }
        transaction.places.insert(place);
        Ok(transaction.serial)
    }

    /// Appends changelog records; the answer is the last one's offset.
    pub(crate) fn write_changelog(
        &mut self,
        producer: Producer,
        partition: i32,
        request: u64,
        changes: &[Change],
        now: Time,
    ) -> Result<i64, Refusal> {
        let serial = self.join(producer, Place::Changelog(partition), now)?;
        Ok(self.changelog[index(partition)].append(now, producer.id, serial, request, changes))
    }

    /// Appends output records.
    pub(crate) fn write_output(
        &mut self,
        producer: Producer,
        partition: i32,
        request: u64,
        outputs: &[Output],
        now: Time,
    ) -> Result<i64, Refusal> {
        let serial = self.join(producer, Place::Output(partition), now)?;
        Ok(self.output[index(partition)].append(now, producer.id, serial, request, outputs))
    }

    /// `AddOffsetsToTxn` and `TxnOffsetCommit`.
    pub(crate) fn send_offsets(
        &mut self,
        producer: Producer,
        member: crate::group::Membership,
        offsets: &[crate::group::Offset],
        now: Time,
    ) -> Result<(), Refusal> {
        self.join(producer, Place::Group, now)?;
        self.group.validate(member)?;
        self.group.pend(producer.id, offsets);
        Ok(())
    }

    /// `EndTxn` that commits.
    pub(crate) fn end(&mut self, producer: Producer) -> Result<(), Refusal> {
        let transaction = self.transactions.get(&producer.id).ok_or(Refusal::Fenced)?;
        if transaction.epoch != producer.epoch {
            return Err(Refusal::Fenced);
        }
        match transaction.phase {
            Phase::Ongoing => {
                self.decide(producer.id, true);
                Ok(())
            }
            Phase::Preparing { commit: true } => Err(Refusal::Busy),
            Phase::Complete { commit: true } => Ok(()),
            Phase::Empty | Phase::Preparing { commit: false } | Phase::Complete { commit: false } => {
                Err(Refusal::Invalid)
            }
        }
    }

    fn decide(&mut self, id: usize, commit: bool) {
        let transaction = self.transactions.get_mut(&id).expect("it is open");
        transaction.phase = Phase::Preparing { commit };
        self.decided.insert(transaction.serial, commit);
        self.markers.extend(transaction.places.iter().map(|&place| Marker { place, producer: id, commit }));
    }

    /// A marker arrives.
    pub(crate) fn mark(&mut self, Marker { place, producer, commit }: Marker) {
        match place {
            Place::Changelog(partition) => self.changelog[index(partition)].mark(producer, commit),
            Place::Output(partition) => self.output[index(partition)].mark(producer, commit),
            Place::Group => self.group.mark(producer, commit),
        }
        let transaction = self.transactions.get_mut(&producer).expect("markers come from transactions");
        transaction.places.remove(&place);
        if transaction.places.is_empty() {
            transaction.phase = Phase::Complete { commit };
        }
    }

    /// Aborts what has been open for too long.
    pub(crate) fn expire_transactions(&mut self, now: Time) {
        let late = |transaction: &Transaction| {
            transaction.phase == Phase::Ongoing && transaction.began + TRANSACTION_TIMEOUT < now
        };
        let ids: Vec<usize> = self.transactions.iter().filter(|(_, open)| late(open)).map(|(&id, _)| id).collect();
        for id in ids {
            self.transactions.get_mut(&id).expect("just seen").epoch += 1;
            self.decide(id, false);
        }
    }

    /// Whether no transaction is open or being decided.
    pub(crate) fn is_settled(&self) -> bool {
        let settled = |phase| matches!(phase, Phase::Empty | Phase::Complete { .. });
        self.transactions.values().all(|transaction| settled(transaction.phase))
    }

    /// Whether somebody has committed to a shard after a changelog offset. Then compaction may have removed what was true
    /// at that offset, and a zombie that restores up to there gets a copy of no moment in particular: useless until it
    /// has replayed the rest, and harmless, as it cannot commit upon it.
    pub(crate) fn has_moved_on(&self, partition: i32, from: i64) -> bool {
        let entries = self.changelog[index(partition)].entries.iter().rev();
        let mut later = entries.take_while(|entry| entry.offset >= from);
        later.any(|entry| self.decided.get(&entry.transaction) == Some(&true))
    }

    /// The truth about a shard up to a changelog offset, whatever compaction or a missing marker hide.
    pub(crate) fn truth(&self, partition: i32, to: i64) -> crate::toy::State {
        let mut state = crate::toy::State::default();
        let before = self.changelog[index(partition)].entries.iter().take_while(|entry| entry.offset < to);
        for entry in before.filter(|entry| self.decided.get(&entry.transaction) == Some(&true)) {
            state.put(entry.payload);
        }
        state
    }
}

pub(crate) fn index(partition: i32) -> usize {
    usize::try_from(partition).expect("partitions are not negative")
}

//! One process of Ebbtide with one worker: what it keeps in memory and on disk, and what it is waiting for.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use ebbtide::kafka::commit::Commit;

use crate::broker::{Place, Producer, Time};
use crate::group::{Committed, Membership, Note};
use crate::toy::{Change, Output, State};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    Running,
    /// Between SIGSTOP and SIGCONT.
    Stopped,
    Dead,
    /// Dead, and not started again.
    Retired,
}

/// A change of the assignment that waits for the worker's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Moved {
    Assigned(BTreeSet<i32>),
    Revoked(BTreeSet<i32>),
    Lost(BTreeSet<i32>),
}

/// The client side of the group membership, which lives on in the background while the worker is busy.
#[derive(Clone, Debug, Default)]
pub(crate) struct Consumer {
    pub(crate) member: Option<u64>,
    pub(crate) generation: Option<u64>,
    pub(crate) owned: BTreeSet<i32>,
    pub(crate) changes: VecDeque<Moved>,
    /// When the group last answered.
    pub(crate) contact: Time,
    /// The generation, and the member id in it, that the last served change belongs to: commits are made in its name.
    pub(crate) served: Option<(u64, u64)>,
    pub(crate) rejoin: bool,
    /// It has decided to join the next generation, and asks for it next. Until then its session is not looked at, neither
    /// by itself nor by the answer to a heartbeat.
    pub(crate) joining: bool,
    /// Assignments up to this generation are void: the member has joined a later one.
    pub(crate) void: u64,
    pub(crate) fenced: bool,
}

/// The local store: survives a crash as far as it was flushed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    pub(crate) live: BTreeMap<i32, (State, i64)>,
    pub(crate) flushed: BTreeMap<i32, (State, i64)>,
}

/// What the restoring of a shard asks next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Group,
    Bounds,
    Settle,
    Read {
        from: i64,
    },
    /// The group's offset again, as it contradicts the shard's record.
    Doubt,
    Running,
}

#[derive(Clone, Debug)]
pub(crate) struct Shard {
    pub(crate) stage: Stage,
    pub(crate) token: Option<u64>,
    pub(crate) not_before: Time,
    /// The changelog: from where on no deletion is missing, and its high watermark.
    pub(crate) whole: i64,
    pub(crate) end: i64,
    /// The group's offset as this worker knows it.
    pub(crate) group: Committed,
    /// In this generation the group's offset was seen to be `group`.
    pub(crate) proven: bool,
    pub(crate) committed: State,
    pub(crate) working: State,
    pub(crate) position: i64,
    pub(crate) outputs: Vec<Output>,
}

impl Shard {
    pub(crate) fn new() -> Self {
        Self {
            stage: Stage::Group,
            token: None,
            not_before: 0,
            whole: 0,
            end: 0,
            group: None,
            proven: false,
            committed: State::default(),
            working: State::default(),
            position: 0,
            outputs: Vec::new(),
        }
    }

    pub(crate) fn is_dirty(&self) -> bool {
        self.stage == Stage::Running && !self.outputs.is_empty()
    }

    pub(crate) fn roll_back(&mut self) {
        if !self.outputs.is_empty() {
            self.outputs.clear();
            self.working = self.committed.clone();
            let moved = self.working.next();
            self.position = moved.unwrap_or(0);
        }
    }
}

/// One shard's part of a commit.
#[derive(Clone, Debug)]
pub(crate) struct Sealed {
    pub(crate) partition: i32,
    pub(crate) changes: Vec<Change>,
    pub(crate) outputs: Vec<Output>,
    pub(crate) next: i64,
    pub(crate) note: Note,
    pub(crate) before: Committed,
    /// The highest changelog offset, from the delivery reports.
    pub(crate) delivered: i64,
}

/// What a call is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The first producer of a worker.
    Starting,
    /// Seeing that nobody else has committed.
    Proving,
    /// A step of the commit protocol.
    Committing,
}

/// A blocking call of the worker.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) token: u64,
    pub(crate) started: Time,
    /// A connection was lost meanwhile, and a request repeated.
    pub(crate) repeated: bool,
    pub(crate) waiting: BTreeSet<Place>,
    pub(crate) purpose: Purpose,
}

#[derive(Clone, Debug)]
pub(crate) struct Process {
    pub(crate) name: usize,
    pub(crate) life: Life,
    pub(crate) incarnation: u32,
    pub(crate) cut_until: Time,
    /// Only the answers are lost, not the requests.
    pub(crate) cut_answers_only: bool,
    pub(crate) consumer: Consumer,
    pub(crate) producer: Option<Producer>,
    pub(crate) commit: Commit,
    pub(crate) commits: u64,
    pub(crate) sealed: Vec<Sealed>,
    pub(crate) call: Option<Call>,
    pub(crate) shards: BTreeMap<i32, Shard>,
    pub(crate) disk: Disk,
    /// The present revocation has been given its last commit.
    pub(crate) farewell: bool,
    /// Set by the supervisor: end in good order.
    pub(crate) leaving: bool,
}

impl Process {
    pub(crate) fn new(name: usize) -> Self {
        Self {
            name,
            life: Life::Dead,
            incarnation: 0,
            cut_until: 0,
            cut_answers_only: false,
            consumer: Consumer::default(),
            producer: None,
            commit: Commit::default(),
            commits: 0,
            sealed: Vec::new(),
            call: None,
            shards: BTreeMap::new(),
            disk: Disk::default(),
            farewell: false,
            leaving: false,
        }
    }

    /// Forgets all but the disk.
    pub(crate) fn forget(&mut self) {
        self.incarnation += 1;
        self.consumer = Consumer::default();
        self.producer = None;
        self.commit = Commit::default();
        self.sealed.clear();
        self.call = None;
        self.shards.clear();
        self.farewell = false;
    }

    /// What the client says of itself at this moment.
    pub(crate) fn newest_membership(&self) -> Membership {
        let Consumer { member, generation, .. } = self.consumer;
        Membership { instance: Some(self.name), member, generation }
    }

    /// What it said when the last change was served.
    pub(crate) fn membership(&self) -> Membership {
        let (member, generation) = self.consumer.served.unzip();
        Membership { instance: Some(self.name), member, generation }
    }

    /// The session is over, as far as the client knows: whatever it held may be somebody else's.
    pub(crate) fn lose(&mut self) {
        let consumer = &mut self.consumer;
        consumer.member = None;
        consumer.generation = None;
        consumer.rejoin = false;
        consumer.joining = false;
        consumer.void = 0;
        consumer.changes.clear();
        if !consumer.owned.is_empty() {
            consumer.changes.push_back(Moved::Lost(consumer.owned.clone()));
        }
    }
}

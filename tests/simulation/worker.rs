//! The driver: what a worker does in its loop, how it restores a shard, and each action of the commit protocol as requests to the brokers.

use std::collections::BTreeSet;

use ebbtide::kafka::commit::{Action, Failure, Input, Outcome, Pace, State as Step};
use ebbtide::kafka::takeover::{self, Facts, Replay, Resume, TakeoverError};

use crate::broker::{Place, Producer, Refusal, Time, index};
use crate::group::{Committed, Membership, Offset};
use crate::mutation::Mutation;
use crate::process::{Call, Life, Purpose, Sealed, Shard, Stage};
use crate::toy::State;
use crate::world::{Event, Reply, Request, World};

/// How long a call may take.
const CALL_TIMEOUT: Time = 2_000;
/// From here on a call counts as slow.
const SLOW: Time = 500;
/// How long to wait before asking a busy coordinator again.
const BACKOFF: Time = 40;

const DONE: Input = Input::Done(Pace::Quick);

impl World {
    /// A process begins: its producer first, which settles what a predecessor of the same name left open.
    pub(crate) fn start(&mut self, p: usize) {
        let process = &mut self.processes[p];
        if process.life != Life::Dead {
            return;
        }
        process.forget();
        process.life = Life::Running;
        process.leaving = false;
        process.consumer.contact = self.now;
        let name = process.name;
        self.call(p, Purpose::Starting, &[Request::Init(name)]);
        self.of_process(p, 20, Event::Loop);
        self.of_process(p, 30, Event::Beat);
    }

    /// Ends a process without further ado. What was not flushed is gone.
    pub(crate) fn kill(&mut self, p: usize) {
        let process = &mut self.processes[p];
        process.forget();
        process.life = Life::Dead;
        process.disk.live = process.disk.flushed.clone();
    }

    /// Drops everything in memory, and joins anew later.
    fn rejoin(&mut self, p: usize) {
        let process = &mut self.processes[p];
        process.forget();
        process.life = Life::Dead;
        let delay = self.between(100, 800);
        self.after(delay, Event::Start(p));
    }

    /// Begins a blocking call.
    fn call(&mut self, p: usize, purpose: Purpose, requests: &[Request]) {
        let token = self.token();
        let places = requests.iter().filter_map(Request::place);
        let waiting: BTreeSet<Place> = places.collect();
        self.processes[p].call = Some(Call { token, started: self.now, repeated: false, waiting, purpose });
        self.of_process(p, CALL_TIMEOUT, move |p, incarnation| Event::Deadline(p, incarnation, token));
        for request in requests {
            self.send(p, token, request.clone());
        }
    }

    /// One turn of the worker's loop.
    pub(crate) fn turn(&mut self, p: usize) {
        if self.processes[p].call.is_some() || self.processes[p].producer.is_none() {
            return;
        }
        if self.processes[p].consumer.fenced {
            self.note(|| format!("process {p} is fenced, and ends"));
            return self.rejoin(p);
        }
        if !self.answer_the_group(p) {
            return;
        }
        self.restore(p);
        self.read_input(p);
        if self.chance(0.05) {
            let disk = &mut self.processes[p].disk;
            disk.flushed = disk.live.clone();
        }
        let dirty = self.processes[p].shards.values().any(Shard::is_dirty);
        if self.processes[p].leaving && !dirty {
            let process = &mut self.processes[p];
            if let Some(member) = process.consumer.member {
                self.broker.group.leave(process.name, member, self.now);
            }
            process.disk.flushed = process.disk.live.clone();
            process.forget();
            process.life = Life::Dead;
        } else if dirty && self.chance(0.5) {
            self.commit(p);
        }
    }

    fn read_input(&mut self, p: usize) {
        let owned = self.processes[p].consumer.owned.clone();
        let partitions: Vec<i32> = self.processes[p].shards.keys().copied().collect();
        for partition in partitions {
            let most = self.between(0, 4);
            let moment = !self.healed && self.chance(0.1);
            let shard = self.processes[p].shards.get_mut(&partition).expect("just listed");
            if shard.stage != Stage::Running || !owned.contains(&partition) {
                continue;
            }
            let input = &self.broker.input[index(partition)];
            for _ in 0..most {
                let Some(&happening) = usize::try_from(shard.position).ok().and_then(|at| input.get(at)) else { break };
                shard.outputs.push(shard.working.apply(shard.position, happening));
                shard.position += 1;
            }
            if moment {
                shard.outputs.push(shard.working.moment(shard.position));
            }
        }
    }

    // Restoring.

    fn restore(&mut self, p: usize) {
        let now = self.now;
        let waiting = |shard: &Shard| shard.stage != Stage::Running && shard.token.is_none() && shard.not_before <= now;
        let shards = self.processes[p].shards.iter().filter(|(_, shard)| waiting(shard));
        let partitions: Vec<i32> = shards.map(|(&partition, _)| partition).collect();
        for partition in partitions {
            let token = self.token();
            let shard = self.processes[p].shards.get_mut(&partition).expect("just listed");
            shard.token = Some(token);
            let request = match shard.stage {
                Stage::Group | Stage::Doubt => Request::Fetch(vec![partition]),
                Stage::Bounds => Request::Bounds(partition),
                Stage::Settle => Request::StableEnd(partition),
                Stage::Read { from } => Request::Read { partition, from, to: shard.end },
                Stage::Running => continue,
            };
            self.of_process(p, CALL_TIMEOUT, move |p, incarnation| Event::Deadline(p, incarnation, token));
            self.send(p, token, request);
        }
    }

    fn restored(&mut self, p: usize, partition: i32, reply: Reply) {
        let mutation = self.mutation;
        let now = self.now;
        let process = &mut self.processes[p];
        let shard = process.shards.get_mut(&partition).expect("the caller found it");
        shard.token = None;
        match (shard.stage, reply) {
            (Stage::Group, Reply::Offsets(offsets)) => {
                shard.group = offsets[0];
                shard.stage = Stage::Bounds;
            }
            (Stage::Doubt, Reply::Offsets(offsets)) => self.doubt(p, partition, offsets[0]),
            (Stage::Bounds, Reply::Bounds { whole, end, stable }) => {
                shard.whole = whole;
                shard.end = end;
                shard.stage = Stage::Settle;
                if mutation == Some(Mutation::RestoreToLastStable) {
                    shard.end = stable;
                    self.replay(p, partition);
                }
            }
            (Stage::Settle, Reply::StableEnd(stable)) if stable >= shard.end => self.replay(p, partition),
            (Stage::Settle, Reply::StableEnd(_)) => shard.not_before = now + 25,
            (Stage::Read { .. }, Reply::Records(changes)) => {
                let end = shard.end;
                let copy = process.disk.live.entry(partition).or_default();
                for change in changes {
                    copy.0.put(change);
                }
                copy.1 = end;
                self.take_over(p, partition);
            }
            (_, Reply::Refused(_)) => shard.not_before = now + BACKOFF,
            (stage, reply) => panic!("{reply:?} is no answer in {stage:?}"),
        }
    }

    fn replay(&mut self, p: usize, partition: i32) {
        let process = &mut self.processes[p];
        let shard = process.shards.get_mut(&partition).expect("it is being restored");
        let local = process.disk.live.get(&partition).map(|copy| copy.1);
        let whole = if self.mutation == Some(Mutation::TrustStaleCopy) { 0 } else { shard.whole };
        match takeover::replay(local, 0, whole, shard.end) {
            Replay::Nothing => self.take_over(p, partition),
            Replay::Tail { from } => shard.stage = Stage::Read { from },
            Replay::All { from, .. } => {
                process.disk.live.remove(&partition);
                shard.stage = Stage::Read { from };
            }
        }
    }

    /// What the takeover is decided on.
    fn resume(&self, p: usize, partition: i32) -> Result<Resume, TakeoverError> {
        let process = &self.processes[p];
        let local = process.disk.live.get(&partition);
        let end = i64::try_from(self.broker.input[index(partition)].len()).expect("a few");
        takeover::resume(&Facts {
            topic: "input",
            partition,
            group: process.shards[&partition].group.map(|(next, _)| next),
            shard: local.and_then(|(state, _)| state.next()),
            start: 0,
            end,
            accept: None,
        })
    }

    /// The offsets contradict each other: it stops the program only if the group's is still what it was.
    fn doubt(&mut self, p: usize, partition: i32, group: Committed) {
        if let Err(error) = self.resume(p, partition)
            && error.stands(group.map(|(next, _)| next))
        {
            return self.violation(format!("process {p} stopped although nobody moved an offset: {error}"));
        }
        self.count("restores begun anew");
        self.processes[p].shards.insert(partition, Shard::new());
    }

    fn take_over(&mut self, p: usize, partition: i32) {
        let resume = self.resume(p, partition);
        let process = &mut self.processes[p];
        let state = process.disk.live.get(&partition).map(|copy| copy.0.clone()).unwrap_or_default();
        let shard = process.shards.get_mut(&partition).expect("it is being restored");
        let from = match resume {
            _ if self.mutation == Some(Mutation::ResumeFromGroup) => shard.group.map_or(0, |(next, _)| next),
            Ok(resume) => resume.from,
            Err(_) if self.mutation != Some(Mutation::StopAtFirstSight) => {
                shard.stage = Stage::Doubt;
                return;
            }
            Err(error) => {
                return self.violation(format!("process {p} stopped although nobody moved an offset: {error}"));
            }
        };
        shard.position = from;
        shard.committed = state.clone();
        shard.working = state;
        shard.stage = Stage::Running;
        let reached = shard.end;
        self.check_state(p, partition, reached, "restored");
        self.note(|| format!("process {p} runs shard {partition} from {from}"));
    }

    // Committing.

    pub(crate) fn commit(&mut self, p: usize) {
        let process = &mut self.processes[p];
        if self.mutation == Some(Mutation::KeepLostPartition) && process.consumer.generation.is_none() {
            return;
        }
        let unproven = process.shards.iter().filter(|(_, shard)| shard.is_dirty() && !shard.proven);
        let unproven: Vec<i32> = unproven.map(|(&partition, _)| partition).collect();
        if !unproven.is_empty() && self.mutation != Some(Mutation::TrustClaims) {
            return self.call(p, Purpose::Proving, &[Request::Fetch(unproven)]);
        }
        process.commits += 1;
        let note = (p, u64::from(process.incarnation) << 32 | process.commits);
        process.sealed.clear();
        for (&partition, shard) in process.shards.iter().filter(|(_, shard)| shard.is_dirty()) {
            process.sealed.push(Sealed {
                partition,
                changes: shard.working.changes_since(&shard.committed),
                outputs: shard.outputs.clone(),
                next: shard.position,
                note,
                before: shard.group,
                delivered: -1,
            });
        }
        self.step(p, Input::Sealed);
    }

    /// Goes on with the commit if the group's offsets are what this worker knows.
    fn prove(&mut self, p: usize, reply: &Reply) {
        let process = &mut self.processes[p];
        process.call = None;
        let unproven = process.shards.values_mut().filter(|shard| shard.is_dirty() && !shard.proven);
        let sound = match reply {
            Reply::Offsets(seen) => unproven.zip(seen).all(|(shard, seen)| {
                shard.proven = shard.group == *seen;
                shard.proven
            }),
            _ => false,
        };
        if sound {
            self.commit(p);
        } else {
            self.count("commits of others noticed");
            self.note(|| format!("process {p}: somebody else has committed: {reply:?}"));
            self.rejoin(p);
        }
    }

    /// Tells the protocol what happened, and does what it asks for, until something has to be waited for.
    fn step(&mut self, p: usize, input: Input) {
        let mut next = Some(input);
        while let Some(mut input) = next {
            let fenced = input == Input::Failed(Failure::Fenced);
            if fenced
                && self.mutation == Some(Mutation::IgnoreFencing)
                && !matches!(self.processes[p].commit.state(), Step::Renewing(_))
            {
                input = DONE;
            }
            let action = self.processes[p].commit.step(input);
            self.note(|| format!("process {p}: {input:?} -> {action:?}"));
            next = self.perform(p, action);
        }
    }

    fn perform(&mut self, p: usize, action: Action) -> Option<Input> {
        let mutation = self.mutation;
        let process = &mut self.processes[p];
        // Epoch 0 is nobody's: after a failed renewal there is no producer, and no action that needs one.
        let producer = process.producer.unwrap_or(Producer { id: process.name, epoch: 0 });
        match action {
            Action::Begin => Some(DONE),
            Action::Produce => {
                let first = self.tokens(2 * u64::try_from(self.processes[p].sealed.len()).expect("a few"));
                let sealed = self.processes[p].sealed.clone();
                let requests: Vec<Request> = sealed
                    .into_iter()
                    .zip(0..)
                    .flat_map(|(sealed, number): (Sealed, u64)| {
                        let Sealed { partition, changes, outputs, .. } = sealed;
                        let id = first + 2 * number;
                        [
                            Request::Outputs { producer, partition, id, outputs },
                            Request::Changes { producer, partition, id: id + 1, changes },
                        ]
                    })
                    .collect();
                self.call(p, Purpose::Committing, &requests);
                Some(DONE)
            }
            Action::AwaitDelivery => None,
            Action::SendOffsets => {
                let lost = process.consumer.generation.is_none();
                let mut member = match mutation {
                    Some(Mutation::NewestGeneration) => process.newest_membership(),
                    Some(Mutation::CommitWhileLost) if lost => process.newest_membership(),
                    _ => process.membership(),
                };
                if mutation == Some(Mutation::ForgetGeneration) {
                    member = Membership { instance: None, member: None, generation: None };
                } else if lost && mutation != Some(Mutation::CommitWhileLost) {
                    return Some(Input::Failed(Failure::Broken));
                }
                let sealed = process.sealed.iter();
                let offsets =
                    sealed.map(|&Sealed { partition, next, note, .. }| Offset { partition, next, note }).collect();
                self.call(p, Purpose::Committing, &[Request::SendOffsets { producer, member, offsets }]);
                None
            }
            Action::Commit => {
                if mutation == Some(Mutation::ApplyBeforeCommit) {
                    self.write_locally(p);
                }
                self.call(p, Purpose::Committing, &[Request::End(producer)]);
                None
            }
            Action::Apply => {
                self.write_locally(p);
                self.applied(p);
                Some(DONE)
            }
            Action::Renew => {
                let after_commit = process.commit.state() == Step::Renewing(ebbtide::kafka::commit::Next::Resolve);
                if after_commit && mutation == Some(Mutation::ReuseProducerAfterTimeout) {
                    return Some(DONE);
                }
                process.producer = None;
                let name = process.name;
                self.call(p, Purpose::Committing, &[Request::Init(name)]);
                None
            }
            Action::ReadOffsets => match mutation {
                Some(Mutation::GuessTaken) => Some(Input::Resolved(Outcome::Took)),
                Some(Mutation::GuessLost) => Some(Input::Resolved(Outcome::DidNotTake)),
                _ => {
                    let partitions = process.sealed.iter().map(|sealed| sealed.partition).collect();
                    self.call(p, Purpose::Committing, &[Request::Fetch(partitions)]);
                    None
                }
            },
            Action::RollBack => {
                process.shards.values_mut().for_each(Shard::roll_back);
                Some(DONE)
            }
            Action::Rest => {
                process.sealed.clear();
                None
            }
            Action::Rejoin | Action::Stop => {
                self.rejoin(p);
                None
            }
        }
    }

    fn write_locally(&mut self, p: usize) {
        let process = &mut self.processes[p];
        for sealed in &process.sealed {
            if let Some(shard) = process.shards.get(&sealed.partition) {
                process.disk.live.insert(sealed.partition, (shard.working.clone(), sealed.delivered + 1));
            }
        }
    }

    fn applied(&mut self, p: usize) {
        let sealed = self.processes[p].sealed.clone();
        for Sealed { partition, next, note, delivered, .. } in sealed {
            let Some(shard) = self.processes[p].shards.get_mut(&partition) else { continue };
            shard.committed = shard.working.clone();
            shard.outputs.clear();
            shard.group = Some((next, note));
            self.check_state(p, partition, delivered + 1, "wrote");
        }
    }

    /// The local copy of a shard holds what was committed up to there, no more and no less.
    fn check_state(&mut self, p: usize, partition: i32, reached: i64, what: &str) {
        if self.broker.has_moved_on(partition, reached) {
            return;
        }
        let truth = self.broker.truth(partition, reached);
        let local: Option<&State> = self.processes[p].disk.live.get(&partition).map(|copy| &copy.0);
        let differs = local.map_or(truth != State::default(), |local| *local != truth);
        if differs {
            let words = format!("process {p} {what} shard {partition} up to {reached}: {local:?} instead of {truth:?}");
            self.violation(words);
        }
    }

    // Answers.

    pub(crate) fn answer(&mut self, p: usize, token: u64, reply: Reply) {
        if let Some(call) = self.processes[p].call.as_mut().filter(|call| call.token == token) {
            if let Reply::Written(place, _) = reply
                && !call.waiting.remove(&place)
            {
                return;
            }
            self.answer_call(p, reply);
            return;
        }
        let waiting = self.processes[p].shards.iter().find(|(_, shard)| shard.token == Some(token));
        if let Some((&partition, _)) = waiting {
            self.restored(p, partition, reply);
        }
    }

    fn answer_call(&mut self, p: usize, reply: Reply) {
        let mutation = self.mutation;
        let process = &mut self.processes[p];
        let call = process.call.as_ref().expect("the caller found it");
        if call.purpose == Purpose::Proving {
            return self.prove(p, &reply);
        }
        let slow = call.started + SLOW <= self.now && mutation != Some(Mutation::TrustSlowCalls);
        let repeated =
            call.repeated && !matches!(mutation, Some(Mutation::TrustSlowCalls | Mutation::TrustQuickRepeats));
        let done = Input::Done(if slow || repeated { Pace::Slow } else { Pace::Quick });
        let starting = call.purpose == Purpose::Starting;
        let input = match reply {
            Reply::Written(place, offset) => {
                if let Place::Changelog(partition) = place
                    && let Some(sealed) = process.sealed.iter_mut().find(|sealed| sealed.partition == partition)
                {
                    sealed.delivered = offset;
                }
                if !process.call.as_ref().expect("as above").waiting.is_empty() {
                    return;
                }
                done
            }
            Reply::Ready(producer) => {
                process.producer = Some(producer);
                DONE
            }
            Reply::Done => done,
            Reply::Offsets(seen) => {
                let alone = mutation == Some(Mutation::ResolveByOffsetAlone);
                let outcomes = process.sealed.iter().zip(seen).map(|(sealed, seen)| {
                    let after = Some((sealed.next, sealed.note));
                    let before = sealed.before;
                    if alone {
                        Outcome::of(&before.map(|it| it.0), &after.map(|it| it.0), &seen.map(|it| it.0))
                    } else {
                        Outcome::of(&before, &after, &seen)
                    }
                });
                Input::Resolved(Outcome::of_all(outcomes))
            }
            Reply::Refused(Refusal::Fenced) => Input::Failed(Failure::Fenced),
            Reply::Refused(Refusal::NotMember | Refusal::Invalid) => Input::Failed(Failure::Broken),
            Reply::Refused(Refusal::Busy) | Reply::Bounds { .. } | Reply::StableEnd(_) | Reply::Records(_) => {
                panic!("{reply:?} answers no call")
            }
        };
        process.call = None;
        if !starting {
            self.step(p, input);
        } else if process.producer.is_none() {
            self.rejoin(p);
        }
    }

    /// A call, or a question of restoring, has taken too long.
    pub(crate) fn deadline(&mut self, p: usize, token: u64) {
        let process = &mut self.processes[p];
        if let Some(call) = process.call.take_if(|call| call.token == token) {
            self.note(|| format!("process {p} has waited long enough"));
            match call.purpose {
                Purpose::Starting | Purpose::Proving => self.rejoin(p),
                Purpose::Committing => self.step(p, Input::Failed(Failure::Broken)),
            }
        } else {
            for shard in process.shards.values_mut().filter(|shard| shard.token == Some(token)) {
                shard.token = None;
            }
        }
    }

    /// Whether a request is still worth repeating; notes that it was.
    pub(crate) fn is_wanted(&mut self, p: usize, token: u64, request: &Request) -> bool {
        let process = &mut self.processes[p];
        if let Some(call) = process.call.as_mut().filter(|call| call.token == token) {
            return request.place().is_none_or(|place| call.waiting.contains(&place));
        }
        process.shards.values().any(|shard| shard.token == Some(token))
    }
}

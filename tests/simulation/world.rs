//! The world: time, the network and its faults, the supervisor that restarts what died. One seed decides everything.

use std::collections::BTreeMap;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::broker::{Broker, Marker, Place, Producer, Refusal, Time, index};
use crate::group::{Committed, Membership, Offset, Sync};
use crate::mutation::Mutation;
use crate::process::{Life, Process};
use crate::toy::{Change, Happening, Output, State};

const PARTITIONS: usize = 3;
/// Processes at the beginning, and names: the others come and go.
const NAMES: usize = 3;
/// Processes in all, replacements of stopped ones included.
const PROCESSES_MAX: usize = 6;
/// How long faults happen.
const FAULTS: Time = 12_000;
/// How long the world may take, once nothing goes wrong any more, to come to the end of the input.
const PATIENCE: Time = 30_000;
/// Input records of each partition.
const RECORDS: usize = 40;
const USERS: u8 = 5;

/// What a process asks of the brokers.
#[derive(Clone, Debug)]
pub(crate) enum Request {
    Init(usize),
    Outputs { producer: Producer, partition: i32, id: u64, outputs: Vec<Output> },
    Changes { producer: Producer, partition: i32, id: u64, changes: Vec<Change> },
    SendOffsets { producer: Producer, member: Membership, offsets: Vec<Offset> },
    End(Producer),
    Fetch(Vec<i32>),
    Bounds(i32),
    StableEnd(i32),
    Read { partition: i32, from: i64, to: i64 },
}

impl Request {
    /// Where it writes.
    pub(crate) fn place(&self) -> Option<Place> {
        match *self {
            Self::Outputs { partition, .. } => Some(Place::Output(partition)),
            Self::Changes { partition, .. } => Some(Place::Changelog(partition)),
            _ => None,
        }
    }
}

/// What the brokers answer.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    Ready(Producer),
    Written(Place, i64),
    Done,
    Offsets(Vec<Committed>),
    Bounds { whole: i64, end: i64, stable: i64 },
    StableEnd(i64),
    Records(Vec<Change>),
    Refused(Refusal),
}

/// Something that happens at a moment. Those of a process name its incarnation: a dead one's are void.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Loop(usize, u32),
    Beat(usize, u32),
    Answer(usize, u32, u64, Reply),
    /// The connection was lost: the request is sent again.
    Again(usize, u32, u64, Request),
    /// The coordinator was busy: the request is sent again.
    Later(usize, u32, u64, Request),
    Deadline(usize, u32, u64),
    Synced(usize, u32, Sync),
    Arrive {
        from: (usize, u32),
        token: u64,
        request: Request,
        answered: bool,
    },
    Mark(Marker),
    Clock,
    Produce,
    Fault,
    Start(usize),
    Continue(usize),
    Heal,
}

impl Event {
    fn process(&self) -> Option<(usize, u32)> {
        match *self {
            Self::Loop(p, incarnation)
            | Self::Beat(p, incarnation)
            | Self::Answer(p, incarnation, ..)
            | Self::Again(p, incarnation, ..)
            | Self::Later(p, incarnation, ..)
            | Self::Deadline(p, incarnation, _)
            | Self::Synced(p, incarnation, _) => Some((p, incarnation)),
            _ => None,
        }
    }
}

/// What a run was.
pub(crate) struct Run {
    /// What was wrong, if anything.
    pub(crate) violation: Option<String>,
    /// What happened, line by line; empty unless asked for.
    pub(crate) log: Vec<String>,
    /// How often each interesting thing happened.
    pub(crate) counts: BTreeMap<&'static str, u64>,
}

pub(crate) struct World {
    pub(crate) now: Time,
    pub(crate) broker: Broker,
    pub(crate) processes: Vec<Process>,
    pub(crate) mutation: Option<Mutation>,
    /// No more faults, no more new work.
    pub(crate) healed: bool,
    random: ChaCha8Rng,
    queue: BTreeMap<(Time, u64), Event>,
    /// What reached a stopped process.
    held: Vec<Event>,
    sequence: u64,
    /// How rough the network is: the share of requests that something happens to.
    rough: f64,
    violation: Option<String>,
    log: Option<Vec<String>>,
    counts: BTreeMap<&'static str, u64>,
}

impl World {
    /// Lives one life to its end.
    pub(crate) fn run(seed: u64, mutation: Option<Mutation>, logged: bool) -> Run {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let rough = [0.0, 0.03, 0.08, 0.2][random.random_range(0..4_usize)];
        let mut world = Self {
            now: 0,
            broker: Broker::new(PARTITIONS),
            processes: (0..NAMES).map(Process::new).collect(),
            mutation,
            healed: false,
            random,
            queue: BTreeMap::new(),
            held: Vec::new(),
            sequence: 0,
            rough,
            violation: None,
            log: logged.then(Vec::new),
            counts: BTreeMap::new(),
        };
        for p in 0..NAMES {
            let delay = world.between(0, 2_000);
            world.after(delay, Event::Start(p));
        }
        for (delay, event) in [(10, Event::Clock), (5, Event::Produce), (500, Event::Fault), (FAULTS, Event::Heal)] {
            world.after(delay, event);
        }
        world.live();
        Run { violation: world.violation, log: world.log.unwrap_or_default(), counts: world.counts }
    }

    fn live(&mut self) {
        while self.violation.is_none() {
            let ((at, _), event) = self.queue.pop_first().expect("the clock always ticks");
            self.now = at;
            if let Some((p, incarnation)) = event.process() {
                if self.processes[p].incarnation != incarnation
                    || matches!(self.processes[p].life, Life::Dead | Life::Retired)
                {
                    continue;
                }
                if self.processes[p].life == Life::Stopped {
                    self.held.push(event);
                    continue;
                }
            }
            self.happen(event);
            while let Some(marker) = self.broker.markers.pop() {
                let slow = !self.healed && self.chance(0.1);
                let delay = if slow { self.between(100, 2_500) } else { self.between(1, 60) };
                self.after(delay, Event::Mark(marker));
            }
            while let Some(sync) = self.broker.group.syncs.pop() {
                let delay = self.between(2, 150);
                let member = self.processes.iter().position(|process| process.consumer.member == Some(sync.member));
                // The answer to a consumer that is only just joining: its process learns the member id in this event.
                if let Some(p) = member {
                    self.of_process(p, delay, move |p, incarnation| Event::Synced(p, incarnation, sync));
                }
            }
            if self.healed && self.is_finished() {
                return self.check();
            }
            if self.now > FAULTS + PATIENCE {
                let offsets: Vec<_> = (0..).take(PARTITIONS).map(|p| self.broker.group.stable(p)).collect();
                self.violation(format!("stuck: the group's offsets are {offsets:?}"));
            }
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Loop(p, _) => {
                let delay = self.between(15, 60);
                self.of_process(p, delay, Event::Loop);
                self.turn(p);
            }
            Event::Beat(p, _) => {
                let delay = self.between(100, 300);
                self.of_process(p, delay, Event::Beat);
                self.beat(p);
            }
            Event::Answer(p, _, token, reply) => self.answer(p, token, reply),
            Event::Again(p, _, token, request) => {
                if self.is_wanted(p, token, &request) {
                    if let Some(call) = self.processes[p].call.as_mut().filter(|call| call.token == token) {
                        call.repeated = true;
                    }
                    self.count("repeated requests");
                    self.note(|| format!("process {p} repeats {request:?}"));
                    self.send(p, token, request);
                }
            }
            Event::Later(p, _, token, request) => {
                if self.is_wanted(p, token, &request) {
                    self.send(p, token, request);
                }
            }
            Event::Deadline(p, _, token) => self.deadline(p, token),
            Event::Synced(p, _, sync) => self.sync(p, &sync),
            Event::Arrive { from: (p, incarnation), token, request, answered } => {
                self.arrive(p, incarnation, token, request, answered);
            }
            Event::Mark(marker) => self.broker.mark(marker),
            Event::Clock => {
                self.broker.expire_transactions(self.now);
                self.broker.group.pass_time(self.now);
                self.after(50, Event::Clock);
            }
            Event::Produce => self.produce(),
            Event::Fault => {
                if !self.healed {
                    self.fault();
                    let delay = self.between(100, 2_000);
                    self.after(delay, Event::Fault);
                }
            }
            Event::Start(p) => self.start(p),
            Event::Continue(p) => self.resume_process(p),
            Event::Heal => self.heal(),
        }
    }

    // The network.

    /// Sends a request, with luck.
    pub(crate) fn send(&mut self, p: usize, token: u64, request: Request) {
        let process = &self.processes[p];
        let from = (p, process.incarnation);
        let cut = process.cut_until > self.now;
        let unlucky = !self.healed && self.chance(self.rough);
        let arrive = |answered| Event::Arrive { from, token, request: request.clone(), answered };
        if cut || unlucky {
            let luck = self.between(0, 2);
            if (cut && self.processes[p].cut_answers_only) || (!cut && luck == 0) {
                let delay = self.between(1, 20);
                self.after(delay, arrive(false));
            } else if !cut && luck == 1 {
                // Held up on the way: it arrives long after the client has sent it again.
                let delay = self.between(50, 4_000);
                self.after(delay, arrive(false));
            }
            let delay = self.between(20, 900);
            self.of_process(p, delay, move |p, incarnation| Event::Again(p, incarnation, token, request));
        } else {
            let delay = self.between(1, 12);
            self.after(delay, arrive(true));
        }
    }

    fn arrive(&mut self, p: usize, incarnation: u32, token: u64, request: Request, answered: bool) {
        let reply = self.serve(&request);
        self.note(|| format!("brokers: {request:?} of process {p} -> {reply:?}"));
        if !answered || self.processes[p].incarnation != incarnation {
            return;
        }
        if matches!(reply, Reply::Refused(Refusal::Busy)) {
            self.of_process(p, 40, move |p, incarnation| Event::Later(p, incarnation, token, request));
        } else {
            let delay = self.between(1, 12);
            self.of_process(p, delay, move |p, incarnation| Event::Answer(p, incarnation, token, reply));
        }
    }

    fn serve(&mut self, request: &Request) -> Reply {
        let now = self.now;
        let broker = &mut self.broker;
        let served = match *request {
            Request::Init(name) => broker.init(name).map(Reply::Ready),
            Request::Outputs { producer, partition, id, ref outputs } => broker
                .write_output(producer, partition, id, outputs, now)
                .map(|offset| Reply::Written(Place::Output(partition), offset)),
            Request::Changes { producer, partition, id, ref changes } => broker
                .write_changelog(producer, partition, id, changes, now)
                .map(|offset| Reply::Written(Place::Changelog(partition), offset)),
            Request::SendOffsets { producer, member, ref offsets } => {
                broker.send_offsets(producer, member, offsets, now).map(|()| Reply::Done)
            }
            Request::End(producer) => broker.end(producer).map(|()| Reply::Done),
            Request::Fetch(ref partitions) => partitions
                .iter()
                .map(|&partition| broker.group.stable(partition))
                .collect::<Result<_, _>>()
                .map(Reply::Offsets),
            Request::Bounds(partition) => {
                let log = &broker.changelog[index(partition)];
                Ok(Reply::Bounds { whole: log.whole_from(now), end: log.end(), stable: log.stable_end() })
            }
            Request::StableEnd(partition) => Ok(Reply::StableEnd(broker.changelog[index(partition)].stable_end())),
            Request::Read { partition, from, to } => {
                let aborted = self.mutation == Some(Mutation::RestoreUncommitted);
                Ok(Reply::Records(broker.changelog[index(partition)].read(from, to, aborted)))
            }
        };
        served.unwrap_or_else(Reply::Refused)
    }

    // What happens from outside.

    fn produce(&mut self) {
        let partition = self.random.random_range(0..PARTITIONS);
        let user = self.random.random_range(0..USERS);
        let gone = self.chance(0.15);
        if self.broker.input[partition].len() < RECORDS {
            let happening = if gone { Happening::Delete(user) } else { Happening::Act(user) };
            self.broker.input[partition].push(happening);
        }
        let delay = self.between(20, 160);
        if !self.healed {
            self.after(delay, Event::Produce);
        }
    }

    fn fault(&mut self) {
        let p = self.random.random_range(0..self.processes.len());
        let running = self.processes[p].life == Life::Running;
        match self.between(0, 11) {
            0..=2 if running => {
                let wiped = self.chance(0.3);
                self.count(if wiped { "crashes with a lost disk" } else { "crashes" });
                self.note(|| format!("process {p} is killed; disk lost: {wiped}"));
                self.kill(p);
                if wiped {
                    self.processes[p].disk = crate::process::Disk::default();
                }
                let delay = if self.chance(0.2) { self.between(6_000, 10_000) } else { self.between(30, 3_000) };
                self.after(delay, Event::Start(p));
            }
            3..=4 if running => {
                self.count("stops");
                self.note(|| format!("process {p} is stopped"));
                self.processes[p].life = Life::Stopped;
                let delay = self.between(50, 6_000);
                self.after(delay, Event::Continue(p));
                if self.processes.len() < PROCESSES_MAX && self.chance(0.3) {
                    self.count("replacements of a stopped process");
                    self.processes.push(Process::new(self.processes[p].name));
                    let delay = self.between(100, 2_000);
                    self.after(delay, Event::Start(self.processes.len() - 1));
                }
            }
            5..=6 if running => {
                let answers_only = self.chance(0.5);
                self.count(if answers_only { "cut answers" } else { "cut networks" });
                self.note(|| format!("process {p} is cut off; answers only: {answers_only}"));
                let delay = self.between(100, 4_000);
                self.processes[p].cut_until = self.now + delay;
                self.processes[p].cut_answers_only = answers_only;
            }
            7..=8 if running => {
                self.count("departures");
                self.processes[p].leaving = true;
                let delay = self.between(1_000, 4_000);
                self.after(delay, Event::Start(p));
            }
            9 => {
                self.count("compactions");
                let now = self.now;
                self.broker.changelog.iter_mut().for_each(|log| log.compact(now));
            }
            10 if self.chance(0.5) => {
                // All at once; by the time they are back the group's offsets have expired, or not.
                self.count("outages");
                self.note(|| "all processes are killed".to_owned());
                for p in 0..self.processes.len() {
                    self.kill(p);
                    let delay = self.between(1_600, 4_000);
                    self.after(delay, Event::Start(p));
                }
            }
            _ => {
                if self.broker.group.expire_offsets() {
                    self.count("expired offsets");
                    self.note(|| "the group's offsets have expired".to_owned());
                }
            }
        }
    }

    fn resume_process(&mut self, p: usize) {
        if self.processes[p].life != Life::Stopped {
            return;
        }
        self.note(|| format!("process {p} continues"));
        self.processes[p].life = Life::Running;
        let held = std::mem::take(&mut self.held);
        let (mine, others): (Vec<_>, Vec<_>) =
            held.into_iter().partition(|event| event.process().is_some_and(|(of, _)| of == p));
        self.held = others;
        for event in mine {
            self.after(0, event);
        }
    }

    /// The faults end: of each name the youngest process stays, and the network is well.
    fn heal(&mut self) {
        self.note(|| "the world heals".to_owned());
        self.healed = true;
        for p in 0..self.processes.len() {
            self.processes[p].cut_until = 0;
            self.processes[p].leaving = false;
            let name = self.processes[p].name;
            if self.processes.iter().skip(p + 1).any(|younger| younger.name == name) {
                self.kill(p);
                self.processes[p].life = Life::Retired;
            } else {
                self.resume_process(p);
                self.start(p);
            }
        }
    }

    fn is_finished(&self) -> bool {
        let read = (0..).zip(&self.broker.input).all(|(partition, input)| {
            let end = i64::try_from(input.len()).expect("a few");
            let reached = match self.broker.group.stable(partition) {
                Ok(Some((next, _))) => next,
                // None: the offsets expired when all was read already.
                Ok(None) => self.broker.truth(partition, i64::MAX).next().unwrap_or(0),
                Err(_) => return false,
            };
            reached == end
        });
        let quiet = self.processes.iter().all(|process| process.call.is_none() && process.sealed.is_empty());
        read && quiet && self.broker.is_settled()
    }

    /// Exactly once: the committed output is what the input demands.
    fn check(&mut self) {
        for (partition, input) in (0..).zip(self.broker.input.clone()) {
            let log = &self.broker.output[index(partition)];
            let written = log.read(0, log.end(), false);
            let (moments, events): (Vec<Output>, Vec<Output>) =
                written.into_iter().partition(|output| matches!(output, Output::Moment(_)));
            let mut state = State::default();
            let expected: Vec<Output> =
                (0..).zip(input).map(|(offset, happening)| state.apply(offset, happening)).collect();
            if events != expected {
                let at = events.iter().zip(&expected).take_while(|(seen, wanted)| seen == wanted).count();
                let (seen, wanted) = (events.get(at), expected.get(at));
                return self.violation(format!("output {at} of partition {partition} is {seen:?}, wanted {wanted:?}"));
            }
            let counted: Vec<Output> = (1..).map(Output::Moment).take(moments.len()).collect();
            if moments != counted {
                return self.violation(format!("the moments of partition {partition} are {moments:?}"));
            }
            for _ in &moments {
                state.moment(state.next().unwrap_or(0));
            }
            let truth = self.broker.truth(partition, i64::MAX);
            if truth != state {
                return self
                    .violation(format!("the changelog of partition {partition} holds {truth:?}, wanted {state:?}"));
            }
        }
        self.count("committed runs");
    }

    // Small things.

    pub(crate) fn violation(&mut self, words: String) {
        self.note(|| words.clone());
        self.violation.get_or_insert(words);
    }

    pub(crate) fn note(&mut self, words: impl FnOnce() -> String) {
        if let Some(log) = &mut self.log {
            log.push(format!("{:>6} {}", self.now, words()));
        }
    }

    pub(crate) fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    pub(crate) fn chance(&mut self, share: f64) -> bool {
        self.random.random_bool(share)
    }

    pub(crate) fn between(&mut self, from: Time, to: Time) -> Time {
        self.random.random_range(from..=to)
    }

    pub(crate) fn token(&mut self) -> u64 {
        self.tokens(1)
    }

    /// The first of `count` fresh numbers.
    pub(crate) fn tokens(&mut self, count: u64) -> u64 {
        let first = self.sequence;
        self.sequence += count.max(1);
        first
    }

    pub(crate) fn after(&mut self, delay: Time, event: Event) {
        let number = self.token();
        self.queue.insert((self.now + delay, number), event);
    }

    pub(crate) fn of_process(&mut self, p: usize, delay: Time, event: impl FnOnce(usize, u32) -> Event) {
        let incarnation = self.processes[p].incarnation;
        self.after(delay, event(p, incarnation));
    }
}

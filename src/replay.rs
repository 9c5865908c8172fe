//! Replay: the same shards over a file of events instead of a topic. No Kafka, no disk, no wall clock.
//!
//! A replay is a pure function of the file, the rules and the moment `until`: it behaves as a worker that reads
//! everything up to `until` in one go, at `until`. So the records of a live run come out again, `detected_at` aside
//! (SPEC section 5), whatever the number of partitions.

use std::io::{BufRead, Read as _};
use std::sync::Arc;

use crate::event::{Decoded, Decoder, EventRules, Record, RejectReason};
use crate::lifecycle::{Policy, State};
use crate::retention::{self, Matrix, Report};
use crate::rules::{Origin, Rules};
use crate::segment::Draft;
use crate::shard::{Aggregates, Cohorts, Counts, Effects, Progress, Shard, ShardError, TimeRules, Topic};
use crate::signals::{self, Group, Signals};
use crate::store::memory::MemoryStore;
use crate::time::{EventTime, Span, WallTime};
use crate::win_back::WinBackRules;

/// Records applied in one call of a shard.
const BATCH_RECORDS: usize = 4096;
/// Bytes of records that one batch gathers at most, one record of the largest size aside.
const BATCH_BYTES: usize = 4 << 20;
/// Users judged in one step of firing timers, so that output is written while a storm goes on.
const TIMER_BUDGET: usize = 10_000;
/// Rejected records that are told in full.
const EXAMPLES_MAX: usize = 3;
/// Values of a dimension that are told in a summary.
const SIGNAL_VALUES_MAX: usize = 1_000;
/// Most partitions of a replay.
pub const PARTITIONS_MAX: u16 = 4096;

/// What to replay by.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How lines become events.
    pub events: EventRules,
    /// The thresholds.
    pub policy: Policy,
    /// The segments.
    pub segments: Vec<Draft>,
    /// How returns are measured.
    pub win_back: WinBackRules,
    /// The retention reports, whose lists `events` holds.
    pub retention: Vec<Report>,
    /// Whether signals are kept.
    pub signals: bool,
    /// How far events may be out of order; only `lateness` counts here.
    pub time: TimeRules,
    /// The moment up to which time passes. Later events are left out.
    pub until: EventTime,
    /// How many shards the users are spread over; 1 to [`PARTITIONS_MAX`].
    pub partitions: u16,
}

/// What a replay came to.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Lines that were not blank.
    pub records: u64,
    /// What became of them.
    pub counts: Counts,
    /// How many users are in which state at the end.
    pub cohorts: Cohorts,
    /// The retention reports, in the order of the plan.
    pub retention: Vec<Matrix>,
    /// What those in each state, and in each segment, showed at the end; empty without signals.
    pub signals: Vec<Signals>,
    /// How many users are in which segment at the end, in the order of the plan.
    pub segments: Vec<(String, u64)>,
    /// What became of those who returned.
    pub aggregates: Aggregates,
    /// The first few rejected lines: number from 1, and why.
    pub rejected: Vec<(i64, String)>,
}

/// Why a replay stopped.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The input cannot be read further.
    #[error("cannot read events: {0}")]
    Read(#[source] std::io::Error),
    /// The output takes no more.
    #[error("cannot write records: {0}")]
    Write(#[source] std::io::Error),
    /// The event rules contradict each other; the configuration's check would have said so.
    #[error("the event rules do not fit together: {0}")]
    Rules(String),
    /// A shard failed.
    #[error(transparent)]
    Shard(#[from] ShardError),
}

/// Replays `input` and hands each record (JSON) of transitions, segments and outcomes to `write`, in the order in which
/// they come about.
///
/// # Errors
/// [`ReplayError`]; what was written until then stands.
pub fn replay(
    input: impl BufRead,
    plan: Plan,
    mut write: impl FnMut(Topic, &[u8]) -> std::io::Result<()>,
) -> Result<Summary, ReplayError> {
    let Plan { mut events, policy, segments, win_back, retention, signals, time, until, partitions } = plan;
    // "Now" is `until`, and nothing of the future may get in.
    events.max_future = Span::ZERO;
    let line_max = events.max_size + 1;
    let track = events.track.clone();
    let router = (partitions > 1).then(|| decoder(events.clone())).transpose()?;
    let lateness = time.lateness;
    let time = TimeRules { lateness, idle_after: Span::ZERO, silence_guard: None };
    let names: Vec<String> = segments.iter().map(|draft| draft.name.clone()).collect();
    let decoder = decoder(events)?;
    let rules = Arc::new(Rules {
        policy,
        decoder,
        time,
        track,
        segments,
        win_back,
        retention,
        signals,
        origin: Origin::default(),
    });
    let now = WallTime::from_millis(until.as_millis());

    let count = partitions.clamp(1, PARTITIONS_MAX);
    let open = |partition| Shard::open(i32::from(partition), Arc::clone(&rules), MemoryStore::new(), i32::from(count));
    let mut shards = (0..count).map(open).collect::<Result<Vec<_>, _>>()?;
    let mut lines = Lines::new(input, line_max);
    let mut effects = Effects::default();
    let mut summary = Summary::default();
    while lines.fill().map_err(ReplayError::Read)? {
        let records: Vec<Record<'_>> = lines.records().collect();
        summary.records += records.len() as u64;
        for (shard, records) in shards.iter_mut().zip(route(router.as_ref(), records, count, now)) {
            shard.apply(&records, now, &mut effects)?;
            drain(&mut effects, &mut summary, &mut write)?;
            // Event time alone moves a shard that has more to read (SPEC section 4).
            advance(shard, now, false, &mut effects, &mut summary, &mut write)?;
            commit(shard)?;
        }
    }
    let end = WallTime::from_millis((until + lateness).as_millis());
    for shard in &mut shards {
        advance(shard, end, true, &mut effects, &mut summary, &mut write)?;
        commit(shard)?;
        summary.cohorts.merge(shard.cohorts());
        summary.aggregates.merge(shard.aggregates());
    }
    // Everything up to `until` was seen, whatever a shard without late users says.
    for (index, report) in rules.retention.iter().enumerate() {
        let mut cohorts = retention::Cohorts::default();
        for shard in &mut shards {
            cohorts.add(shard.retention(index));
        }
        summary.retention.push(Matrix::new(report, until, cohorts));
    }
    if rules.signals {
        let states = State::ALL.into_iter().map(Group::State);
        let segments = rules.segments.iter().map(|segment| Group::Segment(segment.name.as_str().into()));
        let mut counts = |group: &Group| {
            let mut counts = signals::Counts::default();
            for shard in &mut shards {
                counts.merge(&shard.aggregates().signals(group));
            }
            counts
        };
        let active = counts(&Group::State(State::Active));
        let all = states.chain(segments).map(|group| Signals::new(&group, &counts(&group), &active, SIGNAL_VALUES_MAX));
        summary.signals.extend(all);
    }
    let sized = |name: String| (summary.aggregates.size(&name), name);
    summary.segments = names.into_iter().map(sized).map(|(size, name)| (name, size)).collect();
    Ok(summary)
}

/// The time of the latest event in `input`, as seen at `now`: where a replay ends when nobody says otherwise.
///
/// # Errors
/// The input cannot be read, or the rules do not fit together.
pub fn latest(input: impl BufRead, events: EventRules, now: WallTime) -> Result<Option<EventTime>, ReplayError> {
    let mut lines = Lines::new(input, events.max_size + 1);
    let decoder = decoder(events)?;
    let mut latest = None;
    while lines.fill().map_err(ReplayError::Read)? {
        for record in lines.records() {
            if let Decoded::Event(event) = decoder.decode(&record, now) {
                latest = latest.max(Some(event.time));
            }
        }
    }
    Ok(latest)
}

fn decoder(events: EventRules) -> Result<Decoder, ReplayError> {
    Decoder::new(events).map_err(|problems| {
        let all: Vec<String> = problems.iter().map(ToString::to_string).collect();
        ReplayError::Rules(all.join("; "))
    })
}

fn route<'a>(router: Option<&Decoder>, records: Vec<Record<'a>>, count: u16, now: WallTime) -> Vec<Vec<Record<'a>>> {
    let Some(router) = router else { return vec![records] };
    let mut routed = vec![Vec::new(); usize::from(count)];
    for record in records {
        let user_id = match router.decode(&record, now) {
            Decoded::Event(event) => event.user_id,
            Decoded::Deletion { user_id } => user_id,
            Decoded::Rejected(_) => "".into(),
        };
        let partition = crc32fast::hash(user_id.as_bytes()) % u32::from(count);
        routed[partition as usize].push(record);
    }
    routed
}

fn advance(
    shard: &mut Shard<MemoryStore>,
    now: WallTime,
    caught_up: bool,
    effects: &mut Effects,
    summary: &mut Summary,
    write: &mut impl FnMut(Topic, &[u8]) -> std::io::Result<()>,
) -> Result<(), ReplayError> {
    loop {
        let progress = shard.advance(now, caught_up, TIMER_BUDGET, effects)?;
        drain(effects, summary, write)?;
        if progress == Progress::Done {
            return Ok(());
        }
        commit(shard)?;
    }
}

/// Moves what a batch changed into the store, as a worker does after its transaction.
fn commit(shard: &mut Shard<MemoryStore>) -> Result<(), ReplayError> {
    let sealed = shard.seal()?;
    // There is no changelog whose position could matter.
    Ok(shard.committed(sealed, 0)?)
}

fn drain(
    effects: &mut Effects,
    summary: &mut Summary,
    write: &mut impl FnMut(Topic, &[u8]) -> std::io::Result<()>,
) -> Result<(), ReplayError> {
    for output in &effects.outputs {
        match output.topic {
            Topic::Transitions | Topic::Segments | Topic::Outcomes => {
                write(output.topic, output.value.as_deref().unwrap_or_default()).map_err(ReplayError::Write)?;
            }
            Topic::States => {}
            Topic::DeadLetters => {
                if summary.rejected.len() < EXAMPLES_MAX {
                    summary.rejected.push(rejection(output));
                }
            }
        }
    }
    // Lateness of timers means nothing where time is a parameter, and would grow with the file.
    effects.counts.timer_lateness.clear();
    effects.counts.away.clear();
    summary.counts.merge(&effects.counts);
    effects.clear();
    Ok(())
}

fn rejection(output: &crate::shard::Output) -> (i64, String) {
    let header = |wanted: &str| {
        let found = output.headers.iter().find(|(name, _)| *name == wanted);
        found.map(|(_, value)| String::from_utf8_lossy(value).into_owned()).unwrap_or_default()
    };
    (header("ebbtide_offset").parse::<i64>().unwrap_or(-1) + 1, header("ebbtide_message"))
}

impl Summary {
    /// Transitions in all.
    #[must_use]
    pub fn transitions(&self) -> u64 {
        self.counts.transitions().map(|(_, _, _, count)| count).sum()
    }

    /// Records that are no events, by reason; those dated after the end are among them as `future`.
    pub fn dead_letters(&self) -> impl Iterator<Item = (RejectReason, u64)> {
        RejectReason::ALL.into_iter().map(|why| (why, self.counts.dead_letters(why))).filter(|(_, count)| *count > 0)
    }
}

/// A batch of lines at a time, in one buffer. A longer line than the limit is cut just above it, so that it is rejected
/// for its size without ever being held in memory.
struct Lines<R> {
    input: R,
    line_max: usize,
    bytes: Vec<u8>,
    /// Line number from 0, and where it ends in `bytes`.
    ends: Vec<(i64, usize)>,
    next: i64,
}

impl<R: BufRead> Lines<R> {
    fn new(input: R, line_max: usize) -> Self {
        Self { input, line_max, bytes: Vec::new(), ends: Vec::new(), next: 0 }
    }

    /// Reads the next batch; `false` at the end of the input.
    fn fill(&mut self) -> std::io::Result<bool> {
        self.bytes.clear();
        self.ends.clear();
        while self.ends.len() < BATCH_RECORDS && self.bytes.len() < BATCH_BYTES {
            let start = self.bytes.len();
            let limit = self.line_max as u64 + 1;
            if self.input.by_ref().take(limit).read_until(b'\n', &mut self.bytes)? == 0 {
                break;
            }
            if self.bytes.last() == Some(&b'\n') {
                self.bytes.pop();
            } else if self.bytes.len() - start > self.line_max {
                self.skip_line()?;
            }
            let number = self.next;
            self.next += 1;
            if self.bytes[start..].trim_ascii().is_empty() {
                self.bytes.truncate(start);
            } else {
                self.ends.push((number, self.bytes.len()));
            }
        }
        Ok(!self.ends.is_empty())
    }

    fn skip_line(&mut self) -> std::io::Result<()> {
        loop {
            let buffer = self.input.fill_buf()?;
            let (used, done) = match buffer.iter().position(|byte| *byte == b'\n') {
                Some(at) => (at + 1, true),
                None => (buffer.len(), buffer.is_empty()),
            };
            self.input.consume(used);
            if done {
                return Ok(());
            }
        }
    }

    fn records(&self) -> impl Iterator<Item = Record<'_>> {
        let mut start = 0;
        self.ends.iter().map(move |&(offset, end)| {
            let value = &self.bytes[start..end];
            start = end;
            Record { key: None, value: Some(value), headers: &[], offset }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str, line_max: usize) -> Vec<(i64, String)> {
        let mut lines = Lines::new(text.as_bytes(), line_max);
        let mut all = Vec::new();
        while lines.fill().expect("memory can be read") {
            let text = |value: Option<&[u8]>| String::from_utf8_lossy(value.unwrap_or_default()).into_owned();
            all.extend(lines.records().map(|record| (record.offset, text(record.value))));
        }
        all
    }

    #[test]
    fn blank_lines_count_but_are_no_records_and_long_ones_are_cut_above_the_limit() {
        let all = lines("one\n\n  \nlonger line\nexact\nend", 5);
        let expected = [(0, "one"), (3, "longer"), (4, "exact"), (5, "end")];
        assert_eq!(all, expected.map(|(number, text)| (number, text.to_owned())));
    }

    #[test]
    fn more_lines_than_a_batch_come_all() {
        let text = "x\n".repeat(BATCH_RECORDS * 2 + 7);
        assert_eq!(lines(&text, 10).len(), BATCH_RECORDS * 2 + 7);
    }
}

//! Users who are there before the measurement begins.
//!
//! To live through five million histories would take longer than all that is measured. So some thousand people are lived
//! through, by a real shard, and copied: each copy has ids of its own and times that differ by less than a second, so
//! that RocksDB cannot fold the copies into one.

use std::sync::Arc;

use anyhow::Context as _;
use ebbtide::event::{Decoder, EventList, EventRules, ReportLists};
use ebbtide::generate;
use ebbtide::lifecycle::{Names, Policy, State};
use ebbtide::person::Person;
use ebbtide::retention::{Period, Report};
use ebbtide::rules::{Origin, Rules};
use ebbtide::segment::Draft;
use ebbtide::shard::{Cohorts, Effects, Progress, Shard, ShardRecord, TimeRules, Watermark};
use ebbtide::store::memory::MemoryStore;
use ebbtide::store::{Batch as Written, Deadline, Store, codec};
use ebbtide::time::{DAY_MS, Day, EventTime, Span, WallTime};
use ebbtide::win_back::{Trail, WinBackRules};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use crate::case::Scale;
use crate::events::{Batch, Maker};

/// Users written to a store at once.
const WRITE_USERS: u64 = 10_000;
/// Timers fired in one step.
const BUDGET: usize = 10_000;
/// Histories that differ, where all users do the same.
const DORMANT_PEOPLE: u64 = 1_000;

/// Users of each partition, made as they are asked for.
pub(crate) struct Population {
    rules: Arc<Rules>,
    parts: Vec<Part>,
    rng: ChaCha8Rng,
}

/// The people of one partition, and how often each is there.
struct Part {
    people: Vec<Person>,
    names: Arc<Names>,
    cohorts: Cohorts,
    watermark: EventTime,
    copies: u64,
}

/// The rules of all benchmarks: the defaults, with which only events move time.
pub(crate) fn rules() -> anyhow::Result<Arc<Rules>> {
    rules_with(Vec::new(), false)
}

/// So many segments of the kinds that are shipped as examples, and one in five with a free condition alone; those who act
/// are in none of them.
pub(crate) fn segments(count: usize) -> Vec<Draft> {
    let days = |days| Some(Span::from_days(days));
    let kind = |number: usize| match number % 5 {
        0 => Draft { states: vec![State::Churned], core_min: Some(3), ..Draft::default() },
        1 => Draft { states: vec![State::Churned], activated: Some(false), ..Draft::default() },
        2 => Draft { idle_from: days(30), idle_to: days(60), ..Draft::default() },
        3 => Draft {
            states: vec![State::AtRisk],
            activated: Some(true),
            core_min: Some(10),
            idle_to: days(14),
            ..Draft::default()
        },
        _ => Draft {
            when: Some(r#"properties.plan == "enterprise" && state == "churned""#.to_owned()),
            ..Draft::default()
        },
    };
    (0..count).map(|number| Draft { name: format!("segment-{number}"), ..kind(number) }).collect()
}

/// The same with segments, and with one weekly retention report and signals where `reports`.
pub(crate) fn rules_with(segments: Vec<Draft>, reports: bool) -> anyhow::Result<Arc<Rules>> {
    let all = EventList::all();
    let retention = reports.then(|| Report {
        name: "all".to_owned(),
        start: all.clone(),
        back: all.clone(),
        period: Period::Week,
        count: 13,
    });
    let lists = retention.iter().map(|report| ReportLists { start: report.start.clone(), back: report.back.clone() });
    let events = EventRules { reports: lists.collect(), ..EventRules::default() };
    let decoder = Decoder::new(events).map_err(|problems| anyhow::anyhow!("{problems:?}"))?;
    let time = TimeRules { idle_after: Span::ZERO, ..TimeRules::default() };
    Ok(Arc::new(Rules {
        policy: Policy::default(),
        decoder,
        time,
        track: Vec::new(),
        segments,
        win_back: WinBackRules::default(),
        retention: retention.into_iter().collect(),
        signals: reports,
        origin: Origin::default(),
    }))
}

/// A user's id.
pub(crate) fn user_id(partition: i32, number: u64) -> String {
    format!("user-{partition}-{number:08}")
}

impl Population {
    /// A believable population as of `now`: people come, go, come back, decline.
    pub(crate) fn grown(scale: &Scale, partitions: i32, now: WallTime) -> anyhow::Result<Self> {
        let first_day = Day::from_number(now.as_event_time().day().number() - i32::try_from(scale.days)?);
        let settings = generate::Settings { seed: 11, users: scale.people, first_day, days: scale.days };
        let rules = rules()?;
        let mut shards = shards(&rules, partitions)?;
        let population = generate::Population::new(settings);
        let mut effects = Effects::default();
        let mut line = Vec::new();
        for n in 0..scale.days {
            let mut batches: Vec<Vec<Vec<u8>>> = vec![Vec::new(); shards.len()];
            for event in population.day(n) {
                line.clear();
                event.write_json(&mut line)?;
                batches[event.person as usize % shards.len()].push(line.clone());
            }
            let evening = (first_day + i32::try_from(n)? + 1).start();
            for (shard, lines) in shards.iter_mut().zip(batches) {
                let records: Vec<_> = lines.iter().zip(0..).map(|(line, offset)| record(line, offset)).collect();
                shard.apply(&records, WallTime::from_millis(evening.as_millis()), &mut effects)?;
                settle(shard, WallTime::from_millis(evening.as_millis()), false, &mut effects)?;
            }
        }
        for shard in &mut shards {
            settle(shard, now, true, &mut effects)?;
        }
        Self::of(rules, &shards, scale.users)
    }

    /// Everybody was active once, within one hour, and will be at risk 14 days later, within the hour before `due_by`.
    pub(crate) fn dormant(users: u64, partitions: i32, due_by: EventTime) -> anyhow::Result<Self> {
        let rules = rules()?;
        let silence = rules.policy.inactive_after.unwrap_or(Span::ZERO);
        let mut shards = shards(&rules, partitions)?;
        let mut effects = Effects::default();
        for (shard, partition) in shards.iter_mut().zip(0..) {
            let mut batch = Batch::default();
            for person in 0..DORMANT_PEOPLE {
                let before = 3_600_000 - i64::try_from(person * 3_600_000 / DORMANT_PEOPLE)?;
                let time = due_by - silence - Span::from_millis(before + 1_000);
                batch.add(&mut Maker::new(person, time, 1), &user_id(partition, person))?;
            }
            let now = WallTime::from_millis(due_by.as_millis());
            shard.apply(&batch.records(0), now, &mut effects)?;
            settle(shard, now, false, &mut effects)?;
        }
        Self::of(rules, &shards, users)
    }

    fn of(rules: Arc<Rules>, shards: &[Shard<MemoryStore>], users: u64) -> anyhow::Result<Self> {
        let mut parts = Vec::with_capacity(shards.len());
        for shard in shards {
            let stored = shard.store().scan(None, usize::MAX)?;
            // Without their returns: those are counted in the shard's ledger, which copies would have to multiply.
            let copied = |person: Person| Person { trail: Trail::default(), ..person };
            let record = shard.store().shard()?.0.context("a shard that was committed")?;
            let names = ShardRecord::decode(&record)?.names;
            let people = stored.iter().map(|(_, value)| codec::decode_user(value, &names).map(copied));
            let people = people.collect::<Result<Vec<_>, _>>()?;
            let copies = users.div_ceil(shards.len() as u64 * people.len() as u64);
            let mut cohorts = Cohorts::default();
            (0..copies).for_each(|_| cohorts.merge(shard.cohorts()));
            parts.push(Part { people, names, cohorts, watermark: shard.watermark(), copies });
        }
        Ok(Self { rules, parts, rng: ChaCha8Rng::seed_from_u64(13) })
    }

    /// Users of a partition; their numbers are below this.
    pub(crate) fn size(&self, partition: i32) -> anyhow::Result<u64> {
        let part = &self.parts[usize::try_from(partition)?];
        Ok(part.people.len() as u64 * part.copies)
    }

    /// Appends a user as it is stored, and gives its armed deadline.
    pub(crate) fn write_user(
        &mut self,
        partition: i32,
        number: u64,
        out: &mut Vec<u8>,
    ) -> anyhow::Result<Option<EventTime>> {
        let people = &self.parts[usize::try_from(partition)?].people;
        let mut copy = people[usize::try_from(number % people.len() as u64)?].clone();
        for id in &mut copy.user.recent_ids {
            // 40 bits, never 0.
            *id = self.rng.random::<u64>() >> 24 | 1;
        }
        if let Some(life) = &mut copy.user.life {
            // On the same day: the armed deadline stays at or before the real one.
            let last_active = life.last_active;
            let later = last_active + Span::from_millis(self.rng.random_range(0..1_000));
            if later.day() == last_active.day() {
                life.last_active = later;
                // What silence brought follows, or it would no longer be whole days after the last activity.
                for at in [&mut life.since].into_iter().chain(&mut life.absent_since) {
                    if (*at - last_active).as_millis() % DAY_MS == 0 {
                        *at = *at + (later - last_active);
                    }
                }
            }
        }
        codec::encode_user(&copy, out);
        Ok(copy.user.armed)
    }

    /// The shard record that belongs to these users: nothing was ever read, in this partition, before offset `position`.
    pub(crate) fn shard_record(&self, partition: i32, position: i64) -> anyhow::Result<Vec<u8>> {
        let part = &self.parts[usize::try_from(partition)?];
        let record = ShardRecord {
            input_partitions: i32::try_from(self.parts.len())?,
            position: Some(position),
            watermark: Watermark::restored(part.watermark, None),
            fingerprint: self.rules.fingerprint(),
            cohorts: part.cohorts.clone(),
            names: Arc::clone(&part.names),
            ..ShardRecord::default()
        };
        let mut out = Vec::new();
        record.encode(&mut out);
        Ok(out)
    }

    /// Writes a partition into a store.
    pub(crate) fn fill(&mut self, partition: i32, store: &mut impl Store) -> anyhow::Result<()> {
        let size = self.size(partition)?;
        let mut batch = Written::default();
        for number in 0..size {
            let id = user_id(partition, number);
            let mut value = Vec::with_capacity(160);
            if let Some(at) = self.write_user(partition, number, &mut value)? {
                batch.arm.push(Deadline { at, user_id: id.as_str().into() });
            }
            batch.users.push((id.into(), Some(value)));
            if number % WRITE_USERS == WRITE_USERS - 1 {
                store.write(std::mem::take(&mut batch))?;
            }
        }
        batch.shard = Some(self.shard_record(partition, 0)?);
        batch.changelog_position = Some(0);
        Ok(store.write(batch)?)
    }
}

fn shards(rules: &Arc<Rules>, partitions: i32) -> anyhow::Result<Vec<Shard<MemoryStore>>> {
    let open = |partition| Shard::open(partition, Arc::clone(rules), MemoryStore::new(), partitions);
    Ok((0..partitions).map(open).collect::<Result<_, _>>()?)
}

/// Fires all that is due, and commits.
fn settle(shard: &mut Shard<MemoryStore>, now: WallTime, caught_up: bool, effects: &mut Effects) -> anyhow::Result<()> {
    loop {
        let progress = shard.advance(now, caught_up, BUDGET, effects)?;
        effects.clear();
        let sealed = shard.seal()?;
        shard.committed(sealed, 0)?;
        if progress == Progress::Done {
            return Ok(());
        }
    }
}

fn record(value: &[u8], offset: i64) -> ebbtide::event::Record<'_> {
    ebbtide::event::Record { key: None, value: Some(value), headers: &[], offset }
}

//! Beginning from what the store holds: what is new in the rules since the last commit begins here.

use std::sync::Arc;

use crate::retention::Report;
use crate::rules::Rules;
use crate::segment::{Definition, Segments};
use crate::shard::output::Writer;
use crate::shard::record::Rejudging;
use crate::shard::timers::Timers;
use crate::shard::{Shard, ShardError};
use crate::store::Store;

impl<S: Store> Shard<S> {
    /// Begins from the last commit: notices changed rules and newly tracked properties, and loads the near timers.
    pub(super) fn take_up(&mut self) -> Result<(), ShardError> {
        self.record = self.committed.clone();
        self.stale.clear();
        self.records = 0;
        self.unsealed = false;
        self.sealed = false;
        let properties = &mut self.record.properties;
        let place = |name: &String| {
            let place = properties.iter().position(|known| known == name).unwrap_or_else(|| {
                properties.push(name.clone());
                properties.len() - 1
            });
            u16::try_from(place).unwrap_or(u16::MAX)
        };
        self.places = self.rules.track.iter().map(place).collect();
        self.segments = Arc::new(compile(&self.rules, &self.record.properties)?);
        self.begin_generation()?;
        self.begin_reports();
        let (properties, track) = (&self.record.properties, &self.rules.track);
        self.writer = Writer::new(&self.rules.origin, self.partition, properties, track, &self.segments);
        self.timers = Timers::new();
        self.timers.refill(&self.store, &self.users)?;
        Ok(())
    }

    /// If the policy or the segments have changed, everybody has to be judged again.
    fn begin_generation(&mut self) -> Result<(), ShardError> {
        let record = &mut self.record;
        let (policy, segments) = (self.rules.fingerprint(), self.segments.fingerprint());
        let (policy_changed, segments_changed) = (record.fingerprint != policy, record.segments != segments);
        let signals_changed = record.signals_since.is_some() != self.rules.signals;
        if !policy_changed && !segments_changed && !signals_changed {
            return Ok(());
        }
        record.fingerprint = policy;
        record.segments = segments;
        record.generation += 1;
        if policy_changed {
            record.policy_generation = record.generation;
        }
        if signals_changed {
            // Everybody is counted anew as the users are judged.
            record.signals_since = self.rules.signals.then_some(record.generation);
            self.aggregates.forget_signals();
        }
        record.roster.begin(record.generation, self.segments.definitions().iter().map(Definition::name))?;
        record.judged_at = record.watermark.at();
        record.rejudging = Some(Rejudging::default());
        self.unsealed = true;
        Ok(())
    }

    /// Numbers the retention reports: one that is defined anew begins anew, one that is gone is forgotten.
    fn begin_reports(&mut self) {
        let (record, rules) = (&mut self.record, &self.rules);
        let defined: Vec<String> = rules.retention.iter().map(Report::frozen).collect();
        let known = record.reports.len();
        record.reports.retain(|(_, frozen)| defined.contains(frozen));
        let mut changed = record.reports.len() != known;
        self.reports = defined
            .into_iter()
            .map(|frozen| {
                if let Some((number, _)) = record.reports.iter().find(|(_, known)| *known == frozen) {
                    return *number;
                }
                let number = record.next_report;
                record.next_report += 1;
                record.reports.push((number, frozen));
                changed = true;
                number
            })
            .collect();
        if changed {
            let numbers = &self.reports;
            self.aggregates.keep_reports(numbers);
            self.unsealed = true;
        }
    }
}

/// The segments for a shard's list of properties; what is no longer tracked is nowhere to be found.
pub(super) fn compile(rules: &Rules, properties: &[String]) -> Result<Segments, ShardError> {
    let name = |name: &String| if rules.track.contains(name) { name.clone() } else { String::new() };
    let names: Vec<String> = properties.iter().map(name).collect();
    Segments::new(rules.segments.clone(), &names).map_err(|problems| {
        let told = |(index, problem): &(usize, crate::segment::Problem)| format!("{index}: {}", problem.message);
        ShardError::Segments(problems.iter().map(told).collect::<Vec<_>>().join("; "))
    })
}

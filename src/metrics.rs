//! The figures that Ebbtide shows to Prometheus: one struct, made from a registry of its own and passed in; no statics.
//!
//! The worker counts what happened through verbs, once per commit and not once per record, and only *after* the
//! commit: what is counted is what a `read_committed` reader sees. What *is* (cohort sizes, lag, watermark) is no verb:
//! it is read from the status when somebody scrapes, see [`Metrics::observe_shard`].
//!
//! Names follow the Prometheus conventions: prefix `ebbtide_`, base units, `_total` on counters.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus::core::Collector as _;
use prometheus::proto::MetricFamily;
use prometheus::{
    Encoder as _, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use crate::event::RejectReason;
use crate::lifecycle::{Reason, State};
use crate::shard::aggregates::{CAMPAIGNS_MAX, OTHER};
use crate::shard::effect::{Counts, RecordOutcome};
use crate::time::Span;
use crate::win_back::Lift;

/// From one state to another; `None` is outside: before entering, and after being forgotten or deleted.
pub type Flow = (Option<State>, Option<State>);

/// Label value for "no state": before entering, and after being forgotten or deleted.
pub const NO_STATE: &str = "none";

/// Seconds; from a quick commit up to the transaction time-out of 10 s.
const COMMIT_BUCKETS: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// Seconds; the promise is 250 ms at the 99th percentile (one commit interval and a commit).
const END_TO_END_BUCKETS: &[f64] =
    &[0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25, 0.35, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0, 3600.0];
/// Seconds; a timer cannot fire before `lateness` has passed, and after an outage may be hours late.
const TIMER_BUCKETS: &[f64] = &[0.1, 0.5, 1.0, 5.0, 10.0, 15.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 21_600.0, 86_400.0];
/// Days between the beginning of an absence and the return.
const ABSENCE_BUCKETS: &[f64] = &[1.0, 3.0, 7.0, 14.0, 30.0, 45.0, 60.0, 90.0, 120.0, 180.0, 270.0, 365.0, 730.0];

/// The changes of state that SPEC section 2 allows; shown as 0 from the start, so that a rate needs no first sample.
const USUAL_TRANSITIONS: &[(Option<State>, Option<State>, Reason)] = {
    use Reason::{Activity, Declining, Inactive, LateEvent, Request, Retention};
    use State::{Active, AtRisk, Churned, Lapsed};
    &[
        (None, Some(Active), Activity),
        (Some(Active), Some(AtRisk), Inactive),
        (Some(Active), Some(AtRisk), Declining),
        (Some(Active), Some(Lapsed), Inactive),
        (Some(AtRisk), Some(Lapsed), Inactive),
        (Some(Lapsed), Some(Churned), Inactive),
        (Some(AtRisk), Some(Active), Activity),
        (Some(Lapsed), Some(Active), Activity),
        (Some(Churned), Some(Active), Activity),
        (Some(AtRisk), Some(Active), LateEvent),
        (Some(Lapsed), Some(Active), LateEvent),
        (Some(Lapsed), Some(AtRisk), LateEvent),
        (Some(Churned), Some(Lapsed), LateEvent),
        (Some(Churned), None, Retention),
        (Some(Active), None, Request),
    ]
};

/// Why uncommitted work was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AbortCause {
    /// The transaction was aborted and the work is done again.
    Aborted,
    /// Another producer has taken over the transactional id, or the group has moved on.
    Fenced,
    /// A partition was lost while its work was not yet committed.
    Lost,
    /// The outcome was unknown, and turned out to be: not committed.
    Unresolved,
}

/// What a shard is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ShardPhase {
    /// Reading the changelog; its users are not served yet.
    Restoring,
    /// Consuming.
    Running,
    /// Stopped by an error.
    Stopped,
}

/// One shard as seen at the moment of a scrape.
#[derive(Clone, Debug)]
pub struct ShardReading {
    /// The input partition.
    pub partition: i32,
    /// What it is doing.
    pub phase: ShardPhase,
    /// Records of the input not read yet; `None` while that is unknown.
    pub lag: Option<i64>,
    /// Wall time minus watermark; `None` before the first record.
    pub watermark_lag: Option<Span>,
    /// Whether the silence guard holds the watermark (SPEC section 4).
    pub guard_holds: bool,
    /// Changelog records read and to be read, of the present or latest restore.
    pub restored: (u64, u64),
}

/// All of Ebbtide's figures.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    users: IntGaugeVec,
    users_not_entered: IntGauge,
    transitions: IntCounterVec,
    events: IntCounterVec,
    dead_letters: IntCounterVec,
    refused_properties: IntCounter,
    absence: Histogram,
    segment_users: IntGaugeVec,
    segment_moves: IntCounterVec,
    segment_lift: GaugeVec,
    conditions_failed: IntCounter,
    attributed: IntCounterVec,
    /// The campaigns that have a series of their own.
    campaigns: Mutex<BTreeSet<Box<str>>>,
    lag: IntGaugeVec,
    watermark_lag: GaugeVec,
    guard: IntGaugeVec,
    restore_done: IntGaugeVec,
    restore_expected: IntGaugeVec,
    shards: IntGaugeVec,
    timer_lateness: Histogram,
    end_to_end: Histogram,
    commit_duration: Histogram,
    aborts: IntCounterVec,
    expired: IntCounter,
    standby_shards: IntGauge,
    standby_lag: IntGauge,
    rocksdb_memory: IntGaugeVec,
    rocksdb_disk: IntGauge,
    resident: IntGauge,
    streams: IntGauge,
    streams_skipped: IntCounter,
}

impl Metrics {
    /// Registers every figure.
    ///
    /// # Errors
    /// Two figures have one name: a mistake in this file, found by its first test.
    #[expect(clippy::too_many_lines, reason = "a flat list: each figure with its name and its help")]
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let r = &registry;
        let metrics = Self {
            users: gauges(
                r,
                "ebbtide_users",
                "Users by state, and whether they ever activated.",
                &["state", "activated"],
            )?,
            users_not_entered: gauge(r, "ebbtide_users_not_entered", "Users known by their properties alone.")?,
            transitions: counters(
                r,
                "ebbtide_transitions_total",
                "Committed transitions; from or to is none on entering and leaving.",
                &["from", "to", "reason"],
            )?,
            events: counters(r, "ebbtide_events_total", "Input records by what became of them.", &["outcome"])?,
            dead_letters: counters(
                r,
                "ebbtide_dead_letters_total",
                "Input records that went to the dead-letter topic.",
                &["reason"],
            )?,
            refused_properties: counter(
                r,
                "ebbtide_refused_properties_total",
                "Values of tracked properties that were not kept: over 1 KiB, or unreadable for common JSON parsers.",
            )?,
            absence: histogram(
                r,
                "ebbtide_absence_days",
                "Days between lapsing and returning, of users who were reactivated.",
                ABSENCE_BUCKETS,
            )?,
            segment_users: gauges(r, "ebbtide_segment_users", "Users in each segment.", &["segment"])?,
            segment_moves: counters(
                r,
                "ebbtide_segment_moves_total",
                "Committed entries into segments and exits.",
                &["segment", "action"],
            )?,
            segment_lift: float_gauges(
                r,
                "ebbtide_segment_lift_ratio",
                "Return rate within 30 days of entering, treated less held out: the difference, and its 95 % interval.",
                &["segment", "estimate"],
            )?,
            conditions_failed: counter(
                r,
                "ebbtide_segment_conditions_failed_total",
                "Evaluations of a segment's condition that failed (a missing property, a type error) and counted as false.",
            )?,
            attributed: counters(
                r,
                "ebbtide_attributed_returns_total",
                "Committed returns that a campaign brought; at most 100 campaigns by name.",
                &["campaign"],
            )?,
            campaigns: Mutex::default(),
            lag: gauges(
                r,
                "ebbtide_consumer_lag_records",
                "Records of the input topic not read yet, by shard.",
                &["partition"],
            )?,
            watermark_lag: float_gauges(
                r,
                "ebbtide_watermark_lag_seconds",
                "Wall time minus watermark, by shard.",
                &["partition"],
            )?,
            guard: gauges(
                r,
                "ebbtide_silence_guard_holds",
                "1 while the watermark is held because the input has gone silent, by shard.",
                &["partition"],
            )?,
            restore_done: gauges(
                r,
                "ebbtide_restore_done_records",
                "Changelog records read by the present or latest restore, by shard.",
                &["partition"],
            )?,
            restore_expected: gauges(
                r,
                "ebbtide_restore_expected_records",
                "Changelog records that the present or latest restore has to read, by shard.",
                &["partition"],
            )?,
            shards: gauges(r, "ebbtide_shards", "Shards of this instance by phase.", &["phase"])?,
            timer_lateness: histogram(
                r,
                "ebbtide_timer_lateness_seconds",
                "Wall time between the moment a timer was due and its firing.",
                TIMER_BUCKETS,
            )?,
            end_to_end: histogram(
                r,
                "ebbtide_end_to_end_latency_seconds",
                "From the time of a record in Kafka to the commit that holds its effects.",
                END_TO_END_BUCKETS,
            )?,
            commit_duration: histogram(
                r,
                "ebbtide_commit_duration_seconds",
                "From sealing a batch to the end of its Kafka transaction.",
                COMMIT_BUCKETS,
            )?,
            aborts: counters(
                r,
                "ebbtide_transaction_aborts_total",
                "Times that uncommitted work was dropped and the shard went back to its last commit.",
                &["cause"],
            )?,
            expired: counter(
                r,
                "ebbtide_input_expired_records_total",
                "Input records that the topic's retention removed before they were read.",
            )?,
            standby_shards: gauge(
                r,
                "ebbtide_standby_shards",
                "Shards of other instances whose changelog is followed.",
            )?,
            standby_lag: gauge(
                r,
                "ebbtide_standby_lag_records",
                "Changelog records of followed shards not read yet, of all of them.",
            )?,
            rocksdb_memory: gauges(r, "ebbtide_rocksdb_memory_bytes", "Memory held by RocksDB, by use.", &["kind"])?,
            rocksdb_disk: gauge(r, "ebbtide_rocksdb_disk_bytes", "Size of the state on disk.")?,
            resident: gauge(r, "ebbtide_process_resident_memory_bytes", "Resident memory of the process.")?,
            streams: gauge(r, "ebbtide_http_streams", "Open streams of live transitions.")?,
            streams_skipped: counter(
                r,
                "ebbtide_http_stream_skipped_total",
                "Transitions not shown to a stream that was too slow to read them.",
            )?,
            registry: r.clone(),
        };
        gauges(r, "ebbtide_build_info", "1; the labels say which build this is.", &["version"])?
            .with_label_values(&[env!("CARGO_PKG_VERSION")])
            .set(1);
        metrics.show_zeros();
        Ok(metrics)
    }

    /// A counter that was never touched is not there for a query; one at 0 is.
    fn show_zeros(&self) {
        self.show_cohorts(|_, _| 0, 0);
        for (from, to, reason) in USUAL_TRANSITIONS {
            self.transitioned(*from, *to, *reason, 0);
        }
        for outcome in RecordOutcome::ALL {
            self.read(outcome, 0);
        }
        for reason in RejectReason::ALL {
            self.rejected(reason, 0);
        }
        for cause in AbortCause::ALL {
            self.aborts.with_label_values(&[cause.as_str()]).inc_by(0);
        }
    }

    // --- Verbs of the worker: after a commit, once per batch.

    /// All that a committed batch counted.
    pub fn counted(&self, counts: &Counts) {
        for outcome in RecordOutcome::ALL {
            self.read(outcome, counts.records(outcome));
        }
        for (from, to, reason, count) in counts.transitions() {
            self.transitioned(from, to, reason, count);
        }
        for reason in RejectReason::ALL {
            self.rejected(reason, counts.dead_letters(reason));
        }
        self.refused_properties.inc_by(counts.refused_properties);
        for late in &counts.timer_lateness {
            self.timer_lateness.observe(seconds(*late).max(0.0));
        }
        for away in &counts.away {
            self.absence.observe(away.as_days());
        }
        for (segment, action, count) in counts.segments() {
            self.segment_moves.with_label_values(&[segment, action.as_str()]).inc_by(count);
        }
        self.conditions_failed.inc_by(counts.conditions_failed);
        for (campaign, count) in counts.campaigns() {
            self.attributed_to(campaign, count);
        }
    }

    /// The effects of a record were committed so long after its timestamp; a negative span counts as none.
    pub fn reached_commit(&self, since_record: Span) {
        self.end_to_end.observe(seconds(since_record).max(0.0));
    }

    /// A transaction committed.
    pub fn committed(&self, took: Duration) {
        self.commit_duration.observe(took.as_secs_f64());
    }

    /// Uncommitted work was dropped.
    pub fn aborted(&self, cause: AbortCause) {
        self.aborts.with_label_values(&[cause.as_str()]).inc();
    }

    /// Shards bound their campaigns each for itself; a process bounds its series once more.
    fn attributed_to(&self, campaign: &str, count: u64) {
        let mut known = self.campaigns.lock().unwrap_or_else(PoisonError::into_inner);
        let named = known.contains(campaign) || (known.len() < CAMPAIGNS_MAX && known.insert(campaign.into()));
        self.attributed.with_label_values(&[if named { campaign } else { OTHER }]).inc_by(count);
    }

    /// So many input records were gone before they were read, at a takeover.
    pub fn records_expired(&self, count: i64) {
        self.expired.inc_by(u64::try_from(count).unwrap_or(0));
    }

    /// So many shards are followed, and so many of their changelog records are not read yet.
    pub fn standing_by(&self, shards: usize, lag: i64) {
        self.standby_shards.set(i64::try_from(shards).unwrap_or(i64::MAX));
        self.standby_lag.set(lag);
    }

    fn read(&self, outcome: RecordOutcome, count: u64) {
        self.events.with_label_values(&[outcome.as_str()]).inc_by(count);
    }

    fn transitioned(&self, from: Option<State>, to: Option<State>, reason: Reason, count: u64) {
        self.transitions.with_label_values(&[state_label(from), state_label(to), reason.as_str()]).inc_by(count);
    }

    fn rejected(&self, reason: RejectReason, count: u64) {
        self.dead_letters.with_label_values(&[reason.as_str()]).inc_by(count);
    }

    // --- Verbs of the HTTP edge.

    /// A stream of live transitions was opened.
    pub fn stream_opened(&self) {
        self.streams.inc();
    }

    /// A stream of live transitions was closed.
    pub fn stream_closed(&self) {
        self.streams.dec();
    }

    /// A stream was too slow and did not see so many transitions.
    pub fn stream_skipped(&self, count: u64) {
        self.streams_skipped.inc_by(count);
    }

    // --- Readings, taken at a scrape.

    /// The cohort sizes of this instance: `size(state, activated)`, and the users without a life.
    pub fn show_cohorts(&self, size: impl Fn(State, bool) -> u64, not_entered: u64) {
        for state in State::ALL {
            for activated in [false, true] {
                let label = if activated { "true" } else { "false" };
                self.users.with_label_values(&[state.as_str(), label]).set(gauge_value(size(state, activated)));
            }
        }
        self.users_not_entered.set(gauge_value(not_entered));
    }

    /// The shards that this instance holds now; those it gave up disappear.
    pub fn observe_shards<'a>(&self, shards: impl IntoIterator<Item = &'a ShardReading>) {
        let mut counts = [0_i64; 3];
        for vec in [&self.lag, &self.guard, &self.restore_done, &self.restore_expected] {
            vec.reset();
        }
        self.watermark_lag.reset();
        for shard in shards {
            counts[shard.phase as usize] += 1;
            self.observe_shard(shard);
        }
        for phase in ShardPhase::ALL {
            self.shards.with_label_values(&[phase.as_str()]).set(counts[phase as usize]);
        }
    }

    fn observe_shard(&self, shard: &ShardReading) {
        let partition = shard.partition.to_string();
        let label = &[partition.as_str()];
        if let Some(lag) = shard.lag {
            self.lag.with_label_values(label).set(lag.max(0));
        }
        if let Some(lag) = shard.watermark_lag {
            self.watermark_lag.with_label_values(label).set(seconds(lag));
        }
        self.guard.with_label_values(label).set(i64::from(shard.guard_holds));
        self.restore_done.with_label_values(label).set(gauge_value(shard.restored.0));
        self.restore_expected.with_label_values(label).set(gauge_value(shard.restored.1));
    }

    /// The segments of this instance: users in them, and the lift where there is one. Those that are no more disappear.
    pub fn observe_segments<'s>(&self, segments: impl IntoIterator<Item = (&'s str, u64, Option<Lift>)>) {
        self.segment_users.reset();
        self.segment_lift.reset();
        for (segment, users, lift) in segments {
            self.segment_users.with_label_values(&[segment]).set(gauge_value(users));
            let Some(Lift { difference, low, high }) = lift else { continue };
            for (estimate, value) in [("difference", difference), ("low", low), ("high", high)] {
                self.segment_lift.with_label_values(&[segment, estimate]).set(value);
            }
        }
    }

    /// What RocksDB holds: memory by use (`kind` is a fixed word of the store), and the size on disk.
    pub fn observe_rocksdb(&self, memory: &[(&'static str, u64)], disk: u64) {
        for (kind, bytes) in memory {
            self.rocksdb_memory.with_label_values(&[kind]).set(gauge_value(*bytes));
        }
        self.rocksdb_disk.set(gauge_value(disk));
    }

    /// Resident memory of this process.
    pub fn observe_resident(&self, bytes: u64) {
        self.resident.set(gauge_value(bytes));
    }

    // --- Reading back.

    /// How many transitions went from one state to another since the start, over all reasons, without empty pairs.
    /// The console's flows are differences of these, so they miss none however fast transitions come.
    #[must_use]
    pub fn flows(&self) -> BTreeMap<Flow, u64> {
        let mut flows = BTreeMap::new();
        for metric in self.transitions.collect().iter().flat_map(MetricFamily::get_metric) {
            let state = |name: &str| {
                let label = metric.get_label().iter().find(|label| label.name() == name)?;
                State::named(label.value())
            };
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count, and below 2^53")]
            let count = metric.get_counter().get_value() as u64;
            if count > 0 {
                *flows.entry((state("from"), state("to"))).or_insert(0) += count;
            }
        }
        flows
    }

    /// The text exposition format, version 0.0.4.
    ///
    /// # Errors
    /// Never in practice: the encoder fails on a broken writer, and this one writes to memory.
    pub fn encode(&self) -> Result<String, prometheus::Error> {
        let mut text = Vec::with_capacity(16 * 1024);
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        String::from_utf8(text).map_err(|error| prometheus::Error::Msg(error.to_string()))
    }

    /// The names in the registry (a histogram's without its suffixes), for the test that dashboards name real ones.
    #[must_use]
    pub fn names(&self) -> BTreeSet<String> {
        self.registry.gather().iter().map(|family| family.name().to_owned()).collect()
    }
}

impl AbortCause {
    /// Every cause.
    pub const ALL: [Self; 4] = [Self::Aborted, Self::Fenced, Self::Lost, Self::Unresolved];

    /// The label value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Aborted => "aborted",
            Self::Fenced => "fenced",
            Self::Lost => "lost",
            Self::Unresolved => "unresolved",
        }
    }
}

impl ShardPhase {
    /// Every phase.
    pub const ALL: [Self; 3] = [Self::Restoring, Self::Running, Self::Stopped];

    /// The label value, and the word in the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Restoring => "restoring",
            Self::Running => "running",
            Self::Stopped => "stopped",
        }
    }
}

fn state_label(state: Option<State>) -> &'static str {
    state.map_or(NO_STATE, State::as_str)
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds of any real span are below 2^53")]
fn seconds(span: Span) -> f64 {
    span.as_millis() as f64 / 1000.0
}

fn gauge_value(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn counter(registry: &Registry, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
    let counter = IntCounter::new(name, help)?;
    registry.register(Box::new(counter.clone()))?;
    Ok(counter)
}

fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, prometheus::Error> {
    let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
    registry.register(Box::new(counters.clone()))?;
    Ok(counters)
}

fn gauge(registry: &Registry, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
    let gauge = IntGauge::new(name, help)?;
    registry.register(Box::new(gauge.clone()))?;
    Ok(gauge)
}

fn gauges(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, prometheus::Error> {
    let gauges = IntGaugeVec::new(Opts::new(name, help), labels)?;
    registry.register(Box::new(gauges.clone()))?;
    Ok(gauges)
}

fn float_gauges(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> Result<GaugeVec, prometheus::Error> {
    let gauges = GaugeVec::new(Opts::new(name, help), labels)?;
    registry.register(Box::new(gauges.clone()))?;
    Ok(gauges)
}

fn histogram(registry: &Registry, name: &str, help: &str, buckets: &[f64]) -> Result<Histogram, prometheus::Error> {
    let histogram = Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec()))?;
    registry.register(Box::new(histogram.clone()))?;
    Ok(histogram)
}

#[cfg(test)]
mod tests;

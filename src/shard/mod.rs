//! One shard: a partition of the input with everything derived from it (SPEC, "Words"). Ring 2: deterministic. Records
//! and wall time come in as parameters, what is to be produced goes out as [`Effects`]; the only thing underneath is the
//! [`Store`].
//!
//! The order of calls, by one thread:
//!
//! 1. [`Shard::open`] on a store that was restored to the end of the changelog;
//! 2. [`Shard::apply`] and [`Shard::advance`], as often as the commit interval allows;
//! 3. [`Shard::seal`], once: what the transaction has to hold beside the effects;
//! 4. after the transaction has committed [`Shard::committed`], which alone writes the store; or, whenever something went
//!    wrong since the last commit, [`Shard::rollback`], after which nothing of it ever happened. Then 2 again.
//!
//! Invariants, and where they are held: per user the output is independent of batching (each record first advances its
//! user to the watermark that it moved); the store is never ahead of Kafka (only `committed` writes); a user's armed
//! deadline is never later than the real one (`settle`); cohorts are those of the users (`turn`), and so are the
//! aggregates of all that is sealed (`recount`).

pub mod aggregates;
pub mod cohort;
mod counted;
pub mod effect;
pub mod ledger;
mod opening;
mod output;
pub mod record;
mod restore;
pub mod share;
mod timers;
mod turn;
mod users;
pub mod watermark;

use std::sync::Arc;

use crate::event::{Decoded, Event, Record};
use crate::lifecycle::Name;
use crate::lifecycle::user::Outcome;
use crate::rules::Rules;
use crate::segment::roster::TooManyGenerations;
use crate::segment::{Definition, Segments};
use crate::store::{Batch, Deadline, Store, StoreError, codec, key};
use crate::time::{Day, EventTime, Span, WallTime};

pub use aggregates::Aggregates;
pub use cohort::Cohorts;
pub use effect::{Counts, Effects, Headers, Output, RecordOutcome, Topic};
pub use record::{Rejudging, ShardRecord};
pub use restore::{Bulk, BulkDeadline, BulkUser, Sorted, restore_batch};
pub use watermark::{TimeRules, Watermark};

use opening::compile;
use output::Writer;
use timers::Timers;
use turn::Turn;
use users::{Place, Users};

/// How many bytes of decoded users a shard keeps unless [`Shard::limit_cache`] says otherwise.
pub const DEFAULT_CACHE_BYTES: usize = 8 << 20;
/// How many due users are read from the store at once.
const FIRING_BATCH: usize = 512;
/// How far wall time may carry the watermark before that is worth a commit of its own: as much as a crash takes back.
const WATERMARK_KEPT: Span = Span::from_millis(60_000);
/// How many left-over deadlines are remembered for the next commit to remove; what comes beyond is met again.
const STALE_MAX: usize = 16_384;
/// What one changed user adds to a commit, about.
const CHANGED_USER_BYTES: usize = 160;
/// What one changed cell of the ledger adds to a commit, about.
const CHANGED_CELL_BYTES: usize = 64;

/// One partition's users, deadlines and clock.
#[derive(Debug)]
pub struct Shard<S: Store> {
    partition: i32,
    rules: Arc<Rules>,
    store: S,
    writer: Writer,
    /// As of what was applied.
    record: ShardRecord,
    /// As of the last commit.
    committed: ShardRecord,
    changelog_position: Option<i64>,
    users: Users,
    timers: Timers,
    /// The place of each name of `rules.track` in the shard's list of properties.
    places: Vec<u16>,
    /// Deadlines that came due and that nobody has armed: a bulk load leaves some in the index. The next commit removes
    /// them, and none is made for their sake.
    stale: Vec<Deadline>,
    /// The segments, compiled for this shard's places of properties.
    segments: Arc<Segments>,
    aggregates: Aggregates,
    /// The number of each retention report, in the order of the rules.
    reports: Vec<u32>,
    /// Records applied since the last commit.
    records: usize,
    /// Whether the shard's own record has to be committed though no user changed.
    unsealed: bool,
    /// Whether a commit is under way: what is applied now would be taken for a part of it.
    sealed: bool,
}

/// Whether [`Shard::advance`] got through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a shard with more to do has to be advanced again before long"]
pub enum Progress {
    /// Everything that is due has fired.
    Done,
    /// The budget ran out first.
    More,
}

/// One record for the changelog topic, whose partition is the shard's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangelogRecord {
    /// `u` + user id, or `s`.
    pub key: Vec<u8>,
    /// The encoded user or shard record; `None` when the user is gone.
    pub value: Option<Vec<u8>>,
}

/// What was applied since the last commit, ready for the transaction. Give it back with [`Shard::committed`], or drop it
/// and call [`Shard::rollback`].
#[derive(Debug)]
#[must_use = "a sealed commit has to be committed or rolled back"]
pub struct Sealed {
    /// To be produced to the changelog in the same transaction as the effects. Empty when nothing changed.
    pub changelog: Vec<ChangelogRecord>,
    arm: Vec<Deadline>,
    disarm: Vec<Deadline>,
    /// The input offset to send to the transaction: the next record to read. `None` if no record was ever read.
    pub position: Option<i64>,
}

/// What is waiting for a commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pending {
    /// Records of the input applied since the last commit.
    pub records: usize,
    /// Users changed since the last commit.
    pub users: usize,
    /// The shard's own record has something new: judging by a changed policy has come on, or wall time alone has carried
    /// the watermark a minute beyond the last commit. A lesser move is sealed with the next commit, and waits for it.
    pub record: bool,
    /// About so many bytes of changelog; what changed users change in the counts is not known before it is sealed.
    pub bytes: usize,
}

/// Why a shard cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ShardError {
    /// Users would land in other shards: an operator has to decide.
    #[error(
        "the input topic has {found} partitions, and partition {partition} was recorded with {recorded}: users would \
         change their shard; go back to {recorded} partitions, or start with a new group id and a new changelog topic"
    )]
    PartitionCountChanged {
        /// This shard.
        partition: i32,
        /// Partitions when the state was written.
        recorded: i32,
        /// Partitions now.
        found: i32,
    },
    /// The segments do not compile; the configuration's check would have said so.
    #[error("the segments are not sound: {0}")]
    Segments(String),
    /// The segments were changed more often than the users could be judged again.
    #[error(transparent)]
    Generations(#[from] TooManyGenerations),
    /// The store failed or is damaged.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl<S: Store> Shard<S> {
    /// Takes up a shard where its store says it was, or begins an empty one. If the policy or the segments have changed
    /// since, every user will be judged again by the calls of [`Shard::advance`] that follow (SPEC section 7).
    ///
    /// # Errors
    /// [`ShardError::PartitionCountChanged`], the segments cannot be taken up, or the store failed.
    pub fn open(partition: i32, rules: Arc<Rules>, store: S, input_partitions: i32) -> Result<Self, ShardError> {
        let (record, changelog_position) = store.shard()?;
        let is_new = record.is_none();
        let mut committed = match record {
            Some(bytes) => ShardRecord::decode(&bytes)?,
            None => ShardRecord { input_partitions, fingerprint: rules.fingerprint(), ..ShardRecord::default() },
        };
        if committed.input_partitions != input_partitions {
            let recorded = committed.input_partitions;
            return Err(ShardError::PartitionCountChanged { partition, recorded, found: input_partitions });
        }
        let segments = Arc::new(Segments::default());
        let writer = Writer::new(&rules.origin, partition, &[], &[], &segments);
        let aggregates = Aggregates::load(&store)?;
        if is_new {
            // Nobody is there to be judged again.
            let compiled = compile(&rules, &committed.properties)?;
            committed.segments = compiled.fingerprint();
            committed.roster.begin(committed.generation, compiled.definitions().iter().map(Definition::name))?;
            committed.signals_since = rules.signals.then_some(committed.generation);
        }
        let mut shard = Self {
            partition,
            rules,
            store,
            writer,
            record: committed.clone(),
            committed,
            changelog_position,
            users: Users::new(DEFAULT_CACHE_BYTES),
            timers: Timers::new(),
            places: Vec::new(),
            stale: Vec::new(),
            segments,
            aggregates,
            reports: Vec::new(),
            records: 0,
            unsealed: false,
            sealed: false,
        };
        shard.take_up()?;
        Ok(shard)
    }

    /// Bounds the cache of decoded users to about `bytes`; the default is [`DEFAULT_CACHE_BYTES`].
    pub fn limit_cache(&mut self, bytes: usize) {
        self.users.limit(bytes);
    }

    /// Applies records of the input in order: events, deletion requests and rubbish alike. `now` dates what is detected
    /// and judges the future.
    ///
    /// # Panics
    /// Between [`Shard::seal`] and its answer.
    ///
    /// # Errors
    /// The store failed; roll back.
    pub fn apply(&mut self, records: &[Record<'_>], now: WallTime, out: &mut Effects) -> Result<(), ShardError> {
        assert!(!self.sealed, "nothing is applied while a commit is under way");
        let rules = Arc::clone(&self.rules);
        let decoded: Vec<Decoded<'_>> = records.iter().map(|record| rules.decoder.decode(record, now)).collect();
        let ids = decoded.iter().filter_map(|decoded| match decoded {
            Decoded::Event(event) => Some(&*event.user_id),
            Decoded::Deletion { user_id } => Some(&**user_id),
            Decoded::Rejected(_) => None,
        });
        let mut places = self.users.prefetch(ids, &self.store, &self.record.names)?.into_iter();
        let mut next = || places.next().expect("every user has a place");
        for (record, decoded) in records.iter().zip(decoded) {
            let outcome = match decoded {
                Decoded::Event(event) => self.event(event, next(), now, out),
                Decoded::Deletion { user_id } => self.deletion(&user_id, next(), now, out),
                Decoded::Rejected(rejection) => {
                    out.counts.dead_letter(rejection.reason);
                    out.outputs.push(self.writer.dead_letter(record, &rejection));
                    RecordOutcome::Rejected
                }
            };
            out.counts.record(outcome);
            self.record.position = Some(record.offset + 1);
        }
        self.records += records.len();
        self.unsealed |= !records.is_empty();
        self.users.evict();
        Ok(())
    }

    /// Lets wall time count (SPEC section 4), then fires what is due, in order of time, and judges users by a changed
    /// policy: at most about `budget` users. `caught_up` says that the partition has no unread record.
    ///
    /// # Panics
    /// Between [`Shard::seal`] and its answer.
    ///
    /// # Errors
    /// The store failed; roll back.
    pub fn advance(
        &mut self,
        now: WallTime,
        caught_up: bool,
        budget: usize,
        out: &mut Effects,
    ) -> Result<Progress, ShardError> {
        assert!(!self.sealed, "nothing fires while a commit is under way");
        self.record.watermark.tick(now, caught_up, &self.rules.time);
        let watermark = self.record.watermark.at();
        let mut left = budget;
        while left > 0 {
            let due = self.timers.due(watermark, left.min(FIRING_BATCH), &self.store, &self.users)?;
            if due.is_empty() {
                break;
            }
            left -= due.len();
            let due_ids = due.iter().map(|deadline| &*deadline.user_id);
            let places = self.users.prefetch(due_ids, &self.store, &self.record.names)?;
            for (deadline, place) in due.iter().zip(places) {
                // What was armed by those before it may be due before it.
                while let Some(armed) = self.timers.before(deadline.at) {
                    let place = self.users.place(&armed.user_id, &self.store, &self.record.names)?;
                    self.fire(&armed, place, now, out);
                    left = left.saturating_sub(1);
                }
                self.fire(deadline, place, now, out);
            }
        }
        let mut judged = false;
        while left > 0 && self.record.rejudging.is_some() {
            left -= self.rejudge(left, now, out)?.max(1);
            judged = true;
        }
        self.users.evict();
        // Users judged as of an earlier moment may have been given deadlines that are due by now.
        let more = self.record.rejudging.is_some() || ((left == 0 || judged) && self.timers.may_be_due(watermark));
        Ok(if more { Progress::More } else { Progress::Done })
    }

    /// How long after `now` [`Shard::advance`] will have something to do if no record comes; `None` when nothing is ever
    /// due without one.
    #[must_use]
    pub fn next_wake(&self, now: WallTime) -> Option<Span> {
        if self.record.rejudging.is_some() {
            return Some(Span::ZERO);
        }
        self.record.watermark.reaches(self.timers.next_at()?, now, &self.rules.time)
    }

    /// Encodes everything that changed since the last commit, each user once.
    ///
    /// # Errors
    /// The store failed; roll back.
    pub fn seal(&mut self) -> Result<Sealed, ShardError> {
        let mut sealed =
            Sealed { changelog: Vec::new(), arm: Vec::new(), disarm: Vec::new(), position: self.record.position };
        let watermark_moved = self.record.watermark.at() != self.committed.watermark.at();
        if !self.unsealed && !watermark_moved && self.users.dirty_len() == 0 {
            return Ok(sealed);
        }
        self.sealed = true;
        self.recount();
        self.aggregates.keep_to(self.record.watermark.at());
        let ledger = self.aggregates.ledger();
        sealed.changelog.reserve(self.users.dirty_len() + ledger.changed_len() + 1);
        for (user_id, entry) in self.users.dirty() {
            if entry.person.is_none() && !entry.stored {
                continue;
            }
            let value = entry.person.as_ref().map(|person| {
                let mut value = Vec::with_capacity(CHANGED_USER_BYTES);
                codec::encode_user(person, &mut value);
                value
            });
            sealed.changelog.push(ChangelogRecord { key: key::changelog_user(user_id), value });
            let armed = entry.armed();
            if armed != entry.indexed {
                let deadline = |at: EventTime| Deadline { at, user_id: user_id.into() };
                sealed.disarm.extend(entry.indexed.map(deadline));
                sealed.arm.extend(armed.map(deadline));
            }
        }
        let users = &self.users;
        sealed.disarm.extend(
            self.stale
                .drain(..)
                .filter(|stale| users.get(&stale.user_id).and_then(users::Entry::armed) != Some(stale.at)),
        );
        let cells = ledger.sealed().map(|(cell, value)| ChangelogRecord { key: key::changelog_cell(cell), value });
        sealed.changelog.extend(cells);
        let mut value = Vec::with_capacity(CHANGED_USER_BYTES);
        self.record.encode(&mut value);
        sealed.changelog.push(ChangelogRecord { key: key::CHANGELOG_SHARD.to_vec(), value: Some(value) });
        Ok(sealed)
    }

    /// The transaction that held `sealed` has committed: writes the store. `changelog_position` is the changelog offset
    /// after the last record of the commit.
    ///
    /// # Errors
    /// The store failed: the shard has to be restored.
    pub fn committed(&mut self, sealed: Sealed, changelog_position: i64) -> Result<(), ShardError> {
        let Sealed { changelog, arm, disarm, position } = sealed;
        assert_eq!(position, self.record.position, "a commit covers all that was applied");
        let mut batch = Batch { arm, disarm, changelog_position: Some(changelog_position), ..Batch::default() };
        batch.users.reserve(changelog.len());
        for ChangelogRecord { key, value } in changelog {
            match key::read_changelog(&key)? {
                key::ChangelogKey::User(user_id) => batch.users.push((user_id.into(), value)),
                key::ChangelogKey::Cell(cell) => batch.cells.push((cell.into(), value)),
                key::ChangelogKey::Shard => batch.shard = value,
            }
        }
        self.store.write(batch)?;
        self.changelog_position = Some(changelog_position);
        self.committed = self.record.clone();
        self.records = 0;
        self.unsealed = false;
        self.sealed = false;
        self.users.committed();
        self.aggregates.committed();
        if self.timers.is_oversized() {
            self.timers = Timers::new();
            self.timers.refill(&self.store, &self.users)?;
        }
        Ok(())
    }

    /// Goes back to the last commit.
    ///
    /// # Errors
    /// The store failed.
    pub fn rollback(&mut self) -> Result<(), ShardError> {
        if self.record.names.len() == self.committed.names.len() {
            self.users.rollback();
        } else {
            // Even an unchanged user may refer to a name that is listed no more.
            self.users.clear();
        }
        self.aggregates.rollback();
        self.take_up()
    }

    /// This shard's partition.
    #[must_use]
    pub const fn partition(&self) -> i32 {
        self.partition
    }

    /// The next input offset, as of what was applied; `None` before the first record ever.
    #[must_use]
    pub const fn position(&self) -> Option<i64> {
        self.record.position
    }

    /// Makes `position` the next input offset: an operator has moved the group, and the group is to be believed (SPEC
    /// section 7). To be called right after [`Shard::open`].
    pub fn move_to(&mut self, position: i64) {
        self.record.position = Some(position);
        self.unsealed = true;
    }

    /// The next input offset, as of the last commit.
    #[must_use]
    pub const fn committed_position(&self) -> Option<i64> {
        self.committed.position
    }

    /// The changelog offset up to which (exclusive) the store holds the changelog.
    #[must_use]
    pub const fn changelog_position(&self) -> Option<i64> {
        self.changelog_position
    }

    /// Deadlines up to here have taken effect; [`EventTime::MIN`] before the first event.
    #[must_use]
    pub const fn watermark(&self) -> EventTime {
        self.record.watermark.at()
    }

    /// Whether the silence guard holds the watermark back (SPEC section 4).
    #[must_use]
    pub fn guard_holds(&self, now: WallTime) -> bool {
        self.record.watermark.guard_holds(now, &self.rules.time)
    }

    /// How many users are in which state, as of what was applied.
    #[must_use]
    pub const fn cohorts(&self) -> &Cohorts {
        &self.record.cohorts
    }

    /// What is counted beside the cohorts, as of what was applied. Counts first whoever has changed since the last commit.
    pub fn aggregates(&mut self) -> &Aggregates {
        self.recount();
        &self.aggregates
    }

    /// The cohorts of the retention report at this place in the rules, as of what was applied. Counts first whoever has
    /// changed since the last commit.
    pub fn retention(&mut self, index: usize) -> impl Iterator<Item = (Day, Vec<u64>)> {
        self.recount();
        self.reports.get(index).into_iter().flat_map(|number| self.aggregates.retention(*number))
    }

    /// What waits for a commit.
    #[must_use]
    pub fn pending(&self) -> Pending {
        let users = self.users.dirty_len();
        let watermark_is_old = self.record.watermark.at() >= self.committed.watermark.at() + WATERMARK_KEPT;
        let record = self.unsealed || watermark_is_old;
        let cells = self.aggregates.ledger().changed_len();
        let bytes = users * CHANGED_USER_BYTES + cells * CHANGED_CELL_BYTES;
        Pending { records: self.records, users, record, bytes }
    }

    /// The store, for reading what is committed.
    #[must_use]
    pub const fn store(&self) -> &S {
        &self.store
    }

    fn event(&mut self, mut event: Event<'_>, place: Place, now: WallTime, out: &mut Effects) -> RecordOutcome {
        self.record.watermark.accept(event.time, now, &self.rules.time);
        for (index, _) in &mut event.tracked {
            *index = self.places[usize::from(*index)];
        }
        if event.roles.activity {
            event.listed_name = self.listed(&event.name);
        }
        out.counts.refused_properties += u64::from(event.refused);
        let mut outcome = RecordOutcome::Counted;
        let watermark = self.record.watermark.at();
        self.turn(place, watermark, now, out, |live, user, standing, _, emitter| {
            outcome = match live.record(&event, user, standing, emitter) {
                Outcome::Counted => RecordOutcome::Counted,
                Outcome::PropertiesOnly => RecordOutcome::PropertiesOnly,
                Outcome::Late => RecordOutcome::Late,
                Outcome::Duplicate => RecordOutcome::Duplicate,
            };
            let changed = outcome != RecordOutcome::Duplicate;
            if changed {
                emitter.witness(&event);
                emitter.mark(&event);
            }
            Turn { exists: true, changed }
        });
        outcome
    }

    /// The name in the shard's list, to which it is added while there is room.
    fn listed(&mut self, name: &str) -> Option<Name> {
        let names = &mut self.record.names;
        if let Some(listed) = names.find(name) {
            return Some(listed.clone());
        }
        if !names.has_room_for(name) {
            return None;
        }
        // Shared with the last commit's record, and so copied, once for each name that comes.
        Arc::make_mut(names).list(name);
        names.find(name).cloned()
    }

    fn deletion(&mut self, user_id: &str, place: Place, now: WallTime, out: &mut Effects) -> RecordOutcome {
        let at = self.record.watermark.at();
        self.turn(place, at, now, out, |live, user, standing, exists, emitter| {
            if exists {
                live.delete(user_id, user, standing, at, emitter);
            }
            Turn { exists: false, changed: exists }
        });
        RecordOutcome::Deletion
    }

    /// A deadline is due. One that is not the user's armed one any more says nothing.
    fn fire(&mut self, deadline: &Deadline, place: Place, now: WallTime, out: &mut Effects) {
        if self.users.at(place).entry.armed() != Some(deadline.at) {
            if self.stale.len() < STALE_MAX {
                self.stale.push(deadline.clone());
            }
            return;
        }
        let changes = self.turn(place, deadline.at, now, out, |_, _, _, exists, _| Turn { exists, changed: false });
        if changes > 0 {
            out.counts.timer_lateness.push(now - WallTime::from_millis(deadline.at.as_millis()));
        }
    }

    /// Judges up to `budget` more users by changed rules; says how many it looked at.
    fn rejudge(&mut self, budget: usize, now: WallTime, out: &mut Effects) -> Result<usize, ShardError> {
        let Some(Rejudging { after }) = &self.record.rejudging else { return Ok(0) };
        let (limit, judged_at) = (budget.min(FIRING_BATCH), self.record.judged_at);
        let found = self.store.scan(after.as_deref(), limit)?;
        for (user_id, value) in &found {
            let place = self.users.hold(user_id, Some(value), &self.record.names)?;
            self.turn(place, judged_at, now, out, |_, _, _, exists, _| Turn { exists, changed: false });
        }
        let looked_at = found.len();
        self.record.rejudging = match found.into_iter().next_back() {
            Some((last, _)) if looked_at == limit => Some(Rejudging { after: Some(last) }),
            _ => {
                self.record.roster.settled();
                None
            }
        };
        self.unsealed = true;
        Ok(looked_at)
    }
}

impl Sealed {
    /// Whether nothing changed: no transaction is needed.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.changelog.is_empty()
    }
}

#[cfg(test)]
mod tests;

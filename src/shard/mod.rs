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
//! deadline is never later than the real one (`settle`); the cohorts are those of the users (`touch`).

pub mod cohort;
pub mod effect;
mod output;
pub mod record;
mod restore;
mod timers;
mod users;
pub mod watermark;

use std::sync::Arc;

use crate::event::{Decoded, Event, Record};
use crate::lifecycle::user::Fate;
use crate::lifecycle::user::Outcome;
use crate::lifecycle::{Change, Policy, Sink, User};
use crate::rules::Rules;
use crate::store::{Batch, Deadline, Store, StoreError, codec, key};
use crate::time::{EventTime, Span, WallTime};

pub use cohort::Cohorts;
pub use effect::{Counts, Effects, Headers, Output, RecordOutcome, Topic};
pub use record::{Rejudging, ShardRecord};
pub use restore::{Bulk, BulkDeadline, BulkUser, restore_batch};
pub use watermark::{TimeRules, Watermark};

use output::Writer;
use timers::Timers;
use users::Users;

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
    /// About so many bytes of changelog.
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
    /// The store failed or is damaged.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl<S: Store> Shard<S> {
    /// Takes up a shard where its store says it was, or begins an empty one. If the policy has changed since, every user
    /// will be judged again by the calls of [`Shard::advance`] that follow (SPEC section 7).
    ///
    /// # Errors
    /// [`ShardError::PartitionCountChanged`], or the store failed.
    pub fn open(partition: i32, rules: Arc<Rules>, store: S, input_partitions: i32) -> Result<Self, ShardError> {
        let (record, changelog_position) = store.shard()?;
        let committed = match record {
            Some(bytes) => ShardRecord::decode(&bytes)?,
            None => ShardRecord { input_partitions, fingerprint: rules.fingerprint(), ..ShardRecord::default() },
        };
        if committed.input_partitions != input_partitions {
            let recorded = committed.input_partitions;
            return Err(ShardError::PartitionCountChanged { partition, recorded, found: input_partitions });
        }
        let writer = Writer::new(&rules.origin, partition, &[], &[]);
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
            records: 0,
            unsealed: false,
            sealed: false,
        };
        shard.take_up()?;
        Ok(shard)
    }

    /// Begins from the last commit: notices a changed policy and newly tracked properties, and loads the near timers.
    fn take_up(&mut self) -> Result<(), ShardError> {
        self.record = self.committed.clone();
        self.stale.clear();
        self.records = 0;
        self.unsealed = false;
        self.sealed = false;
        let fingerprint = self.rules.fingerprint();
        if self.record.fingerprint != fingerprint {
            self.record.fingerprint = fingerprint;
            self.record.generation += 1;
            self.record.judged_at = self.record.watermark.at();
            self.record.rejudging = Some(Rejudging::default());
            self.unsealed = true;
        }
        let properties = &mut self.record.properties;
        let place = |name: &String| {
            let place = properties.iter().position(|known| known == name).unwrap_or_else(|| {
                properties.push(name.clone());
                properties.len() - 1
            });
            u16::try_from(place).unwrap_or(u16::MAX)
        };
        self.places = self.rules.track.iter().map(place).collect();
        self.writer = Writer::new(&self.rules.origin, self.partition, &self.record.properties, &self.rules.track);
        self.timers = Timers::new();
        self.timers.refill(&self.store, &self.users)?;
        Ok(())
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
        self.users.prefetch(ids, &self.store)?;
        for (record, decoded) in records.iter().zip(decoded) {
            let outcome = match decoded {
                Decoded::Event(event) => self.event(event, now, out)?,
                Decoded::Deletion { user_id } => self.deletion(&user_id, now, out)?,
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
            self.users.prefetch(due.iter().map(|deadline| &*deadline.user_id), &self.store)?;
            for deadline in &due {
                // What was armed by those before it may be due before it.
                while let Some(armed) = self.timers.before(deadline.at) {
                    self.fire(&armed, now, out)?;
                    left = left.saturating_sub(1);
                }
                self.fire(deadline, now, out)?;
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
        sealed.changelog.reserve(self.users.dirty_len() + 1);
        for (user_id, entry) in self.users.dirty() {
            if entry.user.is_none() && !entry.stored {
                continue;
            }
            let value = entry.user.as_ref().map(|user| {
                let mut value = Vec::with_capacity(CHANGED_USER_BYTES);
                codec::encode_user(user, &mut value);
                value
            });
            sealed.changelog.push(ChangelogRecord { key: key::changelog_user(user_id), value });
            let armed = entry.user.as_ref().and_then(|user| user.armed);
            if armed != entry.indexed {
                let deadline = |at: EventTime| Deadline { at, user_id: user_id.into() };
                sealed.disarm.extend(entry.indexed.map(deadline));
                sealed.arm.extend(armed.map(deadline));
            }
        }
        let users = &self.users;
        sealed.disarm.extend(self.stale.drain(..).filter(|stale| users.armed(&stale.user_id) != Some(stale.at)));
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
        self.users.rollback();
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

    /// What waits for a commit.
    #[must_use]
    pub fn pending(&self) -> Pending {
        let users = self.users.dirty_len();
        let watermark_is_old = self.record.watermark.at() >= self.committed.watermark.at() + WATERMARK_KEPT;
        let record = self.unsealed || watermark_is_old;
        Pending { records: self.records, users, record, bytes: users * CHANGED_USER_BYTES }
    }

    /// The store, for reading what is committed.
    #[must_use]
    pub const fn store(&self) -> &S {
        &self.store
    }

    fn event(&mut self, mut event: Event<'_>, now: WallTime, out: &mut Effects) -> Result<RecordOutcome, ShardError> {
        self.record.watermark.accept(event.time, now, &self.rules.time);
        for (index, _) in &mut event.tracked {
            *index = self.places[usize::from(*index)];
        }
        let mut outcome = RecordOutcome::Counted;
        let watermark = self.record.watermark.at();
        self.turn(&event.user_id, watermark, now, out, |user, _, policy, sink| {
            outcome = match user.record(&event, policy, sink) {
                Outcome::Counted => RecordOutcome::Counted,
                Outcome::PropertiesOnly => RecordOutcome::PropertiesOnly,
                Outcome::Late => RecordOutcome::Late,
                Outcome::Duplicate => RecordOutcome::Duplicate,
            };
            Turn { exists: true, changed: outcome != RecordOutcome::Duplicate }
        })?;
        Ok(outcome)
    }

    fn deletion(&mut self, user_id: &str, now: WallTime, out: &mut Effects) -> Result<RecordOutcome, ShardError> {
        let at = self.record.watermark.at();
        self.turn(user_id, at, now, out, |user, exists, _, sink| {
            if exists {
                user.delete(user_id, at, sink);
            }
            Turn { exists: false, changed: exists }
        })?;
        Ok(RecordOutcome::Deletion)
    }

    /// A deadline is due. One that is not the user's armed one any more says nothing.
    fn fire(&mut self, deadline: &Deadline, now: WallTime, out: &mut Effects) -> Result<(), ShardError> {
        let entry = self.users.entry(&deadline.user_id, &self.store)?;
        if entry.user.as_ref().and_then(|user| user.armed) != Some(deadline.at) {
            if self.stale.len() < STALE_MAX {
                self.stale.push(deadline.clone());
            }
            return Ok(());
        }
        let changes =
            self.turn(&deadline.user_id, deadline.at, now, out, |_, exists, _, _| Turn { exists, changed: false })?;
        if changes > 0 {
            out.counts.timer_lateness.push(now - WallTime::from_millis(deadline.at.as_millis()));
        }
        Ok(())
    }

    /// Judges up to `budget` more users by a changed policy; says how many it looked at.
    fn rejudge(&mut self, budget: usize, now: WallTime, out: &mut Effects) -> Result<usize, ShardError> {
        let Some(Rejudging { after }) = &self.record.rejudging else { return Ok(0) };
        let (limit, judged_at) = (budget.min(FIRING_BATCH), self.record.judged_at);
        let found = self.store.scan(after.as_deref(), limit)?;
        for (user_id, value) in &found {
            self.users.hold(user_id, Some(value))?;
            self.turn(user_id, judged_at, now, out, |_, exists, _, _| Turn { exists, changed: false })?;
        }
        let looked_at = found.len();
        self.record.rejudging = match found.into_iter().next_back() {
            Some((last, _)) if looked_at == limit => Some(Rejudging { after: Some(last) }),
            _ => None,
        };
        self.unsealed = true;
        Ok(looked_at)
    }

    /// One user's turn: judges it by a changed policy if that was not done yet, advances it to `to`, lets `act` change
    /// it, advances it again, and settles what follows: cohorts, deadline, current state. Says how many transitions there
    /// were.
    ///
    /// `to` is the watermark for a record, and for a timer its own deadline, so that timers fire in order of time.
    fn turn(
        &mut self,
        user_id: &str,
        to: EventTime,
        now: WallTime,
        out: &mut Effects,
        act: impl FnOnce(&mut User, bool, &Policy, &mut Emitter<'_>) -> Turn,
    ) -> Result<usize, ShardError> {
        let (record, policy) = (&mut self.record, &self.rules.policy);
        let entry = self.users.entry(user_id, &self.store)?;
        let before = entry.class();
        let mut exists = entry.user.is_some();
        let user = entry.user.get_or_insert_with(|| User { generation: record.generation, ..User::default() });
        let armed = user.armed;
        let mut emitter = Emitter { writer: &self.writer, policy, now, out, changes: 0 };
        let mut changed = false;
        if user.generation != record.generation {
            user.rejudge(user_id, record.judged_at, policy, &mut emitter);
            user.generation = record.generation;
            changed = true;
        }
        // The armed deadline is never later than the real one, so most turns need not look for it here.
        if changed || armed.is_some_and(|armed| armed <= to) {
            exists &= user.advance(user_id, to, policy, &mut emitter) == Fate::Stays;
        }
        let turn = act(user, exists, policy, &mut emitter);
        exists = turn.exists;
        let mut next = if exists { user.next_deadline(policy) } else { None };
        if next.is_some_and(|next| next <= to) {
            exists = user.advance(user_id, to, policy, &mut emitter) == Fate::Stays;
            next = if exists { user.next_deadline(policy) } else { None };
        }
        let changes = emitter.changes;
        if exists {
            user.armed = settle(armed, next, to);
            changed |= user.armed != armed;
            if let Some(at) = user.armed.filter(|_| user.armed != armed) {
                self.timers.arm(at, user_id);
            }
        }
        if !exists {
            entry.user = None;
        }
        let after = entry.class();
        if before != after {
            if let Some(class) = before {
                record.cohorts.leave(class);
            }
            if let Some(class) = after {
                record.cohorts.enter(class);
            }
        }
        if changed || turn.changed || changes > 0 || before != after {
            self.users.touch(user_id);
        }
        Ok(changes)
    }
}

/// The deadline to be armed: lazily, since one that comes too early costs less than one moved at each event (SPEC section
/// 8). The armed one stays unless `to` has passed it or the next one is earlier.
fn settle(armed: Option<EventTime>, next: Option<EventTime>, to: EventTime) -> Option<EventTime> {
    match (armed.filter(|armed| *armed > to), next) {
        (Some(armed), Some(next)) => Some(armed.min(next)),
        (Some(armed), None) => Some(armed),
        (None, next) => next,
    }
}

/// What became of a user in its turn.
struct Turn {
    exists: bool,
    changed: bool,
}

/// Writes transitions at the moment they happen.
struct Emitter<'a> {
    writer: &'a Writer,
    policy: &'a Policy,
    now: WallTime,
    out: &'a mut Effects,
    changes: usize,
}

/// Each transition is followed by the user's current state, as of that very moment: so what is written does not depend on
/// whether a timer or the user's next event came first.
impl Sink for Emitter<'_> {
    fn change(&mut self, user_id: &str, user: &User, change: &Change) {
        self.changes += 1;
        self.out.counts.transition(change.from, change.to, change.reason);
        self.out.counts.away.extend(change.away_since.map(|since| change.effective_at - since));
        self.out.outputs.push(self.writer.transition(user_id, user, change, self.policy, self.now));
        let state = match change.to {
            Some(_) => self.writer.state(user_id, user, user.next_deadline(self.policy), self.now),
            None => self.writer.gone(user_id),
        };
        self.out.outputs.push(state);
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

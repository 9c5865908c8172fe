//! Drives the [commit protocol](crate::kafka::commit): one arm an action.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tracing::{debug, warn};

use super::{COMMIT_RECORDS_MAX, COMMIT_USERS_MAX, Halt, Live, RunError, Session, Slot, commit_outputs};
use crate::clock::monotonic;
use crate::kafka::commit::{Action, Failure, Input, Outcome, Pace};
use crate::kafka::restore::stable_offset;
use crate::kafka::step::Step;
use crate::metrics::AbortCause;
use crate::shard::Sealed;
use crate::time::WallTime;

/// One shard's part of the commit that is under way.
struct Held {
    partition: i32,
    sealed: Sealed,
    /// The input offset that the commit sends; `None` if the shard never read a record.
    offset: Option<i64>,
    /// The group's offset and its metadata before the commit.
    before: Option<(i64, String)>,
}

/// Which shards a commit takes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// Those that have something to commit.
    Pending,
    /// Every one whose record has changed at all, be it by wall time: before a shard goes to another owner, and at the end.
    All,
}

/// What is reached when an action has gone well.
fn step_of(action: Action) -> Option<Step> {
    match action {
        Action::Begin => Some(Step::Begun),
        Action::Produce => Some(Step::Produced),
        Action::AwaitDelivery => Some(Step::Delivered),
        Action::SendOffsets => Some(Step::OffsetsSent),
        Action::Commit => Some(Step::Committed),
        Action::Apply => Some(Step::Written),
        Action::Renew => Some(Step::Renewed),
        Action::ReadOffsets => Some(Step::OffsetsRead),
        Action::RollBack => Some(Step::RolledBack),
        Action::Rest | Action::Rejoin | Action::Stop => None,
    }
}

impl Session<'_> {
    /// Whether the present transaction should be committed now.
    pub(super) fn commit_is_due(&self) -> bool {
        let Some(since) = self.pending_since else { return false };
        if since.elapsed() >= self.shared.config.commit_interval {
            return true;
        }
        let (mut records, mut users, mut outputs) = (0, 0, 0);
        for (_, live) in self.live() {
            let pending = live.shard.pending();
            records += pending.records;
            users += pending.users;
            outputs += live.effects.outputs.len();
        }
        records >= COMMIT_RECORDS_MAX || users >= COMMIT_USERS_MAX || outputs >= commit_outputs(&self.shared.config)
    }

    /// Commits everything that was applied, or goes back to the last commit: either way nothing is pending afterwards.
    pub(super) fn commit(&mut self, scope: Scope) -> Result<(), Halt> {
        self.pending_since = None;
        let began = monotonic();
        let mut held = self.seal(scope)?;
        if held.is_empty() {
            return Ok(());
        }
        self.prove(&held)?;
        self.reached(Step::Sealed);
        self.commits += 1;
        let note = format!("{}:{}", self.name, self.commits);
        let mut delivered = BTreeMap::new();
        let mut cause = AbortCause::Aborted;
        let mut input = Input::Sealed;
        loop {
            let action = self.protocol.step(input);
            if !matches!(input, Input::Sealed | Input::Done(Pace::Quick)) {
                debug!(worker = self.worker, ?input, ?action, "a commit left its usual way");
            }
            input = match action {
                Action::Begin => self.transactions.begin(),
                Action::Produce => self.produce(&held),
                Action::AwaitDelivery => {
                    let answer = self.transactions.await_delivery();
                    delivered = self.transactions.delivered();
                    answer
                }
                Action::SendOffsets => {
                    let offsets: Vec<(i32, i64)> =
                        held.iter().filter_map(|shard| Some((shard.partition, shard.offset?))).collect();
                    let (generation, topic) = (self.generation.as_ref(), &self.shared.config.topics.events);
                    self.transactions.send_offsets(self.consumer, generation, topic, &offsets, &note)
                }
                Action::Commit => self.transactions.commit(),
                Action::Apply => {
                    self.apply_locally(std::mem::take(&mut held), &delivered, &note, began)?;
                    Input::Done(Pace::Quick)
                }
                Action::Renew if self.shutdown.is_cancelled() => {
                    // The next start under this name settles the transaction; there is no time to do it now.
                    return Err(Halt::Rejoin(self.transactions.last_error()));
                }
                Action::Renew => self.transactions.renew(),
                Action::ReadOffsets => {
                    cause = AbortCause::Unresolved;
                    let answer = self.read_offsets(&held, &note);
                    warn!(
                        worker = self.worker,
                        ?answer,
                        "the outcome of a commit was unknown; the group's offsets tell it"
                    );
                    answer
                }
                Action::RollBack => {
                    self.shared.parts.metrics.aborted(cause);
                    self.roll_back()?;
                    Input::Done(Pace::Quick)
                }
                Action::Rest => break,
                Action::Rejoin if input == Input::Failed(Failure::Fenced) => {
                    return Err(Halt::Fenced(self.transactions.last_error()));
                }
                Action::Rejoin => return Err(Halt::Rejoin(self.transactions.last_error())),
                Action::Stop => {
                    let what = format!("committing to the output topics: {}", self.transactions.last_error());
                    return Err(Halt::Stop(RunError::Refused { what }));
                }
            };
            if let (Some(step), Input::Done(_) | Input::Resolved(_)) = (step_of(action), input) {
                self.reached(step);
            }
        }
        // What arrived during the commit has waited already: the next one begins an interval after this one began, and
        // never so soon that committing is all that is done.
        let ended = monotonic();
        let paced = began.max(ended.checked_sub(self.shared.config.commit_interval / 2).unwrap_or(began));
        self.paced_from = Some(paced);
        self.note_pending();
        self.report();
        Ok(())
    }

    fn seal(&mut self, scope: Scope) -> Result<Vec<Held>, Halt> {
        let mut held = Vec::with_capacity(self.slots.len());
        for (partition, live) in self.live_mut() {
            if scope == Scope::Pending && !live.is_pending() {
                continue;
            }
            let sealed = live.shard.seal().map_err(Halt::shard(partition))?;
            if sealed.is_empty() {
                assert!(live.effects.outputs.is_empty(), "shard {partition} has output of nothing that changed");
                continue;
            }
            held.push(Held { partition, offset: sealed.position, sealed, before: live.group.clone() });
        }
        Ok(held)
    }

    /// Makes sure that nobody has committed for these shards since we took them up, once a generation.
    ///
    /// A member that was away for longer than its session and comes back while the group rebalances is let in with the
    /// partitions that it says it owns, though others had them meanwhile: no loss is reported to it, and its generation is
    /// valid. Commits of earlier generations are refused by now, so what the group's stable offsets say stays true until
    /// we commit.
    fn prove(&mut self, held: &[Held]) -> Result<(), Halt> {
        let (consumer, topic) = (self.consumer, &self.shared.config.topics.events);
        for &Held { partition, .. } in held {
            let Some(Slot::Live(live)) = self.slots.get_mut(&partition) else { continue };
            if live.proven {
                continue;
            }
            let seen = stable_offset(consumer, topic, partition)
                .map_err(|error| Halt::Rejoin(format!("the group's offset of shard {partition}: {error}")))?;
            if seen != live.group {
                self.shared.parts.metrics.aborted(AbortCause::Lost);
                return Err(Halt::Rejoin(format!("somebody else committed for shard {partition} meanwhile")));
            }
            live.proven = true;
        }
        Ok(())
    }

    fn produce(&mut self, held: &[Held]) -> Input {
        let mut pace = Pace::Quick;
        for (place, shard) in held.iter().enumerate() {
            self.reached_if(place > 0, Step::PartlyProduced);
            let Some(Slot::Live(live)) = self.slots.get(&shard.partition) else { continue };
            match self.transactions.produce(shard.partition, &live.effects.outputs, &shard.sealed.changelog) {
                Input::Done(Pace::Quick) => {}
                Input::Done(Pace::Slow) => pace = Pace::Slow,
                failed @ (Input::Failed(_) | Input::Sealed | Input::Resolved(_)) => return failed,
            }
        }
        Input::Done(pace)
    }

    /// Step 6: the transaction has committed, so the store may know, and so may everybody else.
    fn apply_locally(
        &mut self,
        held: Vec<Held>,
        delivered: &BTreeMap<i32, i64>,
        note: &str,
        began: Instant,
    ) -> Result<(), Halt> {
        let took: Duration = began.elapsed();
        let now = self.shared.parts.clock.broker_time();
        self.progress.committed = true;
        self.shared.parts.metrics.committed(took);
        for (place, Held { partition, sealed, offset, .. }) in held.into_iter().enumerate() {
            self.reached_if(place > 0, Step::PartlyWritten);
            let Some(Slot::Live(live)) = self.slots.get_mut(&partition) else { continue };
            let last = delivered.get(&partition).expect("the changelog of each sealed shard was awaited in step 3");
            live.shard.committed(sealed, last + 1).map_err(Halt::shard(partition))?;
            live.committed = live.next;
            live.group = offset.map(|offset| (offset, note.to_owned())).or_else(|| live.group.take());
            live.moved_to = None;
            self.shared.parts.metrics.counted(&live.effects.counts);
            for at in live.arrivals.drain(..) {
                self.shared.parts.metrics.reached_commit(now - WallTime::from_millis(at));
            }
            self.shared.parts.feed.show(live.effects.outputs.drain(..));
            live.effects.clear();
        }
        Ok(())
    }

    /// Whether the commit named `note` is what the group's stable offsets show. The metadata tells it even where the offset
    /// itself did not move, as in a commit of timers alone.
    fn read_offsets(&self, held: &[Held], note: &str) -> Input {
        let mut outcomes = Vec::with_capacity(held.len());
        for shard in held {
            let Some(offset) = shard.offset else { continue };
            match stable_offset(self.consumer, &self.shared.config.topics.events, shard.partition) {
                Err(error) => {
                    warn!(%error, "the group's offsets cannot be read");
                    return Input::Failed(Failure::Broken);
                }
                Ok(seen) => outcomes.push(Outcome::of(&shard.before, &Some((offset, note.to_owned())), &seen)),
            }
        }
        // Without any offset there is no witness here; joining anew asks the changelog.
        Input::Resolved(Outcome::of_all(outcomes))
    }

    fn roll_back(&mut self) -> Result<(), Halt> {
        for (partition, live) in self.live_mut() {
            live.roll_back().map_err(Halt::shard(partition))?;
        }
        Ok(())
    }
}

impl Live {
    fn roll_back(&mut self) -> Result<(), crate::shard::ShardError> {
        self.shard.rollback()?;
        self.effects.clear();
        self.arrivals.clear();
        self.next = self.committed;
        if let Some(offset) = self.moved_to {
            self.shard.move_to(offset);
            self.next = offset;
        }
        self.seek_to = Some(self.next);
        self.end.moved();
        // Timers may be due that had fired already.
        self.touched = true;
        Ok(())
    }
}

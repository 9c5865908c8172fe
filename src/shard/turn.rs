//! One user's turn: everything that a shard does to a user goes through here, so that what is counted and written of it
//! does too.

use super::Shard;
use super::output::Writer;
use crate::event::Event;
use crate::lifecycle::user::Fate;
use crate::lifecycle::{Change, Kind, Sink, User};
use crate::person::Person;
use crate::retention::{Marks, Numbered};
use crate::rules::Rules;
use crate::segment::{Action, Live, Members, Move, SegmentSink, Segments, Standing};
use crate::shard::aggregates::Aggregates;
use crate::shard::effect::{Effects, Output};
use crate::shard::share::{Lens, Share};
use crate::shard::users::{Held, Place};
use crate::store::Store;
use crate::time::{EventTime, WallTime};
use crate::win_back::{Comeback, Trail};

/// What became of a user in its turn.
pub(super) struct Turn {
    pub(super) exists: bool,
    pub(super) changed: bool,
}

impl<S: Store> Shard<S> {
    /// One user's turn: judges it by changed rules if that was not done yet, advances it to `to`, lets `act` change it,
    /// advances it again, and settles what follows: cohorts, facts for the aggregates, deadline, current state; what the
    /// user is counted by as it is waits for the commit. Says how many transitions, entries and exits there were.
    ///
    /// `to` is the watermark for a record, and for a timer its own deadline, so that timers fire in order of time.
    pub(super) fn turn(
        &mut self,
        place: Place,
        to: EventTime,
        now: WallTime,
        out: &mut Effects,
        act: impl FnOnce(&Live<'_>, &mut User, &mut Standing, bool, &mut Emitter<'_>) -> Turn,
    ) -> usize {
        let (record, rules) = (&mut self.record, &self.rules);
        let segments: &Segments = &self.segments;
        let live = Live { policy: &rules.policy, segments };
        let Held { user_id, entry } = self.users.at(place);
        let user_id = &**user_id;
        let lens = Lens {
            reports: Numbered { reports: &rules.retention, numbers: &self.reports },
            signals_since: record.signals_since,
            roster: &record.roster,
            properties: &record.properties,
        };
        let is_counted = entry.counted.is_some() || lens.is_idle();
        let share = (!is_counted).then(|| Box::new(Share::of(entry.person.as_ref(), lens)));
        let class = entry.class();
        let mut exists = entry.person.is_some();
        let person = entry.person.get_or_insert_with(|| Person::of_generation(record.generation));
        let Person { user, standing, trail, marks } = person;
        let armed = user.armed;
        let mut emitter = Emitter {
            writer: &self.writer,
            rules,
            live,
            now,
            out,
            aggregates: &mut self.aggregates,
            trail,
            marks,
            numbers: &self.reports,
            changes: 0,
            unsettled: false,
        };
        let mut changed = false;
        if user.generation != record.generation {
            if user.generation < record.policy_generation {
                user.rejudge(user_id, record.judged_at, live.policy, &mut emitter);
            } else if user.advance(user_id, record.judged_at, live.policy, &mut emitter) == Fate::Gone {
                exists = false;
            }
            let old = user.generation;
            emitter.trail.renumber(|index| {
                let name = record.roster.names(old).get(usize::from(index))?;
                segments.position(name).and_then(|now| u8::try_from(now).ok())
            });
            live.rejudge(user_id, user, standing, old, &record.roster, record.judged_at, &mut emitter);
            if !exists {
                *standing = Standing::default();
            }
            user.generation = record.generation;
            changed = true;
        }
        // The armed deadline is never later than the real one, so most turns need not look for it here.
        if changed || armed.is_some_and(|armed| armed <= to) {
            exists &= live.advance(user_id, user, standing, to, &mut emitter) == Fate::Stays;
        }
        let turn = act(&live, user, standing, exists, &mut emitter);
        exists = turn.exists;
        let mut next = if exists { live.next_deadline(user, standing) } else { None };
        if next.is_some_and(|next| next <= to) {
            exists = live.advance(user_id, user, standing, to, &mut emitter) == Fate::Stays;
            next = if exists { live.next_deadline(user, standing) } else { None };
        }
        let changes = emitter.changes;
        if exists {
            user.armed = settle(armed, next, to);
            changed |= user.armed != armed;
            if let Some(at) = user.armed.filter(|_| user.armed != armed) {
                self.timers.arm(at, user_id);
            }
        } else {
            entry.person = None;
        }
        let class_now = entry.class();
        let moved = class != class_now;
        if moved {
            record.cohorts.replace(class, class_now);
        }
        if changed || turn.changed || changes > 0 || moved {
            if share.is_some() {
                entry.counted = share;
            }
            self.users.touch(place);
        }
        changes
    }

    /// Counts all users that have changed since they were last counted as they are now.
    pub(super) fn recount(&mut self) {
        let lens = Lens {
            reports: Numbered { reports: &self.rules.retention, numbers: &self.reports },
            signals_since: self.record.signals_since,
            roster: &self.record.roster,
            properties: &self.record.properties,
        };
        let aggregates = &mut self.aggregates;
        self.users.recount(|before, person| aggregates.replace(before, &Share::of(person, lens)));
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

/// Writes and counts what happens to one user at the moment it happens.
pub(super) struct Emitter<'a> {
    writer: &'a Writer,
    rules: &'a Rules,
    live: Live<'a>,
    now: WallTime,
    out: &'a mut Effects,
    aggregates: &'a mut Aggregates,
    trail: &'a mut Trail,
    marks: &'a mut Marks,
    /// The number of each retention report.
    numbers: &'a [u32],
    changes: usize,
    /// Whether something was said since the current state was last written.
    unsettled: bool,
}

impl Emitter<'_> {
    /// An event of the user was taken: what it means for the user's latest return, which it may just have brought.
    pub(super) fn witness(&mut self, event: &Event<'_>) {
        let Some(comeback) = &mut self.trail.comeback else { return };
        if event.time < comeback.at || !(event.roles.activity || event.roles.win_back) {
            return;
        }
        let before = comeback.clone();
        if event.roles.activity {
            comeback.record(event.time, event.roles.core);
        }
        let attribution = if event.roles.win_back {
            comeback.attribute(event.time, event.campaign.as_deref(), self.rules.win_back.window)
        } else {
            None
        };
        if let Some(attribution) = &attribution {
            let label = self.aggregates.attributed(&attribution.campaign);
            self.out.counts.attributed(label);
            let output = self.writer.attributed(
                &event.user_id,
                comeback,
                attribution,
                self.rules.win_back.holds_out(&event.user_id),
                self.now,
            );
            self.out.outputs.push(output);
        }
        self.aggregates.went_on(&before, comeback);
    }

    /// An event of the user was taken: what it is in the retention reports.
    pub(super) fn mark(&mut self, event: &Event<'_>) {
        let reports = Numbered { reports: &self.rules.retention, numbers: self.numbers };
        self.marks.record(reports, event.reports, event.time);
    }

    fn push(&mut self, output: Output) {
        self.changes += 1;
        self.unsettled = true;
        self.out.outputs.push(output);
    }
}

fn segment_name(segments: &Segments, index: u8) -> &str {
    segments.definitions().get(usize::from(index)).map_or("", |definition| definition.name())
}

impl Sink for Emitter<'_> {
    fn change(&mut self, user_id: &str, user: &User, change: &Change) {
        self.out.counts.transition(change.from, change.to, change.reason);
        self.out.counts.away.extend(change.away_since.map(|since| change.effective_at - since));
        self.push(self.writer.transition(user_id, user, change, &self.rules.policy, self.now));
        if let (Kind::Reactivated, Some(since), Some(from)) = (change.kind, change.away_since, change.from) {
            let comeback = Comeback::new(change.effective_at, change.seq, from, since);
            self.aggregates.returned(&comeback);
            self.trail.comeback = Some(comeback);
        }
        if matches!(change.kind, Kind::Reactivated | Kind::Recovered) {
            let (aggregates, segments) = (&mut *self.aggregates, self.live.segments);
            self.trail.come_back(change.effective_at, |entry| {
                aggregates.returned_from(segment_name(segments, entry.segment), entry);
            });
        }
        if change.to.is_none() {
            *self.trail = Trail::default();
            *self.marks = Marks::default();
        }
    }
}

impl SegmentSink for Emitter<'_> {
    fn moved(&mut self, user_id: &str, user: &User, moved: &Move<'_>) {
        let held_out = self.rules.win_back.holds_out(user_id);
        self.out.counts.moved(moved.segment, moved.action);
        match moved.action {
            Action::Exited => self.aggregates.moved(moved.segment, -1),
            Action::Entered => {
                self.aggregates.moved(moved.segment, 1);
                let index = self.live.segments.position(moved.segment).and_then(|index| u8::try_from(index).ok());
                if let Some(entry) = index.and_then(|index| self.trail.enter(index, moved.effective_at, held_out)) {
                    self.aggregates.entered(moved.segment, &entry);
                }
            }
        }
        self.push(self.writer.segment(user_id, user, moved, held_out, &self.rules.policy, self.now));
    }

    fn failed(&mut self, failed: Members) {
        self.out.counts.conditions_failed += failed.iter().count() as u64;
    }

    /// What was said is followed by the user's current state, as of that very moment: so what is written does not depend
    /// on whether a timer or the user's next event came first.
    fn settled(&mut self, user_id: &str, user: &User, standing: &Standing) {
        if std::mem::take(&mut self.unsettled) {
            let next = self.live.next_deadline(user, standing);
            self.out.outputs.push(self.writer.state(user_id, user, standing.members, next, self.now));
        }
    }
}

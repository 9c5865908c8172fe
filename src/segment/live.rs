//! Entries and exits at their exact moments: a user moved through time and events, lifecycle and segments together.
//!
//! Between two changes of the record only idle bounds change a membership, so it is enough to judge at each lifecycle
//! deadline, each idle bound, and after each event. Where several fall on one instant the user is judged once, after all
//! of them.

use super::{Known, Members, Roster, Segments, Verdict};
use crate::event::Event;
use crate::lifecycle::user::{Fate, Outcome};
use crate::lifecycle::{Policy, Sink, User};
use crate::time::EventTime;

/// What a user remembers of the segments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The segments the user is in, by the definitions of the user's generation.
    pub members: Members,
    /// As of when the user was last judged: every idle bound up to here has taken effect. Never goes back.
    pub as_of: EventTime,
    /// The last entry's or exit's number; 0 before the first.
    pub seq: u64,
}

/// In or out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// From now on in the segment.
    Entered,
    /// No longer in it.
    Exited,
}

/// Why a membership changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// The lifecycle transition with this number.
    Transition(u64),
    /// An activity that changed no state.
    Activity,
    /// An idle bound passed.
    Time,
    /// A tracked property changed.
    Properties,
    /// The user was deleted on request.
    Deleted,
    /// The segments were redefined, or the policy was.
    DefinitionChanged,
}

/// One entry or exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move<'a> {
    /// The segment's name. By name, since a segment that is no longer defined is still left.
    pub segment: &'a str,
    /// In or out.
    pub action: Action,
    /// The exact moment.
    pub effective_at: EventTime,
    /// 1, 2, 3 … per user.
    pub seq: u64,
    /// Why.
    pub cause: Cause,
}

/// Takes entries and exits at the moment they happen, after the transition that caused them.
pub trait SegmentSink: Sink {
    /// One entry or exit of one user, whose record is as it is after the cause was counted: empty once the user is gone.
    fn moved(&mut self, user_id: &str, user: &User, moved: &Move<'_>);

    /// An evaluation of the segments in `failed` failed, and counted as false.
    fn failed(&mut self, failed: Members);

    /// All that one moment or one event brings has been said: the user and the standing are as they stay until the next.
    /// Called whether something was said or not.
    fn settled(&mut self, user_id: &str, user: &User, standing: &Standing);
}

/// When and why a user is judged, and what is known from before.
struct Moment {
    at: EventTime,
    cause: Cause,
    known: Option<Known>,
}

/// The rules that move a user.
#[derive(Clone, Copy, Debug)]
pub struct Live<'a> {
    /// Judges the lifecycle.
    pub policy: &'a Policy,
    /// Judges the memberships.
    pub segments: &'a Segments,
}

impl Live<'_> {
    /// Lets time pass: every lifecycle deadline and idle bound at or before `to`, in order.
    pub fn advance(
        &self,
        user_id: &str,
        user: &mut User,
        standing: &mut Standing,
        to: EventTime,
        sink: &mut impl SegmentSink,
    ) -> Fate {
        while let Some(at) = self.next_deadline(user, standing).filter(|at| *at <= to) {
            let (seq, before) = (user.seq, standing.members);
            if user.advance(user_id, at, self.policy, sink) == Fate::Gone {
                self.leave_all(user_id, user, standing, before, at, Cause::Transition(seq + 1), sink);
                return Fate::Gone;
            }
            let cause = if user.seq == seq { Cause::Time } else { Cause::Transition(user.seq) };
            self.settle(user_id, user, standing, Moment { at, cause, known: None }, sink);
        }
        Fate::Stays
    }

    /// Applies one event: lets time pass up to it, records it, and judges the user by what it changed.
    pub fn record(
        &self,
        event: &Event<'_>,
        user: &mut User,
        standing: &mut Standing,
        sink: &mut impl SegmentSink,
    ) -> Outcome {
        // A duplicate says nothing, not even that time has passed.
        if user.is_duplicate(event) {
            return Outcome::Duplicate;
        }
        let known = user.life.as_ref().map(|life| life.last_active.max(life.since));
        if known.is_none_or(|known| event.time >= known) {
            // A user who is forgotten on the way begins anew with this event.
            let (Fate::Stays | Fate::Gone) = self.advance(&event.user_id, user, standing, event.time, sink);
        }
        let seq = user.seq;
        let known = if event.tracked.is_empty() { Segments::known(user, standing) } else { None };
        let outcome = user.record(event, self.policy, sink);
        let cause = match outcome {
            Outcome::Duplicate => return outcome,
            _ if user.seq != seq => Cause::Transition(user.seq),
            Outcome::PropertiesOnly => Cause::Properties,
            Outcome::Counted | Outcome::Late => Cause::Activity,
        };
        // What sets no property and is no activity changes nothing that is judged.
        if outcome != Outcome::PropertiesOnly || !event.tracked.is_empty() {
            self.settle(&event.user_id, user, standing, Moment { at: event.time, cause, known }, sink);
        }
        outcome
    }

    /// The user asked to be deleted: leaves all segments, after the transition that says so.
    pub fn delete(
        &self,
        user_id: &str,
        user: &mut User,
        standing: &mut Standing,
        at: EventTime,
        sink: &mut impl SegmentSink,
    ) {
        let members = standing.members;
        user.delete(user_id, at, sink);
        self.leave_all(user_id, user, standing, members, at, Cause::Deleted, sink);
    }

    /// Judges the user once by new definitions or a new policy, which has already judged the lifecycle. `generation` is
    /// the one whose bits the user holds; `roster` knows its names.
    #[expect(clippy::too_many_arguments, reason = "a user's three parts, and what it is judged by")]
    pub fn rejudge(
        &self,
        user_id: &str,
        user: &User,
        standing: &mut Standing,
        generation: u32,
        roster: &Roster,
        at: EventTime,
        sink: &mut impl SegmentSink,
    ) {
        let at = at.max(standing.as_of);
        let names = roster.names(generation);
        let mut kept = Members::NONE;
        for index in standing.members.iter() {
            let Some(name) = names.get(index) else { continue };
            if let Some(now) = self.segments.position(name) {
                kept.insert(now);
            } else {
                standing.report(user_id, user, name, Action::Exited, at, Cause::DefinitionChanged, sink);
            }
        }
        standing.members = kept;
        self.settle(user_id, user, standing, Moment { at, cause: Cause::DefinitionChanged, known: None }, sink);
    }

    /// The earliest moment at which time alone changes the user's state, or may change a membership.
    #[must_use]
    pub fn next_deadline(&self, user: &User, standing: &Standing) -> Option<EventTime> {
        let bound = self.segments.next_change(user, standing.as_of);
        match (user.next_deadline(self.policy), bound) {
            (Some(state), Some(bound)) => Some(state.min(bound)),
            (state, bound) => state.or(bound),
        }
    }

    /// Judges the user as of a moment, or of the last judgement if that is later, and reports what changed.
    fn settle(&self, user_id: &str, user: &User, standing: &mut Standing, moment: Moment, sink: &mut impl SegmentSink) {
        if !self.segments.is_empty() {
            self.judge(user_id, user, standing, moment, sink);
        }
        sink.settled(user_id, user, standing);
    }

    fn judge(
        &self,
        user_id: &str,
        user: &User,
        standing: &mut Standing,
        Moment { at, cause, known }: Moment,
        sink: &mut impl SegmentSink,
    ) {
        standing.as_of = standing.as_of.max(at);
        let Verdict { members, failed } = self.segments.judge_again(user_id, user, standing.as_of, self.policy, known);
        if !failed.is_empty() {
            sink.failed(failed);
        }
        if members == standing.members {
            return;
        }
        let (left, joined) = (standing.members.without(members), members.without(standing.members));
        standing.members = members;
        for (changed, action) in [(left, Action::Exited), (joined, Action::Entered)] {
            for name in self.segments.names(changed) {
                standing.report(user_id, user, name, action, standing.as_of, cause, sink);
            }
        }
    }

    /// The user is gone, and so is what is remembered of the segments.
    #[expect(clippy::too_many_arguments, reason = "a user's three parts, and what is to be said of them")]
    fn leave_all(
        &self,
        user_id: &str,
        user: &User,
        standing: &mut Standing,
        members: Members,
        at: EventTime,
        cause: Cause,
        sink: &mut impl SegmentSink,
    ) {
        let at = at.max(standing.as_of);
        for name in self.segments.names(members) {
            standing.report(user_id, user, name, Action::Exited, at, cause, sink);
        }
        *standing = Standing::default();
        sink.settled(user_id, user, standing);
    }
}

impl Standing {
    #[expect(clippy::too_many_arguments, reason = "the parts of one record")]
    fn report(
        &mut self,
        user_id: &str,
        user: &User,
        segment: &str,
        action: Action,
        effective_at: EventTime,
        cause: Cause,
        sink: &mut impl SegmentSink,
    ) {
        self.seq += 1;
        sink.moved(user_id, user, &Move { segment, action, effective_at, seq: self.seq, cause });
    }
}

impl Action {
    /// The name in records.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Entered => "entered",
            Self::Exited => "exited",
        }
    }
}

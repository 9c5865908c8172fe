//! The commit protocol as a pure state machine: what to do next, given what just happened (SPEC section 7).
//!
//! One commit, when nothing goes wrong:
//!
//! 1. *begin* a transaction;
//! 2. *produce* transitions, current states, dead letters and the changelog;
//! 3. *await delivery* of every one of them: their changelog offsets are needed in step 6;
//! 4. *send the offsets* of the input, with the group metadata of the last change that was served: a broker that knows a newer
//!    generation refuses here;
//! 5. *commit* the transaction;
//! 6. *apply* the same changes to the local store. Only now may anybody be told about them.
//!
//! When something goes wrong:
//!
//! * before step 5 the transaction cannot have committed: a new producer under the same transactional id aborts it, the
//!   work is dropped, and the shards go back to their last commit;
//! * in step 5 the outcome is unknown, whatever the error says, because librdkafka repeats an `EndTxn` by itself after a
//!   lost connection. It is *resolved*, never guessed: a new producer under the same transactional id settles the old
//!   transaction, then the group's stable offset tells whether the commit took;
//! * after a slow call the producer is replaced even though the call went well: without protocol version 2 (KIP-890) a
//!   delayed `EndTxn` could otherwise decide a later transaction;
//! * fenced: somebody else works under this name or on these partitions. Everything is dropped, and the worker joins anew.
//!
//! No producer is ever used again after a failed transactional call. This file does no I/O; the driver is
//! [`super::transaction`].

/// How often renewing the producer or reading the group's offsets is tried before the worker joins anew, which comes to
/// the same truth by reading the changelog.
pub const TRIES_MAX: u8 = 3;

/// Where a commit stands: the action that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// No commit is under way.
    Idle,
    /// Step 1.
    Beginning,
    /// Step 2.
    Producing,
    /// Step 3.
    Delivering,
    /// Step 4.
    SendingOffsets,
    /// Step 5.
    Committing,
    /// Step 6.
    Applying,
    /// The producer is being replaced; which settles its transaction.
    Renewing(Next),
    /// The group's stable offsets are being read.
    Resolving,
    /// The shards are going back to their last commit.
    RollingBack,
}

/// What follows once the producer has been replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Find out whether the commit took.
    Resolve,
    /// It cannot have committed: go back.
    RollBack,
    /// Everything went well, only slowly.
    Rest,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// The shards are sealed: there is something to commit.
    Sealed,
    /// The action succeeded.
    Done(Pace),
    /// The action failed.
    Failed(Failure),
    /// Resolving found out.
    Resolved(Outcome),
}

/// How the action went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// As usual: every request was answered over the connection that it was sent on.
    Quick,
    /// A request of it may have been repeated, and the first copy may still be on its way: the call took long, or a
    /// connection was lost meanwhile. The clock alone does not tell, as a repeated request can be answered at once.
    Slow,
}

/// How an action failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// A time-out, a lost connection, an aborted transaction: try again with a new producer.
    Broken,
    /// Somebody else has taken the transactional id or the group's membership.
    Fenced,
    /// Trying again cannot help: no permission, a full disk.
    Hopeless,
}

/// What the group's stable offsets say about a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is there.
    Took,
    /// The one before it is there.
    DidNotTake,
    /// Somebody else's is there.
    Foreign,
}

impl Outcome {
    /// What one shard's offset says: `before` is what was there when the shard was sealed, `after` is what the commit
    /// would put there, `seen` is what is there. All three are offset *and* metadata that names the commit: when only
    /// time has passed, the offset does not move.
    #[must_use]
    pub fn of<T: PartialEq>(before: &T, after: &T, seen: &T) -> Self {
        if seen == after {
            Self::Took
        } else if seen == before {
            Self::DidNotTake
        } else {
            Self::Foreign
        }
    }

    /// What all shards of a commit say together. A transaction is atomic: where they disagree, somebody else was there.
    #[must_use]
    pub fn of_all(outcomes: impl IntoIterator<Item = Self>) -> Self {
        let mut outcomes = outcomes.into_iter();
        let first = outcomes.next().unwrap_or(Self::Foreign);
        if outcomes.all(|outcome| outcome == first) { first } else { Self::Foreign }
    }
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Step 1.
    Begin,
    /// Step 2.
    Produce,
    /// Step 3.
    AwaitDelivery,
    /// Step 4.
    SendOffsets,
    /// Step 5.
    Commit,
    /// Step 6.
    Apply,
    /// Destroy the producer, make a new one under the same transactional id, and initialise it.
    Renew,
    /// Read the group's stable offsets.
    ReadOffsets,
    /// Take the shards back to their last commit, and the consumer with them.
    RollBack,
    /// Nothing: the commit is over. It took unless the shards were rolled back.
    Rest,
    /// Drop all shards, the consumer and the producer, and join the group anew.
    Rejoin,
    /// Stop: a person has to act.
    Stop,
}

/// The state machine of one worker's commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commit {
    state: State,
    /// A call of this commit was slow: replace the producer afterwards.
    tired: bool,
    /// Tries of the present renewing or resolving.
    tries: u8,
}

impl Default for Commit {
    fn default() -> Self {
        Self { state: State::Idle, tired: false, tries: 0 }
    }
}

impl Commit {
    /// Where the commit stands.
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    /// Takes in what happened, and tells what to do next. After [`Action::Rejoin`] and [`Action::Stop`] the machine is
    /// idle, and belongs to a worker that has nothing left.
    ///
    /// # Panics
    /// If `input` is no answer to the action before: a mistake of the driver, never of a broker.
    pub fn step(&mut self, input: Input) -> Action {
        let (state, action) = self.next(input);
        if state != self.state {
            self.tries = 0;
        }
        if state == State::Idle {
            self.tired = false;
        }
        self.state = state;
        action
    }

    fn next(&mut self, input: Input) -> (State, Action) {
        use Failure::{Broken, Fenced, Hopeless};
        use Input::{Done, Failed, Resolved, Sealed};
        use State::{
            Applying, Beginning, Committing, Delivering, Idle, Producing, Renewing, Resolving, RollingBack,
            SendingOffsets,
        };

        if input == Done(Pace::Slow) {
            self.tired = true;
        }
        match (self.state, input) {
            // The steps, in order.
            (Idle, Sealed) => (Beginning, Action::Begin),
            (Beginning, Done(_)) => (Producing, Action::Produce),
            (Producing, Done(_)) => (Delivering, Action::AwaitDelivery),
            (Delivering, Done(_)) => (SendingOffsets, Action::SendOffsets),
            (SendingOffsets, Done(_)) => (Committing, Action::Commit),
            (Committing, Done(_)) => (Applying, Action::Apply),
            (Applying, Done(_)) if self.tired => (Renewing(Next::Rest), Action::Renew),
            (Applying, Done(_)) => (Idle, Action::Rest),

            // Before the commit was asked for, it cannot have happened.
            (Beginning | Producing | Delivering | SendingOffsets, Failed(Broken)) => {
                (Renewing(Next::RollBack), Action::Renew)
            }
            // Once it was asked for, nobody knows.
            (Committing, Failed(Broken)) => (Renewing(Next::Resolve), Action::Renew),
            // The store failed after Kafka has committed: the changelog has everything.
            (Applying, Failed(Broken | Fenced | Hopeless)) => (Idle, Action::Stop),

            // A new producer has settled the old transaction, one way or the other.
            (Renewing(Next::Resolve), Done(_)) => (Resolving, Action::ReadOffsets),
            (Renewing(Next::RollBack), Done(_)) => (RollingBack, Action::RollBack),
            (Renewing(Next::Rest), Done(_)) => (Idle, Action::Rest),
            (Renewing(next), Failed(Broken)) => self.again(Renewing(next), Action::Renew),

            // The group's offsets are the witness. The new producer is a fresh one, so nothing is tired any more.
            (Resolving, Resolved(Outcome::Took)) => {
                self.tired = false;
                (Applying, Action::Apply)
            }
            (Resolving, Resolved(Outcome::DidNotTake)) => (RollingBack, Action::RollBack),
            (Resolving, Resolved(Outcome::Foreign)) => (Idle, Action::Rejoin),
            (Resolving, Failed(Broken)) => self.again(Resolving, Action::ReadOffsets),

            (RollingBack, Done(_)) => (Idle, Action::Rest),
            (RollingBack, Failed(Broken)) => (Idle, Action::Rejoin),

            (
                Beginning | Producing | Delivering | SendingOffsets | Committing | Renewing(_) | Resolving
                | RollingBack,
                Failed(Fenced),
            ) => (Idle, Action::Rejoin),
            (
                Beginning | Producing | Delivering | SendingOffsets | Committing | Renewing(_) | Resolving
                | RollingBack,
                Failed(Hopeless),
            ) => (Idle, Action::Stop),

            // No answers to what was asked: the driver is wrong.
            (Idle, Done(_) | Failed(_) | Resolved(_))
            | (
                Beginning | Producing | Delivering | SendingOffsets | Committing | Applying | Renewing(_) | RollingBack,
                Sealed | Resolved(_),
            )
            | (Resolving, Sealed | Done(_)) => panic!("{input:?} is no answer in {:?}", self.state),
        }
    }

    /// The same action once more, unless it was tried often enough.
    fn again(&mut self, state: State, action: Action) -> (State, Action) {
        self.tries += 1;
        if self.tries < TRIES_MAX { (state, action) } else { (State::Idle, Action::Rejoin) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DONE: Input = Input::Done(Pace::Quick);
    const SLOW: Input = Input::Done(Pace::Slow);
    const BROKEN: Input = Input::Failed(Failure::Broken);
    const FENCED: Input = Input::Failed(Failure::Fenced);
    const HOPELESS: Input = Input::Failed(Failure::Hopeless);

    /// The actions that a row of inputs leads to, and the state at the end.
    fn walk(inputs: &[Input]) -> (Vec<Action>, State) {
        let mut commit = Commit::default();
        let actions = inputs.iter().map(|&input| commit.step(input)).collect();
        (actions, commit.state())
    }

    /// The inputs that lead to a state.
    fn way_to(state: State) -> Vec<Input> {
        let steps = |done: usize| [&[Input::Sealed][..], &vec![DONE; done]].concat();
        match state {
            State::Idle => vec![],
            State::Beginning => steps(0),
            State::Producing => steps(1),
            State::Delivering => steps(2),
            State::SendingOffsets => steps(3),
            State::Committing => steps(4),
            State::Applying => steps(5),
            State::Renewing(Next::Rest) => [&steps(4)[..], &[SLOW, DONE]].concat(),
            State::Renewing(Next::RollBack) => [&steps(0)[..], &[BROKEN]].concat(),
            State::Renewing(Next::Resolve) => [&steps(4)[..], &[BROKEN]].concat(),
            State::Resolving => [&steps(4)[..], &[BROKEN, DONE]].concat(),
            State::RollingBack => [&steps(0)[..], &[BROKEN, DONE]].concat(),
        }
    }

    fn at(state: State) -> Commit {
        let mut commit = Commit::default();
        for input in way_to(state) {
            commit.step(input);
        }
        assert_eq!(commit.state(), state);
        commit
    }

    const STATES: [State; 12] = [
        State::Idle,
        State::Beginning,
        State::Producing,
        State::Delivering,
        State::SendingOffsets,
        State::Committing,
        State::Applying,
        State::Renewing(Next::Resolve),
        State::Renewing(Next::RollBack),
        State::Renewing(Next::Rest),
        State::Resolving,
        State::RollingBack,
    ];

    /// The whole table: every state, every input that may answer it. `None` is a mistake of the driver.
    #[test]
    fn every_state_answers_every_input() {
        use State::{Applying, Beginning, Committing, Delivering, Idle, Producing, Renewing, Resolving, RollingBack};
        const COUNT: usize = 9;
        let inputs: [Input; COUNT] = [
            Input::Sealed,
            DONE,
            SLOW,
            BROKEN,
            FENCED,
            HOPELESS,
            Input::Resolved(Outcome::Took),
            Input::Resolved(Outcome::DidNotTake),
            Input::Resolved(Outcome::Foreign),
        ];
        let rejoin = Some((Idle, Action::Rejoin));
        let stop = Some((Idle, Action::Stop));
        let rest = Some((Idle, Action::Rest));
        let step = |state, action| Some((state, action));
        let back = step(Renewing(Next::RollBack), Action::Renew);
        let table: [(State, [Option<(State, Action)>; COUNT]); STATES.len()] = [
            (Idle, [step(Beginning, Action::Begin), None, None, None, None, None, None, None, None]),
            (Beginning, {
                let next = step(Producing, Action::Produce);
                [None, next, next, back, rejoin, stop, None, None, None]
            }),
            (Producing, {
                let next = step(Delivering, Action::AwaitDelivery);
                [None, next, next, back, rejoin, stop, None, None, None]
            }),
            (Delivering, {
                let next = step(State::SendingOffsets, Action::SendOffsets);
                [None, next, next, back, rejoin, stop, None, None, None]
            }),
            (State::SendingOffsets, {
                let next = step(Committing, Action::Commit);
                [None, next, next, back, rejoin, stop, None, None, None]
            }),
            (Committing, {
                let next = step(Applying, Action::Apply);
                [None, next, next, step(Renewing(Next::Resolve), Action::Renew), rejoin, stop, None, None, None]
            }),
            (Applying, {
                let renew = step(Renewing(Next::Rest), Action::Renew);
                [None, rest, renew, stop, stop, stop, None, None, None]
            }),
            (Renewing(Next::Resolve), {
                let next = step(Resolving, Action::ReadOffsets);
                [None, next, next, step(Renewing(Next::Resolve), Action::Renew), rejoin, stop, None, None, None]
            }),
            (Renewing(Next::RollBack), {
                let next = step(RollingBack, Action::RollBack);
                [None, next, next, back, rejoin, stop, None, None, None]
            }),
            (Renewing(Next::Rest), {
                [None, rest, rest, step(Renewing(Next::Rest), Action::Renew), rejoin, stop, None, None, None]
            }),
            (Resolving, {
                let again = step(Resolving, Action::ReadOffsets);
                let took = step(Applying, Action::Apply);
                let back = step(RollingBack, Action::RollBack);
                [None, None, None, again, rejoin, stop, took, back, rejoin]
            }),
            (RollingBack, [None, rest, rest, rejoin, rejoin, stop, None, None, None]),
        ];
        for (row, state) in table.iter().zip(STATES) {
            assert_eq!(row.0, state, "the table is in the order of STATES");
            for (input, expected) in inputs.into_iter().zip(row.1) {
                let mut commit = at(state);
                let seen = std::panic::catch_unwind(move || (commit.step(input), commit.state())).ok();
                assert_eq!(seen.map(|(action, state)| (state, action)), expected, "{state:?} and {input:?}");
            }
        }
    }

    #[test]
    fn a_commit_takes_its_steps_in_order() {
        let (actions, state) = walk(&[Input::Sealed, DONE, DONE, DONE, DONE, DONE, DONE]);
        let steps = [
            Action::Begin,
            Action::Produce,
            Action::AwaitDelivery,
            Action::SendOffsets,
            Action::Commit,
            Action::Apply,
            Action::Rest,
        ];
        assert_eq!((actions.as_slice(), state), (&steps[..], State::Idle));
    }

    /// The heart of the promise: local state is written only after a commit that is known to have taken.
    #[test]
    fn nothing_is_applied_that_may_not_have_committed() {
        for state in STATES {
            for input in [DONE, SLOW, BROKEN, FENCED, HOPELESS, Input::Resolved(Outcome::DidNotTake)] {
                let mut commit = at(state);
                let Ok(action) = std::panic::catch_unwind(move || commit.step(input)) else { continue };
                let known = state == State::Committing && matches!(input, Input::Done(_));
                assert_eq!(action == Action::Apply, known, "{state:?} and {input:?}");
            }
        }
    }

    #[test]
    fn a_producer_is_replaced_after_a_slow_call_of_any_step() {
        for slow in 1..=5 {
            let mut inputs = vec![Input::Sealed];
            inputs.extend((1..=6).map(|step| if step == slow { SLOW } else { DONE }));
            let (actions, state) = walk(&inputs);
            assert_eq!(actions.last(), Some(&Action::Renew), "step {slow} was slow");
            assert_eq!(state, State::Renewing(Next::Rest));
        }
    }

    #[test]
    fn an_ambiguous_commit_that_took_is_applied_and_rests_with_its_new_producer() {
        let mut inputs = way_to(State::Resolving);
        inputs.extend([Input::Resolved(Outcome::Took), DONE]);
        let (actions, state) = walk(&inputs);
        assert_eq!(actions[5..], [Action::Renew, Action::ReadOffsets, Action::Apply, Action::Rest]);
        assert_eq!(state, State::Idle);
    }

    #[test]
    fn trying_again_is_bounded() {
        for state in [State::Renewing(Next::Resolve), State::Renewing(Next::RollBack), State::Resolving] {
            let mut commit = at(state);
            let actions: Vec<Action> = (0..TRIES_MAX).map(|_| commit.step(BROKEN)).collect();
            assert_eq!(actions.last(), Some(&Action::Rejoin), "{state:?}");
            assert!(!actions[..actions.len() - 1].contains(&Action::Rejoin), "{state:?}");
        }
    }

    #[test]
    fn offset_and_metadata_together_are_the_witness() {
        let (before, after) = ((7, "a"), (7, "b"));
        assert_eq!(Outcome::of(&before, &after, &after), Outcome::Took);
        assert_eq!(Outcome::of(&before, &after, &before), Outcome::DidNotTake);
        assert_eq!(Outcome::of(&before, &after, &(7, "c")), Outcome::Foreign);
        let all = |outcomes: &[Outcome]| Outcome::of_all(outcomes.iter().copied());
        assert_eq!(all(&[Outcome::Took, Outcome::Took]), Outcome::Took);
        assert_eq!(all(&[Outcome::Took, Outcome::DidNotTake]), Outcome::Foreign);
        assert_eq!(all(&[]), Outcome::Foreign);
    }

    #[test]
    fn a_slow_commit_does_not_tire_the_next_one() {
        let mut commit = Commit::default();
        for input in
            [Input::Sealed, DONE, DONE, DONE, DONE, SLOW, DONE, DONE, Input::Sealed, DONE, DONE, DONE, DONE, DONE]
        {
            commit.step(input);
        }
        assert_eq!(commit.step(DONE), Action::Rest);
    }
}

//! What the console draws: cohort sizes over time and the flow between states, in bounded memory.
//!
//! Each is a [`Timeline`]: a list that, when full, halves its resolution instead of forgetting its beginning. So a run
//! of ten minutes is seen in steps of seconds and one of a month in steps of an hour, in the same few kilobytes. It
//! lives in memory alone and begins with the process: for the record there are Prometheus and the transitions topic.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::lifecycle::State;
use crate::metrics::Flow;
use crate::time::{Span, WallTime};

/// Points kept of each line; a page cannot draw more.
pub const POINTS_MAX: usize = 1024;

/// How two neighbours become one when a timeline is thinned.
pub trait Thin {
    /// `self` and the next one, as one.
    #[must_use]
    fn join(self, later: Self) -> Self;
}

/// At most [`POINTS_MAX`] values in order of time, over the whole run.
#[derive(Clone, Debug)]
pub struct Timeline<T> {
    points: VecDeque<(WallTime, T)>,
    /// The least distance of two neighbours now.
    step: Span,
}

impl<T: Thin> Timeline<T> {
    /// An empty one, whose points are at least `step` apart to begin with.
    #[must_use]
    pub fn new(step: Span) -> Self {
        Self { points: VecDeque::with_capacity(POINTS_MAX), step: Span::from_millis(step.as_millis().max(1)) }
    }

    /// Adds a value; one in the same step as the last is joined to it. Costs O(1), and O(points) once per doubling.
    pub fn push(&mut self, at: WallTime, value: T) {
        if let Some((last_at, last)) = self.points.pop_back() {
            if slot(last_at, self.step) >= slot(at, self.step) {
                self.points.push_back((last_at.max(at), last.join(value)));
                return;
            }
            self.points.push_back((last_at, last));
        }
        self.points.push_back((at, value));
        while self.points.len() > POINTS_MAX {
            self.thin();
        }
    }

    fn thin(&mut self) {
        self.step = Span::from_millis(self.step.as_millis().saturating_mul(2));
        for (at, value) in std::mem::take(&mut self.points) {
            match self.points.pop_back() {
                Some((last_at, last)) if slot(last_at, self.step) == slot(at, self.step) => {
                    self.points.push_back((at, last.join(value)));
                }
                Some(other) => self.points.extend([other, (at, value)]),
                None => self.points.push_back((at, value)),
            }
        }
    }

    /// The points from `from` on, oldest first.
    pub fn since(&self, from: WallTime) -> impl Iterator<Item = &(WallTime, T)> {
        self.points.iter().skip(self.points.partition_point(|(at, _)| *at < from))
    }

    /// The least distance of two neighbours now.
    #[must_use]
    pub const fn step(&self) -> Span {
        self.step
    }
}

fn slot(at: WallTime, step: Span) -> i64 {
    at.as_millis().div_euclid(step.as_millis())
}

/// Cohort sizes at one moment: by state, then never activated and activated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes(pub [[u64; 2]; 4]);

impl Sizes {
    /// One cohort.
    #[must_use]
    pub const fn of(&self, state: State, activated: bool) -> u64 {
        self.0[state as usize][activated as usize]
    }

    /// Adds other users.
    pub fn add(&mut self, other: &Self) {
        let sums = self.0.iter_mut().flatten().zip(other.0.iter().flatten());
        sums.for_each(|(sum, more)| *sum += more);
    }
}

impl Thin for Sizes {
    /// A size is a reading: the later one is as good as any.
    fn join(self, later: Self) -> Self {
        later
    }
}

/// Who went from where to where in one step.
pub type Flows = BTreeMap<Flow, u64>;

impl Thin for Flows {
    fn join(mut self, later: Self) -> Self {
        for (flow, count) in later {
            *self.entry(flow).or_insert(0) += count;
        }
        self
    }
}

/// Both timelines, and the counters as they stood at the last sample.
#[derive(Debug)]
pub struct History {
    inner: Mutex<Inner>,
    began: WallTime,
}

#[derive(Debug)]
struct Inner {
    sizes: Timeline<Sizes>,
    flows: Timeline<Flows>,
    counted: Flows,
}

impl History {
    /// Begins now, with points at least `step` apart. `counted` is what the counters say already.
    #[must_use]
    pub fn new(began: WallTime, step: Span, counted: Flows) -> Self {
        let inner = Inner { sizes: Timeline::new(step), flows: Timeline::new(step), counted };
        Self { inner: Mutex::new(inner), began }
    }

    /// Takes a sample: the sizes now, and the flow counters since the start of the process.
    pub fn sample(&self, now: WallTime, sizes: Sizes, counted: Flows) {
        let mut inner = self.lock();
        let moved: Flows = counted
            .iter()
            .map(|(flow, count)| (*flow, count.saturating_sub(inner.counted.get(flow).copied().unwrap_or(0))))
            .filter(|(_, count)| *count > 0)
            .collect();
        inner.counted = counted;
        inner.sizes.push(now, sizes);
        inner.flows.push(now, moved);
    }

    /// Cohort sizes from `from` on, oldest first, and the distance of neighbours.
    #[must_use]
    pub fn sizes(&self, from: WallTime) -> (Vec<(WallTime, Sizes)>, Span) {
        let inner = self.lock();
        (inner.sizes.since(from).copied().collect(), inner.sizes.step())
    }

    /// All that moved in the steps that end at or after `from`.
    #[must_use]
    pub fn flows(&self, from: WallTime) -> Flows {
        let inner = self.lock();
        inner.flows.since(from).fold(Flows::new(), |sum, (_, flows)| sum.join(flows.clone()))
    }

    /// When it began: nothing is known of before.
    #[must_use]
    pub const fn began(&self) -> WallTime {
        self.began
    }

    /// A panic while the lock is held leaves a sample half taken at worst, and the next one mends it.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTER: Flow = (None, Some(State::Active));

    fn at(seconds: i64) -> WallTime {
        WallTime::from_millis(seconds * 1000)
    }

    #[test]
    fn a_long_run_stays_in_bounds_and_keeps_its_beginning_and_every_flow() {
        let history = History::new(at(0), Span::from_millis(5000), Flows::new());
        let samples = 100_000_u64;
        for n in 0..samples {
            let now = at(i64::try_from(n).expect("small") * 5);
            history.sample(now, Sizes([[n, 0]; 4]), Flows::from([(ENTER, n + 1)]));
        }
        let (points, step) = history.sizes(WallTime::from_millis(i64::MIN));
        assert!(points.len() <= POINTS_MAX && points.len() > POINTS_MAX / 4, "{}", points.len());
        assert!(points[0].0 < at(0) + step, "the beginning is kept");
        assert_eq!(points.last().map(|(_, sizes)| sizes.of(State::Churned, false)), Some(samples - 1));
        assert!(points.windows(2).all(|pair| pair[0].0 < pair[1].0), "in order of time");
        assert_eq!(history.flows(at(0)), Flows::from([(ENTER, samples)]));
    }

    #[test]
    fn a_period_holds_only_what_moved_in_it() {
        let history = History::new(at(0), Span::from_millis(5000), Flows::from([(ENTER, 10)]));
        history.sample(at(5), Sizes::default(), Flows::from([(ENTER, 12)]));
        history.sample(at(10), Sizes::default(), Flows::from([(ENTER, 12)]));
        history.sample(at(15), Sizes::default(), Flows::from([(ENTER, 15)]));
        assert_eq!(history.flows(at(0)), Flows::from([(ENTER, 5)]), "what was counted before the start is not in it");
        assert_eq!(history.flows(at(10)), Flows::from([(ENTER, 3)]));
        assert_eq!(history.flows(at(16)), Flows::new());
    }

    #[test]
    fn a_clock_that_steps_back_loses_no_flow() {
        let history = History::new(at(0), Span::from_millis(5000), Flows::new());
        history.sample(at(100), Sizes::default(), Flows::from([(ENTER, 1)]));
        history.sample(at(50), Sizes::default(), Flows::from([(ENTER, 3)]));
        assert_eq!(history.flows(at(0)), Flows::from([(ENTER, 3)]));
    }
}

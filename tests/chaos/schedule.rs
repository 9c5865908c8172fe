//! What is done to whom and when: a function of the seed alone.

use std::time::Duration;

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use crate::support::network::Way;

/// One thing that is done, after a pause since the one before in the same lane.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Planned<T> {
    pub(crate) pause: Duration,
    pub(crate) act: T,
}

/// What is done to an instance.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Hurt {
    /// SIGKILL, and a start after a while.
    Kill { away: Duration },
    /// The same, and the disk is lost.
    KillAndWipe { away: Duration },
    /// SIGTERM, and a start after a while.
    LeaveAndJoin { away: Duration },
    /// SIGSTOP, and SIGCONT after a while.
    Freeze { length: Duration },
}

/// What is done to a node of the cluster. It comes back, and is waited for until it has caught up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Bounce {
    pub(crate) node: usize,
    /// SIGKILL instead of handing over first.
    pub(crate) hard: bool,
    pub(crate) down: Duration,
}

/// What is done to the network between the instances and the cluster.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Break {
    /// Everything of one instance takes longer.
    Delay { instance: usize, by: Duration, length: Duration },
    /// Nothing of one instance gets through in one direction; what was sent comes late.
    Hold { instance: usize, way: Way, length: Duration },
    /// Nothing of anybody gets through, in both.
    HoldAll { length: Duration },
    /// The connections of one instance break.
    Cut { instance: usize },
    /// The next answers to `EndTxn` of one instance are lost, their connections too if `cut`.
    LoseEndTxn { instance: usize, times: u32, cut: bool },
    /// The next `EndTxn` of one instance arrives late.
    HoldEndTxn { instance: usize, length: Duration },
}

/// Everything that is done in one round; lanes run side by side.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Schedule {
    pub(crate) instances: Vec<Vec<Planned<Hurt>>>,
    pub(crate) nodes: Vec<Planned<Bounce>>,
    pub(crate) network: Vec<Planned<Break>>,
}

impl Schedule {
    pub(crate) fn new(seed: u64, round: u64, instances: usize, nodes: usize, length: Duration) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed ^ round.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let instance_lanes =
            (0..instances).map(|_| lane(&mut rng, length, 6..22, |rng| (hurt(rng), Duration::from_secs(8)))).collect();
        let nodes = lane(&mut rng, length, 8..25, |rng| {
            let down = seconds(rng, 1..12);
            (Bounce { node: rng.random_range(0..nodes), hard: rng.random_bool(0.5), down }, down * 2)
        });
        let network = lane(&mut rng, length, 3..12, |rng| (disturbance(rng, instances), Duration::from_secs(5)));
        Self { instances: instance_lanes, nodes, network }
    }
}

/// Fills a round: `draw` gives an act and about how long it takes.
fn lane<T>(
    rng: &mut ChaCha8Rng,
    length: Duration,
    pauses: std::ops::Range<u64>,
    mut draw: impl FnMut(&mut ChaCha8Rng) -> (T, Duration),
) -> Vec<Planned<T>> {
    let mut acts = Vec::new();
    let mut at = Duration::ZERO;
    loop {
        let pause = seconds(rng, pauses.clone());
        let (act, takes) = draw(rng);
        at += pause + takes;
        if at > length {
            return acts;
        }
        acts.push(Planned { pause, act });
    }
}

fn seconds(rng: &mut ChaCha8Rng, range: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(rng.random_range(range.start * 1_000..range.end * 1_000))
}

/// Some are back at once, some only after their session (6 s) is over.
fn hurt(rng: &mut ChaCha8Rng) -> Hurt {
    let away = if rng.random_bool(0.6) { seconds(rng, 0..2) } else { seconds(rng, 5..14) };
    match rng.random_range(0..10) {
        0..3 => Hurt::Kill { away },
        3..5 => Hurt::KillAndWipe { away },
        5..7 => Hurt::LeaveAndJoin { away },
        _ => Hurt::Freeze { length: seconds(rng, 2..18) },
    }
}

fn disturbance(rng: &mut ChaCha8Rng, instances: usize) -> Break {
    let instance = rng.random_range(0..instances);
    match rng.random_range(0..12) {
        0..2 => {
            Break::Delay { instance, by: Duration::from_millis(rng.random_range(20..600)), length: seconds(rng, 3..10) }
        }
        2..5 => {
            let way = if rng.random_bool(0.5) { Way::Requests } else { Way::Answers };
            Break::Hold { instance, way, length: seconds(rng, 1..16) }
        }
        5 => Break::HoldAll { length: seconds(rng, 1..8) },
        6..8 => Break::Cut { instance },
        8..11 => Break::LoseEndTxn { instance, times: rng.random_range(1..4), cut: rng.random_bool(0.5) },
        _ => Break::HoldEndTxn { instance, length: seconds(rng, 1..9) },
    }
}

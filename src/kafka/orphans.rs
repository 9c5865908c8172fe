//! Shards that belong to nobody although the group is at rest.
//!
//! In a cooperative rebalance a shard changes hands in two steps: its owner gives it up, and then joins once more, which
//! makes the group hand it on. An owner that dies in between and comes back under its static name is given the rest of
//! its shards without a rebalance (KIP-345), and nobody is left to take the second step: the group is stable, and the
//! shards that were given up stay without an owner until somebody happens to join or leave.
//!
//! So each process looks at the group now and then. When a stable group leaves shards without an owner for a while, the
//! member that has the fewest leaves and joins anew, and the group hands out everything. Who that is follows from what
//! everybody sees; nobody has to agree on it.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rdkafka::consumer::BaseConsumer;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::client::Listener;
use super::group::{Described, client_id, describe};
use super::worker::pause;
use crate::clock::monotonic;
use crate::config::Config;

/// How often the group is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How long shards have to be without an owner in a stable group: longer than a member needs to join once more.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the brokers may take to describe the group; bounds how late a request to stop is heard.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// The workers of this process that should leave the group and join anew.
#[derive(Debug)]
pub(super) struct Nudges(Vec<AtomicBool>);

impl Nudges {
    pub(super) fn new(workers: usize) -> Self {
        Self((0..workers).map(|_| AtomicBool::new(false)).collect())
    }

    /// Whether this worker was nudged since it was last asked.
    pub(super) fn take(&self, worker: usize) -> bool {
        self.0.get(worker).is_some_and(|nudge| nudge.swap(false, Ordering::AcqRel))
    }

    fn nudge(&self, worker: usize) {
        if let Some(nudge) = self.0.get(worker) {
            nudge.store(true, Ordering::Release);
        }
    }
}

/// Looks at the group until the shut-down.
pub(super) fn watch(
    config: &Config,
    looker: &BaseConsumer<Listener>,
    partitions: i32,
    nudges: &Nudges,
    shutdown: &CancellationToken,
) {
    let names: Vec<String> = (0..config.workers)
        .map(|worker| client_id(&config.instance_id, worker, config.http.advertised.as_deref()))
        .collect();
    let mut orphans = Orphans::default();
    loop {
        pause(shutdown, LOOK_EVERY);
        if shutdown.is_cancelled() {
            return;
        }
        let members = match describe(looker, &config.kafka.group_id, &config.topics.events, ANSWER_TIMEOUT) {
            Ok(members) => members,
            Err(error) => {
                debug!(%error, "the group cannot be described; looking again");
                None
            }
        };
        let Some(mover) = orphans.look(members.as_deref(), partitions, monotonic()) else { continue };
        if let Some(worker) = names.iter().position(|name| *name == mover) {
            warn!(worker, "shards have no owner although the group is at rest; joining anew, so that they get one");
            nudges.nudge(worker);
        }
    }
}

/// Since when the group has left shards without an owner.
#[derive(Debug, Default)]
struct Orphans {
    since: Option<Instant>,
}

impl Orphans {
    /// One look at the group. Gives the client id of the member that should join anew, once patience is over.
    fn look(&mut self, members: Option<&[Described]>, partitions: i32, now: Instant) -> Option<String> {
        let Some(mover) = members.and_then(|members| mover(members, partitions)) else {
            self.since = None;
            return None;
        };
        let since = *self.since.get_or_insert(now);
        if now - since < PATIENCE {
            return None;
        }
        // What comes of it is looked at afresh.
        self.since = None;
        Some(mover.to_owned())
    }
}

/// Who should join anew: the member with the fewest shards, the first by name among equals; `None` if every shard has an
/// owner.
fn mover(members: &[Described], partitions: i32) -> Option<&str> {
    let owned: BTreeSet<i32> = members.iter().flat_map(|member| member.partitions.iter().copied()).collect();
    if (0..partitions).all(|partition| owned.contains(&partition)) {
        return None;
    }
    let fewest = members.iter().min_by_key(|member| (member.partitions.len(), &member.client_id))?;
    Some(&fewest.client_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(client_id: &str, partitions: &[i32]) -> Described {
        Described { client_id: client_id.to_owned(), partitions: partitions.to_vec() }
    }

    #[test]
    fn a_shard_without_an_owner_moves_the_member_with_the_fewest() {
        let members = [member("b", &[]), member("c", &[2]), member("a", &[3])];
        assert_eq!(mover(&members, 4), Some("b"));
        assert_eq!(mover(&[member("b", &[0, 1]), member("a", &[2, 3])], 5), Some("a"));
        assert_eq!(mover(&[member("b", &[0, 1]), member("a", &[2, 3])], 4), None);
        assert_eq!(mover(&[], 4), None, "nobody is there to move");
    }

    #[test]
    fn a_group_that_is_about_to_hand_out_its_shards_is_left_alone() {
        let stuck = [member("a", &[0])];
        let whole = [member("a", &[0, 1])];
        let mut orphans = Orphans::default();
        let start = monotonic();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        assert_eq!(orphans.look(Some(&stuck), 2, at(0)), None);
        assert_eq!(orphans.look(None, 2, at(3)), None, "a rebalance is under way");
        assert_eq!(orphans.look(Some(&stuck), 2, at(6)), None, "counted from the rebalance on");
        assert_eq!(orphans.look(Some(&whole), 2, at(9)), None);
        assert_eq!(orphans.look(Some(&stuck), 2, at(12)), None);
        assert_eq!(orphans.look(Some(&stuck), 2, at(17)), Some("a".to_owned()));
        assert_eq!(orphans.look(Some(&stuck), 2, at(19)), None, "it has been told");
    }
}

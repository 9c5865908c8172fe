//! Carries a schedule out: one thread a lane, each thing begun and ended by the same hand.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::schedule::{Bounce, Break, Hurt, Planned};
use crate::support::cluster::Cluster;
use crate::support::instance::Instance;
use crate::support::network::{END_TXN, Fault, Harm, Way};
use crate::{INSTANCES, evidence::Journal};

/// How soon a lane sees that another one has failed, or that its instance has ended.
const LOOK: Duration = Duration::from_millis(100);
/// The only reason for which an instance may end by itself: it was started while no broker could be reached.
const UNREACHABLE: &str = "about topics failed";

pub(crate) struct Lanes<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) journal: &'a Journal,
    /// The topic whose leaders are watched.
    pub(crate) topic: String,
    pub(crate) failed: &'a AtomicBool,
}

/// A lane that fails ends the others: nobody waits for the end of a run that is lost.
struct FailOnPanic<'a>(&'a AtomicBool);

impl Drop for FailOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

/// Starts an instance again that has ended for the one reason that is right, as whatever runs it would do.
pub(crate) fn supervise(instance: &mut Instance) {
    if let Some(status) = instance.ended() {
        let tail = instance.tail();
        let last = tail.lines().last().unwrap_or_default();
        assert!(last.contains(UNREACHABLE), "{} ended by itself with {status}; {tail}", instance.id());
        instance.start();
    }
}

impl Lanes<'_> {
    /// Waits, and keeps an eye on the instance. Says whether to go on.
    fn wait(&self, length: Duration, mut instance: Option<&mut Instance>) -> bool {
        let until = Instant::now() + length;
        while Instant::now() < until && !self.failed.load(Ordering::Relaxed) {
            if let Some(instance) = instance.as_deref_mut()
                && instance.is_started()
            {
                supervise(instance);
            }
            // The schedule says when, and a child that has ended tells nobody.
            thread::sleep(LOOK.min(until.saturating_duration_since(Instant::now())));
        }
        !self.failed.load(Ordering::Relaxed)
    }

    /// One instance. Runs to the end of the round, and leaves it running.
    pub(crate) fn hurt(&self, instance: &mut Instance, acts: Vec<Planned<Hurt>>, length: Duration) {
        let _fail = FailOnPanic(self.failed);
        let began = Instant::now();
        for Planned { pause, act } in acts {
            if !self.wait(pause, Some(instance)) || began.elapsed() > length {
                break;
            }
            supervise(instance);
            let kind = match act {
                Hurt::Kill { .. } => "SIGKILL",
                Hurt::KillAndWipe { .. } => "SIGKILL with the disk lost",
                Hurt::LeaveAndJoin { .. } => "leave and join",
                Hurt::Freeze { .. } => "SIGSTOP and SIGCONT",
            };
            self.journal.note(kind, &format!("{} {act:?}", instance.id()));
            match act {
                Hurt::Kill { away } => {
                    instance.kill();
                    self.wait(away, None);
                    instance.start();
                }
                Hurt::KillAndWipe { away } => {
                    instance.kill();
                    instance.wipe();
                    self.wait(away, None);
                    instance.start();
                }
                Hurt::LeaveAndJoin { away } => {
                    instance.leave();
                    self.wait(away, None);
                    instance.start();
                }
                Hurt::Freeze { length } => {
                    instance.signal("STOP");
                    self.wait(length, None);
                    instance.signal("CONT");
                }
            }
        }
        self.wait(length.saturating_sub(began.elapsed()), Some(instance));
        let log = fs::read_to_string(instance.log()).unwrap_or_default();
        let bad = log.lines().find(|line| line.contains("panicked"));
        assert_eq!(bad, None, "{}", instance.id());
    }

    /// The nodes of the cluster, one at a time, or a partition would have no majority left.
    pub(crate) fn bounce(&self, acts: Vec<Planned<Bounce>>) {
        let _fail = FailOnPanic(self.failed);
        let mut leaders = self.cluster.leaders(Some(&self.topic)).1;
        for Planned { pause, act: Bounce { node, hard, down } } in acts {
            if !self.wait(pause, None) {
                return;
            }
            let kind = if hard { "broker SIGKILL" } else { "broker restart" };
            self.journal.note(kind, &format!("node {} down {down:?}", node + 1));
            if hard {
                self.cluster.node(node).kill();
            } else {
                self.cluster.node(node).stop();
            }
            self.wait(down, None);
            self.count_moves(&mut leaders);
            self.cluster.node(node).start_again();
            self.cluster.wait_until_whole();
            self.count_moves(&mut leaders);
        }
    }

    fn count_moves(&self, leaders: &mut Vec<i32>) {
        let now = self.cluster.leaders(Some(&self.topic)).1;
        for (partition, (before, after)) in leaders.iter().zip(&now).enumerate() {
            if before != after {
                self.journal.note("leader moves", &format!("partition {partition} from {before} to {after}"));
            }
        }
        if !now.is_empty() {
            *leaders = now;
        }
    }

    /// The network. Leaves it whole.
    pub(crate) fn disturb(&self, acts: Vec<Planned<Break>>) {
        let _fail = FailOnPanic(self.failed);
        let network = &self.cluster.network;
        for Planned { pause, act } in acts {
            if !self.wait(pause, None) {
                break;
            }
            let impose = |instance: Option<usize>, way, api, harm, times| {
                let who = instance.map(who).unwrap_or_default();
                network.impose(Fault { who, way, api, harm, times });
            };
            let kind = match act {
                Break::Delay { .. } => "network delay",
                Break::Hold { .. } | Break::HoldAll { .. } => "network black hole",
                Break::Cut { .. } => "connections cut",
                Break::LoseEndTxn { .. } => "EndTxn answer lost",
                Break::HoldEndTxn { .. } => "EndTxn late",
            };
            self.journal.note(kind, &format!("{act:?}"));
            let length = match act {
                Break::Delay { instance, by, length } => {
                    impose(Some(instance), Way::Requests, None, Harm::Delay(by / 2), None);
                    impose(Some(instance), Way::Answers, None, Harm::Delay(by / 2), None);
                    length
                }
                Break::Hold { instance, way, length } => {
                    impose(Some(instance), way, None, Harm::Hold, None);
                    length
                }
                Break::HoldAll { length } => {
                    impose(None, Way::Requests, None, Harm::Hold, None);
                    impose(None, Way::Answers, None, Harm::Hold, None);
                    length
                }
                Break::Cut { instance } => {
                    network.cut(&who(instance));
                    Duration::ZERO
                }
                Break::LoseEndTxn { instance, times, cut } => {
                    let harm = if cut { Harm::LoseAndCut } else { Harm::Lose };
                    impose(Some(instance), Way::Answers, Some(END_TXN), harm, Some(times));
                    // Long enough for the next commits, and for asking what became of them.
                    Duration::from_secs(8)
                }
                Break::HoldEndTxn { instance, length } => {
                    impose(Some(instance), Way::Requests, Some(END_TXN), Harm::Hold, None);
                    length
                }
            };
            self.wait(length, None);
            network.heal();
        }
        network.heal();
    }
}

/// How the clients of an instance are called. No name of an instance begins with another's.
fn who(instance: usize) -> String {
    format!("ebbtide-{}", INSTANCES[instance])
}

//! Ends the program at every step between reading a record and writing the local store, and holds it up there for longer
//! than a transaction may take, or for ever: in the end exactly the model's transitions (issue 5, "Fault injection of our
//! own").
//!
//! The step has to be met exactly, so this test is its own program under test: started with `FAIL_AT` it runs `ebbtide run`
//! with somebody who watches the steps. The program that is shipped has nobody who watches.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a test harness and a program of its own")]

mod support;

use std::os::unix::process::ExitStatusExt as _;
use std::panic::catch_unwind;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use ebbtide::config::Config;
use ebbtide::config::check::Purpose;
use ebbtide::kafka::step::Step;
use support::cluster::Cluster;
use support::instance::Instance;
use support::kafka::eventually;
use support::network::{END_TXN, Fault, Harm, Way};
use support::scene::{deployment, settle, wait_for_progress, while_events_flow};
use support::seed;

/// `Step:times:abort`, `Step:times:stall` or `Step:times:hang`: what to do when the step is reached so manieth.
const FAIL_AT: &str = "FAIL_AT";
/// Longer than a transaction (10 s) and a session (6 s) last.
const STALL: Duration = Duration::from_secs(12);
const SIGABRT: i32 = 6;

fn main() -> ExitCode {
    if let Ok(plan) = std::env::var(FAIL_AT) {
        return program(&plan);
    }
    let filter = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_default();
    let tests: [(&str, fn()); 3] = [
        ("ended_at_every_step_it_loses_nothing_and_doubles_nothing", ended_at_every_step),
        ("held_up_at_a_step_past_its_transaction_it_loses_nothing_and_doubles_nothing", held_up_at_steps),
        ("a_worker_that_hangs_ends_the_process_and_the_next_one_goes_on", hanging),
    ];
    let (mut passed, mut failed) = (0, 0);
    for (name, test) in tests.into_iter().filter(|(name, _)| name.contains(&filter)) {
        let outcome = if catch_unwind(test).is_ok() { "ok" } else { "FAILED" };
        println!("test {name} ... {outcome}");
        *(if outcome == "ok" { &mut passed } else { &mut failed }) += 1;
    }
    let outcome = if failed == 0 { "ok" } else { "FAILED" };
    println!("\ntest result: {outcome}. {passed} passed; {failed} failed; 0 ignored");
    cluster_slot().lock().map(|mut cluster| cluster.take()).ok();
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

// The program.

struct Plan {
    step: Step,
    times: u32,
    then: Then,
}

enum Then {
    Abort,
    Stall,
    Hang,
}

static PLAN: OnceLock<Plan> = OnceLock::new();
static REACHED: AtomicU32 = AtomicU32::new(0);

fn watch(step: Step) {
    let plan = PLAN.get().expect("read before anything starts");
    if step != plan.step || REACHED.fetch_add(1, Ordering::Relaxed) + 1 != plan.times {
        return;
    }
    eprintln!("reached {step:?}");
    match plan.then {
        Then::Abort => std::process::abort(),
        Then::Stall => std::thread::sleep(STALL),
        Then::Hang => loop {
            std::thread::park();
        },
    }
}

/// `run --config FILE`, watched.
fn program(plan: &str) -> ExitCode {
    let parts: Vec<&str> = plan.split(':').collect();
    let &[step, times, what] = parts.as_slice() else { panic!("{plan} is no plan") };
    let step = Step::ALL.into_iter().find(|known| format!("{known:?}") == step).expect("a step");
    let then = match what {
        "abort" => Then::Abort,
        "stall" => Then::Stall,
        "hang" => Then::Hang,
        _ => panic!("{what} is nothing to do"),
    };
    let plan = Plan { step, times: times.parse().expect("a number"), then };
    assert!(PLAN.set(plan).is_ok(), "one plan");
    let path = std::env::args().skip_while(|argument| argument != "--config").nth(1).expect("a configuration");
    let config = Config::load(Path::new(&path), Purpose::Run, std::iter::empty()).expect("a good configuration");
    match ebbtide::cli::run::run_watched(config, watch) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

// The tests.

/// Not a static that is never dropped: the broker goes with it.
fn cluster_slot() -> &'static Mutex<Option<Cluster>> {
    static CLUSTER: Mutex<Option<Cluster>> = Mutex::new(None);
    &CLUSTER
}

fn with_cluster(test: impl FnOnce(&Cluster)) {
    let mut slot = cluster_slot().lock().unwrap_or_else(PoisonError::into_inner);
    test(slot.get_or_insert_with(|| Cluster::start(1)));
}

fn start(instance: &mut Instance, step: Step, times: u32, what: &str) {
    let own = std::env::current_exe().expect("this program");
    instance.start_as(&own, &[], &[(FAIL_AT, &format!("{step:?}:{times}:{what}"))]);
}

/// What has to go wrong for a step to be reached at all.
fn provoke(cluster: &Cluster, step: Step, who: &str) {
    let (way, harm) = match step {
        // A commit that took, and nobody was told.
        Step::Renewed | Step::OffsetsRead => (Way::Answers, Harm::Lose),
        // A commit that never arrived.
        Step::RolledBack => (Way::Requests, Harm::Hold),
        _ => return,
    };
    cluster.network.impose(Fault { who: format!("ebbtide-{who}"), way, api: Some(END_TXN), harm, times: None });
}

fn ended_at_every_step() {
    with_cluster(|cluster| {
        let mut deployment = deployment(&cluster.broker, "ended");
        deployment.brokers.clone_from(&cluster.relayed);
        deployment
            .settings
            .push_str("\n[kafka.consumer]\n\"session.timeout.ms\" = 6000\n\"heartbeat.interval.ms\" = 1500\n");
        let mut along = cluster.broker.reader(&deployment.transitions());
        let (mut instance, mut other) = (deployment.instance("ended"), deployment.instance("other"));
        let sent = while_events_flow(&cluster.broker, &deployment, seed("ended at every step"), || {
            for step in Step::ALL {
                if matches!(step, Step::PartlyRestored | Step::Restored) {
                    instance.wipe();
                }
                start(
                    &mut instance,
                    step,
                    if matches!(step, Step::PartlyRestored | Step::Released) { 1 } else { 2 },
                    "abort",
                );
                match step {
                    Step::Renewed | Step::OffsetsRead | Step::RolledBack => {
                        wait_for_progress(&mut along, &mut [&mut instance], 20);
                        provoke(cluster, step, "ended");
                    }
                    Step::Released => {
                        // Somebody joins, and gets a part of the shards; all of them are here before.
                        instance.page("/readyz");
                        wait_for_progress(&mut along, &mut [&mut instance], 20);
                        other.start();
                    }
                    _ => {}
                }
                let mut status = None;
                eventually(&format!("an end at {step:?}"), || {
                    status = instance.ended();
                    status.is_some()
                });
                let status = status.expect("just seen");
                assert_eq!(status.signal(), Some(SIGABRT), "{step:?}: {status}; {}", instance.tail());
                cluster.network.heal();
            }
            instance.start();
            wait_for_progress(&mut along, &mut [&mut instance, &mut other], 100);
        });
        settle(&cluster.broker, &deployment, &sent, &mut along, &mut [&mut instance, &mut other]);
    });
}

/// Where a transaction is open, or its end is known to the brokers and to nobody else.
fn held_up_at_steps() {
    with_cluster(|cluster| {
        let mut deployment = deployment(&cluster.broker, "held-up");
        deployment.brokers.clone_from(&cluster.relayed);
        let mut along = cluster.broker.reader(&deployment.transitions());
        let mut instance = deployment.instance("held-up");
        let sent = while_events_flow(&cluster.broker, &deployment, seed("held up at steps"), || {
            for step in [Step::Produced, Step::OffsetsSent, Step::Committed] {
                start(&mut instance, step, 3, "stall");
                let reached = format!("reached {step:?}");
                eventually(&reached, || {
                    instance.assert_alive();
                    std::fs::read_to_string(instance.log()).unwrap_or_default().contains(&reached)
                });
                // Both workers go on, the one that was held up as well.
                std::thread::sleep(STALL);
                wait_for_progress(&mut along, &mut [&mut instance], 200);
                instance.stop();
            }
            instance.start();
            wait_for_progress(&mut along, &mut [&mut instance], 100);
        });
        settle(&cluster.broker, &deployment, &sent, &mut along, &mut [&mut instance]);
    });
}

/// In a call that never returns, with a transaction open.
fn hanging() {
    with_cluster(|cluster| {
        let mut deployment = deployment(&cluster.broker, "hanging");
        deployment.settings.push_str(
            "\n[kafka.consumer]\n\"session.timeout.ms\" = 6000\n\"heartbeat.interval.ms\" = 1500\n\
             \"max.poll.interval.ms\" = 8000\n",
        );
        let mut along = cluster.broker.reader(&deployment.transitions());
        let mut instance = deployment.instance("hanging");
        let sent = while_events_flow(&cluster.broker, &deployment, seed("hanging"), || {
            start(&mut instance, Step::Produced, 3, "hang");
            let mut status = None;
            eventually("the end of a process that hangs", || {
                status = instance.ended();
                status.is_some()
            });
            assert_eq!(status.and_then(|status| status.code()), Some(1), "{}", instance.tail());
            let log = instance.log_since_start();
            assert!(log.contains("has not come round for"), "{log}");
            instance.start();
            wait_for_progress(&mut along, &mut [&mut instance], 100);
        });
        settle(&cluster.broker, &deployment, &sent, &mut along, &mut [&mut instance]);
    });
}

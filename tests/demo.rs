//! The newcomer's first minute: the demo shows every kind of transition, its figures add up, and it leaves nothing behind.

mod support;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use support::instance::{PROGRAM, get, sum};
use support::kafka::{Broker, eventually, temporary_folder};

/// From Ctrl-C to the end, on a loaded machine.
const END_WITHIN: Duration = Duration::from_secs(15);
const STATES: [&str; 4] = ["active", "at_risk", "lapsed", "churned"];

/// A demo without a terminal, as fast as it may go.
struct Demo {
    child: Child,
    log: PathBuf,
    address: String,
    state: PathBuf,
}

impl Demo {
    fn start(name: &str, more: &[&str]) -> Self {
        let log = temporary_folder(name).join("log");
        let file = File::create(&log).expect("a log file");
        let child = Command::new(PROGRAM.expect("cargo builds the program along with the tests"))
            .args(["demo", "--day", "100ms", "--people", "600", "--seed", "7"])
            .args(more)
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a second handle"))
            .stderr(file)
            .spawn()
            .expect("the program starts");
        let mut demo = Self { child, log, address: String::new(), state: PathBuf::new() };
        eventually("the demo to say where its console is", || {
            demo.assert_alive();
            let text = demo.text();
            let after = |mark: &str, end: char| Some(text.split_once(mark)?.1.split_once(end)?.0.to_owned());
            demo.state = PathBuf::from(after("RocksDB in ", ',').unwrap_or_default());
            demo.address = after("Console    http://", '/').unwrap_or_default();
            !demo.address.is_empty()
        });
        demo
    }

    fn text(&self) -> String {
        fs::read_to_string(&self.log).expect("its log")
    }

    fn assert_alive(&mut self) {
        if let Some(status) = self.child.try_wait().expect("a child") {
            panic!("the demo ended by itself with {status}:\n{}", self.text());
        }
    }

    /// Waits until people of every kind were seen.
    fn watch(&mut self) {
        eventually("transitions of every kind", || {
            self.assert_alive();
            let Some((_, metrics)) = get(&self.address, "/metrics") else { return false };
            let seen = |from: &str, to: &str| {
                let label = |name: &str, value: &str| format!("{name}=\"{value}\"");
                let (from, to) = (label("from", from), label("to", to));
                sum(&metrics, "ebbtide_transitions_total", |labels| labels.contains(&from) && labels.contains(&to))
                    .is_some_and(|count| count > 0.0)
            };
            seen("active", "at_risk")
                && seen("at_risk", "active")
                && seen("at_risk", "lapsed")
                && seen("lapsed", "churned")
                && seen("lapsed", "active")
                && seen("churned", "active")
        });
    }

    /// Whether the sizes of the cohorts are what the transitions so far make them.
    fn adds_up(&self) -> bool {
        let (Some((200, cohorts)), Some((200, metrics))) =
            (get(&self.address, "/v1/cohorts"), get(&self.address, "/metrics"))
        else {
            return false;
        };
        let cohorts: serde_json::Value = serde_json::from_str(&cohorts).expect("JSON");
        let mut sizes: BTreeMap<&str, f64> = BTreeMap::new();
        for cohort in cohorts["cohorts"].as_array().expect("a list") {
            *sizes.entry(cohort["state"].as_str().expect("a name")).or_default() +=
                cohort["users"].as_f64().expect("a number");
        }
        let all: f64 = sizes.values().sum();
        assert!((all - cohorts["users"].as_f64().expect("a number")).abs() < 0.5, "{cohorts}");
        STATES.iter().all(|state| {
            let moved = |way: &str| {
                let label = format!("{way}=\"{state}\"");
                sum(&metrics, "ebbtide_transitions_total", |labels| labels.contains(&label)).unwrap_or(0.0)
            };
            (sizes[state] - (moved("to") - moved("from"))).abs() < 0.5
        })
    }

    /// Ctrl-C, and out within seconds.
    fn end(mut self) -> String {
        let pid = self.child.id().to_string();
        let asked = Command::new("kill").args(["-INT", &pid]).status().expect("kill is there");
        assert!(asked.success());
        let deadline = Instant::now() + END_WITHIN;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                break status;
            }
            assert!(Instant::now() < deadline, "it did not end within {END_WITHIN:?}:\n{}", self.text());
            // A child can be waited for, though not for so long.
            std::thread::sleep(Duration::from_millis(20));
        };
        let text = self.text();
        assert!(status.success(), "{status}:\n{text}");
        assert!(self.state.starts_with(std::env::temp_dir()), "{}", self.state.display());
        assert!(!self.state.exists(), "{} is left", self.state.display());
        fs::remove_dir_all(self.log.parent().expect("a folder")).ok();
        text
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[test]
fn without_a_broker_people_come_fade_go_and_return_and_the_figures_add_up() {
    // Somebody has the wanted port.
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let wanted = taken.local_addr().expect("an address").to_string();
    let mut demo = Demo::start("demo-embedded", &["--listen", &wanted]);
    assert_ne!(demo.address, wanted);
    assert!(demo.text().contains("embedded   Kafka"), "{}", demo.text());
    demo.watch();
    eventually("the cohorts to add up", || demo.adds_up());
    let text = demo.end();
    assert!(text.contains("churned; so far"), "lines where there is no terminal:\n{text}");
    assert!(!text.contains("PartitionEOF"), "{text}");
}

#[test]
fn on_a_real_cluster_it_does_the_same_and_removes_its_topics() {
    let broker = Broker::shared();
    let mut demo = Demo::start("demo-real", &["--listen", "127.0.0.1:0", "--brokers", broker.address()]);
    let text = demo.text();
    let prefix = text.split_once("topics ").and_then(|(_, rest)| rest.split_once(".events")).expect("named").0;
    let topics = ["events", "transitions", "states", "segments", "outcomes", "dead-letters", "changelog"]
        .map(|what| format!("{prefix}.{what}"));
    demo.watch();
    eventually("the cohorts to add up", || demo.adds_up());
    assert!(topics.iter().all(|topic| broker.partitions(topic).is_some()), "{topics:?}");
    assert!(!broker.read_all(&topics[1]).is_empty(), "committed transitions are in the topic");
    let text = demo.end();
    assert!(text.contains("Removed the demo's topics and its group"), "{text}");
    for topic in &topics {
        eventually(&format!("{topic} to be gone"), || broker.partitions(topic).is_none());
    }
}

#[test]
fn a_cluster_that_is_not_there_is_named() {
    let output = Command::new(PROGRAM.expect("cargo builds the program along with the tests"))
        .args(["demo", "--brokers", "127.0.0.1:1", "--listen", "127.0.0.1:0"])
        .stdin(Stdio::null())
        .output()
        .expect("the program runs");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && text.contains("127.0.0.1:1") && text.contains("check `kafka.brokers`"),
        "{text}"
    );
    assert!(!Path::new("ebbtide-state").exists());
}

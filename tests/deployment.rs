//! What is shipped beside the program: dashboards that Grafana's schema takes, a compose file that the Compose schema takes,
//! and whose commands, run in the order given against a real broker, do what it says.

mod support;

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use support::instance::PROGRAM;
use support::kafka::{Broker, eventually, temporary_folder};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn checked_by(script: &str, arguments: &[&Path]) -> Output {
    let folder = root().join("tests/deploy");
    assert!(
        folder.join("node_modules").exists(),
        "tests/deploy has no node_modules: `make test` installs them, or `npm ci --prefix tests/deploy`"
    );
    Command::new("node").arg(folder.join(script)).args(arguments).output().expect("node can be run")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn the_dashboards_fit_the_schema_that_grafana_publishes() {
    let dashboards = ["lifecycle", "operations"].map(|name| root().join(format!("grafana/dashboards/{name}.json")));
    let output = checked_by("dashboards.mjs", &[&dashboards[0], &dashboards[1]]);
    assert!(output.status.success() && said(&output).matches(" parts, 0 problems").count() == 2, "{}", said(&output));

    // And the check can fail.
    let folder = temporary_folder("dashboards");
    let text = fs::read_to_string(&dashboards[0]).expect("a dashboard");
    for (right, wrong) in [
        ("\"legendFormat\"", "\"legend_format\""),
        ("\"graphMode\": \"none\"", "\"graphMode\": \"nothing\""),
        ("\"lineWidth\": 1", "\"lineWidth\": \"1\""),
        ("\"schemaVersion\": 39,", ""),
    ] {
        assert!(text.contains(right), "{right}");
        let broken = folder.join("broken.json");
        fs::write(&broken, text.replacen(right, wrong, 1)).expect("written");
        let output = checked_by("dashboards.mjs", &[&broken]);
        assert!(!output.status.success(), "{wrong:?} was taken: {}", said(&output));
    }
    fs::remove_dir_all(folder).ok();
}

fn compose() -> Value {
    let output = checked_by("compose.mjs", &[&root().join("docker/compose.yaml")]);
    assert!(output.status.success(), "{}", said(&output));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// What a service runs, as the image's entry point gets it.
fn arguments(service: &Value) -> Vec<String> {
    let words = service["command"].as_array().expect("a command").iter();
    words.map(|word| word.as_str().expect("a word").to_owned()).collect()
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn the_compose_file_is_valid_and_its_commands_do_what_it_says() {
    let project = compose();
    for (name, service) in project["services"].as_object().expect("services") {
        for port in service["ports"].as_array().into_iter().flatten() {
            assert!(
                port.as_str().is_some_and(|port| port.starts_with("127.0.0.1:")),
                "{name} is open to others: {port}"
            );
        }
    }
    let topic = arguments(&project["services"]["topic"]);
    let after = |option: &str| &topic[topic.iter().position(|word| word == option).expect("the option") + 1];
    let broker = Broker::shared();
    broker.create_topic(after("--topic"), after("--partitions").parse().expect("a number"), &[]);

    // The image's own command is `run`, with the mounted configuration; only addresses and folders are this machine's.
    let folder = temporary_folder("compose");
    let http = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
    let program = PROGRAM.expect("cargo builds the program along with the tests");
    let log = fs::File::create(folder.join("log")).expect("a log file");
    let run = Command::new(program)
        .args(["run", "--config"])
        .arg(root().join("docker/ebbtide.toml"))
        .env("EBBTIDE_KAFKA__BROKERS", broker.address())
        .env("EBBTIDE_STATE__DIR", folder.join("state"))
        .env("EBBTIDE_HTTP__LISTEN", http.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn();
    let mut run = Running(run.expect("the program starts"));
    let generator = arguments(&project["services"]["generator"]);
    let generator = generator.iter().map(|word| word.replace("kafka:19092", broker.address()));
    let generate = Command::new(program).args(generator).stdin(Stdio::null()).stderr(Stdio::inherit()).spawn();
    let mut generate = Running(generate.expect("the program starts"));

    // Prometheus asks with the token that is mounted for it.
    let token = fs::read_to_string(root().join("docker/prometheus/token")).expect("a token");
    let url = format!("http://{http}/v1/cohorts");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let users = || {
        let answer = runtime.block_on(async {
            let request = reqwest::Client::new().get(&url).bearer_auth(token.trim());
            request.send().await.ok()?.error_for_status().ok()?.json::<Value>().await.ok()
        });
        answer.and_then(|answer| answer["users"].as_u64()).unwrap_or(0)
    };
    eventually("the generator's people to arrive", || {
        for (name, child) in [("run", &mut run.0), ("generate", &mut generate.0)] {
            let ended = child.try_wait().expect("a child");
            let log = fs::read_to_string(folder.join("log")).unwrap_or_default();
            assert!(ended.is_none(), "{name} ended with {ended:?}: {log}");
        }
        users() > 20
    });
    fs::remove_dir_all(folder).ok();
}

#[test]
fn prometheus_takes_the_configuration_that_compose_mounts() {
    let folder = temporary_folder("compose-prometheus");
    fs::create_dir_all(folder.join("alerts")).expect("a folder");
    let here = |path: &str| root().join(path);
    fs::copy(here("grafana/alerts/ebbtide.yml"), folder.join("alerts/ebbtide.yml")).expect("copied");
    fs::copy(here("docker/prometheus/token"), folder.join("token")).expect("copied");
    let text = fs::read_to_string(here("docker/prometheus/prometheus.yml")).expect("a configuration");
    let text = text.replace("/etc/prometheus", &folder.to_string_lossy());
    fs::write(folder.join("prometheus.yml"), text).expect("written");
    let output = Command::new("promtool")
        .arg("check")
        .arg("config")
        .arg(folder.join("prometheus.yml"))
        .output()
        .expect("promtool");
    let alerts = fs::read_to_string(here("grafana/alerts/ebbtide.yml")).expect("rules").matches("- alert:").count();
    let found = format!("{alerts} rules found");
    assert!(output.status.success() && said(&output).contains(&found), "{}", said(&output));
    fs::remove_dir_all(folder).ok();
}

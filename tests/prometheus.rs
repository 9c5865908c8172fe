//! Dashboards and alerts in front of a real Prometheus (Debian's package): every query of every panel, variable and rule is
//! run while it scrapes Ebbtide under traffic, and each has to return data with the labels that the panel or the text of
//! the alert uses. And promtool's own checks, with a firing and a silent case for each alert.

#![expect(clippy::print_stderr, reason = "what is missing yet, and Prometheus' log, for whoever looks")]

mod support;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;
use support::instance::Deployment;
use support::kafka::{Broker, Message, eventually, temporary_folder};

/// Short against the defaults, so that a few months hold every kind of transition.
const SETTINGS: &str = r#"
[policy]
lapsed_after = "14d"
churned_after = "30d"
forget_after = "90d"

[policy.at_risk]
inactive_after = "7d"
window = "7d"

[events]
win_back = ["Session Started"]
campaign_property = "utm_campaign"

[[segments]]
name = "gone"
state = ["lapsed", "churned"]

[win_back]
holdout = 0.3
"#;

fn grafana() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("grafana")
}

fn promtool(arguments: &[&str]) {
    let output = Command::new("promtool")
        .args(arguments)
        .current_dir(grafana())
        .output()
        .expect("promtool can be run: `make setup` installs Debian's package prometheus");
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("SUCCESS"), "promtool {arguments:?}: {text}");
}

#[test]
fn promtool_takes_the_rules_and_their_unit_tests_pass() {
    promtool(&["check", "rules", "alerts/ebbtide.yml"]);
    promtool(&["test", "rules", "alerts/tests/ebbtide.yml"]);
}

/// A Prometheus of its own, that scrapes one instance every second and evaluates the alerts.
struct Prometheus {
    child: Child,
    address: String,
    folder: PathBuf,
}

impl Prometheus {
    fn start(target: &str) -> Self {
        let folder = temporary_folder("prometheus");
        let rules = grafana().join("alerts/*.yml");
        let configuration = format!(
            "global:\n  scrape_interval: 1s\n  evaluation_interval: 1s\nrule_files:\n  - {}\nscrape_configs:\n  \
             - job_name: ebbtide\n    static_configs:\n      - targets: [\"{target}\"]\n",
            rules.display()
        );
        let file = folder.join("prometheus.yml");
        fs::write(&file, configuration).expect("a configuration file");
        let address = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
        let log = fs::File::create(folder.join("log")).expect("a log file");
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("prometheus can be run: `make setup` installs Debian's package prometheus");
        Self { child, address: address.to_string(), folder }
    }

    /// The `data` of an answer; `None` when there is none (yet).
    fn get(&self, path: &str, parameters: &[(&str, &str)]) -> Option<Value> {
        let mut url = format!("http://{}/api/v1/{path}?", self.address);
        for (name, value) in parameters {
            let value: String = value.bytes().fold(String::new(), |mut text, byte| {
                // Writing to a string cannot fail.
                let _ = write!(text, "%{byte:02X}");
                text
            });
            let _ = write!(url, "{name}={value}&");
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let answer: Value = runtime.block_on(async { reqwest::get(url).await.ok()?.json().await.ok() })?;
        assert_eq!(answer["status"], "success", "{path} {parameters:?}: {answer}");
        Some(answer["data"].clone())
    }

    /// The series that a query gives now, or over the last minute; those that are a number somewhere.
    fn series(&self, expr: &str, range: bool) -> Vec<Value> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
        let data = if range {
            let (start, end) = ((now - 60).to_string(), now.to_string());
            self.get("query_range", &[("query", expr), ("start", &start), ("end", &end), ("step", "2")])
        } else {
            self.get("query", &[("query", expr)])
        };
        let series = data.expect("Prometheus answers")["result"].as_array().expect("a list").clone();
        let is_number = |sample: &Value| sample[1].as_str().is_some_and(|text| text != "NaN");
        let has_number = |series: &Value| match series.get("values") {
            Some(values) => values.as_array().expect("samples").iter().any(is_number),
            None => is_number(&series["value"]),
        };
        series.into_iter().filter(has_number).collect()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        if std::thread::panicking() {
            eprintln!("{}", fs::read_to_string(self.folder.join("log")).unwrap_or_default());
        }
        fs::remove_dir_all(&self.folder).ok();
    }
}

/// A query, and what has to come of it.
#[derive(Debug)]
struct Query {
    place: String,
    expr: String,
    range: bool,
    labels: BTreeSet<String>,
}

/// The names in `{{name}}` or `{{ $labels.name }}`.
fn labels(text: &str) -> BTreeSet<String> {
    let inner = text.split("{{").skip(1).filter_map(|rest| Some(rest.split_once("}}")?.0.trim()));
    inner
        .filter_map(|word| match word.split_once("$labels.") {
            Some((_, label)) => Some(label.split(' ').next().unwrap_or(label).to_owned()),
            None if word.contains('$') => None,
            None => Some(word.to_owned()),
        })
        .collect()
}

/// What Grafana puts in for its variables, on a page that shows the last minute.
fn filled_in(expr: &str) -> String {
    let expr = expr.replace("$__rate_interval", "10s").replace("$__range", "1m");
    let expr = expr.replace("$job", "ebbtide").replace("$instance", ".+");
    assert!(!expr.contains('$'), "a variable that nobody fills in: {expr}");
    expr
}

fn panels() -> Vec<Query> {
    let mut queries = Vec::new();
    for name in ["lifecycle", "operations"] {
        let text = fs::read_to_string(grafana().join(format!("dashboards/{name}.json"))).expect("a dashboard");
        let dashboard: Value = serde_json::from_str(&text).expect("JSON");
        let panels = dashboard["panels"].as_array().expect("panels").iter().filter(|panel| panel["type"] != "row");
        for panel in panels {
            for target in panel["targets"].as_array().expect("queries") {
                queries.push(Query {
                    place: format!("{name}, {}", panel["title"]),
                    expr: filled_in(target["expr"].as_str().expect("a query")),
                    range: target["range"] == true,
                    labels: labels(target["legendFormat"].as_str().unwrap_or_default()),
                });
            }
        }
    }
    queries
}

/// An alert's expression is empty while all is well: what it compares is looked at instead, on both sides of an
/// `unless`, with the thresholds taken away.
fn compared(expr: &str) -> Vec<String> {
    let mut kept = Vec::new();
    let mut words = expr.split_whitespace().peekable();
    while let Some(word) = words.next() {
        if !matches!(word, ">" | "<" | "==") {
            kept.push(word);
            continue;
        }
        // The threshold itself, but for the bracket that closes after it.
        let threshold = words.next().expect("a threshold");
        let number = threshold.trim_end_matches(')');
        number.parse::<f64>().unwrap_or_else(|_| panic!("{threshold} is no number in {expr}"));
        kept.extend(Some(&threshold[number.len()..]).filter(|rest| !rest.is_empty()));
    }
    let text = kept.join(" ");
    let Some((left, right)) = text.split_once("unless on") else { return vec![text] };
    let (_, right) = right.split_once(')').expect("the labels of on");
    vec![left.trim().to_owned(), right.trim().to_owned()]
}

#[test]
fn a_threshold_is_taken_away_and_nothing_else() {
    assert_eq!(compared("sum(a) > 0.1 and b == 0"), ["sum(a) and b"]);
    assert_eq!(compared("(a > 900 and b > 0.9) unless on (x, y) c == 1"), ["(a and b )", "c"]);
}

/// Every query with data and labels, or what is wrong with it.
fn judge(prometheus: &Prometheus, query: &Query) -> Result<(), String> {
    let series = prometheus.series(&query.expr, query.range);
    if series.is_empty() {
        return Err(format!("{}: no data: {}", query.place, query.expr));
    }
    for label in &query.labels {
        if let Some(series) = series.iter().find(|series| series["metric"].get(label).is_none()) {
            return Err(format!("{}: {} has no {label}: {}", query.place, series["metric"], query.expr));
        }
    }
    Ok(())
}

#[test]
fn every_query_returns_data_with_its_labels() {
    let broker = Broker::shared();
    let deployment = Deployment::new(broker, "scraped", SETTINGS);
    broker.create_topic(&deployment.events(), 3, &[]);
    let mut instance = deployment.instance("scraped-1");
    let prometheus = Prometheus::start(instance.address());
    instance.start();
    instance.page("/readyz");

    // Traffic of every kind: people who come, go and return, and records that are no events. Then a lost disk, so that a
    // restore is seen.
    let generator = instance.generate(&["--users", "150", "--days", "300", "--rate", "1200"]);
    let rubbish = |n: i32| Message { value: Some(format!("no event {n}").into_bytes()), ..Message::default() };
    broker.produce(&deployment.events(), (0..20).map(rubbish));
    eventually("people to return", || instance.metric("ebbtide_absence_days_count").is_some_and(|count| count > 5.0));
    instance.kill();
    instance.wipe();
    instance.start();
    instance.page("/readyz");

    let mut queries = panels();
    assert!(queries.len() > 40, "{}", queries.len());
    for variable in ["label_replace(ebbtide_build_info, \"job\", \"$1\", \"job\", \"(.+)\")", "ebbtide_build_info"] {
        let labels = ["job", "instance"].map(str::to_owned).into();
        queries.push(Query { place: "variables".to_owned(), expr: variable.to_owned(), range: false, labels });
    }
    eventually("the rules to be evaluated", || {
        prometheus.get("rules", &[]).is_some_and(|data| {
            let rules = data["groups"].as_array().expect("groups").iter().filter_map(|group| group["rules"].as_array());
            rules.flatten().all(|rule| rule["health"] == "ok") && data["groups"][0]["rules"].is_array()
        })
    });
    let data = prometheus.get("rules", &[]).expect("it answers");
    let rules = data["groups"].as_array().expect("groups").iter().filter_map(|group| group["rules"].as_array());
    let mut alerts = 0;
    for rule in rules.flatten() {
        alerts += 1;
        let said = format!("{} {}", rule["annotations"]["summary"], rule["annotations"]["description"]);
        for expr in compared(rule["query"].as_str().expect("a query")) {
            queries.push(Query { place: rule["name"].to_string(), expr, range: false, labels: labels(&said) });
        }
    }
    assert_eq!(
        alerts,
        fs::read_to_string(grafana().join("alerts/ebbtide.yml")).expect("rules").matches("- alert:").count()
    );

    // A rate needs two samples, a time of absence somebody who returned since the restart: asked again until then.
    let mut wrong = Vec::new();
    eventually("every query to return data", || {
        wrong = queries.iter().filter_map(|query| judge(&prometheus, query).err()).collect();
        let before = wrong.len();
        if before > 0 {
            eprintln!("{before} of {} queries without data or labels yet; {}", queries.len(), wrong[0]);
        }
        before == 0
    });
    drop(generator);
    instance.stop();
}

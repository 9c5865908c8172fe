//! Dashboards, alerts and the registry name the same figures: none is drawn that is not there, none is there that nobody
//! can see; and every panel says what it shows.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use ebbtide::metrics::{Metrics, ShardPhase, ShardReading};
use ebbtide::segment::Action;
use ebbtide::shard::Counts;
use ebbtide::time::Span;
use ebbtide::win_back::Lift;
use serde_json::Value;

fn grafana() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("grafana")
}

fn files(folder: &str, extension: &str) -> Vec<(PathBuf, String)> {
    let files = fs::read_dir(grafana().join(folder)).unwrap().map(|entry| entry.unwrap().path());
    let files = files.filter(|path| path.extension().is_some_and(|found| found == extension));
    let files: Vec<_> = files.map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect();
    assert!(!files.is_empty(), "no {extension} in {folder}");
    files
}

fn dashboards() -> Vec<(PathBuf, Value)> {
    files("dashboards", "json").into_iter().map(|(path, text)| (path, serde_json::from_str(&text).unwrap())).collect()
}

fn panels(dashboard: &Value) -> impl Iterator<Item = &Value> {
    dashboard["panels"].as_array().unwrap().iter().filter(|panel| panel["type"] != "row")
}

/// The registry as a running instance shows it.
fn registered() -> BTreeSet<String> {
    let metrics = Metrics::new().unwrap();
    metrics.observe_shards(&[ShardReading {
        partition: 0,
        phase: ShardPhase::Running,
        lag: Some(0),
        watermark_lag: Some(Span::ZERO),
        guard_holds: false,
        restored: (0, 0),
    }]);
    metrics.observe_rocksdb(&[("block_cache", 0)], 0);
    metrics.observe_segments([("any", 0, Some(Lift { difference: 0.0, low: 0.0, high: 0.0 }))]);
    let mut counts = Counts::default();
    counts.moved("any", Action::Entered);
    counts.attributed("any");
    metrics.counted(&counts);
    metrics.names()
}

/// Every word of `text` that could be one of our metrics; a histogram's without its suffix.
fn named(text: &str, registered: &BTreeSet<String>) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let names = words.filter(|word| word.starts_with("ebbtide_"));
    let base = |word: &str| {
        let suffixes = ["_bucket", "_count", "_sum"];
        let stripped = suffixes.into_iter().find_map(|suffix| word.strip_suffix(suffix));
        stripped.filter(|name| registered.contains(*name)).unwrap_or(word).to_owned()
    };
    names.map(base).collect()
}

#[test]
fn dashboards_and_alerts_name_the_registry_and_the_reverse() {
    let registered = registered();
    let mut shown = BTreeSet::new();
    for (_, dashboard) in dashboards() {
        for expr in
            panels(&dashboard).flat_map(|panel| panel["targets"].as_array().unwrap()).map(|query| &query["expr"])
        {
            shown.extend(named(expr.as_str().unwrap(), &registered));
        }
    }
    for (_, text) in files("alerts", "yml") {
        shown.extend(named(&text, &registered));
    }
    let unknown: Vec<_> = shown.difference(&registered).collect();
    assert!(unknown.is_empty(), "named and not registered: {unknown:?}");
    let unseen: Vec<_> = registered.difference(&shown).collect();
    assert!(unseen.is_empty(), "registered, and on no dashboard and in no alert: {unseen:?}");
}

#[test]
fn every_panel_says_what_it_shows_and_takes_the_variables() {
    for (path, dashboard) in dashboards() {
        let mut ids = BTreeSet::new();
        for panel in panels(&dashboard) {
            let title = panel["title"].as_str().unwrap();
            let place = format!("{}: {title}", path.display());
            assert!(!title.is_empty() && ids.insert(panel["id"].as_u64().unwrap()), "{place}");
            assert!(panel["description"].as_str().is_some_and(|text| text.ends_with('.')), "{place}: no description");
            assert!(
                panel["fieldConfig"]["defaults"]["unit"].as_str().is_some_and(|unit| !unit.is_empty()),
                "{place}: no unit"
            );
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{place}");
            let queries = panel["targets"].as_array().unwrap();
            assert!(!queries.is_empty(), "{place}: no query");
            for query in queries {
                let expr = query["expr"].as_str().unwrap();
                assert_eq!(query["datasource"]["uid"], "${datasource}", "{place}");
                let selectors = expr.matches('{').count();
                assert!(selectors > 0, "{place}: {expr}");
                for variable in ["job=~\"$job\"", "instance=~\"$instance\""] {
                    assert_eq!(expr.matches(variable).count(), selectors, "{place}: {expr}");
                }
            }
        }
        let variables: Vec<_> =
            dashboard["templating"]["list"].as_array().unwrap().iter().map(|v| &v["name"]).collect();
        assert_eq!(variables, ["datasource", "job", "instance"]);
    }
}

#[test]
fn panels_do_not_overlap() {
    for (path, dashboard) in dashboards() {
        let mut taken = BTreeSet::new();
        for panel in dashboard["panels"].as_array().unwrap() {
            let [x, y, w, h] = ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64().unwrap());
            assert!(x + w <= 24, "{}: {}", path.display(), panel["title"]);
            for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
                assert!(taken.insert(cell), "{}: {} lies on another panel", path.display(), panel["title"]);
            }
        }
    }
}

#[test]
fn every_alert_has_its_runbook_and_its_unit_tests() {
    let runbook = fs::read_to_string(grafana().join("../docs/operations.md")).unwrap();
    let tests = fs::read_to_string(grafana().join("alerts/tests/ebbtide.yml")).unwrap();
    for (_, text) in files("alerts", "yml") {
        let alerts: Vec<_> = text.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
        assert!(!alerts.is_empty());
        for alert in alerts {
            assert!(runbook.contains(&format!("### {alert}\n")), "{alert} is not in docs/operations.md");
            let link = format!("docs/operations.md#{}", alert.to_ascii_lowercase());
            assert!(text.contains(&format!("runbook_url: {link}\n")), "{alert} does not link to {link}");
            let cases = tests.split("- alertname: ").filter(|case| case.starts_with(&format!("{alert}\n")));
            let (silent, firing): (Vec<_>, Vec<_>) = cases.partition(|case| case.contains("exp_alerts: []"));
            assert!(!silent.is_empty() && !firing.is_empty(), "{alert} is not tested both firing and not firing");
        }
    }
}

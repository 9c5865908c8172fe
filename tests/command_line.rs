//! What the command promises to scripts: exit codes, and standard output that a program can read.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

fn ebbtide(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ebbtide"));
    command.args(args).current_dir(env!("CARGO_TARGET_TMPDIR")).env_remove("EBBTIDE_CONFIG");
    command.output().expect("the command starts")
}

fn sample() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/cdnow-sample.jsonl.gz")
}

fn scratch(name: &str, text: &str) -> String {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, text).expect("the scratch folder is writable");
    path.display().to_string()
}

#[test]
fn exit_codes_tell_wrong_from_failed() {
    let sample = sample().display().to_string();
    let wrong = scratch("wrong.toml", "lapsed_aftr = \"3d\"\nchurned_after = \"x\"\n");
    let table: [(&[&str], i32, &str); 7] = [
        (&["--version"], 0, ""),
        (&["replay", &sample, "-u", "1998-07-01", "-f", "none"], 0, "18,665 transitions"),
        (&["fly"], 2, "fly"),
        (&["replay", "-", "-f", "none"], 2, "say --until when"),
        (&["replay", &sample, "--policy", &wrong], 2, "has 2 problems"),
        (&["check", "--config", "missing.toml"], 2, "cannot read the configuration"),
        (&["replay", "missing.jsonl", "-u", "1998-07-01"], 1, "cannot read missing.jsonl"),
    ];
    for (args, code, says) in table {
        let output = ebbtide(args);
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {err}");
        assert!(err.contains(says), "{args:?}: {err}");
    }
}

#[test]
fn without_until_time_ends_with_the_latest_event() {
    let output = ebbtide(&["replay", &sample().display().to_string(), "-f", "none"]);
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(err.contains("as of 1998-06-30T"), "{err}");
}

#[test]
fn the_same_seed_generates_the_same_bytes_and_they_replay_whatever_their_compression() {
    let settings = ["generate", "--users", "200", "--days", "60", "--start", "2026-01-01"];
    let generated = |seed: &str| ebbtide(&[&settings[..], &["--seed", seed]].concat()).stdout;
    let (first, again, other) = (generated("7"), generated("7"), generated("8"));
    assert!(first == again && first != other && first.len() > 10_000, "{} bytes", first.len());
    let replays = ["people.jsonl", "people.jsonl.gz", "people.jsonl.zst"].map(|name| {
        let made = ebbtide(&[&settings[..], &["--seed", "7", "-o", name]].concat());
        assert!(made.status.success());
        let output = ebbtide(&["replay", name, "--until", "2026-04-01", "--format", "tsv"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    });
    assert!(replays[0].len() > 10_000 && replays[0] == replays[1] && replays[1] == replays[2]);
}

/// The published estimates (Fader, Hardie and Lee 2005), and an implementation that shares nothing with Ebbtide's.
#[test]
fn calibrate_finds_the_published_estimates_and_agrees_with_an_independent_fit() {
    let sample = sample().display().to_string();
    let output =
        ebbtide(&["calibrate", &sample, "--until", "1997-09-30", "--unit", "week", "--json", "calibrated.json"]);
    let chart = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(chart.contains("█") && chart.contains("[policy.survival]"), "{chart}");
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("calibrated.json");
    let report: Value = serde_json::from_slice(&std::fs::read(path).expect("it was written")).expect("JSON");
    let independent = python(&["bg_nbd.py", "fit", &sample, "1997-09-30", "7"], &[]);
    let fitted = &report["model"]["parameters"];
    for (name, published) in [("r", 0.243), ("alpha", 4.414), ("a", 0.793), ("b", 2.426)] {
        let (found, theirs) = (number(&fitted[name]), number(&independent[name]));
        assert!((found - published).abs() < 6e-4, "{name}: {found} and not {published}");
        assert!((found / theirs - 1.0).abs() < 1e-3, "{name}: {found} and, independently, {theirs}");
    }
    let (ours, theirs) = (number(&report["model"]["log_likelihood"]), number(&independent["log_likelihood"]));
    assert!((ours - theirs).abs() < 1e-4 && independent["users"] == 2357, "{ours}, independently {theirs}");
}

/// Every transition's `p_alive` under the fitted parameters, customer by customer.
#[test]
fn p_alive_of_every_transition_agrees_with_an_independent_implementation() {
    let sample = sample().display().to_string();
    let parameters = ["0.2426", "30.8945", "0.7928", "2.4256"];
    let [r, alpha, a, b] = parameters;
    let text = format!("[policy.survival]\nr = {r}\nalpha = {alpha}\na = {a}\nb = {b}\nthreshold = 0.3\n");
    let policy = scratch("survival.toml", &text);
    let output = ebbtide(&["replay", &sample, "--until", "1998-07-01", "--policy", &policy]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found = python(&["bg_nbd.py", "alive", &sample, r, alpha, a, b], &output.stdout);
    let worst = number(&found["worst"]);
    assert!(number(&found["compared"]) > 15_000.0 && found["users"] == 2357, "{found}");
    assert!(worst < 1e-9, "P(alive) differs by {worst}");
}

#[test]
fn policies_are_compared_day_by_day() {
    let sample = sample().display().to_string();
    let (strict, lax) =
        (scratch("strict.toml", "lapsed_after = \"20d\"\n"), scratch("lax.toml", "forget_after = \"400d\"\n"));
    let compare = |format: &str| {
        let output =
            ebbtide(&["replay", &sample, "-u", "1998-07-01", "-p", &strict, "-p", &lax, "--format", format, "-q"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    };
    let days: Value = serde_json::from_str(&compare("json")).expect("JSON");
    let days = days.as_array().expect("a list");
    assert_eq!((days.len(), &days[0]["day"], &days[546]["day"]), (547, &json!("1997-01-01"), &json!("1998-07-01")));
    // Counted from the transitions of a run of its own, up to the end of a day in the middle.
    let output = ebbtide(&["replay", &sample, "-u", "1998-07-01", "-p", &strict, "-f", "tsv"]);
    let mut lapsed = 0_i64;
    for line in String::from_utf8(output.stdout).expect("text").lines().skip(1) {
        let cells: Vec<&str> = line.split('\t').collect();
        if cells[6] < "1997-06-16" {
            lapsed += i64::from(cells[3] == "lapsed") - i64::from(cells[2] == "lapsed");
        }
    }
    let middle = days.iter().find(|day| day["day"] == "1997-06-15").expect("the day");
    assert_eq!(middle["cohorts"][0]["lapsed"], lapsed);
    assert_ne!(middle["cohorts"][0], middle["cohorts"][1]);
    assert_eq!(compare("csv").lines().count(), 1 + 2 * 547);
    let table = compare("table");
    assert!(
        table.lines().count() == 2 + 547 && table.contains("strict.toml") && table.contains("1997-06-15"),
        "{table}"
    );
    let refused = ebbtide(&["replay", &sample, "-p", &strict, "-p", &lax, "-f", "tsv"]);
    assert_eq!(refused.status.code(), Some(2));
}

/// Issue 3, "What it must show", 2: the weekly retention matrix, cell by cell, and the recent churned at the first of every
/// month, user by user.
#[test]
fn retention_and_audiences_of_the_sample_equal_an_independent_count() {
    let sample = sample().display().to_string();
    let text = "[policy]\nlapsed_after = \"20d\"\nchurned_after = \"30d\"\n\
                [[segments]]\nname = \"recent_churned\"\nstate = [\"churned\"]\nidle = { from = \"30d\", to = \"60d\" }\n\
                [[retention]]\nname = \"purchases\"\nperiod = \"week\"\ncount = 13\n[signals]\nenabled = true\n";
    let config = scratch("audiences.toml", text);
    let (segments, reports) = ("segments.jsonl", "reports.json");
    let output = ebbtide(&[
        "replay",
        &sample,
        "--until",
        "1998-07-01",
        "--policy",
        &config,
        "--format",
        "none",
        "--segments",
        segments,
        "--reports",
        reports,
        "--partitions",
        "3",
    ]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let written = |name: &str| {
        std::fs::read_to_string(Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)).expect("it was written")
    };

    let reports: Value = serde_json::from_str(&written(reports)).expect("JSON");
    let independent = python(&["audiences.py", "retention", &sample, "13"], &[]);
    let cohorts = reports["retention"][0]["cohorts"].as_array().expect("a list");
    let mut found = serde_json::Map::new();
    for row in cohorts {
        let mut cells = vec![row["size"].clone()];
        cells.extend(row["retained"].as_array().expect("a list").iter().cloned());
        found.insert(row["cohort"].as_str().expect("a day").to_owned(), cells.into());
        // The last purchases are of 1998-06-30; everybody's thirteen weeks were over by then.
        assert_eq!(row["complete"], 14, "{row}");
    }
    assert_eq!(Value::Object(found), independent);
    let users: u64 = cohorts.iter().map(|row| row["size"].as_u64().expect("a count")).sum();
    assert_eq!(users, 2_357);

    let independent = python(&["audiences.py", "recent", &sample, "1997-01-01", "1998-07-01", "30", "60", "30"], &[]);
    let moves: Vec<Value> =
        written(segments).lines().map(|line| serde_json::from_str(line).expect("a record")).collect();
    let mut most = 0;
    for (day, audience) in independent.as_object().expect("by day") {
        let now = format!("{day}T00:00:00.000Z");
        let mut members = BTreeSet::new();
        // The order in the file is not one of time across shards; each user's own order is.
        for moved in moves.iter().filter(|moved| moved["effective_at"].as_str().expect("a time") <= now.as_str()) {
            let user = moved["user_id"].as_str().expect("an id");
            if moved["action"] == "entered" {
                members.insert(user)
            } else {
                members.remove(user)
            };
        }
        let members: Vec<&str> = members.into_iter().collect();
        assert_eq!(json!(members), *audience, "at {day}");
        most = most.max(members.len());
    }
    assert!(most > 300, "at most {most} users at once");
    let churned = reports["signals"].as_array().expect("a list").iter().find(|signals| signals["group"] == "churned");
    assert_eq!(churned.expect("the churned")["dimensions"][0]["dimension"], "last_event");
}

/// The README's story, as printed: every `ebbtide` line of it that needs no running instance.
#[test]
fn the_win_back_story_of_the_readme_works_as_printed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(dir.path().join("docs")).expect("a folder");
    for name in ["docs/win-back.toml", "docs/win-back-slow.toml"] {
        std::fs::copy(root.join(name), dir.path().join(name)).expect("it is there");
    }
    let readme = std::fs::read_to_string(root.join("README.md")).expect("it is there");
    let story =
        readme.split("## Winning back\n").nth(1).and_then(|rest| rest.split("\n## ").next()).expect("a section");
    let lines = story.lines().filter_map(|line| line.strip_prefix("    ebbtide "));
    let lines: Vec<&str> = lines.filter(|line| !line.starts_with("export ")).collect();
    assert_eq!(lines.len(), 4, "{lines:?}");
    for line in lines {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ebbtide"));
        command.args(line.split_whitespace()).current_dir(dir.path()).env_remove("EBBTIDE_CONFIG");
        let output = command.output().expect("the command starts");
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).expect("it was written");
    assert!(read("segments.jsonl").lines().count() > 100 && read("outcomes.jsonl").contains("we-miss-you"));
    assert!(read("compared.txt").lines().count() > 200);
    let reports: Value = serde_json::from_str(&read("reports.json")).expect("JSON");
    assert_eq!(reports["retention"][0]["name"], "core");
    let churned =
        reports["signals"].as_array().expect("a list").iter().find(|one| one["group"] == "high_value_churned");
    assert!(churned.expect("the segment's signals")["users"].as_u64() > Some(10), "{churned:?}");
}

/// Runs a script of `tests/independent` and reads the JSON that it prints.
fn python(args: &[&str], input: &[u8]) -> Value {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/independent");
    let mut command = Command::new("python3");
    command.args(args).current_dir(folder).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("python3 is needed by the tests: make setup");
    let mut stdin = child.stdin.take().expect("it is piped");
    stdin.write_all(input).expect("the script reads all");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{args:?}");
    serde_json::from_slice(&output.stdout).expect("the script prints JSON")
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is a number"))
}

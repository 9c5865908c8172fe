//! What the command promises to scripts: exit codes, and standard output that a program can read.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

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

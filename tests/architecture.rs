//! The rings: imports point inwards only (docs/architecture.md).

use std::fs;
use std::path::{Path, PathBuf};

/// Modules of the rules and the shard: no I/O, no clock, no threads.
const INNER: [&str; 13] = [
    "time.rs",
    "rules.rs",
    "person.rs",
    "event",
    "lifecycle",
    "timer",
    "shard",
    "store",
    "segment",
    "win_back",
    "calibrate",
    "retention",
    "signals",
];

/// What no inner module may name.
const FORBIDDEN: [&str; 12] = [
    "rdkafka",
    "tokio",
    "axum",
    "std::fs",
    "std::net",
    "std::thread",
    "SystemTime",
    "Instant::now",
    "Utc::now",
    "crate::kafka",
    "crate::http",
    "crate::metrics",
];

/// The one inner file that touches the disk.
const ROCKS: &str = "store/rocks";

fn sources(path: &Path, found: &mut Vec<PathBuf>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).expect("the folder is readable") {
            sources(&entry.expect("the entry is readable").path(), found);
        }
    } else if path.extension().is_some_and(|extension| extension == "rs") {
        found.push(path.to_owned());
    }
}

/// Code without comments and without the tests at a file's end.
fn code(text: &str) -> String {
    text.split("#[cfg(test)]\nmod tests {")
        .next()
        .unwrap_or_default()
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn inner_rings_name_no_outer_crate_and_read_no_clock() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    for module in INNER {
        sources(&root.join(module), &mut files);
    }
    assert!(files.len() > 15, "only {} inner files were found", files.len());
    let mut broken = Vec::new();
    for file in &files {
        let name = file.strip_prefix(&root).expect("found below the root").to_string_lossy().into_owned();
        let code = code(&fs::read_to_string(file).expect("the file is readable"));
        for word in FORBIDDEN.iter().filter(|word| code.contains(**word)) {
            if !(name.starts_with(ROCKS) && word.starts_with("std::")) {
                broken.push(format!("{name} names {word}"));
            }
        }
        if code.contains("rocksdb::") && !name.starts_with("store/") {
            broken.push(format!("{name} names rocksdb"));
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn no_folder_has_a_name_that_says_nothing() {
    let mut files = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    for file in files {
        for part in file.components() {
            let part = part.as_os_str().to_string_lossy();
            let stem = part.trim_end_matches(".rs");
            assert!(!["utils", "common", "helpers", "manager", "handler"].contains(&stem), "{}", file.display());
        }
    }
}

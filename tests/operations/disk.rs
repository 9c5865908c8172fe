//! The local disk: a cache that may fill up, break, or lie.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use super::support::instance::Instance;
use super::support::kafka::{Broker, eventually};
use super::{Case, assert_says};

/// Runs the program on a disk of its own that is too small; when it has ended, the disk grows and it is started again.
/// The disk is a tmpfs in a mount namespace, which goes with the process and needs no root where user namespaces are on.
const SMALL_DISK: &str = r#"#!/bin/sh
exec unshare --map-root-user --mount sh -c '
    mkdir -p "$STATE" && mount -t tmpfs -o size=2m tmpfs "$STATE" || exit 9
    "$PROGRAM" "$@"
    echo "ended with $?"
    mount -o remount,size=256m "$STATE" || exit 9
    exec "$PROGRAM" "$@"
' sh "$@"
"#;

#[test]
fn a_full_disk_ends_the_process_with_advice_and_once_there_is_space_it_goes_on() {
    let broker = Broker::shared();
    let mut case = Case::with_users(broker, "full", 2, "", 60_000);
    let script = case.one.folder().join("small-disk");
    fs::write(&script, SMALL_DISK).expect("written");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("executable");
    let state = case.one.state_folder();
    let environment = [
        ("PROGRAM", Instance::program().to_str().expect("a path")),
        ("STATE", state.to_str().expect("a path")),
        // Small memtables, which are written to disk soon.
        ("EBBTIDE_STATE__MEMORY", "16MiB"),
    ];
    case.one.start_as(&script, &[], &environment);
    let ended = |one: &Instance| one.log_since_start().contains("ended with");
    let mut sent = 0.0;
    while !ended(&case.one) {
        case.send(5_000);
        sent += 5_000.0;
        assert!(sent < 200_000.0, "the disk does not fill");
        eventually("the events to be read, or the disk to be full", || {
            case.one.assert_alive();
            ended(&case.one) || case.one.metric("ebbtide_events_total").is_some_and(|read| read >= sent)
        });
    }
    let log = case.one.log_since_start();
    assert_says(&log, &["ended with 1", "is full", "free some space", "nothing is lost"]);
    case.send(500);
    case.settle();
    case.one.stop();
}

/// Files of the database.
fn tables(one: &Instance) -> Vec<PathBuf> {
    let files = fs::read_dir(one.state_folder()).expect("a folder").map(|entry| entry.expect("an entry").path());
    let tables: Vec<PathBuf> =
        files.filter(|file| file.extension().is_some_and(|extension| extension == "sst")).collect();
    assert!(!tables.is_empty(), "nothing was written to disk");
    tables
}

#[test]
fn damaged_files_are_replaced_from_the_changelog() {
    let broker = Broker::shared();
    let mut case = Case::new(broker, "damaged", 2, "");
    case.one.start();
    case.send(3_000);
    case.settle();
    case.one.stop();

    // A file is cut off: that shows at once.
    fs::write(&tables(&case.one)[0], "torn").expect("cut");
    case.one.start();
    case.send(500);
    case.settle();
    assert_says(&case.one.log_since_start(), &["removing the damaged state database", "restored from the changelog"]);
    case.one.stop();

    // A file has other bytes: that shows when they are read, and the next start mends it.
    let users = tables(&case.one).into_iter().max_by_key(|table| table.metadata().expect("a file").len()).expect("one");
    let mut bytes = fs::read(&users).expect("read");
    // In the first block of users; an index that is damaged would show at once.
    bytes[8..40].fill(0xa5);
    fs::write(&users, bytes).expect("written");
    case.one.start();
    case.send(500);
    assert_says(&case.one.refused(), &["is damaged", "start again", "nothing is lost"]);
    case.one.start();
    case.send(500);
    case.settle();
    assert_says(&case.one.log_since_start(), &["removing the damaged state database"]);
    case.one.stop();
}

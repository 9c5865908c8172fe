//! What docs/operations.md has people do, done with the commands that it names.

use std::fs;
use std::path::Path;

use super::support::instance::Instance;
use super::support::kafka::{Broker, eventually};
use super::{Case, assert_says};

const GROUPS: &str = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand";
const TOPICS: &str = "org.apache.kafka.tools.TopicCommand";
const CONFIGS: &str = "kafka.admin.ConfigCommand";

/// Removes a group, once nobody is a member of it any more.
fn delete_group(broker: &Broker, group: &str) {
    eventually(&format!("the members of {group} to be forgotten"), || {
        broker.tool(GROUPS, &["--describe", "--state", "--group", group]).contains("Empty")
    });
    let said = broker.tool(GROUPS, &["--delete", "--group", group]);
    assert!(said.contains("successful"), "{said}");
}

/// Copies a folder and all in it.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("copied");
        }
    }
}

/// Changelog offsets that were read when the shard was taken over.
fn restored(one: &Instance) -> f64 {
    one.metric("ebbtide_restore_done_records").expect("a metric")
}

#[test]
fn an_instance_moves_with_its_folder_or_without_it() {
    let broker = Broker::shared();
    let mut case = Case::new(broker, "move", 1, "");
    case.one.start();
    case.send(2_000);
    case.settle();
    for with_folder in [true, false] {
        case.one.stop();
        let there = case.deployment.instance("one");
        if with_folder {
            copy(&case.one.state_folder(), &there.state_folder());
        }
        // The other machine has the old one's name; the old one is never started again.
        let left = std::mem::replace(&mut case.one, there);
        case.one.start();
        case.send(500);
        case.settle();
        let read = restored(&case.one);
        // There are 200 users, each with a record at least.
        assert!(if with_folder { read < 50.0 } else { read >= 200.0 }, "{read} with the folder: {with_folder}");
        drop(left);
    }
    case.one.stop();
}

#[test]
fn a_group_that_was_forgotten_goes_on_from_the_shards_own_record() {
    let broker = Broker::shared();
    let mut case = Case::new(broker, "forgotten", 1, "");
    case.one.start();
    case.send(1_000);
    case.settle();
    case.one.stop();
    delete_group(broker, "forgotten");
    case.one.start();
    case.send(500);
    case.settle();
    assert_says(&case.one.log_since_start(), &["the group has no offset"]);
    case.one.stop();
}

#[test]
fn a_wrong_setting_is_mended_while_ebbtide_runs() {
    let broker = Broker::shared();
    let mut case = Case::new(broker, "mended", 1, "");
    case.one.start();
    case.send(500);
    case.settle();
    let set = |setting: &str| {
        let alter =
            ["--alter", "--entity-type", "topics", "--entity-name", "mended.changelog", "--add-config", setting];
        broker.tool(CONFIGS, &alter);
    };
    set("delete.retention.ms=60000");
    eventually("the check to find it", || case.one.check().0 == Some(1));
    assert_says(&case.one.check().1, &["WRONG: topics.changelog", "delete.retention.ms=60000"]);
    set("delete.retention.ms=604800000");
    eventually("the check to be content", || case.one.check().0 == Some(0));
    case.send(500);
    case.settle();
    case.one.stop();
}

#[test]
fn after_everything_was_deleted_it_begins_anew() {
    let broker = Broker::shared();
    let mut case = Case::new(broker, "deleted", 1, "");
    case.one.start();
    case.send(1_000);
    case.settle();
    case.one.stop();
    delete_group(broker, "deleted");
    for topic in ["transitions", "states", "segments", "outcomes", "dead-letters", "changelog"] {
        broker.tool(TOPICS, &["--delete", "--topic", &format!("deleted.{topic}")]);
    }
    eventually("the topics to be gone", || broker.partitions("deleted.changelog").is_none());
    case.one.wipe();
    // The input is still there: all of it is judged again.
    case.one.start();
    case.send(500);
    case.settle();
    case.one.stop();
}

/// The brokers' own folders are the backup: a mirror that keeps offsets, those of the group included, of one moment.
#[test]
fn a_backup_of_the_brokers_is_gone_back_to_whatever_the_local_disk_holds() {
    let broker = Broker::start();
    let mut case = Case::new(&broker, "backup", 2, "");
    case.one.start();
    case.send(1_000);
    case.settle();
    case.one.stop();
    broker.stop();
    let data = broker.data();
    let backup = case.one.folder().join("backup");
    copy(&data, &backup);
    broker.start_again();
    case.one.start();
    // What comes after the backup, and is on the local disk too.
    case.greet("newcomer");
    case.one.stop();
    broker.stop();
    fs::remove_dir_all(&data).expect("the brokers' disk is lost");
    copy(&backup, &data);
    broker.start_again();
    case.one.start();
    case.send(500);
    case.settle();
    assert_says(&case.one.log_since_start(), &["the changelog ends before the local copy", "restoring everything"]);
    case.one.stop();
}

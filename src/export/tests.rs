//! Export's promises: formulas are text, one moment is shown, and the file reads back.

use std::io::Write;
use std::sync::{Arc, Mutex};

use ::parquet::file::reader::{FileReader as _, SerializedFileReader};
use ::parquet::record::RowAccessor as _;
use bytes::Bytes;

use super::*;
use crate::lifecycle::activity::Activity;
use crate::lifecycle::user::Life;
use crate::lifecycle::{Reason, User};
use crate::person::Person;
use crate::store::{Batch, Store as _};
use crate::time::{Day, EventTime};

const MEMORY: u64 = 16 << 20;

fn person(state: State, plan: &str) -> Person {
    let at = EventTime::from_millis(1_767_225_600_000);
    let life = Life {
        state,
        since: at,
        reason: Reason::Inactive,
        first_active: at,
        last_active: at,
        activated_at: None,
        absent_since: (state >= State::Lapsed).then_some(at),
        total_events: 7,
        core_actions: 3,
        last_events: vec!["a, \"b\"".into(), "=c".into()],
        activity: Activity::first(Day::from_number(20_454), None),
    };
    User { seq: 1, life: Some(life), properties: vec![(0, plan.into())], ..User::default() }.into()
}

fn database(users: &[(&str, Person)]) -> (tempfile::TempDir, Arc<Database>) {
    let dir = tempfile::tempdir().expect("a folder");
    let database = Database::open(dir.path(), MEMORY).expect("opens");
    put(&database, users);
    (dir, database)
}

fn put(database: &Arc<Database>, users: &[(&str, Person)]) {
    let mut shard = Vec::new();
    let properties = vec!["plan".to_owned()];
    ShardRecord { input_partitions: 1, properties, ..ShardRecord::default() }.encode(&mut shard);
    let encoded = |person: &Person| {
        let mut bytes = Vec::new();
        codec::encode_user(person, &mut bytes);
        bytes
    };
    let users = users.iter().map(|(id, person)| (Box::from(*id), Some(encoded(person)))).collect();
    database.shard(0).write(Batch { users, shard: Some(shard), ..Batch::default() }).expect("writes");
}

/// A writer whose bytes can be looked at afterwards, and that may do something on the way.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("nobody panics").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn exported(database: &Arc<Database>, format: Format) -> (u64, Vec<u8>) {
    let plan = Plan {
        selection: Selection::State(State::Churned),
        format,
        partitions: vec![0],
        track: vec!["plan".to_owned(), "seats".to_owned()],
        policy: Policy::default(),
    };
    let out = Shared::default();
    let count = write(database, &plan, out.clone()).expect("writes");
    let bytes = out.0.lock().expect("nobody panics").clone();
    (count, bytes)
}

#[test]
fn a_formula_is_text_in_csv_and_nothing_else_is_changed() {
    let hostile = ["=1+1", "+1", "-2+3", "@SUM(A1)", "\tx", "\r=1", "＝1"];
    for text in hostile {
        assert_eq!(csv::safe(text), format!("'{text}"));
    }
    for text in ["a=b", "1", "", "'=1", " =1", "user-1@example.com"] {
        assert_eq!(csv::safe(text), text);
    }
    let (_dir, database) =
        database(&[("=cmd|' /C calc'!A0", person(State::Churned, "\"@x\"")), ("b", person(State::Active, "1"))]);
    let (count, bytes) = exported(&database, Format::Csv);
    assert_eq!(count, 1);
    let mut reader = ::csv::Reader::from_reader(bytes.as_slice());
    let head = reader.headers().expect("a head").clone();
    let row = reader.records().next().expect("a row").expect("it reads");
    let cell = |name: &str| &row[head.iter().position(|column| column == name).expect("a column")];
    assert_eq!(cell("user_id"), "'=cmd|' /C calc'!A0");
    assert_eq!((cell("properties.plan"), cell("properties.seats")), ("'@x", ""));
    assert_eq!((cell("state"), cell("total_events")), ("churned", "7"));
    assert_eq!(cell("last_events"), r#"["a, \"b\"","=c"]"#);
}

#[test]
fn json_lines_say_the_same() {
    let (_dir, database) = database(&[("a", person(State::Churned, "{\"b\":1}"))]);
    let (_, bytes) = exported(&database, Format::JsonLines);
    let line: serde_json::Value = serde_json::from_slice(&bytes).expect("one line");
    assert_eq!(line["user_id"], "a");
    assert_eq!(line["properties"], serde_json::json!({ "plan": { "b": 1 } }));
    assert_eq!(line["last_active_at"], "2026-01-01T00:00:00.000Z");
    assert!(line["activated_at"].is_null() && line["last_events"][1] == "=c");
}

#[test]
fn parquet_reads_back_over_many_row_groups() {
    let ids: Vec<String> = (0..70_000).map(|number| format!("user-{number:06}")).collect();
    let all: Vec<(&str, Person)> = ids.iter().map(|id| (id.as_str(), person(State::Churned, "\"pro\""))).collect();
    let (_dir, database) = database(&all);
    let (count, bytes) = exported(&database, Format::Parquet);
    let reader = SerializedFileReader::new(Bytes::from(bytes)).expect("a Parquet file");
    assert_eq!((count, reader.metadata().file_metadata().num_rows()), (70_000, 70_000));
    assert!(reader.num_row_groups() >= 3, "{} groups", reader.num_row_groups());
    for (row, id) in reader.get_row_iter(None).expect("rows").zip(&ids) {
        let row = row.expect("a row");
        assert_eq!((row.get_string(0).expect("text"), row.get_ulong(8).expect("a number")), (id, 7));
    }
    let (_, empty) = exported(&self::database(&[]).1, Format::Parquet);
    let reader = SerializedFileReader::new(Bytes::from(empty)).expect("a Parquet file without rows");
    assert_eq!(reader.metadata().file_metadata().num_rows(), 0);
}

/// What is committed while an export runs is not in it.
#[test]
fn one_moment_is_shown() {
    let (_dir, database) = database(&[("a", person(State::Churned, "1")), ("b", person(State::Churned, "1"))]);
    let snapshot = database.snapshot();
    put(&database, &[("a", person(State::Active, "1")), ("c", person(State::Churned, "1"))]);
    let users: Vec<_> = snapshot.users(0).map(|user| user.expect("reads").0).collect();
    assert_eq!(users, ["a".into(), "b".into()]);
    assert_eq!(exported(&database, Format::JsonLines).0, 2, "b and c by now");
}

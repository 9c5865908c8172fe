//! A Parquet export is whole and says what the state says, read by another implementation: Apache Arrow's, from Python
//! (issue 3, "What it must show", 6).

mod support;

use std::fs::File;
use std::path::PathBuf;
use std::process::Command;

use ebbtide::export::{Format, Plan, Selection, write};
use ebbtide::lifecycle::activity::Activity;
use ebbtide::lifecycle::user::Life;
use ebbtide::lifecycle::{Policy, Reason, State, User};
use ebbtide::person::Person;
use ebbtide::shard::ShardRecord;
use ebbtide::store::rocks::Database;
use ebbtide::store::{Batch, Store as _, codec};
use ebbtide::time::EventTime;
use serde_json::{Value, json};

/// Enough for several row groups.
const USERS: u64 = 70_000;

fn user(number: u64) -> Person {
    let at = EventTime::from_millis(1_767_225_600_000 + i64::try_from(number).expect("small"));
    let life = Life {
        state: State::Churned,
        since: at,
        reason: Reason::Inactive,
        first_active: at,
        last_active: at,
        activated_at: number.is_multiple_of(2).then_some(at),
        absent_since: Some(at),
        total_events: number,
        core_actions: 3,
        last_events: vec!["a, \"b\"".into(), "=ü".into()],
        activity: Activity::first(at.day(), None),
    };
    let plan = if number == 0 { "{\"b\":[1,null]}" } else { "\"pro\"" };
    User { seq: 1, life: Some(life), properties: vec![(0, plan.into())], ..User::default() }.into()
}

#[test]
fn another_reader_finds_every_user_once_and_the_same_values() {
    let folder = tempfile::tempdir().expect("a folder");
    let database = Database::open(&folder.path().join("state"), 16 << 20).expect("opens");
    let mut shard = Vec::new();
    let properties = vec!["plan".to_owned()];
    ShardRecord { input_partitions: 1, properties, ..ShardRecord::default() }.encode(&mut shard);
    let users = (0..USERS).map(|number| {
        let mut bytes = Vec::new();
        codec::encode_user(&user(number), &mut bytes);
        (format!("=é-{number:06}").into(), Some(bytes))
    });
    let batch = Batch { users: users.collect(), shard: Some(shard), ..Batch::default() };
    database.shard(0).write(batch).expect("writes");
    let plan = Plan {
        selection: Selection::State(State::Churned),
        format: Format::Parquet,
        partitions: vec![0],
        track: vec!["plan".to_owned()],
        policy: Policy::default(),
    };
    let path = folder.path().join("audience.parquet");
    let written = write(&database, &plan, File::create(&path).expect("a file")).expect("exports");
    assert_eq!(written, USERS);

    let python = support::python::with_arrow().expect("a Python with pyarrow: run tools/setup test");
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/independent/parquet_file.py");
    let output = Command::new(python).arg(script).arg(&path).output().expect("Python runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(found["rows"], USERS);
    assert!(found["groups"].as_u64() >= Some(3), "{found}");
    for (column, kind) in [
        ("user_id", "string"),
        ("since", "timestamp[ms, tz=UTC]"),
        ("idle_days", "double"),
        ("total_events", "uint64"),
        ("properties.plan", "string"),
    ] {
        assert_eq!(found["columns"][column], kind, "{column}");
    }
    let first = &found["first"];
    assert_eq!((&first["user_id"], &first["state"]), (&json!("=é-000000"), &json!("churned")), "{first}");
    assert_eq!(first["last_active_at"], "2026-01-01T00:00:00+00:00");
    assert_eq!(first["activated_at"], first["last_active_at"]);
    assert_eq!((&first["last_events"], &first["segments"]), (&json!(["a, \"b\"", "=ü"]), &json!([])));
    assert_eq!(first["properties.plan"], "{\"b\":[1,null]}");
    let last = &found["last"];
    assert_eq!((&last["user_id"], &last["total_events"]), (&json!("=é-069999"), &json!(69_999)), "{last}");
    assert_eq!(last["last_active_at"], "2026-01-01T00:01:09.999000+00:00");
    assert_eq!((&last["activated_at"], &last["properties.plan"]), (&Value::Null, &json!("pro")));
}

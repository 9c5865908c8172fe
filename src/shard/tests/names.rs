//! The list of event names: whatever becomes of it, users keep the names of what they did.

use super::*;
use crate::store::{Batch, Deadline};

/// What is stored: the shard's record, and the names of each user's latest events.
fn stored(run: &Run<MemoryStore>) -> (ShardRecord, BTreeMap<String, Vec<String>>) {
    let record = run.shard.store().shard().expect("reads").0.expect("it was committed");
    let record = ShardRecord::decode(&record).expect("a record");
    let users = run.shard.store().scan(None, usize::MAX).expect("reads");
    let names = users.iter().map(|(user_id, bytes)| {
        let life = codec::decode_user(bytes, &record.names).expect("a user").user.life.expect("a life");
        (user_id.to_string(), life.last_events.iter().map(ToString::to_string).collect())
    });
    let names = names.collect();
    (record, names)
}

#[test]
fn names_beyond_the_list_are_kept_with_their_users() {
    let rules = rules(Policy::default(), &[]);
    let mut run = Run::new(&rules);
    let inputs: Vec<Input> = (0..600).map(|n| named(&format!("u{n}"), &format!("event {n}"), START + n, "")).collect();
    run.apply(&inputs);
    run.commit();
    let again: Vec<Input> = (0..600).map(|n| named(&format!("u{n}"), "event 599", START + 600 + n, "")).collect();
    run.apply(&again);
    run.commit();
    let (record, names) = stored(&run);
    assert!((1..600).contains(&record.names.len()), "{} are listed", record.names.len());
    for n in 0..600 {
        assert_eq!(names[&format!("u{n}")], [format!("event {n}"), "event 599".to_owned()]);
    }
}

/// A value that has its name in full is read while another user's event has just listed that name. After a roll-back the
/// place is another name's.
#[test]
fn a_name_that_was_listed_in_vain_is_not_referred_to() {
    let rules = rules(Policy::default(), &[]);
    let mut run = Run::new(&rules);
    let first = named("x", "old", START, r#","id":"1""#);
    run.apply(std::slice::from_ref(&first));
    run.commit();

    // As an older build leaves it.
    let (mut record, _) = stored(&run);
    let (_, bytes) = run.shard.store().scan(None, 1).expect("reads").remove(0);
    let mut person = codec::decode_user(&bytes, &record.names).expect("a user");
    person.user.life.as_mut().expect("a life").last_events = vec!["old".into()];
    record.names = Arc::default();
    let (mut user, mut shard) = (Vec::new(), Vec::new());
    codec::encode_user(&person, &mut user);
    record.encode(&mut shard);
    let arm = person.user.armed.map(|at| Deadline { at, user_id: "x".into() }).into_iter().collect();
    let mut store = MemoryStore::new();
    let batch = Batch { users: vec![("x".into(), Some(user))], arm, shard: Some(shard), ..Batch::default() };
    store.write(batch).expect("writes");

    let mut run = Run::over(store, &rules);
    run.offset = 1;
    run.apply(&[named("y", "old", START + 1, "")]);
    // A duplicate: the user is read, and does not change.
    run.apply(&[first]);
    run.rollback();
    run.apply(&[named("y", "new", START + 2, "")]);
    run.apply(&[named("x", "newer", START + 3, "")]);
    run.commit();
    let (_, names) = stored(&run);
    assert_eq!((&names["x"][..], &names["y"][..]), (&["old", "newer"].map(String::from)[..], &["new".to_owned()][..]));
}

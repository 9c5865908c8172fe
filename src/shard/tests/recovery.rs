//! Batching, interruption, rolling back and restoring change nothing.

use super::*;
use crate::lifecycle::User;
use crate::person::Person;
use crate::shard::{Bulk, Pending, restore_batch};
use crate::store::rocks::Database;
use crate::store::{Deadline, key};

/// Applies `inputs` in batches of `sizes` (round and round), a budgeted advance and a commit after each.
fn drive<S: Store>(
    run: &mut Run<S>,
    inputs: &[Input],
    sizes: &[usize],
    mut between: impl FnMut(&mut Run<S>, &[Input]),
) {
    let mut rest = inputs;
    for &size in sizes.iter().cycle() {
        let (batch, later) = rest.split_at(size.min(rest.len()));
        between(run, rest);
        run.apply(batch);
        let now = batch.last().map_or(START, |input| input.now);
        let _ = run.advance(now, false, size);
        run.commit();
        rest = later;
        if rest.is_empty() {
            break;
        }
    }
    run.advance_fully(end(inputs), 3);
    run.commit();
}

/// All that the store holds, but for the changelog position: how often the shard's own record was written may differ.
fn contents(run: &Run<MemoryStore>) -> (Vec<(Box<str>, Vec<u8>)>, Vec<Deadline>, Option<Vec<u8>>) {
    let store = run.shard.store();
    let users = store.scan(None, usize::MAX).expect("memory does not fail");
    let deadlines = store.deadlines(None, EventTime::MAX, usize::MAX).expect("memory does not fail");
    (users, deadlines, store.shard().expect("memory does not fail").0)
}

fn sizes() -> impl Strategy<Value = Vec<usize>> {
    proptest::collection::vec(1..40_usize, 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_batching_gives_the_same_output(inputs in inputs(), sizes in sizes()) {
        let rules = unguarded(forgetting());
        let (mut single, mut batched) = (Run::new(&rules), Run::new(&rules));
        drive(&mut single, &inputs, &[1], |_, _| {});
        batched.shard.limit_cache(0);
        drive(&mut batched, &inputs, &sizes, |_, _| {});
        prop_assert_eq!(by_user(&single.outputs), by_user(&batched.outputs));
        prop_assert_eq!(states(&single.outputs), states(&batched.outputs));
        prop_assert_eq!(single.shard.cohorts(), batched.shard.cohorts());
        let rubbish = |run: &Run<_>| of_topic(&run.outputs, Topic::DeadLetters).count();
        prop_assert_eq!(rubbish(&single), rubbish(&batched));
    }

    #[test]
    fn what_was_rolled_back_never_happened(inputs in inputs(), sizes in sizes(), lost in sizes()) {
        let rules = unguarded(forgetting());
        let (mut smooth, mut bumpy) = (Run::new(&rules), Run::new(&rules));
        drive(&mut smooth, &inputs, &sizes, |_, _| {});
        let mut lost = lost.into_iter().cycle();
        drive(&mut bumpy, &inputs, &sizes, |run, rest| {
            let count = lost.next().unwrap_or(1).min(rest.len());
            run.apply(&rest[..count]);
            let now = rest[..count].last().map_or(START, |input| input.now);
            let _ = run.advance(now, count % 2 == 0, count);
            if count % 3 == 0 {
                drop(run.shard.seal().expect("seals"));
            }
            run.rollback();
        });
        prop_assert_eq!(by_user(&smooth.outputs), by_user(&bumpy.outputs));
        prop_assert_eq!(contents(&smooth), contents(&bumpy));
    }

    #[test]
    fn a_restored_shard_is_the_original(inputs in inputs(), sizes in sizes(), chunk in 1..50_usize, cut in 0..120_usize) {
        let rules = unguarded(forgetting());
        let (first, second) = inputs.split_at(cut.min(inputs.len() - 1));
        let mut original = Run::new(&rules);
        for batch in first.chunks(sizes[0]) {
            original.apply(batch);
            original.commit();
        }
        let mut store = MemoryStore::new();
        let mut position = 0;
        for records in original.changelog.chunks(chunk) {
            position += i64::try_from(records.len()).expect("few records");
            let records = records.iter().map(|record| (record.key.as_slice(), record.value.as_deref()));
            let batch = restore_batch(&store, records, position).expect("restores");
            store.write(batch).expect("writes");
        }
        prop_assert_eq!(original.shard.store(), &store);
        let mut restored = Run::over(store, &rules);
        restored.offset = restored.shard.position().unwrap_or(0);
        prop_assert_eq!(restored.offset, original.offset);
        original.outputs.clear();
        restored.changelog.clone_from(&original.changelog);
        drive(&mut original, second, &sizes, |_, _| {});
        drive(&mut restored, second, &sizes, |_, _| {});
        prop_assert_eq!(by_user(&original.outputs), by_user(&restored.outputs));
        prop_assert_eq!(contents(&original), contents(&restored));
    }
}

/// A crash may take back up to a minute of the watermark that wall time alone had moved. Whatever wall time made due in
/// that minute was a commit of its own; the rest is moved again, and nobody can tell.
#[test]
fn the_minute_that_a_crash_takes_from_a_quiet_watermark_is_missed_by_nobody() {
    // The wall is read every 7 seconds; deadlines lie at odd moments, some within a minute of each other.
    let users: Vec<(String, i64)> = (0..40).map(|n| (format!("u{n}"), START + n * 13_003)).collect();
    let inputs: Vec<Input> = users.iter().map(|(user, at)| activity(user, *at)).collect();
    let quiet = START + 14 * DAY_MS;
    let (rules, step) = (unguarded(Policy::default()), 7_000);
    let live = |crash_every: Option<usize>| {
        let mut run = Run::new(&rules);
        run.apply(&inputs);
        run.commit();
        let (mut went_back, mut highest) = (0, run.shard.watermark());
        for round in 0..120_usize {
            let now = quiet + i64::try_from(round).expect("few rounds") * step;
            run.advance_fully(now, 3);
            highest = highest.max(run.shard.watermark());
            // As the worker does it: a commit where there is something to commit.
            if run.shard.pending() != Pending::default() {
                run.commit();
            }
            if crash_every.is_some_and(|every| round % every == 0) {
                run.rollback();
                went_back = went_back.max((highest - run.shard.watermark()).as_millis());
            }
        }
        (by_user(&run.outputs), went_back)
    };
    let (smooth, _) = live(None);
    assert_eq!(smooth.values().map(Vec::len).sum::<usize>(), 80, "everybody entered and came to be at risk");
    for every in 1..12 {
        let (crashed, went_back) = live(Some(every));
        assert_eq!(crashed, smooth, "a crash every {every} rounds");
        assert!(went_back < 60_000 + step, "{went_back} ms");
        assert!(every > 8 || went_back > 0, "the crashes took nothing back: this test shows nothing");
    }
}

proptest! {
    #[test]
    fn a_bulk_keeps_the_last_of_each_user_in_the_orders_of_the_store(
        // What begins alike, what begins another, and zeros, which pad what is too short to compare.
        records in prop::collection::vec(
            (0..3_i32, "(user-)?[ab\\x00]{1,12}", prop::option::of(0..9_i64), any::<bool>()),
            0..60,
        ),
        forgotten in 0..4_i32,
    ) {
        let mut bulk = Bulk::default();
        let mut users = BTreeMap::new();
        for (partition, user_id, armed, is_gone) in &records {
            let armed = armed.map(|minutes| EventTime::from_millis(START + minutes * 60_000));
            let value = (!is_gone).then(|| {
                let mut value = Vec::new();
                codec::encode_user(&Person { user: User { armed, ..User::default() }, ..Person::default() }, &mut value);
                value
            });
            bulk.add(*partition, &key::changelog_user(user_id), value.as_deref()).expect("a changelog record");
            users.insert((*partition, user_id.as_str()), (value, armed.filter(|_| !is_gone)));
        }
        bulk.forget(forgotten);
        users.retain(|(partition, _), _| *partition != forgotten);
        let sorted = bulk.sorted();
        let expected = users.iter().map(|((partition, id), (value, _))| (*partition, *id, value.as_deref()));
        prop_assert!(sorted.users().eq(expected), "{:?}", sorted.users().collect::<Vec<_>>());
        let armed = users.iter().filter_map(|((partition, id), (_, armed))| Some((*partition, (*armed)?, *id)));
        let mut expected: Vec<_> = armed.collect();
        expected.sort_unstable();
        prop_assert_eq!(sorted.deadlines().collect::<Vec<_>>(), expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn a_bulk_load_is_the_original_and_what_is_left_over_goes_when_it_is_due(
        inputs in inputs(), sizes in sizes(), chunk in 1..200_usize, cut in 0..120_usize, again in any::<bool>(),
    ) {
        let rules = unguarded(forgetting());
        let (first, second) = inputs.split_at(cut.min(inputs.len() - 1));
        let mut original = Run::new(&rules);
        for batch in first.chunks(sizes[0]) {
            original.apply(batch);
            original.commit();
        }
        let dir = tempfile::tempdir().expect("a temporary folder");
        let database = Database::open(dir.path(), 64 << 20).expect("opens");
        let store = database.shard(0);
        let (mut bulk, position) = (Bulk::default(), std::cell::Cell::new(0));
        let mut store_of = store.clone();
        let mut load = |records: &[ChangelogRecord]| {
            for record in records {
                bulk.add(0, &record.key, record.value.as_deref()).expect("a changelog record");
            }
            let sorted = bulk.sorted();
            database.load(sorted.users(), sorted.deadlines()).expect("loads");
            position.set(position.get() + i64::try_from(records.len()).expect("few records"));
            store_of.write(bulk.rest(0, position.get())).expect("writes");
            bulk.clear();
        };
        if again {
            // The process died before the positions were on the disk.
            load(&original.changelog[..original.changelog.len().min(chunk)]);
            position.set(0);
        }
        original.changelog.chunks(chunk).for_each(&mut load);
        let (users, deadlines, record) = contents(&original);
        prop_assert_eq!(store.scan(None, usize::MAX).expect("reads"), users);
        prop_assert_eq!(store.shard().expect("reads"), (record, original.shard.changelog_position()));
        let index = store.deadlines(None, EventTime::MAX, usize::MAX).expect("reads");
        for deadline in deadlines {
            prop_assert!(index.contains(&deadline), "{deadline:?} is missing");
        }
        let mut restored = Run::over(store, &rules);
        restored.left_overs = true;
        restored.offset = restored.shard.position().unwrap_or(0);
        original.outputs.clear();
        restored.changelog.clone_from(&original.changelog);
        drive(&mut original, second, &sizes, |_, _| {});
        drive(&mut restored, second, &sizes, |_, _| {});
        prop_assert_eq!(by_user(&original.outputs), by_user(&restored.outputs));
        let left = restored.shard.store().deadlines(None, EventTime::MAX, usize::MAX).expect("reads");
        prop_assert_eq!(left, contents(&original).1);
    }

    #[test]
    fn rocksdb_and_memory_give_the_same_output(inputs in inputs(), sizes in sizes()) {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let database = Database::open(dir.path(), 64 << 20).expect("opens");
        let rules = unguarded(forgetting());
        let mut memory = Run::new(&rules);
        let mut rocks = Run::over(database.shard(0), &rules);
        rocks.shard.limit_cache(0);
        drive(&mut memory, &inputs, &sizes, |_, _| {});
        drive(&mut rocks, &inputs, &sizes, |run, rest| {
            if rest.len() % 2 == 0 {
                database.flush().expect("flushes");
            }
            run.check_store_is_read();
        });
        prop_assert_eq!(by_user(&memory.outputs), by_user(&rocks.outputs));
        prop_assert_eq!(memory.shard.cohorts(), rocks.shard.cohorts());
    }
}

impl<S: Store> Run<S> {
    /// With no room in the cache and everything committed, no user is held.
    fn check_store_is_read(&self) {
        assert_eq!(self.shard.users.held(), 0, "every user comes from the store");
    }
}

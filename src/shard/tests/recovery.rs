//! Batching, interruption, rolling back and restoring change nothing.

use super::*;
use crate::shard::{Bulk, restore_batch};
use crate::store::Deadline;
use crate::store::rocks::Database;

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
            let (users, deadlines) = bulk.sorted();
            database.load(&users, &deadlines).expect("loads");
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

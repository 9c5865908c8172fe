//! The changelog, turned back into a store.

use rustc_hash::FxHashMap;

use crate::shard::{ShardError, ledger};
use crate::store::{Batch, Deadline, Store, codec, key};

/// Turns records of the changelog into one write of the store, the index of deadlines included. Call it with batches of
/// a few thousand records, in order; `position` is the changelog offset after the last of them.
///
/// # Errors
/// The store failed, or a record is none that this build writes.
pub fn restore_batch<'a>(
    store: &impl Store,
    records: impl IntoIterator<Item = (&'a [u8], Option<&'a [u8]>)>,
    position: i64,
) -> Result<Batch, ShardError> {
    let mut batch = Batch { changelog_position: Some(position), ..Batch::default() };
    let mut last: FxHashMap<&str, Option<&[u8]>> = FxHashMap::default();
    for (key, value) in records {
        match key::read_changelog(key)? {
            key::ChangelogKey::User(user_id) => {
                last.insert(user_id, value);
            }
            key::ChangelogKey::Cell(cell) => {
                value.map(ledger::decode).transpose()?;
                batch.cells.push((cell.into(), value.map(<[u8]>::to_vec)));
            }
            key::ChangelogKey::Shard => batch.shard = value.map(<[u8]>::to_vec),
        }
    }
    let mut users: Vec<(&str, Option<&[u8]>)> = last.into_iter().collect();
    users.sort_unstable();
    let ids: Vec<&str> = users.iter().map(|(user_id, _)| *user_id).collect();
    let known = store.users(&ids)?;
    batch.users.reserve(users.len());
    for ((user_id, value), known) in users.into_iter().zip(known) {
        let indexed = known.as_deref().map(codec::armed).transpose()?.flatten();
        let armed = match value {
            // Read whole here, so that damage stops the restore and not some later event.
            Some(value) => codec::decode_user(value)?.user.armed,
            None => None,
        };
        if indexed != armed {
            let deadline = |at| Deadline { at, user_id: user_id.into() };
            batch.disarm.extend(indexed.map(deadline));
            batch.arm.extend(armed.map(deadline));
        }
        batch.users.push((user_id.into(), value.map(<[u8]>::to_vec)));
    }
    Ok(batch)
}

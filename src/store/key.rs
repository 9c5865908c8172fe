//! The persisted keys: frozen, one function each (STYLE, habit 5).
//!
//! | family   | key                                                          | value                          |
//! |----------|--------------------------------------------------------------|--------------------------------|
//! | `users`  | partition (u32 BE), user id                                  | the user (`codec`)             |
//! | `timers` | partition (u32 BE), deadline (u64 BE, order kept), user id   | empty                          |
//! | `meta`   | partition (u32 BE), `s` or `p`                               | shard record, changelog offset |
//! | `meta`   | partition (u32 BE), `a`, the cell's key                      | a cell of the ledger           |
//!
//! In the changelog topic, where the partition is the partition, a user's key is `u` + user id, a cell's `a` + its key, and
//! the shard record's is `s`. Big-endian integers make the order of the bytes the order of partition, time and user.

use crate::store::{Deadline, StoreError};
use crate::time::EventTime;

/// First byte of a user's key in the changelog.
pub const CHANGELOG_USER: u8 = b'u';
/// First byte of a cell's key, in the changelog and after the partition.
pub const CHANGELOG_CELL: u8 = b'a';
/// The whole key of the shard record in the changelog.
pub const CHANGELOG_SHARD: &[u8] = b"s";

const PARTITION_LEN: usize = size_of::<u32>();
const TIME_LEN: usize = size_of::<u64>();

/// What a changelog record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangelogKey<'a> {
    /// A user.
    User(&'a str),
    /// A cell of the ledger.
    Cell(&'a [u8]),
    /// The shard itself.
    Shard,
}

/// A user's key in the changelog.
#[must_use]
pub fn changelog_user(user_id: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + user_id.len());
    key.push(CHANGELOG_USER);
    key.extend_from_slice(user_id.as_bytes());
    key
}

/// A cell's key in the changelog.
#[must_use]
pub fn changelog_cell(cell: &[u8]) -> Vec<u8> {
    [&[CHANGELOG_CELL], cell].concat()
}

/// Reads a changelog key.
///
/// # Errors
/// [`StoreError::Damaged`] for anything that Ebbtide does not write.
pub fn read_changelog(key: &[u8]) -> Result<ChangelogKey<'_>, StoreError> {
    match key {
        CHANGELOG_SHARD => Ok(ChangelogKey::Shard),
        [CHANGELOG_USER, user_id @ ..] if !user_id.is_empty() => {
            text(user_id, "a changelog key").map(ChangelogKey::User)
        }
        [CHANGELOG_CELL, cell @ ..] if !cell.is_empty() => Ok(ChangelogKey::Cell(cell)),
        _ => Err(damaged("a changelog key")),
    }
}

/// The prefix of all keys of a partition, in each family.
///
/// # Panics
/// On a negative partition: Kafka has none.
#[must_use]
pub fn partition(partition: i32) -> [u8; PARTITION_LEN] {
    u32::try_from(partition).expect("Kafka's partitions are not negative").to_be_bytes()
}

/// A user's key.
#[must_use]
pub fn user(partition_id: i32, user_id: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(PARTITION_LEN + user_id.len());
    user_into(&mut key, partition_id, user_id);
    key
}

/// Writes a user's key over `key`.
pub fn user_into(key: &mut Vec<u8>, partition_id: i32, user_id: &str) {
    key.clear();
    key.extend_from_slice(&partition(partition_id));
    key.extend_from_slice(user_id.as_bytes());
}

/// The user of a user's key.
///
/// # Errors
/// [`StoreError::Damaged`].
pub fn read_user(key: &[u8]) -> Result<&str, StoreError> {
    text(key.get(PARTITION_LEN..).unwrap_or_default(), "a user key")
}

/// A deadline's key.
#[must_use]
pub fn timer(partition_id: i32, at: EventTime, user_id: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(PARTITION_LEN + TIME_LEN + user_id.len());
    timer_into(&mut key, partition_id, at, user_id);
    key
}

/// Writes a deadline's key over `key`.
pub fn timer_into(key: &mut Vec<u8>, partition_id: i32, at: EventTime, user_id: &str) {
    key.clear();
    key.extend_from_slice(&partition(partition_id));
    key.extend_from_slice(&ordered(at).to_be_bytes());
    key.extend_from_slice(user_id.as_bytes());
}

/// The deadline of a deadline's key.
///
/// # Errors
/// [`StoreError::Damaged`].
pub fn read_timer(key: &[u8]) -> Result<Deadline, StoreError> {
    let rest = key.get(PARTITION_LEN..).unwrap_or_default();
    let (time, user_id) = rest.split_first_chunk::<TIME_LEN>().ok_or_else(|| damaged("a timer key"))?;
    let user_id = text(user_id, "a timer key")?;
    Ok(Deadline { at: unordered(u64::from_be_bytes(*time)), user_id: user_id.into() })
}

/// The shard record's key.
#[must_use]
pub fn shard_record(partition_id: i32) -> Vec<u8> {
    [&partition(partition_id)[..], b"s"].concat()
}

/// The changelog position's key.
#[must_use]
pub fn changelog_position(partition_id: i32) -> Vec<u8> {
    [&partition(partition_id)[..], b"p"].concat()
}

/// A cell's key.
#[must_use]
pub fn cell(partition_id: i32, cell: &[u8]) -> Vec<u8> {
    [&partition(partition_id)[..], &[CHANGELOG_CELL], cell].concat()
}

/// The smallest key above every cell of the partition.
#[must_use]
pub fn cells_end(partition_id: i32) -> Vec<u8> {
    [&partition(partition_id)[..], &[CHANGELOG_CELL + 1]].concat()
}

/// The cell of a cell's key.
///
/// # Errors
/// [`StoreError::Damaged`].
pub fn read_cell(key: &[u8]) -> Result<&[u8], StoreError> {
    match key.get(PARTITION_LEN..) {
        Some([CHANGELOG_CELL, cell @ ..]) => Ok(cell),
        _ => Err(damaged("a cell's key")),
    }
}

/// The smallest key above every key of the partition.
#[must_use]
pub fn partition_end(partition_id: i32) -> [u8; PARTITION_LEN] {
    // Kafka's partitions end at i32::MAX, so adding one never wraps an u32.
    (u32::from_be_bytes(partition(partition_id)) + 1).to_be_bytes()
}

/// Flips the sign bit, so that the order of unsigned integers is the order of time before 1970 too.
const fn ordered(at: EventTime) -> u64 {
    at.as_millis().cast_unsigned() ^ (1 << 63)
}

const fn unordered(value: u64) -> EventTime {
    EventTime::from_millis((value ^ (1 << 63)).cast_signed())
}

fn text<'a>(bytes: &'a [u8], what: &str) -> Result<&'a str, StoreError> {
    std::str::from_utf8(bytes).map_err(|_| damaged(what))
}

fn damaged(what: &str) -> StoreError {
    StoreError::Damaged { what: format!("{what} that Ebbtide does not write") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn deadlines() -> impl Strategy<Value = (i32, i64, String)> {
        (0..=i32::MAX, any::<i64>(), "\\PC{1,12}")
    }

    proptest! {
        #[test]
        fn timer_keys_are_ordered_by_partition_time_and_user(a in deadlines(), b in deadlines()) {
            let key = |(partition, at, user): &(i32, i64, String)| timer(*partition, EventTime::from_millis(*at), user);
            prop_assert_eq!(key(&a).cmp(&key(&b)), a.cmp(&b));
        }

        #[test]
        fn timer_keys_of_one_partition_are_ordered_by_time(at in any::<[i64; 2]>(), user in any::<[char; 2]>()) {
            let key = |n: usize| timer(7, EventTime::from_millis(at[n]), &user[n].to_string());
            prop_assert_eq!(key(0).cmp(&key(1)), (at[0], user[0]).cmp(&(at[1], user[1])));
        }

        #[test]
        fn user_keys_are_ordered_by_partition_and_user(a in (0..5, "\\PC{1,9}"), b in (0..5, "\\PC{1,9}")) {
            prop_assert_eq!(user(a.0, &a.1).cmp(&user(b.0, &b.1)), a.cmp(&b));
        }

        #[test]
        fn keys_read_back(d in deadlines()) {
            let at = EventTime::from_millis(d.1);
            let read = read_timer(&timer(d.0, at, &d.2)).expect("a written key reads");
            prop_assert_eq!(read, Deadline { at, user_id: d.2.as_str().into() });
            let user_key = user(d.0, &d.2);
            prop_assert_eq!(read_user(&user_key).expect("a written key reads"), d.2.as_str());
            prop_assert!(user_key.as_slice() >= &partition(d.0)[..] && user_key.as_slice() < &partition_end(d.0)[..]);
            let changelog = changelog_user(&d.2);
            prop_assert_eq!(read_changelog(&changelog).expect("a written key reads"), ChangelogKey::User(&d.2));
        }

        #[test]
        fn cells_lie_apart_from_the_record_and_the_position(
            partition in 0..=i32::MAX, cell_key in proptest::collection::vec(any::<u8>(), 1..9),
        ) {
            let key = cell(partition, &cell_key);
            prop_assert_eq!(read_cell(&key).expect("a written key reads"), &cell_key[..]);
            let changelog = changelog_cell(&cell_key);
            prop_assert_eq!(read_changelog(&changelog).expect("reads"), ChangelogKey::Cell(&cell_key));
            prop_assert!(key < cells_end(partition) && cells_end(partition) < changelog_position(partition));
            prop_assert!(cells_end(partition) < shard_record(partition));
        }

        #[test]
        fn any_bytes_are_a_key_or_damaged(bytes in proptest::collection::vec(any::<u8>(), 0..20)) {
            let _ = (read_timer(&bytes).is_ok(), read_user(&bytes).is_ok());
            match read_changelog(&bytes) {
                Ok(ChangelogKey::User(user_id)) => prop_assert_eq!(changelog_user(user_id), bytes),
                Ok(ChangelogKey::Cell(cell)) => prop_assert_eq!(changelog_cell(cell), bytes),
                Ok(ChangelogKey::Shard) => prop_assert_eq!(CHANGELOG_SHARD, bytes),
                Err(_) => {}
            }
        }
    }
}

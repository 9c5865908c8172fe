//! The state folder: opened where it can be used, and built anew where it cannot.
//!
//! The folder is a cache of the changelog (SPEC section 7). So damage to it is no reason to wait for a person: the
//! database is removed, and every shard restored. Damage that shows only while the workers run ends the process, since
//! they and the HTTP edge share the one open database; it leaves a mark, and the next start does the rest.

use std::path::Path;
use std::sync::Arc;

use tracing::{error, warn};

use crate::kafka::RunError;
use crate::shard::ShardError;
use crate::store::StoreError;
use crate::store::rocks::Database;

/// The mark: a file of this name beside the database's own, with the reason in it.
const MARK: &str = "DAMAGED";

/// Opens the database in `dir`, after removing one that is marked as damaged or proves so.
///
/// # Errors
/// As [`Database::open`]; damage of one that has just been made is told, not mended again.
pub fn open(dir: &Path, memory: u64) -> Result<Arc<Database>, StoreError> {
    let mark = dir.join(MARK);
    let reason = match std::fs::read_to_string(&mark) {
        Ok(reason) => reason,
        Err(_) => match Database::open(dir, memory) {
            Err(error @ StoreError::Corrupted { .. }) => error.to_string(),
            opened => return opened,
        },
    };
    warn!(folder = %dir.display(), reason, "removing the damaged state database; every shard is restored from the changelog");
    Database::destroy(dir)?;
    let opened = Database::open(dir, memory)?;
    // Last, so that a start that is broken off here does it once more.
    if let Err(error) = std::fs::remove_file(&mark)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        warn!(%error, file = %mark.display(), "remove this file, or every start will restore everything");
    }
    Ok(opened)
}

/// Marks the database in `dir` if it is damage to it that ends the run.
pub fn mark_if_damaged(dir: &Path, error: &RunError) {
    let RunError::Shard { source: ShardError::Store(damage @ StoreError::Corrupted { .. }), .. } = error else {
        return;
    };
    let mark = dir.join(MARK);
    if let Err(error) = std::fs::write(&mark, damage.to_string()) {
        error!(%error, file = %mark.display(), "the mark cannot be written; remove the state folder by hand");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Batch, Store as _};

    const MEMORY: u64 = 32 << 20;

    fn filled(dir: &Path) {
        let database = Database::open(dir, MEMORY).expect("opens");
        let users =
            (0..2_000).map(|user| (format!("u{user}").into(), Some(format!("{user:0100}").into_bytes()))).collect();
        database.shard(0).write(Batch { users, changelog_position: Some(9), ..Batch::default() }).expect("writes");
        database.flush().expect("flushes");
    }

    fn position(database: &Arc<Database>) -> Option<i64> {
        database.shard(0).shard().expect("reads").1
    }

    #[test]
    fn a_sound_database_is_kept() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        filled(dir.path());
        assert_eq!(position(&open(dir.path(), MEMORY).expect("opens")), Some(9));
    }

    #[test]
    fn damage_that_shows_at_the_start_is_mended_and_strangers_files_are_left() {
        for victim in ["CURRENT", "MANIFEST", ".sst"] {
            for cut in [false, true] {
                let dir = tempfile::tempdir().expect("a temporary folder");
                filled(dir.path());
                std::fs::write(dir.path().join("notes.txt"), "mine").expect("written");
                let file =
                    std::fs::read_dir(dir.path()).expect("a folder").map(|entry| entry.expect("an entry").path());
                let file = file.into_iter().find(|file| file.to_string_lossy().contains(victim)).expect("the file");
                let done = if cut { std::fs::write(&file, "no") } else { std::fs::remove_file(&file) };
                done.expect("damaged");
                let database = open(dir.path(), MEMORY).unwrap_or_else(|error| panic!("{victim} {cut}: {error}"));
                assert_eq!(position(&database), None, "{victim} {cut}");
                assert!(dir.path().join("notes.txt").exists(), "{victim} {cut}");
            }
        }
    }

    #[test]
    fn damage_that_shows_later_is_mended_by_the_next_start() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        filled(dir.path());
        let database = Database::open(dir.path(), MEMORY).expect("opens");
        let tables = std::fs::read_dir(dir.path()).expect("a folder").map(|entry| entry.expect("an entry").path());
        for table in tables.filter(|file| file.extension().is_some_and(|extension| extension == "sst")) {
            let mut bytes = std::fs::read(&table).expect("read");
            if let Some(first) = bytes.get_mut(8..40).filter(|_| table.metadata().expect("a file").len() > 10_000) {
                first.fill(0xa5);
            }
            std::fs::write(&table, bytes).expect("written");
        }
        let error = database.shard(0).scan(None, 5_000).expect_err("is damaged");
        assert!(matches!(error, StoreError::Corrupted { .. }), "{error}");
        drop(database);
        mark_if_damaged(dir.path(), &RunError::Shard { partition: 0, source: error.into() });
        assert_eq!(position(&open(dir.path(), MEMORY).expect("opens")), None);
        filled(dir.path());
        assert_eq!(position(&open(dir.path(), MEMORY).expect("opens")), Some(9), "the mark is gone");
    }

    #[test]
    fn other_failures_are_left_to_a_person() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        filled(dir.path());
        mark_if_damaged(dir.path(), &RunError::Refused { what: "no".to_owned() });
        let first = open(dir.path(), MEMORY).expect("opens");
        assert_eq!(position(&first), Some(9));
        assert!(matches!(open(dir.path(), MEMORY), Err(StoreError::Locked { .. })));
    }
}

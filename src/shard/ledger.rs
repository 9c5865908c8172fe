//! The ledger: everything that is counted over a shard's users, in cells of counts under short keys.
//!
//! What is counted says only "this cell, this place, one more or one less", at the moment it happens. All else is here,
//! once for every kind of aggregate: counts go back with a roll-back; the cells that changed go into the changelog and
//! the store with the commit that changed them, each under a key of its own, so a commit costs what it changed and not
//! what there is; a restart and a hand-over find them there; shards are added up. [`aggregates`](super::aggregates) says
//! which cells there are.
//!
//! A cell whose counts are all zero is no cell. How many cells there can be is bounded by those who name the keys.

use rustc_hash::FxHashMap;

use crate::store::bytes::{Reader, put_u64};
use crate::store::{Store, StoreError};

const VERSION: u8 = 1;
/// Counts a cell may have.
pub const PLACES_MAX: usize = 256;

/// Cells of counts.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    cells: FxHashMap<Box<[u8]>, Cell>,
    /// The cells that changed since the last commit, in order of their first change.
    changed: Vec<Box<[u8]>>,
    /// Cells by the first byte of their key.
    kinds: FxHashMap<u8, usize>,
}

#[derive(Clone, Debug, Default)]
struct Cell {
    /// Never ends with a zero.
    counts: Vec<u64>,
    /// The counts as of the last commit, if they have been changed since.
    before: Option<Vec<u64>>,
}

impl Ledger {
    /// The cells of a store whose keys begin with `prefix`.
    ///
    /// # Errors
    /// The store failed, or a cell is none that this build writes.
    pub fn load(store: &impl Store, prefix: &[u8]) -> Result<Self, StoreError> {
        let mut ledger = Self::default();
        for (key, value) in store.cells(prefix)? {
            let counts = decode(&value)?;
            *ledger.kinds.entry(kind(&key)).or_default() += 1;
            ledger.cells.insert(key, Cell { counts, before: None });
        }
        Ok(ledger)
    }

    /// Adds to the places of one cell.
    ///
    /// # Panics
    /// When a count would fall below zero: the ledger is broken, and the state must be read again. Beyond
    /// [`PLACES_MAX`] and for an empty key, which no aggregate has.
    pub fn add(&mut self, key: &[u8], changes: impl IntoIterator<Item = (usize, i64)>) {
        assert!(!key.is_empty(), "a cell has a key");
        if !self.cells.contains_key(key) {
            *self.kinds.entry(kind(key)).or_default() += 1;
            self.cells.insert(key.into(), Cell::default());
        }
        let cell = self.cells.get_mut(key).expect("it is there now");
        if cell.before.is_none() {
            cell.before = Some(cell.counts.clone());
            self.changed.push(key.into());
        }
        for (place, by) in changes {
            assert!(place < PLACES_MAX, "a cell has at most {PLACES_MAX} counts");
            if place >= cell.counts.len() {
                cell.counts.resize(place + 1, 0);
            }
            let count = cell.counts[place].checked_add_signed(by);
            cell.counts[place] = count.unwrap_or_else(|| panic!("a count of {key:?} falls below zero at {place}"));
        }
        trim(&mut cell.counts);
    }

    /// The counts of a cell; places that were never counted are left out at the end.
    #[must_use]
    pub fn counts(&self, key: &[u8]) -> &[u64] {
        self.cells.get(key).map_or(&[], |cell| &cell.counts)
    }

    /// Cells whose key begins with `kind`, those included that have come to zero since the last commit.
    #[must_use]
    pub fn len_of(&self, kind: u8) -> usize {
        self.kinds.get(&kind).copied().unwrap_or(0)
    }

    /// The cells whose keys begin with `prefix`, in no order.
    pub fn cells<'l>(&'l self, prefix: &'l [u8]) -> impl Iterator<Item = (&'l [u8], &'l [u64])> {
        let cells = self.cells.iter().filter(move |(key, cell)| key.starts_with(prefix) && !cell.counts.is_empty());
        cells.map(|(key, cell)| (&**key, cell.counts.as_slice()))
    }

    /// Adds another shard's cells.
    pub fn merge(&mut self, other: &Self) {
        for (key, counts) in other.cells(&[]) {
            let places = counts.iter().enumerate();
            self.add(key, places.map(|(place, count)| (place, i64::try_from(*count).unwrap_or(i64::MAX))));
        }
    }

    /// Empties the cells that are not `kept`.
    pub fn retain(&mut self, kept: impl Fn(&[u8]) -> bool) {
        for (key, cell) in self.cells.iter_mut().filter(|(key, cell)| !cell.counts.is_empty() && !kept(key)) {
            let counts = std::mem::take(&mut cell.counts);
            if cell.before.is_none() {
                cell.before = Some(counts);
                self.changed.push(key.clone());
            }
        }
    }

    /// The cells that changed since the last commit, encoded; `None` for one that is no more.
    pub(crate) fn sealed(&self) -> impl Iterator<Item = (&[u8], Option<Vec<u8>>)> {
        self.changed.iter().filter_map(|key| {
            let cell = self.cells.get(key)?;
            let before = cell.before.as_ref()?;
            (*before != cell.counts).then(|| (&**key, (!cell.counts.is_empty()).then(|| encode(&cell.counts))))
        })
    }

    /// How many cells have been touched since the last commit.
    pub(crate) fn changed_len(&self) -> usize {
        self.changed.len()
    }

    /// What has changed is committed.
    pub(crate) fn committed(&mut self) {
        self.settle(|cell| cell.before = None);
    }

    /// Forgets what has changed.
    pub(crate) fn rollback(&mut self) {
        self.settle(|cell| {
            if let Some(before) = cell.before.take() {
                cell.counts = before;
            }
        });
    }

    fn settle(&mut self, each: impl Fn(&mut Cell)) {
        for key in self.changed.drain(..) {
            let Some(cell) = self.cells.get_mut(&key) else { continue };
            each(cell);
            if cell.counts.is_empty() {
                self.cells.remove(&key);
                if let Some(count) = self.kinds.get_mut(&kind(&key)) {
                    *count = count.saturating_sub(1);
                }
            }
        }
    }
}

fn kind(key: &[u8]) -> u8 {
    key.first().copied().unwrap_or_default()
}

fn trim(counts: &mut Vec<u64>) {
    while counts.last() == Some(&0) {
        counts.pop();
    }
}

/// Version, number of counts, the counts as LEB128 varints.
fn encode(counts: &[u64]) -> Vec<u8> {
    let mut out = Vec::with_capacity(2 + 2 * counts.len());
    out.push(VERSION);
    put_u64(&mut out, counts.len() as u64);
    for count in counts {
        put_u64(&mut out, *count);
    }
    out
}

/// # Errors
/// [`StoreError::UnknownVersion`] or [`StoreError::Damaged`].
pub(crate) fn decode(bytes: &[u8]) -> Result<Vec<u64>, StoreError> {
    let mut from = Reader::new(bytes, "a cell of the ledger");
    from.version(VERSION)?;
    let count = from.count()?;
    if count > PLACES_MAX {
        return Err(from.damaged("it has too many counts"));
    }
    let counts = (0..count).map(|_| from.u64()).collect::<Result<Vec<_>, _>>()?;
    from.end()?;
    if counts.last().is_none_or(|last| *last == 0) {
        return Err(from.damaged("it does not end with a count"));
    }
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::store::Batch;
    use crate::store::memory::MemoryStore;

    type Naive = BTreeMap<(u8, usize), i64>;

    fn naive(ledger: &Ledger) -> Naive {
        let all = ledger.cells(&[]).flat_map(|(key, counts)| {
            let key = key[0];
            counts.iter().enumerate().map(move |(place, count)| ((key, place), i64::try_from(*count).expect("small")))
        });
        all.filter(|(_, count)| *count > 0).collect()
    }

    /// What is done between two commits, and whether it is committed in the end.
    fn rounds() -> impl Strategy<Value = Vec<(Vec<(u8, usize, i64)>, bool)>> {
        vec((vec((0_u8..4, 0_usize..5, -2_i64..4), 0..12), any::<bool>()), 0..12)
    }

    proptest! {
        /// Counts are those of everything that was committed, in memory and in the store, and add up over shards.
        #[test]
        fn what_is_rolled_back_never_happened(rounds in rounds()) {
            let (mut ledger, mut store, mut kept) = (Ledger::default(), MemoryStore::new(), Naive::new());
            for (changes, commit) in rounds {
                let mut now = kept.clone();
                for (key, place, by) in changes {
                    let count = now.entry((key, place)).or_default();
                    let by = by.max(-*count);
                    *count += by;
                    ledger.add(&[key], [(place, by)]);
                }
                now.retain(|_, count| *count > 0);
                prop_assert_eq!(&naive(&ledger), &now);
                if commit {
                    let cells = ledger.sealed().map(|(key, value)| (key.into(), value)).collect();
                    store.write(Batch { cells, ..Batch::default() }).expect("writes");
                    ledger.committed();
                    kept = now;
                } else {
                    ledger.rollback();
                }
                prop_assert_eq!(&naive(&ledger), &kept);
                let loaded = Ledger::load(&store, &[]).expect("reads");
                prop_assert_eq!(&naive(&loaded), &kept);
                for kind in 0..4 {
                    prop_assert_eq!(ledger.len_of(kind), loaded.len_of(kind));
                }
                let mut twice = loaded.clone();
                twice.merge(&loaded);
                prop_assert_eq!(naive(&twice), kept.iter().map(|(place, count)| (*place, 2 * count)).collect::<Naive>());
            }
        }

        #[test]
        fn torn_cells_are_damaged(mut counts in vec(any::<u64>(), 1..9), last in 1..u64::MAX) {
            counts.push(last);
            let bytes = encode(&counts);
            prop_assert_eq!(decode(&bytes).expect("what is written reads"), counts);
            for len in 0..bytes.len() {
                prop_assert!(matches!(decode(&bytes[..len]), Err(StoreError::Damaged { .. })), "{} bytes pass", len);
            }
        }
    }

    #[test]
    #[should_panic(expected = "falls below zero")]
    fn a_count_below_zero_is_a_broken_ledger() {
        Ledger::default().add(b"a", [(0, -1)]);
    }

    #[test]
    fn what_is_not_kept_comes_back_with_a_rollback() {
        let mut ledger = Ledger::default();
        ledger.add(b"a1", [(0, 1)]);
        ledger.add(b"b1", [(2, 7)]);
        ledger.committed();
        ledger.retain(|key| key.starts_with(b"a"));
        assert_eq!(ledger.counts(b"b1"), &[0_u64; 0]);
        ledger.rollback();
        assert_eq!(ledger.counts(b"b1"), [0, 0, 7]);
    }
}

//! De-duplication by event id (SPEC section 2): the hash that is remembered in place of an id.

/// Bits of an id's hash that are kept. 16 remembered ids meet a new one by chance once in 7 * 10^10 events.
const HASH_BITS: u32 = 40;

/// The hash of an event id: [`HASH_BITS`] bits, never 0. It is persisted with the user, so it must never change.
///
/// FNV-1a over the bytes, then the finaliser of `SplitMix64`, because FNV alone leaves the high bits of short ids alike.
#[must_use]
pub fn id_hash(id: &str) -> u64 {
    const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;
    let fnv = id.bytes().fold(FNV_OFFSET, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(FNV_PRIME));
    let mixed = (fnv ^ (fnv >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((mixed ^ (mixed >> 31)) >> (u64::BITS - HASH_BITS)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_frozen_because_they_are_persisted() {
        assert_eq!([id_hash(""), id_hash("s-0"), id_hash("s-1")], [1_052_973_066_665, 867_405_318_254, 82_104_397_434]);
    }

    #[test]
    fn hashes_fit_their_bits_and_differ_for_ids_that_differ_little() {
        let mut hashes: Vec<u64> = (0..50_000).map(|n| id_hash(&format!("s-{n}"))).collect();
        assert!(hashes.iter().all(|&hash| hash > 0 && hash < 1 << HASH_BITS));
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), 50_000);
    }
}

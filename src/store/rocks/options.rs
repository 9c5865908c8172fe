//! What RocksDB is told about each family.

use rocksdb::{BlockBasedOptions, Cache, DBCompressionType, LruCacheOptions, Options};

use super::{USERS, bytes};

/// Users are read one at a time and at random, and each read takes a whole block.
const BLOCK_BYTES: usize = 4 << 10;
/// How far a compaction reads ahead in each of its files.
const COMPACTION_READAHEAD_BYTES: usize = 512 << 10;
/// Few parts, so that each is many times as large as the largest block: a file's filter, of up to a megabyte, has to stay
/// in it. A handful of threads does not contend for more.
const CACHE_SHARD_BITS: i32 = 2;
/// Files that a flush or a bulk load made and no compaction took yet. Each is one more filter to ask, and each further one
/// means less rewriting: a compaction rewrites as much of the lowest level as these files have users in.
const FLUSHED_FILES: i32 = 32;
/// Beyond so many, writes wait for compaction, and so does a flush at shut-down.
const FLUSHED_FILES_SLOW: i32 = 80;
const FLUSHED_FILES_STOP: i32 = 160;
/// Up to this size there is no level between flushed files and the lowest one: it would be rewritten for nothing.
const UPPER_LEVEL_BYTES: u64 = 1 << 30;
/// A part of each memtable that tells which users it does not hold; most reads find theirs nowhere but on disk.
const MEMTABLE_FILTER: f64 = 0.05;
/// Deadlines are a queue: a run of so many deletions in a window of entries asks for compaction, since whoever reads from
/// the front of the queue has to pass them. A compaction rewrites the deadlines of all users, so it takes the left-overs of
/// a storm to be worth it, and no share of deletions in a file of any size.
const DELETION_WINDOW: usize = 1 << 18;
const DELETION_TRIGGER: usize = 1 << 17;
const DELETION_RATIO: f64 = 0.0;

/// The cache of blocks that all families share.
pub(super) fn block_cache(capacity: usize) -> Cache {
    let mut options = LruCacheOptions::default();
    options.set_capacity(capacity);
    options.set_num_shard_bits(CACHE_SHARD_BITS);
    Cache::new_lru_cache_opts(&options)
}

/// Options are set on every family: those of the database reach only the default one.
///
/// Users are not compressed: their encoding is compact, and half of it is random (the hashes of event ids). Packing and
/// unpacking a block with each user that is read and with each compaction cost a fifth of an event, for a hundredth of the
/// disk.
pub(super) fn family_options(name: &str, memtable: u64, cache: &Cache) -> Options {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(cache);
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
    blocks.set_format_version(5);
    blocks.set_block_size(BLOCK_BYTES);
    let mut options = Options::default();
    options.set_write_buffer_size(bytes(memtable));
    options.set_compaction_readahead_size(COMPACTION_READAHEAD_BYTES);
    options.set_max_write_buffer_number(4);
    options.set_level_compaction_dynamic_level_bytes(true);
    options.set_max_bytes_for_level_base(UPPER_LEVEL_BYTES);
    options.set_level_zero_file_num_compaction_trigger(FLUSHED_FILES);
    options.set_level_zero_slowdown_writes_trigger(FLUSHED_FILES_SLOW);
    options.set_level_zero_stop_writes_trigger(FLUSHED_FILES_STOP);
    if name == USERS {
        options.set_compression_type(DBCompressionType::None);
        blocks.set_bloom_filter(10.0, false);
        options.set_memtable_whole_key_filtering(true);
        options.set_memtable_prefix_bloom_ratio(MEMTABLE_FILTER);
    } else {
        options.set_compression_type(DBCompressionType::Lz4);
        options.add_compact_on_deletion_collector_factory(DELETION_WINDOW, DELETION_TRIGGER, DELETION_RATIO);
    }
    options.set_block_based_table_factory(&blocks);
    options
}

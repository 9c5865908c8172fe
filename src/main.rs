//! The `ebbtide` command: parses its arguments, calls the library, turns an error into an exit code.

use std::process::ExitCode;

/// glibc's allocator fragments under RocksDB; RocksDB itself is linked against the same one.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Memory that was freed goes back to the system after a second, where ten are the default: a storm's commits would
/// otherwise stay with the process while the next one takes as much again.
#[expect(unsafe_code, reason = "the allocator looks for a symbol of this name; nothing else defines it")]
#[unsafe(export_name = "malloc_conf")]
static MALLOC_CONF: &[u8] = b"dirty_decay_ms:1000,muzzy_decay_ms:0\0";

fn main() -> ExitCode {
    ebbtide::cli::main()
}

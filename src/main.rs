//! The `ebbtide` command: parses its arguments, calls the library, turns an error into an exit code.

use std::process::ExitCode;

/// glibc's allocator fragments under RocksDB; RocksDB itself is linked against the same one.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    ebbtide::cli::main()
}

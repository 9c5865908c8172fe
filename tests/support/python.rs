//! The Python that has pyarrow, as `tools/setup test` makes it.

use std::path::PathBuf;

/// Its interpreter; `None` where nobody has made it.
pub(crate) fn with_arrow() -> Option<PathBuf> {
    let cache = std::env::var_os("EBBTIDE_CACHE").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/ebbtide")))?;
    let folder = cache.join("python-1");
    folder.join("ready").exists().then(|| folder.join("bin/python"))
}

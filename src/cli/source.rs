//! A file of events as input: under a progress bar, whichever way it is compressed.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};

const READ_BUFFER: usize = 1 << 20;
const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Whether a path stands for standard input or output.
#[must_use]
pub fn is_standard(path: &Path) -> bool {
    path == Path::new("-")
}

/// Opens events under a progress bar that says `verb`, whichever way they are compressed: the first bytes tell, not the
/// name.
///
/// # Errors
/// The file cannot be read.
pub fn open(path: &Path, quiet: bool, verb: &'static str) -> anyhow::Result<Box<dyn BufRead>> {
    let failed = || format!("cannot read {}", path.display());
    let raw: Box<dyn Read> = if is_standard(path) {
        Box::new(io::stdin())
    } else {
        let file = File::open(path).with_context(failed)?;
        let length = file.metadata().with_context(failed)?.len();
        let bar = if quiet { ProgressBar::hidden() } else { ProgressBar::new(length) };
        let style = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
        bar.set_style(ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_message(verb);
        Box::new(Progress { bar, file })
    };
    let mut raw = BufReader::with_capacity(READ_BUFFER, raw);
    let start = raw.fill_buf().with_context(failed)?;
    if start.starts_with(&GZIP) {
        let plain = flate2::bufread::MultiGzDecoder::new(raw);
        return Ok(Box::new(BufReader::with_capacity(READ_BUFFER, plain)));
    }
    if start.starts_with(&ZSTD) {
        let plain = zstd::Decoder::with_buffer(raw).with_context(failed)?;
        return Ok(Box::new(BufReader::with_capacity(READ_BUFFER, plain)));
    }
    Ok(Box::new(raw))
}

/// A file whose bar goes when it is read.
struct Progress {
    bar: ProgressBar,
    file: File,
}

impl Read for Progress {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(into)?;
        self.bar.inc(count as u64);
        Ok(count)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

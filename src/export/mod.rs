//! Export: the users of a segment or state as CSV, JSON Lines or Parquet (SPEC-WINBACK section 14).
//!
//! The users are read from one snapshot of the committed state, so the file shows one moment, whatever the workers do
//! meanwhile; they are never all in memory: a batch of [`BATCH_ROWS`] is, and for Parquet one row group. An export holds
//! no lock and shares no thread with a worker. [`write`] does it for any writer; `http/export.rs` streams it.

mod csv;
mod jsonl;
mod parquet;
mod row;

#[cfg(test)]
mod tests;

use std::io::{self, Write};
use std::sync::Arc;

use crate::lifecycle::{Policy, State};
use crate::shard::ShardRecord;
use crate::store::rocks::Database;
use crate::store::{StoreError, codec};

pub use row::Row;

/// Users that are held at once.
pub const BATCH_ROWS: usize = 2_048;

/// How a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Comma-separated values (RFC 4180), safe to open in a spreadsheet.
    Csv,
    /// One JSON object a line.
    JsonLines,
    /// Apache Parquet, compressed with zstd.
    Parquet,
}

/// Which users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// Those in a segment, by its name.
    Segment(String),
    /// Those in a state.
    State(State),
}

/// What an export needs to know beside the state.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Which users.
    pub selection: Selection,
    /// How to write them.
    pub format: Format,
    /// The shards that are here, restored and consuming.
    pub partitions: Vec<i32>,
    /// The tracked properties: a column each.
    pub track: Vec<String>,
    /// For `p_alive`.
    pub policy: Policy,
}

/// Why an export stopped; what was written until then is no whole file.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The state cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The output takes no more; whoever read it may have gone.
    #[error("cannot write the export: {0}")]
    Write(#[from] io::Error),
    /// Parquet refuses a batch.
    #[error("cannot write the export as Parquet: {0}")]
    Parquet(#[from] ::parquet::errors::ParquetError),
    /// A batch does not fit together.
    #[error("cannot write the export as Parquet: {0}")]
    Arrow(String),
}

impl Format {
    /// Every format, in the order of declaration.
    pub const ALL: [Self; 3] = [Self::Csv, Self::JsonLines, Self::Parquet];

    /// What a file's name ends in.
    #[must_use]
    pub const fn extension(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            Self::JsonLines => "jsonl",
            Self::Parquet => "parquet",
        }
    }

    /// The format of such a file.
    #[must_use]
    pub fn from_extension(extension: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.extension() == extension)
    }

    /// The media type.
    #[must_use]
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Csv => "text/csv; charset=utf-8",
            Self::JsonLines => "application/x-ndjson",
            Self::Parquet => "application/vnd.apache.parquet",
        }
    }
}

/// Writes rows in one format.
trait Sheet {
    /// The next rows.
    fn rows(&mut self, rows: &[Row]) -> Result<(), ExportError>;

    /// The end: what the format still owes.
    fn finish(self: Box<Self>) -> Result<(), ExportError>;
}

/// Writes the selected users as they are committed now, by partition and user id; says how many they are.
///
/// # Errors
/// [`ExportError`].
pub fn write(database: &Arc<Database>, plan: &Plan, out: impl Write + Send + 'static) -> Result<u64, ExportError> {
    let mut sheet: Box<dyn Sheet> = match plan.format {
        Format::Csv => Box::new(csv::Sheet::new(out, &plan.track)?),
        Format::JsonLines => Box::new(jsonl::Sheet::new(out, &plan.track)),
        Format::Parquet => Box::new(parquet::Sheet::new(out, &plan.track)?),
    };
    let snapshot = database.snapshot();
    let (mut rows, mut count) = (Vec::with_capacity(BATCH_ROWS), 0);
    for partition in &plan.partitions {
        let Some(record) = snapshot.shard_record(*partition)? else { continue };
        let record = ShardRecord::decode(&record)?;
        for user in snapshot.users(*partition) {
            let (user_id, bytes) = user?;
            let person = codec::decode_user(&bytes, &record.names)?;
            if let Some(row) = Row::of(user_id, &person, &record, plan) {
                rows.push(row);
            }
            if rows.len() == BATCH_ROWS {
                sheet.rows(&rows)?;
                count += rows.len() as u64;
                rows.clear();
            }
        }
    }
    sheet.rows(&rows)?;
    count += rows.len() as u64;
    sheet.finish()?;
    Ok(count)
}

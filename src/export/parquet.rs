//! Apache Parquet: times as UTC timestamps in milliseconds, lists as lists, properties as text (a JSON string without its
//! quotes, anything else as compact JSON).

use std::io::Write;
use std::sync::Arc;

use arrow_array::builder::{ListBuilder, StringBuilder};
use arrow_array::{ArrayRef, Float64Array, RecordBatch, StringArray, TimestampMillisecondArray, UInt64Array};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use serde_json::Value;

use super::{ExportError, Row};
use crate::time::EventTime;

/// Users in a row group, which is held in memory until it is complete: about 10 MiB of ordinary users.
const GROUP_ROWS: usize = 32_768;
/// However long the users' values, a row group is written before it is larger than this.
const GROUP_BYTES: usize = 32 << 20;

pub(super) struct Sheet<W: Write + Send> {
    out: ArrowWriter<W>,
    track: Vec<String>,
}

impl<W: Write + Send> Sheet<W> {
    pub(super) fn new(out: W, track: &[String]) -> Result<Self, ExportError> {
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_created_by(concat!("ebbtide ", env!("CARGO_PKG_VERSION")).to_owned())
            .set_max_row_group_row_count(Some(GROUP_ROWS))
            .build();
        // The columns are those of a batch without rows.
        let schema = batch(&[], track)?.schema();
        Ok(Self { out: ArrowWriter::try_new(out, schema, Some(properties))?, track: track.to_vec() })
    }
}

impl<W: Write + Send> super::Sheet for Sheet<W> {
    fn rows(&mut self, rows: &[Row]) -> Result<(), ExportError> {
        self.out.write(&batch(rows, &self.track)?)?;
        if self.out.in_progress_size() > GROUP_BYTES {
            self.out.flush()?;
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<(), ExportError> {
        self.out.close()?;
        Ok(())
    }
}

fn batch(rows: &[Row], track: &[String]) -> Result<RecordBatch, ExportError> {
    let text =
        |value: fn(&Row) -> &str| -> ArrayRef { Arc::new(StringArray::from_iter_values(rows.iter().map(value))) };
    let number =
        |value: fn(&Row) -> u64| -> ArrayRef { Arc::new(UInt64Array::from_iter_values(rows.iter().map(value))) };
    let time = |value: fn(&Row) -> Option<EventTime>| -> ArrayRef {
        let times = rows.iter().map(|row| value(row).map(EventTime::as_millis));
        Arc::new(times.collect::<TimestampMillisecondArray>().with_timezone("UTC"))
    };
    let mut columns: Vec<(String, ArrayRef, bool)> = vec![
        ("user_id".to_owned(), text(|row| &row.user_id), false),
        ("state".to_owned(), text(|row| row.state.as_str()), false),
        ("since".to_owned(), time(|row| Some(row.since)), false),
        ("reason".to_owned(), text(|row| row.reason), false),
        ("first_active_at".to_owned(), time(|row| Some(row.first_active_at)), false),
        ("last_active_at".to_owned(), time(|row| Some(row.last_active_at)), false),
        ("activated_at".to_owned(), time(|row| row.activated_at), true),
        ("idle_days".to_owned(), Arc::new(Float64Array::from_iter_values(rows.iter().map(|row| row.idle_days))), false),
        ("total_events".to_owned(), number(|row| row.total_events), false),
        ("core_actions".to_owned(), number(|row| row.core_actions), false),
        ("p_alive".to_owned(), Arc::new(rows.iter().map(|row| row.p_alive).collect::<Float64Array>()), true),
        ("last_events".to_owned(), lists(rows, |row| &row.last_events), false),
        ("segments".to_owned(), lists(rows, |row| &row.segments), false),
    ];
    for (index, name) in track.iter().enumerate() {
        let values = rows.iter().map(|row| match row.properties.get(index)?.as_ref()? {
            Value::Null => None,
            Value::String(text) => Some(text.clone()),
            other => Some(other.to_string()),
        });
        columns.push((format!("properties.{name}"), Arc::new(values.collect::<StringArray>()), true));
    }
    RecordBatch::try_from_iter_with_nullable(columns).map_err(|error| ExportError::Arrow(error.to_string()))
}

fn lists(rows: &[Row], value: fn(&Row) -> &[String]) -> ArrayRef {
    let mut builder = ListBuilder::new(StringBuilder::new());
    for row in rows {
        for item in value(row) {
            builder.values().append_value(item);
        }
        builder.append(true);
    }
    Arc::new(builder.finish())
}

//! CSV (RFC 4180) that a spreadsheet opens without running anything: text that it would take for a formula, because it
//! begins with `=`, `+`, `-`, `@`, a tab or a carriage return, gets an apostrophe before it. Numbers stay as they are.

use std::borrow::Cow;
use std::io::Write;

use serde_json::Value;

use super::{ExportError, Row};

const COLUMNS: [&str; 13] = [
    "user_id",
    "state",
    "since",
    "reason",
    "first_active_at",
    "last_active_at",
    "activated_at",
    "idle_days",
    "total_events",
    "core_actions",
    "p_alive",
    "last_events",
    "segments",
];

pub(super) struct Sheet<W: Write> {
    out: csv::Writer<W>,
}

impl<W: Write> Sheet<W> {
    pub(super) fn new(out: W, track: &[String]) -> Result<Self, ExportError> {
        let mut out = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(out);
        let properties = track.iter().map(|name| format!("properties.{name}"));
        let head: Vec<String> = COLUMNS.iter().map(ToString::to_string).chain(properties).collect();
        out.write_record(head.iter().map(|name| safe(name).into_owned())).map_err(failed)?;
        Ok(Self { out })
    }
}

impl<W: Write> super::Sheet for Sheet<W> {
    fn rows(&mut self, rows: &[Row]) -> Result<(), ExportError> {
        for row in rows {
            let time = |time: Option<crate::time::EventTime>| time.map_or_else(String::new, |time| time.to_string());
            let mut cells: Vec<Cow<'_, str>> = vec![
                safe(&row.user_id),
                row.state.as_str().into(),
                row.since.to_string().into(),
                row.reason.into(),
                row.first_active_at.to_string().into(),
                row.last_active_at.to_string().into(),
                time(row.activated_at).into(),
                row.idle_days.to_string().into(),
                row.total_events.to_string().into(),
                row.core_actions.to_string().into(),
                row.p_alive.map_or_else(String::new, |p| p.to_string()).into(),
                Value::from(row.last_events.clone()).to_string().into(),
                Value::from(row.segments.clone()).to_string().into(),
            ];
            for value in &row.properties {
                cells.push(match value {
                    None | Some(Value::Null) => "".into(),
                    Some(Value::String(text)) => safe(text),
                    // Numbers, `true`, `false`, lists and objects begin with none of these signs but a number's own minus.
                    Some(other) => other.to_string().into(),
                });
            }
            self.out.write_record(cells.iter().map(|cell| cell.as_bytes())).map_err(failed)?;
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<(), ExportError> {
        Ok(self.out.flush()?)
    }
}

/// Text that no spreadsheet takes for a formula.
pub(super) fn safe(text: &str) -> Cow<'_, str> {
    if text.starts_with(['=', '+', '-', '@', '\t', '\r', '＝', '＋', '－', '＠']) {
        format!("'{text}").into()
    } else {
        text.into()
    }
}

fn failed(error: csv::Error) -> ExportError {
    match error.into_kind() {
        csv::ErrorKind::Io(error) => ExportError::Write(error),
        other => ExportError::Write(std::io::Error::other(format!("{other:?}"))),
    }
}

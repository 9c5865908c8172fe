//! JSON Lines: one object a user.

use std::io::Write;

use serde::Serialize;
use serde_json::{Map, Value};

use super::{ExportError, Row};

pub(super) struct Sheet<W> {
    out: W,
    track: Vec<String>,
}

#[derive(Serialize)]
struct Line<'a> {
    user_id: &'a str,
    state: &'static str,
    since: String,
    reason: &'static str,
    first_active_at: String,
    last_active_at: String,
    activated_at: Option<String>,
    idle_days: f64,
    total_events: u64,
    core_actions: u64,
    p_alive: Option<f64>,
    last_events: &'a [String],
    segments: &'a [String],
    properties: Map<String, Value>,
}

impl<W: Write> Sheet<W> {
    pub(super) fn new(out: W, track: &[String]) -> Self {
        Self { out, track: track.to_vec() }
    }
}

impl<W: Write> super::Sheet for Sheet<W> {
    fn rows(&mut self, rows: &[Row]) -> Result<(), ExportError> {
        let mut bytes = Vec::with_capacity(rows.len() * 512);
        for row in rows {
            let known = self.track.iter().zip(&row.properties);
            let line = Line {
                user_id: &row.user_id,
                state: row.state.as_str(),
                since: row.since.to_string(),
                reason: row.reason,
                first_active_at: row.first_active_at.to_string(),
                last_active_at: row.last_active_at.to_string(),
                activated_at: row.activated_at.map(|at| at.to_string()),
                idle_days: row.idle_days,
                total_events: row.total_events,
                core_actions: row.core_actions,
                p_alive: row.p_alive,
                last_events: &row.last_events,
                segments: &row.segments,
                properties: known.filter_map(|(name, value)| Some((name.clone(), value.clone()?))).collect(),
            };
            serde_json::to_writer(&mut bytes, &line).map_err(std::io::Error::from)?;
            bytes.push(b'\n');
        }
        Ok(self.out.write_all(&bytes)?)
    }

    fn finish(mut self: Box<Self>) -> Result<(), ExportError> {
        Ok(self.out.flush()?)
    }
}

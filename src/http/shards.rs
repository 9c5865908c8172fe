//! `/v1/shards`: what this instance holds, and how far each shard is.

use std::sync::Arc;

use axum::Json;
use axum::extract::State as Extract;
use serde::Serialize;
use utoipa::ToSchema;

use crate::http::Api;
use crate::http::problem::Problem;
use crate::http::view::{InstanceView, ShardView};
use crate::metrics::ShardReading;

/// The shards of this instance.
#[derive(Debug, Serialize, ToSchema)]
#[expect(clippy::struct_field_names, reason = "the answer holds the list under its own name")]
pub struct Shards {
    /// The owner of all of them.
    instance_id: String,
    /// Where other instances and people reach it.
    advertised: Option<String>,
    /// Partitions of the input topic; null until that is known.
    of: Option<usize>,
    /// By partition.
    shards: Vec<Shard>,
}

/// One shard.
#[derive(Debug, Serialize, ToSchema)]
pub struct Shard {
    /// The input partition.
    partition: i32,
    /// The worker thread that has it.
    worker: usize,
    /// `restoring`, `running` or `stopped`.
    phase: &'static str,
    /// The next input offset to read; null before the first.
    position: Option<i64>,
    /// Input records not read yet; null while unknown.
    lag: Option<i64>,
    /// How far event time is, RFC 3339; null before the first record.
    watermark: Option<String>,
    /// Wall time minus watermark.
    watermark_lag_seconds: Option<f64>,
    /// Whether the silence guard holds the watermark: no record has come for longer than `time.silence_guard`.
    guard_holds: bool,
    /// Progress of the present or latest restore.
    restored: Progress,
    /// Users with a lifecycle state.
    users: u64,
}

/// Progress of a restore, in changelog records.
#[derive(Debug, Serialize, ToSchema)]
pub struct Progress {
    /// Read.
    done: u64,
    /// To be read in all.
    total: u64,
}

/// The shards of this instance.
#[utoipa::path(get, path = "/v1/shards", tag = "operations", responses(
    (status = 200, description = "The shards, by partition", body = Shards),
    (status = 401, description = "No token", body = Problem, content_type = "application/problem+json"),
))]
pub async fn list(Extract(api): Extract<Arc<Api>>) -> Json<Shards> {
    let InstanceView { instance_id, partitions, shards, .. } = api.view();
    let shards = shards.iter().map(Shard::from).collect();
    Json(Shards { instance_id, advertised: api.advertised.clone(), of: partitions, shards })
}

impl From<&ShardView> for Shard {
    fn from(view: &ShardView) -> Self {
        let ShardReading { partition, phase, lag, watermark_lag, guard_holds, restored } = &view.reading;
        Self {
            partition: *partition,
            worker: view.worker,
            phase: phase.as_str(),
            position: view.position,
            lag: *lag,
            watermark: view.watermark.map(|time| time.to_string()),
            watermark_lag_seconds: watermark_lag.map(|span| span.as_days() * 86_400.0),
            guard_holds: *guard_holds,
            restored: Progress { done: restored.0, total: restored.1 },
            users: view.users(),
        }
    }
}

//! `/healthz`, `/readyz` and `/metrics`: what machines ask.

use std::sync::Arc;

use axum::Json;
use axum::extract::State as Extract;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use serde::Serialize;
use utoipa::ToSchema;

use crate::http::Api;
use crate::http::problem::Problem;
use crate::metrics::ShardPhase;

/// Whether this instance lives or may be asked.
#[derive(Debug, Serialize, ToSchema)]
pub struct Health {
    /// `ok` (alive), `ready`, or why not: `joining`, `restoring`, `stopped`.
    status: &'static str,
    /// Shards held.
    shards: usize,
    /// Of those, restored and consuming.
    running: usize,
}

/// Alive: the process answers. A worker that fails ends the process, so there is nothing else to find out.
#[utoipa::path(get, path = "/healthz", tag = "operations", security(()), responses(
    (status = 200, description = "Alive", body = Health),
    (status = 503, description = "A shard was stopped by an error", body = Health),
))]
pub async fn alive(Extract(api): Extract<Arc<Api>>) -> (StatusCode, Json<Health>) {
    let view = api.view();
    let stopped = view.shards.iter().any(|shard| shard.reading.phase == ShardPhase::Stopped);
    let (code, status) = if stopped { (StatusCode::SERVICE_UNAVAILABLE, "stopped") } else { (StatusCode::OK, "ok") };
    (code, Json(Health { status, shards: view.shards.len(), running: view.running() }))
}

/// Ready: the group has given this instance its shards, if only none, and all of them are restored.
#[utoipa::path(get, path = "/readyz", tag = "operations", security(()), responses(
    (status = 200, description = "Ready", body = Health),
    (status = 503, description = "Joining, restoring or stopped", body = Health),
))]
pub async fn ready(Extract(api): Extract<Arc<Api>>) -> (StatusCode, Json<Health>) {
    let view = api.view();
    let any = |phase| view.shards.iter().any(|shard| shard.reading.phase == phase);
    let status = if !view.joined {
        "joining"
    } else if any(ShardPhase::Stopped) {
        "stopped"
    } else if any(ShardPhase::Restoring) {
        "restoring"
    } else {
        "ready"
    };
    let code = if status == "ready" { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(Health { status, shards: view.shards.len(), running: view.running() }))
}

/// Every figure, in Prometheus' text format.
///
/// # Errors
/// The text could not be written.
#[utoipa::path(get, path = "/metrics", tag = "operations", responses(
    (status = 200, description = "Prometheus text format 0.0.4", body = String, content_type = "text/plain"),
    (status = 401, description = "No token", body = Problem, content_type = "application/problem+json"),
))]
pub async fn metrics(Extract(api): Extract<Arc<Api>>) -> Result<impl IntoResponse, Problem> {
    let text = tokio::task::spawn_blocking(move || api.scrape()).await;
    let text = text.map_err(|_| Problem::internal("the scrape was broken off"))?;
    let text = text.map_err(|error| Problem::internal(format!("the figures could not be written: {error}")))?;
    Ok(([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text))
}

//! `/v1/segments/{name}/users.{csv,jsonl,parquet}` and `/v1/states/{state}/users.…`: an audience as a file, streamed from
//! a snapshot (SPEC-WINBACK section 14).
//!
//! A thread of its own reads and writes; between it and the socket are at most [`PIECES`] pieces, so a slow reader slows
//! the export and nothing else. A reader that takes nothing for [`PATIENCE`] is given up, which lets go of the snapshot.
//! A broken export ends the connection without the last chunk: no client takes it for whole.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, State as Extract};
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use bytes::{Bytes, BytesMut};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::export::{self, Format, Plan, Selection};
use crate::http::Api;
use crate::http::counts;
use crate::http::problem::Problem;
use crate::shard::Aggregates;

/// The most that a thread can step back.
const NICENESS: i32 = 19;
/// Exports at the same time.
pub(super) const EXPORTS_MAX: usize = 2;
/// Bytes of a piece.
const PIECE_BYTES: usize = 64 << 10;
/// Pieces that wait for the reader.
const PIECES: usize = 8;
/// How long a reader may take nothing.
const PATIENCE: Duration = Duration::from_secs(30);
/// About how many users will come: for a progress bar.
pub const USERS_HEADER: HeaderName = HeaderName::from_static("ebbtide-users");
/// Shards in the file, and partitions of the input topic: `2/12` is a sixth of the audience.
pub const SHARDS_HEADER: HeaderName = HeaderName::from_static("ebbtide-shards");

/// The users in a segment, as CSV, JSON Lines or Parquet.
///
/// # Errors
/// No such segment or format, or too many exports at once.
#[utoipa::path(get, path = "/v1/segments/{name}/users.{format}", tag = "exports", params(
    ("name" = String, Path, description = "The segment's name"),
    ("format" = String, Path, description = "csv, jsonl or parquet"),
), responses(
    (status = 200, description = "The users of this instance's shards; the headers ebbtide-shards and ebbtide-users say \
        how many", content_type = "application/octet-stream"),
    (status = 401, description = "No token", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "No such segment or format", body = Problem, content_type = "application/problem+json"),
    (status = 503, description = "Too many exports, or no shard is running", body = Problem,
        content_type = "application/problem+json"),
))]
pub async fn segment(
    Extract(api): Extract<Arc<Api>>,
    Path((name, file)): Path<(String, String)>,
) -> Result<Response, Problem> {
    if !api.rules.segments.iter().any(|segment| segment.name == name) {
        return Err(Problem::unknown(format!("there is no segment `{name}`")));
    }
    stream(api, Selection::Segment(name), &file).await
}

/// The users in a state, as CSV, JSON Lines or Parquet.
///
/// # Errors
/// No such state or format, or too many exports at once.
#[utoipa::path(get, path = "/v1/states/{state}/users.{format}", tag = "exports", params(
    ("state" = String, Path, description = "active, at_risk, lapsed or churned"),
    ("format" = String, Path, description = "csv, jsonl or parquet"),
), responses(
    (status = 200, description = "As for a segment", content_type = "application/octet-stream"),
    (status = 401, description = "No token", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "No such state or format", body = Problem, content_type = "application/problem+json"),
    (status = 503, description = "Too many exports, or no shard is running", body = Problem,
        content_type = "application/problem+json"),
))]
pub async fn state(
    Extract(api): Extract<Arc<Api>>,
    Path((name, file)): Path<(String, String)>,
) -> Result<Response, Problem> {
    stream(api, Selection::State(counts::state_named(&name)?), &file).await
}

async fn stream(api: Arc<Api>, selection: Selection, file: &str) -> Result<Response, Problem> {
    let format = file.strip_prefix("users.").and_then(Format::from_extension);
    let format = format.ok_or_else(|| Problem::unknown("there are users.csv, users.jsonl and users.parquet"))?;
    let Ok(permit) = Arc::clone(&api.export_permits).try_acquire_owned() else {
        return Err(Problem::unavailable(format!("{EXPORTS_MAX} exports are running: wait for one to end")));
    };
    let view = api.view();
    let partitions: Vec<i32> = view.running_shards().map(|shard| shard.reading.partition).collect();
    if partitions.is_empty() {
        return Err(Problem::unavailable("no shard is running here yet: ask again"));
    }
    let shards = format!("{}/{}", partitions.len(), view.partitions.unwrap_or(partitions.len()));
    let sizes = view.sizes();
    let plan = Plan { selection, format, partitions, track: api.rules.track.clone(), policy: api.rules.policy.clone() };
    let (pieces, received) = mpsc::channel(PIECES);
    let (users, expected) = tokio::sync::oneshot::channel();
    let out = Pieces { body: pieces.clone(), filled: BytesMut::with_capacity(PIECE_BYTES), handle: Handle::current() };
    tokio::task::spawn_blocking(move || {
        let _permit = permit;
        let written = yielding(|| {
            let known = match &plan.selection {
                Selection::State(state) => Ok(sizes.of(*state, true) + sizes.of(*state, false)),
                Selection::Segment(name) => size(&api, &plan.partitions, name),
            };
            // Nobody waits any more: the request was given up.
            let _ = users.send(known.unwrap_or(0));
            export::write(&api.database, &plan, out)
        });
        match written {
            Ok(Ok(_)) => return,
            Ok(Err(error)) => tracing::warn!(%error, "an export ended early"),
            Err(_) => tracing::error!("an export panicked"),
        }
        // Ends the body as broken; if the reader has gone, there is nobody to tell.
        let _ = pieces.blocking_send(Err(io::Error::other("the export failed; the log says why")));
    });
    let users = expected.await.map_err(|_| Problem::internal("the export did not begin"))?;
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(format.media_type())),
        (USERS_HEADER, HeaderValue::from(users)),
        (SHARDS_HEADER, HeaderValue::try_from(shards).unwrap_or(HeaderValue::from_static("?"))),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    Ok((headers, Body::from_stream(ReceiverStream::new(received))).into_response())
}

/// Does something that leaves the processor to whoever else wants it: an export may take longer, transitions may not. On a
/// thread of its own, since a thread that has stepped back may not step forward again.
fn yielding<T: Send>(act: impl FnOnce() -> T + Send) -> std::thread::Result<T> {
    std::thread::scope(|scope| {
        let acting = scope.spawn(|| {
            if let Err(error) = rustix::process::nice(NICENESS) {
                tracing::debug!(%error, "an export cannot step back");
            }
            act()
        });
        acting.join()
    })
}

fn size(api: &Api, partitions: &[i32], segment: &str) -> Result<u64, crate::store::StoreError> {
    let sizes =
        partitions.iter().map(|partition| Ok(Aggregates::load_sizes(&api.database.shard(*partition))?.size(segment)));
    sizes.sum()
}

/// Where the export writes: pieces for the body.
struct Pieces {
    body: mpsc::Sender<io::Result<Bytes>>,
    filled: BytesMut,
    handle: Handle,
}

impl Pieces {
    fn send(&mut self) -> io::Result<()> {
        if self.filled.is_empty() {
            return Ok(());
        }
        let piece = self.filled.split().freeze();
        // The time-out begins within the runtime: this thread is none of its own.
        let sent = async { tokio::time::timeout(PATIENCE, self.body.send(Ok(piece))).await };
        let sent = self.handle.block_on(sent);
        match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(io::Error::new(io::ErrorKind::BrokenPipe, "the reader has gone")),
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the reader takes nothing")),
        }
    }
}

impl io::Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(PIECE_BYTES - self.filled.len());
        self.filled.extend_from_slice(&bytes[..taken]);
        if self.filled.len() == PIECE_BYTES {
            self.send()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send()
    }
}

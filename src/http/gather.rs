//! Adding up over the whole group: every shard tells its part, here or by way of its instance ([`group`]), and the answer
//! says which shards are missing from it.

use std::collections::{BTreeMap, BTreeSet};

use axum::http::{HeaderMap, Method, StatusCode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::http::Api;
use crate::http::group::{self, Scope};
use crate::http::view::InstanceView;

/// How much of the user base an answer covers.
#[derive(Debug, Serialize, ToSchema)]
pub struct Coverage {
    /// Now, RFC 3339.
    at: String,
    /// Whether shards are missing: then every count is too small.
    partial: bool,
    /// The input partitions of the shards that are missing: being restored or moved, or their instance did not answer; with
    /// `scope=instance` those of the other instances too.
    missing: Vec<i32>,
    /// Which instances could not be asked, and why.
    failures: Vec<String>,
    /// How many shards there are, and where.
    shards: ShardCount,
}

/// How many shards there are, and where.
#[derive(Debug, Serialize, ToSchema)]
pub struct ShardCount {
    /// Held by this instance.
    here: usize,
    /// Of those, restored and consuming.
    running: usize,
    /// Counted here, wherever they are.
    counted: usize,
    /// Partitions of the input topic; null until that is known.
    of: Option<usize>,
}

/// The parts of one instance's shards: what instances tell each other.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct InstanceParts<T> {
    /// Whose shards these are.
    pub(super) instance_id: String,
    /// Those that are restored and consuming.
    pub(super) shards: Vec<T>,
}

/// What one shard tells.
pub(super) trait Part: DeserializeOwned {
    /// Its input partition.
    fn partition(&self) -> i32;
}

impl Coverage {
    /// `2/12`: shards counted, and partitions of the input.
    pub(super) fn fraction(&self) -> String {
        format!("{}/{}", self.shards.counted, self.shards.of.unwrap_or(self.shards.counted))
    }
}

/// The part of each shard: `own`, and those of the other instances, which are asked for `path` unless every shard is here
/// or only this instance is meant.
pub(super) async fn gather<T: Part>(
    api: &Api,
    view: &InstanceView,
    own: Vec<T>,
    path: &str,
    scope: Scope,
    headers: &HeaderMap,
) -> (BTreeMap<i32, T>, Coverage) {
    let mut failures = Vec::new();
    let mut found = own;
    if scope == Scope::Group && view.partitions.is_some_and(|of| found.len() < of) {
        let replies = api.peers.ask(&view.instance_id, (Method::GET, path), headers, |_| false).await;
        failures = replies.failures;
        for reply in replies.replies {
            let (status, _, body) = reply.answer;
            match serde_json::from_slice::<InstanceParts<T>>(&body) {
                Ok(parts) if status == StatusCode::OK && parts.instance_id == reply.instance_id => {
                    found.extend(parts.shards);
                }
                Ok(parts) if status == StatusCode::OK => failures.push(format!(
                    "at the address of {} is {}: look at http.advertised",
                    reply.instance_id, parts.instance_id
                )),
                Err(_) if status == StatusCode::OK => {
                    failures.push(format!("{} answered with what is no part of this", reply.instance_id));
                }
                _ => failures.push(format!("{} answered with {status}", reply.instance_id)),
            }
        }
    }
    let found = group::one_of_each(found.into_iter().map(|part| (part.partition(), part)));
    let covered: BTreeSet<i32> = found.keys().copied().collect();
    let missing = view.partitions.map_or_else(Vec::new, |of| group::missing(&covered, of));
    let shards =
        ShardCount { here: view.shards.len(), running: view.running(), counted: found.len(), of: view.partitions };
    let partial = view.partitions.is_none() || !missing.is_empty();
    (found, Coverage { at: api.clock.now().to_string(), partial, missing, failures, shards })
}

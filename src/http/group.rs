//! Asking the group's other instances, so that any of them answers for all shards.
//!
//! An instance is asked for its own shards only ([`Scope::Instance`], `/v1/cohorts/shards`,
//! `/v1/counts/shards`), so no question goes further
//! than one step. Who they are comes from the group ([`Directory`]); the caller's token is passed on, and nothing else.
//! What does not answer in time is missing from the answer, and the answer says so.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use serde::Deserialize;
use tokio::task::JoinSet;
use utoipa::{IntoParams, ToSchema};

/// How long a connection to another instance may take.
const CONNECT_WITHIN: Duration = Duration::from_millis(500);
/// How long its answer may take: less than ours may.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// Bytes of the answers to one question, all instances together.
const ANSWERS_BYTES_MAX: usize = 64 << 20;
/// Instances that are asked, at most.
const ASKED_MAX: usize = 256;
/// Which shards an answer is about, where it is none of the body: their partitions, separated by commas.
pub const PARTITIONS: HeaderName = HeaderName::from_static("ebbtide-partitions");

/// One instance of the group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its configured name.
    pub instance_id: String,
    /// The URL of its HTTP API; `None` if it does not tell.
    pub address: Option<String>,
    /// The input partitions that it owns.
    pub partitions: Vec<i32>,
}

/// The group cannot be asked for its members.
#[derive(Debug, thiserror::Error)]
#[error("the group's coordinator does not say who its members are: {0}")]
pub struct DirectoryError(pub String);

/// Tells who is in the group.
pub trait Directory: Send + Sync {
    /// Every instance, this one included.
    fn members(&self) -> Pin<Box<dyn Future<Output = Result<Vec<Member>, DirectoryError>> + Send + '_>>;
}

/// Whose shards a question is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// All of the group.
    #[default]
    Group,
    /// Those of the instance that is asked.
    Instance,
}

/// Whose shards to look through.
#[derive(Clone, Copy, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Asked {
    /// `group` (the default) or `instance`.
    #[serde(default)]
    pub(crate) scope: Scope,
}

/// Asks other instances.
pub(crate) struct Peers {
    directory: Arc<dyn Directory>,
    client: reqwest::Client,
}

/// What one instance answered.
pub(crate) struct Reply {
    /// Its name.
    pub(crate) instance_id: String,
    /// Status, the shards of [`PARTITIONS`], and the body.
    pub(crate) answer: Answer,
}

type Answer = (StatusCode, BTreeSet<i32>, Vec<u8>);

/// What asking the others brought.
#[derive(Default)]
pub(crate) struct Replies {
    pub(crate) replies: Vec<Reply>,
    /// Why some instance was not asked, or did not answer; for people.
    pub(crate) failures: Vec<String>,
}

impl Peers {
    pub(crate) fn new(directory: Arc<dyn Directory>) -> Self {
        let client = reqwest::Client::builder()
            .connect_timeout(CONNECT_WITHIN)
            .timeout(ANSWER_WITHIN)
            .redirect(reqwest::redirect::Policy::none())
            // Other instances are not reached by way of the outside.
            .no_proxy()
            .build()
            .expect("a client without TLS and files needs nothing that could be missing");
        Self { directory, client }
    }

    /// Sends the same question to every other instance that owns a shard, at the same time, and waits until one reply is
    /// `enough` or all are there.
    pub(crate) async fn ask(
        &self,
        own: &str,
        (method, path): (Method, &str),
        headers: &HeaderMap,
        enough: impl Fn(&Reply) -> bool,
    ) -> Replies {
        let mut replies = Replies::default();
        let members = match self.directory.members().await {
            Ok(members) => members,
            Err(error) => {
                replies.failures.push(error.to_string());
                return replies;
            }
        };
        let token = headers.get(header::AUTHORIZATION).cloned();
        let mut asking = JoinSet::new();
        let room = Arc::new(AtomicUsize::new(ANSWERS_BYTES_MAX));
        let others = members.into_iter().filter(|member| member.instance_id != own && !member.partitions.is_empty());
        for Member { instance_id, address, .. } in others.take(ASKED_MAX) {
            let Some(address) = address else {
                replies.failures.push(format!("{instance_id} does not tell its address (http.advertised)"));
                continue;
            };
            let url = format!("{}{path}", address.trim_end_matches('/'));
            let (client, method, token, room) = (self.client.clone(), method.clone(), token.clone(), Arc::clone(&room));
            asking.spawn(async move {
                let answer = fetch(&client, method, &url, token, &room).await;
                answer
                    .map_err(|error| format!("{instance_id} at {address}: {error}"))
                    .map(|answer| Reply { instance_id, answer })
            });
        }
        while let Some(reply) = asking.join_next().await {
            match reply {
                Ok(Ok(reply)) => {
                    let enough = enough(&reply);
                    replies.replies.push(reply);
                    if enough {
                        break;
                    }
                }
                Ok(Err(failure)) => replies.failures.push(failure),
                Err(_) => replies.failures.push("a question was broken off".to_owned()),
            }
        }
        replies
    }
}

async fn fetch(
    client: &reqwest::Client,
    method: Method,
    url: &str,
    token: Option<HeaderValue>,
    room: &AtomicUsize,
) -> Result<Answer, String> {
    // The innermost cause says it best; the outer ones repeat the URL.
    let said = |error: reqwest::Error| {
        let mut cause: &dyn std::error::Error = &error;
        while let Some(inner) = cause.source() {
            cause = inner;
        }
        if error.is_timeout() { "no answer in time".to_owned() } else { cause.to_string() }
    };
    let mut request = client.request(method, url);
    if let Some(token) = token {
        request = request.header(header::AUTHORIZATION, token);
    }
    let mut response = request.send().await.map_err(said)?;
    let partitions = response.headers().get(PARTITIONS).map(read_partitions).unwrap_or_default();
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(said)? {
        let taken = room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(chunk.len()));
        if taken.is_err() {
            return Err("the answers are too long together".to_owned());
        }
        body.extend_from_slice(&chunk);
    }
    Ok((response.status(), partitions, body))
}

/// The value of [`PARTITIONS`].
pub(crate) fn write_partitions(partitions: &BTreeSet<i32>) -> HeaderValue {
    let text: Vec<String> = partitions.iter().map(ToString::to_string).collect();
    HeaderValue::from_str(&text.join(",")).expect("digits and commas")
}

fn read_partitions(value: &HeaderValue) -> BTreeSet<i32> {
    value.to_str().unwrap_or_default().split(',').filter_map(|text| text.parse().ok()).collect()
}

/// The partitions of `of` that are not covered.
pub(crate) fn missing(covered: &BTreeSet<i32>, of: usize) -> Vec<i32> {
    (0..i32::try_from(of).unwrap_or(i32::MAX)).filter(|partition| !covered.contains(partition)).collect()
}

/// One part of each shard: the owner by its own word first, then whoever else claims it. A shard that moves may be
/// claimed twice for a moment, and is counted once.
pub(crate) fn one_of_each<T>(parts: impl IntoIterator<Item = (i32, T)>) -> BTreeMap<i32, T> {
    let mut chosen = BTreeMap::new();
    for (partition, part) in parts {
        chosen.entry(partition).or_insert(part);
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_survive_the_header() {
        for partitions in [BTreeSet::new(), BTreeSet::from([0]), BTreeSet::from([2, 11, 300])] {
            assert_eq!(read_partitions(&write_partitions(&partitions)), partitions);
        }
        assert_eq!(read_partitions(&HeaderValue::from_static("1, x,,-,3")), BTreeSet::from([3, 1]));
    }

    #[test]
    fn what_nobody_answers_for_is_missing_and_a_moving_shard_counts_once() {
        assert_eq!(missing(&BTreeSet::from([0, 2]), 4), [1, 3]);
        assert_eq!(missing(&BTreeSet::from([0, 1, 9]), 2), [0_i32; 0]);
        assert_eq!(one_of_each([(1, "here"), (2, "there"), (1, "there")]), BTreeMap::from([(1, "here"), (2, "there")]));
    }
}

//! `/v1/users/{id}`: one person's state, why, and what comes next; and the request to forget them.
//!
//! Which shard holds a user is asked, not computed: producers upstream may spread users in their own way. So whoever does
//! not find the user here asks the group's other instances, all at the same time; a miss costs each a look into a filter.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use axum::Json;
use axum::extract::{FromRequestParts, Path, State as Extract};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::http::Api;
use crate::http::group::{self, Asked, Scope};
use crate::http::problem::{Params, Problem};
use crate::lifecycle::{Change, Policy, Reason, State, User};
use crate::person::Person;
use crate::shard::ShardRecord;
use crate::store::{Store as _, StoreError, codec};
use crate::time::EventTime;

/// Longest user id, in bytes (SPEC section 1).
const USER_ID_MAX: usize = 1024;
/// Instances that did not answer and are named in a problem.
const FAILURES_MAX: usize = 8;

/// Writes a deletion request to the input topic: a null value under the user's key (SPEC section 6).
pub trait Deletions: Send + Sync {
    /// Writes it to `partition`, the one that holds the user, and waits until the brokers have it.
    fn request<'a>(
        &'a self,
        partition: i32,
        user_id: &'a str,
    ) -> Pin<Box<dyn Future<Output = Result<(), DeletionError>> + Send + 'a>>;
}

/// The request was not written, or nobody knows whether it was: ask again, asking twice does no harm.
#[derive(Debug, thiserror::Error)]
#[error("the deletion request did not reach the input topic: {0}; ask again")]
pub struct DeletionError(pub String);

/// One user as of the last commit.
#[derive(Debug, Serialize, ToSchema)]
pub struct UserReport {
    /// The user.
    user_id: String,
    /// The shard that holds the user.
    partition: i32,
    /// `active`, `at_risk`, `lapsed` or `churned`; null before the first activity.
    state: Option<&'static str>,
    /// When the state was entered, RFC 3339.
    since: Option<String>,
    /// The reason's code, as in a transition.
    reason: Option<&'static str>,
    /// The reason in words, with the policy's figures.
    why: Option<String>,
    /// What happens next if the user does nothing; null when nothing more would.
    next: Option<NextStep>,
    /// Transitions so far.
    seq: u64,
    /// The first activation, RFC 3339; null if never.
    activated_at: Option<String>,
    /// The first activity, RFC 3339.
    first_active_at: Option<String>,
    /// The latest activity, RFC 3339.
    last_active_at: Option<String>,
    /// Days since the latest activity, as of the shard's watermark.
    idle_days: Option<f64>,
    /// Events that counted as activity.
    total_events: u64,
    /// Core actions.
    core_actions: u64,
    /// Names of the latest activities, newest last.
    last_events: Vec<String>,
    /// The segments that the user is in.
    segments: Vec<String>,
    /// Whether the user is held out of campaigns.
    held_out: bool,
    /// The tracked properties.
    #[schema(value_type = Object)]
    properties: serde_json::Map<String, serde_json::Value>,
    /// The probability of being alive, as of the shard's watermark; null where it is not configured.
    p_alive: Option<f64>,
    /// The latest transitions that this instance remembers, oldest first. The topic has all of them.
    #[schema(value_type = Vec<Object>)]
    recent_transitions: Vec<Box<RawValue>>,
}

/// The next change that time alone brings.
#[derive(Debug, Serialize, ToSchema)]
pub struct NextStep {
    /// When, RFC 3339.
    at: String,
    /// To which state; null for being forgotten.
    state: Option<&'static str>,
    /// Why.
    reason: &'static str,
}

/// The request was written.
#[derive(Debug, Serialize, ToSchema)]
pub struct DeletionReport {
    /// The user.
    user_id: String,
    /// The shard that will act on it within moments.
    partition: i32,
}

/// One user's state, why, and what comes next.
///
/// # Errors
/// The id is none, nobody here knows the user, or not now.
#[utoipa::path(get, path = "/v1/users/{id}", tag = "users", params(("id" = String, Path, description = "The user id"),
    Asked), responses(
        (status = 200, description = "The user", body = UserReport),
        (status = 400, description = "No user id", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "No token", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "Unknown user", body = Problem, content_type = "application/problem+json"),
        (status = 421, description = "With `scope=instance`: not here, and other instances have shards too",
            body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "Not found, and some shards could not be asked: `missing` says which", body = Problem,
            content_type = "application/problem+json"),
    ))]
pub async fn show(
    Extract(api): Extract<Arc<Api>>,
    UserId(id): UserId,
    Params(Asked { scope }): Params<Asked>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    match find(Arc::clone(&api), id).await? {
        Search::Found(id, found) => Ok(Json(report(&api, id, *found)).into_response()),
        Search::NotHere(looked) if scope == Scope::Instance => Ok(not_here(&api, &looked)),
        Search::NotHere(looked) => elsewhere(&api, Method::GET, &uri, &headers, looked).await,
    }
}

fn report(api: &Api, id: String, found: Found) -> UserReport {
    let Found { partition, user, segments, places, as_of } = found;
    let policy = &api.rules.policy;
    let next = next_step(&id, &user, policy);
    let as_of = as_of.unwrap_or_else(|| api.clock.now().as_event_time());
    let life = user.life.as_ref();
    UserReport {
        partition,
        state: life.map(|life| life.state.as_str()),
        since: life.map(|life| life.since.to_string()),
        reason: life.map(|life| life.reason.as_str()),
        why: life.map(|life| why(life.reason, life.state, policy)),
        next,
        seq: user.seq,
        activated_at: life.and_then(|life| life.activated_at).map(|time| time.to_string()),
        first_active_at: life.map(|life| life.first_active.to_string()),
        last_active_at: life.map(|life| life.last_active.to_string()),
        idle_days: user.idle_days(as_of).map(|days| days.max(0.0)),
        total_events: life.map_or(0, |life| life.total_events),
        core_actions: life.map_or(0, |life| life.core_actions),
        last_events: life.map_or_else(Vec::new, |life| life.last_events.iter().map(ToString::to_string).collect()),
        segments,
        held_out: api.rules.win_back.holds_out(&id),
        properties: properties(&user, &places, &api.rules.track),
        p_alive: user.p_alive(as_of, policy),
        recent_transitions: api.live.of_user(&id),
        user_id: id,
    }
}

/// Asks for a user to be deleted: state, timers and current-state record go, and the transition says so.
///
/// # Errors
/// As [`show`]; or the request could not be written.
#[utoipa::path(delete, path = "/v1/users/{id}", tag = "users", params(("id" = String, Path, description = "The user id"),
    Asked), responses(
        (status = 202, description = "Written to the input topic; acted on within moments", body = DeletionReport),
        (status = 400, description = "No user id", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "No token", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "Unknown user", body = Problem, content_type = "application/problem+json"),
        (status = 421, description = "With `scope=instance`: not here, and other instances have shards too",
            body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "Kafka does not answer; or not found, and some shards could not be asked", body = Problem,
            content_type = "application/problem+json"),
    ))]
pub async fn delete(
    Extract(api): Extract<Arc<Api>>,
    UserId(id): UserId,
    Params(Asked { scope }): Params<Asked>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    match find(Arc::clone(&api), id).await? {
        // The partition is where the user is, not where a hash would put them.
        Search::Found(user_id, found) => {
            let partition = found.partition;
            let written = api.deletions.request(partition, &user_id).await;
            written.map_err(|error| Problem::unavailable(error.to_string()))?;
            Ok((StatusCode::ACCEPTED, Json(DeletionReport { user_id, partition })).into_response())
        }
        Search::NotHere(looked) if scope == Scope::Instance => Ok(not_here(&api, &looked)),
        Search::NotHere(looked) => elsewhere(&api, Method::DELETE, &uri, &headers, looked).await,
    }
}

/// The user id of the path: 1 to 1024 bytes of UTF-8, percent-decoded.
#[derive(Clone, Debug)]
pub struct UserId(String);

impl<S: Send + Sync> FromRequestParts<S> for UserId {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(id)) if (1..=USER_ID_MAX).contains(&id.len()) => Ok(Self(id)),
            _ => Err(Problem::bad_request(format!("a user id has 1 to {USER_ID_MAX} bytes of UTF-8"))),
        }
    }
}

struct Found {
    partition: i32,
    user: User,
    /// By name.
    segments: Vec<String>,
    /// The shard's list of properties: a user's properties are places in it.
    places: Vec<String>,
    as_of: Option<EventTime>,
}

enum Search {
    Found(String, Box<Found>),
    /// The partitions whose shards were looked through.
    NotHere(BTreeSet<i32>),
}

/// Looks through every shard that is here. A filter in RocksDB makes a miss cheap, and so nothing need be assumed about
/// how producers spread users over partitions.
async fn find(api: Arc<Api>, id: String) -> Result<Search, Problem> {
    let search = tokio::task::spawn_blocking(move || {
        let mut looked = BTreeSet::new();
        for shard in api.view().running_shards() {
            let partition = shard.reading.partition;
            let store = api.database.shard(partition);
            if let Some(bytes) = store.user(&id)? {
                // After the user: names are only ever added.
                let record = store.shard()?.0.map(|record| ShardRecord::decode(&record)).transpose()?;
                let record = record.unwrap_or_default();
                let Person { user, standing, .. } = codec::decode_user(&bytes, &record.names)?;
                let names = record.roster.names(user.generation);
                let segments = standing.members.iter().filter_map(|place| Some(names.get(place)?.to_string()));
                let found = Found {
                    partition,
                    user,
                    segments: segments.collect(),
                    places: record.properties,
                    as_of: shard.watermark,
                };
                return Ok(Search::Found(id, Box::new(found)));
            }
            looked.insert(partition);
        }
        Ok(Search::NotHere(looked))
    });
    let search: Result<_, StoreError> = search.await.map_err(|_| Problem::internal("the look-up was broken off"))?;
    search.map_err(|error| {
        tracing::error!(%error, "a user could not be read");
        Problem::internal("the user's state could not be read; the log says why")
    })
}

/// The answer to somebody who wants this instance's shards only: what was looked through is in a header.
fn not_here(api: &Api, looked: &BTreeSet<i32>) -> Response {
    let view = api.view();
    let here = view.shards.len();
    let problem = if looked.len() < here {
        let restoring = here - looked.len();
        Problem::unavailable(format!("{restoring} of {here} shards here are not running yet: ask again"))
    } else {
        match view.partitions {
            None => Problem::unavailable("this instance has not joined its group yet: ask again"),
            Some(of) if here < of => Problem::elsewhere(format!(
                "no shard here knows this user, and {} of {of} shards are on other instances: ask without scope=instance",
                of - here
            )),
            Some(of) => Problem::unknown_user(format!("all {of} shards are here, and none knows this user")),
        }
    };
    ([(group::PARTITIONS, group::write_partitions(looked))], problem).into_response()
}

/// Asks the group's other instances: the first that knows the user answers.
async fn elsewhere(
    api: &Api,
    method: Method,
    uri: &Uri,
    headers: &HeaderMap,
    mut looked: BTreeSet<i32>,
) -> Result<Response, Problem> {
    let view = api.view();
    let of =
        view.partitions.ok_or_else(|| Problem::unavailable("this instance has not joined its group yet: ask again"))?;
    let mut failures = Vec::new();
    if looked.len() < of {
        let path = format!("{}?scope=instance", uri.path());
        let replies =
            api.peers.ask(&view.instance_id, (method, &path), headers, |reply| reply.answer.0.is_success()).await;
        failures = replies.failures;
        for reply in replies.replies {
            let (status, partitions, body) = reply.answer;
            if status.is_success() {
                let json = HeaderValue::from_static("application/json");
                return Ok((status, [(header::CONTENT_TYPE, json)], body).into_response());
            }
            if !matches!(status, StatusCode::NOT_FOUND | StatusCode::MISDIRECTED_REQUEST) {
                failures.push(format!("{} answered with {status}", reply.instance_id));
            }
            looked.extend(partitions);
        }
    }
    let missing = group::missing(&looked, of);
    if missing.is_empty() {
        return Err(Problem::unknown_user(format!(
            "all {of} shards of the group were asked, and none knows this user"
        )));
    }
    let mut detail = format!("no shard that could be asked knows this user, and {} of {of} could not", missing.len());
    for failure in failures.iter().take(FAILURES_MAX) {
        let _ = write!(detail, "; {failure}");
    }
    Err(Problem::partial(format!("{detail}: ask again"), missing))
}

/// The user's properties by name: those that are tracked today.
fn properties(user: &User, places: &[String], track: &[String]) -> serde_json::Map<String, serde_json::Value> {
    let known = user.properties.iter().filter_map(|(index, text)| {
        let name = places.get(usize::from(*index)).filter(|name| track.contains(name))?;
        Some((name.clone(), serde_json::from_str(text).ok()?))
    });
    known.collect()
}

/// Lets time pass over a copy of the user up to the first change.
fn next_step(user_id: &str, user: &User, policy: &Policy) -> Option<NextStep> {
    let at = user.next_deadline(policy)?;
    let mut changes: Vec<Change> = Vec::new();
    // Only the change is wanted: whether the copy would stay or go says nothing more.
    let _ = user.clone().advance(user_id, at, policy, &mut changes);
    let change = changes.last()?;
    Some(NextStep {
        at: change.effective_at.to_string(),
        state: change.to.map(State::as_str),
        reason: change.reason.as_str(),
    })
}

/// The reason in words. The figures are the policy's of today; a user judged under an older one may differ from them
/// until re-judged.
fn why(reason: Reason, state: State, policy: &Policy) -> String {
    match reason {
        Reason::Inactive => {
            let idle = match state {
                State::Churned => Some(policy.churned_after),
                State::Lapsed => Some(policy.lapsed_after),
                State::AtRisk | State::Active => policy.inactive_after,
            };
            idle.map_or_else(|| "no activity for too long".to_owned(), |idle| format!("no activity for {idle}"))
        }
        Reason::Declining => policy.declining.map_or_else(
            || "less active than before".to_owned(),
            |rule| {
                let (days, share) = (rule.window_days, rule.decline_ratio * 100.0);
                format!("the last {days} days had at most {share:.0} % of the activity of the {days} days before")
            },
        ),
        Reason::LowProbability => {
            let mut text = "the probability of being alive has fallen".to_owned();
            if let Some(threshold) = policy.survival.and_then(|survival| survival.threshold) {
                let _ = write!(text, " to {threshold}");
            }
            text
        }
        Reason::Activity => "an event came: the user was active".to_owned(),
        Reason::LateEvent => "an event that came late proved an earlier transition wrong".to_owned(),
        Reason::Retention => "retention ran out".to_owned(),
        Reason::Request => "somebody asked for it".to_owned(),
        Reason::PolicyChanged => "the policy was changed, and judges so".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_are_named_by_the_shards_own_list_and_only_todays_are_shown() {
        let user = User { properties: vec![(0, "1".into()), (1, "\"pro\"".into())], ..User::default() };
        let shown = properties(&user, &["seats".to_owned(), "plan".to_owned()], &["plan".to_owned()]);
        assert_eq!(serde_json::Value::Object(shown), serde_json::json!({ "plan": "pro" }));
    }
}

//! `/v1/cohorts`, `/v1/cohorts/shards`, `/v1/cohorts/history` and `/v1/flows`: how many are in which state, now and over time, and who moved.

use std::sync::Arc;

use axum::Json;
use axum::extract::State as Extract;
use axum::http::HeaderMap;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::http::Api;
use crate::http::gather::{self, Coverage, InstanceParts, Part};
use crate::http::group::Asked;
use crate::http::history::Sizes;
use crate::http::problem::{Params, Problem};
use crate::http::view::InstanceView;
use crate::lifecycle::State;
use crate::time::WallTime;

/// Cohort sizes of the whole group, as of the last commits.
#[derive(Debug, Serialize, ToSchema)]
#[expect(clippy::struct_field_names, reason = "the answer holds the list under its own name")]
pub struct Cohorts {
    /// How much of the user base this is.
    #[serde(flatten)]
    coverage: Coverage,
    /// Users with a lifecycle state.
    users: u64,
    /// Users known by their properties alone: they have no state until a first activity.
    not_entered: u64,
    /// Sizes by state and activation; all eight, empty ones included.
    cohorts: Vec<Cohort>,
}

/// The size of one cohort.
#[derive(Debug, Serialize, ToSchema)]
pub struct Cohort {
    /// `active`, `at_risk`, `lapsed` or `churned`.
    state: &'static str,
    /// Whether the users ever activated.
    activated: bool,
    /// How many.
    users: u64,
}

/// Cohort sizes of one shard.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ShardCohorts {
    /// The input partition.
    partition: i32,
    /// By state (`active`, `at_risk`, `lapsed`, `churned`), then never activated and activated.
    users: [[u64; 2]; 4],
    /// Users known by their properties alone.
    not_entered: u64,
}

/// A span of time that ends now.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Period {
    /// `15m`, `1h`, `30d` or `all` (the default): since the process began.
    period: Option<String>,
}

/// Cohort sizes over time, of this instance, since the process began at the earliest.
#[derive(Debug, Serialize, ToSchema)]
pub struct CohortHistory {
    /// When the process began; nothing is known of before.
    began: String,
    /// The least distance of two points, in seconds; it doubles as the run grows.
    step_seconds: f64,
    /// Oldest first, at most 1,024.
    points: Vec<CohortPoint>,
}

/// Cohort sizes at one moment; activated or not.
#[derive(Debug, Serialize, ToSchema)]
pub struct CohortPoint {
    /// RFC 3339.
    at: String,
    /// Users in state active.
    active: u64,
    /// Users in state at risk.
    at_risk: u64,
    /// Users in state lapsed.
    lapsed: u64,
    /// Users in state churned.
    churned: u64,
    /// Users of any state who never activated.
    never_activated: u64,
}

/// Who went from where to where in a period, on this instance.
#[derive(Debug, Serialize, ToSchema)]
pub struct FlowReport {
    /// Where the period begins, RFC 3339; the beginning of the process where that was later.
    from: String,
    /// Now, RFC 3339.
    to: String,
    /// Whether the process ran for the whole period.
    complete: bool,
    /// Only pairs that happened.
    flows: Vec<FlowCount>,
}

/// How many went one way.
#[derive(Debug, Serialize, ToSchema)]
pub struct FlowCount {
    /// The state left; null on entering.
    from: Option<&'static str>,
    /// The state entered; null when forgotten or deleted.
    to: Option<&'static str>,
    /// Transitions; a user who went this way twice counts twice.
    users: u64,
}

/// Cohort sizes of the whole group now, by state and activation.
#[utoipa::path(get, path = "/v1/cohorts", tag = "cohorts", params(Asked), responses(
    (status = 200, description = "The sizes; `partial` says whether shards are missing", body = Cohorts),
    (status = 401, description = "No token", body = Problem, content_type = "application/problem+json"),
))]
pub async fn now(
    Extract(api): Extract<Arc<Api>>,
    Params(Asked { scope }): Params<Asked>,
    headers: HeaderMap,
) -> Json<Cohorts> {
    let view = api.view();
    let (found, coverage) = gather::gather(&api, &view, parts(&view), "/v1/cohorts/shards", scope, &headers).await;
    let mut sizes = Sizes::default();
    for part in found.values() {
        sizes.add(&Sizes(part.users));
    }
    let cohorts: Vec<_> = State::ALL
        .into_iter()
        .flat_map(|state| [true, false].map(|activated| (state, activated)))
        .map(|(state, activated)| Cohort { state: state.as_str(), activated, users: sizes.of(state, activated) })
        .collect();
    Json(Cohorts {
        coverage,
        users: cohorts.iter().map(|cohort| cohort.users).sum(),
        not_entered: found.values().map(|part| part.not_entered).sum(),
        cohorts,
    })
}

impl Part for ShardCohorts {
    fn partition(&self) -> i32 {
        self.partition
    }
}

/// Cohort sizes of this instance's shards: what instances tell each other.
#[utoipa::path(get, path = "/v1/cohorts/shards", tag = "cohorts", responses(
    (status = 200, description = "The sizes, by shard", body = InstanceParts<ShardCohorts>),
    (status = 401, description = "No token", body = Problem, content_type = "application/problem+json"),
))]
pub async fn shards(Extract(api): Extract<Arc<Api>>) -> Json<InstanceParts<ShardCohorts>> {
    let view = api.view();
    let shards = parts(&view);
    Json(InstanceParts { instance_id: view.instance_id, shards })
}

fn parts(view: &InstanceView) -> Vec<ShardCohorts> {
    let parts = view.running_shards().map(|shard| ShardCohorts {
        partition: shard.reading.partition,
        users: shard.sizes().0,
        not_entered: shard.not_entered(),
    });
    parts.collect()
}

/// Cohort sizes over time.
///
/// # Errors
/// The period is none.
#[utoipa::path(get, path = "/v1/cohorts/history", tag = "cohorts", params(Period), responses(
    (status = 200, description = "The sizes, oldest first", body = CohortHistory),
    (status = 400, description = "No such period", body = Problem, content_type = "application/problem+json"),
    (status = 401, description = "No token", body = Problem, content_type = "application/problem+json"),
))]
pub async fn history(
    Extract(api): Extract<Arc<Api>>,
    Params(period): Params<Period>,
) -> Result<Json<CohortHistory>, Problem> {
    let from = period.start(api.clock.now())?;
    let (points, step) = api.history.sizes(from.unwrap_or(WallTime::from_millis(i64::MIN)));
    let points = points.into_iter().map(|(at, sizes)| {
        let of = |state| sizes.of(state, false) + sizes.of(state, true);
        CohortPoint {
            at: at.to_string(),
            active: of(State::Active),
            at_risk: of(State::AtRisk),
            lapsed: of(State::Lapsed),
            churned: of(State::Churned),
            never_activated: State::ALL.into_iter().map(|state| sizes.of(state, false)).sum(),
        }
    });
    Ok(Json(CohortHistory {
        began: api.history.began().to_string(),
        step_seconds: step.as_days() * 86_400.0,
        points: points.collect(),
    }))
}

/// Who moved between states in a period.
///
/// # Errors
/// The period is none.
#[utoipa::path(get, path = "/v1/flows", tag = "cohorts", params(Period), responses(
    (status = 200, description = "The flows", body = FlowReport),
    (status = 400, description = "No such period", body = Problem, content_type = "application/problem+json"),
    (status = 401, description = "No token", body = Problem, content_type = "application/problem+json"),
))]
pub async fn flows(
    Extract(api): Extract<Arc<Api>>,
    Params(period): Params<Period>,
) -> Result<Json<FlowReport>, Problem> {
    let now = api.clock.now();
    let began = api.history.began();
    let asked = period.start(now)?;
    let from = asked.unwrap_or(began).max(began);
    let flows = api.history.flows(from).into_iter().map(|((from, to), users)| FlowCount {
        from: from.map(State::as_str),
        to: to.map(State::as_str),
        users,
    });
    let complete = asked.is_none_or(|asked| asked >= began);
    Ok(Json(FlowReport { from: from.to_string(), to: now.to_string(), complete, flows: flows.collect() }))
}

impl Period {
    /// `None` is all of it.
    fn start(&self, now: WallTime) -> Result<Option<WallTime>, Problem> {
        let Some(text) = self.period.as_deref().filter(|text| *text != "all") else { return Ok(None) };
        let wrong = || Problem::bad_request(format!("period is {text:?}; give a span like 15m, 1h or 30d, or all"));
        let span = humantime::parse_duration(text).map_err(|_| wrong())?;
        let millis = i64::try_from(span.as_millis()).map_err(|_| wrong())?;
        Ok(Some(WallTime::from_millis(now.as_millis().saturating_sub(millis))))
    }
}

//! `/v1/retention`, `/v1/retention/{name}` and `/v1/signals`: what is reported of this instance's users (SPEC-WINBACK
//! sections 11 and 12), read from the committed state.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State as Extract};
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::http::Api;
use crate::http::problem::{Params, Problem};
use crate::lifecycle::State;
use crate::metrics::ShardPhase;
use crate::retention::{Cohorts, Matrix, Report};
use crate::shard::{Aggregates, ShardRecord};
use crate::signals::{Counts, Group, Signals};
use crate::store::{Store as _, StoreError};
use crate::time::EventTime;

/// Values of a dimension that an answer has at most.
const VALUES_MAX: usize = 1_000;
/// Values of a dimension that an answer has when nothing else is asked for.
const VALUES_DEFAULT: usize = 20;

/// The retention reports that are configured.
#[derive(Debug, Serialize, ToSchema)]
pub struct ReportList {
    /// In the order of the configuration.
    reports: Vec<ReportName>,
}

/// One configured report.
#[derive(Debug, Serialize, ToSchema)]
pub struct ReportName {
    /// Its name.
    name: String,
    /// `day`, `week` or `month`.
    period: &'static str,
    /// Periods after the first.
    count: u8,
}

/// How a report is written.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Layout {
    /// `json` (the default) or `csv`.
    format: Option<String>,
    /// The first cohort, `YYYY-MM-DD`, inclusive; the way on through a long report.
    from: Option<String>,
    /// So many cohorts at most, 1 to 1000; default 1000.
    limit: Option<usize>,
}

/// Whose signals.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Whose {
    /// `active`, `at_risk`, `lapsed` or `churned`.
    state: Option<String>,
    /// A segment's name, in place of a state.
    segment: Option<String>,
    /// So many values a dimension at most, 1 to 1000; default 20.
    limit: Option<usize>,
}

/// Every configured report.
#[utoipa::path(get, path = "/v1/retention", tag = "reports", responses(
    (status = 200, description = "Their names", body = ReportList),
    (status = 401, description = "No token", body = Problem, content_type = "application/problem+json"),
))]
pub async fn list(Extract(api): Extract<Arc<Api>>) -> Json<ReportList> {
    let name =
        |report: &Report| ReportName { name: report.name.clone(), period: report.period.as_str(), count: report.count };
    Json(ReportList { reports: api.rules.retention.iter().map(name).collect() })
}

/// One retention report over the shards of this instance.
///
/// # Errors
/// No such report, a query that says nothing, or the state cannot be read.
#[utoipa::path(get, path = "/v1/retention/{name}", tag = "reports",
    params(("name" = String, Path, description = "The report's name"), Layout), responses(
    (status = 200, description = "The matrix, oldest cohort first", body = Matrix),
    (status = 400, description = "No such format", body = Problem, content_type = "application/problem+json"),
    (status = 401, description = "No token", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "No such report", body = Problem, content_type = "application/problem+json"),
))]
pub async fn retention(
    Extract(api): Extract<Arc<Api>>,
    Path(name): Path<String>,
    Params(layout): Params<Layout>,
) -> Result<Response, Problem> {
    let is_csv = match layout.format.as_deref() {
        None | Some("json") => false,
        Some("csv") => true,
        Some(_) => return Err(Problem::bad_request("format is json or csv")),
    };
    let limit = limit(layout.limit, VALUES_MAX)?;
    if !api.rules.retention.iter().any(|report| report.name == name) {
        return Err(Problem::unknown(format!("there is no report `{name}`: /v1/retention lists those configured")));
    }
    let mut matrix = read(api, move |api| matrix(api, &name)).await?;
    matrix.cohorts.retain(|row| layout.from.as_ref().is_none_or(|from| row.cohort >= *from));
    matrix.cohorts.truncate(limit);
    if !is_csv {
        return Ok(Json(matrix).into_response());
    }
    let mut csv = Vec::new();
    matrix.write_csv(&mut csv).map_err(|_| Problem::internal("the report could not be written"))?;
    Ok(([(header::CONTENT_TYPE, "text/csv; charset=utf-8")], csv).into_response())
}

/// What those in a state or segment show, against the active.
///
/// # Errors
/// No such state or segment, signals are not kept, or the state cannot be read.
#[utoipa::path(get, path = "/v1/signals", tag = "reports", params(Whose), responses(
    (status = 200, description = "By dimension, the most common values first", body = Signals),
    (status = 400, description = "Neither a state nor a segment", body = Problem,
        content_type = "application/problem+json"),
    (status = 401, description = "No token", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "No such state or segment, or signals.enabled is not set", body = Problem,
        content_type = "application/problem+json"),
))]
pub async fn signals(Extract(api): Extract<Arc<Api>>, Params(whose): Params<Whose>) -> Result<Json<Signals>, Problem> {
    if !api.rules.signals {
        return Err(Problem::unknown("signals are not kept: set signals.enabled"));
    }
    let group = whose.group(&api)?;
    let limit = limit(whose.limit, VALUES_DEFAULT)?;
    let signals = read(api, move |api| {
        let (mut counts, mut active) = (Counts::default(), Counts::default());
        for partition in running(api) {
            let aggregates = Aggregates::load_signals(&api.database.shard(partition))?;
            counts.merge(&aggregates.signals(&group));
            active.merge(&aggregates.signals(&Group::State(State::Active)));
        }
        Ok(Signals::new(&group, &counts, &active, limit))
    });
    signals.await.map(Json)
}

impl Whose {
    fn group(&self, api: &Api) -> Result<Group, Problem> {
        match (&self.state, &self.segment) {
            (Some(name), None) => State::ALL
                .into_iter()
                .find(|state| state.as_str() == name)
                .map(Group::State)
                .ok_or_else(|| Problem::unknown("a state is active, at_risk, lapsed or churned")),
            (None, Some(name)) if api.rules.segments.iter().any(|segment| segment.name == *name) => {
                Ok(Group::Segment(name.as_str().into()))
            }
            (None, Some(name)) => Err(Problem::unknown(format!("there is no segment `{name}`"))),
            _ => Err(Problem::bad_request("say whose: either state or segment")),
        }
    }
}

fn limit(asked: Option<usize>, default: usize) -> Result<usize, Problem> {
    match asked {
        None => Ok(default),
        Some(limit) if (1..=VALUES_MAX).contains(&limit) => Ok(limit),
        Some(_) => Err(Problem::bad_request(format!("limit is 1 to {VALUES_MAX}"))),
    }
}

/// The partitions here that are restored and consuming.
fn running(api: &Api) -> Vec<i32> {
    let view = api.view();
    let running = view.shards.iter().filter(|shard| shard.reading.phase == ShardPhase::Running);
    running.map(|shard| shard.reading.partition).collect()
}

fn matrix(api: &Api, name: &str) -> Result<Matrix, StoreError> {
    let Some(report) = api.rules.retention.iter().find(|report| report.name == name) else {
        return Err(StoreError::Damaged { what: format!("the report {name}, which was there a moment ago") });
    };
    let (mut cohorts, mut watermark) = (Cohorts::default(), None);
    let frozen = report.frozen();
    for partition in running(api) {
        let store = api.database.shard(partition);
        let Some(record) = store.shard()?.0 else { continue };
        let record = ShardRecord::decode(&record)?;
        watermark = Some(watermark.map_or(record.watermark.at(), |least: EventTime| least.min(record.watermark.at())));
        if let Some((number, _)) = record.reports.iter().find(|(_, known)| *known == frozen) {
            cohorts.add(Aggregates::load_retention(&store)?.retention(*number));
        }
    }
    Ok(Matrix::new(report, watermark.unwrap_or(EventTime::MIN), cohorts))
}

/// Reads the state on a thread that may block.
async fn read<T: Send + 'static>(
    api: Arc<Api>,
    from: impl FnOnce(&Api) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, Problem> {
    let read = tokio::task::spawn_blocking(move || from(&api)).await;
    let read = read.map_err(|_| Problem::internal("reading the state was broken off"))?;
    read.map_err(|error| {
        tracing::error!(%error, "a report could not be read");
        Problem::internal("the state could not be read; the log says why")
    })
}

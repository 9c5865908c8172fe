//! `/v1/retention`, `/v1/retention/{name}` and `/v1/signals`: what is reported of the users of the whole group
//! (SPEC-WINBACK sections 11 and 12).

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State as Extract};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::http::Api;
use crate::http::counts::{self, Gathered, Question};
use crate::http::export::SHARDS_HEADER;
use crate::http::gather::Coverage;
use crate::http::group::Asked;
use crate::http::problem::{Params, Problem};
use crate::lifecycle::State;
use crate::retention::{Cohorts, Matrix, Report};
use crate::signals::{Group, Signals};
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

/// A retention report, as of the last commits.
#[derive(Debug, Serialize, ToSchema)]
pub struct RetentionReport {
    /// How much of the user base this is.
    #[serde(flatten)]
    coverage: Coverage,
    /// The report.
    #[serde(flatten)]
    matrix: Matrix,
    /// The next cohort where `limit` has cut the report: the `from` of the next request. Null at the end.
    next: Option<String>,
}

/// What a group shows, as of the last commits.
#[derive(Debug, Serialize, ToSchema)]
pub struct SignalsReport {
    /// How much of the user base this is.
    #[serde(flatten)]
    coverage: Coverage,
    /// What it shows.
    #[serde(flatten)]
    signals: Signals,
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

/// One retention report over the whole group.
///
/// # Errors
/// No such report, a query that says nothing, or the state cannot be read.
#[utoipa::path(get, path = "/v1/retention/{name}", tag = "reports",
    params(("name" = String, Path, description = "The report's name"), Layout, Asked), responses(
    (status = 200, description = "The matrix, oldest cohort first; as CSV the header ebbtide-shards says of how many shards",
        body = RetentionReport),
    (status = 400, description = "No such format or cohort", body = Problem, content_type = "application/problem+json"),
    (status = 401, description = "No token", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "No such report", body = Problem, content_type = "application/problem+json"),
))]
pub async fn retention(
    Extract(api): Extract<Arc<Api>>,
    Path(name): Path<String>,
    Params(layout): Params<Layout>,
    Params(Asked { scope }): Params<Asked>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let is_csv = match layout.format.as_deref() {
        None | Some("json") => false,
        Some("csv") => true,
        Some(_) => return Err(Problem::bad_request("format is json or csv")),
    };
    let limit = limit(layout.limit, VALUES_MAX)?;
    if layout.from.as_ref().is_some_and(|from| from.parse::<chrono::NaiveDate>().is_err()) {
        return Err(Problem::bad_request("from is a day like 2026-11-01"));
    }
    let report = counts::report(&api, &name)?;
    let gathered = counts::gather(&api, Question::Retention(report.clone()), scope, &headers).await?;
    let mut cohorts = Cohorts::default();
    cohorts.add(gathered.aggregates.retention(0));
    let mut matrix = Matrix::new(&report, gathered.watermark.unwrap_or(EventTime::MIN), cohorts);
    matrix.cohorts.retain(|row| layout.from.as_ref().is_none_or(|from| row.cohort >= *from));
    let next = matrix.cohorts.get(limit).map(|row| row.cohort.clone());
    matrix.cohorts.truncate(limit);
    let coverage = gathered.coverage;
    if !is_csv {
        return Ok(Json(RetentionReport { coverage, matrix, next }).into_response());
    }
    let mut csv = Vec::new();
    matrix.write_csv(&mut csv).map_err(|_| Problem::internal("the report could not be written"))?;
    let shards = HeaderValue::try_from(coverage.fraction()).unwrap_or(HeaderValue::from_static("?"));
    let kind = HeaderValue::from_static("text/csv; charset=utf-8");
    Ok(([(header::CONTENT_TYPE, kind), (SHARDS_HEADER, shards)], csv).into_response())
}

/// What those in a state or segment show, against the active, over the whole group.
///
/// # Errors
/// No such state or segment, signals are not kept, or the state cannot be read.
#[utoipa::path(get, path = "/v1/signals", tag = "reports", params(Whose, Asked), responses(
    (status = 200, description = "By dimension, the most common values first", body = SignalsReport),
    (status = 400, description = "Neither a state nor a segment", body = Problem,
        content_type = "application/problem+json"),
    (status = 401, description = "No token", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "No such state or segment, or signals.enabled is not set", body = Problem,
        content_type = "application/problem+json"),
))]
pub async fn signals(
    Extract(api): Extract<Arc<Api>>,
    Params(whose): Params<Whose>,
    Params(Asked { scope }): Params<Asked>,
    headers: HeaderMap,
) -> Result<Json<SignalsReport>, Problem> {
    let group = counts::group_named(&api, whose.state.as_deref(), whose.segment.as_deref())?;
    let limit = limit(whose.limit, VALUES_DEFAULT)?;
    let Gathered { aggregates, coverage, .. } =
        counts::gather(&api, Question::Signals(group.clone()), scope, &headers).await?;
    let active = aggregates.signals(&Group::State(State::Active));
    let signals = Signals::new(&group, &aggregates.signals(&group), &active, limit);
    Ok(Json(SignalsReport { coverage, signals }))
}

fn limit(asked: Option<usize>, default: usize) -> Result<usize, Problem> {
    match asked {
        None => Ok(default),
        Some(limit) if (1..=VALUES_MAX).contains(&limit) => Ok(limit),
        Some(_) => Err(Problem::bad_request(format!("limit is 1 to {VALUES_MAX}"))),
    }
}

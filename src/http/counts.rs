//! `/v1/counts/shards`, and what segments, returns, retention and signals are told from: the cells that shards have counted
//! ([`Aggregates`]), read from what is committed and added up over the group. Counts add up exactly; rates and intervals
//! are made of the sums.

use std::sync::Arc;

use axum::Json;
use axum::extract::State as Extract;
use axum::http::HeaderMap;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::http::Api;
use crate::http::gather::{self, Coverage, InstanceParts, Part};
use crate::http::group::Scope;
use crate::http::problem::{Params, Problem};
use crate::http::view::ShardView;
use crate::lifecycle::State;
use crate::retention::Report;
use crate::shard::aggregates::CellError;
use crate::shard::{Aggregates, ShardRecord};
use crate::signals::Group;
use crate::store::{Store as _, StoreError};
use crate::time::EventTime;

/// What to add up.
#[derive(Clone, Debug)]
pub(super) enum Question {
    /// Sizes of segments, and who returned of those who entered.
    Segments,
    /// What became of those who returned, and campaigns.
    Returns,
    /// One retention report.
    Retention(Report),
    /// What a group shows, and what the active show.
    Signals(Group),
}

/// Which cells to tell.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Cells {
    /// `segments`, `returns`, `retention` or `signals`.
    of: String,
    /// The retention report's name.
    report: Option<String>,
    /// That report's definition, as the instance that asks has it: another one is another report.
    definition: Option<String>,
    /// For signals, the state.
    state: Option<String>,
    /// For signals, the segment in place of a state.
    segment: Option<String>,
}

/// What one shard has counted, as of its last commit.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ShardCounts {
    /// The input partition.
    partition: i32,
    /// How far event time is, in milliseconds since 1970; null before the first event.
    watermark_ms: Option<i64>,
    /// Counts by cell. Keys are hexadecimal, and mean what they mean in the state: not for anybody but another instance.
    #[schema(value_type = std::collections::BTreeMap<String, Vec<u64>>)]
    #[serde(with = "cells")]
    counts: Aggregates,
}

/// What the shards have counted, together.
pub(super) struct Gathered {
    pub(super) aggregates: Aggregates,
    /// The least of the counted shards; `None` before the first event of one of them. For retention a shard that never
    /// committed anything does not matter.
    pub(super) watermark: Option<EventTime>,
    pub(super) coverage: Coverage,
}

impl Part for ShardCounts {
    fn partition(&self) -> i32 {
        self.partition
    }
}

impl Question {
    /// Where other instances are asked for their part.
    fn path(&self) -> String {
        let definition;
        let parameters = match self {
            Self::Segments => vec![("of", "segments")],
            Self::Returns => vec![("of", "returns")],
            Self::Retention(report) => {
                definition = report.frozen();
                vec![("of", "retention"), ("report", &*report.name), ("definition", &*definition)]
            }
            Self::Signals(group @ Group::State(_)) => vec![("of", "signals"), ("state", group.name())],
            Self::Signals(group @ Group::Segment(_)) => vec![("of", "signals"), ("segment", group.name())],
        };
        // Only path and query are of use: whoever is asked has an address of its own.
        let url = reqwest::Url::parse_with_params("http://instance/v1/counts/shards", parameters)
            .expect("a fixed URL, and parameters are escaped");
        format!("{}?{}", url.path(), url.query().unwrap_or_default())
    }

    fn read(api: &Api, cells: &Cells) -> Result<Self, Problem> {
        match (cells.of.as_str(), &cells.report) {
            ("segments", _) => Ok(Self::Segments),
            ("returns", _) => Ok(Self::Returns),
            ("retention", Some(name)) => {
                let report = report(api, name)?;
                if cells.definition.as_ref().is_some_and(|definition| *definition != report.frozen()) {
                    return Err(Problem::unknown(format!("the report `{name}` is defined otherwise here")));
                }
                Ok(Self::Retention(report))
            }
            ("signals", _) => group_named(api, cells.state.as_deref(), cells.segment.as_deref()).map(Self::Signals),
            _ => Err(Problem::bad_request("of is segments, returns, retention (with report) or signals")),
        }
    }

    /// Reads the part of a shard. Blocks on the disk.
    fn part(&self, api: &Api, shard: &ShardView) -> Result<ShardCounts, StoreError> {
        let partition = shard.reading.partition;
        let store = api.database.shard(partition);
        let mut watermark = shard.watermark;
        let counts = match self {
            Self::Segments => Aggregates::load_segments(&store)?,
            Self::Returns => Aggregates::load_returns(&store)?,
            Self::Retention(report) => {
                let record = store.shard()?.0.map(|record| ShardRecord::decode(&record)).transpose()?;
                watermark = record.as_ref().map(|record| record.watermark.at());
                let frozen = report.frozen();
                let reports = record.map(|record| record.reports).unwrap_or_default();
                match reports.iter().find(|(_, known)| *known == frozen) {
                    Some((number, _)) => Aggregates::load_report(&store, *number)?,
                    None => Aggregates::default(),
                }
            }
            Self::Signals(group) => Aggregates::load_signals(&store, &[group, &Group::State(State::Active)])?,
        };
        Ok(ShardCounts { partition, watermark_ms: watermark.map(EventTime::as_millis), counts })
    }
}

/// What is counted in the cells of this instance's shards: what instances tell each other.
///
/// # Errors
/// Nothing like that is counted here, or the state cannot be read.
#[utoipa::path(get, path = "/v1/counts/shards", tag = "operations", params(Cells), responses(
    (status = 200, description = "The cells, by shard", body = InstanceParts<ShardCounts>),
    (status = 400, description = "No such cells", body = Problem, content_type = "application/problem+json"),
    (status = 401, description = "No token", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "Nothing of this name is counted", body = Problem,
        content_type = "application/problem+json"),
))]
pub async fn shards(
    Extract(api): Extract<Arc<Api>>,
    Params(cells): Params<Cells>,
) -> Result<Json<InstanceParts<ShardCounts>>, Problem> {
    let question = Question::read(&api, &cells)?;
    let shards = own(&api, &question).await?;
    Ok(Json(InstanceParts { instance_id: api.view().instance_id, shards }))
}

/// Adds up over the shards of the group, or of this instance.
///
/// # Errors
/// The state here cannot be read. What others cannot read is missing.
pub(super) async fn gather(
    api: &Arc<Api>,
    question: Question,
    scope: Scope,
    headers: &HeaderMap,
) -> Result<Gathered, Problem> {
    let own = own(api, &question).await?;
    let (parts, coverage) = gather::gather(api, &api.view(), own, &question.path(), scope, headers).await;
    let mut aggregates = Aggregates::default();
    let mut watermark = None;
    let mut unknown = parts.is_empty();
    for part in parts.into_values() {
        aggregates.merge(&part.counts);
        match part.watermark_ms.map(EventTime::from_millis) {
            Some(this) => watermark = Some(watermark.map_or(this, |least: EventTime| least.min(this))),
            None => unknown |= !matches!(question, Question::Retention(_)),
        }
    }
    Ok(Gathered { aggregates, watermark: watermark.filter(|_| !unknown), coverage })
}

/// The parts of this instance's shards, those that are restored.
async fn own(api: &Arc<Api>, question: &Question) -> Result<Vec<ShardCounts>, Problem> {
    let (api, question) = (Arc::clone(api), question.clone());
    let read = tokio::task::spawn_blocking(move || {
        let view = api.view();
        view.running_shards().map(|shard| question.part(&api, shard)).collect::<Result<Vec<_>, StoreError>>()
    });
    let read = read.await.map_err(|_| Problem::internal("reading the state was broken off"))?;
    read.map_err(|error| {
        tracing::error!(%error, "what was counted could not be read");
        Problem::internal("the state could not be read; the log says why")
    })
}

/// The configured report of this name.
///
/// # Errors
/// There is none.
pub(super) fn report(api: &Api, name: &str) -> Result<Report, Problem> {
    let found = api.rules.retention.iter().find(|report| report.name == name).cloned();
    found.ok_or_else(|| Problem::unknown(format!("there is no report `{name}`: /v1/retention lists those configured")))
}

/// The state of this name.
///
/// # Errors
/// There is none.
pub(super) fn state_named(name: &str) -> Result<State, Problem> {
    State::named(name).ok_or_else(|| Problem::unknown("a state is active, at_risk, lapsed or churned"))
}

/// The state or the segment of which signals are asked.
///
/// # Errors
/// There is none, both or neither are named, or signals are not kept.
pub(super) fn group_named(api: &Api, state: Option<&str>, segment: Option<&str>) -> Result<Group, Problem> {
    if !api.rules.signals {
        return Err(Problem::unknown("signals are not kept: set signals.enabled"));
    }
    match (state, segment) {
        (Some(name), None) => state_named(name).map(Group::State),
        (None, Some(name)) if api.rules.segments.iter().any(|segment| segment.name == name) => {
            Ok(Group::Segment(name.into()))
        }
        (None, Some(name)) => Err(Problem::unknown(format!("there is no segment `{name}`"))),
        _ => Err(Problem::bad_request("say whose: either state or segment")),
    }
}

/// Cells as a JSON object; what comes from elsewhere is checked.
mod cells {
    use std::collections::BTreeMap;

    use data_encoding::HEXLOWER;
    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer, Serializer};

    use super::{Aggregates, CellError};

    pub(super) fn serialize<S: Serializer>(counts: &Aggregates, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(counts.cells().map(|(key, counts)| (HEXLOWER.encode(key), counts)))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Aggregates, D::Error> {
        let cells = BTreeMap::<String, Vec<u64>>::deserialize(from)?.into_iter();
        let cells = cells.map(|(hex, counts)| Ok((HEXLOWER.decode(hex.as_bytes()).map_err(|_| CellError)?, counts)));
        cells.collect::<Result<Vec<_>, CellError>>().and_then(Aggregates::from_cells).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(cells: &str) -> Result<ShardCounts, serde_json::Error> {
        serde_json::from_str(&format!(r#"{{"partition":1,"watermark_ms":5,"counts":{{{cells}}}}}"#))
    }

    #[test]
    fn cells_come_back_and_what_is_no_cell_is_refused() {
        let mut counts = Aggregates::default();
        counts.moved("é", 1);
        let part = ShardCounts { partition: 1, watermark_ms: None, counts };
        let text = serde_json::to_string(&part).expect("JSON");
        let back: ShardCounts = serde_json::from_str(&text).expect("what is written reads");
        assert_eq!(back.counts.size("é"), 1, "{text}");
        assert_eq!(read(r#""7361":[7]"#).expect("a cell").counts.size("a"), 7);
        let many = format!(r#""7361":[{}1]"#, "1,".repeat(300));
        for wrong in
            [r#""736":[1]"#, r#""7x":[1]"#, r#""+1":[1]"#, r#""":[1]"#, r#""7361":[18446744073709551615]"#, &many]
        {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}

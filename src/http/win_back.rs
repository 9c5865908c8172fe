//! `/v1/segments` and `/v1/win-back`: who is in which segment, what became of those who returned, and what campaigns added
//! (SPEC-WINBACK sections 9 and 10), over the whole group.

use std::sync::Arc;

use axum::Json;
use axum::extract::State as Extract;
use axum::http::HeaderMap;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::http::Api;
use crate::http::counts::{self, Gathered, Question};
use crate::http::gather::Coverage;
use crate::http::group::{Asked, Scope};
use crate::http::problem::{Params, Problem};
use crate::lifecycle::State;
use crate::shard::aggregates::Returns;
use crate::shard::{Aggregates, aggregates};
use crate::store::StoreError;
use crate::time::{Day, EventTime};
use crate::win_back::comeback::CURVE_DAYS;
use crate::win_back::{Arm, Lift, ReturnsCurve};

/// Groups of returns in one answer, unless asked for fewer.
const GROUPS_MAX: usize = 1000;
const GROUPS_DEFAULT: usize = 200;

/// The segments, as of the last commits.
#[derive(Debug, Serialize, ToSchema)]
pub struct Segments {
    /// How much of the user base this is.
    #[serde(flatten)]
    coverage: Coverage,
    /// In the order of the configuration.
    segments: Vec<Segment>,
}

/// One segment.
#[derive(Debug, Serialize, ToSchema)]
pub struct Segment {
    /// Its name.
    name: String,
    /// Users in it.
    users: u64,
    /// What became of those who entered it.
    measured: Measured,
}

/// Those who entered a segment and had thirty days since, and what deliveries added.
#[derive(Debug, Serialize, ToSchema)]
pub struct Measured {
    /// Users whom deliveries reached.
    treated: Group,
    /// Users who were held out.
    held_out: Group,
    /// The difference of the two; null as long as one of the groups is empty.
    lift: Option<LiftReport>,
}

/// Users who entered a segment at least thirty days ago.
#[derive(Debug, Serialize, ToSchema)]
pub struct Group {
    /// How many.
    users: u64,
    /// Of those, returned within thirty days of entering.
    returned: u64,
    /// Their share, 0 to 1; null without users.
    rate: Option<f64>,
}

/// Return rate of the treated less that of the held out, with its 95 % interval (Newcombe's hybrid score).
#[derive(Debug, Serialize, ToSchema)]
pub struct LiftReport {
    /// The difference, -1 to 1.
    difference: f64,
    /// The interval's lower end.
    low: f64,
    /// The interval's upper end.
    high: f64,
}

/// Which returns to show.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Which {
    /// Only returns from this UTC day on, like 2026-11-01.
    from: Option<String>,
    /// Only returns before this UTC day.
    until: Option<String>,
    /// Only returns from `lapsed` or `churned`.
    away_from: Option<String>,
    /// Only returns that this campaign brought.
    campaign: Option<String>,
    /// Groups in one answer, 1 to 1000; 200 by default.
    limit: Option<usize>,
    /// Where the answer before this one ended: its `next`.
    cursor: Option<String>,
}

/// Users who returned, as of the last commits.
#[derive(Debug, Serialize, ToSchema)]
pub struct WinBack {
    /// How much of the user base this is.
    #[serde(flatten)]
    coverage: Coverage,
    /// Up to where event time has come in all shards counted, RFC 3339; null before the first event.
    watermark: Option<String>,
    /// Attributed returns by campaign, over all time; at most 100 a shard by name, the rest as `(other)`.
    campaigns: Vec<Campaign>,
    /// All returns asked for, together.
    total: Curve,
    /// The returns by day, state and campaign, in this order; those of the last 400 days.
    groups: Vec<ReturnGroup>,
    /// The cursor for the next groups; null at the end.
    next: Option<String>,
}

/// What one campaign brought.
#[derive(Debug, Serialize, ToSchema)]
pub struct Campaign {
    /// Its name.
    campaign: String,
    /// Returns attributed to it.
    attributed: u64,
}

/// Returns of one day, state and campaign.
#[derive(Debug, Serialize, ToSchema)]
pub struct ReturnGroup {
    /// The UTC day of the return.
    day: String,
    /// `lapsed` or `churned`.
    away_from: &'static str,
    /// Null for those that no campaign brought.
    campaign: Option<String>,
    /// Days after the return that are over for everybody in the group: 0 to 30.
    complete_days: u8,
    /// What became of them.
    #[serde(flatten)]
    curve: Curve,
}

/// Stuck or one-off?
#[derive(Debug, Serialize, ToSchema)]
pub struct Curve {
    /// Users who returned.
    returned: u64,
    /// Of those, active on day 1, 2, … 30 after the return (rolling 24-hour days).
    active: Vec<u64>,
    /// Of those, with a first core action within 30 days.
    first_core: u64,
    /// With a second.
    second_core: u64,
}

/// Who is in which segment, and what became of those who entered it.
///
/// # Errors
/// The state cannot be read.
#[utoipa::path(get, path = "/v1/segments", tag = "win-back", params(Asked), responses(
    (status = 200, description = "The segments", body = Segments),
    (status = 401, description = "No token", body = Problem, content_type = "application/problem+json"),
))]
pub async fn segments(
    Extract(api): Extract<Arc<Api>>,
    Params(Asked { scope }): Params<Asked>,
    headers: HeaderMap,
) -> Result<Json<Segments>, Problem> {
    let (counted, coverage) = counted(&api, Question::Segments, scope, &headers).await?;
    let names = api.rules.segments.iter().map(|draft| draft.name.clone());
    let segments =
        names.map(|name| Segment { users: counted.aggregates.size(&name), measured: counted.measured(&name), name });
    Ok(Json(Segments { coverage, segments: segments.collect() }))
}

/// What became of those who returned, and which campaigns brought them.
///
/// # Errors
/// A parameter means nothing, or the state cannot be read.
#[utoipa::path(get, path = "/v1/win-back", tag = "win-back", params(Which, Asked), responses(
    (status = 200, description = "The returns", body = WinBack),
    (status = 400, description = "No such returns", body = Problem, content_type = "application/problem+json"),
    (status = 401, description = "No token", body = Problem, content_type = "application/problem+json"),
))]
pub async fn returns(
    Extract(api): Extract<Arc<Api>>,
    Params(which): Params<Which>,
    Params(Asked { scope }): Params<Asked>,
    headers: HeaderMap,
) -> Result<Json<WinBack>, Problem> {
    let wanted = Wanted::read(&which)?;
    let (counted, coverage) = counted(&api, Question::Returns, scope, &headers).await?;
    let all: Vec<Returns> = counted.aggregates.returns().into_iter().filter(|group| wanted.takes(group)).collect();
    let mut total = ReturnsCurve::default();
    for group in &all {
        total.merge(&group.curve);
    }
    let mut rest = all.iter().filter(|group| wanted.after.as_ref().is_none_or(|after| key(group) > *after)).peekable();
    let groups: Vec<&Returns> = rest.by_ref().take(wanted.limit).collect();
    let next = rest.peek().and(groups.last()).map(|last| cursor(last));
    let mut campaigns: Vec<Campaign> = counted
        .aggregates
        .campaigns()
        .map(|(campaign, attributed)| Campaign { campaign: campaign.to_owned(), attributed })
        .collect();
    campaigns.sort_by(|a, b| b.attributed.cmp(&a.attributed).then_with(|| a.campaign.cmp(&b.campaign)));
    Ok(Json(WinBack {
        coverage,
        watermark: counted.watermark.map(|watermark| watermark.to_string()),
        campaigns,
        total: total.into(),
        groups: groups.into_iter().map(|group| counted.group(group)).collect(),
        next,
    }))
}

/// What shards have counted, together.
pub(crate) struct Counted {
    pub(crate) aggregates: Aggregates,
    /// The least of the shards; `None` before the first event of one of them.
    watermark: Option<EventTime>,
}

impl Counted {
    /// What the metrics show: the segments of the shards that run here. Blocks on the disk.
    pub(crate) fn read(api: &Api) -> Result<Self, StoreError> {
        let view = api.view();
        let mut aggregates = Aggregates::default();
        let mut watermark = (view.running() > 0).then_some(EventTime::MAX);
        for shard in view.running_shards() {
            aggregates.merge(&Aggregates::load_segments(&api.database.shard(shard.reading.partition))?);
            watermark = watermark.zip(shard.watermark).map(|(least, this)| least.min(this));
        }
        Ok(Self { aggregates, watermark })
    }

    /// The two groups of a segment, and the lift if there is one.
    pub(crate) fn arms(&self, segment: &str) -> (aggregates::Arms, Option<Lift>) {
        let arms = self.aggregates.arms(segment, None, self.watermark.unwrap_or(EventTime::MIN));
        (arms, Lift::of(arms.treated, arms.held_out))
    }

    fn measured(&self, segment: &str) -> Measured {
        let (arms, lift) = self.arms(segment);
        let lift = lift.map(|Lift { difference, low, high }| LiftReport { difference, low, high });
        Measured { treated: arms.treated.into(), held_out: arms.held_out.into(), lift }
    }

    fn group(&self, group: &Returns) -> ReturnGroup {
        let watermark = self.watermark.unwrap_or(EventTime::MIN);
        let complete = (1..=CURVE_DAYS)
            .take_while(|day| ReturnsCurve::is_complete(group.day.start(), *day, watermark))
            .last()
            .unwrap_or(0);
        ReturnGroup {
            day: date(group.day),
            away_from: group.away_from.as_str(),
            campaign: group.campaign.as_deref().map(str::to_owned),
            complete_days: complete,
            curve: group.curve.clone().into(),
        }
    }
}

async fn counted(
    api: &Arc<Api>,
    question: Question,
    scope: Scope,
    headers: &HeaderMap,
) -> Result<(Counted, Coverage), Problem> {
    let Gathered { aggregates, watermark, coverage } = counts::gather(api, question, scope, headers).await?;
    Ok((Counted { aggregates, watermark }, coverage))
}

type Key = (Day, State, Option<Box<str>>);

fn key(group: &Returns) -> Key {
    (group.day, group.away_from, group.campaign.clone())
}

fn cursor(group: &Returns) -> String {
    let campaign = group.campaign.as_deref().map(|campaign| format!(".{campaign}")).unwrap_or_default();
    format!("{}.{}{campaign}", group.day.number(), group.away_from as u8)
}

/// `2026-11-01`.
fn date(day: Day) -> String {
    day.start().to_string().chars().take_while(|c| *c != 'T').collect()
}

/// What was asked for, understood.
struct Wanted {
    from: Option<Day>,
    until: Option<Day>,
    away_from: Option<State>,
    campaign: Option<String>,
    limit: usize,
    after: Option<Key>,
}

impl Wanted {
    fn read(which: &Which) -> Result<Self, Problem> {
        let day = |name: &str, text: &Option<String>| {
            let read = text.as_deref().map(|text| text.parse::<chrono::NaiveDate>().map_err(|_| text)).transpose();
            let read =
                read.map_err(|text| Problem::bad_request(format!("{name} is {text:?}; give a day like 2026-11-01")));
            read.map(|date| date.map(day_of))
        };
        let away_from = match which.away_from.as_deref() {
            None => None,
            Some("lapsed") => Some(State::Lapsed),
            Some("churned") => Some(State::Churned),
            Some(other) => {
                return Err(Problem::bad_request(format!("away_from is {other:?}; give lapsed or churned")));
            }
        };
        let limit = which.limit.unwrap_or(GROUPS_DEFAULT);
        if !(1..=GROUPS_MAX).contains(&limit) {
            return Err(Problem::bad_request(format!("limit is {limit}; give 1 to {GROUPS_MAX}")));
        }
        let after = match which.cursor.as_deref() {
            None => None,
            Some(text) => {
                let wrong = || Problem::bad_request("the cursor is none that an answer gave".to_owned());
                Some(read_cursor(text).ok_or_else(wrong)?)
            }
        };
        let (from, until) = (day("from", &which.from)?, day("until", &which.until)?);
        Ok(Self { from, until, away_from, campaign: which.campaign.clone(), limit, after })
    }

    fn takes(&self, group: &Returns) -> bool {
        self.from.is_none_or(|from| group.day >= from)
            && self.until.is_none_or(|until| group.day < until)
            && self.away_from.is_none_or(|state| group.away_from == state)
            && self.campaign.as_deref().is_none_or(|campaign| group.campaign.as_deref() == Some(campaign))
    }
}

fn day_of(date: chrono::NaiveDate) -> Day {
    let midnight = date.and_hms_opt(0, 0, 0).map_or(0, |midnight| midnight.and_utc().timestamp_millis());
    EventTime::from_millis(midnight).day()
}

fn read_cursor(text: &str) -> Option<Key> {
    let mut parts = text.splitn(3, '.');
    let day = Day::from_number(parts.next()?.parse().ok()?);
    let state = *State::ALL.get(parts.next()?.parse::<usize>().ok()?)?;
    Some((day, state, parts.next().map(Box::from)))
}

impl From<Arm> for Group {
    fn from(arm: Arm) -> Self {
        Self { users: arm.users, returned: arm.returned, rate: arm.rate() }
    }
}

impl From<ReturnsCurve> for Curve {
    fn from(curve: ReturnsCurve) -> Self {
        let ReturnsCurve { returned, active, first_core, second_core } = curve;
        Self { returned, active: active.to_vec(), first_core, second_core }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_names_the_group_it_came_from() {
        for campaign in [None, Some("spring.2026"), Some("")] {
            let group = Returns {
                day: Day::from_number(20_000),
                away_from: State::Churned,
                campaign: campaign.map(Box::from),
                curve: ReturnsCurve::default(),
            };
            assert_eq!(read_cursor(&cursor(&group)), Some(key(&group)));
        }
        assert_eq!(read_cursor("x.1"), None);
        assert_eq!(date(Day::from_number(0)), "1970-01-01");
    }
}

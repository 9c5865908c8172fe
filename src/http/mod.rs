//! The HTTP edge: metrics, health, the read API, deletion requests and the console (SPEC section 6; issue 2, "HTTP").
//!
//! It reads what the workers have committed (status, database, feed) and never asks a worker anything, so nobody who
//! looks can slow one down. For shards that are elsewhere it asks the group's other instances ([`group`]). It changes
//! nothing itself: a deletion becomes a record of the input topic. Every answer is bounded in size, time and number at
//! once; errors are problem details ([`problem`]).
//!
//! A server on a loopback address answers only to its own names ([`host`]). `/healthz`, `/readyz`, the page itself and its
//! description `/openapi.json` are open; everything else asks for the token where one is configured.

pub mod auth;
pub mod cohorts;
pub mod console;
pub mod counts;
pub mod export;
pub mod gather;
pub mod group;
pub mod health;
pub mod history;
pub mod host;
pub mod live;
pub mod openapi;
pub mod problem;
pub mod reports;
pub mod serve;
pub mod shards;
#[cfg(test)]
mod tests;
pub mod users;
pub mod view;
pub mod win_back;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Json, Router};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower_http::compression::CompressionLayer;

use crate::clock::Clock;
use crate::http::auth::Guard;
use crate::http::group::{Directory, Peers};
use crate::http::history::History;
use crate::http::host::Names;
use crate::http::live::Live;
use crate::http::problem::Problem;
use crate::http::users::Deletions;
use crate::http::view::InstanceView;
use crate::kafka::feed::{Onlooker, TransitionFeed};
use crate::kafka::status::Status;
use crate::metrics::Metrics;
use crate::rules::Rules;
use crate::store::rocks::Database;
use crate::time::Span;

/// Longest time that an answer may take; a stream's beginning included, its length not.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Requests that are answered at the same time, streams not counted.
const ANSWERS_MAX: usize = 128;
/// Streams of transitions that may be open at the same time.
const STREAMS_MAX: usize = 256;
/// Bytes of a request's body; no route reads one.
const BODY_MAX: u64 = 16 << 10;
/// How often the timelines take a sample.
const SAMPLE_EVERY: Duration = Duration::from_secs(2);

/// What the HTTP edge reads and shows.
pub struct Parts {
    /// The figures.
    pub metrics: Arc<Metrics>,
    /// What the workers hold.
    pub status: Arc<Status>,
    /// The committed state.
    pub database: Arc<Database>,
    /// Committed transitions as they happen.
    pub feed: TransitionFeed,
    /// Wall time.
    pub clock: Arc<dyn Clock>,
    /// The rules that judge users.
    pub rules: Arc<Rules>,
    /// Writes deletion requests.
    pub deletions: Arc<dyn Deletions>,
    /// Who else is in the group.
    pub directory: Arc<dyn Directory>,
    /// `http.token`; `None` is open.
    pub token: Option<String>,
    /// Where other instances and people reach this one; `None` if nothing is known that they could use.
    pub advertised: Option<String>,
}

/// The state behind the routes.
pub struct Api {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) status: Arc<Status>,
    pub(crate) database: Arc<Database>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) rules: Arc<Rules>,
    pub(crate) deletions: Arc<dyn Deletions>,
    pub(crate) peers: Peers,
    pub(crate) advertised: Option<String>,
    pub(crate) history: History,
    pub(crate) live: Live,
    pub(crate) stop: CancellationToken,
    pub(crate) stream_permits: Arc<Semaphore>,
    pub(crate) export_permits: Arc<Semaphore>,
    feed: Onlooker,
    guard: Guard,
    names: Names,
    answers: Arc<Semaphore>,
    /// A scrape clears and sets the gauges: two at once would show each other's gaps.
    scraping: Mutex<()>,
}

impl Api {
    /// `listen` is the address that the server is bound to; `stop` ends open streams and [`Api::observe`].
    #[must_use]
    pub fn new(parts: Parts, listen: SocketAddr, stop: CancellationToken) -> Arc<Self> {
        let Parts { metrics, status, database, feed, clock, rules, deletions, directory, token, advertised } = parts;
        let names = Names::of(listen, advertised.as_deref());
        let first_step = Span::from_millis(i64::try_from(SAMPLE_EVERY.as_millis()).unwrap_or(i64::MAX));
        let history = History::new(clock.now(), first_step, metrics.flows());
        Arc::new(Self {
            metrics,
            status,
            database,
            clock,
            rules,
            deletions,
            peers: Peers::new(directory),
            advertised,
            history,
            live: Live::default(),
            stop,
            stream_permits: Arc::new(Semaphore::new(STREAMS_MAX)),
            export_permits: Arc::new(Semaphore::new(export::EXPORTS_MAX)),
            feed: feed.watch(),
            guard: Guard::new(token.as_deref()),
            names,
            answers: Arc::new(Semaphore::new(ANSWERS_MAX)),
            scraping: Mutex::new(()),
        })
    }

    /// Follows the feed and samples the timelines until `stop`; to run beside the router.
    pub async fn observe(self: Arc<Self>) {
        let follow = self.live.follow(&self.feed, self.stop.clone());
        let sample = async {
            let mut pace = tokio::time::interval(SAMPLE_EVERY);
            pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    () = self.stop.cancelled() => return,
                    _ = pace.tick() => self.sample(),
                }
            }
        };
        tokio::join!(follow, sample);
    }

    fn sample(&self) {
        self.history.sample(self.clock.now(), self.view().sizes(), self.metrics.flows());
    }

    fn view(&self) -> InstanceView {
        InstanceView::read(&self.status, self.clock.now())
    }

    /// Reads every figure and writes the text. Blocks on the disk's sizes.
    fn scrape(&self) -> Result<String, prometheus::Error> {
        let _one = self.scraping.lock().unwrap_or_else(PoisonError::into_inner);
        let view = self.view();
        let sizes = view.sizes();
        self.metrics.show_cohorts(|state, activated| sizes.of(state, activated), view.not_entered());
        self.metrics.observe_shards(view.shards.iter().map(|shard| &shard.reading));
        match win_back::Counted::read(self) {
            Ok(counted) => {
                let names = self.rules.segments.iter().map(|draft| &*draft.name);
                self.metrics
                    .observe_segments(names.map(|name| (name, counted.aggregates.size(name), counted.arms(name).1)));
            }
            Err(error) => tracing::error!(%error, "what was counted could not be read for the metrics"),
        }
        let rocks = self.database.sizes();
        let memory =
            [("block_cache", rocks.cache), ("memtables", rocks.memtables), ("table_readers", rocks.table_readers)];
        self.metrics.observe_rocksdb(&memory, rocks.disk);
        if let Some(bytes) = resident_bytes() {
            self.metrics.observe_resident(bytes);
        }
        self.metrics.encode()
    }
}

/// Every route.
pub fn router(api: Arc<Api>) -> Router {
    let answers = Router::new()
        .route("/metrics", get(health::metrics))
        .route("/v1/cohorts", get(cohorts::now))
        .route("/v1/cohorts/shards", get(cohorts::shards))
        .route("/v1/counts/shards", get(counts::shards))
        .route("/v1/cohorts/history", get(cohorts::history))
        .route("/v1/flows", get(cohorts::flows))
        .route("/v1/retention", get(reports::list))
        .route("/v1/retention/{name}", get(reports::retention))
        .route("/v1/segments/{name}/{file}", get(export::segment))
        .route("/v1/states/{state}/{file}", get(export::state))
        .route("/v1/signals", get(reports::signals))
        .route("/v1/shards", get(shards::list))
        .route("/v1/segments", get(win_back::segments))
        .route("/v1/win-back", get(win_back::returns))
        .route("/v1/users/{id}", get(users::show).delete(users::delete))
        .route_layer(middleware::from_fn_with_state(Arc::clone(&api.answers), bounded));
    let asked = answers
        .route("/v1/transitions", get(live::stream))
        .route_layer(middleware::from_fn_with_state(api.guard.clone(), auth::require));
    let open = Router::new()
        .route("/healthz", get(health::alive))
        .route("/readyz", get(health::ready))
        .route("/openapi.json", get(async || Json(openapi::document())));
    let all = asked
        .merge(open)
        .merge(console::routes())
        .fallback(async |uri: Uri| Problem::no_route(uri.path()))
        .method_not_allowed_fallback(async || Problem::method_not_allowed())
        .layer(middleware::from_fn(small))
        .layer(middleware::from_fn_with_state(api.names.clone(), host::require))
        .layer(CompressionLayer::new());
    console::guarded(all).with_state(api)
}

/// At most [`ANSWERS_MAX`] at a time, each within [`ANSWER_WITHIN`].
async fn bounded(State(answers): State<Arc<Semaphore>>, request: Request, next: Next) -> Response {
    let Ok(_permit) = answers.try_acquire() else {
        return Problem::unavailable("too many requests at once: ask again").into_response();
    };
    let answer = tokio::time::timeout(ANSWER_WITHIN, next.run(request)).await;
    answer.unwrap_or_else(|_| Problem::timed_out().into_response())
}

/// No body beyond [`BODY_MAX`]; one of unknown length is never read, and its connection closed.
async fn small(request: Request, next: Next) -> Response {
    let length =
        request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > BODY_MAX) {
        return Problem::too_large().into_response();
    }
    next.run(request).await
}

/// Resident memory as Linux tells it; `None` elsewhere.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

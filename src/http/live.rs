//! `/v1/transitions`: committed transitions as they happen, as server-sent events.
//!
//! One task takes transitions from the workers' feed four times a second and keeps the latest; every open stream reads
//! from there at the same pace, through its filter. So a worker's cost does not depend on how many look, a stream sends
//! at most a hundred transitions a second however many there are, and it says how many it left out. Nothing is parsed,
//! copied or compared until somebody looks.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use axum::extract::State as Extract;
use axum::response::Sse;
use axum::response::sse::{Event, KeepAlive};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use utoipa::IntoParams;

use crate::http::Api;
use crate::http::problem::{Params, Problem};
use crate::kafka::feed::{CommittedTransition, Onlooker, Taken};
use crate::lifecycle::{Kind, Reason, State};
use crate::metrics::{Metrics, NO_STATE};

/// How often the feed is read and streams are written.
const PACE: Duration = Duration::from_millis(250);
/// Transitions that one stream sends in one [`PACE`].
const BURST_MAX: usize = 25;
/// Latest transitions kept: what a stream may look through, and a user's latest steps.
const KEPT_MAX: usize = 8192;
/// Bytes of those.
const KEPT_BYTES_MAX: usize = 8 << 20;
/// Matching transitions of the past that a new stream begins with, so that no page is empty.
const REPLAYED_MAX: usize = 50;
/// Transitions of one user in a look-up.
const STEPS_MAX: usize = 50;
/// Events that wait for a slow reader; then the stream waits, and later says how many it left out.
const QUEUE_MAX: usize = 2 * (BURST_MAX + 1);

/// Which transitions to send; all conditions hold together.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Filter {
    /// The state entered: `active`, `at_risk`, `lapsed`, `churned`, or `none` (forgotten or deleted).
    state: Option<String>,
    /// `entered`, `worsened`, `recovered`, `reactivated`, `corrected`, `forgotten` or `deleted`.
    kind: Option<String>,
    /// A reason's code, such as `inactive`.
    reason: Option<String>,
    /// One user.
    user: Option<String>,
}

/// The record as far as filters look at it.
#[derive(Deserialize)]
struct Record<'a> {
    #[serde(borrow)]
    to: Option<&'a str>,
    kind: &'a str,
    reason: &'a str,
}

/// What filters look at, as the words that there are.
#[derive(Clone, Copy, Debug)]
struct Fields {
    to: &'static str,
    kind: &'static str,
    reason: &'static str,
}

/// A transition that happened lately.
#[derive(Debug)]
struct Seen {
    transition: Arc<CommittedTransition>,
    /// Read when the first filter asks; `None` within for what is no transition.
    fields: OnceLock<Option<Fields>>,
}

/// The latest transitions, numbered.
#[derive(Debug, Default)]
struct Latest {
    /// In order of their numbers; a number is missing where the feed was too fast for us.
    kept: VecDeque<(u64, Arc<Seen>)>,
    bytes: usize,
    /// The number of the next one.
    next: u64,
}

/// The latest transitions of this instance, for any number of streams.
#[derive(Debug, Default)]
pub struct Live {
    latest: RwLock<Latest>,
}

impl Live {
    /// Takes transitions from the feed until `stop`.
    pub async fn follow(&self, feed: &Onlooker, stop: CancellationToken) {
        let mut pace = tokio::time::interval(PACE);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = pace.tick() => self.take(feed.take()),
            }
        }
    }

    fn take(&self, Taken { transitions, missed }: Taken) {
        let fresh: Vec<_> = transitions.into_iter().map(Seen::new).map(Arc::new).collect();
        if missed > 0 || !fresh.is_empty() {
            self.write(|latest| {
                latest.next += missed;
                for seen in fresh {
                    latest.push(seen);
                }
            });
        }
    }

    /// The latest steps of one user, oldest first.
    #[must_use]
    pub fn of_user(&self, user_id: &str) -> Vec<Box<RawValue>> {
        let mine: Vec<_> = self.read(|latest| {
            let kept = latest.kept.iter().rev().map(|(_, seen)| seen);
            kept.filter(|seen| seen.user_id() == user_id.as_bytes()).take(STEPS_MAX).map(Arc::clone).collect()
        });
        mine.iter().rev().filter_map(|seen| RawValue::from_string(seen.json().to_owned()).ok()).collect()
    }

    /// What came from number `next` on: the newest `max` that fit, oldest first, and how many were left out. What fell out
    /// of here before it was looked at may have fitted or not; it counts as left out. Moves `next` to the end.
    fn fresh(&self, filter: &Filter, next: &mut u64, max: usize) -> (Vec<Arc<Seen>>, u64) {
        self.read(|latest| {
            let first = latest.kept.partition_point(|(number, _)| number < next);
            let kept = latest.kept.range(first..).map(|(_, seen)| seen);
            let missed = (latest.next - *next).saturating_sub(kept.len() as u64);
            *next = latest.next;
            let (mut newest, fitting) = if filter.is_empty() {
                (kept.clone().rev().take(max).map(Arc::clone).collect::<Vec<_>>(), kept.len())
            } else {
                let mut fitting = kept.rev().filter(|seen| filter.takes(seen));
                let newest: Vec<_> = fitting.by_ref().take(max).map(Arc::clone).collect();
                let count = newest.len() + fitting.count();
                (newest, count)
            };
            newest.reverse();
            let left_out = (fitting - newest.len()) as u64;
            (newest, missed + left_out)
        })
    }

    fn read<T>(&self, look: impl FnOnce(&Latest) -> T) -> T {
        look(&self.latest.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write(&self, change: impl FnOnce(&mut Latest)) {
        change(&mut self.latest.write().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Latest {
    fn push(&mut self, seen: Arc<Seen>) {
        self.bytes += seen.len_bytes();
        self.kept.push_back((self.next, seen));
        self.next += 1;
        while self.kept.len() > KEPT_MAX || self.bytes > KEPT_BYTES_MAX {
            let Some((_, oldest)) = self.kept.pop_front() else { break };
            self.bytes -= oldest.len_bytes();
        }
    }
}

impl Seen {
    fn new(transition: Arc<CommittedTransition>) -> Self {
        Self { transition, fields: OnceLock::new() }
    }

    fn user_id(&self) -> &[u8] {
        &self.transition.user_id
    }

    /// The worker made it, so it is text; nothing is shown if not.
    fn json(&self) -> &str {
        std::str::from_utf8(&self.transition.json).unwrap_or_default()
    }

    fn fields(&self) -> Option<Fields> {
        *self.fields.get_or_init(|| {
            let Record { to, kind, reason } = serde_json::from_str(self.json()).ok()?;
            Some(Fields {
                to: state_named(to.unwrap_or(NO_STATE))?,
                kind: Kind::ALL.into_iter().map(Kind::as_str).find(|name| *name == kind)?,
                reason: Reason::ALL.into_iter().map(Reason::as_str).find(|name| *name == reason)?,
            })
        })
    }

    fn len_bytes(&self) -> usize {
        self.transition.user_id.len() + self.transition.json.len() + size_of::<Self>()
    }
}

fn state_named(name: &str) -> Option<&'static str> {
    State::ALL.into_iter().map(State::as_str).chain([NO_STATE]).find(|state| *state == name)
}

impl Filter {
    /// An unknown word would wait for ever without a word.
    fn check(&self) -> Result<(), Problem> {
        let states: Vec<_> = State::ALL.map(State::as_str).into_iter().chain([NO_STATE]).collect();
        one_of("state", self.state.as_deref(), &states)?;
        one_of("kind", self.kind.as_deref(), &Kind::ALL.map(Kind::as_str))?;
        one_of("reason", self.reason.as_deref(), &Reason::ALL.map(Reason::as_str))
    }

    fn is_empty(&self) -> bool {
        let Self { state, kind, reason, user } = self;
        [state, kind, reason, user].into_iter().all(Option::is_none)
    }

    fn takes(&self, seen: &Seen) -> bool {
        // The user first: that needs no look into the record.
        if self.user.as_deref().is_some_and(|user| user.as_bytes() != seen.user_id()) {
            return false;
        }
        let is = |wanted: &Option<String>, value: &str| wanted.as_deref().is_none_or(|wanted| wanted == value);
        let fields = seen.fields();
        fields.is_some_and(|f| is(&self.state, f.to) && is(&self.kind, f.kind) && is(&self.reason, f.reason))
    }
}

fn one_of(name: &str, given: Option<&str>, known: &[&str]) -> Result<(), Problem> {
    match given {
        Some(word) if !known.contains(&word) => {
            Err(Problem::bad_request(format!("{name} is {word:?}; it may be {}", known.join(", "))))
        }
        _ => Ok(()),
    }
}

/// Committed transitions as they happen. Event `transition` holds the record of the transitions topic; event `skipped`
/// (`{"count": n}`) says how many matching ones came faster than a stream sends.
///
/// # Errors
/// A filter names what there is not, or too many streams are open.
#[utoipa::path(get, path = "/v1/transitions", tag = "transitions", params(Filter), responses(
    (status = 200, description = "Server-sent events, without end", body = String, content_type = "text/event-stream"),
    (status = 400, description = "No such filter", body = Problem, content_type = "application/problem+json"),
    (status = 401, description = "No token", body = Problem, content_type = "application/problem+json"),
    (status = 503, description = "Too many streams are open", body = Problem, content_type = "application/problem+json"),
))]
pub async fn stream(
    Extract(api): Extract<Arc<Api>>,
    Params(filter): Params<Filter>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    filter.check()?;
    let permit = Arc::clone(&api.stream_permits).try_acquire_owned();
    let permit = permit.map_err(|_| Problem::unavailable("too many streams are open: close one"))?;
    let (sender, receiver) = mpsc::channel(QUEUE_MAX);
    // The task ends when its reader goes away or the server stops: it holds nothing else.
    tokio::spawn(write(api, filter, sender, permit));
    Ok(Sse::new(ReceiverStream::new(receiver)).keep_alive(KeepAlive::new().interval(Duration::from_secs(15))))
}

/// Counts a stream as open for as long as it lives.
struct OpenStream<'a>(&'a Metrics);

impl<'a> OpenStream<'a> {
    fn count(metrics: &'a Metrics) -> Self {
        metrics.stream_opened();
        Self(metrics)
    }
}

impl Drop for OpenStream<'_> {
    fn drop(&mut self) {
        self.0.stream_closed();
    }
}

type Sender = mpsc::Sender<Result<Event, Infallible>>;

async fn write(api: Arc<Api>, filter: Filter, sender: Sender, _permit: OwnedSemaphorePermit) {
    let _open = OpenStream::count(&api.metrics);
    let mut next = 0;
    let (mut fitting, _) = api.live.fresh(&filter, &mut next, REPLAYED_MAX);
    let mut pace = tokio::time::interval(PACE);
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut skipped = 0;
    loop {
        for seen in fitting {
            let event = Event::default().event("transition").data(seen.json());
            if sender.send(Ok(event)).await.is_err() {
                return;
            }
        }
        if skipped > 0 {
            api.metrics.stream_skipped(skipped);
            let event = Event::default().event("skipped").data(format!("{{\"count\":{skipped}}}"));
            if sender.send(Ok(event)).await.is_err() {
                return;
            }
        }
        tokio::select! {
            () = api.stop.cancelled() => return,
            () = sender.closed() => return,
            _ = pace.tick() => {}
        }
        (fitting, skipped) = api.live.fresh(&filter, &mut next, BURST_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn committed(user: &str, to: &str) -> CommittedTransition {
        let json =
            format!("{{\"id\":\"{user}:1\",\"from\":null,\"to\":{to},\"kind\":\"entered\",\"reason\":\"activity\"}}");
        CommittedTransition { user_id: user.into(), json: json.into() }
    }

    fn push(live: &Live, user: &str, to: &str) {
        live.take(Taken { transitions: [Arc::new(committed(user, to))].into(), missed: 0 });
    }

    fn only(user: &str) -> Filter {
        Filter { user: Some(user.to_owned()), ..Filter::default() }
    }

    #[test]
    fn a_flood_is_bounded_in_memory_and_in_what_a_stream_sends() {
        let live = Live::default();
        let mut next = 0;
        live.fresh(&Filter::default(), &mut next, BURST_MAX);
        for n in 0..3 * KEPT_MAX {
            push(&live, &format!("user-{n}"), "\"active\"");
        }
        assert_eq!(live.read(|latest| latest.kept.len()), KEPT_MAX);
        let (sent, skipped) = live.fresh(&Filter::default(), &mut next, BURST_MAX);
        assert_eq!(sent.len(), BURST_MAX);
        assert_eq!(skipped, (3 * KEPT_MAX - BURST_MAX) as u64);
        assert_eq!(live.fresh(&Filter::default(), &mut next, BURST_MAX).0.len(), 0, "nothing is sent twice");
    }

    #[test]
    fn large_records_are_bounded_by_their_bytes() {
        let live = Live::default();
        let user = "u".repeat(8 << 10);
        for _ in 0..KEPT_MAX {
            push(&live, &user, "\"active\"");
        }
        live.read(|latest| {
            assert!(latest.bytes <= KEPT_BYTES_MAX && latest.kept.len() < KEPT_MAX, "{}", latest.bytes);
            assert_eq!(latest.bytes, latest.kept.iter().map(|(_, seen)| seen.len_bytes()).sum::<usize>());
        });
    }

    #[test]
    fn a_filter_takes_what_fits_and_counts_nothing_else_as_left_out() {
        let live = Live::default();
        push(&live, "ann", "\"active\"");
        push(&live, "bob", "\"active\"");
        push(&live, "ann", "null");
        let (sent, skipped) = live.fresh(&only("ann"), &mut 0, BURST_MAX);
        assert_eq!((sent.len(), skipped), (2, 0));
        let gone = Filter { state: Some("none".to_owned()), ..only("ann") };
        assert_eq!(live.fresh(&gone, &mut 0, BURST_MAX).0.len(), 1);
        assert_eq!(live.of_user("ann").len(), 2);
    }

    #[test]
    fn what_the_feed_lost_is_left_out_and_nothing_comes_twice() {
        let live = Live::default();
        push(&live, "ann", "\"active\"");
        let mut next = 0;
        live.fresh(&Filter::default(), &mut next, BURST_MAX);
        live.take(Taken { missed: 100, ..Taken::default() });
        push(&live, "bob", "\"active\"");
        let (sent, skipped) = live.fresh(&Filter::default(), &mut next, BURST_MAX);
        assert_eq!((sent.len(), skipped), (1, 100));
    }

    #[test]
    fn a_filter_that_can_never_match_is_refused() {
        let wrong = Filter { state: Some("lapse".to_owned()), ..Filter::default() };
        let problem = wrong.check().expect_err("no such state");
        assert!(problem.detail.contains("lapsed"), "{}", problem.detail);
        assert!(Filter { kind: Some("entered".to_owned()), ..Filter::default() }.check().is_ok());
    }
}

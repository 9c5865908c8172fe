//! Many open consoles at once, as the instance sees them: streams of transitions, and the page's questions at its pace.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

/// What a page asks for, over and over; src/http/console/console.js says how often.
const QUESTIONS: [&str; 4] = ["v1/cohorts", "v1/cohorts/history?period=all", "v1/flows?period=all", "v1/shards"];
/// A little faster than the page, which asks for each at 3, 10, 8 and 5 seconds: 76 requests in 100 seconds.
const EVERY: Duration = Duration::from_millis(1_300);

/// Open pages, until dropped.
pub(crate) struct Onlookers {
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
    seen: Arc<Vec<AtomicU64>>,
    answered: Arc<AtomicU64>,
    began: Instant,
}

impl Onlookers {
    /// Opens `count` pages of the instance at `url`.
    pub(crate) fn open(url: &str, count: usize) -> Self {
        let stop = CancellationToken::new();
        let seen: Arc<Vec<AtomicU64>> = Arc::new((0..count).map(|_| AtomicU64::new(0)).collect());
        let answered = Arc::new(AtomicU64::new(0));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let all = {
            let (stop, seen, answered, url) = (stop.clone(), Arc::clone(&seen), Arc::clone(&answered), url.to_owned());
            async move {
                let mut pages = tokio::task::JoinSet::new();
                for number in 0..count {
                    pages.spawn(stream(url.clone(), Arc::clone(&seen), number));
                    pages.spawn(questions(url.clone(), Arc::clone(&answered), number, count));
                }
                // Nothing ends by itself: a page whose stream breaks fails the test.
                tokio::select! {
                    () = stop.cancelled() => {}
                    Some(ended) = pages.join_next() => panic!("a page has ended: {ended:?}"),
                }
            }
        };
        let thread = std::thread::spawn(move || runtime.block_on(all));
        Self { stop, thread: Some(thread), seen, answered, began: Instant::now() }
    }

    /// The most transitions that a page was shown in a second, and the least; and the answers a second of all pages.
    pub(crate) fn rates(&self) -> (f64, f64, f64) {
        let seconds = self.began.elapsed().as_secs_f64();
        let counts =
            self.seen.iter().map(|count| f64::from(u32::try_from(count.load(Ordering::Relaxed)).expect("few")));
        let (most, least) = counts.fold((0.0_f64, f64::MAX), |(most, least), n| (most.max(n), least.min(n)));
        let answered = f64::from(u32::try_from(self.answered.load(Ordering::Relaxed)).expect("few"));
        (most / seconds, least / seconds, answered / seconds)
    }
}

impl Drop for Onlookers {
    fn drop(&mut self) {
        self.stop.cancel();
        let ended = self.thread.take().expect("it runs").join();
        assert!(ended.is_ok() || std::thread::panicking(), "a page ended early");
    }
}

async fn stream(url: String, seen: Arc<Vec<AtomicU64>>, number: usize) {
    let answer = reqwest::get(format!("{url}v1/transitions")).await.and_then(reqwest::Response::error_for_status);
    let mut answer = answer.expect("a stream");
    while let Some(chunk) = answer.chunk().await.expect("the stream goes on") {
        let events = chunk.windows(18).filter(|window| window == b"event: transition\n").count() as u64;
        seen[number].fetch_add(events, Ordering::Relaxed);
    }
}

async fn questions(url: String, answered: Arc<AtomicU64>, number: usize, count: usize) {
    let client = reqwest::Client::new();
    let share = u32::try_from(number).expect("few") * 1_000 / u32::try_from(count).expect("few");
    tokio::time::sleep(EVERY * share / 1_000).await;
    let mut pace = tokio::time::interval(EVERY);
    for question in QUESTIONS.iter().cycle().skip(number % QUESTIONS.len()) {
        pace.tick().await;
        let request = client.get(format!("{url}{question}")).header("accept-encoding", "gzip");
        let answer = request.send().await.and_then(reqwest::Response::error_for_status).expect("an answer");
        answer.bytes().await.expect("the whole answer");
        answered.fetch_add(1, Ordering::Relaxed);
    }
}

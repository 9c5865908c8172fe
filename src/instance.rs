//! One process of Ebbtide: the workers and the HTTP server over the same status, metrics and state. What `run` and
//! `demo` start.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::error::KafkaError;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::clock::Clock;
use crate::config::Config;
use crate::http;
use crate::kafka::deletions::DeletionProducer;
use crate::kafka::group::GroupDirectory;
use crate::kafka::{self, Parts, RunError, Status, TransitionFeed, step};
use crate::metrics::Metrics;
use crate::rules::Rules;
use crate::state_folder;
use crate::store::StoreError;

/// Stopping may take so long; then the process had better end as it stands, which loses nothing.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// Open answers of the HTTP server get so long after the workers have ended.
const HTTP_TIMEOUT: Duration = Duration::from_secs(1);

/// Workers and HTTP server, running.
pub struct Instance {
    /// Where the HTTP server listens.
    pub address: SocketAddr,
    /// What the workers hold.
    pub status: Arc<Status>,
    /// What happened, counted.
    pub metrics: Arc<Metrics>,
    /// Committed transitions as they happen.
    pub feed: TransitionFeed,
    http: JoinHandle<()>,
    workers: JoinHandle<Result<(), RunError>>,
}

/// Why an instance could not start, or ended otherwise than by being asked to.
#[derive(Debug, thiserror::Error)]
pub enum InstanceError {
    /// The state folder cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Two metrics of one name: a mistake in this program.
    #[error("the metrics could not be set up: {0}")]
    Metrics(#[from] prometheus::Error),
    /// librdkafka does not take the configuration.
    #[error("a Kafka client could not be made: {0}; look at [kafka] in the configuration")]
    Client(#[from] KafkaError),
    /// The listener is not usable.
    #[error("the HTTP listener cannot be used: {0}")]
    Listener(#[from] std::io::Error),
    /// The workers could not go on.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The workers' thread ended without an answer.
    #[error("the workers' thread ended early: {0}")]
    Thread(tokio::task::JoinError),
    /// The workers were asked to stop and did not in time. Ending the process as it stands loses nothing.
    #[error("the workers did not stop within {} s", STOP_TIMEOUT.as_secs())]
    Stuck,
}

impl Instance {
    /// Starts the HTTP server on `listener`, and the workers. `shutdown` stops both; it is also cancelled when a worker
    /// cannot go on.
    ///
    /// # Errors
    /// The state folder or the Kafka settings cannot be used. That brokers do not answer is no error yet.
    pub fn start(
        config: Config,
        rules: Arc<Rules>,
        clock: Arc<dyn Clock>,
        listener: TcpListener,
        shutdown: &CancellationToken,
    ) -> Result<Self, InstanceError> {
        Self::start_watched(config, rules, clock, listener, shutdown, step::unwatched)
    }

    /// The same with somebody who is told each step of the workers: for tests.
    ///
    /// # Errors
    /// As above.
    pub fn start_watched(
        mut config: Config,
        rules: Arc<Rules>,
        clock: Arc<dyn Clock>,
        listener: TcpListener,
        shutdown: &CancellationToken,
        watcher: step::Watcher,
    ) -> Result<Self, InstanceError> {
        let database = state_folder::open(&config.state.dir, config.state.memory)?;
        let metrics = Arc::new(Metrics::new()?);
        let status = Arc::new(Status::new(config.instance_id.clone(), config.workers, clock.now()));
        let feed = TransitionFeed::new();
        let address = listener.local_addr()?;
        if config.http.advertised.is_none() {
            config.http.advertised = reached_at(address);
        }
        info!(%address, instance = %config.instance_id, workers = config.workers, "starting");
        let http_parts = http::Parts {
            metrics: Arc::clone(&metrics),
            status: Arc::clone(&status),
            database: Arc::clone(&database),
            feed: feed.clone(),
            clock: Arc::clone(&clock),
            rules: Arc::clone(&rules),
            deletions: Arc::new(DeletionProducer::new(&config)?),
            token: config.http.token.as_ref().map(|token| token.expose().to_owned()),
            directory: Arc::new(GroupDirectory::new(&config)),
            advertised: config.http.advertised.clone(),
        };
        let http = tokio::spawn(http::serve::serve(listener, http_parts, shutdown.clone()));
        let parts = Parts {
            metrics: Arc::clone(&metrics),
            status: Arc::clone(&status),
            database,
            feed: feed.clone(),
            clock,
            watcher,
        };
        let stop = shutdown.clone();
        let workers = tokio::task::spawn_blocking(move || {
            let _stopped = stop.clone().drop_guard();
            kafka::run(&config, rules, &parts, &stop)
        });
        Ok(Self { address, status, metrics, feed, http, workers })
    }

    /// Waits until everything has ended, which `shutdown` asks for.
    ///
    /// # Errors
    /// The workers could not go on, or did not end in time: see [`InstanceError::Stuck`].
    pub async fn ended(self, shutdown: &CancellationToken) -> Result<(), InstanceError> {
        shutdown.cancelled().await;
        let Ok(ended) = tokio::time::timeout(STOP_TIMEOUT, self.workers).await else {
            return Err(InstanceError::Stuck);
        };
        // Answers under way had their time while the workers stopped.
        let _ = tokio::time::timeout(HTTP_TIMEOUT, self.http).await;
        Ok(ended.map_err(InstanceError::Thread)??)
    }
}

/// Where others reach a server that is bound to `address`: `None` if it is bound to every address of the machine, of
/// which none can be told from here.
fn reached_at(address: SocketAddr) -> Option<String> {
    (!address.ip().is_unspecified()).then(|| format!("http://{address}"))
}

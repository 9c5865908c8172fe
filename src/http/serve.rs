//! Accepting connections: bounded in number, each bounded in how long its request may take to arrive.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::http::{Api, Parts, router};

/// Connections at the same time; more wait in the listener's queue.
const CONNECTIONS_MAX: usize = 1024;
/// How long a request's head may take to arrive; also how long an idle connection is kept.
const HEAD_WITHIN: Duration = Duration::from_secs(30);
/// How long answers under way may take after the stop.
const CLOSE_WITHIN: Duration = Duration::from_secs(3);
/// Pause after a failed accept, which means too many open files: another try at once would fail too.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Serves until `stop`, then ends streams, finishes answers under way and returns within [`CLOSE_WITHIN`].
pub async fn serve(listener: TcpListener, parts: Parts, stop: CancellationToken) {
    let address = match listener.local_addr() {
        Ok(address) => address,
        Err(error) => {
            tracing::error!(%error, "the HTTP listener has no address; nothing is served");
            return;
        }
    };
    let api = Api::new(parts, address, stop.clone());
    listen(listener, api, stop).await;
}

pub(super) async fn listen(listener: TcpListener, api: Arc<Api>, stop: CancellationToken) {
    let mut tasks = JoinSet::new();
    tasks.spawn(Arc::clone(&api).observe());
    accept(&listener, &router(api), &stop, &mut tasks).await;
    drop(listener);
    let closing = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(CLOSE_WITHIN, closing).await.is_err() {
        tracing::warn!("some connections did not end in time and were cut off");
    }
}

async fn accept(listener: &TcpListener, router: &Router, stop: &CancellationToken, tasks: &mut JoinSet<()>) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = async {
            let permit = Arc::clone(&permits).acquire_owned().await;
            (permit, listener.accept().await)
        };
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = accepted => accepted,
        };
        while tasks.try_join_next().is_some() {}
        match accepted {
            (Ok(permit), Ok((stream, _))) => {
                tasks.spawn(connection(stream, router.clone(), stop.clone(), permit));
            }
            (_, Err(error)) => {
                tracing::warn!(%error, "a connection could not be accepted");
                // Files are given back by connections that end, which nobody here is told of.
                tokio::time::sleep(ACCEPT_AGAIN).await;
            }
            (Err(_), _) => return,
        }
    }
}

async fn connection(stream: TcpStream, router: Router, stop: CancellationToken, _permit: OwnedSemaphorePermit) {
    let mut builder = Builder::new(TokioExecutor::new()).http1_only();
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN);
    let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error, "a connection ended early");
    }
}

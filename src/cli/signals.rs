//! What asks a running command to stop.

use std::path::PathBuf;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::info;

/// Follows SIGTERM and SIGINT: the first asks to stop, the second ends the process at once, less `scratch`, a folder that
/// goes with it.
pub(super) async fn watch(shutdown: CancellationToken, scratch: Option<PathBuf>) -> std::io::Result<()> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut asked = false;
    loop {
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        if std::mem::replace(&mut asked, true) {
            if let Some(folder) = scratch {
                // Nobody is left to be told of an error.
                let _ = std::fs::remove_dir_all(folder);
            }
            std::process::exit(1);
        }
        info!("stopping");
        shutdown.cancel();
    }
}

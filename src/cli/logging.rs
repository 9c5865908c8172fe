//! The log: to standard error, as `[log]` says, above whatever bars are there.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use super::screen::Screen;
use crate::config::{LogConfig, LogFormat};
use crate::kafka::PROGRESS_TARGET;

/// Starts the log for this process; a second call changes nothing.
pub fn start(config: &LogConfig, screen: &Screen) {
    let mut filter = EnvFilter::try_new(&config.level).unwrap_or_else(|_| EnvFilter::new("info"));
    if screen.is_terminal() {
        // A bar shows it.
        let quiet = format!("{PROGRESS_TARGET}={}", LevelFilter::OFF).parse();
        filter = quiet.into_iter().fold(filter, EnvFilter::add_directive);
    }
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(screen.clone());
    // An error says that somebody has set up a log already: then theirs is meant.
    let _ = match config.format {
        LogFormat::Text => builder.with_ansi(screen.is_terminal()).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
}

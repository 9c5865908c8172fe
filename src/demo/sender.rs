//! The crowd's events into the topic, each when the demo's clock reaches its time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::generate::crowd::Crowd;
use crate::generate::topic::{TopicError, TopicWriter};

/// How often the clock is looked at; also how soon a shut-down is seen.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Sends until `shutdown`, counting in `sent`. Blocks: it belongs on a thread of its own.
///
/// # Errors
/// The brokers refuse an event, or do not answer for it.
pub fn play(
    mut crowd: Crowd,
    mut writer: TopicWriter,
    clock: &dyn Clock,
    sent: &AtomicU64,
    shutdown: &CancellationToken,
) -> Result<(), TopicError> {
    while !shutdown.is_cancelled() {
        for event in crowd.next_day() {
            while clock.now().as_event_time() < event.time {
                if shutdown.is_cancelled() {
                    return Ok(());
                }
                writer.serve();
                thread::park_timeout(LOOK_EVERY);
            }
            writer.send(&event)?;
            sent.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(())
}

//! The Kafka edge: workers that carry records in and effects out, exactly once (SPEC section 7).

pub mod client;
pub mod deletions;
pub mod feed;
pub mod status;

pub use feed::{CommittedTransition, TransitionFeed};
pub use status::{Phase, ShardStatus, Status};

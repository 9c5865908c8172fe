//! Ebbtide: a real-time user-lifecycle engine. User-activity events in a Kafka topic, lifecycle transitions out.

pub mod clock;
pub mod config;
pub mod event;
pub mod http;
pub mod kafka;
pub mod generate;
pub mod lifecycle;
pub mod metrics;
pub mod rules;
pub mod shard;
pub mod store;
pub mod time;
pub mod timer;
pub mod cli;
pub mod replay;

//! Ebbtide: a real-time user-lifecycle engine. User-activity events in a Kafka topic, lifecycle transitions out.

pub mod clock;
pub mod config;
pub mod event;
pub mod generate;

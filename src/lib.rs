//! Ebbtide: a real-time user-lifecycle engine. User-activity events in a Kafka topic, lifecycle transitions out.

pub mod calibrate;
pub mod cli;
pub mod clock;
pub mod config;
pub mod demo;
pub mod event;
pub mod export;
pub mod generate;
pub mod http;
pub mod instance;
pub mod kafka;
pub mod lifecycle;
pub mod metrics;
pub mod person;
pub mod replay;
pub mod retention;
pub mod rules;
pub mod segment;
pub mod shard;
pub mod signals;
pub mod state_folder;
pub mod store;
pub mod time;
pub mod timer;
pub mod win_back;

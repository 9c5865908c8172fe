//! What the integration tests share: a real broker, the naive model, and comparisons that explain themselves.

#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(clippy::print_stderr, reason = "seeds and logs of a failing test are for the person who runs it")]

pub(crate) mod avro;
pub(crate) mod backlog;
pub(crate) mod browser;
pub(crate) mod cases;
pub(crate) mod cluster;
pub(crate) mod compare;
pub(crate) mod flow;
pub(crate) mod instance;
pub(crate) mod kafka;
pub(crate) mod measured;
pub(crate) mod model;
pub(crate) mod network;
pub(crate) mod onlookers;
pub(crate) mod operator;
pub(crate) mod rig;
pub(crate) mod scene;
pub(crate) mod schema;

/// A new seed for a test that meets another moment each time anyhow; `EBBTIDE_SEED=n` fixes it.
pub(crate) fn seed(what: &str) -> u64 {
    let fixed = std::env::var("EBBTIDE_SEED").ok().map(|text| text.parse().expect("a number"));
    let seed = fixed.unwrap_or_else(rand::random);
    eprintln!("{what}: seed {seed}");
    seed
}

//! What the integration tests share: a real broker, the naive model, and comparisons that explain themselves.

pub(crate) mod cases;
pub(crate) mod compare;
pub(crate) mod kafka;
pub(crate) mod model;

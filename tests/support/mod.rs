//! What the integration tests share: a real broker, the naive model, and comparisons that explain themselves.

pub(crate) mod cases;
pub(crate) mod compare;
pub(crate) mod flow;
pub(crate) mod instance;
pub(crate) mod kafka;
pub(crate) mod model;
pub(crate) mod rig;
pub(crate) mod schema;

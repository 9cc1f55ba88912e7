//! Jobs: the spec, the runner and its observation.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod metrics;
pub mod run;
pub mod spec;

//! Jobs: the spec, the runner and its observation.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod epoch;
pub mod metrics;
pub mod run;
pub mod simulate;
pub mod spec;

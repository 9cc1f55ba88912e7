//! Jobs: the spec, the runner and its observation; what a spec could say of a topic; SQL against topics.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod dead_letters;
mod epoch;
pub mod infer;
pub mod metrics;
pub mod run;
pub mod schedule;
pub mod simulate;
pub mod spec;
pub mod sql;

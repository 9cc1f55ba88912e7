//! Whole-program tests.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test that cannot go on has failed; it waits by the clock"
)]

mod cli;
mod dead_letters;
mod epochs;
mod explain;
mod fetch_paths;
mod formats;
mod house;
mod jobs;
mod kafka_source;
mod memory;
mod reference;
mod replay;
mod schedule;
mod security;
mod sql;
mod sql_differential;
mod user_functions;

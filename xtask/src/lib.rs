//! What developers and the whole-program tests share, and the commands of `cargo xtask`.
//!
//! - [`kafka`]: a real Apache Kafka for tests and benches
//! - [`registry`]: a real schema registry
//! - [`test`]: everything `./x test` runs, closed by the counts
//! - [`conformance`]: worked examples of the languages against our planner and engine
//! - [`torture`]: a job that is killed again and again, against an undisturbed one
//! - [`bench`]: what jobs cost on a real Kafka, against a consumer that decodes nothing
//! - [`rotation`]: certificates that change under a job in full run
//! - [`schedule`]: a scheduled pipeline that is killed, frozen and copied
//! - [`undisturbed`]: what these share: the job, and its rows against those of an undisturbed run
//! - [`paths`]: the two ways to read a topic, against each other
//! - [`faults`]: brokers that are killed, frozen, cut off
//!
//! Nothing here is part of the product: it may use the wall clock, the environment and stdout.
#![cfg_attr(test, allow(clippy::unwrap_used))]
#![allow(clippy::print_stdout, clippy::disallowed_methods, reason = "developer commands, see above")]

pub mod bench;
mod cache;
pub mod clock;
pub mod conformance;
pub mod faults;
mod http;
pub mod kafka;
mod keeper;
pub mod memory;
pub mod paths;
pub mod random;
pub mod registry;
mod repository;
pub mod rotation;
pub mod schedule;
pub mod test;
pub mod torture;
pub mod undisturbed;

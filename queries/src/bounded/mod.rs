//! Bounded questions: SQL over logs as they stand, answered on DataFusion's own executor.
//!
//! ```text
//! text -> Question -(Executor, LogTables)-> Plan: what will be read -> Rows
//! ```
//! A [`Question`] is DataFusion's SQL, not ASA's: ORDER BY, LIMIT, joins, subqueries, window functions. What it reads is
//! behind a [`LogTable`], which whoever knows the connectors implements: partitions of records in the order of their offsets,
//! of which stretches can be read. Conditions on `_partition`, `_offset`, `_timestamp` and `_key` become such stretches
//! ([`bounds`]), and a scan of no column is a count of records, without their payloads.
//!
//! A question about a log that goes on for ever is [`is_continuous`], and a job's.

mod bounds;
mod continuous;
mod error;
mod executor;
mod explain;
mod log;
mod names;
mod newest;
mod question;
mod rows;
mod scan;

pub use bounds::Interval;
pub use continuous::is_continuous;
pub use error::AnswerError;
pub use executor::{Executor, ExecutorOptions, Plan, Reading};
pub use log::{LogPartition, LogTable, Scan, Stretch, Stretches, Wanted};
pub use question::Question;
pub use rows::Rows;

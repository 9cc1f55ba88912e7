//! tidemill's dataflow: event time, windows, state.
//!
//! A [`source::Source`] hands over runs of raw records of one partition. The [`intake::Intake`] decodes them with a
//! [`decoder::Decoder`] into Arrow batches, gives each row its event time and each partition its watermark, and drives a
//! [`dataflow`] of push-based [`operator::Operator`]s. A worker thread owns its partitions from poll to partial window,
//! without locks; one merge thread closes windows over all workers and writes to [`sink::Sink`]s.
//!
//! This crate knows no Kafka, no SQL text, no environment and no wall clock: time is handed in ([`time::Clock`]), so that
//! a whole job can be simulated.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod aggregate;
pub mod analytic;
pub mod any;
pub mod dataflow;
pub mod dead_letter;
pub mod decoder;
pub mod epoch;
pub mod error;
pub mod event_time;
pub mod intake;
mod join;
pub mod operator;
pub mod recognize;
pub mod reference;
pub mod signal;
pub mod sink;
pub mod source;
pub mod time;
pub mod user_code;
pub mod window;

pub use error::{EngineError, ErrorKind, Result};
pub use signal::Signal;
pub use time::{Clock, EventTime, Monotonic};

/// Name of the hidden event-time column that each batch inside a dataflow carries: `Timestamp(Microsecond, "UTC")`,
/// never null.
pub const EVENT_TIME: &str = "__time";

/// Name of the hidden column of a row's place among all rows of the inputs ([`dataflow::order`]); the first of a batch,
/// where there is one.
pub const ORDER: &str = "__order";

/// The Arrow type of every datetime: microseconds, UTC. Nanoseconds would overflow at 2262, and 9999-12-31 is a common
/// sentinel in real data.
#[must_use]
pub fn datetime_type() -> arrow::datatypes::DataType {
    arrow::datatypes::DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, Some("UTC".into()))
}

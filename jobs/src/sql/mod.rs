//! SQL against topics: a [`Session`] over the inputs of a spec, or over a cluster.
//!
//! ```text
//! text -> bounded?  Session::sql -> Answer: what will be read -> rows, on DataFusion's executor
//!      -> windows?  Session::job -> a job that keeps nothing, on the runner
//! ```
//! Called by `tidemill sql`, and by whoever embeds tidemill. A topic is a table: the columns of its payloads, declared or
//! inferred, then `_key`, `_timestamp`, `_partition`, `_offset`, `_headers` (and `_topic`, where an input has several or is of files).
//! A bounded question sees it as it stands when the question is planned. A question that names no column of the payloads sees every
//! record; another one those that can be decoded and have a payload, and the rest are counted ([`Progress`]).

mod columns;
mod error;
mod progress;
mod scan;
mod session;
mod table;
mod write;

pub use error::SqlError;
pub use progress::Progress;
pub use session::{Answer, ColumnDescription, Session, SessionOptions, Source};
pub use tidemill_queries::bounded::{AnswerError, Reading, Rows, is_continuous};
pub use write::{AnswerFormat, AnswerSink, AnswerWriter};

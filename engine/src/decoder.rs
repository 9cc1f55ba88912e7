//! The contract of a decoder: payloads in, columns out, and bad records that harm nobody else.

use arrow::{datatypes::SchemaRef, record_batch::RecordBatch};

use crate::Result;

/// Why a record became a dead letter; a class is a stable word that `dead-letters` and metrics group by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BadClass {
    /// Not well-formed in its format (truncated, not UTF-8, nested too deep, empty).
    Malformed,
    /// Well-formed, but a value does not fit the column's type.
    Type,
    /// Its schema cannot be had, or cannot be read into the columns.
    Schema,
    /// What is needed to read it is away and may come back. No dead letter: the job ends, and reads it again.
    Unavailable,
    /// Its event time is null or cannot be read.
    EventTime,
    /// It came behind the watermark.
    Late,
    /// Its event time lies too far ahead of its arrival.
    Early,
    /// A function of the job failed on it, or on a row made of it and others; then the value is that row as JSON.
    Function,
    /// It made our own code panic.
    Bug,
    /// A row of ours that its output refused; the value is the encoded row.
    Output,
}

impl BadClass {
    /// The word in files, metrics and options.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Type => "type",
            Self::Schema => "schema",
            Self::Unavailable => "unavailable",
            Self::EventTime => "event_time",
            Self::Late => "late",
            Self::Early => "early",
            Self::Function => "function",
            Self::Bug => "bug",
            Self::Output => "output",
        }
    }
}

/// Why one payload gave no rows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct BadRecord {
    /// Its class.
    pub class: BadClass,
    /// What was expected, what was found, at which byte or column.
    pub message: String,
}

/// Turns payloads into rows of a fixed schema. One decoder serves one worker and one input.
pub trait Decoder: Send {
    /// The columns it builds, in order: only those that the query names.
    fn schema(&self) -> SchemaRef;

    /// Appends the rows of one payload (none, one or many) and says how many.
    ///
    /// # Errors
    /// On a bad payload nothing of it stays, and rows of other payloads are untouched.
    fn push(&mut self, payload: &[u8]) -> Result<usize, BadRecord>;

    /// Forgets all but the first `rows` rows since the last flush; puts a decoder in order whose `push` panicked.
    fn truncate(&mut self, rows: usize);

    /// Takes all rows pushed since the last flush.
    fn flush(&mut self) -> Result<RecordBatch>;
}

/// Makes decoders of one input, one for each worker, and a new one after a panic.
pub type DecoderFactory = std::sync::Arc<dyn Fn() -> Box<dyn Decoder> + Send + Sync>;

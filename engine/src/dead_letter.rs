//! The contract of the dead letters: where records go that could not become rows, with everything needed to replay them.

use arrow::record_batch::RecordBatch;

use crate::{Result, decoder::BadClass, source::Header};

/// One bad record, as it lies in the fetch buffer, and what was wrong with it.
#[derive(Clone, Copy, Debug)]
pub struct DeadLetter<'a> {
    /// Name of the input in the spec.
    pub input: &'a str,
    /// Its topic; a file's path.
    pub topic: &'a str,
    /// Its partition; 0 for a file.
    pub partition: i32,
    /// Its position in the partition; a file's line, from 0.
    pub offset: i64,
    /// Milliseconds since the epoch, as the source has them.
    pub timestamp_ms: i64,
    /// Key, if any.
    pub key: Option<&'a [u8]>,
    /// Payload; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// Headers, if the source was opened with them.
    pub headers: &'a [Header<'a>],
    /// Why it is here.
    pub class: BadClass,
    /// What was expected, what was found, at which byte or column.
    pub message: &'a str,
    /// Of how many epochs of an earlier run its record is part ([`crate::epoch::Resume::covering`]).
    pub covering: u8,
}

/// Takes bad records, behind a lock of its owner. What it does not keep itself goes with the rows to the merge thread, as rows of an
/// output: so each letter is part of the epoch of its record.
pub trait DeadLetters: Send {
    /// Takes one record; may buffer it.
    ///
    /// # Errors
    /// [`crate::EngineError::Sink`]: a record that cannot be kept must stop the job, or it would be lost.
    fn put(&mut self, letter: &DeadLetter<'_>) -> Result<()>;

    /// The letters put since the last call as rows for the output of dead letters; none of one that keeps them itself.
    fn take(&mut self) -> Vec<RecordBatch> {
        vec![]
    }
}

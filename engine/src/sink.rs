//! The contract of a sink.

use arrow::record_batch::RecordBatch;

use crate::Result;

/// Takes the rows of one output. Called from one thread.
pub trait Sink: Send {
    /// Takes rows, without the event-time column; may buffer them, and waits when it cannot take more.
    ///
    /// # Errors
    /// [`crate::EngineError::Sink`] for rows that it cannot deliver under its policy.
    fn write(&mut self, batch: &RecordBatch) -> Result<()>;

    /// Returns when every row written so far is safe: acknowledged, or on disk under its final name.
    fn flush(&mut self) -> Result<()>;

    /// Lets time-driven work happen (rolling a file, serving delivery reports); called at least each 20 ms while nothing blocks.
    fn tick(&mut self) -> Result<()> {
        Ok(())
    }

    /// Flushes and releases everything; nothing is written afterwards.
    fn close(&mut self) -> Result<()>;
}

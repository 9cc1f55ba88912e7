//! The contract of a sink.

use arrow::record_batch::RecordBatch;

use crate::{Result, signal::EpochId};

/// Takes the rows of one output. Called from one thread.
pub trait Sink: Send {
    /// Takes rows, without the event-time column; may buffer them, and waits when it cannot take more.
    ///
    /// # Errors
    /// [`crate::EngineError::Sink`] for rows that it cannot deliver under its policy.
    fn write(&mut self, batch: &RecordBatch) -> Result<()>;

    /// Returns when every row written so far is safe: acknowledged, or on disk under its final name.
    fn flush(&mut self) -> Result<()>;

    /// Makes every row written so far part of an epoch and safe; a sink that can hold rows back shows none of them yet.
    ///
    /// # Errors
    /// As [`Sink::flush`].
    fn prepare(&mut self, _epoch: EpochId) -> Result<()> {
        self.flush()
    }

    /// The last epoch that was prepared is committed: its rows become visible.
    ///
    /// # Errors
    /// As [`Sink::flush`]. The next start of the job publishes what was prepared.
    fn publish(&mut self) -> Result<()> {
        Ok(())
    }

    /// Lets time-driven work happen (rolling a file, serving delivery reports); called at least each 20 ms while nothing blocks.
    fn tick(&mut self) -> Result<()> {
        Ok(())
    }

    /// Flushes and releases everything; nothing is written afterwards.
    fn close(&mut self) -> Result<()>;
}

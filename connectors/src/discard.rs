//! The `discard` output: counts rows and forgets them; for benches.

use arrow::record_batch::RecordBatch;
use tidemill_engine::{Result, sink::Sink};

/// Takes everything.
#[derive(Debug, Default)]
pub struct DiscardSink {
    rows: u64,
}

impl DiscardSink {
    /// Rows taken so far.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows
    }
}

impl Sink for DiscardSink {
    fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        self.rows += batch.num_rows() as u64;
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        Ok(())
    }
}

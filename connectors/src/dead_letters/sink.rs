//! The output of dead letters.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use arrow::record_batch::RecordBatch;
use tidemill_engine::{Result, dead_letter::DeadLetters, signal::EpochId, sink::Sink};

/// Writes letters to an ordinary sink: those that come with the rows of workers, and those that concern no worker (a row that an
/// output refused, a record of reference data), which any thread may put. These become part of the epoch under way; so the outputs
/// must be prepared before this one.
pub struct LetterSink {
    inner: Box<dyn Sink>,
    aside: Arc<Mutex<dyn DeadLetters>>,
    letters: Arc<AtomicU64>,
}

impl LetterSink {
    /// Over a sink of letters, which counts them.
    #[must_use]
    pub fn new(inner: Box<dyn Sink>, aside: Arc<Mutex<dyn DeadLetters>>, letters: Arc<AtomicU64>) -> Self {
        Self { inner, aside, letters }
    }

    fn write_aside(&mut self) -> Result<()> {
        let aside = self.aside.lock().unwrap_or_else(PoisonError::into_inner).take();
        aside.iter().try_for_each(|letters| {
            self.letters.fetch_add(letters.num_rows() as u64, Ordering::Relaxed);
            self.inner.write(letters)
        })
    }
}

impl Sink for LetterSink {
    fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        self.inner.write(batch)
    }

    fn flush(&mut self) -> Result<()> {
        self.write_aside()?;
        self.inner.flush()
    }

    fn prepare(&mut self, epoch: EpochId) -> Result<()> {
        self.write_aside()?;
        self.inner.prepare(epoch)
    }

    fn publish(&mut self) -> Result<()> {
        self.inner.publish()
    }

    fn tick(&mut self) -> Result<()> {
        self.write_aside()?;
        self.inner.tick()
    }

    fn close(&mut self) -> Result<()> {
        self.write_aside()?;
        self.inner.close()
    }
}

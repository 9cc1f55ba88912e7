//! The rows of an answer, as they come.

use std::{
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arrow::{datatypes::SchemaRef, record_batch::RecordBatch};
use datafusion::execution::SendableRecordBatchStream;
use tokio::{runtime::Runtime, time::timeout};

use super::error::AnswerError;

/// How soon a stop is noticed.
const TICK: Duration = Duration::from_millis(50);

/// Batches of an answer. Dropping it ends the reading.
pub struct Rows {
    schema: SchemaRef,
    source: Source,
    stop: Arc<AtomicBool>,
}

enum Source {
    Stream(SendableRecordBatchStream, Arc<Runtime>),
    Ready(Option<RecordBatch>),
}

impl Rows {
    pub(super) fn of_stream(stream: SendableRecordBatchStream, runtime: Arc<Runtime>, stop: Arc<AtomicBool>) -> Self {
        Self { schema: stream.schema(), source: Source::Stream(stream, runtime), stop }
    }

    pub(super) fn of_batch(batch: RecordBatch) -> Self {
        Self { schema: batch.schema(), source: Source::Ready(Some(batch)), stop: Arc::default() }
    }

    /// The columns.
    #[must_use]
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
}

impl Iterator for Rows {
    type Item = Result<RecordBatch, AnswerError>;

    fn next(&mut self) -> Option<Self::Item> {
        let (stream, runtime) = match &mut self.source {
            Source::Ready(batch) => return batch.take().map(Ok),
            Source::Stream(stream, runtime) => (stream, runtime),
        };
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return Some(Err(AnswerError::Interrupted));
            }
            let next = poll_fn(|context| stream.as_mut().poll_next(context));
            if let Ok(batch) = runtime.block_on(async { timeout(TICK, next).await }) {
                return batch.map(|batch| batch.map_err(AnswerError::of_rows));
            }
        }
    }
}

//! The contract of an operator: synchronous, push-based, called by a driver that owns it.

use std::sync::Arc;

use arrow::{array::ArrayRef, record_batch::RecordBatch};
use datafusion_physical_expr::PhysicalExpr;

use crate::{EventTime, Result, user_code::FailedRow};

/// Collects what an operator emits, in order. Epochs and the end are passed on by the driver.
pub trait Emit {
    /// Rows, each with its event time in [`crate::EVENT_TIME`].
    fn batch(&mut self, batch: RecordBatch) -> Result<()>;
    /// A promise: no later row is below `t`.
    fn watermark(&mut self, t: EventTime) -> Result<()>;
    /// A row that goes no further: user code failed on it.
    fn failed(&mut self, row: FailedRow) -> Result<()>;
    /// The operator takes so many bytes beside what it keeps, until this call is over.
    ///
    /// # Errors
    /// [`crate::EngineError::OutOfMemory`] when they are not there.
    fn takes(&mut self, _bytes: usize) -> Result<()> {
        Ok(())
    }
}

/// Rows that are made where they are taken: a worker goes on to read meanwhile.
pub type Sealed = Box<dyn FnOnce() -> Result<RecordBatch> + Send>;

/// One step of a dataflow. `port` numbers its inputs from 0.
///
/// A driver calls it from one thread. At the end of an input it gets `on_watermark(EventTime::MAX)`, which closes every
/// window. An operator emits its own watermark: usually the one it got, after the rows that it releases.
pub trait Operator: Send {
    /// Takes rows. Results depend on the rows alone, never on how they are cut into batches.
    fn on_batch(&mut self, port: usize, batch: RecordBatch, out: &mut dyn Emit) -> Result<()>;

    /// Takes a watermark, which never goes back on a port.
    fn on_watermark(&mut self, port: usize, t: EventTime, out: &mut dyn Emit) -> Result<()>;

    /// State as Arrow batches, each with a schema of the operator's choosing; none for a stateless operator. The operator
    /// goes on afterwards as if nothing had happened (DataFusion's `Accumulator::state` may consume what it reports:
    /// put it back).
    fn snapshot(&mut self) -> Result<Vec<RecordBatch>>;

    /// Puts a snapshot into a new operator of the same plan.
    ///
    /// # Errors
    /// [`crate::EngineError::State`] when the batches are not this operator's.
    fn restore(&mut self, state: Vec<RecordBatch>) -> Result<()>;

    /// Gives away what it holds, for its node in the merge half, and keeps nothing: called in a worker's half before a snapshot, whose
    /// state is then the merge half's alone and fits any number of workers. For an operator that a worker's half runs and that
    /// has state.
    fn seal(&mut self) -> Vec<Sealed> {
        vec![]
    }

    /// The bytes that it keeps between signals, by an estimate that costs little: it is asked after each.
    fn held_bytes(&self) -> usize {
        0
    }

    /// Whether each row that it emits is made of one row that it takes, at once: rows of records that were read before are then
    /// known as such behind it. An operator with state puts out rows by event time, strictly below its watermark, instead.
    fn passes_rows_on(&self) -> bool {
        false
    }
}

/// An operator that keeps nothing between batches and puts no row before its own watermark.
pub(crate) trait Stateless: Send {
    /// As [`Operator::on_batch`].
    fn rows(&mut self, batch: RecordBatch, out: &mut dyn Emit) -> Result<()>;
}

impl<T: Stateless> Operator for T {
    fn on_batch(&mut self, _port: usize, batch: RecordBatch, out: &mut dyn Emit) -> Result<()> {
        self.rows(batch, out)
    }

    fn on_watermark(&mut self, _port: usize, t: EventTime, out: &mut dyn Emit) -> Result<()> {
        out.watermark(t)
    }

    fn passes_rows_on(&self) -> bool {
        true
    }

    fn snapshot(&mut self) -> Result<Vec<RecordBatch>> {
        Ok(vec![])
    }

    fn restore(&mut self, state: Vec<RecordBatch>) -> Result<()> {
        if state.is_empty() {
            return Ok(());
        }
        let message = format!("{} batches for an operator without state", state.len());
        Err(crate::EngineError::State { operator: "stateless".to_owned(), message })
    }
}

/// Evaluates an expression on a batch to an array of its length.
///
/// # Errors
/// [`crate::EngineError::Evaluate`] when a value cannot be computed, e.g. a CAST that fails.
pub(crate) fn evaluate(expression: &Arc<dyn PhysicalExpr>, batch: &RecordBatch) -> Result<ArrayRef> {
    expression
        .evaluate(batch)
        .and_then(|value| value.into_array(batch.num_rows()))
        .map_err(|source| crate::EngineError::Evaluate { expression: expression.to_string(), source })
}
